"""Soft tissue, ribs and table round the skeleton: what a radiologist expects to see and a segmenter must not trip over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from phantoms.anatomy_hip import FemurShape
from phantoms.anatomy_spine import CORTEX_MG_CM3, Spine
from phantoms.solids import Primitive, Solid, ellipsoid, plate, round_cone, tube, unit

_RIB_END_DEG = (150, 150, 148, 146, 144, 142, 140, 138, 134, 122, 88, 52)


@dataclass(frozen=True)
class Habitus:
    """How big the body is round a given skeleton: scale of all lengths and thickness of the subcutaneous fat."""

    size: float
    fat_mm: float

    _Z: ClassVar = np.array([-215.0, -190, -165, -140, -110, -60, 0, 60, 120, 180, 240, 330, 420, 470, 540])
    _HALF_WIDTH: ClassVar = np.array([146.0, 150, 152, 153, 155, 146, 128, 119, 119, 125, 130, 133, 132, 118, 70])
    _BACK: ClassVar = np.array([84.0, 92, 98, 101, 104, 102, 93, 88, 88, 91, 95, 100, 102, 100, 80])
    _FRONT: ClassVar = np.array([74.0, 78, 82, 85, 89, 94, 97, 97, 97, 99, 101, 101, 98, 85, 50])

    def muscle(self, z_mm: float | NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Half width, half depth and y of the centre of the muscular wall at a height above the S1 endplate."""
        z = np.asarray(z_mm, float) / self.size
        a, back, front = (
            np.interp(z, self._Z, table) * self.size for table in (self._HALF_WIDTH, self._BACK, self._FRONT)
        )
        return a, (back + front) / 2, (back - front) / 2

    def wall(self, outset_mm: float, *, rind_mm: float = 0.0) -> list[Primitive]:
        """The muscular wall moved outwards by `outset_mm`, rounded off at the perineum."""
        z = self._Z * self.size
        a, b, c = self.muscle(z)
        trunk = tube(z, 0.0, c, a + outset_mm, b + outset_mm, exponent=2.35, rind_mm=rind_mm, blend_mm=10.0)
        above = ellipsoid((0.0, 10.0, 450.0 * self.size), np.array([460.0, 330.0, 625.0]) * self.size + 0.5 * outset_mm)
        return [trunk, above.intersected(12.0)]

    def within_skin(self) -> tuple[Primitive, Primitive]:
        """A limit for what must not reach the skin."""
        trunk, above = self.wall(self.fat_mm)
        return trunk.intersected(2.0), above

    def back_skin_mm(self) -> float:
        """Largest y of the skin: where the table is."""
        return float(self._BACK.max() * self.size + self.fat_mm + 3.0)


def mirror_pair(solid: Solid) -> list[Solid]:
    """A solid and its reflection at the plane x = 0."""
    right = Solid(
        solid.name,
        tuple(p.mirrored() for p in solid.primitives),
        solid.matrix,
        rind=solid.rind,
        texture=solid.texture,
        texture_mm=solid.texture_mm,
    )
    return [solid, right]


def outer_solids(habitus: Habitus, femur: FemurShape) -> list[Solid]:
    """Skin, subcutaneous fat, muscular wall and thighs."""
    s, fat = habitus.size, habitus.fat_mm
    hip = femur.head_centre_mm
    thigh = [femur.at(0, 0, d) for d in (-66.0, -45.0, -20.0, 20.0, 80.0, 150.0, 230.0)]
    z = np.array([p[2] for p in thigh])
    x = hip[0] + np.array([8.0, 6, 2, 0, 0, -1, -4]) * s
    y = np.array([8.0, 8, 10, 8, 5, 2, 0]) * s
    wide, deep = np.array([34.0, 52, 66, 74, 75, 71, 66]) * s, np.array([38.0, 60, 74, 82, 82, 77, 70]) * s

    def legs(outset: float, rind_mm: float = 0.0) -> list[Primitive]:
        leg = tube(
            z, x, y, np.minimum(wide + outset, x - 1.0), deep + outset, exponent=2.15, rind_mm=rind_mm, blend_mm=10.0
        )
        return [leg, leg.mirrored()]

    skin = fat + 1.8
    return [
        Solid(
            "subcutaneous_fat",
            (*habitus.wall(skin, rind_mm=1.8), *legs(skin, 1.8)),
            "fat",
            rind="soft_tissue",
            texture=7.0,
            texture_mm=7.0,
        ),
        Solid("muscle", (*habitus.wall(0.0), *legs(0.0)), "muscle", texture=9.0, texture_mm=4.5),
    ]


