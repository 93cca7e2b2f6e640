"""Coverage of one service on one date of service under one payer: what may be said, on whose word, and who disagrees.

The status comes from a mandate or plan document (rank 0) or the payer's dated policy edition in force (rank 1). Lesser sources
add conflicts and warnings; no path leads from them to a covered status. The one status they can give is NOT_COVERED, where an
edition is known whose words are not held and its file records what a society reports of it (determination ``none``).
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

from reports.coverage.answer import CONFIRMED, Conflict, Coverage, Source, Warning_, checklist_of
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
_UNDER_MEDICARE = frozenset({LineOfBusiness.MEDICARE_ADVANTAGE, LineOfBusiness.MEDICARE})


def evaluate(
    cpt: str,
    *,
    payer: str,
    date_of_service: dt.date | None,
    knowledge: Knowledge,
    plan: PlanDocument | None = None,
    mandate: PlanDocument | None = None,
    self_funded: bool | None = None,
    line_of_business: LineOfBusiness | None = None,
    evaluated_on: dt.date | None = None,
) -> Coverage:
    """Coverage status of one service code.

    Parameters
    ----------
    cpt : str
        Code number, for example ``"0743T"``.
    payer : str
        Payer key or name, for example ``"cigna"``.
    date_of_service : datetime.date or None
        The day of the analysis and interpretation as billed, not the day of the scan; None for the day of the evaluation, which
        a flag then says.
    knowledge : Knowledge
    plan : PlanDocument, optional
        A plan document (or, by its `kind`, a mandate); where it is in force on the date of service it supersedes the policy in
        both directions.
    mandate : PlanDocument, optional
        A federal or state mandate; it comes before the plan.
    self_funded : bool, optional
        Whether an employer funds the plan itself; by default what the plan document says.
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
    assumed, date_of_service = date_of_service is None, date_of_service or evaluated_on
    if plan is not None and plan.kind == "mandate" and mandate is None:
        plan, mandate = None, plan
    payer_key, editions = _governing(knowledge, payer, line_of_business)
    edition = _in_force(editions, date_of_service)
    statements = edition.statements_on(cpt) if edition else ()
    status, last_known = _policy_status(knowledge, payer_key, editions, edition, cpt, date_of_service)
    claims = _claims_against(knowledge, payer_key, cpt, date_of_service, edition)

    invalid = code.valid_from is not None and date_of_service < code.valid_from
    invalid = invalid or (code.sunset_verified and code.sunset is not None and date_of_service >= code.sunset)
    determination: Literal["primary", "plan", "none"] = "none"
    plan_status: CoverageStatus | None = None
    overriding = next((p for p in (mandate, plan) if p is not None and p.speaks_for(cpt, date_of_service)), None)
    if invalid:
        status, last_known, claims, overriding = CoverageStatus.CODE_NOT_VALID, None, [], None
    elif overriding is not None:
        plan_status, status, determination = CoverageStatus(overriding.status), CoverageStatus.PLAN_OVERRIDE, "plan"
    elif edition is not None and edition.held and statements:
        determination = "primary"

    sources = tuple(_source(edition, s) for s in statements) if edition is not None and not invalid else ()
    if overriding is not None:
        sources = (_plan_source(overriding), *sources)
    route = None if invalid else next((s.route for s in statements if s.route), None)
    authorization = _prior_authorization(edition, claims, cpt)
    governing_line = line_of_business
    if line_of_business is None and payer_key == MEDICARE:
        governing_line = LineOfBusiness.MEDICARE
    flags = _flags(
        code, knowledge, edition, statements, claims, status, date_of_service, evaluated_on, plan, mandate, self_funded,
        governing_line, authorization,
    )  # fmt: skip
    if assumed:
        flags.insert(0, "DATE_OF_SERVICE_ASSUMED")
    if payer_key == MEDICARE != knowledge.payer_key(payer):
        flags.append("MEDICARE_FIRST")
    named = edition or (editions[0] if editions else None)
    asked = next((e.payer_name for e in knowledge.editions_of(knowledge.payer_key(payer))), payer.strip())
    payer_name = named.payer_name if named else asked
    facts: dict[str, Any] = {
        "cpt": cpt,
        "payer": payer_name,
        "asked_payer": asked,
        "policy": named.policy if named else None,
        "effective": edition.effective if edition else None,
        "review": edition.next_review if edition else None,
        "statement": statements[0] if statements else None,
        "wording": next((s.wording for s in statements if s.wording), ""),
        "route": route,
        "date_of_service": date_of_service,
        "code": code,
        "claims": claims,
        "plan": plan,
        "mandate": mandate,
        "overriding": overriding,
        "knowledge_date": knowledge.as_of,
        "known_payers": ", ".join(knowledge.payers()),
        "line_of_business": line_of_business,
        "authorization": authorization,
    }
    leading, further = _conflicts(knowledge, claims, edition, () if invalid else statements, cpt)
    return Coverage(
        cpt=cpt,
        paraphrase=code.paraphrase,
        status=status,
        last_known_status=last_known,
        plan_status=plan_status,
        payer=payer_name,
        line_of_business=line_of_business,
        policy=facts["policy"],
        edition=edition.key if edition else None,
        policy_effective=facts["effective"],
        policy_next_review=facts["review"],
        date_of_service=date_of_service,
        evaluated_on=evaluated_on,
        determination=determination,
        confidence=statements[0].confidence if statements and edition and not invalid else None,
        prior_authorization=authorization,
        warnings=tuple(Warning_(code=flag, text=warning_text(flag, facts)) for flag in flags),
        sources=sources,
        conflicts=leading,
        further_conflicts=further,
        checklist=checklist_of(plan, mandate, authorization, date_of_service),
        route=route,
        next_step=next_step(status, flags, facts),
        text=coverage_text(status, flags, facts),
        knowledge_version=knowledge.version,
    )


