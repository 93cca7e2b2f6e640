"""Whole vertebrae are cut in front of their canal, whatever the tilt and the voxels."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.segmentation.arch import body_without_arch, find_canal_hole, frame_of_body
from pipeline.volume import Grid
from tests.pipeline.mask_scene import (
    SolidVertebra,
    dice,
)


@pytest.mark.parametrize("tilt_deg", [-35.0, 0.0, 20.0])
@pytest.mark.parametrize(
    "spacing", [(1.0, 0.8, 0.8), (3.0, 3.0, 3.0), (5.0, 0.9, 0.9)], ids=["fine", "3 mm", "5 mm slices"]
)
def test_the_arch_is_cut_off_at_any_tilt_and_resolution(tilt_deg: float, spacing: tuple[float, float, float]) -> None:
    solid = SolidVertebra((3.0, -2.0, 1.0), tilt_deg)
    shape = tuple(int(np.ceil(n / s)) for n, s in zip((80.0, 100.0, 96.0), spacing, strict=True))
    matrix = np.eye(4)
    matrix[:3, :3] = [[0, 0, spacing[2]], [0, spacing[1], 0], [spacing[0], 0, 0]]
    matrix[:3, 3] = (-48.0, -35.0, -40.0)
    grid = Grid((shape[0], shape[1], shape[2]), matrix)
    points = grid.to_lps(np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij"), axis=-1))
    whole, body = solid.whole(points), solid.body(points)

    hole = find_canal_hole(whole, grid)
    assert hole is not None
    cut = body_without_arch(whole, grid, hole)
    frame, width, depth, height = frame_of_body(
        cut, grid, upwards_lps=hole.direction_lps, posterior_lps=hole.posterior_lps
    )

    assert dice(cut, body) > (0.96 if spacing[0] == 1 else 0.9)
    angle = np.degrees(np.arccos(np.clip(frame.superior @ solid.axes[2], -1, 1)))
    assert angle < (2.0 if spacing[0] == 1 else 7.0)
    assert width == pytest.approx(44.0, abs=1.5 * max(spacing[1:]) + 1)
    assert depth == pytest.approx(32.0, abs=1.5 * max(spacing[1:]) + 2)
    assert height == pytest.approx(26.0, abs=1.05 * spacing[0]), "a mask is whole voxels high"
    np.testing.assert_allclose(frame.centre_lps_mm, solid.centre_lps_mm, atol=max(1.2, 0.6 * max(spacing)))
    np.testing.assert_allclose(np.cross(frame.left, frame.posterior), frame.superior, atol=1e-9)


def test_a_body_alone_shows_no_canal() -> None:
    grid = Grid((40, 60, 60), np.array([[0, 0, 1.0, -30], [0, 1.0, 0, -30], [1.0, 0, 0, -20], [0, 0, 0, 1]]))
    points = grid.to_lps(
        np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in grid.shape), indexing="ij"), axis=-1)
    )
    assert find_canal_hole(SolidVertebra((0.0, 0.0, 0.0)).body(points), grid) is None
