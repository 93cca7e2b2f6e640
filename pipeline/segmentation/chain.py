"""The project's own segmentation chain: spine first, then the hips with the spine out of the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pipeline.errors import Finding, Severity
from pipeline.segmentation.femur import segment_femora
from pipeline.segmentation.model import Segmentation
from pipeline.segmentation.spine import segment_spine
from pipeline.segmentation.spine.arches import find_arches
from pipeline.volume import Volume

METHOD = "openbct classical chain"


def segment(
    volume: Volume,
    *,
    spine: bool = True,
    hips: bool = True,
    pinned_levels: Mapping[str, float] | None = None,
    threads: int | None = None,
) -> Segmentation:
    """Vertebral bodies, their arches, and proximal femora of a volume.

    Parameters
    ----------
    volume : Volume
    spine, hips : bool
        Which structures to report. The spine is always looked for, since it tells the femur search where not to look.
    pinned_levels : mapping of str to float, optional
        Level name to the LPS z (mm) of a point inside that body; names every other body by counting.
    threads : int, optional
        All cores if absent.

    Returns
    -------
    Segmentation
        On the grid of `volume`; without structures, and with findings that say why, where nothing is in view.
    """
    # A volume that is used for the hips only may end below the pinned body, which is then no error.
    pins = dict(pinned_levels) if pinned_levels and spine else None
    bodies = segment_spine(volume, pinned_levels=pins, threads=threads)
    labels = bodies.labels if spine else np.zeros(volume.shape, np.uint8)
    findings = list(bodies.findings) if spine else []
    femora: tuple = ()
    if hips:
        found = segment_femora(volume, spine=bodies, threads=threads)
        overlap = int(np.count_nonzero((labels > 0) & (found.labels > 0)))
        if overlap:
            text = f"A femur mask overlapped the spine in {overlap} voxels; the voxels were left to the spine."
            findings.append(Finding("femur_overlaps_spine", Severity.WARNING, text))
        labels = np.where(labels > 0, labels, found.labels)
        femora = found.femora
        findings += found.findings
    found_all = Segmentation(
        labels=np.ascontiguousarray(labels, dtype=np.uint8),
        grid=volume.grid,
        vertebrae=bodies.vertebrae if spine else (),
        femora=femora,
        sacrum_label=bodies.sacrum_label if spine else None,
        canal_lps_mm=bodies.canal_lps_mm,
        method=METHOD,
        findings=tuple(findings),
    )
    arches, of_arches = find_arches(volume, found_all, threads=threads)
    return replace(found_all, arches=arches, findings=(*found_all.findings, *of_arches))
