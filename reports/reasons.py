"""Why a number is missing, in the words of the record's own findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from reports.language import Language
from reports.names import listed, structure_name
from reports.record import Femur, Status, Structure, StudyRecord

_MOST = 2
_TOO_FEW_LEVELS = "too_few_levels"


def why_missing(structures: Iterable[Structure], key: str, otherwise: str) -> str:
    """The most frequent reasons why `key` is missing in these structures, each once; `otherwise` if there are none."""
    found = Counter(f.text for s in structures if (f := s.reason_for(key)) is not None)
    return " ".join(text for text, _ in found.most_common(_MOST)) or otherwise


def why_missing_where(structures: Sequence[Structure], key: str, otherwise: str, words: Language) -> str:
    """The same with the names of the structures each reason holds for, where there is more than one reason.

    A femur that is not in the scan needs no reason beside one that is; without any femur the answer is `otherwise`.
    """
    present = [s for s in structures if not (isinstance(s, Femur) and s.status is Status.ABSENT)]
    names: dict[str, list[str]] = {}
    for structure in present:
        finding = structure.reason_for(key)
        if finding is not None:
            names.setdefault(finding.text, []).append(structure_name(structure, words))
    if not names:
        return otherwise
    by_count = sorted(names.items(), key=lambda item: -len(item[1]))
    if len(by_count) == 1 and not isinstance(present[0], Femur):
        return by_count[0][0]
    order = [structure_name(s, words) for s in present]
    return " ".join(f"{listed(said_of, order)}: {text}" for text, said_of in by_count[:_MOST])


def why_no_spine_density(record: StudyRecord, words: Language) -> str:
    """Why there is no mean density of the spine: no body has one, or those that have do not suffice."""
    if not any(v.vbmd_mg_cm3 is not None for v in record.vertebrae):
        return why_missing_where(record.vertebrae, "vbmd_mg_cm3", words("impression.no_vertebra"), words)
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
