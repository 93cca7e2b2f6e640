"""Organs of the abdomen: liver, spleen, kidneys, pancreas, stomach, bowel with its content and gas, pelvic organs.

Shapes are drawn in round numbers from their usual sizes and places; what differs from person to person follows from the seed.
Right and left differ as in people, so that a mirrored image can be told.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phantoms.anatomy_trunk import Habitus
from phantoms.materials import mixture
from phantoms.solids import Primitive, Solid, Vector, chain, ellipsoid, frame, half_space, tube, unit

_CHYME = mixture(muscle=0.32, water=0.70)
_STOOL = mixture(muscle=0.72, adipose=0.22)


def cavity(habitus: Habitus) -> Primitive:
    """The abdominal cavity down to the pelvic floor, as a limit for what lies in it."""
    s = habitus.size
    z = np.array([-150.0, -135, -110, -60, 0, 60, 120, 180, 250, 420]) * s
    a, b, c = habitus.muscle(z)
    limit = (
        np.array([16.0, 44, 70, 92, 108, a[5] / s - 12, a[6] / s - 12, a[7] / s - 12, a[8] / s - 12, a[9] / s - 12]) * s
    )
    front = c - b + 12 * s
    front[:2] += (36 * s, 12 * s)
    back = np.array([10.0, 34, 52, 50, 20, 34, 38, 46, 60, 62]) * s
    return tube(z, 0.0, (front + back) / 2, limit, (back - front) / 2, exponent=2.5)


def domes(habitus: Habitus, inset_mm: float = 0.0) -> tuple[Primitive, Primitive]:
    """The two domes of the diaphragm, the right one higher."""
    s = habitus.size
    right = ellipsoid(np.array([-60.0, -22, 195]) * s, np.array([92.0, 90, 92]) * s - inset_mm)
    left = ellipsoid(np.array([62.0, -22, 190]) * s, np.array([84.0, 88, 88]) * s - inset_mm)
    return right, left


def organ_solids(habitus: Habitus, rng: np.random.Generator) -> list[Solid]:
    """Fat of the cavity, diaphragm, bowel and organs, in painting order."""
    s = habitus.size
    limit = cavity(habitus)
    floor = ellipsoid((0.0, 5.0, 440.0 * s), np.array([470.0, 330.0, 592.0]) * s)
    solids = [Solid("visceral_fat", (limit, floor.intersected(10.0)), "visceral_fat", texture=12.0, texture_mm=9.0)]
    within = limit.intersected(3.0)
    outer, inner = domes(habitus), domes(habitus, 3.0)
    above = half_space((0.0, 0.0, 205.0 * s), (0.0, 0.0, -1.0)).intersected()
    for mine, hollow, other in ((0, 0, 1), (1, 1, 0)):
        shell = (outer[mine], inner[hollow].subtracted(), inner[other].subtracted(), limit.intersected(), above)
        solids.append(Solid("muscle_diaphragm", shell, "muscle"))
    solids += _mesentery(s, within, rng)
    solids += _small_bowel(s, within, rng)
    solids += _solid_organs(s, within)
    solids += _stomach(s, within, rng)
    solids += _colon(s, within, rng)
    return solids + _pelvic_organs(s, within)


def _at(s: float, *xyz: float) -> Vector:
    return np.array(xyz) * s


def _solid_organs(s: float, within: Primitive) -> list[Solid]:
    """Liver with veins and gall bladder, spleen, pancreas, kidneys."""
    liver = (
        ellipsoid(_at(s, -63, -16, 205), _at(s, 71, 76, 80)),
        ellipsoid(_at(s, -88, 4, 150), _at(s, 30, 44, 52), blend_mm=14),
        ellipsoid(_at(s, 6, -55, 226), _at(s, 68, 34, 40), blend_mm=12),
        ellipsoid(_at(s, -42, -62, 150), _at(s, 24, 26, 40)).subtracted(8.0),  # bed of the gall bladder
        ellipsoid(_at(s, -50, 30, 138), _at(s, 36, 34, 58)).subtracted(6.0),  # where the right kidney lies
        within,
    )
    porta = _at(s, -34, -22, 192)
    trunk = chain([_at(s, -6, -24, 148), porta], np.array([6.0, 6.5]) * s)
    portal = [*trunk]
    for end in ((-78, -30, 200), (-66, 14, 178), (-6, -48, 214)):
        middle = 0.5 * (porta + _at(s, *end)) + _at(s, 0, 0, 5)
        portal += chain([porta, middle, _at(s, *end)], np.array([5.0, 3.6, 1.8]) * s)
    confluence = _at(s, -18, 2, 246)
    hepatic: list[Primitive] = []
    for end in ((-100, 10, 206), (-62, -52, 210), (14, -58, 226)):
        middle = 0.5 * (confluence + _at(s, *end)) + _at(s, 0, 0, 9)
        hepatic += chain([confluence, middle, _at(s, *end)], np.array([5.0, 4.0, 1.6]) * s)
    solids = [
        Solid("liver", liver, "liver", texture=5.0, texture_mm=6.0),
        Solid("vein_hepatic", tuple(hepatic), "blood"),
        Solid("vein_portal", tuple(portal), "blood"),
        Solid("bladder_of_gall", (ellipsoid(_at(s, -43, -60, 156), _at(s, 12, 13, 27)), within), "urine", texture=2.0),
        Solid(
            "spleen",
            (
                ellipsoid(_at(s, 86, 26, 222), _at(s, 30, 44, 48), axes=frame([0.15, -0.3, 1.0], (0.0, 1.0, 0.0))),
                ellipsoid(_at(s, 58, 0, 222), _at(s, 28, 42, 58)).subtracted(5.0),
                within,
            ),
            "spleen",
            texture=4.0,
            texture_mm=6.0,
        ),
    ]
    pancreas = chain(
        [_at(s, -24, -30, 136), _at(s, -10, -36, 148), _at(s, 14, -31, 154), _at(s, 44, -16, 166), _at(s, 70, 6, 192)],
        np.array([12.0, 10, 7.5, 8, 6.5]) * s,
    )
    solids.append(Solid("bowel_pancreas", (*pancreas, within), "soft_tissue", texture=16.0, texture_mm=4.0))
    for side in (-1.0, 1.0):
        z = 138.0 + 6.0 * side  # the liver pushes the right one down
        axes = frame([side * -0.18, 0.15, 1.0], (0.0, 1.0, 0.0))
        kidney = (
            ellipsoid(_at(s, side * 66, 22, z), _at(s, 26, 22, 52), axes=axes),
            ellipsoid(_at(s, side * 45, 14, z), _at(s, 12, 9, 17)).subtracted(4.0),  # hilum
        )
        solids.append(Solid("kidney", kidney, "kidney", texture=4.0, texture_mm=6.0))
        sinus = [ellipsoid(_at(s, side * 57, 18, z), _at(s, 10, 9, 25))]
        solids.append(Solid("renal_sinus", tuple(sinus), "visceral_fat"))
        for tilt in (-14.0, 0.0, 13.0):  # calices and pelvis
            cone = chain([_at(s, side * 64, 21, z + tilt), _at(s, side * 50, 16, z - 4)], np.array([3.0, 4.0]) * s)
            solids.append(Solid("kidney_pelvis", tuple(cone), "urine"))
        root = _at(s, side * 12, -10 if side > 0 else 2, z + 2)
        for gap, radius, shift in ((0.0, 4.6, 0.0), (5.0, 2.6, 7.0)):
            path = [root + _at(s, 0, gap, shift), _at(s, side * 34, 8 + gap, z + 2 + shift), _at(s, side * 55, 17, z)]
            solids.append(Solid("vein_renal", tuple(chain(path, radius * s)), "blood"))
    return solids


def _hollow(
    name: str,
    points: ArrayLike,
    radii_mm: ArrayLike,
    within: Primitive,
    *,
    wall_mm: float,
    content: str,
    texture: tuple[float, float],
    gas_above_mm: float | None = None,
) -> list[Solid]:
    """A piece of gut: wall, content, and gas with a level floor above `gas_above_mm` towards the front (LPS y)."""
    radii = np.broadcast_to(np.asarray(radii_mm, float), len(np.asarray(points)))
    outer = chain(points, radii, cortex_mm=wall_mm)
    sd, size = texture
    solids = [Solid(name, (*outer, within), content, rind="bowel", texture=sd, texture_mm=size)]
    if gas_above_mm is not None:
        inner = chain(points, np.maximum(radii - wall_mm, 1.0))
        level = half_space((0.0, gas_above_mm, 0.0), (0.0, 1.0, 0.0)).intersected(1.0)
        solids.append(Solid("stomach_gas" if name == "stomach" else "bowel_gas", (*inner, within, level), "air"))
    return solids


def _small_bowel(s: float, within: Primitive, rng: np.random.Generator) -> list[Solid]:
    """Loops of one and a half to three centimetres, some collapsed, one in four with gas."""
    solids = []
    for x, y, z in (
        (x, y, z) for z in (-62, -34, -6, 22, 50, 78, 106) for y in (-62, -32) for x in (-60, -28, 2, 32, 62)
    ):
        if rng.random() < 0.22 or (z < -40 and abs(x) > 50):
            continue  # mesentery
        centre = _at(s, x, y, z) + rng.normal(size=3) * (6.0, 5.0, 6.0) * s
        along = unit(rng.normal(size=3) * (1.0, 0.5, 0.7))
        bend = unit(np.cross(along, rng.normal(size=3)))
        half, bow = rng.uniform(16, 30) * s, rng.uniform(4, 14) * s
        path = centre + np.array([t * half * along + bow * (1.0 - 2.0 * t * t) * bend for t in (-1.0, -0.45, 0.2, 1.0)])
        radius = rng.uniform(8.0, 13.0) * s
        radii = radius * rng.uniform(0.85, 1.1, 4)
        gas = float(centre[1] - rng.uniform(-0.1, 0.5) * radius) if rng.random() < 0.25 else None
        solids += _hollow(
            "bowel", path, radii, within, wall_mm=2.2 * s, content=_CHYME, texture=(9.0, 5.0), gas_above_mm=gas
        )
    return solids


def _haustra(points: ArrayLike, radius_mm: float, step_mm: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A path resampled at even steps, with a radius that swells and narrows from step to step."""
    path = np.asarray(points, float)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    count = max(int(length[-1] / step_mm), 2)
    even = np.linspace(0.0, length[-1], count + 1)
    where = np.stack([np.interp(even, length, path[:, axis]) for axis in range(3)], axis=1)
    radii = radius_mm * np.where(np.arange(count + 1) % 2, 1.14, 0.84)
    return where, radii


