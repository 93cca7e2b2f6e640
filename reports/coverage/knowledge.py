"""The coverage knowledge base, read from human-editable TOML files.

Each edition of a payer policy is one file in ``data/editions``; each lesser source one file in ``data/claims``. A user adds
an edition or a payer by adding a file to a folder of their own (`load_knowledge(extra=...)`). Without the folder ``data`` the
program runs on and says nothing about codes and payers.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import tomllib
from collections.abc import Iterable
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from reports.coverage.entries import (
    Assertion,
    Claim,
    Code,
    Contradiction,
    Correction,
    CoverageStatus,
    Edition,
    Entry,
    Hint,
    LineOfBusiness,
    PayerKey,
    PlanDocument,
    PriorAuthorization,
    Remark,
    ServiceCode,
    Statement,
)

__all__ = [
    "NO_KNOWLEDGE",
    "Assertion",
    "Claim",
    "Code",
    "Contradiction",
    "Correction",
    "CoverageStatus",
    "Edition",
    "Hint",
    "Knowledge",
    "KnowledgeError",
    "LineOfBusiness",
    "PayerKey",
    "PlanDocument",
    "PriorAuthorization",
    "Remark",
    "ServiceCode",
    "Statement",
    "load_knowledge",
    "load_plan",
    "read_entry",
]

_Model = TypeVar("_Model", bound=BaseModel)
DESCRIPTORS = "descriptors.csv"
"""Descriptors of service codes from a user who holds a licence for them; never shipped, never written into a record."""


class KnowledgeError(ValueError):
    """A knowledge file is wrong; the message names the file, the field and what is expected."""


class Knowledge(Entry):
    """Everything on file."""

    version: str
    as_of: dt.date
    codes: tuple[Code, ...]
    editions: tuple[Edition, ...]
    claims: tuple[Claim, ...]
    contradictions: tuple[Contradiction, ...] = ()
    descriptors: dict[str, str] = Field(default_factory=dict)

    def payers(self) -> tuple[str, ...]:
        """Keys of the payers with at least one edition on file."""
        return tuple(sorted({e.payer for e in self.editions}))

    def payer_key(self, name: str) -> str:
        """The key of a payer by its key, its name or another name of it; an unknown name in the form of a key."""
        wanted = _as_key(name)
        for edition in self.editions:
            if wanted in map(_as_key, (edition.payer, edition.payer_name, *edition.payer_aliases)):
                return edition.payer
        return wanted

    def code(self, number: str) -> Code | None:
        """What is on file about a code number."""
        return next((c for c in self.codes if c.number == number), None)

    def editions_of(self, payer: str, line: LineOfBusiness | None = None) -> tuple[Edition, ...]:
        """Editions of one payer, oldest first; with `line`, those that speak for that line of business."""
        mine = (e for e in self.editions if e.payer == payer and (line is None or line in e.lines_of_business))
        return tuple(sorted(mine, key=lambda e: e.effective))


NO_KNOWLEDGE = Knowledge(version="none", as_of=dt.date(1900, 1, 1), codes=(), editions=(), claims=())
"""Nothing on file: a record made with it names no codes."""


def _as_key(name: str) -> str:
    return "-".join(name.strip().lower().split())


def read_entry(model: type[_Model], source: Traversable | Path) -> _Model:
    """One TOML file as `model`; KnowledgeError names the file, the field and what is expected."""
    content = _toml(source)
    if "schema" in content:
        content["schema_"] = content.pop("schema")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = [_explained(problem) for problem in error.errors()[:5]]
        more = len(error.errors()) - len(problems)
        raise KnowledgeError(
            f"{source.name}: {'; '.join(problems)}" + (f"; and {more} more" if more else "")
        ) from error


def _toml(source: Traversable | Path) -> dict[str, Any]:
    try:
        return tomllib.loads(source.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise KnowledgeError(
            f"{source.name}: cannot be read as TOML: it is not UTF-8 text; save it as UTF-8"
        ) from error
    except (tomllib.TOMLDecodeError, OSError) as error:
        raise KnowledgeError(f"{source.name}: cannot be read as TOML: {error}") from error


_EXPECTED = {
    r"^\d{4}[0-9T]$": "is no service code: five characters such as 0743T or 77080",
    r"^[a-z0-9]+(-[a-z0-9]+)*$": "must be lower case with hyphens, such as acme-health",
}
_PLAIN = {
    "missing": "is missing",
    "extra_forbidden": "is not a known key; look for a misspelling",
    "date_from_datetime_parsing": "must be a date, YYYY-MM-DD without quotation marks",
    "date_parsing": "must be a date, YYYY-MM-DD without quotation marks",
    "date_type": "must be a date, YYYY-MM-DD without quotation marks",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text in quotation marks",
    "tuple_type": 'must be a list in square brackets: ["0743T"]',
}


def _explained(problem: Any) -> str:
    """One mistake in words: where it is, what stands there, what is expected."""
    where = ".".join(str(part) for part in problem["loc"]).replace("schema_", "schema")
    kind, given = problem["type"], problem.get("input")
    said = _PLAIN.get(kind) or _EXPECTED.get(problem.get("ctx", {}).get("pattern", ""))
    if said is None:
        said = str(problem["msg"]).removeprefix("Value error, ")
    if isinstance(given, str | int | float) and kind not in ("missing", "extra_forbidden", "value_error"):
        said = f"{given!r}: {said}"
    return f"{where}: {said}" if where else said


class _CodeFile(Entry):
    schema_: Literal["openbct-coverage-codes/1"]
    version: str
    as_of: dt.date
    code: tuple[Code, ...]


class _ContradictionFile(Entry):
    schema_: Literal["openbct-coverage-contradictions/1"]
    contradiction: tuple[Contradiction, ...]


def load_plan(path: Path) -> PlanDocument:
    """Read a plan document or a mandate (TOML).

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
        A TOML file, or a folder with TOML files of editions, claims and further service codes, in any subfolders; each names
        its kind by ``schema``. The folder may hold ``descriptors.csv`` with descriptors that the user has a licence for.

    Raises
    ------
    KnowledgeError
        If a file is wrong or of another kind, two editions of one policy have the same date, a payer has two policies for one
        line of business, or a code is named that is not on file.
    """
    data = resources.files("reports.coverage") / "data"
    shipped = data.is_dir() and (data / "codes.toml").is_file()
    codes: dict[str, Code] = {}
    editions: list[Edition] = []
    claims: list[Claim] = []
    contradictions: tuple[Contradiction, ...] = ()
    version, as_of = NO_KNOWLEDGE.version, NO_KNOWLEDGE.as_of
    if shipped:
        file = read_entry(_CodeFile, data / "codes.toml")
        version, as_of = file.version, file.as_of
        codes = {code.number: code for code in file.code}
        editions = [read_entry(Edition, f) for f in _toml_files(data / "editions")]
        claims = [read_entry(Claim, f) for f in _toml_files(data / "claims")]
        contradictions = read_entry(_ContradictionFile, data / "contradictions.toml").contradiction
    descriptors: dict[str, str] = {}
    if extra is not None:
        for path in _files_of(extra):
            if path.name.lower() == DESCRIPTORS:
                descriptors |= _descriptors(path)
                continue
            kind = _kind_of(path)
            if kind is Edition:
                editions.append(read_entry(Edition, path))
            elif kind is Claim:
                claims.append(read_entry(Claim, path))
            else:
                codes |= {code.number: code for code in read_entry(_CodeFile, path).code}
    _check_together(editions, claims, codes)
    return Knowledge(
        version=version,
        as_of=as_of,
        codes=tuple(codes.values()),
        editions=tuple(editions),
        claims=tuple(claims),
        contradictions=contradictions,
        descriptors=descriptors,
    )


_IGNORED_ENDINGS = (".md", ".txt", ".pdf")


def _files_of(extra: Path) -> list[Path]:
    """The knowledge files at a place that the user named; anything that would be passed over in silence is an error."""
    if extra.is_file():
        return [extra]
    if not extra.is_dir():
        raise KnowledgeError(f"{extra.name}: no such folder of coverage files")
    files = []
    for path in sorted(extra.rglob("*")):
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(extra).parts):
            continue
        if path.suffix.lower() == ".toml" or path.name.lower() == DESCRIPTORS:
            files.append(path)
        elif path.suffix.lower() not in _IGNORED_ENDINGS or path.name.lower().endswith(".toml.txt"):
            raise KnowledgeError(f"{path.name}: is no coverage file; they end in .toml (and {DESCRIPTORS})")
    if not files:
        raise KnowledgeError(f"{extra.name}: holds no coverage file (.toml)")
    return files


def _descriptors(path: Path) -> dict[str, str]:
    """Descriptors by code, from a table with the columns code and descriptor."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise KnowledgeError(f"{path.name}: cannot be read as UTF-8 text") from error
    separator = max(",;\t", key=text.partition("\n")[0].count)
    rows = list(csv.reader(io.StringIO(text), delimiter=separator))
    if not rows or [cell.strip().lower() for cell in rows[0]] != ["code", "descriptor"]:
        raise KnowledgeError(f"{path.name}: the first line must name the columns code and descriptor")
    found: dict[str, str] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        code = row[0].strip().upper()
        if len(row) != 2 or len(code) != 5 or not code[:4].isdigit() or not row[1].strip():
            raise KnowledgeError(f"{path.name}: line {number}: a code such as 0743T and its descriptor are expected")
        if code in found:
            raise KnowledgeError(f"{path.name}: line {number}: {code} stands there twice")
        found[code] = row[1].strip()
    return found


