"""Naming the bodies: which level each one is, how sure that is, and what the name is anchored on.

Bodies look alike; only their place in the sequence tells them apart. So every way of laying the sequence of levels over the
bodies is weighed by what can be seen (how far ribs and transverse processes reach, how wide the bodies are, where the sacrum
is), and a name is given only where the sacrum or the last rib is in view.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipeline.errors import InputRefused
from pipeline.segmentation.model import LEVELS
from pipeline.segmentation.sampling import sample_lps
from pipeline.segmentation.spine.body import BodyModel
from pipeline.segmentation.spine.discs import Disc
from pipeline.segmentation.spine.tube import BACK_REACH_MM, LEFT_REACH_MM, Outlines, Tube
from pipeline.volume import Grid

BONE_HU = 160.0
_CELL_MM = 2.0
_SEQUENCE = ("C5", "C6", *LEVELS, "S1", "S2", "S3", "S4", "S5")
_REACH_MEAN_SD_MM = {
    **{f"C{i}": (34.0, 8.0) for i in range(5, 8)},
    **{f"T{i}": (95.0, 25.0) for i in range(1, 11)},
    "T11": (85.0, 25.0), "T12": (65.0, 20.0),
    "L1": (36.0, 7.0), "L2": (41.0, 6.0), "L3": (47.0, 7.0), "L4": (44.0, 7.0), "L5": (45.0, 8.0),
}  # fmt: skip
_WIDTH_AT = {
    "C5": 24.0,
    "T1": 28.0,
    "T4": 27.0,
    "T8": 31.0,
    "T10": 35.0,
    "T12": 40.0,
    "L1": 42.0,
    "L3": 47.0,
    "L5": 51.0,
}
_WIDTH_SD_MM = 4.5
_SACRAL_LOG_LIKELIHOOD = (-6.0, -3.5, -1.5, -0.3, -0.1)
_NOT_SACRAL_LOG_LIKELIHOOD = (-0.05, -0.6, -2.5, -6.0, -7.5)
_SIZES, _SIZE_SD = np.arange(0.82, 1.19, 0.04), 0.08
_LATERAL_FIELD_MM = 70.0
_RIB_MM, _NO_RIB_MM = 60.0, 50.0
_LEAST_CONFIDENCE = 0.9
SACRAL_SIGNS = 3
_FREQUENCY_OF_VARIANTS = 0.05


@dataclass(frozen=True)
class LevelSigns:
    """What can be seen of the level of one body.

    Attributes
    ----------
    reach_mm : tuple of float
        How far from the midline the bone that starts at the vertebra reaches, left and right (rib or transverse process).
    cut_off : tuple of bool
        Whether that bone runs out of the scanned field, left and right, or the field ends within 70 mm of the midline.
    width_mm : float
    sacral_signs : int
        How many of the four signs of the sacrum are seen.
    """

    reach_mm: tuple[float, float]
    cut_off: tuple[bool, bool]
    width_mm: float
    sacral_signs: int


@dataclass(frozen=True)
class Naming:
    """Levels of the bodies from cranial to caudal.

    Attributes
    ----------
    levels : tuple of str or None
        ``"T12"``, ``"S1"`` (and below) for parts of the sacrum, or None where the level is not known.
    confidence : tuple of float or None
    alternatives : tuple of dict
        Other levels and their probabilities, per body.
    anchor : str
        ``"sacrum"``, ``"last rib"``, ``"sacrum and last rib"``, ``"pin"`` or ``""``.
    reason : str
        Why there is no name, or what is doubtful; empty when all is well.
    code : str
        ``level_unknown``, ``level_uncertain`` or ``level_conflict`` when there is a reason.
    """

    levels: tuple[str | None, ...]
    confidence: tuple[float | None, ...]
    alternatives: tuple[dict[str, float], ...]
    anchor: str = ""
    reason: str = ""
    code: str = ""
    sacrum_from: int | None = None
    """Index of the first body that belongs to the sacrum, whether the others have names or not."""


def level_signs(hu: NDArray[np.float32], grid: Grid, model: BodyModel, sacral_signs: int) -> LevelSigns:
    """Look beside one body for ribs and transverse processes.

    Parameters
    ----------
    hu : float32 ndarray of shape (Z, Y, X)
        Relative HU on a coarse isotropic `grid` of the whole width of the scan.
    model : BodyModel
    sacral_signs : int
        See `count_sacral_signs`.
    """
    half_width, half_height = 0.5 * model.width_mm, 0.5 * model.height_mm
    left = np.arange(0.0, 110.0, _CELL_MM)
    posterior = np.arange(-10.0, 92.0, _CELL_MM)
    superior = np.arange(-92.0, half_height + 12.0, _CELL_MM)
    first = int(np.ceil((half_width + 3.0) / _CELL_MM))
    start_w = np.abs(superior) <= half_height + 3.0
    start_v = (posterior >= 0.0) & (posterior <= 0.5 * model.depth_mm + 25.0)
    start = start_w[:, None] & start_v[None, :]
    beside = (int(np.argmin(np.abs(superior))), int(np.argmin(np.abs(posterior - 20.0))))
    reach, cut = [], []
    for side in (1.0, -1.0):
        points = model.frame.to_lps(side * left[None, None, :], posterior[None, :, None], superior[:, None, None])
        values = sample_lps(hu, grid, points, fill=np.nan)
        steps, lost = _sweep_outward(values, start, first, BONE_HU)
        field_mm = _CELL_MM * float(np.isfinite(values[beside]).sum())
        reach.append(float(left[steps]))
        cut.append(bool(lost) or field_mm < _LATERAL_FIELD_MM)
    return LevelSigns((reach[0], reach[1]), (cut[0], cut[1]), model.width_mm, sacral_signs)


def count_sacral_signs(hu: NDArray[np.float32], grid: Grid, tube: Tube, outlines: Outlines, disc: Disc) -> int:
    """How many of four signs say that what lies under a disc is the sacrum.

    The signs: bone on both sides of the body (the wings), bone farther out on both sides (the ilium), an upper plate that
    looks forward by more than 25 degrees, and a body that narrows to less than three quarters within 30 mm.
    """
    canal = tube.to_lps(np.array(disc.s_mm), np.array(0.0), np.array(0.0)) - disc.centre_lps_mm
    posterior = canal - (canal @ disc.normal_lps) * disc.normal_lps
    posterior /= np.linalg.norm(posterior)
    left = np.cross(posterior, disc.normal_lps)
    w = np.arange(-22.0, -5.0, _CELL_MM)[:, None, None]

    def share_of_bone(near_mm: float, far_mm: float, front_mm: float, back_mm: float, bone_hu: float) -> float:
        """The smaller of both sides."""
        v = np.arange(-front_mm, back_mm + 0.1, _CELL_MM)[None, :, None, None]
        shares = []
        for side in (1.0, -1.0):
            u = side * np.arange(near_mm, far_mm + 0.1, _CELL_MM)[None, None, :, None]
            values = sample_lps(
                hu, grid, disc.centre_lps_mm + u * left + v * posterior + w[..., None] * disc.normal_lps, fill=np.nan
            )
            known = np.isfinite(values)
            shares.append(float((values[known] > bone_hu).mean()) if known.mean() > 0.5 else 0.0)
        return min(shares)

    wings = share_of_bone(28.0, 46.0, 12.0, 15.0, 120.0) > 0.15
    ilium = share_of_bone(50.0, 90.0, 10.0, 50.0, BONE_HU) > 0.15
    ahead = tube.front[int(np.clip(disc.s_mm, 0, len(tube.front) - 1))] * (1.0, 1.0, 0.0)
    ahead /= np.linalg.norm(ahead)
    forward = np.degrees(np.arctan2(disc.normal_lps @ ahead, disc.normal_lps[2])) > 25.0
    deeper = disc.s_mm - 30.0
    in_view = deeper > 0 and bool(np.isfinite(tube.hu[int(deeper), BACK_REACH_MM + 10, LEFT_REACH_MM]))
    narrow = in_view and float(np.interp(deeper, outlines.s_mm, outlines.width_mm)) < 0.75 * disc.width_mm
    return int(wings) + int(ilium) + int(forward) + int(narrow)


@njit(cache=True, nogil=True)
def _sweep_outward(values, start, first, threshold):  # type: ignore[no-untyped-def]
    """Last lateral step that bone from the start zone reaches, moving outward only, and whether it left the field."""
    depth, height, width = values.shape
    front = np.zeros((depth, height), np.bool_)
    for k in range(depth):
        for j in range(height):
            # The root may be reached within three steps of the wall: a process leaves the body a little way out.
            for i in range(first, min(first + 4, width)):
                if start[k, j] and values[k, j, i] > threshold:
                    front[k, j] = True
    last = first
    lost = False
    for i in range(first + 4, width):
        following = np.zeros((depth, height), np.bool_)
        found = False
        missing = 0
        total = 0
        for k in range(depth):
            for j in range(height):
                if not front[k, j]:
                    continue
                total += 1
                # A rib that is cut runs along the border of the field for a while before it ends there.
                if np.isnan(values[k, j, i]) or np.isnan(values[k, min(j + 2, height - 1), i]):
                    missing += 1
                for kk in range(max(k - 2, 0), min(k + 3, depth)):
                    for jj in range(max(j - 2, 0), min(j + 3, height)):
                        if values[kk, jj, i] > threshold:
                            following[kk, jj] = True
                            found = True
        if not found:
            lost = 5 * missing > total
            break
        last = i
        front = following
    return last, lost


def name_levels(signs: list[LevelSigns], *, plausible: list[bool], cut: list[bool] | None = None) -> Naming:
    """Name bodies from cranial to caudal by their signs.

    Parameters
    ----------
    signs : list of LevelSigns
        From cranial to caudal.
    plausible : list of bool
        False for a body that may be two, or half of one, or is cut: no level is counted across it.
    cut : list of bool, optional
        True for a body whose only doubt is that the scan cuts it: it gets the name that its neighbour's gives it.
    """
    count = len(signs)
    shifts = [k for k in range(len(_SEQUENCE)) if k + count <= len(_SEQUENCE)]
    nothing = Naming((None,) * count, (None,) * count, ({},) * count)
    if count == 0 or not shifts:
        return replace(nothing, reason="there are no bodies, or too many", code="level_unknown")
    total = np.array([_fit_of_sequence(_SEQUENCE[k : k + count], signs) for k in shifts])
    weight = np.exp(total - total.max())
    weight /= weight.sum()
    best = shifts[int(weight.argmax())]
    chosen = [_SEQUENCE[best + i] for i in range(count)]
    first_sacral = next((i for i, s in enumerate(signs) if s.sacral_signs >= SACRAL_SIGNS and i > 0), None)
    rib_step = _last_rib(signs, plausible)
    nothing = replace(nothing, sacrum_from=first_sacral)
    if first_sacral is None and rib_step is None:
        reason = "neither the sacrum nor the last rib is in view"
        if any(any(s.cut_off) for s in signs[:-1]):
            reason += ", and the lateral field of view is too small to see where the ribs end"
        likely = tuple(_other_levels(shifts, weight, i, None) for i in range(count))
        return replace(nothing, alternatives=likely, reason=reason, code="level_unknown")
    anchors = [
        name for name, seen in (("sacrum", first_sacral is not None), ("last rib", rib_step is not None)) if seen
    ]
    doubt = ""
    if first_sacral is not None and chosen[first_sacral] != "S1":
        doubt = f"what lies above the sacrum looks like {chosen[first_sacral - 1]} by its other signs"
    elif rib_step is not None and chosen[rib_step] != "T12":
        between = "" if first_sacral is None else f": {first_sacral - rib_step - 1} bodies without ribs, 5 are usual"
        doubt = f"the body with the last long rib looks like {chosen[rib_step]} by the other signs{between}"
    # One landmark alone cannot tell a transitional vertebra; two that agree on five lumbar bodies can.
    variants = 0.01 if len(anchors) == 2 else _FREQUENCY_OF_VARIANTS
    likely_weight = (1.0 - variants) * weight
    for shift in (best - 1, best + 1):
        if shift in shifts:
            likely_weight[shifts.index(shift)] += 0.5 * variants
    confidence = float(likely_weight[shifts.index(best)])
    if not doubt and confidence < _LEAST_CONFIDENCE:
        doubt = f"the most likely naming has a probability of {confidence:.2f}"
    if doubt:
        likely = tuple(_other_levels(shifts, likely_weight, i, None) for i in range(count))
        reason = f"{doubt} (possible transitional vertebra)"
        return replace(
            nothing, alternatives=likely, anchor=" and ".join(anchors), reason=reason, code="level_uncertain"
        )
    counted = _reached_from_anchor(plausible, cut or [False] * count, first_sacral, rib_step)
    return Naming(
        tuple(level if ok else None for level, ok in zip(chosen, counted, strict=True)),
        tuple(round(confidence, 3) if ok else None for ok in counted),
        tuple(_other_levels(shifts, likely_weight, i, best if ok else None) for i, ok in enumerate(counted)),
        " and ".join(anchors),
        sacrum_from=first_sacral,
    )


def name_from_pins(count: int, pins: dict[int, str], sacrum_from: int | None) -> Naming:
    """Name bodies by counting from those that the user named (index to level).

    Raises
    ------
    InputRefused
        If two pins contradict each other.
    """
    shifts = {_SEQUENCE.index(level) - i for i, level in pins.items()}
    if len(shifts) > 1:
        raise InputRefused(
            "contradicting_levels", "the pinned levels contradict each other", subject=", ".join(sorted(pins.values())),
            remedy="Pin one level, or check their z coordinates.",
        )  # fmt: skip
    shift = shifts.pop()
    inside = [0 <= shift + i < len(_SEQUENCE) for i in range(count)]
    levels = tuple(_SEQUENCE[shift + i] if ok else None for i, ok in enumerate(inside))
    reason = ""
    if sacrum_from is not None and levels[sacrum_from] != "S1":
        reason = f"counted from the pinned level, what lies above the sacrum is {levels[sacrum_from - 1]}"
    return Naming(
        levels, (None,) * count, ({},) * count, "pin", reason, "level_conflict" if reason else "", sacrum_from
    )  # fmt: skip


def level_above(naming: Naming) -> Naming:
    """The same naming with one more body at the upper end, which is named if the one below it is."""

    def above(level: str) -> str | None:
        place = _SEQUENCE.index(level) - 1
        return _SEQUENCE[place] if place >= 0 else None

    first = None if naming.levels[0] is None else above(naming.levels[0])
    likely = {name: weight for level, weight in naming.alternatives[0].items() if (name := above(level)) is not None}
    return replace(
        naming,
        levels=(first, *naming.levels),
        confidence=(None if first is None else naming.confidence[0], *naming.confidence),
        alternatives=(likely, *naming.alternatives),
        sacrum_from=None if naming.sacrum_from is None else naming.sacrum_from + 1,
    )


def _other_levels(shifts: list[int], weight: NDArray[np.float64], i: int, best: int | None) -> dict[str, float]:
    """Levels of body `i` and their probabilities, without the chosen one, largest first."""
    pairs = [(_SEQUENCE[k + i], float(w)) for k, w in zip(shifts, weight, strict=True) if w >= 0.01 and k != best]
    return {level: round(w, 3) for level, w in sorted(pairs, key=lambda pair: -pair[1])}


def _reached_from_anchor(
    plausible: list[bool], cut: list[bool], first_sacral: int | None, rib_step: int | None
) -> list[bool]:
    """Which bodies can be counted from an anchor without crossing an implausible one; a cut one can be met, not crossed."""
    reached = [False] * len(plausible)
    starts = [] if rib_step is None else [rib_step]
    if first_sacral is not None:
        reached[first_sacral:] = [True] * (len(plausible) - first_sacral)
        starts.append(first_sacral - 1)
    for start in starts:
        for step in (-1, 1):
            i = start
            while 0 <= i < len(plausible) and plausible[i]:
                reached[i] = True
                i += step
            if 0 <= i < len(plausible) and cut[i]:
                reached[i] = True
    return reached


def _last_rib(signs: list[LevelSigns], plausible: list[bool]) -> int | None:
    """Index of the body with ribs on both sides whose lower neighbour has none, both whole and wholly seen."""
    for i in range(len(signs) - 1):
        upper, lower = signs[i], signs[i + 1]
        seen = plausible[i] and plausible[i + 1] and not any(lower.cut_off)
        if seen and min(upper.reach_mm) > _RIB_MM and max(lower.reach_mm) < _NO_RIB_MM:
            return i
    return None


def _fit_of_sequence(levels: tuple[str, ...], signs: list[LevelSigns]) -> float:
    """How well the signs of all bodies agree with their levels, in a person of the size that suits these levels best."""
    return max(
        sum(_log_likelihood(level, s, size) for level, s in zip(levels, signs, strict=True))
        - 0.5 * ((size - 1.0) / _SIZE_SD) ** 2
        for size in _SIZES
    )


def _log_likelihood(level: str, signs: LevelSigns, size: float = 1.0) -> float:
    """How well the signs of one body agree with a level; every term is bounded so that one bad reading cannot decide.

    `size` is that of the person relative to the usual one; it scales what is expected of widths, processes and ribs.
    """
    sacral = level.startswith("S")
    total = (_SACRAL_LOG_LIKELIHOOD if sacral else _NOT_SACRAL_LOG_LIKELIHOOD)[signs.sacral_signs]
    if sacral:
        return total
    mean, sd = _REACH_MEAN_SD_MM[level]
    mean *= size
    for reach, cut in zip(signs.reach_mm, signs.cut_off, strict=True):
        deviation = (reach - mean) / sd
        # A rib that leaves the field is at least as long as what is seen of it; a thoracic rib cannot be too long. At L4 and
        # L5 the process may touch the ilium.
        at_least = cut or level in ("L4", "L5")
        if (at_least and deviation < 0 and cut) or (deviation > 0 and level.startswith("T")):
            continue
        floor = -1.0 if level in ("L4", "L5") and deviation > 0 else -4.0
        total += max(-0.25 * deviation**2, floor)
    places = [_SEQUENCE.index(name) for name in _WIDTH_AT]
    expected = size * float(np.interp(_SEQUENCE.index(level), places, list(_WIDTH_AT.values())))
    return total + max(-0.25 * ((signs.width_mm - expected) / _WIDTH_SD_MM) ** 2, -2.0)
