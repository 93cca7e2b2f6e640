"""DXA regions of the hip, placed by rule on a projected femur."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.density import tables
from pipeline.density.projection import PIXEL_MM, Pose
from pipeline.errors import NotMeasurable
from pipeline.segmentation.model import Femur

REGION_LABEL = {"femoral_neck": 1, "trochanter": 2, "intertrochanter": 3}
OUTSIDE_LABEL = 4
_NOTCH_RISE_MM = 3.0
_FLARE_MM = 2.0
_EDGE_REACH_MM = 4.0


@dataclass(frozen=True)
class Regions:
    """Regions on the image of one projection.

    Attributes
    ----------
    labels : uint8 ndarray of shape (H, W)
        `REGION_LABEL`; 4 is bone that belongs to no region (head, shaft below the bottom line).
    neck_box_mm : float ndarray of shape (4, 2)
        Corners (lateral, distal) of the neck box, in mm from the corner of the image.
    trochanter_line_mm : float ndarray of shape (2, 2) or None
        Line between trochanter and intertrochanteric region.
    bottom_mm : float or None
        Distal limit of the total hip; None when the lesser trochanter is not known.
    missing : dict of str to str
        Regions that cannot be placed, and why.
    """

    labels: NDArray[np.uint8]
    neck_box_mm: NDArray[np.float64]
    trochanter_line_mm: NDArray[np.float64] | None
    bottom_mm: float | None
    missing: dict[str, str]


def place_regions(
    areal_g_cm2: NDArray[np.float64], pose: Pose, femur: Femur, *, neck_mm: float = 0.0, bottom_mm: float = 0.0
) -> Regions:
    """Place neck box, trochanteric and intertrochanteric region after the Hologic rules.

    The neck box is 15 mm along the neck axis and 49 mm across; its lateral edge passes through the trochanteric notch,
    where the upper outline begins to rise towards the greater trochanter. A line from the middle of that edge to the
    base of the greater trochanter on the lateral outline parts trochanter from intertrochanteric region. The bottom lies
    10 mm below the lesser trochanter. Everything medial of the neck box, the head included, belongs to no region. The box
    can be moved by `neck_mm` towards the trochanter, the bottom by `bottom_mm` down the shaft, to see what hangs on them.

    Raises
    ------
    NotMeasurable
        ``notch_not_found`` when the upper outline of the neck cannot be followed.
    """
    marks = femur.landmarks
    if marks is None or marks.neck_axis_lps is None or marks.neck_centre_lps_mm is None:
        raise NotMeasurable("axes_unknown", "the neck axis was not found.", subject=femur.name)
    bone = silhouette(areal_g_cm2)
    rows, columns = np.indices(bone.shape)
    place = np.stack([columns, rows], axis=-1) * PIXEL_MM
    axis = pose.direction(marks.neck_axis_lps)
    axis /= np.linalg.norm(axis)
    # Across the neck, pointing up and lateral: the side of the notch.
    across = np.array([axis[1], -axis[0]])
    centre = pose.project(marks.neck_centre_lps_mm)
    along_mm = (place - centre) @ axis
    across_mm = (place - centre) @ across
    head = pose.project(marks.head_centre_lps_mm)
    notch = _notch_mm(bone, centre, axis, across, float((head - centre) @ axis), marks.head_radius_mm, femur.name)
    notch += neck_mm
    width, length = tables.number("hip.neck_box_width_mm"), tables.number("hip.neck_box_length_mm")
    labels = np.zeros(bone.shape, np.uint8)
    labels[bone] = OUTSIDE_LABEL
    in_box = (along_mm <= notch) & (along_mm > notch - width) & (np.abs(across_mm) <= length / 2)
    labels[bone & in_box] = REGION_LABEL["femoral_neck"]
    box = np.array([(notch - width, -1), (notch, -1), (notch, 1), (notch - width, 1)], float)
    corners = centre + box[:, :1] * axis + box[:, 1:] * (length / 2) * across
    beyond = bone & (along_mm > notch)
    missing: dict[str, str] = {}
    bottom = _bottom_mm(femur, pose, bone, missing, bottom_mm)
    line = _trochanter_line(bone, beyond, pose, femur, centre + notch * axis, bottom)
    if line is None:
        missing["trochanter"] = missing["intertrochanter"] = "the base of the greater trochanter was not found"
        missing["total_hip"] = missing.get("total_hip", "") or "the base of the greater trochanter was not found"
        return Regions(labels, corners, None, bottom, missing)
    direction = line[1] - line[0]
    offset = place - line[0]
    # Above the line, seen from its medial end: smaller distal coordinate.
    above = direction[0] * offset[..., 1] - direction[1] * offset[..., 0] < 0
    labels[beyond & above] = REGION_LABEL["trochanter"]
    if bottom is not None:
        labels[beyond & ~above & (place[..., 1] <= bottom)] = REGION_LABEL["intertrochanter"]
    return Regions(labels, corners, line, bottom, missing)


def silhouette(areal_g_cm2: NDArray[np.float64], *, share: float | None = None) -> NDArray[np.bool_]:
    """The shadow of the bone on a projection.

    Its edge lies where the areal density falls below a share of what it reaches within 4 mm, not at a fixed density: the latter
    moves outwards with the thickness of the slices, by 2 mm from 1 to 5 mm. The limit is never below the density that parts
    bone from noise, nor so high that sparse bone beside a dense cortex would be left out.

    Parameters
    ----------
    areal_g_cm2 : float ndarray of shape (H, W)
    share : float, optional
        By default that of the table of constants.
    """
    part = tables.number("hip.bone_edge_share") if share is None else share
    lowest, highest = tables.number("hip.bone_edge_g_cm2"), tables.number("hip.bone_edge_most_g_cm2")
    peak = ndimage.maximum_filter(areal_g_cm2, footprint=_disc(_EDGE_REACH_MM))
    return _largest(areal_g_cm2 > np.clip(part * peak, lowest, highest))


def _disc(radius_mm: float) -> NDArray[np.bool_]:
    reach = int(radius_mm / PIXEL_MM)
    rows, columns = np.indices((2 * reach + 1, 2 * reach + 1)) - reach
    return np.asarray(np.hypot(rows, columns) * PIXEL_MM <= radius_mm)


def with_tails(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Labels of the nearest region also 4 mm beyond the edge, where blur has carried some of its mineral."""
    distance, (rows, columns) = ndimage.distance_transform_edt(labels == 0, sampling=PIXEL_MM, return_indices=True)
    return np.where(distance <= _EDGE_REACH_MM, labels[rows, columns], 0).astype(np.uint8)


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part, holes filled."""
    components, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    return np.asarray(ndimage.binary_fill_holes(components == int(np.argmax(sizes))))


def _notch_mm(
    bone: NDArray[np.bool_],
    centre: NDArray[np.float64],
    axis: NDArray[np.float64],
    across: NDArray[np.float64],
    head_mm: float,
    head_radius_mm: float,
    name: str,
) -> float:
    """Position along the neck axis at which the upper outline has risen 3 mm above its lowest point."""
    along = np.arange(head_mm + 0.8 * head_radius_mm, head_mm + 0.8 * head_radius_mm + 45.0, 0.5)
    height = np.arange(0.0, 60.0, 0.25)
    points = centre + along[:, None, None] * axis + height[None, :, None] * across
    inside = ndimage.map_coordinates(
        bone.astype(np.float32), np.moveaxis(points[..., ::-1], -1, 0) / PIXEL_MM, order=1, mode="constant"
    )
    out = inside < 0.5
    upper = np.where(out.any(axis=1), height[np.argmax(out, axis=1)], np.nan)
    if not np.isfinite(upper).any():
        raise NotMeasurable("notch_not_found", "the upper outline of the neck cannot be followed.", subject=name)
    upper = ndimage.median_filter(np.nan_to_num(upper, nan=60.0), 5)
    # The lowest point of the outline lies on the neck, before the trochanter: within 30 mm of the head's edge.
    lowest = int(np.argmin(upper[:60]))
    risen = np.flatnonzero(upper[lowest:] > upper[lowest] + _NOTCH_RISE_MM)
    if upper[lowest] <= 0 or risen.size == 0:
        raise NotMeasurable(
            "notch_not_found", "the upper outline of the neck does not rise to a trochanter.", subject=name
        )
    return float(along[lowest + risen[0]])


def _bottom_mm(
    femur: Femur, pose: Pose, bone: NDArray[np.bool_], missing: dict[str, str], moved_mm: float
) -> float | None:
    """Distal limit of the total hip, or None with the reason noted."""
    marks = femur.landmarks
    if marks is None or marks.lesser_trochanter_lower_edge_lps_mm is None:
        missing["intertrochanter"] = missing["total_hip"] = "the lesser trochanter is not in view"
        return None
    below = tables.number("hip.below_lesser_trochanter_mm")
    edge = float(pose.project(marks.lesser_trochanter_lower_edge_lps_mm)[1])
    if marks.lesser_trochanter_lps_mm is not None:
        # In three dimensions the ridge below the trochanter runs on for centimetres; on a DXA image the bump ends before.
        tip = float(pose.project(marks.lesser_trochanter_lps_mm)[1])
        edge = min(edge, tip + tables.number("hip.lesser_trochanter_half_length_mm"))
    bottom = edge + below + moved_mm
    reach = float(np.flatnonzero(bone.any(axis=1))[-1]) * PIXEL_MM
    if reach < bottom - 2.0:
        text = (
            f"the shaft ends {max(0.0, reach - bottom + below):.0f} mm below the lesser trochanter, "
            f"{below:.0f} mm are needed"
        )
        missing["intertrochanter"] = missing["total_hip"] = text
        return None
    return bottom


def _trochanter_line(
    bone: NDArray[np.bool_],
    beyond: NDArray[np.bool_],
    pose: Pose,
    femur: Femur,
    start_mm: NDArray[np.float64],
    bottom_mm: float | None,
) -> NDArray[np.float64] | None:
    """From the middle of the neck box's lateral edge to the base of the greater trochanter on the lateral outline.

    The base is where the lateral outline, followed upwards, leaves the straight line of the shaft by 2 mm; without a flare it
    lies 15 mm below the most lateral point of the trochanter.
    """
    marks = femur.landmarks
    rows = np.flatnonzero(bone.any(axis=1))
    edge = (bone.shape[1] - 1 - np.argmax(bone[:, ::-1], axis=1)) * PIXEL_MM
    reach = float(rows[-1]) * PIXEL_MM
    limit = reach if bottom_mm is None else min(bottom_mm, reach)
    start_row = int(start_mm[1] / PIXEL_MM)
    shaft = np.array([r for r in rows if limit - 25.0 <= r * PIXEL_MM <= limit - 1.0])
    if shaft.size >= 10:
        slope, offset = np.polyfit(shaft * PIXEL_MM, edge[shaft], 1)
        above = np.array([r for r in rows if start_row - 5 <= r < shaft[0]])
        flare = edge[above] - (slope * above * PIXEL_MM + offset) if above.size else np.zeros(0)
        flared = np.flatnonzero(flare > _FLARE_MM)
        if flared.size:
            row = int(above[flared[-1]])
            return np.array([start_mm, (edge[row], row * PIXEL_MM)])
    lateral = np.array([r for r in rows if start_row - 40 <= r < start_row + 40 and beyond[r].any()])
    if lateral.size == 0:
        return None
    if marks is not None and marks.greater_trochanter_lps_mm is not None:
        tip_mm = float(pose.project(marks.greater_trochanter_lps_mm)[1])
    else:
        tip_mm = float(lateral[np.argmax(edge[lateral])]) * PIXEL_MM
    distal = tip_mm + 15.0
    row = round(distal / PIXEL_MM)
    if row >= bone.shape[0] or not beyond[row].any():
        return None
    return np.array([start_mm, (edge[row], distal)])
