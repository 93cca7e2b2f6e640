"""The FHIR bundle is valid R4B, its references resolve, and it holds the numbers of the record."""

from __future__ import annotations

import json

import pytest

from reports.fhir import fhir_bundle, fhir_text
from reports.record import StudyRecord
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
    assert observations["vertebra-L1-vbmd"]["valueQuantity"]["value"] == record.vertebrae[0].vbmd_mg_cm3.value
    assert observations["vertebra-L1-vbmd"]["valueQuantity"]["code"] == "mg/cm3"
    assert observations["femur-left-strength"]["dataAbsentReason"]["text"] == "The level is outside the scan."
    assert "valueQuantity" not in observations["femur-left-strength"]


def test_a_report_by_software_stays_preliminary_and_carries_no_dxa_code(record: StudyRecord) -> None:
    text = json.dumps(fhir_bundle(record))
    assert '"status": "preliminary"' in text and '"final"' not in text
    for dxa in ("24701-5", "38263-0", "38267-1"):
        assert dxa not in text
