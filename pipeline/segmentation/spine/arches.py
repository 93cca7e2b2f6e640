"""The arch of each vertebra: pedicles, laminae and processes, beside its body and never inside it.

All bone behind the bodies hangs together through facet and rib joints that a CT resolves only in part. It is shared out by
the way through bone: each voxel goes to the vertebra whose pedicles, or whose part of the midline, it reaches at the least
cost, where faint bone costs more than bright bone. The midline is cut between neighbouring spinous processes first, where the
mid-sagittal sheet shows a gap. Ribs, and bone beyond the first and the last body, take part as competitors and are left out.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pipeline.errors import Finding, Severity, Status
from pipeline.segmentation.model import Segmentation, Vertebra
from pipeline.segmentation.sampling import (
    IndexBox,
    bone_hu_scale,
    cropped_grid,
    index_box,
    resample_isotropic,
    sample_lps,
)
from pipeline.volume import Grid, Volume

_WORKING_MM = 1.5
_SOFT_HU, _BONE_HU, _BRIGHT_HU = 50.0, 160.0, 800.0
"""Muscle, the least HU of bone, and bone through which a way costs nothing extra, at the usual brightness of bone."""
_EDGE_SHARE = 0.5
"""Of the way from muscle to the middle HU of an arch: where its outer face is drawn."""
_COST_OF_FAINT_BONE = 4.0
_CANAL_MM = 5.0
"""Nearer to the centre line of the canal there is no bone."""
_SHEET_MM, _SHEET_DEPTH_MM = 1.0, 62
_SHEET_HALF_WIDTH_MM = 4.0
_STEEPEST_DOWN, _STEEPEST_UP = 2, 1
_FOREIGN = 255
_LARGEST_TURN_RAD = np.radians(25.0)
_REACH = 1.25
"""How far from the midline transverse processes may go, in widths of the body; bone beyond is rib or pelvis."""
_RIB_ASIDE_MM = 5.0
_RIB_BEFORE_WALL_MM = (3.0, 10.0)
"""Before the posterior wall, thoracic and lumbar: the processes of the lower lumbar spine rise from the side of the body."""
_LEAST_VOLUME_SHARE, _GREATEST_VOLUME_SHARE = 0.2, 2.5
_LEAST_SIDE_SHARE = 0.4


@dataclass(frozen=True)
class _Site:
    """Where one arch is looked for: the frame of its body with the front-back line through the canal."""

    label: int
    centre: NDArray[np.float64]
    axes: NDArray[np.float64]
    """Rows: left, posterior, superior."""
    canal_mm: float
    """Distance of the centre of the canal behind that of the body."""
    width_mm: float
    depth_mm: float
    height_mm: float
    root_mm: float
    """How far in front of the posterior wall bone beside the body is transverse process; before that it is rib."""

    def local(self, points: NDArray) -> NDArray[np.float64]:
        return np.asarray((points - self.centre) @ self.axes.T, np.float64)


def find_arches(
    volume: Volume, segmentation: Segmentation, *, threads: int | None = None
) -> tuple[NDArray[np.uint8] | None, tuple[Finding, ...]]:
    """Posterior elements of the vertebrae of a segmentation.

    Parameters
    ----------
    volume : Volume
    segmentation : Segmentation
        With the bodies and the centre line of the canal.
    threads : int, optional
        Default: all processors, at most 4.

    Returns
    -------
    arches : uint8 ndarray of shape (Z, Y, X) or None
        Each arch under the number of its body; None when there is no canal or no body.
    findings : tuple of Finding
        ``arches_left_out`` (info) names the vertebrae without an arch, and why.
    """
    canal = segmentation.canal_lps_mm
    if canal is None or len(canal) < 2 or not segmentation.vertebrae:
        return None, ()
    sites = _sites(segmentation, canal)
    hu, grid = _working_array(volume, sites, threads)
    scale = min(1.0, bone_hu_scale(hu))
    bone_hu, bright_hu = (_SOFT_HU + (x - _SOFT_HU) * scale for x in (_BONE_HU, _BRIGHT_HU))
    cuts = _midline_cuts(hu, grid, canal, sites, bone_hu)
    markers, allowed = _markers(hu > bone_hu, grid, sites, cuts, segmentation)
    faint = np.clip((bright_hu - hu) / (bright_hu - bone_hu), 0.0, 1.0)
    cost = np.where(allowed, 1.0 + _COST_OF_FAINT_BONE * faint, np.inf).astype(np.float32)
    owner = _shared_out(cost, markers)
    owner[owner == _FOREIGN] = 0
    return _written(volume, segmentation, owner, hu, grid, bone_hu)


def _sites(segmentation: Segmentation, canal: NDArray[np.float64]) -> list[_Site]:
    """A site for each body from cranial to caudal, with one more at either end that stands for whatever follows there."""
    bodies = segmentation.vertebrae
    turns, distances = np.zeros(len(bodies)), np.zeros(len(bodies))
    for i, vertebra in enumerate(bodies):
        behind, aside = _canal_behind(vertebra, canal)
        usual = 0.4 * vertebra.depth_mm < behind < vertebra.depth_mm and abs(aside) < behind
        # Where the line of the canal ends, or is not behind the body, the frame has the better say.
        distances[i] = np.hypot(behind, aside) if usual else 0.5 * vertebra.depth_mm + 8.0
        turns[i] = np.arctan2(aside, behind) if usual else 0.0
    # Neighbours turn alike; a single canal point that lies aside is an error of the line.
    padded = np.pad(turns, 1, mode="edge")
    turns = np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)
    sites = []
    for vertebra, turn, distance in zip(bodies, turns, distances, strict=True):
        frame = vertebra.frame
        behind_lps = np.cos(turn) * frame.posterior + np.sin(turn) * frame.left
        sites.append(
            _Site(
                vertebra.label,
                frame.centre_lps_mm,
                np.stack([np.cross(behind_lps, frame.superior), behind_lps, frame.superior]),
                float(distance),
                vertebra.width_mm,
                vertebra.depth_mm,
                _height_mm(vertebra),
                _RIB_BEFORE_WALL_MM[vertebra.level is not None and vertebra.level[0] == "L"],
            )
        )
    return [_beyond(sites, 0), *sites, _beyond(sites, -1)]


def _canal_behind(vertebra: Vertebra, canal: NDArray[np.float64]) -> tuple[float, float]:
    """Where the canal line crosses the middle plane of a body: behind its centre, and to the left (mm)."""
    local = vertebra.frame.to_frame(canal[np.linalg.norm(canal - vertebra.frame.centre_lps_mm, axis=1) < 60.0])
    if len(local) < 2:
        return 0.0, 0.0
    order = np.argsort(local[:, 2])
    aside, behind = (float(np.interp(0.0, local[order, 2], local[order, axis])) for axis in (0, 1))
    return behind, aside


def _height_mm(vertebra: Vertebra) -> float:
    if vertebra.surface is not None and np.isfinite(vertebra.surface.upper_mm - vertebra.surface.lower_mm).any():
        return float(np.nanmedian(vertebra.surface.upper_mm - vertebra.surface.lower_mm))
    return 0.75 * vertebra.depth_mm


def _beyond(sites: Sequence[_Site], end: int) -> _Site:
    """What follows the first or the last site, if the spine goes on bending as it does there."""
    last = sites[end]
    if len(sites) == 1:
        step = last.axes[2] * (1.35 * last.height_mm) * (1.0 if end == 0 else -1.0)
        return replace(last, label=_FOREIGN, centre=last.centre + step)
    other = sites[1 if end == 0 else -2]
    turn = Rotation.from_matrix(last.axes.T @ other.axes).as_rotvec()
    angle = float(np.linalg.norm(turn))
    turned = Rotation.from_rotvec(turn * min(1.0, _LARGEST_TURN_RAD / max(angle, 1e-6)))
    step = 0.5 * (turned.apply(last.centre - other.centre) + last.centre - other.centre)
    return replace(last, label=_FOREIGN, centre=last.centre + step, axes=turned.apply(last.axes))


def _working_array(volume: Volume, sites: Sequence[_Site], threads: int | None) -> tuple[NDArray[np.float32], Grid]:
    corners = []
    for site in sites[1:-1]:
        reach = 1.5 * site.width_mm
        corners += [
            site.centre + np.array([u, v, w]) @ site.axes
            for u in (-reach, reach)
            for v in (0.2 * site.depth_mm, site.canal_mm + _SHEET_DEPTH_MM)
            for w in (-1.8 * site.height_mm, 1.1 * site.height_mm)
        ]
    box = index_box(volume.grid, np.array(corners))
    return resample_isotropic(volume, _WORKING_MM, box=box, threads=threads)


# ------------------------------------------------------------------------------------------------------ midline


def _midline_cuts(
    hu: NDArray[np.float32], grid: Grid, canal: NDArray[np.float64], sites: Sequence[_Site], bone_hu: float
) -> list[NDArray[np.float64]]:
    """Between each site and the next one, points (V, 3) of a line that runs from the canal to the back between their
    spinous processes, where the mid-sagittal sheet holds the least bone."""
    steps = np.linalg.norm(np.diff(canal, axis=0), axis=1)
    run = np.concatenate([[0.0], np.cumsum(steps)])
    heights = [_run_at(canal, run, site) for site in sites]
    low, high = min(heights) - 40.0, max(heights) + 10.0
    s = np.arange(low, high, _SHEET_MM)
    line = np.stack([_beyond_ends(s, run, canal[:, axis]) for axis in range(3)], axis=-1)
    line = ndimage.gaussian_filter1d(line, 6.0 / _SHEET_MM, axis=0, mode="nearest")
    along = np.gradient(line, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    order = np.argsort(heights)
    behind = np.stack(
        [np.interp(s, np.array(heights)[order], np.array([x.axes[1, a] for x in sites])[order]) for a in range(3)], -1
    )
    behind -= along * (behind * along).sum(axis=1, keepdims=True)
    behind /= np.linalg.norm(behind, axis=1, keepdims=True)
    left = np.cross(behind, along)
    v = np.arange(_CANAL_MM, _SHEET_DEPTH_MM, _SHEET_MM)
    u = np.linspace(-_SHEET_HALF_WIDTH_MM, _SHEET_HALF_WIDTH_MM, 5)
    places = line[:, None] + behind[:, None] * v[:, None]
    sheet = sample_lps(hu, grid, places[:, :, None] + left[:, None, None] * u[:, None], fill=_SOFT_HU).mean(axis=-1)
    resistance = np.clip((sheet - _SOFT_HU) / (bone_hu - _SOFT_HU), 0.0, 4.0)
    cuts = []
    for upper, lower in pairwise(heights):
        pitch = upper - lower
        start = (s - (0.5 * (upper + lower) - 0.1 * pitch)) / (0.25 * pitch)
        path = _cheapest_path(resistance, np.where(np.abs(start) < 1.6, 2.0 * start**2, np.inf))
        cuts.append(places[path, np.arange(len(v))])
    return cuts


def _run_at(canal: NDArray[np.float64], run: NDArray[np.float64], site: _Site) -> float:
    """Length along the canal at the height of a site; the line goes on straight beyond its ends."""
    along = (canal - site.centre) @ site.axes[2]
    i = int(np.clip(np.searchsorted(along, 0.0), 1, len(along) - 1))
    rise = max(float(along[i] - along[i - 1]), 1e-3)
    share = -float(along[i - 1]) / rise
    return float(run[i - 1] + share * (run[i] - run[i - 1]))


def _beyond_ends(s: NDArray, run: NDArray, values: NDArray) -> NDArray[np.float64]:
    """Linear interpolation that goes on straight at both ends, in the direction of the last 10 mm."""
    out = np.interp(s, run, values)
    for end, beyond in ((0, s < run[0]), (-1, s > run[-1])):
        other = int(np.searchsorted(run, run[0] + 10.0 if end == 0 else run[-1] - 10.0))
        other = min(max(other, 1 if end == 0 else 0), len(run) - 1 if end == 0 else len(run) - 2)
        slope = (values[other] - values[end]) / (run[other] - run[end])
        out = np.where(beyond, values[end] + slope * (s - run[end]), out)
    return np.asarray(out, np.float64)


def _cheapest_path(resistance: NDArray, start: NDArray) -> NDArray[np.int64]:
    """Row (S) of the cheapest way through each column of `resistance` (S, V), falling by at most two rows per column."""
    total = start + resistance[:, 0]
    choices = []
    moves = range(-_STEEPEST_UP, _STEEPEST_DOWN + 1)
    for column in resistance.T[1:]:
        # From row s one comes from row s + move: the way goes down the back.
        options = np.full((len(moves), len(total)), np.inf)
        for row, move in enumerate(moves):
            if move > 0:
                options[row, :-move] = total[move:]
            elif move < 0:
                options[row, -move:] = total[:move]
            else:
                options[row] = total
            options[row] += 0.02 * (move - 0.5) ** 2
        best = options.argmin(axis=0)
        choices.append(best)
        total = options[best, np.arange(len(total))] + column
    path = [int(total.argmin())]
    for best in choices[::-1]:
        path.append(path[-1] + moves[int(best[path[-1]])])
    return np.array(path[::-1])


# ------------------------------------------------------------------------------------------------------ markers


def _markers(
    bone: NDArray[np.bool_],
    grid: Grid,
    sites: Sequence[_Site],
    cuts: Sequence[NDArray[np.float64]],
    segmentation: Segmentation,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Bone that plainly belongs to one arch, and all bone that may belong to some arch."""
    near_body = _bodies(segmentation, grid)
    bone = bone & ~near_body
    markers = np.zeros(bone.shape, np.uint8)
    allowed = np.zeros(bone.shape, bool)
    rib = np.zeros(bone.shape, bool)
    for i, site in enumerate(sites):
        box, (u, v, w) = _local_coordinates(grid, site)
        inside = bone[box]
        wall, half = 0.5 * site.depth_mm, 0.5 * site.width_mm
        aside = np.abs(u)
        canal_v = v - site.canal_mm
        height = w / site.height_mm
        ring = (aside < _REACH * site.width_mm) & (np.hypot(u, canal_v) > _CANAL_MM) & (height > -1.7) & (height < 0.95)
        # Beside and just behind the body only a pedicle or a transverse process is arch; the rest is its own rim.
        root = (aside > 6.0) & (height > -0.25) & (height < 0.55)
        allowed[box] |= inside & ring & (v > np.where(root, wall - site.root_mm, wall + 4.0))
        own = inside & root & (v > wall - 3.0) & (aside < max(0.5 * half, 6.0) + 8.0) & (canal_v < 4.0)
        own &= (height > 0.0) & (height < 0.4)
        own |= inside & (aside < 11.0) & (canal_v > 6.0) & (canal_v < 20.0) & (height > -0.55) & (height < 0.0)
        own |= inside & (aside < _SHEET_HALF_WIDTH_MM) & (canal_v > _CANAL_MM)
        between = np.ones(inside.shape, bool)
        if i > 0:
            between &= (w < _height_of_cut(site, cuts[i - 1], v) - 1.0) | (canal_v < _CANAL_MM)
        if i < len(sites) - 1:
            between &= (w > _height_of_cut(site, cuts[i], v) + 1.0) | (canal_v < _CANAL_MM)
        own &= between
        target = markers[box]
        target[own & (target == 0)] = site.label
        lateral = (aside > _REACH * site.width_mm) | ((aside > half + _RIB_ASIDE_MM) & (v < wall - site.root_mm))
        rib[box] |= inside & (np.abs(height) < 0.8) & lateral
    markers[rib & (markers == 0)] = _FOREIGN
    return markers, allowed | (markers > 0)


