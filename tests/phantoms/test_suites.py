"""Suites: deterministic, complete, quick where they promise it, and each fault really there."""

import itertools
import json
import zipfile

import numpy as np
import pydicom
import pytest

from phantoms.hostile import FAULTS
from phantoms.suites import COHORT_SIZE, MANIFEST, SUITES, Case, cases, read_manifest, write_case, write_suite
from phantoms.torso import TorsoOptions
from phantoms.truth import Truth

SMALL = {"slice_mm": 4.0, "pixel_mm": 2.5, "localizer": False}


def fault_case(name):
    fault = next(fault for fault in FAULTS if fault.name == name)
    # What is in the picture does not matter to a fault of files: water is made in no time.
    water = {"diameter_mm": 60.0, "length_mm": 130.0}
    return Case(name, "water", 7, water, SMALL, {"fault": name, "expect": fault.expect, "text": fault.text})


def headers(folder):
    return [pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in sorted(folder.rglob("CT*.dcm"))]


@pytest.mark.parametrize("suite", sorted(SUITES))
def test_a_suite_is_the_same_every_time_and_its_names_are_folders(suite):
    first, again = cases(suite), cases(suite)
    assert first == again
    assert len({case.name for case in first}) == len(first) > 3
    for case in first:
        assert case.name == case.name.strip().replace("/", "")
        json.dumps(case.options), json.dumps(case.scan), json.dumps(case.factors)
        if case.kind == "torso":
            TorsoOptions(**{k: v for k, v in case.options.items() if k != "fractures"})


def test_counts_pick_evenly_and_a_cohort_can_be_any_size():
    assert [c.name for c in cases("spine-fracture", count=2)] == [
        cases("spine-fracture")[0].name,
        cases("spine-fracture")[-1].name,
    ]
    assert len(cases("cohort")) == COHORT_SIZE
    assert cases("cohort", count=3) == cases("cohort", count=500)[:3]
    with pytest.raises(ValueError, match="suite"):
        cases("everything")
    with pytest.raises(ValueError, match="count"):
        cases("smoke", count=0)


def test_a_cohort_has_the_distribution_that_it_states():
    people = cases("cohort-torso", count=1000)
    ages = [case.options["age_years"] for case in people]
    assert sum(ages) / len(ages) == pytest.approx(68, abs=1)
    assert 0.45 < sum(case.options["sex"] == "F" for case in people) / 1000 < 0.55
    assert 0.20 < sum(bool(case.options["fractures"]) for case in people) / 1000 < 0.30
    assert {case.scan["maker"] for case in people} == {"GE", "SIEMENS", "PHILIPS", "CANON"}


def test_the_small_cohort_shows_a_part_of_the_same_people():
    small, whole = cases("cohort", count=40), cases("cohort-torso", count=40)
    assert [case.kind for case in small].count("hip") == 10
    for part, person in zip(small, whole, strict=True):
        assert part.name == person.name
        assert part.options["spine_density_mg_cm3"] == person.options["spine_density_mg_cm3"]
        TorsoOptions(**{k: v for k, v in part.options.items() if k != "fractures"})


def test_a_suite_on_disk_has_a_study_with_truth_for_every_case(tmp_path):
    seen = []
    written = write_suite("smoke", tmp_path, count=2, progress=lambda done, of: seen.append((done, of)))
    suite, listed = read_manifest(tmp_path)
    assert suite == "smoke"
    assert [path.name for path in written] == [case.name for case in listed]
    assert seen == [(1, 2), (2, 2)]
    assert (tmp_path / MANIFEST).is_file()
    for path in written:
        assert Truth.load(path / "truth.json").kind
        assert headers(path)


