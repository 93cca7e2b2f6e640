"""Many studies as one table: a row per study, a long table of measurements, a data dictionary, agreement, an overview page.

Numbers are written unrounded, each with its standard uncertainty; an empty cell is a missing value, and the ``*_status`` column
beside it says why. No names, no birth dates.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reports.cohort_columns import DONE, CohortColumn, Kind, Value, cohort_columns, finding_codes, study_end
from reports.html import environment
from reports.impression import level_name
from reports.language import Language, load_language
from reports.quantity import MINUS, Quantity, format_number
from reports.record import SCHEMA_VERSION, Structure, StudyRecord, Vertebra, write_atomically

_ARROW_TYPES: dict[Kind, pa.DataType] = {
    "text": pa.string(),
    "number": pa.float64(),
    "integer": pa.int64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
}
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_MEASUREMENTS = pa.schema([
    pa.field("study_key", pa.string(), metadata={"meaning": "pseudonymous key of the study"}),
    pa.field("structure", pa.string(), metadata={"meaning": "vertebra_L1, femur_left, ..."}),
    pa.field("level_or_side", pa.string(), metadata={"meaning": "L1, left; empty for a body without a certain level"}),
    pa.field("quantity", pa.string(), metadata={"meaning": "key in the record, with its part after a dot"}),
    pa.field("value", pa.float64(), metadata={"meaning": "unrounded; missing with the reason in status"}),
    pa.field("unit", pa.string(), metadata={"meaning": "UCUM, with the mineral basis of a density"}),
    pa.field("uncertainty", pa.float64(), metadata={"meaning": "one standard deviation, same unit"}),
    pa.field("method", pa.string(), metadata={"meaning": "how it was obtained"}),
    pa.field("reference", pa.string(), metadata={"meaning": "equation, table or population"}),
    pa.field("status", pa.string(), metadata={"meaning": "measured, or the reason code for its absence"}),
])  # fmt: skip


@dataclass(frozen=True)
class NotDone:
    """A study without a result: it stands in the table with its reason, so that it does not disappear.

    Attributes
    ----------
    key : str
        Pseudonymous key.
    status : str
        ``refused`` or ``failed``.
    reason : str
        Reason code.
    text : str
        One sentence for the overview page.
    """

    key: str
    status: str
    reason: str
    text: str = ""


@dataclass(frozen=True)
class AgreementRow:
    """How the strengths of two bones of the same people agree over the cohort.

    Attributes
    ----------
    first, second : str
        Names of the bones; differences are second less first.
    test, profile : str
    studies : int
        In which both were tested under this profile.
    pairs : int
        Of which the statistics are; 0 where there are too few studies for any, and the other numbers None.
    bias_percent, spread_percent : float or None
        Mean and standard deviation of the difference, in percent of the mean of both.
    limits_percent : (float, float) or None
        95 % limits of agreement.
    correlation, concordance : float or None
        Pearson's r, and Lin's concordance coefficient; None where one of the two does not vary.
    """

    first: str
    second: str
    test: str
    profile: str
    studies: int
    pairs: int = 0
    bias_percent: float | None = None
    spread_percent: float | None = None
    limits_percent: tuple[float, float] | None = None
    correlation: float | None = None
    concordance: float | None = None


def cohort_row(record: StudyRecord) -> dict[str, Value]:
    """One study as a flat mapping of column name to value; the keys are those of `data_dictionary`, always all of them."""
    return {column.name: column.value(record) for column in _columns()}


def data_dictionary() -> list[dict[str, str]]:
    """What every column of the table means: name, type, unit, meaning, allowed values, section of the record, first version."""
    return [
        {
            "name": column.name,
            "type": column.kind,
            "unit": column.unit,
            "meaning": column.meaning,
            "allowed": " | ".join(column.allowed),
            "section": column.section,
            "since": column.since,
        }
        for column in _columns()
    ]


def write_cohort(
    records: Sequence[StudyRecord],
    out_dir: Path,
    *,
    not_done: Sequence[NotDone] = (),
    agreement: Sequence[AgreementRow] = (),
) -> list[Path]:
    """Write the cohort files; each appears whole or not at all.

    Parameters
    ----------
    records : sequence of StudyRecord
        The documents of a study are expected in ``out_dir/<key>/``.
    out_dir : Path
    not_done : sequence of NotDone
        Studies that were refused or that failed.
    agreement : sequence of AgreementRow
        Of levels and sides.

    Returns
    -------
    list of Path
        ``cohort.csv``, ``cohort.parquet``, ``measurements.parquet``, ``cohort_dictionary.csv``, ``agreement.json`` and
        ``index.html``.
    """
    rows = [cohort_row(record) for record in records]
    rows += [_row_of_not_done(study) for study in not_done]
    return [
        write_atomically(out_dir / "cohort.csv", _csv([c.name for c in _columns()], rows)),
        write_atomically(out_dir / "cohort.parquet", _parquet(_cohort_table(rows))),
        write_atomically(out_dir / "measurements.parquet", _parquet(_measurement_table(records))),
        write_atomically(out_dir / "cohort_dictionary.csv", _csv(list(data_dictionary()[0]), data_dictionary())),
        write_atomically(out_dir / "agreement.json", _agreement_json(agreement)),
        write_atomically(out_dir / "index.html", render_overview(records, not_done, agreement)),
    ]


_ONLY_IF_ASKED = frozenset({"dxa_scale_abmd_g_cm2"})
"""Keys whose absence needs no reason."""


def measurements(record: StudyRecord) -> Iterator[dict[str, object]]:
    """Every number of a record, and every number that is absent, in long form."""
    structures: tuple[Structure, ...] = (*record.vertebrae, *record.femora)
    for structure in structures:
        place = structure.level if isinstance(structure, Vertebra) else getattr(structure, "side", None)
        named = {"study_key": record.study.key, "structure": structure.name, "level_or_side": place}
        for name, number in _numbers(structure):
            if number is None:
                reason = structure.reason_for(name)
                yield {**named, "quantity": name, "status": reason.code if reason else ""}
            else:
                facts = number.model_dump(include={"value", "unit", "uncertainty", "method", "reference"})
                yield {**named, "quantity": name, "status": "measured", **facts}


def _numbers(structure: Structure) -> Iterator[tuple[str, Quantity | None]]:
    """All quantities of a structure by their key, those inside a group as ``group.part``."""
    skipped = {*Structure.model_fields, "side", "dxa_scale", "level", "level_confidence", "level_alternatives"}
    for key in type(structure).model_fields:
        if key in skipped:
            continue
        found = getattr(structure, key)
        if found is None and key in _ONLY_IF_ASKED:
            continue
        if isinstance(found, Quantity) or found is None:
            yield key, found
        else:
            parts = (
                found if isinstance(found, dict) else {name: getattr(found, name) for name in type(found).model_fields}
            )
            for name, part in parts.items():
                if isinstance(part, Quantity) or (part is None and f"{key}.{name}" in structure.not_measured):
                    yield f"{key}.{name}", part
    yield from ((f"further.{name}", number) for name, number in structure.further.items())
    yield from ((key, None) for key in structure.not_measured if key.startswith("further."))
    for test in structure.other_tests:
        yield f"other_tests.{test.strength_n.test}.strength_n", test.strength_n
        yield f"other_tests.{test.strength_n.test}.stiffness_n_mm", test.stiffness_n_mm


@cache
def _columns() -> tuple[CohortColumn, ...]:
    return cohort_columns()


def _row_of_not_done(study: NotDone) -> dict[str, Value]:
    row: dict[str, Value] = dict.fromkeys(column.name for column in _columns())
    return row | {"study_key": study.key, "study_status": study.status, "study_reason": study.reason}


def _csv(names: list[str], rows: Iterable[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(row[name]) for name in names] for row in rows)
    return stream.getvalue()


def _cell(value: Value) -> str:
    """The text of a cell: dot decimals, ISO dates, true/false; text that a spreadsheet would run as a formula is quoted."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(_FORMULA_STARTS) else text


