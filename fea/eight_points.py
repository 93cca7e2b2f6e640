"""Voxels with eight points of stress: the fully integrated element, for comparison with codes that use it (C3D8).

The same laws as with one point (`fea.yielding`, `fea.tangent`), at the points +-1/sqrt(3) of each axis, where the strain is
the mean strain plus what the hourglass modes add there. Nothing softens those modes: the element bends as its points
yield, and locks where flow at constant volume would need more freedom than eight corners have (docs/solver.md, 5.5).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from fea.kernels import MASKED_DOT, NOTHING, RAW, SCRATCH, modes, row, rows_of, share, slab
from fea.tangent import LAW_ROWS
from fea.yielding import (
    ENERGIES,
    EXTRA_ROWS,
    FIRST_LAW_ROW,
    FIRST_STATE_ROW,
    FIRST_STRESS_ROW,
    LOST_ROW,
    STORED_ROW,
    Yielding,
    return_rows,
    soften_rows,
    stiffen_rows,
)

POINTS = 8
STATE_ROWS = 8  # per point: plastic strain, equivalent plastic strain, damage
POINT_LAW_ROWS = LAW_ROWS - 1  # per point; no hourglass ratio

# Rows of scratch: mean strains and hourglass modes as `measure` leaves them, and what both become as forces
_MODES, _FORCES = 6, 18
SCRATCH_ROWS = 36
_OWN = EXTRA_ROWS  # where they begin in a pass over stresses, whose law has rows before them


class PointTangent(NamedTuple):
    """Flat array (nz, ny+1, POINTS * POINT_LAW_ROWS, stride): the tangents, each times a point's volume / 16."""

    law: np.ndarray


