"""How many vertebrae and ribs people have, and how well what is seen of some bodies fits each way of counting them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.segmentation.model import LEVELS
from pipeline.segmentation.spine.landmarks import LevelSigns
from pipeline.segmentation.spine.ribs import Rib

_PRESACRAL_FREQUENCY = {23: 0.053, 24: 0.894, 25: 0.053}
"""Vertebrae above the sacrum, counted from C2 in 418 whole spines (Tins and Balain, Insights Imaging 2016;7:199): 14 had one
fewer and 18 one more; added are 8 whose fifth lumbar one was joined to the sacrum, and 4 whose first sacral one was free."""
_RIB_FREQUENCY = {11: 0.02, 12: 0.95, 13: 0.03}
"""Pairs of ribs, a stub that looks like a process not counted. Working values: of 1446 CTs of the spine 60 had a vertebra
between thoracic and lumbar at the place of L1 (Yun et al., Korean J Radiol 2018;19:1140), most of them with stubs."""
_WHOLE_SHIFT = 0.005
"""Least frequency of one vertebra and one pair of ribs more (or fewer) together: the border moves, five lumbar ones remain."""
_CERVICAL = ("C5", "C6", "C7")
_SACRAL = tuple(f"S{i}" for i in range(1, 6))
_REACH_MEAN_SD_MM = {
    **dict.fromkeys(_CERVICAL, (34.0, 8.0)),
    "L1": (36.0, 7.0), "L2": (41.0, 6.0), "L3": (47.0, 7.0), "L4": (44.0, 7.0), "L5": (45.0, 8.0),
}  # fmt: skip
_RIB_REACH_MEAN_SD_MM = {11: (85.0, 20.0), 12: (68.0, 12.0), 13: (55.0, 15.0)}
_UPPER_RIB_REACH_MEAN_SD_MM = (95.0, 25.0)
_RIB_LENGTH_MEAN_SD_MM = {10: (225.0, 30.0), 11: (175.0, 30.0), 12: (105.0, 32.0), 13: (55.0, 25.0)}
"""From the side of the body to the bony tip. Working values around the 207, 148 and 39 mm of ribs 10 to 12 in a real scan; the
last two pairs are known to differ most between people."""
_UPPER_RIB_LENGTH_MEAN_SD_MM = (245.0, 35.0)
_LEAST_OF_LENGTH = -3.5
_WIDTH_AT = {
    "C5": 24.0,
    "T1": 28.0,
    "T4": 27.0,
    "T8": 31.0,
    "T10": 35.0,
    "T12": 40.0,
    "L1": 42.0,
    "L3": 47.0,
    "L5": 51.0,
}
_WIDTH_SD_MM, _LEAST_OF_WIDTH = 4.5, -2.0
_SACRAL_LOG_LIKELIHOOD = (-6.0, -3.5, -1.5, -0.3, -0.1)
_NOT_SACRAL_LOG_LIKELIHOOD = (-0.05, -0.6, -2.5, -6.0, -7.5)
_WEIGHT_OF_SIGNS = 0.6
"""Signs of neighbouring bodies err together (size, posture, threshold), so that their sum would be too sure of itself."""
_SIZES = np.arange(0.58, 1.23, 0.04)
_ADULT, _CHILD, _SHARE_OF_CHILDREN = (1.0, 0.08), (0.75, 0.1), 0.02
"""Mean and sd of the size relative to the usual, and how many are children, whose spines are not for density all the same."""


@dataclass(frozen=True)
class Anatomy:
    """How many vertebrae above the sacrum and how many pairs of ribs somebody has, and how frequent that is."""

    presacral: int
    rib_pairs: int
    frequency: float

    @property
    def lumbar(self) -> int:
        """Vertebrae below T12; one of them may bear a rib."""
        return self.presacral - 19

    @property
    def levels(self) -> tuple[str, ...]:
        """All levels from C5 to the end of the sacrum."""
        return (*_CERVICAL, *(f"T{i}" for i in range(1, 13)), *(f"L{i}" for i in range(1, self.lumbar + 1)), *_SACRAL)

    @property
    def description(self) -> str:
        """What is unusual about it; empty for the usual."""
        numbers = {4: "four", 6: "six", 11: "eleven", 13: "thirteen"}
        unusual = [f"{numbers[self.lumbar]} lumbar vertebrae"] if self.lumbar != 5 else []
        if self.rib_pairs != 12:
            unusual.append(f"{numbers[self.rib_pairs]} pairs of ribs")
        return " and ".join(unusual)

    def rib_number(self, level: str) -> int | None:
        """Which rib a level bears, if any; a rib of L1 is the thirteenth."""
        number = int(level[1:]) + {"T": 0, "L": 12}.get(level[0], 99)
        return number if number <= self.rib_pairs else None

    def looks_like(self, level: str) -> str:
        """The level of the usual anatomy whose shape this one has: the lowest of four or six lumbar ones looks like an L5."""
        if level[0] != "L" or self.lumbar == 5:
            return level
        return f"L{round(1.0 + 4.0 * (int(level[1:]) - 1) / (self.lumbar - 1))}"


@dataclass(frozen=True)
class Hypothesis:
    """One way of laying levels over the bodies, from cranial to caudal, with its probability."""

    levels: tuple[str, ...]
    anatomy: Anatomy
    probability: float

    def bears_rib(self, i: int) -> bool:
        """Whether body `i` has ribs."""
        return self.anatomy.rib_number(self.levels[i]) is not None


def anatomies() -> tuple[Anatomy, ...]:
    """All combinations that are weighed; their frequencies add up to 1."""
    found = []
    for presacral, of_vertebrae in _PRESACRAL_FREQUENCY.items():
        for pairs, of_ribs in _RIB_FREQUENCY.items():
            together = presacral - 24 == pairs - 12 != 0
            found.append((presacral, pairs, max(of_vertebrae * of_ribs, _WHOLE_SHIFT if together else 0.0)))
    total = sum(frequency for *_, frequency in found)
    return tuple(Anatomy(presacral, pairs, frequency / total) for presacral, pairs, frequency in found)


def weigh(signs: Sequence[LevelSigns | None]) -> list[Hypothesis]:
    """Every way of laying every anatomy over bodies from cranial to caudal, with probabilities that add up to 1.

    Each is weighed in a person of the size (0.58 to 1.22 of the usual) that suits it best. None stands for a body of which only
    the place in the sequence is known.
    """
    count = len(signs)
    fits: dict[tuple[str, int | None, int], NDArray[np.float64]] = {}

    known = [(i, s) for i, s in enumerate(signs) if s is not None]

    def fit(anatomy: Anatomy, level: str, i: int, seen: LevelSigns) -> NDArray[np.float64]:
        key = (anatomy.looks_like(level), anatomy.rib_number(level), i)
        if key not in fits:
            fits[key] = _log_likelihoods(key[0], key[1], seen)
        return fits[key]

    size_prior = np.log(
        sum(
            share * np.exp(-0.5 * ((_SIZES - mean) / sd) ** 2) / sd
            for share, (mean, sd) in ((1.0 - _SHARE_OF_CHILDREN, _ADULT), (_SHARE_OF_CHILDREN, _CHILD))
        )
    )
    ways = []
    for anatomy in anatomies():
        for shift in range(len(anatomy.levels) - count + 1):
            levels = anatomy.levels[shift : shift + count]
            by_size = size_prior + _WEIGHT_OF_SIGNS * sum(fit(anatomy, levels[i], i, s) for i, s in known)
            sacrum = sum(_of_sacrum(levels[i] in _SACRAL, s) for i, s in known)
            log = float(by_size.max()) + sacrum + float(np.log(anatomy.frequency))
            ways.append((levels, anatomy, log))
    if not ways:
        return []
    logs = np.array([value for *_, value in ways])
    weight = np.exp(logs - logs.max())
    weight /= weight.sum()
    return [Hypothesis(levels, anatomy, float(w)) for (levels, anatomy, _), w in zip(ways, weight, strict=True)]


def _log_likelihoods(shape: str, rib: int | None, signs: LevelSigns) -> NDArray[np.float64]:
    """How well ribs, processes and width of a body agree with a level, in persons of all `_SIZES`.

    The size scales what is expected of widths, processes and ribs; each term is bounded so that no bad reading decides.
    """
    if shape in _SACRAL:
        return np.zeros(len(_SIZES))
    total = np.zeros(len(_SIZES))
    if rib is not None:
        mean, sd = _RIB_REACH_MEAN_SD_MM.get(rib, _UPPER_RIB_REACH_MEAN_SD_MM)
    else:
        mean, sd = _REACH_MEAN_SD_MM.get(shape, _REACH_MEAN_SD_MM["L1"])
    # The process may touch the ilium at L4 and L5, and the first rib at C7.
    floor_if_longer = -1.0 if shape in ("L4", "L5", "C7") else -4.0
    for reach, cut in zip(signs.reach_mm, signs.cut_off, strict=True):
        deviation = (reach - _SIZES * mean) / sd
        of_side = np.maximum(-0.25 * deviation**2, np.where(deviation > 0, floor_if_longer, -4.0))
        # What is cut is at least as long as what is seen; how long a rib is, is asked of its path.
        excused = ((deviation < 0) & cut) | ((deviation > 0) & (rib is not None))
        total += np.where(excused, 0.0, of_side)
    if rib is not None and signs.longest_rib is not None:
        total += _of_length(rib, signs.longest_rib)
    places = [LEVELS.index(name) if name in LEVELS else -2 for name in _WIDTH_AT]
    place = LEVELS.index(shape) if shape in LEVELS else _CERVICAL.index(shape) - 2
    expected = _SIZES * float(np.interp(place, places, list(_WIDTH_AT.values())))
    found: NDArray[np.float64] = total + np.maximum(
        -0.25 * ((signs.width_mm - expected) / _WIDTH_SD_MM) ** 2, _LEAST_OF_WIDTH
    )
    return found


def _of_sacrum(sacral: bool, signs: LevelSigns) -> float:
    """Log likelihood of the signs of the sacrum in what is, or is not, part of it."""
    if signs.sacral_signs == 0 and not signs.below_in_view:
        return 0.0
    return (_SACRAL_LOG_LIKELIHOOD if sacral else _NOT_SACRAL_LOG_LIKELIHOOD)[signs.sacral_signs]


def _of_length(number: int, seen: Rib) -> NDArray[np.float64]:
    """Log likelihoods of the length of a rib of this number, counted once for both sides, in persons of all `_SIZES`."""
    mean, sd = _RIB_LENGTH_MEAN_SD_MM.get(number, _UPPER_RIB_LENGTH_MEAN_SD_MM)
    deviation = (seen.length_mm - _SIZES * mean) / sd
    # What is cut is at least as long as what is seen. The path may go on in calcified cartilage: a rib of the chest cannot be
    # too long.
    excused = ((deviation < 0) & seen.cut_off) | ((deviation > 0) & (number < 10))
    return np.where(excused, 0.0, np.maximum(-0.5 * deviation**2, _LEAST_OF_LENGTH))
