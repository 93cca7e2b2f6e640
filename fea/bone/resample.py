"""Density and mask from any oriented grid into a posed isotropic grid, without losing bone mass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage


@dataclass(frozen=True)
class PosedGrid:
    """An isotropic grid with axes of one's choice in the world (any right-handed frame in mm).

    Attributes
    ----------
    shape : tuple of int
        (Z, Y, X).
    voxel_mm : float
    corner_mm : float ndarray of shape (3,)
        World coordinates of the outer corner of voxel (0, 0, 0): the position of node (0, 0, 0).
    axes : float ndarray of shape (3, 3)
        Rows: unit vectors in the world along the array axes z, y, x.
    """

    shape: tuple[int, int, int]
    voxel_mm: float
    corner_mm: NDArray[np.float64]
    axes: NDArray[np.float64]

    def to_world(self, node: NDArray) -> NDArray[np.float64]:
        """World points (..., 3) of node coordinates (..., 3) as (k, j, i); the centre of voxel n is node n + 0.5."""
        return self.corner_mm + (np.asarray(node, float) * self.voxel_mm) @ self.axes

    def to_node(self, point_mm: NDArray) -> NDArray[np.float64]:
        """Node coordinates (k, j, i), fractional, of world points (..., 3)."""
        return (np.asarray(point_mm, float) - self.corner_mm) @ self.axes.T / self.voxel_mm

    @property
    def index_to_world(self) -> NDArray[np.float64]:
        """Homogeneous map (4, 4) from voxel index (k, j, i) to the world coordinates of the voxel's centre."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.axes.T * self.voxel_mm
        matrix[:3, 3] = self.to_world(np.full(3, 0.5))
        return matrix


@dataclass(frozen=True)
class PosedBone:
    """A bone in a posed grid.

    Attributes
    ----------
    grid : PosedGrid
    density_mg_cm3 : float32 ndarray of shape (Z, Y, X)
        Mean density of the *bone* in each voxel; 0 where there is none. Mass = density x fraction x voxel volume.
    fraction : float32 ndarray of shape (Z, Y, X)
        Part of the voxel that is bone, 0..1.
    source_mass_g, source_volume_mm3 : float
        Of the mask in the source image.
    """

    grid: PosedGrid
    density_mg_cm3: NDArray[np.float32]
    fraction: NDArray[np.float32]
    source_mass_g: float
    source_volume_mm3: float

    @property
    def mass_g(self) -> float:
        """Bone mineral in the posed grid."""
        mass_density = np.einsum("zyx,zyx->", self.density_mg_cm3, self.fraction, dtype=np.float64)
        return float(mass_density) * self.grid.voxel_mm**3 * 1e-6


def grid_around(points_mm: NDArray, axes: NDArray, voxel_mm: float, margin_mm: float | NDArray) -> PosedGrid:
    """The smallest grid with the given axes that holds all points (N, 3) with a margin, one for all or one per axis."""
    axes = np.asarray(axes, float)
    if not np.allclose(axes @ axes.T, np.eye(3), atol=1e-6):
        raise ValueError("the axes of a posed grid must be orthonormal")
    along = np.asarray(points_mm, float) @ axes.T
    low = along.min(axis=0) - margin_mm
    count = np.maximum(np.ceil((along.max(axis=0) + margin_mm - low) / voxel_mm - 1e-9).astype(int), 1)
    return PosedGrid((int(count[0]), int(count[1]), int(count[2])), float(voxel_mm), low @ axes, axes)


def grid_for_mask(
    mask: NDArray[np.bool_], index_to_world: NDArray, axes: NDArray, voxel_mm: float, room_mm: float
) -> PosedGrid:
    """A grid around a mask with at least `room_mm` on every side, whose voxel faces meet the lower faces of the mask.

    A flat face of the bone across an axis of the grid thus falls between two voxels wherever the spacings allow it.
    """
    matrix = np.asarray(index_to_world, float)
    surface = np.argwhere(mask & ~ndimage.binary_erosion(mask)).astype(float)
    points = surface @ matrix[:3, :3].T + matrix[:3, 3]
    edges = np.asarray(axes, float) @ matrix[:3, :3]
    half_voxel_mm = 0.5 * np.sqrt((edges**2).sum(axis=1))
    steps = np.ceil((room_mm + half_voxel_mm) / voxel_mm)
    return grid_around(points, axes, voxel_mm, half_voxel_mm + steps * voxel_mm)


