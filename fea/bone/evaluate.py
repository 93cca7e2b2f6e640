"""Solving a virtual test and reading strength from the solution: stiffness, strain energy, first yield, criteria."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from fea.bone.assembly import TestModel, TestRefused
from fea.bone.profiles import Criterion
from fea.errors import SolveError
from fea.nonlinear import solve_curve
from fea.plasticity import YieldMaterial
from fea.solve import solve

# Parts of the end displacement at which the elastic-plastic curve is computed: close where bone yields, wide on the plateau.
_EQUILIBRIUM = 1e-3  # of the reactions; a tenth of it moves the strength of a femur by 2e-5
_CURVE_STEPS = (0.12, 0.2, 0.28, 0.38, 0.52, 0.72, 1.0)
_OFFSET_STRAIN = 0.002


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
        Von Mises stress at the centre of the voxel over its yield stress at the applied displacement; None without a yield law.
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


def run_linear(model: TestModel, *, rtol: float = 1e-6, threads: int | None = None) -> TestResult:
    """Solve a test linearly and apply the criteria that a linear solution allows.

    Raises
    ------
    TestRefused
        ``not_converged`` with what the solver said, or ``no_load_carried`` if the bone transfers no force.
    """
    began = time.perf_counter()
    try:
        solution = solve(model.voxel_model(), model.supports, rtol=rtol, threads=threads, floating="remove")
    except SolveError as error:
        raise TestRefused("not_converged", f"{error.reason.value}: {error}") from error
    force = abs(float(solution.reaction_n[model.loaded][model.load_axis]))
    stiffness = force / model.applied_mm
    energy, strain, mises = element_fields(
        solution.displacement_mm, model.modulus_mpa, model.is_bone, model.bone.grid.voxel_mm, model.profile.poisson
    )
    weight = model.bone.fraction[model.is_bone].astype(float)
    profile = model.profile
    critical = _weighted_quantile(strain[model.is_bone], weight, 1 - profile.pistoia_volume_fraction)
    if not (force > 0 and critical > 0):
        raise TestRefused("no_load_carried", "the model transfers no force from the loaded to the held side.")
    strength = {Criterion.PISTOIA: force * profile.pistoia_strain / critical}
    if "body" in model.lengths_mm:
        height_mm = model.lengths_mm[profile.linear_rule_height]
        strength[Criterion.LINEAR_RULE] = profile.linear_rule_coefficient * height_mm * stiffness
    else:
        strength[Criterion.FIXED_DISPLACEMENT] = force
    ratio, first_yield = None, None
    if profile.yield_stress is not None:
        ratio = np.zeros_like(mises)
        np.divide(mises, model.yield_stress_mpa, out=ratio, where=model.is_bone)
        first_yield = force / max(_weighted_quantile(ratio[model.is_bone], weight, 0.999), 1e-30)
    return TestResult(
        model=model,
        force_n=force,
        stiffness_n_mm=stiffness,
        strength_n=strength,
        curve=np.array([[0.0, 0.0], [model.applied_mm, force]]),
        energy_density_mpa=energy,
        effective_strain=strain,
        yield_ratio=ratio,
        first_yield_n=first_yield,
        dof=solution.dof,
        iterations=solution.iterations,
        residual=solution.residual,
        seconds=time.perf_counter() - began,
        reactions_n={name: (float(z), float(y), float(x)) for name, (z, y, x) in sorted(solution.reaction_n.items())},
    )


def run(model: TestModel, *, rtol: float = 1e-6, threads: int | None = None) -> TestResult:
    """Solve a test as its profile's criterion demands: linearly, or linearly and then with yield."""
    result = run_linear(model, rtol=rtol, threads=threads)
    if model.profile.strength is Criterion.NONLINEAR_STRAIN:
        return add_yield(result, threads=threads)
    return result


