"""The aorta beside the spine: a round, homogeneous column that can be followed from slice to slice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.density import tables
from pipeline.segmentation.model import Segmentation
from pipeline.volume import Volume

_STEP_MM = 2.0
_LEFT_MM = np.arange(-30.0, 56.0, _STEP_MM)
_POSTERIOR_MM = np.arange(-75.0, 16.0, _STEP_MM)
_RADII_MM = (7.0, 9.0, 11.0, 13.0, 16.0, 19.0)
_SLICE_MM = 4.0
_RANGE_HU = (10.0, 700.0)
_FALL_HU = 35.0
_RISE_HU = 90.0
_ACCEPT = 0.62
_SHORTEST_MM = 24.0


@dataclass(frozen=True)
class Vessel:
    """A stretch of large vessel.

    Attributes
    ----------
    hu, sd_hu : float
        Median over the stretch and spread between slices.
    n : int
        Number of independent samples.
    length_mm : float
    enhanced : bool
        Whether it holds contrast agent.
    points_lps_mm : float ndarray of shape (N, 3)
        Centres, one per slice.
    """

    hu: float
    sd_hu: float
    n: int
    length_mm: float
    enhanced: bool
    points_lps_mm: NDArray[np.float64]


def find_aorta(volume: Volume, segmentation: Segmentation) -> Vessel | None:
    """Follow the aorta along the spine; None if no stretch of 24 mm looks like a vessel.

    In slices 4 mm apart, each disc of 7 to 16 mm radius in front and to the left of the vertebral bodies is scored by
    how much of its surroundings differs from its inside (fat, lung and bone around blood) and by how even its inside is.
    The path of best total score through the slices is found by dynamic programming.
    """
    if len(segmentation.vertebrae) < 2:
        return None
    centres, images, bone = _slices_along_the_spine(volume, segmentation)
    if len(centres) < _SHORTEST_MM / _SLICE_MM:
        return None
    score = _disc_scores(images)
    score[bone] = -1.0
    path = _best_path(score)
    rows = np.arange(len(path))
    along = score[rows, path[:, 0], path[:, 1]]
    runs = [run for run in _runs(along > _ACCEPT) if (run[1] - run[0]) * _SLICE_MM >= _SHORTEST_MM]
    if not runs:
        return None
    chosen = np.concatenate([np.arange(*run) for run in runs])
    hu = _core_means(images)[chosen, path[chosen, 0], path[chosen, 1]]
    points = centres[chosen] + np.stack(
        [_LEFT_MM[path[chosen, 1]], _POSTERIOR_MM[path[chosen, 0]], np.zeros(len(chosen))], axis=1
    )
    value = float(np.median(hu))
    spread = float(1.4826 * np.median(np.abs(hu - value))) + 1.0
    enhanced = value > tables.number("contrast.aorta_threshold_hu")
    return Vessel(value, spread, len(chosen), float(len(chosen) * _SLICE_MM), enhanced, points)


def _slices_along_the_spine(
    volume: Volume, segmentation: Segmentation
) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.bool_]]:
    """Centres of the spine (N, 3) every 4 mm in LPS, the image around each on a 2 mm raster (N, posterior, left), and where a
    vessel's centre cannot be because bone is within 6 mm."""
    bodies = np.array([v.frame.centre_lps_mm for v in segmentation.vertebrae])
    bodies = bodies[np.argsort(bodies[:, 2])]
    z = np.arange(bodies[0, 2] - 10, bodies[-1, 2] + 10, _SLICE_MM)
    centres = np.stack([np.interp(z, bodies[:, 2], bodies[:, 0]), np.interp(z, bodies[:, 2], bodies[:, 1]), z], axis=1)
    left, posterior = np.meshgrid(_LEFT_MM, _POSTERIOR_MM)
    offsets = np.stack([left, posterior, np.zeros_like(left)], axis=-1)
    images = np.zeros((len(z), *left.shape), np.float32)
    # A slab of three planes per slice lowers the noise of thin slices.
    for shift in (-1.3, 0.0, 1.3):
        index = volume.grid.to_index(centres[:, None, None, :] + offsets + np.array([0.0, 0.0, shift]))
        images += ndimage.map_coordinates(
            volume.hu, np.moveaxis(index, -1, 0), output=np.float32, order=1, mode="constant", cval=-1000.0
        )
    index = np.round(volume.grid.to_index(centres[:, None, None, :] + offsets)).astype(int)
    index = np.clip(index, 0, np.array(volume.shape) - 1)
    labelled = segmentation.labels[index[..., 0], index[..., 1], index[..., 2]] > 0
    bone = ndimage.binary_dilation(labelled, np.ones((1, 7, 7)))
    return centres, ndimage.gaussian_filter(images / 3, (0, 0.7, 0.7)), bone


def _core_means(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean around each centre within 5 mm, inside the wall of any vessel that is looked for."""
    y, x = np.mgrid[-2:3, -2:3] * _STEP_MM
    core = ((y**2 + x**2) <= 5.0**2).astype(np.float32)
    return np.asarray(ndimage.correlate(images, core[None] / core.sum(), mode="nearest"))


def _disc_scores(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Best score over all radii for each centre."""
    best = np.full(images.shape, -1.0, np.float32)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    for radius in _RADII_MM:
        reach = int(np.ceil(radius / _STEP_MM))
        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1] * _STEP_MM
        disc = ((y**2 + x**2) <= (radius - 1.5) ** 2).astype(np.float32)
        disc /= disc.sum()
        mean = ndimage.correlate(images, disc[None], mode="nearest")
        square = ndimage.correlate(images**2, disc[None], mode="nearest")
        sd = np.sqrt(np.maximum(square - mean**2, 0))
        different = np.zeros_like(mean)
        for angle in angles:
            shift = np.round(np.array([np.sin(angle), np.cos(angle)]) * (radius + 3.0) / _STEP_MM).astype(int)
            around = _shifted(images, int(shift[0]), int(shift[1]))
            different += (around < mean - _FALL_HU) | (around > mean + _RISE_HU)
        score = different / len(angles) - 0.3 * np.clip((sd - 12.0) / 40.0, 0, 3) + 0.004 * radius
        score[(mean < _RANGE_HU[0]) | (mean > _RANGE_HU[1])] = -1.0
        best = np.maximum(best, score)
    return best


def _shifted(images: NDArray[np.float32], down: int, right: int) -> NDArray[np.float32]:
    """``images[:, j + down, i + right]`` with the border repeated."""
    _, height, width = images.shape
    rows = np.clip(np.arange(height) + down, 0, height - 1)
    columns = np.clip(np.arange(width) + right, 0, width - 1)
    return images[:, rows][:, :, columns]


def _best_path(score: NDArray[np.float32]) -> NDArray[np.intp]:
    """(row, column) in each slice that maximise the total score, moving at most one pixel a slice."""
    total = score[0].copy()
    origins = []
    steps = [(j, i) for j in (-1, 0, 1) for i in (-1, 0, 1)]
    for image in score[1:]:
        candidates = np.stack([_shifted(total[None], j, i)[0] for j, i in steps])
        choice = np.argmax(candidates, axis=0)
        origins.append(choice)
        total = image + np.take_along_axis(candidates, choice[None], axis=0)[0]
    height, width = total.shape
    j, i = divmod(int(np.argmax(total)), width)
    path = [(j, i)]
    for choice in reversed(origins):
        step = steps[int(choice[j, i])]
        j, i = min(max(j + step[0], 0), height - 1), min(max(i + step[1], 0), width - 1)
        path.append((j, i))
    return np.array(path[::-1])


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Half-open index ranges of consecutive True values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