def rib_solids(spine: Spine, habitus: Habitus, *, cortex: float, marrow: str, pairs: int = 12) -> list[Solid]:
    """Ribs of the vertebrae that are there, from the joint with the body round the chest wall.

    Some people have 11 or 13 `pairs`: none at T12, or short ones at L1.
    """
    s = habitus.size
    solids = []
    for vertebra in spine.vertebrae:
        number = int(vertebra.level[1:]) + (12 if vertebra.level[0] == "L" else 0)
        if number > pairs:
            continue
        shape, place = vertebra.shape, vertebra.place
        back = shape.half_depth - shape.hollow
        height = shape.heights[2]
        head = place.point(shape.half_width + 4.5, back - 4.0, 0.28 * height)
        neck = place.point(shape.half_width + 16.0 * s, back + 13.0 * s, 0.22 * height)
        points, radii = [head, neck], [4.6, 4.0]
        end = _RIB_END_DEG[min(number, 12) - 1] - (10.0 if number > 12 else 0.0)
        for angle in np.arange(32.0 if number < 12 else 26.0, end + 1.0, 11.0):
            a = np.radians(angle)
            drop = -(55.0 if number < 11 else 48.0) * s * (angle / 90.0) ** 1.1
            z = neck[2] + drop
            wide, deep, centre = habitus.muscle(z)
            x = (wide - 9 * s) * np.sin(a) ** 0.92
            y = centre + (deep - 10 * s) * np.sign(np.cos(a)) * abs(np.cos(a)) ** 0.85
            points.append(np.array([float(x), float(y), float(z)]))
            radii.append(5.8 if angle < end - 20 else 5.0)
        for side in ("left", "right"):
            parts: list[Primitive] = []
            for i in range(len(points) - 1):
                middle = 0.5 * (points[i] + points[i + 1])
                outward = unit(middle * (1.0, 1.0, 0.0))
                parts.append(
                    round_cone(
                        points[i],
                        points[i + 1],
                        radii[i] * s,
                        radii[i + 1] * s,
                        flatness=0.62 if i > 0 else 0.85,
                        flat_towards=outward,
                        cortex_mm=0.8 * cortex,
                        core_mg_cm3=110.0,
                    )
                )
            if side == "right":
                parts = [p.mirrored() for p in parts]
            solids.append(
                Solid(
                    f"rib_{number}_{side}",
                    tuple(parts),
                    marrow,
                    rind="bone_matrix",
                    cortex_mg_cm3=CORTEX_MG_CM3,
                    texture=0.2,
                )
            )
    return solids


def table_solids(back_skin_mm: float) -> list[Solid]:
    """A table top of foam in a thin shell, and a mattress, both under the patient along the whole range."""
    axes = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    bend = -0.00042
    centre = np.array([0.0, back_skin_mm + 24.0, 0.0])
    top = plate(
        centre,
        axes,
        3000.0,
        205.0,
        thickness_mm=26.0,
        edge_thickness_mm=18.0,
        exponent=6.0,
        curvature_per_mm=(0, bend, 0),
        cortex_mm=2.5,
    )
    pad = plate(
        centre - (0, 20.0, 0),
        axes,
        3000.0,
        190.0,
        thickness_mm=11.0,
        edge_thickness_mm=8.0,
        exponent=6.0,
        curvature_per_mm=(0, bend, 0),
    )
    return [Solid("mattress", (pad,), "table_foam"), Solid("table", (top,), "table_foam", rind="table_shell")]
