"""Calibration phantoms that lie in the scan: their rods, and the line through them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from pipeline.density import tables
from pipeline.density.attenuation import plausible_gain
from pipeline.density.internal import Line
from pipeline.density.rod_search import EDGE_HU, SURE_DISC, Row, find_rows
from pipeline.density.tissues import TissueSample
from pipeline.errors import Finding, NotMeasurable, Severity
from pipeline.segmentation.model import Segmentation
from pipeline.volume import Volume

_ROW_CONTRAST_HU = 80.0
_IDENTIFY_HU = 10.0
_PLASTIC_HU = 120.0
_STRICT_ZERO_HU = 25.0
_MOST_MISSING = 2
_INVISIBLE_HU = EDGE_HU + 4.0
_AS_GOOD_HU = 5.0
_SAME_DENSITY_MG_CM3 = 4.0
_SECOND_APART_MG_CM3 = 8.0
_ANOTHER_PLATE_MM = 12.0
_LEAN = 0.2
_COMPARE_AT_HU = 130.0


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
    only_confusable : bool
        Its values are not verified: a row that fits it is not measured with, and none that may be it is taken for another.
    whole_density_mg_cm3 : tuple of float
        Of all rods, where this is a part of a phantom.
    """

    name: str
    mineral: str
    density_mg_cm3: tuple[float, ...]
    water_mg_cm3: tuple[float, ...] | None = None
    certified: bool = False
    only_confusable: bool = False
    whole_density_mg_cm3: tuple[float, ...] = ()

    def part(self, first: int, last: int) -> PhantomDefinition:
        """The rods from `first` to before `last`; itself if these are all."""
        if last - first == len(self.density_mg_cm3):
            return self
        water = None if self.water_mg_cm3 is None else self.water_mg_cm3[first:last]
        density = self.density_mg_cm3[first:last]
        return replace(self, density_mg_cm3=density, water_mg_cm3=water, whole_density_mg_cm3=self.density_mg_cm3)

    def expected_hu(self, rod: int, gain_hu_per_mg_cm3: float, zero_hu: float) -> float:
        """What a rod reads on a line."""
        density = self.density_mg_cm3[rod]
        if self.water_mg_cm3 is None:
            return zero_hu + gain_hu_per_mg_cm3 * density
        slope = gain_hu_per_mg_cm3 + tables.number("k2hpo4_displacement")
        return zero_hu - tables.number("water_density_mg_cm3") + self.water_mg_cm3[rod] + slope * density


