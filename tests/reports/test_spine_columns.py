"""What a cohort table holds of the density of the spine beside the mean."""

from __future__ import annotations

from reports.cohort_columns import cohort_columns
from reports.quantity import Quantity
from reports.record import StudyRecord
from tests.reports.example_records import example_record


def row(record: StudyRecord) -> dict[str, object]:
    return {column.name: column.value(record) for column in cohort_columns()}


def test_l1_outliers_and_the_elliptical_region_have_columns() -> None:
    l1 = Quantity(value=95.0, unit="[hnsf'U]", uncertainty=4.0, method="elliptical cylinder at mid height")
    plain = example_record()
    assessment = plain.assessment.model_copy(
        update={"l1_ct_number": l1, "l1_ct_number_band": "below_100", "spine_outlier_levels": ("T12", "L3")}
    )
    ellipse = Quantity(value=88.5, unit="mg/cm3 K2HPO4", uncertainty=6.0, method="elliptical cylinder")
    further = {"vbmd_elliptical_region": ellipse, "hu_elliptical_region": l1}
    bodies = tuple(
        v.model_copy(update={"further": v.further | further}) if v.level == "L2" else v for v in plain.vertebrae
    )
    found = row(plain.model_copy(update={"assessment": assessment, "vertebrae": bodies}))
    assert (found["l1_ct_number"], found["l1_ct_number_sd"], found["l1_ct_number_band"]) == (95.0, 4.0, "below_100")
    assert found["spine_outlier_levels"] == "T12+L3"
    assert (found["l2_vbmd_elliptical_mg_cm3"], found["l2_vbmd_elliptical_mg_cm3_sd"]) == (88.5, 6.0)
    assert (found["l2_hu_elliptical"], found["l2_hu_elliptical_sd"]) == (95.0, 4.0)
    assert row(plain)["l1_ct_number"] is None and row(plain)["spine_outlier_levels"] is None
