"""A vertebral body in its own frame: endplates as height fields, and the voxels with their place between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.errors import NotMeasurable
from pipeline.segmentation.model import BodyFrame, BodySurface, Segmentation, Vertebra
from pipeline.volume import Grid, Volume

_PITCH_MM = 1.0
_FINE_MM = 0.5
_FRAME_TURNS = 4
_SEARCH_MM = 80.0


@dataclass(frozen=True)
class BodyVoxels:
    """The voxels of one body, with where each lies.

    Attributes
    ----------
    index : int ndarray of shape (N, 3)
        Into the volume, as (k, j, i).
    hu : float ndarray of shape (N,)
    left_mm, posterior_mm, superior_mm : float ndarray of shape (N,)
        Coordinates in the body's frame.
    depth_mm : float ndarray of shape (N,)
        Distance to the nearest place outside the body.
    to_endplate_mm : float ndarray of shape (N,)
        Distance to the nearer endplate along the superior axis.
    anterior_mm, body_depth_mm, body_width_mm : float
        Front edge of the mid-height section in the frame, its extent to the back, and its extent from side to side.
    middle_mm : float
        Height halfway between the endplates at the centre, in the frame.
    """

    index: NDArray[np.intp]
    hu: NDArray[np.float64]
    left_mm: NDArray[np.float64]
    posterior_mm: NDArray[np.float64]
    superior_mm: NDArray[np.float64]
    depth_mm: NDArray[np.float64]
    to_endplate_mm: NDArray[np.float64]
    anterior_mm: float
    body_depth_mm: float
    body_width_mm: float
    middle_mm: float


def mask_window(
    segmentation: Segmentation,
    label: int,
    name: str,
    *,
    margin: int = 2,
    centre_lps_mm: NDArray[np.float64] | None = None,
) -> tuple[slice, slice, slice]:
    """The smallest box of the grid that holds a label with `margin` voxels around it.

    With a centre only 80 mm around it are searched, which on a whole-body scan is a hundred times faster.

    Raises
    ------
    NotMeasurable
        ``empty_mask`` if the label does not occur.
    """
    shape = np.array(segmentation.labels.shape)
    first, last = np.zeros(3, int), shape
    if centre_lps_mm is not None:
        centre = segmentation.grid.to_index(centre_lps_mm)
        reach = _SEARCH_MM / np.array(segmentation.grid.spacing_mm)
        first = np.clip(np.floor(centre - reach).astype(int), 0, shape)
        last = np.clip(np.ceil(centre + reach).astype(int) + 1, 0, shape)
    searched = segmentation.labels[tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))]
    present = searched == label
    if not present.any():
        raise NotMeasurable("empty_mask", "the segmentation holds no voxel of it.", subject=name)
    box = []
    for axis in range(3):
        found = np.flatnonzero(present.any(axis=tuple(other for other in range(3) if other != axis))) + first[axis]
        box.append(slice(max(0, int(found[0]) - margin), min(int(shape[axis]), int(found[-1]) + 1 + margin)))
    return box[0], box[1], box[2]


def body_surface(segmentation: Segmentation, vertebra: Vertebra) -> tuple[BodyFrame, BodySurface]:
    """The endplates of a body and the frame they are given in.

    What the segmentation located is returned as it is. From a mask alone, a face is where the linear interpolation of
    the mask along the superior axis passes one half; the frame is turned until its superior axis is the mean normal of
    the two faces, because in a tilted frame a vertical line near the rim leaves the body through its wall.

    Raises
    ------
    NotMeasurable
        ``empty_mask`` or ``too_small``.
    """
    if vertebra.surface is not None:
        return vertebra.frame, vertebra.surface
    window = mask_window(segmentation, vertebra.label, vertebra.name, centre_lps_mm=vertebra.frame.centre_lps_mm)
    mask = (segmentation.labels[window] == vertebra.label).astype(np.float32)
    origin = np.array([s.start for s in window], float)
    points = segmentation.grid.to_lps(np.argwhere(mask > 0) + origin)
    frame = vertebra.frame
    for _ in range(_FRAME_TURNS):
        surface = _mask_surface(mask, origin, points, segmentation.grid, frame)
        if np.isfinite(surface.upper_mm).sum() < 9:
            raise NotMeasurable(
                "too_small", "the mask is too small for its endplates to be found.", subject=vertebra.name
            )
        turned = _turned_to_faces(frame, surface)
        if float(turned.superior @ frame.superior) > np.cos(np.radians(1.0)):
            break
        frame = turned
    return frame, surface


def _mask_surface(
    mask: NDArray[np.float32], origin: NDArray[np.float64], points_lps_mm: NDArray, grid: Grid, frame: BodyFrame
) -> BodySurface:
    """Upper and lower face of a mask along the superior axis of a frame."""
    inside = frame.to_frame(points_lps_mm)
    low, high = inside.min(axis=0) - 2.0, inside.max(axis=0) + 2.0
    left = np.arange(low[0], high[0] + _PITCH_MM, _PITCH_MM)
    posterior = np.arange(low[1], high[1] + _PITCH_MM, _PITCH_MM)
    superior = np.arange(low[2] - 2, high[2] + 2, _FINE_MM)
    place = grid.to_index(frame.to_lps(left[:, None, None], posterior[None, :, None], superior[None, None, :])) - origin
    share = ndimage.map_coordinates(mask, np.moveaxis(place, -1, 0), order=1, mode="constant", cval=0.0)
    upper = _last_crossing(share, superior)
    lower = -_last_crossing(share[:, :, ::-1], -superior[::-1])
    return BodySurface(left, posterior, upper, lower)


def _turned_to_faces(frame: BodyFrame, surface: BodySurface) -> BodyFrame:
    """The frame with its superior axis along the mean normal of the central parts of both faces."""
    u, v = np.meshgrid(surface.left_mm, surface.posterior_mm, indexing="ij")
    both = np.isfinite(surface.upper_mm) & np.isfinite(surface.lower_mm)
    # The central part: deep in the outline, so that walls do not count as faces.
    depth = ndimage.distance_transform_edt(np.pad(both, 1))[1:-1, 1:-1]
    core = depth > 0.4 * depth.max()
    if core.sum() < 9:
        return frame
    design = np.stack([np.ones(int(core.sum())), u[core], v[core]], axis=1)
    slopes = [np.linalg.lstsq(design, field[core], rcond=None)[0][1:] for field in (surface.upper_mm, surface.lower_mm)]
    normals = [frame.superior - slope[0] * frame.left - slope[1] * frame.posterior for slope in slopes]
    superior = sum(normal / np.linalg.norm(normal) for normal in normals)
    superior = np.asarray(superior / np.linalg.norm(superior))
    posterior = frame.posterior - superior * float(frame.posterior @ superior)
    posterior /= np.linalg.norm(posterior)
    left = np.cross(posterior, superior)
    left *= np.sign(left @ frame.left)
    return BodyFrame(frame.centre_lps_mm, left, posterior, superior)


def _last_crossing(share: NDArray[np.float64], height: NDArray[np.float64]) -> NDArray[np.float64]:
    """Height at which each profile (last axis) falls through one half for the last time; NaN where it never reaches it."""
    inside = share >= 0.5
    last = inside.shape[2] - 1 - np.argmax(inside[:, :, ::-1], axis=2)
    last = np.clip(last, 0, len(height) - 2)
    here = np.take_along_axis(share, last[..., None], 2)[..., 0]
    after = np.take_along_axis(share, last[..., None] + 1, 2)[..., 0]
    fraction = np.clip((here - 0.5) / np.maximum(here - after, 1e-6), 0, 1)
    crossing = height[last] + fraction * (height[1] - height[0])
    return np.where(inside.any(axis=2), crossing, np.nan)


def body_voxels(volume: Volume, segmentation: Segmentation, vertebra: Vertebra) -> BodyVoxels:
    """The voxels of a body with their distances to its faces.

    Raises
    ------
    NotMeasurable
        ``empty_mask`` or ``too_small``.
    """
    frame, surface = body_surface(segmentation, vertebra)
    window = mask_window(segmentation, vertebra.label, vertebra.name, centre_lps_mm=vertebra.frame.centre_lps_mm)
    mask = np.pad(segmentation.labels[window] == vertebra.label, 1)
    spacing = volume.spacing_mm
    # The transform measures to the centre of the next voxel outside; the face lies half a voxel before it.
    depth = ndimage.distance_transform_edt(mask, sampling=spacing)[1:-1, 1:-1, 1:-1] - 0.5 * min(spacing)
    local = np.argwhere(mask[1:-1, 1:-1, 1:-1])
    index = local + np.array([s.start for s in window])
    u, v, w = np.moveaxis(frame.to_frame(volume.grid.to_lps(index.astype(float))), -1, 0)
    filled_upper, filled_lower = _filled(surface.upper_mm), _filled(surface.lower_mm)
    place = np.stack(
        [
            (u - surface.left_mm[0]) / (surface.left_mm[1] - surface.left_mm[0]),
            (v - surface.posterior_mm[0]) / (surface.posterior_mm[1] - surface.posterior_mm[0]),
        ]
    )
    upper = ndimage.map_coordinates(filled_upper, place, order=1, mode="nearest")
    lower = ndimage.map_coordinates(filled_lower, place, order=1, mode="nearest")
    centre = np.abs(u - np.median(u)) < 6
    middle = float(np.median((upper + lower)[centre] / 2)) if centre.any() else float(np.median(w))
    section = np.abs(w - middle) < max(3.0, 0.6 * spacing[0])
    midline = section & (np.abs(u - np.median(u)) < 4)
    if not midline.any():
        raise NotMeasurable("too_small", "no mid-height section of the body was found.", subject=vertebra.name)
    pixel = min(spacing[1], spacing[2])
    front, back = float(v[midline].min()) - pixel / 2, float(v[midline].max()) + pixel / 2
    return BodyVoxels(
        index=index,
        hu=volume.hu[index[:, 0], index[:, 1], index[:, 2]].astype(float),
        left_mm=u,
        posterior_mm=v,
        superior_mm=w,
        depth_mm=depth[local[:, 0], local[:, 1], local[:, 2]],
        to_endplate_mm=np.minimum(upper - w, w - lower),
        anterior_mm=front,
        body_depth_mm=back - front,
        body_width_mm=float(np.ptp(u[section])) + pixel,
        middle_mm=middle,
    )


def _filled(field: NDArray[np.float64]) -> NDArray[np.float64]:
    """The field with each NaN replaced by its nearest value."""
    missing = ~np.isfinite(field)
    nearest = ndimage.distance_transform_edt(missing, return_distances=False, return_indices=True)
    return np.asarray(field[tuple(nearest)])
