"""Rigid platens against assembled matrices with the same constraints, beam theory, and prescribed displacements."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg

from fea import (
    NodalForce,
    Orthotropy,
    Prescribed,
    Reason,
    RigidPlaten,
    SolveError,
    Solver,
    VoxelModel,
    face_nodes,
    solve,
)
from tests.fea.plain_elements import assembled, orthotropic

CUBE = (1.0, 1.0, 1.0)
FREE = (None, None, None)
STILL = (0.0, 0.0, 0.0)


def clamped(model: VoxelModel, axis: int = 0) -> Prescribed:
    return Prescribed("bottom", face_nodes(model, axis, False), z=0.0, y=0.0, x=0.0)


def by_constraints(
    model: VoxelModel,
    stiffness: scipy.sparse.csr_matrix,
    fixed: np.ndarray,
    platens: list[RigidPlaten],
    load: np.ndarray,
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Displacements, motions and resultants of a model clamped where `fixed`, by a direct solution in reduced unknowns.

    u = T q + g: q holds the free nodal components and the free motions of the platens. The turn t of a platen moves
    the arm d by the cross product t x d, written for the order z, y, x.
    """
    count = fixed.size
    numbers = np.arange(count).reshape(fixed.shape)
    taken = fixed.copy()
    given = np.zeros(count)
    columns, rows, entries, free_of = [], [], [], []
    bodies = []
    for platen in platens:
        centre = np.array(platen.centre_mm if platen.centre_mm else platen.nodes.mean(axis=0) * model.spacing_mm)
        body = np.zeros((count, 6))
        for node in platen.nodes:
            z, y, x = node * model.spacing_mm - centre
            taken[tuple(node)] = True
            for motion in range(3):
                body[numbers[(*node, motion)], motion] = 1
                turn_xyz = np.eye(3)[2 - motion]  # about z, y, x
                moved_x, moved_y, moved_z = np.cross(turn_xyz, [x, y, z])
                body[numbers[tuple(node)], 3 + motion] = moved_z, moved_y, moved_x
        bodies.append(body)
        given += body @ platen.prescribed
        for motion in np.flatnonzero(platen.free):
            where = np.flatnonzero(body[:, motion])
            rows.append(where)
            columns.append(np.full(len(where), len(free_of)))
            entries.append(body[where, motion])
            free_of.append((platen, motion))
    inside = np.flatnonzero(~taken.ravel() & (stiffness.diagonal() > 0))
    rows.append(inside)
    columns.append(len(free_of) + np.arange(len(inside)))
    entries.append(np.ones(len(inside)))
    size = len(free_of) + len(inside)
    reduce = scipy.sparse.csr_matrix(
        (np.concatenate(entries), (np.concatenate(rows), np.concatenate(columns))), shape=(count, size)
    )
    right = reduce.T @ (load.ravel() - stiffness @ given)
    for number, (platen, motion) in enumerate(free_of):
        right[number] += platen.loads[motion]
    q = scipy.sparse.linalg.spsolve((reduce.T @ stiffness @ reduce).tocsc(), right)
    u = reduce @ q + given
    force = stiffness @ u - load.ravel()
    motions = {platen.name: platen.prescribed for platen in platens}
    for number, (platen, motion) in enumerate(free_of):
        motions[platen.name][motion] = q[number]
    resultants = {platen.name: body.T @ force for platen, body in zip(platens, bodies, strict=True)}
    return u.reshape(fixed.shape), motions, resultants


PLATENS = {
    "compression, turns and lateral shifts free": {"shift_mm": (-0.1, None, None), "turn_rad": FREE},
    "compression, turns free": {"shift_mm": (-0.1, 0.0, 0.0), "turn_rad": FREE},
    "compression, lateral shifts free": {"shift_mm": (-0.1, None, None), "turn_rad": STILL},
    "tilted, off centre": {"shift_mm": (-0.1, 0.02, None), "turn_rad": (None, 0.01, -0.02), "centre_mm": (30.0, -2, 4)},
    "loaded by a force and a moment": {"force_n": (-3.0, 1.0, 0.0), "moment_nmm": (0.5, -2.0, 7.0)},
    "load off centre": {"force_n": (-3.0, 0, 0), "centre_mm": (12.0, 1.0, 6.0)},
    "all prescribed": {"shift_mm": (-0.1, 0.01, 0.02), "turn_rad": (0.01, 0.02, -0.01)},
}