def add_yield(result: TestResult, *, threads: int | None = None) -> TestResult:
    """The elastic-plastic curve of a test that was solved linearly, with the criteria that need it.

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
    body_mm = model.lengths_mm.get("body")
    end_mm = profile.nonlinear_strain * body_mm if body_mm is not None else model.applied_mm
    steps_mm = np.array(_CURVE_STEPS) * end_mm
    criterion: Literal["von_mises", "drucker_prager"] = "von_mises" if profile.tension_ratio == 1 else "drucker_prager"
    material = YieldMaterial(model.yield_stress_mpa, profile.hardening_ratio, criterion, profile.tension_ratio)
    try:
        curve = solve_curve(
            model.voxel_model(),
            model.supports,
            material,
            steps_mm / model.applied_mm,
            rtol=_EQUILIBRIUM,
            threads=threads,
            floating="remove",
        )
    except SolveError as error:
        raise TestRefused("not_converged", f"{error.reason.value}: {error}") from error
    force = np.abs(curve.reaction_n[model.loaded][:, model.load_axis])
    points = np.column_stack([np.append(0.0, steps_mm), force])
    strength = dict(result.strength_n)
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
    )


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


def element_fields(
    displacement_mm: NDArray, modulus_mpa: NDArray, where: NDArray[np.bool_], voxel_mm: float, poisson: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Strain energy density (MPa), energy-equivalent strain and von Mises stress (MPa) of the voxels in `where`.

    Energy is that of the whole trilinear element, integrated exactly; stress is taken at its centre.
    """
    energy = np.zeros(modulus_mpa.shape, np.float32)
    strain = np.zeros(modulus_mpa.shape, np.float32)
    mises = np.zeros(modulus_mpa.shape, np.float32)
    stiffness, gradient = _unit_cube(poisson)
    _element_fields(displacement_mm, modulus_mpa, where, voxel_mm, poisson, stiffness, gradient, energy, strain, mises)
    return energy, strain, mises


@lru_cache(maxsize=4)
def _unit_cube(poisson: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Stiffness (24, 24) of the cube of edge 1 and modulus 1, and the shape-function gradients (8, 3) at its centre.

    Corners in order of (z, y, x), each 0 or 1, x fastest; components z, y, x.
    """
    corners = np.array([[z, y, x] for z in (0, 1) for y in (0, 1) for x in (0, 1)], float)
    first = poisson / ((1 + poisson) * (1 - 2 * poisson))
    second = 0.5 / (1 + poisson)

    def gradients(point: NDArray) -> NDArray[np.float64]:
        factor = np.where(corners == 1, point, 1 - point)
        sign = np.where(corners == 1, 1.0, -1.0)
        return np.stack(
            [sign[:, 0] * factor[:, 1] * factor[:, 2], sign[:, 1] * factor[:, 0] * factor[:, 2],
             sign[:, 2] * factor[:, 0] * factor[:, 1]], axis=1
        )  # fmt: skip

    stiffness = np.zeros((24, 24))
    abscissae = 0.5 + np.array([-0.5, 0.5]) / np.sqrt(3)
    for z in abscissae:
        for y in abscissae:
            for x in abscissae:
                g = gradients(np.array([z, y, x]))
                block = first * np.einsum("ap,bq->apbq", g, g) + second * np.einsum("aq,bp->apbq", g, g)
                block += second * np.einsum("ar,br,pq->apbq", g, g, np.eye(3))
                stiffness += block.reshape(24, 24) / 8
    return stiffness, gradients(np.full(3, 0.5))


@njit(cache=True, nogil=True)
def _element_fields(u, modulus, where, edge, poisson, stiffness, gradient, energy, strain, mises):  # type: ignore[no-untyped-def]
    nz, ny, nx = modulus.shape
    twice_second = 1 / (1 + poisson)
    d = np.empty(24)
    h = np.empty((3, 3))
    for k in range(nz):
        for j in range(ny):
            for i in range(nx):
                if not where[k, j, i]:
                    continue
                n = 0
                for dz in range(2):
                    for dy in range(2):
                        for dx in range(2):
                            for c in range(3):
                                d[n] = u[k + dz, j + dy, i + dx, c]
                                n += 1
                work = 0.0
                for a in range(24):
                    row = 0.0
                    for b in range(24):
                        row += stiffness[a, b] * d[b]
                    work += row * d[a]
                work = max(work, 0.0) / (edge * edge)  # u K u of the unit modulus, per volume
                e = float(modulus[k, j, i])
                energy[k, j, i] = 0.5 * e * work
                strain[k, j, i] = np.sqrt(work)
                for p in range(3):
                    for q in range(3):
                        total = 0.0
                        for a in range(8):
                            total += gradient[a, q] * d[3 * a + p]
                        h[p, q] = total / edge
                trace = h[0, 0] + h[1, 1] + h[2, 2]
                deviatoric = 0.0
                for p in range(3):
                    for q in range(3):
                        s = 0.5 * (h[p, q] + h[q, p])
                        if p == q:
                            s -= trace / 3
                        deviatoric += s * s
                mises[k, j, i] = e * twice_second * np.sqrt(1.5 * deviatoric)
