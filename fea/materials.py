"""Elastic laws whose axes lie along the grid, given as they stand in tables, and what they mean for a voxel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fea.element import elasticity, lame
from fea.errors import Reason, SolveError

if TYPE_CHECKING:
    from fea.model import VoxelModel

# Eigenvalues of the law (its shears in the units of its stretches) closer to zero than this part of the largest are
# refused: such a material has a motion without stiffness, and no solver tells that from a missing support.
_LEAST_STIFFNESS = 1e-6


@dataclass(frozen=True, eq=False)
class Orthotropy:
    """An orthotropic law with its axes along those of the grid, the same for all voxels up to their modulus.

    Parameters
    ----------
    matrix : float ndarray of shape (6, 6)
        Stresses (zz, yy, xx, yx, zx, zy) from strains (engineering shears) for a voxel of modulus 1 MPa; a voxel of modulus E
        has E times that. `from_constants` makes it from engineering constants.
    isotropic : bool ndarray of shape (nz, ny, nx), optional
        Voxels that stay isotropic, with the modulus and Poisson's ratio of the model: cement, an implant. None: no voxel.

    Raises
    ------
    SolveError
        ``bad_material_law`` if the matrix is not symmetric, couples shears to anything else (then its axes are not those
        of the grid) or is not positive definite.
    """

    matrix: np.ndarray
    isotropic: np.ndarray | None = None

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        if matrix.shape != (6, 6) or not np.isfinite(matrix).all():
            raise SolveError(Reason.BAD_MATERIAL_LAW, f"the law must be 6 x 6 finite numbers, not {matrix.shape}.")
        size = float(np.abs(matrix).max())
        if np.abs(matrix - matrix.T).max() > 1e-9 * size:
            raise SolveError(Reason.BAD_MATERIAL_LAW, "the orthotropic law is not symmetric.")
        allowed = np.eye(6, dtype=bool)
        allowed[:3, :3] = True
        if np.abs(matrix[~allowed]).max() > 1e-9 * size:
            raise SolveError(
                Reason.BAD_MATERIAL_LAW,
                "the law couples shears to other strains, so its axes are not those of the grid.",
                remedy="Turn the grid to the axes of the material.",
            )
        matrix = np.where(allowed, (matrix + matrix.T) / 2, 0.0)
        lowest = float(np.linalg.eigvalsh(matrix)[0])
        if not lowest > _LEAST_STIFFNESS * size:
            raise SolveError(
                Reason.BAD_MATERIAL_LAW,
                f"the orthotropic law is not positive definite (lowest eigenvalue {lowest:.3g}, largest entry {size:.3g}).",
            )
        object.__setattr__(self, "matrix", matrix)
        if self.isotropic is not None:
            mask = np.asarray(self.isotropic)
            if mask.dtype != np.bool_:
                raise SolveError(Reason.BAD_MATERIAL_LAW, f"the mask of isotropic voxels is of type {mask.dtype}.")
            object.__setattr__(self, "isotropic", np.ascontiguousarray(mask))

    @classmethod
    def from_constants(
        cls,
        modulus_ratio: tuple[float, float, float],
        poisson: tuple[float, float, float],
        shear_ratio: tuple[float, float, float],
        isotropic: np.ndarray | None = None,
    ) -> Orthotropy:
        """The law from engineering constants.

        Parameters
        ----------
        modulus_ratio : tuple of 3 floats
            Young's moduli along z, y, x, each divided by the modulus of the voxel.
        poisson : tuple of 3 floats
            nu_zy, nu_zx, nu_yx: the contraction along the second axis that goes with a unit extension along the first,
            under stress along the first. The other three follow, nu_yz = nu_zy E_y / E_z.
        shear_ratio : tuple of 3 floats
            Shear moduli G_zy, G_zx, G_yx, each divided by the modulus of the voxel.
        isotropic : bool ndarray of shape (nz, ny, nx), optional

        Raises
        ------
        SolveError
            ``bad_material_law``: a modulus is not positive, or the constants contradict each other (not positive definite).
        """
        given = (modulus_ratio, poisson, shear_ratio)
        if any(np.shape(three) != (3,) or not np.isfinite(three).all() for three in given):
            raise SolveError(
                Reason.BAD_MATERIAL_LAW, "moduli, Poisson's ratios and shear moduli are three numbers each."
            )
        if min(*modulus_ratio, *shear_ratio) <= 0:
            raise SolveError(
                Reason.BAD_MATERIAL_LAW, f"moduli {modulus_ratio} and shear moduli {shear_ratio} must be positive."
            )
        along_z, along_y, along_x = modulus_ratio
        zy, zx, yx = poisson
        compliance = np.array(
            [
                [1 / along_z, -zy / along_z, -zx / along_z],
                [-zy / along_z, 1 / along_y, -yx / along_y],
                [-zx / along_z, -yx / along_y, 1 / along_x],
            ]
        )
        if np.linalg.eigvalsh(compliance)[0] <= 1e-9 * np.abs(compliance).max():
            raise SolveError(
                Reason.BAD_MATERIAL_LAW,
                f"Poisson's ratios {poisson} contradict the moduli {modulus_ratio}: some stress would release energy.",
            )
        matrix = np.zeros((6, 6))
        matrix[:3, :3] = np.linalg.inv(compliance)
        matrix[[3, 4, 5], [3, 4, 5]] = shear_ratio[::-1]
        return cls(matrix, isotropic)


def permuted(law: np.ndarray, order: tuple[int, int, int]) -> np.ndarray:
    """A law (6, 6) in axes of another order: axis a of the result is axis order[a] of the given one.

    Shear number 3 + a is the one in the plane normal to axis a, so shears follow their axes.
    """
    moved = [*order, *(3 + axis for axis in order)]
    result: np.ndarray = law[np.ix_(moved, moved)]
    return result


def laws_of(model: VoxelModel, planes: slice = slice(None)) -> list[tuple[np.ndarray, np.ndarray]]:
    """The elasticity of voxels as a sum: pairs of a coefficient per voxel (MPa) and a constant matrix (6, 6).

    Parameters
    ----------
    model : VoxelModel
    planes : slice
        Voxel layers wanted.
    """
    modulus, law = model.modulus_mpa[planes], model.orthotropy
    if law is not None and law.isotropic is None:
        return [(modulus, law.matrix)]
    if law is None and np.ndim(model.poisson) > 0:
        lam, mu = lame(np.where(modulus > 0, np.asarray(model.poisson)[planes], 0.0))
        return [(lam * modulus, elasticity(1.0, 0.0)), (mu * modulus, elasticity(0.0, 1.0))]
    unit = elasticity(*(float(value) for value in lame(float(model.poisson))))
    if law is None or law.isotropic is None:
        return [(modulus, unit)]
    mask = law.isotropic[planes]
    return [(np.where(mask, np.float32(0), modulus), law.matrix), (np.where(mask, modulus, np.float32(0)), unit)]
