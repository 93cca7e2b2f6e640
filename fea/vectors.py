"""The passes over whole fields that conjugate gradients and Lanczos steps need, fused so that each field is read once.

Sums are taken per node plane and added in the order of the planes: the result does not depend on the threads.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fea.kernels import row


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def advance(
    step: float, x: np.ndarray, p: np.ndarray, r: np.ndarray, kp: np.ndarray, sums: np.ndarray, z0: int, z1: int
) -> None:
    """x += step p;  r -= step kp;  sums[plane] = r . r."""
    size = x.size // x.shape[0]
    flat_x, flat_p, flat_r, flat_kp = x.reshape(-1), p.reshape(-1), r.reshape(-1), kp.reshape(-1)
    for k in range(z0, z1):
        total = 0.0
        xs, ps = row(flat_x, k * size, size), row(flat_p, k * size, size)
        rs, ks = row(flat_r, k * size, size), row(flat_kp, k * size, size)
        for i in range(size):
            xs[i] += step * ps[i]
            value = rs[i] - step * ks[i]
            rs[i] = value
            total += value * value
        sums[k] = total


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def begin_cycle(
    r: np.ndarray, scale: float, factor: float, inverse: np.ndarray, right: np.ndarray, x: np.ndarray, z0: int, z1: int
) -> None:
    """right = scale r in float32;  x = factor inverse right."""
    size = r.size // r.shape[0]
    flat_r, flat_i, flat_b, flat_x = r.reshape(-1), inverse.reshape(-1), right.reshape(-1), x.reshape(-1)
    for k in range(z0, z1):
        rs, scales = row(flat_r, k * size, size), row(flat_i, k * size, size)
        bs, xs = row(flat_b, k * size, size), row(flat_x, k * size, size)
        for i in range(size):
            value = np.float32(scale * rs[i])
            bs[i] = value
            xs[i] = factor * scales[i] * value


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def turn(z: np.ndarray, ratio: float, p: np.ndarray, z0: int, z1: int) -> None:
    """p = z + ratio p."""
    size = p.size // p.shape[0]
    flat_z, flat_p = z.reshape(-1), p.reshape(-1)
    for k in range(z0, z1):
        zs, ps = row(flat_z, k * size, size), row(flat_p, k * size, size)
        for i in range(size):
            ps[i] = zs[i] + ratio * ps[i]


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def remainder(
    load: np.ndarray, loaded: bool, inverse: np.ndarray, r: np.ndarray, sums: np.ndarray, z0: int, z1: int
) -> None:
    """r = load - r on the free components (load is 0 unless `loaded`), 0 elsewhere;  sums[plane] = r . r."""
    size = r.size // r.shape[0]
    flat_load, flat_i, flat_r = load.reshape(-1), inverse.reshape(-1), r.reshape(-1)
    for k in range(z0, z1):
        total = 0.0
        scales, rs = row(flat_i, k * size, size), row(flat_r, k * size, size)
        if loaded:
            loads = row(flat_load, k * size, size)
            for i in range(size):
                rs[i] -= loads[i]
        for i in range(size):
            value = -rs[i] if scales[i] > 0 else 0.0
            rs[i] = value
            total += value * value
        sums[k] = total


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def inner(a: np.ndarray, b: np.ndarray, sums: np.ndarray, z0: int, z1: int) -> None:
    """sums[plane] = a . b, added in float64."""
    size = a.size // a.shape[0]
    flat_a, flat_b = a.reshape(-1), b.reshape(-1)
    for k in range(z0, z1):
        total = 0.0
        left, right = row(flat_a, k * size, size), row(flat_b, k * size, size)
        for i in range(size):
            total += left[i] * right[i]
        sums[k] = total


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def scatter(inverse: np.ndarray, x: np.ndarray, sums: np.ndarray, z0: int, z1: int) -> None:
    """x = noise between -1 and 1 on the free components, 0 elsewhere;  sums[plane] = x . D x.

    The noise is a hash of the position, the same whoever computes it.
    """
    size = x.size // x.shape[0]
    flat_i, flat_x = inverse.reshape(-1), x.reshape(-1)
    for k in range(z0, z1):
        total = 0.0
        scales, xs = row(flat_i, k * size, size), row(flat_x, k * size, size)
        for i in range(size):
            mixed = np.uint32(np.uint32(k * size + i) * np.uint32(2654435769))
            mixed = np.uint32((mixed ^ np.uint32(mixed >> np.uint32(15))) * np.uint32(2246822519))
            mixed = np.uint32(mixed ^ np.uint32(mixed >> np.uint32(13)))
            scale = scales[i]
            xs[i] = np.float32(np.int32(mixed)) * np.float32(2.0**-31) if scale > 0 else np.float32(0)
            value = xs[i]
            total += value * value / (scale if scale > 0 else np.float32(1))
        sums[k] = total


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def orthogonalise(
    d: np.ndarray,
    a: float,
    x: np.ndarray,
    b: float,
    previous: np.ndarray,
    inverse: np.ndarray,
    sums: np.ndarray,
    z0: int,
    z1: int,
) -> None:
    """previous = d - a x - b previous, which is 0 where `inverse` is;  sums[plane] = previous . D previous."""
    size = x.size // x.shape[0]
    flat_d, flat_x, flat_p, flat_i = d.reshape(-1), x.reshape(-1), previous.reshape(-1), inverse.reshape(-1)
    for k in range(z0, z1):
        total = 0.0
        ds, xs = row(flat_d, k * size, size), row(flat_x, k * size, size)
        ps, scales = row(flat_p, k * size, size), row(flat_i, k * size, size)
        for i in range(size):
            value = ds[i] - a * xs[i] - b * ps[i]
            ps[i] = value
            scale = scales[i]
            total += value * value / (scale if scale > 0 else np.float32(1))
        sums[k] = total
