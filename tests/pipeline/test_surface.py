"""Optimal surfaces against surfaces that are known exactly, and against exhaustive search."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.segmentation.surface import aggregate


def _valley(position: np.ndarray, samples: int) -> np.ndarray:
    """Costs with one smooth minimum per column."""
    distance = np.arange(samples) - position[..., None]
    return (1 - np.exp(-0.5 * (distance / 1.5) ** 2)).astype(np.float32)


def test_a_smooth_surface_is_found_between_samples():
    angle, height = np.meshgrid(np.linspace(0, 2 * np.pi, 48, endpoint=False), np.linspace(-1, 1, 20), indexing="ij")
    truth = 12.3 + 3 * np.cos(angle) + 1.7 * height**2
    found = aggregate(_valley(truth, 28), p1=0.05, p2=1.0, circular=(True, False))
    assert np.abs(found - truth).max() < 0.25
    assert abs((found - truth).mean()) < 0.02


def test_columns_without_an_edge_are_bridged_by_their_neighbours():
    truth = np.full((40, 10), 9.0)
    cost = _valley(truth, 25)
    cost[15:22] = 0.5
    assert np.abs(aggregate(cost, p1=0.1, p2=2.0, circular=(True, False)) - 9.0).max() < 0.3


def test_a_lone_stronger_edge_does_not_pull_the_surface_away():
    cost = _valley(np.full((30, 12), 10.0), 25)
    cost[14, 6] = 2 * _valley(np.array([[20.0]]), 25)[0, 0] - 1.0
    assert abs(aggregate(cost, p1=0.2, p2=4.0)[14, 6] - 10.0) < 2.0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_single_line_is_the_exact_optimum(seed: int):
    """With one column across, the two passes along the line are exact dynamic programming: compare with all paths."""
    cost = np.random.default_rng(seed).random((5, 1, 4)).astype(np.float32)
    p1, p2 = 0.15, 0.7

    def price(path: tuple[int, ...]) -> float:
        steps = [min(p1 * (a - b) ** 2, p2) for a, b in itertools.pairwise(path)]
        return sum(cost[i, 0, s] for i, s in enumerate(path)) + sum(steps)

    best = min(itertools.product(range(4), repeat=5), key=price)
    found = aggregate(cost, p1=p1, p2=p2)
    assert tuple(np.rint(found[:, 0]).astype(int)) == best


def test_a_closed_surface_does_not_depend_on_where_it_is_opened():
    truth = 7 + 3 * np.sin(np.linspace(0, 2 * np.pi, 24, endpoint=False))[:, None] * np.ones(8)
    noise = 0.3 * np.random.default_rng(3).random((24, 8, 15))
    cost = (_valley(truth, 15) + noise).astype(np.float32)
    straight = aggregate(cost, p1=0.1, p2=1.0, circular=(True, False))
    turned = aggregate(np.roll(cost, 7, axis=0), p1=0.1, p2=1.0, circular=(True, False))
    assert np.abs(np.roll(turned, -7, axis=0) - straight).max() < 1e-3


def test_a_forbidden_position_is_never_chosen():
    cost = _valley(np.full((10, 10), 5.0), 15)
    cost[:, :, :8] = np.inf
    assert aggregate(cost, p1=0.1, p2=1.0).min() >= 8.0


@pytest.mark.parametrize(
    ("cost", "p1"),
    [
        (np.zeros((3, 3), np.float32), 1.0),
        (np.zeros((3, 3, 3), np.float32), 0.0),
        (np.full((2, 2, 3), np.nan, np.float32), 1.0),
        (np.full((2, 2, 3), np.inf, np.float32), 1.0),
    ],
)
def test_impossible_tables_are_refused(cost: np.ndarray, p1: float):
    with pytest.raises(ValueError, match=r"cost|penalties"):
        aggregate(cost, p1=p1, p2=1.0)