def _governing(knowledge: Knowledge, payer: str, line: LineOfBusiness | None) -> tuple[str, tuple[Edition, ...]]:
    """Whose editions decide: those of the payer, or of Medicare where the plan stands under it."""
    key = knowledge.payer_key(payer)
    own = knowledge.editions_of(key)
    only_medicare = bool(own) and all(_UNDER_MEDICARE.issuperset(e.lines_of_business) for e in own)
    under_medicare = line in _UNDER_MEDICARE or (line is None and only_medicare)
    if under_medicare and key != MEDICARE:
        national = knowledge.editions_of(MEDICARE, line or LineOfBusiness.MEDICARE_ADVANTAGE)
        if national:
            return MEDICARE, national
    return key, knowledge.editions_of(key, line)


def _in_force(editions: tuple[Edition, ...], date_of_service: dt.date) -> Edition | None:
    """The newest edition effective on or before the date of service."""
    return next((e for e in reversed(editions) if e.effective <= date_of_service), None)


def _policy_status(
    knowledge: Knowledge,
    payer: str,
    editions: tuple[Edition, ...],
    edition: Edition | None,
    cpt: str,
    date_of_service: dt.date,
) -> tuple[CoverageStatus, CoverageStatus | None]:
    if not editions:
        # A payer whose editions speak for other lines of business only says nothing on this one.
        known = bool(knowledge.editions_of(payer))
        return (CoverageStatus.NOT_LISTED if known else CoverageStatus.UNKNOWN_PAYER), None
    if edition is None:
        return CoverageStatus.UNKNOWN_VERSION_NOT_HELD, None
    if cpt in edition.not_listed:
        return CoverageStatus.NOT_LISTED, None
    statements = edition.statements_on(cpt)
    if not edition.held:
        reported = any(s.reported_by for s in statements)
        return (CoverageStatus.NOT_COVERED if reported else CoverageStatus.UNKNOWN_VERSION_NOT_HELD), None
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


def _conflicts(
    knowledge: Knowledge, claims: list[Claim], edition: Edition | None, statements: tuple[Statement, ...], cpt: str
) -> tuple[tuple[Conflict, ...], tuple[Conflict, ...]]:
    """Conflicts that matter for a claim, and those that only tell how far a source can be trusted."""
    severity = {c.id: c.severity for c in knowledge.contradictions}
    said = [(claim, a) for claim in claims for a in claim.assertion if cpt in a.codes]
    found = [
        (
            assertion.leading,
            Conflict(
                id=assertion.conflict,
                claim=assertion.quote or assertion.paraphrase,
                doc=claim.id,
                document=claim.title,
                rank=claim.rank,
                severity=severity.get(assertion.conflict, "medium"),
                claimed_effective=claim.claims_effective,
                text=assertion.conflict_text,
            ),
        )
        for claim, assertion in said
    ]
    within = [
        Conflict(
            id=statement.conflict,
            claim=statement.quote,
            doc=edition.key,
            document=edition.title,
            rank=edition.rank,
            severity=severity.get(statement.conflict, "medium"),
            claimed_effective=edition.effective,
            text=statement.conflict_text,
        )
        for statement in statements
        if edition is not None and statement.conflict
    ]
    return tuple(c for leading, c in found if leading), (*(c for leading, c in found if not leading), *within)


