"""Pictures of the outlines of vertebral bodies on public scans, for docs/segmentation-spine.md.

    python -m benchmarks.segmentation_spine_pictures [--data DIR] [--out docs/images] [--case NAME --to FILE]

The planes are curved through the middles of the bodies; the lines are the surfaces themselves, not the edge of a label map.
With ``--case`` only the magnified picture of that case is made, for looking at scans that may not be published.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.segmentation_spine import load, segmented
from pipeline.segmentation.sampling import sample_lps
from pipeline.segmentation.spine.body import ANGLES, HEIGHTS, BodyModel
from pipeline.volume import Grid, Volume

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_OVERVIEW = {
    "ts_example_3mm": "3 mm voxels",
    "ts_thorax_cta_1p5mm": "1.5 mm, arterial contrast",
    "lidc0314_chest_1mm": "1 mm slices, dense bone",
}
_MAGNIFIED = "lidc0314_chest_1mm"
_COLOUR = {"ok": "#ff5040", "warning": "#ffb020", "failed": "#50a0ff"}
_STEP_MM = 0.5
_WINDOW_HU = (-200.0, 700.0)
_AXIAL_HEIGHTS = (0.12, 0.35, 0.6, 0.88)


@dataclass(frozen=True)
class Scene:
    """A scan and the bodies found in it, from cranial to caudal, each with its status."""

    volume: Volume
    bodies: tuple[BodyModel, ...]
    status: tuple[str, ...]


def scene(case: Path) -> Scene:
    array, matrix = load(case / "ct.nii.gz")
    volume = Volume(array, Grid(array.shape, matrix))
    result, heard = segmented(volume)
    bodies = tuple(body for body, _ in heard)
    centres = np.array([v.frame.centre_lps_mm for v in result.vertebrae])
    nearest = [int(np.linalg.norm(centres - b.frame.centre_lps_mm, axis=1).argmin()) for b in bodies]
    return Scene(volume, bodies, tuple(result.vertebrae[i].status.value for i in nearest))


def depth_inside(body: BodyModel, points_lps_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance (mm, about) from the nearest surface of a body, positive inside."""
    local = body.frame.to_frame(points_lps_mm)
    u, v, w = local[..., 0], local[..., 1], local[..., 2]
    step = body.left_mm[1] - body.left_mm[0]
    at = [(u - body.left_mm[0]) / step, (v - body.posterior_mm[0]) / step]
    lower, upper = (ndimage.map_coordinates(f, at, order=1, mode="nearest") for f in (body.lower_mm, body.upper_mm))
    part = np.clip((w - lower) / np.maximum(upper - lower, 1.0) * HEIGHTS - 0.5, 0, HEIGHTS - 1)
    around = (np.arctan2(v, u) % (2 * np.pi)) / (2 * np.pi) * ANGLES
    wall = ndimage.map_coordinates(np.vstack([body.wall_mm, body.wall_mm[:1]]), [around, part], order=1, mode="nearest")
    return np.asarray(np.minimum(np.minimum(wall - np.hypot(u, v), w - lower), upper - w))


def curved_plane(view: Scene, bodies: slice, sideways: bool, half_mm: tuple[float, float]) -> NDArray[np.float64]:
    """Points (rows, columns, 3) of a plane through the middles of some bodies, from cranial to caudal."""
    part = view.bodies[bodies]
    middle = np.array([b.frame.centre_lps_mm for b in part])
    ends = [
        middle[0] + 0.8 * part[0].height_mm * part[0].frame.superior,
        middle[-1] - 0.8 * part[-1].height_mm * part[-1].frame.superior,
    ]
    line = np.vstack([ends[0], middle, ends[1]])
    across = np.array([(b.frame.left if sideways else b.frame.posterior) for b in (part[0], *part, part[-1])])
    place = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    rows = np.arange(0.0, place[-1], _STEP_MM)
    columns = np.arange(-half_mm[0], half_mm[1], _STEP_MM)
    centre, direction = (
        np.stack([np.interp(rows, place, values[:, c]) for c in range(3)], axis=1) for values in (line, across)
    )
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return np.asarray(centre[:, None] + columns[None, :, None] * direction[:, None])


