"""Pixels of one stack into one volume of Hounsfield units, slice by slice, with everything odd stated."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pydicom
from numpy.typing import NDArray

from pipeline.errors import Finding, InputRefused, Severity
from pipeline.ingest.index import Frame
from pipeline.ingest.kernels import KernelClass, kernel_class
from pipeline.ingest.nifti import read_nifti_array
from pipeline.ingest.pixels import AIR_HU, DecodedSlices, decode_slices, undeclared_padding
from pipeline.ingest.plausibility import ceiling_hu, cut_off_finding, plausibility_findings
from pipeline.ingest.shear import shear_back
from pipeline.ingest.sources import Reader, base_name
from pipeline.ingest.stacks import SAME_POSITION_MM, Geometry, Stack, lower_first, plan_run
from pipeline.volume import Grid, Source, Volume, canonical_order

Progress = Callable[[int, int], None]

_LARGEST_HU = 20_000

_REMEDIES = {
    "missing_slices": "Send the complete series again.",
    "uneven_spacing": "Use an evenly spaced reconstruction.",
    "no_rescale": "Export the original series; without rescale the values are not Hounsfield units.",
    "wrong_sign": "Export the original series again.",
    "wrapped_values": "Export the original series again.",
    "implausible_hu": "Check the rescale values of the export, or use the original series.",
    "mixed_patients": "Correct the identifiers, or export the series of each patient anew.",
    "conflicting_slices": "Send only one reconstruction or phase per series.",
    "undecodable_pixels": "Export the series without compression.",
    "damaged_slices": "Send the series again.",
    "no_geometry": "Export the original series with its image positions.",
}


def refused(stack: Stack, finding: Finding) -> InputRefused:
    """The refusal of a stack for a finding."""
    return InputRefused(finding.code, lower_first(finding.text), subject=stack.name, remedy=_REMEDIES.get(finding.code))


def load_volume(stack: Stack, *, progress: Progress | None = None) -> Volume:
    """Read the pixels of a stack.

    Parameters
    ----------
    stack : Stack
    progress : callable, optional
        Called with (slices done, slices in all).

    Returns
    -------
    Volume
        In canonical order; int16 where that is exact, else float32. Voxels that the scanner padded are -1024 HU and
        False in `valid`. Tilt, gaps, duplicates and whatever else was put right stands in `findings`.

    Raises
    ------
    InputRefused
        If no honest volume can be made of the stack; the reason codes stand in docs/ingest.md.
    """
    if stack.fatal is not None:
        raise refused(stack, stack.fatal)
    with warnings.catch_warnings(), Reader() as reader:
        warnings.simplefilter("ignore")  # pydicom quotes header values in its warnings
        volume = _load_nifti(stack, reader) if stack.kind == "nifti" else _load_dicom(stack, reader, progress)
    for finding in volume.findings:
        if finding.severity is Severity.FAILURE:
            raise refused(stack, finding)
    return volume


def _load_nifti(stack: Stack, reader: Reader) -> Volume:
    hu, matrix = read_nifti_array(stack.locator, reader, subject=stack.name)
    valid: NDArray[np.bool_] | None = None
    if hu.dtype.kind == "f":
        valid = np.isfinite(hu)
        hu = np.where(valid, hu, np.float32(AIR_HU))
    padding = undeclared_padding(hu)
    if padding is not None:
        mask = hu == padding
        valid = ~mask if valid is None else valid & ~mask
        hu = np.where(mask, np.asarray(AIR_HU, hu.dtype), hu)
    if valid is not None and valid.all():
        valid = None
    return _finish(stack, _Assembly(hu, matrix, valid), Source("nifti", files=(stack.locator,)))


# ------------------------------------------------------------------------------------------------------ DICOM


@dataclass(frozen=True)
class _Assembly:
    """An array with its matrix before canonical ordering."""

    hu: NDArray
    matrix: NDArray[np.float64]
    valid: NDArray[np.bool_] | None
    uids: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    resampled: bool = False


def _load_dicom(stack: Stack, reader: Reader, progress: Progress | None) -> Volume:
    geometry = stack.geometry
    assert geometry is not None
    slots: list[list[Frame]] = []
    offsets: list[float] = []
    for position, index in zip(geometry.positions_mm, geometry.order, strict=True):
        if offsets and position - offsets[-1] < SAME_POSITION_MM:
            slots[-1].append(stack.frames[index])
        else:
            slots.append([stack.frames[index]])
            offsets.append(float(position))
    run = plan_run(np.array(offsets), geometry.step_mm)
    slots = [slots[place] for place in run.places]
    positions = np.array([offsets[place] for place in run.places])
    slices = decode_slices(slots, reader, subject=stack.name, progress=progress)
    _require_sane(slices, stack)

    findings = [p for p in stack.problems if p.severity is not Severity.FAILURE]
    filled = run.filled_after
    hu, valid = slices.hu, slices.valid
    if slices.failures:
        good = np.array([i for i in range(len(slots)) if i not in slices.failures])
        rerun = plan_run(positions[good], geometry.step_mm) if len(good) > 1 else None
        which = sorted(set(slices.failures.values()))[0]
        text = f"{len(slices.failures)} of {len(slots)} slices cannot be read ({which})"
        code = "undecodable_pixels" if len(good) == 0 else "damaged_slices"
        if rerun is None or any(f.severity is Severity.FAILURE for f in rerun.findings):
            raise refused(stack, Finding(code, Severity.FAILURE, f"{text}."))
        findings.append(Finding(code, Severity.WARNING, f"{text}; they count as missing."))
        findings.extend(f for f in rerun.findings if f.code not in {p.code for p in findings})
        keep = good[list(rerun.places)]
        filled = rerun.filled_after
        hu, valid = hu[keep], None if valid is None else valid[keep]
        slots, positions = [slots[i] for i in keep], positions[keep]
    if slices.ambiguous_padding_hu is not None:
        text = (
            f"The declared padding means {slices.ambiguous_padding_hu:.0f} HU, which tissue has too; it was not masked."
        )
        findings.append(Finding("ambiguous_padding", Severity.WARNING, text))
    uids = [slot[0].sop_instance_uid for slot in slots]
    files = [slot[0].locator for slot in slots]
    if filled is not None:
        hu, valid = _with_filled_slice(hu, valid, filled)
        uids.insert(filled + 1, "")
        files.insert(filled + 1, "")
    matrix = _matrix(slots[0][0], geometry.normal_lps, (positions[-1] - positions[0]) / (len(hu) - 1), geometry)
    if geometry.tilt_deg > 0:
        hu, valid, matrix = shear_back(hu, valid, matrix, fill_hu=AIR_HU)
    first = slots[0][0]
    source = Source(
        "dicom",
        study_uid=first.identity.study_uid or None,
        series_uid=first.identity.series_uid or None,
        frame_of_reference_uid=first.frame_of_reference_uid,
        resampled=filled is not None or geometry.tilt_deg > 0,
    )
    if first.index is not None:  # an Enhanced object: one instance for many frames
        uids, files = list(dict.fromkeys(u for u in uids if u)), list(dict.fromkeys(f for f in files if f))
    assembly = _Assembly(hu, matrix, valid, tuple(uids), tuple(files), tuple(findings))
    return _finish(stack, assembly, source)


def _matrix(first: Frame, normal: NDArray[np.float64], step_mm: float, geometry: Geometry) -> NDArray[np.float64]:
    """Index-to-LPS matrix of the slices as they lie: with a tilted gantry its first axis is not at right angles."""
    assert first.orientation is not None and first.pixel_spacing_mm is not None and first.position_mm is not None
    row = np.array(first.orientation[:3]) / np.linalg.norm(first.orientation[:3])
    column = np.array(first.orientation[3:])
    column = column - row * (row @ column)
    column /= np.linalg.norm(column)
    drift = geometry.shift_mm / geometry.step_mm * step_mm
    matrix = np.eye(4)
    matrix[:3, 0] = normal * step_mm + drift[0] * row + drift[1] * column
    matrix[:3, 1] = column * first.pixel_spacing_mm[0]
    matrix[:3, 2] = row * first.pixel_spacing_mm[1]
    matrix[:3, 3] = first.position_mm
    return matrix


def _with_filled_slice(hu: NDArray, valid: NDArray[np.bool_] | None, after: int) -> tuple[NDArray, NDArray[np.bool_]]:
    between = 0.5 * (hu[after].astype(np.float32) + hu[after + 1])
    if hu.dtype.kind == "i":
        between = np.rint(between)
    out = np.insert(hu, after + 1, between.astype(hu.dtype), axis=0)
    mask = np.ones(hu.shape, bool) if valid is None else valid
    return out, np.insert(mask, after + 1, False, axis=0)


def _finish(stack: Stack, assembly: _Assembly, source: Source) -> Volume:
    findings = [*assembly.findings, *_kernel_findings(stack), *plausibility_findings(assembly.hu, assembly.valid)]
    ceiling = ceiling_hu(assembly.hu, assembly.valid)
    if ceiling is not None:
        findings.append(cut_off_finding(ceiling))
    hu, matrix, way_back = canonical_order(assembly.hu, assembly.matrix)
    valid = assembly.valid
    if valid is not None:
        valid = None if valid.all() else canonical_order(valid, assembly.matrix)[0]
    uids, files = assembly.uids, assembly.files
    if way_back.permutation[0] == 0 and way_back.flipped[0]:
        uids, files = uids[::-1], files[::-1]
    return Volume(
        hu=hu,
        grid=Grid((hu.shape[0], hu.shape[1], hu.shape[2]), matrix),
        acquisition=stack.acquisition,
        source=Source(
            source.kind,
            source.study_uid,
            source.series_uid,
            source.frame_of_reference_uid,
            uids,
            files or source.files,
            _content_hash(hu, matrix),
            source.resampled,
        ),
        axis_order=way_back,
        valid=valid,
        findings=tuple(findings),
        ceiling_hu=ceiling,
    )


def _kernel_findings(stack: Stack) -> list[Finding]:
    """What a kernel that enhances edges does to the values."""
    facts = stack.acquisition
    if kernel_class(facts.kernel, facts.manufacturer) is not KernelClass.SHARP:
        return []
    text = (
        f"It was reconstructed with the edge-enhancing kernel '{facts.kernel}': HU of thin structures overshoot; density "
        f"and strength are less certain."
    )
    return [Finding("sharp_kernel", Severity.WARNING, text)]


def _content_hash(hu: NDArray, matrix: NDArray[np.float64]) -> str:
    digest = hashlib.sha256(np.round(matrix, 4).tobytes())
    digest.update(str((hu.dtype.str, hu.shape)).encode())
    digest.update(np.ascontiguousarray(hu).data.cast("B"))
    return digest.hexdigest()


def _require_sane(slices: DecodedSlices, stack: Stack) -> None:
    if slices.conflicts:
        text = f"{len(slices.conflicts)} slice positions occur twice with different pixels, and no attribute tells them apart."
        raise refused(stack, Finding("conflicting_slices", Severity.FAILURE, text))
    if slices.highest_hu > _LARGEST_HU:
        text = (
            f"Values reach {slices.highest_hu:.0f} HU: the stored integers are probably signed but declared unsigned "
            "(Pixel Representation 0028,0103)."
        )
        raise refused(stack, Finding("wrong_sign", Severity.FAILURE, text))
    if slices.lowest_hu < -32768:
        text = f"Values go down to {slices.lowest_hu:.0f} HU."
        raise refused(stack, Finding("implausible_hu", Severity.FAILURE, text))


def read_source_headers(source: Source) -> list[pydicom.Dataset]:
    """The headers of the files a volume was made of, without pixels, for DICOM objects that refer back to them.

    Parameters
    ----------
    source : Source
        Of a volume that came from DICOM.

    Returns
    -------
    list of pydicom.Dataset
        In the order of the slices of the canonical array; an interpolated slice has no file and is left out; an Enhanced
        object comes once. Empty for NIfTI.

    Raises
    ------
    InputRefused
        ``source_vanished`` if a file is gone, ``source_changed`` if another instance lies in its place.
    """
    if source.kind != "dicom":
        return []
    headers: list[pydicom.Dataset] = []
    expected = dict(zip(source.files, source.sop_instance_uids, strict=False))
    with warnings.catch_warnings(), Reader() as reader:
        warnings.simplefilter("ignore")
        for locator in source.files:
            if not locator:
                continue
            with reader.open(locator) as stream:
                header = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
            if str(header.get("SOPInstanceUID", "")) != expected.get(locator, ""):
                raise InputRefused(
                    "source_changed",
                    "the file no longer holds the image that was read.",
                    subject=base_name(locator),
                    remedy="Do not change the input while it is processed.",
                )
            headers.append(header)
    return headers
