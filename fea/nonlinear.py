"""Force-displacement curves: Newton's method with the consistent tangent, preconditioned by the elastic V-cycle.

Inner systems are solved in float32 to a loose tolerance; equilibrium itself is checked in float64 at every step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from fea import plasticity
from fea.errors import Reason, SolveError
from fea.grid import zeros_field
from fea.kernels import scratch_size
from fea.model import NodalForce, Prescribed, VoxelModel
from fea.plasticity import LAW_ROWS, STATE_ROWS, YieldMaterial
from fea.solve import Solver, require_memory
from fea.supports import force_field
from fea.vectors import advance, begin_cycle, remainder, turn

_INNER = 0.05  # relative tolerance of the linear system in a Newton step
_INNER_LIMIT = 300
_LINEAR_RTOL = 1e-6
_HALVINGS = 6  # of a load step before it is given up


@dataclass(frozen=True, eq=False)
class Curve:
    """States of a loaded model, one per load factor after the unloaded one.

    Attributes
    ----------
    load_factor : float64 ndarray of shape (n + 1,)
        0 first, then the factors asked for.
    reaction_n : dict of str to float64 ndarray of shape (n + 1, 3)
        Force (z, y, x) on each named set.
    yielded_fraction : float64 ndarray of shape (n + 1,)
        Fraction of the solid volume with plastic strain.
    external_work_nmm, stored_energy_nmm, dissipated_nmm : float64 ndarray of shape (n + 1,)
        Work of the supports and forces (trapezoidal rule over the states computed), elastic energy, and plastic
        dissipation; the first equals the sum of the others up to the size of the steps.
    newton_steps, cg_iterations : int ndarray of shape (n + 1,)
    residual : float64 ndarray of shape (n + 1,)
        Norm of the out-of-balance forces over that of the reactions.
    plastic_strain : float64 ndarray of shape (nz, ny, nx)
        Equivalent plastic strain in the last state.
    yielded : bool ndarray of shape (nz, ny, nx)
        Where it is positive.
    displacement_mm : float64 ndarray of shape (nz+1, ny+1, nx+1, 3)
        In the last state.
    elastic_reaction_n : dict of str to float64 ndarray of shape (3,)
        Linear elastic reactions at load factor 1.
    solve_s : float
        Wall time, set-up included.
    """

    load_factor: np.ndarray
    reaction_n: dict[str, np.ndarray]
    yielded_fraction: np.ndarray
    external_work_nmm: np.ndarray
    stored_energy_nmm: np.ndarray
    dissipated_nmm: np.ndarray
    newton_steps: np.ndarray
    cg_iterations: np.ndarray
    residual: np.ndarray
    plastic_strain: np.ndarray
    yielded: np.ndarray
    displacement_mm: np.ndarray
    elastic_reaction_n: dict[str, np.ndarray]
    solve_s: float


class _Body:
    """A solver with the plastic state of its voxels."""

    def __init__(self, solver: Solver, material: YieldMaterial) -> None:
        self.solver = solver
        level = solver.level
        nz, rows, stride = level.first.shape
        inner = solver.layout.internal_shape
        # per voxel: state and tangent; per node: four displacement fields in float64, four in float32
        require_memory(nz * rows * stride * (8 * STATE_ROWS + 4 * LAW_ROWS + 3 * 4 * (8 + 4)))
        self.strength = zeros_field((nz, rows, stride), np.float32)
        self.strength[:] = 1e30
        self.strength[:, : inner[1], : inner[2]] = solver.layout.voxels_in(material.stress_for(solver.model.solid))
        self.cone = (*material.cone(), float(material.hardening_ratio))
        self.state = zeros_field((nz, rows, STATE_ROWS, stride), np.float64)
        self.law = zeros_field((nz, rows, LAW_ROWS, stride), np.float32)
        self.volume = float(np.prod(level.spacing_mm))
        self.energies = np.zeros((nz + 1, 2))
        self.sums = np.zeros(nz + 1)
        self.du, self.r, self.p, self.kp = (level.zeros() for _ in range(4))

    def stresses(self, u: np.ndarray, force: np.ndarray, *, commit: bool = False) -> tuple[float, float]:
        """Internal forces and tangent at u; stored energy and dissipation since the last commit."""
        level, workers = self.solver.level, self.solver.workers
        workers.slabs(
            level.field_shape[0],
            level.nodes,
            partial(
                plasticity.stress_slab, u, level.first, level.second, self.strength, level.factors, self.cone,
                self.volume, level.ranges, level.numbers, self.state, self.law, commit, force, self.energies,
            ),
            scratch=(np.float64, plasticity.scratch_size(level.field_shape)),
        )  # fmt: skip
        stored, lost = self.energies.sum(axis=0)
        return float(stored), float(lost)

    def commit(self, u: np.ndarray) -> None:
        """Make the plastic strains at u the state from which the next step starts."""
        self.stresses(u, np.empty((1, 1, 1, 1)), commit=True)

    def correction(self, residual: np.ndarray, norm: float, tolerance: float) -> int:
        """Solve K_t du = residual / norm by preconditioned conjugate gradients in float32.

        Returns the number of steps, 0 if the tangent has no stiffness in the first direction.
        """
        level, workers, cycle = self.solver.level, self.solver.workers, self.solver.multigrid
        run, planes, nodes = workers.slabs, level.field_shape[0], level.nodes
        grid = cycle.grids[0]
        self.du[:] = 0
        np.multiply(residual, 1 / norm, out=self.r, casting="unsafe")
        factor = np.float32(cycle.first_factor())
        before = 0.0
        for iteration in range(_INNER_LIMIT):
            run(planes, nodes, partial(begin_cycle, self.r, np.float32(1), factor, level.inverse, grid.right, grid.x))
            product = cycle.cycle()
            run(planes, nodes, partial(turn, grid.x, np.float32(product / before if before else 0.0), self.p))
            before = product
            run(
                planes, nodes,
                partial(
                    plasticity.tangent_slab, self.p, self.law, level.ranges, level.numbers32, level.inverse, self.kp,
                    self.sums,
                ),
                scratch=(np.float32, scratch_size(level.field_shape)),
            )  # fmt: skip
            curvature = float(self.sums.sum())
            if not (product > 0 and curvature > 0):
                return iteration
            step = np.float32(product / curvature)
            run(planes, nodes, partial(advance, step, self.du, self.p, self.r, self.kp, self.sums))
            if np.sqrt(self.sums.sum()) <= tolerance:
                return iteration + 1
        return _INNER_LIMIT


@dataclass
class _State:
    """An equilibrium state and what it took to find it."""

    factor: float
    u: np.ndarray
    held: np.ndarray
    stored: float
    lost: float
    residual: float
    newton: int
    inner: int


def solve_curve(
    model: VoxelModel,
    prescribed: Sequence[Prescribed],
    material: YieldMaterial,
    load_factors: Sequence[float] | np.ndarray,
    forces: Sequence[NodalForce] = (),
    *,
    rtol: float = 1e-4,
    threads: int | None = None,
    floating: str = "refuse",
    max_newton_steps: int = 25,
    progress: Callable[[float], None] | None = None,
) -> Curve:
    """Follow the elastoplastic response of a model through a sequence of loads.

    Parameters
    ----------
    model : VoxelModel
    prescribed : sequence of Prescribed
        Displacements at load factor 1.
    material : YieldMaterial
    load_factors : sequence of float
        Multiples of the prescribed displacements and forces, one state for each, in any order that the body is to
        follow (it may unload).
    forces : sequence of NodalForce
        At load factor 1.
    rtol : float
        Out-of-balance forces allowed, relative to the norm of the reactions.
    threads, floating
        As in `fea.solve`.
    max_newton_steps : int
        After which a load step is halved.
    progress : callable, optional
        Called with each load factor when its state is found.

    Raises
    ------
    SolveError
        As `fea.solve`; ``step_too_small`` if a load step fails even when halved six times, which for forces means that the
        body cannot carry them.
    """
    began = time.perf_counter()
    factors = np.asarray(load_factors, dtype=np.float64).ravel()
    if not np.isfinite(factors).all():
        raise SolveError(Reason.BAD_CONDITION, "a load factor is not finite.")
    solver = Solver(model, prescribed, threads=threads, floating=floating)
    # the load factor multiplies the whole field, so the linear solution is the best first guess there is
    elastic = solver.solve(forces=forces, rtol=_LINEAR_RTOL)
    body = _Body(solver, material)
    level, conditions = solver.level, solver.conditions
    load = force_field(solver.layout, forces, solver.touched, level.shape[2]) if forces else None
    unit = solver.layout.field_in(elastic.displacement_mm)
    start = _State(0.0, level.zeros(np.float64), np.zeros(len(conditions.at)), 0.0, 0.0, 0.0, 0, 0)
    history = [start]
    kept, earlier = start, None
    work = [0.0]
    fractions = [0.0]
    for factor in factors:
        newton, inner, total_lost, total_work = 0, 0, kept.lost, work[-1]
        pieces = [float(factor)]
        halvings = 0
        while pieces:
            goal = pieces[-1]
            guess = _extrapolated(kept, earlier, unit, goal, conditions.at, conditions.values_mm)
            found = _equilibrium(body, guess, goal, load, rtol, max_newton_steps)
            newton, inner = newton + found.newton, inner + found.inner
            if found.residual > rtol:
                halvings += 1
                if halvings > _HALVINGS:
                    raise SolveError(
                        Reason.STEP_TOO_SMALL,
                        f"no equilibrium found beyond load factor {kept.factor:.6g} (residual {found.residual:.2g}).",
                        remedy="If forces are prescribed, the body may not carry them; prescribe displacements instead.",
                    )
                pieces.append((kept.factor + goal) / 2)
                continue
            pieces.pop()
            body.commit(found.u)
            total_work += _work(conditions.values_mm, load, kept, found)
            total_lost += found.lost
            found.lost = total_lost
            kept, earlier = found, kept
        history.append(_State(kept.factor, kept.u, kept.held, kept.stored, total_lost, kept.residual, newton, inner))
        for old in history[:-2]:
            old.u = history[0].u  # only the last two displacement fields are needed
        work.append(total_work)
        fractions.append(_yielded_fraction(body))
        if progress is not None:
            progress(float(factor))
    return _curve(body, history, work, fractions, load, elastic.reaction_n, time.perf_counter() - began)


def _extrapolated(
    kept: _State, earlier: _State | None, unit: np.ndarray, goal: float, at: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """First guess for the next state: the last increment continued, or the elastic solution at the start."""
    if earlier is None or kept.factor == earlier.factor:
        guess: np.ndarray = kept.u + (goal - kept.factor) * unit
    else:
        guess = kept.u + (goal - kept.factor) / (kept.factor - earlier.factor) * (kept.u - earlier.u)
    guess.reshape(-1)[at] = goal * values
    return guess


def _equilibrium(
    body: _Body, u: np.ndarray, factor: float, load: np.ndarray | None, rtol: float, max_steps: int
) -> _State:
    """Newton's method with a halving line search; the state found last, converged or not."""
    solver = body.solver
    at = solver.conditions.at
    force = solver.level.zeros(np.float64)
    trial = np.empty(0)
    inner = 0
    stored, lost, norm, held, size = _out_of_balance(body, u, factor, load, force)
    for step in range(max_steps + 1):
        relative = norm / size if size else 0.0
        if relative <= rtol or step == max_steps:
            break
        steps = body.correction(force, norm, max(_INNER, 0.3 * rtol / relative))
        if steps == 0:  # no stiffness is left in the direction of the residual: a smaller step may avoid that
            return _State(factor, u, held, stored, lost, np.inf, step + 1, inner)
        inner += steps
        length = norm
        for _ in range(4):
            trial = u + length * body.du
            trial.reshape(-1)[at] = u.reshape(-1)[at]
            stored, lost, after, held, size = _out_of_balance(body, trial, factor, load, force)
            if after < norm or not np.isfinite(after):
                break
            length /= 2
        if not np.isfinite(after):
            return _State(factor, u, held, stored, lost, np.inf, step + 1, inner)
        u, norm = trial, after
    return _State(factor, u, held, stored, lost, norm / size if size else 0.0, step, inner)


