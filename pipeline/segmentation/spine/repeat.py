"""Everything after the canal once more, on a grid that is shifted, turned and of another spacing: is each body met again?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pipeline.segmentation.sampling import IndexBox, resample_onto
from pipeline.segmentation.spine.body import BodyModel, rasterise
from pipeline.volume import Grid

_TURN = np.radians(2.0) * np.array([1.0, -1.0, 1.0]) / np.sqrt(3.0)
_SPACING_FACTOR = 0.87
_SHIFT_VOXELS = 0.5


def disturbed_grid(grid: Grid) -> Grid:
    """A grid that holds `grid`: edges of 0.87 of its own, shifted by half a voxel and turned by 2 degrees about a diagonal."""
    edges = np.array(grid.spacing_mm)
    axes = grid.index_to_lps[:3, :3] / edges
    turned = Rotation.from_rotvec(_TURN).as_matrix() @ axes
    reach = np.abs(turned.T @ axes) @ (np.array(grid.shape) * edges)
    fine = _SPACING_FACTOR * edges
    shape = np.ceil(reach / fine).astype(int) + 1
    matrix = np.eye(4)
    matrix[:3, :3] = turned * fine
    centre = grid.to_lps((np.array(grid.shape) - 1) / 2)
    matrix[:3, 3] = centre - matrix[:3, :3] @ ((shape - 1) / 2 + _SHIFT_VOXELS)
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), matrix)


def disturbed(hu: NDArray[np.float32], grid: Grid, *, threads: int) -> tuple[NDArray[np.float32], Grid]:
    """The array read on its `disturbed_grid`; NaN outside."""
    target = disturbed_grid(grid)
    return resample_onto(hu, grid, target, fill=np.nan, threads=threads), target


def met_again(
    grid: Grid,
    bodies: tuple[BodyModel, ...],
    masks: list[tuple[IndexBox, NDArray[np.bool_]]],
    again: tuple[BodyModel, ...],
) -> list[float]:
    """Dice of each body with the nearest one of the repeat, both on the grid of the CT; 0 where there is none."""
    out = []
    for model, (box, mask) in zip(bodies, masks, strict=True):
        nearest = min(
            again,
            key=lambda other: float(np.linalg.norm(other.frame.centre_lps_mm - model.frame.centre_lps_mm)),
            default=None,
        )
        out.append(0.0 if nearest is None else _dice(box, mask, *rasterise(nearest, grid)))
    return out


def _dice(box: IndexBox, mask: NDArray[np.bool_], other_box: IndexBox, other: NDArray[np.bool_]) -> float:
    low = [max(a.start, b.start) for a, b in zip(box, other_box, strict=True)]
    high = [min(a.stop, b.stop) for a, b in zip(box, other_box, strict=True)]
    if any(a >= b for a, b in zip(low, high, strict=True)):
        return 0.0
    first = mask[tuple(slice(a - s.start, b - s.start) for a, b, s in zip(low, high, box, strict=True))]
    second = other[tuple(slice(a - s.start, b - s.start) for a, b, s in zip(low, high, other_box, strict=True))]
    return 2.0 * int((first & second).sum()) / max(int(mask.sum() + other.sum()), 1)
