"""Contrast agent is told from the aorta, from other bright tissue and from the header, and never corrected for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.density import calibrate
from pipeline.density.bright_tissue import find_bright_tissue
from pipeline.density.conditions import contrast_given, most_native_blood_hu, require_plausible_scale
from pipeline.density.tissues import survey_tissues
from pipeline.errors import NotMeasurable
from pipeline.segmentation.model import Segmentation
from pipeline.volume import Acquisition, Grid, Volume
from tests.pipeline.analytic_bones import grid_of, trunk


def with_kidneys(volume: Volume, hu: float, *, agent: str | None = None) -> Volume:
    """Two ellipsoids of 25 x 20 x 45 mm beside the spine, in place of what lies there."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in volume.shape), indexing="ij"), axis=-1).astype(float)
    x, y, z = np.moveaxis(volume.grid.to_lps(index), -1, 0)
    kidneys = ((np.abs(x) - 75) / 25) ** 2 + ((y - 15) / 20) ** 2 + (z / 45) ** 2 <= 1
    noise = np.random.default_rng(5).normal(0.0, 15.0, volume.shape)
    enhanced = np.where(kidneys, hu + noise, volume.hu).astype(np.int16)
    return replace(volume, hu=enhanced, acquisition=replace(volume.acquisition, contrast_agent=agent))


def judged(volume: Volume, segmentation: Segmentation) -> tuple[bool, set[str]]:
    given, findings = contrast_given(volume, survey_tissues(volume, segmentation))
    return given, {finding.code for finding in findings}


@pytest.mark.parametrize(
    ("blood_hu", "kidney_hu", "agent", "expected"),
    [
        (42.0, 35.0, None, (False, set())),
        (28.0, 35.0, None, (False, set())),
        (58.0, 35.0, None, (False, set())),
        (170.0, 150.0, None, (True, {"contrast_enhanced"})),
        (88.0, 140.0, None, (True, {"contrast_enhanced"})),
        (72.0, 115.0, "Ultravist", (True, {"contrast_enhanced"})),
        (76.0, 35.0, None, (True, {"contrast_possible"})),
        (45.0, 150.0, None, (False, {"bright_contents"})),
        (45.0, 35.0, "Ultravist", (False, {"contrast_tag_without_enhancement"})),
    ],
    ids=["native", "anaemic", "dense blood", "venous", "5 min", "10 min", "faint", "gut or urine", "tag only"],
)
def test_phases_of_contrast_agent(blood_hu, kidney_hu, agent, expected):
    volume, segmentation = trunk(blood_hu=blood_hu)
    assert judged(with_kidneys(volume, kidney_hu, agent=agent), segmentation) == expected


@pytest.mark.parametrize(
    ("kidney_hu", "agent", "expected"),
    [
        (35.0, None, (False, {"contrast_unchecked"})),
        (150.0, None, (True, {"contrast_possible"})),
        (150.0, "APPLIED", (True, {"contrast_enhanced"})),
        (35.0, "APPLIED", (True, {"contrast_enhanced"})),
    ],
)
def test_without_a_vessel_other_tissue_and_the_header_are_asked(kidney_hu, agent, expected):
    volume, segmentation = trunk()
    bare = replace(segmentation, vertebrae=segmentation.vertebrae[:1])
    assert judged(with_kidneys(volume, kidney_hu, agent=agent), bare) == expected


def test_what_cannot_be_excluded_widens_densities_and_corrects_nothing():
    native, segmentation = trunk()
    faint = replace(trunk(blood_hu=76.0)[0])
    plain, widened = calibrate(native, segmentation), calibrate(faint, segmentation)
    assert widened.contrast_enhanced and not plain.contrast_enhanced
    assert "blood" not in widened.reason and widened.uncertainty_mg_cm3(120.0) > plain.uncertainty_mg_cm3(120.0)
    assert widened.slope_mg_cm3_per_hu == pytest.approx(plain.slope_mg_cm3_per_hu, rel=0.03)


