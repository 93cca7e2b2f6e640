"""What disease and surgery add to a spine: spurs, sclerosis, lesions, gas in a disc, plaques of the aorta, cement, screws.

Everything is irregular, drawn from the seed, and stands in the truth where it changes the body.
"""

from __future__ import annotations

import numpy as np

from phantoms.anatomy_spine import (
    ARCH_CORE_MG_CM3,
    CANAL_DEPTH,
    CANAL_WIDTH,
    PEDICLE_WIDTH,
    Spine,
    SpineVertebra,
)
from phantoms.solids import DensityFeature, Primitive, Solid, chain, ellipsoid, frame, round_cone, unit
from phantoms.vertebral_body import table_index


def _random(seed: int, vertebra: SpineVertebra) -> np.random.Generator:
    return np.random.default_rng([seed, table_index(vertebra.level), 99])


def spurs(vertebra: SpineVertebra, *, size: float, cortex: float, seed: int) -> list[Primitive]:
    """Beaks on the front and side rims, out from the body and towards the disc; four to six on each rim."""
    shape, place, rng = vertebra.shape, vertebra.place, _random(seed, vertebra)
    parts: list[Primitive] = []
    for (rim, slope, _), towards_disc in ((shape.upper, 1.0), (shape.lower, -1.0)):
        angles = np.linspace(-80.0, 80.0, int(rng.integers(4, 7))) + rng.uniform(-8.0, 8.0)
        for angle in np.radians(angles):
            grown = rng.uniform(0.6, 1.3) * size
            u, v = 0.95 * shape.half_width * np.sin(angle), -0.97 * shape.half_depth * np.cos(angle)
            outward = unit([np.sin(angle) * shape.half_depth, -np.cos(angle) * shape.half_width])
            height = rim + slope * v - towards_disc * 2.6 * size
            root = np.array([u - 2.0 * outward[0], v - 2.0 * outward[1], height])
            bend = root + np.array([*(4.5 * grown * outward), 0.4 * towards_disc * grown])
            tip = bend + np.array([*(2.2 * grown * outward), 2.6 * towards_disc * grown])
            parts += chain(
                [place.point(*point) for point in (root, bend, tip)],
                np.array([3.4, 2.3, 1.1]) * grown,
                flatness=0.75,
                flat_towards=place.axes[2],
                cortex_mm=1.0 * cortex,
                core_mg_cm3=ARCH_CORE_MG_CM3,
                blend_mm=2.0,
            )
    return parts


def sclerosis(vertebra: SpineVertebra, *, size: float, seed: int) -> list[DensityFeature]:
    """Dense bands of uneven width and density below both endplates."""
    shape, place, rng = vertebra.shape, vertebra.place, _random(seed + 1, vertebra)
    found = []
    for (rim, slope, dip), inwards in ((shape.upper, -1.0), (shape.lower, 1.0)):
        for v in np.array([-0.6, -0.2, 0.2, 0.55]) * shape.half_depth:
            left, right = (rng.uniform(0.45, 0.8) * shape.half_width for _ in range(2))
            height = float(shape.endplate((rim, slope, dip), v)) + inwards * rng.uniform(1.4, 2.4) * size
            start, end = place.point(-left, v, height), place.point(right, v, height)
            found.append(DensityFeature(start, end, rng.uniform(2.4, 3.6) * size, rng.uniform(110.0, 240.0)))
    return found


def lesion(vertebra: SpineVertebra, amount_mg_cm3: float, *, size: float, seed: int) -> list[DensityFeature]:
    """A lump of denser (or, if negative, rarer) bone on the left side of the body, with lobes."""
    shape, place, rng = vertebra.shape, vertebra.place, _random(seed + 2, vertebra)
    middle = np.array([0.45 * shape.half_width, -0.15 * shape.half_depth, 0.0])
    centre = place.point(*middle)
    found = [DensityFeature(centre, centre, 5.0 * size, 0.8 * amount_mg_cm3)]
    for _ in range(4):
        lobe = place.point(*(middle + 4.5 * size * unit(rng.normal(size=3) * (1.0, 1.0, 0.7))))
        found.append(DensityFeature(lobe, lobe, rng.uniform(1.8, 3.2) * size, rng.uniform(0.3, 0.6) * amount_mg_cm3))
    return found


