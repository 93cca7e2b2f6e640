"""Between a grid and the next coarser one: trilinear interpolation, its transpose, and averaged moduli.

Each axis is either halved (factor 2) or kept (factor 1). Coarse node I lies on fine node 2 I of a halved axis; the last
coarse node of an odd axis lies one voxel beyond the fine grid.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fea.grid import padded, zeros_field
from fea.kernels import row


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def restrict(
    z0: int,
    z1: int,
    fine: np.ndarray,
    factors: tuple[int, int, int],
    coarse: np.ndarray,
    coarse_ranges: np.ndarray,
    coarse_inverse: np.ndarray,
) -> None:
    """coarse = masked(P^T fine) on coarse node planes z0 .. z1-1."""
    fz, fy, fx = factors
    nz, ny, _, stride = fine.shape
    _, rows, _, wide = coarse.shape
    source = fine.reshape(-1)
    target = coarse.reshape(-1)
    inverse = coarse_inverse.reshape(-1)
    line = np.zeros(2 * wide + stride + 4, fine.dtype)
    half, zero = fine.dtype.type(0.5), fine.dtype.type(0)  # a plain 0 would make the loops float64
    one = fine.dtype.type(1.0)
    for k in range(z0, z1):
        for j in range(rows):
            a = coarse_ranges[k, j, 0]
            n = coarse_ranges[k, j, 1] - a
            if n <= 0:
                continue
            for c in range(3):
                at = ((k * rows + j) * 3 + c) * wide + a
                out = row(target, at, n)
                scale = row(inverse, at, n)
                # positions fx a - 1 .. fx (a + n) of the fine row, at 0 .. of `line`
                begin = max(fx * a - 1, 0)
                stop = min(fx * (a + n) + 1, stride)
                line[: fx * n + 2] = 0
                into = row(line, begin - (fx * a - 1), stop - begin)
                for dk in range(1 - fz, fz):
                    kk = fz * k + dk
                    if kk < 0 or kk >= nz:
                        continue
                    for dj in range(1 - fy, fy):
                        jj = fy * j + dj
                        if jj < 0 or jj >= ny:
                            continue
                        weight = (one if dk == 0 else half) * (one if dj == 0 else half)
                        given = row(source, ((kk * ny + jj) * 3 + c) * stride + begin, stop - begin)
                        for i in range(stop - begin):
                            into[i] += weight * given[i]
                if fx == 2:
                    for i in range(n):
                        value = line[2 * i + 1] + half * (line[2 * i] + line[2 * i + 2])
                        out[i] = value if scale[i] > 0 else zero
                else:
                    for i in range(n):
                        out[i] = line[i + 1] if scale[i] > 0 else zero


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def prolong(
    z0: int,
    z1: int,
    coarse: np.ndarray,
    factors: tuple[int, int, int],
    fine: np.ndarray,
    ranges: np.ndarray,
    inverse: np.ndarray,
) -> None:
    """fine += masked(P coarse) on fine node planes z0 .. z1-1."""
    fz, fy, fx = factors
    _, ny, _, stride = fine.shape
    rows, wide = coarse.shape[1], coarse.shape[3]
    source = coarse.reshape(-1)
    target = fine.reshape(-1)
    flat = inverse.reshape(-1)
    line = np.zeros(wide + 2, fine.dtype)
    moved = np.zeros(2 * wide + stride + 4, fine.dtype)
    half, zero = fine.dtype.type(0.5), fine.dtype.type(0)  # a plain 0 would make the loops float64
    for k in range(z0, z1):
        k0 = k // fz
        k1 = (k + fz - 1) // fz
        for j in range(ny):
            a = ranges[k, j, 0]
            n = ranges[k, j, 1] - a
            if n <= 0:
                continue
            j0 = j // fy
            j1 = (j + fy - 1) // fy
            begin = a // fx
            count = min((n + fx - 1) // fx + 1, wide - begin)
            for c in range(3):
                s00 = row(source, ((k0 * rows + j0) * 3 + c) * wide + begin, count)
                s01 = row(source, ((k0 * rows + j1) * 3 + c) * wide + begin, count)
                s10 = row(source, ((k1 * rows + j0) * 3 + c) * wide + begin, count)
                s11 = row(source, ((k1 * rows + j1) * 3 + c) * wide + begin, count)
                for i in range(count):
                    line[i] = half * half * ((s00[i] + s01[i]) + (s10[i] + s11[i]))
                at = ((k * ny + j) * 3 + c) * stride + a
                out = row(target, at, n)
                scale = row(flat, at, n)
                if fx == 2:
                    for i in range((n + 1) // 2):
                        moved[2 * i] = line[i]
                        moved[2 * i + 1] = half * (line[i] + line[i + 1])
                    for i in range(n):
                        out[i] += moved[i] if scale[i] > 0 else zero
                else:
                    for i in range(n):
                        out[i] += line[i] if scale[i] > 0 else zero


def coarsen(coefficient: np.ndarray, extents: tuple[int, int, int], factors: tuple[int, int, int]) -> np.ndarray:
    """Mean of each coefficient over the children of a coarse voxel, void and missing children counted as 0.

    Parameters
    ----------
    coefficient : float32 ndarray of shape (nz, ny+1, stride)
    extents : tuple of 3 ints
        Voxels along the axes, (nz, ny, nx).
    factors : tuple of 3 ints
        1 or 2 for each axis.

    Returns
    -------
    float32 ndarray of shape (coarse nz, coarse ny + 1, coarse stride)
    """
    nz, ny, nx = (-(-n // f) for n, f in zip(extents, factors, strict=True))
    inner = coefficient[:, : extents[1], : extents[2]]
    for axis, factor in enumerate(factors):
        if factor == 1:
            continue
        even = inner[tuple(slice(0, None, 2) if a == axis else slice(None) for a in range(3))].copy()
        odd = inner[tuple(slice(1, None, 2) if a == axis else slice(None) for a in range(3))]
        even[tuple(slice(0, odd.shape[axis]) if a == axis else slice(None) for a in range(3))] += odd
        inner = even
    result = zeros_field((nz, ny + 1, padded(nx + 1)), np.float32)
    result[:, :ny, :nx] = inner / np.float32(np.prod(factors))
    return result
