"""Axes of a proximal femur from its mask alone: head sphere, shaft axis, neck axis, side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fea.bone.assembly import TestRefused
from fea.bone.resample import PosedGrid, grid_around, resample_bone

_WORK_VOXEL_MM = 1.5
_LEAST_SHAFT_MM = 12.0  # a line through less shaft than this has no direction
_HEAD_RADIUS_MM = (14.0, 34.0)  # adult femoral heads are 18 to 29 mm; a fit beyond these bounds is not a head


@dataclass(frozen=True)
class FemurPose:
    """Points and axes of a proximal femur in world coordinates (DICOM LPS, mm).

    Attributes
    ----------
    head_centre_mm : float ndarray of shape (3,)
    head_radius_mm : float
    neck_axis : float ndarray of shape (3,)
        Unit vector from the head towards the trochanteric region.
    shaft_axis : float ndarray of shape (3,)
        Unit vector along the shaft, distally.
    shaft_point_mm : float ndarray of shape (3,)
    side : str
        ``"left"`` or ``"right"``: decides which way the neck turns inwards.
    lesser_trochanter_mm : float ndarray of shape (3,) or None
    """

    head_centre_mm: NDArray[np.float64]
    head_radius_mm: float
    neck_axis: NDArray[np.float64]
    shaft_axis: NDArray[np.float64]
    shaft_point_mm: NDArray[np.float64]
    side: str
    lesser_trochanter_mm: NDArray[np.float64] | None = None

    @property
    def anatomical(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Unit vectors proximal, medial and anterior of the bone itself: shaft axis, neck across the shaft, their normal."""
        proximal = -self.shaft_axis / np.linalg.norm(self.shaft_axis)
        towards_head = -np.asarray(self.neck_axis, float)
        medial = towards_head - (towards_head @ proximal) * proximal
        length = float(np.linalg.norm(medial))
        if length < 0.3:
            raise TestRefused("femur_axes", "the neck axis runs within 17 degrees of the shaft axis.")
        medial = medial / length
        anterior = np.cross(proximal, medial) * (1.0 if self.side == "left" else -1.0)
        return proximal, medial, anterior


def pose_of_femur(mask: NDArray[np.bool_], index_to_world: NDArray, *, side: str | None = None) -> FemurPose:
    """Pose of a proximal femur from its mask.

    The head is the greatest sphere that fits into the medial part of the bone, refined on its surface; the shaft axis is a
    line through the centres of the greatest circles in the cross-sections of the distal part, which ignore the lesser
    trochanter; the neck axis crosses the least area between head and trochanters.

    Parameters
    ----------
    mask : bool ndarray of shape (Z, Y, X)
        The solid proximal femur; its shaft must point within 45 degrees of the feet.
    index_to_world : float ndarray of shape (4, 4)
        From voxel index (k, j, i) to LPS.
    side : {"left", "right"}, optional
        By default from the direction in which the head lies.

    Raises
    ------
    TestRefused
        ``mask_empty``, ``mask_too_small``, ``shaft_too_short`` or ``femoral_head_not_found``.
    """
    if not mask.any():
        raise TestRefused("mask_empty", "the mask of the femur is empty.")
    matrix = np.asarray(index_to_world, float)
    surface = np.argwhere(mask & ~ndimage.binary_erosion(mask)).astype(float)
    points = surface @ matrix[:3, :3].T + matrix[:3, 3]
    if np.ptp(points[:, 2]) < 50.0:
        raise TestRefused("mask_too_small", f"the femur mask is only {np.ptp(points[:, 2]):.0f} mm high.")
    edge_mm = float(np.linalg.norm(matrix[:3, :3], axis=0).max())
    grid = grid_around(points, np.eye(3)[::-1], _WORK_VOXEL_MM, edge_mm + 3 * _WORK_VOXEL_MM)
    solid = resample_bone(mask.astype(np.float32), mask, matrix, grid, samples=2).fraction >= 0.5
    pieces, count = ndimage.label(solid)
    if count > 1:
        solid = pieces == int(np.argmax(np.bincount(pieces.ravel())[1:]) + 1)
    solid = np.asarray([ndimage.binary_fill_holes(layer) for layer in solid])
    depth_mm = ndimage.distance_transform_edt(solid) * _WORK_VOXEL_MM

    shaft_point, distal = _first_shaft_axis(solid, grid)
    head, radius = _head_sphere(solid, depth_mm, grid, shaft_point, distal)
    shaft_point, distal = _shaft_axis(solid, grid, head, radius, distal)
    neck = _neck_axis(solid, grid, head, radius, shaft_point, distal)
    if side is None:
        offset = head - shaft_point
        offset = offset - (offset @ distal) * distal
        side = "left" if offset[0] < 0 else "right"  # the head lies towards the middle of the body
    if side not in ("left", "right"):
        raise ValueError(f"side must be 'left' or 'right', not {side!r}")
    return FemurPose(head, radius, neck, distal, shaft_point, side)


