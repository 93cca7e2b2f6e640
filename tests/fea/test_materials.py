"""Orthotropic voxels against assembled matrices, closed forms and the isotropic law they contain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fea
from fea import NodalForce, Orthotropy, Prescribed, Reason, SolveError, VoxelModel, face_nodes, solve
from fea.element import bound_of
from fea.post import element_fields
from tests.fea.plain_elements import assembled, direct_solution, orthotropic
from tests.fea.test_operator import forces_of, level_of

BONE = {"modulus_ratio": (1.0, 0.5, 0.7), "poisson": (0.3, 0.25, 0.2), "shear_ratio": (0.25, 0.3, 0.15)}
CUBE = (1.0, 1.0, 1.0)


def tensor() -> np.ndarray:
    return orthotropic(*(np.array(three) for three in BONE.values()))


def random_bone(seed: int, shape: tuple[int, int, int], solid: float, cement: bool) -> VoxelModel:
    rng = np.random.default_rng(seed)
    modulus = np.where(rng.random(shape) < solid, rng.uniform(0.1, 10, shape), 0).astype(np.float32)
    modulus.flat[rng.integers(modulus.size)] = 1
    mask = rng.random(shape) < 0.4 if cement else None
    return VoxelModel(modulus, tuple(rng.uniform(0.3, 2, 3)), 0.35, Orthotropy.from_constants(**BONE, isotropic=mask))


def plain(model: VoxelModel) -> object:
    """The model's stiffness by the textbook."""
    law = model.orthotropy
    if law is None:
        return assembled(model.modulus_mpa, model.spacing_mm, model.poisson)
    follows = np.ones(model.shape, bool) if law.isotropic is None else ~law.isotropic
    return assembled(model.modulus_mpa, model.spacing_mm, model.poisson, tensor(), follows)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shape=st.permutations([1, 6, 17]).map(tuple) | st.tuples(*[st.integers(1, 7)] * 3),
    solid=st.sampled_from([0.1, 0.5, 1.0]),
    cement=st.booleans(),
)
def test_operator_equals_the_assembled_matrix(seed, shape, solid, cement):
    """Any box, voids and voxel proportions, with and without isotropic voxels among the others.

    Long boxes are laid with rows along their longest side, whichever it is, so the constants are permuted in every way.
    """
    model = random_bone(seed, shape, solid, cement)
    displacement = np.random.default_rng(seed + 1).standard_normal((*model.node_shape, 3))
    expected = (plain(model) @ displacement.ravel()).reshape(displacement.shape)
    np.testing.assert_allclose(forces_of(model, displacement), expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("shape", "order"), [((7, 9, 40), (0, 1, 2)), ((7, 40, 9), (0, 2, 1)), ((40, 9, 7), (1, 2, 0))]
)
@pytest.mark.parametrize("cement", [False, True])
def test_solution_equals_the_direct_one_in_every_order_of_axes(shape, order, cement):
    rng = np.random.default_rng(5)
    mask = np.zeros(shape, bool)
    mask[:2] = cement
    law = Orthotropy.from_constants(**BONE, isotropic=mask)
    model = VoxelModel(rng.uniform(5, 50, shape), (1.2, 0.8, 1.0), 0.35, law)
    assert level_of(model)[1].order == order
    sets = [
        Prescribed("low", face_nodes(model, 1, False), z=0.0, y=0.0, x=0.0),
        Prescribed("high", face_nodes(model, 1, True), z=0.1, y=-0.05),
    ]
    fixed, values = np.zeros((*model.node_shape, 3), bool), np.zeros((*model.node_shape, 3))
    fixed[:, 0], fixed[:, -1, :, :2], values[:, -1, :, :2] = True, True, (0.1, -0.05)
    load = np.zeros_like(values)
    load[3, 4, 5] = 1, 2, 3
    stiffness = plain(model)
    exact = direct_solution(stiffness, fixed, values, load)
    result = solve(model, sets, [NodalForce(np.array([[3, 4, 5]]), z=1.0, y=2.0, x=3.0)], rtol=1e-11)
    np.testing.assert_allclose(result.displacement_mm, exact, atol=1e-8)
    held = ((stiffness @ exact.ravel()).reshape(exact.shape) - load)[:, -1].sum(axis=(0, 1))
    np.testing.assert_allclose(result.reaction_n["high"][:2], held[:2], rtol=1e-7)
    assert result.iterations < 30


@pytest.mark.parametrize("axis", range(3))
def test_a_free_bar_shows_its_engineering_constants(axis):
    """Pulled along each axis: modulus, and contraction along both others by nu_st."""
    model = VoxelModel(np.full((4, 5, 6), 100.0), (1.1, 0.9, 1.0), orthotropy=Orthotropy.from_constants(**BONE))
    along = "zyx"[axis]
    rest = [Prescribed(f"side {a}", face_nodes(model, a, False), **{"zyx"[a]: 0.0}) for a in range(3)]
    length = np.array(model.shape) * model.spacing_mm
    pulled = Prescribed("pulled", face_nodes(model, axis, True), **{along: 0.01 * length[axis]})
    result = solve(model, [*rest, pulled], rtol=1e-10)
    area = np.prod(length) / length[axis]
    e = np.array(BONE["modulus_ratio"])
    assert result.reaction_n["pulled"][axis] == pytest.approx(0.01 * 100 * e[axis] * area, rel=1e-7)
    nu_zy, nu_zx, nu_yx = BONE["poisson"]
    table = {(0, 1): nu_zy, (0, 2): nu_zx, (1, 2): nu_yx}
    corner = result.displacement_mm[-1, -1, -1]
    for other in {0, 1, 2} - {axis}:
        nu = table.get((axis, other)) or table[other, axis] * e[axis] / e[other]
        assert corner[other] / length[other] == pytest.approx(-0.01 * nu, rel=1e-6)


