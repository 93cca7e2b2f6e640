"""What the error of areal density of the hip is made of, part by part, and whether the stated intervals hold.

    python -m benchmarks.hip_parts [--count N] [--draws N] [--json FILE]

Phantom hips with their true masks and landmarks, so that segmentation has no share in it. Each case differs from the usual one
(120 kVp, 1.5 mm, 0.9 mm pixels) in one thing. The error of a region is taken apart into

- *place*: the regions put by rule on the noise-free mineral of the phantom, against those of its truth (which centres the neck
  box where the neck is narrowest; the rule hangs it on the notch of the trochanter);
- *image*: blur, partial volume, noise, pose, soft tissue, with the true line of the scanner and every marrow reading what is
  taken off for it;
- *marrow*: the same with the marrow of this person;
- *calibration*: the line found in the image against the true one.

Then all of it together with lines drawn from the error that the calibration states: how often the stated interval holds
the truth.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phantoms.image import form_image, noise_hu
from phantoms.kinds import make_phantom
from phantoms.materials import Materials
from phantoms.phantom import Phantom
from phantoms.truth import FemurTruth
from phantoms.voxelise import Lattice, render
from pipeline.density import calibrate, tables
from pipeline.density.calibration_value import Calibration
from pipeline.density.hip import measure_hip
from pipeline.segmentation.model import Femur, FemurLandmarks, Segmentation
from pipeline.volume import Acquisition, Grid, Volume

REGIONS = ("total_hip", "femoral_neck")
PARTS = ("place", "image", "marrow", "calibration", "all")
_GOAL_G_CM2 = 0.02
_GOAL_T = 0.2
_FINE_MM = 0.75
_TURNS = ("flexion", "adduction", "rotation")


@dataclass(frozen=True)
class Case:
    """One hip: `options` make the phantom, `scan` its image, `turned` (LPS axis, degrees) how it lies."""

    name: str
    options: dict[str, Any]
    scan: dict[str, float]
    turned: tuple[int, float] | None = None


def hips() -> list[Case]:
    """Pose, slices, pixels, noise, tube voltage, density, body fat, sex; each alone."""
    cases = []
    for scale, age in ((1.0, 58), (0.6, 80)):
        base = {"sex": "F", "age_years": age, "hip_density_scale": scale}
        name = "dense" if scale == 1.0 else "sparse"
        cases.append(Case(f"{name}, usual", base, {}))
        cases += [Case(f"{name}, {mm:g} mm slices", base, {"slice_mm": mm}) for mm in (0.75, 3.0, 5.0)]
        cases.append(Case(f"{name}, 0.5 mm pixels", base, {"pixel_mm": 0.5}))
        cases.append(Case(f"{name}, a fifth of the dose", base, {"dose": 0.2}))
        cases += [Case(f"{name}, {kvp:.0f} kVp", base, {"kvp": kvp}) for kvp in (80.0, 100.0, 140.0)]
        for axis, what in enumerate(_TURNS):
            cases += [Case(f"{name}, {what} {a:+.0f} degrees", base, {}, (axis, a)) for a in (-10.0, 10.0)]
        cases.append(Case(f"{name}, 50 mm of fat", base | {"fat_mm": 50.0}, {"dose": 0.5}))
        cases.append(Case(f"{name}, man", base | {"sex": "M"}, {}))
    return cases


def posed_hips() -> list[Case]:
    """Hips over pose and slice thickness, dense and sparse: each pose at 1.5 mm, each thickness upright, and two of both."""
    cases = []
    for scale, age in ((1.0, 58), (0.6, 80)):
        base = {"sex": "F", "age_years": age, "hip_density_scale": scale}
        name = "dense" if scale == 1.0 else "sparse"
        poses = [(axis, angle) for axis, largest in ((0, 10.0), (1, 10.0), (2, 30.0)) for angle in (-largest, largest)]
        chosen: list[tuple[float, tuple[int, float] | None]] = [(mm, None) for mm in (0.75, 1.5, 3.0, 5.0)]
        chosen += [(1.5, pose) for pose in poses] + [(3.0, (2, 30.0)), (5.0, (0, -10.0))]
        for slice_mm, pose in chosen:
            lies = "upright" if pose is None else f"{_TURNS[pose[0]]} {pose[1]:+.0f} degrees"
            cases.append(Case(f"{name}, {lies}, {slice_mm:g} mm slices", base, {"slice_mm": slice_mm}, pose))
    return cases


@dataclass(frozen=True)
class KnownMarrow:
    """Materials whose marrow all reads one density; the texture of soft tissue stays."""

    materials: Materials
    marrow: frozenset[str]
    marrow_hu: float
    texture_gain: float = 1.0

    def hu(self, material: str) -> float:
        return self.marrow_hu if material in self.marrow else self.materials.hu(material)

    def hu_per_mineral(self, mineral: str) -> float:
        return self.materials.hu_per_mineral(mineral)


def with_marrow(
    phantom: Phantom, lattice: Lattice, materials: Materials, marrow_mg_cm3: float, *, sigma_hu: float
) -> NDArray[np.float32]:
    """The image of a phantom all of whose marrow reads one density on the true line; float32 ndarray of shape (Z, Y, X), HU."""
    bones = frozenset(
        name for s in phantom.solids if s.rind == "bone_matrix" for name in (s.matrix, s.other_matrix or s.matrix)
    )
    known = KnownMarrow(materials, bones, marrow_mg_cm3 * materials.hu_per_mg_cm3)
    exact, _ = render(phantom.solids, lattice, known, background=phantom.background, seed=phantom.seed, threads=1)  # type: ignore[arg-type]
    seen = form_image(exact, lattice.spacing_mm, kernel="standard", sigma_hu=sigma_hu, seed=phantom.seed)
    return np.asarray(seen, np.float32)


def turned_lattice(lattice: Lattice, phantom: Phantom, turned: tuple[int, float] | None) -> Lattice:
    """The lattice turned about the middle of the phantom: the patient lies askew."""
    if turned is None:
        return lattice
    axis, angle = turned
    i, j = (k for k in range(3) if k != axis)
    turn = np.eye(3)
    turn[[i, i, j, j], [i, j, i, j]] = np.cos(a := np.radians(angle)), -np.sin(a), np.sin(a), np.cos(a)
    middle = (phantom.low_mm + phantom.high_mm) / 2
    matrix = lattice.index_to_lps.copy()
    matrix[:3, :3] = turn @ matrix[:3, :3]
    matrix[:3, 3] = middle + turn @ (matrix[:3, 3] - middle)
    return Lattice(lattice.shape, matrix)


def femur_of(true: FemurTruth) -> Femur:
    """The femur as a perfect segmentation would find it."""
    marks = FemurLandmarks(
        head_centre_lps_mm=np.array(true.head_centre_lps_mm),
        head_radius_mm=true.head_radius_mm,
        neck_centre_lps_mm=np.array(true.neck_centre_lps_mm),
        neck_axis_lps=np.array(true.neck_axis_lps),
        shaft_axis_lps=np.array(true.shaft_axis_lps),
        lesser_trochanter_lps_mm=np.array(true.lesser_trochanter_lps_mm),
        lesser_trochanter_lower_edge_lps_mm=np.array(true.lesser_trochanter_lower_edge_lps_mm),
    )
    return Femur(true.name, true.side, true.label, marks, 1.0)


def true_line(gain_hu: float, kvp: float) -> Calibration:
    """The line of the phantom's own scanner, without any error."""
    return Calibration(1.0 / gain_hu, 0.0, "K2HPO4", np.zeros((2, 2)), 0.0, "true", "phantom", kvp, "the phantom's own")


