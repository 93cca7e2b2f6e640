"""Models that are mostly void as a list of elements and nodes, and their coarsening by connected pieces.

A box of rows spends its work and memory on voids; trabecular bone fills a fifth of its box. Here only solid voxels and
their corners are kept. Because elements refer to their nodes by number, a coarse mesh need not be a grid either: where a
void thinner than a coarse voxel separates two sheets, the coarse voxel is there twice, with nodes of its own for each
sheet, and coarse corrections no longer tie together what is apart (docs/solver.md, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from fea.element import CORNERS


@dataclass(frozen=True, eq=False)
class Mesh:
    """Elements of one size on a grid; several may lie in the same place.

    Elements and nodes are numbered by layer and plane, from the lowest on.

    Attributes
    ----------
    cells : int32 ndarray of shape (n, 3)
        Grid position of each element.
    corners : int32 ndarray of shape (8, n)
        Node numbers in the order of `element.CORNERS`.
    layer_start : int64 ndarray of shape (layers + 1,)
        First element of each layer.
    plane_start : int64 ndarray of shape (layers + 2,)
        First node of each node plane.
    """

    cells: np.ndarray
    corners: np.ndarray
    layer_start: np.ndarray
    plane_start: np.ndarray

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return int(self.plane_start[-1])

    @property
    def extents(self) -> tuple[int, int, int]:
        """Size of the grid that the elements lie on."""
        z, y, x = (int(n) + 1 for n in self.cells.max(axis=0))
        return z, y, x


@dataclass(frozen=True, eq=False)
class Transfer:
    """Trilinear interpolation from a coarse mesh, as compressed rows, and its transpose.

    Attributes
    ----------
    start, index : int32 ndarrays
        Fine node n is the mean of the coarse nodes index[m] for start[n] <= m < start[n + 1]: one where both coincide, two,
        four or eight where it lies between them.
    back_start, back_index : int32 ndarrays
        The same from the side of the coarse nodes, in the order of the fine ones.
    back_halvings : uint8 ndarray
        0, 1, 2 or 3: how often the weight 1 is halved there.
    """

    start: np.ndarray
    index: np.ndarray
    back_start: np.ndarray
    back_index: np.ndarray
    back_halvings: np.ndarray


def touched_nodes(solid: np.ndarray) -> np.ndarray:
    """Which nodes of a grid are corners of a solid voxel: bool (nz+1, ny+1, nx+1)."""
    nz, ny, nx = solid.shape
    used = np.zeros((nz + 1, ny + 1, nx + 1), dtype=bool)
    for a, b, c in CORNERS:
        used[a : a + nz, b : b + ny, c : c + nx] |= solid
    return used


def mesh_of(solid: np.ndarray) -> Mesh:
    """The mesh of the solid voxels of a grid.

    Parameters
    ----------
    solid : bool ndarray of shape (nz, ny, nx)

    Returns
    -------
    Mesh
        Elements in the order of `np.argwhere(solid)`, nodes in that of the flat index of `touched_nodes(solid)`.
    """
    _, ny, nx = solid.shape
    used = touched_nodes(solid)
    number = np.cumsum(used.reshape(-1), dtype=np.int32)
    number -= 1
    where = np.flatnonzero(solid)
    cells = np.empty((len(where), 3), np.int32)
    rest, cells[:, 2] = np.divmod(where, nx)
    cells[:, 0], cells[:, 1] = np.divmod(rest, ny)
    del where
    base = (cells[:, 0].astype(np.int64) * (ny + 1) + cells[:, 1]) * (nx + 1) + cells[:, 2]
    corners = np.empty((8, len(cells)), np.int32)
    for n, (a, b, c) in enumerate(CORNERS):
        corners[n] = number[base + (a * (ny + 1) + b) * (nx + 1) + c]
    layer_start = np.concatenate([[0], np.cumsum(solid.sum(axis=(1, 2)))])
    plane_start = np.concatenate([[0], np.cumsum(used.sum(axis=(1, 2)))])
    return Mesh(cells, corners, layer_start, plane_start)


@njit(cache=True)
def _root(parent: np.ndarray, item: int) -> int:
    while parent[item] != item:
        parent[item] = parent[parent[item]]
        item = parent[item]
    return item


@njit(cache=True)
def _join(parent: np.ndarray, one: int, other: int) -> None:
    """Union by least number: the root of a set is its first member."""
    a, b = _root(parent, one), _root(parent, other)
    if a < b:
        parent[b] = a
    elif b < a:
        parent[a] = b


@njit(cache=True)
def _incidence(corners: np.ndarray, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """For each node its elements: where they start in the list, and the list."""
    start = np.zeros(nodes + 1, np.int64)
    count = corners.shape[1]
    for c in range(8):
        for e in range(count):
            start[corners[c, e] + 1] += 1
    for n in range(nodes):
        start[n + 1] += start[n]
    filled = start[:-1].copy()
    elements = np.empty(8 * count, np.int32)
    for e in range(count):
        for c in range(8):
            node = corners[c, e]
            elements[filled[node]] = e
            filled[node] += 1
    return start, elements


@njit(cache=True)
def _pieces(cells: np.ndarray, start: np.ndarray, elements: np.ndarray, factors: tuple[int, int, int]) -> np.ndarray:
    """For each element the number of its piece: the elements of one coarse voxel that share nodes.

    Pieces are numbered by their first element, hence by coarse layer.
    """
    fz, fy, fx = factors
    count = cells.shape[0]
    parent = np.arange(count, dtype=np.int32)
    for node in range(start.size - 1):
        for a in range(start[node] + 1, start[node + 1]):
            one = elements[a]
            for b in range(start[node], a):
                other = elements[b]
                if (
                    cells[one, 0] // fz == cells[other, 0] // fz
                    and cells[one, 1] // fy == cells[other, 1] // fy
                    and cells[one, 2] // fx == cells[other, 2] // fx
                ):
                    _join(parent, one, other)
                    break
    piece = np.empty(count, np.int32)
    found = 0
    for e in range(count):
        root = _root(parent, e)
        if root == e:
            piece[e] = found
            found += 1
        else:
            piece[e] = piece[root]
    return piece


@njit(cache=True)
def _joined_corners(
    start: np.ndarray, elements: np.ndarray, piece: np.ndarray, cells: np.ndarray, layers: int
) -> tuple[np.ndarray, np.ndarray]:
    """Node numbers of the coarse elements, and the first node of each plane.

    Neighbouring pieces that share a node of the fine mesh share the corners that they have in common.
    """
    count = cells.shape[0]
    parent = np.arange(8 * count, dtype=np.int32)
    here = np.empty(8, np.int32)
    for node in range(start.size - 1):
        some = 0
        for a in range(start[node], start[node + 1]):
            one = piece[elements[a]]
            known = False
            for b in range(some):
                known = known or here[b] == one
            if known:
                continue
            for b in range(some):
                other = here[b]
                dz = cells[other, 0] - cells[one, 0]
                dy = cells[other, 1] - cells[one, 1]
                dx = cells[other, 2] - cells[one, 2]
                for corner in range(8):
                    z, y, x = (corner >> 2) - dz, ((corner >> 1) & 1) - dy, (corner & 1) - dx
                    if 0 <= z <= 1 and 0 <= y <= 1 and 0 <= x <= 1:
                        _join(parent, 8 * one + corner, 8 * other + 4 * z + 2 * y + x)
            here[some] = one
            some += 1
    plane_start = np.zeros(layers + 2, np.int64)
    for slot in range(8 * count):
        if _root(parent, slot) == slot:
            plane_start[cells[slot >> 3, 0] + ((slot >> 2) & 1) + 1] += 1
    for plane in range(layers + 1):
        plane_start[plane + 1] += plane_start[plane]
    filled = plane_start[:-1].copy()
    corners = np.empty((8, count), np.int32)
    for slot in range(8 * count):
        root = _root(parent, slot)
        if root == slot:
            plane = cells[slot >> 3, 0] + ((slot >> 2) & 1)
            corners[slot & 7, slot >> 3] = filled[plane]
            filled[plane] += 1
        else:
            corners[slot & 7, slot >> 3] = corners[root & 7, root >> 3]
    return corners, plane_start


@njit(cache=True)
def _interpolation(
    fine_cells: np.ndarray,
    fine_corners: np.ndarray,
    piece: np.ndarray,
    cells: np.ndarray,
    corners: np.ndarray,
    start: np.ndarray,
    elements: np.ndarray,
    factors: tuple[int, int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the trilinear interpolation. Every piece that a fine node belongs to gives the same row."""
    nodes = start.size - 1
    counts = np.zeros(nodes + 1, np.int32)
    # twice the position of a fine node in its coarse voxel, per axis 0, 1 or 2
    place = np.empty((nodes, 3), np.int8)
    for node in range(nodes):
        e = elements[start[node]]
        corner = 0
        while fine_corners[corner, e] != node:
            corner += 1
        entries = 1
        for axis in range(3):
            bit = (corner >> (2 - axis)) & 1
            offset = fine_cells[e, axis] + bit - factors[axis] * cells[piece[e], axis]
            place[node, axis] = offset if factors[axis] == 2 else 2 * offset
            entries *= 2 if place[node, axis] == 1 else 1
        counts[node + 1] = entries
    for node in range(nodes):
        counts[node + 1] += counts[node]
    index = np.empty(counts[nodes], np.int32)
    for node in range(nodes):
        e = piece[elements[start[node]]]
        at = counts[node]
        for corner in range(8):
            inside = True
            for axis in range(3):
                # a corner counts where the node does not lie on the opposite side
                bit = (corner >> (2 - axis)) & 1
                inside = inside and place[node, axis] != 2 - 2 * bit
            if inside:
                index[at] = corners[corner, e]
                at += 1
    return counts, index


