"""Reading a CT at points and on another grid: exact for linear fields, a low pass for fine ones, no data is not air."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from pipeline.segmentation import sampling
from pipeline.volume import Grid, Volume


def _grid(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Grid:
    """Axes to the head, to the back and to the left; origin somewhere."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[0, 0, spacing_mm[2]], [0, spacing_mm[1], 0], [spacing_mm[0], 0, 0]])
    matrix[:3, 3] = (-120.0, 35.5, 410.25)
    return Grid(shape, matrix)


def _linear_field(grid: Grid) -> np.ndarray:
    """A field that is linear in patient coordinates, whatever the grid."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    return _linear_at(grid.to_lps(index.astype(float))).astype(np.float32)


def _linear_at(points_lps_mm: np.ndarray) -> np.ndarray:
    return np.asarray(points_lps_mm @ np.array([2.0, -1.5, 0.5]) + 40.0)


def test_interpolation_agrees_with_scipy_inside_the_volume() -> None:
    generator = np.random.default_rng(1)
    array = generator.normal(0, 300, (7, 9, 8)).astype(np.float32)
    index = generator.uniform(0, 1, (200, 3)) * (np.array(array.shape) - 1)
    expected = map_coordinates(array, index.T, order=1)
    assert sampling.interpolate(array, index, fill=-1.0) == pytest.approx(expected, abs=1e-2)
    assert sampling.interpolate(array.astype(np.int16), index.reshape(10, 20, 3), fill=-1.0).shape == (10, 20)


def test_outside_the_volume_is_the_fill_value_not_the_nearest_voxel() -> None:
    array = np.full((4, 4, 4), 70, dtype=np.int16)
    index = np.array([[-0.51, 1, 1], [1, 3.51, 1], [1, 1, 9], [np.nan, 1, 1], [-0.49, 3.49, 1]])
    assert sampling.interpolate(array, index, fill=-5.0).tolist() == [-5, -5, -5, -5, 70]


@given(
    spacing_mm=st.tuples(*(st.floats(0.6, 5.0) for _ in range(3))),
    target_mm=st.floats(0.8, 4.0),
    shape=st.tuples(*(st.integers(8, 20) for _ in range(3))),
)
@settings(deadline=None, max_examples=40)
def test_a_linear_field_survives_any_resampling_where_the_tent_fits(
    spacing_mm: tuple[float, float, float], target_mm: float, shape: tuple[int, int, int]
) -> None:
    grid = _grid(shape, spacing_mm)
    out, new = sampling.resample_array(_linear_field(grid), grid, target_mm)
    assert new.spacing_mm == pytest.approx((target_mm,) * 3)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in new.shape), indexing="ij"), axis=-1).astype(float)
    points = new.to_lps(index)
    old = grid.to_index(points)
    # A sampled tent is exact for a line only if its taps lie evenly about the centre: elsewhere the error is a fraction of
    # a source voxel, and at the faces the tent is cut.
    reach = np.array([max(1.0, target_mm / s) for s in grid.spacing_mm])
    inside = ((old >= reach) & (old <= np.array(shape) - 1 - reach)).all(axis=-1)
    slopes = np.array([0.5, 1.5, 2.0]) * grid.spacing_mm
    coarser = reach > 1
    tolerance = 0.15 * float((slopes * coarser).sum()) + 1e-2
    assert np.abs(out - _linear_at(points))[inside].max(initial=0) <= tolerance


def test_downsampling_is_a_low_pass() -> None:
    """Of noise on 0.5 mm voxels a 2 mm tent leaves sum(w^2)^(3/2), 7 %; picking every fourth voxel leaves all of it."""
    noise = np.random.default_rng(2).normal(0, 100, (80, 80, 80)).astype(np.float32)
    out, _ = sampling.resample_array(noise, _grid((80, 80, 80), (0.5, 0.5, 0.5)), 2.0)
    tent = 1 - np.abs(np.arange(-3.5, 4)) / 4
    expected = 100 * (np.sum((tent / tent.sum()) ** 2)) ** 1.5
    assert out.std() == pytest.approx(expected, rel=0.1)


def test_part_of_a_volume_gives_the_values_of_the_whole() -> None:
    grid = _grid((20, 24, 28), (2.0, 1.0, 1.0))
    volume = Volume(np.random.default_rng(3).normal(0, 200, grid.shape).astype(np.float32), grid)
    whole, whole_grid = sampling.resample_isotropic(volume, 2.0)
    part, part_grid = sampling.resample_isotropic(volume, 2.0, box=(slice(4, 12), slice(8, 20), slice(2, 22)))
    first = np.rint(whole_grid.to_index(part_grid.to_lps(np.zeros(3)))).astype(int)
    assert part.shape == (8, 6, 10)
    same = whole[first[0] : first[0] + 8, first[1] : first[1] + 6, first[2] : first[2] + 10]
    assert part == pytest.approx(same, abs=1e-2)


def test_padding_does_not_darken_its_neighbours_below_air() -> None:
    hu = np.full((10, 10, 10), 40, dtype=np.int16)
    hu[:, :, :5] = -3024
    out, _ = sampling.resample_isotropic(Volume(hu, _grid(hu.shape, (1.0, 1.0, 1.0))), 2.0)
    assert out.min() >= -1024


def test_a_mask_becomes_the_fraction_of_each_voxel() -> None:
    grid = _grid((40, 40, 40), (1.0, 1.0, 1.0))
    mask = np.zeros(grid.shape, dtype=bool)
    mask[10:30, 10:30, 10:30] = True
    out, new = sampling.resample_array(mask, grid, 2.0)
    assert out.min() == 0 and out.max() == 1
    assert out.sum() * new.voxel_volume_mm3 == pytest.approx(mask.sum(), rel=0.01)


def test_index_box_holds_the_points_and_stays_inside_the_grid() -> None:
    grid = _grid((30, 40, 50), (3.0, 1.0, 0.8))
    corners = grid.to_lps(np.array([[5.2, 10.0, 20.0], [9.0, 30.5, 60.0]]))
    box = sampling.index_box(grid, corners, margin_mm=2.0)
    assert box == (slice(4, 11), slice(8, 34), slice(17, 50))
    part = sampling.cropped_grid(grid, box)
    assert part.shape == (7, 26, 33)
    assert part.to_lps(np.zeros(3)) == pytest.approx(grid.to_lps(np.array([4.0, 8.0, 17.0])))


def _patient_on_table(bone_hu: float = 500.0) -> tuple[np.ndarray, Grid]:
    """A cylinder of soft tissue with a lung and a bone, above a thin table, 2 mm voxels."""
    grid = _grid((40, 120, 160), (2.0, 2.0, 2.0))
    _, y, x = np.meshgrid(*(np.arange(n) * 2.0 for n in grid.shape), indexing="ij")
    hu = np.full(grid.shape, -1000.0, dtype=np.float32)
    hu[((y - 100) / 70) ** 2 + ((x - 160) / 110) ** 2 < 1] = 40
    hu[(y - 80) ** 2 + (x - 110) ** 2 < 30**2] = -850
    hu[(y - 140) ** 2 + (x - 160) ** 2 < 18**2] = 0.4 * bone_hu
    hu[((y - 140) ** 2 + (x - 160) ** 2 < 18**2) & ((y - 140) ** 2 + (x - 160) ** 2 > 14**2)] = bone_hu
    hu[(y > 200) & (y < 205)] = 100
    return hu, grid


def test_the_body_is_the_patient_with_lungs_and_without_the_table() -> None:
    hu, grid = _patient_on_table()
    body = sampling.body_mask(hu, grid)
    assert body[20, 40, 55], "the lung belongs to the body"
    assert not body[:, 100:, :].any(), "the table does not"
    area_mm2 = float(body[20].sum()) * 4
    assert area_mm2 == pytest.approx(np.pi * 70 * 110, rel=0.08)
    assert not sampling.body_mask(np.full((20, 20, 20), -1000, dtype=np.float32), grid).any()


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.0])
def test_the_bone_scale_follows_the_contrast_of_bone(factor: float) -> None:
    full = sampling.bone_hu_scale(_patient_on_table()[0])
    assert sampling.bone_hu_scale(_patient_on_table(500 * factor)[0]) == pytest.approx(full * factor, rel=0.02)


def test_the_bone_scale_ignores_metal_and_is_neutral_without_bone() -> None:
    hu, _ = _patient_on_table()
    with_metal = hu.copy()
    with_metal[:, 60:72, 70:90] = 3071
    assert sampling.bone_hu_scale(with_metal) == pytest.approx(sampling.bone_hu_scale(hu), rel=0.05)
    assert sampling.bone_hu_scale(np.full((9, 9, 9), 40, dtype=np.float32)) == 1.0
