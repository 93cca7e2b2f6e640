"""Which service the data support, and what is named as missing."""

from __future__ import annotations

import datetime as dt

import pytest

from reports.coverage import load_knowledge
from reports.coverage.services import other_services, services_of
from reports.record import Finding, Fracture, Service, Status, Strength, StudyRecord, Vertebra
from tests.reports.example_records import example_record as dense_example
from tests.reports.test_dicom import example_record, quantity

KNOWLEDGE = load_knowledge()


def services(record: StudyRecord) -> dict[str, Service]:
    found = services_of(
        record.vertebrae,
        record.femora,
        record.assessment,
        record.study,
        record.software,
        knowledge=KNOWLEDGE,
        date_of_service=dt.date(2025, 6, 1),
    )
    return {service.cpt: service for service in found}


def with_l1(**numbers: object) -> StudyRecord:
    record = example_record()
    l1 = record.vertebrae[0]
    missing = {key: finding for key, finding in l1.not_measured.items() if key not in numbers}
    changed = Vertebra.model_validate({**dict(l1), **numbers, "not_measured": missing})
    return record.model_copy(update={"vertebrae": (changed, *record.vertebrae[1:])})


FRACTURE = Fracture(genant_grade=1, deformity="wedge", height_loss=quantity(22.0, "%"))
STRENGTH = Strength(
    value=3200.0, unit="N", uncertainty=300.0, method="FE", test="spine-compression", profile="kopperdahl2002"
)


def test_density_alone_supports_neither() -> None:
    answer = services(example_record())
    assert not answer["0691T"].supported and not answer["0743T"].supported
    assert any("fracture" in reason for reason in answer["0691T"].reasons)


def test_a_fracture_analysis_supports_0691t_only_and_the_missing_strength_is_named() -> None:
    answer = services(with_l1(fracture=FRACTURE))
    assert answer["0691T"].supported
    assert not answer["0743T"].supported
    assert any("strength" in reason for reason in answer["0743T"].reasons)


def test_strength_without_fracture_assessment_does_not_support_0743t() -> None:
    answer = services(with_l1(strength_n=STRENGTH))
    assert not answer["0743T"].supported
    assert any("fracture" in reason for reason in answer["0743T"].reasons)


def test_both_on_one_ct_are_flagged_and_interpretation_stays_open_until_signed() -> None:
    record = with_l1(fracture=FRACTURE, strength_n=STRENGTH)
    assessment = record.assessment.model_copy(update={"classification": "not_increased"})
    record = record.model_copy(update={"assessment": assessment})
    answer = services(record)
    assert answer["0691T"].supported and answer["0743T"].supported
    assert any("do not report both" in reason for reason in answer["0743T"].reasons)
    assert any("not signed" in missing for missing in answer["0743T"].missing)


def test_each_service_carries_its_coverage_with_a_filled_checklist() -> None:
    service = services(with_l1(fracture=FRACTURE))["0691T"]
    assert service.coverage is not None
    assert service.coverage.status == "NOT_COVERED"
    attached = next(i for i in service.coverage.checklist if i["item"].startswith("Concurrent vertebral"))
    assert attached["met"] == "yes"


def test_a_refused_study_names_the_reason() -> None:
    record = example_record()
    refused = record.model_copy(update={"vertebrae": (record.vertebrae[1],)})
    assert refused.vertebrae[0].status is Status.FAILED
    assert any("no vertebra passed quality control" in r for r in services(refused)["0691T"].reasons)


def strong_and_graded() -> StudyRecord:
    record = with_l1(fracture=FRACTURE, strength_n=STRENGTH)
    assessment = record.assessment.model_copy(update={"classification": "increased", "statement": "Increased risk."})
    return record.model_copy(update={"assessment": assessment})


def test_overlap_is_a_flag_and_the_reason_names_what_is_supported_instead() -> None:
    assert all(s.review == ("OVERLAP_REVIEW",) for s in services(strong_and_graded()).values())
    answer = services(with_l1(fracture=FRACTURE))
    assert answer["0691T"].review == () == answer["0743T"].review
    assert any("support 0691T only" in r and "quality control" in r for r in answer["0743T"].reasons)


def test_each_missing_element_of_0743t_is_named() -> None:
    missing = " ".join(services(example_record().model_copy(update={"vertebrae": ()}))["0743T"].missing).lower()
    for element in ("bone strength", "bone density", "vertebral fracture", "overall", "interpretation"):
        assert element in missing


def test_a_hip_only_study_never_supports_0743t() -> None:
    femur = next(f for f in dense_example().femora if f.strength_n is not None)
    hip_only = dense_example().model_copy(update={"vertebrae": (), "femora": (femur,)})
    answer = services(hip_only)
    assert not answer["0743T"].supported and not answer["0691T"].supported
    assert any("no vertebra in view" in r for r in answer["0743T"].reasons)
    older = {o.cpt: o for o in other_services(tuple(answer.values()))}
    assert older["0554T"].applies == "for_a_coder" and older["0556T"].applies == "for_a_coder"


