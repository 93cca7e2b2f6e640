"""The preconditioner: one float32 V-cycle over grids of averaged moduli.

Fourth-kind Chebyshev smoothing with a point-Jacobi diagonal (the same before and after, so that the cycle is
symmetric), trilinear transfer, a dense inverse on the coarsest grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numba import njit

from fea import kernels
from fea.element import CORNERS, stiffness_of
from fea.stiffness import Level
from fea.transfer import coarsen, prolong, restrict
from fea.workers import Workers

# Degrees of the smoother, finest grid first, the last for all that follow. Coarse work is cheap, an eighth per level.
# Where voids and walls are thin (trabecular bone, shells), averaged moduli tie together what is apart, the coarse
# corrections are poor, and it pays to smooth far more on the coarser grids.
DENSE_DEGREES = (2, 6)
POROUS_DEGREES = (3, 12, 30, 60)
_POROUS_BELOW = 0.65
_COARSEST_NODES = 80
_LEAST_LANCZOS_STEPS = 6
_SAFETY = 1.02


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def _dense_product(matrix: np.ndarray, index: np.ndarray, source: np.ndarray, target: np.ndarray) -> None:
    """target[index] = matrix @ source[index]."""
    n = index.size
    gathered = np.empty(n, np.float32)
    for i in range(n):
        gathered[i] = source[index[i]]
    for i in range(n):
        total = np.float32(0)
        line = matrix[i]
        for j in range(n):
            total += line[j] * gathered[j]
        target[index[i]] = total


@dataclass(eq=False)
class _Grid:
    """One level of the hierarchy with its work fields."""

    level: Level
    extents: tuple[int, int, int]
    factors: tuple[int, int, int]
    bound: float
    cap: float
    right: np.ndarray
    x: np.ndarray
    r: np.ndarray
    d: np.ndarray
    e: np.ndarray


def _dense_inverse(level: Level, extents: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Inverse stiffness of the free components, and their flat indices.

    Detached pieces leave rigid motions; a shift of 1e-6 of the scaled diagonal keeps the factor finite there.
    """
    nz, ny, nx = extents
    parts = [stiffness_of(level.spacing_mm, law) for law in level.elasticity.laws]
    k, j, i = (axis.ravel() for axis in np.meshgrid(range(nz), range(ny), range(nx), indexing="ij"))
    _, rows, _, stride = level.field_shape
    where = np.stack(
        [
            (((k + a) * rows + (j + b)) * 3 + component) * stride + (i + c)
            for a, b, c in CORNERS
            for component in range(3)
        ],
        axis=1,
    )
    free = np.flatnonzero(level.inverse.reshape(-1) > 0)
    number = np.full(level.inverse.size, -1)
    number[free] = np.arange(len(free))
    local = number[where]
    first, second = (array[k, j, i].astype(np.float64)[:, None, None] for array in (level.first, level.second))
    entry = first * parts[0] + second * parts[1]
    both = (local[:, :, None] >= 0) & (local[:, None, :] >= 0) & level.solid[k, j, i][:, None, None]
    place = (local[:, :, None] * len(free) + local[:, None, :])[both]
    if len(free) == 0:
        return np.empty((0, 0), np.float32), free
    entries: np.ndarray = np.bincount(place, entry[both], minlength=len(free) ** 2)
    matrix: np.ndarray = entries.reshape(len(free), len(free))
    root = 1 / np.sqrt(np.diag(matrix))
    matrix *= root[:, None] * root
    matrix[np.diag_indices_from(matrix)] += 1e-6
    # Gauss-Jordan sweeps: no pivoting is needed for a positive definite matrix, and for some hundred unknowns the
    # threads of a LAPACK call cost more than the arithmetic
    for n in range(len(free)):
        pivot, column = matrix[n, n], matrix[:, n].copy()
        line = matrix[n] / pivot
        matrix -= column[:, None] * line
        matrix[n], matrix[:, n] = line, -column / pivot
        matrix[n, n] = 1 / pivot
    return np.ascontiguousarray((root[:, None] * matrix * root).astype(np.float32)), free


