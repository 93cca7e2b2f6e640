"""Rows of rods in the image: round even spots at equal distances, followed along the table, aslant or not."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.segmentation.model import Segmentation
from pipeline.volume import Volume

_SLAB_MM = (8.0, 32.0)
_SLAB_NOISE_HU = 5.0
_MOST_SLABS = 12
_BEHIND_THE_SPINE_MM = 30.0
_EVEN_HALF_SIDE_MM = 3.2
_CORE_MM = 4.5
_EVEN_SD_HU = 12.0
_EVEN_SHARE = 0.04
_SMOOTH_MM = 0.8
_ROD_RADII_MM = (5.0, 6.5, 8.0, 9.5, 11.0)
_OUTSIDE_THE_EDGE_MM = 2.5
EDGE_HU = 14.0
"""By how much the surroundings of a rod must differ from it for its edge to be seen."""
_ANGLES = np.linspace(0.0, 2.0 * np.pi, 24, endpoint=False)
_FIRST_ANGLES = slice(0, None, 3)
_ACCEPT_DISC = 0.8
SURE_DISC = 0.95
"""Share of the circumference with an edge above which a disc is a rod and nothing else."""
_MOST_DISCS = 40
_APART_MM = 8.0
_STEP_MM = (18.0, 60.0)
_STEEPEST_ROW = 0.25
_OFF_THE_ROW_MM = 3.0
_LONGEST_ROW = 6
_STEEPEST_PLATE = 0.2
_SHIFT_MM = 2.0
_PAIR_STEP_MM = (18.0, 120.0)
_BETWEEN_MM = 1.5
_SAME_PLASTIC_HU = 40.0
_SAME_RADIUS_MM = 1.6
_BEYOND = (-2, -1, 1, 2)


@dataclass(frozen=True)
class Row:
    """Rods side by side, followed along the table; from the patient's right to left.

    Attributes
    ----------
    hu, sd_hu : float ndarray of shape (R,)
        Mean of each rod over its length, and the spread from slice to slice.
    slices : int
        In how many slices the rods were read.
    index : float ndarray of shape (R, 3)
        Middle of each rod as (k, j, i).
    score : float
        Share of the circumference with an edge, of the poorest rod.
    beyond_hu : dict of int to float or None
        What the image reads one and two steps beyond either end of the row (-2 and -1 before the first rod, 1 and 2 after the
        last); None outside the field of view.
    """

    hu: NDArray[np.float64]
    sd_hu: NDArray[np.float64]
    slices: int
    index: NDArray[np.float64]
    score: float
    beyond_hu: dict[int, float | None]


@dataclass(frozen=True)
class _Disc:
    """A round even spot in the mean of a few slices: its centre in pixels, and what it reads."""

    row: float
    column: float
    score: float
    radius_mm: float
    hu: float


@dataclass(frozen=True)
class _Sighting:
    """A row of discs in one slab; `k` is the middle slice."""

    k: float
    discs: tuple[_Disc, ...]

    def places_mm(self, pixel_mm: float) -> NDArray[np.float64]:
        return np.array([(d.row, d.column) for d in self.discs]) * pixel_mm


def find_rows(volume: Volume, segmentation: Segmentation) -> list[Row]:
    """Rows of two to six rods that lie behind the spine and go on along the table.

    Slabs of 8 mm (up to 32 mm in noisy images) are searched for discs of 5 to 11 mm radius; rows of them at equal distances
    that go on from slab to slab, straight on by at most 11 degrees, are one plate. Its rods are then read in every slice along
    the line through their centres, so that a plate that lies aslant is not smeared. Between the rods of a row there is the
    same plastic everywhere, or it is no whole row. Two discs are a row only where there are no others as sharp.

    Parameters
    ----------
    volume : Volume
    segmentation : Segmentation
        Where the patient's bones are.

    Returns
    -------
    list of Row
        Longest first, then by the number of slices.
    """
    pixel = float(np.mean(volume.spacing_mm[1:]))
    top = _top_row(volume, segmentation)
    slabs = _slabs(volume, segmentation, top)
    sightings: list[list[_Sighting]] = []
    for low, high in slabs:
        image = volume.hu[low:high, top:].mean(axis=0, dtype=np.float32)
        discs = _discs(image, pixel)
        rows = _rows(discs, pixel) or _pairs(discs, pixel)
        sightings.append([_Sighting((low + high - 1) / 2, tuple(row)) for row in rows])
    fewest = 2 if len(slabs) > 2 else 1
    chains = [chain for chain in _chains(sightings, volume.spacing_mm[0], pixel) if len(chain) >= fewest]
    found = [_followed(volume, chain, slabs, top) for chain in chains]
    return sorted((row for row in found if row is not None), key=lambda row: (-len(row.hu), -row.slices))


def _slabs(volume: Volume, segmentation: Segmentation, top: int) -> list[tuple[int, int]]:
    """Up to twelve stretches along the table, around the structures where there are any, as thick as the noise asks for."""
    present = np.flatnonzero((segmentation.labels > 0).any(axis=(1, 2)))
    first, last = (int(present[0]), int(present[-1])) if present.size else (0, volume.shape[0] - 1)
    wanted = _slice_noise_hu(volume, top) ** 2 / _SLAB_NOISE_HU**2 * volume.spacing_mm[0]
    thickness = float(np.clip(wanted, *_SLAB_MM))
    length = max(1, min(round(thickness / volume.spacing_mm[0]), volume.shape[0]))
    end = max(first, last + 1 - length)
    count = min(_MOST_SLABS, max(2, (end - first) // length + 1))
    starts = np.unique(np.linspace(min(first, volume.shape[0] - length), end, count).astype(int))
    return [(int(s), int(s) + length) for s in starts]


def _slice_noise_hu(volume: Volume, top: int) -> float:
    """Noise of single slices after smoothing, from the difference of two neighbours in the middle of the scan."""
    middle = volume.shape[0] // 2
    if middle == 0:
        return 0.0
    pair = volume.hu[middle - 1 : middle + 1, top:].astype(np.float32)
    solid = (pair > -300.0).all(axis=0) & (pair < 300.0).all(axis=0)
    if not solid.any():
        return 0.0
    apart = ndimage.gaussian_filter(pair[1] - pair[0], _SMOOTH_MM / float(np.mean(volume.spacing_mm[1:])))[solid]
    return float(1.4826 * np.median(np.abs(apart)) / np.sqrt(2.0))


def _top_row(volume: Volume, segmentation: Segmentation) -> int:
    """First row of the image that is searched: 30 mm behind the middle of the bones."""
    if not segmentation.labels.any():
        return 0
    weight = (segmentation.labels > 0).sum(axis=(0, 2), dtype=np.int64)
    middle = float(weight @ np.arange(len(weight))) / float(weight.sum())
    return max(0, min(int(middle + _BEHIND_THE_SPINE_MM / volume.spacing_mm[1]), volume.shape[1] - 8))


def _discs(image: NDArray[np.float32], pixel_mm: float) -> list[_Disc]:
    """Round even spots with an edge on nearly all sides, best first, none within 8 mm of a better one."""
    smooth = ndimage.gaussian_filter(image, _SMOOTH_MM / pixel_mm)
    side = 2 * max(1, round(_EVEN_HALF_SIDE_MM / pixel_mm)) + 1
    mean = ndimage.uniform_filter(smooth, side, mode="nearest")
    square = ndimage.uniform_filter(smooth.astype(np.float64) ** 2, side, mode="nearest")
    spread = np.sqrt(np.maximum(square - mean.astype(np.float64) ** 2, 0.0))
    # A rod that stands out by much spills some of that over its blurred edge.
    even = spread < _EVEN_SD_HU + _EVEN_SHARE * np.abs(mean)
    rows, columns = np.nonzero(even & (mean > -200.0) & (mean < 2000.0))
    inside = mean[rows, columns]
    best, size = np.zeros(len(rows), np.float32), np.zeros(len(rows), np.float32)
    for radius in _ROD_RADII_MM:
        reach = (radius + _OUTSIDE_THE_EDGE_MM) / pixel_mm
        down = np.rint(np.sin(_ANGLES) * reach).astype(int)
        right = np.rint(np.cos(_ANGLES) * reach).astype(int)
        # Most places have no edge around them at all: eight directions tell, and only the rest is looked at in full.
        left = np.flatnonzero(
            _share_of_edge(smooth, rows, columns, inside, down[_FIRST_ANGLES], right[_FIRST_ANGLES]) >= 0.6
        )
        share = _share_of_edge(smooth, rows[left], columns[left], inside[left], down, right)
        better = share > best[left]
        best[left[better]], size[left[better]] = share[better], radius
    score = np.zeros(image.shape, np.float32)
    score[rows, columns] = best
    radii = np.zeros(image.shape, np.float32)
    radii[rows, columns] = size
    peaks = (score >= _ACCEPT_DISC) & (score == ndimage.maximum_filter(score, size=2 * round(_APART_MM / pixel_mm) + 1))
    components, number = ndimage.label(peaks, np.ones((3, 3)))
    found: list[_Disc] = []
    for centre in ndimage.center_of_mass(peaks, components, range(1, number + 1)) if number else ():
        j, i = (min(round(float(c)), n - 1) for c, n in zip(centre, image.shape, strict=True))
        reading = float(mean[j, i])
        found.append(_Disc(float(centre[0]), float(centre[1]), float(score[j, i]), float(radii[j, i]), reading))
    found = [disc for disc in found if disc.score > 0]
    found.sort(key=lambda disc: -disc.score)
    kept: list[_Disc] = []
    for disc in found:
        if all(np.hypot(disc.row - o.row, disc.column - o.column) * pixel_mm >= _APART_MM for o in kept):
            kept.append(disc)
    return kept[:_MOST_DISCS]


def _share_of_edge(
    image: NDArray[np.float32],
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    inside: NDArray[np.float32],
    down: NDArray[np.int_],
    right: NDArray[np.int_],
) -> NDArray[np.float32]:
    """Share of the directions in which the image differs from the inside of a disc just outside its edge."""
    different = np.zeros(len(rows), np.float32)
    for dy, dx in zip(down, right, strict=True):
        around = image[np.clip(rows + dy, 0, image.shape[0] - 1), np.clip(columns + dx, 0, image.shape[1] - 1)]
        different += np.abs(around - inside) > EDGE_HU
    return different / np.float32(len(down))


def _rows(discs: list[_Disc], pixel_mm: float) -> list[list[_Disc]]:
    """Rows of three to six discs at equal distances of 18 to 60 mm, nearly level, longest first."""
    places = np.array([(d.row, d.column) for d in discs], float).reshape(-1, 2) * pixel_mm
    rows: dict[tuple[int, ...], list[_Disc]] = {}
    for i in range(len(discs)):
        for j in range(len(discs)):
            step = places[j] - places[i]
            if not _STEP_MM[0] <= step[1] <= _STEP_MM[1] or abs(step[0]) > _STEEPEST_ROW * step[1]:
                continue
            chain = [i, j]
            while len(chain) <= _LONGEST_ROW:
                ahead = places[chain[-1]] + (places[chain[-1]] - places[chain[0]]) / (len(chain) - 1)
                distance = np.hypot(*(places - ahead).T)
                nearest = int(np.argmin(distance))
                if distance[nearest] > _OFF_THE_ROW_MM or nearest in chain:
                    break
                chain.append(nearest)
            if 3 <= len(chain) <= _LONGEST_ROW:
                rows[tuple(chain)] = [discs[k] for k in chain]
    longest = sorted(rows, key=len, reverse=True)
    kept = [key for n, key in enumerate(longest) if not any(set(key) < set(other) for other in longest[:n])]
    return [rows[key] for key in kept]


def _pairs(discs: list[_Disc], pixel_mm: float) -> list[list[_Disc]]:
    """Two sharp discs of one size side by side, 18 to 120 mm apart and level, where there are no others as sharp."""
    sharp = [disc for disc in discs if disc.score >= SURE_DISC]
    if len(sharp) != 2:
        return []
    first, second = sorted(sharp, key=lambda disc: disc.column)
    across, along = (second.column - first.column) * pixel_mm, abs(second.row - first.row) * pixel_mm
    alike = abs(first.radius_mm - second.radius_mm) <= _SAME_RADIUS_MM
    level = along <= _STEEPEST_ROW * across
    return [[first, second]] if alike and level and _PAIR_STEP_MM[0] <= across <= _PAIR_STEP_MM[1] else []


def _chains(sightings: list[list[_Sighting]], spacing_mm: float, pixel_mm: float) -> list[list[_Sighting]]:
    """Sightings of the same plate in one slab after the other; a slab in between may have missed it."""
    chains: list[list[_Sighting]] = []
    for number, seen in enumerate(sightings):
        recent = {id(one) for earlier in sightings[max(0, number - 2) : number] for one in earlier}
        for sighting in seen:
            for chain in chains:
                last = chain[-1]
                if id(last) not in recent or len(last.discs) != len(sighting.discs):
                    continue
                moved = sighting.places_mm(pixel_mm) - last.places_mm(pixel_mm)
                along = (sighting.k - last.k) * spacing_mm
                shift = np.median(moved, axis=0)
                together = float(np.abs(moved - shift).max()) <= _SHIFT_MM
                if together and float(np.hypot(*shift)) <= _STEEPEST_PLATE * along + _SHIFT_MM:
                    chain.append(sighting)
                    break
            else:
                chains.append([sighting])
    return chains


def _followed(volume: Volume, chain: list[_Sighting], slabs: list[tuple[int, int]], top: int) -> Row | None:
    """The rods of a chain read slice by slice along the lines through their centres."""
    pixel = float(np.mean(volume.spacing_mm[1:]))
    at = np.array([sighting.k for sighting in chain])
    places = np.array([[(d.row + top, d.column) for d in sighting.discs] for sighting in chain])
    middle = float(at.mean())
    centre = places.mean(axis=0)
    # One slope for all rods of a plate: it is stiff.
    lean = (at - middle) @ (places - centre).mean(axis=1) / max(float(((at - middle) ** 2).sum()), 1e-9)
    half = (slabs[0][1] - slabs[0][0]) / 2
    slices = np.arange(max(0, int(np.ceil(at[0] - half + 0.5))), min(volume.shape[0], int(at[-1] + half + 0.5)))
    radius = min(_CORE_MM, float(np.median([d.radius_mm for s in chain for d in s.discs])) - 1.0)
    step = (centre[-1] - centre[0]) / (len(centre) - 1)
    readings = [_reading(volume, slices, place + np.outer(slices - middle, lean), radius / pixel) for place in centre]
    means = np.full(len(centre), np.nan)
    spread = np.zeros(len(centre))
    used = len(slices)
    for number, values in enumerate(readings):
        known = values[np.isfinite(values)]
        if known.size == 0:
            return None
        typical = float(np.median(known))
        deviation = 1.4826 * float(np.median(np.abs(known - typical)))
        kept = known[np.abs(known - typical) <= max(3.0 * deviation, 3.0)]
        means[number], spread[number], used = float(kept.mean()), max(float(kept.std()), 1.0), min(used, len(kept))
    if len(centre) > 2:
        gaps = [(a + b) / 2 for a, b in pairwise(centre)]
        plastic = [
            float(np.nanmedian(_reading(volume, slices, gap + np.outer(slices - middle, lean), _BETWEEN_MM / pixel)))
            for gap in gaps
        ]
        if float(np.ptp(plastic)) > _SAME_PLASTIC_HU:
            return None
    beyond: dict[int, float | None] = {}
    for offset in _BEYOND:
        place = (centre[0] if offset < 0 else centre[-1]) + offset * step
        values = _reading(volume, slices, place + np.outer(slices - middle, lean), radius / pixel)
        beyond[offset] = float(np.nanmedian(values)) if np.isfinite(values).mean() > 0.5 else None
    index = np.column_stack([np.full(len(centre), middle), centre])
    score = float(np.median([min(d.score for d in sighting.discs) for sighting in chain]))
    return Row(means, spread, used, index, score, beyond)


def _reading(
    volume: Volume, slices: NDArray[np.int_], centres: NDArray[np.float64], radius_px: float
) -> NDArray[np.float64]:
    """Mean of a disc in each slice; NaN where a part of it lies outside the field of view."""
    reach = int(np.ceil(radius_px))
    dy, dx = np.mgrid[-reach - 1 : reach + 2, -reach - 1 : reach + 2]
    out = np.full(len(slices), np.nan)
    _, rows, columns = volume.shape
    for number, (k, (y, x)) in enumerate(zip(slices, centres, strict=True)):
        j, i = round(float(y)) + dy, round(float(x)) + dx
        inside = (j - y) ** 2 + (i - x) ** 2 <= radius_px**2
        j, i = j[inside], i[inside]
        if j.min() < 0 or i.min() < 0 or j.max() >= rows or i.max() >= columns:
            continue
        if volume.valid is not None and not volume.valid[k, j, i].all():
            continue
        out[number] = float(volume.hu[k, j, i].mean(dtype=np.float64))
    return out
