"""Solving a virtual test and reading strength from the solution: stiffness, strain energy, first yield, criteria."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fea.bone.assembly import Issue, TestModel, TestRefused
from fea.bone.profiles import Criterion
from fea.bone.voxel_fields import LoadShare, VoxelFields, load_share, voxel_fields
from fea.errors import SolveError
from fea.nonlinear import Curve, CurveStopped, solve_curve
from fea.plasticity import YieldMaterial
from fea.solve import Solution, Solver

_EQUILIBRIUM = 1e-3  # of the reactions; a tenth of it moves the strength of a femur by 2e-5
# Parts of the end displacement at which the elastic-plastic curve is computed: close where bone yields, wide on the plateau.
_CURVE_STEPS = (0.12, 0.2, 0.28, 0.38, 0.52, 0.72, 1.0)
_OFFSET_STRAIN = 0.002
_FIRST_YIELD_PART = 0.001  # of the bone volume: single voxels at the edge of a cap say little


@dataclass(frozen=True, eq=False)
class TestResult:
    """What a virtual test gave.

    Attributes
    ----------
    model : TestModel
    force_n : float
        On the loaded set at the applied displacement, along the load, compression positive.
    stiffness_n_mm : float
    strength_n : dict of Criterion to float
        By every criterion that the solution allows.
    curve : float ndarray of shape (N, 2)
        Displacement in mm and force in N, from the origin; two points for a linear solution.
    energy_density_mpa : float32 ndarray of shape (Z, Y, X)
        Strain energy per volume at the applied displacement; 0 outside the bone.
    effective_strain : float32 ndarray of shape (Z, Y, X)
        Energy-equivalent strain sqrt(2 U / E) at the applied displacement; 0 outside the bone.
    yield_ratio : float32 ndarray of shape (Z, Y, X) or None
        Stress at the centre of the voxel over its yield stress at the applied displacement, by the profile's criterion (von
        Mises, or Drucker-Prager where tension is weaker); None without a yield law.
    first_yield_n : float or None
        Force at which the first 0.1 % of the bone volume reaches its yield stress.
    dof, iterations : int
    residual, seconds : float
        `seconds` is the wall time of solution and evaluation.
    reactions_n : dict of str to tuple
        Force (z, y, x) on every support at the applied displacement, linear.
    plastic_strain : float32 ndarray of shape (Z, Y, X) or None
        Equivalent plastic strain at the end of the curve; None after a linear test.
    yielded_part : float or None
        Part of the bone volume with plastic strain at the end of the curve.
    displacement_mm : float32 ndarray of shape (Z+1, Y+1, X+1, 3)
        Of the linear solution, components z, y, x.
    load_share : LoadShare or None
        Of a vertebral body.
    first_failure : dict of str to float
        The regions of the bone, most affected first, with their part of the volume that reaches its yield stress first (the
        first 0.1 % of the bone), or without a yield law exceeds the critical strain of the Pistoia criterion first.
    issues : tuple of Issue
        What is to be said about the solution itself.
    """

    __test__ = False

    model: TestModel
    force_n: float
    stiffness_n_mm: float
    strength_n: dict[Criterion, float]
    curve: NDArray[np.float64]
    energy_density_mpa: NDArray[np.float32]
    effective_strain: NDArray[np.float32]
    yield_ratio: NDArray[np.float32] | None
    first_yield_n: float | None
    dof: int
    iterations: int
    residual: float
    seconds: float
    reactions_n: dict[str, tuple[float, float, float]]
    plastic_strain: NDArray[np.float32] | None = None
    yielded_part: float | None = None
    displacement_mm: NDArray[np.float32] = field(default_factory=lambda: np.zeros((1, 1, 1, 3), np.float32))
    load_share: LoadShare | None = None
    first_failure: dict[str, float] = field(default_factory=dict)
    issues: tuple[Issue, ...] = ()

    @property
    def strain_energy_mj(self) -> float:
        """Work of the loads in N mm at the applied displacement of the linear solution."""
        return 0.5 * self.force_n * self.model.applied_mm


def run_linear(
    model: TestModel,
    *,
    rtol: float = 1e-6,
    threads: int | None = None,
    initial: NDArray | None = None,
) -> TestResult:
    """Solve a test linearly and apply the criteria that a linear solution allows.

    Parameters
    ----------
    model : TestModel
    rtol : float
        Relative residual; forces err by its square.
    threads : int, optional
    initial : float ndarray of shape (Z+1, Y+1, X+1, 3), optional
        Displacements (mm) to begin with, those of a similar model.

    Raises
    ------
    TestRefused
        ``not_converged`` with what the solver said, or ``no_load_carried`` if the bone transfers no force.
    """
    began = time.perf_counter()
    solution, force = _solved(model, rtol, threads, initial)
    fields = _fields_of(model, solution)
    strain = fields.effective_strain
    critical = _critical_strain(model, strain)
    strength = _linear_strengths(model, force, critical)
    stiffness = force / model.applied_mm
    weight = model.bone.fraction[model.is_bone].astype(float)
    share = None
    if "body" in model.lengths_mm:
        voxel_mm = model.bone.grid.voxel_mm
        share = load_share(fields.normal_stress_mpa, model.bone.fraction, model.is_bone, voxel_mm, axis=model.load_axis)
    ratio = _yield_ratio(model, fields)
    first_yield = None
    failing = strain >= critical
    if ratio is not None:
        highest = max(_weighted_quantile(ratio[model.is_bone], weight, 1 - _FIRST_YIELD_PART), 1e-30)
        first_yield = force / highest
        failing = ratio >= highest
    return TestResult(
        model=model,
        force_n=force,
        stiffness_n_mm=stiffness,
        strength_n=strength,
        curve=np.array([[0.0, 0.0], [model.applied_mm, force]]),
        energy_density_mpa=fields.energy_density_mpa,
        effective_strain=strain,
        yield_ratio=ratio,
        first_yield_n=first_yield,
        dof=solution.dof,
        iterations=solution.iterations,
        residual=solution.residual,
        seconds=time.perf_counter() - began,
        reactions_n={name: (float(z), float(y), float(x)) for name, (z, y, x) in sorted(solution.reaction_n.items())},
        displacement_mm=solution.displacement_mm.astype(np.float32),
        load_share=share,
        first_failure=_by_region(model, failing & model.is_bone),
    )


def strength_alone(
    model: TestModel, *, rtol: float, threads: int | None = None, initial: NDArray | None = None
) -> tuple[float, float, Solution]:
    """Strength by the profile's criterion, stiffness (N/mm) and the linear solution, without anything else."""
    solution, force = _solved(model, rtol, threads, initial)
    criterion = model.profile.strength
    if criterion is Criterion.NONLINEAR_STRAIN:
        curve, stopped = _follow(model, _end_mm(model), threads)
        if stopped is not None:
            raise TestRefused("not_converged", stopped)
        plastic = float(np.abs(curve.reaction_n[model.loaded][:, model.load_axis]).max())
        return plastic, force / model.applied_mm, solution
    critical = 1.0
    if criterion is Criterion.PISTOIA:
        critical = _critical_strain(model, _fields_of(model, solution).effective_strain)
    return _linear_strengths(model, force, critical)[criterion], force / model.applied_mm, solution


