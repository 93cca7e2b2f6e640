"""The demonstration: a synthetic study written as real DICOM files, analysed like any other, compared with its truth."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import phantoms
from phantoms.truth import FemurTruth, VertebraTruth
from pipeline import cohort
from pipeline.ingest import find_studies, study_key
from pipeline.study import Settings
from reports.quantity import Quantity
from reports.record import Femur, StudyRecord, Vertebra, load_record

SEED = 4
FRACTURES = {"T12": phantoms.Fracture("wedge", 0.34)}
SLICE_MM = 1.5


@dataclass(frozen=True)
class Row:
    """One line of the comparison."""

    quantity: str
    true: str
    measured: str
    difference: str


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration found.

    Attributes
    ----------
    rows : tuple of Row
    report_html, report_pdf : Path
    seconds : float
    complete : bool
        True if the study was analysed.
    """

    rows: tuple[Row, ...]
    report_html: Path
    report_pdf: Path
    seconds: float
    complete: bool


def run_demo(out: Path, *, on_stage: Callable[[str], None] = lambda _stage: None) -> DemoResult:
    """Write the phantom study into ``out/input``, analyse it into `out`, compare.

    Parameters
    ----------
    out : Path
    on_stage : callable
        Told what is being done.

    Raises
    ------
    InputRefused
        If `out` cannot be written.
    """
    began = time.perf_counter()
    cohort.require_writable(out)
    on_stage("writing a synthetic CT study")
    phantom = phantoms.make_phantom("torso", seed=SEED, sex="F", age_years=72, fractures=FRACTURES)
    truth = phantoms.write_study(phantom, out / "input", slice_mm=SLICE_MM)
    inventory = find_studies([out / "input" / "dicom"])
    study = inventory.studies[0]
    outcomes = cohort.run(
        inventory, out, Settings(), overwrite=True, on_stage=lambda _study, stage: on_stage(f"analysing: {stage}")
    )
    folder = out / study_key(study)
    rows: list[Row] = []
    if (folder / cohort.RECORD).is_file():
        record = load_record(folder / cohort.RECORD)
        rows = _compare(record, truth)
    return DemoResult(
        rows=tuple(rows),
        report_html=folder / "report.html",
        report_pdf=folder / "report.pdf",
        seconds=time.perf_counter() - began,
        complete=outcomes[0].status == "done",
    )


def _compare(record: StudyRecord, truth: phantoms.Truth) -> list[Row]:
    rows: list[Row] = []
    vertebrae = {v.name: v for v in record.vertebrae}
    for true in truth.vertebrae:
        if true.complete:
            rows += _vertebra_rows(true, vertebrae.get(true.name))
    femora = {f.name: f for f in record.femora}
    for true_femur in truth.femora:
        rows += _femur_rows(true_femur, femora.get(true_femur.name))
    return rows


def _vertebra_rows(true: VertebraTruth, found: Vertebra | None) -> list[Row]:
    level = true.level
    if found is None:
        return [Row(level, "present", "not found", "")]
    heights = found.heights_mm
    parts = ("anterior", "middle", "posterior")
    truly = [getattr(true, f"{part}_mm") for part in parts]
    height_row = Row(f"{level} heights, mm", _three(truly), _reason(found, "heights_mm"), "")
    if heights is not None:
        measured = [getattr(heights, part).value for part in parts]
        apart = " ".join(f"{m - t:+.1f}" for m, t in zip(measured, truly, strict=True))
        height_row = Row(
            height_row.quantity, height_row.true, f"{_three(measured)} ± {heights.middle.uncertainty:.1f}", apart
        )
    grade = found.fracture
    words = f"grade {grade.genant_grade} {grade.deformity}" if grade is not None else _reason(found, "fracture")
    right = f"grade {true.genant_grade} {true.deformity}"
    return [
        _row(f"{level} density", true.trabecular_density_mg_cm3, found.vbmd_mg_cm3, found, "vbmd_mg_cm3", 0),
        height_row,
        Row(f"{level} shape", right, words, "" if words == right else "differs"),
    ]


def _three(heights_mm: list[float]) -> str:
    return " ".join(f"{height:.1f}" for height in heights_mm)


def _femur_rows(true: FemurTruth, found: Femur | None) -> list[Row]:
    if found is None:
        return [Row(f"{true.side} femur", "present", "not found", "")]
    density = found.abmd_g_cm2
    return [
        _row(
            f"{true.side} {region.replace('_', ' ')} areal density",
            true.abmd[region].abmd_g_cm2,
            getattr(density, region) if density is not None else None,
            found,
            "abmd_g_cm2",
            3,
        )
        for region in ("total_hip", "femoral_neck")
    ]


def _row(name: str, true: float, measured: Quantity | None, structure: Vertebra | Femur, key: str, digits: int) -> Row:
    if measured is None:
        return Row(name, f"{true:.{digits}f}", _reason(structure, key), "")
    spread = f" ± {measured.uncertainty:.{digits}f}" if measured.uncertainty is not None else ""
    return Row(
        f"{name}, {measured.unit}",
        f"{true:.{digits}f}",
        f"{measured.value:.{digits}f}{spread}",
        f"{measured.value - true:+.{digits}f}",
    )


def _reason(structure: Vertebra | Femur, key: str) -> str:
    reason = structure.reason_for(key)
    return f"not measured: {reason.code}" if reason is not None else "not measured"
