"""Areal density of the hip as a DXA scan would show it, and its T-score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from pipeline.density import tables
from pipeline.density.body import mask_window
from pipeline.density.calibration_value import Calibration
from pipeline.density.dxa_scale import on_scale
from pipeline.density.hip_regions import REGION_LABEL, Regions, place_regions, silhouette, with_tails
from pipeline.density.projection import PIXEL_MM, BonePaths, Pose, Projection, bone_paths, pose_of, project
from pipeline.errors import Finding, NotMeasurable, Severity, Status, status_of
from pipeline.segmentation.model import Femur, Segmentation
from pipeline.volume import Volume
from reports.quantity import Quantity

HIP_REGIONS = ("total_hip", "femoral_neck", "trochanter", "intertrochanter")
HIP_CLASSES = ("osteoporosis", "low bone mass", "normal")
_CLASSIFIED = ("total_hip", "femoral_neck")
_METAL_HU = 2000.0
_BEYOND_BONE_MG_CM3 = 1300.0
_METAL_MM3 = 100.0
_INDEPENDENT_MM3 = 8.0
_THICK_SLICE_MM = 3.5
_PLAUSIBLE_G_CM2 = (0.2, 2.2)
_YOUNGEST_CLASSIFIED_YEARS = 50.0
_GROWN_YEARS = 20.0
_FIRM = 0.9
_INTERVAL = 1.96
_IN_PUBLISHED_ERROR = ("pose", "placement", "noise", "bone_edge", "boundary")
_OWN_OF_MASS = ("bone_edge", "pose", "placement")


@dataclass(frozen=True)
class HipDensity:
    """What was measured in one hip.

    Attributes
    ----------
    name, side : str
    abmd_g_cm2, bmc_g, area_cm2 : dict of str to Quantity
        By region (`HIP_REGIONS`); a region that cannot be placed is absent, and `missing` says why.
    abmd_without_marrow_g_cm2 : dict of str to float
        The same without the marrow term: plain K2HPO4 equivalent, for comparison with programs that leave it out.
    dxa_scale : str or None
        Maker of DXA devices whose scale was asked for.
    on_dxa_scale_g_cm2 : dict of str to Quantity
        Areal density on that scale; total hip and femoral neck. Empty if none was asked for.
    t_scores : dict of str to Quantity
        Against white women of 20 to 29 years (NHANES III), for both sexes; total hip and femoral neck.
    male_reference_t_scores : dict of str to Quantity
        For men, in addition, against young men; unverified reference, never classified.
    z_scores : dict of str to Quantity
        Only where a verified table exists.
    z_score_reason : str
        Why there is no Z-score; empty if there is one.
    classification : str or None
        One of `HIP_CLASSES` by the lower T-score of total hip and neck.
    class_probabilities : dict of str to float
    missing : dict of str to str
        Region to reason.
    image_g_cm2 : float ndarray of shape (H, W)
        The projection; rows run down the shaft, columns from medial to lateral.
    pixel_mm : float
    region_labels : uint8 ndarray of shape (H, W)
        1 neck, 2 trochanter, 3 intertrochanteric, 4 bone outside all regions.
    neck_box_px, trochanter_line_px : float ndarray of shape (4, 2), (2, 2) or None
        As (column, row) for drawing.
    bottom_px : float or None
        Row of the lower limit of the total hip.
    findings : tuple of Finding
    """

    name: str
    side: str
    abmd_g_cm2: dict[str, Quantity]
    bmc_g: dict[str, Quantity]
    area_cm2: dict[str, Quantity]
    abmd_without_marrow_g_cm2: dict[str, float]
    dxa_scale: str | None
    on_dxa_scale_g_cm2: dict[str, Quantity]
    t_scores: dict[str, Quantity]
    male_reference_t_scores: dict[str, Quantity]
    z_scores: dict[str, Quantity]
    z_score_reason: str
    classification: str | None
    class_probabilities: dict[str, float]
    missing: dict[str, str]
    image_g_cm2: NDArray[np.float64]
    pixel_mm: float
    region_labels: NDArray[np.uint8]
    neck_box_px: NDArray[np.float64]
    trochanter_line_px: NDArray[np.float64] | None
    bottom_px: float | None
    findings: tuple[Finding, ...]

    @property
    def status(self) -> Status:
        return status_of(self.findings)


def measure_hip(
    volume: Volume,
    segmentation: Segmentation,
    femur: Femur,
    calibration: Calibration,
    *,
    sex: str | None = None,
    age_years: float | None = None,
    dxa_scale: str | None = None,
) -> HipDensity:
    """Areal density by DXA region of one hip, with T-scores.

    Parameters
    ----------
    volume : Volume
    segmentation : Segmentation
    femur : Femur
        With landmarks.
    calibration : Calibration
        On the K2HPO4 scale; on the hydroxyapatite scale no T-score is given.
    sex : str, optional
        ``"F"`` or ``"M"``.
    age_years : float, optional
        Below 50 years no class is given.
    dxa_scale : str, optional
        One of `dxa_scale.SCALES`: areal density is also given as devices of that maker would read it. T-scores stay, because
        their reference would be converted alike.

    Raises
    ------
    NotMeasurable
        ``not_fit_for_density`` with what segmentation said, ``implant``, ``axes_unknown``, ``notch_not_found``,
        ``no_soft_tissue``, ``implausible_density``.
    """
    _require_measurable(volume, segmentation, femur, calibration)
    paths = bone_paths(volume, segmentation, femur, calibration)
    projection, regions = _posed(paths, femur, calibration)
    areal = projection.areal_g_cm2(calibration)
    tolerance = tables.number("hip.pose_tolerance_deg")
    turned = []
    for angles in ((tolerance, 0.0), (-tolerance, 0.0), (0.0, tolerance), (0.0, -tolerance)):
        other, placed = _posed(paths, femur, calibration, *angles)
        turned.append(_region_values(other.areal_g_cm2(calibration), placed))
    values, edges = _region_values(areal, regions), _edge_effects(areal, regions)
    moved = _moved(areal, projection.pose, femur, volume.spacing_mm[0])
    plain = _region_values(projection.areal_g_cm2(calibration, marrow_mg_cm3=0.0), regions)
    abmd: dict[str, Quantity] = {}
    bmc: dict[str, Quantity] = {}
    area: dict[str, Quantity] = {}
    missing = dict(regions.missing)
    for region in HIP_REGIONS:
        if region in missing or region not in values:
            missing.setdefault(region, "the region holds no bone")
            continue
        density, surface_cm2 = values[region]
        if not _PLAUSIBLE_G_CM2[0] < density < _PLAUSIBLE_G_CM2[1]:
            raise NotMeasurable(
                "implausible_density",
                f"{region.replace('_', ' ')} reads {density:.2f} g/cm2, which no hip has.",
                subject=femur.name,
            )
        picked = _picked(regions.labels, region)
        parts = _components(paths, projection, picked, density, calibration, volume)
        parts["bone_edge"] = abs(edges.get(region, 0.0))
        poses = [pose.get(region) for pose in turned]
        places = [place[region] for place in moved if region in place]
        parts["placement"] = float(np.linalg.norm([place[0] - density for place in places]))
        parts["pose"] = _pose_sd([pose and pose[0] for pose in poses], density)
        method = "CT projected along the DXA direction, soft tissue and marrow subtracted"
        reference = f"regions after {tables.constant('hip.neck_box_width_mm').source}; calibration {calibration.method}"
        # Where the edge of the shadow is drawn changes the area and not the mass.
        mass_parts = {name: part * surface_cm2 for name, part in parts.items() if name not in _OWN_OF_MASS}
        mass_parts["pose"] = _pose_sd([pose and pose[0] * pose[1] for pose in poses], density * surface_cm2)
        mass_parts["placement"] = float(np.linalg.norm([p[0] * p[1] - density * surface_cm2 for p in places]))
        area_parts = {
            "placement": float(np.linalg.norm([place[1] - surface_cm2 for place in places])),
            "bone_edge": parts["bone_edge"] / density * surface_cm2,
            "pose": _pose_sd([pose and pose[1] for pose in poses], surface_cm2),
        }
        for into, value, unit, made_of in (
            (abmd, density, "g/cm2", parts),
            (bmc, density * surface_cm2, "g", mass_parts),
            (area, surface_cm2, "cm2", area_parts),
        ):
            into[region] = Quantity(
                value=value,
                unit=unit,
                uncertainty=float(np.linalg.norm(list(made_of.values()))),
                method=method,
                reference=reference,
                components=made_of,
            )
    findings = _findings(volume, femur, calibration, missing)
    converted: dict[str, Quantity] = {}
    if dxa_scale is not None and calibration.mineral == "K2HPO4":
        converted = {r: on_scale(abmd[r], r, dxa_scale) for r in _CLASSIFIED if r in abmd}
        findings += _conversion_finding(femur, converted, dxa_scale)
    scores: dict[str, Quantity] = {}
    male: dict[str, Quantity] = {}
    class_: str | None = None
    probabilities: dict[str, float] = {}
    if age_years is not None and age_years < _GROWN_YEARS:
        text = f"{femur.name}: no T-score, it is for grown people; the age is {age_years:.0f}."
        findings.append(Finding("t_score_withheld_age", Severity.WARNING, text))
    elif calibration.mineral == "K2HPO4":
        scores = {r: _t_score(abmd[r], r, "women") for r in _CLASSIFIED if r in abmd}
        male = {r: _t_score(abmd[r], r, "men") for r in _CLASSIFIED if r in abmd and sex == "M"}
        class_, probabilities = _classify(scores, age_years, findings)
    z_scores, z_reason = _z_scores(abmd, sex, age_years, calibration)
    return HipDensity(
        name=femur.name,
        side=femur.side,
        abmd_g_cm2=abmd,
        bmc_g=bmc,
        area_cm2=area,
        abmd_without_marrow_g_cm2={region: plain[region][0] for region in abmd},
        dxa_scale=dxa_scale,
        on_dxa_scale_g_cm2=converted,
        t_scores=scores,
        male_reference_t_scores=male,
        z_scores=z_scores,
        z_score_reason=z_reason,
        classification=class_,
        class_probabilities=probabilities,
        missing=missing,
        image_g_cm2=areal,
        pixel_mm=PIXEL_MM,
        region_labels=regions.labels,
        neck_box_px=regions.neck_box_mm / PIXEL_MM,
        trochanter_line_px=None if regions.trochanter_line_mm is None else regions.trochanter_line_mm / PIXEL_MM,
        bottom_px=None if regions.bottom_mm is None else regions.bottom_mm / PIXEL_MM,
        findings=tuple(findings),
    )


def _require_measurable(volume: Volume, segmentation: Segmentation, femur: Femur, calibration: Calibration) -> None:
    if not femur.fit_for_density or femur.status is Status.FAILED:
        said = (
            "; ".join(f.text for f in femur.findings if f.severity is not Severity.INFO) or "the segmentation says so"
        )
        raise NotMeasurable("not_fit_for_density", said, subject=femur.name)
    window = mask_window(segmentation, femur.label, femur.name)
    # At 80 kVp compact bone reads 2400 HU: metal is what exceeds both the usual limit and any bone.
    beyond_bone_hu = (_BEYOND_BONE_MG_CM3 - calibration.intercept_mg_cm3) / calibration.slope_mg_cm3_per_hu
    limit_hu = max(_METAL_HU, beyond_bone_hu)
    metal = (volume.hu[window] > limit_hu) & (segmentation.labels[window] == femur.label)
    metal_mm3 = float(metal.sum()) * volume.grid.voxel_volume_mm3
    if metal_mm3 > _METAL_MM3:
        detail = f"{metal_mm3:.0f} mm3 of the bone are above {limit_hu:.0f} HU: an implant."
        raise NotMeasurable("implant", detail, subject=femur.name)


def _posed(
    paths: BonePaths, femur: Femur, calibration: Calibration, rotation_deg: float = 0.0, flexion_deg: float = 0.0
) -> tuple[Projection, Regions]:
    pose = pose_of(femur, paths, rotation_deg=rotation_deg, flexion_deg=flexion_deg)
    projection = project(paths, pose)
    return projection, place_regions(projection.areal_g_cm2(calibration), pose, femur)


def _picked(labels: NDArray[np.uint8], region: str) -> NDArray[np.bool_]:
    if region == "total_hip":
        return np.isin(labels, list(REGION_LABEL.values()))
    return np.asarray(labels == REGION_LABEL[region])


def _region_values(areal: NDArray[np.float64], regions: Regions) -> dict[str, tuple[float, float]]:
    """Mean areal density in g/cm2 and area in cm2 of each region that is there."""
    values = {}
    tails = with_tails(regions.labels)
    for region in HIP_REGIONS:
        picked = _picked(regions.labels, region)
        if region not in regions.missing and picked.any():
            mass = float(areal[_picked(tails, region)].sum())
            values[region] = (mass / float(picked.sum()), float(picked.sum()) * PIXEL_MM**2 / 100.0)
    return values


def _moved(
    areal: NDArray[np.float64], pose: Pose, femur: Femur, slice_mm: float
) -> list[dict[str, tuple[float, float]]]:
    """Values of the regions with the neck box, and with the lower limit, moved by what is not known of their places."""
    off_mm = float(np.hypot(tables.number("hip.placement_mm"), slice_mm / 2))
    moves = ((off_mm, 0.0), (0.0, -off_mm))
    return [_region_values(areal, place_regions(areal, pose, femur, neck_mm=n, bottom_mm=b)) for n, b in moves]


def _pose_sd(turned: Sequence[float | None], value: float) -> float:
    """Half the spread over rotation and over flexion by the tolerance, in quadrature; lost regions count as no information."""
    spreads = []
    for pair in (turned[:2], turned[2:]):
        found = [entry for entry in pair if entry is not None] + [value]
        spreads.append((max(found) - min(found)) / 2)
    return float(np.linalg.norm(spreads))


def _edge_effects(areal: NDArray[np.float64], regions: Regions) -> dict[str, float]:
    """Standard uncertainty of the mean of each region, because the edge of its shadow may be drawn elsewhere."""
    tails = with_tails(regions.labels)
    share, spread = tables.number("hip.bone_edge_share"), tables.number("hip.bone_edge_share_spread")
    wide, narrow = (silhouette(areal, share=share + sign * spread) for sign in (-1.0, 1.0))
    effects = {}
    for region in HIP_REGIONS:
        mine = _picked(tails, region)
        areas = [float((mine & bone).sum()) for bone in (wide, narrow)]
        if min(areas) > 0:
            # Between the two edges all are as likely: half the range over the root of three.
            effects[region] = float(areal[mine].sum()) * (1 / areas[1] - 1 / areas[0]) / (2 * float(np.sqrt(3.0)))
    return effects


def _components(
    paths: BonePaths,
    projection: Projection,
    picked: NDArray[np.bool_],
    density: float,
    calibration: Calibration,
    volume: Volume,
) -> dict[str, float]:
    """Uncertainty of the mean areal density of a region in g/cm2, by source."""
    hu_mm = float(projection.excess_hu_mm[picked].mean())
    thickness_mm = float(projection.thickness_mm[picked].mean())
    gradient = np.array([hu_mm, thickness_mm])
    fit = float(gradient @ calibration.covariance @ gradient)
    random = calibration.random_mg_cm3 * thickness_mm
    scale = np.sqrt(max(fit, 0.0) + random**2) * 1e-4
    # Where the mask ends half a voxel off all round, soft tissue is counted as marrow with bone in it, or not: seen through a
    # round bone that is pi times as much, more than through two faces of a plate.
    half_voxel = 0.5 * float(np.cbrt(np.prod(volume.spacing_mm)))
    marrow = tables.number("hip.marrow_mg_cm3")
    mistaken = abs(float(calibration.density_mg_cm3(paths.background_hu)) - marrow)
    without_bone = max(0.0, 1.0 - density / (tables.number("hip.bone_tissue_mg_cm3") * thickness_mm * 1e-4))
    volume_mm3 = float(projection.thickness_mm[picked].sum()) * PIXEL_MM**2
    independent = max(1.0, volume_mm3 / max(_INDEPENDENT_MM3, volume.grid.voxel_volume_mm3))
    parts = {
        "calibration": float(np.hypot(scale, calibration.systematic_relative * density)),
        # Half a voxel is the most, anything less is as likely: hence the root of three.
        "boundary": np.pi * half_voxel * mistaken * 1e-4 / float(np.sqrt(3.0)),
        "marrow": tables.number("hip.marrow_sd_mg_cm3") * thickness_mm * without_bone * 1e-4,
        "noise": calibration.slope_mg_cm3_per_hu * paths.noise_hu * thickness_mm / float(np.sqrt(independent)) * 1e-4,
    }
    if calibration.contrast_enhanced:
        parts["contrast"] = tables.number("contrast.hip_sd_g_cm2")
    return parts


def _score_parts(abmd: Quantity, sd: float) -> dict[str, float]:
    """Uncertainty of a score: that of the areal density, of CT against DXA, and of K2HPO4 against the scale of DXA."""
    parts = {name: value / sd for name, value in abmd.components.items()}
    # What was published of patients holds pose, noise and outline of the CT, too: only the rest is added to ours.
    held = sum(abmd.components.get(name, 0.0) ** 2 for name in _IN_PUBLISHED_ERROR)
    beyond = max(tables.number("hip.standard_error_against_dxa_g_cm2") ** 2 - held, 0.0)
    parts["ct_against_dxa"] = float(np.sqrt(beyond)) / sd
    parts["marrow_in_dxa"] = tables.number("hip.marrow_in_dxa_sd_g_cm2") / sd
    parts["mineral_scale"] = tables.number("hip.mineral_scale_sd") * abmd.value / sd
    return parts


def _t_score(abmd: Quantity, region: str, reference: str) -> Quantity:
    """T-score against young women or men."""
    entry = tables.constant(f"nhanes3_white_{reference}_20_29.{region}")
    mean, sd = tables.numbers(entry.name)
    parts = _score_parts(abmd, sd)
    unverified = "" if entry.verified else ", unverified reference"
    return Quantity(
        value=(abmd.value - mean) / sd,
        unit="1",
        uncertainty=float(np.linalg.norm(list(parts.values()))),
        method=f"(aBMD - {mean}) / {sd}, NHANES III white {reference} 20-29{unverified}",
        reference=entry.source,
        components=parts,
    )


def _classify(
    scores: dict[str, Quantity], age_years: float | None, findings: list[Finding]
) -> tuple[str | None, dict[str, float]]:
    """WHO class by the lower T-score, with the probability of each class; adds findings on what qualifies it."""
    if not scores:
        return None, {}
    if age_years is not None and age_years < _YOUNGEST_CLASSIFIED_YEARS:
        text = (
            f"No class: T-score classes are for postmenopausal women and men from 50 years; the age is {age_years:.0f}."
        )
        findings.append(Finding("class_withheld_age", Severity.WARNING, text))
        return None, {}
    lower = min(scores.values(), key=lambda q: q.value)
    low, high = tables.number("who.osteoporosis_le_t"), tables.number("who.normal_ge_t")
    spread = max(lower.uncertainty or 0.0, 1e-9)
    below_low, below_high = (float(norm.cdf((limit - lower.value) / spread)) for limit in (low, high))
    probabilities = dict(zip(HIP_CLASSES, (below_low, below_high - below_low, 1 - below_high), strict=True))
    class_ = HIP_CLASSES[0] if lower.value <= low else HIP_CLASSES[1] if lower.value < high else HIP_CLASSES[2]
    if any(abs(lower.value - limit) <= _INTERVAL * spread for limit in (low, high)):
        severity = Severity.WARNING if max(probabilities.values()) < _FIRM else Severity.INFO
        text = (
            "The class of the hip T-score is uncertain: "
            + ", ".join(f"{name} {100 * p:.0f} %" for name, p in probabilities.items())
            + "."
        )
        findings.append(Finding("class_uncertain", severity, text))
    if "total_hip" not in scores or "femoral_neck" not in scores:
        text = f"The class rests on {next(iter(scores)).replace('_', ' ')} alone."
        findings.append(Finding("class_from_one_region", Severity.WARNING, text))
    return class_, probabilities


def _z_scores(
    abmd: dict[str, Quantity], sex: str | None, age_years: float | None, calibration: Calibration
) -> tuple[dict[str, Quantity], str]:
    """Z-scores where a verified table exists: total hip of men of 21 to 80 years (NHANES 2005-2008)."""
    if calibration.mineral != "K2HPO4":
        return {}, "the reference is not on the scale of this calibration"
    if sex not in ("F", "M") or age_years is None:
        return {}, "sex or age is not recorded"
    decade = int((age_years - 21) // 10)
    name = f"nhanes_2005_2008.{'men' if sex == 'M' else 'women'}_total_hip.{21 + 10 * decade}"
    if not tables.has_constant(name) or "total_hip" not in abmd:
        return {}, "no verified reference values for this sex and age"
    entry = tables.constant(name)
    mean, sd = tables.numbers(name)
    total = abmd["total_hip"]
    parts = _score_parts(total, sd)
    score = Quantity(
        value=(total.value - mean) / sd,
        unit="1",
        uncertainty=float(np.linalg.norm(list(parts.values()))),
        method=f"(aBMD - {mean}) / {sd}, all ethnic groups, {21 + 10 * decade}-{30 + 10 * decade} years",
        reference=entry.source,
        components=parts,
    )
    return {"total_hip": score}, ""


def _conversion_finding(femur: Femur, converted: dict[str, Quantity], scale: str) -> list[Finding]:
    if not converted:
        return []
    text = (
        f"{femur.name}: areal density is also given on the scale of {scale.capitalize()} devices (standardised BMD, Hui 1997 "
        "and Lu 2001). This supposes that areal density by CT stands on the scale of the reference (Hologic), which no paired "
        "measurement has shown. T-scores are the same on either scale."
    )
    return [Finding("dxa_scale", Severity.WARNING, text)]


def missing_region(name: str, regions: Sequence[str], reason: str) -> Finding:
    """That regions of a hip could not be placed."""
    listed = ", ".join(region.replace("_", " ") for region in regions)
    return Finding("hip_region_missing", Severity.WARNING, f"{name}: no {listed}: {reason}.")


def _findings(volume: Volume, femur: Femur, calibration: Calibration, missing: dict[str, str]) -> list[Finding]:
    findings = [f for f in femur.findings if f.severity is Severity.WARNING]
    by_reason: dict[str, list[str]] = {}
    for region, reason in missing.items():
        by_reason.setdefault(reason, []).append(region)
    findings += [missing_region(femur.name, names, reason) for reason, names in by_reason.items()]
    if volume.spacing_mm[0] > _THICK_SLICE_MM:
        text = f"{femur.name}: slices are {volume.spacing_mm[0]:.1f} mm apart; areal density needs 3 mm or less."
        findings.append(Finding("thick_slices_hip", Severity.WARNING, text))
    if calibration.mineral != "K2HPO4":
        text = f"{femur.name}: no T-score, the calibration is in {calibration.unit} and is not converted silently."
        findings.append(Finding("t_score_withheld_mineral", Severity.WARNING, text))
    text = (
        f"{femur.name}: areal density is K2HPO4-equivalent and was not cross-calibrated to a DXA "
        "device, which may read up to a fifth higher for its mineral scale and 0.05 g/cm2 lower for fatty marrow; the "
        "uncertainty of the T-score holds both."
    )
    findings.append(Finding("not_cross_calibrated", Severity.WARNING, text))
    if calibration.contrast_enhanced:
        bias = tables.number("contrast.hip_bias_g_cm2")
        text = f"{femur.name}: contrast agent raises neck density by about {bias} g/cm2; reported uncorrected."
        findings.append(Finding("contrast_hip", Severity.WARNING, text))
    return findings
