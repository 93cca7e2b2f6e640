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
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

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


class KnowledgeError(ValueError):
    """A knowledge file is wrong; the message names the file, the field and what is expected."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Code(_Entry):
    """A service code number and its life. An unverified sunset raises a flag, it never makes the code invalid."""

    number: str
    paraphrase: str
    valid_from: dt.date | None = None
    valid_from_verified: bool = False
    sunset: dt.date | None = None
    sunset_verified: bool = False
    sunset_note: str = ""


class Statement(_Entry):
    """What one policy edition says about some codes, with one sentence of quotation."""

    id: str
    codes: tuple[str, ...]
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


class Edition(_Entry):
    """One dated edition of one payer policy (provenance rank 0 or 1: the only documents that set a status)."""

    schema_: Literal["openbct-coverage-edition/1"]
    payer: str
    payer_name: str
    policy: str
    aliases: tuple[str, ...] = ()
    title: str
    rank: Literal[0, 1]
    effective: dt.date
    next_review: dt.date | None = None
    held: bool
    prior_authorization: PriorAuthorization = PriorAuthorization.NOT_STATED
    note: str = ""
    retrieved: dt.date | None = None
    sha256: str | None = None
    statement: tuple[Statement, ...] = ()

    @model_validator(mode="after")
    def _dates_and_codes(self) -> Edition:
        if self.next_review is not None and self.next_review <= self.effective:
            raise ValueError("next_review must be later than effective")
        if not self.held and any(s.status is not CoverageStatus.UNKNOWN_VERSION_NOT_HELD for s in self.statement):
            raise ValueError("an edition whose words are not held cannot carry a status")
        return self

    def statements_on(self, code: str) -> tuple[Statement, ...]:
        return tuple(s for s in self.statement if code in s.codes)


class Assertion(_Entry):
    """What a lesser source claims about some codes and which conflict that makes."""

    id: str
    codes: tuple[str, ...]
    quote: str
    conflict: str
    conflict_text: str
    claimed_status: CoverageStatus | None = None
    claimed_prior_authorization: PriorAuthorization | None = None


class Claim(_Entry):
    """A source of rank 2 to 6: it may raise flags, never set a status."""

    schema_: Literal["openbct-coverage-claim/1"]
    id: str
    payer: str
    policy: str
    title: str
    rank: Literal[2, 3, 4, 5, 6]
    claims_effective: dt.date
    claims_newer_edition: bool = False
    assertion: tuple[Assertion, ...] = ()


class PlanDocument(_Entry):
    """A member's plan document supplied by the user (rank 0); it supersedes the policy in both directions."""

    document: str
    date: dt.date
    supplied_by: str
    sentence: str
    status: Literal["COVERED", "COVERED_WITH_CRITERIA", "NOT_COVERED"]
    codes: tuple[str, ...]
    self_funded: bool | None = None


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

    def editions_of(self, payer: str) -> tuple[Edition, ...]:
        """Editions of one payer, oldest first."""
        return tuple(sorted((e for e in self.editions if e.payer == payer), key=lambda e: e.effective))


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
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise KnowledgeError(f"{source.name}: {where}: {first['msg']}") from error


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
    """The shipped knowledge base, with the editions and claims that a user keeps in the folder `extra`.

    Parameters
    ----------
    extra : Path, optional
        Folder with subfolders ``editions`` and ``claims``, or with such files directly (told apart by their schema).

    Raises
    ------
    KnowledgeError
        If a file is wrong, or two editions of one policy have the same date.
    """
    data = resources.files("reports.coverage") / "data"
    codes = read_entry(_CodeFile, data / "codes.toml")
    editions = [read_entry(Edition, f) for f in _toml_files(data / "editions")]
    claims = [read_entry(Claim, f) for f in _toml_files(data / "claims")]
    if extra is not None:
        if not extra.is_dir():
            raise KnowledgeError(f"{extra.name}: no such folder of coverage files")
        for file in sorted(extra.rglob("*.toml")):
            if "openbct-coverage-claim/" in file.read_text(encoding="utf-8", errors="replace"):
                claims.append(read_entry(Claim, file))
            else:
                editions.append(read_entry(Edition, file))
    seen: set[tuple[str, str, dt.date]] = set()
    for edition in editions:
        key = (edition.payer, edition.policy, edition.effective)
        if key in seen:
            raise KnowledgeError(f"two editions of {edition.payer} {edition.policy} effective {edition.effective}")
        seen.add(key)
    return Knowledge(
        version=codes.version, as_of=codes.as_of, codes=codes.code, editions=tuple(editions), claims=tuple(claims)
    )


def _toml_files(folder: Traversable) -> list[Traversable]:
    return sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
