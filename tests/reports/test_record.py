"""The study record: what it refuses, what survives the file, and that the shipped schema is current."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

import reports
from reports import migrations
from reports.quantity import Quantity
from reports.record import (
    SCHEMA_VERSION,
    Assessment,
    Calibration,
    Finding,
    RecordUnreadable,
    Software,
    Study,
    StudyRecord,
    Vertebra,
    load_record,
    save_record,
    schema_text,
)
from tests.reports.example_records import example_record

CONTRACT_KEYS = {
    "schema_version", "software", "study", "series", "calibration", "vertebrae", "femora", "assessment", "services",
    "other_services", "quality", "timings_s",
}  # fmt: skip
METAL = Finding(code="metal_in_body", severity="failure", text="Metal inside the body (max 3071 HU).")
DENSITY = Quantity(value=118.2, unit="mg/cm3 K2HPO4", uncertainty=6.0, method="mean")


def small_record(**parts: object) -> StudyRecord:
    given = {
        "software": Software(version="0.1.0"),
        "study": Study(key="P0007", report_date="2026-11-21"),
        "assessment": Assessment(classification="not_determined", statement="Nothing was measured."),
    }
    return StudyRecord.model_validate(given | parts)


def test_top_level_keys_are_those_of_the_contract() -> None:
    assert set(json.loads(small_record().model_dump_json())) == CONTRACT_KEYS


def test_shipped_schema_is_current() -> None:
    shipped = Path(reports.__file__).parent / "schema" / f"record-{SCHEMA_VERSION}.json"
    assert shipped.read_text(encoding="utf-8") == schema_text(), "run: python -m reports.record"


def test_failed_vertebra_needs_no_further_reason_and_may_hold_no_number() -> None:
    failed = Vertebra(name="vertebra_L1", level="L1", status="failed", findings=(METAL,))
    assert failed.reason_for("strength_n") == METAL
    with pytest.raises(ValidationError, match="there are numbers"):
        Vertebra(name="vertebra_L1", status="failed", findings=(METAL,), vbmd_mg_cm3=DENSITY)


def test_absent_number_without_reason_is_refused() -> None:
    with pytest.raises(ValidationError, match="is absent and no finding says why"):
        Vertebra(name="vertebra_L1", status="ok", vbmd_mg_cm3=DENSITY)


def test_density_without_calibration_is_refused() -> None:
    keys = ("trabecular_hu", "heights_mm", "fracture", "strength_n", "stiffness_n_mm")
    dense = Vertebra(
        name="vertebra_L1", status="ok", vbmd_mg_cm3=DENSITY, not_measured=dict.fromkeys(keys, METAL), level="L1"
    )
    with pytest.raises(ValidationError, match="no calibration"):
        small_record(vertebrae=(dense,))
    line = Calibration(method="test", mineral="K2HPO4", slope_mg_cm3_per_hu=0.8, intercept_mg_cm3=3.0)
    assert small_record(vertebrae=(dense,), calibration=line).vertebrae == (dense,)


def test_record_survives_its_file(tmp_path: Path) -> None:
    record = small_record(vertebrae=(Vertebra(name="vertebra_u1", status="failed", findings=(METAL,)),))
    path = save_record(record, tmp_path / "päth with space" / "record.json")
    assert load_record(path) == record
    assert [p.name for p in path.parent.iterdir()] == ["record.json"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not_json"),
        ("[]", "not_a_record"),
        ('{"schema_version": "9.0"}', "schema_too_new"),
        ('{"schema_version": "1.0", "study": {}}', "schema_invalid"),
    ],
)
def test_foreign_files_are_refused_with_a_reason(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(RecordUnreadable) as refused:
        load_record(tmp_path / "record.json")
    assert refused.value.reason == reason


def test_newer_minor_version_is_read_without_its_new_keys(tmp_path: Path) -> None:
    content = json.loads(small_record().model_dump_json())
    content |= {"schema_version": "1.9", "tomorrow": 1}
    content["study"]["moon_phase"] = "full"
    (tmp_path / "record.json").write_text(json.dumps(content))
    assert load_record(tmp_path / "record.json").study.key == "P0007"
    content["schema_version"] = SCHEMA_VERSION
    (tmp_path / "record.json").write_text(json.dumps(content))
    with pytest.raises(RecordUnreadable, match=r"moon_phase|tomorrow"):
        load_record(tmp_path / "record.json")


OLD = Path(__file__).parent / "data" / "record-1.0.json"


def test_a_record_written_by_version_1_0_is_read_and_brought_up_to_date() -> None:
    written = json.loads(OLD.read_text(encoding="utf-8"))
    assert written["schema_version"] == "1.0"
    record = load_record(OLD)
    assert record.schema_version == SCHEMA_VERSION
    for before, body in zip(written["vertebrae"], record.vertebrae, strict=True):
        assert body.name == before["name"]
        density = None if body.vbmd_mg_cm3 is None else body.vbmd_mg_cm3.model_dump(mode="json")
        assert density == before["vbmd_mg_cm3"]
    assert [s.review for s in record.services] == [("OVERLAP_REVIEW",), ("OVERLAP_REVIEW",)]
    for service in record.services:
        assert service.coverage is not None
        assert all(item["code"] for item in service.coverage.checklist)
    assert record.other_services == () and record.software.code_sha256 is None  # nobody wrote them down


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_a_record_written_by_a_version_that_only_lacks_keys_is_read_whole(version: str) -> None:
    file = OLD.with_name(f"record-{version}.json")
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["schema_version"] == version
    read = json.loads(load_record(file).model_dump_json())

    def kept(before: object, after: object) -> bool:
        """Every key and number of the old file stands in the new one; keys may have come."""
        if isinstance(before, dict) and isinstance(after, dict):
            return all(key in after and kept(value, after[key]) for key, value in before.items())
        if isinstance(before, list) and isinstance(after, list):
            return len(before) == len(after) and all(map(kept, before, after))
        return before == after

    assert kept(written | {"schema_version": SCHEMA_VERSION}, read)


@pytest.mark.parametrize("name", ["record-1.0.json", "record-1.1.json", "record-1.2.json"])
def test_a_record_brought_up_to_date_survives_its_file(tmp_path: Path, name: str) -> None:
    record = load_record(OLD.with_name(name))
    assert load_record(save_record(record, tmp_path / "record.json")) == record


def test_every_older_version_has_a_step_and_its_schema_still_ships() -> None:
    folder = Path(reports.__file__).parent / "schema"
    shipped = sorted(file.stem.removeprefix("record-") for file in folder.glob("record-*.json"))
    assert shipped[-1] == SCHEMA_VERSION
    for version in shipped[:-1]:
        content = {"schema_version": version, "services": [{"coverage": None}, 3]}
        assert migrations.migrated(content)["schema_version"] == SCHEMA_VERSION
        assert content["schema_version"] == version  # the caller's own is left alone


def test_records_satisfy_the_shipped_schema_by_the_word_of_another_program() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema")
    schema = json.loads(schema_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for record in (small_record(), example_record()):
        content = json.loads(record.model_dump_json())
        assert list(validator.iter_errors(content)) == []
        content["study"]["moon_phase"] = "full"
        content["assessment"]["classification"] = "splendid"
        assert {tuple(e.absolute_path) for e in validator.iter_errors(content)} == {
            ("study",),
            ("assessment", "classification"),
        }
