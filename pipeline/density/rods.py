"""Calibration phantoms that lie in the scan: their rods, and the line through them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from pipeline.density.attenuation import plausible_gain
from pipeline.density.internal import Line
from pipeline.density.rod_identity import (
    COMPARE_AT_HU,
    PhantomDefinition,
    Reading,
    fitted_line,
    implausible_fit,
    known_phantoms,
    readings_of,
    zero_limit_hu,
)
from pipeline.density.rod_search import SURE_DISC, Row, ends_beyond, find_rows
from pipeline.density.tissues import TissueSample
from pipeline.errors import Finding, NotMeasurable, Severity
from pipeline.segmentation.model import Segmentation
from pipeline.volume import Volume

__all__ = ["PhantomDefinition", "Plate", "find_plate", "known_phantoms", "line_from_plate"]

_ROW_CONTRAST_HU = 80.0
_EVEN_STEPS = 0.15
_SECOND_APART_MG_CM3 = 8.0
_ANOTHER_PLATE_MM = 12.0
_LEAN = 0.2
_LEAST_SD_HU = 0.5
_UNCHECKED_SD_HU = 3.0
_ROD_SD_SHARE = 0.006
_SHIFT_TOLD_HU = 15.0


@dataclass(frozen=True)
class Plate:
    """A phantom found in the scan: what it is (None if it is none that is known), its rods in the order of the definition."""

    definition: PhantomDefinition | None
    rods: tuple[TissueSample, ...]
    findings: tuple[Finding, ...]

    @property
    def name(self) -> str:
        return self.definition.name if self.definition else "unknown"

    @property
    def title(self) -> str:
        """The name as the maker writes it, or as a certificate has it."""
        return (self.definition.title if self.definition else "") or self.name


def find_plate(
    volume: Volume, segmentation: Segmentation | None = None, definitions: Iterable[PhantomDefinition] | None = None
) -> Plate | None:
    """Look for the rods of a calibration phantom anywhere in the scan and tell which phantom it is.

    The rows come from `rod_search.find_rows`, the ways to read them from `rod_identity.readings_of`. Rows of two rods must be
    sharp discs with nothing else beyond them; a finding says that nothing checks their line but physics. A row that suits two
    phantoms, or one in two ways that differ, is not used.

    Parameters
    ----------
    volume : Volume
    segmentation : Segmentation, optional
        Not looked at: a plate may lie anywhere, in front of a patient who lies prone as well as behind the bones.
    definitions : iterable of PhantomDefinition, optional
        Which phantoms it may be; those of the tables by default.

    Returns
    -------
    Plate or None
        None if no row of rods is there; a `Plate` without rods, but with a finding (``phantom_unidentified`` or
        ``phantom_ambiguous``), if there is one that fits no known phantom or several.
    """
    allowed = tuple(known_phantoms().values() if definitions is None else definitions)
    named = None if definitions is None else " or ".join(definition.name for definition in allowed)
    plates: list[Plate] = []
    doubtful: list[Finding] = []
    for row in find_rows(volume):
        if len(row.hu) == 2 and (row.score < SURE_DISC or not ends_beyond(volume, row)):
            continue
        readings = readings_of(volume, row, volume.acquisition.kvp, allowed)
        if not readings:
            if _surely_a_plate(row):
                doubtful.append(_unidentified(len(row.hu), named))
            continue
        best = readings[0]
        rivals = [other for other in readings[1:] if best.contradicted_by(other)]
        if rivals or not best.sure:
            if rivals and any(reading.sure for reading in (best, *rivals)):
                doubtful.append(_ambiguous([best, *rivals]))
            elif len(row.hu) > 2:
                doubtful.append(_unidentified(len(row.hu), named))
            continue
        plates.append(_plate(volume, row, best))
    if plates:
        return _with_second(plates)
    return Plate(None, (), (doubtful[0],)) if doubtful else None


def _surely_a_plate(row: Row) -> bool:
    """Whether a row that fits no phantom is a plate nevertheless: sharp discs that differ, evenly spaced in a straight line."""
    steps = np.diff(row.centre, axis=0)
    even = float(np.hypot(*(steps - steps.mean(axis=0)).T).max()) <= _EVEN_STEPS * float(np.hypot(*steps.mean(axis=0)))
    return len(row.hu) > 2 and row.score >= SURE_DISC and float(np.ptp(row.hu)) > _ROW_CONTRAST_HU and even


def _plate(volume: Volume, row: Row, reading: Reading) -> Plate:
    """The rods of a row in the order of the phantom that they were found to be."""
    samples = []
    places = volume.grid.to_lps(row.index)
    order = [int(n) for n in np.argsort(reading.which)]
    for n in order:
        note = f"rod of {reading.definition.name}, {row.slices} slices"
        name = f"rod_{reading.which[n] + 1}"
        samples.append(TissueSample(name, float(row.hu[n]), float(row.sd_hu[n]), row.slices, note, places[n][None]))
    definition = reading.whole.chosen(tuple(sorted(reading.which)))
    name = definition.name
    findings = []
    if len(samples) == 2:
        text = (
            f"The two rods of the {name} define the line exactly: that they are round, alike and in one plastic, that 0 mg/cm3 "
            f"reads {reading.zero_hu:+.0f} HU and that the slope is one of this tube voltage is all that checks them."
        )
        findings.append(Finding("phantom_two_rods", Severity.WARNING, text))
    lacking = len(known) - len(samples) if (known := definition.whole_density_mg_cm3) else 0
    if lacking:
        text = f"{lacking} of the {len(known)} rods of the {name} are not in view or look like the plate; the others are used."
        findings.append(Finding("phantom_partly_seen", Severity.INFO, text))
    if not reading.usual_order:
        text = f"The rods of the {name} lie in another order than its table has them; they were told by what they read."
        findings.append(Finding("phantom_other_order", Severity.INFO, text))
    if definition.water_mg_cm3 is not None and abs(reading.zero_hu) > _SHIFT_TOLD_HU:
        text = (
            f"By the {name} water reads {reading.zero_hu:+.0f} HU. The line takes that up; the scanner's own water "
            "calibration should be checked."
        )
        findings.append(Finding("phantom_zero_shifted", Severity.WARNING, text))
    return Plate(definition, tuple(samples), tuple(findings))


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
        line = fitted_line(plate.definition, np.array([rod.hu for rod in plate.rods]), np.ones(len(plate.rods)))
        lines.append((COMPARE_AT_HU - line.zero_hu) / line.gain_hu_per_mg_cm3)
    same_scale = others[0].definition is not None and others[0].definition.mineral == first.definition.mineral
    apart = abs(lines[1] - lines[0])
    agree = f"they differ by {apart:.0f} mg/cm3 at {COMPARE_AT_HU:.0f} HU" if same_scale else "their minerals differ"
    text = f"A second phantom ({others[0].name}) lies in the scan; the {first.name} is used, {agree}."
    severity = Severity.WARNING if same_scale and apart > _SECOND_APART_MG_CM3 else Severity.INFO
    return replace(first, findings=(*first.findings, Finding("phantom_second", severity, text)))


def _elsewhere(plate: Plate, other: Plate) -> bool:
    """Whether two plates lie apart; a chain of slabs that broke makes one plate look like two."""
    mine, theirs = (np.array([rod.points_lps_mm[0] for rod in one.rods]) for one in (plate, other))
    nearest = np.hypot(*(mine[:, None, :2] - theirs[None, :, :2]).transpose(2, 0, 1)).min()
    along = abs(float(mine[:, 2].mean() - theirs[:, 2].mean()))
    return bool(nearest > _ANOTHER_PLATE_MM + _LEAN * along)


def _unidentified(count: int, named: str | None) -> Finding:
    """That rods fit no phantom of the tables, or not the one that the user named."""
    if named is not None:
        text = f"{count} rods in a row lie in the scan but do not fit the {named}; they are not used."
        return Finding("phantom_unidentified", Severity.WARNING, text)
    text = (
        f"{count} rods in a row lie in the scan but fit no known calibration phantom; they are not used. "
        "Give the values of its certificate."
    )
    return Finding("phantom_unidentified", Severity.WARNING, text)


def _ambiguous(readings: list[Reading]) -> Finding:
    names = sorted({reading.definition.name for reading in readings})
    ways = " or ".join(names) if len(names) > 1 else f"parts of the {names[0]} that differ"
    values = ", ".join(f"{reading.density_of(COMPARE_AT_HU):.0f}" for reading in readings)
    text = (
        f"Rods in a row may be {ways} ({COMPARE_AT_HU:.0f} HU would be {values} mg/cm3); they are not used. "
        "Name the phantom."
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
    density = np.asarray(definition.density_mg_cm3, dtype=float)
    if len(hu) != len(density) or len(hu) < 2:
        detail = f"{len(hu)} rods were measured, the {plate.name} has {len(density)}."
        raise NotMeasurable("phantom_rods_missing", detail, subject="calibration phantom")
    sd = np.maximum([rod.standard_error_hu for rod in plate.rods], _LEAST_SD_HU)
    # Dense rods read low by the hardening inside them; the line is needed where bone is, and must not be bent by them.
    sd = np.hypot(sd, _ROD_SD_SHARE * 1.33 * density)
    if len(hu) == 2:
        sd = np.hypot(sd, _UNCHECKED_SD_HU)
    line = fitted_line(definition, hu, sd)
    gain, offset = line.gain_hu_per_mg_cm3, line.zero_hu
    if definition.water_mg_cm3 is not None:
        low, high = plausible_gain(kvp)
        limit = zero_limit_hu(definition, hu)
        if not (low <= gain <= high and abs(offset) <= limit):
            detail = (
                f"the rods give {gain:.2f} HU per mg/cm3 and {offset:+.0f} HU at zero density; possible are {low:.2f} to "
                f"{high:.2f} and ±{limit:.0f} HU."
            )
            raise NotMeasurable("phantom_implausible", detail, subject="calibration phantom")
    if gain <= 0 or implausible_fit(definition, hu):
        detail = f"the rods do not lie on a line (residual {line.residual_hu:.0f} HU)."
        raise NotMeasurable("phantom_implausible", detail, subject="calibration phantom")
    slope = 1.0 / gain
    to_line = np.array([[-(slope**2), 0.0], [offset * slope**2, -slope]])
    return Line(
        f"phantom_{plate.name}",
        slope,
        -offset * slope,
        to_line @ line.covariance @ to_line.T,
        tuple(rod.tissue for rod in plate.rods),
        f"residual {line.residual_hu:.1f} HU",
        mineral=definition.mineral,
    )
