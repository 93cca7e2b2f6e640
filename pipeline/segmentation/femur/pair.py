"""The two hips of one person are mirror images, nearly: what one side says about the other.

Left and right are chosen together, but a side that is sure by itself is never given up for a better match with the other,
which may hold metal, a tumour or no head at all. Where only one side is sure, its mirror image says where the other head
must be and how large; a head found that way is told as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import Finding, Severity
from pipeline.segmentation.femur.head import SIDES, Field, Head, settled_sphere
from pipeline.segmentation.model import FemurLandmarks

ACCEPTED_SCORE = 0.52
"""Below it a sphere is not taken for a femoral head; see docs/segmentation-femur.md for the scores of right and wrong ones."""
SURE_SCORE, SURE_MARGIN = 0.60, 0.06
"""A head is sure that scores so much, and so much more than the next sphere on its side."""
GUIDED_SCORE = 0.42
"""A sphere of lower score counts where the mirror image of a sure head says that it must be."""
_HEADS_APART_MM = (125.0, 230.0)
_GUIDED_REACH_MM, _GUIDED_RADIUS_MM = 22.0, 2.0
_MIRROR = np.array([-1.0, 1.0, 1.0])
_DOUBTFUL_OUTLINE = frozenset({"outline_unstable", "mask_not_closed", "head_not_repeatable", "joint_not_visible"})
UNEQUAL_SHARE = 0.15


def chosen_heads(heads: dict[str, list[Head]], midline_x_mm: float | None) -> list[Head]:
    """At most one head for each side; without a midline possibly both readings of one hip, best first.

    Parameters
    ----------
    heads : dict of str to list of Head
        What was found on each side, best first, no two of them the same.
    midline_x_mm : float or None
    """
    alone = sorted((h for side in SIDES for h in heads[side][:3]), key=lambda h: -h.score)
    if not alone:
        return []
    sure = {side: is_sure(heads[side]) for side in SIDES}
    pairs = [
        (a.score + b.score - strangeness(a, b, midline_x_mm), a, b)
        for a, b in product(*(heads[side][:1] if sure[side] else heads[side][:5] for side in SIDES))
        if min(a.score, b.score) > 0.7 * ACCEPTED_SCORE and np.isfinite(strangeness(a, b, midline_x_mm))
    ]
    best_pair = max(pairs, key=lambda p: p[0]) if pairs else None
    # Half the sum of a pair weighs as much as one alone, less a little: two agreeing heads are better evidence.
    if best_pair is not None and 0.5 * best_pair[0] > alone[0].score - 0.12:
        return [best_pair[1], best_pair[2]]
    if midline_x_mm is not None:
        return [heads[side][0] for side in SIDES if heads[side]]
    return alone


def is_sure(heads: list[Head]) -> bool:
    """Whether the best of the spheres on one side is a head whatever the other side looks like."""
    if not heads or heads[0].score < SURE_SCORE:
        return False
    return len(heads) < 2 or heads[0].score - heads[1].score >= SURE_MARGIN


def strangeness(left: Head, right: Head, midline_x_mm: float | None) -> float:
    """How unlikely two spheres are as the two heads of one person; infinite when impossible."""
    apart = left.centre_lps_mm - right.centre_lps_mm
    if not _HEADS_APART_MM[0] < apart[0] < _HEADS_APART_MM[1] or abs(apart[2]) > 40.0 or abs(apart[1]) > 45.0:
        return float("inf")
    cost = 0.05 * (abs(apart[2]) / 20.0) ** 2 + 0.03 * (abs(apart[1]) / 20.0) ** 2
    cost += 0.05 * ((left.radius_mm - right.radius_mm) / 2.0) ** 2
    if midline_x_mm is not None:
        centre = (left.centre_lps_mm[0] + right.centre_lps_mm[0]) / 2
        cost += 0.05 * ((centre - midline_x_mm) / 15.0) ** 2
    return float(cost)


def guided_by_mirror(field: Field, sure: Head, midline_x_mm: float) -> Head | None:
    """The head of the other side where the mirror image of a sure head says that it must be, or None.

    Parameters
    ----------
    field : Field
        The image in which heads were sought.
    sure : Head
    midline_x_mm : float

    Returns
    -------
    Head or None
        Within 22 mm of the mirror image and 2 mm of its radius, scoring at least 0.42; marked as `guided`.
    """
    side = "right" if sure.side == "left" else "left"
    expected = sure.centre_lps_mm * _MIRROR + np.array([2.0 * midline_x_mm, 0.0, 0.0])
    steps = 11.0 * np.array(
        [[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], dtype=float
    )
    usual = (sure.radius_mm - _GUIDED_RADIUS_MM, sure.radius_mm + _GUIDED_RADIUS_MM)
    near = field.around(expected, 85.0)
    fits = [settled_sphere(near, side, expected + step, radius_range_mm=usual) for step in steps]
    close = [
        f
        for f in fits
        if f is not None
        and f.score >= GUIDED_SCORE
        and float(np.linalg.norm(f.centre_lps_mm - expected)) < _GUIDED_REACH_MM
    ]
    return replace(max(close, key=lambda f: f.score), guided=True) if close else None


def mirrored(direction_lps: NDArray[np.float64]) -> NDArray[np.float64]:
    """A direction on the other side of the body."""
    return np.asarray(direction_lps * _MIRROR)


def guided_findings(head: Head) -> list[Finding]:
    """That a head would not have been found without the other one."""
    if not head.guided:
        return []
    text = (
        f"The femoral head was found with little confidence (score {head.score:.2f}) and only because it lies where "
        "the mirror image of the other side puts it."
    )
    return [Finding("head_found_by_other_side", Severity.WARNING, text)]


def unsupported_findings(found: Sequence[Finding]) -> list[Finding]:
    """A head that only the other side's mirror image found has nothing to stand on when the outline is doubtful, too."""
    codes = {finding.code for finding in found}
    if "head_found_by_other_side" not in codes or not codes & _DOUBTFUL_OUTLINE:
        return []
    text = (
        "The femoral head was found by the mirror image of the other side alone, and the outline about it is doubtful."
    )
    return [Finding("head_not_found", Severity.FAILURE, text)]


