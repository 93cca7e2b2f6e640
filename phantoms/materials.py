"""Materials as physics: mass attenuation tables, effective energy of a tube voltage, and the Hounsfield units that follow.

Attenuation, tissue densities and the working equivalence of tube voltage and effective energy are data
(`data/attenuation.json`, with its sources). HU are taken at one effective energy per tube voltage.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np


@cache
def attenuation_tables() -> dict[str, Any]:
    """The data file: energies, mass attenuation by substance, tissues as mixtures, effective energies."""
    text = files("phantoms").joinpath("data/attenuation.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def mass_attenuation_cm2_g(substance: str, energy_kev: float) -> float:
    """Mass attenuation of a tabulated substance, by log-log interpolation.

    Raises
    ------
    ValueError
        If the energy lies outside the table.
    """
    table = attenuation_tables()
    energies = np.asarray(table["energy_kev"], float)
    if not energies[0] <= energy_kev <= energies[-1]:
        raise ValueError(f"{energy_kev} keV is outside the attenuation table ({energies[0]}-{energies[-1]} keV)")
    values = np.asarray(table["mass_attenuation_cm2_g"][substance], float)
    return float(np.exp(np.interp(np.log(energy_kev), np.log(energies), np.log(values))))


def effective_energy_kev(kvp: float) -> float:
    """Effective energy inside a body at a tube voltage, linear between the tabulated voltages.

    Raises
    ------
    ValueError
        Outside 70-150 kVp.
    """
    if not 70 <= kvp <= 150:
        raise ValueError(f"tube voltage is {kvp} kVp; diagnostic CT uses 70-150 kVp")
    table = attenuation_tables()["effective_energy_kev_by_kvp"]
    voltages = sorted(float(k) for k in table)
    energies = [float(table[str(int(v))]) for v in voltages]
    if kvp < voltages[0]:
        return energies[0] + (kvp - voltages[0]) * (energies[1] - energies[0]) / (voltages[1] - voltages[0])
    if kvp > voltages[-1]:
        return energies[-1] + (kvp - voltages[-1]) * (energies[-1] - energies[-2]) / (voltages[-1] - voltages[-2])
    return float(np.interp(kvp, voltages, energies))


def mixture(**partial_densities_g_cm3: float) -> str:
    """Name of an ad-hoc material: partial density in g/cm3 by tabulated substance, for use wherever a name is asked for."""
    return "mix:" + ",".join(f"{name}={density!r}" for name, density in sorted(partial_densities_g_cm3.items()))


def linear_attenuation_per_cm(material: str, energy_kev: float) -> float:
    """Linear attenuation of a named or ad-hoc material: the sum over its partial densities of tabulated substances."""
    if material.startswith("mix:"):
        parts = {name: float(density) for name, density in (item.split("=") for item in material[4:].split(","))}
    else:
        parts = attenuation_tables()["materials"][material]
    return sum(density * mass_attenuation_cm2_g(substance, energy_kev) for substance, density in parts.items())


WATER_DISPLACED = {"k2hpo4": 0.2174, "hydroxyapatite": 1.0 / 3.16}
"""Water that one unit of mineral takes the place of: the Mindways constant, and one over the density of hydroxyapatite."""


@dataclass(frozen=True)
class Materials:
    """What materials read at one tube voltage.

    Attributes
    ----------
    kvp : float
    hu_per_mg_cm3 : float
        HU that one mg/cm3 of K2HPO4 dissolved in water adds, the water that it displaces taken away.
    overrides : tuple of (str, float)
        HU of materials that contrast agent or the like has changed.
    """

    kvp: float
    hu_per_mg_cm3: float
    overrides: tuple[tuple[str, float], ...] = ()
    mineral_mode: bool = False

    @staticmethod
    def at(kvp: float, **overrides_hu: float) -> Materials:
        """Materials at a tube voltage; keyword arguments set the HU of materials by name."""
        return Materials(float(kvp), mineral_hu_per_mg_cm3("k2hpo4", kvp), tuple(sorted(overrides_hu.items())))

    @staticmethod
    def mineral_only() -> Materials:
        """Renders mineral density (mg/cm3 K2HPO4) instead of HU: every matrix counts nothing."""
        return Materials(0.0, 1.0, (), True)

    def hu_per_mineral(self, mineral: str) -> float:
        """HU that one mg/cm3 of ``"k2hpo4"`` or ``"hydroxyapatite"`` adds to water."""
        return 1.0 if self.mineral_mode else mineral_hu_per_mg_cm3(mineral, self.kvp)

    def hu(self, material: str) -> float:
        """HU of a material without mineral."""
        if self.mineral_mode:
            return 0.0
        for name, value in self.overrides:
            if name == material:
                return value
        return material_hu(material, self.kvp)


@cache
def material_hu(material: str, kvp: float) -> float:
    """``1000 (mu - mu_water) / (mu_water - mu_air)`` at the effective energy of the tube voltage."""
    energy = effective_energy_kev(kvp)
    water = linear_attenuation_per_cm("water", energy)
    air = linear_attenuation_per_cm("air", energy)
    return 1000.0 * (linear_attenuation_per_cm(material, energy) - water) / (water - air)


def mineral_hu_per_mg_cm3(mineral: str, kvp: float) -> float:
    """HU per mg/cm3 of ``"k2hpo4"`` or ``"hydroxyapatite"`` in water, with displacement.

    The water that the mineral takes the place of (`WATER_DISPLACED`) is taken away.
    """
    energy = effective_energy_kev(kvp)
    displaced = WATER_DISPLACED[mineral]
    water = mass_attenuation_cm2_g("water", energy)
    air = linear_attenuation_per_cm("air", energy)
    return float((mass_attenuation_cm2_g(mineral, energy) - displaced * water) / (water - air))
