"""Which service does the data support? Asked of the record before coverage is asked of the payer.

Elements follow the codes as the payer's own table describes them, in our words. A service is `supported` when every element
that the data can supply is there; what only a person can supply (interpretation, the reason why the CT was taken) is listed
as open and never assumed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Literal

from reports.coverage.engine import ChecklistItem, evaluate
from reports.coverage.knowledge import Knowledge, PlanDocument
from reports.record import Assessment, Coverage, Element, Femur, Service, Software, Status, Study, Vertebra

_Met = Literal["yes", "no", "unknown"]
_USABLE = (Status.OK, Status.WARNING)


def services_of(
    vertebrae: Sequence[Vertebra],
    femora: Sequence[Femur],
    assessment: Assessment,
    study: Study,
    software: Software,
    *,
    knowledge: Knowledge,
    date_of_service: dt.date,
    payer: str = "cigna",
    plan: PlanDocument | None = None,
    evaluated_on: dt.date | None = None,
) -> tuple[Service, ...]:
    """The services 0691T and 0743T with what supports them, what is missing, and their coverage status.

    Parameters
    ----------
    vertebrae, femora, assessment, study, software
        Parts of the record.
    knowledge : Knowledge
    date_of_service : datetime.date
        The day of the analysis and interpretation as billed.
    payer : str
    plan : PlanDocument, optional
    evaluated_on : datetime.date, optional
    """
    graded = [v for v in vertebrae if v.fracture is not None]
    strong = [s.name for s in vertebrae if s.strength_n is not None]
    strong += [s.name for s in femora if s.strength_n is not None]
    dense = [s.name for s in vertebrae if s.vbmd_mg_cm3 is not None]
    dense += [s.name for s in femora if s.abmd_g_cm2 is not None]
    assessed = assessment.classification != "not_determined"
    fracture = _element(
        "Vertebral fracture result per level",
        bool(graded),
        f"graded: {', '.join(v.level or v.name for v in graded)}",
        _why_no_fracture(vertebrae),
    )
    density = _element("Bone density", bool(dense), f"{len(dense)} structures", "no structure has a calibrated density")
    strength = _element(
        "Bone strength by finite elements",
        bool(strong),
        ", ".join(strong),
        "no femur or vertebra passed quality control for a strength test",
    )
    overall = _element("Overall fracture-risk assessment", assessed, assessment.statement, assessment.statement)
    analysis = _element(
        "Automated analysis with software and version recorded", True, f"openbct {software.version}", ""
    )
    existing = Element(
        element="CT data already acquired for another reason",
        met="unknown",
        basis="the reason for the scan is not in the images; to be confirmed",
    )
    interpretation = _element(
        "Interpretation and report by a qualified clinician",
        study.signed_by is not None,
        f"signed by {study.signed_by}",
        "draft, not signed",
    )
    # What a person must supply does not decide whether the *data* support a service.
    by_person = {existing.element, interpretation.element}
    wanted = {
        "0691T": (existing, analysis, fracture, interpretation),
        "0743T": (analysis, strength, density, fracture, overall, interpretation),
    }
    supported = {
        cpt: all(e.met == "yes" for e in elements if e.element not in by_person) for cpt, elements in wanted.items()
    }
    return tuple(
        Service(
            cpt=cpt,
            supported=supported[cpt],
            reasons=_reasons(cpt, supported, elements, by_person),
            missing=tuple(f"{e.element}: {e.basis}" for e in elements if e.met != "yes"),
            elements=elements,
            coverage=_coverage(cpt, elements, payer, date_of_service, knowledge, plan, evaluated_on),
        )
        for cpt, elements in wanted.items()
    )


def _element(element: str, present: bool, basis: str, why_not: str) -> Element:
    met: _Met = "yes" if present else "no"
    return Element(element=element, met=met, basis=basis if present else why_not)


def _why_no_fracture(vertebrae: Sequence[Vertebra]) -> str:
    if not vertebrae:
        return "no vertebra in view"
    if not any(v.status in _USABLE for v in vertebrae):
        return "no vertebra passed quality control"
    return "no vertebra could be measured for heights"


def _reasons(
    cpt: str, supported: dict[str, bool], elements: tuple[Element, ...], by_person: set[str]
) -> tuple[str, ...]:
    if not supported[cpt]:
        lacking = [f"{e.element.lower()} ({e.basis})" for e in elements if e.met == "no" and e.element not in by_person]
        return (f"The data do not support {cpt}: missing {'; '.join(lacking)}.",)
    reasons = [
        f"The data hold every element that software can supply for {cpt}; interpretation remains with a clinician."
    ]
    if all(supported.values()):
        reasons.append("Both services count the fracture assessment; do not report both on one CT without review.")
    return tuple(reasons)


def _coverage(
    cpt: str,
    elements: tuple[Element, ...],
    payer: str,
    date_of_service: dt.date,
    knowledge: Knowledge,
    plan: PlanDocument | None,
    evaluated_on: dt.date | None,
) -> Coverage:
    answer = evaluate(
        cpt, payer=payer, date_of_service=date_of_service, knowledge=knowledge, plan=plan, evaluated_on=evaluated_on
    )
    filled = answer.model_copy(update={"checklist": tuple(_filled(item, elements) for item in answer.checklist)})
    return Coverage.model_validate(filled.model_dump(mode="json"))


def _filled(item: ChecklistItem, elements: tuple[Element, ...]) -> ChecklistItem:
    """Checklist items that the study itself answers."""
    answers = {
        "Concurrent vertebral fracture assessment attached": "Vertebral fracture result per level",
        "Software name and version recorded; not a cleared medical device unless the operator states a clearance": (
            "Automated analysis with software and version recorded"
        ),
        "Interpretation signed and dated, with credentials": "Interpretation and report by a qualified clinician",
    }
    wanted = answers.get(item.item)
    found = next((e for e in elements if e.element == wanted), None)
    return item if found is None else item.model_copy(update={"met": found.met, "basis": found.basis})
