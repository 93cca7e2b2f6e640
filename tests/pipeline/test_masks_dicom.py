"""DICOM segmentations as outside masks: by code, laterality and label, placed by their positions."""

from __future__ import annotations

from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from pipeline.errors import InputRefused
from pipeline.ingest import find_studies, load_volume
from pipeline.segmentation.mask_files import read_mask_files
from pipeline.segmentation.masks import read_masks
from pipeline.volume import Volume
from reports.dicom import Provenance, segmentation_object
from tests.pipeline.dicom_factory import slice_dataset, write
from tests.pipeline.mask_scene import (
    SPACING_MM,
    Scene,
    check,
    dice,
    label_map,
    make_scene,
)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene()


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


def dicom_seg(scene: Scene, datasets: list[Dataset], kind: str = "BINARY") -> Dataset:
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
        segmentation_type=kind,
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
def dicom_scene(tmp_path_factory: pytest.TempPathFactory, scene: Scene) -> tuple[Volume, list[Dataset], Dataset]:
    volume, datasets = ct_on_disk(tmp_path_factory.mktemp("ct"), scene)
    return volume, datasets, dicom_seg(scene, datasets)


def test_a_dicom_segmentation_by_code_laterality_and_label(
    tmp_path: Path, scene: Scene, dicom_scene: tuple[Volume, list[Dataset], Dataset]
) -> None:
    volume, _, segmentation = dicom_scene
    segmentation.save_as(tmp_path / "seg.dcm")
    found = read_masks(tmp_path / "seg.dcm", volume)
    check(found, scene)
    assert sorted(f.side for f in found.femora) == ["left", "right"]
    left = next(f for f in found.femora if f.side == "left")
    assert dice(found.mask(left), scene.femora["left"]) > 0.99
    assert found.method == "outside masks: DICOM SEG"
    assert len(read_mask_files(tmp_path).pieces) == 5, "the folder does as well"


def test_a_dicom_segmentation_of_another_scan_is_refused(
    tmp_path: Path, dicom_scene: tuple[Volume, list[Dataset], Dataset]
) -> None:
    volume, _, segmentation = dicom_scene
    original = segmentation.FrameOfReferenceUID
    segmentation.FrameOfReferenceUID = highdicom.UID()
    segmentation.save_as(tmp_path / "seg.dcm")
    segmentation.FrameOfReferenceUID = original
    with pytest.raises(InputRefused) as refusal:
        read_masks(tmp_path / "seg.dcm", volume)
    assert refusal.value.reason == "other_frame_of_reference"


def test_a_label_map_segmentation_reads_like_a_binary_one(
    tmp_path: Path, scene: Scene, dicom_scene: tuple[Volume, list[Dataset], Dataset]
) -> None:
    """The storage class of 2024, in which each frame holds the numbers of all segments."""
    volume, datasets, _ = dicom_scene
    made = dicom_seg(scene, datasets, "LABELMAP")
    assert made.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"
    made.save_as(tmp_path / "seg.dcm")
    found = read_masks(tmp_path / "seg.dcm", volume)
    check(found, scene)
    assert sorted(f.side for f in found.femora) == ["left", "right"]


def test_our_own_dicom_segmentation_comes_back_unchanged(
    tmp_path: Path, scene: Scene, dicom_scene: tuple[Volume, list[Dataset], Dataset]
) -> None:
    """Named and unnamed bodies and femora, written as for a report and read again as outside masks."""
    volume, datasets, _ = dicom_scene
    labels = np.zeros(volume.shape, np.uint8)
    names = {20: "vertebra_L1", 21: "vertebra_L2", 43: "vertebra_u3", 31: "femur_left", 32: "femur_right"}
    masks = (scene.bodies["L1"], scene.bodies["L2"], scene.bodies["L3"], scene.femora["left"], scene.femora["right"])
    for number, mask in zip(names, masks, strict=True):
        labels[mask] = number
    made = segmentation_object(
        labels, volume.grid.index_to_lps, names, datasets, Provenance(version="1", digest="0" * 64)
    )
    assert made is not None
    made.save_as(tmp_path / "segmentation.dcm")

    again = read_masks(tmp_path / "segmentation.dcm", volume)

    np.testing.assert_array_equal(again.labels, labels)
    assert again.names() == names
    assert again.arches is None, "bodies have no arches"
