"""A second opinion on each body, by means that share nothing with the surfaces and little with the disc chain.

Two questions are asked. Does a watershed, which knows neither smoothness nor an averaged outline, find the same body between
the same discs? And do the pedicles agree with the discs: one pair to each body, and none at the height of a disc? Pedicles
are bone 8 to 16 mm high with gaps of as much between them: still seen where slices are too thick to show a thoracic disc.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from pipeline.segmentation.sampling import sample_lps
from pipeline.segmentation.spine.body import ANGLES, BodyModel
from pipeline.segmentation.spine.discs import Disc
from pipeline.segmentation.spine.tube import BACK_REACH_MM, LEFT_REACH_MM, Tube
from pipeline.volume import Grid

_LATTICE_MM = 1.5
_REACH_MM = 9.0
_AIR_LEVEL_HU = -50.0
_CORE, _CORE_HEIGHT = 0.5, 0.25
_OUTSIDE_MM = 6.0
_PEDICLE_ASIDE_MM, _PEDICLE_BAND_MM = (7.0, 21.0), 3
_PEDICLE_FRONT_MM = (0.0, 7.0)
_SMOOTH_MM = 1.5
_CLEAR_DICE = 0.8


@dataclass(frozen=True)
class SecondOpinion:
    """What other means say of one body.

    Attributes
    ----------
    watershed_dice : float
        Overlap of the outline with that of a watershed between the same discs.
    pedicle_contrast_hu : float
        Brightest pedicle level within the body less the brighter of the two discs' levels, in relative HU: about 200 and more
        where discs and pedicles agree, near zero or below where a disc was put at the height of a pedicle; NaN out of view.
    """

    watershed_dice: float
    pedicle_contrast_hu: float


def pedicle_profile(tube: Tube) -> NDArray[np.float64]:
    """Relative HU beside and in front of the canal, along it: high where pedicles join the bodies, low at the foramina.

    Returns
    -------
    float ndarray of shape (N,)
        The mean of both sides at each plane of the tube; NaN where neither is in view.
    """
    rows = slice(BACK_REACH_MM + int(_PEDICLE_FRONT_MM[0]), BACK_REACH_MM + int(_PEDICLE_FRONT_MM[1]) + 1)
    first, last = (int(v) for v in _PEDICLE_ASIDE_MM)
    sides = []
    for sense in (1, -1):
        columns = LEFT_REACH_MM + sense * np.arange(first, last + 1)
        # Bone from front to back in a band 3 mm wide is a pedicle; a facet or a rib head is not that deep.
        band = ndimage.uniform_filter1d(tube.hu[:, rows][:, :, columns].mean(axis=1), _PEDICLE_BAND_MM, axis=1)
        sides.append(band[:, 1:-1].max(axis=1))
    both = np.stack(sides)
    known = np.isfinite(both)
    mean = np.where(known, both, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    smooth = ndimage.gaussian_filter1d(mean, _SMOOTH_MM, mode="nearest")
    return np.where(known.any(axis=0), smooth, np.nan)


def second_opinion(
    hu: NDArray[np.float32], grid: Grid, body: BodyModel, above: Disc, below: Disc, tube: Tube, pedicles: NDArray
) -> SecondOpinion:
    """Ask the watershed and the pedicles about one body.

    Parameters
    ----------
    hu : float32 ndarray of shape (Z, Y, X)
        Relative HU on the fine `grid`.
    body, above, below
        The body and its discs.
    pedicles : float ndarray of shape (N,)
        See `pedicle_profile`.
    """
    return SecondOpinion(_watershed_dice(hu, grid, body, above, below), _pedicle_contrast(tube, pedicles, above, below))


def _pedicle_contrast(tube: Tube, pedicles: NDArray, above: Disc, below: Disc) -> float:
    """Best pedicle level between two discs less the higher level at a disc, along the canal."""
    place = [_canal_place(tube, disc) for disc in (below, above)]
    low, high = sorted(place)
    between = pedicles[int(np.ceil(low + 2.0)) : int(high - 1.0)]
    if len(between) < 5 or not np.isfinite(between).any():
        return float("nan")
    steps = np.arange(len(pedicles))
    # A disc lies in the lower part of its foramen: what counts is the darkest level within 3 mm of it.
    levels = [np.nanmin(np.append(pedicles[np.abs(steps - s) <= 3.0], np.inf)) for s in place]
    return float(np.nanmax(between) - max(levels))


def _canal_place(tube: Tube, disc: Disc) -> float:
    """Position along the tube at which the plane of a disc meets the canal."""
    height = (tube.centre_lps_mm - disc.centre_lps_mm) @ disc.normal_lps
    near = np.abs(np.arange(len(height)) - disc.s_mm) < 40.0
    return float(np.argmin(np.where(near, np.abs(height), np.inf)))


def _watershed_dice(hu: NDArray[np.float32], grid: Grid, body: BodyModel, above: Disc, below: Disc) -> float:
    reach = float(np.percentile(body.wall_mm, 95)) + _REACH_MM
    across = np.arange(-reach, reach + 0.1, _LATTICE_MM)
    along = np.arange(float(np.median(body.lower_mm)) - 14.0, float(np.median(body.upper_mm)) + 14.0, _LATTICE_MM)
    u, v, w = np.meshgrid(across, across, along, indexing="ij")
    points = body.frame.to_lps(u, v, w)
    values = sample_lps(hu, grid, points, fill=np.nan)
    seen = np.isfinite(values)
    values = np.where(seen & (values > _AIR_LEVEL_HU), values, np.float32(_AIR_LEVEL_HU))
    index = [(u[:, :, 0] - body.left_mm[0]) / 1.5, (v[:, :, 0] - body.posterior_mm[0]) / 1.5]
    lower, upper = (
        ndimage.map_coordinates(field, index, order=1, mode="nearest")[:, :, None]
        for field in (body.lower_mm, body.upper_mm)
    )
    relative = (w - lower) / np.maximum(upper - lower, 1.0)
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    ring = np.arange(ANGLES) * (2 * np.pi / ANGLES)
    outline = np.median(body.wall_mm, axis=1)
    wall = np.interp(angle, ring, outline, period=2 * np.pi)
    core = (radius < _CORE * wall) & (np.abs(relative - 0.5) < _CORE_HEIGHT)
    beyond = radius > wall + _OUTSIDE_MM
    for disc, sense in ((above, 1.0), (below, -1.0)):
        beyond |= sense * ((points - disc.centre_lps_mm) @ disc.normal_lps) > 0.0
    heights = body.wall_mm.shape[1]
    step = np.clip(relative * heights - 0.5, 0, heights - 1)
    at = [(angle % (2 * np.pi)) / (2 * np.pi) * ANGLES, step]
    edge = ndimage.map_coordinates(np.vstack([body.wall_mm, body.wall_mm[:1]]), at, order=1, mode="nearest")
    ours = (relative >= 0) & (relative <= 1) & (radius <= edge)
    markers = np.where(core, 1, np.where(beyond & ~core, 2, 0))
    smooth = ndimage.gaussian_filter(values, 0.7)
    slope = np.stack(np.gradient(smooth, _LATTICE_MM))
    agreement = _flooded(np.linalg.norm(slope, axis=0), markers, ours)
    if agreement >= _CLEAR_DICE:
        return agreement
    # The inner face of the cortex of a thin bone is as steep as the outer one: there, only what grows darker outwards counts.
    half = 0.5 * np.array([body.width_mm, body.depth_mm, max(body.height_mm, 5.0)])
    outwards = np.stack([u / half[0] ** 2, v / half[1] ** 2, (w - along.mean()) / half[2] ** 2])
    outwards /= np.maximum(np.linalg.norm(outwards, axis=0), 1e-9)
    return max(agreement, _flooded(np.maximum(-(slope * outwards).sum(axis=0), 0.0), markers, ours))


def _flooded(slope: NDArray[np.float64], markers: NDArray, ours: NDArray[np.bool_]) -> float:
    """Dice of our body with what a flood over `slope` (HU/mm) from the markers leaves to marker 1."""
    # Rounding to 5 HU per mm keeps the flood from following noise.
    found = watershed(np.rint(slope / 5.0).astype(np.int32), markers) == 1
    total = int(found.sum() + ours.sum())
    return 2.0 * float((found & ours).sum()) / total if total else 0.0
