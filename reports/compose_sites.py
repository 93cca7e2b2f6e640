"""The tables of a report: spine, vertebral bodies, hip. Absent numbers stand in the same table, with their reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from reports.citations import Citations
from reports.classes import t_score_class
from reports.document import Bullets, Column, Paragraph, Row, Section, Table
from reports.impression import level_name, level_range
from reports.language import Language, capitalised
from reports.quantity import Quantity, printed_unit
from reports.reasons import shared_reasons, why_missing, why_no_spine_density
from reports.record import Femur, Score, Strength, Structure, StudyRecord, Vertebra

REPORTED_LEVELS = (*(f"T{i}" for i in range(4, 13)), *(f"L{i}" for i in range(1, 6)))
_LEVEL_KEYS = ("fracture", "heights_mm", "trabecular_hu", "vbmd_mg_cm3", "strength_n", "stiffness_n_mm")
_FEMUR_KEYS = ("abmd_g_cm2", "t_score", "strength_n")
_UNSURE_BELOW = 0.9
"""Probability of a level below which the table says how sure it is."""


class _SiteTable:
    """Rows of one site, always with the same columns: measure, value, interval, unit, class, reference, quality."""

    def __init__(self, title: str, words: Language, citations: Citations) -> None:
        self.title, self.words, self.citations = title, words, citations
        self.rows: list[Row] = []

    def group(self, name: str) -> None:
        self.rows.append(Row((name,), kind="group"))

    def missing(self, name: str, reason: str) -> None:
        self.rows.append(Row((capitalised(name), self.words("text.not_measured", reason=reason)), spans=True))

    def measured(
        self, name: str, number: Quantity, status: str, *, class_: str = "", reference: str | None = None
    ) -> None:
        """A number with its interval; `reference` takes the place of the reference of the number itself."""
        words = self.words
        reference = self.citations.cite(number.reference) if reference is None else reference
        value, interval = words.quantity(number, unit=False), words.interval(number)
        self.rows.append(
            Row((capitalised(name), value, interval, printed_unit(number.unit), class_, reference, status))
        )

    def strength(self, name: str, strength: Strength, status: str) -> None:
        cited = " ".join(part for part in (strength.profile, self.citations.cite(strength.reference)) if part)
        self.measured(name, strength, status, class_=self.words("text.not_a_class"), reference=cited)

    def section(self, section_id: str) -> Section:
        words = self.words
        columns = (
            Column(words("column.measure"), share=2.9),
            Column(words("column.value"), align="right", share=1.65),
            Column(words("column.interval"), align="right", share=1.7),
            Column(words("column.unit"), share=1.85),
            Column(words("column.class"), share=1.95),
            Column(words("column.reference"), share=2.75),
            Column(words("column.quality"), share=1.0),
        )
        return Section(section_id, self.title, (Table(self.title, columns, tuple(self.rows)),))


def spine_section(record: StudyRecord, words: Language, citations: Citations) -> Section:
    """The spine as a whole: density, highest fracture grade, lowest strength."""
    if not record.vertebrae:
        absent = words("text.not_measured", reason=words("text.spine_absent"))
        return Section("spine", words("section.spine"), (Paragraph(capitalised(absent) + "."),))
    table = _SiteTable(words("section.spine"), words, citations)
    assessment, bodies = record.assessment, record.vertebrae
    density = assessment.spine_vbmd_mg_cm3
    if density is None:
        table.missing(words("measure.spine_vbmd_none"), why_no_spine_density(record, words))
    else:
        name = words("measure.spine_vbmd", levels=" + ".join(assessment.spine_vbmd_levels))
        class_ = words(f"class.{assessment.spine_density_class or 'none'}")
        status = _worst_status([v for v in bodies if v.level in assessment.spine_vbmd_levels], words)
        table.measured(name, density, status, class_=class_)
    graded = [(v, v.fracture) for v in bodies if v.fracture is not None]
    if not graded:
        table.missing(words("measure.highest_grade"), _reasons(bodies, "fracture", words))
    else:
        body, fracture = max(graded, key=lambda pair: (pair[1].genant_grade, pair[1].height_loss.value))
        grade = words("grade.plain", grade=_grade(fracture.genant_grade, fracture.deformity, words))
        name = words("measure.highest_loss", level=level_name(body))
        table.measured(name, fracture.height_loss, _status(body, words), class_=grade)
    tested = [(v, v.strength_n) for v in bodies if v.strength_n is not None]
    if not tested:
        table.missing(words("measure.lowest_strength_none"), _reasons(bodies, "strength_n", words))
    else:
        body, strength = min(tested, key=lambda pair: pair[1].value)
        table.strength(words("measure.lowest_strength", level=level_name(body)), strength, _status(body, words))
    return table.section("spine")


def levels_section(record: StudyRecord, words: Language) -> Section:
    """The table of bodies: one row for each, a line below it for what is missing or uncertain, and the levels not found."""
    vbmd_unit = next(
        (printed_unit(v.vbmd_mg_cm3.unit) for v in record.vertebrae if v.vbmd_mg_cm3 is not None), "mg/cm³"
    )
    columns = (
        Column(words("column.level"), share=1.35),
        Column(words("column.grade"), share=2.6),
        Column(words("column.loss"), "%", "right", 1.3),
        Column(words("column.anterior"), "mm", "right", 1.6),
        Column(words("column.middle"), "mm", "right", 1.6),
        Column(words("column.posterior"), "mm", "right", 1.6),
        Column(words("column.hu"), "HU", "right", 1.5),
        Column(words("column.vbmd"), vbmd_unit, "right", 1.6),
        Column(words("column.strength"), "N", "right", 1.9),
        Column(words("column.stiffness"), "N/mm", "right", 2.2),
    )
    if not record.vertebrae:
        return Section("levels", words("section.levels"), ())
    found = {v.level for v in record.vertebrae}
    first = next((i for i, level in enumerate(REPORTED_LEVELS) if level in found), len(REPORTED_LEVELS))
    above = [level for level in REPORTED_LEVELS[:first] if level not in found]
    below = [level for level in REPORTED_LEVELS[first:] if level not in found]
    measured = [v for v in record.vertebrae if any(getattr(v, key) is not None for key in _LEVEL_KEYS)]
    shared = shared_reasons([*measured], _LEVEL_KEYS)
    absent = words("text.absent_levels" if all(v.level for v in record.vertebrae) else "text.absent_or_unnamed_levels")
    rows = [
        *_rows_of_missing(above, absent),
        *(row for vertebra in record.vertebrae for row in _level_rows(vertebra, words, shared)),
        *_rows_of_missing(below, absent),
    ]
    if shared:
        rows.append(Row((words("text.all_bodies"), _absence(shared, words)), spans=True))
    table = Table(words("section.levels"), columns, tuple(rows))
    legend = Paragraph(words("text.not_measured_legend"), "note")
    return Section("levels", words("section.levels"), (table, legend))


def _rows_of_missing(levels: list[str], absent: str) -> list[Row]:
    if not levels:
        return []
    first = REPORTED_LEVELS.index(levels[0])
    gapless = list(REPORTED_LEVELS[first : first + len(levels)]) == levels
    listed = level_range(levels) if gapless else ", ".join(levels)
    return [Row((listed, absent), spans=True)]


def _level_rows(vertebra: Vertebra, words: Language, shared: Mapping[str, str]) -> list[Row]:
    name, fracture, heights = level_name(vertebra), vertebra.fracture, vertebra.heights_mm
    numbers: list[Quantity | None] = [fracture.height_loss if fracture else None]
    numbers += [heights.anterior, heights.middle, heights.posterior] if heights else [None, None, None]
    numbers += [vertebra.trabecular_hu, vertebra.vbmd_mg_cm3, vertebra.strength_n, vertebra.stiffness_n_mm]
    if all(number is None for number in numbers):
        reason = _reasons([vertebra], "trabecular_hu", words)
        return [Row((name, words("text.not_measured", reason=reason)), spans=True)]
    absent = words("text.not_measured_mark")
    grade = _grade(fracture.genant_grade, fracture.deformity, words) if fracture else absent
    cells = [words.quantity(number, unit=False) if number is not None else absent for number in numbers]
    rows = [Row((name, grade, *cells))]
    remarks = _remarks(vertebra, words, shared)
    if remarks:
        rows.append(Row(("", remarks), spans=True, kind="remark"))
    return rows


def _absence(reasons: Mapping[str, str], words: Language) -> str:
    """One sentence for each reason, with the numbers that are missing because of it."""
    by_reason: dict[str, list[str]] = {}
    for key, reason in reasons.items():
        by_reason.setdefault(reason, []).append(words(f"measure.{key}"))
    said = [f"{', '.join(names)} {words('text.not_measured', reason=reason)}" for reason, names in by_reason.items()]
    return " ".join(capitalised(sentence) for sentence in said)


def _remarks(vertebra: Vertebra, words: Language, shared: Mapping[str, str]) -> str:
    """Why single numbers are missing (but for reasons shared by all bodies), and what is uncertain about the body."""
    missing = [key for key in _LEVEL_KEYS if getattr(vertebra, key) is None and key not in shared]
    remarks = [_absence({key: _reasons([vertebra], key, words) for key in missing}, words)] if missing else []
    sure = vertebra.level_confidence
    if vertebra.level is not None and sure is not None and sure < _UNSURE_BELOW:
        others = sorted(vertebra.level_alternatives, key=lambda level: -vertebra.level_alternatives[level])[:2]
        text = words("text.level_probability", level=vertebra.level, percent=f"{100 * sure:.0f}")
        remarks.append(f"{text}; {words('text.alternatives', levels=', '.join(others))}." if others else f"{text}.")
    if vertebra.fracture is not None and vertebra.fracture.genant_grade and vertebra.fracture.note:
        remarks.append(capitalised(vertebra.fracture.note))
    return " ".join(remarks)


def hip_section(record: StudyRecord, words: Language, citations: Citations) -> Section:
    """Both hips, the right one first, or why there is none."""
    title = words("section.hip")
    if not record.femora:
        absent = words("text.not_measured", reason=words("text.hip_absent"))
        return Section("hip", title, (Paragraph(capitalised(absent) + "."),))
    femora = sorted(record.femora, key=lambda f: f.side != "right")
    if not any(_is_measured(femur) for femur in femora):
        said = [(words(f"side.{f.side.capitalize()}") + ":", _why_no_femur(f, words)) for f in femora]
        return Section("hip", title, (Bullets(tuple(said)),))
    table = _SiteTable(title, words, citations)
    # Where the assessment gives no class to T-scores (in a child, say), no row does.
    classed = record.assessment.hip_density_class is not None
    for femur in femora:
        table.group(words(f"side.{femur.side.capitalize()}"))
        _add_femur(table, femur, words, classed)
    return table.section("hip")


def _is_measured(femur: Femur) -> bool:
    return any(number is not None for number in (femur.abmd_g_cm2, femur.strength_n, femur.stiffness_n_mm))


def _why_no_femur(femur: Femur, words: Language) -> str:
    reasons = dict.fromkeys(_reasons([femur], key, words) for key in _FEMUR_KEYS)
    return words("text.not_measured", reason=" ".join(reasons))


def _add_femur(table: _SiteTable, femur: Femur, words: Language, classed: bool) -> None:
    status = _status(femur, words)
    if not _is_measured(femur):
        names = ", ".join(words(f"measure.{key}") for key in _FEMUR_KEYS)
        table.rows.append(Row((names, _why_no_femur(femur, words)), spans=True))
        return
    if femur.abmd_g_cm2 is None:
        table.missing(words("measure.abmd_g_cm2"), _reasons([femur], "abmd_g_cm2", words))
    else:
        for region in ("total_hip", "femoral_neck", "trochanter", "intertrochanter"):
            name = words("measure.abmd_region", region=words(f"region.{region}"))
            number = getattr(femur.abmd_g_cm2, region)
            if number is None:
                table.missing(name, _reasons([femur], f"abmd_g_cm2.{region}", words))
            else:
                table.measured(name, number, status)
    _add_scores(table, femur, "t", [*femur.t_scores.values()] or [femur.t_score], words, classed)
    _add_scores(table, femur, "z", [*femur.z_scores.values()] or [femur.z_score], words, classed)
    if femur.strength_n is None:
        table.missing(words("measure.strength_n"), _reasons([femur], "strength_n", words))
    else:
        table.strength(_with_test("strength", femur.strength_n, words), femur.strength_n, status)
    if femur.stiffness_n_mm is None:
        table.missing(words("measure.stiffness_n_mm"), _reasons([femur], "stiffness_n_mm", words))
    else:
        table.measured(_with_test("stiffness", femur.strength_n, words), femur.stiffness_n_mm, status)
    for test in femur.other_tests:
        table.strength(_with_test("strength", test.strength_n, words), test.strength_n, status)
        if test.stiffness_n_mm is not None:
            table.measured(_with_test("stiffness", test.strength_n, words), test.stiffness_n_mm, status)


def _add_scores(
    table: _SiteTable, femur: Femur, kind: str, scores: Sequence[Score | None], words: Language, classed: bool
) -> None:
    """Rows of T- or Z-scores; classes only for T-scores, cited with their reference population."""
    for score in scores:
        if score is None:
            table.missing(words(f"measure.{kind}_score"), _reasons([femur], f"{kind}_score", words))
            continue
        name = words(f"measure.{kind}_region", region=words(f"region.{score.region}"))
        class_ = words(f"class.{t_score_class(score)}") if kind == "t" and classed else ""
        cited = table.citations.cite(score.population, score.reference)
        table.measured(name, score, _status(femur, words), class_=class_, reference=cited)


def _with_test(kind: str, strength: Strength | None, words: Language) -> str:
    """``strength, sideways fall``; without a test just the name of the measure."""
    if strength is None:
        return words("measure.stiffness_n_mm")
    return words(f"measure.{kind}_test", test=words.get(f"test.{strength.test}", strength.test))


def _status(structure: Structure, words: Language) -> str:
    return words(f"status.{structure.status.value}")


def _worst_status(structures: Sequence[Structure], words: Language) -> str:
    order = ("ok", "warning", "failed", "absent")
    return words(f"status.{max((s.status.value for s in structures), key=order.index, default='ok')}")


def _reasons(structures: Iterable[Structure], key: str, words: Language) -> str:
    return why_missing(structures, key, words("text.no_reason"))


def _grade(grade: int, deformity: str, words: Language) -> str:
    return words(f"grade.{grade}", deformity=words(f"deformity.{deformity}"))
