"""Products of dual-energy scans are told from their names: what is no CT number at a tube voltage gives no density."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.density import calibrate
from pipeline.errors import NotMeasurable
from tests.pipeline.analytic_bones import trunk


@pytest.fixture(scope="module")
def native():
    return trunk()


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ({"series_description": "Abdomen MonoE 70keV"}, "monoenergetic"),
        ({"image_type": ("DERIVED", "PRIMARY", "AXIAL", "CT_SOM5 MONO_E")}, "monoenergetic"),
        ({"series_description": "VMI_40"}, "monoenergetic"),
        ({"series_description": "Liver VNC 1.5 Qr40"}, "non-contrast"),
        ({"image_type": ("DERIVED", "SECONDARY", "AXIAL", "VUE")}, "non-contrast"),
        ({"series_description": "MD WATER(IODINE)"}, "map|iodine"),
        ({"series_description": "Z Effective"}, "atomic number"),
        ({"series_description": "Electron Density"}, "electron density"),
    ],
)
@pytest.mark.parametrize("choice", [None, "phantom", "kvp"])
def test_spectral_products_give_no_absolute_density_whatever_is_asked_for(native, facts, named, choice):
    volume, segmentation = native
    fake = replace(volume, acquisition=replace(volume.acquisition, **facts))
    with pytest.raises(NotMeasurable, match=named) as refusal:
        calibrate(fake, segmentation, choice=choice)
    assert refusal.value.reason == "spectral_image"


@pytest.mark.parametrize("description", ["DE_Abdomen Sn140kV 1.5 Q30f B", "Thorax Sn100", "100kV Sn lowdose"])
def test_the_half_of_a_pair_behind_a_tin_filter_is_refused_for_what_its_voltage_would_say(native, description):
    volume, segmentation = native
    fake = replace(volume, acquisition=replace(volume.acquisition, series_description=description))
    for choice in ("auto", "internal", "kvp"):
        with pytest.raises(NotMeasurable) as refusal:
            calibrate(fake, segmentation, choice=choice)
        assert refusal.value.reason == "tin_filter"


def test_the_plain_half_of_a_pair_is_measured(native):
    volume, segmentation = native
    fake = replace(volume, acquisition=replace(volume.acquisition, series_description="DE_Abdomen 100kV A"))
    assert calibrate(fake, segmentation).method == "internal_tissues"


def test_a_mixture_of_two_voltages_has_none(native):
    volume, segmentation = native
    fake = replace(volume, acquisition=replace(volume.acquisition, series_description="DE_Abdomen 1.5 Q30f M_0.5"))
    mixed, plain = calibrate(fake, segmentation), calibrate(volume, segmentation)
    assert {"dual_energy_mixed", "kvp_unknown"} <= {f.code for f in mixed.findings} and mixed.kvp is None
    assert mixed.uncertainty_mg_cm3(150.0) > 1.15 * plain.uncertainty_mg_cm3(150.0)


@pytest.mark.parametrize(
    "description", ["Abdomen 5.0 B30f", "MEDIASTINUM", "Ax Lumbar Spine BONE", "W/O CONTRAST AMD", "Sagittal"]
)
def test_usual_descriptions_are_no_spectral_products(native, description):
    volume, segmentation = native
    fake = replace(volume, acquisition=replace(volume.acquisition, series_description=description))
    assert calibrate(fake, segmentation).method == "internal_tissues"
