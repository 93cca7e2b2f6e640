"""Image quality of the simulated scanner, both modes: resolution, noise, CT numbers by tube voltage and size of the body.

    python -m benchmarks.ct_image_quality [--json FILE] [--figure FILE.png]

Prints three tables. Everything is measured on images the way a physicist measures a scanner: an edge for the modulation
transfer function, differences of neighbouring slices of a water cylinder for the noise power spectrum, rods in water
for the CT numbers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phantoms import Phantom
from phantoms.beam import Beam
from phantoms.image import KERNELS
from phantoms.materials import Materials, mixture
from phantoms.solids import Solid, round_cone
from phantoms.voxelise import Lattice

MODES = ("fast", "projections")
VOLTAGES = (80, 100, 120, 140)
RODS_MG_CM3 = (50.0, 100.0, 200.0, 400.0)
TISSUES = ("adipose", "muscle", "polymethylmethacrylate")


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args(arguments)
    result: dict[str, Any] = {"resolution": [], "noise": [], "ct_numbers": []}
    print("| kernel | mode | MTF 50 %, per mm | MTF 10 %, per mm |\n| --- | --- | --- | --- |")
    for kernel in KERNELS:
        for mode in MODES:
            frequency, transfer = modulation_transfer(mode, kernel)
            half, tenth = (_crossing(frequency, transfer, level) for level in (0.5, 0.1))
            print(f"| {kernel} | {mode} | {half:.2f} | {tenth:.2f} |")
            curve = {"frequency_per_mm": frequency.tolist(), "transfer": transfer.tolist()}
            result["resolution"].append({"kernel": kernel, "mode": mode, "mtf50": half, "mtf10": tenth, **curve})
    print(
        "\n| kernel | mode | noise, HU | peak of the spectrum, per mm | its mean, per mm |\n| --- | --- | --- | --- | --- |"
    )
    for kernel in KERNELS:
        for mode in MODES:
            row = noise(mode, kernel, 300.0, 1.0)
            print(
                f"| {kernel} | {mode} | {row['noise_hu']:.1f} | {row['peak_per_mm']:.2f} | {row['mean_per_mm']:.2f} |"
            )
            result["noise"].append(row)
    print(
        "\n| kVp | water, mm | mode | HU per mg/cm3 K2HPO4 | worst deviation from the line, HU | theory | HU per mg/cm3 iodine "
        "| adipose | muscle | PMMA |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for kvp in VOLTAGES:
        for diameter in (200.0, 320.0):
            for mode in MODES:
                row = ct_numbers(mode, kvp, diameter)
                result["ct_numbers"].append(row)
                tissues = " | ".join(f"{row[t]:.0f}" for t in TISSUES)
                print(
                    f"| {kvp} | {diameter:.0f} | {mode} | {row['slope']:.3f} | {row['nonlinearity_hu']:.1f} | "
                    f"{row['theory']:.3f} | {row['iodine']:.1f} | {tissues} |"
                )
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    if options.figure is not None:
        draw(result, options.figure)
    return 0


def rod(x_mm: float, y_mm: float, radius_mm: float, material: str) -> Solid:
    """A rod along the table."""
    return Solid("rod", (round_cone((x_mm, y_mm, -500), (x_mm, y_mm, 500), radius_mm),), material)


def imaged(solids: tuple[Solid, ...], lattice: Lattice, mode: str, **options: Any) -> NDArray[np.float64]:
    """HU of rods in air."""
    size = np.array([100.0, 100.0, 100.0])
    thing = Phantom("rods in water", 1, {}, solids, -size, size, lambda *_: {})
    options = {"slice_mm": lattice.spacing_mm[0], "kvp": 120.0, "dose": 0.0, "threads": 1} | options
    return np.asarray(thing.image(lattice=lattice, mode=mode, **options).hu, float)


def _square(half_mm: float, pixel_mm: float, *, count: int = 1, step_mm: float = 0.7) -> Lattice:
    low, high = np.array([-half_mm, -half_mm, 0.0]), np.array([half_mm, half_mm, count * step_mm])
    return Lattice.upright(low, high, (step_mm, pixel_mm, pixel_mm))


def _distance(lattice: Lattice, x_mm: float, y_mm: float) -> NDArray[np.float64]:
    _, rows, columns = lattice.shape
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    points = lattice.to_lps(np.stack([np.zeros_like(row), row, column], axis=-1))
    return np.asarray(np.hypot(points[..., 0] - x_mm, points[..., 1] - y_mm))


def modulation_transfer(mode: str, kernel: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Frequency (per mm) and modulation transfer function, from the edge of a rod in water (radial edge method)."""
    lattice = _square(32.0, 0.25)
    x, y, radius = 3.3, -2.1, 20.0
    solution = mixture(k2hpo4=0.2, water=1 - 0.2 * 0.2174)
    image = imaged((rod(0, 0, 60.0, "water"), rod(x, y, radius, solution)), lattice, mode, kernel=kernel)[0]
    beyond = _distance(lattice, x, y) - radius
    bins = np.arange(-8.0, 8.0001, 0.1)
    near = np.abs(beyond) < 8.0
    number = np.digitize(beyond[near], bins) - 1
    edge = np.bincount(number, image[near], len(bins) - 1) / np.bincount(number, minlength=len(bins) - 1)
    line = -np.diff(edge)
    transfer = np.abs(np.fft.rfft(line, 2048))
    frequency = np.fft.rfftfreq(2048, 0.1)
    # The object has a sharp edge, the bins of 0.1 mm and their difference blur a little.
    transfer = transfer / transfer[0] / np.maximum(np.sinc(frequency * 0.1) ** 2, 0.1)
    keep = frequency <= 1.6
    return np.asarray(frequency[keep]), np.asarray(transfer[keep])


