"""What is solved: moduli on a voxel grid, prescribed displacements and forces at nodes, and their file format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fea.errors import Reason, SolveError
from fea.materials import Orthotropy

FloatOrArray = float | np.ndarray

# what float32 has room for, with stiffnesses and their inverses on every grid
_MODULI_MPA = (1e-20, 1e36)
_EDGES_MM = (1e-9, 1e9)


@dataclass(frozen=True, eq=False)
class VoxelModel:
    """Linear elastic voxels, each one trilinear 8-node hexahedron.

    Node (k, j, i) is the voxel corner at (k, j, i) * `spacing_mm`; a model of shape (Z, Y, X) has (Z+1, Y+1, X+1) nodes.

    Parameters
    ----------
    modulus_mpa : float ndarray of shape (Z, Y, X)
        Young's modulus; 0 = void, no element. Kept in float32 (a relative rounding of 6e-8 that is part of the model).
    spacing_mm : sequence of 3 floats
        Voxel edges along (z, y, x).
    poisson : float or ndarray of shape (Z, Y, X)
        Poisson's ratio, one for all voxels or one per voxel, in (-1, 0.5). Values in void voxels are ignored, and so are
        those in orthotropic ones.
    orthotropy : Orthotropy, optional
        One orthotropic law for all voxels but those that it leaves isotropic; `modulus_mpa` scales it. The isotropic ones
        must then have one Poisson's ratio.

    Raises
    ------
    SolveError
        ``bad_shape``, ``bad_modulus``, ``bad_poisson``, ``bad_material_law``, ``bad_spacing`` or ``no_material``.
    """

    modulus_mpa: np.ndarray
    spacing_mm: tuple[float, float, float]
    poisson: FloatOrArray = 0.3
    orthotropy: Orthotropy | None = None
    solid: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.modulus_mpa, np.ma.MaskedArray):
            raise SolveError(Reason.BAD_MODULUS, "the modulus array is masked.", remedy="Fill it, with 0 for void.")
        given = np.asarray(self.modulus_mpa)
        if given.ndim != 3 or min(given.shape) < 1:
            raise SolveError(Reason.BAD_SHAPE, f"the modulus array has shape {given.shape}, not (nz, ny, nx).")
        if not np.issubdtype(given.dtype, np.number) or np.issubdtype(given.dtype, np.complexfloating):
            raise SolveError(Reason.BAD_MODULUS, f"the modulus array is of type {given.dtype}.")
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            modulus = np.array(given, dtype=np.float32, order="C")
        finite = np.isfinite(modulus)
        if not finite.all():
            where = tuple(int(n) for n in np.argwhere(~finite)[0])
            raise SolveError(
                Reason.BAD_MODULUS,
                f"{int((~finite).sum())} voxels have a modulus that is not finite, the first {where}.",
            )
        if modulus.min() < 0:
            where = tuple(int(n) for n in np.unravel_index(int(modulus.argmin()), modulus.shape))
            raise SolveError(Reason.BAD_MODULUS, f"voxel {where} has the negative modulus {modulus.min()} MPa.")
        solid = modulus > 0
        if not solid.any():
            raise SolveError(Reason.NO_MATERIAL, "every voxel is void.")
        if modulus[solid].min() < 1e-30 * modulus.max():
            raise SolveError(
                Reason.BAD_MODULUS,
                f"moduli span from {modulus[solid].min():.3g} to {modulus.max():.3g} MPa.",
                remedy="Set negligible moduli to zero.",
            )
        if not _MODULI_MPA[0] <= float(modulus.max()) <= _MODULI_MPA[1]:
            raise SolveError(
                Reason.BAD_MODULUS, f"the largest modulus is {modulus.max():.3g} MPa, outside {_MODULI_MPA} MPa."
            )
        spacing = tuple(real_numbers(self.spacing_mm, Reason.BAD_SPACING, "the spacing").ravel().tolist())
        if len(spacing) != 3 or not all(_EDGES_MM[0] <= edge <= _EDGES_MM[1] for edge in spacing):
            raise SolveError(Reason.BAD_SPACING, f"spacing {spacing} mm is not three lengths in {_EDGES_MM} mm.")
        poisson: FloatOrArray
        ratio = real_numbers(self.poisson, Reason.BAD_POISSON, "Poisson's ratio")
        if ratio.ndim and ratio.shape != modulus.shape:
            raise SolveError(Reason.BAD_POISSON, f"the Poisson array has shape {ratio.shape}, not {modulus.shape}.")
        law = _placed_law(self.orthotropy, solid)
        isotropic = solid if law is None else np.zeros_like(solid) if law.isotropic is None else solid & law.isotropic
        used = ratio[isotropic] if ratio.ndim else ratio.reshape(1)
        if used.size == 0:
            used = np.zeros(1)
        if not ((used > -1) & (used < 0.5)).all():
            raise SolveError(
                Reason.BAD_POISSON,
                f"Poisson's ratio ranges from {used.min()} to {used.max()}; it must lie in (-1, 0.5).",
            )
        if ratio.ndim and used.max() > used.min():
            poisson = np.array(ratio)
            if law is not None:
                raise SolveError(
                    Reason.BAD_POISSON,
                    f"the isotropic voxels of an orthotropic model have ratios from {used.min()} to {used.max()}; "
                    "they must have one.",
                )
        else:
            poisson = float(used.flat[0])
        object.__setattr__(self, "modulus_mpa", modulus)
        object.__setattr__(self, "spacing_mm", spacing)
        object.__setattr__(self, "poisson", poisson)
        object.__setattr__(self, "orthotropy", law)
        object.__setattr__(self, "solid", solid)

    @property
    def several_laws(self) -> bool:
        """Whether voxels differ by more than their modulus, which costs a second coefficient per voxel."""
        return np.ndim(self.poisson) > 0 or (self.orthotropy is not None and self.orthotropy.isotropic is not None)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along (z, y, x)."""
        nz, ny, nx = self.modulus_mpa.shape
        return nz, ny, nx

    @property
    def node_shape(self) -> tuple[int, int, int]:
        """Number of nodes along (z, y, x)."""
        nz, ny, nx = self.shape
        return nz + 1, ny + 1, nx + 1


