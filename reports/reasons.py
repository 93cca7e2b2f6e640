"""Why a number is missing, in the words of the record's own findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from reports.language import Language
from reports.record import Structure, StudyRecord

_MOST = 2
_TOO_FEW_LEVELS = "too_few_levels"


def why_missing(structures: Iterable[Structure], key: str, otherwise: str) -> str:
    """The most frequent reasons why `key` is missing in these structures, each once; `otherwise` if there are none."""
    found = Counter(f.text for s in structures if (f := s.reason_for(key)) is not None)
    return " ".join(text for text, _ in found.most_common(_MOST)) or otherwise


def why_no_spine_density(record: StudyRecord, words: Language) -> str:
    """Why there is no mean density of the spine: no body has one, or those that have do not suffice."""
    if not any(v.vbmd_mg_cm3 is not None for v in record.vertebrae):
        return why_missing(record.vertebrae, "vbmd_mg_cm3", words("text.spine_absent"))
    said = [f.text for f in record.quality.findings if f.code == _TOO_FEW_LEVELS]
    # The place where it is printed already says what is missing: of "what: why" the second part is enough.
    return (said[0].partition(": ")[2] or said[0]) if said else words("text.too_few_levels")


def shared_reasons(structures: list[Structure], keys: Iterable[str]) -> dict[str, str]:
    """Keys that are missing in all of several structures for one and the same reason, with that reason."""
    shared: dict[str, str] = {}
    if len(structures) < _MOST:
        return shared
    for key in keys:
        texts = {None if getattr(s, key) is not None else getattr(s.reason_for(key), "text", None) for s in structures}
        if len(texts) == 1 and (text := texts.pop()) is not None:
            shared[key] = text
    return shared
