"""How well arches are outlined and parted: on phantoms with an exact truth, and on a real scan labelled by two networks.

    python -m benchmarks.segmentation_arches [--data DIR] [--json FILE]

The truth of a phantom is each vertebra painted whole, less its body. On the real scan (3 mm voxels) it is what one network
calls vertebra and another one does not call body: agreement with them is not accuracy. ``elsewhere`` is the part of an arch
that lies on another vertebra's.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measuring import write_json
from benchmarks.segmentation_spine import load
from phantoms import make_phantom
from phantoms.voxelise import render
from pipeline.segmentation.chain import segment
from pipeline.segmentation.model import LABEL_OF, Segmentation
from pipeline.volume import Grid, Volume, canonical_order

_PHANTOMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "1 mm slices": ({"seed": 3, "top_level": "T8"}, {"slice_mm": 1.0, "pixel_mm": 0.8}),
    "3 mm slices": ({"seed": 3, "top_level": "T8"}, {"slice_mm": 3.0, "pixel_mm": 0.9}),
    "osteoporosis": (
        {"seed": 5, "top_level": "T10", "age_years": 82, "spine_density_mg_cm3": 40.0},
        {"slice_mm": 2.0, "pixel_mm": 0.8},
    ),
    "scoliosis 30 degrees": ({"seed": 6, "top_level": "T8", "scoliosis_deg": 30.0}, {"slice_mm": 1.5, "pixel_mm": 0.8}),
}
_REAL = "ts_example_3mm"
_NUMBERS = {"T12": 32, "L1": 31, "L2": 30, "L3": 29, "L4": 28, "L5": 27}


def main(arguments: list[str] | None = None) -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="Folder of the real cases; left out if absent.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json")
    options = parser.parse_args(arguments)
    print("| case | vertebra | Dice | volume / reference | elsewhere |\n| --- | --- | --- | --- | --- |")
    rows = []
    for case in [*_PHANTOMS, *([_REAL] if options.data is not None else [])]:
        volume, truth = _phantom(case) if case in _PHANTOMS else _real(options.data / _REAL)
        found = segment(volume, hips=False, threads=options.threads)
        for row in _compared(found, truth):
            rows.append({"case": case, **row})
            numbers = " | ".join(
                "" if row[key] is None else f"{row[key]:.2f}" for key in ("dice", "volume", "elsewhere")
            )
            print(f"| {case} | {row['name']} | {numbers} |", flush=True)
    write_json(options.json, rows)
    return 0


def _phantom(case: str) -> tuple[Volume, NDArray[np.uint8]]:
    """A phantom, and its arches under the numbers of its bodies."""
    given, sampling = _PHANTOMS[case]
    phantom = make_phantom("torso", hips=False, **given)
    image = phantom.image(120.0, **sampling)
    matrix = np.asarray(image.lattice.index_to_lps)
    whole = [replace(s, label_primitive=None) if s.name.startswith("vertebra_") else s for s in phantom.solids]
    vertebrae, _, _ = canonical_order(render(whole, image.lattice, phantom.materials(120.0))[1], matrix)
    bodies, _, _ = canonical_order(image.labels, matrix)
    hu, matrix, _ = canonical_order(image.hu, matrix)
    return Volume(hu, Grid(hu.shape, matrix)), np.where(bodies == 0, vertebrae, 0).astype(np.uint8)


def _real(folder: Path) -> tuple[Volume, NDArray[np.uint8]]:
    hu, matrix = load(folder / "ct.nii.gz")
    whole, _ = load(folder / "labels.nii.gz")
    body, _ = load(folder / "labels_body.nii.gz")
    arches = np.zeros(hu.shape, np.uint8)
    for level, number in _NUMBERS.items():
        arches[(whole == number) & (body != 1)] = LABEL_OF[f"vertebra_{level}"]
    return Volume(hu, Grid((hu.shape[0], hu.shape[1], hu.shape[2]), matrix)), arches


def _compared(found: Segmentation, truth: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """One row per vertebra that is whole and has a truth; without numbers where its arch was left out."""
    rows = []
    arches = found.arches if found.arches is not None else np.zeros_like(truth)
    for vertebra in (v for v in found.vertebrae if v.complete):
        arch = arches == vertebra.label
        true = truth == vertebra.label
        if not true.any():
            continue
        row: dict[str, Any] = {"name": vertebra.name, "dice": None, "volume": None, "elsewhere": None}
        if arch.any():
            row["dice"] = 2.0 * float((arch & true).sum()) / float(arch.sum() + true.sum())
            row["volume"] = float(arch.sum() / true.sum())
            row["elsewhere"] = float(((truth[arch] > 0) & (truth[arch] != vertebra.label)).mean())
        rows.append(row)
    return rows


if __name__ == "__main__":
    sys.exit(main())
