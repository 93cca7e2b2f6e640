"""What can be seen of the level of a body: ribs and transverse processes beside it, and the sacrum below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipeline.segmentation.sampling import sample_lps
from pipeline.segmentation.spine.body import BodyModel
from pipeline.segmentation.spine.discs import Disc
from pipeline.segmentation.spine.ribs import Rib, follow_rib
from pipeline.segmentation.spine.tube import BACK_REACH_MM, LEFT_REACH_MM, Outlines, Tube
from pipeline.volume import Grid

BONE_HU = 160.0
_CELL_MM = 2.0
_LATERAL_FIELD_MM = 70.0
# The root of a process may be met a little way out of the wall of the body.
_ROOT_STEPS = 4
_STARTS, _START_STRIDE = 4, 3
SACRAL_SIGNS = 3
_SACRAL_DEPTH_MM = 30.0
_LUMBAR_WIDTH_RATIO = 0.85


@dataclass(frozen=True)
class LevelSigns:
    """What can be seen of the level of one body.

    Attributes
    ----------
    reach_mm : tuple of float
        How far from the midline the bone that starts at the vertebra reaches, left and right (rib or transverse process).
    cut_off : tuple of bool
        Whether that bone runs out of the scanned field, left and right, or the field ends within 70 mm of the midline.
    width_mm : float
    sacral_signs : int
        How many of the four signs of the sacrum are seen.
    ribs : tuple of Rib or None
        That bone followed to its tip, left and right; None where it was not followed.
    below_in_view : bool
        Whether enough lies in view to miss the signs of the sacrum.
    may_begin_lower : bool
        Whether the disc below shows more signs of the sacrum and is as wide as a lumbar one.
    """

    reach_mm: tuple[float, float]
    cut_off: tuple[bool, bool]
    width_mm: float
    sacral_signs: int
    ribs: tuple[Rib | None, Rib | None] = (None, None)
    below_in_view: bool = True
    may_begin_lower: bool = False

    @property
    def longest_rib(self) -> Rib | None:
        """The longer of both sides: the other one may have been lost in the joints beside the vertebra."""
        return max((rib for rib in self.ribs if rib is not None), key=lambda rib: rib.length_mm, default=None)


def level_signs(hu: NDArray[np.float32], grid: Grid, model: BodyModel, sacral_signs: int) -> LevelSigns:
    """Look beside one body for ribs and transverse processes.

    Parameters
    ----------
    hu : float32 ndarray of shape (Z, Y, X)
        Relative HU on a coarse isotropic `grid` of the whole width of the scan.
    model : BodyModel
    sacral_signs : int
        See `count_sacral_signs`.
    """
    half_width, half_height = 0.5 * model.width_mm, 0.5 * model.height_mm
    left = np.arange(0.0, 110.0, _CELL_MM)
    posterior = np.arange(-10.0, 92.0, _CELL_MM)
    superior = np.arange(-92.0, half_height + 12.0, _CELL_MM)
    first = int(np.ceil((half_width + 3.0) / _CELL_MM))
    start_w = np.abs(superior) <= half_height + 3.0
    start_v = (posterior >= 0.0) & (posterior <= 0.5 * model.depth_mm + 25.0)
    start = start_w[:, None] & start_v[None, :]
    beside = (int(np.argmin(np.abs(superior))), int(np.argmin(np.abs(posterior - 20.0))))
    reach, cut, ribs = [], [], []
    for side in (1.0, -1.0):
        points = model.frame.to_lps(side * left[None, None, :], posterior[None, :, None], superior[:, None, None])
        values = sample_lps(hu, grid, points, fill=np.nan)
        path = np.zeros((len(left), 3))
        steps, lost = _sweep_outward(values, start, first, BONE_HU, path)
        field_mm = _CELL_MM * float(np.isfinite(values[beside]).sum())
        reach.append(float(left[steps]))
        cut.append(bool(lost) or field_mm < _LATERAL_FIELD_MM)
        met = [i for i in range(first + _ROOT_STEPS, steps + 1) if path[i, 2] > 0][::_START_STRIDE][:_STARTS]
        starts = [
            (
                model.frame.to_lps(
                    np.array(side * left[i]),
                    np.array(posterior[0] + _CELL_MM * path[i, 1]),
                    np.array(superior[0] + _CELL_MM * path[i, 0]),
                ),
                float(left[i]) - half_width,
            )
            for i in met
        ]
        outward = side * model.frame.left + 0.3 * model.frame.posterior - 0.2 * model.frame.superior
        ribs.append(follow_rib(hu, grid, starts, outward / np.linalg.norm(outward), bone_hu=BONE_HU))
    return LevelSigns((reach[0], reach[1]), (cut[0], cut[1]), model.width_mm, sacral_signs, (ribs[0], ribs[1]))


def signs_below(tube: Tube, chain: Sequence[Disc], sacral_signs: Sequence[int], last: int) -> LevelSigns:
    """What is known of whatever lies below the last disc: only whether it looks like the sacrum, if it is in view at all.

    Parameters
    ----------
    chain : sequence of Disc
        All discs from cranial to caudal, those within the sacrum included.
    sacral_signs : sequence of int
        Of each of them.
    last : int
        Index of the one above the sacrum, or of the last one.
    """
    disc = chain[last]
    deeper = int(disc.s_mm - _SACRAL_DEPTH_MM)
    in_view = deeper > 0 and bool(np.isfinite(tube.hu[deeper, BACK_REACH_MM + 10, LEFT_REACH_MM]))
    # Between L4 and a deep-seated L5 the ilium, the processes of L5 and a tilted pelvis may pass for the sacrum.
    lower = False
    if sacral_signs[last] >= SACRAL_SIGNS and last + 1 < len(chain):
        wide = chain[last + 1].width_mm > _LUMBAR_WIDTH_RATIO * disc.width_mm
        lower = sacral_signs[last + 1] > sacral_signs[last] and wide
    return LevelSigns(
        (0.0, 0.0),
        (True, True),
        disc.width_mm,
        sacral_signs[last],
        below_in_view=in_view,
        may_begin_lower=lower,
    )


def count_sacral_signs(hu: NDArray[np.float32], grid: Grid, tube: Tube, outlines: Outlines, disc: Disc) -> int:
    """How many of four signs say that what lies under a disc is the sacrum.

    The signs: bone on both sides of the body (the wings), bone farther out on both sides (the ilium), an upper plate that
    looks forward by more than 25 degrees, and a body that narrows to less than three quarters within 30 mm.
    """
    canal = tube.to_lps(np.array(disc.s_mm), np.array(0.0), np.array(0.0)) - disc.centre_lps_mm
    posterior = canal - (canal @ disc.normal_lps) * disc.normal_lps
    posterior /= np.linalg.norm(posterior)
    left = np.cross(posterior, disc.normal_lps)
    w = np.arange(-22.0, -5.0, _CELL_MM)[:, None, None]

    def share_of_bone(near_mm: float, far_mm: float, front_mm: float, back_mm: float, bone_hu: float) -> float:
        """The smaller of both sides."""
        v = np.arange(-front_mm, back_mm + 0.1, _CELL_MM)[None, :, None, None]
        shares = []
        for side in (1.0, -1.0):
            u = side * np.arange(near_mm, far_mm + 0.1, _CELL_MM)[None, None, :, None]
            values = sample_lps(
                hu, grid, disc.centre_lps_mm + u * left + v * posterior + w[..., None] * disc.normal_lps, fill=np.nan
            )
            known = np.isfinite(values)
            shares.append(float((values[known] > bone_hu).mean()) if known.mean() > 0.5 else 0.0)
        return min(shares)

    wings = share_of_bone(28.0, 46.0, 12.0, 15.0, 120.0) > 0.15
    ilium = share_of_bone(50.0, 90.0, 10.0, 50.0, BONE_HU) > 0.15
    ahead = tube.front[int(np.clip(disc.s_mm, 0, len(tube.front) - 1))] * (1.0, 1.0, 0.0)
    ahead /= np.linalg.norm(ahead)
    forward = np.degrees(np.arctan2(disc.normal_lps @ ahead, disc.normal_lps[2])) > 25.0
    deeper = disc.s_mm - _SACRAL_DEPTH_MM
    in_view = deeper > 0 and bool(np.isfinite(tube.hu[int(deeper), BACK_REACH_MM + 10, LEFT_REACH_MM]))
    narrow = in_view and float(np.interp(deeper, outlines.s_mm, outlines.width_mm)) < 0.75 * disc.width_mm
    return int(wings) + int(ilium) + int(forward) + int(narrow)


@njit(cache=True, nogil=True)
def _sweep_outward(values, start, first, threshold, path):  # type: ignore[no-untyped-def]
    """Last lateral step that bone from the start zone reaches, moving outward only, and whether it left the field.

    `path` (width, 3) takes the mean indices (k, j) of the bone at each step, and its amount.
    """
    depth, height, width = values.shape
    front = np.zeros((depth, height), np.bool_)
    for k in range(depth):
        for j in range(height):
            # The root may be reached within three steps of the wall: a process leaves the body a little way out.
            for i in range(first, min(first + _ROOT_STEPS, width)):
                if start[k, j] and values[k, j, i] > threshold:
                    front[k, j] = True
    last = first
    lost = False
    for i in range(first + _ROOT_STEPS, width):
        following = np.zeros((depth, height), np.bool_)
        found = False
        missing = 0
        total = 0
        for k in range(depth):
            for j in range(height):
                if not front[k, j]:
                    continue
                total += 1
                # A rib that is cut runs along the border of the field for a while before it ends there.
                if np.isnan(values[k, j, i]) or np.isnan(values[k, min(j + 2, height - 1), i]):
                    missing += 1
                for kk in range(max(k - 2, 0), min(k + 3, depth)):
                    for jj in range(max(j - 2, 0), min(j + 3, height)):
                        if values[kk, jj, i] > threshold:
                            following[kk, jj] = True
                            found = True
        if not found:
            lost = 5 * missing > total
            break
        last = i
        front = following
        for k in range(depth):
            for j in range(height):
                if front[k, j]:
                    path[i, 0] += k
                    path[i, 1] += j
                    path[i, 2] += 1.0
        path[i, 0] /= path[i, 2]
        path[i, 1] /= path[i, 2]
    return last, lost
