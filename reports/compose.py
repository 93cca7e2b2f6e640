"""From a study record to the report as data: which sections, in which order, with which words.

The answer comes first, then what limits it, then one table per site in which absent numbers stand with their reason, then the
assessment, the pictures, services and coverage, and last methods and provenance.
"""

from __future__ import annotations

from collections.abc import Iterable

from reports.classes import t_score_class
from reports.compose_annex import methods_section, provenance_section, services_section
from reports.document import (
    Bullets,
    Column,
    Document,
    DocumentPicture,
    Paragraph,
    Pictures,
    Row,
    Section,
    Table,
)
from reports.impression import impression, level_name, level_range
from reports.language import Language, capitalised, load_language
from reports.quantity import Quantity, printed_unit
from reports.record import Femur, Severity, Strength, Structure, StudyRecord, Vertebra

REPORTED_LEVELS = (*(f"T{i}" for i in range(4, 13)), *(f"L{i}" for i in range(1, 6)))
TEXT_WIDTH_MM = 178.0


def compose(record: StudyRecord, *, language: str = "en") -> Document:
    """The report on one study.

    Parameters
    ----------
    record : StudyRecord
    language : str
        Code of a file in ``reports/language``. Findings keep the language in which they were recorded.

    Raises
    ------
    ValueError
        If there is no such language.
    """
    words = load_language(language)
    study = record.study
    signed = words("mark.signed", who=study.signed_by) if study.signed_by else words("mark.draft")
    sections = (
        Section("impression", words("section.impression"), (Bullets(impression(record, words)),)),
        _quality(record, words),
        _spine(record, words),
        _levels(record, words),
        _hip(record, words),
        _assessment(record, words),
        _pictures(record, words),
        services_section(record, words),
        methods_section(record, words),
        provenance_section(record, words),
    )
    return Document(
        language=words.code,
        title=words("mark.title"),
        marks=(signed, words("mark.research")),
        facts=_facts(record, words),
        sections=tuple(section for section in sections if section.blocks),
        footer=words("mark.footer", version=record.software.version, key=study.key, date=words.date(study.report_date)),
    )


def _facts(record: StudyRecord, words: Language) -> tuple[tuple[str, str], ...]:
    study = record.study
    age, sex = study.patient_age_years, study.patient_sex
    patient = words("fact.years", age=f"{age:.0f}") if age is not None else words("fact.age_unknown")
    patient += ", " + words(f"fact.sex_{sex or 'unknown'}")
    facts = [
        (words("fact.study"), study.key),
        (words("fact.patient"), patient),
        (words("fact.ct_date"), words.date(study.study_date)),
        (words("fact.report_date"), words.date(study.report_date)),
    ]
    images = []
    for used in record.series.used:
        made = used.acquisition
        unknown = words("fact.not_stated")
        thickness = made.slice_thickness_mm if made.slice_thickness_mm is not None else used.spacing_mm[0]
        images.append(
            words(
                "fact.spacing",
                thickness=f"{thickness:.1f}".replace(".", words.decimal_mark),
                kvp=unknown if made.kvp is None else f"{made.kvp:.0f}",
                kernel=made.kernel or unknown,
            )
        )
    if images:
        facts.append((words("fact.series"), "; ".join(dict.fromkeys(images))))
    return tuple(facts)


def subject_name(subject: str, words: Language) -> str:
    """``L1`` for ``vertebra_L1``, ``Left femur`` for ``femur_left``; other subjects need no name."""
    if subject.startswith("vertebra_"):
        return subject.removeprefix("vertebra_")
    return words(f"side.{subject.removeprefix('femur_').capitalize()}") if subject.startswith("femur_") else ""


def _quality(record: StudyRecord, words: Language) -> Section:
    """Findings, the gravest first; notes are left to the record unless they concern the whole study."""
    items = []
    for subject, finding in record.all_findings():
        if finding.severity is Severity.INFO and subject not in ("study", "series", "calibration"):
            continue
        name = subject_name(subject, words)
        name = "" if finding.text.startswith(name) else name
        head = words(f"severity.{finding.severity.value}") + (f", {name}" if name else "")
        items.append((f"{head}:", finding.text))
    items = list(dict.fromkeys(items))
    if not items:
        return Section("quality", words("section.quality"), (Paragraph(words("text.no_finding")),))
    return Section("quality", words("section.quality"), (Bullets(tuple(items)),))


