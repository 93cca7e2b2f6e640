"""One record, many renderings: every number stands in each of them with its uncertainty, and all of them say the same.

Random records are rendered as record.json, HTML, PDF, DICOM Structured Report, FHIR bundle, cohort table (CSV and Parquet) and
long table; each is parsed back by the means of its own format and compared with the record. That the comparison can fail is
tested too: a rendering of a record in which one number differs is found in every format.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import pyarrow.parquet as pq
import pydicom
import pytest
from hypothesis import given, settings

from reports.cohort import write_cohort
from reports.dicom import structured_report
from reports.fhir import fhir_text
from reports.html import render_html
from reports.pdf import render_pdf
from reports.quantity import Quantity, format_quantity
from reports.record import StudyRecord, Vertebra, load_record, save_record
from tests.reports.example_records import example_record, records
from tests.reports.test_dicom import ORIENTATIONS, PROVENANCE, ct_headers, numeric_values, walk
from tests.reports.test_renderings import FEW, _Page, pdf_text, reported_numbers, squeezed

FEWER = settings(FEW, max_examples=6)
HEADERS = ct_headers(*ORIENTATIONS["oblique"])
Place = tuple[str, str]
"""Structure and quantity: ``("vertebra_L1", "heights_mm.anterior")``."""


def numbers_of(record: StudyRecord) -> dict[Place, Quantity]:
    """Every number that machines are given, by its place."""
    found: dict[Place, Quantity | None] = {("spine", "vbmd_mg_cm3"): record.assessment.spine_vbmd_mg_cm3}
    for body in record.vertebrae:
        for key in ("trabecular_hu", "vbmd_mg_cm3", "strength_n", "stiffness_n_mm"):
            found[body.name, key] = getattr(body, key)
        for part in ("anterior", "middle", "posterior"):
            found[body.name, f"heights_mm.{part}"] = getattr(body.heights_mm, part) if body.heights_mm else None
        found[body.name, "fracture.height_loss"] = body.fracture.height_loss if body.fracture else None
    for femur in record.femora:
        for key in ("abmd_g_cm2", "bmc_g", "area_cm2", "dxa_scale_abmd_g_cm2"):
            for region, number in getattr(femur, key) or ():
                found[femur.name, f"{key}.{region}"] = number
        for kind in ("t_scores", "male_reference_t_scores", "z_scores"):
            for region, score in getattr(femur, kind).items():
                found[femur.name, f"{kind}.{region}"] = score
        found[femur.name, "strength_n"], found[femur.name, "stiffness_n_mm"] = femur.strength_n, femur.stiffness_n_mm
    return {place: number for place, number in found.items() if number is not None}


def nine_digits(value: float) -> float:
    """As a DICOM decimal string holds it."""
    return float(f"{value:.9g}")


def pair(number: Quantity) -> tuple[float, float | None]:
    return nine_digits(number.value), None if number.uncertainty is None else nine_digits(number.uncertainty)


# One function for each format: what stands at each place of what was written, value and uncertainty. Formats without places
# of their own give what stands anywhere in the structure.


def in_json(record: StudyRecord, folder: Path) -> Callable[[Place, Quantity], bool]:
    content = json.loads(save_record(record, folder / "record.json").read_text(encoding="utf-8"))
    structures = {s["name"]: s for s in (*content["vertebrae"], *content["femora"])}
    structures["spine"] = {"vbmd_mg_cm3": content["assessment"]["spine_vbmd_mg_cm3"]}

    def says(place: Place, number: Quantity) -> bool:
        node = structures[place[0]]
        for step in place[1].split("."):
            node = node[step]
        return (node["value"], node["uncertainty"], node["unit"]) == (number.value, number.uncertainty, number.unit)

    return says


def in_fhir(record: StudyRecord, folder: Path) -> Callable[[Place, Quantity], bool]:
    stated: set[tuple[str, float, float | None]] = set()
    for entry in json.loads(fhir_text(record))["entry"]:
        if quantity := entry["resource"].get("valueQuantity"):
            spread = next((nine_digits(e["valueDecimal"]) for e in quantity.get("extension", [])), None)
            stated.add((entry["resource"]["id"], nine_digits(quantity["value"]), spread))
    return lambda place, number: any(
        identifier.startswith(place[0].replace("_", "-")) and (value, spread) == pair(number)
        for identifier, value, spread in stated
    )


def in_structured_report(record: StudyRecord, folder: Path) -> Callable[[Place, Quantity], bool]:
    report = structured_report(record, HEADERS, PROVENANCE, None)
    if report is None:
        assert not record.vertebrae and not record.femora
        return lambda place, number: True
    buffer = io.BytesIO()
    report.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    groups: dict[str, Counter[float]] = {}
    for item in walk(pydicom.dcmread(buffer)):
        tracked = [c for c in item.get("ContentSequence", []) if c.ConceptNameCodeSequence[0].CodeValue == "112039"]
        if tracked:
            groups[tracked[0].TextValue] = Counter(map(nine_digits, numeric_values(item)))

    def says(place: Place, number: Quantity) -> bool:
        name = next((n for n in groups if n == place[0] or n.startswith(f"{place[0]},")), None)
        return name is not None and all(groups[name][value] for value in pair(number) if value is not None)

    return says


def in_table(record: StudyRecord, folder: Path, *, parquet: bool) -> Callable[[Place, Quantity], bool]:
    write_cohort([record], folder)
    if parquet:
        row = pq.read_table(folder / "cohort.parquet").to_pylist()[0]
    else:
        with (folder / "cohort.csv").open(encoding="utf-8", newline="") as stream:
            row = next(csv.DictReader(stream))
    levels = {body.name: body.level for body in record.vertebrae}

    def says(place: Place, number: Quantity) -> bool:
        column = _column(place, levels)
        cells = row[column], row[f"{column}_sd"]
        value, spread = (None if cell in (None, "") else nine_digits(float(cell)) for cell in cells)
        return (value, spread) == pair(number)

    return says


def _column(place: Place, levels: dict[str, str | None]) -> str:
    name, quantity = place
    first, _, part = quantity.partition(".")
    if name.startswith("vertebra"):
        stem = str(levels[name]).lower()
        return {
            "heights_mm": f"{stem}_height_{part}_mm",
            "fracture": f"{stem}_height_loss_percent",
        }.get(first, f"{stem}_{quantity}")
    return {
        "abmd_g_cm2": f"{name}_abmd_{part}_g_cm2",
        "bmc_g": f"{name}_bmc_{part}_g",
        "area_cm2": f"{name}_area_{part}_cm2",
        "dxa_scale_abmd_g_cm2": f"{name}_dxa_scale_abmd_{part}_g_cm2",
        "male_reference_t_scores": f"{name}_male_reference_t_score_{part}",
        "t_scores": f"{name}_t_score_{part}",
        "z_scores": f"{name}_z_score_{part}",
    }.get(first, f"{name}_{quantity}")


def in_long_table(record: StudyRecord, folder: Path) -> Callable[[Place, Quantity], bool]:
    write_cohort([record], folder)
    rows = pq.read_table(folder / "measurements.parquet").to_pylist()
    stated = {(row["structure"], row["quantity"]): (row["value"], row["uncertainty"], row["unit"]) for row in rows}

    def says(place: Place, number: Quantity) -> bool:
        found = stated.get(place)
        # The mean of the spine belongs to no structure: it stands in the cohort table.
        return place[0] == "spine" or found == (number.value, number.uncertainty, number.unit)

    return says


def in_html(record: StudyRecord, folder: Path) -> Callable[[Place, Quantity], bool]:
    text = _Page(render_html(record, folder)).text
    return lambda place, number: squeezed(format_quantity(number, unit=False)) in text


def in_pdf(record: StudyRecord, folder: Path) -> Callable[[Place, Quantity], bool]:
    text = pdf_text(render_pdf(record, folder))
    return lambda place, number: squeezed(format_quantity(number, unit=False)) in text


MACHINE: dict[str, Callable[[StudyRecord, Path], Callable[[Place, Quantity], bool]]] = {
    "json": in_json,
    "fhir": in_fhir,
    "structured report": in_structured_report,
    "csv": lambda record, folder: in_table(record, folder, parquet=False),
    "parquet": lambda record, folder: in_table(record, folder, parquet=True),
    "long table": in_long_table,
}
HUMAN = {"html": in_html, "pdf": in_pdf}


def unsaid(form: str, rendered: StudyRecord, expected: StudyRecord) -> set[Place]:
    """The places of `expected` whose number does not stand in what `form` makes of `rendered`."""
    places = numbers_of(expected)
    if form in HUMAN:
        printed = {id(number) for number in reported_numbers(expected)}
        places = {place: number for place, number in places.items() if id(number) in printed}
    with tempfile.TemporaryDirectory() as folder:
        says = (MACHINE | HUMAN)[form](rendered, Path(folder))
    return {place for place, number in places.items() if not says(place, number)}


@FEWER
@given(records())
def test_every_rendering_says_the_same_numbers(record: StudyRecord) -> None:
    for form in (*MACHINE, *HUMAN):
        assert unsaid(form, record, record) == set(), form


@FEWER
@given(records())
def test_no_rendering_for_machines_says_a_number_that_the_record_does_not_hold(record: StudyRecord) -> None:
    held = Counter(value for number in numbers_of(record).values() for value in pair(number) if value is not None)
    for test in (t for s in (*record.vertebrae, *record.femora) for t in s.other_tests):
        held += Counter(v for n in (test.strength_n, test.stiffness_n_mm) if n for v in pair(n) if v is not None)
    assert fhir_values(fhir_text(record)) == held
    report = structured_report(record, HEADERS, PROVENANCE, None)
    if report is not None:
        assert Counter(map(nine_digits, numeric_values(report))) == held


def fhir_values(text: str) -> Counter[float]:
    values = []
    for entry in json.loads(text)["entry"]:
        if quantity := entry["resource"].get("valueQuantity"):
            values += [quantity["value"], *(e["valueDecimal"] for e in quantity.get("extension", []))]
    return Counter(map(nine_digits, values))


def changed(record: StudyRecord, name: str, key: str, **update: float) -> StudyRecord:
    def new(body: Vertebra) -> Vertebra:
        return (
            body.model_copy(update={key: getattr(body, key).model_copy(update=update)}) if body.name == name else body
        )

    return record.model_copy(update={"vertebrae": tuple(map(new, record.vertebrae))})


@pytest.mark.parametrize("form", ["json", "fhir", "structured report", "long table"])
def test_additional_measures_stand_in_the_renderings_for_machines(form: str) -> None:
    measures = {
        "load_to_strength": Quantity(value=1.37, unit="1", uncertainty=0.4, method="fall"),
        "apparent_strength": Quantity(value=3.17, unit="MPa", uncertainty=0.9, method="test"),
        "something_new_with_a_long_name_of_its_own": Quantity(
            value=12.5, unit="furlong per day", uncertainty=2.5, method="x"
        ),
    }
    record = example_record()
    bodies = tuple(b.model_copy(update={"further": measures}) if b.level == "L2" else b for b in record.vertebrae)
    record = record.model_copy(update={"vertebrae": bodies})
    with tempfile.TemporaryDirectory() as folder:
        says = MACHINE[form](record, Path(folder))
    for key, number in measures.items():
        place = ("vertebra_L2", f"further.{key}")
        assert says(place, number)
        assert not says(place, number.model_copy(update={"value": 1.1 * number.value}))


@pytest.mark.parametrize("form", [*MACHINE, *HUMAN])
@pytest.mark.parametrize("part", ["value", "uncertainty"])
def test_one_number_that_differs_is_found_in_every_rendering(form: str, part: str) -> None:
    record = example_record()
    strength = next(v for v in record.vertebrae if v.name == "vertebra_L2").strength_n
    assert strength is not None
    other = changed(record, "vertebra_L2", "strength_n", **{part: 1.17 * getattr(strength, part)})
    assert unsaid(form, other, record) == {("vertebra_L2", "strength_n")}


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
    held = [value for number in numbers_of(example_record()).values() for value in pair(number) if value is not None]
    assert Counter(map(nine_digits, numeric_values(read))) == Counter(held)
