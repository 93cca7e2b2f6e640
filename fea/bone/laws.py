"""How density becomes modulus and yield stress: power laws, density scales, orthotropy, and how well constants are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fea.materials import Orthotropy


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """``offset + coefficient * density ** exponent`` from a density on, in g/cm3 of the law's own density."""

    from_g_cm3: float
    offset: float
    coefficient: float
    exponent: float


@dataclass(frozen=True, slots=True)
class Law:
    """A quantity in MPa as a function of density, in one or several pieces.

    Attributes
    ----------
    pieces : tuple of PowerLaw
        In rising order of `from_g_cm3`; each holds up to the start of the next, the last without end.
    source : str
        Publication and tag.
    factor, turn, reference_g_cm3 : float
        The value is multiplied by ``factor * (density / reference_g_cm3) ** turn``: a law with changed constants.
    """

    pieces: tuple[PowerLaw, ...]
    source: str
    factor: float = 1.0
    turn: float = 0.0
    reference_g_cm3: float = 1.0

    def __call__(self, density_g_cm3: NDArray) -> NDArray[np.float64]:
        """Value in MPa, of any shape; negative densities count as zero."""
        density = np.maximum(np.asarray(density_g_cm3, float), 0.0)
        value = np.empty(density.shape)
        for piece in self.pieces:
            there = density >= piece.from_g_cm3
            value[there] = piece.offset + piece.coefficient * density[there] ** piece.exponent
        if self.turn != 0:
            value *= np.maximum(density / self.reference_g_cm3, 1e-3) ** self.turn
        return value * self.factor

    def sensitivity(self, density_g_cm3: float) -> float:
        """Relative change of the value by relative change of the density, d ln(value) / d ln(density)."""
        step = 1e-4 * density_g_cm3
        low, high = self(np.array([density_g_cm3 - step, density_g_cm3 + step]))
        middle = float(self(np.array([density_g_cm3]))[0])
        return float((high - low) / (2 * step) * density_g_cm3 / middle) if middle > 0 else 0.0


@dataclass(frozen=True, slots=True)
class DensityScale:
    """From calibrated mineral density to the density that the law is written in: ``slope * mineral + intercept``."""

    kind: str
    slope: float
    intercept_mg_cm3: float
    source: str

    def g_cm3(self, mineral_mg_cm3: NDArray) -> NDArray[np.float64]:
        """Density of the law in g/cm3 from mineral density in mg/cm3."""
        return (self.slope * np.asarray(mineral_mg_cm3, float) + self.intercept_mg_cm3) / 1000.0


@dataclass(frozen=True, slots=True)
class BoneOrthotropy:
    """Elastic constants along the axes of a vertebral body, as ratios to the modulus of the law, which is the axial one.

    Attributes
    ----------
    modulus_ratio : (float, float, float)
        Along superior, posterior and left.
    poisson : (float, float, float)
        Superior-posterior, superior-left and posterior-left: contraction along the second under stress along the first.
    shear_ratio : (float, float, float)
        Superior-posterior, superior-left and posterior-left.
    source : str
    """

    modulus_ratio: tuple[float, float, float]
    poisson: tuple[float, float, float]
    shear_ratio: tuple[float, float, float]
    source: str

    def law(self, isotropic: NDArray[np.bool_] | None = None) -> Orthotropy:
        """The law as the solver takes it; `isotropic` marks the voxels of cement."""
        return Orthotropy.from_constants(self.modulus_ratio, self.poisson, self.shear_ratio, isotropic)


@dataclass(frozen=True, slots=True)
class LawUncertainty:
    """How well the constants of the law are known.

    Attributes
    ----------
    level : float
        Relative standard uncertainty of modulus and yield stress at the density `reference_g_cm3` of the law.
    exponent : float
        Standard uncertainty of the exponent about that density.
    reference_g_cm3 : float
    source : str
    """

    level: float
    exponent: float
    reference_g_cm3: float
    source: str
