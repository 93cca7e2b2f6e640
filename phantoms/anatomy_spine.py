"""Analytic vertebrae, discs, ribs and sacrum from published dimensions; nothing is traced from a patient.

Body heights, endplate widths and depths follow the cadaver means of Panjabi et al. (Spine 1991;16:888 and 1992;17:299),
enlarged to what CT of the living shows; the normal wedge of each level follows Masharawi et al. (Eur Spine J 2010;19:768 data
as quoted there for CT). Arch dimensions are rounded from the same cadaver series.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from phantoms.solids import (
    BODY,
    DensityFeature,
    Primitive,
    Solid,
    Vector,
    plate,
    primitive,
    round_cone,
)

LEVELS = (*(f"T{i}" for i in range(1, 13)), *(f"L{i}" for i in range(1, 6)))
LABEL_OF_LEVEL = {**{f"T{i}": 7 + i for i in range(1, 13)}, **{f"L{i}": 19 + i for i in range(1, 6)}}

_POINT_INSET_MM = 2.5
"""How far inside the rim the anterior and posterior height points lie (osteophytes are left out that way)."""

# By level T1..L5. Heights and endplates: Panjabi. Arch: pedicle width and height, transverse span, canal width and depth,
# length of the spinous process behind the canal and its slope downwards.
_POSTERIOR_HEIGHT = (
    14.1,
    15.6,
    15.7,
    16.2,
    16.2,
    17.4,
    18.2,
    18.7,
    19.3,
    20.2,
    21.3,
    22.7,
    23.8,
    24.3,
    23.8,
    24.1,
    22.9,
)
_WIDTH = (24.5, 24.9, 24.6, 24.5, 24.9, 26.2, 27.8, 29.5, 30.6, 31.9, 34.9, 39.0, 41.2, 42.6, 44.1, 46.6, 47.3)
_DEPTH = (18.5, 19.6, 22.7, 23.3, 24.3, 26.0, 27.4, 27.9, 29.3, 30.5, 31.9, 32.8, 34.1, 34.6, 35.2, 35.5, 34.7)
_ANTERIOR_TO_POSTERIOR = {
    "F": (0.96, 0.96, 0.95, 0.95, 0.94, 0.93, 0.93, 0.93, 0.93, 0.94, 0.89, 0.92, 0.94, 0.99, 1.02, 1.07, 1.18),
    "M": (0.95, 0.95, 0.94, 0.93, 0.92, 0.91, 0.91, 0.91, 0.90, 0.91, 0.87, 0.89, 0.91, 0.94, 0.97, 1.02, 1.11),
}
_PEDICLE_WIDTH = (7.9, 7.0, 5.6, 4.9, 4.9, 5.2, 5.6, 6.0, 6.4, 7.0, 8.2, 8.2, 8.4, 8.6, 10.0, 12.6, 16.0)
_PEDICLE_HEIGHT = (9.6, 11.4, 11.9, 12.1, 11.9, 12.2, 12.1, 12.5, 13.9, 14.9, 17.4, 16.7, 15.9, 15.0, 14.4, 15.5, 15.0)
_TRANSVERSE_SPAN = (
    75.3,
    69.4,
    60.8,
    58.6,
    61.1,
    61.3,
    60.9,
    59.9,
    59.6,
    58.4,
    52.2,
    46.9,
    71.2,
    76.1,
    85.7,
    79.4,
    92.5,
)
_CANAL_WIDTH = (21.8, 19.5, 18.4, 17.2, 17.0, 17.3, 17.3, 17.7, 17.9, 18.2, 19.4, 22.2, 22.6, 22.8, 23.2, 23.6, 25.4)
_CANAL_DEPTH = (16.4, 15.5, 15.9, 16.2, 16.2, 16.3, 15.9, 15.9, 15.7, 15.5, 16.1, 18.1, 18.0, 17.2, 16.7, 17.2, 17.8)
_SPINE_LENGTH = (32, 32, 32, 32, 33, 34, 35, 35, 33, 30, 27, 27, 30, 31, 31, 28, 20)
_SPINE_SLOPE_DEG = (25, 30, 38, 42, 48, 52, 54, 54, 48, 40, 26, 14, 10, 8, 8, 8, 10)
# Disc above each level's lower neighbour: height between rims, and lordotic wedge.
_DISC_HEIGHT = (4.2, 4.2, 4.2, 4.3, 4.4, 4.5, 4.6, 4.8, 5.0, 5.4, 6.0, 6.8, 7.8, 9.0, 10.2, 11.0, 10.6)
_DISC_LORDOSIS_DEG = (0, 0, 0, 0, -0.5, -1, -1, -0.5, 0, 0.5, 1, 2, 4, 6, 8, 11, 13)
_SCALE = {"F": {"height": 1.06, "endplate": 0.97}, "M": {"height": 1.13, "endplate": 1.07}}

_ARCH_CORE_MG_CM3 = 230.0
CORTEX_MG_CM3 = 1050.0


@dataclass(frozen=True)
class Placement:
    """Where a vertebra stands: `axes` rows are left, posterior, superior as unit vectors in LPS."""

    origin_mm: Vector
    axes: NDArray[np.float64]

    def point(self, left: float, posterior: float, superior: float) -> Vector:
        """LPS of a point in the vertebra's own frame."""
        return np.asarray(self.origin_mm + np.array([left, posterior, superior]) @ self.axes)

    def turned(self, angle_rad: float, about: int) -> Placement:
        """Rotated about its own axis (0 left, 1 posterior, 2 superior) by the right-hand rule."""
        i, j = ((1, 2), (2, 0), (0, 1))[about]
        c, s = np.cos(angle_rad), np.sin(angle_rad)
        axes = self.axes.copy()
        axes[i], axes[j] = c * self.axes[i] + s * self.axes[j], c * self.axes[j] - s * self.axes[i]
        return Placement(self.origin_mm, axes)

    def moved(self, superior_mm: float) -> Placement:
        """Shifted along its own superior axis."""
        return Placement(self.origin_mm + superior_mm * self.axes[2], self.axes)


