"""Bodies, spines and femora with closed-form volume, density and height, painted into a CT-like grid for tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from scipy import ndimage

from pipeline.density import Calibration
from pipeline.segmentation.model import (
    LABEL_OF,
    BodyFrame,
    Femur,
    FemurLandmarks,
    Segmentation,
    Vertebra,
)
from pipeline.volume import Acquisition, Grid, Volume


def exact_calibration(slope: float = 0.75, intercept: float = 0.0, mineral: str = "K2HPO4") -> Calibration:
    """A calibration without error, so that only the measurement is tested."""
    return Calibration(slope, intercept, mineral, np.zeros((2, 2)), 0.0, "given", "given", 120.0, "given by the test")


def rotation(axis: int, angle_deg: float) -> np.ndarray:
    """Rotation matrix about one LPS axis (0 = x)."""
    a = np.radians(angle_deg)
    c, s = np.cos(a), np.sin(a)
    matrix = np.eye(3)
    i, j = [k for k in range(3) if k != axis]
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def grid_of(size_mm: tuple[float, float, float], spacing_mm: tuple[float, float, float]) -> Grid:
    """A grid centred on the LPS origin; sizes and spacing along z, y, x."""
    shape = tuple(round(s / d) for s, d in zip(size_mm, spacing_mm, strict=True))
    matrix = np.zeros((4, 4))
    matrix[2, 0], matrix[1, 1], matrix[0, 2], matrix[3, 3] = *spacing_mm, 1.0
    for row, axis in ((2, 0), (1, 1), (0, 2)):
        matrix[row, 3] = -spacing_mm[axis] * (shape[axis] - 1) / 2
    return Grid(shape, matrix)


def share_inside(grid: Grid, inside: Callable[[np.ndarray], np.ndarray], oversampling: int = 4) -> np.ndarray:
    """Share of each voxel that lies inside a solid given by a predicate on LPS points (..., 3)."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1).astype(float)
    centre = inside(grid.to_lps(index))
    everywhere = np.ones((3, 3, 3), bool)
    edge = ndimage.binary_dilation(centre, everywhere) & ~ndimage.binary_erosion(centre, everywhere)
    steps = (np.arange(oversampling) + 0.5) / oversampling - 0.5
    offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    share = centre.astype(float)
    share[edge] = np.mean([inside(grid.to_lps(index[edge] + offset)) for offset in offsets], axis=0)
    return share


def vertebral_solid(
    frame: BodyFrame,
    anterior_mm: float,
    middle_mm: float,
    posterior_mm: float,
    width_mm: float = 44.0,
    depth_mm: float = 34.0,
) -> Callable[[np.ndarray], np.ndarray]:
    """A block whose height runs from front over middle to back as a parabola through three values, symmetric up and down."""
    bend = (anterior_mm + posterior_mm) / 2 - middle_mm
    tilt = (posterior_mm - anterior_mm) / 2

    def inside(points: np.ndarray) -> np.ndarray:
        u, v, w = np.moveaxis(frame.to_frame(points), -1, 0)
        place = v / (depth_mm / 2)
        height = middle_mm + tilt * place + bend * place**2
        return (np.abs(u) <= width_mm / 2) & (np.abs(v) <= depth_mm / 2) & (np.abs(w) <= height / 2)

    return inside


def frame_at(centre: np.ndarray, turn: np.ndarray | None = None) -> BodyFrame:
    """A body frame at an LPS point, upright or turned by a rotation matrix."""
    turn = np.eye(3) if turn is None else turn
    return BodyFrame(np.asarray(centre, float), turn @ [1.0, 0, 0], turn @ [0, 1.0, 0], turn @ [0, 0, 1.0])


Heights = tuple[float, float, float]


def spine(heights: dict[str, Heights], **options: object) -> tuple[Volume, Segmentation]:
    """Blocks with known heights from cranial to caudal, 34 mm apart; `heights` holds anterior, middle and posterior by level.

    `options` are those of `_spine`.
    """
    return _spine(tuple(heights.items()), **options)


