"""Results of the stages as the parts of a record: strengths, fractures, scores and findings."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline import errors
from pipeline.fracture import VertebraShape
from pipeline.strength import Strength
from reports import record
from reports.quantity import Quantity


def strength_part(result: Strength, strength: Quantity) -> record.Strength:
    """A strength as it stands in the record."""
    return record.Strength(
        **strength.model_dump(),
        test=result.test,
        profile=result.profile,
        definition=result.definition,
        curve=tuple((float(d), float(f)) for d, f in result.curve),
        model=result.model,
    )


def fracture_part(shape: VertebraShape) -> record.Fracture | None:
    """Shape and grade of a body as they stand in the record; None where it could not be graded."""
    if shape.genant_grade is None or shape.height_loss is None or shape.deformity is None:
        return None
    loss = shape.height_loss
    percent = loss.model_copy(
        update={
            "value": 100.0 * loss.value,
            "unit": "%",
            "uncertainty": None if loss.uncertainty is None else 100.0 * loss.uncertainty,
            "components": {name: 100.0 * part for name, part in loss.components.items()},
        }
    )
    return record.Fracture.model_validate(
        {
            "genant_grade": shape.genant_grade,
            "deformity": shape.deformity,
            "height_loss": percent,
            "grade_probabilities": {str(grade): p for grade, p in shape.grade_probabilities.items()},
            "note": "possible, reader to confirm" if shape.genant_grade == 1 else None,
        }
    )


def score_part(region: str, quantity: Quantity, population: str, unit: str = "{T-score}") -> record.Score:
    """A T- or Z-score with its region and population."""
    return record.Score.model_validate(
        {**quantity.model_dump(), "unit": unit, "region": region, "population": population}
    )


def findings_part(findings: Sequence[errors.Finding]) -> tuple[record.Finding, ...]:
    """Findings as they stand in the record, each once."""
    unique = dict.fromkeys(findings)  # the record names the structure beside each finding
    return tuple(
        record.Finding(code=f.code, severity=record.Severity(f.severity), text=_without_name(f.text)) for f in unique
    )


def _without_name(text: str) -> str:
    """A finding's text without the name of its structure in front, which stands beside it in the record."""
    name, colon, rest = text.partition(": ")
    if not colon or not name.startswith(("vertebra_", "femur_")) or " " in name:
        return text
    return rest[:1].upper() + rest[1:]
