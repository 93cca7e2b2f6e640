"""The sentences that a report prints about coverage: one template for each status and each flag."""

from __future__ import annotations

from typing import Any

from reports.coverage.knowledge import Claim, CoverageStatus, PriorAuthorization

CLOSING = (
    "Not a guarantee of payment or denial; benefits are decided by the plan document in force on the date of service."
)

_STATUS_TEXT = {
    CoverageStatus.NOT_COVERED: (
        "{cpt}: {wording} under {payer} policy {policy} (effective {effective}), for date of service {date_of_service}. "
        "Prior authorization: {authorization_words}."
    ),
    CoverageStatus.COVERED: (
        "{cpt}: covered under {payer} policy {policy} (effective {effective}), for date of service {date_of_service}. "
        "Prior authorization: {authorization_words}."
    ),
    CoverageStatus.COVERED_WITH_CRITERIA: (
        "{cpt}: covered under {payer} policy {policy} (effective {effective}) if its criteria are met, for date of "
        "service {date_of_service}. Check each criterion in the policy. Prior authorization: {authorization_words}."
    ),
    CoverageStatus.INDETERMINATE_STALE: (
        "{cpt}: coverage not verified for date of service {date_of_service}. The newest payer document on file ({payer} "
        "policy {policy}, effective {effective}) {review_words} and stated: {wording}. "
        "Check with the payer."
    ),
    CoverageStatus.UNKNOWN_VERSION_NOT_HELD: (
        "{cpt}: the edition of {payer} policy {policy} in force on {date_of_service} is not on file. "
        "No coverage statement is made. Ask the payer for the edition in force on that date."
    ),
    CoverageStatus.CLASS_NOT_COVERED: (
        "{cpt} is not listed in {payer} policy {policy} (effective {effective}); a general statement of the policy reads "
        "as not covered ({confidence} confidence). Confirm with the payer."
    ),
    CoverageStatus.NOT_LISTED: (
        "{cpt}: the documents of {payer} on file make no statement on this code{line_words}. Ask the payer."
    ),
    CoverageStatus.UNKNOWN_PAYER: "{cpt}: no coverage information on file for {payer}. Ask the payer.",
}
_REPORTED_TEXT = (
    "{cpt}: reported as {wording}, under {payer} policy {policy}, for date of service {date_of_service}. This is the word of "
    "{reported_by} (rank {reported_rank}), not of the payer: the payer's own document is not on file. Obtain it before "
    "relying on this. Prior authorization: {authorization_words}."
)

_WARNING_TEXT = {
    "STALE_PAST_NEXT_REVIEW": "The newest edition on file {review_words}, before the date of service.",
    "VERSION_NOT_HELD": "The words of the edition in force on the date of service are not on file.",
    "REPORTED_NOT_READ": "What is said of the payer's document is the word of {reported_by}; the document was not read.",
    "READ_BY_INFERENCE": (
        "The sentence takes in this code by what the code is ({confidence} confidence), not by its number; a person must check."
    ),
    "KB_OLD": (
        "The edition on file {review_words}; a retroactive correction may exist. Information last reviewed {knowledge_date}."
    ),
    "CONFLICT_SECONDARY": "A third-party summary says otherwise; it cannot set a status and is shown as a conflict.",
    "NEWER_VERSION_CLAIMED": (
        "A third party claims a newer edition (effective {claim_effective}); no payer document for it is on file."
    ),
    "CODE_SUNSET_NEAR": "{cpt} is a temporary code with a published sunset of {sunset}; check for extension or replacement.",
    "CODE_SUNSET_UNVERIFIED": (
        "{cpt} is a temporary code whose published sunset ({sunset}) has passed; whether it was extended is not verified."
    ),
    "CODE_START_UNVERIFIED": "The first day of {cpt} ({valid_from}) is not verified.",
    "SECONDARY_CLAIMS_EXPERIMENTAL": (
        "A third-party article calls the earlier version 'experimental and investigational'; that is a hint, not a status."
    ),
    "VENDOR_GUIDELINE": "In certain markets a delegated vendor's guideline may decide instead; ask which one applies.",
    "PLAN_NOT_CHECKED": "The member's plan document always supersedes the policy and has not been checked.",
    "PLAN_NOT_IN_FORCE": (
        "A document that was given ({plan_dates}) is not in force on the date of service and was not applied."
    ),
    "ASO_SELF_FUNDED": "Self-funded plan: the plan document decides, and may exclude the service or add it; obtain it.",
    "LINE_OF_BUSINESS_NOT_STATED": (
        "Whether the plan is commercial, Medicare Advantage or Medicaid was not stated; the payer's own policy was read."
    ),
    "DATE_OF_SERVICE_ASSUMED": "No date of service was given; {date_of_service} was taken.",
    "MEDICARE_FIRST": "Medicare Advantage: national and local Medicare determinations come before the policy of {asked_payer}.",
    "MANDATE_NOT_CHECKED": "A federal or state mandate may supersede the policy and has not been checked.",
    "DX_NOT_DEFINED": "No diagnosis codes are on file for the policy; the clinician chooses them.",
    "CHECKLIST_INCOMPLETE": "Not all documentation that a claim needs is there; see the checklist.",
    "PA_UNKNOWN": "Prior authorization is claimed by a third party and not confirmed; ask the payer.",
}

