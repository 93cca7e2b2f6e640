"""Writers of real DICOM CT series (classic and Enhanced) and of NIfTI, for any lattice of voxels."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from phantoms.voxelise import Lattice

_NAMESPACE = uuid.UUID("6d0a5d1e-41a3-5a0e-8f4e-0f1d5f0b6c11")
_CHARACTER_SET = "ISO_IR 192"

MAKERS: dict[str, dict[str, object]] = {
    "GE": {
        "Manufacturer": "GE MEDICAL SYSTEMS",
        "ManufacturerModelName": "Revolution CT",
        "kernels": {"soft": "SOFT", "standard": "STANDARD", "sharp": "BONE"},
    },
    "SIEMENS": {
        "Manufacturer": "SIEMENS",
        "ManufacturerModelName": "SOMATOM Definition AS",
        "kernels": {"soft": "B20f", "standard": "B30f", "sharp": "B60f"},
    },
    "PHILIPS": {
        "Manufacturer": "Philips",
        "ManufacturerModelName": "iCT 256",
        "kernels": {"soft": "A", "standard": "B", "sharp": "YC"},
    },
    "CANON": {
        "Manufacturer": "TOSHIBA",
        "ManufacturerModelName": "Aquilion ONE",
        "kernels": {"soft": "FC08", "standard": "FC18", "sharp": "FC30"},
    },
}
"""Manufacturer, model and reconstruction kernel names as they stand in headers."""


def uid_of(*key: object) -> UID:
    """A valid UID that depends on the key only."""
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, '|'.join(map(str, key))).int}")


@dataclass(frozen=True)
class Header:
    """What the headers of a series say; every field is written as it stands, None leaves the attribute out.

    Attributes
    ----------
    key : str
        From which all UIDs of the study are derived: same key, same UIDs.
    age_years, sex, height_m, weight_kg
        Of the (invented) patient.
    kvp, kernel, slice_thickness_mm, tube_current_ma, exposure_time_ms
        `kernel` is one of `phantoms.image.KERNELS` and gets the maker's name.
    maker : str
        Key of `MAKERS`.
    series_number, description, image_type, acquisition_number
    contrast_agent : str or None
    gantry_tilt_deg, table_height_mm
    date : str
        YYYYMMDD of study, series and content.
    extra : dict
        Further attributes by DICOM keyword, applied last (also to override).
    """

    key: str
    patient_id: str = "PHANTOM"
    patient_name: str = "Phantom^Digital"
    age_years: int | None = 65
    sex: str | None = "F"
    height_m: float | None = None
    weight_kg: float | None = None
    kvp: float | None = 120.0
    kernel: str = "standard"
    slice_thickness_mm: float = 2.0
    tube_current_ma: float | None = 220.0
    exposure_time_ms: float | None = 500.0
    maker: str = "GE"
    study_description: str = "CT ABDOMEN PELVIS"
    series_number: int = 2
    acquisition_number: int = 1
    description: str = "AXIAL STANDARD"
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "AXIAL")
    body_part: str = "ABDOMEN"
    contrast_agent: str | None = None
    gantry_tilt_deg: float = 0.0
    table_height_mm: float = 150.0
    patient_position: str = "HFS"
    date: str = "20240115"
    extra: dict[str, object] = field(default_factory=dict)


_LEAST_JPEG2000 = 32  # its wavelets halve an image five times
_COMPRESSION = {None: ExplicitVRLittleEndian, "rle": RLELossless, "jpeg2000": JPEG2000Lossless}


def write_ct_series(
    hu: NDArray[np.int16],
    lattice: Lattice,
    folder: Path | str,
    header: Header,
    *,
    compression: str | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[Path]:
    """Write one classic CT image file per slice.

    Parameters
    ----------
    hu : int16 ndarray of shape (Z, Y, X)
    lattice : Lattice
        Its x axis becomes the row direction and its y axis the column direction; slices may lie anywhere along z.
    folder : path
        Made if absent.
    header : Header
    compression : str or None
        None, ``"rle"`` or ``"jpeg2000"`` (lossless).
    progress : callable, optional
        Called with the fraction done.

    Returns
    -------
    list of Path
        In the order of instance numbers: from the top of the stack downwards, as scanners number them.
    """
    if compression not in _COMPRESSION:
        raise ValueError(f"compression is {compression!r}; it must be one of {list(_COMPRESSION)}")
    if compression == "jpeg2000" and min(hu.shape[1:]) < _LEAST_JPEG2000:
        size = f"{hu.shape[1]} x {hu.shape[2]}"
        raise ValueError(f"JPEG 2000 needs slices of at least {_LEAST_JPEG2000} pixels each way; these have {size}")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    template = _common(header, lattice)
    template.SOPClassUID = CTImageStorage
    row_axis, column_axis = _orientation(lattice)
    template.ImageOrientationPatient = [_decimal(v) for v in (*row_axis, *column_axis)]
    template.RescaleIntercept, template.RescaleSlope, template.RescaleType = "-1024", "1", "HU"
    template.SliceThickness = _decimal(header.slice_thickness_mm)
    template.SpacingBetweenSlices = _decimal(lattice.spacing_mm[0])
    template.BitsAllocated, template.BitsStored, template.HighBit, template.PixelRepresentation = 16, 12, 11, 0
    if int(hu.max(initial=0)) > 3071:
        template.BitsStored, template.HighBit = 16, 15
    _apply(template, header.extra)
    count = hu.shape[0]
    upwards = float(lattice.index_to_lps[2, 0]) >= 0

    def write(instance: int) -> Path:
        k = count - 1 - instance if upwards else instance
        image = FileDataset(None, {}, file_meta=_meta(CTImageStorage, ""), preamble=b"\0" * 128)
        image.update(template)
        image.SOPInstanceUID = uid_of(header.key, header.series_number, "image", instance)
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        position = lattice.to_lps(np.array([k, 0, 0]))
        image.InstanceNumber = instance + 1
        image.ImagePositionPatient = [_decimal(v) for v in position]
        image.SliceLocation = _decimal(position[2])
        stored = (hu[k].astype(np.int32) + 1024).astype("<u2")
        image.PixelData = stored.tobytes()
        image["PixelData"].VR = "OW"
        if compression:
            image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            image.compress(_COMPRESSION[compression], stored, generate_instance_uid=False)
        path = target / f"CT{instance + 1:05d}.dcm"
        image.save_as(path, enforce_file_format=True)
        return path

    paths = []
    with ThreadPoolExecutor(2) as pool:
        for instance, path in enumerate(pool.map(write, range(count))):
            paths.append(path)
            if progress:
                progress((instance + 1) / count)
    return paths


def write_enhanced_ct(hu: NDArray[np.int16], lattice: Lattice, path: Path | str, header: Header) -> Path:
    """Write the volume as one Enhanced CT (multi-frame) file, frames from the top of the stack downwards."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    image = FileDataset(None, {}, file_meta=_meta(EnhancedCTImageStorage, ""), preamble=b"\0" * 128)
    image.update(_common(header, lattice))
    image.SOPClassUID = EnhancedCTImageStorage
    image.SOPInstanceUID = uid_of(header.key, header.series_number, "enhanced")
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.ImageType = [*header.image_type[:2], "VOLUME", "NONE"]
    image.InstanceNumber = 1
    image.ContentQualification, image.PresentationLUTShape = "RESEARCH", "IDENTITY"
    image.PixelPresentation, image.VolumetricProperties, image.VolumeBasedCalculationTechnique = (
        "MONOCHROME",
        "VOLUME",
        "NONE",
    )
    image.LossyImageCompression, image.BurnedInAnnotation = "00", "NO"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    for gone in (
        "KVP",
        "ConvolutionKernel",
        "PixelSpacing",
        "XRayTubeCurrent",
        "ExposureTime",
        "Exposure",
        "GantryDetectorTilt",
        "TableHeight",
        "ReconstructionDiameter",
        "DataCollectionDiameter",
    ):
        if gone in image:
            delattr(image, gone)
    row_axis, column_axis = _orientation(lattice)
    shared = Dataset()
    shared.PixelMeasuresSequence = [
        _dataset(
            PixelSpacing=[_decimal(v) for v in lattice.spacing_mm[1:]],
            SliceThickness=_decimal(header.slice_thickness_mm),
            SpacingBetweenSlices=_decimal(lattice.spacing_mm[0]),
        )
    ]
    shared.PlaneOrientationSequence = [
        _dataset(ImageOrientationPatient=[_decimal(v) for v in (*row_axis, *column_axis)])
    ]
    shared.PixelValueTransformationSequence = [_dataset(RescaleIntercept="0", RescaleSlope="1", RescaleType="HU")]
    shared.CTImageFrameTypeSequence = [
        _dataset(
            FrameType=list(image.ImageType),
            PixelPresentation="MONOCHROME",
            VolumetricProperties="VOLUME",
            VolumeBasedCalculationTechnique="NONE",
        )
    ]
    shared.CTAcquisitionTypeSequence = [
        _dataset(AcquisitionType="SPIRAL", TubeAngle=0.0, ConstantVolumeFlag="NO", FluoroscopyFlag="NO")
    ]
    shared.CTReconstructionSequence = [
        _dataset(
            ConvolutionKernel=_kernel_name(header),
            ConvolutionKernelGroup="SOFT_TISSUE",
            ReconstructionAlgorithm="FILTER_BACK_PROJ",
            ReconstructionDiameter=float(lattice.spacing_mm[2] * lattice.shape[2]),
        )
    ]
    shared.CTGeometrySequence = [
        _dataset(GantryDetectorTilt=float(header.gantry_tilt_deg), DataCollectionDiameter=500.0)
    ]
    shared.CTTableDynamicsSequence = [_dataset(TableSpeed=40.0)]
    shared.CTPositionSequence = [_dataset(TableHeight=header.table_height_mm)]
    if header.kvp is not None:
        shared.CTXRayDetailsSequence = [_dataset(KVP=_decimal(header.kvp), FocalSpots=[1.2], FilterType="NONE")]
    image.SharedFunctionalGroupsSequence = Sequence([shared])
    count = hu.shape[0]
    order = list(range(count))[::-1] if lattice.index_to_lps[2, 0] >= 0 else list(range(count))
    organisation = uid_of(header.key, header.series_number, "dimension")
    image.DimensionOrganizationSequence = [_dataset(DimensionOrganizationUID=organisation)]
    image.DimensionIndexSequence = [
        _dataset(
            DimensionOrganizationUID=organisation, DimensionIndexPointer=0x00200032, FunctionalGroupPointer=0x00209113
        )
    ]
    frames = []
    for number, k in enumerate(order, start=1):
        frame = Dataset()
        frame.PlanePositionSequence = [
            _dataset(ImagePositionPatient=[_decimal(v) for v in lattice.to_lps(np.array([k, 0, 0]))])
        ]
        frame.FrameContentSequence = [
            _dataset(StackID="1", InStackPositionNumber=number, DimensionIndexValues=[number], FrameAcquisitionNumber=1)
        ]
        frames.append(frame)
    image.PerFrameFunctionalGroupsSequence = Sequence(frames)
    image.NumberOfFrames = count
    image.PixelData = hu[order].astype("<i2").tobytes()
    image["PixelData"].VR = "OW"
    _apply(image, header.extra)
    image.save_as(target, enforce_file_format=True)
    return target


