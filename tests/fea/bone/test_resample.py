"""Resampling must not gain or lose bone, whatever the orientation and the voxel sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from fea.bone.resample import grid_around, resample_bone


def ball(spacing_mm: tuple[float, float, float], radius_mm: float = 14.0):
    """A ball with a density that rises along z, with air-like values outside, and its index-to-world matrix."""
    shape = [int(np.ceil(2 * radius_mm / s)) + 6 for s in spacing_mm]
    k, j, i = np.indices(shape, dtype=float)
    centre = [(n - 1) / 2 for n in shape]
    z, y, x = ((index - c) * s for index, c, s in zip((k, j, i), centre, spacing_mm, strict=True))
    mask = z**2 + y**2 + x**2 <= radius_mm**2
    density = np.where(mask, 200 + 5 * z, -900.0).astype(np.float32)
    matrix = np.zeros((4, 4))
    matrix[[2, 1, 0], [0, 1, 2]] = spacing_mm  # array axes z, y, x along world z, y, x
    matrix[:3, 3] = [-centre[2] * spacing_mm[2], -centre[1] * spacing_mm[1], -centre[0] * spacing_mm[0]]
    matrix[3, 3] = 1
    return density, mask, matrix


def points_of(mask, matrix):
    return np.argwhere(mask) @ matrix[:3, :3].T + matrix[:3, 3]


@settings(max_examples=12, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(st.floats(0.6, 3.3), st.floats(0.5, 1.2), st.floats(0.5, 1.2)),
    voxel_mm=st.sampled_from([0.75, 1.0, 1.5]),
)
def test_mass_and_volume_survive_any_pose(angles, spacing, voxel_mm) -> None:
    density, mask, matrix = ball(spacing)
    axes = Rotation.from_euler("zyx", angles, degrees=True).as_matrix()
    grid = grid_around(points_of(mask, matrix), axes, voxel_mm, 5.0)
    posed = resample_bone(density, mask, matrix, grid)
    mass_g = float(density[mask].sum(dtype=float)) * np.prod(spacing) * 1e-6
    volume_mm3 = mask.sum() * np.prod(spacing)
    assert posed.source_mass_g == pytest.approx(mass_g, rel=1e-5)
    assert posed.mass_g == pytest.approx(mass_g, rel=2e-3)
    assert posed.fraction.sum(dtype=float) * voxel_mm**3 == pytest.approx(volume_mm3, rel=2e-3)


def test_a_shifted_grid_of_the_same_voxels_averages_neighbours() -> None:
    """Half a voxel along x: each new voxel is the mean of two old ones (trilinear, exact)."""
    density = np.array([[[100.0, 300.0, 500.0, 700.0]]], np.float32)
    mask = np.ones(density.shape, bool)
    matrix = np.eye(4)[[2, 1, 0, 3]].astype(float)
    grid = grid_around(np.array([[0.0, -0.5, -0.5], [2.0, 0.5, 0.5]]), np.eye(3)[::-1], 1.0, 0.0)
    assert grid.shape == (1, 1, 2)
    posed = resample_bone(density, mask, matrix, grid, samples=9)
    np.testing.assert_allclose(posed.density_mg_cm3[0, 0], [200, 400], rtol=5e-3)


def test_the_surroundings_never_dilute_the_bone() -> None:
    density, mask, matrix = ball((1.0, 1.0, 1.0))
    density[mask] = 250.0
    axes = Rotation.from_euler("x", 33, degrees=True).as_matrix()
    posed = resample_bone(density, mask, matrix, grid_around(points_of(mask, matrix), axes, 1.0, 4.0))
    there = posed.fraction > 1e-4
    np.testing.assert_allclose(posed.density_mg_cm3[there], 250.0, rtol=1e-5)
    assert posed.fraction.max() <= 1 + 1e-5 and 0 < np.mean((posed.fraction > 0.01) & (posed.fraction < 0.99)) < 0.3


def test_positions_in_the_world_are_kept() -> None:
    density, mask, matrix = ball((2.0, 0.8, 0.9))
    matrix[:3, 3] += [12.0, -40.0, 7.0]
    axes = Rotation.from_euler("zyx", (20, -35, 50), degrees=True).as_matrix()
    grid = grid_around(points_of(mask, matrix), axes, 1.0, 4.0)
    posed = resample_bone(density, mask, matrix, grid)
    index = np.argwhere(posed.fraction > 0)
    weight = (posed.fraction * posed.density_mg_cm3)[tuple(index.T)].astype(float)
    found = (weight[:, None] * grid.to_world(index + 0.5)).sum(axis=0) / weight.sum()
    source = density[mask].astype(float)
    wanted = (source[:, None] * points_of(mask, matrix)).sum(axis=0) / source.sum()
    np.testing.assert_allclose(found, wanted, atol=0.02)
    node = np.array([3.0, 4.5, 7.25])
    np.testing.assert_allclose(grid.to_node(grid.to_world(node)), node)
    centre = (grid.index_to_world @ [2.0, 3.0, 4.0, 1.0])[:3]
    np.testing.assert_allclose(centre, grid.to_world(np.array([2.5, 3.5, 4.5])))


def test_an_empty_mask_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty"):
        resample_bone(
            np.zeros((2, 2, 2)),
            np.zeros((2, 2, 2), bool),
            np.eye(4),
            grid_around(np.zeros((1, 3)), np.eye(3), 1.0, 1.0),
        )


def test_skewed_axes_are_an_error() -> None:
    with pytest.raises(ValueError, match="orthonormal"):
        grid_around(np.zeros((1, 3)), np.array([[1.0, 0, 0], [0.1, 1, 0], [0, 0, 1]]), 1.0, 1.0)
