"""From a noise-free object to what a scanner would show: slice profile, in-plane blur, correlated quantum noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from phantoms.projection import aperture
from phantoms.voxelise import Lattice

_REFERENCE_NOISE_HU = 14.0
"""Standard deviation at dose 1, 120 kVp, 2 mm slices and a standard kernel."""

KERNELS = {"soft": (1.65, 0.71), "standard": (1.35, 1.0), "sharp": (0.85, 2.6)}
"""By kernel: width of the in-plane point spread function (FWHM in mm), and noise relative to the standard kernel as the
simulated scanner gives it (docs/phantoms.md)."""


@dataclass(frozen=True)
class PhantomImage:
    """A CT image of a phantom.

    Attributes
    ----------
    hu : int16 ndarray of shape (Z, Y, X)
    lattice : Lattice
    labels : uint8 ndarray of shape (Z, Y, X)
        The true label map on the same voxels.
    kvp, slice_mm, dose : float
        `slice_mm` is the slice thickness; the distance of slices is that of the lattice.
    kernel : str
    mode : str
        ``"fast"`` or ``"projections"``.
    water_equivalent_diameter_mm : float or None
        Of the middle slice, in mode ``"projections"``.
    """

    hu: NDArray[np.int16]
    lattice: Lattice
    labels: NDArray[np.uint8]
    kvp: float
    slice_mm: float
    dose: float
    kernel: str
    mode: str = "fast"
    water_equivalent_diameter_mm: float | None = None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel edges along (z, y, x) in mm."""
        return self.lattice.spacing_mm

    @property
    def origin(self) -> tuple[float, float, float]:
        """LPS of the centre of the first voxel."""
        x, y, z = (float(v) for v in self.lattice.index_to_lps[:3, 3])
        return x, y, z

    @property
    def direction(self) -> NDArray[np.float64]:
        """Unit vectors (rows) of the array axes z, y, x in LPS."""
        matrix = self.lattice.index_to_lps[:3, :3]
        return np.asarray((matrix / np.linalg.norm(matrix, axis=0)).T)


def noise_hu(dose: float, kvp: float, slice_mm: float, kernel: str) -> float:
    """Standard deviation of the noise: falls with the root of dose and slice thickness, rises at low tube voltage.

    Dose stands for tube load; the exponent lies between those of the simulated scanner (2.0 at 80 and 1.3 at 140 kVp).
    """
    if dose <= 0:
        return 0.0
    return float(_REFERENCE_NOISE_HU * KERNELS[kernel][1] * (120.0 / kvp) ** 1.6 * (2.0 / slice_mm) ** 0.5 / dose**0.5)


def form_image(
    noise_free: NDArray[np.float32], spacing_mm: tuple[float, float, float], *, kernel: str, sigma_hu: float, seed: int
) -> NDArray[np.int16]:
    """Blur each slice with the point spread function of the kernel and add noise; values as a scanner stores them.

    The noise has the power spectrum of filtered backprojection: a ramp that the kernel rolls off, where the kernel has to make
    up for the blur of the detector, which counts photons that know nothing of it. It is independent from slice to slice.
    Filtering is periodic within the field of view, which is padded.

    Parameters
    ----------
    noise_free : float32 ndarray of shape (Z, Y, X)
        Means over voxels; overwritten.
    spacing_mm : tuple of float
        Along (z, y, x).
    sigma_hu : float
        Standard deviation of the noise; 0 for none.
    """
    count, rows, columns = noise_free.shape
    fwhm = KERNELS[kernel][0]
    sigma_mm = fwhm / 2.3548
    pad = int(np.ceil(3 * sigma_mm / min(spacing_mm[1:])))
    shape = tuple(scipy.fft.next_fast_len(n + 2 * pad, real=True) for n in (rows, columns))
    fy = np.fft.fftfreq(shape[0], spacing_mm[1])[:, None]
    fx = np.fft.rfftfreq(shape[1], spacing_mm[2])[None, :]
    radius = np.hypot(fy, fx)
    # The voxel mean has blurred already: the kernel adds what is missing to its width.
    missing = max(sigma_mm**2 - (spacing_mm[1] ** 2 + spacing_mm[2] ** 2) / 24.0, 0.0)
    transfer = np.exp(-2 * (np.pi * radius) ** 2 * missing).astype(np.float32)
    kernel_gain = np.exp(-2 * (np.pi * radius * sigma_mm) ** 2) / np.maximum(aperture(radius), 0.05)
    colour = (np.sqrt(radius + 0.004) * kernel_gain).astype(np.float32)
    weight = np.full(colour.shape, 2.0)
    weight[:, 0] = 1.0
    if shape[1] % 2 == 0:
        weight[:, -1] = 1.0
    colour *= 1.0 / np.sqrt(float((weight * colour.astype(float) ** 2).sum()) / (shape[0] * shape[1]))
    out = np.empty((count, rows, columns), np.int16)
    streams = np.random.SeedSequence(seed).spawn(count)
    for k in range(count):
        padded = np.pad(noise_free[k], ((pad, shape[0] - rows - pad), (pad, shape[1] - columns - pad)), mode="edge")
        spectrum = scipy.fft.rfft2(padded) * transfer
        if sigma_hu > 0:
            white = np.random.Generator(np.random.SFC64(streams[k])).standard_normal(shape, dtype=np.float32)
            spectrum += scipy.fft.rfft2(white) * (colour * np.float32(sigma_hu))
        plane = scipy.fft.irfft2(spectrum, s=shape)[pad : pad + rows, pad : pad + columns]
        out[k] = as_stored(plane)
    return out


def as_stored(hu: NDArray[np.float32]) -> NDArray[np.int16]:
    """CT numbers as a scanner stores them: whole and within twelve bits."""
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16)


def thick_slices(fine: NDArray[np.float32], parts: int, every: int, count: int) -> NDArray[np.float32]:
    """Mean over `parts` thin slices at a time, a new slice every `every` thin ones (overlap if fewer than `parts`)."""
    return np.stack([fine[k * every : k * every + parts].mean(axis=0) for k in range(count)])
