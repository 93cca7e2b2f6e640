"""Bodies of simple shape whose stiffness has a closed form: cube, cylinder, tube (a shaft), layers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from phantoms.limits import require_numbers
from phantoms.solids import Primitive, Solid, half_space, round_cone
from phantoms.truth import SpecimenTruth

SPECIMEN_LABEL = 20
_SIDE_BY_SIDE, _LAYERS = "side by side", "layers"


@dataclass(frozen=True)
class Specimen:
    """What to paint, in order, and what is known; `width_mm` is the widest extent across the axis."""

    options: dict[str, Any]
    solids: tuple[Solid, ...]
    truth: SpecimenTruth
    width_mm: float


def _solid(density_mg_cm3: float, *primitives: Primitive) -> Solid:
    return Solid("specimen", primitives, "water", cortex_mg_cm3=density_mg_cm3, label=SPECIMEN_LABEL)


def _box(half_mm: tuple[float, float, float], middle_z_mm: float, density_mg_cm3: float) -> Solid:
    """An upright box centred on the axis."""
    middle = np.array([0.0, 0.0, middle_z_mm])
    ball = round_cone(
        (0, 0, middle_z_mm - 0.1), (0, 0, middle_z_mm + 0.1), 2 * max(half_mm), core_mg_cm3=density_mg_cm3
    )
    faces = [
        half_space(middle + sign * half * axis, sign * axis).intersected()
        for half, axis in zip(half_mm, np.eye(3), strict=True)
        for sign in (1.0, -1.0)
    ]
    return _solid(density_mg_cm3, ball, *faces)


def _rod(diameter_mm: float, height_mm: float, density_mg_cm3: float, hole_mm: float = 0.0) -> Solid:
    """A cylinder along z, with a hole of that diameter if any."""
    low, high = (0, 0, -height_mm), (0, 0, height_mm)
    rod = round_cone(low, high, diameter_mm / 2, core_mg_cm3=density_mg_cm3)
    hole = [round_cone(low, high, hole_mm / 2).subtracted()] if hole_mm > 0 else []
    ends = [half_space((0, 0, s * height_mm / 2), (0, 0, s)).intersected() for s in (1, -1)]
    return _solid(density_mg_cm3, rod, *hole, *ends)


def _truth(
    height_mm: float, arrangement: str, densities: list[float], areas: list[float], heights: list[float], moments: list[float]
) -> SpecimenTruth:  # fmt: skip
    area = areas[0] if arrangement == _LAYERS else sum(areas)
    return SpecimenTruth(
        "specimen", SPECIMEN_LABEL, densities[0], area, height_mm, arrangement,
        tuple(densities), tuple(areas), tuple(heights), tuple(moments),
    )  # fmt: skip


def cube(*, density_mg_cm3: float = 150.0, edge_mm: float = 20.0) -> Specimen:
    """A cube of even density."""
    half = edge_mm / 2
    truth = _truth(edge_mm, _SIDE_BY_SIDE, [density_mg_cm3], [edge_mm**2], [edge_mm], [edge_mm**4 / 12])
    options = {"density_mg_cm3": density_mg_cm3, "edge_mm": edge_mm}
    return Specimen(options, (_box((half, half, half), 0.0, density_mg_cm3),), truth, edge_mm)


def cylinder(*, density_mg_cm3: float = 150.0, diameter_mm: float = 30.0, height_mm: float = 25.0) -> Specimen:
    """An upright cylinder of even density."""
    area, moment = np.pi * diameter_mm**2 / 4, np.pi * diameter_mm**4 / 64
    truth = _truth(height_mm, _SIDE_BY_SIDE, [density_mg_cm3], [float(area)], [height_mm], [float(moment)])
    options = {"density_mg_cm3": density_mg_cm3, "diameter_mm": diameter_mm, "height_mm": height_mm}
    return Specimen(options, (_rod(diameter_mm, height_mm, density_mg_cm3),), truth, diameter_mm)


def shaft(
    *,
    density_mg_cm3: float = 1050.0,
    core_mg_cm3: float = 0.0,
    diameter_mm: float = 27.0,
    wall_mm: float = 6.0,
    height_mm: float = 40.0,
) -> Specimen:
    """A tube like the shaft of a femur, hollow or filled with bone of `core_mg_cm3`.

    Raises
    ------
    ValueError
        If there is no room inside the wall.
    """
    hole = diameter_mm - 2 * wall_mm
    if not 0 < hole < diameter_mm:
        raise ValueError(f"a tube of {diameter_mm} mm cannot have a wall of {wall_mm} mm")
    area = [float(np.pi * d**2 / 4) for d in (diameter_mm, hole)]
    moment = [float(np.pi * d**4 / 64) for d in (diameter_mm, hole)]
    densities, areas, moments = [density_mg_cm3], [area[0] - area[1]], [moment[0] - moment[1]]
    solids = [_rod(diameter_mm, height_mm, density_mg_cm3, hole)]
    if core_mg_cm3 > 0:
        densities, areas, moments = [*densities, core_mg_cm3], [*areas, area[1]], [*moments, moment[1]]
        solids = [_rod(diameter_mm, height_mm, density_mg_cm3), _rod(hole, height_mm, core_mg_cm3)]
    truth = _truth(height_mm, _SIDE_BY_SIDE, densities, areas, [height_mm] * len(areas), moments)
    options = {
        "density_mg_cm3": density_mg_cm3,
        "core_mg_cm3": core_mg_cm3,
        "diameter_mm": diameter_mm,
        "wall_mm": wall_mm,
        "height_mm": height_mm,
    }
    return Specimen(options, tuple(solids), truth, diameter_mm)


def layers(
    *, densities_mg_cm3: tuple[float, ...] = (400.0, 120.0, 60.0, 200.0), edge_mm: float = 20.0, layer_mm: float = 6.0
) -> Specimen:
    """A square column of layers of equal height and different density, the first at the bottom."""
    chosen = [float(density) for density in densities_mg_cm3]
    if not chosen or min(chosen) <= 0:
        raise ValueError("every layer needs a density above zero")
    height, half = layer_mm * len(chosen), edge_mm / 2
    middles = [-height / 2 + (n + 0.5) * layer_mm for n in range(len(chosen))]
    solids = [_box((half, half, layer_mm / 2), z, rho) for z, rho in zip(middles, chosen, strict=True)]
    count = len(chosen)
    truth = _truth(height, _LAYERS, chosen, [edge_mm**2] * count, [layer_mm] * count, [edge_mm**4 / 12] * count)
    options = {"densities_mg_cm3": chosen, "edge_mm": edge_mm, "layer_mm": layer_mm}
    return Specimen(options, tuple(solids), truth, edge_mm)


SPECIMENS: dict[str, Callable[..., Specimen]] = {"cube": cube, "cylinder": cylinder, "tube": shaft, "layers": layers}
"""By kind: what makes it."""


_RANGES = {
    **dict.fromkeys(("edge_mm", "diameter_mm", "height_mm", "wall_mm", "layer_mm"), (0.1, 500.0)),
    "density_mg_cm3": (0.0, 3000.0),
    "core_mg_cm3": (0.0, 3000.0),
}


def make_specimen(kind: str, options: dict[str, Any]) -> Specimen:
    """A specimen of a kind.

    Raises
    ------
    ValueError
        If an option is unknown or out of range.
    """
    unknown = set(options) - set(inspect.signature(SPECIMENS[kind]).parameters)
    if unknown:
        raise ValueError(f"unknown option: {', '.join(sorted(unknown))}")
    require_numbers(options, _RANGES)
    return SPECIMENS[kind](**options)
