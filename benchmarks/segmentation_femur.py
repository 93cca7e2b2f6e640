"""How well proximal femora are found and outlined, and whether the checks catch what went wrong.

    python -m benchmarks.segmentation_femur [--data DIR] [--only real perturbed phantom] [--json FILE]

Prints one table per part and a summary of the quality gate and, with ``--json``, writes all rows to a file. Real references: a
network's outline (``ts_example_3mm``) and a mask made for a finite-element study (``fe_femur_left``). Where there is none, a
perturbed result is compared with the unperturbed one, which measures stability and not accuracy. Phantoms have an exact
truth but a simpler anatomy.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from phantoms import make_phantom
from pipeline.errors import Severity
from pipeline.segmentation.femur.chain import FoundFemur, find_femora
from pipeline.segmentation.femur.quality import neck_shaft_angle_deg
from pipeline.segmentation.model import FemurLandmarks
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
    dice: float | None
    surface_mm: float | None
    head_error_mm: float | None
    radius_error_mm: float | None
    neck_angle_error_deg: float | None
    shaft_angle_error_deg: float | None
    lesser_edge_error_mm: float | None
    neck_shaft_deg: float | None
    seconds: float


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
                edge = distance_mm(
                    landmarks.lesser_trochanter_lower_edge_lps_mm, true.lesser_trochanter_lower_edge_lps_mm
                )
        codes = " ".join(g.code for g in femur.findings if g.severity is not Severity.INFO)
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
        rows.append(Row(case, change, "-", "absent", "", 0.0, *[None] * 8, seconds))
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


def phantom_volume(options: dict, image: dict) -> tuple[Volume, dict[str, Reference]]:
    phantom = make_phantom("torso", seed=1, **options)
    scan = phantom.image(120.0, **image)
    truth = phantom.truth(scan)
    hu, matrix, _ = canonical_order(scan.hu, np.asarray(scan.lattice.index_to_lps))
    labels, _, _ = canonical_order(scan.labels, np.asarray(scan.lattice.index_to_lps))
    references = {}
    for t in truth.femora:
        landmarks = FemurLandmarks(
            head_centre_lps_mm=np.array(t.head_centre_lps_mm),
            head_radius_mm=t.head_radius_mm,
            neck_axis_lps=np.array(t.neck_axis_lps),
            shaft_axis_lps=np.array(t.shaft_axis_lps),
            lesser_trochanter_lower_edge_lps_mm=np.array(t.lesser_trochanter_lower_edge_lps_mm),
        )
        references[t.side] = Reference(labels == t.label, landmarks)
    return volume_of(hu, matrix), references


def perturbations(volume: Volume, masks: list[NDArray[np.bool_]]) -> Iterator[tuple[str, Volume, Callable]]:
    """Name, changed volume, and what the change does to a mask on the old grid."""
    hu = volume.hu.astype(np.float32)
    padding = hu < -1000
    generator = np.random.default_rng(7)

    def same(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return mask

    def changed(new: NDArray[np.float32]) -> Volume:
        return Volume(np.where(padding, hu, new).astype(np.float32), volume.grid)

    for sd in (30, 60, 100):
        yield f"noise {sd} HU", changed(hu + generator.normal(0, sd, hu.shape).astype(np.float32)), same
    for loss in (60, 120):
        inner = np.zeros(hu.shape, dtype=bool)
        for mask in masks:
            depth = ndimage.distance_transform_edt(mask, sampling=volume.spacing_mm)
            inner |= depth > 2.5
        yield f"trabecular -{loss} HU", changed(np.where(inner, np.maximum(hu - loss, -80), hu)), same
    for factor in (0.7, 0.5, 0.4):
        yield f"bone contrast x {factor}", changed(np.where(hu > 60, 60 + (hu - 60) * factor, hu)), same
    parts = max(2, round(5.0 / volume.spacing_mm[0]))
    whole = hu.shape[0] // parts * parts
    thick = hu[:whole].reshape(-1, parts, *hu.shape[1:]).mean(axis=1)
    matrix = volume.grid.index_to_lps.copy()
    matrix[:3, 3] = volume.grid.to_lps(np.array([(parts - 1) / 2, 0.0, 0.0]))
    matrix[:3, 0] *= parts
    yield (
        f"{parts * volume.spacing_mm[0]:.1f} mm slices",
        Volume(thick, Grid(thick.shape, matrix)),
        lambda mask: mask[:whole].reshape(-1, parts, *hu.shape[1:]).mean(axis=1) >= 0.5,
    )
    for axis, name in ((2, "flexed"), (0, "turned"), (1, "tilted")):
        for degrees in (-12, 12):
            turn = _rotation(volume, axis, degrees)
            new = ndimage.affine_transform(hu, *turn, order=1, mode="nearest")
            yield (
                f"{name} {degrees:+d} degrees",
                Volume(new.astype(np.float32), volume.grid),
                lambda mask, turn=turn: ndimage.affine_transform(mask.astype(np.float32), *turn, order=1) > 0.5,
            )
    half = ndimage.shift(hu, (0.5, 0.5, 0.5), order=1, mode="nearest")
    yield "half a voxel", changed(half), lambda mask: ndimage.shift(mask.astype(np.float32), 0.5, order=1) > 0.5


def _rotation(volume: Volume, axis: int, degrees: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrix and offset for ``affine_transform``: a turn by `degrees` about one array axis through the middle."""
    spacing = np.array(volume.spacing_mm)
    a, b = [k for k in range(3) if k != axis]
    turn = np.eye(3)
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn[a, a], turn[a, b], turn[b, a], turn[b, b] = cos, -sin, sin, cos
    matrix = turn * spacing[None, :] / spacing[:, None]
    centre = (np.array(volume.shape) - 1) / 2
    return matrix, centre - matrix @ centre


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


def table(rows: list[Row]) -> str:
    """Markdown table."""

    def number(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    head = (
        "| case | change | side | status | reasons | score | Dice | surface mm | head mm | R mm | neck deg | shaft deg "
    )
    head += "| LT edge mm |"
    lines = [head, "| --- | --- | --- | --- | --- " + "| ---: " * 8 + "|"]
    for r in rows:
        numbers = [
            number(r.score, 2), number(r.dice, 3), number(r.surface_mm, 2), number(r.head_error_mm, 1),
            number(r.radius_error_mm, 1), number(r.neck_angle_error_deg, 1), number(r.shaft_angle_error_deg, 1),
            number(r.lesser_edge_error_mm, 1),
        ]  # fmt: skip
        lines.append(f"| {r.case} | {r.change} | {r.side} | {r.status} | {r.codes} | " + " | ".join(numbers) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("OPENBCT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument(
        "--only", nargs="+", choices=["real", "perturbed", "phantom"], default=["real", "perturbed", "phantom"]
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: list[Row] = []
    if "real" in arguments.only:
        for case in REAL_CASES:
            if (arguments.data / case).is_dir():
                rows += rows_of(case, "", *real_volume(arguments.data, case))
    if "perturbed" in arguments.only:
        for case in ("ts_example_3mm", "sts044_hip_right", "sts031_hip_right", "fe_femur_left"):
            if (arguments.data / case).is_dir():
                rows += perturbed_rows(case, *real_volume(arguments.data, case))
    if "phantom" in arguments.only:
        for name, (options, image) in PHANTOMS.items():
            volume, references = phantom_volume(options, image)
            if name == next(iter(PHANTOMS)):
                rows += perturbed_rows(f"phantom, {name}", volume, references)
            else:
                rows += rows_of(f"phantom, {name}", "", volume, references)
    print(table(rows))
    print()
    print(gate_summary(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
