"""Voxels with eight points of stress against quadrature written out, the plastic moment of a bar, and voxels with one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fea import Prescribed, SolveError, Solver, VoxelModel, YieldMaterial, face_nodes, solve_curve
from fea.damage import Softening
from fea.newton import Body
from tests.fea.test_plasticity import bar, specimen

SPACING, MODULUS, POISSON = (1.0, 0.8, 1.1), 1000.0, 0.3
BULK, SHEAR = MODULUS / (3 * (1 - 2 * POISSON)), MODULUS / (2 * (1 + POISSON))
LAWS = [YieldMaterial(3.0), YieldMaterial(3.0, 0.1), YieldMaterial(3.0, 0.02, "drucker_prager", 0.85)]


def one_voxel(law: YieldMaterial) -> Body:
    model = VoxelModel(np.full((1, 1, 1), MODULUS), SPACING, POISSON)
    wall = Prescribed("wall", face_nodes(model, 2, False), 0.0, 0.0, 0.0)
    return Body(Solver(model, [wall], threads=1), law, points=8)


def gradients(point: tuple[float, float, float]) -> np.ndarray:
    """Of the eight shape functions at a point of the unit cube: (2, 2, 2, 3)."""
    found = np.empty((2, 2, 2, 3))
    for corner in itertools.product((0, 1), repeat=3):
        factors = [x if c else 1 - x for x, c in zip(point, corner, strict=True)]
        for axis in range(3):
            others = np.prod([factors[other] for other in range(3) if other != axis])
            found[(*corner, axis)] = (1 if corner[axis] else -1) * others / SPACING[axis]
    return found


def stress_of(strain: np.ndarray, law: YieldMaterial) -> tuple[np.ndarray, float]:
    """Radial return of a total strain (3, 3), never plastic before: stress (3, 3), and the plastic multiplier."""
    b, c = law.cone()
    mean = BULK * float(np.trace(strain))
    deviator = 2 * SHEAR * (strain - np.trace(strain) / 3 * np.eye(3))
    mises = float(np.sqrt(1.5 * (deviator**2).sum()))
    excess = max(mises + b * mean - c * float(law.yield_stress_mpa), 0)
    flow = excess / (3 * SHEAR + BULK * b**2 + law.hardening_ratio * MODULUS * c**2)
    assert 3 * SHEAR * flow <= mises, "the apex is not meant here"
    mean -= BULK * b * flow
    deviator = deviator * (1 - 3 * SHEAR * flow / mises)
    return deviator + mean * np.eye(3), flow


def quadrature(u: np.ndarray, law: YieldMaterial) -> tuple[np.ndarray, list[float]]:
    """Nodal forces (2, 2, 2, 3) of one voxel and the flow at its points."""
    forces, flows = np.zeros((2, 2, 2, 3)), []
    for signs in itertools.product((-1, 1), repeat=3):
        slope = gradients(tuple(0.5 + 0.5 * s / np.sqrt(3) for s in signs))
        displacement_gradient = np.einsum("abci,abcj->ij", u, slope)
        stress, flow = stress_of(0.5 * (displacement_gradient + displacement_gradient.T), law)
        forces += np.einsum("ij,abcj->abci", stress, slope) * np.prod(SPACING) / 8
        flows.append(flow)
    return forces, flows


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("seed", [0, 2, 3])
def test_forces_are_those_of_the_quadrature(law: YieldMaterial, seed: int) -> None:
    """Any displacement of the corners, so that some points flow and others do not."""
    body = one_voxel(law)
    # a little pressed together, so that no point goes to the apex of the cone
    place = np.stack(np.meshgrid([0, 1.0], [0, 1.0], [0, 1.0], indexing="ij"), -1) * SPACING
    u = np.random.default_rng(seed).normal(0, 0.0025, (2, 2, 2, 3)) - 0.004 * place
    force = body.level.zeros(np.float64)
    body.stresses(body.solver.layout.field_in(u), force)
    expected, flows = quadrature(u, law)
    assert np.count_nonzero(flows)
    np.testing.assert_allclose(body.solver.layout.field_out(force), expected, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("law", LAWS)
def test_tangent_is_the_derivative_of_the_forces(law: YieldMaterial) -> None:
    """Centred differences at a state with bending."""
    body = one_voxel(law)
    body.numbers = (*body.numbers[:-1], 0.0)  # without the stiffness that flowing points keep for Newton's sake
    level, layout, rng = body.solver.level, body.solver.layout, np.random.default_rng(7)
    place = np.stack(np.meshgrid([0, 1.0], [0, 1.0], [0, 1.0], indexing="ij"), -1) * SPACING
    state = layout.field_in(rng.normal(0, 0.004, (2, 2, 2, 3)) - 0.002 * place)
    change = layout.field_in(rng.normal(0, 1, (2, 2, 2, 3)))
    low, high, force, elastic = (level.zeros(np.float64) for _ in range(4))
    body.stresses(state - 1e-7 * change, low)
    body.stresses(state + 1e-7 * change, high)
    body.stresses(state, force)
    difference = np.where(level.inverse > 0, (high - low) / 2e-7, 0)
    level.apply(change, elastic)
    elastic[level.inverse == 0] = 0
    moved, product = level.zeros(), level.zeros()
    moved[:] = change
    body.tangent(moved, product)
    assert np.linalg.norm(difference - elastic) > 0.1 * np.linalg.norm(elastic)  # much of it flows
    np.testing.assert_allclose(product, difference, atol=2e-5 * np.abs(difference).max())


def test_below_yield_it_is_the_element_of_the_linear_solver() -> None:
    model, supports = specimen()
    law = YieldMaterial(np.where(model.solid, 1e6, 0))
    one, eight = (solve_curve(model, supports, law, [1.0], rtol=1e-7, stress_points=n) for n in (1, 8))
    np.testing.assert_allclose(eight.displacement_mm, one.displacement_mm, atol=1e-6)
    np.testing.assert_allclose(eight.reaction_n["top"], one.reaction_n["top"], rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(
    "law",
    [
        YieldMaterial(7.0, 0.05),
        YieldMaterial(7.0, 0.0, "drucker_prager", 0.5),
        YieldMaterial(7.0, softening=Softening(0.2)),
    ],
)
def test_uniform_stress_is_the_same_with_one_point_and_eight(law: YieldMaterial) -> None:
    """Beyond yield, back, and into tension; the one-point voxel has the closed forms of this law (`test_plasticity`)."""
    path = [-0.5, -1.0, -0.8, 0.6]
    one, eight = (solve_curve(*bar(0.02), law, path, rtol=1e-9, stress_points=n) for n in (1, 8))
    np.testing.assert_allclose(eight.reaction_n["top"][:, 0], one.reaction_n["top"][:, 0], rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(eight.plastic_strain, one.plastic_strain, rtol=1e-6)
    np.testing.assert_allclose(eight.damage, one.damage, rtol=1e-6)
    np.testing.assert_allclose(eight.dissipated_nmm, one.dissipated_nmm, rtol=1e-6, atol=1e-9)
    assert eight.yielded_fraction.tolist() == one.yielded_fraction.tolist()


def bending_moment(cells: int, points: int, times_yield: float) -> float:
    """Moment over M_p = sigma_y b d^2 / 4 of a bar of depth 1, `cells` voxels deep, one wide, bent by its end faces."""
    h, strength = 1.0 / cells, 5.0
    model = VoxelModel(np.full((1, cells, 1), MODULUS), (h, h, h), POISSON)
    curvature = times_yield * 2 * strength / MODULUS
    rows = []
    for j in range(cells + 1):
        for name, k, turn in (("low", 0, -0.5), ("high", 1, 0.5)):
            nodes = np.array([(k, j, 0), (k, j, 1)])
            rows.append(Prescribed(f"{name}{j}", nodes, z=turn * curvature * h * (j * h - 0.5)))
    middle = np.array([(0, cells // 2, 0), (1, cells // 2, 0)])
    supports = [*rows, Prescribed("y", middle, y=0.0), Prescribed("x", face_nodes(model, 2, False), x=0.0)]
    curve = solve_curve(
        model, supports, YieldMaterial(strength), np.linspace(0, 1, 11)[1:], rtol=1e-7, stress_points=points
    )
    moment = sum(curve.reaction_n[f"high{j}"][-1, 0] * (j * h - 0.5) for j in range(cells + 1))
    return float(moment / (strength * h / 4))


def test_plastic_moment_of_a_bar() -> None:
    """M = M_p (1 - (kappa_y / kappa)^2 / 3), at ten times the curvature at first yield; both elements converge to it."""
    expected = 1 - 0.1**2 / 3
    errors = {n: [bending_moment(cells, n, 10.0) / expected - 1 for cells in (4, 8, 16)] for n in (1, 8)}
    print({n: np.round(found, 4).tolist() for n, found in errors.items()})
    assert (np.diff(np.abs(errors[8])) < 0).all()
    for found in errors.values():
        assert abs(found[-1]) < 0.012


def test_the_curve_does_not_depend_on_threads() -> None:
    model, supports = specimen(1, (40, 50, 52))
    law = YieldMaterial(0.006 * model.modulus_mpa.astype(np.float64))
    one, two = (solve_curve(model, supports, law, [1.0], threads=threads, stress_points=8) for threads in (1, 2))
    assert np.array_equal(one.displacement_mm, two.displacement_mm)
    assert np.array_equal(one.plastic_strain, two.plastic_strain)
    assert one.dissipated_nmm[-1] == two.dissipated_nmm[-1] > 0
    work = one.stored_energy_nmm + one.dissipated_nmm
    assert one.hourglass_loss_nmm.tolist() == [0, 0]
    assert work[-1] > 0


@pytest.mark.parametrize("points", [0, 4, 27])
def test_other_numbers_of_points_are_refused(points: int) -> None:
    with pytest.raises(SolveError, match="points of stress"):
        solve_curve(*bar(-0.02), YieldMaterial(7.0), [1.0], stress_points=points)