@pytest.mark.parametrize("case", PLATENS)
def test_platen_equals_the_same_constraints_solved_directly(case):
    rng = np.random.default_rng(3)
    modulus = np.where(rng.random((7, 6, 8)) < 0.9, rng.uniform(5, 50, (7, 6, 8)), 0)
    modulus[:, 2:4, 3:5] = 20
    model = VoxelModel(modulus, (1.2, 0.8, 1.0), 0.3)
    top = RigidPlaten("top", face_nodes(model, 0, True), **PLATENS[case])
    fixed = np.zeros((*model.node_shape, 3), bool)
    fixed[0] = True
    load = np.zeros((*model.node_shape, 3))
    load[3, 3, 4] = 1.0, -2.0, 0.5
    forces = [NodalForce(np.array([[3, 3, 4]]), z=1.0, y=-2.0, x=0.5)]
    stiffness = assembled(model.modulus_mpa, model.spacing_mm, 0.3)
    result = solve(model, [clamped(model)], forces, platens=[top], rtol=1e-12, floating="remove")
    stiffness = assembled(result.model.modulus_mpa, model.spacing_mm, 0.3)
    exact, motions, resultants = by_constraints(model, stiffness, fixed, [top], load)
    scale = np.abs(exact).max()
    np.testing.assert_allclose(result.displacement_mm, exact, atol=1e-7 * scale)
    state = result.platens["top"]
    np.testing.assert_allclose([*state.shift_mm, *state.turn_rad], motions["top"], atol=1e-7 * scale)
    expected = resultants["top"]
    np.testing.assert_allclose([*state.force_n, *state.moment_nmm], expected, atol=1e-7 * np.abs(expected).max())
    np.testing.assert_allclose(result.reaction_n["top"], state.force_n, atol=1e-12 * np.abs(expected).max())
    free = top.free
    np.testing.assert_allclose(expected[free], top.loads[free], atol=1e-9 * np.abs(expected).max())
    assert result.imbalance < 1e-8


@pytest.mark.parametrize("axis", range(3))
def test_every_order_of_axes(axis):
    """A long orthotropic body, gripped at both ends; rows run along its length, whichever axis that is."""
    shape = [6, 7, 5]
    shape[axis] = 30
    constants = (1.0, 0.5, 0.7), (0.3, 0.25, 0.2), (0.25, 0.3, 0.15)
    modulus = np.random.default_rng(axis).uniform(5, 50, shape)
    model = VoxelModel(modulus, (1.1, 0.9, 1.0), orthotropy=Orthotropy.from_constants(*constants))
    low = RigidPlaten("low", face_nodes(model, axis, False), STILL, STILL)
    shift: list[float | None] = [None, None, None]
    shift[axis] = 0.2
    high = RigidPlaten("high", face_nodes(model, axis, True), tuple(shift), FREE, moment_nmm=(1.0, 2.0, 3.0))
    result = solve(model, [], platens=[low, high], rtol=1e-12)
    stiffness = assembled(
        model.modulus_mpa, model.spacing_mm, 0.3, orthotropic(*map(np.array, constants)), np.ones(shape, bool)
    )
    none = np.zeros((*model.node_shape, 3))
    exact, motions, resultants = by_constraints(model, stiffness, none > 0, [low, high], none)
    np.testing.assert_allclose(result.displacement_mm, exact, atol=1e-7 * np.abs(exact).max())
    for name in ("low", "high"):
        state = result.platens[name]
        np.testing.assert_allclose([*state.shift_mm, *state.turn_rad], motions[name], atol=1e-9)
        found = np.array([*state.force_n, *state.moment_nmm])
        np.testing.assert_allclose(found, resultants[name], atol=1e-6 * np.abs(found).max())