def _bodies(segmentation: Segmentation, grid: Grid) -> NDArray[np.bool_]:
    """All bodies on the working grid."""
    return np.asarray(segmentation.labels[_nearest(segmentation.grid, grid)] > 0)


def _nearest(source: Grid, target: Grid) -> tuple[NDArray[np.int64], ...]:
    """Open index of the voxel of `source` nearest to each one of `target`, for grids with the same axes."""
    places = []
    for axis in range(3):
        points = np.zeros((target.shape[axis], 3))
        points[:, axis] = np.arange(target.shape[axis])
        at = np.rint(source.to_index(target.to_lps(points))[:, axis]).astype(int)
        places.append(np.clip(at, 0, source.shape[axis] - 1))
    return np.ix_(*places)


def _local_coordinates(grid: Grid, site: _Site) -> tuple[IndexBox, tuple[NDArray, NDArray, NDArray]]:
    """The part of the working grid about a site, and left, posterior and superior coordinates (mm) there."""
    reach = 1.6 * site.width_mm
    corners = [
        site.centre + np.array([u, v, w]) @ site.axes
        for u in (-reach, reach)
        for v in (-0.2 * site.depth_mm, site.canal_mm + _SHEET_DEPTH_MM)
        for w in (-1.8 * site.height_mm, site.height_mm)
    ]
    box = index_box(grid, np.array(corners))
    part = cropped_grid(grid, box)
    origin = site.local(part.to_lps(np.zeros(3)))
    steps = site.axes @ part.index_to_lps[:3, :3]
    z, y, x = np.ogrid[: part.shape[0], : part.shape[1], : part.shape[2]]
    u, v, w = (
        np.asarray(origin[row] + steps[row, 0] * z + steps[row, 1] * y + steps[row, 2] * x, np.float32)
        for row in range(3)
    )
    return box, (u, v, w)