def _solved(
    model: TestModel, rtol: float, threads: int | None, initial: NDArray | None = None
) -> tuple[Solution, float]:
    """The linear solution and the force on the loaded set along the load."""
    try:
        solver = Solver(model.voxel_model(), model.supports, threads=threads, floating="remove")
        solution = solver.solve(rtol=rtol, initial=initial)
    except SolveError as error:
        raise TestRefused("not_converged", f"{error.reason.value}: {error}") from error
    force = abs(float(solution.reaction_n[model.loaded][model.load_axis]))
    if not force > 0:
        raise TestRefused("no_load_carried", "the model transfers no force from the loaded to the held side.")
    return solution, force


def _fields_of(model: TestModel, solution: Solution) -> VoxelFields:
    law = model.profile.poisson if model.orthotropy is None else model.orthotropy.matrix
    voxel_mm = model.bone.grid.voxel_mm
    return voxel_fields(solution.displacement_mm, model.modulus_mpa, model.is_bone, voxel_mm, law, axis=model.load_axis)


def _critical_strain(model: TestModel, strain: NDArray) -> float:
    """The energy-equivalent strain that the critical part of the bone volume exceeds."""
    weight = model.bone.fraction[model.is_bone].astype(float)
    critical = _weighted_quantile(strain[model.is_bone], weight, 1 - model.profile.pistoia_volume_fraction)
    if not critical > 0:
        raise TestRefused("no_load_carried", "the model transfers no force from the loaded to the held side.")
    return critical


def _linear_strengths(model: TestModel, force_n: float, critical_strain: float) -> dict[Criterion, float]:
    """The criteria that a linear solution allows."""
    profile = model.profile
    strength = {Criterion.PISTOIA: force_n * profile.pistoia_strain / critical_strain}
    if "body" in model.lengths_mm:
        height_mm = model.lengths_mm[profile.linear_rule_height]
        strength[Criterion.LINEAR_RULE] = profile.linear_rule_coefficient * height_mm * force_n / model.applied_mm
    else:
        strength[Criterion.FIXED_DISPLACEMENT] = force_n
    return strength


