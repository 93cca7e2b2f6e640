"""Head, neck, shaft and trochanters of a proximal femur, from nothing but its solid mask.

The mask may come from the chain of this package or from outside. Everything is read in the frame of the bone itself (head
centre, shaft axis, and the side for front and back), so a flexed or rotated hip needs no special case; what the mask or
the field of view does not show is None.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.errors import NotMeasurable
from pipeline.segmentation.femur.geometry import (
    directions,
    exit_radii,
    least_squares_sphere,
    section_through,
)
from pipeline.segmentation.model import FemurLandmarks
from pipeline.segmentation.sampling import index_box, resample_array
from pipeline.volume import Grid

HEAD_RADIUS_RANGE_MM = (17.0, 33.0)

LOWER_EDGE_SHARE = 0.6
"""The lesser trochanter ends distally where it stands out by so much of its height: where the flank of a rounded bump is
steepest."""
_MINIMUM_TUBE_MM = 12.0
"""Shortest stretch of shaft from which its axis is taken; shorter ones are None."""
_TUBE_LENGTH_MM = 60.0
"""Longest stretch: farther down the shaft bows away from its proximal axis."""


def landmarks_from_mask(mask: NDArray[np.bool_], grid: Grid, side: str) -> FemurLandmarks:
    """Landmarks of one proximal femur.

    Parameters
    ----------
    mask : bool ndarray of shape (Z, Y, X)
        Solid femur (cortex and medulla) in canonical order, and nothing else.
    grid : Grid
    side : str
        ``"left"`` or ``"right"`` of the patient; tells the front of a femur from its back.

    Returns
    -------
    FemurLandmarks
        With None for what is not in the mask or is cut by the field of view.

    Raises
    ------
    NotMeasurable
        ``head_not_found`` if no part of the mask is round enough to be a femoral head.
    ValueError
        If `side` is neither or the mask does not fit the grid.

    Notes
    -----
    * Head: sphere fitted to where rays from a deep point leave the mask, with Tukey weights, so that the neck and the fovea
      do not pull it.
    * Neck axis: from the head centre through the centroid of the narrowest section perpendicular to that same line,
      found by iteration.
    * Shaft axis: line through the centres of the largest inscribed circles of sections below the lesser trochanter, at most
      60 mm of it.
    * Lesser trochanter: where, 15 to 110 degrees behind the head as seen along the shaft, the outline stands out most from
      the outline of the shaft below it.
    """
    if side not in ("left", "right"):
        raise ValueError(f"side is {side!r}, not 'left' or 'right'")
    if mask.shape != grid.shape:
        raise ValueError(f"mask of shape {mask.shape} on a grid of shape {grid.shape}")
    head = fit_head(mask, grid)
    if head is None:
        raise NotMeasurable(
            "head_not_found",
            "no part of the mask is round enough to be a femoral head.",
            subject=f"femur_{side}",
            remedy="Check that the mask holds the femoral head and that this is a femur.",
        )
    centre, radius = head
    return landmarks_about_head(mask, grid, side, centre, radius)


def landmarks_about_head(
    mask: NDArray[np.bool_], grid: Grid, side: str, head_centre_lps_mm: NDArray[np.float64], head_radius_mm: float
) -> FemurLandmarks:
    """As `landmarks_from_mask`, with a head sphere that is already known."""
    centre, radius = np.asarray(head_centre_lps_mm, float), float(head_radius_mm)
    neck = _narrowest_neck(mask, grid, centre, radius)
    neck_centre, neck_axis = neck if neck is not None else (None, None)
    shaft = _Shaft.find(mask, grid, centre, radius, neck_axis)
    if shaft is None:
        return FemurLandmarks(centre, radius, neck_centre, neck_axis)
    bump = shaft.lesser_trochanter(mask, grid, centre, side)
    # Without the trochanter the origin along the shaft is the level of its nearest approach to the head.
    tip, lower_edge_mm, at_mm = bump if bump is not None else (None, None, shaft.along_mm(centre))
    lateral = shaft.perpendicular(shaft.point_lps_mm - centre)
    return FemurLandmarks(
        head_centre_lps_mm=centre,
        head_radius_mm=radius,
        neck_centre_lps_mm=neck_centre,
        neck_axis_lps=neck_axis,
        shaft_axis_lps=shaft.axis_lps,
        shaft_point_lps_mm=shaft.at(at_mm),
        lesser_trochanter_lps_mm=tip,
        greater_trochanter_lps_mm=_most_lateral_point(mask, grid, shaft, lateral, at_mm),
        lesser_trochanter_lower_edge_lps_mm=None if lower_edge_mm is None else shaft.at(lower_edge_mm),
        shaft_below_lesser_trochanter_mm=None if lower_edge_mm is None else max(shaft.end_mm - lower_edge_mm, 0.0),
    )


def fit_head(mask: NDArray[np.bool_], grid: Grid) -> tuple[NDArray[np.float64], float] | None:
    """Centre (LPS, mm) and radius of the sphere that best fits a femoral head in a solid mask, or None."""
    found = np.argwhere(mask.any(axis=(1, 2))), np.argwhere(mask.any(axis=(0, 2))), np.argwhere(mask.any(axis=(0, 1)))
    if found[0].size == 0:
        return None
    corners = np.array([[int(f.min()) for f in found], [int(f.max()) for f in found]], dtype=float)
    box = index_box(grid, grid.to_lps(corners), margin_mm=3.0)
    fraction, coarse = resample_array(mask, grid, 2.0, box=box)
    depth_mm = 2.0 * ndimage.distance_transform_edt(fraction > 0.5)
    peaks = (depth_mm == ndimage.maximum_filter(depth_mm, size=5)) & (depth_mm > 0.7 * HEAD_RADIUS_RANGE_MM[0])
    candidates = np.argwhere(peaks)
    candidates = candidates[np.argsort(-depth_mm[peaks])]
    best: tuple[float, NDArray[np.float64], float] | None = None
    tried: list[NDArray[np.float64]] = []
    for candidate in candidates:
        start = coarse.to_lps(candidate.astype(float))
        if any(float(np.linalg.norm(start - other)) < 8.0 for other in tried):
            continue
        tried.append(start)
        fit = _sphere_from_inside(mask, grid, start)
        if fit is not None and (best is None or fit[0] > best[0]):
            best = fit
        if len(tried) == 12:
            break
    if best is None or best[0] < 0.45:
        return None
    return best[1], best[2]


def _sphere_from_inside(
    mask: NDArray[np.bool_], grid: Grid, start_lps_mm: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64], float] | None:
    """Score (share of rays that end on the sphere), centre and radius, starting from a point deep in the mask."""
    rays = directions(400)
    centre, radius = start_lps_mm, float("nan")
    share = 0.0
    for tolerance_mm in (5.0, 3.5, 2.5, 2.0, 2.0, 2.0):
        length = exit_radii(mask, grid, centre, rays, limit_mm=60.0)
        seen = np.isfinite(length)
        if seen.sum() < 100:
            return None
        points = centre + rays[seen] * length[seen, None]
        if not np.isfinite(radius):
            radius = float(np.median(length[seen]))
        for _ in range(3):
            residual = np.linalg.norm(points - centre, axis=1) - radius
            weights = np.clip(1 - (residual / tolerance_mm) ** 2, 0, None) ** 2
            if (weights > 0).sum() < 40:
                return None
            new_centre, new_radius = least_squares_sphere(points, weights)
            if not np.isfinite(new_radius) or float(np.linalg.norm(new_centre - start_lps_mm)) > 20.0:
                return None
            centre, radius = new_centre, new_radius
        share = float((np.abs(np.linalg.norm(points - centre, axis=1) - radius) < 1.5).mean())
    if not HEAD_RADIUS_RANGE_MM[0] <= radius <= HEAD_RADIUS_RANGE_MM[1]:
        return None
    return share, centre, radius


def _narrowest_neck(
    mask: NDArray[np.bool_], grid: Grid, centre: NDArray[np.float64], radius: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Centre and axis of the neck, or None if it is not (wholly) in the mask."""
    rays = directions(600)
    length = exit_radii(mask, grid, centre, rays, limit_mm=2.4 * radius)
    if np.isnan(length).mean() > 0.2:
        return None
    long = np.where(np.isfinite(length), np.clip(length / radius - 1.25, 0, None), 0.0)
    if (long > 0).sum() < 5:
        return None
    axis = (rays * long[:, None]).sum(axis=0)
    axis /= np.linalg.norm(axis)
    distance = np.arange(0.5 * radius, 2.2 * radius, 1.0)
    for _ in range(6):
        sections = [section_through(mask, grid, centre + t * axis, axis, half_mm=32.0) for t in distance]
        area = np.array([s.area_mm2 for s in sections])
        first_gap = int(np.argmax(area == 0)) if (area == 0).any() else len(area)
        if first_gap < 8:
            return None
        area = ndimage.gaussian_filter1d(area[:first_gap], 1.5)
        narrowest = int(area.argmin())
        if narrowest >= first_gap - 2 or any(s.cut for s in sections[max(narrowest - 2, 0) : narrowest + 3]):
            return None
        # The centroids about the narrowest section, not of it alone: one plane of voxels more or less must not tilt it.
        around = sections[max(narrowest - 3, 0) : narrowest + 4]
        neck_centre = np.mean([s.centroid_lps_mm for s in around], axis=0)
        new_axis = neck_centre - centre
        new_axis /= np.linalg.norm(new_axis)
        settled = float(new_axis @ axis) > np.cos(np.radians(0.3))
        axis = new_axis
        if settled:
            break
    neck_centre = centre + axis * float((neck_centre - centre) @ axis)
    return neck_centre, axis