def test_the_older_family_is_never_proposed_beside_0743t() -> None:
    older = {o.cpt: o for o in other_services(tuple(services(strong_and_graded()).values()))}
    assert "never both" in older["0554T"].reason and "never reported with it" in older["0555T"].reason
    assert older["0558T"].applies == "no"
    lacking = {o.cpt: o for o in other_services(tuple(services(example_record()).values()))}
    assert lacking["0554T"].applies == "no" and "bone strength" in lacking["0554T"].reason


def test_codes_of_other_imaging_are_named_with_one_line_why() -> None:
    for record in (example_record(), strong_and_graded()):
        older = {o.cpt: o for o in other_services(tuple(services(record).values()))}
        assert older["0750T"].applies == "no" == older["0815T"].applies
        assert "hand" in older["0750T"].reason and "ultrasound" in older["0815T"].reason


def test_the_checklist_says_what_the_study_knows() -> None:
    record = with_l1(fracture=FRACTURE)
    dated = record.model_copy(update={"study": record.study.model_copy(update={"study_date": "2024-02-29"})})
    coverage = services(dated)["0691T"].coverage
    assert coverage is not None
    items = {item["code"]: item for item in coverage.checklist}
    assert items["software"]["met"] == "yes" and items["interpretation"]["met"] == "no"
    assert items["existing_ct"]["met"] == "unknown" and "CT of 2024-02-29" in items["existing_ct"]["basis"]
    assert items["rationale"]["met"] == "unknown" == items["plan"]["met"]
    assert "CHECKLIST_INCOMPLETE" in {warning["code"] for warning in coverage.warnings if isinstance(warning, dict)}


WHOLE = strong_and_graded()
UNMEASURED = Finding(code="not_asked_for", severity="info", text="Not asked for.")  # type: ignore[arg-type]


def without(*keys: str) -> StudyRecord:
    """The whole study without some of the numbers of its bodies."""
    bodies = []
    for body in WHOLE.vertebrae:
        gone = {key: None for key in keys if getattr(body, key) is not None}
        reasons = {**body.not_measured, **dict.fromkeys(gone, UNMEASURED)}
        bodies.append(Vertebra.model_validate({**dict(body), **gone, "not_measured": reasons}))
    return WHOLE.model_copy(update={"vertebrae": tuple(bodies)})


UNDETERMINED = WHOLE.model_copy(
    update={
        "assessment": WHOLE.assessment.model_copy(update={"classification": "not_determined", "statement": "No rule."})
    }
)
NO_BONE = WHOLE.model_copy(update={"vertebrae": (), "femora": ()})


@pytest.mark.parametrize(
    ("record", "supports", "named"),
    [
        (WHOLE, {"0691T", "0743T"}, ()),
        (without("fracture"), set(), ("vertebral fracture result per level",)),
        (without("strength_n"), {"0691T"}, ("bone strength by finite elements",)),
        (without("vbmd_mg_cm3"), {"0691T"}, ("bone density",)),
        (UNDETERMINED, {"0691T"}, ("overall fracture-risk assessment",)),
        (without("strength_n", "vbmd_mg_cm3"), {"0691T"}, ("bone strength by finite elements", "bone density")),
        (NO_BONE, set(), ("scan data retrieved", "vertebral fracture", "bone strength", "bone density")),
    ],
    ids=["whole", "no fracture", "no strength", "no density", "no risk", "neither", "nothing"],
)
def test_each_element_that_is_missing_is_named(record: StudyRecord, supports: set[str], named: tuple[str, ...]) -> None:
    answer = services(record)
    assert {cpt for cpt, service in answer.items() if service.supported} == supports
    for name in named:
        assert name in " ".join(answer["0743T"].missing).lower()
        assert name in answer["0743T"].reasons[0].lower()
    others = {"bone strength", "bone density", "overall fracture-risk", "vertebral fracture"}
    for name in others - {n for n in others if any(n in wanted for wanted in named)}:
        if supports:  # nothing that is there is called missing
            assert name not in " ".join(m.lower().partition(":")[0] for m in answer["0743T"].missing)
    both = len(supports) == 2
    assert all((s.review == ("OVERLAP_REVIEW",)) == both for s in answer.values())
    neighbours = {o.cpt: o for o in other_services(tuple(answer.values()))}
    assert set(neighbours) == {"0554T", "0555T", "0556T", "0557T", "0558T", "0749T", "0750T", "0815T"}
    assert all("\n" not in o.reason and o.reason.endswith(".") for o in neighbours.values())
