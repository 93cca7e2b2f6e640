"""What cannot be solved is refused, each with its reason; nothing is wrong quietly."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

import fea.multigrid
from fea import NodalForce, Prescribed, Reason, SolveError, Solver, VoxelModel, face_nodes, load_model, solve
from fea.mesh_layout import MeshLayout

CUBE = (1.0, 1.0, 1.0)


def block(shape: tuple[int, int, int] = (3, 4, 5)) -> VoxelModel:
    return VoxelModel(np.full(shape, 10.0), CUBE)


def clamped(model: VoxelModel) -> list[Prescribed]:
    return [
        Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0),
        Prescribed("top", face_nodes(model, 0, True), z=-0.1),
    ]


def with_value(value: float) -> np.ndarray:
    modulus = np.full((3, 4, 5), 10.0)
    modulus[1, 2, 3] = value
    return modulus


@pytest.mark.parametrize(
    ("reason", "arguments"),
    [
        (Reason.BAD_MODULUS, (with_value(np.nan), CUBE)),
        (Reason.BAD_MODULUS, (with_value(np.inf), CUBE)),
        (Reason.BAD_MODULUS, (with_value(-1.0), CUBE)),
        (Reason.BAD_MODULUS, (with_value(1e-35), CUBE)),
        (Reason.BAD_MODULUS, (np.full((2, 2, 2), "bone"), CUBE)),
        (Reason.BAD_SHAPE, (np.ones((3, 4)), CUBE)),
        (Reason.NO_MATERIAL, (np.zeros((3, 4, 5)), CUBE)),
        (Reason.BAD_SPACING, (np.ones((3, 4, 5)), (1.0, 0.0, 1.0))),
        (Reason.BAD_SPACING, (np.ones((3, 4, 5)), (1.0, 1.0))),
        (Reason.BAD_POISSON, (np.ones((3, 4, 5)), CUBE, 0.5)),
        (Reason.BAD_POISSON, (np.ones((3, 4, 5)), CUBE, np.nan)),
        (Reason.BAD_POISSON, (np.ones((3, 4, 5)), CUBE, np.full((3, 4, 4), 0.3))),
    ],
)
def test_models_that_mean_nothing(reason, arguments):
    with pytest.raises(SolveError) as caught:
        VoxelModel(*arguments)
    assert caught.value.reason == reason


def test_poisson_of_voids_does_not_matter():
    modulus = np.ones((2, 2, 2))
    modulus[0, 0, 0] = 0
    assert VoxelModel(modulus, CUBE, np.where(modulus > 0, 0.3, np.nan)).poisson == 0.3


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        (Reason.BAD_CONDITION, lambda m: [Prescribed("outside", np.array([[9, 0, 0]]), z=0.0)]),
        (Reason.CONFLICTING_CONDITIONS, lambda m: [Prescribed("again", face_nodes(m, 0, True)[:2], z=0.3)]),
        (Reason.BAD_CONDITION, lambda m: [NodalForce(np.array([[0, 0, 9]]), z=1.0)]),
    ],
)
def test_conditions_that_cannot_be(reason, change):
    model = block()
    extra = change(model)
    prescribed = clamped(model) + [c for c in extra if isinstance(c, Prescribed)]
    with pytest.raises(SolveError) as caught:
        solve(model, prescribed, [c for c in extra if isinstance(c, NodalForce)])
    assert caught.value.reason == reason


def test_malformed_conditions():
    for build in (
        lambda: Prescribed("float nodes", np.zeros((2, 3)), z=0.0),
        lambda: Prescribed("flat nodes", np.zeros(3, int), z=0.0),
        lambda: Prescribed("too many values", np.zeros((2, 3), int), z=np.zeros(3)),
        lambda: Prescribed("not finite", np.zeros((2, 3), int), z=np.nan),
        lambda: NodalForce(np.zeros((2, 3), int), y=np.inf),
    ):
        with pytest.raises(SolveError) as caught:
            build()
        assert caught.value.reason == Reason.BAD_CONDITION


def test_forces_and_supports_need_material():
    modulus = np.zeros((4, 4, 8))
    modulus[:, :, :4] = 5
    model = VoxelModel(modulus, CUBE)
    void = np.array([[2, 2, 7]])
    for prescribed, forces in (
        (clamped(model), [NodalForce(void, z=1.0)]),
        ([*clamped(model), Prescribed("in the void", void, z=0.0)], []),
    ):
        with pytest.raises(SolveError) as caught:
            solve(model, prescribed, forces)
        assert caught.value.reason == Reason.BAD_CONDITION
    assert solve(model, clamped(model), [NodalForce(void)]).residual <= 1e-6  # no force at all is no error


@pytest.mark.parametrize(
    ("left_free", "named"),
    [
        ({"z": 0.0}, "shift along y, shift along x, turn about z"),
        ({"z": 0.0, "y": 0.0}, "shift along x"),
        (None, "shift along z"),
    ],
)
def test_free_rigid_motions_are_named(left_free, named):
    model = block()
    sets = [] if left_free is None else [Prescribed("bottom", face_nodes(model, 0, False), **left_free)]
    with pytest.raises(SolveError, match=named) as caught:
        solve(model, sets)
    assert caught.value.reason == Reason.UNCONSTRAINED


def test_a_hinge_is_found_far_from_the_origin():
    """One row of nodes held: the body can turn about it, and only about it."""
    modulus = np.zeros((60, 4, 5))
    modulus[50:] = 1
    model = VoxelModel(modulus, CUBE)
    edge = face_nodes(model, 0, False)
    edge = edge[edge[:, 1] == 0]
    with pytest.raises(SolveError, match=r"move: .*turn about x") as caught:
        solve(model, [Prescribed("hinge", edge, z=0.0, y=0.0, x=0.0)])
    assert caught.value.reason == Reason.UNCONSTRAINED
    held = [Prescribed("hinge", edge, z=0.0, y=0.0, x=0.0), Prescribed("stop", edge[:1] + np.array([1, 1, 0]), y=0.0)]
    assert solve(model, held, [NodalForce(face_nodes(model, 0, True), z=-1.0)]).residual <= 1e-6


def test_floating_pieces_are_refused_with_their_size():
    modulus = np.zeros((4, 4, 9))
    modulus[:, :, :4] = 5
    modulus[1:3, 1, 6] = 5
    model = VoxelModel(modulus, CUBE)
    with pytest.raises(SolveError, match="1 of 2 pieces \\(2 voxels\\)") as caught:
        solve(model, [Prescribed("end", face_nodes(model, 2, False), 0.0, 0.0, 0.0)])
    assert caught.value.reason == Reason.FLOATING_PIECES


def test_a_model_that_does_not_fit_is_refused_beforehand(monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=10_000))
    with pytest.raises(SolveError, match="GiB") as caught:
        solve(block(), clamped(block()))
    assert caught.value.reason == Reason.NOT_ENOUGH_MEMORY


@pytest.mark.parametrize("storage", ["rows", "mesh"])
def test_memory_estimate_is_near_what_is_allocated(monkeypatch, storage):
    import tracemalloc

    # pages that fields map for themselves are not seen by tracemalloc
    monkeypatch.setattr("fea.grid._OWN_PAGES", 1 << 60)
    draw = np.random.default_rng(0)
    shape = (30, 40, 50) if storage == "rows" else (50, 60, 70)
    modulus = draw.uniform(1, 5, shape)
    if storage == "mesh":
        field = ndimage.gaussian_filter(draw.standard_normal(shape), 3.0)
        labels, _ = ndimage.label(np.abs(field) < np.quantile(np.abs(field), 0.25))
        modulus[labels != np.bincount(labels[labels > 0]).argmax()] = 0
    model = VoxelModel(modulus, CUBE)
    solver = Solver(model, clamped(model))
    assert isinstance(solver.layout, MeshLayout) == (storage == "mesh")
    solver.solve()
    del solver
    tracemalloc.start()
    result = solve(model, clamped(model), threads=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.7 * result.peak_bytes < peak < 1.25 * result.peak_bytes


def test_a_tolerance_beyond_float64_is_not_claimed():
    model = block((6, 7, 8))
    with pytest.raises(SolveError) as caught:
        solve(model, clamped(model), rtol=1e-18)
    assert caught.value.reason in (Reason.STAGNATED, Reason.INDEFINITE)


def test_too_few_iterations_are_not_a_solution():
    model = VoxelModel(np.random.default_rng(0).uniform(1, 900, (20, 20, 20)), CUBE)
    with pytest.raises(SolveError) as caught:
        Solver(model, clamped(model)).solve(rtol=1e-9, max_iterations=2)
    assert caught.value.reason == Reason.NOT_CONVERGED


def test_a_wrong_spectral_bound_is_survived(monkeypatch):
    """If the estimate fails the smoother diverges; the solver falls back on the proven bound."""
    monkeypatch.setattr(fea.multigrid.Multigrid, "_largest_eigenvalue", lambda self, grid, steps: 0.35 * grid.cap)
    model = VoxelModel(np.random.default_rng(0).uniform(1, 900, (20, 20, 20)), CUBE)
    solver = Solver(model, clamped(model))
    assert solver.solve(rtol=1e-8).residual <= 1e-8
    assert all(grid.bound == grid.cap for grid in solver.multigrid.grids)


def test_other_supports_need_another_solver():
    model = block()
    solver = Solver(model, clamped(model))
    with pytest.raises(SolveError) as caught:
        solver.solve(clamped(model)[:1])
    assert caught.value.reason == Reason.BAD_CONDITION


def test_a_file_without_moduli_is_no_model(tmp_path):
    np.savez(tmp_path / "m.npz", spacing_mm=np.ones(3))
    with pytest.raises(SolveError, match="modulus_mpa") as caught:
        load_model(tmp_path / "m.npz")
    assert caught.value.reason == Reason.BAD_SHAPE


def test_errors_travel_between_processes():
    error = SolveError(Reason.STAGNATED, "Stands still.", remedy="Push.")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.reason, str(copy)) == (Reason.STAGNATED, "Stands still. Push.")
