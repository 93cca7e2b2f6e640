"""Softening by damage: its closed forms, independence of the voxel size, and curves that stop without being lost."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from fea import NodalForce, Prescribed, Reason, SolveError, VoxelModel, YieldMaterial, face_nodes, nodes_of, solve_curve
from fea.damage import Softening, damage
from fea.nonlinear import CurveStopped

MODULUS, YIELD, LENGTH, POISSON, RESIDUAL = 1000.0, 5.0, 8.0, 0.3, 0.05
SHEAR_MODULUS = MODULUS / (2 * (1 + POISSON))
SHEAR_YIELD = YIELD / np.sqrt(3)


@settings(deadline=None)  # the first example compiles
@given(inelastic=st.floats(0, 60), elastic=st.floats(0, 0.99), residual=st.floats(0, 0.9))
def test_damage_solves_its_equation(inelastic, elastic, residual):
    elastic *= 0.95 / (1 - residual)
    d, slope = damage(inelastic, elastic, residual)
    assert 0 <= d <= 1 - residual + 1e-12
    assert 1 - d == pytest.approx(residual + (1 - residual) * np.exp(-(inelastic + d * elastic)), abs=1e-12)
    step = 1e-6
    assert slope == pytest.approx((damage(inelastic + step, elastic, residual)[0] - d) / step, rel=1e-3, abs=1e-4)


def test_a_bar_follows_the_closed_form_through_failure_and_unloading():
    """One voxel in uniaxial compression: plastic strain = strain - sigma_y / E, the nominal stress (1 - d) sigma_y."""
    model = VoxelModel(np.full((1, 1, 1), MODULUS), (1.0, 0.7, 1.4), POISSON)
    supports = [
        Prescribed("bottom", face_nodes(model, 0, False), z=0.0),
        Prescribed("top", face_nodes(model, 0, True), z=-1.0),
        Prescribed("y", face_nodes(model, 1, False), y=0.0),
        Prescribed("x", face_nodes(model, 2, False), x=0.0),
    ]
    energy = 0.2
    strains = np.array([0.004, 0.006, 0.01, 0.02, 0.04, 0.038])
    law = YieldMaterial(YIELD, softening=Softening(energy, RESIDUAL))
    curve = solve_curve(model, supports, law, strains, rtol=1e-9)
    rate = np.cbrt(0.7 * 1.4) * (1 - RESIDUAL) * YIELD / energy
    expected = [MODULUS * 0.004]
    for strain in strains[1:5]:
        alpha = strain - YIELD / MODULUS
        left = brentq(
            lambda x, a=alpha: x - RESIDUAL - (1 - RESIDUAL) * np.exp(-rate * (a + (1 - x) * YIELD / MODULUS)), 0, 1
        )
        expected.append(left * YIELD)
    expected.append(left * (YIELD - MODULUS * 0.002))  # back with the stiffness that is left
    np.testing.assert_allclose(-curve.reaction_n["top"][1:, 0] / (0.7 * 1.4), expected, rtol=2e-5)
    assert curve.damage.item() == pytest.approx(1 - left, rel=1e-5)


def sheared_column(h: float) -> tuple[VoxelModel, list[Prescribed], np.ndarray]:
    """A column of voxels in simple shear with one weak layer: stress is uniform, so all is known in closed form."""
    shape = (round(LENGTH / h), 2, 2)
    model = VoxelModel(np.full(shape, MODULUS), (h, h, h), POISSON)
    supports = [
        Prescribed("bottom", face_nodes(model, 0, False), x=0.0),
        Prescribed("top", face_nodes(model, 0, True), x=1.0),
        Prescribed("plane", nodes_of(model.solid), y=0.0, z=0.0),
    ]
    strength = np.full(shape, np.inf)
    strength[shape[0] // 2] = YIELD
    return model, supports, strength


def shear_stress(displacement: float, energy: float) -> float:
    """L tau / G plus the slip of the layer, from tau = tau_y (residual + (1 - residual) exp(-slip / (sqrt(3) w_f)))."""
    if displacement <= LENGTH * SHEAR_YIELD / SHEAR_MODULUS:
        return SHEAR_MODULUS * displacement / LENGTH
    width = energy / ((1 - RESIDUAL) * YIELD)

    def too_far(tau: float) -> float:
        slip = -np.sqrt(3) * width * np.log((tau / SHEAR_YIELD - RESIDUAL) / (1 - RESIDUAL))
        return LENGTH * tau / SHEAR_MODULUS + slip - displacement

    return brentq(too_far, SHEAR_YIELD * (RESIDUAL + 1e-12), SHEAR_YIELD)


@pytest.mark.parametrize("regularised", [True, False])
def test_the_curve_does_not_depend_on_the_voxels(regularised):
    """A weak layer at h, h/2, h/4. Without regularisation, the same stress-strain law for each, failure takes ever less."""
    energy = 0.5
    displacements = np.linspace(0.02, 0.5, 13)
    expected = np.array([shear_stress(x, energy) for x in displacements])
    worst, used = [], []
    for h in (1.0, 0.5, 0.25):
        model, supports, strength = sheared_column(h)
        law = YieldMaterial(strength, softening=Softening(energy if regularised else energy * h, RESIDUAL))
        curve = solve_curve(model, supports, law, displacements, rtol=1e-6)
        stress = curve.reaction_n["top"][1:, 2] / (2 * h) ** 2
        worst.append(np.abs(stress - expected).max() / SHEAR_YIELD)
        used.append(curve.dissipated_nmm[-1] / (2 * h) ** 2)
    if regularised:
        assert max(worst) < 0.005
        np.testing.assert_allclose(used, used[0], rtol=0.02)
    else:
        assert worst[1] > 0.15
        assert worst[2] > 0.25
        assert used[2] < 0.6 * used[0]


def test_energy_of_failure_is_balanced():
    model, supports, strength = sheared_column(1.0)
    gaps = []
    for steps in (20, 80):
        law = YieldMaterial(strength, softening=Softening(0.5, RESIDUAL))
        curve = solve_curve(model, supports, law, np.linspace(0, 0.4, steps + 1)[1:], rtol=1e-7)
        work = curve.external_work_nmm
        rest = work - curve.stored_energy_nmm - curve.dissipated_nmm - curve.hourglass_loss_nmm
        gaps.append(np.abs(rest).max() / work[-1])
    assert gaps[0] < 0.02
    assert gaps[1] < 0.5 * gaps[0]


def test_a_body_with_softening_voxels_is_followed_past_its_peak():
    """Random moduli in compression between platens; damage spreads, and never heals."""
    rng = np.random.default_rng(3)
    modulus = rng.uniform(300, 1000, (8, 7, 7))
    model = VoxelModel(modulus, (1.0, 1.0, 1.0))
    supports = [
        Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0),
        Prescribed("top", face_nodes(model, 0, True), z=-0.08, y=0.0, x=0.0),
    ]
    law = YieldMaterial(0.006 * modulus, softening=Softening(0.3, 0.1))
    curve = solve_curve(model, supports, law, np.linspace(0, 5, 21)[1:])
    force = -curve.reaction_n["top"][:, 0]
    assert curve.complete
    assert 0 < force.argmax() < 20
    assert force[-1] < 0.8 * force.max()
    assert (np.diff(curve.dissipated_nmm) >= 0).all()
    assert (curve.damage >= 0).all()
    assert curve.damage.max() <= 0.9 + 1e-9


def test_what_was_found_before_a_failed_step_is_not_lost():
    """A force beyond the strength of a softening layer: the curve up to it is in the error, which survives a process border."""
    model, supports, strength = sheared_column(1.0)
    supports = [s for s in supports if s.name != "top"]
    top = face_nodes(model, 0, True)
    share = np.full(len(top), 1 / 4) * [0.25, 0.5, 0.25, 0.5, 1, 0.5, 0.25, 0.5, 0.25]
    force = NodalForce(top, x=share * SHEAR_YIELD * 4)
    law = YieldMaterial(strength, softening=Softening(0.5, RESIDUAL))
    with pytest.raises(CurveStopped) as caught:
        solve_curve(model, supports, law, [0.5, 0.95, 1.3, 1.4], [force], max_newton_steps=10)
    assert caught.value.reason == Reason.STEP_TOO_SMALL
    for curve in (caught.value.curve, pickle.loads(pickle.dumps(caught.value)).curve):
        assert not curve.complete
        assert curve.load_factor[:3].tolist() == [0, 0.5, 0.95]
        assert 0.95 < curve.load_factor[-1] <= 1.01
        assert curve.reaction_n["bottom"][2, 2] == pytest.approx(-0.95 * 4 * SHEAR_YIELD, rel=1e-3)
        assert curve.cut_backs[-1] > 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"fracture_energy_n_mm": np.nan},
        {"fracture_energy_n_mm": 0.0},
        {"fracture_energy_n_mm": 1.0, "residual_ratio": 1.0},
    ],
)
def test_softening_that_means_nothing(arguments):
    with pytest.raises(SolveError) as caught:
        Softening(**arguments)
    assert caught.value.reason == Reason.BAD_MATERIAL_LAW


def test_voxels_that_would_snap_back_are_refused():
    model, supports, strength = sheared_column(1.0)
    for energy in (0.01, np.ones((2, 2, 2))):
        with pytest.raises(SolveError) as caught:
            solve_curve(model, supports, YieldMaterial(strength, softening=Softening(energy)), [0.1])
        assert caught.value.reason == Reason.BAD_MATERIAL_LAW


def test_infinite_fracture_energy_is_plasticity():
    model, supports, strength = sheared_column(1.0)
    plain = solve_curve(model, supports, YieldMaterial(strength), [0.05, 0.2])
    same = solve_curve(model, supports, YieldMaterial(strength, softening=Softening(np.inf)), [0.05, 0.2])
    np.testing.assert_allclose(same.reaction_n["top"], plain.reaction_n["top"], rtol=1e-9)
    assert not same.damage.any()
