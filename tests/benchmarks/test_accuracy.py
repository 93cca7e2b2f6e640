"""The accuracy benchmark: statistics against closed forms, tables that say what was withheld."""

import numpy as np
import pytest

from benchmarks.accuracy import Pair, Result, draw, fault_table, report, statistics, summary
from benchmarks.ct_image_quality import modulation_transfer


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


def test_the_table_of_faults_says_only_what_the_sound_study_did_not():
    factors = {"fault": "sound", "expect": "usable", "text": "nothing"}
    sound = Result("sound", "done", "", factors, [], [], [], ["usual"])
    thick = Result(
        "a",
        "refused",
        "too_thick",
        {"fault": "a", "expect": "refused", "text": "thick"},
        [],
        [],
        [],
        ["usual", "too_thick"],
    )
    assert "| thick | refused | refused (too_thick) | too_thick |  |" in fault_table([sound, thick])
