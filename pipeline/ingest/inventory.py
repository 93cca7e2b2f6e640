"""Finds all studies in any mix of inputs: headers only, one bad file never stops the rest."""

from __future__ import annotations

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.errors import Finding, InputRefused, Severity
from pipeline.ingest import nifti
from pipeline.ingest.index import Frame, read_header
from pipeline.ingest.sources import Candidate, Reader, Skipped, walk
from pipeline.ingest.spectral import paired_kvp
from pipeline.ingest.split import split_series
from pipeline.ingest.stacks import MINIMUM_SLICES, Geometry, Stack, geometry_of, geometry_problems
from pipeline.volume import Acquisition

_SAME_DIRECTION = 0.99


@dataclass(frozen=True)
class Series:
    """One series of a study and the stacks it came apart into.

    Attributes
    ----------
    uid : str
        Series Instance UID; empty for NIfTI.
    number : int or None
    description : str
    modality : str
    stacks : tuple of Stack
    """

    uid: str
    number: int | None
    description: str
    modality: str
    stacks: tuple[Stack, ...]


@dataclass(frozen=True)
class Study:
    """One study of one patient.

    Attributes
    ----------
    key : str
        Pseudonym, stable, fit as a folder name on any system: ``study-0a1b2c3d4e5f``.
    kind : str
        ``"dicom"`` or ``"nifti"``.
    uid : str
        Study Instance UID; empty for NIfTI.
    date : str or None
        ISO date.
    series : tuple of Series
    """

    key: str
    kind: str
    uid: str
    date: str | None
    series: tuple[Series, ...]

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """All stacks of all series."""
        return tuple(stack for series in self.series for stack in series.stacks)


@dataclass(frozen=True)
class Inventory:
    """What was found.

    Attributes
    ----------
    studies : tuple of Study
        Ordered by date and key.
    skipped : tuple of Skipped
        Files and archives that were not used, one line each.
    """

    studies: tuple[Study, ...]
    skipped: tuple[Skipped, ...] = ()


def study_key(study: Study) -> str:
    """Pseudonym of a study, used as the name of its output folder; holds nothing about the patient."""
    return study.key


def find_studies(inputs: Sequence[str | Path], *, progress: Callable[[int, int], None] | None = None) -> Inventory:
    """Index every study, series and stack in the inputs.

    Parameters
    ----------
    inputs : sequence of str or Path
        Folders, zips (also nested), DICOMDIRs, single files, NIfTI volumes, in any mix.
    progress : callable, optional
        Called with (files done, files in all).

    Returns
    -------
    Inventory
        Never raises for a bad file: it stands in `skipped` with its reason.
    """
    candidates, skipped = walk(inputs)
    frames: list[Frame] = []
    volumes: list[nifti.NiftiHeader] = []
    with warnings.catch_warnings(), Reader() as reader:
        warnings.simplefilter("ignore")  # pydicom quotes malformed values, which may be names of patients
        for done, candidate in enumerate(candidates):
            found = _read(candidate, reader)
            if isinstance(found, Skipped):
                skipped.append(found)
            elif isinstance(found, nifti.NiftiHeader):
                if any(found.key == other.key for other in volumes):
                    skipped.append(
                        Skipped(candidate.name, "duplicate_file", "is a copy of another volume in the input")
                    )
                else:
                    volumes.append(found)
            elif found is not None:
                frames.extend(found)
            if progress is not None and (done % 16 == 0 or done + 1 == len(candidates)):
                progress(done + 1, len(candidates))
        frames, copies = _without_copies(frames, reader)
    if copies:
        skipped.append(
            Skipped("input", "duplicate_file", f"{copies} files are copies of others with the same identity")
        )
    studies = [*_dicom_studies(frames), *(_nifti_study(header) for header in volumes)]
    studies.sort(key=lambda s: (s.date or "", s.key))
    return Inventory(tuple(studies), tuple(skipped))


def _read(candidate: Candidate, reader: Reader) -> list[Frame] | nifti.NiftiHeader | Skipped | None:
    if nifti.looks_like_nifti(candidate):
        return nifti.read_nifti_header(candidate, reader)
    return read_header(candidate, reader)


