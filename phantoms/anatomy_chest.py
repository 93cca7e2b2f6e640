"""Lungs with their vessels and airways, heart, oesophagus, and the great vessels from the chest to the thighs."""

from __future__ import annotations

import numpy as np

from phantoms.anatomy_hip import FemurShape
from phantoms.anatomy_organs import domes
from phantoms.anatomy_spine import Spine
from phantoms.anatomy_trunk import Habitus
from phantoms.solids import Primitive, Solid, Vector, chain, ellipsoid, frame, tube, unit

_GENERATIONS = 4


def chest_solids(habitus: Habitus, rng: np.random.Generator) -> list[Solid]:
    """Lungs round the domes of the diaphragm, their vessels, and the heart between them."""
    s = habitus.size
    z = np.array([182.0, 215, 250, 300, 400, 455]) * s
    a, b, c = habitus.muscle(z)
    shrink = np.array([72.0, 24, 16, 15, 18, 60]) * s
    low = [dome.subtracted() for dome in domes(habitus)]
    solids, insides = [], []
    for side in (1.0, -1.0):
        half = (a - shrink) / 2 - 6 * s
        lung = tube(z, side * (a - shrink - half), c + 4 * s, half, b - shrink, exponent=2.4)
        solids.append(Solid("lung", (lung, *low), "lung", texture=45.0, texture_mm=4.0))
        insides.append(lung.intersected(2.0))
    middle = tube(np.array([264.0, 300, 400, 455]) * s, 0.0, -25 * s, 26 * s, 46 * s)
    solids.append(Solid("mediastinum", (middle, *low), "visceral_fat", texture=10.0, texture_mm=6.0))
    for side, inside in zip((1.0, -1.0), insides, strict=True):
        hilum = np.array([side * 34.0, -6.0, 335.0]) * s
        vessels = _branches(hilum, side, s, rng)
        solids.append(Solid("vein_pulmonary", (*vessels, inside, *low), "blood"))
        airway = chain(
            [np.array([0.0, 2, 385]) * s, hilum, hilum + np.array([side * 22, 10, -38]) * s],
            np.array([8.5, 6.5, 3.5]) * s,
        )
        wall = chain(
            [np.array([0.0, 2, 385]) * s, hilum, hilum + np.array([side * 22, 10, -38]) * s],
            np.array([10.0, 7.8, 4.4]) * s,
        )
        solids.append(Solid("lung_bronchus", tuple(wall), "soft_tissue"))
        solids.append(Solid("lung_airway", tuple(airway), "air"))
    trachea = [np.array([0.0, 2, 385]) * s, np.array([0.0, 6, 620]) * s]
    solids.append(Solid("lung_bronchus", tuple(chain(trachea, 10.5 * s)), "soft_tissue"))
    solids.append(Solid("lung_airway", tuple(chain(trachea, 9.0 * s)), "air"))
    apex = frame([0.62, -0.55, -0.55], (0.0, 0.0, 1.0))
    fat = ellipsoid(np.array([18.0, -41, 309]) * s, np.array([57.0, 47, 49]) * s)
    right = ellipsoid(np.array([2.0, -46, 314]) * s, np.array([40.0, 36, 40]) * s, cortex_mm=3.5 * s)
    left = ellipsoid(np.array([32.0, -36, 304]) * s, np.array([32.0, 32, 44]) * s, axes=apex, cortex_mm=10.0 * s)
    solids.append(Solid("mediastinum_fat", (fat,), "visceral_fat", texture=8.0))
    chambers = [Solid("heart", (one,), "blood", rind="muscle", texture=4.0, texture_mm=6.0) for one in (right, left)]
    return solids + chambers


def _branches(hilum: Vector, side: float, s: float, rng: np.random.Generator) -> list[Primitive]:
    """A tree of vessels from the hilum outwards; each branch is two thirds as thick as what it comes from."""
    parts: list[Primitive] = []
    growing = [
        (hilum, unit(np.array([side * 1.0, y, z])), 5.2 * s)
        for y, z in ((-0.9, 0.6), (0.2, 0.9), (1.0, 0.2), (-0.5, -0.5), (0.7, -0.9), (0.1, -1.3))
    ]
    for generation in range(_GENERATIONS):
        length = (34.0, 27.0, 21.0, 16.0)[generation] * s
        further = []
        for start, along, radius in growing:
            end = start + length * rng.uniform(0.8, 1.2) * along
            parts += chain([start, end], [radius, 0.8 * radius])
            for _ in range(2):
                turned = unit(along + 0.65 * rng.normal(size=3) + np.array([0.15 * side, 0.0, 0.0]))
                further.append((end, turned, 0.66 * radius))
        growing = further
    return parts


def vessel_solids(spine: Spine, femur: FemurShape, size: float) -> list[Solid]:
    """Aorta with its bifurcation at L4 on the left of the spine, inferior vena cava on the right, iliac and femoral vessels."""

    def before(level: str, lateral: float, gap: float) -> Vector:
        v = spine.vertebra(level)
        return v.place.point(lateral * size, -v.shape.half_depth - gap * size, 0.0)

    present = [v.level for v in spine.vertebrae]
    upper = [level for level in present if level not in ("L5",)]
    aorta = [before(level, 9.0 if level[0] == "L" else 14.0, 11.5) for level in upper]
    vein = [before(level, -17.0, 9.0) for level in ("L1", "L2", "L3", "L4")]
    hepatic = [np.array([-22.0, -24.0, 286.0]) * size, np.array([-20.0, -2.0, 246.0]) * size]
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
    cava = chain([*hepatic, *vein], 10.5 * size, flatness=0.78, flat_towards=(0.0, 1.0, 0.0))
    solids.append(Solid("vena_cava", tuple(cava), "blood"))
    return solids


def gullet_solids(spine: Spine, size: float) -> list[Solid]:
    """Oesophagus in front of the aorta and the crura of the diaphragm beside it."""
    thoracic = [v for v in spine.vertebrae if v.level[0] == "T"]
    gullet = [v.place.point(4.0 * size, -v.shape.half_depth - 26.0 * size, 0.0) for v in thoracic]
    solids = []
    if len(gullet) > 1:
        course = [*gullet, np.array([30.0, -24.0, 236.0]) * size]
        solids.append(Solid("bowel_oesophagus", tuple(chain(course, 7.5 * size)), "soft_tissue", texture=8.0))
    for side in (1.0, -1.0):
        crus = [
            v.place.point(side * 13.0 * size, -v.shape.half_depth - 5.0 * size, 0.0)
            for v in spine.vertebrae
            if v.level in ("T11", "T12", "L1", "L2")
        ]
        radii = np.linspace(8.0, 4.0, len(crus)) * size
        solids.append(
            Solid("muscle_crus", tuple(chain(crus, radii, flatness=0.6, flat_towards=(0.0, 1.0, 0.0))), "muscle")
        )
    return solids