def test_the_sound_case_has_no_fault(tmp_path):
    images = headers(write_case(fault_case("sound"), tmp_path))
    positions = [float(image.ImagePositionPatient[2]) for image in images]
    assert all(a - b == pytest.approx(4.0) for a, b in itertools.pairwise(positions))


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("numbers_mixed", lambda found, _: [i.InstanceNumber for i in found] != sorted(i.InstanceNumber for i in found)),
        ("rle", lambda found, _: found[0].file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.5"),
        ("jpeg2000", lambda found, _: found[0].file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.90"),
        ("prone", lambda found, _: found[0].PatientPosition == "HFP" and float(found[0].ImageOrientationPatient[0]) == -1),
        ("one_slice_lost", lambda found, count: len(found) == count - 1),
        ("every_third_slice_lost", lambda found, count: len(found) == count - -(-count // 3)),
        ("single_slice", lambda found, _: len(found) == 1),
        ("two_phases", lambda found, count: len(found) == 2 * count and {i.AcquisitionNumber for i in found} == {1, 2}),
        ("two_patients", lambda found, _: len({i.PatientID for i in found}) == 2),
        ("no_rescale", lambda found, _: all("RescaleSlope" not in i for i in found)),
        ("no_pixel_spacing", lambda found, _: all("PixelSpacing" not in i for i in found)),
        ("not_ct", lambda found, _: {i.Modality for i in found} == {"MR"}),
        ("raw_units", lambda found, _: float(found[0].RescaleIntercept) == 0),
        ("slices_shifted", lambda found, _: len({float(i.ImagePositionPatient[0]) for i in found}) == 2),
        ("identical_copies", lambda found, count: len(found) == count + min(10, count)),
        ("undeclared_padding", lambda found, _: found[0].PixelRepresentation == 1 and "PixelPaddingValue" not in found[0]),
        ("declared_unsigned", lambda found, _: found[0].PixelRepresentation == 0),
        ("one_slice_of_another_size", lambda found, _: len({i.Rows for i in found}) == 2),
        ("two_voltages", lambda found, _: {float(i.KVP) for i in found} == {80.0, 120.0}),
        ("hu_shifted", lambda found, _: float(found[0].RescaleIntercept) == -874.0),
        ("hu_scaled", lambda found, _: float(found[0].RescaleSlope) == 1.25),
        ("stretched", lambda found, _: float(found[0].ImagePositionPatient[2] - found[1].ImagePositionPatient[2]) > 5.0),
        ("upside_down", lambda found, _: found[0].ImagePositionPatient[2] < found[1].ImagePositionPatient[2]),
    ],
)  # fmt: skip
def test_each_fault_is_in_the_files(tmp_path, name, seen):
    sound = headers(write_case(fault_case("sound"), tmp_path))
    assert not seen(sound, len(sound)) or name == "declared_unsigned"
    assert seen(headers(write_case(fault_case(name), tmp_path)), len(sound))


def test_faults_of_files(tmp_path):
    folder = write_case(fault_case("zipped"), tmp_path) / "dicom" / "series2"
    assert [path.name for path in folder.iterdir()] == ["export.zip"]
    assert len(zipfile.ZipFile(folder / "export.zip").namelist()) > 5
    cut = write_case(fault_case("one_file_cut"), tmp_path) / "dicom" / "series2"
    assert sorted(path.stat().st_size for path in cut.iterdir())[0] == 900
    bare = write_case(fault_case("without_meta_header"), tmp_path) / "dicom" / "series2"
    assert all(path.read_bytes()[128:132] != b"DICM" for path in bare.iterdir())
    foreign = write_case(fault_case("foreign_files"), tmp_path) / "dicom" / "series2"
    assert {"README.txt", "DICOMDIR", "IMG_0001.dcm", "viewer.exe"} < {path.name for path in foreign.iterdir()}


def test_reversed_pixels_leave_the_header_as_it_was(tmp_path):
    folder = {name: write_case(fault_case(name), tmp_path) for name in ("sound", "mirrored", "rows_reversed")}
    first = {name: pydicom.dcmread(min(path.rglob("CT*.dcm"))) for name, path in folder.items()}
    for name, axis in (("mirrored", 1), ("rows_reversed", 0)):
        np.testing.assert_array_equal(np.flip(first[name].pixel_array, axis), first["sound"].pixel_array)
        assert first[name].ImageOrientationPatient == first["sound"].ImageOrientationPatient
        assert first[name].ImagePositionPatient == first["sound"].ImagePositionPatient


def test_a_tilted_gantry_leans_the_slices_and_keeps_their_distance_along_the_table(tmp_path):
    case = Case("tilted", "water", 7, {"diameter_mm": 60.0, "length_mm": 40.0}, SMALL | {"gantry_tilt_deg": 12.0})
    images = headers(write_case(case, tmp_path))
    lean = [float(v) for v in images[0].ImageOrientationPatient]
    assert lean[:3] == [1.0, 0.0, 0.0]
    assert np.degrees(np.arctan2(lean[5], lean[4])) == pytest.approx(12.0, abs=0.01)
    assert {float(image.GantryDetectorTilt) for image in images} == {12.0}, "and the header says so"
    steps = {
        tuple(np.round(np.subtract(b.ImagePositionPatient, a.ImagePositionPatient), 3))
        for a, b in itertools.pairwise(images)
    }
    assert len(steps) == 1
    assert np.abs(next(iter(steps))) == pytest.approx([0.0, 0.0, 4.0])


def test_names_of_faults_are_unique_and_expectations_known():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert {fault.expect for fault in FAULTS} == {"usable", "stated", "refused"}
