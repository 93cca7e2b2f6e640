"""Trabecular density of one vertebral body."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.density import tables
from pipeline.density.body import BodyVoxels, body_voxels
from pipeline.density.calibration_value import Calibration
from pipeline.density.sound_bone import SoundBone, Spacing, rarest_place_hu, sound_bone, unevenness_hu
from pipeline.errors import Finding, NotMeasurable, Severity, Status, status_of
from pipeline.segmentation.model import Segmentation, Vertebra
from pipeline.volume import Volume
from reports.quantity import Quantity

# Peel: 4 mm from the wall and 5 mm from the endplates hold the blurred cortex off; the rearmost fifth holds the vein entry.
_WALL_MM = 4.0
_ENDPLATE_MM = 5.0
_POSTERIOR_SHARE = 0.2
_ELLIPSE_WIDTH_SHARE = 0.62
_ELLIPSE_DEPTH_SHARE = 0.55
_ELLIPSE_CENTRE_SHARE = 0.42
_ELLIPSE_HEIGHT_MM = 9.5
# Local means vary by 7 to 21 % of the mean (11 to 26 HU in bone below 150 HU) in bodies of real and digital spines without
# a focal change that can be seen; by 24 % and more with one.
_UNEVEN_HU, _UNEVEN_SHARE = 30.0, 0.22
# The rarest hundredth of coarser local means lies 6 to 25 % below their middle in nine of ten real bodies, 32 to 41 % in
# digital ones with a lytic lesion of 100 mg/cm3; one of 60 mg/cm3 (18 to 22 %) cannot be told from what marrow does.
_RARE_HU, _RARE_SHARE = 30.0, 0.30
_CEMENT_HU = 1000.0
_CEMENT_MM3 = 150.0
_METAL_HU = 2000.0
_FEWEST_VOXELS = 20
_SMALLEST_MM3 = 700.0
# How much of a region counts as one independent reading of its noise: means over blocks of 160 to 700 mm3 of even soft tissue
# in seven real scans vary as if it were 1.5 to 10 mm3: about 5 mm3, in slices above 2.5 mm some 2 mm2 of each.
_INDEPENDENT_MM3, _INDEPENDENT_MM2 = 5.0, 2.0
_NOISE_PATCH_MM, _NOISE_REACH_MM, _NOISE_SLICES = 6.0, 25.0, 8
_SOFT_TISSUE_HU = (0.0, 110.0)
_EVEN_PERCENTILE = 20.0
_FEWEST_PATCHES = 200
_PLAUSIBLE_MG_CM3 = (-20.0, 350.0)
_GUESSED_ENDPLATE = "disc_not_visible"

Shift = tuple[float, float]
_UNMOVED: Shift = (0.0, 0.0)


@dataclass(frozen=True)
class VertebraDensity:
    """What was measured in one body.

    Attributes
    ----------
    name : str
    level : str or None
    trabecular_hu : Quantity
        Mean of the peeled body in HU.
    vbmd_mg_cm3 : Quantity
        The same as mineral density, on the scale of the calibration.
    ellipse_hu, ellipse_vbmd_mg_cm3 : Quantity or None
        In an elliptical cylinder of 9.5 mm at mid height, which imitates the region a reader draws; None if it does not
        fit.
    roi_difference_mg_cm3 : float or None
        Peeled body minus elliptical cylinder.
    sd_hu : float
        Standard deviation of the voxels, noise and structure together.
    n_voxels : int
    volume_mm3 : float
        Of the peeled region.
    excluded_share : float
        Share of voxels left out as veins, sclerosis or other outliers, without the rims that go with larger ones.
    findings : tuple of Finding
    peeled_index, ellipse_index : int ndarray of shape (N, 3)
        Voxels (k, j, i) that entered, for pictures.
    level_alternatives : dict of str to float
        Of a body without a certain level: levels that it may be, and their probabilities.
    """

    name: str
    level: str | None
    trabecular_hu: Quantity
    vbmd_mg_cm3: Quantity
    ellipse_hu: Quantity | None
    ellipse_vbmd_mg_cm3: Quantity | None
    roi_difference_mg_cm3: float | None
    sd_hu: float
    n_voxels: int
    volume_mm3: float
    excluded_share: float
    findings: tuple[Finding, ...]
    peeled_index: NDArray[np.intp]
    ellipse_index: NDArray[np.intp]
    level_alternatives: dict[str, float] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        return status_of(self.findings)


def measure_vertebra(
    volume: Volume,
    segmentation: Segmentation,
    vertebra: Vertebra,
    calibration: Calibration,
    *,
    fracture_grade: int | None = None,
) -> VertebraDensity:
    """Trabecular HU and volumetric mineral density of a vertebral body.

    Parameters
    ----------
    volume : Volume
    segmentation : Segmentation
    vertebra : Vertebra
    calibration : Calibration
    fracture_grade : int, optional
        From `pipeline.fracture`. A fractured body (grade 2 or 3) is denser by impaction and is not measured; a possible
        deformity (grade 1, most of which are none) is measured and said.

    Raises
    ------
    NotMeasurable
        ``cut_by_field_of_view``, ``fractured``, ``cement_or_metal``, ``too_small``, ``implausible_density``,
        ``padding_in_body``, ``quality_control``.
    """
    _require_measurable(vertebra, fracture_grade)
    voxels = body_voxels(volume, segmentation, vertebra)
    voxel_mm3 = volume.grid.voxel_volume_mm3
    _require_bone(volume, vertebra, voxels, voxel_mm3)
    spacing = volume.spacing_mm
    peeled = peeled_region(voxels, spacing)
    if peeled.sum() < _FEWEST_VOXELS or peeled.sum() * voxel_mm3 < _SMALLEST_MM3:
        raise NotMeasurable(
            "too_small",
            f"only {peeled.sum() * voxel_mm3:.0f} mm3 ({int(peeled.sum())} voxels) of trabecular bone "
            f"lie away from the cortex.",
            subject=vertebra.name,
        )
    ellipse = _ellipse(voxels)
    inwards = _uncertain_place_mm(vertebra, spacing)
    outwards = (-inwards[0], -inwards[1])
    bone = sound_bone(voxels, peeled | ellipse, spacing)
    kept = peeled & bone.sound
    excluded = 1.0 - (peeled & bone.like_most).sum() / peeled.sum()
    noise_hu = image_noise_hu(volume, voxels)
    moved = [peeled_region(voxels, spacing, shift) for shift in (outwards, inwards)]
    parts = _own_parts_hu(voxels, peeled, moved, bone, noise_hu, voxel_mm3, spacing[0])
    hu, vbmd = _quantities(voxels.hu[kept], parts, calibration, "peeled vertebral body")
    if not _PLAUSIBLE_MG_CM3[0] < vbmd.value < _PLAUSIBLE_MG_CM3[1]:
        raise NotMeasurable(
            "implausible_density",
            f"trabecular density {vbmd.value:.0f} {calibration.unit} ({hu.value:.0f} HU) is outside what bone can have.",
            subject=vertebra.name,
            remedy="Check the calibration and that the series holds Hounsfield units.",
        )
    ellipse_kept = ellipse & bone.sound
    ellipse_hu = ellipse_vbmd = difference = None
    if ellipse_kept.sum() >= _FEWEST_VOXELS:
        moved = [_ellipse(voxels, shift) for shift in (outwards, inwards)]
        parts = _own_parts_hu(voxels, ellipse, moved, bone, noise_hu, voxel_mm3, spacing[0])
        ellipse_hu, ellipse_vbmd = _quantities(
            voxels.hu[ellipse_kept], parts, calibration, "elliptical cylinder at mid height"
        )
        difference = vbmd.value - ellipse_vbmd.value
    uneven_hu = unevenness_hu(bone.local_hu[peeled])
    rare_hu = rarest_place_hu(voxels, peeled, spacing)
    findings = (
        *_findings(vertebra, volume, calibration, vbmd, difference, excluded, fracture_grade),
        *_uneven_findings(vertebra, hu.value, uneven_hu, rare_hu),
    )
    return VertebraDensity(
        name=vertebra.name,
        level=vertebra.level,
        trabecular_hu=hu,
        vbmd_mg_cm3=vbmd,
        ellipse_hu=ellipse_hu,
        ellipse_vbmd_mg_cm3=ellipse_vbmd,
        roi_difference_mg_cm3=difference,
        sd_hu=float(voxels.hu[kept].std()),
        n_voxels=int(kept.sum()),
        volume_mm3=float(kept.sum() * voxel_mm3),
        excluded_share=float(excluded),
        findings=findings,
        peeled_index=voxels.index[kept],
        ellipse_index=voxels.index[ellipse_kept],
        level_alternatives=dict(vertebra.level_alternatives),
    )


def _require_measurable(vertebra: Vertebra, fracture_grade: int | None) -> None:
    if not vertebra.complete:
        raise NotMeasurable("cut_by_field_of_view", "the field of view cuts the body.", subject=vertebra.name)
    if fracture_grade is not None and fracture_grade >= 2:
        raise NotMeasurable(
            "fractured",
            f"height loss of grade {fracture_grade}: impacted bone reads denser than it was, so no density is reported.",
            subject=vertebra.name,
        )
    if vertebra.status is Status.FAILED:
        reasons = ", ".join(f.code for f in vertebra.findings if f.severity is Severity.FAILURE)
        raise NotMeasurable(
            "quality_control", f"the segmentation failed quality control ({reasons}).", subject=vertebra.name
        )


def _require_bone(volume: Volume, vertebra: Vertebra, voxels: BodyVoxels, voxel_mm3: float) -> None:
    """Refuse bodies with padding, cement or metal inside."""
    if volume.valid is not None:
        valid = volume.valid[voxels.index[:, 0], voxels.index[:, 1], voxels.index[:, 2]]
        if valid.mean() < 0.995:
            detail = f"{100 * (1 - valid.mean()):.0f} % of the body lies outside the scanned field."
            raise NotMeasurable("padding_in_body", detail, subject=vertebra.name)
    if (voxels.hu < -400).mean() > 0.02:
        detail = f"{100 * (voxels.hu < -400).mean():.0f} % of the body reads like air or padding."
        raise NotMeasurable("padding_in_body", detail, subject=vertebra.name)
    inside = voxels.depth_mm > _WALL_MM
    cement_mm3 = float((voxels.hu[inside] > _CEMENT_HU).sum() * voxel_mm3)
    metal_mm3 = float((voxels.hu > _METAL_HU).sum() * voxel_mm3)
    if cement_mm3 > _CEMENT_MM3 or metal_mm3 > _CEMENT_MM3 / 2:
        detail = (
            f"{cement_mm3:.0f} mm3 inside the body are above {_CEMENT_HU:.0f} HU and {metal_mm3:.0f} mm3 of it above "
            f"{_METAL_HU:.0f} HU: cement or metal."
        )
        raise NotMeasurable("cement_or_metal", detail, subject=vertebra.name)


def _uncertain_place_mm(vertebra: Vertebra, spacing_mm: Spacing) -> tuple[float, float]:
    """How far the walls and the endplates of a body may lie from where they were found: half a voxel, and in thick slices a
    quarter of one for an endplate. One that no disc shows may lie in either of two slices, and takes the walls with it.
    """
    half = 0.5 * float(np.cbrt(np.prod(spacing_mm)))
    if any(f.code == _GUESSED_ENDPLATE for f in vertebra.findings):
        half = max(half, 0.5 * spacing_mm[0])
    return half, max(half, 0.25 * spacing_mm[0])


def peeled_region(voxels: BodyVoxels, spacing_mm: Spacing, shift_mm: Shift = _UNMOVED) -> NDArray[np.bool_]:
    """The body without what lies within 4 mm of the wall or 5 mm of an endplate, its rearmost fifth and the vein entry.

    `shift_mm` moves the faces at the walls and at the endplates inwards. The slab next to the endplates is at least half a
    slice.
    """
    wall, plate = shift_mm
    endplate = max(_ENDPLATE_MM, 0.5 * spacing_mm[0] + 2.0) + plate
    back = voxels.anterior_mm + (1 - _POSTERIOR_SHARE) * voxels.body_depth_mm - wall
    inside = (voxels.depth_mm >= _WALL_MM + wall) & (voxels.to_endplate_mm >= endplate) & (voxels.posterior_mm <= back)
    return np.asarray(inside & ~_vein_entry(voxels))


def _vein_entry(voxels: BodyVoxels) -> NDArray[np.bool_]:
    """The basivertebral plexus: behind the middle, at the midline, at mid height."""
    midline = float(np.median(voxels.left_mm))
    return (
        (np.abs(voxels.left_mm - midline) < 6.0)
        & (voxels.posterior_mm > voxels.anterior_mm + 0.62 * voxels.body_depth_mm)
        & (np.abs(voxels.superior_mm - voxels.middle_mm) < 4.0)
    )


def _ellipse(voxels: BodyVoxels, shift_mm: Shift = _UNMOVED) -> NDArray[np.bool_]:
    """Elliptical cylinder in the front two thirds at mid height, at least 4 mm inside the wall; `shift_mm` as above."""
    wall, plate = shift_mm
    midline = float(np.median(voxels.left_mm))
    centre = voxels.anterior_mm + _ELLIPSE_CENTRE_SHARE * voxels.body_depth_mm
    across = (voxels.left_mm - midline) / (_ELLIPSE_WIDTH_SHARE * voxels.body_width_mm / 2 - wall)
    along = (voxels.posterior_mm - centre) / (_ELLIPSE_DEPTH_SHARE * voxels.body_depth_mm / 2 - wall)
    return np.asarray(
        (across**2 + along**2 <= 1.0)
        & (np.abs(voxels.superior_mm - voxels.middle_mm) <= _ELLIPSE_HEIGHT_MM / 2 - plate)
        & (voxels.depth_mm >= _WALL_MM)
        & (voxels.to_endplate_mm >= _ENDPLATE_MM - 1.0)
        & ~_vein_entry(voxels)
    )


def image_noise_hu(volume: Volume, voxels: BodyVoxels) -> float:
    """Standard deviation of the image noise about a body: that within small patches of the evenest soft tissue near it.

    The voxels of the body itself do not tell it, because trabeculae and marrow differ from place to place as well. Patches of
    6 mm in the plane up to 25 mm from the body whose mean is that of soft tissue; of their standard deviations the lowest
    fifth, which is the noise of digital patients within 3 % (after the global noise level of Christianson et al. 2015, who take
    the mode; near one body there are too few patches for a mode). Where there is no even soft tissue the spread of the body's
    inner voxels stands in, which is too large.
    """
    spacing = volume.spacing_mm
    low, high = voxels.index.min(axis=0), voxels.index.max(axis=0) + 1
    slices = np.unique(np.linspace(low[0], high[0] - 1, _NOISE_SLICES).round().astype(int))
    reach = [round(_NOISE_REACH_MM / edge) for edge in spacing[1:]]
    rows, columns = (slice(max(0, int(low[i]) - reach[i - 1]), int(high[i]) + reach[i - 1]) for i in (1, 2))
    hu = np.clip(volume.hu[slices, rows, columns].astype(np.float32), -300.0, 400.0)
    patch = [1, *(max(3, round(_NOISE_PATCH_MM / edge)) for edge in spacing[1:])]
    count = float(np.prod(patch))
    mean = ndimage.uniform_filter(hu, patch)
    variance = ndimage.uniform_filter(hu * hu, patch) - mean * mean
    soft = (mean > _SOFT_TISSUE_HU[0]) & (mean < _SOFT_TISSUE_HU[1])
    if volume.valid is not None:
        soft &= volume.valid[slices, rows, columns]
    inside = float(voxels.hu[voxels.depth_mm >= _WALL_MM].std())
    if soft.sum() < _FEWEST_PATCHES:
        return inside
    spread = np.sqrt(np.maximum(variance[soft], 0.0) * count / (count - 1))
    return min(float(np.percentile(spread, _EVEN_PERCENTILE)), inside)


def _own_parts_hu(
    voxels: BodyVoxels,
    region: NDArray[np.bool_],
    moved: list[NDArray[np.bool_]],
    bone: SoundBone,
    noise_hu: float,
    voxel_mm3: float,
    slice_mm: float,
) -> dict[str, float]:
    """Parts of the uncertainty of a region's mean that are this body's own: noise, place of the region, what was left out.

    Where the faces lie is known to half a voxel and no value within is likelier than another: a rectangle has a standard
    deviation of its half width over root three. Of what was left out some part may belong to the bone, and something like it
    may have stayed.
    """
    kept = region & bone.sound
    independent_mm3 = max(_INDEPENDENT_MM3, _INDEPENDENT_MM2 * slice_mm, voxel_mm3)
    independent = max(1.0, kept.sum() * voxel_mm3 / independent_mm3)
    boundary = _range_of_means_hu(voxels, [each & bone.sound for each in (*moved, region)])
    # However far beyond its bounds a place reads, that part of it which was kept reads within them.
    changed = abs(float(np.clip(voxels.hu[region], *bone.bounds_hu).mean() - voxels.hu[kept].mean()))
    return {
        "noise": float(noise_hu / np.sqrt(independent)),
        "boundary": boundary / np.sqrt(12.0),
        "exclusion": 0.5 * changed,
    }


def _range_of_means_hu(voxels: BodyVoxels, regions: list[NDArray[np.bool_]]) -> float:
    """Largest minus smallest mean HU of those regions that hold enough voxels."""
    means = [float(voxels.hu[region].mean()) for region in regions if region.sum() >= _FEWEST_VOXELS]
    return max(means) - min(means) if means else 0.0


def _quantities(
    hu: NDArray[np.float64], own_parts_hu: dict[str, float], calibration: Calibration, where: str
) -> tuple[Quantity, Quantity]:
    """Mean HU and mean density of a region, each with the makeup of its uncertainty."""
    mean = float(hu.mean())
    parts = dict(own_parts_hu)
    if calibration.contrast_enhanced:
        parts["contrast"] = tables.number("contrast.vertebra_sd_hu")
    slope = calibration.slope_mg_cm3_per_hu
    density = float(calibration.density_mg_cm3(mean))
    density_parts = {name: value * slope for name, value in parts.items()}
    density_parts["calibration"] = calibration.uncertainty_mg_cm3(density)
    return (
        Quantity(
            value=mean,
            unit="[hnsf'U]",
            uncertainty=float(np.linalg.norm(list(parts.values()))),
            method=f"mean of {hu.size} voxels, {where}",
            reference="docs/methods.md, section 2 (regions of this program)",
            components=parts,
        ),
        Quantity(
            value=density,
            unit=calibration.unit,
            uncertainty=float(np.linalg.norm(list(density_parts.values()))),
            method=f"mean of {hu.size} voxels, {where}, calibration {calibration.method}",
            reference=calibration.reference,
            components=density_parts,
        ),
    )


def _findings(
    vertebra: Vertebra,
    volume: Volume,
    calibration: Calibration,
    vbmd: Quantity,
    difference: float | None,
    excluded: float,
    fracture_grade: int | None,
) -> tuple[Finding, ...]:
    findings: list[Finding] = [f for f in vertebra.findings if f.severity is Severity.WARNING]
    if excluded > 0.1:
        text = (
            f"{vertebra.name}: {100 * excluded:.0f} % of the region were left out as veins, sclerosis or bone islands."
        )
        findings.append(Finding("many_outliers_excluded", Severity.WARNING, text))
    if difference is not None and abs(difference) > max(10.0, 0.10 * abs(vbmd.value)):
        text = f"{vertebra.name}: peeled body and elliptical cylinder differ by {difference:+.0f} {calibration.unit}."
        findings.append(Finding("regions_disagree", Severity.WARNING, text))
    if volume.spacing_mm[0] > 5.0:
        text = f"{vertebra.name}: slices {volume.spacing_mm[0]:.1f} mm apart are too thick for a quantitative density."
        findings.append(Finding("thick_slices_density", Severity.WARNING, text))
    if fracture_grade == 1:
        text = f"{vertebra.name}: possible mild deformity; if it is a fracture its density is too high."
        findings.append(Finding("possible_deformity", Severity.WARNING, text))
    if fracture_grade is None:
        text = f"{vertebra.name}: it was not checked for fracture before density was measured."
        findings.append(Finding("fracture_not_checked", Severity.INFO, text))
    return tuple(findings)


def _uneven_findings(vertebra: Vertebra, mean_hu: float, uneven_hu: float, rare_hu: float) -> tuple[Finding, ...]:
    """Whether the body is of more than one kind of bone, so that its mean may be of none."""
    if uneven_hu > max(_UNEVEN_HU, _UNEVEN_SHARE * mean_hu):
        text = (
            f"{vertebra.name}: density varies by ±{uneven_hu:.0f} HU from place to place in the body: look for sclerosis, a "
            f"lesion, a haemangioma or a healing fracture; its mean may be of no one tissue."
        )
    elif rare_hu > max(_RARE_HU, _RARE_SHARE * mean_hu):
        text = (
            f"{vertebra.name}: a place in the body reads {rare_hu:.0f} HU less than its middle: look for a lytic lesion, a "
            f"Schmorl's node or fatty marrow; its mean may be too low."
        )
    else:
        return ()
    return (Finding("uneven_bone", Severity.WARNING, text),)
