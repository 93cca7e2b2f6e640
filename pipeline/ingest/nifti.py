"""NIfTI volumes: what their header says, whether they hold Hounsfield units, and the way from RAS to LPS."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from typing import IO

import nibabel
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import Finding, InputRefused, Severity
from pipeline.ingest.sources import Candidate, Reader, Skipped
from pipeline.ingest.stacks import Geometry
from pipeline.volume import canonical_axes

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SAMPLE_BYTES = 8 * 2**20
_HASHED_CHUNKS, _CHUNK_BYTES = 64, 16 * 2**10
_SAME_AFFINE_MM = 0.1
_BELOW_WATER_HU = -120.0
_MAXIMUM_LABELS = 256


@dataclass(frozen=True)
class NiftiHeader:
    """One NIfTI volume as `find_studies` sees it: sizes along the canonical array axes, and what is wrong with it."""

    locator: str
    name: str
    key: str
    slices: int
    rows: int
    columns: int
    pixel_spacing_mm: tuple[float, float] | None
    geometry: Geometry | None
    extent_z_lps_mm: tuple[float, float] | None
    problems: tuple[Finding, ...]


def _magic(head: bytes) -> bool:
    """Whether bytes begin a NIfTI-1 or NIfTI-2 single file."""
    size = head[:4]
    if size in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c"):
        return head[344:347] in (b"n+1", b"ni1")
    return size in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") and head[4:7] in (b"n+2", b"ni2")


def looks_like_nifti(candidate: Candidate) -> bool:
    """Judge by content: a NIfTI header, plain or behind gzip."""
    head = candidate.head
    if head[:2] == b"\x1f\x8b":
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, 1024)
        except zlib.error:
            return False
    return _magic(head)


def _key(stream: IO[bytes]) -> str:
    """Hash of size, beginning, end and evenly spread parts: tells volumes apart without reading all of a large one."""
    size = stream.seek(0, 2)
    digest = hashlib.sha256(str(size).encode())
    for start in np.linspace(0, max(size - _CHUNK_BYTES, 0), _HASHED_CHUNKS).astype(int):
        stream.seek(int(start))
        digest.update(stream.read(_CHUNK_BYTES))
    return digest.hexdigest()


def _open_image(stream: IO[bytes]) -> tuple[nibabel.Nifti1Image, IO[bytes]]:
    """The image on an open stream, its data not yet read, and the stream of unpacked bytes that it reads from."""
    head = stream.read(2)
    stream.seek(0)
    plain: IO[bytes] = gzip.GzipFile(fileobj=stream) if head == b"\x1f\x8b" else stream  # type: ignore[assignment]
    size = plain.read(4)
    plain.seek(0)
    kind = nibabel.Nifti2Image if size in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") else nibabel.Nifti1Image
    return kind.from_stream(plain), plain


def affine_to_lps(image: nibabel.Nifti1Image) -> tuple[NDArray[np.float64] | None, Finding | None]:
    """Array index (k, j, i) to LPS matrix of an image, and what is doubtful about it.

    The sform is taken if it is set, else the qform; if both are set and place a corner of the volume more than 0.1 mm
    apart, or if neither is set, there is no matrix.
    """
    header = image.header
    sform = header.get_sform() if int(header["sform_code"]) > 0 else None
    qform = header.get_qform() if int(header["qform_code"]) > 0 else None
    if sform is None and qform is None:
        return None, Finding(
            "no_geometry", Severity.FAILURE, "Neither sform nor qform is set: orientation and side are unknown."
        )
    if sform is not None and qform is not None:
        last = np.array(image.shape[:3]) - 1
        corners = np.array([[a, b, c, 1] for a in (0, last[0]) for b in (0, last[1]) for c in (0, last[2])], float)
        apart = float(np.linalg.norm(corners @ (sform - qform).T, axis=1).max())
        if apart > _SAME_AFFINE_MM:
            text = f"sform and qform disagree by up to {apart:.1f} mm: orientation and side are not certain."
            return None, Finding("contradictory_geometry", Severity.FAILURE, text)
    matrix = _RAS_TO_LPS @ np.asarray(sform if sform is not None else qform, float)
    matrix = matrix[:, [2, 1, 0, 3]]
    edges = matrix[:3, :3]
    lengths = np.linalg.norm(edges, axis=0)
    if not np.isfinite(matrix).all() or lengths.min() <= 0:
        return None, Finding("no_geometry", Severity.FAILURE, "The affine has a voxel edge of length zero.")
    cosines = (edges / lengths).T @ (edges / lengths) - np.eye(3)
    if np.abs(cosines).max() > np.sin(np.radians(0.1)):
        text = "The affine is sheared (its axes are not at right angles)."
        return None, Finding("sheared_grid", Severity.FAILURE, text)
    return matrix, None


def _form_problems(image: nibabel.Nifti1Image) -> list[Finding]:
    dtype = image.get_data_dtype()
    shape = tuple(n for n in image.shape[3:] if n != 1)
    if dtype.names is not None or int(image.header["datatype"]) in (128, 2304):
        return [Finding("not_grey", Severity.FAILURE, "The voxels are colours (RGB), not Hounsfield units.")]
    if dtype.kind not in "iuf":
        return [Finding("not_grey", Severity.FAILURE, f"The voxels are of type {dtype}, not real numbers.")]
    if shape or len(image.shape) < 3 or min(image.shape[:3]) < 2:
        text = f"The image has shape {image.shape}, not that of one volume."
        return [Finding("not_a_volume", Severity.FAILURE, text)]
    return []


def _scaling(image: nibabel.Nifti1Image) -> tuple[float, float]:
    # nibabel clears the scaling in the header of an image that it has read; only the array proxy knows it.
    return float(image.dataobj.slope), float(image.dataobj.inter)


def _value_problem(image: nibabel.Nifti1Image, plain: IO[bytes]) -> Finding | None:
    """What forbids reading the voxels as Hounsfield units.

    Reads only until the first voxel that is clearly below water, which every CT has near its beginning.
    """
    slope, intercept = _scaling(image)
    dtype = image.get_data_dtype()
    plain.seek(int(image.dataobj.offset))
    remaining = int(np.prod(image.shape)) * dtype.itemsize
    low, high, equal, pairs, integral = np.inf, -np.inf, 0, 0, True
    distinct: set[float] = set()
    while remaining > 0 and (block := plain.read(min(_SAMPLE_BYTES, remaining))):
        remaining -= len(block)
        stored = np.frombuffer(block[: len(block) // dtype.itemsize * dtype.itemsize], dtype)
        values = stored[np.isfinite(stored)] if dtype.kind == "f" else stored
        if values.size == 0:
            continue
        ends = np.array([values.min(), values.max()], float) * slope + intercept
        low, high = min(low, ends.min()), max(high, ends.max())
        if low < _BELOW_WATER_HU:
            return None
        integral = integral and bool(np.all(values == np.rint(values)))
        inside = (values[:-1] != 0) | (values[1:] != 0)
        pairs += int(inside.sum())
        equal += int((inside & (values[:-1] == values[1:])).sum())
        if len(distinct) <= _MAXIMUM_LABELS:
            distinct.update(np.unique(values[:: max(values.size // 200_000, 1)]).tolist())
    if not np.isfinite(low):
        return Finding("not_hounsfield", Severity.FAILURE, "There is no finite voxel.")
    if integral and low >= 0 and len(distinct) <= _MAXIMUM_LABELS and (pairs == 0 or equal > 0.5 * pairs):
        return Finding(
            "label_map", Severity.FAILURE, f"is a label map (values {low:g} to {high:g}), no CT; pass it as mask"
        )
    text = f"Values run from {low:g} to {high:g}: there is no air or fat, so these are not Hounsfield units."
    return Finding("not_hounsfield", Severity.FAILURE, text)


def read_nifti_header(candidate: Candidate, reader: Reader) -> NiftiHeader | Skipped:
    """Header facts of a NIfTI file; a label map is skipped, it is no study."""
    try:
        with reader.open(candidate.locator) as stream:
            key = _key(stream)
            stream.seek(0)
            image, plain = _open_image(stream)
            problems = _form_problems(image)
            if not problems and (verdict := _value_problem(image, plain)) is not None:
                if verdict.code == "label_map":
                    return Skipped(candidate.name, "label_map", verdict.text)
                problems.append(verdict)
            matrix, doubt = affine_to_lps(image)
    except (OSError, EOFError, zlib.error) as error:
        return Skipped(candidate.name, "truncated", f"is a damaged NIfTI file ({type(error).__name__})")
    except Exception as error:  # nibabel raises many kinds for malformed headers
        return Skipped(
            candidate.name, "corrupt_header", f"has a NIfTI header that cannot be read ({type(error).__name__})"
        )
    if doubt is not None:
        problems.append(doubt)
    i, j, k = (*image.shape, 1, 1, 1)[:3]
    slices, rows, columns = k, j, i
    spacing: tuple[float, float] | None = None
    geometry: Geometry | None = None
    extent: tuple[float, float] | None = None
    if matrix is not None:
        permutation, _, canonical = canonical_axes((k, j, i), matrix)
        slices, rows, columns = ((k, j, i)[axis] for axis in permutation)
        step, row_mm, column_mm = np.linalg.norm(canonical[:3, :3], axis=0)
        spacing = (float(row_mm), float(column_mm))
        normal = canonical[:3, 0] / step
        positions = float(canonical[:3, 3] @ normal) + step * np.arange(slices)
        geometry = Geometry(tuple(range(slices)), positions, normal, float(step), np.zeros(2), 0.0, 0.0)
        ends = canonical[2, 3] + canonical[2, 0] * np.array([0, slices - 1])
        extent = (float(ends.min()), float(ends.max()))
    return NiftiHeader(
        candidate.locator, candidate.name, key, slices, rows, columns, spacing, geometry, extent, tuple(problems)
    )


def read_nifti_array(locator: str, reader: Reader, *, subject: str) -> tuple[NDArray, NDArray[np.float64]]:
    """Voxels of a NIfTI file as (k, j, i) array in Hounsfield units, and its index-to-LPS matrix.

    Returns
    -------
    hu : int16 or float32 ndarray of shape (K, J, I)
        int16 if that loses nothing. NaN where the file says NaN.
    index_to_lps : float ndarray of shape (4, 4)

    Raises
    ------
    InputRefused
        If the file is damaged, holds no single volume of real numbers, or its orientation is not certain.
    """
    try:
        with reader.open(locator) as stream:
            image, _ = _open_image(stream)
            problems = _form_problems(image)
            matrix, doubt = affine_to_lps(image)
            for problem in (*problems, *([doubt] if doubt else [])):
                raise InputRefused(problem.code, problem.text, subject=subject)
            stored = np.asarray(image.dataobj.get_unscaled())
            slope, intercept = _scaling(image)
    except InputRefused:
        raise
    except Exception as error:
        raise InputRefused(
            "truncated",
            f"the voxels cannot be read ({type(error).__name__}).",
            subject=subject,
            remedy="Export it again.",
        ) from error
    assert matrix is not None
    stored = stored.reshape(stored.shape[:3]).T  # the file runs fastest along i, so this is C order
    return scaled(stored, slope, intercept), matrix


def scaled(stored: NDArray, slope: float, intercept: float) -> NDArray:
    """``slope * stored + intercept`` as int16 if that is exact, else as float32."""
    if stored.dtype.kind in "iu" and slope == 1 and float(intercept).is_integer():
        low, high = int(stored.min()) + int(intercept), int(stored.max()) + int(intercept)
        if low >= -32768 and high <= 32767:
            if stored.dtype == np.int16 and intercept == 0:
                return np.ascontiguousarray(stored)
            return (stored.astype(np.int32) + int(intercept)).astype(np.int16)
    return (stored * np.float32(slope) + np.float32(intercept)).astype(np.float32)
