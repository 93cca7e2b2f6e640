"""Synthetic people to train on: mineral density and tissue of every voxel, from the digital phantoms.

    python -m training.subjects --count 40 --out FOLDER

Each is a whole trunk from T1 to the thighs with a posture, size, density, fractures, implants and variants of its own, at 2 mm.
No HU are stored: what a tissue reads is drawn anew for each patch (`training.patches`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phantoms import make_phantom
from phantoms.materials import Materials
from phantoms.solids import Solid
from phantoms.vertebral_body import ALL_LEVELS
from phantoms.voxelise import render

VOXEL_MM = 2.0
PLACES_PER_CLASS = 3000
_MOST_MINERAL_MG_CM3 = 1500.0


class Tissue(IntEnum):
    """What a voxel of a subject is made of; the order of the bones is that of `Target`."""

    AIR = 0
    TABLE = 1
    SKIN_FAT = 2
    MUSCLE = 3
    INNER_FAT = 4
    BOWEL = 5
    GAS = 6
    LIVER = 7
    SPLEEN = 8
    KIDNEY = 9
    BLADDER = 10
    LUNG = 11
    HEART = 12
    ARTERY = 13
    VEIN = 14
    THECAL_SAC = 15
    JOINT = 16
    METAL = 17
    CEMENT = 18
    DISC = 19
    BODY = 20
    ARCH = 21
    RIB = 22
    SACRUM = 23
    HIP_BONE = 24
    FEMUR_LEFT = 25
    FEMUR_RIGHT = 26
    OUTSIDE = 27


_TISSUE_OF_SOLID: tuple[tuple[str, Tissue], ...] = (
    ("mattress", Tissue.TABLE),
    ("table", Tissue.TABLE),
    ("subcutaneous_fat", Tissue.SKIN_FAT),
    ("muscle", Tissue.MUSCLE),
    ("visceral_fat", Tissue.INNER_FAT),
    ("mediastinum", Tissue.INNER_FAT),
    ("renal_sinus", Tissue.INNER_FAT),
    ("fat_plane", Tissue.INNER_FAT),
    ("epidural_fat", Tissue.INNER_FAT),
    ("bowel_gas", Tissue.GAS),
    ("stomach_gas", Tissue.GAS),
    ("rectal_gas", Tissue.GAS),
    ("bowel", Tissue.BOWEL),
    ("stomach", Tissue.BOWEL),
    ("rectum", Tissue.BOWEL),
    ("liver", Tissue.LIVER),
    ("spleen", Tissue.SPLEEN),
    ("kidney", Tissue.KIDNEY),
    ("bladder", Tissue.BLADDER),
    ("lung", Tissue.LUNG),
    ("heart", Tissue.HEART),
    ("artery", Tissue.ARTERY),
    ("aorta", Tissue.ARTERY),
    ("vein", Tissue.VEIN),
    ("vena_cava", Tissue.VEIN),
    ("thecal_sac", Tissue.THECAL_SAC),
    ("joint", Tissue.JOINT),
    ("screws", Tissue.METAL),
    ("cement", Tissue.CEMENT),
    ("disc", Tissue.DISC),
    ("vertebra", Tissue.ARCH),  # the body is told from its arch in a pass of its own
    ("rib", Tissue.RIB),
    ("sacrum", Tissue.SACRUM),
    ("hemipelvis", Tissue.HIP_BONE),
    ("femur_left", Tissue.FEMUR_LEFT),
    ("femur_right", Tissue.FEMUR_RIGHT),
)


@dataclass(frozen=True)
class Subject:
    """One synthetic person on a regular array of cubes, axes towards the head, the back and the left.

    Attributes
    ----------
    mineral_mg_cm3 : int16 ndarray of shape (Z, Y, X)
        Mean over each voxel, K2HPO4.
    tissue : uint8 ndarray of shape (Z, Y, X)
        A `Tissue` each.
    places : dict of int to int32 ndarray of shape (N, 3)
        Some voxels of each tissue, to choose the middle of a patch from.
    voxel_mm : float
    """

    mineral_mg_cm3: NDArray[np.int16]
    tissue: NDArray[np.uint8]
    places: dict[int, NDArray[np.int32]]
    voxel_mm: float = VOXEL_MM


def tissue_of(solid_name: str) -> Tissue:
    """Tissue of a solid by its name in the phantom.

    Raises
    ------
    KeyError
        If the phantom has a solid that nobody has thought of here.
    """
    for start, tissue in _TISSUE_OF_SOLID:
        if solid_name.startswith(start):
            return tissue
    raise KeyError(f"no tissue is known for the solid {solid_name!r}")


def random_options(rng: np.random.Generator) -> dict[str, Any]:
    """Options of a torso: what people differ in, wider than they do."""
    levels = list(ALL_LEVELS[:17])

    def some(chance: float, count: int) -> tuple[str, ...]:
        return tuple(str(v) for v in rng.choice(levels, count, replace=False)) if rng.random() < chance else ()

    fractures = {
        level: (str(rng.choice(["wedge", "biconcave", "crush"])), float(rng.uniform(0.1, 0.5)))
        for level in some(0.6, int(rng.integers(1, 5)))
    }
    return {
        "sex": str(rng.choice(["F", "M"])),
        "age_years": int(rng.integers(30, 92)),
        "top_level": "T1",
        "spine_density_mg_cm3": float(rng.uniform(25.0, 220.0)),
        "hip_density_scale": float(rng.uniform(0.55, 1.25)),
        "size": float(rng.uniform(0.82, 1.15)),
        "fat_mm": float(rng.uniform(5.0, 55.0)),
        "fractures": fractures,
        "lordosis": float(rng.uniform(0.5, 1.5)),
        "sacral_slope_deg": float(rng.uniform(22.0, 52.0)),
        "scoliosis_deg": float(rng.uniform(0.0, 35.0)) if rng.random() < 0.4 else 0.0,
        "variation": float(rng.uniform(0.02, 0.15)),
        "texture": float(rng.uniform(0.1, 0.4)),
        "neck_shaft_angle_deg": float(rng.uniform(118.0, 142.0)),
        "anteversion_deg": float(rng.uniform(0.0, 28.0)),
        "cement": some(0.08, 1),
        "screws": some(0.12, 2),
        "osteophytes": some(0.6, int(rng.integers(1, 8))),
        "endplate_sclerosis": some(0.4, int(rng.integers(1, 6))),
        "lesions": {level: float(rng.choice([-150.0, 350.0])) for level in some(0.3, 2)},
        "lumbar_vertebrae": int(rng.choice([5, 5, 5, 5, 6])),
        "rib_pairs": int(rng.choice([11, 12, 12, 12, 12, 13])),
    }


def make_subject(seed: int, *, voxel_mm: float = VOXEL_MM, threads: int = 2, **options: Any) -> Subject:
    """The subject of a seed; `options` replace what was drawn for the torso."""
    rng = np.random.default_rng(seed)
    phantom = make_phantom("torso", seed=seed, **(random_options(rng) | options))
    lattice = phantom.lattice(pixel_mm=voxel_mm, spacing_mm=voxel_mm)

    def paint(solids: list[Solid]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        return render(solids, lattice, Materials.mineral_only(), background=None, seed=seed, threads=threads)

    mineral, tissue = paint([replace(s, label=int(tissue_of(s.name)), label_primitive=None) for s in phantom.solids])
    _, body = paint([replace(s, label=int(Tissue.BODY)) for s in phantom.solids if s.name.startswith("vertebra")])
    tissue[(body == Tissue.BODY) & (tissue == Tissue.ARCH)] = Tissue.BODY
    stored = np.rint(np.clip(mineral, 0.0, _MOST_MINERAL_MG_CM3)).astype(np.int16)
    return Subject(stored, tissue, _places(tissue, rng), voxel_mm)


def _places(tissue: NDArray[np.uint8], rng: np.random.Generator) -> dict[int, NDArray[np.int32]]:
    flat = tissue.ravel()
    found = {}
    for kind in Tissue:
        indices = np.flatnonzero(flat == kind)
        if len(indices):
            chosen = rng.choice(indices, min(PLACES_PER_CLASS, len(indices)), replace=False)
            found[int(kind)] = np.stack(np.unravel_index(chosen, tissue.shape), axis=1).astype(np.int32)
    return found


def save_subject(subject: Subject, folder: Path, name: str) -> None:
    """Write plain arrays of the usual voxels, so that patches can be read from them without loading the whole."""
    np.save(folder / f"{name}_mineral.npy", subject.mineral_mg_cm3)
    np.save(folder / f"{name}_tissue.npy", subject.tissue)
    places: dict[str, Any] = {str(kind): where for kind, where in subject.places.items()}
    np.savez(folder / f"{name}_places.npz", **places)


def load_subjects(folder: Path) -> list[Subject]:
    """All subjects of a folder, mapped from their files and not read until needed."""
    subjects = []
    for path in sorted(folder.glob("*_mineral.npy")):
        name = path.name.removesuffix("_mineral.npy")
        with np.load(folder / f"{name}_places.npz") as stored:
            places = {int(kind): stored[kind] for kind in stored.files}
        tissue = np.load(folder / f"{name}_tissue.npy", mmap_mode="r")
        subjects.append(Subject(np.load(path, mmap_mode="r"), tissue, places))
    return subjects


def main(arguments: list[str] | None = None, *, report: Callable[[str], object] = print) -> int:
    """Make subjects and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in range(options.first_seed, options.first_seed + options.count):
        subject = make_subject(seed)
        save_subject(subject, options.out, f"subject{seed}")
        report(f"subject {seed}: {' x '.join(str(n) for n in subject.tissue.shape)} voxels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
