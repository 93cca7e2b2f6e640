"""What the scan shows of the spine: slices that were filled in, and the body that the upper edge of the scan cuts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.segmentation.sampling import IndexBox
from pipeline.segmentation.spine.body import BodyModel, fit_body
from pipeline.segmentation.spine.discs import Disc
from pipeline.segmentation.spine.tube import Outlines, Tube
from pipeline.volume import Grid, Volume

_PADDING_HU = -1500
_LEAST_PART_IN_VIEW = 0.5
_LEAST_WALL_HU, _LEAST_PLATE_HU = 75.0, 40.0


def filled_slices(volume: Volume) -> tuple[tuple[int, int], ...]:
    """Slices (axis, index) that are marked as not valid as a whole, strictly inside the volume, and yet hold an image.

    Such a slice was missing and was interpolated from its neighbours. A slice of one value holds no image: it is padding.
    """
    if volume.valid is None or volume.valid.all():
        return ()
    found = []
    for axis in range(3):
        other = tuple(a for a in range(3) if a != axis)
        scanned = np.flatnonzero(volume.valid.any(axis=other))
        for k in np.setdiff1d(np.arange(scanned[0], scanned[-1]), scanned) if len(scanned) else ():
            image = volume.hu.take(int(k), axis=axis)
            if image.min() < image.max():
                found.append((axis, int(k)))
    return tuple(found)


def scanned_part(volume: Volume, box: IndexBox) -> NDArray[np.bool_]:
    """Where a part of the volume holds an image: all but padding. Filled slices count like the slice below them."""
    if volume.valid is None:
        return np.asarray(volume.hu[box] > _PADDING_HU)
    filled = filled_slices(volume)
    valid = volume.valid[box].copy()
    for axis, k in filled:
        if not box[axis].start <= k < box[axis].stop:
            continue
        beside = k
        while (axis, beside) in filled:
            beside -= 1
        source = tuple(beside if a == axis else box[a] for a in range(3))
        target = tuple(k - box[a].start if a == axis else slice(None) for a in range(3))
        valid[target] = volume.valid[source]
    return valid


def holds_filled_slice(filled: tuple[tuple[int, int], ...], box: IndexBox, mask: NDArray[np.bool_]) -> bool:
    """Whether a mask on a part of the volume has voxels in one of the filled slices."""
    return any(
        box[axis].start <= k < box[axis].stop and bool(mask.take(k - box[axis].start, axis=axis).any())
        for axis, k in filled
    )


def fit_cut_body(
    volume: Volume,
    hu: NDArray[np.float32],
    grid: Grid,
    tube: Tube,
    outlines: Outlines,
    discs: tuple[Disc, ...],
) -> BodyModel | None:
    """The body above the uppermost disc, if the scan ends within it.

    It has no disc above it in view, so the chain of discs does not hold it. The disc is taken to lie as far up as the
    next one lies down. None when that place is in view (then it was looked at, and is no disc), when less than half of the
    body is in view, or when what is in view has no wall and no lower endplate.

    Parameters
    ----------
    hu : float32 ndarray of shape (Z, Y, X)
        Relative HU on the fine `grid` about the spine.
    discs : tuple of Disc
        From cranial to caudal, at least two.
    """
    top, pitch_mm = discs[0], discs[0].s_mm - discs[1].s_mm
    places = top.s_mm + np.linspace(0.0, pitch_mm, 41)
    centre = np.array([outlines.at(s)[0] for s in places])
    points = tube.to_lps(places, centre[:, 0], centre[:, 1])
    index = volume.grid.to_index(points)
    inside = np.asarray(((index > -0.5) & (index < np.array(volume.shape) - 0.5)).all(axis=1), np.bool_)
    nearest = np.rint(index[inside]).astype(int)
    if volume.valid is not None and len(nearest):
        low, high = nearest.min(axis=0), nearest.max(axis=0) + 1
        box = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
        inside[np.flatnonzero(inside)] = scanned_part(volume, box)[tuple((nearest - low).T)]
    if inside.all() or inside.mean() < _LEAST_PART_IN_VIEW:
        return None
    beyond = replace(top, s_mm=float(places[-1]), centre_lps_mm=points[-1])
    model = fit_body(hu, grid, tube, outlines, top, beyond, source_spacing_mm=volume.spacing_mm)
    # What is not in view has no edge: the mean over the wall is brought to the part that has been seen.
    wall_hu = model.wall_edge_hu / max(float(inside.mean()), _LEAST_PART_IN_VIEW)
    return model if wall_hu >= _LEAST_WALL_HU and model.lower_edge_hu >= _LEAST_PLATE_HU else None
