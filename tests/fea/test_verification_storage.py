"""Rows of voxels or a list of elements: how a model is kept must not show in any answer.

Both ways are held against an assembled matrix and a direct solver, which share no code with them.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fea import (
    NodalForce,
    Orthotropy,
    Prescribed,
    RigidPlaten,
    Solver,
    VoxelModel,
    element_fields,
    face_nodes,
    nodes_of,
)
from tests.fea.closed_forms import points_of
from tests.fea.plain_elements import assembled, direct_solution
from tests.fea.small_block import right_or_refused

STORAGES = ("rows", "mesh")


def lattice(seed: int, shape: tuple[int, int, int], share: float) -> np.ndarray:
    """Random sheets and struts of about this share of the box, joined by faces, from the lowest plane to the highest."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), 1.2, mode="wrap")
    solid = np.abs(noise) < np.quantile(np.abs(noise), share)
    solid[:, shape[1] // 2, shape[2] // 2] = True
    labels, _ = ndimage.label(solid)
    return labels == labels[0, shape[1] // 2, shape[2] // 2]


def porous_model(seed: int, shape: tuple[int, int, int], share: float, mixed: bool, contrast: float) -> VoxelModel:
    rng = np.random.default_rng(seed + 1)
    modulus = np.where(lattice(seed, shape, share), 10 * contrast ** rng.random(shape), 0).astype(np.float32)
    return VoxelModel(modulus, tuple(rng.uniform(0.6, 1.5, 3)), rng.choice([0.2, 0.4], shape) if mixed else 0.3)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(2, 9), st.integers(2, 9), st.integers(2, 10)),
    share=st.sampled_from([0.3, 0.6]),
    mixed=st.booleans(),
    contrast=st.sampled_from([1.0, 1e2]),
    storage=st.sampled_from(STORAGES),
)
def test_either_way_equals_a_direct_solution(seed, shape, share, mixed, contrast, storage):
    rng = np.random.default_rng(seed)
    model = porous_model(seed, shape, share, mixed, contrast)
    bottom = face_nodes(model, 0, False)
    inside = nodes_of(model.solid)
    inside = inside[inside[:, 0] > 0]
    values, push = rng.standard_normal((len(bottom), 3)) * 0.01, rng.standard_normal((len(inside), 3))
    held = Prescribed("bottom", bottom, *values.T)
    result = Solver(model, [held], storage=storage).solve(forces=[NodalForce(inside, *push.T)], rtol=1e-9)
    stiffness = assembled(model.modulus_mpa, model.spacing_mm, model.poisson)
    fixed = np.zeros((*model.node_shape, 3), bool)
    given_values, load = np.zeros(fixed.shape), np.zeros(fixed.shape)
    fixed[tuple(bottom.T)] = True
    given_values[tuple(bottom.T)] = values
    load[tuple(inside.T)] = push
    expected = direct_solution(stiffness, fixed, given_values, load)
    # in the norm of the energy, in which a loose end of a soft strut counts as little as it matters
    difference = result.displacement_mm - expected
    work = [float((u * (stiffness @ u.ravel()).reshape(u.shape)).sum()) for u in (difference, expected)]
    assert work[0] < 1e-10 * work[1]
    np.testing.assert_allclose(result.reaction_n["bottom"], -push.sum(axis=0), atol=1e-7 * np.abs(push).sum())
    energy = element_fields(model, result.displacement_mm).energy_density_mpa.sum() * np.prod(model.spacing_mm)
    assert energy == pytest.approx(
        (expected * (stiffness @ expected.ravel()).reshape(expected.shape)).sum() / 2, rel=1e-4
    )


@pytest.mark.parametrize("storage", STORAGES)
def test_a_linear_field_is_reproduced(storage):
    """Patch test on a lattice: exact values on all nodes but a tenth, which must follow."""
    model = porous_model(3, (9, 10, 11), 0.5, False, 1.0)
    slope = np.random.default_rng(3).standard_normal((3, 3)) * 1e-2
    exact = points_of(model) @ slope.T
    inner = np.zeros(model.node_shape, bool)
    inner[1:-1, 1:-1, 1:-1] = True
    nz, ny, nx = model.shape
    for a, b, c in itertools.product((0, 1), repeat=3):
        inner[1:-1, 1:-1, 1:-1] &= model.solid[a : a + nz - 1, b : b + ny - 1, c : c + nx - 1]
    nodes = nodes_of(model.solid)
    surface = nodes[~inner[tuple(nodes.T)]]
    assert len(nodes) - len(surface) > 0
    result = Solver(model, [Prescribed("surface", surface, *exact[tuple(surface.T)].T)], storage=storage).solve(
        rtol=1e-12, initial=np.zeros((*model.node_shape, 3))
    )
    there = tuple(nodes.T)
    assert np.abs(result.displacement_mm - exact)[there].max() < 1e-9 * np.abs(exact).max()


