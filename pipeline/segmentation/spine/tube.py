"""The spine pulled straight: planes across the canal, stacked along it, and the outline of the bodies in them.

Positions are (s, v, u): millimetres along the canal from its caudal end, towards the front of the patient from the centre of
the canal, and to the left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.segmentation.sampling import sample_lps
from pipeline.segmentation.surface import aggregate
from pipeline.volume import Grid

LEFT_REACH_MM = 50
BACK_REACH_MM = 20
FRONT_REACH_MM = 60
_ANGLES = 72
_RADII_MM = np.arange(4.0, 42.01, 0.5)
_WIDE_RADII_MM = np.arange(3.0, 44.01, 0.5)
_CONTOUR_STEP_MM = 4
_AVERAGE_HALF_MM = 16
_EXTENSION_MM = 12


@dataclass(frozen=True)
class Tube:
    """A curved stack of planes across the canal, 1 mm apart, sampled at 1 mm.

    Attributes
    ----------
    centre_lps_mm : float ndarray of shape (N, 3)
        Centre of the canal, from caudal to cranial.
    left, front, up : float ndarray of shape (N, 3)
        Unit axes of each plane, in LPS; `up` runs along the canal.
    hu : float32 ndarray of shape (N, V, U)
        Relative HU; NaN outside the scanned volume.
    """

    centre_lps_mm: NDArray[np.float64]
    left: NDArray[np.float64]
    front: NDArray[np.float64]
    up: NDArray[np.float64]
    hu: NDArray[np.float32]

    def to_lps(self, s_mm: NDArray, v_mm: NDArray, u_mm: NDArray) -> NDArray[np.float64]:
        """LPS points (..., 3) of tube coordinates, which are broadcast together."""
        s, v, u = np.broadcast_arrays(np.asarray(s_mm, float), np.asarray(v_mm, float), np.asarray(u_mm, float))
        place = np.arange(len(self.centre_lps_mm))

        def at(values: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.stack([np.interp(s, place, values[:, c]) for c in range(3)], axis=-1)

        beyond = s - np.clip(s, 0, len(place) - 1)
        points: NDArray[np.float64] = (
            at(self.centre_lps_mm) + v[..., None] * at(self.front) + u[..., None] * at(self.left)
            + beyond[..., None] * at(self.up)
        )  # fmt: skip
        return points


@dataclass(frozen=True)
class Outlines:
    """Outline of the bodies and discs along the tube, averaged over about one vertebra.

    Attributes
    ----------
    s_mm : float ndarray of shape (P,)
    centre_mm : float ndarray of shape (P, 2)
        Centroid (v, u) of each outline.
    radius_mm : float ndarray of shape (P, A)
        Radius at A equal angles from `u` towards `v`.
    width_mm : float ndarray of shape (P,)
        Twice the median radius towards the sides: rib heads widen the outline but not this.
    depth_mm : float ndarray of shape (P,)
    edge : float ndarray of shape (P,)
        Mean drop of HU across the outline over 100.
    """

    s_mm: NDArray[np.float64]
    centre_mm: NDArray[np.float64]
    radius_mm: NDArray[np.float64]
    width_mm: NDArray[np.float64]
    depth_mm: NDArray[np.float64]
    edge: NDArray[np.float64]

    def at(self, s_mm: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centre (v, u) and radii (A,) at one position."""

        def along(values: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.array([np.interp(s_mm, self.s_mm, column) for column in values.T])

        return along(self.centre_mm), along(self.radius_mm)


def straighten(
    points_lps_mm: NDArray[np.float64], hu: NDArray[np.float32], grid: Grid, *, turn_rad: float = 0.0
) -> Tube:
    """Sample planes across a smoothed canal.

    Parameters
    ----------
    points_lps_mm : float ndarray of shape (N, 3)
        Canal, one point per slice of some grid, caudal to cranial.
    hu : float32 ndarray of shape (Z, Y, X)
        Relative HU on `grid`.
    turn_rad : float
        How far the patient is turned about the long axis; see `patient_turn`.
    """
    line = _smooth_line(points_lps_mm)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    even = np.arange(0.0, length[-1], 1.0)
    centre = np.stack([np.interp(even, length, line[:, c]) for c in range(3)], axis=1)
    up = ndimage.gaussian_filter1d(np.gradient(centre, axis=0), 6.0, axis=0, mode="nearest")
    up /= np.linalg.norm(up, axis=1, keepdims=True)
    # A body that is tilted against the canal reaches beyond the last plane across it.
    beyond = np.arange(1.0, _EXTENSION_MM + 1)[:, None]
    centre = np.concatenate([centre[0] - beyond[::-1] * up[0], centre, centre[-1] + beyond * up[-1]])
    up = np.concatenate([np.repeat(up[:1], _EXTENSION_MM, axis=0), up, np.repeat(up[-1:], _EXTENSION_MM, axis=0)])
    ahead = front_of_patient(turn_rad)
    front = ahead - (up @ ahead)[:, None] * up
    front /= np.linalg.norm(front, axis=1, keepdims=True)
    left = np.cross(up, front)
    v = np.arange(-BACK_REACH_MM, FRONT_REACH_MM + 1.0)
    u = np.arange(-LEFT_REACH_MM, LEFT_REACH_MM + 1.0)
    planes = np.empty((len(centre), len(v), len(u)), np.float32)
    for n in range(len(centre)):
        points = centre[n] + v[:, None, None] * front[n] + u[None, :, None] * left[n]
        planes[n] = sample_lps(hu, grid, points, fill=np.nan)
    return Tube(centre, left, front, up, planes)


def front_of_patient(turn_rad: float) -> NDArray[np.float64]:
    """Where the patient looks (LPS, horizontal), turned by so much to the patient's left from looking straight up."""
    return np.array([np.sin(turn_rad), -np.cos(turn_rad), 0.0])


def patient_turn(tube: Tube, outlines: Outlines) -> float:
    """How far the bodies lie to the left (rad) of straight in front of the canal: the turn of the patient about the long axis.

    The median over the lower 150 mm of what has a clear outline; a scoliotic curve turns single bodies, not the pelvis.
    """
    clear = np.flatnonzero(outlines.edge > 1.0)
    if len(clear) < 8:
        return 0.0
    low = clear[outlines.s_mm[clear] <= outlines.s_mm[clear[0]] + 150.0]
    places = outlines.s_mm[low].astype(int)
    offset = (
        outlines.centre_mm[low, :1] * tube.front[places] + outlines.centre_mm[low, 1:] * tube.left[places]
    )  # from the canal to the middle of the body
    return float(np.median(np.arctan2(offset[:, 0], -offset[:, 1])))


def _smooth_line(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Local-linear smoothing along the line, sigma 12 mm, reweighted three times against outliers."""
    spacing = float(np.median(np.linalg.norm(np.diff(points, axis=0), axis=1)))
    place = np.arange(len(points)) * spacing
    kernel = np.exp(-0.5 * ((place[:, None] - place) / 12.0) ** 2)
    trust = np.ones(len(points))
    smooth = points
    for _ in range(4):
        weight = kernel * trust
        offset = place - place[:, None]
        s0, s1, s2 = weight.sum(1), (weight * offset).sum(1), (weight * offset**2).sum(1)
        t0, t1 = weight @ points, (weight * offset) @ points
        smooth = (s2[:, None] * t0 - s1[:, None] * t1) / (s0 * s2 - s1**2)[:, None]
        residual = np.linalg.norm(points - smooth, axis=1)
        trust = 1.0 / (1.0 + (residual / 3.0) ** 2)
    return smooth


def find_outlines(tube: Tube) -> Outlines:
    """Outline of the vertebral bodies along the tube, found as one closed surface around the averaged planes."""
    averaged, places = _moving_average(tube.hu)
    angles = np.linspace(0.0, 2 * np.pi, _ANGLES, endpoint=False)
    centre = np.tile([20.0, 0.0], (len(places), 1))
    radius = np.zeros((len(places), _ANGLES))
    edge = np.zeros(len(places))
    for _ in range(3):
        v, u = _polar_points(centre, angles, _RADII_MM)
        # Sampled once from 1 mm inside the first radius to 2 mm outside the last, at half a millimetre.
        wide = _sample_planes(averaged, *_polar_points(centre, angles, _WIDE_RADII_MM))
        inner, outer, here = wide[:, :, :-6], wide[:, :, 6:], wide[:, :, 2:-4]
        # The edge of the lung is stronger than that of bone: air and fat count as equally dark.
        drop = np.clip(np.maximum(inner, -50.0) - np.maximum(outer, -50.0), -60.0, 200.0) / 100.0
        dark = np.cumsum(np.maximum(60.0 - here, 0.0), axis=2) * (0.5 / 100.0)
        cost = -drop + 0.25 * dark
        # The canal and what lies behind its front wall is never part of a body.
        cost[(v < 2.0) | (np.hypot(v, u) < 7.0)] = np.inf
        cost[:, :, 0] = np.where(np.isinf(cost).all(axis=2), 0.0, cost[:, :, 0])
        found = aggregate(cost.transpose(1, 0, 2), p1=0.08, p2=12.0, circular=(True, False)).T
        radius = _RADII_MM[0] + 0.5 * found
        nearest = np.rint(found).astype(int)
        edge = np.take_along_axis(drop, nearest[:, :, None], axis=2)[:, :, 0].mean(axis=1)
        v, u = centre[:, :1] + radius * np.sin(angles), centre[:, 1:] + radius * np.cos(angles)
        centroid = np.stack([v.mean(axis=1), u.mean(axis=1)], axis=1)
        centre = ndimage.gaussian_filter1d(centroid, 2.0, axis=0, mode="nearest")
    points_v = centre[:, :1] + radius * np.sin(angles)
    sideways = np.abs(np.cos(angles)) > np.cos(np.radians(18.0))
    width = 2.0 * np.median(radius[:, sideways], axis=1)
    return Outlines(places.astype(float), centre, radius, width, np.ptp(points_v, axis=1), edge)


def _moving_average(planes: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Planes averaged over one vertebra and disc, every few mm; missing values are left out of the average."""
    known = np.isfinite(planes)
    total = np.cumsum(np.where(known, planes, 0.0), axis=0, dtype=np.float64)
    count = np.cumsum(known, axis=0, dtype=np.int32)
    places = np.arange(0, len(planes), _CONTOUR_STEP_MM)
    low = np.clip(places - _AVERAGE_HALF_MM, 0, len(planes) - 1)
    high = np.clip(places + _AVERAGE_HALF_MM, 0, len(planes) - 1)
    amount = count[high] - count[low]
    mean = np.where(amount > 0, (total[high] - total[low]) / np.maximum(amount, 1), -1000.0)
    return mean.astype(np.float32), places


def _polar_points(
    centre: NDArray[np.float64], angles: NDArray[np.float64], radii: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(v, u) of shape (P, A, R) about centres (P, 2)."""
    v = centre[:, 0, None, None] + np.sin(angles)[:, None] * radii
    u = centre[:, 1, None, None] + np.cos(angles)[:, None] * radii
    return v, u


def _sample_planes(planes: NDArray[np.float32], v: NDArray, u: NDArray) -> NDArray[np.float32]:
    """Bilinear values (P, A, R) of planes (P, V, U) at tube coordinates, plane by plane."""
    out = np.empty(v.shape, np.float32)
    for p in range(len(planes)):
        index = [v[p] + BACK_REACH_MM, u[p] + LEFT_REACH_MM]
        out[p] = ndimage.map_coordinates(planes[p], index, order=1, mode="constant", cval=-1000.0)
    return out
