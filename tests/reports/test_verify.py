"""A record verified against images: recorded settings come back, files are recognised, a changed number is found."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

import phantoms
from pipeline.cli import app
from pipeline.errors import InputRefused
from pipeline.ingest import find_studies
from pipeline.study import Settings
from pipeline.verify import compare_label_maps, settings_of, verify_record
from reports.comparison import Verdict
from reports.record import Software, StudyRecord, load_record, save_record
from tests.reports.example_records import example_record


def made_with(settings: Settings) -> StudyRecord:
    """A record whose settings went through JSON, as those of a file did."""
    written = json.loads(json.dumps(settings.as_json()))
    record = example_record()
    return record.model_copy(update={"software": Software(version="0.1.0", settings=written)})


def test_recorded_settings_come_back() -> None:
    settings = Settings(
        pinned_levels=(("L1", -220.5),), strength=False, calibration="internal", date_of_service="2025-06-01"
    )
    assert settings_of(made_with(settings), {}) == settings


def test_coverage_is_asked_for_the_day_of_the_report_where_no_date_was_given() -> None:
    record = made_with(Settings())
    assert settings_of(record, {}).date_of_service == record.study.report_date


def test_a_file_must_be_given_again_and_be_the_same(tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "vertebra_L1.nii.gz").write_bytes(b"one")
    record = made_with(Settings(masks=str(masks)))
    assert settings_of(record, {"masks": masks}).masks == str(masks)
    with pytest.raises(InputRefused) as refused:
        settings_of(record, {})
    assert refused.value.reason == "file_needed"
    (masks / "vertebra_L1.nii.gz").write_bytes(b"two")
    with pytest.raises(InputRefused) as refused:
        settings_of(record, {"masks": masks})
    assert refused.value.reason == "file_changed"
    with pytest.raises(InputRefused) as refused:
        settings_of(made_with(Settings()), {"masks": masks})
    assert refused.value.reason == "file_not_used"


def test_a_setting_of_another_version_is_named() -> None:
    record = example_record()
    odd = record.model_copy(update={"software": Software(version="7.0", settings={"hyperdrive": True})})
    with pytest.raises(InputRefused, match="hyperdrive") as refused:
        settings_of(odd, {})
    assert "7.0" in str(refused.value)


def test_input_without_the_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused) as refused:
        verify_record(made_with(Settings()), find_studies([tmp_path]))
    assert refused.value.reason == "study_not_in_input"


def label_map(folder: Path, labels: NDArray[np.uint8], *, name: str = "segmentation", spacing: float = 1.0) -> Path:
    folder.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(labels, np.diag([spacing, spacing, spacing, 1.0])), folder / f"{name}.nii.gz")
    return folder


def two_blocks() -> NDArray[np.uint8]:
    labels = np.zeros((20, 20, 30), np.uint8)
    labels[2:12, 2:12, 2:12] = 20
    labels[2:12, 2:12, 15:25] = 21
    return labels


def test_label_maps_are_compared_structure_by_structure(tmp_path: Path) -> None:
    mine = label_map(tmp_path / "mine", two_blocks())
    rows = {r.name: r for r in compare_label_maps(mine, label_map(tmp_path / "same", two_blocks()))}
    assert {r.verdict for r in rows.values()} == {Verdict.SAME} and len(rows) == 3

    one_voxel, shaved = two_blocks(), two_blocks()
    one_voxel[2, 2, 2] = 0
    shaved[2, 2:12, 2:12] = 0
    for name, changed, verdict in (("one", one_voxel, Verdict.WITHIN_TOLERANCE), ("many", shaved, Verdict.DIFFERS)):
        rows = {r.name: r for r in compare_label_maps(mine, label_map(tmp_path / name, changed))}
        assert rows["segmentation.nii.gz.label_20"].verdict is verdict
        assert rows["segmentation.nii.gz.label_21"].verdict is Verdict.SAME
    # Dice by its definition: 1000 voxels against 900 of them.
    assert rows["segmentation.nii.gz.label_20"].difference == pytest.approx(2 * 900 / 1900 - 1)


def test_a_label_map_on_another_grid_or_that_is_none_differs(tmp_path: Path) -> None:
    mine = label_map(tmp_path / "mine", two_blocks())
    other = label_map(tmp_path / "other", two_blocks(), spacing=1.1)
    (row,) = compare_label_maps(mine, other)
    assert row.name == "segmentation.nii.gz.grid" and row.verdict is Verdict.DIFFERS
    (mine / "segmentation.nii.gz").write_bytes(b"no image")
    assert [r.verdict for r in compare_label_maps(mine, other)] == [Verdict.DIFFERS]


def test_a_record_that_lies_alone_is_compared_without_its_maps_and_one_map_too_few_counts(tmp_path: Path) -> None:
    again = label_map(label_map(tmp_path / "again", two_blocks()), two_blocks(), name="arches")
    (tmp_path / "alone").mkdir()
    assert {r.verdict for r in compare_label_maps(tmp_path / "alone", again)} == {Verdict.NOT_COMPARED}
    rows = {r.name: r.verdict for r in compare_label_maps(label_map(tmp_path / "mine", two_blocks()), again)}
    assert rows["arches.nii.gz"] is Verdict.NEW


@pytest.mark.slow
def test_a_study_is_reproduced_from_its_images_and_a_changed_number_is_found(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    phantom = phantoms.make_phantom("torso", seed=11, top_level="L1", hips=False)
    phantoms.write_study(phantom, tmp_path / "input", slice_mm=2.0, pixel_mm=1.0)
    images = str(tmp_path / "input" / "dicom")
    call = CliRunner().invoke
    assert call(app, ["run", images, "-o", str(tmp_path / "out"), "--no-strength", "-q"]).exit_code == 0
    file = next((tmp_path / "out").glob("study-*/record.json"))
    answer = call(app, ["verify", str(file), images, "--json"])
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["reproduced"] is True

    record = load_record(file)
    body = record.vertebrae[0]
    assert body.vbmd_mg_cm3 is not None
    forged = body.vbmd_mg_cm3.model_copy(update={"value": body.vbmd_mg_cm3.value - 5})
    bodies = (body.model_copy(update={"vbmd_mg_cm3": forged}), *record.vertebrae[1:])
    save_record(record.model_copy(update={"vertebrae": bodies}), file)
    # In the same call: a twentieth of one structure taken out of the label map beside the record.
    label_file = file.with_name("segmentation.nii.gz")
    image = nibabel.load(label_file)
    labels = np.array(image.dataobj)  # type: ignore[attr-defined]
    number = int(np.unique(labels)[1])
    inside = np.argwhere(labels == number)
    labels[tuple(inside[: len(inside) // 20].T)] = 0
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), label_file)  # type: ignore[attr-defined]
    answer = call(app, ["verify", str(file), images, "--json"])
    assert answer.exit_code == 1
    maps = json.loads(answer.stdout)["files"]
    assert [r["name"] for r in maps if r["verdict"] == "differs"] == [f"segmentation.nii.gz.label_{number}"]
    rows = {row["name"]: row for row in json.loads(answer.stdout)["results"]}
    assert [name for name, row in rows.items() if row["verdict"] == Verdict.DIFFERS] == [f"{body.name}.vbmd_mg_cm3"]

    # One slice of the input with another value, under the same identifiers.
    source = sorted((tmp_path / "input" / "dicom").rglob("*.dcm"))[10]
    slice_ = pydicom.dcmread(source)
    pixels = slice_.pixel_array.copy()
    pixels[0, 0] += 1
    slice_.PixelData = pixels.tobytes()
    slice_.save_as(source)
    content = json.loads(call(app, ["verify", str(file), images, "--json"]).stdout)
    assert content["same_input"] is False and content["reproduced"] is False
