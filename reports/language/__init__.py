"""The words of a report: one TOML file per language, all with the same keys."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Formatter
from typing import Any

from reports.quantity import Quantity, format_interval, format_number, format_quantity, format_uncertainty, format_value
from reports.quantity import resolution as resolution_of


@dataclass(frozen=True)
class Language:
    """Words, decimal mark and date order of one language.

    Call it with a key and the values to fill in: ``words("text.not_measured", reason="metal")``.
    """

    words: dict[str, str]
    sentences: dict[str, str] = field(default_factory=dict)
    """Of a user's own language file: English sentences of a record with gaps in braces, and how they read in this language."""

    def __call__(self, key: str, /, **values: object) -> str:
        return self.words[key].format(**values) if values else self.words[key]

    def get(self, key: str, default: str) -> str:
        """The words of `key`, or `default` for a value this language does not know (a status added by a payer, say)."""
        return self.words.get(key, default)

    def under(self, section: str) -> dict[str, str]:
        """The words of one section of the file, by their keys in it."""
        prefix = f"{section}."
        return {key.removeprefix(prefix): text for key, text in self.words.items() if key.startswith(prefix)}

    @property
    def code(self) -> str:
        """As in the ``lang`` attribute of HTML."""
        return self.words["locale.code"]

    @property
    def decimal_mark(self) -> str:
        return self.words["locale.decimal_mark"]

    def date(self, iso: str | None) -> str:
        """An ISO date in the order of the language; anything else as it is."""
        parts = (iso or "").split("-")
        if len(parts) != 3 or not all(part.isdigit() for part in parts):
            return iso or self.words["fact.not_stated"]
        return self.words["locale.date"].format(year=parts[0], month=parts[1], day=parts[2])

    def quantity(self, quantity: Quantity, *, unit: bool = True) -> str:
        """Value, uncertainty and unit."""
        return format_quantity(quantity, decimal_mark=self.decimal_mark, unit=unit)

    def value(self, quantity: Quantity) -> str:
        return format_value(quantity, decimal_mark=self.decimal_mark)

    def uncertainty(self, quantity: Quantity) -> str:
        return format_uncertainty(quantity, decimal_mark=self.decimal_mark)

    def interval(self, quantity: Quantity) -> str:
        """The 95 % interval, or the words for its absence."""
        interval = format_interval(quantity, decimal_mark=self.decimal_mark, between=self.words["locale.between"])
        return interval or self.words["impression.no_interval"]

    def number(self, value: float, like: Quantity) -> str:
        """`value` to the digits of the quantity `like`."""
        return format_number(value, resolution_of(like), decimal_mark=self.decimal_mark)


def languages() -> tuple[str, ...]:
    """Codes of the languages that are there."""
    found = (entry.name for entry in files(__package__).iterdir())
    return tuple(
        sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml") and name.count(".") == 1)
    )


@cache
def load_language(code: str = "en") -> Language:
    """The language with this code, or of this file.

    Parameters
    ----------
    code : str
        ``en``, or the path of a TOML file with the same keys as ``reports/language/en.toml``, and if wanted a table
        ``[sentences]`` like that of ``reports/language/phrases.de.toml``.

    Raises
    ------
    ValueError
        If there is no such language, or the file lacks words or their gaps; the message names them.
    """
    if code in languages():
        return Language(_words_of((files(__package__) / f"{code}.toml").read_text(encoding="utf-8")))
    if not code.endswith(".toml") or not Path(code).is_file():
        raise ValueError(
            f"no report language '{code}'; there are: {', '.join(languages())}, or the path of a .toml file"
        )
    content = tomllib.loads(Path(code).read_text(encoding="utf-8"))
    sentences = content.pop("sentences", {})
    words, english = _flat(content), load_language("en").words
    wrong = sorted(set(words) ^ set(english)) or sorted(k for k in english if _gaps(words[k]) != _gaps(english[k]))
    if wrong:
        raise ValueError(
            f"{Path(code).name}: missing, unknown or with other gaps than in English: {', '.join(wrong[:8])}"
        )
    return Language(words, sentences)


def _words_of(text: str) -> dict[str, str]:
    return _flat(tomllib.loads(text))


def _gaps(text: str) -> set[str]:
    """The names in braces that are filled in."""
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, str]:
    words: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            words |= _flat(value, f"{prefix}{key}.")
        else:
            words[f"{prefix}{key}"] = str(value)
    return words


def capitalised(text: str) -> str:
    """`text` with a capital first letter, unless it begins with an abbreviation such as aBMD or vBMD."""
    return text if text[1:2].isupper() else text[:1].upper() + text[1:]
