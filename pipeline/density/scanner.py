"""Asynchronous calibration: the line of one scanner setting from a scan of a phantom, for scans made without one."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy import ndimage

from pipeline.density.calibration import Calibration, from_plate
from pipeline.density.calibration_file import CalibrationRecord
from pipeline.density.rods import PhantomDefinition, Plate, find_plate, known_phantoms
from pipeline.density.tissues import TissueSample
from pipeline.errors import InputRefused, NotMeasurable
from pipeline.segmentation.model import Segmentation
from pipeline.volume import Volume, canonical_order

_EDGE_MM = 2.0
_FEWEST_VOXELS = 50
_SAME_PLACE_MM = 0.1
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class _Certificate(BaseModel):
    """What the file of a phantom's certificate holds."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=80)
    mineral: str = Field(pattern="^(K2HPO4|HA)$")
    density_mg_cm3: tuple[float, ...] = Field(min_length=2, max_length=12)
    water_mg_cm3: tuple[float, ...] | None = None


def read_certificate(path: Path) -> PhantomDefinition:
    """The rods of a phantom from a JSON file with ``name``, ``mineral``, ``density_mg_cm3`` and, if Mindways, ``water_mg_cm3``.

    Raises
    ------
    InputRefused
        ``certificate_unreadable`` with the field that is wrong.
    """
    remedy = 'Write {"name": ..., "mineral": "K2HPO4" or "HA", "density_mg_cm3": [...]} in the order of the rods.'
    try:
        content = _Certificate.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "content"
        raise InputRefused(
            "certificate_unreadable", f"{where}: {first['msg']}.", subject=path.name, remedy=remedy
        ) from error
    except (OSError, ValueError) as error:
        raise InputRefused(
            "certificate_unreadable", "not a JSON file that can be read.", subject=path.name, remedy=remedy
        ) from error
    water = content.water_mg_cm3
    if water is not None and len(water) != len(content.density_mg_cm3):
        detail = f"{len(content.density_mg_cm3)} densities but {len(water)} values of water."
        raise InputRefused("certificate_unreadable", detail, subject=path.name, remedy=remedy)
    return PhantomDefinition(content.name, content.mineral, content.density_mg_cm3, water, certified=True)


def named_phantom(name: str) -> PhantomDefinition:
    """A phantom of the tables.

    Raises
    ------
    InputRefused
        ``unknown_phantom``.
    """
    phantoms = known_phantoms()
    if name not in phantoms:
        known = ", ".join(phantoms)
        raise InputRefused(
            "unknown_phantom",
            "is not known.",
            subject=f"calibration phantom '{name}'",
            remedy=f"Known are {known}; any other needs a certificate file.",
        )
    return phantoms[name]


def rods_from_mask(path: Path, volume: Volume, definition: PhantomDefinition) -> Plate:
    """The rods of a phantom from a label map on the grid of the scan: label 1 is the first rod of the definition, and so on.

    Each rod is read 2 mm inside its mask.

    Raises
    ------
    InputRefused
        ``mask_unreadable``, ``grids_differ``, or ``phantom_rods_missing`` if a rod has no label or too few voxels.
    """
    try:
        image = nibabel.load(path)
        array = np.asanyarray(image.dataobj)  # type: ignore[attr-defined]
        matrix = _RAS_TO_LPS @ np.asarray(image.affine, float)  # type: ignore[attr-defined]
    except (OSError, ValueError, ImageFileError) as error:
        raise InputRefused("mask_unreadable", "is not a NIfTI image that can be read.", subject=path.name) from error
    labels, to_lps, _ = canonical_order(array, matrix)
    same = labels.shape == volume.shape
    if same:
        far = np.array([*labels.shape, 1.0])
        same = bool(np.abs((to_lps - volume.grid.index_to_lps) @ far).max() <= _SAME_PLACE_MM)
    if not same:
        sizes = f"{labels.shape} and {volume.shape} voxels along z, y, x"
        detail = f"it is not on the grid of the scan ({sizes}, or another place)."
        raise InputRefused("grids_differ", detail, subject=path.name)
    samples = []
    for number in range(1, len(definition.density_mg_cm3) + 1):
        inside = ndimage.distance_transform_edt(_framed(labels == number), sampling=volume.spacing_mm)[1:-1, 1:-1, 1:-1]
        core = inside > _EDGE_MM
        if np.count_nonzero(core) < _FEWEST_VOXELS:
            rods = len(definition.density_mg_cm3)
            detail = f"rod {number} of {rods} has fewer than {_FEWEST_VOXELS} voxels 2 mm inside its mask."
            raise InputRefused("phantom_rods_missing", detail, subject=path.name)
        values = volume.hu[core].astype(float)
        middle = volume.grid.to_lps(np.argwhere(core).mean(axis=0)[None])
        note = f"rod of {definition.name}"
        samples.append(
            TissueSample(f"rod_{number}", float(values.mean()), float(values.std()), int(core.sum()), note, middle)
        )
    return Plate(definition, tuple(samples), ())


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
    if rods is not None:
        if definition is None:
            raise InputRefused(
                "phantom_unnamed",
                "were given without saying of which phantom.",
                subject="rods",
                remedy="Name the phantom.",
            )
        plate: Plate | None = rods_from_mask(rods, volume, definition)
    else:
        nothing = Segmentation(np.zeros(volume.shape, np.uint8), volume.grid)
        plate = find_plate(volume, nothing, None if definition is None else (definition,))
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


def _framed(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """With a frame of background, so that a rod that the scan cuts has an edge there."""
    return np.pad(mask, 1)


def _as_pairs(covariance: NDArray[np.float64]) -> tuple[tuple[float, float], tuple[float, float]]:
    (a, b), (c, d) = covariance.tolist()
    return (a, b), (c, d)


def _day(text: str | None) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        return None
