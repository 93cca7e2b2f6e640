"""What `openbct strength` is given: other formats, orders, units and masks, each used rightly or refused with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fea.bone.profiles import VirtualTest
from pipeline.errors import InputRefused, NotMeasurable
from pipeline.segmentation.model import LABEL_OF, BodyFrame, Segmentation, Vertebra
from pipeline.strength import FallPosture, strength_from_image
from pipeline.strength.bridge import pose_from_mask
from pipeline.strength.command import run_strength_command
from pipeline.strength.images import read_image, read_mask
from pipeline.volume import Grid
from reports.dicom import Provenance, segmentation_object
from tests.fea.bone.bones import Bone, oval_body, synthetic_femur
from tests.pipeline.dicom_factory import slice_dataset, write
from tests.pipeline.test_strength import save

SPINE: dict[str, Any] = {
    "test": "spine-compression",
    "is_density": True,
    "voxel_mm": 2.0,
    "pictures": False,
    "exports": (),
}


@pytest.fixture(scope="module")
def bone() -> Bone:
    return oval_body(tilt_deg=(8, 0))


@pytest.fixture(scope="module")
def pair(bone: Bone, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The body as NIfTI: density and mask."""
    folder = tmp_path_factory.mktemp("pair")
    image = save(folder / "density.nii.gz", bone.density, bone.matrix)
    return image, save(folder / "mask.nii.gz", bone.mask.astype(np.uint8), bone.matrix)


