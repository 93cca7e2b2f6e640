"""What a stranger might do to the solver: the answer is right, or there is a `SolveError`; never a third thing.

Warnings of numpy count as failures (pyproject.toml), so overflow and NaN cannot pass in silence either.
"""

from __future__ import annotations

import numpy as np
import pytest

from fea import NodalForce, Prescribed, Reason, SolveError, VoxelModel, body_force, face_nodes, nodes_of, solve
from tests.fea.plain_elements import assembled
from tests.fea.small_block import (
    CUBE,
    DROP,
    EXPECTED,
    MODULI,
    SHAPE,
    directly,
    platens,
    reaction,
    right_or_refused,
)


def test_the_expected_number_is_that_of_a_direct_solution():
    model = VoxelModel(MODULI, CUBE)
    displacement = directly(model, platens(model))
    forces = (assembled(model.modulus_mpa, CUBE, 0.3) @ displacement.ravel()).reshape(displacement.shape)
    assert forces[-1, ..., 0].sum() == pytest.approx(EXPECTED, rel=1e-9)


# --- arrays of every kind


def strided() -> np.ndarray:
    wide = np.zeros(tuple(2 * n for n in SHAPE))
    wide[::2, ::2, ::2] = MODULI
    return wide[::2, ::2, ::2]


def read_only(dtype: str) -> np.ndarray:
    array = MODULI.astype(dtype)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "moduli",
    [
        *(MODULI.astype(kind) for kind in ("i4", "u1", "i8", "f2", "f4", "longdouble", ">f4", ">f8", ">i2")),
        np.asfortranarray(MODULI),
        strided(),
        MODULI[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
        read_only("f8"),
        read_only("f4"),
        MODULI.tolist(),
    ],
    ids=[
        "i4",
        "u1",
        "i8",
        "f2",
        "f4",
        "long",
        ">f4",
        ">f8",
        ">i2",
        "Fortran",
        "strided",
        "reversed",
        "ro8",
        "ro4",
        "list",
    ],
)
def test_moduli_of_any_kind_are_the_same_moduli(moduli):
    assert reaction(VoxelModel(moduli, CUBE)) == pytest.approx(EXPECTED, rel=1e-9)


@pytest.mark.parametrize("moduli", [MODULI > 50, MODULI.astype(object), MODULI.astype(complex), MODULI.astype(str)])
def test_arrays_that_are_no_moduli(moduli):
    with pytest.raises(SolveError) as caught:
        VoxelModel(moduli, CUBE)
    assert caught.value.reason == Reason.BAD_MODULUS


def test_a_masked_array_is_not_taken_for_a_whole_one():
    masked = np.ma.array(MODULI, mask=MODULI > 50)
    with pytest.raises(SolveError) as caught:
        VoxelModel(masked, CUBE)
    assert caught.value.reason == Reason.BAD_MODULUS


@pytest.mark.parametrize(
    "spacing_and_ratio",
    [
        (None, 0.3),
        (1.0, 0.3),
        (CUBE, None),
        (CUBE, [0.3]),
        (("a", 1, 1), 0.3),
        ((1j, 1, 1), 0.3),
        (CUBE, "a"),
        (CUBE, 1j),
    ],
)
def test_spacings_and_ratios_that_are_none(spacing_and_ratio):
    with pytest.raises(SolveError):
        VoxelModel(MODULI, *spacing_and_ratio)


def test_spacing_and_ratio_of_other_types():
    for spacing, poisson in (
        ((1, 1, 1), 0.3),
        ([1, 1, 1], np.float32(0.3)),
        (np.ones(3, "f4"), np.full(SHAPE, 0.3).tolist()),
    ):
        assert reaction(VoxelModel(MODULI, spacing, poisson)) == pytest.approx(EXPECTED, rel=1e-6)


def test_a_model_does_not_change_with_the_array_it_came_from():
    moduli = MODULI.astype(np.float32)
    model = VoxelModel(moduli, CUBE)
    values = np.full(len(face_nodes(model, 0, True)), -DROP)
    top = Prescribed("top", face_nodes(model, 0, True), z=values)
    moduli[:] = 1
    values[:] = 7
    found = solve(model, [platens(model)[0], top], rtol=1e-9).reaction_n["top"][0]
    assert found == pytest.approx(EXPECTED, rel=1e-9)


# --- conditions


@pytest.mark.parametrize("kind", ["u1", "i2", "u8", ">i4", list])
def test_nodes_of_any_kind(kind):
    model = VoxelModel(MODULI, CUBE)
    bottom, top = (c.nodes.tolist() if kind is list else c.nodes.astype(kind) for c in platens(model))
    sets = [Prescribed("bottom", bottom, 0.0, 0.0, 0.0), Prescribed("top", top, -DROP)]
    assert solve(model, sets, rtol=1e-9).reaction_n["top"][0] == pytest.approx(EXPECTED, rel=1e-9)


@pytest.mark.parametrize(
    "nodes", [[[2**63 + 5, 0, 0]], [[-1, 0, 0]], [[6, 0, 0]], [[True, False, True]], [[0.0, 1.0, 2.0]]]
)
def test_nodes_that_are_none(nodes):
    model = VoxelModel(MODULI, CUBE)
    with pytest.raises(SolveError) as caught:
        solve(model, [*platens(model), Prescribed("odd", np.array(nodes), z=0.0)])
    assert caught.value.reason == Reason.BAD_CONDITION


