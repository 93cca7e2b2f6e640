"""What the geometry of a stack of slices is, and what is wrong with it.

Only positions and orientations count: never file names, instance numbers or slice locations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import Finding, Severity
from pipeline.ingest.index import Frame
from pipeline.volume import Acquisition

SAME_POSITION_MM = 0.01
MINIMUM_SLICES = 10
MINIMUM_RUN_MM = 60.0
"""What is left of a series with missing slices must hold at least this much: two lumbar vertebrae."""
MAXIMUM_TILT_DEG = 30.0
_TILT_NOISE_DEG = 0.1
MAXIMUM_IN_PLANE_SCATTER_MM = 0.5
_MAXIMUM_DRIFT_MM = 0.5
_ROUNDING_MM = 0.05


@dataclass(frozen=True)
class Geometry:
    """How the slices of a stack lie.

    Attributes
    ----------
    order : tuple of int
        Indices into the frames, along `normal_lps`; equal positions in the order of the files.
    positions_mm : float ndarray of shape (N,)
        Offset of each slice along `normal_lps`, in that order.
    normal_lps : float ndarray of shape (3,)
        Unit normal of the planes, pointing to the head (or, for upright planes, to the back or the left).
    step_mm : float
        Typical distance of neighbouring planes; 0 for a single plane.
    shift_mm : float ndarray of shape (2,)
        In-plane drift per step along (rows' direction, columns' direction): not zero with a tilted gantry.
    tilt_deg : float
        Angle between the normal and the line through the slices; 0 if below 0.1.
    scatter_mm : float
        Largest distance of a slice from that line, in its plane.
    duplicates : tuple of int
        Places in `positions_mm` that repeat the position before them.
    gaps : tuple of (int, int)
        (place, number of missing slices after it).
    uneven : tuple of int
        Places after which the step is neither one step nor a whole number of them.
    """

    order: tuple[int, ...]
    positions_mm: NDArray[np.float64]
    normal_lps: NDArray[np.float64]
    step_mm: float
    shift_mm: NDArray[np.float64]
    tilt_deg: float
    scatter_mm: float
    duplicates: tuple[int, ...] = ()
    gaps: tuple[tuple[int, int], ...] = ()
    uneven: tuple[int, ...] = ()

    @property
    def span_mm(self) -> float:
        """Distance from the first to the last plane."""
        return float(self.positions_mm[-1] - self.positions_mm[0])

    @property
    def is_axial(self) -> bool:
        """The planes lie within 30 degrees of the patient's transverse plane."""
        return bool(abs(self.normal_lps[2]) > np.cos(np.radians(30.0)))


@dataclass(frozen=True)
class Stack:
    """Slices that can become one volume.

    Attributes
    ----------
    kind : str
        ``"dicom"`` or ``"nifti"``.
    name : str
        How messages call it: ``series 4 'THIN' stack 2``.
    key : str
        ``<series key>/<number>``, unique within the study.
    frames : tuple of Frame
        Empty for NIfTI.
    acquisition : Acquisition
        Of the middle slice.
    count : int
        Number of slices as found.
    rows, columns : int
    pixel_spacing_mm : tuple of 2 float or None
    geometry : Geometry or None
        None if positions or orientations are missing.
    extent_z_lps_mm : tuple of 2 float or None
        Lowest and highest LPS z of slice centres.
    problems : tuple of Finding
        What is wrong; a `failure` means that no volume can be made of it.
    locator : str
        File of a NIfTI stack.
    """

    kind: str
    name: str
    key: str
    frames: tuple[Frame, ...]
    acquisition: Acquisition
    count: int
    rows: int
    columns: int
    pixel_spacing_mm: tuple[float, float] | None
    geometry: Geometry | None
    extent_z_lps_mm: tuple[float, float] | None
    problems: tuple[Finding, ...] = ()
    locator: str = ""

    @property
    def step_mm(self) -> float | None:
        """Distance of neighbouring slices."""
        return self.geometry.step_mm if self.geometry is not None and self.count > 1 else None

    @property
    def fatal(self) -> Finding | None:
        """The first problem that forbids making a volume, or None."""
        return next((p for p in self.problems if p.severity is Severity.FAILURE), None)