def _yield_ratio(model: TestModel, fields: VoxelFields) -> NDArray[np.float32] | None:
    """Stress over yield stress by the profile's criterion, as in `fea.plasticity`."""
    profile = model.profile
    if profile.yield_stress is None:
        return None
    slope, level = YieldMaterial(1.0, 0.0, _criterion(model), profile.tension_ratio).cone()
    stress = ((fields.von_mises_mpa + slope * fields.mean_stress_mpa) / level).astype(np.float32)
    ratio = np.zeros(stress.shape, np.float32)
    np.divide(np.maximum(stress, 0), model.yield_stress_mpa, out=ratio, where=model.is_bone)
    return ratio


def _criterion(model: TestModel) -> Literal["von_mises", "drucker_prager"]:
    return "von_mises" if model.profile.tension_ratio == 1 else "drucker_prager"


def _by_region(model: TestModel, failing: NDArray[np.bool_]) -> dict[str, float]:
    """Part of the failing bone volume in each region, greatest first; regions without any are left out."""
    fraction = model.bone.fraction
    total = float(fraction[failing].sum(dtype=np.float64))
    parts = {
        name: float(fraction[failing & where].sum(dtype=np.float64)) / total for name, where in model.regions.items()
    }
    return {name: part for name, part in sorted(parts.items(), key=lambda item: -item[1]) if part > 0}


def run(model: TestModel, *, rtol: float = 1e-6, threads: int | None = None) -> TestResult:
    """Solve a test as its profile's criterion demands: linearly, or linearly and then with yield."""
    result = run_linear(model, rtol=rtol, threads=threads)
    if model.profile.strength is Criterion.NONLINEAR_STRAIN:
        return add_yield(result, threads=threads)
    return result


def add_yield(result: TestResult, *, threads: int | None = None, stress_points: int = 1) -> TestResult:
    """The elastic-plastic curve of a test that was solved linearly, with the criteria that need it.

    `stress_points` as in `fea.solve_curve`; eight are for comparison with other codes.

    The end displacement of the curve is the profile's strain times the height of the body in compression of a vertebra, and
    the applied displacement in a hip test.

    Raises
    ------
    TestRefused
        ``no_yield_law`` if the profile has none, ``not_converged`` with what the solver said.
    """
    began = time.perf_counter()
    model, profile = result.model, result.model.profile
    if profile.yield_stress is None:
        raise TestRefused("no_yield_law", f"{profile.title} has no yield law.")
    if model.orthotropy is not None:
        raise TestRefused("no_yield_law", f"{profile.title} is orthotropic; yield is for isotropic bone.")
    body_mm = model.lengths_mm.get("body")
    end_mm = _end_mm(model)
    curve, stopped = _follow(model, end_mm, threads, stress_points)
    force = np.abs(curve.reaction_n[model.loaded][:, model.load_axis])
    points = np.column_stack([curve.load_factor * model.applied_mm, force])
    strength = dict(result.strength_n)
    issues = result.issues
    if stopped is not None:
        reached = float(points[-1, 0] / end_mm)
        text = f"The elastic-plastic curve ended at {100 * reached:.0f} % of its way: {stopped}"
        if profile.strength is Criterion.NONLINEAR_STRAIN:
            raise TestRefused("not_converged", text)
        issues = (*issues, Issue("curve_stopped", True, text))
    else:
        strength[Criterion.NONLINEAR_STRAIN] = float(force.max())
    if body_mm is not None:
        offset = _offset_yield(points, result.stiffness_n_mm, _OFFSET_STRAIN * body_mm)
        if offset is not None:
            strength[Criterion.OFFSET_YIELD] = offset
    plastic = np.where(model.is_bone, curve.plastic_strain, 0).astype(np.float32)
    weight = model.bone.fraction[model.is_bone].astype(float)
    return replace(
        result,
        strength_n=strength,
        curve=points,
        plastic_strain=plastic,
        yielded_part=float(weight[plastic[model.is_bone] > 0].sum() / weight.sum()),
        iterations=result.iterations + int(curve.cg_iterations.sum()),
        residual=float(curve.residual.max()),
        seconds=result.seconds + time.perf_counter() - began,
        issues=issues,
    )


def _end_mm(model: TestModel) -> float:
    """Displacement at the end of the elastic-plastic curve."""
    body_mm = model.lengths_mm.get("body")
    return model.profile.nonlinear_strain * body_mm if body_mm is not None else model.applied_mm


