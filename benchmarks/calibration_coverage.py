"""Whether the stated uncertainty of a calibration is right: what it is for is drawn anew for every scan.

    python -m benchmarks.calibration_coverage [--count N] [--json FILE]
    python -m benchmarks.calibration_coverage --projected [--count N]

Each case is a trunk from L1 to L3 of another person on another scanner (fast mode, true outlines of the bones), as
`benchmarks.drawn_people` has them; besides, body size, fat layer, bone density, marrow fat, dose, kernel and slices (1.25 to
5 mm) differ. Every other group of four lies on a plate: each rod 1 % (SD) off its certificate, seen by the softer beam at the
rim of a wide body as mode ``projections`` shows. The truth is the line of that scanner in the middle of that body, where the
spine is.

``--projected`` scans plates under patients as physics instead (12 mm of trunk at L2, some 25 s of processor time each): by how
much the line of the rods is off in the middle of the body, because the beam is harder there, and that of air, fat and muscle.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.accuracy_tables import Pair, grouped, statistics
from benchmarks.drawn_people import Scanner, SoftTissue
from phantoms.image import PhantomImage
from phantoms.kinds import make_phantom
from phantoms.materials import Materials, Quality, mineral_hu_per_mg_cm3, mixture
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
_PIXEL_MM = 1.2
# A plate under a body wider than 262 mm of water sees the beam of a narrower one: what mode `projections` shows at 120 kVp.
_RIM_FREE_MM, _RIM_SHARE = 262.0, 0.27
_BODY_HU = -500.0


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
    scanner: Scanner
    spine_depth: float
    factors: dict[str, float | str]


def draw_case(number: int) -> Scanned:
    """The scan of case `number`; it does not depend on how many there are."""
    rng = np.random.default_rng([_SEED, number])
    scanner, tissue = Scanner.drawn(rng, _KVP[number % 4]), SoftTissue.drawn(rng)
    phantom = _phantom(rng, number, on_plate=(number // 4) % 2 == 0)
    water_mm = water_equivalent_mm(phantom.image(120.0, slice_mm=12.0, pixel_mm=3.0, dose=0.0))
    drawn = _seen_by(phantom, scanner, tissue, water_mm, rng)
    slice_mm = float(rng.choice([1.25, 2.5, 3.0, 5.0]))
    kernel = str(rng.choice(["soft", "standard", "sharp"]))
    dose = float(rng.uniform(0.4, 1.5))
    image = drawn.image(scanner.kvp, slice_mm=slice_mm, pixel_mm=_PIXEL_MM, dose=dose, kernel=kernel, threads=1)
    truth = drawn.truth(image)
    depth = depth_in_body(image)
    hu = scanner.gain * image.hu.astype(np.float32) + scanner.zero_hu + scanner.shading_hu * depth[None]
    grid = Grid(image.hu.shape, image.lattice.index_to_lps)
    middle = next(body.centre_lps_mm for body in truth.vertebrae if body.level == "L2")
    _, row, column = np.rint(grid.to_index(np.asarray(middle)[None])[0]).astype(int)
    factors: dict[str, float | str] = {
        "kvp": scanner.kvp,
        "water_mm": round(water_mm),
        "fat_in_muscle": round(tissue.fat_in_muscle, 3),
        "kernel": kernel,
        "slice_mm": slice_mm,
    }
    volume = Volume(hu.astype(np.float32), grid, Acquisition(kvp=scanner.kvp))
    return Scanned(volume, segmentation_of(image, truth, grid), truth, scanner, float(depth[row, column]), factors)


def _phantom(rng: np.random.Generator, number: int, *, on_plate: bool) -> Phantom:
    """The trunk of another person."""
    size = float(np.clip(rng.normal(1.0, 0.06), 0.87, 1.15))
    options: dict[str, Any] = {
        "sex": "FM"[int(rng.random() < 0.5)],
        "age_years": int(np.clip(rng.normal(67, 9), 50, 88)),
        "spine_density_mg_cm3": float(np.clip(rng.normal(105.0, 30.0), 40.0, 190.0)),
        "size": size,
        "fat_mm": float(np.clip(20.0 * np.exp(0.45 * rng.standard_normal()), 6.0, 60.0)),
        "top_level": "L1",
        "hips": False,
        "rods": "mindways" if on_plate else None,
    }
    phantom = make_phantom("torso", seed=3000 + number, **options)
    low = phantom.low_mm.copy()
    low[2] = phantom.high_mm[2] - 125.0 * size
    return replace(phantom, low_mm=low)


def _seen_by(
    phantom: Phantom, scanner: Scanner, tissue: SoftTissue, water_mm: float, rng: np.random.Generator
) -> DrawnPhantom:
    """The phantom with the tissues of this person, its rods off their certificate and in the beam at the rim."""
    quality = scanner.quality(water_mm)
    rim = scanner.quality(water_mm - _RIM_SHARE * max(water_mm - _RIM_FREE_MM, 0.0))
    softer = mineral_hu_per_mg_cm3("k2hpo4", scanner.kvp, rim) / mineral_hu_per_mg_cm3("k2hpo4", scanner.kvp, quality)
    swaps = tissue.materials()
    solids = []
    for solid in phantom.solids:
        if solid.name == "rod":
            parts = dict(item.split("=") for item in solid.matrix[4:].split(","))
            mineral = float(parts["k2hpo4"]) * softer * (1.0 + _ROD_TOLERANCE * rng.standard_normal())
            solid = replace(solid, matrix=mixture(k2hpo4=mineral, water=float(parts["water"])))
        elif solid.matrix in swaps:
            solid = replace(solid, matrix=swaps[solid.matrix])
        solids.append(solid)
    return DrawnPhantom(**{**vars(phantom), "solids": tuple(solids)}, quality=quality)


def depth_in_body(image: PhantomImage) -> NDArray[np.float32]:
    """How deep every place of a slice (Y, X) lies: 1 in the middle of the body, 0 at its skin, between a parabola."""
    across = (image.hu > _BODY_HU).mean(axis=0) > 0.5
    across = ndimage.binary_opening(across, iterations=2)
    parts, _ = ndimage.label(across)
    body = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    rows, columns = np.indices(body.shape)
    centre = [float(place[body].mean()) for place in (rows, columns)]
    widths = [float(np.ptp(place[body])) / 2 for place in (rows, columns)]
    radius = ((rows - centre[0]) / widths[0]) ** 2 + ((columns - centre[1]) / widths[1]) ** 2
    return np.asarray(np.maximum(1.0 - radius, 0.0), np.float32)


def water_equivalent_mm(image: PhantomImage) -> float:
    """Diameter of the water that attenuates like the patient (the table's foam and shell count little), median of slices."""
    area = image.spacing[1] * image.spacing[2]
    water = np.maximum(image.hu.astype(float) / 1000.0 + 1.0, 0.0)
    water[image.hu < -700] = 0.0
    return float(np.median(2.0 * np.sqrt(water.sum(axis=(1, 2)) * area / np.pi)))


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
        for true in _LINE_AT_MG_CM3:
            hu = case.scanner.reads(true * case.truth.hu_per_mg_cm3, case.spine_depth)
            found = float(line.density_mg_cm3(hu))
            stated = line.uncertainty_mg_cm3(found)
            pairs.append(Pair(name, "line", f"{said}: line at {true:.0f}", true, found, stated, case.factors))
        pairs += _bodies(case, line, name, said)
    return pairs


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
    for quantity in ("plate: line at 100", "phantomless: line at 100"):
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
