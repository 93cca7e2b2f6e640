"""NIfTI volumes keep left and right, and whatever is not a CT is refused by name."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import InputRefused
from pipeline.ingest import find_studies, load_volume, read_source_headers, select
from pipeline.volume import Volume
from tests.pipeline.dicom_factory import body_hu

SPACING_MM = (3.0, 2.5, 4.0)


def body_volume(affine_ras: np.ndarray, shape: tuple[int, int, int] = (46, 40, 20)) -> np.ndarray:
    """The test body sampled on a NIfTI grid, by the definition of RAS coordinates."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    ras = index @ affine_ras[:3, :3].T + affine_ras[:3, 3]
    return np.rint(body_hu(ras * [-1, -1, 1]))


def affine(order: list[int] | tuple[int, ...] = (0, 1, 2), signs: tuple[float, ...] = (1, 1, 1)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = 0
    for axis, (target, sign) in enumerate(zip(order, signs, strict=True)):
        matrix[target, axis] = sign * SPACING_MM[axis]
    matrix[:3, 3] = -matrix[:3, :3] @ (np.array([46, 40, 20]) - 1) / 2
    return matrix


def read(path: Path) -> Volume:
    study = find_studies([path]).studies[0]
    return load_volume(select(study).spine.stack)


def true_hu(volume: Volume) -> np.ndarray:
    index = np.stack(np.meshgrid(*(np.arange(n) for n in volume.shape), indexing="ij"), axis=-1)
    return body_hu(volume.grid.to_lps(index))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations([0, 1, 2]), signs=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3), packed=st.booleans())
