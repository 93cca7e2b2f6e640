"""A user's own code list against the coding facts that circulate wrongly: taxonomy, diagnoses, services, modifiers.

Codes are found line by line in any text or CSV file; what stands beside a code is taken as what the user believes it to be and
is compared, word by word, with what the code is and with known wrong claims. Nothing here chooses a code for anybody.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from enum import StrEnum
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from reports.coverage.knowledge import Code, Knowledge, KnowledgeError, read_entry

Kind = Literal["taxonomy", "icd10cm", "service", "modifier"]


class AuditVerdict(StrEnum):
    """What is to be said about one entry of the user's list."""

    OK = "ok"
    WRONG = "wrong"
    CHECK = "check"
    UNKNOWN = "unknown"


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Facts(_Entry):
    kind: Kind
    source: str
    state: Literal["valid", "nonexistent", "invalid", "header", "not_applicable"] = "valid"
    meanings: dict[str, str]


class _MixUp(_Entry):
    number: str
    claim: str
    correction: str
    source: str
    mild: bool = False


class _AuditFile(_Entry):
    schema_: Literal["openbct-coverage-audit/1"]
    version: str
    sources: dict[str, str]
    fact: tuple[_Facts, ...]
    mix_up: tuple[_MixUp, ...]


class AuditRow(BaseModel):
    """One code of the user's list and what is to be said about it."""

    model_config = ConfigDict(frozen=True)

    line: int
    code: str
    kind: Kind
    label: str
    """What the user's list says about the code."""
    verdict: AuditVerdict
    text: str
    """What it is, and what is right instead."""
    source: str | None = None


_SHAPES: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("taxonomy", re.compile(r"(?<![\w.])\d{3}[A-Z0-9]{6}X(?![\w.])")),
    ("service", re.compile(r"(?<![\w./-])(?<!\d,)\d{4}[0-9T](?!\w|[.,]\d|-\d)")),
    ("icd10cm", re.compile(r"(?<![\w.])[A-TV-Z]\d[0-9A-Z]\.[0-9A-Zx]{1,4}-?(?!\w)")),
)
_BARE_DIAGNOSIS = re.compile(r"^[\W_]*([A-TV-Z]\d[0-9A-Z][0-9A-Z]{1,4})(?!\w)")
_CELL = re.compile(r"\s*[\t;|,]\s*")
_SEVERAL_MODIFIERS = re.compile(r"^[\W_]*(?:[Mm]odifiers?\s+)?([A-Z0-9]{2}(?:\s*[,/]\s*[A-Z0-9]{2})+)(?!\w)")
_BARE_MODIFIER = re.compile(r"^[\W_]*(?:modifier\s+)?([A-Z0-9]{2})(?=\s*(?:[,;:|\t\"]|$|[–-]\s))", re.IGNORECASE)
_NEEDS_SEVENTH = re.compile(r"^(M80|M48\.5|M84\.[3-6]|[ST]\d\d)")
_WORD = re.compile(r"[a-zA-Z]{3,}|\d+D|CT|MR")
_EMPTY_WORDS = frozenset(
    (
        "and",
        "for",
        "the",
        "with",
        "without",
        "use",
        "used",
        "other",
        "code",
        "codes",
        "not",
        "only",
        "view",
        "views",
        "two",
    )
)
_WEAK_WORDS = frozenset(("ct", "mr", "ray", "imaging", "analysi", "study"))
"""Words that too many services share to tell one from another."""
_MAX_BYTES = 5_000_000