def disc_gas_solid(spine: Spine, level: str, *, seed: int) -> Solid:
    """Gas in the disc below a level: flat clefts, as in a degenerate disc (vacuum phenomenon)."""
    number = [vertebra.level for vertebra in spine.vertebrae].index(level)
    place, height, half_width, half_depth = spine.discs[number]
    rng = _random(seed + 3, spine.vertebrae[number])
    clefts = []
    for _ in range(3):
        centre = place.point(
            rng.uniform(-0.3, 0.3) * half_width, rng.uniform(-0.4, 0.2) * half_depth, rng.uniform(-0.1, 0.1) * height
        )
        semi = np.array([rng.uniform(0.2, 0.4) * half_width, rng.uniform(0.15, 0.35) * half_depth, 0.16 * height])
        clefts.append(ellipsoid(centre, semi, axes=place.axes))
    return Solid("disc_gas", tuple(clefts), "air")


def plaque_solids(spine: Spine, *, size: float, seed: int) -> list[Solid]:
    """Calcified plaques in the wall of the abdominal aorta, which stands in front of T12 to L4 a little to the left."""
    rng = np.random.default_rng([seed, 4242])
    plaques: list[Primitive] = []
    for vertebra in spine.vertebrae:
        if vertebra.level not in ("T12", "L1", "L2", "L3", "L4"):
            continue
        lateral = 14.0 if vertebra.level[0] == "T" else 9.0
        for _ in range(int(rng.integers(1, 4))):
            angle, along = rng.uniform(0, 2 * np.pi), rng.uniform(-0.5, 0.5) * vertebra.shape.heights[1]
            out = np.array([np.cos(angle), np.sin(angle), 0.0])
            middle = np.array([lateral * size, -vertebra.shape.half_depth - 11.5 * size, along]) + 8.4 * size * out
            semi = np.array([rng.uniform(1.5, 3.5), rng.uniform(2.0, 5.0), rng.uniform(0.6, 1.2)]) * size
            axes = frame(out @ vertebra.place.axes, vertebra.place.axes[2])
            plaques.append(
                ellipsoid(vertebra.place.point(*middle), semi, axes=axes, core_mg_cm3=rng.uniform(350.0, 700.0))
            )
    if not plaques:
        return []
    return [Solid("plaques", tuple(plaques), "soft_tissue", cortex_mg_cm3=600.0, mineral="hydroxyapatite")]


def cement_solid(vertebra: SpineVertebra, *, seed: int) -> Solid:
    """Bone cement in the front half of a body: a lump with lobes."""
    shape, rng = vertebra.shape, _random(seed + 4, vertebra)
    half = np.array([shape.half_width, shape.half_depth, 0.5 * min(shape.heights)])
    parts = [
        ellipsoid(vertebra.place.point(0.0, -0.2 * half[1], 0.0), half * (0.36, 0.36, 0.5), axes=vertebra.place.axes)
    ]
    for _ in range(5):
        middle = np.array([0.0, -0.2, 0.0]) + rng.uniform(-1.0, 1.0, 3) * (0.35, 0.25, 0.4)
        semi = rng.uniform(0.12, 0.22, 3) * half + 1.0
        parts.append(ellipsoid(vertebra.place.point(*(middle * half)), semi, axes=vertebra.place.axes, blend_mm=2.0))
    return Solid("cement", tuple(parts), "bone_cement", texture=150.0)


def screw_solid(vertebra: SpineVertebra, size: float) -> Solid:
    """Two metal screws through the pedicles, with heads behind the facets."""
    i = table_index(vertebra.level)
    shape, place = vertebra.shape, vertebra.place
    back = shape.half_depth - shape.hollow
    level = 0.17 * float(np.mean(shape.normal_heights))
    parts: list[Primitive] = []
    for side in (1.0, -1.0):
        entry = side * (0.5 * CANAL_WIDTH[i] + 0.5 * PEDICLE_WIDTH[i]) * size
        head = place.point(1.1 * entry, back + CANAL_DEPTH[i] * size + 8.0, level)
        parts.append(round_cone(head, place.point(0.55 * entry, -0.35 * shape.half_depth, level), 2.8 * size))
        parts.append(ellipsoid(head, 6.0 * size))
    return Solid("screws", tuple(parts), "implant_metal")
