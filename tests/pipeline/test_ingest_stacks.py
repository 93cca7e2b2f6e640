"""Series come apart into stacks, and what is wrong with the spacing of slices is put right, stated or refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from pipeline.errors import InputRefused, Severity
from pipeline.ingest import Stack, find_studies, load_volume
from pipeline.ingest.stacks import plan_run, step_tolerance_mm
from tests.pipeline.dicom_factory import axial_series, body_hu, plane_series, slice_dataset, write
from tests.pipeline.test_ingest_volume import codes, deviation_hu, read, refusal


def stacks_of(folder: Path) -> list[Stack]:
    (study,) = find_studies([folder]).studies
    (series,) = study.series
    return list(series.stacks)


def brighter(datasets: list[Dataset], hu: int) -> list[Dataset]:
    """Another phase: the same anatomy, a little brighter."""
    for ds in datasets:
        ds.PixelData = (np.frombuffer(ds.PixelData, "<i2") + np.int16(hu)).tobytes()
    return datasets


# -------------------------------------------------------------------------------- stacks in one series instance


@pytest.mark.parametrize(
    "difference",
    [
        {"AcquisitionNumber": 2},
        {"TemporalPositionIdentifier": 2},
        {"AcquisitionTime": "101742"},
        {"ContentTime": "101742"},
        {"ContrastBolusAgent": "IOMERON"},
        {"ConvolutionKernel": "BONE"},
        {"KVP": "80"},
        {"ImageType": ["DERIVED", "SECONDARY", "MPR"]},
        {"SliceThickness": "5"},
        {"SeriesDescription": "PORTAL VENOUS"},
        {"FrameOfReferenceUID": generate_uid()},
        {"NominalPercentageOfCardiacPhase": 70},
    ],
    ids=lambda d: next(iter(d)),
)
def test_two_phases_that_share_their_series_uid_come_apart(tmp_path: Path, difference: dict[str, object]) -> None:
    write(axial_series(12), tmp_path, pattern="a{}")
    write(brighter(axial_series(12, **difference), 30), tmp_path, pattern="b{}")

    found = stacks_of(tmp_path)

    assert [stack.count for stack in found] == [12, 12]
    means = sorted(float(load_volume(stack).hu.mean()) for stack in found)
    assert means[1] - means[0] == pytest.approx(30.0), "no slice of one phase went to the other"
    assert all("phases_in_series" in codes(load_volume(stack)) for stack in found), "and whoever reads one, hears of it"


def test_parts_of_a_body_in_one_series_are_no_phases(tmp_path: Path) -> None:
    """A chest and a pelvis under one UID, in two matrices: neither is another picture of the other."""
    write(axial_series(20), tmp_path, pattern="a{}")
    write(axial_series(20, start_mm=200.0, KVP="100"), tmp_path, pattern="b{}")
    found = stacks_of(tmp_path)
    assert len(found) == 2
    assert not any("phases_in_series" in {p.code for p in stack.problems} for stack in found)


def test_slices_of_two_patients_under_one_series_are_refused(tmp_path: Path) -> None:
    """Taken apart they would pass for two studies with slices twice as far from each other."""
    datasets = axial_series(40)
    for ds in datasets[::2]:
        ds.PatientID = "SOMEBODY-ELSE"
    write(datasets, tmp_path)
    studies = find_studies([tmp_path]).studies
    assert len(studies) == 2
    for study in studies:
        assert [stack.fatal.code for stack in study.stacks if stack.fatal] == ["mixed_patients"]
        assert "SOMEBODY" not in str(study.stacks[0].problems)


def test_two_patients_with_series_of_their_own_are_two_studies(tmp_path: Path) -> None:
    write(axial_series(20), tmp_path, pattern="a{}")
    write(axial_series(20, PatientID="SOMEBODY-ELSE", SeriesInstanceUID=generate_uid()), tmp_path, pattern="b{}")
    studies = find_studies([tmp_path]).studies
    assert len(studies) == 2
    assert not any(stack.fatal for study in studies for stack in study.stacks)


def test_two_phases_told_apart_by_nothing_but_their_numbering_come_apart(tmp_path: Path) -> None:
    first, second = axial_series(20), brighter(axial_series(20), 30)
    for ds in second:
        ds.InstanceNumber += 20
    write(first, tmp_path, pattern="a{}")
    write(second, tmp_path, pattern="b{}")
    assert [stack.count for stack in stacks_of(tmp_path)] == [20, 20]


@pytest.mark.parametrize("offset_mm", [0.8, 1.25])
def test_interleaved_phases_are_not_taken_for_one_fine_volume(tmp_path: Path, offset_mm: float) -> None:
    """Two phases exactly half a step apart would make an even stack of twice as many slices."""
    write(axial_series(20), tmp_path, pattern="a{}")
    write(brighter(axial_series(20, start_mm=-50 + offset_mm, AcquisitionNumber=2), 30), tmp_path, pattern="b{}")
    assert [stack.count for stack in stacks_of(tmp_path)] == [20, 20]


def test_phases_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    write(axial_series(20), tmp_path, pattern="a{}")
    write(brighter(axial_series(20), 30), tmp_path, pattern="b{}")
    assert refusal(tmp_path) == "conflicting_slices"


def test_orientations_and_a_localizer_in_one_series_come_apart(tmp_path: Path) -> None:
    write(axial_series(20), tmp_path, pattern="axial{}")
    write(plane_series((1, 0, 0, 0, 0, -1), count=16), tmp_path, pattern="coronal{}")
    write(plane_series((0, 1, 0, 0, 0, -1), count=14), tmp_path, pattern="sagittal{}")
    scout = slice_dataset((-60, 0, 60), orientation=(1, 0, 0, 0, 0, -1), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write([scout], tmp_path, pattern="scout{}")

    found = stacks_of(tmp_path)

    assert [stack.count for stack in found] == [20, 16, 14, 1]
    assert [bool(s.geometry and s.geometry.is_axial) for s in found] == [True, False, False, False]


def test_a_helix_whose_acquisition_number_changes_half_way_stays_whole(tmp_path: Path) -> None:
    datasets = axial_series(30)
    for ds in datasets[15:]:
        ds.AcquisitionNumber, ds.AcquisitionTime = 2, "101800"
    write(datasets, tmp_path)
    assert [stack.count for stack in stacks_of(tmp_path)] == [30]


def test_two_slabs_with_overlapping_ends_come_apart(tmp_path: Path) -> None:
    write(axial_series(30), tmp_path, pattern="a{}")
    write(axial_series(30, start_mm=15.0, AcquisitionNumber=2), tmp_path, pattern="b{}")
    assert [stack.count for stack in stacks_of(tmp_path)] == [30, 30]


# ---------------------------------------------------------------------------------------- duplicates and gaps


def test_identical_duplicates_are_dropped_and_stated(tmp_path: Path) -> None:
    datasets = axial_series(30)
    twins = axial_series(30)[10:12]
    for number, twin in enumerate(twins):  # sent again later: a new identity, the same picture
        twin.InstanceNumber = datasets[10 + number].InstanceNumber
    write(datasets, tmp_path, pattern="a{}")
    write(twins, tmp_path, pattern="b{}")

    volume = read(tmp_path)

    assert volume.shape[0] == 30
    assert "duplicated_slices" in codes(volume)
    assert deviation_hu(volume).max() < 0.51


def test_one_instance_uid_with_two_different_pictures_is_refused(tmp_path: Path) -> None:
    datasets = axial_series(30)
    forged = brighter([slice_dataset(datasets[10].ImagePositionPatient, instance=datasets[10].InstanceNumber)], 30)[0]
    forged.SOPInstanceUID = datasets[10].SOPInstanceUID
    write(datasets, tmp_path, pattern="a{}")
    write([forged], tmp_path, pattern="b{}")
    assert refusal(tmp_path) == "conflicting_slices"


def test_one_missing_slice_is_bridged_stated_and_not_valid(tmp_path: Path) -> None:
    datasets = axial_series(40)
    del datasets[22]
    write(datasets, tmp_path)

    volume = read(tmp_path)

    assert volume.shape[0] == 40
    assert "interpolated_slice" in codes(volume)
    assert volume.source.resampled
    assert volume.source.sop_instance_uids[22] == ""
    assert volume.valid is not None
    assert not volume.valid[22].any()
    assert volume.valid[np.arange(40) != 22].all()
    assert deviation_hu(volume).max() < 0.51, "the other slices are where they were"
    points = volume.grid.to_lps(np.stack(np.meshgrid([22], range(48), range(64), indexing="ij"), axis=-1))
    assert np.abs(volume.hu[22] - body_hu(points)[0]).max() < 1.01, "the body changes linearly along z"


@pytest.mark.parametrize("gone", [[20, 21], [12, 30], [10, 11, 12, 13]], ids=["two together", "two apart", "four"])
def test_more_missing_slices_leave_the_longest_regular_part(tmp_path: Path, gone: list[int]) -> None:
    datasets = [ds for k, ds in enumerate(axial_series(60)) if k not in gone]
    write(datasets, tmp_path)

    volume = read(tmp_path)

    edges = [-1, *gone, 60]
    assert volume.shape[0] == max(b - a - 1 for a, b in pairwise(edges))
    finding = next(f for f in volume.findings if f.code == "missing_slices")
    assert finding.severity is Severity.WARNING
    assert str(len(gone)) in finding.text
    assert deviation_hu(volume).max() < 0.51


def test_too_many_gaps_are_refused(tmp_path: Path) -> None:
    write([ds for k, ds in enumerate(axial_series(60)) if k % 9], tmp_path)
    assert refusal(tmp_path) == "missing_slices"


def test_two_slice_distances_in_one_series_leave_the_longer_part(tmp_path: Path) -> None:
    offsets = np.concatenate([np.arange(40) * 2.5, 97.5 + 3.3 * np.arange(1, 15)])
    write([slice_dataset((-63, -47, z - 60), instance=k) for k, z in enumerate(offsets)], tmp_path)
    volume = read(tmp_path)
    assert volume.shape[0] == 40
    assert "uneven_spacing" in codes(volume)
    assert deviation_hu(volume).max() < 0.51


def test_irregular_slice_distances_are_refused(tmp_path: Path) -> None:
    offsets = np.cumsum(np.random.default_rng(3).uniform(1.5, 4.5, 40))
    write([slice_dataset((-63, -47, z - 60), instance=k) for k, z in enumerate(offsets)], tmp_path)
    assert refusal(tmp_path) == "uneven_spacing"


def test_rounded_positions_are_no_gap_and_average_out(tmp_path: Path) -> None:
    """Steps of 1.25 mm written with one decimal alternate between 1.2 and 1.3."""
    heights = np.round(np.arange(80) * 1.25, 1)
    write([slice_dataset((-63, -47, z), instance=k) for k, z in enumerate(heights)], tmp_path)
    volume = read(tmp_path)
    assert volume.shape[0] == 80
    assert volume.spacing_mm[0] == pytest.approx(1.25, abs=0.001)
    assert not codes(volume)


def test_a_slow_drift_of_the_slice_distance_is_not_even(tmp_path: Path) -> None:
    """Each step is within rounding of the next, yet the last slice would be 4 mm out of place."""
    offsets = np.concatenate([np.arange(60) * 1.25, 73.75 + 1.29 * np.arange(1, 61)])
    write([slice_dataset((-63, -47, z - 60), instance=k) for k, z in enumerate(offsets)], tmp_path)
    assert "uneven_spacing" in codes(read(tmp_path))


def test_order_comes_from_positions_alone(tmp_path: Path) -> None:
    datasets = axial_series(20)
    for ds, number in zip(datasets, np.random.default_rng(1).permutation(20), strict=True):
        ds.InstanceNumber, ds.SliceLocation = int(number), float(number)
    write(datasets, tmp_path)
    assert deviation_hu(read(tmp_path)).max() < 0.51


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("PixelSpacing", None, "no_pixel_spacing"),
        ("PixelSpacing", [0.0, 0.8], "no_pixel_spacing"),
        ("ImagePositionPatient", None, "no_geometry"),
        ("ImageOrientationPatient", None, "no_geometry"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "no_geometry"),
        ("PhotometricInterpretation", "MONOCHROME1", "not_grey"),
    ],
)
def test_no_usual_value_stands_in_for_a_missing_attribute(
    tmp_path: Path, keyword: str, value: object, reason: str
) -> None:
    write(axial_series(12, **{keyword: value}), tmp_path)
    assert refusal(tmp_path) == reason


def test_a_single_slice_is_refused(tmp_path: Path) -> None:
    write(axial_series(1), tmp_path)
    assert refusal(tmp_path) == "single_slice"


# --------------------------------------------------------------------------------------------- rule by itself


@given(
    count=st.integers(12, 80),
    step_mm=st.floats(0.5, 5.0),
    gone=st.sets(st.integers(1, 78), max_size=6),
)
def test_a_planned_run_is_always_regular_and_never_crosses_two_gaps(count: int, step_mm: float, gone: set[int]) -> None:
    kept = [k for k in range(count) if k not in gone or k in (0, count - 1)]
    positions = np.array(kept, float) * step_mm
    run = plan_run(positions, step_mm)
    if not run.places:
        assert run.findings[0].severity is Severity.FAILURE
        return
    steps = np.diff(positions[list(run.places)]) / step_mm
    irregular = np.flatnonzero(np.abs(steps - 1) > 0.02)
    if run.filled_after is None:
        assert irregular.size == 0
    else:
        assert irregular.tolist() == [run.filled_after]
        assert steps[run.filled_after] == pytest.approx(2.0)
    assert bool(run.findings) == (len(run.places) < len(kept) or run.filled_after is not None)


def test_the_tolerance_of_a_step_is_rounding_and_no_more() -> None:
    assert step_tolerance_mm(1.25) == pytest.approx(0.06)
    assert step_tolerance_mm(5.0) == pytest.approx(0.1)
    assert step_tolerance_mm(0.3) == pytest.approx(0.03)


def test_a_message_names_the_series_and_the_remedy(tmp_path: Path) -> None:
    write([ds for k, ds in enumerate(axial_series(30)) if k % 3], tmp_path)
    with pytest.raises(InputRefused, match=r"series 4 'THIN': .* slices are missing .*Send the complete series again"):
        read(tmp_path)
