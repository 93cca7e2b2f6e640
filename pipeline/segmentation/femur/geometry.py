"""Rays, planes and spheres through a mask: the measurements that landmarks of a bone are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.segmentation.sampling import interpolate, trilinear
from pipeline.volume import Grid

_SECTION_STEP_MM = 1.0
_SECTION_HALF_MM = 48.0


@dataclass(frozen=True)
class Section:
    """One plane through a bone, and the part of it that holds the plane's centre.

    Attributes
    ----------
    area_mm2 : float
        0 when the centre is more than 6 mm from bone.
    centroid_lps_mm : float ndarray of shape (3,)
    core_lps_mm : float ndarray of shape (3,)
        Centre of the largest inscribed circle, which a trochanter on one side does not move.
    core_radius_mm : float
    cut : bool
        Whether the field of view ends inside this part.
    """

    area_mm2: float
    centroid_lps_mm: NDArray[np.float64]
    core_lps_mm: NDArray[np.float64]
    core_radius_mm: float
    cut: bool


def directions(count: int) -> NDArray[np.float64]:
    """Unit vectors (count, 3) spread evenly over the sphere (Fibonacci lattice)."""
    n = np.arange(count) + 0.5
    polar = np.arccos(1 - 2 * n / count)
    azimuth = np.pi * (1 + 5**0.5) * n
    return np.stack([np.cos(azimuth) * np.sin(polar), np.sin(azimuth) * np.sin(polar), np.cos(polar)], axis=1)


def least_squares_sphere(
    points: NDArray[np.float64], weights: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], float]:
    """Algebraic least-squares sphere through points (N, 3): centre and radius (NaN if the points are degenerate)."""
    shift = points.mean(axis=0)
    local = points - shift
    root = np.sqrt(weights) if weights is not None else np.ones(len(points))
    design = np.column_stack([2 * local, np.ones(len(local))]) * root[:, None]
    solution, _, rank, _ = np.linalg.lstsq(design, (local**2).sum(axis=1) * root, rcond=None)
    squared = float(solution[3] + solution[:3] @ solution[:3])
    if rank < 4 or squared <= 0:
        return np.full(3, np.nan), float("nan")
    return solution[:3] + shift, float(np.sqrt(squared))


def section_through(
    mask: NDArray[np.bool_],
    grid: Grid,
    centre_lps_mm: NDArray[np.float64],
    normal_lps: NDArray[np.float64],
    *,
    half_mm: float = _SECTION_HALF_MM,
) -> Section:
    """The part of a mask in the plane through a point, connected to that point (or nearest to it, within 6 mm)."""
    u, v = perpendicular_axes(normal_lps)
    count = round(half_mm / _SECTION_STEP_MM)
    offset = np.arange(-count, count + 1) * _SECTION_STEP_MM
    points = centre_lps_mm + offset[:, None, None] * u + offset[None, :, None] * v
    values = interpolate(mask, grid.to_index(points), fill=-1.0)
    outside = values < -0.5
    labels, parts = ndimage.label(values > 0.5)
    nothing = Section(0.0, centre_lps_mm, centre_lps_mm, 0.0, bool(outside[count, count]))
    if parts == 0:
        return nothing
    distance = np.where(labels > 0, offset[:, None] ** 2 + offset[None, :] ** 2, np.inf)
    nearest = np.unravel_index(int(distance.argmin()), distance.shape)
    if distance[nearest] > 36.0:
        return nothing
    part = labels == labels[nearest]
    depth = ndimage.distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]
    deepest = depth > 0.96 * depth.max()
    return Section(
        area_mm2=float(part.sum()) * _SECTION_STEP_MM**2,
        centroid_lps_mm=points[part].mean(axis=0),
        core_lps_mm=np.average(points[deepest], axis=0, weights=depth[deepest]),
        core_radius_mm=float(depth.max()) * _SECTION_STEP_MM,
        cut=bool((ndimage.binary_dilation(part, iterations=2) & outside).any()),
    )


def perpendicular_axes(normal: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two unit vectors that make a right-handed frame (u, v, normal)."""
    helper = np.eye(3)[int(np.argmin(np.abs(normal)))]
    u = np.cross(helper, normal)
    u /= np.linalg.norm(u)
    return u, np.cross(normal, u)


def exit_radii(
    mask: NDArray[np.bool_],
    grid: Grid,
    start_lps_mm: NDArray[np.float64],
    direction_lps: NDArray[np.float64],
    *,
    limit_mm: float,
) -> NDArray[np.float64]:
    """How far rays run before they leave a mask.

    Parameters
    ----------
    start_lps_mm : float ndarray of shape (3,) or (N, 3)
    direction_lps : float ndarray of shape (N, 3)
        Unit vectors.
    limit_mm : float

    Returns
    -------
    float ndarray of shape (N,)
        Distance to the half-way value, located between steps of 0.5 mm; `limit_mm` where the ray is still inside there,
        NaN where it leaves the volume first.
    """
    index = np.ascontiguousarray(np.broadcast_to(grid.to_index(start_lps_mm), direction_lps.shape))
    step = np.ascontiguousarray(grid.to_index(direction_lps * 0.5) - grid.to_index(np.zeros(3)))
    length = _exit_radii(np.ascontiguousarray(mask).view(np.uint8), index, step, int(limit_mm / 0.5))
    return np.asarray(length * 0.5, dtype=np.float64)


@njit(cache=True, nogil=True)
def _exit_radii(mask: NDArray, index: NDArray, step: NDArray, steps: int) -> NDArray:
    out = np.empty(len(index))
    for n in range(len(index)):
        before = 1.0
        out[n] = steps
        for t in range(steps):
            value = trilinear(
                mask, index[n, 0] + t * step[n, 0], index[n, 1] + t * step[n, 1], index[n, 2] + t * step[n, 2], -1.0
            )
            if value < -0.5:
                out[n] = np.nan
                break
            if value < 0.5:
                out[n] = t - (0.5 - value) / max(before - value, 1e-6) if t > 0 else 0.0
                break
            before = value
    return out
