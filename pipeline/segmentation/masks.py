"""Masks that somebody else made, as a `Segmentation` with the same checks as our own.

Understood are the outputs of TotalSegmentator, nnU-Net, VerSe, SPINEPS, DICOM SEG and of openbct itself. Masks are placed by
their own geometry, never by their array order, and are refused when they do not lie on the bones of the CT.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.errors import Finding, InputRefused, NotMeasurable, Severity
from pipeline.segmentation.arch import CanalHole, body_without_arch, find_canal_hole, frame_of_body, largest_component
from pipeline.segmentation.femur.landmarks import landmarks_from_mask
from pipeline.segmentation.mask_files import Piece, read_mask_files
from pipeline.segmentation.mask_levels import ordered, renamed_below_transition, tangents
from pipeline.segmentation.mask_names import Kind
from pipeline.segmentation.mask_place import (
    Placed,
    centre_lps_mm,
    contrast_hu,
    contrast_score,
    metal_findings,
    require_same_patient,
    require_same_place,
    touches_edge,
    union_on_ct_grid,
)
from pipeline.segmentation.model import LABEL_OF, LEVELS, Femur, Segmentation, Vertebra
from pipeline.segmentation.sampling import cropped_grid
from pipeline.volume import Grid, Volume

_BODY_HU_ABOVE_SURROUNDINGS = 25.0
_BODY_WIDTH_MM, _BODY_DEPTH_MM, _BODY_HEIGHT_MM = (18.0, 75.0), (13.0, 55.0), (8.0, 50.0)
_LEAST_VERTEBRA_MM3 = 1500.0
_LEAST_BODY_SHARE = 0.4
_SHAFT_FOR_DENSITY_MM, _SHAFT_FOR_STRENGTH_MM = 10.0, 20.0


def read_masks(path: str | Path, volume: Volume, *, convention: str | None = None) -> Segmentation:
    """Read outside masks for a volume.

    Parameters
    ----------
    path : str or Path
        A TotalSegmentator folder (one NIfTI per class) or multilabel file, an nnU-Net or other label map with names beside it
        (``<file>.json``, ``dataset.json``), VerSe or SPINEPS masks (by their file names), our own ``segmentation.nii.gz``, or
        DICOM SEG.
    volume : Volume
        The CT the masks belong to.
    convention : str, optional
        Numbering of a label map without names: one of `mask_names.CONVENTIONS`.

    Returns
    -------
    Segmentation
        On the grid of `volume`. Whole vertebrae are cut in front of their canal; `Vertebra.surface` is None, since a mask
        holds no more about its faces than `density.body.body_surface` reads from it.

    Raises
    ------
    InputRefused
        ``geometry_mismatch`` with both geometries, ``other_frame_of_reference``, ``masks_off_bone``, ``sides_swapped``,
        ``levels_out_of_order``, or what `mask_files.read_mask_files` refuses.
    """
    path = Path(path)
    files = read_mask_files(path, convention=convention)
    require_same_patient(files, volume, path.name)
    resampled = require_same_place(files, volume, path.name)
    findings: list[Finding] = []
    if resampled:
        text = "The masks lie on another grid than the CT; each voxel took the nearest label."
        findings.append(Finding("masks_resampled", Severity.INFO, text))

    labels, arches = np.zeros(volume.shape, np.uint8), np.zeros(volume.shape, np.uint8)
    vertebrae, canal = _vertebrae(files.pieces, volume, labels, arches, findings, path.name)
    femora = _femora(files.pieces, volume, labels, path.name)
    sacrum = _sacrum(files.pieces, volume, labels)
    _require_on_bone(volume, vertebrae, femora, labels, path.name)
    if not vertebrae and not femora:
        findings.append(Finding("masks_empty_here", Severity.WARNING, "No outside mask has a voxel inside this CT."))
    return Segmentation(
        labels=labels,
        grid=volume.grid,
        vertebrae=tuple(vertebrae),
        femora=tuple(femora),
        sacrum_label=sacrum,
        canal_lps_mm=canal,
        method=f"outside masks: {files.origin}",
        findings=tuple(findings),
        arches=arches if arches.any() else None,
    )


# --------------------------------------------------------------------------------------------------- vertebrae


def _vertebrae(
    pieces: Iterable[Piece],
    volume: Volume,
    labels: NDArray[np.uint8],
    arches: NDArray[np.uint8],
    findings: list[Finding],
    subject: str,
) -> tuple[list[Vertebra], NDArray[np.float64] | None]:
    """Bodies with their frames, written into `labels`, and the centre line of the canal where arches showed it.

    What a mask of a whole vertebra holds beside the body goes into `arches`.
    """
    by_name: dict[str, list[Piece]] = {}
    bodies_only: list[Piece] = []
    separate: dict[str, list[Piece]] = {}
    for piece in pieces:
        if piece.part.kind is Kind.VERTEBRA:
            by_name.setdefault(piece.part.name, []).append(piece)
        elif piece.part.kind is Kind.BODY:
            separate.setdefault(piece.part.name, []).append(piece)
        elif piece.part.kind is Kind.BODIES:
            bodies_only.append(piece)
    whole = {name: p for name, group in by_name.items() if (p := union_on_ct_grid(group, volume, name)) is not None}
    stated = {name: p for name, group in separate.items() if (p := union_on_ct_grid(group, volume, name)) is not None}
    unnamed = union_on_ct_grid(bodies_only, volume, "bodies") if bodies_only else None
    if unnamed is not None and not whole and not stated:
        stated = _components(unnamed, volume.grid)
    names = ordered(whole, stated, volume.grid, subject)
    renamed = renamed_below_transition(names, findings)

    out: list[Vertebra] = []
    holes: list[CanalHole] = []
    directions = tangents([whole.get(name) or stated[name] for name in names], volume.grid)
    for name, upwards in zip(names, directions, strict=True):
        own = stated.get(name) or _from_unnamed(whole[name], unnamed, volume.grid)
        vertebra, hole = _vertebra(
            renamed[name],
            whole.get(name),
            own,
            volume,
            labels,
            upwards,
            name if renamed[name] == f"vertebra_{name}" else None,
        )
        out.append(vertebra)
        if hole is not None:
            holes.append(hole)
        if name in whole and (hole is not None or own is not None):
            _write_arch(whole[name], labels, arches, vertebra.label)
    canal = np.array([hole.centre_lps_mm for hole in holes[::-1]]) if len(holes) > 1 else None
    return out, canal


def _write_arch(whole: Placed, labels: NDArray[np.uint8], arches: NDArray[np.uint8], number: int) -> None:
    """What the mask of a whole vertebra has beside its body."""
    target = arches[whole.box]
    target[whole.mask & (labels[whole.box] == 0) & (target == 0)] = number


def _components(bodies: Placed, grid: Grid) -> dict[str, Placed]:
    """Bodies without levels, from cranial to caudal."""
    parts, count = ndimage.label(bodies.mask)
    found = []
    for number, box in enumerate(ndimage.find_objects(parts, max_label=count), start=1):
        mask = parts[box] == number
        if mask.sum() * grid.voxel_volume_mm3 >= _LEAST_VERTEBRA_MM3:
            own = tuple(slice(o.start + s.start, o.start + s.stop) for o, s in zip(bodies.box, box, strict=True))
            found.append(Placed("", (own[0], own[1], own[2]), mask))
    found.sort(key=lambda p: -float(centre_lps_mm(p, grid)[2]))
    return {f"u{i + 1}": p for i, p in enumerate(found[:24])}


def _from_unnamed(whole: Placed, bodies: Placed | None, grid: Grid) -> Placed | None:
    """The body of a vertebra out of a mask of all bodies, if that one shows it."""
    if bodies is None:
        return None
    inner = np.zeros(whole.mask.shape, bool)
    theirs, ours = [], []
    for w, b in zip(whole.box, bodies.box, strict=True):
        start, stop = max(w.start, b.start), min(w.stop, b.stop)
        if start >= stop:
            return None
        ours.append(slice(start - w.start, stop - w.start))
        theirs.append(slice(start - b.start, stop - b.start))
    inner[tuple(ours)] = bodies.mask[tuple(theirs)]
    body = largest_component(whole.mask & inner)
    return Placed(whole.name, whole.box, body) if body.sum() > 0.25 * whole.mask.sum() else None


def _vertebra(
    name: str,
    whole: Placed | None,
    stated_body: Placed | None,
    volume: Volume,
    labels: NDArray[np.uint8],
    upwards: NDArray[np.float64],
    level: str | None,
) -> tuple[Vertebra, CanalHole | None]:
    findings: list[Finding] = []
    source = whole if whole is not None else stated_body
    assert source is not None
    hole = find_canal_hole(source.mask, cropped_grid(volume.grid, source.box), upwards_lps=upwards)
    if stated_body is not None:
        body = stated_body
        if whole is None and hole is not None:
            # Called a body, but it closes round a canal: it is a whole vertebra.
            body = Placed(name, source.box, body_without_arch(source.mask, cropped_grid(volume.grid, source.box), hole))
    elif hole is not None:
        body = Placed(name, source.box, body_without_arch(source.mask, cropped_grid(volume.grid, source.box), hole))
    else:
        body = source
    grid = cropped_grid(volume.grid, body.box)
    posterior = hole.posterior_lps if hole is not None else np.array([0.0, 1.0, 0.0])
    frame, width, depth, height = frame_of_body(
        body.mask, grid, upwards_lps=hole.direction_lps if hole is not None else upwards, posterior_lps=posterior
    )
    label = LABEL_OF[name]
    target = labels[body.box]
    target[body.mask & (target == 0)] = label
    cut = touches_edge(body, volume)
    if cut:
        findings.append(Finding("cut_by_field_of_view", Severity.FAILURE, "The field of view cuts the body."))
    elif hole is not None and stated_body is None and body.mask.sum() < _LEAST_BODY_SHARE * source.mask.sum():
        share = 100 * body.mask.sum() / source.mask.sum()
        text = f"Only {share:.0f} % of the vertebra lie in front of its canal, so this can hardly be its body."
        findings.append(Finding("arch_not_separated", Severity.FAILURE, text))
    elif hole is None and stated_body is None and depth > min(1.15 * width, _BODY_DEPTH_MM[1]):
        text = f"No canal is seen through the mask, which is {depth:.0f} mm deep: body and arch cannot be told apart."
        findings.append(Finding("arch_not_separated", Severity.FAILURE, text))
    else:
        findings.extend(_size_findings(width, depth, height))
    findings.extend(metal_findings(volume, body.box, body.mask))
    vertebra = Vertebra(
        name=name,
        level=level if level in LEVELS else None,
        label=label,
        frame=frame,
        surface=None,
        width_mm=width,
        depth_mm=depth,
        score=contrast_score(volume, body),
        complete=not cut,
        findings=tuple(findings),
    )
    return vertebra, hole


def _size_findings(width: float, depth: float, height: float) -> Iterable[Finding]:
    for what, value, (low, high) in (
        ("wide", width, _BODY_WIDTH_MM),
        ("deep", depth, _BODY_DEPTH_MM),
        ("high", height, _BODY_HEIGHT_MM),
    ):
        if not low <= value <= high:
            text = f"The body is {value:.0f} mm {what}; {low:.0f} to {high:.0f} mm are expected."
            yield Finding("implausible_size", Severity.FAILURE, text)


# ------------------------------------------------------------------------------------------- femora and sacrum


def _femora(pieces: Iterable[Piece], volume: Volume, labels: NDArray[np.uint8], subject: str) -> list[Femur]:
    placed: dict[str, Placed] = {}
    for side in ("left", "right"):
        own = [p for p in pieces if p.part.kind is Kind.FEMUR and p.part.name == side]
        if own and (found := union_on_ct_grid(own, volume, side)) is not None:
            placed[side] = found
    if (
        len(placed) == 2
        and centre_lps_mm(placed["left"], volume.grid)[0] < centre_lps_mm(placed["right"], volume.grid)[0]
    ):
        raise InputRefused(
            "sides_swapped",
            "the mask called left femur lies on the right of the patient.",
            subject=subject,
            remedy="The masks are mirrored, or their names are.",
        )
    return [_femur(side, found, volume, labels) for side, found in placed.items()]


def _femur(side: str, placed: Placed, volume: Volume, labels: NDArray[np.uint8]) -> Femur:
    name = f"femur_{side}"
    # Outside masks may be shells or have holes where marrow is fat; the femur here is solid.
    padded = np.pad(largest_component(placed.mask), 1)
    solid = ndimage.binary_fill_holes(padded)
    for k in range(solid.shape[0]):
        solid[k] = ndimage.binary_fill_holes(solid[k])
    mask = solid[1:-1, 1:-1, 1:-1]
    target = labels[placed.box]
    target[mask & (target == 0)] = LABEL_OF[name]
    findings: list[Finding] = []
    landmarks = None
    grid = cropped_grid(volume.grid, placed.box)
    try:
        landmarks = landmarks_from_mask(mask, grid, side)
    except NotMeasurable as refusal:
        findings.append(Finding(refusal.reason, Severity.FAILURE, f"{refusal.detail[0].upper()}{refusal.detail[1:]}"))
    sideways = Placed(name, placed.box, mask)
    cut = _sides_cut(sideways, volume)
    if cut:
        findings.append(Finding("cut_by_field_of_view", Severity.FAILURE, f"The field of view cuts the femur {cut}."))
    findings.extend(metal_findings(volume, placed.box, mask))
    shaft = landmarks.shaft_below_lesser_trochanter_mm if landmarks is not None else None
    usable = landmarks is not None and landmarks.neck_axis_lps is not None and not cut
    for_density = usable and shaft is not None and shaft >= _SHAFT_FOR_DENSITY_MM
    for_strength = usable and shaft is not None and shaft >= _SHAFT_FOR_STRENGTH_MM
    if landmarks is not None and landmarks.neck_axis_lps is None and not cut:
        text = "The mask does not show the whole neck: neither density nor strength of the hip can be measured."
        findings.append(Finding("neck_not_in_view", Severity.WARNING, text))
    if usable and not for_strength:
        seen = "does not show" if shaft is None else f"shows {shaft:.0f} mm of shaft below"
        text = (
            f"The mask {seen} the lesser trochanter; {_SHAFT_FOR_DENSITY_MM:.0f} mm are needed for hip density and "
            f"{_SHAFT_FOR_STRENGTH_MM:.0f} mm for strength."
        )
        findings.append(Finding("shaft_too_short", Severity.WARNING, text))
    score = contrast_score(volume, sideways)
    return Femur(name, side, LABEL_OF[name], landmarks, score, for_density, for_strength, tuple(findings))


def _sides_cut(placed: Placed, volume: Volume) -> str:
    """Where the field of view cuts a femur other than through its shaft: "", "above" or "at the side"."""
    z, y, x = (np.flatnonzero(placed.mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    if z[-1] + placed.box[0].start == volume.shape[0] - 1:
        return "above"
    for used, where, size in ((y, placed.box[1], volume.shape[1]), (x, placed.box[2], volume.shape[2])):
        if used[0] + where.start == 0 or used[-1] + where.start == size - 1:
            return "at the side"
    if volume.valid is not None:
        outside = ~volume.valid[placed.box] & ndimage.binary_dilation(placed.mask)
        if outside[z[0] + 2 :].any():
            return "at the side"
    return ""


def _sacrum(pieces: Iterable[Piece], volume: Volume, labels: NDArray[np.uint8]) -> int | None:
    found = union_on_ct_grid([p for p in pieces if p.part.kind is Kind.SACRUM], volume, "sacrum")
    if found is None:
        return None
    target = labels[found.box]
    target[found.mask & (target == 0)] = LABEL_OF["sacrum"]
    return LABEL_OF["sacrum"]


def _require_on_bone(
    volume: Volume, vertebrae: Sequence[Vertebra], femora: Sequence[Femur], labels: NDArray[np.uint8], subject: str
) -> None:
    """Refuse masks that lie beside the bones: of another patient, mirrored, or with a wrong geometry."""
    contrasts = []
    structures: list[Vertebra | Femur] = [*vertebrae, *femora]
    boxes = ndimage.find_objects(labels)
    for structure in structures:
        box = boxes[structure.label - 1] if structure.label <= len(boxes) else None
        if box is not None:
            grown = tuple(
                slice(max(s.start - 4, 0), min(s.stop + 4, n)) for s, n in zip(box, labels.shape, strict=True)
            )
            placed = Placed(structure.name, (grown[0], grown[1], grown[2]), labels[grown] == structure.label)
            contrasts.append(contrast_hu(volume, placed))
    if contrasts and float(np.median(contrasts)) < _BODY_HU_ABOVE_SURROUNDINGS:
        raise InputRefused(
            "masks_off_bone",
            f"the rim of the masks is only {np.median(contrasts):.0f} HU brighter than its surroundings "
            f"({_BODY_HU_ABOVE_SURROUNDINGS:.0f} HU needed): they do not lie on bone.",
            subject=subject,
            remedy="Check that the masks belong to this series and are not mirrored.",
        )