@pytest.mark.parametrize("plane", [(0, 1), (0, 2), (1, 2)])
def test_simple_shear_shows_each_shear_modulus(plane):
    """A linear displacement on the whole surface: the mean stress is G gamma, exactly."""
    model = VoxelModel(np.full((4, 4, 4), 10.0), (1.0, 0.7, 1.3), orthotropy=Orthotropy.from_constants(**BONE))
    s, t = plane
    points = np.argwhere(np.ones(model.node_shape, bool))
    surface = points[((points == 0) | (points == 4)).any(axis=1)]
    values = np.zeros((len(surface), 3))
    values[:, s] = 0.01 * surface[:, t] * model.spacing_mm[t]
    result = solve(model, [Prescribed("all", surface, *values.T)])
    stress = element_fields(model, result.displacement_mm).stress_mpa
    expected = np.zeros(6)
    expected[5 - [(0, 1), (0, 2), (1, 2)].index(plane)] = (
        0.01 * 10 * BONE["shear_ratio"][[(0, 1), (0, 2), (1, 2)].index(plane)]
    )
    np.testing.assert_allclose(stress, np.broadcast_to(expected, stress.shape), atol=1e-9)


def test_bone_and_cement_in_series_and_in_parallel():
    """Without Poisson's effect layers of orthotropic bone (E_z = 100) and isotropic cement (300) are springs."""
    modulus = np.full((6, 4, 4), 100.0)
    modulus[:3] = 300
    law = Orthotropy.from_constants((1.0, 0.4, 0.6), (0.0, 0.0, 0.0), (0.3, 0.2, 0.1), isotropic=modulus == 300)
    for axis, expected in ((0, 16 * 0.06 / (3 / 300 + 3 / 100)), (1, 24 * 0.01 * (300 + 0.4 * 100) / 2)):
        model = VoxelModel(modulus, CUBE, 0.0, law)
        sets = [Prescribed(f"side {a}", face_nodes(model, a, False), **{"zyx"[a]: 0.0}) for a in range(3)]
        sets.append(Prescribed("pulled", face_nodes(model, axis, True), **{"zyx"[axis]: 0.01 * modulus.shape[axis]}))
        assert solve(model, sets, rtol=1e-10).reaction_n["pulled"][axis] == pytest.approx(expected, rel=1e-7)


def test_an_isotropic_law_given_as_an_orthotropic_one_changes_nothing():
    nu, shape = 0.3, (9, 10, 11)
    modulus = np.random.default_rng(2).uniform(1, 10, shape)
    law = Orthotropy.from_constants((1, 1, 1), (nu, nu, nu), (1 / (2 + 2 * nu),) * 3)
    results = []
    for model in (VoxelModel(modulus, (1.0, 1.2, 0.9), nu), VoxelModel(modulus, (1.0, 1.2, 0.9), orthotropy=law)):
        sets = [
            Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0),
            Prescribed("top", face_nodes(model, 0, True), z=-0.1),
        ]
        results.append(solve(model, sets, rtol=1e-10))
    np.testing.assert_allclose(results[0].displacement_mm, results[1].displacement_mm, atol=1e-10)
    assert results[0].iterations == results[1].iterations


def test_energy_of_the_voxels_is_the_work_of_the_load():
    model = random_bone(1, (5, 6, 7), 1.0, True)
    top = Prescribed("top", face_nodes(model, 0, True), z=-0.2)
    bottom = Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0)
    result = solve(model, [bottom, top], rtol=1e-10)
    energy = element_fields(model, result.displacement_mm).energy_density_mpa.sum() * np.prod(model.spacing_mm)
    assert energy == pytest.approx(-0.2 * result.reaction_n["top"][0] / 2, rel=1e-8)


def test_spectral_bound_holds_for_assembled_matrices():
    model = random_bone(3, (3, 4, 4), 0.8, True)
    matrix = plain(model).toarray()
    used = np.diag(matrix) > 0
    matrix = matrix[used][:, used]
    root = 1 / np.sqrt(np.diag(matrix))
    highest = np.linalg.eigvalsh(root[:, None] * matrix * root)[-1]
    level, _ = level_of(model)
    assert 0.6 * level.elasticity.bound(level.spacing_mm) < highest <= level.elasticity.bound(level.spacing_mm)
    assert bound_of((2.0, 2.0, 2.0), (np.eye(6),)) == pytest.approx(bound_of(CUBE, (np.eye(6), np.zeros((6, 6)))))


