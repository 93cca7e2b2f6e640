"""The object as a voxel model for a solver, at any voxel size, straight from the analytic description, without an image.

A model travels in the exchange format of the solver (one ``.npz``). The platens are free of friction: the lower plane keeps
its height, the upper one is pressed down by a strain, and one node and a direction of a second hold the rest. Specimens have
closed forms, exact in the theory of elasticity and not only in that of beams:

* a homogeneous body, or a tube filled with another material (fibres side by side strain alike): ``sum(E A) / H``;
* layers on top of each other, at a Poisson ratio of zero: ``A / sum(h / E)``;
* a tube in pure bending, its ends turned and free to bulge: moment per turn ``sum(E I) / H``.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phantoms.fall import FEMUR_VOXELS_MM, fall_model
from phantoms.phantom import Phantom
from phantoms.solids import Solid
from phantoms.truth import SpecimenTruth, Truth, VertebraTruth
from phantoms.voxel_model import POISSON, LoadedModel, between_platens, cropped, voxels

_SHARE_OF_BODY = 0.66  # of the lowest height: the slab of a vertebra between its endplates that a model holds
_TURN_RAD = 0.01


def modulus_mpa(density_mg_cm3: NDArray[np.float32]) -> NDArray[np.float32]:
    """Young's modulus of vertebral bone, ``-34.7 + 3230 rho`` with rho in g/cm3 (Kopperdahl 2002), at least 1 MPa."""
    return np.asarray(np.maximum(-34.7 + 3.23 * density_mg_cm3, 1.0), np.float32)


def compression_model(phantom: Phantom, structure: str, *, voxel_mm: float = 1.0, strain: float = 0.01) -> LoadedModel:
    """A structure of a phantom as a voxel model in axial compression.

    Parameters
    ----------
    phantom : Phantom
    structure : str
        ``"specimen"`` (the whole of it), or ``"vertebra_L1"`` and so on: a slab of the body of two thirds of its lowest height,
        cut at right angles to its axis, cortex included.
    voxel_mm : float
    strain : float
        Shortening relative to the height.

    Raises
    ------
    ValueError
        If the phantom has no such structure.
    """
    truth = _known(phantom)
    for specimen in truth.specimens:
        if specimen.name == structure:
            return _of_specimen(phantom, specimen, voxel_mm, strain=strain)
    for vertebra in truth.vertebrae:
        if vertebra.name == structure:
            return _of_vertebra(phantom, vertebra, voxel_mm, strain)
    raise ValueError(f"this {phantom.kind} has no {structure!r} to press")


def bending_model(phantom: Phantom, *, voxel_mm: float = 1.0) -> LoadedModel:
    """A specimen whose upper end turns by 0.01 rad about x: pure bending.

    Raises
    ------
    ValueError
        If the phantom is no specimen.
    """
    specimens = _known(phantom).specimens
    if not specimens:
        raise ValueError(f"a {phantom.kind} is no specimen to bend")
    return _of_specimen(phantom, specimens[0], voxel_mm, turn_rad=_TURN_RAD)


def sideways_fall_model(
    phantom: Phantom, side: str, *, voxel_mm: float = 2.0, displacement_mm: float = 1.0
) -> LoadedModel:
    """A proximal femur (``"left"`` or ``"right"``) of a phantom in a fall to the side (`phantoms.fall`).

    Raises
    ------
    ValueError
        If the phantom has no such femur, or too little of its shaft.
    """
    for femur in _known(phantom).femora:
        if femur.side == side:
            solid = _named(phantom, femur.label)
            return fall_model(solid, femur, voxel_mm=voxel_mm, displacement_mm=displacement_mm, seed=phantom.seed)
    raise ValueError(f"this {phantom.kind} has no {side} femur")


