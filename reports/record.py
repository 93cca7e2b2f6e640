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
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reports.quantity import Quantity

SCHEMA_VERSION = "1.0"
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


class Part(BaseModel):
    """Base of every part of a record: immutable, strict about its keys, only finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, from_attributes=True)


class Severity(StrEnum):
    """`failure`: the number it concerns is withheld."""

    INFO = "info"
    WARNING = "warning"
    FAILURE = "failure"


class Status(StrEnum):
    """End state of a structure."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    ABSENT = "absent"


class Finding(Part):
    """One observation that the reader must see: a stable code in snake_case, how much it matters, one sentence."""

    code: str = Field(pattern=r"^[a-z0-9]+(_[a-z0-9]+)*$")
    severity: Severity
    text: str


class Software(Part):
    """What computed the record, in enough detail to compute it again."""

    name: str = "openbct"
    version: str
    python: str | None = None
    platform: str | None = None
    dependencies: dict[str, str] = Field(default_factory=dict, description="package name to version")
    settings: dict[str, Any] = Field(default_factory=dict, description="every parameter of the run")
    tables: dict[str, str] = Field(default_factory=dict, description="reference table or knowledge base to its version")


class Study(Part):
    """Which study, of whom, when; without anything that names the patient."""

    key: str = Field(min_length=1, description="pseudonymous key, also the name of the output folder")
    study_uid: str | None = None
    patient_age_years: float | None = Field(default=None, ge=0, le=130)
    patient_sex: Literal["F", "M", "O"] | None = None
    patient_height_m: float | None = Field(default=None, gt=0)
    patient_weight_kg: float | None = Field(default=None, gt=0)
    study_date: str | None = Field(default=None, description="ISO date of the CT")
    report_date: str = Field(description="ISO date on which the analysis was made")
    body_part: str | None = None
    signed_by: str | None = Field(default=None, description="None: preliminary, not signed by a clinician")
    patient_reference: str | None = Field(
        default=None, description="opaque local identifier, only if the site asked for it"
    )


class Acquisition(Part):
    """How the images were made, as the headers say; None where they say nothing."""

    modality: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    device_serial_number: str | None = None
    kvp: float | None = None
    kernel: str | None = None
    slice_thickness_mm: float | None = None
    contrast_agent: str | None = None
    table_height_mm: float | None = None
    gantry_tilt_deg: float | None = None
    reconstruction_diameter_mm: float | None = None
    tube_current_time_product_mas: float | None = None
    image_type: tuple[str, ...] = ()
    series_description: str | None = None
    protocol_name: str | None = None
    body_part: str | None = None
    patient_position: str | None = None


class UsedSeries(Part):
    """One stack of images that was measured: where it came from, its grid, and why it was chosen."""

    used_for: tuple[Literal["spine", "hips"], ...]
    selection_reason: str
    kind: Literal["dicom", "nifti", "memory"] = "dicom"
    series_uid: str | None = None
    frame_of_reference_uid: str | None = None
    sop_instance_uids: tuple[str, ...] = ()
    content_sha256: str | None = None
    shape: tuple[int, int, int] = Field(description="voxels along z, y, x of the canonical grid")
    spacing_mm: tuple[float, float, float] = Field(description="voxel edges along z, y, x")
    index_to_lps: tuple[tuple[float, float, float, float], ...] | None = Field(
        default=None, description="4 x 4: array index (k, j, i) of a voxel centre to DICOM LPS (x, y, z) in mm"
    )
    resampled: bool = False
    acquisition: Acquisition = Acquisition()
    findings: tuple[Finding, ...] = ()


class RejectedSeries(Part):
    """A stack that was there and was not used."""

    description: str
    code: str
    reason: str
    series_uid: str | None = None


class SeriesSection(Part):
    """The series of the study: those measured and those not, each with its reason."""

    used: tuple[UsedSeries, ...] = ()
    rejected: tuple[RejectedSeries, ...] = ()


class CalibrationSample(Part):
    """One reference material: what it reads on the CT and the density it stands for."""

    name: str
    hu: float
    density_mg_cm3: float
    hu_sd: float | None = None


