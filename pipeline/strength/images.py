"""Images and masks that the user already has: NIfTI or any format of SimpleITK, DICOM, and DICOM segmentations.

Everything comes back in canonical order (see `Volume`), so that an image and a mask that were stored in another order of axes
still lie on the same grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from fea.bone.profiles import VirtualTest
from pipeline.errors import Finding, InputRefused, Severity
from pipeline.ingest import Study, find_studies, load_volume, select
from pipeline.volume import Acquisition, Grid, Volume, canonical_order

SAME_PLACE_MM = 0.1
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_DICOM_MARK = slice(128, 132)


@dataclass(frozen=True, eq=False)
class Image:
    """An image in canonical order.

    Attributes
    ----------
    values : ndarray of shape (Z, Y, X)
    grid : Grid
    acquisition : Acquisition
        What DICOM headers said; empty for other formats.
    valid : bool ndarray of shape (Z, Y, X) or None
        False where a scanner wrote padding.
    findings : tuple of Finding
    """

    values: NDArray
    grid: Grid
    acquisition: Acquisition = field(default_factory=Acquisition)
    valid: NDArray[np.bool_] | None = None
    findings: tuple[Finding, ...] = ()


def read_image(path: Path, test: VirtualTest) -> Image:
    """An image, or the CT series that suits the test in a folder, zip or file of DICOM.

    Raises
    ------
    InputRefused
        ``image_unreadable``, ``not_one_study``, or what ingest refuses in a DICOM series.
    """
    if path.is_dir() or path.suffix.lower() == ".zip" or _is_dicom(path):
        return _from_dicom(path, test)
    values, matrix = _from_file(path)
    values, canonical, _ = canonical_order(values, matrix)
    return Image(values, _grid(values.shape, canonical, path.name))


def read_mask(path: Path, label: int | None, image: Image) -> NDArray[np.bool_]:
    """One structure of a mask on the grid of an image.

    Parameters
    ----------
    path : Path
        A label map in any format of images, or a DICOM segmentation.
    label : int, optional
        Number in the label map, or number of the segment; may be absent if the mask holds one structure.
    image : Image

    Raises
    ------
    InputRefused
        ``image_unreadable``, ``grids_differ``, ``not_a_label_map``, ``label_absent`` or ``label_needed``.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and _is_dicom(file))
        if len(files) != 1:
            text = f"holds {len(files)} DICOM files where one segmentation is expected."
            raise InputRefused("image_unreadable", text, subject=path.name, remedy="Name the file itself.")
        path = files[0]
    if _is_dicom(path):
        return _segment(path, label, image.grid)
    values, matrix = _from_file(path)
    if not bool(np.isfinite(values).all()) or not np.array_equal(values, np.rint(values)):
        raise InputRefused(
            "not_a_label_map",
            "it holds values that are not whole numbers.",
            subject=path.name,
            remedy="Pass a label map, not an image or probabilities.",
        )
    values, canonical, _ = canonical_order(values, matrix)
    _require_same_grid(image.grid, _grid(values.shape, canonical, path.name), path.name)
    return _chosen(values, label, path.name)


def _require_same_grid(image: Grid, mask: Grid, name: str) -> None:
    if image.shape != mask.shape or _apart_mm(image, mask) > SAME_PLACE_MM:
        raise InputRefused(
            "grids_differ",
            f"it is not on the grid of the image ({_described(mask)}; the image: {_described(image)}).",
            subject=name,
            remedy="Resample the mask to the image, with the nearest neighbour.",
        )


def _apart_mm(one: Grid, other: Grid) -> float:
    """Greatest distance between corresponding corners of two grids of the same shape."""
    ends = [(0.0, n - 1.0) for n in one.shape]
    corners = np.array([[k, j, i] for k in ends[0] for j in ends[1] for i in ends[2]])
    return float(np.linalg.norm(one.to_lps(corners) - other.to_lps(corners), axis=1).max())


def _described(grid: Grid) -> str:
    size = " x ".join(str(n) for n in grid.shape[::-1])
    spacing = " x ".join(f"{edge:.3g}" for edge in grid.spacing_mm[::-1])
    first = ", ".join(f"{value:.1f}" for value in grid.index_to_lps[:3, 3])
    return f"{size} voxels of {spacing} mm from LPS ({first})"


def _chosen(labels: NDArray, label: int | None, name: str) -> NDArray[np.bool_]:
    present = [int(value) for value in np.unique(labels) if value != 0]
    _require_label(label, present, [str(number) for number in present], name)
    return np.asarray(labels == label if label is not None else labels != 0)


def _require_label(label: int | None, present: Sequence[int], listed: Sequence[str], name: str) -> None:
    words = ", ".join(listed[:20]) or "none"
    if label is not None and label not in present:
        raise InputRefused("label_absent", f"it has no label {label}; it has: {words}.", subject=name)
    if label is None and len(present) > 1:
        raise InputRefused(
            "label_needed", f"it holds several labels: {words}.", subject=name, remedy="Choose one by --label."
        )


