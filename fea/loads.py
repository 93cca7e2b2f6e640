"""Loads that are given per voxel, as the nodal forces that do the same work."""

from __future__ import annotations

import numpy as np

from fea.element import CORNERS
from fea.errors import Reason, SolveError
from fea.model import NodalForce, VoxelModel, real_numbers


def body_force(model: VoxelModel, force_n_mm3: np.ndarray, name: str = "body force") -> NodalForce:
    """A force per volume, constant in each voxel, on its eight corners.

    Parameters
    ----------
    model : VoxelModel
    force_n_mm3 : float ndarray of shape (3,) or (nz, ny, nx, 3)
        Components z, y, x in N/mm^3; ignored in voids. Weight is density times 9.81e-9 N/mm^3 per kg/m^3.
    name : str

    Raises
    ------
    SolveError
        ``bad_condition``.
    """
    shape = model.shape
    given = real_numbers(force_n_mm3, Reason.BAD_CONDITION, f"'{name}'")
    if given.shape not in ((3,), (*shape, 3)) or not np.isfinite(given).all():
        raise SolveError(Reason.BAD_CONDITION, f"'{name}' must be finite and of shape (3,) or {(*shape, 3)}.")
    density = np.broadcast_to(given, (*shape, 3))
    share = np.where(model.solid[..., None], density, 0.0) * (np.prod(model.spacing_mm) / 8)
    nodal = np.zeros((*model.node_shape, 3))
    for a, b, c in CORNERS:
        nodal[a : a + shape[0], b : b + shape[1], c : c + shape[2]] += share
    nodes = np.argwhere(nodal.any(axis=-1))
    z, y, x = nodal[tuple(nodes.T)].T
    return NodalForce(nodes, z=z, y=y, x=x, name=name)
