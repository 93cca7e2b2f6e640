"""The spine as a whole: mean density of the levels that count, its class and how sure that class is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy.stats import norm

from pipeline.density import tables
from pipeline.density.calibration_value import Calibration
from pipeline.density.vertebra import VertebraDensity
from pipeline.errors import Finding, Severity, Status
from reports.quantity import Quantity, format_quantity

SPINE_CLASSES = ("osteoporosis", "low bone mass", "normal")
L1Band = Literal["above_200", "160_to_200", "110_to_160", "100_to_110", "below_100"]
L1_BANDS: dict[L1Band, str] = {
    "above_200": "above 200 HU, osteoporosis unlikely (negative predictive value 99 %)",
    "160_to_200": "above 160 HU, the cut-off with 90 % sensitivity for osteoporosis",
    "110_to_160": "between 110 HU (over 90 % specificity for osteoporosis) and 160 HU (90 % sensitivity)",
    "100_to_110": "at or below 110 HU, the cut-off with over 90 % specificity for osteoporosis",
    "below_100": "below 100 HU (positive predictive value for osteoporosis at least 68 %)",
}
"""What it means for a CT number of L1 to lie between published cut-offs (Pickhardt 2013, `tables.json`)."""
_PREFERRED = ("L1", "L2")
_SUBSTITUTES = ("L1", "L2", "T12", "L3", "L4", "T11")
_LUMBAR = ("T12", "L1", "L2", "L3")
_SURE, _WORTH_SAYING = 0.95, 0.02
_YOUNGEST_CLASSIFIED_YEARS, _CLASSES_FROM_YEARS = 18.0, 50.0
_OUTLIER_Z = 3.5
_INTERVAL = 1.96
_FIRM = 0.9
# Why a measured body is not to stand for the spine as long as two others can; in words, by the code of the finding.
_DOUBTS = {
    "possible_deformity": "a possible deformity",
    "uneven_bone": "uneven bone",
    "disc_not_visible": "an endplate that no visible disc places",
}
_MARROW_MG_CM3, _MOST_MARROW_MG_CM3 = 11, 25
"""What a density that is taken for mineral alone is too low by, on average and in the fattiest marrow (docs/accuracy.md: 18
digital patients of 60 to 87 years, from 7 too high to 24 too low)."""


@dataclass(frozen=True)
class SpineDensity:
    """Summary of the measured bodies.

    Attributes
    ----------
    levels : tuple of str
        Which bodies entered the mean, from cranial to caudal; empty if there is no mean.
    vbmd_mg_cm3 : Quantity or None
    classification : str or None
        One of `SPINE_CLASSES`; None with a finding that says why.
    class_probabilities : dict of str to float
        Probability of each class given the stated uncertainty.
    statements : tuple of str
        What published L1 HU cut-offs say, with their caveats.
    reference : str
        Which rule the class follows.
    findings : tuple of Finding
    l1_hu : Quantity or None
        CT number of L1 in the elliptical region, which imitates the one that the cut-offs were found with; None if L1 was
        not measured.
    l1_band : str or None
        Between which of the published cut-offs it lies, one of `L1_BANDS`.
    outlier_levels : tuple of str
        Levels whose density stands out from the profile of the others, from cranial to caudal.
    """

    levels: tuple[str, ...]
    vbmd_mg_cm3: Quantity | None
    classification: str | None
    class_probabilities: dict[str, float]
    statements: tuple[str, ...]
    reference: str
    findings: tuple[Finding, ...]
    l1_hu: Quantity | None = None
    l1_band: L1Band | None = None
    outlier_levels: tuple[str, ...] = ()


def summarise_spine(
    measured: Iterable[VertebraDensity], calibration: Calibration, *, age_years: float | None = None
) -> SpineDensity:
    """Mean of L1 and L2, or of stated substitutes, with its ACR / ISCD class.

    Where no two levels are certain, the mean is of the two bodies that are most likely L1 and L2 among those that lie between
    T12 and L3 whatever the count, and what another count would make of it is part of its uncertainty.

    Bodies that may be deformed, are uneven, or lie apart from the profile of the other levels are set aside as long as two
    others can be averaged.

    The trabecular thresholds 80 and 120 mg/cm3 hold on the K2HPO4 scale; on the hydroxyapatite scale no class is given.
    A class is given to the mean as measured; its probability says how firmly.

    Parameters
    ----------
    measured : iterable of VertebraDensity
        In any order; fractured and failed bodies are not among them.
    calibration : Calibration
    age_years : float, optional
        Below 18 years no class is given; unknown age is stated.
    """
    sound = [m for m in measured if m.status is not Status.FAILED]
    by_level = {m.level: m for m in sound if m.level is not None}
    without_level = {m.name.removeprefix("vertebra_"): m for m in sound if m.level is None}
    outliers = _profile_outliers(by_level if len(by_level) >= len(without_level) else without_level)
    findings = list(outliers.values())
    reference = f"trabecular vBMD: {tables.constant('spine.osteoporosis_le_mg_cm3').source}"
    l1_hu = by_level["L1"].ellipse_hu if "L1" in by_level else None
    l1_band = _l1_band(l1_hu.value) if l1_hu is not None else None
    statements = _l1_statements(by_level, calibration, l1_band)
    if statements:
        findings.append(Finding("l1_hu_cut_offs", Severity.INFO, " ".join(statements)))
    doubts = {level: doubt for level, body in by_level.items() if (doubt := _doubt(body, level in outliers))}
    chosen = _levels([level for level in by_level if level not in doubts]) or _levels(list(by_level))
    of_level = 0.0
    if not chosen and (unnamed := _between_t12_and_l3(sound)):
        by_level |= unnamed
        doubts = {name: doubt for name, body in unnamed.items() if (doubt := _doubt(body, name in outliers))}
        chosen = _two_most_likely({name: body for name, body in unnamed.items() if name not in doubts}, unnamed)
        of_level = _spread_by_level(chosen, unnamed)
        findings.append(_uncertain_levels(chosen, unnamed))
    if not chosen:
        text = (
            "Spine density is not summarised: it needs two measurable bodies of T11 to L4 with certain levels, or two that lie "
            "between T12 and L3 whatever the count."
        )
        findings.append(Finding("too_few_levels", Severity.WARNING, text))
        return SpineDensity((), None, None, {}, statements, reference, tuple(findings), l1_hu, l1_band, tuple(outliers))
    findings += _choice_findings(chosen, by_level, doubts)
    mean = _mean([by_level[level] for level in chosen], chosen, calibration, of_level)
    probabilities = class_probabilities(mean)
    classification: str | None = None
    if calibration.mineral != "K2HPO4":
        text = f"No class: the thresholds hold for K2HPO4-equivalent density, this is {calibration.unit}."
        if calibration.mineral == "HA":
            text += f" {_on_the_scale_of_the_classes(mean)}"
        findings.append(Finding("class_withheld_mineral", Severity.WARNING, text))
        probabilities = {}
    elif age_years is not None and age_years < _YOUNGEST_CLASSIFIED_YEARS:
        text = f"No class: thresholds are not defined at {age_years:.0f} years."
        findings.append(Finding("class_withheld_age", Severity.WARNING, text))
        probabilities = {}
    else:
        classification = _class_of(mean.value)
        if limit_within_interval(mean):
            severity = Severity.WARNING if max(probabilities.values()) < _FIRM else Severity.INFO
            text = f"The class of the spine density is uncertain: {probability_words(probabilities)}."
            findings.append(Finding("class_uncertain", severity, text))
        if age_years is not None and age_years < _CLASSES_FROM_YEARS:
            text = (
                f"The patient is {age_years:.0f} years old: density classes are meant for women after menopause and men from "
                f"50 years; below that Z-scores apply, for which there is no verified table."
            )
            findings.append(Finding("class_below_50_years", Severity.WARNING, text))
        if age_years is None:
            text = "The age is not recorded; the class supposes an adult after peak bone mass."
            findings.append(Finding("age_unknown", Severity.INFO, text))
    if calibration.method == "kvp_constant":
        text = "The class rests on constants for the tube voltage, not on a calibration of this scan: triage only."
        findings.append(Finding("class_is_triage", Severity.WARNING, text))
    text = (
        f"Marrow fat is not seen at one tube voltage: the density is what a calibrated scanner reads. Taken for mineral "
        f"alone it is about {_MARROW_MG_CM3} mg/cm3 too low on average, up to {_MOST_MARROW_MG_CM3} in fatty marrow; the "
        f"stated interval does not include it."
    )
    findings.append(Finding("marrow_fat_unseen", Severity.INFO, text))
    return SpineDensity(
        chosen,
        mean,
        classification,
        probabilities,
        statements,
        reference,
        tuple(findings),
        l1_hu,
        l1_band,
        tuple(outliers),
    )


def _on_the_scale_of_the_classes(mean_ha: Quantity) -> str:
    """What a density in hydroxyapatite would be in K2HPO4, and in which class with what probability: for orientation.

    Published factors lie between 0.81 and 0.97, so that no class rests on them.
    """
    factor, spread = tables.numbers("k2hpo4_per_ha")
    value = factor * mean_ha.value
    uncertainty = float(np.hypot(factor * (mean_ha.uncertainty or 0.0), spread * mean_ha.value))
    as_k2hpo4 = Quantity(value=value, unit="mg/cm3 K2HPO4", uncertainty=uncertainty, method="converted")
    return (
        f"With the published factors of {factor:.2f} ± {spread:.2f} it would be about {format_quantity(as_k2hpo4)} "
        f"({probability_words(class_probabilities(as_k2hpo4))})."
    )


def class_probabilities(vbmd: Quantity) -> dict[str, float]:
    """Probability of each class if the true density is normally distributed around the measured one."""
    low, high = tables.number("spine.osteoporosis_le_mg_cm3"), tables.number("spine.normal_ge_mg_cm3")
    spread = max(vbmd.uncertainty or 0.0, 1e-9)
    below_low, below_high = (float(norm.cdf((limit - vbmd.value) / spread)) for limit in (low, high))
    return dict(zip(SPINE_CLASSES, (below_low, below_high - below_low, 1.0 - below_high), strict=True))


def limit_within_interval(vbmd: Quantity) -> bool:
    """Whether a limit between classes lies inside the 95 % interval of a density."""
    limits = (tables.number("spine.osteoporosis_le_mg_cm3"), tables.number("spine.normal_ge_mg_cm3"))
    return any(abs(vbmd.value - limit) <= _INTERVAL * (vbmd.uncertainty or 0.0) for limit in limits)


def probability_words(probabilities: dict[str, float]) -> str:
    """``osteoporosis 16 %, low bone mass 73 %, normal 11 %``."""
    return ", ".join(f"{name} {100 * p:.0f} %" for name, p in probabilities.items())


def _class_of(vbmd_mg_cm3: float) -> str:
    if vbmd_mg_cm3 <= tables.number("spine.osteoporosis_le_mg_cm3"):
        return "osteoporosis"
    return "low bone mass" if vbmd_mg_cm3 < tables.number("spine.normal_ge_mg_cm3") else "normal"


def _doubt(body: VertebraDensity, outlier: bool) -> str:
    """Why a measured body should not stand for the spine; empty if nothing speaks against it."""
    said = [words for code, words in _DOUBTS.items() if any(f.code == code for f in body.findings)]
    return ", ".join([*said, "a density apart from that of the other levels"] if outlier else said)


def _levels(available: list[str]) -> tuple[str, ...]:
    """L1 and L2, else the two most preferred of T11 to L4 that are there, from cranial to caudal."""
    chosen = [level for level in _SUBSTITUTES if level in available][:2]
    if len(chosen) < 2:
        return ()
    order = {level: i for i, level in enumerate(("T11", "T12", "L1", "L2", "L3", "L4"))}
    return tuple(sorted(chosen, key=order.__getitem__))


def _choice_findings(
    chosen: tuple[str, ...], by_level: dict[str, VertebraDensity], doubts: dict[str, str]
) -> list[Finding]:
    """What the reader must know of the levels that the mean is made of."""
    findings = []
    if set(chosen) != set(_PREFERRED) and set(chosen) <= set(_SUBSTITUTES):
        absent = [level for level in _PREFERRED if level not in by_level]
        reasons = [f"{' and '.join(absent)} could not be measured"] if absent else []
        reasons += [f"{level} shows {doubts[level]}" for level in _PREFERRED if level in doubts and level not in chosen]
        text = f"The mean is of {' and '.join(chosen)}, because {' and '.join(reasons)}."
        findings.append(Finding("substitute_levels", Severity.WARNING, text))
    for level in chosen:
        if level in doubts:
            text = f"{level} shows {doubts[level]} and stands in the mean for want of other levels."
            findings.append(Finding("doubtful_level_in_mean", Severity.WARNING, text))
    return findings


def _between_t12_and_l3(measured: list[VertebraDensity]) -> dict[str, VertebraDensity]:
    """Bodies without a certain level that are one of T12 to L3 whatever the count, by name, from cranial to caudal."""
    certain = {
        body.name.removeprefix("vertebra_"): body
        for body in measured
        if body.level is None and sum(body.level_alternatives.get(level, 0.0) for level in _LUMBAR) >= _SURE
    }
    return dict(sorted(certain.items(), key=lambda pair: int(pair[0].lstrip("u") or 0)))


def _two_most_likely(sound: dict[str, VertebraDensity], all_of_them: dict[str, VertebraDensity]) -> tuple[str, ...]:
    """The two bodies that are most likely L1 and L2, from cranial to caudal; doubtful ones for want of others."""
    available = sound if len(sound) >= 2 else all_of_them
    if len(available) < 2:
        return ()

    def likely(name: str) -> float:
        return sum(available[name].level_alternatives.get(level, 0.0) for level in _PREFERRED)

    chosen = sorted(available, key=likely, reverse=True)[:2]
    return tuple(name for name in all_of_them if name in chosen)


def _spread_by_level(chosen: tuple[str, ...], bodies: dict[str, VertebraDensity]) -> float:
    """How much the mean would differ if other bodies were L1 and L2: the root mean square over the counts that can be held."""
    if not chosen:
        return 0.0
    mean = float(np.mean([bodies[name].vbmd_mg_cm3.value for name in chosen]))
    names, squared = list(bodies), 0.0
    for upper, lower in pairwise(names):
        if int(lower.lstrip("u")) == int(upper.lstrip("u")) + 1:
            other = float(np.mean([bodies[name].vbmd_mg_cm3.value for name in (upper, lower)]))
            squared += bodies[upper].level_alternatives.get("L1", 0.0) * (other - mean) ** 2
    return float(np.sqrt(squared))


def _uncertain_levels(chosen: tuple[str, ...], bodies: dict[str, VertebraDensity]) -> Finding:
    """What the two bodies of the mean may be."""

    def what(name: str) -> str:
        likely = sorted(bodies[name].level_alternatives.items(), key=lambda pair: -pair[1])
        return f"{name}: {' or '.join(f'{level} {100 * p:.0f} %' for level, p in likely if p >= _WORTH_SAYING)}"

    text = (
        f"The levels are not certain: the mean is of {' and '.join(chosen)}, which lie between T12 and L3 whatever the count "
        f"({', '.join(what(name) for name in chosen)})."
    )
    return Finding("uncertain_levels_in_mean", Severity.WARNING, text)


def _mean(
    bodies: list[VertebraDensity], levels: tuple[str, ...], calibration: Calibration, of_level: float
) -> Quantity:
    """Mean density. Noise and what was left out are each body's own; calibration, contrast and boundary are common to them."""
    value = float(np.mean([b.vbmd_mg_cm3.value for b in bodies]))
    parts: dict[str, float] = {}
    for name in bodies[0].vbmd_mg_cm3.components:
        each = np.array([b.vbmd_mg_cm3.components.get(name, 0.0) for b in bodies])
        parts[name] = float(np.linalg.norm(each) / len(each)) if name in ("noise", "exclusion") else float(each.mean())
    parts["calibration"] = calibration.uncertainty_mg_cm3(value)
    if of_level > 0.0:
        parts["level"] = of_level
    return Quantity(
        value=value,
        unit=calibration.unit,
        uncertainty=float(np.linalg.norm(list(parts.values()))),
        method=f"mean of {' and '.join(levels)}, peeled bodies, calibration {calibration.method}",
        reference=calibration.reference,
        components=parts,
    )


