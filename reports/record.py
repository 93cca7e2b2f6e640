"""The study record: everything that was found out about one study, as one object and one JSON file.

All renderings (HTML, PDF, DICOM, FHIR, cohort table) are views of this record, so none of them can say something else.
Rules that the model enforces, because a reader relies on them:

* a number is a `Quantity`, never a bare float;
* a number that is absent has a reason: an entry in `not_measured`, or a failure among the findings of the structure;
* a structure that failed or is absent carries no number;
* no name, no birth date, no file path: the study is known by a pseudonymous key and by its UIDs.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from reports.hip import HipDensity, HipRegions, Score
from reports.judgement import (
    Assessment,
    Coverage,
    Element,
    Omission,
    OtherService,
    ReferenceGroup,
    ReferencePopulation,
    Rule,
    Service,
)
from reports.migrations import migrated
from reports.origin import (
    Acquisition,
    Calibration,
    CalibrationAlternative,
    CalibrationSample,
    Finding,
    Part,
    RejectedSeries,
    SeriesSection,
    Severity,
    Software,
    Status,
    Study,
    UsedSeries,
)
from reports.quantity import Quantity

__all__ = [
    "SCHEMA_VERSION",
    "Acquisition",
    "Assessment",
    "Calibration",
    "CalibrationAlternative",
    "CalibrationSample",
    "Coverage",
    "Element",
    "Femur",
    "Figure",
    "Finding",
    "Fracture",
    "Heights",
    "HipDensity",
    "HipRegions",
    "Omission",
    "OtherService",
    "Quality",
    "RecordUnreadable",
    "ReferenceGroup",
    "ReferencePopulation",
    "RejectedSeries",
    "Rule",
    "Score",
    "SeriesSection",
    "Service",
    "Severity",
    "Software",
    "Status",
    "Strength",
    "Structure",
    "Study",
    "StudyRecord",
    "UsedSeries",
    "Vertebra",
    "VirtualTest",
    "json_schema",
    "load_record",
    "save_record",
    "schema_text",
    "write_atomically",
]

SCHEMA_VERSION = "1.3"
"""Version of the record format: a new minor version only adds keys, a new major version changes a meaning."""


class RecordUnreadable(ValueError):
    """A file is not a study record that this version can read.

    Attributes
    ----------
    reason : str
        ``not_json``, ``not_a_record``, ``schema_too_new`` or ``schema_invalid``.
    """

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class Strength(Quantity):
    """Bone strength in N from a virtual test."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    test: str
    """``spine-compression``, ``hip-sideways-fall`` or ``hip-stance``."""
    profile: str
    """Name of the profile: material laws, boundary conditions, failure criterion."""
    definition: str | None = None
    """Which point of the test is called strength."""
    curve: tuple[tuple[float, float], ...] = ()
    """Displacement in mm and force in N, for a nonlinear test."""
    model: dict[str, float | int | str | bool] = Field(default_factory=dict)
    """Size and solution: elements, degrees of freedom, element size, iterations, residual, ..."""


class VirtualTest(Part):
    """A further virtual test of the same structure."""

    strength_n: Strength
    """Strength in that test."""
    stiffness_n_mm: Quantity | None = None
    """Stiffness in that test."""


class Heights(Part):
    """Heights of a vertebral body in its mid-sagittal plane."""

    anterior: Quantity
    """At the front."""
    middle: Quantity
    """In the middle."""
    posterior: Quantity
    """At the back."""


class Fracture(Part):
    """Shape of a vertebral body, graded after Genant; present only if it was measured."""

    genant_grade: Literal[0, 1, 2, 3]
    """By height loss: 0 below 20 %, 1 from 20 %, 2 from 25 %, 3 from 40 %; grade 1 is for a reader to confirm."""
    deformity: Literal["none", "wedge", "biconcave", "crush"]
    """Which height is reduced."""
    height_loss: Quantity
    """Largest of the three height losses, in percent."""
    height_losses: dict[Literal["wedge", "biconcave", "crush"], Quantity] = Field(default_factory=dict)
    """The three height losses, in percent."""
    grade_probabilities: dict[Literal["0", "1", "2", "3"], float] = Field(default_factory=dict)
    """Probability of each grade given the uncertainty of the heights."""
    note: str | None = None
    """What the reader must know about this grade."""