def test_two_free_platens_on_one_body():
    """The body is held by a third set; both platens turn and shift as their loads want."""
    model = VoxelModel(np.random.default_rng(1).uniform(5, 50, (8, 9, 10)), CUBE)
    left = RigidPlaten("left", face_nodes(model, 2, False)[20:], force_n=(0.0, 1.0, -2.0))
    right = RigidPlaten("right", face_nodes(model, 2, True)[20:], moment_nmm=(3.0, 0.0, 5.0))
    result = solve(model, [clamped(model)], platens=[left, right], rtol=1e-12)
    fixed = np.zeros((*model.node_shape, 3), bool)
    fixed[0] = True
    stiffness = assembled(model.modulus_mpa, CUBE, 0.3)
    exact, motions, _ = by_constraints(model, stiffness, fixed, [left, right], np.zeros(fixed.shape))
    np.testing.assert_allclose(result.displacement_mm, exact, atol=1e-8 * np.abs(exact).max())
    for name, state in result.platens.items():
        np.testing.assert_allclose([*state.shift_mm, *state.turn_rad], motions[name], atol=1e-8 * np.abs(exact).max())


def test_a_column_under_an_eccentric_load_bends_as_beams_do():
    """Turn M L / (E I), lateral shift M L^2 / (2 E I), shortening F L / (E A); nu = 0 so that plane sections stay plane.

    Trilinear elements are too stiff in bending, by (h/t)^2 for t / h = 12 voxels over the thickness.
    """
    shape, modulus = (48, 12, 8), 1000.0
    model = VoxelModel(np.full(shape, modulus), CUBE, 0.0)
    force, away = -10.0, 2.0
    top = RigidPlaten("top", face_nodes(model, 0, True), force_n=(force, 0, 0), centre_mm=(48.0, 6.0 + away, 4.0))
    state = solve(model, [clamped(model)], platens=[top], rtol=1e-9).platens["top"]
    second_moment, area = 8 * 12**3 / 12, 96
    # a push down at larger y turns the head towards larger y: about x, from y to z is positive
    turn = force * away * 48 / (modulus * second_moment)
    assert state.turn_rad[2] == pytest.approx(turn, rel=0.01)
    # the shift of the axis; the centre lies on the same horizontal plane
    assert state.shift_mm[1] == pytest.approx(-turn * 48 / 2, rel=0.01)
    assert state.shift_mm[0] == pytest.approx(force * 48 / (modulus * area) + turn * away, rel=0.01)
    np.testing.assert_allclose(state.turn_rad[:2], 0, atol=1e-9)
    np.testing.assert_allclose(state.force_n, [force, 0, 0], atol=1e-6)


def test_fully_prescribed_platen_is_the_same_as_prescribed_displacements():
    model = VoxelModel(np.random.default_rng(2).uniform(5, 50, (10, 11, 12)), CUBE)
    nodes = face_nodes(model, 0, True)
    tied = solve(model, [clamped(model)], platens=[RigidPlaten("top", nodes, (-0.1, 0, 0), STILL)])
    plain = solve(model, [clamped(model), Prescribed("top", nodes, -0.1, 0.0, 0.0)])
    assert np.array_equal(tied.displacement_mm, plain.displacement_mm)
    np.testing.assert_allclose(tied.platens["top"].force_n, plain.reaction_n["top"], rtol=1e-12)


def vertebra(scale: int) -> VoxelModel:
    """A waisted, graded cylinder with a soft side."""
    shape = (20 * scale, 24 * scale, 30 * scale)
    z, y, x = ((np.arange(n) + 0.5) / n * 2 - 1 for n in shape)
    radius = 0.85 + 0.15 * z[:, None, None] ** 2
    inside = y[:, None] ** 2 + x**2 < radius**2
    modulus = 100 + 80 * x * np.ones(inside.shape) + 300 * (y[:, None] ** 2 + x**2 > 0.8 * radius**2)
    return VoxelModel(np.where(inside, modulus, 0), (1 / scale,) * 3)