def test_nodes_named_twice_count_once():
    """Within one set, in two sets of one name, and in two sets of two names (then in each)."""
    model = VoxelModel(MODULI, CUBE)
    bottom, top = platens(model)
    some = top.nodes[:5]
    alone = solve(model, [bottom, top], rtol=1e-10)
    doubled = Prescribed("top", np.concatenate([top.nodes, some]), z=-DROP)
    found = solve(model, [bottom, doubled], rtol=1e-10)
    np.testing.assert_array_equal(found.reaction_n["top"], alone.reaction_n["top"])
    two_names = solve(model, [bottom, top, Prescribed("some", some, z=-DROP)], rtol=1e-10).reaction_n
    np.testing.assert_array_equal(two_names["top"], alone.reaction_n["top"])
    assert 0 < two_names["some"][0] / two_names["top"][0] < 0.5
    one_name = solve(model, [bottom, top, Prescribed("top", some, z=-DROP)], rtol=1e-10).reaction_n
    np.testing.assert_allclose(one_name["top"], alone.reaction_n["top"], rtol=1e-12)


def test_nothing_is_prescribed():
    model = VoxelModel(MODULI, CUBE)
    bottom, top = platens(model)
    for sets in ([], [Prescribed("bottom", bottom.nodes)], [bottom, Prescribed("none", np.empty((0, 3), int), z=1.0)]):
        with pytest.raises(SolveError):
            solve(model, sets)
    still = solve(model, [bottom], [NodalForce(top.nodes, z=0.0), NodalForce(np.empty((0, 3), int), x=1.0)])
    assert still.iterations == 0
    assert not still.displacement_mm.any()


@pytest.mark.parametrize("force", [np.nan, np.inf, [np.nan, 0.0, 0.0], np.zeros((2, 3)), np.zeros(4), "up"])
def test_body_forces_that_are_none(force):
    model = VoxelModel(MODULI, CUBE)
    with pytest.raises(SolveError) as caught:
        solve(model, platens(model), [body_force(model, force)])
    assert caught.value.reason == Reason.BAD_CONDITION


def test_conditions_inside_the_body():
    model = VoxelModel(MODULI, (1.0, 0.8, 1.2))
    inner = np.array([[k, j, i] for k in (2, 3) for j in (2, 3) for i in (2, 3, 4)])
    sets = [*platens(model), Prescribed("inner", inner, z=0.05, x=0.01)]
    expected = directly(model, sets)
    found = solve(model, sets, rtol=1e-11).displacement_mm
    assert np.abs(found - expected).max() < 1e-9 * np.abs(expected).max()


def test_two_bodies_side_by_side():
    moduli = np.zeros((5, 6, 14))
    moduli[..., :6] = moduli[..., 8:] = MODULI[..., :6]
    assert reaction(VoxelModel(moduli, CUBE)) == pytest.approx(
        2 * reaction(VoxelModel(MODULI[..., :6], CUBE)), rel=1e-8
    )


def test_all_nodes_are_held_and_loaded():
    """Nothing is free: no iteration, and the reactions balance the forces."""
    model = VoxelModel(MODULI, CUBE)
    nodes = nodes_of(model.solid)
    result = solve(model, [Prescribed("all", nodes, 0.0, 0.0, 0.0)], [NodalForce(nodes, z=1.0)])
    assert result.iterations == 0
    np.testing.assert_allclose(result.reaction_n["all"], [-len(nodes), 0, 0], atol=1e-9)


# --- options


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_start_that_is_not_finite(value):
    model = VoxelModel(MODULI, CUBE)
    initial = np.zeros((*model.node_shape, 3))
    initial[2, 3, 4, 1] = value
    right_or_refused(lambda: reaction(model, initial=initial), EXPECTED)


@pytest.mark.parametrize(
    "shape",
    [
        (2, 2, 2, 3),
        (20, 20, 20, 3),
        (3, 6, 7, 8),
        (5,),
        (6, 7, 8, 4),
        (7, 7, 8, 3),
        (6, 7, 8),
    ],
)
def test_a_start_of_another_shape(shape):
    with pytest.raises(SolveError):
        reaction(VoxelModel(MODULI, CUBE), initial=np.zeros(shape))


@pytest.mark.parametrize("size", [1e-3, 1e10, 1e30, 1e200])
def test_a_start_that_is_far_off(size):
    model = VoxelModel(MODULI, CUBE)
    initial = size * np.random.default_rng(0).standard_normal((*model.node_shape, 3))
    right_or_refused(lambda: reaction(model, initial=initial), EXPECTED)


@pytest.mark.parametrize("rtol", [0, -1, np.nan, np.inf, 1.0, 2.0, True, "tight", None])
def test_tolerances_that_are_none(rtol):
    model = VoxelModel(MODULI, CUBE)
    with pytest.raises(SolveError) as caught:
        solve(model, platens(model), rtol=rtol)
    assert caught.value.reason == Reason.BAD_CONDITION


@pytest.mark.parametrize("threads", [0, -1, 1, 3, 64, 1000])
def test_any_number_of_threads(threads):
    try:
        assert reaction(VoxelModel(MODULI, CUBE), threads=threads) == pytest.approx(EXPECTED, rel=1e-9)
    except SolveError:
        assert threads < 1
