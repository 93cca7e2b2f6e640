"""Femur and pelvis where they touch, and what the two sides say about each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.diseased_hips import DISEASES, diseased_hips
from benchmarks.hip_changes import bone_losses
from benchmarks.segmentation_femur import full_mask, real_volume
from pipeline.errors import Finding, Severity, Status
from pipeline.segmentation.femur import pair, quality, segment_femora
from pipeline.segmentation.femur.chain import find_femora
from pipeline.segmentation.femur.contact import pelvic_bone
from pipeline.segmentation.femur.head import Field, Head
from pipeline.segmentation.femur.outline import _without_knobs
from pipeline.segmentation.model import FemurLandmarks
from pipeline.volume import Grid, Volume

SHAPE = (40, 60, 90)
NOWHERE = np.zeros(SHAPE, dtype=bool)


def _box(z: tuple[int, int], y: tuple[int, int], x: tuple[int, int]) -> NDArray[np.bool_]:
    out = np.zeros(SHAPE, dtype=bool)
    out[slice(*z), slice(*y), slice(*x)] = True
    return out


@pytest.mark.parametrize("hollow", [False, True])
@pytest.mark.parametrize("joined_to", ["pelvis", "femur"])
def test_a_bone_between_both_falls_to_the_one_that_it_is_solidly_joined_to(joined_to: str, hollow: bool) -> None:
    """Three blocks in a row; the middle one hangs on one neighbour by its full width and on the other by a thin bridge."""
    femur, middle, pelvis = (_box((10, 30), (20, 40), x) for x in ((2, 26), (32, 58), (64, 88)))
    wide, thin = ((20, 40), (10, 30)), ((28, 31), (18, 21))
    left, right = (thin, wide) if joined_to == "pelvis" else (wide, thin)
    bone = femur | middle | pelvis | _box(left[1], left[0], (26, 32)) | _box(right[1], right[0], (58, 64))
    if hollow:
        bone &= ~ndimage.binary_erosion(bone, iterations=3)
    found = pelvic_bone(bone, _box((18, 22), (28, 32), (8, 12)), _box((10, 30), (20, 40), (80, 88)), NOWHERE, 1.0)
    assert found[bone & pelvis].mean() > 0.97
    assert found[bone & femur].mean() < 0.03
    share = found[bone & middle].mean()
    assert share > 0.95 if joined_to == "pelvis" else share < 0.05


def test_bones_apart_are_left_alone() -> None:
    bone = _box((10, 30), (20, 40), (2, 40)) | _box((10, 30), (20, 40), (50, 88))
    seed = _box((18, 22), (28, 32), (8, 12))
    assert not pelvic_bone(bone, seed, NOWHERE, NOWHERE, 1.0).any()


def test_a_piece_on_a_thin_bridge_is_told() -> None:
    femur = _box((2, 38), (5, 30), (5, 85))
    piece = _box((10, 30), (36, 56), (30, 60))
    assert quality.loose_part_ml(femur, 1.0) == 0.0
    assert quality.loose_part_ml(femur | piece | _box((18, 22), (30, 36), (40, 44)), 1.0) > 1.0
    solid = femur | piece | _box((10, 30), (30, 36), (30, 60))
    assert quality.loose_part_ml(solid, 1.0) == 0.0


def test_bone_where_no_femur_has_any_is_told() -> None:
    grid = Grid((120, 100, 140), np.array([[0, 0, 1.0, -40], [0, 1.0, 0, -50], [1.0, 0, 0, -90], [0, 0, 0, 1.0]]))
    marks = FemurLandmarks(
        head_centre_lps_mm=np.zeros(3),
        head_radius_mm=24.0,
        neck_axis_lps=np.array([0.77, 0, -0.64]),
        shaft_axis_lps=np.array([0, 0, -1.0]),
        shaft_point_lps_mm=np.array([45.0, 0, -60]),
    )
    points = grid.to_lps(
        np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1).astype(float)
    )
    shaft = (np.linalg.norm(points[..., :2] - np.array([45.0, 0]), axis=-1) < 16) & (points[..., 2] < -20)
    femur = (np.linalg.norm(points, axis=-1) < 24) | shaft
    assert quality.stray_ml(femur, grid, marks) == 0.0
    ischium = np.linalg.norm(points - np.array([-15.0, 30, -60]), axis=-1) < 14
    stray = quality.stray_ml(femur | ischium, grid, marks)
    assert stray > 5.0
    assert [f.severity for f in quality.stray_findings(stray)] == [Severity.FAILURE]
    assert quality.stray_findings(0.2) == []
    assert quality.stray_ml(femur | ischium, grid, replace(marks, shaft_axis_lps=None)) == 0.0


# Left and right.


def _head(side: str, x_mm: float, score: float, *, z_mm: float = 0.0, radius_mm: float = 24.0) -> Head:
    return Head(side, np.array([x_mm, 0.0, z_mm]), radius_mm, score, 1.0)


def test_a_sure_side_is_not_given_up_for_a_better_match_with_a_bad_one() -> None:
    """On the right only a wrong sphere is found, 38 mm too low; a wrong sphere on the left would match it perfectly."""
    true, mate = _head("left", 90, 0.72), _head("left", 88, 0.56, z_mm=-38)
    wrong = _head("right", -88, 0.55, z_mm=-38)
    chosen = pair.chosen_heads({"left": [true, mate], "right": [wrong]}, 0.0)
    assert next(h for h in chosen if h.side == "left") is true


def test_of_two_spheres_alike_the_other_side_decides() -> None:
    upper, lower = _head("left", 90, 0.57, z_mm=0), _head("left", 90, 0.56, z_mm=-38)
    right = _head("right", -90, 0.70, z_mm=-38)
    chosen = pair.chosen_heads({"left": [upper, lower], "right": [right]}, 0.0)
    assert next(h for h in chosen if h.side == "left") is lower
    assert not pair.is_sure([upper, lower]) and pair.is_sure([right]) and not pair.is_sure([])


def test_masks_of_unequal_size_are_told_on_the_weaker_side() -> None:
    even, uneven = {"left": 150.0, "right": 156.0}, {"left": 150.0, "right": 190.0}
    assert pair.unequal_findings(even, {"left": 1.0, "right": 0.8}) == {}
    assert list(pair.unequal_findings(uneven, {"left": 1.0, "right": 0.8})) == ["right"]
    assert set(pair.unequal_findings(uneven, {"left": 0.95, "right": 0.9})) == {"left", "right"}
    assert pair.unequal_findings({"left": 150.0}, {"left": 1.0}) == {}


def _ball_of_bone(offset_hu: float, centre: NDArray[np.float64]) -> Field:
    """A round head with a bright rim in a socket, with a neck, in soft tissue; the simplest thing that scores."""
    grid = Grid((75, 70, 80), np.array([[0, 0, 2.0, -170], [0, 2.0, 0, -70], [2.0, 0, 0, -90], [0, 0, 0, 1.0]]))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1).astype(float)
    points = grid.to_lps(index) - centre
    away = np.linalg.norm(points, axis=-1)
    along = points @ np.array([-0.78, 0.15, -0.6]) / np.linalg.norm([0.78, 0.15, 0.6])
    neck = (along > 0) & (along < 60) & (np.sqrt(np.maximum(away**2 - along**2, 0)) < 15)
    hu = np.full(grid.shape, 40.0)
    socket = (away > 28) & (away < 36) & (points[..., 2] > -8) & (points[..., 0] > -22)
    hu[socket] = 500.0
    hu[neck] = 200.0
    hu[away < 24] = 200.0
    hu[(away < 24) & (away > 21.5)] = 450.0
    hu = np.where(hu > 60, hu + offset_hu, hu)
    return Field(ndimage.gaussian_filter(hu, 0.5).astype(np.float32), grid, 1.0)


def test_the_mirror_image_of_a_sure_head_finds_the_other_one() -> None:
    sure = _head("left", 92.0, 0.72)
    there = np.array([-84.0, 4.0, -6.0])
    found = pair.guided_by_mirror(_ball_of_bone(0.0, there), sure, 2.0)
    assert found is not None and found.guided and found.side == "right"
    assert np.linalg.norm(found.centre_lps_mm - there) < 3.0
    assert [f.code for f in pair.guided_findings(found)] == ["head_found_by_other_side"]
    assert pair.guided_findings(sure) == []
    # Not where the mirror image does not put it, and not where there is nothing.
    assert pair.guided_by_mirror(_ball_of_bone(0.0, there + np.array([0.0, 0.0, 40.0])), sure, 2.0) is None
    empty = _ball_of_bone(0.0, there)
    assert pair.guided_by_mirror(replace(empty, hu=np.full_like(empty.hu, 40.0)), sure, 2.0) is None


def test_a_guided_head_may_score_less_but_is_never_ok() -> None:
    head = replace(_head("right", -90, 0.46), guided=True)
    assert quality.head_findings(head) == []
    assert [f.severity for f in pair.guided_findings(head)] == [Severity.WARNING]
    assert quality.head_findings(replace(head, guided=False)) != []


# Diseased hips.


def _dice_of_left(name: str) -> tuple[Status, float]:
    hips = diseased_hips(DISEASES[name])
    found = segment_femora(Volume(hips.volume.hu, hips.volume.grid), threads=2)
    femur = next(f for f in found.femora if f.side == "left")
    ours, true = found.labels == femur.label, hips.masks["left"]
    marks = hips.landmarks["left"]
    assert marks.lesser_trochanter_lower_edge_lps_mm is not None and marks.shaft_axis_lps is not None
    place = np.argwhere(ours | true)
    offset = hips.volume.grid.to_lps(place.astype(float)) - marks.lesser_trochanter_lower_edge_lps_mm
    place = place[offset @ marks.shaft_axis_lps < 30.0]
    a, b = ours[tuple(place.T)], true[tuple(place.T)]
    return femur.status, 2.0 * float((a & b).sum()) / float(a.sum() + b.sum())


def test_an_arthritic_hip_is_outlined_without_the_ischium() -> None:
    status, dice = _dice_of_left("arthritis, moderate")
    assert status is Status.OK
    assert dice > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in DISEASES if n != "arthritis, moderate"])
def test_diseased_hips_are_outlined_or_refused(name: str) -> None:
    status, dice = _dice_of_left(name)
    assert status is Status.FAILED or dice > 0.95


def test_a_knob_on_a_head_is_taken_off_and_its_slope_is_not() -> None:
    azimuth, polar = np.meshgrid(np.arange(96), np.arange(49))
    smooth = 24.0 + 2.0 * np.sin(polar / 48 * np.pi) + np.cos(azimuth / 96 * 2 * np.pi)
    knob = smooth.copy()
    knob[20:24, 94:] += 4.0
    knob[20:24, :2] += 4.0
    assert np.abs(_without_knobs(smooth) - smooth).max() < 0.5
    assert np.abs(_without_knobs(knob) - smooth).max() < 0.6


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize(("case", "side"), [("sts044_hip_right", "right"), ("sts031_hip_right", "right")])
def test_no_head_wanders_off_under_bone_loss_and_ends_ok(
    real_data: Callable[[str], Path], case: str, side: str
) -> None:
    volume, _ = real_volume(real_data(case).parent, case)
    before = next(f for f in find_femora(volume, threads=2)[0] if f.femur.side == side)
    marks = before.femur.landmarks
    assert marks is not None
    for change, weaker in bone_losses(volume, [(full_mask(before, volume.grid), marks)]):
        for found in find_femora(weaker, threads=2)[0]:
            if found.femur.status is Status.FAILED:
                continue
            now = found.femur.landmarks
            assert now is not None
            assert found.femur.side == side, change
            assert np.linalg.norm(now.head_centre_lps_mm - marks.head_centre_lps_mm) < 3.0, change


def test_a_guided_head_with_a_doubtful_outline_is_refused() -> None:
    def warning(code: str) -> Finding:
        return Finding(code, Severity.WARNING, "test")

    guided, unstable, cut = (
        warning(code) for code in ("head_found_by_other_side", "outline_unstable", "truncated_femur")
    )
    assert [f.severity for f in pair.unsupported_findings([guided, unstable])] == [Severity.FAILURE]
    assert pair.unsupported_findings([guided, cut]) == pair.unsupported_findings([unstable, cut]) == []
