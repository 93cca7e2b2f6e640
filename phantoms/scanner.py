"""A CT scanner simulated as physics: polychromatic projections, counted photons, water correction, back projection.

Each slice is made of sub-slices as thin as a detector row. Of each, the object is voxelised finer than the image resolves
(`object_pixel_mm`, exact means over sub-voxel geometry), split into a basis of substances, projected, seen by the beam of
`phantoms.beam`, counted, and corrected for water. The views of the sub-slices are averaged, filtered and back projected.
Beam hardening by bone and metal, streaks, noise that follows the body, and the size dependence of CT numbers are
consequences. There is no scatter, no motion and no cone angle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from phantoms.beam import ELECTRONIC_NOISE_KEV, REFERENCE_MAS, Beam, WaterCorrection
from phantoms.materials import BASIS, BasisDensity
from phantoms.projection import APERTURE, RAY_STEP_MM, VIEWS, Plane, back_project, filter_views, project, ray_offsets_mm
from phantoms.solids import Solid
from phantoms.voxelise import Lattice, render

FIELD_RADIUS_MM = 250.0
"""Radius of the circle that the detector sees from all sides."""

SUB_SLICE_MM = 0.7
"""Thickness that a detector row sees: within it, attenuations are averaged before they are measured."""

_LEAST_SIGNAL_KEV = 60.0  # a reading never falls below one photon
_BATCH = 4  # sub-slices in memory per thread


def object_pixel_mm(psf_fwhm_mm: float) -> float:
    """Pixel of the object: well below the resolution, since what it blurs is divided out again, and that raises noise."""
    return min(0.5, 0.4 * psf_fwhm_mm)


@dataclass(frozen=True)
class Scan:
    """A reconstructed volume.

    Attributes
    ----------
    hu : float32 ndarray of shape (Z, Y, X)
    water_equivalent_diameter_mm : float
        Of the middle slice: the water cylinder that attenuates as much (AAPM report 220).
    """

    hu: NDArray[np.float32]
    water_equivalent_diameter_mm: float


def scan(
    solids: Sequence[Solid],
    lattice: Lattice,
    *,
    kvp: float,
    slice_mm: float,
    dose: float,
    psf_fwhm_mm: float,
    isocentre_mm: tuple[float, float],
    iodine_mg_cm3: dict[str, float] | None = None,
    sub_slice_mm: float = SUB_SLICE_MM,
    seed: int = 0,
    threads: int = 2,
) -> Scan:
    """Scan and reconstruct.

    Parameters
    ----------
    solids : sequence of Solid
        In painting order, in air.
    lattice : Lattice
        The voxels to reconstruct; slices may be tilted, the table moves along z.
    slice_mm : float
        Thickness of a slice, a multiple of the slice distance (overlap).
    dose : float
        Relative to `beam.REFERENCE_MAS`; 0 for no noise.
    psf_fwhm_mm : float
        In-plane resolution of the reconstruction kernel.
    isocentre_mm : tuple of float
        Where the axis of rotation lies, LPS (x, y).
    iodine_mg_cm3 : dict, optional
        Contrast agent by material.
    sub_slice_mm : float
        Largest thickness of a detector row; a thicker one saves time and loses what bone ends within it do to the beam.

    Raises
    ------
    ValueError
        If the lattice is none that a gantry gives, or there is no spectrum for the voltage.
    """
    matrix = lattice.index_to_lps[:3, :3]
    if np.hypot(*matrix[:2, 0]) > 1e-6 * abs(matrix[2, 0]):
        raise ValueError("the slices of this lattice are not stacked along the table: a scanner cannot give them")
    if abs(matrix[:, 1] @ matrix[:, 2]) > 1e-9 * np.linalg.norm(matrix[:, 1]) * np.linalg.norm(matrix[:, 2]):
        raise ValueError("rows and columns of this lattice are not at right angles")
    pixel_mm = object_pixel_mm(psf_fwhm_mm)
    work = _Bench.build(
        solids, lattice, pixel_mm, kvp, slice_mm, dose, isocentre_mm, iodine_mg_cm3 or {}, sub_slice_mm, seed
    )
    count = lattice.shape[0]
    hu = np.empty(lattice.shape, np.float32)
    waiting: dict[int, NDArray[np.float32]] = {}
    ready = 0

    def finish(k: int) -> None:
        first = k * work.steps
        views = np.asarray(np.mean([waiting[q] for q in range(first, first + work.parts)], axis=0), np.float32)
        # The pixels of the object blur what is seen of it, not the noise: each gets its own filter.
        filtered = filter_views(views[0], psf_sigma_mm=psf_fwhm_mm / 2.3548, object_pixel_mm=pixel_mm)
        if dose > 0:
            filtered += filter_views(views[1], psf_sigma_mm=psf_fwhm_mm / 2.3548, object_pixel_mm=0.0)
        water = back_project(filtered, work.offsets_mm, work.image_plane)
        hu[k] = 1000.0 * (water / work.water_above_air - 1.0)

    total = (count - 1) * work.steps + work.parts
    batch = _BATCH * max(threads, 1)
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        waiting[0] = work.measure(0)  # alone, so that it compiles once
        for first in range(1, total + 1, batch):
            numbers = range(first, min(first + batch, total))
            waiting.update(zip(numbers, pool.map(work.measure, numbers), strict=True))
            whole = [k for k in range(ready, count) if k * work.steps + work.parts <= numbers.stop]
            list(pool.map(finish, whole))
            ready += len(whole)
            for q in [q for q in waiting if q < ready * work.steps]:
                del waiting[q]
    return Scan(hu, work.water_equivalent_diameter_mm(total // 2))


@dataclass(frozen=True)
class _Bench:
    """Everything that measuring one sub-slice needs."""

    solids: Sequence[Solid]
    lattice: Lattice
    object_plane: Plane
    image_plane: Plane
    in_plane: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
    """Isocentre of the first slice, unit vectors along x and y of the plane, in LPS."""
    beam: Beam
    offsets_mm: NDArray[np.float64]
    counted: NDArray[np.float64]
    correction: WaterCorrection
    basis: tuple[BasisDensity, ...]
    steps: int
    """Sub-slices from one slice to the next."""
    parts: int
    """Sub-slices in a slice."""
    dose: float
    seed: int

    @staticmethod
    def build(
        solids: Sequence[Solid],
        lattice: Lattice,
        pixel_mm: float,
        kvp: float,
        slice_mm: float,
        dose: float,
        isocentre_mm: tuple[float, float],
        iodine: dict[str, float],
        sub_slice_mm: float,
        seed: int,
    ) -> _Bench:
        step_mm, pixel_y, pixel_x = lattice.spacing_mm
        along_y, along_x = lattice.index_to_lps[:3, 1] / pixel_y, lattice.index_to_lps[:3, 2] / pixel_x
        first = lattice.to_lps(np.zeros(3))
        normal = np.cross(along_x, along_y)
        axis = np.array([*isocentre_mm, first[2]])
        centre = axis + np.array([0.0, 0.0, 1.0]) * ((first - axis) @ normal / normal[2])
        corner = ((first - centre) @ along_y, (first - centre) @ along_x)
        image_plane = Plane(lattice.shape[1], lattice.shape[2], (pixel_y, pixel_x), corner)
        # All of the object takes part, whether the image shows it or not.
        low = np.min([solid.box_mm[0] for solid in solids], axis=0)[:2] - np.asarray(isocentre_mm)
        high = np.max([solid.box_mm[1] for solid in solids], axis=0)[:2] - np.asarray(isocentre_mm)
        stretch = np.array([1.0, 1.0 / abs(normal[2])])  # a tilted slice is longer from front to back
        low, high = (
            np.maximum(low, -FIELD_RADIUS_MM - 40.0) * stretch,
            np.minimum(high, FIELD_RADIUS_MM + 40.0) * stretch,
        )
        shape = np.ceil((high - low) / pixel_mm).astype(int) + 4
        start = (low + high) / 2 - (shape - 1) / 2 * pixel_mm
        object_plane = Plane(int(shape[1]), int(shape[0]), (pixel_mm, pixel_mm), (float(start[1]), float(start[0])))
        reach = max(float(np.hypot(*np.maximum(np.abs(low), np.abs(high)))), _corner_reach(image_plane))
        offsets = ray_offsets_mm(min(reach, FIELD_RADIUS_MM) + 2.0)
        beam = Beam.at(kvp)
        steps = max(math.ceil(step_mm / sub_slice_mm - 1e-6), 1)
        parts = steps * round(slice_mm / step_mm)
        mas = REFERENCE_MAS * (dose if dose > 0 else 1.0) / VIEWS
        counted = beam.counted(offsets, mas, RAY_STEP_MM * step_mm / steps)
        agent = tuple(sorted(iodine.items()))
        used = {name for solid in solids for name in (solid.matrix, solid.rind, solid.other_matrix) if name}
        substances = [n for n in range(len(BASIS)) if n < 2 or any(BasisDensity(n, agent).hu(name) for name in used)]
        return _Bench(
            solids,
            lattice,
            object_plane,
            image_plane,
            (centre, along_x, along_y),
            beam,
            offsets,
            counted,
            WaterCorrection.of(beam, offsets),
            tuple(BasisDensity(n, agent) for n in substances),
            steps,
            parts,
            dose,
            seed,
        )

    @property
    def water_above_air(self) -> float:
        return self.basis[0].hu("water")

    def densities(self, number: int) -> NDArray[np.float32]:
        """Partial densities of the basis in one sub-slice: (B, Y, X) in g/cm3 above air."""
        centre, along_x, along_y = self.in_plane
        step = self.lattice.index_to_lps[:3, 0]
        matrix = np.eye(4)
        matrix[:3, 0] = step / self.steps
        pixel_mm = self.object_plane.pixel_mm[0]
        matrix[:3, 1], matrix[:3, 2] = along_y * pixel_mm, along_x * pixel_mm
        first_y, first_x = self.object_plane.first_mm
        moved = step * (number - (self.parts - 1) / 2) / self.steps
        matrix[:3, 3] = centre + moved + along_y * first_y + along_x * first_x
        slab = Lattice((1, self.object_plane.rows, self.object_plane.columns), matrix)
        return np.stack(
            [render(self.solids, slab, one, background="air", seed=self.seed, threads=1)[0][0] for one in self.basis],
        )

    def measure(self, number: int) -> NDArray[np.float32]:
        """What the scanner knows of one sub-slice: millimetres of water along every ray without noise, and what noise adds.

        Returns
        -------
        float32 ndarray of shape (2, VIEWS, S)
        """
        integrals = project(self.densities(number), self.object_plane, self.offsets_mm)
        basis = self.beam.basis_cm2_g[: len(integrals)] / 10.0
        signal, variance = _detect(integrals, self.counted, basis, self.beam.energy_kev)
        signal, variance = _blurred(signal), _blurred(variance)
        water = np.zeros((2, *signal.shape), np.float32)
        water[0] = self._water_mm(signal)
        if self.dose > 0:
            # Photons of many energies: a Poisson number of equal quanta that has the right mean and variance.
            random = np.random.Generator(np.random.SFC64(np.random.SeedSequence(self.seed, spawn_key=(number,))))
            quantum = variance / signal
            noisy = quantum * random.poisson(signal / quantum)
            noisy += ELECTRONIC_NOISE_KEV * random.standard_normal(signal.shape, dtype=np.float32)
            water[1] = self._water_mm(noisy) - water[0]
        return water

    def _water_mm(self, signal: NDArray[np.float64]) -> NDArray[np.float32]:
        unattenuated = self.counted @ self.beam.energy_kev
        reading = -np.log(np.maximum(signal, _LEAST_SIGNAL_KEV) / unattenuated)
        return self.correction.water_mm_of(reading.astype(np.float32))

    def water_equivalent_diameter_mm(self, number: int) -> float:
        """Diameter of the water cylinder that attenuates as much as a sub-slice, at the middle of the spectrum."""
        densities = self.densities(number).astype(float)
        basis = self.beam.basis_cm2_g[: len(densities)]
        middle = int(np.searchsorted(self.beam.energy_kev, 70.0))
        water = densities.sum(axis=(1, 2)) @ basis[:, middle] / basis[0, middle]
        return float(2.0 * np.sqrt(max(water, 0.0) * self.object_plane.pixel_mm[0] ** 2 / np.pi))


def _corner_reach(plane: Plane) -> float:
    last = [plane.first_mm[n] + (size - 1) * plane.pixel_mm[n] for n, size in enumerate((plane.rows, plane.columns))]
    return math.hypot(*(max(abs(a), abs(b)) for a, b in zip(plane.first_mm, last, strict=True)))


def _blurred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the aperture of the detector, at the edge of the fan with its own value repeated."""
    padded = np.pad(values, ((0, 0), (1, 1)), mode="edge")
    return np.asarray(APERTURE[0] * padded[:, :-2] + APERTURE[1] * values + APERTURE[2] * padded[:, 2:])


@njit(cache=True, nogil=True, fastmath=True)
def _detect(
    integrals: np.ndarray, counted: np.ndarray, basis: np.ndarray, energy: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the signal (keV, keV2) of every ray from its line integrals (g/cm3 mm)."""
    parts, views, rays = integrals.shape
    signal, variance = np.empty((views, rays)), np.empty((views, rays))
    for view in range(views):
        for ray in range(rays):
            mean = spread = 0.0
            for bin_ in range(energy.shape[0]):
                depth = 0.0
                for part in range(parts):
                    depth += integrals[part, view, ray] * basis[part, bin_]
                light = counted[ray, bin_] * energy[bin_] * math.exp(-depth)
                mean += light
                spread += light * energy[bin_]
            signal[view, ray] = mean
            variance[view, ray] = spread
    return signal, variance
