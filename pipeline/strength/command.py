"""One virtual test of a bone that the user already has as an image and a mask: what `openbct strength` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from fea.bone.profiles import BoneProfile, VirtualTest
from pipeline.density import calibrate
from pipeline.errors import Finding, InputRefused, NotMeasurable, Severity
from pipeline.segmentation.arch import body_without_arch, find_canal_hole
from pipeline.segmentation.model import Segmentation
from pipeline.segmentation.sampling import cropped_grid
from pipeline.strength import checks
from pipeline.strength.bridge import (
    box_around,
    compress_body,
    density_source,
    load_femur,
    require_profile,
)
from pipeline.strength.output import content_of, content_of_refusal, require_exports, write_outcome
from pipeline.strength.result import BoneImage, DensitySource, Strength
from pipeline.strength.uncertainty import with_ensemble
from pipeline.volume import Grid, Volume, canonical_order

_SAME_PLACE_MM = 0.1
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def run_strength_command(
    image: Path | str,
    mask: Path | str,
    output: Path | str,
    *,
    test: str,
    label: int | None = None,
    profile: str | None = None,
    is_density: bool = False,
    voxel_mm: float = 1.0,
    with_yield: bool = False,
    ensemble: bool = False,
    exports: Sequence[str] = ("npz",),
    pictures: bool = True,
    threads: int | None = None,
) -> dict[str, Any]:
    """Read an image and a mask, run one virtual test, write numbers, model and pictures to the folder `output`.

    Parameters
    ----------
    image, mask : Path
        NIfTI or any format of SimpleITK, on the same grid. The image holds HU, or mineral density (mg/cm3 K2HPO4) with
        `is_density`.
    output : Path
        Folder, made if absent.
    test : str
        ``spine-compression``, ``hip-sideways-fall`` or ``hip-stance``.
    label : int, optional
        Number of the bone in the mask; may be absent if the mask holds one structure.
    profile : str, optional
        Name of a profile or path of a profile file.
    voxel_mm : float
        Edge of the model's voxels.
    with_yield : bool
        Also follow the elastic-plastic curve, if the profile has a yield law.
    ensemble : bool
        Take the uncertainty from a designed ensemble (`pipeline.strength.with_ensemble`).
    exports : sequence of str
        Formats of the model: ``npz`` (the solver's own), ``vti`` (ParaView, with all fields), ``inp`` (CalculiX).
    pictures : bool
        Also draw maps beside the image, the curve and the surface.

    Returns
    -------
    dict
        The content of ``strength.json``. A bone that cannot be tested gives None for the numbers, and a finding.

    Raises
    ------
    InputRefused
        ``image_unreadable``, ``grids_differ``, ``label_absent``, ``label_needed``, ``unknown_test``, ``unknown_export``,
        ``profile_unusable`` or ``output_not_writable``.
    """
    kind, wanted = _known_test(test), require_exports(exports)
    law = require_profile(profile, kind)
    values, index_to_lps = _read(Path(image))
    labels, mask_to_lps = _read(Path(mask))
    if (
        values.shape != labels.shape
        or np.abs(_corners(values.shape, index_to_lps - mask_to_lps)).max() > _SAME_PLACE_MM
    ):
        raise InputRefused(
            "grids_differ",
            f"it is not on the grid of the image ({labels.shape} and {values.shape} voxels along z, y, x, or another place).",
            subject=Path(mask).name,
            remedy="Resample the mask to the image.",
        )
    values, canonical, _ = canonical_order(values, index_to_lps)
    labels, _, _ = canonical_order(labels, index_to_lps)
    chosen = _chosen(labels, label, Path(mask).name)
    subject = f"label {label}" if label is not None else "the mask"
    result: Strength | None = None
    try:
        result = strength_from_image(
            values,
            chosen,
            canonical,
            test=kind.value,
            profile=profile,
            is_density=is_density,
            subject=subject,
            voxel_mm=voxel_mm,
            with_yield=with_yield,
            threads=threads,
        )
        if ensemble:
            result = with_ensemble(result, threads=threads)
        content = content_of(result)
    except NotMeasurable as refusal:
        content = content_of_refusal(kind, law, refusal)
    write_outcome(Path(output), content, result, exports=wanted, pictures=pictures)
    return content


def strength_from_image(
    values: NDArray,
    mask: NDArray[np.bool_],
    index_to_lps: NDArray[np.float64],
    *,
    test: str,
    profile: str | None = None,
    is_density: bool = False,
    subject: str = "the mask",
    voxel_mm: float = 1.0,
    with_yield: bool = False,
    threads: int | None = None,
) -> Strength:
    """One virtual test of the bone in `mask`, posed from the mask itself.

    Parameters
    ----------
    values : ndarray of shape (Z, Y, X)
        HU in canonical order (see `Volume`), or mineral density in mg/cm3 K2HPO4 with `is_density`. HU are calibrated from
        what the image itself shows.
    mask : bool ndarray of shape (Z, Y, X)
        A vertebra, whole (its arch is cut off in front of the canal) or the body alone, or a solid proximal femur.
    index_to_lps : float ndarray of shape (4, 4)

    Raises
    ------
    NotMeasurable, InputRefused
        As `vertebra_strength` and `femur_strength`.
    """
    kind = _known_test(test)
    law = require_profile(profile, kind)
    grid = Grid((mask.shape[0], mask.shape[1], mask.shape[2]), index_to_lps)
    spacing = np.asarray(grid.spacing_mm)
    checks.require_spacing(spacing, subject)
    checks.require_mask(mask, subject)
    checks.require_inside(mask, None, subject, open_end=None if kind is VirtualTest.SPINE_COMPRESSION else (0, 0))
    notes: tuple[Finding, ...] = ()
    if kind is VirtualTest.SPINE_COMPRESSION:
        mask, notes = _body_of(mask, grid)
    box = box_around(mask, grid)
    cut, place = values[box], cropped_grid(grid, box).index_to_lps
    if is_density:
        source = _plain_density(law)
        density = np.asarray(cut, np.float32) * np.float32(source.factor)
    else:
        _require_hounsfield(values)
        checks.require_no_metal(cut, mask[box], spacing, subject)
        volume = Volume(np.ascontiguousarray(values), grid)
        calibration = calibrate(volume, Segmentation(np.zeros(mask.shape, np.uint8), grid, method="mask from outside"))
        source = density_source(calibration, law)
        text = (
            f"HU were calibrated by {calibration.method.replace('_', ' ')}: {calibration.reason}; density = "
            f"{calibration.slope_mg_cm3_per_hu:.3f} x HU {calibration.intercept_mg_cm3:+.1f} {calibration.unit}."
        )
        notes = (*notes, Finding("calibration_of_image", Severity.WARNING, text), *calibration.findings)
        density = (calibration.density_mg_cm3(cut) * source.factor).astype(np.float32)
    bone = BoneImage(density, mask[box], place, cut, not is_density)
    if kind is VirtualTest.SPINE_COMPRESSION:
        return compress_body(
            bone, None, law, source, subject, notes, voxel_mm=voxel_mm, with_yield=with_yield, threads=threads
        )
    return load_femur(
        bone, None, kind, law, source, subject, notes, voxel_mm=voxel_mm, with_yield=with_yield, threads=threads
    )


def _require_hounsfield(values: NDArray) -> None:
    """An image without fat or air is no CT in Hounsfield units; a density image must be announced as one."""
    lowest = float(np.percentile(values, 0.1))
    if lowest > -60.0:
        raise InputRefused(
            "not_hounsfield",
            f"holds nothing below {lowest:.0f}: neither air nor fat, so these are not Hounsfield units.",
            subject="the image",
            remedy="If it holds mineral density in mg/cm3, say so with --density.",
        )


def _body_of(mask: NDArray[np.bool_], grid: Grid) -> tuple[NDArray[np.bool_], tuple[Finding, ...]]:
    """The vertebral body alone: the mask itself, or what of it lies in front of a spinal canal that passes through it."""
    box = box_around(mask, grid)
    place = cropped_grid(grid, box)
    hole = find_canal_hole(mask[box], place)
    if hole is None:
        return mask, ()
    findings: tuple[Finding, ...] = ()
    points = place.to_lps(np.argwhere(mask[box]).astype(float))
    behind = float(np.mean((points - hole.centre_lps_mm) @ hole.posterior_lps > 0))
    if behind > 0.5:
        # A body outweighs its arch: more bone behind the canal than before it means that the image lies about its axes.
        hole = replace(hole, posterior_lps=-hole.posterior_lps)
        text = "The body lies behind the canal: front and back are exchanged in the header of the image."
        findings = (Finding("orientation_implausible", Severity.WARNING, text),)
    body = np.zeros_like(mask)
    body[box] = body_without_arch(mask[box], place, hole)
    part = float(body.sum()) / float(mask.sum())
    text = f"The mask is a whole vertebra; {100 * (1 - part):.0f} % of it, behind the front of the canal, was left out."
    return body, (*findings, Finding("arch_cut_off", Severity.INFO, text))


def _plain_density(profile: BoneProfile) -> DensitySource:
    if profile.mineral == "K2HPO4":
        return DensitySource(1.0, 0.0, None)
    text = f"{profile.title} takes HA densities; the image was given as K2HPO4."
    raise InputRefused("mineral_basis", text, subject="density image", remedy="Use a profile for K2HPO4 densities.")


def _known_test(test: str) -> VirtualTest:
    try:
        return VirtualTest(test)
    except ValueError as error:
        known = ", ".join(kind.value for kind in VirtualTest)
        raise InputRefused(
            "unknown_test", f"there is no test '{test}'.", subject="--test", remedy=f"Tests: {known}."
        ) from error


def _read(path: Path) -> tuple[NDArray, NDArray[np.float64]]:
    """Array (Z, Y, X) and its index-to-LPS matrix."""
    name = path.name
    try:
        if name.lower().endswith((".nii", ".nii.gz")):
            image = nibabel.load(path)
            data = np.asarray(image.dataobj)
            while data.ndim > 3 and data.shape[-1] == 1:
                data = data[..., 0]
            affine = _RAS_TO_LPS @ np.asarray(image.affine, float)
        else:
            picture = sitk.ReadImage(str(path))
            data = sitk.GetArrayFromImage(picture).T
            affine = np.eye(4)
            if picture.GetDimension() == 3:
                affine[:3, :3] = np.array(picture.GetDirection()).reshape(3, 3) * np.array(picture.GetSpacing())
                affine[:3, 3] = picture.GetOrigin()
    except Exception as error:  # both libraries raise what they like for a damaged file
        raise InputRefused("image_unreadable", "it is not a readable image.", subject=name) from error
    if data.ndim != 3:
        raise InputRefused("image_unreadable", "it does not hold one 3-D image.", subject=name)
    matrix = affine.copy()
    matrix[:3, :3] = affine[:3, :3][:, ::-1]
    try:
        Grid((data.shape[2], data.shape[1], data.shape[0]), matrix)
    except ValueError as error:
        raise InputRefused("image_unreadable", f"its geometry is unusable: {error}.", subject=name) from error
    return np.ascontiguousarray(data.transpose(2, 1, 0)), matrix


def _corners(shape: tuple[int, ...], matrix: NDArray) -> NDArray[np.float64]:
    """Where a (difference of) index-to-LPS maps sends the corners of an array."""
    ends = [(0, n - 1) for n in shape]
    index = np.array([[k, j, i, 1.0] for k in ends[0] for j in ends[1] for i in ends[2]])
    return np.asarray(index @ matrix[:3].T)


def _chosen(labels: NDArray, label: int | None, name: str) -> NDArray[np.bool_]:
    present = [int(value) for value in np.unique(labels) if value != 0]
    listed = ", ".join(map(str, present[:20])) or "none"
    if label is not None:
        if label not in present:
            raise InputRefused("label_absent", f"it has no label {label}; it has: {listed}.", subject=name)
        return np.asarray(labels == label)
    if len(present) > 1:
        raise InputRefused(
            "label_needed", f"it holds several labels: {listed}.", subject=name, remedy="Choose one by --label."
        )
    return np.asarray(labels != 0)
