"""The main job on a synthetic study with known truth: DICOM files in, record, report, label map and DICOM objects out."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

import phantoms
from pipeline import cohort
from pipeline.ingest import find_studies
from pipeline.study import Settings
from reports.record import StudyRecord, load_record


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, phantoms.Truth, cohort.Outcome]:
    """A lumbar spine with both hips, imaged coarsely and analysed once for all tests of this module."""
    folder = tmp_path_factory.mktemp("study")
    phantom = phantoms.make_phantom("torso", seed=11, top_level="T11", sex="F", age_years=70)
    truth = phantoms.write_study(phantom, folder / "input", slice_mm=2.0, pixel_mm=1.0)
    inventory = find_studies([folder / "input" / "dicom"])
    outcomes = cohort.run(inventory, folder / "out", Settings(date_of_service="2025-06-01"))
    assert len(outcomes) == 1
    return folder / "out" / outcomes[0].study, truth, outcomes[0]


@pytest.fixture(scope="module")
def record(study: tuple[Path, phantoms.Truth, cohort.Outcome]) -> StudyRecord:
    return load_record(study[0] / "record.json")


def test_the_study_is_done_and_every_promised_file_is_there(study: tuple[Path, phantoms.Truth, cohort.Outcome]) -> None:
    folder, _, outcome = study
    assert outcome.status == "done", outcome.text
    for name in (
        "record.json", "report.html", "report.pdf", "segmentation.nii.gz", "segmentation.json", "fhir.json",
        "arches.nii.gz", "arches.json",
        "dicom/segmentation.dcm", "dicom/measurements.dcm", "dicom/report.dcm",
    ):  # fmt: skip
        assert (folder / name).stat().st_size > 0
    assert (folder.parent / "cohort.csv").is_file() and (folder.parent / "index.html").is_file()


def test_levels_density_and_shape_agree_with_the_truth(
    study: tuple[Path, phantoms.Truth, cohort.Outcome], record: StudyRecord
) -> None:
    found = {v.name: v for v in record.vertebrae}
    whole = [v for v in study[1].vertebrae if v.complete]
    measured = [v for v in whole if v.name in found and found[v.name].vbmd_mg_cm3 is not None]
    assert len(measured) >= len(whole) - 1
    for true in measured:
        body = found[true.name]
        assert body.vbmd_mg_cm3 is not None and body.vbmd_mg_cm3.uncertainty is not None
        assert abs(body.vbmd_mg_cm3.value - true.trabecular_density_mg_cm3) < 2 * body.vbmd_mg_cm3.uncertainty
        assert body.fracture is not None and body.fracture.genant_grade == true.genant_grade
        assert body.heights_mm is not None
        # One millimetre is half a slice; both endplates are uncertain by less.
        assert abs(body.heights_mm.posterior.value - true.posterior_mm) < 1.5


def test_hips_agree_with_the_truth(study: tuple[Path, phantoms.Truth, cohort.Outcome], record: StudyRecord) -> None:
    found = {f.side: f for f in record.femora}
    for true in study[1].femora:
        femur = found[true.side]
        assert femur.abmd_g_cm2 is not None and femur.abmd_g_cm2.total_hip is not None
        assert femur.abmd_g_cm2.total_hip.value == pytest.approx(true.abmd["total_hip"].abmd_g_cm2, abs=0.06)
        assert femur.strength_n is not None and 500 < femur.strength_n.value < 10_000


def test_the_leading_strengths_carry_an_ensemble_with_its_contributions(record: StudyRecord) -> None:
    """The weakest vertebra and each hip, unasked; the others are of first order."""
    tested = {v.name: v.strength_n for v in record.vertebrae if v.strength_n is not None}
    hips = {f.name: f.strength_n for f in record.femora if f.strength_n is not None}
    weakest = min(tested, key=lambda name: tested[name].value)
    assert len(tested) > 1 and hips
    for name, strength in (tested | hips).items():
        designed = name == weakest or name in hips
        assert strength.model["uncertainty"] == ("designed ensemble of 16" if designed else "first order")
        if designed:
            assert {"calibration", "boundary", "pose", "law, level", "law, exponent"} <= set(strength.components)
            assert (
                float(strength.model["ensemble_lowest_n"])
                < strength.value
                < float(strength.model["ensemble_highest_n"])
            )


def test_each_number_has_its_uncertainty_and_each_absence_its_reason(record: StudyRecord) -> None:
    for structure in (*record.vertebrae, *record.femora):
        for key, reason in structure.not_measured.items():
            assert reason.code and reason.text, (structure.name, key)
    assert record.calibration is not None and record.calibration.covariance is not None
    assert set(record.timings_s) >= {"reading", "segmentation", "density", "strength", "documents", "total"}


def test_the_label_map_lies_on_the_images_and_overlaps_the_truth(
    study: tuple[Path, phantoms.Truth, cohort.Outcome],
) -> None:
    folder, truth, _ = study
    image = nibabel.load(folder / "segmentation.nii.gz")
    true_image = nibabel.load(folder.parent.parent / "input" / "truth_labels.nii.gz")
    assert image.shape == true_image.shape
    assert np.allclose(image.affine, true_image.affine, atol=1e-3)
    ours, theirs = np.asarray(image.dataobj), np.asarray(true_image.dataobj)
    names = json.loads((folder / "segmentation.json").read_text(encoding="utf-8"))
    assert names["20"] == "vertebra_L1" and names["31"] == "femur_left"
    for name in ("vertebra_L1", "vertebra_L3", "femur_left", "femur_right"):
        number = truth.labels[name]
        mine, true = ours == number, theirs == number
        if name.startswith("femur"):  # ours ends below the lesser trochanter, the truth at the edge of the image
            lowest = np.argwhere(mine)[:, 2].min() + 2
            mine, true = mine[:, :, lowest:], true[:, :, lowest:]
        dice = 2 * (mine & true).sum() / (mine.sum() + true.sum())
        assert dice > 0.88, (name, dice)


def test_the_patient_left_is_left(study: tuple[Path, phantoms.Truth, cohort.Outcome]) -> None:
    image = nibabel.load(study[0] / "segmentation.nii.gz")
    labels = np.asarray(image.dataobj)
    left, right = (nibabel.affines.apply_affine(image.affine, np.argwhere(labels == n).mean(axis=0)) for n in (31, 32))
    assert left[0] < 0 < right[0]  # NIfTI x runs to the right


def test_dicom_objects_stay_in_the_study_and_name_no_other_patient(
    study: tuple[Path, phantoms.Truth, cohort.Outcome],
) -> None:
    folder = study[0]
    source_file = next((folder.parent.parent / "input" / "dicom" / "series2").iterdir())
    source = pydicom.dcmread(source_file, stop_before_pixels=True)
    for name in ("segmentation", "measurements", "report"):
        made = pydicom.dcmread(folder / "dicom" / f"{name}.dcm")
        assert made.StudyInstanceUID == source.StudyInstanceUID
        assert made.PatientID == source.PatientID
        assert made.SeriesInstanceUID != source.SeriesInstanceUID


def test_no_file_that_is_shared_names_the_patient(study: tuple[Path, phantoms.Truth, cohort.Outcome]) -> None:
    folder = study[0]
    source_file = next((folder.parent.parent / "input" / "dicom" / "series2").iterdir())
    source = pydicom.dcmread(source_file, stop_before_pixels=True)
    shared = [folder / "record.json", folder / "report.html", folder / "fhir.json", *folder.parent.glob("*.*")]
    for secret in (str(source.PatientID), str(source.PatientName)):
        assert len(secret) > 3
        for file in shared:
            assert secret.encode() not in file.read_bytes(), (file.name, secret)


def test_coverage_stands_in_the_record_for_the_date_of_service(record: StudyRecord) -> None:
    services = {s.cpt: s for s in record.services}
    assert set(services) == {"0691T", "0743T"}
    coverage = services["0743T"].coverage
    assert coverage is not None and coverage.status == "NOT_COVERED" and coverage.date_of_service == "2025-06-01"
    assert services["0743T"].supported
