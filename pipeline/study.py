"""One study from end to end: choose the series, read, segment, measure, record, render.

Volumes are worked on one at a time, so that memory stays bounded by one volume even when spine and hips come from different
series.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pipeline import __version__, errors
from pipeline.assessment import assess
from pipeline.documents import fields_of, write_dicom, write_label_map, write_record_and_documents
from pipeline.errors import Finding, InputRefused, Severity
from pipeline.ingest import Selection, Stack, Study, load_volume, read_source_headers, select, study_key
from pipeline.measure import Measured, measure
from pipeline.pictures import evidence_of
from pipeline.provenance import software_of, table_versions
from pipeline.reference_population import reference_population
from pipeline.segmentation.chain import segment
from pipeline.segmentation.compare import beside_own_chain
from pipeline.segmentation.masks import read_masks
from pipeline.segmentation.model import Segmentation
from pipeline.segmentation.segmenter import total_segmentator
from pipeline.settings import Settings
from pipeline.strength.reference import with_percentiles
from pipeline.volume import Acquisition, Volume
from reports import record
from reports.coverage import Knowledge, LineOfBusiness
from reports.coverage.services import other_services, services_of
from reports.evidence import Evidence
from reports.pictures import with_pictures

__all__ = ["LIMITS", "Region", "Settings", "analyse_study"]

LIMITS = (
    "Research use only; not a medical device. The numbers have not been validated for clinical decisions.",
    "Strength is that of an open voxel model under a named profile; it is not comparable with strengths of other programs.",
    "Areal density is projected from CT and DXA-equivalent only within the published error of such projections.",
)

Region = Literal["spine", "hips"]


@dataclass
class _Stopwatch:
    """Seconds by stage, and the stage that is running."""

    on_stage: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)
    _current: str | None = None
    _since: float = 0.0

    def begin(self, stage: str) -> None:
        self.end()
        self._current, self._since = stage, time.perf_counter()
        self.on_stage(stage)

    def end(self) -> None:
        if self._current is not None:
            spent = time.perf_counter() - self._since
            self.seconds[self._current] = round(self.seconds.get(self._current, 0.0) + spent, 3)
            self._current = None

    @contextmanager
    def total(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.end()
        self.seconds["total"] = round(time.perf_counter() - began, 3)


@dataclass
class _Work:
    """One volume's results, without the volume."""

    regions: tuple[Region, ...]
    series: record.UsedSeries
    segmentation: Segmentation
    measured: Measured
    evidence: Evidence
    headers: list[Any]


def analyse_study(
    study: Study, folder: Path, settings: Settings, *, on_stage: Callable[[str], None] | None = None
) -> record.StudyRecord:
    """Analyse one study and write all its files into `folder`.

    A study from which no volume can be made still leaves a record and a report that say why.

    Parameters
    ----------
    study : Study
        From `pipeline.ingest.find_studies`.
    folder : Path
        Exists and is empty.
    settings : Settings
    on_stage : callable, optional
        Told the name of each stage as it begins.

    Returns
    -------
    StudyRecord
        As written to ``folder/record.json``.
    """
    watch = _Stopwatch(on_stage or (lambda _stage: None))
    with watch.total():
        watch.begin("selection")
        selection: Selection | None = None
        refusals: list[Finding] = []
        try:
            selection = select(study, series_uid=settings.series_uid)
        except InputRefused as refusal:
            refusals.append(_finding(refusal))
        works: list[_Work] = []
        if selection is not None:
            for stack, regions, reason in _stacks(selection):
                try:
                    works.append(_analyse_stack(stack, regions, reason, folder, settings, watch, index=len(works)))
                except InputRefused as refusal:
                    refusals.append(_finding(refusal))
        watch.begin("record")
        made = _record(study, selection, works, refusals, settings)
        if (reference := settings.reference()) is not None:
            made = with_percentiles(made, reference)
        watch.begin("pictures")
        made = with_pictures(made, _joined([w.evidence for w in works]), folder, language=settings.language)
        watch.begin("documents")
        written = write_record_and_documents(made, folder, language=settings.language)
        pdf = next(path for path in written if path.suffix == ".pdf").read_bytes()
        for index, work in enumerate(works):
            if work.headers:
                part = _only(made, work)
                target = folder if index == 0 else folder / f"series{index + 1}"
                target.mkdir(exist_ok=True)
                write_dicom(
                    part,
                    work.segmentation,
                    work.headers,
                    target,
                    version=__version__,
                    pdf=pdf,
                    pictures_in=folder if settings.dicom_extras and index == 0 else None,
                    fields=fields_of(work.measured) if settings.dicom_extras else (),
                )
    # Only the timings are new: the documents show none of those of the last stage.
    made = made.model_copy(update={"timings_s": watch.seconds})
    record.save_record(made, folder / "record.json")
    return made


