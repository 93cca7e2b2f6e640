"""References as short numbers where they are used, and once in full at the end."""

from __future__ import annotations

import re

from reports.language import Language

_MARK = re.compile(r"\[(V2|V|C|M)\b(?:: ([^\]]*))?[^\]]*\]")
"""How a table or profile marks how far a source was verified: read in it, read in another, computed, from memory."""


class Citations:
    """Numbers references in the order in which they are first cited."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def cite(self, *references: str | None) -> str:
        """``[1]`` or ``[1, 3]``; nothing if there is no reference. A semicolon in a reference parts it into several."""
        given = [" ".join(part.split()) for text in references if text for part in text.split("; ") if part.strip()]
        numbers = [self._numbers.setdefault(reference, len(self._numbers) + 1) for reference in dict.fromkeys(given)]
        return f"[{', '.join(str(number) for number in sorted(numbers))}]" if numbers else ""

    def listed(self) -> tuple[tuple[str, str], ...]:
        """Number and full text of everything cited so far."""
        return tuple((f"[{number}]", reference) for reference, number in self._numbers.items())


def in_words(reference: str, words: Language) -> str:
    """A reference with its mark of verification in words: ``[M]`` reads as not checked, for a reader who does not know it."""

    def said(mark: re.Match[str]) -> str:
        text = words(f"verified.{mark.group(1)}")
        return f"({text}: {mark.group(2)})" if mark.group(2) else f"({text})"

    return _MARK.sub(said, reference)
