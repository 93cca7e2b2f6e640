"""The surface of one vertebral body, between two discs: a side wall and two endplates, located between voxels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.segmentation.model import BodyFrame
from pipeline.segmentation.sampling import IndexBox, index_box, sample_lps
from pipeline.segmentation.spine.corner import (
    LOOK_BEYOND_MM,
    continued_walls,
    is_corner,
    may_be_pedicle,
    outward_cost,
    trust_in_edge,
)
from pipeline.segmentation.spine.cortex import blur_sd_mm, outer_face_mm
from pipeline.segmentation.spine.discs import Disc
from pipeline.segmentation.spine.tube import Outlines, Tube
from pipeline.segmentation.surface import aggregate
from pipeline.volume import Grid

ANGLES = 72
_MARGIN_PER_VOXEL, _GREATEST_MARGIN_MM = 0.2, 0.6
HEIGHTS = 25
_STEP_MM = 0.5
_WALL_REACH_MM = 7.0
_PLATE_REACH_MM = 6.0
_PLATE_GRID_MM = 1.5
_MARGIN_MM = 4.0
_INSIDE_MM = 1.0
_OUTSIDE_MM = 1.5
_DISC_SLACK_MM = 1.0
_WALL_P1, _PLATE_P1, _PLATE_P2 = 0.08, 0.1, 8.0
_WALL_OFFSET_COST, _PLATE_OFFSET_COST = 0.006, 0.008
_DARK_COST = 0.15
_DROP_SCALE_HU = 300.0
_AIR_LEVEL_HU = -50.0
_CORNER_COST, _CORNER_SLACK_MM = 0.03, 0.5
_CORNER_REACH = 1.15
"""The corner of a body lies farther from its axis than any other place of the wall."""


@dataclass(frozen=True)
class BodyModel:
    """A vertebral body as continuous surfaces in its own frame.

    Attributes
    ----------
    frame : BodyFrame
    wall_mm : float ndarray of shape (A, H)
        Distance of the side wall from the axis of the frame, at A equal angles from `left` towards `posterior` and H equal
        steps from the lower to the upper endplate.
    left_mm, posterior_mm : float ndarray of shape (U,), (V,)
        Lattice of the height fields.
    lower_mm, upper_mm : float ndarray of shape (U, V)
        Height of the endplates, defined on the whole lattice.
    wall_edge_hu, lower_edge_hu, upper_edge_hu : float
        Mean drop of relative HU across the surfaces.
    far_from_template : float
        Share of the wall more than 6 mm from the averaged outline.
    unseen : float
        Share of the surface that lies outside the scanned volume or within 2 mm of its edge.
    """

    frame: BodyFrame
    wall_mm: NDArray[np.float64]
    left_mm: NDArray[np.float64]
    posterior_mm: NDArray[np.float64]
    lower_mm: NDArray[np.float64]
    upper_mm: NDArray[np.float64]
    wall_edge_hu: float
    lower_edge_hu: float
    upper_edge_hu: float
    far_from_template: float
    unseen: float

    @property
    def width_mm(self) -> float:
        """Left-right extent at mid height."""
        middle = self.wall_mm[:, HEIGHTS // 2]
        return float(np.ptp(middle * np.cos(_ANGLE)))

    @property
    def waist_mm(self) -> float:
        """Twice the median radius towards the sides at mid height: a rib head widens the body but not this."""
        sideways = np.abs(np.cos(_ANGLE)) > np.cos(np.radians(18.0))
        return float(2.0 * np.median(self.wall_mm[sideways, HEIGHTS // 2 - 2 : HEIGHTS // 2 + 3]))

    @property
    def depth_mm(self) -> float:
        """Front-back extent at mid height, on a band of 8 mm about the middle."""
        middle = self.wall_mm[:, HEIGHTS // 2]
        posterior, left = middle * np.sin(_ANGLE), middle * np.cos(_ANGLE)
        central = np.abs(left) < 8.0
        return float(np.ptp(posterior[central]))

    @property
    def height_mm(self) -> float:
        """Mean distance of the endplates over the inner part of the outline."""
        inner = self.outline(0.5, shrink=0.8)
        return float((self.upper_mm - self.lower_mm)[inner].mean())

    @property
    def volume_mm3(self) -> float:
        """Area of the outline at mid height times the mean height over it."""
        area_mm2 = float((self.wall_mm[:, HEIGHTS // 2] ** 2).sum() * np.pi / ANGLES)
        return area_mm2 * float((self.upper_mm - self.lower_mm)[self.outline(0.5)].mean())

    def outline(self, height: float, *, shrink: float = 1.0) -> NDArray[np.bool_]:
        """Which lattice points (U, V) lie inside the wall at a relative height (0 lower, 1 upper endplate)."""
        u, v = np.meshgrid(self.left_mm, self.posterior_mm, indexing="ij")
        place = min(max(height * HEIGHTS - 0.5, 0.0), HEIGHTS - 1.0)
        ring = np.array([np.interp(place, np.arange(HEIGHTS), column) for column in self.wall_mm])
        wall = np.interp(np.arctan2(v, u), _ANGLE, ring, period=2 * np.pi)
        return np.asarray(np.hypot(u, v) <= shrink * wall)


_ANGLE: NDArray[np.float64] = np.arange(ANGLES, dtype=np.float64) * (2 * np.pi / ANGLES)


def fit_body(
    hu: NDArray[np.float32],
    grid: Grid,
    tube: Tube,
    outlines: Outlines,
    below: Disc,
    above: Disc,
    *,
    source_spacing_mm: tuple[float, float, float],
) -> BodyModel:
    """Fit the surfaces of the body between two discs.

    Parameters
    ----------
    hu : float32 ndarray of shape (Z, Y, X)
        Relative HU on a fine isotropic `grid` about the spine.
    tube, outlines
        The straightened spine and the averaged outline that the side wall starts from.
    below, above : Disc
    source_spacing_mm : tuple of float
        Voxel edges (z, y, x) of the CT, whose blur the position of the surfaces is corrected for.
    """
    frame, template = _frame_and_template(tube, outlines, below, above)
    reach = _CORNER_REACH * float(template.max()) + _WALL_REACH_MM
    lattice = np.arange(-np.ceil(reach / _PLATE_GRID_MM), np.ceil(reach / _PLATE_GRID_MM) + 1) * _PLATE_GRID_MM
    u, v = np.meshgrid(lattice, lattice, indexing="ij")
    lower = _plane_heights(frame, below, u, v, below.half_thickness_mm)
    upper = _plane_heights(frame, above, u, v, -above.half_thickness_mm)
    # Planes that lean towards each other must not cross outside the body.
    middle = 0.5 * (lower + upper)
    lower, upper = np.minimum(lower, middle - 2.0), np.maximum(upper, middle + 2.0)
    start_wall = wall = np.repeat(template[:, None], HEIGHTS, axis=1)
    wall_edge, far, wall_unseen = 0.0, 0.0, 0.0
    edges = [0.0, 0.0]
    start = (lower, upper)
    for closed in (False, True):
        if closed:
            start_wall = np.where(may_be_pedicle(_ANGLE)[:, None], continued_walls(wall, _ANGLE), start_wall)
        wall, wall_edge, far, wall_unseen = _fit_wall(hu, grid, frame, start_wall, lattice, lower, upper, closed=closed)
        lower, edges[0], lower_unseen = _fit_plate(
            hu, grid, frame, wall[:, :6].mean(axis=1), u, v, start[0], -1.0, below.half_thickness_mm
        )
        upper, edges[1], upper_unseen = _fit_plate(
            hu, grid, frame, wall[:, -6:].mean(axis=1), u, v, start[1], 1.0, above.half_thickness_mm
        )
    wall, lower, upper = _to_outer_face(hu, grid, frame, wall, u, v, lower, upper, below, above, source_spacing_mm)
    return BodyModel(
        frame, wall, lattice, lattice, lower, upper, wall_edge, edges[0], edges[1], far,
        max(wall_unseen, lower_unseen, upper_unseen),
    )  # fmt: skip


def _to_outer_face(
    hu: NDArray[np.float32],
    grid: Grid,
    frame: BodyFrame,
    wall: NDArray[np.float64],
    u: NDArray[np.float64],
    v: NDArray[np.float64],
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    below: Disc,
    above: Disc,
    source_spacing_mm: tuple[float, float, float],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Move each surface as a whole from its steepest edge to the outer face of the cortex."""
    inner = np.hypot(u, v) <= 0.8 * np.interp(np.arctan2(v, u), _ANGLE, wall.mean(axis=1), period=2 * np.pi)
    grid_mm = grid.spacing_mm[0]
    moved = []
    for surface, direction, disc in ((lower, -1.0, below), (upper, 1.0, above)):
        reach = min(3.0, disc.half_thickness_mm + 0.5)
        distance = np.arange(-4.0, reach + 0.01, 0.5)
        points = frame.to_lps(u[inner][:, None], v[inner][:, None], surface[inner][:, None] + direction * distance)
        shift = _face_shift(hu, grid, points, distance, blur_sd_mm(source_spacing_mm[0], grid_mm))
        moved.append(surface + direction * shift)
    distance = np.arange(-4.0, 2.51, 0.5)
    free = ~is_corner(_ANGLE)
    rows = slice(HEIGHTS // 4, HEIGHTS - HEIGHTS // 4)
    radius = wall[free, rows, None] + distance
    at_u, at_v = radius * np.cos(_ANGLE[free])[:, None, None], radius * np.sin(_ANGLE[free])[:, None, None]
    lattice = u[:, 0]
    low, high = _at_lattice(lower, lattice, at_u, at_v), _at_lattice(upper, lattice, at_u, at_v)
    part = ((np.arange(HEIGHTS) + 0.5) / HEIGHTS)[rows][None, :, None]
    points = frame.to_lps(at_u, at_v, low + part * (high - low)).reshape(-1, len(distance), 3)
    in_plane_mm = 0.5 * (source_spacing_mm[1] + source_spacing_mm[2])
    shift = _face_shift(hu, grid, points, distance, blur_sd_mm(in_plane_mm, grid_mm))
    return np.maximum(wall + shift, 2.0), moved[0], moved[1]


def _face_shift(
    hu: NDArray[np.float32], grid: Grid, points: NDArray[np.float64], distance: NDArray[np.float64], blur_mm: float
) -> float:
    """Offset of the outer face from a surface, by the mean of the profiles (N, W) at points (N, W, 3) across it."""
    values = sample_lps(hu, grid, points, fill=np.nan)
    whole = np.isfinite(values).all(axis=1)
    if whole.sum() < 20:
        return 0.0
    return outer_face_mm(distance, np.median(_without_air(values[whole]), axis=0).astype(float), blur_mm)


def _frame_and_template(
    tube: Tube, outlines: Outlines, below: Disc, above: Disc
) -> tuple[BodyFrame, NDArray[np.float64]]:
    """Frame about the centroid of the averaged outline half way between two discs, and that outline's radii in it."""
    superior = below.normal_lps + above.normal_lps
    superior /= np.linalg.norm(superior)
    middle = 0.5 * (below.s_mm + above.s_mm)
    place = np.arange(len(tube.centre_lps_mm), dtype=float)
    canal = np.array([np.interp(middle, place, tube.centre_lps_mm[:, c]) for c in range(3)])
    centre = 0.5 * (below.centre_lps_mm + above.centre_lps_mm)
    outline_centre, radius = outlines.at(middle)
    angle = np.arange(len(radius)) * (2 * np.pi / len(radius))
    points = tube.to_lps(
        np.full(len(radius), middle),
        outline_centre[0] + radius * np.sin(angle),
        outline_centre[1] + radius * np.cos(angle),
    )
    for _ in range(2):
        posterior = canal - centre
        posterior -= (posterior @ superior) * superior
        posterior /= np.linalg.norm(posterior)
        left = np.cross(posterior, superior)
        frame = BodyFrame(centre, left, posterior, superior)
        local = frame.to_frame(points)
        low, high = local[:, :2].min(axis=0), local[:, :2].max(axis=0)
        centre = frame.to_lps(0.5 * (low[0] + high[0]), 0.5 * (low[1] + high[1]), np.array(0.0))
    local = BodyFrame(centre, left, posterior, superior).to_frame(points)
    around = np.arctan2(local[:, 1], local[:, 0]) % (2 * np.pi)
    order = np.argsort(around)
    template = np.interp(_ANGLE, around[order], np.hypot(local[:, 0], local[:, 1])[order], period=2 * np.pi)
    return BodyFrame(centre, left, posterior, superior), template


def _plane_heights(frame: BodyFrame, disc: Disc, u: NDArray, v: NDArray, offset_mm: float) -> NDArray[np.float64]:
    """Height above lattice points (u, v) of the plane parallel to a disc, `offset_mm` along its normal."""
    point = disc.centre_lps_mm + offset_mm * disc.normal_lps - frame.centre_lps_mm
    normal = disc.normal_lps
    lean = u * (frame.left @ normal) + v * (frame.posterior @ normal)
    return np.asarray((point @ normal - lean) / max(float(frame.superior @ normal), 0.3))


def _at_lattice(field: NDArray, lattice: NDArray, u: NDArray, v: NDArray) -> NDArray[np.float64]:
    step = lattice[1] - lattice[0]
    index = [(u - lattice[0]) / step, (v - lattice[0]) / step]
    return np.asarray(ndimage.map_coordinates(field, index, order=1, mode="nearest"))


def _fit_wall(
    hu: NDArray[np.float32],
    grid: Grid,
    frame: BodyFrame,
    start: NDArray[np.float64],
    lattice: NDArray[np.float64],
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    *,
    closed: bool,
) -> tuple[NDArray[np.float64], float, float, float]:
    """Side wall (A, H), its mean edge, the share far from `start` (A, H) and the share that is not in view.

    `closed` says that the corners of `start` are where its walls meet when they are continued; otherwise they are those of
    the averaged outline.
    """
    offset = np.arange(-_WALL_REACH_MM, _WALL_REACH_MM + 0.01, _STEP_MM)
    extra = int(max(_INSIDE_MM, _OUTSIDE_MM) / _STEP_MM)
    beyond = int(LOOK_BEYOND_MM / _STEP_MM)
    wide = offset[0] + _STEP_MM * np.arange(-extra, len(offset) + extra + beyond)
    radius = np.maximum(start[:, :, None] + wide, 0.5)
    u = radius * np.cos(_ANGLE)[:, None, None]
    v = radius * np.sin(_ANGLE)[:, None, None]
    part = (np.arange(HEIGHTS) + 0.5) / HEIGHTS
    # The height of a point of the wall is shared out between the endplates at the start, not at the candidate:
    # the candidates of a column then lie on a straight line across the wall.
    at_u, at_v = start * np.cos(_ANGLE)[:, None], start * np.sin(_ANGLE)[:, None]
    low, high = _at_lattice(lower, lattice, at_u, at_v), _at_lattice(upper, lattice, at_u, at_v)
    w = (low + part * (high - low))[:, :, None]
    values = sample_lps(hu, grid, frame.to_lps(u, v, w), fill=np.nan)
    unseen = ~np.isfinite(values[:, :, extra : extra + len(offset)]).all(axis=2)
    values = _without_air(values)
    inner = values[:, :, extra - int(_INSIDE_MM / _STEP_MM) :][:, :, : len(offset)]
    outer = values[:, :, extra + int(_OUTSIDE_MM / _STEP_MM) :][:, :, : len(offset)]
    here = values[:, :, extra:][:, :, : len(offset)]
    drop = _soft_drop(inner - outer)
    dark = np.cumsum(np.maximum(40.0 - here, 0.0), axis=2) * (_STEP_MM / 100.0)
    if closed:
        # The marrow of a pedicle is darker than the cortex before it, but no edge of the body.
        doubtful = may_be_pedicle(_ANGLE)
        outside = values[doubtful, :, extra + int(_OUTSIDE_MM / _STEP_MM) :]
        trust = trust_in_edge(outside, _ANGLE[doubtful], wide[extra:][: outside.shape[2]])
        drop[doubtful] *= trust[:, :, : len(offset)]
    cost = (-drop + _DARK_COST * dark + _WALL_OFFSET_COST * offset**2).astype(np.float32)
    # Towards the pedicles and rib heads bone goes on: the wall may not follow it.
    if closed:
        past = np.maximum(offset - _CORNER_SLACK_MM, 0.0)
        cost += outward_cost(_ANGLE)[:, None, None].astype(np.float32) * past**2
    else:
        cost[is_corner(_ANGLE)] += np.where(offset > 0, _CORNER_COST * offset**2, 0.0)
    found = aggregate(cost, p1=_WALL_P1, p2=2.0, circular=(True, False))
    edge = np.take_along_axis(inner - outer, np.rint(found).astype(int)[:, :, None], axis=2)
    shift = offset[0] + _STEP_MM * found
    wall = np.maximum(start + shift, 3.0)
    far = float((np.abs(shift) > 6.0).mean())
    return wall, _mean_edge(edge), far, float(unseen.mean())


def _without_air(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """HU with air and fat raised to one level: the edge of the lung beside a body is stronger than that of its bone."""
    return np.where(values > _AIR_LEVEL_HU, values, np.float32(_AIR_LEVEL_HU))


def _mean_edge(drop_hu: NDArray) -> float:
    """Mean fall of HU across a surface, each place bounded so that a calcification cannot make up for a missing wall."""
    return float(np.clip(drop_hu, -60.0, 220.0).mean()) if drop_hu.size else 0.0


def _soft_drop(drop_hu: NDArray) -> NDArray:
    """Edge strength in units of 100 HU; levels off for strong edges without losing their maximum, and bounded for rises."""
    fall = _DROP_SCALE_HU * (1.0 - np.exp(-np.maximum(drop_hu, 0.0) / _DROP_SCALE_HU))
    return np.asarray((fall + np.clip(drop_hu, -60.0, 0.0)) / 100.0)


def _fit_plate(
    hu: NDArray[np.float32],
    grid: Grid,
    frame: BodyFrame,
    wall: NDArray[np.float64],
    u: NDArray[np.float64],
    v: NDArray[np.float64],
    start: NDArray[np.float64],
    direction: float,
    half_disc_mm: float,
) -> tuple[NDArray[np.float64], float, float]:
    """Height field (U, V) of one endplate, its mean edge and the share not in view; `direction` is +1 for the upper one."""
    offset = np.arange(-_PLATE_REACH_MM, _PLATE_REACH_MM + 0.01, _STEP_MM)
    extra = int(max(_INSIDE_MM, _OUTSIDE_MM) / _STEP_MM)
    wide = np.arange(offset[0] - extra * _STEP_MM, offset[-1] + extra * _STEP_MM + 0.01, _STEP_MM)
    points = frame.to_lps(u[:, :, None], v[:, :, None], start[:, :, None] + direction * wide)
    values = sample_lps(hu, grid, points, fill=np.nan)
    inside = np.hypot(u, v) <= np.interp(np.arctan2(v, u), _ANGLE, wall, period=2 * np.pi)
    unseen = ~np.isfinite(values).all(axis=2)
    values = _without_air(values)
    inner = values[:, :, extra - int(_INSIDE_MM / _STEP_MM) : len(wide) - extra - int(_INSIDE_MM / _STEP_MM)]
    outer = values[:, :, extra + int(_OUTSIDE_MM / _STEP_MM) :][:, :, : len(offset)]
    drop = _soft_drop(inner - outer)
    weight = np.where(inside & ~unseen, 1.0, 0.02)[:, :, None]
    cost = (weight * (-drop + _PLATE_OFFSET_COST * offset**2)).astype(np.float32)
    # Beyond the middle of the disc lies the endplate of the neighbour, which looks as good from the wrong side.
    cost[:, :, offset > half_disc_mm + _DISC_SLACK_MM] = np.inf
    found = aggregate(cost, p1=_PLATE_P1, p2=_PLATE_P2)
    edge = np.take_along_axis(inner - outer, np.rint(found).astype(int)[:, :, None], axis=2)[:, :, 0]
    height = start + direction * (offset[0] + _STEP_MM * found)
    count = max(int(inside.sum()), 1)
    return height, _mean_edge(edge[inside]), float((unseen & inside).sum() / count)


def rasterise(model: BodyModel, grid: Grid, *, margin_mm: float | None = None) -> tuple[IndexBox, NDArray[np.bool_]]:
    """The part of `grid` that a body can reach, and which of its voxel centres lie inside the surfaces.

    The surfaces are at the outer face of the cortex. `margin_mm` is added on all sides (by default a fifth of a voxel's edge,
    at most 0.6 mm), because a mask should hold the bone that blur has spread across the face, and because readers and
    networks draw the edge where it is seen.
    """
    if margin_mm is None:
        margin_mm = min(_MARGIN_PER_VOXEL * grid.voxel_volume_mm3 ** (1 / 3), _GREATEST_MARGIN_MM)
    reach = float(model.wall_mm.max()) + 1.0
    low, high = float(model.lower_mm.min()) - 1.0, float(model.upper_mm.max()) + 1.0
    corners = np.stack(np.meshgrid([-reach, reach], [-reach, reach], [low, high], indexing="ij"), axis=-1).reshape(
        -1, 3
    )
    box = index_box(grid, model.frame.to_lps(corners[:, 0], corners[:, 1], corners[:, 2]))
    axes = np.stack([model.frame.left, model.frame.posterior, model.frame.superior])
    to_frame = axes @ grid.index_to_lps[:3, :3]
    start = np.array([s.start for s in box], dtype=float)
    origin = model.frame.to_frame(grid.to_lps(start))
    mask = np.zeros(tuple(s.stop - s.start for s in box), dtype=np.bool_)
    _fill(
        mask, to_frame, origin, model.wall_mm + margin_mm, model.lower_mm - margin_mm, model.upper_mm + margin_mm,
        float(model.left_mm[0]), float(model.left_mm[1] - model.left_mm[0]),
    )  # fmt: skip
    return box, mask


@njit(cache=True, nogil=True)
def _fill(mask, to_frame, origin, wall, lower, upper, lattice_start, lattice_step):  # type: ignore[no-untyped-def]
    angles, heights = wall.shape
    last = lower.shape[0] - 1
    for k in range(mask.shape[0]):
        for j in range(mask.shape[1]):
            for i in range(mask.shape[2]):
                u = origin[0] + to_frame[0, 0] * k + to_frame[0, 1] * j + to_frame[0, 2] * i
                v = origin[1] + to_frame[1, 0] * k + to_frame[1, 1] * j + to_frame[1, 2] * i
                w = origin[2] + to_frame[2, 0] * k + to_frame[2, 1] * j + to_frame[2, 2] * i
                a, b = (u - lattice_start) / lattice_step, (v - lattice_start) / lattice_step
                if a < 0 or b < 0 or a > last or b > last:
                    continue
                a0, b0 = min(int(a), last - 1), min(int(b), last - 1)
                fa, fb = a - a0, b - b0
                low = (lower[a0, b0] * (1 - fa) + lower[a0 + 1, b0] * fa) * (1 - fb)
                low += (lower[a0, b0 + 1] * (1 - fa) + lower[a0 + 1, b0 + 1] * fa) * fb
                if w < low:
                    continue
                high = (upper[a0, b0] * (1 - fa) + upper[a0 + 1, b0] * fa) * (1 - fb)
                high += (upper[a0, b0 + 1] * (1 - fa) + upper[a0 + 1, b0 + 1] * fa) * fb
                if w > high:
                    continue
                angle = np.arctan2(v, u) * angles / (2 * np.pi)
                if angle < 0:
                    angle += angles
                p0 = int(angle) % angles
                p1, fp = (p0 + 1) % angles, angle - int(angle)
                h = min(max((w - low) / max(high - low, 1e-6) * heights - 0.5, 0.0), heights - 1.0)
                h0 = min(int(h), heights - 2)
                fh = h - h0
                edge = (wall[p0, h0] * (1 - fp) + wall[p1, h0] * fp) * (1 - fh)
                edge += (wall[p0, h0 + 1] * (1 - fp) + wall[p1, h0 + 1] * fp) * fh
                if u * u + v * v <= edge * edge:
                    mask[k, j, i] = True