def write_models(
    phantom: Phantom,
    folder: Path | str,
    *,
    voxels_mm: tuple[float, ...] = (2.0, 1.0, 0.5),
    femur_voxels_mm: tuple[float, ...] = FEMUR_VOXELS_MM,
) -> list[Path]:
    """Every specimen, whole vertebra and proximal femur of a phantom as a model at several voxel sizes.

    ``models.json`` lists them with the closed-form stiffness where there is one.

    Raises
    ------
    ValueError
        If the phantom has none.
    """
    truth = _known(phantom)
    made: list[tuple[str, str, LoadedModel]] = []
    for specimen in truth.specimens:
        for voxel_mm in voxels_mm:
            made.append((specimen.name, "compression", _of_specimen(phantom, specimen, voxel_mm, strain=0.01)))
            made.append((specimen.name, "bending", _of_specimen(phantom, specimen, voxel_mm, turn_rad=_TURN_RAD)))
    for vertebra in truth.vertebrae:
        if vertebra.complete:
            made += [(vertebra.name, "compression", _of_vertebra(phantom, vertebra, v, 0.01)) for v in voxels_mm]
    for femur in truth.femora:
        solid = _named(phantom, femur.label)
        made += [(femur.name, "fall", fall_model(solid, femur, voxel_mm=v, seed=phantom.seed)) for v in femur_voxels_mm]
    if not made:
        raise ValueError(f"{phantom.kind} has nothing to press")
    target = Path(folder)
    written, listing = [], []
    for name, load, model in made:
        tail = "" if load == "compression" else f"-{load}"
        written.append(model.save(target / f"{name}{tail}-{model.spacing_mm:g}mm.npz"))
        listing.append(
            {
                "file": written[-1].name,
                "structure": name,
                "load": load,
                "voxel_mm": model.spacing_mm,
                "shortening_mm": model.shortening_mm,
                "stiffness_n_mm": model.stiffness_n_mm,
                "turn_rad": model.turn_rad,
                "bending_stiffness_n_mm": model.bending_stiffness_n_mm,
            }
        )
    (target / "models.json").write_text(json.dumps(listing, indent=1), encoding="utf-8")
    return written


def _known(phantom: Phantom) -> Truth:
    """Truth, on a coarse image that is only asked what it holds."""
    return phantom.truth(phantom.image(slice_mm=3.0, pixel_mm=1.5, dose=0.0))


def _of_specimen(
    phantom: Phantom, truth: SpecimenTruth, voxel_mm: float, *, strain: float = 0.0, turn_rad: float = 0.0
) -> LoadedModel:
    solids = [solid for solid in phantom.solids if solid.label == truth.label]
    count = max(round(truth.height_mm / voxel_mm), 1)
    across = 2 * int(np.ceil(float(np.max(np.abs(phantom.high_mm[:2]))) / voxel_mm))
    density, inside = voxels(solids, np.eye(3), np.zeros(3), (count, across, across), voxel_mm, phantom.seed)
    # A voxel is of one material: the one that the truth puts at its middle.
    nearest = np.abs(density[..., None] - np.array(truth.densities_mg_cm3)).argmin(axis=-1)
    pure = np.array(truth.densities_mg_cm3, np.float32)[nearest]
    modulus = cropped(np.where(inside, modulus_mpa(pure), 0.0).astype(np.float32))
    exact = abs(count * voxel_mm - truth.height_mm) < 1e-6
    layered = truth.arrangement == "layers"
    area = voxel_mm**2
    axial = bending = None
    if exact and layered:
        # Every layer fills the same cross-section.
        flexibility = (voxel_mm / modulus[:, modulus.shape[1] // 2, modulus.shape[2] // 2]).sum()
        axial = float((modulus[0] > 0).sum()) * area / float(flexibility)
    elif exact:
        axial = float(modulus[0].sum(dtype=float)) * area / truth.height_mm
        j = np.arange(modulus.shape[1]) + 0.5
        filled = modulus[0].sum(axis=1, dtype=float)
        lever = (j - modulus.shape[1] / 2) * voxel_mm
        bending = float((filled * (lever**2 + voxel_mm**2 / 12)).sum()) * area / truth.height_mm
    return between_platens(
        modulus,
        voxel_mm,
        strain=strain,
        turn_rad=turn_rad,
        poisson=0.0 if layered else POISSON,
        stiffness_n_mm=axial if strain else None,
        bending_stiffness_n_mm=bending if turn_rad else None,
    )


def _of_vertebra(phantom: Phantom, truth: VertebraTruth, voxel_mm: float, strain: float) -> LoadedModel:
    solid = _named(phantom, truth.label)
    points = np.array(truth.points_lps_mm)
    up = np.array(truth.superior_lps)
    back = points[4:6].mean(axis=0) - points[0:2].mean(axis=0)
    back -= (back @ up) * up
    back /= np.linalg.norm(back)
    axes = np.stack([np.cross(back, up), back, up])  # rows: left, posterior, superior
    height = _SHARE_OF_BODY * min(truth.anterior_mm, truth.middle_mm, truth.posterior_mm)
    shape = (
        max(round(height / voxel_mm), 2),
        int(np.ceil(1.2 * truth.depth_mm / voxel_mm)),
        int(np.ceil(1.2 * truth.width_mm / voxel_mm)),
    )
    density, inside = voxels([solid], axes, points.mean(axis=0), shape, voxel_mm, phantom.seed)
    return between_platens(np.where(inside, modulus_mpa(density), 0.0).astype(np.float32), voxel_mm, strain=strain)


def _named(phantom: Phantom, label: int) -> Solid:
    return next(solid for solid in phantom.solids if solid.label == label)
