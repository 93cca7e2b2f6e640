"""The object as a voxel model for a solver, at any voxel size, straight from the analytic description, without an image.

A model travels in the exchange format of the solver (one ``.npz``). The platens are free of friction: the lower plane keeps
its height, the upper one is pressed down by a strain, and one node and a direction of a second hold the rest. A homogeneous
specimen then has the closed-form stiffness ``E A / H``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phantoms.materials import Materials
from phantoms.phantom import Phantom
from phantoms.solids import Solid
from phantoms.truth import SpecimenTruth, Truth, VertebraTruth
from phantoms.voxelise import Lattice, render

POISSON = 0.3
_SHARE_OF_BODY = 0.66  # of the lowest height: the slab of a vertebra between its endplates that a model holds


@dataclass(frozen=True)
class CompressionModel:
    """A voxel model in axial compression between smooth platens.

    Attributes
    ----------
    modulus_mpa : float32 ndarray of shape (nz, ny, nx)
        0 where there is no bone; z runs upwards along the axis of the structure.
    spacing_mm : float
    prescribed_index : int32 ndarray of shape (n, 4)
        Node k, j, i and component (0 = z, 1 = y, 2 = x).
    prescribed_mm : float ndarray of shape (n,)
    shortening_mm : float
        How far the upper plane comes down.
    stiffness_n_mm : float or None
        In closed form, where there is one: homogeneous specimens of which the voxels fill the true cross-section.
    """

    modulus_mpa: NDArray[np.float32]
    spacing_mm: float
    prescribed_index: NDArray[np.int32]
    prescribed_mm: NDArray[np.float64]
    shortening_mm: float
    stiffness_n_mm: float | None

    def save(self, path: Path | str) -> Path:
        """Write in the exchange format."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            target,
            modulus_mpa=self.modulus_mpa,
            spacing_mm=np.full(3, self.spacing_mm),
            poisson=np.array(POISSON),
            prescribed_index=self.prescribed_index,
            prescribed_mm=self.prescribed_mm,
        )
        return target


def modulus_mpa(density_mg_cm3: NDArray[np.float32]) -> NDArray[np.float32]:
    """Young's modulus of vertebral bone, ``-34.7 + 3230 rho`` with rho in g/cm3 (Kopperdahl 2002), at least 1 MPa."""
    return np.asarray(np.maximum(-34.7 + 3.23 * density_mg_cm3, 1.0), np.float32)


def compression_model(
    phantom: Phantom, structure: str, *, voxel_mm: float = 1.0, strain: float = 0.01
) -> CompressionModel:
    """A structure of a phantom as a voxel model in axial compression.

    Parameters
    ----------
    phantom : Phantom
    structure : str
        ``"specimen"`` of a cube or cylinder (the whole of it), or ``"vertebra_L1"`` and so on: a slab of the body of two
        thirds of its lowest height, cut at right angles to its axis, cortex included.
    voxel_mm : float
    strain : float
        Shortening relative to the height.

    Raises
    ------
    ValueError
        If the phantom has no such structure.
    """
    return _model(phantom, _known(phantom), structure, voxel_mm, strain)


def write_models(phantom: Phantom, folder: Path | str, *, voxels_mm: tuple[float, ...] = (2.0, 1.0, 0.5)) -> list[Path]:
    """Every specimen and every whole vertebra of a phantom as a model at several voxel sizes.

    ``models.json`` lists them with the closed-form stiffness where there is one.

    Raises
    ------
    ValueError
        If the phantom has neither.
    """
    truth = _known(phantom)
    names = [s.name for s in truth.specimens] + [v.name for v in truth.vertebrae if v.complete]
    if not names:
        raise ValueError(f"{phantom.kind} has nothing to press")
    target = Path(folder)
    written, listing = [], []
    for name in names:
        for voxel_mm in voxels_mm:
            model = _model(phantom, truth, name, voxel_mm, 0.01)
            written.append(model.save(target / f"{name}-{voxel_mm:g}mm.npz"))
            entry = {"file": written[-1].name, "structure": name, "voxel_mm": voxel_mm}
            listing.append(entry | {"shortening_mm": model.shortening_mm, "stiffness_n_mm": model.stiffness_n_mm})
    (target / "models.json").write_text(json.dumps(listing, indent=1), encoding="utf-8")
    return written


def _known(phantom: Phantom) -> Truth:
    """Truth, on a coarse image that is only asked what it holds."""
    return phantom.truth(phantom.image(slice_mm=3.0, pixel_mm=1.5, dose=0.0))


def _model(phantom: Phantom, truth: Truth, structure: str, voxel_mm: float, strain: float) -> CompressionModel:
    for specimen in truth.specimens:
        if specimen.name == structure:
            return _of_specimen(phantom, specimen, voxel_mm, strain)
    for vertebra in truth.vertebrae:
        if vertebra.name == structure:
            return _of_vertebra(phantom, vertebra, voxel_mm, strain)
    raise ValueError(f"this {phantom.kind} has no {structure!r}")


