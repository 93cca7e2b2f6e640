"""From a model in the user's axes to the list of elements of `mesh`, and back; the counterpart of `grid.Layout`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fea.grid import zeros_field
from fea.mesh import touched_nodes

CHUNK = 3 * 1024  # entries; vector passes work through fields chunk by chunk, whatever the planes are


def field_shape(nodes: int) -> tuple[int, int]:
    """Shape of a field: flat, three components per node, zeros at the end."""
    return -(-3 * nodes // CHUNK), CHUNK


@dataclass(frozen=True, eq=False)
class MeshLayout:
    """Where the nodes of a mesh lie in the user's node array.

    Attributes
    ----------
    solid : bool ndarray of shape (nz, ny, nx)
        The solid voxels of the model.
    node_index : int64 ndarray of shape (nodes,)
        Flat index of each node of the mesh into the user's nodes, ascending.
    """

    solid: np.ndarray
    node_index: np.ndarray
    order: tuple[int, int, int] = (0, 1, 2)
    """The axes of the mesh are the user's."""

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return len(self.node_index)

    @property
    def node_shape(self) -> tuple[int, int, int]:
        """Size of the user's node array."""
        nz, ny, nx = self.solid.shape
        return nz + 1, ny + 1, nx + 1

    @property
    def field_shape(self) -> tuple[int, ...]:
        """Shape of a field on the mesh."""
        return field_shape(self.nodes)

    def placed(self, voxels: np.ndarray) -> np.ndarray:
        """An array per voxel as float32 per element."""
        values: np.ndarray = voxels[self.solid].astype(np.float32)
        return values

    def _by_node(self, field: np.ndarray) -> np.ndarray:
        components: np.ndarray = field.reshape(-1)[: 3 * self.nodes].reshape(-1, 3)
        return components

    def field_in(self, vectors: np.ndarray, dtype: type = np.float64) -> np.ndarray:
        """An array (nz+1, ny+1, nx+1, 3) in the user's axes as a field."""
        field = zeros_field(self.field_shape, dtype)
        self._by_node(field)[:] = np.reshape(vectors, (-1, 3))[self.node_index]
        return field

    def field_out(self, field: np.ndarray) -> np.ndarray:
        """The inverse of `field_in`; nodes without material get zero."""
        vectors = np.zeros((*self.node_shape, 3), field.dtype)
        vectors.reshape(-1, 3)[self.node_index] = self._by_node(field)
        return vectors

    def flat(self, nodes: np.ndarray, component: int) -> np.ndarray:
        """Flat indices of one component (0 = z) of nodes (n, 3) in the user's axes, all of them corners of solid voxels."""
        at: np.ndarray = 3 * np.searchsorted(self.node_index, np.ravel_multi_index(nodes.T, self.node_shape))
        return at + component

    def locate(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Node (n, 3) and component of flat indices."""
        return np.column_stack(np.unravel_index(self.node_index[at // 3], self.node_shape)), at % 3

    def fill_affine(self, field: np.ndarray, component: int, fit: np.ndarray) -> None:
        """Set one component to fit[0] + fit[1:] . node."""
        grid = fit[0] + sum(f * at for f, at in zip(fit[1:], np.ogrid[tuple(map(slice, self.node_shape))], strict=True))
        self._by_node(field)[:, component] = grid.reshape(-1)[self.node_index]


def mesh_layout(solid: np.ndarray) -> MeshLayout:
    """The mesh of the solid voxels of a model."""
    return MeshLayout(solid, np.flatnonzero(touched_nodes(solid)))
