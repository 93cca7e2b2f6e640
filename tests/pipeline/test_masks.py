"""Outside masks: understood by name, placed by geometry, cut in front of the canal, and refused when they do not fit.

The scene is built from solids: three vertebrae with arches and two femora in a block of muscle, so that which voxel belongs to
which body is known without any segmentation.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from pipeline.errors import InputRefused, Severity
from pipeline.ingest import find_studies, load_volume
from pipeline.segmentation.arch import body_without_arch, find_canal_hole, frame_of_body
from pipeline.segmentation.mask_files import read_mask_files
from pipeline.segmentation.mask_names import Kind, Part, number_to_name, part_of_code, part_of_name
from pipeline.segmentation.masks import read_masks
from pipeline.segmentation.model import LABEL_OF, Segmentation
from pipeline.segmentation.segmenter import total_segmentator
from pipeline.volume import Grid, Source, Volume
from tests.pipeline.dicom_factory import slice_dataset, write
from tests.pipeline.test_femur_landmarks import SolidFemur

LEVELS = ("L1", "L2", "L3")
TILT_DEG = {"L1": 8.0, "L2": 0.0, "L3": -12.0}
SPACING_MM = (2.5, 2.0, 2.0)


@dataclass(frozen=True)
class SolidVertebra:
    """An elliptic body, two pedicles, laminae, transverse and spinous processes about a canal of 8 mm radius."""

    centre_lps_mm: tuple[float, float, float]
    tilt_deg: float = 0.0
    width_mm: float = 44.0
    depth_mm: float = 32.0
    height_mm: float = 26.0

    @property
    def axes(self) -> np.ndarray:
        """Rows: left, posterior, superior."""
        c, s = np.cos(np.radians(self.tilt_deg)), np.sin(np.radians(self.tilt_deg))
        return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])

    def local(self, points: np.ndarray) -> np.ndarray:
        return (points - self.centre_lps_mm) @ self.axes.T

    def body(self, points: np.ndarray) -> np.ndarray:
        u, v, w = np.moveaxis(self.local(points), -1, 0)
        return (np.hypot(u / (self.width_mm / 2), v / (self.depth_mm / 2)) < 1) & (np.abs(w) < self.height_mm / 2)

    def whole(self, points: np.ndarray) -> np.ndarray:
        u, v, w = np.moveaxis(self.local(points), -1, 0)
        canal = v - self.depth_mm / 2 - 8.5
        ring = np.hypot(u, canal)
        upper = (w > 0) & (w < 10)
        pedicles = (np.abs(np.abs(u) - 11) < 4) & (v > 8) & (canal < 4) & upper
        laminae = (ring > 8) & (ring < 13) & (canal > -2) & (np.abs(w + 3) < 10)
        transverse = (np.abs(u) > 10) & (np.abs(u) < 38) & (np.abs(canal + 3) < 3.5) & (np.abs(w - 5) < 4)
        spinous = (np.abs(u) < 3) & (canal > 9) & (canal < 30) & (np.abs(w + 6) < 7)
        return self.body(points) | pedicles | laminae | transverse | spinous


VERTEBRAE = {level: SolidVertebra((0.0, 0.0, 34.0 * (1 - i)), TILT_DEG[level]) for i, level in enumerate(LEVELS)}
FEMORA = {
    "left": SolidFemur(side="left", centre_lps_mm=(75.0, -5.0, 25.0)),
    "right": SolidFemur(side="right", centre_lps_mm=(-75.0, -5.0, 25.0)),
}


@dataclass(frozen=True)
class Scene:
    volume: Volume
    vertebrae: dict[str, np.ndarray]
    bodies: dict[str, np.ndarray]
    femora: dict[str, np.ndarray]

    @property
    def named(self) -> dict[str, np.ndarray]:
        """Masks by TotalSegmentator's class names."""
        whole = {f"vertebrae_{level}": mask for level, mask in self.vertebrae.items()}
        return whole | {f"femur_{side}": mask for side, mask in self.femora.items()}


