"""What a report says: the answer first, each reason once, references by number, and nothing better than the record."""

from __future__ import annotations

import pytest

from pipeline.assessment import assess
from pipeline.reference_population import reference_population
from reports.citations import Citations, in_words
from reports.compose import compose
from reports.document import Column, Document, Paragraph, Row, Table
from reports.impression import impression_text
from reports.language import load_language
from reports.names import listed
from reports.reasons import shared_reasons, why_missing
from reports.record import Femur, Quality, StudyRecord, Vertebra
from reports.typesetting import typeset
from tests.reports.example_records import VBMD_UNIT, example_record, finding, quantity

NO_STRENGTH = finding("strength_not_asked", "info", "Strength was not asked for.")
THIN = finding("too_little_bone", "failure", "Only 426 mm3 of trabecular bone.")
KEYS = ("trabecular_hu", "vbmd_mg_cm3", "heights_mm", "fracture", "strength_n", "stiffness_n_mm")


def body(name: str, level: str | None, **reasons: object) -> Vertebra:
    """A body with a density unless a reason is given for its absence; nothing else was measured."""
    missing = dict.fromkeys(KEYS, NO_STRENGTH) | reasons
    numbers = {}
    if "vbmd_mg_cm3" not in reasons:
        del missing["vbmd_mg_cm3"]
        numbers["vbmd_mg_cm3"] = quantity(101.0, 6.0, VBMD_UNIT, "mean")
    state = {"name": name, "level": level, "status": "ok", "not_measured": missing}
    return Vertebra.model_validate(state | numbers)


def table_of(document: Document, section_id: str) -> Table:
    section = next(section for section in document.sections if section.id == section_id)
    return next(block for block in section.blocks if isinstance(block, Table))


def section_text(record: StudyRecord, section_id: str) -> str:
    section = next(section for section in compose(record).sections if section.id == section_id)
    return repr(section.blocks)


def test_the_answer_comes_first_and_limits_second() -> None:
    ids = [section.id for section in compose(example_record()).sections]
    assert ids[:2] == ["impression", "quality"]
    assert ids[-2:] == ["methods", "provenance"]
    assert ids.index("services") > ids.index("assessment")


def test_impression_carries_the_numbers() -> None:
    text = impression_text(example_record(), load_language("en"))
    assert "L1 grade 1 wedge (height loss 22 ± 3 %)" in text
    assert "to be confirmed by a reader" in text  # grade 1 is never called a fracture
    assert "Vertebral fracture:" not in text
    assert "lowest T-score −2.0 ± 0.4 (right femoral neck, 95 % interval −2.8 to −1.3)" in text
    assert "T12 (weakest of 5 bodies) 3910 ± 550 N" in text
    assert "No validated class exists" in text


@pytest.mark.parametrize("code", ["thick_slices", "thick_slices_heights", "outline_unstable", "vertebral_deformity"])
def test_impression_calls_a_fracture_only_what_the_assessment_counts(code: str) -> None:
    l1 = next(v for v in example_record().vertebrae if v.level == "L1")
    assert l1.fracture is not None
    grade_2 = l1.fracture.model_copy(update={"genant_grade": 2})
    cause = finding(code, "warning", "Something about the body.")
    body = l1.model_copy(update={"fracture": grade_2, "findings": (cause,)})
    counted = assess([body], [], None, age_years=71.0).rules[-1].holds
    text = impression_text(example_record(vertebrae=(body,)), load_language("en"))
    assert ("Vertebral fracture: L1 grade 2" in text) is counted
    assert ("Possible deformity of L1, for a reader to confirm." in text) is not counted
    assert "No vertebral deformity" not in text


def test_impression_of_nothing_says_why() -> None:
    text = impression_text(example_record(vertebrae=(), femora=()), load_language("en"))
    assert "Vertebral fractures were not assessed: no vertebral body was found" in text
    assert "Hip density was not measured: no femur was found" in text


def test_every_level_from_t4_to_l5_is_accounted_for() -> None:
    rows = table_of(compose(example_record()), "levels").rows
    assert rows[0].cells[0] == "T4 – T10"
    assert [row.cells[0] for row in rows[1:] if row.kind == "plain"] == ["T11", "T12", "L1", "L2", "L3", "L4", "L5"]
    gap = example_record(vertebrae=tuple(v for v in example_record().vertebrae if v.level not in ("L2", "L4")))
    assert table_of(compose(gap), "levels").rows[-1].cells[0] == "L2, L4"


