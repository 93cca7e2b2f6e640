"""Pictures of the phantoms for the documentation: ``python -m phantoms.gallery OUT.png``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phantoms.image import PhantomImage
from phantoms.kinds import make_phantom
from phantoms.phantom import Phantom
from phantoms.voxelise import Lattice

SOFT, BONE = (-150.0, 250.0), (-250.0, 900.0)


def _plane(image: PhantomImage, axis: int, at_mm: float) -> tuple[NDArray[np.int16], float]:
    """One plane of an image as it is shown (head or front up), and its aspect ratio; `axis` 0 axial, 1 coronal, 2 sagittal."""
    matrix = image.lattice.index_to_lps
    world = 2 - axis
    index = round((at_mm - matrix[world, 3]) / matrix[world, axis])
    plane = np.take(image.hu, np.clip(index, 0, image.hu.shape[axis] - 1), axis=axis)
    z, y, x = image.spacing
    aspect = {0: y / x, 1: z / x, 2: z / y}[axis]
    return (plane if axis == 0 else plane[::-1]), aspect


def _slice(phantom: Phantom, z_mm: float, **options: Any) -> PhantomImage:
    """One slice of 2 mm, simulated as physics."""
    low, high = phantom.low_mm.copy(), phantom.high_mm.copy()
    low[2], high[2] = z_mm - 1.0, z_mm + 1.0
    return phantom.image(
        slice_mm=2.0, lattice=Lattice.upright(low, high, (2.0, 0.8, 0.8)), mode="projections", **options
    )


def draw(path: Path | str) -> Path:
    """Draw the gallery and save it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    torso = make_phantom("torso", seed=1, rods="mindways", fractures={"T12": ("wedge", 0.34)}).image(
        slice_mm=2.0, pixel_mm=0.9
    )
    chest = make_phantom(
        "torso", seed=4, sex="M", age_years=78, top_level="T4", scoliosis_deg=18, fat_mm=32.0, contrast="venous", hips=False,
        fractures={"T8": ("wedge", 0.35), "L1": ("biconcave", 0.28), "L3": ("crush", 0.3)},
    ).image(slice_mm=2.5, pixel_mm=1.1)  # fmt: skip
    spine_phantom = make_phantom("esp").image(slice_mm=1.0, pixel_mm=0.7)
    screws = make_phantom("torso", seed=1, screws=("L2",), hips=False)
    variant = make_phantom(
        "torso", seed=3, hips=False, top_level="T10", lumbar_vertebrae=6, rib_pairs=13, lesions={"L2": 450.0},
        endplate_sclerosis=("L4", "L5"), osteophytes=("L4",), cement=("L1",),
    ).image(slice_mm=2.0, pixel_mm=0.9)  # fmt: skip
    views = [
        ("Torso, sagittal", torso, 2, 0.0, SOFT), ("Torso, hips, coronal", torso, 1, 8.0, SOFT),
        ("T4-L5, scoliosis, three fractures", chest, 2, -8.0, BONE), ("the same, coronal", chest, 1, 25.0, BONE),
        ("L2, rods under the patient", torso, 0, 125.0, SOFT), ("Hips", torso, 0, -98.0, BONE),
        ("Lung bases, venous phase", chest, 0, 270.0, SOFT), ("European-Spine-Phantom-like", spine_phantom, 0, 0.0, BONE),
        ("Six lumbar vertebrae, lesion, spurs, cement", variant, 2, 5.0, BONE),
        ("Scanned as physics: screws", _slice(screws, 125.0), 0, 125.0, SOFT),
        ("Scanned as physics: hips, quarter dose", _slice(make_phantom("torso", seed=1), -98.0, dose=0.25), 0, -98.0, SOFT),
        ("Scanned as physics: 80 kVp, sharp kernel",
         _slice(make_phantom("torso", seed=1, hips=False), 125.0, kvp=80.0, kernel="sharp"), 0, 125.0, BONE),
    ]  # fmt: skip
    figure = Figure(figsize=(13, 11.4), dpi=80, facecolor="white")
    FigureCanvasAgg(figure)
    for number, (title, image, axis, at_mm, window) in enumerate(views, start=1):
        plane, aspect = _plane(image, axis, at_mm)
        axes = figure.add_subplot(3, 4, number)
        axes.imshow(plane, cmap="gray", vmin=window[0], vmax=window[1], aspect=aspect, interpolation="bilinear")
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
    figure.tight_layout()
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, pil_kwargs={"optimize": True} if target.suffix == ".png" else None)
    return target


if __name__ == "__main__":
    draw(sys.argv[1])
