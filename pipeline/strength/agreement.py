"""Strengths of the same person beside each other: neighbouring levels, and left and right hip, over a cohort.

Everything here works on study records; nothing is compared across profiles.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from reports.record import Strength, StudyRecord

LEAST_PAIRS = 5
"""With fewer studies nothing is said about agreement."""


@dataclass(frozen=True)
class Agreement:
    """How two series of measurements of the same people agree.

    Attributes
    ----------
    pairs : int
    bias_percent, spread_percent : float
        Mean and standard deviation of the difference (second less first) in percent of the mean of both.
    limits_percent : (float, float)
        95 % limits of agreement (Bland and Altman 1986).
    correlation, concordance : float
        Pearson's r, and Lin's concordance coefficient, which bias lowers too.
    """

    pairs: int
    bias_percent: float
    spread_percent: float
    limits_percent: tuple[float, float]
    correlation: float
    concordance: float


def agreement(first: Sequence[float], second: Sequence[float]) -> Agreement | None:
    """Agreement of paired positive measurements; None below five pairs."""
    a, b = np.asarray(first, float), np.asarray(second, float)
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} first and {len(b)} second measurements")
    if len(a) < LEAST_PAIRS:
        return None
    difference = 200.0 * (b - a) / (a + b)
    bias, spread = float(difference.mean()), float(difference.std(ddof=1))
    covariance = float(np.mean((a - a.mean()) * (b - b.mean())))
    varied = a.std() > 0 and b.std() > 0
    return Agreement(
        len(a),
        bias,
        spread,
        (bias - 1.96 * spread, bias + 1.96 * spread),
        covariance / float(a.std() * b.std()) if varied else float("nan"),
        2 * covariance / float(a.var() + b.var() + (a.mean() - b.mean()) ** 2) if varied else float("nan"),
    )


@dataclass(frozen=True)
class PairAgreement:
    """Agreement of two bones of the same people over a cohort.

    Attributes
    ----------
    first, second : str
        ``femur_left`` and ``femur_right``, or two vertebrae whose levels touch, the upper one first.
    test, profile : str
        The virtual test, and the name and version of its profile.
    studies : int
        In which both bones were tested so.
    agreement : Agreement or None
        None below `LEAST_PAIRS` studies.
    """

    first: str
    second: str
    test: str
    profile: str
    studies: int
    agreement: Agreement | None


def agreement_in_cohort(records: Iterable[StudyRecord]) -> tuple[PairAgreement, ...]:
    """Agreement of left and right hip and of neighbouring levels over many studies.

    Pairs count only within one study, and under one test and profile file. Between levels of different size the bias is
    anatomy, and the spread is what there is to see.
    """
    pairs: dict[tuple[str, ...], list[tuple[float, float]]] = defaultdict(list)
    for record in records:
        found = dict(strengths_of(record))
        for upper, lower in _neighbours(found):
            first, second = found[upper], found[lower]
            if law_of(first) == law_of(second):
                pairs[upper, lower, *law_of(first)].append((first.value, second.value))
    return tuple(
        PairAgreement(upper, lower, test, profile, len(values), agreement(*zip(*values, strict=True)))
        for (upper, lower, test, profile, _), values in sorted(pairs.items(), key=_in_order)
    )


def law_of(strength: Strength) -> tuple[str, str, str]:
    """What two strengths must share to be compared: test, profile, and fingerprint of the profile file."""
    return strength.test, strength.profile, str(strength.model.get("profile_fingerprint", ""))


def strengths_of(record: StudyRecord) -> list[tuple[str, Strength]]:
    """Leading strengths of a record by the name of the bone."""
    bodies = [(v.name, v.strength_n) for v in record.vertebrae]
    hips = [(f.name, f.strength_n) for f in record.femora]
    return [(name, strength) for name, strength in (*bodies, *hips) if strength is not None]


_LEVELS = [f"vertebra_T{n}" for n in range(1, 13)] + [f"vertebra_L{n}" for n in range(1, 6)]
_PAIRS = [("femur_left", "femur_right"), *pairwise(_LEVELS)]


def _neighbours(names: Iterable[str]) -> list[tuple[str, str]]:
    """Left and right femur, and vertebrae whose named levels touch."""
    present = set(names)
    return [pair for pair in _PAIRS if set(pair) <= present]


def _in_order(item: tuple[tuple[str, ...], object]) -> tuple[int, tuple[str, ...]]:
    """Hips first, then from cranial to caudal."""
    key = item[0]
    return _PAIRS.index((key[0], key[1])), key[2:]