def audit_file(path: Path, *, knowledge: Knowledge, on: dt.date | None = None) -> tuple[AuditRow, ...]:
    """Check a code list.

    Parameters
    ----------
    path : Path
        Text, CSV or TSV as editors and spreadsheets save them (UTF-8, UTF-16, Windows-1252); one or more codes to a line, with
        what they stand for beside them.
    knowledge : Knowledge
        For the service codes whose life is on file.
    on : datetime.date, optional
        Day for which codes have to be valid; today by default.

    Raises
    ------
    KnowledgeError
        If the file is no text, is too large, or holds no code.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise KnowledgeError(f"{path.name}: more than {_MAX_BYTES // 1_000_000} MB; give the code list alone")
        text = _decoded(path.read_bytes(), path.name)
    except OSError as error:
        raise KnowledgeError(f"{path.name}: cannot be read as text") from error
    rows = tuple(
        _judge(line, code, kind, label, knowledge, on or dt.date.today()) for line, code, kind, label in _codes(text)
    )
    if not rows:
        raise KnowledgeError(f"{path.name}: holds no code of a known shape (CPT, ICD-10-CM, taxonomy, modifier)")
    return rows


def _decoded(content: bytes, name: str) -> str:
    """The text of a file in one of the encodings that editors and spreadsheets write."""
    if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise KnowledgeError(f"{name}: cannot be read as text: it is a spreadsheet file; save the sheet as CSV")
    encodings = ["utf-16"] if content.startswith((b"\xff\xfe", b"\xfe\xff")) else ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        # A file without a single plain letter or digit holds no code, whatever it decodes to; one with NUL is no text.
        if "\0" not in text and (not content or re.search(r"[A-Za-z0-9]", text)):
            return text
    raise KnowledgeError(f"{name}: cannot be read as text")


def _codes(text: str) -> Iterator[tuple[int, str, Kind, str]]:
    """Each code with its line, its kind and the words beside it."""
    for number, line in enumerate(text.splitlines(), start=1):
        found = sorted(
            (
                (match.start(), match.end(), match.group(), kind)
                for kind, shape in _SHAPES
                for match in shape.finditer(line)
            ),
        )
        if not found:
            bare = _BARE_DIAGNOSIS.match(line)
            if bare is not None:
                code = bare.group(1)
                found = [(bare.start(1), bare.end(1), f"{code[:3]}.{code[3:]}", "icd10cm")]
            elif several := _several_modifiers(line):
                found = several
            elif (bare := _BARE_MODIFIER.match(line)) is not None:
                found = [(bare.start(1), bare.end(1), bare.group(1).upper(), "modifier")]
            else:
                found = _codes_in_cells(line)
        for index, (start, end, code, kind) in enumerate(found):
            if len(found) == 1:
                beside = line[:start] + " " + line[end:]
            else:
                beside = line[end : found[index + 1][0] if index + 1 < len(found) else len(line)]
            yield number, code.rstrip("-"), kind, " ".join(re.sub(r"[,;|\t\"]+", " ", beside).split()).strip(" :–-")


def _several_modifiers(line: str) -> list[tuple[int, int, str, Kind]]:
    """Modifiers listed in one breath, ``26 / TC``; only where each of them is one that is on file."""
    match = _SEVERAL_MODIFIERS.match(line)
    if match is None:
        return []
    each = [(m.start() + match.start(1), m.group().upper()) for m in re.finditer(r"[A-Za-z0-9]{2}", match.group(1))]
    if not all(_is_modifier(code) for _, code in each):
        return []
    return [(start, match.end(1), code, "modifier") for start, code in each]


def _codes_in_cells(line: str) -> list[tuple[int, int, str, Kind]]:
    """A diagnosis without its dot or a modifier in a further column of a table."""
    place = 0
    for cell in _CELL.split(line):
        start = line.index(cell, place)
        place = start + len(cell)
        word = cell.strip(' "')
        bare = _BARE_DIAGNOSIS.fullmatch(word)
        if bare is not None and any(character.isdigit() for character in word[1:3]):
            return [(start, place, f"{word[:3]}.{word[3:]}", "icd10cm")]
        if _is_modifier(word.upper()):
            return [(start, place, word.upper(), "modifier")]
    return []


def _is_modifier(code: str) -> bool:
    return any(facts.kind == "modifier" and code in facts.meanings for facts in _data().fact)


@cache
def _data() -> _AuditFile:
    return read_entry(_AuditFile, resources.files("reports.coverage") / "data" / "audit.toml")


def _judge(line: int, code: str, kind: Kind, label: str, knowledge: Knowledge, on: dt.date) -> AuditRow:
    data = _data()
    facts = next((f for f in data.fact if f.kind == kind and code in f.meanings), None)
    service = knowledge.code(code) if kind == "service" else None

    def row(verdict: AuditVerdict, text: str, source: str | None = None) -> AuditRow:
        named = data.sources.get(source, source) if source else None
        return AuditRow(line=line, code=code, kind=kind, label=label, verdict=verdict, text=text, source=named)

    if facts is not None and facts.state in ("nonexistent", "invalid", "header"):
        return row(AuditVerdict.WRONG, facts.meanings[code], facts.source)
    if facts is None and kind == "icd10cm" and (complaint := _incomplete_diagnosis(code)):
        return row(AuditVerdict.WRONG, complaint, "ICD10CM-2021")
    certainly_dead, life = _life(service, on) if service is not None else (False, "")
    if certainly_dead:
        return row(AuditVerdict.WRONG, life)
    meaning = (
        facts.meanings[code] if facts is not None else service.paraphrase.rstrip(".") if service is not None else None
    )
    source = facts.source if facts is not None else None
    mix_up = _mix_up(code, label, meaning or "")
    if mix_up is not None:
        text = f"it is: {meaning}; {mix_up.correction}" if meaning else mix_up.correction
        return row(AuditVerdict.CHECK if mix_up.mild else AuditVerdict.WRONG, text, mix_up.source)
    if life:
        return row(AuditVerdict.CHECK, f"{life}; it is: {meaning}")
    if meaning is None:
        return row(AuditVerdict.UNKNOWN, "not on file; look it up in the current code set")
    if facts is not None and facts.state == "not_applicable":
        return row(AuditVerdict.CHECK, f"{meaning}: no place on a service of image analysis", source)
    said, shared = _stems(label), _shared(label, meaning)
    if shared - _WEAK_WORDS or (shared and shared == said):
        return row(AuditVerdict.OK, f"it is: {meaning}", source)
    # The name of a specialty is fixed; what a service or a diagnosis is can be said in many words.
    wrong = bool(said) and kind == "taxonomy"
    return row(AuditVerdict.WRONG if wrong else AuditVerdict.CHECK, f"it is: {meaning}", source)


def _incomplete_diagnosis(code: str) -> str | None:
    """Families whose codes are billable with all seven characters only."""
    characters = code.replace(".", "")
    if _NEEDS_SEVENTH.match(code) and (len(characters) < 7 or "x" in characters):
        return "not billable: codes of this family need site and 7th character"
    return None


def _life(code: Code, on: dt.date) -> tuple[bool, str]:
    """Whether a service code is certainly not valid on a day, and what is to be said about its life, if anything."""
    if code.valid_from is not None and on < code.valid_from:
        return True, f"not a valid code before {code.valid_from}"
    if code.sunset is not None and on >= code.sunset:
        verified = "" if code.sunset_verified else "; whether it was extended is not verified"
        return code.sunset_verified, f"published sunset {code.sunset} has passed{verified}"
    return False, ""


def _mix_up(code: str, label: str, meaning: str) -> _MixUp | None:
    """The known wrong claim that the user's words repeat, if they are nearer to it than to what the code is."""
    known = [(len(_shared(label, m.claim)), m) for m in _data().mix_up if m.number == code]
    repeated, best = max(known, key=lambda pair: pair[0], default=(0, None))
    if best is None or not repeated:
        return None
    right = len(_shared(label, meaning))
    whole = _stems(best.claim) <= _stems(label)
    return best if repeated > right or (whole and repeated == right) else None


def _shared(one: str, other: str) -> set[str]:
    return _stems(one) & _stems(other)


def _stems(text: str) -> set[str]:
    """First letters of each word that says something, singular: enough to tell osteopenia from osteoporosis."""
    return {word.lower().rstrip("s")[:7] for word in _WORD.findall(text) if word.lower() not in _EMPTY_WORDS}
