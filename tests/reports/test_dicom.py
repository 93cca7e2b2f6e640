"""DICOM objects: the same voxels and the same numbers must come back out, whatever the orientation of the source."""

from __future__ import annotations

import datetime as dt
import io
import shutil
import subprocess
import sys
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from reports.dicom import Provenance, encapsulated_pdf, segmentation_object, structured_report
from reports.dicom.frames import labels_on_planes, source_planes
from reports.dicom.segmentation import segment_numbers
from reports.quantity import Quantity
from reports.record import (
    Assessment,
    Calibration,
    Coverage,
    Femur,
    Finding,
    Service,
    Severity,
    Software,
    Status,
    Study,
    StudyRecord,
    Vertebra,
)
from tests.reports.example_records import example_record as whole_study

COVERAGE_TEXT = "0691T: not covered."
PROVENANCE = Provenance(version="0.1.0", digest="abc")
NAMES = {20: "vertebra_L1", 31: "femur_left", 41: "vertebra_u1"}
ORIENTATIONS: dict[str, tuple[list[float], list[float]]] = {
    "head first supine": ([1, 0, 0], [0, 1, 0]),
    "feet first supine": ([-1, 0, 0], [0, 1, 0]),
    "head first prone": ([-1, 0, 0], [0, -1, 0]),
    "oblique": ([0.9848, 0.1736, 0], [-0.1710, 0.9698, -0.1736]),
    "feet first, turned and oblique": ([-0.8529, 0.4924, 0.1736], [0.5000, 0.8660, 0.0000]),
}


def ct_headers(row: list[float], column: list[float], slices: int = 6) -> list[Dataset]:
    """Headers of a classic CT series with the given image orientation, sorted along its normal."""
    along_row, down_column = np.array(row, float), np.array(column, float)
    along_row /= np.linalg.norm(along_row)
    down_column -= along_row * (along_row @ down_column)
    down_column /= np.linalg.norm(down_column)
    normal = np.cross(along_row, down_column)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    headers = []
    for number in range(slices):
        header = Dataset()
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, generate_uid()
        header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = study, series, frame
        header.PatientName, header.PatientID, header.PatientBirthDate, header.PatientSex = (
            "Doe^Jane",
            "77",
            "19500101",
            "F",
        )
        header.StudyDate, header.StudyTime, header.StudyID, header.AccessionNumber = "20250601", "120000", "1", "A1"
        header.ReferringPhysicianName = ""
        header.Modality, header.Rows, header.Columns = "CT", 10, 12
        header.ImagePositionPatient = [float(v) for v in np.array([-20.0, 5.0, 30.0]) + normal * 2.5 * number]
        header.ImageOrientationPatient = [float(v) for v in (*along_row, *down_column)]
        header.PixelSpacing, header.SliceThickness = [0.9, 0.8], 2.5
        header.InstanceNumber = number + 1
        header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
        header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
        headers.append(header)
    return headers


def grid_of(headers: list[Dataset]) -> NDArray[np.float64]:
    """The index-to-LPS matrix of an array stacked in the order of the headers."""
    first, last = headers[0], headers[-1]
    row, column = np.array(first.ImageOrientationPatient[:3], float), np.array(first.ImageOrientationPatient[3:], float)
    step = (np.array(last.ImagePositionPatient) - np.array(first.ImagePositionPatient)) / (len(headers) - 1)
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 2] = step, column * first.PixelSpacing[0], row * first.PixelSpacing[1]
    matrix[:3, 3] = first.ImagePositionPatient
    return matrix


def random_labels(shape: tuple[int, int, int], seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).choice([0, 0, 20, 31, 41], shape).astype(np.uint8)


@given(
    orientation=st.sampled_from(sorted(ORIENTATIONS)), seed=st.integers(0, 99), flips=st.tuples(*[st.booleans()] * 3)
)
@settings(max_examples=25, deadline=None)
def test_labels_come_back_on_the_source_frames_from_any_flipped_grid(
    orientation: str, seed: int, flips: tuple[bool, bool, bool]
) -> None:
    headers = ct_headers(*ORIENTATIONS[orientation])
    labels, matrix = random_labels((6, 10, 12), seed), grid_of(headers)
    flipped, flipped_matrix = labels, matrix.copy()
    for axis, flip in enumerate(flips):
        if flip:
            flipped_matrix[:3, 3] += flipped_matrix[:3, axis] * (labels.shape[axis] - 1)
            flipped_matrix[:3, axis] *= -1
            flipped = np.flip(flipped, axis)
    assert np.array_equal(
        labels_on_planes(np.ascontiguousarray(flipped), flipped_matrix, source_planes(headers)), labels
    )


