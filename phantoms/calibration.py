"""Calibration objects: rod plates, a European-Spine-Phantom-like body, water.

Rod densities are the ones published for a serial number of each product (a user reads the certificate of his own).
The European Spine Phantom's nominal trabecular densities are 50, 100 and 200 mg/cm3 hydroxyapatite; its other dimensions are
nominal values from memory of the product, not from its drawing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phantoms.kernels import BODY
from phantoms.materials import WATER_DISPLACED, Materials, mixture
from phantoms.solids import Primitive, Solid, half_space, plate, primitive, round_cone, tube
from phantoms.truth import RodTruth, as_point

_WORLD = np.eye(3)
_ALONG_Z = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])

ROD_PLATES: dict[str, tuple[str, tuple[tuple[float, float], ...]]] = {
    "mindways": (
        "k2hpo4",
        ((-51.83, 1012.25), (-53.40, 1056.95), (58.88, 1103.57), (157.05, 1119.52), (375.83, 923.20)),
    ),
    "ha": (
        "hydroxyapatite",
        tuple(
            (rho, 1000.0 * (1 - rho / 1000 * WATER_DISPLACED["hydroxyapatite"]))
            for rho in (0.0, 100.0, 200.0, 400.0, 800.0)
        ),
    ),
}
"""Mineral, and per rod (from the patient's right to left) its density and that of the water in it, mg/cm3."""

PLATE_THICKNESS_MM, PLATE_HALF_WIDTH_MM = 24.0, 112.0
_ROD_RADIUS_MM = 8.0
_ROD_STEP_MM = 38.0


@dataclass(frozen=True)
class Rods:
    """A plate with rods: what to paint, and where the rods are."""

    solids: tuple[Solid, ...]
    mineral: str
    densities: tuple[tuple[float, float], ...]
    centres_mm: NDArray[np.float64]
    """(N, 2): x and y."""

    def truth(self, materials: Materials, low_mm: float, high_mm: float) -> tuple[RodTruth, ...]:
        """Truth of the rods between two heights."""
        return tuple(
            RodTruth(
                name=f"rod_{'ABCDEFGH'[n]}",
                mineral=self.mineral,
                density_mg_cm3=rho,
                water_mg_cm3=round(water, 4),
                hu=round(materials.hu(_rod_material(self.mineral, rho, water)), 4),
                radius_mm=_ROD_RADIUS_MM,
                start_lps_mm=as_point((x, y, low_mm)),
                end_lps_mm=as_point((x, y, high_mm)),
            )
            for n, ((rho, water), (x, y)) in enumerate(zip(self.densities, self.centres_mm, strict=True))
        )


def _rod_material(mineral: str, rho: float, water: float) -> str:
    return mixture(**{mineral: rho / 1000.0, "water": water / 1000.0})


def rod_plate(kind: str, middle_y_mm: float) -> Rods:
    """A plate along the whole range, with rods along z; its middle lies at `middle_y_mm`.

    Raises
    ------
    ValueError
        If no such plate is known.
    """
    if kind not in ROD_PLATES:
        raise ValueError(f"no rod plate is called {kind!r}; there are {', '.join(ROD_PLATES)}")
    mineral, densities = ROD_PLATES[kind]
    centres = np.array([((n - (len(densities) - 1) / 2) * _ROD_STEP_MM, middle_y_mm) for n in range(len(densities))])
    base = plate(
        (0.0, middle_y_mm, 0.0),
        _ALONG_Z,
        4000.0,
        PLATE_HALF_WIDTH_MM,
        thickness_mm=PLATE_THICKNESS_MM,
        exponent=8.0,
        rounding_mm=4.0,
    )
    solids = [Solid("rod_plate", (base,), "water_plastic")]
    for (rho, water), (x, y) in zip(densities, centres, strict=True):
        rod = round_cone((x, y, -4000.0), (x, y, 4000.0), _ROD_RADIUS_MM)
        solids.append(Solid("rod", (rod,), _rod_material(mineral, rho, water)))
    return Rods(tuple(solids), mineral, densities, centres)


def water_cylinder(diameter_mm: float) -> tuple[Solid, ...]:
    """A cylinder of water along z in a thin plastic wall."""
    radius = diameter_mm / 2
    cylinder = round_cone((0, 0, -4000.0), (0, 0, 4000.0), radius + 4.0, cortex_mm=4.0)
    return (Solid("water", (cylinder,), "water", rind="polymethylmethacrylate"),)


@dataclass(frozen=True)
class SpinePhantomBody:
    """One vertebra of the spine phantom: trabecular density (HA), wall and endplate thickness, and its place."""

    name: str
    label: int
    density_mg_cm3: float
    wall_mm: float
    centre_mm: tuple[float, float, float]
    half_width_mm: float = 18.0
    half_depth_mm: float = 14.0
    height_mm: float = 25.0


SPINE_PHANTOM_BODIES = tuple(
    SpinePhantomBody(f"vertebra_{level}", 19 + n, density, wall, (0.0, 10.0, 37.0 * (2 - n)))
    for n, (level, density, wall) in enumerate((("L1", 50.0, 0.5), ("L2", 100.0, 1.0), ("L3", 200.0, 1.5)), start=1)
)
"""From cranial to caudal, numbered like L1-L3 in the label map."""

_SPINE_PHANTOM_CORTEX_MG_CM3 = 800.0


def spine_phantom() -> tuple[Solid, ...]:
    """European-Spine-Phantom-like object along z: an oval water-equivalent body with three vertebrae with arches."""
    solids = [Solid("body", (tube((-90, 90), 0.0, 0.0, 140.0, 90.0, exponent=2.2),), "water_plastic")]
    for body in SPINE_PHANTOM_BODIES:
        x, y, z = body.centre_mm
        column = _elliptic_cylinder(body)
        arch: list[Primitive] = []
        for side in (1.0, -1.0):
            arch.append(
                round_cone((side * 11, y + 12, z), (side * 13, y + 27, z), 5.0, cortex_mm=1.5, core_mg_cm3=200.0)
            )
            arch.append(round_cone((side * 13, y + 27, z), (0, y + 36, z), 4.0, cortex_mm=1.5, core_mg_cm3=200.0))
        arch.append(round_cone((0, y + 36, z), (0, y + 55, z), 4.0, cortex_mm=1.5, core_mg_cm3=200.0))
        arch += [
            half_space((x, y, z + 9), (0, 0, 1)).intersected(),
            half_space((x, y, z - 9), (0, 0, -1)).intersected(),
        ]
        solids.append(
            Solid(
                body.name,
                (*arch, column),
                "water",
                cortex_mg_cm3=_SPINE_PHANTOM_CORTEX_MG_CM3,
                mineral="hydroxyapatite",
                label=body.label,
                label_primitive=len(arch),
            )
        )
    return tuple(solids)


def _elliptic_cylinder(body: SpinePhantomBody) -> Primitive:
    """An elliptic cylinder with flat ends as a body without waist, wedge or concavity."""
    half = body.height_mm / 2
    numbers = [
        body.half_width_mm,
        body.half_depth_mm,
        2.0,
        0.0,
        0.0,
        half,
        0.0,
        half,
        0,
        0,
        0,
        0,
        1,
        -half,
        0,
        0,
        0,
        0,
        1,
    ]
    return primitive(
        BODY,
        body.centre_mm,
        _WORLD,
        [float(n) for n in numbers],
        (body.half_width_mm, body.half_depth_mm, half),
        cortex_mm=(body.wall_mm, body.wall_mm),
        core_mg_cm3=(body.density_mg_cm3, body.density_mg_cm3),
    )