class Structure(Part):
    """A bone with its state; the base of vertebrae and femora."""

    name: str
    """``vertebra_L1``, ``vertebra_u1`` (level not certain), ``femur_left``; as in the label map."""
    label: int | None = None
    """Number in the label map."""
    status: Status
    """Failed and absent structures carry no number."""
    findings: tuple[Finding, ...] = ()
    """What is to be said about this structure."""
    not_measured: dict[str, Finding] = Field(default_factory=dict)
    """Key of an absent number (``abmd_g_cm2.trochanter`` for a part) to the reason for its absence."""
    score: float | None = Field(default=None, ge=0, le=1)
    """How well the segmentation fits the image."""
    complete: bool = True
    """False when the field of view cuts the structure."""
    further: dict[str, Quantity] = Field(default_factory=dict)
    """Additional measures by name."""
    other_tests: tuple[VirtualTest, ...] = ()
    """Virtual tests besides the leading one."""

    def reason_for(self, key: str) -> Finding | None:
        """Why the number `key` is absent; None if nobody said so.

        The entry in `not_measured` if there is one, else the first failure, else (for an absent structure) the first finding.
        """
        for name in (key, key.partition(".")[0]):
            if name in self.not_measured:
                return self.not_measured[name]
        failures = [f for f in self.findings if f.severity is Severity.FAILURE]
        if failures:
            return failures[0]
        return self.findings[0] if self.status is Status.ABSENT and self.findings else None

    def _numbers(self) -> dict[str, object]:
        raise NotImplementedError

    @model_validator(mode="after")
    def _every_absent_number_has_a_reason(self) -> Structure:
        numbers = self._numbers()
        if self.status in (Status.FAILED, Status.ABSENT):
            present = sorted(key for key, number in numbers.items() if number is not None)
            if present or self.further or self.other_tests:
                raise ValueError(f"{self.name}: status {self.status} but there are numbers: {present or 'further'}")
        for key, number in numbers.items():
            if number is None and self.reason_for(key) is None:
                raise ValueError(f"{self.name}: {key} is absent and no finding says why")
            if number is not None and key in self.not_measured:
                raise ValueError(f"{self.name}: {key} is there and also listed as not measured")
        return self


class Vertebra(Structure):
    """One vertebral body and what was measured on it."""

    level: str | None = Field(default=None, pattern=r"^(C7|T([1-9]|1[0-3])|L[1-6])$")
    """``L1``, or null when the level is not certain enough to name."""
    level_confidence: float | None = Field(default=None, ge=0, le=1)
    """Probability of the level; null when the user named it or no anchor was in view."""
    level_alternatives: dict[str, float] = Field(default_factory=dict)
    """Other levels and their probabilities."""
    trabecular_hu: Quantity | None = None
    """Mean CT number of the trabecular compartment."""
    vbmd_mg_cm3: Quantity | None = None
    """Mean density of the trabecular compartment."""
    heights_mm: Heights | None = None
    """Anterior, middle and posterior height."""
    fracture: Fracture | None = None
    """Grade and kind of deformity."""
    strength_n: Strength | None = None
    """Strength in compression."""
    stiffness_n_mm: Quantity | None = None
    """Stiffness in compression."""

    def _numbers(self) -> dict[str, object]:
        keys = ("trabecular_hu", "vbmd_mg_cm3", "heights_mm", "fracture", "strength_n", "stiffness_n_mm")
        return {key: getattr(self, key) for key in keys}