_KINDS: dict[str, type[Entry]] = {
    "openbct-coverage-edition/1": Edition,
    "openbct-coverage-claim/1": Claim,
    "openbct-coverage-codes/1": _CodeFile,
}


def _kind_of(file: Path) -> type[Entry]:
    schema = _toml(file).get("schema")
    if schema not in _KINDS:
        raise KnowledgeError(f"{file.name}: schema: is {schema!r}; must be one of: {', '.join(_KINDS)}")
    return _KINDS[schema]


def _check_together(editions: list[Edition], claims: list[Claim], codes: dict[str, Code]) -> None:
    """Each date must have one edition: no two of the same date, no two policies of a payer for one line of business."""
    seen: set[tuple[str, str, dt.date]] = set()
    policies: dict[tuple[str, LineOfBusiness], Edition] = {}
    for edition in editions:
        key = (edition.payer, edition.policy, edition.effective)
        if key in seen:
            raise KnowledgeError(f"two editions of {edition.payer} {edition.policy} effective {edition.effective}")
        seen.add(key)
        for line in edition.lines_of_business:
            first = policies.setdefault((edition.payer, line), edition)
            if first.policy != edition.policy:
                same = edition.policy in first.aliases or first.policy in edition.aliases
                remedy = f"; both are names of one policy: write {first.policy}" if same else ""
                raise KnowledgeError(
                    f"two policies of {edition.payer} for {line}: {first.policy} and {edition.policy}{remedy}"
                )
        for statement in edition.statement:
            _check_codes(f"{edition.key}, statement {statement.id}", statement.codes, codes)
    for claim in claims:
        for assertion in claim.assertion:
            _check_codes(f"claim {claim.id}, assertion {assertion.id}", assertion.codes, codes)


def _check_codes(where: str, named: Iterable[str], codes: dict[str, Code]) -> None:
    unknown = [code for code in named if code not in codes]
    if unknown:
        raise KnowledgeError(
            f"{where}: {', '.join(unknown)} not on file; correct the number, or add a file with schema openbct-coverage-codes/1"
        )


def _toml_files(folder: Traversable) -> list[Traversable]:
    return sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
