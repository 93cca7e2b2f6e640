"""Patches of synthetic CT with every voxel named: a subject deformed, given random HU, spoilt as scanners do, and cut out.

What a tissue reads is drawn anew for each patch, well beyond what people differ in, after the idea of SynthSeg (Billot et al.,
Med Image Anal 2023;86:102789): a network that has seen every appearance cannot rely on any. HU mean something in CT, so that
the ranges keep their order: gas below fat below muscle below bone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from training.subjects import Subject, Tissue


class Target(IntEnum):
    """What the network says of a voxel."""

    NOTHING = 0
    DISC = 1
    BODY = 2
    ARCH = 3
    RIB = 4
    SACRUM = 5
    HIP_BONE = 6
    FEMUR_LEFT = 7
    FEMUR_RIGHT = 8


CHANNELS = 2
_FIRST_BONE = int(Tissue.DISC) - int(Target.DISC)
_CENTRES = {
    Tissue.BODY: 0.34,
    Tissue.ARCH: 0.06,
    Tissue.RIB: 0.05,
    Tissue.SACRUM: 0.11,
    Tissue.HIP_BONE: 0.08,
    Tissue.FEMUR_LEFT: 0.14,
    Tissue.FEMUR_RIGHT: 0.14,
    Tissue.MUSCLE: 0.04,
    Tissue.BOWEL: 0.04,
}
"""How often the middle of a patch lies in which tissue, before it is moved at random."""

_HU_RANGE: dict[Tissue, tuple[float, float]] = {
    Tissue.AIR: (-1024.0, -980.0),
    Tissue.TABLE: (-950.0, -100.0),
    Tissue.SKIN_FAT: (-130.0, -60.0),
    Tissue.MUSCLE: (15.0, 90.0),
    Tissue.INNER_FAT: (-130.0, -30.0),
    Tissue.BOWEL: (-60.0, 120.0),
    Tissue.GAS: (-1000.0, -600.0),
    Tissue.LIVER: (10.0, 160.0),
    Tissue.SPLEEN: (20.0, 170.0),
    Tissue.KIDNEY: (10.0, 260.0),
    Tissue.BLADDER: (-10.0, 60.0),
    Tissue.LUNG: (-950.0, -600.0),
    Tissue.HEART: (20.0, 200.0),
    Tissue.ARTERY: (20.0, 80.0),
    Tissue.VEIN: (20.0, 80.0),
    Tissue.THECAL_SAC: (-10.0, 60.0),
    Tissue.JOINT: (0.0, 110.0),
    Tissue.METAL: (2000.0, 6000.0),
    Tissue.CEMENT: (700.0, 2500.0),
    Tissue.DISC: (20.0, 150.0),
}
_MARROW_HU = (-70.0, 40.0)
_ENHANCED_HU = (100.0, 450.0)
_TABULATED_CORTEX = 1050.0


@dataclass(frozen=True)
class Patch:
    """One cube of synthetic CT.

    Attributes
    ----------
    hu : float32 ndarray of shape (N, N, N)
    target : uint8 ndarray of shape (N, N, N)
        A `Target` each.
    """

    hu: NDArray[np.float32]
    target: NDArray[np.uint8]


def network_input(hu: NDArray) -> NDArray[np.float32]:
    """Two views of the HU, (2, *shape): a narrow window in which bone stands out from tissue, and nearly the whole range."""
    values = np.asarray(hu, np.float32)
    return np.stack([np.clip((values - 100.0) / 250.0, -1.5, 3.0), np.clip(values / 1000.0, -1.0, 2.5)])


@njit(cache=True, nogil=True)
def _cut(
    mineral: np.ndarray, tissue: np.ndarray, matrix: np.ndarray, bend: np.ndarray, outside: int,
    out_mineral: np.ndarray, out_tissue: np.ndarray,
) -> None:  # fmt: skip
    """Mineral (trilinear) and tissue (nearest) at ``matrix @ index + bend``; `bend` is a coarse field of displacements."""
    count, knots = out_mineral.shape[0], bend.shape[1]
    depth, rows, columns = mineral.shape
    scale = (knots - 1) / (count - 1)
    moved = np.empty(3)
    for k in range(count):
        a = min(int(k * scale), knots - 2)
        fa = k * scale - a
        for j in range(count):
            b = min(int(j * scale), knots - 2)
            fb = j * scale - b
            for i in range(count):
                c = min(int(i * scale), knots - 2)
                fc = i * scale - c
                for n in range(3):
                    place = matrix[n, 0] * k + matrix[n, 1] * j + matrix[n, 2] * i + matrix[n, 3]
                    low = (bend[n, a, b, c] * (1 - fc) + bend[n, a, b, c + 1] * fc) * (1 - fb)
                    low += (bend[n, a, b + 1, c] * (1 - fc) + bend[n, a, b + 1, c + 1] * fc) * fb
                    high = (bend[n, a + 1, b, c] * (1 - fc) + bend[n, a + 1, b, c + 1] * fc) * (1 - fb)
                    high += (bend[n, a + 1, b + 1, c] * (1 - fc) + bend[n, a + 1, b + 1, c + 1] * fc) * fb
                    moved[n] = place + low * (1 - fa) + high * fa
                z, y, x = moved
                if not (0 <= z <= depth - 1 and 0 <= y <= rows - 1 and 0 <= x <= columns - 1):
                    out_mineral[k, j, i] = 0.0
                    out_tissue[k, j, i] = outside
                    continue
                out_tissue[k, j, i] = tissue[int(z + 0.5), int(y + 0.5), int(x + 0.5)]
                z0, y0, x0 = min(int(z), depth - 2), min(int(y), rows - 2), min(int(x), columns - 2)
                fz, fy, fx = z - z0, y - y0, x - x0
                total = 0.0
                for p in range(2):
                    for q in range(2):
                        weight = (fz if p else 1 - fz) * (fy if q else 1 - fy)
                        total += weight * (
                            mineral[z0 + p, y0 + q, x0] * (1 - fx) + mineral[z0 + p, y0 + q, x0 + 1] * fx
                        )
                out_mineral[k, j, i] = total


def make_patch(subject: Subject, rng: np.random.Generator, *, edge: int = 48, voxel_mm: float = 3.0) -> Patch:
    """A patch of `edge` voxels of `voxel_mm` along each axis."""
    mineral, tissue, mirrored = _deformed(subject, rng, edge, voxel_mm)
    target = targets_of(tissue, mirrored=mirrored)
    hu = _appearance(mineral, tissue, rng, voxel_mm)
    _foreign_bodies(hu, tissue, target, rng, voxel_mm)
    hu = _scanned(hu, rng, voxel_mm)
    _cut_field_of_view(hu, tissue, target, rng)
    return Patch(np.clip(hu, -1024.0, 3071.0).astype(np.float32), target)


def targets_of(tissue: NDArray[np.uint8], *, mirrored: bool = False) -> NDArray[np.uint8]:
    """Targets of tissues; a mirrored patient has left and right the other way round."""
    table = np.zeros(256, np.uint8)
    for target in Target:
        if target is not Target.NOTHING:
            table[int(target) + _FIRST_BONE] = target
    if mirrored:
        table[[Tissue.FEMUR_LEFT, Tissue.FEMUR_RIGHT]] = [Target.FEMUR_RIGHT, Target.FEMUR_LEFT]
    return np.asarray(table[tissue])


def _deformed(
    subject: Subject, rng: np.random.Generator, edge: int, voxel_mm: float
) -> tuple[NDArray[np.float32], NDArray[np.uint8], bool]:
    """Mineral and tissue of a turned, stretched and bent piece of a subject, and whether it was mirrored."""
    kinds = [kind for kind in _CENTRES if int(kind) in subject.places]
    weight = np.array([_CENTRES[kind] for kind in kinds])
    places = subject.places[int(kinds[int(rng.choice(len(kinds), p=weight / weight.sum()))])]
    middle = places[int(rng.integers(len(places)))] + rng.normal(0.0, 0.13 * edge * voxel_mm / subject.voxel_mm, 3)
    mirrored = bool(rng.random() < 0.5)
    turn = np.eye(3)
    for axis, spread_deg in enumerate((10.0, 8.0, 14.0)):  # about z, y, x: hips flex, trunks bend
        angle = np.radians(np.clip(rng.normal(0.0, spread_deg), -35, 35))
        first, second = [n for n in range(3) if n != axis]
        plane = np.eye(3)
        plane[[first, first, second, second], [first, second, first, second]] = (
            np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle),
        )  # fmt: skip
        turn = turn @ plane
    stretch = rng.uniform(0.85, 1.2) * rng.uniform(0.88, 1.14, 3)
    linear = turn @ np.diag(stretch * (1.0, 1.0, -1.0 if mirrored else 1.0)) * (voxel_mm / subject.voxel_mm)
    matrix = np.column_stack([linear, middle - linear @ np.full(3, (edge - 1) / 2)])
    bend = np.zeros((3, 17, 17, 17))
    for knots, amplitude_mm in ((4, rng.uniform(0.0, 6.0)), (8, rng.uniform(0.0, 2.5))):
        field = rng.normal(0.0, amplitude_mm / subject.voxel_mm, (3, knots, knots, knots))
        bend += np.stack([ndimage.zoom(part, 17 / knots, order=3, mode="nearest") for part in field])
    out_mineral, out_tissue = np.empty((edge,) * 3, np.float32), np.empty((edge,) * 3, np.uint8)
    _cut(subject.mineral_mg_cm3, subject.tissue, matrix, bend, int(Tissue.OUTSIDE), out_mineral, out_tissue)
    return out_mineral, out_tissue, mirrored


def _field(rng: np.random.Generator, shape: tuple[int, ...], coarse: int) -> NDArray[np.float32]:
    """Smooth random field of about unit standard deviation with `coarse` waves across the patch."""
    knots = rng.standard_normal((coarse,) * 3).astype(np.float32)
    wide = ndimage.zoom(knots, [n / coarse for n in shape], order=1, mode="nearest", grid_mode=True)
    return np.asarray(wide / max(float(wide.std()), 1e-6), np.float32)


def _appearance(
    mineral: NDArray[np.float32], tissue: NDArray[np.uint8], rng: np.random.Generator, voxel_mm: float
) -> NDArray[np.float32]:
    """Noise-free HU: a value and a texture for each tissue, mineral on top."""
    level = np.zeros(len(Tissue), np.float32)
    rough = np.zeros(len(Tissue), np.float32)
    for kind, (low, high) in _HU_RANGE.items():
        level[kind] = rng.uniform(low, high)
        rough[kind] = rng.uniform(0.0, 25.0)
    rough[Tissue.BOWEL] = rng.uniform(5.0, 90.0)
    rough[Tissue.LUNG] = rng.uniform(20.0, 150.0)
    rough[Tissue.INNER_FAT] = rng.uniform(5.0, 60.0)
    rough[Tissue.MUSCLE] = rng.uniform(5.0, 45.0)
    if rng.random() < 0.35:
        level[Tissue.BOWEL] = rng.uniform(100.0, 500.0)  # oral contrast
    if rng.random() < 0.5:
        level[[Tissue.ARTERY, Tissue.HEART]] = rng.uniform(*_ENHANCED_HU)
        level[Tissue.VEIN] = rng.uniform(40.0, 250.0)
    if rng.random() < 0.05:
        level[Tissue.BLADDER] = rng.uniform(100.0, 900.0)
    marrow = rng.uniform(*_MARROW_HU)
    level[int(Tissue.BODY) : int(Tissue.FEMUR_RIGHT) + 1] = marrow + rng.normal(0.0, 15.0, 7)
    level[Tissue.OUTSIDE] = rng.choice([-1024.0, -1000.0, level[Tissue.MUSCLE]], p=[0.6, 0.3, 0.1])
    if rng.random() < 0.05:
        level[: int(Tissue.BODY)] = rng.uniform(-100.0, 60.0)  # a bone cut out of its body, as in density images
        rough[:] = 0.0
    hu = level[tissue]
    waves = (int(rng.integers(4, 9)), int(rng.integers(10, max(11, tissue.shape[0] // 2))))
    for coarse in waves:
        hu += 0.7 * rough[tissue] * _field(rng, tissue.shape, coarse)
    # A power of the mineral moves cancellous bone against cortex; voxels of 3 mm hold both.
    shaped = _TABULATED_CORTEX * (np.maximum(mineral, 0.0) / _TABULATED_CORTEX) ** rng.uniform(0.75, 1.25)
    gain = rng.uniform(0.8, 2.0) * np.exp(rng.uniform(0.0, 0.3) * _field(rng, tissue.shape, 5))
    gain *= np.exp(rng.uniform(0.0, 0.25) * _field(rng, tissue.shape, max(4, int(tissue.shape[0] * voxel_mm / 6.0))))
    hu += shaped * gain
    return np.asarray(hu, np.float32)


def _foreign_bodies(
    hu: NDArray[np.float32], tissue: NDArray[np.uint8], target: NDArray[np.uint8], rng: np.random.Generator, voxel_mm: float
) -> None:  # fmt: skip
    """What phantoms lack: nodes, cysts, gas, calcifications, vessels, tubes, nails; never a bone, whatever they read."""
    edge = tissue.shape[0]
    grid = np.indices(tissue.shape, dtype=np.float32)
    for _ in range(int(rng.integers(0, 9))):
        kind = rng.choice(["blob", "tube", "speck", "shell", "metal"], p=[0.34, 0.3, 0.22, 0.09, 0.05])
        middle = rng.uniform(0, edge, 3).astype(np.float32)[:, None, None, None]
        away = (grid - middle) * voxel_mm
        if kind in ("tube", "metal"):
            along = rng.normal(size=3)
            along = (along / np.linalg.norm(along))[:, None, None, None]
            t = (away * along).sum(axis=0)
            distance = np.sqrt(np.maximum((away**2).sum(axis=0) - t**2, 0.0))
            inside = (distance < rng.uniform(2.0, 12.0 if kind == "tube" else 7.0)) & (
                np.abs(t) < rng.uniform(20.0, 150.0)
            )
        else:
            largest = {"blob": 30.0, "speck": 4.0, "shell": 25.0}[str(kind)]
            axes = rng.uniform(0.25 * largest, largest, 3)[:, None, None, None]
            distance = np.sqrt(((away / axes) ** 2).sum(axis=0))
            inside = (distance < 1.0) & ((distance > 0.75) | (kind != "shell"))
        if kind == "metal":
            hu[inside] = rng.uniform(1500.0, 5000.0)  # what is bone stays bone: a nail is part of a solid femur
            continue
        value = {
            "blob": rng.uniform(-150.0, 250.0),
            "tube": rng.choice([rng.uniform(20.0, 500.0), rng.uniform(-1000.0, 20.0)]),
            "speck": rng.uniform(150.0, 1500.0),
            "shell": rng.uniform(100.0, 900.0),
        }[str(kind)]
        soft = inside & (target == Target.NOTHING) & (tissue != Tissue.OUTSIDE)
        hu[soft] = value + 15.0 * rng.standard_normal(int(soft.sum()), dtype=np.float32)


def _scanned(hu: NDArray[np.float32], rng: np.random.Generator, voxel_mm: float) -> NDArray[np.float32]:
    """Blur, thick slices, noise and slow drifts, on the grid of the network."""
    blur_mm = rng.uniform(0.0, 1.6) if rng.random() < 0.8 else rng.uniform(1.6, 3.0)
    out = ndimage.gaussian_filter(hu, blur_mm / voxel_mm, truncate=2.5) if blur_mm > 0.3 else hu
    if rng.random() < 0.15:  # edge-enhancing kernels overshoot
        out = out + rng.uniform(0.3, 1.2) * (out - ndimage.gaussian_filter(out, 1.0))
    noise = rng.choice([rng.uniform(0.0, 20.0), rng.uniform(20.0, 90.0)], p=[0.7, 0.3])
    slice_mm = rng.uniform(voxel_mm, max(7.0, voxel_mm)) if rng.random() < 0.4 else voxel_mm
    if slice_mm > 1.3 * voxel_mm:
        out = ndimage.uniform_filter1d(out, max(round(slice_mm / voxel_mm), 2), axis=0)
    out = out + noise * _coloured(rng, out.shape, rng.uniform(0.0, 0.8))
    if slice_mm > 1.3 * voxel_mm:
        # Read at the slices, filled in between them: what any resampling of a thick stack does.
        count = out.shape[0]
        places = np.arange(rng.uniform(0, 1), count - 1, slice_mm / voxel_mm)
        slices = _read_along(out, places)
        out = _read_along(slices, np.clip((np.arange(count) - places[0]) * voxel_mm / slice_mm, 0, len(places) - 1))
    drift = rng.uniform(0.0, 25.0) * _field(rng, out.shape, 3)
    return np.asarray(out * rng.uniform(0.95, 1.05) + rng.uniform(-15.0, 15.0) + drift, np.float32)


def _read_along(values: NDArray[np.float32], places: NDArray[np.float64]) -> NDArray[np.float32]:
    """Values between slices, linearly, at fractional indices of the first axis."""
    low = np.minimum(places.astype(int), len(values) - 2)
    share = (places - low).astype(np.float32)[:, None, None]
    return np.asarray(values[low] * (1 - share) + values[low + 1] * share)


def _coloured(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> NDArray[np.float32]:
    white = rng.standard_normal(shape, dtype=np.float32)
    if sigma < 0.25:
        return white
    soft = ndimage.gaussian_filter(white, (0.0, sigma, sigma))
    return np.asarray(soft / soft.std(), np.float32)


def _cut_field_of_view(
    hu: NDArray[np.float32], tissue: NDArray[np.uint8], target: NDArray[np.uint8], rng: np.random.Generator
) -> None:
    """Padding beyond the edges of the scan: that of the subject, and sometimes planes drawn at random."""
    unseen = tissue == Tissue.OUTSIDE
    edge = tissue.shape[0]
    for axis in range(3):
        for forwards in (True, False):
            if rng.random() < 0.12:
                width = int(rng.integers(1, int(0.4 * edge)))
                part = slice(0, width) if forwards else slice(edge - width, edge)
                unseen[tuple(part if n == axis else slice(None) for n in range(3))] = True
    hu[unseen] = rng.choice([-1024.0, -1000.0, 0.0, -3024.0], p=[0.5, 0.35, 0.05, 0.1])
    target[unseen] = Target.NOTHING
