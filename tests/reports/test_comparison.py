"""Two records side by side: what counts as the same, what as different, and that nothing is left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from pydantic import ValidationError

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


FEMUR = next(f for f in RECORD.femora if f.strength_n is not None and f.strength_n.curve)
CURVE = FEMUR.strength_n.curve  # type: ignore[union-attr]


def with_curve(curve: tuple[tuple[float, float], ...]) -> StudyRecord:
    assert FEMUR.strength_n is not None
    changed_femur = FEMUR.model_copy(update={"strength_n": FEMUR.strength_n.model_copy(update={"curve": curve})})
    return changed(femora=tuple(changed_femur if f is FEMUR else f for f in RECORD.femora))


def different(other: StudyRecord) -> set[str]:
    bad = (Verdict.DIFFERS, Verdict.MISSING, Verdict.NEW)
    comparison = compare_records(RECORD, other)
    return {r.name for r in (*comparison.input, *comparison.results) if r.verdict in bad}


@pytest.mark.parametrize("point", range(len(CURVE)))
def test_one_point_of_a_curve_that_moves_is_found_wherever_it_is(point: int) -> None:
    """The peak alone would miss all points but one."""
    peak = max(force for _, force in CURVE)
    for step, found in ((0.02 * peak, True), (0.0005 * peak, False)):
        moved = [*CURVE]
        moved[point] = (moved[point][0], moved[point][1] - step)
        assert different(with_curve(tuple(moved))) == ({f"{FEMUR.name}.strength_n.curve"} if found else set())


def test_a_curve_that_ends_elsewhere_or_has_other_points_is_another() -> None:
    stretched = tuple((1.1 * displacement, force) for displacement, force in CURVE)
    place = f"{FEMUR.name}.strength_n"
    assert different(with_curve(stretched)) == {f"{place}.curve", f"{place}.curve_end_mm"}
    halfway = ((CURVE[0][0] + CURVE[1][0]) / 2, (CURVE[0][1] + CURVE[1][1]) / 2)
    assert different(with_curve((CURVE[0], halfway, *CURVE[1:]))) == {f"{place}.curve_points"}


def test_a_curve_that_is_gone_is_missing() -> None:
    assert f"{FEMUR.name}.strength_n.curve" in different(with_curve(()))


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
    assert comparison.reproduced and comparison.other_program
    assert not compare_records(RECORD, RECORD).other_program


@pytest.mark.parametrize("key", ["iterations", "residual", "ensemble_seconds"])
def test_what_differs_from_machine_to_machine_is_left_out(key: str) -> None:
    assert FEMUR.strength_n is not None

    def solved(value: float) -> StudyRecord:
        strength = FEMUR.strength_n.model_copy(update={"model": {key: value, "dof": 100}})  # type: ignore[union-attr]
        changed_femur = FEMUR.model_copy(update={"strength_n": strength})
        return changed(femora=tuple(changed_femur if f is FEMUR else f for f in RECORD.femora))

    assert compare_records(solved(1.0), solved(7.0)).reproduced


def test_the_comparison_speaks_json() -> None:
    content = compare_records(RECORD, RECORD).as_json()
    assert content["reproduced"] is True
    assert {"name", "verdict", "recorded", "recomputed", "unit"} <= set(content["results"][0])


# Nothing in a record can be changed without being found


def numbers_in(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every number below `content`."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from numbers_in(value, (*path, key))
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from numbers_in(value, (*path, index))
    elif isinstance(content, int | float) and not isinstance(content, bool):
        yield path


CONTENT = json.loads(RECORD.model_dump_json())
# Not results: how long it took, versions and settings (a setting shows in the results), and what others say of coverage.
ELSEWHERE = {"timings_s", "software", "services", "schema_version"}
TAMPERED = [p for p in numbers_in(CONTENT) if p[0] not in ELSEWHERE and not {"curve", "rejected"} & {*p}]


def tampered_with(path: tuple[Any, ...]) -> Iterator[StudyRecord]:
    """The record with one number changed, as far as the record itself allows it."""
    content = json.loads(json.dumps(CONTENT))
    holder = content
    for step in path[:-1]:
        holder = holder[step]
    value = holder[path[-1]]
    for other in (value * 1.3 + 0.5, value * 0.7 - 0.5, value + 1, value - 1):
        holder[path[-1]] = round(other) if isinstance(value, int) else other
        if holder[path[-1]] == value:
            continue
        try:
            yield StudyRecord.model_validate(content)
        except ValidationError:
            continue


def test_any_single_number_that_is_changed_is_found() -> None:
    missed = []
    for path in TAMPERED:
        changed_record = next(tampered_with(path), None)
        if changed_record is not None and compare_records(changed_record, RECORD).reproduced:
            missed.append(path)
    assert len(TAMPERED) > 120 and {p[0] for p in TAMPERED} >= {"vertebrae", "femora", "calibration", "series", "study"}
    assert missed == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("fit 3.14 mm over 12 levels", "fit 3.15 mm over 12 levels", True),
        ("fit 3.14 mm over 12 levels", "fit 3.14 mm over 13 levels", False),
        ("fit 3.14 mm over 12 levels", "fit 4.14 mm over 12 levels", False),
        ("max 3071 HU", "max 3060 HU", True),
        ("max 3071 HU", "max 2071 HU", False),
        ("mild", "severe", False),
        ("3 of 4", "3 of 4 and more", False),
    ],
)
def test_a_sentence_is_compared_by_its_words_and_its_numbers(one: str, other: str, same: bool) -> None:
    density = BODY.vbmd_mg_cm3
    assert density is not None
    first, second = (with_body(DENSE, vbmd_mg_cm3=density.model_copy(update={"method": t})) for t in (one, other))
    assert compare_records(first, second).reproduced == same


def test_a_label_map_that_is_not_there_is_said_and_one_that_differs_counts() -> None:
    comparison = compare_records(RECORD, RECORD)
    row = Compared(name="segmentation.nii.gz", verdict=Verdict.NOT_COMPARED, recorded=None, recomputed=None)
    assert comparison.model_copy(update={"files": (row,)}).reproduced
    differs = row.model_copy(update={"verdict": Verdict.DIFFERS})
    assert not comparison.model_copy(update={"files": (row, differs)}).reproduced