def _stacks(selection: Selection) -> Iterator[tuple[Stack, tuple[Region, ...], str]]:
    """Each chosen stack once, with the regions it serves and why it was chosen."""
    spine, hips = selection.spine, selection.hips
    if spine.stack.key == hips.stack.key:
        yield spine.stack, ("spine", "hips"), spine.reason
    else:
        yield spine.stack, ("spine",), spine.reason
        yield hips.stack, ("hips",), hips.reason


def _analyse_stack(
    stack: Stack,
    regions: tuple[Region, ...],
    reason: str,
    folder: Path,
    settings: Settings,
    watch: _Stopwatch,
    *,
    index: int,
) -> _Work:
    watch.begin("reading")
    volume = _with_body_size(load_volume(stack), settings)
    watch.begin("segmentation")
    segmentation = _segmented(volume, regions, settings)
    measured = measure(
        volume,
        segmentation,
        calibration_choice=settings.calibration,
        phantom=settings.given_phantom(),
        dxa_scale=settings.dxa_scale,
        strength=settings.strength,
        profile=settings.profile,
        spine_load=settings.spine_load,
        threads=settings.threads,
        on_stage=watch.begin,
    )
    watch.begin("pictures")
    evidence = evidence_of(volume, segmentation, measured)
    watch.begin("label map")
    ending = "" if index == 0 else f"_{regions[0]}"
    write_label_map(segmentation, volume, folder, name=f"segmentation{ending}")
    if (arches := segmentation.arch_map()) is not None:
        write_label_map(arches, volume, folder, name=f"arches{ending}")
    headers = read_source_headers(volume.source) if volume.source.kind == "dicom" else []
    return _Work(regions, _used(volume, regions, reason), segmentation, measured, evidence, headers)


def _with_body_size(volume: Volume, settings: Settings) -> Volume:
    """The volume with the height and weight that the user gave in the place of those in the header."""
    return replace(volume, acquisition=_sized(volume.acquisition, settings))


def _sized(facts: Acquisition, settings: Settings) -> Acquisition:
    height_m = settings.height_cm / 100 if settings.height_cm is not None else facts.patient_height_m
    weight_kg = settings.weight_kg if settings.weight_kg is not None else facts.patient_weight_kg
    return replace(facts, patient_height_m=height_m, patient_weight_kg=weight_kg)


def _segmented(volume: Volume, regions: tuple[Region, ...], settings: Settings) -> Segmentation:
    """Structures of a volume by outside masks, an installed network, or the project's own chain.

    A network that was asked for and cannot run is a finding, and the own chain takes its place: a batch of thousands does not
    end because of it. Outside masks that do not fit are a refusal, because the user meant these and no others.
    """
    pins = dict(settings.pinned_levels)
    fallen_back: tuple[Finding, ...] = ()
    masks: Segmentation | None = None
    if settings.masks is not None:
        masks = read_masks(Path(settings.masks), volume, convention=settings.masks_convention)
    elif settings.segmenter == "totalsegmentator":
        try:
            masks = total_segmentator(volume)
        except InputRefused as refusal:
            text = f"TotalSegmentator could not be used, the own chain took its place. {refusal}"
            fallen_back = (Finding(refusal.reason, Severity.WARNING, text),)
    if masks is not None:
        return beside_own_chain(masks, volume, pins, refine=settings.refine_masks, threads=settings.threads)
    spine, hips = "spine" in regions, "hips" in regions
    own = segment(volume, spine=spine, hips=hips, pinned_levels=pins, threads=settings.threads)
    return replace(own, findings=(*fallen_back, *own.findings))


