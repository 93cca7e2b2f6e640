"""The arch of each vertebra: pedicles, laminae and processes, beside its body and never inside it.

All bone behind the bodies hangs together through facet and rib joints that a CT resolves only in part. It is shared out by
the way through bone: each voxel goes to the vertebra whose pedicles, or whose part of the midline, it reaches at the least
cost, where faint bone costs more than bright bone. The midline is cut between neighbouring spinous processes first, where the
mid-sagittal sheet shows a gap. Ribs, and bone beyond the first and the last body, take part as competitors and are left out.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.errors import Finding, Severity, Status
from pipeline.segmentation.model import Segmentation, Vertebra
from pipeline.segmentation.sampling import (
    IndexBox,
    bone_hu_scale,
    cropped_grid,
    index_box,
    resample_isotropic,
)
from pipeline.segmentation.spine.arch_midline import CANAL_MM, SHEET_HALF_WIDTH_MM, height_of_cut, midline_cuts
from pipeline.segmentation.spine.arch_sites import FOREIGN, SHEET_DEPTH_MM, Site, arch_sites, local_coordinates
from pipeline.volume import Grid, Volume

_WORKING_MM = 1.5
_SOFT_HU, _BONE_HU, _BRIGHT_HU = 50.0, 160.0, 800.0
"""Muscle, the least HU of bone, and bone through which a way costs nothing extra, at the usual brightness of bone."""
_EDGE_SHARE = 0.5
"""Of the way from muscle to the middle HU of an arch: where its outer face is drawn."""
_COST_OF_FAINT_BONE = 4.0
_REACH = 1.25
"""How far from the midline transverse processes may go, in widths of the body; bone beyond is rib or pelvis."""
_RIB_ASIDE_MM = 5.0
_SHARE, _SHARE_OF_NEIGHBOURS = (0.2, 2.5), (0.6, 1.6)
"""Least and greatest volume of an arch over that of its body, and of that share over the neighbours' one."""
_LEAST_SIDE_SHARE = 0.4


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
        ``arches_left_out`` (info) names the vertebrae without an arch, and why; ``arches_cut`` (info) those that the field of
        view cuts.
    """
    canal = segmentation.canal_lps_mm
    if canal is None or len(canal) < 2 or not segmentation.vertebrae:
        return None, ()
    sites = arch_sites(segmentation, canal)
    hu, grid = _working_array(volume, sites, threads)
    scale = min(1.0, bone_hu_scale(hu))
    bone_hu, bright_hu = (_SOFT_HU + (x - _SOFT_HU) * scale for x in (_BONE_HU, _BRIGHT_HU))
    cuts = midline_cuts(hu, grid, canal, sites, soft_hu=_SOFT_HU, bone_hu=bone_hu)
    bodies = segmentation.labels[_nearest(segmentation.grid, grid)]
    markers, allowed = _markers(hu > bone_hu, grid, sites, cuts, bodies)
    faint = np.clip((bright_hu - hu) / (bright_hu - bone_hu), 0.0, 1.0)
    cost = np.where(allowed, 1.0 + _COST_OF_FAINT_BONE * faint, np.inf).astype(np.float32)
    owner = _shared_out(cost, markers)
    owner[owner == FOREIGN] = 0
    return _written(volume, segmentation, owner, bodies, hu, grid, bone_hu)


def _working_array(volume: Volume, sites: Sequence[Site], threads: int | None) -> tuple[NDArray[np.float32], Grid]:
    corners = []
    for site in sites[1:-1]:
        reach = 1.5 * site.width_mm
        corners += [
            site.centre + np.array([u, v, w]) @ site.axes
            for u in (-reach, reach)
            for v in (0.2 * site.depth_mm, site.canal_mm + SHEET_DEPTH_MM)
            for w in (-1.8 * site.height_mm, 1.1 * site.height_mm)
        ]
    box = index_box(volume.grid, np.array(corners))
    return resample_isotropic(volume, _WORKING_MM, box=box, threads=threads)


# ------------------------------------------------------------------------------------------------------ markers


def _markers(
    bone: NDArray[np.bool_],
    grid: Grid,
    sites: Sequence[Site],
    cuts: Sequence[NDArray[np.float64]],
    bodies: NDArray[np.uint8],
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Bone that plainly belongs to one arch, and all bone that may belong to some arch."""
    bone = bone & (bodies == 0)
    markers = np.zeros(bone.shape, np.uint8)
    allowed = np.zeros(bone.shape, bool)
    rib = np.zeros(bone.shape, bool)
    for i, site in enumerate(sites):
        box, (u, v, w) = local_coordinates(grid, site)
        inside = bone[box]
        wall, half = 0.5 * site.depth_mm, 0.5 * site.width_mm
        aside = np.abs(u)
        canal_v = v - site.canal_mm
        height = w / site.height_mm
        ring = (aside < _REACH * site.width_mm) & (np.hypot(u, canal_v) > CANAL_MM) & (height > -1.7) & (height < 0.95)
        # Beside and just behind the body only a pedicle or a transverse process is arch; the rest is its own rim.
        root = (aside > 6.0) & (height > -0.25) & (height < 0.55)
        allowed[box] |= inside & ring & (v > np.where(root, wall - site.root_mm, wall + 4.0))
        own = inside & root & (v > wall - 3.0) & (aside < max(0.5 * half, 6.0) + 8.0) & (canal_v < 4.0)
        own &= (height > 0.0) & (height < 0.4)
        own |= inside & (aside < 11.0) & (canal_v > 6.0) & (canal_v < 20.0) & (height > -0.55) & (height < 0.0)
        own |= inside & (aside < SHEET_HALF_WIDTH_MM) & (canal_v > CANAL_MM)
        between = np.ones(inside.shape, bool)
        if i > 0:
            between &= (w < height_of_cut(site, cuts[i - 1], v) - 1.0) | (canal_v < CANAL_MM)
        if i < len(sites) - 1:
            between &= (w > height_of_cut(site, cuts[i], v) + 1.0) | (canal_v < CANAL_MM)
        own &= between
        target = markers[box]
        target[own & (target == 0)] = site.label
        lateral = (aside > _REACH * site.width_mm) | ((aside > half + _RIB_ASIDE_MM) & (v < wall - site.root_mm))
        rib[box] |= inside & (np.abs(height) < 0.8) & lateral
    markers[rib & (markers == 0)] = FOREIGN
    return markers, allowed | (markers > 0)


