"""How well the vertebral bodies are found and named: on real scans, on the same scans made worse, and on phantoms.

    python -m benchmarks.segmentation_spine [--data DIR] [--only real perturbed phantom] [--json FILE]

Prints one table per part and, with ``--json``, writes all rows to a file. The reference outlines of the real scan were made by
a network, not by a person: agreement with them is not accuracy. Phantoms have an exact truth, but a simpler anatomy.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from phantoms import make_phantom
from phantoms.anatomy_spine import LABEL_OF_LEVEL
from pipeline.segmentation.spine import SpineResult, chain, segment_spine
from pipeline.segmentation.spine.body import BodyModel
from pipeline.segmentation.spine.chain import second_opinions
from pipeline.segmentation.spine.second import SecondOpinion
from pipeline.volume import Grid, Volume, canonical_order

_REFERENCE = "ts_example_3mm"
_LEVEL_NUMBERS = {"L5": 27, "L4": 28, "L3": 29, "L2": 30, "L1": 31}
_REAL_CASES = (
    "ts_example_3mm",
    "ts_thorax_cta_1p5mm",
    "lidc0314_chest_1mm",
    "ricord001012_chest_1p25mm",
    "crlm1006_abdomen_5mm",
    "cptac00189_lungbases_5mm",
    "ts_dicom_slab_j2k",
    "sts031_hip_right",
    "sts036_hip_left_truncated",
    "sts044_hip_right",
)
_PHANTOMS: dict[str, tuple[dict, dict]] = {
    "1 mm slices": ({}, {"slice_mm": 1.0}),
    "2 mm slices": ({}, {"slice_mm": 2.0}),
    "5 mm slices": ({}, {"slice_mm": 5.0}),
    "2 mm, a fifth of the dose": ({}, {"slice_mm": 2.0, "dose": 0.2}),
    "man, T4 to hips": ({"sex": "M", "top_level": "T4"}, {"slice_mm": 2.0}),
    "osteoporosis, 40 mg/cm3": ({"age_years": 82, "spine_density_mg_cm3": 40.0}, {"slice_mm": 2.0}),
    "arterial contrast": ({"contrast": "arterial"}, {"slice_mm": 2.0}),
    "scoliosis 25 degrees": ({"scoliosis_deg": 25.0}, {"slice_mm": 2.0}),
    "scoliosis 40 degrees": ({"scoliosis_deg": 40.0, "top_level": "T8"}, {"slice_mm": 1.5}),
    "sharp kernel, 3 mm": ({}, {"slice_mm": 3.0, "kernel": "sharp"}),
    "small woman": ({"size": 0.82, "fat_mm": 8.0}, {"slice_mm": 2.0}),
    "tall stout man, low dose": ({"sex": "M", "size": 1.12, "fat_mm": 60.0}, {"slice_mm": 2.0, "dose": 0.3}),
    "screws L4, L5; osteophytes": (
        {"screws": ("L4", "L5"), "osteophytes": ("L1", "L2", "L3")},
        {"slice_mm": 2.0},
    ),
    "0.6 mm slices, L1 to hips": ({"top_level": "L1", "hips": False}, {"slice_mm": 0.6}),
    "1 mm, a tenth of the dose, sharp": ({"hips": False}, {"slice_mm": 1.0, "dose": 0.1, "kernel": "sharp"}),
    "fractures of grade 3, osteophytes": (
        {
            "fractures": {"T12": ("wedge", 0.45), "L2": ("biconcave", 0.45), "L4": ("crush", 0.42)},
            "osteophytes": ("L1", "L3"),
        },
        {"slice_mm": 1.5},
    ),
    "lesions and dense endplates": (
        {"lesions": {"L1": 250.0, "L3": -80.0}, "endplate_sclerosis": ("L4", "L5"), "contrast": "venous"},
        {"slice_mm": 2.0},
    ),
    "fractures T12, L2": ({"fractures": {"T12": ("wedge", 0.3), "L2": ("biconcave", 0.3)}}, {"slice_mm": 2.0}),
}


def load(path: Path) -> tuple[NDArray, NDArray[np.float64]]:
    """Array and index-to-LPS matrix of a NIfTI file, in canonical order."""
    image = sitk.ReadImage(str(path))
    directions = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    matrix = np.eye(4)
    matrix[:3, :3] = directions[:, ::-1]
    matrix[:3, 3] = image.GetOrigin()
    array, matrix, _ = canonical_order(sitk.GetArrayFromImage(image), matrix)
    return array, matrix


def reference_bodies(folder: Path) -> dict[str, NDArray[np.bool_]]:
    """Reference mask of the body of each lumbar level."""
    whole, _ = load(folder / "labels.nii.gz")
    body, _ = load(folder / "labels_body.nii.gz")
    return {level: (whole == number) & (body == 1) for level, number in _LEVEL_NUMBERS.items()}


def agreement(
    mask: NDArray[np.bool_], reference: NDArray[np.bool_], hu: NDArray, spacing_mm: tuple[float, float, float]
) -> dict[str, float]:
    """Dice, mean surface distance (mm), volume ratio, and difference of the HU more than 6 mm inside."""

    def border(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return region & ~ndimage.binary_erosion(region)

    there = ndimage.distance_transform_edt(~border(reference), sampling=spacing_mm)[border(mask)]
    back = ndimage.distance_transform_edt(~border(mask), sampling=spacing_mm)[border(reference)]
    inner = [hu[ndimage.distance_transform_edt(m, sampling=spacing_mm) > 6.0] for m in (mask, reference)]
    return {
        "dice": 2.0 * float((mask & reference).sum()) / float(mask.sum() + reference.sum()),
        "surface_mm": float((there.sum() + back.sum()) / max(len(there) + len(back), 1)),
        "volume_ratio": float(mask.sum() / reference.sum()),
        "hu": float(inner[0].mean() - inner[1].mean()) if all(len(i) for i in inner) else float("nan"),
    }


def compare(result: SpineResult, volume: Volume, references: dict[str, NDArray[np.bool_]]) -> list[dict]:
    """One row per reference body: what lies on it, how well, under which name."""
    rows = []
    for level, reference in references.items():
        counts = np.bincount(result.labels[reference], minlength=64)
        counts[0] = counts[26] = 0
        found = next((v for v in result.vertebrae if v.label == int(counts.argmax())), None)
        row: dict = {"level": level, "named": None, "status": "absent", "dice": 0.0, "score": 0.0}
        if found is not None and counts.max() > 0:
            row |= {
                "named": found.level,
                "confidence": found.level_confidence,
                "status": found.status.value,
                "codes": sorted({f.code for f in found.findings}),
                "score": round(found.score, 3),
                "centre_lps_mm": found.frame.centre_lps_mm,
                **agreement(result.labels == found.label, reference, volume.hu, volume.spacing_mm),
            }
        rows.append(row)
    return rows


def segmented(volume: Volume) -> tuple[SpineResult, list[tuple[BodyModel, SecondOpinion]]]:
    """The result, and what the second opinion said of each body on the way: the result keeps findings only."""
    heard: list[tuple[BodyModel, SecondOpinion]] = []

    def listening(trace: chain.Trace, *, threads: int) -> list[SecondOpinion]:
        opinions = second_opinions(trace, threads=threads)
        heard.extend(zip(trace.bodies, opinions, strict=True))
        return opinions

    with patch.object(chain, "second_opinions", listening):
        return segment_spine(volume, threads=2), heard


def with_opinions(rows: list[dict], heard: list[tuple[BodyModel, SecondOpinion]]) -> list[dict]:
    """The rows with what the second opinion says of each body."""
    for row in rows:
        centre = row.pop("centre_lps_mm", None)
        for body, opinion in heard:
            if centre is not None and np.linalg.norm(body.frame.centre_lps_mm - centre) < 3.0:
                row |= {"watershed_dice": opinion.watershed_dice, "pedicle_hu": opinion.pedicle_contrast_hu}
    return rows


def _resampled(array: NDArray, move: Callable[[NDArray, NDArray, NDArray], tuple], order: int, fill: float) -> NDArray:
    """`array` read at the indices that `move` gives for each index (k, j, i)."""
    k, j, i = np.meshgrid(*(np.arange(n, dtype=float) for n in array.shape), indexing="ij")
    out = ndimage.map_coordinates(array.astype(np.float32), move(k, j, i), order=order, mode="constant", cval=fill)
    return np.asarray(np.rint(out).astype(array.dtype))


def _rotation(shape: tuple[int, ...], angle_deg: float, axes: tuple[int, int]) -> Callable:
    centre = [(n - 1) / 2 for n in shape]
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))

    def move(*index: NDArray) -> tuple[NDArray, ...]:
        moved = list(index)
        a, b = (index[axis] - centre[axis] for axis in axes)
        moved[axes[0]], moved[axes[1]] = centre[axes[0]] + c * a - s * b, centre[axes[1]] + s * a + c * b
        return tuple(moved)

    return move


def perturbations(
    hu: NDArray, references: dict[str, NDArray[np.bool_]], all_bodies: NDArray[np.bool_]
) -> dict[str, Callable[[], tuple[NDArray, dict[str, NDArray[np.bool_]], NDArray[np.float64]]]]:
    """Name to a function that gives the changed HU, the changed references and the scale of the voxel edges."""
    same = np.ones(3)
    random = np.random.default_rng(1)
    inside = ndimage.gaussian_filter(ndimage.binary_erosion(all_bodies).astype(np.float32), 0.7)

    def noise(sd: float, image: NDArray = hu) -> NDArray:
        return np.clip(image + random.normal(0, sd, image.shape), -1024, 3071).astype(np.int16)

    def loss(amount: float) -> NDArray:
        return (hu - amount * inside).astype(np.int16)

    def contrast(factor: float) -> NDArray:
        return np.where(hu > 40, 40 + factor * (hu - 40), hu).astype(np.int16)

    def warped(move: Callable) -> tuple:
        return (
            _resampled(hu, move, 1, -1000),
            {n: _resampled(m.astype(np.uint8), move, 0, 0).astype(bool) for n, m in references.items()},
            same,
        )

    def cropped(first: int, last: int, side: int = 0) -> tuple:
        return cut((slice(first, last), slice(None), slice(side, hu.shape[2] - side)))

    def cut(part: tuple[slice, slice, slice]) -> tuple:
        kept = {n: m[part] for n, m in references.items() if m[part].sum() > 0.98 * m.sum()}
        return hu[part].copy(), kept, same

    def coarse_in_plane(count: int) -> tuple:
        return (
            hu[:, ::count, ::count].copy(),
            {n: m[:, ::count, ::count] for n, m in references.items()},
            np.array([1.0, count, count]),
        )

    def kyphosis(angle_deg: float) -> Callable:
        """Bent evenly in the sagittal plane, by so much from end to end."""
        curve = np.tan(np.radians(angle_deg / 2)) / hu.shape[0]

        def move(k: NDArray, j: NDArray, i: NDArray) -> tuple:
            return k, j + curve * (k - hu.shape[0] / 2) ** 2, i

        return move

    def thick(count: int, image: NDArray = hu) -> tuple:
        top = image.shape[0] // count * count
        mean = image[:top].reshape(-1, count, *image.shape[1:]).mean(axis=1)
        masks = {n: m[:top].reshape(-1, count, *m.shape[1:]).mean(axis=1) >= 0.5 for n, m in references.items()}
        return np.rint(mean).astype(np.int16), masks, np.array([count, 1.0, 1.0])

    def scoliosis(amplitude_voxels: float) -> Callable:
        def move(k: NDArray, j: NDArray, i: NDArray) -> tuple:
            return k, j, i + amplitude_voxels * np.sin(2 * np.pi * k / hu.shape[0])

        return move

    rows = np.argwhere(np.any(references["L5"], axis=(1, 2)))
    l5_low, l4_low = int(rows.min()), int(np.argwhere(references["L4"].any(axis=(1, 2))).min())
    l1_high = int(np.argwhere(references["L1"].any(axis=(1, 2))).max())
    end = hu.shape[0]
    out: dict[str, Callable] = {"none": lambda: (hu, references, same)}
    for sd in (30, 60, 100):
        out[f"noise sd {sd} HU"] = lambda sd=sd: (noise(sd), references, same)
    for amount in (50, 110, 140):
        out[f"trabecular -{amount} HU"] = lambda amount=amount: (loss(amount), references, same)
    for factor in (0.7, 0.5, 0.4, 0.35):
        out[f"bone contrast x {factor}"] = lambda factor=factor: (contrast(factor), references, same)
    out["contrast x 0.4 + noise 30"] = lambda: (noise(30, contrast(0.4)), references, same)
    out["contrast x 0.5 + noise 60"] = lambda: (noise(60, contrast(0.5)), references, same)
    out["6 mm slices"] = lambda: thick(2)
    out["6 mm slices + noise 40"] = lambda: thick(2, noise(40))
    out["scoliosis, shear 20 mm"] = lambda: warped(scoliosis(20 / 3))
    for angle in (15, 30):
        out[f"axial rotation {angle} deg"] = lambda angle=angle: warped(_rotation(hu.shape, angle, (1, 2)))
    for angle in (20, -15):
        out[f"sagittal rotation {angle} deg"] = lambda angle=angle: warped(_rotation(hu.shape, angle, (0, 1)))
    for angle in (20, 40):
        out[f"kyphosis {angle} deg, shear"] = lambda angle=angle: warped(kyphosis(angle))
    out["rotation 15 deg, contrast x 0.5"] = lambda: (
        np.where(
            (turned := warped(_rotation(hu.shape, 15, (1, 2))))[0] > 40, 40 + 0.5 * (turned[0] - 40), turned[0]
        ).astype(np.int16),
        *turned[1:],
    )
    out["coronal rotation 15 deg"] = lambda: warped(_rotation(hu.shape, 15, (0, 2)))
    out["mirrored"] = lambda: (
        np.ascontiguousarray(hu[:, :, ::-1]), {n: np.ascontiguousarray(m[:, :, ::-1]) for n, m in references.items()}, same
    )  # fmt: skip
    out["lateral field 60 mm"] = lambda: cropped(0, end, hu.shape[2] // 2 - 20)
    canal_column, behind = hu.shape[2] // 2, int(np.argwhere(references["L3"].any(axis=(0, 2))).max())
    out["cropped left of the midline"] = lambda: cut((slice(None), slice(None), slice(canal_column - 18, None)))
    out["cropped right of the midline"] = lambda: cut((slice(None), slice(None), slice(0, canal_column + 18)))
    out["cropped 15 mm behind the canal"] = lambda: cut((slice(None), slice(0, behind + 10), slice(None)))
    out["cropped above L5/S1"] = lambda: cropped(l4_low - 3, end)
    out["cropped to L1-L5"] = lambda: cropped(l5_low - 1, l1_high + 3)
    return out


def run_perturbed(data: Path) -> list[dict]:
    hu, matrix = load(data / _REFERENCE / "ct.nii.gz")
    body, _ = load(data / _REFERENCE / "labels_body.nii.gz")
    references = reference_bodies(data / _REFERENCE)
    print(f"\n{'change':28s}{'Dice L1 ... L5 (named)':64s}{'mean':>7s}{'right':>7s}{'wrong':>7s}{'status':>24s}")
    rows = []
    for name, change in perturbations(hu, references, body == 1).items():
        changed, kept, scale = change()
        geometry = matrix.copy()
        geometry[:3, :3] *= scale
        volume = Volume(np.ascontiguousarray(changed), Grid(changed.shape, geometry))
        result, heard = segmented(volume)
        found = with_opinions(compare(result, volume, kept)[::-1], heard)
        right = sum(r["named"] == r["level"] for r in found)
        wrong = sum(r["named"] is not None and r["named"] != r["level"] for r in found)
        text = "  ".join(f"{r['dice']:.3f} ({r['named'] or '-'})" for r in found)
        status = " ".join(r["status"][:4] for r in found)
        mean = float(np.mean([r["dice"] for r in found]))
        print(f"{name:28s}{text:64s}{mean:7.3f}{right:4d}/{len(found)}{wrong:7d}  {status}")
        rows.append({"part": "perturbed", "change": name, "bodies": found})
    return rows


def run_real(data: Path) -> list[dict]:
    print(f"\n{'case':28s}{'seconds':>8s}{'bodies':>8s}{'failed':>8s}  levels; findings of the spine")
    rows = []
    for case in _REAL_CASES:
        if not (data / case).is_dir():
            continue
        array, matrix = load(data / case / "ct.nii.gz")
        volume = Volume(array, Grid(array.shape, matrix))
        start = time.perf_counter()
        result, heard = segmented(volume)
        seconds = time.perf_counter() - start
        failed = sum(v.status.value == "failed" for v in result.vertebrae)
        names = " ".join(v.level or "?" for v in result.vertebrae)
        codes = ", ".join(f.code for f in result.findings)
        print(f"{case:28s}{seconds:8.2f}{len(result.vertebrae):8d}{failed:8d}  {names}; {codes}")
        rows.append({
            "part": "real", "case": case, "seconds": seconds,
            "bodies": [
                {"name": v.name, "status": v.status.value, "score": v.score, "codes": [f.code for f in v.findings]}
                for v in result.vertebrae
            ],
            "findings": [f.text for f in result.findings],
        })  # fmt: skip
        if case == _REFERENCE:
            for row in with_opinions(compare(result, volume, reference_bodies(data / case))[::-1], heard):
                print(
                    f"    {row['level']}: Dice {row['dice']:.3f}, surface {row['surface_mm']:.2f} mm, volume"
                    f" {100 * (row['volume_ratio'] - 1):+.1f} %, inner HU {row['hu']:+.1f}, named {row['named']}"
                )
                rows.append({"part": "reference", **row})
    return rows


def run_phantoms(wanted: Sequence[str] = ()) -> list[dict]:
    print(f"\n{'phantom':28s}{'bodies':>8s}{'right':>7s}{'wrong':>7s}{'ok':>5s}{'Dice':>8s}{'lowest':>8s}"
          f"{'height error: mean':>20s}{'sd (mm)':>9s}{'worst':>8s}{'s':>7s}")  # fmt: skip
    name_of = {number: level for level, number in LABEL_OF_LEVEL.items()}
    rows = []
    for title, (options, imaging) in _PHANTOMS.items():
        if wanted and title not in wanted:
            continue
        phantom = make_phantom("torso", seed=3, **options)
        image = phantom.image(120.0, **imaging)
        truth = phantom.truth(image)
        matrix = np.eye(4)
        matrix[:3, 3] = image.lattice.to_lps(np.zeros(3))
        for axis in range(3):
            matrix[:3, axis] = np.asarray(image.lattice.to_lps(np.eye(3)[axis])) - matrix[:3, 3]
        hu, canonical, _ = canonical_order(image.hu, matrix)
        labels, _, _ = canonical_order(image.labels, matrix)
        volume = Volume(hu, Grid(hu.shape, canonical))
        start = time.perf_counter()
        result, heard = segmented(volume)
        seconds = time.perf_counter() - start
        bodies: list[dict] = []
        for vertebra in result.vertebrae:
            mask = result.labels == vertebra.label
            counts = np.bincount(labels[mask], minlength=64)
            counts[0] = 0
            level = name_of.get(int(counts.argmax()))
            known = next((v for v in truth.vertebrae if v.level == level), None)
            if known is None:
                continue
            reference = labels == known.label
            errors = _height_errors(vertebra, known)
            bodies.append({
                "level": level, "named": vertebra.level, "status": vertebra.status.value, "score": vertebra.score,
                "dice": 2.0 * float((mask & reference).sum()) / float(mask.sum() + reference.sum()),
                "centre_lps_mm": vertebra.frame.centre_lps_mm, "height_errors_mm": errors,
                "codes": [f.code for f in vertebra.findings],
            })  # fmt: skip
        with_opinions(bodies, heard)
        heights = np.array([e for b in bodies if b["status"] != "failed" for e in b["height_errors_mm"]])
        heights = heights[np.isfinite(heights)] if len(heights) else np.array([np.nan])
        right = sum(b["named"] == b["level"] for b in bodies)
        wrong = sum(b["named"] not in (None, b["level"]) for b in bodies)
        fine = sum(b["status"] == "ok" for b in bodies)
        dice = [b["dice"] for b in bodies] or [0.0]
        print(
            f"{title:28s}{len(bodies):8d}{right:7d}{wrong:7d}{fine:5d}{np.mean(dice):8.3f}{min(dice):8.3f}"
            f"{heights.mean():20.2f}{heights.std():9.2f}{np.abs(heights).max():8.2f}{seconds:7.1f}"
        )
        rows.append({"part": "phantom", "phantom": title, "seconds": seconds, "bodies": bodies})
    return rows


def gate_tables(rows: list[dict]) -> str:
    """How status, score and second opinion go with the truth, over all bodies with a reference."""
    bodies = [b for r in rows if r["part"] in ("perturbed", "phantom") for b in r["bodies"] if b["status"] != "absent"]
    good, bad = [b for b in bodies if b["dice"] >= 0.9], [b for b in bodies if b["dice"] < 0.8]
    naming = {"level_unknown", "level_uncertain", "level_conflict", "level_anchor"}
    clear = sum(b["status"] == "ok" or not set(b["codes"]) - naming for b in good)
    lines = [
        f"{len(bodies)} bodies; {len(good)} with a Dice of 0.90 or more: {sum(b['status'] == 'ok' for b in good)} ok, "
        f"{clear} with no doubt but the name, {sum(b['status'] != 'failed' for b in good)} not refused.",
        f"{len(bad)} with a Dice below 0.80: {sum(b['status'] == 'ok' for b in bad)} ok, "
        f"{sum(b['status'] == 'warning' for b in bad)} with a warning.",
    ]
    for key, edges in (
        ("score", (0.0, 0.3, 0.6, 0.8, 0.95, 1.01)),
        ("watershed_dice", (0.0, 0.7, 0.76, 0.8, 0.84, 0.88, 1.0)),
    ):
        lines += ["", f"| {key} | bodies | mean Dice | lowest Dice | refused |", "| --- | --- | --- | --- | --- |"]
        for low, high in pairwise(edges):
            part = [b for b in bodies if low <= b.get(key, -1.0) < high]
            if part:
                dice = [b["dice"] for b in part]
                refused = sum(b["status"] == "failed" for b in part)
                lines.append(
                    f"| {low:.2f}-{min(high, 1.0):.2f} | {len(part)} | {np.mean(dice):.3f} | {min(dice):.3f} | {refused} |"
                )
    return "\n".join(lines)


def _height_errors(vertebra, known) -> list[float]:  # type: ignore[no-untyped-def]
    """Anterior, middle and posterior height of the surfaces less the truth, at the points where the truth is defined."""
    points = vertebra.frame.to_frame(np.array(known.points_lps_mm))
    surface = vertebra.surface
    step = surface.left_mm[1] - surface.left_mm[0]
    errors = []
    for n, expected in enumerate((known.anterior_mm, known.middle_mm, known.posterior_mm)):
        at = points[2 * n : 2 * n + 2, :2].mean(axis=0)
        index = [[(at[0] - surface.left_mm[0]) / step], [(at[1] - surface.posterior_mm[0]) / step]]
        height = ndimage.map_coordinates(surface.upper_mm - surface.lower_mm, index, order=1, cval=np.nan)[0]
        errors.append(float(height - expected))
    return errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("OPENBCT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder of the development set of real CT")
    parser.add_argument("--only", nargs="*", choices=("real", "perturbed", "phantom"), default=None)
    parser.add_argument("--phantoms", nargs="*", default=(), help="only these phantoms, by their titles")
    parser.add_argument("--json", type=Path, help="write all rows to this file")
    options = parser.parse_args()
    parts = options.only or ("real", "perturbed", "phantom")
    rows: list[dict] = []
    if "real" in parts:
        rows += run_real(options.data)
    if "perturbed" in parts:
        rows += run_perturbed(options.data)
    if "phantom" in parts:
        rows += run_phantoms(options.phantoms)
    if {"perturbed", "phantom"} & set(parts):
        print()
        print(gate_tables(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
