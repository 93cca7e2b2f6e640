"""The table of vertebral bodies: numbers, what is missing and why, and what is to be said about each, in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reports.document import Block, Column, Paragraph, Row, Section, Table
from reports.language import Language, capitalised
from reports.names import level_name, level_range, listed
from reports.quantity import Quantity, printed_unit
from reports.reasons import shared_reasons, why_missing
from reports.record import Finding, Severity, StudyRecord, Vertebra

REPORTED_LEVELS = (*(f"T{i}" for i in range(4, 13)), *(f"L{i}" for i in range(1, 6)))
_LEVEL_KEYS = ("fracture", "heights_mm", "trabecular_hu", "vbmd_mg_cm3", "strength_n", "stiffness_n_mm")
_UNSURE_BELOW = 0.9
"""Probability of a level, or of a grade, below which the table says how sure it is."""


def levels_section(record: StudyRecord, words: Language) -> Section:
    """A row for each body, a line below it for what is missing or uncertain, and the levels not found."""
    title = words("section.levels")
    if not record.vertebrae:
        return Section("levels", title, ())
    found = {v.level for v in record.vertebrae}
    first = next((i for i, level in enumerate(REPORTED_LEVELS) if level in found), len(REPORTED_LEVELS))
    above = [level for level in REPORTED_LEVELS[:first] if level not in found]
    below = [level for level in REPORTED_LEVELS[first:] if level not in found]
    shared = shared_reasons([v for v in record.vertebrae if _is_measured(v)], _LEVEL_KEYS)
    common = _common_cautions(record.vertebrae)
    absent = words("text.absent_levels" if all(v.level for v in record.vertebrae) else "text.absent_or_unnamed_levels")
    rows = [*_rows_of_missing(above, absent)]
    for vertebra in record.vertebrae:
        rows += _level_rows(vertebra, words, shared, common)
    rows += _rows_of_missing(below, absent)
    order = [level_name(v) for v in record.vertebrae]
    if shared:
        rows.append(Row((words("text.all_bodies"), _absence(shared, words)), spans=True))
    for who, texts in _by_names(common, order, words).items():
        rows.append(Row((who, _with_severity(Severity.WARNING, " ".join(texts), words)), spans=True))
    blocks: list[Block] = [Table(title, _columns(record, words), tuple(rows))]
    notes = [words("text.values_with_sd")]
    if any(words("text.not_measured_mark") in row.cells for row in rows):
        notes.insert(0, words("text.not_measured_legend"))
    if not all(v.level for v in record.vertebrae):
        notes.insert(0, words("text.unnamed_legend"))
    blocks.append(Paragraph(" ".join(notes), "note"))
    return Section("levels", title, tuple(blocks))


def _columns(record: StudyRecord, words: Language) -> tuple[Column, ...]:
    densities = (v.vbmd_mg_cm3 for v in record.vertebrae if v.vbmd_mg_cm3 is not None)
    vbmd_unit = next((printed_unit(number.unit) for number in densities), "mg/cm³")
    return (
        Column(words("column.level"), share=1.35),
        Column(words("column.grade"), share=2.6),
        Column(words("column.loss"), "%", "right", 1.3),
        Column(words("column.anterior"), "mm", "right", 1.6),
        Column(words("column.middle"), "mm", "right", 1.6),
        Column(words("column.posterior"), "mm", "right", 1.6),
        Column(words("column.hu"), words("column.hu_unit"), "right", 1.5),
        Column(words("column.vbmd"), vbmd_unit, "right", 1.6),
        Column(words("column.strength"), "N", "right", 1.9),
        Column(words("column.stiffness"), "N/mm", "right", 2.2),
    )


def _is_measured(vertebra: Vertebra) -> bool:
    return any(getattr(vertebra, key) is not None for key in _LEVEL_KEYS)


def _common_cautions(vertebrae: Sequence[Vertebra]) -> dict[str, list[str]]:
    """Cautions that several bodies share, each with the names of these."""
    names: dict[str, list[str]] = {}
    for vertebra in vertebrae:
        warnings = [_plain(f, vertebra) for f in vertebra.findings if f.severity is Severity.WARNING]
        for text in dict.fromkeys(warnings):
            names.setdefault(text, []).append(level_name(vertebra))
    return {text: bodies for text, bodies in names.items() if len(bodies) > 1}


def _by_names(common: Mapping[str, list[str]], order: list[str], words: Language) -> dict[str, list[str]]:
    """What is said of the same bodies, together."""
    said: dict[str, list[str]] = {}
    for text, names in common.items():
        who = words("text.all_bodies") if len(names) == len(order) else listed(names, order)
        said.setdefault(who, []).append(text)
    return said


def _plain(finding: Finding, vertebra: Vertebra) -> str:
    return finding.text.removeprefix(f"{vertebra.name}: ")


def _rows_of_missing(levels: list[str], absent: str) -> list[Row]:
    if not levels:
        return []
    first = REPORTED_LEVELS.index(levels[0])
    gapless = list(REPORTED_LEVELS[first : first + len(levels)]) == levels
    return [Row((level_range(levels) if gapless else ", ".join(levels), absent), spans=True)]


def _level_rows(
    vertebra: Vertebra, words: Language, shared: Mapping[str, str], said_of_many: Mapping[str, object]
) -> list[Row]:  # fmt: skip
    name, fracture, heights = level_name(vertebra), vertebra.fracture, vertebra.heights_mm
    numbers: list[Quantity | None] = [fracture.height_loss if fracture else None]
    numbers += [heights.anterior, heights.middle, heights.posterior] if heights else [None, None, None]
    numbers += [vertebra.trabecular_hu, vertebra.vbmd_mg_cm3, vertebra.strength_n, vertebra.stiffness_n_mm]
    remarks: list[str] = []
    if all(number is None for number in numbers):
        reason = why_missing([vertebra], "trabecular_hu", words("text.no_reason"))
        rows = [Row((name, words("text.not_measured", reason=reason)), spans=True)]
        told = reason
    else:
        absent = words("text.not_measured_mark")
        grade = grade_text(fracture.genant_grade, fracture.deformity, words) if fracture else absent
        cells = [words.quantity(number, unit=False) if number is not None else absent for number in numbers]
        rows = [Row((name, grade, *cells))]
        remarks = _remarks(vertebra, words, shared)
        told = " ".join(remarks)
    for severity in (Severity.FAILURE, Severity.WARNING):
        texts = [_plain(f, vertebra) for f in vertebra.findings if f.severity is severity]
        new = [text for text in dict.fromkeys(texts) if text not in told and text not in said_of_many]
        if new:
            remarks.append(_with_severity(severity, " ".join(new), words))
    if remarks:
        rows.append(Row(("", " ".join(remarks)), spans=True, kind="remark"))
    return rows


def _with_severity(severity: Severity, text: str, words: Language) -> str:
    return f"{words(f'severity.{severity.value}')}: {text}"


def _absence(reasons: Mapping[str, str], words: Language) -> str:
    """One sentence for each reason, with the numbers that are missing because of it."""
    by_reason: dict[str, list[str]] = {}
    for key, reason in reasons.items():
        by_reason.setdefault(reason, []).append(words(f"measure.{key}"))
    said = [f"{', '.join(names)} {words('text.not_measured', reason=reason)}" for reason, names in by_reason.items()]
    return " ".join(capitalised(sentence) for sentence in said)


def _remarks(vertebra: Vertebra, words: Language, shared: Mapping[str, str]) -> list[str]:
    """Why single numbers are missing (but for reasons shared by all bodies), and what is uncertain about the body."""
    missing = [key for key in _LEVEL_KEYS if getattr(vertebra, key) is None and key not in shared]
    unexplained = words("text.no_reason")
    reasons = {key: why_missing([vertebra], key, unexplained) for key in missing}
    remarks = [_absence(reasons, words)] if missing else []
    sure = vertebra.level_confidence
    if vertebra.level is not None and sure is not None and sure < _UNSURE_BELOW:
        others = sorted(vertebra.level_alternatives, key=lambda level: -vertebra.level_alternatives[level])[:2]
        text = words("text.level_probability", level=vertebra.level, percent=f"{100 * sure:.0f}")
        remarks.append(f"{text}; {words('text.alternatives', levels=', '.join(others))}." if others else f"{text}.")
    fracture = vertebra.fracture
    if fracture is not None:
        if fracture.genant_grade and fracture.note:
            remarks.append(f"{capitalised(fracture.note).rstrip('.')}.")
        chances = {grade: chance for grade, chance in fracture.grade_probabilities.items() if chance >= 0.005}
        if len(chances) > 1 and fracture.grade_probabilities.get(str(fracture.genant_grade), 1.0) < _UNSURE_BELOW:  # type: ignore[call-overload]
            parts = [
                words("text.grade_probability", grade=grade, percent=f"{100 * chance:.0f}")
                for grade, chance in chances.items()
            ]
            remarks.append(words("text.grade_probabilities", parts=", ".join(parts)))
    return remarks


def grade_text(grade: int, deformity: str, words: Language) -> str:
    """``2 wedge``: grade and kind as they stand in a table."""
    return words(f"grade.{grade}", deformity=words(f"deformity.{deformity}"))