def draw(axes: Axes, view: Scene, points: NDArray[np.float64], width: float) -> None:
    """One plane of the scan with the outlines of all bodies that it meets."""
    image = sample_lps(view.volume.hu, view.volume.grid, points, fill=-1000.0)
    axes.imshow(image, cmap="gray", vmin=_WINDOW_HU[0], vmax=_WINDOW_HU[1], interpolation="bilinear")
    for body, status in zip(view.bodies, view.status, strict=True):
        depth = depth_inside(body, points)
        if depth.max() > 0:
            axes.contour(depth, levels=[0.0], colors=_COLOUR[status], linewidths=width)
    axes.set_axis_off()


def overview(data: Path, to: Path) -> None:
    """Mid-sagittal and coronal planes of three public scans."""
    figure, axes = plt.subplots(1, 6, figsize=(14.0, 8.4), width_ratios=[1.25, 1.0] * 3)
    for n, (case, title) in enumerate(_OVERVIEW.items()):
        view = scene(data / case)
        for side, half in ((0, (40.0, 50.0)), (1, (36.0, 36.0))):
            draw(axes[2 * n + side], view, curved_plane(view, slice(None), bool(side), half), 1.1)
        axes[2 * n].set_title(title, loc="left", fontsize=13)
    figure.tight_layout(pad=0.3)
    figure.savefig(to, dpi=100)
    plt.close(figure)


def magnified(case: Path, to: Path) -> None:
    """Four neighbouring bodies from the side and from the front, and each of three bodies in four axial sections."""
    view = scene(case)
    good = [i for i, status in enumerate(view.status) if status != "failed"]
    middle = good[len(good) // 2]
    first = max(min(middle, len(view.bodies) - 4), 0)
    shown = [good[1], middle, good[-1]]
    figure = plt.figure(figsize=(15.0, 17.5))
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.0, 0.95])
    for axes, sideways, half, title in zip(
        upper.subplots(1, 2, width_ratios=[92, 80]), (False, True), ((34.0, 48.0), (35.0, 35.0)),
        ("From the side, curved through the middle", "From the front"), strict=True,
    ):  # fmt: skip
        draw(axes, view, curved_plane(view, slice(first, first + 4), sideways, half), 1.4)
        axes.set_title(title, loc="left", fontsize=15)
    grid = lower.subplots(3, len(_AXIAL_HEIGHTS))
    lattice = np.arange(-30.0, 30.0, _STEP_MM)
    for row, index in enumerate(shown):
        body = view.bodies[index]
        u, v = np.meshgrid(lattice, lattice + 6.0)
        inner = body.outline(0.5)
        low, high = float(np.median(body.lower_mm[inner])), float(np.median(body.upper_mm[inner]))
        for axes, height in zip(grid[row], _AXIAL_HEIGHTS, strict=True):
            draw(axes, view, body.frame.to_lps(u, v, np.full_like(u, low + height * (high - low))), 1.4)
            axes.set_title(f"body {index + 1} of {len(view.bodies)}, {100 * height:.0f} % of its height", fontsize=12)
    for part in (upper, lower):
        part.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.94, wspace=0.03, hspace=0.12)
    figure.savefig(to, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    default = os.environ.get("OPENBCT_DATA", root.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder of the development set of real CT")
    parser.add_argument("--out", type=Path, default=root / "docs" / "images")
    parser.add_argument("--case", help="only the magnified picture of this case")
    parser.add_argument("--to", type=Path, default=Path("spine.png"), help="where to put it")
    options = parser.parse_args()
    if options.case:
        magnified(options.data / options.case, options.to)
        return
    overview(options.data, options.out / "segmentation-spine.png")
    magnified(options.data / _MAGNIFIED, options.out / "segmentation-spine-thin.png")


if __name__ == "__main__":
    main()
