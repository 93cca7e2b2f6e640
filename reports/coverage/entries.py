"""What a coverage file can say: policy editions, lesser claims, plan documents and mandates, code numbers.

Each kind is one pydantic model and one kind of TOML file; `reports.coverage.knowledge` reads the files.
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class CoverageStatus(StrEnum):
    """What may be printed about a service, a payer and a date."""

    COVERED = "COVERED"
    COVERED_WITH_CRITERIA = "COVERED_WITH_CRITERIA"
    NOT_COVERED = "NOT_COVERED"
    CLASS_NOT_COVERED = "CLASS_NOT_COVERED"
    OUT_OF_SCOPE = "OUT_OF_SCOPE"
    NOT_LISTED = "NOT_LISTED"
    UNKNOWN_VERSION_NOT_HELD = "UNKNOWN_VERSION_NOT_HELD"
    INDETERMINATE_STALE = "INDETERMINATE_STALE"
    CODE_NOT_VALID = "CODE_NOT_VALID"
    PLAN_OVERRIDE = "PLAN_OVERRIDE"
    UNKNOWN_PAYER = "UNKNOWN_PAYER"


class PriorAuthorization(StrEnum):
    """What is known about prior authorization; a field of its own, it never changes a status."""

    NOT_STATED = "NOT_STATED"
    CONFIRMED_REQUIRED = "CONFIRMED_REQUIRED"
    CONFIRMED_NOT_REQUIRED = "CONFIRMED_NOT_REQUIRED"
    CLAIMED_REQUIRED = "CLAIMED_REQUIRED"
    NOT_MEANINGFUL = "NOT_MEANINGFUL"
    UNKNOWN = "UNKNOWN"


class LineOfBusiness(StrEnum):
    """What kind of plan the payer administers; a commercial policy does not speak for the others."""

    COMMERCIAL = "commercial"
    MEDICARE_ADVANTAGE = "medicare_advantage"
    MEDICARE = "medicare"
    MEDICAID = "medicaid"
    UTILIZATION_REVIEW_ONLY = "utilization_review_only"


# What a policy can say. The other statuses are conclusions of the engine and cannot be written into a file.
_SAYABLE = frozenset(
    {
        CoverageStatus.COVERED,
        CoverageStatus.COVERED_WITH_CRITERIA,
        CoverageStatus.NOT_COVERED,
        CoverageStatus.CLASS_NOT_COVERED,
        CoverageStatus.OUT_OF_SCOPE,
        CoverageStatus.UNKNOWN_VERSION_NOT_HELD,
    }
)
ServiceCode = Annotated[str, Field(pattern=r"^\d{4}[0-9T]$")]
"""Five characters: ``0743T``, ``77080``."""
PayerKey = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
"""Lower case, words joined by hyphens: ``cigna``."""


class Entry(BaseModel):
    """Base of everything that a file holds: immutable, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Code(Entry):
    """A service code number and its life. An unverified sunset raises a flag, it never makes the code invalid."""

    number: ServiceCode
    paraphrase: str
    valid_from: dt.date | None = None
    valid_from_verified: bool = False
    sunset: dt.date | None = None
    sunset_verified: bool = False
    sunset_note: str = ""


class Statement(Entry):
    """What one policy edition says about some codes, with one sentence of quotation.

    Where the words of an edition are not held, a society or the owner of the code set may report what it says. Such a report
    (`reported_by`, `reported_rank`) stands for the edition only where it says NOT_COVERED: nobody but the payer moves a
    status towards covered.
    """

    id: str
    codes: tuple[ServiceCode, ...]
    status: CoverageStatus
    quote: str
    section: str = ""
    wording: str = ""
    route: str | None = None
    note: str = ""
    confidence: Literal["high", "medium", "low"] = "high"
    """How sure it is that the sentence means these codes; below ``high`` a person must check."""
    reported_by: str = ""
    reported_rank: Literal[3, 4] | None = None
    reported_on: dt.date | None = None
    conflict: str = ""
    conflict_text: str = ""
    """A contradiction within the document itself, shown as a conflict."""

    @field_validator("quote")
    @classmethod
    def _one_sentence(cls, quote: str) -> str:
        if not quote.strip():
            raise ValueError("a statement needs its quotation")
        if len(quote) > 400:
            raise ValueError("quote one sentence, not a passage")
        return quote

    @field_validator("status")
    @classmethod
    def _can_be_said(cls, status: CoverageStatus) -> CoverageStatus:
        if status not in _SAYABLE:
            raise ValueError(f"{status} is concluded, not stated; use one of: {', '.join(sorted(_SAYABLE))}")
        return status

    @model_validator(mode="after")
    def _a_report_never_covers(self) -> Statement:
        if bool(self.reported_by) != (self.reported_rank is not None):
            raise ValueError("reported_by and reported_rank belong together")
        if self.reported_by and self.status is not CoverageStatus.NOT_COVERED:
            raise ValueError(
                "what others report of a document can only stand as NOT_COVERED; put the rest into a claim"
            )
        return self


class Remark(Entry):
    """A sentence of an edition that sets no status: what comes before it, who else decides, what it rests on."""

    id: str
    topic: Literal["plan", "mandate", "codes", "evidence", "vendor", "scanner", "history", "route"]
    quote: str
    section: str = ""

    @field_validator("quote")
    @classmethod
    def _one_sentence(cls, quote: str) -> str:
        if not quote.strip() or len(quote) > 400:
            raise ValueError("quote one sentence")
        return quote


class Correction(Entry):
    """A later correction of an edition file, kept so that nobody wonders why it changed."""

    date: dt.date
    text: str