def test_preconditioner_is_as_good_as_for_isotropic_voxels():
    modulus = np.random.default_rng(0).uniform(1, 20, (24, 24, 24))
    counts = []
    for law in (None, Orthotropy.from_constants(**BONE)):
        model = VoxelModel(modulus, CUBE, orthotropy=law)
        sets = [
            Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0),
            Prescribed("top", face_nodes(model, 0, True), z=-0.1, y=0.0, x=0.0),
        ]
        counts.append(solve(model, sets).iterations)
    assert counts[1] <= counts[0] + 3


def test_pieces_that_are_removed_leave_the_law():
    modulus = np.zeros((4, 4, 9))
    modulus[:, :, :4] = 5
    modulus[1:3, 1, 6] = 5
    mask = np.zeros(modulus.shape, bool)
    mask[:2] = True
    model = VoxelModel(modulus, CUBE, 0.3, Orthotropy.from_constants(**BONE, isotropic=mask))
    result = solve(model, [Prescribed("end", face_nodes(model, 2, False), 0.0, 0.0, 0.0)], floating="remove")
    assert result.model.orthotropy is not None
    assert result.model.solid.sum() == 64


def test_file_keeps_the_law(tmp_path):
    for cement in (False, True):
        model = random_bone(4, (4, 5, 6), 0.9, cement)
        fea.save_model(tmp_path / "m.npz", model, [Prescribed("b", face_nodes(model, 0, False), 0.0, 0.0, 0.0)])
        again = fea.load_model(tmp_path / "m.npz")[0]
        assert again.orthotropy is not None
        np.testing.assert_array_equal(again.orthotropy.matrix, model.orthotropy.matrix)
        if cement:
            np.testing.assert_array_equal(again.orthotropy.isotropic, model.orthotropy.isotropic)
        else:
            assert again.orthotropy.isotropic is None


def changed(**constants) -> dict:
    return {**BONE, **constants}


@pytest.mark.parametrize(
    "constants",
    [
        changed(modulus_ratio=(1.0, -0.5, 0.7)),
        changed(modulus_ratio=(1.0, 0.0, 0.7)),
        changed(shear_ratio=(0.1, 0.1, 0.0)),
        changed(poisson=(0.3, np.nan, 0.2)),
        changed(poisson=(0.3, 0.3)),
        changed(poisson=(1.5, 0.25, 0.2)),  # nu_zy < sqrt(E_z / E_y) is needed
        changed(poisson=(0.9, 0.8, 0.9)),
        changed(isotropic=np.ones((2, 2, 2))),  # not a mask
    ],
)
def test_impossible_constants_are_refused(constants):
    with pytest.raises(SolveError) as caught:
        Orthotropy.from_constants(**constants)
    assert caught.value.reason == Reason.BAD_MATERIAL_LAW


def test_impossible_matrices_are_refused():
    good = Orthotropy.from_constants(**BONE).matrix
    skew, turned, soft = good.copy(), good.copy(), good.copy()
    skew[0, 1] += 0.1
    turned[0, 4] = turned[4, 0] = 0.05
    soft[5, 5] = -0.1
    for matrix, words in ((skew, "not symmetric"), (turned, "axes"), (soft, "positive definite"), (good[:5], "6 x 6")):
        with pytest.raises(SolveError, match=words) as caught:
            Orthotropy(matrix)
        assert caught.value.reason == Reason.BAD_MATERIAL_LAW


def test_masks_and_ratios_must_fit_the_model():
    modulus = np.ones((2, 2, 2))
    with pytest.raises(SolveError) as caught:
        VoxelModel(modulus, CUBE, 0.3, Orthotropy.from_constants(**BONE, isotropic=np.ones((2, 2, 3), bool)))
    assert caught.value.reason == Reason.BAD_MATERIAL_LAW
    mask = np.array([True, True, True, True, False, False, False, False]).reshape(2, 2, 2)
    ratios = np.linspace(0.1, 0.4, 8).reshape(2, 2, 2)
    with pytest.raises(SolveError, match="must have one") as caught:
        VoxelModel(modulus, CUBE, ratios, Orthotropy.from_constants(**BONE, isotropic=mask))
    assert caught.value.reason == Reason.BAD_POISSON
    ratios = np.where(mask, 0.35, ratios)
    assert VoxelModel(modulus, CUBE, ratios, Orthotropy.from_constants(**BONE, isotropic=mask)).poisson == 0.35
    everywhere = Orthotropy.from_constants(**BONE, isotropic=np.ones((2, 2, 2), bool))
    assert VoxelModel(modulus, CUBE, 0.3, everywhere).orthotropy is None


def test_plasticity_needs_isotropic_voxels():
    model = random_bone(6, (3, 3, 3), 1.0, False)
    sets = [
        Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0),
        Prescribed("top", face_nodes(model, 0, True), z=-0.1),
    ]
    with pytest.raises(SolveError, match="isotropic") as caught:
        fea.solve_curve(model, sets, fea.YieldMaterial(1.0), [1.0])
    assert caught.value.reason == Reason.BAD_MATERIAL_LAW