def _source(edition: Edition, statement: Statement) -> Source:
    """The document of a statement; where a society reports it, that report with its own rank."""
    reported = bool(statement.reported_by)
    return Source(
        id=statement.id,
        doc=edition.key,
        document=f"{statement.reported_by}, on {edition.policy}" if reported else edition.title,
        rank=edition.rank if statement.reported_rank is None else statement.reported_rank,
        quote=statement.quote,
        section=statement.section,
        effective=statement.reported_on if reported else edition.effective,
        retrieved=edition.retrieved,
        sha256=edition.sha256,
        confidence=statement.confidence,
        note=statement.note,
    )


def _plan_source(plan: PlanDocument) -> Source:
    return Source(
        id=plan.kind, doc=plan.kind, document=plan.document, rank=0, quote=plan.sentence, effective=plan.date,
        note=f"supplied by {plan.supplied_by}",
    )  # fmt: skip


def _prior_authorization(edition: Edition | None, claims: list[Claim], cpt: str) -> PriorAuthorization:
    """What the edition says; the payer's own list or portal (rank 2) may confirm it. It never changes a status."""
    answers = [
        assertion.claimed_prior_authorization
        for claim in claims
        if claim.rank == 2
        for assertion in claim.assertion
        if cpt in assertion.codes and assertion.claimed_prior_authorization in CONFIRMED
    ]
    if answers and answers[-1] is not None:
        return answers[-1]
    return edition.prior_authorization if edition is not None and edition.held else PriorAuthorization.UNKNOWN


def _flags(
    code: Code,
    knowledge: Knowledge,
    edition: Edition | None,
    statements: tuple[Statement, ...],
    claims: list[Claim],
    status: CoverageStatus,
    date_of_service: dt.date,
    evaluated_on: dt.date,
    plan: PlanDocument | None,
    mandate: PlanDocument | None,
    self_funded: bool | None,
    line: LineOfBusiness | None,
    authorization: PriorAuthorization,
) -> list[str]:
    if status is CoverageStatus.CODE_NOT_VALID:
        before = code.valid_from is not None and date_of_service < code.valid_from
        return ["CODE_START_UNVERIFIED"] if before and not code.valid_from_verified else []
    held = edition is not None and edition.held
    stale = edition is not None and held and date_of_service > edition.relied_on_until
    old = edition is not None and held and not stale and evaluated_on > edition.relied_on_until
    near = code.sunset is not None and date_of_service >= code.sunset - dt.timedelta(days=SUNSET_NEAR_DAYS)
    passed = code.sunset is not None and date_of_service >= code.sunset
    unsure = code.sunset is not None and not code.sunset_verified
    claimed = any(a.claimed_prior_authorization for c in claims for a in c.assertion if code.number in a.codes)
    unknown = status is CoverageStatus.UNKNOWN_PAYER
    plans = [p for p in (plan, mandate) if p is not None]
    funded = self_funded if self_funded is not None else (plan.self_funded if plan is not None else None)
    raised = {
        "VERSION_NOT_HELD": status is CoverageStatus.UNKNOWN_VERSION_NOT_HELD,
        "REPORTED_NOT_READ": any(s.reported_by for s in statements),
        "READ_BY_INFERENCE": held and any(s.confidence != "high" for s in statements),
        "STALE_PAST_NEXT_REVIEW": stale,
        "KB_OLD": old,
        "CONFLICT_SECONDARY": any(claim.rank > 3 for claim in claims),
        "NEWER_VERSION_CLAIMED": any(claim.claims_newer_edition for claim in claims),
        "CODE_SUNSET_UNVERIFIED": unsure and passed,
        "CODE_SUNSET_NEAR": unsure and near and not passed,
        "LINE_OF_BUSINESS_NOT_STATED": line is None and not unknown,
        "PLAN_NOT_CHECKED": plan is None,
        "PLAN_NOT_IN_FORCE": any(not p.in_force(date_of_service) for p in plans),
        "ASO_SELF_FUNDED": bool(funded),
        "PA_UNKNOWN": claimed and authorization not in CONFIRMED,
        "MANDATE_NOT_CHECKED": mandate is None,
        "VENDOR_GUIDELINE": edition is not None and held and bool(edition.remarks_on("vendor")),
        "DX_NOT_DEFINED": held,
    }
    hints = [
        hint.flag
        for claim in knowledge.claims
        if edition is not None and claim.payer == edition.payer
        for hint in claim.hint
        if code.number in hint.codes and hint.since <= date_of_service <= hint.until
    ]
    return [flag for flag, is_raised in raised.items() if is_raised] + list(dict.fromkeys(hints))
