"""What the whole pipeline finds on each case of the development set of real CT.

    python -m benchmarks.real_data [--data FOLDER] [--out FOLDER] [--json FILE] [--cases NAME ...]

Each ``ct.nii.gz`` and each ``dicom.zip`` is a study of its own. Prints one Markdown table (the one in docs/validation.md) and,
with ``--json``, writes the same as a list of objects. Nothing here is compared with a reference; it shows what is found, what
is refused, and why.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from pipeline import cohort
from pipeline.errors import Refusal
from pipeline.ingest import find_studies, study_key
from pipeline.study import Settings
from reports.record import StudyRecord, load_record

INPUTS = ("dicom.zip", "ct.nii.gz")


def main(arguments: list[str] | None = None) -> int:
    """Run and print; the exit status is 1 if a study failed (a fault of the program, not a refusal)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OPENBCT_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path, default=Path("out-real-data"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cases", nargs="*")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--overwrite", action="store_true")
    options = parser.parse_args(arguments)
    if not options.data.is_dir():
        print("the development set is not here: name its folder with --data or OPENBCT_DATA", file=sys.stderr)
        return 2
    rows = []
    for case in sorted(p for p in options.data.iterdir() if p.is_dir()):
        if options.cases and case.name not in options.cases:
            continue
        for name in INPUTS:
            if (case / name).is_file():
                print(f"{case.name}/{name}", file=sys.stderr)
                rows += _rows(case / name, f"{case.name}/{name}", options)
    print(table(rows))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 1 if any(row["status"] == "failed" for row in rows) else 0


def _rows(source: Path, title: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    try:
        inventory = find_studies([source])
        outcomes = cohort.run(inventory, options.out, Settings(), workers=options.workers, overwrite=options.overwrite)
    except Refusal as refusal:
        return [{"case": title, "status": "refused", "reason": refusal.reason, "text": str(refusal)}]
    if not outcomes:
        skipped = "; ".join(f"{s.name} {s.reason}" for s in inventory.skipped)
        return [{"case": title, "status": "refused", "reason": "no_study", "text": skipped}]
    rows = []
    for study, outcome in zip(inventory.studies, outcomes, strict=True):
        row: dict[str, Any] = {
            "case": title,
            "status": outcome.status,
            "reason": outcome.reason,
            "text": outcome.text,
            "seconds": outcome.seconds,
            "peak_mib": outcome.peak_mib,
        }
        record_file = options.out / study_key(study) / cohort.RECORD
        if record_file.is_file():
            row |= _found(load_record(record_file))
        rows.append(row)
    return rows


def _found(record: StudyRecord) -> dict[str, Any]:
    vertebrae = [
        f"{v.level or v.name.removeprefix('vertebra_')}"
        + ("" if v.status.value == "ok" else "?" if v.status.value == "warning" else "✗")
        for v in record.vertebrae
    ]
    hu = [v.trabecular_hu.value for v in record.vertebrae if v.trabecular_hu is not None]
    femora = []
    for f in record.femora:
        density = f.abmd_g_cm2.total_hip if f.abmd_g_cm2 is not None else None
        words = [f.side, f.status.value]
        words += [f"aBMD {density.value:.3f}"] if density is not None else []
        words += [f"T {f.t_score.value:.1f}"] if f.t_score is not None else []
        words += [f"{f.strength_n.value:.0f} N"] if f.strength_n is not None else []
        words += [f.findings[0].code] if f.status.value in ("failed", "absent") and f.findings else []
        femora.append(" ".join(words))
    strength = [v.strength_n.value for v in record.vertebrae if v.strength_n is not None]
    fractures = [
        f"{v.level or v.name} {v.fracture.genant_grade}"
        for v in record.vertebrae
        if v.fracture is not None and v.fracture.genant_grade > 0
    ]
    return {
        "vertebrae": " ".join(vertebrae),
        "trabecular_hu": f"{min(hu):.0f}-{max(hu):.0f}" if hu else "",
        "spine_vbmd": f"{record.assessment.spine_vbmd_mg_cm3.value:.0f}" if record.assessment.spine_vbmd_mg_cm3 else "",
        "grades": ", ".join(fractures),
        "vertebral_strength_n": f"{min(strength):.0f}-{max(strength):.0f}" if strength else "",
        "femora": "; ".join(femora),
        "findings": sorted({f.code for _, f in record.all_findings() if f.severity.value != "info"}),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    heads = {
        "case": "case",
        "status": "status",
        "vertebrae": "vertebrae (? warning, ✗ refused)",
        "trabecular_hu": "HU",
        "spine_vbmd": "spine vBMD",
        "grades": "Genant > 0",
        "vertebral_strength_n": "vertebral strength, N",
        "femora": "femora",
        "seconds": "s",
        "peak_mib": "MiB",
        "reason": "reason",
    }
    lines = ["| " + " | ".join(heads.values()) + " |", "|" + " --- |" * len(heads)]
    for row in rows:
        cells = []
        for key in heads:
            value = row.get(key, "")
            cells.append(f"{value:.0f}" if isinstance(value, float) else str(value))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