class PointYielding(NamedTuple):
    """The law, with the volume of one point, and states (nz, ny+1, POINTS * STATE_ROWS, stride)."""

    law: Yielding


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def measure(
    u: np.ndarray,
    lower: int,
    upper: int,
    stride: int,
    a: int,
    n: int,
    rz: float,
    ry: float,
    rx: float,
    f: np.ndarray,
    m: np.ndarray,
) -> None:
    """Mean strains times what `rz`, `ry`, `rx` are times the inverse edges, and hourglass modes, into the rows of `m`."""
    zl, zu = row(u, lower + a, n + 1), row(u, upper + a, n + 1)
    yl, yu = row(u, lower + stride + a, n + 1), row(u, upper + stride + a, n + 1)
    xl, xu = row(u, lower + 2 * stride + a, n + 1), row(u, upper + 2 * stride + a, n + 1)
    w = row(m, _MODES * SCRATCH + a, 12 * SCRATCH)
    f, m = row(f, a, 12 * SCRATCH), row(m, a, 6 * SCRATCH)
    for i in range(n):
        z_y, z_x, z_xy, z_z, z_yz, z_xz, z_xyz = modes(zl, zu, f, 0, i)
        y_y, y_x, y_xy, y_z, y_yz, y_xz, y_xyz = modes(yl, yu, f, 4 * SCRATCH, i)
        x_y, x_x, x_xy, x_z, x_yz, x_xz, x_xyz = modes(xl, xu, f, 8 * SCRATCH, i)
        m[i], m[SCRATCH + i], m[2 * SCRATCH + i] = rz * z_z, ry * y_y, rx * x_x
        m[3 * SCRATCH + i] = rx * y_x + ry * x_y
        m[4 * SCRATCH + i] = rx * z_x + rz * x_z
        m[5 * SCRATCH + i] = ry * z_y + rz * y_z
        w[i], w[SCRATCH + i], w[2 * SCRATCH + i], w[3 * SCRATCH + i] = z_xy, z_yz, z_xz, z_xyz
        w[4 * SCRATCH + i], w[5 * SCRATCH + i], w[6 * SCRATCH + i], w[7 * SCRATCH + i] = y_xy, y_yz, y_xz, y_xyz
        w[8 * SCRATCH + i], w[9 * SCRATCH + i], w[10 * SCRATCH + i], w[11 * SCRATCH + i] = x_xy, x_yz, x_xz, x_xyz


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True, inline="always")
def _strain(
    m: np.ndarray, i: int, z: float, y: float, x: float, rz: float, ry: float, rx: float
) -> tuple[float, float, float, float, float, float]:
    """Strains (zz, yy, xx, yx, zx, zy) of voxel i at the point (z, y, x) of the cube from -1 to 1."""
    z_xy, z_yz, z_xz, z_xyz = m[6 * SCRATCH + i], m[7 * SCRATCH + i], m[8 * SCRATCH + i], m[9 * SCRATCH + i]
    y_xy, y_yz, y_xz, y_xyz = m[10 * SCRATCH + i], m[11 * SCRATCH + i], m[12 * SCRATCH + i], m[13 * SCRATCH + i]
    x_xy, x_yz, x_xz, x_xyz = m[14 * SCRATCH + i], m[15 * SCRATCH + i], m[16 * SCRATCH + i], m[17 * SCRATCH + i]
    zz = m[i] + rz * (y * z_yz + x * z_xz + y * x * z_xyz)
    yy = m[SCRATCH + i] + ry * (z * y_yz + x * y_xy + z * x * y_xyz)
    xx = m[2 * SCRATCH + i] + rx * (z * x_xz + y * x_xy + z * y * x_xyz)
    yx = m[3 * SCRATCH + i] + rx * (y * y_xy + z * y_xz + y * z * y_xyz) + ry * (x * x_xy + z * x_yz + x * z * x_xyz)
    zx = m[4 * SCRATCH + i] + rx * (z * z_xz + y * z_xy + z * y * z_xyz) + rz * (x * x_xz + y * x_yz + x * y * x_xyz)
    zy = m[5 * SCRATCH + i] + ry * (z * z_yz + x * z_xy + z * x * z_xyz) + rz * (y * y_yz + x * y_xz + x * y * y_xyz)
    return zz, yy, xx, yx, zx, zy


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True, inline="always")
def _collect(
    m: np.ndarray,
    i: int,
    z: float,
    y: float,
    x: float,
    rz: float,
    ry: float,
    rx: float,
    zz: float,
    yy: float,
    xx: float,
    yx: float,
    zx: float,
    zy: float,
) -> None:
    """Add what the stresses at a point do to the mean strains and modes (the transpose of `_strain`)."""
    m[18 * SCRATCH + i] += zz
    m[19 * SCRATCH + i] += yy
    m[20 * SCRATCH + i] += xx
    m[21 * SCRATCH + i] += yx
    m[22 * SCRATCH + i] += zx
    m[23 * SCRATCH + i] += zy
    m[24 * SCRATCH + i] += rx * y * zx + ry * x * zy
    m[25 * SCRATCH + i] += rz * y * zz + ry * z * zy
    m[26 * SCRATCH + i] += rz * x * zz + rx * z * zx
    m[27 * SCRATCH + i] += rz * y * x * zz + rx * z * y * zx + ry * z * x * zy
    m[28 * SCRATCH + i] += ry * x * yy + rx * y * yx
    m[29 * SCRATCH + i] += ry * z * yy + rz * y * zy
    m[30 * SCRATCH + i] += rx * z * yx + rz * x * zy
    m[31 * SCRATCH + i] += ry * z * x * yy + rx * y * z * yx + rz * y * x * zy
    m[32 * SCRATCH + i] += rx * y * xx + ry * x * yx
    m[33 * SCRATCH + i] += ry * z * yx + rz * y * zx
    m[34 * SCRATCH + i] += rx * z * xx + rz * x * zx
    m[35 * SCRATCH + i] += rx * z * y * xx + ry * x * z * yx + rz * x * y * zx


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def clear_forces(m: np.ndarray, a: int, n: int) -> None:
    """Zero the rows that `_collect` adds to."""
    zero = m.dtype.type(0)
    for s in range(_FORCES, SCRATCH_ROWS):
        forces = row(m, s * SCRATCH + a, n)
        for i in range(n):
            forces[i] = zero


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def share_rows(
    m: np.ndarray, a: int, n: int, scale: float, rz: float, ry: float, rx: float, h: np.ndarray, g: np.ndarray
) -> None:
    """Nodal forces of one row of elements: `scale` times what `_collect` gathered."""
    m, h, g = row(m, a, SCRATCH_ROWS * SCRATCH), row(h, a, 12 * SCRATCH), row(g, a, 12 * SCRATCH)
    rz, ry, rx = scale * rz, scale * ry, scale * rx
    for i in range(n):
        sz, sy, sx = m[18 * SCRATCH + i], m[19 * SCRATCH + i], m[20 * SCRATCH + i]
        syx, szx, szy = m[21 * SCRATCH + i], m[22 * SCRATCH + i], m[23 * SCRATCH + i]
        z_xy, z_yz = scale * m[24 * SCRATCH + i], scale * m[25 * SCRATCH + i]
        z_xz, z_xyz = scale * m[26 * SCRATCH + i], scale * m[27 * SCRATCH + i]
        y_xy, y_yz = scale * m[28 * SCRATCH + i], scale * m[29 * SCRATCH + i]
        y_xz, y_xyz = scale * m[30 * SCRATCH + i], scale * m[31 * SCRATCH + i]
        x_xy, x_yz = scale * m[32 * SCRATCH + i], scale * m[33 * SCRATCH + i]
        x_xz, x_xyz = scale * m[34 * SCRATCH + i], scale * m[35 * SCRATCH + i]
        share(h, g, 0, i, ry * szy, rx * szx, z_xy, rz * sz, z_yz, z_xz, z_xyz)
        share(h, g, 4 * SCRATCH, i, ry * sy, rx * syx, y_xy, rz * szy, y_yz, y_xz, y_xyz)
        share(h, g, 8 * SCRATCH, i, ry * syx, rx * sx, x_xy, rz * szx, x_yz, x_xz, x_xyz)


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def tangent_point(
    law: np.ndarray,
    element: int,
    stride: int,
    a: int,
    n: int,
    z: float,
    y: float,
    x: float,
    rz: float,
    ry: float,
    rx: float,
    m: np.ndarray,
) -> None:
    """What the tangent at one point of every voxel of a row makes of the strain there; no literals, so float32 stays."""
    m = row(m, a, SCRATCH_ROWS * SCRATCH)
    pressure, half_shear = row(law, element, n), row(law, element + stride, n)
    along, across = row(law, element + 2 * stride, n), row(law, element + 3 * stride, n)
    n0, n1 = row(law, element + 4 * stride, n), row(law, element + 5 * stride, n)
    n2, n3 = row(law, element + 6 * stride, n), row(law, element + 7 * stride, n)
    n4, n5 = row(law, element + 8 * stride, n), row(law, element + 9 * stride, n)
    for i in range(n):
        ez, ey, ex, hyx, hzx, hzy = _strain(m, i, z, y, x, rz, ry, rx)
        trace = ez + ey + ex
        flow = n0[i] * ez + n1[i] * ey + n2[i] * ex + n3[i] * hyx + n4[i] * hzx + n5[i] * hzy
        mean = pressure[i] * trace + across[i] * flow
        deviator = along[i] * flow + across[i] * trace
        shear = half_shear[i]
        _collect(
            m, i, z, y, x, rz, ry, rx,
            mean + (shear + shear) * ez + deviator * n0[i],
            mean + (shear + shear) * ey + deviator * n1[i],
            mean + (shear + shear) * ex + deviator * n2[i],
            shear * hyx + deviator * n3[i],
            shear * hzx + deviator * n4[i],
            shear * hzy + deviator * n5[i],
        )  # fmt: skip