_NEXT_STEP = {
    CoverageStatus.NOT_COVERED: "Do not expect payment; check the member's plan document, which may say otherwise.",
    CoverageStatus.COVERED: "Check the member's plan document and prior authorization.",
    CoverageStatus.COVERED_WITH_CRITERIA: "Check each criterion, the member's plan document and prior authorization.",
    CoverageStatus.CLASS_NOT_COVERED: "Ask the payer whether the general statement takes in this code.",
    CoverageStatus.OUT_OF_SCOPE: "{route_words}",
    CoverageStatus.NOT_LISTED: "Ask the payer which document governs this code for this line of business.",
    CoverageStatus.UNKNOWN_VERSION_NOT_HELD: (
        "Obtain the edition of {payer} policy {policy} in force on {date_of_service} and add it as a file."
    ),
    CoverageStatus.INDETERMINATE_STALE: (
        "Obtain the current edition of {payer} policy {policy} before billing, and add it as a file."
    ),
    CoverageStatus.CODE_NOT_VALID: "Use the code that was valid on the date of service.",
    CoverageStatus.PLAN_OVERRIDE: "Keep the document with the claim.",
    CoverageStatus.UNKNOWN_PAYER: "Obtain the payer's policy and add it as a file; payers on file: {known_payers}.",
}

_AUTHORIZATION_WORDS = {
    PriorAuthorization.NOT_STATED: "not stated in the policy",
    PriorAuthorization.CONFIRMED_REQUIRED: "required, as confirmed by the payer",
    PriorAuthorization.CONFIRMED_NOT_REQUIRED: "not required, as confirmed by the payer",
    PriorAuthorization.CLAIMED_REQUIRED: "claimed by a third party, not confirmed",
    PriorAuthorization.NOT_MEANINGFUL: "not meaningful for a service that is not covered",
    PriorAuthorization.UNKNOWN: "not known",
}


_SAID_IN_TEXT = (
    "DATE_OF_SERVICE_ASSUMED",
    "MEDICARE_FIRST",
    "CODE_SUNSET_NEAR",
    "CODE_SUNSET_UNVERIFIED",
    "ASO_SELF_FUNDED",
    "PLAN_NOT_IN_FORCE",
    "KB_OLD",
)
"""Flags whose sentence belongs to what a report prints."""


def next_step(status: CoverageStatus, flags: list[str], facts: dict[str, Any]) -> str:
    """What a person has to do next, in one or two sentences."""
    steps = [_NEXT_STEP[status].format_map(_printable(facts))]
    if "REPORTED_NOT_READ" in flags and status is CoverageStatus.NOT_COVERED:
        steps = ["Obtain the payer's own document before relying on the report, and add it as a file."]
    if "CONFLICT_SECONDARY" in flags and status is not CoverageStatus.PLAN_OVERRIDE:
        claimed = (
            "the revision that a third party claims" if "NEWER_VERSION_CLAIMED" in flags else "what a third party says"
        )
        steps.append(f"Ask the payer about {claimed}.")
    if "CODE_SUNSET_NEAR" in flags or "CODE_SUNSET_UNVERIFIED" in flags:
        steps.append("Look the code up in the current list of temporary codes.")
    return " ".join(steps)


def warning_text(flag: str, facts: dict[str, Any]) -> str:
    """The sentence of one flag."""
    return _WARNING_TEXT[flag].format_map(_printable(facts)) if facts else _WARNING_TEXT[flag]


