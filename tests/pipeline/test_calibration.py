"""Calibration: phantom equations, reference tissues found in an image, files, last resorts, and refusals."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phantoms.beam import Beam
from phantoms.materials import mass_attenuation_cm2_g as fine_mass_attenuation_cm2_g
from phantoms.materials import mineral_hu_per_mg_cm3
from pipeline.density import Calibration, calibrate, calibrate_from_rods
from pipeline.density.attenuation import (
    effective_energy_kev,
    k2hpo4_hu_per_mg_cm3,
    mass_attenuation_cm2_g,
    tissue_hu,
)
from pipeline.density.body_size import water_equivalent_diameter_mm
from pipeline.density.conditions import require_plausible_scale
from pipeline.density.internal import tissue_constrained_line
from pipeline.density.tables import constant, number, phantom_definitions
from pipeline.density.tissues import TissueSample, TissueSurvey, half_sample_mode, survey_tissues
from pipeline.errors import InputRefused, NotMeasurable
from pipeline.volume import Acquisition, Grid, Volume
from tests.pipeline.analytic_bones import trunk

MINDWAYS = phantom_definitions()["mindways_model3_ct"]


def codes(calibration):
    return {f.code for f in calibration.findings}


# --- physics ----------------------------------------------------------------------------------------------------------


def test_mineral_gain_is_that_of_nist_tables():
    # NIST mass attenuation at 60 and 80 keV: K2HPO4 0.3890, 0.2508; water 0.2059, 0.1837.
    assert float(k2hpo4_hu_per_mg_cm3(60.0)) == pytest.approx(0.3890 / 0.2059 - 0.2174, rel=1e-6)
    assert float(k2hpo4_hu_per_mg_cm3(80.0)) == pytest.approx(0.2508 / 0.1837 - 0.2174, rel=1e-6)
    # Clinical cut-offs in HU and in mg/cm3 (110 and 80, 160 and 120) agree at this energy.
    assert float(k2hpo4_hu_per_mg_cm3(69.0)) == pytest.approx(1.37, abs=0.005)
    assert effective_energy_kev(120.0) == pytest.approx(69.0, abs=2.0)


@pytest.mark.parametrize("kvp", [80.0, 100.0, 120.0, 140.0])
@pytest.mark.parametrize("water_mm", [200.0, 280.0, 360.0])
def test_effective_energy_is_that_of_the_spectrum_behind_the_body(kvp, water_mm):
    # Spectra of SpekPy and other attenuation tables, detector included.
    gain = mineral_hu_per_mg_cm3("k2hpo4", kvp, Beam.at(kvp).quality_behind_water(water_mm))
    assert float(k2hpo4_hu_per_mg_cm3(effective_energy_kev(kvp, water_mm))) == pytest.approx(gain, rel=0.005)


@pytest.mark.parametrize("water_mm", [220.0, 380.0])
def test_the_line_of_a_thin_and_of_a_wide_body_is_that_of_its_own_hardened_beam(water_mm):
    gain = mineral_hu_per_mg_cm3("k2hpo4", 120.0, Beam.at(120.0).quality_behind_water(water_mm))
    energy = effective_energy_kev(120.0, water_mm)
    tissues = {t: float(tissue_hu(t, energy)) for t in ("air", "adipose", "muscle", "blood")}
    own = replace(survey(**tissues), water_diameter_mm=water_mm)
    line, _ = tissue_constrained_line(own, 120.0, contrast_enhanced=False)
    assert line.slope_mg_cm3_per_hu * 100.0 * gain + line.intercept_mg_cm3 == pytest.approx(100.0, abs=1.0)
    blind, _ = tissue_constrained_line(survey(**tissues), 120.0, contrast_enhanced=False)
    assert blind.covariance[0, 0] > 1.3 * line.covariance[0, 0]


@pytest.mark.parametrize(("left_mm", "whole"), [(0.0, True), (130.0, False)])
def test_water_equivalent_diameter_is_that_of_the_body_and_none_where_it_is_cut(left_mm, whole):
    y, x = np.mgrid[-200.0:200.0:3.0, -250.0 + left_mm : 250.0 : 3.0]
    image = np.where((x / 180) ** 2 + (y / 120) ** 2 < 1, -50.0, -1000.0).astype(np.float32)
    diameter, least = water_equivalent_diameter_mm(np.repeat(image[None], 12, 0), (3.0, 3.0, 3.0))
    true = 2 * np.sqrt(0.95 * 180 * 120)
    if whole:
        assert diameter == pytest.approx(true, rel=0.01)
    else:
        assert diameter is None and 0.5 * true < least < true


@pytest.mark.parametrize("material", ["water", "muscle", "adipose", "k2hpo4", "hydroxyapatite"])
def test_between_the_nodes_attenuation_is_that_of_a_finer_table(material):
    energy_kev = np.array([45.0, 55.0, 65.0, 69.0, 70.0, 75.0, 90.0])
    finer = fine_mass_attenuation_cm2_g(material, energy_kev)
    assert mass_attenuation_cm2_g(material, energy_kev) == pytest.approx(finer, rel=0.0015)


def test_only_verified_numbers_decide_classes():
    for name in (
        "spine.osteoporosis_le_mg_cm3",
        "spine.normal_ge_mg_cm3",
        "nhanes3_white_women_20_29.femoral_neck",
        "nhanes3_white_women_20_29.total_hip",
        "who.osteoporosis_le_t",
    ):
        assert constant(name).verified and constant(name).source
    assert not constant("nhanes3_white_men_20_29.total_hip").verified
    assert "unverified" in str(constant("nhanes3_white_men_20_29.total_hip"))


# --- phantom ----------------------------------------------------------------------------------------------------------


def test_mindways_equations_return_the_published_example():
    rods = np.array(MINDWAYS["water"]) + 1.60 * np.array(MINDWAYS["rho"]) - 1000.0
    calibration = calibrate_from_rods(rods, "mindways_model3_ct", kvp=120.0)
    assert 1 / calibration.slope_mg_cm3_per_hu == pytest.approx(1.3826, abs=1e-4)
    assert -calibration.intercept_mg_cm3 / calibration.slope_mg_cm3_per_hu == pytest.approx(-0.4, abs=1e-3)
    assert calibration.unit == "mg/cm3 K2HPO4"


def test_hydroxyapatite_phantom_is_a_line_through_its_rods():
    calibration = calibrate_from_rods(5.0 + 1.25 * np.array([0, 100, 200, 400, 600, 800]), "qrm_bdc6")
    assert calibration.density_mg_cm3(5.0 + 1.25 * 150.0) == pytest.approx(150.0)
    assert calibration.unit == "mg/cm3 HA"


@pytest.mark.parametrize(
    ("rods", "phantom", "reason"),
    [
        (
            np.array(MINDWAYS["water"]) + 4.0 * np.array(MINDWAYS["rho"]) - 1000,
            "mindways_model3_ct",
            "phantom_implausible",
        ),
        (
            np.array(MINDWAYS["water"]) + 1.6 * np.array(MINDWAYS["rho"]) - 940,
            "mindways_model3_ct",
            "phantom_implausible",
        ),
        ([100.0, 900.0, 300.0], "qrm_bdc3", "phantom_implausible"),
        ([0.0, 200.0], "qrm_bdc3", "phantom_rods_missing"),
    ],
)
def test_impossible_rods_are_refused(rods, phantom, reason):
    with pytest.raises(NotMeasurable) as refusal:
        calibrate_from_rods(rods, phantom)
    assert refusal.value.reason == reason


def test_noise_of_rods_carries_to_density():
    generator = np.random.default_rng(0)
    true = np.array(MINDWAYS["water"]) + 1.60 * np.array(MINDWAYS["rho"]) - 1000.0
    sd = np.full(5, 2.0)
    densities, stated = [], []
    for _ in range(300):
        calibration = calibrate_from_rods(true + sd * generator.standard_normal(5), "mindways_model3_ct", rod_sd_hu=sd)
        fit_only = replace(calibration, systematic_relative=0.0, random_mg_cm3=0.0)
        densities.append(float(calibration.density_mg_cm3(140.0)))
        stated.append(fit_only.uncertainty_mg_cm3(densities[-1]))
    assert np.median(stated) == pytest.approx(np.std(densities), rel=0.35)


# --- reference tissues ------------------------------------------------------------------------------------------------


def survey(enhanced=False, **hu_by_tissue):
    samples = {t: TissueSample(t, hu, 5.0, 400, "given", np.zeros((0, 3))) for t, hu in hu_by_tissue.items()}
    return TissueSurvey(samples, (), enhanced, False)


@settings(max_examples=40, deadline=None)
@given(energy=st.floats(66.0, 75.0), gain=st.floats(0.97, 1.03), offset=st.floats(-8.0, 8.0))
def test_a_scanner_of_any_energy_gain_and_offset_is_recovered_within_the_stated_error(energy, gain, offset):
    tissues = {t: float(tissue_hu(t, energy)) * gain + offset for t in ("air", "adipose", "muscle", "blood")}
    line, _ = tissue_constrained_line(survey(**tissues), 120.0, contrast_enhanced=False)
    hu = 100.0 * float(k2hpo4_hu_per_mg_cm3(energy)) * gain + offset
    density = line.slope_mg_cm3_per_hu * hu + line.intercept_mg_cm3
    sd = float(np.sqrt(np.array([hu, 1.0]) @ line.covariance @ np.array([hu, 1.0])))
    assert abs(density - 100.0) < 2.5 * sd
    assert sd < 12.0


def test_covariance_agrees_with_monte_carlo_over_the_priors():
    generator = np.random.default_rng(4)
    true = {t: float(tissue_hu(t, 69.0)) for t in ("air", "adipose", "muscle", "blood")}
    spread = {t: number(f"tissue_sd_hu.{t}") for t in true}
    slopes = []
    for _ in range(150):
        energy = effective_energy_kev(120.0) + 2.4 * generator.standard_normal()
        gain, offset = 1 + 0.03 * generator.standard_normal(), 5.0 * generator.standard_normal()
        hu = {t: float(tissue_hu(t, energy)) * gain + offset + spread[t] * generator.standard_normal() for t in true}
        try:
            line, _ = tissue_constrained_line(survey(**hu), 120.0, contrast_enhanced=False)
        except NotMeasurable:
            continue
        slopes.append(line.slope_mg_cm3_per_hu * gain * float(k2hpo4_hu_per_mg_cm3(energy)) - 1.0)
    centre, _ = tissue_constrained_line(survey(**true), 120.0, contrast_enhanced=False)
    stated = np.sqrt(centre.covariance[0, 0]) / centre.slope_mg_cm3_per_hu
    assert np.std(slopes) == pytest.approx(stated, rel=0.3)


def test_unknown_voltage_is_said_and_widens_the_error():
    tissues = {t: float(tissue_hu(t, 69.0)) for t in ("air", "adipose", "muscle")}
    known, _ = tissue_constrained_line(survey(**tissues), 120.0, contrast_enhanced=False)
    unknown, findings = tissue_constrained_line(survey(**tissues), None, contrast_enhanced=False)
    assert unknown.covariance[0, 0] > 1.5 * known.covariance[0, 0]
    assert [f.code for f in findings] == ["kvp_unknown"]


def test_too_few_or_impossible_tissues_are_refused():
    with pytest.raises(NotMeasurable) as refusal:
        tissue_constrained_line(survey(air=-1000.0, muscle=45.0), 120.0, contrast_enhanced=False)
    assert refusal.value.reason == "too_few_reference_tissues"
    with pytest.raises(NotMeasurable) as refusal:
        # Contrast agent takes blood out, which leaves fat alone.
        tissue_constrained_line(survey(air=-1000.0, adipose=-100.0, blood=180.0), 120.0, contrast_enhanced=True)
    assert refusal.value.reason == "too_few_reference_tissues"
    with pytest.raises(NotMeasurable) as refusal:
        tissue_constrained_line(survey(air=-1000.0, adipose=-30.0, muscle=140.0), 120.0, contrast_enhanced=False)
    assert refusal.value.reason == "reference_tissue_implausible"


@given(st.floats(-200, 200), st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_mode_ignores_a_minority_of_other_tissue(centre, seed):
    generator = np.random.default_rng(seed)
    values = np.concatenate([centre + 5 * generator.standard_normal(3000), centre + 60 + 40 * generator.random(1500)])
    assert half_sample_mode(values) == pytest.approx(centre, abs=5.0)


@pytest.fixture(scope="module")
def native():
    return trunk()


def test_tissues_are_found_in_a_trunk(native):
    found = survey_tissues(*native)
    for tissue, hu in (("air", -1000.0), ("adipose", -100.0), ("muscle", 45.0), ("blood", 42.0)):
        assert found.samples[tissue].hu == pytest.approx(hu, abs=2.5)
    assert found.blood_enhanced is False and not found.metal


def test_aorta_centres_lie_in_the_aorta(native):
    points = survey_tissues(*native).samples["blood"].points_lps_mm
    assert len(points) >= 10
    assert np.hypot(points[:, 0] - 16, points[:, 1] + 22).max() < 5.0


def test_padding_is_no_air():
    for padding in (-3024.0, -1000.0):
        found = survey_tissues(*trunk(padding_hu=padding))
        assert found.samples["air"].hu == pytest.approx(-1000.0, abs=2.5)
        assert found.samples["adipose"].hu == pytest.approx(-100.0, abs=2.5)
        corner = found.samples["air"].points_lps_mm
        assert ((corner[:, 0] / 160) ** 2 + (corner[:, 1] / 118) ** 2 < 1.15).all()


def test_automatic_choice_is_internal_with_reason_alternatives_and_wide_error(native):
    calibration = calibrate(*native)
    assert calibration.method == "internal_tissues"
    assert "no phantom" in calibration.reason and "blood" in calibration.reason
    assert {a.method for a in calibration.alternatives} >= {"kvp_constant", "internal_air_blood"}
    # Never better than the energy that the voltage leaves open and what patients showed on known scanners (SD 3.5) together.
    energy = dict(calibration.budget)["energy of the X-rays in the body"]
    assert energy > 3.0
    assert np.hypot(energy, 3.5) < calibration.uncertainty_mg_cm3(100.0) < 6.0
    assert np.sqrt(sum(part**2 for _, part in calibration.budget)) == pytest.approx(
        calibration.uncertainty_mg_cm3(100.0), rel=0.02
    )
    assert all(name in calibration.reference for name, _ in calibration.budget)
    assert not calibration.contrast_enhanced


def test_contrast_is_seen_in_the_image_even_without_a_tag():
    calibration = calibrate(*trunk(blood_hu=170.0))
    assert calibration.contrast_enhanced and "contrast_enhanced" in codes(calibration)
    assert "header names no contrast" in next(f.text for f in calibration.findings if f.code == "contrast_enhanced")
    assert "blood" not in calibration.reason


def test_a_contrast_tag_is_checked_against_the_image():
    calibration = calibrate(*trunk(contrast_agent="Omnipaque"))
    assert not calibration.contrast_enhanced
    assert "contrast_tag_without_enhancement" in codes(calibration)


def test_without_a_vessel_in_view_the_tag_decides_and_that_is_said(native):
    volume, segmentation = native
    bare = replace(segmentation, vertebrae=segmentation.vertebrae[:1])
    assert "contrast_unchecked" in codes(calibrate(volume, bare))
    tagged = replace(volume, acquisition=Acquisition(kvp=120.0, contrast_agent="Omnipaque"))
    calibration = calibrate(tagged, bare)
    assert calibration.contrast_enhanced and "contrast_enhanced" in codes(calibration)


def test_metal_is_seen(native):
    volume, segmentation = native
    hu = volume.hu.copy()
    hu[10:14, 40:46, 100:106] = 3000
    assert "metal_in_view" in codes(calibrate(replace(volume, hu=hu), segmentation))


def test_wrong_hounsfield_scale_falls_back_to_triage_and_says_why(native):
    volume, segmentation = native
    shifted = replace(volume, hu=(volume.hu + 1024).astype(np.int16))
    calibration = calibrate(shifted, segmentation)
    assert calibration.method == "kvp_constant"
    assert {"triage_calibration", "too_few_reference_tissues"} <= codes(calibration)
    with pytest.raises(NotMeasurable):
        calibrate(shifted, segmentation, choice="internal")


# --- constants and files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kvp", "slope"), [(120.0, 1 / 1.37), (100.0, 0.927 / 1.37), (140.0, 1.053 / 1.37)])
def test_voltage_constants(native, kvp, slope):
    volume, segmentation = native
    volume = replace(volume, acquisition=Acquisition(kvp=kvp))
    calibration = calibrate(volume, segmentation, choice="kvp")
    assert calibration.slope_mg_cm3_per_hu == pytest.approx(slope)
    assert "triage_calibration" in codes(calibration)


def test_voltage_without_constants_is_refused_and_unknown_voltage_is_said(native):
    volume, segmentation = native
    with pytest.raises(NotMeasurable) as refusal:
        calibrate(replace(volume, acquisition=Acquisition(kvp=80.0)), segmentation, choice="kvp")
    assert refusal.value.reason == "kvp_without_constants"
    unknown = calibrate(replace(volume, acquisition=Acquisition()), segmentation, choice="kvp")
    assert "kvp_unknown" in codes(unknown) and unknown.systematic_relative > 0.14


@pytest.mark.parametrize("choice", [None, "internal", "kvp"])
def test_a_sharp_kernel_widens_every_density_and_is_said(native, choice):
    volume, segmentation = native
    soft, sharp = (
        calibrate(replace(volume, acquisition=Acquisition(kvp=120.0, kernel=kernel)), segmentation, choice=choice)
        for kernel in ("STANDARD", "LUNG")
    )
    assert "sharp_kernel" not in codes(soft)
    (said,) = (f for f in sharp.findings if f.code == "sharp_kernel")
    assert "'LUNG'" in said.text and "10 %" in said.text
    # The line stays, its error at 100 mg/cm3 grows by 10 mg/cm3 in quadrature, and so do the draws that strength uses.
    assert sharp.density_mg_cm3(150.0) == soft.density_mg_cm3(150.0)
    grown = np.sqrt(sharp.uncertainty_mg_cm3(100.0) ** 2 - soft.uncertainty_mg_cm3(100.0) ** 2)
    assert grown == pytest.approx(10.0, rel=1e-6)
    spread = [np.std(c.draws(4000, 1) @ [400.0, 1.0]) for c in (soft, sharp)]
    assert np.sqrt(spread[1] ** 2 - spread[0] ** 2) == pytest.approx(0.1 * soft.density_mg_cm3(400.0), rel=0.15)


RECORD = {
    "slope_mg_cm3_per_hu": 0.72,
    "intercept_mg_cm3": -1.5,
    "mineral": "K2HPO4",
    "covariance": [[1e-6, 0.0], [0.0, 0.25]],
    "kvp": 120,
    "device_serial_number": "A1",
    "measured_on": "2020-01-01",
    "valid_until": "2020-12-31",
    "table_height_mm": 150.0,
    "kernel": "B30f",
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "scanner a.json"
    path.write_text(json.dumps(RECORD), encoding="utf-8")
    return path


def scanned(native, **facts):
    volume, segmentation = native
    base = {"kvp": 120.0, "device_serial_number": "A1", "acquisition_date": "2020-06-01"}
    return replace(volume, acquisition=Acquisition(**(base | facts))), segmentation


def test_a_calibration_file_is_used_as_given(native, file):
    calibration = calibrate(*scanned(native), choice=file)
    assert calibration.method == "file"
    assert calibration.density_mg_cm3(100.0) == pytest.approx(70.5)
    assert not codes(calibration) & {"calibration_expired", "calibration_match_unconfirmed"}


def test_drift_and_expiry_are_carried(native, file):
    fresh = calibrate(*scanned(native, acquisition_date="2020-01-01"), choice=file)
    old = calibrate(*scanned(native, acquisition_date="2024-01-01"), choice=file)
    assert old.systematic_relative == pytest.approx(np.hypot(fresh.systematic_relative, 0.06), rel=1e-3)
    assert "calibration_expired" in codes(old)


@pytest.mark.parametrize("facts", [{"kvp": 100.0}, {"device_serial_number": "B2"}])
def test_a_calibration_of_another_scanner_or_voltage_is_refused(native, file, facts):
    with pytest.raises(InputRefused) as refusal:
        calibrate(*scanned(native, **facts), choice=file)
    assert refusal.value.reason == "calibration_mismatch"


def test_what_cannot_be_matched_is_said(native, file):
    facts = {"device_serial_number": None, "kernel": "Br60", "table_height_mm": 200.0}
    found = codes(calibrate(*scanned(native, **facts), choice=file))
    assert {"calibration_match_unconfirmed", "calibration_kernel_differs", "calibration_table_height"} <= found


@pytest.mark.parametrize("text", ["", "[1, 2]", "{}", json.dumps(RECORD | {"slope_mg_cm3_per_hu": -1})])
def test_a_broken_file_is_refused_by_name(native, tmp_path, text):
    path = tmp_path / "broken.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputRefused) as refusal:
        calibrate(*native, choice=path)
    assert refusal.value.reason == "calibration_unreadable" and "broken.json" in str(refusal.value)


def test_an_unknown_choice_is_refused(native):
    with pytest.raises(InputRefused) as refusal:
        calibrate(*native, choice="best")
    assert "phantom, internal, kvp" in str(refusal.value)


def test_phantom_asked_for_but_not_there(native):
    with pytest.raises(NotMeasurable) as refusal:
        calibrate(*native, choice="phantom")
    assert refusal.value.reason == "no_phantom"


def test_a_file_that_contradicts_the_tissues_of_the_scan_is_said(native, tmp_path):
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(RECORD | {"slope_mg_cm3_per_hu": 1.6}), encoding="utf-8")
    found = calibrate(*scanned(native), choice=path)
    assert "calibrations_disagree" in codes(found) and len(found.alternatives) >= 2
    assert "calibrations_disagree" not in codes(calibrate(*native))


# --- the value object -------------------------------------------------------------------------------------------------


def test_uncertainty_agrees_with_its_own_draws():
    calibration = Calibration(
        0.75, 2.0, "K2HPO4", np.array([[4e-4, -0.01], [-0.01, 9.0]]), 0.05, "m", "r", 120.0, "w", random_mg_cm3=4.0
    )
    draws = calibration.draws(20000, seed=1)
    hu = (110.0 - 2.0) / 0.75
    assert np.std(draws[:, 0] * hu + draws[:, 1]) == pytest.approx(calibration.uncertainty_mg_cm3(110.0), rel=0.03)
    assert calibration.relative_uncertainty(110.0) == pytest.approx(calibration.uncertainty_mg_cm3(110.0) / 110.0)
    assert np.array_equal(draws, calibration.draws(20000, seed=1))


@pytest.mark.parametrize(
    "wrong", [{"slope_mg_cm3_per_hu": -1.0}, {"mineral": "CaCO3"}, {"covariance": np.zeros((3, 3))}]
)
def test_an_impossible_calibration_cannot_be_built(wrong):
    good = {"slope_mg_cm3_per_hu": 0.7, "intercept_mg_cm3": 0.0, "mineral": "HA", "covariance": np.zeros((2, 2))}
    good |= {"systematic_relative": 0.0, "method": "m", "reference": "r", "kvp": None, "reason": "w"}
    with pytest.raises(ValueError):
        Calibration(**(good | wrong))


@pytest.mark.realdata
def test_tissues_of_a_real_scan_lie_where_they_should(real_data):
    import nibabel

    from pipeline.segmentation.model import Segmentation
    from pipeline.volume import Grid, canonical_order

    image = nibabel.load(real_data("ts_example_3mm") / "ct.nii.gz")
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine[:, [2, 1, 0, 3]]
    array, matrix, _ = canonical_order(np.asarray(image.dataobj).transpose(2, 1, 0), matrix)
    volume = Volume(array, Grid(array.shape, matrix))
    found = survey_tissues(volume, Segmentation(np.zeros(array.shape, np.uint8), volume.grid)).samples
    assert found["air"].hu == pytest.approx(-1000.0, abs=8.0)
    assert -115.0 < found["adipose"].hu < -90.0


@pytest.mark.parametrize(("shift_hu", "refused"), [(0, False), (60, False), (120, True), (-80, True)])
def test_constants_are_refused_when_soft_tissue_reads_what_it_cannot(shift_hu: int, refused: bool) -> None:
    hu = np.random.default_rng(3).normal(50 + shift_hu, 15, (40, 60, 60)).astype(np.float32)
    hu[:, :20] = -1000
    matrix = np.array([[0, 0, 1.0, 0], [0, 1.0, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1.0]])
    volume = Volume(hu, Grid(hu.shape, matrix))
    if refused:
        with pytest.raises(NotMeasurable) as caught:
            require_plausible_scale(volume)
        assert caught.value.reason == "hu_scale_implausible"
    else:
        require_plausible_scale(volume)


def test_auto_is_the_automatic_choice_and_a_named_method_says_that_it_was_asked_for(native):
    automatic, named = calibrate(*native, choice="auto"), calibrate(*native, choice="internal")
    assert automatic.reason == calibrate(*native).reason and automatic.reason.startswith("no phantom")
    assert named.reason.startswith("asked for by name (internal)")
    assert {a.method for a in named.alternatives} == {a.method for a in automatic.alternatives}
