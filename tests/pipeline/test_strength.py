"""From a scan or a pair of images to a strength with its uncertainty, and each reason not to give one."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from fea import load_model, solve
from pipeline.density import Calibration
from pipeline.errors import InputRefused, NotMeasurable, Severity
from pipeline.segmentation.model import BodyFrame, Femur, FemurLandmarks, Segmentation, Vertebra
from pipeline.strength import Strength, femur_strength, vertebra_strength, with_ensemble
from pipeline.strength.command import run_strength_command, strength_from_image
from pipeline.strength.pictures import _seen, _views
from pipeline.volume import Grid, Volume
from tests.fea.bone.bones import HEAD_MM, HEAD_RADIUS_MM, Bone, body_axes, oval_body, synthetic_femur

HU_PER_MG = 1.25


def calibration(**changes) -> Calibration:
    """density = 0.8 HU - 4, known to 3 % and 2 mg/cm3."""
    line = Calibration(
        slope_mg_cm3_per_hu=1 / HU_PER_MG,
        intercept_mg_cm3=-4.0,
        mineral="K2HPO4",
        covariance=np.zeros((2, 2)),
        systematic_relative=0.03,
        random_mg_cm3=2.0,
        method="file",
        reference="made for the test",
        kvp=120.0,
        reason="test",
    )
    return replace(line, **changes)


def as_volume(bone: Bone) -> Volume:
    hu = np.round((bone.density + 4.0) * HU_PER_MG).astype(np.int16)
    return Volume(hu, Grid(bone.mask.shape, bone.matrix))


def with_vertebra(bone: Bone, **changes) -> tuple[Volume, Segmentation, Vertebra]:
    volume = as_volume(bone)
    superior, posterior, left = body_axes(0, 0)
    frame = BodyFrame(np.zeros(3), left, posterior, superior)
    vertebra = replace(Vertebra("vertebra_L1", "L1", 20, frame, None, 44.0, 32.0, 1.0), **changes)
    labels = np.where(bone.mask, 20, 0).astype(np.uint8)
    return volume, Segmentation(labels, volume.grid, vertebrae=(vertebra,)), vertebra


def with_femur(bone: Bone, side: str = "left", **changes) -> tuple[Volume, Segmentation, Femur]:
    volume = as_volume(bone)
    neck = np.array([0.0, 0, -2]) - HEAD_MM
    marks = FemurLandmarks(
        HEAD_MM,
        HEAD_RADIUS_MM,
        neck_axis_lps=neck / np.linalg.norm(neck),
        shaft_axis_lps=np.array([0.0, 0, -1]),
        shaft_point_lps_mm=np.array([0.0, 0, -35]),
    )
    femur = replace(Femur(f"femur_{side}", side, 31, marks, 1.0), **changes)
    labels = np.where(bone.mask, 31, 0).astype(np.uint8)
    return volume, Segmentation(labels, volume.grid, femora=(femur,)), femur


@pytest.fixture(scope="module")
def vertebra() -> Strength:
    return vertebra_strength(*with_vertebra(oval_body()), calibration())


def test_a_vertebra_gets_strength_stiffness_and_their_uncertainty(vertebra: Strength) -> None:
    assert vertebra.strength is not None and vertebra.stiffness is not None
    assert vertebra.profile.startswith("kopperdahl2002 v") and "0.0068" in vertebra.definition
    # 150 mg/cm3 is 406.5 MPa; between cement it is a little stiffer than that bar and softer than a wholly held one.
    area, height, caps = vertebra.model["mean_section_mm2"], vertebra.model["body_length_mm"], 8.0
    bar = float(area) / (float(height) / 406.5 + caps / 2500)
    assert bar < vertebra.stiffness.value < 1.25 * bar
    expected = 0.0068 * float(vertebra.model["model_length_mm"]) * vertebra.stiffness.value
    assert vertebra.strength.value == pytest.approx(expected)
    parts = vertebra.strength.components
    assert set(parts) == {"boundary", "calibration", "criterion"}
    assert vertebra.strength.uncertainty == pytest.approx(np.sqrt(sum(v**2 for v in parts.values())))
    assert vertebra.curve[0] == (0.0, 0.0) and vertebra.curve[-1][1] == pytest.approx(vertebra.reaction_n)
    assert json.dumps(vertebra.model)


def test_the_calibration_part_is_what_a_shifted_calibration_does(vertebra: Strength) -> None:
    """3 % and 2 mg/cm3 at 150 mg/cm3 are 4.9 mg/cm3: shift by that and solve again."""
    sigma = np.hypot(0.03 * 150, 2.0)
    shifted = vertebra_strength(*with_vertebra(oval_body()), calibration(intercept_mg_cm3=-4.0 + sigma))
    assert shifted.stiffness is not None and vertebra.stiffness is not None
    moved = shifted.stiffness.value - vertebra.stiffness.value
    assert vertebra.stiffness.components["calibration"] == pytest.approx(moved, rel=0.15)


def test_cuts_lie_where_the_bone_is(vertebra: Strength) -> None:
    cut = vertebra.cuts[0]
    assert cut.quantity == "strain energy density" and cut.load_direction == (1.0, 0.0)
    inside = np.isfinite(cut.values)
    rows, columns = np.nonzero(inside)
    assert np.ptp(rows) + 1 == pytest.approx(26, abs=1) and np.ptp(columns) + 1 == pytest.approx(32, abs=1)
    # CT at the same place: bone where the field is, soft tissue elsewhere.
    assert np.median(cut.ct.image[inside]) == pytest.approx((150 + 4) * HU_PER_MG, abs=3)
    assert cut.ct.image[0, 0] < 0
    assert np.nansum(cut.values) > 0 and np.nanmin(cut.values) >= 0


def test_ha_densities_are_converted_for_a_k2hpo4_law_and_the_finding_says_so(vertebra: Strength) -> None:
    result = vertebra_strength(*with_vertebra(oval_body()), calibration(mineral="HA"))
    assert "mineral_basis_converted" in {finding.code for finding in result.findings}
    assert result.strength is not None and vertebra.strength is not None
    assert result.strength.components["mineral basis"] > 0
    assert result.strength.value / vertebra.strength.value == pytest.approx(0.87**1.05, rel=0.03)


def test_a_strength_does_not_keep_the_mask_of_the_whole_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    # A byte for every voxel of the scan and bone tested was 2.4 GiB in a long scan.
    masks: list[weakref.ref[np.ndarray]] = []
    plain = Segmentation.mask

    def watched(segmentation: Segmentation, structure: Vertebra | Femur) -> np.ndarray:
        mask = plain(segmentation, structure)
        masks.append(weakref.ref(mask))
        return mask

    monkeypatch.setattr(Segmentation, "mask", watched)
    kept = vertebra_strength(*with_vertebra(oval_body()), calibration())
    gc.collect()
    assert kept.solved is not None and masks
    assert all(mask() is None for mask in masks)


def test_a_femur_falls_and_stands() -> None:
    scan = with_femur(synthetic_femur())
    fall = femur_strength(*scan, calibration(), voxel_mm=2.0)
    stance = femur_strength(*scan, calibration(), test="hip-stance", voxel_mm=2.0)
    assert fall.test == "hip-sideways-fall" and stance.test == "hip-stance"
    assert fall.profile == stance.profile == "morgan-neck v1"
    for result in (fall, stance):
        assert result.strength is not None and result.strength.value > 0
        assert set(result.strength.components) == {"boundary", "calibration", "criterion"}
        assert result.criteria_n["pistoia"] == result.strength.value
    assert {cut.quantity for cut in fall.cuts} == {"strain energy density", "stress at the strength / yield stress"}


def test_without_landmarks_the_femur_is_posed_from_its_mask() -> None:
    volume, segmentation, femur = with_femur(synthetic_femur(), landmarks=None)
    result = femur_strength(volume, segmentation, femur, calibration(), voxel_mm=2.0)
    posed = femur_strength(*with_femur(synthetic_femur()), calibration(), voxel_mm=2.0)
    assert "axes_from_mask" in {finding.code for finding in result.findings}
    assert result.stiffness is not None and posed.stiffness is not None
    assert result.stiffness.value == pytest.approx(posed.stiffness.value, rel=0.10)


# Reasons to give no number, each made to occur.


def code(call, *arguments, **options) -> str:
    with pytest.raises(NotMeasurable) as caught:
        call(*arguments, **options)
    assert caught.value.subject and caught.value.detail
    return caught.value.reason


def test_a_body_cut_by_the_field_of_view_gets_no_strength() -> None:
    assert code(vertebra_strength, *with_vertebra(oval_body(), complete=False), calibration()) == "cut_by_field_of_view"
    bone = oval_body()
    low = np.flatnonzero(bone.mask.any(axis=(1, 2)))[0] + 3
    cut = Bone(bone.density[low:].copy(), bone.mask[low:].copy(), bone.matrix)
    assert code(vertebra_strength, *with_vertebra(cut), calibration()) == "cut_by_field_of_view"


def test_a_body_beside_padding_gets_no_strength() -> None:
    volume, segmentation, vertebra = with_vertebra(oval_body())
    valid = np.ones(volume.shape, bool)
    valid[:, :, : np.flatnonzero(segmentation.labels.any(axis=(0, 1)))[0]] = False
    padded = replace(volume, valid=valid)
    assert code(vertebra_strength, padded, segmentation, vertebra, calibration()) == "cut_by_field_of_view"


def test_a_femur_may_leave_the_volume_through_its_shaft_only() -> None:
    bone = synthetic_femur()
    assert bone.mask[0].any()
    femur_strength(*with_femur(bone), calibration(), voxel_mm=2.0)
    top = np.flatnonzero(bone.mask.any(axis=(1, 2)))[-1]
    headless = Bone(bone.density[:top].copy(), bone.mask[:top].copy(), bone.matrix)
    assert code(femur_strength, *with_femur(headless), calibration()) == "cut_by_field_of_view"


def test_thick_slices_give_no_strength() -> None:
    thick = oval_body(spacing_mm=(5.0, 0.8, 0.8))
    assert code(vertebra_strength, *with_vertebra(thick), calibration()) == "voxels_too_coarse"


def test_an_empty_mask_gives_no_strength() -> None:
    volume, segmentation, vertebra = with_vertebra(oval_body())
    nothing = replace(segmentation, labels=np.zeros_like(segmentation.labels))
    assert code(vertebra_strength, volume, nothing, vertebra, calibration()) == "mask_empty"


@pytest.mark.parametrize("beside", [False, True])
def test_metal_in_or_beside_the_bone_gives_no_strength(beside: bool) -> None:
    volume, segmentation, vertebra = with_vertebra(oval_body())
    hu = volume.hu.copy()
    k, j, i = (int(n) // 2 for n in hu.shape)
    if beside:
        i = int(np.flatnonzero(segmentation.labels[k, j])[-1]) + 2
    hu[k - 3 : k + 4, j - 1 : j + 2, i - 1 : i + 1] = 3000
    assert code(vertebra_strength, replace(volume, hu=hu), segmentation, vertebra, calibration()) == "metal"


def test_single_bright_voxels_are_not_metal() -> None:
    volume, segmentation, vertebra = with_vertebra(oval_body())
    hu = volume.hu.copy()
    middle = tuple(int(n) // 2 for n in hu.shape)
    hu[middle] = 3071
    assert vertebra_strength(replace(volume, hu=hu), segmentation, vertebra, calibration()).strength is not None


def test_marrow_without_mineral_gives_no_strength() -> None:
    assert code(vertebra_strength, *with_vertebra(oval_body(density=-60.0)), calibration()) == "density_unphysical"


def test_a_femur_judged_unfit_by_segmentation_gives_no_strength() -> None:
    assert (
        code(femur_strength, *with_femur(synthetic_femur(), fit_for_strength=False), calibration())
        == "unfit_for_strength"
    )


def test_a_short_femur_gives_no_strength() -> None:
    assert code(femur_strength, *with_femur(synthetic_femur(shaft_mm=25.0)), calibration()) == "femur_cut_short"


def test_a_profile_for_another_bone_is_refused_and_a_list_picks_the_right_one() -> None:
    scan = with_vertebra(oval_body())
    with pytest.raises(InputRefused) as caught:
        vertebra_strength(*scan, calibration(), profile="morgan-neck")
    assert caught.value.reason == "profile_unusable"
    with pytest.raises(InputRefused):
        vertebra_strength(*scan, calibration(), profile="no such profile")
    result = vertebra_strength(*scan, calibration(), profile="morgan-neck, morgan-vertebra", voxel_mm=2.0)
    assert result.profile == "morgan-vertebra v1"


# The command for an image and a mask.


def save(path: Path, array: np.ndarray, matrix: np.ndarray) -> Path:
    """As NIfTI: axes x, y, z and RAS coordinates."""
    affine = matrix.copy()
    affine[:3, :3] = matrix[:3, :3][:, ::-1]
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(array.T), np.diag([-1.0, -1, 1, 1]) @ affine), path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path, Bone]:
    bone = oval_body(tilt_deg=(8, 0))
    labels = np.where(bone.mask, 20, 0).astype(np.uint8)
    labels[:3, :3, :3] = 48  # another structure, to be ignored
    folder = tmp_path / "Ordner mit Leerzeichen ü"
    folder.mkdir()
    return save(folder / "density.nii.gz", bone.density, bone.matrix), save(folder / "m.nii", labels, bone.matrix), bone


def test_the_command_writes_numbers_and_a_model_that_solves_to_them(images, tmp_path: Path) -> None:
    image, mask, _ = images
    out = tmp_path / "out" / "deep"
    content = run_strength_command(image, mask, out, test="spine-compression", label=20, is_density=True)
    written = json.loads((out / "strength.json").read_text(encoding="utf-8"))
    assert written["strength_n"] == content["strength_n"] > 0
    assert {"stiffness_n_mm", "reaction_n", "curve", "profile", "model", "findings"} <= set(written)
    assert written["uncertainty"]["strength_n"]["uncertainty"] is None  # nobody said how good the density image is
    model, supports, _ = load_model(out / "model.npz")
    again = solve(model, supports)
    assert abs(again.reaction_n["superior"][0]) == pytest.approx(content["reaction_n"], rel=1e-5)


def test_the_command_gives_the_same_for_any_storage_order(images, tmp_path: Path) -> None:
    image, mask, _ = images
    first = run_strength_command(image, mask, tmp_path / "a", test="spine-compression", label=20, is_density=True)
    turned = nibabel.load(image).slicer[::-1, ::-1, :]
    other = nibabel.load(mask).slicer[::-1, ::-1, :]
    nibabel.save(turned, tmp_path / "i.nii")
    nibabel.save(other, tmp_path / "m.nii")
    second = run_strength_command(
        tmp_path / "i.nii", tmp_path / "m.nii", tmp_path / "b", test="spine-compression", label=20, is_density=True
    )
    assert second["strength_n"] == pytest.approx(first["strength_n"], rel=1e-9)
    third = sitk.ReadImage(str(image))
    sitk.WriteImage(third, str(tmp_path / "i.mha"))
    sitk.WriteImage(sitk.ReadImage(str(mask)), str(tmp_path / "m.nrrd"))
    result = run_strength_command(
        tmp_path / "i.mha", tmp_path / "m.nrrd", tmp_path / "c", test="spine-compression", label=20, is_density=True
    )
    assert result["strength_n"] == pytest.approx(first["strength_n"], rel=1e-3)


def test_the_command_writes_why_there_is_no_number(images, tmp_path: Path) -> None:
    image, mask, _ = images
    content = run_strength_command(image, mask, tmp_path / "o", test="hip-stance", label=20, is_density=True)
    assert content["strength_n"] is None and content["stiffness_n_mm"] is None
    assert content["findings"][0]["severity"] == Severity.FAILURE.value and content["findings"][0]["code"]
    assert not (tmp_path / "o" / "model.npz").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"label": 7}, "label_absent"),
        ({"label": None}, "label_needed"),
        ({"test": "spine-torsion"}, "unknown_test"),
        ({"profile": "nothing"}, "profile_unusable"),
        ({"image": "absent.nii"}, "image_unreadable"),
        ({"mask": "broken"}, "image_unreadable"),
        ({"mask": "shifted"}, "grids_differ"),
        ({"output": "file"}, "output_not_writable"),
    ],
)
def test_the_command_refuses_what_it_cannot_use(images, tmp_path: Path, change: dict, reason: str) -> None:
    image, mask, bone = images
    (tmp_path / "broken.nii.gz").write_bytes(b"\x1f\x8b nothing")
    (tmp_path / "occupied").write_text("x")
    moved = bone.matrix.copy()
    moved[0, 3] += 5.0
    masks = {"broken": tmp_path / "broken.nii.gz", "shifted": tmp_path / "shifted.nii.gz"}
    save(masks["shifted"], bone.mask.astype(np.uint8), moved)
    options = {"test": "spine-compression", "label": 20, "profile": None} | {
        key: value for key, value in change.items() if key in ("test", "label", "profile")
    }
    output = tmp_path / "occupied" if "output" in change else tmp_path / "out"
    with pytest.raises(InputRefused) as caught:
        run_strength_command(
            tmp_path / change["image"] if "image" in change else image,
            masks.get(change.get("mask", ""), mask),
            output,
            is_density=True,
            **options,
        )
    assert caught.value.reason == reason


def test_metal_is_found_in_an_image_of_hounsfield_units() -> None:
    bone = oval_body()
    volume = as_volume(bone)
    hu = volume.hu.copy()
    k, j, i = (int(n) // 2 for n in hu.shape)
    hu[k - 3 : k + 4, j - 2 : j + 2, i - 2 : i + 2] = 3000
    assert code(strength_from_image, hu, bone.mask, bone.matrix, test="spine-compression") == "metal"


def whole_vertebra(*, heavy_arch: bool = False) -> tuple[Bone, Bone]:
    """A body alone, and the same body with an arch round a canal and a spinous process; in the upper chest a heavy one."""
    base = oval_body()
    grown = ((0, 0), (0, 40), (30, 30) if heavy_arch else (0, 0))
    density = np.pad(base.density, grown, constant_values=-80.0)
    matrix = base.matrix.copy()
    matrix[:3, 3] -= grown[2][0] * matrix[:3, 2]
    body = Bone(density, np.pad(base.mask, grown), matrix)
    x, y, z = (body.matrix[row, 3] + n for row, n in zip((0, 1, 2), np.indices(body.mask.shape)[::-1], strict=True))
    around = np.hypot(x, 0.9 * (y - 25.0))
    arch = (around > 9) & (around < 14) & (np.abs(z) < 8)
    spinous = (np.abs(x) < 3) & (y > 36) & (y < 55) & (np.abs(z) < 7)
    mask = body.mask | arch | spinous
    if heavy_arch:
        mask |= (around > 9) & (np.abs(y - 33.0) < 9) & (np.abs(x) < 55) & (np.abs(z) < 11)
        assert (mask & (y > 25.0)).sum() > 0.5 * mask.sum(), "more bone behind the middle of the canal than before it"
    return body, Bone(np.where(mask, 150.0, -80.0).astype(np.float32), mask, body.matrix)


@pytest.mark.parametrize("heavy_arch", [False, True], ids=["lumbar", "upper chest"])
def test_the_arch_of_a_whole_vertebra_is_cut_off(heavy_arch: bool) -> None:
    body, whole = whole_vertebra(heavy_arch=heavy_arch)
    options = {"test": "spine-compression", "mineral": "K2HPO4"}
    alone = strength_from_image(body.density, body.mask, body.matrix, **options)
    cut = strength_from_image(whole.density, whole.mask, whole.matrix, **options)
    assert {finding.code for finding in cut.findings} == {"arch_cut_off"}
    assert cut.stiffness is not None and alone.stiffness is not None
    assert cut.stiffness.value == pytest.approx(alone.stiffness.value, rel=0.15)


def test_a_header_with_front_and_back_exchanged_is_noticed() -> None:
    _, whole = whole_vertebra()
    turned = Bone(whole.density[:, ::-1, ::-1].copy(), whole.mask[:, ::-1, ::-1].copy(), whole.matrix)
    result = strength_from_image(turned.density, turned.mask, turned.matrix, test="spine-compression", mineral="K2HPO4")
    straight = strength_from_image(whole.density, whole.mask, whole.matrix, test="spine-compression", mineral="K2HPO4")
    assert "orientation_implausible" in {finding.code for finding in result.findings}
    assert result.stiffness is not None and straight.stiffness is not None
    assert result.stiffness.value == pytest.approx(straight.stiffness.value, rel=0.05)


def test_the_command_exports_and_draws_what_is_asked_for(images, tmp_path: Path) -> None:
    image, mask, _ = images
    out = tmp_path / "out"
    options = {"test": "spine-compression", "label": 20, "is_density": True, "voxel_mm": 2.0}
    content = run_strength_command(image, mask, out, exports=("vti", "inp"), with_yield=True, ensemble=True, **options)
    names = {path.name for path in out.iterdir()}
    assert names == {"strength.json", "model.vti", "model.inp", "mechanics.png", "curve.png", "surface.png"}
    deck = (out / "model.inp").read_text()
    assert deck.count("*STEP") == len(content["curve"]) - 1 and "*PLASTIC" in deck
    for name in ("mechanics", "curve", "surface"):
        picture = plt.imread(out / f"{name}.png")
        assert picture.shape[0] > 100 and picture[..., :3].std() > 0.05
    assert content["model"]["uncertainty"] == "designed ensemble of 16"
    plain = run_strength_command(image, mask, tmp_path / "plain", exports=(), pictures=False, **options)
    assert {path.name for path in (tmp_path / "plain").iterdir()} == {"strength.json"}
    assert plain["model"]["uncertainty"] == "first order" and plain["strength_n"] == content["strength_n"]
    with pytest.raises(InputRefused) as caught:
        run_strength_command(image, mask, tmp_path / "o", exports=("stl",), **options)
    assert caught.value.reason == "unknown_export"


def test_the_surface_is_seen_from_the_side_that_it_is_named_after(vertebra: Strength) -> None:
    """A body that is dense, and so stiff, at the front shows its greater energy density from the front."""
    bone = oval_body()
    y = np.indices(bone.mask.shape)[1]
    result = vertebra_strength(*with_vertebra(bone.with_density(250.0 - 4.0 * y)), calibration(), voxel_mm=2.0)
    assert result.solved is not None
    model = result.solved.model
    front, back = (
        _seen(result.solved, model.modulus_mpa.astype(float), title, towards, up)
        for title, towards, up in _views(model.test)
    )
    assert "front" in front.title and "back" in back.title
    assert np.nanmean(front.value) > 1.2 * np.nanmean(back.value)
    # the picture is as high and wide as the body: 26 mm, seen from 20 degrees above, and 44 by 32 mm from 32 degrees
    seen = np.isfinite(front.value)
    high, wide = (np.ptp(np.flatnonzero(seen.any(axis=axis))) * 0.5 for axis in (1, 0))
    assert 26 < high < 44 and 32 < wide < 50


def test_an_ensemble_replaces_the_first_order_uncertainty(vertebra: Strength) -> None:
    varied = with_ensemble(vertebra)
    assert varied.strength is not None and vertebra.strength is not None and varied.ensemble is not None
    assert varied.strength.value == vertebra.strength.value
    parts = varied.strength.components
    assert set(parts) == {
        "boundary", "calibration", "criterion", "curvature", "interactions", "law, exponent", "law, level", "pose",
    }  # fmt: skip
    # of a homogeneous body both ways agree on what the calibration does
    assert parts["calibration"] == pytest.approx(vertebra.strength.components["calibration"], rel=0.1)
    assert varied.strength.uncertainty == pytest.approx(np.sqrt(sum(v**2 for v in parts.values())))
    assert varied.model["uncertainty"] == "designed ensemble of 16" and vertebra.model["uncertainty"] == "first order"
    assert varied.model["ensemble_lowest_n"] < varied.strength.value < varied.model["ensemble_highest_n"]


def test_a_test_that_fails_within_its_uncertainties_says_so() -> None:
    result = vertebra_strength(*with_vertebra(oval_body()), calibration(random_mg_cm3=300.0), voxel_mm=2.0)
    varied = with_ensemble(result)
    assert varied.ensemble is None and varied.strength == result.strength
    assert "ensemble_failed" in {finding.code for finding in varied.findings}


def test_the_record_says_where_it_fails_first_and_what_the_cortex_carries(vertebra: Strength) -> None:
    facts = vertebra.model
    # of a uniform body the outer 2 mm carry what their area is
    assert facts["cortical_load_share"] == pytest.approx(facts["cortical_area_share"], abs=0.03)
    ring = 1 - (44 * 0.95 - 4) * (32 * 0.95 - 4) / (44 * 0.95 * 32 * 0.95)
    assert facts["cortical_area_share"] == pytest.approx(ring, abs=0.05)
    assert vertebra.strength is not None and vertebra.stiffness is not None
    assert facts["apparent_strength_mpa"] == pytest.approx(vertebra.strength.value / facts["mean_section_mm2"])
    assert "third" in str(facts["fails_first_in"])
    parts = [float(v) for name, v in facts.items() if name.startswith("fails_first_in.")]
    assert sum(parts) == pytest.approx(1.0)
    energy = 0.5 * vertebra.strength.value**2 / vertebra.stiffness.value
    assert facts["strain_energy_at_strength_mj"] == pytest.approx(energy)
