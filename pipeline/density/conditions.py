"""What the conditions of a scan mean for its densities: spectral products, kernel, contrast agent, impossible scales of HU."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from pipeline.density import tables
from pipeline.density.tissues import TissueSurvey
from pipeline.errors import Finding, NotMeasurable, Severity
from pipeline.ingest.kernels import KernelClass, kernel_class
from pipeline.volume import Volume

_SOFT_TISSUE_HU = (0.0, 135.0)
_FEWEST_SOFT_VOXELS = 2000
_NOT_HU = (
    (r"\bmono|\bvmi\b|\b\d{2,3} ?kev\b", "a virtual monoenergetic image"),
    (r"\bvnc\w?\b|\bvue\b|\bvne\b|virtual (non|un|native)|calcium supp|\bcasupp", "a virtual non-contrast image"),
    (r"\biodine\b|\biod\b", "an iodine map"),
    (r"z ?eff|effective (z|atomic)", "a map of the effective atomic number"),
    (r"electron dens|\brho\b", "a map of electron density"),
    (r"\bmd\b|material|\bwater ?\(|\buric acid", "a map of a material"),
)
"""What spectral products are called in series descriptions and ImageType, lower case, underscores as spaces."""
_MIXED = r"\b[mf] ?0[.,]\d|\bmixed\b|\bcomposed\b|\bblended\b|\baverage[d ]+(of )?(dual|2|two)"
_TIN = r"\bsn ?(70|[89]0|1[0-5]0)(kvp?)?\b|\b(70|[89]0|1[0-5]0) ?(kvp?)? ?sn\b|\btin filter"


def _said(volume: Volume) -> str:
    facts = volume.acquisition
    return " ".join((facts.series_description or "", *facts.image_type)).lower().replace("_", " ")


def require_hu_of_a_voltage(volume: Volume) -> None:
    """Refuse images whose values are no HU at a tube voltage: no absolute density follows from them.

    Ingest passes them over; this is for a user who names such a series.

    Raises
    ------
    NotMeasurable
        ``spectral_image``, naming the product.
    """
    text = _said(volume)
    kind = next((kind for pattern, kind in _NOT_HU if re.search(pattern, text)), None)
    if kind is not None:
        raise NotMeasurable(
            "spectral_image",
            f"is {kind}, not HU at a tube voltage: no absolute density follows.",
            subject="the series",
            remedy="Use the conventional series of the same scan.",
        )


def require_plain_filter(volume: Volume) -> None:
    """Refuse energies by tube voltage for a beam behind a tin filter, which is much harder than its voltage says.

    Raises
    ------
    NotMeasurable
        ``tin_filter``.
    """
    if re.search(_TIN, _said(volume)):
        raise NotMeasurable(
            "tin_filter",
            "was made behind a tin filter (one of a dual-energy pair, or a low-dose scan), whose energy is not known.",
            subject="the series",
            remedy="Use the series without it, a phantom in the scan, or a calibration file of this setting.",
        )


def with_known_voltage(volume: Volume) -> tuple[Volume, list[Finding]]:
    """The scan, without its tube voltage if it is a mixture of two, and the finding that says so."""
    if not re.search(_MIXED, _said(volume)):
        return volume, []
    text = "The series is mixed from two tube voltages: none is assumed, and the uncertainty covers 80 to 140 kVp."
    mixed = replace(volume, acquisition=replace(volume.acquisition, kvp=None))
    return mixed, [Finding("dual_energy_mixed", Severity.WARNING, text)]


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
