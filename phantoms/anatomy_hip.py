"""Analytic hemipelvis and proximal femur from published dimensions; nothing is traced from a patient.

Femur: head radius 22-25 mm, neck-shaft angle about 130 degrees, anteversion 10-15 degrees, horizontal offset about 41 mm,
lesser trochanter some 55 mm below the head centre (Noble et al., Clin Orthop 1988;235:148; Unnanuntana et al., Bone Joint
Surg 2010;92:2113), cortex of the shaft 5-7 mm, joint space 3-5 mm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from phantoms.anatomy_sacrum import sacral_wing
from phantoms.anatomy_spine import CORTEX_MG_CM3
from phantoms.solids import (
    DensityFeature,
    Primitive,
    Solid,
    Vector,
    chain,
    cup,
    ellipsoid,
    plate,
    round_cone,
    unit,
)
from phantoms.vertebral_body import Placement

FEMUR_LABELS = {"left": 31, "right": 32}
JOINT_SPACE_MM = 4.0


@dataclass(frozen=True)
class FemurShape:
    """A proximal femur of the *left* side in LPS mm; the right one is its mirror image about x = 0.

    Attributes
    ----------
    head_centre_mm : Vector
    head_radius_mm : float
    neck_axis : Vector
        Unit vector from the head towards the trochanters.
    shaft_axis : Vector
        Unit vector towards the feet.
    axes_meet_mm : Vector
        Where the neck axis meets the shaft axis.
    neck_shaft_angle_deg, anteversion_deg : float
    lesser_trochanter_mm : Vector
        Tip of the lesser trochanter.
    shaft_length_mm : float
        From `axes_meet_mm` to where the solid ends.
    density_scale : float
        Multiplies every mineral density of the core and the thickness of every cortex.
    """

    head_centre_mm: Vector
    head_radius_mm: float
    neck_axis: Vector
    shaft_axis: Vector
    axes_meet_mm: Vector
    neck_shaft_angle_deg: float
    anteversion_deg: float
    lesser_trochanter_mm: Vector
    shaft_length_mm: float
    density_scale: float
    size: float

    @property
    def medial(self) -> Vector:
        """Unit vector perpendicular to the shaft, in the plane of neck and shaft, towards the head."""
        return unit(-self.neck_axis + self.shaft_axis * (self.neck_axis @ self.shaft_axis))

    @property
    def front(self) -> Vector:
        """Unit vector perpendicular to neck and shaft, towards the front."""
        normal = unit(np.cross(self.medial, self.shaft_axis))
        return normal if normal[1] < 0 else -normal

    def at(self, medial_mm: float, front_mm: float, down_mm: float) -> Vector:
        """LPS of a point given from `axes_meet_mm`."""
        return np.asarray(
            self.axes_meet_mm + medial_mm * self.medial + front_mm * self.front + down_mm * self.shaft_axis
        )


def femur_shape(
    head_centre_mm: Vector,
    *,
    sex: str,
    size: float,
    density_scale: float,
    shaft_length_mm: float,
    neck_shaft_angle_deg: float = 130.0,
    anteversion_deg: float = 12.0,
    shaft_tilt_deg: float = 6.0,
) -> FemurShape:
    """The left femur hanging from a head centre with x > 0; rotated outward a little, as on a table."""
    radius = (22.8 if sex == "F" else 25.2) * size
    tilt = np.radians(shaft_tilt_deg)
    shaft = np.array([-np.sin(tilt), 0.0, -np.cos(tilt)])
    lateral = unit(np.array([1.0, 0.0, 0.0]) - shaft * shaft[0])
    turn = np.radians(anteversion_deg)
    outward = np.cos(turn) * lateral + np.sin(turn) * np.array([0.0, 1.0, 0.0])
    bend = np.radians(180.0 - neck_shaft_angle_deg)
    neck = unit(np.cos(bend) * shaft + np.sin(bend) * outward)
    length = (51.0 if sex == "F" else 55.0) * size
    meet = head_centre_mm + length * neck
    made = FemurShape(
        np.asarray(head_centre_mm, float),
        radius,
        neck,
        shaft,
        meet,
        neck_shaft_angle_deg,
        anteversion_deg,
        meet,
        shaft_length_mm,
        density_scale,
        (1.0 if sex == "F" else 1.08) * size,
    )
    tip = made.at(20.5 * made.size, -9.0 * made.size, 26.0 * made.size)
    return FemurShape(
        made.head_centre_mm,
        radius,
        neck,
        shaft,
        meet,
        neck_shaft_angle_deg,
        anteversion_deg,
        tip,
        shaft_length_mm,
        density_scale,
        made.size,
    )


def femur_solid(
    shape: FemurShape,
    side: str,
    *,
    marrow: str = "marrow_yellow",
    inner_marrow: str = "marrow_yellow",
    texture: float = 0.22,
) -> Solid:
    """The femur as one solid; the right one is mirrored about x = 0.

    `inner_marrow` is that between neck and lesser trochanter, `marrow` that of the rest.
    """
    k, d = shape.size, shape.density_scale
    head, neck, front = shape.head_centre_mm, shape.neck_axis, shape.front

    def skin(mm: float) -> float:
        return mm * d

    parts: list[Primitive] = [
        ellipsoid(head, shape.head_radius_mm, cortex_mm=skin(0.7), core_mg_cm3=235 * d, blend_mm=0.0),
    ]
    # Neck: narrowest 60 % of the way out, flatter from front to back, flaring into the trochanters.
    length = float(np.linalg.norm(shape.axes_meet_mm - head))
    stations = np.array([0.16, 0.52, 0.74, 1.0]) * length
    neck_points = head + stations[:, None] * neck
    parts += chain(
        neck_points,
        np.array([17.5, 15.6, 16.6, 19.0]) * k,
        flatness=0.84,
        flat_towards=front,
        cortex_mm=np.array([skin(1.0), skin(1.7), skin(1.9), skin(1.6)]),
        core_mg_cm3=np.array([210, 120, 85, 75]) * d,
        blend_mm=5.0,
    )
    # Greater trochanter: a broad ridge behind and above the end of the neck.
    parts += chain(
        [shape.at(-3 * k, -1 * k, 10 * k), shape.at(-11 * k, -4 * k, -12 * k), shape.at(-12.5 * k, -8 * k, -27 * k)],
        np.array([18.0, 14.5, 9.5]) * k,
        flatness=1.0,
        cortex_mm=np.array([skin(1.5), skin(1.1), skin(0.9)]),
        core_mg_cm3=np.array([70, 75, 85]) * d,
        blend_mm=6.0,
    )
    # Shaft, with a cortex that thickens downwards and fatty marrow inside.
    down = np.array([0.0, 16.0, 34.0, 58.0, 90.0, shape.shaft_length_mm / k]) * k
    bow = np.array([0.0, 0.5, 1.0, 1.5, 2.5, 4.0]) * k
    parts += chain(
        [shape.at(0.0, b, s) for s, b in zip(down, bow, strict=True)],
        np.array([18.5, 17.5, 15.6, 14.0, 13.4, 13.2]) * k,
        cortex_mm=np.array([skin(1.6), skin(2.2), skin(3.6), skin(5.2), skin(6.0), skin(6.2)]),
        core_mg_cm3=np.array([75, 60, 35, 15, 4, 2]) * d,
        blend_mm=6.0,
    )
    # Lesser trochanter: a cone behind and inside the shaft.
    parts.append(
        round_cone(
            shape.at(9 * k, -4 * k, 24 * k),
            shape.lesser_trochanter_mm + 5 * k * unit(shape.at(0, 0, 0) - shape.at(9, -4, 0)),
            10.0 * k,
            5.0 * k,
            cortex_mm=skin(1.6),
            core_mg_cm3=70 * d,
            blend_mm=6.0,
        )
    )
    # Strands: principal compressive group from the calcar into the head, tensile arc over the neck, Ward's triangle between.
    calcar, dome = (
        shape.at(15 * k, 0, 8 * k),
        head - 0.5 * shape.head_radius_mm * unit(shape.shaft_axis - 0.3 * shape.medial),
    )
    features = [
        DensityFeature(calcar, dome, 8.0 * k, 130 * d),
        DensityFeature(
            shape.at(-10 * k, 0, -2 * k), head + 0.3 * length * neck - 9.0 * k * unit(shape.shaft_axis), 5.0 * k, 60 * d
        ),
        DensityFeature(shape.at(11 * k, 0, 2 * k), shape.at(13 * k, 0, -8 * k), 6.5 * k, -45 * d),
        DensityFeature(shape.at(14.5 * k, -1, 2 * k), shape.at(14.5 * k, -2, 24 * k), 3.0 * k, 260 * d),
        # Red marrow stays longest from the neck to below the lesser trochanter.
        DensityFeature(head + 0.45 * length * neck, shape.at(2 * k, 0, 4 * k), 15.0 * k, 0.0, 0.75),
        DensityFeature(shape.at(2 * k, 0, 4 * k), shape.at(0.0, 0.0, 40 * k), 13.0 * k, 0.0, 0.5),
    ]
    if side == "right":
        parts = [p.mirrored() for p in parts]
        flip = np.array([-1.0, 1.0, 1.0])
        features = [replace(f, start=f.start * flip, end=f.end * flip) for f in features]
    along = -0.6 * shape.shaft_axis - 0.4 * shape.neck_axis
    along = unit(along) * ((-1.0, 1.0, 1.0) if side == "right" else (1.0, 1.0, 1.0))
    return Solid(
        f"femur_{side}",
        tuple(parts),
        marrow,
        rind="bone_matrix",
        other_matrix=inner_marrow,
        cortex_mg_cm3=CORTEX_MG_CM3,
        label=FEMUR_LABELS[side],
        features=tuple(features),
        texture=texture,
        texture_mm=2.4,
        texture_axis=(float(along[0]), float(along[1]), float(along[2])),
        subcortical=0.25,
    )


def hemipelvis_solid(
    head_centre_mm: Vector,
    head_radius_mm: float,
    sacrum: Placement,
    side: str,
    *,
    sex: str,
    size: float,
    density_scale: float,
    marrow: str,
) -> Solid:
    """Ilium, pubis and ischium of one side round an acetabulum; `sacrum` is placed at the S1 endplate."""
    c = np.asarray(head_centre_mm, float)
    d = density_scale
    skin, core = 1.1 * d, 130.0 * d
    k = (1.0 if sex == "F" else 1.05) * size

    def at(lateral: float, back: float, up: float) -> Vector:
        """From the head centre; `lateral` away from the midline."""
        return np.asarray(c + k * np.array([lateral, back, up]))

    inner = head_radius_mm + JOINT_SPACE_MM
    opening = unit([0.66, -0.34, -0.67])
    midline = -float(c[0]) / k  # lateral coordinate of the midline
    joint = sacrum.origin_mm

    def sacroiliac(lateral: float, back: float, up: float) -> Vector:
        """From the middle of the S1 endplate."""
        return np.asarray(joint + size * np.array([lateral, back, up]))

    parts: list[Primitive] = [
        cup(c, opening, inner, inner + 6.5 * k, 2.0 * k, cortex_mm=skin, core_mg_cm3=1.4 * core),
    ]
    psis, asis = sacroiliac(50, 52, -22), at(33, -48, 62)
    crest_top = at(41, 14, 128)
    roof = at(4, 4, 32)
    middle = 0.30 * (psis + asis) + 0.22 * crest_top + 0.18 * roof
    along = unit(asis - psis)
    up = unit((crest_top - roof) - along * float((crest_top - roof) @ along))
    axes = np.stack([along, up, np.cross(along, up)])
    # The blade: bent outwards in the middle, thin there and thick at the crest.
    bend = (-1.0 if axes[2][0] > 0 else 1.0) * 0.0019
    half_length, half_width = 0.52 * float(np.linalg.norm(asis - psis)), 62.0 * k
    parts.append(
        plate(
            middle,
            axes,
            half_length,
            half_width,
            thickness_mm=5.0 * k,
            edge_thickness_mm=9.5 * k,
            curvature_per_mm=(bend, bend * 0.4, 0.0),
            exponent=2.4,
            rounding_mm=4.0,
            cortex_mm=skin,
            core_mg_cm3=core,
            blend_mm=8.0,
        )
    )
    crest = []
    for angle in np.radians(np.linspace(-8.0, 188.0, 10)):
        u = 0.97 * half_length * np.sign(np.cos(angle)) * abs(np.cos(angle)) ** 0.85
        v = 0.97 * half_width * np.sign(np.sin(angle)) * abs(np.sin(angle)) ** 0.85
        crest.append(middle + np.array([u, v, bend * (u * u + 0.4 * v * v)]) @ axes)
    thick = np.array([6.5, 6.5, 6.5, 6.0, 6.0, 6.5, 6.5, 7.0, 8.0, 8.0]) * k
    parts += chain(crest, thick, cortex_mm=skin, core_mg_cm3=core, blend_mm=5.0)
    # Pillars: arcuate line to the sacroiliac joint, front border to the spines, body above the socket.
    parts += chain(
        [at(-6, 4, 26), at(-12, 22, 44), sacroiliac(63, 20, -36), sacroiliac(58, 40, -34)],
        np.array([17, 13, 13, 12]) * k,
        flatness=0.72,
        flat_towards=(1.0, 0.4, 0.0),
        cortex_mm=skin,
        core_mg_cm3=core,
        blend_mm=8.0,
    )
    parts += chain(
        [at(6, -14, 24), at(16, -32, 38), asis],
        np.array([11, 8.5, 6.5]) * k,
        cortex_mm=skin,
        core_mg_cm3=core,
        blend_mm=8.0,
    )
    parts.append(
        round_cone(
            at(2, 2, 20),
            at(10, 2, 46),
            18 * k,
            10 * k,
            flatness=0.8,
            flat_towards=(1.0, 0.0, 0.0),
            cortex_mm=skin,
            core_mg_cm3=1.2 * core,
            blend_mm=8.0,
        )
    )
    # Ischium: behind and below the socket to the tuberosity.
    parts += chain(
        [at(-10, 22, -4), at(-16, 30, -28), at(-21, 26, -58)],
        np.array([13, 12.5, 14.5]) * k,
        flatness=0.85,
        cortex_mm=skin,
        core_mg_cm3=core,
        blend_mm=7.0,
    )
    # Pubis: superior ramus to the symphysis, inferior ramus back to the tuberosity.
    body_of_pubis = at(midline + 14, -46, -28)
    parts += chain(
        [at(-14, -20, 2), at(-38, -38, -6), body_of_pubis],
        np.array([11.5, 8.0, 11.0]) * k,
        flatness=0.9,
        cortex_mm=skin,
        core_mg_cm3=core,
        blend_mm=6.0,
    )
    parts += chain(
        [body_of_pubis, at(midline + 20, -36, -46), at(-32, 0, -66), at(-24, 22, -66)],
        np.array([9, 6.5, 6.5, 10]) * k,
        flatness=0.75,
        flat_towards=(1.0, -1.0, 0.0),
        cortex_mm=skin,
        core_mg_cm3=core,
        blend_mm=6.0,
    )
    parts.append(
        ellipsoid(
            at(midline + 11.5, -46, -35), np.array([9.0, 7.5, 17.0]) * k, cortex_mm=skin, core_mg_cm3=core, blend_mm=5.0
        )
    )
    # Greater sciatic notch, behind and above the socket.
    notch = at(-14, 42, 14)
    parts.append(round_cone(notch - np.array([40.0, 0, 0]), notch + np.array([60.0, 0, 0]), 17.0 * k).subtracted(4.0))
    parts.append(ellipsoid(c, inner).subtracted(1.0))
    reach = c + 70.0 * k * opening
    parts.append(round_cone(c + 14.0 * k * opening, reach, inner - 3.0, inner + 9.0).subtracted(2.0))
    # The sacroiliac joint: 3 mm of cartilage round the wing of the sacrum.
    wide = (1.0 if sex == "F" else 1.04) * size
    parts += [p.subtracted(1.0) for p in sacral_wing(sacrum, 1.0, wide=wide, size=size, grow_mm=3.0)]
    if side == "right":
        parts = [p.mirrored() for p in parts]
    return Solid(
        f"hemipelvis_{side}",
        tuple(parts),
        marrow,
        rind="bone_matrix",
        cortex_mg_cm3=CORTEX_MG_CM3,
        texture=0.25,
        texture_mm=2.6,
        subcortical=0.3,
    )


def joint_capsule(head_centre_mm: Vector, head_radius_mm: float, side: str) -> Solid:
    """Cartilage, fluid and capsule round a femoral head, painted before the bones."""
    ball = ellipsoid(head_centre_mm, head_radius_mm + JOINT_SPACE_MM + 3.0)
    return Solid(
        f"joint_{side}", (ball if side == "left" else ball.mirrored(),), "cartilage", texture=4.0, texture_mm=4.0
    )
