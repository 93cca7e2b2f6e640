"""Tells the body of a vertebra from its arch by the one thing between them: the spinal canal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pipeline.segmentation.model import BodyFrame
from pipeline.segmentation.sampling import resample_array
from pipeline.volume import Grid

_PIXEL_MM = 1.0
_COARSE_MM = 1.5
_LEAST_CANAL_RADIUS_MM = 2.5
"""The canal has a radius of 7 mm and more; coarse masks narrow it."""
_GREATEST_CANAL_RADIUS_MM = 20.0
_BEHIND_FRONT_EDGE_MM = 1.0
_MIDLINE_BAND_MM = 3.0
_FRONT_SHARE = 0.6
_ROUNDED_RIM_MM = 4.0
_SAGITTAL_TILTS_DEG = (-32.0, -24.0, -16.0, -8.0, 0.0, 8.0, 16.0, 24.0, 32.0)
_REFINING_TILTS_DEG = (6.0, 3.0)


@dataclass(frozen=True)
class CanalHole:
    """The spinal canal where it passes one vertebra.

    Attributes
    ----------
    centre_lps_mm : float ndarray of shape (3,)
        Centre of the largest circle that fits, at mid height of the vertebra.
    radius_mm : float
        Of that circle.
    direction_lps : float ndarray of shape (3,)
        Unit vector along the canal, to the head.
    posterior_lps : float ndarray of shape (3,)
        Unit vector at right angles to it, to the back.
    """

    centre_lps_mm: NDArray[np.float64]
    radius_mm: float
    direction_lps: NDArray[np.float64]
    posterior_lps: NDArray[np.float64]


def _unit(vector: NDArray) -> NDArray[np.float64]:
    return np.asarray(vector / np.linalg.norm(vector), np.float64)


def find_canal_hole(mask: NDArray[np.bool_], grid: Grid, *, upwards_lps: NDArray | None = None) -> CanalHole | None:
    """The canal through the mask of a whole vertebra.

    Looking along the canal, body, pedicles and laminae close to a ring around it; looked at from any other direction the ring
    narrows. So the direction is the one that shows the widest hole.

    Parameters
    ----------
    mask : bool ndarray of shape (Z, Y, X)
        Whole vertebra, in canonical order.
    grid : Grid
    upwards_lps : float ndarray of shape (3,), optional
        Roughly along the spine; default is the patient's axis.

    Returns
    -------
    CanalHole or None
        None if no view shows a hole of at least 2.5 mm radius: then the mask is a body alone, or part of a vertebra.
    """
    points = _dense_points(mask, grid)
    if len(points) < 50:
        return None
    middle = 0.5 * (points.min(axis=0) + points.max(axis=0))
    up = _unit(np.array([0.0, 0.0, 1.0]) if upwards_lps is None else np.asarray(upwards_lps, float))
    back = _unit(np.array([0.0, 1.0, 0.0]) - up * up[1])
    offsets = points - middle
    radius, place, tilt = 0.0, np.zeros(2), (0.0, 0.0)
    trials = [(sagittal, 0.0) for sagittal in _SAGITTAL_TILTS_DEG]
    for step in (*_REFINING_TILTS_DEG, None):
        for trial in trials:
            found = _hole(offsets, _tilted(up, back, *trial))
            if found is not None and found[0] > radius:
                radius, place, tilt = found[0], found[1], trial
        if step is not None:
            around = ((step, 0.0), (-step, 0.0), (0.0, step), (0.0, -step))
            trials = [(tilt[0] + sagittal, tilt[1] + coronal) for sagittal, coronal in around]
    if not _LEAST_CANAL_RADIUS_MM <= radius <= _GREATEST_CANAL_RADIUS_MM:
        return None
    turn = _tilted(up, back, *tilt)
    centre = middle + turn[0] * place[0] + turn[1] * place[1]
    heights = (points - centre) @ turn[2]
    centre = centre + turn[2] * 0.5 * float(np.percentile(heights, 2) + np.percentile(heights, 98))
    return CanalHole(centre, radius, turn[2], turn[1])


def _dense_points(mask: NDArray[np.bool_], grid: Grid) -> NDArray[np.float64]:
    """Points inside the mask, close enough for their shadow on pixels of 1 mm to have no chance holes."""
    padded = np.pad(mask, 1)
    matrix = grid.index_to_lps.copy()
    matrix[:3, 3] -= matrix[:3, :3].sum(axis=1)
    whole = Grid((padded.shape[0], padded.shape[1], padded.shape[2]), matrix)
    share, coarse = resample_array(padded.astype(np.float32), whole, _COARSE_MM)
    index = np.argwhere(share > 0.5).astype(float)
    offsets = 0.25 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    return coarse.to_lps((index[:, None] + offsets).reshape(-1, 3))


def _tilted(up: NDArray, back: NDArray, sagittal_deg: float, coronal_deg: float) -> NDArray[np.float64]:
    """Rows: left, posterior and superior after leaning the frame forwards and sideways."""
    left = np.cross(back, up)
    turn = Rotation.from_rotvec(np.radians(sagittal_deg) * left) * Rotation.from_rotvec(np.radians(coronal_deg) * back)
    return np.stack([turn.apply(left), turn.apply(back), turn.apply(up)])


def _shadow(offsets: NDArray, turn: NDArray) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Shadow of points along the third axis of a frame on pixels (left, posterior), and the place of its first pixel."""
    flat = offsets @ turn[:2].T
    low = np.floor(flat.min(axis=0)) - 2.0
    place = np.rint((flat - low) / _PIXEL_MM).astype(int)
    image = np.zeros(place.max(axis=0) + 3, bool)
    image[place[:, 0], place[:, 1]] = True
    return image, low


