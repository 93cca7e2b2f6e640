"""Calibration: the line from Hounsfield units to mineral density, with its error and the reason why this line."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.density import calibration_file, tables
from pipeline.density.calibration_value import Alternative, Calibration, spelt
from pipeline.density.conditions import (
    contrast_given,
    kernel_share,
    require_hu_of_a_voltage,
    require_plain_filter,
    require_plausible_scale,
    with_known_voltage,
)
from pipeline.density.given_phantom import GivenPhantom
from pipeline.density.internal import (
    TISSUE_PART,
    Line,
    effective_energy_line,
    tissue_constrained_line,
    two_reference_line,
)
from pipeline.density.plate_calibration import plate_calibration, plate_in_scan
from pipeline.density.tissues import TissueSurvey, survey_tissues
from pipeline.errors import Finding, NotMeasurable, Severity
from pipeline.segmentation.model import Segmentation
from pipeline.volume import Volume

METHODS = ("phantom", "internal", "kvp")
"""Methods that need nothing but the scan, in the order of preference."""
CHOICES = ("auto", *METHODS)
"""What a user may ask for by name; anything else is the path of a calibration file."""
_COMPARE_AT_HU = 130.0


def calibrate(
    volume: Volume,
    segmentation: Segmentation,
    *,
    choice: str | Path | None = None,
    given: GivenPhantom | None = None,
) -> Calibration:
    """Calibrate a scan by the best method that it allows.

    Without a `choice`: a phantom in the scan, else reference tissues, else constants for the tube voltage (triage only).

    Parameters
    ----------
    volume : Volume
    segmentation : Segmentation
    choice : str or Path, optional
        ``"auto"`` (the same as none), ``"phantom"``, ``"internal"``, ``"kvp"``, or the path of a calibration file (see
        `calibration_file`).
    given : GivenPhantom, optional
        What the user knows of the phantom in the scan: nothing else is then taken for it, its rods are read where a mask says.

    Returns
    -------
    Calibration
        With all other methods that were possible as `alternatives`. On images of an edge-enhancing kernel its
        `systematic_relative` is wider, and the finding ``sharp_kernel`` says so.

    Raises
    ------
    InputRefused
        If the chosen file is unreadable or does not fit the scan, or the choice is unknown; as `given_phantom.rods_from_mask`.
    NotMeasurable
        If the chosen method cannot be carried out on this scan; ``hu_scale_implausible`` when only constants are left
        and soft tissue reads what it cannot; ``spectral_image`` if the series is a virtual monoenergetic or non-contrast image
        or a map; ``tin_filter`` if only a phantom or a calibration file could tell the energy.
    """
    require_hu_of_a_voltage(volume)
    volume, mixture_findings = with_known_voltage(volume)
    kvp = volume.acquisition.kvp
    # A plate is looked for while tissues are: each takes about a second in a long scan.
    with ThreadPoolExecutor(1) as beside:
        search = beside.submit(plate_in_scan, volume, segmentation, given)
        survey = survey_tissues(volume, segmentation)
        contrast, contrast_findings = contrast_given(volume, survey)
        plate, read_at_kvp = search.result()
    candidates: dict[str, Calibration] = {}
    refused: dict[str, NotMeasurable] = {}
    try:
        candidates["phantom"] = plate_calibration(plate, read_at_kvp=read_at_kvp, kvp=kvp, survey=survey)
    except NotMeasurable as refusal:
        refused["phantom"] = refusal
    for name in METHODS[1:]:
        try:
            candidates[name] = _without_plate(name, volume, survey, contrast)
        except NotMeasurable as refusal:
            refused[name] = refusal
    automatic = choice is None or str(choice) == "auto"
    if automatic:
        if not candidates:
            raise refused["internal"]
        chosen = candidates[next(name for name in METHODS if name in candidates)]
        if chosen.method == "kvp_constant":
            require_plausible_scale(volume)
        if chosen.method == "internal_tissues":
            chosen = replace(chosen, reason=f"no phantom was found in the scan; {chosen.reason}")
    elif str(choice) in CHOICES:
        if str(choice) not in candidates:
            raise refused[str(choice)]
        chosen = candidates[str(choice)]
        chosen = replace(chosen, reason=f"asked for by name ({choice}); {chosen.reason}")
    else:
        chosen = _from_file(Path(str(choice)), volume)
    others = [c for c in candidates.values() if c.method != chosen.method]
    alternatives = tuple(
        Alternative(
            other.method,
            other.slope_mg_cm3_per_hu,
            other.intercept_mg_cm3,
            float(other.density_mg_cm3(_COMPARE_AT_HU)),
            other.uncertainty_mg_cm3(float(other.density_mg_cm3(_COMPARE_AT_HU))),
            other.mineral == chosen.mineral,
            other.reason,
        )
        for other in others
    ) + tuple(_published_alternatives(volume, survey, chosen))
    findings = [
        *mixture_findings,
        *([] if given is None or "phantom" in candidates else [_phantom_not_found(given)]),
        *chosen.findings,
        *(plate.findings if plate is not None and not plate.rods else ()),
        *contrast_findings,
        *(f for f in survey.findings if chosen.method.startswith("internal")),
    ]
    if chosen.method == "kvp_constant" and automatic and "internal" in refused:
        findings.append(Finding(refused["internal"].reason, Severity.WARNING, refused["internal"].detail))
    # A kernel acts on all methods alike, so that it does not excuse their disagreement.
    findings += _disagreement(chosen, alternatives)
    kernel, kernel_findings = kernel_share(volume)
    return replace(
        chosen,
        systematic_relative=float(np.hypot(chosen.systematic_relative, kernel)),
        findings=tuple(dict.fromkeys([*findings, *kernel_findings])),
        alternatives=alternatives,
        contrast_enhanced=contrast,
    )


def _phantom_not_found(given: GivenPhantom) -> Finding:
    text = f"The phantom {given.definition.name}, which the user named, was not found in the scan or could not be used."
    return Finding("phantom_not_found", Severity.WARNING, text)


def _without_plate(name: str, volume: Volume, survey: TissueSurvey, contrast: bool) -> Calibration:
    require_plain_filter(volume)
    if name == "internal":
        return internal_calibration(survey, volume.acquisition.kvp, contrast_enhanced=contrast)
    return _from_kvp(volume.acquisition.kvp)


def internal_calibration(survey: TissueSurvey, kvp: float | None, *, contrast_enhanced: bool) -> Calibration:
    """The calibration that the reference tissues give, with the whole budget of its uncertainty.

    Parameters and errors as `internal.tissue_constrained_line`.
    """
    line, findings = tissue_constrained_line(survey, kvp, contrast_enhanced=contrast_enhanced)
    names = ", ".join(line.used)
    # On a scanner whose line is known, tissues of real patients leave this much: what the fit admits for tissues is part of it,
    # what it admits for the energy is not. Half of the square goes with the density, half does not.
    known_scanner = tables.number("uncertainty.internal.same_scanner_mg_cm3")
    tissues = dict(line.budget)[TISSUE_PART]
    rest = float(np.sqrt(max(known_scanner**2 - tissues**2, tables.number("uncertainty.field_mg_cm3") ** 2)))
    budget = (*line.budget, ("what patients showed beyond that", rest))
    source = tables.constant("uncertainty.internal.same_scanner_mg_cm3").source
    return Calibration(
        slope_mg_cm3_per_hu=line.slope_mg_cm3_per_hu,
        intercept_mg_cm3=line.intercept_mg_cm3,
        mineral="K2HPO4",
        covariance=line.covariance,
        systematic_relative=rest / np.sqrt(2.0) / 100.0,
        random_mg_cm3=rest / float(np.sqrt(2.0)),
        method="internal_tissues",
        reference="fit of effective energy, gain and offset to reference tissues (docs/methods.md); "
        f"{spelt(budget)}, from {source}",
        kvp=kvp,
        reason=f"reference tissues found: {names}",
        findings=findings,
        samples=tuple(survey.samples.values()),
        budget=budget,
    )


def _from_kvp(kvp: float | None) -> Calibration:
    gain = tables.number("gain_120kvp_hu_per_mg_cm3")
    systematic = tables.number("uncertainty.kvp_constant.systematic")
    if kvp is None:
        factor = 1.0
        systematic = float(np.hypot(systematic, tables.number("uncertainty.kvp_constant.unknown_kvp")))
        said = "tube voltage not recorded, so 120 kVp constants with a wider error"
    elif abs(kvp - 120) < 5:
        factor, said = 1.0, "constants for 120 kVp"
    elif tables.has_constant(f"factor_to_120kvp.{kvp:.0f}"):
        factor, said = tables.number(f"factor_to_120kvp.{kvp:.0f}"), f"constants for {kvp:.0f} kVp"
    else:
        raise NotMeasurable(
            "kvp_without_constants",
            f"there are no verified constants for {kvp:.0f} kVp (100, 120 and 140 are known).",
            subject="calibration",
            remedy="Give a calibration file for this scanner and voltage.",
        )
    findings = [
        Finding(
            "triage_calibration",
            Severity.WARNING,
            f"Densities come from {said}, not from this scan: for triage only, about "
            f"{100 * systematic:.0f} % + {tables.number('uncertainty.kvp_constant.random_mg_cm3'):.0f} mg/cm3.",
        )
    ]
    if kvp is None:
        findings.append(_kvp_absent())
    return Calibration(
        slope_mg_cm3_per_hu=factor / gain,
        intercept_mg_cm3=0.0,
        mineral="K2HPO4",
        covariance=np.zeros((2, 2)),
        systematic_relative=systematic,
        random_mg_cm3=tables.number("uncertainty.kvp_constant.random_mg_cm3"),
        method="kvp_constant",
        reference=f"{gain} HU per mg/cm3 at 120 kVp [{tables.constant('gain_120kvp_hu_per_mg_cm3').tag}], factor {factor}",
        kvp=kvp,
        reason=said,
        findings=tuple(findings),
    )


def _kvp_absent() -> Finding:
    return Finding(
        "kvp_unknown",
        Severity.WARNING,
        "The tube voltage is not recorded; it was not assumed, the uncertainty covers 80 to 140 kVp.",
    )


def _from_file(path: Path, volume: Volume) -> Calibration:
    match = calibration_file.match(calibration_file.read(path), volume.acquisition, subject=path.name)
    record = match.record
    of_day = f", measured on {record.measured_on.isoformat()}" if record.measured_on else ""
    return Calibration(
        slope_mg_cm3_per_hu=record.slope_mg_cm3_per_hu,
        intercept_mg_cm3=record.intercept_mg_cm3,
        mineral=record.mineral,
        covariance=np.array(record.covariance),
        systematic_relative=float(np.hypot(tables.number("uncertainty.asynchronous.systematic"), match.drift_relative)),
        random_mg_cm3=tables.number("uncertainty.asynchronous.random_mg_cm3"),
        method="file",
        reference=record.reference or f"calibration file {path.name}",
        kvp=volume.acquisition.kvp,
        reason=f"calibration file {path.name} was given{of_day}",
        findings=match.findings,
    )


def _published_alternatives(volume: Volume, survey: TissueSurvey, chosen: Calibration) -> list[Alternative]:
    """The published phantomless lines that the sampled tissues allow, for comparison only."""
    lines: list[Line] = []
    for method in (effective_energy_line, two_reference_line):
        line = method(survey)
        if line is not None:
            lines.append(line)
    return [
        Alternative(
            line.method,
            line.slope_mg_cm3_per_hu,
            line.intercept_mg_cm3,
            line.slope_mg_cm3_per_hu * _COMPARE_AT_HU + line.intercept_mg_cm3,
            tables.number("uncertainty.internal.unvalidated_total_mg_cm3"),
            line.comparable and chosen.mineral == "K2HPO4",
            line.note,
        )
        for line in lines
    ]


def _disagreement(chosen: Calibration, alternatives: tuple[Alternative, ...]) -> list[Finding]:
    """A finding if another method differs by more than twice the combined uncertainty.

    On another mineral scale only the fit to reference tissues is held against rods of hydroxyapatite, by the published factor
    with its own uncertainty.
    """
    own = float(chosen.density_mg_cm3(_COMPARE_AT_HU))
    uncertainty = chosen.uncertainty_mg_cm3(own)
    factor, spread = tables.numbers("k2hpo4_per_ha")
    of_rods = factor * own, float(np.hypot(factor * uncertainty, spread * own))
    apart = []
    for other in alternatives:
        converted = chosen.mineral == "HA" and other.method == "internal_tissues"
        if not (other.comparable or converted):
            continue
        expected, error = of_rods if converted else (own, uncertainty)
        if abs(other.density_at_130_hu_mg_cm3 - expected) > 2.0 * np.hypot(error, other.uncertainty_mg_cm3):
            scale = f" mg/cm3 K2HPO4 where {expected:.0f} were expected" if converted else ""
            apart.append(f"{other.method} {other.density_at_130_hu_mg_cm3:.0f}{scale}")
    if not apart:
        return []
    text = (
        f"At {_COMPARE_AT_HU:.0f} HU {chosen.method} gives {own:.0f} {chosen.unit} but {', '.join(apart)}: more "
        f"than their errors allow."
    )
    return [Finding("calibrations_disagree", Severity.WARNING, text)]
