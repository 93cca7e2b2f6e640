"""Calibration files: the lines measured on a scanner with a phantom, stored with what each is valid for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.density import tables
from pipeline.errors import Finding, InputRefused, Severity
from pipeline.ingest.kernels import kernel_class
from pipeline.volume import Acquisition

_TABLE_HEIGHT_MM = 30.0
_SAME_KVP = 2.0
_DAYS_OF_A_YEAR = 365.25
_COMPARE_AT_HU = 130.0
"""HU at which lines are compared: trabecular bone of a healthy vertebra."""
_DRIFT_SD = 2.0
_SHORTEST_TREND_DAYS = 30
_MISMATCH_REMEDY = "Measure this scanner and voltage with openbct calibrate, or leave the file out."


class CalibrationRecord(BaseModel):
    """One line, measured on one scanner at one tube voltage.

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
    device_serial_number, manufacturer, model, kernel : str or None
        Of the scanner; None means that the record does not restrict it.
    measured_on, valid_until : date or None
    table_height_mm : float or None
    phantom : str or None
        Name of the phantom in the tables, or of the certificate that was given.
    content_sha256 : str or None
        Of the image the line was measured in, so that one scan does not enter twice.
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
    manufacturer: str | None = None
    model: str | None = None
    kernel: str | None = None
    measured_on: date | None = None
    valid_until: date | None = None
    table_height_mm: float | None = None
    phantom: str | None = None
    content_sha256: str | None = None
    reference: str | None = None

    def density_mg_cm3(self, hu: float) -> float:
        return self.slope_mg_cm3_per_hu * hu + self.intercept_mg_cm3

    def standard_error_mg_cm3(self, hu: float) -> float:
        """Standard error of `density_mg_cm3` from the fit alone."""
        gradient = np.array([hu, 1.0])
        return float(np.sqrt(max(gradient @ np.array(self.covariance) @ gradient, 0.0)))


