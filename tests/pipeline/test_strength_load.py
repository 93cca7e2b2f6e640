"""Loads and their ratio to strength, against figures worked out by hand, and soft tissue against a body of known size."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from pipeline import measure
from pipeline.errors import NotMeasurable
from pipeline.measure import _Sheet
from pipeline.segmentation.model import Segmentation
from pipeline.strength import Strength, femur_strength
from pipeline.strength.load import (
    body_size,
    fall_on_hip,
    lifting,
    load_of_a_fall,
    soft_tissue_over_trochanter,
)
from pipeline.volume import Acquisition, Volume
from reports import record
from reports.quantity import Quantity
from tests.fea.bone.bones import coordinates, oval_body, synthetic_femur
from tests.pipeline.test_strength import calibration, with_femur, with_vertebra


def strength_of(newton: float, uncertainty: float | None = 300.0, test: str = "hip-sideways-fall") -> Strength:
    reason = None if uncertainty is not None else "not known"
    value = Quantity(value=newton, unit="N", uncertainty=uncertainty, uncertainty_reason=reason, method="test")
    return Strength(test, "made v1", "peak", value, None, newton, (), {}, {})


def tissue(millimetres: float) -> Quantity:
    return Quantity(value=millimetres, unit="mm", uncertainty=5.0, method="test")


@pytest.mark.parametrize(
    ("height", "mass", "thickness", "expected"),
    [
        (1.60, 65.0, None, 4373.0),
        (1.60, 65.0, 25.0, 2598.0),
        (1.60, 65.0, 40.0, 1533.0),
        (1.75, 80.0, None, 5073.0),
        (1.75, 80.0, 30.0, 2943.0),
    ],
)
def test_the_force_of_a_fall_is_that_of_a_pocket_calculator(height, mass, thickness, expected) -> None:
    soft = None if thickness is None else tissue(thickness)
    load = fall_on_hip(strength_of(3000.0), body_size(height, mass, "F"), soft)
    assert load.force_n.value == pytest.approx(expected, abs=1.0)
    assert load.ratio.value == pytest.approx(expected / 3000.0, rel=1e-3)
    assert load.ratio.uncertainty is not None and load.force_n.uncertainty is not None
    relative = np.hypot(load.force_n.uncertainty / load.force_n.value, 0.1)
    assert load.ratio.uncertainty / load.ratio.value == pytest.approx(relative)


def test_thick_tissue_leaves_a_quarter_and_a_finding() -> None:
    load = fall_on_hip(strength_of(3000.0), body_size(1.60, 90.0, "F"), tissue(70.0))
    bare = fall_on_hip(strength_of(3000.0), body_size(1.60, 90.0, "F"), None)
    assert load.force_n.value == pytest.approx(0.25 * bare.force_n.value)
    assert {f.code for f in load.findings} == {"attenuation_limited"}
    assert {f.code for f in bare.findings} == {"soft_tissue_unknown"}


@pytest.mark.parametrize(("height", "mass"), [(None, 70.0), (1.6, None), (16.0, 70.0), (1.6, 0.0)])
def test_a_body_of_unknown_or_impossible_size_is_typical_and_less_certain(height, mass) -> None:
    size = body_size(height, mass, "F")
    assert size.estimated and 1.2 < size.height_m.value < 2.3 and 25 < size.mass_kg.value < 300
    load = fall_on_hip(strength_of(3000.0), size, tissue(30.0))
    assert "body_size_typical" in {f.code for f in load.findings}
    known = fall_on_hip(strength_of(3000.0), body_size(1.61, 69.0, "F"), tissue(30.0))
    assert float(load.force_n.uncertainty or 0) > float(known.force_n.uncertainty or 0)


def test_a_strength_without_uncertainty_gives_a_ratio_without_one() -> None:
    ratio = fall_on_hip(strength_of(3000.0, None), body_size(1.6, 60.0, "F"), None).ratio
    assert ratio.uncertainty is None and ratio.uncertainty_reason == "not known"


def test_lifting_is_what_the_static_model_gives_and_says_that_it_is_unvalidated() -> None:
    """70 kg, 1.65 m, 10 kg in hands, bent by 30 degrees: 1.6 kN."""
    load = lifting(strength_of(5000.0, test="spine-compression"), body_size(1.65, 70.0, "M"))
    trunk, held = 0.36 * 70 * 9.81, 98.1
    by_hand = (trunk + held) * np.cos(np.pi / 6) + (trunk * 0.15 * 1.65 * 0.5 + held * 0.25 * 1.65) / 0.055
    assert load.force_n.value == pytest.approx(by_hand) and 1500 < by_hand < 1700
    assert {f.code for f in load.findings} == {"spine_load_unvalidated"}


def hip_in_a_body(skin_mm: float) -> tuple[Volume, Segmentation, Strength]:
    """A left femur in muscle whose skin is a plane `skin_mm` beyond the outermost bone of the trochanter along x."""
    bone = synthetic_femur()
    volume, segmentation, femur = with_femur(bone)
    x, _, _ = coordinates(bone.mask.shape, bone.matrix)
    edge = float(x[bone.mask].max()) + skin_mm
    hu = np.where(bone.mask, volume.hu, np.where(x <= edge, 50, -1000)).astype(np.int16)
    volume = replace(
        volume, hu=hu, acquisition=Acquisition(patient_height_m=1.6, patient_weight_kg=65.0, patient_sex="F")
    )
    return volume, segmentation, femur_strength(volume, segmentation, femur, calibration(), voxel_mm=2.0)


def test_soft_tissue_is_measured_to_the_skin() -> None:
    thin, thick = (hip_in_a_body(millimetres) for millimetres in (6.0, 16.0))
    first, second = (soft_tissue_over_trochanter(v, s, "femur_left") for v, _, s in (thin, thick))
    assert thin[2].solved is not None
    vertical = thin[2].solved.model.bone.grid.axes[1]
    # rays run obliquely to the plane of the skin
    assert second.value - first.value == pytest.approx(10.0 / abs(vertical[0]), abs=1.2)
    assert 4 < first.value < 18
    load = load_of_a_fall(thick[0], thick[2], "femur_left")
    assert load is not None and set(load.quantities) == {"load", "load_to_strength", "trochanteric_soft_tissue"}
    assert load.force_n.value == pytest.approx(4373 - 71 * second.value, rel=0.01)


def test_skin_outside_the_field_of_view_is_no_thickness() -> None:
    volume, _, strength = hip_in_a_body(500.0)
    with pytest.raises(NotMeasurable) as caught:
        soft_tissue_over_trochanter(volume, strength, "femur_left")
    assert caught.value.reason == "skin_not_in_view"
    load = load_of_a_fall(volume, strength, "femur_left")
    assert load is not None and "soft_tissue_unknown" in {f.code for f in load.findings}
    valid = np.ones(volume.shape, bool)
    x, _, _ = coordinates(volume.shape, volume.grid.index_to_lps)
    near, _, tested = hip_in_a_body(16.0)
    valid[x > 30.0] = False  # padding between bone and skin
    with pytest.raises(NotMeasurable):
        soft_tissue_over_trochanter(replace(near, valid=valid), tested, "femur_left")


def test_what_is_no_failure_load_gets_no_ratio() -> None:
    volume, segmentation, femur = with_femur(synthetic_femur())
    linear = femur_strength(volume, segmentation, femur, calibration(), profile="ogo-femur", voxel_mm=2.0)
    with pytest.raises(NotMeasurable) as caught:
        load_of_a_fall(volume, linear, "femur_left")
    assert caught.value.reason == "no_failure_load"
    with pytest.raises(NotMeasurable) as caught:
        fall_on_hip(linear, body_size(1.6, 60.0, "F"), None)
    assert caught.value.reason == "no_failure_load"
    stance = femur_strength(volume, segmentation, femur, calibration(), test="hip-stance", voxel_mm=2.0)
    with pytest.raises(NotMeasurable):
        soft_tissue_over_trochanter(volume, stance, "femur_left")
    with pytest.raises(NotMeasurable) as caught:
        load_of_a_fall(volume, stance, "femur_left")
    assert caught.value.reason == "no_fall_model"


@pytest.fixture
def voxels_of_2_mm(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the other tests here; what stands in a record does not depend on the size of the voxels."""
    monkeypatch.setattr(measure, "femur_strength", partial(femur_strength, voxel_mm=2.0))