def _centres_of_slices(solid: NDArray[np.bool_], grid: PosedGrid, low_mm: float, high_mm: float) -> NDArray[np.float64]:
    """World points (N, 3): the centre of the greatest circle in each slice between two heights of the world."""
    centres = []
    for k in range(solid.shape[0]):
        height = grid.to_world(np.array([k + 0.5, 0.0, 0.0]))[2]
        if not (low_mm <= height <= high_mm) or solid[k].sum() * _WORK_VOXEL_MM**2 < 150:
            continue
        reach = ndimage.distance_transform_edt(solid[k])
        # The mean over the flat top of the distance is steadier than the one greatest voxel.
        at = np.argwhere(reach >= reach.max() - 0.75).mean(axis=0)
        centres.append(grid.to_world(np.array([k + 0.5, at[0] + 0.5, at[1] + 0.5])))
    return np.array(centres)


def _first_shaft_axis(solid: NDArray[np.bool_], grid: PosedGrid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A point of the shaft near its lower end, and straight down."""
    heights = np.flatnonzero(solid.any(axis=(1, 2)))
    low = float(grid.to_world(np.array([heights[0] + 0.5, 0, 0]))[2])
    centres = _centres_of_slices(solid, grid, low, low + 20.0)
    if len(centres) < 3:
        raise TestRefused("shaft_too_short", "no shaft is in view below the trochanters.")
    return centres.mean(axis=0), np.array([0.0, 0.0, -1.0])


def _head_sphere(
    solid: NDArray[np.bool_], depth_mm: NDArray, grid: PosedGrid, shaft_point: NDArray, distal: NDArray
) -> tuple[NDArray[np.float64], float]:
    """Centre and radius of the femoral head."""
    voxels = np.argwhere(solid)
    points = grid.to_world(voxels + 0.5)
    offset = points - shaft_point
    across = offset - (offset @ distal)[:, None] * distal
    top = -offset @ distal
    # The head is the side towards which the upper part of the bone leans most.
    upper = top > top.max() - 45.0
    distance = np.linalg.norm(across, axis=1)
    medial = across[upper & (distance > np.quantile(distance[upper], 0.6))].mean(axis=0)
    if np.linalg.norm(medial) < 1e-6:
        raise TestRefused("femoral_head_not_found", "the upper femur leans to no side.")
    medial = medial / np.linalg.norm(medial)
    reach = across @ medial
    candidates = upper & (reach > 0.35 * reach.max())
    inner = depth_mm[tuple(voxels[candidates].T)]
    centre = points[candidates][np.argsort(inner)[-5:]].mean(axis=0)
    radius = float(inner.max())
    shell = grid.to_world(np.argwhere(solid & ~ndimage.binary_erosion(solid)) + 0.5)
    for _ in range(15):
        towards = shell - centre
        distance = np.linalg.norm(towards, axis=1)
        # The neck leaves the head laterally and distally: that part of the surface is no sphere.
        away = (towards @ (0.7 * (distal - medial))) / np.maximum(distance, 1e-9)
        chosen = (np.abs(distance - radius) < max(0.12 * radius, 2.0)) & (away < 0.35)
        if chosen.sum() < 60:
            raise TestRefused("femoral_head_not_found", "too little of a femoral head is in the mask.")
        design = np.column_stack([2 * shell[chosen], np.ones(int(chosen.sum()))])
        solution, *_ = np.linalg.lstsq(design, (shell[chosen] ** 2).sum(axis=1), rcond=None)
        moved = float(np.linalg.norm(solution[:3] - centre))
        centre, radius = solution[:3], float(np.sqrt(max(solution[3] + solution[:3] @ solution[:3], 1.0)))
        if moved < 0.02:
            break
    radius += 0.5 * _WORK_VOXEL_MM  # the surface voxels' centres lie half a voxel inside
    if not _HEAD_RADIUS_MM[0] <= radius <= _HEAD_RADIUS_MM[1]:
        raise TestRefused("femoral_head_not_found", f"the sphere fitted to the head has a radius of {radius:.0f} mm.")
    return centre, radius


def _shaft_axis(
    solid: NDArray[np.bool_], grid: PosedGrid, head: NDArray, radius: float, distal: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A point of the shaft axis and its distal direction, from the part of the bone well below the head."""
    heights = np.flatnonzero(solid.any(axis=(1, 2)))
    low = float(grid.to_world(np.array([heights[0] + 0.5, 0, 0]))[2])
    centres = _centres_of_slices(solid, grid, low + _WORK_VOXEL_MM, head[2] - 2.0 * radius)
    if len(centres) == 0 or np.ptp(centres[:, 2]) < _LEAST_SHAFT_MM:
        raise TestRefused(
            "shaft_too_short",
            f"less than {_LEAST_SHAFT_MM:.0f} mm of shaft lie in view more than two head radii below the head's centre.",
        )
    middle = centres.mean(axis=0)
    keep = np.ones(len(centres), bool)
    direction = distal
    for _ in range(6):
        middle = centres[keep].mean(axis=0)
        direction = np.linalg.svd(centres[keep] - middle)[2][0]
        off = centres - middle
        off = np.linalg.norm(off - (off @ direction)[:, None] * direction, axis=1)
        keep = off <= max(2.5 * float(np.median(off)), 1.0)
    if direction[2] > 0:
        direction = -direction
    return middle, direction / np.linalg.norm(direction)


def _neck_axis(
    solid: NDArray[np.bool_], grid: PosedGrid, head: NDArray, radius: float, shaft_point: NDArray, distal: NDArray
) -> NDArray[np.float64]:
    """Direction from the centre of the head through the middle of the narrowest section of the neck, by iteration."""
    offset = head - shaft_point
    lateral = -(offset - (offset @ distal) * distal)
    axis = lateral / np.linalg.norm(lateral) + 0.8 * distal
    axis = axis / np.linalg.norm(axis)
    points = grid.to_world(np.argwhere(solid) + 0.5) - head
    near = points[np.linalg.norm(points, axis=1) < 2.6 * radius]
    for _ in range(12):
        along = near @ axis
        across = np.linalg.norm(near - along[:, None] * axis, axis=1)
        middle, fewest = axis * radius, np.inf
        for place in np.arange(0.9, 1.71, 0.1):
            section = (np.abs(along - place * radius) < _WORK_VOXEL_MM) & (across < 1.2 * radius)
            if 30 < section.sum() < fewest:
                fewest, middle = int(section.sum()), near[section].mean(axis=0)
        if not np.isfinite(fewest):
            raise TestRefused("femoral_neck_not_found", "no neck leaves the fitted head.")
        again = middle / np.linalg.norm(middle)
        settled = float(again @ axis) > 1 - 1e-6
        axis = again
        if settled:
            break
    return np.asarray(axis)
