"""Makes small DICOM series, sound or hostile, of a body whose HU are known at every point of the patient.

Everything is written with pydicom from the standard's definitions, without any code of the pipeline, so that the reader is
checked against something else than itself.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

PATIENT_NAME = "Mustermann^Erika"
PATIENT_ID = "PID-4711"
BIRTH_DATE = "19491231"
STUDY_UID = generate_uid(entropy_srcs=["study of the factory"])
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def body_hu(points_lps_mm: np.ndarray) -> np.ndarray:
    """HU of the test body at LPS points (..., 3): an ellipse of fat and muscle with a spine behind and a marker on the left.

    Values change slowly inside the muscle, along all three axes, so that a shift or a mirror image shows.
    """
    x, y, z = np.moveaxis(np.asarray(points_lps_mm, float), -1, 0)
    hu = np.full(x.shape, -1000.0)
    radius = np.hypot(x / 52.0, y / 40.0)
    hu[radius < 1.0] = -100.0
    muscle = radius < 0.9
    hu[muscle] = (40.0 + 0.3 * x + 0.2 * y + 0.1 * z)[muscle]
    hu[np.hypot(x, y - 18.0) < 9.0] = 250.0
    hu[np.hypot(x - 25.0, y) < 6.0] = 600.0  # on the patient's left
    return hu


def plane_points(
    position: Sequence[float], orientation: Sequence[float], spacing: Sequence[float], rows: int, columns: int
) -> np.ndarray:
    """LPS coordinates (rows, columns, 3) of the pixel centres of a plane, by the equation of PS3.3 C.7.6.2.1.1."""
    along_row, along_column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    r, c = np.mgrid[:rows, :columns]
    return np.array(position, float) + c[..., None] * spacing[1] * along_row + r[..., None] * spacing[0] * along_column


def slice_dataset(
    position: Sequence[float],
    *,
    orientation: Sequence[float] = AXIAL,
    spacing: Sequence[float] = (2.0, 2.0),
    shape: tuple[int, int] = (48, 64),
    slope: float = 1.0,
    intercept: float = -1024.0,
    signed: bool = True,
    hu: np.ndarray | None = None,
    instance: int = 1,
    **attributes: Any,
) -> Dataset:
    """One CT image of the body, with any attribute replaced (or removed, with the value None)."""
    if hu is None:
        hu = body_hu(plane_points(position, orientation, spacing, *shape))
    stored = np.rint((hu - intercept) / slope)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = generate_uid()
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = PATIENT_NAME, PATIENT_ID, BIRTH_DATE, "F"
    ds.PatientAge, ds.PatientSize, ds.PatientWeight, ds.PatientPosition = "068Y", "1.62", "64", "HFS"
    ds.StudyInstanceUID, ds.StudyDate, ds.StudyID = STUDY_UID, "20180702", "1"
    ds.StudyTime, ds.AccessionNumber, ds.ReferringPhysicianName = "101500", "", ""
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=["series of the factory"])
    ds.SeriesNumber, ds.SeriesDescription, ds.Modality = 4, "THIN", "CT"
    ds.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame of the factory"])
    ds.PositionReferenceIndicator = ""
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.Manufacturer, ds.ManufacturerModelName, ds.DeviceSerialNumber = "TEST", "Scanner", "77"
    ds.KVP, ds.ConvolutionKernel, ds.SliceThickness, ds.TableHeight = "120", "STANDARD", "2.5", "150.0"
    ds.AcquisitionNumber, ds.InstanceNumber = 1, instance
    ds.ContentDate, ds.ContentTime = "20180702", "101500"
    ds.ImagePositionPatient = [round(float(v), 6) for v in position]
    ds.ImageOrientationPatient = [round(float(v), 9) for v in orientation]
    ds.PixelSpacing = list(spacing)
    ds.Rows, ds.Columns = stored.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, int(signed)
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = f"{slope:g}", f"{intercept:g}", "HU"
    ds.PixelData = stored.astype("<i2" if signed else "<u2").tobytes()
    for keyword, value in attributes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def axial_series(count: int = 40, *, step_mm: float = 2.5, start_mm: float = -50.0, **attributes: Any) -> list[Dataset]:
    """An axial series from the feet to the head, numbered from the head as scanners do."""
    return [
        slice_dataset((-63.0, -47.0, start_mm + step_mm * k), instance=count - k, **attributes) for k in range(count)
    ]


def plane_series(
    orientation: Sequence[float],
    *,
    count: int = 40,
    step_mm: float = 2.5,
    displacement: Sequence[float] | None = None,
    centre: Sequence[float] = (0.0, 0.0, 0.0),
    shape: tuple[int, int] = (64, 64),
    spacing: Sequence[float] = (2.0, 2.0),
    **attributes: Any,
) -> list[Dataset]:
    """Slices in any orientation around a centre; `displacement` (mm per slice) defaults to the normal of the planes."""
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    step = np.array(displacement, float) if displacement is not None else np.cross(row, column) * step_mm
    corner = (
        np.array(centre, float) - row * spacing[1] * (shape[1] - 1) / 2 - column * spacing[0] * (shape[0] - 1) / 2
    ) - step * (count - 1) / 2
    return [
        slice_dataset(
            corner + step * k, orientation=orientation, shape=shape, spacing=spacing, instance=k + 1, **attributes
        )
        for k in range(count)
    ]


def write(datasets: Sequence[Dataset], folder: Path, *, pattern: str = "IM{:04d}") -> list[Path]:
    """Write data sets as DICOM files, in an order that has nothing to do with their positions."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in np.random.default_rng(5).permutation(len(datasets)):
        path = folder / pattern.format(number)
        datasets[number].save_as(path, enforce_file_format=True)
        paths.append(path)
    return sorted(paths)


def zipped(folder: Path, target: Path) -> Path:
    """A zip of all files in a folder."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder).as_posix())
    return target


def with_password_flag(path: Path) -> Path:
    """Mark every member of a zip as encrypted, in the local and in the central headers."""
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(signature)
        while at >= 0:
            data[at + offset] |= 0x1
            at = data.find(signature, at + 4)
    path.write_bytes(bytes(data))
    return path