def _colon(s: float, within: Primitive, rng: np.random.Generator) -> list[Solid]:
    """Ascending on the right, transverse in front, descending and narrower on the left, sigmoid to the rectum."""
    courses = (
        ("bowel_colon", ((-82, -22, -25), (-92, -14, 10), (-98, -10, 60), (-96, -12, 112), (-80, -34, 138)), 22.0, 0.4),
        ("bowel_colon", ((-76, -50, 134), (-40, -74, 104), (0, -78, 92), (44, -72, 108), (80, -42, 150)), 19.0, 0.1),
        ("bowel_colon", ((88, -18, 172), (98, 0, 140), (100, 2, 80), (98, -4, 20), (86, -22, -20)), 14.0, 0.6),
        ("bowel_colon", ((80, -28, -32), (58, -40, -52), (36, -30, -42), (24, -4, -50), (12, 26, -62)), 13.0, 0.5),
    )
    solids = []
    for name, course, radius, level in courses:
        points, radii = _haustra(np.array(course, float) * s + rng.normal(size=(5, 3)) * 3.0 * s, radius * s, 15.0 * s)
        top = float(np.mean(points[:, 1])) - level * radius * s
        solids += _hollow(
            name, points, radii, within, wall_mm=1.8 * s, content=_STOOL, texture=(60.0, 6.0), gas_above_mm=top
        )
    return solids