def _without_copies(frames: Iterable[Frame], reader: Reader) -> tuple[list[Frame], int]:
    """Leave out frames of files that are met twice, byte for byte.

    Instances that share a UID but differ in any byte stay; their pixels are compared when they are read.
    """
    seen: dict[tuple[str, str, int | None], list[Frame]] = {}
    kept: list[Frame] = []
    digests: dict[str, str] = {}

    def digest(locator: str) -> str:
        if locator not in digests:
            digests[locator] = _content_digest(locator, reader)
        return digests[locator]

    copies = 0
    for frame in frames:
        others = seen.setdefault((frame.identity.series_uid, frame.sop_instance_uid, frame.index), [])
        if frame.sop_instance_uid and any(digest(o.locator) == digest(frame.locator) for o in others):
            copies += 1
        else:
            others.append(frame)
            kept.append(frame)
    return kept, copies


def _content_digest(locator: str, reader: Reader) -> str:
    """Hash of all bytes of a file; of its name if it cannot be read, so that it equals no other."""
    digest = hashlib.sha256()
    try:
        with reader.open(locator) as stream:
            while block := stream.read(2**20):
                digest.update(block)
    except (InputRefused, OSError, EOFError, RuntimeError, ValueError):
        return locator
    return digest.hexdigest()


def _pseudonym(*parts: str) -> str:
    return "study-" + hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:12]


def _dicom_studies(frames: Iterable[Frame]) -> list[Study]:
    by_study: dict[tuple[str, str], list[Frame]] = defaultdict(list)
    patients_of: dict[str, set[str]] = defaultdict(set)
    for frame in frames:
        patients_of[frame.identity.series_uid].add(frame.identity.patient)
        # Without a study UID nothing says that two series belong together.
        uid = frame.identity.study_uid or f"series {frame.identity.series_uid}"
        by_study[frame.identity.patient, uid].append(frame)
    studies = []
    for (patient, uid), members in by_study.items():
        by_series: dict[str, list[Frame]] = defaultdict(list)
        for frame in members:
            by_series[frame.identity.series_uid].append(frame)
        series = [
            _dicom_series(group, mixed=bool(series_uid) and len(patients_of[series_uid]) > 1)
            for series_uid, group in by_series.items()
        ]
        series = _with_pairs(series)
        series.sort(key=lambda s: (s.number if s.number is not None else 1 << 30, s.uid))
        date = next((f.acquisition.acquisition_date for f in members if f.acquisition.acquisition_date), None)
        studies.append(Study(_pseudonym(uid, patient), "dicom", members[0].identity.study_uid, date, tuple(series)))
    return studies


def _with_pairs(series: Sequence[Series]) -> list[Series]:
    """The series of a study, each stack knowing whether it is one half of a dual-energy pair."""
    stacks = [stack for one in series for stack in one.stacks if one.modality == "CT"]

    def marked(stack: Stack) -> Stack:
        kvp = paired_kvp(stack, stacks) if stack.acquisition.modality == "CT" else None
        return stack if kvp is None else replace(stack, acquisition=replace(stack.acquisition, paired_kvp=kvp))

    return [replace(one, stacks=tuple(marked(stack) for stack in one.stacks)) for one in series]


def _dicom_series(frames: list[Frame], *, mixed: bool) -> Series:
    """One series; `mixed` if slices under its UID belong to more than one patient."""
    first = frames[0]
    description = next((f.acquisition.series_description for f in frames if f.acquisition.series_description), "")
    # Only CT can be used; a series of another modality is listed as a whole.
    groups = split_series(frames) if first.acquisition.modality == "CT" else [list(frames)]
    groups.sort(key=lambda group: -len(group))
    number = first.identity.series_number
    name = f"series {'without number' if number is None else number}" + (f" '{description}'" if description else "")
    key = hashlib.sha256(first.identity.series_uid.encode()).hexdigest()[:8]
    stacks = [
        _dicom_stack(group, name if len(groups) == 1 else f"{name} stack {i + 1}", f"{key}/{i + 1}")
        for i, group in enumerate(groups)
    ]
    if mixed:
        text = "Slices under one series UID carry different patient identifiers: whose they are is not certain."
        finding = Finding("mixed_patients", Severity.FAILURE, text)
        stacks = [replace(stack, problems=(finding, *stack.problems)) for stack in stacks]
    else:
        stacks = [
            replace(
                stack,
                problems=(*stack.problems, *_twin_findings(stack, stacks), *_voltage_findings(stack, stacks)),
            )
            for stack in stacks
        ]
    return Series(first.identity.series_uid, number, description, first.acquisition.modality or "", tuple(stacks))


