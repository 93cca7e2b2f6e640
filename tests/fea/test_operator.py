"""The modal row kernels against assembled element matrices, and the properties that make them trustworthy."""

from __future__ import annotations

import platform
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit, types

from fea import VoxelModel, elastic, kernels
from fea.element import modal_numbers, spectral_bound, stiffness_matrix
from fea.grid import choose_layout, row_ranges
from fea.stiffness import Level, stiffness_arrays
from fea.workers import Workers
from tests.fea.plain_elements import assembled


def level_of(model: VoxelModel, threads: int = 1) -> tuple[Level, object]:
    layout = choose_layout(model.solid)
    spacing = tuple(model.spacing_mm[axis] for axis in layout.order)
    return Level(*stiffness_arrays(model, layout), spacing, Workers(threads)), layout


def forces_of(model: VoxelModel, displacement: np.ndarray, dtype: type = np.float64, threads: int = 1) -> np.ndarray:
    level, layout = level_of(model, threads)
    level.fix(np.empty(0, np.int64))
    out = level.zeros(dtype)
    level.apply_free(layout.field_in(displacement, dtype), out)
    return layout.field_out(out).astype(np.float64)


def random_model(seed: int, shape: tuple[int, int, int], solid: float, mixed: bool) -> VoxelModel:
    rng = np.random.default_rng(seed)
    modulus = np.where(rng.random(shape) < solid, rng.uniform(0.1, 10, shape), 0).astype(np.float32)
    modulus.flat[rng.integers(modulus.size)] = 1
    poisson = np.where(rng.random(shape) < 0.5, 0.2, 0.4) if mixed else 0.3
    return VoxelModel(modulus, tuple(rng.uniform(0.3, 2, 3)), poisson)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(1, 19)),
    solid=st.sampled_from([0.1, 0.5, 1.0]),
    mixed=st.booleans(),
)
def test_operator_equals_the_assembled_matrix(seed, shape, solid, mixed):
    """Any box, any voids, any voxel proportions, one or several Poisson's ratios."""
    model = random_model(seed, shape, solid, mixed)
    displacement = np.random.default_rng(seed + 1).standard_normal((*model.node_shape, 3))
    expected = (assembled(model.modulus_mpa, model.spacing_mm, model.poisson) @ displacement.ravel()).reshape(
        displacement.shape
    )
    # with two materials Lame's numbers are rounded to float32, like the modulus itself
    tolerance = (3e-7 if mixed else 1e-13) * np.abs(expected).max()
    np.testing.assert_allclose(forces_of(model, displacement), expected, rtol=0, atol=tolerance)


def test_single_precision_operator_is_accurate_to_its_rounding():
    """The smoother's kernel, driven as a residual with zero right-hand side, is the float32 image of the float64 one."""
    model = random_model(3, (5, 6, 20), 0.7, False)
    level, layout = level_of(model)
    level.fix(np.empty(0, np.int64))
    displacement = np.random.default_rng(1).standard_normal((*model.node_shape, 3))
    exact = level.zeros(np.float64)
    level.apply_free(layout.field_in(displacement), exact)
    u, zero, out, direction = layout.field_in(displacement, np.float32), level.zeros(), level.zeros(), level.zeros()
    level.smooth(kernels.START, u, 0.0, 1.0, zero, out, direction, zero)
    assert np.abs(out + exact).max() < 1e-6 * np.abs(exact).max()


def test_smoothing_steps_do_what_they_say():
    """Each mode against the same formula in numpy."""
    model = random_model(5, (4, 5, 12), 0.6, False)
    level, _ = level_of(model)
    level.fix(np.arange(0, 200, 7))
    rng = np.random.default_rng(2)
    free = level.inverse > 0

    def field() -> np.ndarray:
        filled = level.zeros()
        filled[free] = rng.standard_normal(free.sum())
        return filled

    u, source, x = field(), field(), field()
    image = level.zeros(np.float64)
    level.apply_free(u.astype(np.float64), image)
    residual = np.where(free, source - image, 0)
    for mode in (kernels.START, kernels.STEP, kernels.FINAL):
        out, direction, moved = level.zeros(), level.zeros(), x.copy()
        level.smooth(mode, u, 0.3, 0.7, source, out, direction, moved)
        np.testing.assert_allclose(out, residual, atol=2e-5)
        if mode != kernels.FINAL:
            np.testing.assert_allclose(direction, 0.3 * u + 0.7 * level.inverse * residual, atol=2e-5)
        np.testing.assert_allclose(moved, x + (mode != kernels.START) * u, atol=1e-6)
    moved, weight = x.copy(), field()
    product = level.smooth(kernels.LAST, u, 0.3, 0.7, source, weight, level.zeros(), moved)
    np.testing.assert_allclose(moved, x + 1.3 * u + 0.7 * level.inverse * residual, atol=2e-5)
    assert product == pytest.approx(float((moved * weight).sum(dtype=np.float64)), rel=1e-4)


