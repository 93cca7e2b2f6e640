"""Asynchronous calibration: the line of one scanner setting from a scan of a phantom, for scans made without one."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.density.calibration_file import CalibrationRecord
from pipeline.density.calibration_value import Calibration
from pipeline.density.given_phantom import GivenPhantom, plate_of
from pipeline.density.plate_calibration import from_plate
from pipeline.density.rods import PhantomDefinition
from pipeline.errors import InputRefused, NotMeasurable
from pipeline.segmentation.model import Segmentation
from pipeline.volume import Volume


def calibrate_scanner(
    volume: Volume, *, definition: PhantomDefinition | None = None, rods: Path | None = None, valid_days: int = 365
) -> tuple[CalibrationRecord, Calibration]:
    """The line of the setting that a scan of a phantom was made with.

    Parameters
    ----------
    volume : Volume
        A scan of a calibration phantom, with a patient or a water body on it or alone.
    definition : PhantomDefinition, optional
        Which phantom it is; told from the rods if absent.
    rods : Path, optional
        Label map of the rods, which are then not looked for; needs a `definition`.
    valid_days : int
        After how many days the record expires.

    Returns
    -------
    CalibrationRecord
        For a calibration file.
    Calibration
        The same line with its rods and findings.

    Raises
    ------
    NotMeasurable
        ``no_phantom`` or ``phantom_implausible``.
    InputRefused
        ``kvp_unknown`` if the scan does not record its tube voltage, without which the line serves no other scan; and as
        `rods_from_mask`.
    """
    facts = volume.acquisition
    if facts.kvp is None:
        raise InputRefused(
            "kvp_unknown", "does not record its tube voltage; its line would fit no other scan.", subject="the scan"
        )
    if rods is not None and definition is None:
        raise InputRefused(
            "phantom_unnamed", "were given without saying of which phantom.", subject="rods", remedy="Name the phantom."
        )
    given = None if definition is None else GivenPhantom(definition, rods)
    plate = plate_of(volume, Segmentation(np.zeros(volume.shape, np.uint8), volume.grid), given)
    if plate is None or plate.definition is None:
        seen = (
            plate.findings[0].text
            if plate is not None and plate.findings
            else "no rods of a calibration phantom were found."
        )
        raise NotMeasurable(
            "no_phantom",
            seen,
            subject="the scan",
            remedy="Name the phantom, give its certificate, or a mask of its rods.",
        )
    line = from_plate(plate, facts.kvp)
    measured = _day(facts.acquisition_date)
    covariance = _as_pairs(line.covariance)
    return (
        CalibrationRecord(
            slope_mg_cm3_per_hu=line.slope_mg_cm3_per_hu,
            intercept_mg_cm3=line.intercept_mg_cm3,
            mineral=line.mineral,
            covariance=covariance,
            kvp=facts.kvp,
            device_serial_number=facts.device_serial_number,
            manufacturer=facts.manufacturer,
            model=facts.model,
            kernel=facts.kernel,
            measured_on=measured,
            valid_until=measured + timedelta(days=valid_days) if measured else None,
            table_height_mm=facts.table_height_mm,
            phantom=plate.name,
            content_sha256=volume.source.content_sha256 or None,
            reference=f"{plate.name} phantom, {len(plate.rods)} rods, "
            + ("values of its certificate" if plate.definition.certified else "published values of one serial number"),
        ),
        line,
    )


def _as_pairs(covariance: NDArray[np.float64]) -> tuple[tuple[float, float], tuple[float, float]]:
    (a, b), (c, d) = covariance.tolist()
    return (a, b), (c, d)


def _day(text: str | None) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        return None
