"""The one way in which numbers are printed: no more digits than the uncertainty supports."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reports.quantity import Quantity, format_interval, format_number, format_quantity, format_value, resolution
from reports.record import Score


def quantity(value: float, uncertainty: float | None, unit: str) -> Quantity:
    reason = "not estimated" if uncertainty is None else None
    return Quantity(value=value, uncertainty=uncertainty, unit=unit, method="example", uncertainty_reason=reason)


@pytest.mark.parametrize(
    ("value", "uncertainty", "unit", "printed"),
    [
        (3184.2, 412.0, "N", "3180 ± 410 N"),
        (12345.0, 1234.0, "N", "12300 ± 1200 N"),
        (118.4, 6.2, "mg/cm3 K2HPO4", "118 ± 6 mg/cm³ K₂HPO₄"),
        (-2.14, 0.37, "{T-score}", "−2.1 ± 0.4"),
        (-0.04, 0.37, "{T-score}", "0.0 ± 0.4"),
        (0.7344, 0.0441, "g/cm2", "0.734 ± 0.044 g/cm²"),
        (131.6, 0.2, "[hnsf'U]", "132 ± <1 HU"),
        (25.04, None, "mm", "25.0 mm"),
        (0.5, 0.0, "mm", "0.5 ± 0.0 mm"),
        (1234.567, None, "furlong", "1230 furlong"),
    ],
)
def test_printed_as_a_radiologist_expects(value: float, uncertainty: float | None, unit: str, printed: str) -> None:
    assert format_quantity(quantity(value, uncertainty, unit)) == printed


def test_a_score_is_printed_to_a_tenth_in_whatever_unit() -> None:
    facts = {"uncertainty": 0.79, "method": "T", "region": "total_hip", "population": "NHANES III"}
    assert format_quantity(Score(value=-2.02, unit="1", **facts)) == "−2.0 ± 0.8"
    assert format_quantity(quantity(-2.02, 0.79, "1")) == "−2.02 ± 0.79"


def test_interval_and_decimal_mark() -> None:
    assert format_interval(quantity(3184.2, 412.0, "N")) == "2380 to 3990"
    assert format_interval(quantity(-2.14, 0.37, "{T-score}")) == "−2.9 to −1.4"
    assert format_interval(quantity(1.0, None, "N")) == ""
    assert format_quantity(quantity(0.7344, 0.0441, "g/cm2"), decimal_mark=",") == "0,734 ± 0,044 g/cm²"


@given(
    st.floats(-1e6, 1e6),
    st.floats(1e-6, 1e5),
    st.sampled_from(["N", "mg/cm3 HA", "g/cm2", "{T-score}", "mm", "unheard-of"]),
)
def test_printed_value_is_within_half_a_step_and_not_finer_than_the_uncertainty(
    value: float, uncertainty: float, unit: str
) -> None:
    number = quantity(value, uncertainty, unit)
    step = float(resolution(number))
    assert abs(float(format_value(number).replace("−", "-")) - value) <= step / 2 * (1 + 1e-9)
    assert step >= uncertainty / 100


@given(st.floats(-1e4, 1e4), st.integers(-3, 2))
def test_rounding_is_to_even_and_symmetric(value: float, exponent: int) -> None:
    step = Decimal(1).scaleb(exponent)
    assert format_number(-value, step).lstrip("−") == format_number(value, step).lstrip("−")
    assert format_number(5.0, Decimal(10)) == "0"
    assert format_number(15.0, Decimal(10)) == "20"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_is_none_is_not_a_quantity(bad: float) -> None:
    with pytest.raises(ValidationError):
        quantity(bad, 1.0, "N")
    with pytest.raises(ValidationError):
        quantity(1.0, bad, "N")


def test_absent_uncertainty_needs_a_reason() -> None:
    with pytest.raises(ValidationError, match="no reason for its absence"):
        Quantity(value=1.0, unit="N", method="example")
