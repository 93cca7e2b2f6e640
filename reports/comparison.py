"""Two records of the same study side by side: which results are the same, which differ, which are missing.

Used to verify a record: it is computed again from the images, and each result of the recorded one is looked up in the new
one. Three things are kept apart: the input (were these the images?), the results, and the versions of what computed them,
which explain a difference but are none.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

import numpy as np
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
PRINTED_TOLERANCE = 0.02
"""The same for a number within a sentence, as a share of it; never less than one step of its last digit."""
_SAME_RELATIVE = 1e-9
_SHARE = "1"
_ABOUT_THE_CALL = frozenset({"date_of_service_assumed"})
"""Findings that come from how the program was called, not from the images."""
_OF_THE_MACHINE = re.compile(r"(^|_)(iterations|residual|seconds)$")
"""Facts of a solution that differ from one processor or number of threads to another."""
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


class Verdict(StrEnum):
    """What came out of one comparison."""

    SAME = "same"
    WITHIN_TOLERANCE = "within_tolerance"
    DIFFERS = "differs"
    MISSING = "missing"
    NEW = "new"
    NOT_COMPARED = "not_compared"


class Compared(BaseModel):
    """One line of the comparison."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Place in the record, such as ``vertebra_L1.vbmd_mg_cm3``."""
    verdict: Verdict
    """``missing``: recorded, but not computed again; ``new``: the other way round; ``not_compared``: a file is not there."""
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
    files: tuple[Compared, ...] = ()
    """Label maps beside the record against those computed again."""

    @property
    def same_input(self) -> bool:
        """Whether both were computed from the same images."""
        return all(row.verdict is Verdict.SAME for row in self.input)

    @property
    def other_program(self) -> bool:
        """Whether another version, program, table or package computed the record: it explains a difference."""
        return any(row.verdict is not Verdict.SAME for row in self.versions)

    @property
    def reproduced(self) -> bool:
        """Whether the input is the same and each result came out again, within the tolerance."""
        good = (Verdict.SAME, Verdict.WITHIN_TOLERANCE)
        files = all(row.verdict in (*good, Verdict.NOT_COMPARED) for row in self.files)
        return self.same_input and files and all(row.verdict in good for row in self.results)

    def as_json(self) -> dict[str, Any]:
        """As ``openbct verify --json`` prints it."""
        return {"reproduced": self.reproduced, "same_input": self.same_input} | self.model_dump(mode="json")


class Text(str):
    """A sentence of a record: compared by its words, and by its numbers as far as they are printed."""

    __slots__ = ()


class Curve(tuple[tuple[float, float], ...]):
    """A force-displacement curve, in N over mm, with what its peak is uncertain by."""

    __slots__ = ()


Leaf = Quantity | Text | Curve | str | float | int | bool | None


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
    before, after = _plain(old), _plain(new)
    if before is None and after is not None:
        return Compared(name=name, verdict=Verdict.NEW, recorded=None, recomputed=after, unit=unit)
    if before is not None and after is None:
        return Compared(name=name, verdict=Verdict.MISSING, recorded=before, recomputed=None, unit=unit)
    if isinstance(old, Curve) and isinstance(new, Curve):
        return _curve_row(name, old, new)
    if isinstance(old, Text) and isinstance(new, Text):
        return Compared(name=name, verdict=_text_verdict(old, new), recorded=before, recomputed=after)
    if not (isinstance(old, Quantity) and isinstance(new, Quantity)):
        verdict = Verdict.SAME if before == after else Verdict.DIFFERS
        return Compared(name=name, verdict=verdict, recorded=before, recomputed=after, unit=unit)
    if old.unit != new.unit:
        return Compared(
            name=name, verdict=Verdict.DIFFERS, recorded=f"{before} {old.unit}", recomputed=f"{after} {new.unit}"
        )
    difference = new.value - old.value
    if old.unit == _SHARE and abs(old.value) <= 1 and not name.endswith("_mm"):
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


def _plain(leaf: Leaf) -> str | float | int | bool | None:
    if isinstance(leaf, Quantity):
        return leaf.value
    if isinstance(leaf, Curve):
        return max(force for _, force in leaf)
    return str(leaf) if isinstance(leaf, str) else leaf


def _curve_row(name: str, old: Curve, new: Curve) -> Compared:
    """The largest distance of two curves in force, at the points of both; a curve that ends first goes on at its last force.

    A thousandth of the peak counts as the same curve: it follows from the same solution on every machine.
    """
    places = np.unique([displacement for displacement, _ in (*old, *new)])
    before, after = (np.interp(places, *np.array(sorted(curve), dtype=float).T) for curve in (old, new))
    worst = float((after - before)[np.argmax(np.abs(after - before))])
    tolerance = RELATIVE_TOLERANCE * max(abs(force) for _, force in old)
    if list(old) == list(new):
        verdict = Verdict.SAME
    else:
        verdict = Verdict.WITHIN_TOLERANCE if abs(worst) <= tolerance else Verdict.DIFFERS
    return Compared(
        name=name, verdict=verdict, recorded=_plain(old), recomputed=_plain(new), unit="N", difference=worst,
        tolerance=tolerance,
    )  # fmt: skip


