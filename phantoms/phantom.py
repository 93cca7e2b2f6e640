"""A phantom: something to look at (`image`) of which everything is known (`truth`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phantoms.anatomy_sacrum import SACRUM_LABEL
from phantoms.image import KERNELS, PhantomImage, form_image, noise_hu, thick_slices
from phantoms.materials import Materials
from phantoms.solids import Solid
from phantoms.truth import Truth
from phantoms.voxelise import Lattice, render

_CONTRAST_HU = {
    "none": {},
    "arterial": {"blood": 290.0, "kidney": 150.0},
    "venous": {"blood": 150.0, "liver": 110.0, "spleen": 125.0, "kidney": 190.0},
}
"""What enhancing materials read at 120 kVp."""


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

    def materials(self, kvp: float) -> Materials:
        """Materials at a tube voltage, with what contrast agent does to them."""
        plain = Materials.at(kvp)
        iodine = (120.0 / kvp) ** 1.9  # iodine gains contrast at low voltage
        changed = {
            name: plain.hu(name) + (hu - Materials.at(120).hu(name)) * iodine
            for name, hu in _CONTRAST_HU[self.contrast].items()
        }
        return replace(plain, overrides=tuple(sorted(changed.items())))

    def lattice(self, *, pixel_mm: float, spacing_mm: float) -> Lattice:
        """The voxels of an upright image of the scanned box."""
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
            Any lattice instead (oblique, tilted, cropped); then `slice_mm` must equal its spacing.

        Raises
        ------
        ValueError
            If a parameter is out of range.
        """
        if kernel not in KERNELS:
            raise ValueError(f"kernel is {kernel!r}; it must be one of {', '.join(KERNELS)}")
        step = slice_mm if spacing_mm is None else spacing_mm
        parts = round(slice_mm / step)
        if parts < 1 or abs(parts * step - slice_mm) > 1e-6:
            raise ValueError(
                f"slices of {slice_mm} mm every {step} mm: the thickness must be a multiple of the spacing"
            )
        grid = self.lattice(pixel_mm=pixel_mm, spacing_mm=step) if lattice is None else lattice
        exact, labels = render(
            self.solids, grid, self.materials(kvp), background=self.background, seed=self.seed, threads=threads
        )
        if parts > 1:
            padded = np.concatenate([exact[:1].repeat((parts - 1) // 2, 0), exact, exact[-1:].repeat(parts // 2, 0)])
            exact = thick_slices(padded, parts, 1, grid.shape[0])
        sigma = noise_hu(dose, kvp, slice_mm, kernel)
        hu = form_image(exact, grid.spacing_mm, kernel=kernel, sigma_hu=sigma, seed=self.seed)
        return PhantomImage(hu, grid, labels, float(kvp), float(slice_mm), float(dose), kernel)

    def truth(self, image: PhantomImage) -> Truth:
        """What is true of the phantom on the lattice of `image`, from its analytic description."""
        materials = self.materials(image.kvp)
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
            labels=labels,
            **known,
        )