@dataclass(frozen=True)
class Fracture:
    """A compression deformity.

    Attributes
    ----------
    kind : str
        ``"wedge"``, ``"biconcave"`` or ``"crush"``.
    height_loss : float
        Fraction of the normal height lost where the deformity is greatest; sets the Genant grade (20, 25, 40 %).
    """

    kind: str
    height_loss: float

    def __post_init__(self) -> None:
        if self.kind not in ("wedge", "biconcave", "crush"):
            raise ValueError(f"fracture kind is {self.kind!r}; it must be wedge, biconcave or crush")
        if not 0.0 < self.height_loss < 0.75:
            raise ValueError(f"height loss is {self.height_loss}; it must lie between 0 and 0.75")

    @property
    def genant_grade(self) -> int:
        """Grade by loss of height: below 20 % 0, to 25 % 1, to 40 % 2, above 3 (Genant 1993)."""
        return int(np.searchsorted((0.20, 0.25, 0.40 + 1e-9), self.height_loss, side="right"))

    def remaining(self) -> tuple[float, float, float]:
        """What is left of the anterior, middle and posterior height."""
        f = self.height_loss
        return {
            "wedge": (1 - f, 1 - 0.7 * f, 1.0),
            "biconcave": (1 - 0.1 * f, 1 - f, 1.0),
            "crush": (1 - f, 1 - f, 1 - f),
        }[self.kind]


@dataclass(frozen=True)
class BodyShape:
    """Dimensions of a body in mm: outer half width and depth at the rim, heights at the three points of the midline."""

    level: str
    half_width: float
    half_depth: float
    hollow: float
    normal_heights: tuple[float, float, float]
    """Anterior, middle, posterior, as they would be without a fracture."""
    heights: tuple[float, float, float]
    upper: tuple[float, float, float]
    """Upper endplate: height of the rim plane over the origin, slope along posterior, depth of the concavity (negative)."""
    lower: tuple[float, float, float]
    fracture: Fracture | None = None

    @property
    def posterior_points_mm(self) -> tuple[float, float, float]:
        """Where along the posterior axis the anterior, middle and posterior heights are taken."""
        front = -self.half_depth + _POINT_INSET_MM
        back = self.half_depth - self.hollow - _POINT_INSET_MM
        return front, (front + back) / 2, back

    def endplate(self, side: tuple[float, float, float], posterior_mm: NDArray | float) -> NDArray[np.float64]:
        """Height of an endplate above the origin on the mid-sagittal line."""
        q = (np.asarray(posterior_mm, float) - _CONCAVITY_CENTRE * self.half_depth) / (
            _CONCAVITY_REACH * self.half_depth
        )
        return np.asarray(side[0] + side[1] * posterior_mm + side[2] * np.maximum(1 - q * q, 0.0) ** 2)


