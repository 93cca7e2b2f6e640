"""Parallel projections of a plane and their filtered back projection.

The beam is parallel, as in the data of a fan-beam scanner after rebinning. Projection follows Joseph (IEEE Trans Med Imaging
1982;1:192): a ray goes from row to row (or column to column) with linear interpolation between pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numba import njit
from numpy.typing import NDArray

RAY_STEP_MM = 0.3
"""Distance of the rays: half of a detector of 0.6 mm, as the quarter offset or a flying focal spot gives."""
VIEWS = 600
"""Views over half a turn; 1200 a turn."""


@dataclass(frozen=True)
class Plane:
    """Pixels in the plane of a slice, in mm from the isocentre.

    Attributes
    ----------
    rows, columns : int
    pixel_mm : tuple of float
        Along (y, x).
    first_mm : tuple of float
        Middle of the first pixel, (y, x).
    """

    rows: int
    columns: int
    pixel_mm: tuple[float, float]
    first_mm: tuple[float, float]


def ray_offsets_mm(field_radius_mm: float) -> NDArray[np.float64]:
    """Distances of all rays of a view from the isocentre, symmetric, never exactly through it."""
    half = math.ceil(field_radius_mm / RAY_STEP_MM)
    return np.asarray((np.arange(2 * half) + 0.5 - half) * RAY_STEP_MM, np.float64)


def view_angles_rad() -> NDArray[np.float64]:
    """Directions of the views over half a turn."""
    return np.arange(VIEWS) * np.pi / VIEWS


@njit(cache=True, nogil=True, fastmath=True)
def _project(
    image: np.ndarray, turned: np.ndarray, first_y: float, first_x: float, pixel: float, angles: np.ndarray, first_s: float,
    step_s: float, out: np.ndarray,
) -> None:  # fmt: skip
    """Line integrals of `image` (B, Y, X); `turned` is the same with x and y exchanged, so that a ray walks along memory."""
    parts, rows, columns = image.shape
    for view in range(angles.shape[0]):
        c, s = math.cos(angles[view]), math.sin(angles[view])
        by_rows = abs(c) >= abs(s)
        source = turned if by_rows else image
        main, other = (c, s) if by_rows else (s, c)
        lines, across = (rows, columns) if by_rows else (columns, rows)
        first_line, first_across = (first_y, first_x) if by_rows else (first_x, first_y)
        length = pixel / abs(main)
        slope = -other / main  # pixels across per line
        for ray in range(out.shape[2]):
            offset = first_s + ray * step_s
            start = ((offset - first_line * other) / main - first_across) / pixel
            low, high = 0, lines
            if slope != 0.0:
                a, b = -start / slope, (across - 1.0001 - start) / slope
                # Limited as floats: a ray that hardly leans meets the rim at a line beyond any integer.
                low = int(max(0.0, math.ceil(min(max(min(a, b), -1.0), lines + 1.0))))
                high = int(min(float(lines), math.floor(min(max(max(a, b), -1.0), lines + 1.0)) + 1.0))
            elif start < 0.0 or start > across - 1.0001:
                continue
            for part in range(parts):
                plane = source[part]
                total = np.float32(0.0)
                for line in range(low, high):
                    place = start + slope * line
                    index = int(place)
                    share = np.float32(place - index)
                    below = plane[index, line]
                    total += below + share * (plane[index + 1, line] - below)
                out[part, view, ray] = total * length


def project(image: NDArray[np.float32], plane: Plane, offsets_mm: NDArray[np.float64]) -> NDArray[np.float32]:
    """Line integrals (per mm) through an image whose pixels are square.

    Parameters
    ----------
    image : float32 ndarray of shape (B, Y, X)
        Zero at its rim; several quantities at once.
    plane : Plane
    offsets_mm : float ndarray of shape (S,)
        Evenly spaced.

    Returns
    -------
    float32 ndarray of shape (B, VIEWS, S)
    """
    if abs(plane.pixel_mm[0] - plane.pixel_mm[1]) > 1e-9:
        raise ValueError("pixels to project must be square")
    out = np.zeros((image.shape[0], VIEWS, len(offsets_mm)), np.float32)
    turned = np.ascontiguousarray(image.transpose(0, 2, 1))
    step = float(offsets_mm[1] - offsets_mm[0])
    _project(image, turned, *plane.first_mm, plane.pixel_mm[0], view_angles_rad(), float(offsets_mm[0]), step, out)
    return out


def filter_views(views: NDArray[np.float32], *, psf_sigma_mm: float, object_pixel_mm: float) -> NDArray[np.float32]:
    """Ramp-filter views of shape (VIEWS, S), so that a point is reconstructed as a Gaussian of `psf_sigma_mm`.

    What has blurred already is divided out within the band: detector aperture with focal spot, the pixels of the projected
    object (by view, since its pixels are square and interpolated along one axis only), and linear interpolation
    in the back projection. A resolution that the detector cannot give is refused.

    Raises
    ------
    ValueError
        If `psf_sigma_mm` is finer than what the blur leaves.
    """
    if psf_sigma_mm < 0.85 * RAY_STEP_MM:
        raise ValueError(f"a point spread of {psf_sigma_mm:.2f} mm is finer than the rays resolve")
    count = views.shape[1]
    size = scipy.fft.next_fast_len(2 * count, real=True)
    # The ramp by way of its exact samples, so that the mean of the image comes out right (Kak and Slaney, chapter 3).
    n = np.arange(size)
    n = np.minimum(n, size - n)
    odd = n % 2 == 1
    kernel = np.zeros(size)
    kernel[0] = 1.0 / (4.0 * RAY_STEP_MM**2)
    kernel[odd] = -1.0 / (np.pi * n[odd] * RAY_STEP_MM) ** 2
    ramp = np.fft.rfft(kernel).real * RAY_STEP_MM
    f = np.asarray(np.fft.rfftfreq(size, RAY_STEP_MM), np.float64)
    wanted = np.exp(-2.0 * (np.pi * f * psf_sigma_mm) ** 2)
    known = aperture(f) * np.sinc(f * RAY_STEP_MM) ** 2
    out = np.empty_like(views)
    for view, angle in enumerate(view_angles_rad()):
        c, s = abs(np.cos(angle)), abs(np.sin(angle))
        pixels = np.sinc(f * object_pixel_mm * c) * np.sinc(f * object_pixel_mm * s)
        pixels = pixels * np.sinc(f * object_pixel_mm * max(c, s)) ** 2
        window = np.where(wanted > 1e-4, wanted / np.maximum(known * pixels, 0.05), 0.0)
        spectrum = scipy.fft.rfft(views[view], size) * (ramp * window).astype(np.float32)
        out[view] = scipy.fft.irfft(spectrum, size)[:count]
    return out


APERTURE = (0.25, 0.5, 0.25)
"""Weights of neighbouring rays in one reading: a detector of 0.6 mm and the focal spot, 0.73 mm wide in all."""


def aperture(frequency_per_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Transfer function of `APERTURE`."""
    return np.asarray(APERTURE[1] + 2.0 * APERTURE[0] * np.cos(2.0 * np.pi * frequency_per_mm * RAY_STEP_MM))


