"""Which phantom a row of rods is: its densities must lie on a line with what the rods read, and the line be one of physics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from pipeline.density import tables
from pipeline.density.attenuation import effective_energy_kev, k2hpo4_hu_per_mg_cm3, plausible_gain
from pipeline.density.rod_search import EDGE_HU, SURE_DISC, Row, reading_at
from pipeline.volume import Volume

_ROD_SD_HU = 4.0
_ROD_SD_SHARE = 0.012
_WORST_FIT = 6.25
_WORST_FIT_OF_ANY_ORDER = 1.5
_PLASTIC_HU = 120.0
_SHIFTED_SCANNER_HU = 45.0
_STRICT_ZERO_HU = 25.0
_MOST_MISSING = 2
_INVISIBLE_HU = EDGE_HU + 4.0
_AS_LIKELY = 6.0
# That a plastic reads like a rod happens in about one plate of ten: -2 ln 0.1.
_HIDDEN = 4.6
_SAME_DENSITY_MG_CM3 = 4.0
_GAIN_SPREAD = 0.06
_GAIN_SPREAD_UNKNOWN_KVP = 0.2
# Hydroxyapatite rods give 0.81 to 0.97 of the HU that as much dissolved K2HPO4 gives (see 2.6 of the page on methods).
_HA_GAIN = (0.93, 0.06)
_ZERO_SPREAD_HU = {True: 8.0, False: 15.0}
COMPARE_AT_HU = 130.0
"""HU at which lines are compared: trabecular bone of a healthy vertebra."""
_BONE_HU = (30.0, 230.0)


@dataclass(frozen=True)
class PhantomDefinition:
    """What a calibration phantom is made of.

    Attributes
    ----------
    name : str
    mineral : str
        ``"K2HPO4"`` or ``"HA"``.
    density_mg_cm3 : tuple of float
        Of the mineral in each rod, along the plate.
    water_mg_cm3 : tuple of float or None
        Of the water in each rod, for phantoms whose certificate follows the Mindways equations.
    certified : bool
        Whether the values come from the certificate of the phantom in use, not from a table.
    only_confusable : bool
        Its values are not verified: a row that fits it is not measured with, and none that may be it is taken for another.
    whole_density_mg_cm3 : tuple of float
        Of all rods, where this is a part of a phantom.
    title : str
        The name as the maker writes it.
    """

    name: str
    mineral: str
    density_mg_cm3: tuple[float, ...]
    water_mg_cm3: tuple[float, ...] | None = None
    certified: bool = False
    only_confusable: bool = False
    whole_density_mg_cm3: tuple[float, ...] = ()
    title: str = ""

    def chosen(self, which: tuple[int, ...]) -> PhantomDefinition:
        """These of its rods, in this order."""
        density = tuple(self.density_mg_cm3[n] for n in which)
        water = None if self.water_mg_cm3 is None else tuple(self.water_mg_cm3[n] for n in which)
        whole = self.density_mg_cm3 if len(which) < len(self.density_mg_cm3) else ()
        return replace(self, density_mg_cm3=density, water_mg_cm3=water, whole_density_mg_cm3=whole)

    def expected_hu(self, rod: int, gain_hu_per_mg_cm3: float, zero_hu: float) -> float:
        """What a rod reads on a line."""
        density = self.density_mg_cm3[rod]
        if self.water_mg_cm3 is None:
            return zero_hu + gain_hu_per_mg_cm3 * density
        slope = gain_hu_per_mg_cm3 + tables.number("k2hpo4_displacement")
        return zero_hu - tables.number("water_density_mg_cm3") + self.water_mg_cm3[rod] + slope * density


def known_phantoms() -> dict[str, PhantomDefinition]:
    """The phantoms of the tables by name."""
    return {
        name: PhantomDefinition(
            name,
            str(entry["unit"]),
            tuple(float(v) for v in entry["rho"]),
            tuple(float(v) for v in entry["water"]) if "water" in entry else None,
            only_confusable=entry["tag"] in ("M", "M?"),
            title=str(entry["title"]),
        )
        for name, entry in tables.phantom_definitions().items()
    }


@dataclass(frozen=True)
class Reading:
    """One way to read a row: which phantom, and which of its rods each rod of the row is.

    Attributes
    ----------
    whole : PhantomDefinition
    which : tuple of int
        Number of each rod of the row in it, from 0.
    gain_hu_per_mg_cm3, zero_hu : float
    misfit : float
        How far gain, zero and single rods are from what is to be expected, as a sum of squares in standard deviations.
    usual_order : bool
        Whether the rods lie in the order of the definition, from one side or the other.
    """

    whole: PhantomDefinition
    which: tuple[int, ...]
    gain_hu_per_mg_cm3: float
    zero_hu: float
    misfit: float
    usual_order: bool = True

    @property
    def definition(self) -> PhantomDefinition:
        """With the rods that were seen, in the order of the row."""
        return self.whole.chosen(self.which)

    def density_of(self, hu: float) -> float:
        """Density in mg/cm3 of what reads so many HU."""
        return (hu - self.zero_hu) / self.gain_hu_per_mg_cm3

    @property
    def sure(self) -> bool:
        """Whether it may be measured with: two rods of a phantom that has more could be of too many."""
        return not self.whole.only_confusable and (len(self.which) > 2 or len(self.whole.density_mg_cm3) == 2)

    def contradicted_by(self, other: Reading) -> bool:
        """Whether the other reading is nearly as likely and would give other densities."""
        if other.misfit > self.misfit + _AS_LIKELY:
            return False
        if other.whole.mineral != self.whole.mineral:
            return True
        apart = (other.density_of(hu) - self.density_of(hu) for hu in (*_BONE_HU, COMPARE_AT_HU))
        return any(abs(difference) > _SAME_DENSITY_MG_CM3 for difference in apart)


def readings_of(
    volume: Volume, row: Row, kvp: float | None, definitions: tuple[PhantomDefinition, ...]
) -> list[Reading]:
    """All ways to read a row that physics allows, the most likely first.

    The rods may lie in the order of a definition from either side; up to two may be missing where they lie outside the field
    of view or would read what is seen at their place. Only if no such way is found, rods in any other order count, at least
    three sharp ones that are all there and fit closely. Two rods of a phantom of three are a way to read them, too, though not
    one to measure with (`Reading.sure`).
    """
    found = []
    for whole in definitions:
        for which in _in_order(len(whole.density_mg_cm3), len(row.hu)):
            reading = _reading(row, whole, which, kvp)
            hidden = None if reading is None else _hidden_rods(volume, row, reading)
            if reading is not None and hidden is not None:
                found.append(replace(reading, misfit=reading.misfit + _HIDDEN * hidden))
    if not found and row.score >= SURE_DISC:
        found = [
            replace(reading, usual_order=False)
            for whole in definitions
            if len(whole.density_mg_cm3) == len(row.hu) >= 3
            for which in _by_reading(row, whole)
            if (reading := _reading(row, whole, which, kvp, _WORST_FIT_OF_ANY_ORDER)) is not None
        ]
    return sorted(found, key=lambda reading: reading.misfit)


def _in_order(rods: int, seen: int) -> Iterator[tuple[int, ...]]:
    """Which rods of a phantom the rods of a row may be, from either side."""
    missing = rods - seen
    if 0 <= missing <= (_MOST_MISSING if seen > 2 else 1):
        for which in combinations(range(rods), seen):
            yield which
            yield which[::-1]


def _by_reading(row: Row, whole: PhantomDefinition) -> Iterator[tuple[int, ...]]:
    """The one order in which expected and measured HU rise together."""
    typical = [whole.expected_hu(rod, 1.33, 0.0) for rod in range(len(row.hu))]
    which = np.empty(len(row.hu), int)
    which[np.argsort(row.hu)] = np.argsort(typical)
    yield tuple(int(n) for n in which)


def _reading(
    row: Row, whole: PhantomDefinition, which: tuple[int, ...], kvp: float | None, worst: float = _WORST_FIT
) -> Reading | None:
    """The line of a row read as these rods of a phantom; None where physics does not allow it."""
    definition = whole.chosen(which)
    gain, zero, misfit = _fit(definition, row.hu)
    freedom = len(row.hu) - 2
    low, high = plausible_gain(kvp)
    if whole.mineral == "HA":
        low *= _HA_GAIN[0] - _HA_GAIN[1]
    if not low <= gain <= high or (freedom and misfit > worst * freedom):
        return None
    if abs(zero) > zero_limit_hu(definition, row.hu):
        return None
    expected, spread = _expected_gain(whole.mineral, kvp)
    misfit += (float(np.log(gain / expected)) / spread) ** 2
    misfit += (zero / _ZERO_SPREAD_HU[whole.water_mg_cm3 is not None]) ** 2
    return Reading(whole, which, gain, zero, misfit)


def implausible_fit(definition: PhantomDefinition, hu: NDArray[np.float64]) -> bool:
    """Whether rods are further from a line than certificates and images allow."""
    return len(hu) > 2 and _fit(definition, hu)[2] > _WORST_FIT * (len(hu) - 2)


def zero_limit_hu(definition: PhantomDefinition, hu: NDArray[np.float64]) -> float:
    """How far a line may be from 0 HU at zero density: plastics differ, water does not, but a scanner may be shifted.

    That a scanner is shifted is believed only of four rods or more that fit closely.
    """
    seen = len(definition.density_mg_cm3)
    if definition.whole_density_mg_cm3 or seen == 2:
        return _STRICT_ZERO_HU
    if definition.water_mg_cm3 is None:
        return _PLASTIC_HU
    close = seen >= 4 and _fit(definition, hu)[2] <= _WORST_FIT_OF_ANY_ORDER * (seen - 2)
    return _SHIFTED_SCANNER_HU if close else tables.number("mindways_intercept_limit_hu")


def _expected_gain(mineral: str, kvp: float | None) -> tuple[float, float]:
    """HU per mg/cm3 that a scanner of this voltage gives, and the relative spread of scanners and bodies around it."""
    gain = float(k2hpo4_hu_per_mg_cm3(effective_energy_kev(110.0 if kvp is None else float(np.clip(kvp, 80.0, 140.0)))))
    spread = _GAIN_SPREAD_UNKNOWN_KVP if kvp is None else _GAIN_SPREAD
    if mineral == "HA":
        return gain * _HA_GAIN[0], float(np.hypot(spread, _HA_GAIN[1]))
    return gain, spread


def _hidden_rods(volume: Volume, row: Row, reading: Reading) -> int | None:
    """How many rods in view are not seen because they would read what is at their place; None if one should be seen.

    A rod that lies outside the field of view counts as none.
    """
    whole, which = reading.whole, reading.which
    hidden = 0
    slots = np.array(which, float)
    for rod in range(len(whole.density_mg_cm3)):
        if rod in which:
            continue
        # At equal distances from the neighbours, or as far beyond the end as the rods are apart on average.
        order = np.argsort(slots)
        inside = slots.min() < rod < slots.max()
        if inside:
            place = np.array([np.interp(rod, slots[order], row.centre[order, axis]) for axis in (0, 1)])
        else:
            end = int(np.argmin(np.abs(slots - rod)))
            step = (row.centre[order[-1]] - row.centre[order[0]]) / np.ptp(slots)
            place = row.centre[end] + (rod - slots[end]) * step
        seen = reading_at(volume, row, place)
        expected = whole.expected_hu(rod, reading.gain_hu_per_mg_cm3, reading.zero_hu)
        if inside if seen is None else abs(seen - expected) > _INVISIBLE_HU:
            return None
        hidden += seen is not None
    return hidden


def _fit(definition: PhantomDefinition, hu: NDArray[np.float64]) -> tuple[float, float, float]:
    """HU per mg/cm3, HU at zero density, and the squares of the residuals in units of what a rod may be off."""
    density = np.asarray(definition.density_mg_cm3, float)
    # Dense rods harden the beam, and certificates are off by a share: they must not bend the line where bone is.
    sd = np.hypot(_ROD_SD_HU, _ROD_SD_SHARE * 1.33 * density)
    line = fitted_line(definition, hu, sd)
    return line.gain_hu_per_mg_cm3, line.zero_hu, line.squares


@dataclass(frozen=True)
class RodLine:
    """The line through rods: HU per mg/cm3, HU at zero density, their covariance.

    `squares` is the sum of the residuals' squares in units of the given errors, `residual_hu` their standard deviation.
    """

    gain_hu_per_mg_cm3: float
    zero_hu: float
    covariance: NDArray[np.float64]
    squares: float
    residual_hu: float


def fitted_line(definition: PhantomDefinition, hu: NDArray[np.float64], sd_hu: NDArray[np.float64]) -> RodLine:
    """Weighted least squares of HU on density; by the Mindways equations where the definition has a water term.

    The covariance is enlarged when the residuals exceed the stated errors.
    """
    density = np.asarray(definition.density_mg_cm3, float)
    target = hu if definition.water_mg_cm3 is None else hu - np.asarray(definition.water_mg_cm3, float)
    design = np.stack([density, np.ones_like(density)], axis=1) / sd_hu[:, None]
    normal = np.linalg.inv(design.T @ design)
    slope, zero = (float(v) for v in normal @ design.T @ (target / sd_hu))
    rest = target - slope * density - zero
    freedom = max(len(hu) - 2, 1)
    squares = float(((rest / sd_hu) ** 2).sum())
    excess = max(1.0, squares / freedom) if len(hu) > 2 else 1.0
    if definition.water_mg_cm3 is not None:
        slope -= tables.number("k2hpo4_displacement")
        zero += tables.number("water_density_mg_cm3")
    return RodLine(slope, zero, np.asarray(normal * excess), squares, float(np.sqrt((rest**2).sum() / freedom)))
