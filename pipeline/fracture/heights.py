"""Anterior, middle and posterior height of a vertebral body, on a mid-sagittal and two parasagittal slabs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.density.body import body_surface
from pipeline.errors import NotMeasurable
from pipeline.fracture.endplates import PlateReading, Readings
from pipeline.segmentation.model import BodyFrame, BodySurface, Segmentation, Vertebra

POSITIONS = ("anterior", "middle", "posterior")
_INSIDE_RIM_MM = 2.5
_SLAB_HALF_MM = 2.5
_PATCH_HALF_MM = 1.5
_PATCH_FROM_RIM_MM, _PATCH_TO_RIM_MM = 1.5, 7.0
_PARASAGITTAL_SHARE = 0.25
# How well a face is located, as a share of the voxel edge along the body's axis. Fitted surfaces: root mean square error
# of 0.6 mm of 21 heights of a digital phantom in 2 mm slices. Masks: columns of an upright body share their rounding, so
# that no patch averages it, and masks differ in where they draw an edge that is blurred over a voxel: our own label maps are
# a fifth of a voxel larger on all sides, and give heights that are 0.4 to 0.6 voxels greater than our own surfaces.
_FACE_SHARE_SURFACE = 0.20
_FACE_SHARE_MASK = 0.50
# Slices thicker than the back of a disc is high do not show its two plates apart: 1.8 mm of 39 heights in 5 mm slices.
_FACE_SHARE_THICK = 0.27
_DISC_BEHIND_MM = 3.0
# The middle of a face that was read from the image: a tenth of a millimetre for the thickness of the plate, and a share of
# the voxel for brightness that the model does not know. It covers 174 faces of phantoms in 2.5 mm slices twice, and what
# differs between two halves of a real scan of 1.25 mm slices.
_READ_SD_MM, _READ_SHARE = 0.10, 0.08


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


def measure_heights(segmentation: Segmentation, vertebra: Vertebra, readings: Readings | None = None) -> BodyHeights:
    """Heights between the endplates along the body's own axis.

    Points lie 2.5 mm inside the rim of each slab and halfway between; each is the mean of a patch of 5 mm by 3 mm, so that a
    single voxel or an osteophyte does not decide. Where the middle of a face was read from the image (`readings`), that counts.

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
    share = _FACE_SHARE_SURFACE if spacing <= _DISC_BEHIND_MM + 0.01 else _FACE_SHARE_THICK
    share = _FACE_SHARE_MASK if vertebra.surface is None else share
    # The rim of a mask is ragged by a voxel.
    inside_rim = max(_INSIDE_RIM_MM, max(segmentation.grid.spacing_mm[1:]) if vertebra.surface is None else 0.0)
    finite = np.isfinite(surface.upper_mm) & np.isfinite(surface.lower_mm)
    if not finite.any():
        raise NotMeasurable("no_endplates", "no place has both endplates.", subject=vertebra.name)
    columns = surface.left_mm[finite.any(axis=1)]
    midline = float((columns[0] + columns[-1]) / 2)
    # In-plane blur rounds the rim over about a pixel.
    blurred = 0.75 * max(segmentation.grid.spacing_mm[1:])
    read = [(readings or {}).get((vertebra.name, outward)) for outward in (1.0, -1.0)]
    read_sd = float(np.hypot(_READ_SD_MM, _READ_SHARE * spacing))

    def slab(left_mm: float) -> SlabHeights | None:
        return _slab(surface, frame, left_mm, share * spacing, inside_rim, blurred, read, read_sd)

    middle = slab(midline)
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
        slab(midline + aside),
        slab(midline - aside),
    )


