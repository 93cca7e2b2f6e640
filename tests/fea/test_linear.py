"""Linear solutions against direct solutions, closed forms, and the symmetries that any right answer has."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fea import (
    NodalForce,
    Prescribed,
    Solver,
    VoxelModel,
    body_force,
    face_nodes,
    load_model,
    nodes_of,
    save_model,
    solve,
)
from fea.mesh_level import MESH_DEGREES
from fea.stiffness import DENSE_DEGREES, POROUS_DEGREES
from tests.fea.plain_elements import assembled, direct_solution


def blob(seed: int, shape: tuple[int, int, int], fraction: float = 0.7) -> np.ndarray:
    """An irregular but connected set of voxels that reaches both ends of the z axis."""
    rng = np.random.default_rng(seed)
    solid = ndimage.gaussian_filter(rng.random(shape), 1) > 0.5 - (fraction - 0.5) * 0.2
    solid[:, shape[1] // 2, shape[2] // 2] = True
    labels, _ = ndimage.label(solid)
    return labels == labels[0, shape[1] // 2, shape[2] // 2]


def platens(model: VoxelModel, drop_mm: float) -> list[Prescribed]:
    return [
        Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0),
        Prescribed("top", face_nodes(model, 0, True), z=-drop_mm, y=0.0, x=0.0),
    ]


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shape=st.tuples(st.integers(3, 8), st.integers(3, 8), st.integers(3, 9)),
    contrast=st.sampled_from([1.0, 1e3]),
    mixed=st.booleans(),
)
def test_solution_equals_a_direct_one(seed, shape, contrast, mixed):
    """Irregular bodies, unequal voxels, contrasts, two Poisson's ratios, forces and displacements together."""
    rng = np.random.default_rng(seed)
    solid = blob(seed, shape)
    modulus = np.where(solid, contrast ** rng.random(shape), 0).astype(np.float32)
    model = VoxelModel(
        modulus, tuple(rng.uniform(0.5, 1.5, 3)), np.where(rng.random(shape) < 0.5, 0.2, 0.35) if mixed else 0.3
    )
    bottom, top = face_nodes(model, 0, False), face_nodes(model, 0, True)
    push = rng.standard_normal((len(top), 3))
    result = solve(
        model,
        [Prescribed("bottom", bottom, z=0.1, y=0.0, x=np.linspace(0, 0.1, len(bottom)))],
        [NodalForce(top, z=push[:, 0], y=push[:, 1], x=push[:, 2])],
        rtol=1e-10,
        threads=1,
    )
    stiffness = assembled(model.modulus_mpa, model.spacing_mm, model.poisson)
    fixed = np.zeros((*model.node_shape, 3), bool)
    values, load = np.zeros(fixed.shape), np.zeros(fixed.shape)
    fixed[tuple(bottom.T)] = True
    values[(*bottom.T, 0)], values[(*bottom.T, 2)] = 0.1, np.linspace(0, 0.1, len(bottom))
    load[tuple(top.T)] = push
    expected = direct_solution(stiffness, fixed, values, load)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(result.displacement_mm, expected, atol=1e-6 * scale)
    forces = (stiffness @ expected.ravel()).reshape(fixed.shape)
    np.testing.assert_allclose(
        result.reaction_n["bottom"], forces[tuple(bottom.T)].sum(0), atol=1e-6 * np.abs(push).sum()
    )
    np.testing.assert_allclose(result.reaction_n["bottom"], -push.sum(0), atol=1e-6 * np.abs(push).sum())


