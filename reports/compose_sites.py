"""The tables of spine and hip. Absent numbers stand in the same table, with their reason."""

from __future__ import annotations

from collections.abc import Sequence

from reports.citations import Citations
from reports.classes import t_score_class
from reports.compose_levels import grade_text
from reports.document import Column, Paragraph, Row, Section, Table
from reports.language import Language, capitalised
from reports.names import level_name
from reports.quantity import Quantity, printed_unit
from reports.reasons import why_missing, why_missing_where, why_no_spine_density
from reports.record import Femur, Finding, Score, Severity, Strength, Structure, StudyRecord

_FEMUR_KEYS = ("abmd_g_cm2", "t_score", "strength_n")


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
        status = _worst_status([v for v in bodies if level_name(v) in assessment.spine_vbmd_levels], words)
        table.measured(name, density, status, class_=class_)
    if assessment.l1_ct_number is not None:
        band = words(f"l1_band.{assessment.l1_ct_number_band}") if assessment.l1_ct_number_band else ""
        status = _worst_status([v for v in bodies if v.level == "L1"], words)
        table.measured(words("measure.l1_ct_number"), assessment.l1_ct_number, status, class_=band)
    graded = [(v, v.fracture) for v in bodies if v.fracture is not None]
    if not graded:
        table.missing(
            words("measure.highest_grade"), why_missing_where(bodies, "fracture", words("text.no_reason"), words)
        )
    else:
        body, fracture = max(graded, key=lambda pair: (pair[1].genant_grade, pair[1].height_loss.value))
        grade = words("grade.plain", grade=grade_text(fracture.genant_grade, fracture.deformity, words))
        name = words("measure.highest_loss", level=level_name(body))
        table.measured(name, fracture.height_loss, _status(body, words), class_=grade)
    tested = [(v, v.strength_n) for v in bodies if v.strength_n is not None]
    if not tested:
        table.missing(
            words("measure.lowest_strength_none"),
            why_missing_where(bodies, "strength_n", words("text.no_reason"), words),
        )
    else:
        body, strength = min(tested, key=lambda pair: pair[1].value)
        table.strength(words("measure.lowest_strength", level=level_name(body)), strength, _status(body, words))
    return table.section("spine")


def hip_section(record: StudyRecord, words: Language, citations: Citations) -> Section:
    """Both hips, the right one first, or why there is none."""
    title = words("section.hip")
    if not record.femora:
        absent = words("text.not_measured", reason=words("text.hip_absent"))
        return Section("hip", title, (Paragraph(capitalised(absent) + "."),))
    femora = sorted(record.femora, key=lambda f: f.side != "right")
    if not any(_is_measured(femur) for femur in femora):
        columns = (Column(words("column.hip_side"), share=1.0), Column(words("column.quality"), share=4.2))
        rows = [row for femur in femora for row in _rows_of_nothing(femur, words)]
        return Section("hip", title, (Table(title, columns, tuple(rows)),))
    table = _SiteTable(title, words, citations)
    # Where the assessment gives no class to T-scores (in a child, say), no row does.
    classed = record.assessment.hip_density_class is not None
    both = _said_of_both(femora)
    for femur in femora:
        table.group(words(f"side.{femur.side.capitalize()}"))
        _add_femur(table, femur, words, classed, " ".join(both))
    if both:
        table.group(words("side.Both"))
        table.rows.append(Row((words("severity.warning"), " ".join(both)), spans=True))
    return table.section("hip")


def _is_measured(femur: Femur) -> bool:
    return any(number is not None for number in (femur.abmd_g_cm2, femur.strength_n, femur.stiffness_n_mm))


def _why_no_femur(femur: Femur, words: Language) -> str:
    reasons = dict.fromkeys(_reason(femur, key, words) for key in _FEMUR_KEYS)
    return words("text.not_measured", reason=" ".join(reasons))


def _rows_of_nothing(femur: Femur, words: Language) -> list[Row]:
    """A side of which nothing was measured: why, and what else is to be said about it."""
    why = _why_no_femur(femur, words)
    rows = [Row((words(f"side.{femur.side.capitalize()}"), why), spans=True)]
    return rows + _remarks(femur, why, words)