def _twin_findings(stack: Stack, others: Sequence[Stack]) -> list[Finding]:
    """Whether a series holds other images of the same part of the body: phases, kernels, voltages under one UID."""
    mine = stack.extent_z_lps_mm
    if mine is None or stack.geometry is None:
        return []
    twins = 0
    for other in others:
        extent = other.extent_z_lps_mm
        if other is stack or extent is None or other.geometry is None or other.count < MINIMUM_SLICES:
            continue
        alike = abs(float(other.geometry.normal_lps @ stack.geometry.normal_lps)) > _SAME_DIRECTION
        shared_mm = min(mine[1], extent[1]) - max(mine[0], extent[0])
        twins += bool(alike and shared_mm > 0.5 * min(mine[1] - mine[0], extent[1] - extent[0]))
    if not twins:
        return []
    text = (
        f"The series holds {twins + 1} sets of slices of the same part of the body (phases, kernels or tube voltages); one "
        "of them is used, and `openbct inspect` lists all."
    )
    return [Finding("phases_in_series", Severity.WARNING, text)]


def _voltage_findings(stack: Stack, others: Sequence[Stack]) -> list[Finding]:
    """Whether slices of the same series were made at another tube voltage: they are not part of the stack."""
    own = stack.acquisition.kvp
    apart = [o for o in others if o is not stack and o.acquisition.kvp not in (None, own)]
    if own is None or not apart:
        return []
    voltages = " and ".join(sorted({f"{other.acquisition.kvp:.0f} kVp" for other in apart}))
    count = sum(other.count for other in apart)
    text = f"{count} slices of the series were made at {voltages}, not {own:.0f} kVp; they are left out."
    return [Finding("voltages_in_series", Severity.WARNING, text)]


def _dicom_stack(frames: list[Frame], name: str, key: str) -> Stack:
    geometry = geometry_of(frames)
    middle: Any = frames[len(frames) // 2]
    if geometry is not None:
        middle = frames[geometry.order[len(frames) // 2]]
    return Stack(
        kind="dicom",
        name=name,
        key=key,
        frames=tuple(frames),
        acquisition=middle.acquisition,
        count=len(frames),
        rows=middle.coding.rows,
        columns=middle.coding.columns,
        pixel_spacing_mm=middle.pixel_spacing_mm,
        geometry=geometry,
        extent_z_lps_mm=_extent_z_mm(frames, geometry),
        problems=tuple(geometry_problems(frames, geometry)),
    )


def _extent_z_mm(frames: Sequence[Frame], geometry: Geometry | None) -> tuple[float, float] | None:
    """Lowest and highest LPS z of the four corners of all planes."""
    if geometry is None or frames[0].pixel_spacing_mm is None:
        return None
    heights = []
    for frame in frames:
        if frame.position_mm is None or frame.orientation is None or frame.pixel_spacing_mm is None:
            return None
        right = frame.orientation[2] * frame.pixel_spacing_mm[1] * (frame.coding.columns - 1)
        down = frame.orientation[5] * frame.pixel_spacing_mm[0] * (frame.coding.rows - 1)
        # The centre of an axial plane is the place of the patient; an upright plane reaches from edge to edge.
        if geometry.is_axial:
            heights.append(frame.position_mm[2] + 0.5 * (right + down))
        else:
            heights.extend(frame.position_mm[2] + a * right + b * down for a in (0, 1) for b in (0, 1))
    return min(heights), max(heights)


def _nifti_study(header: nifti.NiftiHeader) -> Study:
    acquisition = Acquisition(series_description=header.name)
    stack = Stack(
        kind="nifti",
        name=f"file '{header.name}'",
        key=f"{header.key[:8]}/1",
        frames=(),
        acquisition=acquisition,
        count=header.slices,
        rows=header.rows,
        columns=header.columns,
        pixel_spacing_mm=header.pixel_spacing_mm,
        geometry=header.geometry,
        extent_z_lps_mm=header.extent_z_lps_mm,
        problems=header.problems,
        locator=header.locator,
    )
    series = Series("", None, header.name, "", (stack,))
    return Study(_pseudonym("nifti", header.key), "nifti", "", None, (series,))
