"""How well proximal femora are found and outlined, and whether the checks catch what went wrong.

    python -m benchmarks.segmentation_femur [--data DIR] [--only PART ...] [--cases CASE ...] [--json FILE]

Parts: ``real`` scans as they are; ``disease``: phantoms with arthritis, dysplasia and unusual poses on the left; ``perturbed``:
noise, bone loss, thick slices, turns of the patient; ``phantom``: exact truth over sex, age, slices and dose; ``loss``: how far
heads move when bone is taken away. Prints a table per part and a summary of the quality gate; ``--json`` keeps all rows.
Real references: a network's outline (``ts_example_3mm``) and a mask made for a finite-element study (``fe_femur_left``). Where
there is none, a perturbed result is compared with the unperturbed one, which measures stability and not accuracy.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.diseased_hips import DISEASES, Disease, diseased_hips
from benchmarks.hip_changes import bone_losses, perturbations
from pipeline.errors import Severity
from pipeline.segmentation.femur.chain import FoundFemur, find_femora
from pipeline.segmentation.femur.quality import neck_shaft_angle_deg
from pipeline.segmentation.model import Femur, FemurLandmarks
from pipeline.volume import Grid, Volume, canonical_order

REAL_CASES = (
    "ts_example_3mm",
    "sts044_hip_right",
    "sts031_hip_right",
    "sts036_hip_left_truncated",
    "fe_femur_left",
    "lidc0314_chest_1mm",
    "ricord001012_chest_1p25mm",
    "ts_thorax_cta_1p5mm",
    "crlm1006_abdomen_5mm",
    "cptac00189_lungbases_5mm",
    "ts_dicom_slab_j2k",
)
PERTURBED_CASES = ("ts_example_3mm", "sts044_hip_right", "sts031_hip_right", "fe_femur_left")
LOSS_CASES = ("sts031_hip_right", "sts036_hip_left_truncated", "sts044_hip_right", "ts_example_3mm")
KINDS_OF_CHANGE = {
    "noise": "noise 30-100 HU",
    "trabecular": "trabecular -60, -120 HU",
    "bone": "bone contrast x 0.7-0.4",
    "flexed": "turned by 12 degrees",
    "turned": "turned by 12 degrees",
    "tilted": "turned by 12 degrees",
}
"""Changes that share a line of the summary, by their first word."""
PHANTOMS: dict[str, tuple[dict, dict]] = {
    "woman 66, 2 mm": ({}, {"slice_mm": 2.0}),
    "woman 66, 1 mm": ({}, {"slice_mm": 1.0}),
    "woman 66, 5 mm": ({}, {"slice_mm": 5.0}),
    "man 50, 2 mm": ({"sex": "M", "age_years": 50}, {"slice_mm": 2.0}),
    "woman 85, 2 mm": ({"age_years": 85}, {"slice_mm": 2.0}),
    "a fifth of the dose": ({}, {"slice_mm": 2.0, "dose": 0.2}),
    "half the hip density": ({"hip_density_scale": 0.45}, {"slice_mm": 2.0}),
    "coxa vara, anteversion 25": ({"neck_shaft_angle_deg": 120.0, "anteversion_deg": 25.0}, {"slice_mm": 2.0}),
}


@dataclass(frozen=True)
class Row:
    """One femur of one image."""

    case: str
    change: str
    side: str
    status: str
    codes: str
    score: float
    dice: float | None = None
    surface_mm: float | None = None
    head_error_mm: float | None = None
    radius_error_mm: float | None = None
    neck_angle_error_deg: float | None = None
    shaft_angle_error_deg: float | None = None
    lesser_edge_error_mm: float | None = None
    neck_shaft_deg: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class LossRow:
    """One femur after bone was taken away; `moved_mm` is None where there was no such femur before."""

    case: str
    change: str
    side: str
    status: str
    codes: str
    score: float
    moved_mm: float | None
    radius_change_mm: float | None


@dataclass(frozen=True)
class Reference:
    """What a femur should be; landmarks None where only a mask is known."""

    mask: NDArray[np.bool_]
    landmarks: FemurLandmarks | None


def load(path: Path) -> tuple[NDArray, NDArray[np.float64]]:
    """Array and index-to-LPS matrix of a NIfTI file, in canonical order."""
    image = sitk.ReadImage(str(path))
    directions = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    matrix = np.eye(4)
    matrix[:3, :3] = directions[:, ::-1]
    matrix[:3, 3] = image.GetOrigin()
    array, matrix, _ = canonical_order(sitk.GetArrayFromImage(image), matrix)
    return array, matrix


def volume_of(array: NDArray, matrix: NDArray[np.float64]) -> Volume:
    return Volume(array.astype(np.float32) if array.dtype.kind == "f" else array, Grid(array.shape, matrix))


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    total = int(a.sum()) + int(b.sum())
    return 2.0 * float((a & b).sum()) / total if total else 1.0


def surface_distance_mm(a: NDArray[np.bool_], b: NDArray[np.bool_], grid: Grid) -> float:
    """Mean of the two mean distances between the surfaces of masks."""
    box = ndimage.find_objects((a | b).astype(np.uint8))[0]
    a, b = np.pad(a[box], 1), np.pad(b[box], 1)
    edges = [m & ~ndimage.binary_erosion(m) for m in (a, b)]
    away = [ndimage.distance_transform_edt(~e, sampling=grid.spacing_mm) for e in edges]
    return float((away[1][edges[0]].mean() + away[0][edges[1]].mean()) / 2)


def full_mask(found: FoundFemur, grid: Grid) -> NDArray[np.bool_]:
    mask = np.zeros(grid.shape, dtype=bool)
    mask[found.box] = found.mask
    return mask


def above(mask: NDArray[np.bool_], grid: Grid, landmarks: FemurLandmarks | None, below_mm: float) -> NDArray[np.bool_]:
    """A mask cut at the same height along the shaft as ours, where the shaft is known."""
    if landmarks is None or landmarks.lesser_trochanter_lower_edge_lps_mm is None or landmarks.shaft_axis_lps is None:
        return mask
    place = np.argwhere(mask)
    offset = grid.to_lps(place.astype(float)) - landmarks.lesser_trochanter_lower_edge_lps_mm
    out = mask.copy()
    out[tuple(place[offset @ landmarks.shaft_axis_lps > below_mm].T)] = False
    return out


def angle_deg(a: NDArray | None, b: NDArray | None) -> float | None:
    if a is None or b is None:
        return None
    return float(np.degrees(np.arccos(np.clip(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))


def distance_mm(a: NDArray | None, b: NDArray | None) -> float | None:
    return None if a is None or b is None else float(np.linalg.norm(np.asarray(a) - np.asarray(b)))


def below_mm(edge: NDArray | None, true: FemurLandmarks) -> float | None:
    """How far a lower edge of the lesser trochanter lies below the true one, along the shaft."""
    if edge is None or true.lesser_trochanter_lower_edge_lps_mm is None or true.shaft_axis_lps is None:
        return None
    return float((edge - true.lesser_trochanter_lower_edge_lps_mm) @ true.shaft_axis_lps)


def rows_of(case: str, change: str, volume: Volume, references: dict[str, Reference]) -> list[Row]:
    """Run the chain on one volume and compare each side with its reference, if there is one."""
    start = time.perf_counter()
    found, _, _ = find_femora(volume, threads=2)
    seconds = time.perf_counter() - start
    rows = []
    for f in sorted(found, key=lambda f: f.femur.side):
        femur, landmarks = f.femur, f.femur.landmarks
        assert landmarks is not None
        overlap = surface = head = radius = neck = shaft = edge = None
        reference = references.get(femur.side)
        if reference is not None:
            mask = above(full_mask(f, volume.grid), volume.grid, landmarks, 40.0)
            whole = above(reference.mask, volume.grid, landmarks, 40.0)
            overlap, surface = dice(mask, whole), surface_distance_mm(mask, whole, volume.grid)
            true = reference.landmarks
            if true is not None:
                head = distance_mm(landmarks.head_centre_lps_mm, true.head_centre_lps_mm)
                radius = landmarks.head_radius_mm - true.head_radius_mm
                neck = angle_deg(landmarks.neck_axis_lps, true.neck_axis_lps)
                shaft = angle_deg(landmarks.shaft_axis_lps, true.shaft_axis_lps)
                edge = below_mm(landmarks.lesser_trochanter_lower_edge_lps_mm, true)
        codes = _codes(femur)
        rows.append(
            Row(
                case,
                change,
                femur.side,
                femur.status.value,
                codes,
                femur.score,
                overlap,
                surface,
                head,
                radius,
                neck,
                shaft,
                edge,
                neck_shaft_angle_deg(landmarks),
                seconds,
            )
        )
    if not rows:
        rows.append(Row(case, change, "-", "absent", "", 0.0, seconds=seconds))
    return rows


def real_volume(data: Path, case: str) -> tuple[Volume, dict[str, Reference]]:
    folder = data / case
    if case == "fe_femur_left":
        # The folder's name says left; by the geometry of its files it is a right femur (head medial of the shaft, +x left).
        volume = volume_of(*load(folder / "density_mg_cm3.nii.gz"))
        mask = load(folder / "labels.nii.gz")[0] == 2
        return volume, {"right": Reference(mask, None)}
    volume = volume_of(*load(folder / "ct.nii.gz"))
    if case == "ts_example_3mm":
        labels, _ = load(folder / "labels.nii.gz")
        return volume, {"right": Reference(labels == 76, None), "left": Reference(labels == 75, None)}
    return volume, {}


def phantom_volume(options: dict, image: dict, *, left: Disease | None = None) -> tuple[Volume, dict[str, Reference]]:
    """Both hips of a torso phantom, the left one diseased or not."""
    hips = diseased_hips(left, seed=1, **options, **image)
    return hips.volume, {side: Reference(hips.masks[side], hips.landmarks[side]) for side in hips.masks}


def bone_loss_rows(case: str, volume: Volume, references: dict[str, Reference]) -> Iterator[LossRow]:
    """How far heads move when bone is taken away, and how their femora end."""
    found, _, _ = find_femora(volume, threads=2)
    before: dict[str, FemurLandmarks] = {}
    femora = []
    for f in found:
        landmarks = f.femur.landmarks
        assert landmarks is not None
        before[f.femur.side] = landmarks
        reference = references.get(f.femur.side)
        femora.append((full_mask(f, volume.grid) if reference is None else reference.mask, landmarks))
    for change, weaker in bone_losses(volume, femora):
        after, _, _ = find_femora(weaker, threads=2)
        for side in before.keys() - {f.femur.side for f in after}:
            yield LossRow(case, change, side, "absent", "", 0.0, None, None)
        for f in after:
            now, was = f.femur.landmarks, before.get(f.femur.side)
            assert now is not None
            moved = None if was is None else distance_mm(now.head_centre_lps_mm, was.head_centre_lps_mm)
            grown = None if was is None else now.head_radius_mm - was.head_radius_mm
            yield LossRow(
                case, change, f.femur.side, f.femur.status.value, _codes(f.femur), f.femur.score, moved, grown
            )


def _codes(femur: Femur) -> str:
    return " ".join(dict.fromkeys(g.code for g in femur.findings if g.severity is not Severity.INFO))


def perturbed_rows(case: str, volume: Volume, references: dict[str, Reference]) -> Iterator[Row]:
    """Unperturbed first; sides without a reference are then compared with their own unperturbed mask."""
    found, _, _ = find_femora(volume, threads=2)
    known = dict(references)
    for f in found:
        if f.femur.side not in known:
            known[f.femur.side] = Reference(full_mask(f, volume.grid), None)
    known = {side: r for side, r in known.items() if any(f.femur.side == side for f in found)}
    masks = [r.mask for r in known.values()]
    yield from rows_of(case, "as it is", volume, known)
    for name, changed, carry in perturbations(volume, masks):
        yield from rows_of(case, name, changed, {s: Reference(carry(r.mask), None) for s, r in known.items()})


def gate_summary(rows: list[Row]) -> str:
    """How the checks and the truth agree, over rows with a reference."""
    judged = [r for r in rows if r.dice is not None]
    good = [r for r in judged if (r.dice or 0) >= 0.90]
    bad = [r for r in judged if (r.dice or 0) < 0.80]
    kept = sum(r.status != "failed" for r in good)
    view = {"truncated_femur", "head_truncated", "shaft_too_short"}
    clear = sum(r.status != "failed" and not set(r.codes.split()) - view for r in good)
    passed_ok = sum(r.status == "ok" for r in bad)
    passed = sum(r.status != "failed" for r in bad)
    lines = [
        f"{len(judged)} femora with a reference; {len(good)} with Dice >= 0.90, of which {kept} were not refused "
        f"and {clear} are ok, or would be if more of the bone were in view;",
        f"{len(bad)} with Dice < 0.80, of which {passed_ok} passed as ok and {passed - passed_ok} with a warning.",
    ]
    return "\n".join(lines)


def number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def table(rows: list[Row]) -> str:
    """Markdown table, one line per femur."""
    head = (
        "| case | side | status | reasons | score | Dice | surface mm | head mm | R mm | neck deg | shaft deg | LT mm |"
    )
    lines = [head, "| --- | --- | --- | --- " + "| ---: " * 8 + "|"]
    for r in rows:
        numbers = [
            number(r.score, 2), number(r.dice, 3), number(r.surface_mm, 2), number(r.head_error_mm, 1),
            number(r.radius_error_mm, 1), number(r.neck_angle_error_deg, 1), number(r.shaft_angle_error_deg, 1),
            number(r.lesser_edge_error_mm, 1),
        ]  # fmt: skip
        name = ", ".join(part for part in (r.case, r.change) if part)
        lines.append(f"| {name} | {r.side} | {r.status} | {r.codes} | " + " | ".join(numbers) + " |")
    return "\n".join(lines)


def summary_table(rows: list[Row]) -> str:
    """Markdown table, one line per case, side and kind of change: worst and mean Dice, and how the femora ended."""
    lines = [
        "| case | side | change | runs | Dice mean | Dice worst | surface worst mm | ok | warning | failed | reasons |",
        "| --- | --- | --- " + "| ---: " * 7 + "| --- |",
    ]
    groups: dict[tuple[str, str, str], list[Row]] = {}
    refused = {(r.case, r.side) for r in rows} - {(r.case, r.side) for r in rows if r.status in ("ok", "warning")}
    for r in rows:
        # A side that is always refused (metal) needs no more than one line.
        always = (r.case, r.side) in refused and r.side != "-"
        change = "all" if always else KINDS_OF_CHANGE.get(r.change.split(" ")[0], r.change)
        groups.setdefault((r.case, "both" if r.case.startswith("phantom") else r.side, change), []).append(r)
    for (case, side, change), group in groups.items():
        overlaps = [r.dice for r in group if r.dice is not None]
        away = [r.surface_mm for r in group if r.surface_mm is not None]
        ends = [sum(r.status == status for r in group) for status in ("ok", "warning", "failed")]
        codes = " ".join(dict.fromkeys(code for r in group for code in r.codes.split()))
        figures = [
            number(float(np.mean(overlaps)) if overlaps else None, 3),
            number(min(overlaps, default=None), 3),
            number(max(away, default=None), 2),
        ]
        cells = [case, side, change, str(len(group)), *figures, *map(str, ends), codes]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def loss_table(rows: list[LossRow]) -> str:
    """Markdown table, one line per case and side: how far the head moved, by how the femur ended."""
    lines = [
        "| case | side | runs | moved mm, mean | worst, ok | worst, warning | worst, failed | found no more |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case, side in dict.fromkeys((r.case, r.side) for r in rows):
        group = [r for r in rows if (r.case, r.side) == (case, side)]
        moved = [r for r in group if r.moved_mm is not None]
        worst = [
            number(max((r.moved_mm or 0.0 for r in moved if r.status == status), default=None), 1)
            for status in ("ok", "warning", "failed")
        ]
        mean = number(float(np.mean([r.moved_mm for r in moved if r.moved_mm is not None])) if moved else None, 1)
        lost = sum(r.status == "absent" for r in group)
        lines.append("| " + " | ".join([case, side, str(len(group)), mean, *worst, str(lost)]) + " |")
    return "\n".join(lines)


PARTS = ("real", "disease", "perturbed", "phantom", "loss")


def part_rows(part: str, data: Path, cases: list[str] | None) -> Iterator[Row | LossRow]:
    """All rows of one part of the benchmark."""

    def present(names: tuple[str, ...]) -> list[str]:
        return [n for n in names if (cases is None or n in cases) and (data / n).is_dir()]

    if part == "real":
        for case in present(REAL_CASES):
            yield from rows_of(case, "", *real_volume(data, case))
    if part == "disease":
        for name, disease in DISEASES.items():
            if cases is None or name in cases:
                yield from rows_of("phantom", name, *phantom_volume({}, {"slice_mm": 2.0}, left=disease))
    if part == "perturbed":
        for case in present(PERTURBED_CASES):
            yield from perturbed_rows(case, *real_volume(data, case))
    if part == "phantom":
        for name, (options, image) in PHANTOMS.items():
            if cases is None or name in cases:
                yield from rows_of("phantom", name, *phantom_volume(options, image))
    if part == "loss":
        for case in present(LOSS_CASES):
            yield from bone_loss_rows(case, *real_volume(data, case))
        if cases is None or "phantom" in cases:
            yield from bone_loss_rows("phantom", *phantom_volume({}, {"slice_mm": 2.0}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("OPENBCT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--cases", nargs="+", help="only these cases, by the names in the tables")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    every: dict[str, list[Row | LossRow]] = {}
    for part in arguments.only:
        every[part] = []
        for row in part_rows(part, arguments.data, arguments.cases):
            every[part].append(row)
            if arguments.json:
                saved = {name: [asdict(r) for r in rows] for name, rows in every.items()}
                arguments.json.write_text(json.dumps(saved, indent=1), encoding="utf-8")
    print(report(every))


def report(every: dict[str, list[Row | LossRow]]) -> str:
    """All tables, as they stand in the documentation."""
    parts = []
    for part, rows in every.items():
        losses, femora = [r for r in rows if isinstance(r, LossRow)], [r for r in rows if isinstance(r, Row)]
        shown = loss_table(losses) if part == "loss" else (summary_table if part == "perturbed" else table)(femora)
        parts.append(f"### {part}\n\n{shown}")
    judged = [r for rows in every.values() for r in rows if isinstance(r, Row)]
    return "\n\n".join([*parts, gate_summary(judged)])


if __name__ == "__main__":
    main()
