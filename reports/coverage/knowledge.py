"""The coverage knowledge base: code numbers, policy editions and lesser claims, read from human-editable TOML files.

Each edition of a payer policy is one file in ``data/editions``; each lesser source one file in ``data/claims``. A user adds
an edition or a payer by adding a file to a folder of their own (`load_knowledge(extra=...)`).
"""

from __future__ import annotations

import datetime as dt
import tomllib
from enum import StrEnum
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

_Model = TypeVar("_Model", bound=BaseModel)


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


class KnowledgeError(ValueError):
    """A knowledge file is wrong; the message names the file, the field and what is expected."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Code(_Entry):
    """A service code number and its life. An unverified sunset raises a flag, it never makes the code invalid."""

    number: ServiceCode
    paraphrase: str
    valid_from: dt.date | None = None
    valid_from_verified: bool = False
    sunset: dt.date | None = None
    sunset_verified: bool = False
    sunset_note: str = ""


class Statement(_Entry):
    """What one policy edition says about some codes, with one sentence of quotation."""

    id: str
    codes: tuple[ServiceCode, ...]
    status: CoverageStatus
    quote: str
    section: str = ""
    wording: str = ""
    route: str | None = None
    note: str = ""

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


class Correction(_Entry):
    """A later correction of an edition file, kept so that nobody wonders why it changed."""

    date: dt.date
    text: str


class Edition(_Entry):
    """One dated edition of one payer policy (provenance rank 0 or 1: the only documents that set a status)."""

    schema_: Literal["openbct-coverage-edition/1"]
    payer: PayerKey
    payer_name: str
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
    statement: tuple[Statement, ...] = ()
    correction: tuple[Correction, ...] = ()

    @model_validator(mode="after")
    def _dates_and_codes(self) -> Edition:
        if self.next_review is not None and self.next_review <= self.effective:
            raise ValueError("next_review must be later than effective")
        if not self.held and any(s.status is not CoverageStatus.UNKNOWN_VERSION_NOT_HELD for s in self.statement):
            raise ValueError("an edition whose words are not held cannot carry a status")
        if self.held and any(s.status is CoverageStatus.UNKNOWN_VERSION_NOT_HELD for s in self.statement):
            raise ValueError("an edition whose words are held has a status for each statement")
        stated: dict[str, CoverageStatus] = {}
        for statement in self.statement:
            for code in statement.codes:
                if stated.setdefault(code, statement.status) is not statement.status:
                    raise ValueError(f"{code} has two statuses in one edition: {stated[code]} and {statement.status}")
        return self

    @property
    def relied_on_until(self) -> dt.date:
        """Last date of service for which the edition speaks, unless a newer one is on file: its next-review date.

        Where none is stated, a year after it took effect, the usual period of review.
        """
        return self.next_review or self.effective + dt.timedelta(days=366)

    def statements_on(self, code: str) -> tuple[Statement, ...]:
        return tuple(s for s in self.statement if code in s.codes)


class Assertion(_Entry):
    """What a lesser source claims about some codes and which conflict that makes."""

    id: str
    codes: tuple[ServiceCode, ...]
    quote: str
    conflict: str
    conflict_text: str
    claimed_status: CoverageStatus | None = None
    claimed_prior_authorization: PriorAuthorization | None = None


class Claim(_Entry):
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


class PlanDocument(_Entry):
    """A member's plan document supplied by the user (rank 0); it supersedes the policy in both directions.

    It counts only for dates of service on which it is in force: from `date` to `until`, both included.
    """

    document: str
    date: dt.date
    until: dt.date | None = None
    supplied_by: str
    sentence: str
    status: Literal["COVERED", "COVERED_WITH_CRITERIA", "NOT_COVERED"]
    codes: tuple[ServiceCode, ...]
    self_funded: bool | None = None

    @model_validator(mode="after")
    def _dates_in_order(self) -> PlanDocument:
        if self.until is not None and self.until < self.date:
            raise ValueError("until must not be earlier than date")
        return self

    def in_force(self, day: dt.date) -> bool:
        """Whether the document speaks for a date of service."""
        return self.date <= day and (self.until is None or day <= self.until)


class Knowledge(_Entry):
    """Everything on file."""

    version: str
    as_of: dt.date
    codes: tuple[Code, ...]
    editions: tuple[Edition, ...]
    claims: tuple[Claim, ...]

    def payers(self) -> tuple[str, ...]:
        return tuple(sorted({e.payer for e in self.editions}))

    def code(self, number: str) -> Code | None:
        return next((c for c in self.codes if c.number == number), None)

    def editions_of(self, payer: str, line: LineOfBusiness | None = None) -> tuple[Edition, ...]:
        """Editions of one payer, oldest first; with `line`, those that speak for that line of business."""
        mine = (e for e in self.editions if e.payer == payer and (line is None or line in e.lines_of_business))
        return tuple(sorted(mine, key=lambda e: e.effective))


def read_entry(model: type[_Model], source: Traversable | Path) -> _Model:
    """One TOML file as `model`; KnowledgeError names the file, the field and what is expected."""
    try:
        content = tomllib.loads(source.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise KnowledgeError(f"{source.name}: cannot be read as TOML: {error}") from error
    if "schema" in content:
        content["schema_"] = content.pop("schema")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = []
        for problem in error.errors()[:5]:
            where = ".".join(str(part) for part in problem["loc"]).replace("schema_", "schema")
            problems.append(f"{where}: {problem['msg']}" if where else problem["msg"])
        more = len(error.errors()) - len(problems)
        raise KnowledgeError(
            f"{source.name}: {'; '.join(problems)}" + (f"; and {more} more" if more else "")
        ) from error


class _CodeFile(_Entry):
    schema_: Literal["openbct-coverage-codes/1"]
    version: str
    as_of: dt.date
    code: tuple[Code, ...]


def load_plan(path: Path) -> PlanDocument:
    """Read a plan document file (TOML).

    Raises
    ------
    KnowledgeError
        If the file is not a valid plan document; the message names the field.
    """
    return read_entry(PlanDocument, path)


def load_knowledge(extra: Path | None = None) -> Knowledge:
    """The shipped knowledge base, with the files that a user keeps in the folder `extra`.

    Parameters
    ----------
    extra : Path, optional
        Folder with TOML files of editions, claims and further service codes, in any subfolders; each names its kind by
        ``schema``.

    Raises
    ------
    KnowledgeError
        If a file is wrong, two editions of one policy have the same date, or a payer has two policies for one line of
        business.
    """
    data = resources.files("reports.coverage") / "data"
    shipped = read_entry(_CodeFile, data / "codes.toml")
    codes = {code.number: code for code in shipped.code}
    editions = [read_entry(Edition, f) for f in _toml_files(data / "editions")]
    claims = [read_entry(Claim, f) for f in _toml_files(data / "claims")]
    if extra is not None:
        if not extra.is_dir():
            raise KnowledgeError(f"{extra.name}: no such folder of coverage files")
        for file in sorted(extra.rglob("*.toml")):
            kind = _kind_of(file)
            if kind is Edition:
                editions.append(read_entry(Edition, file))
            elif kind is Claim:
                claims.append(read_entry(Claim, file))
            else:
                codes |= {code.number: code for code in read_entry(_CodeFile, file).code}
    _check_together(editions)
    return Knowledge(
        version=shipped.version,
        as_of=shipped.as_of,
        codes=tuple(codes.values()),
        editions=tuple(editions),
        claims=tuple(claims),
    )


_KINDS: dict[str, type[_Entry]] = {
    "openbct-coverage-edition/1": Edition,
    "openbct-coverage-claim/1": Claim,
    "openbct-coverage-codes/1": _CodeFile,
}


def _kind_of(file: Path) -> type[_Entry]:
    try:
        schema = tomllib.loads(file.read_text(encoding="utf-8")).get("schema")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise KnowledgeError(f"{file.name}: cannot be read as TOML: {error}") from error
    if schema not in _KINDS:
        raise KnowledgeError(f"{file.name}: schema: is {schema!r}; must be one of: {', '.join(_KINDS)}")
    return _KINDS[schema]


def _check_together(editions: list[Edition]) -> None:
    """Each date must have one edition: no two of the same date, no two policies of a payer for one line of business."""
    seen: set[tuple[str, str, dt.date]] = set()
    policies: dict[tuple[str, LineOfBusiness], str] = {}
    for edition in editions:
        key = (edition.payer, edition.policy, edition.effective)
        if key in seen:
            raise KnowledgeError(f"two editions of {edition.payer} {edition.policy} effective {edition.effective}")
        seen.add(key)
        for line in edition.lines_of_business:
            if policies.setdefault((edition.payer, line), edition.policy) != edition.policy:
                raise KnowledgeError(
                    f"two policies of {edition.payer} for {line}: {policies[edition.payer, line]} and {edition.policy}"
                )


def _toml_files(folder: Traversable) -> list[Traversable]:
    return sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
