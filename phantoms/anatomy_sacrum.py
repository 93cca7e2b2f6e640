"""Analytic sacrum, and what runs in the spinal canal down into it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from phantoms.anatomy_spine import CORTEX_MG_CM3, Spine
from phantoms.solids import Primitive, Solid, chain, ellipsoid, plate, round_cone
from phantoms.vertebral_body import Placement

SACRUM_LABEL = 26


def canal_solids(spine: Spine, sacral_points: NDArray[np.float64]) -> list[Solid]:
    """Epidural fat and thecal sac along the canal, into the sacrum."""
    points = np.array([v.canal_centre_mm for v in spine.vertebrae])
    above = points[0] + 25.0 * spine.vertebrae[0].place.axes[2]
    line = np.concatenate([above[None], points, sacral_points])
    half = np.array([v.canal_half_axes_mm for v in spine.vertebrae])
    narrow = half[:, 1]
    radii = np.concatenate([[narrow[0]], narrow, np.linspace(7.0, 3.0, len(sacral_points))])
    behind = (0.0, 1.0, 0.0)
    fat = chain(line, radii + 1.2, flatness=1.0, flat_towards=behind)
    sac = chain(line, np.maximum(radii - 1.6, 2.0), flatness=0.86, flat_towards=behind)
    return [
        Solid("epidural_fat", tuple(fat), "epidural_fat"),
        Solid("thecal_sac", tuple(sac), "thecal_sac", texture=3.0, texture_mm=4.0),
    ]


def sacral_canal_points(sacrum: Placement, size: float) -> NDArray[np.float64]:
    """Middle of the sacral canal at S1..S4, in LPS."""
    along = [(26.0, -6.0), (31.0, -24.0), (28.0, -44.0), (20.0, -62.0)]
    return np.array([sacrum.point(0.0, p * size, s * size) for p, s in along])


def sacral_wing(
    sacrum: Placement,
    side: float,
    *,
    wide: float,
    size: float,
    skin_mm: float = 0.0,
    core_mg_cm3: float = 0.0,
    grow_mm: float = 0.0,
) -> list[Primitive]:
    """Ala and lateral mass of one side (1 left, -1 right), grown by `grow_mm` to cut the joint with the ilium free."""
    behind = sacrum.axes[1]
    ala = ellipsoid(
        sacrum.point(side * 33 * wide, 10 * size, -19 * size),
        np.array([24 * wide, 18 * size, 20 * size]) + grow_mm,
        axes=sacrum.turned(side * -0.25, 2).turned(side * -0.3, 1).axes,
        cortex_mm=skin_mm,
        core_mg_cm3=core_mg_cm3,
        blend_mm=6.0,
    )
    points = [(37 * wide, 17, -26), (30 * wide, 22, -46), (19 * wide, 20, -70), (10 * wide, 10, -88)]
    mass = chain(
        [sacrum.point(side * x, p * size, s * size) for x, p, s in points],
        np.array([18, 13, 9, 6]) * size + grow_mm,
        flatness=0.8,
        flat_towards=behind,
        cortex_mm=skin_mm,
        core_mg_cm3=core_mg_cm3,
        blend_mm=5.0,
    )
    return [ala, *mass]


def sacrum_solid(sacrum: Placement, *, sex: str, size: float, core_mg_cm3: float, marrow: str, cortex: float) -> Solid:
    """Sacrum with alae, foramina and canal; the origin of `sacrum` is the middle of the S1 endplate."""
    wide = (1.0 if sex == "F" else 1.04) * size
    left, behind, _ = sacrum.axes
    skin = 0.8 * cortex
    # The curve of the bodies S1..S5 in the frame of the endplate: posterior, superior, half width, half depth.
    curve = (
        (1, -11, 23.5, 14.5),
        (9, -33, 18, 10.5),
        (15, -52, 15.5, 8.5),
        (15, -69, 14, 7),
        (9, -85, 12, 5.5),
        (0, -97, 8, 4.5),
    )
    parts: list[Primitive] = [
        plate(
            sacrum.point(0, 1.0 * size, -11.0 * size),
            sacrum.axes,
            25.0 * wide,
            15.8 * size,
            thickness_mm=22.0 * size,
            exponent=2.3,
            rounding_mm=2.0,
            cortex_mm=0.7 * cortex,
            core_mg_cm3=core_mg_cm3,
        )
    ]
    for (p0, s0, w0, d0), (p1, s1, w1, d1) in pairwise(curve):
        parts.append(
            round_cone(
                sacrum.point(0, p0 * size, (s0 - 6) * size),
                sacrum.point(0, p1 * size, s1 * size),
                0.86 * w0 * wide,
                w1 * wide,
                flatness=0.5 * (d0 / w0 + d1 / w1),
                flat_towards=behind,
                cortex_mm=skin,
                core_mg_cm3=core_mg_cm3,
                blend_mm=3.0,
            )
        )
    ala_core = 0.55 * core_mg_cm3
    for side in (1.0, -1.0):
        parts += sacral_wing(sacrum, side, wide=wide, size=size, skin_mm=skin, core_mg_cm3=ala_core)
        for s, p in ((-8.0, 36.0), (-30.0, 40.0), (-50.0, 37.0)):
            parts.append(
                ellipsoid(
                    sacrum.point(side * 14 * size, p * size, s * size),
                    (6 * size, 4 * size, 9 * size),
                    axes=sacrum.axes,
                    cortex_mm=skin,
                    core_mg_cm3=core_mg_cm3,
                    blend_mm=4.0,
                )
            )
    parts += chain(
        [
            sacrum.point(0, 42 * size, -15 * size),
            sacrum.point(0, 44 * size, -32 * size),
            sacrum.point(0, 38 * size, -56 * size),
        ],
        [6 * size, 6 * size, 5 * size],
        flatness=0.7,
        flat_towards=left,
        cortex_mm=skin,
        core_mg_cm3=core_mg_cm3,
        blend_mm=5.0,
    )
    canal = sacral_canal_points(sacrum, size)
    canal = np.concatenate([[sacrum.point(0, 25 * size, 12 * size)], canal])
    for k in range(len(canal) - 1):
        parts.append(
            round_cone(
                canal[k],
                canal[k + 1],
                (11.5, 11.0, 9.0, 6.5, 4.0)[k] * size,
                (11.0, 9.0, 6.5, 4.0, 3.0)[k] * size,
                flatness=0.68,
                flat_towards=behind,
            ).subtracted(1.5)
        )
    for side in (1.0, -1.0):
        for s, p, r in ((-24.0, 16.0, 5.5), (-43.0, 20.0, 4.8), (-61.0, 20.0, 4.0)):
            parts.append(
                round_cone(
                    sacrum.point(side * 14 * size, (p + 10) * size, s * size),
                    sacrum.point(side * 24 * size, (p - 26) * size, (s - 4) * size),
                    r * size,
                    (r + 2) * size,
                ).subtracted(2.0)
            )
    return Solid(
        "sacrum",
        tuple(parts),
        marrow,
        rind="bone_matrix",
        cortex_mg_cm3=CORTEX_MG_CM3,
        label=SACRUM_LABEL,
        texture=0.22,
        texture_mm=2.6,
        subcortical=0.4,
    )