def test_blood_may_read_more_at_low_voltages():
    assert 60.0 < most_native_blood_hu(140.0) < most_native_blood_hu(80.0) < 70.0
    assert most_native_blood_hu(None) == most_native_blood_hu(80.0)


# --------------------------------------------------------------------------------------- bright tissue and bone


def ball(hu: float, *, cortex_hu: float | None = None, radius_mm: float = 20.0, around_hu: float = 40.0) -> Volume:
    """A ball in soft tissue, with or without a cortex of 3 mm."""
    grid: Grid = grid_of((90.0, 90.0, 90.0), (1.5, 1.0, 1.0))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1).astype(float)
    distance = np.linalg.norm(grid.to_lps(index), axis=-1)
    values = np.where(distance < radius_mm, hu, around_hu)
    if cortex_hu is not None:
        values[np.abs(distance - radius_mm) < 1.5] = cortex_hu
    values += np.random.default_rng(1).normal(0.0, 15.0, values.shape)
    return Volume(values.astype(np.int16), grid, Acquisition())


def test_an_organ_with_contrast_agent_is_measured():
    found = find_bright_tissue(ball(140.0))
    assert found is not None
    assert found.hu == pytest.approx(140.0, abs=4.0)
    assert found.volume_ml == pytest.approx(4 / 3 * np.pi * 2.0**3, rel=0.3)


@pytest.mark.parametrize("marrow_hu", [95.0, 150.0, 260.0])
def test_bone_is_told_by_its_cortex(marrow_hu):
    assert find_bright_tissue(ball(marrow_hu, cortex_hu=700.0)) is None


def test_organs_without_contrast_agent_and_small_things_are_not_bright():
    assert find_bright_tissue(ball(65.0)) is None
    assert find_bright_tissue(ball(200.0, radius_mm=8.0)) is None


@pytest.mark.parametrize(("hu", "seen"), [(50.0, False), (150.0, True)])
def test_vessels_of_the_thigh_are_seen_when_enhanced(hu, seen):
    grid: Grid = grid_of((130.0, 90.0, 90.0), (2.0, 0.9, 0.9))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1).astype(float)
    x, y, _ = np.moveaxis(grid.to_lps(index), -1, 0)
    vessels = (np.hypot(x - 8, y) < 4.8) | (np.hypot(x + 8, y + 4) < 5.2)
    values = np.where(vessels, hu, -80.0) + np.random.default_rng(4).normal(0.0, 15.0, x.shape)
    found = find_bright_tissue(Volume(values.astype(np.int16), grid, Acquisition()))
    assert (found is not None) is seen


def test_a_volume_of_few_slices_is_not_searched():
    volume = ball(140.0)
    thin = Grid((3, *volume.shape[1:]), volume.grid.index_to_lps)
    assert find_bright_tissue(Volume(volume.hu[:3], thin, Acquisition())) is None


def test_vertebral_bodies_without_a_cortex_are_known_by_their_place():
    """Bodies of even bone, as the test trunk has them, read like an organ; the muscle behind the spine says where they are."""
    volume, segmentation = trunk()
    muscle = survey_tissues(volume, segmentation).samples["muscle"].points_lps_mm
    assert find_bright_tissue(volume) is not None
    assert find_bright_tissue(volume, muscle) is None


# ------------------------------------------------------------------------------------------- energy of the image


@pytest.mark.parametrize(
    ("fat_hu", "kvp", "possible"),
    [(-100.0, 120.0, True), (-118.0, 80.0, True), (-118.0, None, True), (-187.0, 120.0, False), (-187.0, None, False)],
    ids=["120 kVp", "80 kVp", "unknown", "like 40 keV", "like 40 keV, unknown"],
)
def test_fat_shows_an_image_of_another_energy_than_constants_are_for(fat_hu, kvp, possible):
    volume, _ = trunk(fat_hu=fat_hu, kvp=kvp)
    if possible:
        require_plausible_scale(volume)
    else:
        with pytest.raises(NotMeasurable, match="fat reads -1") as refusal:
            require_plausible_scale(volume)
        assert refusal.value.reason == "hu_scale_implausible"
