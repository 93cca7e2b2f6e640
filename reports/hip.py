"""Numbers of a hip by region, and its scores, as they stand in a record."""

from __future__ import annotations

from decimal import Decimal
from typing import ClassVar, Literal

from pydantic import ConfigDict

from reports.origin import Part
from reports.quantity import Quantity


class HipRegions(Part):
    """A number for each DXA region of the hip; None for a region that could not be measured."""

    total_hip: Quantity | None = None
    """Neck, trochanter and intertrochanter together."""
    femoral_neck: Quantity | None = None
    """Box across the neck."""
    trochanter: Quantity | None = None
    """Region of the greater trochanter."""
    intertrochanter: Quantity | None = None
    """Region between the trochanters, down to below the lesser trochanter."""


class HipDensity(HipRegions):
    """DXA-equivalent areal density by region."""


class Score(Quantity):
    """A T- or Z-score: which region, against whom."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    finest_step: ClassVar[Decimal | None] = Decimal("0.1")

    region: Literal["total_hip", "femoral_neck", "trochanter", "intertrochanter"]
    """Region of the hip."""
    population: str
    """Reference population: survey, sex, age, scanner scale."""