def _stomach(s: float, within: Primitive, rng: np.random.Generator) -> list[Solid]:
    """Stomach with fluid and a bubble, and the frame of the duodenum."""
    body = [_at(s, 50, 2, 240), _at(s, 58, -28, 212), _at(s, 46, -56, 176), _at(s, 8, -64, 152), _at(s, -20, -52, 152)]
    filled = rng.uniform(0.8, 1.1)
    stomach = _hollow(
        "stomach",
        body,
        np.array([32.0, 32, 26, 17, 11]) * s * filled,
        within,
        wall_mm=4.5 * s,
        content=_CHYME,
        texture=(14.0, 7.0),
        gas_above_mm=-42.0 * s,
    )
    frame_ = [
        _at(s, -26, -46, 150),
        _at(s, -42, -30, 138),
        _at(s, -42, -18, 102),
        _at(s, -14, -36, 92),
        _at(s, 24, -34, 98),
    ]
    duodenum = _hollow("bowel_duodenum", frame_, 10.5 * s, within, wall_mm=2.5 * s, content=_CHYME, texture=(8.0, 5.0))
    return duodenum + stomach


def _mesentery(s: float, within: Primitive, rng: np.random.Generator) -> list[Solid]:
    """Vessels from the root in front of the aorta to the loops, as fine branches in the fat."""
    parts: list[Primitive] = []
    root = [_at(s, 6, -28, 148), _at(s, 6, -34, 110), _at(s, -8, -36, 60), _at(s, -24, -30, 15)]
    parts += chain(root, np.array([3.6, 3.4, 3.0, 2.0]) * s)
    for _ in range(26):
        start = root[1] + rng.random() * (root[3] - root[1])
        end = start + _at(s, rng.uniform(-70, 70), rng.uniform(-34, 6), rng.uniform(-38, 14))
        middle = 0.5 * (start + end) + rng.normal(size=3) * 5.0 * s
        parts += chain([start, middle, end], np.array([1.9, 1.5, 0.9]) * s)
    return [Solid("vein_mesenteric", (*parts, within), "blood")]