@pytest.mark.usefixtures("voxels_of_2_mm")
def test_the_record_of_a_hip_has_both_load_cases_the_load_and_its_ensemble() -> None:
    bone = synthetic_femur(spacing_mm=(3.0, 3.0, 3.0))
    volume, segmentation, femur = with_femur(bone)
    volume = replace(volume, acquisition=Acquisition(patient_height_m=1.6, patient_weight_kg=65.0))
    sheet = _Sheet(volume, segmentation, calibration(), None, True, None, None)
    sheet.measure_strength(femur, None)
    sheet.vary_leading_strengths()
    part = sheet.femur_part(femur)
    assert part.strength_n is not None and part.strength_n.test == "hip-sideways-fall"
    assert [test.strength_n.test for test in part.other_tests] == ["hip-stance"]
    assert part.strength_n.model["uncertainty"] == "designed ensemble of 16"
    assert part.other_tests[0].strength_n.model["uncertainty"] == "first order"
    assert part.further["load_to_strength"].value == pytest.approx(part.further["load"].value / part.strength_n.value)
    assert "soft_tissue_unknown" in {finding.code for finding in part.findings}


def vertebra_in_the_record(level: str, spine_load: str | None, profile: str | None = None) -> record.Vertebra:
    volume, segmentation, vertebra = with_vertebra(
        oval_body(spacing_mm=(2.0, 2.0, 2.0)), level=level, name=f"vertebra_{level}"
    )
    volume = replace(volume, acquisition=Acquisition(patient_height_m=1.65, patient_weight_kg=70.0))
    sheet = _Sheet(volume, segmentation, calibration(), None, True, profile, None, spine_load)
    sheet.measure_strength(vertebra, None)
    return sheet.vertebra_part(vertebra, None)


def test_the_load_of_lifting_stands_in_the_record_of_lumbar_bodies_if_it_was_asked_for() -> None:
    asked = vertebra_in_the_record("L2", "lifting")
    assert asked.strength_n is not None
    load, ratio = asked.further["lifting_load"], asked.further["lifting_load_to_strength"]
    assert ratio.value == pytest.approx(load.value / asked.strength_n.value) and 1500 < load.value < 1700
    assert "spine_load_unvalidated" in {finding.code for finding in asked.findings} and asked.status == "warning"
    assert not vertebra_in_the_record("T12", "lifting").further
    unasked = vertebra_in_the_record("L2", None)
    assert not unasked.further and "spine_load_unvalidated" not in {finding.code for finding in unasked.findings}


@pytest.mark.usefixtures("voxels_of_2_mm")
def test_the_record_says_why_a_strength_has_no_ratio() -> None:
    volume, segmentation, femur = with_femur(synthetic_femur(spacing_mm=(3.0, 3.0, 3.0)))
    sheet = _Sheet(volume, segmentation, calibration(), None, True, "ogo-femur", None)
    sheet.measure_strength(femur, None)
    part = sheet.femur_part(femur)
    assert part.strength_n is not None and "load_to_strength" not in part.further
    assert part.not_measured["further.load_to_strength"].code == "no_failure_load"
