"""Reads the header of one file and says what its frames are; pixels are not touched."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import IO, Any

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from pipeline.errors import InputRefused
from pipeline.ingest.sources import Candidate, Reader, Skipped, split_locator
from pipeline.volume import Acquisition

ENHANCED_CT = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
"""SOP classes of Enhanced CT and Legacy Converted Enhanced CT."""
MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"

Get = Callable[[str], Any]
"""Looks up the value of a DICOM keyword; None where it is absent, empty or unreadable."""

_ATTRIBUTES = """
    SpecificCharacterSet ImageType SOPClassUID SOPInstanceUID StudyDate AcquisitionDate AcquisitionTime AcquisitionDateTime
    ContentTime Modality Manufacturer ManufacturerModelName DeviceSerialNumber SeriesDescription ProtocolName
    PatientID IssuerOfPatientID PatientBirthDate PatientSex PatientAge PatientSize PatientWeight PatientPosition
    BodyPartExamined SliceThickness KVP ReconstructionDiameter GantryDetectorTilt TableHeight Exposure ExposureInmAs
    ConvolutionKernel ContrastBolusAgent ContrastBolusAgentSequence StudyInstanceUID SeriesInstanceUID SeriesNumber
    AcquisitionNumber InstanceNumber TemporalPositionIdentifier TemporalPositionIndex NominalPercentageOfCardiacPhase
    ImagePositionPatient ImageOrientationPatient FrameOfReferenceUID SamplesPerPixel PhotometricInterpretation NumberOfFrames
    Rows Columns PixelSpacing BitsAllocated BitsStored HighBit PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit
    RescaleSlope RescaleIntercept RescaleType LossyImageCompression StackID SharedFunctionalGroupsSequence
    PerFrameFunctionalGroupsSequence DirectoryRecordSequence DerivationDescription DerivationCodeSequence FilterType
    FilterMaterial RealWorldValueMappingSequence MultienergyCTAcquisition MultienergyCTAcquisitionSequence
    MultienergyCTCharacteristicsSequence CTAdditionalXRaySourceSequence
