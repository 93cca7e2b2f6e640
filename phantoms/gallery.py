"""Pictures of the phantoms for the documentation.

    python -m phantoms.gallery PHANTOMS.png [BONES.png]

The first shows bodies and scans, some of them simulated as physics; the second bones: deformities, density, disease, marrow.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phantoms.image import PhantomImage
from phantoms.kinds import make_phantom
from phantoms.phantom import Phantom
from phantoms.vertebral_body import LABEL_OF_LEVEL
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


def _crop(
    kind: str, options: dict[str, Any], low: list[float], high: list[float], spacing: tuple[float, float, float]
) -> PhantomImage:
    given: dict[str, Any] = {"seed": 3} | options
    box = Lattice.upright(np.array(low), np.array(high), spacing)
    return make_phantom(kind, **given).image(slice_mm=spacing[0], lattice=box)


def _sagittal(options: dict[str, Any], x_mm: float = 0.0) -> tuple[NDArray[np.int16], float]:
    """T12 to L4 in a sagittal plane, 1 mm slices."""
    low, high = [x_mm - 6.0, -22.0, 62.0], [x_mm + 6.0, 78.0, 205.0]
    return _plane(_crop("spine", {"top_level": "T11"} | options, low, high, (1.0, 0.6, 0.6)), 2, x_mm)


def _axial(options: dict[str, Any]) -> tuple[NDArray[np.int16], float]:
    """The middle of L2, a slice of 2 mm."""
    image = _crop("spine", {"top_level": "T11"} | options, [-55.0, -50.0, 100.0], [55.0, 75.0, 160.0], (2.0, 0.5, 0.5))
    body = np.argwhere(image.labels == LABEL_OF_LEVEL["L2"])
    return _plane(image, 0, float(image.lattice.to_lps(body.mean(axis=0))[2]))


def _coronal_hip(options: dict[str, Any]) -> tuple[NDArray[np.int16], float]:
    low, high = [45.0, 4.0, -220.0], [150.0, 20.0, -55.0]
    return _plane(_crop("hip", {"side": "left"} | options, low, high, (1.0, 0.7, 0.7)), 1, 12.0)


def draw_bones(path: Path | str) -> Path:
    """Draw deformities, density, disease and marrow, and save it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ill = {"osteophytes": ("L2", "L3"), "endplate_sclerosis": ("L3",), "disc_gas": ("L3",)}
    marrow = (-150.0, 350.0)
    views: list[tuple[str, tuple[NDArray[np.int16], float], tuple[float, float]]] = [
        (f"{kind} {100 * loss:.0f} % of L1: grade {grade}", _sagittal({"fractures": {"L1": (kind, loss)}}), BONE)
        for kind, loss, grade in (("wedge", 0.22, 1), ("wedge", 0.45, 3), ("biconcave", 0.32, 2), ("crush", 0.32, 2))
    ]
    views += [
        ("man of 25, 190 mg/cm3", _sagittal({"sex": "M", "age_years": 25, "spine_density_mg_cm3": 190.0}), BONE),
        ("woman of 85, 35 mg/cm3", _sagittal({"age_years": 85, "spine_density_mg_cm3": 35.0}), BONE),
        ("spurs, sclerosis, gas in a disc", _sagittal(ill), BONE),
        ("lesion of L2, cement in L3", _sagittal({"lesions": {"L2": 400.0}, "cement": ("L3",)}, 8.0), BONE),
        ("L2: plaques, lytic lesion", _axial({"aortic_plaques": True, "lesions": {"L2": -130.0}}), SOFT),
        ("marrow of 25 % fat", _sagittal({"marrow_fat": 0.25}), marrow),
        ("marrow of 75 % fat, same mineral", _sagittal({"marrow_fat": 0.75}), marrow),
        ("hip of a woman of 70", _coronal_hip({"age_years": 70}), marrow),
    ]
    figure = Figure(figsize=(11, 13.2), dpi=80, facecolor="white")
    FigureCanvasAgg(figure)
    for number, (title, (plane, aspect), window) in enumerate(views, start=1):
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
    if len(sys.argv) > 2:
        draw_bones(sys.argv[2])
