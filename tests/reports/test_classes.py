"""The class beside a T-score has the published edges and never contradicts the printed number."""

from __future__ import annotations

import pytest

from reports.classes import t_score_class
from reports.quantity import format_value
from tests.reports.example_records import quantity


@pytest.mark.parametrize(
    ("value", "printed", "expected"),
    [
        (-2.54, "−2.5", "osteoporosis_range"),
        (-2.46, "−2.5", "osteoporosis_range"),
        (-2.44, "−2.4", "low"),
        (-1.06, "−1.1", "low"),
        (-1.04, "−1.0", "normal"),
        (0.3, "0.3", "normal"),
    ],
)
def test_class_is_read_from_the_printed_score(value: float, printed: str, expected: str) -> None:
    score = quantity(value, 0.4, "{T-score}", "T")
    assert (format_value(score), t_score_class(score)) == (printed, expected)