# One table per site, always with the same columns


def _measure_columns(words: Language) -> tuple[Column, ...]:
    return (
        Column(words("column.measure"), share=2.6),
        Column(words("column.value"), align="right", share=1.55),
        Column(words("column.interval"), align="right", share=1.55),
        Column(words("column.unit"), share=1.7),
        Column(words("column.class"), share=1.95),
        Column(words("column.reference"), share=3.3),
        Column(words("column.quality"), share=0.95),
    )


def _measure_row(
    name: str, number: Quantity | None, reason: str, words: Language, *, class_: str = "", status: str = ""
) -> Row:
    if number is None:
        return Row((name, words("text.not_measured", reason=reason)), spans=True)
    return Row(
        (
            name,
            words.quantity(number, unit=False),
            words.interval(number),
            printed_unit(number.unit),
            class_,
            number.reference or words("text.no_reference"),
            status,
        )
    )


def _why(structure: Structure, key: str, words: Language) -> str:
    finding = structure.reason_for(key)
    return finding.text if finding is not None else words("impression.nothing_found")


def _spine(record: StudyRecord, words: Language) -> Section:
    assessment, bodies = record.assessment, record.vertebrae
    density = assessment.spine_vbmd_mg_cm3
    name = words("measure.spine_vbmd_none")
    class_ = status = ""
    if density is not None:
        name = words("measure.spine_vbmd", levels=" + ".join(assessment.spine_vbmd_levels))
        class_ = words(f"class.{assessment.spine_density_class or 'none'}")
        status = _worst_status([v for v in bodies if v.level in assessment.spine_vbmd_levels], words)
    rows = [
        _measure_row(name, density, _reason_among(bodies, "vbmd_mg_cm3", words), words, class_=class_, status=status)
    ]
    graded = [(v, v.fracture) for v in bodies if v.fracture is not None]
    if graded:
        vertebra, fracture = max(graded, key=lambda pair: (pair[1].genant_grade, pair[1].height_loss.value))
        grade = words("grade.plain", grade=_grade(fracture.genant_grade, fracture.deformity, words))
        name = f"{words('measure.highest_grade')}, {level_name(vertebra)}"
        status = words(f"status.{vertebra.status.value}")
        rows.append(_measure_row(name, fracture.height_loss, "", words, class_=grade, status=status))
    else:
        why = words("text.not_measured", reason=_reason_among(bodies, "fracture", words))
        rows.append(Row((words("measure.highest_grade"), why), spans=True))
    tested = [(v, v.strength_n) for v in bodies if v.strength_n is not None]
    if tested:
        vertebra, strength = min(tested, key=lambda pair: pair[1].value)
        name = words("measure.lowest_strength", level=level_name(vertebra))
        rows.append(_strength_row(name, vertebra, strength, words))
    else:
        why = words("text.not_measured", reason=_reason_among(bodies, "strength_n", words))
        rows.append(Row((words("measure.lowest_strength_none"), why), spans=True))
    return Section(
        "spine", words("section.spine"), (Table(words("section.spine"), _measure_columns(words), tuple(rows)),)
    )


def _strength_row(name: str, structure: Structure, strength: Strength, words: Language) -> Row:
    profile = strength.model_copy(update={"reference": strength.reference or strength.profile})
    status = words(f"status.{structure.status.value}")
    return _measure_row(name, profile, "", words, class_=words("text.not_a_class"), status=status)


def _reason_among(structures: Iterable[Structure], key: str, words: Language) -> str:
    found = dict.fromkeys(f.text for s in structures if (f := s.reason_for(key)) is not None)
    return " ".join(list(found)[:3]) or words("impression.nothing_found")


def _worst_status(structures: list[Vertebra], words: Language) -> str:
    order = ("ok", "warning", "failed", "absent")
    worst = max((s.status.value for s in structures), key=order.index, default="ok")
    return words(f"status.{worst}")


def _grade(grade: int, deformity: str, words: Language) -> str:
    return words(f"grade.{grade}", deformity=words(f"deformity.{deformity}")).strip()