def coarse_fill(solid: np.ndarray) -> float:
    """Solid fraction of the cells of 4 x 4 x 4 voxels that hold any material: near 1 for bulky bodies, small for thin ones."""
    nz, ny, nx = solid.shape
    filled = np.zeros((-(-nz // 4) * 4, -(-ny // 4) * 4, -(-nx // 4) * 4), dtype=bool)
    filled[:nz, :ny, :nx] = solid
    cells = filled.reshape(filled.shape[0] // 4, 4, filled.shape[1] // 4, 4, filled.shape[2] // 4, 4)
    touched = cells.any(axis=(1, 3, 5))
    return float(np.count_nonzero(filled) / (64 * np.count_nonzero(touched)))


class Multigrid:
    """A V-cycle on a hierarchy of grids below a given one.

    Parameters
    ----------
    finest : Level
        With its diagonal set.
    extents : tuple of 3 ints
        Voxels along the internal axes.
    workers : Workers
    """

    def __init__(self, finest: Level, extents: tuple[int, int, int], workers: Workers) -> None:
        self.workers = workers
        self.grids: list[_Grid] = []
        fill = coarse_fill(finest.solid[:, : extents[1], : extents[2]])
        self.degrees = POROUS_DEGREES if fill < _POROUS_BELOW else DENSE_DEGREES
        level = finest
        while True:
            factors = _coarsening(level, extents)
            cap = level.elasticity.bound(level.spacing_mm)
            fields = [level.zeros() for _ in range(5)]
            grid = _Grid(level, extents, factors, cap, cap, *fields)
            self.grids.append(grid)
            if factors == (1, 1, 1):
                break
            grid.bound = min(
                cap, self._largest_eigenvalue(grid, max(_LEAST_LANCZOS_STEPS, self._degree(len(self.grids) - 1) + 5))
            )
            level, extents = _coarser(level, extents, factors, workers)
        self.matrix, self.index = _dense_inverse(level, extents)

    def _largest_eigenvalue(self, grid: _Grid, steps: int) -> float:
        """Upper estimate of the spectrum of D^-1 K.

        Lanczos steps in the inner product of D; the largest Ritz value plus the norm of its residual, and a margin.
        """
        level = grid.level
        free = level.inverse > 0
        x = grid.x
        np.subtract(np.random.default_rng(1).random(x.shape, dtype=np.float32), np.float32(0.5), out=x)
        x[~free] = 0
        weight = np.divide(np.float32(1), level.inverse, out=np.zeros_like(level.inverse), where=free)
        previous, diagonal, beside = level.zeros(), [], []
        length = float(np.sqrt(np.vdot(x, weight * x)))
        if length == 0:  # nothing is free here
            return grid.cap
        for step in range(steps):
            x /= np.float32(length)
            level.smooth(kernels.START, x, 0.0, -1.0, grid.right, grid.r, grid.d, x)
            diagonal.append(-float(np.vdot(x, grid.r)))
            # the new vector takes the place of the one before the last
            previous *= np.float32(-length if step else 0.0)
            previous += grid.d
            previous -= np.float32(diagonal[-1]) * x
            length = float(np.sqrt(np.vdot(previous, weight * previous)))
            if length < 1e-5 * diagonal[-1]:
                break
            beside.append(length)
            x, previous = previous, x
        values, vectors = scipy.linalg.eigh_tridiagonal(diagonal, beside[: len(diagonal) - 1])
        for field in (grid.x, grid.r, grid.d):
            field[:] = 0
        return _SAFETY * float(values[-1] + length * abs(vectors[-1, -1]))

    def _degree(self, number: int) -> int:
        return self.degrees[min(number, len(self.degrees) - 1)]

    def use_safe_bounds(self) -> bool:
        """Replace estimated spectral bounds by proven ones; False if they were in use already."""
        changed = any(grid.bound < grid.cap for grid in self.grids)
        for grid in self.grids:
            grid.bound = grid.cap
        return changed

    def cycle(self) -> float:
        """x = B right on the finest grid (fields `right`, `x`), x already holding its first smoothing step.

        Returns
        -------
        float
            The product x . right.
        """
        return self._cycle(0)

    def first_factor(self, number: int = 0) -> float:
        """The factor c of the first smoothing step x = c D^-1 right."""
        return 4 / (3 * self.grids[number].bound)

    def _cycle(self, number: int) -> float:
        grid = self.grids[number]
        level = grid.level
        if grid.factors == (1, 1, 1):
            _dense_product(self.matrix, self.index, grid.right.reshape(-1), grid.x.reshape(-1))
            return float(np.vdot(grid.x, grid.right))
        below = self.grids[number + 1]
        m, bound = self._degree(number), grid.bound
        weights = [((2 * k - 1) / (2 * k + 3), (8 * k + 4) / ((2 * k + 3) * bound)) for k in range(1, m)]
        level.smooth(kernels.START, grid.x, *weights[0], grid.right, grid.r, grid.d, grid.x)
        for c1, c2 in weights[1:]:
            level.smooth(kernels.STEP, grid.d, c1, c2, grid.r, grid.r, grid.e, grid.x)
            grid.d, grid.e = grid.e, grid.d
        level.smooth(kernels.FINAL, grid.d, 0.0, 0.0, grid.r, grid.r, grid.e, grid.x)
        coarse = below.level
        self.workers.slabs(
            coarse.field_shape[0],
            level.nodes,
            lambda z0, z1: restrict(z0, z1, grid.r, grid.factors, below.right, coarse.ranges, coarse.inverse),
        )
        if below.factors != (1, 1, 1):
            np.multiply(coarse.inverse, below.right, out=below.x)
            below.x *= np.float32(self.first_factor(number + 1))
        self._cycle(number + 1)
        self.workers.slabs(
            level.field_shape[0],
            level.nodes,
            lambda z0, z1: prolong(z0, z1, below.x, grid.factors, grid.x, level.ranges, level.inverse),
        )
        level.smooth(kernels.START, grid.x, 0.0, self.first_factor(number), grid.right, grid.r, grid.d, grid.x)
        for c1, c2 in weights[:-1]:
            level.smooth(kernels.STEP, grid.d, c1, c2, grid.r, grid.r, grid.e, grid.x)
            grid.d, grid.e = grid.e, grid.d
        return level.smooth(kernels.LAST, grid.d, *weights[-1], grid.r, grid.right, grid.e, grid.x)


def _coarsening(level: Level, extents: tuple[int, int, int]) -> tuple[int, int, int]:
    """Which axes to halve: those whose spacing is near the smallest; none on the coarsest grid."""
    nodes = np.prod([n + 1 for n in extents])
    if nodes <= _COARSEST_NODES:
        return 1, 1, 1
    can = [n > 1 for n in extents]
    smallest = min(h for h, ok in zip(level.spacing_mm, can, strict=True) if ok)
    z, y, x = (2 if ok and h < 1.5 * smallest else 1 for h, ok in zip(level.spacing_mm, can, strict=True))
    return z, y, x


def _coarser(
    level: Level, extents: tuple[int, int, int], factors: tuple[int, int, int], workers: Workers
) -> tuple[Level, tuple[int, int, int]]:
    """The next grid: averaged coefficients, and components fixed where the coincident fine one is."""
    nz, ny, nx = (-(-n // f) for n, f in zip(extents, factors, strict=True))
    first = coarsen(level.first, extents, factors)
    second = first if level.second is level.first else coarsen(level.second, extents, factors)
    spacing = tuple(h * f for h, f in zip(level.spacing_mm, factors, strict=True))
    coarse = Level(first, second, level.elasticity, (spacing[0], spacing[1], spacing[2]), workers)
    k, j, i = (np.minimum(np.arange(c + 1) * f, n) for c, f, n in zip((nz, ny, nx), factors, extents, strict=True))
    fixed = np.zeros(coarse.field_shape, dtype=bool)
    fixed[:, :, :, : nx + 1] = level.fixed[k][:, j][..., i]
    coarse.fix(np.flatnonzero(fixed))
    return coarse, (nz, ny, nx)