def _height_of_cut(site: _Site, cut: NDArray[np.float64], v: NDArray) -> NDArray:
    """Height in the frame of a site of a cut at posterior coordinates `v`."""
    local = site.local(cut)
    order = np.argsort(local[:, 1])
    return np.asarray(np.interp(v, local[order, 1], local[order, 2]))


# ------------------------------------------------------------------------------------------------------ sharing


@njit(cache=True, nogil=True)
def _flood(cost: NDArray, owner: NDArray) -> None:
    """Gives each passable voxel (finite cost per step) the owner of the marker from which it is reached at the least cost."""
    depth, height, width = cost.shape
    least = np.full(cost.shape, np.float32(np.inf))
    heap = [(np.float32(0.0), 0)]
    heap.pop()
    for k in range(depth):
        for j in range(height):
            for i in range(width):
                if owner[k, j, i] > 0:
                    least[k, j, i] = 0.0
                    heap.append((np.float32(0.0), (k * height + j) * width + i))
    while len(heap) > 0:
        so_far, place = heapq.heappop(heap)
        k, j, i = place // (height * width), place // width % height, place % width
        if so_far > least[k, j, i]:
            continue
        for dk in range(-1, 2):
            for dj in range(-1, 2):
                for di in range(-1, 2):
                    a, b, c = k + dk, j + dj, i + di
                    if a < 0 or b < 0 or c < 0 or a >= depth or b >= height or c >= width:
                        continue
                    if not np.isfinite(cost[a, b, c]):
                        continue
                    length = np.float32(np.sqrt(dk * dk + dj * dj + di * di))
                    reached = np.float32(so_far + np.float32(0.5) * length * (cost[k, j, i] + cost[a, b, c]))
                    if reached < least[a, b, c]:
                        least[a, b, c] = reached
                        owner[a, b, c] = owner[k, j, i]
                        heapq.heappush(heap, (reached, (a * height + b) * width + c))


