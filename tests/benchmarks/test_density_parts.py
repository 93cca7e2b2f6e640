"""The table of stated against observed parts, from readings whose statistics are known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.density_parts import Reading, table


def test_parts_add_up_and_guessed_endplates_stand_apart() -> None:
    stated = {"noise": 0.3, "boundary": 1.2, "exclusion": 0.4}
    seen = [Reading(2.5, False, 2.0 + e, -2.0, 0.5 * e, stated) for e in (-1.0, 1.0)]
    guessed = Reading(2.5, True, 9.0, 0.0, 0.0, stated)
    rows = {row["slices"]: row for row in table([*seen, guessed])}
    row = rows["2.5 mm"]
    assert (row["bodies"], row["region_bias"], row["exclusion_bias"]) == (2, 2.0, -2.0)
    assert (row["place_observed"], row["noise_observed"], row["all_observed"]) == pytest.approx((1.0, 0.5, 1.5))
    assert row["all_stated"] == pytest.approx(np.sqrt(0.3**2 + 1.2**2 + 0.4**2))
    assert (row["within_u"], row["within_1.96u"]) == (0.0, 1.0)  # errors of 1.5 against 1.3
    assert rows["2.5 mm, guessed endplate"]["within_1.96u"] == 0.0