def test_unnamed_bodies_do_not_make_levels_absent() -> None:
    record = example_record(vertebrae=(body("vertebra_u1", None), body("vertebra_u2", None)))
    first = table_of(compose(record), "levels").rows[0]
    assert first.cells[0] == "T4 – L5"
    assert "could be named" in first.cells[1]


def test_a_reason_shared_by_all_bodies_is_said_once() -> None:
    bodies = (body("vertebra_L1", "L1"), body("vertebra_L2", "L2", vbmd_mg_cm3=THIN))
    shared = shared_reasons(list(bodies), KEYS)
    assert set(shared) == set(KEYS) - {"vbmd_mg_cm3"}
    text = section_text(example_record(vertebrae=bodies), "levels")
    assert text.count(NO_STRENGTH.text) == 2  # once for the body with no number at all, once for all others
    assert shared_reasons([bodies[0]], KEYS) == {}


def test_the_most_frequent_reasons_come_first() -> None:
    bodies = [body(f"vertebra_L{i}", f"L{i}", vbmd_mg_cm3=THIN) for i in (1, 2)]
    bodies.append(body("vertebra_L3", "L3", vbmd_mg_cm3=NO_STRENGTH))
    assert why_missing(bodies, "vbmd_mg_cm3", "x") == f"{THIN.text} {NO_STRENGTH.text}"
    assert why_missing([], "vbmd_mg_cm3", "nothing there") == "nothing there"


def test_spine_density_is_not_blamed_on_bodies_that_have_one() -> None:
    why = "Spine density is not summarised: it needs two bodies of T11 to L4."
    record = example_record(
        vertebrae=(body("vertebra_T6", "T6"),),
        quality=Quality(findings=(finding("too_few_levels", "warning", why),)),
        assessment=example_record().assessment.model_copy(update={"spine_vbmd_mg_cm3": None, "spine_vbmd_levels": ()}),
    )
    assert "it needs two bodies of T11 to L4" in section_text(record, "spine")
    assert section_text(record, "impression").count("Spine density") == 1


def test_a_caution_of_many_bodies_is_one_line_and_that_of_one_body_stands_below_it() -> None:
    shared = finding("level_unknown", "warning", "The level is not named.")
    own = finding("odd", "warning", "vertebra_u2: The outline is odd.")
    bodies = tuple(
        body(f"vertebra_u{i}", None).model_copy(update={"findings": (shared, own) if i == 2 else (shared,)})
        for i in (1, 2, 3)
    )
    record = example_record(vertebrae=bodies, femora=(), quality=Quality())
    rows = [row.cells for row in table_of(compose(record), "levels").rows if "Caution" in row.cells[-1]]
    assert rows == [("", "Caution: The outline is odd."), ("All", "Caution: The level is not named.")]
    assert "named" not in section_text(record, "quality")


def test_names_in_a_row_become_a_range() -> None:
    order = [f"u{i}" for i in range(1, 10)]
    assert listed(["u9", "u2", "u1", "u3"], order) == "u1 – u3, u9"
    assert listed(["u4", "u5"], order) == "u4, u5"


def test_impression_names_the_bones_a_reason_holds_for() -> None:
    bodies = tuple(body(f"vertebra_u{i}", None, fracture=THIN if i < 4 else NO_STRENGTH) for i in range(1, 6))
    cut = finding("cut", "failure", "The neck is not in view.")
    hips = (
        Femur(name="femur_left", side="left", status="failed", findings=(cut,)),
        Femur(name="femur_right", side="right", status="absent", findings=(finding("x", "info", "None on this side."),)),
    )  # fmt: skip
    text = impression_text(example_record(vertebrae=bodies, femora=hips), load_language("en"))
    assert f"not assessed: u1 – u3: {THIN.text} u4, u5: {NO_STRENGTH.text}" in text
    assert "Hip density was not measured: Left femur: The neck is not in view." in text
    gone = example_record(femora=hips[1:])
    assert "not measured: no femur was found in the images." in impression_text(gone, load_language("en"))