def real_numbers(value: object, reason: Reason, what: str) -> np.ndarray:
    """A value as float64.

    Raises
    ------
    SolveError
        With the given reason, if it holds anything but real numbers.
    """
    try:
        array = np.asarray(value)
        if np.issubdtype(array.dtype, np.complexfloating) or isinstance(value, np.ma.MaskedArray):
            raise TypeError
        return array.astype(np.float64)
    except (TypeError, ValueError):
        raise SolveError(reason, f"{what} is not made of real numbers.") from None


def _placed_law(law: Orthotropy | None, solid: np.ndarray) -> Orthotropy | None:
    """The law without what does not matter: None if every voxel is isotropic, no mask if none is."""
    if law is None or law.isotropic is None:
        return law
    if law.isotropic.shape != solid.shape:
        raise SolveError(
            Reason.BAD_MATERIAL_LAW,
            f"the mask of isotropic voxels has shape {law.isotropic.shape}, the model {solid.shape}.",
        )
    if law.isotropic[solid].all():
        return None
    return law if law.isotropic[solid].any() else Orthotropy(law.matrix)


def checked_nodes(name: str, nodes: np.ndarray) -> np.ndarray:
    index = np.asarray(nodes)
    if index.size == 0:
        index = index.reshape(0, 3)
    if index.ndim != 2 or index.shape[1] != 3 or not (index.size == 0 or np.issubdtype(index.dtype, np.integer)):
        raise SolveError(
            Reason.BAD_CONDITION, f"'{name}': nodes must be integers of shape (n, 3), not {index.dtype} {index.shape}."
        )
    return np.ascontiguousarray(index, dtype=np.int64)


