"""Sentences that a record holds in English, in another language: replaced as a whole by a template, or left as recorded.

A record keeps what was said when it was made. A report in another language looks each sentence up in ``phrases.<code>.toml``;
a sentence that no template fits, word for word, stays in English, so that a change of wording can make a report less
translated but never wrong.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib.resources import files
from string import Formatter
from typing import Any

from pydantic import BaseModel

from reports.language import Language
from reports.origin import Part
from reports.record import Coverage, StudyRecord

_SUBJECT = re.compile(r"^((?:vertebra|femur)_\w+: )(.+)$", re.DOTALL)
_NUMBER = re.compile(r"^[<±+(-]*[−\d][\d\s±.,()<%/–−-]*$")
_NEXT_SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z])")
_NEXT_IN_LIST = re.compile("; ")
_SPLITS = ("; ", ", ", " and ", " ")
_MOST_NESTED = 6
_ONE = r"(?:(?!; ).)+?"
_GAP_OF = {
    "spread": ".*?",
    **dict.fromkeys(("parts", "why", "basis", "bodies", "scale", "fields", "listed", "source"), ".+?"),
}
"""What a gap takes: a list may stand in those named here, one thing in all others, and nothing in ``spread``."""

_SPOKEN = frozenset(
    (
        "text", "statement", "rule", "basis", "part", "reason", "caption", "alt", "method", "uncertainty_reason", "note",
        "selection_reason", "reasons", "missing", "element", "limits", "definition",
    )
)  # fmt: skip
"""Keys of a record under which sentences stand. Coverage is left out: it is printed in the language of its source."""


class Phrases:
    """Templates from one language to another, by the literal words of a sentence.

    Parameters
    ----------
    sentences : dict
        English with gaps in braces to the other language with the same gaps.
    decimal_mark : str
        For numbers in gaps.

    Raises
    ------
    ValueError
        If a template does not use the gaps of its sentence.
    """

    def __init__(self, sentences: dict[str, str], decimal_mark: str) -> None:
        self._mark = decimal_mark
        self._exact: dict[str, str] = {}
        found: list[tuple[int, re.Pattern[str], str]] = []
        for english, other in sentences.items():
            gaps = _gaps(english)
            if sorted(gaps) != sorted(_gaps(other)):
                raise ValueError(f"other gaps than in the English sentence: {english}")
            if gaps:
                found.append((len(_letters(english)), _pattern(english), other))
            else:
                self._exact[english.lower()] = other
        # The most particular first: the one with most letters outside its gaps.
        self._patterns = [(pattern, other) for _, pattern, other in sorted(found, key=lambda entry: -entry[0])]

    def said(self, text: str) -> str:
        """`text` in the other language where a template fits the whole of it, else as it is."""
        return self._said(text, 0) or text

    def _said(self, text: str, depth: int) -> str | None:
        if not text.strip() or depth > _MOST_NESTED:
            return None
        if (known := self._exact.get(text.lower())) is not None:
            return known[:1].upper() + known[1:] if text[:1].isupper() else known
        if _NUMBER.match(text):
            return text.replace(".", self._mark)
        subject = _SUBJECT.match(text)
        if subject is not None:
            rest = self._said(subject.group(2), depth + 1)
            return None if rest is None else subject.group(1) + rest
        # Sentence by sentence before as a whole: a gap would take several of them.
        if (each := self._each(text, _NEXT_SENTENCE, " ", depth)) is not None:
            return each
        for pattern, other in self._patterns:
            found = pattern.fullmatch(text)
            if found is not None:
                made = other.format(**{name: self._gap(value, depth + 1) for name, value in found.groupdict().items()})
                return made[:1].upper() + made[1:] if text[:1].isupper() else made
        return self._each(text, _NEXT_IN_LIST, "; ", depth)

    def _each(self, text: str, split: re.Pattern[str], join: str, depth: int) -> str | None:
        """Several parts that are all known, or None."""
        parts = split.split(text)
        if len(parts) < 2:
            return None
        said = [self._said(part, depth + 1) for part in parts]
        return join.join(part for part in said if part is not None) if None not in said else None

    def _gap(self, text: str, depth: int) -> str:
        """What stands in a gap: itself a phrase, a list of phrases, or carried over as it is."""
        known = self._said(text, depth)
        if known is not None:
            return known
        for split in _SPLITS:
            parts = text.split(split)
            if len(parts) > 1:
                return split.join(self._gap(part, depth + 1) for part in parts)
        return text


@cache
def phrases_of(code: str, decimal_mark: str) -> Phrases | None:
    """The phrases that ship for a language; None where there are none (English itself, or a user's own language file)."""
    file = files("reports.language") / f"phrases.{code}.toml"
    if not file.is_file():
        return None
    return Phrases(tomllib.loads(file.read_text(encoding="utf-8"))["sentences"], decimal_mark)


def phrases_in(words: Language) -> Phrases | None:
    """The phrases of a language: those of the user's own file, else those that ship.

    Raises
    ------
    ValueError
        If a sentence of the user's file has other gaps than the English one.
    """
    if words.sentences:
        return Phrases(words.sentences, words.decimal_mark)
    return phrases_of(words.code, words.decimal_mark)


def spoken(record: StudyRecord, words: Language) -> StudyRecord:
    """The record with its sentences in the language of the report, as far as templates exist; numbers are untouched."""
    phrases = phrases_in(words)
    return record if phrases is None else _spoken(record, phrases)


def _spoken(value: Any, phrases: Phrases) -> Any:
    """`value` with every sentence under a key of `_SPOKEN` replaced; parts without any stay the same objects."""
    if isinstance(value, Coverage):
        return value
    if isinstance(value, BaseModel):
        changed = {}
        for key in type(value).model_fields:
            before = getattr(value, key)
            after = _sentences(before, phrases) if key in _SPOKEN and _is_text(before) else _spoken(before, phrases)
            if after is not before:
                changed[key] = after
        return value.model_copy(update=changed) if changed else value
    if isinstance(value, tuple) and any(isinstance(item, Part | BaseModel) for item in value):
        return tuple(_spoken(item, phrases) for item in value)
    if isinstance(value, dict):
        return {key: _spoken(item, phrases) for key, item in value.items()}
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, tuple) and all(isinstance(item, str) for item in value))


def _sentences(value: Any, phrases: Phrases) -> Any:
    return phrases.said(value) if isinstance(value, str) else tuple(phrases.said(item) for item in value)


def _gaps(text: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(text) if name]


def _letters(text: str) -> str:
    """What stands outside of the gaps."""
    return "".join(literal for literal, _, _, _ in Formatter().parse(text))


def _pattern(english: str) -> re.Pattern[str]:
    """A sentence as a pattern: gaps take as little as they can, letters in any case."""
    parts = []
    for literal, name, _, _ in Formatter().parse(english):
        parts.append(re.escape(literal))
        if name:
            parts.append(f"(?P<{name}>{_GAP_OF.get(name, _ONE)})")
    return re.compile("".join(parts), re.IGNORECASE | re.DOTALL)
