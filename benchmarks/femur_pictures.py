"""Outlines of femora on real CT, as they stand in the documentation.

    python -m benchmarks.femur_pictures [--data DIR] -o docs/images

One row per hip: a coronal and a sagittal plane through the head centre, an axial plane through it and one through the lesser
trochanter or the lowest part in view. Red: outline of the chain; cyan, dashed: reference, where there is one.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from benchmarks.segmentation_femur import full_mask, real_volume
from pipeline.segmentation.femur.chain import find_femora
from pipeline.segmentation.sampling import interpolate
from pipeline.volume import Volume

SHOWN = (
    ("sts044_hip_right", "right"),
    ("sts031_hip_right", "right"),
    ("sts036_hip_left_truncated", "left"),
    ("ts_example_3mm", "right"),
)
_HALF_MM, _STEP_MM = 62.0, 0.4
_PLANES = {"coronal": ((1, 0, 0), (0, 0, -1)), "sagittal": ((0, 1, 0), (0, 0, -1)), "axial": ((1, 0, 0), (0, 1, 0))}
_OUTLINES = (("#ff4040", "solid", 1.4), ("#40e0ff", "dashed", 1.0))


def draw_plane(
    axes: Axes, volume: Volume, masks: list[NDArray[np.bool_]], plane: str, centre: NDArray[np.float64]
) -> None:
    """One plane through a point, with the outlines of masks."""
    across, down = (np.array(v, dtype=float) for v in _PLANES[plane])
    offset = np.arange(-_HALF_MM, _HALF_MM + _STEP_MM, _STEP_MM)
    points = centre + offset[None, :, None] * across + offset[:, None, None] * down
    index = volume.grid.to_index(points)
    axes.imshow(interpolate(volume.hu, index, fill=-1000.0), cmap="gray", vmin=-150, vmax=650, interpolation="bilinear")
    for mask, (colour, style, width) in zip(masks, _OUTLINES, strict=False):
        share = interpolate(mask, index, fill=0.0)
        if share.max() > 0.5:
            axes.contour(share, [0.5], colors=[colour], linestyles=[style], linewidths=[width])
    axes.set_axis_off()


def draw_case(axes: NDArray, data: Path, case: str, side: str) -> None:
    """One row of pictures."""
    volume, references = real_volume(data, case)
    found, _, _ = find_femora(volume, threads=2)
    shown = next(f for f in found if f.femur.side == side)
    landmarks = shown.femur.landmarks
    assert landmarks is not None
    masks = [full_mask(shown, volume.grid)]
    if side in references:
        masks.append(references[side].mask)
    centre = landmarks.head_centre_lps_mm
    middle = centre.copy()
    middle[2] -= 25.0
    low = landmarks.lesser_trochanter_lps_mm
    if low is None:
        place = volume.grid.to_lps(np.argwhere(masks[0]).astype(float))
        low = place[place[:, 2] < place[:, 2].min() + 6.0].mean(axis=0)
    neck = landmarks.neck_centre_lps_mm if landmarks.neck_centre_lps_mm is not None else centre
    lateral = np.array([neck[0] - centre[0], 0.0, 0.0])
    draw_plane(axes[0], volume, masks, "coronal", middle + lateral)
    draw_plane(axes[1], volume, masks, "sagittal", middle)
    draw_plane(axes[2], volume, masks, "axial", centre + lateral)
    draw_plane(axes[3], volume, masks, "axial", low)
    axes[0].set_title(f"{case}, {side}: {shown.femur.status}", fontsize=9, loc="left")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("OPENBCT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    figure, axes = plt.subplots(len(SHOWN), 4, figsize=(13, 3.35 * len(SHOWN)))
    for row, (case, side) in zip(axes, SHOWN, strict=True):
        draw_case(row, arguments.data, case, side)
    figure.tight_layout(pad=0.4)
    figure.savefig(arguments.output / "segmentation-femur.png", dpi=110)


if __name__ == "__main__":
    main()