def _text_verdict(old: str, new: str) -> Verdict:
    """Sentences agree if their words do, and their numbers up to what rounding on another machine may do."""
    if old == new:
        return Verdict.SAME
    if _NUMBER.split(old) != _NUMBER.split(new):
        return Verdict.DIFFERS
    for one, other in zip(_NUMBER.findall(old), _NUMBER.findall(new), strict=True):
        step = 10.0 ** -len(one.partition(".")[2])
        # Without a decimal point it may be a count or a name: exactly, unless it is large.
        exact = "." not in one and float(one) < 1 / PRINTED_TOLERANCE
        allowed = 0.0 if exact else max(PRINTED_TOLERANCE * float(one), step)
        if abs(float(one) - float(other)) > allowed * (1 + 1e-9):
            return Verdict.DIFFERS
    return Verdict.WITHIN_TOLERANCE


def _input(record: StudyRecord) -> dict[str, Leaf]:
    """What identifies the images that were measured, by what they were used for; and what their headers say of the patient."""
    found: dict[str, Leaf] = {}
    for used in record.series.used:
        place = f"series.{'+'.join(used.used_for)}"
        found[f"{place}.content_sha256"] = used.content_sha256
        found[f"{place}.sop_instances"] = _instances(used)
        found[f"{place}.grid"] = f"{used.shape} at {tuple(round(step, 6) for step in used.spacing_mm)} mm"
        found |= {name: leaf for name, leaf in _leaves(used.acquisition, f"{place}.acquisition") if leaf is not None}
    study = record.study
    for key in ("patient_age_years", "patient_sex", "patient_height_m", "patient_weight_kg", "study_date", "body_part"):
        found[f"study.{key}"] = getattr(study, key)
    return {name: leaf for name, leaf in found.items() if leaf is not None}


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


_NOT_RESULTS = frozenset({"name", "findings", "not_measured", "curve"})
"""Keys that are compared in another way, or are a name."""
_COVERAGE = (
    "status",
    "last_known_status",
    "payer",
    "policy",
    "date_of_service",
    "prior_authorization",
    "route",
)
"""What of a coverage answer follows from the call and the knowledge base, and not from the day of the question."""


def _results(record: StudyRecord) -> dict[str, Leaf]:
    """Every number, every class and every sentence of a record, by its place."""
    found: dict[str, Leaf] = {}
    for calibration in (record.calibration, *(record.calibration.other_series if record.calibration else ())):
        if calibration is not None:
            place = "calibration" if calibration is record.calibration else f"calibration.{calibration.series_uid}"
            found |= _line(place, calibration)
            found |= _said(place, calibration.findings)
    for structure in (*record.vertebrae, *record.femora):
        found |= _of_structure(structure)
    assessment = record.assessment
    found |= _by_place(assessment, "assessment", without={"spine_vbmd_levels", "references"})
    found["assessment.spine_vbmd_levels"] = " ".join(assessment.spine_vbmd_levels)
    for other in record.other_services:
        found[f"services.{other.cpt}.applies"] = other.applies
    for service in record.services:
        found[f"services.{service.cpt}.supported"] = service.supported
        found |= {f"services.{service.cpt}.{e.element}": e.met for e in service.elements}
        if service.coverage is not None:
            found[f"services.{service.cpt}.coverage"] = service.coverage.status
            given = {key: getattr(service.coverage, key, None) for key in _COVERAGE[1:]}
            found |= {f"services.{service.cpt}.coverage.{k}": v for k, v in given.items() if v is not None}
    for used in record.series.used:
        found |= _said(f"series.{'+'.join(used.used_for)}", used.findings)
    found["series.rejected"] = " ".join(sorted(r.code for r in record.series.rejected))
    found["quality.findings"] = _codes(record.quality.findings)
    return found | _said("quality", record.quality.findings)


