"""The overall assessment: published classes of density, and the rule that joins them, applied to the numbers of a record.

The strength part of the published rule is left out and said to be left out: its thresholds were derived with, and validated
for, another analysis whose numbers differ from those of an open model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from reports.quantity import Quantity, format_quantity
from reports.record import Assessment, Femur, Omission, Rule, Score, Vertebra

DensityClass = Literal["normal", "low", "osteoporosis_range"]

VBMD_OSTEOPOROSIS_MG_CM3 = 80.0
VBMD_NORMAL_MG_CM3 = 120.0
T_OSTEOPOROSIS = -2.5
T_NORMAL = -1.0
FRACTURE_GRADE = 2
"""Grade from which a deformity counts in the rule; grade 1 by height alone is too unspecific and goes to a reader."""
_PREFERRED_LEVELS = ("L1", "L2")
_SUBSTITUTE_LEVELS = ("T12", "L3")

_REFERENCES = (
    "Keaveny et al. 2020, Osteoporos Int 31:1025-1048",
    "ACR-SPR-SSR practice parameter for quantitative CT, 2018",
    "ISCD 2019 official positions, adult",
    "WHO 1994, Technical Report Series 843",
    "Genant et al. 1993, J Bone Miner Res 8:1137-1148",
)


def vbmd_class(value_mg_cm3: float) -> DensityClass:
    """Class of the trabecular density of the spine: at most 80 osteoporosis range, at least 120 mg/cm3 normal, else low."""
    if value_mg_cm3 <= VBMD_OSTEOPOROSIS_MG_CM3:
        return "osteoporosis_range"
    return "normal" if value_mg_cm3 >= VBMD_NORMAL_MG_CM3 else "low"


def t_score_class(value: float) -> DensityClass:
    """WHO class of a hip T-score: at most -2.5 osteoporosis range, at least -1.0 normal, else low."""
    if value <= T_OSTEOPOROSIS:
        return "osteoporosis_range"
    return "normal" if value >= T_NORMAL else "low"


def spine_density(vertebrae: Sequence[Vertebra]) -> tuple[Quantity | None, tuple[str, ...]]:
    """Mean trabecular density of two levels, L1 and L2 if they were measured, else with their neighbours T12 and L3.

    The calibration is common to all levels, so their errors are taken as fully correlated: the uncertainty of the mean is the
    mean of the uncertainties. Fractured bodies (grade 1 or more) are left out.

    Returns
    -------
    mean : Quantity or None
        None if no level from T12 to L3 was measured.
    levels : tuple of str
    """
    usable = {
        v.level: v.vbmd_mg_cm3
        for v in vertebrae
        if v.level is not None and v.vbmd_mg_cm3 is not None and (v.fracture is None or v.fracture.genant_grade == 0)
    }
    levels = [level for level in (*_PREFERRED_LEVELS, *_SUBSTITUTE_LEVELS) if level in usable][:2]
    if not levels:
        return None, ()
    parts = [usable[level] for level in levels]
    spreads = [part.uncertainty for part in parts if part.uncertainty is not None]
    known = len(spreads) == len(parts)
    mean = Quantity(
        value=math.fsum(part.value for part in parts) / len(parts),
        unit=parts[0].unit,
        uncertainty=math.fsum(spreads) / len(parts) if known else None,
        uncertainty_reason=None if known else "not known for each level",
        method=f"mean of {' and '.join(levels)}; {parts[0].method}",
        reference=parts[0].reference,
    )
    ordered = sorted(levels, key=("T12", "L1", "L2", "L3").index)
    return mean, tuple(ordered)


def assess(vertebrae: Sequence[Vertebra], femora: Sequence[Femur]) -> Assessment:
    """Classify one patient from density and prevalent vertebral fractures.

    Rule (Keaveny 2020 without its strength part): *high* with a density in the osteoporosis range at hip or spine, or with a
    vertebral fracture of grade 2 or more; *not increased* when fractures were assessed, every measured density is normal and
    there is no deformity; otherwise *increased*; *not determined* when neither density nor fractures could be measured.
    """
    spine, levels = spine_density(vertebrae)
    spine_class = vbmd_class(spine.value) if spine is not None else None
    hips = [(femur.side, femur.t_score) for femur in femora if femur.t_score is not None]
    lowest = min(hips, key=lambda hip: hip[1].value, default=None)
    hip_class = t_score_class(lowest[1].value) if lowest is not None else None
    grades = [(v.fracture.genant_grade, v.level or v.name) for v in vertebrae if v.fracture is not None]
    highest = max((grade for grade, _ in grades), default=None)

    omitted = [Omission(
        part="bone strength", code="threshold_not_validated",
        reason="published fragility thresholds were validated for another analysis only; strength enters no class here",
    )]  # fmt: skip
    if spine is None:
        omitted.append(Omission(
            part="spine density", code="not_measured", reason="no intact level from T12 to L3 has a density"))  # fmt: skip
    if lowest is None:
        omitted.append(Omission(part="hip T-score", code="not_measured", reason="no hip has a T-score"))
    if highest is None:
        omitted.append(Omission(part="vertebral fracture", code="not_measured", reason="no vertebral body was graded"))

    rules = _rules(spine, levels, spine_class, lowest, hip_class, grades, highest)
    classification: Literal["high", "increased", "not_increased", "not_determined"]
    if spine_class is None and hip_class is None and highest is None:
        classification = "not_determined"
    elif "osteoporosis_range" in (spine_class, hip_class) or (highest or 0) >= FRACTURE_GRADE:
        classification = "high"
    elif "low" in (spine_class, hip_class) or (highest or 0) > 0:
        classification = "increased"
    elif highest is None or (spine_class is None and hip_class is None):
        classification = "not_determined"
    else:
        classification = "not_increased"
    basis = []
    if spine is not None:
        basis.append(f"trabecular density of {' and '.join(levels)}")
    basis += [f"T-score of the {side} hip" for side, _ in hips]
    if grades:
        basis.append(f"fracture grades of {len(grades)} vertebral bodies")
    return Assessment(
        classification=classification,
        statement=_STATEMENTS[classification],
        rules=rules,
        references=_REFERENCES,
        basis=tuple(basis),
        omitted=tuple(omitted),
        spine_vbmd_mg_cm3=spine,
        spine_vbmd_levels=levels,
        spine_density_class=spine_class,
        hip_density_class=hip_class,
    )


_STATEMENTS = {
    "high": "High fracture risk by the density and fracture part of the published rule.",
    "increased": "Increased fracture risk by the density and fracture part of the published rule.",
    "not_increased": "Fracture risk not increased by the density and fracture part of the published rule.",
    "not_determined": "Fracture risk not determined: too little could be measured for the rule.",
}


def _rules(
    spine: Quantity | None,
    levels: tuple[str, ...],
    spine_class: DensityClass | None,
    lowest: tuple[str, Score] | None,
    hip_class: DensityClass | None,
    grades: list[tuple[Literal[0, 1, 2, 3], str]],
    highest: int | None,
) -> tuple[Rule, ...]:
    spine_basis = f"{' and '.join(levels)}: {format_quantity(spine)}" if spine is not None else "not measured"
    hip_basis = "not measured"
    if lowest is not None:
        side, score = lowest
        hip_basis = f"{side} {score.region.replace('_', ' ')}: T {format_quantity(score)}"
    bodies = [name for grade, name in grades if grade == highest]
    grade_basis = "not measured" if highest is None else f"highest grade {highest}"
    if highest:
        grade_basis += f" ({', '.join(bodies)})"
    return (
        Rule(rule="Spine: trabecular density at most 80 mg/cm³", basis=spine_basis, reference="ACR 2018; ISCD 2019",
             holds=None if spine_class is None else spine_class == "osteoporosis_range"),
        Rule(rule="Hip: T-score at most −2.5", basis=hip_basis, reference="WHO 1994; ISCD 2019",
             holds=None if hip_class is None else hip_class == "osteoporosis_range"),
        Rule(rule="Vertebral fracture of grade 2 or 3", basis=grade_basis, reference="Genant 1993; Keaveny 2020",
             holds=None if highest is None else highest >= FRACTURE_GRADE),
        Rule(rule="Bone strength in the fragile range", basis="thresholds not validated for this analysis",
             holds=None, reference="Keaveny 2020"),
    )  # fmt: skip