def _out_of_balance(
    body: _Body, u: np.ndarray, factor: float, load: np.ndarray | None, force: np.ndarray
) -> tuple[float, float, float, np.ndarray, float]:
    """Turn `force` into the residual at u; energies, its norm, the forces at the supports, and their norm."""
    solver = body.solver
    level = solver.level
    stored, lost = body.stresses(u, force)
    held = force.reshape(-1)[solver.conditions.at]
    given = force if load is None else factor * load
    solver.workers.slabs(
        level.field_shape[0],
        level.nodes,
        partial(remainder, given, load is not None, level.inverse, force, body.sums),
    )
    size = float(np.sqrt(held @ held + (0.0 if load is None else float(np.vdot(given, given)))))
    return stored, lost, float(np.sqrt(body.sums.sum())), held, size


def _work(values: np.ndarray, load: np.ndarray | None, before: _State, after: _State) -> float:
    """Work done on the body from one state to the next, by the trapezoidal rule."""
    done = (after.factor - before.factor) * 0.5 * float(values @ (before.held + after.held))
    if load is not None:
        mean = 0.5 * (before.factor + after.factor)
        done += mean * float(np.vdot(load, after.u - before.u))
    return done


def _yielded_fraction(body: _Body) -> float:
    solid = body.solver.level.second > 0
    return float((body.state[:, :, 6] > 0).sum() / solid.sum())


