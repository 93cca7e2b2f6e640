"""A phantom: something to look at (`image`) of which everything is known (`truth`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phantoms.anatomy_spine import LABEL_OF_LEVEL, SACRUM_LABEL, Fracture
from phantoms.image import KERNELS, PhantomImage, form_image, noise_hu, thick_slices
from phantoms.materials import Materials
from phantoms.solids import Solid
from phantoms.torso import Torso, TorsoOptions, build_torso
from phantoms.truth import Truth, femur_truth, vertebra_truth
from phantoms.voxelise import Lattice, render

_CONTRAST_HU = {"none": {}, "arterial": {"blood": 290.0, "kidney": 150.0}, "venous": {"blood": 150.0, "liver": 110.0, "spleen": 125.0,
                "kidney": 190.0}}  # fmt: skip
"""What enhancing materials read at 120 kVp."""


@dataclass(frozen=True)
class Phantom:
    """A digital phantom.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
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
    torso : Torso or None
        Descriptions that vertebral and femoral truth come from.
    """

    kind: str
    seed: int
    options: dict[str, Any]
    solids: tuple[Solid, ...]
    low_mm: NDArray[np.float64]
    high_mm: NDArray[np.float64]
    background: str = "air"
    torso: Torso | None = None
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
        self, kvp: float = 120.0, *, slice_mm: float = 2.0, spacing_mm: float | None = None, pixel_mm: float = 0.9, dose: float = 1.0,
        kernel: str = "standard", lattice: Lattice | None = None, threads: int = 2,
    ) -> PhantomImage:  # fmt: skip
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
        lattice = image.lattice
        lowest = float(lattice.to_lps(np.array([-0.5, 0, 0]))[2])
        vertebrae: tuple = ()
        femora: tuple = ()
        labels: dict[str, int] = {}
        if self.torso is not None:
            present = {int(v) for v in np.unique(image.labels)}
            vertebrae = tuple(
                vertebra_truth(v, self.torso.solid(f"vertebra_{v.level}"), materials, lattice, seed=self.seed)
                for v in self.torso.spine.vertebrae
                if LABEL_OF_LEVEL[v.level] in present
            )
            sides = [side for side, label in (("left", 31), ("right", 32)) if label in present]
            femora = tuple(
                femur_truth(self.torso.femur, self.torso.solid(f"femur_{side}"), side, lowest, seed=self.seed)
                for side in sides
            )
            labels = {v.name: v.label for v in vertebrae} | {f.name: f.label for f in femora}
            if SACRUM_LABEL in present:
                labels["sacrum"] = SACRUM_LABEL
        z, y, x = lattice.spacing_mm
        return Truth(
            kind=self.kind, seed=self.seed, options=self.options, kvp=image.kvp, slice_mm=image.slice_mm, spacing_mm=(z, y, x),
            dose=image.dose, hu_per_mg_cm3=materials.hu_per_mg_cm3, hu_at_zero=0.0, labels=labels, vertebrae=vertebrae,
            femora=femora,
        )  # fmt: skip


def _torso(seed: int, options: dict[str, Any]) -> Phantom:
    fractures = {
        level: value if isinstance(value, Fracture) else Fracture(value[0], float(value[1]))
        for level, value in dict(options.get("fractures", {})).items()
    }
    chosen = TorsoOptions(**(options | {"fractures": fractures}))
    built = build_torso(chosen, seed)
    patient = {
        "sex": chosen.sex,
        "age_years": chosen.age_years,
        "height_m": round((1.62 if chosen.sex == "F" else 1.75) * chosen.size, 2),
    }
    patient["weight_kg"] = round(
        (56.0 if chosen.sex == "F" else 70.0) * chosen.size**2 + 0.9 * (chosen.fat_mm - 15.0), 1
    )
    return Phantom(
        "torso",
        seed,
        asdict(chosen),
        built.solids,
        built.low_mm,
        built.high_mm,
        torso=built,
        patient=patient,
        contrast=chosen.contrast,
    )


KINDS: dict[str, Callable[[int, dict[str, Any]], Phantom]] = {"torso": _torso}
"""What can be made, by name."""


def make_phantom(kind: str, *, seed: int = 0, **options: Any) -> Phantom:
    """Make a phantom.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    seed : int
    **options
        Depend on the kind; for torsos see `phantoms.torso.TorsoOptions`.

    Raises
    ------
    ValueError
        If the kind or an option is unknown or out of range.
    """
    if kind not in KINDS:
        raise ValueError(f"no phantom is called {kind!r}; there are {', '.join(KINDS)}")
    try:
        return KINDS[kind](seed, options)
    except TypeError as error:
        raise ValueError(f"phantom {kind}: {error}") from error
