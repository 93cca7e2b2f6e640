"""The overall classification of a study, with every rule it rests on and every part it leaves out.

The rule is that of Keaveny 2020 (Osteoporos Int 31:1025): high risk with osteoporosis or fragile strength at hip or spine,
not increased if density and strength are normal at every measured site, increased otherwise. Its strength limits were found
with another program and do not carry over to ours, so the strength term is left out, and said to be left out. A prevalent
vertebral fracture of grade 2 or more is a finding of its own that alone sets "high".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

from pipeline.density.spine import SPINE_CLASSES, SpineDensity, limit_within_interval, probability_words
from reports.classes import grade_needs_reader
from reports.quantity import Quantity, format_quantity
from reports.record import Assessment, Femur, Omission, Rule, Vertebra

RULE_REFERENCE = "Keaveny 2020, Osteoporos Int 31:1025"
_WHO = "WHO classes on NHANES III white women 20-29, total hip and femoral neck"
_CERTAIN_FRACTURE_GRADE = 2
_PROBABILITY = re.compile(r"probability of at most [^:]*: (\d+) %")
_FIRM_PERCENT = 80
_OSTEOPOROSIS_MG_CM3 = 80.0
_OSTEOPOROSIS_T, _LOW_T = -2.5, -1.0
_FIRST_ADULT_YEAR = 18.0
_T_SCORE_YEARS = 50.0

_Class = Literal["normal", "low", "osteoporosis_range"]
_SPINE_CLASSES: dict[str, _Class] = {
    "normal": "normal",
    "low bone mass": "low",
    "osteoporosis": "osteoporosis_range",
}


def assess(
    vertebrae: Sequence[Vertebra], femora: Sequence[Femur], spine: SpineDensity | None, *, age_years: float | None
) -> Assessment:
    """Classify a study from its vertebral density, hip T-scores and vertebral fractures.

    Parameters
    ----------
    vertebrae, femora : sequence of record parts
    spine : SpineDensity or None
        Summary of vertebral density; None when no body was measured.
    age_years : float or None
        Below 18 years nothing is classified; below 50, or unknown, the T-score rule is said to be provisional.
    """
    spine_class = _SPINE_CLASSES.get(spine.classification) if spine is not None and spine.classification else None
    scores = [(f, f.t_score) for f in femora if f.t_score is not None]
    lowest = min((score.value for _, score in scores), default=None)
    hip_class = _hip_class(lowest)
    graded = [v for v in vertebrae if v.fracture is not None]
    fractured = [v for v in graded if _counts(v)]
    unsure = [v for v in graded if v.fracture is not None and v.fracture.genant_grade and not _counts(v)]
    fracture_words = ", ".join(f"{v.level or v.name} grade {v.fracture.genant_grade}" for v in fractured if v.fracture)

    if spine is not None and spine.vbmd_mg_cm3 is not None:
        sure = _probability_at_or_below(spine.vbmd_mg_cm3, _OSTEOPOROSIS_MG_CM3)
        if spine.class_probabilities and limit_within_interval(spine.vbmd_mg_cm3):
            sure += f" (classes: {probability_words(spine.class_probabilities)})"
        spine_basis = f"{'-'.join(spine.levels)} {format_quantity(spine.vbmd_mg_cm3)}{sure}"
    else:
        spine_basis = "not measured"
    hip_basis = "; ".join(
        f"{f.side} {s.region.replace('_', ' ')} T {format_quantity(s)}{_probability_at_or_below(s, _OSTEOPOROSIS_T)}"
        f"{_hip_class_words(s)}"
        for f, s in scores
    )
    hip_basis = hip_basis or "not measured"
    rules = (
        Rule(
            rule="Vertebral trabecular density at or below 80 mg/cm3 K2HPO4",
            holds=None if spine_class is None else spine_class == "osteoporosis_range",
            basis=spine_basis,
            reference=spine.reference if spine is not None else None,
        ),
        Rule(
            rule="Hip T-score at or below -2.5",
            holds=None if hip_class is None else hip_class == "osteoporosis_range",
            basis=hip_basis,
            reference=_WHO,
        ),
        Rule(
            rule="Vertebral fracture of Genant grade 2 or more",
            holds=bool(fractured) if graded else None,
            basis=_fracture_basis(fracture_words, graded, unsure),
            reference="Genant semiquantitative grades",
        ),
    )
    classification = _classification(spine_class, hip_class, rules, age_years)
    return Assessment(
        classification=classification,
        statement=_statement(classification, rules, age_years),
        rules=rules,
        references=(RULE_REFERENCE,),
        basis=tuple(f"{rule.rule}: {rule.basis}" for rule in rules if rule.holds is not None),
        omitted=_omissions(vertebrae, femora, spine_class, hip_class, graded, age_years),
        spine_vbmd_mg_cm3=spine.vbmd_mg_cm3 if spine is not None else None,
        spine_vbmd_levels=spine.levels if spine is not None else (),
        spine_density_class=spine_class,
        spine_outlier_levels=spine.outlier_levels if spine is not None else (),
        l1_ct_number=spine.l1_hu if spine is not None else None,
        l1_ct_number_band=spine.l1_band if spine is not None else None,
        hip_density_class=hip_class,
    )


def _counts(vertebra: Vertebra) -> bool:
    """Whether a deformity enters the rule: grade 2 or more, and an outline that a grade can rest on."""
    if vertebra.fracture is None or vertebra.fracture.genant_grade < _CERTAIN_FRACTURE_GRADE:
        return False
    return not grade_needs_reader(vertebra)


def _fracture_basis(certain: str, graded: Sequence[Vertebra], unsure: Sequence[Vertebra]) -> str:
    if not graded:
        return "not measured"
    words = certain or f"{len(graded)} bodies graded, none"
    if unsure:
        names = ", ".join(v.level or v.name.removeprefix("vertebra_") for v in unsure)
        words += f"; for a reader to confirm: {names}"
    return words


def _probability_at_or_below(quantity: Quantity, limit: float) -> str:
    """How firmly a rule holds: the probability that the true value lies at or below the limit, in words."""
    if not quantity.uncertainty:
        return ""
    probability = NormalDist(quantity.value, quantity.uncertainty).cdf(limit)
    return f", probability of at most {limit:g}: {100 * probability:.0f} %"


def _hip_class_words(score: Quantity) -> str:
    """The probability of each WHO class where a limit between two lies inside the 95 % interval of a T-score; else nothing."""
    spread = score.uncertainty or 0.0
    if not any(abs(score.value - limit) <= 1.96 * spread for limit in (_OSTEOPOROSIS_T, _LOW_T)) or not spread:
        return ""
    below = [NormalDist(score.value, spread).cdf(limit) for limit in (_OSTEOPOROSIS_T, _LOW_T)]
    chances = (below[0], below[1] - below[0], 1.0 - below[1])
    return f" (classes: {probability_words(dict(zip(SPINE_CLASSES, chances, strict=True)))})"


def _hip_class(lowest_t: float | None) -> _Class | None:
    if lowest_t is None:
        return None
    # T-scores are read to one decimal, as the classes were defined.
    rounded = round(lowest_t, 1)
    if rounded <= _OSTEOPOROSIS_T:
        return "osteoporosis_range"
    return "low" if rounded < _LOW_T else "normal"


def _classification(
    spine_class: _Class | None, hip_class: _Class | None, rules: tuple[Rule, ...], age_years: float | None
) -> Literal["high", "increased", "not_increased", "not_determined"]:
    if age_years is not None and age_years < _FIRST_ADULT_YEAR:
        return "not_determined"
    if any(rule.holds for rule in rules):
        return "high"
    known = [c for c in (spine_class, hip_class) if c is not None]
    if "low" in known:
        return "increased"
    # "Not increased" is said only of a study in which both density and fractures were looked at.
    return "not_increased" if known and rules[2].holds is not None else "not_determined"


def _statement(classification: str, rules: tuple[Rule, ...], age_years: float | None) -> str:
    if age_years is not None and age_years < _FIRST_ADULT_YEAR:
        return f"Not classified: the rules are for adults, the patient is {age_years:.0f} years old."
    if classification == "not_determined":
        sites = ("spine density", "hip T-score", "vertebral fracture grades")
        missing = ", ".join(site for site, rule in zip(sites, rules, strict=True) if rule.holds is None)
        return f"Not classified: too little could be measured for the rules (missing: {missing})."
    if classification == "high":
        reasons = "; ".join(f"{rule.rule[0].lower()}{rule.rule[1:]} ({rule.basis})" for rule in rules if rule.holds)
        return f"{_how_high(rules)} by the rules used: {reasons}."
    if classification == "increased":
        return (
            "Increased fracture risk by the rules used: low bone mass at a measured site, no rule for high risk holds."
        )
    return "Not increased by density and fractures at the measured sites; strength was not classified."


def _how_high(rules: tuple[Rule, ...]) -> str:
    """The word for high risk; weaker when every rule that holds rests on a number close to its limit."""
    firm = [rule for rule in rules if rule.holds and not _borderline(rule)]
    return "High fracture risk" if firm else "Borderline high fracture risk"


def _borderline(rule: Rule) -> bool:
    """Whether a rule holds with less than the probability that would make it firm; a fracture carries no probability."""
    stated = [int(found) for found in _PROBABILITY.findall(rule.basis)]
    return bool(stated) and max(stated) < _FIRM_PERCENT


def _omissions(
    vertebrae: Sequence[Vertebra],
    femora: Sequence[Femur],
    spine_class: _Class | None,
    hip_class: _Class | None,
    graded: Sequence[Vertebra],
    age_years: float | None,
) -> tuple[Omission, ...]:
    omitted = []
    if any(v.strength_n is not None for v in vertebrae) or any(f.strength_n is not None for f in femora):
        omitted.append(
            Omission(
                part="strength",
                code="strength_not_cross_calibrated",
                reason="Published strength limits were validated for another program; no class is given to ours.",
            )
        )
    else:
        reasons = {b.not_measured["strength_n"].code for b in (*vertebrae, *femora) if "strength_n" in b.not_measured}
        unasked = "strength_not_asked" in reasons
        said = "Strength was not asked for." if unasked else "No strength test could be made."
        code = "strength_not_asked" if unasked else "strength_absent"
        omitted.append(Omission(part="strength", code=code, reason=said))
    if spine_class is None:
        omitted.append(
            Omission(part="spine density", code="spine_not_classified", reason="No vertebral density class.")
        )
    if hip_class is None:
        omitted.append(
            Omission(part="hip T-score", code="hip_not_classified", reason="No hip T-score could be measured.")
        )
    if not graded:
        omitted.append(
            Omission(part="fractures", code="fractures_not_graded", reason="No vertebral body could be graded.")
        )
    if hip_class is not None and (age_years is None or age_years < _T_SCORE_YEARS):
        which = "The age is not recorded" if age_years is None else f"The patient is {age_years:.0f} years old"
        reason = f"{which}; T-score classes are meant for 50 years and older, below that Z-scores apply."
        omitted.append(Omission(part="age", code="t_score_age", reason=reason))
    return tuple(omitted)
