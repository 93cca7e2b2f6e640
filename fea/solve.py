"""Linear solution: conjugate gradients in float64, with a stopping rule on the true residual."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from fea.errors import Reason, SolveError
from fea.grid import Layout, zeros_field
from fea.mesh import touched_nodes
from fea.mesh_layout import MeshLayout
from fea.mesh_level import MeshLevel
from fea.model import NodalForce, Prescribed, VoxelModel
from fea.multigrid import Multigrid
from fea.platens import PlatenCorrection, PlatenState, RigidPlaten, Ties
from fea.rigid_part import rigid_part
from fea.stiffness import Level
from fea.storage import Storage, estimated_bytes, first_level, layout_for, require_memory
from fea.supports import AnyLayout, Conditions, force_field, held_pieces, imbalance, place
from fea.vectors import advance, begin_cycle, inner, remainder, turn
from fea.workers import Workers

# iterations without progress before the cycle is made robust, and after which the solution is given up
_PATIENCE, _LAST_PATIENCE = 60, 400
_LARGEST_FORCE_N = 1e140
_TIGHTENINGS = 3  # of the tolerance, where the residual cannot be balanced otherwise


@dataclass(frozen=True, eq=False)
class Solution:
    """Displacements and reactions of a solved model.

    Attributes
    ----------
    displacement_mm : float64 ndarray of shape (nz+1, ny+1, nx+1, 3)
        Components z, y, x; zero at nodes without material.
    reaction_n : dict of str to float64 ndarray of shape (3,)
        For each named set the force (z, y, x) that holds it, summed over its prescribed components; for each platen the
        force it exerts on the body.
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
    platens : dict of str to PlatenState
        Motions and forces of each rigid platen.
    imbalance : float
        Sum of all reactions and forces, which would vanish in exact equilibrium, over the sum of their magnitudes.
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
    platens: dict[str, PlatenState]
    imbalance: float


