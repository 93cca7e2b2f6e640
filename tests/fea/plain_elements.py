"""The textbook way, slow on purpose: element matrices by quadrature, assembled, solved directly. Shares no code with `fea`."""

from __future__ import annotations

import itertools

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

CORNERS = list(itertools.product((0, 1), repeat=3))


def element_matrix(poisson: float, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """24 x 24 stiffness for unit modulus; corners in the order of `CORNERS`, components z, y, x."""
    lam = poisson / ((1 + poisson) * (1 - 2 * poisson))
    mu = 1 / (2 * (1 + poisson))
    identity = np.eye(3)
    law = (
        lam * np.einsum("ij,kl->ijkl", identity, identity)
        + mu * np.einsum("ik,jl->ijkl", identity, identity)
        + mu * np.einsum("il,jk->ijkl", identity, identity)
    )
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
    modulus: np.ndarray, spacing_mm: tuple[float, float, float], poisson: float | np.ndarray
) -> scipy.sparse.csr_matrix:
    """The stiffness of all nodes of the box, component fastest."""
    nz, ny, nx = modulus.shape
    number = np.arange((nz + 1) * (ny + 1) * (nx + 1)).reshape(nz + 1, ny + 1, nx + 1)
    rows, columns, entries = [], [], []
    ratios = np.broadcast_to(np.asarray(poisson, dtype=float), modulus.shape)
    matrices = {nu: element_matrix(nu, spacing_mm) for nu in np.unique(ratios[modulus > 0])}
    for k, j, i in np.argwhere(modulus > 0):
        nodes = np.array([number[k + a, j + b, i + c] for a, b, c in CORNERS])
        freedoms = (3 * nodes[:, None] + np.arange(3)).ravel()
        rows.append(np.repeat(freedoms, 24))
        columns.append(np.tile(freedoms, 24))
        entries.append((float(modulus[k, j, i]) * matrices[ratios[k, j, i]]).ravel())
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
