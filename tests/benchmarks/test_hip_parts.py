"""The parts of the error of areal density: they add up, and with a true line and known marrow the goal of 0.02 g/cm2 is met."""

from __future__ import annotations

import pytest

from benchmarks.hip_parts import PARTS, REGIONS, Outcome, against_projection, examine, hips, posed_hips, report


def test_the_report_counts_what_is_within_the_goal():
    def outcome(name: str, image: float) -> Outcome:
        errors = {"place": 0.004, "image": image, "marrow": -0.01, "calibration": 0.02, "all": image + 0.014}
        return Outcome(
            name, dict.fromkeys(REGIONS, errors), dict.fromkeys(REGIONS, 0.05), dict.fromkeys(REGIONS, (0.5, 1.0))
        )

    text = report([outcome("near", 0.01), outcome("far", 0.03)])
    assert "| near | +4 | +10 | -10 | +20 | +24 | 50 |" in text
    assert "50% of 2 hips within 0.02 g/cm2, worst +0.034" in text
    assert "50% within u, 100% within 1.96 u" in text


def test_errors_against_the_projection_are_told_by_what_is_known():
    def outcome(name: str, image: float) -> Outcome:
        errors = {"place": 0.004, "image": image, "marrow": -0.012, "calibration": 0.020, "all": image + 0.012}
        return Outcome(name, dict.fromkeys(REGIONS, errors), dict.fromkeys(REGIONS, 0.05), {})

    text = against_projection([outcome("near", 0.010), outcome("far", 0.022)])
    # Known marrow: 0.014 and 0.026; own marrow: 0.002 and 0.014; line found: 0.022 and 0.034 g/cm2 of an SD of 0.122.
    assert (
        "total hip, true line, marrow reads what is taken off | +0.020 | 0.006 | +0.026 | 50% | 0.05 | +0.21 | 50% |"
        in text
    )
    assert "total hip, true line, marrow of this person | +0.008 | 0.006 | +0.014 | 100% |" in text
    assert "total hip, line found in the image, marrow of this person | +0.028 | 0.006 | +0.034 | 0% |" in text
    assert "| near | +0.014 | +0.002 | +0.022 |" in text


def test_poses_and_slices_are_spanned():
    posed = posed_hips()
    assert {case.scan["slice_mm"] for case in posed} == {0.75, 1.5, 3.0, 5.0}
    assert {case.turned for case in posed} >= {(2, 30.0), (2, -30.0), (0, 10.0), (1, -10.0), None}


def test_cases_differ_in_one_thing_each():
    names = [case.name for case in hips()]
    assert len(set(names)) == len(names)
    assert sum(case.turned is not None for case in hips()) == 12


@pytest.mark.slow
def test_with_a_true_line_and_known_marrow_the_goal_is_met():
    for case in (c for c in hips() if c.name in ("dense, usual", "sparse, 5 mm slices")):
        outcome = examine(case, draws=2)
        for errors in outcome.errors_g_cm2.values():
            assert abs(errors["place"] + errors["image"]) <= 0.02
            assert errors["all"] == pytest.approx(sum(errors[part] for part in PARTS[:-1]), abs=1e-9)