@pytest.fixture(scope="module")
def newton(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> float:
    return float(run_strength_command(*pair, tmp_path_factory.mktemp("out"), **SPINE)["strength_n"])


def test_a_mask_that_is_stored_in_another_order_lies_on_the_same_grid(
    pair: tuple[Path, Path], bone: Bone, newton: float, tmp_path: Path
) -> None:
    """Axes exchanged and one of them reversed, with the matrix that says so."""
    values = bone.mask.astype(np.uint8).transpose(1, 2, 0)[::-1]
    matrix = bone.matrix[:, [1, 2, 0, 3]].copy()
    matrix[:3, 3] += (values.shape[0] - 1) * matrix[:3, 0]
    matrix[:3, 0] *= -1
    turned = save(tmp_path / "turned.nii", values, matrix)
    content = run_strength_command(pair[0], turned, tmp_path / "o", **SPINE)
    assert content["strength_n"] == pytest.approx(newton, rel=1e-9)


def test_probabilities_and_missing_values_are_no_label_map(pair: tuple[Path, Path], bone: Bone, tmp_path: Path) -> None:
    for name, inside, outside in (("probability", 0.7, 0.0), ("missing", 1.0, np.nan)):
        values = np.where(bone.mask, inside, outside).astype(np.float32)
        mask = save(tmp_path / f"{name}.nii.gz", values, bone.matrix)
        with pytest.raises(InputRefused) as caught:
            run_strength_command(pair[0], mask, tmp_path / "o", **SPINE)
        assert caught.value.reason == "not_a_label_map"


def test_the_axes_of_an_image_must_be_orthogonal(bone: Bone, tmp_path: Path) -> None:
    sheared = bone.matrix.copy()
    sheared[:3, 2] += 0.3 * sheared[:3, 1]
    with pytest.raises(InputRefused) as caught:
        read_image(save(tmp_path / "s.nii", bone.density, sheared), VirtualTest.SPINE_COMPRESSION)
    assert caught.value.reason == "image_unreadable" and "orthogonal" in caught.value.detail


@pytest.mark.parametrize("spacing_mm", [(3.0, 0.8, 0.8), (0.7, 1.4, 0.9)])
def test_voxels_of_unequal_edges_give_the_same_strength(
    newton: float, spacing_mm: tuple[float, float, float], tmp_path: Path
) -> None:
    other = oval_body(tilt_deg=(8, 0), spacing_mm=spacing_mm)
    image = save(tmp_path / "i.nii.gz", other.density, other.matrix)
    mask = save(tmp_path / "m.nii.gz", other.mask.astype(np.uint8), other.matrix)
    content = run_strength_command(image, mask, tmp_path / "o", **SPINE)
    assert content["strength_n"] == pytest.approx(
        newton, rel=0.08
    )  # a mask of 3 mm slices rounds the tilted end plates


@pytest.mark.parametrize(
    ("level", "size_mm"), [("T4", (26.0, 22.0, 16.0)), ("T9", (32.0, 28.0, 20.0)), ("L5", (52.0, 36.0, 27.0))]
)
def test_strength_goes_with_the_section_from_the_smallest_level_to_the_largest(
    level: str, size_mm: tuple[float, float, float]
) -> None:
    """Of a uniform cylinder the rule is 0.0068 E A, times the height with 4 mm of cement at both ends over that without."""
    body = oval_body(size_mm=size_mm)
    result = strength_from_image(body.density, body.mask, body.matrix, test="spine-compression", mineral="K2HPO4")
    assert result.strength is not None
    section_mm2 = float(body.mask.sum()) / size_mm[2]
    modulus_mpa = 2980.0 * 0.150**1.05
    heights = (size_mm[2] + 8.0) / size_mm[2]
    assert result.strength.value == pytest.approx(0.0068 * modulus_mpa * section_mm2 * heights, rel=0.06), level


# Units and minerals


def test_hydroxyapatite_densities_are_converted_and_said_to_be(
    pair: tuple[Path, Path], bone: Bone, newton: float, tmp_path: Path
) -> None:
    """With a law of power 1.05 and a factor of 0.87 the modulus falls by 14 %; the cement of the caps stays as stiff."""
    content = run_strength_command(*pair, tmp_path / "o", **SPINE, mineral="HA")
    assert content["strength_n"] == pytest.approx(0.87**1.05 * newton, rel=0.02)
    assert "mineral_basis_converted" in {finding["code"] for finding in content["findings"]}
    with pytest.raises(InputRefused) as caught:
        run_strength_command(*pair, tmp_path / "o", **SPINE, mineral="CaCO3")
    assert caught.value.reason == "unknown_mineral"


@pytest.mark.parametrize("factor", [1e-3, 1e2, 0.0, -1.0])
def test_densities_in_another_unit_give_no_number(bone: Bone, factor: float) -> None:
    """g/cm3 for mg/cm3, kg/m3 of something else, nothing at all, and a wrong sign."""
    reason = refusal(bone.density * np.float32(factor), bone.mask, bone.matrix)
    assert reason == "density_unphysical"


def test_a_missing_value_inside_the_bone_gives_no_number_and_outside_it_does_not_matter(bone: Bone) -> None:
    holed = bone.density.copy()
    holed[tuple(np.argwhere(bone.mask)[100])] = np.nan
    assert refusal(holed, bone.mask, bone.matrix) == "density_unphysical"
    around = np.where(bone.mask, bone.density, np.nan)
    whole = strength_from_image(
        around, bone.mask, bone.matrix, test="spine-compression", mineral="K2HPO4", voxel_mm=2.0
    )
    assert whole.strength is not None and np.isfinite(whole.strength.value)


def refusal(density: np.ndarray, mask: np.ndarray, matrix: np.ndarray, test: str = "spine-compression") -> str:
    with pytest.raises(NotMeasurable) as caught:
        strength_from_image(density, mask, matrix, test=test, mineral="K2HPO4", voxel_mm=2.0)
    return caught.value.reason


# Broken connectivity


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_gap_of_one_voxel_is_found_although_the_model_has_larger_voxels(bone: Bone, axis: int) -> None:
    broken = bone.mask.copy()
    gap = [slice(None)] * 3
    gap[axis] = slice(broken.shape[axis] // 2, broken.shape[axis] // 2 + 1)
    broken[tuple(gap)] = False
    assert refusal(bone.density, broken, bone.matrix) == "disconnected_pieces"


def test_crumbs_beside_the_bone_are_left_out_and_told(bone: Bone) -> None:
    crumbs = bone.mask.copy()
    crumbs[2:5, 2:5, 2:5] = True
    density = np.where(crumbs, 150.0, bone.density).astype(np.float32)
    result = strength_from_image(density, crumbs, bone.matrix, test="spine-compression", mineral="K2HPO4", voxel_mm=1.0)
    assert "loose_pieces_removed" in {finding.code for finding in result.findings}
    clean = strength_from_image(bone.density, bone.mask, bone.matrix, test="spine-compression", mineral="K2HPO4")
    assert result.strength is not None and clean.strength is not None
    assert result.strength.value == pytest.approx(clean.strength.value, rel=0.02)


# Left and right


@pytest.mark.parametrize("test", ["hip-sideways-fall", "hip-stance"])
def test_a_femur_and_its_mirror_image_are_as_strong_as_each_other(test: str) -> None:
    """An axis of the real scanner: the grid does not lie symmetrically to the bone."""
    left = synthetic_femur(side="left", shaft_mm=60.0)
    density, mask = left.density[:, :, ::-1].copy(), left.mask[:, :, ::-1].copy()
    pair = []
    for values, inside in ((left.density, left.mask), (density, mask)):
        result = strength_from_image(values, inside, left.matrix, test=test, mineral="K2HPO4", voxel_mm=2.0)
        assert result.strength is not None and result.stiffness is not None
        pair.append((result.strength.value, result.stiffness.value))
    assert pair[1] == pytest.approx(pair[0], rel=0.01)
    poses = pose_from_mask(left.mask, left.matrix), pose_from_mask(mask, left.matrix)
    assert [pose.side for pose in poses] == ["left", "right"]
    assert poses[1].neck_axis == pytest.approx(poses[0].neck_axis * [-1, 1, 1], abs=1e-3)
    assert poses[1].shaft_axis == pytest.approx(poses[0].shaft_axis * [-1, 1, 1], abs=1e-3)


def test_the_posture_of_a_fall_can_be_chosen_and_changes_the_strength() -> None:
    bone = synthetic_femur(shaft_mm=60.0)
    options: dict[str, Any] = {"test": "hip-sideways-fall", "mineral": "K2HPO4", "voxel_mm": 2.0}
    usual, stated, turned = (
        strength_from_image(bone.density, bone.mask, bone.matrix, posture=posture, **options)
        for posture in (None, FallPosture(15.0, 10.0), FallPosture(35.0, 0.0))
    )
    assert usual.strength is not None and turned.strength is not None and turned.solved is not None
    assert stated.strength == usual.strength
    assert abs(turned.strength.value / usual.strength.value - 1) > 0.01
    pose = pose_from_mask(bone.mask, bone.matrix)
    vertical = turned.solved.model.bone.grid.axes[1]
    assert vertical @ pose.shaft_axis == pytest.approx(0.0, abs=1e-6)  # no adduction: across the shaft
    assert vertical @ pose.anatomical[1] == pytest.approx(np.cos(np.radians(35.0)), abs=1e-6)


# DICOM


@pytest.fixture(scope="module")
def dicom(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Bone]:
    """The body in muscle, fat and air as a CT series, with a DICOM segmentation that names it."""
    body = oval_body()
    grown = ((0, 0), (24, 24), (24, 24))
    mask = np.pad(body.mask, grown)
    hu = np.pad(np.where(body.mask, 190.0, 45.0), grown, constant_values=45.0)
    hu[:, :12], hu[:, 12:20] = -1000.0, -100.0
    hu += np.random.default_rng(1).normal(0, 4, hu.shape)
    matrix = body.matrix.copy()
    matrix[:3, 3] -= body.matrix[:3, :3] @ [0, 24, 24]
    grid = Grid((mask.shape[0], mask.shape[1], mask.shape[2]), matrix)
    datasets = [
        slice_dataset(grid.to_lps(np.array([k, 0.0, 0.0])), spacing=(1.0, 1.0), hu=hu[k], instance=k + 1,
                      SliceThickness="1")
        for k in range(mask.shape[0])
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("dicom")
    write(datasets, folder / "series")
    number = LABEL_OF["vertebra_L1"]
    frame = BodyFrame(np.zeros(3), np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), np.array([0, 0, 1.0]))
    vertebra = Vertebra("vertebra_L1", "L1", number, frame, None, 44.0, 32.0, 1.0)
    segmentation = Segmentation(np.where(mask, number, 0).astype(np.uint8), grid, vertebrae=(vertebra,))
    provenance = Provenance(version="0", digest="0" * 64)
    seg = segmentation_object(segmentation.labels, matrix, segmentation.names(), datasets, provenance)
    assert seg is not None
    seg.save_as(folder / "seg.dcm")
    return folder / "series", folder / "seg.dcm", Bone(hu.astype(np.float32), mask, matrix)


def test_a_folder_of_dicom_is_an_image_and_a_dicom_segmentation_a_mask(
    dicom: tuple[Path, Path, Bone], tmp_path: Path
) -> None:
    folder, seg, body = dicom
    image = read_image(folder, VirtualTest.SPINE_COMPRESSION)
    assert image.acquisition.kvp == 120.0 and image.grid.shape == body.mask.shape
    assert np.array_equal(read_mask(seg, None, image), body.mask)
    options = SPINE | {"is_density": False}
    content = run_strength_command(folder, seg, tmp_path / "o", **options)
    codes = {finding["code"] for finding in content["findings"]}
    assert content["strength_n"] > 500 and {"series_chosen", "calibration_of_image"} <= codes
    as_nifti = save(tmp_path / "mask.nii", body.mask.astype(np.uint8), body.matrix)
    again = run_strength_command(folder, as_nifti, tmp_path / "p", **options)
    assert again["strength_n"] == content["strength_n"]


def test_the_calibration_of_hu_can_be_chosen_and_is_none_of_a_density_image(
    dicom: tuple[Path, Path, Bone], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, seg, _ = dicom
    options = SPINE | {"is_density": False, "calibration": "kvp"}
    content = run_strength_command(folder, seg, tmp_path / "o", **options)
    told = next(finding for finding in content["findings"] if finding["code"] == "calibration_of_image")
    assert "kvp constant" in told["text"]
    with pytest.raises(InputRefused) as caught:
        run_strength_command(*pair, tmp_path / "p", **SPINE, calibration="kvp")
    assert caught.value.reason == "calibration_not_used"


def test_segments_are_chosen_by_number_and_listed_by_name(dicom: tuple[Path, Path, Bone]) -> None:
    folder, seg, _ = dicom
    with pytest.raises(InputRefused) as caught:
        read_mask(seg, 7, read_image(folder, VirtualTest.SPINE_COMPRESSION))
    assert caught.value.reason == "label_absent" and "1 (" in caught.value.detail


def test_a_segmentation_of_another_scan_and_a_ct_slice_are_no_mask(
    dicom: tuple[Path, Path, Bone], pair: tuple[Path, Path]
) -> None:
    folder, seg, _ = dicom
    with pytest.raises(InputRefused) as caught:
        read_mask(seg, None, read_image(pair[0], VirtualTest.SPINE_COMPRESSION))
    assert caught.value.reason == "grids_differ"
    one = sorted(folder.iterdir())[0]
    with pytest.raises(InputRefused) as caught:
        read_mask(one, None, read_image(folder, VirtualTest.SPINE_COMPRESSION))
    assert caught.value.reason == "image_unreadable"


def test_a_folder_without_a_study_and_an_absent_file_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, reason in (("empty", "not_one_study"), ("absent.nii", "image_unreadable")):
        with pytest.raises(InputRefused) as caught:
            run_strength_command(tmp_path / name, pair[1], tmp_path / "o", **SPINE)
        assert caught.value.reason == reason
