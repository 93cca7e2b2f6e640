"""A calibration phantom that the user knows: its certificate, or a mask of its rods."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy import ndimage

from pipeline.density.rods import PhantomDefinition, Plate, find_plate, known_phantoms
from pipeline.density.tissues import TissueSample
from pipeline.errors import InputRefused
from pipeline.segmentation.model import Segmentation
from pipeline.volume import Volume, canonical_order

_EDGE_MM = 2.0
_FEWEST_VOXELS = 50
_SAME_PLACE_MM = 0.1
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class GivenPhantom:
    """What the user says of the phantom in the scan.

    Attributes
    ----------
    definition : PhantomDefinition
        Of the tables, or from its certificate.
    rods : Path or None
        Label map of its rods, which are then not looked for.
    """

    definition: PhantomDefinition
    rods: Path | None = None


def plate_of(volume: Volume, segmentation: Segmentation, given: GivenPhantom | None) -> Plate | None:
    """The rods of the phantom in a scan: read from the mask given, or found, as any known phantom or as the one given.

    Raises
    ------
    InputRefused
        As `rods_from_mask`.
    """
    if given is not None and given.rods is not None:
        return rods_from_mask(given.rods, volume, given.definition)
    return find_plate(volume, segmentation, None if given is None else (given.definition,))


def phantom_by(name_or_certificate: str) -> PhantomDefinition:
    """A phantom of the tables by its name, or any phantom by the file of its certificate.

    Raises
    ------
    InputRefused
        ``unknown_phantom`` or ``certificate_unreadable``.
    """
    if name_or_certificate not in known_phantoms() and Path(name_or_certificate).is_file():
        return read_certificate(Path(name_or_certificate))
    return named_phantom(name_or_certificate)


class _Certificate(BaseModel):
    """What the file of a phantom's certificate holds."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=80)
    mineral: str = Field(pattern="^(K2HPO4|HA)$")
    density_mg_cm3: tuple[float, ...] = Field(min_length=2, max_length=12)
    water_mg_cm3: tuple[float, ...] | None = None


def read_certificate(path: Path) -> PhantomDefinition:
    """The rods of a phantom from a JSON file with ``name``, ``mineral``, ``density_mg_cm3`` and, if Mindways, ``water_mg_cm3``.

    Raises
    ------
    InputRefused
        ``certificate_unreadable`` with the field that is wrong.
    """
    remedy = "It holds name, mineral (K2HPO4 or HA) and density_mg_cm3, in the order of the rods."
    try:
        content = _Certificate.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "content"
        raise InputRefused(
            "certificate_unreadable", f"{where}: {first['msg']}.", subject=path.name, remedy=remedy
        ) from error
    except (OSError, ValueError) as error:
        raise InputRefused(
            "certificate_unreadable", "not a JSON file that can be read.", subject=path.name, remedy=remedy
        ) from error
    water = content.water_mg_cm3
    if water is not None and len(water) != len(content.density_mg_cm3):
        detail = f"{len(content.density_mg_cm3)} densities but {len(water)} values of water."
        raise InputRefused("certificate_unreadable", detail, subject=path.name, remedy=remedy)
    return PhantomDefinition(content.name, content.mineral, content.density_mg_cm3, water, certified=True)


def named_phantom(name: str) -> PhantomDefinition:
    """A phantom of the tables.

    Raises
    ------
    InputRefused
        ``unknown_phantom``.
    """
    phantoms = known_phantoms()
    if name not in phantoms:
        known = ", ".join(phantoms)
        raise InputRefused(
            "unknown_phantom",
            "is not known.",
            subject=f"calibration phantom '{name}'",
            remedy=f"Known are {known}; any other needs a certificate file.",
        )
    return phantoms[name]


def rods_from_mask(path: Path, volume: Volume, definition: PhantomDefinition) -> Plate:
    """The rods of a phantom from a label map on the grid of the scan: label 1 is the first rod of the definition, and so on.

    Each rod is read 2 mm inside its mask.

    Raises
    ------
    InputRefused
        ``mask_unreadable``, ``grids_differ``, or ``phantom_rods_missing`` if a rod has no label or too few voxels.
    """
    try:
        image = nibabel.load(path)
        array = np.asanyarray(image.dataobj)  # type: ignore[attr-defined]
        matrix = _RAS_TO_LPS @ np.asarray(image.affine, float)  # type: ignore[attr-defined]
    except (OSError, ValueError, ImageFileError) as error:
        raise InputRefused("mask_unreadable", "is not a NIfTI image that can be read.", subject=path.name) from error
    labels, to_lps, _ = canonical_order(array, matrix)
    same = labels.shape == volume.shape
    if same:
        far = np.array([*labels.shape, 1.0])
        same = bool(np.abs((to_lps - volume.grid.index_to_lps) @ far).max() <= _SAME_PLACE_MM)
    if not same:
        sizes = f"{labels.shape} and {volume.shape} voxels along z, y, x"
        detail = f"it is not on the grid of the scan ({sizes}, or another place)."
        raise InputRefused("grids_differ", detail, subject=path.name)
    samples = []
    for number in range(1, len(definition.density_mg_cm3) + 1):
        inside = ndimage.distance_transform_edt(_framed(labels == number), sampling=volume.spacing_mm)[1:-1, 1:-1, 1:-1]
        core = inside > _EDGE_MM
        if np.count_nonzero(core) < _FEWEST_VOXELS:
            rods = len(definition.density_mg_cm3)
            detail = f"rod {number} of {rods} has fewer than {_FEWEST_VOXELS} voxels 2 mm inside its mask."
            raise InputRefused("phantom_rods_missing", detail, subject=path.name)
        values = volume.hu[core].astype(float)
        middle = volume.grid.to_lps(np.argwhere(core).mean(axis=0)[None])
        note = f"rod of {definition.name}"
        samples.append(
            TissueSample(f"rod_{number}", float(values.mean()), float(values.std()), int(core.sum()), note, middle)
        )
    return Plate(definition, tuple(samples), ())


def _framed(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """With a frame of background, so that a rod that the scan cuts has an edge there."""
    return np.pad(mask, 1)