def known_phantoms() -> dict[str, PhantomDefinition]:
    """The phantoms of the tables by name."""
    return {
        name: PhantomDefinition(
            name,
            str(entry["unit"]),
            tuple(float(v) for v in entry["rho"]),
            tuple(float(v) for v in entry["water"]) if "water" in entry else None,
            only_confusable=entry["tag"] in ("M", "M?"),
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

    The rows come from `rod_search.find_rows`. The phantom is the one whose rod densities, in either direction, lie on a line
    with the measured HU that physics allows. A row may lack one or two rods at an end, if these lie outside the field of
    view or would read like what surrounds them; its line must then be that of physics to 25 HU at zero density. So must
    that of two rods, which always lie on a line and must be sharp discs; a finding says that nothing checks them. A row that
    suits two phantoms, or one in two ways that differ, is not used.

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
        None if no row of rods is there; a `Plate` without rods, but with a finding (``phantom_unidentified`` or
        ``phantom_ambiguous``), if there is one that fits no known phantom or several.
    """
    allowed = tuple(known_phantoms().values() if definitions is None else definitions)
    plates: list[Plate] = []
    doubtful: list[Finding] = []
    for row in find_rows(volume, segmentation):
        if len(row.hu) == 2 and row.score < SURE_DISC:
            continue
        readings = _readings_of(row, volume.acquisition.kvp, allowed)
        if not readings:
            if len(row.hu) > 2 and row.score >= SURE_DISC and np.ptp(row.hu) > _ROW_CONTRAST_HU:
                doubtful.append(_unidentified(len(row.hu)))
            continue
        best = readings[0]
        rivals = [other for other in readings[1:] if best.contradicted_by(other)]
        if rivals or best.definition.only_confusable:
            doubtful.append(_ambiguous([best, *rivals]) if rivals else _unidentified(len(row.hu)))
            continue
        plates.append(_plate(volume, row, best))
    if plates:
        return _with_second(plates)
    return Plate(None, (), (doubtful[0],)) if doubtful else None


@dataclass(frozen=True)
class _Reading:
    """One way to read a row: which phantom, in which order, from which rod on; residual in HU, density at 130 HU."""

    definition: PhantomDefinition
    order: int
    residual_hu: float
    at_130_hu: float

    def contradicted_by(self, other: _Reading) -> bool:
        """Whether the other reading is nearly as good and would give other densities."""
        if other.residual_hu > self.residual_hu + _AS_GOOD_HU:
            return False
        another_scale = other.definition.mineral != self.definition.mineral
        return another_scale or abs(other.at_130_hu - self.at_130_hu) > _SAME_DENSITY_MG_CM3


def _readings_of(row: Row, kvp: float | None, definitions: tuple[PhantomDefinition, ...]) -> list[_Reading]:
    """All ways to read a row that physics allows, the best fit first."""
    found = []
    seen = len(row.hu)
    for whole in definitions:
        missing = len(whole.density_mg_cm3) - seen
        if missing < 0 or missing > _MOST_MISSING or (missing and seen < 3):
            continue
        for order, before in product((1, -1), range(missing + 1)):
            part = whole.part(before, before + seen)
            values = row.hu[::order]
            gain, offset, residual = _fit(part, values)
            low, high = plausible_gain(kvp)
            limit = _STRICT_ZERO_HU if missing or seen == 2 else _PLASTIC_HU
            if whole.water_mg_cm3 is not None:
                limit = tables.number("mindways_intercept_limit_hu")
            if residual > _IDENTIFY_HU or not low <= gain <= high or abs(offset) > limit:
                continue
            if all(
                _explained(
                    row,
                    whole,
                    lacking,
                    order * (lacking - before if lacking < before else lacking - before - seen + 1),
                    gain,
                    offset,
                )
                for lacking in range(len(whole.density_mg_cm3))
                if not before <= lacking < before + seen
            ):
                found.append(_Reading(part, order, residual, (_COMPARE_AT_HU - offset) / gain))
    return sorted(found, key=lambda reading: reading.residual_hu)


def _explained(row: Row, whole: PhantomDefinition, rod: int, steps: int, gain: float, offset: float) -> bool:
    """Whether a rod that was not seen lies outside the field of view, or reads like its surroundings."""
    reading = row.beyond_hu[steps]
    return reading is None or abs(reading - whole.expected_hu(rod, gain, offset)) <= _INVISIBLE_HU


def _fit(definition: PhantomDefinition, hu: NDArray[np.float64]) -> tuple[float, float, float]:
    """HU per mg/cm3, HU at zero density and residual of rods in the order of a definition."""
    density = np.asarray(definition.density_mg_cm3, float)
    water = None if definition.water_mg_cm3 is None else np.asarray(definition.water_mg_cm3, float)
    gain, offset, _, residual = _weighted_line(density, hu if water is None else hu - water, np.ones(len(hu)))
    if water is not None:
        gain -= tables.number("k2hpo4_displacement")
        offset += tables.number("water_density_mg_cm3")
    return gain, offset, residual


def _plate(volume: Volume, row: Row, reading: _Reading) -> Plate:
    """The rods of a row in the order of the phantom that they were found to be."""
    samples = []
    places = volume.grid.to_lps(row.index)
    for number, which in enumerate(range(len(row.hu))[:: reading.order]):
        note = f"rod of {reading.definition.name}, {row.slices} slices"
        hu, sd = float(row.hu[which]), float(row.sd_hu[which])
        samples.append(TissueSample(f"rod_{number + 1}", hu, sd, row.slices, note, places[which][None]))
    findings = []
    name = reading.definition.name
    if len(samples) == 2:
        text = f"The two rods of the {name} define the line exactly: nothing checks that they are what they seem."
        findings.append(Finding("phantom_two_rods", Severity.WARNING, text))
    lacking = len(known) - len(samples) if (known := reading.definition.whole_density_mg_cm3) else 0
    if lacking:
        text = f"{lacking} of the {len(known)} rods of the {name} are not in view or look like the plate; the others are used."
        findings.append(Finding("phantom_partly_seen", Severity.INFO, text))
    return Plate(reading.definition, tuple(samples), tuple(findings))


def _with_second(plates: list[Plate]) -> Plate:
    """The plate with most rods; that there is another one is said, and whether the two agree."""
    first = plates[0]
    others = [plate for plate in plates[1:] if _elsewhere(plate, first)]
    if not others:
        return first
    assert first.definition is not None
    lines = []
    for plate in (first, others[0]):
        assert plate.definition is not None
        gain, offset, _ = _fit(plate.definition, np.array([rod.hu for rod in plate.rods]))
        lines.append((_COMPARE_AT_HU - offset) / gain)
    same_scale = others[0].definition is not None and others[0].definition.mineral == first.definition.mineral
    apart = abs(lines[1] - lines[0])
    agree = f"they differ by {apart:.0f} mg/cm3 at {_COMPARE_AT_HU:.0f} HU" if same_scale else "their minerals differ"
    text = f"A second phantom ({others[0].name}) lies in the scan; the {first.name} is used, {agree}."
    severity = Severity.WARNING if same_scale and apart > _SECOND_APART_MG_CM3 else Severity.INFO
    return replace(first, findings=(*first.findings, Finding("phantom_second", severity, text)))


def _elsewhere(plate: Plate, other: Plate) -> bool:
    """Whether two plates lie apart; a chain of slabs that broke makes one plate look like two."""
    mine, theirs = (np.array([rod.points_lps_mm[0] for rod in one.rods]) for one in (plate, other))
    nearest = np.hypot(*(mine[:, None, :2] - theirs[None, :, :2]).transpose(2, 0, 1)).min()
    along = abs(float(mine[:, 2].mean() - theirs[:, 2].mean()))
    return bool(nearest > _ANOTHER_PLATE_MM + _LEAN * along)


def _unidentified(count: int) -> Finding:
    text = (
        f"{count} rods in a row lie under the patient but fit no known calibration phantom; they are not used. Give their "
        "densities in a calibration file."
    )
    return Finding("phantom_unidentified", Severity.WARNING, text)


def _ambiguous(readings: list[_Reading]) -> Finding:
    names = sorted({reading.definition.name for reading in readings})
    ways = " or ".join(names) if len(names) > 1 else f"parts of the {names[0]} that differ"
    values = ", ".join(f"{reading.at_130_hu:.0f}" for reading in readings)
    text = (
        f"Rods in a row under the patient may be {ways} ({_COMPARE_AT_HU:.0f} HU would be {values} mg/cm3); they are not used. "
        "Name the phantom with openbct calibrate."
    )
    return Finding("phantom_ambiguous", Severity.WARNING, text)


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