@dataclass(frozen=True)
class Outcome:
    """Errors of one hip by region and part, stated uncertainty, and the shares of draws within 1 and 1.96 of it."""

    case: str
    errors_g_cm2: dict[str, dict[str, float]]
    stated_g_cm2: dict[str, float]
    within: dict[str, tuple[float, float]]


def examine(case: Case, *, draws: int) -> Outcome:
    """Measure one hip in steps from its mineral to the whole chain."""
    phantom = make_phantom("hip", seed=61, side="left", **case.options)
    scan = {"kvp": 120.0, "slice_mm": 1.5, "pixel_mm": 0.9, "dose": 1.0} | case.scan
    kvp, slice_mm = scan["kvp"], scan["slice_mm"]
    lattice = turned_lattice(phantom.lattice(pixel_mm=scan["pixel_mm"], spacing_mm=slice_mm), phantom, case.turned)
    image = phantom.image(kvp, slice_mm=slice_mm, dose=scan["dose"], lattice=lattice)
    true = phantom.truth(image).femora[0]
    materials = phantom.materials(kvp)
    line = true_line(materials.hu_per_mg_cm3, kvp)
    femur, tissue = femur_of(true), tables.number("hip.bone_tissue_mg_cm3")
    marrow = tables.number("hip.marrow_mg_cm3")

    def measured(
        hu: NDArray[Any], labels: NDArray[np.uint8], grid: Grid, how: Callable[[Volume, Segmentation], Calibration]
    ) -> tuple[dict[str, float], dict[str, float], Calibration]:
        volume = Volume(hu, grid, Acquisition(kvp=kvp))
        segmentation = Segmentation(labels, grid, femora=(femur,))
        calibration = how(volume, segmentation)
        hip = measure_hip(volume, segmentation, femur, calibration)
        found = {r: hip.abmd_g_cm2[r] for r in REGIONS}
        return {r: q.value for r, q in found.items()}, {r: q.uncertainty or 0.0 for r, q in found.items()}, calibration

    grid = Grid(image.hu.shape, lattice.index_to_lps)
    # Place: mineral alone on a fine lattice, on a scale on which nothing has to be taken off.
    fine = _around(phantom, true)
    alone = [solid for solid in phantom.solids if solid.label == true.label]
    mineral, labels = render(alone, fine, Materials.mineral_only(), background=None, seed=phantom.seed, threads=1)
    scaled = mineral * ((tissue - marrow) / tissue)
    placed, _, _ = measured(
        np.where(labels == true.label, scaled + marrow, scaled).astype(np.float32),
        labels,
        Grid(labels.shape, fine.index_to_lps),
        lambda _v, _s: true_line(1.0, kvp),
    )
    # Image: every marrow reads what is taken off for it. That mineral takes the place of marrow, as the rule has it, the
    # phantom does not know, nor that bone tissue is more than its mineral: some -0.015 and +0.02 g/cm2 of this part.
    sigma = noise_hu(scan["dose"], kvp, slice_mm, "standard")
    seen = with_marrow(phantom, lattice, materials, marrow, sigma_hu=sigma)
    imaged, _, _ = measured(seen, image.labels, grid, lambda _v, _s: line)
    own, _, _ = measured(image.hu, image.labels, grid, lambda _v, _s: line)
    whole, stated, calibration = measured(image.hu, image.labels, grid, calibrate)
    truth = {r: true.abmd[r].abmd_g_cm2 for r in REGIONS}
    errors = {
        r: {
            "place": placed[r] - truth[r],
            "image": imaged[r] - placed[r],
            "marrow": own[r] - imaged[r],
            "calibration": whole[r] - own[r],
            "all": whole[r] - truth[r],
        }
        for r in REGIONS
    }
    within = _coverage(replace(calibration, slope_mg_cm3_per_hu=line.slope_mg_cm3_per_hu, intercept_mg_cm3=0.0),
                       lambda c: measured(image.hu, image.labels, grid, lambda _v, _s: c)[:2], truth, draws)  # fmt: skip
    return Outcome(case.name, errors, stated, within)


