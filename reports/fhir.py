"""FHIR R4 bundle of a study record: ImagingStudy, Device, one Observation per quantity, DiagnosticReport.

The JSON is written directly: the resources are few and small, and the tests validate them with ``fhir.resources`` (R4B, whose
content is the same for these resources). Nothing here says that a payer decided anything: coverage is text in an extension.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid5

from reports.quantity import Quantity
from reports.record import Coverage, Femur, Score, Status, StudyRecord, Vertebra

CODE_SYSTEM = "urn:openbct:fhir:code-system:quantities"
COVERAGE_EXTENSION = "urn:openbct:fhir:extension:coverage-status"
UNCERTAINTY_EXTENSION = "urn:openbct:fhir:extension:standard-uncertainty"

_NAMESPACE = UUID("0d9f7a52-53a5-4b0c-9c0f-1d5f0a5e3b11")

QUANTITIES = {
    "trabecular_hu": "Mean trabecular attenuation",
    "vbmd": "Volumetric bone mineral density",
    "spine_vbmd": "Volumetric bone mineral density of the spine, mean of levels",
    "height_anterior": "Anterior height of vertebral body",
    "height_middle": "Middle height of vertebral body",
    "height_posterior": "Posterior height of vertebral body",
    "height_loss": "Height loss of vertebral body",
    "genant_grade": "Genant grade",
    "abmd": "Areal bone mineral density from CT",
    "bmc": "Bone mineral content from CT",
    "area": "Projected area of bone from CT",
    "abmd_hologic": "Areal bone mineral density from CT, on the scale of Hologic devices",
    "abmd_lunar": "Areal bone mineral density from CT, on the scale of Lunar devices",
    "t_score": "T-score from CT",
    "t_score_male": "T-score from CT against young men, unverified reference",
    "z_score": "Z-score from CT",
    "strength": "Bone strength by finite elements",
    "stiffness": "Bone stiffness by finite elements",
}
"""Codes of the project's own code system. DXA codes of LOINC are not used: a receiver would file the values as DXA."""

_UCUM = {
    "HU": "[hnsf'U]",
    "[hnsf'U]": "[hnsf'U]",
    "N": "N",
    "N/mm": "N/mm",
    "mm": "mm",
    "%": "%",
    "g/cm2": "g/cm2",
    "g": "g",
    "cm2": "cm2",
    "mg/cm3": "mg/cm3",
    "1": "1",
    "deg": "deg",
}


def fhir_bundle(record: StudyRecord, *, pdf_url: str | None = "report.pdf") -> dict[str, Any]:
    """The record as a FHIR R4 ``collection`` bundle, ready for ``json.dumps``.

    Parameters
    ----------
    record : StudyRecord
    pdf_url : str, optional
        Relative location of the PDF report, None to leave it out.
    """
    study_url = _url(record, "imaging-study")
    device_url = _url(record, "device")
    structures: tuple[Vertebra | Femur, ...] = (*record.vertebrae, *record.femora)
    observations = [
        _observation(record, structure, study_url, device_url, **row)
        for structure in structures
        for row in _rows(structure)
    ]
    spine = record.assessment.spine_vbmd_mg_cm3
    if spine is not None:
        observations.append(_spine_observation(record, spine, study_url, device_url))
    report: dict[str, Any] = {
        "resourceType": "DiagnosticReport",
        "status": "preliminary",
        "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "RAD"}]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": "18748-4", "display": "Diagnostic imaging study"}]},
        "subject": _subject(record),
        "effectiveDateTime": record.study.report_date,
        "imagingStudy": [{"reference": study_url}],
        "conclusion": f"{record.assessment.statement} Research use only; unsigned.",
    }
    if observations:
        report["result"] = [{"reference": _url(record, o["id"])} for o in observations]
    if pdf_url:
        report["presentedForm"] = [{"contentType": "application/pdf", "url": pdf_url}]
    if coverage := [_coverage(s.cpt, s.coverage) for s in record.services if s.coverage is not None]:
        report["extension"] = coverage
    resources = [_imaging_study(record), _device(record), *observations, report]
    ids = ["imaging-study", "device", *[o["id"] for o in observations], "report"]
    return {
        "resourceType": "Bundle",
        "type": "collection",
        "identifier": {"system": "urn:ietf:rfc:3986", "value": _url(record, "bundle")},
        "entry": [
            {"fullUrl": _url(record, name), "resource": {**resource, "id": name}}
            for name, resource in zip(ids, resources, strict=True)
        ],
    }


