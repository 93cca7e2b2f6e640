"""Coverage of one service on one date of service under one payer: what may be said, on whose word, and who disagrees.

The status comes only from a plan document (rank 0) or the payer's dated policy edition in force (rank 1). Lesser sources add
conflicts and warnings; no path leads from them to a status.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from reports.coverage.knowledge import (
    Claim,
    Code,
    CoverageStatus,
    Edition,
    Knowledge,
    LineOfBusiness,
    PlanDocument,
    PriorAuthorization,
    Statement,
)
from reports.coverage.wording import coverage_text, next_step, warning_text

SUNSET_NEAR_DAYS = 90
MEDICARE = "medicare"


class Source(BaseModel):
    """A document that the answer rests on."""

    model_config = ConfigDict(frozen=True)

    id: str
    document: str
    rank: int
    quote: str
    section: str = ""
    effective: dt.date | None = None
    retrieved: dt.date | None = None
    sha256: str | None = None


class Conflict(BaseModel):
    """A lesser source that says otherwise."""

    model_config = ConfigDict(frozen=True)

    id: str
    claim: str
    document: str
    rank: int
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


class Coverage(BaseModel):
    """The answer; `model_dump(mode="json")` is what ``openbct coverage --json`` prints."""

    model_config = ConfigDict(frozen=True)

    cpt: str
    status: CoverageStatus
    last_known_status: CoverageStatus | None = None
    plan_status: CoverageStatus | None = None
    payer: str
    line_of_business: LineOfBusiness | None = None
    policy: str | None = None
    policy_effective: dt.date | None = None
    policy_next_review: dt.date | None = None
    date_of_service: dt.date
    evaluated_on: dt.date
    determination: Literal["primary", "plan", "none"]
    prior_authorization: PriorAuthorization
    warnings: tuple[Warning_, ...] = ()
    sources: tuple[Source, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    checklist: tuple[ChecklistItem, ...] = ()
    route: str | None = None
    next_step: str
    text: str
    knowledge_version: str


def evaluate(
    cpt: str,
    *,
    payer: str,
    date_of_service: dt.date,
    knowledge: Knowledge,
    plan: PlanDocument | None = None,
    line_of_business: LineOfBusiness | None = None,
    evaluated_on: dt.date | None = None,
) -> Coverage:
    """Coverage status of one service code.

    Parameters
    ----------
    cpt : str
        Code number, for example ``"0743T"``.
    payer : str
        Payer key, for example ``"cigna"``.
    date_of_service : datetime.date
        The day of the analysis and interpretation as billed, not the day of the scan.
    knowledge : Knowledge
    plan : PlanDocument, optional
        A plan document; where it is in force on the date of service it supersedes the policy in both directions.
    line_of_business : LineOfBusiness, optional
        For Medicare Advantage the Medicare determinations come before the payer's own policy. Not known by default: then the
        commercial policy is read and a flag says so.
    evaluated_on : datetime.date, optional
        Today by default.

    Raises
    ------
    KeyError
        If the code is not in the knowledge base.
    """
    cpt = cpt.strip().upper()
    code = knowledge.code(cpt)
    if code is None:
        raise KeyError(cpt)
    evaluated_on = evaluated_on or dt.date.today()
    payer_key, editions = _governing(knowledge, payer, line_of_business)
    edition = _in_force(editions, date_of_service)
    statements = edition.statements_on(cpt) if edition else ()
    status, last_known = _policy_status(knowledge, payer_key, editions, edition, statements, date_of_service)
    claims = _claims_against(knowledge, payer_key, cpt, date_of_service, edition)

    invalid = code.valid_from is not None and date_of_service < code.valid_from
    invalid = invalid or (code.sunset_verified and code.sunset is not None and date_of_service >= code.sunset)
    determination: Literal["primary", "plan", "none"] = "none"
    plan_status: CoverageStatus | None = None
    plan_speaks = plan is not None and cpt in plan.codes and plan.in_force(date_of_service)
    if invalid:
        status, last_known, claims = CoverageStatus.CODE_NOT_VALID, None, []
    elif plan is not None and plan_speaks:
        plan_status, status, determination = CoverageStatus(plan.status), CoverageStatus.PLAN_OVERRIDE, "plan"
    elif edition is not None and edition.held and statements:
        determination = "primary"

    sources = tuple(_source(edition, s) for s in statements) if edition is not None and not invalid else ()
    if determination == "plan" and plan is not None:
        plan_source = Source(id="plan", document=plan.document, rank=0, quote=plan.sentence, effective=plan.date)
        sources = (plan_source, *sources)
    route = None if invalid else next((s.route for s in statements if s.route), None)
    authorization = _prior_authorization(edition, claims, cpt)
    flags = _flags(code, edition, claims, status, date_of_service, evaluated_on, plan, line_of_business, authorization)
    named = edition or (editions[0] if editions else None)
    payer_name = named.payer_name if named else payer
    facts: dict[str, Any] = {
        "cpt": cpt,
        "payer": payer_name,
        "asked_payer": payer,
        "policy": named.policy if named else None,
        "effective": edition.effective if edition else None,
        "review": edition.next_review if edition else None,
        "wording": next((s.wording for s in statements if s.wording), ""),
        "route": route,
        "date_of_service": date_of_service,
        "code": code,
        "claims": claims,
        "plan": plan,
        "knowledge_date": knowledge.as_of,
        "line_of_business": line_of_business,
        "authorization": authorization,
    }
    return Coverage(
        cpt=cpt,
        status=status,
        last_known_status=last_known,
        plan_status=plan_status,
        payer=payer_name,
        line_of_business=line_of_business,
        policy=facts["policy"],
        policy_effective=facts["effective"],
        policy_next_review=facts["review"],
        date_of_service=date_of_service,
        evaluated_on=evaluated_on,
        determination=determination,
        prior_authorization=authorization,
        warnings=tuple(Warning_(code=flag, text=warning_text(flag, facts)) for flag in flags),
        sources=sources,
        conflicts=tuple(_conflicts(claims, cpt)),
        checklist=CHECKLIST,
        route=route,
        next_step=next_step(status, flags, facts),
        text=coverage_text(status, flags, facts),
        knowledge_version=knowledge.version,
    )


def _governing(knowledge: Knowledge, payer: str, line: LineOfBusiness | None) -> tuple[str, tuple[Edition, ...]]:
    """Whose editions decide: those of the payer, or of Medicare where the plan stands under it."""
    key = payer.strip().lower()
    under_medicare = line in (LineOfBusiness.MEDICARE_ADVANTAGE, LineOfBusiness.MEDICARE)
    if under_medicare and key != MEDICARE and knowledge.editions_of(MEDICARE, line):
        return MEDICARE, knowledge.editions_of(MEDICARE, line)
    return key, knowledge.editions_of(key, line)


def _in_force(editions: tuple[Edition, ...], date_of_service: dt.date) -> Edition | None:
    """The newest edition effective on or before the date of service."""
    return next((e for e in reversed(editions) if e.effective <= date_of_service), None)


def _policy_status(
    knowledge: Knowledge,
    payer: str,
    editions: tuple[Edition, ...],
    edition: Edition | None,
    statements: tuple[Statement, ...],
    date_of_service: dt.date,
) -> tuple[CoverageStatus, CoverageStatus | None]:
    if not editions:
        # A payer whose editions speak for other lines of business only says nothing on this one.
        known = bool(knowledge.editions_of(payer))
        return (CoverageStatus.NOT_LISTED if known else CoverageStatus.UNKNOWN_PAYER), None
    if edition is None or not edition.held:
        return CoverageStatus.UNKNOWN_VERSION_NOT_HELD, None
    status = statements[0].status if statements else CoverageStatus.NOT_LISTED
    # The last day itself still belongs to the edition. A newer edition would have been chosen as the one in force.
    if date_of_service > edition.relied_on_until:
        return CoverageStatus.INDETERMINATE_STALE, status
    return status, None


def _claims_against(
    knowledge: Knowledge, payer: str, cpt: str, date_of_service: dt.date, edition: Edition | None
) -> list[Claim]:
    """Lesser sources that claim something newer than the edition in force, for this code and date."""
    return sorted(
        (
            claim
            for claim in knowledge.claims
            if claim.payer == payer
            and claim.claims_effective <= date_of_service
            and (edition is None or not edition.held or claim.claims_effective > edition.effective)
            and any(cpt in assertion.codes for assertion in claim.assertion)
        ),
        key=lambda claim: claim.claims_effective,
    )


def _conflicts(claims: list[Claim], cpt: str) -> list[Conflict]:
    return [
        Conflict(
            id=assertion.conflict,
            claim=assertion.quote,
            document=claim.title,
            rank=claim.rank,
            claimed_effective=claim.claims_effective,
            text=assertion.conflict_text,
        )
        for claim in claims
        for assertion in claim.assertion
        if cpt in assertion.codes
    ]


def _source(edition: Edition, statement: Statement) -> Source:
    return Source(
        id=statement.id,
        document=edition.title,
        rank=edition.rank,
        quote=statement.quote,
        section=statement.section,
        effective=edition.effective,
        retrieved=edition.retrieved,
        sha256=edition.sha256,
    )


_CONFIRMED = (PriorAuthorization.CONFIRMED_REQUIRED, PriorAuthorization.CONFIRMED_NOT_REQUIRED)


def _prior_authorization(edition: Edition | None, claims: list[Claim], cpt: str) -> PriorAuthorization:
    """What the edition says; the payer's own list or portal (rank 2) may confirm it. It never changes a status."""
    answers = [
        assertion.claimed_prior_authorization
        for claim in claims
        if claim.rank == 2
        for assertion in claim.assertion
        if cpt in assertion.codes and assertion.claimed_prior_authorization in _CONFIRMED
    ]
    if answers and answers[-1] is not None:
        return answers[-1]
    return edition.prior_authorization if edition is not None and edition.held else PriorAuthorization.UNKNOWN