def _follow(model: TestModel, end_mm: float, threads: int | None, stress_points: int = 1) -> tuple[Curve, str | None]:
    """The elastic-plastic curve up to a displacement, or as far as it could be followed and why no farther."""
    profile = model.profile
    material = YieldMaterial(model.yield_stress_mpa, profile.hardening_ratio, _criterion(model), profile.tension_ratio)
    factors = np.array(_CURVE_STEPS) * (end_mm / model.applied_mm)
    try:
        curve = solve_curve(
            model.voxel_model(),
            model.supports,
            material,
            factors,
            rtol=_EQUILIBRIUM,
            threads=threads,
            floating="remove",
            stress_points=stress_points,
        )
    except CurveStopped as stopped:
        if len(stopped.curve.load_factor) < 3:  # not even the first step beyond the elastic one
            raise TestRefused("not_converged", f"{stopped.reason.value}: {stopped}") from stopped
        return stopped.curve, stopped.detail
    except SolveError as error:
        raise TestRefused("not_converged", f"{error.reason.value}: {error}") from error
    return curve, None


def _offset_yield(curve: NDArray, stiffness_n_mm: float, offset_mm: float) -> float | None:
    """Force at which a curve (N, 2) of displacement and force crosses the elastic line shifted by `offset_mm`."""
    above = curve[:, 1] - stiffness_n_mm * (curve[:, 0] - offset_mm)
    crossed = np.flatnonzero((above[1:] <= 0) & (above[:-1] > 0))
    if len(crossed) == 0:
        return None
    first = int(crossed[0])
    part = above[first] / (above[first] - above[first + 1])
    return float(curve[first, 1] + part * (curve[first + 1, 1] - curve[first, 1]))


def stiffness_change_by_density(result: TestResult, shift_mg_cm3: NDArray) -> float:
    """Relative change of the stiffness when the mineral density of every voxel changes by `shift_mg_cm3` (Z, Y, X).

    To first order under a prescribed displacement the stored energy changes by the energy of each voxel times the relative
    change of its modulus, so no second solution is needed.
    """
    model = result.model
    bone = model.is_bone
    density = model.bone.density_mg_cm3[bone].astype(float)
    before = model.profile.materials(density).modulus_mpa.astype(float)
    after = model.profile.materials(density + shift_mg_cm3[bone]).modulus_mpa.astype(float)
    energy = result.energy_density_mpa[bone].astype(float) * model.bone.grid.voxel_mm**3
    return float(np.sum(energy * (after / before - 1))) / (0.5 * result.force_n * model.applied_mm)


def stiffness_change_by_boundary(result: TestResult, shift_mm: float) -> float:
    """Relative change of the stiffness, to first order, when the free surface of the bone moves outwards by `shift_mm`.

    The new layer stores energy at the density of the outer voxels. Surface under a cap does not count: there bone would
    take the place of cement.
    """
    model = result.model
    fraction, h = model.bone.fraction, model.bone.grid.voxel_mm
    cement = ndimage.binary_dilation((model.modulus_mpa > 0) & (fraction < 0.01))
    slope = np.sqrt(sum(step**2 for step in np.gradient(fraction.astype(np.float64))))
    area_mm2 = float(slope[~cement].sum()) * h**2  # the integral of the slope of the bone fraction is the surface
    outer = model.is_bone & ~ndimage.binary_erosion(model.modulus_mpa > 0, iterations=2) & ~cement
    bone_mm3 = float(fraction[outer].sum(dtype=np.float64)) * h**3
    if bone_mm3 == 0:
        return 0.0
    energy_per_mm3 = float(result.energy_density_mpa[outer].sum(dtype=np.float64)) * h**3 / bone_mm3
    return abs(shift_mm) * area_mm2 * energy_per_mm3 / (0.5 * result.force_n * model.applied_mm)


def pistoia_force_n(result: TestResult, volume_fraction: float) -> float:
    """Pistoia's force for another critical volume than that of the profile."""
    bone = result.model.is_bone
    critical = _weighted_quantile(
        result.effective_strain[bone], result.model.bone.fraction[bone].astype(float), 1 - volume_fraction
    )
    return result.force_n * result.model.profile.pistoia_strain / critical


def _weighted_quantile(values: NDArray, weights: NDArray, level: float) -> float:
    """The value that a part `level` of the weight does not exceed."""
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[order])
    at = int(np.searchsorted(below, level * below[-1]))
    return float(values[order[min(at, len(order) - 1)]])
