"""Anterior, middle and posterior height of a vertebral body, on a mid-sagittal and two parasagittal slabs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.density.body import body_surface
from pipeline.errors import NotMeasurable
from pipeline.segmentation.model import BodyFrame, BodySurface, Segmentation, Vertebra

POSITIONS = ("anterior", "middle", "posterior")
_INSIDE_RIM_MM = 2.5
_SLAB_HALF_MM = 2.5
_PATCH_HALF_MM = 1.5
_PARASAGITTAL_SHARE = 0.25
# How well a face is located, as a share of the voxel edge along the body's axis. Fitted surfaces: root mean square error
# of 0.6 mm of 21 heights of a digital phantom in 2 mm slices. Masks: columns of an upright body share their rounding, so
# that no patch averages it, and masks differ in where they draw an edge that is blurred over a voxel: our own label maps are
# a fifth of a voxel larger on all sides, and give heights that are 0.4 to 0.6 voxels greater than our own surfaces.
_FACE_SHARE_SURFACE = 0.20
_FACE_SHARE_MASK = 0.50


@dataclass(frozen=True)
class SlabHeights:
    """Heights on one sagittal slab.

    Attributes
    ----------
    heights_mm, uncertainty_mm : float ndarray of shape (3,)
        At `POSITIONS`.
    upper_lps_mm, lower_lps_mm : float ndarray of shape (3, 3)
        The points on the endplates, LPS.
    posterior_mm : float ndarray of shape (3,)
        Where the positions lie along the posterior axis of the frame.
    """

    heights_mm: NDArray[np.float64]
    uncertainty_mm: NDArray[np.float64]
    upper_lps_mm: NDArray[np.float64]
    lower_lps_mm: NDArray[np.float64]
    posterior_mm: NDArray[np.float64]

    @property
    def wedge_deg(self) -> float:
        """Angle between the endplates; positive when the front is lower."""
        run = float(self.posterior_mm[2] - self.posterior_mm[0])
        return float(np.degrees(np.arctan2(self.heights_mm[2] - self.heights_mm[0], run)))


@dataclass(frozen=True)
class BodyHeights:
    """Heights of one body at the midline and a quarter of its width to either side; a side is None where it has no face."""

    middle: SlabHeights
    left: SlabHeights | None
    right: SlabHeights | None


def measure_heights(segmentation: Segmentation, vertebra: Vertebra) -> BodyHeights:
    """Heights between the endplates along the body's own axis.

    Points lie 2.5 mm inside the rim of each slab and halfway between; each is the mean of a patch of 5 mm by 3 mm, so that a
    single voxel or an osteophyte does not decide.

    Raises
    ------
    NotMeasurable
        ``cut_by_field_of_view``; ``too_thin_for_morphometry`` if the body has fewer than 4 voxels of height;
        ``no_endplates`` if the surface has no midline.
    """
    if not vertebra.complete:
        raise NotMeasurable("cut_by_field_of_view", "the field of view cuts the body.", subject=vertebra.name)
    frame, surface = body_surface(segmentation, vertebra)
    along_axis = np.abs(segmentation.grid.axes_lps @ frame.superior)
    spacing = float(along_axis @ np.array(segmentation.grid.spacing_mm))
    share = _FACE_SHARE_MASK if vertebra.surface is None else _FACE_SHARE_SURFACE
    # The rim of a mask is ragged by a voxel.
    inside_rim = max(_INSIDE_RIM_MM, max(segmentation.grid.spacing_mm[1:]) if vertebra.surface is None else 0.0)
    finite = np.isfinite(surface.upper_mm) & np.isfinite(surface.lower_mm)
    if not finite.any():
        raise NotMeasurable("no_endplates", "no place has both endplates.", subject=vertebra.name)
    columns = surface.left_mm[finite.any(axis=1)]
    midline = float((columns[0] + columns[-1]) / 2)
    middle = _slab(surface, frame, midline, share * spacing, inside_rim)
    if middle is None:
        raise NotMeasurable("no_endplates", "the endplates do not reach the midline.", subject=vertebra.name)
    if middle.heights_mm.max() < 4 * spacing:
        raise NotMeasurable(
            "too_thin_for_morphometry",
            f"the body is {middle.heights_mm.max():.0f} mm high in slices {spacing:.1f} mm apart; four are needed.",
            subject=vertebra.name,
        )
    points = np.concatenate([middle.upper_lps_mm, middle.lower_lps_mm])
    index = segmentation.grid.to_index(points)
    if (index < 0.5).any() or (index > np.array(segmentation.grid.shape) - 1.5).any():
        raise NotMeasurable(
            "cut_by_field_of_view", "an endplate lies in the outermost slice of the volume.", subject=vertebra.name
        )
    aside = _PARASAGITTAL_SHARE * float(columns[-1] - columns[0])
    return BodyHeights(
        middle,
        _slab(surface, frame, midline + aside, share * spacing, inside_rim),
        _slab(surface, frame, midline - aside, share * spacing, inside_rim),
    )


def _slab(
    surface: BodySurface, frame: BodyFrame, left_mm: float, face_sd_mm: float, inside_rim_mm: float
) -> SlabHeights | None:
    """Heights on the slab around one left-right position, or None if it does not span the body."""
    rows = np.abs(surface.left_mm - left_mm) <= _SLAB_HALF_MM
    upper, lower = surface.upper_mm[rows], surface.lower_mm[rows]
    covered = _covered_columns(upper, lower, surface.posterior_mm) if rows.any() else np.zeros(0, int)
    if covered.size < 4:
        return None
    pitch = float(surface.posterior_mm[1] - surface.posterior_mm[0])
    front = surface.posterior_mm[covered[0]] - pitch / 2 + inside_rim_mm
    back = surface.posterior_mm[covered[-1]] + pitch / 2 - inside_rim_mm
    if back - front < 4 * pitch:
        return None
    positions = np.array([front, (front + back) / 2, back])
    faces, spread = np.zeros((2, 3)), np.zeros((2, 3))
    for i, position in enumerate(positions):
        near = np.abs(surface.posterior_mm - position) <= max(_PATCH_HALF_MM, 0.51 * pitch, 0.6 * inside_rim_mm)
        for side, field in enumerate((upper, lower)):
            faces[side, i], spread[side, i] = _face_at(surface, field[:, near], rows, near, left_mm, position)
    if not np.isfinite(faces).all():
        return None
    uncertainty = np.sqrt(2 * face_sd_mm**2 + (spread**2).sum(axis=0))
    return SlabHeights(
        heights_mm=faces[0] - faces[1],
        uncertainty_mm=uncertainty,
        upper_lps_mm=frame.to_lps(np.full(3, left_mm), positions, faces[0]),
        lower_lps_mm=frame.to_lps(np.full(3, left_mm), positions, faces[1]),
        posterior_mm=positions,
    )


def _covered_columns(
    upper: NDArray[np.float64], lower: NDArray[np.float64], posterior_mm: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Columns of a slab that lie between the endplates, not beside a rounded or ragged rim.

    A column counts if most of the slab has both faces there and its height is at least 65 % of the height 6 mm further
    in; even a severe wedge keeps more than that.
    """
    both = np.isfinite(upper) & np.isfinite(lower)
    present = np.flatnonzero(both.mean(axis=0) >= 0.5)
    if present.size < 4:
        return present
    gap = np.where(both, upper - lower, np.nan)
    height = np.array([np.nanmedian(gap[:, column]) for column in present])
    place = posterior_mm[present]
    inward = place + np.where(place < place.mean(), 6.0, -6.0)
    reference = np.interp(inward, place, height)
    return np.asarray(present[height >= 0.65 * reference])


