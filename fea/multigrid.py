"""The preconditioner: one float32 V-cycle over grids of averaged moduli.

Fourth-kind Chebyshev smoothing with a point-Jacobi diagonal (the same before and after, so that the cycle is
symmetric), trilinear transfer, a dense inverse on the coarsest grid. How a grid is stored (rows of voxels, or a list of
elements) is the business of its level.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import scipy.linalg
from numba import njit

from fea import kernels
from fea.vectors import inner, orthogonalise, scatter
from fea.workers import Workers

_DENSE_COMPONENTS = 1000  # more are smoothed on the coarsest grid, not solved for
_COARSEST_DEGREE = 30
_LEAST_LANCZOS_STEPS = 6
_SAFETY = 1.02


class AnyLevel(Protocol):
    """What the V-cycle wants of a grid; `stiffness.Level` and `mesh_level.MeshLevel` provide it.

    Attributes
    ----------
    field_shape : tuple of ints
    nodes : int
    inverse : float32 field
        Inverse of the operator's diagonal, 0 at fixed and at void components.
    degrees : tuple of ints
        Of the smoother, on this grid and the coarser ones, the last for all that follow.
    """

    nodes: int
    inverse: np.ndarray

    @property
    def field_shape(self) -> tuple[int, ...]: ...
    @property
    def degrees(self) -> tuple[int, ...]: ...

    def zeros(self, dtype: type = ...) -> np.ndarray:
        """A field of zeros."""
        ...

    def apply(self, u: np.ndarray, out: np.ndarray) -> None:
        """out = K u on every component."""
        ...

    def apply_free(self, u: np.ndarray, out: np.ndarray) -> float:
        """out = K u on the free components, 0 elsewhere; returns u . out."""
        ...

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
        ...

    def bound(self) -> float:
        """A proven upper bound of the spectrum of D^-1 K."""
        ...

    def coarser(self) -> AnyLevel | None:
        """The next grid, None if this is the coarsest. To be asked once."""
        ...

    def restrict(self, residual: np.ndarray, coarse: Any, right: np.ndarray) -> None:
        """right = masked(P^T residual) on the next grid."""
        ...

    def prolong(self, correction: np.ndarray, coarse: Any, x: np.ndarray) -> None:
        """x += masked(P correction) from the next grid."""
        ...

    def dense(self) -> tuple[np.ndarray, np.ndarray]:
        """Stiffness of the free components, float64, and their flat indices."""
        ...


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


def _nothing() -> np.ndarray:
    return np.empty(0, np.float32)


@dataclass(eq=False)
class _Grid:
    """One level of the hierarchy with its work fields."""

    level: AnyLevel
    bound: float
    cap: float
    right: np.ndarray
    x: np.ndarray
    r: np.ndarray
    d: np.ndarray = field(default_factory=_nothing)
    e: np.ndarray = field(default_factory=_nothing)


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a stiffness matrix in float32.

    Detached pieces leave rigid motions; a shift of 1e-6 of the scaled diagonal keeps the factor finite there.
    """
    root = 1 / np.sqrt(np.diag(matrix))
    matrix = matrix * root[:, None] * root
    matrix[np.diag_indices_from(matrix)] += 1e-6
    # Gauss-Jordan sweeps: no pivoting is needed for a positive definite matrix, and for some hundred unknowns the
    # threads of a LAPACK call cost more than the arithmetic
    for n in range(len(matrix)):
        pivot, column = matrix[n, n], matrix[:, n].copy()
        line = matrix[n] / pivot
        matrix -= column[:, None] * line
        matrix[n], matrix[:, n] = line, -column / pivot
        matrix[n, n] = 1 / pivot
    return np.ascontiguousarray((root[:, None] * matrix * root).astype(np.float32))


