"""Finding the spinal canal: the dark hole in a ring of bone that runs the length of the trunk.

Everything else about the spine is measured relative to this line, so it is found on a coarse grid, without any assumption
about the field of view, and refused when it is not convincing.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.segmentation.sampling import sample_lps
from pipeline.volume import Grid

SOFT_TISSUE_HU = 40.0
HIT_HU = 115.0
_RAY_REACH_MM = 17.0
_RAYS = 24
_LEAST_STRETCH_MM = 60.0
_LEAST_SCORE = 0.1
# Low on purpose: real canals score 0.5 to 0.9, but so do holes that are none; whether it is a spine, the bodies along it say.
_LEAST_MEAN_SCORE = 0.25
_STRETCH_SCORE = 0.18
_SURE_SCORE = 0.3
_ASIDE_SD_MM = 18.0
_GAP_MM = 8.0
_CENTRE_BEFORE_BACK_MM = 95.0
"""How far in front of the back the middle of a slender trunk lies. In a narrow field of view the front is cut off, and the
centre of what is in view lies on the canal, or behind it."""
_RING_CONTRAST_HU, _LEAST_RING_SCALE = 280.0, 0.25


@dataclass(frozen=True)
class Canal:
    """Centre line of the spinal canal on the slices of a coarse grid.

    Attributes
    ----------
    points_lps_mm : float ndarray of shape (N, 3)
        One point per slice, from caudal to cranial.
    score : float ndarray of shape (N,)
        How much the point looks like a canal, 0..1.
    trusted : bool
        False when the line is too short or too weak to be a canal (`reason` says which).
    reason : str
    """

    points_lps_mm: NDArray[np.float64]
    score: NDArray[np.float64]
    trusted: bool
    reason: str = ""


def relative_hu(hu: NDArray, bone_scale: float) -> NDArray[np.float32]:
    """HU with the contrast of bone against soft tissue brought to that of an ordinary study.

    Only what is brighter than soft tissue is stretched, so that thresholds for fat and air keep their meaning.
    """
    out = np.asarray(hu, dtype=np.float32)
    if bone_scale == 1.0:
        return out
    return np.where(out > SOFT_TISSUE_HU, SOFT_TISSUE_HU + (out - SOFT_TISSUE_HU) / np.float32(bone_scale), out)


def find_canal(hu: NDArray[np.float32], grid: Grid, body: NDArray[np.bool_], *, threads: int = 2) -> Canal:
    """The spinal canal in a coarse array.

    Parameters
    ----------
    hu : float32 ndarray of shape (Z, Y, X)
        Relative HU (see `relative_hu`) on isotropic voxels of 1.5 to 3 mm.
    grid : Grid
    body : bool ndarray of shape (Z, Y, X)
    threads : int

    Returns
    -------
    Canal
        The longest stretch of the best path from top to bottom; not `trusted` when there is no spine.
    """
    spacing_mm = grid.spacing_mm[0]
    empty = np.zeros((0, 3))
    if not body.any() or min(hu.shape) < 8:
        return Canal(empty, np.zeros(0), False, "nothing in the volume is large enough for a trunk")
    chart = canal_map(hu, body, spacing_mm, threads=threads)
    smooth = ndimage.gaussian_filter(chart, (4.0 / spacing_mm, 1.0 / spacing_mm, 1.0 / spacing_mm))
    back, side = max(1, round(4.0 / spacing_mm)), max(1, round(2.0 / spacing_mm))
    step_cost = 0.01 * (spacing_mm / 2.0) ** 2
    rows, columns = _best_path(smooth, back, side, step_cost)
    slices = np.arange(len(rows))
    # The marrow of the ilium is a dark hole in a ring of bone, too: below the lumbar canal the path must go on as it came.
    midline = _midline(columns.astype(float), smooth[slices, rows, columns], spacing_mm)
    aside = (np.arange(smooth.shape[2]) - midline[:, None]) * spacing_mm
    smooth *= np.exp(-0.5 * (aside / _ASIDE_SD_MM) ** 2)[:, None, :].astype(np.float32)
    rows, columns = _best_path(smooth, back, side, step_cost)
    score = smooth[slices, rows, columns].astype(float)
    first, last = _longest_stretch(score > _STRETCH_SCORE, round(_GAP_MM / spacing_mm))
    index = np.stack([slices, rows, columns], axis=1)[first:last].astype(float)
    index[:, 1:] += _towards_centre_of_score(smooth, index)
    points, score = grid.to_lps(index), score[first:last]
    # The sacral canal opens to the back: its weak stretches must not speak against the canal above it.
    sure_first, sure_last = _longest_stretch(score >= _LEAST_SCORE, 0)
    length_mm = (sure_last - sure_first) * spacing_mm
    mean = float(score[sure_first:sure_last].mean()) if sure_last > sure_first else 0.0
    reason = ""
    if length_mm < _LEAST_STRETCH_MM:
        reason = f"what looks like a spinal canal is {length_mm:.0f} mm long, {_LEAST_STRETCH_MM:.0f} mm are needed"
    elif mean < _LEAST_MEAN_SCORE:
        reason = f"what looks most like a spinal canal scores {mean:.2f}, {_LEAST_MEAN_SCORE} is needed"
    return Canal(points, score, not reason, reason)


def ring_bone_scale(hu: NDArray[np.float32], grid: Grid, canal: Canal) -> float:
    """How bright the bone about the canal is, 1.0 or more in an ordinary study.

    What counts as bone in the whole volume has to be brighter than enhanced vessels (`sampling.bone_hu_scale`), so that the
    brightness of very faint bone is overestimated there. The ring about the canal is bone, however faint it is: along each
    ray its brightest voxel counts, of the rays of a point the median, of the points the 75th percentile. The contrast of
    that against soft tissue is held against 280 HU; in six scans and a phantom it is 234 to 650.

    Parameters
    ----------
    hu : float32 ndarray of shape (Z, Y, X)
        HU, not stretched, on isotropic voxels of about 2 mm.
    """
    sure = canal.points_lps_mm[canal.score > _SURE_SCORE]
    if len(sure) < 5:
        return 1.0
    angle = np.arange(_RAYS) * (2 * np.pi / _RAYS)
    steps_mm = np.arange(4.0, _RAY_REACH_MM + 0.1)
    ray = np.stack([np.cos(angle), np.sin(angle), np.zeros(_RAYS)], axis=1)
    points = sure[:, None, None] + ray[:, None] * steps_mm[:, None]
    brightest = sample_lps(hu, grid, points, fill=-1000.0).max(axis=2)
    ring_hu = float(np.percentile(np.median(brightest, axis=1), 75.0))
    return max((ring_hu - SOFT_TISSUE_HU) / _RING_CONTRAST_HU, _LEAST_RING_SCALE)


def canal_map(
    hu: NDArray[np.float32], body: NDArray[np.bool_], spacing_mm: float, *, threads: int
) -> NDArray[np.float32]:
    """How much each voxel looks like the centre of the spinal canal, 0..1, by rays cast in the plane of the slice."""
    size, centre_y, centre_x = _body_centres(body, spacing_mm)
    angles = np.arange(_RAYS) * (2 * np.pi / _RAYS)
    steps = np.arange(1, int(_RAY_REACH_MM / spacing_mm) + 1)
    offset_y = np.rint(np.sin(angles)[:, None] * steps).astype(np.int64)
    offset_x = np.rint(np.cos(angles)[:, None] * steps).astype(np.int64)
    chart = np.zeros(hu.shape, dtype=np.float32)
    occupied = np.flatnonzero(size > 0)

    def work(part: NDArray) -> None:
        for k in part:
            _cast(
                hu[k],
                body[k],
                float(centre_y[k]),
                float(centre_x[k]),
                spacing_mm,
                offset_y,
                offset_x,
                HIT_HU,
                chart[k],
            )

    with ThreadPoolExecutor(max(1, threads)) as pool:
        list(pool.map(work, np.array_split(occupied, max(1, 4 * threads))))
    return chart


def _body_centres(
    body: NDArray[np.bool_], spacing_mm: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Area of each slice of the body, and where its middle is (y, x): the smoothed centre of mass, or further to the front."""
    size = body.sum(axis=(1, 2)).astype(float)
    weight = ndimage.gaussian_filter1d(size, 20.0 / spacing_mm, mode="nearest")
    centres = []
    for axis, length in ((1, body.shape[1]), (2, body.shape[2])):
        moment = (body.sum(axis=3 - axis) * np.arange(length)).sum(axis=1).astype(float)
        smooth = ndimage.gaussian_filter1d(moment, 20.0 / spacing_mm, mode="nearest")
        centres.append(np.where(weight > 0, smooth / np.maximum(weight, 1e-6), length / 2))
    if not size.any():
        return size, centres[0], centres[1]
    occupied = np.flatnonzero(size)
    back = [int(np.searchsorted(rows, 0.98 * rows[-1])) for rows in np.cumsum(body[occupied].sum(axis=2), axis=1)]
    smooth = ndimage.gaussian_filter1d(
        np.interp(np.arange(len(size)), occupied, back), 20.0 / spacing_mm, mode="nearest"
    )
    return size, np.minimum(centres[0], smooth - _CENTRE_BEFORE_BACK_MM / spacing_mm), centres[1]


