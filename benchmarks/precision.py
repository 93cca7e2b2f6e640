"""Precision on real CT: every study measured again on copies of itself that differ as a second scan would.

    python -m benchmarks.precision [--data FOLDER] [--out FOLDER] [--json FILE] [--cases NAME ...] [--copies NAME ...]

Each study of the folder (``dicom.zip``, else ``ct.nii.gz``) is resampled, shifted, turned, cropped, noised and filtered, and
the whole chain (segmentation, calibration, density, heights, hips; no strength) runs on every copy. Structures are matched by
place, not by name. Printed for each quantity: the root-mean-square coefficient of variation over repeats (same image,
other grid, position, field of view or noise) and over all copies (other slices, pixels and filters as well), the standard
deviation in its own unit, and in how many copies that hold the whole structure the number was given. A second table says
what each copy does. Results are kept in ``--out``; a second call computes only what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.precision_copies import COPIES, PROTOCOL, Copy, copies_of
from pipeline.errors import Refusal
from pipeline.ingest import find_studies, load_volume, select
from pipeline.measure import Measured, measure
from pipeline.segmentation.chain import segment
from pipeline.segmentation.model import Femur, Segmentation, Vertebra
from pipeline.volume import Volume

ORIGINAL = "original"
INPUTS = ("dicom.zip", "ct.nii.gz")
_SAME_PLACE_MM = 9.0
_MARGIN_MM = 12.0
"""A body needs its discs in view: a structure counts for a copy if so much lies around it, or as much as in the original."""
_UNITS = {
    "vBMD of a body": "mg/cm3",
    "vBMD of the spine": "mg/cm3",
    "density at 150 HU (calibration alone)": "mg/cm3",
    "trabecular HU of a body": "HU",
    "anterior height": "mm",
    "middle height": "mm",
    "posterior height": "mm",
    "total hip aBMD": "g/cm2",
    "femoral neck aBMD": "g/cm2",
}
_SPREAD_MATTERS = ("vBMD of a body", "trabecular HU of a body", "total hip aBMD", "femoral neck aBMD")


def numbers_of(measured: Measured, segmentation: Segmentation) -> list[dict[str, Any]]:
    """One entry per structure: where it is (LPS mm), what was measured, and why what is missing is missing."""
    entries: list[dict[str, Any]] = []
    for body, part in zip(segmentation.vertebrae, measured.vertebrae, strict=True):
        values = {
            "trabecular HU of a body": part.trabecular_hu,
            "vBMD of a body": part.vbmd_mg_cm3,
            **{f"{p} height": getattr(part.heights_mm, p, None) for p in ("anterior", "middle", "posterior")},
        }
        grade = part.fracture.genant_grade if part.fracture is not None else None
        entries.append(_entry(body, body.frame.centre_lps_mm, values, part) | {"grade": grade, "level": part.level})
    for femur, hip in zip(segmentation.femora, measured.femora, strict=True):
        if femur.landmarks is not None:
            areal = hip.abmd_g_cm2
            values = {f"{r.replace('_', ' ')} aBMD": getattr(areal, r, None) for r in ("total_hip", "femoral_neck")}
            entries.append(_entry(femur, femur.landmarks.head_centre_lps_mm, values, hip))
    if measured.calibration is not None:
        at = float(measured.calibration.density_mg_cm3(150.0))
        entries.append({"name": "calibration", "values": {"density at 150 HU (calibration alone)": at}})
    if measured.spine is not None:
        mean = measured.spine.vbmd_mg_cm3
        name = f"spine {'-'.join(measured.spine.levels)}" if mean is not None else "spine"
        entries.append({"name": name, "values": {"vBMD of the spine": mean.value if mean is not None else None}})
    return entries


def _entry(structure: Vertebra | Femur, centre: NDArray, values: dict[str, Any], part: Any) -> dict[str, Any]:
    said = {f.code for f in (*part.not_measured.values(), *part.findings) if f.severity.value == "failure"}
    return {
        "name": structure.name,
        "centre_lps_mm": [float(x) for x in centre],
        "values": {key: None if q is None else q.value for key, q in values.items()},
        "uncertainties": {key: None if q is None else q.uncertainty for key, q in values.items()},
        "reasons": sorted(said),
    }


def analysed(volume: Volume, *, threads: int) -> tuple[list[dict[str, Any]], Segmentation | None, str]:
    """Everything measured on a volume, the segmentation, and the reason of a refusal (empty if there was none)."""
    try:
        segmentation = segment(volume, threads=threads)
        measured = measure(volume, segmentation, strength=False, threads=threads)
    except Refusal as refusal:
        return [], None, refusal.reason
    return numbers_of(measured, segmentation), segmentation, ""


def boxes_lps(segmentation: Segmentation) -> dict[str, NDArray[np.float64]]:
    """The corners of the box of every structure, LPS mm, shape (8, 3)."""
    found: dict[str, NDArray[np.float64]] = {}
    structures: tuple[Vertebra | Femur, ...] = (*segmentation.vertebrae, *segmentation.femora)
    for structure in structures:
        index = np.argwhere(segmentation.labels == structure.label)
        if len(index):
            low, high = index.min(axis=0), index.max(axis=0)
            corners = np.array([[(low, high)[b][a] for a, b in enumerate(bits)] for bits in np.ndindex(2, 2, 2)])
            found[structure.name] = segmentation.grid.to_lps(corners)
    return found


def whole_in(copy: Copy, corners_lps_mm: NDArray[np.float64], original: Volume) -> bool:
    """Whether a copy holds a structure with 12 mm around it, or with as much as the original had."""

    def room(volume: Volume, points: NDArray[np.float64]) -> NDArray[np.float64]:
        index, spacing = volume.grid.to_index(points), np.array(volume.spacing_mm)
        low = index.min(axis=0) * spacing
        high = (np.array(volume.shape) - 1 - index.max(axis=0)) * spacing
        return np.concatenate([low, high])

    needed = np.minimum(_MARGIN_MM, room(original, corners_lps_mm) - max(original.spacing_mm))
    return bool((room(copy.volume, copy.moved(corners_lps_mm)) >= needed).all())


def measured_copies(case: Path, names: Iterable[str], out: Path, *, threads: int) -> dict[str, Any] | None:
    """What was measured on a study and its copies; None if the folder holds no study that loads."""
    source = next((case / name for name in INPUTS if (case / name).is_file()), None)
    if source is None:
        return None
    kept = out / f"{case.name}.json"
    result: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {"case": case.name}
    wanted = [name for name in names if name not in result]
    if ORIGINAL in result and not wanted:
        return result
    try:
        volume = load_volume(select(find_studies([source]).studies[0]).spine.stack)
    except (Refusal, IndexError):
        return None
    volume = replace(volume, hu=volume.hu.astype(np.float32))
    entries, segmentation, reason = analysed(volume, threads=threads)
    result[ORIGINAL] = {"entries": entries, "refused": reason}
    if segmentation is not None and any("centre_lps_mm" in e for e in entries):
        boxes = boxes_lps(segmentation)
        for copy in copies_of(volume, wanted):
            print(f"{case.name}: {copy.name}", file=sys.stderr, flush=True)
            found, _, refused = analysed(copy.volume, threads=threads)
            result[copy.name] = {
                "entries": found,
                "refused": refused,
                "to_copy": copy.to_copy.tolist(),
                "whole": [name for name, corners in boxes.items() if whole_in(copy, corners, volume)],
            }
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def matched(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per quantity of a structure that the original or any copy gave: its value on each copy, or None."""
    rows: list[dict[str, Any]] = []
    for entry in result[ORIGINAL]["entries"]:
        partners = {name: _partner(entry, copy) for name, copy in result.items() if name in COPIES}
        for quantity, value in entry["values"].items():
            values = {n: None if p is None else p["values"].get(quantity) for n, p in partners.items()}
            if value is None and not any(v is not None for v in values.values()):
                continue
            due = [n for n in partners if "centre_lps_mm" not in entry or entry["name"] in result[n]["whole"]]
            row = {"case": result["case"], "structure": entry["name"], "quantity": quantity, ORIGINAL: value}
            why = {
                n: (p["reasons"] if p is not None and "reasons" in p else ["not_found"]) for n, p in partners.items()
            }
            rows.append(row | {"values": values, "due": due, "reasons": why})
    return rows