def write_localizer(hu: NDArray[np.int16], lattice: Lattice, folder: Path | str, header: Header) -> Path:
    """Write a frontal scout view: the mean over the volume from front to back, as one image of the series in `header`."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    image = FileDataset(None, {}, file_meta=_meta(CTImageStorage, ""), preamble=b"\0" * 128)
    image.update(_common(header, lattice))
    plane = np.rint(hu.mean(axis=1))[::-1]
    image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = uid_of(header.key, header.series_number, "localizer")
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.ImageType, image.InstanceNumber = ["ORIGINAL", "PRIMARY", "LOCALIZER"], 1
    image.Rows, image.Columns = plane.shape
    image.PixelSpacing = [_decimal(lattice.spacing_mm[0]), _decimal(lattice.spacing_mm[2])]
    axes = lattice.index_to_lps[:3, :3] / np.linalg.norm(lattice.index_to_lps[:3, :3], axis=0)
    image.ImageOrientationPatient = [_decimal(v) for v in (*axes[:, 2], *-axes[:, 0])]
    corner = lattice.to_lps(np.array([lattice.shape[0] - 1, lattice.shape[1] / 2, 0]))
    image.ImagePositionPatient = [_decimal(v) for v in corner]
    image.SliceThickness = _decimal(lattice.spacing_mm[1] * lattice.shape[1])
    image.RescaleIntercept, image.RescaleSlope, image.RescaleType = "-1024", "1", "HU"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.PixelData = np.clip(plane + 1024, 0, 4095).astype("<u2").tobytes()
    image["PixelData"].VR = "OW"
    path = target / "SCOUT00001.dcm"
    image.save_as(path, enforce_file_format=True)
    return path


def write_nifti(array: NDArray, lattice: Lattice, path: Path | str) -> Path:
    """Write an array on a lattice as NIfTI-1 (RAS, axes x, y, z)."""
    matrix = lattice.index_to_lps[:, [2, 1, 0, 3]].copy()
    matrix[:2] *= -1
    image = nibabel.Nifti1Image(np.ascontiguousarray(array.transpose(2, 1, 0)), matrix)
    image.header.set_xyzt_units("mm")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, target)
    return target


def _meta(sop_class: str, instance: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = uid_of("implementation")
    meta.ImplementationVersionName = "OPENBCT"
    return meta


def _dataset(**values: object) -> Dataset:
    made = Dataset()
    _apply(made, values)
    return made


def _apply(dataset: Dataset, values: dict[str, object]) -> None:
    for keyword, value in values.items():
        if pydicom.datadict.tag_for_keyword(keyword) is None:
            raise ValueError(f"{keyword!r} is not a DICOM keyword")
        setattr(dataset, keyword, value)


def _decimal(value: float) -> str:
    """Decimal string of at most 16 characters."""
    return str(pydicom.valuerep.format_number_as_ds(float(np.round(value, 9))))


def _orientation(lattice: Lattice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    axes = lattice.index_to_lps[:3, :3] / np.linalg.norm(lattice.index_to_lps[:3, :3], axis=0)
    return axes[:, 2], axes[:, 1]


def _kernel_name(header: Header) -> str:
    names = MAKERS[header.maker]["kernels"]
    assert isinstance(names, dict)
    return str(names.get(header.kernel, header.kernel))


def _common(header: Header, lattice: Lattice) -> Dataset:
    """Patient, study, series, equipment and acquisition attributes."""
    d = Dataset()
    d.SpecificCharacterSet = _CHARACTER_SET
    d.PatientName, d.PatientID, d.PatientBirthDate = header.patient_name, header.patient_id, ""
    d.PatientSex = header.sex or ""
    if header.age_years is not None:
        d.PatientAge = f"{header.age_years:03d}Y"
    if header.height_m is not None:
        d.PatientSize = _decimal(header.height_m)
    if header.weight_kg is not None:
        d.PatientWeight = _decimal(header.weight_kg)
    d.StudyInstanceUID, d.StudyID, d.AccessionNumber = uid_of(header.key, "study"), "1", "PHANTOM"
    d.StudyDate = d.SeriesDate = d.AcquisitionDate = d.ContentDate = header.date
    d.StudyTime = d.SeriesTime = d.AcquisitionTime = d.ContentTime = "090000"
    d.StudyDescription, d.ReferringPhysicianName = header.study_description, ""
    d.Modality = "CT"
    d.SeriesInstanceUID = uid_of(header.key, header.series_number, "series")
    d.SeriesNumber, d.SeriesDescription = header.series_number, header.description
    d.AcquisitionNumber = header.acquisition_number
    d.BodyPartExamined, d.PatientPosition = header.body_part, header.patient_position
    d.ProtocolName = header.study_description
    d.FrameOfReferenceUID, d.PositionReferenceIndicator = uid_of(header.key, "frame"), ""
    maker = MAKERS[header.maker]
    d.Manufacturer, d.ManufacturerModelName = maker["Manufacturer"], maker["ManufacturerModelName"]
    d.InstitutionName, d.StationName, d.DeviceSerialNumber = "Digital phantom", "PHANTOM1", "000001"
    d.SoftwareVersions = "openbct phantom"
    d.ImageType = list(header.image_type)
    d.ScanOptions = "HELICAL MODE"
    if header.kvp is not None:
        d.KVP = _decimal(header.kvp)
    d.ConvolutionKernel = _kernel_name(header)
    d.GantryDetectorTilt = _decimal(header.gantry_tilt_deg)
    d.TableHeight = _decimal(header.table_height_mm)
    d.DataCollectionDiameter = "500"
    d.ReconstructionDiameter = _decimal(lattice.spacing_mm[2] * lattice.shape[2])
    if header.tube_current_ma is not None and header.exposure_time_ms is not None:
        d.XRayTubeCurrent = round(header.tube_current_ma)
        d.ExposureTime = round(header.exposure_time_ms)
        d.Exposure = round(header.tube_current_ma * header.exposure_time_ms / 1000)
    if header.contrast_agent is not None:
        d.ContrastBolusAgent, d.ContrastBolusRoute = header.contrast_agent, "IV"
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.Rows, d.Columns = lattice.shape[1], lattice.shape[2]
    d.PixelSpacing = [_decimal(lattice.spacing_mm[1]), _decimal(lattice.spacing_mm[2])]
    d.WindowCenter, d.WindowWidth = "50", "400"
    return d
