"""The columns of the cohort table: name, type, unit, meaning, allowed values, and how each follows from a record.

The table, its data dictionary and the documentation all come from this one list. Names are stable: a column may be added, never
renamed, and a change of meaning is a new column.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from reports.quantity import Quantity
from reports.record import HipDensity, Severity, Structure, StudyRecord, Vertebra

Kind = Literal["text", "number", "integer", "boolean", "date"]
Value = str | float | int | bool | dt.date | None

LEVELS = (*(f"T{i}" for i in range(1, 13)), *(f"L{i}" for i in range(1, 6)))
CPT_CODES = ("0691T", "0743T")
MEASURED = "measured"
NOT_FOUND = "not_found"
DONE = "done"
REFUSED = "refused"
_ENDS = (DONE, REFUSED, "failed")
_STATES = ("ok", "warning", "failed", "absent", NOT_FOUND)
_CLASSES = ("normal", "low", "osteoporosis_range")
_GRADES = ("0", "1", "2", "3")
_SCALES = ("hologic", "lunar")


@dataclass(frozen=True)
class CohortColumn:
    """One column of the cohort table.

    Attributes
    ----------
    name : str
    kind : str
        ``text``, ``number`` (double), ``integer``, ``boolean`` or ``date`` (ISO). An empty cell is a missing value.
    unit : str
        UCUM, empty for a value without unit.
    meaning : str
    value : callable
        From a record to the content of the cell, None when it is missing.
    allowed : tuple of str
        All values that can occur, empty if there is no such list.
    section : str
        Part of the record that it comes from.
    since : str
        First version of the record format with this column.
    """

    name: str
    kind: Kind
    unit: str
    meaning: str
    value: Callable[[StudyRecord], Value]
    allowed: tuple[str, ...] = ()
    section: str = "study"
    since: str = "1.0"


def cohort_columns() -> tuple[CohortColumn, ...]:
    """All columns, in the order of the table."""
    return (
        *_study(),
        *_summary(),
        *(column for cpt in CPT_CODES for column in _service(cpt)),
        *(column for region in ("spine", "hips") for column in _images(region)),
        *_calibration(),
        *(column for level in LEVELS for column in _vertebra(level)),
        *(column for side in ("left", "right") for column in _femur(side)),
    )


def _follow(start: object, path: str) -> Any:
    """What lies at a dotted path of attributes, keys and positions; None as soon as one of them is not there."""
    for step in path.split("."):
        if isinstance(start, dict):
            start = start.get(step)
        elif isinstance(start, tuple):
            start = start[int(step)]
        else:
            start = getattr(start, step, None)
        if start is None:
            return None
    return start


@dataclass(frozen=True)
class _Group:
    """Columns that come from one part of the record: `root` finds the part, or None where a record does not have it."""

    root: Callable[[StudyRecord], object]
    section: str
    prefix: str = ""

    def column(
        self, name: str, kind: Kind, meaning: str, path: str | None = None, *, unit: str = "",
        allowed: tuple[str, ...] = (),
    ) -> CohortColumn:  # fmt: skip
        """A column with what lies at `path` below the root, its own name if no path is given."""
        at = path or name

        def value(record: StudyRecord) -> Value:
            found = _follow(self.root(record), at)
            if kind == "date":
                return _date(found)
            return str(found) if kind == "text" and found is not None else found

        return CohortColumn(f"{self.prefix}{name}", kind, unit, meaning, value, allowed, self.section)

    def quantity(
        self, name: str, unit: str, meaning: str, path: str | None = None
    ) -> tuple[CohortColumn, CohortColumn]:
        """A quantity as two columns: its value and its standard uncertainty, both unrounded."""
        at, full = path or name, f"{self.prefix}{name}"
        spread = f"standard uncertainty (1 SD) of {full}"
        return (
            self.column(name, "number", meaning, f"{at}.value", unit=unit),
            self.column(f"{name}_sd", "number", spread, f"{at}.uncertainty", unit=unit),
        )

    def reason(self, key: str, what: str) -> CohortColumn:
        """Whether a number was measured, and the code of the reason if not."""

        def state(record: StudyRecord) -> str:
            structure = self.root(record)
            if not isinstance(structure, Structure):
                return NOT_FOUND
            if getattr(structure, key) is not None:
                return MEASURED
            reason = structure.reason_for(key)
            return reason.code if reason is not None else ""

        meaning = f"'{MEASURED}', '{NOT_FOUND}', or the reason code for the absence of {what}"
        return CohortColumn(f"{self.prefix}{key}_status", "text", "", meaning, state, section=self.section)


def _whole(name: str, kind: Kind, meaning: str, value: Callable[[StudyRecord], Value], section: str,
           *, unit: str = "", allowed: tuple[str, ...] = ()) -> CohortColumn:  # fmt: skip
    """A column that is computed from the whole record."""
    return CohortColumn(name, kind, unit, meaning, value, allowed, section)


def _new(columns: Iterable[CohortColumn], since: str = "1.2") -> Iterator[CohortColumn]:
    """Columns that came with a later version of the record format."""
    return (replace(column, since=since) for column in columns)


def _study() -> Iterator[CohortColumn]:
    study = _Group(lambda r: r.study, "study")
    yield study.column("study_key", "text", "pseudonymous key of the study and name of its folder", "key")
    yield _whole("study_status", "text", "how the study ended; refused also if nothing in it could be measured",
                 lambda r: study_end(r).status, "ledger", allowed=_ENDS)  # fmt: skip
    yield _whole("study_reason", "text", "reason code of a study that was not done",
                 lambda r: study_end(r).reason or None, "ledger")  # fmt: skip
    yield study.column("study_uid", "text", "DICOM Study Instance UID")
    yield study.column("study_date", "date", "date of the CT")
    yield study.column("report_date", "date", "date of the analysis")
    yield study.column("patient_age_years", "number", "age at the CT", unit="a")
    yield study.column("patient_sex", "text", "sex as in the header", allowed=("F", "M", "O"))
    yield study.column("patient_height_m", "number", "body height", unit="m")
    yield study.column("patient_weight_kg", "number", "body weight", unit="kg")
    yield from _new(
        [study.column("patient_reference", "text", "local identifier of the patient, where the site set one")]
    )
    yield _whole("software_version", "text", "version of openbct", lambda r: r.software.version, "software")
    yield _whole("schema_version", "text", "version of the record format", lambda r: r.schema_version, "schema_version")
    yield _whole("seconds", "number", "time of the analysis", _seconds, "timings_s", unit="s")


def _summary() -> Iterator[CohortColumn]:
    overall = _Group(lambda r: r.assessment, "assessment")
    risks = ("high", "increased", "not_increased", "not_determined")
    yield overall.column("classification", "text", "overall class by density and fractures", allowed=risks)
    yield from overall.quantity("spine_vbmd_mg_cm3", "mg/cm3", "trabecular density, mean of the spine levels used")
    yield _whole("spine_vbmd_levels", "text", "levels in that mean, joined by +",
                 lambda r: "+".join(r.assessment.spine_vbmd_levels) or None, "assessment")  # fmt: skip
    yield overall.column("spine_density_class", "text", "class of that mean (80 and 120 mg/cm3)", allowed=_CLASSES)
    yield from _new(_l1_and_profile(overall), since="1.3")
    yield overall.column("hip_density_class", "text", "class of hip_t_score (-1.0 and -2.5)", allowed=_CLASSES)
    lowest = _Group(_lowest_t_score, "femora")
    yield lowest.column("hip_t_score", "number", "lowest T-score of both hips", "value", unit="{T-score}")
    yield lowest.column(
        "hip_t_score_sd", "number", "standard uncertainty (1 SD) of hip_t_score", "uncertainty", unit="{T-score}"
    )
    weakest = _Group(_weakest, "vertebrae")
    yield weakest.column("weakest_vertebra", "text", "body with the lowest strength", "name")
    yield from weakest.quantity("lowest_vertebral_strength_n", "N", "its strength in compression", "strength_n")
    yield _whole("highest_genant_grade", "integer", "highest fracture grade of all graded bodies", _highest_grade,
                 "vertebrae", allowed=_GRADES)  # fmt: skip
    yield _whole("bodies_graded", "integer", "number of vertebral bodies with a fracture grade",
                 lambda r: sum(v.fracture is not None for v in r.vertebrae), "vertebrae")  # fmt: skip
    yield _whole("bodies_without_level", "integer", "number of bodies whose level is not certain enough to name",
                 lambda r: sum(v.level is None for v in r.vertebrae), "vertebrae")  # fmt: skip
    yield _whole("failures", "integer", "number of findings because of which a number was withheld",
                 lambda r: _count(r, Severity.FAILURE), "quality")  # fmt: skip
    yield _whole("warnings", "integer", "number of findings that ask for caution",
                 lambda r: _count(r, Severity.WARNING), "quality")  # fmt: skip
    yield _whole("finding_codes", "text", "codes of all warnings and failures, sorted, joined by ;",
                 lambda r: ";".join(finding_codes(r)) or None, "quality")  # fmt: skip


def _service(cpt: str) -> Iterator[CohortColumn]:
    service = _Group(lambda r: next((s for s in r.services if s.cpt == cpt), None), "services", f"cpt_{cpt.lower()}_")
    yield service.column("supported", "boolean", f"the data support {cpt}")
    for key, meaning in (
        ("status", "coverage status by the payer's own document"),
        ("last_known_status", "status of the newest edition held, where the status is stale"),
        ("payer", "payer that was asked for"),
        ("policy", "policy of the payer"),
        ("edition", "edition of the policy that the status comes from"),
    ):
        yield service.column(f"coverage_{key}", "text", f"{cpt}: {meaning}", f"coverage.{key}")
    flags = f"{cpt}: codes of all that was said of the coverage, sorted, joined by ;"
    yield service.column("coverage_flags", "text", flags, "coverage.flags")
    date = f"{cpt}: date for which coverage was looked up"
    yield service.column("date_of_service", "date", date, "coverage.date_of_service")


def _images(region: str) -> Iterator[CohortColumn]:
    series = _Group(lambda r: next((s for s in r.series.used if region in s.used_for), None), "series", f"{region}_")
    of = f"of the series used for the {region}"
    yield series.column("series_uid", "text", f"DICOM Series Instance UID {of}")
    yield series.column("manufacturer", "text", f"maker of the scanner {of}", "acquisition.manufacturer")
    yield series.column("model", "text", f"model of the scanner {of}", "acquisition.model")
    yield series.column("kvp", "number", f"tube voltage {of}", "acquisition.kvp", unit="kV")
    yield series.column("kernel", "text", f"reconstruction kernel {of}", "acquisition.kernel")
    yield series.column(
        "slice_thickness_mm", "number", f"slice thickness {of}", "acquisition.slice_thickness_mm", unit="mm"
    )
    yield series.column("slice_spacing_mm", "number", f"distance of the slices {of}", "spacing_mm.0", unit="mm")
    yield series.column("contrast_agent", "text", f"contrast agent in the header {of}", "acquisition.contrast_agent")


def _calibration() -> Iterator[CohortColumn]:
    line = _Group(lambda r: r.calibration, "calibration", "calibration_")
    yield line.column("method", "text", "how CT numbers were turned into density")
    yield line.column("mineral", "text", "mineral that densities are equivalent to")
    yield line.column("slope_mg_cm3_per_hu", "number", "slope of the calibration", unit="mg/cm3/[hnsf'U]")
    yield line.column("intercept_mg_cm3", "number", "intercept of the calibration", unit="mg/cm3")


def _l1_and_profile(overall: _Group) -> Iterator[CohortColumn]:
    """The CT number of L1 among published cut-offs, and levels that stand out."""
    meaning = "CT number of L1 in the elliptical region, as published cut-offs were found (120 kVp, no contrast agent)"
    yield from overall.quantity("l1_ct_number", "[hnsf'U]", meaning)
    bands = ("above_200", "160_to_200", "110_to_160", "100_to_110", "below_100")
    yield overall.column("l1_ct_number_band", "text", "between which of those cut-offs it lies (HU)", allowed=bands)
    yield _whole("spine_outlier_levels", "text", "levels apart from the trend of the others, joined by +",
                 lambda r: "+".join(r.assessment.spine_outlier_levels) or None, "assessment")  # fmt: skip


def _vertebra(level: str) -> Iterator[CohortColumn]:
    body = _Group(lambda r: next((v for v in r.vertebrae if v.level == level), None), "vertebrae", f"{level.lower()}_")
    yield _status_column(body, level)
    yield from body.quantity("trabecular_hu", "[hnsf'U]", f"mean trabecular CT number of {level}")
    yield from body.quantity("vbmd_mg_cm3", "mg/cm3", f"trabecular density of {level}")
    ellipse_hu = f"mean CT number of {level} in an elliptical cylinder at mid height, as a reader draws it"
    yield from _new(body.quantity("hu_elliptical", "[hnsf'U]", ellipse_hu, "further.hu_elliptical_region"), since="1.3")
    ellipse = f"trabecular density of {level} in an elliptical cylinder at mid height, as a reader draws it"
    yield from _new(
        body.quantity("vbmd_elliptical_mg_cm3", "mg/cm3", ellipse, "further.vbmd_elliptical_region"), since="1.3"
    )
    for part in ("anterior", "middle", "posterior"):
        yield from body.quantity(f"height_{part}_mm", "mm", f"{part} height of {level}", f"heights_mm.{part}")
    yield from body.quantity("height_loss_percent", "%", f"largest height loss of {level}", "fracture.height_loss")
    grade, kinds = f"fracture grade of {level} (Genant)", ("none", "wedge", "biconcave", "crush")
    yield body.column("genant_grade", "integer", grade, "fracture.genant_grade", allowed=_GRADES)
    yield body.column("deformity", "text", f"kind of deformity of {level}", "fracture.deformity", allowed=kinds)
    yield from body.quantity("strength_n", "N", f"strength of {level} in compression")
    yield from body.quantity("stiffness_n_mm", "N/mm", f"stiffness of {level} in compression")
    for key in ("trabecular_hu", "vbmd_mg_cm3", "heights_mm", "fracture", "strength_n", "stiffness_n_mm"):
        yield body.reason(key, f"{key} of {level}")
    yield from _new([body.column("test", "text", f"leading virtual test of {level}", "strength_n.test")])
    yield from _new(_strength_in_context(body, f"of {level}", "lifting", "lifting_"))


def _femur(side: str) -> Iterator[CohortColumn]:
    femur = _Group(lambda r: next((f for f in r.femora if f.side == side), None), "femora", f"femur_{side}_")
    of = f"of the {side} femur"
    yield _status_column(femur, f"the {side} femur")
    for region in HipDensity.model_fields:
        meaning = f"DXA-equivalent areal density {of}, {region.replace('_', ' ')}"
        yield from femur.quantity(f"abmd_{region}_g_cm2", "g/cm2", meaning, f"abmd_g_cm2.{region}")
    for score, unit in (("t_score", "{T-score}"), ("z_score", "{Z-score}")):
        words = score[0].upper() + "-score"
        yield from femur.quantity(score, unit, f"lower {words} {of}, total hip and neck")
        for region in ("total_hip", "femoral_neck"):
            meaning = f"{words} {of}, {region.replace('_', ' ')}"
            yield from femur.quantity(f"{score}_{region}", unit, meaning, f"{score}s.{region}")
    yield from femur.quantity("strength_n", "N", f"strength {of} in its leading virtual test")
    yield from femur.quantity("stiffness_n_mm", "N/mm", f"stiffness {of} in that test")
    yield femur.column("test", "text", f"leading virtual test {of}", "strength_n.test")
    for key in ("abmd_g_cm2", "t_score", "z_score", "strength_n", "stiffness_n_mm"):
        yield femur.reason(key, f"{key} {of}")
    yield from _new(_strength_in_context(femur, of, "a fall to the side"))
    tissue = "soft tissue between greater trochanter and skin"
    yield from _new(femur.quantity("trochanteric_soft_tissue_mm", "mm", tissue, "further.trochanteric_soft_tissue"))
    stance = replace(femur, root=lambda r: _stance(femur.root(r)))
    yield from _new(stance.quantity("stance_strength_n", "N", f"strength {of} in single-leg stance", "strength_n"))
    yield from _new([stance.column("stance_profile", "text", "profile of that test", "strength_n.profile")])
    yield from _new(_hip_contents(femur, of), since="1.3")


def _hip_contents(femur: _Group, of: str) -> Iterator[CohortColumn]:
    """What stands behind areal density, and what is given beside it."""
    for region in HipDensity.model_fields:
        words = region.replace("_", " ")
        yield from femur.quantity(f"bmc_{region}_g", "g", f"mineral content {of}, {words}", f"bmc_g.{region}")
        yield from femur.quantity(f"area_{region}_cm2", "cm2", f"projected area {of}, {words}", f"area_cm2.{region}")
    yield femur.column(
        "dxa_scale", "text", "maker of DXA devices on whose scale density was asked for", allowed=_SCALES
    )
    for region in ("total_hip", "femoral_neck"):
        words, stem = region.replace("_", " "), f"dxa_scale_abmd_{region}_g_cm2"
        yield from femur.quantity(stem, "g/cm2", f"areal density {of} on that scale, {words}",
                                  f"dxa_scale_abmd_g_cm2.{region}")  # fmt: skip
        yield from femur.quantity(f"male_reference_t_score_{region}", "{T-score}",
                                  f"T-score {of} against young men, {words}; unverified reference, of men only",
                                  f"male_reference_t_scores.{region}")  # fmt: skip


def _strength_in_context(bone: _Group, of: str, task: str, prefix: str = "") -> Iterator[CohortColumn]:
    """Under which profile a strength was computed, and what it is held against."""
    yield bone.column(
        "strength_profile", "text", f"profile of the strength {of}, with its version", "strength_n.profile"
    )
    meaning = "hash of the profile file: strengths are comparable where it is the same"
    yield bone.column("strength_profile_fingerprint", "text", meaning, "strength_n.model.profile_fingerprint")
    load, ratio = f"{prefix}load", f"{prefix}load_to_strength"
    yield from bone.quantity(f"{load}_n", "N", f"load {of} in {task}", f"further.{load}")
    yield from bone.quantity(ratio, "1", f"that load over the strength {of}", f"further.{ratio}")
    meaning = f"percentile of the strength {of} among like people of a reference cohort"
    yield from bone.quantity("strength_percentile", "%", meaning, "further.strength_percentile")


def _stance(femur: object) -> object:
    """The further test of a femur in single-leg stance, if there is one."""
    return next((t for t in getattr(femur, "other_tests", ()) if t.strength_n.test == "hip-stance"), None)


def _status_column(group: _Group, what: str) -> CohortColumn:
    """State of a structure; one that the record does not hold was not found."""
    found = group.column("status", "text", f"state of {what}", allowed=_STATES)
    return replace(found, value=lambda r: found.value(r) or NOT_FOUND)


@dataclass(frozen=True)
class StudyEnd:
    """How the analysis of a study ended: ``done``, or ``refused`` with the code and the sentence of the reason."""

    status: str
    reason: str = ""
    text: str = ""


def study_end(record: StudyRecord) -> StudyEnd:
    """`done` if any structure has a number; otherwise `refused`, for the first failure that the record names.

    A study can have a record, with its findings, and yet nothing that was measured.
    """
    bodies = any(v.trabecular_hu is not None or v.strength_n is not None for v in record.vertebrae)
    hips = any(f.abmd_g_cm2 is not None or f.strength_n is not None for f in record.femora)
    if bodies or hips:
        return StudyEnd(DONE)
    failure = next((f for _, f in record.all_findings() if f.severity is Severity.FAILURE), None)
    if failure is None:
        return StudyEnd(REFUSED, "nothing_measured", "Nothing could be measured.")
    return StudyEnd(REFUSED, failure.code, failure.text)


def finding_codes(record: StudyRecord) -> list[str]:
    """Codes of all warnings and failures of a record, sorted, each once."""
    return sorted({finding.code for _, finding in record.all_findings() if finding.severity is not Severity.INFO})


def _seconds(record: StudyRecord) -> float | None:
    stages = dict(record.timings_s)
    total = stages.pop("total", None)
    return total if total is not None else sum(stages.values()) if stages else None


def _count(record: StudyRecord, severity: Severity) -> int:
    return sum(finding.severity is severity for _, finding in record.all_findings())


def _lowest_t_score(record: StudyRecord) -> Quantity | None:
    return min((f.t_score for f in record.femora if f.t_score is not None), key=lambda t: t.value, default=None)


def _highest_grade(record: StudyRecord) -> int | None:
    return max((v.fracture.genant_grade for v in record.vertebrae if v.fracture is not None), default=None)


def _weakest(record: StudyRecord) -> Vertebra | None:
    tested = [(v.strength_n.value, v) for v in record.vertebrae if v.strength_n is not None]
    return min(tested, key=lambda pair: pair[0])[1] if tested else None


def _date(iso: object) -> dt.date | None:
    """The date of an ISO text; None for anything else (a header may hold any text)."""
    try:
        return dt.date.fromisoformat(iso) if isinstance(iso, str) else None
    except ValueError:
        return None
