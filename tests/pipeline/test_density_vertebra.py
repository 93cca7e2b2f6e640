"""Density of bodies of known density, and the summary of the spine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from scipy.stats import norm

from pipeline.density.body import body_voxels
from pipeline.density.spine import summarise_spine
from pipeline.density.vertebra import image_noise_hu, measure_vertebra
from pipeline.errors import Finding, NotMeasurable, Severity
from reports.quantity import Quantity
from tests.pipeline.analytic_bones import exact_calibration, spine

BODY = (27.0, 26.0, 27.0)
HEIGHTS = {"T12": BODY, "L1": BODY, "L2": BODY}


def measured(volume, segmentation, level="L1", calibration=None, **options):
    vertebra = next(v for v in segmentation.vertebrae if v.level == level)
    return measure_vertebra(volume, segmentation, vertebra, calibration or exact_calibration(), **options)


@pytest.mark.parametrize("spacing_mm", [(1.0, 0.8, 0.8), (3.0, 1.0, 1.0), (5.0, 0.8, 0.8)])
@pytest.mark.parametrize("turned", [(0, 0.0), (0, 15.0), (1, 12.0)])
def test_known_density_is_found_under_a_dense_blurred_cortex(spacing_mm, turned):
    volume, segmentation = spine(
        {"L1": BODY}, spacing_mm=spacing_mm, trabecular_hu=130.0, cortex_hu=500.0, turned=turned
    )
    blurred = ndimage.gaussian_filter(volume.hu, [0.7 / s for s in spacing_mm])
    noisy = blurred + 25.0 * np.random.default_rng(0).standard_normal(volume.shape)
    result = measured(replace(volume, hu=noisy.astype(np.float32)), segmentation)
    assert result.vbmd_mg_cm3.value == pytest.approx(0.75 * 130.0, abs=3.0)
    assert result.trabecular_hu.value == pytest.approx(130.0, abs=4.0)
    assert abs(result.trabecular_hu.value - 130.0) < 3.5 * result.trabecular_hu.uncertainty
    assert result.ellipse_hu.value == pytest.approx(130.0, abs=4.0)
    assert abs(result.roi_difference_mg_cm3) < 4.0


def test_density_is_linear_in_the_calibration_and_carries_its_unit():
    volume, segmentation = spine({"L1": BODY}, trabecular_hu=100.0, noise_hu=10.0)
    first = measured(volume, segmentation, calibration=exact_calibration(0.7, 0.0)).vbmd_mg_cm3
    second = measured(volume, segmentation, calibration=exact_calibration(0.9, 12.0, "HA")).vbmd_mg_cm3
    assert second.value == pytest.approx(first.value / 0.7 * 0.9 + 12.0)
    assert (first.unit, second.unit) == ("mg/cm3 K2HPO4", "mg/cm3 HA")


def test_basivertebral_vein_and_bone_island_do_not_enter():
    volume, segmentation = spine({"L1": BODY}, trabecular_hu=100.0, noise_hu=15.0)
    hu = volume.hu.copy()
    z, y, x = (n // 2 for n in volume.shape)
    hu[z - 3 : z + 3, y + 8 : y + 17, x - 4 : x + 4] = -20.0  # vein entry from behind
    hu[z + 2 : z + 6, y - 6 : y - 2, x + 6 : x + 10] = 900.0  # island
    result = measured(replace(volume, hu=hu), segmentation)
    assert result.trabecular_hu.value == pytest.approx(100.0, abs=3.0)
    assert 0 < result.excluded_share < 0.1


@pytest.mark.parametrize("noise_hu", [8.0, 25.0])
def test_noise_is_that_of_the_image_and_not_of_trabeculae(noise_hu):
    volume, segmentation = spine({"L1": BODY}, trabecular_hu=110.0)
    rng = np.random.default_rng(5)
    grain = ndimage.gaussian_filter(rng.standard_normal(volume.shape), 1.5)
    body = segmentation.labels > 0
    textured = volume.hu + np.where(body, 30.0 * grain / grain.std(), 0.0)
    noisy = replace(volume, hu=(textured + noise_hu * rng.standard_normal(volume.shape)).astype(np.float32))
    voxels = body_voxels(noisy, segmentation, segmentation.vertebrae[0])
    # White noise in 36 voxels: the lowest fifth of its standard deviations lies a tenth below it.
    assert image_noise_hu(noisy, voxels) == pytest.approx(0.9 * noise_hu, rel=0.1)
    part = measured(noisy, segmentation).trabecular_hu.components["noise"]
    region_mm3 = measured(noisy, segmentation).volume_mm3
    assert part == pytest.approx(0.9 * noise_hu * np.sqrt(5.0 / region_mm3), rel=0.15)


def test_noise_without_soft_tissue_near_is_the_spread_inside_the_body():
    volume, segmentation = spine({"L1": BODY}, trabecular_hu=130.0, noise_hu=20.0)
    alone = replace(volume, hu=np.where(segmentation.labels > 0, volume.hu, -900.0).astype(np.float32))
    alone = replace(alone, hu=np.where(segmentation.labels > 0, alone.hu + 60.0, alone.hu).astype(np.float32))
    voxels = body_voxels(alone, segmentation, segmentation.vertebrae[0])
    assert image_noise_hu(alone, voxels) == pytest.approx(20.0, rel=0.05)


def test_uncertainty_components_add_in_quadrature_and_contrast_widens_it():
    volume, segmentation = spine({"L1": BODY}, noise_hu=20.0)
    plain = measured(volume, segmentation)
    enhanced = measured(volume, segmentation, calibration=replace(exact_calibration(), contrast_enhanced=True))
    assert {"noise", "boundary", "exclusion", "calibration"} == set(plain.vbmd_mg_cm3.components)
    for quantity in (plain.vbmd_mg_cm3, enhanced.vbmd_mg_cm3, enhanced.trabecular_hu):
        assert quantity.uncertainty == pytest.approx(np.linalg.norm(list(quantity.components.values())))
    # Never silently corrected: same value, 19 HU (1 SD) more uncertainty.
    assert enhanced.trabecular_hu.value == plain.trabecular_hu.value
    assert enhanced.trabecular_hu.uncertainty == pytest.approx(np.hypot(plain.trabecular_hu.uncertainty, 19.0))


def with_lump(volume, radius_mm, hu, share_of_width=0.25):
    """The block of `spine({"L1": ...})` with a ball of other bone on its left side, blurred as a scanner would."""
    z, y, x = np.indices(volume.shape)
    centre = [(n - 1) / 2 for n in volume.shape]
    away = np.hypot(np.hypot(z - centre[0], y - centre[1] + 2.0), x - centre[2] - share_of_width * 44.0)
    lump = ndimage.gaussian_filter((away < radius_mm).astype(np.float32), 0.7)
    return replace(volume, hu=(volume.hu + hu * lump).astype(np.float32))


@pytest.mark.parametrize(("hu", "radius_mm"), [(120.0, 6.5), (300.0, 6.5), (-90.0, 6.5), (500.0, 5.0)])
def test_a_lump_of_other_bone_is_left_out_place_by_place_and_widens_the_uncertainty(hu, radius_mm):
    volume, segmentation = spine({"L1": BODY}, trabecular_hu=110.0, noise_hu=25.0)
    sound, ill = measured(volume, segmentation), measured(with_lump(volume, radius_mm, hu), segmentation)
    whole = with_lump(volume, radius_mm, hu).hu[tuple(sound.peeled_index.T)].mean()
    # A voxel of the lump is two to five standard deviations of noise away; together they moved the mean three times as far.
    assert abs(ill.trabecular_hu.value - 110.0) < 0.35 * abs(whole - 110.0)
    assert ill.excluded_share > 0.04 > 0.02 > sound.excluded_share
    assert ill.trabecular_hu.components["exclusion"] > 2.0 > 1.0 > sound.trabecular_hu.components["exclusion"]
    assert abs(ill.trabecular_hu.value - 110.0) < 2.0 * ill.trabecular_hu.uncertainty


@pytest.mark.parametrize("hu", [200.0, 400.0, 700.0])
def test_the_rim_of_a_lump_goes_with_it_and_more_contrast_does_not_widen_the_uncertainty_without_end(hu):
    volume, segmentation = spine({"L1": BODY}, trabecular_hu=110.0, noise_hu=25.0)
    result = measured(with_lump(volume, 7.0, hu), segmentation)
    assert result.trabecular_hu.value == pytest.approx(110.0, abs=2.5)
    assert 2.0 < result.trabecular_hu.components["exclusion"] < 12.0


def test_bone_that_differs_from_place_to_place_is_said_to_and_even_bone_is_not():
    volume, segmentation = spine({"L1": BODY}, trabecular_hu=110.0, noise_hu=25.0)
    assert "uneven_bone" not in {f.code for f in measured(volume, segmentation).findings}
    half = volume.hu.copy()
    half[:, :, volume.shape[2] // 2 :] += 90.0
    assert "uneven_bone" in {f.code for f in measured(replace(volume, hu=half), segmentation).findings}


def test_a_rare_place_is_said_where_bone_varies_too_much_for_it_to_be_left_out():
    volume, segmentation = spine({"L1": BODY}, trabecular_hu=110.0)
    grain = ndimage.gaussian_filter(np.random.default_rng(3).standard_normal(volume.shape), 3.0)
    textured = replace(volume, hu=(volume.hu + 18.0 * grain / grain.std()).astype(np.float32))
    assert "uneven_bone" not in {f.code for f in measured(textured, segmentation).findings}
    lytic = measured(with_lump(textured, 7.0, -95.0), segmentation)
    said = [f.text for f in lytic.findings if f.code == "uneven_bone"]
    assert said and "less than its middle" in said[0]
    assert lytic.trabecular_hu.components["exclusion"] > 2.0


def test_an_endplate_that_was_guessed_may_lie_in_either_of_two_slices():
    volume, segmentation = spine({"L1": BODY}, spacing_mm=(5.0, 0.8, 0.8), trabecular_hu=100.0, noise_hu=5.0)
    z = volume.grid.to_lps(np.argwhere(np.ones(volume.shape)))[:, 2].reshape(volume.shape)
    sloped = replace(volume, hu=(volume.hu + 6.0 * np.abs(z - z.mean())).astype(np.float32))
    guessed = segmentation.vertebrae[0].with_findings(Finding("disc_not_visible", Severity.WARNING, "No disc."))
    seen = measured(sloped, segmentation).trabecular_hu.components["boundary"]
    unseen = measured(sloped, replace(segmentation, vertebrae=(guessed,))).trabecular_hu.components["boundary"]
    # Faces move by 2.5 mm instead of 0.74 mm.
    assert unseen > 2.0 * seen


def refused(reason, volume, segmentation, **options):
    with pytest.raises(NotMeasurable) as refusal:
        measured(volume, segmentation, **options)
    assert refusal.value.reason == reason


def test_each_guard_fires():
    volume, segmentation = spine({"L1": BODY})
    body = segmentation.vertebrae[0]
    z, y, x = (n // 2 for n in volume.shape)

    def changed(hu, shape=(5, 6, 6)):
        copy = volume.hu.copy()
        copy[tuple(slice(c - s, c + s) for c, s in zip((z, y, x), shape, strict=True))] = hu
        return replace(volume, hu=copy)

    refused("cut_by_field_of_view", volume, replace(segmentation, vertebrae=(replace(body, complete=False),)))
    bad = body.with_findings(Finding("leak", Severity.FAILURE, "The mask leaks."))
    refused("quality_control", volume, replace(segmentation, vertebrae=(bad,)))
    refused("fractured", volume, segmentation, fracture_grade=2)
    refused("cement_or_metal", changed(1800.0), segmentation)
    refused("padding_in_body", changed(-1000.0), segmentation)
    refused(
        "padding_in_body",
        replace(volume, valid=np.arange(volume.shape[0])[:, None, None] + 0 * volume.hu > z),
        segmentation,
    )
    refused("implausible_density", replace(volume, hu=volume.hu + 400.0), segmentation)
    refused("empty_mask", volume, replace(segmentation, labels=np.zeros_like(segmentation.labels)))
    small, small_segmentation = spine({"L1": (9.0, 9.0, 9.0)})
    refused("too_small", small, small_segmentation)


def test_possible_deformity_is_measured_and_said():
    volume, segmentation = spine({"L1": BODY})
    codes = {f.code for f in measured(volume, segmentation, fracture_grade=1).findings}
    assert "possible_deformity" in codes


# --- summary of the spine -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def template():
    volume, segmentation = spine({"L1": BODY})
    return measured(volume, segmentation, fracture_grade=0)


def bodies(template, **density_by_level):
    made = []
    for level, value in density_by_level.items():
        vbmd = Quantity(
            value=value,
            unit="mg/cm3 K2HPO4",
            uncertainty=8.0,
            method="given",
            components={"noise": 3.0, "calibration": 7.4},
        )
        made.append(replace(template, name=f"vertebra_{level}", level=level, vbmd_mg_cm3=vbmd, findings=()))
    return made


WIDE = replace(exact_calibration(), random_mg_cm3=10.0)


def test_l1_and_l2_are_averaged_and_classed_with_closed_form_probabilities(template):
    summary = summarise_spine(bodies(template, T12=150.0, L1=90.0, L2=80.0, L3=60.0), WIDE, age_years=60.0)
    assert summary.levels == ("L1", "L2")
    assert summary.vbmd_mg_cm3.value == pytest.approx(85.0)
    assert summary.classification == "low bone mass"
    sd = summary.vbmd_mg_cm3.uncertainty
    assert sd == pytest.approx(np.hypot(10.0, 3.0 / np.sqrt(2)))
    assert summary.class_probabilities["osteoporosis"] == pytest.approx(norm.cdf((80 - 85) / sd))
    assert sum(summary.class_probabilities.values()) == pytest.approx(1.0)
    assert "class_uncertain" in {f.code for f in summary.findings}


@pytest.mark.parametrize(
    ("value", "name"), [(80.0, "osteoporosis"), (80.1, "low bone mass"), (119.9, "low bone mass"), (120.0, "normal")]
)
def test_class_boundaries_are_the_published_ones(template, value, name):
    assert summarise_spine(bodies(template, L1=value, L2=value), WIDE, age_years=70.0).classification == name


def test_substitutes_are_stated_and_too_few_levels_give_no_mean(template):
    summary = summarise_spine(bodies(template, T12=90.0, L2=100.0, L4=50.0), WIDE, age_years=70.0)
    assert summary.levels == ("T12", "L2")
    assert "substitute_levels" in {f.code for f in summary.findings}
    alone = summarise_spine(bodies(template, L1=90.0), WIDE)
    assert alone.vbmd_mg_cm3 is None and "too_few_levels" in {f.code for f in alone.findings}


def test_no_class_on_the_hydroxyapatite_scale_nor_for_children(template):
    for calibration, age, code in (
        (replace(WIDE, mineral="HA"), 60.0, "class_withheld_mineral"),
        (WIDE, 12.0, "class_withheld_age"),
    ):
        summary = summarise_spine(bodies(template, L1=70.0, L2=70.0), calibration, age_years=age)
        assert summary.classification is None and not summary.class_probabilities
        assert code in {f.code for f in summary.findings}


@pytest.mark.parametrize(("age", "said"), [(49.0, True), (50.0, False), (None, False)])
def test_a_class_below_fifty_years_is_given_with_a_warning(template, age, said):
    summary = summarise_spine(bodies(template, L1=90.0, L2=90.0), WIDE, age_years=age)
    assert summary.classification == "low bone mass"
    assert ("class_below_50_years" in {f.code for f in summary.findings}) == said


def test_a_density_in_hydroxyapatite_is_told_on_the_scale_of_the_classes_without_one(template):
    summary = summarise_spine(bodies(template, L1=100.0, L2=100.0), replace(WIDE, mineral="HA"), age_years=60.0)
    text = next(f.text for f in summary.findings if f.code == "class_withheld_mineral")
    sd = np.hypot(0.87 * summary.vbmd_mg_cm3.uncertainty, 6.0)
    assert f"about 87 ± {sd:.0f} mg/cm³ K₂HPO₄" in text
    assert f"osteoporosis {100 * norm.cdf((80 - 87) / sd):.0f} %" in text
    assert summary.classification is None


def test_a_level_that_stands_out_is_named(template):
    profile = {"T11": 130.0, "T12": 128.0, "L1": 126.0, "L2": 190.0, "L3": 122.0, "L4": 120.0}
    texts = [
        f.text for f in summarise_spine(bodies(template, **profile), WIDE).findings if f.code == "density_outlier_level"
    ]
    assert len(texts) == 1 and texts[0].startswith("L2")


def with_finding(body, code):
    return replace(body, findings=(*body.findings, Finding(code, Severity.WARNING, "Said.")))


@pytest.mark.parametrize("code", ["possible_deformity", "uneven_bone", "disc_not_visible"])
def test_a_doubtful_body_is_set_aside_as_long_as_two_others_can_stand_for_the_spine(template, code):
    sound = bodies(template, L1=90.0, L3=80.0)
    doubtful = with_finding(bodies(template, L2=140.0)[0], code)
    summary = summarise_spine([*sound, doubtful], WIDE, age_years=70.0)
    assert summary.levels == ("L1", "L3") and summary.vbmd_mg_cm3.value == pytest.approx(85.0)
    assert "L2 shows" in next(f.text for f in summary.findings if f.code == "substitute_levels")
    scarce = summarise_spine([sound[0], doubtful], WIDE, age_years=70.0)
    assert scarce.levels == ("L1", "L2")
    assert "for want of other levels" in next(f.text for f in scarce.findings if f.code == "doubtful_level_in_mean")


def test_a_level_apart_from_the_profile_is_not_averaged(template):
    profile = {"T11": 130.0, "T12": 128.0, "L1": 126.0, "L2": 190.0, "L3": 122.0, "L4": 120.0}
    assert summarise_spine(bodies(template, **profile), WIDE, age_years=70.0).levels == ("T12", "L1")


@pytest.mark.parametrize(
    ("value", "severity"), [(100.0, None), (99.5, "info"), (115.0, "warning"), (79.0, "warning"), (40.0, None)]
)
def test_class_probabilities_are_said_whenever_a_limit_lies_within_the_interval(template, value, severity):
    firm = replace(exact_calibration(), random_mg_cm3=9.97)
    summary = summarise_spine(bodies(template, L1=value, L2=value), firm, age_years=70.0)
    half_width = 1.96 * summary.vbmd_mg_cm3.uncertainty
    said = [f for f in summary.findings if f.code == "class_uncertain"]
    assert bool(said) == (min(abs(value - 80.0), abs(value - 120.0)) <= half_width)
    if severity is not None:
        assert said and (said[0].severity is Severity.WARNING) == (max(summary.class_probabilities.values()) < 0.9)


def test_what_no_interval_states_is_named(template):
    codes = {f.code: f for f in summarise_spine(bodies(template, L1=90.0, L2=90.0), WIDE, age_years=70.0).findings}
    assert "about 11 mg/cm3 too low on average, up to 25" in codes["marrow_fat_unseen"].text
    assert "does not include it" in codes["marrow_fat_unseen"].text
    assert "120 kVp without contrast" in codes["l1_hu_cut_offs"].text


@pytest.mark.parametrize(
    ("hu", "band"),
    [(201, "above_200"), (200, "160_to_200"), (160, "110_to_160"), (110, "100_to_110"), (100, "100_to_110"), (99, "below_100")],
)  # fmt: skip
def test_l1_lies_between_the_published_cut_offs(template, hu, band):
    body = replace(template, ellipse_hu=template.ellipse_hu.model_copy(update={"value": float(hu)}))
    assert summarise_spine([body], WIDE).l1_band == band


def test_without_l1_nothing_is_said_of_it(template):
    summary = summarise_spine(bodies(template, L2=90.0, L3=90.0), WIDE, age_years=70.0)
    assert summary.l1_hu is None and summary.l1_band is None and summary.statements == ()


def test_l1_statement_names_cut_off_and_caveats(template):
    kvp = replace(WIDE, kvp=100.0, contrast_enhanced=True)
    low = replace(template, ellipse_hu=template.ellipse_hu.model_copy(update={"value": 95.0}))
    summary = summarise_spine([low], kvp)
    text = next(f.text for f in summary.findings if f.code == "l1_hu_cut_offs")
    assert "below 100 HU" in text and "100 kVp" in text and "contrast enhanced" in text
    assert "-7 % at 120 kVp" in text  # the mean of a cohort at 100 kVp, 148 HU, is 137 HU at 120 kVp
    assert summary.l1_hu.value == 95.0 and summary.l1_band == "below_100"
    sharp = replace(WIDE, findings=(Finding("sharp_kernel", Severity.WARNING, "Said."),))
    assert "edge-enhancing kernel" in " ".join(summarise_spine([low], sharp).statements)
    assert "not recorded" in " ".join(summarise_spine([low], replace(WIDE, kvp=None)).statements)


def unnamed(template, **bodies_of):
    """Bodies without a level: name to (density, alternatives)."""
    made = bodies(template, **{name: density for name, (density, _) in bodies_of.items()})
    return [replace(b, level=None, level_alternatives=bodies_of[b.name.removeprefix("vertebra_")][1]) for b in made]


ABDOMEN = {
    "u1": (118.0, {"T11": 0.86, "T12": 0.14}),
    "u2": (112.0, {"T12": 0.86, "L1": 0.14}),
    "u3": (100.0, {"L1": 0.86, "L2": 0.14}),
    "u4": (90.0, {"L2": 0.86, "L3": 0.14}),
    "u5": (80.0, {"L3": 0.86, "L4": 0.14}),
}


def test_without_certain_levels_two_bodies_that_are_lumbar_by_any_count_stand_for_the_spine(template):
    summary = summarise_spine(reversed(unnamed(template, **ABDOMEN)), WIDE, age_years=70.0)
    assert summary.levels == ("u3", "u4")
    assert summary.vbmd_mg_cm3.value == pytest.approx(95.0)
    # By the other count L1 and L2 are u2 and u3, 11 mg/cm3 higher, with a probability of 0.14.
    assert summary.vbmd_mg_cm3.components["level"] == pytest.approx(11.0 * np.sqrt(0.14))
    text = next(f.text for f in summary.findings if f.code == "uncertain_levels_in_mean")
    assert "u3: L1 86 % or L2 14 %" in text
    assert summary.classification == "low bone mass"


def test_a_chest_without_certain_levels_is_not_summarised(template):
    chest = {"u1": (118.0, {"T10": 0.3, "T11": 0.3, "T12": 0.4}), "u2": (112.0, {"T11": 0.3, "T12": 0.3, "L1": 0.4})}
    summary = summarise_spine(unnamed(template, **chest), WIDE, age_years=70.0)
    assert summary.vbmd_mg_cm3 is None and "too_few_levels" in {f.code for f in summary.findings}


def test_a_doubtful_body_without_level_is_set_aside_for_another(template):
    first, *others = unnamed(template, **{name: ABDOMEN[name] for name in ("u3", "u2", "u4")})
    summary = summarise_spine([with_finding(first, "uneven_bone"), *others], WIDE, age_years=70.0)
    assert summary.levels == ("u2", "u4")


def test_a_body_without_level_stands_out_from_the_profile_as_well(template):
    apart = ABDOMEN | {"u4": (190.0, ABDOMEN["u4"][1])}
    summary = summarise_spine(unnamed(template, **apart), WIDE, age_years=70.0)
    assert summary.outlier_levels == ("u4",)
    assert summary.levels == ("u2", "u3")


def test_certain_levels_go_before_likely_ones(template):
    named = bodies(template, T12=100.0, L3=90.0)
    summary = summarise_spine([*named, *unnamed(template, **ABDOMEN)], WIDE, age_years=70.0)
    assert summary.levels == ("T12", "L3")
    assert "uncertain_levels_in_mean" not in {f.code for f in summary.findings}
