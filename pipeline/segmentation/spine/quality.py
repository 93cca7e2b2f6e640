"""What speaks against a body: each check of the quality gate, with its reason code and the value that was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import Finding, Severity
from pipeline.segmentation.model import Vertebra
from pipeline.segmentation.sampling import index_box
from pipeline.segmentation.spine.body import BodyModel
from pipeline.segmentation.spine.discs import Disc
from pipeline.segmentation.spine.second import SecondOpinion
from pipeline.segmentation.spine.view import filled_slices, holds_filled_slice
from pipeline.volume import Volume

_FAILURE, _WARNING = Severity.FAILURE, Severity.WARNING

_LEAST_DISC_HU = ((3.0, 45.0), (5.0, 20.0))
_LEAST_PLATE_HU = ((3.0, 60.0), (5.0, 12.0))
_LEAST_WALL_HU = 100.0
_PITCH_PER_WIDTH = (0.44, 1.0)
_PITCH_PER_WIDTH_ALONE, _HIGH_OFF_TREND = 1.15, 0.1
_PITCH_OFF_TREND = 0.25
_SPAN_OFF_TREND = 0.1
_COLLAPSED = 0.5
_DEPTH_PER_WIDTH = (0.58, 1.35)
_GREATEST_DEPTH_MM = 50.0
_FAR_SHARE = 0.05
_VOLUME_OFF_TREND = 0.3
_UNSEEN_SHARE = 0.02
_METAL_HU = 2500.0
_METAL_REACH_MM = 10.0
_CEMENT_HU, _CEMENT_SHARE = 900.0, 0.05
_LEAST_REPEAT_DICE, _FAILING_REPEAT_DICE = 0.95, 0.85
_LEAST_WATERSHED_DICE, _FAILING_WATERSHED_DICE = 0.76, 0.68
_LEAST_PEDICLE_HU = 20.0
_THICK_SLICE_MM = 4.0
_LEAST_LUMBAR_BODIES, _ADULT_LUMBAR_WIDTH_MM = 2, 29.0
"""The phantom of a woman of 0.82 of the usual size, the smallest on the page of the spine, has lumbar bodies of 30 to 41 mm."""


@dataclass(frozen=True)
class Repeat:
    """How a body came out when everything after the canal was done again on another grid.

    Attributes
    ----------
    dice : float
        Overlap of both outlines; 0 when the body was not found again.
    """

    dice: float


def judge_bodies(
    volume: Volume,
    bodies: tuple[BodyModel, ...],
    discs: tuple[Disc, ...],
    masks: list[tuple[tuple[slice, slice, slice], NDArray[np.bool_]]],
    repeats: list[Repeat],
    opinions: Sequence[SecondOpinion] = (),
) -> list[tuple[list[Finding], float]]:
    """Findings and score of each body.

    Parameters
    ----------
    volume : Volume
    bodies : tuple of BodyModel
        From cranial to caudal.
    discs : tuple of Disc
        One more than bodies; body i lies between disc i and disc i + 1.
    masks : list of (box, mask)
        Voxels of each body as `body.rasterise` gives them.
    repeats : list of Repeat
    opinions : sequence of SecondOpinion, optional
        One for each body, or none at all.

    Returns
    -------
    list of (findings, score)
        The score is the product of how far each measure lies within its limit, 0..1: 1 when every edge is strong, every gap
        is clear and the repeat agrees. docs/segmentation-spine.md shows it against the accuracy.
    """
    slice_mm = volume.spacing_mm[0]
    least_disc, least_plate = _by_slice(slice_mm, _LEAST_DISC_HU), _by_slice(slice_mm, _LEAST_PLATE_HU)
    pitch = np.array([np.linalg.norm(a.centre_lps_mm - b.centre_lps_mm) for a, b in pairwise(discs)])
    height = np.array([b.height_mm for b in bodies])
    content = np.array([b.volume_mm3 for b in bodies])
    pitch_trend, height_trend, volume_trend = _trend(pitch), _trend(height), _trend(content)
    off_trend = pitch / pitch_trend - 1.0
    # Broken bodies pull the trend of their neighbours down, which then seem high: high is what is high beside the others.
    low = [int(i) for i in np.flatnonzero(off_trend < -_PITCH_OFF_TREND)]
    above_trend = pitch / _trend(pitch, without=low) - 1.0
    # A body that the scan cuts may be low because its disc is not in view: that says nothing about the body beside it.
    in_view = np.where([body.unseen > _UNSEEN_SHARE for body in bodies], 0.0, off_trend)
    filled = filled_slices(volume)
    out = []
    for i, body in enumerate(bodies):
        above, below = discs[i], discs[i + 1]
        findings: list[Finding] = []

        def add(code: str, severity: Severity, text: str, findings: list[Finding] = findings) -> None:
            findings.append(Finding(code, severity, text))

        if body.unseen > _UNSEEN_SHARE:
            add(
                "cut_by_field_of_view",
                _FAILURE,
                f"The field of view cuts {100 * body.unseen:.0f} % of the body's surface.",
            )
        if holds_filled_slice(filled, *masks[i]):
            add("interpolated_slice", _FAILURE, "A slice inside this body was missing and was interpolated.")
        weak = {where: d.response_hu for where, d in (("above", above), ("below", below)) if d.response_hu < least_disc}
        hidden = [where for where, disc in (("above", above), ("below", below)) if where in weak or disc.merged]
        if hidden:
            reason = "endplates beside it merge in the image."
            if weak:
                reason = f"endplates and disc differ by {min(weak.values()):.0f} HU ({least_disc:.0f} needed)."
            text = f"The disc {' and '.join(hidden)} is not visible: {reason}"
            add("disc_not_visible", _FAILURE if len(hidden) == 2 else _WARNING, text)
        width = 0.5 * (above.width_mm + below.width_mm)
        ratio = float(pitch[i] / width)
        off_pitch = float(min(off_trend[i], above_trend[i]) if off_trend[i] > 0 else off_trend[i])
        relative_height = float(height[i] / height_trend[i])
        misplaced = _disc_misplaced(pitch, in_view, range(max(i - 1, 0), min(i + 2, len(bodies))))
        too_low = ratio < _PITCH_PER_WIDTH[0] and bool(hidden)
        # Small thoracic bodies are nearly as high as wide: beside others like them that is no sign of a missed disc.
        too_high = ratio > _PITCH_PER_WIDTH[1] and (off_pitch > _HIGH_OFF_TREND or ratio > _PITCH_PER_WIDTH_ALONE)
        if too_high or off_pitch > _PITCH_OFF_TREND + 0.1 or too_low or misplaced:
            add(
                "implausible_height", _FAILURE,
                f"The discs are {pitch[i]:.0f} mm apart, {ratio:.2f} of the body's width and {100 * off_pitch:+.0f} % off its"
                " neighbours: two bodies may have been merged, or one split.",
            )  # fmt: skip
        elif relative_height < _COLLAPSED:
            add(
                "collapsed_body", _WARNING,
                f"The body is {height[i]:.0f} mm high, {100 * relative_height:.0f} % of what its neighbours suggest: if it is"
                " broken, its density is not representative.",
            )  # fmt: skip
        elif abs(off_pitch) > _PITCH_OFF_TREND:
            add(
                "unusual_height", _WARNING,
                f"The discs are {pitch[i]:.0f} mm apart, {100 * off_pitch:+.0f} % off what the neighbours suggest.",
            )  # fmt: skip
        findings.extend(_outline_findings(body, least_plate, float(content[i] / volume_trend[i] - 1)))
        findings.extend(_foreign_findings(volume, body, *masks[i]))
        again = repeats[i].dice
        if again < _LEAST_REPEAT_DICE:
            add(
                "outline_unstable", _FAILURE if again < _FAILING_REPEAT_DICE else _WARNING,
                f"Done again on another grid, the outline overlaps the first one by a Dice of only {again:.2f}.",
            )  # fmt: skip
        if opinions:
            findings.extend(_opinion_findings(opinions[i], bool(hidden)))
        if slice_mm > _THICK_SLICE_MM:
            add("thick_slices", _WARNING, f"Slices are {slice_mm:.1f} mm apart: heights are not reliable.")
        score = _score(body, min(above.response_hu, below.response_hu), least_disc, least_plate, again)
        if opinions:
            score *= _agreement(opinions[i].watershed_dice)
        out.append((findings, score))
    return out


def small_skeleton_findings(vertebrae: Sequence[Vertebra]) -> list[Finding]:
    """A warning where the lumbar bodies are those of a child: every limit and norm in this project is that of adults."""
    widths = [v.width_mm for v in vertebrae if v.level is not None and v.level[0] == "L" and v.status != "failed"]
    if len(widths) < _LEAST_LUMBAR_BODIES or float(np.median(widths)) >= _ADULT_LUMBAR_WIDTH_MM:
        return []
    text = (
        f"The lumbar bodies are {np.median(widths):.0f} mm wide, less than those of adults ({_ADULT_LUMBAR_WIDTH_MM:.0f} mm): "
        "a child, or a wrong scale of the images. No norm applies."
    )
    return [Finding("small_skeleton", _WARNING, text)]


def _opinion_findings(opinion: SecondOpinion, disc_hidden: bool) -> list[Finding]:
    """Where another method finds another body, or the pedicles stand where the discs should be."""
    out = []
    if opinion.watershed_dice < _LEAST_WATERSHED_DICE:
        severity = _FAILURE if opinion.watershed_dice < _FAILING_WATERSHED_DICE else _WARNING
        dice = opinion.watershed_dice
        text = f"A watershed between the same discs finds another outline: the overlap is a Dice of {dice:.2f}."
        out.append(Finding("second_opinion_differs", severity, text))
    if opinion.pedicle_contrast_hu < _LEAST_PEDICLE_HU:
        text = "The discs do not lie between the pedicles: one of them may have been put in the wrong place."
        out.append(Finding("discs_against_pedicles", _FAILURE if disc_hidden else _WARNING, text))
    return out


def _agreement(watershed_dice: float) -> float:
    """Agreement with the watershed as a factor of the score: 0 at 0.62, 1 at 0.78."""
    return float(np.clip((watershed_dice - 0.62) / 0.16, 0.0, 1.0))


def _by_slice(slice_mm: float, limits: tuple[tuple[float, float], ...]) -> float:
    """A limit that depends on the distance of the slices, given as (slice distance, limit) pairs."""
    at, values = zip(*limits, strict=True)
    return float(np.interp(slice_mm, np.array(at), np.array(values)))


def _outline_findings(body: BodyModel, least_plate_hu: float, off_volume: float) -> list[Finding]:
    doubts, weak = [], []
    shape = body.depth_mm / max(body.waist_mm, 1.0)
    if not _DEPTH_PER_WIDTH[0] <= shape <= _DEPTH_PER_WIDTH[1] or body.depth_mm > _GREATEST_DEPTH_MM:
        doubts.append(f"it is {body.depth_mm:.0f} mm deep and {body.waist_mm:.0f} mm wide")
    if body.wall_edge_hu < _LEAST_WALL_HU:
        doubts.append(f"the edge of its side wall is {body.wall_edge_hu:.0f} HU ({_LEAST_WALL_HU:.0f} needed)")
    plate = min(body.lower_edge_hu, body.upper_edge_hu)
    if plate < least_plate_hu:
        doubts.append(f"the edge of an endplate is {plate:.0f} HU ({least_plate_hu:.0f} needed)")
    if body.far_from_template > _FAR_SHARE:
        weak.append(f"{100 * body.far_from_template:.0f} % of its wall lies more than 6 mm from the averaged outline")
    if abs(off_volume) > _VOLUME_OFF_TREND:
        weak.append(f"its volume is {100 * off_volume:+.0f} % off its neighbours")
    if not doubts and not weak:
        return []
    severity = _FAILURE if doubts else _WARNING
    return [Finding("outline_uncertain", severity, "The outline is uncertain: " + "; ".join(doubts + weak) + ".")]


def _foreign_findings(
    volume: Volume, body: BodyModel, box: tuple[slice, slice, slice], mask: NDArray[np.bool_]
) -> list[Finding]:
    """Metal in or near the body, and cement in it."""
    reach = float(body.wall_mm.max()) + _METAL_REACH_MM
    low, high = float(body.lower_mm.min()) - _METAL_REACH_MM, float(body.upper_mm.max()) + _METAL_REACH_MM
    corners = np.stack(np.meshgrid([-reach, reach], [-reach, reach], [low, high], indexing="ij"), axis=-1).reshape(
        -1, 3
    )
    around = index_box(volume.grid, body.frame.to_lps(corners[:, 0], corners[:, 1], corners[:, 2]))
    saturated = np.argwhere(volume.hu[around] > _METAL_HU)
    if len(saturated):
        start = np.array([s.start for s in around])
        local = body.frame.to_frame(volume.grid.to_lps((saturated + start).astype(float)))
        angle = np.arctan2(local[:, 1], local[:, 0])
        middle = body.wall_mm.mean(axis=1)
        ring = np.linspace(0, 2 * np.pi, len(middle), endpoint=False)
        outside = np.hypot(local[:, 0], local[:, 1]) - np.interp(angle, ring, middle, period=2 * np.pi)
        amount_ml = float((outside < _METAL_REACH_MM).sum()) * volume.grid.voxel_volume_mm3 / 1000.0
        inside_ml = float((outside < 2.0).sum()) * volume.grid.voxel_volume_mm3 / 1000.0
        if inside_ml > 0.05:
            text = f"Metal: {inside_ml:.2f} ml above {_METAL_HU:.0f} HU in the body."
            return [Finding("metal_or_cement", _FAILURE, text)]
        if amount_ml > 0.05:
            text = f"Metal within {_METAL_REACH_MM:.0f} mm of the body ({amount_ml:.2f} ml above {_METAL_HU:.0f} HU)."
            return [Finding("metal_nearby", _WARNING, text)]
    values = volume.hu[box][mask]
    share = float((values > _CEMENT_HU).mean()) if values.size else 0.0
    if share > _CEMENT_SHARE and float(np.median(values)) > 0:
        core = _core_share(volume, body)
        if core > _CEMENT_SHARE:
            text = (
                f"{100 * core:.0f} % of the core of the body is above {_CEMENT_HU:.0f} HU: cement, or a dense lesion."
            )
            return [Finding("metal_or_cement", _FAILURE, text)]
    return []


def _core_share(volume: Volume, body: BodyModel) -> float:
    """Share of the inner half of the body above the level of cement."""
    part = np.linspace(-0.25, 0.25, 9)
    u, v, w = np.meshgrid(part * body.width_mm, part * body.depth_mm, part * body.height_mm, indexing="ij")
    index = np.rint(volume.grid.to_index(body.frame.to_lps(u, v, w))).astype(int).reshape(-1, 3)
    inside = ((index >= 0) & (index < np.array(volume.shape))).all(axis=1)
    values = volume.hu[tuple(index[inside].T)]
    return float((values > _CEMENT_HU).mean()) if values.size else 0.0


def _disc_misplaced(pitch_mm: NDArray[np.float64], off_trend: NDArray[np.float64], beside: range) -> bool:
    """Whether a disc among the bodies `beside` seems to lie in the wrong place: one of them low, another high.

    A broken body is low by itself; that its neighbour seems high may only be because the broken one pulls the trend down. So
    both together, with what lies between, are held against the others: a misplaced disc leaves their sum as it should be, a
    fracture takes from it.
    """
    broken = [int(i) for i in np.flatnonzero(off_trend < -_PITCH_OFF_TREND)]
    for low, high in product(beside, beside):
        if off_trend[low] < -_PITCH_OFF_TREND and off_trend[high] > 0.6 * _PITCH_OFF_TREND:
            span = list(range(min(low, high), max(low, high) + 1))
            expected = _trend(pitch_mm, without=[*span, *broken])
            if pitch_mm[span].sum() / expected[span].sum() - 1.0 > -_SPAN_OFF_TREND:
                return True
    return False


def _trend(values: NDArray[np.float64], *, without: Sequence[int] = ()) -> NDArray[np.float64]:
    """What the neighbours (up to three on each side, without the body itself) suggest, by a robust line.

    The values at `without` are not asked either.
    """
    count = len(values)
    out = values.astype(float).copy()
    for i in range(count):
        near = [j for j in range(max(0, i - 3), min(count, i + 4)) if j != i and j not in without]
        if len(near) < 2:
            continue
        x, y = np.array(near, float) - i, values[near]
        # Median of pairwise slopes (Theil-Sen): one broken neighbour does not tilt the line.
        slopes = [(y[b] - y[a]) / (x[b] - x[a]) for a in range(len(x)) for b in range(a + 1, len(x))]
        slope = float(np.median(slopes)) if len(near) > 2 else 0.0
        out[i] = max(float(np.median(y - slope * x)), 1e-6)
    return out


def _score(body: BodyModel, disc_hu: float, least_disc: float, least_plate: float, again: float) -> float:
    def margin(value: float, limit: float) -> float:
        """0 at half the limit, 1 at twice the limit."""
        return float(np.clip((value / limit - 0.5) / 1.5, 0.0, 1.0))

    plate = margin(min(body.lower_edge_hu, body.upper_edge_hu), least_plate)
    wall = margin(body.wall_edge_hu, 0.75 * _LEAST_WALL_HU)
    stable = float(np.clip((again - 0.8) / 0.18, 0.0, 1.0))
    seen = float(np.clip(1.0 - 5.0 * body.unseen, 0.0, 1.0))
    near = float(np.clip(1.0 - 4.0 * body.far_from_template, 0.0, 1.0))
    return float((plate * wall * margin(disc_hu, least_disc)) ** (1 / 3) * stable * seen * near)