def _around(phantom: Phantom, true: FemurTruth) -> Lattice:
    """A fine lattice round one proximal femur."""
    centre = np.array(true.neck_centre_lps_mm) * 0.5 + np.array(true.lesser_trochanter_lower_edge_lps_mm) * 0.5
    low = np.maximum(centre - np.array([70.0, 60.0, 75.0]), phantom.low_mm)
    high = np.minimum(centre + np.array([70.0, 60.0, 85.0]), phantom.high_mm)
    return Lattice.upright(low, high, (_FINE_MM, _FINE_MM, _FINE_MM))


def _coverage(
    stated_line: Calibration,
    measured: Callable[[Calibration], tuple[dict[str, float], dict[str, float]]],
    truth: dict[str, float],
    draws: int,
) -> dict[str, tuple[float, float]]:
    """Shares of lines, drawn about the true one as the calibration says it may err, whose interval holds the truth."""
    ratios: dict[str, list[float]] = {r: [] for r in REGIONS}
    for slope, intercept in stated_line.draws(draws, seed=7):
        drawn = replace(stated_line, slope_mg_cm3_per_hu=float(slope), intercept_mg_cm3=float(intercept))
        values, uncertainties = measured(drawn)
        for r in REGIONS:
            ratios[r].append(abs(values[r] - truth[r]) / max(uncertainties[r], 1e-9))
    return {
        r: (float(np.mean(np.array(v) <= 1.0)), float(np.mean(np.array(v) <= 1.96))) for r, v in ratios.items() if v
    }


