"""Naming the bodies: which level each one is, how sure that is, and what the name is anchored on.

Bodies look alike; only their place in the sequence tells them apart. So every way of laying the levels of every known anatomy
over the bodies is weighed (`anatomy`) by what can be seen (`landmarks`), and a name is given only where the sacrum or the last
rib is in view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from pipeline.errors import Finding, InputRefused, Severity
from pipeline.segmentation.model import LEVELS
from pipeline.segmentation.spine.anatomy import Hypothesis, weigh
from pipeline.segmentation.spine.landmarks import SACRAL_SIGNS, LevelSigns

_SEQUENCE = ("C5", "C6", *LEVELS, "S1", "S2", "S3", "S4", "S5")
_RIB_MM, _NO_RIB_MM = 60.0, 50.0
_CERTAIN = 0.9
_ANCHORS = ("sacrum", "last rib")
# An extra or missing pair of ribs shows in the lengths of the last ones, so that a doubt there means something.
_LEAST_CONFIDENCE, _LEAST_BY_RIB = 0.8, 0.9
_LEAST_LISTED = 0.01
_WORTH_A_WARNING = 0.1
_HIGHEST = 0.99
_IF_NAMED_OTHERWISE = (
    "Each number stays that of its body under any name; what a name decides is the norm its shape is held against, and which "
    "bodies make up the mean of L1 and L2."
)


@dataclass(frozen=True)
class Count:
    """One way of naming all bodies, with its probability.

    Attributes
    ----------
    levels : tuple of str or None
        From cranial to caudal.
    probability : float
        Summed over all anatomies that give these names.
    anatomy : str
        What is unusual about the likeliest of them; empty for the usual one.
    """

    levels: tuple[str | None, ...]
    probability: float
    anatomy: str = ""


@dataclass(frozen=True)
class Naming:
    """Levels of the bodies from cranial to caudal.

    Attributes
    ----------
    levels : tuple of str or None
        ``"T12"``, ``"S1"`` (and below) for parts of the sacrum, or None where the level is not known.
    confidence : tuple of float or None
    alternatives : tuple of dict
        Other levels and their probabilities, per body.
    anchor : str
        ``"sacrum"``, ``"last rib"``, ``"sacrum and last rib"``, ``"pin"`` or ``""``.
    reason : str
        Why there is no name, or what is doubtful; empty when all is well.
    code : str
        ``level_unknown``, ``level_uncertain`` or ``level_conflict`` when there is a reason.
    """

    levels: tuple[str | None, ...]
    confidence: tuple[float | None, ...]
    alternatives: tuple[dict[str, float], ...]
    anchor: str = ""
    reason: str = ""
    code: str = ""
    sacrum_from: int | None = None
    """Index of the first body that belongs to the sacrum, whether the others have names or not."""
    counts: tuple[Count, ...] = ()
    """The ways of naming that are left, the likeliest first; the given names are the first of them, if there are any."""


def name_levels(signs: list[LevelSigns], *, plausible: list[bool], cut: list[bool] | None = None) -> Naming:
    """Name bodies from cranial to caudal by their signs.

    Parameters
    ----------
    signs : list of LevelSigns
        From cranial to caudal.
    plausible : list of bool
        False for a body that may be two, or half of one, or is cut: no level is counted, and nothing concluded, across it.
    cut : list of bool, optional
        True for a body whose only doubt is that the scan cuts it: it gets the name that its neighbour's gives it.
    """
    count = len(signs)
    parts = [
        (start, _name_run(signs[start:stop], plausible[start:stop]))
        for start, stop in _runs(plausible, cut or [False] * count)
    ]
    if not parts:
        nothing = Naming((None,) * count, (None,) * count, ({},) * count)
        return replace(nothing, reason="no body is certain enough to count from", code="level_unknown")
    named = [(start, part) for start, part in parts if part.anchor and not part.reason]
    if any(not _agree(upper, lower) for upper, lower in pairwise(named)):
        doubt = "the bodies between the last rib and the sacrum do not fit the levels counted from both"
        named, parts = [], [(start, _unnamed(part, doubt)) for start, part in parts]
    # What is said of the whole is said of the part that is named, or of the longest one.
    start, main = max(named or parts, key=lambda part: (bool(part[1].anchor), len(part[1].levels)))
    levels: list[str | None] = [None] * count
    confidence: list[float | None] = [None] * count
    alternatives: list[dict[str, float]] = [{} for _ in signs]
    sacrum_from = None
    for first, part in sorted(parts, key=lambda found: bool(found[1].anchor)):
        for i, level in enumerate(part.levels):
            if level is not None or levels[first + i] is None:
                levels[first + i], confidence[first + i] = level, part.confidence[i]
                alternatives[first + i] = part.alternatives[i]
        if part.sacrum_from is not None:
            sacrum_from = first + part.sacrum_from

    def whole(tally: Count) -> Count:
        after = count - start - len(tally.levels)
        return replace(tally, levels=((None,) * start + tally.levels + (None,) * after))

    seen = {word for _, part in named or [(start, main)] for word in part.anchor.split(" and ")}
    anchor = " and ".join(word for word in _ANCHORS if word in seen)
    counts = tuple(whole(tally) for tally in main.counts)
    return Naming(
        tuple(levels), tuple(confidence), tuple(alternatives), anchor, main.reason, main.code, sacrum_from, counts
    )


def _runs(plausible: list[bool], cut: list[bool]) -> list[tuple[int, int]]:
    """First and one past the last of each row of bodies that can be counted along; cut bodies may stand at its ends."""
    runs = []
    i = 0
    while i < len(plausible):
        if not plausible[i]:
            i += 1
            continue
        stop = i
        while stop < len(plausible) and plausible[stop]:
            stop += 1
        runs.append((i - (i > 0 and cut[i - 1]), stop + (stop < len(plausible) and cut[stop])))
        i = stop
    return runs


def _agree(upper: tuple[int, Naming], lower: tuple[int, Naming]) -> bool:
    """Whether as many levels lie between two named rows as bodies, give or take one that was read as two or two as one."""
    above = upper[0] + len(upper[1].levels) - 1
    first, last = upper[1].levels[-1], lower[1].levels[0]
    if first not in _SEQUENCE or last not in _SEQUENCE:
        return False
    return abs((_SEQUENCE.index(last) - _SEQUENCE.index(first)) - (lower[0] - above)) <= 1


def _unnamed(part: Naming, doubt: str) -> Naming:
    nobody = (None,) * len(part.levels)
    return replace(part, levels=nobody, confidence=nobody, reason=doubt, code="level_uncertain")


def _name_run(signs: list[LevelSigns], whole: list[bool]) -> Naming:
    """Name a row of bodies without a doubtful one among them; those that are not `whole` add nothing to what is known."""
    count = len(signs)
    hypotheses = weigh([s if w else None for s, w in zip(signs, whole, strict=True)])
    counts = _counts(hypotheses)
    nobody = (None,) * count
    if not counts:
        return Naming(nobody, nobody, ({},) * count, reason="there are too many bodies", code="level_unknown")
    first_sacral = next((i for i, s in enumerate(signs) if s.sacral_signs >= SACRAL_SIGNS and whole[i]), None)
    rib_step = _last_rib(signs, whole, hypotheses)
    likely = tuple(_levels_of(counts, i) for i in range(count))
    nothing = Naming(nobody, nobody, likely, sacrum_from=first_sacral, counts=counts)
    if first_sacral is None and rib_step is None:
        return replace(nothing, reason=_why_no_anchor(signs), code="level_unknown")
    seen = ("sacrum",) * (first_sacral is not None) + ("last rib",) * (rib_step is not None)
    anchor = " and ".join(seen)
    chosen = counts[0].levels
    confidence = tuple(min(_levels_of(counts, i)[level or ""], _HIGHEST) for i, level in enumerate(chosen))
    doubt = _doubt(counts[0], min(confidence), first_sacral, rib_step)
    if not doubt and first_sacral is not None and rib_step is None and signs[first_sacral].may_begin_lower:
        doubt = "the sacrum may begin one body lower"
    if doubt:
        reason = f"{doubt} (possible transitional vertebra)"
        return replace(nothing, anchor=anchor, reason=reason, code="level_uncertain")
    others = tuple({k: p for k, p in found.items() if k != level} for found, level in zip(likely, chosen, strict=True))
    return replace(nothing, levels=chosen, confidence=confidence, alternatives=others, anchor=anchor)


def _why_no_anchor(signs: list[LevelSigns]) -> str:
    reason = "neither the sacrum nor the last rib is in view"
    if any(any(s.cut_off) for s in signs):
        return reason + ", and the lateral field of view is too small to see where the ribs end"
    if min(min(s.reach_mm) for s in signs) < _NO_RIB_MM < max(max(s.reach_mm) for s in signs):
        return "the sacrum is not in view, and which rib is the last one is not certain"
    return reason


def _doubt(likeliest: Count, confidence: float, first_sacral: int | None, rib_step: int | None) -> str:
    """Why the likeliest naming is not given although a landmark is in view; empty if it is."""
    if first_sacral is not None and rib_step is not None and first_sacral - rib_step != 6:
        return f"{first_sacral - rib_step - 1} bodies without ribs lie above the sacrum, 5 are usual"
    if first_sacral is not None and likeliest.levels[first_sacral] != "S1":
        return f"what lies above the sacrum looks like {likeliest.levels[first_sacral - 1]} by its other signs"
    if likeliest.anatomy:
        return f"what is seen fits {likeliest.anatomy} best"
    if rib_step is not None and likeliest.levels[rib_step] != "T12":
        return f"the body with the last long rib looks like {likeliest.levels[rib_step]} by the other signs"
    if confidence < (_LEAST_BY_RIB if first_sacral is None else _LEAST_CONFIDENCE):
        return f"the most likely naming has a probability of {confidence:.2f}"
    return ""


def _counts(hypotheses: Sequence[Hypothesis]) -> tuple[Count, ...]:
    """What the hypotheses make of the names, the likeliest first."""
    likeliest: dict[tuple[str, ...], Hypothesis] = {}
    total: dict[tuple[str, ...], float] = {}
    for hypothesis in sorted(hypotheses, key=lambda h: -h.probability):
        likeliest.setdefault(hypothesis.levels, hypothesis)
        total[hypothesis.levels] = total.get(hypothesis.levels, 0.0) + hypothesis.probability
    order = sorted(total, key=lambda levels: -total[levels])
    return tuple(Count(levels, total[levels], likeliest[levels].anatomy.description) for levels in order)


def _levels_of(counts: Sequence[Count], i: int) -> dict[str, float]:
    """Levels of body `i` and their probabilities, largest first."""
    total: dict[str, float] = {}
    for count in counts:
        level = count.levels[i]
        if level is not None:
            total[level] = total.get(level, 0.0) + count.probability
    listed = {level: round(p, 3) for level, p in total.items() if p >= _LEAST_LISTED}
    return dict(sorted(listed.items(), key=lambda item: -item[1]))


def name_from_pins(count: int, pins: dict[int, str], sacrum_from: int | None) -> Naming:
    """Name bodies by counting from those that the user named (index to level).

    Raises
    ------
    InputRefused
        If two pins contradict each other.
    """
    shifts = {_SEQUENCE.index(level) - i for i, level in pins.items()}
    if len(shifts) > 1:
        raise InputRefused(
            "contradicting_levels", "the pinned levels contradict each other", subject=", ".join(sorted(pins.values())),
            remedy="Pin one level, or check their z coordinates.",
        )  # fmt: skip
    shift = shifts.pop()
    sequence = _SEQUENCE
    reason = ""
    if sacrum_from is not None and 0 <= shift + sacrum_from < len(_SEQUENCE):
        # The sacrum lies where it is seen; the pin then says how many lumbar vertebrae there are.
        last = _SEQUENCE.index("S1")
        more = shift + sacrum_from - last
        if more == 1:
            sequence = (*_SEQUENCE[:last], "L6", *_SEQUENCE[last:])
        elif more == -1:
            sequence = (*_SEQUENCE[: last - 1], *_SEQUENCE[last:])
        if more:
            above = f"L{5 + more}" if abs(more) == 1 else _SEQUENCE[shift + sacrum_from - 1]
            reason = f"counted from the pinned level, the vertebra on the sacrum is {above}"
    inside = [0 <= shift + i < len(sequence) for i in range(count)]
    levels = tuple(sequence[shift + i] if ok else None for i, ok in enumerate(inside))
    return Naming(
        levels, (None,) * count, ({},) * count, "pin", reason, "level_conflict" if reason else "", sacrum_from
    )  # fmt: skip


def level_above(naming: Naming) -> Naming:
    """The same naming with one more body at the upper end, which is named if the one below it is."""

    def above(level: str | None) -> str | None:
        place = _SEQUENCE.index(level) - 1 if level in _SEQUENCE else -1
        return _SEQUENCE[place] if place >= 0 else None

    first = above(naming.levels[0])
    likely = {name: weight for level, weight in naming.alternatives[0].items() if (name := above(level)) is not None}
    return replace(
        naming,
        levels=(first, *naming.levels),
        confidence=(None if first is None else naming.confidence[0], *naming.confidence),
        alternatives=(likely, *naming.alternatives),
        sacrum_from=None if naming.sacrum_from is None else naming.sacrum_from + 1,
        counts=tuple(replace(count, levels=(above(count.levels[0]), *count.levels)) for count in naming.counts),
    )


def level_findings(naming: Naming) -> list[Finding]:
    """What the levels stand on, what is doubtful about them, and what hangs on that."""
    if naming.code in ("level_uncertain", "level_conflict"):
        text = f"Levels: {naming.reason}. {_other_counts(naming)}{_IF_NAMED_OTHERWISE}"
        return [Finding(naming.code, Severity.WARNING, text)]
    if naming.reason:
        return [Finding(naming.code, Severity.WARNING, f"Levels: {naming.reason}. {_other_counts(naming)}".rstrip())]
    by = {"pin": "a level that the user pinned"}.get(naming.anchor, f"the {naming.anchor}")
    text = f"The levels are counted from {by}."
    off = 1.0 - min((c for c in naming.confidence if c is not None), default=1.0)
    if off >= 0.02:
        variant = "four or six lumbar vertebrae, or a missing or extra rib"
        text += f" With a probability of {off:.2f} ({variant}) the count is off by one. {_other_counts(naming)}"
        text += _IF_NAMED_OTHERWISE
    return [Finding("level_anchor", Severity.WARNING if off > _WORTH_A_WARNING else Severity.INFO, text)]


def _other_counts(naming: Naming) -> str:
    """The likeliest ways of naming that were not chosen: how likely, and which bodies would make up the mean of L1 and L2."""
    named = any(level is not None for level in naming.levels)
    own = [level or f"u{i + 1}" for i, level in enumerate(naming.levels)]
    end = len(own) if naming.sacrum_from is None else naming.sacrum_from
    texts = []
    for count in naming.counts[1:3] if named else naming.counts[:3]:
        known = {level: own[i] for i, level in enumerate(count.levels[:end]) if level is not None}
        if count.probability < 0.02 or not known:
            continue
        lowest = list(known)[-1]
        pair = [known[level] for level in ("L1", "L2") if level in known]
        mean = f"the mean of L1 and L2 would be that of {' and '.join(pair)}" if pair else "L1 and L2 are not in view"
        anatomy = f", {count.anatomy}" if count.anatomy else ""
        texts.append(f"{known[lowest]} would be {lowest}, and {mean} (probability {count.probability:.2f}{anatomy})")
    return f"{'Other' if named else 'Possible'} counts: {'; '.join(texts)}. " if texts else ""


def _last_rib(signs: list[LevelSigns], plausible: list[bool], hypotheses: Sequence[Hypothesis]) -> int | None:
    """Index of the last body with ribs, where its lower neighbour certainly has none; None if that is not to be seen.

    Bone must reach far on both sides of it (a short rib may be that of L1) and end soon on both sides of the lower one, both
    bodies must be whole and what lies beside them in view, and hardly any way of counting may have the ribs end elsewhere.
    """
    for i in range(len(signs) - 1):
        upper, lower = signs[i], signs[i + 1]
        seen = plausible[i] and plausible[i + 1] and not any(lower.cut_off)
        if not seen or min(upper.reach_mm) < _RIB_MM or max(lower.reach_mm) >= _NO_RIB_MM:
            continue
        ends_here = sum(h.probability for h in hypotheses if h.bears_rib(i) and not h.bears_rib(i + 1))
        if ends_here > _CERTAIN:
            return i
    return None
