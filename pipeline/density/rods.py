"""Calibration phantoms that lie in the scan: their rods, and the line through them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.density import tables
from pipeline.density.internal import Line
from pipeline.density.tissues import TissueSample
from pipeline.errors import Finding, NotMeasurable
from pipeline.segmentation.model import Segmentation
from pipeline.volume import Volume


@dataclass(frozen=True)
class Plate:
    """A phantom found in the scan: its name in the tables, its rods in the order of the definition."""

    name: str
    rods: tuple[TissueSample, ...]
    findings: tuple[Finding, ...]


def find_plate(volume: Volume, segmentation: Segmentation) -> Plate | None:
    """The calibration phantom under the patient, or None."""
    return None


def line_from_plate(
    plate: Plate, rod_density_mg_cm3: ArrayLike | None = None, rod_water_mg_cm3: ArrayLike | None = None
) -> Line:
    """The line through the rods of a phantom.

    Water-based phantoms (those whose definition has a water term) follow the Mindways equations: regress
    ``HU - water`` on rod density, then ``slope_CT = slope - 0.2174``, ``intercept_CT = intercept + 999.6``. Others
    regress HU on the certified density. Rods are weighted by the uncertainty of their means.

    Raises
    ------
    NotMeasurable
        ``phantom_implausible`` if a water-based line leaves the range that physics allows, or the rods do not lie on a
        line; ``phantom_rods_missing`` if their number does not fit the definition.
    """
    definition = tables.phantom_definitions()[plate.name]
    hu = np.array([rod.hu for rod in plate.rods])
    sd = np.maximum([rod.standard_error_hu for rod in plate.rods], 0.5)
    density = np.asarray(definition["rho"] if rod_density_mg_cm3 is None else rod_density_mg_cm3, dtype=float)
    water = None
    if "water" in definition:
        water = np.asarray(definition["water"] if rod_water_mg_cm3 is None else rod_water_mg_cm3, dtype=float)
    if len(hu) != len(density) or len(hu) < 2:
        detail = f"{len(hu)} rods were measured, the {plate.name} has {len(density)}."
        raise NotMeasurable("phantom_rods_missing", detail, subject="calibration phantom")
    target = hu if water is None else hu - water
    gain, offset, covariance, residual = _weighted_line(density, target, sd)
    if water is not None:
        gain -= tables.number("k2hpo4_displacement")
        offset += tables.number("water_density_mg_cm3")
        low, high = tables.numbers("mindways_slope_range_hu_per_mg_cm3")
        limit = tables.number("mindways_intercept_limit_hu")
        if not (low <= gain <= high and abs(offset) <= limit):
            detail = (
                f"the rods give {gain:.2f} HU per mg/cm3 and {offset:+.0f} HU at zero density; "
                f"possible are {low} to {high} and "
                f"+-{limit:.0f} HU."
            )
            raise NotMeasurable("phantom_implausible", detail, subject="calibration phantom")
    if gain <= 0 or residual > 15.0:
        detail = f"the rods do not lie on a line (residual {residual:.0f} HU)."
        raise NotMeasurable("phantom_implausible", detail, subject="calibration phantom")
    slope = 1.0 / gain
    to_line = np.array([[-(slope**2), 0.0], [offset * slope**2, -slope]])
    return Line(
        f"phantom_{plate.name}",
        slope,
        -offset * slope,
        to_line @ covariance @ to_line.T,
        tuple(rod.tissue for rod in plate.rods),
        f"residual {residual:.1f} HU",
        mineral=str(definition["unit"]),
    )


def _weighted_line(
    x: NDArray[np.float64], y: NDArray[np.float64], sd: NDArray[np.float64]
) -> tuple[float, float, NDArray[np.float64], float]:
    """Slope, offset, their covariance (enlarged when the residuals exceed the stated errors) and residual SD."""
    design = np.stack([x, np.ones_like(x)], axis=1) / sd[:, None]
    normal = np.linalg.inv(design.T @ design)
    slope, offset = normal @ design.T @ (y / sd)
    rest = y - slope * x - offset
    freedom = max(len(x) - 2, 1)
    excess = max(1.0, float(((rest / sd) ** 2).sum()) / freedom) if len(x) > 2 else 1.0
    return (
        float(slope),
        float(offset),
        np.asarray(normal * excess, dtype=float),
        float(np.sqrt((rest**2).sum() / freedom)),
    )
