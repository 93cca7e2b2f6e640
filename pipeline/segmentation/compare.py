"""Outside masks against the project's own chain: do both see the same bones under the same names?

Neither is taken to be right. A disagreement is told on the structure that it concerns, and on request the outline of the
own chain, which lies between voxels, takes the place of a mask that agrees with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.errors import Finding, Severity, Status
from pipeline.segmentation.chain import segment
from pipeline.segmentation.mask_levels import apply_pins
from pipeline.segmentation.model import Femur, Segmentation, Vertebra
from pipeline.volume import Volume

_SAME_BODY_SHARE = 0.3
_LEAST_DICE = 0.8
# A mask that is no more than our own outline, read back from a label map, brings no second opinion.
_SAME_OUTLINE_DICE = 0.98
_REFINED_DICE = 0.85
_OWN_CONFIDENCE = 0.8
_NOT_REFINED = Finding(
    "not_refined",
    Severity.INFO,
    "The mask was left as it is: the own chain does not outline the same bone with confidence.",
)


def compare_with_own_chain(
    masks: Segmentation, volume: Volume, *, own: Segmentation | None = None, threads: int | None = None
) -> Segmentation:
    """Outside masks with findings that say where the own chain disagrees.

    Parameters
    ----------
    masks : Segmentation
        From `masks.read_masks`, or of any other segmenter.
    volume : Volume
        The CT the masks belong to.
    own : Segmentation, optional
        What `chain.segment` makes of that CT, if it is at hand.
    threads : int, optional

    Returns
    -------
    Segmentation
        The same structures with more findings: ``level_disagrees`` where the own chain names the body otherwise,
        ``outline_disagrees`` where the overlap is a Dice below 0.8; and ``not_found_by_own_chain`` for the study. A structure
        that the own chain refuses is not compared; but a mask that is the very outline it refuses fails
        (``own_outline_refused``).
    """
    own = own if own is not None else own_view(masks, volume, threads=threads)
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


def beside_own_chain(
    masks: Segmentation,
    volume: Volume,
    pinned_levels: Mapping[str, float],
    *,
    refine: bool = False,
    threads: int | None = None,
) -> Segmentation:
    """Masks as a run takes them: under the levels that the user pinned, compared with the own chain, and refined if asked.

    Parameters
    ----------
    masks, volume, threads
        As in `compare_with_own_chain`.
    pinned_levels : mapping of str to float
        As in `mask_levels.apply_pins`; may be empty. A volume that shows no spine of the masks needs none.
    refine : bool
        As `refine_with_own_chain` does.
    """
    if pinned_levels and masks.vertebrae:
        masks = apply_pins(masks, pinned_levels)
    own = own_view(masks, volume, threads=threads)
    compared = compare_with_own_chain(masks, volume, own=own)
    return refine_with_own_chain(compared, volume, own=own) if refine else compared


def own_view(masks: Segmentation, volume: Volume, *, threads: int | None = None) -> Segmentation:
    """What the own chain sees of the regions that the masks hold."""
    return segment(volume, spine=bool(masks.vertebrae), hips=bool(masks.femora), threads=threads)


def refine_with_own_chain(
    masks: Segmentation, volume: Volume, *, own: Segmentation | None = None, threads: int | None = None
) -> Segmentation:
    """Outside masks replaced by the own outline at the resolution of the CT, wherever both agree.

    Parameters
    ----------
    masks, volume, own, threads
        As in `compare_with_own_chain`.

    Returns
    -------
    Segmentation
        Bodies and femora that overlap an accepted structure of the own chain by a Dice of 0.85 take its outline, frame, surface
        or landmarks, score, and what was found on that outline; they keep their name and level. All others stay as they are.
        The finding ``refined`` or ``not_refined`` says which.
    """
    own = own if own is not None else own_view(masks, volume, threads=threads)
    met = _same_structures(masks, own)
    labels = masks.labels.copy()
    structures: tuple[Vertebra | Femur, ...] = (*masks.vertebrae, *masks.femora)
    taken = {
        structure.label: met[structure.label]
        for structure in structures
        if structure.label in met and _takes_over(structure, *met[structure.label])
    }
    # Only when every mask that is replaced has left: neighbours may give up voxels to each other.
    labels[np.isin(labels, list(taken))] = 0
    for label, (mine, _) in taken.items():
        labels[(own.labels == mine.label) & (labels == 0)] = label
    return replace(
        masks,
        labels=labels,
        arches=_refined_arches(masks, own, labels, taken),
        vertebrae=tuple(_refined_vertebra(v, *taken.get(v.label, (None, 0.0))) for v in masks.vertebrae),
        femora=tuple(_refined_femur(f, *taken.get(f.label, (None, 0.0))) for f in masks.femora),
        method=f"{masks.method}, refined by {own.method}",
    )


def _refined_arches(
    masks: Segmentation,
    own: Segmentation,
    labels: NDArray[np.uint8],
    taken: Mapping[int, tuple[Vertebra | Femur, float]],
) -> NDArray[np.uint8] | None:
    """Arches beside the refined bodies: those of the masks, and those of the own chain for refined bodies without one."""
    arches = np.zeros_like(labels) if masks.arches is None else np.where(labels == 0, masks.arches, 0).astype(np.uint8)
    if own.arches is not None:
        present = ndimage.find_objects(arches, max_label=255)
        for label, (mine, _) in taken.items():
            if present[label - 1] is None:
                arches[(own.arches == mine.label) & (labels == 0) & (arches == 0)] = label
    return arches if arches.any() else None


def _takes_over(structure: Vertebra | Femur, mine: Vertebra | Femur, dice: float) -> bool:
    """Whether the own outline of a structure may take the place of its mask."""
    return type(mine) is type(structure) and mine.status is not Status.FAILED and dice >= _REFINED_DICE


def _refined_vertebra(vertebra: Vertebra, mine: Vertebra | Femur | None, dice: float) -> Vertebra:
    """A body of the masks under its own name and level, with the outline of the own chain and all that hangs on it."""
    if not isinstance(mine, Vertebra):
        return vertebra.with_findings(_NOT_REFINED)
    # What was found on the outline of the mask is gone with it; what the own chain says of levels concerns its own names.
    of_level = [f for f in vertebra.findings if f.code.startswith("level_")]
    of_outline = [f for f in mine.findings if not f.code.startswith("level_")]
    return replace(
        vertebra,
        frame=mine.frame,
        surface=mine.surface,
        width_mm=mine.width_mm,
        depth_mm=mine.depth_mm,
        score=mine.score,
        complete=mine.complete,
        findings=(*of_level, *of_outline, _refined(dice)),
    )


def _refined_femur(femur: Femur, mine: Vertebra | Femur | None, dice: float) -> Femur:
    if not isinstance(mine, Femur):
        return femur.with_findings(_NOT_REFINED)
    return replace(mine, name=femur.name, side=femur.side, label=femur.label).with_findings(_refined(dice))


def _refined(dice: float) -> Finding:
    text = f"The outline is that of the own chain, which overlaps the mask by a Dice of {dice:.2f}."
    return Finding("refined", Severity.INFO, text)


def _same_structures(masks: Segmentation, own: Segmentation) -> dict[int, tuple[Vertebra | Femur, float]]:
    """For labels of the masks the own structure that covers most of it, and the Dice of both."""
    own_structures: tuple[Vertebra | Femur, ...] = (*own.vertebrae, *own.femora)
    structures: tuple[Vertebra | Femur, ...] = (*masks.vertebrae, *masks.femora)
    mine = {s.label: s for s in own_structures}
    # A count over the whole array would want eight bytes per voxel.
    sizes = np.zeros(256, int)
    for number, box in enumerate(ndimage.find_objects(own.labels), start=1):
        sizes[number] = 0 if box is None else np.count_nonzero(own.labels[box] == number)
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
    if own is not None and own.status is Status.FAILED and dice >= _SAME_OUTLINE_DICE:
        why = next(f.text for f in own.findings if f.severity is Severity.FAILURE)
        text = f"The mask is the outline that the own chain draws and does not trust: {why}"
        return [Finding("own_outline_refused", Severity.FAILURE, text)]
    if own is None or own.status is Status.FAILED or dice >= _LEAST_DICE:
        return []
    text = f"The mask of {structure.name} and the own outline of the same bone overlap by a Dice of only {dice:.2f}."
    return [Finding("outline_disagrees", Severity.WARNING, text)]
