"""DICOM Segmentation: one binary segment per structure, on the frames of the source images.

The arches of the vertebrae are segments of their own after all bodies and femora, whose numbers they leave as they are.
"""

from __future__ import annotations

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

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
    present = [number for number in np.unique(labels).tolist() if number in names]
    if not present:
        return None
    sources, planes = completed_headers(headers), source_planes(headers)
    segments = _renumbered(labels_on_planes(labels, index_to_lps, planes), present, first=1)
    found = [names[number] for number in present]
    if arches is not None and arch_names:
        with_arch = [number for number in np.unique(arches).tolist() if number in arch_names]
        behind = _renumbered(labels_on_planes(arches, index_to_lps, planes), with_arch, first=len(present) + 1)
        np.copyto(segments, behind, where=segments == 0)
        found += [arch_names[number] for number in with_arch]
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


def _renumbered(labels: NDArray[np.uint8], numbers: list[int], *, first: int) -> NDArray[np.uint8]:
    """`labels` with `numbers` counted up from `first`, as segment numbers must be, and everything else 0."""
    table = np.zeros(256, np.uint8)
    table[numbers] = range(first, first + len(numbers))
    return table[labels]


def segment_numbers(segmentation: Dataset) -> dict[str, int]:
    """Structure name to segment number of an object made by `segmentation_object`."""
    return {str(item.TrackingID): int(item.SegmentNumber) for item in segmentation.SegmentSequence}
