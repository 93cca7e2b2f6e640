"""The answer in plain sentences, each with its number: what a referring physician reads first."""

from __future__ import annotations

from reports.classes import FRACTURE_GRADE, grade_needs_reader
from reports.language import Language
from reports.names import level_name as level_name
from reports.names import level_range as level_range
from reports.reasons import why_missing_where, why_no_spine_density
from reports.record import Fracture, StudyRecord, Vertebra


def impression(record: StudyRecord, words: Language) -> tuple[tuple[str, str], ...]:
    """Sentences in the order of importance: overall, fractures, spine density, hip density, strength.

    Returns
    -------
    tuple of (str, str)
        Sentence that carries the message, and what is added to it (may be empty).
    """
    overall = record.assessment.classification
    return (
        (words("impression.overall", statement=record.assessment.statement), words(f"impression.advice_{overall}")),
        *((sentence, "") for sentence in _fractures(record, words)),
        (_spine(record, words), ""),
        (_hip(record, words), ""),
        (_strength(record, words), ""),
    )


def impression_text(record: StudyRecord, words: Language) -> str:
    """The impression as one paragraph, for documents that hold plain text only."""
    return " ".join(part for pair in impression(record, words) for part in pair if part)


def _fractures(record: StudyRecord, words: Language) -> list[str]:
    graded = [(v, v.fracture) for v in record.vertebrae if v.fracture is not None]
    if not graded:
        no_vertebra = words("impression.no_vertebra")
        why = why_missing_where(record.vertebrae, "fracture", no_vertebra, words)
        return [words("impression.fracture_unknown", reason=why)]
    sentences = []
    deformed = [pair for pair in graded if pair[1].genant_grade > 0]
    unsure = [vertebra for vertebra, _ in deformed if grade_needs_reader(vertebra)]
    sure = [pair for pair in deformed if not grade_needs_reader(pair[0])]
    definite = [pair for pair in sure if pair[1].genant_grade >= FRACTURE_GRADE]
    possible = [pair for pair in sure if pair[1].genant_grade < FRACTURE_GRADE]
    for key, group in (("fracture_definite", definite), ("fracture_possible", possible)):
        if group:
            bodies = "; ".join(_body(vertebra, fracture, words) for vertebra, fracture in group)
            sentences.append(words(f"impression.{key}", bodies=bodies))
    if unsure:
        bodies = ", ".join(level_name(vertebra) for vertebra in unsure)
        sentences.append(words("impression.fracture_unsure", bodies=bodies))
    if not sentences:
        levels = level_range([level_name(vertebra) for vertebra, _ in graded])
        if len(graded) == 1:
            sentences.append(words("impression.fracture_none_one", levels=levels))
        else:
            sentences.append(words("impression.fracture_none", count=len(graded), levels=levels))
    return sentences


def _body(vertebra: Vertebra, fracture: Fracture, words: Language) -> str:
    return words(
        "impression.fracture_body",
        level=level_name(vertebra),
        grade=fracture.genant_grade,
        deformity=words(f"deformity.{fracture.deformity}"),
        loss=words.quantity(fracture.height_loss),
    )


def _spine(record: StudyRecord, words: Language) -> str:
    density = record.assessment.spine_vbmd_mg_cm3
    if density is None:
        return words("impression.spine_density_unknown", reason=why_no_spine_density(record, words))
    return words(
        "impression.spine_density",
        levels=" + ".join(record.assessment.spine_vbmd_levels),
        value=words.quantity(density),
        interval=words.interval(density),
        **{"class": words(f"class.{record.assessment.spine_density_class or 'none'}")},
    )


def _hip(record: StudyRecord, words: Language) -> str:
    scored = [(femur, femur.t_score) for femur in record.femora if femur.t_score is not None]
    if not scored:
        why = why_missing_where(record.femora, "t_score", words("impression.no_femur"), words)
        return words("impression.hip_density_unknown", reason=why)
    femur, score = min(scored, key=lambda pair: pair[1].value)
    return words(
        "impression.hip_density",
        value=words.quantity(score),
        side=words(f"side.{femur.side}"),
        region=words(f"region.{score.region}"),
        interval=words.interval(score),
        **{"class": words(f"class.{record.assessment.hip_density_class or 'none'}")},
    )


def _strength(record: StudyRecord, words: Language) -> str:
    bodies = [(v, v.strength_n) for v in record.vertebrae if v.strength_n is not None]
    parts = []
    if bodies:
        weakest, strength = min(bodies, key=lambda pair: pair[1].value)
        name = words("impression.spine_compression_of", level=level_name(weakest), count=len(bodies))
        parts.append(words("impression.strength_part", name=name, value=words.quantity(strength)))
    for femur in record.femora:
        if femur.strength_n is not None:
            test = words.get(f"test.{femur.strength_n.test}", femur.strength_n.test)
            name = words("impression.femur_of", side=words(f"side.{femur.side}"), test=test)
            parts.append(words("impression.strength_part", name=name, value=words.quantity(femur.strength_n)))
    if not parts:
        nothing = words("impression.no_bone")
        why = why_missing_where((*record.vertebrae, *record.femora), "strength_n", nothing, words)
        return words("impression.strength_unknown", reason=why)
    return words("impression.strength", parts="; ".join(parts))
