"""Agreement statistics against their definitions, and percentiles within a cohort of records."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.strength.agreement import agreement, agreement_in_cohort, place_among
from reports.record import Strength, StudyRecord
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
    found = agreement_in_cohort(cohort(6))
    assert set(found) == {
        f"vertebra_{a} and vertebra_{b} (kopperdahl-2002)" for a, b in (("L2", "L3"), ("L3", "L4"), ("L4", "L5"))
    }
    pair = found["vertebra_L2 and vertebra_L3 (kopperdahl-2002)"]
    assert pair.pairs == 6 and pair.bias_percent == pytest.approx(200 * (4080 - 4230) / (4080 + 4230))


def strength(value: float, profile: str = "kopperdahl-2002") -> Strength:
    return Strength(
        value=value, unit="N", uncertainty=1.0, method="test", test="spine-compression", profile=profile
    )  # fmt: skip


def test_percentile_within_a_cohort() -> None:
    records = cohort(40)  # L3 from 4080 N to just below twice that
    middle = place_among(strength(1.5 * 4080), "vertebra_L3", records)
    assert middle is not None and middle.people == 40
    assert middle.percentile == pytest.approx(50, abs=1.3)
    assert middle.interval[0] == pytest.approx(34, abs=2.5) and middle.interval[1] == pytest.approx(
        66, abs=2.5
    )  # binomial
    lowest = place_among(strength(100.0), "vertebra_L3", records, sex="F", age_years=(70, 80))
    assert (
        lowest is not None
        and lowest.percentile == 0
        and lowest.interval[0] == 0
        and "women of 70 to 80" in lowest.reference
    )


def test_no_percentile_among_few_or_other_people_or_under_another_profile() -> None:
    records = cohort(40)
    assert place_among(strength(5000.0), "vertebra_L3", records[:10]) is None
    assert place_among(strength(5000.0), "vertebra_L3", records, sex="M") is None
    assert place_among(strength(5000.0), "vertebra_L3", records, age_years=(20, 30)) is None
    assert place_among(strength(5000.0, "another v1"), "vertebra_L3", records) is None
