"""The copies that precision is measured on are what they say, and its sums are those of closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.precision import availability, matched, variation
from benchmarks.precision_copies import COPIES, PROTOCOL, copies_of, own_noise_hu
from pipeline.volume import Grid, Volume

_SPACING_MM = np.array([2.5, 0.8, 0.8])


def _smooth(points_lps_mm: np.ndarray) -> np.ndarray:
    """A field that interpolation and averaging hardly change: linear, plus long waves."""
    x, y, z = np.moveaxis(points_lps_mm, -1, 0)
    return np.asarray(
        0.8 * x - 0.5 * y + 0.3 * z + 20.0 * np.sin(x / 15.0) * np.cos(y / 20.0) + 15.0 * np.sin(z / 30.0)
    )


def _grid(shape: tuple[int, int, int]) -> Grid:
    matrix = np.zeros((4, 4))
    matrix[[2, 1, 0], [0, 1, 2]] = _SPACING_MM
    matrix[:, 3] = (-30.0, -25.0, 100.0, 1.0)
    return Grid(shape, matrix)


def _places(grid: Grid) -> np.ndarray:
    return grid.to_lps(np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1).astype(float))


@pytest.fixture(scope="module")
def volume() -> Volume:
    grid = _grid((24, 70, 60))
    return Volume(_smooth(_places(grid)).astype(np.float32), grid)


@pytest.mark.parametrize("name", [n for n in COPIES if "dose" not in n])
def test_a_copy_shows_the_same_patient_at_the_places_it_states(volume: Volume, name: str) -> None:
    copy = next(copies_of(volume, [name]))
    back = np.linalg.inv(copy.to_copy)
    places = _places(copy.volume.grid)
    original = places @ back[:3, :3].T + back[:3, 3]
    valid = np.ones(copy.volume.shape, bool) if copy.volume.valid is None else copy.volume.valid.copy()
    inner = np.zeros(copy.volume.shape, bool)
    inner[2:-2, 4:-4, 4:-4] = True  # a filter has no neighbours at the edge
    assert (valid & inner).sum() > 0.5 * inner.sum()
    difference = (copy.volume.hu - _smooth(original))[valid & inner]
    assert np.abs(difference).max() < 1.0


def test_copies_differ_from_the_original_as_their_names_say(volume: Volume) -> None:
    spacing = {c.name: np.array(c.volume.spacing_mm) / _SPACING_MM for c in copies_of(volume)}
    np.testing.assert_allclose(spacing["slices x 1.5"], (1.5, 1.0, 1.0))
    np.testing.assert_allclose(spacing["slices x 2"], (2.0, 1.0, 1.0))
    np.testing.assert_allclose(spacing["pixels x 1.3"], (1.0, 1.3, 1.3))
    assert set(PROTOCOL) < set(COPIES)


def test_half_the_dose_is_as_much_noise_again() -> None:
    noise = 14.0 * np.random.default_rng(0).standard_normal((20, 80, 80))
    image = Volume((40.0 + noise).astype(np.float32), _grid((20, 80, 80)))
    assert own_noise_hu(image) == pytest.approx(14.0, rel=0.1)
    first, second = (c.volume.hu - image.hu for c in copies_of(image, ["half the dose", "half the dose again"]))
    assert np.std(first) == pytest.approx(14.0, rel=0.15)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05


def test_coefficients_of_variation_are_pooled_by_their_degrees_of_freedom() -> None:
    rows: list[dict[str, Any]] = [
        {"original": 100.0, "values": {"a": 102.0, "b": None, "c": 200.0}, "due": ["a", "b"]},
        {"original": 50.0, "values": {"a": 50.0, "b": 53.0, "c": 90.0}, "due": ["a", "b"]},
        {"original": None, "values": {"a": 10.0, "b": None, "c": None}, "due": ["a"]},
    ]
    found = variation(rows, ["a", "b"])
    # One degree of freedom with a variance of 2, two with a sum of squares of 6.
    assert found["rms_sd"] == pytest.approx(np.sqrt((2.0 + 6.0) / 3.0))
    assert found["rms_cv_percent"] == pytest.approx(100 * np.sqrt((2.0 / 101.0**2 + 6.0 / 51.0**2) / 3.0))
    assert (found["structures"], found["values"]) == (2, 5)
    assert availability(rows, ["a", "b"]) == (3, 4)


def test_structures_are_matched_by_place_and_not_by_name() -> None:
    body = {"centre_lps_mm": [0.0, 0.0, 50.0], "values": {"vBMD of a body": 100.0}, "reasons": []}
    move = np.eye(4)
    move[2, 3] = 20.0
    same = body | {"name": "vertebra_u7", "centre_lps_mm": [1.0, 0.0, 71.0], "values": {"vBMD of a body": 101.0}}
    other = body | {"name": "vertebra_L1", "centre_lps_mm": [0.0, 0.0, 40.0], "values": {"vBMD of a body": 55.0}}
    copy = {"entries": [other, same], "refused": "", "to_copy": move.tolist(), "whole": ["vertebra_L1"]}
    result = {"case": "x", "original": {"entries": [body | {"name": "vertebra_L1"}], "refused": ""}, COPIES[0]: copy}
    (row,) = matched(result)
    assert row["values"] == {COPIES[0]: 101.0} and row["due"] == [COPIES[0]]
    gone = result | {COPIES[0]: copy | {"entries": [other]}}
    assert matched(gone)[0]["reasons"][COPIES[0]] == ["not_found"]
