"""The posterolateral corners of a body, where pedicles and rib heads leave it and there is no edge to find.

The body ends behind at the plane of its posterior wall, continued across the roots of the pedicles, and to the side where its
side wall goes on straight to the back: so do readers, and so do the networks that tell the body from the arch. Only where
soft tissue follows on the outside (below and above the pedicle) does an edge count in a corner.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit

_SIDE_DEG, _CORNER_FROM_DEG, _CORNER_TO_DEG = -2.5, 17.5, 72.5
_CORNER_RAMP_DEG = 10.0
_CORNER_COST, _SIDE_COST, _GENTLE_FROM_DEG = 0.5, 0.06, -25.0
_INSIDE_MM, _INSIDE_SOFTNESS_MM = 2.0, 0.4
_POSTERIOR_WALL_HALF_DEG = 27.5
_SIDE_WALL_DEG, _FRONT_OF_RIBS_DEG = (-45.0, 15.0), -10.0
"""The side wall, and how far back it is out of reach of the heads of ribs."""
_MIDDLE_ROWS, _RIB_TOLERANCE, _GREATEST_FLARE = (0.3, 0.7), 1.05, 1.25
"""Towards its endplates a body is wider than at mid height, but by no more than a quarter."""
_GREATEST_SLANT = 0.35
_SQUARENESS = 8.0
_HEIGHTS_SMOOTHED = 7
_BONE_BEYOND_HU, _BONE_SOFTNESS_HU = 110.0, 25.0
_FAT_BEYOND_HU, _FAT_SOFTNESS_HU = 0.0, 10.0
LOOK_BEYOND_MM = 4.0


def is_corner(angle: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which directions (rad, from `left` towards `posterior`) point to a posterolateral corner."""
    behind_side = _behind_side_deg(angle)
    return np.asarray((behind_side > _CORNER_FROM_DEG) & (behind_side < _CORNER_TO_DEG))