def _hole(offsets: NDArray, turn: NDArray) -> tuple[float, NDArray[np.float64]] | None:
    """Radius and place (left, posterior) of the largest circle in a closed hole of the shadow."""
    image, low = _shadow(offsets, turn)
    holes = ndimage.binary_fill_holes(image) & ~image
    if not holes.any():
        return None
    depth = ndimage.distance_transform_edt(holes) * _PIXEL_MM
    centre = np.array(np.unravel_index(int(depth.argmax()), depth.shape), float)
    return float(depth.max()) - 0.5 * _PIXEL_MM, low + centre * _PIXEL_MM


def body_without_arch(mask: NDArray[np.bool_], grid: Grid, hole: CanalHole) -> NDArray[np.bool_]:
    """The part of a whole vertebra in front of its canal.

    The cut is a plane 1 mm behind the posterior wall of the body, which is fitted to where the front of the canal stands at
    each height; what stands out sideways behind the front part of the body (transverse processes) goes as well. Only the
    largest connected part is kept.

    Parameters
    ----------
    mask : bool ndarray of shape (Z, Y, X)
    grid : Grid
    hole : CanalHole
    """
    index = np.argwhere(mask)
    offsets = grid.to_lps(index.astype(float)) - hole.centre_lps_mm
    voxel_mm = float(max(grid.spacing_mm))
    upwards, posterior = hole.direction_lps, hole.posterior_lps
    kept = np.zeros(len(index), bool)
    for _ in range(3):
        behind = _behind_front_wall_mm(offsets, np.stack([np.cross(posterior, upwards), posterior, upwards]), voxel_mm)
        kept = behind < _BEHIND_FRONT_EDGE_MM
        if not kept.any():
            return np.zeros(mask.shape, bool)
        # A rotated vertebra: its own front-back line runs from the middle of the body to the canal.
        towards = -offsets[kept].mean(axis=0)
        towards = towards - upwards * (towards @ upwards)
        if np.linalg.norm(towards) < 3.0:
            break
        posterior = _unit(towards)
    kept[kept] = ~_transverse(offsets[kept], posterior, upwards, voxel_mm)
    body = np.zeros(mask.shape, bool)
    body[tuple(index[kept].T)] = True
    return largest_component(body)


def _behind_front_wall_mm(
    offsets: NDArray[np.float64], turn: NDArray[np.float64], voxel_mm: float
) -> NDArray[np.float64]:
    """Distance (N,) of points behind the front wall of the canal, a plane that may lean forwards or back.

    `turn` holds left, posterior and superior as rows; the canal's centre is the origin of `offsets`.
    """
    u, v, w = (offsets @ turn.T).T
    before = (np.abs(u) < max(_MIDLINE_BAND_MM, 0.75 * voxel_mm)) & (v < 0)
    if not before.any():
        return np.asarray(v + _LEAST_CANAL_RADIUS_MM)
    layer = np.rint(w[before] / max(voxel_mm, 1.0)).astype(int)
    layer -= layer.min()
    wall = np.full(layer.max() + 1, -np.inf)
    np.maximum.at(wall, layer, v[before])
    height = np.full(layer.max() + 1, 0.0)
    np.add.at(height, layer, w[before])
    counts = np.bincount(layer)
    used = (counts > 0) & (wall > np.median(wall[counts > 0]) - _ROUNDED_RIM_MM)
    height, wall = height[used] / counts[used], wall[used]
    if len(wall) < 3:
        return np.asarray(v - wall.max())
    slope = float(np.polyfit(height, wall, 1)[0])
    # The wall is hollow at mid height; its rims are what the cut has to clear.
    front = float(np.percentile(wall - slope * height, 95))
    return np.asarray(v - front - slope * w)


