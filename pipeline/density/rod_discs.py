"""Discs in the mean of a few slices: round even spots with an edge on nearly all sides, as rods of a phantom show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.volume import Volume

_SLAB_MM = (8.0, 32.0)
_SLAB_NOISE_HU = 5.0
_SLAB_EVERY_MM = (15.0, 30.0)
_MOST_SLABS = 16
_FEWEST_TO_TRIM = 4
_FINE_PIXEL_MM = 0.6
_COARSE_PIXEL_MM = 1.6
_DENSE_PIXEL_MM = 0.9
_SMOOTH_MM = 0.8
_EVEN_HALF_SIDE_MM = 1.6
_EVEN_SD_HU = 12.0
_EVEN_SHARE = 0.06
_DISC_HU = (-250.0, 2500.0)
_RADII_MM = (4.5, 5.5, 6.5, 8.0, 9.5, 11.0, 12.5)
_OUTSIDE_THE_EDGE_MM = 2.5
_INSIDE_THE_EDGE_MM = 1.5
_INNER_SHARE = 0.35
_AS_ROUND = 0.05
_HIGH_STEP_HU = 300.0
EDGE_HU = 14.0
"""By how much the surroundings of a rod must differ from it for its edge to be seen."""
_ANGLES = np.linspace(0.0, 2.0 * np.pi, 24, endpoint=False)
_FIRST_ANGLES = _ANGLES[::3]
_FIRST_SHARE = 0.6
_ACCEPT = 0.8
_MOST_DISCS = 200
_APART_MM = 8.0


@dataclass(frozen=True)
class Disc:
    """A round even spot: its centre in pixels of the volume, its size, what it reads, and how much of an edge it has.

    `score` is the share of 24 directions in which the image differs from the inside just outside the edge.
    """

    row: float
    column: float
    score: float
    radius_mm: float
    hu: float


def mean_of_most(slab_hu: NDArray) -> NDArray[np.float32]:
    """Mean over the slices without the lowest and the highest of each voxel, so that a bubble in a rod leaves no hole."""
    total = slab_hu.sum(axis=0, dtype=np.float32)
    count = len(slab_hu)
    if count < _FEWEST_TO_TRIM:
        return np.asarray(total / np.float32(count))
    return np.asarray((total - slab_hu.min(axis=0) - slab_hu.max(axis=0)) / np.float32(count - 2))


def slabs_of(volume: Volume) -> tuple[list[tuple[int, int]], float]:
    """Stretches along the table, as thick as the noise asks for, and the noise of single slices after smoothing."""
    noise = _slice_noise_hu(volume)
    spacing, count = volume.spacing_mm[0], volume.shape[0]
    thickness = float(np.clip(noise**2 / _SLAB_NOISE_HU**2 * spacing, *_SLAB_MM))
    length = max(1, min(round(thickness / spacing), count))
    every = float(np.clip(thickness, *_SLAB_EVERY_MM))
    slabs = int(np.clip(np.ceil((count - length) * spacing / every) + 1, 3, _MOST_SLABS))
    starts = np.unique(np.linspace(0, count - length, slabs).astype(int))
    return [(int(s), int(s) + length) for s in starts], noise


def _slice_noise_hu(volume: Volume) -> float:
    """Noise of single slices after smoothing, from the difference of two neighbours in the middle of the scan."""
    middle = volume.shape[0] // 2
    if middle == 0:
        return 0.0
    pair = volume.hu[middle - 1 : middle + 1].astype(np.float32)
    solid = (pair > -300.0).all(axis=0) & (pair < 300.0).all(axis=0)
    if not solid.any():
        return 0.0
    apart = ndimage.gaussian_filter(pair[1] - pair[0], 0.8 / float(np.mean(volume.spacing_mm[1:])))[solid]
    return float(1.4826 * np.median(np.abs(apart)) / np.sqrt(2.0))


def find_discs(image_hu: NDArray[np.float32], pixel_mm: float, noise_hu: float) -> list[Disc]:
    """Discs of 4.5 to 12.5 mm radius, best first, none within 8 mm of a better one.

    Parameters
    ----------
    image_hu : float32 ndarray of shape (Y, X)
        Mean of some slices.
    pixel_mm : float
    noise_hu : float
        Of this mean after smoothing by 0.8 mm; noisier images are smoothed more.
    """
    image, scale = _at_a_fit_size(image_hu, pixel_mm)
    pixel = pixel_mm * scale
    # Smoothing by twice the width halves the noise; rods are wide enough to bear that.
    smooth_mm = _SMOOTH_MM * float(np.clip(noise_hu / (EDGE_HU / 3.0), 1.0, 2.0))
    smooth = ndimage.gaussian_filter(image, smooth_mm / pixel)
    score, radius, mean = _scores(smooth, pixel)
    wide = 2 * round(_APART_MM / 2 / pixel) + 1
    peaks = (score >= _ACCEPT) & (score == ndimage.maximum_filter(score, size=wide))
    components, number = ndimage.label(peaks, np.ones((3, 3)))
    found: list[Disc] = []
    if number:
        numbers = range(1, number + 1)
        centres = ndimage.center_of_mass(peaks, components, numbers)
        for centre, (j, i) in zip(centres, ndimage.maximum_position(score, components, numbers), strict=True):
            row, column = ((float(c) + 0.5) * scale - 0.5 for c in centre)
            found.append(Disc(row, column, float(score[j, i]), float(radius[j, i]), float(mean[j, i])))
    found.sort(key=lambda disc: -disc.score)
    kept: list[Disc] = []
    for disc in found[: 3 * _MOST_DISCS]:
        if all(np.hypot(disc.row - o.row, disc.column - o.column) * pixel_mm >= _APART_MM for o in kept):
            kept.append(disc)
    return kept[:_MOST_DISCS]


def _at_a_fit_size(image_hu: NDArray[np.float32], pixel_mm: float) -> tuple[NDArray[np.float32], float]:
    """The image in pixels of 0.6 to 1.6 mm, and how many of the given pixels make one of these."""
    if pixel_mm > _COARSE_PIXEL_MM:
        parts = int(np.ceil(pixel_mm / _COARSE_PIXEL_MM))
        return ndimage.zoom(image_hu, parts, order=1, mode="nearest", grid_mode=True), 1.0 / parts
    block = max(1, round(_FINE_PIXEL_MM / pixel_mm) if pixel_mm < _FINE_PIXEL_MM / 1.3 else 1)
    height, width = (n // block * block for n in image_hu.shape)
    blocks = image_hu[:height, :width].reshape(height // block, block, width // block, block)
    return blocks.mean(axis=(1, 3), dtype=np.float32), float(block)


def _scores(
    smooth: NDArray[np.float32], pixel_mm: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """For each pixel: share of the circumference with an edge, the radius at which it is largest, and the mean inside."""
    side = 2 * max(1, round(_EVEN_HALF_SIDE_MM / pixel_mm)) + 1
    mean = ndimage.uniform_filter(smooth, side, mode="nearest")
    square = ndimage.uniform_filter(smooth.astype(np.float64) ** 2, side, mode="nearest") - mean.astype(np.float64) ** 2
    # A rod that stands out by much spills some of that over its blurred edge.
    even = np.sqrt(np.maximum(square, 0.0)) < _EVEN_SD_HU + _EVEN_SHARE * np.abs(mean)
    even &= (mean > _DISC_HU[0]) & (mean < _DISC_HU[1])
    if pixel_mm < _DENSE_PIXEL_MM:
        # Where pixels are small every second one will do, as on a chess board.
        even[::2, ::2] = even[1::2, 1::2] = False
    rows, columns = np.nonzero(even)
    inside = mean[rows, columns]
    border = int(np.ceil((_RADII_MM[-1] + _OUTSIDE_THE_EDGE_MM) / pixel_mm)) + 1
    padded = np.pad(smooth, border, mode="edge")
    at = (rows + border) * padded.shape[1] + columns + border
    # Most places have no edge around them at all: eight directions tell, and only the rest is looked at in full.
    share, step = np.zeros((2, len(_RADII_MM), len(at)), np.float32)
    for number, radius in enumerate(_RADII_MM):
        left = np.flatnonzero(_differs(padded, at, inside, radius, pixel_mm))
        share[number, left], step[number, left] = _edge_around(padded, at[left], inside[left], radius, pixel_mm)
    # Of the radii that fit as well, the one at which most of the step lies.
    fits = share >= share.max(axis=0) - _AS_ROUND
    chosen = np.argmax(np.where(fits, step, -1.0), axis=0)
    score, radii = np.zeros(smooth.shape, np.float32), np.zeros(smooth.shape, np.float32)
    score[rows, columns] = np.take_along_axis(share, chosen[None], 0)[0]
    radii[rows, columns] = np.asarray(_RADII_MM, np.float32)[chosen]
    return score, radii, mean


def _differs(
    padded: NDArray[np.float32], at: NDArray[np.intp], inside: NDArray[np.float32], radius_mm: float, pixel_mm: float
) -> NDArray[np.bool_]:
    """Whether the image differs from the inside of a disc of this radius in most of eight directions."""
    reach = (radius_mm + _OUTSIDE_THE_EDGE_MM) / pixel_mm
    count = np.zeros(len(at), np.uint8)
    for angle in _FIRST_ANGLES:
        count += np.abs(_beside(padded, at, angle, reach) - inside) > EDGE_HU
    return np.asarray(count >= _FIRST_SHARE * len(_FIRST_ANGLES))


def _edge_around(
    padded: NDArray[np.float32], at: NDArray[np.intp], inside: NDArray[np.float32], radius_mm: float, pixel_mm: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Share of the directions with an edge at this radius, and the mean height of the step there.

    An edge is where the image differs outside and hardly does inside.
    """
    within, beyond = (radius_mm - _INSIDE_THE_EDGE_MM) / pixel_mm, (radius_mm + _OUTSIDE_THE_EDGE_MM) / pixel_mm
    share, step = np.zeros(len(at), np.float32), np.zeros(len(at), np.float32)
    for angle in _ANGLES:
        outer = np.abs(_beside(padded, at, angle, beyond) - inside)
        inner = np.abs(_beside(padded, at, angle, within) - inside)
        share += (outer > EDGE_HU) & (inner < np.maximum(_INNER_SHARE * outer, EDGE_HU / 2.0))
        step += np.minimum(outer, _HIGH_STEP_HU) - np.minimum(inner, _HIGH_STEP_HU)
    return share / np.float32(len(_ANGLES)), step / np.float32(len(_ANGLES))


def _beside(padded: NDArray[np.float32], at: NDArray[np.intp], angle: float, reach_px: float) -> NDArray[np.float32]:
    """The image at a distance from each place, which is counted along the rows of the padded image."""
    down, right = round(float(np.sin(angle)) * reach_px), round(float(np.cos(angle)) * reach_px)
    return np.asarray(np.take(padded.ravel(), at + (down * padded.shape[1] + right)), np.float32)