_CONCAVITY_CENTRE = 0.10
_CONCAVITY_REACH = 0.88


def body_shape(level: str, sex: str, *, size: float = 1.0, fracture: Fracture | None = None) -> BodyShape:
    """The body of a level, for ``sex`` ``"F"`` or ``"M"``, all lengths times `size`.

    The endplates are solved so that the three heights on the midline are met exactly.
    """
    i = LEVELS.index(level)
    scale = _SCALE[sex]
    posterior = _POSTERIOR_HEIGHT[i] * scale["height"] * size
    anterior = posterior * _ANTERIOR_TO_POSTERIOR[sex][i]
    middle = 0.5 * (anterior + posterior) * (0.945 if level[0] == "T" else 0.925)
    normal = (anterior, middle, posterior)
    left = fracture.remaining() if fracture else (1.0, 1.0, 1.0)
    heights = (normal[0] * left[0], normal[1] * left[1], normal[2] * left[2])
    half_width = 0.5 * _WIDTH[i] * scale["endplate"] * size
    half_depth = 0.5 * _DEPTH[i] * scale["endplate"] * size
    hollow = (2.2 if level[0] == "T" else 1.6) * size
    flat = BodyShape(level, half_width, half_depth, hollow, normal, heights, (0, 0, 0), (0, 0, 0), fracture)
    points = np.array(flat.posterior_points_mm)
    dip = flat.endplate((0.0, 0.0, 1.0), points)
    system = np.stack([np.ones(3), points, dip], axis=1)
    usual = np.linalg.solve(system, normal)
    change = np.linalg.solve(system, np.array(heights) - normal)
    # A healthy body is a little more hollow below than above; a fracture sinks the upper endplate first.
    upper = usual * (0.5, 0.5, 0.42) + change * 0.72
    lower = -(usual * (0.5, 0.5, 0.58) + change * 0.28)
    return BodyShape(
        level,
        half_width,
        half_depth,
        hollow,
        normal,
        heights,
        (float(upper[0]), float(upper[1]), float(upper[2])),
        (float(lower[0]), float(lower[1]), float(lower[2])),
        fracture,
    )


def body_primitive(
    shape: BodyShape,
    place: Placement,
    *,
    side_cortex_mm: float,
    endplate_mm: float,
    core_mg_cm3: float,
    blend_mm: float = 2.0,
) -> Primitive:
    """The vertebral body as a primitive."""
    half_height = 0.5 * min(shape.heights)
    numbers = [
        shape.half_width,
        shape.half_depth,
        2.35,
        0.11,
        shape.hollow,
        half_height,
        2.0,
        *shape.upper,
        0.0,
        _CONCAVITY_CENTRE,
        _CONCAVITY_REACH,
        *shape.lower,
        0.0,
        _CONCAVITY_CENTRE,
        _CONCAVITY_REACH,
    ]
    tallest = max(abs(v[0]) + abs(v[1]) * shape.half_depth for v in (shape.upper, shape.lower))
    half = (shape.half_width, shape.half_depth, tallest)
    return primitive(
        BODY,
        place.origin_mm,
        place.axes,
        numbers,
        half,
        cortex_mm=(side_cortex_mm, endplate_mm),
        core_mg_cm3=(core_mg_cm3, core_mg_cm3),
        blend_mm=blend_mm,
    )


@dataclass(frozen=True)
class SpineVertebra:
    """One vertebra in place."""

    shape: BodyShape
    place: Placement
    core_mg_cm3: float
    """Mineral density (K2HPO4) of the trabecular core."""

    @property
    def level(self) -> str:
        return self.shape.level

    @property
    def canal_centre_mm(self) -> Vector:
        """Middle of the spinal canal at mid height, in LPS."""
        i = LEVELS.index(self.level)
        back = self.shape.half_depth - self.shape.hollow + 0.5 * _CANAL_DEPTH[i] + 0.3
        return self.place.point(0.0, back, 0.0)

    @property
    def canal_half_axes_mm(self) -> tuple[float, float]:
        i = LEVELS.index(self.level)
        return 0.5 * _CANAL_WIDTH[i], 0.5 * _CANAL_DEPTH[i]


