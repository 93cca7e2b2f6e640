"""Following the canal where it leans, and patients who are turned: against curves and turns that are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree

from pipeline.segmentation.sampling import sample_lps, turned_grid
from pipeline.segmentation.spine import segment_spine
from pipeline.segmentation.spine.canal import Canal
from pipeline.segmentation.spine.tracking import extend_canal
from pipeline.volume import Grid, Volume
from tests.pipeline.conftest import LumbarScan


def _grid(shape: tuple[int, int, int], edge_mm: float) -> Grid:
    return Grid(shape, np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]].T * np.array([edge_mm, edge_mm, edge_mm, 1.0]))


def _bent_pipe() -> tuple[np.ndarray, Grid, np.ndarray]:
    """A canal of 7 mm radius with a wall of bone that leans forwards by up to 55 degrees, and its centre line."""
    arc_mm = np.arange(0.0, 220.0, 1.0)
    lean = np.radians(55.0) * np.clip((arc_mm - 80.0) / 100.0, 0.0, 1.0)
    line = np.stack([np.full(len(arc_mm), 60.0), 120.0 - np.cumsum(np.sin(lean)), 6.0 + np.cumsum(np.cos(lean))], 1)
    grid = _grid((100, 90, 60), 2.0)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1)
    points = grid.to_lps(index.astype(float)).reshape(-1, 3)
    away = cKDTree(line[::2]).query(points)[0].reshape(grid.shape)
    return np.where((away > 7.0) & (away < 13.0), 400.0, 30.0).astype(np.float32), grid, line


def test_a_canal_is_followed_where_it_leans():
    hu, grid, line = _bent_pipe()
    known = line[10:80:2]
    longer = extend_canal(Canal(known, np.full(len(known), 0.8), True), hu, grid)
    reached = longer.points_lps_mm[-1]
    assert reached[1] < 70.0, "followed for more than 50 mm to the front"
    for point in longer.points_lps_mm[3:-3]:  # the ends may look a few millimetres beyond the pipe
        assert np.linalg.norm(line - point, axis=1).min() < 2.0


def test_nothing_is_followed_where_there_is_no_canal():
    hu, grid, line = _bent_pipe()
    known = line[10:80:2]
    hu[45:] = 30.0
    ended = extend_canal(Canal(known, np.full(len(known), 0.8), True), hu, grid)
    assert ended.points_lps_mm[-1, 2] < 100.0


@pytest.mark.parametrize("turn_deg", [-40.0, 15.0, 90.0])
def test_a_turned_grid_holds_the_other_and_looks_where_the_patient_looks(turn_deg: float):
    grid = _grid((20, 60, 40), 2.0)
    turned = turned_grid(grid, np.radians(turn_deg))
    middle = [(np.array(g.shape) - 1) / 2 for g in (grid, turned)]
    np.testing.assert_allclose(grid.to_lps(middle[0]), turned.to_lps(middle[1]), atol=1e-9)
    corners = np.array([[a, b, c] for a in (0, 19) for b in (0, 59) for c in (0, 39)], float)
    index = turned.to_index(grid.to_lps(corners))
    assert (index > -0.5).all()
    assert (index < np.array(turned.shape) - 0.5).all()
    to_back = turned.to_lps([0.0, 1.0, 0.0]) - turned.to_lps([0.0, 0.0, 0.0])
    # Turned to the left by a: the patient looks to (sin a, -cos a), and the back is the other way.
    a = np.radians(turn_deg)
    np.testing.assert_allclose(to_back / 2.0, [-np.sin(a), np.cos(a), 0.0], atol=1e-9)


def test_levels_of_a_turned_patient_are_named(lumbar_scan: LumbarScan):
    """The sacral canal of someone who lies half on a side is beside the lumbar one, not behind it."""
    hu, grid = lumbar_scan.volume.hu, lumbar_scan.volume.grid
    turned = turned_grid(grid, np.radians(-20.0))
    points = turned.to_lps(
        np.stack(np.meshgrid(*(np.arange(n) for n in turned.shape), indexing="ij"), -1).astype(float)
    )
    # What lies along the axes of the turned grid becomes the patient along the axes of the scanner.
    resampled = sample_lps(hu, grid, points, fill=-1000.0)
    upright = Grid(turned.shape, np.vstack([np.column_stack([
        grid.index_to_lps[:3, :3], turned.index_to_lps[:3, 3]]), [0, 0, 0, 1]]))  # fmt: skip
    found = segment_spine(Volume(np.rint(resampled).astype(np.int16), upright), threads=1)
    assert [v.level for v in found.vertebrae][-5:] == ["L1", "L2", "L3", "L4", "L5"]
    towards_canal = np.mean([v.frame.posterior for v in found.vertebrae], axis=0)
    assert np.degrees(np.arctan2(abs(towards_canal[0]), towards_canal[1])) == pytest.approx(20.0, abs=5.0)
    assert ndimage.label(found.labels > 0)[1] >= 5