def _checked_component(name: str, value: FloatOrArray, count: int) -> np.ndarray:
    array = real_numbers(value, Reason.BAD_CONDITION, f"'{name}': a component")
    if array.ndim > 1 or (array.ndim == 1 and len(array) != count):
        raise SolveError(
            Reason.BAD_CONDITION, f"'{name}': a component has shape {array.shape}; expected a number or ({count},)."
        )
    if not np.isfinite(array).all():
        raise SolveError(Reason.BAD_CONDITION, f"'{name}': a component is not finite.")
    return np.array(np.broadcast_to(array, (count,)))


@dataclass(frozen=True, eq=False)
class Prescribed:
    """Displacements prescribed at a named set of nodes.

    Parameters
    ----------
    name : str
        Under which the reaction is reported.
    nodes : int ndarray of shape (n, 3)
        Node indices (k, j, i). Nodes that touch no solid voxel are ignored.
    z, y, x : float, ndarray of shape (n,), or None
        Displacement in mm; None leaves the component free.
    """

    name: str
    nodes: np.ndarray
    z: FloatOrArray | None = None
    y: FloatOrArray | None = None
    x: FloatOrArray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", checked_nodes(self.name, self.nodes))
        for axis in ("z", "y", "x"):
            value = getattr(self, axis)
            if value is not None:
                object.__setattr__(self, axis, _checked_component(self.name, value, len(self.nodes)))

    def components(self) -> list[tuple[int, np.ndarray]]:
        """The prescribed components as (0 = z, 1 = y, 2 = x; values in mm of shape (n,))."""
        return [(c, np.asarray(v)) for c, v in enumerate((self.z, self.y, self.x)) if v is not None]

    def scaled(self, factor: float) -> Prescribed:
        """The same set with every displacement multiplied by `factor`."""
        values = {
            axis: None if getattr(self, axis) is None else getattr(self, axis) * factor for axis in ("z", "y", "x")
        }
        return Prescribed(self.name, self.nodes, **values)


@dataclass(frozen=True, eq=False)
class NodalForce:
    """Forces applied at nodes.

    Parameters
    ----------
    nodes : int ndarray of shape (n, 3)
        Node indices (k, j, i).
    z, y, x : float or ndarray of shape (n,)
        Force in N at each node (not shared out over them).
    name : str
        Used in error messages.
    """

    nodes: np.ndarray
    z: FloatOrArray = 0.0
    y: FloatOrArray = 0.0
    x: FloatOrArray = 0.0
    name: str = "force"

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", checked_nodes(self.name, self.nodes))
        for axis in ("z", "y", "x"):
            object.__setattr__(self, axis, _checked_component(self.name, getattr(self, axis), len(self.nodes)))


def save_model(
    path: str | Path, model: VoxelModel, prescribed: Sequence[Prescribed], forces: Sequence[NodalForce] = ()
) -> None:
    """Write a model as one ``.npz`` in the exchange format.

    Keys: ``modulus_mpa`` (nz, ny, nx) float32, ``spacing_mm`` (3,), ``poisson`` (scalar or (nz, ny, nx)),
    ``prescribed_index`` (n, 4) int32 (k, j, i, component with 0 = z, 1 = y, 2 = x), ``prescribed_mm`` (n,),
    ``prescribed_set`` (n,) int32 into ``prescribed_names``; where there are forces, ``force_index``, ``force_n``; for an
    orthotropic model ``orthotropy`` (6, 6), stresses (zz, yy, xx, yx, zx, zy) from strains for unit modulus, and, where some
    voxels are not, their mask ``isotropic`` (nz, ny, nx).
    """
    index, value, member = [], [], []
    for number, condition in enumerate(prescribed):
        for component, values in condition.components():
            index.append(np.column_stack([condition.nodes, np.full(len(values), component)]))
            value.append(values)
            member.append(np.full(len(values), number))
    arrays: dict[str, np.ndarray] = {
        "modulus_mpa": model.modulus_mpa,
        "spacing_mm": np.asarray(model.spacing_mm),
        "poisson": np.asarray(model.poisson),
        "prescribed_index": np.concatenate(index or [np.empty((0, 4))]).astype(np.int32),
        "prescribed_mm": np.concatenate(value or [np.empty(0)]).astype(np.float64),
        "prescribed_set": np.concatenate(member or [np.empty(0)]).astype(np.int32),
        "prescribed_names": np.array([condition.name for condition in prescribed], dtype=np.str_),
    }
    if model.orthotropy is not None:
        arrays["orthotropy"] = model.orthotropy.matrix
        if model.orthotropy.isotropic is not None:
            arrays["isotropic"] = model.orthotropy.isotropic
    if forces:
        rows, sizes = [], []
        for force in forces:
            for component, size in enumerate((force.z, force.y, force.x)):
                rows.append(np.column_stack([force.nodes, np.full(len(force.nodes), component)]))
                sizes.append(np.asarray(size))
        arrays["force_index"] = np.concatenate(rows).astype(np.int32)
        arrays["force_n"] = np.concatenate(sizes)
    with Path(path).open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)


