"""Do drawn people and scanners differ as much as published ones, and what does the calibration make of them?

    python -m benchmarks.calibration_people [--count N]

No images: what a perfect reader would measure in air, fat, muscle and blood of people and scanners as `benchmarks.drawn_people`
has them, carried through calibrations by tissue. Three of these are like methods that were compared with phantoms in
patients; if their errors are those that were published, then the people drawn are as different as patients are:

* ``energy from the tissues``: the fit of the program without the tube voltage, over voltages as departments use them.
  Published: 0.5 +- 8.8 mg/cm3 in 114 patients of many protocols, 12.6 +- 13.2 in 350 women of one (Bartenschlager 2023).
* ``air and one tissue`` and ``regression``: on one scanner whose line is known. Published: SD 3.5 mg/cm3.

The last rows are the program's own fit with the tube voltage, and its stated uncertainty with all parts.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.drawn_people import Scanner, SoftTissue
from phantoms.materials import Materials, mineral_hu_per_mg_cm3
from pipeline.density.calibration import internal_calibration
from pipeline.density.internal import tissue_constrained_line
from pipeline.density.tissues import TissueSample, TissueSurvey
from pipeline.errors import NotMeasurable

_SEED = 20250602
# How deep (0 skin, 1 middle) tissues are sampled, and the spine.
_DEPTH = {"air": 0.0, "adipose": 0.1, "muscle": 0.55, "blood": 0.95}
_SPINE_DEPTH = 0.88
_CLINIC_KVP = (100.0, 120.0, 120.0, 120.0, 120.0, 120.0, 120.0, 140.0)
_ALL_KVP = (80.0, 100.0, 120.0, 140.0)


@dataclass(frozen=True)
class Read:
    """What is read in one person: tissues, and what bone of 0, 100 and 200 mg/cm3 would read."""

    kvp: float
    water_mm: float
    tissue_hu: dict[str, float]
    bone_hu: NDArray[np.float64]

    def survey(self) -> TissueSurvey:
        """As the program samples it."""
        samples = {name: TissueSample(name, hu, 3.0, 400, "", np.zeros((0, 3))) for name, hu in self.tissue_hu.items()}
        return TissueSurvey(samples, (), False, False, water_diameter_mm=self.water_mm)


BONE_MG_CM3 = np.array([0.0, 100.0, 200.0])


def read_person(rng: np.random.Generator, kvp: float, scanner: Scanner | None = None) -> Read:
    """Another person on another scanner, or on the one given."""
    scanner = scanner or Scanner.drawn(rng, kvp)
    water_mm = float(np.clip(rng.normal(280.0, 25.0), 220.0, 350.0))
    quality = scanner.quality(water_mm)
    materials, tissue = Materials.at(kvp, quality=quality), SoftTissue.drawn(rng).materials()
    true = {"air": -1000.0, "adipose": materials.hu(tissue["fat"])}  # most samples of fat lie under the skin
    true |= {name: materials.hu(tissue[name]) for name in ("muscle", "blood")}
    gain = mineral_hu_per_mg_cm3("k2hpo4", kvp, quality)
    return Read(
        kvp,
        water_mm,
        {name: scanner.reads(hu, _DEPTH[name]) for name, hu in true.items()},
        np.array([scanner.reads(gain * density, _SPINE_DEPTH) for density in BONE_MG_CM3]),
    )


def own_errors(people: list[Read]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Errors and stated uncertainties of the program's calibration at `BONE_MG_CM3`, shape (people, 3); nan where refused."""
    errors, stated = np.full((2, len(people), 3), np.nan)
    for number, person in enumerate(people):
        try:
            line = internal_calibration(person.survey(), person.kvp, contrast_enhanced=False)
        except NotMeasurable:
            continue
        found = line.density_mg_cm3(person.bone_hu)
        errors[number] = found - BONE_MG_CM3
        stated[number] = [line.uncertainty_mg_cm3(float(density)) for density in found]
    return errors, stated


