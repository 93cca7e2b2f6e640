"""The torso phantom: spine, pelvis and both hips in a body, from a handful of parameters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from phantoms import (
    anatomy_chest,
    anatomy_hip,
    anatomy_muscles,
    anatomy_organs,
    anatomy_sacrum,
    anatomy_spine,
    anatomy_trunk,
    disease,
)
from phantoms.anatomy_hip import FemurShape
from phantoms.anatomy_spine import Spine
from phantoms.calibration import PLATE_THICKNESS_MM, Rods, rod_plate
from phantoms.limits import require_number, require_numbers
from phantoms.marrow import MarrowFat, draw_marrow, marrow, usual_fat
from phantoms.materials import Materials
from phantoms.solids import Solid, Vector
from phantoms.vertebral_body import ALL_LEVELS, LEVELS, Fracture

_SACRUM_MM = np.array([0.0, 25.0, 0.0])

_RANGES = {
    "age_years": (0, 110),
    "spine_density_mg_cm3": (0, 400),
    "hip_density_scale": (0.2, 2.0),
    "size": (0.6, 1.4),
    "fat_mm": (2, 120),
    "lordosis": (0, 2.5),
    "sacral_slope_deg": (0, 75),
    "scoliosis_deg": (-70, 70),
    "variation": (0, 0.5),
    "texture": (0, 1),
    "marrow_fat": (0.05, 0.95),
    "marrow_spread": (0, 0.5),
    "neck_shaft_angle_deg": (105, 155),
    "anteversion_deg": (-30, 50),
}


@dataclass(frozen=True)
class TorsoOptions:
    """Parameters of a torso; what is not given follows from sex and age.

    Attributes
    ----------
    sex : "F" or "M"
    age_years : int
    top_level : str
        Uppermost vertebra wholly in the image.
    hips : bool
        Whether the image reaches below the lesser trochanters; otherwise it ends below the sacrum.
    spine_density_mg_cm3 : float or None
        Trabecular density of L1 as a calibrated scanner reads it (K2HPO4) in marrow as fatty as is usual for sex and age;
        None: by age. Sets the mineral: fatter marrow than usual makes the same bone read less.
    marrow_fat : float or None
        Share of fat in the marrow of L3; None: drawn about what is usual for sex and age (`phantoms.marrow`).
    marrow_spread : float
        Standard deviation of that share between people.
    hip_density_scale : float or None
        Scales mineral and cortex of femora and pelvis; None: by age and sex.
    size : float
        Scales all lengths.
    fat_mm : float
        Thickness of the subcutaneous fat.
    fractures : dict of level to Fracture
    lordosis : float
        Scales the wedges of the discs.
    sacral_slope_deg, scoliosis_deg : float
    variation : float
        How much density differs at random from level to level, relative.
    texture : float
        Relative standard deviation of the trabecular texture.
    neck_shaft_angle_deg, anteversion_deg : float
    contrast : "none", "arterial" or "venous"
    cement, screws, osteophytes : tuple of str
        Levels with a bone-cement plug, with pedicle screws, with bony spurs on the front rims. Truth is that of the bone.
    endplate_sclerosis : tuple of str
        Levels with dense bands below both endplates.
    lesions : dict of level to float
        Lump of denser (sclerotic) or rarer (lytic, negative) bone in the body, about so many mg/cm3. Truth includes it.
    disc_gas : tuple of str
        Levels with gas in the disc below.
    aortic_plaques : bool
        Whether the wall of the abdominal aorta is calcified.
    lumbar_vertebrae : int
        5, or 6: one more, L6, on the sacrum.
    rib_pairs : int
        11, 12 or 13: the last pair stands at T11, T12 or L1.
    rods : str or None
        Calibration plate under the patient, one of ``phantoms.calibration.ROD_PLATES``.
    """

    sex: Literal["F", "M"] = "F"
    age_years: int = 66
    top_level: str = "T10"
    hips: bool = True
    spine_density_mg_cm3: float | None = None
    hip_density_scale: float | None = None
    size: float = 1.0
    fat_mm: float = 20.0
    fractures: dict[str, Fracture] = field(default_factory=dict)
    lordosis: float = 1.0
    sacral_slope_deg: float = 38.0
    scoliosis_deg: float = 0.0
    variation: float = 0.03
    texture: float = 0.22
    marrow_fat: float | None = None
    marrow_spread: float = 0.07
    neck_shaft_angle_deg: float = 130.0
    anteversion_deg: float = 12.0
    contrast: Literal["none", "arterial", "venous"] = "none"
    rods: str | None = None
    cement: tuple[str, ...] = ()
    screws: tuple[str, ...] = ()
    osteophytes: tuple[str, ...] = ()
    endplate_sclerosis: tuple[str, ...] = ()
    lesions: dict[str, float] = field(default_factory=dict)
    disc_gas: tuple[str, ...] = ()
    aortic_plaques: bool = False
    lumbar_vertebrae: int = 5
    rib_pairs: int = 12

    def __post_init__(self) -> None:
        if self.sex not in ("F", "M"):
            raise ValueError(f"sex is {self.sex!r}; it must be F or M")
        require_numbers(vars(self), _RANGES)
        for level, amount in self.lesions.items():
            require_number(f"the lesion of {level}", amount, -500.0, 2000.0)
        unknown = [
            level
            for level in (
                *(self.top_level, *self.fractures, *self.cement, *self.screws),
                *(*self.osteophytes, *self.endplate_sclerosis, *self.lesions, *self.disc_gas),
            )
            if level not in self.levels
        ]
        if unknown:
            raise ValueError(f"no such vertebra: {', '.join(unknown)}")
        if self.contrast not in ("none", "arterial", "venous"):
            raise ValueError(f"contrast is {self.contrast!r}; it must be none, arterial or venous")
        if self.lumbar_vertebrae not in (5, 6) or self.rib_pairs not in (11, 12, 13):
            raise ValueError(f"{self.lumbar_vertebrae} lumbar vertebrae and {self.rib_pairs} pairs of ribs: not known")
        for flag in ("hips", "aortic_plaques"):
            if not isinstance(getattr(self, flag), bool):
                raise ValueError(f"{flag} is {getattr(self, flag)!r}; it must be true or false")

    @property
    def levels(self) -> tuple[str, ...]:
        """All levels that this patient has, from T1 to the one on the sacrum."""
        return ALL_LEVELS[: 12 + self.lumbar_vertebrae]

    @property
    def spine_density(self) -> float:
        """Trabecular density of L1; by age from the CT numbers of Jang et al. (Radiology 2019;291:360) if not given."""
        if self.spine_density_mg_cm3 is not None:
            return self.spine_density_mg_cm3
        return (226.0 - 2.04 * (max(self.age_years, 25) - 25)) / Materials.at(120).hu_per_mg_cm3

    @property
    def hip_scale(self) -> float:
        """Density of the hip; falls by about 0.6 % a year after 45, more slowly in men."""
        if self.hip_density_scale is not None:
            return self.hip_density_scale
        loss = 0.0065 if self.sex == "F" else 0.0045
        return 1.08 - loss * max(self.age_years - 45, 0)

    @property
    def cortex(self) -> float:
        """Thickness of cortices of the spine relative to the standard, from the density of its core."""
        return float(np.clip(0.8 + 0.2 * self.spine_density / 120.0, 0.75, 1.2))


@dataclass(frozen=True)
class Torso:
    """A built torso: all solids in painting order and the descriptions that truth is computed from."""

    solids: tuple[Solid, ...]
    spine: Spine
    shown: tuple[str, ...]
    """Levels from the uppermost that the image shows wholly to L5."""
    femur: FemurShape
    marrow: MarrowFat
    low_mm: Vector
    high_mm: Vector
    rods: Rods | None = None

    def solid(self, name: str) -> Solid:
        return next(s for s in self.solids if s.name == name)


def build_torso(options: TorsoOptions, seed: int) -> Torso:
    """Build the solids of a torso in LPS mm; the middle of the S1 endplate lies at (0, 25, 0)."""
    rng = np.random.default_rng(seed)
    size, sex = options.size, options.sex
    first = ALL_LEVELS.index(options.top_level)
    levels = options.levels[max(first - 3, 0) :]  # those above give their ribs and the margin of the image
    matrix_120 = Materials.at(120)
    usual = matrix_120.hu(marrow(usual_fat(sex, options.age_years))) / matrix_120.hu_per_mg_cm3
    fat = draw_marrow(
        levels,
        ALL_LEVELS,
        sex=sex,
        age_years=options.age_years,
        mean=options.marrow_fat,
        spread=options.marrow_spread,
        seed=seed,
    )
    # Trabecular density rises a little from L3 upwards (about 1 % a level in QCT series).
    trend = {level: 1.0 + 0.012 * (LEVELS.index("L1") - ALL_LEVELS.index(level)) for level in levels}
    core = {
        level: float(
            max(options.spine_density * trend[level] * (1 + options.variation * rng.standard_normal()) - usual, 0.0)
        )
        for level in levels
    }
    sacrum_at = _SACRUM_MM * size
    spine = anatomy_spine.build_spine(
        levels,
        sex=sex,
        size=size,
        sacrum_mm=sacrum_at,
        sacral_slope_deg=options.sacral_slope_deg,
        lordosis=options.lordosis,
        scoliosis_deg=options.scoliosis_deg,
        fractures=options.fractures,
        core_mg_cm3=core,
        stacked=options.levels,
    )
    head = (np.array([86.0 if sex == "F" else 90.0, 5.0, -100.0])) * size
    femur = anatomy_hip.femur_shape(
        head,
        sex=sex,
        size=size,
        density_scale=options.hip_scale,
        shaft_length_mm=210.0 * size,
        neck_shaft_angle_deg=options.neck_shaft_angle_deg,
        anteversion_deg=options.anteversion_deg,
    )
    habitus = anatomy_trunk.Habitus(size * (1.0 if sex == "F" else 1.06), options.fat_mm)
    cortex = options.cortex
    back = habitus.back_skin_mm()
    rods = None if options.rods is None else rod_plate(options.rods, back + PLATE_THICKNESS_MM / 2 + 2.0)
    if rods is not None:
        back += PLATE_THICKNESS_MM + 2.0
    solids: list[Solid] = [
        *anatomy_trunk.table_solids(back),
        *(rods.solids if rods else ()),
        *anatomy_trunk.outer_solids(habitus, femur),
        *anatomy_muscles.wall_solids(habitus),
        *anatomy_muscles.hip_solids(femur, habitus),
        *anatomy_organs.organ_solids(habitus, rng),
        *anatomy_chest.chest_solids(habitus, rng),
        *anatomy_muscles.back_solids(spine, femur, habitus),
        *anatomy_chest.gullet_solids(spine, size),
        *anatomy_chest.vessel_solids(spine, femur, size),
        *(disease.plaque_solids(spine, size=size, seed=seed) if options.aortic_plaques else ()),
        *anatomy_spine.disc_solids(spine),
        *(disease.disc_gas_solid(spine, level, seed=seed) for level in options.disc_gas if level in levels),
        *anatomy_sacrum.canal_solids(spine, anatomy_sacrum.sacral_canal_points(spine.sacrum, size)),
        *(anatomy_hip.joint_capsule(head, femur.head_radius_mm, side) for side in ("left", "right")),
        *anatomy_trunk.rib_solids(
            spine, habitus, cortex=cortex, marrow=marrow(fat.vertebrae[levels[0]]), pairs=options.rib_pairs
        ),
        anatomy_sacrum.sacrum_solid(
            spine.sacrum,
            sex=sex,
            size=size,
            core_mg_cm3=1.1 * options.spine_density - usual,
            marrow=marrow(fat.sacrum),
            cortex=cortex,
        ),
    ]
    for side in ("left", "right"):
        solids.append(
            anatomy_hip.hemipelvis_solid(
                head,
                femur.head_radius_mm,
                spine.sacrum,
                side,
                sex=sex,
                size=size,
                density_scale=options.hip_scale,
                marrow=marrow(fat.pelvis),
            )
        )
        solids.append(
            anatomy_hip.femur_solid(
                femur,
                side,
                marrow=marrow(fat.femur_ends),
                inner_marrow=marrow(fat.femur_middle),
                texture=options.texture,
            )
        )
    for v in spine.vertebrae:
        solids.append(
            anatomy_spine.vertebra_solid(
                v,
                marrow=marrow(fat.vertebrae[v.level]),
                size=size,
                cortex=cortex,
                texture=options.texture,
                spurs=disease.spurs(v, size=size, cortex=cortex, seed=seed) if v.level in options.osteophytes else (),
                disturbances=[
                    *(disease.sclerosis(v, size=size, seed=seed) if v.level in options.endplate_sclerosis else ()),
                    *(
                        disease.lesion(v, options.lesions[v.level], size=size, seed=seed)
                        if v.level in options.lesions
                        else ()
                    ),
                ],
            )
        )
        if v.level in options.cement:
            solids.append(disease.cement_solid(v, seed=seed))
        if v.level in options.screws:
            solids.append(disease.screw_solid(v, size))
    shown = options.levels[first:]
    top_vertebra = spine.vertebra(options.top_level)
    top = float(top_vertebra.place.point(0, 0, top_vertebra.shape.upper[0])[2]) + 14.0 * size
    bottom = float(femur.lesser_trochanter_mm[2]) - 72.0 * size if options.hips else -115.0 * size
    half = 172.0 * habitus.size + options.fat_mm + 6.0
    low = np.array([-half, -107.0 * habitus.size - options.fat_mm - 6.0, bottom])
    high = np.array([half, back + 28.0, top])
    return Torso(tuple(solids), spine, shown, femur, fat, low, high, rods)