@dataclass(frozen=True)
class Spine:
    """Vertebrae from cranial to caudal, the sacral endplate, and the discs between them (upper, lower, placement, ...)."""

    vertebrae: tuple[SpineVertebra, ...]
    sacrum: Placement
    """Origin in the middle of the S1 endplate; superior is its normal."""
    discs: tuple[tuple[Placement, float, float, float], ...] = field(default=())
    """Of each disc: placement of its middle, height, half width, half depth."""

    def vertebra(self, level: str) -> SpineVertebra:
        return next(v for v in self.vertebrae if v.level == level)


def build_spine(
    levels: tuple[str, ...],
    *,
    sex: str,
    size: float,
    sacrum_mm: Vector,
    sacral_slope_deg: float,
    lordosis: float,
    scoliosis_deg: float,
    fractures: dict[str, Fracture],
    core_mg_cm3: dict[str, float],
) -> Spine:
    """Stack vertebrae on the sacral endplate from L5 upwards.

    `levels` runs from cranial to caudal and must end with L5; `lordosis` scales the wedges of the discs; `scoliosis_deg` is the
    Cobb angle of a thoracolumbar curve convex to the left.
    """
    upright = Placement(np.asarray(sacrum_mm, float), np.eye(3))
    sacrum = upright.turned(np.radians(sacral_slope_deg), 0)
    current = sacrum
    vertebrae: list[SpineVertebra] = []
    discs: list[tuple[Placement, float, float, float]] = []
    count = len(levels)
    for step, level in enumerate(reversed(levels)):
        i = LEVELS.index(level)
        shape = body_shape(level, sex, size=size, fracture=fractures.get(level))
        height = _DISC_HEIGHT[i] * size
        bend = np.radians(-_DISC_LORDOSIS_DEG[i] * lordosis)
        lean = np.radians(scoliosis_deg) * np.pi / (2 * count) * np.sin(2 * np.pi * (step + 0.5) / count - np.pi / 2)
        half = current.moved(height / 2)
        middle = half.turned(bend / 2, 0).turned(lean / 2, 1)
        discs.append((middle, height, shape.half_width, shape.half_depth))
        current = half.turned(bend, 0).turned(lean, 1).moved(height / 2)
        own = current.turned(-np.arctan(shape.lower[1]), 0)
        place = own.moved(-shape.lower[0])
        vertebrae.append(SpineVertebra(shape, place, core_mg_cm3[level]))
        current = place.moved(shape.upper[0]).turned(np.arctan(shape.upper[1]), 0)
    return Spine(tuple(reversed(vertebrae)), sacrum, tuple(reversed(discs)))


