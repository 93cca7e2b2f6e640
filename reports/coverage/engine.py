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
    PlanDocument,
    PriorAuthorization,
    Statement,
)
from reports.coverage.wording import coverage_text, warning_text

SUNSET_NEAR_DAYS = 90


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
    text: str
    knowledge_version: str


def evaluate(
    cpt: str,
    *,
    payer: str,
    date_of_service: dt.date,
    knowledge: Knowledge,
    plan: PlanDocument | None = None,
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
        A plan document in force on the date of service; it supersedes the policy in both directions.
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
    payer_key = payer.strip().lower()
    editions = knowledge.editions_of(payer_key)
    edition = _in_force(editions, date_of_service)
    statements = edition.statements_on(cpt) if edition else ()
    status, last_known = _policy_status(editions, edition, statements, date_of_service)
    claims = _claims_against(knowledge, payer_key, cpt, date_of_service, edition)
    evaluated_on = evaluated_on or dt.date.today()

    invalid = code.valid_from is not None and date_of_service < code.valid_from
    invalid = invalid or (code.sunset_verified and code.sunset is not None and date_of_service >= code.sunset)
    determination: Literal["primary", "plan", "none"] = "none"
    plan_status: CoverageStatus | None = None
    if invalid:
        status, last_known, claims = CoverageStatus.CODE_NOT_VALID, None, []
    elif plan is not None and cpt in plan.codes:
        plan_status, status, determination = CoverageStatus(plan.status), CoverageStatus.PLAN_OVERRIDE, "plan"
    elif edition is not None and edition.held and status is not CoverageStatus.NOT_LISTED:
        determination = "primary"

    sources = tuple(_source(edition, s) for s in statements) if edition is not None and not invalid else ()
    if determination == "plan" and plan is not None:
        plan_source = Source(id="plan", document=plan.document, rank=0, quote=plan.sentence, effective=plan.date)
        sources = (plan_source, *sources)
    route = next((s.route for s in statements if s.route), None)
    flags = _flags(code, edition, claims, status, date_of_service, evaluated_on, plan)
    payer_name = edition.payer_name if edition else (editions[0].payer_name if editions else payer)
    facts: dict[str, Any] = {
        "cpt": cpt,
        "payer": payer_name,
        "policy": edition.policy if edition else (editions[0].policy if editions else None),
        "effective": edition.effective if edition else None,
        "review": edition.next_review if edition else None,
        "wording": next((s.wording for s in statements if s.wording), ""),
        "route": route,
        "date_of_service": date_of_service,
        "code": code,
        "claim": claims[0] if claims else None,
        "plan": plan,
        "knowledge_date": knowledge.as_of,
    }
    return Coverage(
        cpt=cpt,
        status=status,
        last_known_status=last_known,
        plan_status=plan_status,
        payer=payer_name,
        policy=facts["policy"],
        policy_effective=facts["effective"],
        policy_next_review=facts["review"],
        date_of_service=date_of_service,
        evaluated_on=evaluated_on,
        determination=determination,
        prior_authorization=_prior_authorization(edition),
        warnings=tuple(Warning_(code=flag, text=warning_text(flag, facts)) for flag in flags),
        sources=sources,
        conflicts=tuple(_conflicts(claims, cpt)),
        checklist=_CHECKLIST,
        route=route,
        text=coverage_text(status, flags, facts),
        knowledge_version=knowledge.version,
    )


def _in_force(editions: tuple[Edition, ...], date_of_service: dt.date) -> Edition | None:
    """The newest edition effective on or before the date of service."""
    return next((e for e in reversed(editions) if e.effective <= date_of_service), None)


def _policy_status(
    editions: tuple[Edition, ...], edition: Edition | None, statements: tuple[Statement, ...], date_of_service: dt.date
) -> tuple[CoverageStatus, CoverageStatus | None]:
    if not editions:
        return CoverageStatus.UNKNOWN_PAYER, None
    if edition is None or not edition.held:
        return CoverageStatus.UNKNOWN_VERSION_NOT_HELD, None
    status = statements[0].status if statements else CoverageStatus.NOT_LISTED
    # The next-review date itself still belongs to the edition. A newer edition would have been chosen as the one in force.
    if edition.next_review is not None and date_of_service > edition.next_review:
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
            and (edition is None or claim.claims_effective > edition.effective)
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


def _prior_authorization(edition: Edition | None) -> PriorAuthorization:
    return edition.prior_authorization if edition is not None and edition.held else PriorAuthorization.UNKNOWN


def _flags(
    code: Code,
    edition: Edition | None,
    claims: list[Claim],
    status: CoverageStatus,
    date_of_service: dt.date,
    evaluated_on: dt.date,
    plan: PlanDocument | None,
) -> list[str]:
    if status in (CoverageStatus.UNKNOWN_PAYER, CoverageStatus.CODE_NOT_VALID):
        return []
    flags = []
    if edition is not None and edition.next_review is not None:
        if date_of_service > edition.next_review:
            flags.append("STALE_PAST_NEXT_REVIEW")
        elif evaluated_on > edition.next_review:
            flags.append("KB_OLD")
    if claims:
        flags.append("CONFLICT_SECONDARY")
    if any(claim.claims_newer_edition for claim in claims):
        flags.append("NEWER_VERSION_CLAIMED")
    if code.sunset is not None and not code.sunset_verified:
        if date_of_service >= code.sunset:
            flags.append("CODE_SUNSET_UNVERIFIED")
        elif date_of_service >= code.sunset - dt.timedelta(days=SUNSET_NEAR_DAYS):
            flags.append("CODE_SUNSET_NEAR")
    if plan is None:
        flags.append("PLAN_NOT_CHECKED")
    elif plan.self_funded:
        flags.append("ASO_SELF_FUNDED")
    return flags


_CHECKLIST = tuple(
    ChecklistItem(item=item)
    for item in (
        "Order or standing protocol, and who asked",
        "Clinical rationale why CT rather than DXA, confirmed by the clinician",
        "CT existed for another indication: accession, date, indication",
        "Diagnosis codes chosen by the clinician (the policy defines none)",
        "Plan document checked; self-funded or not",
        "Federal or state mandate checked",
        "Payer's prior-authorization list checked, with reference number",
        "Concurrent vertebral fracture assessment attached",
        "Software name and version recorded; not a cleared medical device unless the operator states a clearance",
        "Scanner-specific cut-offs and scanner stability established",
        "Interpretation signed and dated, with credentials",
        "Patient informed of expected non-coverage before the service, where rules ask for it",
    )
)
