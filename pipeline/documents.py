"""The files of one study: record, report as HTML and PDF, label map, DICOM objects, FHIR bundle."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from pydicom.dataset import Dataset

from pipeline.measure import Measured
from pipeline.segmentation.model import Segmentation
from pipeline.volume import Volume
from reports.dicom import (
    Provenance,
    VoxelField,
    encapsulated_pdf,
    key_images,
    parametric_map,
    segmentation_object,
    structured_report,
)
from reports.fhir import fhir_text
from reports.html import render_html
from reports.pdf import render_pdf
from reports.record import StudyRecord, save_record, write_atomically

RECORD, HTML, PDF, FHIR, DICOM = "record.json", "report.html", "report.pdf", "fhir.json", "dicom"

# LPS (DICOM) to RAS (NIfTI): x and y change sign.
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def render_documents(record: StudyRecord, folder: Path, *, language: str = "en") -> list[Path]:
    """Write the documents that follow from the record alone: HTML, PDF, FHIR.

    Parameters
    ----------
    record : StudyRecord
    folder : Path
        Where the record and its pictures lie.
    language : str
        Code of a report language, or the path of a language file.

    Returns
    -------
    list of Path
        The files written.
    """
    return [
        write_atomically(folder / HTML, render_html(record, folder, language=language)),
        write_atomically(folder / PDF, render_pdf(record, folder, language=language)),
        write_atomically(folder / FHIR, fhir_text(record)),
    ]


def write_record_and_documents(record: StudyRecord, folder: Path, *, language: str = "en") -> list[Path]:
    """The record first, then what is rendered from it."""
    return [save_record(record, folder / RECORD), *render_documents(record, folder, language=language)]


def write_label_map(
    segmentation: Segmentation, volume: Volume, folder: Path, *, name: str = "segmentation"
) -> list[Path]:
    """The label map as NIfTI on the grid and in the axis order of the source, with ``<name>.json`` beside it.

    For DICOM the source order is that of the canonical array: slices upwards, rows to the back, columns to the left.
    """
    labels = volume.axis_order.to_source(segmentation.labels)
    matrix = _source_matrix(volume)
    # NIfTI arrays run (x, y, z): reverse the axes of the array and the columns of the matrix.
    affine = _LPS_TO_RAS @ matrix[:, [2, 1, 0, 3]]
    image = nibabel.Nifti1Image(np.ascontiguousarray(labels.transpose(2, 1, 0)), affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    target = folder / f"{name}.nii.gz"
    nibabel.save(image, target)
    names = {str(number): structure for number, structure in sorted(segmentation.names().items())}
    return [target, write_atomically(folder / f"{name}.json", json.dumps(names, indent=1) + "\n")]


def _source_matrix(volume: Volume) -> np.ndarray:
    """Index-to-LPS matrix of the array in source order."""
    matrix = np.array(volume.grid.index_to_lps)
    order = volume.axis_order
    out = matrix.copy()
    for source_axis, canonical_axis in enumerate(order.permutation):
        out[:3, source_axis] = matrix[:3, canonical_axis]
    for source_axis, flipped in enumerate(order.flipped):
        if flipped:
            size = volume.shape[order.permutation[source_axis]]
            out[:3, 3] += out[:3, source_axis] * (size - 1)
            out[:3, source_axis] *= -1
    return out


def write_dicom(
    record: StudyRecord,
    segmentation: Segmentation,
    headers: Sequence[Dataset],
    folder: Path,
    *,
    version: str,
    pdf: bytes,
    pictures_in: Path | None = None,
    fields: Sequence[VoxelField] = (),
) -> list[Path]:
    """Segmentation, Structured Report and Encapsulated PDF into ``folder/dicom``; on request pictures and fields.

    Parameters
    ----------
    record : StudyRecord
    segmentation : Segmentation
    headers : sequence of Dataset
        Source headers in the order of the canonical slices.
    folder : Path
    version : str
        Of the software.
    pdf : bytes
    pictures_in : Path, optional
        Folder of the record whose pictures become secondary captures; none by default.
    fields : sequence of VoxelField
        Become parametric maps.
    """
    arches = segmentation.arch_map()
    digest = hashlib.sha256(record.model_dump_json(exclude={"timings_s", "software"}).encode())
    for labels in (segmentation.labels, *(() if arches is None else (arches.labels,))):
        digest.update(np.ascontiguousarray(labels).data)
    provenance = Provenance(version=version, digest=digest.hexdigest())
    sources = list(headers)
    objects: dict[str, Dataset | None] = {}
    objects["segmentation"] = segmentation_object(
        segmentation.labels,
        segmentation.grid.index_to_lps,
        segmentation.names(),
        sources,
        provenance,
        arches=None if arches is None else arches.labels,
        arch_names=None if arches is None else arches.names(),
    )
    objects["measurements"] = structured_report(record, sources, provenance, objects["segmentation"])
    objects["report"] = encapsulated_pdf(pdf, sources, provenance, created=dt.datetime.now())
    if pictures_in is not None:
        captures = key_images(record.quality.figures, pictures_in, sources, provenance)
        objects |= {f"picture-{name}": capture for name, capture in captures.items()}
    for field in fields:
        objects[f"map-{field.structure}-{field.kind}"] = parametric_map(field, sources, provenance)
    (folder / DICOM).mkdir(exist_ok=True)
    written = []
    for name, dataset in objects.items():
        if dataset is not None:
            target = folder / DICOM / f"{name}.dcm"
            dataset.save_as(target, enforce_file_format=True)
            written.append(target)
    return written


def fields_of(measured: Measured) -> tuple[VoxelField, ...]:
    """The fields of every virtual test that was solved, on the grids of its models, for parametric maps."""
    fields = []
    for name, strength in measured.strengths.items():
        if strength.solved is None:
            continue
        solved = strength.solved
        grid = solved.model.bone.grid.index_to_world
        kinds = {
            "energy_density": 1000.0 * solved.energy_density_mpa,  # kPa
            "effective_strain": solved.effective_strain,
            "yield_ratio": solved.yield_ratio,
        }
        fields += [
            VoxelField(name, strength.test, kind, np.asarray(values, np.float32), grid)
            for kind, values in kinds.items()
            if values is not None
        ]
    return tuple(fields)
