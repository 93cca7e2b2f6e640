"""What a calibration is: a line from Hounsfield units to mineral density, with its error and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.density.tissues import TissueSample
from pipeline.errors import Finding


@dataclass(frozen=True)
class Alternative:
    """Another calibration that was possible on the same scan, for comparison.

    `density_at_130_hu_mg_cm3` and its standard uncertainty make methods comparable at a glance; `comparable` is False
    when the mineral scale differs.
    """

    method: str
    slope_mg_cm3_per_hu: float
    intercept_mg_cm3: float
    density_at_130_hu_mg_cm3: float
    uncertainty_mg_cm3: float
    comparable: bool
    note: str


@dataclass(frozen=True)
class Calibration:
    """``density = slope * HU + intercept`` with its uncertainty.

    Attributes
    ----------
    slope_mg_cm3_per_hu, intercept_mg_cm3 : float
    mineral : str
        ``"K2HPO4"`` or ``"HA"``: the scale of the density, part of its unit.
    covariance : float ndarray of shape (2, 2)
        Of slope and intercept.
    systematic_relative : float
        Relative standard uncertainty of densities that no fit can see (beam hardening, marrow fat, tissue composition, an
        edge-enhancing kernel).
    random_mg_cm3 : float
        Standard uncertainty of one scan's densities beside the covariance of the line.
    method : str
        Identifier: ``phantom_...``, ``file``, ``internal_tissues`` or ``kvp_constant``.
    reference : str
        Where the method and its constants come from.
    kvp : float or None
        Of the scan; None if the header does not say.
    reason : str
        Why this method was used, for the reader of a report.
    findings : tuple of Finding
    samples : tuple of TissueSample
        What was measured in the image to arrive at the line.
    alternatives : tuple of Alternative
        The other methods that were possible on this scan.
    contrast_enhanced : bool
        Whether contrast agent was seen or recorded; measurements widen their uncertainty by it.
    budget : tuple of (str, float)
        Parts of the standard uncertainty at 100 mg/cm3 by name, in mg/cm3; all of them but what `kernel_share` adds.
    """

    slope_mg_cm3_per_hu: float
    intercept_mg_cm3: float
    mineral: str
    covariance: NDArray[np.float64]
    systematic_relative: float
    method: str
    reference: str
    kvp: float | None
    reason: str
    random_mg_cm3: float = 0.0
    findings: tuple[Finding, ...] = ()
    samples: tuple[TissueSample, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    contrast_enhanced: bool = False
    budget: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        covariance = np.array(self.covariance, dtype=float)
        if covariance.shape != (2, 2) or not np.isfinite(covariance).all():
            raise ValueError("covariance must be finite, of shape (2, 2)")
        if not (np.isfinite(self.slope_mg_cm3_per_hu) and self.slope_mg_cm3_per_hu > 0):
            raise ValueError(f"slope is {self.slope_mg_cm3_per_hu}")
        if self.mineral not in ("K2HPO4", "HA"):
            raise ValueError(f"mineral is {self.mineral!r}, expected K2HPO4 or HA")
        covariance.setflags(write=False)
        object.__setattr__(self, "covariance", covariance)

    @property
    def unit(self) -> str:
        """Unit of the densities, for example ``"mg/cm3 K2HPO4"``."""
        return f"mg/cm3 {self.mineral}"

    def density_mg_cm3(self, hu: ArrayLike) -> NDArray[np.float64]:
        """Density of each HU value; negative where the voxel attenuates less than water (fat, air)."""
        return np.asarray(self.slope_mg_cm3_per_hu * np.asarray(hu, dtype=float) + self.intercept_mg_cm3)

    def uncertainty_mg_cm3(self, density: float) -> float:
        """Standard uncertainty of a density due to the calibration alone."""
        hu = (density - self.intercept_mg_cm3) / self.slope_mg_cm3_per_hu
        gradient = np.array([hu, 1.0])
        fit = float(gradient @ self.covariance @ gradient)
        return float(np.sqrt(max(fit, 0.0) + self.random_mg_cm3**2 + (self.systematic_relative * density) ** 2))

    def relative_uncertainty(self, density: float) -> float:
        """`uncertainty_mg_cm3` divided by the density, whose absolute value is taken as at least 1 mg/cm3."""
        return self.uncertainty_mg_cm3(density) / max(abs(density), 1.0)

    def draws(self, n: int, seed: int) -> NDArray[np.float64]:
        """`n` pairs (slope, intercept) from the uncertainty of the calibration, for Monte Carlo.

        The systematic part scales both terms alike; the random part moves the intercept.
        """
        generator = np.random.default_rng(seed)
        pairs = generator.multivariate_normal(
            [self.slope_mg_cm3_per_hu, self.intercept_mg_cm3], self.covariance, size=n, method="eigh"
        )
        pairs *= 1.0 + self.systematic_relative * generator.standard_normal((n, 1))
        pairs[:, 1] += self.random_mg_cm3 * generator.standard_normal(n)
        return pairs


def spelt(budget: tuple[tuple[str, float], ...]) -> str:
    """The parts of a standard uncertainty in words."""
    return "standard uncertainty at 100 mg/cm3: " + ", ".join(f"{name} {part:.1f}" for name, part in budget)
