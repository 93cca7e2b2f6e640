"""Where the numbers of a record come from: software, study, images, calibration; and what all parts of a record share."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def printable(value: Any) -> Any:
    """`value` with a replacement character for everything in its texts that no file or page can hold.

    Headers hold control characters and broken encodings; one of them must not keep a study from its report.
    """
    if isinstance(value, str):
        return _UNPRINTABLE.sub("\ufffd", value.rstrip("\x00"))
    if isinstance(value, (list, tuple)):
        return type(value)(printable(item) for item in value)
    if isinstance(value, dict):
        return {key: printable(item) for key, item in value.items()}
    return value


class Part(BaseModel):
    """Base of every part of a record: immutable, strict about its keys, only finite numbers, only printable text."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, from_attributes=True, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _hold_printable_text(cls, value: Any) -> Any:
        return printable(value)


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
    """One observation that the reader must see."""

    code: str = Field(pattern=r"^[a-z0-9]+(_[a-z0-9]+)*$")
    """Machine-readable reason in snake_case, stable across versions."""
    severity: Severity
    """``failure`` means that the number it concerns is withheld."""
    text: str
    """One sentence for a radiologist, with the measured value; no patient data."""


class Software(Part):
    """What computed the record, in enough detail to compute it again."""

    name: str = "openbct"
    """Name of the program."""
    version: str
    """Version of the program."""
    python: str | None = None
    """Version of Python."""
    platform: str | None = None
    """Operating system and processor."""
    dependencies: dict[str, str] = Field(default_factory=dict)
    """Package name to version."""
    code_sha256: str | None = None
    """Hash over the source files of the program: tells apart what calls itself the same version."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Every parameter of the run that can change a result."""
    tables: dict[str, str] = Field(default_factory=dict)
    """Reference table or knowledge base to its version."""


class Study(Part):
    """Which study, of whom, when; without anything that names the patient."""

    key: str = Field(min_length=1)
    """Pseudonymous key, also the name of the output folder."""
    study_uid: str | None = None
    """DICOM Study Instance UID."""
    patient_age_years: float | None = Field(default=None, ge=0, le=130)
    """Age at the CT."""
    patient_sex: Literal["F", "M", "O"] | None = None
    """As in the header."""
    patient_height_m: float | None = Field(default=None, gt=0)
    """As in the header."""
    patient_weight_kg: float | None = Field(default=None, gt=0)
    """As in the header."""
    study_date: str | None = None
    """ISO date of the CT."""
    report_date: str
    """ISO date on which the analysis was made."""
    body_part: str | None = None
    """As in the header."""
    signed_by: str | None = None
    """Who signed the report; null: preliminary, not signed by a clinician."""
    patient_reference: str | None = None
    """Opaque local identifier, only if the site asked for it."""


class Acquisition(Part):
    """How the images were made, as the headers say; null where they say nothing."""

    modality: str | None = None
    """DICOM modality."""
    manufacturer: str | None = None
    """Maker of the scanner."""
    model: str | None = None
    """Model of the scanner."""
    device_serial_number: str | None = None
    """Serial number of the scanner, by which a calibration of one scanner is recognised."""
    kvp: float | None = None
    """Tube voltage in kV."""
    kernel: str | None = None
    """Reconstruction kernel."""
    slice_thickness_mm: float | None = None
    """Nominal slice thickness."""
    contrast_agent: str | None = None
    """Contrast agent; an empty header does not prove that none was given."""
    table_height_mm: float | None = None
    """Height of the table."""
    gantry_tilt_deg: float | None = None
    """Nominal gantry tilt."""
    reconstruction_diameter_mm: float | None = None
    """Diameter of the reconstructed field."""
    tube_current_time_product_mas: float | None = None
    """Exposure in mAs."""
    image_type: tuple[str, ...] = ()
    """DICOM Image Type."""
    series_description: str | None = None
    """As in the header."""
    protocol_name: str | None = None
    """As in the header."""
    body_part: str | None = None
    """As in the header."""
    patient_position: str | None = None
    """Such as ``HFS``: head first, supine."""


