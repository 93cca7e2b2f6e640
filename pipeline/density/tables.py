"""The published constants of density measurement, each with the tag that says how well it is known and with its source.

The numbers live in ``tables.json`` beside this file, so that a reader can check them without reading code. Tags: ``V``
read in the source, ``V2`` read in a secondary source, ``C`` computed from those or from stated physics, ``M`` and ``M?``
not verified. A number that is not verified may centre a prior or be printed with the word "unverified"; it never decides
a class.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Constant:
    """One entry of the table.

    Attributes
    ----------
    name : str
    value : float or tuple of float
    tag : str
        ``V``, ``V2``, ``C``, ``M`` or ``M?``.
    source : str
        Full words of the source, ready for a report.
    """

    name: str
    value: float | tuple[float, ...]
    tag: str
    source: str

    @property
    def verified(self) -> bool:
        """True if the number may drive a reported class."""
        return self.tag in ("V", "V2", "C")

    def __str__(self) -> str:
        return f"{self.value} [{self.tag}{'' if self.verified else ', unverified'}] {self.source}"


@cache
def _document() -> dict[str, Any]:
    text = resources.files("pipeline.density").joinpath("tables.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


@cache
def constant(name: str) -> Constant:
    """The entry called `name`; KeyError if the table has none."""
    document = _document()
    entry = document["constants"][name]
    value = tuple(entry["value"]) if isinstance(entry["value"], list) else float(entry["value"])
    source = "; ".join(document["sources"].get(key.strip(), key.strip()) for key in entry["source"].split(","))
    return Constant(name, value, entry["tag"], source)


def has_constant(name: str) -> bool:
    """Whether the table knows `name`."""
    return name in _document()["constants"]


def number(name: str) -> float:
    """The value of a scalar constant."""
    value = constant(name).value
    if not isinstance(value, float):
        raise TypeError(f"{name} is not a scalar")
    return value


def numbers(name: str) -> tuple[float, ...]:
    """The values of a constant that is a list."""
    value = constant(name).value
    if isinstance(value, float):
        raise TypeError(f"{name} is a scalar")
    return value


def series(name: str) -> NDArray[np.float64]:
    """The values of a list constant as an array."""
    return np.asarray(numbers(name), dtype=float)


def phantom_definitions() -> dict[str, dict[str, Any]]:
    """Calibration phantoms by name: mineral, rod densities in mg/cm3, for water-based ones also the water term."""
    definitions: dict[str, dict[str, Any]] = _document()["phantoms"]
    return definitions
