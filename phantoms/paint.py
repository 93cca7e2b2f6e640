"""The compiled painter: one solid over an image, block by block, with supersampling only where a surface runs."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from phantoms.distances import primitive_distance, solid_distance, surface_distance, survey
from phantoms.solids import BLEND, CORTEX, INTERSECT, OPERATION, UNION

TEXTURE_CELLS = 64
_TEXTURE_MASK = TEXTURE_CELLS - 1
_SAFETY = 1.5  # distances are of first order away from the surface: look this much further before leaving a block out
_NEAR_SAFETY = 1.15  # the same within a voxel of the surface, where they are nearly exact
_REACH_MM = 10.0  # a primitive further behind the nearest one than this has no say in cortex and core

# Places in the array `numbers` that describes the materials of a solid.
MATRIX_HU, HU_PER_MINERAL, CORTEX_MINERAL, TEXTURE, TEXTURE_MM, TEXTURE_AXIS, SUBCORTICAL, RIND_HU, OTHER_HU = (
    0,
    1,
    2,
    3,
    4,
    5,
    8,
    9,
    10,
)


@njit(cache=True, nogil=True, fastmath=True)
def texture(x: float, y: float, z: float, scale_mm: float, axis: np.ndarray, offset: int, table: np.ndarray) -> float:
    """The random field at a point, with a correlation length of `scale_mm`, drawn out twofold along `axis`."""
    along = 0.5 * (x * axis[0] + y * axis[1] + z * axis[2])
    cell = scale_mm / 3.0
    x, y, z = (x - along * axis[0]) / cell, (y - along * axis[1]) / cell, (z - along * axis[2]) / cell
    # Turned out of the lattice directions, so that no pattern lines up with the voxels.
    i = math.floor(0.80 * x + 0.48 * y + 0.36 * z) + offset
    j = math.floor(-0.60 * x + 0.64 * y + 0.48 * z) + 3 * offset
    k = math.floor(-0.60 * y + 0.80 * z) + 7 * offset
    return float(table[i & _TEXTURE_MASK, j & _TEXTURE_MASK, k & _TEXTURE_MASK])


@njit(cache=True, nogil=True, fastmath=True)
def _reach_squared(x: float, y: float, z: float, f: np.ndarray) -> float:
    """Squared distance to the line of a density feature, in units of its width."""
    ax, ay, az = f[3] - f[0], f[4] - f[1], f[5] - f[2]
    length2 = ax * ax + ay * ay + az * az
    t = 0.0
    if length2 > 0:
        t = min(max(((x - f[0]) * ax + (y - f[1]) * ay + (z - f[2]) * az) / length2, 0.0), 1.0)
    ex, ey, ez = x - f[0] - t * ax, y - f[1] - t * ay, z - f[2] - t * az
    return float((ex * ex + ey * ey + ez * ez) / (f[6] * f[6]))


@njit(cache=True, nogil=True, fastmath=True)
def core_density(
    base: float, depth: float, x: float, y: float, z: float, features: np.ndarray, numbers: np.ndarray, offset: int,
    table: np.ndarray,
) -> float:  # fmt: skip
    """Mineral density within a core: base value, subcortical rise, strands, texture; never negative."""
    value = base * (1.0 + numbers[SUBCORTICAL] * math.exp(-max(depth, 0.0) / 2.0))
    for n in range(features.shape[0]):
        f = features[n]
        q = _reach_squared(x, y, z, f)
        if q < 9.0:
            value += f[7] * math.exp(-q)
    if numbers[TEXTURE] > 0.0 and value > 0.0:
        value *= 1.0 + numbers[TEXTURE] * texture(
            x, y, z, numbers[TEXTURE_MM], numbers[TEXTURE_AXIS:SUBCORTICAL], offset, table
        )
    return float(max(value, 0.0))


@njit(cache=True, nogil=True, fastmath=True)
def other_share(x: float, y: float, z: float, features: np.ndarray) -> float:
    """How much of the matrix is replaced by the other one at a point."""
    share = 0.0
    for n in range(features.shape[0]):
        f = features[n]
        if f[8] != 0.0:
            q = _reach_squared(x, y, z, f)
            if q < 9.0:
                share += f[8] * math.exp(-q)
    return min(max(share, 0.0), 1.0)


@njit(cache=True, nogil=True, fastmath=True)
def _place(matrix: np.ndarray, k: float, j: float, i: float) -> tuple[float, float, float]:
    return (
        matrix[0, 0] * k + matrix[0, 1] * j + matrix[0, 2] * i + matrix[0, 3],
        matrix[1, 0] * k + matrix[1, 1] * j + matrix[1, 2] * i + matrix[1, 3],
        matrix[2, 0] * k + matrix[2, 1] * j + matrix[2, 2] * i + matrix[2, 3],
    )


@njit(cache=True, nogil=True, fastmath=True)
def _narrow(
    rows: np.ndarray, candidates: np.ndarray, count: int, distances: np.ndarray, d: float, reach: float, margin: float,
    chosen: np.ndarray,
) -> int:  # fmt: skip
    """Which of the candidates can matter within `reach` of the place where `distances` (and `d`, the whole) were taken."""
    nearest = 1e9
    for n in range(count):
        if rows[candidates[n], OPERATION] == UNION:
            nearest = min(nearest, distances[n])
    # What lies deepest may have been cut away here: a part matters if it could reach the surface of the whole.
    nearest = max(nearest, d)
    kept = 0
    for n in range(count):
        m = candidates[n]
        if rows[m, OPERATION] == UNION:
            keep = distances[n] < nearest + 2 * reach + max(rows[m, BLEND], margin)
        elif rows[m, OPERATION] == INTERSECT:
            keep = distances[n] > d - 2 * reach - rows[m, BLEND]
        else:
            keep = -distances[n] > d - 2 * reach - rows[m, BLEND]
        if keep:
            chosen[kept] = m
            kept += 1
    return kept


@njit(cache=True, nogil=True, fastmath=True)
def _fill(
    image: np.ndarray, labels: np.ndarray, matrix: np.ndarray, numbers: np.ndarray, offset: int, table: np.ndarray, label: int,
    k0: int, k1: int, j0: int, j1: int, i0: int, i1: int,
) -> None:  # fmt: skip
    """A region that lies wholly inside a solid without mineral."""
    for k in range(k0, k1):
        for j in range(j0, j1):
            for i in range(i0, i1):
                value = numbers[MATRIX_HU]
                if numbers[TEXTURE] > 0.0:
                    x, y, z = _place(matrix, k, j, i)
                    axis = numbers[TEXTURE_AXIS:SUBCORTICAL]
                    value += numbers[TEXTURE] * texture(x, y, z, numbers[TEXTURE_MM], axis, offset, table)
                image[k, j, i] = value
                if label > 0:
                    labels[k, j, i] = label


@njit(cache=True, nogil=True, fastmath=True)
def _paint_voxel(
    image: np.ndarray, labels: np.ndarray, matrix: np.ndarray, rows: np.ndarray, features: np.ndarray, numbers: np.ndarray,
    offset: int, table: np.ndarray, label: int, label_primitive: int, samples: np.ndarray, active: np.ndarray, count: int,
    near: np.ndarray, distances: np.ndarray, margin: float, k: int, j: int, i: int,
) -> None:  # fmt: skip
    x, y, z = _place(matrix, k, j, i)
    d, cortex, base = solid_distance(rows, active, count, x, y, z, distances)
    if d > margin:
        return
    if numbers[CORTEX_MINERAL] == 0.0:
        # Soft tissue meets soft tissue: the share of the voxel from the distance is exact enough for a flat surface, if the
        # distance is compared with the extent of the voxel across that surface (voxels may be much longer than wide).
        width = 1.0
        if abs(d) < margin or abs(d + cortex) < margin:
            width = 1e-6
            for n in range(3):
                x_, y_, z_ = _place(matrix, k + 0.5 * (n == 0), j + 0.5 * (n == 1), i + 0.5 * (n == 2))
                width += 2.0 * abs(surface_distance(rows, active, count, x_, y_, z_) - d)
        filled = min(max(0.5 - d / width, 0.0), 1.0)
        deep = min(max(0.5 - (d + cortex) / width, 0.0), filled)
        inside = numbers[MATRIX_HU]
        if numbers[TEXTURE] > 0.0:
            axis = numbers[TEXTURE_AXIS:SUBCORTICAL]
            inside += numbers[TEXTURE] * texture(x, y, z, numbers[TEXTURE_MM], axis, offset, table)
        image[k, j, i] = image[k, j, i] * (1.0 - filled) + (filled - deep) * numbers[RIND_HU] + deep * inside
        if label > 0 and filled >= 0.5:
            labels[k, j, i] = label
        return
    nz, ny, nx = samples[0], samples[1], samples[2]
    total = nz * ny * nx
    cell = margin / (0.5 * _NEAR_SAFETY * math.sqrt(3.0)) / total ** (1.0 / 3.0)
    core = shell = 0.0  # how many samples' worth of the voxel they fill
    n_label = 0
    label_distance = d
    if label > 0 and label_primitive >= 0:
        label_distance = max(d, primitive_distance(rows[label_primitive], x, y, z)[0])
    label_is_clear = label == 0 or abs(label_distance) > margin
    if label_distance < -margin:
        n_label = total
    if d < -margin - cortex and label_is_clear:
        core = float(total)
    elif d < -margin and -d < cortex - margin and label_is_clear:
        shell = float(total)
    else:
        n_near = _narrow(rows, active, count, distances, d, margin, 0.0, near)
        if not label_is_clear:
            n_label = 0
        for a in range(nz):
            fk = k + (a + 0.5) / nz - 0.5
            for b in range(ny):
                fj = j + (b + 0.5) / ny - 0.5
                for c in range(nx):
                    x_, y_, z_ = _place(matrix, fk, fj, i + (c + 0.5) / nx - 0.5)
                    s = surface_distance(rows, near, n_near, x_, y_, z_)
                    # A sample stands for a small cell, of which the surface may cut off a part.
                    filled = min(max(0.5 - s / cell, 0.0), 1.0)
                    if filled > 0.0:
                        inner = min(max(0.5 - (s + cortex) / cell, 0.0), filled)
                        core += inner
                        shell += filled - inner
                    if label_is_clear or s >= 0.0:
                        continue
                    if label_primitive < 0 or primitive_distance(rows[label_primitive], x_, y_, z_)[0] < 0.0:
                        n_label += 1
    if core + shell == 0.0:
        return
    value = image[k, j, i] * ((total - core - shell) / total)
    if shell > 0.0:
        value += (numbers[RIND_HU] + numbers[HU_PER_MINERAL] * numbers[CORTEX_MINERAL]) * (shell / total)
    if core > 0.0:
        inside = numbers[MATRIX_HU] + other_share(x, y, z, features) * (numbers[OTHER_HU] - numbers[MATRIX_HU])
        inside += numbers[HU_PER_MINERAL] * core_density(base, -d - cortex, x, y, z, features, numbers, offset, table)
        value += inside * (core / total)
    image[k, j, i] = value
    if label > 0 and 2 * n_label >= total:
        labels[k, j, i] = label


@njit(cache=True, nogil=True, fastmath=True)
def paint(
    image: np.ndarray, labels: np.ndarray, matrix: np.ndarray, rows: np.ndarray, features: np.ndarray, numbers: np.ndarray,
    offset: int, table: np.ndarray, label: int, label_primitive: int, box: np.ndarray, block: np.ndarray, part: np.ndarray,
    samples: np.ndarray,
) -> None:  # fmt: skip
    """Paint one solid over `image` (and its label) inside the index box [k0, k1, j0, j1, i0, i1).

    The box is visited in blocks of `block` voxels and those in parts of `part` voxels; whatever lies wholly outside or wholly
    inside a solid without mineral is settled there, and only the rest voxel by voxel, with `samples` points per voxel at
    surfaces.
    """
    count_all = rows.shape[0]
    everything = np.arange(count_all)
    active, inner, near = np.empty(count_all, np.int64), np.empty(count_all, np.int64), np.empty(count_all, np.int64)
    distances = np.empty(count_all)
    steps = np.empty(3)
    for axis in range(3):
        steps[axis] = math.sqrt(matrix[0, axis] ** 2 + matrix[1, axis] ** 2 + matrix[2, axis] ** 2)
    margin = 0.5 * _NEAR_SAFETY * math.sqrt(steps[0] ** 2 + steps[1] ** 2 + steps[2] ** 2)
    thickest = 0.0
    for n in range(count_all):
        thickest = max(thickest, rows[n, CORTEX], rows[n, CORTEX + 1])
    plain = numbers[CORTEX_MINERAL] == 0.0
    for kb in range(box[0], box[1], block[0]):
        ke = min(kb + block[0], box[1])
        for jb in range(box[2], box[3], block[1]):
            je = min(jb + block[1], box[3])
            for ib in range(box[4], box[5], block[2]):
                ie = min(ib + block[2], box[5])
                x, y, z = _place(matrix, 0.5 * (kb + ke - 1), 0.5 * (jb + je - 1), 0.5 * (ib + ie - 1))
                reach = 0.5 * _SAFETY * math.sqrt(
                    ((ke - kb) * steps[0]) ** 2 + ((je - jb) * steps[1]) ** 2 + ((ie - ib) * steps[2]) ** 2
                )  # fmt: skip
                d = survey(rows, everything, count_all, x, y, z, distances)
                if d > reach + _REACH_MM:
                    continue
                if plain and d < -(reach + _REACH_MM + thickest):
                    _fill(image, labels, matrix, numbers, offset, table, label, kb, ke, jb, je, ib, ie)
                    continue
                count = _narrow(rows, everything, count_all, distances, d, reach, _REACH_MM, active)
                for kp in range(kb, ke, part[0]):
                    kq = min(kp + part[0], ke)
                    for jp in range(jb, je, part[1]):
                        jq = min(jp + part[1], je)
                        for ip in range(ib, ie, part[2]):
                            iq = min(ip + part[2], ie)
                            x, y, z = _place(matrix, 0.5 * (kp + kq - 1), 0.5 * (jp + jq - 1), 0.5 * (ip + iq - 1))
                            extent = 0.5 * _SAFETY * math.sqrt(
                                ((kq - kp) * steps[0]) ** 2 + ((jq - jp) * steps[1]) ** 2 + ((iq - ip) * steps[2]) ** 2
                            )  # fmt: skip
                            d = survey(rows, active, count, x, y, z, distances)
                            if d > extent:
                                continue
                            if plain and d < -(extent + thickest):
                                _fill(image, labels, matrix, numbers, offset, table, label, kp, kq, jp, jq, ip, iq)
                                continue
                            few = _narrow(rows, active, count, distances, d, extent, _REACH_MM, inner)
                            for k in range(kp, kq):
                                for j in range(jp, jq):
                                    for i in range(ip, iq):
                                        _paint_voxel(
                                            image, labels, matrix, rows, features, numbers, offset, table, label,
                                            label_primitive, samples, inner, few, near, distances, margin, k, j, i,
                                        )  # fmt: skip
