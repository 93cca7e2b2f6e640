"""Reasons not to test a bone, found before anything is meshed; each raises `NotMeasurable` with its code."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.errors import NotMeasurable

THICKEST_SLICE_MM = 3.5
"""Coarser spacing smears the cortex and the end plates over more than a voxel of any model."""

METAL_HU = 2500.0
"""Above the densest cortex, below the clipping level of 12-bit CT."""

LARGEST_LOOSE_PART = 0.02
"""Of the volume of a bone; the same bound as for pieces of the model."""

LEAST_DENSITY_MG_CM3 = 20.0
"""Cortex of the emptiest bone, smeared over thick slices, is several times denser; the densest bone in g/cm3 is below 2."""

_METAL_MM3 = 30.0  # a screw tip; single noisy voxels of a sharp kernel stay below
_NEAR_MM = 3.0


def require_spacing(spacing_mm: NDArray, subject: str) -> None:
    """``voxels_too_coarse`` if an edge of the voxels is above `THICKEST_SLICE_MM`."""
    coarsest = float(np.max(spacing_mm))
    if coarsest > THICKEST_SLICE_MM:
        raise NotMeasurable(
            "voxels_too_coarse",
            f"voxels are {coarsest:.2g} mm thick; a strength test needs {THICKEST_SLICE_MM:g} mm or less.",
            subject=subject,
            remedy="Use a reconstruction with thinner slices.",
        )


def require_mask(mask: NDArray[np.bool_], subject: str) -> None:
    """``mask_empty`` if there is nothing to test."""
    if not mask.any():
        raise NotMeasurable("mask_empty", "its mask holds no voxel.", subject=subject)


def require_one_piece(mask: NDArray[np.bool_], subject: str) -> None:
    """``disconnected_pieces`` if more than `LARGEST_LOOSE_PART` of the mask lies apart from its main piece.

    Voxels that touch by a corner count as joined. A gap narrower than a voxel of the model would be bridged by partial bone
    there, so it is looked for in the mask itself.
    """
    pieces, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    if count < 2:
        return
    sizes = np.bincount(pieces.ravel())[1:]
    loose = 1.0 - float(sizes.max()) / float(sizes.sum())
    if loose > LARGEST_LOOSE_PART:
        raise NotMeasurable(
            "disconnected_pieces",
            f"{100 * loose:.1f} % of the mask lies apart from its main piece ({count} pieces).",
            subject=subject,
            remedy="Close the gap, or remove the pieces that are no part of the bone.",
        )


def require_density_scale(density_mg_cm3: NDArray, subject: str) -> None:
    """``density_unphysical`` if even the densest bone lies below `LEAST_DENSITY_MG_CM3`: another unit, g/cm3 as a rule."""
    finite = density_mg_cm3[np.isfinite(density_mg_cm3)]
    if finite.size == 0:
        return  # said by the model
    densest = float(np.percentile(finite, 99))
    if 0 < densest < LEAST_DENSITY_MG_CM3:
        raise NotMeasurable(
            "density_unphysical",
            f"the densest bone has {densest:.3g} mg/cm3, less than any bone: are these g/cm3?",
            subject=subject,
            remedy="Give densities in mg/cm3.",
        )


def require_inside(
    mask: NDArray[np.bool_], valid: NDArray[np.bool_] | None, subject: str, *, open_end: tuple[int, int] | None = None
) -> None:
    """``cut_by_field_of_view`` if the mask touches a face of the volume or padding beside it.

    Parameters
    ----------
    mask, valid : bool ndarray of shape (Z, Y, X)
        Of the whole volume; `valid` is False where the scanner wrote padding.
    open_end : (axis, 0 or -1), optional
        The face through which the bone may leave the volume: the shaft of a femur.
    """
    for axis in range(3):
        for end in (0, -1):
            if (axis, end) != open_end and mask.take(end, axis).any():
                raise NotMeasurable(
                    "cut_by_field_of_view",
                    "the field of view cuts it.",
                    subject=subject,
                    remedy="Use a series that covers the whole bone.",
                )
    if valid is not None and bool((ndimage.binary_dilation(mask) & ~valid).any()):
        raise NotMeasurable("cut_by_field_of_view", "it reaches the edge of the scanned field.", subject=subject)


def require_no_metal(hu: NDArray, mask: NDArray[np.bool_], spacing_mm: NDArray, subject: str) -> None:
    """``metal`` if a piece of metal or dense cement lies in the bone or within 3 mm of it."""
    dense = np.asarray(hu) > METAL_HU
    if not dense.any():
        return
    reach = [max(round(_NEAR_MM / float(edge)), 1) for edge in spacing_mm]
    near = ndimage.maximum_filter(mask, size=[2 * n + 1 for n in reach])
    pieces, count = ndimage.label(dense & near, structure=np.ones((3, 3, 3)))
    if count == 0:
        return
    volume_mm3 = float(np.bincount(pieces.ravel())[1:].max()) * float(np.prod(spacing_mm))
    if volume_mm3 >= _METAL_MM3:
        raise NotMeasurable(
            "metal", f"{volume_mm3:.0f} mm3 above {METAL_HU:.0f} HU in or beside it: metal or cement.", subject=subject
        )
