"""The network beside the classical chain, on real scans.

    python -m training.measure --network network.onnx [--data DIR] [--only references ...] [--json FILE] [--pictures FOLDER]

Prints Markdown tables. References come from networks or from a finite-element study, not from a person's drawing; where
there is none, the network is compared with what the chain accepts, which is agreement and no more.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.segmentation_femur import above, full_mask, real_volume, surface_distance_mm, volume_of
from benchmarks.segmentation_spine import load
from benchmarks.segmentation_spine import perturbations as spine_perturbations
from pipeline.errors import Refusal, Status
from pipeline.segmentation.chain import segment
from pipeline.segmentation.femur.chain import FoundFemur, find_femora
from pipeline.segmentation.femur.landmarks import landmarks_from_mask
from pipeline.segmentation.masks import read_masks
from pipeline.segmentation.model import FemurLandmarks
from pipeline.segmentation.spine import SpineResult, segment_spine
from pipeline.volume import Grid, Volume
from training.apply import Found, apply_network, open_network
from training.patches import Target

Mask = NDArray[np.bool_]

_EXAMPLE = "ts_example_3mm"
_LUMBAR = {"L5": 27, "L4": 28, "L3": 29, "L2": 30, "L1": 31, "T12": 32}
_AGREEMENT_CASES = (
    _EXAMPLE,
    "ts_thorax_cta_1p5mm",
    "lidc0314_chest_1mm",
    "ricord001012_chest_1p25mm",
    "crlm1006_abdomen_5mm",
    "cptac00189_lungbases_5mm",
    "sts031_hip_right",
    "sts036_hip_left_truncated",
    "sts044_hip_right",
)
_SPINE_CHANGES = (
    "noise sd 100 HU",
    "bone contrast x 0.5",
    "bone contrast x 0.35",
    "6 mm slices",
    "axial rotation 30 deg",
    "cropped to L1-L5",
)


@dataclass(frozen=True)
class Outcome:
    """One structure by one method against one mask; Dice 0 where it was not found."""

    dice: float
    surface_mm: float | None
    volume_ratio: float | None
    status: str = ""

    @staticmethod
    def of(mask: Mask, reference: Mask, grid: Grid, status: str = "") -> Outcome:
        if not (mask & reference).any():
            return Outcome(0.0, None, None, status)
        total = int(mask.sum()) + int(reference.sum())
        overlap = 2.0 * float((mask & reference).sum()) / total
        return Outcome(overlap, surface_distance_mm(mask, reference, grid), float(mask.sum() / reference.sum()), status)

    def cells(self) -> str:
        if self.surface_mm is None or self.volume_ratio is None:
            return f"not found {self.status}".strip() + " | | "
        return (
            f"{self.dice:.3f} {self.status}".strip()
            + f" | {self.surface_mm:.2f} | {100 * (self.volume_ratio - 1):+.0f} %"
        )


def best_part(labels: NDArray, reference: Mask) -> Mask:
    """The part of a label map that holds most of the reference."""
    counts = np.bincount(labels[reference])
    counts[0] = 0
    return np.asarray(labels == int(counts.argmax())) if counts.any() else np.zeros(labels.shape, bool)


def body_of_chain(result: SpineResult, reference: Mask, grid: Grid) -> Outcome:
    """The body of the classical chain that lies on a reference."""
    mask = best_part(np.where(result.labels == 26, 0, result.labels), reference)
    number = int(result.labels[mask][0]) if mask.any() else 0
    status = next((v.status.value for v in result.vertebrae if v.label == number), "")
    return Outcome.of(mask, reference, grid, "(refused)" if status == Status.FAILED.value else "")


def femur_rows(session: Any, volume: Volume, references: dict[str, Mask]) -> Iterator[tuple[str, Outcome, Outcome]]:
    """Side, network, chain; all cut where the chain sees 40 mm below the lesser trochanter."""
    found = apply_network(session, volume).femora
    classical: dict[str, FoundFemur] = {f.femur.side: f for f in find_femora(volume, threads=2)[0]}
    empty = np.zeros(volume.shape, bool)
    for side, reference in references.items():
        own = classical.get(side)
        marks = own.femur.landmarks if own is not None else None
        known = above(reference, volume.grid, marks, 40.0)
        network = above(found.get(side, empty), volume.grid, marks, 40.0)
        chain = above(full_mask(own, volume.grid), volume.grid, marks, 40.0) if own is not None else empty
        refused = "(refused)" if own is not None and own.femur.status is Status.FAILED else ""
        yield side, Outcome.of(network, known, volume.grid), Outcome.of(chain, known, volume.grid, refused)


def reference_volumes(data: Path, vertebra: list[Path]) -> Iterator[tuple[str, Volume, dict[str, Mask]]]:
    """Title, volume and reference bodies by name."""
    folder = data / _EXAMPLE
    volume = volume_of(*load(folder / "ct.nii.gz"))
    whole, body = load(folder / "labels.nii.gz")[0], load(folder / "labels_body.nii.gz")[0] == 1
    yield _EXAMPLE, volume, {level: (whole == number) & body for level, number in _LUMBAR.items()}
    folder = data / "ts_thorax_cta_1p5mm"
    volume = volume_of(*load(folder / "ct.nii.gz"))
    outside = read_masks(folder / "labels.nii.gz", volume)
    yield folder.name, volume, {v.level or v.name: outside.mask(v) for v in outside.vertebrae}
    folder = data / "fe_vertebra_L4"
    volume = volume_of(*load(folder / "density_mg_cm3.nii.gz"))
    yield folder.name, volume, {"L4": load(folder / "labels.nii.gz")[0] == 20}
    if vertebra:
        image, parts, whole_file = vertebra
        volume = volume_of(*load(image))
        subregion, number = load(parts)[0], load(whole_file)[0]
        middle = int(np.bincount(number[np.isin(subregion, (49, 50))]).argmax())
        yield "labelled vertebra, 1.5 mm", volume, {"L3": np.isin(subregion, (49, 50)) & (number == middle)}


def run_references(session: Any, data: Path, vertebra: list[Path]) -> list[dict[str, Any]]:
    """Bodies and femora with a reference."""
    print("\n| case | structure | network: Dice | surface mm | volume | chain: Dice | surface mm | volume |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    rows: list[dict[str, Any]] = []

    def put(case: str, name: str, network: Outcome, chain: Outcome) -> None:
        print(f"| {case} | {name} | {network.cells()} | {chain.cells()} |", flush=True)
        rows.append({"case": case, "structure": name, "network": vars(network), "chain": vars(chain)})

    for case, volume, bodies in reference_volumes(data, vertebra):
        found, classical = apply_network(session, volume), segment_spine(volume, threads=2)
        for level, reference in bodies.items():
            network = Outcome.of(best_part(found.bodies, reference), reference, volume.grid)
            put(case, level, network, body_of_chain(classical, reference, volume.grid))
    for case in (_EXAMPLE, "fe_femur_left"):
        volume, known = real_volume(data, case)
        for side, network, chain in femur_rows(session, volume, {s: r.mask for s, r in known.items()}):
            put(case, f"femur {side}", network, chain)
    return rows


def run_agreement(session: Any, data: Path, pictures: Path | None) -> list[dict[str, Any]]:
    """Without references: bodies and femora that the chain accepts, and what the network has besides."""
    heads = ("case", "accepted bodies", "their voxels called body", "called body outside bodies of the chain, ml",
             "bodies set apart (Dice > 0.7)", "accepted femora: Dice, head centre mm", "other femur, ml")  # fmt: skip
    print("\n| " + " | ".join(heads) + " |\n|" + " --- |" * len(heads))
    rows = []
    for case in _AGREEMENT_CASES:
        volume, _ = real_volume(data, case)
        found, classical = apply_network(session, volume), segment(volume, threads=2)
        voxel_ml = volume.grid.voxel_volume_mm3 / 1000
        called = found.classes == Target.BODY
        accepted = [v for v in classical.vertebrae if v.status is not Status.FAILED]
        inside = np.isin(classical.labels, [v.label for v in accepted])
        bodies = np.isin(classical.labels, [v.label for v in classical.vertebrae])
        dice = [Outcome.of(best_part(found.bodies, m), m, volume.grid).dice for m in map(classical.mask, accepted)]
        hips, used = [], np.zeros(volume.shape, bool)
        for f in classical.femora:
            mask = classical.mask(f)
            if f.status is Status.FAILED or not mask.any():
                continue
            used |= ndimage.binary_dilation(mask, iterations=5)
            own = found.femora.get(f.side, np.zeros(volume.shape, bool))
            outcome = Outcome.of(own & _within(mask), mask, volume.grid)
            either = Outcome.of((found.classes >= Target.FEMUR_LEFT) & _within(mask), mask, volume.grid)
            head = _head_error(own, f.landmarks, volume.grid, f.side)
            hips.append(f"{f.side} {outcome.dice:.3f} (either side {either.dice:.3f}), {head}")
        row = {
            "case": case,
            "accepted": f"{len(accepted)} of {len(classical.vertebrae)}",
            "recall": f"{100 * called[inside].mean():.0f} %" if accepted else "",
            "outside_ml": f"{float((called & ~bodies).sum()) * voxel_ml:.0f}",
            "apart": sum(d > 0.7 for d in dice),
            "hips": "; ".join(hips),
            "stray_ml": f"{float(((found.classes >= Target.FEMUR_LEFT) & ~used).sum()) * voxel_ml:.0f}",
        }
        print("| " + " | ".join(str(v) for v in row.values()) + " |", flush=True)
        rows.append(row)
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            draw(found, classical.labels, volume, pictures / f"{case}.png")
    return rows


def _within(mask: Mask) -> Mask:
    """The slices of a mask: the chain ends a femur below the trochanter, the network with the image."""
    rows = np.flatnonzero(mask.any(axis=(1, 2)))
    out = np.zeros(mask.shape, bool)
    out[rows.min() : rows.max() + 1] = True
    return out


def _head_error(mask: Mask, known: FemurLandmarks | None, grid: Grid, side: str) -> str:
    if known is None or not mask.any():
        return "no head"
    try:
        marks = landmarks_from_mask(mask, grid, side)
    except Refusal as refusal:
        return refusal.reason
    return f"{np.linalg.norm(marks.head_centre_lps_mm - known.head_centre_lps_mm):.1f}"


def run_perturbed(session: Any, data: Path) -> list[dict[str, Any]]:
    """The reference scan made worse: mean Dice of L1-L5, and of the right femur."""
    folder = data / _EXAMPLE
    hu, matrix = load(folder / "ct.nii.gz")
    whole, body = load(folder / "labels.nii.gz")[0], load(folder / "labels_body.nii.gz")[0] == 1
    references = {level: (whole == _LUMBAR[level]) & body for level in ("L5", "L4", "L3", "L2", "L1")}
    print("\n| change | network: mean Dice L1-L5 (lowest) | chain: mean (lowest) |\n| --- | --- | --- |")
    rows: list[dict[str, Any]] = []
    changes: dict[str, Callable] = spine_perturbations(hu, references, body)
    for name in _SPINE_CHANGES:
        changed, kept, scale = changes[name]()
        geometry = matrix.copy()
        geometry[:3, :3] *= scale
        volume = Volume(np.ascontiguousarray(changed), Grid(changed.shape, geometry))
        found, classical = apply_network(session, volume), segment_spine(volume, threads=2)
        network = [Outcome.of(best_part(found.bodies, m), m, volume.grid).dice for m in kept.values()]
        chain = [body_of_chain(classical, m, volume.grid).dice for m in kept.values()]
        print(
            f"| {name} | {np.mean(network):.3f} ({min(network):.3f}) | {np.mean(chain):.3f} ({min(chain):.3f}) |",
            flush=True,
        )
        rows.append({"change": name, "network": network, "chain": chain})
    print("\n| femur | change | network: Dice | surface mm | volume | chain: Dice | surface mm | volume |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    original, known = real_volume(data, _EXAMPLE)
    values = original.hu.astype(np.float32)
    noise = np.random.default_rng(7).normal(0.0, 100.0, values.shape).astype(np.float32)
    spoilt = {
        "noise sd 100 HU": np.where(values > -1000, values + noise, values),
        "bone contrast x 0.5": np.where(values > 60, 60 + 0.5 * (values - 60), values),
        "bone contrast x 0.4": np.where(values > 60, 60 + 0.4 * (values - 60), values),
    }
    for name, changed in spoilt.items():
        volume = Volume(changed, original.grid)
        for side, network_, chain_ in femur_rows(session, volume, {"right": known["right"].mask}):
            print(f"| {side} | {name} | {network_.cells()} | {chain_.cells()} |", flush=True)
            rows.append({"femur": side, "change": name, "network": vars(network_), "chain": vars(chain_)})
    return rows


def run_times(session: Any, data: Path) -> list[dict[str, Any]]:
    """Processor and wall seconds of both on whole volumes, one after the other."""
    print("\n| case | voxels | network: processor s | wall s | chain: processor s | wall s |")
    print("| --- | --- | --- | --- | --- | --- |")
    rows = []
    for case in (_EXAMPLE, "sts044_hip_right"):
        volume, _ = real_volume(data, case)
        spent = []
        for work in (partial(apply_network, session, volume), partial(segment, volume, threads=2)):
            work()
            processor, wall = time.process_time(), time.perf_counter()
            work()
            spent += [time.process_time() - processor, time.perf_counter() - wall]
        print(
            f"| {case} | {'x'.join(map(str, volume.shape))} | " + " | ".join(f"{s:.1f}" for s in spent) + " |",
            flush=True,
        )
        rows.append({"case": case, "seconds": spent})
    return rows


def draw(found: Found, labels: NDArray, volume: Volume, path: Path) -> None:
    """Slices through the middle of what was found: the image, the network, the chain."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    where = np.argwhere(found.classes > 0)
    middle = np.median(where, axis=0).astype(int) if len(where) else np.array(volume.shape) // 2
    bone = np.argwhere((found.bodies > 0) | (found.classes >= Target.FEMUR_LEFT))
    if len(bone):
        middle = np.median(bone, axis=0).astype(int)
    z, y, x = volume.spacing_mm
    figure, axes = plt.subplots(3, 3, figsize=(13, 13))
    for row, (axis, aspect) in enumerate(((2, z / y), (1, z / x), (0, y / x))):
        planes = [np.take(a, int(middle[axis]), axis) for a in (volume.hu, found.classes, labels)]
        planes = [p[::-1] if axis else p for p in planes]
        for column, plane in enumerate(planes):
            axes[row, column].imshow(planes[0], cmap="gray", vmin=-150, vmax=500, aspect=aspect)
            if column:
                shown = np.ma.masked_equal(plane, 0)
                axes[row, column].imshow(shown, cmap="tab10" if column == 1 else "prism", alpha=0.45, aspect=aspect,
                                         vmin=0, vmax=9 if column == 1 else 60, interpolation="nearest")  # fmt: skip
            axes[row, column].axis("off")
    for axis_, title in zip(axes[0], ("image", "network", "chain"), strict=True):
        axis_.set_title(title)
    figure.tight_layout()
    figure.savefig(path, dpi=70)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OPENBCT_DATA", "../shared/data")))
    parser.add_argument("--only", nargs="*", default=["references", "agreement", "perturbed", "times"])
    parser.add_argument(
        "--vertebra", type=Path, nargs=3, default=[], help="CT, SPINEPS subregions and vertebra numbers"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args(arguments)
    session = open_network(options.network)
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "references": lambda: run_references(session, options.data, options.vertebra),
        "agreement": lambda: run_agreement(session, options.data, options.pictures),
        "perturbed": lambda: run_perturbed(session, options.data),
        "times": lambda: run_times(session, options.data),
    }
    rows = {name: parts[name]() for name in options.only}
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