def _face_at(
    surface: BodySurface,
    patch: NDArray[np.float64],
    rows: NDArray[np.bool_],
    near: NDArray[np.bool_],
    left_mm: float,
    position_mm: float,
) -> tuple[float, float]:
    """Height of a plane through a patch of one face at its centre, and the standard error from the roughness around it."""
    good = np.isfinite(patch)
    if good.sum() < 3:
        return float("nan"), float("nan")
    u, v = np.meshgrid(surface.left_mm[rows] - left_mm, surface.posterior_mm[near] - position_mm, indexing="ij")
    u, v, w = u[good], v[good], patch[good]
    design = np.stack([np.ones_like(u), u, v], axis=1)
    if np.ptp(v) < 1e-6:
        design = design[:, :2]
    solution, *_ = np.linalg.lstsq(design, w, rcond=None)
    rest = w - design @ solution
    near_plane = np.abs(rest) <= 2.5 * max(1.4826 * float(np.median(np.abs(rest))), 0.1)
    if not near_plane.all() and near_plane.sum() >= 4:
        solution, *_ = np.linalg.lstsq(design[near_plane], w[near_plane], rcond=None)
    # Neighbouring columns are not independent; four is what a patch of 5 mm by 3 mm holds at CT resolution.
    return float(solution[0]), float(rest.std() / np.sqrt(min(4, w.size)))
