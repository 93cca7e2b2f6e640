"""DICOM objects that carry the results back into the archive: Segmentation, Structured Report, Encapsulated PDF."""

from reports.dicom.common import Provenance
from reports.dicom.document import encapsulated_pdf
from reports.dicom.segmentation import segmentation_object
from reports.dicom.structured_report import structured_report

__all__ = ["Provenance", "encapsulated_pdf", "segmentation_object", "structured_report"]
