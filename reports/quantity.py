"""The number fit for a report: value, unit, standard uncertainty, method and reference; and the one way to print it.

Every rendering prints through `format_quantity` and its parts, so the same number looks the same everywhere.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_EVEN, Decimal
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

_STEP_OF_UNIT = {
    "N": Decimal(10),
    "N/mm": Decimal(10),
    "mg/cm3": Decimal(1),
    "g/cm2": Decimal("0.001"),
    "{T-score}": Decimal("0.1"),
    "{Z-score}": Decimal("0.1"),
    "[hnsf'U]": Decimal(1),
    "HU": Decimal(1),
    "mm": Decimal("0.1"),
    "cm2": Decimal("0.1"),
    "mm2": Decimal(1),
    "%": Decimal(1),
    "deg": Decimal("0.1"),
}
"""The finest step that is printed, by unit. Strength to 10 N, density to 1 mg/cm3 and T to 0.1 are what established
analyses of this kind report."""

_PRINTED_UNIT = {"[hnsf'U]": "HU", "{T-score}": "", "{Z-score}": "", "1": "", "deg": "°"}
_TYPOGRAPHY = (("cm3", "cm³"), ("cm2", "cm²"), ("mm2", "mm²"), ("mm3", "mm³"), ("K2HPO4", "K₂HPO₄"))
_COVERAGE_FACTOR = 1.96
MINUS = "−"


class Quantity(BaseModel):
    """A measured number with what is needed to judge it.

    Attributes
    ----------
    value : float
        Finite; a quantity that cannot be computed is absent (None in its place) and a finding says why.
    unit : str
        As in UCUM where it has one; the mineral basis is part of the unit: ``"mg/cm3 K2HPO4"``.
    uncertainty : float or None
        One standard deviation in `unit`; None only with `uncertainty_reason`.
    method : str
        How it was obtained, in a few words.
    reference : str or None
        Which equation, table or paper.
    uncertainty_reason : str or None
        Why the uncertainty is not known.
    components : dict of str to float
        The makeup of the uncertainty: standard deviation in `unit` by source, combined in quadrature.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    finest_step: ClassVar[Decimal | None] = None
    """For a kind of quantity whose unit does not tell how finely it is customarily printed."""

    value: float
    unit: str
    uncertainty: float | None = None
    method: str
    reference: str | None = None
    uncertainty_reason: str | None = None
    components: dict[str, float] = {}

    @model_validator(mode="after")
    def _is_fit_for_a_report(self) -> Quantity:
        if not math.isfinite(self.value):
            raise ValueError(f"{self.method}: value is {self.value}; return a finding instead of a number")
        if self.uncertainty is None and not self.uncertainty_reason:
            raise ValueError(f"{self.method}: no uncertainty and no reason for its absence")
        if self.uncertainty is not None and not (math.isfinite(self.uncertainty) and self.uncertainty >= 0):
            raise ValueError(f"{self.method}: uncertainty is {self.uncertainty}")
        return self


def printed_unit(unit: str) -> str:
    """How a unit stands in a report: ``mg/cm³ K₂HPO₄`` for ``mg/cm3 K2HPO4``, nothing for a T-score."""
    if unit in _PRINTED_UNIT:
        return _PRINTED_UNIT[unit]
    for plain, typeset in _TYPOGRAPHY:
        unit = unit.replace(plain, typeset)
    return unit


def resolution(quantity: Quantity) -> Decimal:
    """The step to which a quantity is printed.

    The coarser of what is customary for the unit and what leaves the uncertainty two significant digits. A quantity in a
    unit without a customary step and without an uncertainty is printed to three significant digits.
    """
    customary = (
        quantity.finest_step or _STEP_OF_UNIT.get(quantity.unit) or _STEP_OF_UNIT.get(quantity.unit.partition(" ")[0])
    )
    leading, digits = (quantity.uncertainty, 2) if quantity.uncertainty else (abs(quantity.value), 3)
    if customary is not None and not quantity.uncertainty:
        return customary
    supported = Decimal(1).scaleb(Decimal(repr(leading)).adjusted() - digits + 1) if leading else Decimal(1)
    return max(customary, supported) if customary is not None else supported


def format_number(value: float, step: Decimal, *, decimal_mark: str = ".") -> str:
    """`value` rounded to a power of ten `step`, ties to even, with a true minus sign and never minus zero."""
    rounded = Decimal(repr(float(value))).quantize(Decimal(1).scaleb(step.adjusted()), rounding=ROUND_HALF_EVEN)
    text = f"{abs(rounded):f}".replace(".", decimal_mark)
    return (MINUS if rounded < 0 else "") + text


def format_value(quantity: Quantity, *, decimal_mark: str = ".") -> str:
    """The value alone: ``3180``."""
    return format_number(quantity.value, resolution(quantity), decimal_mark=decimal_mark)


def format_uncertainty(quantity: Quantity, *, decimal_mark: str = ".") -> str:
    """The standard uncertainty alone, to the step of the value: ``410``, ``<1``, or nothing if it is not known."""
    if quantity.uncertainty is None:
        return ""
    step = resolution(quantity)
    text = format_number(quantity.uncertainty, step, decimal_mark=decimal_mark)
    if quantity.uncertainty > 0 and not text.strip(f"0{decimal_mark}"):
        return "<" + format_number(float(step), step, decimal_mark=decimal_mark)
    return text


def format_interval(quantity: Quantity, *, decimal_mark: str = ".", between: str = " to ") -> str:
    """The 95 % interval, value ± 1.96 standard uncertainties: ``2380 to 3980``; nothing without an uncertainty."""
    if quantity.uncertainty is None:
        return ""
    step = resolution(quantity)
    half = _COVERAGE_FACTOR * quantity.uncertainty
    ends = (format_number(quantity.value + sign * half, step, decimal_mark=decimal_mark) for sign in (-1, 1))
    return between.join(ends)


def format_quantity(quantity: Quantity, *, decimal_mark: str = ".", unit: bool = True) -> str:
    """Value, standard uncertainty and unit as every rendering prints them.

    >>> format_quantity(Quantity(value=3184.2, uncertainty=412.0, unit="N", method="example"))
    '3180 ± 410 N'
    """
    text = format_value(quantity, decimal_mark=decimal_mark)
    if quantity.uncertainty is not None:
        text += f" ± {format_uncertainty(quantity, decimal_mark=decimal_mark)}"
    printed = printed_unit(quantity.unit) if unit else ""
    return f"{text} {printed}" if printed else text
