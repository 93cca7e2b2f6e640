"""Undoes a gantry tilt: shifts each slice in its own plane until the stack stands upright on it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_NEGLIGIBLE_PIXELS = 0.05


def shear_back(
    hu: NDArray, valid: NDArray[np.bool_] | None, matrix: NDArray[np.float64], *, fill_hu: float
) -> tuple[NDArray, NDArray[np.bool_], NDArray[np.float64]]:
    """Make the grid of a tilted stack orthogonal.

    The planes stay the scanned planes (so the new grid is oblique to the patient by the tilt angle) and each slice is
    shifted within its plane by linear interpolation along one axis at a time, which blurs less than a resampling to the
    patient's axes. The field grows by what is needed to hold all slices; nothing is cut. Padding is never blended with tissue.

    Parameters
    ----------
    hu : ndarray of shape (N, R, C)
    valid : bool ndarray of shape (N, R, C) or None
    matrix : float ndarray of shape (4, 4)
        Index-to-LPS matrix, whose first column is not at right angles to the others.
    fill_hu : float
        Value of voxels outside the scanned field.

    Returns
    -------
    hu : ndarray of shape (N, R', C')
    valid : bool ndarray of shape (N, R', C')
    matrix : float ndarray of shape (4, 4)
        With orthogonal axes.
    """
    if valid is None:
        valid = np.ones(hu.shape, bool)
    matrix = matrix.copy()
    for axis in (1, 2):
        edge = matrix[:3, axis]
        shift = float(matrix[:3, 0] @ edge) / float(edge @ edge)  # pixels per slice along this axis
        if abs(shift) * (hu.shape[0] - 1) > _NEGLIGIBLE_PIXELS:
            offsets = shift * np.arange(hu.shape[0], dtype=np.float64)
            lowest = int(np.floor(offsets.min()))
            hu, valid = _shifted(hu, valid, offsets - lowest, axis, fill_hu)
            matrix[:3, 3] += lowest * edge
        matrix[:3, 0] -= shift * edge
    return hu, valid, matrix


def _shifted(
    hu: NDArray, valid: NDArray[np.bool_], offsets: NDArray[np.float64], axis: int, fill_hu: float
) -> tuple[NDArray, NDArray[np.bool_]]:
    """Each slice moved by its offset (pixels, not negative) along one in-plane axis, on a grid that holds all of them."""
    length = hu.shape[axis]
    shape = list(hu.shape)
    shape[axis] = length + int(np.ceil(offsets.max()))
    out = np.full(shape, fill_hu, hu.dtype)
    out_valid = np.zeros(shape, bool)
    for k, offset in enumerate(offsets):
        whole = int(np.floor(offset + 1e-9))
        weight = max(float(offset - whole), 0.0)
        source, good = np.moveaxis(hu[k], axis - 1, 0), np.moveaxis(valid[k], axis - 1, 0)
        target, target_good = np.moveaxis(out[k], axis - 1, 0), np.moveaxis(out_valid[k], axis - 1, 0)
        if weight < 1e-6:
            target[whole : whole + length] = np.where(good, source, fill_hu)
            target_good[whole : whole + length] = good
            continue
        # Output pixel j lies `weight` of a pixel before source pixel j, between source pixels j - 1 and j.
        blend = weight * source[:-1].astype(np.float32) + (1 - weight) * source[1:]
        both = good[:-1] & good[1:]
        if hu.dtype.kind == "i":
            blend = np.rint(blend)
        target[whole + 1 : whole + length] = np.where(both, blend, fill_hu).astype(hu.dtype)
        target_good[whole + 1 : whole + length] = both
    return out, out_valid