def load_model(path: str | Path) -> tuple[VoxelModel, list[Prescribed], list[NodalForce]]:
    """Read a model from the exchange format of `save_model`.

    Files without set names get one `Prescribed` per node plane along z and group of components, named ``plane_<k>``,
    except that the lowest and the highest plane are called ``bottom`` and ``top``.

    Raises
    ------
    SolveError
        ``bad_shape`` if a key is missing or has the wrong shape.
    """
    with np.load(path, allow_pickle=False) as data:
        missing = {"modulus_mpa", "spacing_mm", "poisson", "prescribed_index", "prescribed_mm"} - set(data.files)
        if missing:
            raise SolveError(Reason.BAD_SHAPE, f"the model file lacks {', '.join(sorted(missing))}.")
        poisson = data["poisson"]
        law = None
        if "orthotropy" in data.files:
            law = Orthotropy(data["orthotropy"], data["isotropic"] if "isotropic" in data.files else None)
        ratio = poisson if poisson.ndim else float(poisson)
        model = VoxelModel(data["modulus_mpa"], data["spacing_mm"], ratio, law)
        index, value = data["prescribed_index"].reshape(-1, 4), data["prescribed_mm"].ravel()
        if len(index) != len(value):
            raise SolveError(Reason.BAD_SHAPE, f"{len(index)} prescribed indices but {len(value)} values.")
        if "prescribed_set" in data.files:
            member, names = data["prescribed_set"], [str(name) for name in data["prescribed_names"]]
        else:
            planes, member = np.unique(index[:, 0], return_inverse=True)
            names = [f"plane_{k}" for k in planes]
            if len(planes) > 1:
                names[0], names[-1] = "bottom", "top"
        forces = []
        if "force_index" in data.files:
            rows, sizes = data["force_index"].reshape(-1, 4), data["force_n"].ravel()
            for component, axis in enumerate("zyx"):
                chosen = rows[:, 3] == component
                if chosen.any():
                    forces.append(NodalForce(rows[chosen, :3], **{axis: sizes[chosen]}))
    return model, _grouped(index, value, member, names), forces


def _grouped(index: np.ndarray, value: np.ndarray, member: np.ndarray, names: list[str]) -> list[Prescribed]:
    """One or more `Prescribed` per set: nodes with the same prescribed components go together."""
    conditions = []
    for number, name in enumerate(names):
        rows, values = index[member == number], value[member == number]
        nodes, inverse = np.unique(rows[:, :3], axis=0, return_inverse=True)
        table = np.full((len(nodes), 3), np.nan)
        table[inverse.ravel(), rows[:, 3]] = values
        pattern = np.isfinite(table) @ np.array([1, 2, 4])
        for bits in np.unique(pattern):
            chosen = pattern == bits
            columns = {axis: table[chosen, c] if bits & (1 << c) else None for c, axis in enumerate("zyx")}
            conditions.append(Prescribed(name, nodes[chosen], **columns))
    return conditions
