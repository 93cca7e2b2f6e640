"""What a bone may have to carry: the force of a fall on the hip, of lifting on the spine, and their ratio to the strength.

Tags as in the profiles: [V] read in the source, [V2] in a secondary source, [C] computed, [M] from memory of the named paper
and not checked. A ratio is no probability of fracture, and published limits of it hold for other programs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fea.bone.profiles import Criterion, VirtualTest
from pipeline.errors import Finding, NotMeasurable, Severity
from pipeline.segmentation.sampling import sample_lps
from pipeline.strength.result import Strength
from pipeline.volume import Volume
from reports.quantity import Quantity

_GRAVITY = 9.81
# Fall to the side from standing [M: Robinovitch 1991, van den Kroonenberg 1995, Bouxsein 2007]: speed of the hip 2.72 times the
# root of the height, effective mass 0.35 of the body's, stiffness of the hip 71 kN/m, force less 71 N per mm of soft tissue.
_SPEED, _EFFECTIVE_MASS, _HIP_STIFFNESS_N_M, _ATTENUATION_N_MM = 2.72, 0.35, 71_000.0, 71.0
_LEAST_PART = 0.25  # [C] of the peak force: the linear attenuation ends in nonsense under thick tissue
# [C] half of what the force differs by with the other published effective mass, some twice as large [V2].
_FALL_UNCERTAINTY = 0.2
_TISSUE_UNCERTAINTY_MM = 5.0  # [M] lying on a table or standing, the tissue at the hip is not the same

# A body whose size no tag tells: adults, mean and standard deviation [M]. The force goes with the square roots.
_TYPICAL = {"F": ((1.61, 0.07), (69.0, 14.0)), "M": ((1.75, 0.07), (82.0, 14.0)), None: ((1.68, 0.10), (75.0, 15.0))}
_HEIGHT_UNCERTAINTY_M, _MASS_UNCERTAINTY_KG = 0.02, 2.0  # of values that somebody typed in

_AIR_HU = -400.0  # between fat and air
_AIR_MM = 6.0  # that long a way through air is outside, not a fold
_FARTHEST_MM = 250.0
_STEP_MM = 0.5
_BUNDLE_MM = 8.0  # rays beside the middle one, this far up, down, to the front and back


@dataclass(frozen=True)
class BodySize:
    """Height and mass of a person, with their standard uncertainties.

    Attributes
    ----------
    height_m, mass_kg : Quantity
    estimated : bool
        True if one of them was not given, and is that of a typical adult.
    """

    height_m: Quantity
    mass_kg: Quantity
    estimated: bool


def body_size(height_m: float | None, mass_kg: float | None, sex: str | None) -> BodySize:
    """Body size from what is known; what is not is that of a typical adult of that sex, with the spread of such adults.

    Parameters
    ----------
    height_m, mass_kg : float, optional
        Values outside 1.2 to 2.3 m and 25 to 300 kg count as not known.
    sex : {"F", "M"}, optional
    """
    (height, height_sd), (mass, mass_sd) = _TYPICAL.get(sex, _TYPICAL[None])
    known_height = height_m is not None and 1.2 <= height_m <= 2.3
    known_mass = mass_kg is not None and 25 <= mass_kg <= 300
    typical = "typical adult, from memory"
    return BodySize(
        Quantity(
            value=float(height_m) if known_height and height_m is not None else height,
            unit="m",
            uncertainty=_HEIGHT_UNCERTAINTY_M if known_height else height_sd,
            method="as recorded with the study" if known_height else typical,
        ),
        Quantity(
            value=float(mass_kg) if known_mass and mass_kg is not None else mass,
            unit="kg",
            uncertainty=_MASS_UNCERTAINTY_KG if known_mass else mass_sd,
            method="as recorded with the study" if known_mass else typical,
        ),
        not (known_height and known_mass),
    )


def soft_tissue_over_trochanter(volume: Volume, strength: Strength, subject: str) -> Quantity:
    """Thickness of the soft tissue between greater trochanter and skin along the vertical of the fall (mm).

    Five rays run from the outermost bone on the ground side of the test outwards to the first air; the median is taken. The
    patient lies on the back: in a fall the tissue is pressed and shifted, which is in the uncertainty.

    Parameters
    ----------
    volume : Volume
    strength : Strength
        Of a sideways fall, with its solved model.
    subject : str

    Raises
    ------
    NotMeasurable
        ``skin_not_in_view`` if more than two rays leave the scanned field before they meet air, ``no_fall_model``.
    """
    if strength.solved is None or strength.solved.model.test is not VirtualTest.HIP_SIDEWAYS_FALL:
        raise NotMeasurable("no_fall_model", "soft tissue is measured along a fall to the side.", subject=subject)
    model = strength.solved.model
    grid = model.bone.grid
    outwards = -grid.axes[1]
    ground = next(support for support in model.supports if support.name == "trochanter")
    middle = ground.nodes[:, [0, 2]].mean(axis=0)
    thickness = []
    for along, across in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
        column = middle + np.array([along, across]) * _BUNDLE_MM / grid.voxel_mm
        start = _outermost_bone(model.is_bone, column)
        if start is None:
            continue
        distance = _way_to_air(volume, grid.to_world(np.array([column[0], start, column[1]])), outwards)
        if distance is not None:
            thickness.append(distance)
    if len(thickness) < 3:
        raise NotMeasurable(
            "skin_not_in_view",
            "the skin beside the greater trochanter is not in the field of view.",
            subject=subject,
            remedy="Reconstruct with a field of view that holds the whole pelvis.",
        )
    spread = float(np.ptp(thickness)) / 2
    return Quantity(
        value=float(np.median(thickness)),
        unit="mm",
        uncertainty=float(np.hypot(spread, _TISSUE_UNCERTAINTY_MM)),
        method="median of five rays from the trochanter to the skin along the vertical of the fall",
        reference="docs/strength.md, load and strength (rays of this program)",
        components={"posture": _TISSUE_UNCERTAINTY_MM, "place": spread},
    )


def _outermost_bone(is_bone: NDArray[np.bool_], column: NDArray) -> float | None:
    """Node coordinate along y of the lowest bone face in the column at (z, x) node coordinates."""
    k, i = int(column[0]), int(column[1])
    if not (0 <= k < is_bone.shape[0] and 0 <= i < is_bone.shape[2]):
        return None
    there = np.flatnonzero(is_bone[k, :, i])
    return float(there[0]) if len(there) else None


def _way_to_air(volume: Volume, start_lps_mm: NDArray, direction: NDArray) -> float | None:
    """Distance to the first air that lasts; None if the field of view ends before."""
    distance = np.arange(0.0, _FARTHEST_MM, _STEP_MM)
    points = start_lps_mm + distance[:, None] * direction
    outside = np.float32(1e6)
    hu = sample_lps(volume.hu, volume.grid, points, fill=float(outside))
    index = np.rint(volume.grid.to_index(points)).astype(int)
    inside = np.all((index >= 0) & (index < np.array(volume.shape)), axis=1)
    if volume.valid is not None:
        clipped = np.clip(index, 0, np.array(volume.shape) - 1)
        inside &= volume.valid[tuple(clipped.T)]
    length = round(_AIR_MM / _STEP_MM)
    run = 0
    for number in range(len(distance)):
        if not inside[number]:
            return None
        run = run + 1 if hu[number] < _AIR_HU else 0
        if run == length:
            return float(distance[number - length + 1])
    return None


@dataclass(frozen=True)
class Load:
    """A load on a bone, its ratio to the strength, and what is to be said about both.

    Attributes
    ----------
    force_n, ratio : Quantity
    findings : tuple of Finding
    soft_tissue_mm : Quantity or None
    task : str
        Before the names in the record; empty for a fall.
    """

    force_n: Quantity
    ratio: Quantity
    findings: tuple[Finding, ...]
    soft_tissue_mm: Quantity | None = None
    task: str = ""

    @property
    def quantities(self) -> dict[str, Quantity]:
        """As they stand in the record, by name."""
        prefix = f"{self.task}_" if self.task else ""
        named = {f"{prefix}load": self.force_n, f"{prefix}load_to_strength": self.ratio}
        return named | ({"trochanteric_soft_tissue": self.soft_tissue_mm} if self.soft_tissue_mm is not None else {})


def load_of_a_fall(volume: Volume, strength: Strength, subject: str) -> Load:
    """The load of a fall on a hip, with soft tissue and body size as far as this volume tells them.

    Parameters
    ----------
    volume : Volume
    strength : Strength
        Of a sideways fall.
    subject : str

    Raises
    ------
    NotMeasurable
        ``no_fall_model``, or ``no_failure_load`` if the profile's criterion is none.
    """
    if strength.test != VirtualTest.HIP_SIDEWAYS_FALL or strength.solved is None:
        raise NotMeasurable("no_fall_model", "the load of a fall needs a solved fall to the side.", subject=subject)
    facts = volume.acquisition
    size = body_size(facts.patient_height_m, facts.patient_weight_kg, facts.patient_sex)
    try:
        tissue = soft_tissue_over_trochanter(volume, strength, subject)
    except NotMeasurable:
        tissue = None  # said in a finding of the load
    return fall_on_hip(strength, size, tissue)


def fall_on_hip(strength: Strength, size: BodySize, soft_tissue_mm: Quantity | None) -> Load:
    """Force of a fall to the side from standing, less what soft tissue takes, and its ratio to the strength of the hip.

    Parameters
    ----------
    strength : Strength
        Of a sideways fall.
    size : BodySize
    soft_tissue_mm : Quantity or None
        None leaves the attenuation out: the force is then that on a bare hip.

    Raises
    ------
    NotMeasurable
        ``no_failure_load`` if the profile's criterion is none.
    """
    failure = _failure_load(strength)
    height, mass = size.height_m, size.mass_kg
    peak = _SPEED * np.sqrt(height.value) * np.sqrt(_HIP_STIFFNESS_N_M * _EFFECTIVE_MASS * mass.value)
    parts = {
        "height": 0.5 * _relative(height) * peak,
        "mass": 0.5 * _relative(mass) * peak,
        "effective mass": _FALL_UNCERTAINTY * peak,
    }
    findings = []
    force = peak
    if soft_tissue_mm is not None:
        force = peak - _ATTENUATION_N_MM * soft_tissue_mm.value
        parts["soft tissue"] = _ATTENUATION_N_MM * float(soft_tissue_mm.uncertainty or 0.0)
        if force < _LEAST_PART * peak:
            force = _LEAST_PART * peak
            text = (
                f"Under {soft_tissue_mm.value:.0f} mm of soft tissue the published attenuation leaves less than a quarter of "
                "the force; a quarter was taken."
            )
            findings.append(Finding("attenuation_limited", Severity.INFO, text))
    else:
        text = "The skin beside the hip is not in view: the force of the fall is that on a hip without soft tissue."
        findings.append(Finding("soft_tissue_unknown", Severity.INFO, text))
    findings += _of_size(size)
    load = Quantity(
        value=float(force),
        unit="N",
        uncertainty=float(np.sqrt(sum(part**2 for part in parts.values()))),
        method="fall to the side from standing, attenuated by soft tissue"
        if soft_tissue_mm
        else "fall to the side from standing",
        reference="Robinovitch 1991, Bouxsein 2007 (constants from memory)",
        components=parts,
    )
    return Load(load, _ratio(load, failure), tuple(findings), soft_tissue_mm)


def _of_size(size: BodySize) -> list[Finding]:
    if not size.estimated:
        return []
    text = "Height or mass are not recorded with the study; those of a typical adult were taken."
    return [Finding("body_size_typical", Severity.INFO, text)]


def lifting(strength: Strength, size: BodySize, *, object_kg: float = 10.0, bent_deg: float = 30.0) -> Load:
    """Compression of a lumbar vertebra while lifting, by a static model of trunk and back muscles, and its ratio to strength.

    Unvalidated, and lower than musculoskeletal models give: for comparison between people, never shown unasked.

    Parameters
    ----------
    strength : Strength
        Of a vertebral body.
    size : BodySize
    object_kg : float
        Held in front at a quarter of the height.
    bent_deg : float
        Of the trunk from upright.

    Raises
    ------
    NotMeasurable
        ``no_failure_load``.
    """
    failure = _failure_load(strength)
    angle = np.radians(bent_deg)

    def force(height_m: float, mass_kg: float) -> float:
        trunk, held = 0.36 * mass_kg * _GRAVITY, object_kg * _GRAVITY
        moment = trunk * 0.15 * height_m * np.sin(angle) + held * 0.25 * height_m
        return float((trunk + held) * np.cos(angle) + moment / 0.055)

    height, mass = size.height_m, size.mass_kg
    middle = force(height.value, mass.value)
    parts = {
        "height": force(height.value + float(height.uncertainty or 0), mass.value) - middle,
        "mass": force(height.value, mass.value + float(mass.uncertainty or 0)) - middle,
        "model": 0.3 * middle,  # [M] musculoskeletal models give 2 to 3 kN where this one gives 1.6 to 2
    }
    load = Quantity(
        value=middle,
        unit="N",
        uncertainty=float(np.sqrt(sum(part**2 for part in parts.values()))),
        method=f"static model, trunk bent by {bent_deg:g} degrees, {object_kg:g} kg in hands",
        reference="segment masses and lever arms from memory; unvalidated",
        components=parts,
    )
    text = "The load on the spine is that of a simple static model, which is not validated; do not use the ratio for decisions."
    findings = (Finding("spine_load_unvalidated", Severity.WARNING, text), *_of_size(size))
    return Load(load, _ratio(load, failure), findings, task="lifting")


def _failure_load(strength: Strength) -> Quantity:
    solved = strength.solved
    if strength.strength is None or (solved and solved.model.profile.strength is Criterion.FIXED_DISPLACEMENT):
        raise NotMeasurable("no_failure_load", f"'{strength.definition}' is no failure load.", subject=strength.test)
    return strength.strength


def _relative(quantity: Quantity) -> float:
    return float(quantity.uncertainty or 0.0) / quantity.value


def _ratio(load: Quantity, failure: Quantity) -> Quantity:
    """Load over strength; without an uncertainty where the strength has none."""
    value = load.value / failure.value
    parts = {"load": value * _relative(load), "strength": value * _relative(failure)}
    known = failure.uncertainty is not None
    return Quantity(
        value=value,
        unit="1",
        uncertainty=float(np.hypot(parts["load"], parts["strength"])) if known else None,
        uncertainty_reason=None if known else failure.uncertainty_reason,
        method=f"{load.method}, over strength: {failure.method}",
        reference=load.reference,
        components=parts if known else {},
    )
