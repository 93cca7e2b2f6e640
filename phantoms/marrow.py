"""Bone marrow: how fatty it is by site, age and sex, and what it is made of.

Fat moves the CT number of a bone at equal mineral: ten per cent more of it read as some 15 HU less at 120 kVp, which a
scanner with a calibration takes for 11 mg/cm3 less. No single-energy measurement can tell the two apart; the truth holds both.

Vertebrae: fat fractions of water-fat MRI, men 32 % and women 27 % in their twenties (Baum et al., Front Endocrinol
2018;9:141), women overtaking men about sixty (Griffith et al., J Magn Reson Imaging 2012;36:225, some ten points above men
thereafter), rising from L1 to L5. Femur: about 90 % as a whole in the sixties, head above trochanter above intertrochanteric
region, men 3, 4 and 13 points above women (fat fraction MRI of 258 hips). Values between those published are interpolated; a
proton density fat fraction is taken for the share of adipose tissue by volume.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from phantoms.materials import mixture, partial_densities_g_cm3

_MUSCLE_G_CM3, _ADIPOSE_G_CM3 = 1.05, 0.93

_AGE_YEARS = (25.0, 40.0, 50.0, 60.0, 70.0, 85.0)
_VERTEBRA = {"F": (0.27, 0.29, 0.36, 0.46, 0.54, 0.59), "M": (0.32, 0.37, 0.41, 0.45, 0.48, 0.52)}
_FEMUR_ENDS = {"F": (0.86, 0.88, 0.90, 0.91, 0.93, 0.95), "M": (0.89, 0.91, 0.93, 0.94, 0.95, 0.96)}
_FEMUR_MIDDLE = {"F": (0.58, 0.64, 0.70, 0.74, 0.78, 0.82), "M": (0.71, 0.77, 0.81, 0.84, 0.86, 0.88)}
_PER_LEVEL = 0.015
_MIDDLE_LEVEL = 14  # L3, counted from T1
_BETWEEN_LEVELS_SD = 0.015
_HIP_SHARE_OF_SPREAD = 0.5  # how much of what sets a person's spine apart is also seen in the hip


def marrow(fat_share: float) -> str:
    """Name of the material of marrow that is fat cells by that share of its volume.

    Raises
    ------
    ValueError
        If the share is not between 0 and 1.
    """
    if not 0.0 <= fat_share <= 1.0:
        raise ValueError(f"marrow fat is {fat_share}; it must lie between 0 and 1")
    fat = round(float(fat_share), 4)
    return mixture(muscle=round(_MUSCLE_G_CM3 * (1 - fat), 5), adipose=round(_ADIPOSE_G_CM3 * fat, 5))


def fat_share(material: str) -> float:
    """The share that `marrow` was given, or that a tissue of muscle and fat has."""
    return min(partial_densities_g_cm3(material).get("adipose", 0.0) / _ADIPOSE_G_CM3, 1.0)


def usual_fat(sex: str, age_years: float) -> float:
    """Share of fat in the marrow of L3 that is usual for sex and age."""
    return float(np.interp(age_years, _AGE_YEARS, _VERTEBRA[sex]))


@dataclass(frozen=True)
class MarrowFat:
    """Share of fat by volume in the marrow of one person.

    Attributes
    ----------
    vertebrae : dict of level to float
    sacrum : float
    femur_ends, femur_middle : float
        Head, trochanters and shaft; and what red marrow is left between neck and lesser trochanter.
    """

    vertebrae: dict[str, float]
    sacrum: float
    femur_ends: float
    femur_middle: float

    @property
    def pelvis(self) -> float:
        """Between spine and femur."""
        return 0.5 * (self.sacrum + self.femur_middle)


def draw_marrow(
    levels: tuple[str, ...], all_levels: tuple[str, ...], *, sex: str, age_years: float, mean: float | None, spread: float,
    seed: int,
) -> MarrowFat:  # fmt: skip
    """The marrow of one person.

    Parameters
    ----------
    levels, all_levels : tuple of str
        Those asked for; all from T1 on, of which each has the same share whichever are asked for.
    mean : float or None
        Share in L3; None for one drawn about what is usual for sex and age.
    spread : float
        Standard deviation between people, in absolute terms.
    """
    rng = np.random.default_rng([seed, 4711])
    person = spread * float(rng.standard_normal())
    middle = usual_fat(sex, age_years) + person if mean is None else mean
    apart = person if mean is None else mean - usual_fat(sex, age_years)
    noise = dict(zip(all_levels, rng.standard_normal(len(all_levels)), strict=True))
    scatter = _BETWEEN_LEVELS_SD if spread > 0 else 0.0

    def kept(share: float) -> float:
        return round(float(np.clip(share, 0.03, 0.98)), 4)

    by_level = {
        level: kept(middle + _PER_LEVEL * (all_levels.index(level) - _MIDDLE_LEVEL) + scatter * noise[level])
        for level in levels
    }
    ends, inner = (
        kept(np.interp(age_years, _AGE_YEARS, table[sex]) + share * _HIP_SHARE_OF_SPREAD * apart)
        for table, share in ((_FEMUR_ENDS, 0.4), (_FEMUR_MIDDLE, 1.0))
    )
    return MarrowFat(by_level, kept(middle + 4 * _PER_LEVEL), ends, inner)
