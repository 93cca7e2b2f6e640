"""Where hips may lie in a study, and which of the spheres found there are the two femoral heads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.segmentation.femur import pair
from pipeline.segmentation.femur.head import SIDES, Field, Head, candidates, fit_sphere, settled_sphere
from pipeline.segmentation.femur.pair import ACCEPTED_SCORE

if TYPE_CHECKING:
    from pipeline.segmentation.spine import SpineResult

_SPINE_CLEARANCE_MM = 45.0
_LUNG_CLEARANCE_MM = 150.0
_L5_TO_HEADS_MM = 150.0
METAL_HU = 2300.0


@dataclass(frozen=True)
class Region:
    """Where on a coarse grid a femoral head may have its centre.

    Attributes
    ----------
    allowed : bool ndarray of shape (Z, Y, X)
    midline_x_mm : float or None
        LPS x of the patient's midline; None when the field of view does not tell.
    hips_in_view : bool
        True when the spine says that the hips must be in the volume.
    """

    allowed: NDArray[np.bool_]
    midline_x_mm: float | None
    hips_in_view: bool


def hip_region(field: Field, body: NDArray[np.bool_], spine: SpineResult | None) -> Region:
    """Inside the body, away from the midline and the spinal canal, below the fifth lumbar vertebra and far below the lungs.

    Each limit applies only as far as the field of view shows what it stands on.

    Parameters
    ----------
    field : Field
        On a grid of about 2 mm.
    body : bool ndarray of shape (Z, Y, X)
    spine : SpineResult or None
    """
    grid = field.grid
    allowed = body.copy()
    # Positions of the planes and columns; a volume may be oblique, so these are taken on its central lines.
    middle = (np.array(grid.shape) - 1) / 2
    z_mm = grid.to_lps(np.column_stack([np.arange(grid.shape[0]), *[np.full(grid.shape[0], m) for m in middle[1:]]]))[
        :, 2
    ]
    x_mm = grid.to_lps(np.column_stack([*[np.full(grid.shape[2], m) for m in middle[:2]], np.arange(grid.shape[2])]))[
        :, 0
    ]

    lung = _lung_share(field.hu, body) > 0.10
    if lung.any():
        allowed[z_mm > z_mm[np.flatnonzero(lung).min()] - _LUNG_CLEARANCE_MM] = False

    midline = _midline_of_body(body, x_mm)
    hips_in_view = False
    if spine is not None and spine.canal_lps_mm is not None and len(spine.canal_lps_mm):
        canal = np.asarray(spine.canal_lps_mm, float)
        lowest = canal[canal[:, 2] <= np.percentile(canal[:, 2], 20)]
        midline = float(np.median(lowest[:, 0]))
        order = np.argsort(canal[:, 2])
        at_x = np.interp(z_mm, canal[order, 2], canal[order, 0])
        off = np.abs(x_mm[None, :] - at_x[:, None])
        allowed &= (off > _SPINE_CLEARANCE_MM)[:, None, :]
        fifth = [v for v in spine.vertebrae if v.level == "L5"]
        if fifth:
            level_mm = float(fifth[0].frame.centre_lps_mm[2])
            allowed[z_mm > level_mm] = False
            hips_in_view = bool(z_mm.min() < level_mm - _L5_TO_HEADS_MM)
    if midline is not None:
        allowed &= (np.abs(x_mm - midline) > _SPINE_CLEARANCE_MM)[None, None, :]
    return Region(allowed, midline, hips_in_view)


def _lung_share(hu: NDArray[np.float32], body: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Share of each slice of the body that has the HU of aerated lung; smoothed over 10 mm.

    Lung counts where there is body on both sides of it, in front and behind or left and right: in a small reconstruction
    field the lungs reach the edge and do not belong to the body mask, while the mattress never has body beyond it.
    """
    share = np.zeros(len(hu))
    for k in range(len(hu)):
        between = np.zeros(body[k].shape, dtype=bool)
        for axis in (0, 1):
            before = np.logical_or.accumulate(body[k], axis=axis)
            after = np.flip(np.logical_or.accumulate(np.flip(body[k], axis), axis=axis), axis)
            between |= before & after
        lung = between & (hu[k] < -550) & (hu[k] > -940)
        share[k] = lung.sum() / max(int(between.sum()), 1)
    return np.asarray(ndimage.median_filter(share, size=5, mode="nearest"))


def _midline_of_body(body: NDArray[np.bool_], x_mm: NDArray[np.float64]) -> float | None:
    """Centre of mass, if the field of view holds both flanks or is at least 300 mm wide, which no view of one hip is."""
    profile: NDArray[np.bool_] = np.asarray(body.any(axis=1))
    ends = np.concatenate([profile[:, :2], profile[:, -2:]], axis=1)
    rows = np.flatnonzero(profile.any(axis=1))
    cut = np.asarray(ends.any(axis=1))[rows]
    field_mm = abs(float(x_mm[-1] - x_mm[0]))
    if cut.size == 0 or (cut.mean() > 0.3 and field_mm < 300.0):
        return None
    width = profile.sum(axis=1).astype(float) * abs(float(x_mm[1] - x_mm[0])) if len(x_mm) > 1 else np.zeros(1)
    # One leg, or a child's arm, is no trunk: its middle is not the midline.
    if np.percentile(width[width > 0], 80) < 240.0:
        return None
    columns = body.sum(axis=(0, 1)).astype(float)
    return float((columns * x_mm).sum() / columns.sum())


def find_heads(field: Field, region: Region, *, threads: int = 1) -> list[Head]:
    """At most one head for each side, chosen together when both are in view; possibly none.

    Where one side is sure and the other is not, the other is sought once more at its mirror image.

    When the midline is unknown and only one hip can be in view, both readings of its side may be returned, best first;
    the neck decides between them later.
    """
    found = candidates(field, region.allowed, threads=threads)
    if region.midline_x_mm is not None:
        found = [c for c in found if (c[1][0] > region.midline_x_mm) == (c[0] == "left")]
    with ThreadPoolExecutor(max(1, threads)) as pool:
        first = [h for h in pool.map(lambda c: fit_sphere(field, c[0], c[1]), found) if h is not None]
        worth = [h for side in SIDES for h in _distinct([h for h in first if h.side == side])[:4]]
        fits = list(pool.map(lambda h: settled_sphere(field, h.side, h.centre_lps_mm), worth))
    heads = {side: _distinct([h for h in fits if h is not None and h.side == side]) for side in SIDES}
    chosen = pair.chosen_heads(heads, region.midline_x_mm)
    if region.midline_x_mm is None:
        return chosen
    for side in SIDES:
        other = next((h for h in chosen if h.side != side), None)
        weak = next((h for h in chosen if h.side == side), None)
        if other is None or not pair.is_sure(heads[other.side]) or (weak is not None and weak.score >= ACCEPTED_SCORE):
            continue
        guided = pair.guided_by_mirror(field, other, region.midline_x_mm)
        if guided is not None and (weak is None or guided.score >= weak.score - 0.06):
            chosen = [other, guided]
    return chosen


def _distinct(heads: list[Head]) -> list[Head]:
    """Best first, no two closer than 6 mm."""
    kept: list[Head] = []
    for head in sorted(heads, key=lambda h: -h.score):
        if all(float(np.linalg.norm(head.centre_lps_mm - other.centre_lps_mm)) > 6.0 for other in kept):
            kept.append(head)
    return kept