@pytest.mark.parametrize("poisson", [0.0, 0.3, 0.45])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.7, 1.1)])
def test_linear_fields_are_reproduced_on_irregular_bodies(poisson, spacing):
    """The patch test: an affine displacement on the surface of a uniform body is its solution."""
    solid = blob(5, (9, 10, 11), 0.8)
    model = VoxelModel(np.where(solid, 700.0, 0), spacing, poisson)
    inner = np.zeros(model.node_shape, bool)
    inner[1:-1, 1:-1, 1:-1] = True
    for a, b, c in itertools.product((0, 1), repeat=3):
        inner[1:-1, 1:-1, 1:-1] &= solid[a : a + 8, b : b + 9, c : c + 10]
    nodes = nodes_of(solid)
    surface = nodes[~inner[tuple(nodes.T)]]
    assert inner.sum() > 20
    gradient = np.random.default_rng(3).standard_normal((3, 3)) * 1e-2
    exact = np.stack(np.meshgrid(*map(np.arange, model.node_shape), indexing="ij"), -1) * spacing @ gradient.T
    given_values = exact[tuple(surface.T)]
    # the affine start would be the answer itself: begin from nothing instead
    result = solve(
        model,
        [Prescribed("surface", surface, *given_values.T)],
        rtol=1e-12,
        initial=np.zeros((*model.node_shape, 3)),
        threads=1,
    )
    assert result.iterations > 0
    difference = result.displacement_mm[tuple(nodes.T)] - exact[tuple(nodes.T)]
    assert np.abs(difference).max() < 1e-10 * np.abs(exact).max()
    np.testing.assert_allclose(result.reaction_n["surface"], 0, atol=1e-9 * 700 * 1e-2 * 300)


def test_layers_in_series_and_in_parallel():
    """With Poisson's ratio 0 the harmonic and the arithmetic mean are exact."""
    moduli = np.array([100.0, 900.0, 50.0, 2000.0, 100.0, 300.0])
    for axis, mean in ((0, 1 / (1 / moduli).mean()), (2, moduli.mean())):
        shape = [1, 1, 1]
        shape[axis] = 6
        modulus = np.broadcast_to(moduli.reshape(shape), (6, 5, 6))
        model = VoxelModel(modulus, (0.5, 0.8, 1.2), 0.0)
        result = solve(
            model,
            [
                Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0),
                Prescribed("top", face_nodes(model, 0, True), z=0.03),
            ],
            rtol=1e-11,
        )
        area = 5 * 0.8 * 6 * 1.2
        assert result.reaction_n["top"][0] == pytest.approx(mean * 0.01 * area, rel=1e-8)
        assert result.reaction_n["bottom"][0] == pytest.approx(-mean * 0.01 * area, rel=1e-8)


def test_cantilever_converges_to_timoshenko_from_above():
    """Square section t, length 10 t, Poisson 0: the excess stiffness falls like (h / t)^2."""
    excess = []
    for cells in (2, 4, 8):
        h = 1.0 / cells
        model = VoxelModel(np.full((cells, cells, 10 * cells), 1000.0), (h, h, h), 0.0)
        result = solve(
            model,
            [
                Prescribed("wall", face_nodes(model, 2, False), z=0.0, y=0.0, x=0.0),
                Prescribed("tip", face_nodes(model, 2, True), z=-0.1),
            ],
            rtol=1e-9,
        )
        bending, shear = 10.0**3 / (3 * 1000 / 12), 10.0 / (10 / 12 * 500)
        excess.append(-result.reaction_n["tip"][0] / (0.1 / (bending + shear)) - 1)
    assert excess == pytest.approx([0.126, 0.032, 0.008], abs=0.002)


def lame_error(cells: int) -> float:
    """Spherical void of radius 1 in an octant of side 3, exact displacements on the outer faces; L2 error off the void."""
    nu, radius = 0.3, 1.0
    h = radius / cells
    n = 3 * cells
    centres = (np.arange(n) + 0.5) * h
    r = np.sqrt(centres[:, None, None] ** 2 + centres[:, None] ** 2 + centres**2)
    model = VoxelModel(np.where(r > radius, 1.0, 0), (h, h, h), nu)
    points = np.stack(np.meshgrid(*[np.arange(n + 1) * h] * 3, indexing="ij"), -1)
    distance = np.maximum(np.linalg.norm(points, axis=-1), h)
    exact = points * (1 + (1 + nu) / (2 * (1 - 2 * nu)) / distance**3)[..., None]
    conditions = []
    for axis, letter in enumerate("zyx"):
        outer = face_nodes(model, axis, True)
        conditions.append(Prescribed("outer", outer, *exact[tuple(outer.T)].T))
        inner = face_nodes(model, axis, False)
        inner = inner[(inner < n).all(axis=1)]
        conditions.append(Prescribed("symmetry", inner, **{letter: 0.0}))
    result = solve(model, conditions, rtol=1e-8)
    away = distance > 1.15
    return float(np.linalg.norm((result.displacement_mm - exact)[away]) / np.linalg.norm(exact[away]))


