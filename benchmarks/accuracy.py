"""The pipeline over a suite of phantoms: bias, precision, limits of agreement, and whether the stated uncertainties hold.

    python -m benchmarks.accuracy SUITE [-o FOLDER] [--count N] [--only CASE ...] [--mode fast|projections] [--by FACTOR ...]
                                  [--strength] [--json FILE] [--figure FILE.png]

SUITE is one of smoke, calibration, spine-fracture, hip-abmd, cohort (small studies), cohort-torso, scanned, hostile. Studies
and results are kept in FOLDER: a second call goes on where the first was stopped, and only analyses again what has changed. Of
every number that the truth of a phantom knows, the table gives how many were measured, the mean error (bias), its standard
deviation (precision), the 95 % limits of agreement, and how often the truth lay within one and within 1.96 of the stated
standard uncertainties; then the same by each factor of the suite. Structures that were found under a wrong name, and numbers
that were withheld, are counted. Of faults (`hostile`) the table sets what was expected beside what was found. `hip-abmd` also
prints the errors of areal density over pose and slice thickness against the projection of the phantom's own mineral, with the
true line and with the one that was found (`benchmarks.hip_parts`). `calibration` also draws people and scanners from published
spreads, with and without a plate, and prints bias, SD and what the stated intervals hold by tube voltage, size of the body and
fat in muscle (`benchmarks.calibration_coverage`, `benchmarks.calibration_people`).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from benchmarks import calibration_people
from benchmarks.accuracy_tables import VBMD, Pair, Result, draw, fault_table, report, summary
from benchmarks.calibration_coverage import measured
from benchmarks.calibration_coverage import report as coverage
from benchmarks.hip_parts import against_projection, examine, posed_hips
from phantoms.kinds import invented_patient
from phantoms.suites import SUITES, Case, cases, write_case
from phantoms.truth import BELOW_LESSER_TROCHANTER_MM, FemurTruth, Truth, VertebraTruth
from pipeline import cohort
from pipeline.density import tables
from pipeline.density.rods import PhantomDefinition
from pipeline.density.scanner import calibrate_scanner
from pipeline.errors import Refusal
from pipeline.ingest import Inventory, find_studies, load_volume, select, study_key
from pipeline.study import Settings
from reports.quantity import Quantity
from reports.record import Femur, StudyRecord, Vertebra, load_record

_HEIGHTS = ("anterior", "middle", "posterior")
_REGIONS = ("total_hip", "femoral_neck")
_CALIBRATION_ONLY = "vBMD, error of the calibration alone, mg/cm3"


def with_bmi(case: Case) -> Case:
    """The case with the body mass index of its patient among the factors."""
    if case.kind not in ("torso", "spine", "hip"):
        return case
    known = {name: value for name, value in case.options.items() if name in ("sex", "age_years", "size", "fat_mm")}
    patient = invented_patient(**known)
    bmi = round(patient["weight_kg"] / patient["height_m"] ** 2, 1)
    return replace(case, factors=case.factors | {"bmi": bmi})


def analysed(case: Case, folder: Path, *, mode: str, strength: bool) -> Result:
    """Write a case (unless it is there), run the pipeline on it, and compare."""
    source = folder / "input" / case.name
    stated = {"case": asdict(case), "mode": mode}
    note = source / "case.json"
    if not note.is_file() or json.loads(note.read_text(encoding="utf-8")) != json.loads(json.dumps(stated)):
        write_case(case, source.parent, mode=mode)
        note.write_text(json.dumps(stated), encoding="utf-8")
    truth = Truth.load(source / "truth.json")
    inventory = find_studies([source / ("ct.nii.gz" if case.scan.get("file_format") == "nifti" else "dicom")])
    out = folder / "results" / case.name
    if case.kind == "rods":
        return _of_plate(case, truth, inventory)
    if not inventory.studies:
        return Result(case.name, "refused", "no study", case.factors, [], [], [], [])
    outcome = cohort.run(inventory, out, Settings(strength=strength, threads=1))[0]
    place = out / study_key(inventory.studies[0])
    if not (place / cohort.RECORD).is_file():
        return Result(case.name, outcome.status, outcome.reason, case.factors, [], [], [], [])
    record = load_record(place / cohort.RECORD)
    pairs, misnamed, grades = compared(case, truth, record, place / "segmentation.nii.gz")
    said = sorted({f.code for s in (*record.vertebrae, *record.femora) for f in s.findings} | _spoken(record))
    return Result(case.name, outcome.status, outcome.reason, case.factors, pairs, misnamed, grades, said)


_LINE_AT_MG_CM3 = (0.0, 100.0, 200.0)


def _of_plate(case: Case, truth: Truth, inventory: Inventory) -> Result:
    """A plate of rods without a patient: the line that the scanner is calibrated with, at three densities of its mineral."""
    volume = load_volume(select(inventory.studies[0]).spine.stack)
    names = [f"line of a scanner at {density:.0f} mg/cm3" for density in _LINE_AT_MG_CM3]
    # The true line of the mineral of the rods, in water that gives way to it: stated for K2HPO4, met by the HA rods themselves.
    slope, zero, certificate = truth.hu_per_mg_cm3, truth.hu_at_zero, None
    if truth.rods[0].mineral == "hydroxyapatite":
        slope, zero = np.polyfit([rod.density_mg_cm3 for rod in truth.rods], [rod.hu for rod in truth.rods], 1)
        # No product has these rods: their values come with them.
        certificate = PhantomDefinition("HA", "HA", tuple(rod.density_mg_cm3 for rod in truth.rods), certified=True)
    try:
        _, line = calibrate_scanner(volume, definition=certificate)
    except Refusal as refusal:
        pairs = [
            Pair(case.name, "scanner", n, d, None, None, case.factors)
            for n, d in zip(names, _LINE_AT_MG_CM3, strict=True)
        ]
        return Result(case.name, "refused", refusal.reason, case.factors, pairs, [], [], [])
    pairs = []
    for name, true in zip(names, _LINE_AT_MG_CM3, strict=True):
        measured = float(line.density_mg_cm3(zero + slope * true))
        pairs.append(Pair(case.name, "scanner", name, true, measured, line.uncertainty_mg_cm3(measured), case.factors))
    return Result(case.name, "done", "", case.factors, pairs, [], [], sorted(f.code for f in line.findings))


def _spoken(record: StudyRecord) -> set[str]:
    """Codes of findings anywhere in a record."""
    codes: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("code"), str) and "severity" in node:
                codes.add(node["code"])
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(json.loads(record.model_dump_json()))
    return codes


def compared(
    case: Case, truth: Truth, record: StudyRecord, segmentation: Path
) -> tuple[list[Pair], list[str], list[tuple[int, int | None]]]:
    """Pairs of numbers, vertebrae under a wrong name, and (true, found) grades; only whole vertebrae count."""
    pairs: list[Pair] = []
    misnamed: list[str] = []
    grades: list[tuple[int, int | None]] = []
    found = {v.name: v for v in record.vertebrae}
    labels = nibabel.load(segmentation) if segmentation.is_file() else None
    names = {v.label: v.name for v in record.vertebrae if v.label is not None}
    for true in truth.vertebrae:
        if not true.complete:
            continue
        mine = found.get(true.name)
        if labels is not None:
            there = names.get(_label_at(labels, np.array(true.centre_lps_mm)))
            if there is not None and found[there].level is None:
                mine = found[there]  # found, measured, and left without a name
            elif there is not None and there != true.name:
                misnamed.append(f"{true.name} called {there}")
        pairs += _vertebra_pairs(case, truth, true, mine)
        if mine is not None and mine.fracture is not None:
            grades.append((true.genant_grade, mine.fracture.genant_grade))
        else:
            grades.append((true.genant_grade, None))
    femora = {f.name: f for f in record.femora}
    for hip in truth.femora:
        if hip.shaft_below_lesser_trochanter_mm < BELOW_LESSER_TROCHANTER_MM:
            continue  # the image does not hold the regions
        pairs += _femur_pairs(case, hip, femora.get(hip.name))
    return pairs, misnamed, grades


def _label_at(image: Any, point_lps_mm: NDArray[np.float64]) -> int:
    """Label of the voxel at a point, 0 outside."""
    ras = point_lps_mm * (-1.0, -1.0, 1.0)
    index = np.rint(np.linalg.inv(image.affine) @ np.append(ras, 1.0))[:3].astype(int)
    if (index < 0).any() or (index >= image.shape).any():
        return 0
    return int(image.dataobj[tuple(index)])


def _vertebra_pairs(case: Case, truth: Truth, true: VertebraTruth, found: Vertebra | None) -> list[Pair]:
    hu, vbmd = (found.trabecular_hu, found.vbmd_mg_cm3) if found else (None, None)
    numbers: list[tuple[str, float | None, Quantity | None]] = [
        ("HU of the peeled body", true.peeled_hu, hu),
        (VBMD, true.peeled_density_mg_cm3, vbmd),
        # What the measured HU would be worth on the true line: the rest is the calibration's.
        (_CALIBRATION_ONLY, (hu.value - truth.hu_at_zero) / truth.hu_per_mg_cm3 if hu else None, vbmd),
        ("vBMD against the central cylinder, mg/cm3", true.trabecular_density_mg_cm3, vbmd),
        ("vBMD taken for mineral, mg/cm3", true.peeled_mineral_mg_cm3, vbmd),
    ]
    heights = found.heights_mm if found else None
    numbers += [
        (f"{part} height, mm", getattr(true, f"{part}_mm"), getattr(heights, part) if heights else None)
        for part in _HEIGHTS
    ]
    return [_pair(case, true.name, name, known, measured) for name, known, measured in numbers if known is not None]


def _femur_pairs(case: Case, true: FemurTruth, found: Femur | None) -> list[Pair]:
    pairs = []
    for region in _REGIONS:
        known, words = true.abmd[region], region.replace("_", " ")
        mean, sd = tables.numbers(f"nhanes3_white_women_20_29.{region}")
        numbers = [
            (f"{words} aBMD, g/cm2", known.abmd_g_cm2, getattr(found and found.abmd_g_cm2, region, None)),
            (f"{words} mineral content, g", known.mineral_g, getattr(found and found.bmc_g, region, None)),
            (f"{words} area, cm2", known.area_cm2, getattr(found and found.area_cm2, region, None)),
            (f"{words} T-score", (known.abmd_g_cm2 - mean) / sd, found.t_scores.get(region) if found else None),
        ]
        pairs += [_pair(case, true.name, *number) for number in numbers]
    return pairs


def _pair(case: Case, structure: str, quantity: str, true: float, found: Quantity | None) -> Pair:
    value, uncertainty = (found.value, found.uncertainty) if found is not None else (None, None)
    return Pair(case.name, structure, quantity, true, value, uncertainty, case.factors)


def main(arguments: list[str] | None = None) -> int:
    """Run, print, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=sorted(SUITES))
    parser.add_argument("-o", "--out", type=Path, default=None, help="default: out-accuracy/SUITE")
    parser.add_argument("--count", type=int)
    parser.add_argument("--only", nargs="+", metavar="CASE", help="these cases, by name")
    parser.add_argument("--mode", choices=("fast", "projections"), default="fast")
    parser.add_argument("--by", nargs="*", default=["kvp", "slice_mm", "dose", "bmi"], help="factors to group by")
    parser.add_argument("--strength", action="store_true", help="also compute strengths, which no truth is known of")
    parser.add_argument("--drawn", type=int, default=32, help="calibration: cases of another person on another scanner")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args(arguments)
    folder = options.out or Path("out-accuracy") / options.suite
    results: list[Result] = []
    chosen = cases(options.suite, count=options.count)
    if options.only:
        unknown = set(options.only) - {case.name for case in chosen}
        if unknown:
            parser.error(f"{options.suite} has no case {', '.join(sorted(unknown))}")
        chosen = [case for case in chosen if case.name in options.only]
    for number, case in enumerate(chosen, start=1):
        results.append(analysed(with_bmi(case), folder, mode=options.mode, strength=options.strength))
        print(f"{number}/{len(chosen)} {case.name}: {results[-1].status} {results[-1].reason}", flush=True)
    found = summary(results, options.by)
    print("\n" + report(found))
    if options.suite == "hostile":
        print("\n" + fault_table(results))
    if options.suite == "hip-abmd" and not options.only:
        posed = posed_hips()
        if options.count is not None:  # as many of them as of the suite
            posed = [posed[round(n)] for n in np.linspace(0, len(posed) - 1, min(options.count, len(posed)))]
        print("\n" + against_projection([examine(case, draws=0) for case in posed]))
    if options.suite == "calibration" and not options.only:
        print("\nEvery case another person on another scanner (benchmarks.calibration_coverage):\n")
        print(coverage([pair for number in range(options.drawn) for pair in measured(number)]))
        print("\nWithout images (benchmarks.calibration_people):\n")
        calibration_people.main([])
    if options.json is not None:
        everything = found | {"suite": options.suite, "mode": options.mode, "results": [asdict(r) for r in results]}
        options.json.write_text(json.dumps(everything, indent=1), encoding="utf-8")
    if options.figure is not None:
        draw(results, options.figure)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