def _slab(
    surface: BodySurface,
    frame: BodyFrame,
    left_mm: float,
    face_sd_mm: float,
    inside_rim_mm: float,
    blurred_mm: float,
    read: list[PlateReading | None],
    read_sd_mm: float,
) -> SlabHeights | None:
    """Heights on the slab around one left-right position, or None if it does not span the body."""
    rows = np.abs(surface.left_mm - left_mm) <= _SLAB_HALF_MM
    fields = (surface.upper_mm[rows], surface.lower_mm[rows])
    if not rows.any():
        return None
    pitch = float(surface.posterior_mm[1] - surface.posterior_mm[0])
    positions, faces, spread = np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 3))
    located = np.full((2, 3), face_sd_mm)
    for side, covered in enumerate(_covered_columns(*fields, surface.posterior_mm)):
        if covered.size < 4:
            return None
        front, back = surface.posterior_mm[covered[0]] - pitch / 2, surface.posterior_mm[covered[-1]] + pitch / 2
        if back - front < 2 * inside_rim_mm + 4 * pitch:
            return None
        middle = (front + back) / 2
        positions[side] = front + inside_rim_mm, middle, back - inside_rim_mm
        # Next to the rim a face is rounded, by the bone's own edge and by blur: what is looked at begins behind that.
        near = max(_PATCH_FROM_RIM_MM, blurred_mm)
        far = max(_PATCH_TO_RIM_MM, near + 2.1 * pitch)
        half = max(_PATCH_HALF_MM, 0.51 * pitch, 0.6 * inside_rim_mm)
        patches = ((front + near, front + far), (middle - half, middle + half), (back - far, back - near))
        for i, (first, last) in enumerate(patches):
            inside = np.zeros(surface.posterior_mm.shape, bool)
            inside[covered] = True
            inside &= (surface.posterior_mm >= first - 1e-6) & (surface.posterior_mm <= last + 1e-6)
            place = float(positions[side, i])
            faces[side, i], spread[side, i] = _face_at(surface, fields[side][:, inside], rows, inside, left_mm, place)
            reading = read[side]
            if i == 1 and reading is not None and np.isfinite(reading.height_mm[rows][:, inside]).all():
                patch = reading.height_mm[rows][:, inside]
                faces[side, i], spread[side, i] = _face_at(surface, patch, rows, inside, left_mm, place)
                located[side, i] = float(np.hypot(read_sd_mm, reading.sd_mm[rows][:, inside].mean()))
    if not np.isfinite(faces).all():
        return None
    # From point to point, so that a frame which leans against the walls of the body makes no difference.
    return SlabHeights(
        heights_mm=np.hypot(faces[0] - faces[1], positions[0] - positions[1]) * np.sign(faces[0] - faces[1]),
        uncertainty_mm=np.sqrt((located**2).sum(axis=0) + (spread**2).sum(axis=0)),
        upper_lps_mm=frame.to_lps(np.full(3, left_mm), positions[0], faces[0]),
        lower_lps_mm=frame.to_lps(np.full(3, left_mm), positions[1], faces[1]),
        posterior_mm=positions.mean(axis=0),
    )


def _covered_columns(
    upper: NDArray[np.float64], lower: NDArray[np.float64], posterior_mm: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Columns of a slab in which the upper and the lower face lie, without a rounded or ragged rim.

    Each face has its own: where the frame leans against the walls, one face reaches farther to the front and the other to
    the back. A column counts if most of the slab has the face there and its distance from the other one is at least 65 % of
    that 6 mm further in; even a severe wedge keeps more than that.
    """
    present = [np.flatnonzero(np.isfinite(field).mean(axis=0) >= 0.5) for field in (upper, lower)]
    if min(columns.size for columns in present) < 4:
        return present[0], present[1]
    # Beyond its own end a face is taken to go on level.
    level = [
        np.interp(posterior_mm, posterior_mm[columns], np.nanmedian(field[:, columns], axis=0))
        for columns, field in zip(present, (upper, lower), strict=True)
    ]
    height = level[0] - level[1]
    inward = posterior_mm + np.where(posterior_mm < posterior_mm[np.concatenate(present)].mean(), 6.0, -6.0)
    kept = height >= 0.65 * np.interp(inward, posterior_mm, height)
    return np.asarray(present[0][kept[present[0]]]), np.asarray(present[1][kept[present[1]]])


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