def _partner(entry: dict[str, Any], copy: dict[str, Any]) -> dict[str, Any] | None:
    """The structure of a copy at the same place, or the summary of the same levels."""
    if "centre_lps_mm" not in entry:
        return next((e for e in copy["entries"] if e["name"] == entry["name"]), None)
    there = (np.array(copy["to_copy"]) @ np.append(entry["centre_lps_mm"], 1.0))[:3]
    kind = entry["name"].split("_")[0]
    near = [e for e in copy["entries"] if "centre_lps_mm" in e and e["name"].startswith(kind)]
    apart = [float(np.linalg.norm(np.array(e["centre_lps_mm"]) - there)) for e in near]
    return near[int(np.argmin(apart))] if apart and min(apart) < _SAME_PLACE_MM else None


def variation(rows: list[dict[str, Any]], copies: Iterable[str]) -> dict[str, float]:
    """Root mean squares over structures of the coefficient of variation (percent) and of the standard deviation."""
    wanted, relative, absolute, freedom = set(copies), 0.0, 0.0, 0
    structures = 0
    for row in rows:
        given = [v for n, v in row["values"].items() if n in wanted and v is not None]
        values = np.array([*given, *([row[ORIGINAL]] if row[ORIGINAL] is not None else [])])
        if len(values) < 2:
            continue
        structures += 1
        freedom += len(values) - 1
        squares = float(((values - values.mean()) ** 2).sum())
        relative += squares / float(values.mean()) ** 2
        absolute += squares
    if not freedom:
        return {"structures": 0, "values": 0, "rms_cv_percent": float("nan"), "rms_sd": float("nan")}
    return {
        "structures": structures,
        "values": freedom + structures,
        "rms_cv_percent": 100.0 * float(np.sqrt(relative / freedom)),
        "rms_sd": float(np.sqrt(absolute / freedom)),
    }


