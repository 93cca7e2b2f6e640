"""Proximal femora of a CT volume, from the search for the heads to masks, landmarks and findings."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.errors import Finding, Severity, status_of
from pipeline.segmentation.femur import quality
from pipeline.segmentation.femur.geometry import section_through
from pipeline.segmentation.femur.head import SIDES, Field, Head, fit_repeatedly
from pipeline.segmentation.femur.landmarks import landmarks_about_head
from pipeline.segmentation.femur.outline import Outline, box_about, on_grid, outline_femur
from pipeline.segmentation.femur.pair import (
    ACCEPTED_SCORE,
    guided_findings,
    mirrored,
    unequal_findings,
    unsupported_findings,
    upper_volume_ml,
)
from pipeline.segmentation.femur.search import METAL_HU, Region, find_heads, hip_region
from pipeline.segmentation.model import LABEL_OF, Femur, FemurLandmarks
from pipeline.segmentation.sampling import (
    IndexBox,
    body_mask,
    bone_hu_scale,
    resample_isotropic,
)
from pipeline.volume import Grid, Volume

if TYPE_CHECKING:
    from pipeline.segmentation.spine import SpineResult

SEARCH_SPACING_MM = 2.0
_REPEAT_SPACING_MM, _REPEAT_BONE_SCALE = 2.0, 0.8
KEPT_SHAFT_MM = 45.0
"""The mask ends so far below the lesser trochanter: enough for a virtual test, and the same length in everybody."""


@dataclass(frozen=True)
class FemurResult:
    """Proximal femora of a volume.

    Attributes
    ----------
    labels : uint8 ndarray of shape (Z, Y, X)
        Solid femora on the grid of the volume, numbers as in ``LABEL_OF``. A femur that failed is not in it.
    femora : tuple of Femur
        Left before right; a side that is not in view is absent.
    findings : tuple of Finding
        What concerns the whole study.
    """

    labels: NDArray[np.uint8]
    femora: tuple[Femur, ...]
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class FoundFemur:
    """One femur with its mask on a part of the volume's grid."""

    femur: Femur
    mask: NDArray[np.bool_]
    box: IndexBox


def segment_femora(volume: Volume, *, spine: SpineResult | None = None, threads: int | None = None) -> FemurResult:
    """Both proximal femora of a volume, as far as they are in view.

    Parameters
    ----------
    volume : Volume
        HU in canonical order.
    spine : SpineResult, optional
        Keeps the search away from the spine, gives the midline, and tells whether hips must be in view.
    threads : int, optional
        Default: all processors, at most 4.

    Returns
    -------
    FemurResult
        Without femora where no hip is in view. A femur that fails its checks is listed with the findings that say why.

    Notes
    -----
    Directional search for spheres of bone with a socket and a neck; the sphere most rays agree on; both heads chosen
    together; head surface as an optimal surface over directions; bone above a threshold that follows the study's own bone,
    made solid, cut at the joint by the head's surface and at 45 mm below the lesser trochanter.
    """
    found, field, region = find_femora(volume, spine=spine, threads=threads)
    labels = np.zeros(volume.shape, dtype=np.uint8)
    femora = [f.femur for f in found]
    for side in SIDES:
        if not any(f.side == side for f in femora):
            femora += _hidden_femur(side, field, region)
    for f in found:
        if f.femur.status != "failed":
            part = labels[f.box]
            part[f.mask & (part == 0)] = f.femur.label
    findings = []
    if not femora:
        findings.append(Finding("no_femur_in_view", Severity.INFO, "No femoral head is in the field of view."))
    return FemurResult(labels, tuple(sorted(femora, key=lambda f: f.side)), tuple(findings))


def find_femora(
    volume: Volume, *, spine: SpineResult | None = None, threads: int | None = None
) -> tuple[list[FoundFemur], Field, Region]:
    """What `segment_femora` found, with the masks of those that failed too: for pictures and for judging the checks.

    Also returns the image in which heads were sought and where.
    """
    workers = max(1, threads) if threads is not None else min(4, os.cpu_count() or 1)
    hu, grid = resample_isotropic(volume, SEARCH_SPACING_MM, threads=workers)
    body = body_mask(hu, grid)
    # Where shafts are in view they raise the scale above what the rest of the bone has.
    field = Field(hu, grid, min(1.0, bone_hu_scale(hu, body)))
    region = hip_region(field, body, spine)
    heads = find_heads(field, region, threads=workers) if region.allowed.any() else []
    return _chosen(volume, field, region, heads, workers), field, region


