"""What an answer about coverage holds: status, sources, conflicts, flags, and the documentation that a claim needs."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import BaseModel, ConfigDict

from reports.coverage.entries import CoverageStatus, LineOfBusiness, PlanDocument, PriorAuthorization

CONFIRMED = (PriorAuthorization.CONFIRMED_REQUIRED, PriorAuthorization.CONFIRMED_NOT_REQUIRED)
"""What only the payer's own answer can say."""


class Source(BaseModel):
    """A document that the answer rests on."""

    model_config = ConfigDict(frozen=True)

    id: str
    doc: str
    """Name of the edition, ``cigna-0300-2025-04-15``; ``plan`` or ``mandate`` for what a user supplied."""
    document: str
    rank: int
    quote: str
    section: str = ""
    effective: dt.date | None = None
    retrieved: dt.date | None = None
    sha256: str | None = None
    confidence: str = "high"
    """How sure it is that the sentence means this code."""
    note: str = ""


class Conflict(BaseModel):
    """A lesser source that says otherwise, or a document that contradicts itself."""

    model_config = ConfigDict(frozen=True)

    id: str
    claim: str
    doc: str
    document: str
    rank: int
    severity: str
    claimed_effective: dt.date
    text: str


class Warning_(BaseModel):
    """A flag with its sentence."""

    model_config = ConfigDict(frozen=True)

    code: str
    text: str


class ChecklistItem(BaseModel):
    """One item of the documentation that a claim needs; `met` is filled from the study where it can be."""

    model_config = ConfigDict(frozen=True)

    item: str
    code: str = ""
    met: Literal["yes", "no", "unknown"] = "unknown"
    basis: str = ""
    asked_by: str = ""
    """Statement that asks for it, or ``practice``."""
    rank: int | None = None
    """Provenance rank of that statement."""


class Coverage(BaseModel):
    """The answer; `model_dump(mode="json")` is what ``openbct coverage --json`` prints."""

    model_config = ConfigDict(frozen=True)

    cpt: str
    paraphrase: str
    """What the code is, in the project's own words."""
    status: CoverageStatus
    last_known_status: CoverageStatus | None = None
    plan_status: CoverageStatus | None = None
    payer: str
    line_of_business: LineOfBusiness | None = None
    policy: str | None = None
    edition: str | None = None
    policy_effective: dt.date | None = None
    policy_next_review: dt.date | None = None
    date_of_service: dt.date
    evaluated_on: dt.date
    determination: Literal["primary", "plan", "none"]
    confidence: str | None = None
    prior_authorization: PriorAuthorization
    warnings: tuple[Warning_, ...] = ()
    sources: tuple[Source, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    further_conflicts: tuple[Conflict, ...] = ()
    """Contradictions that change nothing for a claim."""
    checklist: tuple[ChecklistItem, ...] = ()
    route: str | None = None
    next_step: str
    text: str
    knowledge_version: str

    @property
    def flags(self) -> str | None:
        """Codes of all warnings, sorted and joined by semicolons, as a table holds them."""
        return ";".join(sorted({warning.code for warning in self.warnings})) or None


_ITEMS = (
    ("order", "Order or standing protocol, and who asked", "practice", None),
    ("rationale", "Clinical rationale why CT rather than DXA, confirmed by the clinician", "A13", 5),
    ("existing_ct", "CT existed for another indication: accession, date, indication", "A14", 5),
    ("diagnosis", "Diagnosis codes chosen by the clinician (the policy defines none)", "P16", 1),
    ("plan", "Plan document checked; self-funded or not", "P5", 1),
    ("mandate", "Federal or state mandate checked", "P6", 1),
    ("authorization", "Payer's prior-authorization list checked, with reference number", "A6", 5),
    ("contract", "Contract rate checked", "practice", None),
    ("fracture_assessment", "Concurrent vertebral fracture assessment attached", "P2", 1),
    (
        "software",
        "Software name and version recorded; not a cleared medical device unless the operator states a clearance",
        "practice",
        None,
    ),
    ("scanner", "Scanner-specific cut-offs and scanner stability established", "P18", 1),
    ("interpretation", "Interpretation signed and dated, with credentials", "P2", 1),
    (
        "notice",
        "Patient informed of expected non-coverage before the service, where rules ask for it",
        "practice",
        None,
    ),
)
CHECKLIST = tuple(ChecklistItem(code=code, item=item, asked_by=by, rank=rank) for code, item, by, rank in _ITEMS)


def checklist_of(
    plan: PlanDocument | None, mandate: PlanDocument | None, authorization: PriorAuthorization, day: dt.date
) -> tuple[ChecklistItem, ...]:
    """The list with what the call itself answers; a document that is not in force answers nothing."""
    answers: dict[str, str] = {}
    for kind, document in (("plan", plan), ("mandate", mandate)):
        if document is not None and document.in_force(day):
            answers[kind] = f"{document.document} ({document.date.isoformat()})"
    if authorization in CONFIRMED:
        answers["authorization"] = "confirmed by the payer"
    return tuple(
        item.model_copy(update={"met": "yes", "basis": answers[item.code]}) if item.code in answers else item
        for item in CHECKLIST
    )