def availability(rows: list[dict[str, Any]], copies: Iterable[str]) -> tuple[int, int]:
    """In how many copies that hold the whole structure a number was given that the original has; and of how many."""
    wanted = set(copies)
    held = [(row, n) for row in rows if row[ORIGINAL] is not None for n in row["due"] if n in wanted]
    return sum(row["values"][n] is not None for row, n in held), len(held)


def summary_table(rows: list[dict[str, Any]]) -> str:
    """Precision and availability by quantity, as Markdown."""
    repeats = [n for n in COPIES if n not in PROTOCOL]
    lines = [
        "| quantity | structures | values | RMS CV of repeats | RMS SD of repeats | RMS CV of all copies | given |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for quantity, unit in _UNITS.items():
        own = [row for row in rows if row["quantity"] == quantity]
        narrow, wide = variation(own, repeats), variation(own, COPIES)
        given, due = availability(own, COPIES)
        if wide["structures"]:
            lines.append(
                f"| {quantity} | {wide['structures']} | {wide['values']} | {narrow['rms_cv_percent']:.1f} % | "
                f"{narrow['rms_sd']:.2g} {unit} | {wide['rms_cv_percent']:.1f} % | {given} of {due} |"
            )
    return "\n".join(lines)


def copy_table(rows: list[dict[str, Any]]) -> str:
    """Mean and root-mean-square change against the original by kind of copy, and what was withheld, as Markdown."""
    heads = [*_SPREAD_MATTERS, "heights, mm", "given"]
    lines = ["| copy | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
    for name in COPIES:
        cells = []
        for quantity in _SPREAD_MATTERS:
            pairs = _pairs([row for row in rows if row["quantity"] == quantity], name)
            change = 100.0 * (pairs[:, 1] / pairs[:, 0] - 1.0) if len(pairs) else np.zeros(0)
            cells.append(f"{change.mean():+.1f}, {np.sqrt((change**2).mean()):.1f} %" if len(change) else "")
        pairs = _pairs([row for row in rows if row["quantity"].endswith("height")], name)
        change = pairs[:, 1] - pairs[:, 0]
        cells.append(f"{change.mean():+.2f}, {np.sqrt((change**2).mean()):.2f}" if len(change) else "")
        given, due = availability(rows, [name])
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {given} of {due} |")
    return "\n".join(lines)


def _pairs(rows: list[dict[str, Any]], name: str) -> NDArray[np.float64]:
    """Original and copy where both have a value, shape (N, 2)."""
    both = [(row[ORIGINAL], row["values"].get(name)) for row in rows]
    return np.array([(a, b) for a, b in both if a is not None and b is not None], float).reshape(-1, 2)


def outliers(rows: list[dict[str, Any]], share: float = 0.08) -> list[str]:
    """What differs from the original by more than a share, largest first."""
    found = []
    for row in rows:
        for name, value in row["values"].items():
            if value is not None and row[ORIGINAL] and abs(value / row[ORIGINAL] - 1.0) > share:
                change = value / row[ORIGINAL] - 1.0
                words = f"{row['case']} {row['structure']} {row['quantity']}: {row[ORIGINAL]:.3g} -> {value:.3g}"
                found.append((abs(change), f"{words} ({100 * change:+.0f} %) in '{name}'"))
    return [text for _, text in sorted(found, reverse=True)]


def main(arguments: list[str] | None = None) -> int:
    """Run and print; the exit status is 2 if the folder is not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OPENBCT_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path, default=Path("out-precision"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cases", nargs="*")
    parser.add_argument("--copies", nargs="*", choices=COPIES, default=list(COPIES), metavar="NAME")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    if not options.data.is_dir():
        print("the development set is not here: name its folder with --data or OPENBCT_DATA", file=sys.stderr)
        return 2
    rows: list[dict[str, Any]] = []
    for case in sorted(p for p in options.data.iterdir() if p.is_dir()):
        if options.cases and case.name not in options.cases:
            continue
        result = measured_copies(case, options.copies, options.out, threads=options.threads)
        if result is not None:
            rows += matched(result)
    print(summary_table(rows) + "\n\n" + copy_table(rows))
    if far := outliers(rows):
        print("\nMore than 8 % from the original:\n" + "\n".join(far))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