"""
_TAGS: list[Any] = [pydicom.datadict.tag_for_keyword(keyword) for keyword in _ATTRIBUTES.split()]


@dataclass(frozen=True, slots=True)
class Identity:
    """Which patient, study and series a frame belongs to.

    `patient` is a one-way hash of the patient's identifier: it tells patients apart and names none.
    """

    patient: str
    study_uid: str
    series_uid: str
    series_number: int | None
    sop_class_uid: str


@dataclass(frozen=True, slots=True)
class Coding:
    """How stored pixel values are to be read; None where the header says nothing."""

    rows: int
    columns: int
    samples: int
    photometric: str | None
    bits_allocated: int | None
    bits_stored: int | None
    signed: bool
    slope: float | None
    intercept: float | None
    rescale_type: str | None
    padding: tuple[int, int] | None
    lossy: bool
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class Frame:
    """One image plane.

    Attributes
    ----------
    locator : str
        Where the file is.
    index : int or None
        Number of the frame in a multi-frame object, None for a single-frame one.
    sop_instance_uid : str
    instance_number : int or None
    frame_of_reference_uid : str or None
    position_mm : tuple of 3 float or None
        Image Position (Patient), LPS: centre of the first voxel.
    orientation : tuple of 6 float or None
        Image Orientation (Patient): direction along a row, then along a column.
    pixel_spacing_mm : tuple of 2 float or None
        Distance of rows, then of columns.
    identity : Identity
    coding : Coding
    acquisition : Acquisition
    phase : tuple
        What may tell two phases of one series apart: acquisition number, temporal position, cardiac phase, stack id,
        acquisition time, content time.
    """

    locator: str
    index: int | None
    sop_instance_uid: str
    instance_number: int | None
    frame_of_reference_uid: str | None
    position_mm: tuple[float, float, float] | None
    orientation: tuple[float, float, float, float, float, float] | None
    pixel_spacing_mm: tuple[float, float] | None
    identity: Identity
    coding: Coding
    acquisition: Acquisition
    phase: tuple[Any, ...]


def _value(dataset: pydicom.Dataset, keyword: str) -> Any:
    """One value, or None if it is absent, empty or so malformed that it cannot be read."""
    try:
        value = dataset.get(keyword)
    except Exception:  # pydicom raises many kinds for malformed values; the attribute then counts as absent
        return None
    if value is None or (hasattr(value, "__len__") and len(value) == 0):
        return None
    return value


def number(value: Any) -> float | None:
    """A finite float, or None."""
    if isinstance(value, list | tuple | pydicom.multival.MultiValue):
        value = value[0] if len(value) else None
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def _positive(value: Any) -> float | None:
    result = number(value)
    return result if result is not None and result > 0 else None


def _integer(value: Any) -> int | None:
    result = number(value)
    return int(result) if result is not None else None


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, list | tuple | pydicom.multival.MultiValue):
        value = " ".join(str(part) for part in value)
    text = "".join(c if c.isprintable() else " " for c in str(value)).strip()
    return text if text and text.lower() != "none" else None


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    if not isinstance(value, list | tuple | pydicom.multival.MultiValue) or len(value) != count:
        return None
    numbers = [number(part) for part in value]
    return None if any(part is None for part in numbers) else tuple(part for part in numbers if part is not None)


def age_in_years(age: Any, birth_date: Any, study_date: Any) -> float | None:
    """Age from an age string such as ``068Y``, else from the two dates, else None."""
    text = str(age or "").strip().upper()
    years_per_unit = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
    if len(text) >= 2 and text[:-1].isdigit() and text[-1] in years_per_unit:
        years = int(text[:-1]) * years_per_unit[text[-1]]
        return years if 0 < years < 120 else None
    born, scanned = str(birth_date or ""), str(study_date or "")
    if len(born) == 8 and len(scanned) == 8 and born.isdigit() and scanned.isdigit():
        before_birthday = scanned[4:] < born[4:]
        years = int(scanned[:4]) - int(born[:4]) - before_birthday
        return float(years) if 0 < years < 120 else None
    return None


def _iso_date(value: Any) -> str | None:
    text = str(value or "")
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}" if len(text) >= 8 and text[:8].isdigit() else None


def _contrast(get: Get) -> str | None:
    agent = _text(get("ContrastBolusAgent"))
    if agent is None and (sequence := get("ContrastBolusAgentSequence")) is not None:
        agent = _text(_value(sequence[0], "CodeMeaning")) or "stated without a name"
    # Some scanners fill the field in to say that nothing was given.
    return (
        None
        if agent is not None and agent.strip().upper() in {"NO", "NONE", "N", "NATIVE", "0", "NO CONTRAST"}
        else agent
    )


def _all_of(value: Any, keyword: str, depth: int = 4) -> list[Any]:
    """Every value of a keyword in the items of a sequence, at any depth up to `depth`."""
    found: list[Any] = []
    for item in value if isinstance(value, pydicom.Sequence) else ():
        if (own := _value(item, keyword)) is not None:
            found.append(own)
        if depth > 1:
            for element in item:
                if element.VR == "SQ":
                    found.extend(_all_of(element.value, keyword, depth - 1))
    return found


def _multienergy_facts(get: Get) -> dict[str, Any]:
    """What the header says about spectra and filters; frames of an Enhanced object have their groups flattened."""
    acquired = get("MultienergyCTAcquisitionSequence")
    characteristics = get("MultienergyCTCharacteristicsSequence")
    energies = [get("MonoenergeticEnergyEquivalent"), *_all_of(characteristics, "MonoenergeticEnergyEquivalent")]
    others = _all_of(get("CTAdditionalXRaySourceSequence"), "KVP")
    sources = [get("KVP"), *others] if others else _all_of(acquired, "KVP")
    units = [get("MeasurementUnitsCodeSequence")]
    units += _all_of(get("RealWorldValueMappingSequence"), "MeasurementUnitsCodeSequence", 1)
    derivation = [get("DerivationDescription"), *_all_of(get("DerivationCodeSequence"), "CodeMeaning", 1)]
    filters = [_text(get(keyword)) for keyword in ("FilterType", "FilterMaterial")]
    kinds = [get("MultienergyDetectorType"), *_all_of(acquired, "MultienergyDetectorType")]
    return {
        "rescale_type": _text(get("RescaleType")),
        "real_world_unit": next((_text(_value(u[0], "CodeValue")) for u in units if u), None),
        "derivation": " ".join(_text(part) or "" for part in derivation).strip() or None,
        "beam_filter": " ".join(part for part in filters if part) or None,
        "multienergy": str(get("MultienergyCTAcquisition") or "").upper() == "YES" or bool(acquired),
        "detector_type": next((str(kind).upper() for kind in kinds if kind), None),
        "monoenergetic_kev": next((_positive(energy) for energy in energies if energy is not None), None),
        "source_kvps": tuple(kvp for value in sources if (kvp := _positive(value)) is not None),
    }


def acquisition_of(get: Get) -> Acquisition:
    """The acquisition facts of one frame."""
    sex = str(get("PatientSex") or "").strip().upper()[:1]
    size_m = _positive(get("PatientSize"))
    image_type = get("FrameType") or get("ImageType") or ()
    if isinstance(image_type, str):
        image_type = image_type.split("\\")
    return Acquisition(
        modality=_text(get("Modality")),
        manufacturer=_text(get("Manufacturer")),
        model=_text(get("ManufacturerModelName")),
        device_serial_number=_text(get("DeviceSerialNumber")),
        kvp=_positive(get("KVP")),
        kernel=_text(get("ConvolutionKernel")),
        slice_thickness_mm=_positive(get("SliceThickness")),
        contrast_agent=_contrast(get),
        table_height_mm=number(get("TableHeight")),
        gantry_tilt_deg=number(get("GantryDetectorTilt")),
        reconstruction_diameter_mm=_positive(get("ReconstructionDiameter")),
        tube_current_time_product_mas=_positive(get("ExposureInmAs")) or _positive(get("Exposure")),
        image_type=tuple(str(part).strip().upper() for part in image_type),
        series_description=_text(get("SeriesDescription")),
        protocol_name=_text(get("ProtocolName")),
        body_part=_text(get("BodyPartExamined")),
        patient_position=_text(get("PatientPosition")),
        acquisition_date=_iso_date(get("StudyDate")) or _iso_date(get("AcquisitionDate")),
        patient_age_years=age_in_years(get("PatientAge"), get("PatientBirthDate"), get("StudyDate")),
        patient_sex=sex if sex in {"F", "M", "O"} else None,
        # Sizes beyond 2.5 were typed in centimetres or inches; which one is not known, so the size is not known.
        patient_height_m=size_m if size_m is not None and 0.3 < size_m < 2.5 else None,
        patient_weight_kg=_positive(get("PatientWeight")),
        **_multienergy_facts(get),
    )


def _padding(get: Get, *, signed: bool, bits: int | None) -> tuple[int, int] | None:
    first, last = _integer(get("PixelPaddingValue")), _integer(get("PixelPaddingRangeLimit"))
    if first is None:
        return None
    limits = [first, last if last is not None else first]
    if bits:  # with implicit VR the sign of this attribute follows from another one and is often wrong
        half, full = 1 << (bits - 1), 1 << bits
        if signed:
            limits = [value - full if value >= half else value for value in limits]
        else:
            limits = [value + full if value < 0 else value for value in limits]
    return min(limits), max(limits)


def _coding(get: Get, transfer_syntax: str) -> Coding:
    signed = _integer(get("PixelRepresentation")) == 1
    bits_allocated = _integer(get("BitsAllocated"))
    return Coding(
        rows=_integer(get("Rows")) or 0,
        columns=_integer(get("Columns")) or 0,
        samples=_integer(get("SamplesPerPixel")) or 1,
        photometric=_text(get("PhotometricInterpretation")),
        bits_allocated=bits_allocated,
        bits_stored=_integer(get("BitsStored")),
        signed=signed,
        slope=number(get("RescaleSlope")),
        intercept=number(get("RescaleIntercept")),
        rescale_type=_text(get("RescaleType")),
        padding=_padding(get, signed=signed, bits=bits_allocated),
        lossy=str(get("LossyImageCompression") or "") == "01",
        transfer_syntax=transfer_syntax,
    )


def _identity(get: Get, sop_class: str) -> Identity:
    patient = f"{get('PatientID') or ''}|{get('IssuerOfPatientID') or ''}"
    return Identity(
        patient=hashlib.sha256(patient.encode("utf-8", "replace")).hexdigest()[:16],
        study_uid=str(get("StudyInstanceUID") or ""),
        series_uid=str(get("SeriesInstanceUID") or ""),
        series_number=_integer(get("SeriesNumber")),
        sop_class_uid=sop_class,
    )


def _frame(get: Get, locator: str, index: int | None, identity: Identity, transfer_syntax: str) -> Frame:
    orientation = _numbers(get("ImageOrientationPatient"), 6)
    position = _numbers(get("ImagePositionPatient"), 3)
    spacing = _numbers(get("PixelSpacing"), 2)
    if spacing is not None and min(spacing) <= 0:
        spacing = None
    return Frame(
        locator=locator,
        index=index,
        sop_instance_uid=str(get("SOPInstanceUID") or ""),
        instance_number=_integer(get("InstanceNumber")),
        frame_of_reference_uid=_text(get("FrameOfReferenceUID")),
        position_mm=position,  # type: ignore[arg-type]
        orientation=orientation,  # type: ignore[arg-type]
        pixel_spacing_mm=spacing,  # type: ignore[arg-type]
        identity=identity,
        coding=_coding(get, transfer_syntax),
        acquisition=acquisition_of(get),
        phase=(
            _integer(get("FrameAcquisitionNumber")) or _integer(get("AcquisitionNumber")),
            _integer(get("TemporalPositionIndex")) or _integer(get("TemporalPositionIdentifier")),
            number(get("NominalPercentageOfCardiacPhase")),
            _text(get("StackID")),
            _text(get("FrameAcquisitionDateTime"))
            or _text(get("AcquisitionDateTime"))
            or _text(get("AcquisitionTime")),
            _text(get("ContentTime")),
        ),
    )


def _functional_groups(item: pydicom.Dataset) -> dict[str, Any]:
    """The attributes in the first item of every functional group of a frame."""
    found: dict[str, Any] = {}
    for element in item:
        if element.VR == "SQ" and element.value and element.keyword != "ContrastBolusUsageSequence":
            group = element.value[0]
            for keyword in group.dir():
                value = _value(group, keyword)
                if value is not None:
                    found[keyword] = value
    return found


def _frames_of_enhanced(dataset: pydicom.Dataset, locator: str, identity: Identity, syntax: str) -> list[Frame]:
    shared_items = _value(dataset, "SharedFunctionalGroupsSequence")
    shared = _functional_groups(shared_items[0]) if shared_items else {}

    def getter(own: Mapping[str, Any]) -> Get:
        def get(keyword: str) -> Any:
            if keyword in own:
                return own[keyword]
            return shared[keyword] if keyword in shared else _value(dataset, keyword)

        return get

    items = _value(dataset, "PerFrameFunctionalGroupsSequence") or ()
    return [
        replace(_frame(getter(_functional_groups(item)), locator, index, identity, syntax), instance_number=index)
        for index, item in enumerate(items)
    ]


def _open_dataset(stream: IO[bytes]) -> pydicom.FileDataset | None:
    """The header of a DICOM file, or None if the bytes are not DICOM."""
    try:
        return pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=_TAGS)
    except InvalidDicomError:
        pass
    # Old archives leave the preamble out; anything parses under `force`, so demand what an image must have.
    stream.seek(0)
    if stream.read(2) not in (b"\x08\x00", b"\x02\x00", b"\x00\x08"):
        return None
    stream.seek(0)
    dataset = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=_TAGS, force=True)
    sop_class = str(_value(dataset, "SOPClassUID") or "")
    return dataset if sop_class.startswith("1.2.840.10008.5.1.4.1.1.") else None


def _pixel_fault(dataset: pydicom.FileDataset, at: int, size_bytes: int, syntax: str) -> str | None:
    """What is wrong with the pixel data, as far as it can be told from where the header ends (byte `at`); None if nothing."""
    if syntax == DeflatedExplicitVRLittleEndian:  # the stream was unpacked as a whole, so its position says nothing
        return None
    if size_bytes - at < 8:
        return "ends before its pixel data"
    if not syntax or UID(syntax).is_compressed:
        return None
    counts = [_integer(_value(dataset, keyword)) for keyword in ("Rows", "Columns", "BitsAllocated")]
    expected = math.prod(count or 0 for count in counts) // 8
    expected *= (_integer(_value(dataset, "SamplesPerPixel")) or 1) * (_integer(_value(dataset, "NumberOfFrames")) or 1)
    if size_bytes - at < expected:
        return f"holds {max(size_bytes - at - 8, 0)} of {expected} bytes of pixel data"
    return None


def _incomplete_directory(dataset: pydicom.FileDataset, candidate: Candidate) -> Skipped | None:
    """A DICOMDIR is only an index: the files are found without it. But it may list some that are gone."""
    path, members = split_locator(candidate.locator)
    if members:
        return None
    listed = [_value(record, "ReferencedFileID") for record in _value(dataset, "DirectoryRecordSequence") or ()]
    gone = 0
    for file_id in listed:
        if file_id is not None:
            parts = [file_id] if isinstance(file_id, str) else [str(part) for part in file_id]
            gone += not (
                path.parent.joinpath(*parts).exists() or path.parent.joinpath(*(p.lower() for p in parts)).exists()
            )
    if not gone:
        return None
    return Skipped(candidate.name, "incomplete_dicomdir", f"lists {gone} files that are not there")


def _frames_or_skipped(dataset: pydicom.FileDataset, at: int, candidate: Candidate) -> list[Frame] | Skipped | None:
    def get(keyword: str) -> Any:
        return _value(dataset, keyword)

    name = candidate.name
    meta = dataset.file_meta
    # The class stands in two places; in a file cut short the second of them may be cut as well.
    stated = [str(value) for value in (get("SOPClassUID"), _value(meta, "MediaStorageSOPClassUID")) if value]
    sop_class = next((uid for uid in stated if "Storage" in UID(uid).name), stated[0] if stated else "")
    if sop_class == MEDIA_DIRECTORY or get("DirectoryRecordSequence") is not None:
        return _incomplete_directory(dataset, candidate)
    syntax = str(_value(meta, "TransferSyntaxUID") or "")
    kind = UID(sop_class).name if sop_class else "DICOM object"
    is_image = "Image Storage" in kind or get("Rows") is not None
    if not is_image:
        return Skipped(name, "not_an_image", f"is no image ({kind})")
    if fault := _pixel_fault(dataset, at, candidate.size_bytes, syntax):
        return Skipped(name, "truncated", f"{fault} (truncated)")
    identity = _identity(get, sop_class)
    if get("PerFrameFunctionalGroupsSequence") is not None and sop_class in ENHANCED_CT:
        return _frames_of_enhanced(dataset, candidate.locator, identity, syntax)
    return [_frame(get, candidate.locator, None, identity, syntax)]


def read_header(candidate: Candidate, reader: Reader) -> list[Frame] | Skipped | None:
    """What one file holds.

    Returns
    -------
    list of Frame
        One for a classic image, many for a multi-frame one.
    Skipped
        Why the file is not used.
    None
        For a DICOMDIR: an index, whose files are found without it.
    """
    name = candidate.name
    try:
        for head_only in (True, False):
            with reader.open(candidate.locator, head_only=head_only) as stream:
                available = stream.seek(0, 2)
                stream.seek(0)
                partial = available < candidate.size_bytes and head_only
                try:
                    dataset = _open_dataset(stream)
                except Exception:
                    if partial:
                        continue
                    raise
                if dataset is None:
                    return Skipped(name, "not_dicom", "is neither DICOM nor NIfTI")
                at = stream.tell()
                if not (partial and at + 12 >= available):  # else the header goes on behind the part that was unpacked
                    return _frames_or_skipped(dataset, at, candidate)
    except (InputRefused, OSError, EOFError) as error:
        return Skipped(name, "unreadable", f"cannot be read ({type(error).__name__})")
    except Exception as error:  # a malformed header must not stop the files after it
        return Skipped(name, "corrupt_header", f"has a header that cannot be parsed ({type(error).__name__})")
    return Skipped(name, "unreadable", "cannot be read")
