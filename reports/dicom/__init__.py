"""DICOM objects that carry the results back into the archive.

Segmentation, Structured Report and Encapsulated PDF; on request the pictures as secondary captures and the fields of the
finite-element models as parametric maps.
"""

from reports.dicom.common import Provenance
from reports.dicom.document import encapsulated_pdf
from reports.dicom.key_images import key_images
from reports.dicom.maps import VoxelField, parametric_map
from reports.dicom.segmentation import segmentation_object
from reports.dicom.structured_report import structured_report

__all__ = [
    "Provenance",
    "VoxelField",
    "encapsulated_pdf",
    "key_images",
    "parametric_map",
    "segmentation_object",
    "structured_report",
]