def _grid(shape: tuple[int, ...], index_to_lps: NDArray[np.float64], name: str) -> Grid:
    try:
        return Grid((shape[0], shape[1], shape[2]), index_to_lps)
    except ValueError as error:
        raise InputRefused("image_unreadable", f"its geometry is unusable: {error}.", subject=name) from error


def _from_file(path: Path) -> tuple[NDArray, NDArray[np.float64]]:
    """Array (Z, Y, X) and its index-to-LPS matrix, in the order of the file."""
    name = path.name
    if not path.is_file():
        raise InputRefused("image_unreadable", "there is no such file.", subject=name)
    try:
        if name.lower().endswith((".nii", ".nii.gz")):
            image = nibabel.load(path)
            data = np.asarray(image.dataobj)
            while data.ndim > 3 and data.shape[-1] == 1:
                data = data[..., 0]
            affine = _RAS_TO_LPS @ np.asarray(image.affine, float)
        else:
            picture = sitk.ReadImage(str(path))
            data = sitk.GetArrayFromImage(picture).T
            affine = np.eye(4)
            if picture.GetDimension() == 3:
                affine[:3, :3] = np.array(picture.GetDirection()).reshape(3, 3) * np.array(picture.GetSpacing())
                affine[:3, 3] = picture.GetOrigin()
    except Exception as error:  # both libraries raise what they like for a damaged file
        raise InputRefused("image_unreadable", "it is not a readable image.", subject=name) from error
    if data.ndim != 3 or data.dtype.kind not in "biuf":
        raise InputRefused("image_unreadable", "it does not hold one 3-D image.", subject=name)
    matrix = affine.copy()
    matrix[:3, :3] = affine[:3, :3][:, ::-1]
    _grid(data.shape[::-1], matrix, name)
    return np.ascontiguousarray(data.transpose(2, 1, 0)), matrix


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(132)[_DICOM_MARK] == b"DICM"
    except OSError:
        return False


def _from_dicom(path: Path, test: VirtualTest) -> Image:
    """The series of the one study that ingest would choose for the spine or the hips."""
    study = _one_study(path)
    selection = select(study)
    choice = selection.spine if test is VirtualTest.SPINE_COMPRESSION else selection.hips
    volume: Volume = load_volume(choice.stack)
    text = f"Of the DICOM input one series was taken: {choice.reason}."
    findings = (Finding("series_chosen", Severity.INFO, text), *volume.findings)
    return Image(volume.hu, volume.grid, volume.acquisition, volume.valid, findings)


def _one_study(path: Path) -> Study:
    studies = find_studies([path]).studies
    if len(studies) != 1:
        raise InputRefused(
            "not_one_study",
            f"it holds {len(studies) or 'no'} CT studies, where one is needed.",
            subject=path.name,
            remedy="Pass the folder of one study or series; `openbct inspect` lists what is there.",
        )
    return studies[0]


def _segment(path: Path, label: int | None, grid: Grid) -> NDArray[np.bool_]:
    """One segment of a DICOM segmentation, laid on the grid of the image."""
    import highdicom
    import pydicom

    name = path.name
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        if str(header.get("SOPClassUID", "")) not in _SEG_CLASSES:
            raise InputRefused("image_unreadable", "it is a DICOM object, but no segmentation.", subject=name)
        seg = highdicom.seg.segread(path)
        numbers = [int(number) for number in seg.segment_numbers]
        words = [f"{number} ({seg.get_segment_description(number).segment_label})" for number in numbers]
    except InputRefused:
        raise
    except Exception as error:  # highdicom raises many kinds for damaged objects
        raise InputRefused("image_unreadable", "it is not a readable segmentation.", subject=name) from error
    _require_label(label, numbers, words, name)
    try:
        # Empty frames are left out of such an object: the volume spans only what is labelled.
        part = seg.get_volume(segment_numbers=[label or numbers[0]], combine_segments=False)
        array, matrix = np.asarray(part.array), np.asarray(part.affine, float)
    except Exception as error:
        raise InputRefused("image_unreadable", "its segment has no place in space.", subject=name) from error
    array = array[..., 0] if array.ndim == 4 else array
    mask, canonical, _ = canonical_order(array > 0.5, matrix)
    own = _grid(mask.shape, canonical, name)
    start = np.rint(grid.to_index(own.to_lps(np.zeros(3)))).astype(int)
    end = start + np.array(mask.shape)
    there = Grid(own.shape, _moved(grid, start))
    if _apart_mm(own, there) > SAME_PLACE_MM or (start < 0).any() or (end > np.array(grid.shape)).any():
        _require_same_grid(grid, own, name)
    whole = np.zeros(grid.shape, bool)
    whole[tuple(slice(int(a), int(b)) for a, b in zip(start, end, strict=True))] = mask
    return whole


def _moved(grid: Grid, start: NDArray) -> NDArray[np.float64]:
    """Index-to-LPS matrix of the part of a grid that begins at an index."""
    matrix = grid.index_to_lps.copy()
    matrix[:3, 3] = grid.to_lps(start.astype(float))
    return matrix
