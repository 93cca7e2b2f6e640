"""Where outside masks lie: whether their geometry is that of the CT, and whether they lie on bone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.errors import Finding, InputRefused, Severity
from pipeline.segmentation.mask_files import MaskFiles, Piece
from pipeline.segmentation.sampling import IndexBox, cropped_grid, index_box
from pipeline.volume import Grid, Volume

SAME_GRID_MM = 0.1
_METAL_HU = 2000.0
_METAL_REACH_MM = 10.0
_METAL_MM3 = 50.0
_FULL_SCORE_HU = 150.0
_GAS_HU = -300.0


@dataclass(frozen=True)
class Placed:
    """One structure on the grid of the CT: the box it lies in and its voxels there."""

    name: str
    box: IndexBox
    mask: NDArray[np.bool_]


def require_same_patient(files: MaskFiles, volume: Volume, subject: str) -> None:
    """Refuse a DICOM SEG that refers to another frame of reference than the CT."""
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


def require_same_place(files: MaskFiles, volume: Volume, subject: str) -> bool:
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


def on_ct_grid(piece: Piece, volume: Volume, name: str) -> Placed | None:
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
    return Placed(name, box, mask) if mask.any() else None


def union_on_ct_grid(pieces: Sequence[Piece], volume: Volume, name: str) -> Placed | None:
    """Several pieces of one structure in one box."""
    placed = [p for piece in pieces if (p := on_ct_grid(piece, volume, name)) is not None]
    if len(placed) < 2:
        return placed[0] if placed else None
    box = tuple(
        slice(min(p.box[axis].start for p in placed), max(p.box[axis].stop for p in placed)) for axis in range(3)
    )
    mask = np.zeros([s.stop - s.start for s in box], bool)
    for part in placed:
        inner = tuple(slice(s.start - o.start, s.stop - o.start) for s, o in zip(part.box, box, strict=True))
        mask[inner] |= part.mask
    return Placed(name, (box[0], box[1], box[2]), mask)


def centre_lps_mm(placed: Placed, grid: Grid) -> NDArray[np.float64]:
    """Centre of mass of a structure, LPS."""
    inside = np.array(ndimage.center_of_mass(placed.mask)) + [s.start for s in placed.box]
    return grid.to_lps(inside)


def touches_edge(placed: Placed, volume: Volume) -> bool:
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


def metal_findings(volume: Volume, box: IndexBox, mask: NDArray[np.bool_]) -> Iterable[Finding]:
    """Metal or cement in a bone (failure) or near it (warning)."""
    points = cropped_grid(volume.grid, box).to_lps(np.argwhere(mask).astype(float))
    around = index_box(volume.grid, points, margin_mm=_METAL_REACH_MM)
    amount = float(np.count_nonzero(volume.hu[around] > _METAL_HU)) * volume.grid.voxel_volume_mm3
    if amount > _METAL_MM3:
        inside = float(np.count_nonzero(volume.hu[box][mask] > _METAL_HU)) * volume.grid.voxel_volume_mm3
        severity = Severity.FAILURE if inside > _METAL_MM3 else Severity.WARNING
        where = "in the bone" if severity is Severity.FAILURE else f"within {_METAL_REACH_MM:.0f} mm of the bone"
        code = "metal_or_cement" if severity is Severity.FAILURE else "metal_nearby"
        yield Finding(code, severity, f"{amount / 1000:.1f} ml above {_METAL_HU:.0f} HU lie {where}.")


def contrast_hu(volume: Volume, placed: Placed) -> float:
    """Mean HU of the rim of a mask less that of a shell around it: bone has a bright rim, a misplaced mask has none."""
    rim = placed.mask & ~ndimage.binary_erosion(placed.mask)
    padded = np.pad(placed.mask, 3)
    shell = (ndimage.binary_dilation(padded, iterations=3) & ~ndimage.binary_dilation(padded, iterations=1))[
        3:-3, 3:-3, 3:-3
    ]
    hu = volume.hu[placed.box]
    usable = hu > _GAS_HU  # gas and lung next to a body say nothing about the mask
    if volume.valid is not None:
        usable = usable & volume.valid[placed.box]
    if not (rim & usable).any() or not (shell & usable).any():
        return 0.0
    return float(hu[rim & usable].mean() - hu[shell & usable].mean())


def contrast_score(volume: Volume, placed: Placed) -> float:
    """`contrast_hu` as a score: 0 at none, 1 at 150 HU and more."""
    return float(np.clip(contrast_hu(volume, placed) / _FULL_SCORE_HU, 0.0, 1.0))
