"""Strength of phantom vertebrae of every level and shape from masks: is the load axis found, what does an arch change?

    python -m benchmarks.strength_shapes [--level T4 ...]

One row for each level and shape, at voxels of 1 mm, and for a few other voxels: angle between the load axis found and the mean
normal of the end plates as built, strength and stiffness of the body from its own mask and from that of the whole vertebra.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fea.bone.vertebra import pose_of_body
from phantoms.anatomy_spine import build_spine, vertebra_solid
from phantoms.materials import Materials
from phantoms.vertebral_body import Fracture
from phantoms.voxelise import Lattice, render
from pipeline.errors import InputRefused, NotMeasurable
from pipeline.strength.command import strength_from_image

LEVELS = tuple(f"T{i}" for i in range(1, 13)) + tuple(f"L{i}" for i in range(1, 6))
SHAPES = (None, ("wedge", 0.35), ("wedge", 0.5), ("biconcave", 0.4), ("crush", 0.45))
SPACINGS_MM = ((0.4, 0.4, 0.4), (0.6, 0.3, 0.3), (1.5, 1.5, 1.5), (2.0, 0.8, 0.8), (3.0, 0.8, 0.8), (3.0, 3.0, 3.0))
_ONE_MM = (1.0, 1.0, 1.0)
_CORE_MG_CM3 = 90.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.strength_shapes", description=__doc__)
    parser.add_argument("--level", nargs="+", choices=LEVELS[3:], default=LEVELS[3:])
    levels = parser.parse_args().level
    for level in levels:
        for shape in SHAPES:
            _row(level, f"{shape[0]} {shape[1]:g}" if shape else "healthy", shape)
        _row(level, "Cobb angle 45", None, scoliosis_deg=45.0)
        for spacing_mm in SPACINGS_MM:
            _row(level, " x ".join(f"{edge:g}" for edge in spacing_mm) + " mm", None, spacing_mm=spacing_mm)


def _row(
    level: str,
    name: str,
    shape: tuple[str, float] | None,
    *,
    scoliosis_deg: float = 0.0,
    spacing_mm: tuple[float, float, float] = _ONE_MM,
) -> None:
    density, body, whole, matrix, normal = _vertebra(level, shape, scoliosis_deg, spacing_mm)
    cosine = float(np.clip(pose_of_body(body, matrix).superior @ normal, -1, 1))
    texts = [f"{level:4s}{name:18s} {np.degrees(np.arccos(cosine)):4.1f} deg"]
    for mask in (body, whole):
        try:
            result = strength_from_image(density, mask, matrix, test="spine-compression", mineral="K2HPO4")
            found = [quantity.value if quantity else np.nan for quantity in (result.strength, result.stiffness)]
            texts.append(f"{found[0]:6.0f} N {found[1]:6.0f} N/mm")
        except (NotMeasurable, InputRefused) as refusal:
            texts.append(refusal.reason)
    print("  ".join(texts), flush=True)


def _vertebra(
    level: str, shape: tuple[str, float] | None, scoliosis_deg: float, spacing_mm: tuple[float, float, float]
) -> tuple[NDArray, NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """Density, masks of the body and of the whole vertebra, index to LPS, and the mean normal of the end plates."""
    spine = build_spine(
        LEVELS,
        sex="F",
        size=1.0,
        sacrum_mm=np.zeros(3),
        sacral_slope_deg=38.0,
        lordosis=1.0,
        scoliosis_deg=scoliosis_deg,
        fractures={level: Fracture(*shape)} if shape else {},
        core_mg_cm3=dict.fromkeys(LEVELS, _CORE_MG_CM3),
    )
    vertebra = spine.vertebra(level)
    solid = vertebra_solid(vertebra, marrow="red_marrow", size=1.0, cortex=1.0, texture=0.2)
    low, high = (np.asarray(corner) for corner in solid.box_mm)
    lattice = Lattice.upright(low - 6, high + 6, spacing_mm)
    density, labels = render([solid], lattice, Materials.mineral_only(), background=None, seed=1)
    _, everything = render(
        [replace(solid, label_primitive=None)], lattice, Materials.mineral_only(), background=None, seed=1
    )
    _, back, up = (np.asarray(axis) for axis in vertebra.place.axes)
    normals = [up - side[1] * back for side in (vertebra.shape.upper, vertebra.shape.lower)]
    total = sum(normal / np.linalg.norm(normal) for normal in normals)
    mean = np.asarray(total / np.linalg.norm(total))
    return density, labels == solid.label, everything == solid.label, lattice.index_to_lps, mean


if __name__ == "__main__":
    main()