@pytest.mark.parametrize("motion", range(6))
def test_rigid_motions_cost_no_force(motion):
    model = random_model(7, (5, 4, 9), 0.6, False)
    points = np.stack(np.meshgrid(*(np.arange(n) for n in model.node_shape), indexing="ij"), -1) * model.spacing_mm
    displacement = np.zeros((*model.node_shape, 3))
    if motion < 3:
        displacement[..., motion] = 1
    else:
        displacement = np.cross(np.eye(3)[motion - 3], points)
    forces = forces_of(model, displacement)
    assert np.abs(forces).max() < 1e-12 * model.modulus_mpa.max() * np.abs(displacement).max() * 10


def test_operator_is_symmetric():
    model = random_model(8, (4, 5, 6), 0.8, True)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, *model.node_shape, 3))
    assert (forces_of(model, a) * b).sum() == pytest.approx((forces_of(model, b) * a).sum(), rel=1e-11)


def test_slabs_do_not_change_a_single_bit():
    model = random_model(9, (40, 52, 60), 0.4, False)
    displacement = np.random.default_rng(0).standard_normal((*model.node_shape, 3))
    one = forces_of(model, displacement, threads=1)
    several = forces_of(model, displacement, threads=3)
    assert np.array_equal(one, several)


def test_modal_numbers_describe_the_integrated_element():
    """The symmetric blocks of docs/solver.md: transform the integrated matrix and compare a few of its entries."""
    spacing, lam, mu = (1.4, 0.7, 1.0), 0.6, 0.4
    matrix = stiffness_matrix(spacing, lam, mu)
    sign = np.array([[1.0, 1.0], [-1.0, 1.0]])  # sum, difference
    transform = np.kron(np.kron(np.kron(sign, sign), sign), np.eye(3))
    back = np.linalg.inv(transform)
    modal = back.T @ matrix @ back

    def entry(row: tuple[str, str], column: tuple[str, str]) -> float:
        def index(component: str, mode: str) -> int:
            return 3 * (4 * ("z" in mode) + 2 * ("y" in mode) + ("x" in mode)) + "zyx".index(component)

        return float(modal[index(*row), index(*column)])

    q = modal_numbers(spacing, lam, mu)
    first, second = q[0], q[1]
    rz, ry, rx = 1 / np.array(spacing)
    assert entry(("x", "x"), ("y", "y")) == pytest.approx(first * rx * ry)
    assert entry(("z", "z"), ("z", "z")) == pytest.approx((first + 2 * second) * rz**2)
    assert entry(("x", "y"), ("y", "x")) == pytest.approx(second * rx * ry)
    assert entry(("z", "xyz"), ("z", "xyz")) == pytest.approx(first * q[17] + second * q[20])
    assert entry(("x", "yz"), ("y", "xz")) == pytest.approx(second * q[16])
    assert entry(("x", "xy"), ("z", "yz")) == pytest.approx(first * rx * rz / 3)
    assert np.abs(modal[:3]).max() < 1e-14


def test_spectral_bound_is_the_known_one_of_a_cube():
    """L0 = 9 (M + 2 lambda) / (2 (M + 2 mu)) for Poisson's ratios >= 0."""
    for nu, expected in ((0.0, 2.25), (0.1, 2.91), (0.2, 3.86), (0.3, 5.32), (0.4, 7.88)):
        assert spectral_bound((1.0, 1.0, 1.0), nu, nu) == pytest.approx(expected, abs=0.006)


def test_row_ranges_cover_every_node_of_the_neighbouring_rows():
    solid = np.random.default_rng(4).random((6, 7, 40)) < 0.02
    ranges = row_ranges(solid)
    for k, j in np.ndindex(7, 8):
        near = solid[max(k - 1, 0) : k + 2, max(j - 1, 0) : j + 2].any(axis=(0, 1))
        if near.any():
            used = np.flatnonzero(near)
            assert ranges[k, j, 0] <= used[0]
            assert ranges[k, j, 1] >= used[-1] + 2
        else:
            assert ranges[k, j, 0] == ranges[k, j, 1]


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="looks for x86 instructions")
@pytest.mark.parametrize(
    ("kind", "rows"),
    [(elastic.Isotropic, elastic.isotropic_rows), (elastic.Orthotropic, elastic.orthotropic_rows)],
)
def test_element_loop_is_vectorised(kind, rows):
    """A lost vectorisation costs a factor of five and changes no result, so the machine code is looked at.

    Compiled afresh, since code from the cache keeps no listing.
    """
    vector, number = types.Array(types.float32, 1, "C"), types.int64
    material = types.NamedTuple([vector, vector], kind)
    signature = (material, vector, vector, *[number] * 7, types.boolean, *[vector] * 4)
    compiled = njit(fastmath=True, error_model="numpy", nogil=True)(rows)
    compiled.compile(signature)
    code = compiled.inspect_asm(compiled.signatures[0])
    packed = re.findall(r"\bv?(?:add|sub|mul|fn?m(?:add|sub)\d*)ps\b.*", code)
    assert len(packed) > 100, f"only {len(packed)} packed operations"
