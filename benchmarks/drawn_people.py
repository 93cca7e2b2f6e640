"""People and scanners as published spreads have them, drawn for the benchmarks of calibration.

Of a scanner: filter of the tube (5 mm less to 3 mm more aluminium) and 1.5 keV (SD) for the doubt in its spectrum; gain within
0.5 %; an offset, and shading that grows from the skin to the middle of the body (deep organs read 10 HU apart on two scanners
of one maker: SD 5 HU, half of its square for each of the two). Of a person: lipid share of fat (Martin 1994), fat in muscle
(9.2 +- 5.0 %), haemoglobin (12.8 +- 2 g/dl) and the scatter about the regression of PMC8128794.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from phantoms.beam import Beam
from phantoms.materials import (
    Quality,
    linear_attenuation_per_cm,
    mass_attenuation_cm2_g,
    mixture,
)

_ALUMINIUM_G_CM3 = 2.699
_SPECTRA_SD_MM = 4.5
"""Aluminium that moves the effective energy by 1.5 keV, as far as published evidence lies from the tabulated spectra."""
_DEPTH_SD_HU = 3.5
"""Of the offset and of the shading each: together 5 HU."""
_VISCERAL_LESS = 0.04
"""Lipid that visceral fat has less than that under the skin."""


@dataclass(frozen=True)
class Scanner:
    """A tube and a detector that are not quite like any other: ``HU = gain * true + zero + shading * depth``.

    `depth` is 0 at the skin and 1 in the middle of the body, a parabola between.
    """

    kvp: float
    aluminium_mm: float
    gain: float
    zero_hu: float
    shading_hu: float

    @staticmethod
    def drawn(rng: np.random.Generator, kvp: float) -> Scanner:
        """Another scanner of this voltage."""
        aluminium = float(rng.uniform(-5.0, 3.0)) + _SPECTRA_SD_MM * float(rng.standard_normal())
        gain = 1.0 + 0.005 * float(rng.uniform(-1, 1))
        zero, shading = (float(rng.normal(0.0, _DEPTH_SD_HU)) for _ in range(2))
        return Scanner(kvp, aluminium, gain, zero, shading)

    def quality(self, water_mm: float) -> Quality:
        """Its beam behind a body."""
        return quality_of(self.kvp, water_mm, self.aluminium_mm)

    def reads(self, true_hu: float, depth: float) -> float:
        """What it shows of something at a depth."""
        return self.gain * true_hu + self.zero_hu + self.shading_hu * depth


@dataclass(frozen=True)
class SoftTissue:
    """What the reference tissues of a person are made of; `lipid_share` is that of subcutaneous fat."""

    lipid_share: float
    fat_in_muscle: float
    haemoglobin_g_dl: float
    blood_scatter_hu: float

    @staticmethod
    def drawn(rng: np.random.Generator) -> SoftTissue:
        """Another person."""
        return SoftTissue(
            float(np.clip(rng.normal(0.80, 0.045), 0.54, 0.9)),
            float(np.clip(rng.normal(0.092, 0.05), 0.01, 0.3)),
            float(rng.normal(12.8, 2.0)),
            float(rng.normal(0.0, 3.6)),
        )

    def materials(self) -> dict[str, str]:
        """Materials of the phantoms that take the place of the standard ones."""
        return {
            "fat": fat_of(self.lipid_share),
            "visceral_fat": fat_of(self.lipid_share - _VISCERAL_LESS),
            "muscle": muscle_of(self.fat_in_muscle),
            "blood": blood_of(self.haemoglobin_g_dl, self.blood_scatter_hu),
        }


def quality_of(kvp: float, water_mm: float, aluminium_mm: float) -> Quality:
    """The tabulated beam behind more or less filter and a body."""
    beam = Beam.at(kvp)
    plain = beam.quality_behind_water(water_mm)
    filtered = np.array(plain.weight) * np.exp(
        -mass_attenuation_cm2_g("aluminium", beam.energy_kev) * _ALUMINIUM_G_CM3 * aluminium_mm / 10.0
    )
    filtered /= filtered.sum()
    return Quality(plain.energy_kev, tuple(float(w) for w in filtered))


def fat_of(lipid_share: float) -> str:
    """Adipose tissue by its lipid share; density after Martin et al. 1994, F = 6.256 / D - 5.912."""
    density = 6.256 / (lipid_share + 5.912)
    return mixture(triglyceride=density * lipid_share, muscle=density * (1.0 - lipid_share))


def muscle_of(fat_share: float) -> str:
    """Muscle with more or less fat than the 4.2 % of ICRU 44."""
    more = fat_share - 0.042
    return mixture(muscle=1.05 * (1.0 - more), triglyceride=0.905 * more) if more > 0 else mixture(muscle=1.05)


def blood_of(haemoglobin_g_dl: float, scatter_hu: float) -> str:
    """Blood that reads at 120 kVp what the regression of haemoglobin on CT numbers says."""
    wanted_hu = (haemoglobin_g_dl + 0.875) / 0.329 + scatter_hu
    at_70 = float(linear_attenuation_per_cm(mixture(blood=1.0), 70.0) / linear_attenuation_per_cm("water", 70.0))
    return mixture(blood=(1.0 + wanted_hu / 1000.0) / at_70)
