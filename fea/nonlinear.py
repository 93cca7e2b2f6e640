"""Force-displacement curves: load steps that are halved where they fail, each found by Newton's method (`fea.newton`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fea.eight_points import POINTS
from fea.errors import Reason, SolveError
from fea.model import NodalForce, Prescribed, VoxelModel, real_numbers
from fea.newton import Body, State, equilibrium
from fea.plasticity import YieldMaterial
from fea.solve import Solver
from fea.supports import force_field
from fea.yielding import KEPT_ALPHA, KEPT_DAMAGE

_LINEAR_RTOL = 1e-6
_SMALLEST_PART = 1 / 64  # of a load step, before it is given up
_LARGEST_MOVE = 0.5  # of the size of the body, between its parts
_CUT_BACKS = 40  # in one load step, wherever they are


@dataclass(frozen=True, eq=False)
class Curve:
    """States of a loaded model, one per load factor after the unloaded one.

    Attributes
    ----------
    load_factor : float64 ndarray of shape (n + 1,)
        0 first, then the factors asked for; in an incomplete curve the last is how far the body could be followed.
    reaction_n : dict of str to float64 ndarray of shape (n + 1, 3)
        Force (z, y, x) on each named set.
    yielded_fraction : float64 ndarray of shape (n + 1,)
        Fraction of the solid volume with plastic strain.
    external_work_nmm, stored_energy_nmm, dissipated_nmm, hourglass_loss_nmm : float64 ndarray of shape (n + 1,)
        Work of the supports and forces (trapezoidal rule over the states computed), elastic energy, what plastic flow and
        damage used up, and what the hourglass modes lost by softening (docs/solver.md). The first equals the sum of the
        others up to the size of the steps.
    newton_steps, cg_iterations, cut_backs : int ndarray of shape (n + 1,)
    residual : float64 ndarray of shape (n + 1,)
        Norm of the out-of-balance forces over that of the reactions.
    plastic_strain : float64 ndarray of shape (nz, ny, nx)
        Equivalent plastic strain in the last state, the mean over the points of a voxel.
    yielded : bool ndarray of shape (nz, ny, nx)
        Where it is positive.
    damage : float64 ndarray of shape (nz, ny, nx)
        In the last state; zero without softening.
    displacement_mm : float64 ndarray of shape (nz+1, ny+1, nx+1, 3)
        In the last state.
    elastic_reaction_n : dict of str to float64 ndarray of shape (3,)
        Linear elastic reactions at load factor 1.
    solve_s : float
        Wall time, set-up included.
    complete : bool
        False in the curve that a `CurveStopped` carries.
    """

    load_factor: np.ndarray
    reaction_n: dict[str, np.ndarray]
    yielded_fraction: np.ndarray
    external_work_nmm: np.ndarray
    stored_energy_nmm: np.ndarray
    dissipated_nmm: np.ndarray
    hourglass_loss_nmm: np.ndarray
    newton_steps: np.ndarray
    cg_iterations: np.ndarray
    cut_backs: np.ndarray
    residual: np.ndarray
    plastic_strain: np.ndarray
    yielded: np.ndarray
    damage: np.ndarray
    displacement_mm: np.ndarray
    elastic_reaction_n: dict[str, np.ndarray]
    solve_s: float
    complete: bool = True


class CurveStopped(SolveError):
    """No equilibrium was found beyond some load.

    Parameters
    ----------
    detail : str
    remedy : str
    curve : Curve
        All states up to there, the last good one at its end.
    """

    def __init__(self, detail: str, remedy: str, curve: Curve) -> None:
        super().__init__(Reason.STEP_TOO_SMALL, detail, remedy=remedy)
        self.curve = curve

    def __reduce__(self) -> tuple[object, ...]:
        return (CurveStopped, (self.detail, self.remedy, self.curve))


@dataclass
class _Record:
    """One row of the curve."""

    factor: float
    held: np.ndarray
    energies: np.ndarray
    work: float
    residual: float
    yielded: float
    newton: int = 0
    inner: int = 0
    cut_backs: int = 0


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
    stress_points: int = 1,
    progress: Callable[[float], None] | None = None,
) -> Curve:
    """Follow the elastoplastic response of a model, with softening if the material has it, through a sequence of loads.

    Parameters
    ----------
    model : VoxelModel
        Isotropic.
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
    stress_points : {1, 8}
        Points of stress in a voxel. With one, on its mean strain, voxels do not lock in plastic flow. Eight make it the
        fully integrated element of other codes (C3D8), which yields in bending as its fibres do and locks in plastic flow;
        1.5 to 2 times the time, 710 bytes more per voxel of the box (docs/solver.md, 5.5).
    progress : callable, optional
        Called with each load factor when its state is found.

    Raises
    ------
    CurveStopped
        A `SolveError` with the reason ``step_too_small`` and the curve so far, if a load step fails even at a 64th of its
        length, or needs more than 40 cuts, or if parts of the body move apart by more than half of its size: for forces the
        body cannot carry them; under prescribed displacements it breaks at once (snap-back).
    SolveError
        As `fea.solve`; ``bad_material_law`` for orthotropic models.
    """
    began = time.perf_counter()
    factors = real_numbers(load_factors, Reason.BAD_CONDITION, "the load factor").ravel()
    if not np.isfinite(factors).all():
        raise SolveError(Reason.BAD_CONDITION, "a load factor is not finite.")
    if isinstance(rtol, bool) or not isinstance(rtol, (int, float, np.floating)) or not 0 < rtol < 1:
        raise SolveError(Reason.BAD_CONDITION, f"the tolerance is {rtol!r}; it must lie between 0 and 1.")
    if stress_points not in (1, POINTS):
        raise SolveError(Reason.BAD_CONDITION, f"a voxel has 1 or {POINTS} points of stress, not {stress_points!r}.")
    if model.orthotropy is not None:
        raise SolveError(Reason.BAD_MATERIAL_LAW, "yield laws are for isotropic voxels; the model is orthotropic.")
    solver = Solver(model, prescribed, threads=threads, floating=floating, storage="rows")
    # the load factor multiplies the whole field, so the linear solution is the best first guess there is
    elastic = solver.solve(forces=forces, rtol=_LINEAR_RTOL)
    load = force_field(solver.layout, forces, solver.touched) if forces else None
    body = Body(solver, material, load, points=stress_points)
    path = _Path(body, solver.layout.field_in(elastic.displacement_mm))
    stopped = False
    for factor in factors:
        stopped = not path.advance(float(factor), rtol, max_newton_steps)
        if stopped:
            break
        if progress is not None:
            progress(float(factor))
    curve = _curve(path, elastic.reaction_n, time.perf_counter() - began)
    if stopped and path.flowed:
        raise CurveStopped(
            f"beyond load factor {path.now.factor:.6g} parts of the body move apart by more than half of its size.",
            "It does not carry these forces, or the displacements are too large for small strains.",
            replace(curve, complete=False),
        )
    if stopped:
        raise CurveStopped(
            f"no equilibrium was found beyond load factor {path.now.factor:.6g} (residual {path.worst:.2g}).",
            "If forces are prescribed, the body may not carry them: prescribe displacements. If displacements are, it breaks "
            "here; the curve up to this load is in the error.",
            replace(curve, complete=False),
        )
    return curve


class _Path:
    """The states that a body has gone through."""

    def __init__(self, body: Body, unit: np.ndarray) -> None:
        self.body, self.unit = body, unit
        held = np.zeros(len(body.solver.conditions.at))
        self.now = State(0.0, np.zeros_like(unit), held, np.zeros(3), 0.0, 0, 0)
        self.earlier: State | None = None
        self.work, self.worst, self.flowed = 0.0, 0.0, False
        self.lost = np.zeros(2)  # dissipation, and loss of the hourglass modes
        self.records = [_Record(0.0, held, np.zeros(3), 0.0, 0.0, 0.0)]

    def advance(self, goal: float, rtol: float, max_newton_steps: int) -> bool:
        """Go to a load factor, in as many pieces as it takes, and record the state there (or the last that was found)."""
        body, begin = self.body, self.now
        smallest = _SMALLEST_PART * abs(goal - begin.factor)
        pieces, cuts, newton, inner = [goal], 0, 0, 0
        while pieces:
            found = equilibrium(body, self._guess(pieces[-1]), pieces[-1], rtol, max_newton_steps)
            newton, inner = newton + found.newton, inner + found.inner
            if found.residual <= rtol and self._flows(found.u):
                self.flowed = True
                break
            if found.residual <= rtol:
                pieces.pop()
                self._accept(found)
                continue
            cuts += 1
            self.worst = found.residual
            piece = (pieces[-1] - self.now.factor) / 2
            if abs(piece) < smallest or cuts > _CUT_BACKS:
                break
            pieces.append(self.now.factor + piece)
        if not pieces or self.now is not begin:
            now = self.now
            energies = np.array([now.energies[0], *self.lost])
            record = _Record(now.factor, now.held, energies, self.work, now.residual, body.yielded_fraction())
            record.newton, record.inner, record.cut_backs = newton, inner, cuts
            self.records.append(record)
        return not pieces

    def _flows(self, u: np.ndarray) -> bool:
        """Whether parts of the body have moved apart by more than half of its size.

        Strains are not small then. Under forces it means that no equilibrium exists: what balances them is the little
        stiffness that hourglass modes keep.
        """
        layout, level = self.body.solver.rows()
        size = max(n * h for n, h in zip(layout.shape, self.body.solver.model.spacing_mm, strict=True))
        material = level.inverse > 0  # nodes without material stay at zero, however far the supports carry the rest
        material.reshape(-1)[self.body.solver.conditions.at] = True
        moved = (u[:, :, c][material[:, :, c]] for c in range(u.shape[2]))
        return any(float(np.ptp(component)) > _LARGEST_MOVE * size for component in moved if component.size)

    def _guess(self, goal: float) -> np.ndarray:
        """First guess for the next state: the last increment continued, or the elastic solution at the start."""
        now, earlier, conditions = self.now, self.earlier, self.body.solver.conditions
        if earlier is None or now.factor == earlier.factor:
            guess = self.body.moved(now.u, goal - now.factor, self.unit)
        else:
            part = (goal - now.factor) / (now.factor - earlier.factor)
            guess = self.body.moved(now.u, part, now.u - earlier.u)
        guess.reshape(-1)[conditions.at] = goal * conditions.values_mm
        return guess

    def _accept(self, found: State) -> None:
        """Make the plastic strains of a state the ones from which the next step starts."""
        before, body = self.now, self.body
        body.commit(found.u)
        # work done on the body, by the trapezoidal rule
        values = body.solver.conditions.values_mm
        self.work += (found.factor - before.factor) * 0.5 * float(values @ (before.held + found.held))
        if body.load is not None:
            self.work += 0.5 * (before.factor + found.factor) * float(np.vdot(body.load, found.u - before.u))
        self.lost += found.energies[1:]
        self.now, self.earlier = found, before


def _curve(path: _Path, elastic: dict[str, np.ndarray], seconds: float) -> Curve:
    body, records = path.body, path.records
    solver, load, layout = body.solver, body.load, body.layout
    conditions = solver.conditions
    reactions = {}
    for name, (at, component) in conditions.sets.items():
        where = np.searchsorted(conditions.at, at)
        rows = []
        for record in records:
            force = record.held[where]
            if load is not None:
                force = force - record.factor * load.reshape(-1)[at]
            rows.append(np.bincount(component, force, minlength=3))
        reactions[name] = np.array(rows)
    _, ny, nx = layout.internal_shape
    plastic, damaged = np.zeros(solver.model.shape), np.zeros(solver.model.shape)
    layout.voxels_in(plastic)[:] = body.kept(KEPT_ALPHA)[:, :ny, :, :nx].mean(axis=2)
    layout.voxels_in(damaged)[:] = body.kept(KEPT_DAMAGE)[:, :ny, :, :nx].mean(axis=2)
    energies = np.array([record.energies for record in records])
    return Curve(
        load_factor=np.array([record.factor for record in records]),
        reaction_n=reactions,
        yielded_fraction=np.array([record.yielded for record in records]),
        external_work_nmm=np.array([record.work for record in records]),
        stored_energy_nmm=energies[:, 0],
        dissipated_nmm=energies[:, 1],
        hourglass_loss_nmm=energies[:, 2],
        newton_steps=np.array([record.newton for record in records]),
        cg_iterations=np.array([record.inner for record in records]),
        cut_backs=np.array([record.cut_backs for record in records]),
        residual=np.array([record.residual for record in records]),
        plastic_strain=plastic,
        yielded=plastic > 0,
        damage=damaged,
        displacement_mm=layout.field_out(path.now.u),
        elastic_reaction_n=elastic,
        solve_s=seconds,
    )
