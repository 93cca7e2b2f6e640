"""Endplates read from the image: a model of two plates and the disc between them, fitted to the voxels about it.

The outline of a body follows the steepest fall of brightness. Next to a bright plate thinner than a slice that place depends on
where the slices happen to lie, and smoothness keeps an outline from following a plate that has sunk. Here the faces of the two
bodies beside a disc are smooth surfaces, each plate is a shell of bone on cancellous bone, and the profile of a slice is known.
All voxels about the disc together say where the faces lie: a face is curved and leans, so that each slice cuts it elsewhere.

This holds for the middle of a face. At the rim walls, bridging bone and the roots of the pedicles are no part of the model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, ndimage, sparse
from scipy.special import ndtr
from threadpoolctl import threadpool_limits

from pipeline.fracture.splines import SplineSurface
from pipeline.segmentation.model import BodyFrame, Vertebra
from pipeline.segmentation.sampling import index_box
from pipeline.segmentation.surface import aggregate
from pipeline.volume import Volume

SHELL_MM = 0.6
"""Thickness of a plate that is taken for granted; blur shows only how much bone it holds."""
GREATEST_SLICE_MM = 2.5
"""Up to here it is shown to be better than the outline; slices as thick as a disc do not show its two plates apart."""
_KERNEL_SD_MM, _SLICE_EDGE_SD_MM = 0.5, 0.15
_BEND_SD_PER_MM, _ANCHOR_SD_MM, _LOG_BLUR_SD = 0.03, 30.0, 0.15
_LOG_BLUR_RANGE = (-0.4, 0.5)
# Standard deviations (HU) of how disc, cancellous bone and plate vary over 15 mm, and of cancellous bone over 5 mm of depth.
_DISC_HU, _CANCELLOUS_HU, _DEPTH_HU, _PLATE_HU = 20.0, 20.0, 20.0, 80.0
_PLATE_MEAN_HU, _PLATE_MEAN_SD_HU, _FREE_HU = 600.0, 400.0, 1000.0
_FIELD_MM, _DEPTH_FIELD_MM = 15.0, 5.0
_DEPTH_MM, _BEYOND_MM, _GREATEST_GAP_MM = 6.0, 2.5, 16.0
_RIM_MM, _BACK_MM, _WAIST, _WAIST_FROM_MM = 0.75, 1.5, 0.6, 0.5
# Share of the half width that is used: farther out, behind most of all, pedicles and heads of ribs join the body.
_ASIDE, _ASIDE_BEHIND = 0.6, 0.4
_COLUMN_MM, _LEAST_VOXELS = 1.5, 200
_HU_RANGE = (-50.0, 1300.0)
# Voxels next to each other share noise and texture: four count as one.
_CORRELATED, _LEAST_NOISE_HU, _OUTLIER = 4.0, 8.0, 2.5
_ROUNDS, _STEP_MM, _SETTLED_MM = 20, 0.8, 0.02
_SEARCH_MM, _SEARCH_STEP_MM, _NODE_MM, _SEARCH_P1, _SEARCH_P2 = 2.5, 0.25, 3.0, 0.15, 8.0
_FAINTEST_PLATE_HU, _LEAST_PLATE_HU, _LEAST_BLUR, _GREATEST_SD_MM, _GREATEST_SHIFT_MM = 50.0, 150.0, 0.7, 0.5, 2.5
_LINEAR = 5
"""Terms of a field over the face: 1, u, v, u^2, v^2."""


@dataclass(frozen=True)
class Plate:
    """One endplate as the segmentation located it: heights (U, V) in the frame of its body, NaN outside the outline."""

    frame: BodyFrame
    left_mm: NDArray[np.float64]
    posterior_mm: NDArray[np.float64]
    height_mm: NDArray[np.float64]
    outward: float
    """+1 for the upper face of a body, -1 for the lower one."""


@dataclass(frozen=True)
class PlateReading:
    """Heights (U, V) of a face as read from the image, and their standard deviation; NaN where the image does not tell."""

    height_mm: NDArray[np.float64]
    sd_mm: NDArray[np.float64]


Readings = Mapping[tuple[str, float], PlateReading]
"""By name of the body and side (+1 upper, -1 lower)."""


def read_endplates(
    volume: Volume, vertebrae: tuple[Vertebra, ...], *, threads: int | None = None
) -> dict[tuple[str, float], PlateReading]:
    """Read the middle of every endplate from the image, beginning at what the segmentation located.

    Parameters
    ----------
    volume : Volume
    vertebrae : tuple of Vertebra
        From cranial to caudal. Those without `surface` are left alone.
    threads : int, optional
        Discs at a time; default: all cores.

    Returns
    -------
    dict of (str, float) to PlateReading
        Without the faces that the image does not show well enough, and empty when slices are thicker than 2.5 mm.
    """
    if volume.spacing_mm[0] > GREATEST_SLICE_MM + 0.01:
        return {}
    plates: dict[tuple[str, float], Plate] = {}
    for body in vertebrae:
        if body.surface is not None:
            for outward, field in ((1.0, body.surface.upper_mm), (-1.0, body.surface.lower_mm)):
                if np.isfinite(field).sum() >= 25:
                    plate = Plate(body.frame, body.surface.left_mm, body.surface.posterior_mm, field, outward)
                    plates[body.name, outward] = plate
    groups = []
    for above, below in pairwise(vertebrae):
        keys = [(below.name, 1.0), (above.name, -1.0)]
        if all(key in plates for key in keys) and _face_each_other(plates[keys[0]], plates[keys[1]]):
            groups.append(keys)
    paired = {key for keys in groups for key in keys}
    groups += [[key] for key in plates if key not in paired]

    def read(keys: list[tuple[str, float]]) -> dict[tuple[str, float], PlateReading]:
        gap = _gap(volume, [plates[key] for key in keys])
        readings = [None] * len(keys) if gap is None else gap.readings()
        return {key: reading for key, reading in zip(keys, readings, strict=True) if reading is not None}

    found: dict[tuple[str, float], PlateReading] = {}
    # Of matrices as small as these the threads of BLAS cost ten times what they save.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for of_gap in pool.map(read, groups):
            found |= of_gap
    return found


def _face_each_other(lower: Plate, upper: Plate) -> bool:
    """Whether the lower face of the body above lies opposite to the upper face of the body below, a disc apart."""
    u, v = np.meshgrid(lower.left_mm, lower.posterior_mm, indexing="ij")
    known = np.isfinite(lower.height_mm)
    points = upper.frame.to_frame(lower.frame.to_lps(u[known], v[known], lower.height_mm[known]))
    place = _on_lattice(upper, points)
    opposite = ndimage.map_coordinates(upper.height_mm, place, order=0, cval=np.nan) - points[:, 2]
    seen = np.isfinite(opposite)
    return bool(seen.mean() > 0.4 and -2.0 < np.median(opposite[seen]) < _GREATEST_GAP_MM)


def _on_lattice(plate: Plate, local: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fractional indices (2, N) into the height field of points (N, 2 or 3) in the frame."""
    pitch = plate.left_mm[1] - plate.left_mm[0]
    return np.stack([(local[:, 0] - plate.left_mm[0]) / pitch, (local[:, 1] - plate.posterior_mm[0]) / pitch])


