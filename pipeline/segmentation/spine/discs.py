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
    response_hu: float
    tilt_deg: tuple[float, float]
    width_mm: float


def find_discs(tube: Tube, outlines: Outlines) -> list[Disc]:
    """The chain of discs from caudal to cranial; empty when nothing in the tube looks like one."""
    profile, centre_lps, width = _plane_profiles(tube, outlines)
    response, half_thickness = _disc_response(profile, width.astype(np.float64), _HALF_THICKNESS_MM)
    finite = np.isfinite(response)
    if not finite.any():
        return []
    strongest = np.where(finite, response, -np.inf).max(axis=(1, 2))
    scale = max(float(np.percentile(strongest[np.isfinite(strongest)], 90)), 10.0)
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(centre_lps, axis=0), axis=1))])
    score = np.where(finite, np.clip(response, -100.0, 1.5 * scale) / scale - _DISC_COST, -1e6)
    chain = _best_chain(score, arc, width.astype(np.float64))
    return [
        _disc(tube, outlines, response, half_thickness, int(s), int(a), int(b), float(width[s])) for s, a, b in chain
    ]


def _plane_profiles(
    tube: Tube, outlines: Outlines
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Mean HU (N, A, B) over the inner part of the outline on planes of every tilt; centres (N, 3) in LPS; widths (N,)."""
    count = len(tube.hu)
    place = np.arange(count, dtype=float)
    centre = np.stack([np.interp(place, outlines.s_mm, outlines.centre_mm[:, c]) for c in range(2)], axis=1)
    radius = np.stack([np.interp(place, outlines.s_mm, r) for r in outlines.radius_mm.T], axis=1)
    width = np.interp(place, outlines.s_mm, outlines.width_mm)
    profile = np.full((count, len(SAGITTAL_TILTS_DEG), len(CORONAL_TILTS_DEG)), np.nan, np.float32)
    _mean_on_planes(
        tube.hu,
        centre,
        radius,
        np.tan(np.radians(SAGITTAL_TILTS_DEG)),
        np.tan(np.radians(CORONAL_TILTS_DEG)),
        _INNER_PART,
        _LATTICE_MM,
        BACK_REACH_MM,
        LEFT_REACH_MM,
        profile,
    )
    return profile, tube.to_lps(place, centre[:, 0], centre[:, 1]), width


@njit(cache=True, nogil=True)
def _mean_on_planes(hu, centre, radius, slopes_v, slopes_u, part, lattice, back, aside, profile):  # type: ignore[no-untyped-def]
    count, rows, columns = hu.shape
    angles = radius.shape[1]
    row = np.empty(rows * columns, np.int64)
    column = np.empty(rows * columns, np.int64)
    for n in range(count):
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
                    s = n + slopes_v[a] * (j - back - centre[n, 0]) + slopes_u[b] * (i - aside - centre[n, 1])
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
def _disc_response(profile, width, half_thicknesses):  # type: ignore[no-untyped-def]
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
                    value = 0.7 * min(upper - middle, lower - middle) + 0.15 * (upper + lower - 2 * middle)
                    beyond_up, beyond_down = u0 + 5, l0 - 5
                    if beyond_up < count and np.isfinite(line[beyond_up]):
                        value += 0.125 * min(max(upper - line[beyond_up], -60.0), 60.0)
                    if beyond_down >= 0 and np.isfinite(line[beyond_down]):
                        value += 0.125 * min(max(lower - line[beyond_down], -60.0), 60.0)
                    if value > response[n, a, b]:
                        response[n, a, b] = value
                        thickness[n, a, b] = half
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


def _disc(
    tube: Tube,
    outlines: Outlines,
    response: NDArray[np.float32],
    half_thickness: NDArray[np.float32],
    s: int,
    a: int,
    b: int,
    width_mm: float,
) -> Disc:
    centre, _ = outlines.at(float(s))
    slope_v, slope_u = np.tan(np.radians(SAGITTAL_TILTS_DEG[a])), np.tan(np.radians(CORONAL_TILTS_DEG[b]))
    reach = 8.0
    v = np.array([0.0, reach, -reach, 0.0, 0.0])
    u = np.array([0.0, 0.0, 0.0, reach, -reach])
    points = tube.to_lps(s + slope_v * v + slope_u * u, centre[0] + v, centre[1] + u)
    normal = np.cross(points[3] - points[4], points[2] - points[1])
    normal /= np.linalg.norm(normal)
    return Disc(
        s_mm=float(s),
        centre_lps_mm=points[0],
        normal_lps=normal if normal[2] > 0 else -normal,
        half_thickness_mm=float(half_thickness[s, a, b]),
        response_hu=float(response[s, a, b]),
        tilt_deg=(float(SAGITTAL_TILTS_DEG[a]), float(CORONAL_TILTS_DEG[b])),
        width_mm=width_mm,
    )
