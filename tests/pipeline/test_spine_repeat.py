"""The repeat on a disturbed grid, the canal of a tipped pelvis and faint bone, against what is known of made-up arrays."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipeline.segmentation.sampling import resample_onto
from pipeline.segmentation.spine.aslant import lower_end_in_tilted_slices
from pipeline.segmentation.spine.canal import Canal, find_canal, ring_bone_scale
from pipeline.segmentation.spine.repeat import disturbed, disturbed_grid, met_again
from pipeline.volume import Grid


def _grid(shape: tuple[int, int, int], edge_mm: float) -> Grid:
    matrix = np.zeros((4, 4))
    matrix[[2, 1, 0], [0, 1, 2]] = edge_mm
    matrix[3, 3] = 1.0
    return Grid(shape, matrix)


def test_the_disturbed_grid_is_finer_turned_by_two_degrees_and_holds_the_other():
    grid = _grid((80, 50, 60), 1.5)
    other = disturbed_grid(grid)
    np.testing.assert_allclose(other.spacing_mm, 0.87 * 1.5, atol=1e-9)
    axes = [g.index_to_lps[:3, :3] / np.array(g.spacing_mm) for g in (grid, other)]
    angle = np.arccos((np.trace(axes[0].T @ axes[1]) - 1) / 2)
    assert np.degrees(angle) == pytest.approx(2.0, abs=1e-6)
    corners = np.array([[a, b, c] for a in (0, 79) for b in (0, 49) for c in (0, 59)], float)
    index = other.to_index(grid.to_lps(corners))
    assert (index > -0.5).all()
    assert (index < np.array(other.shape) - 0.5).all()
    at_centre = other.to_index(grid.to_lps((np.array(grid.shape) - 1) / 2)) - (np.array(other.shape) - 1) / 2
    np.testing.assert_allclose(at_centre, 0.5, atol=1e-9)


def test_a_slope_is_the_same_on_the_disturbed_grid_and_what_was_not_seen_stays_unseen():
    grid = _grid((30, 24, 20), 2.0)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1).astype(float)
    slope = np.array([3.0, -2.0, 1.5])
    hu = (grid.to_lps(index) @ slope).astype(np.float32)
    found, target = disturbed(hu, grid, threads=1)
    where = np.stack(np.meshgrid(*(np.arange(n) for n in target.shape), indexing="ij"), -1).astype(float)
    inner = grid.to_index(target.to_lps(where))
    inside = ((inner >= 0) & (inner <= np.array(grid.shape) - 1)).all(axis=-1)
    np.testing.assert_allclose(found[inside], (target.to_lps(where) @ slope)[inside], atol=1e-2)
    outside = ((inner < -0.51) | (inner > np.array(grid.shape) - 0.49)).any(axis=-1)
    assert np.isnan(found[outside]).all()
    assert np.array_equal(resample_onto(hu, grid, grid, fill=np.nan), hu)


def test_a_body_that_is_not_found_again_has_no_overlap():
    box = (slice(0, 4), slice(0, 4), slice(0, 4))
    model = None  # never looked at without a repeat
    assert met_again(_grid((4, 4, 4), 1.0), (model,), [(box, np.ones((4, 4, 4), bool))], ()) == [0.0]  # type: ignore[arg-type]


def _pipe(lean_deg: float, wall_hu: float) -> tuple[NDArray[np.float32], Grid, NDArray[np.float64]]:
    """A canal that runs straight up and, below its middle, leans back by so much; and its centre line from caudal."""
    arc_mm = np.arange(0.0, 200.0, 1.0)
    lean = np.radians(lean_deg) * np.clip((110.0 - arc_mm) / 40.0, 0.0, 1.0)
    back, up = np.cumsum(-np.sin(lean)), np.cumsum(np.cos(lean))
    line = np.stack([np.full(len(arc_mm), 60.0), 110.0 + back - back[-1], 60.0 + up - up[0]], axis=1)
    grid = _grid((110, 110, 60), 2.0)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1)
    points = grid.to_lps(index.astype(float)).reshape(-1, 3)
    away = cKDTree(line).query(points, distance_upper_bound=20.0)[0].reshape(grid.shape)
    return np.where((away > 8.0) & (away < 13.0), wall_hu, 30.0).astype(np.float32), grid, line


def test_a_sacral_canal_that_runs_almost_level_is_found_in_tilted_slices():
    hu, grid, line = _pipe(80.0, 500.0)
    body = np.ones(grid.shape, bool)
    canal = find_canal(hu, grid, body, threads=1)
    assert canal.trusted
    farther = lower_end_in_tilted_slices(canal, hu, grid, body, threads=1)
    assert farther.points_lps_mm[0, 1] > canal.points_lps_mm[0, 1] + 15.0, "followed to the back"
    assert len(farther.score) == len(farther.points_lps_mm)
    from_line = np.array([np.linalg.norm(line - p, axis=1).min() for p in farther.points_lps_mm[3:]])
    assert np.percentile(from_line, 90) < 4.0


def test_a_straight_canal_is_left_alone():
    hu, grid, _ = _pipe(0.0, 500.0)
    body = np.ones(grid.shape, bool)
    canal = find_canal(hu, grid, body, threads=1)
    assert lower_end_in_tilted_slices(canal, hu, grid, body, threads=1) is canal


@pytest.mark.parametrize("contrast_hu", [70.0, 112.0, 280.0, 560.0])
def test_brightness_of_bone_is_read_from_the_ring_about_the_canal(contrast_hu: float):
    hu, grid, line = _pipe(0.0, 40.0 + contrast_hu)
    canal = Canal(line[10:150:2], np.full(70, 0.8), True)
    assert ring_bone_scale(hu, grid, canal) == pytest.approx(max(contrast_hu / 280.0, 0.25), rel=0.02)


def test_a_canal_of_a_few_points_says_nothing_of_brightness():
    hu, grid, line = _pipe(0.0, 100.0)
    assert ring_bone_scale(hu, grid, Canal(line[:3], np.full(3, 0.8), True)) == 1.0