class UsedSeries(Part):
    """One stack of images that was measured: where it came from, its grid, and why it was chosen."""

    used_for: tuple[Literal["spine", "hips"], ...]
    """What was measured on it."""
    selection_reason: str
    """Why this stack was chosen."""
    kind: Literal["dicom", "nifti", "memory"] = "dicom"
    """What kind of files it came from."""
    series_uid: str | None = None
    """DICOM Series Instance UID."""
    frame_of_reference_uid: str | None = None
    """DICOM Frame of Reference UID."""
    sop_instance_uids: tuple[str, ...] = ()
    """The images, in the order of the slices upwards."""
    content_sha256: str | None = None
    """Hash of the voxel values and the grid."""
    shape: tuple[int, int, int]
    """Voxels along z, y, x of the canonical grid."""
    spacing_mm: tuple[float, float, float]
    """Voxel edges along z, y, x."""
    index_to_lps: tuple[tuple[float, float, float, float], ...] | None = None
    """4 x 4 matrix: array index (k, j, i) of a voxel centre to DICOM LPS (x, y, z) in mm."""
    resampled: bool = False
    """True if the grid is not that of the source (gantry tilt sheared back, a gap filled)."""
    acquisition: Acquisition = Acquisition()
    """How the images were made."""
    findings: tuple[Finding, ...] = ()
    """What is to be said about these images."""


class RejectedSeries(Part):
    """A stack that was there and was not used."""

    description: str
    """How it calls itself."""
    code: str
    """Machine-readable reason."""
    reason: str
    """One sentence."""
    series_uid: str | None = None
    """DICOM Series Instance UID."""


class SeriesSection(Part):
    """The series of the study: those measured and those not, each with its reason."""

    used: tuple[UsedSeries, ...] = ()
    """One entry for each stack that was measured."""
    rejected: tuple[RejectedSeries, ...] = ()
    """All other stacks."""


class CalibrationSample(Part):
    """One reference material: what it reads on the CT and the density it stands for."""

    name: str
    """Such as ``fat``, ``blood`` or the name of a phantom rod."""
    hu: float
    """What it reads."""
    density_mg_cm3: float
    """What it stands for, on the mineral basis of the calibration."""
    hu_sd: float | None = None
    """Standard deviation of the reading."""


class CalibrationAlternative(Part):
    """Another calibration that was possible on the same images, for comparison."""

    method: str
    """How its line was found."""
    slope_mg_cm3_per_hu: float
    """Slope of its line."""
    intercept_mg_cm3: float
    """Density at 0 HU."""
    density_at_130_hu_mg_cm3: float
    """What it makes of 130 HU."""
    uncertainty_mg_cm3: float
    """Standard uncertainty of that."""
    comparable: bool
    """False where its mineral scale is another one."""
    note: str = ""
    """What is particular to it."""


class Calibration(Part):
    """HU to mineral density: ``density = slope * HU + intercept``."""

    method: str
    """How the line was found."""
    mineral: str
    """Mineral basis of every density that follows from it, such as ``K2HPO4`` or ``HA``."""
    slope_mg_cm3_per_hu: float
    """Slope of the line."""
    intercept_mg_cm3: float
    """Density at 0 HU."""
    covariance: tuple[tuple[float, float], tuple[float, float]] | None = None
    """Covariance of slope and intercept."""
    residual_mg_cm3: float | None = None
    """Root mean square distance of the samples from the line."""
    reference: str | None = None
    """Where the method or its constants are published."""
    series_uid: str | None = None
    """The series it holds for."""
    samples: tuple[CalibrationSample, ...] = ()
    """The reference materials it rests on; empty for constants from elsewhere."""
    findings: tuple[Finding, ...] = ()
    """What is to be said about it."""
    alternatives: tuple[CalibrationAlternative, ...] = ()
    """The other methods that were possible on the same images."""
    budget_mg_cm3: dict[str, float] = Field(default_factory=dict)
    """Parts of its standard uncertainty at 100 mg/cm3 by name."""
    other_series: tuple[Calibration, ...] = ()
    """Further calibrations, when spine and hips come from different series."""
