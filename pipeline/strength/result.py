"""What a virtual test gives to the study record and the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fea.bone.ensemble import Ensemble
from fea.bone.evaluate import TestResult
from pipeline.errors import Finding
from reports.evidence import FieldCut
from reports.quantity import Quantity

if TYPE_CHECKING:
    from pipeline.strength.uncertainty import Basis


Uncertainty = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Standard uncertainty (mg/cm3) of densities (mg/cm3), fully correlated between voxels."""


@dataclass(frozen=True)
class DensitySource:
    """Where the density of a bone image comes from, and how well it is known.

    Attributes
    ----------
    factor : float
        From the mineral basis of the calibration to that of the profile.
    factor_uncertainty : float
        Relative.
    uncertainty : callable or None
        Of densities on the basis of the profile; None if nothing is known.
    findings : tuple of Finding
    """

    factor: float
    factor_uncertainty: float
    uncertainty: Uncertainty | None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Strength:
    """Outcome of one virtual test of one bone.

    Attributes
    ----------
    test : str
        ``spine-compression``, ``hip-sideways-fall`` or ``hip-stance``.
    profile : str
        Name and version of the profile: without it the strength means nothing.
    definition : str
        Which force is called the strength.
    strength : Quantity or None
        In N; None with a failure among the findings.
    stiffness : Quantity or None
        In N/mm.
    reaction_n : float
        Force at the applied displacement of the linear solution.
    curve : tuple of (float, float)
        Displacement (mm) and force (N).
    criteria_n : dict of str to float
        The force by every criterion that was evaluated.
    model : dict
        ``voxel_mm``, ``dof``, ``iterations``, ``residual``, ``seconds``, lengths, masses and the fingerprint of the profile.
    findings : tuple of Finding
    cuts : tuple of FieldCut
        Strain energy and, where there is a yield law, nearness to yield on a plane through the model, beside the CT.
    solved : TestResult or None
        The model with its three-dimensional fields, for whoever exports or draws more.
    basis : Basis or None
        What the uncertainty is computed from.
    ensemble : Ensemble or None
        Where the uncertainty comes from one: `pipeline.strength.with_ensemble`.
    """

    test: str
    profile: str
    definition: str
    strength: Quantity | None
    stiffness: Quantity | None
    reaction_n: float
    curve: tuple[tuple[float, float], ...]
    criteria_n: dict[str, float]
    model: dict[str, float | int | str | bool]
    findings: tuple[Finding, ...] = ()
    cuts: tuple[FieldCut, ...] = field(default=(), repr=False)
    solved: TestResult | None = field(default=None, repr=False, compare=False)
    basis: Basis | None = field(default=None, repr=False, compare=False)
    ensemble: Ensemble | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, eq=False)
class BoneImage:
    """One bone cut out of its volume, ready to be meshed.

    Attributes
    ----------
    density_mg_cm3 : float32 ndarray of shape (Z, Y, X)
        On the mineral basis of the profile.
    mask : bool ndarray of shape (Z, Y, X)
    index_to_lps : float ndarray of shape (4, 4)
        Of this part of the volume.
    grey : ndarray of shape (Z, Y, X)
        What the pictures show under the field: HU, or density.
    is_hu : bool
    """

    density_mg_cm3: NDArray[np.float32]
    mask: NDArray[np.bool_]
    index_to_lps: NDArray[np.float64]
    grey: NDArray
    is_hu: bool

    @property
    def spacing_mm(self) -> NDArray[np.float64]:
        """Voxel edges along (z, y, x)."""
        return np.asarray(np.linalg.norm(self.index_to_lps[:3, :3], axis=0))
