"""The stiffness of one grid: element coefficients, diagonal, and the operator applied by several threads.

A voxel's law is one coefficient times a constant matrix plus a second coefficient times another (`Elasticity`): lambda and
mu of isotropic voxels, or the modulus of orthotropic voxels and that of isotropic ones. Averages of voxels, which the
coarser grids are made of, are then averages of the two arrays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial

import numpy as np

from fea import elastic, kernels
from fea.element import (
    CORNERS,
    Spacing,
    bound_of,
    elasticity,
    modal_numbers,
    orthotropic_numbers,
    spectral_bound,
    stiffness_of,
)
from fea.errors import Reason, SolveError
from fea.grid import Layout, row_ranges, zeros_field
from fea.materials import laws_of, permuted
from fea.mesh_layout import MeshLayout
from fea.model import VoxelModel
from fea.transfer import coarsen, prolong, restrict
from fea.workers import Workers

# Degrees of the smoother, finest grid first, the last for all that follow. Coarse work is cheap, an eighth per level.
# Where voids and walls are thin (shells), averaged moduli tie together what is apart, the coarse corrections are poor, and
# it pays to smooth far more on the coarser grids.
DENSE_DEGREES = (2, 6)
POROUS_DEGREES = (3, 12, 30, 60)
THIN_BELOW = 0.65
# The coarsest grid of a body several times as long as thick must still bend: one element across its thickness would not.
_COARSEST_NODES, _COARSEST_NODES_SLENDER = 80, 300
_SLENDER = 4.0
# A coarse component is fixed where fixed ones hold more than this share, by weight, of what interpolates from it. Supports
# that lie oblique to the grid would vanish from the coarser ones if only coincident components counted.
HELD_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class Elasticity:
    """What the two coefficient arrays of a grid are to be multiplied by.

    Attributes
    ----------
    laws : tuple of 2 float64 ndarrays of shape (6, 6)
        Stresses (zz, yy, xx, yx, zx, zy) from strains, in internal axes; the voxel's law is first * laws[0] + second * laws[1].
    poisson : tuple of 2 floats, or None
        For isotropic voxels, whose laws are those of lambda and of mu, the least and the greatest Poisson's ratio.
    """

    laws: tuple[np.ndarray, np.ndarray]
    poisson: tuple[float, float] | None

    @property
    def factors(self) -> tuple[float, float]:
        """What the first array is to be multiplied by to give lambda, and the second to give mu.

        Raises
        ------
        SolveError
            ``bad_material_law`` for orthotropic voxels, which have no such numbers.
        """
        if self.poisson is None:
            raise SolveError(Reason.BAD_MATERIAL_LAW, "this needs isotropic voxels; the model has orthotropic ones.")
        return float(self.laws[0][0, 0]), float(self.laws[1][3, 3])

    def numbers(self, spacing_mm: Spacing) -> np.ndarray:
        """The constants that the kernel of this kind of material wants."""
        if self.poisson is None:
            return orthotropic_numbers(spacing_mm, self.laws)
        return modal_numbers(spacing_mm, *self.factors)

    def bound(self, spacing_mm: Spacing) -> float:
        """An upper bound of the spectrum of (diagonal of K)^-1 K on a grid of such voxels."""
        if self.poisson is None:
            return bound_of(spacing_mm, self.laws)
        return spectral_bound(spacing_mm, *self.poisson)

    def diagonals(self, spacing_mm: Spacing) -> list[np.ndarray]:
        """For each of the two laws the diagonal entries (z, y, x) of one corner of a voxel with coefficient 1."""
        slopes = 1 / np.asarray(spacing_mm) ** 2
        found = []
        for law in self.laws:
            entries = np.empty(3)
            for c in range(3):
                # stretch along c, and the shears in the two planes that hold c (numbered by their normals)
                one, other = (axis for axis in range(3) if axis != c)
                entries[c] = law[c, c] * slopes[c] + law[3 + other, 3 + other] * slopes[one]
                entries[c] += law[3 + one, 3 + one] * slopes[other]
            found.append(np.prod(spacing_mm) / 9 * entries)
        return found


class Stiffness(ABC):
    """What rows and meshes have in common: one grid's operator, its diagonal, and what is fixed.

    Attributes
    ----------
    elasticity : Elasticity
    field_shape : tuple of ints
    nodes : int
    inverse : float32 field
        Inverse of the operator's diagonal, 0 at fixed and at void components.
    fixed : bool field
    """

    def __init__(self, elasticity: Elasticity, spacing_mm: Spacing, workers: Workers) -> None:
        self.elasticity, self.spacing_mm, self.workers = elasticity, spacing_mm, workers
        self.numbers = elasticity.numbers(spacing_mm)
        self.numbers32 = self.numbers.astype(np.float32)
        self.field_shape: tuple[int, ...] = ()
        self.nodes = 0
        self.inverse = np.empty(0, np.float32)
        self.fixed = np.empty(0, bool)

    @abstractmethod
    def diagonal(self) -> np.ndarray:
        """Diagonal of the stiffness, float64 field."""

    @abstractmethod
    def _run(
        self,
        mode: int,
        u: np.ndarray,
        out: np.ndarray,
        smoothing: tuple[np.float32, np.float32, np.ndarray, np.ndarray, np.ndarray] | None = None,
    ) -> float:
        """One pass of the kernel in one of its modes; the sum over what it adds up."""

    def zeros(self, dtype: type = np.float32) -> np.ndarray:
        """A field of zeros on this grid or mesh."""
        return zeros_field(self.field_shape, dtype)

    def fix(self, at: np.ndarray) -> None:
        """Set `inverse` from the diagonal and the flat indices of the fixed components."""
        diagonal = self.diagonal()
        usable = diagonal > 1e-9 * diagonal.max()
        self.fixed = np.zeros(self.field_shape, dtype=bool)
        self.fixed.reshape(-1)[at] = True
        usable &= ~self.fixed
        self.inverse = self.zeros()
        np.divide(1.0, diagonal, out=self.inverse, where=usable, casting="unsafe")

    def apply(self, u: np.ndarray, out: np.ndarray) -> None:
        """out = K u on every component. `out` must be zero where there is no material."""
        self._run(kernels.RAW, u, out)

    def apply_free(self, u: np.ndarray, out: np.ndarray) -> float:
        """out = K u on the free components, 0 elsewhere; returns u . out."""
        return self._run(kernels.MASKED_DOT, u, out)

    def smooth(
        self,
        mode: int,
        u: np.ndarray,
        c1: float,
        c2: float,
        source: np.ndarray,
        residual: np.ndarray,
        direction: np.ndarray,
        x: np.ndarray,
    ) -> float:
        """One smoothing step, one of the modes of `kernels.slab`."""
        return self._run(mode, u, residual, (np.float32(c1), np.float32(c2), source, direction, x))

    def bound(self) -> float:
        """See `Elasticity.bound`."""
        return self.elasticity.bound(self.spacing_mm)


class Level(Stiffness):
    """One grid with its stiffness.

    Attributes
    ----------
    shape : tuple of 3 ints
        Voxels along the internal axes.
    first, second : float32 ndarray of shape (nz, ny+1, stride)
        Coefficients; the same array twice where all voxels have one law up to their modulus.
    elasticity : Elasticity
        What they are coefficients of.
    solid : bool ndarray of shape (nz, ny, stride)
    inverse : float32 ndarray of shape (nz+1, ny+1, 3, stride)
        Inverse of the operator's diagonal, 0 at fixed and at void components.
    """

    def __init__(
        self,
        first: np.ndarray,
        second: np.ndarray,
        elasticity: Elasticity,
        spacing_mm: Spacing,
        workers: Workers,
    ) -> None:
        nz, rows, stride = first.shape
        self.shape = (nz, rows - 1, stride)
        super().__init__(elasticity, spacing_mm, workers)
        self.first, self.second = first, second
        self._slab = elastic.apply_orthotropic_slab if elasticity.poisson is None else elastic.apply_slab
        self.field_shape = (nz + 1, rows, 3, stride)
        self.nodes = (nz + 1) * rows * stride
        solid = self.solid
        self.ranges = row_ranges(solid)
        self.extents = (nz, rows - 1, int(np.flatnonzero(solid.any(axis=(0, 1)))[-1]) + 1)
        self._halved = (1, 1, 1)

    @property
    def factors(self) -> tuple[float, float]:
        """See `Elasticity.factors`."""
        return self.elasticity.factors

    @property
    def solid(self) -> np.ndarray:
        """Which voxels hold material: bool (nz, ny, stride)."""
        solid: np.ndarray = self.second[:, :-1] > 0
        if self.elasticity.poisson is None and self.first is not self.second:
            solid |= self.first[:, :-1] > 0
        return solid

    def diagonal(self) -> np.ndarray:
        """Diagonal of the stiffness, float64 field."""
        nz, rows, stride = self.first.shape
        field = self.zeros(np.float64)
        parts = list(zip((self.first, self.second), self.elasticity.diagonals(self.spacing_mm), strict=True))
        if self.first is self.second:
            parts = [(self.first, parts[0][1] + parts[1][1])]
        for source, entries in parts:
            total = np.zeros((nz + 1, rows, stride))
            for dk in (0, 1):
                for dj in (0, 1):
                    part = total[dk : dk + nz, dj:]
                    part += source[:, : rows - dj]
                    part[:, :, 1:] += source[:, : rows - dj, :-1]
            for c in range(3):
                field[:, :, c] += entries[c] * total
        return field

    def _run(
        self,
        mode: int,
        u: np.ndarray,
        out: np.ndarray,
        smoothing: tuple[np.float32, np.float32, np.ndarray, np.ndarray, np.ndarray] | None = None,
    ) -> float:
        kind = u.dtype.type
        sums = np.zeros(self.field_shape[0])
        numbers = self.numbers32 if kind is np.float32 else self.numbers
        self.workers.slabs(
            self.field_shape[0],
            self.nodes,
            partial(
                self._slab, mode, u, self.first, self.second, self.ranges, numbers, self.inverse, out,
                smoothing, sums,
            ),
            scratch=(kind, kernels.scratch_size(self.field_shape)),
        )  # fmt: skip
        return float(sums.sum())

    @property
    def degrees(self) -> tuple[int, ...]:
        """Degrees of the smoother on this grid and the coarser ones."""
        _, ny, nx = self.extents
        return POROUS_DEGREES if coarse_fill(self.solid[:, :ny, :nx]) < THIN_BELOW else DENSE_DEGREES

    def coarser(self) -> Level | None:
        """The next grid: averaged coefficients; fixed is what coincides with or mostly hangs on what is fixed here."""
        factors = self._halved = coarsening(self.extents, self.spacing_mm)
        if factors == (1, 1, 1):
            return None
        first = coarsen(self.first, self.extents, factors)
        second = first if self.second is self.first else coarsen(self.second, self.extents, factors)
        z, y, x = (h * f for h, f in zip(self.spacing_mm, factors, strict=True))
        coarse = Level(first, second, self.elasticity, (z, y, x), self.workers)
        nodes = (np.arange(-(-n // f) + 1) * f for n, f in zip(self.extents, factors, strict=True))
        k, j, i = (np.minimum(at, n) for at, n in zip(nodes, self.extents, strict=True))
        fixed = np.zeros(coarse.field_shape, dtype=bool)
        fixed[:, :, :, : len(i)] = self.fixed[k][:, j][..., i]
        coarse.fix(np.empty(0, np.int64))
        weights = []
        for given in (self.fixed, self.fixed | (self.inverse > 0)):
            indicator = self.zeros()
            indicator[:] = given
            weights.append(coarse.zeros())
            self.restrict(indicator, coarse, weights[-1])
        fixed |= weights[0] > HELD_SHARE * weights[1]
        coarse.fix(np.flatnonzero(fixed))
        self.fixed = np.empty(0, bool)
        return coarse

    def restrict(self, residual: np.ndarray, coarse: Level, right: np.ndarray) -> None:
        """right = masked(P^T residual)."""
        self.workers.slabs(
            coarse.field_shape[0],
            self.nodes,
            lambda z0, z1: restrict(z0, z1, residual, self._halved, right, coarse.ranges, coarse.inverse),
        )

    def prolong(self, correction: np.ndarray, coarse: Level, x: np.ndarray) -> None:
        """x += masked(P correction)."""
        self.workers.slabs(
            self.field_shape[0],
            self.nodes,
            lambda z0, z1: prolong(z0, z1, correction, self._halved, x, self.ranges, self.inverse),
        )

    def dense(self) -> tuple[np.ndarray, np.ndarray]:
        """Stiffness of the free components, float64, and their flat indices."""
        nz, ny, nx = self.extents
        k, j, i = (axis.ravel() for axis in np.meshgrid(range(nz), range(ny), range(nx), indexing="ij"))
        _, rows, _, stride = self.field_shape
        where = np.stack(
            [
                (((k + a) * rows + (j + b)) * 3 + component) * stride + (i + c)
                for a, b, c in CORNERS
                for component in range(3)
            ],
            axis=1,
        )
        some = self.solid[k, j, i]
        first, second = (array[k, j, i][some] for array in (self.first, self.second))
        return dense_stiffness(self.inverse, where[some], first, second, self.elasticity, self.spacing_mm)


def coarsening(extents: tuple[int, int, int], spacing_mm: Spacing) -> tuple[int, int, int]:
    """Which axes of a grid to halve: those whose spacing is near the smallest; none on the coarsest grid."""
    can = [n > 1 for n in extents]
    lengths = [n * h for n, h in zip(extents, spacing_mm, strict=True)]
    enough = _COARSEST_NODES_SLENDER if max(lengths) > _SLENDER * min(lengths) else _COARSEST_NODES
    if np.prod([n + 1 for n in extents]) <= enough or not any(can):
        return 1, 1, 1
    smallest = min(h for h, ok in zip(spacing_mm, can, strict=True) if ok)
    z, y, x = (2 if ok and h < 1.5 * smallest else 1 for h, ok in zip(spacing_mm, can, strict=True))
    return z, y, x


def coarse_fill(solid: np.ndarray) -> float:
    """Solid fraction of the cells of 4 x 4 x 4 voxels that hold any material: near 1 for bulky bodies, small for thin ones."""
    counts = solid.view(np.uint8)  # at most 64
    for axis, n in enumerate(solid.shape):
        counts = np.add.reduceat(counts, np.arange(0, n, 4), axis=axis, dtype=np.uint8)
    # cells at the upper faces of the box are cut
    sizes = [np.minimum(4, n - np.arange(0, n, 4)) for n in solid.shape]
    volume = sizes[0][:, None, None] * sizes[1][:, None] * sizes[2]
    return float(counts.sum(dtype=np.int64) / volume[counts > 0].sum())


def dense_stiffness(
    inverse: np.ndarray,
    where: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    elasticity: Elasticity,
    spacing_mm: Spacing,
) -> tuple[np.ndarray, np.ndarray]:
    """Assembled stiffness of the free components of a small grid.

    Parameters
    ----------
    inverse : float32 field
        Zero at components that are not free.
    where : int ndarray of shape (n, 24)
        Flat indices of the components of each element.
    first, second : float ndarray of shape (n,)
        Its coefficients.

    Returns
    -------
    float64 ndarray of shape (m, m)
    int64 ndarray of shape (m,)
        Flat indices of the free components.
    """
    free = np.flatnonzero(inverse.reshape(-1) > 0)
    number = np.full(inverse.size, -1)
    number[free] = np.arange(len(free))
    local = number[where]
    parts = [stiffness_of(spacing_mm, law) for law in elasticity.laws]
    entry = first.astype(np.float64)[:, None, None] * parts[0] + second.astype(np.float64)[:, None, None] * parts[1]
    both = (local[:, :, None] >= 0) & (local[:, None, :] >= 0)
    place = (local[:, :, None] * len(free) + local[:, None, :])[both]
    entries: np.ndarray = np.bincount(place, entry[both], minlength=len(free) ** 2)
    return entries.reshape(len(free), len(free)), free


def stiffness_arrays(model: VoxelModel, layout: Layout | MeshLayout) -> tuple[np.ndarray, np.ndarray, Elasticity]:
    """Coefficient arrays of a model as its layout places them (the same array twice if one is enough), and of what.

    The moduli are divided by a power of two near the largest, which is exact, so that float32 has room.
    """
    unit = float(2.0 ** np.floor(np.log2(float(model.modulus_mpa.max()))))

    parts = laws_of(model)
    arrays = [layout.placed(coefficient / np.float32(unit)) for coefficient, _ in parts]
    laws = [permuted(law, layout.order) * unit for _, law in parts]
    span = None
    if model.orthotropy is None:
        poisson = np.asarray(model.poisson)
        used = poisson[model.solid] if poisson.ndim else poisson
        span = float(used.min()), float(used.max())
    if len(parts) == 1:
        arrays *= 2
        if span is None:
            laws.append(np.zeros((6, 6)))
        else:  # one array for lambda and mu
            laws = [elasticity(laws[0][0, 1], 0.0), elasticity(0.0, laws[0][3, 3])]
    first, second = arrays
    return first, second, Elasticity((laws[0], laws[1]), span)
