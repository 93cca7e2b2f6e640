"""Soft tissue or fluid that reads like contrast agent: kidneys, liver and spleen after an injection, urine, the content of gut.

Where the aorta is not in view, or reads between blood with and without contrast agent, these tell more: kidneys stay bright for
many minutes after the vessels have faded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.density import tables
from pipeline.volume import Volume

_BLOCKS_MM = (3.0, 2.0)
"""Organs in noisy images first, then vessels of the thickness of the femoral ones."""
_HIGHEST_HU = 800.0
_EVEN_HU = 35.0
_SHELL_MM = (3.6, 9.0)
_BRIGHTER_HU = 30.0
_MOST_BRIGHTER = 0.12
_LEAST_DARKER = 0.15
_SMALLEST_ML = 0.4
_ENOUGH_ML = 10.0
_FEWEST_POINTS = 20
_NEAR_POINTS = 120
_COLUMN_HALF_MM = 28.0
_COLUMN_DEPTH_MM = (-65.0, 20.0)


@dataclass(frozen=True)
class BrightTissue:
    """Bright tissue that is no bone: its volume and the median of its even core."""

    volume_ml: float
    hu: float


def find_bright_tissue(volume: Volume, beside_spine_lps_mm: NDArray[np.float64] | None = None) -> BrightTissue | None:
    """Even regions above the limit for blood with contrast agent that are not bone; None if they fill less than 10 ml.

    The image is averaged to blocks of about 3 mm, and of 2 mm if these show nothing. A core is where a block and all its
    neighbours lie between 90 and 800 HU and differ little. Bone has a cortex: of what lies 4 to 9 mm around the core of a bone
    a fifth or more is brighter than the core, around an organ, a bladder or a gut loop next to nothing is (0.20 to 0.67
    against 0 to 0.06 on real scans).

    Parameters
    ----------
    volume : Volume
    beside_spine_lps_mm : float ndarray of shape (N, 3), optional
        Places in the muscle behind the spine: parts that lie in front of it and between its sides are vertebral bodies, which
        sclerosis may have made as bright as their cortex.
    """
    for block_mm in _BLOCKS_MM:
        found = _bright_blocks(volume, block_mm, beside_spine_lps_mm)
        if found is not None:
            return found
    return None


def _bright_blocks(
    volume: Volume, block_mm: float, beside_spine_lps_mm: NDArray[np.float64] | None
) -> BrightTissue | None:
    factors = np.array([max(1, round(block_mm / s)) for s in volume.spacing_mm])
    spacing = np.array(volume.spacing_mm) * factors
    mean = _blocks(volume, factors)
    if min(mean.shape) < 5:
        return None
    limit = tables.number("contrast.aorta_threshold_hu")
    core = (ndimage.minimum_filter(mean, 3) > limit) & (ndimage.maximum_filter(mean, 3) < _HIGHEST_HU)
    core &= _spread(mean) < _EVEN_HU
    parts, _ = ndimage.label(core)
    block_ml = float(np.prod(spacing)) / 1000.0
    sizes = np.bincount(parts.ravel())
    reach = np.ceil(_SHELL_MM[1] / spacing).astype(int)
    total_ml, values = 0.0, []
    for part, window in enumerate(ndimage.find_objects(parts), start=1):
        if window is None or sizes[part] * block_ml < _SMALLEST_ML:
            continue
        wide = tuple(
            slice(max(s.start - r, 0), min(s.stop + r, n)) for s, r, n in zip(window, reach, mean.shape, strict=True)
        )
        own, around = parts[wide] == part, mean[wide]
        distance = ndimage.distance_transform_edt(~own, sampling=spacing)
        shell = around[(distance > _SHELL_MM[0]) & (distance <= _SHELL_MM[1])]
        inside = float(np.median(around[own]))
        if shell.size == 0 or (shell > inside + _BRIGHTER_HU).mean() > _MOST_BRIGHTER:
            continue
        if (shell < limit).mean() < _LEAST_DARKER:
            continue
        if beside_spine_lps_mm is not None and len(beside_spine_lps_mm) >= _FEWEST_POINTS:
            corner = np.array([s.start for s in wide])
            places = (np.argwhere(own) + corner) * factors + (factors - 1) / 2.0
            if _share_in_spine(volume.grid.to_lps(places), beside_spine_lps_mm) > 0.5:
                continue
        # The core of a region is one block smaller all around than the region.
        total_ml += float(ndimage.maximum_filter(own.view(np.uint8), 3).sum()) * block_ml
        values.append(around[own])
    if total_ml < _ENOUGH_ML:
        return None
    return BrightTissue(total_ml, float(np.median(np.concatenate(values))))


def _share_in_spine(places_lps_mm: NDArray[np.float64], muscle_lps_mm: NDArray[np.float64]) -> float:
    """Share of places in the column of the vertebral bodies, as the muscle at their height says where it is."""
    nearest = np.argsort(np.abs(muscle_lps_mm[:, 2] - np.median(places_lps_mm[:, 2])))[:_NEAR_POINTS]
    near = muscle_lps_mm[nearest]
    middle_mm = float(np.percentile(near[:, 0], [5, 95]).mean())
    front_mm = float(np.percentile(near[:, 1], 5))
    beside, depth = np.abs(places_lps_mm[:, 0] - middle_mm), places_lps_mm[:, 1] - front_mm
    return float(((beside < _COLUMN_HALF_MM) & (depth > _COLUMN_DEPTH_MM[0]) & (depth < _COLUMN_DEPTH_MM[1])).mean())


def _blocks(volume: Volume, factors: NDArray[np.int64]) -> NDArray[np.float32]:
    """Means of blocks; what is not valid counts as air."""
    fz, fy, fx = (int(f) for f in factors)
    nz, ny, nx = (n // f for n, f in zip(volume.shape, (fz, fy, fx), strict=True))
    total = np.zeros((nz, ny, nx), np.float32)
    for k in range(fz):
        for j in range(fy):
            for i in range(fx):
                pick = (slice(k, nz * fz, fz), slice(j, ny * fy, fy), slice(i, nx * fx, fx))
                part = volume.hu[pick]
                total += part if volume.valid is None else np.where(volume.valid[pick], part, -1000)
    return np.asarray(total / np.float32(fz * fy * fx), np.float32)


def _spread(mean: NDArray[np.float32]) -> NDArray[np.float32]:
    """Standard deviation over a block and its 26 neighbours."""
    first = ndimage.uniform_filter(mean, 3)
    second = ndimage.uniform_filter(mean**2, 3)
    return np.asarray(np.sqrt(np.maximum(second - first**2, 0.0)), np.float32)
