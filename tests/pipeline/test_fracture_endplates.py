"""Endplates read from the image: curved plates of known height between slices, and images that show no plate."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from pipeline.fracture.endplates import read_endplates
from pipeline.fracture.heights import measure_heights
from pipeline.segmentation.model import BodyFrame, BodySurface, Segmentation, Vertebra
from pipeline.volume import Grid, Volume

SLICE_MM, FINE_MM, PIXEL_MM = 2.5, 0.1, 1.0
DISC_HU, BONE_HU, PLATE_HU = 75.0, 160.0, 1400.0
HALF_WIDTH_MM, HALF_DEPTH_MM = 20.0, 16.0


def faces(u: np.ndarray, v: np.ndarray, sunk_mm: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Lower and upper face of three bodies along z, each 20 mm high and 5 mm apart; the middle one sunken by `sunk_mm`."""
    dish = np.maximum(1.0 - (u / 18.0) ** 2 - (v / 14.0) ** 2, 0.0) ** 2
    sunken = (0.0, sunk_mm, 0.0)
    return [
        (low + 0.05 * v + (0.5 + 0.3 * sink) * dish, low + 20.0 + 0.05 * v - (0.5 + 0.7 * sink) * dish)
        for low, sink in zip((0.0, 25.0, 50.0), sunken, strict=True)
    ]


def scan(sunk_mm: float, *, plate_hu: float = PLATE_HU, phase: float = 0.0, outline_off_mm: float = 0.0):
    """Slices of 2.5 mm of such a spine, with noise, and what a segmentation says that is off by a millimetre."""
    x, y = np.arange(-30.0, 30.1, PIXEL_MM), np.arange(-26.0, 26.1, PIXEL_MM)
    v, u = np.meshgrid(y, x, indexing="ij")
    inside = (u / HALF_WIDTH_MM) ** 2 + (v / HALF_DEPTH_MM) ** 2 <= 1.0
    start = -15.0 + phase
    z = start + FINE_MM * (np.arange(int(100 / SLICE_MM) * int(SLICE_MM / FINE_MM)) + 0.5)
    hu = np.full((len(z), *u.shape), DISC_HU, np.float32)
    for low, high in faces(u, v, sunk_mm):
        for k in np.flatnonzero((z > low.min() - 1) & (z < high.max() + 1)):
            bone = inside & (z[k] > low) & (z[k] < high)
            shell = bone & ((z[k] < low + 0.6) | (z[k] > high - 0.6))
            hu[k][bone] = BONE_HU
            hu[k][shell] += plate_hu
    hu = hu.reshape(-1, int(SLICE_MM / FINE_MM), *u.shape).mean(axis=1)
    hu = ndimage.gaussian_filter(hu, (0.0, 0.5, 0.5)) + np.random.default_rng(3).normal(0.0, 10.0, hu.shape)
    matrix = np.array(
        [[0, 0, PIXEL_MM, x[0]], [0, PIXEL_MM, 0, y[0]], [SLICE_MM, 0, 0, start + SLICE_MM / 2], [0, 0, 0, 1]]
    )
    grid = Grid(hu.shape, matrix)
    lattice = np.arange(-21.0, 21.1, 1.5)
    lu, lv = np.meshgrid(lattice, lattice, indexing="ij")
    outline = (lu / HALF_WIDTH_MM) ** 2 + (lv / HALF_DEPTH_MM) ** 2 <= 0.95
    # A smooth outline sinks by half of what the plate does, and lies off besides.
    said = faces(lu, lv, 0.5 * sunk_mm)
    bodies = []
    for n, (low, high) in enumerate(said):
        centre = 10.0 + 25.0 * n
        frame = BodyFrame(np.array([0.0, 0.0, centre]), *np.eye(3))
        shape = (np.where(outline, high - centre + outline_off_mm, np.nan), np.where(outline, low - centre, np.nan))
        surface = BodySurface(lattice, lattice, *shape)
        bodies.append(Vertebra(f"vertebra_L{3 - n}", f"L{3 - n}", 20 + n, frame, surface, 40.0, 32.0, 1.0))
    volume = Volume(np.rint(hu).astype(np.int16), grid)
    return volume, Segmentation(np.zeros(hu.shape, np.uint8), grid, tuple(bodies[::-1]))


@pytest.mark.parametrize("phase", [0.0, 1.2])
def test_a_sunken_plate_is_read_where_it_lies_although_the_outline_is_smoother(phase: float) -> None:
    volume, segmentation = scan(5.0, phase=phase, outline_off_mm=0.5)
    body = segmentation.vertebrae[1]
    true = 20.0 - (0.5 + 0.7 * 5.0) - (0.5 + 0.3 * 5.0)
    outline = measure_heights(segmentation, body).middle
    read = measure_heights(segmentation, body, read_endplates(volume, segmentation.vertebrae)).middle
    assert outline.heights_mm[1] - true > 2.0
    assert abs(read.heights_mm[1] - true) < 0.4
    assert abs(read.heights_mm[1] - true) < 1.96 * read.uncertainty_mm[1] < 1.96 * outline.uncertainty_mm[1]
    # The rim is not the middle: its points stay with the outline.
    np.testing.assert_array_equal(read.heights_mm[[0, 2]], outline.heights_mm[[0, 2]])


def test_without_a_visible_plate_the_outline_counts() -> None:
    volume, segmentation = scan(2.0, plate_hu=0.0)
    assert read_endplates(volume, segmentation.vertebrae) == {}


def test_where_outline_and_image_are_too_far_apart_the_image_is_not_believed() -> None:
    volume, segmentation = scan(11.0)
    reading = read_endplates(volume, segmentation.vertebrae).get(("vertebra_L2", 1.0))
    surface = segmentation.vertebrae[1].surface
    middle = np.ix_(np.abs(surface.left_mm) < 3.0, np.abs(surface.posterior_mm) < 3.0)
    assert reading is None or np.isnan(reading.height_mm[middle]).any()


def test_slices_thicker_than_a_disc_are_not_read() -> None:
    volume, segmentation = scan(0.0)
    matrix = volume.grid.index_to_lps.copy()
    matrix[:3, 0] *= 2.0
    thick = Volume(volume.hu, Grid(volume.shape, matrix))
    assert read_endplates(thick, segmentation.vertebrae) == {}
