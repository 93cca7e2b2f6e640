"""What the conditions of a scan mean for its densities: spectral products, kernel, contrast agent, impossible scales of HU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.density import tables
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
            "A detector that counts photons weighs their energies otherwise than the constants of a voltage: " + covered,
        )
    else:
        return volume, []
    return replace(volume, acquisition=replace(facts, kvp=None)), [finding]


def require_plausible_scale(volume: Volume) -> None:
    """Refuse constants for the tube voltage when soft tissue reads what no soft tissue can.

    Where neither a phantom nor the patient's own tissues could serve, nothing else would notice HU that are shifted: the
    commonest value between -30 and 300 HU is that of muscle and organs, 25 to 115 HU on every real scan looked at, enhanced
    ones included.

    Raises
    ------
    NotMeasurable
        ``hu_scale_implausible``.
    """
    low, high = _SOFT_TISSUE_HU
    sample = volume.hu[::2, ::2, ::2]
    if volume.valid is not None:
        sample = sample[volume.valid[::2, ::2, ::2]]
    counts, edges = np.histogram(sample, bins=np.arange(-30, 301, 10))
    if counts.sum() < _FEWEST_SOFT_VOXELS:
        return
    peak = float(edges[int(np.argmax(np.convolve(counts, (0.25, 0.5, 0.25), "same")))]) + 5.0
    if not low <= peak <= high:
        raise NotMeasurable(
            "hu_scale_implausible",
            f"the commonest soft tissue reads {peak:.0f} HU, where {low:.0f} to {high:.0f} HU are possible.",
            subject="the scan",
            remedy="Check the rescale values of the export, or give a calibration file.",
        )


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
    """Whether contrast agent was given, from the image first, and the findings that say so."""
    agent = volume.acquisition.contrast_agent
    blood = survey.samples.get("blood")
    low, high = tables.numbers("contrast.vertebra_bias_hu")
    consequence = (
        f"vertebral HU are expected {low:.0f} to {high:.0f} HU too high (published means); they are "
        f"reported uncorrected, with "
        f"{tables.number('contrast.vertebra_sd_hu'):.0f} HU added to the uncertainty."
    )
    if survey.blood_enhanced and blood is not None:
        tag = "" if agent else " The header names no contrast agent."
        text = f"The aorta measures {blood.hu:.0f} HU: contrast agent; {consequence}{tag}"
        return True, [Finding("contrast_enhanced", Severity.WARNING, text)]
    if not agent and blood is None:
        text = (
            "No large vessel is in view and the header names no contrast agent: taken as unenhanced, "
            "which the image cannot confirm."
        )
        return False, [Finding("contrast_unchecked", Severity.INFO, text)]
    if not agent:
        return False, []
    if survey.blood_enhanced is False and blood is not None:
        text = f"The header names a contrast agent but the aorta measures {blood.hu:.0f} HU: taken as unenhanced."
        return False, [Finding("contrast_tag_without_enhancement", Severity.INFO, text)]
    text = f"The header names a contrast agent and no large vessel is in view to check it; {consequence}"
    return True, [Finding("contrast_enhanced", Severity.WARNING, text)]