@cache
def _spine(
    items: tuple[tuple[str, Heights], ...],
    *,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    trabecular_hu: float = 130.0,
    cortex_hu: float = 130.0,
    noise_hu: float = 0.0,
    turned: tuple[int, float] = (0, 0.0),
    levels_known: bool = True,
) -> tuple[Volume, Segmentation]:
    heights = dict(items)
    turn = rotation(*turned)
    names = list(heights)
    size = (34.0 * len(names) + 24, 64.0, 76.0)
    grid = grid_of(size, spacing_mm)
    hu = np.full(grid.shape, 40.0, np.float32)
    labels = np.zeros(grid.shape, np.uint8)
    bodies = []
    for i, level in enumerate(names):
        frame = frame_at((0.0, 0.0, 34.0 * ((len(names) - 1) / 2 - i)), turn)
        # Only the slices around the body are sampled.
        middle = grid.to_index(frame.centre_lps_mm)[0]
        reach = 24.0 / spacing_mm[0]
        near = slice(max(0, int(middle - reach)), min(grid.shape[0], int(middle + reach) + 1))
        matrix = grid.index_to_lps.copy()
        matrix[:3, 3] = grid.to_lps(np.array([near.start, 0, 0]))
        window = Grid((near.stop - near.start, *grid.shape[1:]), matrix)
        share = np.zeros(grid.shape)
        share[near] = share_inside(window, vertebral_solid(frame, *heights[level]), oversampling=3)
        mask = share >= 0.5
        name = f"vertebra_{level}" if levels_known else f"vertebra_u{i + 1}"
        label = LABEL_OF[name]
        labels[mask] = label
        shell = mask & ~ndimage.binary_erosion(mask)
        hu = np.where(share > 0, share * trabecular_hu + (1 - share) * hu, hu)
        hu[shell] = cortex_hu
        bodies.append(Vertebra(name, level if levels_known else None, label, frame, None, 44.0, 34.0, 1.0))
    hu = hu + noise_hu * np.random.default_rng(1).standard_normal(hu.shape)
    volume = Volume(hu.astype(np.float32), grid, Acquisition(kvp=120.0))
    return volume, Segmentation(labels, grid, tuple(bodies), method="analytic")


@cache
def trunk(
    *,
    fat_hu: float = -100.0,
    muscle_hu: float = 45.0,
    blood_hu: float = 42.0,
    noise_hu: float = 15.0,
    padding_hu: float | None = None,
    kvp: float | None = 120.0,
    contrast_agent: str | None = None,
    spacing_mm: tuple[float, float, float] = (3.0, 1.5, 1.5),
) -> tuple[Volume, Segmentation]:
    """An elliptical trunk with a fat layer, muscle behind the spine, abdominal fat in front, an aorta and three bodies."""
    grid = grid_of((120.0, 240.0, 330.0), spacing_mm)
    # Soft tissue is the same in all slices.
    plane = np.stack(np.meshgrid([0], *(np.arange(n) for n in grid.shape[1:]), indexing="ij"), axis=-1).astype(float)[0]
    points = grid.to_lps(plane)
    x, y, _ = np.moveaxis(points, -1, 0)
    hu = np.full(grid.shape[1:], -1000.0)
    hu[(x / 145) ** 2 + (y / 100) ** 2 <= 1] = fat_hu
    hu[((x / 125) ** 2 + (y / 80) ** 2 <= 1) & (y > 15)] = muscle_hu
    aorta = (x - 16) ** 2 + (y + 22) ** 2 <= 10**2
    hu[aorta] = blood_hu
    hu = np.repeat(hu[None], grid.shape[0], axis=0)
    heights = grid.to_lps(np.arange(grid.shape[0])[:, None] * np.array([1.0, 0.0, 0.0]))
    labels = np.zeros(grid.shape, np.uint8)
    bodies = []
    for i, level in enumerate(("L1", "L2", "L3")):
        frame = frame_at((0.0, 18.0, 36.0 - 36.0 * i))
        u, v, _ = np.moveaxis(frame.to_frame(points), -1, 0)
        w = frame.to_frame(heights)[:, 2]
        body = ((u / 22) ** 2 + (v / 17) ** 2 <= 1) & (np.abs(w) <= 14)[:, None, None]
        hu[body] = 150.0
        label = LABEL_OF[f"vertebra_{level}"]
        labels[body] = label
        bodies.append(Vertebra(f"vertebra_{level}", level, label, frame, None, 44.0, 34.0, 1.0))
    hu = ndimage.gaussian_filter(hu, [0.7 / s for s in spacing_mm])
    hu = hu + noise_hu * np.random.default_rng(2).standard_normal(hu.shape)
    if padding_hu is not None:
        hu[:, (x / 160) ** 2 + (y / 118) ** 2 > 1] = padding_hu
    volume = Volume(hu.astype(np.int16), grid, Acquisition(kvp=kvp, contrast_agent=contrast_agent))
    return volume, Segmentation(labels, grid, tuple(bodies), method="analytic")


