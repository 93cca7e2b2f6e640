"""Areal density of the hip against closed forms: mass is conserved, pose and soft tissue do not matter, refusals are honest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from pipeline.density.dxa_scale import on_scale, standardised
from pipeline.density.hip import HIP_REGIONS, _classify, _t_score, measure_hip
from pipeline.density.hip_regions import silhouette, with_tails
from pipeline.density.projection import PIXEL_MM, Projection, bone_paths, pose_of, project
from pipeline.errors import Finding, InputRefused, NotMeasurable, Severity
from pipeline.measure import measure
from pipeline.record_parts import hip_parts
from pipeline.segmentation.model import Segmentation
from pipeline.settings import Settings
from reports.quantity import Quantity
from tests.pipeline.analytic_bones import exact_calibration, femur

SLOPE = 0.75
# A mixture of bone tissue, which reads 1158 mg/cm3, and of marrow, which reads -45 and counts nothing.
MARROW, TISSUE = -45.0, 1158.0
TRUE_G_CM3 = (400.0 * SLOPE - MARROW) * TISSUE / (TISSUE - MARROW) / 1000.0


_PERSON = ("sex", "age_years", "dxa_scale")


def measured(**options):
    volume, segmentation, _ = femur(**{k: v for k, v in options.items() if k not in _PERSON})
    person = {k: v for k, v in options.items() if k in _PERSON}
    return measure_hip(volume, segmentation, segmentation.femora[0], exact_calibration(SLOPE), **person)


@pytest.fixture(scope="module")
def upright():
    return measured()


@pytest.mark.parametrize("blur_mm", [0.0, 0.8])
@pytest.mark.parametrize("tissue_hu", [-100.0, 40.0])
def test_projected_mass_is_density_times_volume_whatever_blur_and_soft_tissue(blur_mm, tissue_hu):
    volume, segmentation, true_mm3 = femur(blur_mm=blur_mm, tissue_hu=tissue_hu)
    calibration = exact_calibration(SLOPE)
    paths = bone_paths(volume, segmentation, segmentation.femora[0], calibration)
    projection = project(paths, pose_of(segmentation.femora[0], paths))
    mass_g = projection.areal_g_cm2(calibration).sum() * (PIXEL_MM / 10) ** 2
    assert mass_g == pytest.approx(TRUE_G_CM3 * true_mm3 / 1000.0, rel=0.015)


def test_shaft_reads_density_times_diameter(upright):
    # The lowest centimetre of the region is a plain cylinder of 14 mm radius: its middle is 28 mm thick.
    rows = slice(int(upright.bottom_px) - 8, int(upright.bottom_px) - 2)
    assert upright.image_g_cm2[rows].max(axis=1) == pytest.approx(TRUE_G_CM3 * 2.8, rel=0.02)


def test_shaft_mean_is_density_times_cross_section_over_width(upright):
    row = int(upright.bottom_px) - 5
    line = upright.image_g_cm2[row]
    mass = line.sum() * PIXEL_MM / 10
    assert mass == pytest.approx(TRUE_G_CM3 * np.pi * 1.4**2, rel=0.02)


def test_all_regions_are_there_and_total_is_their_weighted_mean(upright):
    assert set(upright.abmd_g_cm2) == set(HIP_REGIONS) and not upright.missing
    parts = [r for r in HIP_REGIONS if r != "total_hip"]
    mass = sum(upright.bmc_g[r].value for r in parts)
    area = sum(upright.area_cm2[r].value for r in parts)
    assert upright.bmc_g["total_hip"].value == pytest.approx(mass, rel=1e-9)
    assert upright.abmd_g_cm2["total_hip"].value == pytest.approx(mass / area, rel=1e-9)


def test_neck_region_is_a_15_mm_slice_of_a_cone(upright):
    # Neck of about 14.5 mm radius: mean thickness of a disc is pi/2 times its radius, its silhouette is 29 mm across.
    assert upright.area_cm2["femoral_neck"].value == pytest.approx(1.5 * 2 * 1.5, rel=0.08)
    assert upright.abmd_g_cm2["femoral_neck"].value == pytest.approx(TRUE_G_CM3 * np.pi / 2 * 1.5, rel=0.06)


@pytest.mark.parametrize(("axis", "angle"), [(0, 15.0), (1, 12.0), (2, -25.0)])
def test_the_pose_of_the_patient_does_not_matter(upright, axis, angle):
    turned = measured(turned=(axis, angle))
    for region in HIP_REGIONS:
        assert turned.abmd_g_cm2[region].value == pytest.approx(upright.abmd_g_cm2[region].value, abs=0.02)


def test_mirror_image_gives_the_same(upright):
    right = measured(side="right")
    for region in HIP_REGIONS:
        assert right.abmd_g_cm2[region].value == pytest.approx(upright.abmd_g_cm2[region].value, rel=0.01)
    # Columns run laterally on both sides.
    assert right.image_g_cm2.shape == upright.image_g_cm2.shape


@pytest.mark.parametrize("sigma_mm", [0.4, 1.0, 1.8])
@pytest.mark.parametrize("plateau_g_cm2", [0.35, 1.2])
def test_blur_moves_neither_the_edge_of_a_shadow_nor_its_mass(sigma_mm, plateau_g_cm2):
    # A strip 32 mm wide: found as wide within a pixel on each side, and what blur carries outside is still counted.
    strip = np.zeros((60, 80))
    strip[:, 20:60] = plateau_g_cm2
    blurred = ndimage.gaussian_filter(strip, (0.0, sigma_mm / PIXEL_MM))
    inside = silhouette(blurred)
    assert inside.sum(axis=1).mean() * PIXEL_MM == pytest.approx(32.0, abs=2.1 * PIXEL_MM)
    tails = with_tails(inside.astype(np.uint8))
    assert blurred[tails > 0].sum() == pytest.approx(strip.sum(), rel=0.01)


def test_denser_bone_holds_less_marrow():
    # A voxel of pure bone tissue counts what it reads; one of pure marrow counts nothing; in between by volume.
    volume, segmentation, _ = femur()
    paths = bone_paths(volume, segmentation, segmentation.femora[0], exact_calibration(SLOPE))
    pose = pose_of(segmentation.femora[0], paths)
    for share in (0.0, 0.25, 1.0):
        reading = share * TISSUE + (1 - share) * MARROW
        column = Projection(pose, np.array([[reading / SLOPE * 10.0]]), np.array([[10.0]]))
        assert column.areal_g_cm2(exact_calibration(SLOPE))[0, 0] == pytest.approx(share * TISSUE * 10.0 * 1e-4)


@pytest.mark.parametrize(
    ("region", "hologic", "lunar"),
    # By hand from sBMD = 1.008 H + 0.006 = 0.979 L - 0.031 and 1.087 H + 0.019 = 0.939 L - 0.023.
    [("total_hip", 0.8, 0.86149), ("femoral_neck", 0.7, 0.85506)],
)
def test_areal_density_on_the_scale_of_another_maker(region, hologic, lunar):
    abmd = Quantity(value=hologic, unit="g/cm2", uncertainty=0.03, method="given", components={"calibration": 0.03})
    there = on_scale(abmd, region, "lunar")
    assert there.value == pytest.approx(lunar, abs=1e-4)
    assert standardised(there.value, region, "lunar") == pytest.approx(standardised(hologic, region, "hologic"))
    assert there.uncertainty > 0.035 * there.value
    assert on_scale(abmd, region, "hologic") is abmd


def test_a_scale_asked_for_is_given_and_leaves_the_t_score(upright):
    result = measured(dxa_scale="lunar")
    assert set(result.on_dxa_scale_g_cm2) == {"total_hip", "femoral_neck"}
    assert "Lunar" in next(f.text for f in result.findings if f.code == "dxa_scale")
    assert result.t_scores["total_hip"].value == pytest.approx(upright.t_scores["total_hip"].value)
    assert not upright.on_dxa_scale_g_cm2 and "dxa_scale" not in {f.code for f in upright.findings}


def test_an_unknown_scale_is_refused():
    with pytest.raises(InputRefused) as refusal:
        Settings(dxa_scale="norland").check()
    assert refusal.value.reason == "unknown_scale"


@pytest.mark.parametrize("slice_mm", [2.5, 3.27])
def test_slice_thickness_changes_little(upright, slice_mm):
    thick = measured(spacing_mm=(slice_mm, 0.98, 0.98), noise_hu=20.0)
    for region, tolerance in (("total_hip", 0.012), ("femoral_neck", 0.03)):
        assert thick.abmd_g_cm2[region].value == pytest.approx(upright.abmd_g_cm2[region].value, abs=tolerance)
        assert thick.bmc_g[region].value == pytest.approx(upright.bmc_g[region].value, rel=0.01)


@pytest.mark.parametrize("change", [ndimage.binary_erosion, ndimage.binary_dilation])
def test_a_mask_drawn_a_pixel_off_changes_little(upright, change):
    volume, segmentation, _ = femur()
    bone = segmentation.femora[0]
    mask = segmentation.labels == bone.label
    inner = np.stack([change(plane) for plane in mask])
    off = replace(segmentation, labels=np.where(inner, bone.label, 0).astype(np.uint8))
    result = measure_hip(volume, off, bone, exact_calibration(SLOPE))
    for region in ("total_hip", "femoral_neck"):
        assert result.abmd_g_cm2[region].value == pytest.approx(upright.abmd_g_cm2[region].value, rel=0.05)


def test_the_marrow_term_can_be_taken_out_again(upright):
    for region, quantity in upright.abmd_g_cm2.items():
        share = upright.abmd_without_marrow_g_cm2[region] / quantity.value
        assert share == pytest.approx(0.3 / TRUE_G_CM3, abs=0.005)


def test_uncertainty_is_the_quadrature_of_its_components(upright):
    for quantity in upright.abmd_g_cm2.values():
        assert quantity.uncertainty == pytest.approx(np.linalg.norm(list(quantity.components.values())))
        assert {"calibration", "boundary", "marrow", "noise", "bone_edge", "pose", "placement"} == set(
            quantity.components
        )


def test_the_edge_of_the_shadow_is_doubt_about_the_area_and_not_about_the_content(upright):
    for region in HIP_REGIONS:
        areal, content, area = (q[region] for q in (upright.abmd_g_cm2, upright.bmc_g, upright.area_cm2))
        assert "bone_edge" not in content.components and "bone_edge" in area.components
        for quantity in (content, area):
            assert quantity.uncertainty == pytest.approx(np.linalg.norm(list(quantity.components.values())))
        assert content.components["marrow"] == pytest.approx(areal.components["marrow"] * area.value)


def test_a_lower_limit_that_is_not_known_to_a_millimetre_is_doubt_about_area_and_content(upright):
    # 1.5 mm and half a slice of 1.5 mm of a shaft of 14 mm radius: its width times that is the doubt about the area.
    off_cm = np.hypot(1.5, 0.75) / 10
    assert upright.area_cm2["intertrochanter"].components["placement"] > 0.8 * 2.8 * off_cm
    assert upright.area_cm2["total_hip"].components["placement"] < 2.0 * (2.8 + 3.0) * off_cm
    thick = measured(spacing_mm=(5.0, 0.98, 0.98))
    assert thick.area_cm2["total_hip"].uncertainty > 1.3 * upright.area_cm2["total_hip"].uncertainty


def test_what_the_published_error_against_dxa_holds_is_not_counted_twice():
    own = {"calibration": 0.03, "pose": 0.02, "bone_edge": 0.01, "noise": 0.001}
    quantity = Quantity(value=0.8, unit="g/cm2", uncertainty=0.04, method="given", components=own)
    score = _t_score(quantity, "total_hip", "women")
    parts = {name: part * 0.122 for name, part in score.components.items()}
    held = np.linalg.norm([parts[name] for name in ("pose", "bone_edge", "noise", "ct_against_dxa")])
    assert held == pytest.approx(0.044) and parts["calibration"] == pytest.approx(0.03)
    wide = quantity.model_copy(update={"components": own | {"pose": 0.08}})
    assert _t_score(wide, "total_hip", "women").components["ct_against_dxa"] == 0.0


def test_plain_fat_counts_like_bone_without_mineral():
    volume, segmentation, _ = femur()
    hollow = volume.hu.copy()
    inner = np.zeros(volume.shape, bool)
    z, y, x = (n // 2 for n in volume.shape)
    inner[z - 6 : z + 6, y - 4 : y + 4, x - 4 : x + 4] = True
    inner &= segmentation.labels > 0
    hollow[inner] = -90.0
    dry = hollow.copy()
    dry[inner] = MARROW / SLOPE
    bone = segmentation.femora[0]
    results = [
        measure_hip(replace(volume, hu=hu), segmentation, bone, exact_calibration(SLOPE)).bmc_g["total_hip"].value
        for hu in (hollow, dry)
    ]
    assert results[0] == pytest.approx(results[1], rel=0.01)


@pytest.mark.parametrize(("region", "abmd", "t_score"), [("femoral_neck", 0.558, -2.5), ("total_hip", 0.637, -2.5)])
def test_t_score_hits_the_published_cut(region, abmd, t_score):
    quantity = Quantity(value=abmd, unit="g/cm2", uncertainty=0.02, method="given", components={"calibration": 0.02})
    score = _t_score(quantity, region, "women")
    assert score.value == pytest.approx(t_score, abs=0.005)
    sd = 0.12 if region == "femoral_neck" else 0.122
    assert score.uncertainty == pytest.approx(np.linalg.norm([0.02, 0.044, 0.03, 0.067 * abmd]) / sd, rel=1e-6)


def test_class_follows_the_lower_t_score_and_probabilities_sum_to_one():
    result = measured(age_years=70.0, sex="F")
    lower = min(q.value for q in result.t_scores.values())
    expected = "osteoporosis" if lower <= -2.5 else "low bone mass" if lower < -1 else "normal"
    assert result.classification == expected
    assert sum(result.class_probabilities.values()) == pytest.approx(1.0)


def test_probabilities_stand_beside_a_class_whose_interval_holds_a_limit():
    findings: list[Finding] = []
    for value, uncertainty, expected in (
        (-2.0, 0.4, {Severity.WARNING}),
        (-1.8, 0.4, {Severity.INFO}),
        (0.5, 0.4, set()),
    ):
        findings.clear()
        scores = {
            r: Quantity(value=value, unit="1", uncertainty=uncertainty, method="given")
            for r in ("total_hip", "femoral_neck")
        }
        _classify(scores, 70.0, findings)
        assert {f.severity for f in findings if f.code == "class_uncertain"} == expected


def test_the_record_holds_content_area_and_further_scores(upright):
    parts = hip_parts(upright)
    for region in HIP_REGIONS:
        content, area, areal = (getattr(parts[key], region) for key in ("bmc_g", "area_cm2", "abmd_g_cm2"))
        assert content.value == pytest.approx(areal.value * area.value)
        assert (content.unit, area.unit) == ("g", "cm2")
    assert "dxa_scale" not in parts and not parts["male_reference_t_scores"]
    man = hip_parts(measured(sex="M", age_years=65.0, dxa_scale="lunar"))
    assert man["dxa_scale"] == "lunar" and man["dxa_scale_abmd_g_cm2"].trochanter is None
    assert man["dxa_scale_abmd_g_cm2"].total_hip.value > man["abmd_g_cm2"].total_hip.value
    for region, score in man["male_reference_t_scores"].items():
        assert score.value < man["t_scores"][region].value and "unverified" in score.population


def test_below_fifty_years_no_class_is_given():
    result = measured(age_years=40.0)
    assert result.classification is None
    assert "class_withheld_age" in {f.code for f in result.findings}


def recorded(monkeypatch, volume, segmentation):
    """The one femur of a volume as the record holds it, by an exact calibration."""
    monkeypatch.setattr("pipeline.measure.calibrate", lambda *_given, **_options: exact_calibration(SLOPE))
    return measure(volume, segmentation, strength=False).femora[0]


def test_children_have_no_t_score_and_the_record_says_why(monkeypatch):
    child = measured(age_years=14.0, sex="M")
    assert child.abmd_g_cm2 and not child.t_scores and not child.male_reference_t_scores and not child.z_scores
    volume, segmentation, _ = femur()
    volume = replace(volume, acquisition=replace(volume.acquisition, patient_age_years=14.0))
    bone = recorded(monkeypatch, volume, segmentation)
    assert bone.t_score is None and bone.reason_for("t_score").code == "t_score_withheld_age"


def test_male_reference_is_additional_and_marked_unverified():
    result = measured(sex="M", age_years=65.0)
    assert set(result.male_reference_t_scores) == {"total_hip", "femoral_neck"}
    assert all("unverified" in q.method for q in result.male_reference_t_scores.values())
    assert all("women" in q.method for q in result.t_scores.values())
    assert "total_hip" in result.z_scores  # NHANES 2005-2008, men 61 to 70
    assert not measured(sex="F", age_years=65.0).z_scores


def test_hydroxyapatite_scale_gives_no_t_score():
    volume, segmentation, _ = femur()
    result = measure_hip(volume, segmentation, segmentation.femora[0], exact_calibration(mineral="HA"))
    assert not result.t_scores and result.classification is None
    assert "t_score_withheld_mineral" in {f.code for f in result.findings}


def test_short_shaft_keeps_the_neck_and_refuses_the_total():
    result = measured(shaft_mm=52.0)
    assert {"femoral_neck", "trochanter"} <= set(result.abmd_g_cm2)
    assert "total_hip" not in result.abmd_g_cm2
    assert "10 mm are needed" in result.missing["total_hip"]


def test_a_region_that_is_missing_is_missing_in_the_record_with_its_reason(monkeypatch):
    volume, segmentation, _ = femur(shaft_mm=52.0)
    bone = recorded(monkeypatch, volume, segmentation)
    assert bone.abmd_g_cm2.femoral_neck is not None and bone.t_score.region == "femoral_neck"
    for key in ("abmd_g_cm2.total_hip", "bmc_g.total_hip", "area_cm2.intertrochanter"):
        assert "10 mm are needed" in bone.reason_for(key).text
    assert bone.abmd_g_cm2.total_hip is None and bone.bmc_g.total_hip is None


def test_without_a_lesser_trochanter_the_total_is_refused():
    volume, segmentation, _ = femur()
    bone = segmentation.femora[0]
    bone = replace(bone, landmarks=replace(bone.landmarks, lesser_trochanter_lower_edge_lps_mm=None))
    result = measure_hip(volume, segmentation, bone, exact_calibration(SLOPE))
    assert "femoral_neck" in result.abmd_g_cm2 and "total_hip" in result.missing


def test_an_implant_is_refused():
    volume, segmentation, _ = femur()
    hu = volume.hu.copy()
    z, y, x = (n // 2 for n in volume.shape)
    hu[z - 5 : z + 5, y - 3 : y + 3, x - 3 : x + 3] = 3000.0
    with pytest.raises(NotMeasurable) as refusal:
        measure_hip(replace(volume, hu=hu), segmentation, segmentation.femora[0], exact_calibration())
    assert refusal.value.reason == "implant"


def test_compact_bone_at_low_tube_voltage_is_no_implant():
    # At 80 kVp 1 mg/cm3 reads 2.1 HU: 1150 mg/cm3 of compact bone are 2400 HU.
    volume, segmentation, _ = femur()
    hu = volume.hu.copy()
    z, y, x = (n // 2 for n in volume.shape)
    hu[z - 5 : z + 5, y - 3 : y + 3, x - 3 : x + 3] = 2400.0
    hip = measure_hip(replace(volume, hu=hu), segmentation, segmentation.femora[0], exact_calibration(0.475))
    assert "total_hip" in hip.abmd_g_cm2


def test_missing_axes_and_unfit_femora_are_refused():
    volume, segmentation, _ = femur()
    bone = segmentation.femora[0]
    without_axis = replace(bone, landmarks=replace(bone.landmarks, neck_axis_lps=None))
    unfit = replace(bone, fit_for_density=False, findings=(Finding("cut", Severity.WARNING, "The head is cut."),))
    for femur_, reason in ((without_axis, "axes_unknown"), (unfit, "not_fit_for_density")):
        with pytest.raises(NotMeasurable) as refusal:
            measure_hip(volume, segmentation, femur_, exact_calibration())
        assert refusal.value.reason == reason


def test_a_bone_without_soft_tissue_around_it_is_refused():
    volume, segmentation, _ = femur(tissue_hu=-1000.0)
    with pytest.raises(NotMeasurable) as refusal:
        measure_hip(volume, segmentation, segmentation.femora[0], exact_calibration())
    assert refusal.value.reason == "no_soft_tissue"


def test_empty_mask_is_refused():
    volume, segmentation, _ = femur()
    empty = Segmentation(np.zeros(volume.shape, np.uint8), volume.grid, femora=segmentation.femora)
    with pytest.raises(NotMeasurable) as refusal:
        measure_hip(volume, empty, segmentation.femora[0], exact_calibration())
    assert refusal.value.reason == "empty_mask"