def _curve(
    body: _Body,
    history: list[_State],
    work: list[float],
    fractions: list[float],
    load: np.ndarray | None,
    elastic: dict[str, np.ndarray],
    seconds: float,
) -> Curve:
    solver = body.solver
    conditions, layout = solver.conditions, solver.layout
    reactions = {}
    for name, (at, component) in conditions.sets.items():
        where = np.searchsorted(conditions.at, at)
        rows = []
        for state in history:
            force = state.held[where]
            if load is not None:
                force = force - state.factor * load.reshape(-1)[at]
            rows.append(np.bincount(component, force, minlength=3))
        reactions[name] = np.array(rows)
    plastic = np.zeros(solver.model.shape)
    _, ny, nx = layout.internal_shape
    layout.voxels_in(plastic)[:] = body.state[:, :ny, 6, :nx]
    return Curve(
        load_factor=np.array([state.factor for state in history]),
        reaction_n=reactions,
        yielded_fraction=np.array(fractions),
        external_work_nmm=np.array(work),
        stored_energy_nmm=np.array([state.stored for state in history]),
        dissipated_nmm=np.array([state.lost for state in history]),
        newton_steps=np.array([state.newton for state in history]),
        cg_iterations=np.array([state.inner for state in history]),
        residual=np.array([state.residual for state in history]),
        plastic_strain=plastic,
        yielded=plastic > 0,
        displacement_mm=layout.field_out(history[-1].u),
        elastic_reaction_n=elastic,
        solve_s=seconds,
    )
