"""Where the body ends at its posterolateral corners, against shapes whose corners are known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.segmentation.spine.corner import continued_walls, is_corner, may_be_pedicle, trust_in_edge

_ANGLE = np.arange(72) * (2 * np.pi / 72)
_HEIGHTS = 25


def _straight_walls(side_mm: float, behind_mm: float, slant: float = 0.0) -> NDArray[np.float64]:
    """Radii of a body with two side walls and a posterior wall, all straight, at each angle and height."""
    with np.errstate(divide="ignore"):
        to_side = side_mm / np.abs(np.cos(_ANGLE))
        behind = np.sin(_ANGLE) - slant * np.cos(_ANGLE)
        to_back = np.where(behind > 0, behind_mm / np.maximum(behind, 1e-9), np.inf)
    front = np.where(np.sin(_ANGLE) < 0, side_mm, np.inf)
    return np.repeat(np.minimum(np.minimum(to_side, to_back), front)[:, None], _HEIGHTS, axis=1)


@pytest.mark.parametrize("slant", [0.0, 0.15, -0.25])
def test_pulled_in_corners_are_continued_from_the_walls_beside_them(slant: float) -> None:
    whole = _straight_walls(24.0, 18.0, slant)
    # Beside the canal, more than 60 degrees back, the posterior wall is seen.
    at_pedicle = is_corner(_ANGLE) & (np.sin(_ANGLE) < np.sin(np.radians(61.0)))
    pulled_in = np.where(at_pedicle[:, None], 0.75 * whole, whole)
    mended = continued_walls(pulled_in, _ANGLE)
    corner = is_corner(_ANGLE)
    # The tip of the corner is rounded: 3 mm are left off there at most, and nothing is added.
    assert np.all(mended[corner] <= whole[corner] + 0.1)
    assert np.all(mended[corner] >= whole[corner] - 3.2)
    assert np.median(np.abs(mended[corner] - whole[corner])) < 0.2


def test_nothing_is_changed_in_front_and_behind() -> None:
    whole = _straight_walls(20.0, 15.0)
    elsewhere = ~may_be_pedicle(_ANGLE)
    np.testing.assert_array_equal(continued_walls(whole, _ANGLE)[elsewhere], whole[elsewhere])


def test_corners_lie_on_both_sides_behind() -> None:
    degrees = np.degrees(_ANGLE[is_corner(_ANGLE)])
    assert set(np.rint(degrees)) == {*range(20, 75, 5), *range(110, 165, 5)}


def test_a_rib_head_near_the_endplate_does_not_widen_the_corner() -> None:
    whole = _straight_walls(14.0, 12.0)
    with_rib = whole.copy()
    beside = np.abs(np.degrees(np.arctan2(np.sin(_ANGLE), np.cos(_ANGLE)))) < 9.0
    with_rib[np.ix_(beside, range(18, 25))] += 8.0
    corner = is_corner(_ANGLE)
    excess = continued_walls(with_rib, _ANGLE)[corner] - continued_walls(whole, _ANGLE)[corner]
    assert excess.max() < 1.0


def _ray(*parts: tuple[float, float], step_mm: float = 0.5) -> NDArray[np.float32]:
    """HU along one ray in one direction, made of pieces (length in mm, HU)."""
    values = np.concatenate([np.full(round(length / step_mm), hu) for length, hu in parts])
    return values.astype(np.float32)[None, None, :]


@pytest.mark.parametrize(
    ("beyond", "counts"),
    [
        (_ray((12.0, 50.0)), True),  # muscle
        (_ray((2.0, -80.0), (10.0, 500.0)), True),  # fat of the foramen before a facet
        (_ray((3.0, 120.0), (9.0, 500.0)), False),  # marrow and outer cortex of a pedicle
        (_ray((12.0, 300.0)), False),  # bone all the way
    ],
)
def test_an_edge_in_a_corner_counts_only_before_soft_tissue(beyond: NDArray[np.float32], counts: bool) -> None:
    offset_mm = -7.0 + 0.5 * np.arange(beyond.shape[2])
    trust = trust_in_edge(beyond, np.array([np.radians(45.0)]), offset_mm)[0, 0, 0]
    assert trust > 0.9 if counts else trust < 0.4


def test_at_the_side_wall_the_joint_of_a_rib_counts() -> None:
    beyond = _ray((12.0, 300.0))
    offset_mm = -7.0 + 0.5 * np.arange(beyond.shape[2])
    trust = trust_in_edge(beyond, np.array([np.radians(10.0)]), offset_mm)[0, 0]
    assert trust[offset_mm == 0.0] > 0.9
    assert trust[offset_mm == -6.0] < 0.1
