"""The compiled heart of the voxeliser: distances to solids, and the painter that fills an image with them.

Everything that is compiled with the layout of a primitive's row stands in this one file, constants included: the cache of
compiled code is keyed to the file of a function and knows nothing of what it took from another. The painter goes block by
block and supersamples only where a surface runs. Distances are in mm, negative inside.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

ROUND_CONE, ELLIPSOID, BODY, PLATE, CUP, TUBE, HALF_SPACE = range(7)
UNION, SUBTRACT, INTERSECT = range(3)

# Slots of a primitive's row of numbers.
KIND, OPERATION, BLEND, ORIGIN, AXES, CORTEX, CORE, SHAPE = 0, 1, 2, 3, 6, 15, 17, 20
ROW_LENGTH = 88
TUBE_KNOTS = 16

_TISSUE_BLEND_MM = 2.0  # over which cortex thickness and core density pass from one primitive to its neighbour


@njit(cache=True, nogil=True, fastmath=True)
def smooth_maximum(a: float, b: float, width: float) -> float:
    """Maximum of two distances with the edge between them rounded over `width` mm; exact where they differ by more."""
    if width <= 0.0:
        return max(a, b)
    h = max(width - abs(a - b), 0.0) / width
    return max(a, b) + h * h * width * 0.25


@njit(cache=True, nogil=True, fastmath=True)
def superellipse(u: float, v: float, a: float, b: float, exponent: float) -> float:
    """First-order distance to ``|u/a|^n + |v/b|^n = 1``."""
    p = abs(u) / a
    q = abs(v) / b
    if p + q < 1e-9:
        return -min(a, b)
    pn = p ** (exponent - 1.0)
    qn = q ** (exponent - 1.0)
    rho = (pn * p + qn * q) ** (1.0 / exponent)
    scale = rho ** (1.0 - exponent)
    gradient = scale * math.sqrt((pn / a) ** 2 + (qn / b) ** 2)
    return float((rho - 1.0) / gradient)


@njit(cache=True, nogil=True, fastmath=True)
def endplate_height(u: float, v: float, shape: np.ndarray, first: int) -> float:
    """Height of one endplate of a vertebral body above its centre at (u, v).

    Six numbers from `first` on: height of the rim plane, its slope along v, depth of the central concavity, sideways slope,
    and the centre (v) and reach of the concavity relative to the half depth.
    """
    a, b = shape[0], shape[1]
    p = u / (a * shape[first + 5])
    q = (v - shape[first + 4] * b) / (b * shape[first + 5])
    inside = max(1.0 - p * p - q * q, 0.0)
    height = shape[first] + shape[first + 1] * v + shape[first + 3] * u + shape[first + 2] * inside * inside
    return float(height)


@njit(cache=True, nogil=True, fastmath=True)
def body_faces(u: float, v: float, w: float, shape: np.ndarray) -> tuple[float, float]:
    """Distance to the side wall of a vertebral body, and to the nearer of its endplates."""
    a, b, exponent, waist, hollow, half_height = shape[0], shape[1], shape[2], shape[3], shape[4], shape[5]
    up = (w - endplate_height(u, v, shape, 7)) / math.sqrt(1.0 + shape[8] ** 2)
    down = (endplate_height(u, v, shape, 13) - w) / math.sqrt(1.0 + shape[14] ** 2)
    zeta = min(abs(w) / half_height, 1.0)
    narrow = 1.0 - waist * (1.0 - zeta * zeta)
    back = b
    if v > 0.0:
        p = u / (0.62 * a)
        dent = max(1.0 - p * p, 0.0)
        back = b - hollow * dent * dent
    sides = superellipse(u, v * b / back, a * narrow, b * (narrow if v < 0.0 else 0.35 + 0.65 * narrow), exponent)
    return sides, max(up, down)


@njit(cache=True, nogil=True, fastmath=True)
def faces_of_points(points: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """`body_faces` at every point of an array of shape (N, 3) in the body's own frame; of shape (N, 2)."""
    found = np.empty((points.shape[0], 2))
    for n in range(points.shape[0]):
        found[n, 0], found[n, 1] = body_faces(points[n, 0], points[n, 1], points[n, 2], shape)
    return found


