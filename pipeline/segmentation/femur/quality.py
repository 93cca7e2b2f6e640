"""What must be true of a femur before anything is measured on it; each check ends in a finding with a reason code."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.errors import Finding, Severity
from pipeline.segmentation.femur.head import Field, Head, lateral_lps
from pipeline.segmentation.femur.outline import Outline
from pipeline.segmentation.femur.pair import ACCEPTED_SCORE, GUIDED_SCORE
from pipeline.segmentation.femur.search import METAL_HU
from pipeline.segmentation.model import FemurLandmarks
from pipeline.segmentation.sampling import IndexBox
from pipeline.volume import Grid, Volume

MISSING_WARNING, MISSING_FAILURE = 0.065, 0.095
"""Read off the cases in docs/segmentation-femur.md: up to 0.054 in outlines that look right, 0.056 and more in broken ones,
of which it therefore catches some."""
REPEAT_WARNING, REPEAT_FAILURE = 0.90, 0.85
"""Read off the same cases: 0.90 to 0.96 for outlines with a Dice of 0.88 and more, 0.79 and 0.80 for the two below 0.70."""
LOOSE_PART_ML = 1.0
DENSITY_SHAFT_MM = 10.0
STRENGTH_SHAFT_MM = 20.0
"""Shaft below the lesser trochanter without which the hip cannot be measured, or tested."""


def head_findings(head: Head) -> list[Finding]:
    """Is the sphere a head, does a repetition find the same one, and is it all in view?"""
    out = []
    if head.score < (GUIDED_SCORE if head.guided else ACCEPTED_SCORE):
        text = f"The femoral head was not found with confidence (score {head.score:.2f}, needed {ACCEPTED_SCORE:.2f})."
        out.append(Finding("head_not_found", Severity.FAILURE, text))
    if head.agreement < 0.5:
        text = (
            f"Only {head.agreement:.0%} of the repeated fits find the same femoral head; "
            f"the others lie up to {head.spread_mm:.0f} mm away."
        )
        severity = Severity.FAILURE if head.agreement < 0.3 else Severity.WARNING
        out.append(Finding("head_not_repeatable", severity, text))
    if head.in_view < 0.85:
        text = f"Only {head.in_view:.0%} of the femoral head lies in the field of view."
        out.append(Finding("truncated_femur", Severity.FAILURE, text))
    elif head.in_view < 0.97:
        text = f"Part of the femoral head lies outside the field of view ({head.in_view:.0%} is in it)."
        out.append(Finding("head_truncated", Severity.WARNING, text))
    return out


def pair_findings(heads: list[Head]) -> dict[str, list[Finding]]:
    """The two heads of one person have one size."""
    if len(heads) != 2:
        return {}
    difference = abs(heads[0].radius_mm - heads[1].radius_mm)
    if difference <= 2.0:
        return {}
    worse = min(heads, key=lambda head: head.score)
    text = f"The radii of the two femoral heads differ by {difference:.1f} mm; this side fits less well."
    return {worse.side: [Finding("heads_differ", Severity.WARNING, text)]}


def joint_findings(outline: Outline, field: Field, volume: Volume) -> list[Finding]:
    """Can the joint space be seen, or is the head outline only as good as a sphere?"""
    dip = outline.head_surface.joint_dip_hu
    slice_mm = volume.spacing_mm[0]
    if slice_mm > 3.5:
        text = f"Slices {slice_mm:.1f} mm apart do not resolve the hip joint; the head is outlined by a sphere."
        return [Finding("joint_not_visible", Severity.WARNING, text)]
    if np.isfinite(dip) and dip < 60.0 * field.bone_scale:
        text = (
            f"The joint space is hardly visible (median depth {dip:.0f} HU); the head is outlined mostly by a sphere."
        )
        return [Finding("joint_not_visible", Severity.WARNING, text)]
    return []


def mask_findings(outline: Outline, field: Field, head: Head) -> list[Finding]:
    """Leaks, holes, and cuts by the sides of the field of view."""
    mask, grid = outline.mask, outline.grid
    out: list[Finding] = []
    place = np.argwhere(mask)
    points = grid.to_lps(place.astype(float))
    medial = (points - head.centre_lps_mm) @ -lateral_lps(head.side)
    beyond_ml = float((medial > head.radius_mm + 6.0).sum()) * grid.voxel_volume_mm3 / 1000
    down = head.centre_lps_mm[2] - points[:, 2]
    upper_ml = float((down < 80.0 - head.radius_mm).sum()) * grid.voxel_volume_mm3 / 1000
    if beyond_ml > 1.0:
        # A flexed or adducted shaft may cross towards the midline, but not next to the head.
        near = (medial > head.radius_mm + 6.0) & (down < 1.5 * head.radius_mm)
        if float(near.sum()) * grid.voxel_volume_mm3 > 500.0:
            text = (
                f"{beyond_ml:.0f} ml of the mask lie medial of the femoral head: femur not separable from the pelvis."
            )
            out.append(Finding("leak_into_pelvis", Severity.FAILURE, text))
    whole = down.max() > 80.0 - head.radius_mm
    if upper_ml > 260.0 or (whole and upper_ml < 70.0):
        text = f"The upper 80 mm of the femur hold {upper_ml:.0f} ml, outside 70-260 ml."
        out.append(Finding("leak_into_pelvis", Severity.FAILURE, text))
    loose_ml = loose_part_ml(mask, grid.spacing_mm[0])
    if loose_ml > LOOSE_PART_ML:
        text = f"A part with a core of {loose_ml:.1f} ml hangs on the femur by a thin bridge: another bone touches it."
        out.append(Finding("leak_into_pelvis", Severity.FAILURE, text))
    out += _closed(mask, outline, field)
    return out


def loose_part_ml(mask: NDArray[np.bool_], edge_mm: float) -> float:
    """Volume of the largest part of a mask that hangs on the rest by a bridge less than 8 mm thick.

    No part of a femur does: its thinnest place is the neck. A piece of ischium or pubis that touched the femur does.
    """
    step = max(1, round(2.0 / edge_mm))
    coarse = np.pad(mask[::step, ::step, ::step], 1)
    # The field of view ends below; the bone goes on there.
    coarse[0] = coarse[1]
    core = ndimage.distance_transform_edt(coarse) * step * edge_mm > 4.0
    labels, count = ndimage.label(core)
    if count < 2:
        return 0.0
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    sizes[sizes.argmax()] = 0
    return float(sizes.max()) * (step * edge_mm) ** 3 / 1000


def stray_ml(mask: NDArray[np.bool_], grid: Grid, landmarks: FemurLandmarks) -> float:
    """Volume of what lies farther than 1.6 head radii from head, neck axis and shaft axis; 0 where an axis is not known.

    The trochanters of the real and synthetic femora in docs/segmentation-femur.md reach 1.4 radii.
    """
    if landmarks.neck_axis_lps is None or landmarks.shaft_axis_lps is None or landmarks.shaft_point_lps_mm is None:
        return 0.0
    centre, radius, down = landmarks.head_centre_lps_mm, landmarks.head_radius_mm, landmarks.shaft_axis_lps
    top = landmarks.shaft_point_lps_mm + ((centre - landmarks.shaft_point_lps_mm) @ down) * down
    points = grid.to_lps(np.argwhere(mask[::2, ::2, ::2]).astype(np.float64) * 2.0)
    away = np.full(len(points), np.inf)
    for start, axis, length_mm in ((centre, landmarks.neck_axis_lps, 2.3 * radius), (top, down, 250.0)):
        along = np.clip((points - start) @ axis, 0.0, length_mm)
        away = np.minimum(away, np.linalg.norm(points - start - along[:, None] * axis, axis=1))
    return float((away > 1.6 * radius).sum()) * 8.0 * grid.voxel_volume_mm3 / 1000


def stray_findings(volume_ml: float) -> list[Finding]:
    """Does the mask hold bone where a femur has none?"""
    if volume_ml <= LOOSE_PART_ML:
        return []
    text = f"{volume_ml:.1f} ml of the mask lie farther from head, neck and shaft than any part of a femur."
    return [Finding("leak_into_pelvis", Severity.FAILURE, text)]


def repeat_findings(dice: float) -> list[Finding]:
    """Does the outline come out again on another grid and by lower thresholds?"""
    if dice >= REPEAT_WARNING:
        return []
    text = (
        "Done again on a coarser grid and by lower thresholds, the outline overlaps the first one "
        f"by a Dice of only {dice:.2f}."
    )
    return [Finding("outline_unstable", Severity.FAILURE if dice < REPEAT_FAILURE else Severity.WARNING, text)]


def _closed(mask: NDArray[np.bool_], outline: Outline, field: Field) -> list[Finding]:
    """Share of the surface that has no bone close beneath it."""
    offset = np.rint(field.grid.to_index(outline.grid.to_lps(np.zeros(3)))).astype(int)
    hu = field.hu[tuple(slice(o, o + n) for o, n in zip(offset, mask.shape, strict=True))]
    edge = mask & ~ndimage.binary_erosion(mask, border_value=1)
    away = ndimage.distance_transform_edt(~((hu > outline.threshold_hu) & mask)) * outline.grid.spacing_mm[0]
    share = float((away[edge] > 3.5).mean()) if edge.any() else 1.0
    missing = _missing_share(mask, outline.grid.spacing_mm[0])
    if share < 0.08 and missing < MISSING_WARNING:
        return []
    text = (
        f"{share:.0%} of the femur's surface shows no bone beneath it, and {missing:.0%} of the bone may be missing: "
        "the outline is not closed."
    )
    failure = share > 0.25 or missing > MISSING_FAILURE
    return [Finding("mask_not_closed", Severity.FAILURE if failure else Severity.WARNING, text)]


def _missing_share(mask: NDArray[np.bool_], edge_mm: float) -> float:
    """What a closing by 9 mm adds, relative to the mask: notches of a whole femur, or the marrow of a broken outline."""
    step = max(1, round(3.0 / edge_mm))
    coarse = np.pad(mask[::step, ::step, ::step], 6)
    # The field of view ends below: a closing must not round off the cut there.
    coarse[:6] = coarse[6]
    near = ndimage.distance_transform_edt(~coarse) * step * edge_mm <= 9.0
    closed = ndimage.distance_transform_edt(near) * step * edge_mm > 9.0
    return float((closed & ~coarse)[6:-6].sum()) / max(int(coarse[6:-6].sum()), 1)


def side_cut_share(mask: NDArray[np.bool_], box: IndexBox, volume: Volume) -> float:
    """Share of the mask's slices in which bone meets the side of the volume, or padding, or the edge of the valid field."""
    part = volume.hu[box]
    unknown = part < -800
    if volume.valid is not None:
        unknown = unknown | ~volume.valid[box]
    reach = [max(1, round(2.0 / edge)) for edge in volume.spacing_mm]
    grown = ndimage.binary_dilation(mask, np.ones((1, 2 * reach[1] + 1, 2 * reach[2] + 1), dtype=bool))
    touching = (grown & unknown).sum(axis=(1, 2)) >= 5
    for axis in (1, 2):
        for end, index in ((box[axis].start == 0, 0), (box[axis].stop == volume.shape[axis], -1)):
            if end:
                touching |= mask.take([index], axis=axis).sum(axis=(1, 2)) >= 3
    slices = mask.any(axis=(1, 2))
    return float(touching[slices].mean()) if slices.any() else 0.0


