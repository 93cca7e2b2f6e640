"""Following one rib from beside its vertebra to its tip, by the centroid of the bone ahead."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.segmentation.sampling import sample_lps
from pipeline.volume import Grid

_STEP_MM = 4.0
_LONGEST_MM = 300.0
_BALL_MM, _CELL_MM = 10.0, 2.0
_AHEAD_COSINE = 0.6
_LEAST_BONE_MM3 = 64.0
_BRIGHTEST_HU = 300.0
_UNSEEN_SHARE = 0.4
_LONG_ENOUGH_MM = 60.0
_OFFSETS = np.stack(np.meshgrid(*[np.arange(-_BALL_MM, _BALL_MM + 0.1, _CELL_MM)] * 3, indexing="ij"), axis=-1).reshape(
    -1, 3
)
_OFFSETS = _OFFSETS[(np.linalg.norm(_OFFSETS, axis=1) <= _BALL_MM) & (np.linalg.norm(_OFFSETS, axis=1) > 0.0)]
_DIRECTIONS = _OFFSETS / np.linalg.norm(_OFFSETS, axis=1, keepdims=True)


@dataclass(frozen=True)
class Rib:
    """Bone that leaves a vertebra sideways: a rib, or a transverse process, which ends soon.

    Attributes
    ----------
    length_mm : float
        From the side of the body to the tip, or to where the scan cuts it; 300 at most.
    cut_off : bool
        Whether it leaves the scanned field.
    """

    length_mm: float
    cut_off: bool


def follow_rib(
    hu: NDArray[np.float32],
    grid: Grid,
    starts: Iterable[tuple[NDArray[np.float64], float]],
    outward_lps: NDArray[np.float64],
    *,
    bone_hu: float,
) -> Rib:
    """The longest that any of several starts leads to.

    The joints of a rib with the body and with the transverse process leave gaps beside the vertebra, in which one start may
    end at once.

    Parameters
    ----------
    hu : float32 ndarray of shape (Z, Y, X)
        Relative HU on an isotropic `grid`.
    starts : iterable of (LPS point, mm)
        Points in bone beside the vertebra, and how far each is from the side of the body.
    outward_lps : float ndarray of shape (3,)
        Unit vector in which ribs set off.
    bone_hu : float
        What counts as bone.
    """
    longest = Rib(0.0, False)
    for point, before_mm in starts:
        length, cut = _follow(hu, grid, point, outward_lps, bone_hu)
        if before_mm + length > longest.length_mm:
            longest = Rib(before_mm + length, cut)
        if longest.length_mm > _LONG_ENOUGH_MM:
            break
    return longest


def _follow(
    hu: NDArray[np.float32], grid: Grid, point: NDArray[np.float64], heading: NDArray[np.float64], bone_hu: float
) -> tuple[float, bool]:
    """Length of the path, and whether it leaves the field."""
    length = 0.0
    while length < _LONGEST_MM:
        values = sample_lps(hu, grid, point + _OFFSETS, fill=np.nan)
        ahead = _DIRECTIONS @ heading > _AHEAD_COSINE
        unseen = np.isnan(values)
        if np.count_nonzero(unseen & ahead) > _UNSEEN_SHARE * np.count_nonzero(ahead):
            return length, True
        # Brighter bone weighs more, so that an enhanced kidney beside the rib does not draw the path away.
        weight = np.where(ahead & ~unseen, np.clip(values - bone_hu, 0.0, _BRIGHTEST_HU), 0.0)
        if np.count_nonzero(weight) * _CELL_MM**3 < _LEAST_BONE_MM3:
            return length, False
        towards = weight @ _OFFSETS
        towards /= np.linalg.norm(towards)
        heading = heading + towards
        heading /= np.linalg.norm(heading)
        step = 0.3 * heading + 0.7 * towards
        point = point + _STEP_MM * step / np.linalg.norm(step)
        length += _STEP_MM
    return _LONGEST_MM, False
