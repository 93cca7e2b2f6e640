"""The accuracy benchmark: statistics against closed forms, tables that say what was withheld."""

import numpy as np
import pytest

from benchmarks.accuracy import with_bmi
from benchmarks.accuracy_tables import Pair, Result, draw, fault_table, grouped, report, statistics, summary, verdict
from benchmarks.ct_image_quality import modulation_transfer
from phantoms.suites import Case


def pairs(errors, uncertainty, quantity="vBMD, mg/cm3", **factors):
    return [Pair("case", "vertebra_L1", quantity, 100.0, 100.0 + e, uncertainty, factors) for e in errors]


def test_statistics_of_known_errors():
    row = statistics(pairs([-1.0, 1.0, 3.0], 2.0))
    assert (row["known"], row["measured"]) == (3, 3)
    assert row["bias"] == pytest.approx(1.0)
    assert row["precision"] == pytest.approx(2.0)
    assert (row["lower_limit"], row["upper_limit"]) == pytest.approx((1 - 3.92, 1 + 3.92))
    assert row["worst"] == pytest.approx(3.0)
    assert row["coverage_68"] == pytest.approx(2 / 3)
    assert row["coverage_95"] == pytest.approx(1.0)


def test_right_uncertainties_cover_as_often_as_they_should():
    rng = np.random.default_rng(1)
    right = statistics(pairs(rng.normal(0, 5.0, 20000), 5.0))
    assert right["coverage_68"] == pytest.approx(0.683, abs=0.01)
    assert right["coverage_95"] == pytest.approx(0.95, abs=0.005)
    bold = statistics(pairs(rng.normal(0, 5.0, 20000), 2.5))
    assert bold["coverage_68"] < 0.42


def test_withheld_numbers_are_counted_and_groups_are_told_apart():
    withheld = [Pair("case", "vertebra_L2", "vBMD, mg/cm3", 100.0, None, None, {"kvp": 80})]
    results = [
        Result("a", "done", "", {"kvp": 80}, pairs([4.0, 6.0], 5.0, kvp=80) + withheld, [], [(2, 2), (0, None)], []),
        Result("b", "done", "", {"kvp": 120}, pairs([-1.0, 1.0], 5.0, kvp=120), ["vertebra_L1 called vertebra_L2"], [], []),
        Result("c", "refused", "too_thick", {}, [], [], [], []),
    ]  # fmt: skip
    found = summary(results, ["kvp"])
    table = found["quantities"]["vBMD, mg/cm3"]
    assert (table["all"]["known"], table["all"]["measured"]) == (5, 4)
    assert table["kvp = 80"]["bias"] == pytest.approx(5.0)
    assert table["kvp = 120"]["bias"] == pytest.approx(0.0)
    assert found["outcomes"] == {"done": 2, "refused": 1}
    text = report(found)
    assert "4 of 5" in text
    assert "vertebra_L1 called vertebra_L2" in text
    assert "| 2 | 0 | 0 | 1 | 0 | 0 |" in text


def test_nothing_measured_is_a_row_without_numbers(tmp_path):
    empty = [Pair("case", "femur_left", "total hip aBMD, g/cm2", 0.9, None, None)]
    result = Result("a", "failed", "", {}, empty, [], [], [])
    assert "0 of 1" in report(summary([result], []))
    draw([result], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_the_edge_method_finds_the_transfer_of_the_kernel():
    """The soft kernel is a Gaussian of 1.65 mm: half at 0.441 / 1.65 per mm, a tenth at 0.804 / 1.65 per mm."""
    frequency, transfer = modulation_transfer("fast", "soft")
    for level, expected in ((0.5, 0.441 / 1.65), (0.1, 0.804 / 1.65)):
        assert float(frequency[np.argmax(transfer < level)]) == pytest.approx(expected, rel=0.06)


def of_fault(expect, errors=(), findings=(), name="a", status="done"):
    factors = {"fault": name, "expect": expect, "text": name}
    return Result(name, status, "", factors, pairs(list(errors), 5.0), [], [], list(findings))


def test_faults_are_judged_against_what_was_expected():
    sound = of_fault("usable", [0.0, 1.0], ["usual"], name="sound")
    assert verdict(of_fault("refused", status="refused"), sound) == ("refused", "as expected")
    assert verdict(of_fault("refused", [0.0]), sound)[1] == "NUMBERS OF A FATAL FAULT"
    assert verdict(of_fault("stated", [0.0], ["usual"]), sound) == ("usable", "NOT SAID")
    assert verdict(of_fault("stated", [0.0], ["usual", "odd"]), sound) == ("stated", "as expected")
    assert verdict(of_fault("usable", [0.0], ["usual", "odd"]), sound) == ("stated", "as expected, and said more")
    assert verdict(of_fault("stated"), sound)[1] == "WITHHELD"


def test_a_harmless_fault_that_moves_or_withholds_numbers_is_told():
    sound = of_fault("usable", [0.0], name="sound")
    assert verdict(of_fault("usable", [9.0]), sound)[1] == "MOVED BY 9 mg/cm3"
    withheld = of_fault("usable", [])
    other = [Pair("a", "vertebra_L2", "anterior height, mm", 20.0, 20.0, 0.3, {})]
    lost = [Pair("a", "vertebra_L1", "vBMD, mg/cm3", 100.0, None, None, {})]
    withheld = Result("a", "done", "", withheld.factors, other + lost, [], [], [])
    assert verdict(withheld, sound)[1] == "1 BODIES WITHHELD"


def test_the_table_of_faults_says_only_what_the_sound_study_did_not():
    sound = of_fault("usable", [0.0], ["usual"], name="sound")
    thick = of_fault("refused", findings=["usual", "too_thick"], name="thick", status="refused")
    text = fault_table([sound, thick])
    assert "| thick | refused | refused | as expected | refused | too_thick |  |" in text
    assert "2 of 2 as expected, 0 not" in text


def test_factors_of_many_values_are_grouped_in_three():
    rng = np.random.default_rng(2)
    many = [p for dose in rng.uniform(0.4, 1.5, 90) for p in pairs([0.0], 1.0, dose=float(dose))]
    groups = grouped(many, "dose")
    assert [len(group) for group in groups.values()] == [30, 30, 30]
    assert list(grouped(pairs([0.0], 1.0, kvp=120.0), "kvp")) == ["kvp = 120.0"]
    assert grouped(pairs([0.0], 1.0), "kvp") == {}


def test_the_body_mass_index_is_a_factor_of_patients_only():
    thin, wide = (with_bmi(Case("a", "spine", options={"fat_mm": fat})).factors["bmi"] for fat in (10.0, 45.0))
    assert thin < 22 < 28 < wide
    assert "bmi" not in with_bmi(Case("a", "rods")).factors
