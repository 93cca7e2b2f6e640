"""The element operator on rows of voxels, and what is done with each finished row.

Fields live in arrays of shape (nz+1, ny+1, 3, stride): node plane, node row, component (z, y, x), position in the row.
Element coefficients (the two Lame moduli or multiples) live in arrays of shape (nz, ny, stride), zero where void or
padding. See docs/solver.md for the derivation; the names of the modes here are the ones used there.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# Distance of the scratch rows, a compile-time constant so that the vectoriser needs no overlap tests between them. It
# is not a multiple of 4096 bytes, which would put all rows into the same cache sets.
SCRATCH = 1040
LONGEST_ROW = SCRATCH - 16

RAW, MASKED_DOT, START, STEP, FINAL, LAST = 0, 1, 2, 3, 4, 5


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True, inline="never")
def _face(lower, upper, stride, a, n, f):
    """Butterflies along x and z of one node row of two neighbouring planes; nothing is applied yet."""
    for c in range(3):
        o = c * stride + a
        lo = lower[o : o + n + 1]
        up = upper[o : o + n + 1]
        f0 = f[(4 * c + 0) * SCRATCH + a : (4 * c + 0) * SCRATCH + a + n]
        f1 = f[(4 * c + 1) * SCRATCH + a : (4 * c + 1) * SCRATCH + a + n]
        f2 = f[(4 * c + 2) * SCRATCH + a : (4 * c + 2) * SCRATCH + a + n]
        f3 = f[(4 * c + 3) * SCRATCH + a : (4 * c + 3) * SCRATCH + a + n]
        for i in range(n):
            sl = lo[i + 1] + lo[i]
            dl = lo[i + 1] - lo[i]
            su = up[i + 1] + up[i]
            du = up[i + 1] - up[i]
            f0[i] = su + sl
            f1[i] = du + dl
            f2[i] = su - sl
            f3[i] = du - dl


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True, inline="never")
def _elements(lower, upper, stride, a, n, first, second, q, f, h, g):
    """One row of elements.

    Reads the node row above (j+1) of both planes, combines it with the face of row j kept in `f` (which it replaces by
    the face of row j+1), applies the 21 modal stiffnesses, adds what the previous element row left in `h` for node row
    j, and leaves in `g` the nodal forces of row j split by plane and by side, in `h` the share of row j+1.
    """
    zl = lower[a : a + n + 1]
    zu = upper[a : a + n + 1]
    yl = lower[stride + a : stride + a + n + 1]
    yu = upper[stride + a : stride + a + n + 1]
    xl = lower[2 * stride + a : 2 * stride + a + n + 1]
    xu = upper[2 * stride + a : 2 * stride + a + n + 1]
    first = first[a : a + n]
    second = second[a : a + n]
    f = f[a : a + 11 * SCRATCH + n]
    h = h[a : a + 11 * SCRATCH + n]
    g = g[a : a + 11 * SCRATCH + n]
    clam, cmu = q[0], q[1]
    rz, ry, rx = q[2], q[3], q[4]
    tz, ty, tx = q[5], q[6], q[7]  # r / 3
    szz, syy, sxx = q[8], q[9], q[10]  # r^2 / 3
    pz, py, px = q[11], q[12], q[13]  # (sum of the two other r^2) / 3
    mzy, mzx, myx = q[14], q[15], q[16]  # r r / 3
    kz, ky, kx = q[17], q[18], q[19]  # r^2 / 9
    wz, wy, wx = q[20], q[21], q[22]  # (2 r^2 + the two other r^2) / 9
    for i in range(n):
        lam = clam * first[i]
        mu = cmu * second[i]
        mu2 = mu + mu

        s, d = zl[i + 1] + zl[i], zl[i + 1] - zl[i]
        t, e = zu[i + 1] + zu[i], zu[i + 1] - zu[i]
        n0, n1, n2, n3 = t + s, e + d, t - s, e - d
        o0, o1, o2, o3 = f[i], f[SCRATCH + i], f[2 * SCRATCH + i], f[3 * SCRATCH + i]
        f[i], f[SCRATCH + i], f[2 * SCRATCH + i], f[3 * SCRATCH + i] = n0, n1, n2, n3
        z_y, z_x, z_xy, z_z, z_yz, z_xz, z_xyz = n0 - o0, n1 + o1, n1 - o1, n2 + o2, n2 - o2, n3 + o3, n3 - o3

        s, d = yl[i + 1] + yl[i], yl[i + 1] - yl[i]
        t, e = yu[i + 1] + yu[i], yu[i + 1] - yu[i]
        n0, n1, n2, n3 = t + s, e + d, t - s, e - d
        o0, o1, o2, o3 = f[4 * SCRATCH + i], f[5 * SCRATCH + i], f[6 * SCRATCH + i], f[7 * SCRATCH + i]
        f[4 * SCRATCH + i], f[5 * SCRATCH + i], f[6 * SCRATCH + i], f[7 * SCRATCH + i] = n0, n1, n2, n3
        y_y, y_x, y_xy, y_z, y_yz, y_xz, y_xyz = n0 - o0, n1 + o1, n1 - o1, n2 + o2, n2 - o2, n3 + o3, n3 - o3

        s, d = xl[i + 1] + xl[i], xl[i + 1] - xl[i]
        t, e = xu[i + 1] + xu[i], xu[i + 1] - xu[i]
        n0, n1, n2, n3 = t + s, e + d, t - s, e - d
        o0, o1, o2, o3 = f[8 * SCRATCH + i], f[9 * SCRATCH + i], f[10 * SCRATCH + i], f[11 * SCRATCH + i]
        f[8 * SCRATCH + i], f[9 * SCRATCH + i], f[10 * SCRATCH + i], f[11 * SCRATCH + i] = n0, n1, n2, n3
        x_y, x_x, x_xy, x_z, x_yz, x_xz, x_xyz = n0 - o0, n1 + o1, n1 - o1, n2 + o2, n2 - o2, n3 + o3, n3 - o3

        # stretches: x_x, y_y, z_z
        ex, ey, ez = rx * x_x, ry * y_y, rz * z_z
        lt = lam * (ex + ey + ez)
        x_x = rx * (lt + mu2 * ex)
        y_y = ry * (lt + mu2 * ey)
        z_z = rz * (lt + mu2 * ez)
        # stretches that change sign along x, then y, then z
        ey, ez = ty * y_xy, tz * z_xz
        lt = lam * (ey + ez)
        y_xy = ry * (lt + mu2 * ey) + (sxx * mu) * y_xy
        z_xz = rz * (lt + mu2 * ez) + (sxx * mu) * z_xz
        ex, ez = tx * x_xy, tz * z_yz
        lt = lam * (ex + ez)
        x_xy = rx * (lt + mu2 * ex) + (syy * mu) * x_xy
        z_yz = rz * (lt + mu2 * ez) + (syy * mu) * z_yz
        ex, ey = tx * x_xz, ty * y_yz
        lt = lam * (ex + ey)
        x_xz = rx * (lt + mu2 * ex) + (szz * mu) * x_xz
        y_yz = ry * (lt + mu2 * ey) + (szz * mu) * y_yz
        # shears
        e = mu * (ry * x_y + rx * y_x)
        x_y, y_x = ry * e, rx * e
        e = mu * (rz * x_z + rx * z_x)
        x_z, z_x = rz * e, rx * e
        e = mu * (rz * y_z + ry * z_y)
        y_z, z_y = rz * e, ry * e
        # the highest mode of each component
        x_xyz *= kx * lam + wx * mu
        y_xyz *= ky * lam + wy * mu
        z_xyz *= kz * lam + wz * mu
        # shears that change sign along the third axis
        s, t, e = mu * x_yz, mu * y_xz, mu * z_xy
        x_yz = px * s + myx * t + mzx * e
        y_xz = myx * s + py * t + mzy * e
        z_xy = mzx * s + mzy * t + pz * e

        n0, n1, n2, n3 = (
            h[i] - z_y,
            h[SCRATCH + i] + z_x - z_xy,
            h[2 * SCRATCH + i] + z_z - z_yz,
            h[3 * SCRATCH + i] + z_xz - z_xyz,
        )
        h[i], h[SCRATCH + i], h[2 * SCRATCH + i], h[3 * SCRATCH + i] = z_y, z_x + z_xy, z_z + z_yz, z_xz + z_xyz
        s, d, t, e = n0 - n2, n1 - n3, n0 + n2, n1 + n3
        g[i], g[SCRATCH + i], g[2 * SCRATCH + i], g[3 * SCRATCH + i] = s - d, s + d, t - e, t + e

        n0, n1, n2, n3 = (
            h[4 * SCRATCH + i] - y_y,
            h[5 * SCRATCH + i] + y_x - y_xy,
            h[6 * SCRATCH + i] + y_z - y_yz,
            h[7 * SCRATCH + i] + y_xz - y_xyz,
        )
        h[4 * SCRATCH + i], h[5 * SCRATCH + i], h[6 * SCRATCH + i], h[7 * SCRATCH + i] = (
            y_y,
            y_x + y_xy,
            y_z + y_yz,
            y_xz + y_xyz,
        )
        s, d, t, e = n0 - n2, n1 - n3, n0 + n2, n1 + n3
        g[4 * SCRATCH + i], g[5 * SCRATCH + i], g[6 * SCRATCH + i], g[7 * SCRATCH + i] = s - d, s + d, t - e, t + e

        n0, n1, n2, n3 = (
            h[8 * SCRATCH + i] - x_y,
            h[9 * SCRATCH + i] + x_x - x_xy,
            h[10 * SCRATCH + i] + x_z - x_yz,
            h[11 * SCRATCH + i] + x_xz - x_xyz,
        )
        h[8 * SCRATCH + i], h[9 * SCRATCH + i], h[10 * SCRATCH + i], h[11 * SCRATCH + i] = (
            x_y,
            x_x + x_xy,
            x_z + x_yz,
            x_xz + x_xyz,
        )
        s, d, t, e = n0 - n2, n1 - n3, n0 + n2, n1 + n3
        g[8 * SCRATCH + i], g[9 * SCRATCH + i], g[10 * SCRATCH + i], g[11 * SCRATCH + i] = s - d, s + d, t - e, t + e


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True, inline="never")
def _gather(g, a, n, c, y, partial):
    """Forces of one node row from the elements on both sides; the upper plane's share waits in `partial`."""
    ll = g[4 * c * SCRATCH + a : 4 * c * SCRATCH + a + n]
    lr = g[(4 * c + 1) * SCRATCH + a - 1 : (4 * c + 1) * SCRATCH + a + n - 1]
    ul = g[(4 * c + 2) * SCRATCH + a : (4 * c + 2) * SCRATCH + a + n]
    ur = g[(4 * c + 3) * SCRATCH + a - 1 : (4 * c + 3) * SCRATCH + a + n - 1]
    for i in range(n):
        y[i] = partial[i] + (ll[i] + lr[i])
    for i in range(n):
        partial[i] = ul[i] + ur[i]


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True, inline="never")
def _finish(mode, n, force, u, inverse, c1, c2, source, residual, direction, x):
    """What `apply_slab` does with the finished forces of one row; returns the row's share of the dot product."""
    total = 0.0
    if mode == MASKED_DOT:
        for i in range(n):
            value = force[i] if inverse[i] > 0 else force[i] * 0
            residual[i] = value
            total += value * u[i]
    elif mode == LAST:
        for i in range(n):
            value = x[i] + u[i] + (c1 * u[i] + c2 * inverse[i] * (source[i] - force[i]))
            x[i] = value
            total += value * residual[i]
    else:
        for i in range(n):
            force[i] = source[i] - force[i] if inverse[i] > 0 else force[i] * 0
        residual[:n] = force
        if mode != FINAL:
            for i in range(n):
                direction[i] = c1 * u[i] + c2 * inverse[i] * force[i]
        if mode != START:
            for i in range(n):
                x[i] += u[i]
    return total


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def apply_slab(mode, z0, z1, u, first, second, ranges, q, inverse, c1, c2, source, residual, direction, x, sums):
    """Apply the operator to `u` and finish node planes z0 .. z1-1 according to `mode`.

    Element layers z0-1 .. z1-1 are worked through, so a layer at the border of two slabs is done twice; in return no
    two slabs write the same plane, and the order of additions at a node does not depend on the slabs.

    With y = K u, and masked() setting fixed and void components (inverse diagonal 0) to zero:

    RAW         residual = y
    MASKED_DOT  residual = masked(y);           sums[plane] = u . residual
    START       residual = masked(source - y);  direction = c1 u + c2 inverse residual
    STEP        the same, and x += u
    FINAL       residual = masked(source - y);  x += u
    LAST        x += u + (c1 u + c2 inverse (source - y));  sums[plane] = x . second source (passed as `residual`)
    """
    nz, rows_per_plane, stride = first.shape
    f = np.zeros(12 * SCRATCH, u.dtype)
    h = np.zeros(12 * SCRATCH, u.dtype)
    g = np.zeros(12 * SCRATCH, u.dtype)
    length = 3 * stride
    y = np.zeros(length, u.dtype)
    partial = np.zeros(rows_per_plane * length, u.dtype)
    u = u.reshape(-1)
    first = first.reshape(-1)
    second = second.reshape(-1)
    inverse = inverse.reshape(-1)
    source = source.reshape(-1)
    residual = residual.reshape(-1)
    direction = direction.reshape(-1)
    x = x.reshape(-1)
    plane = rows_per_plane * length
    for k in range(max(z0 - 1, 0), z1):
        total = 0.0
        fresh = True
        for j in range(rows_per_plane):
            a = ranges[k, j, 0]
            n = ranges[k, j, 1] - a
            if n <= 0:
                fresh = True
                continue
            here = k * plane + j * length
            waiting = j * length
            if k < nz:
                if fresh:
                    _face(u[here : here + length + 1], u[here + plane : here + plane + length + 1], stride, a, n, f)
                    fresh = False
                above = here + length if j + 1 < rows_per_plane else here
                element = (k * rows_per_plane + j) * stride
                for m in range(1, 12, 2):
                    g[m * SCRATCH + a - 1] = 0
                _elements(
                    u[above : above + length + 1],
                    u[above + plane : above + plane + length + 1],
                    stride,
                    a,
                    n,
                    first[element : element + stride],
                    second[element : element + stride],
                    q,
                    f,
                    h,
                    g,
                )
                for c in range(3):
                    o = c * stride + a
                    _gather(g, a, n, c, y[o : o + n], partial[waiting + o : waiting + o + n])
            else:
                for c in range(3):
                    o = c * stride + a
                    y[o : o + n] = partial[waiting + o : waiting + o + n]
            if k < z0:
                continue
            for c in range(3):
                o = c * stride + a
                at = here + o
                force = y[o : o + n]
                if mode == RAW:
                    residual[at : at + n] = force
                else:
                    total += _finish(
                        mode,
                        n,
                        force,
                        u[at : at + n],
                        inverse[at : at + n],
                        c1,
                        c2,
                        source[at : at + n],
                        residual[at : at + n],
                        direction[at : at + n],
                        x[at : at + n],
                    )
        if k >= z0:
            sums[k] = total