def _pelvic_organs(s: float, within: Primitive) -> list[Solid]:
    """Bladder, what lies behind it, and the rectum."""
    bladder = ellipsoid(_at(s, 0, -42, -95), _at(s, 39, 31, 28), cortex_mm=2.8 * s)
    uterus = (
        ellipsoid(_at(s, -4, 0, -80), _at(s, 27, 19, 22)),
        ellipsoid(_at(s, 2, 8, -106), _at(s, 17, 14, 16), blend_mm=8),
        within,
    )
    rectum = [_at(s, 10, 30, -60), _at(s, 0, 48, -78), _at(s, 1, 50, -100), _at(s, 0, 36, -132)]
    return [
        Solid(
            "muscle_pelvic_floor",
            (*chain([_at(s, 0, -6, -108), _at(s, 0, 2, -156)], np.array([13.0, 19.0]) * s),),
            "soft_tissue",
        ),
        Solid("muscle_uterus_or_prostate", uterus, "soft_tissue", texture=6.0, texture_mm=6.0),
        Solid("bladder", (bladder, within), "urine", rind="soft_tissue", texture=2.0, texture_mm=6.0),
        *_hollow(
            "rectum",
            rectum,
            np.array([15.0, 18, 17, 11]) * s,
            within,
            wall_mm=3.2 * s,
            content=_STOOL,
            texture=(50.0, 6.0),
            gas_above_mm=38.0 * s,
        ),
    ]