def test_hips_without_any_number_stand_in_a_table_with_every_reason() -> None:
    left_only = tuple(f for f in example_record().femora if f.side == "left")
    second = finding("odd", "warning", "femur_left: The outline is odd.")
    femora = (left_only[0].model_copy(update={"findings": (*left_only[0].findings, second)}),)
    rows = table_of(compose(example_record(femora=femora)), "hip").rows
    assert [row.cells[0] for row in rows] == ["Left femur", "Caution"]
    assert "metal" in rows[0].cells[1]
    assert rows[1].cells[1] == "The outline is odd."


def test_whatever_else_was_measured_is_printed_with_its_unit_or_its_reason() -> None:
    record = example_record()
    angle = quantity(4.2, 1.1, "deg", "angle between the endplates")
    why = finding("too_few", "info", "Only 7 like people.")
    l2 = next(v for v in record.vertebrae if v.level == "L2")
    assert l2.strength_n is not None
    parts = {"fails_first_in": "neck", "fails_first_in.upper third, front": 0.7, "fails_first_in.other": 0.3}
    strength = l2.strength_n.model_copy(update={"model": {"cortical_load_share": 0.41, **parts}})
    bodies = tuple(
        v.model_copy(update={"further": {"wedge_angle": angle, "made_up": angle}, "strength_n": strength,
                             "not_measured": {**v.not_measured, "further.unheard_of": why}})
        if v.level == "L2" else v for v in record.vertebrae
    )  # fmt: skip
    hips = tuple(
        f.model_copy(update={"further": {"load_to_strength": quantity(0.7, 0.4, "1", "load over strength")}})
        if f.side == "right" else f for f in record.femora
    )  # fmt: skip
    document = compose(example_record(vertebrae=bodies, femora=hips))
    table = table_of(document, "further")
    assert [(c.title, c.unit) for c in table.columns] == [
        ("Bone", ""), ("Wedge angle", "°"), ("Made up", "°"), ("Load carried by the cortex", "%"),
        ("Fails first, compression", ""),
    ]  # fmt: skip
    assert table.rows[0].cells == (
        "L2", "4.2\u00a0±\u00a01.1", "4.2\u00a0±\u00a01.1", "41", "upper front 70\u00a0%; other 30\u00a0%",
    )  # fmt: skip
    assert table.rows[1].cells == ("L2", "Unheard of not measured: Only 7 like people.")
    hip = [block for s in document.sections if s.id == "further" for block in s.blocks][1]
    assert isinstance(hip, Table)
    assert [c.title for c in hip.columns] == ["Bone", "Load over strength, sideways fall"]
    assert [row.cells for row in hip.rows] == [("Right femur", "0.70\u00a0±\u00a00.40")]


def test_a_caution_of_both_hips_is_said_once() -> None:
    both = finding("scale", "warning", "The scale is not known.")
    hips = tuple(f.model_copy(update={"findings": (*f.findings, both)}) for f in example_record().femora)
    rows = table_of(compose(example_record(femora=hips)), "hip").rows
    assert [row.cells[-1] for row in rows if "scale" in row.cells[-1]] == ["The scale is not known."]
    assert rows[-2].cells == ("Both femora",)


@pytest.mark.parametrize(
    ("plain", "printed"),
    [
        ("at or below 80 mg/cm3 K2HPO4", "at or below 80~mg/cm³~K₂HPO₄"),
        ("T -2.5 (-3.0 to -1.9), 54 % or 14%", "T −2.5 (−3.0 to −1.9), 54~% or 14~%"),
        ("NHANES 2005-2008, L1-L2, 15:1025-1048, a-1", "NHANES 2005-2008, L1-L2, 15:1025-1048, a-1"),
        ("0.0068 x height of 12 mm", "0.0068~×~height of 12~mm"),
        ("0.734 ± 0.044 g/cm2 in 12 mm3 at 3 N/mm", "0.734~±~0.044~g/cm² in 12 mm³ at 3~N/mm"),
    ],
)
def test_plain_text_is_set_for_print(plain: str, printed: str) -> None:
    assert typeset(plain) == printed.replace("~", "\u00a0")
    assert typeset(typeset(plain)) == typeset(plain)


@pytest.mark.parametrize("classed", [True, False])
def test_scores_have_a_class_only_where_the_assessment_gives_one(classed: bool) -> None:
    record = example_record()
    if not classed:
        assessment = record.assessment.model_copy(update={"hip_density_class": None})
        record = record.model_copy(update={"assessment": assessment})
    rows = [row for row in table_of(compose(record), "hip").rows if row.cells[0].startswith("T-score")]
    assert len(rows) == 2
    assert all((row.cells[4] == "low bone mass") is classed for row in rows)