@njit(cache=True, nogil=True)
def _cast(hu, body, centre_y, centre_x, spacing_mm, offset_y, offset_x, hit_hu, chart):  # type: ignore[no-untyped-def]
    """Canal score of one slice; a ray hits where it meets bone and is lost in air."""
    height, width = hu.shape
    rays, reach = offset_y.shape
    half = rays // 2
    length = np.empty(rays)
    hit = np.empty(rays, np.bool_)
    for j in range(1, height - 1):
        behind = (j - centre_y) * spacing_mm
        posterior = 1.0 / (1.0 + np.exp(-behind / 8.0))
        if posterior < 0.02:
            continue
        for i in range(1, width - 1):
            aside = (i - centre_x) * spacing_mm
            lateral = np.exp(-0.5 * (aside / 45.0) ** 2)
            if lateral < 0.1 or not body[j, i] or not -130.0 < hu[j, i] < 140.0:
                continue
            hits = 0
            for r in range(rays):
                hit[r] = False
                length[r] = reach + 1.0
                for s in range(reach):
                    jj, ii = j + offset_y[r, s], i + offset_x[r, s]
                    if jj < 0 or jj >= height or ii < 0 or ii >= width:
                        break
                    value = hu[jj, ii]
                    if value > hit_hu:
                        hit[r] = True
                        length[r] = s + 1.0
                        hits += 1
                        break
                    if value < -250.0:
                        break
                # Six rays in, four misses: no canal has that many gaps.
                if r == 7 and hits < 3:
                    break
            if 2 * hits < rays:
                continue
            balance = 0.0
            mean = 0.0
            for r in range(rays):
                mean += min(length[r], reach) * spacing_mm / rays
                if r < half and hit[r] and hit[r + half]:
                    balance += (1.0 - abs(length[r] - length[r + half]) / (length[r] + length[r + half])) / half
            prior = 1.0 / (1.0 + np.exp(-(mean - 5.0) / 0.8)) / (1.0 + np.exp((mean - 12.0) / 0.8))
            chart[j, i] = (0.5 * hits / rays + 0.5 * balance) * prior * lateral * posterior


