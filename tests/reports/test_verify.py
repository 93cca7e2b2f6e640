"""A record verified against images: recorded settings come back, files are recognised, a changed number is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import phantoms
from pipeline.cli import app
from pipeline.errors import InputRefused
from pipeline.ingest import find_studies
from pipeline.study import Settings
from pipeline.verify import settings_of, verify_record
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
    answer = call(app, ["verify", str(file), images, "--json"])
    assert answer.exit_code == 1
    rows = {row["name"]: row for row in json.loads(answer.stdout)["results"]}
    assert [name for name, row in rows.items() if row["verdict"] == Verdict.DIFFERS] == [f"{body.name}.vbmd_mg_cm3"]