def _levels(record: StudyRecord, words: Language) -> Section:
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
    rows: list[Row] = []
    missing = [level for level in REPORTED_LEVELS if level not in {v.level for v in record.vertebrae}]
    present = {v.level for v in record.vertebrae if v.level in REPORTED_LEVELS}
    first = min((REPORTED_LEVELS.index(level) for level in present if level is not None), default=len(REPORTED_LEVELS))
    above = [level for level in missing if REPORTED_LEVELS.index(level) < first]
    below = [level for level in missing if level not in above]
    for names, before in ((above, True), (below, False)):
        if not before:
            for vertebra in record.vertebrae:
                rows += _level_rows(vertebra, words)
        if names:
            rows.append(Row((_listed(names), words("text.absent_levels")), spans=True))
    table = Table(words("section.levels"), columns, tuple(rows))
    legend = Paragraph(words("text.not_measured_legend"), "note")
    return Section("levels", words("section.levels"), (table, legend))


def _listed(levels: list[str]) -> str:
    places = [REPORTED_LEVELS.index(level) for level in levels]
    return level_range(levels) if places == list(range(places[0], places[0] + len(places))) else ", ".join(levels)


def _level_rows(vertebra: Vertebra, words: Language) -> list[Row]:
    name = level_name(vertebra)
    numbers: list[Quantity | None] = [vertebra.fracture.height_loss if vertebra.fracture else None]
    heights = vertebra.heights_mm
    numbers += [heights.anterior, heights.middle, heights.posterior] if heights else [None, None, None]
    numbers += [vertebra.trabecular_hu, vertebra.vbmd_mg_cm3, vertebra.strength_n, vertebra.stiffness_n_mm]
    if vertebra.fracture is None and all(number is None for number in numbers):
        return [Row((name, words("text.not_measured", reason=_why(vertebra, "fracture", words))), spans=True)]
    absent = words("text.not_measured_mark")
    fracture = vertebra.fracture
    grade = _grade(fracture.genant_grade, fracture.deformity, words) if fracture else absent
    cells = [words.quantity(number, unit=False) if number is not None else absent for number in numbers]
    remarks = _remarks(vertebra, words)
    rows = [Row((name, grade, *cells))]
    if remarks:
        rows.append(Row(("", remarks), spans=True, kind="remark"))
    return rows


def _remarks(vertebra: Vertebra, words: Language) -> str:
    """Why single numbers are missing, and what is uncertain about the body."""
    reasons: dict[str, list[str]] = {}
    for key in ("fracture", "heights_mm", "trabecular_hu", "vbmd_mg_cm3", "strength_n", "stiffness_n_mm"):
        if getattr(vertebra, key) is None:
            reasons.setdefault(_why(vertebra, key, words), []).append(words(f"measure.{key}"))
    remarks = [f"{', '.join(names)} {words('text.not_measured', reason=why)}" for why, names in reasons.items()]
    remarks = [capitalised(remark) for remark in remarks]
    if vertebra.level is None:
        remarks.append(words("text.level_uncertain").capitalize() + ".")
    elif vertebra.level_confidence is not None and vertebra.level_confidence < 0.95:
        percent = f"{100 * vertebra.level_confidence:.0f}"
        text = words("text.level_probability", level=vertebra.level, percent=percent)
        others = sorted(vertebra.level_alternatives, key=lambda level: -vertebra.level_alternatives[level])
        if others:
            text += "; " + words("text.alternatives", levels=", ".join(others[:2]))
        remarks.append(text.capitalize() + ".")
    if vertebra.fracture is not None and vertebra.fracture.note:
        remarks.append(vertebra.fracture.note)
    return " ".join(remarks)


def _hip(record: StudyRecord, words: Language) -> Section:
    rows: list[Row] = []
    for femur in sorted(record.femora, key=lambda f: f.side != "right"):
        rows.append(Row((words(f"side.{femur.side.capitalize()}"),), kind="group"))
        rows += _femur_rows(femur, words, classed=record.assessment.hip_density_class is not None)
    if not rows:
        return Section(
            "hip", words("section.hip"), (Paragraph(words("text.not_measured", reason=words("text.hip_absent")) + "."),)
        )
    return Section("hip", words("section.hip"), (Table(words("section.hip"), _measure_columns(words), tuple(rows)),))


