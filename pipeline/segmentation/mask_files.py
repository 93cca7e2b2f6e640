"""Reads the mask files of other programs into labelled pieces with a place in the patient."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.errors import InputRefused
from pipeline.ingest.nifti import affine_to_lps
from pipeline.segmentation.mask_names import (
    CONVENTIONS,
    Part,
    convention_of_file_name,
    numbers_by_name,
    part_of_code,
    part_of_name,
    parts_of_numbers,
)
from pipeline.segmentation.sampling import cropped_grid
from pipeline.volume import Grid, canonical_order

_NIFTI_ENDINGS = (".nii", ".nii.gz")
_SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")


@dataclass(frozen=True)
class Piece:
    """One structure cut out of a mask file.

    Attributes
    ----------
    part : Part
    mask : bool ndarray of shape (Z, Y, X)
        In canonical order, the box around the structure.
    grid : Grid
        Of `mask`.
    whole_grid : Grid
        Of the file it came from.
    file : str
        Base name of that file.
    """

    part: Part
    mask: NDArray[np.bool_]
    grid: Grid
    whole_grid: Grid
    file: str


@dataclass(frozen=True)
class MaskFiles:
    """All pieces of one input, who made them as far as the files say, and the frame of reference of a DICOM SEG."""

    pieces: tuple[Piece, ...]
    origin: str
    frame_of_reference_uid: str | None = None
    known: tuple[Part, ...] = ()
    """What the names promise, whether or not a voxel is there."""


def read_mask_files(path: Path, *, convention: str | None = None) -> MaskFiles:
    """Read a mask file or a folder of them.

    Parameters
    ----------
    path : Path
        A NIfTI label map with names beside it, a DICOM SEG, or a folder that holds one NIfTI per structure, one label map,
        an instance and a subregion mask, or DICOM SEG objects.
    convention : str, optional
        One of `mask_names.CONVENTIONS`, for label maps without names.

    Raises
    ------
    InputRefused
        ``masks_missing``, ``masks_unreadable``, ``not_a_label_map``, ``unnamed_labels``, ``unknown_convention``,
        ``masks_empty``, ``no_known_structure``.
    """
    if convention is not None and convention not in CONVENTIONS:
        raise InputRefused(
            "unknown_convention",
            f"'{convention}' is no known numbering; known are {', '.join(CONVENTIONS)}.",
            subject=path.name,
        )
    if path.is_dir():
        found = _read_folder(path, convention)
    elif path.is_file():
        found = _read_file(path, convention)
    else:
        raise InputRefused("masks_missing", "there is no such file or folder.", subject=path.name)
    if not found.pieces and found.known:
        raise InputRefused(
            "masks_empty",
            f"names {len(found.known)} structures that are understood, but holds no voxel of them.",
            subject=path.name,
            remedy="Check that the program that made the masks found the bones.",
        )
    if not found.pieces:
        raise InputRefused(
            "no_known_structure",
            "no label is a thoracic or lumbar vertebra, the sacrum or a femur.",
            subject=path.name,
            remedy="Names such as vertebrae_L1, vertebra_T12, sacrum and femur_left are understood.",
        )
    return found


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(_NIFTI_ENDINGS)


def _stem(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.I)


def _read_file(path: Path, convention: str | None) -> MaskFiles:
    if _is_nifti(path):
        part = part_of_name(_stem(path))
        names = None if convention is not None else _names_for(path)
        if part is not None and names is None and convention is None:
            return MaskFiles(tuple(_pieces(path, None, part)), "one mask per structure", known=(part,))
        return _read_label_map(path, convention)
    return _read_dicom_seg([path], path.name)


def _read_folder(folder: Path, convention: str | None) -> MaskFiles:
    images = sorted(p for p in folder.iterdir() if p.is_file() and _is_nifti(p) and not p.name.startswith("."))
    single = [(p, part) for p in images if (part := part_of_name(_stem(p))) is not None]
    if single:
        pieces = [piece for path, part in single for piece in _pieces(path, None, part)]
        return MaskFiles(tuple(pieces), "one mask per structure", known=tuple(part for _, part in single))
    maps = [p for p in images if convention_of_file_name(p.name) is not None]
    if not maps:
        own = [p for p in images if p.name in ("segmentation.nii.gz", "segmentation.nii")]
        maps = own or [p for p in images if _names_for(p) is not None] or (images if len(images) == 1 else [])
    if maps:
        read = [_read_label_map(path, convention) for path in maps]
        return MaskFiles(
            tuple(piece for r in read for piece in r.pieces),
            "; ".join(dict.fromkeys(r.origin for r in read)),
            known=tuple(part for r in read for part in r.known),
        )
    if images:
        raise InputRefused(
            "unnamed_labels",
            f"holds {len(images)} NIfTI files, none of which is named after a structure or has names beside it.",
            subject=folder.name,
            remedy="Name the label map itself, or put a JSON file (number to name) beside it.",
        )
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    return _read_dicom_seg(files, folder.name)


# ------------------------------------------------------------------------------------------------------- NIfTI


def _load(path: Path) -> tuple[NDArray, Grid]:
    """Integer labels in canonical order and their grid."""
    try:
        image = nibabel.load(path)
        matrix, doubt = affine_to_lps(image)
        scaled = (image.dataobj.slope, image.dataobj.inter) != (1.0, 0.0)
        # Unscaled when possible: the scaled array of a whole trunk would be float64 and take a gigabyte.
        data = np.asarray(image.dataobj) if scaled else np.asarray(image.dataobj.get_unscaled())
    except InputRefused:
        raise
    except Exception as error:  # nibabel raises many kinds for damaged files
        raise InputRefused(
            "masks_unreadable",
            f"cannot be read ({type(error).__name__}).",
            subject=path.name,
            remedy="Export it again.",
        ) from error
    if matrix is None:
        assert doubt is not None
        raise InputRefused(doubt.code, doubt.text, subject=path.name)
    if data.ndim == 4 and data.shape[3] == 1:
        data = data[..., 0]
    if data.ndim != 3 or data.dtype.kind not in "biuf":
        raise InputRefused("masks_unreadable", f"has shape {data.shape} and type {data.dtype}.", subject=path.name)
    if data.dtype.kind == "f" and not all(np.array_equal(plane, np.rint(plane)) for plane in np.moveaxis(data, 2, 0)):
        raise InputRefused(
            "not_a_label_map",
            "holds values that are not whole numbers.",
            subject=path.name,
            remedy="Pass the label map, not an image or probabilities.",
        )
    if data.size and (data.min() < 0 or data.max() > 65535):
        raise InputRefused(
            "not_a_label_map", f"holds values from {data.min():g} to {data.max():g}.", subject=path.name,
            remedy="Pass the label map, not the image.",
        )  # fmt: skip
    array, canonical, _ = canonical_order(data.astype(np.uint16 if data.dtype != np.uint8 else np.uint8).T, matrix)
    return array, Grid((array.shape[0], array.shape[1], array.shape[2]), canonical)


def _pieces(
    path: Path, meaning: Iterable[tuple[tuple[int, ...], Part]] | None, whole_file: Part | None = None
) -> Iterable[Piece]:
    """The structures of a label map; without a `meaning` every voxel above 0 is `whole_file`."""
    array, grid = _load(path)
    if whole_file is not None:
        array, meaning = (array > 0).astype(np.uint8), [((1,), whole_file)]
    assert meaning is not None
    boxes = ndimage.find_objects(array)
    for numbers, part in meaning:
        present = [box for n in numbers if 0 < n <= len(boxes) and (box := boxes[n - 1]) is not None]
        if present:
            box = tuple(
                slice(min(b[axis].start for b in present), max(b[axis].stop for b in present)) for axis in range(3)
            )
            where = (box[0], box[1], box[2])
            yield Piece(part, np.isin(array[where], numbers), cropped_grid(grid, where), grid, path.name)


def _json(path: Path) -> dict[str, tuple[int, ...]] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return numbers_by_name(content) if isinstance(content, Mapping) else None


def _names_for(path: Path) -> dict[str, tuple[int, ...]] | None:
    """Names of the labels of a file with their numbers: beside it, in the data set description, or in its header."""
    beside = path.with_name(f"{_stem(path)}.json")
    for candidate in (beside, path.parent / "dataset.json", path.parent.parent / "dataset.json"):
        if candidate.is_file() and (names := _json(candidate)):
            return names
    try:
        extensions = nibabel.load(path).header.extensions
    except Exception:  # the file is reported when its voxels are read
        return None
    for extension in extensions:  # TotalSegmentator keeps its class names in the label table of a Connectome extension
        content = extension.get_content()
        text = content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content)
        found = re.findall(r"<Label\b[^>]*\bKey=[\"'](\d+)[\"'][^>]*>(?:<!\[CDATA\[)?([^<\]]+)", text)
        if found:
            return numbers_by_name({number: name.strip() for number, name in found})
    return None


def _read_label_map(path: Path, convention: str | None) -> MaskFiles:
    stated = convention or convention_of_file_name(path.name)
    if convention is None and (names := _names_for(path)) is not None:
        meaning = [(numbers, part) for name, numbers in names.items() if (part := part_of_name(name)) is not None]
        origin = "openbct label map" if any(name.startswith("vertebra_") for name in names) else "named label map"
    elif stated is not None:
        meaning = [((number,), part) for number, part in parts_of_numbers(stated).items()]
        origin = f"label map, {stated} numbering"
    else:
        raise InputRefused(
            "unnamed_labels",
            "holds numbers without names, and numbers moved between versions of the programs that write them.",
            subject=path.name,
            remedy="Put a JSON file with the same name beside it (number to name), or state the numbering: "
            f"{', '.join(CONVENTIONS)}.",
        )
    return MaskFiles(tuple(_pieces(path, meaning)), origin, known=tuple(part for _, part in meaning))


# --------------------------------------------------------------------------------------------------- DICOM SEG


def _read_dicom_seg(paths: list[Path], subject: str) -> MaskFiles:
    import highdicom
    import pydicom

    pieces: list[Piece] = []
    frames: set[str] = set()
    for path in paths:
        try:
            header = pydicom.dcmread(
                path, stop_before_pixels=True, specific_tags=["SOPClassUID", "FrameOfReferenceUID"]
            )
        except (pydicom.errors.InvalidDicomError, OSError, ValueError):
            continue
        if str(header.get("SOPClassUID", "")) not in _SEG_CLASSES:
            continue
        try:
            pieces.extend(_segments(highdicom.seg.segread(path), path.name))
        except InputRefused:
            raise
        except Exception as error:  # highdicom raises many kinds for objects it cannot place
            raise InputRefused(
                "masks_unreadable", f"is a DICOM SEG that cannot be read ({type(error).__name__}).", subject=path.name
            ) from error
        frames.add(str(header.get("FrameOfReferenceUID", "")))
    if not pieces and not frames:
        raise InputRefused(
            "masks_unreadable",
            "holds neither NIfTI masks nor a DICOM segmentation.",
            subject=subject,
        )
    return MaskFiles(tuple(pieces), "DICOM SEG", next(iter(frames)) if len(frames) == 1 else None)


def _segments(seg, name: str) -> Iterable[Piece]:  # type: ignore[no-untyped-def]
    for number in seg.segment_numbers:
        description = seg.get_segment_description(number)
        kind = description.segmented_property_type
        modifier = description.get("SegmentedPropertyTypeCodeSequence")
        laterality = None
        if modifier and "SegmentedPropertyTypeModifierCodeSequence" in modifier[0]:
            laterality = str(modifier[0].SegmentedPropertyTypeModifierCodeSequence[0].CodeValue)
        part = part_of_code(kind.value, kind.scheme_designator, kind.meaning, laterality, description.segment_label)
        if part is None:
            continue
        # Empty frames are left out of the object: the volume spans only what is labelled, and is placed by its positions.
        part_volume = seg.get_volume(segment_numbers=[number], combine_segments=False)
        array = np.asarray(part_volume.array)
        array = array[..., 0] if array.ndim == 4 else array
        mask, matrix, _ = canonical_order(array > 0.5, np.asarray(part_volume.affine, float))
        grid = Grid((mask.shape[0], mask.shape[1], mask.shape[2]), matrix)
        box = ndimage.find_objects(mask.astype(np.uint8))
        if box and box[0] is not None:
            yield Piece(part, mask[box[0]], cropped_grid(grid, box[0]), grid, name)
