"""Calibration phantoms that lie in the scan: their rods, and the line through them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.density import tables
from pipeline.density.attenuation import plausible_gain
from pipeline.density.internal import Line
from pipeline.density.tissues import TissueSample
from pipeline.errors import Finding, NotMeasurable, Severity
from pipeline.segmentation.model import Segmentation
from pipeline.volume import Volume

_WINDOW_MM = 40.0
_CORE_MM = 4.5
_ROD_RADII_MM = (5.0, 6.5, 8.0, 9.5, 11.0)
_EDGE_HU = 14.0
_ACCEPT_DISC = 0.8
_SURE_DISC = 0.95
_ROW_CONTRAST_HU = 80.0
_IDENTIFY_HU = 10.0
_PLASTIC_HU = 120.0
_TWO_RODS_ZERO_HU = 25.0
_SAME_RADIUS_MM = 1.6


@dataclass(frozen=True)
class PhantomDefinition:
    """What a calibration phantom is made of.

    Attributes
    ----------
    name : str
    mineral : str
        ``"K2HPO4"`` or ``"HA"``.
    density_mg_cm3 : tuple of float
        Of the mineral in each rod, along the plate.
    water_mg_cm3 : tuple of float or None
        Of the water in each rod, for phantoms whose certificate follows the Mindways equations.
    certified : bool
        Whether the values come from the certificate of the phantom in use, not from a table.
    """

    name: str
    mineral: str
    density_mg_cm3: tuple[float, ...]
    water_mg_cm3: tuple[float, ...] | None = None
    certified: bool = False


def known_phantoms() -> dict[str, PhantomDefinition]:
    """The phantoms of the tables by name."""
    return {
        name: PhantomDefinition(
            name,
            str(entry["unit"]),
            tuple(float(v) for v in entry["rho"]),
            tuple(float(v) for v in entry["water"]) if "water" in entry else None,
        )
        for name, entry in tables.phantom_definitions().items()
    }


@dataclass(frozen=True)
class Plate:
    """A phantom found in the scan: what it is (None if it is none that is known), its rods in the order of the definition."""

    definition: PhantomDefinition | None
    rods: tuple[TissueSample, ...]
    findings: tuple[Finding, ...]

    @property
    def name(self) -> str:
        return self.definition.name if self.definition else "unknown"


def find_plate(
    volume: Volume, segmentation: Segmentation, definitions: Iterable[PhantomDefinition] | None = None
) -> Plate | None:
    """Look for the rods of a calibration phantom under the patient and tell which phantom it is.

    Rods are discs of 5 to 11 mm radius that stay the same over 40 mm along the table, in a row at equal distances. The
    phantom is the one whose rod densities, in either direction, lie on a line with the measured HU that physics allows. Two
    rods always lie on a line: a phantom of two is taken only if both are sharp discs of one size, the line is that of
    physics to 25 HU at zero density, and there is no longer row; a finding says that nothing checks them.

    Parameters
    ----------
    volume : Volume
    segmentation : Segmentation
        Where the patient's bones are; the rods are looked for behind them.
    definitions : iterable of PhantomDefinition, optional
        Which phantoms it may be; those of the tables by default.

    Returns
    -------
    Plate or None
        None if no row of rods is there; a `Plate` without rods, but with a finding, if there is one that fits no known phantom.
    """
    allowed = tuple(known_phantoms().values() if definitions is None else definitions)
    best: tuple[PhantomDefinition, tuple[TissueSample, ...], float] | None = None
    row_seen = 0
    for low, high in _windows(volume, segmentation):
        image, spread, origin, pixel = _mean_image(volume, segmentation, low, high)
        discs = _discs(image, spread, pixel)
        rows = _rows(discs, pixel)
        for row in rows or _pairs(discs, pixel):
            if (
                len(row) > 2
                and min(disc.score for disc in row) >= _SURE_DISC
                and np.ptp([disc.hu for disc in row]) > _ROW_CONTRAST_HU
            ):
                row_seen = max(row_seen, len(row))
            match = _identify([disc.hu for disc in row], volume.acquisition.kvp, allowed)
            if match is None:
                continue
            definition, order, residual = match
            middle = (low + high - 1) / 2
            samples = []
            for i, disc in enumerate(row[::order]):
                place = np.array([[middle, origin[0] + disc.row, origin[1] + disc.column]])
                note = f"rod of {definition.name}"
                samples.append(
                    TissueSample(f"rod_{i + 1}", disc.hu, disc.sd_hu, disc.n, note, volume.grid.to_lps(place))
                )
            if best is None or (len(samples), -residual) > (len(best[1]), -best[2]):
                best = (definition, tuple(samples), residual)
    if best is not None:
        text = (
            f"The two rods of the {best[0].name} define the line exactly: nothing checks that they are what they seem."
        )
        unchecked = (Finding("phantom_two_rods", Severity.WARNING, text),) if len(best[1]) == 2 else ()
        return Plate(best[0], best[1], unchecked)
    if row_seen:
        text = (
            f"{row_seen} rods in a row lie under the patient but fit no known calibration phantom; "
            f"they are not used. Give their "
            "densities in a calibration file."
        )
        return Plate(None, (), (Finding("phantom_unidentified", Severity.WARNING, text),))
    return None


@dataclass(frozen=True)
class _Disc:
    """A round even spot: its centre and radius in pixels, and what it reads."""

    row: int
    column: int
    score: float
    radius_mm: float
    hu: float
    sd_hu: float
    n: int


def _windows(volume: Volume, segmentation: Segmentation) -> list[tuple[int, int]]:
    """Up to four stretches of 40 mm along the table, around the structures where there are any."""
    present = np.flatnonzero((segmentation.labels > 0).any(axis=(1, 2)))
    first, last = (int(present[0]), int(present[-1])) if present.size else (0, volume.shape[0] - 1)
    length = max(2, round(_WINDOW_MM / volume.spacing_mm[0]))
    first, last = max(0, min(first, volume.shape[0] - length)), max(last, length - 1)
    starts = np.unique(np.linspace(first, max(first, last + 1 - length), 4).astype(int))
    return [(int(s), min(int(s) + length, volume.shape[0])) for s in starts]


def _mean_image(
    volume: Volume, segmentation: Segmentation, low: int, high: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], tuple[int, int], float]:
    """Mean and spread along the table of what lies behind the spine, with the corner of the cut-out and the pixel size."""
    rows = np.flatnonzero((segmentation.labels[low:high] > 0).any(axis=(0, 2)))
    top = int(rows.mean()) + round(30.0 / volume.spacing_mm[1]) if rows.size else 0
    top = min(top, volume.shape[1] - 8)
    step = max(1, (high - low) // 16)
    stack = volume.hu[low:high:step, max(top, 0) :].astype(np.float32)
    pixel = float(np.mean(volume.spacing_mm[1:]))
    return stack.mean(axis=0), stack.std(axis=0), (max(top, 0), 0), pixel


def _discs(image: NDArray[np.float32], spread: NDArray[np.float32], pixel_mm: float) -> list[_Disc]:
    """Round even spots with an edge on nearly all sides, best first, none within 12 mm of a better one."""
    reach = int(np.ceil(_CORE_MM / pixel_mm))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1] * pixel_mm
    core = ((y**2 + x**2) <= _CORE_MM**2).astype(np.float32)
    count = float(core.sum())
    mean = ndimage.correlate(image, core / count, mode="nearest")
    inside_sd = np.sqrt(np.maximum(ndimage.correlate(image**2, core / count, mode="nearest") - mean**2, 0))
    along = ndimage.correlate(spread, core / count, mode="nearest")
    even = (inside_sd < 12.0) & (along < 60.0) & (mean > -200.0) & (mean < 2000.0)
    smooth = ndimage.gaussian_filter(image, 0.8 / pixel_mm)
    best, size = np.zeros(image.shape, np.float32), np.zeros(image.shape, np.float32)
    angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    for radius in _ROD_RADII_MM:
        different = np.zeros(image.shape, np.float32)
        for angle in angles:
            shift = np.round(np.array([np.sin(angle), np.cos(angle)]) * (radius + 2.5) / pixel_mm).astype(int)
            around = ndimage.shift(smooth, -shift, order=0, mode="nearest")
            different += np.abs(around - mean) > _EDGE_HU
        better = different / len(angles) > best
        best[better], size[better] = different[better] / len(angles), radius
    best[~even] = 0.0
    peaks = (best >= _ACCEPT_DISC) & (best == ndimage.maximum_filter(best, size=2 * round(8.0 / pixel_mm) + 1))
    found: list[_Disc] = []
    components, number = ndimage.label(peaks, np.ones((3, 3)))
    for part in range(1, number + 1):
        row, column = (round(float(v)) for v in np.argwhere(components == part).mean(axis=0))
        found.append(
            _Disc(
                row,
                column,
                float(best[components == part].max()),
                float(size[row, column]),
                float(mean[row, column]),
                float(np.hypot(inside_sd[row, column], 1.0)),
                max(1, int(count * pixel_mm**2 / 4.0)),
            )
        )
    found.sort(key=lambda disc: -disc.score)
    return found[:40]


def _rows(discs: list[_Disc], pixel_mm: float) -> list[list[_Disc]]:
    """Rows of three to six discs at equal distances of 18 to 60 mm, nearly level, longest first."""
    places = np.array([(d.row, d.column) for d in discs], float).reshape(-1, 2) * pixel_mm
    rows: dict[tuple[int, ...], list[_Disc]] = {}
    for i in range(len(discs)):
        for j in range(len(discs)):
            step = places[j] - places[i]
            if not 18.0 <= step[1] <= 60.0 or abs(step[0]) > 0.25 * step[1]:
                continue
            chain = [i, j]
            while True:
                ahead = places[chain[-1]] + (places[chain[-1]] - places[chain[-2]])
                distance = np.linalg.norm(places - ahead, axis=1)
                nearest = int(np.argmin(distance))
                if distance[nearest] > 3.0 or nearest in chain:
                    break
                chain.append(nearest)
            if 3 <= len(chain) <= 6:
                rows[tuple(chain)] = [discs[k] for k in chain]
    longest = sorted(rows, key=len, reverse=True)
    kept = [key for n, key in enumerate(longest) if not any(set(key) < set(other) for other in longest[:n])]
    return [rows[key] for key in kept]


def _pairs(discs: list[_Disc], pixel_mm: float) -> list[list[_Disc]]:
    """Two sharp discs of one size side by side, 18 to 120 mm apart and level, where there are no others as sharp."""
    sharp = [disc for disc in discs if disc.score >= _SURE_DISC]
    if len(sharp) != 2:
        return []
    first, second = sorted(sharp, key=lambda disc: disc.column)
    across, along = (second.column - first.column) * pixel_mm, abs(second.row - first.row) * pixel_mm
    alike = abs(first.radius_mm - second.radius_mm) <= _SAME_RADIUS_MM
    return [[first, second]] if alike and 18.0 <= across <= 120.0 and along <= 0.1 * across else []


def _identify(
    hu: list[float], kvp: float | None, definitions: tuple[PhantomDefinition, ...]
) -> tuple[PhantomDefinition, int, float] | None:
    """The phantom whose densities fit rods from left to right, the order (1 or -1) and the residual in HU."""
    best: tuple[PhantomDefinition, int, float] | None = None
    low, high = plausible_gain(kvp)
    for definition in definitions:
        density = np.asarray(definition.density_mg_cm3, float)
        if len(density) != len(hu):
            continue
        for order in (1, -1):
            values = np.array(hu[::order])
            water = None if definition.water_mg_cm3 is None else np.asarray(definition.water_mg_cm3, float)
            target = values if water is None else values - water
            gain, offset, _, residual = _weighted_line(density, target, np.ones(len(hu)))
            if water is not None:
                gain -= tables.number("k2hpo4_displacement")
                offset += tables.number("water_density_mg_cm3")
            fits = residual <= _IDENTIFY_HU and low <= gain <= high
            plastic_hu = _PLASTIC_HU if len(hu) > 2 else _TWO_RODS_ZERO_HU
            fits &= abs(offset) <= (tables.number("mindways_intercept_limit_hu") if water is not None else plastic_hu)
            if fits and (best is None or residual < best[2]):
                best = (definition, order, residual)
    return best


def line_from_plate(plate: Plate, *, kvp: float | None = None) -> Line:
    """The line through the rods of a phantom.

    Water-based phantoms (those whose definition has a water term) follow the Mindways equations: regress
    ``HU - water`` on rod density, then ``slope_CT = slope - 0.2174``, ``intercept_CT = intercept + 999.6``. Others
    regress HU on the certified density. Rods are weighted by the uncertainty of their means.

    Raises
    ------
    NotMeasurable
        ``no_phantom`` if the plate is none that is known; ``phantom_implausible`` if a water-based line leaves the range
        that physics allows, or the rods do not lie on a line; ``phantom_rods_missing`` if their number does not fit.
    """
    definition = plate.definition
    if definition is None:
        raise NotMeasurable("no_phantom", "no known calibration phantom was found.", subject="calibration phantom")
    hu = np.array([rod.hu for rod in plate.rods])
    sd = np.maximum([rod.standard_error_hu for rod in plate.rods], 0.5)
    density = np.asarray(definition.density_mg_cm3, dtype=float)
    water = None if definition.water_mg_cm3 is None else np.asarray(definition.water_mg_cm3, dtype=float)
    if len(hu) != len(density) or len(hu) < 2:
        detail = f"{len(hu)} rods were measured, the {plate.name} has {len(density)}."
        raise NotMeasurable("phantom_rods_missing", detail, subject="calibration phantom")
    target = hu if water is None else hu - water
    gain, offset, covariance, residual = _weighted_line(density, target, sd)
    if water is not None:
        gain -= tables.number("k2hpo4_displacement")
        offset += tables.number("water_density_mg_cm3")
        low, high = plausible_gain(kvp)
        limit = tables.number("mindways_intercept_limit_hu")
        if not (low <= gain <= high and abs(offset) <= limit):
            detail = (
                f"the rods give {gain:.2f} HU per mg/cm3 and {offset:+.0f} HU at zero density; "
                f"possible are {low:.2f} to {high:.2f} and "
                f"±{limit:.0f} HU."
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
        mineral=definition.mineral,
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