def lower_first(text: str) -> str:
    """A sentence made fit to follow a colon; abbreviations keep their capitals."""
    return text if text[:2].isupper() else text[0].lower() + text[1:]


def step_tolerance_mm(step_mm: float) -> float:
    """How far a slice may be from its place: the rounding of positions to 0.1 mm, or 2 % of the step if that is more."""
    return max(0.02 * step_mm, min(1.2 * _ROUNDING_MM, 0.1 * step_mm))


def plane_normal(orientation: Sequence[float]) -> NDArray[np.float64]:
    """Unit normal of a plane, turned towards the head, else the back, else the left."""
    normal = np.cross(np.array(orientation[:3], float), np.array(orientation[3:], float))
    normal /= np.linalg.norm(normal)
    axis = next(a for a in (2, 1, 0) if abs(normal[a]) > 0.5)
    return normal if normal[axis] > 0 else -normal


def is_orthonormal(orientation: Sequence[float]) -> bool:
    """Whether two direction cosines are unit vectors at right angles, within what rounding explains."""
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    return bool(
        abs(np.linalg.norm(row) - 1) < 0.01 and abs(np.linalg.norm(column) - 1) < 0.01 and abs(row @ column) < 0.005
    )


def geometry_of(frames: Sequence[Frame]) -> Geometry | None:
    """The geometry of frames that share one orientation; None if a position or orientation is missing or impossible."""
    if any(f.position_mm is None or f.orientation is None for f in frames) or not frames:
        return None
    orientation = frames[0].orientation
    if orientation is None or not is_orthonormal(orientation):
        return None
    normal = plane_normal(orientation)
    origins = np.array([f.position_mm for f in frames], float)
    offsets = origins @ normal
    order = np.argsort(offsets, kind="stable")
    offsets, origins = offsets[order], origins[order]
    repeated = np.diff(offsets) < SAME_POSITION_MM
    steps = np.diff(offsets)[~repeated]
    in_plane = origins @ np.array([orientation[:3], orientation[3:]], float).T
    if steps.size == 0:
        return Geometry(
            tuple(int(i) for i in order),
            offsets,
            normal,
            0.0,
            np.zeros(2),
            0.0,
            float(np.ptp(in_plane, axis=0).max()),
            tuple(int(i) + 1 for i in np.flatnonzero(repeated)),
        )
    step = _typical_step(steps)
    slope, scatter = _line(offsets, in_plane)
    tilt = float(np.degrees(np.arctan(np.linalg.norm(slope))))
    tilted = tilt >= _TILT_NOISE_DEG
    distinct = np.concatenate([[True], ~repeated])
    places = np.flatnonzero(distinct)[:-1]
    whole, odd = _lattice(offsets[distinct], step)
    return Geometry(
        order=tuple(int(i) for i in order),
        positions_mm=offsets,
        normal_lps=normal,
        step_mm=float(step),
        shift_mm=slope * step if tilted else np.zeros(2),
        tilt_deg=tilt if tilted else 0.0,
        scatter_mm=scatter,
        duplicates=tuple(int(i) + 1 for i in np.flatnonzero(repeated)),
        gaps=tuple((int(places[i]), int(whole[i] - 1)) for i in np.flatnonzero(~odd & (whole > 1))),
        uneven=tuple(int(places[i]) for i in np.flatnonzero(odd)),
    )


def _typical_step(steps: NDArray[np.float64]) -> float:
    """The commonest step; the mean of those near it, so that positions rounded to 0.1 mm average out."""
    ascending = np.sort(steps)
    width = np.maximum(0.02 * ascending, np.minimum(2 * _ROUNDING_MM, 0.1 * ascending))
    first, last = (
        np.searchsorted(ascending, ascending - width),
        np.searchsorted(ascending, ascending + width, side="right"),
    )
    common = int(np.argmax(last - first))
    return float(ascending[first[common] : last[common]].mean())


