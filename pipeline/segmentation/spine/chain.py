"""From a CT volume to named vertebral bodies: the steps in order."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import Finding, Severity
from pipeline.segmentation.model import LABEL_OF, BodySurface, Vertebra
from pipeline.segmentation.sampling import body_mask, bone_hu_scale, index_box, resample_isotropic
from pipeline.segmentation.spine.body import BodyModel, fit_body, rasterise
from pipeline.segmentation.spine.canal import Canal, find_canal, relative_hu
from pipeline.segmentation.spine.discs import Disc, find_discs
from pipeline.segmentation.spine.levels import LevelSigns, count_sacral_signs, level_signs, name_levels
from pipeline.segmentation.spine.tube import Outlines, Tube, find_outlines, straighten
from pipeline.volume import Grid, Volume

_COARSE_MM = 2.0
_LEFT_RIGHT_MM, _FRONT_MM, _BACK_MM = 62.0, 70.0, 25.0
_PADDING_HU = -1500


@dataclass(frozen=True)
class SpineResult:
    """Vertebral bodies of a volume.

    Attributes
    ----------
    labels : uint8 ndarray of shape (Z, Y, X)
        Bodies and sacrum on the grid of the volume, numbers as in ``LABEL_OF``.
    vertebrae : tuple of Vertebra
        From cranial to caudal.
    sacrum_label : int or None
        Set when the sacrum was found. What carries the number is the first sacral body, a landmark and not a measured
        structure.
    canal_lps_mm : float ndarray of shape (N, 3) or None
        Centre of the spinal canal, caudal to cranial.
    findings : tuple of Finding
        What concerns the whole spine.
    """

    labels: NDArray[np.uint8]
    vertebrae: tuple[Vertebra, ...]
    sacrum_label: int | None
    canal_lps_mm: NDArray[np.float64] | None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Trace:
    """Everything between the volume and the bodies, in the order it is found; for quality checks and for pictures."""

    bone_scale: float
    coarse_hu: NDArray[np.float32]
    coarse_grid: Grid
    canal: Canal
    fine_hu: NDArray[np.float32] | None = None
    fine_grid: Grid | None = None
    tube: Tube | None = None
    outlines: Outlines | None = None
    discs: tuple[Disc, ...] = ()
    """From cranial to caudal, the one above the sacrum last."""
    bodies: tuple[BodyModel, ...] = ()
    """From cranial to caudal; body i lies between disc i and disc i + 1."""
    signs: tuple[LevelSigns, ...] = ()
    """Of each body, and of what lies below the last disc."""


def segment_spine(
    volume: Volume, *, pinned_levels: dict[str, float] | None = None, threads: int | None = None
) -> SpineResult:
    """Find, outline and name the vertebral bodies of a CT volume.

    Parameters
    ----------
    volume : Volume
    pinned_levels : dict of str to float, optional
        Levels that the user knows: name to the LPS z coordinate (mm) of a point inside that body.
    threads : int, optional
        Default: all processors, at most 4.

    Returns
    -------
    SpineResult
        Without vertebrae, and with a finding, when there is no spine in the volume.

    Raises
    ------
    InputRefused
        If a pinned level does not exist, lies in no body, or two pins contradict each other.
    """
    workers = max(1, threads) if threads is not None else min(4, os.cpu_count() or 1)
    trace = trace_spine(volume, threads=workers)
    labels = np.zeros(volume.shape, np.uint8)
    if not trace.bodies:
        reason = trace.canal.reason or "no chain of discs was found along the canal"
        finding = Finding("no_spine", Severity.WARNING, f"No spine was found in this volume: {reason}.")
        return SpineResult(labels, (), None, None, (finding,))
    naming = name_levels(list(trace.signs), whole=[True] * len(trace.signs))
    vertebrae = []
    for i, model in enumerate(trace.bodies):
        level = naming.levels[i]
        if naming.sacrum_from is not None and i >= naming.sacrum_from:
            break
        name = f"vertebra_{level}" if level is not None else f"vertebra_u{i + 1}"
        vertebra = Vertebra(
            name=name,
            level=level,
            label=LABEL_OF[name],
            frame=model.frame,
            surface=_surface(model),
            width_mm=model.width_mm,
            depth_mm=model.depth_mm,
            score=1.0,
            level_confidence=naming.confidence[i],
            level_alternatives=naming.alternatives[i],
        )
        box, mask = rasterise(model, volume.grid)
        labels[box][mask] = vertebra.label
        vertebrae.append(vertebra)
    return SpineResult(labels, tuple(vertebrae), None, trace.canal.points_lps_mm)


def trace_spine(volume: Volume, *, threads: int) -> Trace:
    """Canal, straightened spine, discs, bodies and signs of the level, without any judgement on them."""
    coarse, coarse_grid = resample_isotropic(volume, _COARSE_MM, threads=threads)
    body = body_mask(coarse, coarse_grid)
    # Bone brighter than usual needs no help; only faint bone is brought up to the thresholds.
    bone_scale = min(1.0, bone_hu_scale(coarse, body))
    coarse = relative_hu(coarse, bone_scale)
    canal = find_canal(coarse, coarse_grid, body, threads=threads)
    trace = Trace(bone_scale, coarse, coarse_grid, canal)
    if not canal.trusted:
        return trace
    fine, fine_grid = _fine_array(volume, canal, bone_scale, threads)
    tube = straighten(canal.points_lps_mm, fine, fine_grid)
    outlines = find_outlines(tube)
    chain = find_discs(tube, outlines)[::-1]
    sacral = [count_sacral_signs(coarse, coarse_grid, tube, outlines, disc) for disc in chain]
    # Below the first plate of the sacrum there are no more discs, only remnants.
    last = next((i for i, signs in enumerate(sacral) if signs >= 3), len(chain) - 1)
    discs = tuple(chain[: last + 1])
    with ThreadPoolExecutor(threads) as pool:
        pairs = list(zip(discs[1:], discs[:-1], strict=True))
        bodies = tuple(pool.map(lambda pair: fit_body(fine, fine_grid, tube, outlines, *pair), pairs))
        signs = list(
            pool.map(lambda at: level_signs(coarse, coarse_grid, at[0], at[1]), zip(bodies, sacral, strict=False))
        )
    signs.append(LevelSigns((0.0, 0.0), (True, True), discs[-1].width_mm, sacral[last]))
    return Trace(bone_scale, coarse, coarse_grid, canal, fine, fine_grid, tube, outlines, discs, bodies, tuple(signs))


def _fine_array(volume: Volume, canal: Canal, bone_scale: float, threads: int) -> tuple[NDArray[np.float32], Grid]:
    """Relative HU on a fine isotropic grid about the spine; NaN where the scanner wrote padding."""
    spacing_mm = 1.0 if max(volume.spacing_mm) <= 1.25 else 1.5
    towards_front = np.array([_LEFT_RIGHT_MM, _FRONT_MM, 0.0])
    towards_back = np.array([_LEFT_RIGHT_MM, _BACK_MM, 0.0])
    corners = np.concatenate([canal.points_lps_mm - towards_front, canal.points_lps_mm + towards_back])
    box = index_box(volume.grid, corners, margin_mm=5.0)
    hu, grid = resample_isotropic(volume, spacing_mm, box=box, threads=threads)
    part = volume.hu[box]
    valid = volume.valid[box] if volume.valid is not None else part > _PADDING_HU
    hu = relative_hu(hu, bone_scale)
    if not valid.all():
        index = [
            np.clip(np.rint((np.arange(n) + 0.5) * m / n - 0.5).astype(int), 0, m - 1)
            for n, m in zip(hu.shape, valid.shape, strict=True)
        ]
        hu[~valid[np.ix_(*index)]] = np.nan
    return hu, grid


def _surface(model: BodyModel) -> BodySurface:
    """The endplates as height fields; NaN outside the outline of the body at each endplate."""
    lower = np.where(model.outline(0.0), model.lower_mm, np.nan)
    upper = np.where(model.outline(1.0), model.upper_mm, np.nan)
    return BodySurface(model.left_mm, model.posterior_mm, upper, lower)
