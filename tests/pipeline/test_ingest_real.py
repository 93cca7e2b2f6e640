"""Real series from scanners of several makers: voxel for voxel the reference volumes, and the right refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from pipeline.errors import InputRefused
from pipeline.ingest import find_studies, load_volume, read_source_headers, select
from pipeline.volume import Volume

RealData = Callable[[str], Path]

pytestmark = pytest.mark.realdata


def from_dicom(folder: Path) -> Volume:
    (study,) = find_studies([folder / "dicom.zip"]).studies
    return load_volume(select(study).spine.stack)


@pytest.mark.parametrize(
    "case",
    [
        "cptac00189_lungbases_5mm",
        "crlm1006_abdomen_5mm",
        "ricord001012_chest_1p25mm",  # JPEG lossless
        "sts031_hip_right",
        "sts044_hip_right",
        "ts_dicom_slab_j2k",  # JPEG 2000
    ],
)
def test_dicom_agrees_with_the_reference_volume_voxel_for_voxel(case: str, real_data: RealData) -> None:
    """The reference was converted by other programs and is read here by SimpleITK; it may be a crop."""
    volume = from_dicom(real_data(case))
    reference = sitk.ReadImage(str(real_data(case) / "ct.nii.gz"))
    array = sitk.GetArrayFromImage(reference)
    corners = [(0, 0, 0), tuple(n - 1 for n in reference.GetSize())]
    first, last = (volume.grid.to_index(np.array(reference.TransformIndexToPhysicalPoint(c))) for c in corners)
    assert np.abs(first - np.rint(first)).max() < 0.01
    start = np.rint(np.minimum(first, last)).astype(int)
    common = [slice(max(s, 0), min(s + n, m)) for s, n, m in zip(start, array.shape, volume.shape, strict=True)]
    for axis in range(3):
        if first[axis] > last[axis]:
            array = np.flip(array, axis)
    reference_part = array[tuple(slice(c.start - s, c.stop - s) for c, s in zip(common, start, strict=True))]
    own_part = volume.hu[tuple(common)]
    assert own_part.size > 0.4 * array.size
    same = own_part == reference_part
    if volume.valid is not None:
        same |= ~volume.valid[tuple(common)]
        assert reference_part[~volume.valid[tuple(common)]].max(initial=-5000) <= -1000, "only padding is masked"
    assert same.all()


@pytest.mark.parametrize("case", ["crlm1006_abdomen_5mm", "sts044_hip_right"])
def test_headers_come_back_in_the_order_of_the_slices(case: str, real_data: RealData) -> None:
    volume = from_dicom(real_data(case))
    headers = read_source_headers(volume.source)
    assert len(headers) == volume.shape[0]
    for k in (0, len(headers) // 2, len(headers) - 1):
        position = volume.grid.to_index(np.array(headers[k].ImagePositionPatient, float))
        assert position[0] == pytest.approx(k, abs=0.01)


def test_a_tilted_unevenly_spaced_head_is_refused_by_name(real_data: RealData) -> None:
    """Slices of 4 mm through the skull base and 7 mm above come apart; neither shows a bone of interest."""
    (study,) = find_studies([real_data("ge_head_tilt") / "dicom.zip"]).studies
    assert {round(stack.step_mm or 0) for stack in study.stacks} == {4, 7}
    assert all(stack.geometry and stack.geometry.tilt_deg == pytest.approx(18.5, abs=0.1) for stack in study.stacks)
    with pytest.raises(InputRefused, match="head"):
        select(study)


def test_neighbouring_slices_of_the_tilted_head_agree_best_when_sheared_back(real_data: RealData) -> None:
    """Sheared the wrong way, or not at all, the skull would wander from slice to slice."""
    (study,) = find_studies([real_data("ge_head_tilt") / "dicom.zip"]).studies
    volume = load_volume(min(study.stacks, key=lambda stack: stack.step_mm or 0))
    assert "gantry_tilt" in {finding.code for finding in volume.findings}
    assert volume.valid is not None
    per_slice_pixels = 4.0 * np.tan(np.radians(18.5)) / 0.488

    def disagreement(extra_pixels: float) -> float:
        """Mean absolute difference of neighbouring slices if the upper one were moved by so many pixels."""
        move = round(extra_pixels)
        both = volume.valid[1:] & np.roll(volume.valid[:-1], move, axis=1)  # type: ignore[index]
        difference = volume.hu[1:].astype(float) - np.roll(volume.hu[:-1], move, axis=1)
        return float(np.abs(difference[both]).mean())

    assert disagreement(0) < disagreement(per_slice_pixels)
    assert disagreement(0) < disagreement(-per_slice_pixels)


def test_a_sharp_kernel_and_contrast_are_known(real_data: RealData) -> None:
    (lung,) = find_studies([real_data("cptac00189_lungbases_5mm") / "dicom.zip"]).studies
    assert "sharp kernel LUNG" in select(lung).spine.reason
    volume = load_volume(select(lung).spine.stack)
    assert {"clipped_hu", "sharp_kernel"} <= {finding.code for finding in volume.findings}
    (liver,) = find_studies([real_data("crlm1006_abdomen_5mm") / "dicom.zip"]).studies
    assert select(liver).spine.stack.acquisition.contrast_agent == "GASTRO & OMNI"
    assert select(liver).spine.stack.acquisition.patient_age_years == 49


@pytest.mark.parametrize("case", ["ts_example_3mm", "ts_thorax_cta_1p5mm"])
def test_a_folder_with_a_volume_and_its_labels_is_one_study(case: str, real_data: RealData) -> None:
    inventory = find_studies([real_data(case)])
    assert len(inventory.studies) == 1
    assert {s.reason for s in inventory.skipped if s.name.endswith(".nii.gz")} == {"label_map"}
    assert load_volume(select(inventory.studies[0]).spine.stack).hu.dtype == np.int16


@pytest.mark.parametrize("case", ["fe_vertebra_L4", "fe_femur_left"])
def test_density_images_are_not_taken_for_hounsfield_units(case: str, real_data: RealData) -> None:
    inventory = find_studies([real_data(case)])
    for study in inventory.studies:
        with pytest.raises(InputRefused):
            load_volume(select(study).spine.stack)