def _lattice(positions_mm: NDArray[np.float64], step_mm: float) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Each distance of neighbours as a whole number of steps, and which of them are none.

    Positions that lie on one lattice within rounding are even, however their single steps are rounded. Steps that are each
    within tolerance but drift away from the lattice are not.
    """
    steps = np.diff(positions_mm)
    whole = np.maximum(np.rint(steps / step_mm), 1).astype(np.int64)
    index = np.concatenate([[0], np.cumsum(whole)]).astype(float)
    slope, offset = np.polyfit(index, positions_mm, 1) if len(index) > 2 else (step_mm, positions_mm[0])
    residual = np.abs(positions_mm - offset - slope * index)
    if residual.max() <= step_tolerance_mm(step_mm):
        return whole, np.zeros(len(steps), bool)
    odd = np.abs(steps - whole * step_mm) > step_tolerance_mm(step_mm) * whole
    if not odd.any() and residual.max() > min(_MAXIMUM_DRIFT_MM, 0.25 * step_mm):
        odd[min(int(residual[1:-1].argmax()) + 1, len(steps) - 1)] = True
    return whole, odd


def _line(offsets: NDArray[np.float64], in_plane: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Slope (2,) of the in-plane position over the offset, and the largest distance from that line in mm."""
    centred = offsets - offsets.mean()
    spread = float(centred @ centred)
    slope = (centred @ in_plane) / spread if spread > 0 else np.zeros(2)
    residual = in_plane - in_plane.mean(axis=0) - centred[:, None] * slope
    return np.asarray(slope, float), float(np.linalg.norm(residual, axis=1).max())


@dataclass(frozen=True)
class Run:
    """The part of a stack that becomes a volume.

    Attributes
    ----------
    places : tuple of int
        Indices of the slices used, ascending; duplicates left out.
    filled_after : int or None
        Index into `places` after which one slice is interpolated.
    findings : tuple of Finding
    """

    places: tuple[int, ...]
    filled_after: int | None = None
    findings: tuple[Finding, ...] = field(default=())


def plan_run(positions_mm: NDArray[np.float64], step_mm: float, *, minimum_run_mm: float = MINIMUM_RUN_MM) -> Run:
    """Which slices to use when some are missing or unevenly spaced.

    One single missing slice is bridged. Otherwise the longest evenly spaced run is used if it holds at least
    ten slices and `minimum_run_mm`; otherwise nothing can be made of the stack.

    Parameters
    ----------
    positions_mm : float ndarray of shape (N,)
        Ascending, without repetitions.
    step_mm : float
        The regular step.

    Returns
    -------
    Run
        With a finding of severity `failure` if the stack is unusable.
    """
    count = len(positions_mm)
    everything = tuple(range(count))
    if count < 2:
        return Run(everything)
    whole, odd = _lattice(positions_mm, step_mm)
    breaks = np.flatnonzero(odd | (whole > 1))
    if breaks.size == 0:
        return Run(everything)
    missing = int((whole - 1)[~odd].sum())
    if breaks.size == 1 and missing == 1 and not odd.any() and count >= MINIMUM_SLICES:
        place = int(breaks[0])
        where = 0.5 * (positions_mm[place] + positions_mm[place + 1])
        text = (
            f"One slice is missing at {where:.1f} mm along the stack; it was interpolated from its neighbours "
            "and marked as not valid, so nothing is measured in it."
        )
        return Run(everything, place, (Finding("interpolated_slice", Severity.WARNING, text),))
    code, what = (
        ("uneven_spacing", f"the distance of the slices changes {int(odd.sum())} times (typical {step_mm:.2f} mm)")
        if odd.any()
        else ("missing_slices", f"{missing} slices are missing in {breaks.size} places (step {step_mm:.2f} mm)")
    )
    edges = [-1, *breaks.tolist(), count - 1]
    start, stop = max(((a + 1, b + 1) for a, b in pairwise(edges)), key=lambda r: r[1] - r[0])
    length_mm = float(positions_mm[stop - 1] - positions_mm[start])
    if stop - start >= MINIMUM_SLICES and length_mm >= minimum_run_mm:
        text = (
            f"{what[0].upper()}{what[1:]}; only the longest regular part is used: "
            f"{stop - start} of {count} slices, {length_mm:.0f} mm."
        )
        return Run(tuple(range(start, stop)), None, (Finding(code, Severity.WARNING, text),))
    longest = f"longest {stop - start} slices, {length_mm:.0f} mm"
    text = f"{what[0].upper()}{what[1:]}, and no regular part is long enough ({longest})."
    return Run((), None, (Finding(code, Severity.FAILURE, text),))


