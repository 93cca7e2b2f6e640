"""Outside masks: understood by name, placed by geometry, solid, and with findings where the image does not allow more."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipeline.errors import InputRefused, Severity
from pipeline.ingest import find_studies, load_volume
from pipeline.segmentation.mask_files import read_mask_files
from pipeline.segmentation.mask_names import Kind
from pipeline.segmentation.masks import read_masks
from pipeline.segmentation.model import LABEL_OF
from pipeline.volume import Grid, Volume
from tests.pipeline.mask_scene import (
    FEMORA,
    LEVELS,
    NUMBERS,
    VERTEBRAE,
    WITH_FEMORA,
    Scene,
    check,
    dice,
    label_map,
    make_scene,
    named_map,
    save,
)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene()


@pytest.mark.parametrize("order", ["LPS", "PIR"])
def test_a_folder_with_one_file_per_class_in_any_axis_order(tmp_path: Path, scene: Scene, order: str) -> None:
    wanted = scene.named if order == "LPS" else {f"vertebrae_{level}": mask for level, mask in scene.vertebrae.items()}
    for name, mask in wanted.items():
        save(tmp_path / f"{name}.nii.gz", mask, scene.volume.grid, order=order)
    save(tmp_path / "liver.nii.gz", scene.bodies["L1"], scene.volume.grid)
    save(tmp_path / "vertebrae_C5.nii.gz", np.zeros(scene.volume.shape, bool), scene.volume.grid)

    found = read_masks(tmp_path, scene.volume)

    check(found, scene)
    assert {f.name for f in found.femora} == {name for name in wanted if "femur" in name}
    assert found.findings == ()
    assert found.canal_lps_mm is not None
    assert (np.diff(found.canal_lps_mm[:, 2]) > 0).all(), "from caudal to cranial"


@pytest.mark.parametrize(
    "direction", ["number to name", "name to number", "data set of nnU-Net", "old data set of nnU-Net"]
)
def test_a_label_map_with_names_beside_it(tmp_path: Path, scene: Scene, direction: str) -> None:
    path = save(tmp_path / "case.nii.gz", label_map(scene, NUMBERS), scene.volume.grid)
    by_number = {str(number): name for name, number in NUMBERS.items()}
    name, content = {
        "number to name": ("case.json", by_number),
        "name to number": ("case.json", NUMBERS),
        "data set of nnU-Net": ("dataset.json", {"labels": {"background": 0, **NUMBERS}, "numTraining": 1}),
        "old data set of nnU-Net": ("dataset.json", {"labels": {"0": "background", **by_number}}),
    }[direction]
    (tmp_path / name).write_text(json.dumps(content))

    check(read_masks(path, scene.volume), scene)
    check(read_masks(tmp_path, scene.volume), scene)


def test_regions_of_nnunet_are_read_as_the_numbers_they_are_made_of(tmp_path: Path, scene: Scene) -> None:
    """Whole vertebra = arch and body; the body is stated as well, so nothing has to be cut. 9 marks what was not labelled."""
    array = np.full(scene.volume.shape, 9, np.uint8)
    array[4:-4] = 0
    labels: dict[str, object] = {"background": 0, "ignore": 9}
    for i, level in enumerate(LEVELS):
        array[scene.vertebrae[level]], array[scene.bodies[level]] = 2 * i + 1, 2 * i + 2
        labels |= {f"vertebrae_{level}": [2 * i + 1, 2 * i + 2], f"vertebra_{level}_body": 2 * i + 2}
    path = save(tmp_path / "case.nii.gz", array, scene.volume.grid)
    content = {"labels": labels, "regions_class_order": [1, 2, 3, 4, 5, 6], "numTraining": 3}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    found = read_masks(path, scene.volume)
    check(found, scene, least_dice=0.999)
    assert found.arches is not None
    for level in LEVELS:
        arch = scene.vertebrae[level] & ~scene.bodies[level]
        np.testing.assert_array_equal(found.arches == LABEL_OF[f"vertebra_{level}"], arch)


def test_what_whole_vertebrae_hold_beside_the_body_is_their_arch(tmp_path: Path, scene: Scene) -> None:
    found = read_masks(named_map(tmp_path, scene, scene.volume.grid), scene.volume)
    assert found.arches is not None
    assert not ((found.arches > 0) & (found.labels > 0)).any()
    for level in LEVELS:
        number = LABEL_OF[f"vertebra_{level}"]
        np.testing.assert_array_equal((found.arches == number) | (found.labels == number), scene.vertebrae[level])


def test_names_in_the_header_as_totalsegmentator_writes_them(tmp_path: Path, scene: Scene) -> None:
    path = save(tmp_path / "seg.nii.gz", label_map(scene, NUMBERS), scene.volume.grid)
    rows = "".join(f'<Label Key="{number}" Red="1"><![CDATA[{name}]]></Label>' for name, number in NUMBERS.items())
    image = nibabel.load(path)
    image = nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
    image.header.extensions.append(
        nibabel.nifti1.Nifti1Extension(0, f"<CaretExtension><LabelTable>{rows}</LabelTable></CaretExtension>".encode())
    )
    nibabel.save(image, path)
    check(read_masks(path, scene.volume), scene)


def test_numbers_without_names_are_refused_unless_the_numbering_is_stated(tmp_path: Path, scene: Scene) -> None:
    version_2 = {"vertebrae_L1": 31, "vertebrae_L2": 30, "vertebrae_L3": 29}
    version_1 = {"vertebrae_L1": 22, "vertebrae_L2": 21, "vertebrae_L3": 20}
    for folder, numbers in (("v2", version_2), ("v1", version_1)):
        path = save(tmp_path / folder / "seg.nii.gz", label_map(scene, numbers), scene.volume.grid)
        with pytest.raises(InputRefused) as refusal:
            read_masks(path, scene.volume)
        assert refusal.value.reason == "unnamed_labels"
        check(read_masks(path, scene.volume, convention=f"totalsegmentator_{folder}"), scene)
    with pytest.raises(InputRefused) as wrong:
        read_masks(tmp_path / "v1" / "seg.nii.gz", scene.volume, convention="verse")
    assert wrong.value.reason == "levels_out_of_order", "version 1 numbers run upwards, VerSe's downwards"
    with pytest.raises(InputRefused) as unknown:
        read_masks(path, scene.volume, convention="mine")
    assert unknown.value.reason == "unknown_convention"


def test_verse_and_spineps_masks_by_their_file_names(tmp_path: Path, scene: Scene) -> None:
    """The instance mask gives levels, the subregion mask (49 border, 50 core of the body) the bodies."""
    instances = label_map(scene, {"vertebrae_L1": 20, "vertebrae_L2": 21, "vertebrae_L3": 22})
    path = save(tmp_path / "sub-1_seg-vert_msk.nii.gz", instances, scene.volume.grid)
    check(read_masks(path, scene.volume), scene)

    subregions = np.where(instances > 0, 41, 0).astype(np.uint8)
    for level in LEVELS:
        subregions[scene.bodies[level]] = 50
    subregions[:, :, ::2][subregions[:, :, ::2] == 50] = 49
    save(tmp_path / "sub-1_seg-spine_msk.nii.gz", subregions, scene.volume.grid)
    check(read_masks(tmp_path, scene.volume), scene, least_dice=0.999)


def test_bodies_without_levels_stay_without_names(tmp_path: Path, scene: Scene) -> None:
    union = np.logical_or.reduce(list(scene.bodies.values()))
    found = read_masks(save(tmp_path / "vertebrae_body.nii.gz", union, scene.volume.grid), scene.volume)
    assert [v.name for v in found.vertebrae] == ["vertebra_u1", "vertebra_u2", "vertebra_u3"]
    assert [v.level for v in found.vertebrae] == [None] * 3
    for vertebra, level in zip(found.vertebrae, LEVELS, strict=True):
        assert dice(found.mask(vertebra), scene.bodies[level]) > 0.999


def test_bodies_and_whole_vertebrae_together_prefer_the_bodies(tmp_path: Path, scene: Scene) -> None:
    for level, mask in scene.vertebrae.items():
        save(tmp_path / f"vertebrae_{level}.nii.gz", mask, scene.volume.grid)
    union = np.logical_or.reduce(list(scene.bodies.values()))
    save(tmp_path / "vertebrae_body.nii.gz", union, scene.volume.grid)
    check(read_masks(tmp_path, scene.volume), scene, least_dice=0.999)


def test_our_own_label_map_comes_back_unchanged(tmp_path: Path, scene: Scene) -> None:
    first = read_masks(
        named_map(tmp_path, scene, scene.volume.grid, label_map(scene, NUMBERS | {"femur_left": 8})), scene.volume
    )
    save(tmp_path / "out" / "segmentation.nii.gz", first.labels, scene.volume.grid)
    names = {str(number): name for number, name in first.names().items()}
    (tmp_path / "out" / "segmentation.json").write_text(json.dumps(names))

    again = read_masks(tmp_path / "out", scene.volume)

    np.testing.assert_array_equal(again.labels, first.labels)
    assert "openbct" in again.method


def test_a_vertebra_cut_by_the_field_of_view_fails(tmp_path: Path, scene: Scene) -> None:
    grid = scene.volume.grid
    top = int(np.flatnonzero(scene.bodies["L1"].any(axis=(1, 2)))[-1]) - 4
    cut = Volume(scene.volume.hu[:top].copy(), Grid((top, *grid.shape[1:]), grid.index_to_lps))
    path = named_map(tmp_path, scene, cut.grid, label_map(scene, NUMBERS)[:top].copy())
    found = read_masks(path, cut)
    first, *rest = found.vertebrae
    assert not first.complete
    assert [(f.code, f.severity) for f in first.findings] == [("cut_by_field_of_view", Severity.FAILURE)]
    assert all(v.complete and not v.findings for v in rest)


def test_padding_cuts_a_vertebra_as_the_edge_of_the_volume_does(tmp_path: Path, scene: Scene) -> None:
    valid = np.ones(scene.volume.shape, bool)
    valid[:, :, : scene.volume.shape[2] // 2 - 8] = False
    padded = Volume(scene.volume.hu, scene.volume.grid, valid=valid)
    found = read_masks(named_map(tmp_path, scene, scene.volume.grid), padded)
    assert {f.code for v in found.vertebrae for f in v.findings} == {"cut_by_field_of_view"}


def test_metal_in_or_near_a_bone_is_found(tmp_path: Path, scene: Scene) -> None:
    hu = scene.volume.hu.copy()
    index = np.rint(scene.volume.grid.to_index(np.array(VERTEBRAE["L2"].centre_lps_mm))).astype(int)
    hu[tuple(slice(i - 2, i + 2) for i in index)] = 2900
    found = read_masks(named_map(tmp_path, scene, scene.volume.grid), Volume(hu, scene.volume.grid))
    second = next(v for v in found.vertebrae if v.level == "L2")
    assert [(f.code, f.severity) for f in second.findings] == [("metal_or_cement", Severity.FAILURE)]


def test_femora_get_landmarks_and_say_what_they_are_fit_for(tmp_path: Path, scene: Scene) -> None:
    both = label_map(scene, WITH_FEMORA)
    found = read_masks(named_map(tmp_path, scene, scene.volume.grid, both), scene.volume)
    assert len(found.femora) == 2
    for femur in found.femora:
        truth = FEMORA[femur.side]
        assert femur.landmarks is not None
        np.testing.assert_allclose(femur.landmarks.head_centre_lps_mm, truth.centre_lps_mm, atol=1.2)
        assert femur.landmarks.head_radius_mm == pytest.approx(24.0, abs=1.0)
        assert femur.fit_for_density and femur.fit_for_strength
        assert femur.findings == ()

    grid = scene.volume.grid
    bottom = 53  # a little below the heads
    matrix = grid.index_to_lps.copy()
    matrix[:3, 3] = grid.to_lps(np.array([bottom, 0.0, 0.0]))
    upper = Volume(scene.volume.hu[bottom:].copy(), Grid((grid.shape[0] - bottom, *grid.shape[1:]), matrix))
    cut = read_masks(named_map(tmp_path, scene, upper.grid, both[bottom:].copy()), upper)
    assert all(not f.fit_for_density and not f.fit_for_strength and f.findings for f in cut.femora)


def test_hollow_femora_are_filled(tmp_path: Path, scene: Scene) -> None:
    hollow = label_map(scene, {"femur_left": 8})
    centre = np.rint(scene.volume.grid.to_index(np.array(FEMORA["left"].centre_lps_mm))).astype(int)
    hollow[tuple(slice(c - 2, c + 2) for c in centre)] = 0
    assert (hollow == 8).sum() < scene.femora["left"].sum()
    found = read_masks(named_map(tmp_path, scene, scene.volume.grid, hollow), scene.volume)
    left = next(f for f in found.femora if f.side == "left")
    np.testing.assert_array_equal(found.mask(left), scene.femora["left"])


def test_a_thirteenth_thoracic_vertebra_leaves_what_is_below_unnamed(tmp_path: Path, scene: Scene) -> None:
    path = save(
        tmp_path / "sub-1_seg-vert_msk.nii.gz",
        label_map(scene, {"vertebrae_L1": 19, "vertebrae_L2": 28, "vertebrae_L3": 20}),
        scene.volume.grid,
    )
    found = read_masks(path, scene.volume)
    assert [(v.name, v.level) for v in found.vertebrae] == [
        ("vertebra_T12", "T12"),
        ("vertebra_T13", None),
        ("vertebra_u3", None),
    ]
    assert [f.code for f in found.findings] == ["transitional_anatomy"]


# ------------------------------------------------------------------------------------------------ real masks


@pytest.mark.realdata
def test_real_whole_vertebrae_become_the_bodies_that_a_body_model_sees(real_data: Callable[[str], Path]) -> None:
    """TotalSegmentator's whole vertebrae cut by us, against its own separate model of the bodies (3 mm voxels)."""
    folder = real_data("ts_example_3mm")
    volume = load_volume(find_studies([folder / "ct.nii.gz"]).studies[0].stacks[0])
    found = read_masks(folder / "labels.nii.gz", volume)
    (bodies,) = read_mask_files(folder / "labels_body.nii.gz").pieces
    reference = np.zeros(volume.shape, bool)
    start = np.rint(volume.grid.to_index(bodies.grid.to_lps(np.zeros(3)))).astype(int)
    reference[tuple(slice(s, s + n) for s, n in zip(start, bodies.mask.shape, strict=True))] = bodies.mask

    assert [v.level for v in found.vertebrae] == ["T11", "T12", "L1", "L2", "L3", "L4", "L5"]
    whole = {p.part.name: p for p in read_mask_files(folder / "labels.nii.gz").pieces if p.part.kind is Kind.VERTEBRA}
    for vertebra in found.vertebrae[2:]:
        piece = whole[vertebra.level or ""]
        corner = np.rint(volume.grid.to_index(piece.grid.to_lps(np.zeros(3)))).astype(int)
        box = tuple(slice(s, s + n) for s, n in zip(corner, piece.mask.shape, strict=True))
        theirs = reference[box] & piece.mask
        assert dice(found.mask(vertebra)[box], theirs) > 0.92
        assert vertebra.findings == ()
    left = next(f for f in found.femora if f.side == "left")
    assert "metal_or_cement" in {f.code for f in left.findings}, "there is an implant in the left femur"
    assert not any(f.fit_for_strength for f in found.femora), "both shafts are cut off"


@pytest.mark.realdata
def test_a_real_single_vertebra_at_1_5_mm(real_data: Callable[[str], Path]) -> None:
    folder = real_data("ts_thorax_cta_1p5mm")
    volume = load_volume(find_studies([folder / "ct.nii.gz"]).studies[0].stacks[0])
    (vertebra,) = read_masks(folder / "labels.nii.gz", volume).vertebrae
    assert vertebra.level == "T12"
    assert vertebra.findings == ()
    assert 30 < vertebra.width_mm < 45 and 24 < vertebra.depth_mm < 34