def report(outcomes: list[Outcome]) -> str:
    """Errors of each hip in thousandths of g/cm2, then bias, standard deviation and worst of each part, in Markdown."""
    lines = []
    for region in REGIONS:
        name = region.replace("_", " ")
        lines += [f"**{name}**, errors in 0.001 g/cm2", "", "| hip | " + " | ".join(PARTS) + " | stated u |"]
        lines += ["| --- |" + " --- |" * (len(PARTS) + 1)]
        for o in outcomes:
            values = " | ".join(f"{1000 * o.errors_g_cm2[region][part]:+.0f}" for part in PARTS)
            lines.append(f"| {o.case} | {values} | {1000 * o.stated_g_cm2[region]:.0f} |")
        table = {part: np.array([o.errors_g_cm2[region][part] for o in outcomes]) for part in PARTS}
        for label, of in (("mean", np.mean), ("standard deviation", np.std)):
            lines.append(f"| **{label}** | " + " | ".join(f"{1000 * of(table[p]):+.0f}" for p in PARTS) + " | |")
        own = table["place"] + table["image"]
        lines += ["", f"true line and known marrow: {np.mean(np.abs(own) <= _GOAL_G_CM2):.0%} of {len(own)} hips within "
                      f"{_GOAL_G_CM2} g/cm2, worst {own[np.abs(own).argmax()]:+.3f}"]  # fmt: skip
        drawn = [o.within[region] for o in outcomes if region in o.within]
        if drawn:
            one, two = np.mean(drawn, axis=0)
            lines.append(f"lines drawn about the true one: {one:.0%} within u, {two:.0%} within 1.96 u")
        lines.append("")
    return "\n".join(lines)


def against_projection(outcomes: list[Outcome]) -> str:
    """Errors against the phantom's own mineral along the rays of a posed femur, by what is known, in Markdown."""
    known = {
        "true line, marrow reads what is taken off": ("place", "image"),
        "true line, marrow of this person": ("place", "image", "marrow"),
        "line found in the image, marrow of this person": ("all",),
    }
    lines = [
        f"Against the projection of the phantom's own mineral, {len(outcomes)} hips over pose and slice thickness; goal "
        f"{_GOAL_G_CM2} g/cm2 and {_GOAL_T} of a T-score:", "",
        "| | aBMD: bias | SD | worst | within goal | T-score: SD | worst | within goal |", "| --- |" + " --- |" * 7,
    ]  # fmt: skip
    for region in REGIONS:
        _, sd = tables.numbers(f"nhanes3_white_women_20_29.{region}")
        for name, parts in known.items():
            e = np.array([sum(o.errors_g_cm2[region][part] for part in parts) for o in outcomes])
            worst = e[np.abs(e).argmax()]
            lines.append(
                f"| {region.replace('_', ' ')}, {name} | {e.mean():+.3f} | {e.std():.3f} | {worst:+.3f} | "
                f"{np.mean(np.abs(e) <= _GOAL_G_CM2):.0%} | {e.std() / sd:.2f} | {worst / sd:+.2f} | "
                f"{np.mean(np.abs(e) / sd <= _GOAL_T):.0%} |"
            )
    lines += ["", "| hip | " + " | ".join(f"{r.replace('_', ' ')}, {n}" for r in REGIONS for n in known) + " |"]
    lines += ["| --- |" + " --- |" * (len(REGIONS) * len(known))]
    for o in outcomes:
        cells = [sum(o.errors_g_cm2[r][part] for part in parts) for r in REGIONS for parts in known.values()]
        lines.append(f"| {o.case} | " + " | ".join(f"{cell:+.3f}" for cell in cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the cases and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, help="so many cases, evenly picked")
    parser.add_argument("--draws", type=int, default=8, help="lines drawn for each hip")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    chosen = hips()
    if options.count is not None and options.count < len(chosen):
        chosen = [chosen[round(n)] for n in np.linspace(0, len(chosen) - 1, options.count)]
    outcomes = []
    for number, case in enumerate(chosen, start=1):
        outcomes.append(examine(case, draws=options.draws))
        print(f"{number}/{len(chosen)} {case.name}", flush=True)
    print("\n" + report(outcomes))
    if options.json is not None:
        options.json.write_text(json.dumps([o.__dict__ for o in outcomes], indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
