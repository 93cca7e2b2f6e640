"""Encapsulated PDF: the report as a document that every archive shows."""

from __future__ import annotations

import datetime as dt

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from reports.dicom.common import MANUFACTURER, SERIES_NUMBERS, Provenance, copy_patient_and_study


def encapsulated_pdf(pdf: bytes, headers: list[Dataset], provenance: Provenance, *, created: dt.datetime) -> Dataset:
    """An Encapsulated PDF object in the study of the source images.

    Raises
    ------
    ValueError
        If `pdf` is not a PDF file.
    """
    if not pdf.startswith(b"%PDF-"):
        raise ValueError("the document is not a PDF file")
    source = headers[0]
    series_uid = str(source.SeriesInstanceUID)
    document = Dataset()
    document.file_meta = FileMetaDataset()
    document.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    document.file_meta.MediaStorageSOPClassUID = EncapsulatedPDFStorage
    document.SOPClassUID = EncapsulatedPDFStorage
    document.SOPInstanceUID = provenance.uid(series_uid, "DOC")
    document.file_meta.MediaStorageSOPInstanceUID = document.SOPInstanceUID
    copy_patient_and_study(source, document)
    document.SeriesInstanceUID = provenance.uid(series_uid, "DOC-series")
    document.Modality = "DOC"
    document.SeriesNumber = SERIES_NUMBERS["DOC"]
    document.SeriesDescription = "openbct report (research use only)"
    document.InstanceNumber = 1
    document.Manufacturer = MANUFACTURER
    document.ManufacturerModelName = MANUFACTURER
    document.SoftwareVersions = provenance.version
    document.ConversionType = "WSD"
    document.InstanceCreationDate = document.ContentDate = created.strftime("%Y%m%d")
    document.InstanceCreationTime = document.ContentTime = created.strftime("%H%M%S")
    document.AcquisitionDateTime = str(source.get("AcquisitionDateTime") or source.get("StudyDate") or "")
    document.BurnedInAnnotation = "YES"
    document.DocumentTitle = "openbct: bone density, vertebral fractures and bone strength from CT"
    document.VerificationFlag = "UNVERIFIED"
    concept = Dataset()
    concept.CodeValue, concept.CodingSchemeDesignator = "18748-4", "LN"
    concept.CodeMeaning = "Diagnostic imaging report"
    document.ConceptNameCodeSequence = [concept]
    document.SourceInstanceSequence = [_reference(header) for header in headers]
    document.MIMETypeOfEncapsulatedDocument = "application/pdf"
    document.EncapsulatedDocumentLength = len(pdf)
    document.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    return document


def _reference(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    return item