def _coverage(cpt: str, coverage: Coverage) -> dict[str, Any]:
    """Coverage of one service in words, with its status and the policy edition it rests on as codes of our own.

    A ClaimResponse or CoverageEligibilityResponse would say that a payer had answered.
    """
    parts = [{"url": "service", "valueString": cpt}, {"url": "status", "valueCode": coverage.status}]
    for name, value in (
        ("lastKnownStatus", coverage.last_known_status),
        ("payer", coverage.payer),
        ("policy", coverage.policy),
        ("edition", getattr(coverage, "edition", None)),
    ):
        if value:
            parts.append({"url": name, "valueString": str(value)})
    if coverage.date_of_service:
        parts.append({"url": "dateOfService", "valueDate": coverage.date_of_service})
    parts.append({"url": "text", "valueMarkdown": coverage.text})
    return {"url": COVERAGE_EXTENSION, "extension": parts}


def fhir_text(record: StudyRecord) -> str:
    """The bundle as JSON text."""
    return json.dumps(fhir_bundle(record), indent=1, ensure_ascii=False) + "\n"


def _url(record: StudyRecord, name: str) -> str:
    return f"urn:uuid:{uuid5(_NAMESPACE, f'{record.study.key}/{name}')}"


def _subject(record: StudyRecord) -> dict[str, Any]:
    """A logical reference by pseudonym; the receiving system knows the patient by the study, not by us."""
    return {"type": "Patient", "identifier": {"value": record.study.patient_reference or record.study.key}}


