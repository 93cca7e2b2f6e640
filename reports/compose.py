"""From a study record to the report as data: which sections, in which order, with which words.

The answer comes first, then what limits it, then one table per site in which absent numbers stand with their reason, then the
assessment, the pictures, services and coverage, and last methods and provenance.
"""

from __future__ import annotations

from reports.citations import Citations
from reports.compose_annex import methods_section, provenance_section, services_section
from reports.compose_sites import hip_section, levels_section, spine_section
from reports.document import Bullets, Column, Document, DocumentPicture, Paragraph, Pictures, Row, Section, Table
from reports.impression import impression
from reports.language import Language, load_language
from reports.language.phrases import spoken
from reports.record import Severity, StudyRecord

TEXT_WIDTH_MM = 178.0


def compose(record: StudyRecord, *, language: str = "en") -> Document:
    """The report on one study.

    Parameters
    ----------
    record : StudyRecord
    language : str
        Code of a file in ``reports/language``, or the path of a language file. Sentences of the record are printed in it where
        a template exists (`reports.language.phrases`), else as recorded.

    Raises
    ------
    ValueError
        If there is no such language.
    """
    words = load_language(language)
    record = spoken(record, words)
    study = record.study
    signed = words("mark.signed", who=study.signed_by) if study.signed_by else words("mark.draft")
    citations = Citations()
    sections = (
        Section("impression", words("section.impression"), (Bullets(impression(record, words)),)),
        _quality(record, words),
        spine_section(record, words, citations),
        levels_section(record, words),
        hip_section(record, words, citations),
        _assessment(record, words, citations),
        _pictures(record, words),
        services_section(record, words),
        methods_section(record, words, citations),
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
        thickness = made.slice_thickness_mm if made.slice_thickness_mm is not None else used.spacing_mm[0]
        images.append(
            ", ".join(
                (
                    words("fact.slices", thickness=f"{thickness:.1f}".replace(".", words.decimal_mark)),
                    words("fact.no_voltage") if made.kvp is None else words("fact.voltage", kvp=f"{made.kvp:.0f}"),
                    words("fact.kernel", kernel=made.kernel) if made.kernel else words("fact.no_kernel"),
                )
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
    subjects: dict[tuple[Severity, str], list[str]] = {}
    for subject, finding in record.all_findings():
        if finding.severity is Severity.INFO and subject not in ("study", "series", "calibration"):
            continue
        text = finding.text.removeprefix(f"{subject}: ")
        names = subjects.setdefault((finding.severity, text), [])
        name = subject_name(subject, words)
        if name and name not in names and not text.startswith(name):
            names.append(name)
    items = [
        (", ".join([words(f"severity.{severity.value}"), *names]) + ":", text)
        for (severity, text), names in subjects.items()
    ]
    if not items:
        return Section("quality", words("section.quality"), (Paragraph(words("text.no_finding")),))
    return Section("quality", words("section.quality"), (Bullets(tuple(items)),))


def _assessment(record: StudyRecord, words: Language, citations: Citations) -> Section:
    assessment = record.assessment
    lead = assessment.statement
    if assessment.basis and not assessment.rules:
        lead += " " + words("text.based_on", basis=", ".join(assessment.basis))
    columns = (
        Column(words("column.rule"), share=4.6),
        Column(words("column.holds"), share=1.0),
        Column(words("column.basis"), share=5.2),
        Column(words("column.reference"), share=1.2),
    )
    answer = {True: words("text.yes"), False: words("text.no"), None: words("text.not_asked")}
    rows = tuple(Row((r.rule, answer[r.holds], r.basis, citations.cite(r.reference))) for r in assessment.rules)
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
