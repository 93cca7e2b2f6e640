"""The overall classification: each row of the published rule, and what it leaves out."""

from __future__ import annotations

import pytest

from reports.assessment import assess, spine_density, t_score_class, vbmd_class
from reports.record import Femur, Fracture, Score, Vertebra
from tests.reports.example_records import VBMD_UNIT, WOMEN, finding, quantity

ABSENT = finding("not_asked_for", "info", "Not asked for.")


def vertebra(level: str, vbmd: float | None, grade: int | None = 0, uncertainty: float | None = 6.0) -> Vertebra:
    numbers = {
        "vbmd_mg_cm3": None if vbmd is None else quantity(vbmd, uncertainty, VBMD_UNIT, "mean"),
        "fracture": None
        if grade is None
        else Fracture(
            genant_grade=grade,
            deformity="wedge" if grade else "none",
            height_loss=quantity(10.0 * grade, 3.0, "%", "six-point"),
        ),
    }
    keys = ("trabecular_hu", "heights_mm", "strength_n", "stiffness_n_mm")
    absent = [*keys, *(key for key, number in numbers.items() if number is None)]
    return Vertebra.model_validate(
        {"name": f"vertebra_{level}", "level": level, "status": "ok", "not_measured": dict.fromkeys(absent, ABSENT)}
        | numbers
    )


def hip(t_score: float) -> Femur:
    score = Score(
        value=t_score, unit="{T-score}", uncertainty=0.4, method="T", region="femoral_neck", population=WOMEN
    )  # fmt: skip
    keys = ("abmd_g_cm2", "z_score", "strength_n", "stiffness_n_mm")
    return Femur.model_validate(
        {
            "name": "femur_left",
            "side": "left",
            "status": "ok",
            "t_score": score,
            "not_measured": dict.fromkeys(keys, ABSENT),
        }
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [(79.9, "osteoporosis_range"), (80.0, "osteoporosis_range"), (80.1, "low"), (119.9, "low"), (120.0, "normal")],
)
def test_spine_classes_have_the_published_edges(value: float, expected: str) -> None:
    assert vbmd_class(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(-2.5, "osteoporosis_range"), (-2.49, "low"), (-1.01, "low"), (-1.0, "normal")]
)
def test_hip_classes_have_the_published_edges(value: float, expected: str) -> None:
    assert t_score_class(value) == expected


@pytest.mark.parametrize(
    ("bodies", "hips", "expected"),
    [
        ([("L1", 70.0, 0)], [], "high"),
        ([("L1", 140.0, 0)], [-2.6], "high"),
        ([("L1", 140.0, 0), ("T8", None, 2)], [0.0], "high"),
        ([("L1", 100.0, 0)], [0.0], "increased"),
        ([("L1", 140.0, 0), ("T8", None, 1)], [0.0], "increased"),
        ([("L1", 140.0, 0)], [0.0], "not_increased"),
        ([("L1", 140.0, None)], [0.0], "not_determined"),  # normal density alone does not rule a fracture out
        ([("L1", None, 0)], [], "not_determined"),  # nor do intact bodies alone rule low density out
        ([], [], "not_determined"),
        ([], [-3.0], "high"),
    ],
)
def test_rule(bodies: list[tuple[str, float | None, int | None]], hips: list[float], expected: str) -> None:
    assessment = assess([vertebra(*body) for body in bodies], [hip(t) for t in hips])
    assert assessment.classification == expected


def test_strength_is_always_named_as_left_out() -> None:
    assert [o.part for o in assess([vertebra("L1", 140.0)], [hip(0.0)]).omitted] == ["bone strength"]
    parts = [o.part for o in assess([], []).omitted]
    assert parts == ["bone strength", "spine density", "hip T-score", "vertebral fracture"]


def test_spine_density_prefers_l1_and_l2_and_leaves_fractured_bodies_out() -> None:
    bodies = [vertebra("T12", 90.0), vertebra("L1", 100.0), vertebra("L2", 110.0), vertebra("L3", 120.0)]
    mean, levels = spine_density(bodies)
    assert mean is not None
    assert (mean.value, levels) == (105.0, ("L1", "L2"))
    mean, levels = spine_density([vertebra("T12", 90.0), vertebra("L1", 300.0, 2), vertebra("L2", 110.0)])
    assert mean is not None
    assert (mean.value, levels) == (100.0, ("T12", "L2"))
    assert spine_density([vertebra("T11", 90.0), vertebra("L4", 90.0)]) == (None, ())


def test_levels_share_their_calibration_so_averaging_does_not_shrink_the_uncertainty() -> None:
    mean, _ = spine_density([vertebra("L1", 100.0, uncertainty=6.0), vertebra("L2", 110.0, uncertainty=8.0)])
    assert mean is not None
    assert mean.uncertainty == pytest.approx(7.0)
    mean, _ = spine_density([vertebra("L1", 100.0, uncertainty=6.0), vertebra("L2", 110.0, uncertainty=None)])
    assert mean is not None
    assert mean.uncertainty is None
    assert mean.uncertainty_reason
