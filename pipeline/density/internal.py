"""Calibration from reference tissues: the line from HU to mineral density that makes the tissues read what they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from pipeline.density import tables
from pipeline.density.attenuation import (
    ENERGY_RANGE_KEV,
    effective_energy_kev,
    k2hpo4_hu_per_mg_cm3,
    mass_attenuation_cm2_g,
    tissue_hu,
)
from pipeline.density.tissues import TissueSurvey
from pipeline.errors import Finding, NotMeasurable, Severity

ENERGY_PART = "energy of the X-rays in the body"
TISSUE_PART = "reference tissues, gain and offset of the scanner"
"""The two parts of the uncertainty of a fit, as a budget names them."""

_TISSUES = ("air", "adipose", "muscle", "blood")
_REFUSE_AT_SD = 4.0
_WARN_AT_SD = 2.5
_TABULATED_KVP = (78.0, 142.0)


@dataclass(frozen=True)
class Line:
    """A fitted line with what it was fitted to.

    `used` names the references; `note` says what a reader should know; `comparable` is False when its density scale is
    not the water and K2HPO4 scale. `budget` holds the parts of its standard uncertainty at 100 mg/cm3 by name.
    """

    method: str
    slope_mg_cm3_per_hu: float
    intercept_mg_cm3: float
    covariance: NDArray[np.float64]
    used: tuple[str, ...]
    note: str
    comparable: bool = True
    mineral: str = "K2HPO4"
    budget: tuple[tuple[str, float], ...] = ()


def tissue_constrained_line(
    survey: TissueSurvey, kvp: float | None, *, contrast_enhanced: bool
) -> tuple[Line, tuple[Finding, ...]]:
    """Fit effective energy, scanner gain and scanner offset to the tissues, each with a prior.

    The scanner is taken to read ``gain * HU(E) + offset``; HU(E) of the tissues comes from attenuation tables, what the
    energy E can be from the tube voltage. Density follows as ``(HU - offset) / gain / s(E)`` with s(E) the HU of 1
    mg/cm3 K2HPO4 in water.

    Parameters
    ----------
    survey : TissueSurvey
    kvp : float or None
        None widens the prior of the energy to what 80 to 140 kVp can give.
    contrast_enhanced : bool
        Blood is then not used, and muscle with less weight.

    Raises
    ------
    NotMeasurable
        ``too_few_reference_tissues`` without two of fat, muscle and unenhanced blood; ``reference_tissue_implausible``
        if a tissue lies more than 4 standard deviations from what the fit can explain.
    """
    findings: list[Finding] = []
    expected_sd = {tissue: tables.number(f"tissue_sd_hu.{tissue}") for tissue in _TISSUES}
    used = [t for t in _TISSUES if t in survey.samples]
    if not survey.free_air:
        expected_sd["air"] = tables.number("tissue_sd_hu.air_near")
    if contrast_enhanced:
        used = [t for t in used if t != "blood"]
        expected_sd["muscle"] = tables.number("tissue_sd_hu.muscle_enhanced")
    if len(set(used) - {"air"}) < 2:
        raise NotMeasurable(
            "too_few_reference_tissues",
            f"reference tissues found: {', '.join(used) or 'none'}; two of fat, muscle and unenhanced blood are needed.",
            subject="internal calibration",
            remedy="Give a calibration file, or a series with a larger field of view.",
        )
    energy, energy_sd, energy_findings = beam_energy_kev(survey, kvp)
    findings += energy_findings
    hu = np.array([survey.samples[t].hu for t in used])
    sd = np.array([np.hypot(expected_sd[t], survey.samples[t].standard_error_hu) for t in used])
    prior = np.array([energy, 1.0, 0.0])
    prior_sd = np.array([energy_sd, tables.number("scanner_gain_sd"), tables.number("scanner_offset_sd_hu")])

    def residuals(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        e, gain, offset = parameters
        model = np.array([float(tissue_hu(t, e)) for t in used]) * gain + offset
        return np.concatenate([(hu - model) / sd, (parameters - prior) / prior_sd])

    fit = least_squares(
        residuals,
        prior,
        x_scale=prior_sd,
        bounds=([ENERGY_RANGE_KEV[0], 0.5, -200.0], [ENERGY_RANGE_KEV[1], 2.0, 200.0]),
    )
    misfit = residuals(fit.x)[: len(used)]
    worst = int(np.argmax(np.abs(misfit)))
    text = (
        f"{used[worst]} reads {hu[worst]:.0f} HU, {abs(misfit[worst]):.1f} standard deviations from "
        f"what the other reference "
        f"tissues and the tube voltage allow ({hu[worst] - misfit[worst] * sd[worst]:.0f} HU)."
    )
    if abs(misfit[worst]) > _REFUSE_AT_SD:
        raise NotMeasurable("reference_tissue_implausible", text, subject="internal calibration")
    if abs(misfit[worst]) > _WARN_AT_SD:
        findings.append(Finding("reference_tissue_unusual", Severity.WARNING, text))
    return _line_of_fit(fit.x, fit.jac, tuple(used)), tuple(findings)


def _line_of_fit(parameters: NDArray[np.float64], jacobian: NDArray[np.float64], used: tuple[str, ...]) -> Line:
    """The line of a fitted energy, gain and offset, with its covariance and where that comes from."""
    energy, gain, offset = parameters
    information = jacobian.T @ jacobian
    covariance = np.linalg.inv(information)
    slope = 1.0 / (gain * float(k2hpo4_hu_per_mg_cm3(energy)))
    step = 0.01
    slope_by_energy = (
        (1.0 / float(k2hpo4_hu_per_mg_cm3(energy + step)) - 1.0 / float(k2hpo4_hu_per_mg_cm3(energy - step))) / gain
    ) / (2 * step)
    to_slope = np.array([slope_by_energy, -slope / gain, 0.0])
    to_intercept = np.array([-offset * slope_by_energy, offset * slope / gain, -slope])
    gradient = np.stack([to_slope, to_intercept])
    at_100 = np.array([100.0 / slope + offset, 1.0]) @ gradient
    total = float(at_100 @ covariance @ at_100)
    # Were the energy known, this much would be left: gain and offset, as far as the tissues tell them.
    known = float(at_100[1:] @ np.linalg.inv(information[1:, 1:]) @ at_100[1:])
    return Line(
        method="internal_tissues",
        slope_mg_cm3_per_hu=slope,
        intercept_mg_cm3=-offset * slope,
        covariance=gradient @ covariance @ gradient.T,
        used=used,
        note=f"effective energy {energy:.1f} keV, gain {gain:.4f}, offset {offset:+.1f} HU",
        budget=(
            (ENERGY_PART, float(np.sqrt(max(total - known, 0.0)))),
            (TISSUE_PART, float(np.sqrt(known))),
        ),
    )


def beam_energy_kev(survey: TissueSurvey, kvp: float | None) -> tuple[float, float, list[Finding]]:
    """Mean and standard deviation of the effective energy inside the body in keV: tube voltage, size of the body, filter.

    With what there is to say of it.
    """
    filtered = tables.number("effective_energy_filter_kev")
    if kvp is None:
        text = "The tube voltage is not recorded; it was not assumed, the uncertainty covers 80 to 140 kVp."
        wide = tables.number("effective_energy_sd_unknown_kvp_kev")
        return effective_energy_kev(120.0) + filtered, wide, [Finding("kvp_unknown", Severity.WARNING, text)]
    diameter = survey.water_diameter_mm
    diameter_sd = tables.number("water_equivalent_diameter_own_sd_mm")
    if diameter is None:
        diameter = max(tables.number("water_equivalent_diameter_mm"), survey.least_water_diameter_mm or 0.0)
        diameter_sd = tables.number("water_equivalent_diameter_sd_mm")
    step = 25.0
    by_size = (effective_energy_kev(kvp, diameter + step) - effective_energy_kev(kvp, diameter - step)) / (2 * step)
    sd = float(
        np.sqrt(
            (by_size * diameter_sd) ** 2
            + tables.number("effective_energy_filter_sd_kev") ** 2
            + tables.number("effective_energy_model_sd_kev") ** 2
        )
    )
    findings = []
    if not _TABULATED_KVP[0] <= kvp <= _TABULATED_KVP[1]:
        sd = tables.number("effective_energy_sd_unknown_kvp_kev")
        text = f"The effective energy at {kvp:.0f} kVp is an unverified estimate; its uncertainty was widened."
        findings.append(Finding("kvp_prior_unverified", Severity.WARNING, text))
    return effective_energy_kev(kvp, diameter) + filtered, sd, findings


def effective_energy_line(survey: TissueSurvey) -> Line | None:
    """The multi-tissue method of Michalski et al. (2020), on its own triglyceride and mineral scale; None without its tissues.

    Needs air, fat, cortical bone, and muscle or blood. The energy is the one at which mass attenuation is most linear in HU.
    """
    used = [t for t in _TISSUES if t in survey.samples and not (t == "blood" and survey.blood_enhanced)]
    if not {"air", "adipose"} <= set(used) or len(used) < 3 or "cortical_bone" not in survey.samples:
        return None
    used.append("cortical_bone")
    hu = np.array([survey.samples[t].hu for t in used])
    energies = np.arange(*ENERGY_RANGE_KEV, 0.5)
    attenuation = np.stack(
        [mass_attenuation_cm2_g("bone_cortical" if t == "cortical_bone" else t, energies) for t in used]
    )
    spread = hu - hu.mean()
    slopes = spread @ attenuation / (spread @ spread)
    rest = attenuation - attenuation.mean(axis=0) - spread[:, None] * slopes
    r_squared = 1.0 - (rest**2).sum(axis=0) / ((attenuation - attenuation.mean(axis=0)) ** 2).sum(axis=0)
    best = int(np.argmax(r_squared))
    if r_squared[best] < 0.99:
        return None
    energy = float(energies[best])
    water, triglyceride, mineral = (
        float(mass_attenuation_cm2_g(m, energy)) for m in ("water", "triglyceride", "k2hpo4")
    )
    slope_u, offset_u = np.polyfit(hu, attenuation[:, best], 1)
    density = (hu / 1000.0 + 1.0) * water / attenuation[:, best]
    slope_d, offset_d = np.polyfit(hu, density, 1)

    def mineral_mg_cm3(value: float) -> float:
        mixture = slope_u * value + offset_u
        share = (mixture - triglyceride) / (mineral - triglyceride)
        return float(1000.0 * (slope_d * value + offset_d) * share)

    # The published relation is a slightly curved function of HU; its chord over trabecular bone is what can be compared.
    low, high = mineral_mg_cm3(50.0), mineral_mg_cm3(250.0)
    slope = (high - low) / 200.0
    return Line(
        "internal_effective_energy",
        slope,
        low - 50.0 * slope,
        np.zeros((2, 2)),
        tuple(used),
        f"multi-tissue effective energy {energy:.1f} keV, R2 {r_squared[best]:.4f}; triglyceride and "
        f"mineral scale, reads higher",
        comparable=False,
    )


def two_reference_line(survey: TissueSurvey) -> Line | None:
    """Straight line through air and one tissue of known K2HPO4 equivalent at 70 keV (Lee et al. 2017 style)."""
    reference = "blood" if "blood" in survey.samples and not survey.blood_enhanced else "adipose"
    if not {"air", reference} <= set(survey.samples):
        return None
    gain = tables.number("gain_120kvp_hu_per_mg_cm3")
    density = {t: float(tissue_hu(t, 70.0)) / gain for t in ("air", reference)}
    air, tissue = survey.samples["air"], survey.samples[reference]
    slope = (density[reference] - density["air"]) / (tissue.hu - air.hu)
    return Line(
        f"internal_air_{reference}",
        slope,
        density["air"] - slope * air.hu,
        np.zeros((2, 2)),
        ("air", reference),
        f"line through air and {reference}; blind to the tube voltage",
    )