def _shared_out(cost: NDArray[np.float32], markers: NDArray[np.uint8]) -> NDArray[np.uint8]:
    owner = markers.copy()
    owner[~np.isfinite(cost)] = 0
    _flood(cost, owner)
    return owner


# ------------------------------------------------------------------------------------------------------ result


def _written(
    volume: Volume,
    segmentation: Segmentation,
    owner: NDArray[np.uint8],
    hu: NDArray[np.float32],
    grid: Grid,
    bone_hu: float,
) -> tuple[NDArray[np.uint8] | None, tuple[Finding, ...]]:
    """Arches that pass their checks, on the grid of the volume."""
    arches = np.zeros(volume.shape, np.uint8)
    left_out: dict[str, list[str]] = {}
    for vertebra in segmentation.vertebrae:
        reason = _doubt(vertebra, owner, grid, segmentation)
        if reason:
            left_out.setdefault(reason, []).append(vertebra.name.removeprefix("vertebra_"))
            owner[owner == vertebra.label] = 0
    boxes = ndimage.find_objects(owner)
    for label, found in enumerate(boxes, start=1):
        if found is not None:
            _write(volume, segmentation.labels, owner, hu, grid, label, found, bone_hu, arches)
    text = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in left_out.items())
    findings = (Finding("arches_left_out", Severity.INFO, f"No arch is outlined for {text}."),) if left_out else ()
    return (arches if arches.any() else None), findings


