"""Which bone near a hip belongs to the pelvis although it touches the femur.

Next to the head the sphere decides (see `outline`). Farther out, where socket rim, ischium and pubis lie close to neck and
trochanters (a hip turned outwards or adducted, spurs, a protrusion), blur and partial volume make bridges of bone a few
millimetres wide. Both bones are far thicker than such a bridge: from a seed in each, every voxel falls to the one that it is
joined to by the thicker connection.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import convex_hull_image
from skimage.segmentation import watershed

REACH_MM = 62.0
"""So far beyond the head's surface the two bones are told apart: as far as the ischium reaches."""
_ANY_HOLE_MM2, _ROUND_HOLE_MM2, _SMALLEST_SOLIDITY = 400.0, 1800.0, 0.75
"""Marrow in a plane through a bone is a round hole; what two bones enclose between them has their hollow outline."""
_FEMUR, _PELVIS = 1, 2


def pelvic_bone(
    bone: NDArray[np.bool_],
    femur_seed: NDArray[np.bool_],
    pelvis_seed: NDArray[np.bool_],
    joint: NDArray[np.bool_],
    edge_mm: float,
) -> NDArray[np.bool_]:
    """Voxels of bone that hang on the pelvis rather than on the femur.

    Parameters
    ----------
    bone : bool ndarray of shape (Z, Y, X)
        Above the threshold, both bones, on isotropic voxels.
    femur_seed, pelvis_seed : bool ndarray of shape (Z, Y, X)
        What surely belongs to one of them.
    joint : bool ndarray of shape (Z, Y, X)
        Where the joint space may lie: what is not bone there is no marrow.
    edge_mm : float
        Of the voxels.

    Returns
    -------
    bool ndarray of shape (Z, Y, X)
        All False where no bone is joined to both seeds.

    Notes
    -----
    Watershed on the depth below the surface of the bones made solid: a path is as strong as its thinnest place, and a voxel
    goes to the seed with the strongest path to it.
    """
    seeds = np.where(femur_seed, _FEMUR, np.where(pelvis_seed & bone, _PELVIS, 0)).astype(np.int32)
    solid = bone | femur_seed
    solid |= _marrow_filled(solid, edge_mm) & ~joint
    image = sitk.GetImageFromArray(np.pad(solid, 1).view(np.uint8))
    outside = sitk.SignedMaurerDistanceMap(image, insideIsPositive=True, squaredDistance=False, useImageSpacing=False)
    depth = sitk.GetArrayFromImage(outside)[1:-1, 1:-1, 1:-1]
    return np.asarray(watershed(-depth, seeds, mask=solid) == _PELVIS)


def _marrow_filled(mask: NDArray[np.bool_], edge_mm: float) -> NDArray[np.bool_]:
    """With the holes of axial, coronal and sagittal planes filled that are as small and as round as marrow."""
    out = mask.copy()
    for axis in range(3):
        for plane in np.moveaxis(out, axis, 0):
            holes, count = ndimage.label(~plane)
            for number, box in enumerate(ndimage.find_objects(holes), start=1):
                if count == 1 or _meets_border(box, plane.shape):
                    continue
                hole = ndimage.binary_fill_holes(holes[box] == number)
                area_mm2 = float(hole.sum()) * edge_mm**2
                if area_mm2 > _ROUND_HOLE_MM2:
                    continue
                if area_mm2 < _ANY_HOLE_MM2 or hole.sum() >= _SMALLEST_SOLIDITY * convex_hull_image(hole).sum():
                    plane[box] |= hole
    return out


def _meets_border(box: tuple[slice, ...], shape: tuple[int, ...]) -> bool:
    return any(part.start == 0 or part.stop == size for part, size in zip(box, shape, strict=True))
