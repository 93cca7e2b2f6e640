"""From a femoral head to the solid proximal femur: head surface, neck direction, joint cut, whole bone.

The hip joint is the only contact of femur and pelvis. So the head's own surface, with an empty shell kept around it except
where the neck leaves, separates the two; no search for the joint space in the rest of the pelvis is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.segmentation import surface
from pipeline.segmentation.femur import contact
from pipeline.segmentation.femur.geometry import directions
from pipeline.segmentation.femur.head import Field, Head, joint_direction, lateral_lps, usual_neck_direction
from pipeline.segmentation.sampling import IndexBox, cropped_grid, index_box, interpolate
from pipeline.volume import Grid

SHELL_MM = 16.0
"""Depth of the shell around the head that belongs to the pelvis, except towards the neck."""
NECK_CONE_DEG = 58.0
REACH_MM = 175.0
"""No part of the proximal femur is farther from the head centre than that."""

_POLAR, _AZIMUTH = 49, 96
_OFFSETS_MM = np.arange(-5.0, 4.01, 0.25)


@dataclass(frozen=True)
class HeadSurface:
    """Distance of the surface from the head centre as a function of direction.

    Attributes
    ----------
    centre_lps_mm : float ndarray of shape (3,)
    radius_mm : float ndarray of shape (P, A)
        At polar angles from 0 to 180 degrees about LPS z, and azimuths from 0 to 360 degrees.
    joint_dip_hu : float
        Median depth of the dark line between head and socket, where there is a socket; NaN where there is none.
    """

    centre_lps_mm: NDArray[np.float64]
    radius_mm: NDArray[np.float64]
    joint_dip_hu: float

    def at(self, direction_lps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Radius (...) in unit directions (..., 3)."""
        polar = np.arccos(np.clip(direction_lps[..., 2], -1, 1)) / np.pi * (_POLAR - 1)
        azimuth = np.mod(np.arctan2(direction_lps[..., 1], direction_lps[..., 0]), 2 * np.pi) / (2 * np.pi) * _AZIMUTH
        wrapped = np.concatenate([self.radius_mm, self.radius_mm[:, :1]], axis=1)
        return np.asarray(ndimage.map_coordinates(wrapped, [polar, azimuth], order=1, mode="nearest"))


@dataclass(frozen=True)
class Outline:
    """A femur on the working grid.

    Attributes
    ----------
    mask : bool ndarray of shape (Z, Y, X)
        Solid.
    grid : Grid
    neck_direction_lps : float ndarray of shape (3,)
        Where bone leaves the head; a first guess of the neck axis.
    head_surface : HeadSurface
    open_share : float
        Share of the mask that only became solid by filling single slices, where the cortex does not close the bone.
    threshold_hu : float
        Above it a voxel counted as bone.
    field : float32 ndarray of shape (Z, Y, X)
        Positive inside, with the surface at half the height of the cortex; see `surface_field`.
    """

    mask: NDArray[np.bool_]
    grid: Grid
    neck_direction_lps: NDArray[np.float64]
    head_surface: HeadSurface
    open_share: float
    threshold_hu: float
    field: NDArray[np.float32]


def box_about(grid: Grid, head: Head) -> IndexBox:
    """The part of a volume that can hold the proximal femur of this head, straight or flexed."""
    lateral = lateral_lps(head.side)
    corners = [
        head.centre_lps_mm + along * lateral + np.array([0.0, back, up])
        for along in (-42.0, 105.0)
        for back in (-150.0, 85.0)
        for up in (40.0, -REACH_MM)
    ]
    return index_box(grid, np.array(corners))


