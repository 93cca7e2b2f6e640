"""Where the outer face of a thin cortex lies in a blurred image.

The steepest edge of a thin bright shell is seen outside the shell, by up to the width of the blur, and the half maximum farther
out still: at 3 mm voxels nearly a millimetre on each side of a body. The blur is known from the voxels, so the face can be
found by fitting a blurred shell to the mean profile across the surface.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

SHELL_MM = 0.6
"""Thickness of cortex and endplate that is taken for granted; in vertebral bodies 0.3 to 0.8 mm."""
_KERNEL_SD_MM = 0.4
_RANGE_MM = (-2.5, 1.0)
_BLUR_FACTORS = (0.85, 1.0, 1.2)


def blur_sd_mm(source_mm: float, grid_mm: float) -> float:
    """Standard deviation of the blur between bone and a value read from the fine grid, along one direction.

    It is that of a box as wide as the source voxel, of linear interpolation on the source and on the grid, and of a standard
    reconstruction kernel.
    """
    box, source, grid = source_mm**2 / 12.0, max(source_mm, grid_mm) ** 2 / 6.0, grid_mm**2 / 6.0
    return float(np.sqrt(box + source + grid + _KERNEL_SD_MM**2))


def outer_face_mm(distance_mm: NDArray[np.float64], profile_hu: NDArray[np.float64], blur_mm: float) -> float:
    """Position of the outer face of the shell along a mean profile.

    Parameters
    ----------
    distance_mm : float ndarray of shape (W,)
        Distance from the surface that was found, positive outwards.
    profile_hu : float ndarray of shape (W,)
    blur_mm : float
        Standard deviation of the blur (see `blur_sd_mm`); the fit may change it by a fifth.

    Returns
    -------
    float
        On `distance_mm`; between -2.5 and 1 mm.
    """
    best, least = 0.0, np.inf
    for factor in _BLUR_FACTORS:
        sd = factor * blur_mm
        for face in np.arange(_RANGE_MM[0], _RANGE_MM[1] + 0.01, 0.05):
            inside = ndtr((face - distance_mm) / sd)
            shell = inside - ndtr((face - SHELL_MM - distance_mm) / sd)
            design = np.stack([np.ones_like(inside), inside, shell], axis=1)
            solution, _, _, _ = np.linalg.lstsq(design, profile_hu, rcond=None)
            if solution[2] < 0:
                solution, _, _, _ = np.linalg.lstsq(design[:, :2], profile_hu, rcond=None)
                error = float(((design[:, :2] @ solution - profile_hu) ** 2).sum())
            else:
                error = float(((design @ solution - profile_hu) ** 2).sum())
            if error < least:
                best, least = float(face), error
    return best
