"""Outside masks against the project's own chain: do both see the same bones under the same names?

Neither is taken to be right. A disagreement is told on the structure that it concerns, and on request the outline of the
own chain, which lies between voxels, takes the place of a mask that agrees with it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.errors import Finding, Severity, Status
from pipeline.segmentation.chain import segment
from pipeline.segmentation.model import Femur, Segmentation, Vertebra
from pipeline.volume import Volume

_SAME_BODY_SHARE = 0.3
_LEAST_DICE = 0.8
_REFINED_DICE = 0.85
_OWN_CONFIDENCE = 0.9


def compare_with_own_chain(masks: Segmentation, volume: Volume, *, threads: int | None = None) -> Segmentation:
    """Outside masks with findings that say where the own chain disagrees.

    Parameters
    ----------
    masks : Segmentation
        From `masks.read_masks`, or of any other segmenter.
    volume : Volume
        The CT the masks belong to.
    threads : int, optional

    Returns
    -------
    Segmentation
        The same structures with more findings: ``level_disagrees`` where the own chain names the body otherwise,
        ``outline_disagrees`` where the overlap is a Dice below 0.8; and ``not_found_by_own_chain`` for the study. A structure
        that the own chain refuses is not compared.
    """
    own = segment(volume, spine=bool(masks.vertebrae), hips=bool(masks.femora), threads=threads)
    met = _same_structures(masks, own)
    structures: tuple[Vertebra | Femur, ...] = (*masks.vertebrae, *masks.femora)
    vertebrae = tuple(v.with_findings(*_of_vertebra(v, *met.get(v.label, (None, 0.0)))) for v in masks.vertebrae)
    femora = tuple(f.with_findings(*_of_outline(f, *met.get(f.label, (None, 0.0)))) for f in masks.femora)
    missing = [s.name for s in structures if s.label not in met]
    more: tuple[Finding, ...] = ()
    if missing:
        text = f"The own chain finds nothing where the masks hold {', '.join(missing)}; these were not compared."
        more = (Finding("not_found_by_own_chain", Severity.INFO, text),)
    return replace(masks, vertebrae=vertebrae, femora=femora, findings=(*masks.findings, *more))


def refine_with_own_chain(masks: Segmentation, volume: Volume, *, threads: int | None = None) -> Segmentation:
    """Outside bodies replaced by the own outline at the resolution of the CT, wherever both agree.

    Parameters
    ----------
    masks, volume, threads
        As in `compare_with_own_chain`.

    Returns
    -------
    Segmentation
        Bodies that overlap an accepted own body by a Dice of 0.85 take its outline, frame and surface, and keep their name and
        level; all others stay as they are. The finding ``refined`` or ``not_refined`` says which.
    """
    own = segment(volume, spine=True, hips=False, threads=threads)
    met = _same_structures(masks, own)
    labels = masks.labels.copy()
    out = []
    for vertebra in masks.vertebrae:
        mine, dice = met.get(vertebra.label, (None, 0.0))
        usable = isinstance(mine, Vertebra) and mine.status is not Status.FAILED and dice >= _REFINED_DICE
        if not usable or not isinstance(mine, Vertebra):
            text = "The mask was left as it is: the own chain does not outline the same body with confidence."
            out.append(vertebra.with_findings(Finding("not_refined", Severity.INFO, text)))
            continue
        labels[masks.labels == vertebra.label] = 0
        labels[(own.labels == mine.label) & (labels == 0)] = vertebra.label
        text = f"The outline is that of the own chain, which overlaps the mask by a Dice of {dice:.2f}."
        outlined = replace(
            vertebra, frame=mine.frame, surface=mine.surface, width_mm=mine.width_mm, depth_mm=mine.depth_mm
        )
        out.append(outlined.with_findings(Finding("refined", Severity.INFO, text)))
    return replace(masks, labels=labels, vertebrae=tuple(out), method=f"{masks.method}, refined by {own.method}")


def _same_structures(masks: Segmentation, own: Segmentation) -> dict[int, tuple[Vertebra | Femur, float]]:
    """For labels of the masks the own structure that covers most of it, and the Dice of both."""
    own_structures: tuple[Vertebra | Femur, ...] = (*own.vertebrae, *own.femora)
    structures: tuple[Vertebra | Femur, ...] = (*masks.vertebrae, *masks.femora)
    mine = {s.label: s for s in own_structures}
    sizes = np.bincount(own.labels.ravel(), minlength=256)
    boxes = ndimage.find_objects(masks.labels)
    found: dict[int, tuple[Vertebra | Femur, float]] = {}
    for structure in structures:
        box = boxes[structure.label - 1] if structure.label <= len(boxes) else None
        if box is None:
            continue
        inside: NDArray[np.bool_] = masks.labels[box] == structure.label
        counts = np.bincount(own.labels[box][inside], minlength=256)
        counts[0] = 0
        label = int(counts.argmax())
        size = int(inside.sum())
        if label in mine and counts[label] >= _SAME_BODY_SHARE * min(size, int(sizes[label])):
            found[structure.label] = (mine[label], 2.0 * float(counts[label]) / (size + int(sizes[label])))
    return found


def _of_vertebra(vertebra: Vertebra, own: Vertebra | Femur | None, dice: float) -> list[Finding]:
    findings = _of_outline(vertebra, own, dice)
    if not isinstance(own, Vertebra) or own.level is None or vertebra.level is None or own.level == vertebra.level:
        return findings
    if own.level_confidence is None or own.level_confidence < _OWN_CONFIDENCE:
        return findings
    text = (
        f"The mask calls this body {vertebra.level}; counted from the landmarks in view it is {own.level} "
        f"(probability {own.level_confidence:.2f})."
    )
    return [*findings, Finding("level_disagrees", Severity.WARNING, text)]


def _of_outline(structure: Vertebra | Femur, own: Vertebra | Femur | None, dice: float) -> list[Finding]:
    if own is None or own.status is Status.FAILED or dice >= _LEAST_DICE:
        return []
    text = f"The mask of {structure.name} and the own outline of the same bone overlap by a Dice of only {dice:.2f}."
    return [Finding("outline_disagrees", Severity.WARNING, text)]