def _femur_rows(femur: Femur, words: Language, *, classed: bool) -> list[Row]:
    """All rows of one femur; `classed` is False where the assessment gives no class to T-scores (a child, say)."""
    status = words(f"status.{femur.status.value}")
    if femur.abmd_g_cm2 is None and femur.strength_n is None and femur.stiffness_n_mm is None:
        keys = ("abmd_g_cm2", "t_score", "strength_n")
        names = capitalised(", ".join(words(f"measure.{key}") for key in keys))
        return [Row((names, words("text.not_measured", reason=_reason_among([femur], keys[0], words))), spans=True)]
    rows: list[Row] = []
    if femur.abmd_g_cm2 is None:
        rows.append(_measure_row(words("measure.abmd_g_cm2"), None, _why(femur, "abmd_g_cm2", words), words))
    else:
        for region in ("total_hip", "femoral_neck", "trochanter", "intertrochanter"):
            name = words("measure.abmd_region", region=words(f"region.{region}"))
            number = getattr(femur.abmd_g_cm2, region)
            rows.append(_measure_row(name, number, _why(femur, f"abmd_g_cm2.{region}", words), words, status=status))
    for key, scores, leading in (("t", femur.t_scores, femur.t_score), ("z", femur.z_scores, femur.z_score)):
        shown = list(scores.values()) or ([leading] if leading is not None else [])
        for score in shown:
            name = words(f"measure.{key}_region", region=words(f"region.{score.region}"))
            class_ = words(f"class.{t_score_class(score)}") if key == "t" and classed else ""
            against = score.model_copy(update={"reference": score.population})
            rows.append(_measure_row(name, against, "", words, class_=class_, status=status))
        if not shown:
            rows.append(_measure_row(words(f"measure.{key}_score"), None, _why(femur, f"{key}_score", words), words))
    tests = [(femur.strength_n, femur.stiffness_n_mm)] if femur.strength_n is not None else []
    tests += [(test.strength_n, test.stiffness_n_mm) for test in femur.other_tests]
    for strength, stiffness in tests:
        test_name = words.get(f"test.{strength.test}", strength.test)
        rows.append(_strength_row(words("measure.strength_test", test=test_name), femur, strength, words))
        if stiffness is not None:
            rows.append(
                _measure_row(words("measure.stiffness_test", test=test_name), stiffness, "", words, status=status)
            )
    if femur.strength_n is None:
        rows.append(
            _measure_row(capitalised(words("measure.strength_n")), None, _why(femur, "strength_n", words), words)
        )
        if femur.stiffness_n_mm is not None:
            rows.append(
                _measure_row(
                    capitalised(words("measure.stiffness_n_mm")), femur.stiffness_n_mm, "", words, status=status
                )
            )
    if femur.stiffness_n_mm is None:
        rows.append(
            _measure_row(
                capitalised(words("measure.stiffness_n_mm")), None, _why(femur, "stiffness_n_mm", words), words
            )
        )
    return rows


def _assessment(record: StudyRecord, words: Language) -> Section:
    assessment = record.assessment
    lead = assessment.statement
    if assessment.basis:
        lead += " " + words("text.based_on", basis=", ".join(assessment.basis))
    columns = (
        Column(words("column.rule"), share=4.0),
        Column(words("column.holds"), share=0.9),
        Column(words("column.basis"), share=3.6),
        Column(words("column.reference"), share=2.4),
    )
    answer = {True: words("text.yes"), False: words("text.no"), None: words("text.not_asked")}
    rows = tuple(Row((r.rule, answer[r.holds], r.basis, r.reference or "")) for r in assessment.rules)
    blocks: list[Paragraph | Table | Bullets] = [Paragraph(lead)]
    if rows:
        blocks.append(Table(words("section.assessment"), columns, rows))
    omitted = tuple((words("text.omitted_head", part=o.part), o.reason) for o in assessment.omitted)
    if omitted:
        blocks.append(Bullets(omitted))
    return Section("assessment", words("section.assessment"), tuple(blocks))


def _pictures(record: StudyRecord, words: Language) -> Section:
    items = tuple(
        DocumentPicture(
            number, figure.file, figure.caption, figure.alt, min(figure.width_mm or TEXT_WIDTH_MM, TEXT_WIDTH_MM)
        )
        for number, figure in enumerate(record.quality.figures, start=1)
    )
    return Section("pictures", words("section.pictures"), (Pictures(items),) if items else ())
