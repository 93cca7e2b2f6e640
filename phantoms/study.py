"""A phantom as a study on disk: DICOM folder, truth beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from phantoms.dicom import Header, uid_of, write_ct_series, write_enhanced_ct, write_localizer, write_nifti
from phantoms.phantom import Phantom
from phantoms.scanner import SUB_SLICE_MM
from phantoms.truth import Truth

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
    truth.save(target / "truth.json")
    return truth
