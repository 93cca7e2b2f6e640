"""Distance of a point to each kind of primitive, and to a whole solid: the compiled heart of the voxeliser.

All functions take the rows made by `phantoms.solids`; distances are in mm, negative inside.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from phantoms.solids import (
    AXES,
    BLEND,
    BODY,
    CORE,
    CORTEX,
    CUP,
    ELLIPSOID,
    HALF_SPACE,
    INTERSECT,
    KIND,
    OPERATION,
    ORIGIN,
    PLATE,
    ROUND_CONE,
    SHAPE,
    TUBE,
    TUBE_KNOTS,
    UNION,
)

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
