"""The stiffness of one grid: element coefficients, diagonal, and the operator applied by several threads."""

from __future__ import annotations

from functools import partial

import numpy as np

from fea import elastic, kernels
from fea.element import lame, modal_numbers
from fea.grid import padded, row_ranges, zeros_field
from fea.workers import Workers


class Level:
    """One grid with its stiffness.

    Attributes
    ----------
    shape : tuple of 3 ints
        Voxels along the internal axes.
    first, second : float32 ndarray of shape (nz, ny+1, stride)
        Coefficients; the same array twice where Poisson's ratio is uniform.
    inverse : float32 ndarray of shape (nz+1, ny+1, 3, stride)
        Inverse of the operator's diagonal, 0 at fixed and at void components.
    """

    def __init__(
        self,
        first: np.ndarray,
        second: np.ndarray,
        factors: tuple[float, float],
        spacing_mm: tuple[float, float, float],
        workers: Workers,
    ) -> None:
        nz, rows, stride = first.shape
        self.shape = (nz, rows - 1, stride)
        self.first, self.second, self.factors, self.spacing_mm, self.workers = (
            first,
            second,
            factors,
            spacing_mm,
            workers,
        )
        self.numbers = modal_numbers(spacing_mm, *factors)
        self.numbers32 = self.numbers.astype(np.float32)
        self.field_shape = (nz + 1, rows, 3, stride)
        self.nodes = (nz + 1) * rows * stride
        self.ranges = row_ranges(second[:, :-1] > 0)
        self.inverse = np.empty(0, np.float32)
        self.fixed = np.empty(0, bool)

    def zeros(self, dtype: type = np.float32) -> np.ndarray:
        """A field of zeros on this grid."""
        return zeros_field(self.field_shape, dtype)

    def diagonal(self) -> np.ndarray:
        """Diagonal of the stiffness, float64 field."""
        nz, rows, stride = self.first.shape
        nx = stride
        sums = []
        for source in (self.first,) if self.first is self.second else (self.first, self.second):
            total = np.zeros((nz + 1, rows, nx))
            for dk in (0, 1):
                for dj in (0, 1):
                    part = total[dk : dk + nz, dj:]
                    part += source[:, : rows - dj]
                    part[:, :, 1:] += source[:, : rows - dj, :-1]
            sums.append(total)
        lam, mu = self.factors[0] * sums[0], self.factors[1] * sums[-1]
        s = 1 / np.asarray(self.spacing_mm) ** 2
        volume = float(np.prod(self.spacing_mm))
        field = self.zeros(np.float64)
        for c in range(3):
            field[:, :, c] = volume / 9 * (lam * s[c] + mu * (s.sum() + s[c]))
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
                elastic.apply_slab, mode, u, self.first, self.second, self.ranges, numbers, self.inverse, out,
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


def coefficients(
    modulus: np.ndarray, poisson: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Coefficient arrays and factors of a grid from moduli and Poisson's ratio in internal axes.

    The moduli are divided by a power of two near the largest, which is exact, so that float32 has room.
    """
    nz, ny, nx = modulus.shape
    shape = (nz, ny + 1, padded(nx + 1))
    unit = float(2.0 ** np.floor(np.log2(float(modulus.max()))))
    first = zeros_field(shape, np.float32)
    if np.ndim(poisson) == 0:
        first[:, :ny, :nx] = modulus / np.float32(unit)
        lam, mu = lame(float(poisson))
        return first, first, (float(lam) * unit, float(mu) * unit)
    second = zeros_field(shape, np.float32)
    lam, mu = lame(np.where(modulus > 0, poisson, 0.0))
    first[:, :ny, :nx] = lam * (modulus / unit)
    second[:, :ny, :nx] = mu * (modulus / unit)
    return first, second, (unit, unit)
