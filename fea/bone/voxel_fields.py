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
    matrix = _isotropic(float(law)) if np.ndim(law) == 0 else np.ascontiguousarray(law, dtype=np.float64)
    out = [np.zeros(modulus_mpa.shape, np.float32) for _ in range(5)]
    _fields(np.asarray(displacement_mm), modulus_mpa, where, float(voxel_mm), *_modal(matrix), matrix, axis, *out)
    return VoxelFields(*out)


def _modal(
    law: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Energy and mean strains of the unit cube in its symmetry-adapted modes (docs/solver.md, 2.1), without the zeros.

    Returns pairs of modes (N, 2) and their part of u K u (N,), and pairs of strain and mode (M, 2) and their factors (M,). Mode
    3 p + c is the transform over the corners of component c with the signs of the bits p.
    """
    bits = np.arange(8)
    signs = np.array([[(-1.0) ** bin(p & (7 - n)).count("1") for n in bits] for p in bits])
    modes = np.kron(signs, np.eye(3))
    cube = (1.0, 1.0, 1.0)
    energy = np.triu(modes @ stiffness_of(cube, law) @ modes.T / 64)
    energy += np.triu(energy, 1)
    strains = strain_matrix(cube, (0.5, 0.5, 0.5)) @ modes.T / 8
    pairs, weights = np.argwhere(np.abs(energy) > 1e-12 * np.abs(energy).max()), np.argwhere(np.abs(strains) > 1e-12)
    return pairs, energy[tuple(pairs.T)], weights, strains[tuple(weights.T)]


@lru_cache(maxsize=4)
def _isotropic(poisson: float) -> NDArray[np.float64]:
    lam, mu = lame(poisson)
    return elasticity(float(lam), float(mu))


@njit(cache=True, nogil=True)
def _fields(  # type: ignore[no-untyped-def]
    u, modulus, where, edge, pairs, products, weights, factors, law, axis, energy, strain, mises, mean, normal
):
    nz, ny, nx = modulus.shape
    d = np.empty((8, 3))
    modes = d.reshape(24)
    e = np.empty(6)
    s = np.empty(6)
    for k in range(nz):
        for j in range(ny):
            for i in range(nx):
                if not where[k, j, i]:
                    continue
                for n in range(8):
                    for c in range(3):
                        d[n, c] = u[k + (n >> 2), j + ((n >> 1) & 1), i + (n & 1), c]
                for step in (1, 2, 4):  # sums and differences (high minus low) along x, y, z
                    for n in range(8):
                        if n & step == 0:
                            for c in range(3):
                                low, high = d[n, c], d[n + step, c]
                                d[n, c] = low + high
                                d[n + step, c] = high - low
                work = 0.0
                for m in range(len(products)):
                    work += products[m] * modes[pairs[m, 0]] * modes[pairs[m, 1]]
                work = max(work, 0.0) / (edge * edge)  # u K u of the unit modulus, per volume
                young = float(modulus[k, j, i])
                energy[k, j, i] = 0.5 * young * work
                strain[k, j, i] = np.sqrt(work)
                e[:] = 0.0
                for m in range(len(factors)):
                    e[weights[m, 0]] += factors[m] * modes[weights[m, 1]]
                for a in range(6):
                    total = 0.0
                    for b in range(6):
                        total += law[a, b] * e[b]
                    s[a] = young / edge * total
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
