"""What every derived DICOM object shares: identity of the software, deterministic UIDs, and copied patient and study data."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from uuid import UUID, uuid5

from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pydicom.valuerep import validate_value

MANUFACTURER = "openbct"
UNICODE = "ISO_IR 192"
"""Character set of objects that hold sentences of our own; names of the source are written over into it."""
SERIES_NUMBERS = {"SEG": 9001, "SR": 9002, "DOC": 9003, "SC": 9004, "PM": 9005}

# highdicom warns of names without a family name by quoting them: patient data would stand in logs and consoles.
warnings.filterwarnings("ignore", message=r"The string .* is unlikely to represent", category=UserWarning)

_NAMESPACE = UUID("5f2b6d0e-6a0e-4c58-9d3f-0b8f6a1c7e42")

# Patient and General Study attributes that PS3.3 asks every object of a study to share with its source.
_COPIED = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize",
    "PatientWeight", "StudyInstanceUID", "StudyID", "StudyDate", "StudyTime", "AccessionNumber",
    "ReferringPhysicianName", "StudyDescription", "SpecificCharacterSet", "TimezoneOffsetFromUTC",
    "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
)  # fmt: skip


# Without these an object could not be filed with its study: copied as they are, whatever they hold.
_IDENTITY = ("PatientName", "PatientID", "StudyInstanceUID")


@dataclass(frozen=True)
class Provenance:
    """Which software made the objects, and a digest of its settings and results.

    Equal input, settings and results give equal UIDs, so that an archive recognises a repeated run; different content never
    appears under an old UID, because the digest enters the UID.
    """

    version: str
    digest: str

    def uid(self, series_uid: str, kind: str) -> UID:
        key = json.dumps([series_uid, kind, self.version, self.digest])
        return UID(f"2.25.{uuid5(_NAMESPACE, key).int}")


def copy_patient_and_study(source: Dataset, target: Dataset) -> None:
    """Copy the patient and study attributes that are valid; type 2 attributes that the source lacks are written empty."""
    for keyword in _COPIED:
        if keyword in source and (keyword in _IDENTITY or is_valid(source[keyword])):
            target[keyword] = source[keyword]
    for keyword in (
        "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
        "ReferringPhysicianName", "StudyID",
    ):  # fmt: skip
        if keyword not in target:
            setattr(target, keyword, "")


def is_valid(element: DataElement) -> bool:
    """Whether the values of an element obey their value representation; real exports hold some that are too long."""
    values = element.value if element.VM > 1 else [element.value]
    try:
        for value in values:
            validate_value(element.VR, value, config.RAISE)
    except (ValueError, TypeError):
        return False
    return True


def completed_headers(headers: list[Dataset]) -> list[Dataset]:
    """Source headers with the type 2 attributes that highdicom reads from them; absent and invalid ones are empty.

    The input is not changed. Real exports, de-identified ones above all, often lack them, or hold values that are longer than
    DICOM allows; an object that copied these would itself be invalid.
    """
    completed = []
    for header in headers:
        copy = Dataset()
        copy.update({tag: header[tag] for tag in header.keys() if tag.group != 0x7FE0})  # noqa: SIM118
        copy.file_meta = getattr(header, "file_meta", None)
        for keyword in (
            "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
            "ReferringPhysicianName", "StudyID", "PositionReferenceIndicator",
        ):  # fmt: skip
            if keyword not in copy or (keyword not in _IDENTITY and not is_valid(copy[keyword])):
                copy.pop(keyword, None)  # the element itself belongs to the input
                setattr(copy, keyword, "")
        completed.append(copy)
    return completed