class Multigrid:
    """A V-cycle on a hierarchy of grids below a given one.

    Parameters
    ----------
    finest : AnyLevel
        With its diagonal set.
    workers : Workers

    Attributes
    ----------
    spare : float64 field
        For the caller's use between cycles: the memory of the two directions of the finest grid, which only a cycle wants.
    """

    def __init__(self, finest: AnyLevel, workers: Workers) -> None:
        self.workers = workers
        self.grids: list[_Grid] = []
        self.spare = np.empty(0)
        self.degrees = finest.degrees
        level: AnyLevel | None = finest
        while level is not None:
            cap = level.bound()
            grid = _Grid(level, cap, cap, *(level.zeros() for _ in range(3 if level is finest else 5)))
            self.grids.append(grid)
            if level is finest:
                self.clear()
            coarsest, level = level, level.coarser()
            if level is not None:
                steps = max(_LEAST_LANCZOS_STEPS, self._degree(len(self.grids) - 1) + 5)
                grid.bound = min(cap, self._largest_eigenvalue(grid, steps))
        self.matrix: np.ndarray | None = None
        if np.count_nonzero(coarsest.inverse) <= _DENSE_COMPONENTS:
            matrix, self.index = coarsest.dense()
            self.matrix = _inverse(matrix)

    def _largest_eigenvalue(self, grid: _Grid, steps: int) -> float:
        """Upper estimate of the spectrum of D^-1 K.

        Lanczos steps in the inner product of D; the largest Ritz value plus the norm of its residual, and a margin.
        """
        level, run, sums = grid.level, self.workers.slabs, np.zeros(grid.level.field_shape[0])
        planes, nodes = level.field_shape[0], level.nodes
        x, previous, diagonal, beside = grid.x, level.zeros(), [], []
        run(planes, nodes, partial(scatter, level.inverse, x, sums))
        length, before = float(np.sqrt(sums.sum())), 1.0
        if length == 0:  # nothing is free here
            return grid.cap
        for step in range(steps):
            # x has yet to be divided by its length, and the vector before it by the length before
            level.smooth(kernels.START, x, 0.0, -1.0 / length, grid.right, grid.r, grid.d, x)
            run(planes, nodes, partial(inner, x, grid.r, sums))
            diagonal.append(-float(sums.sum()) / length**2)
            a, b = np.float32(diagonal[-1] / length), np.float32(length / before if step else 0.0)
            # the new vector takes the place of the one before the last
            run(planes, nodes, partial(orthogonalise, grid.d, a, x, b, previous, level.inverse, sums))
            length, before = float(np.sqrt(sums.sum())), length
            if length < 1e-5 * diagonal[-1]:
                break
            beside.append(length)
            x, previous = previous, x
        values, vectors = scipy.linalg.eigh_tridiagonal(diagonal, beside[: len(diagonal) - 1])
        for used in (grid.x, grid.r, grid.d):
            used[:] = 0
        return _SAFETY * float(values[-1] + length * abs(vectors[-1, -1]))

    def _degree(self, number: int) -> int:
        return self.degrees[min(number, len(self.degrees) - 1)]

    def use_safe_bounds(self) -> bool:
        """Replace estimated spectral bounds by proven ones; False if they were in use already."""
        changed = any(grid.bound < grid.cap for grid in self.grids)
        for grid in self.grids:
            grid.bound = grid.cap
        return changed

    def clear(self) -> None:
        """Make `spare` zero, and with it the two directions: kernels leave alone what lies outside the material."""
        spare, finest = self.spare, self.grids[0]
        if not spare.size:
            spare = self.spare = finest.level.zeros(np.float64)
            finest.d, finest.e = spare.reshape(-1).view(np.float32).reshape(2, *spare.shape)
            return
        self.workers.slabs(len(spare), self.grids[0].level.nodes, lambda first, stop: spare[first:stop].fill(0))

    def release(self) -> None:
        """Give the memory of `spare` back until it is wanted again."""
        self.spare = np.empty(0)
        self.grids[0].d = self.grids[0].e = _nothing()

    def cycle(self) -> float:
        """x = B right on the finest grid (fields `right`, `x`), x already holding its first smoothing step.

        Returns
        -------
        float
            The product x . right.
        """
        self.clear()
        return self._cycle(0)

    def first_factor(self, number: int = 0) -> float:
        """The factor c of the first smoothing step x = c D^-1 right."""
        return 4 / (3 * self.grids[number].bound)

    def _cycle(self, number: int) -> float:
        grid = self.grids[number]
        level = grid.level
        coarsest = number + 1 == len(self.grids)
        if coarsest and self.matrix is not None:
            _dense_product(self.matrix, self.index, grid.right.reshape(-1), grid.x.reshape(-1))
            return float(np.vdot(grid.x, grid.right))
        weights = self._weights(_COARSEST_DEGREE if coarsest else self._degree(number), grid.bound)
        if not coarsest:
            below = self.grids[number + 1]
            level.smooth(kernels.START, grid.x, *weights[0], grid.right, grid.r, grid.d, grid.x)
            for c1, c2 in weights[1:]:
                level.smooth(kernels.STEP, grid.d, c1, c2, grid.r, grid.r, grid.e, grid.x)
                grid.d, grid.e = grid.e, grid.d
            level.smooth(kernels.FINAL, grid.d, 0.0, 0.0, grid.r, grid.r, grid.e, grid.x)
            level.restrict(grid.r, below.level, below.right)
            np.multiply(below.level.inverse, below.right, out=below.x)
            below.x *= np.float32(self.first_factor(number + 1))
            self._cycle(number + 1)
            level.prolong(below.x, below.level, grid.x)
        level.smooth(kernels.START, grid.x, 0.0, self.first_factor(number), grid.right, grid.r, grid.d, grid.x)
        for c1, c2 in weights[:-1]:
            level.smooth(kernels.STEP, grid.d, c1, c2, grid.r, grid.r, grid.e, grid.x)
            grid.d, grid.e = grid.e, grid.d
        return level.smooth(kernels.LAST, grid.d, *weights[-1], grid.r, grid.right, grid.e, grid.x)

    @staticmethod
    def _weights(degree: int, bound: float) -> list[tuple[float, float]]:
        """Factors of direction and residual in the steps after the first."""
        return [((2 * k - 1) / (2 * k + 3), (8 * k + 4) / ((2 * k + 3) * bound)) for k in range(1, degree)]
