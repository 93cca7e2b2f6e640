"""The second opinion on a body: a watershed and the pedicles, on a bone whose place is known, and what follows from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import Severity
from pipeline.segmentation.model import BodyFrame
from pipeline.segmentation.spine.body import ANGLES, HEIGHTS, BodyModel, rasterise
from pipeline.segmentation.spine.discs import Disc
from pipeline.segmentation.spine.quality import Repeat, judge_bodies
from pipeline.segmentation.spine.second import SecondOpinion, pedicle_profile, second_opinion
from pipeline.segmentation.spine.tube import BACK_REACH_MM, LEFT_REACH_MM, Tube
from pipeline.volume import Grid, Volume

RADIUS_MM, HEIGHT_MM, PITCH_MM = 20.0, 26.0, 32.0


def _model(shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> BodyModel:
    lattice = np.arange(-30.0, 30.1, 1.5)
    flat = np.zeros((len(lattice), len(lattice)))
    frame = BodyFrame(np.array(shift_mm), np.eye(3)[0], np.eye(3)[1], np.eye(3)[2])
    return BodyModel(
        frame, np.full((ANGLES, HEIGHTS), RADIUS_MM), lattice, lattice, flat - HEIGHT_MM / 2, flat + HEIGHT_MM / 2,
        wall_edge_hu=170.0, lower_edge_hu=120.0, upper_edge_hu=120.0, far_from_template=0.0, unseen=0.0,
    )  # fmt: skip


def _disc(z_mm: float, response_hu: float = 120.0) -> Disc:
    return Disc(z_mm + 60.0, np.array([0.0, 0.0, z_mm]), np.eye(3)[2], 3.0, False, response_hu, (0.0, 0.0), 40.0)


def _column(inside_hu: float) -> tuple[np.ndarray, Grid]:
    """Cylinders with a cortex of 2 mm and 500 HU, one every 32 mm, in muscle."""
    edge = 1.5
    matrix = np.array([[0, 0, edge, -60.0], [0, edge, 0, -60.0], [edge, 0, 0, -60.0], [0, 0, 0, 1.0]])
    grid = Grid((81, 81, 81), matrix)
    index = np.stack(np.meshgrid(*(np.arange(81.0),) * 3, indexing="ij"), -1)
    x, y, z = np.moveaxis(grid.to_lps(index), -1, 0)
    along = np.abs((z + PITCH_MM / 2) % PITCH_MM - PITCH_MM / 2)
    depth = np.minimum(RADIUS_MM - np.hypot(x, y), HEIGHT_MM / 2 - along)
    hu = np.where(depth > 2.0, inside_hu, np.where(depth > 0.0, 500.0, 40.0)).astype(np.float32)
    return hu + np.random.default_rng(3).normal(0, 15, hu.shape).astype(np.float32), grid


def _tube(pedicle_middle_mm: float) -> Tube:
    """Pedicles of 12 mm every 32 mm along a straight canal, the first pair so far above a body's middle."""
    count = 121
    place = np.arange(count) - 60.0
    bone = np.abs((place - pedicle_middle_mm + PITCH_MM / 2) % PITCH_MM - PITCH_MM / 2) <= 6.0
    hu = np.full((count, 81, 101), 30.0, np.float32)
    for sense in (1, -1):
        columns = LEFT_REACH_MM + sense * np.arange(11, 17)
        hu[np.ix_(bone, np.arange(BACK_REACH_MM - 2, BACK_REACH_MM + 10), columns)] = 350.0
    centre = np.stack([np.zeros(count), np.full(count, 28.0), place], axis=1)
    axes = [np.tile(axis, (count, 1)) for axis in ([1.0, 0, 0], [0, -1.0, 0], [0, 0, 1.0])]
    return Tube(centre, axes[0], axes[1], axes[2], hu)


def _opinion(inside_hu: float, shift_mm=(0.0, 0.0, 0.0), pedicle_middle_mm: float = 5.0) -> SecondOpinion:
    hu, grid = _column(inside_hu)
    tube = _tube(pedicle_middle_mm)
    return second_opinion(hu, grid, _model(shift_mm), _disc(16.0), _disc(-16.0), tube, pedicle_profile(tube))


@pytest.mark.parametrize("inside_hu", [180.0, 100.0, 20.0], ids=["young", "old", "osteoporotic"])
def test_a_watershed_confirms_a_right_outline(inside_hu: float):
    assert _opinion(inside_hu).watershed_dice > 0.85


def test_agreement_falls_as_the_outline_is_moved_away():
    agreement = [_opinion(150.0, (shift, 0.0, 0.0)).watershed_dice for shift in (0.0, 6.0, 12.0)]
    assert agreement[0] > agreement[1] > agreement[2]
    assert agreement[2] < 0.76


def test_pedicles_tell_discs_that_were_put_in_the_wrong_place():
    assert _opinion(150.0, pedicle_middle_mm=5.0).pedicle_contrast_hu > 200.0
    assert _opinion(150.0, pedicle_middle_mm=16.0).pedicle_contrast_hu < 20.0


def _judged(opinion: SecondOpinion, response_hu: float = 120.0) -> tuple[dict[str, Severity], float]:
    shape = (100, 60, 60)
    matrix = np.array([[0, 0, 1.5, -44.25], [0, 1.5, 0, -44.25], [1.5, 0, 0, -75.0], [0, 0, 0, 1.0]])
    volume = Volume(np.full(shape, 150, np.int16), Grid(shape, matrix))
    bodies = [
        replace(_model(), frame=replace(_model().frame, centre_lps_mm=np.array([0, 0, z]))) for z in (32.0, 0.0, -32.0)
    ]
    discs = [_disc(z, response_hu) for z in (48.0, 16.0, -16.0, -48.0)]
    good = SecondOpinion(0.87, 300.0)
    masks = [rasterise(b, volume.grid) for b in bodies]
    repeats = [Repeat(0.98)] * 3
    findings, score = judge_bodies(volume, tuple(bodies), tuple(discs), masks, repeats, (good, opinion, good))[1]
    return {f.code: f.severity for f in findings}, score


def test_a_differing_second_opinion_is_told_and_lowers_the_score():
    agreed, high = _judged(SecondOpinion(0.87, 300.0))
    doubted, low = _judged(SecondOpinion(0.72, 300.0))
    refused, lowest = _judged(SecondOpinion(0.60, 300.0))
    assert "second_opinion_differs" not in agreed
    assert doubted["second_opinion_differs"] is Severity.WARNING
    assert refused["second_opinion_differs"] is Severity.FAILURE
    assert high > low > lowest == 0.0


def test_pedicles_at_the_discs_fail_a_body_whose_discs_are_hidden():
    assert _judged(SecondOpinion(0.87, 0.0))[0]["discs_against_pedicles"] is Severity.WARNING
    assert _judged(SecondOpinion(0.87, 0.0), response_hu=30.0)[0]["discs_against_pedicles"] is Severity.FAILURE
    assert "discs_against_pedicles" not in _judged(SecondOpinion(0.87, float("nan")))[0]
