"""The overall classification: which rule sets it, how firmly, and what it never claims."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.assessment import assess
from pipeline.density.spine import SpineDensity
from reports.quantity import Quantity
from reports.record import Femur, Finding, Fracture, Score, Severity, Status, Vertebra

_MISSING = Finding(code="not_asked", severity=Severity.INFO, text="Not asked.")


def spine(mg_cm3: float, sd: float = 5.0) -> SpineDensity:
    mean = Quantity(value=mg_cm3, unit="mg/cm3 K2HPO4", uncertainty=sd, method="mean of L1 and L2")
    named = "osteoporosis" if mg_cm3 <= 80 else "low bone mass" if mg_cm3 < 120 else "normal"
    return SpineDensity(("L1", "L2"), mean, named, {}, (), "reference", ())


def body(grade: int, *codes: str) -> Vertebra:
    loss = Quantity(value=(0, 22, 30, 50)[grade], unit="%", uncertainty=3.0, method="test")
    fracture = Fracture(genant_grade=grade, deformity="wedge" if grade else "none", height_loss=loss)  # type: ignore[arg-type]
    keys = ("trabecular_hu", "vbmd_mg_cm3", "heights_mm", "strength_n", "stiffness_n_mm")
    findings = tuple(Finding(code=code, severity=Severity.WARNING, text="x") for code in codes)
    return Vertebra(
        name="vertebra_T12", level="T12", status=Status.WARNING if codes else Status.OK, findings=findings,
        fracture=fracture, not_measured=dict.fromkeys(keys, _MISSING),
    )  # fmt: skip


def hip(t: float, sd: float = 0.1) -> Femur:
    score = Score(value=t, unit="{T-score}", uncertainty=sd, method="test", region="total_hip", population="test")
    keys = ("abmd_g_cm2", "z_score", "strength_n", "stiffness_n_mm")
    return Femur(
        name="femur_left", side="left", status=Status.OK, t_score=score, t_scores={"total_hip": score},
        not_measured=dict.fromkeys(keys, _MISSING),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("bodies", "femora", "mean", "expected"),
    [
        ([body(0)], [hip(-0.5)], spine(150), "not_increased"),
        ([body(0)], [hip(-1.5)], spine(150), "increased"),
        ([body(0)], [], spine(100), "increased"),
        ([body(0)], [], spine(80), "high"),
        ([body(0)], [hip(-2.5)], None, "high"),
        ([body(0)], [hip(-2.46)], None, "high"),  # reads -2.5, as the classes were defined on
        ([body(2)], [], spine(150), "high"),
        ([body(1)], [], spine(150), "not_increased"),  # grade 1 by height alone is for a reader
        ([], [], None, "not_determined"),
        ([], [hip(-0.5)], None, "not_determined"),  # nobody looked for fractures
    ],
)
def test_the_rules(bodies: list[Vertebra], femora: list[Femur], mean: SpineDensity | None, expected: str) -> None:
    assert assess(bodies, femora, mean, age_years=70).classification == expected


@pytest.mark.parametrize("code", ["thick_slices", "thick_slices_heights", "outline_unstable"])
def test_a_deformity_on_an_unsure_outline_goes_to_a_reader(code: str) -> None:
    answer = assess([body(3, code)], [], spine(150), age_years=70)
    assert answer.classification == "not_increased"
    assert "for a reader to confirm: T12" in answer.rules[2].basis


def test_a_number_close_to_its_limit_weakens_the_word_and_a_fracture_does_not() -> None:
    assert assess([body(0)], [], spine(79, sd=16), age_years=70).statement.startswith("Borderline high")
    assert assess([body(0)], [], spine(50, sd=10), age_years=70).statement.startswith("High")
    assert assess([body(2)], [], spine(79, sd=16), age_years=70).statement.startswith("High")


def test_strength_enters_no_class_and_children_get_none() -> None:
    answer = assess([body(0)], [hip(-0.5)], spine(150), age_years=70)
    assert any(omitted.part == "strength" for omitted in answer.omitted)
    assert assess([body(2)], [hip(-3.0)], spine(60), age_years=12).classification == "not_determined"


def test_the_probability_of_every_class_stands_beside_a_class_that_its_interval_leaves_open() -> None:
    unsure = replace(
        spine(100, sd=18), class_probabilities={"osteoporosis": 0.13, "low bone mass": 0.74, "normal": 0.13}
    )
    answer = assess([body(0)], [hip(-1.2, sd=0.8)], unsure, age_years=70)
    assert "(classes: osteoporosis 13 %, low bone mass 74 %, normal 13 %)" in answer.rules[0].basis
    # Normal distribution about -1.2 with 0.8: -2.5 lies 1.625 and -1.0 lies 0.25 standard deviations away.
    assert "(classes: osteoporosis 5 %, low bone mass 55 %, normal 40 %)" in answer.rules[1].basis
    firm = replace(spine(100, sd=4), class_probabilities={"osteoporosis": 0.0, "low bone mass": 1.0, "normal": 0.0})
    assert "classes" not in assess([body(0)], [hip(-1.6)], firm, age_years=70).rules[0].basis
    assert "classes" not in assess([body(0)], [hip(-1.6)], firm, age_years=70).rules[1].basis


def test_l1_and_levels_that_stand_out_are_handed_on() -> None:
    l1 = Quantity(value=95.0, unit="[hnsf'U]", uncertainty=4.0, method="elliptical cylinder at mid height")
    summary = replace(spine(90), l1_hu=l1, l1_band="below_100", outlier_levels=("L3",))
    made = assess([body(0)], [], summary, age_years=70)
    assert (made.l1_ct_number, made.l1_ct_number_band, made.spine_outlier_levels) == (l1, "below_100", ("L3",))
    assert assess([body(0)], [], None, age_years=70).l1_ct_number is None


@pytest.mark.parametrize(
    ("reason", "code"), [("no_load_carried", "strength_absent"), ("strength_not_asked", "strength_not_asked")]
)
def test_a_strength_that_nobody_asked_for_is_not_called_impossible(reason: str, code: str) -> None:
    missing = Finding(code=reason, severity=Severity.INFO, text="x")
    one = body(0)
    vertebra = one.model_copy(update={"not_measured": {**one.not_measured, "strength_n": missing}})
    omitted = {o.part: o.code for o in assess([vertebra], [], None, age_years=70).omitted}
    assert omitted["strength"] == code
