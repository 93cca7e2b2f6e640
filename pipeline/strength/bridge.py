"""From a calibrated scan to bone strength: the bridge between density and the virtual tests of `fea.bone`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fea.bone.assembly import TestModel, TestRefused
from fea.bone.evaluate import TestResult, add_yield, run
from fea.bone.femur import build_sideways_fall, build_stance
from fea.bone.femur_pose import FemurPose, pose_of_femur
from fea.bone.profiles import BoneProfile, ProfileError, VirtualTest, load_profile
from fea.bone.vertebra import BodyPose, build_vertebra, pose_of_body
from pipeline.density import Calibration, tables
from pipeline.errors import Finding, InputRefused, NotMeasurable, Severity
from pipeline.segmentation.model import Femur, Segmentation, Vertebra
from pipeline.segmentation.sampling import IndexBox, cropped_grid
from pipeline.strength import checks
from pipeline.strength.cuts import cuts_of
from pipeline.strength.result import BoneImage, DensitySource, Strength
from pipeline.strength.uncertainty import FIRST_ORDER, Basis, first_order, quantity
from pipeline.volume import Grid, Volume

DEFAULT_PROFILE = {
    VirtualTest.SPINE_COMPRESSION: "kopperdahl2002",
    VirtualTest.HIP_SIDEWAYS_FALL: "morgan-neck",
    VirtualTest.HIP_STANCE: "morgan-neck",
}
_MARGIN_MM = 6.0


@dataclass(frozen=True)
class FallPosture:
    """How a femur lies in a fall to the side: as in the tests of Courtney, Keyak and Orwoll unless said otherwise."""

    internal_rotation_deg: float = 15.0
    adduction_deg: float = 10.0


_PROFILE_REMEDY = "Profiles are described in docs/strength.md."


def vertebra_strength(
    volume: Volume,
    segmentation: Segmentation,
    vertebra: Vertebra,
    calibration: Calibration,
    *,
    profile: str | None = None,
    voxel_mm: float = 1.0,
    with_yield: bool = False,
    threads: int | None = None,
) -> Strength:
    """Compressive strength of one vertebral body.

    Parameters
    ----------
    volume : Volume
    segmentation : Segmentation
        On the grid of `volume`.
    vertebra : Vertebra
        Its frame poses the body: load along `superior`.
    calibration : Calibration
    profile : str, optional
        Name of a profile or path of a profile file, or several with commas of which the first that is meant for this test
        is taken; by default the one in `DEFAULT_PROFILE`.
    voxel_mm : float
        Edge of the model's voxels.
    with_yield : bool
        Also follow the elastic-plastic curve, if the profile has a yield law; profiles whose criterion needs it do so anyway.
    threads : int, optional

    Raises
    ------
    NotMeasurable
        ``cut_by_field_of_view``, ``voxels_too_coarse``, ``mask_empty``, ``mask_too_small``, ``metal``, ``density_unphysical``,
        ``disconnected_pieces``, ``not_converged``, ``no_load_carried`` or ``no_yield_law``.
    InputRefused
        ``profile_unusable`` if the profile does not exist or is not meant for this test.
    """
    test = VirtualTest.SPINE_COMPRESSION
    law = require_profile(profile, test)
    if not vertebra.complete:
        raise NotMeasurable("cut_by_field_of_view", "the field of view cuts it.", subject=vertebra.name)
    source = density_source(calibration, law)
    image = _cut_out(volume, segmentation, vertebra, calibration, source, open_end=None)
    frame = vertebra.frame
    pose = BodyPose(frame.centre_lps_mm, frame.left, frame.posterior, frame.superior)
    return compress_body(
        image, pose, law, source, vertebra.name, voxel_mm=voxel_mm, with_yield=with_yield, threads=threads
    )


def femur_strength(
    volume: Volume,
    segmentation: Segmentation,
    femur: Femur,
    calibration: Calibration,
    *,
    test: str = VirtualTest.HIP_SIDEWAYS_FALL.value,
    profile: str | None = None,
    posture: FallPosture | None = None,
    voxel_mm: float = 1.0,
    with_yield: bool = False,
    threads: int | None = None,
) -> Strength:
    """Strength of one proximal femur in a fall to the side or in single-leg stance.

    Parameters as in `vertebra_strength`; `test` is ``"hip-sideways-fall"`` or ``"hip-stance"``, `posture` that of a fall. The
    femur is posed by its landmarks, or from its mask where they lack an axis; a finding says which.

    Raises
    ------
    NotMeasurable
        As `vertebra_strength`, and ``femur_cut_short``, ``shaft_too_short``, ``femoral_head_not_found``, ``femur_axes``,
        ``unfit_for_strength``.
    InputRefused
    """
    kind = VirtualTest(test)
    law = require_profile(profile, kind)
    if not femur.fit_for_strength:
        reasons = "; ".join(f.text for f in femur.findings if f.severity is not Severity.INFO)
        raise NotMeasurable("unfit_for_strength", reasons or "too little of it is in view.", subject=femur.name)
    source = density_source(calibration, law)
    image = _cut_out(volume, segmentation, femur, calibration, source, open_end=(0, 0))
    pose, notes = _femur_pose(image, femur)
    return load_femur(
        image,
        pose,
        kind,
        law,
        source,
        femur.name,
        notes,
        posture=posture,
        voxel_mm=voxel_mm,
        with_yield=with_yield,
        threads=threads,
    )


def check_profiles(wanted: str) -> None:
    """Refuse a profile that cannot be loaded.

    Raises
    ------
    InputRefused
        ``profile_unusable``.
    """
    _named_profiles(wanted)


def profile_fits(wanted: str | None, test: str) -> str | None:
    """`wanted` if it holds a profile meant for `test`, else None, which stands for the default of that test.

    Raises
    ------
    InputRefused
        ``profile_unusable``.
    """
    if wanted is None:
        return None
    return wanted if any(VirtualTest(test) in profile.tests for profile in _named_profiles(wanted)) else None


def require_profile(wanted: str | None, test: VirtualTest) -> BoneProfile:
    """The profile for a test.

    Raises
    ------
    InputRefused
        ``profile_unusable``.
    """
    if wanted is None:
        return load_profile(DEFAULT_PROFILE[test])
    profiles = _named_profiles(wanted)
    for profile in profiles:
        if test in profile.tests:
            return profile
    names = ", ".join(profile.name for profile in profiles) or "(none)"
    raise InputRefused(
        "profile_unusable",
        f"'{names}' is not meant for the test {test.value}.",
        subject="strength profile",
        remedy=_PROFILE_REMEDY,
    )


def _named_profiles(wanted: str) -> list[BoneProfile]:
    try:
        return [load_profile(name.strip()) for name in wanted.split(",") if name.strip()]
    except ProfileError as error:
        raise InputRefused(
            "profile_unusable", str(error), subject="strength profile", remedy=_PROFILE_REMEDY
        ) from error


def density_source(calibration: Calibration, profile: BoneProfile) -> DensitySource:
    """How densities of a calibration enter a profile, with a conversion of the mineral basis where they differ."""

    def uncertainty(density: NDArray[np.float64]) -> NDArray[np.float64]:
        levels = np.linspace(-200.0, 2000.0, 45)
        own = [calibration.relative_uncertainty(float(level)) * max(abs(float(level)), 1.0) for level in levels]
        return np.interp(density / factor, levels, own) * factor

    converted = mineral_conversion(calibration.mineral, profile)
    factor = converted.factor
    return DensitySource(factor, converted.relative_uncertainty, uncertainty, converted.findings)


@dataclass(frozen=True)
class MineralConversion:
    """From the mineral basis of densities to that of a profile: factor, its relative uncertainty, and what is said about it."""

    factor: float = 1.0
    relative_uncertainty: float = 0.0
    findings: tuple[Finding, ...] = ()


def mineral_conversion(mineral: str, profile: BoneProfile) -> MineralConversion:
    """How densities of one mineral basis enter a profile that may be of the other."""
    if mineral == profile.mineral:
        return MineralConversion()
    ratio, deviation = tables.numbers("k2hpo4_per_ha")
    factor = ratio if profile.mineral == "K2HPO4" else 1 / ratio
    spread = deviation / ratio
    text = (
        f"Densities on the {mineral} scale were multiplied by {factor:.2f} (± {100 * spread:.0f} %) for the "
        f"{profile.mineral} law of {profile.title}; published factors disagree."
    )
    return MineralConversion(factor, spread, (Finding("mineral_basis_converted", Severity.WARNING, text),))


def _cut_out(
    volume: Volume,
    segmentation: Segmentation,
    structure: Vertebra | Femur,
    calibration: Calibration,
    source: DensitySource,
    *,
    open_end: tuple[int, int] | None,
) -> BoneImage:
    """The part of the volume around one structure, calibrated, after every check that needs no model."""
    checks.require_spacing(np.asarray(volume.spacing_mm), structure.name)
    whole = segmentation.mask(structure)
    checks.require_mask(whole, structure.name)
    box = box_around(whole, volume.grid)
    mask = whole[box].copy()  # a view would keep the mask of the whole volume for as long as the model lives
    checks.require_one_piece(mask, structure.name)
    checks.require_inside(whole, None, structure.name, open_end=open_end)
    if volume.valid is not None:
        closed = np.pad(volume.valid[box], 1, mode="edge")
        checks.require_inside(np.pad(mask, 1), closed, structure.name)
    hu = volume.hu[box]
    spacing = np.asarray(volume.spacing_mm)
    checks.require_no_metal(hu, mask, spacing, structure.name)
    density = (calibration.density_mg_cm3(hu) * source.factor).astype(np.float32)
    return BoneImage(density, mask, cropped_grid(volume.grid, box).index_to_lps, hu, True)


def box_around(mask: NDArray[np.bool_], grid: Grid) -> IndexBox:
    """The mask and a margin, within the grid."""
    slices = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        occupied = np.flatnonzero(mask.any(axis=others))
        margin = int(np.ceil(_MARGIN_MM / grid.spacing_mm[axis])) + 1
        slices.append(slice(max(int(occupied[0]) - margin, 0), min(int(occupied[-1]) + margin + 1, mask.shape[axis])))
    return slices[0], slices[1], slices[2]


def _femur_pose(image: BoneImage, femur: Femur) -> tuple[FemurPose, tuple[Finding, ...]]:
    marks = femur.landmarks
    if (
        marks is not None
        and marks.neck_axis_lps is not None
        and marks.shaft_axis_lps is not None
        and marks.shaft_point_lps_mm is not None
    ):
        pose = FemurPose(
            np.asarray(marks.head_centre_lps_mm, float),
            float(marks.head_radius_mm),
            np.asarray(marks.neck_axis_lps, float),
            np.asarray(marks.shaft_axis_lps, float),
            np.asarray(marks.shaft_point_lps_mm, float),
            femur.side,
            marks.lesser_trochanter_lps_mm,
        )
        return pose, ()
    text = "Axes of the femur were taken from its mask, because its landmarks are incomplete."
    try:
        pose = pose_from_mask(image.mask, image.index_to_lps, femur.side)
    except TestRefused as refused:
        raise NotMeasurable(refused.code, refused.detail, subject=femur.name) from refused
    return pose, (Finding("axes_from_mask", Severity.INFO, text),)


_MIRROR = np.array([-1.0, 1.0, 1.0])


def pose_from_mask(mask: NDArray[np.bool_], index_to_lps: NDArray[np.float64], side: str | None = None) -> FemurPose:
    """Pose of a femur from its mask, the same for a left one as for its mirror image.

    Left ones are posed as right ones, mirrored: how voxels fall on the working grid turns the axes of a short shaft by a
    degree, and left and right are to be compared.

    Raises
    ------
    TestRefused
        As `fea.bone.femur_pose.pose_of_femur`.
    """
    pose = pose_of_femur(mask, index_to_lps, side=side) if side != "left" else None
    if pose is not None and pose.side == "right":
        return pose
    mirrored = pose_of_femur(mask, np.diag([*_MIRROR, 1.0]) @ index_to_lps, side="right")
    marks = mirrored.lesser_trochanter_mm
    return replace(
        mirrored,
        head_centre_mm=mirrored.head_centre_mm * _MIRROR,
        neck_axis=mirrored.neck_axis * _MIRROR,
        shaft_axis=mirrored.shaft_axis * _MIRROR,
        shaft_point_mm=mirrored.shaft_point_mm * _MIRROR,
        side="left",
        lesser_trochanter_mm=None if marks is None else np.asarray(marks) * _MIRROR,
    )


def compress_body(
    image: BoneImage,
    pose: BodyPose | None,
    profile: BoneProfile,
    source: DensitySource,
    subject: str,
    notes: tuple[Finding, ...] = (),
    *,
    voxel_mm: float = 1.0,
    with_yield: bool = False,
    threads: int | None = None,
) -> Strength:
    """Compression of a vertebral body given as an image; without a `pose` it is taken from the mask."""

    def build() -> TestModel:
        frame = pose or pose_of_body(image.mask, image.index_to_lps)
        return build_vertebra(image.density_mg_cm3, image.mask, image.index_to_lps, frame, profile, voxel_mm=voxel_mm)

    return _run(image, build, source, subject, notes, threads, with_yield)


def load_femur(
    image: BoneImage,
    pose: FemurPose | None,
    test: VirtualTest,
    profile: BoneProfile,
    source: DensitySource,
    subject: str,
    notes: tuple[Finding, ...] = (),
    *,
    posture: FallPosture | None = None,
    voxel_mm: float = 1.0,
    with_yield: bool = False,
    threads: int | None = None,
) -> Strength:
    """A virtual test of a femur given as an image; without a `pose` it is taken from the mask."""

    lying = posture or FallPosture()

    def build() -> TestModel:
        frame = pose or pose_from_mask(image.mask, image.index_to_lps)
        bone = (image.density_mg_cm3, image.mask, image.index_to_lps, frame, profile)
        if test is VirtualTest.HIP_STANCE:
            return build_stance(*bone, voxel_mm=voxel_mm)
        return build_sideways_fall(
            *bone,
            voxel_mm=voxel_mm,
            internal_rotation_deg=lying.internal_rotation_deg,
            adduction_deg=lying.adduction_deg,
        )

    return _run(image, build, source, subject, notes, threads, with_yield)


def _run(
    image: BoneImage,
    build: Callable[[], TestModel],
    source: DensitySource,
    subject: str,
    notes: tuple[Finding, ...],
    threads: int | None,
    with_yield: bool,
) -> Strength:
    try:
        result = run(build(), threads=threads)
        if with_yield and result.plastic_strain is None:
            result = add_yield(result, threads=threads)
    except TestRefused as refused:
        raise NotMeasurable(refused.code, refused.detail, subject=subject) from refused
    model, profile = result.model, result.model.profile
    issues = tuple(
        Finding(issue.code, Severity.WARNING if issue.serious else Severity.INFO, issue.text)
        for issue in (*model.issues, *result.issues)
    )
    basis = Basis.of(source, image.spacing_mm)
    strength_parts, stiffness_parts = (first_order(result, basis, of_strength=which) for which in (True, False))
    return Strength(
        test=model.test.value,
        profile=profile.title,
        definition=profile.definition,
        strength=quantity(result, basis, strength_parts, of_strength=True),
        stiffness=quantity(result, basis, stiffness_parts, of_strength=False),
        reaction_n=result.force_n,
        curve=tuple((float(d), float(f)) for d, f in result.curve),
        criteria_n={criterion.value: float(force) for criterion, force in result.strength_n.items()},
        model=_facts(result),
        findings=(*source.findings, *notes, *issues),
        cuts=cuts_of(result, image, subject),
        solved=result,
        basis=basis,
    )


def _facts(result: TestResult) -> dict[str, float | int | str | bool]:
    """What the reader needs to repeat or judge the model."""
    model = result.model
    facts: dict[str, float | int | str | bool] = {
        "profile_fingerprint": model.profile.fingerprint,
        "element_size_mm": model.bone.grid.voxel_mm,
        "elements": int(np.count_nonzero(model.modulus_mpa)),
        "dof": result.dof,
        "iterations": result.iterations,
        "residual": result.residual,
        "seconds": round(result.seconds, 3),
        "linear": result.plastic_strain is None,
        "applied_displacement_mm": model.applied_mm,
        "bone_mass_g": model.bone.mass_g,
        "bone_volume_mm3": model.bone.source_volume_mm3,
        "mean_section_mm2": model.cross_section_mm2,
        "strain_energy_mj": result.strain_energy_mj,
        "uncertainty": FIRST_ORDER,
    }
    strength = result.strength_n[model.profile.strength]
    facts["strain_energy_at_strength_mj"] = 0.5 * strength**2 / result.stiffness_n_mm
    if "body" in model.lengths_mm:
        # of a bar of the same height and mean section
        facts["apparent_strength_mpa"] = strength / model.cross_section_mm2
        facts["apparent_modulus_mpa"] = result.stiffness_n_mm * model.lengths_mm["body"] / model.cross_section_mm2
    if result.load_share is not None:
        share = result.load_share
        facts["cortical_load_share"] = share.middle
        facts["cortical_load_share_greatest"] = share.greatest
        facts["cortical_area_share"] = share.area_middle
        facts["cortical_depth_mm"] = share.depth_mm
    if result.first_failure:
        facts["fails_first_in"] = next(iter(result.first_failure))
        facts |= {f"fails_first_in.{name}": part for name, part in result.first_failure.items()}
    facts |= {f"{name}_length_mm": length for name, length in model.lengths_mm.items()}
    facts |= {f"{criterion.value}_n": force for criterion, force in result.strength_n.items()}
    if result.first_yield_n is not None:
        facts["first_yield_n"] = result.first_yield_n
    if result.yielded_part is not None:
        facts["yielded_part_of_bone"] = result.yielded_part
        facts["yielded_volume_mm3"] = result.yielded_part * model.bone.source_volume_mm3
    return facts