def resample_bone(
    density_mg_cm3: NDArray, mask: NDArray[np.bool_], index_to_world: NDArray, grid: PosedGrid, *, samples: int = 3
) -> PosedBone:
    """Bone density and bone fraction averaged over the voxels of a posed grid.

    The mask and the product of density and mask are taken as trilinear fields, whose integrals are the volume and the mass
    of the mask whatever the orientation, and averaged over `samples` points per axis in each voxel. Only densities inside
    the mask are used, so neither fat nor muscle around the bone dilutes its surface.

    Parameters
    ----------
    density_mg_cm3 : ndarray of shape (Z, Y, X)
    mask : bool ndarray of shape (Z, Y, X)
    index_to_world : float ndarray of shape (4, 4)
        From index (k, j, i) of a voxel centre to world (x, y, z) in mm.
    grid : PosedGrid
        Should leave a margin of half a source voxel around the mask; what lies outside is lost.
    samples : int
        Sampling points along each axis of a voxel.
    """
    if density_mg_cm3.shape != mask.shape:
        raise ValueError(f"density of shape {density_mg_cm3.shape} and mask of shape {mask.shape}")
    occupied = np.argwhere(mask)
    if len(occupied) == 0:
        raise ValueError("the mask is empty")
    low = np.maximum(occupied.min(axis=0) - 1, 0)
    high = np.minimum(occupied.max(axis=0) + 2, mask.shape)
    window = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    inside = np.pad(mask[window].astype(np.float32), 1)
    mass = np.pad(np.where(mask[window], density_mg_cm3[window], 0).astype(np.float32), 1)
    to_index = np.linalg.inv(np.asarray(index_to_world, float))
    voxel_to_source = to_index @ grid.index_to_world
    matrix = np.ascontiguousarray(voxel_to_source[:3, :3])
    offset = np.ascontiguousarray(voxel_to_source[:3, 3] - low + 1)
    fraction = np.zeros(grid.shape, np.float32)
    density = np.zeros(grid.shape, np.float32)
    _average(mass, inside, matrix, offset, samples, density, fraction)
    voxel_mm3 = float(abs(np.linalg.det(np.asarray(index_to_world, float)[:3, :3])))
    return PosedBone(
        grid, density, fraction, float(mass.sum(dtype=np.float64)) * voxel_mm3 * 1e-6, len(occupied) * voxel_mm3
    )


@njit(cache=True, nogil=True)
def _average(mass, inside, matrix, offset, samples, density, fraction):  # type: ignore[no-untyped-def]
    """Fill `density` and `fraction` with averages over sub-points; see `resample_bone`."""
    depth, height, width = inside.shape
    nz, ny, nx = fraction.shape
    points = samples**3
    reach = 0.5 * (np.abs(matrix).sum(axis=1))  # half the extent of a voxel in source indices
    for k in range(nz):
        for j in range(ny):
            for i in range(nx):
                z0 = matrix[0, 0] * k + matrix[0, 1] * j + matrix[0, 2] * i + offset[0]
                y0 = matrix[1, 0] * k + matrix[1, 1] * j + matrix[1, 2] * i + offset[1]
                x0 = matrix[2, 0] * k + matrix[2, 1] * j + matrix[2, 2] * i + offset[2]
                if (
                    z0 + reach[0] < 0
                    or y0 + reach[1] < 0
                    or x0 + reach[2] < 0
                    or z0 - reach[0] > depth - 1
                    or y0 - reach[1] > height - 1
                    or x0 - reach[2] > width - 1
                ):
                    continue
                volume = 0.0
                weight = 0.0
                for c in range(samples):
                    dc = (c + 0.5) / samples - 0.5
                    for b in range(samples):
                        db = (b + 0.5) / samples - 0.5
                        for a in range(samples):
                            da = (a + 0.5) / samples - 0.5
                            z = z0 + matrix[0, 0] * dc + matrix[0, 1] * db + matrix[0, 2] * da
                            y = y0 + matrix[1, 0] * dc + matrix[1, 1] * db + matrix[1, 2] * da
                            x = x0 + matrix[2, 0] * dc + matrix[2, 1] * db + matrix[2, 2] * da
                            iz = int(np.floor(z))
                            iy = int(np.floor(y))
                            ix = int(np.floor(x))
                            if iz < 0 or iy < 0 or ix < 0 or iz >= depth - 1 or iy >= height - 1 or ix >= width - 1:
                                continue
                            fz = z - iz
                            fy = y - iy
                            fx = x - ix
                            for dz in range(2):
                                wz = fz if dz else 1 - fz
                                for dy in range(2):
                                    wzy = wz * (fy if dy else 1 - fy)
                                    w = wzy * (1 - fx)
                                    volume += w * inside[iz + dz, iy + dy, ix]
                                    weight += w * mass[iz + dz, iy + dy, ix]
                                    w = wzy * fx
                                    volume += w * inside[iz + dz, iy + dy, ix + 1]
                                    weight += w * mass[iz + dz, iy + dy, ix + 1]
                if volume > 0:
                    fraction[k, j, i] = volume / points
                    density[k, j, i] = weight / volume
