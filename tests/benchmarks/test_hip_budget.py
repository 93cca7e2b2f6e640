"""The budget of the hip: draws move what they should and nothing else, and the report counts what an interval holds."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.hip_budget import PARTS, REGIONS, Outcome, drawn, imaged, report, values
from benchmarks.hip_parts import hips


def test_the_report_counts_intervals_and_sets_parts_side_by_side():
    def outcome(error: float) -> Outcome:
        stated = dict.fromkeys(REGIONS, dict.fromkeys(PARTS, 0.01))
        spread = dict.fromkeys(REGIONS, dict.fromkeys(PARTS, 0.02))
        errors, uncertainties = {r: [error, 0.0] for r in REGIONS}, {r: [0.02, 0.02] for r in REGIONS}
        return Outcome("a hip", stated, spread, errors, uncertainties)

    text = report([outcome(0.03), outcome(0.05)])
    assert "| stated | 10.0 | 10.0 |" in text and "| drawn | 20.0 | 20.0 |" in text
    assert "within u in 50%, within 1.96 u in 75%" in text


@pytest.mark.slow
def test_each_part_moves_the_hip_by_about_what_is_stated_for_it():
    hip = imaged(next(case for case in hips() if case.name == "dense, usual"))
    still = drawn(hip, frozenset(), 0)
    assert values(still)["total_hip"] == pytest.approx(hip.truth_g_cm2["total_hip"], abs=0.02)
    assert values(still, share=0.55)["femoral_neck"] > values(still, share=0.25)["femoral_neck"]
    for part in ("calibration", "marrow"):
        found = [values(drawn(hip, frozenset([part]), seed))["total_hip"] for seed in range(8)]
        stated = still.abmd_g_cm2["total_hip"].components[part]
        assert 0.4 * stated < float(np.std(found, ddof=1)) < 2.0 * stated
