"""Masks that somebody else made, as a `Segmentation` with the same checks as our own.

Understood are the outputs of TotalSegmentator, nnU-Net, VerSe, SPINEPS, DICOM SEG and of openbct itself. Masks are placed by
their own geometry, never by their array order, and are refused when they do not lie on the bones of the CT.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.errors import Finding, InputRefused, NotMeasurable, Severity
from pipeline.segmentation.arch import CanalHole, body_without_arch, find_canal_hole, frame_of_body, largest_component
from pipeline.segmentation.femur.landmarks import landmarks_from_mask
from pipeline.segmentation.mask_files import MaskFiles, Piece, read_mask_files
from pipeline.segmentation.mask_names import Kind
from pipeline.segmentation.model import LABEL_OF, Femur, Segmentation, Vertebra
from pipeline.segmentation.sampling import IndexBox, cropped_grid, index_box
from pipeline.volume import Grid, Volume

SAME_GRID_MM = 0.1
_BODY_HU_ABOVE_SURROUNDINGS = 25.0
_METAL_HU = 2000.0
_METAL_REACH_MM = 10.0
_METAL_MM3 = 50.0
_BODY_WIDTH_MM, _BODY_DEPTH_MM, _BODY_HEIGHT_MM = (18.0, 75.0), (13.0, 55.0), (8.0, 50.0)
_LEAST_VERTEBRA_MM3 = 1500.0
_LEAST_BODY_SHARE = 0.4
_SHAFT_FOR_DENSITY_MM, _SHAFT_FOR_STRENGTH_MM = 10.0, 20.0
_CANAL_ORDER = {f"T{i}": i for i in range(1, 14)} | {f"L{i}": 13 + i for i in range(1, 7)}


@dataclass(frozen=True)
class _Placed:
    """One structure on the grid of the CT: the box it lies in and its voxels there."""

    name: str
    box: IndexBox
    mask: NDArray[np.bool_]


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
    _require_same_patient(files, volume, path.name)
    resampled = _require_same_place(files, volume, path.name)
    findings: list[Finding] = []
    if resampled:
        text = "The masks lie on another grid than the CT; each voxel took the nearest label."
        findings.append(Finding("masks_resampled", Severity.INFO, text))

    labels = np.zeros(volume.shape, np.uint8)
    vertebrae, canal = _vertebrae(files.pieces, volume, labels, findings, path.name)
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
    )


# ------------------------------------------------------------------------------------------------------- place


def _require_same_patient(files: MaskFiles, volume: Volume, subject: str) -> None:
    theirs, ours = files.frame_of_reference_uid, volume.source.frame_of_reference_uid
    if theirs and ours and theirs != ours:
        raise InputRefused(
            "other_frame_of_reference",
            "the segmentation refers to another frame of reference than the CT.",
            subject=subject,
            remedy="Pass the segmentation that was made on this series.",
        )


def _corners(grid: Grid) -> NDArray[np.float64]:
    last = np.array(grid.shape, float) - 1
    return grid.to_lps(np.array([[a, b, c] for a in (0, last[0]) for b in (0, last[1]) for c in (0, last[2])]))


def _same_grid(first: Grid, second: Grid) -> bool:
    return first.shape == second.shape and bool(np.abs(_corners(first) - _corners(second)).max() <= SAME_GRID_MM)


def _fits(mask: Grid, ct: Grid) -> bool:
    """Whether a differing grid plainly belongs to the same scan.

    Either its voxels are voxels of the CT (a crop, or a segmentation without its empty slices), or it covers the field of the
    CT to within one of its own voxels (made at another resolution).
    """
    if np.abs(mask.axes_lps @ ct.axes_lps.T - np.eye(3)).max() > np.sin(np.radians(1.0)):
        return False
    corners = ct.to_index(_corners(mask))
    same_spacing = np.abs(np.array(mask.spacing_mm) - ct.spacing_mm) * np.array(mask.shape) <= SAME_GRID_MM
    if same_spacing.all():
        off_lattice = np.abs(corners - np.rint(corners)) * np.array(ct.spacing_mm)
        inside = (corners > -0.5).all() and (corners < np.array(ct.shape) - 0.5).all()
        return bool(off_lattice.max() <= SAME_GRID_MM and inside)
    low, high = corners.min(axis=0) * ct.spacing_mm, corners.max(axis=0) * ct.spacing_mm
    end = (np.array(ct.shape) - 1) * np.array(ct.spacing_mm)
    edge = np.array(mask.spacing_mm) + np.array(ct.spacing_mm)
    return bool((np.abs(low) <= edge).all() and (np.abs(high - end) <= edge).all())


def _described(grid: Grid) -> str:
    corners = _corners(grid)
    size = " x ".join(str(n) for n in grid.shape[::-1])
    spacing = " x ".join(f"{s:.3f}" for s in grid.spacing_mm[::-1])
    return (
        f"{size} voxels of {spacing} mm from ({', '.join(f'{v:.1f}' for v in corners[0])}) "
        f"to ({', '.join(f'{v:.1f}' for v in corners[-1])}) LPS"
    )


def _require_same_place(files: MaskFiles, volume: Volume, subject: str) -> bool:
    """Whether masks must be resampled; refuses those that belong to another scan."""
    resampled = False
    for grid in {id(p.whole_grid): p.whole_grid for p in files.pieces}.values():
        if _same_grid(grid, volume.grid):
            continue
        if not _fits(grid, volume.grid):
            raise InputRefused(
                "geometry_mismatch",
                f"the masks have {_described(grid)}, the CT has {_described(volume.grid)}.",
                subject=subject,
                remedy="Pass masks that were made on this series.",
            )
        resampled = resampled or not _on_lattice(grid, volume.grid)
    return resampled


def _on_lattice(mask: Grid, ct: Grid) -> bool:
    corners = ct.to_index(_corners(mask))
    return bool(np.abs(corners - np.rint(corners)).max() * max(ct.spacing_mm) <= SAME_GRID_MM) and np.allclose(
        mask.spacing_mm, ct.spacing_mm, rtol=0, atol=SAME_GRID_MM / max(ct.shape)
    )


def _placed(piece: Piece, volume: Volume, name: str) -> _Placed | None:
    """A piece on the grid of the CT, by nearest label; None if it lies outside."""
    half = 0.5 * np.array(piece.grid.spacing_mm)
    box = index_box(volume.grid, _corners(piece.grid), margin_mm=float(half.max()))
    ours = cropped_grid(volume.grid, box)
    step = piece.grid.to_index(ours.to_lps(np.eye(3))) - piece.grid.to_index(ours.to_lps(np.zeros(3)))
    start = piece.grid.to_index(ours.to_lps(np.zeros(3)))
    # With a margin of nothing around it, since scipy treats half a voxel beyond the outer centres as outside.
    mask = ndimage.affine_transform(
        np.pad(piece.mask, 1).astype(np.uint8),
        step.T,
        start + 1,
        output_shape=ours.shape,
        order=0,
        mode="constant",
        cval=0,
    ).astype(bool)
    return _Placed(name, box, mask) if mask.any() else None


def _union(pieces: Sequence[Piece], volume: Volume, name: str) -> _Placed | None:
    """Several pieces of one structure in one box."""
    placed = [p for piece in pieces if (p := _placed(piece, volume, name)) is not None]
    if len(placed) < 2:
        return placed[0] if placed else None
    box = tuple(
        slice(min(p.box[axis].start for p in placed), max(p.box[axis].stop for p in placed)) for axis in range(3)
    )
    mask = np.zeros([s.stop - s.start for s in box], bool)
    for part in placed:
        inner = tuple(slice(s.start - o.start, s.stop - o.start) for s, o in zip(part.box, box, strict=True))
        mask[inner] |= part.mask
    return _Placed(name, (box[0], box[1], box[2]), mask)


# --------------------------------------------------------------------------------------------------- vertebrae


def _vertebrae(
    pieces: Iterable[Piece], volume: Volume, labels: NDArray[np.uint8], findings: list[Finding], subject: str
) -> tuple[list[Vertebra], NDArray[np.float64] | None]:
    """Bodies with their frames, written into `labels`, and the centre line of the canal where arches showed it."""
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
    whole = {name: p for name, group in by_name.items() if (p := _union(group, volume, name)) is not None}
    stated = {name: p for name, group in separate.items() if (p := _union(group, volume, name)) is not None}
    unnamed = _union(bodies_only, volume, "bodies") if bodies_only else None
    if unnamed is not None and not whole and not stated:
        stated = _components(unnamed, volume.grid)
    ordered = _ordered(whole, stated, volume.grid, subject)
    renamed = _renamed_below_transition(ordered, findings)

    out: list[Vertebra] = []
    holes: list[CanalHole] = []
    tangents = _tangents([whole.get(name) or stated[name] for name in ordered], volume.grid)
    for name, upwards in zip(ordered, tangents, strict=True):
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
    canal = np.array([hole.centre_lps_mm for hole in holes[::-1]]) if len(holes) > 1 else None
    return out, canal


def _ordered(whole: dict[str, _Placed], stated: dict[str, _Placed], grid: Grid, subject: str) -> list[str]:
    """Names from cranial to caudal by their places; the levels must be in that order."""
    names = list(dict.fromkeys((*whole, *stated)))
    height = {name: float(_centre(whole.get(name) or stated[name], grid)[2]) for name in names}
    names.sort(key=lambda name: -height[name])
    levels = [_CANAL_ORDER[name] for name in names if name in _CANAL_ORDER]
    if levels != sorted(levels):
        raise InputRefused(
            "levels_out_of_order",
            f"from the head downwards the masks are named {', '.join(names)}.",
            subject=subject,
            remedy="The masks are upside down or the numbering is not the one that was assumed.",
        )
    return names


def _renamed_below_transition(ordered: list[str], findings: list[Finding]) -> dict[str, str]:
    """Structure names: below a thirteenth thoracic vertebra nothing can be named without a reader."""
    if "T13" not in ordered and "L6" not in ordered:
        return {name: f"vertebra_{name}" for name in ordered}
    which = "T13" if "T13" in ordered else "L6"
    text = f"The masks hold a {which}: the anatomy is transitional, so levels need a reader"
    below = ordered[ordered.index("T13") + 1 :] if "T13" in ordered else []
    findings.append(
        Finding(
            "transitional_anatomy",
            Severity.WARNING,
            f"{text}; the {len(below)} bodies below it are not named." if below else f"{text}.",
        )
    )
    return {name: f"vertebra_u{i + 1}" if name in below else f"vertebra_{name}" for i, name in enumerate(ordered)}


def _centre(placed: _Placed, grid: Grid) -> NDArray[np.float64]:
    inside = np.array(ndimage.center_of_mass(placed.mask)) + [s.start for s in placed.box]
    return grid.to_lps(inside)


def _tangents(placed: Sequence[_Placed], grid: Grid) -> list[NDArray[np.float64]]:
    """Direction of the spine at each vertebra, to the head."""
    centres = [_centre(p, grid) for p in placed]
    out = []
    for i in range(len(centres)):
        above, below = centres[max(i - 1, 0)], centres[min(i + 1, len(centres) - 1)]
        along = above - below
        out.append(along / np.linalg.norm(along) if np.linalg.norm(along) > 5.0 else np.array([0.0, 0.0, 1.0]))
    return out


def _components(bodies: _Placed, grid: Grid) -> dict[str, _Placed]:
    """Bodies without levels, from cranial to caudal."""
    parts, count = ndimage.label(bodies.mask)
    found = []
    for number, box in enumerate(ndimage.find_objects(parts, max_label=count), start=1):
        mask = parts[box] == number
        if mask.sum() * grid.voxel_volume_mm3 >= _LEAST_VERTEBRA_MM3:
            own = tuple(slice(o.start + s.start, o.start + s.stop) for o, s in zip(bodies.box, box, strict=True))
            found.append(_Placed("", (own[0], own[1], own[2]), mask))
    found.sort(key=lambda p: -float(_centre(p, grid)[2]))
    return {f"u{i + 1}": p for i, p in enumerate(found[:24])}


def _from_unnamed(whole: _Placed, bodies: _Placed | None, grid: Grid) -> _Placed | None:
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
    return _Placed(whole.name, whole.box, body) if body.sum() > 0.25 * whole.mask.sum() else None


def _vertebra(
    name: str,
    whole: _Placed | None,
    stated_body: _Placed | None,
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
            body = _Placed(
                name, source.box, body_without_arch(source.mask, cropped_grid(volume.grid, source.box), hole)
            )
    elif hole is not None:
        body = _Placed(name, source.box, body_without_arch(source.mask, cropped_grid(volume.grid, source.box), hole))
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
    cut = _touches_edge(body, volume)
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
    findings.extend(_metal_finding(volume, body.box, body.mask))
    vertebra = Vertebra(
        name=name,
        level=level if level in _CANAL_ORDER and level not in ("T13", "L6") else None,
        label=label,
        frame=frame,
        surface=None,
        width_mm=width,
        depth_mm=depth,
        score=_contrast_score(volume, body),
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


def _touches_edge(placed: _Placed, volume: Volume) -> bool:
    """Whether a structure reaches the edge of the scanned field."""
    for axis, (where, size) in enumerate(zip(placed.box, volume.shape, strict=True)):
        # The box may hold empty margins.
        used = np.flatnonzero(placed.mask.any(axis=tuple(a for a in range(3) if a != axis))) + where.start
        if used.size and (used[0] == 0 or used[-1] == size - 1):
            return True
    if volume.valid is not None:
        around = ndimage.binary_dilation(placed.mask)
        return bool((~volume.valid[placed.box] & around).any())
    return False


def _metal_finding(volume: Volume, box: IndexBox, mask: NDArray[np.bool_]) -> Iterable[Finding]:
    points = cropped_grid(volume.grid, box).to_lps(np.argwhere(mask).astype(float))
    around = index_box(volume.grid, points, margin_mm=_METAL_REACH_MM)
    amount = float(np.count_nonzero(volume.hu[around] > _METAL_HU)) * volume.grid.voxel_volume_mm3
    if amount > _METAL_MM3:
        inside = float(np.count_nonzero(volume.hu[box][mask] > _METAL_HU)) * volume.grid.voxel_volume_mm3
        severity = Severity.FAILURE if inside > _METAL_MM3 else Severity.WARNING
        where = "in the bone" if severity is Severity.FAILURE else f"within {_METAL_REACH_MM:.0f} mm of the bone"
        code = "metal_or_cement" if severity is Severity.FAILURE else "metal_nearby"
        yield Finding(code, severity, f"{amount / 1000:.1f} ml above {_METAL_HU:.0f} HU lie {where}.")


def _contrast_hu(volume: Volume, placed: _Placed) -> float:
    """Mean HU of the rim of a mask less that of a shell around it: bone has a bright rim, a misplaced mask has none."""
    rim = placed.mask & ~ndimage.binary_erosion(placed.mask)
    padded = np.pad(placed.mask, 3)
    shell = (ndimage.binary_dilation(padded, iterations=3) & ~ndimage.binary_dilation(padded, iterations=1))[
        3:-3, 3:-3, 3:-3
    ]
    hu = volume.hu[placed.box]
    usable = hu > -300  # gas and lung next to a body say nothing about the mask
    if volume.valid is not None:
        usable = usable & volume.valid[placed.box]
    if not (rim & usable).any() or not (shell & usable).any():
        return 0.0
    return float(hu[rim & usable].mean() - hu[shell & usable].mean())


def _contrast_score(volume: Volume, placed: _Placed) -> float:
    return float(np.clip(_contrast_hu(volume, placed) / 150.0, 0.0, 1.0))


# ------------------------------------------------------------------------------------------- femora and sacrum


def _femora(pieces: Iterable[Piece], volume: Volume, labels: NDArray[np.uint8], subject: str) -> list[Femur]:
    placed: dict[str, _Placed] = {}
    for side in ("left", "right"):
        own = [p for p in pieces if p.part.kind is Kind.FEMUR and p.part.name == side]
        if own and (found := _union(own, volume, side)) is not None:
            placed[side] = found
    if len(placed) == 2 and _centre(placed["left"], volume.grid)[0] < _centre(placed["right"], volume.grid)[0]:
        raise InputRefused(
            "sides_swapped",
            "the mask called left femur lies on the right of the patient.",
            subject=subject,
            remedy="The masks are mirrored, or their names are.",
        )
    return [_femur(side, found, volume, labels) for side, found in placed.items()]


def _femur(side: str, placed: _Placed, volume: Volume, labels: NDArray[np.uint8]) -> Femur:
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
    sideways = _Placed(name, placed.box, mask)
    cut = _sides_cut(sideways, volume)
    if cut:
        findings.append(Finding("cut_by_field_of_view", Severity.FAILURE, f"The field of view cuts the femur {cut}."))
    findings.extend(_metal_finding(volume, placed.box, mask))
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
    score = _contrast_score(volume, sideways)
    return Femur(name, side, LABEL_OF[name], landmarks, score, for_density, for_strength, tuple(findings))


def _sides_cut(placed: _Placed, volume: Volume) -> str:
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
    found = _union([p for p in pieces if p.part.kind is Kind.SACRUM], volume, "sacrum")
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
            placed = _Placed(structure.name, (grown[0], grown[1], grown[2]), labels[grown] == structure.label)
            contrasts.append(_contrast_hu(volume, placed))
    if contrasts and float(np.median(contrasts)) < _BODY_HU_ABOVE_SURROUNDINGS:
        raise InputRefused(
            "masks_off_bone",
            f"the rim of the masks is only {np.median(contrasts):.0f} HU brighter than its surroundings "
            f"({_BODY_HU_ABOVE_SURROUNDINGS:.0f} HU needed): they do not lie on bone.",
            subject=subject,
            remedy="Check that the masks belong to this series and are not mirrored.",
        )