def _used(volume: Volume, regions: tuple[Region, ...], reason: str) -> record.UsedSeries:
    source, grid = volume.source, volume.grid
    facts = {key: value for key, value in asdict(volume.acquisition).items() if key in record.Acquisition.model_fields}
    if source.kind != "dicom":
        facts["series_description"] = None  # it is the name of the file, which may name the patient
    return record.UsedSeries(
        used_for=regions,
        selection_reason=reason,
        kind="dicom" if source.kind == "dicom" else "nifti",
        series_uid=source.series_uid,
        frame_of_reference_uid=source.frame_of_reference_uid,
        sop_instance_uids=source.sop_instance_uids,
        content_sha256=source.content_sha256 or None,
        shape=grid.shape,
        spacing_mm=grid.spacing_mm,
        index_to_lps=tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in grid.index_to_lps),
        resampled=source.resampled,
        acquisition=record.Acquisition(**facts),
        findings=_findings(volume.findings),
    )


def _record(
    study: Study, selection: Selection | None, works: list[_Work], refusals: list[Finding], settings: Settings
) -> record.StudyRecord:
    vertebrae = tuple(v for w in works for v in w.measured.vertebrae)
    femora = _with_absent_sides(tuple(f for w in works for f in w.measured.femora), works)
    facts = _sized(study.stacks[0].acquisition if not works else _facts(study, works), settings)
    about = record.Study.model_validate(
        {
            "key": study_key(study),
            "study_uid": study.uid or None,
            "patient_age_years": facts.patient_age_years,
            "patient_sex": facts.patient_sex if facts.patient_sex in ("F", "M", "O") else None,
            "patient_height_m": facts.patient_height_m,
            "patient_weight_kg": facts.patient_weight_kg,
            "study_date": study.date,
            "report_date": dt.date.today().isoformat(),
            "body_part": facts.body_part,
        }
    )
    software = software_of(settings.as_json())
    spine = next((w.measured.spine for w in works if w.measured.spine is not None), None)
    assessment = assess(vertebrae, femora, spine, age_years=about.patient_age_years)
    if any(f.abmd_g_cm2 is not None and f.abmd_g_cm2.total_hip is not None for f in femora):
        population = reference_population(about.patient_sex)
        assessment = assessment.model_copy(update={"reference_population": population})
    day = settings.date_of_service
    knowledge = settings.coverage_knowledge()
    services = services_of(
        vertebrae,
        femora,
        assessment,
        about,
        software,
        knowledge=knowledge,
        date_of_service=dt.date.fromisoformat(day) if day is not None else dt.date.today(),
        payer=settings.payer,
        plan=settings.plan_document(),
        line_of_business=LineOfBusiness(settings.line_of_business) if settings.line_of_business else None,
    )
    calibrations = [_calibration(w) for w in works]
    known = [c for c in calibrations if c is not None]
    findings = [*refusals, *(f for w in works for f in (*w.segmentation.findings, *w.measured.findings))]
    if works and not vertebrae and all(f.status is record.Status.ABSENT for f in femora):
        text = "Neither a vertebral body nor a proximal femur was found in the images: nothing could be measured."
        findings.insert(0, Finding("no_target_anatomy", Severity.FAILURE, text))
    if works and not any(w.headers for w in works):
        text = "The images are not DICOM: there is no study to add to, so no results were written as DICOM objects."
        findings.append(Finding("no_dicom_objects", Severity.INFO, text))
    if day is None and services:
        text = "No date of service was given: coverage is evaluated for the date of this report."
        findings.append(Finding("date_of_service_assumed", Severity.INFO, text))
    if settings.height_cm is not None or settings.weight_kg is not None:
        text = "Height or weight of the patient were given for this analysis and take the place of those in the images."
        findings.append(Finding("body_size_given", Severity.INFO, text))
    return record.StudyRecord(
        software=software.model_copy(update={"tables": _tables(knowledge)}),
        study=about,
        series=record.SeriesSection(
            used=tuple(w.series for w in works),
            rejected=_rejected(study, selection),
        ),
        calibration=known[0].model_copy(update={"other_series": tuple(known[1:])}) if known else None,
        vertebrae=vertebrae,
        femora=femora,
        assessment=assessment,
        services=services,
        other_services=other_services(services),
        quality=record.Quality(findings=_findings(findings), limits=LIMITS),
    )


def _tables(knowledge: Knowledge) -> dict[str, str]:
    return ({"coverage": knowledge.version} if knowledge.codes else {}) | table_versions()