@njit(cache=True, nogil=True, fastmath=True)
def _body(u: float, v: float, w: float, shape: np.ndarray) -> tuple[float, float]:
    """Distance to a vertebral body, and how much the nearest face is an endplate (0 side wall, 1 endplate)."""
    sides, ends = body_faces(u, v, w, shape)
    endness = 1.0 / (1.0 + math.exp(min(max((sides - ends) / 0.5, -30.0), 30.0)))
    return smooth_maximum(ends, sides, shape[6]), endness


@njit(cache=True, nogil=True, fastmath=True)
def _tube(u: float, v: float, w: float, shape: np.ndarray) -> float:
    first, step, exponent = shape[0], shape[1], shape[2]
    position = min(max((w - first) / step, 0.0), TUBE_KNOTS - 1.0)
    i = min(int(position), TUBE_KNOTS - 2)
    t = position - i
    cx = cy = a = b = 0.0
    for quantity in range(4):
        base = 4 + quantity * TUBE_KNOTS
        p1, p2 = shape[base + i], shape[base + i + 1]
        m1 = 0.5 * (p2 - shape[base + max(i - 1, 0)])
        m2 = 0.5 * (shape[base + min(i + 2, TUBE_KNOTS - 1)] - p1)
        value = p1 + t * (m1 + t * (3 * (p2 - p1) - 2 * m1 - m2 + t * (m1 + m2 - 2 * (p2 - p1))))
        if quantity == 0:
            cx = value
        elif quantity == 1:
            cy = value
        elif quantity == 2:
            a = value
        else:
            b = value
    ends = max(first - w, w - (first + step * (TUBE_KNOTS - 1)))
    return float(max(superellipse(u - cx, v - cy, max(a, 1.0), max(b, 1.0), exponent), ends))


@njit(cache=True, nogil=True, fastmath=True)
def primitive_distance(row: np.ndarray, x: float, y: float, z: float) -> tuple[float, float]:
    """Distance to one primitive, and the place 0..1 at which to read its cortex and core (start, end)."""
    dx, dy, dz = x - row[ORIGIN], y - row[ORIGIN + 1], z - row[ORIGIN + 2]
    u = dx * row[AXES] + dy * row[AXES + 1] + dz * row[AXES + 2]
    v = dx * row[AXES + 3] + dy * row[AXES + 4] + dz * row[AXES + 5]
    w = dx * row[AXES + 6] + dy * row[AXES + 7] + dz * row[AXES + 8]
    shape = row[SHAPE:]
    kind = int(row[KIND])
    if kind == ROUND_CONE:
        along = min(max(w / shape[0], 0.0), 1.0)
        radius = shape[1] + (shape[2] - shape[1]) * along
        beyond = w - along * shape[0]
        flat = shape[3]
        thin = v / flat
        stretched = math.sqrt(u * u + thin * thin + beyond * beyond)
        if flat == 1.0 or stretched < 1e-9:
            return stretched - radius, along
        gradient = math.sqrt(u * u + (thin / flat) ** 2 + beyond * beyond) / stretched
        return (stretched - radius) / gradient, along
    if kind == ELLIPSOID:
        pu, pv, pw = u / shape[0], v / shape[1], w / shape[2]
        scaled = math.sqrt(pu * pu + pv * pv + pw * pw)
        if scaled < 1e-9:
            return -min(shape[0], min(shape[1], shape[2])), 0.0
        gradient = math.sqrt((pu / shape[0]) ** 2 + (pv / shape[1]) ** 2 + (pw / shape[2]) ** 2)
        return scaled * (scaled - 1.0) / gradient, 0.0
    if kind == BODY:
        distance, endness = _body(u, v, w, shape)
        return distance, endness
    if kind == PLATE:
        sheet = shape[4] * u * u + shape[5] * v * v + shape[6] * u * v
        slope_u = 2 * shape[4] * u + shape[6] * v
        slope_v = 2 * shape[5] * v + shape[6] * u
        rho = min((u / shape[0]) ** 2 + (v / shape[1]) ** 2, 1.0)
        half = shape[2] + (shape[3] - shape[2]) * rho
        faces = (abs(w - sheet) - half) / math.sqrt(1.0 + slope_u * slope_u + slope_v * slope_v)
        return smooth_maximum(faces, superellipse(u, v, shape[0], shape[1], shape[7]), shape[8]), 0.0
    if kind == CUP:
        wall = abs(math.sqrt(u * u + v * v + w * w) - shape[0]) - shape[1]
        return smooth_maximum(wall, w - shape[2], 4.0), 0.0
    if kind == TUBE:
        return _tube(u, v, w, shape), 0.0
    if kind == HALF_SPACE:
        return w, 0.0
    return 1e9, 0.0