class Solver:
    """A model with a pattern of supports, ready for several right-hand sides.

    Parameters
    ----------
    model : VoxelModel
    prescribed : sequence of Prescribed
        Which components are fixed; the values may differ in each call of `solve`.
    platens : sequence of RigidPlaten
        The values of their motions and loads may differ in each call, but not which motions are free.
    threads : int, optional
        Default: all cores. The result does not depend on it, bit for bit.
    floating : {"refuse", "remove"}
        What to do with pieces that nothing holds.
    storage : {"auto", "rows", "mesh"}
        Rows of voxels in the model's box, or a list of its elements; which is faster and smaller depends on how much of the
        box is void, and is seen from the model unless a caller needs one of them. Results agree up to rounding.
    """

    def __init__(
        self,
        model: VoxelModel,
        prescribed: Sequence[Prescribed],
        *,
        platens: Sequence[RigidPlaten] = (),
        threads: int | None = None,
        floating: str = "refuse",
        storage: Storage = "auto",
    ) -> None:
        began = time.perf_counter()
        kept = held_pieces(model, prescribed, floating, platens)
        if kept is not model.solid:
            model = replace(model, modulus_mpa=np.where(kept, model.modulus_mpa, 0))
        self.model = model
        self.layout = layout_for(model, storage)
        free_motions = int(sum(platen.free.sum() for platen in platens))
        self.peak_bytes = estimated_bytes(self.layout, model.several_laws, free_motions)
        require_memory(self.peak_bytes)
        self.touched = touched_nodes(model.solid)
        self.workers = Workers(threads)
        self.level = first_level(model, self.layout, self.workers)
        self.prescribed = prescribed
        self.ties = Ties(platens, prescribed, self._place, model.spacing_mm)
        self.conditions = self._placed_with(prescribed, platens)
        self._tied = [np.searchsorted(self.conditions.at, at) for at in self.ties.at]
        self._loose = np.zeros(len(self.conditions.at), bool)  # components of platens
        for where in self._tied:
            self._loose[where] = True
        self.level.fix(self.conditions.at)
        self.multigrid = Multigrid(self.level, self.workers)
        self._sums = np.zeros(self.level.field_shape[0])
        self.correction = PlatenCorrection(self.ties, self.multigrid, self._extension) if self.ties.count else None
        self.dof = 3 * int(self.touched.sum())
        self._busy = threading.Lock()
        self.setup_s = time.perf_counter() - began

    def rows(self) -> tuple[Layout, Level]:
        """Layout and finest level of a solver that was built with storage "rows"."""
        if isinstance(self.layout, MeshLayout) or isinstance(self.level, MeshLevel):
            raise TypeError("this solver keeps its model as a mesh")
        return self.layout, self.level

    def _place(self, prescribed: Sequence[Prescribed]) -> Conditions:
        return place(self.layout, prescribed, self.touched)

    def _placed_with(self, prescribed: Sequence[Prescribed], platens: Sequence[RigidPlaten]) -> Conditions:
        moved = [platen.moved(platen.prescribed, self.model.spacing_mm) for platen in platens]
        return self._place([*prescribed, *moved])

    def _extension(self, moved: list[np.ndarray]) -> np.ndarray:
        """The affine field nearest to these displacements of the platens and to zero at other fixed components."""
        values = np.zeros(len(self.conditions.at))
        for where, given in zip(self._tied, moved, strict=True):
            values[where] = given
        conditions = replace(self.conditions, values_mm=values)
        field = affine_start(self.layout, conditions)
        if field is None:
            raise AssertionError("a free motion of a platen moves something, or it would have been refused")
        field[self.level.inverse == 0] = 0
        field.reshape(-1)[conditions.at] = values
        return field

    def solve(
        self,
        prescribed: Sequence[Prescribed] | None = None,
        forces: Sequence[NodalForce] = (),
        *,
        platens: Sequence[RigidPlaten] | None = None,
        rtol: float = 1e-6,
        initial: np.ndarray | None = None,
        max_iterations: int = 2000,
    ) -> Solution:
        """Solve for one set of values and forces; see `fea.solve`. Calls from several threads wait for each other.

        Raises
        ------
        SolveError
            ``bad_condition`` if other components are prescribed than when the solver was built, ``stagnated``,
            ``indefinite_operator`` or ``not_converged``.
        """
        if isinstance(rtol, bool) or not isinstance(rtol, (int, float, np.floating)) or not 0 < rtol < 1:
            raise SolveError(Reason.BAD_CONDITION, f"the tolerance is {rtol!r}; it must lie between 0 and 1.")
        if max_iterations < 1:
            raise SolveError(Reason.BAD_CONDITION, f"max_iterations is {max_iterations}.")
        expected = (*self.model.node_shape, 3)
        if initial is not None and (np.shape(initial) != expected or not np.isfinite(initial).all()):
            raise SolveError(Reason.BAD_CONDITION, f"the initial displacement must be finite and of shape {expected}.")
        with self._busy:
            return self._solve(prescribed, forces, platens, float(rtol), initial, max_iterations)

    def _solve(
        self,
        prescribed: Sequence[Prescribed] | None,
        forces: Sequence[NodalForce],
        platens: Sequence[RigidPlaten] | None,
        rtol: float,
        initial: np.ndarray | None,
        max_iterations: int,
    ) -> Solution:
        began = time.perf_counter()
        conditions = self.conditions
        if prescribed is not None or platens is not None:
            platens = self.ties.platens if platens is None else platens
            conditions = self._placed_with(self.prescribed if prescribed is None else prescribed, platens)
        platens = self.ties.platens if platens is None else platens
        tied, was = ([(platen.name, *platen.free) for platen in each] for each in (platens, self.ties.platens))
        if not np.array_equal(conditions.at, self.conditions.at) or tied != was:
            raise SolveError(Reason.BAD_CONDITION, "other components are prescribed than when the solver was built.")
        level, ties, wanted = self.level, self.ties, conditions.values_mm
        load = force_field(self.layout, forces, self.touched) if forces else None
        # forces on fixed components go straight to the support, and are not what holds it
        applied = load.reshape(-1)[conditions.at] if load is not None else np.zeros(len(conditions.at))
        if (pushes := ties.loads(platens)) is not None:
            load = level.zeros(np.float64) if load is None else load
            for at, push in zip(ties.at, pushes, strict=True):
                load.reshape(-1)[at] += push
        # a rigid motion of all supports costs no force: it would only drown the rest in the norm of the residual
        carried = None if platens else rigid_part(self.layout, self.model, conditions)
        if carried is not None:
            conditions = replace(conditions, values_mm=wanted - carried.at_supports)
        # everything in units of a power of two near the largest, which is exact: squares of 1e-200 mm are none
        stiffest = 1 / float(level.inverse[level.inverse > 0].min(initial=1.0))
        unit = _unit(conditions.values_mm, load, stiffest)
        values = conditions.values_mm / unit
        conditions, platens = replace(conditions, values_mm=values), [platen.scaled(1 / unit) for platen in platens]
        if load is not None:
            load /= unit
        if unit * stiffest > _LARGEST_FORCE_N:
            raise SolveError(Reason.BAD_CONDITION, "the forces that belong to these loads have squares beyond float64.")
        x, r = level.zeros(np.float64), level.zeros(np.float64)
        x.reshape(-1)[conditions.at] = values
        reference, lift_force = self._residual(x, load, r)
        lift_energy = float(values @ lift_force)
        norm, held = reference, lift_force
        guess: np.ndarray | None
        if initial is not None:
            guess = self.layout.field_in(np.asarray(initial, np.float64))
            if carried is not None:
                guess -= carried.field(self.layout)
            guess /= unit
        else:
            guess = affine_start(self.layout, conditions)
        if guess is not None:
            moved = ties.gather(guess)
            guess[level.inverse == 0] = 0
            guess.reshape(-1)[conditions.at] = values
            if initial is not None:
                ties.fit(platens, moved, guess)
            norm, held = self._residual(guess, load, r)
            if norm < reference or initial is not None:
                x = guess
            else:
                norm, held = self._residual(x, load, r)
            del guess
        p = level.zeros(np.float64)
        iterations, tightenings = 0, 0
        target = goal = rtol * reference
        settled = norm <= target
        while not settled:
            before = norm
            iterations += self._iterate(x, r, p, norm, goal, max_iterations - iterations)
            ties.fit(platens, ties.gather(x), x)  # directions come from float32 and are rigid only up to its rounding
            norm, held = self._residual(x, load, r)
            balanced = True
            if load is None:
                norm, held, balanced = self._balance(x, r, norm, held, conditions, lift_energy, target)
            stuck = not norm <= 0.5 * before or iterations >= max_iterations
            if not norm <= target and stuck and 0 < tightenings < _TIGHTENINGS:
                goal, tightenings = target, _TIGHTENINGS  # back to what was reached before
                continue
            if not norm <= target and stuck:
                reason = Reason.NOT_CONVERGED if iterations >= max_iterations else Reason.STAGNATED
                raise SolveError(
                    reason,
                    f"the relative residual stands at {norm / reference:.2g} after {iterations} iterations; "
                    f"{rtol:.2g} was asked for.",
                )
            settled = norm <= target and (balanced or tightenings >= _TIGHTENINGS or iterations >= max_iterations)
            if norm <= target and not settled:
                goal, tightenings = 0.1 * norm, tightenings + 1
        del p, r
        self.multigrid.release()
        exerted = held * unit - applied
        reactions = {
            name: np.bincount(component, exerted[np.searchsorted(conditions.at, at)], minlength=3)
            for name, (at, component) in conditions.sets.items()
        }
        unbalanced = imbalance(conditions, exerted, forces, 2 * norm * unit * np.sqrt(self.dof))
        x *= unit
        if carried is not None:
            np.add(x, carried.field(self.layout), out=x, where=level.inverse > 0)
        x.reshape(-1)[conditions.at[~self._loose]] = wanted[~self._loose]
        states = ties.states([platen.scaled(unit) for platen in platens], x, [exerted[at] for at in self._tied])
        return Solution(
            self.layout.field_out(x), reactions, iterations, norm / reference if reference else 0.0, self.dof,
            self.setup_s, time.perf_counter() - began, self.peak_bytes, self.model, states, unbalanced,
        )  # fmt: skip

    def _residual(self, x: np.ndarray, load: np.ndarray | None, r: np.ndarray) -> tuple[float, np.ndarray]:
        """r = load - K x on the free components, projected at the platens; |r|, and K x at the prescribed ones, in float64."""
        level = self.level
        level.apply(x, r)
        held = r.reshape(-1)[self.conditions.at]
        given = r if load is None else load
        self.workers.slabs(
            level.field_shape[0],
            level.nodes,
            partial(remainder, given, load is not None, level.inverse, r, self._sums),
        )
        forces = [-held[where] for where in self._tied]
        if load is not None:
            forces = [force + part for force, part in zip(forces, self.ties.gather(load), strict=True)]
        return float(np.sqrt(self._sums.sum() + self.ties.project(forces, r))), held

    def _balance(
        self,
        x: np.ndarray,
        r: np.ndarray,
        norm: float,
        held: np.ndarray,
        conditions: Conditions,
        lift_energy: float,
        target: float,
    ) -> tuple[float, np.ndarray, bool]:
        """Scale the free displacements so that the residual does no work on them.

        The reactions then have an error of second order in that of the displacements (docs/solver.md), as they do
        when conjugate gradients start from zero; the affine start gives that up. The scale differs from one by about
        the square of the tolerance times the stiffness of a voxel layer; it is left alone if that would not converge.

        Returns |r|, K x at the prescribed components, and whether the residual is balanced now.
        """
        at, values = conditions.at, conditions.values_mm
        free = x.reshape(-1)[at] - values  # of platens; zero at plainly prescribed components
        self.workers.slabs(self.level.field_shape[0], self.level.nodes, partial(inner, x, r, self._sums))
        work = float(self._sums.sum() - values @ r.reshape(-1)[at])
        # x_free . K_free,free x_free from what is known at the prescribed components
        stiffness = lift_energy - float(values @ held) - work
        if stiffness <= 0 or abs(work) < 1e-12 * stiffness:
            return norm, held, True
        scale = 1 + work / stiffness
        x *= scale
        x.reshape(-1)[at] = values + scale * free
        after, held_after = self._residual(x, None, r)
        if after <= max(target, norm):
            return after, held_after, True
        x /= scale
        x.reshape(-1)[at] = values + free
        return *self._residual(x, None, r), False

    def _iterate(self, x: np.ndarray, r: np.ndarray, p: np.ndarray, norm: float, target: float, limit: int) -> int:
        """Preconditioned conjugate gradients on x and r in place, until |r| <= target; the number of steps."""
        level, cycle, run, sums = self.level, self.multigrid, self.workers.slabs, self._sums
        grid = cycle.grids[0]
        planes = level.field_shape[0]
        scale = 1 / norm
        before, best, since, patience = 0.0, norm, 0, _PATIENCE
        for iteration in range(limit):
            factor = np.float32(cycle.first_factor())
            run(planes, level.nodes, partial(begin_cycle, r, scale, factor, level.inverse, grid.right, grid.x))
            product = cycle.cycle()
            if self.correction is not None:
                product += self.correction.add(grid.right, grid.x)
            run(planes, level.nodes, partial(turn, grid.x, product / before if before else 0.0, p))
            before = product
            cycle.clear()
            kp = cycle.spare
            if self.correction is None:
                curvature = level.apply_free(p, kp)
            else:
                level.apply(p, kp)
                curvature = self.ties.finish(p, kp, level, self.workers, sums)
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
            if since >= patience:
                if patience == _LAST_PATIENCE:
                    return iteration + 1
                cycle.use_safe_bounds()
                since, before, patience = 0, 0.0, _LAST_PATIENCE
        return limit


