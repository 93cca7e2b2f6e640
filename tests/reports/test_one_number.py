"""One record, many renderings: every number stands in each of them, and all of them say the same.

Random records are rendered as record.json, HTML, PDF, cohort row, long table, DICOM Structured Report and FHIR bundle; each is
parsed back by the means of its own format and compared with the record.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections import Counter
from pathlib import Path

import highdicom as hd
import pydicom
import pytest
from hypothesis import given, settings

from reports.cohort import cohort_row, measurements
from reports.dicom import structured_report
from reports.fhir import fhir_text
from reports.html import render_html
from reports.pdf import render_pdf
from reports.quantity import format_quantity
from reports.record import Femur, StudyRecord, Vertebra, load_record, save_record
from tests.reports.example_records import example_record, records
from tests.reports.test_dicom import ORIENTATIONS, PROVENANCE, ct_headers, numeric_values
from tests.reports.test_renderings import FEW, _Page, pdf_text, reported_numbers, squeezed

FEWER = settings(FEW, max_examples=6)
HEADERS = ct_headers(*ORIENTATIONS["oblique"])


def machine_values(record: StudyRecord) -> Counter[float]:
    """Value and uncertainty of every number that machines are given, nine digits as a DICOM decimal string holds them."""
    numbers = [record.assessment.spine_vbmd_mg_cm3]
    structures: tuple[Vertebra | Femur, ...] = (*record.vertebrae, *record.femora)
    for structure in structures:
        numbers += [structure.strength_n, structure.stiffness_n_mm]
        for test in structure.other_tests:
            numbers += [test.strength_n, test.stiffness_n_mm]
        if isinstance(structure, Vertebra):
            numbers += [structure.trabecular_hu, structure.vbmd_mg_cm3]
            heights = structure.heights_mm
            numbers += [heights.anterior, heights.middle, heights.posterior] if heights else []
            numbers += [structure.fracture.height_loss] if structure.fracture else []
        else:
            regions = structure.abmd_g_cm2
            numbers += [getattr(regions, name) for name in type(regions).model_fields] if regions else []
            numbers += [*structure.t_scores.values(), *structure.z_scores.values()]
    found = [number for number in numbers if number is not None]
    values = [number.value for number in found] + [n.uncertainty for n in found if n.uncertainty is not None]
    return Counter(float(f"{value:.9g}") for value in values)


def fhir_values(text: str) -> Counter[float]:
    values = []
    for entry in json.loads(text)["entry"]:
        if quantity := entry["resource"].get("valueQuantity"):
            values += [quantity["value"], *(e["valueDecimal"] for e in quantity.get("extension", []))]
    return Counter(float(f"{value:.9g}") for value in values)


@FEWER
@given(records())
def test_every_rendering_says_the_same_numbers(record: StudyRecord) -> None:
    expected = machine_values(record)

    text = fhir_text(record)
    assert fhir_values(text) == expected

    report = structured_report(record, HEADERS, PROVENANCE, None)
    if report is None:
        assert not record.vertebrae and not record.femora
    else:
        buffer = io.BytesIO()
        report.save_as(buffer, enforce_file_format=True)
        buffer.seek(0)
        assert Counter(float(f"{v:.9g}") for v in numeric_values(pydicom.dcmread(buffer))) == expected

    html, pdf = _Page(render_html(record, Path("nowhere"))).text, pdf_text(render_pdf(record, Path("nowhere")))
    for number in reported_numbers(record):
        printed = squeezed(format_quantity(number, unit=False))
        assert printed in html and printed in pdf

    long = {(row["structure"], row["quantity"]): row.get("value") for row in measurements(record)}
    row = cohort_row(record)
    structures: tuple[Vertebra | Femur, ...] = (*record.vertebrae, *record.femora)
    for structure in structures:
        for key in ("strength_n", "stiffness_n_mm"):
            value = None if (number := getattr(structure, key)) is None else number.value
            assert long[structure.name, key] == value
            place = structure.level if isinstance(structure, Vertebra) else f"femur_{structure.side}"
            assert row[f"{str(place).lower()}_{key}"] == value


@FEWER
@given(records())
def test_a_record_read_back_from_its_file_renders_the_same(record: StudyRecord) -> None:
    with tempfile.TemporaryDirectory() as folder:
        again = load_record(save_record(record, Path(folder) / "record.json"))
    assert again == record
    assert fhir_text(again) == fhir_text(record) and render_html(again, Path("x")) == render_html(record, Path("x"))


def test_the_bundle_of_a_whole_study_validates_as_r4b() -> None:
    model = pytest.importorskip("fhir.resources.R4B.bundle", reason="pip install openbct[fhir]")
    model.Bundle.model_validate_json(fhir_text(example_record()))


def test_a_report_of_a_whole_study_is_read_by_highdicom(tmp_path: Path) -> None:
    report = structured_report(example_record(), HEADERS, PROVENANCE, None)
    assert report is not None
    report.save_as(tmp_path / "sr.dcm", enforce_file_format=True)
    read = hd.sr.srread(tmp_path / "sr.dcm")
    assert Counter(float(f"{v:.9g}") for v in numeric_values(read)) == machine_values(example_record())
