"""What is done to images of hips to see whether a result stands: noise, bone loss, thick slices, turns of the patient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.segmentation.model import FemurLandmarks
from pipeline.volume import Grid, Volume


def perturbations(volume: Volume, masks: list[NDArray[np.bool_]]) -> Iterator[tuple[str, Volume, Callable]]:
    """Name, changed volume, and what the change does to a mask on the old grid."""
    hu = volume.hu.astype(np.float32)
    padding = hu < -1000
    generator = np.random.default_rng(7)

    def same(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return mask

    def changed(new: NDArray[np.float32]) -> Volume:
        return Volume(np.where(padding, hu, new).astype(np.float32), volume.grid)

    for sd in (30, 60, 100):
        yield f"noise {sd} HU", changed(hu + generator.normal(0, sd, hu.shape).astype(np.float32)), same
    for loss in (60, 120):
        inner = np.zeros(hu.shape, dtype=bool)
        for mask in masks:
            depth = ndimage.distance_transform_edt(mask, sampling=volume.spacing_mm)
            inner |= depth > 2.5
        yield f"trabecular -{loss} HU", changed(np.where(inner, np.maximum(hu - loss, -80), hu)), same
    for factor in (0.7, 0.5, 0.4):
        yield f"bone contrast x {factor}", changed(np.where(hu > 60, 60 + (hu - 60) * factor, hu)), same
    parts = max(2, round(5.0 / volume.spacing_mm[0]))
    whole = hu.shape[0] // parts * parts
    thick = hu[:whole].reshape(-1, parts, *hu.shape[1:]).mean(axis=1)
    matrix = volume.grid.index_to_lps.copy()
    matrix[:3, 3] = volume.grid.to_lps(np.array([(parts - 1) / 2, 0.0, 0.0]))
    matrix[:3, 0] *= parts
    yield (
        f"{parts * volume.spacing_mm[0]:.1f} mm slices",
        Volume(thick, Grid(thick.shape, matrix)),
        lambda mask: mask[:whole].reshape(-1, parts, *hu.shape[1:]).mean(axis=1) >= 0.5,
    )
    for axis, name in ((2, "flexed"), (0, "turned"), (1, "tilted")):
        for degrees in (-12, 12):
            turn = _rotation(volume, axis, degrees)
            new = ndimage.affine_transform(hu, *turn, order=1, mode="nearest")
            yield (
                f"{name} {degrees:+d} degrees",
                Volume(new.astype(np.float32), volume.grid),
                lambda mask, turn=turn: ndimage.affine_transform(mask.astype(np.float32), *turn, order=1) > 0.5,
            )
    half = ndimage.shift(hu, (0.5, 0.5, 0.5), order=1, mode="nearest")
    yield "half a voxel", changed(half), lambda mask: ndimage.shift(mask.astype(np.float32), 0.5, order=1) > 0.5


def _rotation(volume: Volume, axis: int, degrees: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrix and offset for ``affine_transform``: a turn by `degrees` about one array axis through the middle."""
    spacing = np.array(volume.spacing_mm)
    a, b = [k for k in range(3) if k != axis]
    turn = np.eye(3)
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn[a, a], turn[a, b], turn[b, a], turn[b, b] = cos, -sin, sin, cos
    matrix = turn * spacing[None, :] / spacing[:, None]
    centre = (np.array(volume.shape) - 1) / 2
    return matrix, centre - matrix @ centre


def bone_losses(volume: Volume, femora: list[tuple[NDArray[np.bool_], FemurLandmarks]]) -> Iterator[tuple[str, Volume]]:
    """Bone taken away in many amounts and shapes: from the marrow, the head, the surface, or wherever there is bone."""
    hu = volume.hu.astype(np.float32)
    depth, head, random = np.zeros(hu.shape, np.float32), np.zeros(hu.shape, bool), np.random.default_rng(3)
    for mask, landmarks in femora:
        depth = np.maximum(depth, ndimage.distance_transform_edt(mask, sampling=volume.spacing_mm))
        place = np.argwhere(mask)
        away = np.linalg.norm(volume.grid.to_lps(place.astype(float)) - landmarks.head_centre_lps_mm, axis=1)
        head[tuple(place[away < landmarks.head_radius_mm + 2.0].T)] = True
    inner = depth > 2.5

    def without(loss_hu: NDArray | float, where: NDArray[np.bool_]) -> Volume:
        return replace(volume, hu=np.where(where, np.minimum(hu, np.maximum(hu - loss_hu, -80.0)), hu))

    for loss in (60, 120, 240):
        yield f"marrow -{loss} HU", without(loss, inner)
    for loss in (120, 240):
        yield f"marrow of the head -{loss} HU", without(loss, inner & head)
        yield f"head -{loss} HU", without(loss, head)
    yield "all but the head -120 HU", without(120, (depth > 0) & ~head)
    for loss in (60, 120):
        yield f"all bone -{loss} HU", without(loss, hu > 100)
    for loss in (120,):
        patches = ndimage.gaussian_filter(random.standard_normal(hu.shape), [6.0 / s for s in volume.spacing_mm])
        patches = np.clip(patches / patches.std(), 0, 2).astype(np.float32)
        yield f"patches of up to -{2 * loss} HU", without(loss * patches, inner)
    for factor in (0.6, 0.4):
        yield f"all bone x {factor}", replace(volume, hu=np.where(hu > 60, 60 + (hu - 60) * factor, hu))
    weak = np.where(hu > 60, 60 + (hu - 60) * 0.6, hu)
    yield "all bone x 0.6, marrow -60 HU", replace(volume, hu=np.where(inner, np.maximum(weak - 60, -80), weak))
