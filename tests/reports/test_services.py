"""Which service the data support, and what is named as missing."""

from __future__ import annotations

import datetime as dt

from reports.coverage import load_knowledge
from reports.coverage.services import services_of
from reports.record import Fracture, Service, Status, Strength, StudyRecord, Vertebra
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
