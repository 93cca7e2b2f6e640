"""Rows of rods anywhere in the image: discs that go on straight along the table, side by side in the same plastic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.density.rod_discs import EDGE_HU, Disc, find_discs, mean_of_most, slabs_of
from pipeline.volume import Volume

__all__ = ["EDGE_HU", "SURE_DISC", "Row", "ends_beyond", "find_rows", "reading_at"]

SURE_DISC = 0.95
"""Share of the circumference with an edge above which a disc is a rod and nothing else."""
_AIR_HU = -1100.0
_STEEPEST_PLATE = 0.2
_SHIFT_MM = 2.5
_SAME_HU = 15.0
_SAME_HU_SHARE = 0.03
_SEEN_SHARE = 0.6
_PARALLEL = 0.06
_OFF_THE_LINE_MM = 2.5
_STEP_MM = (14.0, 125.0)
_TURN = np.cos(np.radians(28.0))
_LONGEST_ROW = 12
_FEWEST_OF_MORE = 4
_MOST_RODS = 60
_SAME_RADIUS_MM = 1.3
_ROUND = 0.72
_PATCH_MM = 20
_COARSE_MM = 2.5
_RING_MM = (2.0, 3.5)
_BEYOND_MM = 60.0
_ENDS_BELOW_HU = -300.0
_QUARTERS = 4
_EVEN_PLASTIC_HU = 25.0
_SAME_PLASTIC_HU = 30.0
_PLASTIC_AROUND = 0.4
_BESIDE_THE_EDGE_MM = 2.0
_CORE_MM = (2.5, 7.0)
_CORE_SHARE = 0.6
_MOST_SLICES = 60
_FEW_SLICES = 12
_MOST_TRIED = 150


@dataclass(frozen=True)
class Row:
    """Rods side by side in the same plastic, followed along the table.

    Attributes
    ----------
    hu, sd_hu : float ndarray of shape (R,)
        Mean of each rod over its length, and the spread from slice to slice (more where its quarters differ by more).
    slices : int
        In how many slices the rods were read.
    centre : float ndarray of shape (R, 2)
        Pixel (row, column) of each rod in the slice `middle`.
    middle : float
    lean : float ndarray of shape (2,)
        By how many pixels the rods move from slice to slice: one value for all, because a plate is stiff.
    along : int ndarray of shape (S,)
        The slices that were read.
    radius_mm : float
    plastic_hu : float
        What lies between the rods.
    score : float
        Share of the circumference with an edge, of the poorest rod.
    """

    hu: NDArray[np.float64]
    sd_hu: NDArray[np.float64]
    slices: int
    centre: NDArray[np.float64]
    middle: float
    lean: NDArray[np.float64]
    along: NDArray[np.int_]
    radius_mm: float
    plastic_hu: float
    score: float

    @property
    def index(self) -> NDArray[np.float64]:
        """Middle of each rod as (k, j, i), shape (R, 3)."""
        return np.column_stack([np.full(len(self.centre), self.middle), self.centre])

    def part(self, first: int, last: int) -> Row:
        """The rods from `first` to before `last`."""
        chosen = slice(first, last)
        return Row(
            self.hu[chosen], self.sd_hu[chosen], self.slices, self.centre[chosen], self.middle, self.lean, self.along,
            self.radius_mm, self.plastic_hu, self.score,
        )  # fmt: skip


@dataclass(frozen=True)
class _Rod:
    """A disc that goes on from slab to slab: their middle slices, and its centre in the middle of them.

    Its radius is exact, and what lies around it known, once it was measured in the mean along it.
    """

    at: NDArray[np.float64]
    slope: NDArray[np.float64]
    centre: NDArray[np.float64]
    score: float
    radius_mm: float
    around_hu: float = 0.0

    def place(self, k: float) -> NDArray[np.float64]:
        """Pixel (row, column) in slice `k`."""
        return np.asarray(self.centre + (k - float(self.at.mean())) * self.slope)


def find_rows(volume: Volume) -> list[Row]:
    """Rows of two or more rods, wherever they lie in the image and however they are turned.

    Slabs of 8 mm (up to 32 mm in noisy images) are searched for discs; discs that go on from slab to slab, straight on by at
    most 11 degrees, are rods; parallel rods of one size beside each other, in a line or on a gentle arc, are a row if what
    lies between them and around each of them is the same even material. The rods are then read in every slice, well inside
    their edge, along their common direction, so that a plate that lies aslant is not smeared.

    Parameters
    ----------
    volume : Volume

    Returns
    -------
    list of Row
        Longest first, then by the number of slices.
    """
    pixel = float(np.mean(volume.spacing_mm[1:]))
    slabs, noise = slabs_of(volume)
    discs = []
    for low, high in slabs:
        image = np.maximum(mean_of_most(volume.hu[low:high]), _AIR_HU)
        discs.append(find_discs(image, pixel, noise / float(np.sqrt(high - low))))
    linked = _linked(slabs, discs, volume.spacing_mm[0], pixel)
    rods = [rod for one in linked if (rod := _round(volume, one, slabs)) is not None]
    found: list[Row] = []
    used: list[set[int]] = []
    tried: set[tuple[int, ...]] = set()
    waiting = sorted((tuple(chain) for chain in _chains(rods, pixel, volume.spacing_mm[0])), key=len, reverse=True)
    while waiting and len(tried) < _MOST_TRIED:
        chain = waiting.pop(0)
        if chain in tried or any(set(chain) <= row for row in used):
            continue
        tried.add(chain)
        row = _followed(volume, [rods[n] for n in chain], slabs)
        if row is not None:
            used.append(set(chain))
            found.append(row)
        elif len(chain) > _FEWEST_OF_MORE:
            # Something else may stand in line with the rods. Three rods of a longer line are too few to say.
            waiting = sorted([*waiting, chain[1:], chain[:-1]], key=len, reverse=True)
    return sorted(found, key=lambda row: (-len(row.hu), -row.slices))


def _linked(slabs: list[tuple[int, int]], discs: list[list[Disc]], spacing_mm: float, pixel_mm: float) -> list[_Rod]:
    """Discs linked from slab to slab (one slab in between may have missed them), the best of them."""
    at = [(low + high - 1) / 2 for low, high in slabs]
    chains: list[list[tuple[int, Disc]]] = []
    for number, here in enumerate(discs):
        recent = [chain for chain in chains if chain[-1][0] >= number - 2]
        taken: set[int] = set()
        for disc in here:
            best, nearest = -1, np.inf
            for n, chain in enumerate(recent):
                if n in taken:
                    continue
                last = chain[-1][1]
                apart = float(np.hypot(disc.row - last.row, disc.column - last.column)) * pixel_mm
                along = (at[number] - at[chain[-1][0]]) * spacing_mm
                alike = abs(disc.hu - last.hu) <= _SAME_HU + _SAME_HU_SHARE * abs(disc.hu)
                if alike and apart < nearest and apart <= _SHIFT_MM + _STEEPEST_PLATE * along:
                    best, nearest = n, apart
            if best < 0:
                chains.append([(number, disc)])
            else:
                taken.add(best)
                recent[best].append((number, disc))
    fewest = 2 if len(slabs) > 2 else 1
    rods = []
    for chain in chains:
        span = chain[-1][0] - chain[0][0] + 1
        if len(chain) < fewest or len(chain) < _SEEN_SHARE * span:
            continue
        k = np.array([at[number] for number, _ in chain])
        places = np.array([(disc.row, disc.column) for _, disc in chain])
        spread = k - k.mean()
        slope = spread @ (places - places.mean(axis=0)) / max(float((spread**2).sum()), 1e-9)
        off = places - places.mean(axis=0) - np.outer(spread, slope)
        if float(np.sqrt((off**2).sum(axis=1).mean())) * pixel_mm <= _OFF_THE_LINE_MM:
            score = float(np.median([disc.score for _, disc in chain]))
            radius = float(np.median([disc.radius_mm for _, disc in chain]))
            rods.append(_Rod(k, slope, places.mean(axis=0), score, radius))
    rods.sort(key=lambda rod: (-rod.score, -len(rod.at)))
    return rods[:_MOST_RODS]


def _round(volume: Volume, rod: _Rod, slabs: list[tuple[int, int]]) -> _Rod | None:
    """The rod with its exact centre and its radius, from the mean along it; None if that is no round disc."""
    pixel = float(np.mean(volume.spacing_mm[1:]))
    along = _slices_of([rod], slabs, volume.shape[0], _FEW_SLICES)
    middle = float(rod.at.mean())
    offsets = np.mgrid[-_PATCH_MM : _PATCH_MM + 1, -_PATCH_MM : _PATCH_MM + 1]
    patch = _mean_patch(volume, along, rod.centre + np.outer(along - middle, rod.slope), offsets / pixel)
    fitted = _fitted_disc(patch, offsets, rod.radius_mm, max(0.0, pixel - 2.0))
    if fitted is None:
        return None
    shift_mm, radius, around = fitted
    return replace(rod, centre=rod.centre + shift_mm / pixel, radius_mm=radius, around_hu=around)


def _slices_of(rods: list[_Rod], slabs: list[tuple[int, int]], count: int, most: int) -> NDArray[np.int_]:
    """Slices in which all of these rods were seen, at most so many."""
    half = (slabs[0][1] - slabs[0][0]) / 2
    low = max(float(rod.at[0]) for rod in rods)
    high = min(float(rod.at[-1]) for rod in rods)
    along = np.arange(max(0, int(np.ceil(low - half + 0.5))), min(count, int(high + half + 0.5)))
    return np.asarray(along[np.unique(np.linspace(0, len(along) - 1, min(len(along), most)).astype(int))], int)


def _chains(rods: list[_Rod], pixel_mm: float, spacing_mm: float) -> Iterator[list[int]]:
    """Rods that may be one row: from each pair on to the next one ahead, as long as there is one."""
    count = len(rods)
    beside = np.zeros((count, count), bool)
    step = np.zeros((count, count, 2))
    for a in range(count):
        for b in range(count):
            if a == b or not _parallel(rods[a], rods[b], pixel_mm, spacing_mm):
                continue
            k = (max(rods[a].at[0], rods[b].at[0]) + min(rods[a].at[-1], rods[b].at[-1])) / 2
            step[a, b] = (rods[b].place(k) - rods[a].place(k)) * pixel_mm
            beside[a, b] = _STEP_MM[0] <= float(np.hypot(*step[a, b])) <= _STEP_MM[1]
    length = np.hypot(step[..., 0], step[..., 1])
    for a in range(count):
        for neighbour in np.flatnonzero(beside[a]):
            chain = [a, int(neighbour)]
            while len(chain) < _LONGEST_ROW:
                last, here = int(chain[-2]), int(chain[-1])
                ahead = (step[here] @ step[last, here]) / np.maximum(length[here] * length[last, here], 1e-9)
                options = np.flatnonzero(beside[here] & (ahead > _TURN))
                options = options[~np.isin(options, chain)]
                if len(options) == 0:
                    break
                chain.append(int(options[np.argmin(length[here][options])]))
            # Each row is met from both of its ends.
            if _towards(np.sum([step[one, other] for one, other in pairwise(chain)], axis=0)):
                yield chain


def _towards(step_mm: NDArray[np.float64]) -> bool:
    """Whether a row runs to the patient's left, or straight down."""
    return bool(step_mm[1] > 1e-6 or (abs(step_mm[1]) <= 1e-6 and step_mm[0] > 0))