def side_cut_findings(share: float) -> list[Finding]:
    if share <= 0.02:
        return []
    text = f"The side of the field of view cuts the femur in {share:.0%} of its slices."
    return [Finding("truncated_femur", Severity.FAILURE, text)]


def metal_findings(mask: NDArray[np.bool_], box: IndexBox, volume: Volume) -> list[Finding]:
    """Hardware in or next to the bone."""
    reach = [max(1, round(8.0 / edge)) for edge in volume.spacing_mm]
    near = ndimage.uniform_filter(mask.astype(np.float32), size=[2 * r + 1 for r in reach], mode="nearest") > 0
    volume_ml = float(((volume.hu[box] > METAL_HU) & near).sum()) * volume.grid.voxel_volume_mm3 / 1000
    if volume_ml <= 0.05:
        return []
    text = f"{volume_ml:.1f} ml of metal in or beside this femur."
    return [Finding("metal", Severity.FAILURE, text)]


def neck_shaft_angle_deg(landmarks: FemurLandmarks) -> float | None:
    """Angle between neck and shaft axes, or None without both."""
    if landmarks.neck_axis_lps is None or landmarks.shaft_axis_lps is None:
        return None
    cosine = float(np.clip(landmarks.neck_axis_lps @ landmarks.shaft_axis_lps, -1, 1))
    return 180.0 - float(np.degrees(np.arccos(cosine)))


