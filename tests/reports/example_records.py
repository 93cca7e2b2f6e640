"""Records to test the renderings with: one that looks like a real study, and hypothesis strategies for all others."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from reports.coverage.knowledge import load_knowledge
from reports.coverage.services import services_of
from reports.quantity import Quantity
from reports.record import (
    Acquisition,
    Assessment,
    Calibration,
    CalibrationSample,
    Femur,
    Finding,
    Fracture,
    Heights,
    HipDensity,
    HipRegions,
    Omission,
    Quality,
    RejectedSeries,
    Rule,
    Score,
    SeriesSection,
    Software,
    Strength,
    Study,
    StudyRecord,
    UsedSeries,
    Vertebra,
)

LEVELS = ("T4", "T5", "T6", "T7", "T8", "T9", "T10", "T11", "T12", "L1", "L2", "L3", "L4", "L5")
KNOWLEDGE = load_knowledge()
VBMD_UNIT = "mg/cm3 K2HPO4"
WOMEN = "NHANES III, white women aged 20 to 29"
_LOOKER = "Looker 1998, NHANES III"


def quantity(value: float, uncertainty: float | None, unit: str, method: str, reference: str | None = None) -> Quantity:
    reason = "not estimated" if uncertainty is None else None
    return Quantity(
        value=value, unit=unit, uncertainty=uncertainty, method=method, reference=reference, uncertainty_reason=reason
    )


def finding(code: str, severity: str, text: str) -> Finding:
    return Finding.model_validate({"code": code, "severity": severity, "text": text})


def _vertebra(level: str, label: int, hu: float, vbmd: float, heights: tuple[float, float, float], newton: float | None,
              **more: Any) -> Vertebra:  # fmt: skip
    anterior, middle, posterior = heights
    losses = {"wedge": 100 * (1 - anterior / posterior), "biconcave": 100 * (1 - middle / posterior), "crush": 2.0}
    kind = max(losses, key=lambda name: losses[name])
    loss = max(0.0, losses[kind])
    grade = 0 if loss < 20 else 1 if loss < 25 else 2 if loss < 40 else 3
    values: dict[str, Any] = {
        "name": f"vertebra_{level}", "level": level, "label": label, "status": "ok", "level_confidence": 0.97, "score": 0.9,
        "level_alternatives": {},
        "trabecular_hu": quantity(hu, 4.0, "[hnsf'U]", "mean of the eroded body"),
        "vbmd_mg_cm3": quantity(vbmd, 6.3, VBMD_UNIT, "mean of the eroded body", "calibrated with blood and fat"),
        "heights_mm": Heights(
            anterior=quantity(anterior, 0.6, "mm", "six-point"), middle=quantity(middle, 0.6, "mm", "six-point"),
            posterior=quantity(posterior, 0.6, "mm", "six-point"),
        ),
        "fracture": Fracture.model_validate({
            "genant_grade": grade, "deformity": "none" if grade == 0 else kind,
            "height_loss": quantity(loss, 3.1, "%", "six-point, against the normal shape of the level"),
            "grade_probabilities": {"0": 0.1, "1": 0.6, "2": 0.3, "3": 0.0} if grade else {"0": 0.97, "1": 0.03},
        }),
    }  # fmt: skip
    if newton is not None:
        curve = tuple((0.05 * i, newton * (1 - 2.718 ** (-0.22 * i)) / (1 - 2.718 ** (-0.22 * 12))) for i in range(13))
        values |= {
            "strength_n": Strength(
                value=newton, unit="N", uncertainty=0.14 * newton, method="nonlinear finite elements",
                test="spine-compression", profile="kopperdahl-2002", definition="force at 1.9 % strain", curve=curve,
                model={"dof": 312000, "element_size_mm": 1.0},
            ),
            "stiffness_n_mm": quantity(newton * 4.9, newton * 0.5, "N/mm", "linear finite elements"),
        }  # fmt: skip
    return Vertebra.model_validate(values | more)


def example_record(**parts: Any) -> StudyRecord:
    """A record like that of a real abdominal CT: a wedge fracture, one cut body, one hip measured, one with metal."""
    confirm = finding(
        "grade_1_to_confirm", "warning", "L1: height loss of 22 % (grade 1): a reader has to confirm the fracture."
    )
    cut = finding("cut_by_field_of_view", "failure", "T11: the upper 9 mm of the body lie outside the scanned volume.")
    metal = finding("metal_near_structure", "failure", "Left femur: metal (over 2500 HU) inside the neck and the head.")
    deformed = finding("deformed_body", "warning", "L1: not tested for strength, because the body is deformed.")
    coarse = finding("coarse_slices", "warning", "Slices of 3.0 mm: heights below 0.6 mm cannot be told apart.")
    no_table = finding("no_reference_table", "info", "No verified reference table by age is part of this version.")
    vertebrae = (
        Vertebra(name="vertebra_T11", level="T11", label=18, status="failed", complete=False, findings=(cut,)),
        _vertebra("T12", 19, 108.4, 104.2, (24.1, 24.0, 25.6), 3910.0),
        _vertebra("L1", 20, 118.5, 111.7, (21.0, 24.0, 27.0), None, status="warning", findings=(confirm,),
                  not_measured={"strength_n": deformed, "stiffness_n_mm": deformed}),
        _vertebra("L2", 21, 122.7, 115.3, (26.3, 24.8, 26.6), 4230.0),
        _vertebra("L3", 22, 119.5, 112.5, (27.2, 24.9, 26.4), 4080.0),
        _vertebra("L4", 23, 125.3, 117.4, (27.9, 25.0, 26.2), 4460.0),
        _vertebra("L5", 24, 134.3, 125.0, (28.4, 24.9, 24.3), 4720.0),
    )  # fmt: skip
    hip_test = {"test": "hip-sideways-fall", "profile": "keyak-2005", "definition": "first maximum of the force"}
    right = Femur(
        name="femur_right", side="right", label=32, status="ok", score=0.93,
        abmd_g_cm2=HipDensity(
            total_hip=quantity(0.7341, 0.0445, "g/cm2", "projection", "CT aBMD, DXA-equivalent"),
            femoral_neck=quantity(0.6123, 0.0462, "g/cm2", "projection", "CT aBMD, DXA-equivalent"),
            trochanter=quantity(0.5671, 0.041, "g/cm2", "projection", "CT aBMD, DXA-equivalent"),
            intertrochanter=quantity(0.8902, 0.058, "g/cm2", "projection", "CT aBMD, DXA-equivalent"),
        ),
        t_score=Score(value=-2.05, unit="{T-score}", uncertainty=0.39, method="(aBMD - mean) / SD", reference=_LOOKER,
                      region="femoral_neck", population=WOMEN),
        t_scores={
            "total_hip": Score(value=-1.70, unit="{T-score}", uncertainty=0.36, method="(aBMD - mean) / SD",
                               reference=_LOOKER, region="total_hip", population=WOMEN),
            "femoral_neck": Score(value=-2.05, unit="{T-score}", uncertainty=0.39, method="(aBMD - mean) / SD",
                                  reference=_LOOKER, region="femoral_neck", population=WOMEN),
        },
        strength_n=Strength(value=3184.0, unit="N", uncertainty=412.0, method="finite elements", **hip_test,
                            curve=tuple((0.25 * i, 3184.0 * (1 - (1 - i / 12) ** 2)) for i in range(13))),
        stiffness_n_mm=quantity(2140.0, 260.0, "N/mm", "linear finite elements"),
        not_measured={"z_score": no_table},
    )  # fmt: skip
    left = Femur(name="femur_left", side="left", label=31, status="failed", findings=(metal,))
    assessment = assessment_of(vertebrae, (right, left))
    values: dict[str, Any] = {
        "software": Software(version="0.1.0", python="3.11.7", platform="Linux x86_64",
                             dependencies={"numpy": "2.4.6", "pydicom": "3.0.2"}, settings={"calibration": "internal"},
                             tables={"coverage": "2026.11.0", "nhanes": "1"}),
        "study": Study(key="P0007", study_uid="1.2.826.0.1.3680043.8.498.1", patient_age_years=71, patient_sex="F",
                       study_date="2026-10-02", report_date="2026-11-21"),
        "series": SeriesSection(
            used=(UsedSeries(
                used_for=("spine", "hips"), selection_reason="original axial CT, soft kernel, covers spine and hips",
                series_uid="1.2.826.0.1.3680043.8.498.2", shape=(122, 101, 112), spacing_mm=(3.0, 0.78, 0.78),
                content_sha256="9f2c" * 16,
                acquisition=Acquisition(modality="CT", manufacturer="Maker", model="Scanner", kvp=120.0, kernel="B30f",
                                        slice_thickness_mm=3.0),
            ),),
            rejected=(RejectedSeries(description="Scout", code="localizer", reason="a localizer holds no CT numbers"),
                      RejectedSeries(description="Abdomen 1.0 B70f", code="sharp_kernel",
                                     reason="edge-enhancing kernel changes CT numbers of bone")),
        ),
        "calibration": Calibration(
            method="internal reference tissues", mineral="K2HPO4", slope_mg_cm3_per_hu=0.83, intercept_mg_cm3=6.4,
            covariance=((0.0009, -0.02), (-0.02, 9.0)), residual_mg_cm3=3.1,
            reference="two-tissue calibration with blood and fat",
            samples=(CalibrationSample(name="fat", hu=-104.0, density_mg_cm3=-80.0, hu_sd=9.0),
                     CalibrationSample(name="blood", hu=43.0, density_mg_cm3=42.0, hu_sd=6.0)),
        ),
        "vertebrae": vertebrae,
        "femora": (right, left),
        "assessment": assessment,
        "quality": Quality(
            findings=(coarse,),
            limits=("Strength comes from an open model; published fragility thresholds were not validated for it.",),
        ),
        "timings_s": {"ingest": 2.1, "segmentation": 9.4, "density": 3.0, "fracture": 0.8, "strength": 21.0},
    }  # fmt: skip
    values["services"] = services_of(
        vertebrae, (right, left), assessment, values["study"], values["software"], knowledge=KNOWLEDGE,
        date_of_service=dt.date(2026, 11, 21), evaluated_on=dt.date(2026, 11, 21),
    )  # fmt: skip
    return StudyRecord.model_validate(values | parts)


def assessment_of(vertebrae: Sequence[Vertebra], femora: Sequence[Femur]) -> Assessment:
    """An assessment as the pipeline makes it, with the mean of the first two intact bodies as spine density."""
    intact = [v for v in vertebrae if v.vbmd_mg_cm3 and (v.fracture is None or v.fracture.genant_grade == 0)][:2]
    densities = [v.vbmd_mg_cm3.value for v in intact if v.vbmd_mg_cm3]
    mean = sum(densities) / len(densities) if densities else None
    lowest = min((f.t_score.value for f in femora if f.t_score), default=None)
    grades = [v.fracture.genant_grade for v in vertebrae if v.fracture]
    rules = (
        Rule(rule="Spine density at or below 80 mg/cm³", basis="see table", reference="ACR 2018; ISCD 2019",
             holds=None if mean is None else mean <= 80),
        Rule(rule="Hip T-score at or below −2.5", basis="see table", reference="WHO 1994; ISCD 2019",
             holds=None if lowest is None else lowest <= -2.5),
        Rule(rule="Vertebral fracture of grade 2 or 3", basis="see table", reference="Genant 1993",
             holds=None if not grades else max(grades) >= 2),
    )  # fmt: skip
    return Assessment(
        classification="high" if any(rule.holds for rule in rules) else "increased" if densities else "not_determined",
        statement="High fracture risk by the rules used." if any(rule.holds for rule in rules)
        else "Increased fracture risk by the rules used: low bone mass, no rule for high risk holds.",
        rules=rules,
        references=("Keaveny et al. 2020, Osteoporos Int 31:1025-1048",),
        basis=("trabecular density", "hip T-scores", "fracture grades"),
        omitted=(Omission(part="strength", code="strength_not_cross_calibrated",
                          reason="Published strength limits were validated for another program."),),
        spine_vbmd_mg_cm3=None if mean is None else quantity(mean, 6.3, VBMD_UNIT, "mean of two levels"),
        spine_vbmd_levels=tuple(str(v.level) for v in intact),
        spine_density_class=None if mean is None else "low",
        hip_density_class=None if lowest is None else "low",
    )  # fmt: skip


# Strategies: structures with any subset of their numbers, everything that is absent with a reason. Texts stay within the
# letters that the bundled font has.

TEXTS = st.text(st.characters(max_codepoint=0x24F, categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=40)
FINDINGS = st.builds(
    finding, st.sampled_from(["coarse_slices", "contrast_given", "metal"]), st.sampled_from(["info", "warning"]), TEXTS
)
_REASON = finding("not_asked_for", "info", "Not asked for in this run.")


def _quantities(low: float, high: float, unit: str) -> st.SearchStrategy[Quantity]:
    share = st.one_of(st.none(), st.floats(0.001, 0.4))
    return st.builds(
        lambda value, part: quantity(value, None if part is None else part * max(abs(value), 1e-3), unit, "random"),
        st.floats(low, high), share,
    )  # fmt: skip


def _strengths(test: str) -> st.SearchStrategy[Strength]:
    return _quantities(300, 15000, "N").map(lambda q: Strength(**q.model_dump(), test=test, profile="random"))


def _maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), strategy)


@st.composite
def vertebrae(draw: st.DrawFn, level: str) -> Vertebra:
    if draw(st.integers(0, 5)) == 0:
        why = finding("cut_by_field_of_view", "failure", draw(TEXTS))
        return Vertebra(name=f"vertebra_{level}", level=level, status="failed", findings=(why,))
    heights = st.builds(Heights, **dict.fromkeys(("anterior", "middle", "posterior"), _quantities(8, 40, "mm")))
    grade = draw(st.integers(0, 3))
    kind = draw(st.sampled_from(["wedge", "biconcave", "crush"])) if grade else "none"
    numbers = {
        "trabecular_hu": draw(_maybe(_quantities(-50, 300, "[hnsf'U]"))),
        "vbmd_mg_cm3": draw(_maybe(_quantities(-20, 300, VBMD_UNIT))),
        "heights_mm": draw(_maybe(heights)),
        "fracture": draw(_maybe(_quantities(0, 70, "%").map(
            lambda loss: Fracture(genant_grade=grade, deformity=kind, height_loss=loss)))),
        "strength_n": draw(_maybe(_strengths("spine-compression"))),
        "stiffness_n_mm": draw(_maybe(_quantities(500, 60000, "N/mm"))),
    }  # fmt: skip
    return Vertebra.model_validate({
        "name": f"vertebra_{level}", "level": level, "status": "warning", "findings": draw(st.lists(FINDINGS, max_size=2)),
        "not_measured": {key: _REASON for key, number in numbers.items() if number is None}, **numbers,
    })  # fmt: skip


@st.composite
def femora(draw: st.DrawFn, side: str) -> Femur:
    if draw(st.integers(0, 3)) == 0:
        why = finding("not_in_field_of_view", "failure", draw(TEXTS))
        return Femur.model_validate({"name": f"femur_{side}", "side": side, "status": "absent", "findings": [why]})
    regions = {name: draw(_maybe(_quantities(0.2, 1.6, "g/cm2"))) for name in HipDensity.model_fields}
    beside = {
        key: HipRegions(**{name: draw(_quantities(low, high, unit)) for name, there in regions.items() if there is not None})
        for key, low, high, unit in (("bmc_g", 1, 60, "g"), ("area_cm2", 2, 60, "cm2"))
    }  # fmt: skip
    scale = draw(st.sampled_from([None, "hologic", "lunar"]))
    if scale is not None:
        there = [name for name in ("total_hip", "femoral_neck") if regions[name] is not None]
        beside["dxa_scale_abmd_g_cm2"] = HipRegions(**{name: draw(_quantities(0.2, 1.6, "g/cm2")) for name in there})
    scores = {
        name: draw(_quantities(-5, 3, "{T-score}").map(
            lambda q, name=name: Score(**q.model_dump(), region=name, population=WOMEN)))
        for name in ("total_hip", "femoral_neck") if regions[name] is not None
    }  # fmt: skip
    numbers = {
        "abmd_g_cm2": HipDensity(**regions), "t_score": min(scores.values(), key=lambda s: s.value, default=None),
        "z_score": None, "strength_n": draw(_maybe(_strengths("hip-sideways-fall"))),
        "stiffness_n_mm": draw(_maybe(_quantities(300, 9000, "N/mm"))),
    }  # fmt: skip
    absent = [key for key, number in numbers.items() if number is None]
    absent += [f"abmd_g_cm2.{name}" for name, number in regions.items() if number is None]
    return Femur.model_validate({
        "name": f"femur_{side}", "side": side, "status": "ok", "t_scores": scores, "dxa_scale": scale, **beside,
        "male_reference_t_scores": {
            name: score.model_copy(update={"value": score.value - 0.625, "population": "young men, unverified"})
            for name, score in scores.items() if draw(st.booleans())
        },
        "not_measured": dict.fromkeys(absent, _REASON), **numbers,
    })  # fmt: skip


@st.composite
def records(draw: st.DrawFn) -> StudyRecord:
    """Any record that the model allows, with texts that try to break out of their rendering."""
    first = draw(st.integers(0, len(LEVELS) - 1))
    last = draw(st.integers(first, len(LEVELS)))
    bodies = tuple(draw(vertebrae(level)) for level in LEVELS[first:last])
    hips = tuple(draw(femora(side)) for side in draw(st.sampled_from([(), ("right",), ("right", "left")])))
    hostile = draw(
        st.sampled_from(["<b>x</b>", '#panic("x")', "$x^2$ *b* _i_ `c` @ref <lab>", "a\\b", "{{ 7*7 }}", "=1+1"])
    )
    return example_record(
        vertebrae=bodies,
        femora=hips,
        assessment=assessment_of(bodies, hips),
        quality=Quality(findings=(finding("hostile_text", "warning", hostile + draw(TEXTS)),)),
        study=Study(key=draw(st.sampled_from(["P1", "a-b_c"])), report_date="2026-11-21", body_part=hostile),
    )
