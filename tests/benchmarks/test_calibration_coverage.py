"""What the benchmark of stated intervals draws is what its sources say."""

from __future__ import annotations

import pytest

from benchmarks.calibration_coverage import measured
from benchmarks.drawn_people import blood_of, fat_of, muscle_of, quality_of
from phantoms.materials import material_hu, mineral_hu_per_mg_cm3


def test_tissues_read_what_was_published_of_them():
    # Haemoglobin 14 g/dl reads 45 HU by the published regression; subcutaneous fat about -100; fat takes 1.5 HU a per cent.
    assert material_hu(blood_of(14.0, 0.0), 120.0) == pytest.approx((14.0 + 0.875) / 0.329, abs=0.5)
    assert material_hu(fat_of(0.80), 120.0) == pytest.approx(-98.0, abs=5.0)
    lean, fatty = (material_hu(muscle_of(share), 120.0) for share in (0.042, 0.142))
    assert (lean - fatty) / 10.0 == pytest.approx(1.6, abs=0.25)


def test_a_thicker_filter_and_a_wider_body_harden_the_beam():
    gains = [
        mineral_hu_per_mg_cm3("k2hpo4", 120.0, quality_of(120.0, water, aluminium))
        for water, aluminium in ((250.0, 0.0), (250.0, 3.0), (350.0, 3.0))
    ]
    assert gains[0] > gains[1] > gains[2]


@pytest.mark.slow
def test_the_truth_of_a_case_lies_in_the_stated_intervals():
    pairs = measured(0)
    assert {"plate: line at 100", "phantomless: line at 100", "phantomless: vBMD"} <= {pair.quantity for pair in pairs}
    for pair in pairs:
        assert pair.measured is not None and pair.uncertainty is not None
        assert abs(pair.error) < 2.6 * pair.uncertainty
