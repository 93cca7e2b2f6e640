"""How sentences are set in print: raised exponents, true minus signs, numbers that stay on the line of their unit.

A record holds plain text (``80 mg/cm3 K2HPO4``, ``-2.5``, ``54 %``). Only characters are replaced by their printed form, and
spaces by such as do not break: no word and no number changes.
"""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from typing import Any

_NO_BREAK = "\u00a0"
_PRINTED = (
    (re.compile(r"\b(mg/|g/|mm|cm)(?:cm)?3\b"), lambda m: m.group(0)[:-1] + "³"),
    (re.compile(r"\b(g/cm|mg/cm|cm|mm|kg/m)2\b"), lambda m: m.group(0)[:-1] + "²"),
    (re.compile(r"\bK2HPO4\b"), lambda _: "K₂HPO₄"),
    (re.compile(r"(?<![\w.,:%°³²)\]-])-(?=\d)"), lambda _: "−"),  # a sign, not a hyphen between two words or numbers
    (re.compile(r"(?<= )x(?= )"), lambda _: "×"),
    (re.compile(r"(?<= )\+-(?= )"), lambda _: "±"),
    (re.compile(r"(?<=\d) ?%"), lambda _: f"{_NO_BREAK}%"),
    (re.compile(r"(?<=\S) ([±×]) (?=\S)"), lambda m: f"{_NO_BREAK}{m.group(1)}{_NO_BREAK}"),
    (re.compile(r"(?<=[\d³]) (?=(?:mg/cm³|g/cm²|N/mm|mm|N|HU|HE|MPa|kPa|ml|kV|kVp|K₂HPO₄|HA)(?![\w/]))"), lambda _: _NO_BREAK),
)  # fmt: skip


def typeset(text: str) -> str:
    """`text` as it is printed.

    >>> typeset("T -2.5 at 80 mg/cm3 K2HPO4, 54 % of 12 mm3").replace("\\u00a0", "_")
    'T −2.5 at 80_mg/cm³_K₂HPO₄, 54_% of 12_mm³'
    """
    for pattern, printed in _PRINTED:
        text = pattern.sub(printed, text)
    return text


def typeset_all(part: Any, *, but: frozenset[str] = frozenset()) -> Any:
    """A tree of dataclasses and tuples with every text in it set for print, except in fields named in `but`."""
    if isinstance(part, str):
        return typeset(part)
    if isinstance(part, tuple):
        return tuple(typeset_all(item, but=but) for item in part)
    if is_dataclass(part) and not isinstance(part, type):
        changed = {f.name: typeset_all(getattr(part, f.name), but=but) for f in fields(part) if f.name not in but}
        return replace(part, **changed)
    return part