def unequal_findings(upper_ml: dict[str, float], scores: dict[str, float]) -> dict[str, list[Finding]]:
    """Two femora of one person hold about as much bone about their heads; else one of the masks is doubtful.

    Parameters
    ----------
    upper_ml : dict of str to float
        By side, volume of the mask within a distance of the head centre that both sides have in view; see `upper_volume_ml`.
    scores : dict of str to float

    Returns
    -------
    dict of str to list of Finding
        On both sides, or on the weaker one if the other is better by 0.1.
    """
    if len(upper_ml) != 2:
        return {}
    left, right = upper_ml["left"], upper_ml["right"]
    share = abs(left - right) / max(0.5 * (left + right), 1e-6)
    if share <= UNEQUAL_SHARE:
        return {}
    text = f"About the head this femur and that of the other side hold {left:.0f} and {right:.0f} ml (left, right)."
    weaker = min(scores, key=lambda side: scores[side])
    doubtful = list(SIDES) if abs(scores["left"] - scores["right"]) < 0.1 else [weaker]
    return {side: [Finding("sides_differ", Severity.WARNING, text)] for side in doubtful}


def upper_volume_ml(points_lps_mm: NDArray[np.float64], voxel_mm3: float, landmarks: FemurLandmarks) -> float:
    """Volume of what lies within 65 mm of the head centre: head, neck and most of the trochanters in any pose."""
    away = np.linalg.norm(points_lps_mm - landmarks.head_centre_lps_mm, axis=1)
    return float((away < 65.0).sum()) * voxel_mm3 / 1000
