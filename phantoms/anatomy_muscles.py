"""Muscles as bellies in thin coats of fat: abdominal wall, psoas, back, buttock and thigh, and the fat between them.

Everything that is not drawn as a belly is the even muscle of the wall and the thighs (`phantoms.anatomy_trunk`), so that
bellies show by the fat round them, as in CT. What touches bone is muscle.
"""

from __future__ import annotations

import numpy as np

from phantoms.anatomy_hip import FemurShape
from phantoms.anatomy_spine import Spine
from phantoms.anatomy_trunk import Habitus, mirror_pair
from phantoms.solids import Primitive, Solid, Vector, chain, ellipsoid, frame, half_space, plate, tube

_BACKWARD = (0.0, 1.0, 0.0)
_Points = list[tuple[Vector, float]]


def _belly(points: _Points, flatness: float, *, coat_mm: float = 1.1, streaks: float = 9.0) -> list[Solid]:
    """A muscle on both sides: a chain of round cones in a coat of fat, `flatness` times as deep as it is wide."""
    where, radius = np.array([p for p, _ in points]), np.array([r for _, r in points])
    parts = chain(where, radius + coat_mm, cortex_mm=coat_mm, flatness=flatness, flat_towards=_BACKWARD)
    return mirror_pair(
        Solid("muscle_belly", tuple(parts), "muscle", rind="visceral_fat", texture=streaks, texture_mm=4.0)
    )


def _fat(name: str, *parts: Primitive) -> list[Solid]:
    return mirror_pair(Solid(name, parts, "visceral_fat", texture=8.0, texture_mm=6.0))


def wall_solids(habitus: Habitus) -> list[Solid]:
    """What divides the abdominal wall: three layers at the flanks, two straight muscles in front, and the seams between."""
    s = habitus.size
    upper, lower = 190.0 * s, -60.0 * s
    ends = (
        half_space((0.0, 0.0, upper), (0.0, 0.0, 1.0)).intersected(),
        half_space((0.0, 0.0, lower), (0.0, 0.0, -1.0)).intersected(),
    )
    behind = half_space((0.0, 38.0 * s, 0.0), (0.0, 1.0, 0.0)).intersected()
    z = np.linspace(lower - 10.0, upper + 10.0, 12)
    wide, deep, centre = habitus.muscle(z)
    straight = tube(z, 0.0, centre - deep, 64.0 * s, 40.0 * s, exponent=6.0).subtracted()
    solids = []
    for depth_mm in (3.4 * s, 7.2 * s):
        outer, inner = (habitus.wall(-depth_mm - gap)[0] for gap in (0.0, 0.9))
        solids.append(Solid("fat_plane_wall", (outer, inner.subtracted(), straight, behind, *ends), "visceral_fat"))
    seams: list[Primitive] = [tube(z, 0.0, centre - deep + 6.0 * s, 1.8 * s, 5.0 * s, exponent=2.0)]
    lateral = 66.0 * s
    front = centre - deep * (1.0 - (lateral / wide) ** 2.35) ** (1.0 / 2.35)
    seam = tube(z, lateral, front + 6.5 * s, 1.8 * s, 5.0 * s, exponent=2.0)
    seams += [seam, seam.mirrored()]
    solids.append(Solid("fat_plane_seam", (*seams, *ends), "visceral_fat"))
    # Behind the kidneys, between the wall and the muscles of the back.
    return solids + _fat(
        "visceral_fat_pararenal", ellipsoid(np.array([76.0, 34, 110]) * s, np.array([25.0, 27, 95]) * s)
    )


def back_solids(spine: Spine, femur: FemurShape, habitus: Habitus) -> list[Solid]:
    """Psoas, the square muscle of the loin, three columns of the back, and the fat that they lie in."""
    s = habitus.size
    psoas: _Points = []
    loin: _Points = []
    columns: tuple[_Points, _Points, _Points] = ([], [], [])
    for v in spine.vertebrae:
        if v.level in ("T12", "L1", "L2", "L3", "L4", "L5"):
            grow = {"T12": 4.0, "L1": 8.0, "L2": 12.0, "L3": 16.0, "L4": 19.0, "L5": 20.0}[v.level] * s
            psoas.append((v.place.point(v.shape.half_width + 0.72 * grow, 2.0, -4.0), grow))
        if v.level in ("L1", "L2", "L3", "L4"):
            lateral = {"L1": 50.0, "L2": 58.0, "L3": 65.0, "L4": 70.0}[v.level]
            loin.append((v.place.point(lateral * s, v.shape.half_depth + 8 * s, 0.0), 11.0 * s))
        depth, wide = v.shape.half_depth + 33 * s, s if v.level[0] == "L" else 0.74 * s
        for column, (lateral, back, radius) in zip(
            columns, ((61.0, -6.0, 16.0), (38.0, -1.0, 16.5), (15.5, 0.0, 12.0)), strict=True
        ):
            column.append((v.place.point(lateral * wide, depth + back * s, 0.0), radius * wide))
    hip, sacrum = femur.head_centre_mm, spine.sacrum
    psoas += [
        (hip + np.array([-22.0, -20, 62]) * s, 20 * s),
        (hip + np.array([-2.0, -40, 12]) * s, 15 * s),
        (femur.lesser_trochanter_mm + np.array([-4.0, -8, 8]) * s, 7 * s),
    ]
    columns[1].append((sacrum.point(33 * s, 47 * s, -16 * s), 9 * s))
    columns[2].extend([(sacrum.point(15 * s, 48 * s, -22 * s), 11 * s), (sacrum.point(13 * s, 46 * s, -48 * s), 6 * s)])
    loin.append((hip + np.array([-10.0, 32, 128]) * s, 10 * s))
    solids = _belly(loin, 0.8)
    for column, flatness in zip(columns, (0.95, 1.25, 1.6), strict=True):
        solids += _belly(column, flatness, coat_mm=0.6, streaks=17.0)
    return solids + _belly(psoas, 0.95)


