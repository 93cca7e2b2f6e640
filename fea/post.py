"""Strains, stresses and energy of each voxel from a displacement field."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fea.element import CORNERS, stiffness_of, strain_matrix
from fea.materials import laws_of
from fea.model import VoxelModel

_PLANES = 16  # voxel layers worked on at a time, to bound the memory of gathered corner values


@dataclass(frozen=True, eq=False)
class ElementFields:
    """Mean values in each voxel, zero in voids.

    Attributes
    ----------
    strain : float64 ndarray of shape (nz, ny, nx, 6)
        Components zz, yy, xx, yx, zx, zy at the centre of the voxel (the mean over it); engineering shears.
    stress_mpa : float64 ndarray of shape (nz, ny, nx, 6)
        The same components.
    von_mises_mpa : float64 ndarray of shape (nz, ny, nx)
    energy_density_mpa : float64 ndarray of shape (nz, ny, nx)
        Strain energy of the voxel over its volume (N mm / mm^3 = MPa), hourglass modes included, so that its sum times the
        voxel volume is half the work of the loads.
    """

    strain: np.ndarray
    stress_mpa: np.ndarray
    von_mises_mpa: np.ndarray
    energy_density_mpa: np.ndarray


def element_fields(model: VoxelModel, displacement_mm: np.ndarray) -> ElementFields:
    """Linear elastic fields per voxel.

    Parameters
    ----------
    model : VoxelModel
    displacement_mm : float ndarray of shape (nz+1, ny+1, nx+1, 3)
        For example `Solution.displacement_mm` with `Solution.model`.
    """
    nz, ny, nx = model.shape
    strain = np.zeros((nz, ny, nx, 6))
    stress = np.zeros((nz, ny, nx, 6))
    energy = np.zeros((nz, ny, nx))
    centre = strain_matrix(model.spacing_mm, (0.5, 0.5, 0.5)).T
    volume = float(np.prod(model.spacing_mm))
    for k in range(0, nz, _PLANES):
        stop = min(nz, k + _PLANES)
        corners = [displacement_mm[k + a : stop + a, b : b + ny, c : c + nx] for a, b, c in CORNERS]
        local = np.stack(corners, axis=3).reshape(stop - k, ny, nx, 24)
        here = (local @ centre) * model.solid[k:stop, ..., None]
        strain[k:stop] = here
        for factor, law in laws_of(model, slice(k, stop)):
            stress[k:stop] += factor[..., None] * (here @ law)
            matrix = stiffness_of(model.spacing_mm, law)
            energy[k:stop] += factor * np.einsum("...i,...i->...", local @ matrix, local) / (2 * volume)
    return ElementFields(strain, stress, von_mises(stress), energy)


def von_mises(stress_mpa: np.ndarray) -> np.ndarray:
    """Von Mises stress of stresses (..., 6) in the order of `ElementFields`."""
    deviator = stress_mpa[..., :3] - stress_mpa[..., :3].mean(axis=-1, keepdims=True)
    result: np.ndarray = np.sqrt(1.5 * (deviator**2).sum(axis=-1) + 3 * (stress_mpa[..., 3:] ** 2).sum(axis=-1))
    return result