def _l1_band(hu: float) -> L1Band:
    """Between which published cut-offs a CT number of L1 lies, a key of `L1_BANDS`."""
    if hu > tables.number("l1_hu.npv99_gt"):
        return "above_200"
    if hu > tables.number("l1_hu.sensitivity90_le"):
        return "160_to_200"
    if hu > tables.number("l1_hu.specificity90_le"):
        return "110_to_160"
    return "100_to_110" if hu >= tables.number("l1_hu.ppv68_lt") else "below_100"


def _l1_statements(
    by_level: dict[str, VertebraDensity], calibration: Calibration, band: L1Band | None
) -> tuple[str, ...]:
    """What the published HU cut-offs for L1 say about this scan, and what speaks against holding it against them."""
    body = by_level.get("L1")
    if body is None or body.ellipse_hu is None or band is None:
        return ()
    source = tables.constant("l1_hu.npv99_gt").source
    said = [
        f"L1 reads {format_quantity(body.ellipse_hu)} in the elliptical region, {L1_BANDS[band]} [{source}].",
        "These cut-offs were found at 120 kVp without contrast agent, with hand-drawn regions.",
    ]
    kvp = calibration.kvp
    if kvp is None:
        said.append("The tube voltage of this scan is not recorded, so that they may not hold.")
    elif abs(kvp - 120) > 5:
        factor = f"factor_to_120kvp.{kvp:.0f}"
        at_120 = (
            f": L1 would read about {100 * (tables.number(factor) - 1):+.0f} % at 120 kVp"
            if tables.has_constant(factor)
            else ""
        )
        said.append(f"This scan was made at {kvp:.0f} kVp, where they do not hold unchanged{at_120}.")
    if calibration.contrast_enhanced:
        low, high = tables.numbers("contrast.vertebra_bias_hu")
        said.append(
            f"This scan is contrast enhanced, which raised L1 by {low:.0f} to {high:.0f} HU in published studies."
        )
    if any(finding.code == "sharp_kernel" for finding in calibration.findings):
        said.append("This scan was made with an edge-enhancing kernel, which they were not found with.")
    return tuple(said)