@pytest.mark.parametrize("scale", [1, 2])
def test_a_free_platen_costs_few_more_iterations(scale):
    model = vertebra(scale)
    nodes = face_nodes(model, 0, True)
    counts = []
    for turn, side in ((STILL, 0.0), (FREE, 0.0), (FREE, None)):
        platen = RigidPlaten("top", nodes, (-0.1, side, side), turn)
        counts.append(solve(model, [clamped(model)], platens=[platen]).iterations)
    assert max(counts) <= counts[0] + 2, counts


def test_reactions_of_a_free_platen_have_an_error_of_second_order():
    model = vertebra(1)
    platen = RigidPlaten("top", face_nodes(model, 0, True), (-0.1, None, None), FREE)
    solver = Solver(model, [clamped(model)], platens=[platen])
    exact, coarse = (solver.solve(rtol=rtol).platens["top"].force_n[0] for rtol in (1e-11, 1e-5))
    assert coarse == pytest.approx(exact, rel=1e-8)


def test_threads_change_no_bit():
    model = vertebra(2)
    platen = RigidPlaten("top", face_nodes(model, 0, True), (-0.1, None, None), FREE)
    one, two = (solve(model, [clamped(model)], platens=[platen], threads=n) for n in (1, 2))
    assert np.array_equal(one.displacement_mm, two.displacement_mm)


def test_new_loads_on_the_same_platens_and_a_start_from_a_solution():
    model = vertebra(1)
    nodes = face_nodes(model, 0, True)
    solver = Solver(model, [clamped(model)], platens=[RigidPlaten("top", nodes)])
    pushed, turned = RigidPlaten("top", nodes, force_n=(-5, 0, 0)), RigidPlaten("top", nodes, moment_nmm=(0, 3, 0))
    first, second = solver.solve(platens=[pushed], rtol=1e-9), solver.solve(platens=[turned], rtol=1e-9)
    both = RigidPlaten("top", nodes, force_n=(-5, 0, 0), moment_nmm=(0, 3, 0))
    total = first.displacement_mm + second.displacement_mm
    again = solver.solve(platens=[both], rtol=1e-8, initial=total)
    assert again.iterations <= 4
    np.testing.assert_allclose(again.displacement_mm, total, atol=1e-7 * np.abs(total).max())
    work = again.platens["top"].force_n @ first.platens["top"].shift_mm
    work += again.platens["top"].moment_nmm @ first.platens["top"].turn_rad
    other = first.platens["top"].force_n @ again.platens["top"].shift_mm
    assert work == pytest.approx(other, rel=1e-6)  # Betti


def test_scaled_platens_give_scaled_answers():
    model = vertebra(1)
    platen = RigidPlaten("top", face_nodes(model, 0, True), (-0.1, None, None), FREE, moment_nmm=(0.0, 2.0, 0.0))
    one, two = (solve(model, [clamped(model)], platens=[platen.scaled(f)], rtol=1e-9) for f in (1.0, -2.0))
    np.testing.assert_allclose(two.platens["top"].turn_rad, -2 * one.platens["top"].turn_rad, rtol=1e-6, atol=1e-12)


def refused(words: str, reason: Reason, build) -> None:
    with pytest.raises(SolveError, match=words) as caught:
        build()
    assert caught.value.reason == reason