def _doubt(vertebra: Vertebra, owner: NDArray[np.uint8], grid: Grid, segmentation: Segmentation) -> str:
    """Why an arch is left out; empty if nothing speaks against it."""
    if not vertebra.complete:
        return "cut by the field of view"
    if vertebra.status is Status.FAILED:
        return "its body is refused"
    index = np.argwhere(owner == vertebra.label)
    body = float(np.count_nonzero(segmentation.labels == vertebra.label)) * segmentation.grid.voxel_volume_mm3
    share = len(index) * grid.voxel_volume_mm3 / max(body, 1.0)
    if not _LEAST_VOLUME_SHARE <= share <= _GREATEST_VOLUME_SHARE:
        return "too little or too much bone behind the body"
    sides = vertebra.frame.to_frame(grid.to_lps(index.astype(float)))[:, 0]
    left, right = int((sides > 0).sum()), int((sides < 0).sum())
    if min(left, right) < _LEAST_SIDE_SHARE * max(left, right):
        return "left and right differ"
    return ""


def _write(
    volume: Volume,
    labels: NDArray[np.uint8],
    owner: NDArray[np.uint8],
    hu: NDArray[np.float32],
    grid: Grid,
    label: int,
    box: tuple[slice, slice, slice],
    bone_hu: float,
    arches: NDArray[np.uint8],
) -> None:
    """One arch at the resolution of the CT: its bone there, with the marrow that it encloses."""
    grown = tuple(slice(max(s.start - 2, 0), min(s.stop + 2, n)) for s, n in zip(box, owner.shape, strict=True))
    part = owner[grown]
    own = part == label
    # Bone of the CT just outside the coarser voxels belongs to the arch, unless another one holds that place.
    near = ndimage.binary_dilation(own) & ((part == 0) | own)
    # Marrow is as dark as muscle; what bone closes in, and is more than its edge, belongs to the arch all the same.
    filled = ndimage.binary_closing(np.pad(own, 2), iterations=2)[2:-2, 2:-2, 2:-2] & near
    for k in range(len(filled)):
        filled[k] = ndimage.binary_fill_holes(filled[k])
    filled = ndimage.binary_erosion(filled)
    own_grid = cropped_grid(grid, (grown[0], grown[1], grown[2]))
    corners = own_grid.to_lps(np.array([[0.0, 0.0, 0.0], np.array(own_grid.shape, float) - 1.0]))
    target = index_box(volume.grid, corners)
    place = _nearest(own_grid, cropped_grid(volume.grid, target))
    core = hu[grown][own]
    edge_hu = max(bone_hu, _SOFT_HU + _EDGE_SHARE * (float(np.median(core)) - _SOFT_HU))
    mask = (near[place] & (volume.hu[target] > edge_hu)) | filled[place]
    inside = arches[target]
    inside[mask & (labels[target] == 0) & (inside == 0)] = label