@dataclass(frozen=True)
class _Shaft:
    """A line along the shaft; positions on it count distally from `point_lps_mm`."""

    point_lps_mm: NDArray[np.float64]
    axis_lps: NDArray[np.float64]
    start_mm: float
    """Upper end of the tube from which the line was fitted."""
    end_mm: float
    """Where the shaft leaves the mask or the field of view."""

    def at(self, along_mm: float) -> NDArray[np.float64]:
        return self.point_lps_mm + along_mm * self.axis_lps

    def along_mm(self, point_lps_mm: NDArray[np.float64]) -> float:
        return float((point_lps_mm - self.point_lps_mm) @ self.axis_lps)

    def perpendicular(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        """Unit vector of the component across the shaft."""
        across = vector - (vector @ self.axis_lps) * self.axis_lps
        unit: NDArray[np.float64] = across / np.linalg.norm(across)
        return unit

    @classmethod
    def find(
        cls,
        mask: NDArray[np.bool_],
        grid: Grid,
        centre: NDArray[np.float64],
        radius: float,
        neck_axis: NDArray[np.float64] | None,
    ) -> _Shaft | None:
        """Follow the bone from the end of the neck to its far end, and fit the tube below the trochanters."""
        if neck_axis is None:
            return None
        inside = np.argwhere(mask)
        points = grid.to_lps(inside[:: max(1, len(inside) // 40000)].astype(float))
        distance = np.linalg.norm(points - centre, axis=1)
        if distance.max() < 2.6 * radius:
            return None
        # Not farther than the part of the shaft that is needed: a whole femur bows, and ends in a knee.
        near = points[distance <= 7.0 * radius]
        base = centre + 2.0 * radius * neck_axis
        far = near[np.argmax(distance[distance <= 7.0 * radius])]
        for _ in range(4):
            axis = (far - base) / np.linalg.norm(far - base)
            along = (near - base) @ axis
            far = near[along > along.max() - 8.0].mean(axis=0)
        axis = _direction_of_walls(mask, grid, near, base, axis)
        shaft: _Shaft | None = None
        for _ in range(4):
            shaft = cls._fit_tube(mask, grid, base, axis, base - centre)
            if shaft is None:
                return None
            turned = float(shaft.axis_lps @ axis)
            base, axis = shaft.at(shaft.along_mm(base)), shaft.axis_lps
            if turned > np.cos(np.radians(0.3)):
                break
        return shaft

    @classmethod
    def _fit_tube(
        cls,
        mask: NDArray[np.bool_],
        grid: Grid,
        base: NDArray[np.float64],
        axis: NDArray[np.float64],
        away_from_head: NDArray[np.float64],
    ) -> _Shaft | None:
        along = np.arange(-30.0, 200.0, 2.0)
        sections = [section_through(mask, grid, base + s * axis, axis, half_mm=40.0) for s in along]
        area = np.array([0.0 if s.cut else s.area_mm2 for s in sections])
        core = np.array([s.core_radius_mm for s in sections])
        present = area > 100.0
        if not present.any():
            return None
        last = int(np.flatnonzero(present).max())
        # A slanted end, or one cut by the field of view, is not a whole section.
        while last > 0 and area[last] < 0.8 * np.median(area[max(last - 8, 0) : last + 1]):
            last -= 1
        caliber = float(np.median(core[max(last - 5, 0) : last + 1]))
        first = last
        while first > 0 and present[first - 1] and 0.75 * caliber < core[first - 1] < 1.15 * caliber:
            first -= 1
        if along[last] - along[first] < _MINIMUM_TUBE_MM or along[first] < -10.0:
            return None
        use = slice(first, min(last, first + int(_TUBE_LENGTH_MM / 2)) + 1)
        # Towards the trochanters the tube widens on the side of the head only. The centre of a circle of one caliber that
        # touches the lateral wall stays on the axis where that of the largest circle drifts towards the head.
        lateral = away_from_head - (away_from_head @ axis) * axis
        lateral /= np.linalg.norm(lateral)
        cores = np.array([s.core_lps_mm + (s.core_radius_mm - caliber) * lateral for s in sections[use]])
        weights = np.ones(len(cores))
        direction = axis
        for _ in range(5):
            middle = np.average(cores, axis=0, weights=weights)
            # A line through a stretch shorter than the bone is wide says less about the axis than its walls.
            if along[last] - along[first] > 2.2 * caliber:
                _, _, vectors = np.linalg.svd((cores - middle) * weights[:, None])
                direction = vectors[0] * np.sign(vectors[0] @ axis)
            off = np.linalg.norm(np.cross(cores - middle, direction), axis=1)
            weights = 1 / (1 + (off / 0.7) ** 2)
        line = cls(middle, direction, 0.0, 0.0)
        return cls(middle, direction, line.along_mm(cores[0]), line.along_mm(base + along[last] * axis) + 1.0)

    def lesser_trochanter(
        self, mask: NDArray[np.bool_], grid: Grid, head_centre: NDArray[np.float64], side: str
    ) -> tuple[NDArray[np.float64], float | None, float] | None:
        """Tip (LPS), and where its lower edge (if in view) and the tip lie along the shaft; None if no bump stands out."""
        towards_head = self.perpendicular(head_centre - self.point_lps_mm)
        back = np.cross(towards_head, self.axis_lps) * (1.0 if side == "right" else -1.0)
        # Not beyond the stretch to which the line was fitted: farther down the shaft bows away from it.
        end_mm = min(self.end_mm, self.start_mm + _TUBE_LENGTH_MM)
        along = np.arange(self.along_mm(head_centre) + 15.0, end_mm, 1.0)
        angle = np.radians(np.arange(0, 360, 5))
        spokes = np.cos(angle)[:, None] * towards_head + np.sin(angle)[:, None] * back
        starts = self.point_lps_mm + along[:, None, None] * self.axis_lps + np.zeros((1, len(angle), 3))
        rays = np.broadcast_to(spokes, starts.shape)
        reach = exit_radii(mask, grid, starts.reshape(-1, 3), rays.reshape(-1, 3), limit_mm=70.0)
        outline_mm = reach.reshape(len(along), len(angle))
        window = (np.degrees(angle) >= 15) & (np.degrees(angle) <= 110)
        opposite = (np.degrees(angle) >= 140) & (np.degrees(angle) <= 340)
        reference_mm = 10.0
        # First against the last 10 mm, then against all of the shaft that turned out to lie below the bump.
        for _ in range(2):
            reference = outline_mm[along > end_mm - reference_mm]
            if len(reference) < 3 or np.isnan(reference).mean() > 0.2 or np.isnan(reference).all(axis=0).any():
                return None
            shaft_mm = np.nanmedian(reference, axis=0)
            relative = outline_mm[:, opposite] / shaft_mm[opposite]
            relative[np.isnan(relative).all(axis=1)] = 1.0
            scale = np.nanmedian(relative, axis=1)
            excess = outline_mm[:, window] - scale[:, None] * shaft_mm[window]
            excess = ndimage.gaussian_filter(np.nan_to_num(excess, nan=0.0), (1.5, 1.0), mode="nearest")
            height = excess.max(axis=1)
            peak = _lowest_peak(height, minimum_mm=2.5)
            if peak is None:
                return None
            # A ridge runs on from the trochanter down the shaft: the bump ends where its flank meets that ridge.
            ridge = float(np.median(height[min(peak + 18, len(height) - 5) : peak + 36]))
            lower = peak
            while lower < len(along) - 1 and height[lower] > ridge + LOWER_EDGE_SHARE * (height[peak] - ridge):
                lower += 1
            below_mm = end_mm - float(along[lower])
            # Nothing stands out from an outline that itself holds the bump.
            seen = below_mm >= reference_mm
            if not seen:
                break
            reference_mm = min(30.0, below_mm)
        weight = np.clip(excess[peak] - 0.7 * height[peak], 0, None)
        at_angle = round(float(np.average(np.arange(len(weight)), weights=weight)))
        tip = self.at(float(along[peak])) + outline_mm[peak, window][at_angle] * spokes[window][at_angle]
        return tip, float(along[lower]) if seen else None, float(along[peak])


def _direction_of_walls(
    mask: NDArray[np.bool_],
    grid: Grid,
    points_lps_mm: NDArray[np.float64],
    base: NDArray[np.float64],
    axis: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The direction to which the walls of the distal 30 mm are most nearly parallel, whatever plane they end in."""
    fraction, coarse = resample_array(mask, grid, 2.0, box=index_box(grid, points_lps_mm, margin_mm=6.0))
    fraction = ndimage.gaussian_filter(fraction, 1.0, mode="nearest")
    slope = np.stack(np.gradient(fraction), axis=-1)
    wall = np.argwhere((np.abs(fraction - 0.5) < 0.3) & (np.linalg.norm(slope, axis=-1) > 0.12))
    normal = -slope[tuple(wall.T)] @ coarse.axes_lps
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    along = (coarse.to_lps(wall.astype(float)) - base) @ axis
    for _ in range(6):
        use = (along > max(along.max() - 30.0, 5.0)) & (np.abs(normal @ axis) < 0.4)
        if use.sum() < 50:
            return axis
        _, vectors = np.linalg.eigh(normal[use].T @ normal[use])
        axis = np.asarray(vectors[:, 0] * np.sign(vectors[:, 0] @ axis), dtype=np.float64)
        along = (coarse.to_lps(wall.astype(float)) - base) @ axis
    return np.asarray(axis)


def _lowest_peak(height_mm: NDArray[np.float64], *, minimum_mm: float) -> int | None:
    """Index of the most distal local maximum that stands 0.4 mm above its surroundings on both sides, or None."""
    for k in range(len(height_mm) - 2, 1, -1):
        if height_mm[k] < minimum_mm or height_mm[k] < height_mm[k - 1] or height_mm[k] <= height_mm[k + 1]:
            continue
        above = height_mm[max(k - 14, 0) : k]
        below = height_mm[k + 1 : k + 15]
        if height_mm[k] - above.min() > 0.4 and height_mm[k] - below.min() > 0.4:
            return k
    return None


def _most_lateral_point(
    mask: NDArray[np.bool_], grid: Grid, shaft: _Shaft, lateral: NDArray[np.float64], lesser_mm: float
) -> NDArray[np.float64] | None:
    """Where the bone above the lesser trochanter reaches farthest from the head across the shaft; None if cut there."""
    inside = np.argwhere(mask)
    points = grid.to_lps(inside.astype(float))
    along = (points - shaft.point_lps_mm) @ shaft.axis_lps
    above = along < lesser_mm
    if above.sum() < 100:
        return None
    reach = points[above] @ lateral
    order = np.argsort(reach)[-max(10, above.sum() // 2000) :]
    edge = inside[above][order]
    if ((edge == 0) | (edge == np.array(mask.shape) - 1)).any():
        return None
    return np.asarray(points[above][order].mean(axis=0))
