"""Linear solution: conjugate gradients in float64, with a stopping rule on the true residual."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import psutil

from fea.errors import Reason, SolveError
from fea.grid import Layout, choose_layout, padded, zeros_field
from fea.model import NodalForce, Prescribed, VoxelModel
from fea.multigrid import Multigrid
from fea.stiffness import Level, stiffness_arrays
from fea.supports import Conditions, force_field, held_pieces, place, touched_nodes
from fea.vectors import advance, begin_cycle, inner, remainder, turn
from fea.workers import Workers

_PATIENCE = 60  # iterations without progress before the bounds, and then the solution, are given up


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
            model = replace(model, modulus_mpa=np.where(kept, model.modulus_mpa, 0))
        self.model = model
        self.layout = choose_layout(model.solid)
        self.peak_bytes = estimated_bytes(self.layout, model.several_laws)
        require_memory(self.peak_bytes)
        self.touched = touched_nodes(model.solid)
        self.workers = Workers(threads)
        order = self.layout.order
        first, second, elasticity = stiffness_arrays(model, self.layout)
        spacing = (model.spacing_mm[order[0]], model.spacing_mm[order[1]], model.spacing_mm[order[2]])
        self.level = Level(first, second, elasticity, spacing, self.workers)
        self.conditions = self._place(prescribed)
        self.level.fix(self.conditions.at)
        self.multigrid = Multigrid(self.level, self.workers)
        self.dof = 3 * int(self.touched.sum())
        self._sums = np.zeros(self.level.field_shape[0])
        self.setup_s = time.perf_counter() - began

    def _place(self, prescribed: Sequence[Prescribed]) -> Conditions:
        return place(self.layout, prescribed, self.touched, self.level.shape[2])

    def solve(
        self,
        prescribed: Sequence[Prescribed] | None = None,
        forces: Sequence[NodalForce] = (),
        *,
        rtol: float = 1e-6,
        initial: np.ndarray | None = None,
        max_iterations: int = 2000,
    ) -> Solution:
        """Solve for one set of values and forces; see `fea.solve`.

        Raises
        ------
        SolveError
            ``bad_condition`` if other components are prescribed than when the solver was built, ``stagnated``,
            ``indefinite_operator`` or ``not_converged``.
        """
        began = time.perf_counter()
        conditions = self.conditions if prescribed is None else self._place(prescribed)
        if not np.array_equal(conditions.at, self.conditions.at):
            raise SolveError(Reason.BAD_CONDITION, "other components are prescribed than when the solver was built.")
        level = self.level
        load = force_field(self.layout, forces, self.touched, level.shape[2]) if forces else None
        x, r = level.zeros(np.float64), level.zeros(np.float64)
        x.reshape(-1)[conditions.at] = conditions.values_mm
        reference, lift_force = self._residual(x, load, r)
        lift_energy = float(conditions.values_mm @ lift_force)
        norm, held = reference, lift_force
        guess: np.ndarray | None
        if initial is not None:
            guess = self.layout.field_in(np.asarray(initial, np.float64))
        else:
            guess = affine_start(self.layout.internal_shape, level.field_shape, conditions)
        if guess is not None:
            guess[level.inverse == 0] = 0
            guess.reshape(-1)[conditions.at] = conditions.values_mm
            norm, held = self._residual(guess, load, r)
            if norm < reference or initial is not None:
                x = guess
            else:
                norm, held = self._residual(x, load, r)
            del guess
        p, kp = level.zeros(np.float64), level.zeros(np.float64)
        iterations = 0
        target = rtol * reference
        while norm > target:
            before = norm
            iterations += self._iterate(x, r, p, kp, norm, target, max_iterations - iterations)
            norm, held = self._residual(x, load, r)
            if load is None:
                norm, held = self._balance(x, r, norm, held, conditions, lift_energy, target)
            if norm > target and (norm > 0.5 * before or iterations >= max_iterations):
                reason = Reason.NOT_CONVERGED if iterations >= max_iterations else Reason.STAGNATED
                raise SolveError(
                    reason,
                    f"the relative residual stands at {norm / reference:.2g} after {iterations} iterations; "
                    f"{rtol:.2g} was asked for.",
                )
        del p, kp, r
        reactions = {}
        for name, (at, component) in conditions.sets.items():
            force = held[np.searchsorted(conditions.at, at)]
            if load is not None:
                force = force - load.reshape(-1)[at]
            reactions[name] = np.bincount(component, force, minlength=3)
        return Solution(
            self.layout.field_out(x), reactions, iterations, norm / reference if reference else 0.0, self.dof,
            self.setup_s, time.perf_counter() - began, self.peak_bytes, self.model,
        )  # fmt: skip

    def _residual(self, x: np.ndarray, load: np.ndarray | None, r: np.ndarray) -> tuple[float, np.ndarray]:
        """r = load - K x on the free components; returns |r| and K x at the prescribed ones, all in float64."""
        level = self.level
        level.apply(x, r)
        held = r.reshape(-1)[self.conditions.at]
        given = r if load is None else load
        self.workers.slabs(
            level.field_shape[0],
            level.nodes,
            partial(remainder, given, load is not None, level.inverse, r, self._sums),
        )
        return float(np.sqrt(self._sums.sum())), held

    def _balance(
        self,
        x: np.ndarray,
        r: np.ndarray,
        norm: float,
        held: np.ndarray,
        conditions: Conditions,
        lift_energy: float,
        target: float,
    ) -> tuple[float, np.ndarray]:
        """Scale the free displacements so that the residual does no work on them.

        The reactions then have an error of second order in that of the displacements (docs/solver.md), as they do
        when conjugate gradients start from zero; the affine start gives that up. The scale differs from one by about
        the square of the tolerance times the stiffness of a voxel layer; it is left alone if that would not converge.
        """
        values = conditions.values_mm
        self.workers.slabs(self.level.field_shape[0], self.level.nodes, partial(inner, x, r, self._sums))
        work = float(self._sums.sum())
        # x_free . K_free,free x_free from what is known at the prescribed components
        stiffness = lift_energy - float(values @ held) - work
        if stiffness <= 0 or abs(work) < 1e-12 * stiffness:
            return norm, held
        scale = 1 + work / stiffness
        x *= scale
        x.reshape(-1)[conditions.at] = values
        after, held_after = self._residual(x, None, r)
        if after <= max(target, norm):
            return after, held_after
        x /= scale
        x.reshape(-1)[conditions.at] = values
        return self._residual(x, None, r)

    def _iterate(
        self, x: np.ndarray, r: np.ndarray, p: np.ndarray, kp: np.ndarray, norm: float, target: float, limit: int
    ) -> int:
        """Preconditioned conjugate gradients on x and r in place, until |r| <= target; the number of steps."""
        level, cycle, run, sums = self.level, self.multigrid, self.workers.slabs, self._sums
        grid = cycle.grids[0]
        planes = level.field_shape[0]
        scale = 1 / norm
        before, best, since = 0.0, norm, 0
        for iteration in range(limit):
            factor = np.float32(cycle.first_factor())
            run(planes, level.nodes, partial(begin_cycle, r, scale, factor, level.inverse, grid.right, grid.x))
            product = cycle.cycle()
            run(planes, level.nodes, partial(turn, grid.x, product / before if before else 0.0, p))
            before = product
            curvature = level.apply_free(p, kp)
            if not (product > 0 and curvature > 0):
                # the smoother diverges if an estimated bound was too low; proven bounds make the cycle definite
                if np.isfinite(product) and np.isfinite(curvature) and cycle.use_safe_bounds():
                    before = 0.0
                    continue
                raise SolveError(
                    Reason.INDEFINITE, f"the operator or its preconditioner is not positive at iteration {iteration}."
                )
            # the product was taken with scale r, hence the division
            run(planes, level.nodes, partial(advance, product / scale / curvature, x, p, r, kp, sums))
            norm = float(np.sqrt(sums.sum()))
            if norm <= target:
                return iteration + 1
            since = 0 if norm < 0.9 * best else since + 1
            best = min(best, norm)
            if since >= _PATIENCE:
                if not cycle.use_safe_bounds():
                    return iteration + 1
                since, before = 0, 0.0
        return limit


def estimated_bytes(layout: Layout, mixed: bool) -> int:
    """Memory of the arrays of a solve, known before any is allocated.

    Four float64 and six float32 fields and the coefficients on the finest grid, the float32 part again on the coarser
    ones (a seventh in all), the result in the user's axes, and flags.
    """
    nz, ny, nx = layout.internal_shape
    voxels = (nz + 1) * (ny + 1) * padded(nx + 1)
    single = voxels * 3 * 4 * 6 + voxels * 4 * (2 if mixed else 1)
    return int(voxels * 3 * 8 * 4 + single * 8 / 7 + voxels * 4 + np.prod(layout.node_shape) * 3 * 8)


def require_memory(needed: int) -> None:
    """Refuse a model that will not fit.

    Raises
    ------
    SolveError
        ``not_enough_memory``, with both figures.
    """
    available = psutil.virtual_memory().available
    if needed > 0.9 * available:
        raise SolveError(
            Reason.NOT_ENOUGH_MEMORY,
            f"the solution needs {needed / 2**30:.2f} GiB and {available / 2**30:.2f} GiB are available.",
            remedy="Coarsen or crop the model.",
        )


def affine_start(
    extents: tuple[int, int, int], field_shape: tuple[int, ...], conditions: Conditions
) -> np.ndarray | None:
    """The affine displacement that fits the prescribed values best, as a field; None if all values are zero."""
    if not conditions.values_mm.any():
        return None
    k, j, component, i = np.unravel_index(conditions.at, field_shape)
    guess = zeros_field(field_shape, np.float64)
    nz, ny, nx = extents
    for c in range(3):
        mine = component == c
        if not conditions.values_mm[mine].any():
            continue
        basis = np.column_stack([np.ones(mine.sum()), k[mine], j[mine], i[mine]])
        fit = np.linalg.pinv(basis.T @ basis, rcond=1e-10) @ (basis.T @ conditions.values_mm[mine])
        guess[:, :, c, : nx + 1] = (
            fit[0]
            + (fit[1] * np.arange(nz + 1))[:, None, None]
            + (fit[2] * np.arange(ny + 1))[:, None]
            + fit[3] * np.arange(nx + 1)
        )
    return guess


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