def test_platens_that_mean_nothing():
    model = VoxelModel(np.full((3, 4, 5), 10.0), CUBE)
    nodes = face_nodes(model, 0, True)
    line = nodes[nodes[:, 1] == 0]
    for words, reason, platens in (
        (
            "both prescribed and loaded",
            Reason.BAD_CONDITION,
            lambda: [RigidPlaten("p", nodes, STILL, force_n=(1, 0, 0))],
        ),
        ("three finite numbers", Reason.BAD_CONDITION, lambda: [RigidPlaten("p", nodes, (np.nan, 0, 0))]),
        ("three finite numbers", Reason.BAD_CONDITION, lambda: [RigidPlaten("p", nodes, moment_nmm=(1.0, 2.0))]),
        ("nodes must be integers", Reason.BAD_CONDITION, lambda: [RigidPlaten("p", nodes * 1.0)]),
        ("no node of the set", Reason.BAD_CONDITION, lambda: [RigidPlaten("p", nodes[:0], STILL, STILL)]),
        ("lies outside", Reason.BAD_CONDITION, lambda: [RigidPlaten("p", nodes + 7, STILL, STILL)]),
        ("'p' turn about x", Reason.UNCONSTRAINED, lambda: [RigidPlaten("p", line, turn_rad=FREE)]),
        ("belong to another", Reason.CONFLICTING_CONDITIONS, lambda: [RigidPlaten(n, nodes, STILL) for n in "pq"]),
    ):
        refused(words, reason, lambda platens=platens: solve(model, [clamped(model)], platens=platens()))
    platen = RigidPlaten("p", np.concatenate([nodes, clamped(model).nodes]), STILL)
    refused(
        "belong to another", Reason.CONFLICTING_CONDITIONS, lambda: solve(model, [clamped(model)], platens=[platen])
    )


def test_other_free_motions_need_another_solver():
    model = VoxelModel(np.full((3, 4, 5), 10.0), CUBE)
    nodes = face_nodes(model, 0, True)
    solver = Solver(model, [clamped(model)], platens=[RigidPlaten("top", nodes, (-0.1, 0, 0), STILL)])
    for other in ([RigidPlaten("top", nodes, (-0.1, 0, 0))], []):
        refused("other components", Reason.BAD_CONDITION, lambda other=other: solver.solve(platens=other))


@pytest.mark.parametrize(
    ("low", "high", "named"),
    [
        ({}, {"shift_mm": STILL, "turn_rad": STILL}, None),
        ({"shift_mm": STILL, "turn_rad": (None, 0.0, 0.0)}, {}, r"'low' turn about z, 'high' .*turn about z"),
        ({"shift_mm": (0.0, None, 0.0), "turn_rad": STILL}, {}, r"'low' shift along y"),
        ({"shift_mm": STILL, "turn_rad": (None, 0.0, 0.0)}, {"shift_mm": (-0.1, None, None), "turn_rad": STILL}, None),
        ({"shift_mm": STILL}, {"shift_mm": (-0.1, None, None), "turn_rad": STILL}, None),
        ({"shift_mm": STILL}, {"shift_mm": (-0.1, None, None)}, r"turn about z.* turn about y.* turn about x"),
        ({"shift_mm": STILL}, {"shift_mm": (-0.1, 0.0, None)}, r"turn about z"),
    ],
)
def test_a_body_held_by_free_platens_only_is_free(low, high, named):
    """Two platens, nothing else: which rigid motion is left follows from what both leave free together."""
    model = VoxelModel(np.full((8, 4, 5), 10.0), (1.0, 2.0, 0.5))
    platens = [
        RigidPlaten("low", face_nodes(model, 0, False), **low),
        RigidPlaten("high", face_nodes(model, 0, True), **high),
    ]
    if named:
        refused(named, Reason.UNCONSTRAINED, lambda: solve(model, [], platens=platens))
    else:
        assert solve(model, [], platens=platens).residual <= 1e-6


def test_a_platen_holds_loose_pieces_that_it_touches():
    """Two columns under one free platen: the second stands on nothing else."""
    modulus = np.zeros((6, 3, 9))
    modulus[:, :, :3] = 10
    modulus[3:, :, 6:] = 10
    model = VoxelModel(modulus, CUBE)
    top = RigidPlaten("top", face_nodes(model, 0, True), force_n=(-1, 0, 0), centre_mm=(6, 1.5, 1.5))
    result = solve(model, [clamped(model)], platens=[top], rtol=1e-9)
    assert result.model.solid.sum() == model.solid.sum()
    moved = result.displacement_mm[3:, 0, 6:]  # rides along without strain
    np.testing.assert_allclose(np.diff(moved[..., 0], axis=0), 0, atol=1e-7)