def hip_solids(femur: FemurShape, habitus: Habitus) -> list[Solid]:
    """Muscles of buttock and thigh; places are given from the centre of the femoral head."""
    s = habitus.size
    hip = femur.head_centre_mm

    def path(*points: tuple[float, float, float, float]) -> _Points:
        return [(hip + np.array(p[:3]) * s, p[3] * s) for p in points]

    solids = _fat("fat_plane_gluteal", ellipsoid(hip + np.array([-50.0, 54, -46]) * s, np.array([16.0, 27, 30]) * s))
    solids += _fat("fat_plane_inguinal", ellipsoid(hip + np.array([-14.0, -50, -14]) * s, np.array([24.0, 22, 48]) * s))
    # Fat between the buttocks: the cleft.
    cleft = ellipsoid((0.0, 92.0 * s, -118.0 * s), np.array([11.0, 32, 58]) * s)
    solids.append(Solid("subcutaneous_fat_cleft", (cleft, *habitus.within_skin()), "fat", texture=7.0, texture_mm=7.0))
    buttock = (  # centre, half width, depth and height, and where the width points: minimus, medius, maximus
        ((30.0, -2.0, 44.0), (26.0, 8.0, 36.0), (0.5, -0.85, 0.1)),
        ((38.0, 14.0, 58.0), (44.0, 13.0, 50.0), (0.5, -0.85, 0.1)),
        ((-8.0, 69.0, 6.0), (64.0, 21.0, 86.0), (0.86, -0.42, -0.3)),
    )
    for place, half, towards in buttock:
        across = np.array([towards[1], -towards[0], 0.0]) * -1.0
        axes = frame(across, towards)[[1, 2, 0]]
        belly = ellipsoid(hip + np.array(place) * s, np.array(half) * s + 1.3, axes=axes, cortex_mm=1.3)
        solids += mirror_pair(
            Solid("muscle_belly", (belly,), "muscle", rind="visceral_fat", texture=14.0, texture_mm=4.0)
        )
    thigh = (
        (((34, -42, 56, 7), (45, -42, 10, 9), (53, -28, -40, 8)), 1.1),  # tensor of the fascia
        (((24, -62, 66, 6), (-2, -66, -30, 8), (-26, -56, -110, 8)), 0.8),  # sartorius
        (((14, -48, 18, 7), (14, -62, -50, 12), (8, -58, -170, 15)), 0.85),  # rectus femoris
        (((-48, -28, -46, 9), (-36, -22, -95, 17), (-20, -10, -190, 20)), 0.9),  # adductors
        (((-58, -4, -66, 8), (-56, 12, -130, 13), (-46, 14, -200, 15)), 1.2),
        (((-20, 36, -66, 9), (-10, 44, -120, 16), (-4, 42, -210, 20)), 0.9),  # hamstrings
        (((-32, 40, -72, 7), (-32, 46, -130, 13), (-28, 44, -210, 15)), 0.9),
    )
    for course, flatness in thigh:
        solids += _belly(path(*course), flatness, coat_mm=1.3, streaks=11.0)
    middle = femur.at(0, 0, 90)
    for angle in np.radians([20.0, 150.0]):
        outward, normal = np.array([np.cos(angle), np.sin(angle), 0.0]), np.array([-np.sin(angle), np.cos(angle), 0.0])
        sheet = plate(
            middle + 44 * s * outward,
            frame(normal, (0.0, 0.0, 1.0)),
            24 * s,
            150 * s,
            thickness_mm=3.0,
            edge_thickness_mm=1.0,
            curvature_per_mm=(0.006, 0.0, 0.0),
        )
        solids += _fat("fat_plane", sheet)
    return solids
