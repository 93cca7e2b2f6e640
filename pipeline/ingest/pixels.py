"""Decodes frames into Hounsfield units, straight into one array, on a few threads."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import IO, Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels import get_decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from pipeline.errors import InputRefused
from pipeline.ingest.index import Frame
from pipeline.ingest.sources import Reader

AIR_HU = -1024
"""What voxels outside the scanned field are set to; `Volume.valid` is False there."""

_PIXEL_KEYWORDS = """
    Rows Columns SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames BitsAllocated BitsStored HighBit
    PixelRepresentation PixelData ExtendedOffsetTable ExtendedOffsetTableLengths
"""
_PIXEL_TAGS: list[Any] = [pydicom.datadict.tag_for_keyword(keyword) for keyword in _PIXEL_KEYWORDS.split()]
_NATIVE = {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
# A declared padding value in this range is also the value of real tissue, so it cannot be trusted.
_TISSUE_RANGE_HU = (-900.0, 3000.0)
# Nothing that was measured is darker than this and alike in two corners of a slice: the scanner wrote it.
_UNDECLARED_PADDING_BELOW_HU = -1050


@dataclass
class DecodedSlices:
    """What the decoding threads fill in.

    Attributes
    ----------
    hu : int16 or float32 ndarray of shape (N, rows, columns)
        int16 when all rescale values are whole numbers.
    valid : bool ndarray of the same shape, or None
        False where the scanner padded; None if it padded nowhere.
    failures : dict of int to str
        Slices that could not be decoded, and why.
    conflicts : set of int
        Slices whose position occurs twice with different pixels.
    ambiguous_padding_hu : float or None
        A declared padding value that tissue has too.
    lowest_hu, highest_hu : float
        Over all voxels that are not padding.
    """

    hu: NDArray
    valid: NDArray[np.bool_] | None = None
    failures: dict[int, str] = field(default_factory=dict)
    conflicts: set[int] = field(default_factory=set)
    ambiguous_padding_hu: float | None = None
    lowest_hu: float = np.inf
    highest_hu: float = -np.inf
    _lock: Lock = field(default_factory=Lock)

    def put(self, place: int, frame: Frame, stored: NDArray) -> None:
        """Rescale one stored slice into its place."""
        hu, padded, ambiguous_hu = to_hu(stored, frame, self.hu.dtype)
        if hu.shape != self.hu.shape[1:]:
            raise ValueError("unexpected matrix")
        kept = hu if padded is None else hu[~padded]
        with self._lock:
            if kept.size:
                self.lowest_hu = min(self.lowest_hu, float(kept.min()))
                self.highest_hu = max(self.highest_hu, float(kept.max()))
            if padded is not None and self.valid is None:
                self.valid = np.ones(self.hu.shape, bool)
            if ambiguous_hu is not None:
                self.ambiguous_padding_hu = ambiguous_hu
        if self.hu.dtype == np.int16:  # what lies beyond is refused afterwards, by `lowest_hu` and `highest_hu`
            hu = np.clip(hu, -32768, 32767)
        self.hu[place] = hu
        if padded is not None and self.valid is not None:
            self.hu[place][padded] = AIR_HU
            np.logical_not(padded, out=self.valid[place])

    def fail(self, place: int, why: str) -> None:
        """Note that a slice could not be decoded."""
        with self._lock:
            self.failures[place] = why


def to_hu(stored: NDArray, frame: Frame, dtype: np.dtype) -> tuple[NDArray, NDArray[np.bool_] | None, float | None]:
    """Stored values of one frame in Hounsfield units (int32 when `dtype` is int16, else float32).

    Returns
    -------
    hu : ndarray of shape (rows, columns)
    padded : bool ndarray of that shape or None
        True where the scanner wrote padding, declared or not.
    ambiguous_hu : float or None
        The declared padding value if tissue has it too; it is then not masked.
    """
    coding = frame.coding
    assert coding.slope is not None and coding.intercept is not None
    hu: NDArray
    if dtype == np.int16:
        hu = stored.astype(np.int32)
        if coding.slope != 1:
            hu *= int(coding.slope)
        hu += int(coding.intercept)
    else:
        hu = stored.astype(np.float32) * np.float32(coding.slope) + np.float32(coding.intercept)
    padded: NDArray[np.bool_] | None = None
    ambiguous_hu: float | None = None
    if coding.padding is not None:
        ends = sorted(value * coding.slope + coding.intercept for value in coding.padding)
        mask = (stored >= coding.padding[0]) & (stored <= coding.padding[1])
        if ends[1] > _TISSUE_RANGE_HU[0] and ends[0] < _TISSUE_RANGE_HU[1]:
            ambiguous_hu = ends[0] if mask.any() else None
        elif mask.any():
            padded = mask
    value = undeclared_padding(hu if padded is None else np.where(padded, AIR_HU, hu))
    if value is not None:
        padded = (hu == value) if padded is None else padded | (hu == value)
    return hu, padded, ambiguous_hu


def undeclared_padding(hu: NDArray) -> float | None:
    """The value that fills the corners of slices (..., rows, columns), if no scanner can have measured it; else None."""
    corners = hu[..., [0, 0, -1, -1], [0, -1, 0, -1]].reshape(-1, 4)
    for value in np.unique(corners[corners < _UNDECLARED_PADDING_BELOW_HU]):
        if (np.count_nonzero(corners == value, axis=1) >= 2).any():
            return float(value)
    return None


def stored_arrays(stream: IO[bytes], frames: Sequence[Frame]) -> Iterator[NDArray]:
    """The stored integers of frames of one file, one after the other.

    Parameters
    ----------
    stream : binary stream
    frames : sequence of Frame
        All of the same file.
    """
    dataset = pydicom.dcmread(stream, specific_tags=_PIXEL_TAGS, force=True)
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if not syntax:  # a file without its meta header: pydicom has guessed the encoding
        implicit, little = dataset.original_encoding
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    decoder = get_decoder(UID(syntax))
    pad_odd = len(dataset.PixelData) % 2
    if pad_odd and syntax in _NATIVE:  # the standard wants an even length; some writers forget
        dataset.PixelData += b"\0"
    if frames[0].index is None:
        yield decoder.as_array(dataset, raw=True, index=0)[0]
        return
    for frame in frames:
        yield decoder.as_array(dataset, raw=True, index=frame.index)[0]


def decode_slices(
    slots: Sequence[Sequence[Frame]],
    reader: Reader,
    *,
    subject: str,
    progress: Callable[[int, int], None] | None = None,
) -> DecodedSlices:
    """Decode every slot into its place of one array that is allocated once.

    Parameters
    ----------
    slots : sequence of sequences of Frame
        For each slice position its frame, and further frames at the same position, which must have equal pixels.
    reader : Reader
    subject : str
        Name of the stack for messages.
    progress : callable, optional

    Raises
    ------
    InputRefused
        ``too_large`` if the volume does not fit into memory.
    """
    codings = [frame.coding for slot in slots for frame in slot]
    exact = all(float(c.slope or 0).is_integer() and float(c.intercept or 0).is_integer() for c in codings)
    shape = (len(slots), codings[0].rows, codings[0].columns)
    try:
        slices = DecodedSlices(np.empty(shape, np.int16 if exact else np.float32))
    except MemoryError as error:
        raise InputRefused("too_large", f"{shape} voxels do not fit into memory.", subject=subject) from error
    by_file: dict[str, list[tuple[int, Frame]]] = defaultdict(list)
    for place, slot in enumerate(slots):
        by_file[slot[0].locator].append((place, slot[0]))
    done = 0
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for count in pool.map(lambda item: _decode_file(item[0], item[1], slices, reader), by_file.items()):
            done += count
            if progress is not None:
                progress(done, len(slots))
    for place, slot in enumerate(slots):
        for twin in slot[1:]:
            _compare_twin(place, twin, slices, reader)
    return slices


def _decode_file(locator: str, wanted: Sequence[tuple[int, Frame]], slices: DecodedSlices, reader: Reader) -> int:
    remaining = list(wanted)
    syntax = wanted[0][1].coding.transfer_syntax
    try:
        with reader.open(locator) as stream:
            for stored in stored_arrays(stream, [frame for _, frame in wanted]):
                slices.put(*remaining[0], stored)
                remaining.pop(0)
    except InputRefused as error:
        why = error.reason
    except Exception as error:  # decoders raise many kinds; the slice then counts as missing
        why = f"{type(error).__name__}, transfer syntax {UID(syntax).name if syntax else 'unknown'}"
    for place, _ in remaining:
        slices.fail(place, why)
    return len(wanted)


def _compare_twin(place: int, twin: Frame, slices: DecodedSlices, reader: Reader) -> None:
    """Compare a second frame at the same position; where the first could not be decoded it takes its place."""
    try:
        with reader.open(twin.locator) as stream:
            stored = next(stored_arrays(stream, [twin]))
        if place in slices.failures:
            slices.put(place, twin, stored)
            del slices.failures[place]
            return
        hu, padded, _ = to_hu(stored, twin, slices.hu.dtype)
    except Exception:
        return  # a damaged copy of a good slice
    if padded is not None:
        hu = np.where(padded, AIR_HU, hu)
    if hu.shape != slices.hu.shape[1:] or not np.array_equal(hu, slices.hu[place]):
        slices.conflicts.add(place)
