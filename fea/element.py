"""One element: its dense stiffness by quadrature, and the constants of its symmetry-adapted (modal) form.

The modal form is what the solver runs (`fea.kernels`, derivation in docs/solver.md); the dense matrix is used where
speed does not matter: on the coarsest grid, for spectral bounds, and in the tests that compare the two.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

Spacing = tuple[float, float, float]

CORNERS = np.array([(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)])
"""Corner offsets (along the axes, slowest first) in the order of the element matrix."""


def lame(poisson: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lame's lambda and mu of a material of unit Young's modulus."""
    nu = np.asarray(poisson, dtype=np.float64)
    return nu / ((1 + nu) * (1 - 2 * nu)), 1 / (2 * (1 + nu))


def elasticity(lam: float, mu: float) -> np.ndarray:
    """Isotropic (6, 6) matrix for strains (zz, yy, xx, yx, zx, zy), engineering shears."""
    matrix = np.diag([2 * mu] * 3 + [mu] * 3)
    matrix[:3, :3] += lam
    return matrix


def strain_matrix(spacing_mm: Spacing, point: tuple[float, float, float]) -> np.ndarray:
    """Strains (zz, yy, xx, yx, zx, zy) at a point of the unit cube from the 24 displacements: (6, 24).

    Displacements are ordered by corner as in `CORNERS`, components (z, y, x) together.
    """
    shape = np.where(CORNERS == 1, point, 1 - np.asarray(point))
    slope = np.where(CORNERS == 1, 1.0, -1.0) / np.asarray(spacing_mm)
    gradient = np.stack([slope[:, t] * np.prod(np.delete(shape, t, axis=1), axis=1) for t in range(3)], axis=1)
    matrix = np.zeros((6, 24))
    for t in range(3):
        matrix[t, t::3] = gradient[:, t]
    for row, (s, t) in enumerate(((1, 2), (0, 2), (0, 1)), start=3):
        matrix[row, s::3] = gradient[:, t]
        matrix[row, t::3] = gradient[:, s]
    return matrix


def stiffness_matrix(spacing_mm: Spacing, lam: float, mu: float) -> np.ndarray:
    """Fully integrated (24, 24) stiffness of one isotropic voxel, order as in `strain_matrix`."""
    return stiffness_of(spacing_mm, elasticity(lam, mu))


def stiffness_of(spacing_mm: Spacing, law: np.ndarray) -> np.ndarray:
    """Fully integrated (24, 24) stiffness of one voxel with any law (6, 6), order as in `strain_matrix`."""
    total = np.zeros((24, 24))
    ends = 0.5 + np.array([-0.5, 0.5]) / np.sqrt(3.0)
    for point in np.stack(np.meshgrid(ends, ends, ends, indexing="ij"), axis=-1).reshape(-1, 3):
        matrix = strain_matrix(spacing_mm, tuple(point))
        total += matrix.T @ law @ matrix
    return total * np.prod(spacing_mm) / 8


def modal_numbers(spacing_mm: Spacing, lam: float, mu: float) -> np.ndarray:
    """The constants that `kernels.slab` wants.

    Parameters
    ----------
    spacing_mm : tuple of 3 floats
        Edges along the internal axes, slowest first.
    lam, mu : float
        What the first and the second coefficient array are to be multiplied by to give Lame's numbers.
    """
    r = 1 / np.asarray(spacing_mm, dtype=np.float64)
    volume = 1 / r.prod()
    s = r * r
    mixed = [r[0] * r[1] / 3, r[0] * r[2] / 3, r[1] * r[2] / 3]
    return np.concatenate(
        [[lam * volume / 16, mu * volume / 16], r, r / 3, s / 3, (s.sum() - s) / 3, mixed, s / 9, (s + s.sum()) / 9]
    )


def orthotropic_numbers(spacing_mm: Spacing, laws: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The constants that `elastic.orthotropic_rows` wants: nine for each law, times V/16, the inverse edges, 1/3.

    Parameters
    ----------
    spacing_mm : tuple of 3 floats
        Edges along the internal axes, slowest first.
    laws : tuple of 2 ndarrays of shape (6, 6)
        What the first and the second coefficient array are to be multiplied by; in internal axes.
    """
    rows, columns = [0, 1, 2, 0, 0, 1, 3, 4, 5], [0, 1, 2, 1, 2, 2, 3, 4, 5]
    portion = np.prod(spacing_mm) / 16
    inverse_edges = 1 / np.asarray(spacing_mm)
    return np.concatenate([*(law[rows, columns] * portion for law in laws), inverse_edges, [1 / 3]])


def spectral_bound(spacing_mm: Spacing, lowest_poisson: float, highest_poisson: float) -> float:
    """An upper bound of the spectrum of (diagonal of K)^-1 K for any field of moduli on this grid.

    It follows from the same inequality for each element, K0 <= L diag(K0): the largest such L over the given range of
    Poisson's ratio. The size of the voxel does not matter, only its proportions.
    """
    edge = min(spacing_mm)
    z, y, x = (round(h / edge, 9) for h in spacing_mm)
    return _spectral_bound((z, y, x), lowest_poisson, highest_poisson)


def bound_of(spacing_mm: Spacing, laws: tuple[np.ndarray, ...]) -> float:
    """The same for voxels whose law is any sum of multiples >= 0 of `laws` (6, 6), each positive definite or zero."""
    return max(_largest_ratio(stiffness_of(spacing_mm, law)) for law in laws if law.any())


def _largest_ratio(matrix: np.ndarray) -> float:
    """The largest eigenvalue of (diagonal)^-1 matrix."""
    root = 1 / np.sqrt(np.diag(matrix))
    return float(np.linalg.eigvalsh(root[:, None] * matrix * root)[-1])


@lru_cache(maxsize=64)
def _spectral_bound(spacing_mm: Spacing, lowest: float, highest: float) -> float:
    parts = stiffness_matrix(spacing_mm, 1.0, 0.0), stiffness_matrix(spacing_mm, 0.0, 1.0)
    largest = 0.0
    for nu in {lowest, (lowest + highest) / 2, highest}:
        lam, mu = lame(nu)
        largest = max(largest, _largest_ratio(lam * parts[0] + mu * parts[1]))
    return largest
