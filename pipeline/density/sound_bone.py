"""What of a vertebral body is like most of it: bone without veins, islands, sclerosis and lesions, and how even it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.density.body import BodyVoxels

_OUTLIER_SD = 3.5
# Local means of sound bodies differ by about 10 HU; the floor keeps an even body from being trimmed at its own grain.
_LOCAL_SD_MM = 2.2
_EVEN_HU = 10.0
_GRAIN_HU = 5.0
# A place that is left out and makes up this share of the region goes with its rim; smaller ones are corners next to the cortex.
_LARGE_SHARE, _RIM_MM, _LEAST_SOUND_SHARE = 0.03, 3.0, 0.3
_COARSE_SD_MM = 3.5
_FEWEST_VOXELS = 20

Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class SoundBone:
    """Which voxels of a body are like most of it.

    Attributes
    ----------
    sound : bool ndarray of shape (N,)
        By voxel of `BodyVoxels`: like most, and not at the rim of a larger place that is not.
    like_most : bool ndarray of shape (N,)
        The same with such rims.
    local_hu : float ndarray of shape (N,)
        Mean HU about each (a Gaussian of 2.2 mm standard deviation).
    bounds_hu : tuple of float
        Between which HU single voxels count.
    """

    sound: NDArray[np.bool_]
    like_most: NDArray[np.bool_]
    local_hu: NDArray[np.float64]
    bounds_hu: tuple[float, float]


def sound_bone(voxels: BodyVoxels, region: NDArray[np.bool_], spacing_mm: Spacing) -> SoundBone:
    """Which voxels are like most of a region: no vein, bone island, sclerosis, lesion.

    Single voxels beyond 3.5 robust standard deviations are left out, and whole places whose local mean (over some 5 mm, in
    which noise and trabeculae average out) lies as far from that of the rest: a sclerotic band or a lesion is made of voxels
    of which each alone could be noise. The rim of a larger place goes with it, because next to it a local mean is half of
    sound bone.
    """
    local_hu = _local_mean_hu(voxels, region, spacing_mm, _LOCAL_SD_MM)
    low, high = _bounds_of_most(voxels.hu, region, _GRAIN_HU)
    lowest, highest = _bounds_of_most(local_hu, region, _EVEN_HU)
    odd_place = (local_hu < lowest) | (local_hu > highest)
    like_most = (voxels.hu >= low) & (voxels.hu <= high) & ~odd_place
    sound = like_most & ~_near_large_places(voxels, region & odd_place, region, spacing_mm)
    enough = (sound & region).sum() >= _LEAST_SOUND_SHARE * region.sum()
    return SoundBone(sound if enough else like_most, like_most, local_hu, (low, high))


def _near_large_places(
    voxels: BodyVoxels, odd: NDArray[np.bool_], region: NDArray[np.bool_], spacing_mm: Spacing
) -> NDArray[np.bool_]:
    """Voxels of the body within 3 mm of those connected parts of `odd` that make up some share of the region."""
    first = voxels.index.min(axis=0)
    place = tuple((voxels.index - first).T)
    box = np.zeros(tuple(voxels.index.max(axis=0) - first + 1), bool)
    box[place] = odd
    parts, _ = ndimage.label(box)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    large = (sizes >= _LARGE_SHARE * region.sum())[parts]
    if not large.any():
        return np.zeros(odd.shape, bool)
    return np.asarray(ndimage.distance_transform_edt(~large, sampling=spacing_mm)[place] <= _RIM_MM)


def _bounds_of_most(hu: NDArray[np.float64], region: NDArray[np.bool_], least_sd: float) -> tuple[float, float]:
    """Between which values lie 3.5 standard deviations of the densest half of a region's values (the shorth).

    Half of a region may be sclerotic; a median and its absolute deviations would have gone along with it long before.
    """
    if region.sum() < _FEWEST_VOXELS:
        return -np.inf, np.inf
    values = np.sort(hu[region])
    half = (values.size + 1) // 2
    widths = values[half:] - values[: values.size - half]
    first = int(np.argmin(widths))
    centre = 0.5 * (values[first] + values[first + half])
    # Half of a normal distribution lies within 0.6745 standard deviations of its mean.
    spread = max(float(widths[first]) / (2 * 0.6745), least_sd)
    return float(centre - _OUTLIER_SD * spread), float(centre + _OUTLIER_SD * spread)


def _local_mean_hu(
    voxels: BodyVoxels, region: NDArray[np.bool_], spacing_mm: Spacing, sd_mm: float
) -> NDArray[np.float64]:
    """Mean HU of the voxels of a region about each voxel of the body, weighed by a Gaussian."""
    first = voxels.index.min(axis=0)
    shape = tuple(voxels.index.max(axis=0) - first + 1)
    place = tuple((voxels.index - first).T)
    share, total = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    share[place] = region
    total[place] = np.where(region, voxels.hu, 0.0)
    sigma = sd_mm / np.array(spacing_mm)
    share, total = (ndimage.gaussian_filter(field, sigma, mode="constant", truncate=3.0) for field in (share, total))
    return np.asarray((total / np.maximum(share, 1e-6))[place], np.float64)


def unevenness_hu(local_mean_hu: NDArray[np.float64]) -> float:
    """How much the local mean varies within a region: half the width of the middle two thirds of its values."""
    low, high = np.quantile(local_mean_hu, [1 / 6, 5 / 6])
    return float(high - low) / 2


def rarest_place_hu(voxels: BodyVoxels, region: NDArray[np.bool_], spacing_mm: Spacing) -> float:
    """How far the rarest place of a region lies below its middle, by local means over some 8 mm."""
    lowest, middle = np.quantile(_local_mean_hu(voxels, region, spacing_mm, _COARSE_SD_MM)[region], [0.01, 0.5])
    return float(middle - lowest)
