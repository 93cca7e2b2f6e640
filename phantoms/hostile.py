"""Studies with one fault each: everything that goes wrong with DICOM on its way to an analysis, one thing at a time.

A fault changes the files of a sound study. `expect` says what a careful reader must make of it: ``"usable"`` (nothing is wrong
with the images), ``"stated"`` (usable, but the reader must say what is odd), ``"refused"`` (no number may come out).
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, RLELossless

from phantoms.dicom import uid_of

USABLE, STATED, REFUSED = "usable", "stated", "refused"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a study.

    Attributes
    ----------
    name : str
    expect : str
        ``"usable"``, ``"stated"`` or ``"refused"``.
    text : str
        What is wrong.
    apply : callable
        Changes the folder of a series, whose files are numbered from the head downwards.
    """

    name: str
    expect: str
    text: str
    apply: Callable[[Path], None]


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("CT*.dcm"))


def _each(change: Callable[[Dataset, int], None]) -> Callable[[Path], None]:
    """A fault that changes every slice, given its number from the head."""

    def apply(folder: Path) -> None:
        for number, path in enumerate(_files(folder)):
            image = pydicom.dcmread(path)
            change(image, number)
            image.save_as(path, enforce_file_format=True)

    return apply


def _setting(**values: object) -> Callable[[Path], None]:
    """A fault in attributes that are the same in every slice; None removes one."""

    def change(image: Dataset, _number: int) -> None:
        for keyword, value in values.items():
            if value is not None:
                setattr(image, keyword, value)
            elif keyword in image:
                delattr(image, keyword)

    return _each(change)


def _without(*places: float) -> Callable[[Path], None]:
    """Slices lost at fractions of the way down."""

    def apply(folder: Path) -> None:
        files = _files(folder)
        for place in places:
            files[round(place * (len(files) - 1))].unlink()

    return apply


def _every_third_gone(folder: Path) -> None:
    for path in _files(folder)[::3]:
        path.unlink()


def _copy(path: Path, name: str, change: Callable[[Dataset], None]) -> None:
    image = pydicom.dcmread(path)
    change(image)
    image.save_as(path.with_name(name), enforce_file_format=True)


def _second_phase(folder: Path) -> None:
    """A second acquisition at the same places in the same series, brighter by contrast agent."""
    for number, path in enumerate(_files(folder)):

        def later(image: Dataset, number: int = number) -> None:
            image.AcquisitionNumber, image.AcquisitionTime = 2, "090105"
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = uid_of(
                image.SOPInstanceUID, "phase", number
            )
            image.InstanceNumber = int(image.InstanceNumber) + 1000
            stored = image.pixel_array.astype(np.int32)
            image.PixelData = np.where(stored > 1050, np.minimum(stored + 60, 4095), stored).astype("<u2").tobytes()

        _copy(path, f"CT2{number:05d}.dcm", later)


def _same_instance_twice(folder: Path) -> None:
    """One SOP Instance UID with two different pictures."""
    path = _files(folder)[5]

    def other(image: Dataset) -> None:
        image.PixelData = image.pixel_array[::-1].astype("<u2").tobytes()

    _copy(path, "CTCOPY1.dcm", other)


def _identical_copies(folder: Path) -> None:
    for path in _files(folder)[:10]:
        path.with_name("CTCOPY" + path.name).write_bytes(path.read_bytes())


def _another_patient(folder: Path) -> None:
    """Half of the slices belong to somebody else, under the same study."""

    def change(image: Dataset, number: int) -> None:
        if number % 2:
            image.PatientID, image.PatientName = "PHANTOM-OTHER", "Phantom^Other"

    _each(change)(folder)


def _jitter(image: Dataset, number: int) -> None:
    x, y, z = (float(v) for v in image.ImagePositionPatient)
    image.ImagePositionPatient = [x, y, round(z + (0.0, 0.9, -0.7, 0.4)[number % 4], 4)]


def _sideways(image: Dataset, number: int) -> None:
    x, y, z = (float(v) for v in image.ImagePositionPatient)
    image.ImagePositionPatient = [x + 6.0 * (number % 2), y, z]


def _numbers_mixed(image: Dataset, number: int) -> None:
    image.InstanceNumber = (number * 37) % 1009 + 1


def _raw_units(image: Dataset, _number: int) -> None:
    image.RescaleIntercept, image.RescaleSlope = "0", "1"