def _nearest(source: Grid, target: Grid) -> tuple[NDArray[np.int64], ...]:
    """Open index of the voxel of `source` nearest to each one of `target`, for grids with the same axes."""
    places = []
    for axis in range(3):
        points = np.zeros((target.shape[axis], 3))
        points[:, axis] = np.arange(target.shape[axis])
        at = np.rint(source.to_index(target.to_lps(points))[:, axis]).astype(int)
        places.append(np.clip(at, 0, source.shape[axis] - 1))
    return np.ix_(*places)


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
    bodies: NDArray[np.uint8],
    hu: NDArray[np.float32],
    grid: Grid,
    bone_hu: float,
) -> tuple[NDArray[np.uint8] | None, tuple[Finding, ...]]:
    """Arches that pass their checks, on the grid of the volume."""
    arches = np.zeros(volume.shape, np.uint8)
    left_out: dict[str, list[str]] = {}
    cut: list[str] = []
    written = 0
    boxes = ndimage.find_objects(owner, max_label=255)
    shares = _shares(segmentation.vertebrae, owner, bodies)
    for i, vertebra in enumerate(segmentation.vertebrae):
        name, box = vertebra.name.removeprefix("vertebra_"), boxes[vertebra.label - 1]
        reason = _doubt(vertebra, owner, box, grid) or _unusual(shares, i)
        if reason or box is None:
            left_out.setdefault(reason, []).append(name)
            continue
        written += 1
        if _write(volume, segmentation.labels, owner, hu, grid, vertebra.label, box, bone_hu, arches):
            cut.append(name)
    findings = []
    if left_out:
        text = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in left_out.items())
        findings.append(Finding("arches_left_out", Severity.INFO, f"No arch is outlined for {text}."))
    if cut:
        text = f"The field of view cuts the arches of {', '.join(cut)}."
        findings.append(Finding("arches_cut", Severity.INFO, text))
    return (arches if written else None), tuple(findings)


def _shares(vertebrae: Sequence[Vertebra], owner: NDArray[np.uint8], bodies: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Volume of each arch over that of its body; NaN where the body says nothing."""
    of_arches, of_bodies = (np.bincount(array.ravel(), minlength=256) for array in (owner, bodies))
    return np.array(
        [
            of_arches[v.label] / of_bodies[v.label]
            if v.complete and v.status is not Status.FAILED and of_bodies[v.label]
            else np.nan
            for v in vertebrae
        ]
    )


def _unusual(shares: NDArray[np.float64], i: int) -> str:
    """What is wrong with the volume of an arch by itself, and beside those of its neighbours, from which it differs little."""
    if not _SHARE[0] <= shares[i] <= _SHARE[1]:
        return "too little or too much bone behind the body"
    near = np.concatenate([shares[max(i - 2, 0) : i], shares[i + 1 : i + 3]])
    near = near[np.isfinite(near)]
    if len(near) > 1 and not _SHARE_OF_NEIGHBOURS[0] <= shares[i] / np.median(near) <= _SHARE_OF_NEIGHBOURS[1]:
        return "much more or less bone than its neighbours"
    return ""


def _doubt(vertebra: Vertebra, owner: NDArray[np.uint8], box: IndexBox | None, grid: Grid) -> str:
    """Why an arch is left out, by itself; empty if nothing speaks against it."""
    if not vertebra.complete:
        return "cut by the field of view"
    if vertebra.status is Status.FAILED:
        return "its body is refused"
    if box is None:
        return "no bone behind the body"
    points = cropped_grid(grid, box).to_lps(np.argwhere(owner[box] == vertebra.label).astype(float))
    sides = vertebra.frame.to_frame(points)[:, 0]
    left, right = int((sides > 0).sum()), int((sides < 0).sum())
    return "left and right differ" if min(left, right) < _LEAST_SIDE_SHARE * max(left, right) else ""


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
) -> bool:
    """One arch at the resolution of the CT: its bone there, with the marrow that it encloses. True if the scan cuts it."""
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
    mask &= (labels[target] == 0) & (inside == 0)
    inside[mask] = label
    return _reaches_edge(mask, target, volume.shape)


def _reaches_edge(mask: NDArray[np.bool_], box: IndexBox, shape: tuple[int, int, int]) -> bool:
    """Whether a mask in a part of a volume has voxels in an outermost layer of the volume."""
    for axis, (where, size) in enumerate(zip(box, shape, strict=True)):
        if where.start == 0 and mask.take(0, axis=axis).any():
            return True
        if where.stop == size and mask.take(-1, axis=axis).any():
            return True
    return False