def _said_of_both(femora: Sequence[Femur]) -> tuple[str, ...]:
    """Cautions that hold for both sides."""
    said = [{_plain(f, femur): None for f in femur.findings if f.severity is Severity.WARNING} for femur in femora]
    return tuple(text for text in said[0] if all(text in other for other in said)) if len(said) > 1 else ()


def _plain(finding: Finding, femur: Femur) -> str:
    return finding.text.removeprefix(f"{femur.name}: ")


def _remarks(femur: Femur, told: str, words: Language) -> list[Row]:
    """Findings of a femur that were not yet `told`, failures first."""
    rows = []
    for severity in (Severity.FAILURE, Severity.WARNING):
        texts = [_plain(f, femur) for f in femur.findings if f.severity is severity]
        new = [text for text in dict.fromkeys(texts) if text not in told]
        if new:
            rows.append(Row((words(f"severity.{severity.value}"), " ".join(new)), spans=True))
    return rows


def _add_femur(table: _SiteTable, femur: Femur, words: Language, classed: bool, said_of_both: str) -> None:
    status = _status(femur, words)
    began = len(table.rows)
    if not _is_measured(femur):
        names = ", ".join(words(f"measure.{key}") for key in _FEMUR_KEYS)
        why = _why_no_femur(femur, words)
        table.rows += [Row((names, why), spans=True), *_remarks(femur, why + said_of_both, words)]
        return
    if femur.abmd_g_cm2 is None:
        table.missing(words("measure.abmd_g_cm2"), _reason(femur, "abmd_g_cm2", words))
    else:
        for region in ("total_hip", "femoral_neck", "trochanter", "intertrochanter"):
            name = words("measure.abmd_region", region=words(f"region.{region}"))
            number = getattr(femur.abmd_g_cm2, region)
            if number is None:
                table.missing(name, _reason(femur, f"abmd_g_cm2.{region}", words))
            else:
                table.measured(name, number, status)
    _add_scores(table, femur, "t", [*femur.t_scores.values()] or [femur.t_score], words, classed)
    _add_scores(table, femur, "male_t", [*femur.male_reference_t_scores.values()], words, classed=False)
    _add_scores(table, femur, "z", [*femur.z_scores.values()] or [femur.z_score], words, classed)
    reasons = {key: _reason(femur, key, words) for key in ("strength_n", "stiffness_n_mm")}
    if femur.strength_n is None and femur.stiffness_n_mm is None and len(set(reasons.values())) == 1:
        names = ", ".join(words(f"measure.{key}") for key in reasons)
        table.missing(names, reasons["strength_n"])
    else:
        if femur.strength_n is None:
            table.missing(words("measure.strength_n"), reasons["strength_n"])
        else:
            table.strength(_with_test("strength", femur.strength_n, words), femur.strength_n, status)
        if femur.stiffness_n_mm is None:
            table.missing(words("measure.stiffness_n_mm"), reasons["stiffness_n_mm"])
        else:
            table.measured(_with_test("stiffness", femur.strength_n, words), femur.stiffness_n_mm, status)
    for test in femur.other_tests:
        table.strength(_with_test("strength", test.strength_n, words), test.strength_n, status)
        if test.stiffness_n_mm is not None:
            table.measured(_with_test("stiffness", test.strength_n, words), test.stiffness_n_mm, status)
    told = " ".join(row.cells[-1] for row in table.rows[began:] if row.spans)
    table.rows += _remarks(femur, told + said_of_both, words)


def _add_scores(
    table: _SiteTable, femur: Femur, kind: str, scores: Sequence[Score | None], words: Language, classed: bool
) -> None:
    """Rows of T- or Z-scores; classes only for T-scores, cited with their reference population."""
    for score in scores:
        if score is None:
            table.missing(words(f"measure.{kind}_score"), _reason(femur, f"{kind}_score", words))
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


def _reason(femur: Femur, key: str, words: Language) -> str:
    return why_missing([femur], key, words("text.no_reason"))
