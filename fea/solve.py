"""Linear solution: conjugate gradients in float64, with a stopping rule on the true residual."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fea.errors import Reason, SolveError
from fea.grid import choose_layout
from fea.model import NodalForce, Prescribed, VoxelModel
from fea.multigrid import Multigrid
from fea.operator import Level, Workers, coefficients
from fea.supports import Conditions, force_field, held_pieces, place, touched_nodes
from fea.vectors import advance, begin_cycle, turn


@dataclass(frozen=True, eq=False)
class Solution:
    """Displacements and reactions of a solved model.

    Attributes
    ----------
    displacement_mm : float64 ndarray of shape (nz+1, ny+1, nx+1, 3)
        Components z, y, x; zero at nodes without material.
    reaction_n : dict of str to float64 ndarray of shape (3,)
        For each named set the force (z, y, x) that holds it, summed over its prescribed components.
    iterations : int
    residual : float
        |f - K u| over the free components, recomputed in float64 from the final displacement, divided by the same for
        the prescribed displacements alone (zero elsewhere).
    dof : int
        Three for every node of a solid voxel.
    setup_s, solve_s : float
        Wall time.
    peak_bytes : int
        Memory of the solver's arrays as estimated before the solve.
    model : VoxelModel
        What was solved, without removed pieces.
    """

    displacement_mm: np.ndarray
    reaction_n: dict[str, np.ndarray]
    iterations: int
    residual: float
    dof: int
    setup_s: float
    solve_s: float
    peak_bytes: int
    model: VoxelModel


class Solver:
    """A model with a pattern of supports, ready for several right-hand sides.

    Parameters
    ----------
    model : VoxelModel
    prescribed : sequence of Prescribed
        Which components are fixed; the values may differ in each call of `solve`.
    threads : int, optional
        Default: all cores. The result does not depend on it, bit for bit.
    floating : {"refuse", "remove"}
        What to do with pieces that nothing holds.
    """

    def __init__(
        self,
        model: VoxelModel,
        prescribed: Sequence[Prescribed],
        *,
        threads: int | None = None,
        floating: str = "refuse",
    ) -> None:
        began = time.perf_counter()
        kept = held_pieces(model, prescribed, floating)
        if kept is not model.solid:
            model = VoxelModel(np.where(kept, model.modulus_mpa, 0), model.spacing_mm, model.poisson)
        self.model = model
        self.layout = choose_layout(model.solid)
        self.touched = touched_nodes(model.solid)
        self.workers = Workers(threads)
        order = self.layout.order
        poisson = model.poisson if np.ndim(model.poisson) == 0 else self.layout.voxels_in(np.asarray(model.poisson))
        first, second, factors = coefficients(self.layout.voxels_in(model.modulus_mpa), poisson)
        spacing = (model.spacing_mm[order[0]], model.spacing_mm[order[1]], model.spacing_mm[order[2]])
        self.level = Level(first, second, factors, spacing, self.workers)
        self.conditions = self._place(prescribed)
        self.level.fix(self.conditions.fixed)
        ratios = (
            np.atleast_1d(poisson)[self.layout.voxels_in(model.solid)] if np.ndim(poisson) else np.atleast_1d(poisson)
        )
        span = np.array([ratios.min(), ratios.max()])
        self.multigrid = Multigrid(self.level, self.layout.internal_shape, span, self.workers)
        self.dof = 3 * int(self.touched.sum())
        self.peak_bytes = 0
        self.setup_s = time.perf_counter() - began

    def _place(self, prescribed: Sequence[Prescribed]) -> Conditions:
        return place(self.layout, prescribed, self.touched, self.level.shape[2])

    def _iterate(self, x: np.ndarray, r: np.ndarray, target: float, limit: int) -> int:
        """Preconditioned conjugate gradients on x and r in place, until |r| <= target."""
        level, cycle, run = self.level, self.multigrid, self.workers.slabs
        grid = cycle.grids[0]
        planes = level.field_shape[0]
        p, kp = level.zeros(np.float64), level.zeros(np.float64)
        sums = np.zeros(planes)
        norm = float(np.sqrt(np.vdot(r, r)))
        scale = 1 / norm if norm else 1.0
        factor = np.float32(cycle.first_factor())
        before = 1.0
        iterations = 0
        while norm > target and iterations < limit:
            run(
                planes, level.nodes, lambda a, b: begin_cycle(a, b, r, scale, factor, level.inverse, grid.right, grid.x)
            )
            product = cycle.cycle()
            ratio = product / before if iterations else 0.0
            before = product
            run(planes, level.nodes, lambda a, b, ratio=ratio: turn(a, b, grid.x, ratio, p))  # type: ignore[misc]
            curvature = level.apply_free(p, kp)
            # the product was taken with scale r, hence the division
            step = product / scale / curvature
            run(planes, level.nodes, lambda a, b, step=step: advance(a, b, step, x, p, r, kp, sums))  # type: ignore[misc]
            norm = float(np.sqrt(sums.sum()))
            iterations += 1
        return iterations

    def solve(
        self,
        prescribed: Sequence[Prescribed] | None = None,
        forces: Sequence[NodalForce] = (),
        *,
        rtol: float = 1e-6,
        initial: np.ndarray | None = None,
        max_iterations: int = 2000,
    ) -> Solution:
        """Solve for one set of values and forces; see `fea.solve`."""
        began = time.perf_counter()
        conditions = self.conditions
        if prescribed is not None:
            conditions = self._place(prescribed)
            if not np.array_equal(conditions.fixed, self.conditions.fixed):
                raise SolveError(
                    Reason.BAD_CONDITION, "other components are prescribed than when the solver was built."
                )
        level = self.level
        load = force_field(self.layout, forces, self.touched, level.shape[2])
        load[conditions.fixed] = 0
        x = conditions.values_mm.copy()
        r = level.zeros(np.float64)
        level.apply_free(x, r)
        np.subtract(load, r, out=r)
        r[level.inverse == 0] = 0
        reference = float(np.sqrt((r * r).sum()))
        if initial is not None:
            x = self.layout.field_in(np.asarray(initial, np.float64))
            x[level.inverse == 0] = 0
            x[conditions.fixed] = conditions.values_mm[conditions.fixed]
            level.apply_free(x, r)
            np.subtract(load, r, out=r)
            r[level.inverse == 0] = 0
        iterations = self._iterate(x, r, rtol * reference, max_iterations)
        force = level.zeros(np.float64)
        level.apply(x, force)
        r[:] = load - force
        r[level.inverse == 0] = 0
        residual = float(np.sqrt((r * r).sum())) / reference if reference else 0.0
        if residual > 2 * rtol:
            raise SolveError(Reason.NOT_CONVERGED, f"residual {residual:.3g} after {iterations} iterations.")
        reactions = {}
        for name, (at, component) in conditions.sets.items():
            reactions[name] = np.bincount(component, force.reshape(-1)[at], minlength=3)
        return Solution(
            self.layout.field_out(x), reactions, iterations, residual, self.dof, self.setup_s,
            time.perf_counter() - began, self.peak_bytes, self.model,
        )  # fmt: skip


def solve(
    model: VoxelModel,
    prescribed: Sequence[Prescribed],
    forces: Sequence[NodalForce] = (),
    *,
    rtol: float = 1e-6,
    threads: int | None = None,
    initial: np.ndarray | None = None,
    floating: str = "refuse",
) -> Solution:
    """Linear elastic displacements of a voxel model.

    Parameters
    ----------
    model : VoxelModel
    prescribed : sequence of Prescribed
        Node sets with prescribed displacement components.
    forces : sequence of NodalForce
    rtol : float
        Stop when the residual over the free components is below `rtol` times that of the prescribed values alone.
    threads : int, optional
        Default: all cores. The result is bitwise the same for any number.
    initial : float ndarray of shape (nz+1, ny+1, nx+1, 3), optional
        Start from this displacement (a previous solution).
    floating : {"refuse", "remove"}
        What to do with pieces, joined by faces, on which nothing is prescribed.

    Raises
    ------
    SolveError
        With a reason code of `fea.Reason`.
    """
    solver = Solver(model, prescribed, threads=threads, floating=floating)
    return solver.solve(forces=forces, rtol=rtol, initial=initial)
