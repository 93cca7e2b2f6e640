"""Secondary capture: the pictures of the report as images that any archive and viewer shows."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset

from reports.dicom.common import MANUFACTURER, SERIES_NUMBERS, UNICODE, Provenance, completed_headers
from reports.record import Figure

_BODY_PARTS = {"hips": "HIP"}
"""Everything else shows the spine, or is a chart of it; an unpaired part needs no laterality."""


def key_images(
    figures: tuple[Figure, ...], folder: Path, headers: list[Dataset], provenance: Provenance
) -> dict[str, Dataset]:
    """One RGB secondary capture for each picture of a record, by the name of the picture.

    The pictures carry no name of a patient, but measured values and a note on research use: they say that burned-in annotation
    is there.

    Parameters
    ----------
    figures : tuple of Figure
    folder : Path
        Where the files of the figures lie; a figure without its file is left out.
    headers : list of Dataset
        Source headers.
    provenance : Provenance
    """
    source = completed_headers(headers[:1])[0]
    series_uid = str(source.SeriesInstanceUID)
    made: dict[str, Dataset] = {}
    for number, figure in enumerate(figures, start=1):
        file = folder / figure.file
        if not file.is_file():
            continue
        with Image.open(file) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        capture = hd.sc.SCImage.from_ref_dataset(
            ref_dataset=source,
            pixel_array=pixels,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            series_instance_uid=provenance.uid(series_uid, "SC-series"),
            sop_instance_uid=provenance.uid(series_uid, f"SC-{figure.id}"),
            series_number=SERIES_NUMBERS["SC"],
            instance_number=number,
            manufacturer=MANUFACTURER,
            patient_orientation=("L", "F"),
            series_description="openbct pictures (research use only)",
        )
        capture.PatientOrientation = ""  # several views and charts on one picture have no common orientation
        capture.ConversionType = "WSD"
        capture.BurnedInAnnotation = "YES"
        capture.BodyPartExamined = _BODY_PARTS.get(figure.id, "SPINE")
        if capture.BodyPartExamined == "HIP":
            capture.Laterality = ""
        capture.SpecificCharacterSet = UNICODE
        capture.ImageComments = figure.alt[:1024]
        capture.ManufacturerModelName = MANUFACTURER
        capture.SoftwareVersions = provenance.version
        capture.SourceImageSequence = []
        for header in headers:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
            capture.SourceImageSequence.append(item)
        made[figure.id] = capture
    return made
