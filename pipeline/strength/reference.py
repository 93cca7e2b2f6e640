"""The place of one strength among a reference cohort: percentile, its interval, and among whom.

A reference is the table of another run (``cohort.parquet``), or of the same one: the study itself never counts. Strengths are
compared with the same bone, test and profile file only, among people of the same sex and about the same age. Where fewer than
twenty of those are left there is no percentile, but the reason.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import betaincinv

from pipeline.errors import InputRefused
from pipeline.strength.agreement import law_of, strengths_of
from reports.cohort_columns import LEVELS
from reports.quantity import Quantity
from reports.record import Femur, Finding, Severity, Strength, Study, StudyRecord, Vertebra

LEAST_STUDIES = 20
"""With fewer studies of like people there is no percentile."""

AGE_BAND_YEARS = 10.0
"""Of like age is who is at most so much younger or older."""

PERCENTILE = "strength_percentile"
"""Name of the percentile in `further` of a bone; the reason for its absence stands in ``not_measured["further...."]``."""

_TABLE = "cohort.parquet"
_ABOUT = ("study_key", "study_uid", "patient_reference", "patient_sex", "patient_age_years")
_WHO = {"F": "women", "M": "men"}
_REMEDY = "Give the cohort.parquet of a run (or its folder); `openbct cohort FOLDER` writes it anew from the records."


@dataclass(frozen=True)
class Peer:
    """One study of a reference cohort.

    Attributes
    ----------
    key : str
        Pseudonymous key of the study.
    study_uid, sex, age_years
        As in the record; None where it does not say.
    patient : str or None
        Local identifier of the patient, where the site set one.
    strengths : dict of str to (float, tuple)
        By name of the bone: strength in N, and what it must share to be compared (`pipeline.strength.agreement.law_of`).
    """

    key: str
    study_uid: str | None
    patient: str | None
    sex: str | None
    age_years: float | None
    strengths: dict[str, tuple[float, tuple[str, str, str]]]


@dataclass(frozen=True)
class ReferenceCohort:
    """Many studies to compare one with.

    Attributes
    ----------
    name : str
        What a record calls it: a hash of the table.
    peers : tuple of Peer
        One for each study; several of one person count as several.
    """

    name: str
    peers: tuple[Peer, ...]


def cohort_of(records: Iterable[StudyRecord]) -> ReferenceCohort:
    """A reference cohort of records at hand."""
    peers = tuple(
        Peer(
            r.study.key,
            r.study.study_uid,
            r.study.patient_reference,
            r.study.patient_sex,
            r.study.patient_age_years,
            {name: (strength.value, law_of(strength)) for name, strength in strengths_of(r)},
        )
        for r in records
    )
    return ReferenceCohort(f"{len(peers)} records", peers)


def read_reference_cohort(path: Path) -> ReferenceCohort:
    """The reference cohort in a ``cohort.parquet``, or in a folder that holds one.

    Raises
    ------
    InputRefused
        ``no_such_input``, or ``reference_unusable`` if it is no such table, was written without profiles, or holds no
        strength.
    """
    file = _table_in(path)
    subject = f"--reference-cohort '{path.name}'"
    if not file.is_file():
        missing = f"holds no {_TABLE}." if path.is_dir() else "does not exist."
        raise InputRefused("no_such_input", missing, subject=subject, remedy=_REMEDY)
    bones = {f"vertebra_{level}": level.lower() for level in LEVELS} | {
        f"femur_{s}": f"femur_{s}" for s in ("left", "right")
    }
    parts = ("strength_n", "test", "strength_profile", "strength_profile_fingerprint")
    wanted = [*_ABOUT, *(f"{prefix}_{part}" for prefix in bones.values() for part in parts)]
    try:
        rows: list[dict[str, Any]] = pq.read_table(file, columns=wanted).to_pylist()
        name = reference_name(path)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise InputRefused("reference_unusable", "is no cohort table.", subject=subject, remedy=_REMEDY) from error
    if rows and not set(wanted) <= set(rows[0]):
        raise InputRefused("reference_unusable", "was written without profiles.", subject=subject, remedy=_REMEDY)
    peers = tuple(_peer(row, bones, parts) for row in rows)
    if not any(peer.strengths for peer in peers):
        raise InputRefused("reference_unusable", "holds no strength.", subject=subject, remedy=_REMEDY)
    return ReferenceCohort(name, peers)


def reference_name(path: Path) -> str:
    """What a record calls the reference cohort in a file or folder: the hash of its table, as paths may name people."""
    return f"sha256:{hashlib.sha256(_table_in(path).read_bytes()).hexdigest()[:16]}"


def _table_in(path: Path) -> Path:
    return path / _TABLE if path.is_dir() else path


def _peer(row: dict[str, Any], bones: dict[str, str], parts: tuple[str, ...]) -> Peer:
    strengths = {}
    for name, prefix in bones.items():
        value, *law = (row[f"{prefix}_{part}"] for part in parts)
        if value is not None:
            strengths[name] = (float(value), (str(law[0]), str(law[1]), str(law[2] or "")))
    key, study_uid, patient, sex, age = (row[name] for name in _ABOUT)
    return Peer(key, study_uid, patient, sex, age, strengths)


@dataclass(frozen=True)
class Place:
    """Where one strength stands among a reference.

    Attributes
    ----------
    percentile : float
        Part of the reference below it, ties half.
    interval : (float, float)
        95 % interval of that percentile for a reference of this size (Clopper and Pearson 1934).
    studies : int
    sex : str
    ages_years : (float, float)
        Of the people it was compared with: from, to.
    """

    percentile: float
    interval: tuple[float, float]
    studies: int
    sex: str
    ages_years: tuple[float, float]


def place_among(strength: Strength, name: str, patient: Study, cohort: ReferenceCohort) -> Place | Finding:
    """Percentile of a strength among the same bone of like people under the same profile, or why there is none.

    Parameters
    ----------
    strength : Strength
    name : str
        ``vertebra_L1``, ``femur_left``. A hip is compared with the hip of the same side, or where that was not tested with the
        other: one value for each study.
    patient : Study
        Whose strength it is; this study, and other studies of the same patient where they are known as such, do not count.
    cohort : ReferenceCohort
    """
    if patient.patient_sex not in _WHO or patient.patient_age_years is None:
        return _reason("sex_or_age_unknown", "Without sex and age there is nobody to compare the strength with.")
    if name.startswith("vertebra_u"):
        return _reason(
            "level_unknown", "Strengths are compared among bodies of the same level, and this one has no name."
        )
    age = float(patient.patient_age_years)
    ages = (max(age - AGE_BAND_YEARS, 0.0), age + AGE_BAND_YEARS)
    like = [
        peer
        for peer in cohort.peers
        if not _is_patient(peer, patient)
        and peer.sex == patient.patient_sex
        and peer.age_years is not None
        and ages[0] <= peer.age_years <= ages[1]
    ]
    same_bone = [found for peer in like if (found := _bone(peer, name)) is not None]
    values = [value for value, law in same_bone if law == law_of(strength)]
    who = f"{_WHO[patient.patient_sex]} of {ages[0]:.0f} to {ages[1]:.0f} years"
    if len(values) < LEAST_STUDIES:
        others = Counter(law[1] for _, law in same_bone if law != law_of(strength))
        if sum(others.values()) + len(values) >= LEAST_STUDIES:
            text = (
                f"The reference cohort holds {len(values)} studies of {who} under {strength.profile}, others under "
                f"{', '.join(sorted(others))}; strengths of different profiles are not compared."
            )
            return _reason("reference_other_profile", text)
        text = f"The reference cohort holds {len(values)} studies of {who} with this bone; {LEAST_STUDIES} are needed."
        return _reason("reference_too_small", text)
    count = len(values)
    below = sum(value < strength.value for value in values) + 0.5 * sum(value == strength.value for value in values)
    low = float(betaincinv(below, count - below + 1, 0.025)) if below > 0 else 0.0
    high = float(betaincinv(below + 1, count - below, 0.975)) if below < count else 1.0
    return Place(100 * below / count, (100 * low, 100 * high), count, patient.patient_sex, ages)


def _is_patient(peer: Peer, patient: Study) -> bool:
    """The same study, or the same patient: known only by an identifier that the site set, as records name nobody."""
    known = ((peer.study_uid, patient.study_uid), (peer.patient, patient.patient_reference))
    return peer.key == patient.key or any(theirs is not None and theirs == own for theirs, own in known)


def _bone(peer: Peer, name: str) -> tuple[float, tuple[str, str, str]] | None:
    names = (name, {"femur_left": "femur_right", "femur_right": "femur_left"}.get(name, name))
    return next((peer.strengths[n] for n in names if n in peer.strengths), None)


def _reason(code: str, text: str) -> Finding:
    return Finding(code=code, severity=Severity.INFO, text=text)


def with_percentiles(record: StudyRecord, cohort: ReferenceCohort) -> StudyRecord:
    """The record with the place of every leading strength among a cohort, or the reason why it has none.

    The percentile stands as `PERCENTILE` in `further` of the bone, its method saying among whom; the numbers of that sentence
    stand as ``reference_...`` in `model` of the strength. A place from another cohort is replaced.
    """

    def placed(bone: Vertebra | Femur) -> dict[str, Any]:
        if bone.strength_n is None:
            return {}
        place = place_among(bone.strength_n, bone.name, record.study, cohort)
        further = {name: number for name, number in bone.further.items() if name != PERCENTILE}
        missing = {name: why for name, why in bone.not_measured.items() if name != f"further.{PERCENTILE}"}
        model = {name: fact for name, fact in bone.strength_n.model.items() if not name.startswith("reference_")}
        if isinstance(place, Finding):
            missing[f"further.{PERCENTILE}"] = place
        else:
            further[PERCENTILE] = _quantity(place, bone.strength_n, cohort)
            model |= {
                "reference_cohort": cohort.name,
                "reference_studies": place.studies,
                "reference_sex": place.sex,
                "reference_from_age_years": place.ages_years[0],
                "reference_to_age_years": place.ages_years[1],
                "reference_percentile_low_95": place.interval[0],
                "reference_percentile_high_95": place.interval[1],
            }
        strength = bone.strength_n.model_copy(update={"model": model})
        return {"strength_n": strength, "further": further, "not_measured": missing}

    return record.model_copy(
        update={
            "vertebrae": tuple(v.model_copy(update=placed(v)) for v in record.vertebrae),
            "femora": tuple(f.model_copy(update=placed(f)) for f in record.femora),
        }
    )


def placed_and_noted(record: StudyRecord, cohort: ReferenceCohort) -> StudyRecord:
    """`with_percentiles` of a record that was made before, with the cohort noted among its settings."""
    settings = record.software.settings | {"reference_cohort": cohort.name}
    software = record.software.model_copy(update={"settings": settings})
    return with_percentiles(record, cohort).model_copy(update={"software": software})


def _quantity(place: Place, strength: Strength, cohort: ReferenceCohort) -> Quantity:
    low, high = place.interval
    who = (
        f"{place.studies} studies of {_WHO[place.sex]} of {place.ages_years[0]:.0f} to {place.ages_years[1]:.0f} years"
    )
    return Quantity(
        value=place.percentile,
        unit="%",
        # Of a share, shrunk as by Agresti and Coull 1998; the interval in the method is exact, and not symmetric.
        uncertainty=_spread_percent(place),
        method=f"part of {who} in the reference cohort with a lower strength of this bone, {strength.profile}; 95 % interval "
        f"{low:.0f} to {high:.0f} %",
        reference=f"reference cohort {cohort.name}",
    )


def _spread_percent(place: Place) -> float:
    shrunk = (place.percentile / 100 * place.studies + 2) / (place.studies + 4)
    return 100 * math.sqrt(shrunk * (1 - shrunk) / (place.studies + 4))
