"""The designed ensemble: its design, its moved surfaces, and effects that are known beforehand."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from fea.bone.assembly import TestRefused
from fea.bone.ensemble import MEMBERS, Spread, design, run_ensemble, with_moved_boundary
from fea.bone.evaluate import TestResult, run, run_linear
from fea.bone.femur import build_sideways_fall
from fea.bone.profiles import Criterion, load_profile
from fea.bone.resample import grid_around, resample_bone
from fea.bone.vertebra import build_vertebra
from tests.fea.bone.bones import oval_body, synthetic_femur
from tests.fea.bone.test_femur import known_pose
from tests.fea.bone.test_vertebra import upright

EIGHT = ((0,), (1,), (2,), (3,), (1, 2, 3), (0, 2, 3), (0, 1, 2), (0, 1, 3))


def vertebra(profile: str = "kopperdahl2002", voxel_mm: float = 1.0) -> TestResult:
    bone = oval_body()
    law = load_profile(profile)
    return run(build_vertebra(bone.density, bone.mask, bone.matrix, upright(bone), law, voxel_mm=voxel_mm))


def five_percent(density: np.ndarray) -> np.ndarray:
    return 0.05 * np.abs(density)


def test_the_design_is_balanced_and_mixes_no_effect_with_one_of_two_inputs() -> None:
    levels = design(EIGHT).astype(int)
    assert levels.shape == (MEMBERS, 8) and set(levels.ravel()) == {-1, 1}
    np.testing.assert_array_equal(levels.T @ levels, MEMBERS * np.eye(8))
    for a, b, c in combinations(range(8), 3):
        assert (levels[:, a] * levels[:, b] * levels[:, c]).sum() == 0
    assert len(np.unique(levels[:, :4], axis=0)) == MEMBERS


@pytest.mark.parametrize("shift_mm", [0.3, -0.3, 0.05])
def test_a_moved_surface_adds_its_area_times_the_shift(shift_mm: float) -> None:
    """A ball of radius 14 mm: volume and density as in the larger or smaller ball."""
    matrix = np.array([[0.0, 0, 1, -20], [0, 1, 0, -20], [1, 0, 0, -20], [0, 0, 0, 1]])
    z, y, x = np.indices((41, 41, 41)) - 20.0
    mask = np.sqrt(x**2 + y**2 + z**2) <= 14
    density = np.where(mask, 100 + 2 * z, 0)
    grid = grid_around(np.array([[-18.0] * 3, [18.0] * 3]), np.eye(3)[::-1], 1.0, 1.0)
    ball = resample_bone(density, mask, matrix, grid)
    moved = with_moved_boundary(ball, shift_mm)
    radius = (0.75 * ball.fraction.sum() / np.pi) ** (1 / 3)
    expected = 4 / 3 * np.pi * ((radius + shift_mm) ** 3 - radius**3)
    assert moved.fraction.sum() - ball.fraction.sum() == pytest.approx(expected, rel=0.12)
    assert moved.density_mg_cm3[moved.fraction > 0].min() > 65  # no voxel without density
    assert (moved.density_mg_cm3[moved.fraction == 0] == 0).all()


def test_a_shift_of_a_voxel_is_refused() -> None:
    with pytest.raises(ValueError, match="not below the voxel"):
        with_moved_boundary(vertebra(voxel_mm=2.0).model.bone, 2.0)


def test_effects_that_are_known_beforehand() -> None:
    """Bone at 150 mg/cm3 between cement: density enters by the exponent of the law, less what the springs of cement take."""
    result = vertebra()
    ensemble = run_ensemble(result, Spread(0.0, 0.2, {"calibration": five_percent}))
    denser = replace(result.model.bone, density_mg_cm3=1.05 * result.model.bone.density_mg_cm3)
    assert result.model.variants is not None
    solved = run_linear(result.model.variants.assembled(denser, result.model.profile))
    by_density = solved.stiffness_n_mm / result.stiffness_n_mm - 1
    assert ensemble.stiffness_parts["calibration"] == pytest.approx(by_density, rel=0.03)
    # 6 % of the level against 5 % of the density to the power of 1.05
    expected = by_density * 0.06 / (1.05**1.05 - 1)
    assert ensemble.stiffness_parts["law, level"] == pytest.approx(expected, rel=0.05)
    # all bone has the density about which the exponent turns (0.15 g/cm3)
    assert ensemble.stiffness_parts["law, exponent"] < 1e-3
    assert ensemble.stiffness_parts["pose"] < 5e-4  # the tolerance of the members
    # a surface moved by 0.2 mm widens 44 x 32 mm, which stiffens, and raises 26 mm, which softens
    assert ensemble.stiffness_parts["boundary"] == pytest.approx(0.2 * (2 / 44 + 2 / 32 - 2 / 26), abs=0.004)
    assert ensemble.stiffness_parts["interactions"] < 0.005 and ensemble.stiffness_parts["curvature"] < 0.02
    assert ensemble.range_n[0] < result.strength_n[Criterion.LINEAR_RULE] < ensemble.range_n[1]


def test_the_same_members_for_any_number_of_threads() -> None:
    result = vertebra(voxel_mm=1.5)
    spread = Spread(2.0, 0.2, {"calibration": five_percent})
    one, two = (run_ensemble(result, spread, threads=n) for n in (1, 2))
    np.testing.assert_array_equal(one.strength_n, two.strength_n)
    assert one.strength_parts == two.strength_parts


def test_a_femur_and_a_plastic_criterion_are_varied_by_their_own_criterion() -> None:
    bone, law = synthetic_femur(), load_profile("morgan-neck")
    fall = run(build_sideways_fall(bone.density, bone.mask, bone.matrix, known_pose(), law, voxel_mm=2.0))
    spread = Spread(4.0, 0.2, {"calibration": five_percent, "mineral basis": five_percent})
    parts = run_ensemble(fall, spread).strength_parts
    # Pistoia's force goes with the modulus: strain at a force falls as stiffness rises
    assert parts["calibration"] == pytest.approx(parts["mineral basis"], rel=0.1) and 0.04 < parts["calibration"] < 0.09
    assert 0.02 < parts["pose"] < 0.2
    plastic = vertebra("bct-like", voxel_mm=2.0)
    changed = run_ensemble(plastic, Spread(0.0, 0.2, {"calibration": five_percent})).strength_parts["calibration"]
    # yield stress 24.9 K - 0.75 at 0.15 g/cm3: 5 % of density are 6.3 % of strength
    assert changed == pytest.approx(0.0625, rel=0.1)


def test_a_member_that_fails_takes_the_ensemble_with_it() -> None:
    result = vertebra(voxel_mm=2.0)
    spread = Spread(0.0, 0.1, {"calibration": lambda density: 400 + 0 * density})
    with pytest.raises(TestRefused) as caught:
        run_ensemble(result, spread)
    assert caught.value.code == "density_unphysical"
