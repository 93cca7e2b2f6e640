"""Models that are mostly void: the list of elements, its operator, and coarsening by connected pieces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fea import mesh_kernels
from fea.element import CORNERS, elasticity, lame, stiffness_matrix
from fea.mesh import Mesh, coarser_mesh, mesh_of, touched_nodes
from fea.mesh_level import MeshLevel
from fea.stiffness import Elasticity
from fea.workers import Workers


def _random_solid(seed: int, shape: tuple[int, int, int], fraction: float) -> np.ndarray:
    solid = np.random.default_rng(seed).random(shape) < fraction
    solid[0, 0, 0] = True
    return solid


def _positions(mesh: Mesh) -> np.ndarray:
    """Grid position of each node, from its elements."""
    position = np.full((mesh.nodes, 3), -1)
    for corner, offset in enumerate(CORNERS):
        position[mesh.corners[corner]] = mesh.cells + offset
    return position


def _level(solid: np.ndarray, spacing: tuple[float, float, float], seed: int, threads: int = 1) -> MeshLevel:
    mesh = mesh_of(solid)
    draw = np.random.default_rng(seed)
    young, nu = draw.uniform(1, 10, len(mesh.cells)), draw.uniform(0, 0.4, len(mesh.cells))
    lam, mu = lame(nu)
    laws = elasticity(1.0, 0.0), elasticity(0.0, 1.0)
    first, second = (lam * young).astype(np.float32), (mu * young).astype(np.float32)
    level = MeshLevel(mesh, first, second, Elasticity(laws, (0.0, 0.4)), spacing, Workers(threads))
    level.fix(np.arange(3))
    return level


def _assembled(level: MeshLevel) -> np.ndarray:
    """The dense stiffness, element by element."""
    matrix = np.zeros((3 * level.nodes, 3 * level.nodes))
    mesh, first, second = level.source
    for e, nodes in enumerate(mesh.corners.T):
        at = (3 * nodes[:, None] + np.arange(3)).ravel()
        matrix[np.ix_(at, at)] += stiffness_matrix(level.spacing_mm, float(first[e]), float(second[e]))
    return matrix


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    fraction=st.floats(0.1, 1.0),
)
def test_operator_equals_the_assembled_matrix(seed, shape, fraction):
    level = _level(_random_solid(seed, shape, fraction), (1.0, 0.7, 1.3), seed)
    u, out = level.zeros(np.float64), level.zeros(np.float64)
    u.reshape(-1)[: 3 * level.nodes] = np.random.default_rng(seed).standard_normal(3 * level.nodes)
    level.apply(u, out)
    matrix = _assembled(level)
    expected = matrix @ u.reshape(-1)[: 3 * level.nodes]
    assert np.allclose(out.reshape(-1)[: 3 * level.nodes], expected, atol=1e-13 * np.abs(matrix).max() * 50)
    assert np.allclose(level.diagonal().reshape(-1)[: 3 * level.nodes], np.diag(matrix), rtol=1e-12)
    free = level.inverse.reshape(-1) > 0
    dense, index = level.dense()
    assert np.array_equal(index, np.flatnonzero(free))
    assert np.allclose(dense, matrix[np.ix_(index, index)], atol=1e-12 * np.abs(matrix).max())


def test_slabs_do_not_change_a_single_bit():
    level = _level(_random_solid(3, (9, 8, 7), 0.3), (1.0, 1.0, 1.0), 3)
    u, whole, parts = level.zeros(), level.zeros(), level.zeros()
    u[:] = np.random.default_rng(0).random(u.shape, dtype=np.float32)
    scratch = np.zeros(mesh_kernels.scratch_size(level.nodes), np.float32)

    class InSlabs(Workers):
        def slabs(self, planes, nodes, task, *, scratch=scratch):
            for first, stop in borders:
                task(first, stop, self.array)

    workers = InSlabs(1)
    workers.array = scratch
    level.workers = workers
    borders = [(0, level.planes)]
    level.apply(u, whole)
    borders = [(6, level.planes), (0, 1), (1, 6)]
    level.apply(u, parts)
    assert np.array_equal(whole, parts)
    assert whole.any()


def test_nodes_are_those_of_the_grid_in_its_order():
    solid = _random_solid(5, (4, 3, 6), 0.3)
    mesh, node_index = mesh_of(solid), np.flatnonzero(touched_nodes(solid))
    position = _positions(mesh)
    assert np.array_equal(np.ravel_multi_index(position.T, (5, 4, 7)), node_index)
    assert np.array_equal(mesh.cells, np.argwhere(solid))
    assert np.array_equal(np.diff(mesh.plane_start), np.bincount(position[:, 0], minlength=5))


def test_sheets_apart_stay_apart_on_every_mesh():
    """Two sheets, a void thinner than a coarse voxel between them: no coarse node moves both."""
    solid = np.zeros((8, 8, 4), bool)
    solid[:, :, 0] = solid[:, :, 3] = True
    mesh = mesh_of(solid)
    sheet = mesh.cells[:, 2] == 0
    for _ in range(2):
        mesh, _, piece = coarser_mesh(mesh, (2, 2, 2))
        left = np.unique(mesh.corners[:, np.unique(piece[sheet])])
        right = np.unique(mesh.corners[:, np.unique(piece[~sheet])])
        assert not set(left) & set(right)
        sheet = np.isin(np.arange(len(mesh.cells)), piece[sheet])
    assert mesh.extents == (2, 2, 1) and len(mesh.cells) == 8  # every coarse voxel is there twice
    # joined by a bridge at one end they are one body: shared nodes at the bridge, nodes of their own away from it
    solid[:2, :, :] = True
    joined, _, _ = coarser_mesh(coarser_mesh(mesh_of(solid), (2, 2, 2))[0], (2, 2, 2))
    assert len(joined.cells) == 6 and np.array_equal(joined.plane_start, [0, 6, 12, 24])


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shape=st.tuples(st.integers(4, 9), st.integers(4, 9), st.integers(4, 9)),
    fraction=st.floats(0.05, 1.0),
    spacing=st.sampled_from([(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (1.0, 2.0, 3.0)]),
)
def test_interpolation_reproduces_linear_fields(seed, shape, fraction, spacing):
    """On any body and every mesh; the transpose is the transpose; coefficients are conserved."""
    level = _level(_random_solid(seed, shape, fraction), spacing, seed)
    slope = np.array([1.0, -2.0, 0.5])
    (mesh, _, fine), coarse = level.source, level.coarser()
    while coarse is not None:
        below, _, second = coarse.source
        factors = np.round(np.divide(coarse.spacing_mm, level.spacing_mm)).astype(int)
        level.inverse[:] = coarse.inverse[:] = 1
        source, field = coarse.zeros(), level.zeros()
        source.reshape(-1)[: 3 * coarse.nodes] = np.repeat(_positions(below) * factors @ slope + 3, 3)
        level.prolong(source, coarse, field)
        expected = np.repeat(_positions(mesh) @ slope + 3, 3)
        assert np.allclose(field.reshape(-1)[: 3 * level.nodes], expected, atol=1e-4)
        forces, back = level.zeros(), coarse.zeros()
        forces.reshape(-1)[: 3 * level.nodes] = np.random.default_rng(1).random(3 * level.nodes)
        level.restrict(forces, coarse, back)
        assert np.vdot(forces, field) == pytest.approx(float(np.vdot(back, source)), rel=1e-4, abs=1e-2)
        assert second.sum() * factors.prod() == pytest.approx(float(fine.sum()), rel=1e-5)
        planes = np.searchsorted(below.plane_start, below.corners, side="right") - 1
        assert np.array_equal(planes, below.cells[:, 0] + CORNERS[:, :1])
        level, mesh, fine, coarse = coarse, below, second, coarse.coarser()
