"""Softening after yield by isotropic damage: the law, and its solution for one voxel.

How a row of voxels softens is in `fea.yielding`; derivation and checks are in docs/solver.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from fea.errors import Reason, SolveError

NEVER = 1e30  # MPa, stands for an infinite yield stress in float32
_STEEPEST = 0.95  # of the brittleness at which a voxel would snap back


@dataclass(frozen=True, eq=False)
class Softening:
    """Loss of strength after yield by isotropic damage, regularised by the energy per area of the failing layer.

    The nominal stress is (1 - d) times that of the plastic law, with

        1 - d = residual + (1 - residual) exp(-(alpha + d sigma_y / E) l / w_f),   w_f = G_f / ((1 - residual) sigma_y)

    where alpha + d sigma_y / E is the inelastic strain of a bar and l the cube root of the voxel's volume, so that its
    product with l is the displacement across the failing layer of voxels: stress against that displacement, and with it
    the energy per area, does not depend on the voxel (crack band, Bazant and Oh 1983).

    Parameters
    ----------
    fracture_energy_n_mm : ndarray of shape (nz, ny, nx) or float
        G_f, energy per area (N/mm = mJ/mm2) that failure takes beyond the residual strength; inf = no damage.
    residual_ratio : float
        Strength that remains, in [0, 1). Zero leaves voxels without any stiffness.

    Raises
    ------
    SolveError
        ``bad_material_law``.
    """

    fracture_energy_n_mm: np.ndarray | float
    residual_ratio: float = 0.05

    def __post_init__(self) -> None:
        energy = np.asarray(self.fracture_energy_n_mm, dtype=np.float64)
        if np.isnan(energy).any() or (energy <= 0).any():
            raise SolveError(Reason.BAD_MATERIAL_LAW, "fracture energies must be positive numbers (or infinite).")
        if not 0 <= self.residual_ratio < 1:
            raise SolveError(Reason.BAD_MATERIAL_LAW, f"the residual ratio {self.residual_ratio} is not in [0, 1).")

    def rate_for(self, strength: np.ndarray, modulus: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
        """l / w_f of every voxel as float32, zero where it never yields or never softens.

        Parameters
        ----------
        strength, modulus : ndarray of shape (nz, ny, nx)
            Yield stress (from `YieldMaterial.stress_for`) and Young's modulus, MPa.

        Raises
        ------
        SolveError
            ``bad_material_law`` if the shapes differ, or if a voxel is so large that it would snap back: its elastic
            energy at yield would exceed what failure may take.
        """
        energy = np.asarray(self.fracture_energy_n_mm, dtype=np.float64)
        if energy.ndim and energy.shape != strength.shape:
            raise SolveError(
                Reason.BAD_MATERIAL_LAW, f"the fracture energy has shape {energy.shape}, the model {strength.shape}."
            )
        yields = (strength < NEVER) & (modulus > 0)
        length = float(np.cbrt(np.prod(spacing_mm)))
        lost = (1 - self.residual_ratio) * strength.astype(np.float64)
        rate = np.where(yields, length * lost / energy, 0.0)
        # the slope of d over alpha is finite if this is below one
        brittleness = np.where(yields, rate * lost / np.where(yields, modulus, 1.0), 0.0)
        if (brittleness > _STEEPEST).any():
            raise SolveError(
                Reason.BAD_MATERIAL_LAW,
                f"the most brittle voxel would snap back: voxels must be {brittleness.max() / _STEEPEST:.3g} times smaller, or "
                "the fracture energy so much larger.",
            )
        return rate.astype(np.float32)


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def damage(inelastic: float, elastic: float, residual: float) -> tuple[float, float]:
    """Damage d, and its derivative in the first argument, from

        1 - d = residual + (1 - residual) exp(-(inelastic + d elastic))

    with `inelastic` = alpha l / w_f and `elastic` = (sigma_y / E) l / w_f, which times (1 - residual) is below one, so
    that there is one root. The difference of the two sides is concave in d: Newton's method passes the root in the
    first step at most, and comes back to it monotonically.
    """
    span = 1.0 - residual
    d = 0.0
    for _ in range(40):
        rest = span * np.exp(-(inelastic + d * elastic))
        step = (span - d - rest) / (1.0 - rest * elastic)
        d += step
        if abs(step) < 1e-14:
            break
    rest = span * np.exp(-(inelastic + d * elastic))
    return d, rest / (1.0 - rest * elastic)