def _crossing(frequency: NDArray[np.float64], transfer: NDArray[np.float64], level: float) -> float:
    below = int(np.argmax(transfer < level))
    a, b = transfer[below - 1], transfer[below]
    return float(frequency[below - 1] + (a - level) / (a - b) * (frequency[below] - frequency[below - 1]))


def noise(mode: str, kernel: str, diameter_mm: float, dose: float) -> dict[str, Any]:
    """Standard deviation and radial power spectrum of the noise in the middle of a water cylinder, slices of 2.1 mm."""
    size, pixel = 96, 0.7
    lattice = _square(size * pixel / 2, pixel, count=7, step_mm=2.1)
    image = imaged((rod(0, 0, diameter_mm / 2, "water"),), lattice, mode, kernel=kernel, dose=dose)
    part = np.diff(image, axis=0) / np.sqrt(2.0)
    power = (np.abs(np.fft.fft2(part - part.mean(axis=(1, 2), keepdims=True))) ** 2).mean(axis=0)
    power *= pixel**2 / (part.shape[1] * part.shape[2])
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(part.shape[1], pixel), np.fft.fftfreq(part.shape[2], pixel)))
    edges = np.arange(0.0, 0.71, 0.035)
    profile = np.array([power[(radius >= a) & (radius < a + 0.035)].mean() for a in edges[:-1]])
    middle = edges[:-1] + 0.0175
    return {
        "mode": mode,
        "kernel": kernel,
        "diameter_mm": diameter_mm,
        "dose": dose,
        "noise_hu": float(part.std()),
        "peak_per_mm": float(middle[int(np.argmax(profile))]),
        "mean_per_mm": float((profile * middle**2).sum() / (profile * middle).sum()),
        "frequency_per_mm": middle.tolist(),
        "power_hu2_mm2": profile.tolist(),
    }


def ct_numbers(mode: str, kvp: int, diameter_mm: float) -> dict[str, Any]:
    """Rods of K2HPO4 in water (slope and worst deviation from the line through zero), iodine and tissues."""
    solutions = [mixture(k2hpo4=rho / 1000, water=1 - rho / 1000 * 0.2174) for rho in RODS_MG_CM3]
    materials = [*solutions, mixture(iodine=0.005, water=1.0), *TISSUES]
    angles = np.arange(len(materials)) * 2 * np.pi / len(materials)
    places = [(55.0 * np.cos(a), 55.0 * np.sin(a)) for a in angles]
    lattice = _square(75.0, 1.0, step_mm=0.7)
    solids = (
        rod(0, 0, diameter_mm / 2, "water"),
        *(rod(x, y, 9.0, m) for m, (x, y) in zip(materials, places, strict=True)),
    )
    image = imaged(solids, lattice, mode, kvp=float(kvp), kernel="soft")[0]
    read = [float(image[_distance(lattice, x, y) < 5.5].mean()) for x, y in places]
    density, hu = np.array(RODS_MG_CM3), np.array(read[: len(RODS_MG_CM3)])
    slope = float(density[:3] @ hu[:3] / (density[:3] @ density[:3]))
    theory = Materials.at(kvp, quality=Beam.at(kvp).quality_behind_water(diameter_mm))
    return {
        "mode": mode,
        "kvp": kvp,
        "diameter_mm": diameter_mm,
        "density_mg_cm3": density.tolist(),
        "hu": hu.tolist(),
        "slope": slope,
        "nonlinearity_hu": float(np.abs(hu - slope * density).max()),
        "theory": theory.hu_per_mg_cm3,
        "iodine": read[len(RODS_MG_CM3)] / 5.0,
        **dict(zip(TISSUES, read[len(RODS_MG_CM3) + 1 :], strict=True)),
    }


def draw(result: dict[str, Any], path: Path) -> None:
    """Three panels: modulation transfer, noise power, CT numbers."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.2), dpi=80, facecolor="white")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    colours = dict(zip(KERNELS, ("tab:blue", "tab:green", "tab:red"), strict=True))
    style = {"fast": "--", "projections": "-"}
    for row in result["resolution"]:
        label = row["kernel"] if row["mode"] == "projections" else None
        left.plot(
            row["frequency_per_mm"], row["transfer"], style[row["mode"]], color=colours[row["kernel"]], label=label
        )
    left.set(xlabel="spatial frequency, per mm", ylabel="modulation transfer", ylim=(0, 1.05), xlim=(0, 1.4))
    left.legend(frameon=False, title="projections (full), fast (dashed)")
    for row in result["noise"]:
        power = np.array(row["power_hu2_mm2"])
        middle.plot(
            row["frequency_per_mm"], power / power.max(), style[row["mode"]], color=colours[row["kernel"]],
        )  # fmt: skip
    middle.set(xlabel="spatial frequency, per mm", ylabel="noise power, relative", ylim=(0, 1.1))
    for row in result["ct_numbers"]:
        if row["mode"] == "projections":
            colour = f"C{VOLTAGES.index(row['kvp'])}"
            line = "-" if row["diameter_mm"] < 300 else ":"
            label = f"{row['kvp']} kVp" if row["diameter_mm"] < 300 else None
            right.plot(row["density_mg_cm3"], row["hu"], line, marker="o", color=colour, label=label, markersize=3)
    right.set(xlabel="K2HPO4 in water, mg/cm3", ylabel="HU (full: 20 cm, dotted: 32 cm of water)")
    right.legend(frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    raise SystemExit(main())
