"""Elastic materials: what `kernels.slab` does with one row of elements, and the entry points compiled for each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from fea.kernels import SCRATCH, constants, hourglass, modes, row, rows_of, share, slab


class Isotropic(NamedTuple):
    """Flat coefficient arrays, which times q[0] and q[1] are lambda and mu (V/16 included)."""

    first: np.ndarray
    second: np.ndarray


@rows_of(Isotropic)
def isotropic_rows(
    material: Isotropic,
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
    """One row of elements; the pattern for every material.

    Reads the node row above (j+1) of both planes, which begin at u[lower] and u[upper], combines it with the face of row
    j kept in `f` (which it replaces by the face of row j+1), applies the 21 modal stiffnesses, adds what the
    previous element row left in `h` for node row j, and leaves in `g` the nodal forces of row j split by
    plane and by side, in `h` the share of row j+1.

    Parameters
    ----------
    material
        What the entry point handed to `slab`.
    q
        Constants of the voxel, `element.modal_numbers`.
    a, n : int
        First voxel of the row and number of voxels to work on.
    layer, at : int
        The element layer, and where the row begins in a flat array (nz, ny+1, stride).
    own : bool
        False where another slab finishes this layer: forces are wanted, but nothing else may be written or summed.
    extra
        Scratch of the material's own, `extra_rows` of `scratch_size`.
    """
    zl = row(u, lower + a, n + 1)
    zu = row(u, upper + a, n + 1)
    yl = row(u, lower + stride + a, n + 1)
    yu = row(u, upper + stride + a, n + 1)
    xl = row(u, lower + 2 * stride + a, n + 1)
    xu = row(u, upper + 2 * stride + a, n + 1)
    first = row(material.first, at + a, n)
    second = row(material.second, at + a, n)
    f = row(f, a, 11 * SCRATCH + n)
    h = row(h, a, 11 * SCRATCH + n)
    g = row(g, a, 11 * SCRATCH + n)
    clam, cmu, rz, ry, rx = q[0], q[1], q[2], q[3], q[4]
    edge = constants(q)
    for i in range(n):
        lam = clam * first[i]
        mu = cmu * second[i]
        z_y, z_x, z_xy, z_z, z_yz, z_xz, z_xyz = modes(zl, zu, f, 0, i)
        y_y, y_x, y_xy, y_z, y_yz, y_xz, y_xyz = modes(yl, yu, f, 4 * SCRATCH, i)
        x_y, x_x, x_xy, x_z, x_yz, x_xz, x_xyz = modes(xl, xu, f, 8 * SCRATCH, i)
        ez, ey, ex = rz * z_z, ry * y_y, rx * x_x
        trace = lam * (ex + ey + ez)
        sz, sy, sx = trace + (mu + mu) * ez, trace + (mu + mu) * ey, trace + (mu + mu) * ex
        syx, szx, szy = mu * (rx * y_x + ry * x_y), mu * (rx * z_x + rz * x_z), mu * (ry * z_y + rz * y_z)
        z_xy, z_yz, z_xz, z_xyz, y_xy, y_yz, y_xz, y_xyz, x_xy, x_yz, x_xz, x_xyz = hourglass(
            edge, lam, mu, z_xy, z_yz, z_xz, z_xyz, y_xy, y_yz, y_xz, y_xyz, x_xy, x_yz, x_xz, x_xyz
        )
        share(h, g, 0, i, ry * szy, rx * szx, z_xy, rz * sz, z_yz, z_xz, z_xyz)
        share(h, g, 4 * SCRATCH, i, ry * sy, rx * syx, y_xy, rz * szy, y_yz, y_xz, y_xyz)
        share(h, g, 8 * SCRATCH, i, ry * syx, rx * sx, x_xy, rz * szx, x_yz, x_xz, x_xyz)


class Orthotropic(NamedTuple):
    """Flat coefficient arrays; the constants of `element.orthotropic_numbers` say what each is a multiple of."""

    first: np.ndarray
    second: np.ndarray


@rows_of(Orthotropic)
def orthotropic_rows(
    material: Orthotropic,
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
    """One row of elements whose law is first times nine constants plus second times nine others.

    The box keeps its three mirror planes with such a law, so the blocks are those of the isotropic element with other
    entries (docs/solver.md). Parameters as in `isotropic_rows`.
    """
    zl, zu = row(u, lower + a, n + 1), row(u, upper + a, n + 1)
    yl, yu = row(u, lower + stride + a, n + 1), row(u, upper + stride + a, n + 1)
    xl, xu = row(u, lower + 2 * stride + a, n + 1), row(u, upper + 2 * stride + a, n + 1)
    first, second = row(material.first, at + a, n), row(material.second, at + a, n)
    f, h, g = row(f, a, 11 * SCRATCH + n), row(h, a, 11 * SCRATCH + n), row(g, a, 11 * SCRATCH + n)
    azz, ayy, axx, azy, azx, ayx, ahyx, ahzx, ahzy = q[0], q[1], q[2], q[3], q[4], q[5], q[6], q[7], q[8]
    bzz, byy, bxx, bzy, bzx, byx, bhyx, bhzx, bhzy = q[9], q[10], q[11], q[12], q[13], q[14], q[15], q[16], q[17]
    rz, ry, rx = q[18], q[19], q[20]
    third = q[21]
    tz, ty, tx = rz * third, ry * third, rx * third
    szz, syy, sxx = rz * tz, ry * ty, rx * tx
    nzz, nyy, nxx = tz * tz, ty * ty, tx * tx
    for i in range(n):
        one, two = first[i], second[i]
        czz, cyy, cxx = azz * one + bzz * two, ayy * one + byy * two, axx * one + bxx * two
        czy, czx, cyx = azy * one + bzy * two, azx * one + bzx * two, ayx * one + byx * two
        gyx, gzx, gzy = ahyx * one + bhyx * two, ahzx * one + bhzx * two, ahzy * one + bhzy * two
        z_y, z_x, z_xy, z_z, z_yz, z_xz, z_xyz = modes(zl, zu, f, 0, i)
        y_y, y_x, y_xy, y_z, y_yz, y_xz, y_xyz = modes(yl, yu, f, 4 * SCRATCH, i)
        x_y, x_x, x_xy, x_z, x_yz, x_xz, x_xyz = modes(xl, xu, f, 8 * SCRATCH, i)
        # mean strains
        ez, ey, ex = rz * z_z, ry * y_y, rx * x_x
        sz, sy, sx = czz * ez + czy * ey + czx * ex, czy * ez + cyy * ey + cyx * ex, czx * ez + cyx * ey + cxx * ex
        hyx, hzx, hzy = gyx * (rx * y_x + ry * x_y), gzx * (rx * z_x + rz * x_z), gzy * (ry * z_y + rz * y_z)
        # stretches that change sign along x, then y, then z
        ez, ey = tz * z_xz, ty * y_xy
        z_xz = rz * (czz * ez + czy * ey) + sxx * gzx * z_xz
        y_xy = ry * (czy * ez + cyy * ey) + sxx * gyx * y_xy
        ez, ex = tz * z_yz, tx * x_xy
        z_yz = rz * (czz * ez + czx * ex) + syy * gzy * z_yz
        x_xy = rx * (czx * ez + cxx * ex) + syy * gyx * x_xy
        ey, ex = ty * y_yz, tx * x_xz
        y_yz = ry * (cyy * ey + cyx * ex) + szz * gzy * y_yz
        x_xz = rx * (cyx * ey + cxx * ex) + szz * gzx * x_xz
        # the highest mode of each component
        z_xyz *= nzz * czz + nyy * gzy + nxx * gzx
        y_xyz *= nzz * gzy + nyy * cyy + nxx * gyx
        x_xyz *= nzz * gzx + nyy * gyx + nxx * cxx
        # shears that change sign along the third axis
        tyx, tzx, tzy = gyx * (ty * x_yz + tx * y_xz), gzx * (tz * x_yz + tx * z_xy), gzy * (tz * y_xz + ty * z_xy)
        x_yz, y_xz, z_xy = ry * tyx + rz * tzx, rx * tyx + rz * tzy, rx * tzx + ry * tzy
        share(h, g, 0, i, ry * hzy, rx * hzx, z_xy, rz * sz, z_yz, z_xz, z_xyz)
        share(h, g, 4 * SCRATCH, i, ry * sy, rx * hyx, y_xy, rz * hzy, y_yz, y_xz, y_xyz)
        share(h, g, 8 * SCRATCH, i, ry * hyx, rx * sx, x_xy, rz * hzx, x_yz, x_xz, x_xyz)


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def apply_slab(
    mode: int,
    u: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    ranges: np.ndarray,
    q: np.ndarray,
    inverse: np.ndarray,
    out: np.ndarray,
    smoothing: tuple[float, float, np.ndarray, np.ndarray, np.ndarray] | None,
    sums: np.ndarray,
    z0: int,
    z1: int,
    scratch: np.ndarray,
) -> None:
    """`slab` for isotropic voxels with coefficients `first` and `second` of shape (nz, ny+1, stride)."""
    # uncounted views, or each row would count references to the arrays up and down
    material = Isotropic(row(first.reshape(-1), 0, first.size), row(second.reshape(-1), 0, second.size))
    slab(material, mode, u, ranges, q, inverse, out, smoothing, sums, z0, z1, scratch)


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def apply_orthotropic_slab(
    mode: int,
    u: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    ranges: np.ndarray,
    q: np.ndarray,
    inverse: np.ndarray,
    out: np.ndarray,
    smoothing: tuple[float, float, np.ndarray, np.ndarray, np.ndarray] | None,
    sums: np.ndarray,
    z0: int,
    z1: int,
    scratch: np.ndarray,
) -> None:
    """`slab` for orthotropic voxels with coefficients `first` and `second` of shape (nz, ny+1, stride)."""
    # uncounted views, or each row would count references to the arrays up and down
    material = Orthotropic(row(first.reshape(-1), 0, first.size), row(second.reshape(-1), 0, second.size))
    slab(material, mode, u, ranges, q, inverse, out, smoothing, sums, z0, z1, scratch)
