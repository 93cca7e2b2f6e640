"""Whether the picture is its own mirror image: the liver, the largest solid thing in a trunk, must lie on the right.

A header that is wrong about left and right (a NIfTI file that was turned between two conventions, columns written backwards)
leaves vertebrae as they are, but swaps the hips. Nothing in the bones tells the sides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.errors import Finding, Severity
from pipeline.segmentation.spine.canal import Canal
from pipeline.volume import Grid

_EDGE_MM = 4.0
_SOLID_HU = (0.0, 250.0)
_SOLID_WITHIN_MM, _SOLID_SHARE = 14.0, 0.9
_ASIDE_MM, _IN_FRONT_MM = 35.0, 20.0
"""What lies nearer to the canal is spine, great vessels and the muscles beside them."""
_ALONG_MM = 40.0
_MIRRORED_CM2 = 45.0
"""In six trunks the right side holds up to 25-83 cm2 more than the left, and where the heart, spleen or stomach lie the left
up to 2-33 cm2 more than the right. Livers alone exceed this."""


def surplus_on_the_left_cm2(hu: NDArray[np.float32], grid: Grid, canal: Canal) -> NDArray[np.float64]:
    """Cross-section of solid soft tissue on the patient's left less that on the right, slice by slice along the canal.

    Parameters
    ----------
    hu : float32 ndarray of shape (Z, Y, X)
        In canonical order: axes to the head, the back and the left.
    grid : Grid
        Isotropic, of 1 to 4 mm.
    canal : Canal
        Its line tells the middle of the patient in each slice.

    Returns
    -------
    float ndarray of shape (N,)
        cm2, averaged over 40 mm along the patient; empty without a canal.
    """
    stride = max(1, round(_EDGE_MM / grid.spacing_mm[0]))
    edge_mm = stride * grid.spacing_mm[0]
    index = grid.to_index(canal.points_lps_mm)
    if len(index) < 2:
        return np.zeros(0)
    slices = np.arange(max(int(np.ceil(index[0, 0])), 0), min(int(index[-1, 0]) + 1, len(hu)), stride)
    coarse = hu[slices][:, ::stride, ::stride]
    solid = (coarse > _SOLID_HU[0]) & (coarse < _SOLID_HU[1])
    size = round(_SOLID_WITHIN_MM / edge_mm)
    solid = ndimage.uniform_filter(solid.astype(np.float32), (1, size, size)) > _SOLID_SHARE
    canal_row, canal_column = (np.interp(slices, index[:, 0], index[:, c]) / stride for c in (1, 2))
    in_front = (canal_row[:, None] - np.arange(coarse.shape[1])) * edge_mm > _IN_FRONT_MM
    aside_mm = (np.arange(coarse.shape[2]) - canal_column[:, None]) * edge_mm
    side = np.where(np.abs(aside_mm) > _ASIDE_MM, np.sign(aside_mm), 0.0)
    surplus = np.einsum("zyx,zy,zx->z", solid, in_front, side) * (edge_mm / 10.0) ** 2
    return np.asarray(ndimage.uniform_filter1d(surplus, max(1, round(_ALONG_MM / edge_mm)), mode="nearest"))


def sides_findings(hu: NDArray[np.float32], grid: Grid, canal: Canal) -> list[Finding]:
    """A warning if what should be the liver lies on the left, and nothing like it on the right."""
    surplus = surplus_on_the_left_cm2(hu, grid, canal)
    if len(surplus) == 0:
        return []
    left, right = float(surplus.max()), float(-surplus.min())
    if left < _MIRRORED_CM2 or right > 0.5 * left:
        return []
    text = (
        f"The largest solid organ, which should be the liver, lies on the left ({left:.0f} cm2 more than on the right): the "
        "image may be mirrored, and left and right of all structures swapped."
    )
    return [Finding("sides_doubtful", Severity.WARNING, text)]