def _unit(values_mm: np.ndarray, load: np.ndarray | None, stiffest: float) -> float:
    """A power of two near the largest displacement, or the largest force in terms of the stiffest component."""
    largest = float(np.abs(values_mm).max(initial=0.0))
    if load is not None:
        largest = max(largest, float(max(load.max(), -load.min())) / stiffest)
    return float(2.0 ** np.clip(np.floor(np.log2(largest)), -1000, 1000)) if largest > 0 else 1.0


def affine_start(layout: AnyLayout, conditions: Conditions) -> np.ndarray | None:
    """The affine displacement that fits the prescribed values best, as a field; None if all values are zero."""
    if not conditions.values_mm.any():
        return None
    nodes, component = layout.locate(conditions.at)
    guess = zeros_field(layout.field_shape, np.float64)
    for c in range(3):
        mine = component == c
        if not conditions.values_mm[mine].any():
            continue
        basis = np.column_stack([np.ones(mine.sum()), nodes[mine]])
        layout.fill_affine(
            guess, c, np.linalg.pinv(basis.T @ basis, rcond=1e-10) @ (basis.T @ conditions.values_mm[mine])
        )
    return guess


def solve(
    model: VoxelModel,
    prescribed: Sequence[Prescribed],
    forces: Sequence[NodalForce] = (),
    *,
    platens: Sequence[RigidPlaten] = (),
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
    platens : sequence of RigidPlaten
        Node sets that move as rigid bodies.
    rtol : float
        Stop when the residual over the free components is below `rtol` times that of the prescribed values alone.
    threads : int, optional
        Default: all cores. The result is bitwise the same for any number.
    initial : float ndarray of shape (nz+1, ny+1, nx+1, 3), optional
        Start from this displacement (a previous solution).
    floating : {"refuse", "remove"}
        What to do with pieces, joined by faces, on which nothing is prescribed and which no neighbour holds.

    Raises
    ------
    SolveError
        With a reason code of `fea.Reason`.
    """
    solver = Solver(model, prescribed, platens=platens, threads=threads, floating=floating)
    return solver.solve(forces=forces, rtol=rtol, initial=initial)