def geometry_problems(frames: Sequence[Frame], geometry: Geometry | None) -> list[Finding]:
    """What is wrong with a stack as far as headers tell."""

    def failure(code: str, text: str) -> Finding:
        return Finding(code, Severity.FAILURE, text)

    found: list[Finding] = []
    coding = frames[0].coding
    if coding.rows == 0 or coding.columns == 0:
        found.append(failure("no_matrix", "Rows or Columns is missing."))
    if coding.samples != 1 or coding.photometric not in {"MONOCHROME2", None}:
        found.append(failure("not_grey", f"Pixels are {coding.photometric}, not MONOCHROME2 grey values."))
    if frames[0].pixel_spacing_mm is None:
        found.append(failure("no_pixel_spacing", "Pixel Spacing (0028,0030) is missing or not positive."))
    missing = [f for f in frames if f.coding.slope is None or f.coding.intercept is None or f.coding.slope == 0]
    if missing:
        text = (
            f"Rescale Slope or Intercept (0028,1053 / 0028,1052) is missing in {len(missing)} of {len(frames)} slices."
        )
        found.append(failure("no_rescale", text))
    if coding.lossy:
        found.append(
            Finding("lossy_compression", Severity.WARNING, "The images were compressed with loss; HU are not exact.")
        )
    if geometry is None:
        text = "Image Position (0020,0032) or Image Orientation (0020,0037) is missing or impossible."
        found.append(failure("no_geometry", text))
        return found
    found.extend(_slice_problems(frames, geometry))
    return found


def _slice_problems(frames: Sequence[Frame], geometry: Geometry) -> Iterable[Finding]:
    distinct = np.delete(geometry.positions_mm, list(geometry.duplicates))
    if len(distinct) < 2:
        yield Finding("single_slice", Severity.FAILURE, f"There is only {len(distinct)} slice position.")
        return
    if geometry.scatter_mm > MAXIMUM_IN_PLANE_SCATTER_MM:
        text = f"Slices are shifted against each other by up to {geometry.scatter_mm:.1f} mm in their plane."
        yield Finding("shifted_slices", Severity.FAILURE, text)
    if geometry.tilt_deg > MAXIMUM_TILT_DEG:
        text = f"The gantry tilt is {geometry.tilt_deg:.1f} degrees, more than {MAXIMUM_TILT_DEG:.0f}."
        yield Finding("tilt_too_large", Severity.FAILURE, text)
    elif geometry.tilt_deg > 0:
        text = f"The gantry was tilted by {geometry.tilt_deg:.1f} degrees; the slices are sheared back."
        yield Finding("gantry_tilt", Severity.WARNING, text)
    if geometry.duplicates:
        text = f"{len(geometry.duplicates)} slice positions occur more than once."
        yield Finding("duplicated_slices", Severity.INFO, text)
    yield from plan_run(distinct, geometry.step_mm).findings
    rescales = {(f.coding.slope, f.coding.intercept) for f in frames}
    if len(rescales) > 1:
        yield Finding("rescale_varies", Severity.INFO, f"Each slice has its own rescale ({len(rescales)} different).")
