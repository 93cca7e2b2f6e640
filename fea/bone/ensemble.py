"""Strength with all its inputs varied together: a small designed ensemble instead of random draws.

Sixteen members move every uncertain input up or down by one standard uncertainty, in a two-level fractional factorial design of
resolution IV: over the members every input is up as often as down, whatever the others do, and no main effect is mixed with an
effect of two inputs together. Half the difference between the members in which an input is up and those in which it is down is
what one standard uncertainty of it does to the strength, the others varied as well. Nothing is random: the same model gives the
same ensemble.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fea.bone.assembly import TestModel, TestRefused
from fea.bone.evaluate import TestResult, strength_alone
from fea.bone.resample import PosedBone

MEMBERS = 16
# Columns of the design as products of the four that number the members: two for the pose, two within each pose, and the four
# products of three. The generators are those of the minimum-aberration 2^(8-4) design (Box, Hunter and Hunter).
_COLUMNS = ((0,), (1,), (2,), (3,), (1, 2, 3), (0, 2, 3), (0, 1, 2), (0, 1, 3))
_RTOL = 1e-4  # with another model's displacements to start from, forces err by it and not by its square
# Members are made of voxels coarser by this factor, up to the largest that tests allow, and compared with a nominal model of
# the same voxels: what an input does relative to that hardly depends on the voxel (docs/strength.md), and costs a quarter.
_COARSER, _COARSEST_MM = 1.5, 2.0
_CURVATURE = np.sqrt(2.0)  # standard deviation of the square of a standard normal variable


@dataclass(frozen=True)
class Spread:
    """Standard uncertainties of what goes into a test.

    Attributes
    ----------
    tilt_deg : float
        Of each of the two angles of the pose.
    boundary_mm : float
        Of the place of the bone's surface, everywhere the same.
    density_mg_cm3 : dict of str to callable
        By name (at most two), the standard uncertainty of densities (mg/cm3 in and out), the same everywhere in the bone.
    """

    tilt_deg: float
    boundary_mm: float
    density_mg_cm3: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Outcome of a designed ensemble.

    Attributes
    ----------
    strength_n : float ndarray of shape (members,)
        By the criterion of the profile: strength of the test times what the member's is relative to its nominal model.
    stiffness_n_mm : float ndarray of shape (members,)
    levels : int8 ndarray of shape (members, inputs)
        -1 or +1: which way each input was moved.
    inputs : tuple of str
    voxel_mm : float
        Of the members.
    strength_parts, stiffness_parts : dict of str to float
        Relative standard uncertainty by input; ``interactions`` (what inputs do together) and ``curvature`` (the mean of the
        members lies beside the nominal value) besides.
    iterations : int
    seconds : float
        Wall time of all members.
    """

    strength_n: NDArray[np.float64]
    stiffness_n_mm: NDArray[np.float64]
    levels: NDArray[np.int8]
    inputs: tuple[str, ...]
    voxel_mm: float
    strength_parts: dict[str, float]
    stiffness_parts: dict[str, float]
    iterations: int
    seconds: float

    @property
    def range_n(self) -> tuple[float, float]:
        """Least and greatest strength among the members."""
        return float(self.strength_n.min()), float(self.strength_n.max())


@dataclass(frozen=True)
class _Member:
    strength_n: float
    stiffness_n_mm: float
    iterations: int


def run_ensemble(result: TestResult, spread: Spread, *, threads: int | None = None) -> Ensemble:
    """Sixteen members around a solved test.

    Four poses are built anew, of coarser voxels; within each, members differ by moduli and by the place of the surface, and
    start from the displacements of the member before. They run side by side, one thread each, which does not change them.

    Parameters
    ----------
    result : TestResult
        Of `fea.bone.evaluate.run`.
    spread : Spread
    threads : int, optional
        Members at a time; default: all cores, at most four.

    Raises
    ------
    TestRefused
        If a member cannot be solved: a test that fails within its uncertainties is not to be believed.
    ValueError
        If the model cannot be made again (`TestModel.variants` is None).
    """
    began = time.perf_counter()
    model = result.model
    if model.variants is None:
        raise ValueError("this model does not know how it was made")
    edge_mm = min(_COARSER * model.bone.grid.voxel_mm, _COARSEST_MM)
    inputs, columns = _inputs(model, spread)
    levels = design(columns)
    groups = [np.flatnonzero((levels[:, 0] == a) & (levels[:, 1] == b)) for a in (-1, 1) for b in (-1, 1)]
    members: dict[int, _Member] = {}

    def follow(group: NDArray[np.int64]) -> dict[int, _Member]:
        return _pose_group(model, spread, edge_mm, inputs, levels, group)

    workers = min(threads or os.cpu_count() or 1, len(groups))
    with ThreadPoolExecutor(workers) as pool:
        centre = pool.submit(_nominal, model, edge_mm)
        for found in pool.map(follow, groups):
            members |= found
    ordered = [members[number] for number in range(MEMBERS)]
    strength = np.array([member.strength_n for member in ordered])
    stiffness = np.array([member.stiffness_n_mm for member in ordered])
    nominal = centre.result()
    strength_ratio, stiffness_ratio = strength / nominal.strength_n, stiffness / nominal.stiffness_n_mm
    return Ensemble(
        result.strength_n[model.profile.strength] * strength_ratio,
        result.stiffness_n_mm * stiffness_ratio,
        levels,
        inputs,
        edge_mm,
        _parts(strength_ratio, levels, inputs),
        _parts(stiffness_ratio, levels, inputs),
        sum(member.iterations for member in ordered),
        time.perf_counter() - began,
    )


