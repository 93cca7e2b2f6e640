"""Published normal shapes of vertebral bodies, and the grades of deformity."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True, slots=True)
class Norm:
    """A normal ratio: its value, spread between healthy people, where it comes from, and whether that was verified."""

    value: float
    sd: float
    source: str
    verified: bool


@cache
def _document() -> dict[str, Any]:
    text = resources.files("pipeline.fracture").joinpath("norms.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def ratio_sd() -> float:
    """Spread of height ratios between healthy people (not verified; it widens probabilities, it decides no grade)."""
    return float(_document()["ratio_sd"]["value"])


def anterior_to_posterior(level: str | None, sex: str | None) -> Norm | None:
    """Normal anterior over posterior height of T9 to L5; the mean of both sexes when the sex is unknown; else None."""
    table = _document()["anterior_to_posterior"]
    if level not in table["levels"]:
        return None
    index = table["levels"].index(level)
    if sex in ("F", "M"):
        return Norm(table[sex][index], ratio_sd(), f"{table['source']}, {'women' if sex == 'F' else 'men'}", True)
    both = (table["F"][index], table["M"][index])
    return Norm(sum(both) / 2, ratio_sd(), f"{table['source']}, mean of women and men", True)


def middle_to_posterior(level: str | None) -> Norm:
    """Unverified normal middle over posterior height, for want of other levels of the same patient."""
    table = _document()["middle_to_posterior"]
    value = table["lumbar"] if level is not None and level.startswith("L") else table["thoracic"]
    return Norm(value, ratio_sd(), table["source"], False)


def fifth_lumbar_posterior_share() -> float:
    """Posterior height of L5 over that of L4 (not verified)."""
    return float(_document()["fifth_lumbar_posterior_share"]["value"])


@dataclass(frozen=True, slots=True)
class GradeLimits:
    """Height loss from which a deformity is possible, is flagged, and is severe."""

    possible_from: float
    flag_from: float
    severe_from: float
    source: str


@cache
def grade_limits() -> GradeLimits:
    grades = _document()["grades"]
    return GradeLimits(grades["possible_from"], grades["flag_from"], grades["severe_from"], grades["source"])


def performance_text() -> str:
    """What a published height tool reached with these cut-offs."""
    performance = _document()["performance"]
    return f"{performance['text']} [{performance['source']}]"