def _padded(image: Dataset, _number: int) -> None:
    """Outside the circle of reconstruction as some scanners write it: -2000 in signed pixels, not declared."""
    hu = image.pixel_array.astype(np.int32) - 1024
    rows, columns = hu.shape
    y, x = np.ogrid[:rows, :columns]
    hu[np.hypot((y - rows / 2) / rows, (x - columns / 2) / columns) > 0.5] = -2000
    image.PixelRepresentation, image.BitsStored, image.HighBit = 1, 16, 15
    image.RescaleIntercept = "0"
    image.PixelData = hu.astype("<i2").tobytes()


def _declared_unsigned(image: Dataset, number: int) -> None:
    _padded(image, number)
    image.PixelRepresentation = 0


def _turned(rows: bool, columns: bool) -> Callable[[Dataset, int], None]:
    """Pixels reversed under an unchanged header: an image that is its own mirror image, or upside down."""

    def change(image: Dataset, _number: int) -> None:
        turned = image.pixel_array[:: -1 if rows else 1, :: -1 if columns else 1]
        image.PixelData = np.ascontiguousarray(turned).astype("<u2").tobytes()

    return change


def _stretched(image: Dataset, _number: int) -> None:
    """Positions along the patient a third too far apart, thickness to match."""
    x, y, z = (float(v) for v in image.ImagePositionPatient)
    image.ImagePositionPatient = [x, y, round(1.33 * z, 4)]
    image.SliceThickness = str(round(1.33 * float(image.SliceThickness), 4))


def _upside_down(image: Dataset, _number: int) -> None:
    x, y, z = (float(v) for v in image.ImagePositionPatient)
    image.ImagePositionPatient = [x, y, -z]


def _shifted_hu(image: Dataset, _number: int) -> None:
    image.RescaleIntercept = str(float(image.RescaleIntercept) + 150.0)


def _steeper(image: Dataset, _number: int) -> None:
    """A slope of 1.25 as if pixels had been scaled; air then reads as it should, water does not."""
    image.RescaleSlope = "1.25"
    image.RescaleIntercept = "-1024"


