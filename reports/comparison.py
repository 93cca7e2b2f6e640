"""Two records of the same study side by side: which results are the same, which differ, which are missing.

Used to verify a record: it is computed again from the images, and each result of the recorded one is looked up in the new
one. Three things are kept apart: the input (were these the images?), the results, and the versions of what computed them,
which explain a difference but are none.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from reports.origin import Calibration, Finding, Part, UsedSeries
from reports.quantity import Quantity
from reports.record import Strength, Structure, StudyRecord

TOLERANCE_SD = 0.02
"""Largest difference that is put down to arithmetic (order of additions, other processor), in standard uncertainties."""
RELATIVE_TOLERANCE = 1e-3
"""The same for a number whose uncertainty is not known, as a share of its value."""
PROBABILITY_TOLERANCE = 0.005
"""The same for probabilities and scores between 0 and 1."""
_SAME_RELATIVE = 1e-9
_SHARE = "1"
_NOT_RESULTS = frozenset(
    {"name", "label", "findings", "not_measured", "model", "curve", "method", "reference", "components"}
)
_ABOUT_THE_CALL = frozenset({"date_of_service_assumed"})


class Verdict(StrEnum):
    """What came out of one comparison."""

    SAME = "same"
    WITHIN_TOLERANCE = "within_tolerance"
    DIFFERS = "differs"
    MISSING = "missing"
    NEW = "new"


class Compared(BaseModel):
    """One line of the comparison."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Place in the record, such as ``vertebra_L1.vbmd_mg_cm3``."""
    verdict: Verdict
    """``missing``: recorded, but not computed again; ``new``: the other way round."""
    recorded: str | float | int | bool | None
    recomputed: str | float | int | bool | None
    unit: str = ""
    difference: float | None = None
    """Recomputed minus recorded."""
    tolerance: float | None = None
    """Largest absolute difference that still counts as ``within_tolerance``."""


class Comparison(BaseModel):
    """The whole comparison."""

    model_config = ConfigDict(frozen=True)

    input: tuple[Compared, ...]
    results: tuple[Compared, ...]
    versions: tuple[Compared, ...]

    @property
    def same_input(self) -> bool:
        """Whether both were computed from the same images."""
        return all(row.verdict is Verdict.SAME for row in self.input)

    @property
    def reproduced(self) -> bool:
        """Whether the input is the same and each result came out again, within the tolerance."""
        good = (Verdict.SAME, Verdict.WITHIN_TOLERANCE)
        return self.same_input and all(row.verdict in good for row in self.results)

    def as_json(self) -> dict[str, Any]:
        """As ``openbct verify --json`` prints it."""
        return {"reproduced": self.reproduced, "same_input": self.same_input} | self.model_dump(mode="json")


Leaf = Quantity | str | float | int | bool | None


def compare_records(
    recorded: StudyRecord, recomputed: StudyRecord, *, tolerance_sd: float = TOLERANCE_SD
) -> Comparison:
    """Compare two records of one study.

    Parameters
    ----------
    recorded, recomputed : StudyRecord
    tolerance_sd : float
        Largest difference of a number that counts as the same measurement, in recorded standard uncertainties. Numbers
        without uncertainty may differ by one thousandth of their value.
    """
    return Comparison(
        input=_rows(_input(recorded), _input(recomputed), tolerance_sd),
        results=_rows(_results(recorded), _results(recomputed), tolerance_sd),
        versions=_rows(_versions(recorded), _versions(recomputed), tolerance_sd),
    )


def _rows(recorded: Mapping[str, Leaf], recomputed: Mapping[str, Leaf], tolerance_sd: float) -> tuple[Compared, ...]:
    names = dict.fromkeys((*recorded, *recomputed))
    return tuple(_row(name, recorded.get(name), recomputed.get(name), tolerance_sd) for name in names)


def _row(name: str, old: Leaf, new: Leaf, tolerance_sd: float) -> Compared:
    unit = next((q.unit for q in (old, new) if isinstance(q, Quantity)), "")
    before, after = (q.value if isinstance(q, Quantity) else q for q in (old, new))
    if before is None and after is not None:
        return Compared(name=name, verdict=Verdict.NEW, recorded=None, recomputed=after, unit=unit)
    if before is not None and after is None:
        return Compared(name=name, verdict=Verdict.MISSING, recorded=before, recomputed=None, unit=unit)
    if not (isinstance(old, Quantity) and isinstance(new, Quantity)):
        verdict = Verdict.SAME if before == after else Verdict.DIFFERS
        return Compared(name=name, verdict=verdict, recorded=before, recomputed=after, unit=unit)
    if old.unit != new.unit:
        return Compared(
            name=name, verdict=Verdict.DIFFERS, recorded=f"{before} {old.unit}", recomputed=f"{after} {new.unit}"
        )
    difference = new.value - old.value
    if old.unit == _SHARE:
        tolerance = PROBABILITY_TOLERANCE
    else:
        tolerance = tolerance_sd * old.uncertainty if old.uncertainty else RELATIVE_TOLERANCE * abs(old.value)
    if math.isclose(old.value, new.value, rel_tol=_SAME_RELATIVE, abs_tol=1e-12):
        verdict = Verdict.SAME
    else:
        verdict = Verdict.WITHIN_TOLERANCE if abs(difference) <= tolerance else Verdict.DIFFERS
    return Compared(
        name=name, verdict=verdict, recorded=old.value, recomputed=new.value, unit=unit, difference=difference,
        tolerance=tolerance,
    )  # fmt: skip