class Femur(Structure):
    """One proximal femur and what was measured on it.

    `t_score` leads: the lower of total hip and femoral neck. `t_scores` holds all regions. The same for `z_score`. Content
    and area stand where areal density does, and are absent for its reasons.
    """

    side: Literal["left", "right"]
    """Side of the patient."""
    abmd_g_cm2: HipDensity | None = None
    """Areal density by region."""
    bmc_g: HipRegions | None = None
    """Mineral content by region: areal density times area."""
    area_cm2: HipRegions | None = None
    """Projected area of the bone by region."""
    dxa_scale: Literal["hologic", "lunar"] | None = None
    """Maker of DXA devices on whose scale areal density was asked for as well."""
    dxa_scale_abmd_g_cm2: HipRegions | None = None
    """Areal density on that scale, not classified; there are equations for total hip and femoral neck."""
    t_score: Score | None = None
    """The lower of total hip and femoral neck."""
    t_scores: dict[str, Score] = Field(default_factory=dict)
    """By region."""
    male_reference_t_scores: dict[str, Score] = Field(default_factory=dict)
    """Of men, in addition: by region against young men, an unverified reference; never classified."""
    z_score: Score | None = None
    """The lower of total hip and femoral neck."""
    z_scores: dict[str, Score] = Field(default_factory=dict)
    """By region."""
    strength_n: Strength | None = None
    """Strength in the leading test, a sideways fall."""
    stiffness_n_mm: Quantity | None = None
    """Stiffness in that test."""

    def reason_for(self, key: str) -> Finding | None:
        """As of any structure; content and area are absent for the reasons of areal density."""
        first, dot, region = key.partition(".")
        return super().reason_for(f"abmd_g_cm2{dot}{region}" if first in ("bmc_g", "area_cm2") else key)

    def _numbers(self) -> dict[str, object]:
        keys = ("abmd_g_cm2", "t_score", "z_score", "strength_n", "stiffness_n_mm")
        numbers: dict[str, object] = {key: getattr(self, key) for key in keys}
        if self.abmd_g_cm2 is not None:
            numbers |= {f"abmd_g_cm2.{region}": getattr(self.abmd_g_cm2, region) for region in HipDensity.model_fields}
        return numbers

    @model_validator(mode="after")
    def _content_and_area_stand_where_density_does(self) -> Femur:
        for key in ("bmc_g", "area_cm2", "dxa_scale_abmd_g_cm2"):
            beside: HipRegions | None = getattr(self, key)
            for region in HipRegions.model_fields if beside is not None else ():
                density = None if self.abmd_g_cm2 is None else getattr(self.abmd_g_cm2, region)
                if density is None and getattr(beside, region) is not None:
                    raise ValueError(f"{self.name}: {key}.{region} is there without an areal density")
        if (self.dxa_scale is None) != (self.dxa_scale_abmd_g_cm2 is None):
            raise ValueError(f"{self.name}: areal density on a DXA scale and the name of the scale go together")
        return self


class Figure(Part):
    """A picture file beside the record."""

    id: str
    """Which picture: ``spine``, ``vertebrae``, ``hips``, ``mechanics``, ``density``, ``population``, ``calibration``, or
    ``curves``."""
    file: str
    """Path relative to the record, with forward slashes."""
    caption: str
    """As printed under it."""
    width_mm: float | None = Field(default=None, gt=0)
    """Printed width; null for the full width of the text."""
    alt: str = Field(min_length=1)
    """What the picture shows, for readers who do not see it."""


class Quality(Part):
    """What concerns the whole study, and the pictures by which its quality can be judged."""

    findings: tuple[Finding, ...] = ()
    """What is to be said about the study as a whole."""
    limits: tuple[str, ...] = ()
    """Sentences on the limits of this analysis."""
    figures: tuple[Figure, ...] = ()
    """The pictures of the report, in order."""


