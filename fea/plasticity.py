"""The yield laws that a model can be given.

    q + b p - c (sigma_y + H alpha) <= 0,      b = 3 (1 - r) / (1 + r),   c = 2 r / (1 + r)

with the von Mises stress q, the mean stress p (tension positive), the uniaxial compressive yield stress sigma_y, the ratio r of
tensile to compressive yield stress, and alpha, the plastic strain of a compressed bar. r = 1 is von Mises, r < 1
Drucker-Prager; the flow is associated. `fea.damage` is what can follow; what a voxel
does with both is in `fea.yielding`. Derivations and checks are in docs/solver.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fea.damage import NEVER, Softening
from fea.errors import Reason, SolveError
from fea.model import real_numbers


@dataclass(frozen=True, eq=False)
class YieldMaterial:
    """When and how the voxels of a model yield.

    Parameters
    ----------
    yield_stress_mpa : ndarray of shape (nz, ny, nx) or float
        Uniaxial yield stress in compression; inf = stays elastic. Ignored in void voxels.
    hardening_ratio : float
        Plastic modulus H divided by Young's modulus: after yield a bar has the slope E H / (E + H).
    criterion : {"von_mises", "drucker_prager"}
    tension_ratio : float
        Tensile yield stress divided by the compressive one, in (0, 1]; only for "drucker_prager".
    softening : Softening, optional
        None: no damage.

    Raises
    ------
    SolveError
        ``bad_material_law``.
    """

    yield_stress_mpa: np.ndarray | float
    hardening_ratio: float = 0.0
    criterion: Literal["von_mises", "drucker_prager"] = "von_mises"
    tension_ratio: float = 1.0
    softening: Softening | None = None

    def __post_init__(self) -> None:
        stress = real_numbers(self.yield_stress_mpa, Reason.BAD_MATERIAL_LAW, "the yield stress")
        if np.isnan(stress).any() or (stress < 0).any():
            raise SolveError(Reason.BAD_MATERIAL_LAW, "yield stresses must be positive numbers (or infinite).")
        if not 0 <= self.hardening_ratio < np.inf:
            raise SolveError(Reason.BAD_MATERIAL_LAW, f"the hardening ratio is {self.hardening_ratio}.")
        if self.criterion not in ("von_mises", "drucker_prager"):
            raise SolveError(Reason.BAD_MATERIAL_LAW, f"there is no criterion '{self.criterion}'.")
        if not 0 < self.tension_ratio <= 1:
            raise SolveError(Reason.BAD_MATERIAL_LAW, f"the tension ratio {self.tension_ratio} is not in (0, 1].")
        if self.criterion == "von_mises" and self.tension_ratio != 1:
            raise SolveError(Reason.BAD_MATERIAL_LAW, "von Mises yield is the same in tension and compression.")

    def cone(self) -> tuple[float, float]:
        """The numbers b and c of the yield function."""
        r = self.tension_ratio
        return 3 * (1 - r) / (1 + r), 2 * r / (1 + r)

    def stress_for(self, solid: np.ndarray) -> np.ndarray:
        """Yield stress per voxel as float32, a large number where the voxel never yields.

        Raises
        ------
        SolveError
            ``bad_material_law`` if the shape is not that of the model or a solid voxel has zero yield stress.
        """
        stress = np.asarray(self.yield_stress_mpa, dtype=np.float64)
        if stress.ndim and stress.shape != solid.shape:
            raise SolveError(
                Reason.BAD_MATERIAL_LAW, f"the yield stress has shape {stress.shape}, the model {solid.shape}."
            )
        stress = np.broadcast_to(stress, solid.shape)
        weak = int(np.count_nonzero(stress[solid] <= 0))
        if weak:
            raise SolveError(
                Reason.BAD_MATERIAL_LAW,
                f"{weak} solid voxels have a yield stress of zero.",
                remedy="Give them a small positive one, or make them void.",
            )
        return np.where(solid, np.minimum(stress, NEVER), NEVER).astype(np.float32)
