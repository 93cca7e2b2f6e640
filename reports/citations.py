"""References as short numbers where they are used, and once in full at the end."""

from __future__ import annotations


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