@njit(cache=True, nogil=True)
def _best_path(chart, back, aside, step_cost):  # type: ignore[no-untyped-def]
    """Row and column per slice of the path with the largest sum of ``chart ** 1.5`` less the cost of its steps.

    `back` and `aside` are the largest steps per slice towards the back and to a side.
    """
    depth, height, width = chart.shape
    value = chart[0].astype(np.float64) ** 1.5
    origin = np.zeros((depth, height, width), np.int16)
    side = 2 * aside + 1
    for k in range(1, depth):
        following = np.empty((height, width))
        for j in range(height):
            for i in range(width):
                best = -1.0
                where = 0
                for dj in range(-back, back + 1):
                    for di in range(-aside, aside + 1):
                        jj, ii = j + dj, i + di
                        if 0 <= jj < height and 0 <= ii < width:
                            arrived = value[jj, ii] - step_cost * (dj * dj + di * di)
                            if arrived > best:
                                best = arrived
                                where = (dj + back) * side + di + aside
                following[j, i] = best + chart[k, j, i] ** 1.5
                origin[k, j, i] = where
        value = following
    rows = np.zeros(depth, np.int64)
    columns = np.zeros(depth, np.int64)
    best = -1.0
    for j in range(height):
        for i in range(width):
            if value[j, i] > best:
                best = value[j, i]
                rows[depth - 1] = j
                columns[depth - 1] = i
    for k in range(depth - 1, 0, -1):
        where = origin[k, rows[k], columns[k]]
        rows[k - 1] = rows[k] + where // side - back
        columns[k - 1] = columns[k] + where % side - aside
    return rows, columns


def _midline(columns: NDArray[np.float64], score: NDArray[np.float32], spacing_mm: float) -> NDArray[np.float64]:
    """Where the canal should be from left to right: on its surest stretch as found, beyond it as the stretch points."""
    first, last = _longest_stretch(score > _SURE_SCORE, round(_GAP_MM / spacing_mm))
    if (last - first) * spacing_mm < _LEAST_STRETCH_MM:
        return columns
    smooth = ndimage.gaussian_filter1d(columns[first:last], 8.0 / spacing_mm, mode="nearest")
    out = np.empty(len(columns))
    out[first:last] = smooth
    window = min(last - first, round(50.0 / spacing_mm))
    for part, end, step in ((slice(0, first), 0, -1), (slice(last, len(columns)), -1, 1)):
        near = smooth[:window] if end == 0 else smooth[-window:]
        slope = float(np.polyfit(np.arange(window), near, 1)[0])
        distance = np.abs(np.arange(len(columns))[part] - (first if end == 0 else last - 1))
        out[part] = smooth[end] + step * slope * np.minimum(distance, 30.0 / spacing_mm)
    return out


def _longest_stretch(good: NDArray[np.bool_], gap: int) -> tuple[int, int]:
    """Start and stop of the longest run of True, bridging runs of False up to `gap` long."""
    places = np.flatnonzero(good)
    if len(places) == 0:
        return 0, 0
    runs = np.split(places, np.flatnonzero(np.diff(places) > gap + 1) + 1)
    longest = max(runs, key=len)
    return int(longest[0]), int(longest[-1]) + 1


def _towards_centre_of_score(chart: NDArray[np.float32], index: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shift (N, 2) from the best voxel to the centre of mass of the score about it (5 x 5 voxels)."""
    shift = np.zeros((len(index), 2))
    padded = np.pad(chart, ((0, 0), (2, 2), (2, 2)))
    offsets = np.mgrid[-2:3, -2:3]
    for n, (k, j, i) in enumerate(index.astype(int)):
        weight = padded[k, j : j + 5, i : i + 5].astype(float) ** 2
        if weight.sum() > 0:
            shift[n] = (offsets * weight).sum(axis=(1, 2)) / weight.sum()
    return shift
