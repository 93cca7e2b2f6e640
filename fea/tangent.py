"""The tangent stiffness of voxels that may have yielded: what `kernels.slab` does with a row of them.

Every law here has a tangent on the mean strain of the form

    D = a1 1x1 + a2 (I - 1x1/3) + a3 n x n + a4 (n x 1 + 1 x n)

with a unit deviator n, so ten numbers per voxel stand for the 21 of a symmetric 6 x 6 matrix; an eleventh scales the elastic
stiffness of the hourglass modes. The product reads 44 bytes per voxel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from fea.kernels import MASKED_DOT, SCRATCH, constants, hourglass, modes, prefetch, row, rows_of, share, slab

LAW_ROWS = 11  # a1 - a2/3, a2/2, a3, a4 (each times V/16); n (zz, yy, xx, yx, zx, zy); ratio of the hourglass modes


class Tangent(NamedTuple):
    """Flat arrays: the elastic coefficients as in `elastic.Isotropic`, and the law (nz, ny+1, LAW_ROWS, stride)."""

    first: np.ndarray
    second: np.ndarray
    law: np.ndarray


@rows_of(Tangent)
def tangent_rows(
    material: Tangent,
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
    """One row of elements; parameters as in `elastic.isotropic_rows`. No literals, so that float32 stays float32."""
    element = LAW_ROWS * at + a
    for i in range(0, LAW_ROWS * stride, 16):
        prefetch(material.law, element + LAW_ROWS * stride + i)
    zl, zu = row(u, lower + a, n + 1), row(u, upper + a, n + 1)
    yl, yu = row(u, lower + stride + a, n + 1), row(u, upper + stride + a, n + 1)
    xl, xu = row(u, lower + 2 * stride + a, n + 1), row(u, upper + 2 * stride + a, n + 1)
    f, h, g = row(f, a, 11 * SCRATCH + n), row(h, a, 11 * SCRATCH + n), row(g, a, 11 * SCRATCH + n)
    first, second = row(material.first, at + a, n), row(material.second, at + a, n)
    pressure, half_shear = row(material.law, element, n), row(material.law, element + stride, n)
    along, across = row(material.law, element + 2 * stride, n), row(material.law, element + 3 * stride, n)
    n0, n1 = row(material.law, element + 4 * stride, n), row(material.law, element + 5 * stride, n)
    n2, n3 = row(material.law, element + 6 * stride, n), row(material.law, element + 7 * stride, n)
    n4, n5 = row(material.law, element + 8 * stride, n), row(material.law, element + 9 * stride, n)
    ratio = row(material.law, element + 10 * stride, n)
    clam, cmu, rz, ry, rx = q[0], q[1], q[2], q[3], q[4]
    edge = constants(q)
    for i in range(n):
        z_y, z_x, z_xy, z_z, z_yz, z_xz, z_xyz = modes(zl, zu, f, 0, i)
        y_y, y_x, y_xy, y_z, y_yz, y_xz, y_xyz = modes(yl, yu, f, 4 * SCRATCH, i)
        x_y, x_x, x_xy, x_z, x_yz, x_xz, x_xyz = modes(xl, xu, f, 8 * SCRATCH, i)
        ez, ey, ex = rz * z_z, ry * y_y, rx * x_x
        hyx, hzx, hzy = rx * y_x + ry * x_y, rx * z_x + rz * x_z, ry * z_y + rz * y_z
        trace = ez + ey + ex
        flow = n0[i] * ez + n1[i] * ey + n2[i] * ex + n3[i] * hyx + n4[i] * hzx + n5[i] * hzy
        mean = pressure[i] * trace + across[i] * flow
        deviator = along[i] * flow + across[i] * trace
        shear = half_shear[i]
        sz = mean + (shear + shear) * ez + deviator * n0[i]
        sy = mean + (shear + shear) * ey + deviator * n1[i]
        sx = mean + (shear + shear) * ex + deviator * n2[i]
        syx, szx, szy = shear * hyx + deviator * n3[i], shear * hzx + deviator * n4[i], shear * hzy + deviator * n5[i]
        z_xy, z_yz, z_xz, z_xyz, y_xy, y_yz, y_xz, y_xyz, x_xy, x_yz, x_xz, x_xyz = hourglass(
            edge, clam * ratio[i] * first[i], cmu * ratio[i] * second[i],
            z_xy, z_yz, z_xz, z_xyz, y_xy, y_yz, y_xz, y_xyz, x_xy, x_yz, x_xz, x_xyz,
        )  # fmt: skip
        share(h, g, 0, i, ry * szy, rx * szx, z_xy, rz * sz, z_yz, z_xz, z_xyz)
        share(h, g, 4 * SCRATCH, i, ry * sy, rx * syx, y_xy, rz * szy, y_yz, y_xz, y_xyz)
        share(h, g, 8 * SCRATCH, i, ry * syx, rx * sx, x_xy, rz * szx, x_yz, x_xz, x_xyz)


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def tangent_slab(
    u: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
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
    material = Tangent(first.reshape(-1), second.reshape(-1), law.reshape(-1))
    slab(material, MASKED_DOT, u, ranges, q, inverse, out, None, sums, z0, z1, scratch)
