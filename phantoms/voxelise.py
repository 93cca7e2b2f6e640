"""From analytic solids to voxels: partial volume by supersampling at every surface, two threads, bounded memory."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from phantoms.kernels import TEXTURE_CELLS, paint
from phantoms.materials import BasisDensity, Materials
from phantoms.solids import Solid

_BLOCK_MM = 8.0
_PART_MM = 2.8
_SUBSAMPLE_MM = 0.45


@dataclass(frozen=True)
class Lattice:
    """A regular grid of voxel centres; axes need not be aligned with the patient, nor be orthogonal (gantry tilt).

    Attributes
    ----------
    shape : tuple of int
        (Z, Y, X).
    index_to_lps : float ndarray of shape (4, 4)
        From array index (k, j, i) to LPS (x, y, z) in mm.
    """

    shape: tuple[int, int, int]
    index_to_lps: NDArray[np.float64]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        z, y, x = (float(v) for v in np.linalg.norm(self.index_to_lps[:3, :3], axis=0))
        return z, y, x

    def to_lps(self, index: NDArray) -> NDArray[np.float64]:
        """LPS points (..., 3) of array indices (..., 3) as (k, j, i)."""
        points = np.asarray(index, float) @ self.index_to_lps[:3, :3].T
        return np.asarray(points + self.index_to_lps[:3, 3])

    def to_index(self, point_lps_mm: NDArray) -> NDArray[np.float64]:
        """Array indices (..., 3) as (k, j, i) of LPS points (..., 3)."""
        inverse = np.linalg.inv(self.index_to_lps)
        index = np.asarray(point_lps_mm, float) @ inverse[:3, :3].T
        return np.asarray(index + inverse[:3, 3])

    def tilted(self, angle_deg: float) -> Lattice:
        """The slices of an upright lattice leaned by a tilted gantry, front edge towards the feet, each about its middle."""
        c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
        matrix = self.index_to_lps.copy()
        along = matrix[:3, 1].copy()
        matrix[:3, 1] = np.linalg.norm(along) * np.array([0.0, c, s])
        middle = 0.5 * (self.shape[1] - 1)
        matrix[:3, 3] += middle * (along - matrix[:3, 1])
        return Lattice(self.shape, matrix)

    @staticmethod
    def upright(low_mm: NDArray, high_mm: NDArray, spacing_mm: tuple[float, float, float]) -> Lattice:
        """Axis-aligned lattice with voxels of `spacing_mm` (z, y, x) round the middle of a box in LPS, filling it."""
        low, high = np.asarray(low_mm, float), np.asarray(high_mm, float)
        step = np.asarray(spacing_mm[::-1], float)
        count = np.maximum(np.round((high - low) / step), 1).astype(int)
        matrix = np.zeros((4, 4))
        matrix[3, 3] = 1.0
        for axis in range(3):
            matrix[axis, 2 - axis] = step[axis]
        matrix[:3, 3] = (low + high - (count - 1) * step) / 2
        return Lattice((int(count[2]), int(count[1]), int(count[0])), matrix)


def texture_table(seed: int) -> NDArray[np.float32]:
    """Periodic random field of zero mean and unit standard deviation, correlated over about three cells."""
    rng = np.random.default_rng(seed)
    white = rng.standard_normal((TEXTURE_CELLS,) * 3, dtype=np.float32)
    field = gaussian_filter(white, 1.1, mode="wrap") + 0.35 * gaussian_filter(white[::-1], 2.6, mode="wrap")
    field -= field.mean()
    return np.asarray(field / field.std(), np.float32)


def render(
    solids: Sequence[Solid],
    lattice: Lattice,
    materials: Materials | BasisDensity,
    *,
    background: str | None = "air",
    seed: int = 0,
    threads: int = 2,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Noise-free, unblurred image of the solids, each painted over those before it, and the label map.

    Parameters
    ----------
    solids : sequence of Solid
    lattice : Lattice
    materials : Materials or BasisDensity
        What each material reads at the chosen beam quality; `Materials.mineral_only()` renders mineral density instead,
        `BasisDensity` what attenuates.
    background : str or None
        Material around everything; None for zero.

    Returns
    -------
    image : float32 ndarray of shape (Z, Y, X)
        HU (or mg/cm3), the mean over each voxel.
    labels : uint8 ndarray of shape (Z, Y, X)
        Label of the solid that fills at least half of the voxel.
    """
    shape = lattice.shape
    image = np.full(shape, 0.0 if background is None else materials.hu(background), np.float32)
    labels = np.zeros(shape, np.uint8)
    spacing = np.array(lattice.spacing_mm)
    block = np.maximum(np.round(_BLOCK_MM / spacing), 1).astype(np.int64)
    pieces = np.maximum(np.round(_PART_MM / spacing), 1).astype(np.int64)
    samples = np.clip(np.ceil(spacing / _SUBSAMPLE_MM), 2, 4).astype(np.int64)
    table = texture_table(seed)
    jobs = []
    for solid in solids:
        box = _index_box(solid, lattice)
        if (box[1::2] > box[::2]).all():
            numbers = np.array(
                [
                    materials.hu(solid.matrix),
                    materials.hu_per_mineral(solid.mineral),
                    solid.cortex_mg_cm3,
                    solid.texture if solid.cortex_mg_cm3 else solid.texture * materials.texture_gain,
                    solid.texture_mm,
                    *solid.texture_axis,
                    solid.subcortical,
                    materials.hu(solid.rind or solid.matrix),
                    materials.hu(solid.other_matrix or solid.matrix),
                ]
            )
            label_primitive = -1 if solid.label_primitive is None else solid.label_primitive
            jobs.append(
                (
                    solid.rows(),
                    solid.feature_rows(),
                    numbers,
                    # By name, not by place in the list: a solid painted alone, for its truth, has the same texture.
                    zlib.crc32(solid.name.encode()) % 4096,
                    solid.label,
                    label_primitive,
                    box,
                )
            )

    def paint_slab(first: int, last: int) -> None:
        for rows, features, numbers, offset, label, label_primitive, box in jobs:
            part = box.copy()
            part[0], part[1] = max(part[0], first), min(part[1], last)
            if part[1] > part[0]:
                paint(
                    image,
                    labels,
                    lattice.index_to_lps,
                    rows,
                    features,
                    numbers,
                    offset,
                    table,
                    label,
                    label_primitive,
                    part,
                    block,
                    pieces,
                    samples,
                )

    # Slabs are much thinner than the work per thread, so that a slab with much bone does not leave the other thread idle.
    step = int(max(block[0], 4))
    edges = list(range(0, shape[0], step))
    if threads <= 1:
        paint_slab(0, shape[0])
    else:
        paint_slab(0, min(1, shape[0]))  # compiles once
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda first: paint_slab(max(first, 1), min(first + step, shape[0])), edges))
    return image, labels


def _index_box(solid: Solid, lattice: Lattice) -> NDArray[np.int64]:
    """The part of the lattice [k0, k1, j0, j1, i0, i1) that a solid can touch."""
    low, high = solid.box_mm
    corners = np.array([[(low, high)[c >> a & 1][a] for a in range(3)] for c in range(8)])
    index = lattice.to_index(corners)
    first = np.maximum(np.floor(index.min(axis=0)) - 1, 0).astype(np.int64)
    last = np.minimum(np.ceil(index.max(axis=0)) + 2, lattice.shape).astype(np.int64)
    return np.stack([first, last], axis=1).ravel()
