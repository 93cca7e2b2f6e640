"""Which service does the data support? Asked of the record before coverage is asked of the payer.

Elements follow the codes as the payer's own table describes them, in our words. A service is `supported` when every element
that the data can supply is there; what only a person can supply (interpretation, the reason why the CT was taken) is listed
as open and never assumed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Literal

from reports.coverage.answer import ChecklistItem, Warning_
from reports.coverage.answer import Coverage as Answer
from reports.coverage.engine import evaluate
from reports.coverage.knowledge import Knowledge, LineOfBusiness, PlanDocument
from reports.coverage.wording import warning_text
from reports.record import (
    Assessment,
    Coverage,
    Element,
    Femur,
    OtherService,
    Service,
    Software,
    Status,
    Study,
    Vertebra,
)

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
    line_of_business: LineOfBusiness | None = None,
    evaluated_on: dt.date | None = None,
) -> tuple[Service, ...]:
    """The services 0691T and 0743T with what supports them, what is missing, and their coverage status.

    Empty where no code numbers are on file: a record does without them.

    Parameters
    ----------
    vertebrae, femora, assessment, study, software
        Parts of the record.
    knowledge : Knowledge
    date_of_service : datetime.date
        The day of the analysis and interpretation as billed.
    payer : str
    plan : PlanDocument, optional
    line_of_business : LineOfBusiness, optional
    evaluated_on : datetime.date, optional
    """
    if not knowledge.codes:
        return ()
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
    dated = f"CT of {study.study_date}; " if study.study_date else ""
    existing = Element(
        element="CT data already acquired for another reason",
        met="unknown",
        basis=f"{dated}the reason for the scan is not in the images; to be confirmed",
    )
    retrieval = _element(
        "Scan data retrieved and prepared", bool(vertebrae or femora), "images read and segmented", "no usable images"
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
        "0743T": (retrieval, analysis, strength, density, fracture, overall, interpretation),
    }
    supported = {
        cpt: all(e.met == "yes" for e in elements if e.element not in by_person) for cpt, elements in wanted.items()
    }
    both = all(supported.values())
    answers = {
        cpt: evaluate(
            cpt,
            payer=payer,
            date_of_service=date_of_service,
            knowledge=knowledge,
            plan=plan,
            line_of_business=line_of_business,
            evaluated_on=evaluated_on,
        )
        for cpt in wanted
    }
    return tuple(
        Service(
            cpt=cpt,
            supported=supported[cpt],
            reasons=_reasons(cpt, supported, elements, by_person),
            missing=tuple(f"{e.element}: {e.basis}" for e in elements if e.met != "yes"),
            elements=elements,
            review=("OVERLAP_REVIEW",) if both else (),
            coverage=_filled_coverage(answers[cpt], elements),
        )
        for cpt, elements in wanted.items()
    )


def other_services(services: Sequence[Service]) -> tuple[OtherService, ...]:
    """The neighbouring codes, with one line why each does or does not apply.

    The older family 0554T to 0557T asks for strength, density and an overall risk from existing CT data, without a fracture
    assessment: it is left to a coder where the data have these, and never proposed beside the services above.

    Parameters
    ----------
    services : sequence of Service
        From `services_of`.
    """
    if not services:
        return ()
    elements = {e.element: e for service in services for e in service.elements}
    older = [e for e in (elements.get(name) for name in _OLDER_FAMILY) if e is not None]
    lacking = [e.element.lower() for e in older if e.met != "yes"]
    complete = bool(older) and not lacking
    applies: Literal["no", "for_a_coder"] = "for_a_coder" if complete else "no"
    newer = any(service.supported for service in services if service.cpt == "0743T")
    if complete:
        beside = " It counts the same work as 0743T: never both on one CT." if newer else ""
        why = f"The data hold strength, density and overall risk; a coder decides between the families.{beside}"
        part = "A component of 0554T, never reported with it; a coder decides."
    else:
        why = f"The data lack {', '.join(lacking) or 'its elements'}."
        part = "A component of 0554T, whose elements the data lack."
    hand = "Reads an X-ray of the hand; does not apply to CT."
    return (
        OtherService(cpt="0554T", applies=applies, reason=why),
        *(OtherService(cpt=cpt, applies=applies, reason=part) for cpt in ("0555T", "0556T", "0557T")),
        OtherService(
            cpt="0558T",
            applies="no",
            reason="Is a CT taken for the purpose; this analysis uses images that exist already.",
        ),
        *(OtherService(cpt=cpt, applies="no", reason=hand) for cpt in ("0749T", "0750T")),
        OtherService(cpt="0815T", applies="no", reason="Is ultrasound of bone; does not apply to CT."),
    )


_OLDER_FAMILY = ("Bone strength by finite elements", "Bone density", "Overall fracture-risk assessment")


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
        lacking = [
            f"{e.element.lower()} ({e.basis.rstrip('.')})"
            for e in elements
            if e.met == "no" and e.element not in by_person
        ]
        others = [other for other, is_supported in supported.items() if is_supported]
        instead = f" They support {others[0]} only." if others else ""
        return (f"The data do not support {cpt}: missing {'; '.join(lacking)}.{instead}",)
    reasons = [
        f"The data hold every element that software can supply for {cpt}; interpretation remains with a clinician."
    ]
    if all(supported.values()):
        reasons.append("Both services are supported; do not report both on one CT without review.")
    return tuple(reasons)


def _filled_coverage(answer: Answer, elements: tuple[Element, ...]) -> Coverage:
    checklist = tuple(_filled(item, elements) for item in answer.checklist)
    warnings = answer.warnings
    if any(item.met != "yes" for item in checklist):
        warnings = (*warnings, Warning_(code="CHECKLIST_INCOMPLETE", text=warning_text("CHECKLIST_INCOMPLETE", {})))
    filled = answer.model_copy(update={"checklist": checklist, "warnings": warnings})
    return Coverage.model_validate(filled.model_dump(mode="json"))


_ANSWERED_BY = {
    "existing_ct": "CT data already acquired for another reason",
    "fracture_assessment": "Vertebral fracture result per level",
    "software": "Automated analysis with software and version recorded",
    "interpretation": "Interpretation and report by a qualified clinician",
}


def _filled(item: ChecklistItem, elements: tuple[Element, ...]) -> ChecklistItem:
    """Checklist items that the study itself answers."""
    found = next((e for e in elements if e.element == _ANSWERED_BY.get(item.code)), None)
    return item if found is None else item.model_copy(update={"met": found.met, "basis": found.basis})
