"""Copies of a CT volume that differ from it as a second scan of the same person, or another reconstruction, would."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pipeline.volume import Grid, Volume

_PADDING_HU = -1024.0
_CROPPED_SHARE = 0.15
_SOFT_TISSUE_HU = (-20.0, 120.0)


@dataclass(frozen=True)
class Copy:
    """A copy, and the map (4, 4) from LPS points of the original to the same places of the patient in the copy."""

    name: str
    volume: Volume
    to_copy: NDArray[np.float64]

    def moved(self, points_lps_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        return points_lps_mm @ self.to_copy[:3, :3].T + self.to_copy[:3, 3]


def _scaled_grid(grid: Grid, factors: tuple[float, float, float], start: tuple[float, float, float]) -> Grid:
    """The grid with voxel edges times `factors` whose first voxel lies at the index `start`; nothing beyond the old one."""
    old = np.array(grid.shape)
    shape = np.floor((old - 1 - np.array(start)) / np.array(factors) + 1e-9).astype(int) + 1
    matrix = grid.index_to_lps.copy()
    matrix[:3, 3] = grid.to_lps(np.array(start))
    matrix[:3, :3] = matrix[:3, :3] * np.array(factors)
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), matrix)


def _on_grid(volume: Volume, grid: Grid, *, order: int = 3) -> Volume:
    """The volume interpolated on another grid; padding where it has no voxels."""
    move = np.linalg.inv(volume.grid.index_to_lps) @ grid.index_to_lps
    hu = ndimage.affine_transform(
        volume.hu, move[:3, :3], move[:3, 3], grid.shape, order=order, mode="constant", cval=_PADDING_HU
    )
    seen = np.ones(volume.shape, np.float32) if volume.valid is None else volume.valid.astype(np.float32)
    share = ndimage.affine_transform(seen, move[:3, :3], move[:3, 3], grid.shape, order=1, mode="constant", cval=0.0)
    valid = share > 0.99
    return replace(volume, hu=np.where(valid, hu, _PADDING_HU).astype(np.float32), grid=grid, valid=valid)


def shifted(volume: Volume) -> Volume:
    """Sampled at places between the old ones."""
    return _on_grid(volume, _scaled_grid(volume.grid, (1.0, 1.0, 1.0), (0.5, 0.37, 0.43)))


def turned(volume: Volume) -> tuple[Volume, NDArray[np.float64]]:
    """The patient turned by 4 degrees (pitch), 3 (roll) and 2 (yaw) about the middle of the scan."""
    middle = volume.grid.to_lps((np.array(volume.shape) - 1) / 2)
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", [4.0, 3.0, 2.0], degrees=True).as_matrix()
    turn[:3, 3] = middle - turn[:3, :3] @ middle
    seen_from = Grid(volume.shape, np.linalg.inv(turn) @ volume.grid.index_to_lps)
    return replace(_on_grid(volume, seen_from), grid=volume.grid), turn


def thicker(volume: Volume, factor: float) -> Volume:
    """Slices that average over `factor` times the distance of the old ones."""
    # A box of `factor` slices, exact for any factor: the difference of the running sum, interpolated between slices.
    running = np.concatenate([np.zeros((1, *volume.shape[1:])), np.cumsum(volume.hu, axis=0, dtype=np.float64)])
    count = int(np.floor(volume.shape[0] / factor))
    edges = np.arange(count + 1) * factor
    low = np.minimum(np.floor(edges).astype(int), volume.shape[0] - 1)
    part = (edges - low)[:, None, None]
    at_edges = (1 - part) * running[low] + part * running[low + 1]
    hu = np.diff(at_edges, axis=0) / factor
    grid = _scaled_grid(volume.grid, (factor, 1.0, 1.0), (factor / 2 - 0.5, 0.0, 0.0))
    grid = Grid((count, *volume.shape[1:]), grid.index_to_lps)
    valid = None
    if volume.valid is not None:
        first, last = np.floor(edges[:-1]).astype(int), np.minimum(np.ceil(edges[1:]).astype(int), volume.shape[0])
        valid = np.stack([volume.valid[a:b].all(axis=0) for a, b in zip(first, last, strict=True)])
    return replace(volume, hu=hu.astype(np.float32), grid=grid, valid=valid)


def larger_pixels(volume: Volume) -> Volume:
    """Pixels 1.3 times as large, as in a larger field of view."""
    factor = 1.3
    sigma = 0.5 * np.sqrt(factor**2 - 1)
    smooth = replace(volume, hu=ndimage.gaussian_filter(volume.hu, (0.0, sigma, sigma)))
    return _on_grid(smooth, _scaled_grid(volume.grid, (1.0, factor, factor), (0.0, 0.2, 0.3)), order=1)


def cropped(volume: Volume, cut: tuple[slice, slice, slice]) -> Volume:
    """A part of the volume; the slices count in shares of 1."""
    first = np.array([round((c.start or 0.0) * n) for c, n in zip(cut, volume.shape, strict=True)])
    last = np.array([round((1.0 if c.stop is None else c.stop) * n) for c, n in zip(cut, volume.shape, strict=True)])
    window = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    matrix = volume.grid.index_to_lps.copy()
    matrix[:3, 3] = volume.grid.to_lps(first.astype(float))
    size = last - first
    grid = Grid((int(size[0]), int(size[1]), int(size[2])), matrix)
    valid = None if volume.valid is None else np.ascontiguousarray(volume.valid[window])
    return replace(volume, hu=np.ascontiguousarray(volume.hu[window]), grid=grid, valid=valid)


def own_noise_hu(volume: Volume) -> float:
    """Noise of the image: spread of soft tissue about the mean of its neighbours in the plane."""
    hu = volume.hu[:: max(1, volume.shape[0] // 20)]
    soft = (hu > _SOFT_TISSUE_HU[0]) & (hu < _SOFT_TISSUE_HU[1])
    inside = ndimage.binary_erosion(soft, np.ones((1, 3, 3), bool))
    high_pass = hu - ndimage.uniform_filter(hu, (0, 3, 3))
    values = high_pass[inside] if inside.sum() > 100 else high_pass[soft]
    return 1.4826 * float(np.median(np.abs(values - np.median(values)))) / float(np.sqrt(8.0 / 9.0))


def noised(volume: Volume, seed: int) -> Volume:
    """As much noise again as the image has, as at half the dose; correlated in the plane over some 0.7 pixels."""
    white = np.random.default_rng(seed).standard_normal(volume.shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(white, (0.0, 0.7, 0.7))
    noise *= max(own_noise_hu(volume), 5.0) / float(noise.std())
    return replace(volume, hu=volume.hu + noise)


def softer(volume: Volume) -> Volume:
    """Blurred in the plane by 0.7 mm (standard deviation), as by a softer kernel."""
    return replace(volume, hu=ndimage.gaussian_filter(volume.hu, (0.0, *(0.7 / np.array(volume.spacing_mm[1:])))))


def sharper(volume: Volume) -> Volume:
    """Detail finer than 1 mm raised by half, as by a sharper kernel."""
    smooth = ndimage.gaussian_filter(volume.hu, (0.0, *(1.0 / np.array(volume.spacing_mm[1:]))))
    return replace(volume, hu=np.asarray(volume.hu + 0.5 * (volume.hu - smooth), np.float32))


_ALL = slice(None)
_WAYS: dict[str, Callable[[Volume], Volume | tuple[Volume, NDArray[np.float64]]]] = {
    "shifted between voxels": shifted,
    "turned by 5 degrees": turned,
    "15 % off at the head": lambda v: cropped(v, (slice(None, 1 - _CROPPED_SHARE), _ALL, _ALL)),  # type: ignore[misc]
    "15 % off at the feet": lambda v: cropped(v, (slice(_CROPPED_SHARE, None), _ALL, _ALL)),  # type: ignore[misc]
    "narrower field of view": lambda v: cropped(v, (_ALL, slice(0.08, None), slice(0.10, 0.90))),  # type: ignore[misc]
    "half the dose": lambda v: noised(v, 1),
    "half the dose again": lambda v: noised(v, 2),
    "pixels x 1.3": larger_pixels,
    "slices x 1.5": lambda v: thicker(v, 1.5),
    "slices x 2": lambda v: thicker(v, 2.0),
    "softer kernel": softer,
    "sharper kernel": sharper,
}
COPIES = tuple(_WAYS)
PROTOCOL = ("pixels x 1.3", "slices x 1.5", "slices x 2", "softer kernel", "sharper kernel")
"""Copies that stand for another protocol, not for a second scan with the same one."""


def copies_of(volume: Volume, names: Iterable[str] = COPIES) -> Iterator[Copy]:
    """Each wanted copy of a volume in float HU, one at a time."""
    for name in names:
        made = _WAYS[name](volume)
        image, move = made if isinstance(made, tuple) else (made, np.eye(4))
        yield Copy(name, image, move)
