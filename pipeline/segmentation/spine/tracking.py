"""Following the spinal canal beyond the stretch that is seen in axial slices, in planes that turn with it.

Where the spine leans (the neck and the upper chest, the sacrum, a patient who lies aslant), an axial slice cuts the canal at an
angle and its ring of bone falls apart. A plane across the canal itself still shows the ring.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.segmentation.sampling import trilinear
from pipeline.segmentation.spine.canal import HIT_HU, Canal
from pipeline.volume import Grid

_STEP_MM = 2.0
_RAYS, _RAY_REACH_MM = 24, 17.0
_WINDOW_MM = 6.0
_WINDOW_COST = 0.25
"""Score that a candidate 6 mm from where the canal was expected must have more than one at that place."""
_LEAST_SCORE, _LEAST_MEAN_SCORE = 0.3, 0.5
_GAP_STEPS = 5
_FARTHEST_STEPS = 150
_TANGENT_POINTS = 14
_CENTRING_COST, _CENTRED_ALONG_MM, _CLOSED_RING_SCORE = 0.02, 8.0, 0.65
_SURE_SCORE, _REDONE_MM, _REDONE_AT_MOST_MM = 0.4, 12.0, 60.0
_LEAST_UPRIGHT, _GREATEST_LEAN_ASIDE = 0.35, 0.75
"""The canal never runs flatter than 70 degrees against the patient's axis, apart from the lowest sacrum."""
_GREATEST_TURN = np.radians(3.0)
"""In one step: a radius of 40 mm, which only the sacrum reaches."""
_LEAST_NEW_MM = 8.0


def extend_canal(canal: Canal, hu: NDArray[np.float32], grid: Grid) -> Canal:
    """The canal with whatever can be followed at its two ends.

    Parameters
    ----------
    canal : Canal
        A trusted stretch, from caudal to cranial.
    hu : float32 ndarray of shape (Z, Y, X)
        Relative HU on isotropic voxels of about 2 mm.
    grid : Grid

    Returns
    -------
    Canal
        The same line if nothing convincing follows. The last 24 mm at each end are followed anew, since they may have been
        leaving the canal already.
    """
    points, score = canal.points_lps_mm, canal.score
    for _end in ("upper", "lower"):
        points, score = _followed(points, score, hu, grid)
        points, score = points[::-1], score[::-1]
    return replace(canal, points_lps_mm=points, score=score)


def centre_canal(canal: Canal, hu: NDArray[np.float32], grid: Grid) -> Canal:
    """The canal with each point moved to the middle of the ring of bone, as far as planes across the canal show one.

    The line comes from steps of whole voxels in axial slices, and may run several millimetres beside the middle.
    """
    points = canal.points_lps_mm
    tangent = ndimage.gaussian_filter1d(np.gradient(points, axis=0), 5.0, axis=0, mode="nearest")
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    found = [_best_nearby(*pair, hu, grid, cost=_CENTRING_COST) for pair in zip(points, tangent, strict=True)]
    # At the pedicles the ring is closed and its middle is sure; between two arches it is open.
    weight = np.array([max(value - _CLOSED_RING_SCORE, 0.0) ** 2 for _, value in found])
    weight = np.maximum(weight, 1e-4)[:, None]
    shift = np.array([place for place, _ in found]) - points
    along = _CENTRED_ALONG_MM / max(float(np.median(np.linalg.norm(np.diff(points, axis=0), axis=1))), 0.5)
    total = ndimage.gaussian_filter1d(weight * shift, along, axis=0, mode="nearest")
    sure = ndimage.gaussian_filter1d(weight, along, axis=0, mode="nearest")
    return replace(canal, points_lps_mm=points + np.where(sure > 2e-3, total / sure, 0.0))


