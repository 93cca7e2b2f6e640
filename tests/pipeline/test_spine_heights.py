"""A broken body must be told from a disc in the wrong place: the one is the patient's, the other ours."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.segmentation.spine.quality import _disc_misplaced, _trend

LUMBAR_MM = np.array([31.0, 32.5, 34.0, 35.0, 36.0, 36.0, 35.0])
"""Distances of the discs of a healthy spine, T11 to L5."""


def misplaced(pitch_mm: np.ndarray, at: int) -> bool:
    off_trend = pitch_mm / _trend(pitch_mm) - 1.0
    return _disc_misplaced(pitch_mm, off_trend, range(max(at - 1, 0), min(at + 2, len(pitch_mm))))


@pytest.mark.parametrize("at", range(len(LUMBAR_MM) - 1))
def test_a_disc_in_the_wrong_place_makes_both_bodies_beside_it_doubtful(at: int) -> None:
    pitch = LUMBAR_MM.copy()
    pitch[at] -= 12.0
    pitch[at + 1] += 12.0
    assert misplaced(pitch, at) and misplaced(pitch, at + 1)


@pytest.mark.parametrize("at", range(len(LUMBAR_MM)))
@pytest.mark.parametrize("loss", [0.35, 0.5])
def test_a_broken_body_does_not_make_its_neighbours_doubtful(at: int, loss: float) -> None:
    pitch = LUMBAR_MM.copy()
    pitch[at] *= 1.0 - loss
    assert not any(misplaced(pitch, i) for i in range(len(pitch)))


def test_nor_do_three_broken_bodies() -> None:
    pitch = LUMBAR_MM * [1.0, 0.65, 1.0, 0.7, 1.0, 0.6, 1.0]
    assert not any(misplaced(pitch, i) for i in range(len(pitch)))


def test_two_discs_that_slid_together_leave_a_body_of_usual_height_between_them_doubtful() -> None:
    pitch = LUMBAR_MM.copy()
    pitch[2] -= 12.0
    pitch[4] += 12.0
    assert misplaced(pitch, 3)