def test_lame_sphere_converges():
    """Prototype figures of the design study: 0.28, 0.14 % at 8 and 16 voxels per radius (first order, a staircase)."""
    coarse, fine = lame_error(8), lame_error(16)
    assert coarse == pytest.approx(0.0028, abs=0.0004)
    assert fine < 0.6 * coarse


@settings(max_examples=8, deadline=None)
@given(order=st.permutations([0, 1, 2]), flips=st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_a_turned_model_gives_a_turned_answer(order, flips):
    """Permuted and reflected axes; the solver itself permutes axes inside, so this is worth asking."""
    rng = np.random.default_rng(11)
    solid = blob(11, (7, 9, 12))
    modulus = np.where(solid, rng.uniform(1, 30, solid.shape), 0)
    spacing = np.array([0.9, 1.0, 1.3])
    nodes = nodes_of(solid)
    ends = [nodes[nodes[:, 0] == 0], nodes[nodes[:, 0] == 7]]
    straight = solve(
        VoxelModel(modulus, spacing), [Prescribed("a", ends[0], 0.0, 0.0, 0.0), Prescribed("b", ends[1], -0.1, 0.02, 0.0)],
        rtol=1e-11,
    )  # fmt: skip
    flipped = [axis for axis in range(3) if flips[axis]]

    def turned(array: np.ndarray) -> np.ndarray:
        return np.flip(array, flipped).transpose(*order, *range(3, array.ndim))

    sign = np.where(flips, -1.0, 1.0)
    sets = []
    for name, value, end in (("a", (0.0, 0.0, 0.0), ends[0]), ("b", (-0.1, 0.02, 0.0), ends[1])):
        moved = np.where(flips, np.array(solid.shape) - end, end)[:, order]
        sets.append(Prescribed(name, moved, *(sign * value)[order]))
    result = solve(VoxelModel(turned(modulus), spacing[order]), sets, rtol=1e-11)
    expected = turned(straight.displacement_mm * sign)[..., order]
    np.testing.assert_allclose(result.displacement_mm, expected, atol=1e-9)
    np.testing.assert_allclose(result.reaction_n["b"], (straight.reaction_n["b"] * sign)[order], rtol=1e-8, atol=1e-8)


def test_reciprocity():
    """Betti: the work of one load on the other's displacements is the same both ways; one hierarchy serves both."""
    solid = blob(2, (8, 9, 10))
    model = VoxelModel(np.where(solid, 50.0, 0), (1.0, 1.0, 1.0))
    wall = Prescribed("wall", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0)
    nodes = face_nodes(model, 0, True)
    first, second = NodalForce(nodes[:1], x=1.0), NodalForce(nodes[-1:], y=2.0, z=1.0)
    solver = Solver(model, [wall])
    a, b = (solver.solve(forces=[force], rtol=1e-12).displacement_mm for force in (first, second))
    at, bt = tuple(nodes[-1]), tuple(nodes[0])
    assert a[at] @ [1.0, 2.0, 0.0] == pytest.approx(b[bt] @ [0.0, 0.0, 1.0], rel=1e-8)


def test_threads_do_not_change_a_single_bit():
    rng = np.random.default_rng(0)
    model = VoxelModel(rng.uniform(1, 100, (44, 50, 52)), (1.0, 1.0, 1.0))
    one, two = (solve(model, platens(model, 0.5), threads=threads) for threads in (1, 2))
    assert np.array_equal(one.displacement_mm, two.displacement_mm)
    assert np.array_equal(one.reaction_n["top"], two.reaction_n["top"])
    assert one.iterations == two.iterations


def test_iterations_do_not_grow_with_refinement():
    """The same specimen at half the voxel size: multigrid means that the count stays."""
    counts = []
    for factor in (1, 2):
        blocks = np.exp(np.random.default_rng(22).uniform(np.log(100), np.log(20000), (4, 4, 4)))
        modulus = np.kron(blocks, np.ones((4 * factor,) * 3))
        model = VoxelModel(modulus, (1 / factor,) * 3)
        counts.append(solve(model, platens(model, 0.16)).iterations)
    assert counts[0] <= 9
    assert counts[1] <= counts[0] + 1


@pytest.mark.parametrize("ratio", [3.0, 5.0])
def test_flat_voxels_do_not_stop_the_multigrid(ratio):
    """Thick CT slices: only the short axes are halved until the voxels are nearly cubes."""
    rng = np.random.default_rng(1)
    model = VoxelModel(rng.uniform(50, 500, (10, 40, 40)), (ratio, 1.0, 1.0))
    assert solve(model, platens(model, 0.3)).iterations <= 16


def test_reported_residual_is_that_of_the_displacement():
    """Recomputed here from the assembled matrix; the definition is that of `Solution.residual`."""
    solid = blob(4, (6, 7, 8))
    model = VoxelModel(np.where(solid, 10.0, 0), (1.0, 1.2, 0.9))
    for rtol in (1e-3, 1e-9):
        result = solve(model, platens(model, 0.1), rtol=rtol)
        stiffness = assembled(model.modulus_mpa, model.spacing_mm, 0.3)
        lift = np.zeros((*model.node_shape, 3))
        free = np.ones(lift.shape, bool)
        for condition in platens(model, 0.1):
            free[tuple(condition.nodes.T)] = False
            lift[(*condition.nodes.T, 0)] = condition.z
        free = free.ravel()
        ours = np.linalg.norm((stiffness @ result.displacement_mm.ravel())[free])
        expected = ours / np.linalg.norm((stiffness @ lift.ravel())[free])
        assert result.residual == pytest.approx(expected, rel=1e-3)
        assert result.residual <= rtol


def test_restart_from_the_answer_needs_no_iteration():
    model = VoxelModel(np.random.default_rng(0).uniform(1, 9, (8, 8, 8)), (1.0, 1.0, 1.0))
    first = solve(model, platens(model, 0.1), rtol=1e-8)
    again = solve(model, platens(model, 0.1), rtol=1e-7, initial=first.displacement_mm)
    assert again.iterations == 0
    np.testing.assert_allclose(again.displacement_mm, first.displacement_mm, atol=1e-12)


def test_new_values_on_the_same_supports():
    model = VoxelModel(np.random.default_rng(0).uniform(1, 9, (6, 7, 8)), (1.0, 1.0, 1.0))
    solver = Solver(model, platens(model, 0.1))
    single = solver.solve(rtol=1e-10)
    double = solver.solve(platens(model, 0.2), rtol=1e-10)
    np.testing.assert_allclose(double.displacement_mm, 2 * single.displacement_mm, atol=1e-9)


@pytest.mark.parametrize("free_nodes", [0, 1])
def test_hardly_anything_is_free(free_nodes):
    """Every node held, or all but one: the hierarchy has nothing to work on."""
    model = VoxelModel(np.full((6, 7, 8), 10.0), (1.0, 1.0, 1.0))
    nodes = nodes_of(model.solid)
    nodes = nodes[(nodes != [3, 3, 3]).any(axis=1)] if free_nodes else nodes
    push = NodalForce(np.array([[3, 3, 3]]), z=1.0)
    result = solve(model, [Prescribed("all", nodes, z=0.01 * nodes[:, 0], y=0.0, x=0.0)], [push] if free_nodes else [])
    if free_nodes:
        assert result.displacement_mm[3, 3, 3, 0] > 0.03
    else:
        assert result.iterations == 0


def test_loose_pieces_can_be_removed():
    modulus = np.zeros((5, 6, 20))
    modulus[:, :3, :3] = 10
    modulus[2, 4:, 10:12] = 10  # touches nothing
    modulus[4, 3, 3] = 10  # shares one edge only
    whole = VoxelModel(modulus, (1.0, 1.0, 1.0))
    clean = VoxelModel(np.where(ndimage.label(modulus)[0] == 1, modulus, 0), (1.0, 1.0, 1.0))
    supports = [
        Prescribed("bottom", face_nodes(clean, 0, False), 0.0, 0.0, 0.0),
        Prescribed("top", face_nodes(clean, 0, True)[:8], -0.1),
    ]
    result = solve(whole, supports, floating="remove", rtol=1e-9)
    assert result.model.solid.sum() == clean.solid.sum()
    np.testing.assert_allclose(result.displacement_mm, solve(clean, supports, rtol=1e-9).displacement_mm, atol=1e-9)


def test_model_file_keeps_everything(tmp_path):
    rng = np.random.default_rng(0)
    model = VoxelModel(rng.uniform(1, 5, (3, 4, 5)), (1.0, 0.5, 0.25), rng.uniform(0.1, 0.4, (3, 4, 5)))
    top = face_nodes(model, 0, True)
    sets = [
        Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0),
        Prescribed("side", top[:5], y=np.linspace(0, 0.1, 5)),
    ]
    push = NodalForce(top[-2:], z=-3.0, x=[1.0, 2.0])
    path = tmp_path / "Modell mit Leerzeichen ä.npz"
    save_model(path, model, sets, [push])
    read, conditions, forces = load_model(path)
    one, two = solve(model, sets, [push], rtol=1e-9), solve(read, conditions, forces, rtol=1e-9)
    np.testing.assert_allclose(two.displacement_mm, one.displacement_mm, atol=1e-12)
    assert set(two.reaction_n) == {"bottom", "side"}