def _followed(
    points: NDArray[np.float64], score: NDArray[np.float64], hu: NDArray[np.float32], grid: Grid
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The line with new points at its far end, if they reach farther than it did."""
    away = np.linalg.norm(points - points[-1], axis=1)
    sure = np.flatnonzero((score >= _SURE_SCORE) & (away >= _REDONE_MM) | (away >= _REDONE_AT_MOST_MM))
    kept = int(sure[-1]) + 1 if len(sure) else len(points)
    if kept < _TANGENT_POINTS:
        return points, score
    line = [*points[:kept]]
    values = [*score[:kept]]
    sense = np.sign(points[-1, 2] - points[0, 2]) or 1.0
    weak, last_good = 0, kept
    tangent = _tangent(np.array(line[-_TANGENT_POINTS:]))
    for _ in range(_FARTHEST_STEPS):
        tangent = _turned_at_most(tangent, _tangent(np.array(line[-_TANGENT_POINTS:])))
        expected = line[-1] + _STEP_MM * tangent
        index = grid.to_index(expected)
        leans = tangent[2] * sense < _LEAST_UPRIGHT or abs(tangent[0]) > _GREATEST_LEAN_ASIDE
        if leans or (index < 0).any() or (index > np.array(grid.shape) - 1).any():
            break
        place, value = _best_nearby(expected, tangent * sense, hu, grid)
        line.append(place if value >= _LEAST_SCORE else expected)
        values.append(value)
        if value >= _LEAST_SCORE:
            weak, last_good = 0, len(line)
        else:
            weak += 1
            if weak > _GAP_STEPS:
                break
    new = np.array(line[:last_good])
    gained = (new[-1] - points[-1]) @ _tangent(points[-_TANGENT_POINTS:])
    if gained < _LEAST_NEW_MM or float(np.mean(values[kept:last_good])) < _LEAST_MEAN_SCORE:
        return points, score
    return new, np.array(values[:last_good])


def _tangent(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit direction of the end of a line, weighted towards its last points."""
    place = np.arange(len(points), dtype=float)
    weight = np.exp((place - place[-1]) / (0.5 * len(points)))
    centred = place - np.average(place, weights=weight)
    slope = (weight * centred) @ points / (weight @ centred**2)
    return np.asarray(slope / np.linalg.norm(slope))


def _turned_at_most(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """The new direction, or the old one turned towards it by what the canal can bend within one step."""
    angle = float(np.arccos(np.clip(before @ after, -1.0, 1.0)))
    if angle <= _GREATEST_TURN:
        return after
    share = _GREATEST_TURN / angle
    mixed = (1.0 - share) * before + share * after
    return np.asarray(mixed / np.linalg.norm(mixed))


def _best_nearby(
    expected: NDArray[np.float64],
    up: NDArray[np.float64],
    hu: NDArray[np.float32],
    grid: Grid,
    *,
    cost: float = _WINDOW_COST,
) -> tuple[NDArray[np.float64], float]:
    """The most canal-like place of the plane across `up`, within 6 mm of a point, and its score."""
    front = np.array([0.0, -1.0, 0.0]) + up[1] * up
    front /= np.linalg.norm(front)
    left = np.cross(front, up)
    steps = np.ascontiguousarray(grid.to_index(np.stack([front, left])) - grid.to_index(np.zeros(3)))
    offset = np.arange(-_WINDOW_MM, _WINDOW_MM + 0.1, 1.5)
    chart = _score_plane(hu, grid.to_index(expected), steps, offset, _RAYS, _RAY_REACH_MM, HIT_HU)
    v, u = np.meshgrid(offset, offset, indexing="ij")
    worth = chart - cost * (v**2 + u**2) / _WINDOW_MM**2
    best = int(worth.argmax())
    # The middle of what scores well about the best place, which alone may be off by a step.
    near = np.where(np.hypot(v - v.flat[best], u - u.flat[best]) <= 3.1, np.maximum(worth, 0.0), 0.0) ** 2
    total = float(near.sum())
    if total <= 0:
        return expected, 0.0
    return expected + (near * v).sum() / total * front + (near * u).sum() / total * left, float(chart.flat[best])


@njit(cache=True, nogil=True)
def _score_plane(hu, origin, steps, offset, rays, reach_mm, hit_hu):  # type: ignore[no-untyped-def]
    """Canal score (N, N) of places about `origin` in the plane of `steps` (index change per mm to the front and left)."""
    count = len(offset)
    out = np.zeros((count, count))
    half = rays // 2
    length = np.empty(rays)
    hit = np.empty(rays, np.bool_)
    for a in range(count):
        for b in range(count):
            k = origin[0] + offset[a] * steps[0, 0] + offset[b] * steps[1, 0]
            j = origin[1] + offset[a] * steps[0, 1] + offset[b] * steps[1, 1]
            i = origin[2] + offset[a] * steps[0, 2] + offset[b] * steps[1, 2]
            value = trilinear(hu, k, j, i, -4000.0)
            if not -130.0 < value < 140.0:
                continue
            hits = 0
            for r in range(rays):
                angle = 2.0 * np.pi * r / rays
                sine, cosine = np.sin(angle), np.cos(angle)
                hit[r] = False
                length[r] = reach_mm + 1.0
                at = 1.5
                while at <= reach_mm:
                    dk = at * (cosine * steps[0, 0] + sine * steps[1, 0])
                    dj = at * (cosine * steps[0, 1] + sine * steps[1, 1])
                    di = at * (cosine * steps[0, 2] + sine * steps[1, 2])
                    value = trilinear(hu, k + dk, j + dj, i + di, -4000.0)
                    if value > hit_hu:
                        hit[r] = True
                        length[r] = at
                        hits += 1
                        break
                    if value < -250.0:
                        break
                    at += 1.0
            if 2 * hits < rays:
                continue
            balance, mean = 0.0, 0.0
            for r in range(rays):
                mean += min(length[r], reach_mm) / rays
                if r < half and hit[r] and hit[r + half]:
                    balance += (1.0 - abs(length[r] - length[r + half]) / (length[r] + length[r + half])) / half
            prior = 1.0 / (1.0 + np.exp(-(mean - 4.5) / 0.7)) / (1.0 + np.exp((mean - 12.0) / 0.8))
            out[a, b] = (0.5 * hits / rays + 0.5 * balance) * prior
    return out
