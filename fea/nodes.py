"""Choosing nodes: corners of solid voxels, and of voxels in a mask or a plane."""

from __future__ import annotations

import numpy as np

from fea.mesh import touched_nodes
from fea.model import VoxelModel


def nodes_of(voxels: np.ndarray) -> np.ndarray:
    """Corners of the voxels of a mask.

    Parameters
    ----------
    voxels : bool ndarray of shape (nz, ny, nx)

    Returns
    -------
    int64 ndarray of shape (n, 3)
        Node indices (k, j, i), each once, in lexicographic order.
    """
    return np.argwhere(touched_nodes(np.asarray(voxels, dtype=bool)))


def face_nodes(model: VoxelModel, axis: int, upper: bool) -> np.ndarray:
    """Nodes of solid voxels in the lowest or highest node plane that touches material.

    Parameters
    ----------
    model : VoxelModel
    axis : int
        0 = z, 1 = y, 2 = x.
    upper : bool
        The plane of highest index, else of lowest.
    """
    nodes = nodes_of(model.solid)
    plane = nodes[:, axis].max() if upper else nodes[:, axis].min()
    chosen: np.ndarray = nodes[nodes[:, axis] == plane]
    return chosen