def test_references_are_numbered_once() -> None:
    citations = Citations()
    assert citations.cite("Looker 1998; Binkley 2005") == "[1, 2]"
    assert citations.cite("Binkley 2005", None, "WHO  1994") == "[2, 3]"
    assert citations.cite(None) == ""
    assert citations.listed() == (("[1]", "Looker 1998"), ("[2]", "Binkley 2005"), ("[3]", "WHO 1994"))


@pytest.mark.parametrize(
    ("sex", "age", "why"),
    [(None, 71, "the sex is not recorded"), ("F", 71, "no published table for this sex could be verified"),
     ("M", None, "the age is not recorded")],
)  # fmt: skip
def test_a_hip_without_reference_population_says_why(sex: str | None, age: int | None, why: str) -> None:
    record = example_record()
    study = record.study.model_copy(update={"patient_sex": sex, "patient_age_years": age})
    assessment = record.assessment.model_copy(update={"reference_population": reference_population(sex)})
    text = section_text(record.model_copy(update={"study": study, "assessment": assessment}), "pictures")
    assert f"not shown against a reference population by age: {why}." in text
    assert "pictures" not in [s.id for s in compose(example_record(femora=())).sections]


def test_marks_of_verification_are_said_in_words() -> None:
    english = load_language("en")
    marked = "Morgan 2003 [V2: open code]; rule [C], after Crawford 2003 [M]; read [V]; not a mark [12]"
    assert in_words(marked, english) == (
        "Morgan 2003 (read in a secondary source: open code); rule (computed), after Crawford 2003 (from memory, not "
        "checked); read (read in the source); not a mark [12]"
    )


def test_the_parts_of_an_uncertainty_are_told_largest_first_with_the_ensemble() -> None:
    record = example_record()
    lowest = next(v for v in record.vertebrae if v.level == "T12")
    assert lowest.strength_n is not None
    strength = lowest.strength_n.model_copy(
        update={"components": {"boundary": 210.0, "calibration": 480.0, "unheard_of": 60.0, "noise": 1.0},
                "model": {"ensemble_members": 16, "ensemble_lowest_n": 2900.0, "ensemble_highest_n": 5021.0}}
    )  # fmt: skip
    bodies = tuple(v.model_copy(update={"strength_n": strength}) if v.level == "T12" else v for v in record.vertebrae)
    assert (
        "Lowest strength, T12 (N): calibration 480, edge of the bone 210, unheard of 60; 16 solutions within the "
        "uncertainties gave 2900 to 5020." in section_text(example_record(vertebrae=bodies), "methods")
    )


def test_methods_that_differ_in_a_number_only_are_one_row() -> None:
    bodies = tuple(
        v.model_copy(
            update={
                "trabecular_hu": v.trabecular_hu.model_copy(update={"method": f"mean of {300 + i} voxels, 5 mm deep"})
            }
        )
        for i, v in enumerate(example_record().vertebrae)
        if v.trabecular_hu is not None
    )
    rows = [row.cells for row in table_of(compose(example_record(vertebrae=bodies)), "methods").rows]
    assert [row[1] for row in rows if row[0] == "Trabecular CT number"] == ["mean of 301–306 voxels, 5\u00a0mm deep"]


def test_settings_that_were_not_given_are_not_printed() -> None:
    given = {"strength": False, "payer": "cigna", "pinned_levels": (), "plan": None, "segmenter": "", "masks": []}
    software = example_record().software.model_copy(update={"settings": given})
    assert "settings: payer cigna, strength False'" in section_text(example_record(software=software), "provenance")


def test_a_table_with_a_missing_cell_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="row with 1 cells"):
        Table("caption", (Column("a"), Column("b")), (Row(("only one",)),))


def test_no_services_no_section() -> None:
    assert "services" not in [section.id for section in compose(example_record(services=())).sections]


def test_coverage_never_reads_better_than_its_status() -> None:
    texts = section_text(example_record(), "services")
    assert "unknown (not verified for this date); last known: not covered" in texts
    assert not any(
        isinstance(b, Paragraph) and "is covered" in b.text
        for s in compose(example_record()).sections
        for b in s.blocks
    )
