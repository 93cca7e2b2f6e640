"""What the conditions of a scan mean for its densities: spectral products, kernel, contrast agent, impossible scales of HU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.density import tables
from pipeline.density.attenuation import effective_energy_kev, tissue_hu
from pipeline.density.bright_tissue import BrightTissue, find_bright_tissue
from pipeline.density.tissues import TissueSurvey
from pipeline.errors import Finding, NotMeasurable, Severity
from pipeline.ingest.kernels import KernelClass, kernel_class
from pipeline.ingest.spectral import (
    mixed_voltages,
    pair_half,
    photon_counting,
    spectral_product,
    tin_filter,
    usable_voltage_kvp,
)
from pipeline.volume import Volume

_SOFT_TISSUE_HU = (0.0, 135.0)
_FEWEST_SOFT_VOXELS = 2000
_WIDEST_SD = 4.0
_UNKNOWN_KVP = 80.0
"""Where the voltage is not known, the lowest in common use allows blood the most."""


def require_hu_of_a_voltage(volume: Volume) -> None:
    """Refuse images whose values are no HU at a tube voltage: no absolute density follows from them.

    Ingest passes them over; this is for a user who names such a series.

    Raises
    ------
    NotMeasurable
        ``spectral_image``, naming the product.
    """
    kind = spectral_product(volume.acquisition)
    if kind is not None:
        raise NotMeasurable(
            "spectral_image",
            f"is {kind}, not HU at a tube voltage: no absolute density follows.",
            subject="the series",
            remedy="Use the conventional series of the same scan.",
        )


def require_plain_filter(volume: Volume) -> None:
    """Refuse energies by tube voltage for a beam that is not the usual one of its voltage.

    Behind a tin filter it is much harder than its voltage says; the halves of a dual-energy pair are not meant to be measured
    alone (one may be behind tin, and each holds the scatter of the other's tube).

    Raises
    ------
    NotMeasurable
        ``tin_filter`` or ``dual_energy_pair``.
    """
    facts = volume.acquisition
    if tin_filter(facts):
        raise NotMeasurable(
            "tin_filter",
            "was made behind a tin filter (one of a dual-energy pair, or a low-dose scan), whose energy is not known.",
            subject="the series",
            remedy="Use the series without it, a phantom in the scan, or a calibration file of this setting.",
        )
    half = pair_half(facts)
    if half is not None:
        raise NotMeasurable(
            "dual_energy_pair",
            f"is {half}: densities are not taken from one half by its voltage.",
            subject="the series",
            remedy="Use the mixed series of the same scan, a phantom in the scan, or a calibration file of this setting.",
        )


def with_known_voltage(volume: Volume) -> tuple[Volume, list[Finding]]:
    """The scan, without its tube voltage where that does not tell the energy, and the finding that says why."""
    facts = volume.acquisition
    covered = "none is assumed, and the uncertainty covers 80 to 140 kVp."
    if mixed_voltages(facts):
        finding = Finding(
            "dual_energy_mixed", Severity.WARNING, "The series is mixed from two tube voltages: " + covered
        )
    elif facts.kvp is not None and usable_voltage_kvp(facts) is None:
        finding = Finding(
            "kvp_implausible",
            Severity.WARNING,
            f"The header gives {facts.kvp:.0f} kVp, which is no tube voltage of body CT: " + covered,
        )
    elif photon_counting(facts):
        finding = Finding(
            "photon_counting",
            Severity.WARNING,
            "A detector that counts photons weighs their energies otherwise than the constants of a voltage: "
            + covered,
        )
    else:
        return volume, []
    return replace(volume, acquisition=replace(facts, kvp=None)), [finding]


def require_plausible_scale(volume: Volume) -> None:
    """Refuse constants for the tube voltage when soft tissue or fat read what they cannot at that voltage.

    Where neither a phantom nor the patient's own tissues could serve, nothing else would notice HU that are shifted, or images
    of another energy than their header says: the commonest value between -30 and 300 HU is that of muscle and organs, 25 to
    115 HU on every real scan looked at, enhanced ones included; the commonest below is that of fat, which lies within four
    standard deviations of what the internal calibration expects of it.

    Raises
    ------
    NotMeasurable
        ``hu_scale_implausible``.
    """
    sample = volume.hu[::2, ::2, ::2]
    if volume.valid is not None:
        sample = sample[volume.valid[::2, ::2, ::2]]
    remedy = "Check the rescale values of the export, or give a calibration file."
    low, high = _SOFT_TISSUE_HU
    peak = _peak_hu(sample, -30.0, 300.0, 0.0)
    if peak is not None and not low <= peak <= high:
        text = f"the commonest soft tissue reads {peak:.0f} HU, where {low:.0f} to {high:.0f} HU are possible."
        raise NotMeasurable("hu_scale_implausible", text, subject="the scan", remedy=remedy)
    low, high = _fat_range_hu(volume.acquisition.kvp)
    peak = _peak_hu(sample, -400.0, -30.0, 3.0)
    if peak is not None and not low <= peak <= high:
        text = f"fat reads {peak:.0f} HU, where {low:.0f} to {high:.0f} HU are possible."
        raise NotMeasurable("hu_scale_implausible", text, subject="the scan", remedy=remedy)


def _fat_range_hu(kvp: float | None) -> tuple[float, float]:
    """What fat may read at a tube voltage: four standard deviations of people, scanner gain, offset and (if unknown) energy."""
    energy_kev = effective_energy_kev(kvp or 120.0)
    unknown_kev = 0.0 if kvp else tables.number("effective_energy_sd_unknown_kvp_kev")
    expected = float(tissue_hu("adipose", energy_kev))
    by_energy = float(tissue_hu("adipose", energy_kev + 1.0)) - expected
    between_scanners = (tables.number("scanner_gain_sd") * expected, tables.number("scanner_offset_sd_hu"))
    parts = (tables.number("tissue_sd_hu.adipose"), *between_scanners, by_energy * unknown_kev)
    margin = _WIDEST_SD * float(np.linalg.norm(parts))
    return expected - margin, expected + margin


def _peak_hu(sample: NDArray, low_hu: float, high_hu: float, prominence: float) -> float | None:
    """Commonest value between two limits; None if there are few voxels, or the peak is no `prominence` times the median."""
    counts, edges = np.histogram(sample, bins=np.arange(low_hu - 10.0, high_hu + 11.0, 10.0))
    below, above, edges = int(counts[0]), int(counts[-1]), edges[1:-1]
    counts = counts[1:-1]
    if counts.sum() < _FEWEST_SOFT_VOXELS:
        return None
    smooth = np.convolve(counts, (0.25, 0.5, 0.25), "same")
    at = int(np.argmax(smooth))
    # The greatest count at a limit is no peak if there are more beyond it: the flank of something else.
    flank = (at == 0 and below > counts[0]) or (at == len(counts) - 1 and above > counts[-1])
    if prominence > 0.0 and flank:
        return None
    if smooth[at] < prominence * np.median(smooth):
        return None
    return float(edges[at]) + 5.0


def kernel_share(volume: Volume) -> tuple[float, list[Finding]]:
    """Relative standard uncertainty that the kernel adds to densities, and the finding that says so."""
    facts = volume.acquisition
    if kernel_class(facts.kernel, facts.manufacturer) is not KernelClass.SHARP:
        return 0.0, []
    share = tables.number("uncertainty.sharp_kernel.systematic")
    text = (
        f"The kernel '{facts.kernel}' enhances edges: {100 * share:.0f} % were added to the uncertainty of all densities, "
        f"and so of strength."
    )
    return share, [Finding("sharp_kernel", Severity.WARNING, text)]


def contrast_given(volume: Volume, survey: TissueSurvey) -> tuple[bool, list[Finding]]:
    """Whether contrast agent was given, or cannot be excluded, from the image first; and the findings that say so.

    The aorta decides where it is clear. Between what blood without contrast agent reads at most (3 standard deviations
    above its mean) and the limit, and where no vessel is in view, other bright tissue (`bright_tissue`) and the header count.
    """
    blood = survey.samples.get("blood")
    agent = volume.acquisition.contrast_agent
    low, high = tables.numbers("contrast.vertebra_bias_hu")
    consequence = (
        f"vertebral HU are expected {low:.0f} to {high:.0f} HU too high (published means); they are "
        f"reported uncorrected, with "
        f"{tables.number('contrast.vertebra_sd_hu'):.0f} HU added to the uncertainty."
    )
    muscle = survey.samples.get("muscle")
    beside_spine = None if muscle is None else muscle.points_lps_mm
    if blood is None:
        return _contrast_without_vessel(agent is not None, find_bright_tissue(volume, beside_spine), consequence)
    tag = "" if agent else " The header names no contrast agent."
    if survey.blood_enhanced:
        text = f"The aorta measures {blood.hu:.0f} HU: contrast agent; {consequence}{tag}"
        return True, [Finding("contrast_enhanced", Severity.WARNING, text)]
    bright = find_bright_tissue(volume, beside_spine)
    most = most_native_blood_hu(volume.acquisition.kvp)
    if blood.hu > most and bright is not None:
        text = (
            f"The aorta measures {blood.hu:.0f} HU, and {bright.volume_ml:.0f} ml of other tissue or fluid measure "
            f"{bright.hu:.0f} HU: contrast agent in a late phase; {consequence}{tag}"
        )
        return True, [Finding("contrast_enhanced", Severity.WARNING, text)]
    if blood.hu > most:
        text = (
            f"The aorta measures {blood.hu:.0f} HU, blood without contrast agent {most:.0f} HU at most: contrast agent "
            f"cannot be excluded; {consequence}{tag}"
        )
        return True, [Finding("contrast_possible", Severity.WARNING, text)]
    findings = []
    if agent:
        text = f"The header names a contrast agent but the aorta measures {blood.hu:.0f} HU: taken as unenhanced."
        findings.append(Finding("contrast_tag_without_enhancement", Severity.INFO, text))
    if bright is not None:
        text = (
            f"{bright.volume_ml:.0f} ml of tissue or fluid that is no bone measure {bright.hu:.0f} HU, the aorta "
            f"{blood.hu:.0f} HU: contrast agent in gut or urine, or iron in the liver; blood is taken as unenhanced."
        )
        findings.append(Finding("bright_contents", Severity.INFO, text))
    return False, findings


def most_native_blood_hu(kvp: float | None) -> float:
    """The most that blood without contrast agent reads: its mean at the energy of the voltage, plus 3 standard deviations."""
    energy_kev = effective_energy_kev(kvp if kvp is not None else _UNKNOWN_KVP)
    return float(tissue_hu("blood", energy_kev)) + 3.0 * tables.number("tissue_sd_hu.blood")


def _contrast_without_vessel(agent: bool, bright: BrightTissue | None, consequence: str) -> tuple[bool, list[Finding]]:
    if bright is not None:
        seen = (
            f"No large vessel is in view, but {bright.volume_ml:.0f} ml of tissue or fluid that is no bone measure "
            f"{bright.hu:.0f} HU"
        )
        if agent:
            text = seen + f", and the header names a contrast agent; {consequence}"
            return True, [Finding("contrast_enhanced", Severity.WARNING, text)]
        text = seen + f": contrast agent in vessels cannot be excluded; {consequence}"
        return True, [Finding("contrast_possible", Severity.WARNING, text)]
    if agent:
        text = f"The header names a contrast agent and no large vessel is in view to check it; {consequence}"
        return True, [Finding("contrast_enhanced", Severity.WARNING, text)]
    text = (
        "No large vessel is in view and the header names no contrast agent: taken as unenhanced, "
        "which the image cannot confirm."
    )
    return False, [Finding("contrast_unchecked", Severity.INFO, text)]
