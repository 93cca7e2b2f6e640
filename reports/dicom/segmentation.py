"""DICOM Segmentation: one binary segment per structure, on the frames of the source images.

The arches of the vertebrae are segments of their own after all bodies and femora, whose numbers they leave as they are.
"""

from __future__ import annotations

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from scipy import ndimage

from reports.dicom.codes import ANATOMICAL_STRUCTURE, ARCH_ENDING, region_code, structure_code
from reports.dicom.common import MANUFACTURER, SERIES_NUMBERS, Provenance, completed_headers
from reports.dicom.frames import labels_on_planes, source_planes


def segmentation_object(
    labels: NDArray[np.uint8],
    index_to_lps: NDArray[np.float64],
    names: dict[int, str],
    headers: list[Dataset],
    provenance: Provenance,
    *,
    arches: NDArray[np.uint8] | None = None,
    arch_names: dict[int, str] | None = None,
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
    arches : uint8 ndarray of shape (Z, Y, X), optional
        Label map of the arches, on the same grid; where it meets a body, the body counts.
    arch_names : dict, optional
        Label number to name (``vertebra_L1_arch``) in that map.
    """
    numbered = np.zeros_like(labels)
    found = _number(numbered, labels, names, first=1)
    if not found:
        return None
    if arches is not None and arch_names:
        found += _number(numbered, arches, arch_names, first=len(found) + 1)
    sources = completed_headers(headers)
    segments = labels_on_planes(numbered, index_to_lps, source_planes(headers))
    descriptions = []
    algorithm = hd.AlgorithmIdentificationSequence(
        name="openbct", version=provenance.version, family=codes.cid7162.ArtificialIntelligence
    )
    series_uid = str(headers[0].SeriesInstanceUID)
    for segment, name in enumerate(found, start=1):
        kind, side = structure_code(name)
        region = region_code(name)
        description = hd.seg.SegmentDescription(
            segment_number=segment,
            segment_label=name if not name.startswith("vertebra") or name.endswith(ARCH_ENDING) else f"{name} (body)",
            segmented_property_category=ANATOMICAL_STRUCTURE,
            segmented_property_type=kind,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
            tracking_uid=provenance.uid(series_uid, f"track-{name}"),
            tracking_id=name,
            anatomic_regions=None if region is None else [region],
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
        pixel_array=segments,
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
        content_description="Vertebral bodies, vertebral arches and proximal femora",
        content_label="OPENBCT",
        series_description="openbct segmentation (research use only)",
    )


def _number(target: NDArray[np.uint8], labels: NDArray[np.uint8], names: dict[int, str], *, first: int) -> list[str]:
    """Write the structures of `labels` into what is free of `target`, counted up from `first` as segments must be.

    Returns their names in that order.
    """
    found: list[str] = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None or number not in names:
            continue
        free = (labels[box] == number) & (target[box] == 0)
        if free.any():
            target[box][free] = first + len(found)
            found.append(names[number])
    return found


def segment_numbers(segmentation: Dataset) -> dict[str, int]:
    """Structure name to segment number of an object made by `segmentation_object`."""
    return {str(item.TrackingID): int(item.SegmentNumber) for item in segmentation.SegmentSequence}
