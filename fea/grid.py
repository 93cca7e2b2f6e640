"""From a model in the user's axes to arrays the kernels like, and back.

The box is cropped to the solid voxels, the axes are permuted so that rows of voxels are long and mostly solid, and rows
are padded to a multiple of 32 bytes. Component 0 belongs to the slowest internal axis, component 2 to the fastest.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
from dataclasses import dataclass

import numpy as np

from fea.errors import Reason, SolveError
from fea.kernels import LONGEST_ROW

LANES = 8  # rows are whole 32-byte groups: one AVX2 register of float32, half an AVX-512 one
_ALIGNMENT = 64
_OWN_PAGES = 1 << 20
_SLACK = 2 * _ALIGNMENT  # kernels read one node past the end of a row


def _pages(size: int) -> mmap.mmap:
    """Anonymous memory of the process, in huge pages where the system has them: a third faster on large fields."""
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    return pages


def zeros_field(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Zeros on a cache-line boundary, readable for a few entries past the end."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    size = count + _ALIGNMENT + _SLACK
    # pages of their own go back to the system when a field ends; what an allocator keeps would add up to a third
    raw = np.frombuffer(_pages(size), np.uint8) if size > _OWN_PAGES else np.zeros(size, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + count].view(dtype).reshape(shape)


def padded(count: int) -> int:
    """`count` rounded up to whole registers."""
    return -(-count // LANES) * LANES


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the internal arrays lie in the user's box.

    Attributes
    ----------
    order : tuple of 3 ints
        The user's axes (0 = z, 1 = y, 2 = x) in internal order, slowest first.
    start, shape : tuple of 3 ints
        First voxel and size of the cropped box, in the user's axes.
    node_shape : tuple of 3 ints
        Size of the user's node array.
    work : float
        What one application costs, in voxels: the hull of the solid voxels of each row in whole registers, and a
        constant for starting the row.
    """

    order: tuple[int, int, int]
    start: tuple[int, int, int]
    shape: tuple[int, int, int]
    node_shape: tuple[int, int, int]
    work: float

    @property
    def internal_shape(self) -> tuple[int, int, int]:
        """Voxels along the internal axes."""
        slow, middle, fast = self.order
        return self.shape[slow], self.shape[middle], self.shape[fast]

    @property
    def field_shape(self) -> tuple[int, ...]:
        """Shape of a field: node planes, node rows, components, padded positions in the row."""
        nz, ny, nx = self.internal_shape
        return nz + 1, ny + 1, 3, padded(nx + 1)

    def placed(self, voxels: np.ndarray) -> np.ndarray:
        """An array per voxel as the float32 array (nz, ny+1, stride) that the kernels read, zero where padded."""
        nz, ny, nx = self.internal_shape
        array = zeros_field((nz, ny + 1, padded(nx + 1)), np.float32)
        array[:, :ny, :nx] = self.voxels_in(voxels)
        return array

    def voxels_in(self, voxels: np.ndarray) -> np.ndarray:
        """A view of an array per voxel, cropped and permuted."""
        box = tuple(slice(s, s + n) for s, n in zip(self.start, self.shape, strict=True))
        return voxels[box].transpose(self.order)

    def _node_box(self) -> tuple[slice, ...]:
        return tuple(slice(s, s + n + 1) for s, n in zip(self.start, self.shape, strict=True))

    def field_in(self, vectors: np.ndarray, dtype: type = np.float64) -> np.ndarray:
        """An array (nz+1, ny+1, nx+1, 3) in the user's axes as a padded internal field."""
        box = vectors[self._node_box()].transpose(*self.order, 3)
        nx = self.internal_shape[2]
        field = zeros_field(self.field_shape, dtype)
        for internal, component in enumerate(self.order):
            field[:, :, internal, : nx + 1] = box[..., component]
        return field

    def field_out(self, field: np.ndarray) -> np.ndarray:
        """The inverse of `field_in`; nodes outside the cropped box get zero."""
        vectors = np.zeros((*self.node_shape, 3), field.dtype)
        box = vectors[self._node_box()].transpose(*self.order, 3)
        nx = self.internal_shape[2]
        for internal, component in enumerate(self.order):
            box[..., component] = field[:, :, internal, : nx + 1]
        return vectors

    def flat(self, nodes: np.ndarray, component: int) -> np.ndarray:
        """Flat indices of one of the user's components (0 = z) of nodes (n, 3) in the user's axes, inside the cropped box."""
        moved = (nodes - np.asarray(self.start))[:, list(self.order)]
        _, rows, _, stride = self.field_shape
        internal = self.order.index(component)
        at: np.ndarray = ((moved[:, 0] * rows + moved[:, 1]) * 3 + internal) * stride + moved[:, 2]
        return at

    def locate(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Node (n, 3), in internal axes, and internal component of flat indices."""
        k, j, component, i = np.unravel_index(at, self.field_shape)
        return np.column_stack([k, j, i]), component

    def fill_affine(self, field: np.ndarray, component: int, fit: np.ndarray) -> None:
        """Set one internal component to fit[0] + fit[1:] . node."""
        nz, ny, nx = self.internal_shape
        field[:, :, component, : nx + 1] = (
            fit[0]
            + (fit[1] * np.arange(nz + 1))[:, None, None]
            + (fit[2] * np.arange(ny + 1))[:, None]
            + fit[3] * np.arange(nx + 1)
        )


def cropped_box(solid: np.ndarray) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """First voxel and size of the box around the solid voxels."""
    start, shape = [], []
    for axis in range(3):
        occupied = np.flatnonzero(solid.any(axis=tuple(a for a in range(3) if a != axis)))
        start.append(int(occupied[0]))
        shape.append(int(occupied[-1]) + 1 - int(occupied[0]))
    return (start[0], start[1], start[2]), (shape[0], shape[1], shape[2])


def choose_layout(solid: np.ndarray) -> Layout:
    """Crop to the solid voxels and choose the row axis along which least work is done on voids.

    Raises
    ------
    SolveError
        ``bad_shape`` if no axis is short enough for the rows of the kernels.
    """
    start, shape = cropped_box(solid)
    if min(shape) >= LONGEST_ROW:
        raise SolveError(Reason.BAD_SHAPE, f"the shortest edge of {shape} voxels is longer than {LONGEST_ROW - 1}.")
    box = solid[tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))]
    best: tuple[float, int] = (np.inf, 2)
    for fast in (2, 1, 0):
        extent = shape[fast]
        if extent >= LONGEST_ROW:
            continue
        first = box.argmax(axis=fast)
        last = extent - np.flip(box, axis=fast).argmax(axis=fast)
        used = box.any(axis=fast)
        registers = (last // LANES + 1) - first // LANES
        work = float((registers[used] * LANES + LANES).sum())
        if work < 0.95 * best[0]:
            best = (work, fast)
    slow, middle = (axis for axis in range(3) if axis != best[1])
    nodes = (solid.shape[0] + 1, solid.shape[1] + 1, solid.shape[2] + 1)
    return Layout((slow, middle, best[1]), start, shape, nodes, best[0])


def row_ranges(solid: np.ndarray) -> np.ndarray:
    """For each node row the range of nodes to work on, in whole registers.

    The range covers every node of every solid voxel in the 3 x 3 element rows around the row; that it does so, and
    not only the nodes of the row itself, is what lets the kernel leave its scratch uncleared between rows.

    Parameters
    ----------
    solid : bool ndarray of shape (Z, Y, X)

    Returns
    -------
    int64 ndarray of shape (Z+1, Y+1, 2)
        Start and stop; equal where there is nothing to do.
    """
    nz, ny, nx = solid.shape
    far = np.int64(1 << 30)
    used = solid.any(axis=2)
    first = np.full((nz + 3, ny + 3), far)
    stop = np.full((nz + 3, ny + 3), -1, dtype=np.int64)
    first[1:-2, 1:-2] = np.where(used, solid.argmax(axis=2), far)
    stop[1:-2, 1:-2] = np.where(used, nx - solid[:, :, ::-1].argmax(axis=2) + 1, -1)
    for axis in (0, 1):
        before, middle, after = (np.take(first, range(s, s + first.shape[axis] - 2), axis=axis) for s in (0, 1, 2))
        first = np.minimum(np.minimum(before, middle), after)
        before, middle, after = (np.take(stop, range(s, s + stop.shape[axis] - 2), axis=axis) for s in (0, 1, 2))
        stop = np.maximum(np.maximum(before, middle), after)
    ranges = np.zeros((nz + 1, ny + 1, 2), np.int64)
    some = stop > 0
    ranges[some, 0] = first[some] // LANES * LANES
    ranges[some, 1] = -(-stop[some] // LANES) * LANES
    return ranges
