"""Reading a CT at points, on a regular grid of another spacing, and the two facts every later threshold leans on.

Segmentation works on a few small isotropic arrays and on points along rays, never on the full volume with a filter: a
study of 512 x 512 x 500 voxels is read once. What is outside the volume is a fill value that the caller names, because
"no data" is not air.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.volume import Grid, Volume

IndexBox = tuple[slice, slice, slice]
"""Part of an array along (z, y, x), each slice with start and stop inside the array."""

CLIP_HU = (-1024.0, 3071.0)
"""Range of a 12-bit CT. Padding (-3024, -2000) below it would darken its neighbourhood when smoothed, metal above it
would brighten it."""

_REFERENCE_BONE_HU = 400.0
_BONE_SCALE_RANGE = (0.35, 1.25)


@njit(cache=True, nogil=True, inline="always")
def trilinear(array: NDArray, k: float, j: float, i: float, fill: float) -> float:
    """Value of `array` (Z, Y, X) at the fractional index (k, j, i), for use inside compiled code.

    The half voxel between the outer voxel centres and the face of the volume takes the value of the outer voxel; farther
    out, and at NaN, the value is `fill`.
    """
    depth, height, width = array.shape
    inside = -0.5 <= k <= depth - 0.5 and -0.5 <= j <= height - 0.5 and -0.5 <= i <= width - 0.5
    if not inside:
        return fill
    k = min(max(k, 0.0), depth - 1.0)
    j = min(max(j, 0.0), height - 1.0)
    i = min(max(i, 0.0), width - 1.0)
    k0, j0, i0 = int(k), int(j), int(i)
    k1, j1, i1 = min(k0 + 1, depth - 1), min(j0 + 1, height - 1), min(i0 + 1, width - 1)
    c, b, a = k - k0, j - j0, i - i0
    lower = (array[k0, j0, i0] * (1 - a) + array[k0, j0, i1] * a) * (1 - b) + (
        array[k0, j1, i0] * (1 - a) + array[k0, j1, i1] * a
    ) * b
    upper = (array[k1, j0, i0] * (1 - a) + array[k1, j0, i1] * a) * (1 - b) + (
        array[k1, j1, i0] * (1 - a) + array[k1, j1, i1] * a
    ) * b
    value: float = lower * (1 - c) + upper * c
    return value


@njit(cache=True, nogil=True)
def _interpolate(array: NDArray, index: NDArray, fill: float, out: NDArray) -> None:
    for n in range(index.shape[0]):
        out[n] = trilinear(array, index[n, 0], index[n, 1], index[n, 2], fill)


def interpolate(array: NDArray, index: NDArray, *, fill: float) -> NDArray[np.float32]:
    """Trilinear interpolation of an array at fractional indices.

    Parameters
    ----------
    array : int16, uint8, bool or float32 ndarray of shape (Z, Y, X)
    index : float ndarray of shape (..., 3)
        Fractional indices (k, j, i) of voxel centres.
    fill : float
        Value farther than half a voxel outside the array, and where the index is NaN.

    Returns
    -------
    float32 ndarray of shape (...)
    """
    index = np.asarray(index, dtype=np.float64)
    flat = np.ascontiguousarray(index.reshape(-1, 3))
    out = np.empty(len(flat), dtype=np.float32)
    _interpolate(_compiled_type(array), flat, float(fill), out)
    return out.reshape(index.shape[:-1])


def sample_lps(array: NDArray, grid: Grid, point_lps_mm: NDArray, *, fill: float) -> NDArray[np.float32]:
    """Trilinear interpolation of an array on `grid` at LPS points (..., 3) in mm; `fill` outside."""
    return interpolate(array, grid.to_index(np.asarray(point_lps_mm, float)), fill=fill)


def resample_onto(
    array: NDArray, grid: Grid, target: Grid, *, fill: float, threads: int | None = None
) -> NDArray[np.float32]:
    """An array on another grid of any orientation, by trilinear interpolation; `fill` outside."""
    out = np.empty(target.shape, dtype=np.float32)
    plane = np.stack(np.meshgrid(*(np.arange(float(n)) for n in target.shape[1:]), indexing="ij"), axis=-1)

    def work(begin: int, end: int) -> None:
        for k in range(begin, end):
            index = np.concatenate([np.full((*plane.shape[:2], 1), float(k)), plane], axis=2)
            out[k] = sample_lps(array, grid, target.to_lps(index), fill=fill)

    with ThreadPoolExecutor(_thread_count(threads)) as pool:
        _run(pool, target.shape[0], work)
    return out


def index_box(grid: Grid, points_lps_mm: NDArray, *, margin_mm: float = 0.0) -> IndexBox:
    """Smallest part of `grid` that holds the LPS points (N, 3) and a margin, cut to the grid, at least one voxel thick."""
    index = grid.to_index(np.asarray(points_lps_mm, float).reshape(-1, 3))
    margin = margin_mm / np.array(grid.spacing_mm)
    start = np.floor(index.min(axis=0) - margin).astype(int)
    stop = np.ceil(index.max(axis=0) + margin).astype(int) + 1
    bounds = []
    for axis in range(3):
        size = grid.shape[axis]
        first = min(max(int(start[axis]), 0), size - 1)
        bounds.append(slice(first, min(max(int(stop[axis]), first + 1), size)))
    return bounds[0], bounds[1], bounds[2]


def cropped_grid(grid: Grid, box: IndexBox) -> Grid:
    """The grid of ``array[box]`` for an array on `grid`."""
    matrix = grid.index_to_lps.copy()
    matrix[:3, 3] = grid.to_lps(np.array([float(s.start) for s in box]))
    z, y, x = (s.stop - s.start for s in box)
    return Grid((z, y, x), matrix)


def turned_grid(grid: Grid, turn_rad: float) -> Grid:
    """A grid of the same voxels and centre, turned about the patient's long axis, large enough to hold the other one.

    Its second axis points to the back of a patient who is turned by `turn_rad` to the left.
    """
    cosine, sine = np.cos(turn_rad), np.sin(turn_rad)
    edges = np.array(grid.spacing_mm)
    size = np.array(grid.shape) * edges
    reach = np.abs(np.array([[1, 0, 0], [0, cosine, sine], [0, sine, cosine]])) @ size
    shape = np.maximum(1, np.ceil(reach / edges)).astype(int)
    turn = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ grid.index_to_lps[:3, :3]
    centre = grid.to_lps((np.array(grid.shape) - 1) / 2)
    matrix[:3, 3] = centre - matrix[:3, :3] @ ((shape - 1) / 2)
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), matrix)


def resample_isotropic(
    volume: Volume,
    spacing_mm: float,
    *,
    box: IndexBox | None = None,
    clip_hu: tuple[float, float] = CLIP_HU,
    threads: int | None = None,
) -> tuple[NDArray[np.float32], Grid]:
    """The volume, or a part of it, on isotropic voxels along its own axes.

    Parameters
    ----------
    volume : Volume
    spacing_mm : float
        Edge of the new voxels.
    box : tuple of slice, optional
        Part of the source array; see `index_box`. Default: all of it.
    clip_hu : tuple of float
        Source values are clipped to this range first.
    threads : int, optional
        Default: all processors, at most 4.

    Returns
    -------
    hu : float32 ndarray of shape (Z, Y, X)
    grid : Grid
        Same axes and same outer faces as the (part of the) source, to half a new voxel; centred on it.

    Notes
    -----
    Along each axis the weights are a tent as wide as the coarser of the two spacings: linear interpolation where the new
    grid is finer, and a low pass matched to the ratio where it is coarser.
    """
    return resample_array(volume.hu, volume.grid, spacing_mm, box=box, clip=clip_hu, threads=threads)


def resample_array(
    array: NDArray,
    grid: Grid,
    spacing_mm: float,
    *,
    box: IndexBox | None = None,
    clip: tuple[float, float] = (-np.inf, np.inf),
    threads: int | None = None,
) -> tuple[NDArray[np.float32], Grid]:
    """`resample_isotropic` for any array on a grid; a bool array becomes the fraction of each new voxel that is True."""
    if array.shape != grid.shape:
        raise ValueError(f"array of shape {array.shape} on a grid of shape {grid.shape}")
    part = box or (slice(0, grid.shape[0]), slice(0, grid.shape[1]), slice(0, grid.shape[2]))
    starts, weights, matrix = [], [], grid.index_to_lps.copy()
    origin = np.empty(3)
    for axis in range(3):
        first, stop = part[axis].start, part[axis].stop
        source_mm = grid.spacing_mm[axis]
        count = max(1, round((stop - first) * source_mm / spacing_mm))
        centre = (first + stop - 1) / 2
        position = centre + (np.arange(count) - (count - 1) / 2) * (spacing_mm / source_mm)
        origin[axis] = position[0]
        start, weight = _tent_weights(position, max(1.0, spacing_mm / source_mm), grid.shape[axis])
        starts.append(start)
        weights.append(weight)
        matrix[:3, axis] *= spacing_mm / source_mm
    matrix[:3, 3] = grid.to_lps(origin)

    shape = (len(starts[0]), len(starts[1]), len(starts[2]))
    # Source slices that some output slice reads; every other one is left alone.
    first_slice = int(starts[0].min())
    last_slice = min(int(starts[0].max()) + weights[0].shape[1], grid.shape[0])
    planes = np.empty((last_slice - first_slice, shape[1], shape[2]), dtype=np.float32)
    out = np.empty(shape, dtype=np.float32)
    source = _compiled_type(array)
    low, high = (np.float32(v) for v in clip)
    with ThreadPoolExecutor(_thread_count(threads)) as pool:
        _run(pool, len(planes), lambda a, b: _resample_planes(
            source, first_slice, a, b, starts[1], weights[1], starts[2], weights[2], low, high, planes
        ))  # fmt: skip
        _run(pool, shape[0], lambda a, b: _resample_between_planes(
            planes, first_slice, a, b, starts[0], weights[0], out
        ))  # fmt: skip
    return out, Grid(shape, matrix)


def body_mask(hu: NDArray[np.float32], grid: Grid, *, threshold_hu: float = -300.0) -> NDArray[np.bool_]:
    """Where the patient is: the largest body of soft tissue and bone, with lungs and bowel, without table and clothes.

    Parameters
    ----------
    hu : float32 ndarray of shape (Z, Y, X)
        An array on a grid of 1 to 6 mm, such as `resample_isotropic` gives.
    grid : Grid
    threshold_hu : float
        What is above it counts as tissue.

    Returns
    -------
    bool ndarray of shape (Z, Y, X)
        All False if nothing exceeds the threshold. Outlined in steps of about 4 mm: meant for "inside or not" and centres
        of mass, not for volumes.
    """
    # A table is thin: it does not survive an opening by 4 mm, which costs nothing on a 4 mm lattice.
    stride = tuple(max(1, round(4.0 / edge)) for edge in grid.spacing_mm)
    coarse = hu[:: stride[0], :: stride[1], :: stride[2]] > threshold_hu
    opened = ndimage.binary_opening(coarse, ndimage.generate_binary_structure(3, 1), border_value=0)
    # At the faces of the volume the opening has nothing to stand on; take what it left one voxel further in.
    opened = ndimage.binary_dilation(opened, ndimage.generate_binary_structure(3, 1)) & coarse
    labels, count = ndimage.label(opened)
    if count == 0:
        return np.zeros(hu.shape, dtype=bool)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    body = labels == sizes.argmax()
    for k in range(len(body)):
        body[k] = ndimage.binary_fill_holes(body[k])
    for axis in range(3):
        body = np.repeat(body, stride[axis], axis=axis).take(np.arange(hu.shape[axis]), axis=axis)
    return np.ascontiguousarray(body)


def bone_hu_scale(hu: NDArray[np.float32], body: NDArray[np.bool_] | None = None) -> float:
    """How bright bone is in this study, 1.0 in an ordinary one; multiply every bone threshold by it.

    The 80th percentile of the voxels that count as bone, over 400 HU, its usual value on a 1.5 to 2 mm grid (280 to 670 in
    nine scans from chest to thigh). "Counts as bone" is first what exceeds 150 HU and then what exceeds that
    times the scale, but not less than 130 HU, or enhanced vessels and kidneys would pass for thin bone. Clipped to
    0.35-1.25. A higher percentile would tell femoral shaft from spine rather than dense bone from thin bone.

    Parameters
    ----------
    hu : float32 ndarray of shape (Z, Y, X)
    body : bool ndarray of shape (Z, Y, X), optional
        Count inside it only.
    """
    values = hu[body] if body is not None else hu.ravel()
    # Metal (screws, cement, a prosthesis) is not bone, however bright.
    values = values[(values > 130.0) & (values < 1600.0)]
    scale = 1.0
    for _ in range(2):
        bone = values[values > max(130.0, 0.375 * scale * _REFERENCE_BONE_HU)]
        if bone.size < 200:
            return scale
        scale = float(np.clip(np.percentile(bone, 80.0) / _REFERENCE_BONE_HU, *_BONE_SCALE_RANGE))
    return scale


def _compiled_type(array: NDArray) -> NDArray:
    """The array in one of the few layouts that the compiled code is specialised for."""
    if array.dtype == np.bool_:
        array = array.view(np.uint8)
    elif array.dtype not in (np.int16, np.uint8, np.float32):
        array = array.astype(np.float32)
    return np.ascontiguousarray(array)


def _thread_count(threads: int | None) -> int:
    return max(1, threads) if threads is not None else min(4, os.cpu_count() or 1)


def _run(pool: ThreadPoolExecutor, count: int, work: Callable[[int, int], None]) -> None:
    chunk = max(1, min(32, -(-count // 8)))
    for done in [pool.submit(work, a, min(a + chunk, count)) for a in range(0, count, chunk)]:
        done.result()


def _tent_weights(
    position: NDArray[np.float64], half_width: float, size: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """First source index (N,) and normalised weights (N, T) of tents about fractional source positions (N,)."""
    taps = min(int(np.ceil(2 * half_width)) + 1, size)
    start = np.clip(np.ceil(position - half_width).astype(np.int64), 0, size - taps)
    offset = np.abs(start[:, None] + np.arange(taps) - np.clip(position, 0, size - 1)[:, None])
    weight = np.maximum(1 - offset / half_width, 0)
    return start, (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)


@njit(cache=True, nogil=True, fastmath=True)
def _resample_planes(
    source: NDArray,
    first_slice: int,
    begin: int,
    end: int,
    start_y: NDArray,
    weight_y: NDArray,
    start_x: NDArray,
    weight_x: NDArray,
    low: np.float32,
    high: np.float32,
    planes: NDArray,
) -> None:
    """Source slices on the new in-plane grid; `planes` (S, Y', X') counts from `first_slice`."""
    row_first = start_y.min()
    row_last = start_y.max() + weight_y.shape[1]
    narrow = np.empty((row_last - row_first, len(start_x)), dtype=np.float32)
    for plane in range(begin, end):
        for j in range(row_first, row_last):
            row = source[first_slice + plane, j]
            for i in range(len(start_x)):
                total = np.float32(0)
                for t in range(weight_x.shape[1]):
                    value = np.float32(row[start_x[i] + t])
                    total += weight_x[i, t] * min(max(value, low), high)
                narrow[j - row_first, i] = total
        for j in range(len(start_y)):
            target = planes[plane, j]
            target[:] = 0
            for t in range(weight_y.shape[1]):
                weight = weight_y[j, t]
                line = narrow[start_y[j] - row_first + t]
                for i in range(len(start_x)):
                    target[i] += weight * line[i]


@njit(cache=True, nogil=True, fastmath=True)
def _resample_between_planes(
    planes: NDArray, first_slice: int, begin: int, end: int, start_z: NDArray, weight_z: NDArray, out: NDArray
) -> None:
    for k in range(begin, end):
        for j in range(out.shape[1]):
            target = out[k, j]
            target[:] = 0
            for t in range(weight_z.shape[1]):
                weight = weight_z[k, t]
                line = planes[start_z[k] - first_slice + t, j]
                for i in range(out.shape[2]):
                    target[i] += weight * line[i]
