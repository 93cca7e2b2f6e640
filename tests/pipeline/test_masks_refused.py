"""Outside masks of another place, other things than masks, and what is wrong otherwise: each ends with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.segmentation.masks import read_masks
from pipeline.volume import Grid
from tests.pipeline.mask_scene import (
    NUMBERS,
    WITH_FEMORA,
    Scene,
    check,
    dice,
    label_map,
    make_scene,
    named_map,
    refused,
    save,
)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene()


@pytest.mark.parametrize("moved_mm", [0.15, 1.0, 30.0])
def test_masks_of_another_place_are_refused_with_both_geometries(tmp_path: Path, scene: Scene, moved_mm: float) -> None:
    matrix = scene.volume.grid.index_to_lps.copy()
    matrix[0, 3] += moved_mm
    error = refused(named_map(tmp_path, scene, Grid(scene.volume.shape, matrix)), scene.volume)
    assert error.reason == "geometry_mismatch"
    assert str(error).count("144 x 68 x 88 voxels") == 2


def test_a_small_rounding_of_the_geometry_is_accepted(tmp_path: Path, scene: Scene) -> None:
    matrix = scene.volume.grid.index_to_lps.copy()
    matrix[:3, 3] += 0.05
    found = read_masks(named_map(tmp_path, scene, Grid(scene.volume.shape, matrix)), scene.volume)
    check(found, scene)
    assert found.findings == ()


def test_a_crop_of_the_ct_grid_is_placed_where_it_belongs(tmp_path: Path, scene: Scene) -> None:
    whole = label_map(scene, NUMBERS)
    matrix = scene.volume.grid.index_to_lps.copy()
    matrix[:3, 3] = scene.volume.grid.to_lps(np.array([20.0, 8.0, 5.0]))
    crop = whole[20:84, 8:64, 5:140]
    found = read_masks(named_map(tmp_path, scene, Grid(crop.shape, matrix), crop), scene.volume)
    check(found, scene)


def test_masks_at_another_resolution_take_the_nearest_label_and_say_so(tmp_path: Path, scene: Scene) -> None:
    """A coarser grid over the same field, as fast models give it: labels at the centres of blocks."""
    matrix = scene.volume.grid.index_to_lps.copy()
    matrix[:3, 3] = scene.volume.grid.to_lps(np.array([0.5, 0.5, 0.5]))
    matrix[:3, :3] *= 2.0
    coarse = label_map(scene, NUMBERS | {"femur_left": 8})[::2, ::2, ::2]
    found = read_masks(named_map(tmp_path, scene, Grid(coarse.shape, matrix), coarse), scene.volume)
    assert [f.code for f in found.findings] == ["masks_resampled"]
    for vertebra in found.vertebrae:
        assert dice(found.mask(vertebra), scene.bodies[vertebra.level or ""]) > 0.84
    (left,) = found.femora
    expected = np.repeat(np.repeat(np.repeat(coarse == 8, 2, 0), 2, 1), 2, 2)
    np.testing.assert_array_equal(found.mask(left), expected)


def test_mirrored_masks_are_refused(tmp_path: Path, scene: Scene) -> None:
    mirrored = label_map(scene, WITH_FEMORA)[:, :, ::-1].copy()
    error = refused(named_map(tmp_path, scene, scene.volume.grid, mirrored), scene.volume)
    assert error.reason == "sides_swapped"


def test_masks_upside_down_are_refused(tmp_path: Path, scene: Scene) -> None:
    spine = label_map(scene, NUMBERS)
    error = refused(named_map(tmp_path, scene, scene.volume.grid, spine[::-1].copy()), scene.volume)
    assert error.reason == "levels_out_of_order"


def test_masks_beside_the_bones_are_refused(tmp_path: Path, scene: Scene) -> None:
    spine = label_map(scene, NUMBERS)
    error = refused(named_map(tmp_path, scene, scene.volume.grid, np.roll(spine, -22, axis=1)), scene.volume)
    assert error.reason == "masks_off_bone"


@pytest.mark.parametrize(
    ("write_to", "reason"),
    [
        (lambda folder, scene: folder / "nothing here", "masks_missing"),
        (lambda folder, scene: _bytes(folder / "seg.nii.gz", b"no image"), "masks_unreadable"),
        (lambda folder, scene: _bytes(folder / "seg.dcm", b"no image"), "masks_unreadable"),
        (lambda folder, scene: folder, "masks_unreadable"),
        (lambda folder, scene: _bytes(folder / "x.json", b"{}").parent, "masks_unreadable"),
        (lambda folder, scene: _organs(folder, scene), "no_known_structure"),
        (lambda folder, scene: _named_image(folder, scene), "not_a_label_map"),
        (lambda folder, scene: _map(folder, scene, label_map(scene, NUMBERS) * np.float32(0.9)), "not_a_label_map"),
        (
            lambda folder, scene: _map(folder, scene, label_map(scene, NUMBERS)[None].repeat(2, axis=0)),
            "masks_unreadable",
        ),
        (lambda folder, scene: _map(folder, scene, np.zeros(scene.volume.shape, np.uint8)), "masks_empty"),
        (lambda folder, scene: _empty_classes(folder, scene), "masks_empty"),
        (lambda folder, scene: _two_maps(folder, scene), "unnamed_labels"),
    ],
    ids=[
        "missing",
        "damaged NIfTI",
        "foreign",
        "empty folder",
        "no masks",
        "organs only",
        "the CT itself",
        "probabilities",
        "two channels",
        "empty map",
        "empty classes",
        "two maps",
    ],
)
def test_what_cannot_be_masks_is_refused(
    tmp_path: Path, scene: Scene, write_to: Callable[[Path, Scene], Path], reason: str
) -> None:
    assert refused(write_to(tmp_path, scene), scene.volume).reason == reason


def _bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    if path.suffix == ".gz":
        path.with_name("seg.json").write_text(json.dumps(NUMBERS))
    return path


def _organs(folder: Path, scene: Scene) -> Path:
    path = save(folder / "case.nii.gz", label_map(scene, NUMBERS), scene.volume.grid)
    (folder / "case.json").write_text(json.dumps({"5": "liver", "6": "spleen"}))
    return path


def _named_image(folder: Path, scene: Scene) -> Path:
    return named_map(folder, scene, scene.volume.grid, scene.volume.hu - 1024)


def _map(folder: Path, scene: Scene, array: np.ndarray) -> Path:
    return named_map(folder, scene, scene.volume.grid, array)


def _empty_classes(folder: Path, scene: Scene) -> Path:
    for name in ("vertebrae_L1", "femur_left"):
        save(folder / f"{name}.nii.gz", np.zeros(scene.volume.shape, bool), scene.volume.grid)
    return folder


def _two_maps(folder: Path, scene: Scene) -> Path:
    for name in ("first", "second"):
        save(folder / f"{name}.nii.gz", label_map(scene, NUMBERS), scene.volume.grid)
    return folder


def test_masks_flipped_front_to_back_are_refused(tmp_path: Path, scene: Scene) -> None:
    flipped = label_map(scene, NUMBERS)[:, ::-1].copy()
    error = refused(named_map(tmp_path, scene, scene.volume.grid, flipped), scene.volume)
    assert error.reason == "masks_off_bone"


def test_a_flipped_axis_in_the_header_is_another_place(tmp_path: Path, scene: Scene) -> None:
    matrix = scene.volume.grid.index_to_lps.copy()
    matrix[0, 2] *= -1
    error = refused(named_map(tmp_path, scene, Grid(scene.volume.shape, matrix)), scene.volume)
    assert error.reason == "geometry_mismatch"


def test_masks_of_another_scan_of_the_same_size_are_refused(tmp_path: Path, scene: Scene) -> None:
    """Same grid to the last digit, as two exports with their origin at zero have it, but the bones lie elsewhere."""
    other = np.roll(label_map(scene, NUMBERS), (9, 0, 30), axis=(0, 1, 2))
    error = refused(named_map(tmp_path, scene, scene.volume.grid, other), scene.volume)
    assert error.reason == "masks_off_bone"
