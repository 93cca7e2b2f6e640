"""Calibration by a phantom in the scan: from its rods to a line with the budget of its uncertainty."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from pipeline.density import tables
from pipeline.density.attenuation import ENERGY_RANGE_KEV, k2hpo4_hu_per_mg_cm3
from pipeline.density.calibration_value import Calibration, spelt
from pipeline.density.given_phantom import GivenPhantom, plate_of
from pipeline.density.internal import beam_energy_kev
from pipeline.density.rods import Plate, known_phantoms, line_from_plate
from pipeline.density.tissues import TissueSample, TissueSurvey
from pipeline.errors import Finding, NotMeasurable, Severity
from pipeline.segmentation.model import Segmentation
from pipeline.volume import Volume

_VOLTAGE_DOUBTED_SD = 3.0


def plate_in_scan(
    volume: Volume, segmentation: Segmentation, given: GivenPhantom | None
) -> tuple[Plate | None, float | None]:
    """What is found of a phantom in a scan, and the tube voltage that its rods suit.

    Rods that suit no phantom at the voltage of the header are tried without it (None), as far as their own energy can be told
    (K2HPO4 in water): what is then found always comes with the doubt in the voltage.

    Raises
    ------
    InputRefused
        As `given_phantom.rods_from_mask`.
    """
    kvp = volume.acquisition.kvp
    plate = plate_of(volume, segmentation, given)
    if plate is not None and not plate.rods and kvp is not None:
        unbound = replace(volume, acquisition=replace(volume.acquisition, kvp=None))
        other = plate_of(unbound, segmentation, given)
        if other is not None and other.rods and other.definition is not None and other.definition.mineral == "K2HPO4":
            return other, None
    return plate, kvp


def plate_calibration(
    plate: Plate | None, *, read_at_kvp: float | None, kvp: float | None, survey: TissueSurvey
) -> Calibration:
    """The calibration by what `plate_in_scan` found, with a finding if its rods contradict the voltage of the header.

    Raises
    ------
    NotMeasurable
        ``no_phantom``, or as `rods.line_from_plate`.
    """
    if plate is None or not plate.rods:
        raise NotMeasurable("no_phantom", "no calibration phantom was found in the scan.", subject="calibration")
    line = replace(from_plate(plate, read_at_kvp), kvp=kvp)
    doubt = voltage_doubted(line, survey, at_sd=_VOLTAGE_DOUBTED_SD if read_at_kvp == kvp else 0.0)
    return replace(line, findings=(*line.findings, *doubt))


def from_plate(plate: Plate, kvp: float | None) -> Calibration:
    """The calibration that the rods of a phantom give.

    Raises
    ------
    NotMeasurable
        As `rods.line_from_plate`.
    """
    line = line_from_plate(plate, kvp=kvp)
    hardening = tables.number("uncertainty.phantom.hardening")
    certificate = tables.number("uncertainty.phantom.certificate")
    field = tables.number("uncertainty.field_mg_cm3")
    gradient = np.array([(100.0 - line.intercept_mg_cm3) / line.slope_mg_cm3_per_hu, 1.0])
    budget = (
        ("rods", float(np.sqrt(gradient @ line.covariance @ gradient))),
        ("certificate", 100.0 * certificate),
        ("hardening between plate and bone", 100.0 * hardening),
        ("evenness of the field", field),
    )
    findings = list(plate.findings)
    if plate.definition is not None and not plate.definition.certified:
        findings.append(
            Finding(
                "phantom_certificate_unknown",
                Severity.INFO,
                f"Rod densities of the {plate.title} are published values of one serial number; the "
                f"certificate of the phantom in "
                "use is better.",
            )
        )
    return Calibration(
        slope_mg_cm3_per_hu=line.slope_mg_cm3_per_hu,
        intercept_mg_cm3=line.intercept_mg_cm3,
        mineral=line.mineral,
        covariance=line.covariance,
        systematic_relative=float(np.hypot(certificate, hardening)),
        random_mg_cm3=field,
        method=f"phantom_{plate.name}",
        reference=(
            tables.constant("k2hpo4_displacement").source
            if line.mineral == "K2HPO4"
            else "least squares of rod HU on certified rod density"
        )
        + f"; {spelt(budget)}",
        budget=budget,
        kvp=kvp,
        reason=f"the {plate.title} phantom lies in the scan ({len(plate.rods)} rods)",
        findings=tuple(findings),
        samples=plate.rods,
    )


def calibrate_from_rods(
    rod_hu: ArrayLike,
    phantom: str,
    *,
    kvp: float | None = None,
    rod_sd_hu: ArrayLike | None = None,
    rod_density_mg_cm3: ArrayLike | None = None,
    rod_water_mg_cm3: ArrayLike | None = None,
) -> Calibration:
    """Calibrate from the mean HU of the rods of a phantom that lay under the patient.

    Parameters
    ----------
    rod_hu : array_like of shape (R,)
        In the order of the phantom's definition.
    phantom : str
        A name in `tables.phantom_definitions`.
    kvp : float, optional
    rod_sd_hu : array_like of shape (R,), optional
        Standard uncertainty of each mean.
    rod_density_mg_cm3, rod_water_mg_cm3 : array_like of shape (R,), optional
        From the certificate of the phantom in use; without them the published values of one serial number are used and
        said so.

    Raises
    ------
    NotMeasurable
        ``phantom_implausible`` if the fitted line is outside what physics allows for a diagnostic beam.
    """
    hu = np.asarray(rod_hu, dtype=float)
    definition = known_phantoms()[phantom]
    if rod_density_mg_cm3 is not None:
        density = tuple(np.asarray(rod_density_mg_cm3, dtype=float).tolist())
        definition = replace(definition, density_mg_cm3=density, certified=True)
    if rod_water_mg_cm3 is not None:
        definition = replace(definition, water_mg_cm3=tuple(np.asarray(rod_water_mg_cm3, dtype=float).tolist()))
    samples = tuple(
        TissueSample(f"rod_{i + 1}", float(v), float(s), 1, phantom, np.zeros((0, 3)))
        for i, (v, s) in enumerate(
            zip(hu, np.full(hu.shape, 1.0) if rod_sd_hu is None else np.asarray(rod_sd_hu), strict=True)
        )
    )
    return from_plate(Plate(definition, samples, ()), kvp)


def voltage_doubted(rods: Calibration, survey: TissueSurvey, *, at_sd: float = _VOLTAGE_DOUBTED_SD) -> list[Finding]:
    """A finding if the rods of a plate tell another energy of the beam than the tube voltage in the header, beyond `at_sd`.

    Rods of K2HPO4 in water only: what mineral displaces in plastics is not known well enough.
    """
    if rods.kvp is None or rods.mineral != "K2HPO4":
        return []
    energies = np.arange(*ENERGY_RANGE_KEV, 0.1)
    gain = np.asarray(k2hpo4_hu_per_mg_cm3(energies))  # falls with the energy
    told = float(np.interp(-1.0 / rods.slope_mg_cm3_per_hu, -gain, energies))
    expected, sd, _ = beam_energy_kev(survey, rods.kvp)
    per_kev = abs(float(np.interp(told + 1.0, energies, gain) / np.interp(told, energies, gain)) - 1.0)
    of_rods = (
        float(np.hypot(rods.systematic_relative, np.sqrt(rods.covariance[0, 0]) / rods.slope_mg_cm3_per_hu)) / per_kev
    )
    if abs(told - expected) <= at_sd * np.hypot(sd, of_rods):
        return []
    text = (
        f"The rods read as in a beam of {told:.0f} keV, and {rods.kvp:.0f} kVp give {expected:.0f} keV in this body: the tube "
        "voltage in the header may be wrong. The line of the rods does not depend on it."
    )
    return [Finding("voltage_doubtful", Severity.WARNING, text)]
