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
    material = Isotropic(first.reshape(-1), second.reshape(-1))
    slab(material, mode, u, ranges, q, inverse, out, smoothing, sums, z0, z1, scratch)
