"""Pictures and fields as DICOM, and all objects in a real archive: what goes in comes out again."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset

from reports.dicom import (
    VoxelField,
    encapsulated_pdf,
    key_images,
    parametric_map,
    segmentation_object,
    structured_report,
)
from reports.record import Figure
from tests.reports.test_dicom import NAMES, ORIENTATIONS, PROVENANCE, ct_headers, example_record, grid_of, random_labels

HEADERS = ct_headers(*ORIENTATIONS["oblique"])


def rotated_field(seed: int, shape: tuple[int, int, int] = (5, 6, 7)) -> VoxelField:
    """A field on a grid that lies anyhow in the patient, as a model's does."""
    random = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(random.normal(size=(3, 3)))
    matrix = np.eye(4)
    matrix[:3, :3] = axes * random.uniform(0.5, 2.0)
    matrix[:3, 3] = random.uniform(-200, 200, 3)
    values = random.gamma(1.0, 3.0, shape).astype(np.float32)
    return VoxelField("vertebra_L1", "spine-compression", "energy_density", values, matrix)


def voxels_of(read: Dataset) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Patient coordinates and values of all voxels of a parametric map, by the attributes of DICOM alone."""
    shared = read.SharedFunctionalGroupsSequence[0]
    spacing = [float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing]
    cosines = np.array([float(v) for v in shared.PlaneOrientationSequence[0].ImageOrientationPatient])
    values = np.asarray(read.pixel_array).reshape(int(read.NumberOfFrames), int(read.Rows), int(read.Columns))
    rows, columns = np.meshgrid(np.arange(read.Rows), np.arange(read.Columns), indexing="ij")
    points = [
        np.array([float(v) for v in frame.PlanePositionSequence[0].ImagePositionPatient])
        + columns[..., None] * spacing[1] * cosines[:3]
        + rows[..., None] * spacing[0] * cosines[3:]
        for frame in read.PerFrameFunctionalGroupsSequence
    ]
    return np.stack(points), values


@given(seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_a_field_lies_where_its_model_lies_whatever_the_pose(seed: int) -> None:
    field = rotated_field(seed)
    written = parametric_map(field, HEADERS, PROVENANCE)
    points, values = voxels_of(written)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in field.values.shape), indexing="ij"), axis=-1)
    expected = index @ field.index_to_lps[:3, :3].T + field.index_to_lps[:3, 3]
    # Frames may be stored in another order: match them by their values, which are all different.
    order = [int(np.argmin([np.abs(frame - plane).sum() for frame in values])) for plane in field.values]
    assert sorted(order) == list(range(len(order)))
    assert np.array_equal(values[order], field.values)
    assert np.allclose(points[order], expected, atol=1e-3)


def test_a_map_belongs_to_the_study_and_says_its_quantity(tmp_path: Path) -> None:
    parametric_map(rotated_field(1), HEADERS, PROVENANCE).save_as(tmp_path / "map.dcm", enforce_file_format=True)
    read = hd.pm.pmread(tmp_path / "map.dcm") if hasattr(hd.pm, "pmread") else pydicom.dcmread(tmp_path / "map.dcm")
    assert read.StudyInstanceUID == HEADERS[0].StudyInstanceUID
    assert read.FrameOfReferenceUID == HEADERS[0].FrameOfReferenceUID
    assert read.SeriesInstanceUID != HEADERS[0].SeriesInstanceUID
    shared = read.SharedFunctionalGroupsSequence[0]
    mapping = (shared if "RealWorldValueMappingSequence" in shared else read.PerFrameFunctionalGroupsSequence[0])[
        "RealWorldValueMappingSequence"
    ][0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "kPa"


def test_a_field_that_is_no_grid_is_refused() -> None:
    field = rotated_field(1)
    skewed = field.index_to_lps.copy()
    skewed[:3, 0] += 0.3 * skewed[:3, 1]
    with pytest.raises(ValueError, match="right angles"):
        parametric_map(replace(field, index_to_lps=skewed), HEADERS, PROVENANCE)
    with pytest.raises(ValueError, match="three axes"):
        parametric_map(replace(field, values=field.values[0]), HEADERS, PROVENANCE)


def pictures(folder: Path) -> tuple[Figure, ...]:
    (folder / "figures").mkdir(exist_ok=True)
    for name, seed in (("spine", 1), ("hips", 2)):
        pixels = np.random.default_rng(seed).integers(0, 255, (20, 31, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "figures" / f"{name}.png")
    names = ("spine", "hips", "gone")
    return tuple(Figure(id=n, file=f"figures/{n}.png", caption=n, alt=f"What {n} shows") for n in names)


def test_pictures_come_back_pixel_by_pixel_and_a_missing_file_is_left_out(tmp_path: Path) -> None:
    made = key_images(pictures(tmp_path), tmp_path, HEADERS, PROVENANCE)
    assert set(made) == {"spine", "hips"}
    for name, capture in made.items():
        capture.save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
        read = pydicom.dcmread(tmp_path / f"{name}.dcm")
        with Image.open(tmp_path / "figures" / f"{name}.png") as picture:
            assert np.array_equal(read.pixel_array, np.asarray(picture.convert("RGB")))
        assert read.BurnedInAnnotation == "YES" and read.ImageComments == f"What {name} shows"
        assert read.StudyInstanceUID == HEADERS[0].StudyInstanceUID and read.PatientID == "77"
        assert [str(i.ReferencedSOPInstanceUID) for i in read.SourceImageSequence] == [
            str(h.SOPInstanceUID) for h in HEADERS
        ]


def all_objects(folder: Path) -> dict[str, Dataset]:
    labels = random_labels((6, 10, 12), 1)
    segmentation = segmentation_object(labels, grid_of(HEADERS), NAMES, HEADERS, PROVENANCE)
    report = structured_report(example_record(), HEADERS, PROVENANCE, segmentation)
    assert segmentation is not None and report is not None
    pdf = encapsulated_pdf(b"%PDF-1.7\n", HEADERS, PROVENANCE, created=dt.datetime(2026, 11, 21))
    femur = replace(rotated_field(2), structure="femur_left", test="hip-sideways-fall", kind="effective_strain")
    objects: dict[str, Dataset] = {"seg": segmentation, "sr": report, "pdf": pdf}
    objects |= key_images(pictures(folder), folder, HEADERS, PROVENANCE)
    objects |= {
        "map": parametric_map(rotated_field(1), HEADERS, PROVENANCE),
        "femur map": parametric_map(femur, HEADERS, PROVENANCE),
    }
    return objects


@pytest.mark.peer
def test_dciodvfy_finds_no_error_in_pictures_and_maps(tmp_path: Path) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    for name, dataset in all_objects(tmp_path).items():
        file = tmp_path / f"{name}.dcm"
        dataset.save_as(file, enforce_file_format=True)
        checked = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
        errors = [line for line in (checked.stdout + checked.stderr).splitlines() if line.startswith("Error")]
        assert not errors, f"{name}: {errors}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[str]:
    """Address of an empty Orthanc on this machine, ended by its process after the test."""
    program = shutil.which("Orthanc")
    if program is None:
        pytest.skip("Orthanc is not installed")
    port = _free_port()
    configuration = {
        "Name": "test", "StorageDirectory": str(tmp_path / "db"), "IndexDirectory": str(tmp_path / "db"),
        "HttpPort": port, "HttpBindAddresses": ["127.0.0.1"], "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
        "DicomServerEnabled": True, "DicomPort": _free_port(), "DicomAet": "TEST", "Plugins": [],
    }  # fmt: skip
    (tmp_path / "orthanc.json").write_text(json.dumps(configuration), encoding="utf-8")
    with (tmp_path / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(tmp_path / "orthanc.json")], stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"{address}/system", timeout=2).close()
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        else:
            pytest.fail("Orthanc did not answer: " + (tmp_path / "orthanc.log").read_text(errors="replace")[-500:])
        yield address
    finally:
        process.terminate()
        process.wait(timeout=20)


def _answer(address: str, data: bytes | None = None) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(address, data=data), timeout=30) as answer:
        content: bytes = answer.read()
    return content


@pytest.mark.pacs
def test_an_archive_takes_every_object_files_it_in_one_study_and_gives_it_back_unchanged(
    archive: str, tmp_path: Path
) -> None:
    objects = all_objects(tmp_path)
    studies = set()
    for name, dataset in objects.items():
        file = tmp_path / f"{name}.dcm"
        dataset.save_as(file, enforce_file_format=True)
        stored = json.loads(_answer(f"{archive}/instances", file.read_bytes()))
        assert stored["Status"] == "Success", name
        studies.add(stored["ParentStudy"])
        assert _answer(f"{archive}/instances/{stored['ID']}/file") == file.read_bytes()
        tags = json.loads(_answer(f"{archive}/instances/{stored['ID']}/simplified-tags"))
        assert tags["SOPInstanceUID"] == dataset.SOPInstanceUID and tags["PatientID"] == "77"
    assert len(studies) == 1
    modalities = {
        json.loads(_answer(f"{archive}/series/{series}"))["MainDicomTags"]["Modality"]
        for series in json.loads(_answer(f"{archive}/series"))
    }
    assert modalities == {"SEG", "SR", "DOC", "OT"}
    again = json.loads(_answer(f"{archive}/instances", (tmp_path / "sr.dcm").read_bytes()))
    assert again["Status"] == "AlreadyStored"  # a repeated run has the same UIDs


@pytest.mark.pacs
def test_the_network_service_takes_every_object(archive: str, tmp_path: Path) -> None:
    program = shutil.which("storescu")
    if program is None:
        pytest.skip("storescu (DCMTK) is not installed")
    port = json.loads((tmp_path / "orthanc.json").read_text(encoding="utf-8"))["DicomPort"]
    files = []
    for name, dataset in all_objects(tmp_path).items():
        files.append(str(tmp_path / f"{name}.dcm"))
        dataset.save_as(files[-1], enforce_file_format=True)
    # -R: ask for exactly the classes of the files; its default list knows neither segmentations nor 3D reports nor maps.
    sent = subprocess.run(
        [program, "-R", "-aec", "TEST", "127.0.0.1", str(port), *files], capture_output=True, text=True, check=False
    )
    assert sent.returncode == 0, sent.stderr
    assert len(json.loads(_answer(f"{archive}/instances"))) == len(files)