_SHARES = st.sampled_from([0.0, 0.1, -0.2, 0.4])


@given(
    permutation=st.permutations([0, 1, 2]), flips=st.tuples(*[st.booleans()] * 3), seed=st.integers(0, 99),
    shift=st.tuples(*[st.builds(float.__add__, st.sampled_from([-3.0, -1.0, 0.0, 2.0]), _SHARES)] * 3),
    margin=st.tuples(*[st.integers(0, 4)] * 3),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_slicing_and_looking_up_each_pixel_give_the_same_planes(
    permutation: list[int], flips: tuple[bool, bool, bool], seed: int, shift: tuple[float, float, float],
    margin: tuple[int, int, int],
) -> None:  # fmt: skip
    """The quick way through the array against the way that holds for any grid, also where the planes reach beyond it."""
    headers = ct_headers(*ORIENTATIONS["oblique"])
    labels = np.ascontiguousarray(
        random_labels((6 + margin[0], 10 + margin[1], 12 + margin[2]), seed).transpose(permutation)
    )
    matrix = grid_of(headers)
    matrix[:3, 3] += matrix[:3, :3] @ np.array(shift)
    matrix[:3, :3] = matrix[:3, :3][:, permutation]
    for axis, flip in enumerate(flips):
        if flip:
            matrix[:3, 3] += matrix[:3, axis] * (labels.shape[axis] - 1)
            matrix[:3, axis] *= -1
    planes = source_planes(headers)
    quick = labels_on_planes(labels, matrix, planes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reports.dicom.frames._reordered", lambda *_: None)
        assert np.array_equal(labels_on_planes(labels, matrix, planes), quick)


def test_a_grid_that_coincides_with_the_planes_is_sliced(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = ct_headers(*ORIENTATIONS["oblique"])
    monkeypatch.setattr(np, "rint", lambda value: round_or_fail(np.asarray(value)))
    labels = random_labels((6, 10, 12), 1)
    assert np.array_equal(labels_on_planes(labels, grid_of(headers), source_planes(headers)), labels)


def round_or_fail(value: NDArray[np.float64]) -> NDArray[np.float64]:
    assert value.ndim < 2 or value.shape == (2, 3), "every pixel was looked up by itself"
    return value.round()


@pytest.mark.parametrize("orientation", sorted(ORIENTATIONS))
def test_a_segmentation_read_back_covers_the_same_points_of_the_patient(orientation: str, tmp_path: Path) -> None:
    headers = ct_headers(*ORIENTATIONS[orientation])
    labels, matrix = random_labels((6, 10, 12), 3), grid_of(headers)
    written = segmentation_object(labels, matrix, NAMES, headers, PROVENANCE)
    assert written is not None
    written.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    read = hd.seg.segread(tmp_path / "seg.dcm")
    assert read.PatientID == "77" and read.StudyInstanceUID == headers[0].StudyInstanceUID
    assert read.FrameOfReferenceUID == headers[0].FrameOfReferenceUID
    for number, name in NAMES.items():
        segment = next(s for s in read.SegmentSequence if s.TrackingID == name)
        volume = read.get_volume(segment_numbers=[int(segment.SegmentNumber)], combine_segments=True, relabel=True)
        there = np.argwhere(np.asarray(volume.array) > 0)
        points_read = volume.map_indices_to_reference(there)
        expected = np.argwhere(labels == number) @ matrix[:3, :3].T + matrix[:3, 3]
        assert len(points_read) == len(expected)
        assert np.allclose(np.sort(points_read.round(3), axis=0), np.sort(expected.round(3), axis=0), atol=1e-2)


ARCHES = {20: "vertebra_L1_arch", 41: "vertebra_u1_arch"}


def random_arches(labels: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Arches beside the bodies, never inside them."""
    return np.where(labels == 0, np.random.default_rng(seed).choice([0, 0, 20, 41], labels.shape), 0).astype(np.uint8)


@pytest.mark.parametrize("orientation", ["feet first, turned and oblique", "head first supine"])
def test_arches_are_segments_of_their_own_and_leave_the_bodies_alone(orientation: str, tmp_path: Path) -> None:
    headers = ct_headers(*ORIENTATIONS[orientation])
    labels, matrix = random_labels((6, 10, 12), 3), grid_of(headers)
    arches = random_arches(labels, 4)
    bare = segmentation_object(labels, matrix, NAMES, headers, PROVENANCE)
    written = segmentation_object(labels, matrix, NAMES, headers, PROVENANCE, arches=arches, arch_names=ARCHES)
    assert bare is not None and written is not None
    before, after = segment_numbers(bare), segment_numbers(written)
    assert before.items() <= after.items() and set(after) - set(before) == set(ARCHES.values())
    written.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    read = hd.seg.segread(tmp_path / "seg.dcm")
    for names, voxels in ((NAMES, labels), (ARCHES, arches)):
        for number, name in names.items():
            volume = read.get_volume(segment_numbers=[after[name]], combine_segments=True, relabel=True)
            points = volume.map_indices_to_reference(np.argwhere(np.asarray(volume.array) > 0))
            expected = np.argwhere(voxels == number) @ matrix[:3, :3].T + matrix[:3, 3]
            assert np.allclose(np.sort(points.round(3), axis=0), np.sort(expected.round(3), axis=0), atol=1e-2)
    arch = read.get_segment_description(after["vertebra_L1_arch"])
    assert arch.segmented_property_type.value == "40265002"  # Arch of vertebra
    assert arch.anatomic_regions[0].value == "66794005"  # L1 vertebra
    assert arch.segment_label == "vertebra_L1_arch"


def test_a_body_counts_where_an_arch_map_runs_into_it() -> None:
    headers = ct_headers(*ORIENTATIONS["head first supine"])
    labels = random_labels((6, 10, 12), 3)
    everywhere = np.full(labels.shape, 20, np.uint8)
    written = segmentation_object(
        labels, grid_of(headers), NAMES, headers, PROVENANCE, arches=everywhere, arch_names=ARCHES
    )
    assert written is not None
    frames = hd.seg.Segmentation.from_dataset(written)
    counts = {
        name: int(
            np.asarray(frames.get_volume(segment_numbers=[number], combine_segments=True, relabel=True).array).sum()
        )
        for name, number in segment_numbers(written).items()
    }
    assert counts == {name: int((labels == n).sum()) for n, name in NAMES.items()} | {
        "vertebra_L1_arch": int((labels == 0).sum())
    }


def quantity(value: float, unit: str) -> Quantity:
    return Quantity(value=value, unit=unit, uncertainty=abs(value) * 0.05, method="test")


def example_record() -> StudyRecord:
    missing = Finding(code="not_in_view", severity=Severity.FAILURE, text="The level is outside the scan.")
    l1 = Vertebra(
        name="vertebra_L1",
        level="L1",
        status=Status.OK,
        trabecular_hu=quantity(118.25, "[hnsf'U]"),
        vbmd_mg_cm3=quantity(96.123456789, "mg/cm3 K2HPO4"),
        not_measured=dict.fromkeys(("heights_mm", "fracture", "strength_n", "stiffness_n_mm"), missing),
    )
    u1 = Vertebra(name="vertebra_u1", status=Status.FAILED, findings=(missing,))
    femur = Femur(name="femur_left", side="left", status=Status.FAILED, findings=(missing,))
    return StudyRecord(
        software=Software(version="0.1.0"),
        study=Study(key="s1", report_date="2026-11-21"),
        calibration=Calibration(method="test", mineral="K2HPO4", slope_mg_cm3_per_hu=0.8, intercept_mg_cm3=0.0),
        vertebrae=(l1, u1),
        femora=(femur,),
        assessment=Assessment(classification="not_determined", statement="Not determined."),
        services=(Service(cpt="0691T", supported=False, coverage=Coverage(status="NOT_COVERED", text=COVERAGE_TEXT)),),
    )


def numeric_values(dataset: Dataset) -> list[float]:
    return [
        float(item.MeasuredValueSequence[0].NumericValue)
        for item in walk(dataset)
        if item.get("ValueType") == "NUM" and item.MeasuredValueSequence
    ]


def walk(item: Dataset) -> list[Dataset]:
    children = list(item.get("ContentSequence", []))
    return [item, *[below for child in children for below in walk(child)]]


def test_the_structured_report_carries_the_numbers_of_the_record_and_refused_structures_without_one(
    tmp_path: Path,
) -> None:
    headers = ct_headers(*ORIENTATIONS["head first supine"])
    labels, matrix = random_labels((6, 10, 12), 1), grid_of(headers)
    segmentation = segmentation_object(labels, matrix, NAMES, headers, PROVENANCE)
    report = structured_report(example_record(), headers, PROVENANCE, segmentation)
    assert report is not None
    report.save_as(tmp_path / "sr.dcm", enforce_file_format=True)
    read = hd.sr.srread(tmp_path / "sr.dcm")
    values = numeric_values(read)
    assert 118.25 in values
    assert any(abs(v - 96.123456789) < 1e-6 for v in values)
    groups = read.content.get_volumetric_roi_measurement_groups()
    tracked = {group.tracking_identifier: group for group in groups}
    assert set(tracked) == {"vertebra_L1", "vertebra_u1", "femur_left"}
    assert not tracked["femur_left"].get_measurements()
    assert read.VerificationFlag == "UNVERIFIED"
    assert COVERAGE_TEXT in [item.TextValue for item in walk(read) if item.get("ValueType") == "TEXT"]


def test_an_absent_number_is_coded_as_such_and_its_reason_stands_in_words(tmp_path: Path) -> None:
    headers = ct_headers(*ORIENTATIONS["head first supine"])
    record = whole_study()
    report = structured_report(record, headers, PROVENANCE, None)
    assert report is not None
    report.save_as(tmp_path / "sr.dcm", enforce_file_format=True)
    groups: dict[str, list[Dataset]] = {}
    for item in walk(hd.sr.srread(tmp_path / "sr.dcm")):
        tracked = [c for c in item.get("ContentSequence", []) if c.ConceptNameCodeSequence[0].CodeValue == "112039"]
        if tracked:
            groups[tracked[0].TextValue] = list(item.ContentSequence)
    structures: tuple[Vertebra | Femur, ...] = (*record.vertebrae, *record.femora)
    assert {s.strength_n is None for s in structures} == {True, False}
    for structure in structures:
        items = groups[structure.name]
        (strength,) = (i for i in items if i.ConceptNameCodeSequence[0].CodeValue == "STRENGTH_FE")
        if structure.strength_n is not None:
            assert float(strength.MeasuredValueSequence[0].NumericValue) == structure.strength_n.value
            continue
        reason = structure.reason_for("strength_n")
        assert reason is not None and strength.ValueType == "CODE"
        failed = structure.status is Status.FAILED or reason.severity is Severity.FAILURE
        # CID 42: measurement failure, measurement not attempted
        assert strength.ConceptCodeSequence[0].CodeValue == ("114006" if failed else "114007")
        said = [i.TextValue for i in items if i.ConceptNameCodeSequence[0].CodeValue == "121106"]
        assert any(reason.text in text and "strength_n" in text for text in said)


def test_signs_and_names_of_any_alphabet_survive(tmp_path: Path) -> None:
    """Sentences of ours hold signs that the alphabet of the source lacks; the patient's name is in that of the source."""
    headers = ct_headers(*ORIENTATIONS["head first supine"])
    for header in headers:
        header.SpecificCharacterSet = "ISO_IR 100"
        header.PatientName = "Müller^Jörg"
    text = "Density ≥ 80 mg/cm³ K₂HPO₄, change −3 ± 1 %."
    record = example_record()
    service = Service(cpt="0691T", supported=False, coverage=Coverage(status="NOT_COVERED", text=text))
    report = structured_report(record.model_copy(update={"services": (service,)}), headers, PROVENANCE, None)
    assert report is not None
    report.save_as(tmp_path / "sr.dcm", enforce_file_format=True)
    read = pydicom.dcmread(tmp_path / "sr.dcm")
    assert str(read.PatientName) == "Müller^Jörg"
    assert text in [item.TextValue for item in walk(read) if item.get("ValueType") == "TEXT"]


def test_no_warning_quotes_the_patients_name(tmp_path: Path) -> None:
    """highdicom warns of a name without a family name, with the name in the text."""
    script = (
        "import datetime as dt\n"
        "from tests.reports.test_dicom import *\n"
        "headers = ct_headers(*ORIENTATIONS['head first supine'])\n"
        "for header in headers: header.PatientName = 'SECRETNAME'\n"
        "labels = random_labels((6, 10, 12), 1)\n"
        "seg = segmentation_object(labels, grid_of(headers), NAMES, headers, PROVENANCE)\n"
        "structured_report(example_record(), headers, PROVENANCE, seg)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    assert "SECRETNAME" not in done.stdout + done.stderr


def test_equal_results_have_equal_uids_and_other_results_do_not() -> None:
    headers = ct_headers(*ORIENTATIONS["head first supine"])
    series = str(headers[0].SeriesInstanceUID)
    assert PROVENANCE.uid(series, "SEG") == Provenance("0.1.0", "abc").uid(series, "SEG")
    assert PROVENANCE.uid(series, "SEG") != Provenance("0.1.0", "abd").uid(series, "SEG")
    assert PROVENANCE.uid(series, "SEG") != PROVENANCE.uid(series, "SR")


def test_the_pdf_comes_out_as_it_went_in() -> None:
    headers = ct_headers(*ORIENTATIONS["head first supine"])
    pdf = b"%PDF-1.7\nodd\n"
    document = encapsulated_pdf(pdf, headers, PROVENANCE, created=dt.datetime(2026, 11, 21, 12))
    buffer = io.BytesIO()
    document.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    read = pydicom.dcmread(buffer)
    assert read.EncapsulatedDocument[: read.EncapsulatedDocumentLength] == pdf
    with pytest.raises(ValueError, match="not a PDF"):
        encapsulated_pdf(b"hello", headers, PROVENANCE, created=dt.datetime(2026, 11, 21))


def test_nothing_to_segment_gives_no_object() -> None:
    headers = ct_headers(*ORIENTATIONS["head first supine"])
    assert segmentation_object(np.zeros((6, 10, 12), np.uint8), grid_of(headers), NAMES, headers, PROVENANCE) is None
    empty = example_record().model_copy(update={"vertebrae": (), "femora": ()})
    assert structured_report(empty, headers, PROVENANCE, None) is None


@pytest.mark.filterwarnings("ignore:The value length")
def test_values_that_dicom_does_not_allow_are_not_handed_on() -> None:
    """Real exports hold a StudyID of 17 characters; identity is kept whatever it holds."""
    headers = ct_headers(*ORIENTATIONS["head first supine"])
    for header in headers:
        with pydicom.config.disable_value_validation():
            header.StudyID, header.AccessionNumber = "EXPORTED_CT_00044", "A1"
            header.PatientID = "P" * 70
    labels = random_labels((6, 10, 12), 1)
    segmentation = segmentation_object(labels, grid_of(headers), NAMES, headers, PROVENANCE)
    document = encapsulated_pdf(b"%PDF-1.7\n", headers, PROVENANCE, created=dt.datetime(2026, 11, 21))
    report = structured_report(example_record(), headers, PROVENANCE, segmentation)
    for made in (segmentation, document, report):
        assert made is not None
        assert made.StudyID == "" and made.AccessionNumber == "A1" and made.PatientID == "P" * 70
    assert headers[0].StudyID == "EXPORTED_CT_00044"  # the source is left alone


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore:The value length")
@pytest.mark.parametrize("orientation", sorted(ORIENTATIONS))
def test_dciodvfy_finds_no_error(orientation: str, tmp_path: Path) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    headers = ct_headers(*ORIENTATIONS[orientation])
    for header in headers:
        with pydicom.config.disable_value_validation():
            header.StudyID = "EXPORTED_CT_00044"
    labels, matrix = random_labels((6, 10, 12), 1), grid_of(headers)
    arches = random_arches(labels, 2)
    segmentation = segmentation_object(labels, matrix, NAMES, headers, PROVENANCE, arches=arches, arch_names=ARCHES)
    assert segmentation is not None
    objects = {
        "seg": segmentation,
        "sr": structured_report(example_record(), headers, PROVENANCE, segmentation),
        "sr of a whole study": structured_report(whole_study(), headers, PROVENANCE, segmentation),
        "pdf": encapsulated_pdf(b"%PDF-1.7\n", headers, PROVENANCE, created=dt.datetime(2026, 11, 21)),
    }
    for name, dataset in objects.items():
        assert dataset is not None
        dataset.save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
        checked = subprocess.run(
            ["dciodvfy", str(tmp_path / f"{name}.dcm")], capture_output=True, text=True, check=False
        )
        errors = [line for line in (checked.stdout + checked.stderr).splitlines() if line.startswith("Error")]
        assert not errors, f"{name}: {errors}"