def _parallel(one: _Rod, other: _Rod, pixel_mm: float, spacing_mm: float) -> bool:
    """Whether two rods may be parts of one plate: of one size, in the same slices, and in the same direction."""
    if abs(one.radius_mm - other.radius_mm) > _SAME_RADIUS_MM:
        return False
    overlap = min(one.at[-1], other.at[-1]) - max(one.at[0], other.at[0])
    shorter = min(np.ptp(one.at), np.ptp(other.at))
    if overlap < 0.5 * shorter or overlap < 0:
        return False
    apart = float(np.hypot(*(one.slope - other.slope))) * pixel_mm / spacing_mm
    return bool(apart <= _PARALLEL + 2.0 * pixel_mm / max(float(shorter) * spacing_mm, 1.0))


def _followed(volume: Volume, rods: list[_Rod], slabs: list[tuple[int, int]]) -> Row | None:
    """The rods of a chain read slice by slice; None where they are not round, of one size, or not in one plastic."""
    pixel = float(np.mean(volume.spacing_mm[1:]))
    along = _slices_of(rods, slabs, volume.shape[0], _MOST_SLICES)
    if len(along) == 0:
        return None
    middle = float(along.mean())
    lean = _common_lean(rods)
    centre = np.array([rod.place(middle) for rod in rods])
    radius = float(np.median([rod.radius_mm for rod in rods]))
    plastic = _common_plastic(volume, along, centre, lean, middle, radius)
    if plastic is None:
        return None
    core = _core_mm(radius, pixel) / pixel
    readings = [_readings(volume, along, place + np.outer(along - middle, lean), core) for place in centre]
    means, spread, used = np.zeros(len(centre)), np.zeros(len(centre)), len(along)
    for number, values in enumerate(readings):
        known = values[np.isfinite(values)]
        if known.size == 0:
            return None
        kept = _without_outliers(known, 3.0)
        means[number], used = float(kept.mean()), min(used, len(kept))
        # A streak is the same in every slice: that the quarters of a rod differ tells of it.
        uneven = _uneven_hu(volume, along, centre[number] + np.outer(along - middle, lean), core)
        spread[number] = max(float(kept.std()), 1.0, uneven * float(np.sqrt(len(kept))))
    return Row(
        means, spread, used, centre, middle, lean, along, radius, plastic, min(rod.score for rod in rods)
    )  # fmt: skip


