"""From a study record to the report as data: which sections, in which order, with which words.

The answer comes first, then what limits it, then one table per site in which absent numbers stand with their reason, then the
assessment, the pictures, services and coverage, and last methods and provenance.
"""

from __future__ import annotations

from reports.citations import Citations
from reports.compose_annex import methods_section, provenance_section, services_section
from reports.compose_further import further_section
from reports.compose_levels import levels_section
from reports.compose_sites import hip_section, spine_section
from reports.document import Bullets, Column, Document, DocumentPicture, Paragraph, Pictures, Row, Section, Table
from reports.impression import impression
from reports.language import Language, load_language
from reports.language.phrases import spoken
from reports.record import Severity, StudyRecord
from reports.typesetting import typeset_all

TEXT_WIDTH_MM = 178.0
_POPULATION = "population"
"""The picture of the patient against a reference population."""
_WHOLE_STUDY = ("study", "series", "calibration")
_SAID_WITH_SERVICES = frozenset({"date_of_service_assumed"})
"""Findings about coverage, which say nothing on the images."""
_AS_WRITTEN = frozenset({"id", "file", "kind", "block", "align", "unit"})
"""Fields of a document that are no running text; units are set as units."""


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
        further_section(record, words),
        services_section(record, words),
        methods_section(record, words, citations),
    )
    identity = (provenance_section(record, words),)
    sections = (*typeset_all(sections, but=_AS_WRITTEN), *identity)
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


def _quality(record: StudyRecord, words: Language) -> Section:
    """What limits the study as a whole, the gravest first; what concerns one bone stands with its numbers."""
    said: dict[tuple[Severity, str], None] = {}
    for subject, finding in record.all_findings():
        if subject in _WHOLE_STUDY and finding.code not in _SAID_WITH_SERVICES:
            said[finding.severity, finding.text] = None
    items = tuple((words(f"severity.{severity.value}") + ":", text) for severity, text in said)
    if not items:
        return Section("quality", words("section.quality"), (Paragraph(words("text.no_finding")),))
    return Section("quality", words("section.quality"), (Bullets(items),))


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
    answer = {True: words("text.yes"), False: words("text.no"), None: words("text.not_evaluated")}
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
    blocks: list[Pictures | Paragraph] = [Pictures(items)] if items else []
    why = _why_no_population(record, words)
    if why:
        blocks.append(Paragraph(words("text.no_population", reason=why), "note"))
    return Section("pictures", words("section.pictures"), tuple(blocks))


def _why_no_population(record: StudyRecord, words: Language) -> str:
    """Why a hip density is not shown against a reference population by age; nothing where it is, or where there is none."""
    measured = any(f.abmd_g_cm2 is not None and f.abmd_g_cm2.total_hip is not None for f in record.femora)
    if not measured or any(figure.id == _POPULATION for figure in record.quality.figures):
        return ""
    study = record.study
    if study.patient_sex not in ("F", "M"):
        return words("text.no_population_sex")
    if record.assessment.reference_population is None:
        return words("text.no_population_table")
    return words("text.no_population_age") if study.patient_age_years is None else words("text.no_reason")