def _chosen(volume: Volume, field: Field, region: Region, heads: list[Head], workers: int) -> list[FoundFemur]:
    """Segment what may be a femur, and keep one per side; of two readings of one bone the more plausible one."""
    worth = [h for h in heads if h.score >= 0.7 * ACCEPTED_SCORE][:4]
    accepted = [h for h in worth if h.score >= ACCEPTED_SCORE]
    # A weak head counts only beside a good one: on its own it is as likely no head at all.
    if not accepted:
        return []
    paired = quality.pair_findings(worth) if region.midline_x_mm is not None else {}
    with ThreadPoolExecutor(workers) as pool:
        free = [h for h in worth if not h.guided]
        segmented = list(pool.map(lambda h: _segment_one(volume, field, h, paired.get(h.side, [])), free))
    for guided in [h for h in worth if h.guided]:
        # The neck, too, is expected where the mirror image of the sure side has it.
        marks = next((f.femur.landmarks for f in segmented if f.femur.side != guided.side), None)
        if marks is not None and marks.neck_axis_lps is not None:
            guided = replace(guided, neck_lps=mirrored(marks.neck_axis_lps))
        segmented.append(_segment_one(volume, field, guided, guided_findings(guided)))
    if region.midline_x_mm is None:
        segmented = [f for f in segmented if _is_a_hip(f.femur)]
    segmented.sort(key=lambda f: -_plausibility(f.femur))
    kept: list[FoundFemur] = []
    for candidate in segmented:
        head = candidate.femur.landmarks
        assert head is not None
        clash = False
        for other in kept:
            there = other.femur.landmarks
            assert there is not None
            apart = head.head_centre_lps_mm - there.head_centre_lps_mm
            lateral_order = apart[0] > 0 if candidate.femur.side == "left" else apart[0] < 0
            clash |= candidate.femur.side == other.femur.side or abs(float(apart[0])) < 120.0 or not lateral_order
        if not clash:
            kept.append(candidate)
    return _compared(kept, volume)


def _compared(found: list[FoundFemur], volume: Volume) -> list[FoundFemur]:
    """With what the two sides have to say of each other; a side that failed says nothing."""
    sound = [f for f in found if f.femur.status != "failed" and f.femur.landmarks is not None]
    upper_ml, scores = {}, {}
    for f in sound:
        assert f.femur.landmarks is not None
        start = np.array([part.start for part in f.box], dtype=float)
        points = volume.grid.to_lps(np.argwhere(f.mask) + start)
        upper_ml[f.femur.side] = upper_volume_ml(points, volume.grid.voxel_volume_mm3, f.femur.landmarks)
        scores[f.femur.side] = f.femur.score
    doubts = unequal_findings(upper_ml, scores)
    return [replace(f, femur=f.femur.with_findings(*doubts.get(f.femur.side, []))) for f in found]


def _is_a_hip(femur: Femur) -> bool:
    """Whether a sphere of unknown place in the body is a head beyond doubt and has a shaft or a joint space.

    A vertebra has neither of the two.
    """
    codes = {f.code for f in femur.findings}
    if "head_not_found" in codes:
        return False
    has_shaft = femur.landmarks is not None and femur.landmarks.shaft_axis_lps is not None
    return has_shaft or "joint_not_visible" not in codes


def _plausibility(femur: Femur) -> float:
    codes = {f.code for f in femur.findings if f.severity is Severity.FAILURE}
    factor = 1.0
    if "implausible_hip_geometry" in codes or "leak_into_pelvis" in codes:
        factor = 0.4
    elif femur.landmarks is not None and femur.landmarks.neck_axis_lps is None:
        factor = 0.7
    return femur.score * factor


