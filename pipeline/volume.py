"""A CT volume with its geometry and the facts of its acquisition: what ingest hands to every later stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import Finding

# Rows: direction in LPS (x to the left, y to the back, z to the head) that array axes z, y, x should point along.
_CANONICAL_AXES_LPS = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an array lie in the patient.

    Attributes
    ----------
    shape : tuple of int
        (Z, Y, X).
    index_to_lps : float ndarray of shape (4, 4)
        Homogeneous map from the array index (k, j, i) of a voxel *centre* to DICOM LPS coordinates (x, y, z) in mm.

    Raises
    ------
    ValueError
        If the matrix is singular, not affine, or its axes are not orthogonal within 0.1 degree (a gantry-tilted stack must
        be sheared back before it becomes a grid).
    """

    shape: tuple[int, int, int]
    index_to_lps: NDArray[np.float64]

    def __post_init__(self) -> None:
        matrix = np.array(self.index_to_lps, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.allclose(matrix[3], (0, 0, 0, 1)) or not np.isfinite(matrix).all():
            raise ValueError("index_to_lps must be a finite affine matrix of shape (4, 4)")
        lengths = np.linalg.norm(matrix[:3, :3], axis=0)
        if lengths.min() <= 0:
            raise ValueError("a voxel edge has length zero")
        cosines = (matrix[:3, :3] / lengths).T @ (matrix[:3, :3] / lengths) - np.eye(3)
        if np.abs(cosines).max() > np.sin(np.radians(0.1)):
            raise ValueError("the axes of the grid are not orthogonal")
        matrix.setflags(write=False)
        object.__setattr__(self, "index_to_lps", matrix)
        object.__setattr__(self, "shape", (int(self.shape[0]), int(self.shape[1]), int(self.shape[2])))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel edges along the array axes (z, y, x)."""
        z, y, x = (float(v) for v in np.linalg.norm(self.index_to_lps[:3, :3], axis=0))
        return z, y, x

    @property
    def axes_lps(self) -> NDArray[np.float64]:
        """Unit vectors (rows) along which the array axes z, y, x run, in LPS coordinates."""
        matrix = self.index_to_lps[:3, :3]
        return np.ascontiguousarray((matrix / np.linalg.norm(matrix, axis=0)).T)

    @property
    def voxel_volume_mm3(self) -> float:
        return float(np.prod(self.spacing_mm))

    def to_lps(self, index: NDArray[np.float64]) -> NDArray[np.float64]:
        """LPS coordinates (..., 3) as (x, y, z) of array indices (..., 3) as (k, j, i), which may be fractional."""
        return np.asarray(index, float) @ self.index_to_lps[:3, :3].T + self.index_to_lps[:3, 3]

    def to_index(self, point_lps_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Fractional array indices (..., 3) as (k, j, i) of LPS points (..., 3) as (x, y, z) in mm."""
        inverse = np.asarray(np.linalg.inv(self.index_to_lps), np.float64)
        return np.asarray(point_lps_mm, float) @ inverse[:3, :3].T + inverse[:3, 3]


@dataclass(frozen=True)
class AxisOrder:
    """How to turn a canonical array back into the order of its source file.

    ``source = canonical.transpose(permutation)`` with the axes named in `flipped` (source axes) reversed.
    """

    permutation: tuple[int, int, int] = (0, 1, 2)
    flipped: tuple[bool, bool, bool] = (False, False, False)

    def to_source(self, array: NDArray) -> NDArray:
        """The canonical `array` in the order of the source."""
        slices = tuple(slice(None, None, -1) if f else slice(None) for f in self.flipped)
        return np.ascontiguousarray(array.transpose(self.permutation)[slices])


def canonical_axes(
    shape: tuple[int, int, int], index_to_lps: NDArray[np.float64]
) -> tuple[tuple[int, int, int], tuple[bool, bool, bool], NDArray[np.float64]]:
    """How an array must be permuted and then flipped so that its axes run most nearly to the head, the back and the left.

    Returns
    -------
    permutation : tuple of int
        Argument for ``array.transpose``.
    flips : tuple of bool
        Which axes of the transposed array to reverse.
    matrix : float ndarray of shape (4, 4)
        Index-to-LPS matrix of the result.
    """
    directions = (index_to_lps[:3, :3] / np.linalg.norm(index_to_lps[:3, :3], axis=0)).T
    similarity = np.abs(_CANONICAL_AXES_LPS @ directions.T)
    # The assignment of axes with the largest sum of cosines, so that no axis is left with a poor partner.
    chosen = max(permutations(range(3)), key=lambda order: sum(similarity[row, axis] for row, axis in enumerate(order)))
    matrix = index_to_lps.astype(float).copy()
    matrix[:3, :3] = matrix[:3, chosen]
    flips = [bool(_CANONICAL_AXES_LPS[a] @ matrix[:3, a] < 0) for a in range(3)]
    for axis in range(3):
        if flips[axis]:
            matrix[:3, 3] += matrix[:3, axis] * (shape[chosen[axis]] - 1)
            matrix[:3, axis] *= -1
    return (chosen[0], chosen[1], chosen[2]), (flips[0], flips[1], flips[2]), matrix


def canonical_order(
    array: NDArray, index_to_lps: NDArray[np.float64]
) -> tuple[NDArray, NDArray[np.float64], AxisOrder]:
    """Permute and flip an array so that its axes run most nearly to the head, to the back and to the left.

    No value is interpolated: an oblique grid stays oblique. Returns the array, its new index-to-LPS matrix and the way back.
    """
    chosen, flips, matrix = canonical_axes((array.shape[0], array.shape[1], array.shape[2]), index_to_lps)
    out = array.transpose(chosen)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    inverse = (chosen.index(0), chosen.index(1), chosen.index(2))
    way_back = AxisOrder(inverse, (flips[inverse[0]], flips[inverse[1]], flips[inverse[2]]))
    return np.ascontiguousarray(out), matrix, way_back


@dataclass(frozen=True)
class Acquisition:
    """What the headers say about how the images were made; None where they say nothing (never a usual value)."""

    modality: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    device_serial_number: str | None = None
    kvp: float | None = None
    kernel: str | None = None
    slice_thickness_mm: float | None = None
    contrast_agent: str | None = None
    table_height_mm: float | None = None
    gantry_tilt_deg: float | None = None
    reconstruction_diameter_mm: float | None = None
    tube_current_time_product_mas: float | None = None
    image_type: tuple[str, ...] = ()
    series_description: str | None = None
    protocol_name: str | None = None
    body_part: str | None = None
    patient_position: str | None = None
    acquisition_date: str | None = None
    """ISO date of the study."""
    patient_age_years: float | None = None
    patient_sex: str | None = None
    """``"F"``, ``"M"``, ``"O"`` or None."""
    patient_height_m: float | None = None
    patient_weight_kg: float | None = None
    rescale_type: str | None = None
    real_world_unit: str | None = None
    """Code of the unit of the first real world value mapping."""
    derivation: str | None = None
    """Derivation Description and the meanings of the derivation codes: free text, for matching only."""
    beam_filter: str | None = None
    """Filter Type and Filter Material."""
    multienergy: bool = False
    """Whether the header states a multi-energy acquisition."""
    detector_type: str | None = None
    """``"INTEGRATING"``, ``"MULTILAYER"``, ``"PHOTON_COUNTING"``, of a multi-energy acquisition."""
    monoenergetic_kev: float | None = None
    source_kvps: tuple[float, ...] = ()
    """Tube voltages of all sources that a multi-energy image was made of."""
    paired_kvp: float | None = None
    """Tube voltage of another stack of the same study that was scanned at the same time at the same places."""


@dataclass(frozen=True)
class Source:
    """Where the voxels came from, for provenance and for DICOM objects that refer back to them.

    Attributes
    ----------
    kind : str
        ``"dicom"`` or ``"nifti"``.
    study_uid, series_uid, frame_of_reference_uid : str or None
    sop_instance_uids : tuple of str
        In the order of the slices of the *canonical* array (axis z upwards), one per slice; an empty string for a slice
        that was interpolated; for an Enhanced object the one instance UID, once. Empty for NIfTI.
    files : tuple of str
        Locators that ``pipeline.ingest`` can open again, in the same order. They are paths and may bear the name of a
        patient: never write them into a report or a log.
    content_sha256 : str
        Hash of the voxel values and the grid, so that equal input can be recognised without its file names.
    resampled : bool
        True if the grid is not the source grid (gantry tilt sheared back, a gap filled).
    """

    kind: str
    study_uid: str | None = None
    series_uid: str | None = None
    frame_of_reference_uid: str | None = None
    sop_instance_uids: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    content_sha256: str = ""
    resampled: bool = False


@dataclass(frozen=True)
class Volume:
    """One CT volume in Hounsfield units, in canonical array order.

    Array axes run most nearly to the head (axis 0), to the back (axis 1) and to the left of the patient (axis 2); the grid
    may still be oblique by up to 45 degrees. Voxels outside the scanned field are False in `valid` if it is given.

    Attributes
    ----------
    hu : int16 or float32 ndarray of shape (Z, Y, X)
    grid : Grid
    acquisition : Acquisition
    source : Source
    axis_order : AxisOrder
        How to write an array on this grid back in the order of the source.
    valid : bool ndarray of shape (Z, Y, X) or None
        False where the scanner wrote padding.
    findings : tuple of Finding
        What ingest had to say about this volume.
    ceiling_hu : float or None
        Where the values were cut off from above before the images came here; None if they were not.
    """

    hu: NDArray
    grid: Grid
    acquisition: Acquisition = field(default_factory=Acquisition)
    source: Source = field(default_factory=lambda: Source("memory"))
    axis_order: AxisOrder = field(default_factory=AxisOrder)
    valid: NDArray[np.bool_] | None = None
    findings: tuple[Finding, ...] = ()
    ceiling_hu: float | None = None

    def __post_init__(self) -> None:
        if self.hu.shape != self.grid.shape:
            raise ValueError(f"array of shape {self.hu.shape} on a grid of shape {self.grid.shape}")

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel edges along (z, y, x)."""
        return self.grid.spacing_mm

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.grid.shape