def _cohort_table(rows: list[dict[str, Value]]) -> pa.Table:
    fields = [
        pa.field(c.name, _ARROW_TYPES[c.kind], metadata={"unit": c.unit, "meaning": c.meaning, "section": c.section})
        for c in _columns()
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields, metadata=_file_metadata()))


def _measurement_table(records: Sequence[StudyRecord]) -> pa.Table:
    rows = [row for record in records for row in measurements(record)]
    return pa.Table.from_pylist(rows, schema=_MEASUREMENTS.with_metadata(_file_metadata()))


def _agreement_json(rows: Sequence[AgreementRow]) -> str:
    content = {
        "schema_version": SCHEMA_VERSION,
        "unit": "percent of the mean of both; differences are second less first",
        "agreement": [asdict(row) for row in rows],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _file_metadata() -> dict[str, str]:
    return {"openbct_schema_version": SCHEMA_VERSION, "missing": "null; the reason stands in the *_status column"}


def _parquet(table: pa.Table) -> bytes:
    stream = pa.BufferOutputStream()
    pq.write_table(table, stream, compression="zstd")
    content: bytes = stream.getvalue().to_pybytes()
    return content


# The overview page


@dataclass(frozen=True)
class _Cell:
    """What a cell of the overview shows, and by what it is sorted."""

    text: str
    key: str


def render_overview(
    records: Sequence[StudyRecord],
    not_done: Sequence[NotDone] = (),
    agreement: Sequence[AgreementRow] = (),
    *,
    language: str = "en",
) -> str:
    """One page over all studies: how they ended and why, and a table that can be sorted, with a link to each report."""
    words = load_language(language)
    ended = [(record.study.key, study_end(record)) for record in records]
    not_done = [
        *not_done,
        *(NotDone(key, end.status, end.reason, end.text) for key, end in ended if end.status != DONE),
    ]
    classes = Counter(words(f"overview.{record.assessment.classification}") for record in records)
    ends = Counter(words("overview.done") for _, end in ended if end.status == DONE)
    ends.update(words(f"overview.{study.status}") for study in not_done)
    reasons = Counter(study.reason for study in not_done)
    codes = Counter(code for record in records for code in finding_codes(record))
    columns = ("study", "date", "patient", "class", "grade", "vbmd", "t_score", "vertebra", "femur", "findings")
    return environment().get_template("cohort.html.jinja").render(
        language=words.code,
        words=words,
        marks=(words("mark.research"),),
        columns=[words(f"overview.column_{name}") for name in columns],
        rows=[(record.study.key, _overview_cells(record, words)) for record in records],
        not_done=not_done,
        agreement=[_agreement_cells(row, words) for row in agreement],
        tallies=[
            (words("overview.ends"), ends.most_common()),
            (words("overview.classes"), classes.most_common()),
            (words("overview.refusals"), reasons.most_common()),
            (words("overview.codes"), codes.most_common(12)),
        ],
    )  # fmt: skip


def _agreement_cells(row: AgreementRow, words: Language) -> list[str]:
    """One line of the table of agreement: which bones, under which profile, in how many studies, and how well."""

    def number(value: float | None, digits: int = 0, *, signed: bool = False) -> str:
        if value is None:
            return words("text.not_measured_mark")
        text = format_number(
            abs(value) if signed else value, Decimal(1).scaleb(-digits), decimal_mark=words.decimal_mark
        )
        return (
            text
            if not signed or not float(text.replace(words.decimal_mark, "."))
            else f"{'+' if value > 0 else MINUS}{text}"
        )

    limits = row.limits_percent
    return [
        f"{_bone(row.first)}, {_bone(row.second)}",
        row.profile,
        str(row.studies),
        number(row.bias_percent, signed=True),
        number(row.spread_percent),
        number(None) if limits is None else words(
            "overview.limits", low=number(limits[0], signed=True), high=number(limits[1], signed=True)
        ),
        number(row.correlation, 2),
        number(row.concordance, 2),
    ]  # fmt: skip


def _bone(name: str) -> str:
    """``femur left`` and ``L1``."""
    return name.removeprefix("vertebra_").replace("_", " ")


def _overview_cells(record: StudyRecord, words: Language) -> list[_Cell]:
    row = cohort_row(record)

    def number(quantity: Quantity | None) -> _Cell:
        if quantity is None:
            return _Cell(words("text.not_measured_mark"), "")
        return _Cell(words.quantity(quantity, unit=False), repr(quantity.value))

    weakest = [v.strength_n for v in record.vertebrae if v.strength_n is not None]
    femoral = [f.strength_n for f in record.femora if f.strength_n is not None]
    scores = [f.t_score for f in record.femora if f.t_score is not None]
    graded = [(v.fracture.genant_grade, level_name(v)) for v in record.vertebrae if v.fracture is not None]
    highest = max(graded, key=lambda pair: pair[0], default=None)
    grade = (
        words("text.not_measured_mark") if highest is None else f"{highest[0]} ({highest[1]})" if highest[0] else "0"
    )
    age, sex = record.study.patient_age_years, record.study.patient_sex
    patient = " ".join(part for part in (sex or "", f"{age:.0f}" if age is not None else "") if part)
    codes = finding_codes(record)

    def lowest(found: Sequence[Quantity]) -> Quantity | None:
        return min(found, key=lambda q: q.value, default=None)

    return [
        _Cell(record.study.study_date or "", record.study.study_date or ""),
        _Cell(patient, patient),
        _Cell(words(f"overview.{record.assessment.classification}"), str(row["classification"])),
        _Cell(grade, grade),
        number(record.assessment.spine_vbmd_mg_cm3),
        number(lowest(scores)),
        number(lowest(weakest)),
        number(lowest(femoral)),
        _Cell(", ".join(codes), f"{len(codes):03d}"),
    ]


__all__ = [
    "DONE",
    "AgreementRow",
    "NotDone",
    "cohort_row",
    "data_dictionary",
    "measurements",
    "render_overview",
    "write_cohort",
]
