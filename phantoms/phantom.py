"""A phantom: something to look at (`image`) of which everything is known (`truth`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phantoms.anatomy_sacrum import SACRUM_LABEL
from phantoms.beam import Beam
from phantoms.image import KERNELS, PhantomImage, as_stored, form_image, noise_hu, thick_slices
from phantoms.limits import require_image_size, require_numbers
from phantoms.marrow import fat_share
from phantoms.materials import Materials, iodine_hu_per_mg_cm3
from phantoms.scanner import SUB_SLICE_MM, scan
from phantoms.solids import Solid
from phantoms.truth import Truth
from phantoms.voxelise import Lattice, render

_CONTRAST_HU = {
    "none": {},
    "arterial": {"blood": 290.0, "kidney": 150.0, "muscle": 58.0},
    "venous": {"blood": 150.0, "liver": 110.0, "spleen": 125.0, "kidney": 190.0, "muscle": 64.0},
}
"""What enhancing materials read at 120 kVp."""
_CONTRAST_IN_MARROW_HU = {"none": 0.0, "arterial": 12.0, "venous": 20.0}
"""By how much marrow of half fat enhances at 120 kVp; the more, the less fat. Vertebrae of patients gained 11 HU in the venous
phase (Pickhardt 2016), 14 HU in the arterial and 26 HU in the venous one (Gruenewald, dual-energy CT)."""


_RANGES = {
    "kvp": (70, 150),
    "slice_mm": (0.05, 20),
    "spacing_mm": (0.05, 20),
    "pixel_mm": (0.05, 10),
    "dose": (0, 1000),
    "sub_slice_mm": (0.05, 20),
}


@dataclass(frozen=True)
class Phantom:
    """A digital phantom.

    Attributes
    ----------
    kind : str
        One of ``phantoms.KINDS``.
    seed : int
        Texture, bowel, noise and UIDs follow from it.
    options : dict
        What it was made with.
    solids : tuple of Solid
        In painting order.
    low_mm, high_mm : float ndarray of shape (3,)
        The scanned box in LPS.
    background : str
        Material around everything.
    describe : callable
        From materials, lattice and the labels that the image holds to the fields of `Truth` that depend on the kind.
    patient : dict
        Header fields of the invented patient.
    contrast : str
        ``"none"``, ``"arterial"`` or ``"venous"``.
    """

    kind: str
    seed: int
    options: dict[str, Any]
    solids: tuple[Solid, ...]
    low_mm: NDArray[np.float64]
    high_mm: NDArray[np.float64]
    describe: Callable[[Materials, Lattice, frozenset[int]], dict[str, Any]]
    background: str = "air"
    patient: dict[str, Any] = field(default_factory=dict)
    contrast: str = "none"

    def materials(self, kvp: float, *, behind_water_mm: float | None = None) -> Materials:
        """Materials at a tube voltage, with what contrast agent does to them.

        Parameters
        ----------
        kvp : float
        behind_water_mm : float, optional
            Take the CT numbers that the spectrum of the tube gives in the middle of so much water, not those of the
            effective energy.
        """
        quality = None if behind_water_mm is None else Beam.at(kvp).quality_behind_water(behind_water_mm)
        return Materials.at(kvp, quality=quality, **self.iodine_mg_cm3)

    @property
    def iodine_mg_cm3(self) -> dict[str, float]:
        """Iodine that contrast agent has brought into materials, by name."""
        plain, gain = Materials.at(120), iodine_hu_per_mg_cm3(120.0)
        enhanced = {name: (hu - plain.hu(name)) / gain for name, hu in _CONTRAST_HU[self.contrast].items()}
        in_marrow = _CONTRAST_IN_MARROW_HU[self.contrast] / gain
        bones = {solid.matrix for solid in self.solids if in_marrow and solid.rind == "bone_matrix"}
        return enhanced | {name: 2.0 * (1.0 - fat_share(name)) * in_marrow for name in bones}

    def lattice(self, *, pixel_mm: float, spacing_mm: float) -> Lattice:
        """The voxels of an upright image of the scanned box."""
        require_numbers({"pixel_mm": pixel_mm, "spacing_mm": spacing_mm}, _RANGES)
        return Lattice.upright(self.low_mm, self.high_mm, (spacing_mm, pixel_mm, pixel_mm))

    def image(
        self,
        kvp: float = 120.0,
        *,
        slice_mm: float = 2.0,
        spacing_mm: float | None = None,
        pixel_mm: float = 0.9,
        dose: float = 1.0,
        kernel: str = "standard",
        lattice: Lattice | None = None,
        mode: str = "fast",
        sub_slice_mm: float = SUB_SLICE_MM,
        threads: int = 2,
    ) -> PhantomImage:
        """A CT image.

        Parameters
        ----------
        kvp : float
            Tube voltage, 70-150.
        slice_mm : float
            Slice thickness (rectangular profile).
        spacing_mm : float, optional
            Distance of slices; `slice_mm` if not given. Must divide `slice_mm` (overlapping slices).
        pixel_mm : float
        dose : float
            Relative to a routine body scan; noise falls with its root. 0 for no noise.
        kernel : str
            One of ``phantoms.image.KERNELS``.
        lattice : Lattice, optional
            Any lattice instead (oblique, tilted, cropped); `slice_mm` is a multiple of its spacing.
        mode : str
            ``"fast"``: the noise-free object at the effective energy, blurred, with noise of the right spectrum.
            ``"projections"``: a scan of the object as physics (`phantoms.scanner`), some hundred times slower.
        sub_slice_mm : float
            Largest thickness of a detector row in mode ``"projections"``.

        Raises
        ------
        ValueError
            If a parameter is out of range.
        """
        if kernel not in KERNELS:
            raise ValueError(f"kernel is {kernel!r}; it must be one of {', '.join(KERNELS)}")
        if mode not in ("fast", "projections"):
            raise ValueError(f"mode is {mode!r}; it must be fast or projections")
        given = {"kvp": kvp, "slice_mm": slice_mm, "spacing_mm": spacing_mm, "pixel_mm": pixel_mm, "dose": dose}
        require_numbers(given | {"sub_slice_mm": sub_slice_mm}, _RANGES)
        step = slice_mm if spacing_mm is None else spacing_mm
        if lattice is not None and spacing_mm is None:
            step = lattice.spacing_mm[0]
        parts = round(slice_mm / step)
        if parts < 1 or abs(parts * step - slice_mm) > 1e-6:
            raise ValueError(
                f"slices of {slice_mm} mm every {step} mm: the thickness must be a multiple of the spacing"
            )
        grid = self.lattice(pixel_mm=pixel_mm, spacing_mm=step) if lattice is None else lattice
        require_image_size(grid.shape)
        if mode == "projections":
            return self._scanned(
                kvp, grid, slice_mm=slice_mm, dose=dose, kernel=kernel, sub_slice_mm=sub_slice_mm, threads=threads
            )
        exact, labels = render(
            self.solids, grid, self.materials(kvp), background=self.background, seed=self.seed, threads=threads
        )
        if parts > 1:
            padded = np.concatenate([exact[:1].repeat((parts - 1) // 2, 0), exact, exact[-1:].repeat(parts // 2, 0)])
            exact = thick_slices(padded, parts, 1, grid.shape[0])
        sigma = noise_hu(dose, kvp, slice_mm, kernel)
        hu = form_image(exact, grid.spacing_mm, kernel=kernel, sigma_hu=sigma, seed=self.seed)
        return PhantomImage(hu, grid, labels, float(kvp), float(slice_mm), float(dose), kernel)

    def _scanned(
        self, kvp: float, grid: Lattice, *, slice_mm: float, dose: float, kernel: str, sub_slice_mm: float, threads: int
    ) -> PhantomImage:
        if self.background != "air":
            raise ValueError(
                f"a {self.kind} fills all space with {self.background}; only an object in air can be scanned"
            )
        middle = (self.low_mm + self.high_mm) / 2
        made = scan(
            self.solids,
            grid,
            kvp=kvp,
            slice_mm=slice_mm,
            dose=dose,
            psf_fwhm_mm=KERNELS[kernel][0],
            isocentre_mm=(float(middle[0]), float(middle[1])),
            iodine_mg_cm3=self.iodine_mg_cm3,
            sub_slice_mm=sub_slice_mm,
            seed=self.seed,
            threads=threads,
        )
        _, labels = render(
            self.solids, grid, Materials.mineral_only(), background=None, seed=self.seed, threads=threads
        )
        return PhantomImage(
            as_stored(made.hu),
            grid,
            labels,
            float(kvp),
            float(slice_mm),
            float(dose),
            kernel,
            "projections",
            made.water_equivalent_diameter_mm,
        )

    def truth(self, image: PhantomImage) -> Truth:
        """What is true of the phantom on the lattice of `image`, from its analytic description."""
        materials = self.materials(image.kvp, behind_water_mm=image.water_equivalent_diameter_mm)
        present = frozenset(int(v) for v in np.unique(image.labels))
        known = self.describe(materials, image.lattice, present)
        named = (*known.get("vertebrae", ()), *known.get("femora", ()), *known.get("specimens", ()))
        labels = {structure.name: structure.label for structure in named}
        if SACRUM_LABEL in present:
            labels["sacrum"] = SACRUM_LABEL
        z, y, x = image.lattice.spacing_mm
        return Truth(
            kind=self.kind,
            seed=self.seed,
            options=self.options,
            kvp=image.kvp,
            slice_mm=image.slice_mm,
            spacing_mm=(z, y, x),
            dose=image.dose,
            hu_per_mg_cm3=materials.hu_per_mg_cm3,
            hu_at_zero=0.0,
            mode=image.mode,
            labels=labels,
            **known,
        )