def _one_of_another_size(folder: Path) -> None:
    """One slice in half the matrix, as from another reconstruction."""
    path = _files(folder)[len(_files(folder)) // 2]
    image = pydicom.dcmread(path)
    image.PixelData = np.ascontiguousarray(image.pixel_array[::2, ::2]).astype("<u2").tobytes()
    image.Rows, image.Columns = (image.Rows + 1) // 2, (image.Columns + 1) // 2
    image.PixelSpacing = [float(v) * 2 for v in image.PixelSpacing]
    image.save_as(path, enforce_file_format=True)


def _two_voltages(image: Dataset, number: int) -> None:
    image.KVP = "80" if number % 2 else "120"


def _compressed(syntax: str) -> Callable[[Path], None]:
    def change(image: Dataset, _number: int) -> None:
        image.compress(syntax, image.pixel_array, generate_instance_uid=False)

    return _each(change)


def _damaged_frame(folder: Path) -> None:
    """One compressed slice whose data ends in the middle."""
    _compressed(str(JPEG2000Lossless))(folder)
    path = _files(folder)[len(_files(folder)) // 2]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def _cut_file(folder: Path) -> None:
    path = _files(folder)[3]
    path.write_bytes(path.read_bytes()[:900])


def _foreign_files(folder: Path) -> None:
    """What lies about in exports: texts, pictures, an empty file, a directory record without its files."""
    (folder / "README.txt").write_text("exported on a Tuesday", encoding="utf-8")
    (folder / "IMG_0001.dcm").write_bytes(b"")
    (folder / "viewer.exe").write_bytes(b"MZ" + bytes(500))
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(40))


def _zipped(folder: Path) -> None:
    with zipfile.ZipFile(folder / "export.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in _files(folder):
            archive.write(path, path.name)
            path.unlink()


def _single_slice(folder: Path) -> None:
    for path in _files(folder)[1:]:
        path.unlink()


def _bare(folder: Path) -> None:
    """Files without preamble and meta header, as old archives give them."""
    for path in _files(folder):
        image = pydicom.dcmread(path)
        with path.open("wb") as stream:
            pydicom.dcmwrite(stream, image, enforce_file_format=False, implicit_vr=False, little_endian=True)
        data = path.read_bytes()
        start = data.find(b"\x08\x00\x05\x00")
        path.write_bytes(data[start:])


def _prone(image: Dataset, _number: int) -> None:
    """The same patient lying on the belly: rows and columns turned by half a turn, stated in the header."""
    rows, columns = image.Rows, image.Columns
    spacing = [float(v) for v in image.PixelSpacing]
    x, y, z = (float(v) for v in image.ImagePositionPatient)
    image.PatientPosition = "HFP"
    image.ImageOrientationPatient = ["-1", "0", "0", "0", "-1", "0"]
    image.ImagePositionPatient = [x + (columns - 1) * spacing[1], y + (rows - 1) * spacing[0], z]
    image.PixelData = np.ascontiguousarray(image.pixel_array[::-1, ::-1]).astype("<u2").tobytes()


FAULTS: tuple[Fault, ...] = (
    Fault("sound", USABLE, "nothing", lambda _folder: None),
    Fault("numbers_mixed", USABLE, "instance numbers in no order; positions are right", _each(_numbers_mixed)),
    Fault("rle", USABLE, "RLE compressed", _compressed(str(RLELossless))),
    Fault("jpeg2000", USABLE, "JPEG 2000 compressed", _compressed(str(JPEG2000Lossless))),
    Fault("zipped", USABLE, "all files in a zip", _zipped),
    Fault("foreign_files", USABLE, "texts, an empty file, a program and a broken DICOMDIR among the slices", _foreign_files),
    Fault("prone", USABLE, "patient prone, pixels turned, headers right", _each(_prone)),
    Fault("identical_copies", USABLE, "ten slices twice, byte by byte", _identical_copies),
    Fault("without_meta_header", USABLE, "no preamble and no meta header", _bare),
    Fault("undeclared_padding", USABLE, "-2000 outside the circle of reconstruction, not declared", _each(_padded)),
    Fault("one_slice_lost", STATED, "one slice lost in the middle", _without(0.5)),
    Fault("one_file_cut", STATED, "one file ends after 900 bytes", _cut_file),
    Fault("damaged_frame", STATED, "one compressed slice is damaged", _damaged_frame),
    Fault("no_tube_voltage", STATED, "tube voltage not stated", _setting(KVP=None)),
    Fault("sharp_kernel", STATED, "reconstructed with an edge-enhancing kernel", _setting(ConvolutionKernel="BONEPLUS")),
    Fault("two_phases", STATED, "a second contrast phase in the same series", _second_phase),
    Fault("one_slice_of_another_size", STATED, "one slice in half the matrix", _one_of_another_size),
    Fault("two_voltages", STATED, "tube voltages of 80 and 120 kVp in one series", _each(_two_voltages)),
    Fault("every_third_slice_lost", REFUSED, "every third slice lost", _every_third_gone),
    Fault("uneven_positions", REFUSED, "slice positions jump by up to 0.9 mm", _each(_jitter)),
    Fault("slices_shifted", REFUSED, "every other slice lies 6 mm further left", _each(_sideways)),
    Fault("one_uid_two_pictures", REFUSED, "one instance UID with two different pictures", _same_instance_twice),
    Fault("two_patients", REFUSED, "every other slice belongs to another patient", _another_patient),
    Fault("no_rescale", REFUSED, "no rescale intercept and slope", _setting(RescaleIntercept=None, RescaleSlope=None)),
    Fault("raw_units", REFUSED, "rescale intercept 0 although the pixels start at -1024", _each(_raw_units)),
    Fault("declared_unsigned", REFUSED, "signed pixels declared unsigned", _each(_declared_unsigned)),
    Fault("no_pixel_spacing", REFUSED, "pixel spacing not stated", _setting(PixelSpacing=None)),
    Fault("no_positions", REFUSED, "positions not stated", _setting(ImagePositionPatient=None)),
    Fault("no_orientation", REFUSED, "orientation not stated", _setting(ImageOrientationPatient=None)),
    Fault("mirrored", REFUSED, "columns reversed, header unchanged", _each(_turned(False, True))),
    Fault("rows_reversed", REFUSED, "rows reversed, header unchanged", _each(_turned(True, False))),
    Fault("upside_down", REFUSED, "positions with the wrong sign along the patient", _each(_upside_down)),
    Fault("stretched", REFUSED, "positions along the patient scaled by 1.33", _each(_stretched)),
    Fault("hu_shifted", REFUSED, "rescale intercept 150 HU too high", _each(_shifted_hu)),
    Fault("hu_scaled", REFUSED, "rescale slope 1.25", _each(_steeper)),
    Fault("mono_energetic", REFUSED, "virtual monoenergetic images", _setting(
        ImageType=["DERIVED", "PRIMARY", "AXIAL", "MONO"], SeriesDescription="MONO 70 keV")),
    Fault("localizers_only", REFUSED, "called localizers", _setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])),
    Fault("not_ct", REFUSED, "modality MR", _setting(
        Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")),
    Fault("single_slice", REFUSED, "one slice only", _single_slice),
)  # fmt: skip
"""Every fault, from harmless to fatal."""