@rows_of(PointTangent)
def tangent_rows(
    material: PointTangent,
    q: np.ndarray,
    u: np.ndarray,
    lower: int,
    upper: int,
    stride: int,
    a: int,
    n: int,
    layer: int,
    at: int,
    own: bool,
    f: np.ndarray,
    h: np.ndarray,
    g: np.ndarray,
    extra: np.ndarray,
) -> None:
    """One row of elements; parameters as in `elastic.isotropic_rows`."""
    kind = u.dtype.type
    place, one, rz, ry, rx = kind(0.5773502691896258), kind(1), q[2], q[3], q[4]
    measure(u, lower, upper, stride, a, n, rz, ry, rx, f, extra)
    clear_forces(extra, a, n)
    for p in range(POINTS):
        z = place if p & 4 else -place
        y = place if p & 2 else -place
        x = place if p & 1 else -place
        element = POINT_LAW_ROWS * (POINTS * at + p * stride) + a
        tangent_point(material.law, element, stride, a, n, z, y, x, rz, ry, rx, extra)
    share_rows(extra, a, n, one, rz, ry, rx, h, g)


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def strain_point(
    own: np.ndarray, a: int, n: int, z: float, y: float, x: float, rz: float, ry: float, rx: float, m: np.ndarray
) -> None:
    """Strains at one point of every voxel of a row, to where the law wants them."""
    own, m = row(own, a, 18 * SCRATCH), row(m, a, 6 * SCRATCH)
    for i in range(n):
        zz, yy, xx, yx, zx, zy = _strain(own, i, z, y, x, rz, ry, rx)
        m[i], m[SCRATCH + i], m[2 * SCRATCH + i] = zz, yy, xx
        m[3 * SCRATCH + i], m[4 * SCRATCH + i], m[5 * SCRATCH + i] = yx, zx, zy


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def collect_point(
    own: np.ndarray, a: int, n: int, z: float, y: float, x: float, rz: float, ry: float, rx: float, m: np.ndarray
) -> None:
    """Add what the stresses do that the law found at one point of every voxel of a row."""
    own, s = row(own, a, SCRATCH_ROWS * SCRATCH), row(m, FIRST_STRESS_ROW * SCRATCH + a, 6 * SCRATCH)
    for i in range(n):
        _collect(
            own, i, z, y, x, rz, ry, rx,
            s[i], s[SCRATCH + i], s[2 * SCRATCH + i], s[3 * SCRATCH + i], s[4 * SCRATCH + i], s[5 * SCRATCH + i],
        )  # fmt: skip