def femur_mask(side: str, points: np.ndarray) -> np.ndarray:
    femur = FEMORA[side]
    offset = points - femur.centre_lps_mm
    if side == "left":
        offset = offset.copy()
    else:
        offset = offset * np.array([-1.0, 1.0, 1.0])  # the solid is described with x away from the midline
    return np.asarray(femur.contains(offset))


@pytest.fixture(scope="module")
def scene() -> Scene:
    shape = (88, 68, 144)
    matrix = np.eye(4)
    matrix[:3, :3] = [[0, 0, SPACING_MM[2]], [0, SPACING_MM[1], 0], [SPACING_MM[0], 0, 0]]
    matrix[:3, 3] = (-143.0, -60.0, -145.0)
    grid = Grid(shape, matrix)
    points = grid.to_lps(np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij"), axis=-1))
    vertebrae = {level: solid.whole(points) for level, solid in VERTEBRAE.items()}
    bodies = {level: solid.body(points) for level, solid in VERTEBRAE.items()}
    femora = {side: femur_mask(side, points) for side in FEMORA}
    hu = np.full(shape, 50, np.int16)
    for mask in (*vertebrae.values(), *femora.values()):
        hu[mask] = 300
    return Scene(Volume(hu, grid, source=Source("memory", frame_of_reference_uid="1.2.3")), vertebrae, bodies, femora)


def save(path: Path, array: np.ndarray, grid: Grid, *, order: str = "LPS") -> Path:
    """Write an array (Z, Y, X) on a grid as NIfTI, its axes in any order."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.index_to_lps[:, [2, 1, 0, 3]]
    data = array.astype(np.uint8) if array.dtype == bool else array
    image = nibabel.Nifti1Image(np.ascontiguousarray(data.transpose(2, 1, 0)), affine)
    codes = nibabel.orientations.axcodes2ornt(order)
    turn = nibabel.orientations.ornt_transform(nibabel.orientations.io_orientation(affine), codes)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image.as_reoriented(turn), path)
    return path


def label_map(scene: Scene, numbers: dict[str, int]) -> np.ndarray:
    array = np.zeros(scene.volume.shape, np.uint8)
    for name, number in numbers.items():
        array[scene.named[name]] = number
    return array


NUMBERS = {"vertebrae_L1": 5, "vertebrae_L2": 6, "vertebrae_L3": 7}
WITH_FEMORA = NUMBERS | {"femur_left": 8, "femur_right": 9}


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def check(found: Segmentation, scene: Scene, *, least_dice: float = 0.94) -> None:
    """The bodies are the bodies of the scene, on its grid, without the arches."""
    assert [v.name for v in found.vertebrae] == [f"vertebra_{level}" for level in LEVELS]
    assert [v.level for v in found.vertebrae] == list(LEVELS)
    for vertebra in found.vertebrae:
        assert vertebra.label == LABEL_OF[vertebra.name]
        assert dice(found.mask(vertebra), scene.bodies[vertebra.level or ""]) > least_dice
        assert vertebra.findings == ()


# ------------------------------------------------------------------------------------------------ ways to come in


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


# -------------------------------------------------------------------------------------------------- DICOM SEG


def ct_on_disk(folder: Path, scene: Scene) -> tuple[Volume, list[Dataset]]:
    """The scene as a DICOM series, and its data sets from the feet to the head."""
    grid = scene.volume.grid
    noise = np.random.default_rng(1).normal(0, 3, scene.volume.shape[1:])
    hu = scene.volume.hu.astype(float)
    hu[:, :8] = -1000  # air in front, so that the values are plausible
    hu[:, 8:14] = -100
    datasets = [
        slice_dataset(
            grid.to_lps(np.array([k, 0.0, 0.0])), spacing=SPACING_MM[1:], hu=hu[k] + noise, instance=k + 1,
            SliceThickness="2",
        )
        for k in range(grid.shape[0])
    ]  # fmt: skip
    write(datasets, folder)
    return load_volume(find_studies([folder]).studies[0].stacks[0]), datasets


def description(number: int, label: str, code: Code, side: Code | None = None) -> highdicom.seg.SegmentDescription:
    algorithm = highdicom.AlgorithmIdentificationSequence(name="x", version="1", family=Code("123109", "DCM", "Manual"))
    made = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=Code("91723000", "SCT", "Anatomical Structure"),
        segmented_property_type=code,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
    )
    if side is not None:
        modifier = Dataset()
        modifier.CodeValue, modifier.CodingSchemeDesignator, modifier.CodeMeaning = (
            side.value,
            side.scheme_designator,
            side.meaning,
        )
        made.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [modifier]
    return made


def dicom_seg(scene: Scene, datasets: list[Dataset]) -> Dataset:
    """A DICOM SEG by highdicom: levels and side by code, one level by its label alone; empty frames are left out."""
    descriptions = [
        description(1, "one", Code("66794005", "SCT", "L1 vertebra")),
        description(2, "two", Code("14293000", "SCT", "L2 vertebra")),
        description(3, "vertebrae_L3", Code("51282000", "SCT", "Vertebra")),
        description(4, "bone", Code("71341001", "SCT", "Femur"), Code("7771000", "SCT", "Left")),
        description(5, "femur_right", Code("71341001", "SCT", "Femur")),
    ]
    labels = label_map(
        scene, {"vertebrae_L1": 1, "vertebrae_L2": 2, "vertebrae_L3": 3, "femur_left": 4, "femur_right": 5}
    )
    return highdicom.seg.Segmentation(
        source_images=datasets,
        pixel_array=labels,
        segmentation_type="BINARY",
        segment_descriptions=descriptions,
        series_instance_uid=highdicom.UID(),
        series_number=9,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="x",
        manufacturer_model_name="x",
        software_versions="1",
        device_serial_number="1",
    )


@pytest.fixture(scope="module")
def dicom_scene(tmp_path_factory: pytest.TempPathFactory, scene: Scene) -> tuple[Volume, Dataset]:
    volume, datasets = ct_on_disk(tmp_path_factory.mktemp("ct"), scene)
    return volume, dicom_seg(scene, datasets)


def test_a_dicom_segmentation_by_code_laterality_and_label(
    tmp_path: Path, scene: Scene, dicom_scene: tuple[Volume, Dataset]
) -> None:
    volume, segmentation = dicom_scene
    segmentation.save_as(tmp_path / "seg.dcm")
    found = read_masks(tmp_path / "seg.dcm", volume)
    check(found, scene)
    assert sorted(f.side for f in found.femora) == ["left", "right"]
    left = next(f for f in found.femora if f.side == "left")
    assert dice(found.mask(left), scene.femora["left"]) > 0.99
    assert found.method == "outside masks: DICOM SEG"
    assert len(read_mask_files(tmp_path).pieces) == 5, "the folder does as well"


def test_a_dicom_segmentation_of_another_scan_is_refused(tmp_path: Path, dicom_scene: tuple[Volume, Dataset]) -> None:
    volume, segmentation = dicom_scene
    original = segmentation.FrameOfReferenceUID
    segmentation.FrameOfReferenceUID = highdicom.UID()
    segmentation.save_as(tmp_path / "seg.dcm")
    segmentation.FrameOfReferenceUID = original
    with pytest.raises(InputRefused) as refusal:
        read_masks(tmp_path / "seg.dcm", volume)
    assert refusal.value.reason == "other_frame_of_reference"


# --------------------------------------------------------------------------------------------------- geometry


def refused(path: Path, volume: Volume) -> InputRefused:
    with pytest.raises(InputRefused) as caught:
        read_masks(path, volume)
    return caught.value


def named_map(folder: Path, scene: Scene, grid: Grid, array: np.ndarray | None = None) -> Path:
    path = save(folder / "case.nii.gz", label_map(scene, NUMBERS) if array is None else array, grid)
    (folder / "case.json").write_text(json.dumps(WITH_FEMORA))
    return path


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
        (lambda folder, scene: _regions(folder, scene), "region_based_labels"),
        (lambda folder, scene: _organs(folder, scene), "no_known_structure"),
        (lambda folder, scene: _named_image(folder, scene), "not_a_label_map"),
    ],
    ids=["missing", "damaged NIfTI", "foreign", "empty folder", "no masks", "regions", "organs only", "the CT itself"],
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


def _regions(folder: Path, scene: Scene) -> Path:
    path = save(folder / "case.nii.gz", label_map(scene, NUMBERS), scene.volume.grid)
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "spine": [1, 2, 3]}}))
    return path


def _organs(folder: Path, scene: Scene) -> Path:
    path = save(folder / "case.nii.gz", label_map(scene, NUMBERS), scene.volume.grid)
    (folder / "case.json").write_text(json.dumps({"5": "liver", "6": "spleen"}))
    return path


def _named_image(folder: Path, scene: Scene) -> Path:
    return named_map(folder, scene, scene.volume.grid, scene.volume.hu - 1024)


# ------------------------------------------------------------------------------------------- bodies and femora


@pytest.mark.parametrize("tilt_deg", [-35.0, 0.0, 20.0])
@pytest.mark.parametrize(
    "spacing", [(1.0, 0.8, 0.8), (3.0, 3.0, 3.0), (5.0, 0.9, 0.9)], ids=["fine", "3 mm", "5 mm slices"]
)
def test_the_arch_is_cut_off_at_any_tilt_and_resolution(tilt_deg: float, spacing: tuple[float, float, float]) -> None:
    solid = SolidVertebra((3.0, -2.0, 1.0), tilt_deg)
    shape = tuple(int(np.ceil(n / s)) for n, s in zip((80.0, 100.0, 96.0), spacing, strict=True))
    matrix = np.eye(4)
    matrix[:3, :3] = [[0, 0, spacing[2]], [0, spacing[1], 0], [spacing[0], 0, 0]]
    matrix[:3, 3] = (-48.0, -35.0, -40.0)
    grid = Grid((shape[0], shape[1], shape[2]), matrix)
    points = grid.to_lps(np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij"), axis=-1))
    whole, body = solid.whole(points), solid.body(points)

    hole = find_canal_hole(whole, grid)
    assert hole is not None
    cut = body_without_arch(whole, grid, hole)
    frame, width, depth, height = frame_of_body(
        cut, grid, upwards_lps=hole.direction_lps, posterior_lps=hole.posterior_lps
    )

    assert dice(cut, body) > (0.96 if spacing[0] == 1 else 0.9)
    angle = np.degrees(np.arccos(np.clip(frame.superior @ solid.axes[2], -1, 1)))
    assert angle < (2.0 if spacing[0] == 1 else 7.0)
    assert width == pytest.approx(44.0, abs=1.5 * max(spacing[1:]) + 1)
    assert depth == pytest.approx(32.0, abs=1.5 * max(spacing[1:]) + 2)
    assert height == pytest.approx(26.0, abs=1.05 * spacing[0]), "a mask is whole voxels high"
    np.testing.assert_allclose(frame.centre_lps_mm, solid.centre_lps_mm, atol=max(1.2, 0.6 * max(spacing)))
    np.testing.assert_allclose(np.cross(frame.left, frame.posterior), frame.superior, atol=1e-9)


def test_a_body_alone_shows_no_canal() -> None:
    grid = Grid((40, 60, 60), np.array([[0, 0, 1.0, -30], [0, 1.0, 0, -30], [1.0, 0, 0, -20], [0, 0, 0, 1]]))
    points = grid.to_lps(
        np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in grid.shape), indexing="ij"), axis=-1)
    )
    assert find_canal_hole(SolidVertebra((0.0, 0.0, 0.0)).body(points), grid) is None


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


# --------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("vertebrae_L1", Part(Kind.VERTEBRA, "L1")),
        ("vertebrae_T12", Part(Kind.VERTEBRA, "T12")),
        ("T7", Part(Kind.VERTEBRA, "T7")),
        ("L3 vertebra", Part(Kind.VERTEBRA, "L3")),
        ("vertebra_L1 (body)", Part(Kind.BODY, "L1")),
        ("vertebral body L 2", Part(Kind.BODY, "L2")),
        ("vertebrae_body", Part(Kind.BODIES)),
        ("vertebra_u3", Part(Kind.BODY, "u3")),
        ("vertebrae_S1", Part(Kind.SACRUM)),
        ("sacrum", Part(Kind.SACRUM)),
        ("femur_left", Part(Kind.FEMUR, "left")),
        ("Right Femur", Part(Kind.FEMUR, "right")),
        ("proximal femur R", Part(Kind.FEMUR, "right")),
        ("femur", None),
        ("femoral_head_left", None),
        ("vertebrae_C3", None),
        ("intervertebral_disc_L1", None),
        ("rib_left_12", None),
        ("iliac_artery_left", None),
        ("liver", None),
        ("background", None),
        ("T13", Part(Kind.VERTEBRA, "T13")),
        ("L9", None),
    ],
)
def test_names_of_many_programs(name: str, part: Part | None) -> None:
    assert part_of_name(name) == part


def test_codes_come_before_labels() -> None:
    assert part_of_code("66794005", "SCT", "L1 vertebra", None, "segment 1") == Part(Kind.VERTEBRA, "L1")
    assert part_of_code("66794005", "SCT", "L1 vertebra", None, "vertebra_L1 (body)") == Part(Kind.BODY, "L1")
    assert part_of_code("71341001", "SCT", "Femur", "24028007", "x") == Part(Kind.FEMUR, "right")
    assert part_of_code("71341001", "SCT", "Femur", None, "femur_left") == Part(Kind.FEMUR, "left")
    assert part_of_code("71341001", "SCT", "Femur", None, "bone") is None, "a femur without a side is none"
    assert part_of_code("10200004", "SCT", "Liver", None, "liver") is None


def test_regions_are_no_labels() -> None:
    with pytest.raises(ValueError, match="regions"):
        number_to_name({"labels": {"a": [1, 2]}})
    assert number_to_name({"version": "x"}) is None


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


# ---------------------------------------------------------------------------------------- an installed network


FAKE = """
    import json, os, sys
    import nibabel, numpy as np
    home = json.load(open(os.path.join(os.environ["TOTALSEG_HOME_DIR"], "config.json")))
    assert home["send_usage_stats"] is False
    assert os.environ["https_proxy"].endswith(":9")
    arguments = sys.argv
    image = nibabel.load(arguments[arguments.index("-i") + 1])
    if os.environ.get("FAKE_FAILS"):
        sys.exit("out of memory")
    labels = np.load(os.environ["FAKE_LABELS"])
    out = nibabel.Nifti1Image(labels.transpose(2, 1, 0).astype(np.uint8), image.affine)
    nibabel.save(out, arguments[arguments.index("-o") + 1])
"""


@pytest.fixture
def fake_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with the name and the command line of TotalSegmentator, and empty folders for its weights."""
    package = tmp_path / "site" / "totalsegmentator" / "bin"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package / "TotalSegmentator.py").write_text(textwrap.dedent(FAKE))
    info = tmp_path / "site" / "totalsegmentator-2.9.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: TotalSegmentator\nVersion: 2.9.0\n")
    for model in (291, 292, 293, 294, 295):
        (tmp_path / "weights" / f"Dataset{model}_x").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site") + os.pathsep + os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "weights"))
    monkeypatch.delitem(sys.modules, "totalsegmentator", raising=False)
    return tmp_path


def test_an_installed_network_is_called_offline_and_its_masks_are_read(
    fake_network: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {"vertebrae_L1": 31, "vertebrae_L2": 30, "vertebrae_L3": 29}
    np.save(fake_network / "labels.npy", label_map(scene, numbers))
    monkeypatch.setenv("FAKE_LABELS", str(fake_network / "labels.npy"))
    found = total_segmentator(scene.volume)
    check(found, scene)
    assert found.method == "TotalSegmentator 2.9.0"

    monkeypatch.setenv("FAKE_FAILS", "1")
    with pytest.raises(InputRefused, match="out of memory") as failed:
        total_segmentator(scene.volume)
    assert failed.value.reason == "segmenter_failed"


def test_missing_weights_are_named_and_never_fetched(fake_network: Path, scene: Scene) -> None:
    with pytest.raises(InputRefused, match="Dataset297") as refusal:
        total_segmentator(scene.volume, fast=True)
    assert refusal.value.reason == "weights_missing"


def test_without_the_package_the_network_is_refused(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputRefused) as refusal:
        total_segmentator(scene.volume)
    assert refusal.value.reason == "segmenter_missing"