def _slice_profile_mm(volume: Volume) -> float:
    """Width of the slice profile: the thickness in the header if it can be true, else the distance of slices."""
    spacing, stated = volume.spacing_mm[0], volume.acquisition.slice_thickness_mm
    return stated if stated is not None and 0.5 * spacing <= stated <= 3.0 * spacing else spacing


def _gap(volume: Volume, plates: list[Plate]) -> _Gap | None:
    """The voxels about one disc, with what is known of them; None if they are too few."""
    surfaces = [SplineSurface(p.left_mm, p.posterior_mm, p.outward * p.height_mm) for p in plates]
    corners = []
    for plate in plates:
        known = np.isfinite(plate.height_mm)
        u, v = np.meshgrid(plate.left_mm, plate.posterior_mm, indexing="ij")
        for beyond in (-_DEPTH_MM - 2.0, 3.0):
            height = plate.height_mm[known] + plate.outward * beyond
            corners.append(plate.frame.to_lps(u[known], v[known], height))
    box = index_box(volume.grid, np.concatenate(corners))
    strides = (1, *(max(1, round(_COLUMN_MM / edge)) for edge in volume.spacing_mm[1:]))
    lines = [np.arange(part.start, part.stop, stride) for part, stride in zip(box, strides, strict=True)]
    index = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, 3)
    k, j, i = index.T
    points = volume.grid.to_lps(index.astype(float))
    keep = np.ones(len(index), bool) if volume.valid is None else volume.valid[k, j, i].copy()
    local, present, beyond_face = [], [], []
    for plate, surface in zip(plates, surfaces, strict=True):
        place = plate.frame.to_frame(points)
        place[:, 2] *= plate.outward
        gap = place[:, 2] - surface.basis(place)[0] @ surface.start
        inside, free = _where_the_model_holds(plate, place, gap)
        keep &= free & (~inside | (gap >= -_DEPTH_MM))
        local.append(place)
        present.append(inside)
        beyond_face.append(gap)
    keep &= np.any(present, axis=0)
    for n, gap in enumerate(beyond_face):
        # Without the other plate above a column only what is next to this one can be explained.
        other = present[1 - n] if len(plates) == 2 else np.zeros(len(gap), bool)
        keep &= other | (gap <= _BEYOND_MM)
    if keep.sum() < _LEAST_VOXELS:
        return None
    hu = np.clip(volume.hu[k[keep], j[keep], i[keep]].astype(float), *_HU_RANGE)
    return _Gap(
        volume,
        plates,
        surfaces,
        hu,
        [place[keep] for place in local],
        [inside[keep].astype(float) for inside in present],
    )


