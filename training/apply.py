"""Apply a trained network to a volume: shares of each class on cubes of 3 mm, classes at native resolution, separate bodies.

Needs onnxruntime, which the project does not install.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from pipeline.segmentation.sampling import resample_isotropic, sample_lps
from pipeline.volume import Grid, Volume
from training.patches import Target, network_input

EDGE, VOXEL_MM = 48, 3.0
_STEP = 32
_SLAB = 16
_CORE_MM = 6.0
_SMALLEST_BODY_MM3 = 3000.0
_SMALLEST_FEMUR_MM3 = 20000.0


@dataclass(frozen=True)
class Found:
    """What the network made of a volume, on the grid of the volume.

    Attributes
    ----------
    classes : uint8 ndarray of shape (Z, Y, X)
        A `Target` each.
    bodies : uint16 ndarray of shape (Z, Y, X)
        Vertebral bodies, counted from 1; 0 elsewhere.
    femora : dict of str to bool ndarray of shape (Z, Y, X)
        By side.
    """

    classes: NDArray[np.uint8]
    bodies: NDArray[np.uint16]
    femora: dict[str, NDArray[np.bool_]]


def open_network(path: Path, *, threads: int = 2) -> Any:
    """A session of onnxruntime on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the processor
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def class_shares(session: Any, hu: NDArray) -> NDArray[np.float32]:
    """Share of each class, (classes, Z, Y, X), of HU on cubes of 3 mm: overlapping patches, weighted towards their middles."""
    low = [max(EDGE - n, 0) // 2 for n in hu.shape]
    high = [max(EDGE - n, 0) - a for n, a in zip(hu.shape, low, strict=True)]
    padded = np.pad(hu, list(zip(low, high, strict=True)), constant_values=-1024.0)
    profile = np.exp(-0.5 * ((np.arange(EDGE) - (EDGE - 1) / 2) / (0.22 * EDGE)) ** 2).astype(np.float32)
    weight = profile[:, None, None] * profile[None, :, None] * profile[None, None, :]
    total = np.zeros((len(Target), *padded.shape), np.float32)
    norm = np.full(padded.shape, 1e-6, np.float32)
    starts = [sorted({*range(0, n - EDGE, _STEP), n - EDGE}) for n in padded.shape]
    for corner in product(*starts):
        place = tuple(slice(a, a + EDGE) for a in corner)
        if padded[place].max() < -300:
            total[0][place] += weight  # nothing but air
        else:
            (scores,) = session.run(None, {"image": network_input(padded[place])[None]})
            shares = np.exp(scores[0] - scores[0].max(axis=0))
            total[(slice(None), *place)] += weight * shares / shares.sum(axis=0)
        norm[place] += weight
    inner = tuple(slice(a, a + n) for a, n in zip(low, hu.shape, strict=True))
    return np.asarray((total / norm)[(slice(None), *inner)])


def classes_on(grid: Grid, shares: NDArray[np.float32], coarse: Grid) -> NDArray[np.uint8]:
    """Largest share at each voxel of `grid`, read between the cubes, so that outlines are finer than these."""
    out = np.zeros(grid.shape, np.uint8)
    for first in range(0, grid.shape[0], _SLAB):
        slab = slice(first, min(first + _SLAB, grid.shape[0]))
        points = grid.to_lps(_indices(grid, slab))
        best = sample_lps(shares[0], coarse, points, fill=1.0)
        for target in list(Target)[1:]:
            share = sample_lps(shares[target], coarse, points, fill=0.0)
            better = share > best
            out[slab][better] = target
            best = np.where(better, share, best)
    return out


def _indices(grid: Grid, slab: slice) -> NDArray[np.float64]:
    axes = (np.arange(slab.start, slab.stop), np.arange(grid.shape[1]), np.arange(grid.shape[2]))
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).astype(float)


def separate_bodies(body: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> NDArray[np.uint16]:
    """Number the bodies: a watershed from what lies deep inside, so that two that touch at a rim stay two."""
    out = np.zeros(body.shape, np.uint16)
    boxes = ndimage.find_objects(body.astype(np.uint8))
    if not boxes:
        return out
    box = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in boxes[0])
    inside = np.pad(body[box], 1)
    depth = ndimage.distance_transform_edt(inside, sampling=spacing_mm)
    cores, _ = ndimage.label(depth > _CORE_MM)
    parts = watershed(-depth, cores, mask=inside)[1:-1, 1:-1, 1:-1]
    volume_mm3 = np.bincount(parts.ravel()) * float(np.prod(spacing_mm))
    kept = [n for n in range(1, len(volume_mm3)) if volume_mm3[n] >= _SMALLEST_BODY_MM3]
    height = {n: float(np.argwhere(parts == n)[:, 0].mean()) for n in kept}
    for number, part in enumerate(sorted(kept, key=lambda n: -height[n]), start=1):
        out[box][parts == part] = number
    return out


def femora_of(classes: NDArray[np.uint8], spacing_mm: tuple[float, float, float]) -> dict[str, NDArray[np.bool_]]:
    """The largest connected femur of each side; a piece is on the side that most of its voxels say."""
    parts, count = ndimage.label(classes >= Target.FEMUR_LEFT)
    found: dict[str, NDArray[np.bool_]] = {}
    volumes = np.bincount(parts.ravel(), minlength=count + 1) * float(np.prod(spacing_mm))
    for part in sorted(range(1, count + 1), key=lambda n: -volumes[n]):
        if volumes[part] < _SMALLEST_FEMUR_MM3:
            break
        mask = parts == part
        side = "left" if (classes[mask] == Target.FEMUR_LEFT).mean() > 0.5 else "right"
        if side not in found:
            found[side] = ndimage.binary_fill_holes(mask)
    return found


def apply_network(session: Any, volume: Volume) -> Found:
    """Classes, bodies and femora of a volume."""
    hu, coarse = resample_isotropic(volume, VOXEL_MM, threads=2)
    classes = classes_on(volume.grid, class_shares(session, hu), coarse)
    return Found(
        classes, separate_bodies(classes == Target.BODY, volume.spacing_mm), femora_of(classes, volume.spacing_mm)
    )
