"""Two records side by side: what counts as the same, what as different, and that nothing is left out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from reports.comparison import TOLERANCE_SD, Compared, Comparison, Verdict, compare_records
from reports.record import StudyRecord
from tests.reports.example_records import example_record, records

RECORD = example_record()


def changed(**parts: Any) -> StudyRecord:
    return RECORD.model_copy(update=parts)


def with_body(index: int, **parts: Any) -> StudyRecord:
    bodies = list(RECORD.vertebrae)
    bodies[index] = bodies[index].model_copy(update=parts)
    return changed(vertebrae=tuple(bodies))


def row(comparison: Comparison, name: str) -> Compared:
    return next(r for r in (*comparison.input, *comparison.results, *comparison.versions) if r.name == name)


DENSE = next(i for i, v in enumerate(RECORD.vertebrae) if v.vbmd_mg_cm3 is not None)
BODY = RECORD.vertebrae[DENSE]
PLACE = f"{BODY.name}.vbmd_mg_cm3"


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(records())
def test_a_record_is_reproduced_by_itself(record: StudyRecord) -> None:
    comparison = compare_records(record, record)
    assert comparison.reproduced
    assert {r.verdict for r in comparison.results} == {Verdict.SAME}


def test_every_number_of_the_record_is_compared() -> None:
    names = {r.name for r in compare_records(RECORD, RECORD).results}
    for structure in (*RECORD.vertebrae, *RECORD.femora):
        for key in ("vbmd_mg_cm3", "trabecular_hu", "strength_n", "stiffness_n_mm", "t_score"):
            assert (getattr(structure, key, None) is not None) == (f"{structure.name}.{key}" in names)
    assert {"calibration.slope_mg_cm3_per_hu", "assessment.classification", "services.0743T.supported"} <= names


@pytest.mark.parametrize(
    ("share_of_tolerance", "verdict"),
    [(0.0, Verdict.SAME), (0.5, Verdict.WITHIN_TOLERANCE), (-0.99, Verdict.WITHIN_TOLERANCE), (1.01, Verdict.DIFFERS)],
)
def test_a_number_may_differ_by_a_share_of_its_uncertainty(share_of_tolerance: float, verdict: Verdict) -> None:
    density = BODY.vbmd_mg_cm3
    assert density is not None and density.uncertainty is not None
    moved = density.value + share_of_tolerance * TOLERANCE_SD * density.uncertainty
    other = with_body(DENSE, vbmd_mg_cm3=density.model_copy(update={"value": moved}))
    comparison = compare_records(RECORD, other)
    assert row(comparison, PLACE).verdict is verdict
    assert comparison.reproduced == (verdict is not Verdict.DIFFERS)


def test_a_number_that_is_gone_is_missing_and_one_too_many_is_new() -> None:
    without = with_body(DENSE, vbmd_mg_cm3=None)
    assert row(compare_records(RECORD, without), PLACE).verdict is Verdict.MISSING
    assert row(compare_records(without, RECORD), PLACE).verdict is Verdict.NEW
    assert not compare_records(RECORD, without).reproduced
    fewer = changed(vertebrae=RECORD.vertebrae[1:])
    assert row(compare_records(RECORD, fewer), f"{RECORD.vertebrae[0].name}.status").verdict is Verdict.MISSING


def test_a_curve_is_compared_by_its_peak_and_its_points() -> None:
    femur = next(f for f in RECORD.femora if f.strength_n is not None and f.strength_n.curve)
    strength = femur.strength_n
    assert strength is not None
    bent = strength.model_copy(update={"curve": tuple((x, 1.2 * force) for x, force in strength.curve[:-1])})
    changed_femur = femur.model_copy(update={"strength_n": bent})
    comparison = compare_records(
        RECORD, changed(femora=tuple(changed_femur if f is femur else f for f in RECORD.femora))
    )
    different = {r.name for r in comparison.results if r.verdict is Verdict.DIFFERS}
    assert different == {f"{femur.name}.strength_n.curve_peak", f"{femur.name}.strength_n.curve_points"}


def test_the_same_figure_in_another_unit_is_another_result() -> None:
    density = BODY.vbmd_mg_cm3
    assert density is not None
    other = with_body(DENSE, vbmd_mg_cm3=density.model_copy(update={"unit": "mg/cm3 HA"}))
    assert row(compare_records(RECORD, other), PLACE).verdict is Verdict.DIFFERS


def test_a_class_has_no_tolerance() -> None:
    other = changed(assessment=RECORD.assessment.model_copy(update={"classification": "not_determined"}))
    assert row(compare_records(RECORD, other), "assessment.classification").verdict is Verdict.DIFFERS


def test_other_images_are_said_to_be_other_images() -> None:
    used = RECORD.series.used[0]
    for update in ({"content_sha256": "0" * 64}, {"sop_instance_uids": ("1.2.3",)}):
        section = RECORD.series.model_copy(update={"used": (used.model_copy(update=update), *RECORD.series.used[1:])})
        comparison = compare_records(RECORD, changed(series=section))
        assert not comparison.same_input and not comparison.reproduced


def test_another_version_explains_a_difference_but_is_none() -> None:
    other = changed(software=RECORD.software.model_copy(update={"version": "99.0", "dependencies": {"numpy": "99.0"}}))
    comparison = compare_records(RECORD, other)
    assert row(comparison, "openbct").verdict is Verdict.DIFFERS
    assert row(comparison, "numpy").recomputed == "99.0"
    assert comparison.reproduced


def test_the_comparison_speaks_json() -> None:
    content = compare_records(RECORD, RECORD).as_json()
    assert content["reproduced"] is True
    assert {"name", "verdict", "recorded", "recomputed", "unit"} <= set(content["results"][0])
