"""The output reference in the documentation is written from the models and is current."""

from __future__ import annotations

from pathlib import Path

from reports.cohort import data_dictionary
from reports.record import StudyRecord
from reports.reference import output_reference

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "output.md"


def test_output_reference_is_current() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == output_reference(), "run: python -m reports.reference docs/output.md"


def test_every_key_and_column_is_explained() -> None:
    text = output_reference()
    for key in StudyRecord.model_fields:
        assert f"| `{key}` |" in text
    assert "| `{level}_vbmd_mg_cm3` | number | mg/cm3 | trabecular density of {level} |" in text
    assert "| `femur_{side}_t_score` |" in text
    assert all(entry["meaning"] for entry in data_dictionary())
