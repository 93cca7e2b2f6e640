"""Which phantoms there are, and how each is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phantoms import calibration
from phantoms.anatomy_hip import FEMUR_LABELS
from phantoms.calibration import PLATE_HALF_WIDTH_MM
from phantoms.limits import require_number, require_numbers
from phantoms.materials import Materials
from phantoms.phantom import Phantom
from phantoms.specimens import SPECIMEN_LABEL, SPECIMENS, make_specimen
from phantoms.torso import Torso, TorsoOptions, build_torso
from phantoms.truth import VertebraTruth, as_point, femur_truth, vertebra_truth
from phantoms.vertebral_body import LABEL_OF_LEVEL, Fracture
from phantoms.voxelise import Lattice

_CYLINDERS = {"diameter_mm": (20.0, 600.0), "length_mm": (1.0, 2000.0)}


def invented_patient(sex: str = "F", age_years: int = 66, size: float = 1.0, fat_mm: float = 20.0) -> dict[str, Any]:
    """Header fields of a patient of that size."""
    woman = sex == "F"
    weight = (56.0 if woman else 70.0) * size**2 + 0.9 * (fat_mm - 15.0)
    return {
        "sex": sex,
        "age_years": age_years,
        "height_m": round((1.62 if woman else 1.75) * size, 2),
        "weight_kg": round(weight, 1),
    }


def _describe_torso(
    torso: Torso, seed: int, materials: Materials, lattice: Lattice, present: frozenset[int]
) -> dict[str, Any]:
    lowest, highest = (float(lattice.to_lps(np.array([k, 0, 0]))[2]) for k in (-0.5, lattice.shape[0] - 0.5))
    known: dict[str, Any] = {
        "vertebrae": tuple(
            vertebra_truth(
                v,
                torso.solid(f"vertebra_{v.level}"),
                materials,
                lattice,
                seed=seed,
                marrow_fat=torso.marrow.vertebrae[v.level],
            )
            for v in torso.spine.vertebrae
            if LABEL_OF_LEVEL[v.level] in present
        ),
        "femora": tuple(
            femur_truth(
                torso.femur,
                torso.solid(f"femur_{side}"),
                side,
                min(lowest, highest),
                seed=seed,
                marrow_fat=(torso.marrow.femur_ends, torso.marrow.femur_middle),
            )
            for side, label in FEMUR_LABELS.items()
            if label in present
        ),
    }
    if torso.rods is not None:
        known["rods"] = torso.rods.truth(materials, lowest, highest)
    return known


def _torso(kind: str, seed: int, options: dict[str, Any]) -> Phantom:
    """Torso, or a part of it: ``spine`` is a small field of view round the spine, ``hip`` the pelvis and both hips."""
    options = dict(options)
    side = options.pop("side", "both") if kind == "hip" else "both"
    bottom_level = options.pop("bottom_level", None) if kind == "spine" else None
    if kind == "spine":
        options.setdefault("hips", False)
    fractures = {level: _fracture(level, value) for level, value in dict(options.get("fractures", {})).items()}
    chosen = TorsoOptions(**(options | {"fractures": fractures}))
    built = build_torso(chosen, seed)
    low, high = built.low_mm.copy(), built.high_mm.copy()
    if kind == "spine":
        reach = 78.0 * chosen.size if built.rods is None else PLATE_HALF_WIDTH_MM + 4.0  # all rods, or none is of use
        low, high = (
            np.maximum(low, [-reach, -50.0 * chosen.size, -70.0 * chosen.size]),
            np.minimum(high, [reach, np.inf, np.inf]),
        )
    if bottom_level is not None:
        if bottom_level not in built.shown:
            raise ValueError(
                f"bottom_level is {bottom_level!r}; it must lie between {built.shown[0]} and {built.shown[-1]}"
            )
        lowest = built.spine.vertebra(bottom_level)
        low[2] = float(lowest.place.point(0, 0, lowest.shape.lower[0])[2]) - 14.0 * chosen.size
    if kind == "hip":
        high[2] = float(built.femur.head_centre_mm[2]) + 62.0 * chosen.size
        if side == "left":
            low[0] = 25.0
        elif side == "right":
            high[0] = -25.0
        elif side != "both":
            raise ValueError(f"side is {side!r}; it must be left, right or both")
    stated = asdict(chosen) | ({"side": side} if kind == "hip" else {})
    stated |= {"bottom_level": bottom_level} if bottom_level is not None else {}
    stated = {name: list(value) if isinstance(value, tuple) else value for name, value in stated.items()}  # as in JSON
    return Phantom(
        kind,
        seed,
        stated,
        built.solids,
        low,
        high,
        partial(_describe_torso, built, seed),
        patient=invented_patient(chosen.sex, chosen.age_years, chosen.size, chosen.fat_mm),
        contrast=chosen.contrast,
    )


def _fracture(level: str, value: Any) -> Fracture:
    """A fracture as given in Python, or as a pair of deformity and loss."""
    if isinstance(value, Fracture):
        return value
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f'the fracture of {level} is {value!r}; it must be a pair such as ["wedge", 0.3]')
    require_number(f"the height loss of {level}", value[1], 0.0, 1.0)
    return Fracture(str(value[0]), float(value[1]))


def _nothing(_materials: Materials, _lattice: Lattice, _present: frozenset[int]) -> dict[str, Any]:
    return {}


def _rods(seed: int, options: dict[str, Any]) -> Phantom:
    """A rod plate alone on the table, under a water cylinder of `diameter_mm`."""
    plate, diameter, length = (
        options.pop("plate", "mindways"),
        options.pop("diameter_mm", 200.0),
        options.pop("length_mm", 40.0),
    )
    _require_empty(options)
    require_numbers({"diameter_mm": diameter, "length_mm": length}, _CYLINDERS)
    rods = calibration.rod_plate(plate, diameter / 2 + 6.0 + calibration.PLATE_THICKNESS_MM / 2)
    half = diameter / 2 + 20.0
    low, high = np.array([-max(half, 125.0), -half, 0.0]), np.array([max(half, 125.0), half + 30.0, length])

    def describe(materials: Materials, lattice: Lattice, _present: frozenset[int]) -> dict[str, Any]:
        lowest, highest = (float(lattice.to_lps(np.array([k, 0, 0]))[2]) for k in (-0.5, lattice.shape[0] - 0.5))
        return {"rods": rods.truth(materials, lowest, highest)}

    solids = (*calibration.water_cylinder(diameter), *rods.solids)
    return Phantom(
        "rods", seed, {"plate": plate, "diameter_mm": diameter, "length_mm": length}, solids, low, high, describe
    )


def _water(seed: int, options: dict[str, Any]) -> Phantom:
    """A cylinder of water of `diameter_mm`."""
    diameter, length = options.pop("diameter_mm", 200.0), options.pop("length_mm", 40.0)
    _require_empty(options)
    require_numbers({"diameter_mm": diameter, "length_mm": length}, _CYLINDERS)
    half = diameter / 2 + 20.0
    low, high = np.array([-half, -half, 0.0]), np.array([half, half, length])
    stated = {"diameter_mm": diameter, "length_mm": length}
    return Phantom("water", seed, stated, calibration.water_cylinder(diameter), low, high, _nothing)


def _describe_spine_phantom(materials: Materials, lattice: Lattice, present: frozenset[int]) -> dict[str, Any]:
    vertebrae = []
    for body in calibration.SPINE_PHANTOM_BODIES:
        if body.label not in present:
            continue
        x, y, z = body.centre_mm
        half = body.height_mm / 2
        inset = body.half_depth_mm - 2.5
        points = tuple(as_point((x, y + p, z + h)) for p in (-inset, 0.0, inset) for h in (half, -half))
        hu = materials.hu("water") + materials.hu_per_mineral("hydroxyapatite") * body.density_mg_cm3
        ends = lattice.to_index(np.array([[x, y, z - half], [x, y, z + half]]))
        vertebrae.append(
            VertebraTruth(
                name=body.name,
                level=body.name.removeprefix("vertebra_"),
                label=body.label,
                centre_lps_mm=as_point(body.centre_mm),
                superior_lps=(0.0, 0.0, 1.0),
                width_mm=2 * body.half_width_mm,
                depth_mm=2 * body.half_depth_mm,
                anterior_mm=body.height_mm,
                middle_mm=body.height_mm,
                posterior_mm=body.height_mm,
                points_lps_mm=points,
                trabecular_mineral_mg_cm3=body.density_mg_cm3,
                trabecular_density_mg_cm3=round(hu / materials.hu_per_mg_cm3, 3),
                trabecular_hu=round(hu, 3),
                genant_grade=0,
                deformity="none",
                height_loss=0.0,
                complete=bool((ends > -0.5).all() and (ends < np.array(lattice.shape) - 0.5).all()),
                mineral="hydroxyapatite",
                peeled_mineral_mg_cm3=body.density_mg_cm3,
                peeled_density_mg_cm3=round(hu / materials.hu_per_mg_cm3, 3),
                peeled_hu=round(hu, 3),
            )
        )
    return {"vertebrae": tuple(vertebrae)}


def _esp(seed: int, options: dict[str, Any]) -> Phantom:
    """Three vertebrae of 50, 100 and 200 mg/cm3 hydroxyapatite in an oval body."""
    _require_empty(options)
    low, high = np.array([-150.0, -100.0, -62.0]), np.array([150.0, 105.0, 62.0])
    return Phantom("esp", seed, {}, calibration.spine_phantom(), low, high, _describe_spine_phantom)


def _specimen(kind: str, seed: int, options: dict[str, Any]) -> Phantom:
    """A body of simple shape in water, whose stiffness has a closed form (`phantoms.specimens`)."""
    specimen = make_specimen(kind, options)
    margin = 6.0
    wide, height = specimen.width_mm, specimen.truth.height_mm
    high: NDArray[np.float64] = np.array([wide / 2 + margin, wide / 2 + margin, height / 2 + margin])

    def describe(materials: Materials, _lattice: Lattice, present: frozenset[int]) -> dict[str, Any]:
        return {"specimens": (specimen.truth.at(materials),)} if SPECIMEN_LABEL in present else {}

    return Phantom(kind, seed, specimen.options, specimen.solids, -high, high, describe, background="water")


def _require_empty(options: dict[str, Any]) -> None:
    if options:
        raise ValueError(f"unknown option: {', '.join(options)}")


KINDS: dict[str, Callable[[int, dict[str, Any]], Phantom]] = {
    "torso": partial(_torso, "torso"),
    "spine": partial(_torso, "spine"),
    "hip": partial(_torso, "hip"),
    "esp": _esp,
    "rods": _rods,
    "water": _water,
    **{kind: partial(_specimen, kind) for kind in SPECIMENS},
}
"""What can be made, by name: a function of seed and options."""


def make_phantom(kind: str, *, seed: int = 0, **options: Any) -> Phantom:
    """Make a phantom.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    seed : int
        Texture, bowel, noise and UIDs follow from it.
    **options
        Depend on the kind. ``torso``, ``spine``, ``hip`` take the fields of `phantoms.torso.TorsoOptions` (fractures also as
        ``{"L1": ("wedge", 0.3)}``; ``hip`` also ``side``, ``spine`` also ``bottom_level``), ``rods`` takes ``plate``,
        ``diameter_mm``, ``length_mm``, ``water`` the last two, ``cube``, ``cylinder``, ``tube`` and ``layers`` the arguments
        of the functions in `phantoms.specimens`.

    Raises
    ------
    ValueError
        If the kind or an option is unknown or out of range.
    """
    if kind not in KINDS:
        raise ValueError(f"no phantom is called {kind!r}; there are {', '.join(KINDS)}")
    try:
        return KINDS[kind](seed, dict(options))
    except TypeError as error:
        raise ValueError(f"phantom {kind}: {error}") from error