def _of_specimen(phantom: Phantom, truth: SpecimenTruth, voxel_mm: float, strain: float) -> CompressionModel:
    solid = _named(phantom, truth.label)
    count = max(round(truth.height_mm / voxel_mm), 1)
    reach = float(np.max(np.abs(phantom.high_mm[:2])))
    across = 2 * int(np.ceil(reach / voxel_mm))
    middle = np.zeros(3)
    density, inside = _voxels(solid, np.eye(3), middle, (count, across, across), voxel_mm, phantom.seed)
    filled = float(inside[0].sum()) * voxel_mm**2
    exact = abs(count * voxel_mm - truth.height_mm) < 1e-6
    modulus = np.where(inside, modulus_mpa(np.full_like(density, truth.density_mg_cm3)), 0.0).astype(np.float32)
    stiffness = float(modulus.max()) * filled / (count * voxel_mm) if exact else None
    return _pressed(modulus, voxel_mm, strain, stiffness)


def _of_vertebra(phantom: Phantom, truth: VertebraTruth, voxel_mm: float, strain: float) -> CompressionModel:
    solid = _named(phantom, truth.label)
    points = np.array(truth.points_lps_mm)
    up = np.array(truth.superior_lps)
    back = points[4:6].mean(axis=0) - points[0:2].mean(axis=0)
    back -= (back @ up) * up
    back /= np.linalg.norm(back)
    axes = np.stack([np.cross(back, up), back, up])  # rows: left, posterior, superior
    height = _SHARE_OF_BODY * min(truth.anterior_mm, truth.middle_mm, truth.posterior_mm)
    shape = (
        max(round(height / voxel_mm), 2),
        int(np.ceil(1.2 * truth.depth_mm / voxel_mm)),
        int(np.ceil(1.2 * truth.width_mm / voxel_mm)),
    )
    density, inside = _voxels(solid, axes, points.mean(axis=0), shape, voxel_mm, phantom.seed)
    return _pressed(np.where(inside, modulus_mpa(density), 0.0).astype(np.float32), voxel_mm, strain, None)


def _named(phantom: Phantom, label: int) -> Solid:
    return next(solid for solid in phantom.solids if solid.label == label)


def _voxels(
    solid: Solid,
    axes: NDArray[np.float64],
    middle: NDArray[np.float64],
    shape: tuple[int, int, int],
    voxel_mm: float,
    seed: int,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Mineral density and membership on cubic voxels round a point; rows of `axes` are left, posterior, superior."""
    matrix = np.eye(4)
    matrix[:3, :3] = axes[::-1].T * voxel_mm
    matrix[:3, 3] = middle - matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
    density, labels = render([solid], Lattice(shape, matrix), Materials.mineral_only(), background=None, seed=seed)
    return density, labels == solid.label


def _pressed(modulus: NDArray[np.float32], voxel_mm: float, strain: float, stiffness: float | None) -> CompressionModel:
    """Cut to what is filled and put between platens."""
    filled = np.argwhere(modulus > 0)
    low, high = filled.min(axis=0), filled.max(axis=0) + 1
    part = np.ascontiguousarray(modulus[low[0] : high[0], low[1] : high[1], low[2] : high[2]])
    shortening = strain * part.shape[0] * voxel_mm
    bottom, top = _nodes_of(part[0] > 0, 0), _nodes_of(part[-1] > 0, part.shape[0])
    centre = bottom[:, 1:].mean(axis=0)
    pinned = bottom[np.hypot(*(bottom[:, 1:] - centre).T).argmin()]
    row = bottom[bottom[:, 1] == pinned[1]]
    guided = row[np.abs(row[:, 2] - pinned[2]).argmax()]
    index = [
        *([*node, 0] for node in bottom),
        *([*node, 0] for node in top),
        [*pinned, 1],
        [*pinned, 2],
        [*guided, 1],
    ]
    value = np.concatenate([np.zeros(len(bottom)), np.full(len(top), -shortening), np.zeros(3)])
    return CompressionModel(part, voxel_mm, np.array(index, np.int32), value, shortening, stiffness)


def _nodes_of(plane: NDArray[np.bool_], level: int) -> NDArray[np.int64]:
    """Nodes (k, j, i) of the filled voxels of one plane."""
    touched = np.zeros((plane.shape[0] + 1, plane.shape[1] + 1), bool)
    for dj in (0, 1):
        for di in (0, 1):
            touched[dj : dj + plane.shape[0], di : di + plane.shape[1]] |= plane
    j, i = np.nonzero(touched)
    return np.stack([np.full(len(j), level), j, i], axis=1)
