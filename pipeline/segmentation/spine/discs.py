"""The chain of discs: where along the canal, and how tilted, the gaps between the bodies are.

A disc is two bright endplates with something darker between. One dynamic program over position and tilt picks the chain whose
discs look best and lie about three quarters of a body's width apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipeline.segmentation.spine.tube import BACK_REACH_MM, LEFT_REACH_MM, Outlines, Tube

SAGITTAL_TILTS_DEG = np.arange(-32.0, 32.1, 4.0)
CORONAL_TILTS_DEG = np.arange(-24.0, 24.1, 4.0)
_INNER_PART = 0.75
_LATTICE_MM = 3
_HALF_THICKNESS_MM = np.arange(1.5, 7.1, 0.5)
_PITCH_PER_WIDTH = 0.77
_PITCH_LOG_SD = 0.22
_PITCH_RANGE_PER_WIDTH = (0.38, 1.15)
_PITCH_RANGE_MM = (11.0, 48.0)
_TILT_STEP_COST = 0.01
_MERGED_WEIGHT = 0.8
_MERGED_HALF_MM = 2.0
_REFINE_WINDOW_MM = 16
_REFINE_DEG = 8.0
_REFINE_PLACE_SD_MM = 2.0
_REFINE_TILT_SD_DEG = 8.0
_DISC_COST = 0.25


@dataclass(frozen=True)
class Disc:
    """A plane through the middle of an intervertebral disc.

    Attributes
    ----------
    s_mm : float
        Position along the tube, at the centre of the outline.
    centre_lps_mm : float ndarray of shape (3,)
    normal_lps : float ndarray of shape (3,)
        Unit normal, pointing to the head.
    half_thickness_mm : float
        From the middle to the endplates.
    merged : bool
        True when both endplates are seen as one band: the disc has a place but no visible thickness.
    response_hu : float
        How much brighter the endplates are than what lies between them, in relative HU.
    tilt_deg : tuple of float
        Sagittal and coronal tilt against the plane across the canal.
    width_mm : float
        Width of the averaged outline there.
    """

    s_mm: float
    centre_lps_mm: NDArray[np.float64]
    normal_lps: NDArray[np.float64]
    half_thickness_mm: float
    merged: bool
    response_hu: float
    tilt_deg: tuple[float, float]
    width_mm: float


def find_discs(tube: Tube, outlines: Outlines, *, slice_mm: float) -> list[Disc]:
    """The chain of discs from caudal to cranial; empty when nothing in the tube looks like one.

    Parameters
    ----------
    tube, outlines
    slice_mm : float
        Distance of the slices of the source. Where it approaches the thickness of a thoracic disc, both endplates merge into
        one bright band, which then counts as a disc of its own kind.
    """
    merged_weight = _MERGED_WEIGHT * float(np.clip(slice_mm - 2.0, 0.0, 1.0))
    count = len(tube.hu)
    place = np.arange(count, dtype=float)
    centre = np.stack([np.interp(place, outlines.s_mm, outlines.centre_mm[:, c]) for c in range(2)], axis=1)
    width = np.interp(place, outlines.s_mm, outlines.width_mm)
    profile = _plane_profiles(tube, outlines, 0, count, SAGITTAL_TILTS_DEG, CORONAL_TILTS_DEG)
    response, _ = _disc_response(profile, width, _HALF_THICKNESS_MM, merged_weight)
    finite = np.isfinite(response)
    if not finite.any():
        return []
    strongest = np.where(finite, response, -np.inf).max(axis=(1, 2))
    scale = max(float(np.percentile(strongest[np.isfinite(strongest)], 90)), 10.0)
    centre_lps = tube.to_lps(place, centre[:, 0], centre[:, 1])
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(centre_lps, axis=0), axis=1))])
    score = np.where(finite, np.clip(response, -100.0, 1.5 * scale) / scale - _DISC_COST, -1e6)
    chain = _best_chain(score, arc, width)
    return [
        _refined_disc(
            tube, outlines, s, float(SAGITTAL_TILTS_DEG[a]), float(CORONAL_TILTS_DEG[b]), float(width[s]), merged_weight
        )
        for s, a, b in chain
    ]


def _plane_profiles(
    tube: Tube, outlines: Outlines, first: int, stop: int, sagittal_deg: NDArray, coronal_deg: NDArray
) -> NDArray[np.float32]:
    """Mean HU (stop - first, A, B) over the inner part of the outline, on planes at these positions and tilts."""
    place = np.arange(first, stop, dtype=float)
    centre = np.stack([np.interp(place, outlines.s_mm, outlines.centre_mm[:, c]) for c in range(2)], axis=1)
    radius = np.stack([np.interp(place, outlines.s_mm, r) for r in outlines.radius_mm.T], axis=1)
    profile = np.full((stop - first, len(sagittal_deg), len(coronal_deg)), np.nan, np.float32)
    _mean_on_planes(
        tube.hu,
        first,
        centre,
        radius,
        np.tan(np.radians(sagittal_deg)),
        np.tan(np.radians(coronal_deg)),
        _INNER_PART,
        _LATTICE_MM,
        BACK_REACH_MM,
        LEFT_REACH_MM,
        profile,
    )
    return profile


@njit(cache=True, nogil=True)
def _mean_on_planes(hu, first, centre, radius, slopes_v, slopes_u, part, lattice, back, aside, profile):  # type: ignore[no-untyped-def]
    count, rows, columns = hu.shape
    angles = radius.shape[1]
    row = np.empty(rows * columns, np.int64)
    column = np.empty(rows * columns, np.int64)
    for n in range(len(profile)):
        wanted = 0
        for j in range(0, rows, lattice):
            for i in range(0, columns, lattice):
                dv = j - back - centre[n, 0]
                du = i - aside - centre[n, 1]
                angle = int(np.floor(np.arctan2(dv, du) * angles / (2 * np.pi) + 0.5)) % angles
                if dv * dv + du * du <= (part * radius[n, angle]) ** 2:
                    row[wanted] = j
                    column[wanted] = i
                    wanted += 1
        for a in range(len(slopes_v)):
            for b in range(len(slopes_u)):
                total = 0.0
                known = 0
                for point in range(wanted):
                    j, i = row[point], column[point]
                    s = first + n + slopes_v[a] * (j - back - centre[n, 0]) + slopes_u[b] * (i - aside - centre[n, 1])
                    s0 = int(np.floor(s))
                    if s0 < 0 or s0 + 1 >= count:
                        continue
                    value = hu[s0, j, i] * (1 - (s - s0)) + hu[s0 + 1, j, i] * (s - s0)
                    if np.isfinite(value):
                        total += value
                        known += 1
                if known > 0.7 * wanted:
                    profile[n, a, b] = total / known


@njit(cache=True, nogil=True)
def _disc_response(profile, width, half_thicknesses, merged_weight):  # type: ignore[no-untyped-def]
    """Best double-endplate response over the thickness, and that half thickness, per position and tilt."""
    count, tilts_v, tilts_u = profile.shape
    response = np.full((count, tilts_v, tilts_u), -np.inf, np.float32)
    thickness = np.zeros((count, tilts_v, tilts_u), np.float32)
    for a in range(tilts_v):
        for b in range(tilts_u):
            line = profile[:, a, b]
            for n in range(count):
                largest = min(max(0.16 * width[n], 3.5), 7.0)
                for half in half_thicknesses:
                    if half > largest:
                        break
                    above, below = n + half + 1.0, n - half - 1.0
                    if above > count - 2 or below < 1:
                        break
                    u0, l0 = int(above), int(below)
                    upper = line[u0] + (line[u0 + 1] - line[u0]) * (above - u0)
                    lower = line[l0] + (line[l0 + 1] - line[l0]) * (below - l0)
                    reach = max(int(half) - 1, 0)
                    middle = 0.0
                    for m in range(n - reach, n + reach + 1):
                        middle += line[m] / (2 * reach + 1)
                    if not (np.isfinite(upper) and np.isfinite(lower) and np.isfinite(middle)):
                        continue
                    value = 0.8 * min(upper - middle, lower - middle) + 0.1 * (upper + lower - 2 * middle)
                    beyond_up, beyond_down = u0 + 5, l0 - 5
                    if beyond_up < count and beyond_down >= 0:
                        drop = min(upper - line[beyond_up], lower - line[beyond_down])
                        if np.isfinite(drop):
                            value += 0.25 * min(max(drop, -60.0), 60.0)
                    if value > response[n, a, b]:
                        response[n, a, b] = value
                        thickness[n, a, b] = half
                if merged_weight > 0.0 and 7 <= n < count - 7:
                    value = merged_weight * (line[n] - max(line[n - 7], line[n + 7]))
                    if value > response[n, a, b]:
                        response[n, a, b] = value
                        thickness[n, a, b] = 0.0
    return response, thickness


def _best_chain(
    score: NDArray[np.float64], arc_mm: NDArray[np.float64], width_mm: NDArray[np.float64]
) -> list[tuple[int, int, int]]:
    """Positions and tilts of the chain with the largest sum of scores, pitch priors and tilt costs."""
    value, previous, tilt_v, tilt_u = _chain_values(
        score, arc_mm, width_mm, _PITCH_PER_WIDTH, _PITCH_LOG_SD, np.array(_PITCH_RANGE_PER_WIDTH),
        np.array(_PITCH_RANGE_MM), _TILT_STEP_COST,
    )  # fmt: skip
    s, a, b = (int(v) for v in np.unravel_index(int(np.argmax(value)), value.shape))
    chain = []
    while s >= 0:
        chain.append((s, a, b))
        s, a, b = int(previous[s, a, b]), int(tilt_v[s, a, b]), int(tilt_u[s, a, b])
    return chain[::-1]


@njit(cache=True, nogil=True)
def _chain_values(score, arc, width, pitch_per_width, pitch_sd, pitch_range_width, pitch_range_mm, tilt_cost):  # type: ignore[no-untyped-def]
    count, tilts_v, tilts_u = score.shape
    value = score.copy()
    previous = np.full(score.shape, -1, np.int32)
    from_v = np.zeros(score.shape, np.int16)
    from_u = np.zeros(score.shape, np.int16)
    # Best value that each position can hand on to each tilt, after paying for the change of tilt, and the tilts it came from.
    handed = np.full(score.shape, -1e12)
    handed_v = np.zeros(score.shape, np.int16)
    handed_u = np.zeros(score.shape, np.int16)
    between = np.empty((tilts_v, tilts_u))
    between_v = np.empty((tilts_v, tilts_u), np.int16)
    for s in range(count):
        for p in range(s - 1, -1, -1):
            pitch = arc[s] - arc[p]
            local = 0.5 * (width[s] + width[p])
            if pitch > min(pitch_range_width[1] * local, pitch_range_mm[1]):
                break
            if pitch < max(pitch_range_width[0] * local, pitch_range_mm[0]):
                continue
            prior = -0.5 * (np.log(pitch / (pitch_per_width * local)) / pitch_sd) ** 2
            for a in range(tilts_v):
                for b in range(tilts_u):
                    total = score[s, a, b] + prior + handed[p, a, b]
                    if total > value[s, a, b]:
                        value[s, a, b] = total
                        previous[s, a, b] = p
                        from_v[s, a, b] = handed_v[p, a, b]
                        from_u[s, a, b] = handed_u[p, a, b]
        for b in range(tilts_u):
            for a in range(tilts_v):
                between[a, b] = -1e12
                for c in range(tilts_v):
                    total = value[s, c, b] - tilt_cost * (a - c) ** 2
                    if total > between[a, b]:
                        between[a, b] = total
                        between_v[a, b] = c
        for a in range(tilts_v):
            for b in range(tilts_u):
                for c in range(tilts_u):
                    total = between[a, c] - tilt_cost * (b - c) ** 2
                    if total > handed[s, a, b]:
                        handed[s, a, b] = total
                        handed_v[s, a, b] = between_v[a, c]
                        handed_u[s, a, b] = c
    return value, previous, from_v, from_u


def _refined_disc(
    tube: Tube,
    outlines: Outlines,
    s: int,
    sagittal_deg: float,
    coronal_deg: float,
    width_mm: float,
    merged_weight: float,
) -> Disc:
    """The disc of the chain with its place and tilts sharpened: the chain had to make do with steps of 4 degrees."""
    first, stop = max(s - _REFINE_WINDOW_MM, 0), min(s + _REFINE_WINDOW_MM + 1, len(tube.hu))
    shift_deg = np.arange(-_REFINE_DEG, _REFINE_DEG + 0.1, 2.0)
    profile = _plane_profiles(tube, outlines, first, stop, sagittal_deg + shift_deg, coronal_deg + shift_deg)
    widths = np.full(stop - first, width_mm)
    response, half_thickness = _disc_response(profile, widths, _HALF_THICKNESS_MM, merged_weight)
    shift_mm = np.arange(first, stop, dtype=float) - s
    cost = (
        (shift_mm[:, None, None] / _REFINE_PLACE_SD_MM) ** 2
        + (shift_deg[None, :, None] / _REFINE_TILT_SD_DEG) ** 2
        + (shift_deg[None, None, :] / _REFINE_TILT_SD_DEG) ** 2
    )
    strength = max(float(response[s - first].max()), 10.0)
    worth = np.where(np.isfinite(response), response - 0.1 * strength * cost, -np.inf)
    k, a, b = (int(i) for i in np.unravel_index(int(worth.argmax()), worth.shape))
    tilt = (sagittal_deg + float(shift_deg[a]), coronal_deg + float(shift_deg[b]))
    place = float(first + k)
    centre, _ = outlines.at(place)
    slope_v, slope_u = np.tan(np.radians(tilt))
    v = np.array([0.0, 8.0, -8.0, 0.0, 0.0])
    u = np.array([0.0, 0.0, 0.0, 8.0, -8.0])
    points = tube.to_lps(place + slope_v * v + slope_u * u, centre[0] + v, centre[1] + u)
    normal = np.cross(points[3] - points[4], points[2] - points[1])
    normal /= np.linalg.norm(normal)
    return Disc(
        s_mm=place,
        centre_lps_mm=points[0],
        normal_lps=normal if normal @ np.asarray(tube.up[int(place)]) > 0 else -normal,
        half_thickness_mm=float(half_thickness[k, a, b]) or _MERGED_HALF_MM,
        merged=bool(half_thickness[k, a, b] == 0.0),
        response_hu=float(response[k, a, b]),
        tilt_deg=tilt,
        width_mm=width_mm,
    )
