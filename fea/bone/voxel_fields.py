"""What a linear solution says about each voxel of a bone: energy, strain and stress, and who carries the load."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from fea.element import elasticity, lame, stiffness_of, strain_matrix

CORTEX_MM = 2.0
"""The outer bone that counts as cortical: at CT resolution the cortex and its blur [M: Eswaran 2006 peels 2 mm]."""


@dataclass(frozen=True, eq=False)
class VoxelFields:
    """Fields of the voxels that were asked for, zero elsewhere; float32 ndarrays of shape (Z, Y, X).

    Attributes
    ----------
    energy_density_mpa
        Strain energy of the whole trilinear element over its volume, integrated exactly.
    effective_strain
        Energy-equivalent strain sqrt(2 U / E).
    von_mises_mpa, mean_stress_mpa
        At the centre of the voxel; tension positive.
    normal_stress_mpa
        Along `axis`, at the centre.
    """

    energy_density_mpa: NDArray[np.float32]
    effective_strain: NDArray[np.float32]
    von_mises_mpa: NDArray[np.float32]
    mean_stress_mpa: NDArray[np.float32]
    normal_stress_mpa: NDArray[np.float32]


def voxel_fields(
    displacement_mm: NDArray,
    modulus_mpa: NDArray,
    where: NDArray[np.bool_],
    voxel_mm: float,
    law: float | NDArray,
    axis: int = 0,
) -> VoxelFields:
    """Fields of the voxels in `where` of a grid of cubes.

    Parameters
    ----------
    displacement_mm : float ndarray of shape (Z+1, Y+1, X+1, 3)
    modulus_mpa : float ndarray of shape (Z, Y, X)
    where : bool ndarray of shape (Z, Y, X)
    voxel_mm : float
    law : float or float ndarray of shape (6, 6)
        Poisson's ratio, or the stresses of a voxel of unit modulus from its strains as in `fea.Orthotropy`.
    axis : int
        Array axis of `normal_stress_mpa`.
    """
    shape = modulus_mpa.shape
    matrix = _isotropic(float(law)) if np.ndim(law) == 0 else np.ascontiguousarray(law, dtype=np.float64)
    cube = (1.0, 1.0, 1.0)
    stiffness = np.ascontiguousarray(stiffness_of(cube, matrix))
    strains = np.ascontiguousarray(strain_matrix(cube, (0.5, 0.5, 0.5)).T)
    out = [np.zeros(shape, np.float32) for _ in range(5)]
    _fields(np.asarray(displacement_mm), modulus_mpa, where, float(voxel_mm), stiffness, strains, matrix, axis, *out)
    return VoxelFields(*out)


@lru_cache(maxsize=4)
def _isotropic(poisson: float) -> NDArray[np.float64]:
    lam, mu = lame(poisson)
    return elasticity(float(lam), float(mu))


@njit(cache=True, nogil=True)
def _fields(u, modulus, where, edge, stiffness, strains, law, axis, energy, strain, mises, mean, normal):  # type: ignore[no-untyped-def]
    nz, ny, nx = modulus.shape
    d = np.empty(24)
    force = np.empty(24)
    e = np.empty(6)
    s = np.empty(6)
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
                # column by column, so that the inner loop has no sum to wait for
                force[:] = 0.0
                e[:] = 0.0
                for b in range(24):
                    for a in range(24):
                        force[a] += stiffness[b, a] * d[b]
                    for a in range(6):
                        e[a] += strains[b, a] * d[b]
                work = 0.0
                for a in range(24):
                    work += force[a] * d[a]
                work = max(work, 0.0) / (edge * edge)  # u K u of the unit modulus, per volume
                young = float(modulus[k, j, i])
                energy[k, j, i] = 0.5 * young * work
                strain[k, j, i] = np.sqrt(work)
                factor = young / edge
                for a in range(6):
                    total = 0.0
                    for b in range(6):
                        total += law[a, b] * e[b]
                    s[a] = factor * total
                pressure = (s[0] + s[1] + s[2]) / 3
                deviatoric = 0.0
                for a in range(3):
                    deviatoric += (s[a] - pressure) ** 2 + 2 * s[a + 3] ** 2
                mises[k, j, i] = np.sqrt(1.5 * deviatoric)
                mean[k, j, i] = pressure
                normal[k, j, i] = s[axis]


@dataclass(frozen=True)
class LoadShare:
    """What part of the axial force of a vertebral body its outer bone carries.

    Attributes
    ----------
    middle : float
        Mean over the sections of the middle third of the height.
    greatest : float
        Of all sections of the middle 80 % of the height.
    area_middle : float
        The outer bone's part of the area of those sections of the middle third.
    depth_mm : float
        How deep the outer bone reaches.
    """

    middle: float
    greatest: float
    area_middle: float
    depth_mm: float


def load_share(
    normal_stress_mpa: NDArray, fraction: NDArray, is_bone: NDArray[np.bool_], voxel_mm: float, *, axis: int = 0
) -> LoadShare | None:
    """The share of the outer bone in the force across the sections of a body; None if it is too small to tell.

    The outer bone reaches from the side surface `CORTEX_MM` inwards (at least one voxel), measured within each section; the end
    plates do not count.

    Parameters
    ----------
    normal_stress_mpa : ndarray of shape (Z, Y, X)
        Along the load, zero outside the bone.
    fraction : ndarray of shape (Z, Y, X)
        Bone part of each voxel.
    is_bone : bool ndarray of shape (Z, Y, X)
    """
    stress, weight, bone = (np.moveaxis(np.asarray(a), axis, 0) for a in (normal_stress_mpa, fraction, is_bone))
    levels = np.flatnonzero(bone.any(axis=(1, 2)))
    if len(levels) < 6:
        return None
    depth = max(CORTEX_MM, voxel_mm)
    parts, areas = [], []
    for level in levels:
        section = np.pad(ndimage.binary_fill_holes(bone[level]), 1)
        reach = ndimage.distance_transform_edt(section)[1:-1, 1:-1] * voxel_mm
        outer = bone[level] & (reach <= depth + 1e-6)
        force = float(stress[level][bone[level]].sum(dtype=np.float64))
        parts.append(float(stress[level][outer].sum(dtype=np.float64)) / force if force else np.nan)
        areas.append(
            float(weight[level][outer].sum(dtype=np.float64) / weight[level][bone[level]].sum(dtype=np.float64))
        )
    count = len(levels)
    third = slice(count // 3, count - count // 3)
    inner = slice(count // 10, count - count // 10)
    if not np.isfinite(parts[inner]).all():
        return None
    return LoadShare(float(np.mean(parts[third])), float(np.max(parts[inner])), float(np.mean(areas[third])), depth)