@rows_of(PointYielding)
def yielding_rows(
    material: PointYielding,
    q: np.ndarray,
    u: np.ndarray,
    lower: int,
    upper: int,
    stride: int,
    a: int,
    n: int,
    layer: int,
    at: int,
    own: bool,
    f: np.ndarray,
    h: np.ndarray,
    g: np.ndarray,
    extra: np.ndarray,
) -> None:
    """One row of elements; parameters as in `elastic.isotropic_rows`."""
    law = material.law
    rz, ry, rx = 0.25 * q[2], 0.25 * q[3], 0.25 * q[4]
    mine = row(extra, _OWN * SCRATCH, SCRATCH_ROWS * SCRATCH)
    measure(u, lower, upper, stride, a, n, rz, ry, rx, f, mine)
    clear_forces(mine, a, n)
    place, kept, gone = 0.5773502691896258, 0.0, 0.0
    for p in range(POINTS):
        z = place if p & 4 else -place
        y = place if p & 2 else -place
        x = place if p & 1 else -place
        strain_point(mine, a, n, z, y, x, rz, ry, rx, extra)
        old = STATE_ROWS * (POINTS * at + p * stride) + a
        return_rows(law, a, n, stride, at, old, extra)
        if law.residual >= 0:
            soften_rows(law, a, n, stride, at, old, extra)
        stiffen_rows(law, a, n, extra)
        collect_point(mine, a, n, z, y, x, rz, ry, rx, extra)
        if not own:
            continue
        energies, works = row(extra, STORED_ROW * SCRATCH + a, n), row(extra, LOST_ROW * SCRATCH + a, n)
        for i in range(n):
            kept += energies[i]
            gone += works[i]
        if law.commit:
            for s in range(STATE_ROWS):
                state, new = row(law.state, old + s * stride, n), row(extra, (FIRST_STATE_ROW + s) * SCRATCH + a, n)
                for i in range(n):
                    state[i] = new[i]
        else:
            element = POINT_LAW_ROWS * (POINTS * at + p * stride) + a
            for s in range(POINT_LAW_ROWS):
                found, new = row(law.law, element + s * stride, n), row(extra, (FIRST_LAW_ROW + s) * SCRATCH + a, n)
                for i in range(n):
                    found[i] = new[i]
    share_rows(mine, a, n, law.volume, rz, ry, rx, h, g)
    if own:
        law.energies[ENERGIES * layer] += law.volume * kept
        law.energies[ENERGIES * layer + 1] += law.volume * gone


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def tangent_slab(
    u: np.ndarray,
    law: np.ndarray,
    ranges: np.ndarray,
    q: np.ndarray,
    inverse: np.ndarray,
    out: np.ndarray,
    sums: np.ndarray,
    z0: int,
    z1: int,
    scratch: np.ndarray,
) -> None:
    """out = masked(K_t u) on node planes z0 .. z1-1;  sums[plane] = u . out."""
    slab(PointTangent(law.reshape(-1)), MASKED_DOT, u, ranges, q, inverse, out, None, sums, z0, z1, scratch)


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def stress_slab(
    u: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    strength: np.ndarray,
    rate: np.ndarray,
    state: np.ndarray,
    law: np.ndarray,
    numbers: tuple[float, float, float, float, float, float, float, float],
    follow: float,
    commit: bool,
    ranges: np.ndarray,
    q: np.ndarray,
    inverse: np.ndarray,
    force: np.ndarray,
    energies: np.ndarray,
    sums: np.ndarray,
    z0: int,
    z1: int,
    scratch: np.ndarray,
) -> None:
    """Internal forces, tangents and energies; parameters as in `yielding.stress_slab`, states and tangents of all points."""
    lam_unit, mu_unit, volume, b, c, hardening, residual, kept = numbers
    material = Yielding(
        first.reshape(-1), second.reshape(-1), strength.reshape(-1), rate.reshape(-1), state.reshape(-1),
        law.reshape(-1), energies.reshape(-1), lam_unit, mu_unit, volume / POINTS, b, c, hardening, residual, kept, follow,
        commit,
    )  # fmt: skip
    mode = NOTHING if commit else RAW
    slab(PointYielding(material), mode, u, ranges, q, inverse, force, None, sums, z0, z1, scratch)
