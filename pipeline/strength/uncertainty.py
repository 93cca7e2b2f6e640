"""How uncertain a strength is: to first order in each source by itself, or by a designed ensemble of all of them together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fea.bone.assembly import TestRefused
from fea.bone.ensemble import MEMBERS, Ensemble, Spread, run_ensemble
from fea.bone.evaluate import (
    TestResult,
    pistoia_force_n,
    stiffness_change_by_boundary,
    stiffness_change_by_density,
)
from fea.bone.profiles import Criterion, VirtualTest
from pipeline.errors import Finding, Severity
from pipeline.strength.result import DensitySource, Strength
from reports.quantity import Quantity

_BOUNDARY_SD_VOXEL = 0.5 / np.sqrt(3)  # the surface lies anywhere within half a voxel of the edge of the mask
# Of each angle of the pose: working values, about what the poses of one bone in shifted, turned and thinned scans differ by.
_POSE_DEG = {VirtualTest.SPINE_COMPRESSION: 2.0, VirtualTest.HIP_SIDEWAYS_FALL: 4.0, VirtualTest.HIP_STANCE: 4.0}

FIRST_ORDER = "first order"
DESIGNED = f"designed ensemble of {MEMBERS}"


@dataclass(frozen=True)
class Basis:
    """What the uncertainty of a strength is computed from.

    Attributes
    ----------
    source : DensitySource
    boundary_mm : float
        Standard uncertainty of the place of the surface.
    """

    source: DensitySource
    boundary_mm: float

    @staticmethod
    def of(source: DensitySource, spacing_mm: NDArray) -> Basis:
        """From the source of the densities and the voxel edges of the image: the surface is as sharp as its pixels."""
        return Basis(source, float(_BOUNDARY_SD_VOXEL * np.sort(spacing_mm)[1]))


def first_order(result: TestResult, basis: Basis, *, of_strength: bool) -> dict[str, float]:
    """Relative standard uncertainty of strength or stiffness by source, each for itself, without further solutions."""
    density = result.model.bone.density_mg_cm3.astype(float)
    source = basis.source
    parts = {"boundary": stiffness_change_by_boundary(result, basis.boundary_mm)}
    if source.uncertainty is not None:
        parts["calibration"] = stiffness_change_by_density(result, source.uncertainty(density))
    if source.factor_uncertainty > 0:
        parts["mineral basis"] = stiffness_change_by_density(result, source.factor_uncertainty * density)
    if of_strength:
        parts |= _criterion(result)
    return {name: abs(part) for name, part in parts.items()}


def _criterion(result: TestResult) -> dict[str, float]:
    """What the choice of the criterion's constant leaves open, where a figure is known."""
    profile = result.model.profile
    if profile.strength is Criterion.PISTOIA:
        fraction = profile.pistoia_volume_fraction
        low, high = pistoia_force_n(result, 0.5 * fraction), pistoia_force_n(result, 2 * fraction)
        return {"criterion": abs(high - low) / (2 * result.strength_n[Criterion.PISTOIA])}
    if profile.criterion_uncertainty is not None:
        return {"criterion": profile.criterion_uncertainty}
    return {}


def quantity(result: TestResult, basis: Basis, parts: dict[str, float], *, of_strength: bool) -> Quantity:
    """Strength or stiffness with its uncertainty; the law itself is no part of it, it is in the profile.

    Parameters
    ----------
    result : TestResult
    basis : Basis
    parts : dict of str to float
        Relative standard uncertainty by source.
    of_strength : bool
    """
    profile = result.model.profile
    value = result.strength_n[profile.strength] if of_strength else result.stiffness_n_mm
    components = {name: part * value for name, part in sorted(parts.items())}
    missing = None
    if basis.source.uncertainty is None:
        missing = "the density image came without an uncertainty"
    return Quantity(
        value=value,
        unit="N" if of_strength else "N/mm",
        uncertainty=None if missing else float(np.sqrt(sum(part**2 for part in components.values()))),
        uncertainty_reason=missing,
        method=f"{result.model.test.value}, {profile.title}, {profile.definition if of_strength else 'linear stiffness'}",
        reference=profile.modulus.source + (f"; {profile.criteria_source}" if of_strength else ""),
        components=components,
    )


def with_ensemble(strength: Strength, *, threads: int | None = None) -> Strength:
    """The same strength with the uncertainty of a designed ensemble: calibration, boundary, pose and constants of the law.

    A test whose members cannot all be solved keeps its first-order uncertainty, with a warning.

    Parameters
    ----------
    strength : Strength
        As `vertebra_strength` and `femur_strength` give it.
    threads : int, optional
    """
    result, basis = strength.solved, strength.basis
    if result is None or basis is None or strength.strength is None:
        return strength
    try:
        ensemble = run_ensemble(result, _spread(result, basis), threads=threads)
    except TestRefused as refused:
        text = f"The uncertainty is of first order only: a test within the uncertainties fails ({refused.detail})"
        return replace(strength, findings=(*strength.findings, Finding("ensemble_failed", Severity.WARNING, text)))
    parts = ensemble.strength_parts | _criterion(result)
    return replace(
        strength,
        strength=quantity(result, basis, parts, of_strength=True),
        stiffness=quantity(result, basis, ensemble.stiffness_parts, of_strength=False),
        model=strength.model | _facts(ensemble),
        ensemble=ensemble,
    )


def _spread(result: TestResult, basis: Basis) -> Spread:
    source = basis.source
    densities = {}
    if source.uncertainty is not None:
        densities["calibration"] = source.uncertainty
    if source.factor_uncertainty > 0:
        relative = source.factor_uncertainty
        densities["mineral basis"] = lambda density: relative * density
    return Spread(_POSE_DEG[result.model.test], basis.boundary_mm, densities)


def _facts(ensemble: Ensemble) -> dict[str, float | int | str | bool]:
    low, high = ensemble.range_n
    return {
        "uncertainty": DESIGNED,
        "ensemble_members": len(ensemble.strength_n),
        "ensemble_voxel_mm": ensemble.voxel_mm,
        "ensemble_lowest_n": low,
        "ensemble_mean_n": float(ensemble.strength_n.mean()),
        "ensemble_highest_n": high,
        "ensemble_seconds": round(ensemble.seconds, 3),
    }