def outline_femur(field: Field, head: Head) -> Outline:
    """Solid mask of the femur that belongs to a head.

    Parameters
    ----------
    field : Field
        HU on a grid of 1 to 1.5 mm that covers `box_about` the head.
    head : Head

    Returns
    -------
    Outline
        Uncropped: as far as the field shows it, at most 175 mm from the head centre.
    """
    threshold = 60.0 + 90.0 * field.bone_scale
    bone = field.hu > threshold
    up = np.array([0.0, 0.0, 1.0])
    distance = np.sqrt(_along(field.grid, head.centre_lps_mm, None))
    near = distance < head.radius_mm + SHELL_MM + 4.0
    neck = neck_direction(field.grid, bone | (distance < head.radius_mm), head)
    shell = head_surface(field, head, neck, threshold)
    place = np.nonzero(near)
    offset = field.grid.to_lps(np.stack(place, axis=-1).astype(float)) - head.centre_lps_mm
    direction = offset / np.maximum(distance[place], 1e-6)[:, None]
    inside = np.zeros(bone.shape, dtype=bool)
    inside[place] = distance[place] < shell.at(direction)
    cone = np.zeros(bone.shape, dtype=bool)
    cone[place] = direction @ neck > np.cos(np.radians(NECK_CONE_DEG))
    joint = near & ~inside & ~cone & (distance < head.radius_mm + SHELL_MM)
    joint |= (_along(field.grid, head.centre_lps_mm, up) > head.radius_mm + 3.0) | (distance > REACH_MM)
    # In the cone the head ends where the neck takes over: no ball is added there.
    seed = inside & ~(cone & (distance > 0.8 * head.radius_mm))
    joint |= _pelvis_beyond(field.grid, bone & ~(inside & ~cone), seed, head, neck)
    part = _component((bone | seed) & ~joint, field.grid, head.centre_lps_mm)
    box = tuple(slice(max(a - 5, 0), b + 6) for a, b in _extent(part))
    part, joint = np.ascontiguousarray(part[box]), joint[box]
    closed = _morphology(part, 3.5, field.grid, sitk.BinaryMorphologicalClosing) & ~joint
    solid = ndimage.binary_fill_holes(closed)
    # Where the field of view cuts the bone, its marrow lies open: a lid over the lowest plane closes it from below.
    lid = _lid(closed[0], field.grid.spacing_mm[0])
    # Twice: what one orientation closes may be the wall that another one lacked.
    filled = _filled_by_slices(_filled_by_slices(np.concatenate([lid[None], solid])))[1:]
    filled[0] |= lid & ~joint[0]
    filled &= ~joint
    opened = _morphology(filled, 1.5, field.grid, sitk.BinaryMorphologicalOpening)
    crop = Grid(opened.shape, _shifted(field.grid, box))
    mask = _component(opened, crop, head.centre_lps_mm)
    level = surface_field(mask, np.ascontiguousarray(field.hu[box]), crop, threshold)
    mask = _component(level > 0, crop, head.centre_lps_mm)
    lost = float((mask & ~solid).sum()) / max(int(mask.sum()), 1)
    return Outline(
        mask, crop, neck, shell, lost, threshold, np.where(mask | (level <= 0), level, -1.0).astype(np.float32)
    )


