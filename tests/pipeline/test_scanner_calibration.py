"""`openbct calibrate`: from a scan of a phantom to a calibration file, and from the file to later scans."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from phantoms import make_phantom, write_study
from pipeline.calibrate_command import calibrate_scanner, phantom_definition
from pipeline.cli import app
from pipeline.density import calibration_file
from pipeline.density.calibration_file import CalibrationRecord
from pipeline.density.given_phantom import named_phantom, read_certificate
from pipeline.density.rods import find_plate
from pipeline.density.scanner import calibrate_scanner as calibrate_volume
from pipeline.errors import InputRefused, NotMeasurable, Severity
from pipeline.ingest import find_studies, load_volume
from pipeline.segmentation.model import Segmentation
from pipeline.volume import Acquisition, Grid, Volume

GRID = np.diag([2.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]]


@pytest.fixture(scope="module")
def phantom_scan(tmp_path_factory):
    """DICOM of a Mindways-like plate under water at 120 kVp, as `openbct phantom rods` writes it."""
    folder = tmp_path_factory.mktemp("rods")
    write_study(make_phantom("rods", diameter_mm=160.0), folder, kvp=120.0, slice_mm=2.5, pixel_mm=0.9)
    return folder


@pytest.fixture(scope="module")
def phantom_volume(phantom_scan):
    stacks = find_studies([phantom_scan]).studies[0].stacks
    return load_volume(max(stacks, key=lambda stack: stack.count))


def of_numpy(rods_hu, *, radius_mm=8.0, step_mm=60.0, kvp=120.0):
    """A water body of 240 mm with discs in a row behind it, built without the phantoms package."""
    y, x = np.mgrid[0:300, 0:300].astype(float)
    plane = np.where((x - 150) ** 2 + (y - 120) ** 2 < 110**2, 0.0, -1000.0)
    plane[232:262, 40:260] = -60.0
    middle = (len(rods_hu) - 1) / 2
    for i, hu in enumerate(rods_hu):
        plane[(x - 150 - (i - middle) * step_mm) ** 2 + (y - 247) ** 2 < radius_mm**2] = hu
    noise = np.random.default_rng(1).normal(0, 8, (24, 300, 300))
    hu = (plane + noise).astype(np.float32)
    return Volume(hu, Grid(hu.shape, GRID), Acquisition(kvp=kvp))


def unsegmented(volume):
    return Segmentation(np.zeros(volume.shape, np.uint8), volume.grid)


def record(**facts):
    base = {
        "slope_mg_cm3_per_hu": 0.72,
        "intercept_mg_cm3": 0.0,
        "mineral": "K2HPO4",
        "kvp": 120.0,
        "device_serial_number": "A1",
        "kernel": "B30f",
        "measured_on": date(2024, 1, 1),
    }
    return CalibrationRecord(**(base | facts))


def scan_of(**facts):
    base = {"kvp": 120.0, "device_serial_number": "A1", "kernel": "B30f", "acquisition_date": "2024-06-01"}
    return Acquisition(**(base | facts))


def test_a_phantom_scan_becomes_a_record_of_its_setting(phantom_scan, tmp_path):
    target = tmp_path / "scanner.json"
    attempts = calibrate_scanner(find_studies([phantom_scan]), target)
    (held,) = calibration_file.read(target)
    assert held == next(a.record for a in attempts if a.record)
    assert (held.kvp, held.kernel, held.device_serial_number) == (120.0, "STANDARD", "000001")
    assert held.phantom == "mindways_model3_ct" and held.valid_until.year == held.measured_on.year + 1
    truth = json.loads((phantom_scan / "truth.json").read_text())
    assert held.density_mg_cm3(100.0 * truth["hu_per_mg_cm3"]) == pytest.approx(100.0, abs=3.0)


def test_series_without_a_phantom_leave_a_reason_and_no_file(tmp_path):
    write_study(make_phantom("water"), tmp_path / "water", kvp=120.0, slice_mm=5.0, pixel_mm=1.2)
    attempts = calibrate_scanner(find_studies([tmp_path / "water"]), tmp_path / "scanner.json")
    assert attempts and all(attempt.refused for attempt in attempts)
    assert not (tmp_path / "scanner.json").exists()


def test_the_same_scan_enters_once_and_other_records_stay(phantom_scan, tmp_path):
    target = tmp_path / "scanner.json"
    calibration_file.write(target, [record(kvp=80.0)])
    inventory = find_studies([phantom_scan])
    calibrate_scanner(inventory, target)
    again = calibrate_scanner(inventory, target)
    assert sorted(one.kvp for one in calibration_file.read(target)) == [80.0, 120.0]
    assert any(attempt.already_held for attempt in again)


def test_a_scan_measured_anew_with_its_certificate_replaces_the_earlier_line(phantom_scan, tmp_path):
    target = tmp_path / "scanner.json"
    inventory = find_studies([phantom_scan])
    calibrate_scanner(inventory, target)
    own = named_phantom("mindways_model3_ct")
    certified = replace(own, density_mg_cm3=tuple(1.02 * v for v in own.density_mg_cm3), certified=True)
    attempts = calibrate_scanner(inventory, target, definition=certified)
    (held,) = calibration_file.read(target)
    assert any(attempt.replaced for attempt in attempts)
    assert "certificate" in held.reference


def test_a_file_that_is_none_is_refused_and_left_alone(phantom_scan, tmp_path):
    target = tmp_path / "notes.json"
    target.write_text("[]", encoding="utf-8")
    with pytest.raises(InputRefused, match=r"content.*another name"):
        calibrate_scanner(find_studies([phantom_scan]), target)
    assert target.read_text(encoding="utf-8") == "[]"


def test_a_line_without_tube_voltage_would_fit_nothing(phantom_volume):
    nameless = replace(phantom_volume, acquisition=Acquisition())
    with pytest.raises(InputRefused) as refusal:
        calibrate_volume(nameless)
    assert refusal.value.reason == "kvp_unknown"


def test_rods_from_a_mask_give_the_line_of_the_search(phantom_volume, tmp_path):
    found, line = calibrate_volume(phantom_volume)
    labels = np.zeros(phantom_volume.shape, np.uint8)
    index = np.array([phantom_volume.grid.to_index(sample.points_lps_mm[0]) for sample in line.samples])
    y, x = np.mgrid[0 : labels.shape[1], 0 : labels.shape[2]]
    for number, (_, row, column) in enumerate(index, 1):
        labels[5:-5, ((y - row) ** 2 + (x - column) ** 2) * 0.81 < 36.0] = number
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ phantom_volume.grid.index_to_lps[:, [2, 1, 0, 3]]
    path = tmp_path / "rods.nii.gz"
    nibabel.save(nibabel.Nifti1Image(labels.transpose(2, 1, 0), to_ras), path)
    given, _ = calibrate_volume(phantom_volume, definition=named_phantom("mindways_model3_ct"), rods=path)
    assert given.density_mg_cm3(150.0) == pytest.approx(found.density_mg_cm3(150.0), abs=1.0)
    with pytest.raises(InputRefused) as refusal:
        calibrate_volume(phantom_volume, definition=named_phantom("qrm_bdc6"), rods=path)
    assert refusal.value.reason == "phantom_rods_missing"
    with pytest.raises(InputRefused) as refusal:
        calibrate_volume(phantom_volume, rods=path)
    assert refusal.value.reason == "phantom_unnamed"


def test_a_mask_on_another_grid_is_refused(phantom_volume, tmp_path):
    path = tmp_path / "rods.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), path)
    with pytest.raises(InputRefused) as refusal:
        calibrate_volume(phantom_volume, definition=named_phantom("mindways_model3_ct"), rods=path)
    assert refusal.value.reason == "grids_differ"


def test_a_certificate_names_a_phantom_that_is_in_no_table(tmp_path):
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps({"name": "ours", "mineral": "HA", "density_mg_cm3": [0, 50, 300]}), encoding="utf-8")
    volume = of_numpy([10.0, 10.0 + 50 * 1.45, 10.0 + 300 * 1.45])
    with pytest.raises(NotMeasurable):
        calibrate_volume(volume)
    held, line = calibrate_volume(volume, definition=read_certificate(path))
    assert held.phantom == "ours" and held.mineral == "HA"
    assert held.slope_mg_cm3_per_hu == pytest.approx(1 / 1.45, rel=0.02)
    assert "phantom_certificate_unknown" not in {finding.code for finding in line.findings}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"name": "x"}',
        '{"name": "x", "mineral": "CaCO3", "density_mg_cm3": [0, 1]}',
        '{"name": "x", "mineral": "HA", "density_mg_cm3": [0, 1], "water_mg_cm3": [1000]}',
    ],
)
def test_a_broken_certificate_is_refused(content, tmp_path):
    path = tmp_path / "certificate.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputRefused) as refusal:
        read_certificate(path)
    assert refusal.value.reason == "certificate_unreadable"


def test_an_unknown_name_or_two_names_are_refused(tmp_path):
    with pytest.raises(InputRefused, match="mindways_model3_ct"):
        named_phantom("nobody's")
    with pytest.raises(InputRefused):
        phantom_definition("qrm_bdc3", tmp_path / "certificate.json")


def test_the_command_writes_the_file_and_run_accepts_it(phantom_scan, tmp_path):
    target = tmp_path / "scanner.json"
    call = CliRunner().invoke(app, ["calibrate", str(phantom_scan), "-o", str(target)])
    assert call.exit_code == 0, call.output
    assert "mindways_model3_ct" in call.output and "density = 0.7" in call.output
    refused = CliRunner().invoke(app, ["calibrate", str(phantom_scan), "-o", str(target), "--phantom", "qrm_bdc6"])
    assert refused.exit_code == 1
    assert len(calibration_file.read(target)) == 1


class TestTwoRods:
    """Two points always lie on a line, so that two discs must be more than that."""

    def test_two_even_discs_with_the_gain_of_physics_are_a_siemens_plate_and_a_warning(self):
        volume = of_numpy([2.0, 2.0 + 200 * 1.4])
        plate = find_plate(volume, unsegmented(volume))
        assert plate.name == "siemens_osteo"
        assert [finding.code for finding in plate.findings] == ["phantom_two_rods"]
        assert [rod.hu for rod in plate.rods] == pytest.approx([2.0, 282.0], abs=2.0)

    @pytest.mark.parametrize("rods_hu", [(60.0, 340.0), (2.0, 120.0), (2.0, 700.0), (280.0, 280.0)])
    def test_any_other_two_discs_are_not(self, rods_hu):
        volume = of_numpy(rods_hu)
        assert find_plate(volume, unsegmented(volume)) is None


class TestMatching:
    """A file with many records: scanner and voltage must be right, then the kernel, then the day."""

    def test_the_nearest_day_of_the_same_kernel_is_taken(self):
        near = record(measured_on=date(2024, 5, 1))
        records = [record(), near, record(kernel="B70f", measured_on=date(2024, 6, 1)), record(kvp=100.0)]
        found = calibration_file.match(records, scan_of(), subject="file")
        assert found.record is near and not found.findings
        assert found.drift_relative == pytest.approx(0.015 * 31 / 365.25)

    def test_a_kernel_of_the_same_class_before_one_of_another(self):
        records = [record(kernel="B70f"), record(kernel="B31f")]
        found = calibration_file.match(records, scan_of(), subject="file")
        assert found.record.kernel == "B31f"
        assert {finding.code for finding in found.findings} == {"calibration_kernel_differs"}

    @pytest.mark.parametrize(
        "facts", [{"kvp": 140.0}, {"device_serial_number": "B2"}, {"kvp": None}], ids=["voltage", "scanner", "unsaid"]
    )
    def test_nothing_is_taken_that_may_be_wrong(self, facts):
        with pytest.raises(InputRefused) as refusal:
            calibration_file.match([record(), record(kvp=100.0)], scan_of(**facts), subject="file")
        assert refusal.value.reason == "calibration_mismatch"


class TestDrift:
    def test_a_scanner_that_moves_is_told_with_its_rate(self):
        moved = record(measured_on=date(2025, 1, 1), intercept_mg_cm3=6.0)
        (finding,) = calibration_file.drift_findings([record(), moved])
        assert finding.code == "calibration_drift" and finding.severity is Severity.WARNING
        assert "+6.0" in finding.text and "a year" in finding.text

    def test_one_that_does_not_is_steady(self):
        (finding,) = calibration_file.drift_findings(
            [record(), record(measured_on=date(2025, 1, 1), intercept_mg_cm3=0.5)]
        )
        assert finding.code == "calibration_steady" and finding.severity is Severity.INFO

    def test_other_settings_are_no_comparison(self):
        later = date(2025, 1, 1)
        others = [record(kvp=100.0), record(device_serial_number="B2"), record(kernel="B70f"), record(mineral="HA")]
        assert not calibration_file.drift_findings([*others, record(measured_on=later, intercept_mg_cm3=9.0)])


@pytest.mark.realdata
@pytest.mark.parametrize("case", ["crlm1006_abdomen_5mm", "sts044_hip_right"])
def test_no_phantom_is_seen_where_none_lies(case, real_data):
    study = find_studies([real_data(case) / "ct.nii.gz"]).studies[0]
    volume = load_volume(study.stacks[0])
    assert find_plate(volume, unsegmented(volume)) is None
