"""A smooth surface over a face of a body: uniform cubic B-splines on a lattice of knots."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

_KNOT_MM = 6.0
_START_BENDING = 1.0


class SplineSurface:
    """Heights over (u, v) as coefficients of cubic B-splines with knots some 6 mm apart.

    Parameters
    ----------
    left_mm, posterior_mm : float ndarray of shape (U,), (V,)
        A regular lattice.
    height_mm : float ndarray of shape (U, V)
        Heights on it, NaN outside the face; `start` holds the coefficients that meet them.
    """

    def __init__(
        self, left_mm: NDArray[np.float64], posterior_mm: NDArray[np.float64], height_mm: NDArray[np.float64]
    ) -> None:
        self._known = np.isfinite(height_mm)
        rows, columns = left_mm[self._known.any(axis=1)], posterior_mm[self._known.any(axis=0)]
        self._low = np.array([rows[0], columns[0]])
        extent = np.array([rows[-1], columns[-1]]) - self._low
        self._cells = np.maximum(np.ceil(extent / _KNOT_MM).astype(int), 2)
        self._edge_mm = extent / self._cells
        self._shape = self._cells + 3
        self.bending = _second_differences(int(self._shape[0]), int(self._shape[1]))
        """Second derivatives (1/mm) of coefficients: along u, along v, and mixed."""
        u, v = np.meshgrid(left_mm, posterior_mm, indexing="ij")
        places = np.stack([u[self._known], v[self._known]], axis=1)
        self.lattice_basis = self.basis(places)[0]
        self.start = self.fitted(places, height_mm[self._known], np.ones(len(places)), bending=_START_BENDING)

    def basis(self, places: NDArray[np.float64]) -> tuple[sparse.csr_matrix, sparse.csr_matrix, sparse.csr_matrix]:
        """Matrices (N, K) that give heights and slopes along u and v at places (N, 2 or more) from coefficients."""
        (first_u, value_u, slope_u), (first_v, value_v, slope_v) = (self._cubic(places[:, a], a) for a in (0, 1))
        steps = np.arange(4)
        index = (first_u[:, None, None] + steps[:, None]) * self._shape[1] + first_v[:, None, None] + steps
        pointer = np.arange(len(places) + 1) * 16
        shape = (len(places), int(self._shape.prod()))

        def matrix(a: NDArray[np.float64], b: NDArray[np.float64]) -> sparse.csr_matrix:
            products = a[:, :, None] * b[:, None, :]
            return sparse.csr_matrix((products.ravel(), index.ravel(), pointer), shape=shape)

        return matrix(value_u, value_v), matrix(slope_u, value_v), matrix(value_u, slope_v)

    def fitted(
        self,
        places: NDArray[np.float64],
        height_mm: NDArray[np.float64],
        weight: NDArray[np.float64],
        *,
        bending: float,
    ) -> NDArray[np.float64]:
        """Coefficients that meet heights at places by weighted least squares, with so much weight on bending."""
        basis = self.basis(places)[0]
        normal = (basis.T @ sparse.diags(weight) @ basis + bending * (self.bending.T @ self.bending)).toarray()
        return np.linalg.solve(normal + 1e-9 * np.eye(len(normal)), basis.T @ (weight * height_mm))

    def on_lattice(
        self, coefficients: NDArray[np.float64], covariance: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Heights and their standard deviations (U, V) on the lattice of the face, NaN outside it."""
        height, sd = np.full(self._known.shape, np.nan), np.full(self._known.shape, np.nan)
        basis = self.lattice_basis
        height[self._known] = basis @ coefficients
        variance = np.asarray(basis.multiply(basis @ covariance).sum(axis=1)).ravel()
        sd[self._known] = np.sqrt(np.maximum(variance, 0.0))
        return height, sd

    def nodes(
        self, places: NDArray[np.float64], pitch_mm: float
    ) -> tuple[NDArray[np.float64], tuple[int, int], NDArray[np.intp]]:
        """Centres (M, 2) of square cells over the face, how many along u and v, and the cell (N,) of each place."""
        counts = (self._cells * self._edge_mm / pitch_mm).astype(int) + 1
        cell = np.clip(((places[:, :2] - self._low) / pitch_mm).astype(int), 0, counts - 1)
        u, v = (self._low[a] + pitch_mm * (np.arange(counts[a]) + 0.5) for a in (0, 1))
        centres = np.stack(np.meshgrid(u, v, indexing="ij"), axis=-1).reshape(-1, 2)
        return centres, (int(counts[0]), int(counts[1])), np.asarray(cell[:, 0] * counts[1] + cell[:, 1], np.intp)

    def _cubic(
        self, x: NDArray[np.float64], axis: int
    ) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
        """First of the four splines at x, their values (N, 4) and slopes; beyond the face they keep those of its edge."""
        edge = float(self._edge_mm[axis])
        place = (x - self._low[axis]) / edge
        first = np.clip(np.floor(place).astype(np.intp), 0, int(self._cells[axis]) - 1)
        t = np.clip(place - first, 0.0, 1.0)[:, None]
        values = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
        slopes = [-((1 - t) ** 2), 3 * t**2 - 4 * t, -3 * t**2 + 2 * t + 1, t**2]
        return first, np.concatenate(values, axis=1) / 6.0, np.concatenate(slopes, axis=1) / (2.0 * edge)


def _second_differences(rows: int, columns: int) -> sparse.csr_matrix:
    def along(n: int, stencil: tuple[float, ...], edge: float) -> sparse.csr_matrix:
        count = n - len(stencil) + 1
        diagonals = [np.full(count, weight / edge) for weight in stencil]
        return sparse.diags(diagonals, list(range(len(stencil))), shape=(count, n)).tocsr()

    second, first = (1.0, -2.0, 1.0), (-1.0, 1.0)
    parts = [
        sparse.kron(along(rows, second, _KNOT_MM**2), sparse.eye(columns)),
        sparse.kron(sparse.eye(rows), along(columns, second, _KNOT_MM**2)),
        np.sqrt(2.0) * sparse.kron(along(rows, first, _KNOT_MM), along(columns, first, _KNOT_MM)),
    ]
    return sparse.vstack(parts).tocsr()