def _common_lean(rods: list[_Rod]) -> NDArray[np.float64]:
    """One direction for all rods of a plate, in pixels per slice."""
    weights = np.array([((rod.at - rod.at.mean()) ** 2).sum() for rod in rods])
    slopes = np.array([rod.slope for rod in rods])
    return np.asarray(weights @ slopes / max(float(weights.sum()), 1e-9))


def _mean_patch(
    volume: Volume, along: NDArray[np.int_], centres: NDArray[np.float64], offsets: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The surroundings of a rod, averaged along it; NaN outside the image."""
    total = np.zeros(offsets.shape[1:])
    for k, place in zip(along, centres, strict=True):
        total += ndimage.map_coordinates(
            volume.hu[k], offsets + place[:, None, None], output=float, order=1, mode="constant", cval=np.nan
        )
    return np.asarray(total / len(along))


def _fitted_disc(
    patch: NDArray[np.float64], offsets_mm: NDArray[np.int_], coarse_radius_mm: float, blur_mm: float
) -> tuple[NDArray[np.float64], float, float] | None:
    """Centre from the middle and radius in mm, and surroundings in HU, of the disc in a patch of 1 mm pixels; or None."""
    distance = np.hypot(*offsets_mm)
    inside = float(np.nanmedian(patch[distance <= 3.0])) if np.isfinite(patch[distance <= 3.0]).any() else np.nan
    if not np.isfinite(inside):
        return None
    # The edge is where the median over all directions changes most.
    radii = max(2.0, coarse_radius_mm - _COARSE_MM) + np.arange(0.0, 2.0 * _COARSE_MM + 1.0)
    profile = np.array([np.nanmedian(patch[(distance > r - 0.75) & (distance <= r + 0.75)]) for r in radii])
    grown = float(radii[:-1][np.argmax(np.abs(np.diff(profile)))]) + 0.5
    out = distance - grown - blur_mm
    ring = (out > _RING_MM[0]) & (out <= _RING_MM[1]) & np.isfinite(patch)
    if np.count_nonzero(ring) < 12:
        return None
    around = float(np.median(patch[ring]))
    towards = np.clip((patch - around) / (inside - around), -1.0, 3.0) if abs(inside - around) > 1.0 else patch * 0.0
    # What lies beyond the rod on the scale from plastic to rod (air beside a rod of fat) is not part of it.
    share = np.where(np.isfinite(towards) & (towards < 1.6), np.clip(towards, 0.0, 1.0), 0.0)
    share[distance > grown + 4.0] = 0.0
    weight = float(share.sum())
    if weight < 4:
        return None
    centre = np.array([(share * axis).sum() / weight for axis in offsets_mm])
    radius = float(np.sqrt(weight / np.pi))
    disc = np.hypot(*(offsets_mm - centre[:, None, None])) <= radius
    solid = share > 0.5
    common = float(np.count_nonzero(disc & solid)) / max(1.0, float(np.count_nonzero(disc | solid)))
    if common < _ROUND or np.hypot(*centre) > 4.0:
        return None
    return centre, radius, around


def _common_plastic(
    volume: Volume,
    along: NDArray[np.int_],
    centre: NDArray[np.float64],
    lean: NDArray[np.float64],
    middle: float,
    radius_mm: float,
) -> float | None:
    """What lies between the rods and around each of them, if it is the same and even everywhere."""
    pixel = float(np.mean(volume.spacing_mm[1:]))
    beyond = radius_mm + max(_BESIDE_THE_EDGE_MM, pixel)
    levels = []
    for a, b in pairwise(centre):
        length = float(np.hypot(*(b - a))) * pixel
        if length <= 2.0 * beyond:
            continue
        at = np.linspace(beyond, length - beyond, max(2, int((length - 2 * beyond) / pixel) + 1)) / length
        line = (a + np.outer(at, b - a)).T[:, :, None]
        levels.append(_mean_patch(volume, along, np.outer(along - middle, lean), line)[:, 0])
    if not levels:
        return None
    medians = [float(np.nanmedian(level)) for level in levels]
    plastic = float(np.median(medians))
    if max(abs(one - plastic) for one in medians) > _SAME_PLASTIC_HU:
        return None
    for level in levels:
        if float(np.mean(np.abs(level - plastic) <= _EVEN_PLASTIC_HU + EDGE_HU)) < 0.8:
            return None
    angles = np.linspace(0.0, 2.0 * np.pi, 24, endpoint=False)
    ring = np.stack([np.sin(angles), np.cos(angles)])[:, :, None] * (beyond / pixel)
    for place in centre:
        values = _mean_patch(volume, along, place + np.outer(along - middle, lean), ring)[:, 0]
        if float(np.mean(np.abs(values - plastic) <= _SAME_PLASTIC_HU)) < _PLASTIC_AROUND:
            return None
    return plastic


def _core_mm(radius_mm: float, pixel_mm: float) -> float:
    """How far from its centre a rod is read: not where its edge spills in, nor where a sharp kernel overshoots."""
    return float(np.clip(min(_CORE_SHARE * radius_mm, radius_mm - max(_BESIDE_THE_EDGE_MM, pixel_mm)), *_CORE_MM))


def _without_outliers(values: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """The values within three robust standard deviations (at least `least`) of their median."""
    typical = float(np.median(values))
    deviation = 1.4826 * float(np.median(np.abs(values - typical)))
    return values[np.abs(values - typical) <= max(3.0 * deviation, least)]


def _readings(
    volume: Volume, along: NDArray[np.int_], centres: NDArray[np.float64], radius_px: float
) -> NDArray[np.float64]:
    """What a disc reads in each slice, without bubbles; NaN where a part of it lies outside the field of view."""
    reach = int(np.ceil(radius_px))
    dy, dx = np.mgrid[-reach - 1 : reach + 2, -reach - 1 : reach + 2]
    out = np.full(len(along), np.nan)
    _, rows, columns = volume.shape
    for number, (k, (y, x)) in enumerate(zip(along, centres, strict=True)):
        j, i = round(float(y)) + dy, round(float(x)) + dx
        inside = (j - y) ** 2 + (i - x) ** 2 <= radius_px**2
        j, i = j[inside], i[inside]
        if j.size == 0 or j.min() < 0 or i.min() < 0 or j.max() >= rows or i.max() >= columns:
            continue
        if volume.valid is not None and not volume.valid[k, j, i].all():
            continue
        out[number] = float(_without_outliers(volume.hu[k, j, i].astype(np.float64), 5.0).mean())
    return out


def _uneven_hu(volume: Volume, along: NDArray[np.int_], centres: NDArray[np.float64], radius_px: float) -> float:
    """Standard error of the mean of a rod, from how much its quarters differ."""
    reach = np.arange(-np.ceil(radius_px), np.ceil(radius_px) + 1.0)
    offsets = np.stack(np.meshgrid(reach, reach, indexing="ij"))
    patch = _mean_patch(volume, along, centres, offsets)
    quarter = ((np.arctan2(*offsets) + np.pi) / (2.0 * np.pi) * _QUARTERS).astype(int) % _QUARTERS
    inside = np.hypot(*offsets) <= radius_px
    inside &= np.isfinite(patch)
    quarters = [patch[inside & (quarter == number)] for number in range(_QUARTERS)]
    means = [float(values.mean()) for values in quarters if values.size]
    # At the rim of the field of view a quarter may lie outside; of one alone nothing can be told.
    return float(np.std(means, ddof=1)) / float(np.sqrt(len(means))) if len(means) > 1 else 0.0


def reading_at(volume: Volume, row: Row, place: NDArray[np.float64]) -> float | None:
    """What the image reads where a rod of this row would be at pixel (row, column) `place`; None outside the field of view."""
    pixel = float(np.mean(volume.spacing_mm[1:]))
    core = _core_mm(row.radius_mm, pixel) / pixel
    values = _readings(volume, row.along, place + np.outer(row.along - row.middle, row.lean), core)
    return float(np.nanmedian(values)) if np.isfinite(values).mean() > 0.5 else None


def ends_beyond(volume: Volume, row: Row) -> bool:
    """Whether beyond both ends of a row there is nothing but its plastic and then air, in the field of view.

    So that two rods of a plate that has more, or two vessels of a patient, are not taken for a plate of two.
    """
    pixel = float(np.mean(volume.spacing_mm[1:]))
    across = row.centre[-1] - row.centre[0]
    across = across / float(np.hypot(*across))
    away_mm = np.arange(row.radius_mm + max(_BESIDE_THE_EDGE_MM, pixel), _BEYOND_MM)
    for end, direction in ((row.centre[-1], across), (row.centre[0], -across)):
        line = (end + np.outer(away_mm / pixel, direction)).T[:, :, None]
        profile = _mean_patch(volume, row.along, np.outer(row.along - row.middle, row.lean), line)[:, 0]
        left = np.flatnonzero(~(np.abs(profile - row.plastic_hu) <= _EVEN_PLASTIC_HU + EDGE_HU))
        if len(left) == 0:
            continue
        # The edge of the plate is blurred over some millimetres.
        after = profile[left[0] : left[0] + 1 + int(np.ceil(2.0 * max(1.0, pixel)))]
        if left[0] == 0 or not float(np.nanmin(after, initial=np.inf)) < _ENDS_BELOW_HU or np.isnan(after).any():
            return False
    return True
