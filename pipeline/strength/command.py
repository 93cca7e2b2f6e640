"""One virtual test of a bone that the user already has as an image and a mask: what `openbct strength` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fea.bone.profiles import BoneProfile, VirtualTest
from pipeline.density import calibrate
from pipeline.errors import Finding, InputRefused, NotMeasurable, Severity
from pipeline.segmentation.arch import body_without_arch, find_canal_hole
from pipeline.segmentation.model import Segmentation
from pipeline.segmentation.sampling import cropped_grid
from pipeline.strength import checks
from pipeline.strength.bridge import (
    FallPosture,
    box_around,
    compress_body,
    density_source,
    load_femur,
    mineral_conversion,
    require_profile,
)
from pipeline.strength.images import read_image, read_mask
from pipeline.strength.output import content_of, content_of_refusal, require_exports, write_outcome
from pipeline.strength.result import BoneImage, DensitySource, Strength
from pipeline.strength.uncertainty import with_ensemble
from pipeline.volume import Acquisition, Grid, Volume

MINERALS = ("K2HPO4", "HA")
"""What densities may be equivalent to: dipotassium phosphate, or hydroxyapatite."""


def run_strength_command(
    image: Path | str,
    mask: Path | str,
    output: Path | str,
    *,
    test: str,
    label: int | None = None,
    profile: str | None = None,
    is_density: bool = False,
    mineral: str = "K2HPO4",
    calibration: str | None = None,
    posture: FallPosture | None = None,
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
        On the same grid: NIfTI or any format of SimpleITK, a folder, zip or file of DICOM (image), a DICOM segmentation (mask).
        The image holds HU, or mineral density (mg/cm3) with `is_density`.
    output : Path
        Folder, made if absent.
    test : str
        ``spine-compression``, ``hip-sideways-fall`` or ``hip-stance``.
    label : int, optional
        Number of the bone in the mask, or of the segment; may be absent if the mask holds one structure.
    profile : str, optional
        Name of a profile or path of a profile file.
    mineral : str
        ``K2HPO4`` or ``HA``: what the densities of a density image are equivalent to.
    calibration : str, optional
        Of HU: a calibration file, or a method, as in `pipeline.density.calibrate`.
    posture : FallPosture, optional
        Of a fall to the side.
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
        ``image_unreadable``, ``not_one_study``, ``not_a_label_map``, ``grids_differ``, ``label_absent``, ``label_needed``,
        ``not_hounsfield``, ``unknown_mineral``, ``calibration_not_used``, ``unknown_test``,
        ``unknown_export``, ``profile_unusable`` or ``output_not_writable``.
    """
    kind, wanted = _known_test(test), require_exports(exports)
    if is_density and calibration is not None:
        text = "is for Hounsfield units, and a density image needs none."
        raise InputRefused("calibration_not_used", text, subject="--calibration", remedy="Leave out one of the two.")
    law = require_profile(profile, kind)
    picture = read_image(Path(image), kind)
    chosen = read_mask(Path(mask), label, picture)
    subject = f"label {label}" if label is not None else "the mask"
    result: Strength | None = None
    try:
        if picture.valid is not None:
            checks.require_inside(chosen, picture.valid, subject, open_end=_open_end(kind))
        result = strength_from_image(
            picture.values,
            chosen,
            picture.grid.index_to_lps,
            test=kind.value,
            profile=profile,
            mineral=mineral if is_density else None,
            acquisition=picture.acquisition,
            calibration_choice=calibration,
            subject=subject,
            posture=posture,
            voxel_mm=voxel_mm,
            with_yield=with_yield,
            threads=threads,
        )
        result = replace(result, findings=(*picture.findings, *result.findings))
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
    mineral: str | None = None,
    acquisition: Acquisition | None = None,
    calibration_choice: str | None = None,
    subject: str = "the mask",
    posture: FallPosture | None = None,
    voxel_mm: float = 1.0,
    with_yield: bool = False,
    threads: int | None = None,
) -> Strength:
    """One virtual test of the bone in `mask`, posed from the mask itself.

    Parameters
    ----------
    values : ndarray of shape (Z, Y, X)
        HU in canonical order (see `Volume`), or mineral density in mg/cm3 where `mineral` says of what. HU are calibrated from
        what the image itself shows.
    mask : bool ndarray of shape (Z, Y, X)
        A vertebra, whole (its arch is cut off in front of the canal) or the body alone, or a solid proximal femur.
    index_to_lps : float ndarray of shape (4, 4)
    mineral : {"K2HPO4", "HA"}, optional
        None for HU.
    acquisition : Acquisition, optional
        What is known of the scan, for the calibration of HU.
    calibration_choice : str, optional
        As in `pipeline.density.calibrate`.

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
    checks.require_inside(mask, None, subject, open_end=_open_end(kind))
    notes: tuple[Finding, ...] = ()
    if kind is VirtualTest.SPINE_COMPRESSION:
        mask, notes = _body_of(mask, grid)
    box = box_around(mask, grid)
    checks.require_one_piece(mask[box], subject)
    cut, place = values[box], cropped_grid(grid, box).index_to_lps
    if mineral is not None:
        source = _plain_density(mineral, law)
        density = np.asarray(cut, np.float32) * np.float32(source.factor)
        checks.require_density_scale(density[mask[box]], subject)
    else:
        _require_hounsfield(values)
        checks.require_no_metal(cut, mask[box], spacing, subject)
        volume = Volume(np.ascontiguousarray(values), grid, acquisition or Acquisition())
        nothing = Segmentation(np.zeros(mask.shape, np.uint8), grid, method="mask from outside")
        calibration = calibrate(volume, nothing, choice=calibration_choice)
        source = density_source(calibration, law)
        text = (
            f"HU were calibrated by {calibration.method.replace('_', ' ')}: {calibration.reason}; density = "
            f"{calibration.slope_mg_cm3_per_hu:.3f} x HU {calibration.intercept_mg_cm3:+.1f} {calibration.unit}."
        )
        notes = (*notes, Finding("calibration_of_image", Severity.WARNING, text), *calibration.findings)
        density = (calibration.density_mg_cm3(cut) * source.factor).astype(np.float32)
    bone = BoneImage(density, mask[box], place, cut, mineral is None)
    if kind is VirtualTest.SPINE_COMPRESSION:
        return compress_body(
            bone, None, law, source, subject, notes, voxel_mm=voxel_mm, with_yield=with_yield, threads=threads
        )
    return load_femur(
        bone,
        None,
        kind,
        law,
        source,
        subject,
        notes,
        posture=posture,
        voxel_mm=voxel_mm,
        with_yield=with_yield,
        threads=threads,
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
    # The thickest place of a vertebra lies in its body, at every level; in the upper chest the arch has more bone.
    solid = np.pad(ndimage.binary_fill_holes(mask[box]), 1)
    depth = ndimage.distance_transform_edt(solid, sampling=place.spacing_mm)[1:-1, 1:-1, 1:-1]
    thickest = place.to_lps(np.array([np.unravel_index(int(depth.argmax()), depth.shape)], float))[0]
    if float((thickest - hole.centre_lps_mm) @ hole.posterior_lps) > 0:
        hole = replace(hole, posterior_lps=-hole.posterior_lps)
        text = "The body lies behind the canal: front and back are exchanged in the header of the image."
        findings = (Finding("orientation_implausible", Severity.WARNING, text),)
    body = np.zeros_like(mask)
    body[box] = body_without_arch(mask[box], place, hole)
    part = float(body.sum()) / float(mask.sum())
    text = f"The mask is a whole vertebra; {100 * (1 - part):.0f} % of it, behind the front of the canal, was left out."
    return body, (*findings, Finding("arch_cut_off", Severity.INFO, text))


def _open_end(kind: VirtualTest) -> tuple[int, int] | None:
    """The face of the image through which the bone may leave it: the shaft of a femur."""
    return None if kind is VirtualTest.SPINE_COMPRESSION else (0, 0)


def _plain_density(mineral: str, profile: BoneProfile) -> DensitySource:
    """Densities that somebody else calibrated, of unknown uncertainty, on the mineral basis of the profile."""
    if mineral not in MINERALS:
        known = ", ".join(MINERALS)
        raise InputRefused("unknown_mineral", f"is not known; known are {known}.", subject=f"--mineral {mineral}")
    converted = mineral_conversion(mineral, profile)
    return DensitySource(converted.factor, converted.relative_uncertainty, None, converted.findings)


def _known_test(test: str) -> VirtualTest:
    try:
        return VirtualTest(test)
    except ValueError as error:
        known = ", ".join(kind.value for kind in VirtualTest)
        raise InputRefused(
            "unknown_test", f"there is no test '{test}'.", subject="--test", remedy=f"Tests: {known}."
        ) from error
