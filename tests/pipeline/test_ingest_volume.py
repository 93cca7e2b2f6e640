"""The voxels of a volume must hold the HU of the patient at the place where the grid says they are."""

from __future__ import annotations

from pathlib import Path

import highdicom
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from scipy.spatial.transform import Rotation

from pipeline.errors import InputRefused, Severity
from pipeline.ingest import find_studies, load_volume, read_source_headers, select
from pipeline.ingest.plausibility import noise_hu as measured_noise_hu
from pipeline.volume import Volume
from tests.pipeline.dicom_factory import AXIAL, axial_series, body_hu, plane_series, slice_dataset, write

ROUNDING_HU = 0.501


def read(folder: Path) -> Volume:
    (study,) = find_studies([folder]).studies
    (stack,) = study.stacks
    return load_volume(stack)


def deviation_hu(volume: Volume) -> np.ndarray:
    """Difference from the body's true HU at every valid voxel."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in volume.shape), indexing="ij"), axis=-1)
    difference = np.abs(volume.hu - body_hu(volume.grid.to_lps(index)))
    return difference if volume.valid is None else difference[volume.valid]


def codes(volume: Volume) -> set[str]:
    return {finding.code for finding in volume.findings}


def refusal(folder: Path) -> str:
    with pytest.raises(InputRefused) as caught:
        read(folder)
    return caught.value.reason


def is_canonical(volume: Volume) -> bool:
    axes = volume.grid.axes_lps
    return bool(axes[0, 2] > 0.7 and axes[1, 1] > 0.7 and axes[2, 0] > 0.7)


def test_an_ordinary_series_becomes_exact_int16_with_its_facts(tmp_path: Path) -> None:
    write(axial_series(40), tmp_path)
    volume = read(tmp_path)

    assert volume.hu.dtype == np.int16
    assert volume.shape == (40, 48, 64)
    np.testing.assert_allclose(volume.spacing_mm, (2.5, 2.0, 2.0))
    assert deviation_hu(volume).max() <= ROUNDING_HU
    assert is_canonical(volume)
    assert volume.valid is None
    facts = volume.acquisition
    assert (facts.kvp, facts.kernel, facts.slice_thickness_mm, facts.table_height_mm) == (120, "STANDARD", 2.5, 150)
    assert (facts.patient_age_years, facts.patient_sex, facts.patient_height_m, facts.patient_weight_kg) == (
        68,
        "F",
        1.62,
        64,
    )
    assert (facts.manufacturer, facts.model, facts.device_serial_number) == ("TEST", "Scanner", "77")
    assert facts.acquisition_date == "2018-07-02"


def test_absent_facts_stay_absent_and_age_may_come_from_the_dates(tmp_path: Path) -> None:
    gone = dict.fromkeys(["KVP", "ConvolutionKernel", "SliceThickness", "TableHeight", "PatientSex", "PatientWeight"])
    write(axial_series(12, PatientAge=None, PatientSize="162", **gone), tmp_path)
    facts = read(tmp_path).acquisition

    assert facts.kvp is facts.kernel is facts.slice_thickness_mm is facts.table_height_mm is None
    assert facts.patient_sex is facts.patient_weight_kg is None
    assert facts.patient_height_m is None, "162 m was typed in centimetres: not a known height"
    assert facts.patient_age_years == 68, "born on 31 December 1949, scanned on 2 July 2018"


@pytest.mark.parametrize("kernel", ["LUNG", "BONE", "B60f", "Br64d", "FC52"])
def test_a_kernel_that_enhances_edges_is_stated(tmp_path: Path, kernel: str) -> None:
    write(axial_series(12, ConvolutionKernel=kernel), tmp_path)
    (said,) = (finding for finding in read(tmp_path).findings if finding.code == "sharp_kernel")
    assert f"'{kernel}'" in said.text
    assert said.severity is Severity.WARNING


@pytest.mark.parametrize("kernel", ["STANDARD", "B30f", "B50f", "some other", None])
def test_of_other_kernels_nothing_is_said(tmp_path: Path, kernel: str | None) -> None:
    write(axial_series(12, ConvolutionKernel=kernel), tmp_path)
    assert "sharp_kernel" not in codes(read(tmp_path))


signed_permutations = st.permutations([0, 1, 2]).flatmap(
    lambda axes: st.tuples(
        st.sampled_from([-1.0, 1.0]), st.sampled_from([-1.0, 1.0]), st.sampled_from([-1.0, 1.0])
    ).map(lambda signs: (axes, signs))
)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turn=signed_permutations, obliquity=st.sampled_from([0.0, 7.0, 25.0]))
def test_any_orientation_of_the_slices_gives_the_same_patient(
    tmp_path_factory: pytest.TempPathFactory, turn: tuple[list[int], tuple[float, float, float]], obliquity: float
) -> None:
    """Head or feet first, prone, on the side, coronal or sagittal, oblique: places and HU must follow."""
    axes, signs = turn
    matrix = np.zeros((3, 3))
    matrix[np.arange(3), axes] = signs
    matrix = Rotation.from_euler("xz", [obliquity, obliquity / 2], degrees=True).as_matrix() @ matrix.T
    orientation = (*matrix[:, 0], *matrix[:, 1])
    folder = tmp_path_factory.mktemp("turned")
    write(plane_series(orientation, count=14, step_mm=6.0, spacing=(3.0, 3.0), shape=(40, 44)), folder)

    volume = read(folder)

    assert is_canonical(volume)
    assert deviation_hu(volume).max() <= ROUNDING_HU
    assert len(volume.source.sop_instance_uids) == 14
    back = volume.axis_order.to_source(volume.hu)
    assert back.shape == (14, 40, 44), "the way back leads to slices, rows, columns"


@pytest.mark.parametrize("tilt_deg", [-22.0, -5.0, 8.5, 18.5, 29.0])
def test_a_tilted_gantry_is_sheared_back_and_stated(tmp_path: Path, tilt_deg: float) -> None:
    """The table moves along z while the planes lean: the field is a sheared box."""
    angle = np.radians(tilt_deg)
    orientation = (1, 0, 0, 0, np.cos(angle), -np.sin(angle))
    write(plane_series(orientation, displacement=(0, 0, 2.5), shape=(56, 64)), tmp_path)

    volume = read(tmp_path)

    assert "gantry_tilt" in codes(volume)
    assert f"{abs(tilt_deg):.1f} degrees" in next(f.text for f in volume.findings if f.code == "gantry_tilt")
    assert volume.source.resampled
    np.testing.assert_allclose(volume.spacing_mm[0], 2.5 * np.cos(angle), rtol=1e-6)
    assert volume.valid is not None and not volume.valid.all()
    assert (volume.hu[~volume.valid] == -1024).all()
    # Inside one tissue interpolation is exact but for rounding; only at borders it mixes neighbours.
    assert np.percentile(deviation_hu(volume), 90) <= 1.0
    index = np.argwhere(volume.valid & (volume.hu > 500))
    middle = volume.grid.to_lps(index).mean(axis=0)
    np.testing.assert_allclose(middle, (25.0, 0.0, 0.0), atol=0.2)


def test_a_tilt_beyond_thirty_degrees_is_refused(tmp_path: Path) -> None:
    angle = np.radians(35.0)
    write(plane_series((1, 0, 0, 0, np.cos(angle), -np.sin(angle)), displacement=(0, 0, 2.5)), tmp_path)
    assert refusal(tmp_path) == "tilt_too_large"


def test_padding_is_never_blended_when_a_tilt_is_sheared_back(tmp_path: Path) -> None:
    datasets = plane_series((1, 0, 0, 0, np.cos(0.2), -np.sin(0.2)), displacement=(0, 0, 2.5), PixelPaddingValue=-2000)
    for ds in datasets:
        stored = np.frombuffer(ds.PixelData, "<i2").reshape(64, 64).copy()
        stored[:5] = -2000
        ds.PixelData = stored.tobytes()
    write(datasets, tmp_path)

    volume = read(tmp_path)

    assert volume.hu.min() == -1024
    assert np.percentile(deviation_hu(volume), 75) <= 1.0


def test_slices_shifted_against_each_other_are_refused(tmp_path: Path) -> None:
    datasets = axial_series(20)
    for k, ds in enumerate(datasets):
        ds.ImagePositionPatient = [-63.0 + (3.0 if k % 2 else 0.0), -47.0, ds.ImagePositionPatient[2]]
    write(datasets, tmp_path)
    assert refusal(tmp_path) == "shifted_slices"


def test_rescale_differs_from_slice_to_slice(tmp_path: Path) -> None:
    datasets = [
        slice_dataset((-63.0, -47.0, 2.5 * k), slope=1.0 + 0.01 * k, intercept=-1024.0 - k, instance=k)
        for k in range(20)
    ]
    write(datasets, tmp_path)

    volume = read(tmp_path)

    assert volume.hu.dtype == np.float32
    assert "rescale_varies" in codes(volume)
    assert deviation_hu(volume).max() <= 0.66


def test_whole_numbered_rescale_values_keep_int16(tmp_path: Path) -> None:
    write([slice_dataset((-63.0, -47.0, 2.5 * k), intercept=-1024.0 - 10 * k, instance=k) for k in range(12)], tmp_path)
    volume = read(tmp_path)
    assert volume.hu.dtype == np.int16
    assert deviation_hu(volume).max() <= ROUNDING_HU


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
def test_without_rescale_there_are_no_hounsfield_units(tmp_path: Path, keyword: str) -> None:
    write(axial_series(12, **{keyword: None}), tmp_path)
    assert refusal(tmp_path) == "no_rescale"


@pytest.mark.parametrize("declared", [-2000, 63536, None])
def test_padding_is_masked_declared_or_not_and_whatever_its_sign(tmp_path: Path, declared: int | None) -> None:
    datasets = axial_series(12)
    circle = np.hypot(*(np.mgrid[:48, :64] - np.array([24, 32])[:, None, None])) > 30
    for ds in datasets:
        stored = np.frombuffer(ds.PixelData, "<i2").reshape(48, 64).copy()
        stored[circle] = -2000
        ds.PixelData = stored.tobytes()
        if declared is not None:
            element = Dataset()
            element.add_new("PixelPaddingValue", "SS" if declared < 0 else "US", declared)
            ds["PixelPaddingValue"] = element["PixelPaddingValue"]
    write(datasets, tmp_path)

    volume = read(tmp_path)

    assert volume.valid is not None
    np.testing.assert_array_equal(volume.valid, np.broadcast_to(~circle, volume.shape))
    assert (volume.hu[~volume.valid] == -1024).all()
    assert deviation_hu(volume).max() <= ROUNDING_HU


def test_declared_padding_is_masked_wherever_it_lies(tmp_path: Path) -> None:
    """A band in the middle, which no look at the corners would find."""
    datasets = axial_series(12, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1990)
    for ds in datasets:
        stored = np.frombuffer(ds.PixelData, "<i2").reshape(48, 64).copy()
        stored[20:24, 10:54] = -1995
        ds.PixelData = stored.tobytes()
    write(datasets, tmp_path)

    volume = read(tmp_path)

    assert volume.valid is not None
    assert (~volume.valid).sum() == 12 * 4 * 44
    assert not volume.valid[:, 20:24, 10:54].any()
    assert deviation_hu(volume).max() <= ROUNDING_HU


def test_a_padding_value_that_tissue_has_too_is_not_masked(tmp_path: Path) -> None:
    datasets = axial_series(12, intercept=0.0, PixelPaddingValue=40)
    write(datasets, tmp_path)
    volume = read(tmp_path)
    assert "ambiguous_padding" in codes(volume)
    assert volume.valid is None


def test_signed_values_declared_unsigned_are_refused(tmp_path: Path) -> None:
    write(axial_series(12, intercept=0.0, PixelRepresentation=0), tmp_path)
    assert refusal(tmp_path) == "wrong_sign"


def test_unsigned_values_declared_signed_wrap_and_are_refused(tmp_path: Path) -> None:
    """Twelve stored bits read as signed: bone beyond +1023 HU comes back below -3000 HU."""
    datasets = axial_series(12, signed=False)
    for ds in datasets:
        stored = np.frombuffer(ds.PixelData, "<u2").reshape(48, 64).copy()
        stored[20:28, 40:52] = np.arange(2000, 2096).reshape(8, 12)
        ds.PixelData = stored.tobytes()
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, 1
    write(datasets, tmp_path)
    assert refusal(tmp_path) == "wrapped_values"


def test_dark_noise_that_wrapped_to_the_top_of_twelve_bits_is_refused(tmp_path: Path) -> None:
    datasets = axial_series(12, signed=False)
    for ds in datasets:
        stored = np.frombuffer(ds.PixelData, "<u2").reshape(48, 64).copy()
        stored[0:4:2, ::4] = 4095
        ds.PixelData = stored.tobytes()
        ds.BitsStored, ds.HighBit = 12, 11
    write(datasets, tmp_path)
    assert refusal(tmp_path) == "wrapped_values"


def test_garbage_in_unused_bits_is_ignored(tmp_path: Path) -> None:
    """Old scanners keep overlays in the bits above the twelve that count."""
    datasets = axial_series(12, signed=False)
    for ds in datasets:
        stored = np.frombuffer(ds.PixelData, "<u2").copy()
        stored[::3] |= 0xF000
        ds.PixelData = stored.tobytes()
        ds.BitsStored, ds.HighBit = 12, 11
    write(datasets, tmp_path)
    assert deviation_hu(read(tmp_path)).max() <= ROUNDING_HU


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda hu: hu + 1024, "implausible_hu"),
        (lambda hu: np.clip((hu + 160) / 400 * 255, 0, 255), "implausible_hu"),
        (lambda hu: hu - 500, "implausible_hu"),
        (lambda hu: hu * 3, "implausible_hu"),
        (lambda hu: np.zeros_like(hu), "constant_image"),
    ],
    ids=["intercept forgotten", "windowed to grey values", "air at -1500", "three times too much", "blank"],
)
def test_values_that_cannot_be_hounsfield_units_are_refused(tmp_path: Path, change: object, reason: str) -> None:
    datasets = []
    for k in range(12):
        plane = np.stack(np.meshgrid(-63.0 + 2.0 * np.arange(64), -47.0 + 2.0 * np.arange(48)), axis=-1)
        points = np.concatenate([plane, np.full((48, 64, 1), 2.5 * k)], axis=-1)
        noisy = body_hu(points) + np.random.default_rng(k).normal(0, 10, points.shape[:2])
        hu = change(noisy)  # type: ignore[operator]
        datasets.append(slice_dataset((-63.0, -47.0, 2.5 * k), hu=hu, instance=k))
    write(datasets, tmp_path)
    assert refusal(tmp_path) == reason


def test_the_end_of_the_twelve_bit_scale_is_mentioned(tmp_path: Path) -> None:
    datasets = axial_series(12)
    for ds in datasets:
        stored = np.frombuffer(ds.PixelData, "<i2").reshape(48, 64).copy()
        stored[22:26, 40:44] = 4095
        ds.PixelData = stored.tobytes()
    write(datasets, tmp_path)
    assert "clipped_hu" in codes(read(tmp_path))


# ------------------------------------------------------------------------------------------------- multi-frame


def enhanced(datasets: list[Dataset]) -> Dataset:
    """An Enhanced CT object of the slices, converted by highdicom."""
    for ds in datasets:
        ds.LossyImageCompression = "00"
        ds.PresentationIntentType = "FOR PRESENTATION"
    return highdicom.legacy.LegacyConvertedEnhancedCTImage(
        legacy_datasets=datasets,
        series_instance_uid=highdicom.UID(),
        series_number=5,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
    )


def test_an_enhanced_object_gives_the_volume_of_its_classic_slices(tmp_path: Path) -> None:
    classic = axial_series(20)
    write(classic, tmp_path / "classic")
    multi_frame = enhanced(classic)
    write([multi_frame], tmp_path / "enhanced")

    expected, volume = read(tmp_path / "classic"), read(tmp_path / "enhanced")

    np.testing.assert_array_equal(volume.hu, expected.hu)
    np.testing.assert_allclose(volume.grid.index_to_lps, expected.grid.index_to_lps)
    assert volume.source.sop_instance_uids == (multi_frame.SOPInstanceUID,)
    assert volume.acquisition.kernel == "STANDARD"
    assert volume.acquisition.kvp == 120
    (header,) = read_source_headers(volume.source)
    assert header.NumberOfFrames == 20


def test_a_native_enhanced_object_with_two_stacks_and_own_rescale_per_frame(tmp_path: Path) -> None:
    """Frames are told apart by their functional groups alone."""
    frames = [(k, phase) for phase in (1, 2) for k in range(14)]
    ds = slice_dataset((0, 0, 0))
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    planes = []
    for k, phase in frames:
        plane = slice_dataset((-63.0, -47.0, 2.5 * k), intercept=-1000.0 - 10 * phase - k)
        planes.append((plane, phase))
    for keyword in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "RescaleSlope",
        "RescaleIntercept",
        "RescaleType",
        "SliceThickness",
        "KVP",
        "ConvolutionKernel",
        "AcquisitionNumber",
    ):
        delattr(ds, keyword)
    ds.NumberOfFrames = len(frames)
    ds.PixelData = b"".join(plane.PixelData for plane, _ in planes)

    def group(**values: object) -> list[Dataset]:
        item = Dataset()
        for keyword, value in values.items():
            setattr(item, keyword, value)
        return [item]

    shared = Dataset()
    shared.PixelMeasuresSequence = group(PixelSpacing=[2.0, 2.0], SliceThickness="2.5")
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=list(AXIAL))
    shared.CTReconstructionSequence = group(ConvolutionKernel="Br36f", ReconstructionDiameter="128")
    shared.CTXRayDetailsSequence = group(KVP=100)
    ds.SharedFunctionalGroupsSequence = [shared]
    per_frame = []
    for plane, phase in planes:
        item = Dataset()
        item.PlanePositionSequence = group(ImagePositionPatient=plane.ImagePositionPatient)
        item.PixelValueTransformationSequence = group(
            RescaleSlope="1", RescaleIntercept=plane.RescaleIntercept, RescaleType="HU"
        )
        item.FrameContentSequence = group(TemporalPositionIndex=phase, FrameAcquisitionNumber=1)
        item.CTImageFrameTypeSequence = group(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
        per_frame.append(item)
    ds.PerFrameFunctionalGroupsSequence = per_frame
    write([ds], tmp_path)

    (study,) = find_studies([tmp_path]).studies

    assert [stack.count for stack in study.stacks] == [14, 14]
    for stack in study.stacks:
        volume = load_volume(stack)
        assert deviation_hu(volume).max() <= ROUNDING_HU
        assert (volume.acquisition.kernel, volume.acquisition.kvp) == ("Br36f", 100)
    assert select(study).spine.stack in study.stacks


# --------------------------------------------------------------------------------------------------- provenance


def test_source_names_the_instances_from_the_feet_to_the_head(tmp_path: Path) -> None:
    datasets = axial_series(15)
    write(datasets, tmp_path)
    volume = read(tmp_path)

    assert list(volume.source.sop_instance_uids) == [ds.SOPInstanceUID for ds in datasets]
    headers = read_source_headers(volume.source)
    heights = [float(header.ImagePositionPatient[2]) for header in headers]
    assert heights == sorted(heights)
    assert all("PixelData" not in header for header in headers)
    assert str(headers[0].PatientName) == "Mustermann^Erika", "derived objects copy the patient module"


def test_a_source_that_changed_or_vanished_is_refused(tmp_path: Path) -> None:
    paths = write(axial_series(15), tmp_path)
    source = read(tmp_path).source
    slice_dataset((0, 0, 0)).save_as(paths[3], enforce_file_format=True)
    with pytest.raises(InputRefused) as changed:
        read_source_headers(source)
    assert changed.value.reason == "source_changed"
    paths[3].unlink()
    with pytest.raises(InputRefused) as vanished:
        read_source_headers(source)
    assert vanished.value.reason == "source_vanished"


def test_equal_content_has_an_equal_hash_whatever_the_file_names(tmp_path: Path) -> None:
    datasets = axial_series(12)
    write(datasets, tmp_path / "a", pattern="x{}")
    write(datasets, tmp_path / "b", pattern="y{}")
    first = read(tmp_path / "a").source.content_sha256
    assert first == read(tmp_path / "b").source.content_sha256
    moved = axial_series(12, start_mm=-49.0)
    write(moved, tmp_path / "c")
    assert first != read(tmp_path / "c").source.content_sha256


@pytest.mark.parametrize(("noise_hu", "said"), [(15.0, False), (45.0, False), (80.0, True)])
def test_an_image_of_much_noise_is_read_and_said_to_be(tmp_path: Path, noise_hu: float, said: bool) -> None:
    slices = axial_series(12)
    generator = np.random.default_rng(3)
    for one in slices:
        noisy = one.pixel_array + generator.normal(0.0, noise_hu, (one.Rows, one.Columns))
        one.PixelData = noisy.round().astype(np.int16).tobytes()
    write(slices, tmp_path)
    assert ("high_noise" in codes(read(tmp_path))) is said


@pytest.mark.parametrize("true_hu", [8.0, 30.0, 90.0])
def test_noise_is_measured_beside_structure(true_hu: float) -> None:
    """Rods and edges in half of the picture leave the estimate where it is."""
    generator = np.random.default_rng(1)
    plane = np.where(np.arange(160) % 16 < 2, 400.0, 40.0)[None, None, :] * np.ones((4, 160, 1))
    plane[:, :90] = 40.0
    assert measured_noise_hu(plane + generator.normal(0.0, true_hu, plane.shape)) == pytest.approx(true_hu, rel=0.1)
