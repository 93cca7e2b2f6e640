"""Materials as physics: mass attenuation tables, effective energy of a tube voltage, and the Hounsfield units that follow.

Attenuation, tissue densities and the working equivalence of tube voltage and effective energy are data
(`data/attenuation.json`, with its sources). HU are taken at one effective energy per tube voltage, or at a whole spectrum
(`phantoms.beam`), for which materials are also split into a basis of three substances.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@cache
def attenuation_tables() -> dict[str, Any]:
    """The data file: energies, mass attenuation by substance, tissues as mixtures, effective energies."""
    text = files("phantoms").joinpath("data/attenuation.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


@cache
def _logarithms(substance: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    table = attenuation_tables()
    return np.log(np.array(table["energy_kev"], float)), np.log(
        np.array(table["mass_attenuation_cm2_g"][substance], float)
    )


def mass_attenuation_cm2_g(substance: str, energy_kev: ArrayLike) -> NDArray[np.float64]:
    """Mass attenuation of a tabulated substance, by log-log interpolation; of the shape of `energy_kev`.

    Raises
    ------
    ValueError
        If an energy lies outside the table.
    """
    energies, values = _logarithms(substance)
    wanted = np.log(np.asarray(energy_kev, float))
    if wanted.min() < energies[0] - 1e-9 or wanted.max() > energies[-1] + 1e-9:
        low, high = np.exp(energies[[0, -1]])
        raise ValueError(f"{np.asarray(energy_kev)} keV is outside the attenuation table ({low:.0f}-{high:.0f} keV)")
    return np.asarray(np.exp(np.interp(wanted, energies, values)))


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


def partial_densities_g_cm3(material: str) -> dict[str, float]:
    """Of a named or ad-hoc material: how much of which tabulated substance it holds."""
    if material.startswith("mix:"):
        return {name: float(density) for name, density in (item.split("=") for item in material[4:].split(","))}
    parts: dict[str, float] = attenuation_tables()["materials"][material]
    return parts


def linear_attenuation_per_cm(material: str, energy_kev: ArrayLike) -> NDArray[np.float64]:
    """Linear attenuation of a named or ad-hoc material: the sum over its partial densities of tabulated substances."""
    parts = partial_densities_g_cm3(material)
    total = np.zeros(np.shape(energy_kev))
    for substance, density in parts.items():
        total = total + density * mass_attenuation_cm2_g(substance, energy_kev)
    return np.asarray(total)


WATER_DISPLACED = {"k2hpo4": 0.2174, "hydroxyapatite": 1.0 / 3.16}
"""Water that one unit of mineral takes the place of: the Mindways constant, and one over the density of hydroxyapatite."""


@dataclass(frozen=True)
class Quality:
    """The X-rays that a CT number is taken with.

    Attributes
    ----------
    energy_kev, weight : tuple of float
        Energies and how much of the detected signal each carries; one energy is an effective energy.
    """

    energy_kev: tuple[float, ...]
    weight: tuple[float, ...]

    @staticmethod
    def effective(kvp: float) -> Quality:
        """The effective energy of a tube voltage."""
        return Quality((effective_energy_kev(kvp),), (1.0,))

    def mean(self, values: NDArray[np.float64]) -> float:
        """Mean over the energies of values given for each."""
        weight = np.array(self.weight)
        return float(weight @ values / weight.sum())


@dataclass(frozen=True)
class Materials:
    """What materials read at one tube voltage.

    Attributes
    ----------
    kvp : float
    hu_per_mg_cm3 : float
        HU that one mg/cm3 of K2HPO4 dissolved in water adds, the water that it displaces taken away.
    iodine_mg_cm3 : tuple of (str, float)
        Iodine that contrast agent has brought into materials, by name.
    mineral_mode : bool
        Mineral density is rendered instead of HU.
    quality : Quality or None
        None for the effective energy of the tube voltage.
    """

    kvp: float
    hu_per_mg_cm3: float
    iodine_mg_cm3: tuple[tuple[str, float], ...] = ()
    mineral_mode: bool = False
    quality: Quality | None = None

    @staticmethod
    def at(kvp: float, *, quality: Quality | None = None, **iodine_mg_cm3: float) -> Materials:
        """Materials at a tube voltage; keyword arguments put iodine (mg/cm3) into materials by name."""
        slope = mineral_hu_per_mg_cm3("k2hpo4", kvp, quality)
        return Materials(float(kvp), slope, tuple(sorted(iodine_mg_cm3.items())), quality=quality)

    @staticmethod
    def mineral_only() -> Materials:
        """Renders mineral density (mg/cm3 K2HPO4) instead of HU: every matrix counts nothing."""
        return Materials(0.0, 1.0, (), True)

    @property
    def texture_gain(self) -> float:
        """What one HU of texture counts in the rendered image."""
        return 0.0 if self.mineral_mode else 1.0

    def hu_per_mineral(self, mineral: str) -> float:
        """HU that one mg/cm3 of ``"k2hpo4"`` or ``"hydroxyapatite"`` adds to water."""
        return 1.0 if self.mineral_mode else mineral_hu_per_mg_cm3(mineral, self.kvp, self.quality)

    def hu(self, material: str) -> float:
        """HU of a material without mineral."""
        if self.mineral_mode:
            return 0.0
        value = material_hu(material, self.kvp, self.quality)
        for name, iodine in self.iodine_mg_cm3:
            if name == material:
                value += iodine * iodine_hu_per_mg_cm3(self.kvp, self.quality)
        return value


@cache
def material_hu(material: str, kvp: float, quality: Quality | None = None) -> float:
    """``1000 (mu - mu_water) / (mu_water - mu_air)`` at the effective energy of the tube voltage, or at a given quality."""
    rays = quality or Quality.effective(kvp)
    mu = {name: rays.mean(linear_attenuation_per_cm(name, rays.energy_kev)) for name in (material, "water", "air")}
    return 1000.0 * (mu[material] - mu["water"]) / (mu["water"] - mu["air"])


def mineral_hu_per_mg_cm3(mineral: str, kvp: float, quality: Quality | None = None) -> float:
    """HU per mg/cm3 of ``"k2hpo4"`` or ``"hydroxyapatite"`` in water, with displacement.

    The water that the mineral takes the place of (`WATER_DISPLACED`) is taken away.
    """
    return _hu_per_mg_cm3(mineral, WATER_DISPLACED[mineral], kvp, quality)


def iodine_hu_per_mg_cm3(kvp: float, quality: Quality | None = None) -> float:
    """HU per mg/cm3 of iodine added to a tissue, whose volume the agent takes none of."""
    return _hu_per_mg_cm3("iodine", 0.0, kvp, quality)


@cache
def _hu_per_mg_cm3(substance: str, displaced: float, kvp: float, quality: Quality | None) -> float:
    rays = quality or Quality.effective(kvp)
    water = rays.mean(mass_attenuation_cm2_g("water", rays.energy_kev))
    air = rays.mean(linear_attenuation_per_cm("air", rays.energy_kev))
    return float((rays.mean(mass_attenuation_cm2_g(substance, rays.energy_kev)) - displaced * water) / (water - air))


BASIS = ("water", "hydroxyapatite", "iodine")
"""What every substance is a mixture of, as far as X-rays of 40-140 keV can tell (two processes and the K edge of iodine)."""


@cache
def basis_share(substance: str) -> tuple[float, ...]:
    """One g/cm3 of a substance as g/cm3 of each of `BASIS`.

    Tissues and PMMA are met within 0.1 % at 40-140 keV, titanium within 0.6 %, iron within 2.5 %.
    """
    if substance in BASIS:
        return tuple(float(substance == name) for name in BASIS)
    energy = np.arange(31.0, 141.0, 2.0)
    target = mass_attenuation_cm2_g(substance, energy)
    usual = np.exp(-(((energy - 70.0) / 30.0) ** 2)) / target  # relative errors, where most photons are
    columns = np.stack([mass_attenuation_cm2_g(name, energy) for name in BASIS[:2]], axis=1)
    share = np.linalg.lstsq(columns * usual[:, None], target * usual, rcond=None)[0]
    return (float(share[0]), float(share[1]), 0.0)


@dataclass(frozen=True)
class BasisDensity:
    """Renders the partial density (g/cm3) of one of `BASIS` above that of air, in place of HU.

    Attributes
    ----------
    index : int
        Which of `BASIS`.
    iodine_mg_cm3 : tuple of (str, float)
        As in `Materials`.
    """

    index: int
    iodine_mg_cm3: tuple[tuple[str, float], ...] = ()

    @property
    def texture_gain(self) -> float:
        return 0.001 if BASIS[self.index] == "water" else 0.0

    def hu(self, material: str) -> float:
        total = self._share(material) - self._share("air")
        if BASIS[self.index] == "iodine":
            total += sum(iodine / 1000.0 for name, iodine in self.iodine_mg_cm3 if name == material)
        return total

    def hu_per_mineral(self, mineral: str) -> float:
        return 1e-3 * (basis_share(mineral)[self.index] - WATER_DISPLACED[mineral] * basis_share("water")[self.index])

    def _share(self, material: str) -> float:
        parts = partial_densities_g_cm3(material)
        return float(sum(density * basis_share(substance)[self.index] for substance, density in parts.items()))
