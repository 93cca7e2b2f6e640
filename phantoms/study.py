"""A phantom as a study on disk: DICOM folder, truth beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from phantoms.dicom import MAKERS, Header, uid_of, write_ct_series, write_enhanced_ct, write_localizer, write_nifti
from phantoms.limits import require_number
from phantoms.materials import Materials
from phantoms.phantom import Phantom
from phantoms.scanner import SUB_SLICE_MM
from phantoms.solids import Solid
from phantoms.truth import Truth
from phantoms.voxelise import Lattice, render

_AGENTS = {"none": None, "arterial": "IOHEXOL", "venous": "IOHEXOL"}


def write_study(
    phantom: Phantom,
    folder: Path | str,
    *,
    kvp: float = 120.0,
    slice_mm: float = 2.0,
    spacing_mm: float | None = None,
    pixel_mm: float = 0.9,
    dose: float = 1.0,
    kernel: str = "standard",
    gantry_tilt_deg: float = 0.0,
    mode: str = "fast",
    sub_slice_mm: float = SUB_SLICE_MM,
    maker: str = "GE",
    file_format: str = "dicom",
    compression: str | None = None,
    localizer: bool = True,
    native_labels_mm: float | None = None,
    progress: Callable[[str, float], None] | None = None,
    **header: Any,
) -> Truth:
    """Image a phantom and write it as a study.

    Writes ``FOLDER/dicom/`` (a scout view and the axial series), ``FOLDER/truth.json`` and ``FOLDER/truth_labels.nii.gz``.

    Parameters
    ----------
    phantom : Phantom
    folder : path
    kvp, slice_mm, spacing_mm, pixel_mm, dose, kernel, mode, sub_slice_mm
        As for ``Phantom.image``.
    gantry_tilt_deg : float
        How far the planes of the slices lean: their front edge towards the feet.
    maker : str
        One of ``phantoms.dicom.MAKERS``.
    file_format : str
        ``"dicom"`` (one file per slice), ``"enhanced"`` (one multi-frame file) or ``"nifti"``.
    compression : str, optional
        ``"rle"`` or ``"jpeg2000"`` for classic DICOM.
    localizer : bool
        Also write a scout view.
    native_labels_mm : float, optional
        Also write ``truth_labels_native.nii.gz``: the labels of the analytic object at voxels of this size, over the box of
        all labelled structures within the image, upright whatever the image is.
    progress : callable, optional
        Called with what is being done and the fraction done of it.
    **header
        Fields of ``phantoms.dicom.Header`` to override.

    Returns
    -------
    Truth
    """
    if file_format not in ("dicom", "enhanced", "nifti"):
        raise ValueError(f"file_format is {file_format!r}; it must be dicom, enhanced or nifti")
    if compression is not None and file_format != "dicom":
        raise ValueError(f"compression is for file_format dicom, not for {file_format}")
    if maker not in MAKERS:
        raise ValueError(f"maker is {maker!r}; it must be one of {', '.join(MAKERS)}")
    require_number("slice_mm", slice_mm, 0.05, 20.0)
    require_number("gantry_tilt_deg", gantry_tilt_deg, -35.0, 35.0)
    native = None if native_labels_mm is None else _native_lattice(phantom, native_labels_mm)
    tell = progress or (lambda _step, _done: None)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    tell("image", 0.0)
    upright = phantom.lattice(pixel_mm=pixel_mm, spacing_mm=spacing_mm or slice_mm)
    image = phantom.image(
        kvp,
        slice_mm=slice_mm,
        spacing_mm=spacing_mm,
        pixel_mm=pixel_mm,
        dose=dose,
        kernel=kernel,
        lattice=upright.tilted(gantry_tilt_deg) if gantry_tilt_deg else None,
        mode=mode,
        sub_slice_mm=sub_slice_mm,
    )
    tell("truth", 0.0)
    truth = phantom.truth(image)
    key = uid_of(
        phantom.kind,
        phantom.seed,
        sorted(phantom.options.items(), key=str),
        kvp,
        slice_mm,
        spacing_mm,
        pixel_mm,
        dose,
        kernel,
        *(() if mode == "fast" else (mode,)),
        *((gantry_tilt_deg,) if gantry_tilt_deg else ()),
    )
    fields: dict[str, Any] = {
        "key": str(key),
        "patient_id": f"PHANTOM-{phantom.kind.upper()}-{phantom.seed}",
        "kvp": kvp,
        "kernel": kernel,
        "maker": maker,
        "slice_thickness_mm": slice_mm,
        "gantry_tilt_deg": gantry_tilt_deg,
        "contrast_agent": _AGENTS[phantom.contrast],
        "tube_current_ma": 220.0 * max(dose, 0.01),
        **phantom.patient,
        **header,
    }
    tell("files", 0.0)
    if file_format == "nifti":
        write_nifti(image.hu, image.lattice, target / "ct.nii.gz")
    else:
        folder_dicom = target / "dicom"
        if localizer:
            scout = Header(
                **(
                    fields
                    | {"series_number": 1, "description": "SCOUT", "image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}
                )
            )
            write_localizer(image.hu, image.lattice, folder_dicom / "scout", scout)
        if file_format == "enhanced":
            write_enhanced_ct(image.hu, image.lattice, folder_dicom / "series2" / "CT.dcm", Header(**fields))
        else:
            write_ct_series(
                image.hu,
                image.lattice,
                folder_dicom / "series2",
                Header(**fields),
                compression=compression,
                progress=lambda done: tell("files", done),
            )
    write_nifti(image.labels.astype(np.uint8), image.lattice, target / "truth_labels.nii.gz")
    if native is not None:
        tell("native labels", 0.0)
        labelled, fine = native
        _, labels = render(labelled, fine, Materials.mineral_only(), background=None, seed=phantom.seed)
        write_nifti(labels, fine, target / "truth_labels_native.nii.gz")
    truth.save(target / "truth.json")
    return truth


_NATIVE_VOXELS = 300_000_000


def _native_lattice(phantom: Phantom, voxel_mm: float) -> tuple[list[Solid], Lattice]:
    """The labelled structures of a phantom, and a lattice over them as far as the image shows them."""
    labelled = [solid for solid in phantom.solids if solid.label]
    if not labelled:
        raise ValueError(f"native_labels_mm: a phantom of kind {phantom.kind} has no labelled structures")
    if not voxel_mm > 0:
        raise ValueError(f"native_labels_mm is {voxel_mm}; it must be positive")
    low = np.maximum(np.min([solid.box_mm[0] for solid in labelled], axis=0) - voxel_mm, phantom.low_mm)
    high = np.minimum(np.max([solid.box_mm[1] for solid in labelled], axis=0) + voxel_mm, phantom.high_mm)
    if np.prod((high - low) / voxel_mm) > _NATIVE_VOXELS:
        raise ValueError(f"native_labels_mm is {voxel_mm}: more than {_NATIVE_VOXELS // 10**6} million voxels")
    return labelled, Lattice.upright(low, high, (voxel_mm,) * 3)
