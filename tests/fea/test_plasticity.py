"""Elastoplastic states against closed forms, the tangent against differences, and balance of energy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fea import (
    NodalForce,
    Prescribed,
    Reason,
    SolveError,
    Solver,
    VoxelModel,
    YieldMaterial,
    face_nodes,
    nodes_of,
    solve,
    solve_curve,
)
from fea.damage import Softening
from fea.materials import Orthotropy
from fea.newton import Body
from fea.nonlinear import CurveStopped

SPACING = (1.0, 0.7, 1.4)


def bar(stretch: float, shape: tuple[int, int, int] = (1, 1, 1)) -> tuple[VoxelModel, list[Prescribed]]:
    """Uniaxial stress: ends move along z, the sides are free."""
    model = VoxelModel(np.full(shape, 1000.0), SPACING, 0.3)
    return model, [
        Prescribed("bottom", face_nodes(model, 0, False), z=0.0),
        Prescribed("top", face_nodes(model, 0, True), z=stretch * shape[0]),
        Prescribed("y", face_nodes(model, 1, False), y=0.0),
        Prescribed("x", face_nodes(model, 2, False), x=0.0),
    ]


@pytest.mark.parametrize("hardening", [0.0, 0.05])
def test_uniaxial_bar_follows_the_bilinear_law(hardening):
    """E eps up to the yield strain, then the slope E H / (E + H); unloading is elastic."""
    model, supports = bar(1.0)
    strains = np.array([-0.005, -0.0069, -0.0071, -0.01, -0.02, -0.018, 0.0])
    curve = solve_curve(model, supports, YieldMaterial(7.0, hardening), strains, rtol=1e-10)
    area = SPACING[1] * SPACING[2]
    expected = [-5.0, -6.9]
    expected += [-7 - 1000 * hardening / (1 + hardening) * (-e - 0.007) for e in (-0.0071, -0.01, -0.02)]
    expected.append(expected[-1] + 1000 * 0.002)
    np.testing.assert_allclose(curve.reaction_n["top"][1:7, 0], area * np.array(expected), rtol=1e-8)
    # back at zero length the bar is pulled: elastically with H, at the yield stress without
    if hardening == 0:
        assert curve.reaction_n["top"][7, 0] == pytest.approx(7 * area, rel=1e-8)
    np.testing.assert_allclose(curve.reaction_n["top"][1:, 1:], 0, atol=1e-9)
    assert curve.yielded_fraction.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]


def test_plastic_strain_is_what_remains():
    model, supports = bar(-0.02)
    curve = solve_curve(model, supports, YieldMaterial(7.0), [0.5, 1.0], rtol=1e-10)
    assert curve.plastic_strain.item() == pytest.approx(0.02 - 0.007, rel=1e-8)
    assert curve.yielded.all()


@pytest.mark.parametrize("ratio", [0.4, 0.7, 1.0])
def test_drucker_prager_yields_at_both_stresses(ratio):
    model, _ = bar(1.0)
    area = SPACING[1] * SPACING[2]
    law = YieldMaterial(7.0, criterion="drucker_prager", tension_ratio=ratio)
    pushed = solve_curve(*bar(-0.02), law, [0.2, 0.5, 1.0], rtol=1e-9)
    pulled = solve_curve(*bar(0.02), law, [0.1, 0.5, 1.0], rtol=1e-9)
    np.testing.assert_allclose(pushed.reaction_n["top"][2:, 0], -7 * area, rtol=1e-6)
    np.testing.assert_allclose(pulled.reaction_n["top"][2:, 0], 7 * ratio * area, rtol=1e-6)
    assert model.solid.all()


@pytest.mark.parametrize("ratio", [0.4, 0.7])
def test_drucker_prager_hardens_in_tension_by_the_square_of_the_ratio(ratio):
    """sigma = sigma_y + H e in compression, r (sigma_y + H r e) in tension, e the plastic strain of the bar."""
    area, modulus, hardening = SPACING[1] * SPACING[2], 1000.0, 0.05
    law = YieldMaterial(7.0, hardening, "drucker_prager", ratio)
    for sign, strength, slope in ((-1, 7.0, hardening), (1, 7.0 * ratio, hardening * ratio**2)):
        curve = solve_curve(*bar(sign * 0.02), law, [0.1, 0.5, 1.0], rtol=1e-9)
        strain = 0.02 * np.array([0.5, 1.0])
        expected = strength + modulus * slope / (1 + slope) * (strain - strength / modulus)
        np.testing.assert_allclose(sign * curve.reaction_n["top"][2:, 0] / area, expected, rtol=1e-6)


def test_drucker_prager_remembers_only_the_plastic_strain():
    """Push beyond yield, pull beyond yield, push again: elastic between the two yield stresses, whatever went before."""
    area = SPACING[1] * SPACING[2]
    law = YieldMaterial(7.0, criterion="drucker_prager", tension_ratio=0.5)
    strains = np.array([-0.01, -0.006, 0.002, 0.006, 0.0, -0.01])
    curve = solve_curve(*bar(1.0), law, strains, rtol=1e-9)
    expected, stress, before = [], 0.0, 0.0
    for strain in strains:
        stress = float(np.clip(stress + 1000 * (strain - before), -7.0, 3.5))
        before = strain
        expected.append(stress)
    np.testing.assert_allclose(curve.reaction_n["top"][1:, 0] / area, expected, rtol=1e-6, atol=1e-6)
    assert (np.diff(curve.dissipated_nmm) > -1e-9).all()


def test_the_apex_hardens():
    """b p = c (sigma_y + H alpha) with alpha = c / b times the plastic change of volume."""
    model = VoxelModel(np.full((2, 2, 2), 1000.0), (1.0, 1.0, 1.0), 0.3)
    law = YieldMaterial(7.0, 0.1, "drucker_prager", 0.5)
    nodes = nodes_of(model.solid)
    b, c = law.cone()
    bulk, hardening, swelling = 1000 / (3 * 0.4), 100.0, 3 * 0.03
    plastic = (b * bulk * swelling - c * 7) / (b * bulk + c * c * hardening / b)
    surface = Prescribed("all", nodes, *(0.03 * nodes.T.astype(float)))
    top = Prescribed("top", nodes[nodes[:, 0] == 2], z=0.06)
    curve = solve_curve(model, [surface, top], law, [1.0])
    assert curve.reaction_n["top"][1, 0] == pytest.approx(4 * bulk * (swelling - plastic), rel=1e-6)


def test_drucker_prager_apex_limits_hydrostatic_tension():
    """Pulled equally on all sides the stress stops at p = c sigma_y / b; pushed, it never yields."""
    model = VoxelModel(np.full((2, 2, 2), 1000.0), (1.0, 1.0, 1.0), 0.3)
    law = YieldMaterial(7.0, criterion="drucker_prager", tension_ratio=0.5)
    nodes = nodes_of(model.solid)
    b, c = law.cone()
    for sign, expected in ((1, c * 7 / b), (-1, -0.02 * 3 * 1000 / (3 * 0.4))):
        surface = Prescribed("all", nodes, *(sign * 0.02 * nodes.T.astype(float)))
        top = Prescribed("top", nodes[nodes[:, 0] == 2], z=sign * 0.04)
        curve = solve_curve(model, [surface, top], law, [1.0])
        assert curve.reaction_n["top"][1, 0] == pytest.approx(4 * expected, rel=1e-6)


def test_von_mises_ignores_pressure():
    model = VoxelModel(np.full((2, 2, 2), 1000.0), (1.0, 1.0, 1.0), 0.3)
    nodes = nodes_of(model.solid)
    curve = solve_curve(model, [Prescribed("all", nodes, *(-0.05 * nodes.T.astype(float)))], YieldMaterial(1.0), [1.0])
    assert not curve.yielded.any()


def test_pure_shear_yields_at_the_stress_over_root_three():
    model = VoxelModel(np.full((2, 2, 2), 1000.0), (1.0, 1.0, 1.0), 0.3)
    nodes = nodes_of(model.solid)
    sheared = Prescribed("all", nodes, z=0.0, y=0.0, x=0.05 * nodes[:, 0].astype(float))
    top = Prescribed("top", nodes[nodes[:, 0] == 2], x=0.1)
    curve = solve_curve(model, [sheared, top], YieldMaterial(9.0), [1.0])
    assert curve.reaction_n["top"][1, 2] == pytest.approx(4 * 9 / np.sqrt(3), rel=1e-6)


def specimen(seed: int = 0, shape: tuple[int, int, int] = (7, 8, 9)) -> tuple[VoxelModel, list[Prescribed]]:
    rng = np.random.default_rng(seed)
    modulus = rng.uniform(200, 1000, shape)
    modulus[2:5, 3:5, 3:5] = 0
    model = VoxelModel(modulus, (1.0, 0.8, 1.1))
    return model, [
        Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0),
        Prescribed("top", face_nodes(model, 0, True), z=-0.01 * shape[0], y=0.0, x=0.0),
    ]


def test_below_yield_the_curve_is_the_linear_solution():
    model, supports = specimen()
    curve = solve_curve(model, supports, YieldMaterial(np.where(model.solid, 1e6, 0)), [0.5, 1.0], rtol=1e-7)
    linear = solve(model, supports, rtol=1e-8)
    np.testing.assert_allclose(curve.reaction_n["top"][2], linear.reaction_n["top"], rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(curve.displacement_mm, linear.displacement_mm, atol=1e-6)


@pytest.mark.parametrize(
    "law", [YieldMaterial(3.0), YieldMaterial(3.0, 0.1), YieldMaterial(3.0, 0.02, "drucker_prager", 0.6)]
)
def test_tangent_is_the_derivative_of_the_forces(law):
    """Centred differences at a state well past yield, hourglass ratio held (its derivative is left out on purpose)."""
    model = VoxelModel(np.full((1, 1, 6), 1000.0), (1.0, 0.8, 1.1))
    supports = [Prescribed("wall", face_nodes(model, 2, False), 0.0, 0.0, 0.0)]
    body = Body(Solver(model, supports, threads=1), law)
    body.numbers = (*body.numbers[:-1], 0.0)  # without the stiffness that flowing voxels keep for Newton's sake
    level, layout = body.solver.level, body.solver.layout
    points = np.stack(np.meshgrid(*map(np.arange, model.node_shape), indexing="ij"), -1) * np.array(model.spacing_mm)
    rng = np.random.default_rng(1)
    # affine states only: their hourglass modes are zero, so the ratio does not enter
    # under pressure, since the tangent at the apex of the cone is deliberately not zero
    state = layout.field_in(points @ (rng.standard_normal((3, 3)) * 0.01 - 0.02 * np.eye(3)))
    change = layout.field_in(points @ rng.standard_normal((3, 3)))
    forces = [level.zeros(np.float64) for _ in range(3)]
    step = 1e-7
    for sign, force in zip((-1, 1, 0), forces, strict=True):
        body.stresses(state + sign * step * change, force)
    difference = (forces[1] - forces[0]) / (2 * step)
    difference[level.inverse == 0] = 0
    moved = level.zeros()
    moved[:] = change
    body.tangent(moved, body.kp)
    assert (body.law[:, :, 10] > 0).any()
    np.testing.assert_allclose(body.kp, difference, atol=2e-5 * np.abs(difference).max())


LAWS = [
    YieldMaterial(5.0),
    YieldMaterial(5.0, 0.1),
    YieldMaterial(5.0, 0.03, "drucker_prager", 0.6),
    YieldMaterial(5.0, 0.0, "drucker_prager", 0.3, Softening(0.5)),
    YieldMaterial(5.0, softening=Softening(0.2, 0.0)),
]


@pytest.mark.parametrize("law", LAWS)
@settings(max_examples=25, deadline=None)
@given(path=arrays(float, (6, 6), elements=st.floats(-0.03, 0.03)), poisson=st.sampled_from([0.0, 0.3, 0.45]))
def test_no_strain_path_leaves_the_yield_surface_or_gives_energy_back(law, path, poisson):
    """Stress from the nodal forces of one voxel, sigma = sum of f x / V, divided by 1 - damage."""
    model = VoxelModel(np.full((1, 1, 1), 1000.0), (1.0, 0.8, 1.1), poisson)
    body = Body(Solver(model, [Prescribed("wall", face_nodes(model, 2, False), 0.0, 0.0, 0.0)], threads=1), law)
    level, layout = body.solver.level, body.solver.layout
    points = np.stack(np.meshgrid(*map(np.arange, model.node_shape), indexing="ij"), -1) * np.array(model.spacing_mm)
    b, c = law.cone()
    alpha_before = 0.0
    for zz, yy, xx, yx, zx, zy in path:
        gradient = np.array([[zz, zy, zx], [0, yy, yx], [0, 0, xx]])
        u = layout.field_in(points @ gradient.T)
        force = level.zeros(np.float64)
        stored, lost, hourglass_loss = body.stresses(u, force)
        body.commit(u)
        alpha, damage = body.state[0, 0, 6, 0], body.state[0, 0, 7, 0]
        nodal = layout.field_out(force)
        stress = np.einsum("zyxi,zyxj->ij", nodal, points) / np.prod(model.spacing_mm) / (1 - damage)
        np.testing.assert_allclose(stress, stress.T, atol=1e-9 * (1 + np.abs(stress).max()))
        mean = np.trace(stress) / 3
        mises = np.sqrt(1.5) * np.linalg.norm(stress - mean * np.eye(3))
        excess = mises + b * mean - c * (5.0 + law.hardening_ratio * 1000 * alpha)
        assert excess <= 1e-6 * (1 + np.abs(stress).max())
        if alpha > alpha_before + 1e-12:
            assert abs(excess) <= 1e-6 * (1 + np.abs(stress).max())
        assert alpha >= alpha_before - 1e-15
        assert lost >= -1e-12
        assert stored >= 0
        assert abs(hourglass_loss) < 1e-12
        alpha_before = alpha


def test_energy_of_a_bar_is_balanced():
    """Work = stored + dissipated for uniform stress, but for the corner of the curve inside one step."""
    model, supports = bar(-0.02, (2, 3, 2))
    gaps = []
    for steps in (7, 28):
        curve = solve_curve(model, supports, YieldMaterial(7.0), np.linspace(0, 1, steps + 1)[1:], rtol=1e-8)
        work = curve.external_work_nmm
        gaps.append(abs(work - curve.stored_energy_nmm - curve.dissipated_nmm)[-1] / work[-1])
    assert gaps[0] < 0.03
    assert gaps[1] < 0.5 * gaps[0] + 1e-6


def test_energy_is_balanced_to_the_size_of_the_steps():
    """Random moduli, so that the hourglass modes carry much. What they lose by softening is counted, and the gap that is
    left goes with the step: work is taken by the trapezoidal rule, flow at the end of the step."""
    model, supports = specimen()
    law = YieldMaterial(0.006 * model.modulus_mpa.astype(np.float64))
    forces, gaps = [], []
    for steps in (6, 24, 96):
        curve = solve_curve(model, supports, law, np.linspace(0, 2, steps + 1)[1:], rtol=1e-6)
        work = curve.external_work_nmm[-1]
        used = curve.stored_energy_nmm + curve.dissipated_nmm + curve.hourglass_loss_nmm
        gaps.append(abs(work - used[-1]) / work)
        forces.append(curve.reaction_n["top"][-1, 0])
        assert (curve.residual <= 1e-6).all()
        assert (np.diff(curve.dissipated_nmm) >= 0).all()
        np.testing.assert_allclose(curve.reaction_n["top"], -curve.reaction_n["bottom"], atol=1e-4 * abs(forces[-1]))
    assert gaps[0] < 0.02
    assert gaps[1] < 0.4 * gaps[0]
    assert gaps[2] < 0.4 * gaps[1]
    assert 0 < curve.hourglass_loss_nmm[-1] < 0.03 * work
    assert forces[0] == pytest.approx(forces[1], rel=2e-3)


def test_strong_voxels_stay_elastic():
    """Infinite yield stress beside a finite one: cement in bone."""
    model, supports = specimen()
    stress = np.full(model.shape, 2.0)
    stress[:, :, 5:] = np.inf
    curve = solve_curve(model, supports, YieldMaterial(stress), [0.5, 1.0])
    assert curve.yielded[:, :, :5].any()
    assert not curve.yielded[:, :, 5:].any()


@pytest.mark.parametrize("softening", [None, Softening(1.0)])
def test_the_curve_does_not_depend_on_threads(softening):
    model, supports = specimen(1, (40, 50, 52))
    law = YieldMaterial(0.006 * model.modulus_mpa.astype(np.float64), softening=softening)
    one, two = (solve_curve(model, supports, law, [1.0], threads=threads) for threads in (1, 2))
    assert np.array_equal(one.displacement_mm, two.displacement_mm)
    assert np.array_equal(one.plastic_strain, two.plastic_strain)
    assert np.array_equal(one.damage, two.damage)
    assert one.damage.any() == (softening is not None)
    assert one.dissipated_nmm[-1] == two.dissipated_nmm[-1]


def test_a_load_beyond_the_limit_is_refused():
    from fea import NodalForce

    model, supports = bar(0.0, (3, 2, 2))
    supports = [s for s in supports if s.name != "top"]
    top = face_nodes(model, 0, True)
    limit = 7.0 * 4 * SPACING[1] * SPACING[2]
    share = np.full(len(top), limit / 4) * [0.25, 0.5, 0.25, 0.5, 1, 0.5, 0.25, 0.5, 0.25]
    curve = solve_curve(model, supports, YieldMaterial(7.0), [0.9], [NodalForce(top, z=-share)])
    assert curve.reaction_n["bottom"][1, 0] == pytest.approx(0.9 * limit, rel=1e-3)
    with pytest.raises(SolveError) as caught:
        solve_curve(model, supports, YieldMaterial(7.0), [0.9, 1.2], [NodalForce(top, z=-share)], max_newton_steps=8)
    assert caught.value.reason == Reason.STEP_TOO_SMALL
    so_far = caught.value.curve
    assert 0.95 * limit < abs(so_far.reaction_n["bottom"][-1, 0]) < 1.001 * limit
    assert len(so_far.load_factor) == 3


def test_orthotropic_models_and_senseless_factors_are_refused():
    law = Orthotropy.from_constants((1.0, 0.5, 0.5), (0.3, 0.3, 0.3), (0.3, 0.3, 0.2))
    model, supports = specimen()
    turned = VoxelModel(model.modulus_mpa, model.spacing_mm, orthotropy=law)
    with pytest.raises(SolveError) as caught:
        solve_curve(turned, supports, YieldMaterial(3.0), [1.0])
    assert caught.value.reason == Reason.BAD_MATERIAL_LAW
    with pytest.raises(SolveError) as caught:
        solve_curve(model, supports, YieldMaterial(3.0), [0.5, np.nan])
    assert caught.value.reason == Reason.BAD_CONDITION


def test_many_cuts_end_with_a_reason():
    """One Newton step each, which never suffices here: no endless halving."""
    model, supports = specimen()
    with pytest.raises(CurveStopped) as caught:
        solve_curve(model, supports, YieldMaterial(3.0), [2.0], rtol=1e-8, max_newton_steps=1)
    curve = caught.value.curve
    assert caught.value.reason == Reason.STEP_TOO_SMALL
    assert not curve.complete
    assert curve.load_factor[-1] < 2.0


@pytest.mark.parametrize(
    ("shape", "poisson"), [((12, 1, 10), 0.3), ((1, 9, 9), 0.3), ((1, 1, 9), 0.3), ((6, 6, 6), 0.45)]
)
def test_plates_rods_and_high_poisson_ratios_yield_altogether(shape, poisson):
    """Pulled along the longest axis, sides free, far beyond yield: the limit load is yield stress times area."""
    axis = int(np.argmax(shape))
    model = VoxelModel(np.full(shape, 1000.0), (1.0, 1.0, 1.0), poisson)
    letters = "zyx"
    ends = [
        Prescribed(f"end {up}", face_nodes(model, axis, up), **{letters[axis]: 0.05 * shape[axis] * up})
        for up in (0, 1)
    ]
    sides = [
        Prescribed(f"side {other}", face_nodes(model, other, False), **{letters[other]: 0.0})
        for other in range(3)
        if other != axis
    ]
    curve = solve_curve(model, ends + sides, YieldMaterial(7.0), [0.1, 0.5, 1.0], rtol=1e-6)
    assert curve.yielded.all()
    area = np.prod(shape) / shape[axis]
    assert curve.reaction_n["end 1"][-1, axis] == pytest.approx(7 * area, rel=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"yield_stress_mpa": np.nan},
        {"yield_stress_mpa": -1.0},
        {"yield_stress_mpa": 1.0, "hardening_ratio": -0.1},
        {"yield_stress_mpa": 1.0, "criterion": "tresca"},
        {"yield_stress_mpa": 1.0, "criterion": "drucker_prager", "tension_ratio": 1.5},
        {"yield_stress_mpa": 1.0, "tension_ratio": 0.5},
    ],
)
def test_laws_that_mean_nothing(arguments):
    with pytest.raises(SolveError) as caught:
        YieldMaterial(**arguments)
    assert caught.value.reason == Reason.BAD_MATERIAL_LAW


def test_a_solid_voxel_needs_a_yield_stress():
    model, supports = specimen()
    few = np.full(model.shape, 3.0)
    few[0, :3, 0] = 0.0
    for stress in (np.zeros(model.shape), np.ones((2, 2, 2)), few):
        with pytest.raises(SolveError) as caught:
            solve_curve(model, supports, YieldMaterial(stress), [1.0])
        assert caught.value.reason == Reason.BAD_MATERIAL_LAW


@pytest.mark.slow
def test_thick_sphere_collapses_at_the_known_pressure():
    """Perfect plasticity: p = 2 sigma_y ln(b / a). Pressure by the work of a prescribed radial expansion of the inner wall.

    The inner radius is taken as that of a sphere with the volume of the removed voxels; a staircase of 8 voxels per
    radius is worth some per cent.
    """
    cells, outer = 8, 2.0
    h = 1.0 / cells
    n = int(outer * cells)
    centres = (np.arange(n) + 0.5) * h
    r = np.sqrt(centres[:, None, None] ** 2 + centres[:, None] ** 2 + centres**2)
    model = VoxelModel(np.where((r > 1) & (r < outer), 1000.0, 0), (h, h, h), 0.3)
    nodes = nodes_of(model.solid)
    wall = nodes[
        np.isin(
            np.ravel_multi_index(nodes.T, model.node_shape), np.ravel_multi_index(nodes_of(r <= 1).T, model.node_shape)
        )
    ]
    distance = np.linalg.norm(wall * h, axis=1)
    push = wall * h / distance[:, None] ** 3
    conditions = [Prescribed("wall", wall, *(0.03 * push.T))]
    for axis, letter in enumerate("zyx"):
        plane = nodes[(nodes[:, axis] == 0)]
        plane = plane[
            ~np.isin(np.ravel_multi_index(plane.T, model.node_shape), np.ravel_multi_index(wall.T, model.node_shape))
        ]
        conditions.append(Prescribed("symmetry", plane, **{letter: 0.0}))
    curve = solve_curve(model, conditions, YieldMaterial(5.0), np.arange(1, 7) / 6, rtol=1e-4)
    work = np.diff(curve.external_work_nmm) / np.diff(curve.load_factor)
    inner = (6 * h**3 * (r <= 1).sum() / np.pi) ** (1 / 3)
    pressure = work[-1] / (0.03 * np.pi / 2)  # volume swept by u = 0.03 / r^2 over an eighth of a sphere
    assert pressure == pytest.approx(2 * 5.0 * np.log(outer / inner), rel=0.06)


def test_forces_beyond_the_limit_are_not_carried_by_hourglass_stiffness():
    """56 N on a perfectly plastic block that bears 21 N: no equilibrium, and the curve up to there."""
    modulus = np.full((5, 6, 7), 50.0)
    model = VoxelModel(modulus, (1.0, 1.0, 1.0))
    bottom = Prescribed("bottom", face_nodes(model, 0, False), 0.0, 0.0, 0.0)
    push = NodalForce(face_nodes(model, 0, True), z=-1.0)
    with pytest.raises(CurveStopped, match="move apart") as caught:
        solve_curve(model, [bottom], YieldMaterial(modulus * 0.01), [0.2, 1.0], [push])
    assert caught.value.reason == Reason.STEP_TOO_SMALL
    assert caught.value.curve.load_factor.tolist()[:2] == [0.0, 0.2]


def test_a_body_carried_far_by_its_supports_does_not_flow():
    """Both faces shifted by many times the size of a body with voids, and pressed a little: no flow is seen in that."""
    modulus = np.full((5, 6, 7), 50.0)
    modulus[:, :2, :2] = 0
    model = VoxelModel(modulus, (1.0, 1.0, 1.0))
    bottom = Prescribed("bottom", face_nodes(model, 0, False), 100.0, 0.0, 0.0)
    top = Prescribed("top", face_nodes(model, 0, True), 99.9, 0.0, 0.0)
    curve = solve_curve(model, [bottom, top], YieldMaterial(0.5), [1.0])
    near = [Prescribed("bottom", bottom.nodes, 0.0, 0.0, 0.0), Prescribed("top", top.nodes, -0.1, 0.0, 0.0)]
    expected = solve_curve(model, near, YieldMaterial(0.5), [1.0])
    assert curve.reaction_n["top"][-1] == pytest.approx(expected.reaction_n["top"][-1], rel=1e-3, abs=1e-2)


@pytest.mark.parametrize("rtol", [0, -1, 1, np.nan, None, "a"])
def test_tolerances_of_curves_that_are_none(rtol):
    model = VoxelModel(np.ones((2, 2, 2)), (1.0, 1.0, 1.0))
    sides = [Prescribed("bottom", face_nodes(model, 0, False), 0.0, 0.0, 0.0)]
    with pytest.raises(SolveError, match="tolerance"):
        solve_curve(model, sides, YieldMaterial(1.0), [1.0], rtol=rtol)
