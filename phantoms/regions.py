"""The regions of a vertebral body that densities are stated of, read from the analytic object at fine resolution.

Two regions, so that an error of a measurement can be told apart into one of place and one of scale: a cylinder in the middle,
as a reader draws it, and the body peeled on all sides. Both are defined by the shape of the body, not found in an image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from phantoms.anatomy_spine import SpineVertebra
from phantoms.kernels import SHAPE, faces_of_points
from phantoms.materials import Materials
from phantoms.solids import Solid
from phantoms.voxelise import Lattice, render

STEP_MM = 0.7

WALL_MM, ENDPLATE_MM, REARMOST_SHARE = 4.0, 5.0, 0.2
_VEIN_HALF_WIDTH_MM, _VEIN_HALF_HEIGHT_MM, _VEIN_FROM_SHARE = 6.0, 4.0, 0.62
_FEWEST_POINTS = 100


@dataclass(frozen=True)
class RegionReading:
    """Means over a region.

    Attributes
    ----------
    mineral_mg_cm3 : float
    hu : float
        Noise-free CT number, contrast agent included.
    density_mg_cm3 : float
        What a calibrated scanner reads without contrast agent: mineral and marrow together, on the scale of K2HPO4 in water.
    volume_mm3 : float
    """

    mineral_mg_cm3: float
    hu: float
    density_mg_cm3: float
    volume_mm3: float


def read_regions(
    vertebra: SpineVertebra, solid: Solid, materials: Materials, *, seed: int
) -> tuple[RegionReading, RegionReading | None]:
    """Mineral, CT number and density of the central cylinder, and of the peeled body (None if nothing of it is left)."""
    shape, place = vertebra.shape, vertebra.place
    middle = 0.5 * (shape.upper[0] + shape.upper[2] + shape.lower[0] + shape.lower[2])
    half = np.array([0.5 * max(shape.heights) - ENDPLATE_MM + 3.0, shape.half_depth - 3.0, shape.half_width - 3.0])
    lattice = _oblique(place.point(0.0, 0.0, middle), place.axes[::-1], np.maximum(half, 3.0))
    own = (lattice.to_lps(np.indices(lattice.shape).reshape(3, -1).T) - place.origin_mm) @ place.axes.T
    cylinder = _central_cylinder(vertebra, own, middle).reshape(lattice.shape)
    peeled = peeled_body(vertebra, solid, own, middle).reshape(lattice.shape)
    images = {
        chosen: render([solid], lattice, chosen, background=None, seed=seed, threads=1)[0]
        for chosen in {Materials.mineral_only(), materials, replace(materials, iodine_mg_cm3=())}
    }

    def reading(region: NDArray[np.bool_]) -> RegionReading:
        mineral, hu, without_agent = (
            float(images[chosen][region].mean(dtype=float))
            for chosen in (Materials.mineral_only(), materials, replace(materials, iodine_mg_cm3=()))
        )
        return RegionReading(mineral, hu, without_agent / materials.hu_per_mg_cm3, float(region.sum()) * STEP_MM**3)

    return reading(cylinder), reading(peeled) if peeled.sum() >= _FEWEST_POINTS else None


def _central_cylinder(vertebra: SpineVertebra, own: NDArray[np.float64], middle: float) -> NDArray[np.bool_]:
    """Elliptic: 0.6 of the half width, 0.5 of the half depth, a little in front of the middle, half of the height."""
    shape = vertebra.shape
    a, b, h = 0.6 * shape.half_width, 0.5 * shape.half_depth, 0.25 * shape.heights[1]
    across, along = own[:, 0] / a, (own[:, 1] + 0.1 * shape.half_depth) / b
    return np.asarray((across**2 + along**2 <= 1.0) & (np.abs(own[:, 2] - middle) <= h))


def peeled_body(vertebra: SpineVertebra, solid: Solid, own: NDArray[np.float64], middle: float) -> NDArray[np.bool_]:
    """Which points lie in the peeled body.

    Parameters
    ----------
    own : float ndarray of shape (N, 3)
        Points in the frame of the vertebra (left, posterior, superior), mm.
    middle : float
        Height of the middle of the body in that frame.
    """
    assert solid.label_primitive is not None
    faces = faces_of_points(own, solid.primitives[solid.label_primitive].row[SHAPE:])
    shape = vertebra.shape
    depth = 2 * shape.half_depth - shape.hollow
    behind_front = own[:, 1] + shape.half_depth
    vein = (
        (np.abs(own[:, 0]) < _VEIN_HALF_WIDTH_MM)
        & (behind_front > _VEIN_FROM_SHARE * depth)
        & (np.abs(own[:, 2] - middle) < _VEIN_HALF_HEIGHT_MM)
    )
    inside = (faces[:, 0] <= -WALL_MM) & (faces[:, 1] <= -ENDPLATE_MM)
    return np.asarray(inside & (behind_front <= (1.0 - REARMOST_SHARE) * depth) & ~vein)


def _oblique(
    centre: NDArray[np.float64], axes_zyx: NDArray[np.float64], half_extent_zyx_mm: NDArray[np.float64]
) -> Lattice:
    """Lattice of cubic voxels round a centre; `axes_zyx` rows are the directions of its axes z, y, x."""
    count = np.maximum(2 * np.ceil(half_extent_zyx_mm / STEP_MM), 1).astype(int)
    matrix = np.eye(4)
    matrix[:3, :3] = axes_zyx.T * STEP_MM
    matrix[:3, 3] = centre - matrix[:3, :3] @ ((count - 1) / 2)
    return Lattice((int(count[0]), int(count[1]), int(count[2])), matrix)