def _flags(
    code: Code,
    edition: Edition | None,
    claims: list[Claim],
    status: CoverageStatus,
    date_of_service: dt.date,
    evaluated_on: dt.date,
    plan: PlanDocument | None,
    line: LineOfBusiness | None,
    authorization: PriorAuthorization,
) -> list[str]:
    if status in (CoverageStatus.UNKNOWN_PAYER, CoverageStatus.CODE_NOT_VALID):
        return []
    stale = edition is not None and edition.held and date_of_service > edition.relied_on_until
    old = edition is not None and edition.held and not stale and evaluated_on > edition.relied_on_until
    near = code.sunset is not None and date_of_service >= code.sunset - dt.timedelta(days=SUNSET_NEAR_DAYS)
    passed = code.sunset is not None and date_of_service >= code.sunset
    unsure = code.sunset is not None and not code.sunset_verified
    claimed = any(a.claimed_prior_authorization for c in claims for a in c.assertion if code.number in a.codes)
    applies = plan is not None and plan.in_force(date_of_service)
    raised = {
        "STALE_PAST_NEXT_REVIEW": stale,
        "KB_OLD": old,
        "CONFLICT_SECONDARY": any(claim.rank > 2 for claim in claims),
        "NEWER_VERSION_CLAIMED": any(claim.claims_newer_edition for claim in claims),
        "CODE_SUNSET_UNVERIFIED": unsure and passed,
        "CODE_SUNSET_NEAR": unsure and near and not passed,
        "LINE_OF_BUSINESS_NOT_STATED": line is None,
        "MEDICARE_FIRST": line is LineOfBusiness.MEDICARE_ADVANTAGE,
        "PLAN_NOT_CHECKED": plan is None,
        "PLAN_NOT_IN_FORCE": plan is not None and not applies,
        "ASO_SELF_FUNDED": plan is not None and bool(plan.self_funded),
        "PA_UNKNOWN": claimed and authorization not in _CONFIRMED,
        "MANDATE_NOT_CHECKED": not applies,
        "DX_NOT_DEFINED": edition is not None and edition.held,
    }
    return [flag for flag, is_raised in raised.items() if is_raised]


CHECKLIST = tuple(
    ChecklistItem(code=code, item=item)
    for code, item in (
        ("order", "Order or standing protocol, and who asked"),
        ("rationale", "Clinical rationale why CT rather than DXA, confirmed by the clinician"),
        ("existing_ct", "CT existed for another indication: accession, date, indication"),
        ("diagnosis", "Diagnosis codes chosen by the clinician (the policy defines none)"),
        ("plan", "Plan document checked; self-funded or not"),
        ("mandate", "Federal or state mandate checked"),
        ("authorization", "Payer's prior-authorization list checked, with reference number"),
        ("contract", "Contract rate checked"),
        ("fracture_assessment", "Concurrent vertebral fracture assessment attached"),
        (
            "software",
            "Software name and version recorded; not a cleared medical device unless the operator states a clearance",
        ),
        ("scanner", "Scanner-specific cut-offs and scanner stability established"),
        ("interpretation", "Interpretation signed and dated, with credentials"),
        ("notice", "Patient informed of expected non-coverage before the service, where rules ask for it"),
    )
)