def _where_the_model_holds(
    plate: Plate, place: NDArray[np.float64], gap: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which points lie over the part of a face that is used, and which are free of the walls below its rim."""
    known = np.isfinite(plate.height_mm)
    pitch = float(plate.left_mm[1] - plate.left_mm[0])
    depth = ndimage.distance_transform_edt(np.pad(known, 1))[1:-1, 1:-1] * pitch - 0.5 * pitch
    from_rim = ndimage.map_coordinates(depth, _on_lattice(plate, place), order=1, cval=-1.0)
    across, along = plate.left_mm[known.any(axis=1)], plate.posterior_mm[known.any(axis=0)]
    half_width = 0.5 * (across[-1] - across[0])
    half_back = 0.5 * (along[0] + along[-1])
    behind = np.clip((place[:, 1] - half_back) / (along[-1] - half_back), 0.0, 1.0)
    allowed = (_ASIDE - (_ASIDE - _ASIDE_BEHIND) * behind) * half_width
    inside = (from_rim >= _RIM_MM) & (place[:, 1] <= along[-1] - _BACK_MM)
    inside &= np.abs(place[:, 0] - 0.5 * (across[0] + across[-1])) <= allowed
    # A body has a waist: what lies deep must lie farther from the rim, or it is wall.
    wall = (gap < 0) & (from_rim < _RIM_MM + _WAIST * np.maximum(-gap - _WAIST_FROM_MM, 0.0))
    return np.asarray(inside), np.asarray(~(inside & wall))


@dataclass(frozen=True)
class _Seen:
    """What each voxel sees of one body: depth below the face, its share of the body and of the shell, with derivatives."""

    depth_mm: NDArray[np.float64]
    stretch: NDArray[np.float64]
    body: NDArray[np.float64]
    body_slope: NDArray[np.float64]
    shell: NDArray[np.float64]
    shell_slope: NDArray[np.float64]


class _Gap:
    """One disc with the plates beside it, as a least-squares problem.

    The unknowns in one vector: the coefficients of each surface, brightness of disc, cancellous bone and plates (fields of a
    few terms), and the logarithm of a factor on the blur. The residuals are weighted against outliers (Cauchy), and so is
    bending, so that a face may have a fold.
    """

    def __init__(
        self,
        volume: Volume,
        plates: list[Plate],
        surfaces: list[SplineSurface],
        hu: NDArray[np.float64],
        local: list[NDArray[np.float64]],
        present: list[NDArray[np.float64]],
    ) -> None:
        self.plates, self.surfaces, self.hu, self.local, self.present = plates, surfaces, hu, local, present
        self.bases = [surface.basis(place) for surface, place in zip(surfaces, local, strict=True)]
        slice_axis = volume.grid.axes_lps[0]
        self.axis = [
            np.array(
                [p.frame.left @ slice_axis, p.frame.posterior @ slice_axis, p.outward * (p.frame.superior @ slice_axis)]
            )
            for p in plates
        ]
        self.half_slice_mm = 0.5 * _slice_profile_mm(volume)
        self.plane_variance = _KERNEL_SD_MM**2 + volume.spacing_mm[1] * volume.spacing_mm[2] / 12.0
        u, v = local[0][:, 0] / _FIELD_MM, local[0][:, 1] / _FIELD_MM
        self.field = np.stack([np.ones_like(u), u, v, u * u, v * v], axis=1)
        each = [_FREE_HU, _CANCELLOUS_HU, _CANCELLOUS_HU, _DEPTH_HU, _PLATE_MEAN_SD_HU, *[_PLATE_HU] * (_LINEAR - 1)]
        self.prior_sd = np.array([_FREE_HU, *[_DISC_HU] * (_LINEAR - 1), *each * len(plates)])
        self.prior = np.array([0.0] * _LINEAR + [0.0, 0.0, 0.0, 0.0, _PLATE_MEAN_HU, 0.0, 0.0, 0.0, 0.0] * len(plates))
        self.first = np.cumsum([0] + [len(surface.start) for surface in surfaces])

    def readings(self) -> list[PlateReading | None]:
        """Fit, and judge each face."""
        # From where the outline lies, and from where a search along each column ends: the better of the two.
        start = [surface.start for surface in self.surfaces]
        first = self._first_brightness([self._seen(n, c, 0.0) for n, c in enumerate(start)])
        if all(self._plate(first, n)[0] < _FAINTEST_PLATE_HU for n in range(len(self.plates))):
            return [None] * len(self.plates)
        from_outline = self._fitted(start)
        tried = [from_outline, self._fitted(self._searched(*from_outline))]
        worth = [sum(self._cost(unknowns, noise) for _, noise in tried) for unknowns, _ in tried]
        unknowns, noise = tried[int(np.argmin(worth))]
        normal = self._normal(unknowns, noise)[0]
        covariance = np.asarray(np.linalg.inv(normal), np.float64)
        coefficients, brightness, log_blur = self._split(unknowns)
        found: list[PlateReading | None] = []
        for n, (plate, surface) in enumerate(zip(self.plates, self.surfaces, strict=True)):
            part = slice(self.first[n], self.first[n + 1])
            height, sd = surface.on_lattice(coefficients[n], covariance[part, part])
            height = plate.outward * height
            told = (sd <= _GREATEST_SD_MM) & (np.abs(height - plate.height_mm) <= _GREATEST_SHIFT_MM)
            shown = self._plate(brightness, n)[0] >= _LEAST_PLATE_HU and np.exp(log_blur) >= _LEAST_BLUR
            usable = shown and bool(np.isfinite(height).any())
            found.append(PlateReading(np.where(told, height, np.nan), sd) if usable else None)
        return found

    def _split(self, unknowns: NDArray[np.float64]) -> tuple[list[NDArray[np.float64]], NDArray[np.float64], float]:
        parts = [unknowns[a:b] for a, b in pairwise(self.first)]
        return parts, unknowns[self.first[-1] : -1], float(unknowns[-1])

    @staticmethod
    def _plate(brightness: NDArray[np.float64], n: int) -> NDArray[np.float64]:
        start = _LINEAR + n * (4 + _LINEAR) + 4
        return brightness[start : start + _LINEAR]

    def _seen(self, n: int, coefficients: NDArray[np.float64], log_blur: float, offset_mm: float = 0.0) -> _Seen:
        value, along_u, along_v = self.bases[n]
        slope_u, slope_v = along_u @ coefficients, along_v @ coefficients
        stretch = np.sqrt(1.0 + slope_u**2 + slope_v**2)
        axis = self.axis[n]
        lean = np.abs(axis[2] - slope_u * axis[0] - slope_v * axis[1]) / stretch
        depth = (value @ coefficients + offset_mm - self.local[n][:, 2]) / stretch
        factor = np.exp(log_blur)
        half = np.maximum(self.half_slice_mm * lean, 0.05) * factor
        sd = np.sqrt(self.plane_variance * (1.0 - lean**2) + _SLICE_EDGE_SD_MM**2 * lean**2) * factor
        body, body_slope = _blurred_step(depth, half, sd)
        core, core_slope = _blurred_step(depth - SHELL_MM, half, sd)
        return _Seen(depth, stretch, body, body_slope, body - core, body_slope - core_slope)

    def _design(self, seen: list[_Seen]) -> NDArray[np.float64]:
        """Brightness of each voxel per unit of each brightness (N, M)."""
        inside = [share * s.body for share, s in zip(self.present, seen, strict=True)]
        columns = [(1.0 - np.sum(inside, axis=0))[:, None] * self.field]
        for share, s, within in zip(self.present, seen, inside, strict=True):
            deep = np.clip(s.depth_mm, 0.0, 2.0 * _DEPTH_FIELD_MM)[:, None] / _DEPTH_FIELD_MM
            columns.append(within[:, None] * np.concatenate([self.field[:, :3], deep], axis=1))
            columns.append((share * s.shell)[:, None] * self.field)
        return np.concatenate(columns, axis=1)

    def _noise(self, rest: NDArray[np.float64], seen: list[_Seen]) -> NDArray[np.float64]:
        """Standard deviation of each voxel by what it shows: disc, cancellous bone or plate."""
        plate = np.sum([share * s.shell for share, s in zip(self.present, seen, strict=True)], axis=0)
        inner = np.sum([share * s.body for share, s in zip(self.present, seen, strict=True)], axis=0)
        no_plate = plate <= 0.05
        everywhere = np.median(np.abs(rest))
        disc, bone, shell = (
            max(1.4826 * float(np.median(np.abs(rest[kind])) if kind.sum() > 50 else everywhere), _LEAST_NOISE_HU) ** 2
            for kind in (no_plate & (inner < 0.1), no_plate & (inner > 0.9), ~no_plate)
        )
        of_plate, of_bone = np.clip(plate / 0.05, 0.0, 1.0), np.clip(inner, 0.0, 1.0)
        return np.asarray(np.sqrt(of_plate * shell + (1.0 - of_plate) * (of_bone * bone + (1.0 - of_bone) * disc)))

    def _cost(self, unknowns: NDArray[np.float64], noise: NDArray[np.float64]) -> float:
        coefficients, brightness, log_blur = self._split(unknowns)
        seen = [self._seen(n, c, log_blur) for n, c in enumerate(coefficients)]
        total = _cauchy((self.hu - self._design(seen) @ brightness) / noise, _OUTLIER) / _CORRELATED
        for surface, c in zip(self.surfaces, coefficients, strict=True):
            total += _cauchy((surface.bending @ c) / _BEND_SD_PER_MM, 2.0)
            total += float((((c - surface.start) / _ANCHOR_SD_MM) ** 2).sum())
        return total + float((((brightness - self.prior) / self.prior_sd) ** 2).sum()) + (log_blur / _LOG_BLUR_SD) ** 2

    def _normal(
        self, unknowns: NDArray[np.float64], noise: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Normal matrix and gradient of the reweighted problem."""
        coefficients, brightness, log_blur = self._split(unknowns)
        seen = [self._seen(n, c, log_blur) for n, c in enumerate(coefficients)]
        design = self._design(seen)
        rest = self.hu - design @ brightness
        weight = 1.0 / (1.0 + (rest / (_OUTLIER * noise)) ** 2) / (noise**2 * _CORRELATED)
        disc = self.field @ brightness[:_LINEAR]
        slopes = []
        for n, (share, s) in enumerate(zip(self.present, seen, strict=True)):
            bone = brightness[_LINEAR + n * (4 + _LINEAR) :][:4]
            deep = np.clip(s.depth_mm, 0.0, 2.0 * _DEPTH_FIELD_MM) / _DEPTH_FIELD_MM
            inner = self.field[:, :3] @ bone[:3] + bone[3] * deep
            plate = self.field @ self._plate(brightness, n)
            per_mm = share * ((inner - disc) * s.body_slope + plate * s.shell_slope) / s.stretch
            slopes.append(sparse.diags(per_mm) @ self.bases[n][0])
        more = 0.02
        blurred = self._design([self._seen(n, c, log_blur + more) for n, c in enumerate(coefficients)])
        dense = np.concatenate([design, (((blurred - design) @ brightness) / more)[:, None]], axis=1)
        places = sparse.hstack(slopes).tocsr()
        weighted = sparse.diags(weight) @ places
        cross = weighted.T @ dense
        normal = np.block([[(places.T @ weighted).toarray(), cross], [cross.T, dense.T @ (dense * weight[:, None])]])
        gradient = np.concatenate([weighted.T @ rest, dense.T @ (weight * rest)])
        for start, surface, c in zip(self.first, self.surfaces, coefficients, strict=False):
            bend = surface.bending @ c
            stiff = 1.0 / _BEND_SD_PER_MM**2 / (1.0 + (bend / (2.0 * _BEND_SD_PER_MM)) ** 2)
            part = slice(start, start + len(c))
            normal[part, part] += (surface.bending.T @ sparse.diags(stiff) @ surface.bending).toarray()
            normal[part, part] += np.eye(len(c)) / _ANCHOR_SD_MM**2
            gradient[part] -= surface.bending.T @ (stiff * bend) + (c - surface.start) / _ANCHOR_SD_MM**2
        linear = np.arange(self.first[-1], len(unknowns) - 1)
        normal[linear, linear] += 1.0 / self.prior_sd**2
        gradient[linear] -= (brightness - self.prior) / self.prior_sd**2
        normal[-1, -1] += 1.0 / _LOG_BLUR_SD**2
        gradient[-1] -= log_blur / _LOG_BLUR_SD**2
        return normal, gradient

    def _first_brightness(self, seen: list[_Seen]) -> NDArray[np.float64]:
        """Brightness of disc, bone and plates if the faces lay where they are said to."""
        design = self._design(seen)
        rough = 4.0 * _CORRELATED * _LEAST_NOISE_HU**2
        matrix = design.T @ design / rough + np.diag(1.0 / self.prior_sd**2)
        return np.asarray(
            np.linalg.solve(matrix, design.T @ self.hu / rough + self.prior / self.prior_sd**2), np.float64
        )

    def _fitted(self, start: list[NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Unknowns and noise after damped Gauss-Newton steps from these surfaces."""
        seen = [self._seen(n, c, 0.0) for n, c in enumerate(start)]
        brightness = self._first_brightness(seen)
        unknowns = np.concatenate([*start, brightness, [0.0]])
        noise = self._noise(self.hu - self._design(seen) @ brightness, seen)
        damping = 1e-3
        for round_ in range(_ROUNDS):
            normal, gradient = self._normal(unknowns, noise)
            before = self._cost(unknowns, noise)
            for _ in range(6):
                damped = normal + damping * np.diag(np.diag(normal))
                step = np.asarray(linalg.solve(damped, gradient, assume_a="pos", check_finite=False), np.float64)
                moved = max(
                    float(np.abs(surface.lattice_basis @ c).max())
                    for surface, c in zip(self.surfaces, self._split(step)[0], strict=True)
                )
                tried = unknowns + step * min(1.0, _STEP_MM / max(moved, 1e-9))
                tried[-1] = np.clip(tried[-1], *_LOG_BLUR_RANGE)
                after = self._cost(tried, noise)
                if after <= before:
                    break
                damping = max(8.0 * damping, 1e-3)
            else:
                break
            unknowns, damping = tried, max(damping / 5.0, 1e-6)
            if round_ < 8:
                coefficients, brightness, log_blur = self._split(unknowns)
                seen = [self._seen(n, c, log_blur) for n, c in enumerate(coefficients)]
                noise = self._noise(self.hu - self._design(seen) @ brightness, seen)
            elif moved < _SETTLED_MM or before - after < 0.05:
                break
        return unknowns, noise

    def _searched(self, unknowns: NDArray[np.float64], noise: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Surfaces where each column fits best, neighbours considered: a way out of a place between two slices."""
        coefficients, brightness, log_blur = self._split(unknowns)
        coefficients, brightness = [c.copy() for c in coefficients], brightness.copy()
        for n in range(len(self.plates)):
            self._plate(brightness, n)[1:] = 0.0
        offsets = np.arange(-_SEARCH_MM, _SEARCH_MM + 0.01, _SEARCH_STEP_MM)
        for n, surface in enumerate(self.surfaces):
            seen = [self._seen(m, c, log_blur) for m, c in enumerate(coefficients)]
            near = (np.abs(seen[n].depth_mm) < _SEARCH_MM + 2 * self.half_slice_mm) & (self.present[n] > 0)
            centres, counts, node = surface.nodes(self.local[n][near], _NODE_MM)
            total = counts[0] * counts[1]
            table = np.zeros((total, len(offsets)), np.float32)
            for column, offset in enumerate(offsets):
                seen[n] = self._seen(n, coefficients[n], log_blur, float(offset))
                rest = (self.hu - self._design(seen) @ brightness)[near] / (_OUTLIER * noise[near])
                loss = 0.5 * _OUTLIER**2 * np.log1p(rest**2) / _CORRELATED
                table[:, column] = np.bincount(node, loss, minlength=total) + 0.5 * (offset / 3.0) ** 2
            best = aggregate(table.reshape(*counts, -1), p1=_SEARCH_P1, p2=_SEARCH_P2).ravel()
            target = surface.basis(centres)[0] @ coefficients[n] + offsets[0] + _SEARCH_STEP_MM * best
            known = np.where(np.bincount(node, minlength=total) > 0, 1.0, 1e-3)
            coefficients[n] = surface.fitted(centres, target, known, bending=30.0)
        return coefficients


def _cauchy(ratio: NDArray[np.float64], outlier: float) -> float:
    """Sum of squares in which what lies beyond `outlier` counts less and less."""
    return float((outlier**2 * np.log1p((ratio / outlier) ** 2)).sum())


def _blurred_step(
    depth_mm: NDArray[np.float64], half_mm: NDArray[np.float64], sd_mm: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of a voxel that lies below a face, blurred by a box and a Gaussian, and its derivative with depth."""

    def integral(y: NDArray[np.float64]) -> NDArray[np.float64]:
        z = y / sd_mm
        return np.asarray(y * ndtr(z) + sd_mm * np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi))

    high, low = depth_mm + half_mm, depth_mm - half_mm
    share = (integral(high) - integral(low)) / (2.0 * half_mm)
    return share, (ndtr(high / sd_mm) - ndtr(low / sd_mm)) / (2.0 * half_mm)
