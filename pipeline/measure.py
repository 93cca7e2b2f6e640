"""All measurements on one segmented volume, as parts of the record: each number present, or absent with its reason.

A refusal of one measurement never takes another with it: it stands in `not_measured` under the key of the absent number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline import errors
from pipeline.density import calibrate
from pipeline.density.calibration_value import Calibration
from pipeline.density.given_phantom import GivenPhantom
from pipeline.density.hip import HipDensity, measure_hip
from pipeline.density.spine import SpineDensity, summarise_spine
from pipeline.density.vertebra import VertebraDensity, measure_vertebra
from pipeline.errors import NotMeasurable
from pipeline.fracture import VertebraShape, grade_vertebrae
from pipeline.record_parts import findings_part, fracture_part, hip_parts, missing_regions, strength_part
from pipeline.segmentation.model import Femur, Segmentation, Vertebra
from pipeline.strength import Strength, femur_strength, profile_fits, vertebra_strength, with_ensemble
from pipeline.strength.load import Load, body_size, lifting, load_of_a_fall
from pipeline.volume import Volume
from reports import record
from reports.quantity import Quantity

SPINE_TEST = "spine-compression"
HIP_TEST = "hip-sideways-fall"
HIP_SECOND_TEST = "hip-stance"
_FRACTURED_GRADE = 2
# An endplate that was guessed, or a body that has collapsed, is no specimen for a compression test.
_NO_MODEL = frozenset({"disc_not_visible", "collapsed_body"})
# Up to where an image must show HU: bone without a cortex spreads to some 400, femoral cortex reaches 1500 and a little above.
_TRABECULAR_HU, _CORTEX_HU = 400.0, 1300.0
_NO_STRENGTH = errors.Finding("strength_not_asked", errors.Severity.INFO, "Strength was not asked for.")


@dataclass(frozen=True)
class Measured:
    """What was measured on one volume, for the record and for the pictures.

    Attributes
    ----------
    vertebrae, femora : tuple of record parts
    spine : SpineDensity or None
    calibration : Calibration or None
    shapes, densities, hips, strengths : dict by structure name
        Results of the stages, with the geometry that pictures need.
    findings : tuple of Finding
        What concerns the whole volume.
    """

    vertebrae: tuple[record.Vertebra, ...] = ()
    femora: tuple[record.Femur, ...] = ()
    spine: SpineDensity | None = None
    calibration: Calibration | None = None
    shapes: dict[str, VertebraShape] = field(default_factory=dict)
    densities: dict[str, VertebraDensity] = field(default_factory=dict)
    hips: dict[str, HipDensity] = field(default_factory=dict)
    strengths: dict[str, Strength] = field(default_factory=dict)
    findings: tuple[errors.Finding, ...] = ()


def measure(
    volume: Volume,
    segmentation: Segmentation,
    *,
    calibration_choice: str | None = None,
    phantom: GivenPhantom | None = None,
    dxa_scale: str | None = None,
    strength: bool = True,
    profile: str | None = None,
    spine_load: str | None = None,
    threads: int | None = None,
    on_stage: Callable[[str], None] = lambda _stage: None,
) -> Measured:
    """Calibrate the volume, then measure every vertebra and femur that passed quality control.

    Parameters
    ----------
    volume : Volume
    segmentation : Segmentation
    calibration_choice : str, optional
        As in `pipeline.density.calibrate`.
    phantom : GivenPhantom, optional
        What the user knows of the calibration phantom in the scan.
    dxa_scale : str, optional
        As in `pipeline.density.hip.measure_hip`.
    strength : bool
        False leaves out the finite-element tests.
    profile : str, optional
        Strength profile by name or file; the default of each test if absent, or if it is not meant for that test.
    spine_load : str, optional
        ``lifting``: also the load of lifting on lumbar bodies and its ratio to their strength.
    threads : int, optional
    on_stage : callable
        Told the name of each stage as it begins.

    Raises
    ------
    InputRefused
        If the calibration or profile that the user named cannot be used.
    """
    on_stage("calibration")
    findings: list[errors.Finding] = []
    calibration: Calibration | None = None
    why_no_calibration: errors.Finding | None = None
    if segmentation.vertebrae or segmentation.femora:
        try:
            calibration = calibrate(volume, segmentation, choice=calibration_choice, given=phantom)
        except NotMeasurable as refusal:
            why_no_calibration = _as_finding(refusal)
            findings.append(why_no_calibration)
    facts = volume.acquisition
    on_stage("fracture")
    guessed = {v.name for v in segmentation.vertebrae if _guessed_endplate(v) is not None}
    graded = grade_vertebrae(volume, segmentation, sex=facts.patient_sex, threads=threads)
    shapes = {name: shape for name, shape in graded.items() if name not in guessed}
    sheet = _Sheet(volume, segmentation, calibration, why_no_calibration, strength, profile, threads, spine_load)
    on_stage("density")
    for vertebra in segmentation.vertebrae:
        sheet.measure_density(vertebra, shapes.get(vertebra.name))
    with ThreadPoolExecutor(min(threads or 2, 2)) as pool:
        list(pool.map(lambda femur: sheet.measure_hip(femur, dxa_scale), segmentation.femora))
    on_stage("strength")
    for vertebra in segmentation.vertebrae:
        sheet.measure_strength(vertebra, shapes.get(vertebra.name))
    for femur in segmentation.femora:
        sheet.measure_strength(femur, None)
    sheet.vary_leading_strengths()
    spine = None
    if calibration is not None and segmentation.vertebrae:
        spine = summarise_spine(sheet.densities.values(), calibration, age_years=facts.patient_age_years)
        findings += spine.findings
    return Measured(
        vertebrae=tuple(sheet.vertebra_part(v, shapes.get(v.name)) for v in segmentation.vertebrae),
        femora=tuple(sheet.femur_part(f) for f in segmentation.femora),
        spine=spine,
        calibration=calibration,
        shapes=shapes,
        densities=sheet.densities,
        hips=sheet.hips,
        strengths=sheet.strengths,
        findings=tuple(findings),
    )


class _Sheet:
    """The results of one volume while they are being gathered, with the reason for every one that is missing."""

    def __init__(
        self,
        volume: Volume,
        segmentation: Segmentation,
        calibration: Calibration | None,
        why_no_calibration: errors.Finding | None,
        strength: bool,
        profile: str | None,
        threads: int | None,
        spine_load: str | None = None,
    ) -> None:
        self.volume, self.segmentation, self.calibration = volume, segmentation, calibration
        self.why_no_calibration = why_no_calibration
        self.with_strength, self.profile, self.threads = strength, profile, threads
        self.spine_load = spine_load
        self.densities: dict[str, VertebraDensity] = {}
        self.hips: dict[str, HipDensity] = {}
        self.strengths: dict[str, Strength] = {}
        self.stances: dict[str, Strength] = {}
        self.reasons: dict[tuple[str, str], errors.Finding] = {}

    def measure_density(self, vertebra: Vertebra, shape: VertebraShape | None) -> None:
        if not self._ready(vertebra, "trabecular_hu") or self._cut_off(vertebra, "trabecular_hu", _TRABECULAR_HU):
            return
        assert self.calibration is not None
        grade = shape.genant_grade if shape is not None else None
        collapsed = next((f for f in vertebra.findings if f.code == "collapsed_body"), None)
        if collapsed is not None:  # impacted bone reads denser than it was
            self.reasons[vertebra.name, "trabecular_hu"] = collapsed
            return
        if (suspicion := _suspicion(shape)) is not None:
            self.reasons[vertebra.name, "trabecular_hu"] = suspicion
            return
        try:
            self.densities[vertebra.name] = measure_vertebra(
                self.volume, self.segmentation, vertebra, self.calibration, fracture_grade=grade
            )
        except NotMeasurable as refusal:
            self.reasons[vertebra.name, "trabecular_hu"] = _as_finding(refusal)

    def measure_hip(self, femur: Femur, dxa_scale: str | None) -> None:
        if not self._ready(femur, "abmd_g_cm2") or self._cut_off(femur, "abmd_g_cm2", _CORTEX_HU):
            return
        assert self.calibration is not None
        facts = self.volume.acquisition
        try:
            self.hips[femur.name] = measure_hip(
                self.volume,
                self.segmentation,
                femur,
                self.calibration,
                sex=facts.patient_sex,
                age_years=facts.patient_age_years,
                dxa_scale=dxa_scale,
            )
        except NotMeasurable as refusal:
            self.reasons[femur.name, "abmd_g_cm2"] = _as_finding(refusal)

    def measure_strength(self, structure: Vertebra | Femur, shape: VertebraShape | None) -> None:
        key = (structure.name, "strength_n")
        if not self.with_strength:
            self.reasons[key] = _NO_STRENGTH
            return
        if not self._ready(structure, "strength_n") or self._cut_off(structure, "strength_n", _CORTEX_HU):
            return
        assert self.calibration is not None
        guessed = next((f for f in structure.findings if f.code in _NO_MODEL), None)
        if guessed is not None:
            self.reasons[key] = guessed
            return
        if shape is not None and shape.flagged and (shape.genant_grade or 0) >= _FRACTURED_GRADE:
            text = f"Grade {shape.genant_grade} deformity: strength is computed for intact bodies only."
            self.reasons[key] = errors.Finding("fractured", errors.Severity.FAILURE, text)
            return
        if (suspicion := _suspicion(shape)) is not None:
            self.reasons[key] = suspicion
            return
        try:
            if isinstance(structure, Vertebra):
                result = vertebra_strength(
                    self.volume,
                    self.segmentation,
                    structure,
                    self.calibration,
                    profile=profile_fits(self.profile, SPINE_TEST),
                    threads=self.threads,
                )
            else:
                result = self._hip_strength(structure, HIP_TEST)
        except NotMeasurable as refusal:
            self.reasons[key] = _as_finding(refusal)
            return
        self.strengths[structure.name] = result
        if isinstance(structure, Femur):
            with suppress(NotMeasurable):  # what refuses one load case and not the other stands with the leading one
                self.stances[structure.name] = self._hip_strength(structure, HIP_SECOND_TEST)
        if result.strength is None:
            failures = [f for f in result.findings if f.severity is errors.Severity.FAILURE]
            self.reasons[key] = failures[0] if failures else _unexplained("strength")

    def _hip_strength(self, femur: Femur, test: str) -> Strength:
        assert self.calibration is not None
        return femur_strength(
            self.volume,
            self.segmentation,
            femur,
            self.calibration,
            test=test,
            profile=profile_fits(self.profile, test),
            threads=self.threads,
        )

    def vary_leading_strengths(self) -> None:
        """An ensemble for the weakest vertebra and for each hip: the strengths that lead the report."""
        tested = [(s.strength.value, name) for name, s in self.strengths.items() if s.strength is not None]
        bodies = [pair for pair in tested if self.strengths[pair[1]].test == SPINE_TEST]
        hips = [name for _, name in tested if self.strengths[name].test != SPINE_TEST]
        for name in [*(min(bodies)[1:] if bodies else ()), *hips]:
            self.strengths[name] = with_ensemble(self.strengths[name], threads=self.threads)

    def vertebra_part(self, vertebra: Vertebra, shape: VertebraShape | None) -> record.Vertebra:
        """The vertebra as it stands in the record."""
        failed = vertebra.status is errors.Status.FAILED
        density = self.densities.get(vertebra.name)
        heights = shape.heights_mm if shape is not None and not failed else None
        fracture = fracture_part(shape) if shape is not None and heights is not None else None
        numbers: dict[str, Any] = {
            "trabecular_hu": density.trabecular_hu if density is not None else None,
            "vbmd_mg_cm3": density.vbmd_mg_cm3 if density is not None else None,
            "heights_mm": record.Heights(**heights) if heights is not None else None,
            "fracture": fracture,
            **self._strength_numbers(vertebra.name, SPINE_TEST),
        }
        no_density = self.reasons.get((vertebra.name, "trabecular_hu"))
        no_shape = _guessed_endplate(vertebra) or _first_failure(shape.findings if shape is not None else ())
        reasons = {
            "trabecular_hu": no_density,
            "vbmd_mg_cm3": no_density,
            "heights_mm": no_shape,
            "fracture": no_shape,
            **self._no_strength(vertebra.name),
        }
        further: dict[str, Quantity] = {}
        if density is not None and density.ellipse_hu is not None:
            further["hu_elliptical_region"] = density.ellipse_hu
        if density is not None and density.ellipse_vbmd_mg_cm3 is not None:
            further["vbmd_elliptical_region"] = density.ellipse_vbmd_mg_cm3
        if shape is not None and shape.wedge_deg is not None and heights is not None:
            further["wedge_angle"] = shape.wedge_deg
        load = self._load_of_lifting(vertebra)
        further |= load.quantities if load is not None else {}
        stages = (density, shape, self.strengths.get(vertebra.name), load)
        return record.Vertebra(
            name=vertebra.name,
            label=vertebra.label,
            level=vertebra.level,
            level_confidence=vertebra.level_confidence,
            level_alternatives=vertebra.level_alternatives,
            score=vertebra.score,
            complete=vertebra.complete,
            further=further,
            **self._state(vertebra, stages, numbers, reasons),
            **numbers,
        )

    def femur_part(self, femur: Femur) -> record.Femur:
        """The femur as it stands in the record."""
        hip = self.hips.get(femur.name)
        numbers: dict[str, Any] = {
            "abmd_g_cm2": None,
            "t_score": None,
            "z_score": None,
            **self._strength_numbers(femur.name, HIP_TEST),
        }
        no_density = self.reasons.get((femur.name, "abmd_g_cm2"))
        reasons = dict.fromkeys(("abmd_g_cm2", "t_score", "z_score"), no_density) | self._no_strength(femur.name)
        if hip is not None:
            numbers |= hip_parts(hip)
            why = "; ".join(hip.missing.values()) or "No region could be scored."
            withheld = [f for f in hip.findings if f.code.startswith("t_score_withheld")]
            reasons["t_score"] = withheld[0] if withheld else errors.Finding("no_region", errors.Severity.FAILURE, why)
            if not hip.z_scores:
                reasons["z_score"] = errors.Finding("no_verified_reference", errors.Severity.INFO, hip.z_score_reason)
        fall = self._load_of_a_fall(femur)
        stages = (hip, self.strengths.get(femur.name), fall)
        state = self._state(femur, stages, numbers, reasons)
        if hip is not None:
            state["not_measured"] |= missing_regions(hip)
        return record.Femur(
            name=femur.name,
            side="left" if femur.side == "left" else "right",
            label=femur.label,
            score=femur.score,
            complete=femur.fit_for_strength,
            further=fall.quantities if fall is not None else {},
            other_tests=self._second_test(femur.name),
            **state,
            **numbers,
        )

    def _load_of_a_fall(self, femur: Femur) -> Load | None:
        return self._load(
            femur.name, "load_to_strength", lambda tested: load_of_a_fall(self.volume, tested, femur.name)
        )

    def _load_of_lifting(self, vertebra: Vertebra) -> Load | None:
        """The load of lifting on a lumbar body, if it was asked for."""
        if self.spine_load is None or not (vertebra.level or "").startswith("L"):
            return None
        facts = self.volume.acquisition
        size = body_size(facts.patient_height_m, facts.patient_weight_kg, facts.patient_sex)
        return self._load(vertebra.name, "lifting_load_to_strength", lambda tested: lifting(tested, size))

    def _load(self, name: str, ratio: str, compare: Callable[[Strength], Load]) -> Load | None:
        """A load beside the strength of a bone; notes why not where there is a strength."""
        tested = self.strengths.get(name)
        if tested is None or tested.strength is None:
            return None
        try:
            return compare(tested)
        except NotMeasurable as refusal:
            self.reasons[name, f"further.{ratio}"] = replace(_as_finding(refusal), severity=errors.Severity.INFO)
            return None

    def _cut_off(self, structure: Vertebra | Femur, key: str, needed_hu: float) -> bool:
        """Whether the image ends below what a measurement must see; notes that as the reason."""
        ceiling = self.volume.ceiling_hu
        if ceiling is None or ceiling >= needed_hu:
            return False
        text = f"Values end at {ceiling:.0f} HU, and {needed_hu:.0f} HU must be seen for this; export the images unwindowed."
        self.reasons[structure.name, key] = errors.Finding("values_cut_off", errors.Severity.FAILURE, text)
        return True

    def _ready(self, structure: Vertebra | Femur, key: str) -> bool:
        """Whether a number of this structure can be asked for at all; notes why not."""
        if structure.status in (errors.Status.FAILED, errors.Status.ABSENT):
            return False  # its own findings say why
        if self.calibration is None:
            self.reasons[structure.name, key] = self.why_no_calibration or _unexplained("calibration")
            return False
        return True

    def _strength_numbers(self, name: str, test: str) -> dict[str, Any]:
        result = self.strengths.get(name)
        if result is None or result.strength is None:
            return {"strength_n": None, "stiffness_n_mm": None}
        strength = strength_part(result, result.strength)
        return {"strength_n": strength, "stiffness_n_mm": result.stiffness}

    def _second_test(self, name: str) -> tuple[record.VirtualTest, ...]:
        """The second load case of a hip, where it was solved."""
        result = self.stances.get(name)
        if result is None or result.strength is None:
            return ()
        strength = strength_part(result, result.strength)
        return (record.VirtualTest(strength_n=strength, stiffness_n_mm=result.stiffness),)

    def _no_strength(self, name: str) -> dict[str, errors.Finding | None]:
        reason = self.reasons.get((name, "strength_n"))
        return {"strength_n": reason, "stiffness_n_mm": reason}

    def _state(
        self,
        structure: Vertebra | Femur,
        stages: Sequence[Any],
        numbers: dict[str, Any],
        reasons: dict[str, errors.Finding | None],
    ) -> dict[str, Any]:
        """Status, findings and reasons for absent numbers.

        The status is that of the structure itself, lowered to ``warning`` by any stage that warned or refused; it is ``failed``
        only if the structure failed, because a refused number does not take the others with it.
        """
        if structure.status in (errors.Status.FAILED, errors.Status.ABSENT):
            return {"status": structure.status.value, "findings": findings_part(structure.findings), "not_measured": {}}
        said = [f for stage in stages if stage is not None for f in stage.findings]
        warnings = [f for f in said if f.severity is not errors.Severity.FAILURE]
        missing = {key: reasons.get(key) or _unexplained(key) for key, number in numbers.items() if number is None}
        compared = [
            (key, f) for (name, key), f in self.reasons.items() if name == structure.name and key.startswith("further.")
        ]
        worrying = any(f.severity is errors.Severity.WARNING for f in (*structure.findings, *warnings))
        worrying = worrying or any(f.severity is errors.Severity.FAILURE for f in missing.values())
        return {
            "status": "warning" if worrying else "ok",
            "findings": findings_part([*structure.findings, *warnings]),
            "not_measured": {key: findings_part([f])[0] for key, f in (*missing.items(), *compared)},
        }


def _guessed_endplate(vertebra: Vertebra) -> errors.Finding | None:
    """The finding that an endplate was placed where no disc was visible: such a body has no heights."""
    return next((f for f in vertebra.findings if f.code == "disc_not_visible"), None)


def _suspicion(shape: VertebraShape | None) -> errors.Finding | None:
    """Why a body that looks fractured in slices too thick for a grade gets neither density nor strength."""
    if shape is None or not shape.flagged or shape.genant_grade is not None or shape.height_loss is None:
        return None
    text = (
        f"It looks {100 * shape.height_loss.value:.0f} % lower than expected, in slices too thick to tell whether it is "
        f"fractured; density and strength are for intact bodies only."
    )
    return errors.Finding("suspected_fracture", errors.Severity.FAILURE, text)


def _as_finding(refusal: errors.Refusal) -> errors.Finding:
    text = refusal.detail[0].upper() + refusal.detail[1:] + (f" {refusal.remedy}" if refusal.remedy else "")
    return errors.Finding(refusal.reason, errors.Severity.FAILURE, text)


def _first_failure(findings: Sequence[errors.Finding]) -> errors.Finding | None:
    failures = [f for f in findings if f.severity is errors.Severity.FAILURE]
    return failures[0] if failures else None


def _unexplained(what: str) -> errors.Finding:
    return errors.Finding("not_computed", errors.Severity.FAILURE, f"No {what.replace('_', ' ')} was computed.")
