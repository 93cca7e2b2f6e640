"""Calibration phantoms found in the image of a digital phantom with known rods and known K2HPO4 gain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from phantoms.kinds import make_phantom
from pipeline.density import calibrate
from pipeline.density.rods import find_plate
from pipeline.segmentation.model import Segmentation
from pipeline.volume import Acquisition, Grid, Volume


def scan(plate, kvp, **options):
    """A rod plate under a water cylinder: volume, an empty segmentation, and the truth."""
    phantom = make_phantom("rods", plate=plate, diameter_mm=160.0)
    image = phantom.image(kvp, slice_mm=2.0, pixel_mm=0.9, **options)
    volume = Volume(image.hu, Grid(image.hu.shape, image.lattice.index_to_lps), Acquisition(kvp=kvp))
    return volume, Segmentation(np.zeros(image.hu.shape, np.uint8), volume.grid), phantom.truth(image)


@pytest.fixture(scope="module")
def mindways():
    return scan("mindways", 120.0)


@pytest.mark.parametrize("kvp", [80.0, 100.0, 120.0, 140.0])
def test_rods_are_found_named_and_give_the_true_line(kvp):
    volume, segmentation, truth = scan("mindways", kvp)
    calibration = calibrate(volume, segmentation)
    assert calibration.method == "phantom_mindways_model3_ct"
    assert [s.hu for s in calibration.samples] == pytest.approx([rod.hu for rod in truth.rods], abs=1.5)
    # Goal: within 2 mg/cm3 + 2 % of the truth at any density of trabecular bone.
    for density in (0.0, 50.0, 100.0, 200.0):
        found = float(calibration.density_mg_cm3(truth.hu_at_zero + truth.hu_per_mg_cm3 * density))
        assert found == pytest.approx(density, abs=1.0 + 0.01 * density)


def test_rods_lie_where_the_phantom_has_them(mindways):
    volume, segmentation, truth = mindways
    plate = find_plate(volume, segmentation)
    found = np.array([rod.points_lps_mm[0, :2] for rod in plate.rods])
    assert np.abs(found - np.array([rod.start_lps_mm[:2] for rod in truth.rods])).max() < 2.0


def test_a_plate_the_other_way_round_is_read_in_its_own_order(mindways):
    volume, segmentation, truth = mindways
    mirrored = replace(volume, hu=np.ascontiguousarray(volume.hu[:, :, ::-1]))
    plate = find_plate(mirrored, segmentation)
    assert plate.name == "mindways_model3_ct"
    assert [rod.hu for rod in plate.rods] == pytest.approx([rod.hu for rod in truth.rods], abs=1.5)


def test_rods_of_an_unknown_phantom_are_not_used_but_said():
    volume, segmentation, _ = scan("ha", 120.0)
    plate = find_plate(volume, segmentation)
    assert plate.name == "unknown" and not plate.rods
    assert "phantom_unidentified" in {f.code for f in calibrate(volume, segmentation).findings}


def test_without_rods_there_is_no_plate(mindways):
    volume, segmentation, _ = mindways
    water = replace(volume, hu=np.where(volume.hu > -500, 0, volume.hu).astype(np.int16))
    assert find_plate(water, segmentation) is None