def _pelvis_beyond(
    grid: Grid, bone: NDArray[np.bool_], head_mask: NDArray[np.bool_], head: Head, neck_lps: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Bone of the pelvis about a hip, by its connection to the socket; see `contact.pelvic_bone`."""
    reach_mm = head.radius_mm + contact.REACH_MM
    corners = head.centre_lps_mm + reach_mm * np.array([[-1.0, -1, -1], [1, 1, 1]])
    box = index_box(grid, corners)
    part = cropped_grid(grid, box)
    distance = np.sqrt(_along(part, head.centre_lps_mm, None))
    along = _along(part, head.centre_lps_mm, neck_lps)
    away = np.sqrt(np.maximum(distance**2 - along**2, 0.0))
    # The core of head and neck, and of the pelvis the wall of the socket, well away from where the neck leaves.
    tube = (along > 0) & (along < head.radius_mm + 14.0) & (away < 0.35 * head.radius_mm)
    apart = along < distance * np.cos(np.radians(NECK_CONE_DEG + 8.0))
    wall = (distance > head.radius_mm + 4.0) & (distance < head.radius_mm + SHELL_MM) & apart
    out = np.zeros(grid.shape, dtype=bool)
    joint = (
        (distance > head.radius_mm) & (distance < head.radius_mm + 8.0) & (along < distance * np.cos(np.radians(40)))
    )
    out[box] = contact.pelvic_bone(bone[box], head_mask[box] | tube, wall, joint, grid.spacing_mm[0])
    return out


def head_surface(field: Field, head: Head, neck_lps: NDArray[np.float64], threshold_hu: float) -> HeadSurface:
    """The sphere let loose by 4 to 5 mm, to where bone ends in each direction but that of the neck."""
    polar = np.linspace(0, np.pi, _POLAR)[:, None]
    azimuth = np.arange(_AZIMUTH)[None, :] * (2 * np.pi / _AZIMUTH)
    rays = np.stack(
        [np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar) * np.ones_like(azimuth)],
        axis=-1,
    )
    radii = head.radius_mm + np.arange(-8.0, 12.01, 0.25)
    profile = field.along_rays(head.centre_lps_mm, rays.reshape(-1, 3), radii).reshape(_POLAR, _AZIMUTH, -1)
    known = profile > -800
    profile = np.where(known, profile, 0.0)
    zero = 32  # index of offset 0 in `radii`
    at = zero + np.rint(_OFFSETS_MM / 0.25).astype(int)
    drop = profile[..., at - 4] - profile[..., at + 4]
    # Towards the roof of the socket a drop without bone behind it is the far side of the pelvis, seen where slices are
    # too thick to show the joint space: there the sphere decides.
    later = np.max([profile[..., np.minimum(at + s, profile.shape[2] - 1)] for s in range(6, 33, 2)], axis=0)
    roofwards = (rays @ joint_direction(head.side) > 0.3)[..., None]
    drop = np.where(roofwards & (later < 200 * field.bone_scale), 0.0, drop)
    cost = -np.clip(drop, -50, 250 * field.bone_scale) / (100 * field.bone_scale) + 0.04 * _OFFSETS_MM**2
    cost[~known[..., at].all(axis=-1)] = 0.04 * _OFFSETS_MM**2
    neck = rays @ neck_lps > np.cos(np.radians(38))
    cost[neck] = 0.04 * _OFFSETS_MM**2
    found = surface.aggregate(cost.astype(np.float32), p1=0.3, p2=2.0, circular=(False, True))
    offset = np.interp(found, np.arange(len(_OFFSETS_MM)), _OFFSETS_MM)

    # Depth of the joint space: between the head's rim and the socket beyond it.
    rows, columns = np.indices(found.shape)
    start = zero + np.rint(offset / 0.25).astype(int)
    rim = np.max([profile[rows, columns, start - s] for s in range(9)], axis=0)
    gap = np.min([profile[rows, columns, start + s] for s in range(17)], axis=0)
    socket = np.max([profile[rows, columns, np.minimum(start + s, profile.shape[2] - 1)] for s in range(8, 32)], axis=0)
    roof = (rays[..., 2] > 0.2) & (socket > 200 * field.bone_scale) & known.all(axis=-1) & ~neck
    dip = float(np.median((np.minimum(rim, socket) - gap)[roof])) if roof.sum() > 50 else float("nan")

    # Below, where the head runs into the neck, bone may end more than 5 mm inside the sphere: it is followed there, but
    # not where the rim is so thin that no bone is seen near it at all.
    within = np.arange(profile.shape[2])[None, None, :] <= start[..., None]
    last_bone = np.where((profile > threshold_hu) & within, radii[None, None, :], 0.0).max(axis=2)
    short = (last_bone > radii[0]) & (last_bone < head.radius_mm + offset) & known.all(axis=-1)
    radius = np.where(short, last_bone + 0.25, head.radius_mm + offset)
    # No head has a knob: where the surface stands out over less than 11 mm it has run over the rim of the socket.
    radius = np.minimum(radius, np.maximum(_without_knobs(radius), head.radius_mm + 0.5))
    return HeadSurface(head.centre_lps_mm, _median_on_sphere(radius), dip)


def _lid(plane: NDArray[np.bool_], edge_mm: float) -> NDArray[np.bool_]:
    """One plane (Y, X) of cut bone made solid, across gaps of up to 16 mm in its cortex."""
    if not plane.any():
        return plane
    reach = max(1, round(8.0 / edge_mm))
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    padded = np.pad(plane, reach + 1)
    closed = ndimage.binary_closing(padded, x**2 + y**2 <= reach**2)[reach + 1 : -reach - 1, reach + 1 : -reach - 1]
    return np.asarray(ndimage.binary_fill_holes(closed))


def _filled_by_slices(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """With the holes of every axial, coronal and sagittal plane filled."""
    out = mask.copy()
    for axis in range(3):
        planes = np.moveaxis(out, axis, 0)
        for plane in planes:
            if plane.any():
                plane[...] = ndimage.binary_fill_holes(plane)
    return out


def _median_on_sphere(radius: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median over 3 x 3 directions; azimuth closes on itself."""
    wrapped = np.concatenate([radius[:, -1:], radius, radius[:, :1]], axis=1)
    return np.asarray(ndimage.median_filter(wrapped, size=3, mode="nearest")[:, 1:-1])


def _without_knobs(radius: NDArray[np.float64]) -> NDArray[np.float64]:
    """Opening over 7 x 7 directions, 26 degrees; azimuth closes on itself."""
    wrapped = np.concatenate([radius[:, -6:], radius, radius[:, :6]], axis=1)
    return np.asarray(ndimage.grey_opening(wrapped, size=(7, 7), mode="nearest")[:, 6:-6])


def neck_direction(grid: Grid, bone: NDArray[np.bool_], head: Head) -> NDArray[np.float64]:
    """The direction from the head centre in which bone goes on most solidly, near the usual one."""
    usual = head.neck_lps if head.neck_lps is not None else usual_neck_direction(head.side)
    # A neck is a tube: closing it makes the ray along its marrow as good as one along its cortex.
    step = max(1, round(2.5 / grid.spacing_mm[0]))
    coarse = ndimage.binary_closing(np.pad(bone[::step, ::step, ::step], 3), iterations=3)[3:-3, 3:-3, 3:-3]
    for k in range(len(coarse)):
        coarse[k] = ndimage.binary_fill_holes(coarse[k])
    solid = ndimage.gaussian_filter(coarse.astype(np.float32), 4.0 / (step * grid.spacing_mm[0]))
    rays = directions(1500)
    rays = rays[rays @ usual > np.cos(np.radians(50))]
    radii = head.radius_mm + np.arange(2.0, 28.0, 1.0)
    points = head.centre_lps_mm + rays[:, None, :] * radii[None, :, None]
    values = interpolate(solid, grid.to_index(points) / step, fill=0.0)
    score = values.mean(axis=1) + 0.25 * (rays @ usual - 1)
    best = np.clip(score - np.percentile(score, 92), 0, None)
    mean = (rays * best[:, None]).sum(axis=0)
    length = float(np.linalg.norm(mean))
    return np.asarray(mean / length) if length > 0 else usual


def surface_field(
    mask: NDArray[np.bool_], hu: NDArray[np.float32], grid: Grid, threshold_hu: float
) -> NDArray[np.float32]:
    """A field that is positive inside the bone and changes sign where the cortex is at half its height.

    A fixed threshold puts the surface of a dense shaft farther out than that of a thin head, by as much as the blur of the
    scanner. Half-way between soft tissue and the densest bone just beneath does not.

    Parameters
    ----------
    mask : bool ndarray of shape (Z, Y, X)
        Solid bone by a fixed threshold.
    hu : float32 ndarray of shape (Z, Y, X)
    grid : Grid
    threshold_hu : float
        The fixed threshold; the surface is nowhere farther out than it.

    Returns
    -------
    float32 ndarray of shape (Z, Y, X)
        In [-1, 1]; linear in HU across the surface.
    """
    edge_mm = grid.spacing_mm[0]
    depth = ndimage.distance_transform_edt(np.pad(mask, 1, mode="edge"))[1:-1, 1:-1, 1:-1] * edge_mm
    size = 2 * round(2.0 / edge_mm) + 1
    soft = 40.0
    peak = ndimage.maximum_filter(np.where(mask, hu, soft), size=size)
    level = np.maximum(threshold_hu, 0.5 * (peak + soft))
    # What is darker than the level counts as outside only as far as it can be reached from outside through the outer
    # 2.5 mm, and only with bone close behind it: marrow behind a cortex, and a gap in a thin one, stay inside.
    bone_mm = ndimage.distance_transform_edt(~(mask & (hu >= level))) * edge_mm
    dark = mask & (hu < level) & (depth < 2.5) & (bone_mm < 2.0)
    labels, _ = ndimage.label(dark | ~mask)
    outside = np.unique(labels[~mask])
    reached = dark & np.isin(labels, outside)
    field = np.clip((hu - level) / np.maximum(level - soft, 1.0), -1, 1)
    rim = ndimage.binary_dilation(reached, iterations=1) & mask & (depth < 3.0)
    return np.where(mask, np.where(rim, np.where(reached, np.minimum(field, -0.02), np.abs(field)), 1.0), -1.0).astype(
        np.float32
    )


def on_grid(field: NDArray[np.float32], field_grid: Grid, grid: Grid) -> tuple[NDArray[np.bool_], IndexBox]:
    """Where a field is positive on (a part of) another grid."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in field_grid.shape], indexing="ij")).reshape(3, -1).T
    box = index_box(grid, field_grid.to_lps(corners.astype(float)), margin_mm=1.0)
    shape = tuple(s.stop - s.start for s in box)
    out = np.empty(shape, dtype=bool)
    starts = np.array([s.start for s in box], dtype=float)
    for k in range(shape[0]):
        index = _index_grid((1, shape[1], shape[2])) + starts + np.array([k, 0.0, 0.0])
        out[k] = interpolate(field, field_grid.to_index(grid.to_lps(index)), fill=-1.0)[0] > 0
    return out, box


def _along(
    grid: Grid, origin_lps_mm: NDArray[np.float64], direction: NDArray[np.float64] | None
) -> NDArray[np.float32]:
    """For every voxel its position along a direction from a point (mm), or its squared distance if no direction is given.

    The axes of a grid are orthogonal, so both are sums of one term per axis.
    """
    start = grid.to_index(origin_lps_mm)
    terms = []
    for axis in range(3):
        offset = (np.arange(grid.shape[axis]) - start[axis]) * grid.spacing_mm[axis]
        term = offset**2 if direction is None else offset * float(grid.axes_lps[axis] @ direction)
        terms.append(term.astype(np.float32))
    return np.asarray(terms[0][:, None, None] + terms[1][None, :, None] + terms[2][None, None, :])


def _index_grid(shape: tuple[int, ...]) -> NDArray[np.float64]:
    return np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij"), axis=-1)


def _extent(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    out = []
    for axis in range(3):
        line = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        out.append((int(line[0]), int(line[-1])))
    return out


def _shifted(grid: Grid, box: tuple[slice, ...]) -> NDArray[np.float64]:
    matrix = grid.index_to_lps.copy()
    matrix[:3, 3] = grid.to_lps(np.array([float(s.start) for s in box]))
    return matrix


def _component(mask: NDArray[np.bool_], grid: Grid, point_lps_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The connected part of a mask that holds a point (or, if the point is not in it, the largest part)."""
    labels, _ = ndimage.label(mask)
    place = tuple(np.clip(np.rint(grid.to_index(point_lps_mm)).astype(int), 0, np.array(mask.shape) - 1))
    chosen = labels[place]
    if chosen == 0:
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        chosen = int(sizes.argmax())
    return np.asarray(labels == chosen) if chosen else np.zeros_like(mask)


def _morphology(mask: NDArray[np.bool_], radius_mm: float, grid: Grid, operation) -> NDArray[np.bool_]:  # type: ignore[no-untyped-def]
    radius = max(1, round(radius_mm / grid.spacing_mm[0]))
    image = sitk.GetImageFromArray(mask.view(np.uint8))
    return np.asarray(sitk.GetArrayFromImage(operation(image, [radius] * 3, sitk.sitkBall)), dtype=bool)
