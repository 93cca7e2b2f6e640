"""The FHIR bundle is valid R4B, its references resolve, and it holds the numbers of the record."""

from __future__ import annotations

import json

import pytest

from reports.fhir import fhir_bundle, fhir_text
from reports.record import StudyRecord
from tests.reports.example_records import example_record as whole_study
from tests.reports.test_dicom import example_record

fhir_bundle_model = pytest.importorskip("fhir.resources.R4B.bundle", reason="pip install openbct[fhir]")


@pytest.fixture(scope="module")
def record() -> StudyRecord:
    return example_record()


def test_the_bundle_validates_as_r4b(record: StudyRecord) -> None:
    fhir_bundle_model.Bundle.model_validate_json(fhir_text(record))


def test_every_reference_resolves_inside_the_bundle(record: StudyRecord) -> None:
    bundle = fhir_bundle(record)
    urls = {entry["fullUrl"] for entry in bundle["entry"]}

    def references(node: object) -> list[str]:
        if isinstance(node, dict):
            own = [node["reference"]] if isinstance(node.get("reference"), str) else []
            return own + [r for value in node.values() for r in references(value)]
        return [r for item in node for r in references(item)] if isinstance(node, list) else []

    assert references(bundle)
    assert set(references(bundle)) <= urls


def test_numbers_and_reasons_for_their_absence(record: StudyRecord) -> None:
    observations = {e["resource"]["id"]: e["resource"] for e in fhir_bundle(record)["entry"]}
    density = record.vertebrae[0].vbmd_mg_cm3
    assert density is not None
    assert observations["vertebra-L1-vbmd"]["valueQuantity"]["value"] == density.value
    assert observations["vertebra-L1-vbmd"]["valueQuantity"]["code"] == "mg/cm3"
    assert observations["femur-left-strength"]["dataAbsentReason"]["text"] == "The level is outside the scan."
    assert "valueQuantity" not in observations["femur-left-strength"]


def test_a_report_by_software_stays_preliminary_and_carries_no_dxa_code(record: StudyRecord) -> None:
    text = json.dumps(fhir_bundle(record))
    assert '"status": "preliminary"' in text and '"final"' not in text
    for dxa in ("24701-5", "38263-0", "38267-1"):
        assert dxa not in text


def test_coverage_is_said_in_words_with_status_and_edition_and_never_as_a_payers_answer() -> None:
    record = whole_study()
    bundle = fhir_bundle(record)
    report = next(e["resource"] for e in bundle["entry"] if e["resource"]["resourceType"] == "DiagnosticReport")
    said = [{part["url"]: part for part in extension["extension"]} for extension in report["extension"]]
    assert [parts["service"]["valueString"] for parts in said] == [s.cpt for s in record.services]
    for parts, service in zip(said, record.services, strict=True):
        assert service.coverage is not None
        assert parts["status"]["valueCode"] == service.coverage.status == "INDETERMINATE_STALE"
        assert parts["lastKnownStatus"]["valueString"] == "NOT_COVERED"
        assert parts["edition"]["valueString"] == "cigna-0300-2025-04-15"
        assert parts["text"]["valueMarkdown"] == service.coverage.text
    assert not {e["resource"]["resourceType"] for e in bundle["entry"]} & {
        "ClaimResponse",
        "CoverageEligibilityResponse",
    }
    fhir_bundle_model.Bundle.model_validate_json(fhir_text(record))