def both(model: VoxelModel, prescribed: list[Prescribed], **options: object) -> tuple[np.ndarray, np.ndarray]:
    one, two = (
        Solver(model, prescribed, storage=storage, **options).solve(rtol=1e-11)  # type: ignore[arg-type]
        for storage in STORAGES
    )
    for name, force in one.reaction_n.items():
        np.testing.assert_allclose(two.reaction_n[name], force, rtol=0, atol=1e-7 * np.abs(force).max())
    for name, state in one.platens.items():
        other = two.platens[name]
        for part in ("shift_mm", "turn_rad"):
            expected = getattr(state, part)
            np.testing.assert_allclose(getattr(other, part), expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    return one.displacement_mm, two.displacement_mm


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["plain", "ratios", "platen"])
def test_both_ways_agree(seed, kind):
    """Materials and conditions that a mesh knows, on lattices of a few thousand voxels with several coarse grids."""
    model = porous_model(seed, (14, 17, 20), 0.25, kind == "ratios", 1e2)
    bottom = Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0)
    if kind == "platen":
        loads = {"force_n": (-1.0, 0.2, 0.0), "turn_rad": (0.0, None, None)}
        one, two = both(model, [bottom], platens=[RigidPlaten("top", face_nodes(model, 0, True), **loads)])
    else:
        one, two = both(model, [bottom, Prescribed("top", face_nodes(model, 0, True), z=-0.1, y=0.02)])
    assert np.abs(one).max() > 0
    assert np.abs(one - two).max() < 1e-6 * np.abs(one).max()


def test_a_hard_small_model_is_not_given_up():
    """Eleven voxels, moduli from 12 to 8000 MPa: the residual stands still for long before it falls."""
    rng = np.random.default_rng(1958)
    model = porous_model(1958, (8, 8, 2), 0.05, True, 1e3)
    nodes = nodes_of(model.solid)
    bottom, inside = nodes[nodes[:, 0] == 0], nodes[nodes[:, 0] > 0]
    values, push = rng.standard_normal((len(bottom), 3)) * 0.01, rng.standard_normal((len(inside), 3))
    held = Prescribed("bottom", bottom, *values.T)
    result = Solver(model, [held], storage="rows").solve(forces=[NodalForce(inside, *push.T)], rtol=1e-9)
    np.testing.assert_allclose(result.reaction_n["bottom"], -push.sum(axis=0), atol=1e-6 * np.abs(push).sum())


@pytest.mark.parametrize("pull", [1.7, 1.05])
def test_an_orthotropic_mesh_is_right_or_refused(pull):
    """Orthotropic voxels are kept in rows; who insists on a mesh must not get the answer of another material."""
    plain = porous_model(0, (6, 7, 8), 0.6, False, 10.0)
    law = Orthotropy.from_constants((pull, 0.9, 1.0), (0.3, 0.3, 0.28), (0.38, 0.37, 0.35))
    model = VoxelModel(plain.modulus_mpa, plain.spacing_mm, 0.3, law)
    ends = [
        Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0),
        Prescribed("top", face_nodes(model, 0, True), z=-0.1),
    ]
    expected = Solver(model, ends, storage="rows").solve(rtol=1e-9).reaction_n["top"][0]
    right_or_refused(lambda: Solver(model, ends, storage="mesh").solve(rtol=1e-9).reaction_n["top"][0], expected)


@pytest.mark.parametrize("threads", [2, 3])
def test_a_mesh_gives_the_same_bits_for_any_number_of_threads(threads):
    model = porous_model(7, (44, 50, 52), 0.3, False, 1e2)
    bottom = Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0)
    top = Prescribed("top", face_nodes(model, 0, True), z=-0.1)
    one, several = (Solver(model, [bottom, top], storage="mesh", threads=n).solve(rtol=1e-4) for n in (1, threads))
    assert np.array_equal(one.displacement_mm, several.displacement_mm)
    assert np.array_equal(one.reaction_n["top"], several.reaction_n["top"])
    assert one.iterations == several.iterations