def _transverse(
    offsets: NDArray[np.float64], posterior: NDArray[np.float64], upwards: NDArray[np.float64], voxel_mm: float
) -> NDArray[np.bool_]:
    """Which points in front of the cut are transverse process: those that stand out beyond the sides of the front part."""
    left = np.cross(posterior, upwards)
    u, v = offsets @ left, offsets @ posterior
    front, back = np.percentile(v, 1), v.max()
    front_part = v < front + _FRONT_SHARE * (back - front)
    low, high = np.percentile(u[front_part], [0.5, 99.5])
    margin = 0.75 * voxel_mm
    return np.asarray((u < low - margin) | (u > high + margin))


def largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest part of a mask whose voxels touch by their faces."""
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(parts == int(sizes.argmax()))


def frame_of_body(
    mask: NDArray[np.bool_], grid: Grid, *, upwards_lps: NDArray, posterior_lps: NDArray
) -> tuple[BodyFrame, float, float, float]:
    """Frame of a body from its endplates, and its width, depth and height.

    Parameters
    ----------
    mask : bool ndarray of shape (Z, Y, X)
        The body alone.
    grid : Grid
    upwards_lps, posterior_lps : float ndarray of shape (3,)
        Rough directions to the head and to the canal.

    Returns
    -------
    frame : BodyFrame
        `superior` is the mean normal of planes fitted to the inner parts of both endplates.
    width_mm, depth_mm, height_mm : float
        Left-right and front-back extent at mid height, and mean distance of the endplates.
    """
    points = grid.to_lps(np.argwhere(mask).astype(float))
    edges = np.array(grid.spacing_mm)
    pitch = max(1.5, float(np.max(edges)))
    superior = _unit(np.asarray(upwards_lps, float))
    centre = 0.5 * (points.min(axis=0) + points.max(axis=0))
    height = 0.0
    for _ in range(4):
        posterior = _unit(posterior_lps - superior * float(posterior_lps @ superior))
        left = np.cross(posterior, superior)
        local = (points - centre) @ np.stack([left, posterior, superior], axis=-1)
        extents = 0.5 * (local.min(axis=0) + local.max(axis=0))
        cell = np.rint((local[:, :2] - local[:, :2].min(axis=0)) / pitch).astype(int)
        shape = cell.max(axis=0) + 1
        upper, lower = np.full(shape, -np.inf), np.full(shape, np.inf)
        np.maximum.at(upper, (cell[:, 0], cell[:, 1]), local[:, 2])
        np.minimum.at(lower, (cell[:, 0], cell[:, 1]), local[:, 2])
        covered = np.isfinite(upper)
        depth = ndimage.distance_transform_edt(np.pad(covered, 1))[1:-1, 1:-1]
        core = depth > 0.4 * depth.max()
        at = np.argwhere(core) * pitch + local[:, :2].min(axis=0)
        design = np.column_stack([np.ones(len(at)), at])
        middle_of = []
        normals = []
        for face in (upper, lower):
            plane = np.linalg.lstsq(design, face[core], rcond=None)[0]
            normals.append(_unit(superior - plane[1] * left - plane[2] * posterior))
            middle_of.append(plane[0] + plane[1] * extents[0] + plane[2] * extents[1])
        height = float(middle_of[0] - middle_of[1]) + float(np.abs(grid.axes_lps @ superior) @ edges)
        centre = centre + left * extents[0] + posterior * extents[1] + superior * 0.5 * float(sum(middle_of))
        turned = _unit(normals[0] + normals[1])
        if len(at) < 6:
            break
        superior = turned
    posterior = _unit(posterior_lps - superior * float(posterior_lps @ superior))
    left = np.cross(posterior, superior)
    local = (points - centre) @ np.stack([left, posterior, superior], axis=-1)
    slab = np.abs(local[:, 2]) < max(2.0, 0.75 * float(edges.max()))
    part = local[slab] if slab.sum() > 10 else local
    width = _width(part, pitch) + float(np.abs(grid.axes_lps @ left) @ edges)
    central = part[np.abs(part[:, 0]) < max(8.0, float(edges.max()))]
    depth_mm = float(np.ptp(central[:, 1])) + float(np.abs(grid.axes_lps @ posterior) @ edges)
    return BodyFrame(centre, left, posterior, superior), width, depth_mm, height


def _width(points: NDArray[np.float64], pitch_mm: float) -> float:
    """Left-right extent of points (N, 2+) at mid height where they are deep; a stump of a transverse process is not."""
    column = np.rint((points[:, 0] - points[:, 0].min()) / pitch_mm).astype(int)
    front, back = np.full(column.max() + 1, np.inf), np.full(column.max() + 1, -np.inf)
    np.minimum.at(front, column, points[:, 1])
    np.maximum.at(back, column, points[:, 1])
    depth = np.where(np.isfinite(front), back - front, 0.0)
    deep = (depth >= 0.3 * depth.max())[column]
    return float(np.ptp(points[deep, 0]))