def voltage_unknown(people: list[Read]) -> NDArray[np.float64]:
    """Errors at 100 mg/cm3 of the same fit when nothing but the tissues tells the energy."""
    errors = []
    for person in people:
        try:
            line, _ = tissue_constrained_line(person.survey(), None, contrast_enhanced=False)
        except NotMeasurable:
            continue
        errors.append(line.slope_mg_cm3_per_hu * person.bone_hu[1] + line.intercept_mg_cm3 - 100.0)
    return np.array(errors)


def known_scanner(people: list[Read]) -> dict[str, NDArray[np.float64]]:
    """Errors at 100 mg/cm3 of methods whose constants were measured on this scanner, in people like these."""
    gain = np.array([(person.bone_hu[2] - person.bone_hu[0]) / 200.0 for person in people])
    bone = np.array([person.bone_hu[1] for person in people])
    errors = {}
    for tissue in ("adipose", "muscle", "blood"):
        air = np.array([person.tissue_hu["air"] for person in people])
        there = np.array([person.tissue_hu[tissue] for person in people])
        air_mg, there_mg = (air / gain).mean(), (there / gain).mean()
        errors[f"air and {tissue}"] = there_mg + (there_mg - air_mg) / (there - air) * (bone - there) - 100.0
    facts = np.column_stack([np.ones(len(people))] + [[p.tissue_hu[t] for p in people] for t in _DEPTH if t != "air"])
    slope, *_ = np.linalg.lstsq(facts, 1.0 / gain, rcond=None)
    errors["regression on fat, muscle and blood"] = bone * (facts @ slope) - 100.0
    return errors


def main(arguments: list[str] | None = None) -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=800)
    count = parser.parse_args(arguments).count
    rng = np.random.default_rng(_SEED)
    clinic = [read_person(rng, _CLINIC_KVP[n % len(_CLINIC_KVP)]) for n in range(count)]
    everywhere = [read_person(rng, _ALL_KVP[n % len(_ALL_KVP)]) for n in range(count)]
    one = Scanner(120.0, 0.0, 1.0, 0.0, 0.0)
    same = [read_person(rng, 120.0, one) for _ in range(count)]
    print("| like a published method, at 100 mg/cm3 | bias | SD | published |\n| --- | --- | --- | --- |")
    unheld = voltage_unknown(clinic)
    print(
        f"| energy from the tissues, many scanners | {unheld.mean():+.1f} | {unheld.std():.1f} | 0.5 +- 8.8, 12.6 +- 13.2 |"
    )
    for name, errors in known_scanner(same).items():
        print(f"| {name}, one known scanner | {errors.mean():+.1f} | {errors.std():.1f} | +- 3.5 |")
    print("\n| this program, mg/cm3 | at | n | bias | SD | stated u | within u | within 1.96 u |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    groups = {"80 to 140 kVp alike": everywhere, "mostly 120 kVp": clinic}
    groups |= {f"{kvp:.0f} kVp": [p for p in everywhere if p.kvp == kvp] for kvp in _ALL_KVP}
    for name, people in groups.items():
        errors, stated = own_errors(people)
        for at, density in enumerate(BONE_MG_CM3):
            print(_row(f"| {name} | {density:.0f} |", errors[:, at], stated[:, at]))
    return 0


def _row(title: str, errors: NDArray[np.float64], stated: NDArray[np.float64]) -> str:
    done = np.isfinite(errors)
    error, u = errors[done], stated[done]
    inside = [float(np.mean(np.abs(error) < factor * u)) for factor in (1.0, 1.96)]
    numbers = f"{error.mean():+.1f} | {error.std():.1f} | {u.mean():.1f} | {inside[0]:.0%} | {inside[1]:.0%} |"
    return f"{title} {done.sum()} of {len(errors)} | {numbers}"


if __name__ == "__main__":
    raise SystemExit(main())