def _profile_outliers(by_name: dict[str, VertebraDensity]) -> dict[str, Finding]:
    """Those that stand out from a straight line through the others: a hidden fracture, a lesion or a wrong mask.

    By level, or by name of bodies without one.
    """
    order = [*(f"T{i}" for i in range(1, 13)), *(f"L{i}" for i in range(1, 6)), *(f"u{i}" for i in range(1, 25))]
    levels = [level for level in order if level in by_name]
    if len(levels) < 5:
        return {}
    position = np.array([order.index(level) for level in levels], float)
    value = np.array([by_name[level].vbmd_mg_cm3.value for level in levels])
    found: dict[str, Finding] = {}
    for i, level in enumerate(levels):
        others = np.arange(len(levels)) != i
        line = np.polyfit(position[others], value[others], 1)
        rest = value[others] - np.polyval(line, position[others])
        spread = max(1.4826 * float(np.median(np.abs(rest))), 8.0)
        apart = value[i] - float(np.polyval(line, position[i]))
        if abs(apart) > _OUTLIER_Z * spread:
            unit = by_name[level].vbmd_mg_cm3.unit
            text = (
                f"{level} is {apart:+.0f} {unit} from the trend of the other levels: look for fracture, "
                f"sclerosis or a lesion."
            )
            found[level] = Finding("density_outlier_level", Severity.WARNING, text)
    return found