class Calibration(Part):
    """HU to mineral density: ``density = slope * HU + intercept``."""

    method: str
    mineral: str = Field(description="mineral basis of every density that follows from it, such as K2HPO4 or HA")
    slope_mg_cm3_per_hu: float
    intercept_mg_cm3: float
    covariance: tuple[tuple[float, float], tuple[float, float]] | None = Field(
        default=None, description="of slope and intercept"
    )
    residual_mg_cm3: float | None = Field(default=None, description="root mean square of the samples about the line")
    reference: str | None = None
    series_uid: str | None = None
    samples: tuple[CalibrationSample, ...] = ()
    findings: tuple[Finding, ...] = ()
    other_series: tuple[Calibration, ...] = Field(
        default=(), description="when spine and hips come from different series"
    )


class Strength(Quantity):
    """Bone strength in N from a virtual test; the profile names the material laws and the failure criterion."""

    test: str = Field(description="spine-compression, hip-sideways-fall or hip-stance")
    profile: str
    definition: str | None = Field(default=None, description="which point of the test is called strength")
    curve: tuple[tuple[float, float], ...] = Field(
        default=(), description="(displacement in mm, force in N), for a nonlinear test"
    )
    model: dict[str, float | int | str | bool] = Field(
        default_factory=dict, description="size and solution: elements, dof, element_size_mm, iterations, residual, ..."
    )


class VirtualTest(Part):
    """A further virtual test of the same structure."""

    strength_n: Strength
    stiffness_n_mm: Quantity | None = None


class Heights(Part):
    """Heights of a vertebral body in its mid-sagittal plane."""

    anterior: Quantity
    middle: Quantity
    posterior: Quantity


class Fracture(Part):
    """Shape of a vertebral body, graded after Genant; present only if it was measured."""

    genant_grade: Literal[0, 1, 2, 3]
    deformity: Literal["none", "wedge", "biconcave", "crush"]
    height_loss: Quantity = Field(description="largest of the three height losses, in percent")
    height_losses: dict[Literal["wedge", "biconcave", "crush"], Quantity] = Field(default_factory=dict)
    grade_probabilities: dict[Literal["0", "1", "2", "3"], float] = Field(
        default_factory=dict, description="probability of each grade given the uncertainty of the heights"
    )
    note: str | None = None


class Structure(Part):
    """A bone with its state; the base of vertebrae and femora."""

    name: str
    label: int | None = Field(default=None, description="number in the label map")
    status: Status
    findings: tuple[Finding, ...] = ()
    not_measured: dict[str, Finding] = Field(
        default_factory=dict, description="key of an absent number (abmd_g_cm2.trochanter for a part) to the reason"
    )
    score: float | None = Field(default=None, ge=0, le=1, description="how well the segmentation fits the image")
    complete: bool = True
    further: dict[str, Quantity] = Field(default_factory=dict, description="additional measures by name")
    other_tests: tuple[VirtualTest, ...] = ()

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
    level_confidence: float | None = Field(default=None, ge=0, le=1)
    level_alternatives: dict[str, float] = Field(default_factory=dict)
    trabecular_hu: Quantity | None = None
    vbmd_mg_cm3: Quantity | None = None
    heights_mm: Heights | None = None
    fracture: Fracture | None = None
    strength_n: Strength | None = None
    stiffness_n_mm: Quantity | None = None

    def _numbers(self) -> dict[str, object]:
        keys = ("trabecular_hu", "vbmd_mg_cm3", "heights_mm", "fracture", "strength_n", "stiffness_n_mm")
        return {key: getattr(self, key) for key in keys}


class HipDensity(Part):
    """DXA-equivalent areal density by region; None for a region that could not be measured."""

    total_hip: Quantity | None = None
    femoral_neck: Quantity | None = None
    trochanter: Quantity | None = None
    intertrochanter: Quantity | None = None


class Score(Quantity):
    """A T- or Z-score: which region, against whom."""

    region: Literal["total_hip", "femoral_neck", "trochanter", "intertrochanter"]
    population: str = Field(description="reference population: survey, sex, age, scanner scale")


