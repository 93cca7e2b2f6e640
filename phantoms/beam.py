"""The X-ray beam of a scanner: tube spectrum, bowtie filter, detector, and the correction that makes water straight.

Spectra are tabulated (`data/spectra.json`, computed with SpekPy). The detector weighs every photon by its energy and by the
chance that its scintillator of gadolinium oxysulphide stops it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phantoms.materials import BASIS, Quality, mass_attenuation_cm2_g

SOURCE_TO_ISOCENTRE_MM = 570.0
SOURCE_TO_DETECTOR_MM = 1040.0
REFERENCE_MAS = 150.0
"""Tube load of one rotation at dose 1; about 10 mGy in the body phantom at 120 kVp."""
ELECTRONIC_NOISE_KEV = 300.0
"""Standard deviation of what the electronics add to each reading, about five photons; a working value."""
BOWTIE_RADIUS_MM = 150.0
BOWTIE_SHARE = 0.35
"""The bowtie makes up for this share of what a water cylinder of its radius attenuates less towards its rim."""

_ALUMINIUM_G_CM3 = 2.699
_SCINTILLATOR_G_CM2 = 0.6  # 1.4 mm of Gd2O2S at 60 % packing
_LONGEST_WATER_MM = 800.0


@cache
def _spectra() -> dict[str, Any]:
    text = files("phantoms").joinpath("data/spectra.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def tube_voltages() -> tuple[int, ...]:
    """Tube voltages in kV for which there is a spectrum."""
    return tuple(int(kvp) for kvp in _spectra()["photons_per_cm2_mas"])


@dataclass(frozen=True)
class Beam:
    """What leaves the tube at one voltage, and what a detector makes of it.

    Attributes
    ----------
    kvp : float
    energy_kev : float ndarray of shape (E,)
        Middles of the energy bins.
    photons_per_cm2_mas : float ndarray of shape (E,)
        In each bin, at 1 m, before the bowtie.
    """

    kvp: float
    energy_kev: NDArray[np.float64]
    photons_per_cm2_mas: NDArray[np.float64]

    @staticmethod
    def at(kvp: float) -> Beam:
        """The beam of a tabulated tube voltage.

        Raises
        ------
        ValueError
            If there is no spectrum for the voltage.
        """
        table = _spectra()
        if kvp not in tube_voltages():
            known = ", ".join(str(v) for v in tube_voltages())
            raise ValueError(f"there is no spectrum for {kvp} kVp; there is one for {known}")
        photons = np.array(table["photons_per_cm2_mas"][str(round(kvp))], float)
        energy = table["first_bin_kev"] + table["bin_kev"] * (np.arange(len(photons)) + 0.5)
        return Beam(float(kvp), energy, photons)

    @property
    def basis_cm2_g(self) -> NDArray[np.float64]:
        """Mass attenuation of each of `materials.BASIS` at each energy, (B, E)."""
        return np.stack([mass_attenuation_cm2_g(name, self.energy_kev) for name in BASIS])

    @property
    def efficiency(self) -> NDArray[np.float64]:
        """Share of the photons of each energy that the detector stops."""
        attenuation = mass_attenuation_cm2_g("gadolinium_oxysulfide", self.energy_kev)
        return np.asarray(1.0 - np.exp(-attenuation * _SCINTILLATOR_G_CM2))

    def counted(self, offset_mm: NDArray[np.float64], mas: float, cell_mm2: float) -> NDArray[np.float64]:
        """Photons that a detector cell stops in one reading without an object, by ray and energy: (S, E).

        Parameters
        ----------
        offset_mm : float ndarray of shape (S,)
            Distance of the rays from the isocentre.
        mas : float
            Tube load during the reading.
        cell_mm2 : float
            Area of the cell, as seen at the isocentre.
        """
        area_cm2 = cell_mm2 / 100.0 * (SOURCE_TO_DETECTOR_MM / SOURCE_TO_ISOCENTRE_MM) ** 2
        at_detector = self.photons_per_cm2_mas * (1000.0 / SOURCE_TO_DETECTOR_MM) ** 2 * area_cm2 * mas
        through = np.exp(-np.outer(bowtie_aluminium_mm(offset_mm) / 10.0, _aluminium_per_cm(self.energy_kev)))
        return np.asarray(at_detector * self.efficiency * through)

    def quality_behind_water(self, water_mm: float) -> Quality:
        """What carries the signal in the middle of an object that attenuates like so much water; the CT numbers there.

        A scanner with an exact water correction reads, for a little of a material behind much water, its attenuation
        weighed over the energies of the signal that is left.
        """
        water = mass_attenuation_cm2_g("water", self.energy_kev)
        signal = self.counted(np.zeros(1), 1.0, 1.0)[0] * self.energy_kev * np.exp(-water * water_mm / 10.0)
        signal /= signal.sum()
        return Quality(tuple(float(e) for e in self.energy_kev), tuple(float(s) for s in signal))

    def half_value_layer_mm(self, muen_air_cm2_g: NDArray[np.float64]) -> float:
        """Aluminium that halves the air kerma; `muen_air_cm2_g` is the mass energy absorption of air at each energy."""
        weight = self.photons_per_cm2_mas * self.energy_kev * muen_air_cm2_g
        layers = np.linspace(0.0, 20.0, 2001)
        left = np.exp(-np.outer(layers / 10.0, _aluminium_per_cm(self.energy_kev))) @ weight
        return float(np.interp(-0.5 * weight.sum(), -left, layers))


def _aluminium_per_cm(energy_kev: NDArray[np.float64]) -> NDArray[np.float64]:
    return mass_attenuation_cm2_g("aluminium", energy_kev) * _ALUMINIUM_G_CM3


def bowtie_aluminium_mm(offset_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Thickness of the bowtie filter for rays at a distance from the isocentre."""
    chord = 2.0 * np.sqrt(np.maximum(BOWTIE_RADIUS_MM**2 - np.asarray(offset_mm, float) ** 2, 0.0))
    at_70_kev = float(mass_attenuation_cm2_g("water", 70.0) / _aluminium_per_cm(np.array(70.0)))
    return np.asarray(BOWTIE_SHARE * at_70_kev * (2.0 * BOWTIE_RADIUS_MM - chord))


@dataclass(frozen=True)
class WaterCorrection:
    """From minus the logarithm of a ray's signal to the water that attenuates as much, ray by ray (the bowtie hardens, too).

    Attributes
    ----------
    water_mm : float ndarray of shape (L,)
    reading : float ndarray of shape (S, L)
        What each ray reads behind so much water.
    """

    water_mm: NDArray[np.float64]
    reading: NDArray[np.float64]

    @staticmethod
    def of(beam: Beam, offset_mm: NDArray[np.float64]) -> WaterCorrection:
        """The correction that belongs to a beam and its rays."""
        length = np.concatenate([np.linspace(-20.0, 60.0, 41), np.linspace(65.0, _LONGEST_WATER_MM, 148)])
        signal = beam.counted(offset_mm, 1.0, 1.0) * beam.energy_kev
        behind = signal @ np.exp(-np.outer(mass_attenuation_cm2_g("water", beam.energy_kev), length / 10.0))
        return WaterCorrection(length, -np.log(behind / signal.sum(axis=1, keepdims=True)))

    def water_mm_of(self, reading: NDArray[np.float32]) -> NDArray[np.float32]:
        """Readings (V, S) as millimetres of water."""
        out = np.empty_like(reading)
        for ray in range(reading.shape[1]):
            out[:, ray] = np.interp(reading[:, ray], self.reading[ray], self.water_mm)
        return out
