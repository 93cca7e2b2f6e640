"""The stiffness of one grid: element coefficients, diagonal, and the operator applied by several threads.

A voxel's law is one coefficient times a constant matrix plus a second coefficient times another (`Elasticity`): lambda and
mu of isotropic voxels, or the modulus of orthotropic voxels and that of isotropic ones. Averages of voxels, which the
coarser grids are made of, are then averages of the two arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from fea import elastic, kernels
from fea.element import Spacing, bound_of, elasticity, modal_numbers, orthotropic_numbers, spectral_bound
from fea.errors import Reason, SolveError
from fea.grid import Layout, padded, row_ranges, zeros_field
from fea.materials import laws_of, permuted
from fea.model import VoxelModel
from fea.workers import Workers


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


class Level:
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
        self.first, self.second, self.elasticity = first, second, elasticity
        self.spacing_mm, self.workers = spacing_mm, workers
        self._slab = elastic.apply_orthotropic_slab if elasticity.poisson is None else elastic.apply_slab
        self.numbers = elasticity.numbers(spacing_mm)
        self.numbers32 = self.numbers.astype(np.float32)
        self.field_shape = (nz + 1, rows, 3, stride)
        self.nodes = (nz + 1) * rows * stride
        self.ranges = row_ranges(self.solid)
        self.inverse = np.empty(0, np.float32)
        self.fixed = np.empty(0, bool)

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

    def zeros(self, dtype: type = np.float32) -> np.ndarray:
        """A field of zeros on this grid."""
        return zeros_field(self.field_shape, dtype)

    def diagonal(self) -> np.ndarray:
        """Diagonal of the stiffness, float64 field."""
        nz, rows, stride = self.first.shape
        nx = stride
        laws = self.elasticity.laws
        one = self.first is self.second
        field = self.zeros(np.float64)
        slopes = 1 / np.asarray(self.spacing_mm) ** 2
        volume = float(np.prod(self.spacing_mm))
        for source, law in (
            [(self.first, laws[0] + laws[1])] if one else [(self.first, laws[0]), (self.second, laws[1])]
        ):
            total = np.zeros((nz + 1, rows, nx))
            for dk in (0, 1):
                for dj in (0, 1):
                    part = total[dk : dk + nz, dj:]
                    part += source[:, : rows - dj]
                    part[:, :, 1:] += source[:, : rows - dj, :-1]
            for c in range(3):
                # stretch along c, and the shears in the two planes that hold c (numbered by their normals)
                others = [axis for axis in range(3) if axis != c]
                entry = law[c, c] * slopes[c] + sum(
                    law[3 + sum(others) - t, 3 + sum(others) - t] * slopes[t] for t in others
                )
                field[:, :, c] += volume / 9 * entry * total
        return field

    def fix(self, at: np.ndarray) -> None:
        """Set `inverse` from the diagonal and the flat indices of the fixed components."""
        diagonal = self.diagonal()
        usable = diagonal > 1e-9 * diagonal.max()
        self.fixed = np.zeros(self.field_shape, dtype=bool)
        self.fixed.reshape(-1)[at] = True
        usable &= ~self.fixed
        self.inverse = self.zeros()
        np.divide(1.0, diagonal, out=self.inverse, where=usable, casting="unsafe")

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


def stiffness_arrays(model: VoxelModel, layout: Layout) -> tuple[np.ndarray, np.ndarray, Elasticity]:
    """Coefficient arrays of a model on the internal grid (the same array twice if one is enough), and of what.

    The moduli are divided by a power of two near the largest, which is exact, so that float32 has room.
    """
    nz, ny, nx = layout.internal_shape
    unit = float(2.0 ** np.floor(np.log2(float(model.modulus_mpa.max()))))

    def placed(coefficient: np.ndarray) -> np.ndarray:
        array = zeros_field((nz, ny + 1, padded(nx + 1)), np.float32)
        array[:, :ny, :nx] = layout.voxels_in(coefficient)
        return array

    parts = laws_of(model)
    arrays = [placed(coefficient / np.float32(unit)) for coefficient, _ in parts]
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
