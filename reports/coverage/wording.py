"""The sentences that a report prints about coverage: one template for each status and each flag."""

from __future__ import annotations

from typing import Any

from reports.coverage.knowledge import CoverageStatus

CLOSING = (
    "Not a guarantee of payment or denial; benefits are decided by the plan document in force on the date of service."
)

_STATUS_TEXT = {
    CoverageStatus.NOT_COVERED: (
        "{cpt}: {wording} under {payer} policy {policy} (effective {effective}), for date of service {date_of_service}. "
        "Prior authorization: not stated in the policy."
    ),
    CoverageStatus.COVERED: (
        "{cpt}: covered under {payer} policy {policy} (effective {effective}), for date of service {date_of_service}."
    ),
    CoverageStatus.COVERED_WITH_CRITERIA: (
        "{cpt}: covered under {payer} policy {policy} (effective {effective}) if its criteria are met, for date of "
        "service {date_of_service}. Check each criterion in the policy."
    ),
    CoverageStatus.INDETERMINATE_STALE: (
        "{cpt}: coverage not verified for date of service {date_of_service}. The newest payer document on file ({payer} "
        "policy {policy}, effective {effective}) was due for review on {review} and stated: {wording}. "
        "Check with the payer."
    ),
    CoverageStatus.UNKNOWN_VERSION_NOT_HELD: (
        "{cpt}: the edition of {payer} policy {policy} in force on {date_of_service} is not on file. "
        "No coverage statement is made. Ask the payer for the edition in force on that date."
    ),
    CoverageStatus.CLASS_NOT_COVERED: (
        "{cpt} is not listed in {payer} policy {policy} (effective {effective}); the policy's general statement on imaging "
        "other than DXA reads as not covered. Confirm with the payer."
    ),
    CoverageStatus.NOT_LISTED: (
        "{cpt}: {payer} policy {policy} (effective {effective}) makes no statement on this code. Ask the payer."
    ),
    CoverageStatus.UNKNOWN_PAYER: "{cpt}: no coverage information on file for {payer}. Ask the payer.",
}

_WARNING_TEXT = {
    "STALE_PAST_NEXT_REVIEW": "The date of service lies after the review date ({review}) of the newest edition on file.",
    "KB_OLD": "The edition on file was due for review on {review}; a retroactive correction may exist.",
    "CONFLICT_SECONDARY": "A third-party summary says otherwise; it cannot set a status and is shown as a conflict.",
    "NEWER_VERSION_CLAIMED": (
        "A third party claims a newer edition (effective {claim_effective}); no payer document for it is on file."
    ),
    "CODE_SUNSET_NEAR": "{cpt} is a temporary code with a published sunset of {sunset}; check for extension or replacement.",
    "CODE_SUNSET_UNVERIFIED": (
        "{cpt} is a temporary code whose published sunset ({sunset}) has passed; whether it was extended is not verified."
    ),
    "PLAN_NOT_CHECKED": "The member's plan document always supersedes the policy and has not been checked.",
    "ASO_SELF_FUNDED": "Self-funded plan: the plan document decides.",
}


def warning_text(flag: str, facts: dict[str, Any]) -> str:
    """The sentence of one flag."""
    return _WARNING_TEXT[flag].format_map(_printable(facts))


def coverage_text(status: CoverageStatus, flags: list[str], facts: dict[str, Any]) -> str:
    """Status, basis and what to do, as the report prints it."""
    values = _printable(facts)
    sentences: list[str] = []
    if status is CoverageStatus.PLAN_OVERRIDE:
        plan = facts["plan"]
        sentences.append(
            f"{values['cpt']}: plan document '{plan.document}' ({plan.date.isoformat()}), supplied by {plan.supplied_by}, "
            f"states: '{plan.sentence}'. It supersedes {values['payer']} policy {values['policy']}"
            + (f", which states: {values['wording']}." if facts["wording"] else ".")
        )
    elif status is CoverageStatus.OUT_OF_SCOPE:
        sentences.append(f"{values['cpt']} is not governed by {values['payer']} policy {values['policy']}.")
        if facts["route"]:
            sentences.append(f"Screening DXA: see {facts['route']}; otherwise ask the payer which guideline applies.")
    elif status is CoverageStatus.CODE_NOT_VALID:
        code = facts["code"]
        verified = "verified" if code.valid_from_verified else "start date not verified"
        until = code.sunset.isoformat() if code.sunset else "open"
        sentences.append(
            f"{values['cpt']} is not a valid code on {values['date_of_service']} "
            f"(life {code.valid_from} to {until}, {verified})."
        )
    else:
        sentences.append(_STATUS_TEXT[status].format_map(values))
    if "CONFLICT_SECONDARY" in flags:
        sentences.append(
            f"A third-party summary claims a revision effective {values['claim_effective']}"
            + (" with coverage under unnamed criteria" if _claims_coverage(facts["claim"], facts["cpt"]) else "")
            + ". No payer document supporting it is on file; it contradicts itself on prior authorization. "
            "Obtain the payer's current policy before billing."
        )
    sentences.extend(
        warning_text(flag, facts)
        for flag in ("CODE_SUNSET_NEAR", "CODE_SUNSET_UNVERIFIED", "ASO_SELF_FUNDED", "KB_OLD")
        if flag in flags
    )
    sentences.append(CLOSING)
    return " ".join(sentences)


def _claims_coverage(claim: Any, cpt: str) -> bool:
    covered = (CoverageStatus.COVERED, CoverageStatus.COVERED_WITH_CRITERIA)
    return claim is not None and any(a.claimed_status in covered for a in claim.assertion if cpt in a.codes)


def _printable(facts: dict[str, Any]) -> dict[str, str]:
    values = {key: value if isinstance(value, str) else str(value) for key, value in facts.items() if value is not None}
    claim, code = facts["claim"], facts["code"]
    values["claim_effective"] = claim.claims_effective.isoformat() if claim else ""
    values["sunset"] = code.sunset.isoformat() if code.sunset else ""
    values.setdefault("wording", "no statement on this code")
    if not values["wording"]:
        values["wording"] = "no statement on this code"
    return {"policy": "", "effective": "", "review": "", **values}
