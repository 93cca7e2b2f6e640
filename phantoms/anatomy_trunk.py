"""Soft tissue, ribs and table round the skeleton: what a radiologist expects to see and a segmenter must not trip over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from phantoms.anatomy_hip import FemurShape
from phantoms.anatomy_spine import CORTEX_MG_CM3, Spine
from phantoms.solids import Primitive, Solid, Vector, chain, ellipsoid, frame, plate, round_cone, tube, unit

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

    def back_skin_mm(self) -> float:
        """Largest y of the skin: where the table is."""
        return float(self._BACK.max() * self.size + self.fat_mm + 3.0)


def _mirror_pair(solid: Solid) -> list[Solid]:
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


def cavity_solids(habitus: Habitus, spine: Spine, rng: np.random.Generator) -> list[Solid]:
    """Visceral fat, organs, bowel with gas, great vessels, lungs."""
    s = habitus.size
    z = np.array([-150.0, -135, -110, -60, 0, 60, 120, 180, 250, 420]) * s
    a, b, c = habitus.muscle(z)
    limit = (
        np.array([16.0, 44, 70, 92, 108, a[5] / s - 12, a[6] / s - 12, a[7] / s - 12, a[8] / s - 12, a[9] / s - 12]) * s
    )
    front = c - b + 12 * s
    front[:2] += (36 * s, 12 * s)
    back = np.array([10.0, 34, 52, 50, 20, 34, 38, 46, 60, 62]) * s
    cavity = tube(z, 0.0, (front + back) / 2, limit, (back - front) / 2, exponent=2.5)
    solids = [Solid("visceral_fat", (cavity,), "visceral_fat", texture=12.0, texture_mm=9.0)]

    def organ(name: str, material: str, *parts: Primitive, texture: float = 4.0) -> None:
        solids.append(Solid(name, (*parts, cavity.intersected(3.0)), material, texture=texture, texture_mm=6.0))

    def at(x: float, y: float, z_: float) -> Vector:
        return np.array([x, y, z_]) * s

    _bowel(solids, cavity, habitus, rng)
    organ(
        "liver",
        "liver",
        ellipsoid(at(-62, -18, 205), at(72, 78, 78)),
        ellipsoid(at(5, -55, 225), at(70, 38, 42), blend_mm=12),
    )
    organ("spleen", "spleen", ellipsoid(at(88, 28, 222), at(28, 42, 46)))
    organ("stomach", "bowel", ellipsoid(at(52, -40, 212), at(40, 40, 46)))
    organ("stomach_gas", "air", ellipsoid(at(52, -62, 220), at(26, 14, 28)), texture=0.0)
    for side in (-1.0, 1.0):
        kidney = ellipsoid(
            at(side * 66, 22, 138 - 6 * side), at(26, 22, 52), axes=frame([side * -0.18, 0.15, 1.0], (0.0, 1.0, 0.0))
        )
        solids.append(Solid("kidney", (kidney,), "kidney", texture=4.0, texture_mm=6.0))
        solids.append(
            Solid("renal_sinus", (ellipsoid(at(side * 55, 18, 138 - 6 * side), at(9, 8, 22)),), "visceral_fat")
        )
    organ("bladder", "urine", ellipsoid(at(0, -42, -95), at(38, 30, 28)), texture=2.0)
    organ(
        "rectum",
        "bowel",
        ellipsoid(at(4, 48, -85), at(18, 17, 40)),
        ellipsoid(at(0, 2, -85), at(30, 20, 24), blend_mm=4),
    )
    organ("rectal_gas", "air", ellipsoid(at(4, 44, -72), at(8, 6, 16)), texture=0.0)
    return solids


def _bowel(solids: list[Solid], cavity: Primitive, habitus: Habitus, rng: np.random.Generator) -> None:
    """Small bowel in the middle, colon at the sides, gas on top because the patient lies on the back."""
    s = habitus.size
    loops: list[Primitive] = []
    gas: list[Primitive] = []
    for _ in range(34):
        centre = np.array([rng.uniform(-75, 75), rng.uniform(-72, -22), rng.uniform(-70, 130)]) * s
        along = unit(rng.normal(size=3) * (1.0, 0.6, 0.8))
        half = rng.uniform(18, 34) * s
        loops.append(round_cone(centre - half * along, centre + half * along, rng.uniform(9, 13) * s))
        if rng.random() < 0.3:
            gas.append(ellipsoid(centre + np.array([0, -4.0 * s, 0]), np.array([9.0, 4.5, 9.0]) * s))
    for side in (-1.0, 1.0):
        colon = [
            np.array([side * x, y, z]) * s for x, y, z in ((98, -8, 150), (102, -12, 90), (98, -16, 40), (88, -28, -10))
        ]
        loops += chain(colon, np.array([20.0, 21, 22, 20]) * s)
        for centre in colon:
            shift = rng.uniform(-12, 12, 3) * s
            gas.append(
                ellipsoid(
                    centre + shift * (0.2, 0.0, 1.0) + (0, -8.0 * s, 0), np.array([14.0, 8.0, rng.uniform(12, 22)]) * s
                )
            )
    solids.append(Solid("bowel", (*loops, cavity.intersected(3.0)), "bowel", texture=14.0, texture_mm=5.0))
    solids.append(Solid("bowel_gas", (*gas, cavity.intersected(8.0)), "air"))


def lung_solids(habitus: Habitus) -> list[Solid]:
    """Lungs round the domes of the diaphragm, with the heart between them."""
    s = habitus.size
    z = np.array([182.0, 215, 250, 300, 400, 455]) * s
    a, b, c = habitus.muscle(z)
    shrink = np.array([72.0, 24, 16, 15, 18, 60]) * s
    dome_right = ellipsoid(np.array([-60, -22, 195]) * s, np.array([92, 90, 92]) * s)
    dome_left = ellipsoid(np.array([62, -22, 190]) * s, np.array([84, 88, 88]) * s)
    solids = []
    for side in (1.0, -1.0):
        half = (a - shrink) / 2 - 6 * s
        lung = tube(z, side * (a - shrink - half), c + 4 * s, half, b - shrink, exponent=2.4)
        solids.append(
            Solid("lung", (lung, dome_right.subtracted(), dome_left.subtracted()), "lung", texture=45.0, texture_mm=4.0)
        )
    heart = ellipsoid(np.array([18, -40, 310]) * s, np.array([52, 42, 45]) * s)
    middle = tube(np.array([264.0, 300, 400, 455]) * s, 0.0, -25 * s, 26 * s, 46 * s)
    solids.append(Solid("mediastinum", (middle, dome_right.subtracted(), dome_left.subtracted()), "visceral_fat"))
    solids.append(Solid("heart", (heart,), "blood", texture=4.0, texture_mm=6.0))
    return solids


def vessel_solids(spine: Spine, femur: FemurShape, size: float) -> list[Solid]:
    """Aorta with its bifurcation at L4, inferior vena cava, iliac and femoral vessels."""

    def before(level: str, lateral: float, gap: float) -> Vector:
        v = spine.vertebra(level)
        return v.place.point(lateral * size, -v.shape.half_depth - gap * size, 0.0)

    present = [v.level for v in spine.vertebrae]
    upper = [level for level in present if level not in ("L5",)]
    aorta = [before(level, 9.0 if level[0] == "L" else 14.0, 11.5) for level in upper]
    vein = [before(level, -17.0, 9.0) for level in ("L1", "L2", "L3", "L4")]
    groin = femur.head_centre_mm + np.array([-14.0, -42.0, 6.0]) * size
    down = groin + np.array([-6.0, 2.0, -110.0]) * size
    solids = []
    for side, root in ((1.0, aorta[-1]), (-1.0, aorta[-1])):
        flip = np.array([side, 1.0, 1.0])
        path = np.array([root, np.array([side * 40, 0, -30]) * size + (0, -8, 0), groin * flip, down * flip])
        solids.append(Solid("artery", tuple(chain(path, np.array([6.0, 5.5, 4.8, 4.5]) * size)), "blood"))
        path = path + np.array([side * -11.0, 9.0, -2.0]) * size
        path[0] = vein[-1]
        solids.append(Solid("vein", tuple(chain(path, np.array([8.0, 7.0, 6.0, 5.5]) * size)), "blood"))
    solids.append(Solid("aorta", tuple(chain(aorta, np.linspace(11.5, 8.0, len(aorta)) * size)), "blood"))
    solids.append(
        Solid("vena_cava", tuple(chain(vein, 10.5 * size, flatness=0.78, flat_towards=(0.0, 1.0, 0.0))), "blood")
    )
    return solids


def muscle_solids(spine: Spine, femur: FemurShape, habitus: Habitus) -> list[Solid]:
    """Psoas, paraspinal muscles and the fat planes that set muscles apart."""
    s = habitus.size
    psoas, back = [], []
    for v in spine.vertebrae:
        if v.level in ("T12", "L1", "L2", "L3", "L4", "L5"):
            grow = {"T12": 4.0, "L1": 8.0, "L2": 12.0, "L3": 16.0, "L4": 19.0, "L5": 20.0}[v.level] * s
            psoas.append((v.place.point(v.shape.half_width + 0.72 * grow, 2.0, -4.0), grow))
        depth = v.shape.half_depth + 32 * s
        back.append((v.place.point(31 * s, depth, 0.0), (21.0 if v.level[0] == "L" else 18.0) * s))
    hip = femur.head_centre_mm
    psoas += [
        (hip + np.array([-22.0, -20, 62]) * s, 20 * s),
        (hip + np.array([-2.0, -40, 12]) * s, 15 * s),
        (femur.lesser_trochanter_mm + np.array([-4.0, -8, 8]) * s, 7 * s),
    ]
    sacrum = spine.sacrum
    back += [(sacrum.point(26 * s, 48 * s, -22 * s), 14 * s), (sacrum.point(16 * s, 46 * s, -48 * s), 7 * s)]
    solids = []
    for points, flat in ((psoas, 0.95), (back, 0.85)):
        where = np.array([p for p, _ in points])
        radius = np.array([r for _, r in points])
        belly = chain(where, radius + 1.1, cortex_mm=1.1, flatness=flat, flat_towards=(0.0, 1.0, 0.0))
        solids += _mirror_pair(
            Solid("muscle_belly", tuple(belly), "muscle", rind="visceral_fat", texture=9.0, texture_mm=4.0)
        )
    return fat_planes(femur, habitus) + solids


def fat_planes(femur: FemurShape, habitus: Habitus) -> list[Solid]:
    """Thin sheets of fat between the muscles of buttock and thigh."""
    s = habitus.size
    hip = femur.head_centre_mm
    sheets = [
        # gluteus maximus over medius, and medius over minimus
        plate(
            hip + np.array([-4.0, 46, 30]) * s,
            frame([0.25, 0.95, 0.1], (0.0, 0.0, 1.0)),
            62 * s,
            58 * s,
            thickness_mm=5.0,
            edge_thickness_mm=1.0,
            curvature_per_mm=(-0.004, -0.002, 0.0),
        ),
        plate(
            hip + np.array([48.0, 0, 40]) * s,
            frame([0.9, 0.1, 0.35], (0.0, 0.0, 1.0)),
            40 * s,
            46 * s,
            thickness_mm=3.5,
            edge_thickness_mm=1.0,
            curvature_per_mm=(-0.006, -0.002, 0.0),
        ),
        # ischiorectal fossa
        ellipsoid(hip + np.array([-52.0, 52, -50]) * s, np.array([15.0, 26, 26]) * s),
    ]
    mid = femur.at(0, 0, 90)
    for angle in np.radians([20.0, 150.0, 265.0]):
        outward = np.array([np.cos(angle), np.sin(angle), 0.0])
        normal = np.array([-np.sin(angle), np.cos(angle), 0.0])
        sheets.append(
            plate(
                mid + 42 * s * outward,
                frame(normal, (0.0, 0.0, 1.0)),
                24 * s,
                150 * s,
                thickness_mm=4.5,
                edge_thickness_mm=1.0,
                curvature_per_mm=(0.006, 0.0, 0.0),
            )
        )
    return [
        half for sheet in sheets for half in _mirror_pair(Solid("fat_plane", (sheet,), "visceral_fat", texture=8.0))
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