class StudyRecord(Part):
    """One study: what was examined, what was measured, how sure it is, what is missing and why."""

    schema_version: str = Field(default=SCHEMA_VERSION, pattern=r"^\d+\.\d+$")
    """Version of the record format."""
    software: Software
    """What computed the record."""
    study: Study
    """Which study, of whom, when."""
    series: SeriesSection = SeriesSection()
    """The images that were measured, and those that were not."""
    calibration: Calibration | None = None
    """CT numbers to density; null when none was possible: then there is no density either."""
    vertebrae: tuple[Vertebra, ...] = ()
    """From cranial to caudal."""
    femora: tuple[Femur, ...] = ()
    """At most one of each side."""
    assessment: Assessment
    """The overall classification."""
    services: tuple[Service, ...] = ()
    """Service codes with what supports them and their coverage."""
    other_services: tuple[OtherService, ...] = ()
    """Neighbouring service codes, with why they do or do not apply."""
    quality: Quality = Quality()
    """What concerns the whole study, and the pictures."""
    timings_s: dict[str, float] = Field(default_factory=dict)
    """Seconds by stage."""

    @model_validator(mode="after")
    def _hangs_together(self) -> StudyRecord:
        names = [structure.name for structure in (*self.vertebrae, *self.femora)]
        if len(set(names)) != len(names):
            raise ValueError("two structures have the same name")
        if self.calibration is None:
            densities = [(v.name, v.vbmd_mg_cm3) for v in self.vertebrae] + [
                (f.name, f.abmd_g_cm2) for f in self.femora
            ]
            for name, density in densities:
                if density is not None:
                    raise ValueError(f"{name} has a density but the record has no calibration")
        return self

    def all_findings(self) -> list[tuple[str, Finding]]:
        """Every finding with what it is about, those of the whole study first, failures before warnings."""
        order = list(Severity)[::-1]
        found = [("study", f) for f in self.quality.findings]
        found += [("series", f) for used in self.series.used for f in used.findings]
        found += [("calibration", f) for f in (self.calibration.findings if self.calibration else ())]
        found += [(s.name, f) for s in (*self.vertebrae, *self.femora) for f in s.findings]
        return sorted(found, key=lambda item: order.index(item[1].severity))


def json_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of `StudyRecord`; the newest file in ``schema/`` holds the same."""
    schema = StudyRecord.model_json_schema(mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"openbct study record {SCHEMA_VERSION}",
    } | schema


def schema_text() -> str:
    """The text of the shipped schema file."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def save_record(record: StudyRecord, path: str | os.PathLike[str]) -> Path:
    """Write `record` as UTF-8 JSON; the file appears whole or not at all (temporary name, then rename)."""
    return write_atomically(path, record.model_dump_json(indent=1) + "\n")


def load_record(path: str | os.PathLike[str]) -> StudyRecord:
    """Read a record.

    Older versions are brought up to date (`reports.migrations`). Newer minor versions of the same major version are read
    without the keys that they added.

    Raises
    ------
    RecordUnreadable
        If the file is not JSON, not a record, of a newer major version, or does not satisfy the schema.
    OSError
        If the file cannot be read.
    """
    file = Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RecordUnreadable("not_json", f"{file.name} is not a JSON file: {error}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, str) or not version.partition(".")[0].isdigit():
        raise RecordUnreadable("not_a_record", f"{file.name} is not a study record: it has no schema_version.")
    major, _, minor = version.partition(".")
    ours_major, _, ours_minor = SCHEMA_VERSION.partition(".")
    if int(major) > int(ours_major):
        raise RecordUnreadable(
            "schema_too_new", f"{file.name} has schema {version}, this version reads {SCHEMA_VERSION}: update openbct."
        )
    content = migrated(content)
    if major == ours_major and minor.isdigit() and int(minor) > int(ours_minor):
        content = _without_unknown_keys(content)
    try:
        return StudyRecord.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"]) or "the record"
        raise RecordUnreadable("schema_invalid", f"{file.name}: {where}: {first['msg']}") from error


def _without_unknown_keys(content: dict[str, Any]) -> dict[str, Any]:
    """`content` without the keys that this version does not know."""
    try:
        StudyRecord.model_validate(content)
    except ValidationError as error:
        for problem in error.errors():
            if problem["type"] == "extra_forbidden":
                holder: Any = content
                for step in problem["loc"][:-1]:
                    holder = holder[step]
                holder.pop(problem["loc"][-1], None)
    return content


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write `content` under a temporary name in the same folder, then rename: a reader never sees half a file."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return target


def _write_schema() -> None:
    """Bring the shipped schema file up to date: ``python -m reports.record``."""
    write_atomically(Path(__file__).parent / "schema" / f"record-{SCHEMA_VERSION}.json", schema_text())


if __name__ == "__main__":
    _write_schema()
