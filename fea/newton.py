"""Equilibrium of a body that yields: Newton's method, each correction by conjugate gradients with the elastic V-cycle.

Corrections are found in float32 to a loose tolerance; equilibrium itself is checked in float64 at every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from fea import eight_points
from fea.damage import NEVER
from fea.grid import zeros_field
from fea.kernels import scratch_size
from fea.plasticity import YieldMaterial
from fea.solve import Solver
from fea.storage import require_memory
from fea.tangent import LAW_ROWS, tangent_slab
from fea.vectors import advance, begin_cycle, remainder, turn
from fea.yielding import ENERGIES, EXTRA_ROWS, KEPT_ALPHA, KEPT_RATIO, STATE_ROWS, stress_slab

_INNER = 0.25  # relative tolerance of the linear system in a Newton step
_INNER_LIMIT = 150
_LINE_SEARCHES = 4
_KEPT_SHEAR = 0.01  # of the elastic stiffness, in the tangent of voxels that flow


@dataclass
class State:
    """A state of a body and what it took to find it.

    `held` are the forces at the prescribed components; `energies` what is stored, and what was dissipated and lost by the
    hourglass modes since the committed state; `residual` is relative to the reactions.
    """

    factor: float
    u: np.ndarray
    held: np.ndarray
    energies: np.ndarray
    residual: float
    newton: int
    inner: int


class Body:
    """A solver with the plastic state of its voxels, and the nodal forces at load factor 1 (None: no forces).

    `points` is how many points of stress a voxel has, 1 or 8.
    """

    def __init__(
        self, solver: Solver, material: YieldMaterial, load: np.ndarray | None = None, *, points: int = 1
    ) -> None:
        self.solver, self.load, self.points = solver, load, points
        self.layout, self.level = solver.rows()
        level, layout = self.level, self.layout
        nz, rows, stride = level.first.shape
        # per voxel: state, tangent and yield stress; per node: four displacement fields in float64, four in float32
        softens = material.softening is not None
        state_rows, law_rows = STATE_ROWS, LAW_ROWS
        if points == eight_points.POINTS:
            state_rows, law_rows = points * eight_points.STATE_ROWS, points * eight_points.POINT_LAW_ROWS
        require_memory(nz * rows * stride * (8 * state_rows + 4 * (law_rows + 1 + softens) + 3 * 4 * (8 + 4)))
        strength = material.stress_for(solver.model.solid)
        _, ny, nx = layout.internal_shape
        self.strength = zeros_field((nz, rows, stride), np.float32)
        self.strength[:] = NEVER
        self.strength[:, :ny, :nx] = layout.voxels_in(strength)
        self.rate, residual = zeros_field((1, 1, 1), np.float32), -1.0
        if material.softening is not None:
            rate = material.softening.rate_for(strength, solver.model.modulus_mpa, solver.model.spacing_mm)
            self.rate, residual = zeros_field((nz, rows, stride), np.float32), float(material.softening.residual_ratio)
            self.rate[:, :ny, :nx] = layout.voxels_in(rate)
        self.softens = softens
        self.state = zeros_field((nz, rows, state_rows, stride), np.float64)
        if points == 1:
            self.state[:, :, KEPT_RATIO] = 1.0
        self.law = zeros_field((nz, rows, law_rows, stride), np.float32)
        b, c = material.cone()
        volume = float(np.prod(level.spacing_mm))
        # under forces the tangent must be free to lose its stiffness where the body does
        kept = _KEPT_SHEAR if load is None else 0.0
        self.numbers = (
            *map(float, level.factors),
            volume,
            b,
            c,
            float(material.hardening_ratio),
            residual,
            kept,
        )
        self.energies = np.zeros((nz + 1, ENERGIES))
        self.sums = np.zeros(nz + 1)
        self.du, self.r, self.p, self.kp = (level.zeros() for _ in range(4))

    def stresses(self, u: np.ndarray, force: np.ndarray, *, commit: bool = False, follow: bool = True) -> np.ndarray:
        """Internal forces and tangent at u; the energies of `State`.

        `follow` = False leaves the derivative of the damage out of the tangent; `commit` makes u the state that the next
        step starts from and gives nothing else.
        """
        level, workers = self.level, self.solver.workers
        slab, extra_rows = stress_slab, EXTRA_ROWS
        if self.points == eight_points.POINTS:
            slab, extra_rows = eight_points.stress_slab, EXTRA_ROWS + eight_points.SCRATCH_ROWS
        self.energies[:] = 0
        workers.slabs(
            level.field_shape[0],
            level.nodes,
            partial(
                slab, u, level.first, level.second, self.strength, self.rate, self.state, self.law, self.numbers,
                float(follow), commit, level.ranges, level.numbers, level.inverse, force, self.energies, self.sums,
            ),
            scratch=(np.float64, scratch_size(level.field_shape, extra_rows)),
        )  # fmt: skip
        total: np.ndarray = self.energies.sum(axis=0)
        return total

    def moved(self, u: np.ndarray, length: float, change: np.ndarray) -> np.ndarray:
        """u + length change. A field of the level, since kernels read a little past the end, where it must be finite."""
        field = self.level.zeros(np.float64)
        np.multiply(change, length, out=field, dtype=np.float64)
        field += u
        return field

    def commit(self, u: np.ndarray) -> None:
        """Make the plastic strains at u the state from which the next step starts."""
        self.stresses(u, np.empty((1, 1, 1, 1)), commit=True)

    def yielded_fraction(self) -> float:
        """Part of the solid volume with plastic strain."""
        return float((self.kept(KEPT_ALPHA) > 0).sum() / (self.level.second > 0).sum() / self.points)

    def kept(self, of_state: int) -> np.ndarray:
        """One number of the state at each point of every voxel: (nz, ny+1, points, stride)."""
        nz, rows, count, stride = self.state.shape
        return self.state.reshape(nz, rows, self.points, count // self.points, stride)[:, :, :, of_state]

    def tangent(self, p: np.ndarray, product: np.ndarray) -> float:
        """product = K_t p on the free components; returns p . K_t p."""
        level, slab, extra_rows = self.level, tangent_slab, 0
        laws: tuple[np.ndarray, ...] = (level.first, level.second, self.law)
        if self.points == eight_points.POINTS:
            slab, laws, extra_rows = eight_points.tangent_slab, (self.law,), eight_points.SCRATCH_ROWS
        self.solver.workers.slabs(
            level.field_shape[0],
            level.nodes,
            partial(slab, p, *laws, level.ranges, level.numbers32, level.inverse, product, self.sums),
            scratch=(np.float32, scratch_size(level.field_shape, extra_rows)),
        )
        return float(self.sums.sum())

    def correction(self, residual: np.ndarray, norm: float, tolerance: float) -> int:
        """Solve K_t du = residual / norm by preconditioned conjugate gradients in float32.

        Returns the number of steps, 0 if the tangent has no stiffness in the first direction.
        """
        level, cycle = self.level, self.solver.multigrid
        run, planes, nodes = self.solver.workers.slabs, level.field_shape[0], level.nodes
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
            curvature = self.tangent(self.p, self.kp)
            if not (product > 0 and curvature > 0):
                return iteration
            step = np.float32(product / curvature)
            run(planes, nodes, partial(advance, step, self.du, self.p, self.r, self.kp, self.sums))
            if np.sqrt(self.sums.sum()) <= tolerance:
                return iteration + 1
        return _INNER_LIMIT


def equilibrium(body: Body, u: np.ndarray, factor: float, rtol: float, max_steps: int) -> State:
    """Newton's method with a halving line search; the state found last, converged or not.

    Where a body softens, its tangent may lose stiffness in some direction, or lead astray. The derivative of the damage
    is then left out: the tangent that remains is stiffer than the true one, so the iteration is slower but does not run away.
    """
    at = body.solver.conditions.at
    force = body.level.zeros(np.float64)
    inner, follow = 0, True
    energies, norm, held, size = _out_of_balance(body, u, factor, force, follow)
    for step in range(max_steps + 1):
        relative = norm / size if size else 0.0
        if relative <= rtol or step == max_steps:
            break
        steps = body.correction(force, norm, max(_INNER, 0.3 * rtol / relative))
        if steps == 0 and body.softens and follow:
            follow = False
            energies, norm, held, size = _out_of_balance(body, u, factor, force, follow)
            steps = body.correction(force, norm, max(_INNER, 0.3 * rtol / relative))
        if steps == 0:  # no stiffness is left in the direction of the residual: a smaller step may avoid that
            return State(factor, u, held, energies, np.inf, step + 1, inner)
        inner += steps
        length = norm
        for _ in range(_LINE_SEARCHES):
            trial = body.moved(u, length, body.du)
            trial.reshape(-1)[at] = u.reshape(-1)[at]
            energies, after, held, size = _out_of_balance(body, trial, factor, force, follow)
            if after < norm or not np.isfinite(after):
                break
            length /= 2
        if not np.isfinite(after):
            return State(factor, u, held, energies, np.inf, step + 1, inner)
        if after >= norm:
            follow = False
        u, norm = trial, after
    return State(factor, u, held, energies, norm / size if size else 0.0, step, inner)


def _out_of_balance(
    body: Body, u: np.ndarray, factor: float, force: np.ndarray, follow: bool
) -> tuple[np.ndarray, float, np.ndarray, float]:
    """Turn `force` into the residual at u; energies, its norm, the forces at the supports, and the norm of all that acts."""
    solver, load, level = body.solver, body.load, body.level
    energies = body.stresses(u, force, follow=follow)
    held = force.reshape(-1)[solver.conditions.at]
    given = force if load is None else factor * load
    solver.workers.slabs(
        level.field_shape[0],
        level.nodes,
        partial(remainder, given, load is not None, level.inverse, force, body.sums),
    )
    size = float(np.sqrt(held @ held + (0.0 if load is None else float(np.vdot(given, given)))))
    return energies, float(np.sqrt(body.sums.sum())), held, size