def _line(place: str, calibration: Calibration) -> dict[str, Leaf]:
    """Slope and intercept with the uncertainties that their covariance holds, and the samples that they rest on."""
    found: dict[str, Leaf] = {f"{place}.method": calibration.method, f"{place}.mineral": calibration.mineral}
    variances = (None, None)
    if calibration.covariance is not None:
        variances = (calibration.covariance[0][0], calibration.covariance[1][1])  # type: ignore[assignment]
        for name, value in zip(
            ("covariance", "covariance.1.0"), (calibration.covariance[0][1], calibration.covariance[1][0]), strict=True
        ):
            found[f"{place}.{name}"] = _number(value, place)
    for key, variance in zip(("slope_mg_cm3_per_hu", "intercept_mg_cm3"), variances, strict=True):
        quantity = Quantity(
            value=getattr(calibration, key),
            unit="mg/cm3 per HU" if key.startswith("slope") else "mg/cm3",
            uncertainty=math.sqrt(variance) if variance else None,
            uncertainty_reason=None if variance else "not recorded",
            method=calibration.method,
        )
        found |= dict(_of_quantity(quantity, f"{place}.{key}"))
    if calibration.residual_mg_cm3 is not None:
        found[f"{place}.residual_mg_cm3"] = _number(calibration.residual_mg_cm3, place)
    for sample in calibration.samples:
        found |= _by_place(sample, f"{place}.samples.{sample.name}")
    return found


def _of_structure(structure: Structure) -> dict[str, Leaf]:
    found: dict[str, Leaf] = {f"{structure.name}.findings": _codes(structure.findings)}
    found |= _said(structure.name, structure.findings)
    found |= {f"{structure.name}.not_measured.{key}": f.code for key, f in structure.not_measured.items()}
    found |= _by_place(structure, structure.name, without={"other_tests"})
    for test in structure.other_tests:
        found |= _by_place(test, f"{structure.name}.other_tests.{test.strength_n.test}")
    return found


def _by_place(value: Any, place: str, *, without: set[str] | None = None) -> dict[str, Leaf]:
    skipped = tuple(f"{place}.{key}" for key in without or ())
    return {
        name: leaf
        for name, leaf in _leaves(value, place)
        if leaf is not None and not (skipped and name.startswith(skipped))
    }


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Leaf]]:
    """Everything below `value` that is a number, a class or a sentence."""
    if isinstance(value, Strength) and value.curve:
        yield f"{place}.curve", Curve(value.curve)
        yield f"{place}.curve_points", len(value.curve)
        yield f"{place}.curve_end_mm", _number(value.curve[-1][0], place)
    if isinstance(value, Quantity):
        yield from _of_quantity(value, place)
        for key in type(value).model_fields:
            if key not in Quantity.model_fields and key not in _NOT_RESULTS:
                yield from _leaves(getattr(value, key), f"{place}.{key}")
    elif isinstance(value, Part):
        for key in type(value).model_fields:
            if key not in _NOT_RESULTS:
                yield from _leaves(getattr(value, key), f"{place}.{key}")
    elif isinstance(value, Mapping):
        for key, part in value.items():
            if not _OF_THE_MACHINE.search(str(key)):
                yield from _leaves(part, f"{place}.{key}")
    elif isinstance(value, tuple | list):
        for index, part in enumerate(value):
            yield from _leaves(part, f"{place}.{index}")
    elif isinstance(value, float):
        yield place, _number(value, place)
    elif isinstance(value, str):
        yield place, Text(value) if " " in value else str(value)
    elif value is None or isinstance(value, int):
        yield place, value


def _of_quantity(quantity: Quantity, place: str) -> Iterator[tuple[str, Leaf]]:
    """A value, its uncertainty with the makeup, and how it was obtained."""
    yield place, quantity
    spread = quantity.uncertainty
    for name, value in (
        {"uncertainty": spread} | {f"components.{k}": v for k, v in quantity.components.items()}
    ).items():
        if value is not None:
            yield (
                f"{place}.{name}",
                Quantity(
                    value=value, unit=quantity.unit, uncertainty=spread or None, method=name, uncertainty_reason="none"
                ),
            )
    for name in ("method", "reference", "uncertainty_reason"):
        if (text := getattr(quantity, name)) is not None:
            yield f"{place}.{name}", Text(text)


def _number(value: float, method: str) -> Quantity:
    """A bare number, a score or a probability: no uncertainty of its own."""
    return Quantity(value=value, unit=_SHARE, uncertainty_reason="none stated", method=method)


def _said(place: str, findings: tuple[Finding, ...]) -> dict[str, Leaf]:
    """The sentences of findings by their code; of several with one code, in their order."""
    found: dict[str, Leaf] = {}
    for finding in findings:
        if finding.code not in _ABOUT_THE_CALL:
            name, count = f"{place}.findings.{finding.code}", 1
            while name in found:
                count += 1
                name = f"{place}.findings.{finding.code}.{count}"
            found[name] = Text(f"{finding.severity}: {finding.text}")
    return found


def _codes(findings: tuple[Finding, ...]) -> str:
    return " ".join(sorted({f.code for f in findings} - _ABOUT_THE_CALL))