NECK_LENGTH_MM = 42.0


@cache
def femur(
    *,
    density_hu: float = 400.0,
    tissue_hu: float = 40.0,
    spacing_mm: tuple[float, float, float] = (1.5, 1.2, 1.2),
    turned: tuple[int, float] = (0, 0.0),
    blur_mm: float = 0.6,
    noise_hu: float = 0.0,
    side: str = "left",
    shaft_mm: float = 85.0,
) -> tuple[Volume, Segmentation, float]:
    """A femur of one density: spherical head, conical neck, egg-shaped trochanter, cylindrical shaft.

    `turned` is an LPS axis and an angle in degrees by which the patient lies askew. Returns volume,
    segmentation and the true volume of the bone in mm3 (by fine sampling of the solid).
    """
    turn = rotation(*turned)
    mirror = 1.0 if side == "left" else -1.0
    # In the bone's own frame: x lateral, y back, z up; the neck rises at 50 degrees to the shaft, 15 degrees forwards.
    neck = np.array([-np.sin(np.radians(50)), -np.tan(np.radians(15)) * np.sin(np.radians(50)), np.cos(np.radians(50))])
    neck /= np.linalg.norm(neck)
    root = np.array([4.0, 0.0, 5.0])
    head = root + NECK_LENGTH_MM * neck
    tip = np.array([16.0, 4.0, 12.0])

    def to_bone(points: np.ndarray) -> np.ndarray:
        own = points @ turn
        return own * np.array([mirror, 1.0, 1.0])

    def to_lps(points: np.ndarray) -> np.ndarray:
        return (np.asarray(points, float) * np.array([mirror, 1.0, 1.0])) @ turn.T

    def inside(points: np.ndarray) -> np.ndarray:
        p = to_bone(points)
        ball = ((p - head) ** 2).sum(-1) <= 23.0**2
        along = (p - root) @ neck
        away = np.linalg.norm(p - root - along[..., None] * neck, axis=-1)
        cone = (along >= -12) & (along <= NECK_LENGTH_MM) & (away <= 14.5 + 0.09 * np.abs(along - 22))
        egg = (((p - tip) / np.array([15.0, 15.0, 24.0])) ** 2).sum(-1) <= 1
        shaft = (p[..., 0] - 8) ** 2 + p[..., 1] ** 2 <= 14.0**2
        shaft &= (p[..., 2] <= 10) & (p[..., 2] >= -shaft_mm)
        return ball | cone | egg | shaft

    grid = grid_of((160.0, 84.0, 130.0), spacing_mm)
    offset = turn @ np.array([mirror * -6.0, 0.0, -20.0])
    share = share_inside(grid, lambda points: inside(points + offset), oversampling=3)
    hu = tissue_hu + (density_hu - tissue_hu) * share
    hu = ndimage.gaussian_filter(hu, [blur_mm / s for s in spacing_mm])
    hu = hu + noise_hu * np.random.default_rng(3).standard_normal(hu.shape)
    mask = share >= 0.5
    name = f"femur_{side}"
    edge = np.array([8.0, 0.0, -50.0])
    marks = FemurLandmarks(
        head_centre_lps_mm=to_lps(head) - offset,
        head_radius_mm=23.0,
        neck_centre_lps_mm=to_lps(root + 22.0 * neck) - offset,
        neck_axis_lps=to_lps(-neck),
        shaft_axis_lps=to_lps(np.array([0.0, 0.0, -1.0])),
        shaft_point_lps_mm=to_lps(np.array([8.0, 0.0, -40.0])) - offset,
        lesser_trochanter_lps_mm=to_lps(np.array([-6.0, 8.0, -40.0])) - offset,
        greater_trochanter_lps_mm=to_lps(np.array([31.0, 4.0, 12.0])) - offset,
        lesser_trochanter_lower_edge_lps_mm=to_lps(edge) - offset,
        shaft_below_lesser_trochanter_mm=shaft_mm - 50.0,
    )
    bone = Femur(name, side, LABEL_OF[name], marks, 1.0)
    labels = np.where(mask, LABEL_OF[name], 0).astype(np.uint8)
    volume = Volume(hu.astype(np.float32), grid, Acquisition(kvp=120.0))
    true_mm3 = float(share.sum() * grid.voxel_volume_mm3)
    return volume, Segmentation(labels, grid, femora=(bone,), method="analytic"), true_mm3
