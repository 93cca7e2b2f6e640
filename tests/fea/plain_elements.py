"""The textbook way, slow on purpose: element matrices by quadrature, assembled, solved directly. Shares no code with `fea`."""

from __future__ import annotations

import itertools

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

CORNERS = list(itertools.product((0, 1), repeat=3))


def isotropic(poisson: float) -> np.ndarray:
    """Stress from displacement gradient (3, 3, 3, 3) for unit modulus, axes z, y, x."""
    lam = poisson / ((1 + poisson) * (1 - 2 * poisson))
    mu = 1 / (2 * (1 + poisson))
    identity = np.eye(3)
    law: np.ndarray = (
        lam * np.einsum("ij,kl->ijkl", identity, identity)
        + mu * np.einsum("ik,jl->ijkl", identity, identity)
        + mu * np.einsum("il,jk->ijkl", identity, identity)
    )
    return law


def orthotropic(modulus: np.ndarray, poisson: np.ndarray, shear: np.ndarray) -> np.ndarray:
    """The same for moduli along z, y, x, nu_zy, nu_zx, nu_yx, and G_zy, G_zx, G_yx."""
    flexibility = np.diag(1 / np.asarray(modulus, dtype=float))
    law = np.zeros((3, 3, 3, 3))
    for (s, t), nu, g in zip(((0, 1), (0, 2), (1, 2)), poisson, shear, strict=True):
        flexibility[s, t] = flexibility[t, s] = -nu / modulus[s]
        for row, column in itertools.product(((s, t), (t, s)), repeat=2):
            law[(*row, *column)] = g
    law[[[0], [1], [2]], [[0], [1], [2]], [0, 1, 2], [0, 1, 2]] = np.linalg.inv(flexibility)
    return law


def element_matrix(law: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """24 x 24 stiffness for a law (3, 3, 3, 3); corners in the order of `CORNERS`, components z, y, x."""
    matrix = np.zeros((8, 3, 8, 3))
    for point in itertools.product((0.5 - 0.5 / 3**0.5, 0.5 + 0.5 / 3**0.5), repeat=3):
        gradient = np.zeros((8, 3))
        for n, corner in enumerate(CORNERS):
            for axis in range(3):
                value = 1.0
                for other in range(3):
                    if other == axis:
                        value *= (1 if corner[other] else -1) / spacing_mm[other]
                    else:
                        value *= point[other] if corner[other] else 1 - point[other]
                gradient[n, axis] = value
        matrix += np.einsum("nj,ijkl,ml->nimk", gradient, law, gradient) * np.prod(spacing_mm) / 8
    return matrix.reshape(24, 24)


def assembled(
    modulus: np.ndarray,
    spacing_mm: tuple[float, float, float],
    poisson: float | np.ndarray,
    law: np.ndarray | None = None,
    follows: np.ndarray | None = None,
) -> scipy.sparse.csr_matrix:
    """The stiffness of all nodes of the box, component fastest; voxels in the mask `follows` have `law` times modulus."""
    nz, ny, nx = modulus.shape
    number = np.arange((nz + 1) * (ny + 1) * (nx + 1)).reshape(nz + 1, ny + 1, nx + 1)
    rows, columns, entries = [], [], []
    ratios = np.broadcast_to(np.asarray(poisson, dtype=float), modulus.shape)
    matrices = {nu: element_matrix(isotropic(nu), spacing_mm) for nu in np.unique(ratios[modulus > 0])}
    special = None if law is None else element_matrix(law, spacing_mm)
    for k, j, i in np.argwhere(modulus > 0):
        nodes = np.array([number[k + a, j + b, i + c] for a, b, c in CORNERS])
        freedoms = (3 * nodes[:, None] + np.arange(3)).ravel()
        rows.append(np.repeat(freedoms, 24))
        columns.append(np.tile(freedoms, 24))
        if special is not None and follows is not None and follows[k, j, i]:
            matrix = special
        else:
            matrix = matrices[ratios[k, j, i]]
        entries.append((float(modulus[k, j, i]) * matrix).ravel())
    size = 3 * number.size
    return scipy.sparse.csr_matrix(
        (np.concatenate(entries), (np.concatenate(rows), np.concatenate(columns))), shape=(size, size)
    )


def direct_solution(
    stiffness: scipy.sparse.csr_matrix, fixed: np.ndarray, values: np.ndarray, load: np.ndarray
) -> np.ndarray:
    """Displacements (same shape as the bool array `fixed`); components without stiffness stay zero."""
    u = np.where(fixed, values, 0.0).ravel()
    free = ~fixed.ravel() & (stiffness.diagonal() > 0)
    right = (load.ravel() - stiffness @ u)[free]
    u[free] = scipy.sparse.linalg.spsolve(stiffness[free][:, free].tocsc(), right)
    return u.reshape(fixed.shape)