def _inputs(model: TestModel, spread: Spread) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """Names of the inputs that have an uncertainty, and the column of the design that each has."""
    if len(spread.density_mg_cm3) > 2:
        raise ValueError("at most two uncertainties of density")
    names = ["pose, first angle", "pose, second angle", "boundary", *spread.density_mg_cm3]
    if model.profile.law_uncertainty is not None:
        names += ["law, level", "law, exponent"]
    return tuple(names), _COLUMNS[: len(names)]


def design(columns: tuple[tuple[int, ...], ...]) -> NDArray[np.int8]:
    """Levels -1 and +1, shape (members, inputs), from the factors of each column."""
    number = np.arange(MEMBERS)
    basic = np.stack([1 - 2 * ((number >> bit) & 1) for bit in (3, 2, 1, 0)], axis=1)
    return np.stack([basic[:, list(which)].prod(axis=1) for which in columns], axis=1).astype(np.int8)


def _nominal(model: TestModel, edge_mm: float) -> _Member:
    """The test itself on the voxels of the members."""
    assert model.variants is not None
    strength, stiffness, solution = strength_alone(model.variants.tilted(0.0, 0.0, edge_mm), rtol=_RTOL, threads=1)
    return _Member(strength, stiffness, solution.iterations)


def _pose_group(
    model: TestModel,
    spread: Spread,
    edge_mm: float,
    inputs: tuple[str, ...],
    levels: NDArray[np.int8],
    group: NDArray[np.int64],
) -> dict[int, _Member]:
    """The members of one pose, one after the other."""
    assert model.variants is not None
    first, second = (float(levels[group[0], axis]) * spread.tilt_deg for axis in (0, 1))
    posed = model.variants.tilted(first, second, edge_mm)
    assert posed.variants is not None
    found: dict[int, _Member] = {}
    start: NDArray | None = None
    for number in group:
        level = dict(zip(inputs, levels[number].tolist(), strict=True))
        bone = with_moved_boundary(posed.bone, level["boundary"] * spread.boundary_mm)
        bone = with_shifted_density(bone, spread, level)
        profile = posed.profile.with_constants(level.get("law, level", 0), level.get("law, exponent", 0))
        changed = posed.variants.assembled(bone, profile)
        strength, stiffness, solution = strength_alone(changed, rtol=_RTOL, threads=1, initial=start)
        start = solution.displacement_mm
        found[int(number)] = _Member(strength, stiffness, solution.iterations)
    return found


def with_shifted_density(bone: PosedBone, spread: Spread, level: dict[str, int]) -> PosedBone:
    """Every density moved by its standard uncertainties, up or down."""
    there = bone.fraction > 0
    density = bone.density_mg_cm3[there].astype(np.float64)
    moved = density.copy()
    for name, uncertainty in spread.density_mg_cm3.items():
        moved += level[name] * uncertainty(density)
    shifted = bone.density_mg_cm3.copy()
    shifted[there] = moved
    return replace(bone, density_mg_cm3=shifted)


def with_moved_boundary(bone: PosedBone, shift_mm: float) -> PosedBone:
    """The bone with its whole surface moved outwards (inwards if negative) by less than a voxel.

    The fraction is carried along the normal by one upwind step of the level-set equation: the volume changes by the area
    of the surface times the shift. New voxels get the mean density of their neighbours.
    """
    fraction, h = bone.fraction.astype(np.float64), bone.grid.voxel_mm
    if abs(shift_mm) >= h:
        raise ValueError(f"a shift of {shift_mm} mm is not below the voxel of {h} mm")
    squared = np.zeros_like(fraction)
    sign = 1.0 if shift_mm > 0 else -1.0
    padded = np.pad(fraction, 1)
    middle = (slice(1, -1),) * 3
    neighbours = []
    for axis in range(3):
        sides = []
        for side in (slice(None, -2), slice(2, None)):
            window = tuple(side if a == axis else middle[a] for a in range(3))
            neighbours.append(window)
            sides.append(np.maximum(sign * (padded[window] - fraction), 0))
        squared += np.maximum(sides[0], sides[1]) ** 2
    moved = np.clip(fraction + (shift_mm / h) * np.sqrt(squared), 0, 1).astype(np.float32)
    fresh = (moved > 0) & (bone.fraction == 0)
    density = bone.density_mg_cm3
    if fresh.any():
        mass = np.pad(density.astype(np.float64) * fraction, 1)
        weight, total = np.zeros_like(fraction), np.zeros_like(fraction)
        for window in neighbours:
            weight += padded[window]
            total += mass[window]
        density = density.copy()
        density[fresh] = (total[fresh] / weight[fresh]).astype(np.float32)
    density = np.where(moved > 0, density, np.float32(0))
    return replace(bone, fraction=moved, density_mg_cm3=density)


def _parts(relative: NDArray[np.float64], levels: NDArray[np.int8], inputs: tuple[str, ...]) -> dict[str, float]:
    """Relative standard uncertainty by input, of responses that are 1 for the nominal model."""
    if not (np.isfinite(relative).all() and (relative > 0).all()):
        raise TestRefused("not_converged", "a member of the ensemble carries no load.")
    signs = levels.astype(np.float64)
    mean = float(relative.mean())
    effect = signs.T @ (relative - mean) / len(relative)
    rest = relative - mean - signs @ effect
    parts = {name: abs(float(size)) for name, size in zip(inputs, effect, strict=True)}
    pose = [parts.pop(name) for name in inputs[:2]]
    return {
        "pose": float(np.hypot(pose[0], pose[1])),
        **parts,
        "interactions": float(np.sqrt(np.mean(rest**2))),
        "curvature": float(_CURVATURE * abs(mean - 1)),
    }