def blocks_model(n: int) -> VoxelModel:
    """The benchmark's solid cube of 4-voxel blocks, 100 to 20000 MPa, 0.1 mm."""
    blocks = np.exp(np.random.default_rng(22).uniform(np.log(100.0), np.log(20000.0), (n // 4,) * 3))
    modulus = np.kron(blocks, np.ones((4, 4, 4))).astype(np.float32)
    return VoxelModel(np.ascontiguousarray(modulus.transpose(2, 1, 0)), (0.1, 0.1, 0.1))


def smoothed_noise(shape: tuple[int, int, int], sigma: float, seed: int) -> np.ndarray:
    spectrum = np.fft.rfftn(np.random.default_rng(seed).standard_normal(shape))
    for axis, count in enumerate(shape):
        frequency = np.fft.rfftfreq(count) if axis == 2 else np.fft.fftfreq(count)
        spectrum *= np.exp(-2 * (np.pi * frequency * sigma) ** 2).reshape([-1 if a == axis else 1 for a in range(3)])
    noise = np.fft.irfftn(spectrum, s=shape, axes=(0, 1, 2))
    return (noise - noise.mean()) / noise.std()


def vertebra_model() -> VoxelModel:
    """The benchmark's vertebra-like elliptic cylinder at 1 mm: graded core, stiffer shell and end plates."""
    core = np.clip(np.exp(np.log(160.0) + 0.55 * smoothed_noise((88, 64, 56), 3.0, 11)), 50.0, 500.0)
    core = core.reshape(44, 2, 32, 2, 28, 2).mean(axis=(1, 3, 5))
    x, y = np.meshgrid(np.arange(44) - 21.5, np.arange(32) - 15.5, indexing="ij")
    outside, inside = (x / 22) ** 2 + (y / 16) ** 2 <= 1, (x / 21) ** 2 + (y / 15) ** 2 <= 1
    modulus = core * outside[:, :, None]
    modulus[outside & ~inside] = 2000
    modulus[:, :, [0, -1]] = 2000 * outside[:, :, None]
    return VoxelModel(np.ascontiguousarray(modulus.transpose(2, 1, 0)), (1.0, 1.0, 1.0))


def test_reference_reaction_of_a_small_cube():
    """-53.686547439 N by another, assembled solver at a tight tolerance."""
    model = blocks_model(16)
    drop = float(np.float32(0.016))
    result = solve(model, platens(model, drop))
    assert result.reaction_n["top"][0] == pytest.approx(-53.686547439, rel=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "drop", "expected"),
    [
        (blocks_model(32), 0.032, -171.827602080),
        (blocks_model(64), 0.064, -751.83609867),
        (vertebra_model(), 0.28, -4389.7094033725),
    ],
    ids=["cube32", "cube64", "vertebra"],
)
def test_reference_reactions(model, drop, expected):
    """Tight solutions of the benchmark models by independent solvers; met within 1e-8 at the default tolerance."""
    result = solve(model, platens(model, float(np.float32(drop))))
    assert result.reaction_n["top"][0] == pytest.approx(expected, rel=1e-8)
    tight = solve(model, platens(model, float(np.float32(drop))), rtol=1e-11)
    assert tight.reaction_n["top"][0] == pytest.approx(expected, rel=5e-10)


def test_thin_walls_are_told_from_bulk():
    """A shell is kept as a mesh, or in rows with stronger coarse smoothing, a block is not; all give the same answer."""
    y, x = np.mgrid[:24, :24] - 11.5
    radius = np.hypot(y, x)
    tube = VoxelModel(
        np.broadcast_to(np.where((radius < 12) & (radius > 10), 1e3, 0), (40, 24, 24)).copy(), (1.0, 1.0, 1.0)
    )
    supports = [
        Prescribed("bottom", face_nodes(tube, 0, False), 0.0, 0.0, 0.0),
        Prescribed("top", face_nodes(tube, 0, True), x=1.0),
    ]
    mesh = Solver(tube, supports)
    assert mesh.multigrid.degrees == MESH_DEGREES
    block = VoxelModel(np.ones((9, 9, 9)), (1.0, 1.0, 1.0))
    assert Solver(block, platens(block, 0.1)).multigrid.degrees == DENSE_DEGREES
    solver = Solver(tube, supports, storage="rows")
    assert solver.multigrid.degrees == POROUS_DEGREES
    result = solver.solve(rtol=1e-9)
    np.testing.assert_allclose(
        mesh.solve(rtol=1e-9).displacement_mm, result.displacement_mm, atol=1e-7 * np.abs(result.displacement_mm).max()
    )
    solver.multigrid.degrees = DENSE_DEGREES
    other = solver.solve(rtol=1e-9)
    assert result.iterations < other.iterations
    np.testing.assert_allclose(result.reaction_n["top"], other.reaction_n["top"], rtol=1e-7, atol=1e-5)
    block = VoxelModel(np.ones((20, 20, 20)), (1.0, 1.0, 1.0))
    assert Solver(block, platens(block, 0.1)).multigrid.degrees == DENSE_DEGREES


def test_bar_under_its_own_weight():
    """Poisson 0: u(z) = w (L z - z^2 / 2) / E at the nodes, and the support carries the weight."""
    n, h, weight = 12, 0.5, 2e-3
    model = VoxelModel(np.full((n, 3, 4), 10.0), (h, 0.8, 1.1), 0.0)
    foot = Prescribed("foot", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0)
    result = solve(model, [foot], [body_force(model, np.array([-weight, 0.0, 0.0]))], rtol=1e-11)
    z = np.arange(n + 1) * h
    expected = -weight * (n * h * z - z**2 / 2) / 10
    np.testing.assert_allclose(result.displacement_mm[:, 1, 2, 0], expected, atol=1e-10)
    assert result.reaction_n["foot"][0] == pytest.approx(weight * n * h * 3 * 0.8 * 4 * 1.1)
