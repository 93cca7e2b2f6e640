"""Whether the stated uncertainty of a calibration is right: what it is for is drawn anew for every scan.

    python -m benchmarks.calibration_coverage [--count N] [--json FILE]
    python -m benchmarks.calibration_coverage --projected [--count N]

Each case is a trunk from L1 to L3 of another person on another scanner (fast mode, true outlines of the bones). Drawn are,
from published spreads: the filter of the tube (2 mm less to 3 mm more aluminium) and 1.5 keV (SD) for the doubt in its
spectrum, the beam behind this body (tabulated spectrum, its own water-equivalent diameter), offset of the scanner
(SD 5 HU, as between two scanners of one maker) and its gain (within 0.5 %), lipid share of
fat (Martin 1994), fat in muscle (9.2 +- 5.0 %), haemoglobin (12.8 +- 2 g/dl) and the scatter about the regression of
PMC8128794, body size, fat layer, bone density, marrow fat, dose, kernel, slices of 1.25 to 5 mm; for every other case a
plate: each rod 1 % (SD) off its certificate, seen by the softer beam at the rim of a wide body as mode ``projections`` shows.
The truth is the line of that scanner in the middle of that body. Not drawn, because phantoms do not have it: scatter,
unevenness of the field, tissue other than by these laws. Rows called ``shown`` therefore leave out the parts of the stated
uncertainty that stand for it: ``what patients showed beyond that`` (phantomless), ``evenness of the field`` (plate).

``--projected`` scans plates under patients as physics instead (12 mm of trunk at L2, some 25 s of processor time each): by how
much the line of the rods is off in the middle of the body, because the beam is harder there, and that of air, fat and muscle.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy_tables import Pair, grouped, statistics
from phantoms.beam import Beam
from phantoms.image import PhantomImage
from phantoms.kinds import make_phantom
from phantoms.materials import (
    Materials,
    Quality,
    linear_attenuation_per_cm,
    mass_attenuation_cm2_g,
    mineral_hu_per_mg_cm3,
    mixture,
)
from phantoms.phantom import Phantom
from phantoms.truth import Truth
from pipeline.density import Calibration, calibrate
from pipeline.density.rods import find_plate, line_from_plate
from pipeline.density.vertebra import measure_vertebra
from pipeline.errors import Refusal
from pipeline.segmentation.model import BodyFrame, Segmentation, Vertebra
from pipeline.volume import Acquisition, Grid, Volume

_SEED = 20250601
_KVP = (80.0, 100.0, 120.0, 140.0)
_LINE_AT_MG_CM3 = (50.0, 100.0, 200.0)
_ROD_TOLERANCE = 0.01
_ALUMINIUM_G_CM3 = 2.699
_PIXEL_MM = 1.2
_SPECTRA_SD_MM = 4.5
"""Aluminium that moves the effective energy by 1.5 keV, as far as published evidence lies from the tabulated spectra."""
# A plate under a body wider than 262 mm of water sees the beam of a narrower one: what mode `projections` shows at 120 kVp.
_RIM_FREE_MM, _RIM_SHARE = 262.0, 0.27


@dataclass(frozen=True)
class DrawnPhantom(Phantom):
    """A phantom that is seen at a given quality of the X-rays."""

    quality: Quality | None = None

    def materials(self, kvp: float, *, behind_water_mm: float | None = None) -> Materials:
        """Materials at the drawn quality."""
        del behind_water_mm
        return Materials.at(kvp, quality=self.quality, **self.iodine_mg_cm3)


@dataclass(frozen=True)
class Scanned:
    """One case: what the pipeline gets, and what is true."""

    volume: Volume
    segmentation: Segmentation
    truth: Truth
    gain: float
    zero_hu: float
    factors: dict[str, float | str]


def quality_of(kvp: float, water_mm: float, aluminium_mm: float) -> Quality:
    """The tabulated beam behind more or less filter and a body."""
    beam = Beam.at(kvp)
    plain = beam.quality_behind_water(water_mm)
    filtered = np.array(plain.weight) * np.exp(
        -mass_attenuation_cm2_g("aluminium", beam.energy_kev) * _ALUMINIUM_G_CM3 * aluminium_mm / 10.0
    )
    filtered /= filtered.sum()
    return Quality(plain.energy_kev, tuple(float(w) for w in filtered))


def draw_case(number: int) -> Scanned:
    """The scan of case `number`; it does not depend on how many there are."""
    rng = np.random.default_rng([_SEED, number])
    kvp = _KVP[number % 4]
    on_plate = (number // 4) % 2 == 0
    fat_mm = float(np.clip(20.0 * np.exp(0.45 * rng.standard_normal()), 6.0, 60.0))
    size = float(np.clip(rng.normal(1.0, 0.06), 0.87, 1.15))
    options: dict[str, Any] = {
        "sex": "FM"[int(rng.random() < 0.5)],
        "age_years": int(np.clip(rng.normal(67, 9), 50, 88)),
        "spine_density_mg_cm3": float(np.clip(rng.normal(105.0, 30.0), 40.0, 190.0)),
        "size": size,
        "fat_mm": fat_mm,
        "top_level": "L1",
        "hips": False,
        "rods": "mindways" if on_plate else None,
    }
    phantom = make_phantom("torso", seed=3000 + number, **options)
    low = phantom.low_mm.copy()
    low[2] = phantom.high_mm[2] - 125.0 * size
    phantom = replace(phantom, low_mm=low)
    coarse = phantom.image(120.0, slice_mm=12.0, pixel_mm=3.0, dose=0.0)
    water_mm = water_equivalent_mm(coarse)
    aluminium_mm = float(rng.uniform(-2.0, 3.0)) + _SPECTRA_SD_MM * float(rng.standard_normal())
    quality = quality_of(kvp, water_mm, aluminium_mm)
    fat_in_muscle = float(np.clip(rng.normal(0.092, 0.05), 0.01, 0.3))
    swaps = {
        "fat": fat_of(float(np.clip(rng.normal(0.80, 0.045), 0.54, 0.9))),
        "visceral_fat": fat_of(float(np.clip(rng.normal(0.76, 0.045), 0.54, 0.9))),
        "muscle": muscle_of(fat_in_muscle),
        "blood": blood_of(float(rng.normal(12.8, 2.0)), float(rng.normal(0.0, 3.6))),
    }
    rim = quality_of(kvp, water_mm - _RIM_SHARE * max(water_mm - _RIM_FREE_MM, 0.0), aluminium_mm)
    softer = mineral_hu_per_mg_cm3("k2hpo4", kvp, rim) / mineral_hu_per_mg_cm3("k2hpo4", kvp, quality)
    solids = []
    for solid in phantom.solids:
        if solid.name == "rod":
            parts = dict(item.split("=") for item in solid.matrix[4:].split(","))
            mineral = float(parts["k2hpo4"]) * softer * (1.0 + _ROD_TOLERANCE * rng.standard_normal())
            solid = replace(solid, matrix=mixture(k2hpo4=mineral, water=float(parts["water"])))
        elif solid.matrix in swaps:
            solid = replace(solid, matrix=swaps[solid.matrix])
        solids.append(solid)
    drawn = DrawnPhantom(**{**vars(phantom), "solids": tuple(solids)}, quality=quality)
    slice_mm = float(rng.choice([1.25, 2.5, 3.0, 5.0]))
    kernel = str(rng.choice(["soft", "standard", "sharp"]))
    image = drawn.image(
        kvp, slice_mm=slice_mm, pixel_mm=_PIXEL_MM, dose=float(rng.uniform(0.4, 1.5)), kernel=kernel, threads=1
    )
    truth = drawn.truth(image)
    gain, zero = 1.0 + 0.005 * float(rng.uniform(-1, 1)), float(rng.normal(0.0, 5.0))
    hu = gain * image.hu.astype(np.float32) + np.float32(zero)
    grid = Grid(image.hu.shape, image.lattice.index_to_lps)
    volume = Volume(hu, grid, Acquisition(kvp=kvp))
    factors: dict[str, float | str] = {
        "kvp": kvp,
        "water_mm": round(water_mm),
        "fat_in_muscle": round(fat_in_muscle, 3),
        "kernel": kernel,
        "slice_mm": slice_mm,
    }
    return Scanned(volume, segmentation_of(image, truth, grid), truth, gain, zero, factors)


def water_equivalent_mm(image: PhantomImage) -> float:
    """Diameter of the water that attenuates like the patient (the table's foam and shell count little), median of slices."""
    area = image.spacing[1] * image.spacing[2]
    water = np.maximum(image.hu.astype(float) / 1000.0 + 1.0, 0.0)
    water[image.hu < -700] = 0.0
    return float(np.median(2.0 * np.sqrt(water.sum(axis=(1, 2)) * area / np.pi)))


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


def segmentation_of(image: PhantomImage, truth: Truth, grid: Grid) -> Segmentation:
    """The true outlines as a segmentation."""
    bodies = []
    for true in truth.vertebrae:
        superior = np.array(true.superior_lps)
        posterior = np.array([0.0, 1.0, 0.0]) - superior * superior[1]
        posterior /= np.linalg.norm(posterior)
        frame = BodyFrame(np.array(true.centre_lps_mm), np.cross(posterior, superior), posterior, superior)
        facts = (true.name, true.level, true.label, frame, None, true.width_mm, true.depth_mm, 1.0)
        bodies.append(Vertebra(*facts, complete=true.complete))
    return Segmentation(image.labels, grid, tuple(bodies))


def measured(number: int) -> list[Pair]:
    """Lines and densities of one case, each against the truth; refusals count as not measured."""
    case = draw_case(number)
    name = f"case-{number}"
    pairs: list[Pair] = []
    wanted = ["internal"] if case.truth.rods == () else ["phantom", "internal"]
    for choice in wanted:
        said = {"phantom": "plate", "internal": "phantomless"}[choice]
        try:
            line = calibrate(case.volume, case.segmentation, choice=choice)
        except Refusal:
            pairs += [
                Pair(name, "line", f"{said}: line at {d:.0f}", d, None, None, case.factors) for d in _LINE_AT_MG_CM3
            ]
            continue
        # Without what phantoms cannot show: of the plate the evenness of the field, else what patients showed beyond the fit.
        lesser = replace(line, random_mg_cm3=0.0)
        if choice == "internal":
            lesser = replace(lesser, systematic_relative=0.0)
        for true in _LINE_AT_MG_CM3:
            hu = case.gain * true * case.truth.hu_per_mg_cm3 + case.zero_hu
            found = float(line.density_mg_cm3(hu))
            pairs.append(_pair(name, f"{said}: line at {true:.0f}", true, found, line.uncertainty_mg_cm3, case))
            pairs.append(
                _pair(name, f"{said}: line at {true:.0f}, shown", true, found, lesser.uncertainty_mg_cm3, case)
            )
        pairs += _bodies(case, line, name, said)
    return pairs


def _pair(
    name: str, quantity: str, true: float, found: float, uncertainty: Callable[[float], float], case: Scanned
) -> Pair:
    return Pair(name, "line", quantity, true, found, uncertainty(found), case.factors)


def _bodies(case: Scanned, line: Calibration, name: str, said: str) -> list[Pair]:
    """vBMD of the bodies, everything together."""
    pairs = []
    known = {true.name: true for true in case.truth.vertebrae}
    for vertebra in case.segmentation.vertebrae:
        true = known[vertebra.name].peeled_density_mg_cm3
        if not vertebra.complete or true is None:
            continue
        try:
            vbmd = measure_vertebra(case.volume, case.segmentation, vertebra, line, fracture_grade=0).vbmd_mg_cm3
        except Refusal:
            continue
        if vbmd is not None:
            quantity = f"{said}: vBMD"
            pairs.append(Pair(name, vertebra.name, quantity, true, vbmd.value, vbmd.uncertainty, case.factors))
    return pairs


def report(pairs: list[Pair]) -> str:
    """The tables."""
    lines = [
        "| mg/cm3 | measured | bias | SD | stated u | within u | within 1.96 u |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    quantities = list(dict.fromkeys(pair.quantity for pair in pairs))
    lines += [_row(quantity, [pair for pair in pairs if pair.quantity == quantity]) for quantity in sorted(quantities)]
    for quantity in ("plate: line at 100", "phantomless: line at 100", "phantomless: line at 100, shown"):
        mine = [pair for pair in pairs if pair.quantity == quantity]
        for factor in ("kvp", "water_mm", "fat_in_muscle", "kernel", "slice_mm"):
            lines += [_row(f"{quantity}; {value}", group) for value, group in grouped(mine, factor).items()]
    return "\n".join(lines)


def _row(title: str, pairs: list[Pair]) -> str:
    row = statistics(pairs)
    if not row["measured"]:
        return f"| {title} | 0 of {row['known']} | | | | | |"
    numbers: NDArray[np.float64] = np.array([row["bias"], row["precision"], row["stated_uncertainty"]])
    return (
        f"| {title} | {row['measured']} of {row['known']} | {numbers[0]:+.1f} | {numbers[1]:.1f} | {numbers[2]:.1f} | "
        f"{row['coverage_68']:.0%} | {row['coverage_95']:.0%} |"
    )


_PROJECTED = tuple(
    (kvp, fat, size) for kvp in (120.0, 80.0, 140.0, 100.0) for fat, size in ((15, 0.95), (45, 1.1), (25, 1.0))
)


def projected_plate(kvp: float, fat_mm: float, size: float) -> str:
    """A row of the table of plates that were scanned as physics."""
    options = {"top_level": "L1", "hips": False, "rods": "mindways", "marrow_spread": 0.0}
    phantom = make_phantom("torso", seed=5, fat_mm=float(fat_mm), size=size, **options)
    coarse = phantom.truth(phantom.image(kvp, slice_mm=4.0, pixel_mm=3.0, dose=0.0))
    middle = next(body.centre_lps_mm[2] for body in coarse.vertebrae if body.level == "L2")
    low, high = phantom.low_mm.copy(), phantom.high_mm.copy()
    low[2], high[2] = middle - 6.3, middle + 6.3
    slab = replace(phantom, low_mm=low, high_mm=high)
    image = slab.image(kvp, slice_mm=2.1, pixel_mm=0.9, dose=4.0, mode="projections", sub_slice_mm=2.1, threads=1)
    truth = slab.truth(image)
    grid = Grid(image.hu.shape, image.lattice.index_to_lps)
    volume, segmentation = Volume(image.hu, grid, Acquisition(kvp=kvp)), segmentation_of(image, truth, grid)
    plate = find_plate(volume, segmentation)
    title = f"| {kvp:.0f} | {image.water_equivalent_diameter_mm:.0f} |"
    if plate is None or not plate.rods:
        return f"{title} not found | | | |"
    line = line_from_plate(plate, kvp=kvp)
    errors = [
        line.slope_mg_cm3_per_hu * d * truth.hu_per_mg_cm3 + line.intercept_mg_cm3 - d for d in (0.0, 100.0, 200.0)
    ]
    tissues = calibrate(volume, segmentation, choice="internal")
    errors.append(float(tissues.density_mg_cm3(100.0 * truth.hu_per_mg_cm3)) - 100.0)
    return title + "".join(f" {error:+.1f} |" for error in errors)


def main(arguments: list[str] | None = None) -> int:
    """Run, print, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=96)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--projected", action="store_true", help="plates under patients, scanned as physics")
    options = parser.parse_args(arguments)
    if options.projected:
        print("| kVp | water, mm | plate at 0 | at 100 | at 200 | phantomless at 100 mg/cm3 |")
        print("| --- | --- | --- | --- | --- | --- |")
        for chosen in _PROJECTED[: options.count]:
            print(projected_plate(*chosen), flush=True)
        return 0
    pairs: list[Pair] = []
    for number in range(options.count):
        pairs += measured(number)
        if options.json is not None:
            options.json.write_text(json.dumps([asdict(pair) for pair in pairs]), encoding="utf-8")
    print(report(pairs))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