def coverage_text(status: CoverageStatus, flags: list[str], facts: dict[str, Any]) -> str:
    """Status, basis and what to do, as the report prints it."""
    values = _printable(facts)
    sentences: list[str] = []
    if status is CoverageStatus.PLAN_OVERRIDE:
        plan = facts["overriding"]
        kind = "plan document" if plan.kind == "plan" else "mandate"
        sentences.append(
            f"{values['cpt']}: {kind} '{plan.document}' ({plan.date.isoformat()}), supplied by {plan.supplied_by}, "
            f"states: '{plan.sentence}'."
        )
        if facts["policy"]:
            sentences.append(
                f"It supersedes {values['payer']} policy {values['policy']}"
                + (f", which states: {values['wording']}." if facts["wording"] else ".")
            )
    elif status is CoverageStatus.OUT_OF_SCOPE:
        sentences.append(f"{values['cpt']} is not governed by {values['payer']} policy {values['policy']}.")
        if facts["route"]:
            sentences.append(f"Screening DXA: see {facts['route']}; otherwise ask the payer which guideline applies.")
    elif status is CoverageStatus.NOT_COVERED and "REPORTED_NOT_READ" in flags:
        sentences.append(_REPORTED_TEXT.format_map(values))
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
        sentences.extend(_claims_text(facts["claims"], facts["cpt"]))
    sentences.extend(warning_text(flag, facts) for flag in _SAID_IN_TEXT if flag in flags)
    sentences.append(CLOSING)
    return " ".join(sentences)


def _claims_text(claims: list[Claim], cpt: str) -> list[str]:
    """What lesser sources claim: their own summaries, and one general sentence for those without."""
    sentences = [claim.summary for claim in claims if claim.summary and claim.rank > 2]
    plain = [claim for claim in claims if not claim.summary and claim.rank > 2]
    if plain:
        said = [a for a in plain[0].assertion if cpt in a.codes]
        covered = any(a.claimed_status in _COVERED for a in said)
        contradicts = any(a.claimed_prior_authorization for a in said)
        sentences.append(
            f"A third-party summary claims a revision effective {plain[0].claims_effective}"
            + (" with coverage under unnamed criteria" if covered else "")
            + ". No payer document supporting it is on file"
            + ("; it contradicts itself on prior authorization" if contradicts else "")
            + ". Obtain the payer's current policy before billing."
        )
    return list(dict.fromkeys(sentences))


_COVERED = (CoverageStatus.COVERED, CoverageStatus.COVERED_WITH_CRITERIA)


def _printable(facts: dict[str, Any]) -> dict[str, str]:
    values = {key: value if isinstance(value, str) else str(value) for key, value in facts.items() if value is not None}
    claims, code, statement = facts["claims"], facts["code"], facts["statement"]
    newer = [claim for claim in claims if claim.claims_newer_edition]
    values["claim_effective"] = newer[0].claims_effective.isoformat() if newer else ""
    values["sunset"] = code.sunset.isoformat() if code.sunset else ""
    values["valid_from"] = code.valid_from.isoformat() if code.valid_from else ""
    values["wording"] = values.get("wording") or "no statement on this code"
    values["authorization_words"] = _AUTHORIZATION_WORDS[facts["authorization"]]
    values["line_words"] = (
        f" for {facts['line_of_business']} plans".replace("_", " ") if facts["line_of_business"] else ""
    )
    values["route_words"] = "Ask the payer which guideline governs this service."
    if facts["route"]:
        values["route_words"] = (
            f"For screening read {facts['route']}; for diagnosis or monitoring ask the payer for the imaging guideline or the "
            "plan that governs it."
        )
    values["review_words"] = f"was due for review on {facts['review']}" if facts["review"] else "states no review date"
    values["confidence"] = statement.confidence if statement is not None else ""
    values["reported_by"] = statement.reported_by if statement is not None else ""
    values["reported_rank"] = str(statement.reported_rank) if statement is not None else ""
    values["plan_dates"] = "; ".join(
        f"from {plan.date.isoformat()}" + (f" to {plan.until.isoformat()}" if plan.until else "")
        for plan in (facts["plan"], facts["mandate"])
        if plan is not None and not plan.in_force(facts["date_of_service"])
    )
    return {"policy": "", "effective": "", "review": "", **values}
