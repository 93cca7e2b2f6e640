"""The pipeline over a suite of phantoms: bias, precision, limits of agreement, and whether the stated uncertainties hold.

    python -m benchmarks.accuracy SUITE [-o FOLDER] [--count N] [--mode fast|projections] [--by FACTOR ...]
                                  [--strength] [--json FILE] [--figure FILE.png]

SUITE is one of smoke, calibration, spine-fracture, hip-abmd, cohort, hostile. Studies and results are kept in FOLDER: a second
call goes on where the first was stopped, and only analyses again what has changed. Of every number that the truth of a phantom
knows, the table gives how many were measured, the mean error (bias), its standard deviation (precision), the 95 % limits of
agreement, and how often the truth lay within one and within 1.96 of the stated standard uncertainties; then the same by each
factor of the suite. Structures that were found under a wrong name, and numbers that were withheld, are counted.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from phantoms.suites import SUITES, Case, cases, write_case
from phantoms.truth import FemurTruth, Truth, VertebraTruth
from pipeline import cohort
from pipeline.ingest import find_studies, study_key
from pipeline.study import Settings
from reports.quantity import Quantity
from reports.record import Femur, StudyRecord, Vertebra, load_record

_HEIGHTS = ("anterior", "middle", "posterior")
_REGIONS = ("total_hip", "femoral_neck")


@dataclass(frozen=True)
class Pair:
    """A true number and what was measured of it; `measured` is None where no number was given."""

    case: str
    structure: str
    quantity: str
    true: float
    measured: float | None
    uncertainty: float | None
    factors: dict[str, Any] = field(default_factory=dict)

    @property
    def error(self) -> float:
        assert self.measured is not None
        return self.measured - self.true


@dataclass(frozen=True)
class Result:
    """What came of one case: how the study ended, pairs of numbers, named structures, grades, and what was said."""

    case: str
    status: str
    reason: str
    factors: dict[str, Any]
    pairs: list[Pair]
    misnamed: list[str]
    grades: list[tuple[int, int | None]]
    findings: list[str]


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
        pairs += _vertebra_pairs(case, true, mine)
        if mine is not None and mine.fracture is not None:
            grades.append((true.genant_grade, mine.fracture.genant_grade))
        else:
            grades.append((true.genant_grade, None))
    femora = {f.name: f for f in record.femora}
    for hip in truth.femora:
        pairs += _femur_pairs(case, hip, femora.get(hip.name))
    return pairs, misnamed, grades


def _label_at(image: Any, point_lps_mm: NDArray[np.float64]) -> int:
    """Label of the voxel at a point, 0 outside."""
    ras = point_lps_mm * (-1.0, -1.0, 1.0)
    index = np.rint(np.linalg.inv(image.affine) @ np.append(ras, 1.0))[:3].astype(int)
    if (index < 0).any() or (index >= image.shape).any():
        return 0
    return int(image.dataobj[tuple(index)])


def _vertebra_pairs(case: Case, true: VertebraTruth, found: Vertebra | None) -> list[Pair]:
    numbers: list[tuple[str, float, Quantity | None]] = [
        ("trabecular HU", true.trabecular_hu, found.trabecular_hu if found else None),
        ("vBMD, mg/cm3", true.trabecular_density_mg_cm3, found.vbmd_mg_cm3 if found else None),
    ]
    heights = found.heights_mm if found else None
    numbers += [
        (f"{part} height, mm", getattr(true, f"{part}_mm"), getattr(heights, part) if heights else None)
        for part in _HEIGHTS
    ]
    return [_pair(case, true.name, *number) for number in numbers]


def _femur_pairs(case: Case, true: FemurTruth, found: Femur | None) -> list[Pair]:
    areal = found.abmd_g_cm2 if found else None
    names = {region: f"{region.replace('_', ' ')} aBMD, g/cm2" for region in _REGIONS}
    return [
        _pair(case, true.name, name, true.abmd[region].abmd_g_cm2, getattr(areal, region, None))
        for region, name in names.items()
    ]


def _pair(case: Case, structure: str, quantity: str, true: float, found: Quantity | None) -> Pair:
    value, uncertainty = (found.value, found.uncertainty) if found is not None else (None, None)
    return Pair(case.name, structure, quantity, true, value, uncertainty, case.factors)


def statistics(pairs: list[Pair]) -> dict[str, float | int]:
    """Of pairs of one quantity: counts, bias, precision, limits of agreement, coverage and mean stated uncertainty."""
    errors = np.array([p.error for p in pairs if p.measured is not None])
    stated = [p for p in pairs if p.measured is not None and p.uncertainty is not None]
    row: dict[str, float | int] = {"known": len(pairs), "measured": len(errors)}
    if len(errors) == 0:
        return row
    precision = float(errors.std(ddof=1)) if len(errors) > 1 else float("nan")
    bias = float(errors.mean())
    row |= {
        "bias": bias,
        "precision": precision,
        "lower_limit": bias - 1.96 * precision,
        "upper_limit": bias + 1.96 * precision,
        "rms": float(np.sqrt((errors**2).mean())),
        "worst": float(errors[np.abs(errors).argmax()]),
    }
    if stated:
        ratio = np.array([abs(p.error) / max(p.uncertainty or 0.0, 1e-12) for p in stated])
        row |= {
            "stated_uncertainty": float(np.mean([p.uncertainty for p in stated])),
            "coverage_68": float((ratio <= 1.0).mean()),
            "coverage_95": float((ratio <= 1.96).mean()),
        }
    return row


def summary(results: list[Result], factors: list[str]) -> dict[str, Any]:
    """Statistics of every quantity, over all and by each value of each factor; names, grades and outcomes."""
    pairs = [p for r in results for p in r.pairs]
    quantities = list(dict.fromkeys(p.quantity for p in pairs))
    table: dict[str, Any] = {}
    for quantity in quantities:
        mine = [p for p in pairs if p.quantity == quantity]
        table[quantity] = {"all": statistics(mine)}
        for factor in factors:
            values = sorted({p.factors[factor] for p in mine if factor in p.factors}, key=str)
            if len(values) > 1:
                table[quantity] |= {
                    f"{factor} = {value}": statistics([p for p in mine if p.factors.get(factor) == value])
                    for value in values
                }
    confusion = Counter((true, found) for r in results for true, found in r.grades)
    return {
        "outcomes": dict(Counter(r.status for r in results)),
        "quantities": table,
        "misnamed": [f"{r.case}: {text}" for r in results for text in r.misnamed],
        "grades": [
            {"true": true, "found": found, "count": n} for (true, found), n in sorted(confusion.items(), key=str)
        ],
    }


def report(found: dict[str, Any]) -> str:
    """The summary as tables in Markdown."""
    lines = ["studies: " + ", ".join(f"{n} {status}" for status, n in found["outcomes"].items()), ""]
    lines += [
        "| quantity | measured | bias | precision | limits of agreement | stated u | within u | within 1.96 u | worst |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for quantity, groups in found["quantities"].items():
        for group, row in groups.items():
            name = f"**{quantity}**" if group == "all" else f"{group}"
            counted = f"{row['measured']} of {row['known']}"
            if "bias" not in row:
                lines.append(f"| {name} | {counted} | | | | | | | |")
                continue
            digits = 3 if "g/cm2" in quantity else (2 if "mm" in quantity else 1)
            number = [f"{row[key]:+.{digits}f}" for key in ("bias", "lower_limit", "upper_limit", "worst")]
            cover = (
                f"{row['stated_uncertainty']:.{digits}f} | {row['coverage_68']:.0%} | {row['coverage_95']:.0%}"
                if "coverage_68" in row
                else "| | "
            )
            lines.append(
                f"| {name} | {counted} | {number[0]} | {row['precision']:.{digits}f} | {number[1]} to {number[2]} | {cover} | "
                f"{number[3]} |"
            )
    lines += ["", f"vertebrae under a wrong name: {len(found['misnamed'])}"]
    lines += [f"- {text}" for text in found["misnamed"]]
    if found["grades"]:
        counts = {(g["true"], g["found"]): g["count"] for g in found["grades"]}
        lines += ["", "| true grade | found 0 | found 1 | found 2 | found 3 | not graded |", "| --- |" + " --- |" * 5]
        for true in range(4):
            lines.append(f"| {true} | " + " | ".join(str(counts.get((true, g), 0)) for g in (0, 1, 2, 3, None)) + " |")
    return "\n".join(lines)


def fault_table(results: list[Result]) -> str:
    """What became of each fault, beside what a careful reader must make of it; what is said of the sound study is left out."""
    usual = {code for r in results if r.factors.get("fault") == "sound" for code in r.findings}
    lines = ["| fault | expected | outcome | said | largest error of vBMD, mg/cm3 |", "| --- | --- | --- | --- | --- |"]
    for r in results:
        errors = [abs(p.error) for p in r.pairs if p.quantity.startswith("vBMD") and p.measured is not None]
        worst = f"{max(errors):.0f}" if errors else ""
        outcome = r.status + (f" ({r.reason})" if r.reason else "")
        said = ", ".join(code for code in r.findings if code not in usual)
        lines.append(f"| {r.factors['text']} | {r.factors['expect']} | {outcome} | {said} | {worst} |")
    return "\n".join(lines)


def draw(results: list[Result], path: Path) -> None:
    """Error over truth for each quantity, with the limits of agreement and the stated uncertainties."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pairs = [p for r in results for p in r.pairs if p.measured is not None]
    quantities = list(dict.fromkeys(p.quantity for p in pairs))
    if not quantities:
        return
    columns = min(len(quantities), 3)
    rows = -(-len(quantities) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.4 * rows), dpi=80, facecolor="white")
    FigureCanvasAgg(figure)
    for number, quantity in enumerate(quantities, start=1):
        mine = [p for p in pairs if p.quantity == quantity]
        row = statistics(mine)
        axes = figure.add_subplot(rows, columns, number)
        axes.errorbar(
            [p.true for p in mine], [p.error for p in mine], yerr=[p.uncertainty or 0.0 for p in mine],
            fmt="o", markersize=3, linewidth=0.6, color="tab:blue", ecolor="0.75",
        )  # fmt: skip
        for key, style in (("bias", "-"), ("lower_limit", "--"), ("upper_limit", "--")):
            axes.axhline(row[key], linestyle=style, color="tab:red", linewidth=1)
        axes.axhline(0.0, color="0.4", linewidth=0.6)
        cover = (
            f"; {row['coverage_68']:.0%} within u, {row['coverage_95']:.0%} within 1.96 u"
            if "coverage_68" in row
            else ""
        )
        axes.set_title(f"{quantity}: n = {row['measured']}{cover}", fontsize=8)
        axes.set_xlabel("true", fontsize=8)
        axes.set_ylabel("measured - true", fontsize=8)
        axes.tick_params(labelsize=7)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(arguments: list[str] | None = None) -> int:
    """Run, print, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=sorted(SUITES))
    parser.add_argument("-o", "--out", type=Path, default=None, help="default: out-accuracy/SUITE")
    parser.add_argument("--count", type=int)
    parser.add_argument("--mode", choices=("fast", "projections"), default="fast")
    parser.add_argument("--by", nargs="*", default=["kvp", "slice_mm", "dose", "fat_mm"], help="factors to group by")
    parser.add_argument("--strength", action="store_true", help="also compute strengths, which no truth is known of")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args(arguments)
    folder = options.out or Path("out-accuracy") / options.suite
    results: list[Result] = []
    chosen = cases(options.suite, count=options.count)
    for number, case in enumerate(chosen, start=1):
        results.append(analysed(case, folder, mode=options.mode, strength=options.strength))
        print(f"{number}/{len(chosen)} {case.name}: {results[-1].status} {results[-1].reason}", flush=True)
    found = summary(results, options.by)
    print("\n" + report(found))
    if options.suite == "hostile":
        print("\n" + fault_table(results))
    if options.json is not None:
        everything = found | {"suite": options.suite, "mode": options.mode, "results": [asdict(r) for r in results]}
        options.json.write_text(json.dumps(everything, indent=1), encoding="utf-8")
    if options.figure is not None:
        draw(results, options.figure)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
