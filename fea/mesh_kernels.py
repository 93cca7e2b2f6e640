"""The element operator on a list of elements, block by block, and the transfers between meshes.

Fields of a mesh are flat: three components of node 0, three of node 1, and so on. What is done with the finished forces
of a node plane is what `kernels` does with a finished row of a grid.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fea.kernels import MASKED_DOT, _deliver, _smooth, constants, hourglass, row

BLOCK = 64  # stations that are transformed together
# distance of the scratch rows: an odd number of cache lines
_APART = 112


def scratch_size(largest_plane: int) -> int:
    """Entries of scratch that `apply_slab` needs if no plane has more nodes."""
    return 36 * _APART + 2 * (3 * largest_plane + 64)


def strips(corners: np.ndarray, layer_start: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Elements as strips along x, so that neighbours share the nodes between them.

    A strip of n elements has n + 1 stations of four nodes; its last station carries no element.

    Parameters
    ----------
    corners : int32 ndarray of shape (8, n)
    layer_start : int64 ndarray of shape (layers + 1,)

    Returns
    -------
    int32 ndarray of shape (4, stations)
        Nodes in the order of the corners (z, y) of an element.
    int64 ndarray of shape (n,)
        The station of each element.
    int64 ndarray of shape (layers + 1,)
        First station of each layer.
    """
    ends = np.ones(corners.shape[1], bool)
    ends[:-1] = (corners[1::2, :-1] != corners[0::2, 1:]).any(axis=0)
    ends[layer_start[1:] - 1] = True
    before = np.cumsum(ends) - ends
    station = np.arange(len(ends)) + before
    nodes = np.empty((4, len(ends) + int(ends.sum())), np.int32)
    nodes[:, station] = corners[0::2]
    nodes[:, station[ends] + 1] = corners[1::2, ends]
    first = np.append(station, nodes.shape[1])[layer_start]
    return nodes, station, first


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def _collect(u: np.ndarray, stations: np.ndarray, count: int, first: int, n: int, s: np.ndarray) -> None:
    """Copy the displacements at n stations into scratch rows."""
    for pair in range(4):
        nodes = row(stations, pair * count + first, n)
        z, y, x = row(s, pair * _APART, n), row(s, (4 + pair) * _APART, n), row(s, (8 + pair) * _APART, n)
        for i in range(n):
            at = 3 * nodes[i]
            z[i], y[i], x[i] = u[at], u[at + 1], u[at + 2]


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def _scatter(
    g: np.ndarray, stations: np.ndarray, count: int, first: int, n: int, upper: int, forces: np.ndarray, base: int
) -> None:
    """Add the forces at n stations on their lower (0) or upper (1) nodes to those of a plane whose first node is `base`."""
    for pair in range(2 * upper, 2 * upper + 2):
        nodes = row(stations, pair * count + first, n)
        o = 2 * pair * _APART
        z, y, x = row(g, o, _APART + n), row(g, o + 8 * _APART, _APART + n), row(g, o + 16 * _APART, _APART + n)
        for i in range(n):
            at = 3 * (nodes[i] - base)
            forces[at] += z[i] + z[_APART + i]
            forces[at + 1] += y[i] + y[_APART + i]
            forces[at + 2] += x[i] + x[_APART + i]


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True, inline="always")
def _modes(s: np.ndarray, o: int, i: int) -> tuple[float, float, float, float, float, float, float]:
    """The seven modes of one component between stations i and i + 1 that are no translation: y, x, xy, z, yz, xz, xyz."""
    a, b, c, d = s[o + i], s[o + i + 1], s[o + _APART + i], s[o + _APART + i + 1]
    e, f, g, h = s[o + 2 * _APART + i], s[o + 2 * _APART + i + 1], s[o + 3 * _APART + i], s[o + 3 * _APART + i + 1]
    a, b, c, d, e, f, g, h = b + a, b - a, d + c, d - c, f + e, f - e, h + g, h - g
    a, c, b, d, e, g, f, h = c + a, c - a, d + b, d - b, g + e, g - e, h + f, h - f
    return g + c, f + b, h + d, e - a, g - c, f - b, h - d


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True, inline="always")
def _share(
    out: np.ndarray,
    o: int,
    i: int,
    t_y: float,
    t_x: float,
    t_xy: float,
    t_z: float,
    t_yz: float,
    t_xz: float,
    t_xyz: float,
) -> None:
    """Turn modal forces back into those of the eight corners (the transpose of `_modes`).

    Of each pair of rows the first holds what comes from the element after a station, the second what comes from before.
    """
    a, e = -t_z, t_z
    c, g = t_y - t_yz, t_y + t_yz
    b, f = t_x - t_xz, t_x + t_xz
    d, h = t_xy - t_xyz, t_xy + t_xyz
    a, c, b, d, e, g, f, h = a - c, a + c, b - d, b + d, e - g, e + g, f - h, f + h
    out[o + i], out[o + _APART + i + 1] = a - b, a + b
    out[o + 2 * _APART + i], out[o + 3 * _APART + i + 1] = c - d, c + d
    out[o + 4 * _APART + i], out[o + 5 * _APART + i + 1] = e - f, e + f
    out[o + 6 * _APART + i], out[o + 7 * _APART + i + 1] = g - h, g + h


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def _strain(
    s: np.ndarray, g: np.ndarray, first: np.ndarray, second: np.ndarray, station: int, n: int, q: np.ndarray
) -> None:
    """Forces from displacements for the elements after n stations; the blocks are those of `elastic.isotropic_rows`.

    Two arrays, although both are scratch: with one, the compiler sees dependences that are none and gives up on vectors.
    """
    first, second = row(first, station, n), row(second, station, n)
    clam, cmu, rz, ry, rx = q[0], q[1], q[2], q[3], q[4]
    edge = constants(q)
    for i in range(n):
        lam = clam * first[i]
        mu = cmu * second[i]
        z_y, z_x, z_xy, z_z, z_yz, z_xz, z_xyz = _modes(s, 0, i)
        y_y, y_x, y_xy, y_z, y_yz, y_xz, y_xyz = _modes(s, 4 * _APART, i)
        x_y, x_x, x_xy, x_z, x_yz, x_xz, x_xyz = _modes(s, 8 * _APART, i)
        ez, ey, ex = rz * z_z, ry * y_y, rx * x_x
        trace = lam * (ex + ey + ez)
        sz, sy, sx = trace + (mu + mu) * ez, trace + (mu + mu) * ey, trace + (mu + mu) * ex
        syx, szx, szy = mu * (rx * y_x + ry * x_y), mu * (rx * z_x + rz * x_z), mu * (ry * z_y + rz * y_z)
        z_xy, z_yz, z_xz, z_xyz, y_xy, y_yz, y_xz, y_xyz, x_xy, x_yz, x_xz, x_xyz = hourglass(
            edge, lam, mu, z_xy, z_yz, z_xz, z_xyz, y_xy, y_yz, y_xz, y_xyz, x_xy, x_yz, x_xz, x_xyz
        )
        _share(g, 0, i, ry * szy, rx * szx, z_xy, rz * sz, z_yz, z_xz, z_xyz)
        _share(g, 8 * _APART, i, ry * sy, rx * syx, y_xy, rz * szy, y_yz, y_xz, y_xyz)
        _share(g, 16 * _APART, i, ry * syx, rx * sx, x_xy, rz * szx, x_yz, x_xz, x_xyz)


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def apply_slab(
    mode: int,
    u: np.ndarray,
    stations: np.ndarray,
    layer_start: np.ndarray,
    plane_start: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    q: np.ndarray,
    inverse: np.ndarray,
    out: np.ndarray,
    smoothing: tuple[float, float, np.ndarray, np.ndarray, np.ndarray] | None,
    sums: np.ndarray,
    z0: int,
    z1: int,
    scratch: np.ndarray,
) -> None:
    """Apply the operator to `u` and finish node planes z0 .. z1-1; modes as in `kernels.apply_slab`.

    As there, the layer at the border of two slabs is done twice, and additions at a node always come in the same order.
    """
    layers = layer_start.size - 1
    count = stations.shape[1]
    stations = stations.reshape(-1)
    u, inverse, out = u.reshape(-1), inverse.reshape(-1), out.reshape(-1)
    if smoothing is not None:
        c1, c2, source, direction, x = smoothing
        source, direction, x = source.reshape(-1), direction.reshape(-1), x.reshape(-1)
    s, g = row(scratch, 0, 12 * _APART), row(scratch, 12 * _APART, 24 * _APART)
    half = (scratch.size - 36 * _APART) // 2
    here, there = row(scratch, 36 * _APART, half), row(scratch, 36 * _APART + half, half)
    for i in range(36 * _APART + half):
        scratch[i] = 0
    for k in range(max(z0 - 1, 0), z1):
        base = plane_start[k]
        n = plane_start[k + 1] - base
        if k < layers:
            above = plane_start[k + 1]
            for i in range(3 * (plane_start[k + 2] - above)):
                there[i] = 0
            stop = layer_start[k + 1]
            for station in range(layer_start[k], stop, BLOCK):
                some = min(BLOCK, stop - station)
                # with the next block's first station, which the last element here may reach; the last of a layer reaches none
                more = min(some + 1, stop - station)
                _collect(u, stations, count, station, more, s)
                _strain(s, g, first, second, station, some, q)
                for m in range(0, 24, 2):
                    g[m * _APART + some] = 0
                if k >= z0:
                    _scatter(g, stations, count, station, more, 0, here, base)
                _scatter(g, stations, count, station, more, 1, there, above)
        if k >= z0:
            if smoothing is not None:
                sums[k] = _smooth(mode, 3 * base, 0, n, n, here, u, inverse, c1, c2, source, out, direction, x)
            else:
                sums[k] = _deliver(mode == MASKED_DOT, 3 * base, 0, n, n, here, u, inverse, out)
        here, there = there, here


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def prolong(
    start: np.ndarray,
    index: np.ndarray,
    coarse: np.ndarray,
    inverse: np.ndarray,
    fine: np.ndarray,
    first: int,
    stop: int,
) -> None:
    """fine += masked(P coarse) at nodes first .. stop-1; a node is the mean of the coarse nodes it lies between."""
    coarse, fine, inverse = coarse.reshape(-1), fine.reshape(-1), inverse.reshape(-1)
    for node in range(first, stop):
        z = fine[3 * node] * 0
        y, x = z, z
        for m in range(start[node], start[node + 1]):
            at = 3 * index[m]
            z += coarse[at]
            y += coarse[at + 1]
            x += coarse[at + 2]
        share = np.float32(1) / np.float32(start[node + 1] - start[node])
        at = 3 * node
        fine[at] += share * z if inverse[at] > 0 else z * 0
        fine[at + 1] += share * y if inverse[at + 1] > 0 else y * 0
        fine[at + 2] += share * x if inverse[at + 2] > 0 else x * 0


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def restrict(
    start: np.ndarray,
    index: np.ndarray,
    halvings: np.ndarray,
    fine: np.ndarray,
    inverse: np.ndarray,
    coarse: np.ndarray,
    first: int,
    stop: int,
) -> None:
    """coarse = masked(P^T fine) at coarse nodes first .. stop-1."""
    coarse, fine, inverse = coarse.reshape(-1), fine.reshape(-1), inverse.reshape(-1)
    for node in range(first, stop):
        z = fine[3 * node] * 0
        y, x = z, z
        for m in range(start[node], start[node + 1]):
            at = 3 * index[m]
            share = np.float32(1) / np.float32(1 << halvings[m])
            z += share * fine[at]
            y += share * fine[at + 1]
            x += share * fine[at + 2]
        at = 3 * node
        coarse[at] = z if inverse[at] > 0 else z * 0
        coarse[at + 1] = y if inverse[at + 1] > 0 else y * 0
        coarse[at + 2] = x if inverse[at + 2] > 0 else x * 0