class Edition(Entry):
    """One dated edition of one payer policy (provenance rank 0 or 1: the only documents that set a status)."""

    schema_: Literal["openbct-coverage-edition/1"]
    payer: PayerKey
    payer_name: str
    payer_aliases: tuple[str, ...] = ()
    policy: str
    aliases: tuple[str, ...] = ()
    title: str
    rank: Literal[0, 1]
    effective: dt.date
    next_review: dt.date | None = None
    held: bool
    lines_of_business: tuple[LineOfBusiness, ...] = (LineOfBusiness.COMMERCIAL,)
    prior_authorization: PriorAuthorization = PriorAuthorization.NOT_STATED
    note: str = ""
    retrieved: dt.date | None = None
    sha256: str | None = None
    not_listed: tuple[ServiceCode, ...] = ()
    """Codes that were looked for in everything read of the policy and not found."""
    statement: tuple[Statement, ...] = ()
    remark: tuple[Remark, ...] = ()
    correction: tuple[Correction, ...] = ()

    @model_validator(mode="after")
    def _dates_and_codes(self) -> Edition:
        if self.next_review is not None and self.next_review <= self.effective:
            raise ValueError("next_review must be later than effective")
        unread = CoverageStatus.UNKNOWN_VERSION_NOT_HELD
        if not self.held and any(s.status is not unread and not s.reported_by for s in self.statement):
            raise ValueError("an edition whose words are not held cannot carry a status")
        if self.held and any(s.status is unread or s.reported_by for s in self.statement):
            raise ValueError("an edition whose words are held has a status of its own for each statement")
        stated: dict[str, CoverageStatus] = {}
        for statement in self.statement:
            for code in statement.codes:
                if stated.setdefault(code, statement.status) is not statement.status:
                    raise ValueError(f"{code} has two statuses in one edition: {stated[code]} and {statement.status}")
                if code in self.not_listed:
                    raise ValueError(f"{code} is called not listed and has a statement")
        return self

    @property
    def key(self) -> str:
        """Name of the edition in answers, tables and file names: ``cigna-0300-2025-04-15``."""
        policy = "-".join(self.policy.lower().split())
        return f"{self.payer}-{policy}-{self.effective.isoformat()}"

    @property
    def relied_on_until(self) -> dt.date:
        """Last date of service for which the edition speaks, unless a newer one is on file: its next-review date.

        Where none is stated, a year after it took effect, the usual period of review.
        """
        return self.next_review or self.effective + dt.timedelta(days=366)

    def statements_on(self, code: str) -> tuple[Statement, ...]:
        return tuple(s for s in self.statement if code in s.codes)

    def remarks_on(self, topic: str) -> tuple[Remark, ...]:
        return tuple(r for r in self.remark if r.topic == topic)


class Assertion(Entry):
    """What a lesser source claims about some codes and which conflict that makes."""

    id: str
    codes: tuple[ServiceCode, ...]
    quote: str = ""
    paraphrase: str = ""
    """In our words, where the source was not read word for word."""
    conflict: str
    conflict_text: str
    leading: bool = True
    """False for a contradiction that changes nothing for a claim: told where all are listed, left out of a report."""
    claimed_status: CoverageStatus | None = None
    claimed_prior_authorization: PriorAuthorization | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Assertion:
        if not self.quote.strip() and not self.paraphrase.strip():
            raise ValueError("an assertion needs its quotation, or a paraphrase where the words are not held")
        return self


class Hint(Entry):
    """What a lesser source says in passing about an earlier time: a flag, nothing else."""

    id: str
    codes: tuple[ServiceCode, ...]
    since: dt.date
    until: dt.date
    flag: Annotated[str, Field(pattern=r"^[A-Z]+(_[A-Z]+)*$")]
    quote: str


class Claim(Entry):
    """A source of rank 2 to 6: it may raise flags, never set a status."""

    schema_: Literal["openbct-coverage-claim/1"]
    id: str
    payer: PayerKey
    policy: str
    title: str
    rank: Literal[2, 3, 4, 5, 6]
    claims_effective: dt.date
    claims_newer_edition: bool = False
    summary: str = ""
    """One sentence for the report; a general one takes its place where it is left out."""
    assertion: tuple[Assertion, ...] = ()
    hint: tuple[Hint, ...] = ()


class PlanDocument(Entry):
    """A member's plan document or a mandate, supplied by the user (rank 0); it supersedes the policy in both directions.

    It counts only for dates of service on which it is in force: from `date` to `until`, both included. A mandate comes before
    the plan.
    """

    kind: Literal["plan", "mandate"] = "plan"
    document: str
    date: dt.date
    until: dt.date | None = None
    supplied_by: str
    sentence: str
    status: Literal["COVERED", "COVERED_WITH_CRITERIA", "NOT_COVERED"]
    codes: tuple[ServiceCode, ...]
    self_funded: bool | None = None

    @field_validator("document", "supplied_by", "sentence")
    @classmethod
    def _says_something(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("must not be empty: a plan counts only with its name, its sentence and who supplied it")
        return text

    @model_validator(mode="after")
    def _dates_in_order(self) -> PlanDocument:
        if self.until is not None and self.until < self.date:
            raise ValueError("until must not be earlier than date")
        return self

    def in_force(self, day: dt.date) -> bool:
        """Whether the document speaks for a date of service."""
        return self.date <= day and (self.until is None or day <= self.until)

    def speaks_for(self, cpt: str, day: dt.date) -> bool:
        """Whether the document decides on a code on a date of service."""
        return cpt in self.codes and self.in_force(day)


class Contradiction(Entry):
    """Two statements that cannot both be right, on one or two documents."""

    id: str
    kind: str
    severity: Literal["high", "medium", "low"]
    between: tuple[str, ...]
    """Identifiers of statements, remarks, assertions or facts."""
    text: str
