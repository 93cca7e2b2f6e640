"""Agreement statistics against their definitions, and over the records of a cohort."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.strength.agreement import agreement, agreement_in_cohort
from reports.record import StudyRecord
from tests.reports.example_records import example_record


def test_agreement_of_a_constant_factor() -> None:
    first = np.array([2000.0, 2500, 3000, 3600, 4100, 5200])
    result = agreement(first, 1.1 * first)
    assert result is not None
    assert result.bias_percent == pytest.approx(200 * 0.1 / 2.1) and result.spread_percent == pytest.approx(0, abs=1e-9)
    assert result.correlation == pytest.approx(1.0)
    assert result.concordance < 0.98


def test_agreement_of_noisy_measurements_finds_the_noise() -> None:
    rng = np.random.default_rng(3)
    truth = rng.uniform(2000, 6000, 4000)
    first, second = (truth * (1 + 0.05 * rng.standard_normal(4000)) for _ in range(2))
    result = agreement(first, second)
    assert result is not None
    assert result.spread_percent == pytest.approx(100 * 0.05 * np.sqrt(2), rel=0.05)
    assert result.bias_percent == pytest.approx(0, abs=0.4)
    assert result.limits_percent[1] - result.limits_percent[0] == pytest.approx(2 * 1.96 * result.spread_percent)
    assert result.concordance == pytest.approx(np.corrcoef(first, second)[0, 1], abs=2e-3)


def test_too_few_pairs_have_no_agreement_and_unequal_ones_are_an_error() -> None:
    assert agreement([1.0] * 4, [1.0] * 4) is None
    with pytest.raises(ValueError, match="4 first and 5 second"):
        agreement([1.0] * 4, [1.0] * 5)


def cohort(number: int) -> list[StudyRecord]:
    """Records of growing strength."""
    records = []
    for n in range(number):
        one = example_record()
        factor = 1 + n / number
        bodies = tuple(
            v.model_copy(update={"strength_n": v.strength_n.model_copy(update={"value": factor * v.strength_n.value})})
            if v.strength_n is not None
            else v
            for v in one.vertebrae
        )
        records.append(one.model_copy(update={"vertebrae": bodies}))
    return records


def test_neighbouring_levels_of_a_cohort() -> None:
    found = {(pair.first, pair.second): pair for pair in agreement_in_cohort(cohort(6))}
    assert list(found) == [(f"vertebra_{a}", f"vertebra_{b}") for a, b in (("L2", "L3"), ("L3", "L4"), ("L4", "L5"))]
    pair = found["vertebra_L2", "vertebra_L3"]
    assert pair.profile == "kopperdahl-2002" and pair.test == "spine-compression" and pair.agreement is not None
    assert pair.studies == pair.agreement.pairs == 6
    assert pair.agreement.bias_percent == pytest.approx(200 * (4080 - 4230) / (4080 + 4230))


def test_a_pair_in_few_studies_is_counted_and_not_judged() -> None:
    assert {(pair.studies, pair.agreement) for pair in agreement_in_cohort(cohort(4))} == {(4, None)}
