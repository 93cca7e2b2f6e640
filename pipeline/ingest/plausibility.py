"""Are these numbers Hounsfield units? Air, fat and soft tissue must lie where physics puts them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.errors import Finding, Severity

_SAMPLED_SLICES = 48
_SOFT_TISSUE_HU = (-150.0, 150.0)
_AIR_HU = (-1100.0, -850.0)
_LEAST_SOFT_TISSUE = 0.02
_CLIP_12_BIT_HU = 3071
MOST_NOISE_HU = 60.0
"""Real scans of all kinds that were looked at have 10 to 37 HU, a phantom at 1/30 of the usual dose 70."""
_CUT_OFF_VOXELS, _CUT_OFF_TIMES, _CUT_OFF_BELOW_HU = 100, 10.0, 20.0
_LEAST_NOISE_HU = 2.0
"""Less than this no scanner makes: even values are then those of a drawn object."""
_NOISE_SLICES = 12
_NOISE_PIXELS = 5
_FEWEST_PLACES = 1000
_QUARTILE_SHARE = 0.88


def plausibility_findings(hu: NDArray, valid: NDArray[np.bool_] | None) -> list[Finding]:
    """What is wrong with the values of a volume.

    Looked at on some 50 slices: whether soft tissue and fat are where they must be, where the air peak lies, whether values
    wrapped around at the limit of their bits, and whether the sign of the stored integers was mistaken.

    Parameters
    ----------
    hu : ndarray of shape (Z, Y, X)
    valid : bool ndarray of shape (Z, Y, X) or None

    Returns
    -------
    list of Finding
        A finding of severity `failure` means that nothing may be measured.
    """
    every = max(1, hu.shape[0] // _SAMPLED_SLICES)
    sample = hu[::every]
    inside = np.ones(sample.shape, bool) if valid is None else valid[::every]
    inside = inside & np.isfinite(sample)
    values = sample[inside].astype(np.float32)
    if values.size == 0 or values.min() == values.max():
        return [Finding("constant_image", Severity.FAILURE, "All voxels have the same value.")]
    if values.max() > 20_000:
        text = (
            f"Values reach {values.max():.0f} HU: the stored integers are probably signed but declared unsigned "
            "(Pixel Representation 0028,0103)."
        )
        return [Finding("wrong_sign", Severity.FAILURE, text)]
    found = _tissue_findings(values)
    if not any(f.severity is Severity.FAILURE for f in found):
        found.extend(_wrap_findings(sample, inside))
    clipped = int(np.count_nonzero(values >= _CLIP_12_BIT_HU))
    if clipped and values.max() == _CLIP_12_BIT_HU:
        text = f"{clipped} sampled voxels lie at 3071 HU, the end of the 12-bit scale: metal, contrast or overshoot."
        found.append(Finding("clipped_hu", Severity.INFO, text))
    found.extend(_noise_findings(hu, valid))
    return found


def ceiling_hu(hu: NDArray, valid: NDArray[np.bool_] | None = None) -> float | None:
    """Where the values of an image were cut off from above, as windowed exports are; None if they were not.

    Below the end of the 12-bit scale one value is the greatest of a scan by chance and seldom occurs twice. Cut off are images
    in which a hundred voxels have it, ten times as many as have any value in the 20 HU below it.
    """
    every = max(1, hu.shape[0] // _SAMPLED_SLICES)
    values = hu[::every] if valid is None else hu[::every][valid[::every]]
    if not values.size:
        return None
    top = float(values.max())
    at_top = int(np.count_nonzero(values == top))
    if at_top < _CUT_OFF_VOXELS or not 0 < top < _CLIP_12_BIT_HU:
        return None
    below = int(np.count_nonzero((values < top) & (values >= top - _CUT_OFF_BELOW_HU)))
    if at_top < _CUT_OFF_TIMES * below / _CUT_OFF_BELOW_HU:
        return None
    noise = noise_hu(hu, valid)
    return top if noise is None or noise > _LEAST_NOISE_HU else None


def cut_off_finding(ceiling: float) -> Finding:
    """What to say of an image whose values end at `ceiling` HU."""
    text = (
        f"Values end at {ceiling:.0f} HU: the image was windowed or clipped when it was exported, and denser bone is not what "
        "it was."
    )
    return Finding("values_cut_off", Severity.WARNING, text)


def _noise_findings(hu: NDArray, valid: NDArray[np.bool_] | None) -> list[Finding]:
    """Whether the image is so noisy that outlines and small regions suffer."""
    noise = noise_hu(hu, valid)
    if noise is None or noise <= MOST_NOISE_HU:
        return []
    text = (
        f"The noise is {noise:.0f} HU per voxel, far more than usual (up to 40 HU): means over large regions hold, outlines, "
        "small regions and strength are less certain."
    )
    return [Finding("high_noise", Severity.WARNING, text)]


def noise_hu(hu: NDArray, valid: NDArray[np.bool_] | None = None) -> float | None:
    """Noise of an image in HU per voxel, from even places in soft tissue and fat; None if there are too few.

    The standard deviation over 5 by 5 pixels in the plane, where their mean lies between -150 and 150 HU, at its lower quartile
    over all such places: structure raises single ones, never most of them. With noise alone that quartile lies 12 % below the
    standard deviation (images of phantoms), which is put back.
    """
    planes = np.unique(np.linspace(0, hu.shape[0] - 1, _NOISE_SLICES).astype(int))
    found = []
    for plane in planes:
        values = hu[plane].astype(np.float64)
        mean = ndimage.uniform_filter(values, _NOISE_PIXELS)
        variance = ndimage.uniform_filter(values**2, _NOISE_PIXELS) - mean**2
        soft = (mean > _SOFT_TISSUE_HU[0]) & (mean < _SOFT_TISSUE_HU[1])
        if valid is not None:
            soft &= ndimage.minimum_filter(valid[plane], _NOISE_PIXELS)
        found.append(np.sqrt(np.maximum(variance[soft], 0.0)))
    spreads = np.concatenate(found)
    if spreads.size < _FEWEST_PLACES:
        return None
    return float(np.percentile(spreads, 25) / _QUARTILE_SHARE)


def _tissue_findings(values: NDArray[np.float32]) -> list[Finding]:
    def failure(text: str) -> list[Finding]:
        return [Finding("implausible_hu", Severity.FAILURE, text)]

    low, high = _SOFT_TISSUE_HU
    share = float(np.count_nonzero((values > low) & (values < high))) / values.size
    if share < _LEAST_SOFT_TISSUE:
        text = f"Only {100 * share:.1f} % of the voxels lie between {low:.0f} and {high:.0f} HU, where soft tissue must be."
        return failure(text)
    darkest = float(np.percentile(values, 0.01))
    if darkest > -80:
        return failure(f"The darkest voxels have {darkest:.0f} HU: there is neither air nor fat.")
    counts, edges = np.histogram(values, bins=np.arange(-500.0, 1500.0, 20.0))
    smooth = np.convolve(counts, np.ones(3), mode="same")
    peak = float(edges[int(smooth.argmax())] + 10)
    if not -200 < peak < 250:
        return failure(f"The commonest value above -500 HU is {peak:.0f} HU, far from soft tissue and fat.")
    air = values[values < -700]
    if air.size > 0.02 * values.size:
        counts, edges = np.histogram(air, bins=np.arange(-3100.0, -680.0, 20.0))
        air_peak = float(edges[int(counts.argmax())] + 10)
        if air_peak < _AIR_HU[0]:
            return failure(f"The air peak lies at {air_peak:.0f} HU instead of -1000 HU.")
    return []


def _wrap_findings(sample: NDArray, inside: NDArray[np.bool_]) -> list[Finding]:
    """Values that ran over the end of their bits and came back at the other end.

    Such voxels stand alone: impossible darkness that touches bone or metal, or the brightest value of the scale scattered
    in air.
    """
    dark_in_bone = bright_in_air = 0
    for plane, good in zip(sample, inside, strict=True):
        x = np.where(good, plane, 0).astype(np.float32)
        brightest = np.maximum.reduce([x[1:-1, :-2], x[1:-1, 2:], x[:-2, 1:-1], x[2:, 1:-1]])
        centre = x[1:-1, 1:-1]
        dark_in_bone += int(np.count_nonzero((centre < -1200) & (brightest > 600)))
        bright_in_air += int(np.count_nonzero((centre > 2900) & (brightest < -700)))
    if dark_in_bone < 20 and bright_in_air < 50:
        return []
    text = (
        f"{dark_in_bone} voxels below -1200 HU touch bone or metal and {bright_in_air} voxels above 2900 HU stand alone "
        "in air: values wrapped around at the limit of their bits."
    )
    return [Finding("wrapped_values", Severity.FAILURE, text)]
