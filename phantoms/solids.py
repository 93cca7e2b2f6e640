"""Solids as lists of analytic primitives: the language in which the anatomy is written.

A solid is a sequence of primitives, joined one after the other by a smooth union, a subtraction or an intersection. Each
primitive answers with a distance in mm (negative inside, exact or first order near its surface), so that a solid has a
surface between voxels, a cortex of any thickness below it, and a core whose mineral density varies from place to place.

Coordinates are DICOM LPS in mm. A primitive has its own frame (origin and three unit axes u, v, w).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phantoms.kernels import (
    AXES as AXES,
)
from phantoms.kernels import (
    BLEND,
    CORE,
    CORTEX,
    CUP,
    ELLIPSOID,
    HALF_SPACE,
    INTERSECT,
    KIND,
    OPERATION,
    PLATE,
    ROUND_CONE,
    ROW_LENGTH,
    SUBTRACT,
    TUBE,
    TUBE_KNOTS,
    UNION,
)
from phantoms.kernels import (
    ORIGIN as ORIGIN,
)
from phantoms.kernels import (
    SHAPE as SHAPE,
)

Vector = NDArray[np.float64]


def unit(vector: ArrayLike) -> Vector:
    """The vector of length one in the same direction."""
    vector = np.asarray(vector, float)
    return np.asarray(vector / np.linalg.norm(vector))


def frame(w: ArrayLike, v_hint: ArrayLike) -> NDArray[np.float64]:
    """Right-handed orthonormal axes (rows u, v, w) with w as given and v as near to `v_hint` as it can be."""
    w = unit(w)
    hint = np.asarray(v_hint, float)
    v = hint - w * (hint @ w)
    if np.linalg.norm(v) < 1e-6 * max(1.0, float(np.linalg.norm(hint))):
        v = np.cross(w, [1.0, 0.0, 0.0] if abs(w[0]) < 0.9 else [0.0, 1.0, 0.0])
    v = unit(v)
    return np.stack([np.cross(v, w), v, w])


_WORLD = np.eye(3)


@dataclass(frozen=True)
class Primitive:
    """One analytic shape with what lies under its surface; built by the functions of this module.

    Attributes
    ----------
    row : float ndarray of shape (ROW_LENGTH,)
        Everything the voxeliser needs.
    low_mm, high_mm : float ndarray of shape (3,)
        Bounding box in LPS.
    """

    row: NDArray[np.float64]
    low_mm: Vector
    high_mm: Vector

    def subtracted(self, blend_mm: float = 0.0) -> Primitive:
        """The same shape, to be cut out of what stands before it."""
        return self._with_operation(SUBTRACT, blend_mm)

    def intersected(self, blend_mm: float = 0.0) -> Primitive:
        """The same shape, as a limit for what stands before it."""
        return self._with_operation(INTERSECT, blend_mm)

    def _with_operation(self, operation: int, blend_mm: float) -> Primitive:
        row = self.row.copy()
        row[OPERATION], row[BLEND] = operation, blend_mm
        return replace(self, row=row)

    def mirrored(self) -> Primitive:
        """The same shape reflected at the plane x = 0."""
        row = self.row.copy()
        row[ORIGIN] *= -1
        # The reflection turns the frame left-handed; that does not matter, because shapes only read coordinates.
        row[[AXES, AXES + 3, AXES + 6]] *= -1
        low, high = self.low_mm.copy(), self.high_mm.copy()
        low[0], high[0] = -self.high_mm[0], -self.low_mm[0]
        return replace(self, row=row, low_mm=low, high_mm=high)


def primitive(
    kind: int,
    origin: ArrayLike,
    axes: NDArray[np.float64],
    shape: list[float],
    half_extent: ArrayLike,
    *,
    centre: ArrayLike | None = None,
    cortex_mm: tuple[float, float] = (0.0, 0.0),
    core_mg_cm3: tuple[float, float] = (0.0, 0.0),
    blend_mm: float = 0.0,
) -> Primitive:
    """A primitive from the numbers of its shape; for the shapes below, and for others that `phantoms.kernels` knows."""
    row = np.zeros(ROW_LENGTH)
    row[KIND], row[BLEND] = kind, blend_mm
    row[ORIGIN : ORIGIN + 3] = origin
    row[AXES : AXES + 9] = axes.ravel()
    row[CORTEX : CORTEX + 2], row[CORE : CORE + 2] = cortex_mm, core_mg_cm3
    row[SHAPE : SHAPE + len(shape)] = shape
    middle = np.asarray(origin if centre is None else centre, float)
    reach = np.abs(axes).T @ np.asarray(half_extent, float) + blend_mm
    return Primitive(row, middle - reach, middle + reach)


def _pair(value: float | tuple[float, float]) -> tuple[float, float]:
    return (value, value) if isinstance(value, (int, float)) else value


def round_cone(
    start: ArrayLike,
    end: ArrayLike,
    start_radius_mm: float,
    end_radius_mm: float | None = None,
    *,
    flatness: float = 1.0,
    flat_towards: ArrayLike = (0.0, 0.0, 1.0),
    cortex_mm: float | tuple[float, float] = 0.0,
    core_mg_cm3: float | tuple[float, float] = 0.0,
    blend_mm: float = 0.0,
) -> Primitive:
    """A rod with round ends from `start` to `end`; `flatness` scales its thickness in the direction `flat_towards`.

    Cortex and core may change linearly from start to end (pairs).
    """
    start, end = np.asarray(start, float), np.asarray(end, float)
    end_radius = start_radius_mm if end_radius_mm is None else end_radius_mm
    length = max(float(np.linalg.norm(end - start)), 1e-6)
    axes = frame(end - start, flat_towards)
    largest = max(start_radius_mm, end_radius)
    shape = [length, start_radius_mm, end_radius, flatness]
    half = (largest, largest * flatness, length / 2 + largest)
    return primitive(
        ROUND_CONE,
        start,
        axes,
        shape,
        half,
        centre=(start + end) / 2,
        cortex_mm=_pair(cortex_mm),
        core_mg_cm3=_pair(core_mg_cm3),
        blend_mm=blend_mm,
    )


def chain(
    points: ArrayLike,
    radii_mm: ArrayLike,
    *,
    cortex_mm: ArrayLike | float = 0.0,
    core_mg_cm3: ArrayLike | float = 0.0,
    flatness: float = 1.0,
    flat_towards: ArrayLike = (0.0, 0.0, 1.0),
    blend_mm: float = 0.0,
) -> list[Primitive]:
    """Round cones joined end to end along a polyline of shape (N, 3), with one radius (cortex, core) per point."""
    points = np.asarray(points, float)
    radii, cortex, core = (
        np.broadcast_to(np.asarray(v, float), len(points)) for v in (radii_mm, cortex_mm, core_mg_cm3)
    )
    return [
        round_cone(
            points[i],
            points[i + 1],
            float(radii[i]),
            float(radii[i + 1]),
            flatness=flatness,
            flat_towards=flat_towards,
            cortex_mm=(float(cortex[i]), float(cortex[i + 1])),
            core_mg_cm3=(float(core[i]), float(core[i + 1])),
            blend_mm=blend_mm if i == 0 else min(blend_mm, 0.5),  # wide blends would swell the joints of the chain
        )
        for i in range(len(points) - 1)
    ]


def ellipsoid(
    centre: ArrayLike,
    semi_axes_mm: ArrayLike,
    *,
    axes: NDArray[np.float64] = _WORLD,
    cortex_mm: float = 0.0,
    core_mg_cm3: float = 0.0,
    blend_mm: float = 0.0,
) -> Primitive:
    """An ellipsoid with the given semi-axes along u, v, w."""
    semi = np.broadcast_to(np.asarray(semi_axes_mm, float), 3)
    return primitive(
        ELLIPSOID,
        centre,
        axes,
        list(semi),
        semi,
        cortex_mm=_pair(cortex_mm),
        core_mg_cm3=_pair(core_mg_cm3),
        blend_mm=blend_mm,
    )


def plate(
    centre: ArrayLike,
    axes: NDArray[np.float64],
    half_length_mm: float,
    half_width_mm: float,
    *,
    thickness_mm: float,
    edge_thickness_mm: float | None = None,
    curvature_per_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    exponent: float = 2.5,
    rounding_mm: float = 2.0,
    cortex_mm: float = 0.0,
    core_mg_cm3: float = 0.0,
    blend_mm: float = 0.0,
) -> Primitive:
    """A bent plate: superelliptic outline in u and v, mid-surface ``w = kuu u^2 + kvv v^2 + kuv u v``."""
    edge = thickness_mm if edge_thickness_mm is None else edge_thickness_mm
    bend = max(abs(curvature_per_mm[0]) * half_length_mm**2, abs(curvature_per_mm[1]) * half_width_mm**2)
    bend += abs(curvature_per_mm[2]) * half_length_mm * half_width_mm
    half = (half_length_mm, half_width_mm, max(thickness_mm, edge) / 2 + bend)
    shape = [half_length_mm, half_width_mm, thickness_mm / 2, edge / 2, *curvature_per_mm, exponent, rounding_mm]
    return primitive(
        PLATE,
        centre,
        axes,
        shape,
        half,
        cortex_mm=_pair(cortex_mm),
        core_mg_cm3=_pair(core_mg_cm3),
        blend_mm=blend_mm,
    )


def cup(
    centre: ArrayLike,
    opening: ArrayLike,
    inner_radius_mm: float,
    outer_radius_mm: float,
    rim_mm: float,
    *,
    cortex_mm: float = 0.0,
    core_mg_cm3: float = 0.0,
    blend_mm: float = 0.0,
) -> Primitive:
    """A spherical bowl open towards `opening`, whose rim lies `rim_mm` beyond its centre in that direction."""
    shape = [(inner_radius_mm + outer_radius_mm) / 2, (outer_radius_mm - inner_radius_mm) / 2, rim_mm]
    return primitive(
        CUP,
        centre,
        frame(opening, (0.0, 1.0, 0.0)),
        shape,
        [outer_radius_mm] * 3,
        cortex_mm=_pair(cortex_mm),
        core_mg_cm3=_pair(core_mg_cm3),
        blend_mm=blend_mm,
    )


def tube(
    z_mm: ArrayLike,
    centre_x_mm: ArrayLike,
    centre_y_mm: ArrayLike,
    half_width_mm: ArrayLike,
    half_depth_mm: ArrayLike,
    *,
    exponent: float = 2.3,
    rind_mm: float = 0.0,
    blend_mm: float = 0.0,
) -> Primitive:
    """An upright tube of superelliptic cross-section that changes smoothly along z, from knots at any heights.

    It ends at the first and the last knot. The knots are resampled to `TUBE_KNOTS` equal steps.
    """
    knots = np.asarray(z_mm, float)
    order = np.argsort(knots)
    even = np.linspace(knots.min(), knots.max(), TUBE_KNOTS)
    rows = [
        np.interp(even, knots[order], np.broadcast_to(np.asarray(values, float), knots.shape)[order])
        for values in (centre_x_mm, centre_y_mm, half_width_mm, half_depth_mm)
    ]
    low = np.array([(rows[0] - rows[2]).min(), (rows[1] - rows[3]).min(), even[0]])
    high = np.array([(rows[0] + rows[2]).max(), (rows[1] + rows[3]).max(), even[-1]])
    shape = [float(even[0]), float(even[1] - even[0]), exponent, 0.0, *np.concatenate(rows)]
    made = primitive(TUBE, (0.0, 0.0, 0.0), _WORLD, shape, (1, 1, 1), cortex_mm=_pair(rind_mm), blend_mm=blend_mm)
    return replace(made, low_mm=low - blend_mm - 4.0, high_mm=high + blend_mm + 4.0)


def half_space(point: ArrayLike, outward: ArrayLike, *, extent_mm: float = 1e4) -> Primitive:
    """Everything behind a plane: the side that `outward` points away from."""
    return primitive(HALF_SPACE, point, frame(outward, (0.0, 1.0, 0.1)), [], [extent_mm] * 3)


@dataclass(frozen=True)
class DensityFeature:
    """A soft-edged strand (or ball) of denser or rarer bone in a core: ``amount * exp(-(distance / width)^2)``.

    `other_share` of the matrix is replaced by the other matrix of the solid there, with the same soft edge.
    """

    start: Vector
    end: Vector
    width_mm: float
    amount_mg_cm3: float
    other_share: float = 0.0

    def row(self) -> NDArray[np.float64]:
        return np.array([*self.start, *self.end, self.width_mm, self.amount_mg_cm3, self.other_share])


@dataclass(frozen=True)
class Solid:
    """One structure to paint: shape, materials and texture.

    Attributes
    ----------
    name : str
        Of soft tissue it begins with the tissue that the structure counts as: ``muscle_crus``, ``vein_portal``.
    primitives : tuple of Primitive
        The first one is always a union; bounding boxes of unions bound the solid.
    matrix : str
        Material of everything in the solid that is not mineral (`phantoms.materials`).
    other_matrix : str or None
        What density features may bring in place of the matrix: blood in a vein, red marrow in fatty one.
    rind : str or None
        Material of the layer below the surface as thick as each primitive's cortex, without its mineral; None for `matrix`.
    cortex_mg_cm3 : float
        Mineral density (K2HPO4) within the cortex; 0 for a solid without mineral.
    mineral : str
        ``"k2hpo4"`` or ``"hydroxyapatite"``: what the densities are densities of.
    label : int
        Number in the label map; 0 paints no label.
    label_primitive : int or None
        If given, only this primitive's interior carries the label (a vertebral body without its arch).
    texture : float
        Standard deviation of the texture: relative to the mineral density of the core if that is not zero, else in HU of
        the matrix.
    texture_mm : float
        Its correlation length.
    texture_axis : ndarray of shape (3,)
        Direction along which the texture is drawn out (trabeculae follow the load).
    subcortical : float
        Relative rise of the core density next to the cortex, falling off over 2 mm.
    """

    name: str
    primitives: tuple[Primitive, ...]
    matrix: str
    rind: str | None = None
    other_matrix: str | None = None
    cortex_mg_cm3: float = 0.0
    mineral: str = "k2hpo4"
    label: int = 0
    label_primitive: int | None = None
    features: tuple[DensityFeature, ...] = ()
    texture: float = 0.0
    texture_mm: float = 2.5
    texture_axis: tuple[float, float, float] = (0.0, 0.0, 1.0)
    subcortical: float = 0.0

    @property
    def box_mm(self) -> tuple[Vector, Vector]:
        """Low and high corner of the bounding box in LPS."""
        low, high = self.primitives[0].low_mm, self.primitives[0].high_mm
        for p in self.primitives[1:]:
            if p.row[OPERATION] == UNION:
                low, high = np.minimum(low, p.low_mm), np.maximum(high, p.high_mm)
            elif p.row[OPERATION] == INTERSECT and p.row[KIND] != HALF_SPACE:
                low, high = np.maximum(low, p.low_mm), np.minimum(high, p.high_mm)
        return low, high

    def rows(self) -> NDArray[np.float64]:
        """The primitives as one array of shape (N, ROW_LENGTH)."""
        return np.ascontiguousarray(np.stack([p.row for p in self.primitives]))

    def feature_rows(self) -> NDArray[np.float64]:
        """The density features as one array of shape (M, 9)."""
        return np.stack([f.row() for f in self.features]) if self.features else np.zeros((0, 9))
