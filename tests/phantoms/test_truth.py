"""Truth of hips and vertebrae, computed a second time in another way."""

import numpy as np
import pytest

from phantoms import make_phantom
from phantoms.materials import Materials
from phantoms.torso import TorsoOptions, build_torso
from phantoms.truth import BELOW_LESSER_TROCHANTER_MM, NECK_BOX_MM, femur_truth, vertebra_truth
from phantoms.voxelise import Lattice, render


@pytest.fixture(scope="module")
def torso():
    return build_torso(TorsoOptions(texture=0.0), 1)


@pytest.fixture(scope="module")
def femora(torso):
    return {
        side: femur_truth(torso.femur, torso.solid(f"femur_{side}"), side, -240.0, seed=1) for side in ("left", "right")
    }


def test_mineral_of_the_hip_on_an_upright_grid_is_the_same(torso, femora):
    """The regions again, as half spaces on a grid that knows nothing of the projection."""
    truth = femora["left"]
    solid = torso.solid("femur_left")
    low, high = solid.box_mm
    grid = Lattice.upright([low[0], low[1], -190.0], [high[0], high[1], -70.0], (1.0, 1.0, 1.0))
    density, _ = render([solid], grid, Materials.mineral_only(), background=None)
    points = grid.to_lps(np.argwhere(density > 0))
    grams = density[density > 0] * 1e-6
    edge = np.array(truth.lesser_trochanter_lower_edge_lps_mm)
    above = (points - edge) @ np.array(truth.shaft_axis_lps) <= BELOW_LESSER_TROCHANTER_MM
    outwards = (points - np.array(truth.neck_centre_lps_mm)) @ np.array(truth.neck_axis_lps) >= -NECK_BOX_MM / 2
    assert grams[above].sum() == pytest.approx(truth.mineral_g, rel=0.01)
    assert grams[above & outwards].sum() == pytest.approx(truth.abmd["total_hip"].mineral_g, rel=0.015)


def test_regions_are_consistent(femora):
    for femur in femora.values():
        for region in femur.abmd.values():
            assert region.abmd_g_cm2 == pytest.approx(region.mineral_g / region.area_cm2, rel=1e-3)
        assert 0.4 < femur.abmd["femoral_neck"].abmd_g_cm2 < 1.1
        assert 0.5 < femur.abmd["total_hip"].abmd_g_cm2 < 1.2
        assert femur.abmd["femoral_neck"].area_cm2 == pytest.approx(femur.neck_width_mm * NECK_BOX_MM / 100, rel=0.06)
        assert 26 < femur.neck_width_mm < 40


def test_both_sides_agree(femora):
    left, right = femora["left"], femora["right"]
    assert left.abmd["total_hip"].abmd_g_cm2 == pytest.approx(right.abmd["total_hip"].abmd_g_cm2, rel=1e-4)
    np.testing.assert_allclose(np.array(left.neck_axis_lps) * (-1, 1, 1), right.neck_axis_lps, atol=1e-6)


@pytest.mark.parametrize(("angle", "anteversion"), [(122.0, 8.0), (136.0, 18.0)])
def test_angles_between_the_stated_axes_are_the_requested_ones(angle, anteversion):
    torso = build_torso(TorsoOptions(neck_shaft_angle_deg=angle, anteversion_deg=anteversion), 0)
    truth = femur_truth(torso.femur, torso.solid("femur_left"), "left", -240.0, seed=0)
    neck, shaft = np.array(truth.neck_axis_lps), np.array(truth.shaft_axis_lps)
    assert np.degrees(np.arccos(-neck @ shaft)) == pytest.approx(angle, abs=0.1)
    # Seen along the shaft, the neck points to the head in front of the frontal plane by the anteversion.
    across = neck - shaft * (neck @ shaft)
    assert np.degrees(np.arcsin(across[1] / np.linalg.norm(across))) == pytest.approx(anteversion, abs=0.2)


def test_density_scale_scales_bone_mineral(torso):
    weak = build_torso(TorsoOptions(texture=0.0, hip_density_scale=0.7), 1)
    strong = build_torso(TorsoOptions(texture=0.0, hip_density_scale=1.0), 1)
    low, high = (
        femur_truth(t.femur, t.solid("femur_left"), "left", -240.0, seed=1).abmd["total_hip"].abmd_g_cm2
        for t in (weak, strong)
    )
    assert 0.62 < low / high < 0.78


def test_lesser_trochanter_is_where_noble_found_it(femora):
    truth = femora["left"]
    below_head = truth.head_centre_lps_mm[2] - truth.lesser_trochanter_lps_mm[2]
    assert 50 < below_head < 70
    assert truth.shaft_below_lesser_trochanter_mm >= 60
    assert truth.lesser_trochanter_lps_mm[0] < truth.lesser_trochanter_lower_edge_lps_mm[0], "on the medial side"
    assert truth.lesser_trochanter_lps_mm[1] > truth.head_centre_lps_mm[1], "and behind"


def test_core_density_of_a_vertebra_without_texture_is_the_one_put_in(torso):
    vertebra = torso.spine.vertebra("L2")
    grid = Lattice.upright([-50, -50, 0], [50, 80, 260], (2, 1, 1))
    truth = vertebra_truth(vertebra, torso.solid("vertebra_L2"), Materials.at(120), grid, seed=1)
    # Within the core, only the tails of subcortical bone and basivertebral vein are felt.
    assert truth.trabecular_mineral_mg_cm3 == pytest.approx(vertebra.core_mg_cm3, rel=0.02)
    points = np.array(truth.points_lps_mm)
    np.testing.assert_allclose(
        np.linalg.norm(points[::2] - points[1::2], axis=1),
        (truth.anterior_mm, truth.middle_mm, truth.posterior_mm),
        atol=1e-3,
    )
    assert truth.complete


def test_a_cut_body_is_not_complete():
    phantom = make_phantom("spine", seed=1)
    box = Lattice.upright([-35, -25, 110], [35, 60, 190], (2.0, 1.5, 1.5))
    truth = phantom.truth(phantom.image(lattice=box, slice_mm=2.0, dose=0))
    complete = {v.level: v.complete for v in truth.vertebrae}
    assert True in complete.values()
    assert False in complete.values()


def test_a_bone_painted_alone_has_the_texture_that_it_has_in_the_body():
    """Else the truth of a core would be that of another bone."""
    torso = build_torso(TorsoOptions(texture=0.3), 5)
    vertebra, solid = torso.spine.vertebra("L2"), torso.solid("vertebra_L2")
    middle = vertebra.place.point(0.0, 0.0, 0.0)
    box = Lattice.upright(middle - 6.0, middle + 6.0, (1.0, 1.0, 1.0))
    whole, alone = (
        render(solids, box, Materials.mineral_only(), background=None, seed=5)[0] for solids in (torso.solids, [solid])
    )
    assert alone.std() > 10.0
    np.testing.assert_allclose(whole, alone, rtol=1e-5)


def test_density_by_age_follows_the_published_decline():
    assert TorsoOptions(age_years=30).spine_density > 140
    assert 90 < TorsoOptions(age_years=66).spine_density < 110
    assert TorsoOptions(age_years=88).spine_density < 75