def geometry_findings(landmarks: FemurLandmarks, neck_width_mm: float | None) -> tuple[list[Finding], bool, bool]:
    """Findings, and whether what is in view suffices for density and for a strength test."""
    out: list[Finding] = []
    angle = neck_shaft_angle_deg(landmarks)
    if angle is not None and not 108.0 <= angle <= 152.0:
        text = f"Implausible hip geometry: the neck-shaft angle is {angle:.0f} degrees."
        out.append(Finding("implausible_hip_geometry", Severity.FAILURE, text))
    if neck_width_mm is not None:
        ratio = neck_width_mm / (2 * landmarks.head_radius_mm)
        if not 0.5 <= ratio <= 0.92:
            text = f"Implausible hip geometry: neck diameter {neck_width_mm:.0f} mm, {ratio:.2f} of the head's."
            out.append(Finding("implausible_hip_geometry", Severity.FAILURE, text))
    below = landmarks.shaft_below_lesser_trochanter_mm
    density = landmarks.neck_axis_lps is not None and below is not None and below >= DENSITY_SHAFT_MM
    strength = density and below is not None and below >= STRENGTH_SHAFT_MM
    if landmarks.neck_axis_lps is None:
        text = "The femoral neck is not wholly in view: neither bone density nor strength can be measured."
        out.append(Finding("truncated_femur", Severity.WARNING, text))
    elif not density:
        text = (
            "The femur is not in view to 10 mm below the lesser trochanter: "
            "total hip density and strength cannot be measured."
        )
        out.append(Finding("truncated_femur", Severity.WARNING, text))
    elif not strength:
        text = f"Only {below:.0f} mm of shaft below the lesser trochanter are in view; a strength test needs 20 mm."
        out.append(Finding("shaft_too_short", Severity.WARNING, text))
    return out, density, strength