@njit(cache=True, nogil=True, fastmath=True)
def _back_project(
    views: np.ndarray, angles: np.ndarray, first_s: float, step_s: float, first_y: float, first_x: float, pixel_y: float,
    pixel_x: float, out: np.ndarray,
) -> None:  # fmt: skip
    rows, columns = out.shape
    last = views.shape[1] - 2
    for view in range(angles.shape[0]):
        c, s = math.cos(angles[view]), math.sin(angles[view])
        line = views[view]
        for row in range(rows):
            start = (first_x * c + (first_y + row * pixel_y) * s - first_s) / step_s
            slope = pixel_x * c / step_s
            for column in range(columns):
                place = start + slope * column
                index = int(place)
                if place < 0.0 or index > last:
                    continue
                share = place - index
                out[row, column] += line[index] * (1.0 - share) + line[index + 1] * share


def back_project(filtered: NDArray[np.float32], offsets_mm: NDArray[np.float64], plane: Plane) -> NDArray[np.float32]:
    """The image of filtered views on the pixels of a plane; per mm of what the views are line integrals of."""
    out = np.zeros((plane.rows, plane.columns), np.float32)
    step = float(offsets_mm[1] - offsets_mm[0])
    _back_project(
        filtered, view_angles_rad(), float(offsets_mm[0]), step, *plane.first_mm, *plane.pixel_mm, out
    )  # fmt: skip
    out *= np.float32(np.pi / VIEWS)
    return out