class Femur(Structure):
    """One proximal femur and what was measured on it.

    `t_score` leads: the lower of total hip and femoral neck. `t_scores` holds all regions. The same for `z_score`.
    """

    side: Literal["left", "right"]
    abmd_g_cm2: HipDensity | None = None
    t_score: Score | None = None
    t_scores: dict[str, Score] = Field(default_factory=dict)
    z_score: Score | None = None
    z_scores: dict[str, Score] = Field(default_factory=dict)
    strength_n: Strength | None = None
    stiffness_n_mm: Quantity | None = None

    def _numbers(self) -> dict[str, object]:
        keys = ("abmd_g_cm2", "t_score", "z_score", "strength_n", "stiffness_n_mm")
        numbers: dict[str, object] = {key: getattr(self, key) for key in keys}
        if self.abmd_g_cm2 is not None:
            numbers |= {f"abmd_g_cm2.{region}": getattr(self.abmd_g_cm2, region) for region in HipDensity.model_fields}
        return numbers


class Rule(Part):
    """One rule of the assessment and whether it holds: True, False, or None when it could not be asked."""

    rule: str
    holds: bool | None
    basis: str = Field(description="the numbers it was applied to, in words")
    reference: str | None = None


class Omission(Part):
    """A part of the assessment that was left out."""

    part: str
    code: str
    reason: str


class Assessment(Part):
    """The overall classification, with everything it rests on and everything it leaves out."""

    classification: Literal["high", "increased", "not_increased", "not_determined"]
    statement: str
    rules: tuple[Rule, ...] = ()
    references: tuple[str, ...] = ()
    basis: tuple[str, ...] = ()
    omitted: tuple[Omission, ...] = ()
    spine_vbmd_mg_cm3: Quantity | None = None
    spine_vbmd_levels: tuple[str, ...] = ()
    spine_density_class: Literal["normal", "low", "osteoporosis_range"] | None = None
    hip_density_class: Literal["normal", "low", "osteoporosis_range"] | None = None


class Element(Part):
    """One element that a service asks for, whether the study has it, and where that is seen."""

    element: str
    met: Literal["yes", "no", "unknown"]
    basis: str


class Coverage(BaseModel):
    """Payer coverage of one service on one date; the same keys as ``openbct coverage --json``.

    Further keys of the coverage engine are kept as they are.
    """

    model_config = ConfigDict(frozen=True, extra="allow", from_attributes=True)

    status: str
    last_known_status: str | None = None
    payer: str | None = None
    policy: str | None = None
    date_of_service: str | None = None
    prior_authorization: str | None = None
    warnings: tuple[dict[str, Any] | str, ...] = ()
    sources: tuple[dict[str, Any], ...] = ()
    conflicts: tuple[dict[str, Any] | str, ...] = ()
    checklist: tuple[dict[str, Any], ...] = ()
    route: str | None = None
    text: str


class Service(Part):
    """One service code: does the study support it, and what does the payer's document say."""

    cpt: str
    supported: bool
    reasons: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    elements: tuple[Element, ...] = ()
    coverage: Coverage | None = None


class Figure(Part):
    """A picture file beside the record."""

    id: str
    file: str = Field(description="path relative to the record, with forward slashes")
    caption: str
    width_mm: float | None = Field(default=None, gt=0, description="printed width; None for the full width of the text")
    alt: str = Field(description="what the picture shows, for readers who do not see it")


class Quality(Part):
    """What concerns the whole study, and the pictures by which its quality can be judged."""

    findings: tuple[Finding, ...] = ()
    limits: tuple[str, ...] = Field(default=(), description="sentences on the limits of this analysis")
    figures: tuple[Figure, ...] = ()


class StudyRecord(Part):
    """One study: what was examined, what was measured, how sure it is, what is missing and why."""

    schema_version: str = Field(default=SCHEMA_VERSION, pattern=r"^\d+\.\d+$")
    software: Software
    study: Study
    series: SeriesSection = SeriesSection()
    calibration: Calibration | None = None
    vertebrae: tuple[Vertebra, ...] = ()
    femora: tuple[Femur, ...] = ()
    assessment: Assessment
    services: tuple[Service, ...] = ()
    quality: Quality = Quality()
    timings_s: dict[str, float] = Field(default_factory=dict, description="seconds by stage")

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
    """JSON schema (draft 2020-12) of `StudyRecord`; the shipped file ``schema/record-1.0.json`` holds the same."""
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

    Records of the same major version are read: keys that a newer minor version added are left aside.

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
