"""Marrow: what fat does to the CT number at equal mineral, and that the truth of both regions says so."""

import numpy as np
import pytest
from scipy import ndimage

from phantoms import Fracture, make_phantom
from phantoms.marrow import draw_marrow, fat_share, marrow, usual_fat
from phantoms.materials import Materials
from phantoms.regions import peeled_body
from phantoms.torso import TorsoOptions, build_torso
from phantoms.truth import vertebra_truth
from phantoms.vertebral_body import ALL_LEVELS
from phantoms.voxelise import Lattice, render

LUMBAR = ("L1", "L2", "L3", "L4", "L5")


def person(**changes):
    options = {"sex": "F", "age_years": 70, "mean": None, "spread": 0.07, "seed": 1} | changes
    return draw_marrow(LUMBAR, ALL_LEVELS, **options)


def test_women_overtake_men_in_the_fat_of_their_marrow_at_about_sixty():
    assert usual_fat("F", 25) < usual_fat("M", 25)
    assert usual_fat("F", 75) > usual_fat("M", 75) + 0.05
    for sex in "FM":
        assert np.all(np.diff([usual_fat(sex, age) for age in range(25, 86, 5)]) >= 0)


def test_marrow_differs_between_people_and_hardly_between_levels_and_rises_downwards():
    people = [person(seed=seed).vertebrae for seed in range(400)]
    assert np.std([p["L3"] for p in people]) == pytest.approx(0.07, abs=0.01)
    assert np.mean([p["L3"] for p in people]) == pytest.approx(usual_fat("F", 70), abs=0.01)
    assert np.mean([p["L5"] - p["L1"] for p in people]) == pytest.approx(0.06, abs=0.01)
    assert person(spread=0.0, mean=0.4).vertebrae["L3"] == 0.4


def test_hips_are_fattier_than_spines_and_least_so_below_the_neck():
    for sex in "FM":
        mine = person(sex=sex, spread=0.0)
        assert max(mine.vertebrae.values()) < mine.femur_middle < mine.femur_ends
    assert person(sex="M").femur_middle > person(sex="F").femur_middle


def test_the_levels_asked_for_do_not_change_the_marrow_of_a_level():
    all_of_them = draw_marrow(ALL_LEVELS, ALL_LEVELS, sex="F", age_years=70, mean=None, spread=0.07, seed=1)
    assert all_of_them.vertebrae["L3"] == person().vertebrae["L3"]


def test_fat_moves_the_ct_number_between_that_of_muscle_and_that_of_fat():
    at = Materials.at(120)
    assert at.hu(marrow(1.0)) == pytest.approx(at.hu("fat"), abs=0.5)
    assert at.hu(marrow(0.0)) == pytest.approx(45, abs=12)
    assert at.hu(marrow(0.6)) - at.hu(marrow(0.5)) == pytest.approx(-15, abs=2)
    assert fat_share(marrow(0.37)) == pytest.approx(0.37, abs=1e-3)
    with pytest.raises(ValueError, match="marrow fat"):
        marrow(1.2)
    with pytest.raises(ValueError, match="marrow_fat"):
        make_phantom("torso", marrow_fat=0.99)


def of_l2(materials, **options):
    torso = build_torso(TorsoOptions(texture=0.0, variation=0.0, marrow_spread=0.0, **options), 1)
    vertebra, solid = torso.spine.vertebra("L2"), torso.solid("vertebra_L2")
    grid = Lattice.upright([-50, -50, 0], [50, 80, 260], (2, 1, 1))
    return vertebra, solid, vertebra_truth(vertebra, solid, materials, grid, seed=1)


def test_more_fat_reads_less_at_the_same_mineral():
    lean, fatty = (of_l2(Materials.at(120), marrow_fat=share)[2] for share in (0.35, 0.65))
    assert lean.trabecular_mineral_mg_cm3 == pytest.approx(fatty.trabecular_mineral_mg_cm3)
    assert lean.peeled_mineral_mg_cm3 == pytest.approx(fatty.peeled_mineral_mg_cm3)
    for name in ("trabecular", "peeled"):
        # Marrow fills what bone tissue, with its 1.15 g/cm3 of mineral, leaves; each tenth of fat in it takes 15 HU.
        filled = 1 - getattr(lean, f"{name}_mineral_mg_cm3") / 1150.0
        difference_hu = getattr(lean, f"{name}_hu") - getattr(fatty, f"{name}_hu")
        assert difference_hu == pytest.approx(3 * 15.0 * filled, abs=2)


def test_the_peeled_body_is_the_rendered_body_worn_away_from_all_sides():
    """By distance transforms of the painted label map, which know nothing of the formula of the body."""
    vertebra, solid, truth = of_l2(Materials.at(120))
    low, high = vertebra.place.origin_mm - 36.0, vertebra.place.origin_mm + 36.0
    grid = Lattice.upright(low, high, (0.6, 0.6, 0.6))
    density, labels = render([solid], grid, Materials.mineral_only(), background=None)
    body = labels == solid.label
    own = (grid.to_lps(np.indices(grid.shape).reshape(3, -1).T) - vertebra.place.origin_mm) @ vertebra.place.axes.T
    shape = vertebra.shape
    middle = 0.5 * (shape.upper[0] + shape.upper[2] + shape.lower[0] + shape.lower[2])
    mine = peeled_body(vertebra, solid, own, middle).reshape(grid.shape)
    depth = ndimage.distance_transform_edt(body, sampling=0.6)
    assert depth[mine].min() > 3.4, "nothing nearer than 4 mm, but for the steps of the voxels"
    behind = own[:, 1].reshape(grid.shape) + shape.half_depth
    inside = (depth > 5.6) & (behind < 0.6 * (2 * shape.half_depth - shape.hollow))
    assert mine[inside].mean() > 0.98, "what lies deep enough and in front of the vein belongs to it"
    assert density[mine].mean() == pytest.approx(truth.peeled_mineral_mg_cm3, rel=0.01)
    assert truth.peeled_mineral_mg_cm3 > truth.trabecular_mineral_mg_cm3, "bone next to the shell is denser"


def test_contrast_agent_in_marrow_is_in_the_ct_number_and_not_in_the_density():
    plain, enhanced = make_phantom("spine", seed=1), make_phantom("spine", seed=1, contrast="venous")
    without, with_agent = (of_l2(p.materials(120.0))[2] for p in (plain, enhanced))
    matrix = of_l2(plain.materials(120.0))[1].matrix
    assert with_agent.peeled_density_mg_cm3 == pytest.approx(without.peeled_density_mg_cm3)
    phantom_matrix = next(s.matrix for s in enhanced.solids if s.name == "vertebra_L2")
    gain = enhanced.materials(120).hu(phantom_matrix) - plain.materials(120).hu(phantom_matrix)
    assert gain == pytest.approx(20.0 * 2 * (1 - fat_share(phantom_matrix)), rel=0.01)
    assert 8 < gain < 30
    assert fat_share(matrix) == pytest.approx(usual_fat("F", 66) - 0.015, abs=0.002)


def test_a_body_crushed_flat_has_no_peeled_region():
    torso = build_torso(TorsoOptions(fractures={"L2": Fracture("crush", 0.68)}), 1)
    grid = Lattice.upright([-50, -50, 0], [50, 80, 260], (2, 1, 1))
    truth = vertebra_truth(torso.spine.vertebra("L2"), torso.solid("vertebra_L2"), Materials.at(120), grid, seed=1)
    assert truth.peeled_mineral_mg_cm3 is None
    assert truth.trabecular_mineral_mg_cm3 > 0
