"""Strengths beside each other: neighbouring levels, left and right hip, and the place of one among many.

Everything here works on the study records of a cohort; nothing is compared across profiles.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import stats

from reports.record import Strength, StudyRecord

_LEAST_PAIRS = 5
_LEAST_REFERENCE = 20


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
    if len(a) < _LEAST_PAIRS:
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


def agreement_in_cohort(records: Iterable[StudyRecord]) -> dict[str, Agreement]:
    """Agreement of left and right hip and of neighbouring levels over many studies, by name of the pair.

    Pairs count only within one study and under one profile; a pair with fewer than five studies is left out. Between levels of
    different size the bias is anatomy, and the spread is what there is to see.
    """
    pairs: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for record in records:
        found = dict(_strengths(record))
        for upper, lower in _neighbours(found):
            first, second = found[upper], found[lower]
            if (first.profile, first.test) == (second.profile, second.test):
                pairs[f"{upper} and {lower} ({first.profile})"].append((first.value, second.value))
    results = {name: agreement(*zip(*values, strict=True)) for name, values in sorted(pairs.items())}
    return {name: result for name, result in results.items() if result is not None}


def _strengths(record: StudyRecord) -> list[tuple[str, Strength]]:
    """Leading strengths of a record by the name of the bone."""
    bodies = [(v.name, v.strength_n) for v in record.vertebrae]
    hips = [(f.name, f.strength_n) for f in record.femora]
    return [(name, strength) for name, strength in (*bodies, *hips) if strength is not None]


def _neighbours(names: Iterable[str]) -> list[tuple[str, str]]:
    """Left and right femur, and vertebrae whose named levels touch."""
    present = set(names)
    order = [f"vertebra_T{n}" for n in range(1, 13)] + [f"vertebra_L{n}" for n in range(1, 6)]
    chain = list(pairwise(order))
    return [pair for pair in [("femur_left", "femur_right"), *chain] if set(pair) <= present]


@dataclass(frozen=True)
class Place:
    """Where one strength stands among a reference.

    Attributes
    ----------
    percentile : float
        Part of the reference below it, ties half.
    interval : (float, float)
        95 % interval of that percentile for a reference of this size (Clopper and Pearson).
    people : int
    reference : str
        Which people.
    """

    percentile: float
    interval: tuple[float, float]
    people: int
    reference: str


def place_among(
    strength: Strength,
    name: str,
    records: Iterable[StudyRecord],
    *,
    sex: str | None = None,
    age_years: tuple[float, float] | None = None,
) -> Place | None:
    """Percentile of a strength among the same bone of a cohort, under the same profile; None below twenty people.

    Parameters
    ----------
    strength : Strength
    name : str
        ``vertebra_L1``, ``femur_left``; hips are compared with both sides, one value (the lower) for each person.
    records : iterable of StudyRecord
    sex : {"F", "M"}, optional
    age_years : (float, float), optional
        From, up to but not including.
    """
    values = []
    for record in records:
        patient = record.study
        if sex is not None and patient.patient_sex != sex:
            continue
        age = patient.patient_age_years
        if age_years is not None and (age is None or not age_years[0] <= age < age_years[1]):
            continue
        own = [
            other.value
            for bone, other in _strengths(record)
            if (bone == name or (name.startswith("femur_") and bone.startswith("femur_")))
            and (other.profile, other.test) == (strength.profile, strength.test)
        ]
        if own:
            values.append(min(own))
    count = len(values)
    if count < _LEAST_REFERENCE:
        return None
    reference = np.asarray(values)
    below = float((reference < strength.value).sum() + 0.5 * (reference == strength.value).sum())
    low = float(stats.beta.ppf(0.025, below, count - below + 1)) if below > 0 else 0.0
    high = float(stats.beta.ppf(0.975, below + 1, count - below)) if below < count else 1.0
    who = {"F": "women", "M": "men"}.get(sex or "", "people")
    ages = f" of {age_years[0]:g} to {age_years[1]:g} years" if age_years is not None else ""
    text = f"{count} {who}{ages} of this cohort, {strength.profile}"
    return Place(100 * below / count, (100 * low, 100 * high), count, text)
