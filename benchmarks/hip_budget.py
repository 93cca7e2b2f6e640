"""Whether the stated uncertainty of areal density of the hip is as large as it should be, as a whole and part by part.

    python -m benchmarks.hip_budget [--count N] [--draws N] [--json FILE]

Phantom hips with true masks and landmarks, in which everything that the budget states is drawn as it states it: the line of the
scanner from the error that the calibration found in the image claims; marrow of one reading per hip from the published
distribution of people; rotation and flexion with the tolerance as standard deviation; the outline of the mask evenly within
half a voxel; the lower limit of the total hip by what its place is not known to; the edge of the shadow evenly within its
range; noise. First one at a time, which sets the spread that each part brings about beside what is stated for it, then all
together against the phantom's own mineral: the share of hips whose 95 % interval holds the truth should be 90 to 98 %.

A part that rests on evidence from patients (the line) is drawn as stated and cannot be tested by phantoms: what phantoms
say of it is in `benchmarks.calibration_coverage`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from scipy.stats import norm

from benchmarks.hip_parts import REGIONS, Case, femur_of, hips, true_line, turned_lattice, with_marrow
from phantoms.image import form_image, noise_hu
from phantoms.kinds import make_phantom
from pipeline.density import calibrate, tables
from pipeline.density.calibration_value import Calibration
from pipeline.density.hip import HipDensity, measure_hip
from pipeline.density.hip_regions import REGION_LABEL, silhouette, with_tails
from pipeline.segmentation.model import Femur, Segmentation
from pipeline.volume import Acquisition, Grid, Volume

PARTS = ("calibration", "marrow", "pose", "placement", "boundary", "bone_edge", "noise")
_STEP_MG_CM3 = 100.0


@dataclass(frozen=True)
class Hip:
    """One imaged hip: what can be drawn of it, and its true areal density by region.

    `plain_hu` has the mean marrow of people and no noise, `marrow_hu` is what one mg/cm3 more of marrow adds to it.
    """

    name: str
    plain_hu: NDArray[np.float32]
    marrow_hu: NDArray[np.float32]
    sigma_hu: float
    outside_mm: NDArray[np.float32]
    grid: Grid
    femur: Femur
    line: Calibration
    stated: Calibration
    truth_g_cm2: dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """Of one hip by region: stated parts, spread of each part drawn alone, errors and stated uncertainties with all drawn."""

    hip: str
    stated_g_cm2: dict[str, dict[str, float]]
    spread_g_cm2: dict[str, dict[str, float]]
    errors_g_cm2: dict[str, list[float]]
    uncertainties_g_cm2: dict[str, list[float]]


def imaged(case: Case) -> Hip:
    """Image one hip of `benchmarks.hip_parts` so that its marrow and noise can be drawn."""
    phantom = make_phantom("hip", seed=61, side="left", **case.options)
    scan = {"kvp": 120.0, "slice_mm": 1.5, "pixel_mm": 0.9, "dose": 1.0} | case.scan
    lattice = turned_lattice(
        phantom.lattice(pixel_mm=scan["pixel_mm"], spacing_mm=scan["slice_mm"]), phantom, case.turned
    )
    image = phantom.image(scan["kvp"], slice_mm=scan["slice_mm"], dose=scan["dose"], lattice=lattice)
    true, materials = phantom.truth(image).femora[0], phantom.materials(scan["kvp"])
    grid, femur, mean = Grid(image.hu.shape, lattice.index_to_lps), femur_of(true), tables.number("hip.marrow_mg_cm3")
    plain, more = (with_marrow(phantom, lattice, materials, m, sigma_hu=0.0) for m in (mean, mean + _STEP_MG_CM3))
    volume = Volume(image.hu, grid, Acquisition(kvp=scan["kvp"]))
    found = calibrate(volume, Segmentation(image.labels, grid, femora=(femur,)))
    line = true_line(materials.hu_per_mg_cm3, scan["kvp"])
    mask = image.labels == femur.label
    # Finer than voxels: a plane edge under a Gaussian is an error function of the distance to it.
    width_mm = float(np.mean(lattice.spacing_mm))
    share = ndimage.gaussian_filter(mask.astype(np.float32), [width_mm / s for s in lattice.spacing_mm])
    outside = -width_mm * norm.ppf(np.clip(share, 1e-6, 1 - 1e-6))
    return Hip(
        name=case.name,
        plain_hu=plain,
        marrow_hu=(more - plain) / _STEP_MG_CM3,
        sigma_hu=noise_hu(scan["dose"], scan["kvp"], scan["slice_mm"], "standard"),
        outside_mm=outside.astype(np.float32),
        grid=grid,
        femur=femur,
        line=line,
        stated=replace(found, slope_mg_cm3_per_hu=line.slope_mg_cm3_per_hu, intercept_mg_cm3=line.intercept_mg_cm3),
        truth_g_cm2={region: true.abmd[region].abmd_g_cm2 for region in REGIONS},
    )


def drawn(hip: Hip, parts: frozenset[str], seed: int) -> HipDensity:
    """The hip measured with the named parts drawn and the others as they are; the edge of the shadow is left to `values`."""
    rng = np.random.default_rng([seed, 11])
    slope, intercept = hip.stated.draws(1, seed=seed)[0]
    marrow, angles = tables.number("hip.marrow_sd_mg_cm3") * rng.standard_normal(), rng.standard_normal(2)
    offset_mm = 0.5 * float(np.cbrt(np.prod(hip.grid.spacing_mm))) * rng.uniform(-1.0, 1.0)
    hu = hip.plain_hu.copy()
    if "marrow" in parts:
        hu += marrow * hip.marrow_hu
    if "noise" in parts:
        still = np.zeros_like(hu)
        hu += form_image(still, hip.grid.spacing_mm, kernel="standard", sigma_hu=hip.sigma_hu, seed=seed)
    inside = hip.outside_mm < (offset_mm if "boundary" in parts else 0.0)
    labels = np.where(inside, hip.femur.label, 0).astype(np.uint8)
    femur = hip.femur
    if "pose" in parts:
        femur = _turned(femur, *(tables.number("hip.pose_tolerance_deg") * angles))
    if "placement" in parts:
        off_mm = float(np.hypot(tables.number("hip.placement_mm"), hip.grid.spacing_mm[0] / 2))
        femur = _lowered(femur, off_mm * rng.standard_normal())
    line = hip.stated
    if "calibration" in parts:
        line = replace(line, slope_mg_cm3_per_hu=float(slope), intercept_mg_cm3=float(intercept))
    volume = Volume(hu, hip.grid, Acquisition(kvp=hip.line.kvp))
    return measure_hip(volume, Segmentation(labels, hip.grid, femora=(femur,)), femur, line)


def _turned(femur: Femur, rotation_deg: float, flexion_deg: float) -> Femur:
    """The femur with landmarks that think it turned about its shaft, and about the axis across it."""
    marks = femur.landmarks
    assert marks is not None and marks.shaft_axis_lps is not None and marks.neck_axis_lps is not None
    shaft = marks.shaft_axis_lps
    across = marks.neck_axis_lps - shaft * float(shaft @ marks.neck_axis_lps)
    across /= np.linalg.norm(across)
    turn = Rotation.from_rotvec(np.radians(flexion_deg) * across) * Rotation.from_rotvec(
        np.radians(rotation_deg) * shaft
    )
    return replace(
        femur,
        landmarks=replace(marks, shaft_axis_lps=turn.apply(shaft), neck_axis_lps=turn.apply(marks.neck_axis_lps)),
    )


def _lowered(femur: Femur, down_mm: float) -> Femur:
    """The femur with its lesser trochanter found so far down the shaft from where it is."""
    marks = femur.landmarks
    assert marks is not None and marks.shaft_axis_lps is not None
    step = down_mm * marks.shaft_axis_lps
    tip, edge = marks.lesser_trochanter_lps_mm, marks.lesser_trochanter_lower_edge_lps_mm
    assert tip is not None and edge is not None
    return replace(
        femur,
        landmarks=replace(marks, lesser_trochanter_lps_mm=tip + step, lesser_trochanter_lower_edge_lps_mm=edge + step),
    )


def values(hip: HipDensity, *, share: float | None = None) -> dict[str, float]:
    """Areal densities of a measured hip, with the edge of the shadow at another share of what it reaches nearby."""
    found = {region: hip.abmd_g_cm2[region].value for region in REGIONS}
    if share is None:
        return found
    tails, wide = with_tails(hip.region_labels), silhouette(hip.image_g_cm2, share=share)
    usual = silhouette(hip.image_g_cm2)
    for region in REGIONS:
        wanted = list(REGION_LABEL.values()) if region == "total_hip" else [REGION_LABEL[region]]
        mine = np.isin(tails, wanted)
        found[region] *= float((mine & usual).sum()) / float((mine & wide).sum())
    return found


def _share(seed: int) -> float:
    spread = tables.number("hip.bone_edge_share_spread")
    return tables.number("hip.bone_edge_share") + spread * np.random.default_rng([seed, 12]).uniform(-1.0, 1.0)


def examine(case: Case, *, draws: int, first_seed: int = 0) -> Outcome:
    """Draw each part alone `draws` times, then all of them three times as often; each hip should have seeds of its own."""
    hip = imaged(case)
    seeds = range(first_seed, first_seed + draws)
    still = drawn(hip, frozenset(), 0)
    stated = {r: {part: still.abmd_g_cm2[r].components.get(part, 0.0) for part in PARTS} for r in REGIONS}
    spread: dict[str, dict[str, float]] = {r: {} for r in REGIONS}
    for part in PARTS:
        if part == "bone_edge":
            found = [values(still, share=_share(seed)) for seed in seeds]
        else:
            found = [values(drawn(hip, frozenset([part]), seed)) for seed in seeds]
        for r in REGIONS:
            spread[r][part] = float(np.std([v[r] for v in found], ddof=1))
    errors: dict[str, list[float]] = {r: [] for r in REGIONS}
    uncertainties: dict[str, list[float]] = {r: [] for r in REGIONS}
    for seed in range(first_seed + draws, first_seed + 4 * draws):
        measured = drawn(hip, frozenset(PARTS), seed)
        for r, value in values(measured, share=_share(seed)).items():
            errors[r].append(value - hip.truth_g_cm2[r])
            uncertainties[r].append(measured.abmd_g_cm2[r].uncertainty or 0.0)
    return Outcome(case.name, stated, spread, errors, uncertainties)


def report(outcomes: list[Outcome]) -> str:
    """Stated against drawn by part, then coverage with all drawn, in Markdown."""
    lines = []
    for region in REGIONS:
        lines += [f"**{region.replace('_', ' ')}**, in 0.001 g/cm2", ""]
        lines += ["| | " + " | ".join(PARTS) + " |", "| --- |" + " --- |" * len(PARTS)]
        for label, of in (
            ("stated", [o.stated_g_cm2 for o in outcomes]),
            ("drawn", [o.spread_g_cm2 for o in outcomes]),
        ):
            mean = [1000 * float(np.sqrt(np.mean([row[region][part] ** 2 for row in of]))) for part in PARTS]
            lines.append(f"| {label} | " + " | ".join(f"{value:.1f}" for value in mean) + " |")
        errors = np.concatenate([o.errors_g_cm2[region] for o in outcomes])
        stated = np.concatenate([o.uncertainties_g_cm2[region] for o in outcomes])
        ratio = np.abs(errors) / stated
        lines += [
            "",
            f"all drawn, {len(errors)} times: bias {errors.mean():+.3f}, SD {errors.std(ddof=1):.3f}, "
            f"stated {np.sqrt(np.mean(stated**2)):.3f} g/cm2; the truth lay within u in {np.mean(ratio <= 1.0):.0%}, "
            f"within 1.96 u in {np.mean(ratio <= 1.96):.0%}",
            "",
        ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the cases and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, help="so many cases, evenly picked")
    parser.add_argument(
        "--draws", type=int, default=8, help="draws of each part for each hip; three times as many of all"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    chosen = hips()
    if options.count is not None and options.count < len(chosen):
        chosen = [chosen[round(n)] for n in np.linspace(0, len(chosen) - 1, options.count)]
    outcomes = []
    for number, case in enumerate(chosen, start=1):
        outcomes.append(examine(case, draws=options.draws, first_seed=4 * options.draws * number))
        print(f"{number}/{len(chosen)} {case.name}", flush=True)
    print("\n" + report(outcomes))
    if options.json is not None:
        options.json.write_text(json.dumps([o.__dict__ for o in outcomes], indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