def _facts(study: Study, works: list[_Work]) -> Acquisition:
    """Facts about the patient from the stack that was used, which may hold more than the first one of the study."""
    uid = works[0].series.series_uid
    return next(
        (s.acquisition for series in study.series if series.uid == uid for s in series.stacks),
        study.stacks[0].acquisition,
    )


def _with_absent_sides(femora: tuple[record.Femur, ...], works: list[_Work]) -> tuple[record.Femur, ...]:
    """Both sides stand in the record of a study whose hips were looked for; a side that is not in view is ``absent``."""
    if not any("hips" in w.regions for w in works):
        return femora
    found = {f.side for f in femora}
    reason = record.Finding(
        code="not_in_view", severity=record.Severity.INFO, text="No proximal femur of this side was found in the scan."
    )
    sides: tuple[Literal["left", "right"], ...] = ("left", "right")
    missing = tuple(
        record.Femur(name=f"femur_{side}", side=side, status=record.Status.ABSENT, findings=(reason,), complete=False)
        for side in sides
        if side not in found
    )
    return tuple(sorted((*femora, *missing), key=lambda f: f.side))


def _calibration(work: _Work) -> record.Calibration | None:
    made = work.measured.calibration
    if made is None:
        return None
    (a, b), (c, d) = made.covariance.tolist()
    return record.Calibration(
        method=made.method,
        mineral=made.mineral,
        slope_mg_cm3_per_hu=made.slope_mg_cm3_per_hu,
        intercept_mg_cm3=made.intercept_mg_cm3,
        covariance=((a, b), (c, d)),
        reference=made.reference,
        series_uid=work.series.series_uid,
        samples=tuple(
            record.CalibrationSample(
                name=s.tissue, hu=s.hu, density_mg_cm3=float(made.density_mg_cm3(s.hu)), hu_sd=s.sd_hu
            )
            for s in made.samples
        ),
        alternatives=tuple(record.CalibrationAlternative(**asdict(other)) for other in made.alternatives),
        budget_mg_cm3=dict(made.budget),
        findings=_findings([Finding("calibration_choice", Severity.INFO, _capitalised(made.reason)), *made.findings]),
    )


def _capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:].rstrip(".") + "."


def _rejected(study: Study, selection: Selection | None) -> tuple[record.RejectedSeries, ...]:
    from pipeline.ingest import verdict_on

    used = {selection.spine.stack.key, selection.hips.stack.key} if selection is not None else set()
    rows = []
    for series in study.series:
        for stack in series.stacks:
            if stack.key in used:
                continue
            verdict = verdict_on(stack)
            reason = selection.why_not(stack) if selection is not None and verdict.usable else verdict.reason
            rows.append(
                record.RejectedSeries(
                    description=stack.name if stack.kind == "dicom" else "NIfTI volume",
                    code=verdict.code,
                    reason=reason,
                    series_uid=series.uid or None,
                )
            )
    return tuple(rows)


def _joined(parts: list[Evidence]) -> Evidence:
    """The evidence of all volumes as one."""
    return Evidence(
        sagittal=next((p.sagittal for p in parts if p.sagittal is not None), None),
        coronal=next((p.coronal for p in parts if p.coronal is not None), None),
        crops=tuple(c for p in parts for c in p.crops),
        hips=tuple(h for p in parts for h in p.hips),
        fields=tuple(f for p in parts for f in p.fields),
    )


def _only(whole: record.StudyRecord, work: _Work) -> record.StudyRecord:
    """The record with the structures of one series, for DICOM objects that refer to that series."""
    names = set(work.segmentation.names().values())
    return whole.model_copy(
        update={
            "vertebrae": tuple(v for v in whole.vertebrae if v.name in names),
            "femora": tuple(f for f in whole.femora if f.name in names),
        }
    )


def _finding(refusal: errors.Refusal) -> Finding:
    """A refusal for the record: without its subject, which may be the name of a file."""
    text = refusal.detail[:1].upper() + refusal.detail[1:] + (f" {refusal.remedy}" if refusal.remedy else "")
    return Finding(refusal.reason, Severity.FAILURE, text)


def _findings(findings: Any) -> tuple[record.Finding, ...]:
    return tuple(
        record.Finding(code=f.code, severity=record.Severity(f.severity), text=f.text) for f in dict.fromkeys(findings)
    )
