"""Calibration files: a line measured on one scanner with a phantom, stored with what it is valid for."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.density import tables
from pipeline.errors import Finding, InputRefused, Severity
from pipeline.volume import Acquisition

_TABLE_HEIGHT_MM = 30.0


class CalibrationRecord(BaseModel):
    """Content of a calibration file (JSON).

    Attributes
    ----------
    slope_mg_cm3_per_hu, intercept_mg_cm3 : float
        ``density = slope * HU + intercept``.
    mineral : str
        ``"K2HPO4"`` or ``"HA"``.
    covariance : 2 x 2 floats
        Of slope and intercept.
    kvp : float
        Tube voltage the line is valid for.
    device_serial_number, kernel : str or None
        Of the scanner; None means that the file does not restrict it.
    measured_on, valid_until : date or None
    table_height_mm : float or None
    reference : str or None
        Which phantom, which software.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    slope_mg_cm3_per_hu: float = Field(gt=0.2, lt=2.0)
    intercept_mg_cm3: float = Field(gt=-200, lt=200)
    mineral: str = Field(pattern="^(K2HPO4|HA)$")
    covariance: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 0.0), (0.0, 0.0))
    kvp: float = Field(gt=40, lt=200)
    device_serial_number: str | None = None
    kernel: str | None = None
    measured_on: date | None = None
    valid_until: date | None = None
    table_height_mm: float | None = None
    reference: str | None = None


def read(path: Path) -> CalibrationRecord:
    """Read a calibration file.

    Raises
    ------
    InputRefused
        ``calibration_unreadable`` with the field that is wrong.
    """
    remedy = "Give phantom, internal, kvp, or the path of a calibration file."
    try:
        return CalibrationRecord.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        detail = f"the calibration file cannot be read ({error.strerror or type(error).__name__})."
        raise InputRefused("calibration_unreadable", detail, subject=path.name, remedy=remedy) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "content"
        detail = f"{where}: {first['msg']}."
        raise InputRefused("calibration_unreadable", detail, subject=path.name, remedy=remedy) from error
    except ValueError as error:
        raise InputRefused("calibration_unreadable", "not a JSON file.", subject=path.name, remedy=remedy) from error


def check_match(
    record: CalibrationRecord, acquisition: Acquisition, *, subject: str
) -> tuple[tuple[Finding, ...], float]:
    """Whether a record fits a scan, and the relative uncertainty that drift adds.

    Raises
    ------
    InputRefused
        ``calibration_mismatch`` if tube voltage or scanner are known to differ.
    """
    findings: list[Finding] = []
    if acquisition.kvp is not None and abs(acquisition.kvp - record.kvp) > 2:
        detail = f"the calibration is for {record.kvp:.0f} kVp, the scan was made at {acquisition.kvp:.0f} kVp."
        raise InputRefused("calibration_mismatch", detail, subject=subject)
    serial = acquisition.device_serial_number
    if record.device_serial_number and serial and serial.strip() != record.device_serial_number.strip():
        detail = "the calibration is for another scanner (device serial numbers differ)."
        raise InputRefused("calibration_mismatch", detail, subject=subject)
    unknown = [
        word
        for word, known in (
            ("tube voltage", acquisition.kvp is not None),
            ("scanner", bool(serial) or not record.device_serial_number),
        )
        if not known
    ]
    if unknown:
        text = (
            f"The scan does not record its {' and '.join(unknown)}, so the match of the calibration is not confirmed."
        )
        findings.append(Finding("calibration_match_unconfirmed", Severity.WARNING, text))
    if record.kernel and acquisition.kernel and record.kernel != acquisition.kernel:
        text = f"The calibration was made with kernel {record.kernel}, the scan with {acquisition.kernel}."
        findings.append(Finding("calibration_kernel_differs", Severity.WARNING, text))
    if record.table_height_mm is not None and acquisition.table_height_mm is not None:
        apart = abs(record.table_height_mm - acquisition.table_height_mm)
        if apart > _TABLE_HEIGHT_MM:
            text = f"Table height differs by {apart:.0f} mm between calibration and scan."
            findings.append(Finding("calibration_table_height", Severity.WARNING, text))
    drift = 0.0
    scanned = _date_or_none(acquisition.acquisition_date)
    if scanned and record.measured_on:
        years = abs((scanned - record.measured_on).days) / 365.25
        drift = years * tables.number("uncertainty.asynchronous.drift_per_year")
    if scanned and record.valid_until and scanned > record.valid_until:
        findings.append(
            Finding(
                "calibration_expired",
                Severity.WARNING,
                f"The calibration expired {(scanned - record.valid_until).days} days before the scan.",
            )
        )
    return tuple(findings), drift


def _date_or_none(text: str | None) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        return None