def _segment_one(volume: Volume, field: Field, head: Head, findings: list[Finding]) -> FoundFemur:
    head = fit_repeatedly(field, head)
    box = box_about(volume.grid, head)
    spacing = 1.0 if max(volume.spacing_mm) <= 2.0 else 1.5
    hu, grid = resample_isotropic(volume, spacing, box=box, threads=1)
    fine = Field(hu, grid, field.bone_scale)
    outline = outline_femur(fine, head)
    landmarks = landmarks_about_head(outline.mask, outline.grid, head.side, head.centre_lps_mm, head.radius_mm)
    kept = _cropped(outline.mask, outline.grid, landmarks)
    mask, part = on_grid(np.where(kept | ~outline.mask, outline.field, np.float32(-1)), outline.grid, volume.grid)
    found = [*findings, *quality.head_findings(head), *quality.joint_findings(outline, fine, volume)]
    found += quality.mask_findings(outline, fine, head)
    found += quality.repeat_findings(_repeat_dice(volume, box, outline, field.bone_scale, head))
    found += quality.stray_findings(quality.stray_ml(outline.mask, outline.grid, landmarks))
    found += quality.side_cut_findings(quality.side_cut_share(mask, part, volume))
    found += quality.metal_findings(mask, part, volume)
    geometry, density, strength = quality.geometry_findings(
        landmarks, _neck_width_mm(outline.mask, outline.grid, landmarks)
    )
    found += geometry
    found += unsupported_findings(found)
    failed = status_of(found) == "failed"
    head_whole = not any(f.code == "head_truncated" for f in found)
    femur = Femur(
        name=f"femur_{head.side}",
        side=head.side,
        label=LABEL_OF[f"femur_{head.side}"],
        landmarks=landmarks,
        score=float(np.clip(head.score / 0.7, 0, 1)),
        fit_for_density=density and not failed,
        fit_for_strength=strength and head_whole and not failed,
        findings=tuple(found),
    )
    return FoundFemur(femur, mask, part)


def _repeat_dice(volume: Volume, box: IndexBox, outline: Outline, bone_scale: float, head: Head) -> float:
    """Overlap with the outline that comes out on a coarser grid and by lower thresholds.

    An outline that follows the bone stays where it is; one that stands on single voxels of a thin cortex does not.
    """
    hu, grid = resample_isotropic(volume, _REPEAT_SPACING_MM, box=box, threads=1)
    again = outline_femur(Field(hu, grid, _REPEAT_BONE_SCALE * bone_scale), head)
    theirs, part = on_grid(again.field, again.grid, outline.grid)
    second = np.zeros(outline.mask.shape, dtype=bool)
    second[part] = theirs
    missed = int(np.count_nonzero(again.mask)) * again.grid.voxel_volume_mm3 / outline.grid.voxel_volume_mm3
    common = float((second & outline.mask).sum())
    # What the repeat holds beyond the box of the first outline counts as not met.
    return 2.0 * common / max(float(outline.mask.sum()) + max(float(second.sum()), missed), 1.0)


def _neck_width_mm(mask: NDArray[np.bool_], grid: Grid, landmarks: FemurLandmarks) -> float | None:
    """Diameter of a circle with the area of the narrowest neck section."""
    if landmarks.neck_centre_lps_mm is None or landmarks.neck_axis_lps is None:
        return None
    section = section_through(mask, grid, landmarks.neck_centre_lps_mm, landmarks.neck_axis_lps, half_mm=32.0)
    return float(2 * np.sqrt(section.area_mm2 / np.pi))


def _cropped(mask: NDArray[np.bool_], grid: Grid, landmarks: FemurLandmarks) -> NDArray[np.bool_]:
    """Without what lies more than 45 mm below the lesser trochanter along the shaft."""
    edge, axis = landmarks.lesser_trochanter_lower_edge_lps_mm, landmarks.shaft_axis_lps
    if edge is None or axis is None:
        return mask
    place = np.argwhere(mask)
    below = (grid.to_lps(place.astype(float)) - edge) @ axis > KEPT_SHAFT_MM
    out = mask.copy()
    out[tuple(place[below].T)] = False
    return out


def _hidden_femur(side: str, field: Field, region: Region) -> list[Femur]:
    """A failed femur for a side on which a hip must be but no head was found: a prosthesis, or a failure of the search."""
    reason: Finding | None = None
    if region.midline_x_mm is not None:
        labels, count = ndimage.label(
            (field.hu > 0.75 * METAL_HU) & ndimage.binary_dilation(region.allowed, iterations=4)
        )
        for number in range(1, count + 1):
            part = np.argwhere(labels == number)
            volume_ml = len(part) * field.grid.voxel_volume_mm3 / 1000
            x_mm = float(field.grid.to_lps(part.mean(axis=0))[0])
            if volume_ml > 3.0 and (x_mm > region.midline_x_mm) == (side == "left"):
                text = f"{volume_ml:.0f} ml of metal where this hip would be, and no femoral head."
                reason = Finding("metal", Severity.FAILURE, text)
    if reason is None and region.hips_in_view:
        text = "The hips are in view, but no femoral head was found on this side with confidence."
        reason = Finding("head_not_found", Severity.FAILURE, text)
    if reason is None:
        return []
    name = f"femur_{side}"
    return [Femur(name, side, LABEL_OF[name], None, 0.0, False, False, (reason,))]