@njit(cache=True, nogil=True, fastmath=True)
def join(running: float, distance: float, operation: float, blend: float) -> float:
    """Distance to what stands so far, after one more primitive."""
    if operation == UNION:
        return float(-smooth_maximum(-running, -distance, blend))
    if operation == INTERSECT:
        return float(smooth_maximum(running, distance, blend))
    return float(smooth_maximum(running, -distance, blend))


@njit(cache=True, nogil=True, fastmath=True)
def solid_distance(
    rows: np.ndarray, chosen: np.ndarray, count: int, x: float, y: float, z: float, distances: np.ndarray
) -> tuple[float, float, float]:
    """Distance to a solid, thickness of its cortex there, and mineral density of its core.

    Only the `count` primitives listed in `chosen` are looked at; `distances` receives the distance to each.
    """
    running = 1e9
    weight = cortex = core = 0.0
    for n in range(count):
        row = rows[chosen[n]]
        distance, place = primitive_distance(row, x, y, z)
        distances[n] = distance
        running = join(running, distance, row[OPERATION], row[BLEND])
        if row[OPERATION] == UNION:
            share = math.exp(-min(max(distance / _TISSUE_BLEND_MM, -40.0), 40.0))
            weight += share
            cortex += share * (row[CORTEX] + (row[CORTEX + 1] - row[CORTEX]) * place)
            core += share * (row[CORE] + (row[CORE + 1] - row[CORE]) * place)
    if weight > 0.0:
        cortex /= weight
        core /= weight
    return running, cortex, core


@njit(cache=True, nogil=True, fastmath=True)
def survey(
    rows: np.ndarray, chosen: np.ndarray, count: int, x: float, y: float, z: float, distances: np.ndarray
) -> float:
    """Distance to a solid; `distances` receives the distance to each of the chosen primitives."""
    running = 1e9
    for n in range(count):
        row = rows[chosen[n]]
        distances[n] = primitive_distance(row, x, y, z)[0]
        running = join(running, distances[n], row[OPERATION], row[BLEND])
    return running


@njit(cache=True, nogil=True, fastmath=True)
def surface_distance(rows: np.ndarray, chosen: np.ndarray, count: int, x: float, y: float, z: float) -> float:
    """Distance to a solid only."""
    running = 1e9
    for n in range(count):
        row = rows[chosen[n]]
        running = join(running, primitive_distance(row, x, y, z)[0], row[OPERATION], row[BLEND])
    return running


TEXTURE_CELLS = 64
_TEXTURE_MASK = TEXTURE_CELLS - 1
_SAFETY = 1.5  # distances are of first order away from the surface: look this much further before leaving a block out
_NEAR_SAFETY = 1.15  # the same within a voxel of the surface, where they are nearly exact
_REACH_MM = 10.0  # a primitive further behind the nearest one than this has no say in cortex and core

# Places in the array `numbers` that describes the materials of a solid.
MATRIX_HU, HU_PER_MINERAL, CORTEX_MINERAL, TEXTURE, TEXTURE_MM = range(5)
TEXTURE_AXIS, SUBCORTICAL, RIND_HU, OTHER_HU = 5, 8, 9, 10


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