def _input(record: StudyRecord) -> dict[str, Leaf]:
    """What identifies the images that were measured, by what they were used for."""
    found: dict[str, Leaf] = {}
    for used in record.series.used:
        place = f"series.{'+'.join(used.used_for)}"
        found[f"{place}.content_sha256"] = used.content_sha256
        found[f"{place}.sop_instances"] = _instances(used)
        found[f"{place}.grid"] = f"{used.shape} at {tuple(round(step, 6) for step in used.spacing_mm)} mm"
    return found


def _instances(used: UsedSeries) -> str | None:
    """How many images, and a hash over their UIDs; two thousand UIDs are nothing to read in a table."""
    if not used.sop_instance_uids:
        return None
    digest = hashlib.sha256("\n".join(used.sop_instance_uids).encode()).hexdigest()
    return f"{len(used.sop_instance_uids)} images, {digest[:16]}"


def _versions(record: StudyRecord) -> dict[str, Leaf]:
    software = record.software
    found: dict[str, Leaf] = {
        "schema": record.schema_version,
        software.name: software.version,
        "program": software.code_sha256,
        "python": software.python,
        "platform": software.platform,
    }
    found |= dict(sorted(software.dependencies.items()))
    return found | {f"table {name}": version for name, version in sorted(software.tables.items())}


def _results(record: StudyRecord) -> dict[str, Leaf]:
    """Every number and every class of a record, by its place."""
    found: dict[str, Leaf] = {}
    for calibration in (record.calibration, *(record.calibration.other_series if record.calibration else ())):
        if calibration is not None:
            place = "calibration" if calibration is record.calibration else f"calibration.{calibration.series_uid}"
            found |= _line(place, calibration)
    for structure in (*record.vertebrae, *record.femora):
        found |= _of_structure(structure)
    assessment = record.assessment
    found["assessment.classification"] = assessment.classification
    found["assessment.spine_vbmd_mg_cm3"] = assessment.spine_vbmd_mg_cm3
    found["assessment.spine_vbmd_levels"] = " ".join(assessment.spine_vbmd_levels)
    found["assessment.spine_density_class"] = assessment.spine_density_class
    found["assessment.hip_density_class"] = assessment.hip_density_class
    for other in record.other_services:
        found[f"services.{other.cpt}.applies"] = other.applies
    for service in record.services:
        found[f"services.{service.cpt}.supported"] = service.supported
        if service.coverage is not None:
            found[f"services.{service.cpt}.coverage"] = service.coverage.status
    found["quality.findings"] = _codes(record.quality.findings)
    return found


def _line(place: str, calibration: Calibration) -> dict[str, Leaf]:
    """Slope and intercept with the uncertainties that their covariance holds."""
    found: dict[str, Leaf] = {f"{place}.method": calibration.method, f"{place}.mineral": calibration.mineral}
    variances = (None, None)
    if calibration.covariance is not None:
        variances = (calibration.covariance[0][0], calibration.covariance[1][1])  # type: ignore[assignment]
    for key, variance in zip(("slope_mg_cm3_per_hu", "intercept_mg_cm3"), variances, strict=True):
        found[f"{place}.{key}"] = Quantity(
            value=getattr(calibration, key),
            unit="mg/cm3 per HU" if key.startswith("slope") else "mg/cm3",
            uncertainty=math.sqrt(variance) if variance else None,
            uncertainty_reason=None if variance else "not recorded",
            method=calibration.method,
        )
    return found


def _of_structure(structure: Structure) -> dict[str, Leaf]:
    found: dict[str, Leaf] = {f"{structure.name}.findings": _codes(structure.findings)}
    found |= {name: leaf for name, leaf in _leaves(structure, structure.name) if leaf is not None}
    for test in structure.other_tests:
        found |= dict(_leaves(test, f"{structure.name}.other_tests.{test.strength_n.test}"))
    return found


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Leaf]]:
    """Numbers and classes below `value`; how they were obtained and what is said about them is left out."""
    if isinstance(value, Quantity):
        yield place, value
    if isinstance(value, Strength) and value.curve:
        peak = Quantity(
            value=max(force for _, force in value.curve),
            unit="N",
            uncertainty=value.uncertainty,
            uncertainty_reason=value.uncertainty_reason,
            method="highest point of the curve",
        )
        yield f"{place}.curve_peak", peak
        yield f"{place}.curve_points", len(value.curve)
    if isinstance(value, Part | Quantity):
        skipped = set(Quantity.model_fields) | _NOT_RESULTS if isinstance(value, Quantity) else _NOT_RESULTS
        for key in type(value).model_fields:
            if key not in skipped:
                yield from _leaves(getattr(value, key), f"{place}.{key}")
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(part, f"{place}.{key}")
    elif isinstance(value, float):
        # Scores and probabilities: no uncertainty of their own.
        yield place, Quantity(value=value, unit=_SHARE, uncertainty_reason="none stated", method=place)
    elif value is None or isinstance(value, str | int):
        yield place, value


def _codes(findings: tuple[Finding, ...]) -> str:
    return " ".join(sorted({f.code for f in findings} - _ABOUT_THE_CALL))