def may_be_pedicle(angle: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Directions in which a pedicle or a process may follow: the corners, and the side walls just in front of them."""
    behind_side = _behind_side_deg(angle)
    return np.asarray((behind_side >= _SIDE_DEG) & (behind_side < _CORNER_TO_DEG))


def outward_cost(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cost per squared mm beyond the continued walls (A,): firm in the corners, gentle at the side walls before them."""
    behind_side = _behind_side_deg(angle)
    rise = np.clip((behind_side - (_CORNER_FROM_DEG - _CORNER_RAMP_DEG)) / _CORNER_RAMP_DEG, 0.0, 1.0)
    cost = np.maximum(_CORNER_COST * rise, np.where(behind_side >= _GENTLE_FROM_DEG, _SIDE_COST, 0.0))
    return np.asarray(np.where(behind_side < _CORNER_TO_DEG, cost, 0.0))


def _behind_side_deg(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """0 straight to the side, 90 straight to the back."""
    return np.asarray(np.degrees(np.arcsin(np.clip(np.sin(angle), -1.0, 1.0))))


def continued_walls(wall_mm: NDArray[np.float64], angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """The wall (A, H) with its corners where the posterior wall and the side walls meet when they are continued straight.

    Parameters
    ----------
    wall_mm : float ndarray of shape (A, H)
        Distance from the axis of the body at A equal angles and H heights.
    angle : float ndarray of shape (A,)
        From `left` towards `posterior`, in [0, 2 pi).
    """
    left, back = wall_mm * np.cos(angle)[:, None], wall_mm * np.sin(angle)[:, None]
    behind = np.abs(angle - np.pi / 2) <= np.radians(_POSTERIOR_WALL_HALF_DEG)
    slant = _slant(left[behind], back[behind])
    # The posterior wall is hollow: its outer parts, not its middle, are in line with the chord across the pedicles.
    plane_mm = _along_height(np.percentile(back[behind] - slant * left[behind], 80.0, axis=0))
    out = wall_mm.copy()
    doubtful = may_be_pedicle(angle)
    for side in (1.0, -1.0):
        around = np.degrees(np.arctan2(np.sin(angle), side * np.cos(angle)))
        side_mm = _along_height(_side_wall_mm(side * left, around))
        here = doubtful & (side * np.cos(angle) > 0)
        to_side = np.abs(np.cos(angle[here]))[:, None] / side_mm
        to_back = np.maximum(np.sin(angle[here]) - slant * np.cos(angle[here]), 0.0)[:, None] / plane_mm
        out[here] = (to_side**_SQUARENESS + to_back**_SQUARENESS) ** (-1.0 / _SQUARENESS)
    return out


def _side_wall_mm(aside_mm: NDArray[np.float64], around_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far to one side the wall (A, H) reaches at each height, without the head of a rib that lies against it.

    Ribs meet the body near its endplates. At mid height they do not, so that the shape of the wall there says how far behind
    and aside of its front part the rest of it may lie.
    """
    whole = aside_mm[(around_deg >= _SIDE_WALL_DEG[0]) & (around_deg <= _SIDE_WALL_DEG[1])].max(axis=0)
    front = aside_mm[(around_deg >= _SIDE_WALL_DEG[0]) & (around_deg <= _FRONT_OF_RIBS_DEG)].max(axis=0)
    first, last = (round(part * len(whole)) for part in _MIDDLE_ROWS)
    wider = float(np.median(whole[first:last] / np.maximum(front[first:last], 1.0)))
    front = np.minimum(front, _GREATEST_FLARE * float(np.median(front[first:last])))
    return np.asarray(np.minimum(whole, _RIB_TOLERANCE * max(wider, 1.0) * front))


def _slant(left_mm: NDArray[np.float64], back_mm: NDArray[np.float64]) -> float:
    """Slope of the posterior wall from side to side: of a line at each height, the median."""
    left = left_mm - left_mm.mean(axis=0)
    slope = (left * back_mm).sum(axis=0) / np.maximum((left**2).sum(axis=0), 1e-6)
    return float(np.clip(np.median(slope), -_GREATEST_SLANT, _GREATEST_SLANT))


def trust_in_edge(values: NDArray[np.float32], angle: NDArray[np.float64], offset_mm: NDArray[np.float64]) -> NDArray:
    """How far (0..1) an edge counts before each sample along the last axis.

    It does where soft tissue, and not the inside of a pedicle, follows: no bone within 4 mm, or fat before it. And it does
    at the side walls from 2 mm inside the continued walls on: there it may be the joint of a rib.

    Parameters
    ----------
    values : float32 ndarray of shape (A, H, S)
    angle : float ndarray of shape (A,)
    offset_mm : float ndarray of shape (S,)
        Place of the edge against the continued walls, positive outwards, in equal steps.
    """
    reach = round(LOOK_BEYOND_MM / float(offset_mm[1] - offset_mm[0]))
    brightest = ndimage.maximum_filter1d(values, reach, axis=-1, origin=-(reach // 2), mode="nearest")
    darkest = ndimage.minimum_filter1d(values, reach, axis=-1, origin=-(reach // 2), mode="nearest")
    no_bone = expit((_BONE_BEYOND_HU - brightest) / _BONE_SOFTNESS_HU)
    fat = expit((_FAT_BEYOND_HU - darkest) / _FAT_SOFTNESS_HU)
    near = expit((offset_mm + _INSIDE_MM) / _INSIDE_SOFTNESS_MM) * ~is_corner(angle)[:, None, None]
    return np.asarray(np.maximum(np.maximum(no_bone, fat), near))


def _along_height(values_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smoothed over the height, single rows that went astray left out."""
    steady = ndimage.median_filter(values_mm, _HEIGHTS_SMOOTHED, mode="nearest")
    return np.asarray(np.maximum(ndimage.gaussian_filter1d(steady, 1.5, mode="nearest"), 3.0))
