"""Results of the stages as the parts of a record: strengths, fractures, scores and findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline import errors
from pipeline.density.hip import HipDensity, missing_region
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


_POPULATION = "NHANES III, white women 20-29 years, for both sexes"
_MALE_POPULATION = "NHANES III, white men 20-29 years, unverified reference, never classified"
_Z_POPULATION = "NHANES 2005-2008, all ethnic groups, same sex and decade of age"


def hip_parts(hip: HipDensity) -> dict[str, Any]:
    """Densities and scores of a hip by the keys of `record.Femur`; the lowest of total hip and neck leads the scores."""
    scores = {name: score_part(name, q, _POPULATION) for name, q in hip.t_scores.items()}
    z_scores = {name: score_part(name, q, _Z_POPULATION, "{Z-score}") for name, q in hip.z_scores.items()}
    on_scale = {}
    if hip.on_dxa_scale_g_cm2:
        on_scale = {
            "dxa_scale": hip.dxa_scale,
            "dxa_scale_abmd_g_cm2": record.HipRegions(**hip.on_dxa_scale_g_cm2),
        }
    return {
        "abmd_g_cm2": record.HipDensity(**hip.abmd_g_cm2),
        "bmc_g": record.HipRegions(**hip.bmc_g),
        "area_cm2": record.HipRegions(**hip.area_cm2),
        **on_scale,
        "t_score": min(scores.values(), key=lambda s: s.value, default=None),
        "t_scores": scores,
        "male_reference_t_scores": {
            name: score_part(name, q, _MALE_POPULATION) for name, q in hip.male_reference_t_scores.items()
        },
        "z_score": min(z_scores.values(), key=lambda s: s.value, default=None),
        "z_scores": z_scores,
    }


def missing_regions(hip: HipDensity) -> dict[str, record.Finding]:
    """Why regions of a hip that was measured have no areal density, by key."""
    return {
        f"abmd_g_cm2.{region}": findings_part([missing_region(hip.name, [region], reason)])[0]
        for region, reason in hip.missing.items()
    }


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
