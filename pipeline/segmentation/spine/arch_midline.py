"""The midline behind the canal, cut between neighbouring spinous processes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.segmentation.sampling import sample_lps
from pipeline.segmentation.spine.arch_sites import SHEET_DEPTH_MM, Site
from pipeline.volume import Grid

CANAL_MM = 5.0
"""Nearer to the centre line of the canal there is no bone."""
SHEET_HALF_WIDTH_MM = 4.0
"""Of the sheet about the midline that is averaged."""
_SHEET_MM = 1.0
_STEEPEST_DOWN, _STEEPEST_UP = 2, 1
_COST_OF_RISE, _COST_OF_START = 0.4, 4.0
"""The gap between spinous processes runs back and down, from the height of the disc."""


def midline_cuts(
    hu: NDArray[np.float32],
    grid: Grid,
    canal: NDArray[np.float64],
    sites: Sequence[Site],
    *,
    soft_hu: float,
    bone_hu: float,
) -> list[NDArray[np.float64]]:
    """Between each site and the next one, points (V, 3) of a line that runs from the canal to the back between their
    spinous processes, where the mid-sagittal sheet holds the least bone."""
    steps = np.linalg.norm(np.diff(canal, axis=0), axis=1)
    run = np.concatenate([[0.0], np.cumsum(steps)])
    heights = [_run_at(canal, run, site) for site in sites]
    low, high = min(heights) - 40.0, max(heights) + 10.0
    s = np.arange(low, high, _SHEET_MM)
    line = np.stack([_beyond_ends(s, run, canal[:, axis]) for axis in range(3)], axis=-1)
    line = ndimage.gaussian_filter1d(line, 6.0 / _SHEET_MM, axis=0, mode="nearest")
    along = np.gradient(line, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    order = np.argsort(heights)
    behind = np.stack(
        [np.interp(s, np.array(heights)[order], np.array([x.axes[1, a] for x in sites])[order]) for a in range(3)], -1
    )
    behind -= along * (behind * along).sum(axis=1, keepdims=True)
    behind /= np.linalg.norm(behind, axis=1, keepdims=True)
    left = np.cross(behind, along)
    v = np.arange(CANAL_MM, SHEET_DEPTH_MM, _SHEET_MM)
    u = np.linspace(-SHEET_HALF_WIDTH_MM, SHEET_HALF_WIDTH_MM, 5)
    places = line[:, None] + behind[:, None] * v[:, None]
    sheet = sample_lps(hu, grid, places[:, :, None] + left[:, None, None] * u[:, None], fill=soft_hu).mean(axis=-1)
    resistance = np.clip((sheet - soft_hu) / (bone_hu - soft_hu), 0.0, 4.0)
    cuts = []
    for upper, lower in pairwise(heights):
        pitch = upper - lower
        start = (s - (0.5 * (upper + lower) - 0.1 * pitch)) / (0.25 * pitch)
        path = _cheapest_path(resistance, np.where(np.abs(start) < 1.6, _COST_OF_START * start**2, np.inf))
        cuts.append(places[path, np.arange(len(v))])
    return cuts


def _run_at(canal: NDArray[np.float64], run: NDArray[np.float64], site: Site) -> float:
    """Length along the canal at the height of a site; the line goes on straight beyond its ends."""
    along = (canal - site.centre) @ site.axes[2]
    i = int(np.clip(np.searchsorted(along, 0.0), 1, len(along) - 1))
    rise = max(float(along[i] - along[i - 1]), 1e-3)
    share = -float(along[i - 1]) / rise
    return float(run[i - 1] + share * (run[i] - run[i - 1]))


def _beyond_ends(s: NDArray, run: NDArray, values: NDArray) -> NDArray[np.float64]:
    """Linear interpolation that goes on straight at both ends, in the direction of the last 10 mm."""
    out = np.interp(s, run, values)
    for end, beyond in ((0, s < run[0]), (-1, s > run[-1])):
        other = int(np.searchsorted(run, run[0] + 10.0 if end == 0 else run[-1] - 10.0))
        other = min(max(other, 1 if end == 0 else 0), len(run) - 1 if end == 0 else len(run) - 2)
        slope = (values[other] - values[end]) / (run[other] - run[end])
        out = np.where(beyond, values[end] + slope * (s - run[end]), out)
    return np.asarray(out, np.float64)


def _cheapest_path(resistance: NDArray, start: NDArray) -> NDArray[np.int64]:
    """Row (S) of the cheapest way through each column of `resistance` (S, V), falling by at most two rows per column."""
    total = start + resistance[:, 0]
    choices = []
    moves = range(-_STEEPEST_UP, _STEEPEST_DOWN + 1)
    for column in resistance.T[1:]:
        # From row s one comes from row s + move: the way goes down the back.
        options = np.full((len(moves), len(total)), np.inf)
        for row, move in enumerate(moves):
            if move > 0:
                options[row, :-move] = total[move:]
            elif move < 0:
                options[row, -move:] = total[:move]
            else:
                options[row] = total
            options[row] += _COST_OF_RISE if move < 0 else 0.02 * (move - 0.5) ** 2
        best = options.argmin(axis=0)
        choices.append(best)
        total = options[best, np.arange(len(total))] + column
    path = [int(total.argmin())]
    for best in choices[::-1]:
        path.append(path[-1] + moves[int(best[path[-1]])])
    return np.array(path[::-1])


def height_of_cut(site: Site, cut: NDArray[np.float64], v: NDArray) -> NDArray:
    """Height in the frame of a site of a cut at posterior coordinates `v`."""
    local = site.local(cut)
    order = np.argsort(local[:, 1])
    return np.asarray(np.interp(v, local[order, 1], local[order, 2]))
