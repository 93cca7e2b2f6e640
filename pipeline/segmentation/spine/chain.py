"""From a CT volume to named vertebral bodies: the steps in order."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import Finding, InputRefused, NotMeasurable, Severity
from pipeline.segmentation.model import LABEL_OF, LEVELS, BodySurface, Vertebra
from pipeline.segmentation.sampling import (
    IndexBox,
    body_mask,
    bone_hu_scale,
    index_box,
    resample_isotropic,
    sample_lps,
    turned_grid,
)
from pipeline.segmentation.spine.aslant import lower_end_in_tilted_slices
from pipeline.segmentation.spine.body import BodyModel, fit_body, rasterise
from pipeline.segmentation.spine.canal import Canal, find_canal, relative_hu, ring_bone_scale
from pipeline.segmentation.spine.discs import Disc, find_discs
from pipeline.segmentation.spine.landmarks import SACRAL_SIGNS, LevelSigns, count_sacral_signs, level_signs, signs_below
from pipeline.segmentation.spine.levels import Naming, level_above, level_findings, name_from_pins, name_levels
from pipeline.segmentation.spine.quality import Repeat, judge_bodies, small_skeleton_findings
from pipeline.segmentation.spine.repeat import disturbed, met_again
from pipeline.segmentation.spine.second import SecondOpinion, pedicle_profile, second_opinion
from pipeline.segmentation.spine.sides import sides_findings
from pipeline.segmentation.spine.tracking import centre_canal, extend_canal
from pipeline.segmentation.spine.tube import Outlines, Tube, find_outlines, patient_turn, straighten
from pipeline.segmentation.spine.view import fit_cut_body, scanned_part
from pipeline.volume import Grid, Volume

_COARSE_MM = 2.0
_LEAST_TURN, _GREATEST_TURN = np.radians(7.0), np.radians(60.0)
_LEAST_GAIN_MM = 8.0
_CLEARLY_FAINTER = 0.95
_LEFT_RIGHT_MM, _FRONT_MM, _BACK_MM = 62.0, 70.0, 25.0
_CUT, _DOUBTFUL = "cut_by_field_of_view", "implausible_height"


@dataclass(frozen=True)
class SpineResult:
    """Vertebral bodies of a volume.

    Attributes
    ----------
    labels : uint8 ndarray of shape (Z, Y, X)
        Bodies on the grid of the volume, numbers as in ``LABEL_OF``.
    vertebrae : tuple of Vertebra
        From cranial to caudal.
    sacrum_label : None
        The sacrum is looked for as the anchor of the levels, but not outlined, so that no number stands for it.
    canal_lps_mm : float ndarray of shape (N, 3) or None
        Centre of the spinal canal, caudal to cranial.
    findings : tuple of Finding
        What concerns the whole spine.
    """

    labels: NDArray[np.uint8]
    vertebrae: tuple[Vertebra, ...]
    sacrum_label: None
    canal_lps_mm: NDArray[np.float64] | None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Trace:
    """Everything between the volume and the bodies, in the order it is found; for quality checks and for pictures."""

    bone_scale: float
    coarse_hu: NDArray[np.float32]
    coarse_grid: Grid
    canal: Canal
    turn_rad: float
    """How far the patient is turned about the long axis; 0 if not worth looking at."""
    fine_hu: NDArray[np.float32]
    fine_grid: Grid
    tube: Tube
    outlines: Outlines
    discs: tuple[Disc, ...]
    """From cranial to caudal, at least two; the one above the sacrum last if the sacrum is in view."""
    bodies: tuple[BodyModel, ...]
    """From cranial to caudal; body i lies between disc i and disc i + 1."""
    signs: tuple[LevelSigns, ...]
    """Of each body, and of what lies below the last disc."""


def segment_spine(
    volume: Volume, *, pinned_levels: dict[str, float] | None = None, threads: int | None = None
) -> SpineResult:
    """Find, outline and name the vertebral bodies of a CT volume.

    Parameters
    ----------
    volume : Volume
    pinned_levels : dict of str to float, optional
        Levels that the user knows: name to the LPS z coordinate (mm) of a point inside that body.
    threads : int, optional
        Default: all processors, at most 4.

    Returns
    -------
    SpineResult
        Without vertebrae, and with a finding, when there is no spine in the volume.

    Raises
    ------
    InputRefused
        If a pinned level does not exist, lies in no body, or two pins contradict each other.
    """
    workers = max(1, threads) if threads is not None else min(4, os.cpu_count() or 1)
    labels = np.zeros(volume.shape, np.uint8)
    try:
        trace = trace_spine(volume, threads=workers)
    except NotMeasurable as refusal:
        finding = Finding(refusal.reason, Severity.WARNING, f"No spine was found in this volume: {refusal.detail}.")
        return SpineResult(labels, (), None, None, (finding,))
    pins = _bodies_of_pins(trace, pinned_levels or {})
    masks = [rasterise(model, volume.grid) for model in trace.bodies]
    repeats = _repeat(volume, trace, masks, threads=workers)
    judged = judge_bodies(volume, trace.bodies, trace.discs, masks, repeats, second_opinions(trace, threads=workers))
    if all(_rejected(findings) for findings, _ in judged):
        text = "No spine was found in this volume: nothing along what looks like a canal passes as a vertebral body."
        return SpineResult(labels, (), None, None, (Finding("no_spine", Severity.WARNING, text),))
    codes = [{f.code for f in findings} for findings, _ in judged]
    plausible = [not c & {_CUT, _DOUBTFUL} for c in codes]
    cut = [_CUT in c and _DOUBTFUL not in c for c in codes]
    sacrum_from = len(trace.bodies) if trace.signs[-1].sacral_signs >= SACRAL_SIGNS else None
    if pins:
        naming = name_from_pins(len(trace.signs), pins, sacrum_from)
    else:
        naming = name_levels(list(trace.signs), plausible=[*plausible, sacrum_from is not None], cut=[*cut, False])
    found = [(model, mask, *verdict) for model, mask, verdict in zip(trace.bodies, masks, judged, strict=True)]
    first = fit_cut_body(volume, trace.fine_hu, trace.fine_grid, trace.tube, trace.outlines, trace.discs)
    if first is not None and _CUT not in codes[0]:
        text = "The field of view ends within this body: there is no disc above it."
        found.insert(0, (first, rasterise(first, volume.grid), [Finding(_CUT, Severity.FAILURE, text)], 0.0))
        naming = level_above(naming)
    vertebrae = []
    for i, (model, (box, mask), findings, score) in enumerate(found):
        vertebra = _vertebra(model, i, naming, findings, score)
        part = labels[box]
        part[mask & (part == 0)] = vertebra.label
        vertebrae.append(vertebra)
    concerning_all = (
        *level_findings(naming),
        *small_skeleton_findings(vertebrae),
        *sides_findings(trace.coarse_hu, trace.coarse_grid, trace.canal),
    )
    return SpineResult(labels, tuple(vertebrae), None, trace.canal.points_lps_mm, concerning_all)


def _vertebra(model: BodyModel, i: int, naming: Naming, findings: list[Finding], score: float) -> Vertebra:
    """Body `i` from the top, with its name and all that is said of it."""
    level = naming.levels[i]
    name = f"vertebra_{level}" if f"vertebra_{level}" in LABEL_OF else f"vertebra_u{i + 1}"
    if level is None:
        text = "no landmark to count from" if naming.reason else "a body on the way to the landmark is not certain"
        code = naming.code or "level_uncertain"
        findings = [*findings, Finding(code, Severity.WARNING, f"The level is not named: {text}.")]
    return Vertebra(
        name=name,
        level=level if name != f"vertebra_u{i + 1}" else None,
        label=LABEL_OF[name],
        frame=model.frame,
        surface=_surface(model),
        width_mm=model.width_mm,
        depth_mm=model.depth_mm,
        score=score,
        level_confidence=naming.confidence[i],
        level_alternatives=naming.alternatives[i],
        complete=not any(f.code == _CUT for f in findings),
        findings=tuple(findings),
    )


def _rejected(findings: list[Finding]) -> bool:
    return any(f.severity is Severity.FAILURE for f in findings)


def _bodies_of_pins(trace: Trace, pinned_levels: dict[str, float]) -> dict[int, str]:
    """Index of the body in which each pinned z lies, with its level."""
    pins: dict[int, str] = {}
    for level, z_mm in pinned_levels.items():
        if level not in LEVELS:
            raise InputRefused(
                "unknown_level",
                f"there is no level {level!r}",
                subject="pinned level",
                remedy="Use T1 to T12 or L1 to L5.",
            )
        for i in range(len(trace.bodies)):
            if trace.discs[i + 1].centre_lps_mm[2] <= z_mm <= trace.discs[i].centre_lps_mm[2]:
                pins[i] = level
                break
        else:
            raise InputRefused(
                "pin_outside_bodies", f"there is no vertebral body at z = {z_mm:.0f} mm", subject=f"pinned level {level}",
                remedy="Give the LPS z coordinate of a point inside the body.",
            )  # fmt: skip
    return pins


def second_opinions(trace: Trace, *, threads: int) -> list[SecondOpinion]:
    """What a watershed and the pedicles say of each body."""
    pedicles = pedicle_profile(trace.tube)

    def ask(i: int) -> SecondOpinion:
        above, below = trace.discs[i : i + 2]
        return second_opinion(trace.fine_hu, trace.fine_grid, trace.bodies[i], above, below, trace.tube, pedicles)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(ask, range(len(trace.bodies))))


def _repeat(
    volume: Volume, trace: Trace, masks: list[tuple[IndexBox, NDArray[np.bool_]]], *, threads: int
) -> list[Repeat]:
    """Find the bodies once more on a disturbed grid, and see how well each one is met again."""
    fine, grid = disturbed(trace.fine_hu, trace.fine_grid, threads=threads)
    again = _find_bodies(volume, trace.canal, trace.turn_rad, fine, grid, threads)[-1]
    return [Repeat(dice) for dice in met_again(volume.grid, trace.bodies, masks, again)]


def trace_spine(volume: Volume, *, threads: int) -> Trace:
    """Canal, straightened spine, discs, bodies and signs of the level, without any judgement on the bodies.

    Raises
    ------
    NotMeasurable
        ``no_spine``: nothing in the volume looks like a spinal canal with a chain of discs in front of it.
    """
    raw, coarse_grid = resample_isotropic(volume, _COARSE_MM, threads=threads)
    body = body_mask(raw, coarse_grid)
    # Bone brighter than usual needs no help; only faint bone is brought up to the thresholds.
    bone_scale = min(1.0, bone_hu_scale(raw, body))
    coarse = relative_hu(raw, bone_scale)
    canal = find_canal(coarse, coarse_grid, body, threads=threads)
    if not canal.trusted:
        raise NotMeasurable("no_spine", canal.reason, subject="spine")
    ring_scale = ring_bone_scale(raw, coarse_grid, canal)
    if ring_scale < _CLEARLY_FAINTER * bone_scale:
        coarse = relative_hu(raw, ring_scale)
        again = find_canal(coarse, coarse_grid, body, threads=threads)
        canal, bone_scale = (again if again.trusted else canal), ring_scale
    canal, turn_rad = _canal_of_turned_patient(coarse, coarse_grid, body, canal, threads)
    canal = lower_end_in_tilted_slices(canal, coarse, coarse_grid, body, turn_rad=turn_rad, threads=threads)
    canal = extend_canal(canal, coarse, coarse_grid)
    spacing_mm = 1.0 if min(volume.spacing_mm) <= 1.3 else 1.5
    fine, fine_grid = _fine_array(volume, canal, bone_scale, spacing_mm, threads)
    tube, outlines, chain, _ = _find_bodies(volume, canal, turn_rad, fine, fine_grid, threads, fit=False)
    sacral = [count_sacral_signs(coarse, coarse_grid, tube, outlines, disc) for disc in chain]
    # Below the first plate of the sacrum there are no more discs, only remnants.
    last = next((i for i, signs in enumerate(sacral) if signs >= SACRAL_SIGNS and i > 0), len(chain) - 1)
    discs = tuple(chain[: last + 1])
    if len(discs) < 2:
        raise NotMeasurable("no_spine", "no chain of discs lies in front of what looks like a canal", subject="spine")
    bodies = _fit_bodies(volume, fine, fine_grid, tube, outlines, discs, threads)
    signs = [level_signs(coarse, coarse_grid, body, count) for body, count in zip(bodies, sacral, strict=False)]
    signs.append(signs_below(tube, chain, sacral, last))
    return Trace(
        bone_scale, coarse, coarse_grid, canal, turn_rad, fine, fine_grid, tube, outlines, discs, bodies, tuple(signs)
    )


def _canal_of_turned_patient(
    hu: NDArray[np.float32], grid: Grid, body: NDArray[np.bool_], canal: Canal, threads: int
) -> tuple[Canal, float]:
    """The canal, and how far the patient is turned about the long axis (rad); looked for again if that is much.

    The sacral canal lies far behind the lumbar one. In a patient who is turned it therefore lies aside of it, where the
    search does not follow; in an array that is turned with the patient it lies behind again.
    """
    canal, turn_rad = centre_canal(canal, hu, grid), 0.0
    for _ in range(3):
        # An outline that is looked for straight in front of the canal shows only part of the turn.
        tube = straighten(canal.points_lps_mm, hu, grid, turn_rad=turn_rad)
        turn_rad = patient_turn(tube, find_outlines(tube))
        if not _LEAST_TURN <= abs(turn_rad) <= _GREATEST_TURN:
            break
        turned = turned_grid(grid, turn_rad)
        points = turned.to_lps(np.stack(np.meshgrid(*(np.arange(n) for n in turned.shape), indexing="ij"), axis=-1))
        inside = sample_lps(body, grid, points, fill=0.0) > 0.5
        again = find_canal(sample_lps(hu, grid, points, fill=-1000.0), turned, inside, threads=threads)
        if again.trusted and len(again.score) > len(canal.score) + _LEAST_GAIN_MM / _COARSE_MM:
            return centre_canal(again, hu, grid), turn_rad
    return canal, turn_rad if _LEAST_TURN <= abs(turn_rad) <= _GREATEST_TURN else 0.0


def _find_bodies(
    volume: Volume,
    canal: Canal,
    turn_rad: float,
    fine: NDArray[np.float32],
    fine_grid: Grid,
    threads: int,
    *,
    fit: bool = True,
) -> tuple[Tube, Outlines, list[Disc], tuple[BodyModel, ...]]:
    """Straighten, find outlines and discs (cranial to caudal), and fit the bodies if asked, in a fine array."""
    tube = straighten(canal.points_lps_mm, fine, fine_grid, turn_rad=turn_rad)
    outlines = find_outlines(tube)
    chain = find_discs(tube, outlines, slice_mm=volume.spacing_mm[0])[::-1]
    bodies = _fit_bodies(volume, fine, fine_grid, tube, outlines, tuple(chain), threads) if fit else ()
    return tube, outlines, chain, bodies


def _fit_bodies(
    volume: Volume,
    fine: NDArray[np.float32],
    fine_grid: Grid,
    tube: Tube,
    outlines: Outlines,
    discs: tuple[Disc, ...],
    threads: int,
) -> tuple[BodyModel, ...]:
    def fit(pair: tuple[Disc, Disc]) -> BodyModel:
        above, below = pair
        return fit_body(fine, fine_grid, tube, outlines, below, above, source_spacing_mm=volume.spacing_mm)

    with ThreadPoolExecutor(threads) as pool:
        return tuple(pool.map(fit, pairwise(discs)))


def _fine_array(
    volume: Volume, canal: Canal, bone_scale: float, spacing_mm: float, threads: int
) -> tuple[NDArray[np.float32], Grid]:
    """Relative HU on a fine isotropic grid about the spine; NaN where the scanner wrote padding."""
    towards_front = np.array([_LEFT_RIGHT_MM, _FRONT_MM, 0.0])
    towards_back = np.array([_LEFT_RIGHT_MM, _BACK_MM, 0.0])
    corners = np.concatenate([canal.points_lps_mm - towards_front, canal.points_lps_mm + towards_back])
    box = index_box(volume.grid, corners, margin_mm=5.0)
    hu, grid = resample_isotropic(volume, spacing_mm, box=box, threads=threads)
    valid = scanned_part(volume, box)
    hu = relative_hu(hu, bone_scale)
    if not valid.all():
        index = [
            np.clip(np.rint((np.arange(n) + 0.5) * m / n - 0.5).astype(int), 0, m - 1)
            for n, m in zip(hu.shape, valid.shape, strict=True)
        ]
        hu[~valid[np.ix_(*index)]] = np.nan
    return hu, grid


def _surface(model: BodyModel) -> BodySurface:
    """The endplates as height fields; NaN outside the outline of the body at each endplate."""
    # A little below the endplate the wall is steep again: at the very edge it is rounded, or not to be told from the plate.
    lower = np.where(model.outline(0.12), model.lower_mm, np.nan)
    upper = np.where(model.outline(0.88), model.upper_mm, np.nan)
    return BodySurface(model.left_mm, model.posterior_mm, upper, lower)