def _imaging_study(record: StudyRecord) -> dict[str, Any]:
    study: dict[str, Any] = {
        "resourceType": "ImagingStudy",
        "status": "available",
        "subject": _subject(record),
        "modality": [{"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "CT"}],
    }
    if record.study.study_uid:
        study["identifier"] = [{"system": "urn:dicom:uid", "value": f"urn:oid:{record.study.study_uid}"}]
    if record.study.study_date:
        study["started"] = record.study.study_date
    series = [
        {
            "uid": used.series_uid,
            "modality": {"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "CT"},
            "numberOfInstances": len(used.sop_instance_uids),
        }
        for used in record.series.used
        if used.series_uid
    ]
    if series:
        study["series"] = series
    return study


def _device(record: StudyRecord) -> dict[str, Any]:
    return {
        "resourceType": "Device",
        "deviceName": [{"name": "openbct (research software, not a medical device)", "type": "manufacturer-name"}],
        "version": [{"value": record.software.version}],
    }


def _rows(structure: Vertebra | Femur) -> list[dict[str, Any]]:
    """What there is to say about a structure: code, optional part of the bone, and a quantity or the reason for its absence."""
    rows: list[dict[str, Any]] = []

    def add(code: str, key: str, quantity: Quantity | None, part: str | None = None) -> None:
        rows.append({"code": code, "key": key, "quantity": quantity, "part": part})

    if isinstance(structure, Vertebra):
        add("trabecular_hu", "trabecular_hu", structure.trabecular_hu)
        add("vbmd", "vbmd_mg_cm3", structure.vbmd_mg_cm3)
        heights = structure.heights_mm
        for part in ("anterior", "middle", "posterior"):
            add(f"height_{part}", "heights_mm", getattr(heights, part) if heights else None)
        fracture = structure.fracture
        add("height_loss", "fracture", fracture.height_loss if fracture else None)
        if fracture is not None:
            rows.append({"code": "genant_grade", "key": "fracture", "quantity": None, "part": None, "grade": fracture})
    else:
        density = structure.abmd_g_cm2
        for region in ("total_hip", "femoral_neck", "trochanter", "intertrochanter"):
            add("abmd", "abmd_g_cm2", getattr(density, region) if density else None, region)
        for code, key, beside in (
            ("bmc", "bmc_g", structure.bmc_g),
            ("area", "area_cm2", structure.area_cm2),
            (f"abmd_{structure.dxa_scale}", "dxa_scale_abmd_g_cm2", structure.dxa_scale_abmd_g_cm2),
        ):
            for region, number in beside or ():
                if number is not None:  # the reason for an absent one stands with the areal density
                    add(code, key, number, region)
        for code, scores in (
            ("t_score", structure.t_scores),
            ("t_score_male", structure.male_reference_t_scores),
            ("z_score", structure.z_scores),
        ):
            for region, score in scores.items():
                add(code, code, score, region)
    add("strength", "strength_n", structure.strength_n)
    add("stiffness", "stiffness_n_mm", structure.stiffness_n_mm)
    for test in structure.other_tests:
        add("strength", "strength_n", test.strength_n, test.strength_n.test)
        if test.stiffness_n_mm is not None:
            add("stiffness", "stiffness_n_mm", test.stiffness_n_mm, test.strength_n.test)
    for key, number in structure.further.items():
        add(key, f"further.{key}", number)
    return rows


def _observation(
    record: StudyRecord,
    structure: Vertebra | Femur,
    study_url: str,
    device_url: str,
    *,
    code: str,
    key: str,
    quantity: Quantity | None,
    part: str | None,
    grade: Any = None,
) -> dict[str, Any]:
    site = structure.name + (f" {part}" if part else "")
    name = "-".join(x for x in (structure.name, code, part) if x).replace("_", "-")
    observation = _empty_observation(record, name, code, site.replace("_", " "), study_url, device_url)
    if grade is not None:
        observation["valueCodeableConcept"] = {
            "coding": [{"system": CODE_SYSTEM, "code": f"genant-{grade.genant_grade}"}],
            "text": f"Genant grade {grade.genant_grade}, deformity {grade.deformity}",
        }
    elif quantity is not None:
        observation["valueQuantity"] = _value(quantity)
        observation["method"] = {"text": quantity.method}
    else:
        reason = structure.reason_for(key)
        failed = structure.status is Status.FAILED
        observation["dataAbsentReason"] = {
            "coding": [
                {
                    "system": "http://terminology.hl7.org/CodeSystem/data-absent-reason",
                    "code": "error" if failed else "not-performed",
                }
            ],
            "text": reason.text if reason else "not measured",
        }
    return observation


def _value(quantity: Quantity) -> dict[str, Any]:
    value: dict[str, Any] = {"value": quantity.value, "unit": quantity.unit}
    first = quantity.unit.split(" ", 1)[0] if quantity.unit else ""
    ucum = quantity.unit if isinstance(quantity, Score) else _UCUM.get(first)
    if ucum:
        value |= {"system": "http://unitsofmeasure.org", "code": ucum}
    if quantity.uncertainty is not None:
        value["extension"] = [{"url": UNCERTAINTY_EXTENSION, "valueDecimal": quantity.uncertainty}]
    return value


def _empty_observation(
    record: StudyRecord, name: str, code: str, site: str, study_url: str, device_url: str
) -> dict[str, Any]:
    """What every observation says, without its value."""
    display = QUANTITIES.get(code) or code.replace("_", " ")  # an additional measure is called by its name
    return {
        "resourceType": "Observation",
        "id": name,
        "status": "preliminary",
        "category": [
            {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "imaging"}]}
        ],
        "code": {
            "coding": [{"system": CODE_SYSTEM, "code": code, "display": display}],
            "text": display,
        },
        "subject": _subject(record),
        "effectiveDateTime": record.study.report_date,
        "bodySite": {"text": site},
        "device": {"reference": device_url},
        "derivedFrom": [{"reference": study_url}],
    }


def _spine_observation(record: StudyRecord, density: Quantity, study_url: str, device_url: str) -> dict[str, Any]:
    levels = " and ".join(record.assessment.spine_vbmd_levels)
    observation = _empty_observation(record, "spine-vbmd", "spine_vbmd", f"spine, {levels}", study_url, device_url)
    return observation | {"valueQuantity": _value(density), "method": {"text": density.method}}