@njit(cache=True)
def _transposed(start: np.ndarray, index: np.ndarray, nodes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    back_start = np.zeros(nodes + 1, np.int32)
    for m in range(index.size):
        back_start[index[m] + 1] += 1
    for n in range(nodes):
        back_start[n + 1] += back_start[n]
    filled = back_start[:-1].copy()
    back_index = np.empty(index.size, np.int32)
    halvings = np.empty(index.size, np.uint8)
    for row in range(start.size - 1):
        entries = start[row + 1] - start[row]
        for m in range(start[row], start[row + 1]):
            at = filled[index[m]]
            back_index[at] = row
            halvings[at] = (entries > 1) + (entries > 2) + (entries > 4)
            filled[index[m]] += 1
    return back_start, back_index, halvings


def coarser_mesh(mesh: Mesh, factors: tuple[int, int, int]) -> tuple[Mesh, Transfer, np.ndarray]:
    """The mesh of the pieces in coarse voxels.

    Parameters
    ----------
    mesh : Mesh
    factors : tuple of 3 ints
        Fine voxels in a coarse one along each axis, 1 or 2.

    Returns
    -------
    Mesh
    Transfer
    int32 ndarray of shape (elements of `mesh`,)
        To which coarse element each element belongs.
    """
    start, elements = _incidence(mesh.corners, mesh.nodes)
    piece = _pieces(mesh.cells, start, elements, factors)
    _, first = np.unique(piece, return_index=True)
    cells = np.ascontiguousarray(mesh.cells[first] // np.asarray(factors, np.int32))
    layers = int(cells[-1, 0]) + 1
    corners, plane_start = _joined_corners(start, elements, piece, cells, layers)
    rows = _interpolation(mesh.cells, mesh.corners, piece, cells, corners, start, elements, factors)
    layer_start = np.searchsorted(cells[:, 0], np.arange(layers + 1))
    transfer = Transfer(*rows, *_transposed(*rows, int(plane_start[-1])))
    return Mesh(cells, corners, layer_start, plane_start), transfer, piece