def test_any_order_of_axes_gives_the_same_patient(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], signs: tuple[float, ...], packed: bool
) -> None:
    path = tmp_path_factory.mktemp("nifti") / ("ct.nii.gz" if packed else "ct.nii")
    matrix = affine(order, signs)
    nibabel.save(nibabel.Nifti1Image(body_volume(matrix).astype(np.int16), matrix), path)

    volume = read(path)

    assert volume.hu.dtype == np.int16
    assert np.abs(volume.hu - true_hu(volume)).max() < 0.501
    axes = volume.grid.axes_lps
    assert axes[0, 2] > 0.99 and axes[1, 1] > 0.99 and axes[2, 0] > 0.99
    # Independent reader: the physical point of every voxel must carry the same value.
    image = sitk.ReadImage(str(path))
    for index in [(0, 0, 0), tuple(n // 3 for n in volume.shape), tuple(n - 1 for n in volume.shape)]:
        point = volume.grid.to_lps(np.array(index, float))
        assert image[image.TransformPhysicalPointToIndex([float(v) for v in point])] == volume.hu[index]
    back = volume.axis_order.to_source(volume.hu)
    np.testing.assert_array_equal(back, sitk.GetArrayFromImage(image))


def test_the_acquisition_is_unknown_and_there_are_no_headers(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(body_volume(affine()).astype(np.int16), affine()), tmp_path / "ct.nii")
    volume = read(tmp_path)
    assert volume.acquisition.kvp is volume.acquisition.kernel is volume.acquisition.patient_sex is None
    assert volume.source.kind == "nifti"
    assert read_source_headers(volume.source) == []


def test_scaled_integers_and_floats(tmp_path: Path) -> None:
    hu = body_volume(affine())
    nibabel.save(nibabel.Nifti1Image((hu + 1024).astype(np.uint16), affine()), tmp_path / "shifted.nii")
    raw = bytearray((tmp_path / "shifted.nii").read_bytes())
    raw[112:120] = struct.pack("<ff", 1.0, -1024.0)  # scl_slope and scl_inter
    (tmp_path / "shifted.nii").write_bytes(bytes(raw))
    assert read(tmp_path / "shifted.nii").hu.dtype == np.int16
    np.testing.assert_allclose(
        read(tmp_path / "shifted.nii").hu, np.rint(true_hu(read(tmp_path / "shifted.nii"))), atol=1
    )

    nan = (hu + 0.25).astype(np.float32)
    nan[:3] = np.nan
    nibabel.save(nibabel.Nifti1Image(nan, affine()), tmp_path / "float.nii.gz")
    volume = read(tmp_path / "float.nii.gz")
    assert volume.hu.dtype == np.float32
    assert volume.valid is not None
    assert volume.valid.mean() == pytest.approx(1 - 3 / 46)
    assert np.isfinite(volume.hu).all()
    assert np.abs(volume.hu - 0.25 - true_hu(volume))[volume.valid].max() < 0.51


def test_padding_far_below_air_is_masked(tmp_path: Path) -> None:
    hu = body_volume(affine())
    hu[:4] = -3024
    nibabel.save(nibabel.Nifti1Image(hu.astype(np.int16), affine()), tmp_path / "ct.nii")
    volume = read(tmp_path)
    assert volume.valid is not None
    assert volume.hu[~volume.valid].tolist() == [-1024] * (4 * 40 * 20)


def with_forms(sform: np.ndarray | None, qform: np.ndarray | None) -> nibabel.Nifti1Image:
    image = nibabel.Nifti1Image(body_volume(affine()).astype(np.int16), affine())
    image.set_sform(sform, 1 if sform is not None else 0)
    image.set_qform(qform, 1 if qform is not None else 0)
    return image


def sheared() -> np.ndarray:
    matrix = affine()
    matrix[1, 2] = 1.0
    return matrix


def random_colours() -> nibabel.Nifti1Image:
    colours = np.zeros((20, 20, 20), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    return nibabel.Nifti1Image(colours, affine())


def grey_values(low: float, high: float, kind: type) -> nibabel.Nifti1Image:
    values = np.random.default_rng(0).uniform(low, high, (30, 30, 20)).astype(kind)
    return nibabel.Nifti1Image(values, affine())


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (random_colours(), "not_grey"),
        (nibabel.Nifti1Image(np.zeros((10, 10, 10, 4), np.int16) - 1000, affine()), "not_a_volume"),
        (nibabel.Nifti1Image(np.zeros((10, 10, 10), np.complex64), affine()), "not_grey"),
        (grey_values(0, 255, np.uint8), "not_hounsfield"),
        (grey_values(0, 900, np.int16), "not_hounsfield"),
        (grey_values(-3, 3, np.float32), "not_hounsfield"),
        (grey_values(-1000, -300, np.int16), "implausible_hu"),
        (with_forms(affine(), affine(signs=(-1, 1, 1))), "contradictory_geometry"),
        (with_forms(None, None), "no_geometry"),
        (with_forms(sheared(), None), "sheared_grid"),
    ],
    ids=[
        "colours",
        "time series",
        "complex",
        "grey 0-255",
        "MR",
        "normalised",
        "no tissue",
        "two forms",
        "no form",
        "sheared",
    ],
)
def test_what_is_no_ct_is_refused_by_name(tmp_path: Path, image: nibabel.Nifti1Image, reason: str) -> None:
    nibabel.save(image, tmp_path / "image.nii.gz")
    with pytest.raises(InputRefused) as refusal:
        read(tmp_path / "image.nii.gz")
    assert refusal.value.reason == reason
    # The detail, which goes into records, never names the file: it may be named after the patient.
    assert refusal.value.detail and "image.nii.gz" not in refusal.value.detail


@pytest.mark.parametrize("forms", [(True, False), (False, True), (True, True)], ids=["sform", "qform", "both"])
def test_either_form_alone_or_both_in_agreement_place_the_volume(tmp_path: Path, forms: tuple[bool, bool]) -> None:
    nibabel.save(with_forms(*(affine() if there else None for there in forms)), tmp_path / "ct.nii")
    volume = read(tmp_path)
    assert np.abs(volume.hu - true_hu(volume)).max() < 0.501


def test_a_label_map_beside_the_ct_is_no_study(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(body_volume(affine()).astype(np.int16), affine()), tmp_path / "ct.nii.gz")
    labels = np.zeros((46, 40, 20), np.uint8)
    labels[10:20, 10:20, 5:9], labels[10:20, 10:20, 10:14] = 20, 21
    nibabel.save(nibabel.Nifti1Image(labels, affine()), tmp_path / "labels.nii.gz")

    inventory = find_studies([tmp_path])

    assert len(inventory.studies) == 1
    assert [(s.name, s.reason) for s in inventory.skipped] == [("labels.nii.gz", "label_map")]


def test_a_truncated_file_is_skipped_or_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(body_volume(affine()).astype(np.int16), affine()), tmp_path / "ct.nii.gz")
    whole = (tmp_path / "ct.nii.gz").read_bytes()
    (tmp_path / "ct.nii.gz").write_bytes(whole[: len(whole) // 2])
    inventory = find_studies([tmp_path])
    if inventory.studies:
        with pytest.raises(InputRefused) as refusal:
            read(tmp_path)
        assert refusal.value.reason == "truncated"
    else:
        assert inventory.skipped[0].reason == "truncated"


def test_two_volumes_are_two_studies_and_a_copy_is_none(tmp_path: Path) -> None:
    hu = body_volume(affine()).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(hu, affine()), tmp_path / "a.nii")
    hu[20, 20, 10] += 1
    nibabel.save(nibabel.Nifti1Image(hu, affine()), tmp_path / "b.nii")
    (tmp_path / "copy of b.nii").write_bytes((tmp_path / "b.nii").read_bytes())
    (tmp_path / "noise.nii.gz").write_bytes(gzip.compress(b"not an image at all"))

    inventory = find_studies([tmp_path])

    assert len({study.key for study in inventory.studies}) == 2
    assert sorted(s.reason for s in inventory.skipped) == ["duplicate_file", "not_dicom"]
