"""Analytic spine: vertebrae with arches stacked on the sacrum, discs between them; nothing is traced from a patient.

Arch dimensions are rounded from the cadaver series of Panjabi et al. (Spine 1991;16:888 and 1992;17:299).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from phantoms.solids import DensityFeature, Primitive, Solid, Vector, plate, round_cone
from phantoms.vertebral_body import (
    LABEL_OF_LEVEL,
    LEVELS,
    BodyShape,
    Fracture,
    Placement,
    body_primitive,
    body_shape,
    table_index,
)

# By level T1..L5, in mm: pedicle width and height, span of the transverse processes, width and depth of the canal, length of
# the spinous process behind it and its slope downwards.
PEDICLE_WIDTH = (7.9, 7.0, 5.6, 4.9, 4.9, 5.2, 5.6, 6.0, 6.4, 7.0, 8.2, 8.2, 8.4, 8.6, 10.0, 12.6, 16.0)
_PEDICLE_HEIGHT = (9.6, 11.4, 11.9, 12.1, 11.9, 12.2, 12.1, 12.5, 13.9, 14.9, 17.4, 16.7, 15.9, 15.0, 14.4, 15.5, 15.0)
_TP_SPAN = (75.3, 69.4, 60.8, 58.6, 61.1, 61.3, 60.9, 59.9, 59.6, 58.4, 52.2, 46.9, 71.2, 76.1, 85.7, 79.4, 92.5)
CANAL_WIDTH = (21.8, 19.5, 18.4, 17.2, 17.0, 17.3, 17.3, 17.7, 17.9, 18.2, 19.4, 22.2, 22.6, 22.8, 23.2, 23.6, 25.4)
CANAL_DEPTH = (16.4, 15.5, 15.9, 16.2, 16.2, 16.3, 15.9, 15.9, 15.7, 15.5, 16.1, 18.1, 18.0, 17.2, 16.7, 17.2, 17.8)
_SPINE_LENGTH = (32, 32, 32, 32, 33, 34, 35, 35, 33, 30, 27, 27, 30, 31, 31, 28, 20)
_SPINE_SLOPE_DEG = (25, 30, 38, 42, 48, 52, 54, 54, 48, 40, 26, 14, 10, 8, 8, 8, 10)
# The disc below each level: height between rims, and lordotic wedge before balancing.
_DISC_HEIGHT = (4.2, 4.2, 4.2, 4.3, 4.4, 4.5, 4.6, 4.8, 5.0, 5.4, 6.0, 6.8, 7.8, 9.0, 10.2, 11.0, 10.6)
_DISC_LORDOSIS_DEG = (0, 0, 0, 0, -0.5, -1, -1, -0.5, 0, 0.5, 1, 2, 4, 6, 8, 11, 13)

ARCH_CORE_MG_CM3 = 230.0
CORTEX_MG_CM3 = 1050.0

_BALANCED_LEVEL, _BALANCE_MM = "T7", -3.0
"""Someone who lies on the back: the middle of this body stands that far behind (+) or in front of the S1 endplate."""
_COMPENSATING = ("T12", "L1", "L2", "L3", "L4", "L5")
"""Above whose lower discs the spine bends until it is balanced."""
_SCOLIOTIC_LEVELS = 12
"""How many levels from L5 upwards a scoliotic curve takes."""


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
        i = table_index(self.level)
        back = self.shape.half_depth - self.shape.hollow + 0.5 * CANAL_DEPTH[i] + 0.3
        return self.place.point(0.0, back, 0.0)

    @property
    def canal_half_axes_mm(self) -> tuple[float, float]:
        i = table_index(self.level)
        return 0.5 * CANAL_WIDTH[i], 0.5 * CANAL_DEPTH[i]


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
    stacked: tuple[str, ...] = LEVELS,
) -> Spine:
    """Stack vertebrae on the sacral endplate from L5 upwards.

    The lumbar discs bend until the spine without its fractures is balanced in the sagittal plane; fractures then bring
    their own kyphosis. The posture does not depend on which `levels` (from cranial to L5) are asked for.

    Parameters
    ----------
    lordosis : float
        Scales the wedges of the discs before balancing.
    scoliosis_deg : float
        Cobb angle of a thoracolumbar curve convex to the right.
    stacked : tuple of str
        All levels that the patient has, from cranial to the one on the sacrum.
    """
    sacrum = Placement(np.asarray(sacrum_mm, float), np.eye(3)).turned(np.radians(sacral_slope_deg), 0)
    healthy = {level: body_shape(level, sex, size=size) for level in stacked}
    target = float(sacrum_mm[1]) + _BALANCE_MM * size
    low, high = (
        -10.0,
        10.0,
    )  # degrees of extra lordosis per compensating disc; more of it moves the upper spine backwards
    for _ in range(30):
        extra = (low + high) / 2
        places, _discs = _stack(sacrum, healthy, size, lordosis, extra, 0.0)
        if places[_BALANCED_LEVEL].origin_mm[1] < target:
            low = extra
        else:
            high = extra
    shapes = {
        level: body_shape(level, sex, size=size, fracture=fractures[level]) if level in fractures else healthy[level]
        for level in stacked
    }
    places, discs = _stack(sacrum, shapes, size, lordosis, extra, scoliosis_deg)
    return Spine(
        tuple(SpineVertebra(shapes[level], places[level], core_mg_cm3[level]) for level in levels),
        sacrum,
        tuple(discs[level] for level in levels),
    )


def _stack(
    sacrum: Placement,
    shapes: dict[str, BodyShape],
    size: float,
    lordosis: float,
    extra_lordosis_deg: float,
    scoliosis_deg: float,
) -> tuple[dict[str, Placement], dict[str, tuple[Placement, float, float, float]]]:
    """Where every body and the disc below it stand."""
    current = sacrum
    places: dict[str, Placement] = {}
    discs: dict[str, tuple[Placement, float, float, float]] = {}
    for step, level in enumerate(reversed(list(shapes))):
        i = table_index(level)
        shape = shapes[level]
        height = _DISC_HEIGHT[i] * size
        more = extra_lordosis_deg if level in _COMPENSATING else 0.0
        bend = np.radians(-_DISC_LORDOSIS_DEG[i] * lordosis - more)
        # One period of a cosine: the summed angle swings by the Cobb angle and comes back.
        phase = 2 * np.pi * (step + 0.5) / _SCOLIOTIC_LEVELS
        lean = np.radians(scoliosis_deg) * np.pi / _SCOLIOTIC_LEVELS * (-np.cos(phase) if phase < 2 * np.pi else 0.0)
        half = current.moved(height / 2)
        discs[level] = (half.turned(bend / 2, 0).turned(lean / 2, 1), height, shape.half_width, shape.half_depth)
        current = half.turned(bend, 0).turned(lean, 1).moved(height / 2)
        places[level] = current.turned(-float(np.arctan(shape.lower[1])), 0).moved(-shape.lower[0])
        current = places[level].moved(shape.upper[0]).turned(float(np.arctan(shape.upper[1])), 0)
    return places, discs


def vertebra_solid(
    vertebra: SpineVertebra,
    *,
    marrow: str,
    size: float,
    cortex: float,
    texture: float,
    spurs: Sequence[Primitive] = (),
    disturbances: Sequence[DensityFeature] = (),
) -> Solid:
    """Body and arch of one vertebra; only the body carries the label. `cortex` scales the thickness of every cortex.

    `spurs` and `disturbances` are what disease adds to shape and core (`phantoms.disease`).
    """
    shape, place, level = vertebra.shape, vertebra.place, vertebra.level
    i = table_index(level)
    lumbar = level[0] == "L"
    height = float(np.mean(shape.normal_heights))
    back = shape.half_depth - shape.hollow
    canal_w, canal_d = 0.5 * CANAL_WIDTH[i] * size, CANAL_DEPTH[i] * size
    pedicle_w, pedicle_h = PEDICLE_WIDTH[i] * size, _PEDICLE_HEIGHT[i] * size
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
                core_mg_cm3=ARCH_CORE_MG_CM3,
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
        reach = side * (0.5 * _TP_SPAN[i] * size - 4.0)
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
    parts += spurs
    thick = (0.42 if not lumbar else 0.45) * cortex
    if shape.fracture:
        thick *= 1.25  # impacted bone
    parts.append(
        body_primitive(shape, place, side_cortex_mm=thick, endplate_mm=1.5 * thick, core_mg_cm3=vertebra.core_mg_cm3)
    )
    vein = DensityFeature(
        place.point(0, back, 0), place.point(0, back - 9 * size, 0), 3.2 * size, -0.6 * vertebra.core_mg_cm3, 0.7
    )
    axis = (float(up[0]), float(up[1]), float(up[2]))
    return Solid(
        f"vertebra_{level}",
        tuple(parts),
        marrow,
        rind="bone_matrix",
        other_matrix="blood",
        cortex_mg_cm3=CORTEX_MG_CM3,
        label=LABEL_OF_LEVEL[level],
        label_primitive=len(parts) - 1,
        features=(vein, *disturbances),
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
