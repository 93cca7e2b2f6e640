"""A phantom that the user names, with its own certificate or a mask of its rods, calibrates the scan that it lies in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipeline.density import Alternative, calibrate, calibrate_from_rods
from pipeline.density.calibration import _disagreement
from pipeline.density.conditions import require_plausible_scale
from pipeline.density.given_phantom import GivenPhantom, named_phantom, phantom_by
from pipeline.density.plate_calibration import plate_in_scan
from pipeline.density.rods import find_plate
from pipeline.errors import InputRefused, NotMeasurable
from pipeline.settings import Settings
from pipeline.volume import Acquisition, Grid, Volume
from tests.pipeline.plate_scenes import GAIN, plate_scene, rod_hu

MINDWAYS = "mindways_model3_ct"


@pytest.fixture(scope="module")
def scene():
    return plate_scene(rod_hu(MINDWAYS))


@pytest.fixture(scope="module")
def rods(scene, tmp_path_factory) -> Path:
    """A label map of the five rods, as a user would draw it."""
    volume, segmentation = scene
    plate = find_plate(volume, segmentation)
    labels = np.zeros(volume.shape, np.uint8)
    y, x = np.mgrid[0 : labels.shape[1], 0 : labels.shape[2]]
    for number, rod in enumerate(plate.rods, 1):
        _, row, column = volume.grid.to_index(rod.points_lps_mm.mean(axis=0))
        labels[3:-3, (y - row) ** 2 + (x - column) ** 2 < 49.0] = number
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.grid.index_to_lps[:, [2, 1, 0, 3]]
    path = tmp_path_factory.mktemp("rods") / "rods.nii.gz"
    nibabel.save(nibabel.Nifti1Image(labels.transpose(2, 1, 0), to_ras), path)
    return path


def test_rods_are_read_where_the_mask_says(scene, rods):
    line = calibrate(*scene, given=GivenPhantom(named_phantom(MINDWAYS), rods))
    assert line.method == f"phantom_{MINDWAYS}"
    assert line.density_mg_cm3(100.0 * GAIN) == pytest.approx(100.0, abs=2.0)


def test_the_certificate_of_the_plate_counts_more_than_published_values(scene, tmp_path):
    published = named_phantom(MINDWAYS)
    certificate = tmp_path / "certificate.json"
    content = {
        "name": "our plate",
        "mineral": "K2HPO4",
        "density_mg_cm3": [1.1 * d for d in published.density_mg_cm3],
        "water_mg_cm3": list(published.water_mg_cm3),
    }
    certificate.write_text(json.dumps(content), encoding="utf-8")
    line = calibrate(*scene, given=GivenPhantom(phantom_by(str(certificate))))
    assert line.method == "phantom_our plate"
    # A tenth more mineral for the same HU: less gain, of which the displaced water (0.2174) is a part.
    assert line.density_mg_cm3(100.0 * GAIN) == pytest.approx(100.0 * GAIN / ((GAIN + 0.2174) / 1.1 - 0.2174), abs=2.0)
    assert "phantom_certificate_unknown" not in {finding.code for finding in line.findings}


def test_a_phantom_that_is_not_in_the_scan_is_said_to_be_missing(scene):
    try:
        line = calibrate(*scene, given=GivenPhantom(named_phantom("qrm_bdc3")))
    except NotMeasurable as refused:
        pytest.skip(f"nothing else calibrates this scene: {refused.reason}")
    assert not line.method.startswith("phantom")
    assert "phantom_not_found" in {finding.code for finding in line.findings}


@pytest.mark.parametrize(("kvp", "said"), [(120.0, False), (80.0, True), (100.0, False)])
def test_rods_that_read_as_at_another_voltage_are_told_from_the_header(scene, kvp, said):
    # The scene has the gain of 69 keV: 120 kVp. Neighbouring voltages cannot be told apart.
    volume, segmentation = scene
    tagged = replace(volume, acquisition=Acquisition(kvp=kvp))
    line = calibrate(tagged, segmentation)
    assert line.method.startswith("phantom")
    assert ("voltage_doubtful" in {finding.code for finding in line.findings}) is said


def test_settings_refuse_what_cannot_be_read(rods, tmp_path):
    with pytest.raises(InputRefused, match="without saying of which phantom"):
        Settings(rods=str(rods)).check()
    with pytest.raises(InputRefused, match="does not exist"):
        Settings(rods=str(tmp_path / "none.nii.gz"), phantom=MINDWAYS).check()
    with pytest.raises(InputRefused) as refusal:
        Settings(phantom="nobody's").check()
    assert refusal.value.reason == "unknown_phantom"
    settings = Settings(phantom=MINDWAYS, rods=str(rods))
    settings.check()
    assert settings.as_json()["rods"].startswith("sha256:") and settings.as_json()["phantom"] == MINDWAYS


@pytest.mark.parametrize(("gain", "said"), [(1.37 * 0.87, False), (1.37 * 0.87 * 1.5, True)])
def test_rods_of_hydroxyapatite_are_held_against_the_reference_tissues(gain, said):
    # Of two rods nothing else can check the line; tissues read 130 HU as 130 / 1.37 mg/cm3 K2HPO4.
    rods = calibrate_from_rods(gain * np.array([0.0, 200.0]), "siemens_osteo", kvp=120.0)
    tissues = Alternative("internal_tissues", 1 / 1.37, 0.0, 130.0 / 1.37, 5.0, comparable=False, note="")
    assert ("calibrations_disagree" in {f.code for f in _disagreement(rods, (tissues,))}) is said


def test_only_rods_whose_energy_can_be_told_are_read_against_the_voltage_of_the_header():
    for product, trusted in ((MINDWAYS, True), ("qrm_bdc6", False)):
        volume, segmentation = plate_scene(rod_hu(product))
        tagged = replace(volume, acquisition=Acquisition(kvp=80.0))
        plate, read_at_kvp = plate_in_scan(tagged, segmentation, None)
        found = plate is not None and bool(plate.rods)
        assert found is trusted or read_at_kvp == 80.0
        assert (read_at_kvp is None) is (found and trusted)


def test_a_shifted_image_whose_fat_lies_at_the_edge_of_its_window_is_still_refused():
    # Fat at -35 HU and muscle at 110: shifted by 70 HU. Noise of water about 0 alone has no fat to look at.
    rng = np.random.default_rng(1)
    shifted = np.where(np.arange(64)[:, None, None] < 32, -35.0, 110.0) + rng.normal(0, 3, (64, 64, 64))
    grid = Grid(shifted.shape, np.diag([2.0, 2.0, 2.0, 1.0])[[2, 1, 0, 3]])
    with pytest.raises(NotMeasurable, match="fat reads"):
        require_plausible_scale(Volume(shifted.astype(np.float32), grid, Acquisition(kvp=120.0)))
    water = rng.normal(45, 30, (64, 64, 64)).astype(np.float32)
    require_plausible_scale(Volume(water, grid, Acquisition(kvp=120.0)))
