"""What segmentation hands on: labels on the grid of the CT, and for each structure its landmarks, surfaces and findings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.errors import Finding, Status, status_of
from pipeline.volume import Grid

LEVELS = ("C7", *(f"T{i}" for i in range(1, 13)), *(f"L{i}" for i in range(1, 6)))
"""Levels from cranial to caudal that a body may be named with."""

LABEL_OF = {
    **{f"vertebra_T{i}": 7 + i for i in range(1, 13)},
    **{f"vertebra_L{i}": 19 + i for i in range(1, 6)},
    "vertebra_L6": 25,
    "sacrum": 26,
    "vertebra_T13": 28,
    "femur_left": 31,
    "femur_right": 32,
    **{f"vertebra_u{i}": 40 + i for i in range(1, 25)},
}
"""Label numbers in the label map. Vertebrae and sacrum follow the VerSe convention; bodies without a certain level are
``vertebra_u1``, ``vertebra_u2``, ... from cranial to caudal."""


@dataclass(frozen=True)
class BodyFrame:
    """A right-handed frame of a vertebral body: origin near its centre, unit axes in LPS coordinates.

    `superior` is the mean normal of the two endplates, `posterior` points to the canal, `left` to the patient's left.
    """

    centre_lps_mm: NDArray[np.float64]
    left: NDArray[np.float64]
    posterior: NDArray[np.float64]
    superior: NDArray[np.float64]

    def to_lps(self, left_mm: NDArray, posterior_mm: NDArray, superior_mm: NDArray) -> NDArray[np.float64]:
        """LPS points (..., 3) of frame coordinates, which are broadcast together."""
        u, v, w = np.broadcast_arrays(left_mm, posterior_mm, superior_mm)
        return (
            self.centre_lps_mm + u[..., None] * self.left + v[..., None] * self.posterior + w[..., None] * self.superior
        )

    def to_frame(self, point_lps_mm: NDArray) -> NDArray[np.float64]:
        """Frame coordinates (left, posterior, superior) in mm, shape (..., 3), of LPS points (..., 3)."""
        offset = np.asarray(point_lps_mm, float) - self.centre_lps_mm
        return offset @ np.stack([self.left, self.posterior, self.superior], axis=-1)


@dataclass(frozen=True)
class BodySurface:
    """The two endplates of a body as height fields in its frame, located between voxels.

    Attributes
    ----------
    left_mm : float ndarray of shape (U,)
        Regular grid along the left axis.
    posterior_mm : float ndarray of shape (V,)
        Regular grid along the posterior axis.
    upper_mm, lower_mm : float ndarray of shape (U, V)
        Height of the outer face of the endplates along the superior axis; NaN outside the body's outline.
    """

    left_mm: NDArray[np.float64]
    posterior_mm: NDArray[np.float64]
    upper_mm: NDArray[np.float64]
    lower_mm: NDArray[np.float64]


@dataclass(frozen=True)
class Vertebra:
    """One vertebral body.

    Attributes
    ----------
    name : str
        ``vertebra_L1`` or ``vertebra_u1``.
    level : str or None
        ``"L1"``, or None when the level is not certain enough to name.
    label : int
        Its number in the label map.
    frame : BodyFrame
    surface : BodySurface or None
        None when the mask came from outside and no surface could be fitted.
    width_mm, depth_mm : float
        Left-right and front-back extent of the body at mid height.
    score : float
        0..1, meaning in docs/validation.md.
    level_confidence : float or None
        Probability of `level`, None when no anchor was in view or the level came from the user.
    level_alternatives : dict of str to float
        Other levels and their probabilities.
    complete : bool
        False when the field of view cuts the body.
    findings : tuple of Finding
    """

    name: str
    level: str | None
    label: int
    frame: BodyFrame
    surface: BodySurface | None
    width_mm: float
    depth_mm: float
    score: float
    level_confidence: float | None = None
    level_alternatives: dict[str, float] = field(default_factory=dict)
    complete: bool = True
    findings: tuple[Finding, ...] = ()

    @property
    def status(self) -> Status:
        return status_of(self.findings)

    def with_findings(self, *more: Finding) -> Vertebra:
        return replace(self, findings=(*self.findings, *more))


@dataclass(frozen=True)
class FemurLandmarks:
    """Axes and points of a proximal femur in LPS coordinates; None where the field of view or the image does not show them.

    Attributes
    ----------
    head_centre_lps_mm, head_radius_mm
        Sphere fitted to the femoral head.
    neck_centre_lps_mm : ndarray of shape (3,)
        Centre of the narrowest cross-section of the neck.
    neck_axis_lps : ndarray of shape (3,)
        Unit vector from the head to the trochanteric region.
    shaft_axis_lps : ndarray of shape (3,)
        Unit vector along the shaft, pointing distally (to the feet).
    shaft_point_lps_mm : ndarray of shape (3,)
        A point of the shaft axis at the level of the lesser trochanter.
    lesser_trochanter_lps_mm, greater_trochanter_lps_mm
        The most medial-posterior point of the lesser and the most lateral point of the greater trochanter.
    lesser_trochanter_lower_edge_lps_mm
        Where the bump of the lesser trochanter ends distally, projected on the shaft axis.
    shaft_below_lesser_trochanter_mm : float or None
        Length of shaft in view below that edge.
    """

    head_centre_lps_mm: NDArray[np.float64]
    head_radius_mm: float
    neck_centre_lps_mm: NDArray[np.float64] | None = None
    neck_axis_lps: NDArray[np.float64] | None = None
    shaft_axis_lps: NDArray[np.float64] | None = None
    shaft_point_lps_mm: NDArray[np.float64] | None = None
    lesser_trochanter_lps_mm: NDArray[np.float64] | None = None
    greater_trochanter_lps_mm: NDArray[np.float64] | None = None
    lesser_trochanter_lower_edge_lps_mm: NDArray[np.float64] | None = None
    shaft_below_lesser_trochanter_mm: float | None = None


@dataclass(frozen=True)
class Femur:
    """One proximal femur, solid (cortex and medulla).

    `fit_for_density` and `fit_for_strength` say whether what is in view suffices for hip aBMD and for a finite-element test;
    the findings say why not.
    """

    name: str
    side: str
    """``"left"`` or ``"right"``."""
    label: int
    landmarks: FemurLandmarks | None
    score: float
    fit_for_density: bool = True
    fit_for_strength: bool = True
    findings: tuple[Finding, ...] = ()

    @property
    def status(self) -> Status:
        return status_of(self.findings)

    def with_findings(self, *more: Finding) -> Femur:
        return replace(self, findings=(*self.findings, *more))


@dataclass(frozen=True)
class Segmentation:
    """Structures on the grid of a volume.

    Attributes
    ----------
    labels : uint8 ndarray of shape (Z, Y, X)
        0 = nothing, else the number of a structure.
    grid : Grid
        The grid of the volume.
    vertebrae : tuple of Vertebra
        From cranial to caudal.
    femora : tuple of Femur
    sacrum_label : int or None
        Number of the sacrum in `labels` if it was found; a landmark, not a measured structure.
    canal_lps_mm : float ndarray of shape (N, 3) or None
        Centre line of the spinal canal from caudal to cranial.
    method : str
        Which segmenter made it, with its version.
    findings : tuple of Finding
        What concerns the whole study (no spine in view, level anchors, ...).
    arches : uint8 ndarray of shape (Z, Y, X) or None
        Pedicles, laminae and processes, each vertebra under the number of its body; a map of its own, so that nothing
        which is measured on a body can take part of an arch for it. None when no arch was looked for or found.
    """

    labels: NDArray[np.uint8]
    grid: Grid
    vertebrae: tuple[Vertebra, ...] = ()
    femora: tuple[Femur, ...] = ()
    sacrum_label: int | None = None
    canal_lps_mm: NDArray[np.float64] | None = None
    method: str = ""
    findings: tuple[Finding, ...] = ()
    arches: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        for array in (self.labels, self.arches):
            if array is not None and array.shape != self.grid.shape:
                raise ValueError(f"labels of shape {array.shape} on a grid of shape {self.grid.shape}")

    def mask(self, structure: Vertebra | Femur) -> NDArray[np.bool_]:
        """Bool mask (Z, Y, X) of one structure."""
        return np.asarray(self.labels == structure.label)

    def names(self) -> dict[int, str]:
        """Label number to structure name, for ``segmentation.json``."""
        structures: tuple[Vertebra | Femur, ...] = (*self.vertebrae, *self.femora)
        named = {structure.label: structure.name for structure in structures}
        if self.sacrum_label is not None:
            named[self.sacrum_label] = "sacrum"
        return named

    def arch_map(self) -> Segmentation | None:
        """The arches as a label map of their own, each named after its vertebra (``vertebra_L1_arch``); None without any."""
        if self.arches is None:
            return None
        boxes = ndimage.find_objects(self.arches, max_label=255)
        named = tuple(replace(v, name=f"{v.name}_arch") for v in self.vertebrae if boxes[v.label - 1] is not None)
        return replace(self, labels=self.arches, vertebrae=named, femora=(), sacrum_label=None, arches=None)