class ScannerFile(BaseModel):
    """Content of a calibration file: every line that was measured, in the order of time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["openbct-calibrations"] = "openbct-calibrations"
    version: Literal[1] = 1
    entries: tuple[CalibrationRecord, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Match:
    """The line of a file that suits a scan.

    Attributes
    ----------
    record : CalibrationRecord
    findings : tuple of Finding
        What does not match in full.
    drift_relative : float
        Relative standard uncertainty of densities for the time between the two.
    """

    record: CalibrationRecord
    findings: tuple[Finding, ...]
    drift_relative: float


def read(path: Path) -> tuple[CalibrationRecord, ...]:
    """Read a calibration file: a `ScannerFile`, or a single `CalibrationRecord`.

    Raises
    ------
    InputRefused
        ``calibration_unreadable`` with the field that is wrong.
    """
    remedy = "Give auto, phantom, internal, kvp, or the path of a calibration file (openbct calibrate writes one)."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and "entries" in content:
            return ScannerFile.model_validate(content).entries
        return (CalibrationRecord.model_validate(content),)
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


def write(path: Path, records: Sequence[CalibrationRecord]) -> None:
    """Write records, oldest first; an existing file is replaced only when the new one is complete."""
    ordered = sorted(records, key=lambda record: (record.measured_on or date.min, record.kvp))
    partial = path.with_name(path.name + ".partial")
    partial.write_text(ScannerFile(entries=tuple(ordered)).model_dump_json(indent=1), encoding="utf-8")
    partial.replace(path)


def match(records: Sequence[CalibrationRecord], acquisition: Acquisition, *, subject: str) -> Match:
    """The record that suits a scan: same scanner and voltage, then the nearest kernel, then the nearest day.

    Raises
    ------
    InputRefused
        ``calibration_mismatch`` if tube voltage or scanner are known to differ from those of every record.
    """
    same_scanner = [record for record in records if not _other_scanner(record, acquisition)]
    if not same_scanner:
        detail = "the calibration is for another scanner (device serial numbers differ)."
        raise InputRefused("calibration_mismatch", detail, subject=subject, remedy=_MISMATCH_REMEDY)
    suitable = [
        record for record in same_scanner if acquisition.kvp is None or abs(acquisition.kvp - record.kvp) <= _SAME_KVP
    ]
    if not suitable:
        held = ", ".join(f"{kvp:.0f}" for kvp in sorted({record.kvp for record in same_scanner}))
        detail = f"the calibration is for {held} kVp, the scan was made at {acquisition.kvp:.0f} kVp."
        raise InputRefused("calibration_mismatch", detail, subject=subject, remedy=_MISMATCH_REMEDY)
    if acquisition.kvp is None and len({record.kvp for record in suitable}) > 1:
        detail = "the calibration file holds several tube voltages and the scan does not record its own."
        raise InputRefused("calibration_mismatch", detail, subject=subject, remedy=_MISMATCH_REMEDY)
    scanned = _date_or_none(acquisition.acquisition_date)
    record = min(suitable, key=lambda one: (_kernel_distance(one, acquisition), _days_apart(one, scanned)))
    findings = [*_unconfirmed(record, acquisition), *_differences(record, acquisition, scanned)]
    years = _days_apart(record, scanned) / _DAYS_OF_A_YEAR
    return Match(record, tuple(findings), years * tables.number("uncertainty.asynchronous.drift_per_year"))


def drift_findings(records: Sequence[CalibrationRecord]) -> tuple[Finding, ...]:
    """What the newest record says against the earlier ones of the same scanner, voltage and kernel.

    ``calibration_drift`` is a warning where the density at 130 HU has moved by more than twice its standard error and by more
    than the drift that is allowed for; from a month on the rate in mg/cm3 per year is given.
    """
    ordered = sorted(records, key=lambda record: record.measured_on or date.min)
    if not ordered:
        return ()
    newest = ordered[-1]
    before = [record for record in ordered[:-1] if _same_setting(record, newest) and record.measured_on is not None]
    if not before or newest.measured_on is None:
        return ()
    first = before[0]
    assert first.measured_on is not None
    moved = newest.density_mg_cm3(_COMPARE_AT_HU) - first.density_mg_cm3(_COMPARE_AT_HU)
    days = (newest.measured_on - first.measured_on).days
    error = float(np.hypot(newest.standard_error_mg_cm3(_COMPARE_AT_HU), first.standard_error_mg_cm3(_COMPARE_AT_HU)))
    allowed = (
        days
        / _DAYS_OF_A_YEAR
        * tables.number("uncertainty.asynchronous.drift_per_year")
        * first.density_mg_cm3(_COMPARE_AT_HU)
    )
    random = tables.number("uncertainty.asynchronous.random_mg_cm3")
    rate = f", {moved / days * _DAYS_OF_A_YEAR:+.1f} a year" if days >= _SHORTEST_TREND_DAYS else ""
    text = (
        f"At {_COMPARE_AT_HU:.0f} HU and {newest.kvp:.0f} kVp the density reads {moved:+.1f} mg/cm3 {newest.mineral} against "
        f"{first.measured_on.isoformat()} ({len(before) + 1} measurements{rate})."
    )
    beyond = abs(moved) > max(_DRIFT_SD * float(np.hypot(error, random)), allowed)
    severity = Severity.WARNING if beyond else Severity.INFO
    return (Finding("calibration_drift" if beyond else "calibration_steady", severity, text),)


def _same_setting(one: CalibrationRecord, other: CalibrationRecord) -> bool:
    return (
        one.device_serial_number == other.device_serial_number
        and abs(one.kvp - other.kvp) <= _SAME_KVP
        and one.mineral == other.mineral
        and (one.kernel == other.kernel or kernel_class(one.kernel) is kernel_class(other.kernel))
    )


def _other_scanner(record: CalibrationRecord, acquisition: Acquisition) -> bool:
    serial = acquisition.device_serial_number
    return bool(record.device_serial_number and serial and serial.strip() != record.device_serial_number.strip())


def _kernel_distance(record: CalibrationRecord, acquisition: Acquisition) -> int:
    """0 for the same kernel (or one that is not restricted), 1 for one of the same class, 2 otherwise."""
    if not record.kernel or not acquisition.kernel or record.kernel == acquisition.kernel:
        return 0
    mine, theirs = (kernel_class(name, acquisition.manufacturer) for name in (record.kernel, acquisition.kernel))
    return 1 if mine is theirs else 2


def _days_apart(record: CalibrationRecord, scanned: date | None) -> int:
    return abs((scanned - record.measured_on).days) if scanned and record.measured_on else 0


def _unconfirmed(record: CalibrationRecord, acquisition: Acquisition) -> list[Finding]:
    unknown = [
        word
        for word, known in (
            ("tube voltage", acquisition.kvp is not None),
            ("scanner", bool(acquisition.device_serial_number) or not record.device_serial_number),
        )
        if not known
    ]
    if not unknown:
        return []
    text = f"The scan does not record its {' and '.join(unknown)}, so the match of the calibration is not confirmed."
    return [Finding("calibration_match_unconfirmed", Severity.WARNING, text)]


def _differences(record: CalibrationRecord, acquisition: Acquisition, scanned: date | None) -> list[Finding]:
    findings = []
    if _kernel_distance(record, acquisition):
        text = f"The calibration was made with kernel {record.kernel}, the scan with {acquisition.kernel}."
        findings.append(Finding("calibration_kernel_differs", Severity.WARNING, text))
    if record.table_height_mm is not None and acquisition.table_height_mm is not None:
        apart = abs(record.table_height_mm - acquisition.table_height_mm)
        if apart > _TABLE_HEIGHT_MM:
            text = f"Table height differs by {apart:.0f} mm between calibration and scan."
            findings.append(Finding("calibration_table_height", Severity.WARNING, text))
    if scanned and record.valid_until and scanned > record.valid_until:
        late = (scanned - record.valid_until).days
        text = f"The calibration expired {late} days before the scan."
        findings.append(Finding("calibration_expired", Severity.WARNING, text))
    return findings


def _date_or_none(text: str | None) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        return None
