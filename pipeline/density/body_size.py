"""How much of a body the X-rays pass through: its water-equivalent diameter (AAPM report 220), which hardens the beam."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_BODY_HU = -300.0
_SOLID_HU = -700.0
_FEWEST_SLICES = 5
_CUT_SHARE = 0.02
_EDGE_BLOCKS = 1.5
_SMALLEST_AREA_MM2 = 10_000.0


def water_equivalent_diameter_mm(
    mean_hu: NDArray[np.float32], spacing_mm: tuple[float, float, float]
) -> tuple[float | None, float | None]:
    """Diameter of the cylinder of water that attenuates like body and table, from slices that hold the body's whole outline.

    Parameters
    ----------
    mean_hu : float32 ndarray of shape (Z, Y, X)
        Coarse image, blocks of about 3 mm.
    spacing_mm : tuple of float
        Of the blocks, along (z, y, x).

    Returns
    -------
    float or None
        Median over the slices; None if the field of view cuts the body in nearly all of them.
    float or None
        What the part in view alone comes to, a lower bound; None if there is no body.
    """
    whole: list[float] = []
    cut: list[float] = []
    pixel_mm2 = spacing_mm[1] * spacing_mm[2]
    edge = _edge_of_field(mean_hu.shape[1:])
    for image in mean_hu:
        components, number = ndimage.label(image > _BODY_HU)
        if number == 0:
            continue
        body = components == int(np.argmax(np.bincount(components.ravel())[1:])) + 1
        body = ndimage.binary_fill_holes(body)
        if body.sum() * pixel_mm2 < _SMALLEST_AREA_MM2:
            continue
        # Table and plate harden the beam as the body does; only the air and foam around it are left out.
        counted = body | (image > _SOLID_HU)
        water_mm2 = float(np.maximum(image[counted] / 1000.0 + 1.0, 0.0).sum()) * pixel_mm2
        outline = body & ~ndimage.binary_erosion(body)
        touching = (outline & edge).sum() > _CUT_SHARE * outline.sum()
        (cut if touching else whole).append(2.0 * float(np.sqrt(water_mm2 / np.pi)))
    if len(whole) >= min(_FEWEST_SLICES, max(1, len(mean_hu) // 2)):
        return float(np.median(whole)), float(np.median(whole))
    everything = whole + cut
    return None, float(np.median(everything)) if everything else None


def _edge_of_field(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Where a slice ends: at its border, in square slices also at the circle that scanners fill."""
    rows, columns = shape
    j, i = np.mgrid[0:rows, 0:columns].astype(float)
    to_border = np.minimum.reduce([j, i, rows - 1 - j, columns - 1 - i])
    edge = to_border < _EDGE_BLOCKS
    if abs(rows - columns) <= 1:
        radius = np.hypot(j - (rows - 1) / 2, i - (columns - 1) / 2)
        edge |= radius > min(rows, columns) / 2 - _EDGE_BLOCKS
    return np.asarray(edge)
