"""DICOM Segmentation: one binary segment per structure, on the frames of the source images."""

from __future__ import annotations

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from reports.dicom.codes import ANATOMICAL_STRUCTURE, structure_code
from reports.dicom.common import MANUFACTURER, SERIES_NUMBERS, Provenance, completed_headers
from reports.dicom.frames import labels_on_planes, source_planes


def segmentation_object(
    labels: NDArray[np.uint8],
    index_to_lps: NDArray[np.float64],
    names: dict[int, str],
    headers: list[Dataset],
    provenance: Provenance,
) -> Dataset | None:
    """A BINARY Segmentation object, or None if no structure is there.

    Parameters
    ----------
    labels : uint8 ndarray of shape (Z, Y, X)
    index_to_lps : float ndarray of shape (4, 4)
    names : dict
        Label number to structure name of the contract.
    headers : list of Dataset
        Headers of the source images (pixels not needed), all of the stack that was analysed.
    provenance : Provenance
    """
    present = [number for number in np.unique(labels).tolist() if number in names]
    if not present:
        return None
    sources = completed_headers(headers)
    on_frames = labels_on_planes(labels, index_to_lps, source_planes(headers))
    renumber = np.zeros(256, np.uint8)
    descriptions = []
    algorithm = hd.AlgorithmIdentificationSequence(
        name="openbct", version=provenance.version, family=codes.cid7162.ArtificialIntelligence
    )
    series_uid = str(headers[0].SeriesInstanceUID)
    for segment, number in enumerate(present, start=1):
        renumber[number] = segment
        name = names[number]
        kind, side = structure_code(name)
        description = hd.seg.SegmentDescription(
            segment_number=segment,
            segment_label=f"{name} (body)" if name.startswith("vertebra") else name,
            segmented_property_category=ANATOMICAL_STRUCTURE,
            segmented_property_type=kind,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
            tracking_uid=provenance.uid(series_uid, f"track-{name}"),
            tracking_id=name,
        )
        if side is not None:
            modifier = Dataset()
            modifier.CodeValue, modifier.CodingSchemeDesignator, modifier.CodeMeaning = (
                side.value,
                side.scheme_designator,
                side.meaning,
            )
            description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [modifier]
        descriptions.append(description)
    return hd.seg.Segmentation(
        source_images=sources,
        pixel_array=renumber[on_frames],
        segmentation_type="BINARY",
        segment_descriptions=descriptions,
        series_instance_uid=provenance.uid(series_uid, "SEG-series"),
        series_number=SERIES_NUMBERS["SEG"],
        sop_instance_uid=provenance.uid(series_uid, "SEG"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=provenance.version,
        device_serial_number="0",
        content_description="Vertebral bodies and proximal femora",
        content_label="OPENBCT",
        series_description="openbct segmentation (research use only)",
    )


def segment_numbers(segmentation: Dataset) -> dict[str, int]:
    """Structure name to segment number of an object made by `segmentation_object`."""
    return {str(item.TrackingID): int(item.SegmentNumber) for item in segmentation.SegmentSequence}