def vertebra_solid(vertebra: SpineVertebra, *, marrow: str, size: float, cortex: float, texture: float) -> Solid:
    """Body and arch of one vertebra; only the body carries the label. `cortex` scales the thickness of every cortex."""
    shape, place, level = vertebra.shape, vertebra.place, vertebra.level
    i = LEVELS.index(level)
    lumbar = level[0] == "L"
    height = float(np.mean(shape.normal_heights))
    back = shape.half_depth - shape.hollow
    canal_w, canal_d = 0.5 * _CANAL_WIDTH[i] * size, _CANAL_DEPTH[i] * size
    pedicle_w, pedicle_h = _PEDICLE_WIDTH[i] * size, _PEDICLE_HEIGHT[i] * size
    left, behind, up = place.axes
    arch_cortex = 1.1 * cortex
    parts: list[Primitive] = []

    def rod(
        start: tuple[float, float, float],
        end: tuple[float, float, float],
        r0: float,
        r1: float,
        flat: float,
        towards: Vector,
        blend: float = 3.0,
        skin: float = arch_cortex,
    ) -> None:
        parts.append(
            round_cone(
                place.point(*start),
                place.point(*end),
                r0 * size,
                r1 * size,
                flatness=flat,
                flat_towards=towards,
                cortex_mm=skin,
                core_mg_cm3=_ARCH_CORE_MG_CM3,
                blend_mm=blend,
            )
        )

    lamina = back + canal_d
    for side in (1.0, -1.0):
        root = side * (canal_w + 0.5 * pedicle_w)
        pillar = side * (canal_w + (3.0 if lumbar else 2.0) * size)
        rod(
            (side * 0.66 * shape.half_width, back - 7, 0.17 * height),
            (root, back + 0.45 * canal_d, 0.17 * height),
            0.5 * pedicle_h / size,
            0.5 * pedicle_h / size,
            pedicle_w / pedicle_h,
            left,
        )
        rod(
            (root, back + 0.45 * canal_d, 0.15 * height),
            (pillar, back + 0.85 * canal_d, -0.05 * height),
            5.5,
            6.0,
            0.8,
            behind,
        )
        # Articular processes: the upper one faces back and inwards, the lower one of the next vertebra lies behind it.
        rod(
            (pillar, back + 0.80 * canal_d, 0.0),
            (side * (canal_w + 3.5 * size), back + 0.66 * canal_d, 0.66 * height),
            5.4,
            4.0,
            0.75,
            behind,
        )
        inner = canal_w - (0.0 if lumbar else 1.5) * size
        rod((pillar, lamina, -0.1 * height), (side * inner, lamina + 4.0 * size, -0.74 * height), 5.4, 4.0, 0.8, behind)
        rod(
            (side * canal_w, lamina - 0.5, -0.15 * height),
            (side * 2.0, lamina + 5.0 * size, -0.30 * height),
            0.40 * height / size,
            0.42 * height / size,
            3.0 * size / (0.40 * height),
            unit_between(behind, side * left),
        )
        reach = side * (0.5 * _TRANSVERSE_SPAN[i] * size - 4.0)
        if lumbar:
            rod(
                (root, back + 0.6 * canal_d, 0.1 * height),
                (reach, back + 0.6 * canal_d + 3.0, 0.12 * height),
                6.5,
                4.2,
                0.55,
                behind,
            )
        else:
            rod(
                (root, back + 0.75 * canal_d, 0.1 * height),
                (reach, back + canal_d + 6.0, 0.2 * height),
                5.5,
                4.8,
                0.9,
                behind,
            )
    slope = np.radians(_SPINE_SLOPE_DEG[i])
    length = _SPINE_LENGTH[i] * size
    tip = (0.0, lamina + 4 + length * np.cos(slope), -0.28 * height - length * np.sin(slope))
    tall = 0.29 * height / size if lumbar else 5.0
    rod((0.0, lamina + 4.0, -0.28 * height), tip, tall * 0.95, tall, 3.2 / tall, left)
    parts.append(
        round_cone(
            place.point(0, back + 0.5 * canal_d + 0.3, -1.2 * height),
            place.point(0, back + 0.5 * canal_d + 0.3, 1.2 * height),
            canal_w,
            flatness=0.5 * canal_d / canal_w,
            flat_towards=behind,
        ).subtracted(1.5)
    )
    thick = (0.42 if not lumbar else 0.45) * cortex
    if shape.fracture:
        thick *= 1.25  # impacted bone
    parts.append(
        body_primitive(shape, place, side_cortex_mm=thick, endplate_mm=1.5 * thick, core_mg_cm3=vertebra.core_mg_cm3)
    )
    vein = DensityFeature(
        place.point(0, back, 0), place.point(0, back - 9 * size, 0), 3.2 * size, -0.6 * vertebra.core_mg_cm3
    )
    axis = (float(up[0]), float(up[1]), float(up[2]))
    return Solid(
        f"vertebra_{level}",
        tuple(parts),
        marrow,
        rind="bone_matrix",
        cortex_mg_cm3=CORTEX_MG_CM3,
        label=LABEL_OF_LEVEL[level],
        label_primitive=len(parts) - 1,
        features=(vein,),
        texture=texture,
        texture_mm=2.2,
        texture_axis=axis,
        subcortical=0.45,
    )


def unit_between(a: Vector, b: Vector) -> Vector:
    """The direction halfway between two unit vectors."""
    middle = a + b
    return np.asarray(middle / np.linalg.norm(middle))


def disc_solids(spine: Spine) -> list[Solid]:
    """Discs, painted before the vertebrae, which then cut them to shape."""
    return [
        Solid(
            "disc",
            (
                plate(
                    place.origin_mm + 0.0 * place.axes[1],
                    place.axes,
                    0.98 * half_width,
                    0.97 * half_depth,
                    thickness_mm=height + 7.0,
                    edge_thickness_mm=height + 1.0,
                    exponent=2.3,
                    rounding_mm=1.5,
                ),
            ),
            "disc",
            texture=6.0,
            texture_mm=4.0,
        )
        for place, height, half_width, half_depth in spine.discs
    ]
