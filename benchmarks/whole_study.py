"""Time and memory of one whole study, DICOM to report, stage by stage.

    python -m benchmarks.whole_study [--out FOLDER] [--pixel-mm 0.66] [--slice-mm 1.25] [--json FILE] [--study FOLDER]

Writes a torso phantom from T4 to the upper thighs with as many voxels as 512 x 512 x 500 (or takes the DICOM folder given with
``--study``), analyses it twice in fresh processes, and prints the stages of both runs: the first may
compile, the second is warm.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import phantoms
from reports.record import load_record


def main(arguments: list[str] | None = None) -> int:
    """Run and print; exit status 1 if the study could not be analysed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out-whole-study"))
    parser.add_argument("--pixel-mm", type=float, default=0.66)
    parser.add_argument("--slice-mm", type=float, default=1.25)
    parser.add_argument("--study", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    source = options.study
    if source is None:
        source = options.out / "input" / "dicom"
        if not source.is_dir():
            phantom = phantoms.make_phantom("torso", seed=1, top_level="T4")
            phantoms.write_study(phantom, options.out / "input", slice_mm=options.slice_mm, pixel_mm=options.pixel_mm)
    runs = [_run(source, options.out / name) for name in ("first", "second")]
    if any(run is None for run in runs):
        print("the study could not be analysed", file=sys.stderr)
        return 1
    first, second = (run for run in runs if run is not None)
    shape = " x ".join(str(n) for n in second["shape"])
    print(f"{shape} voxels, {second['voxels'] / 1e6:.0f} M; {second['measured']}\n")
    print("| stage | first run, s | second run, s |\n| --- | --- | --- |")
    for stage, seconds in second["timings_s"].items():
        print(f"| {stage} | {first['timings_s'].get(stage, 0.0):.1f} | {seconds:.1f} |")
    print(f"| peak memory, MiB | {first['peak_mib']:.0f} | {second['peak_mib']:.0f} |")
    if options.json is not None:
        options.json.write_text(json.dumps(runs, indent=1), encoding="utf-8")
    return 0


def _run(source: Path, out: Path) -> dict[str, Any] | None:
    """One analysis in a process of its own, so that memory and compilation are its own."""
    command = [sys.executable, "-m", "pipeline.cli", "run", str(source), "-o", str(out), "--overwrite", "--quiet"]
    subprocess.run(command, check=False)
    files = sorted(out.glob("study-*/record.json"))
    ledger = out / "ledger.jsonl"
    if not files or not ledger.is_file():
        return None
    outcome = json.loads(ledger.read_text(encoding="utf-8").splitlines()[-1])
    record = load_record(files[0])
    if outcome["status"] != "done":
        return None
    shape = record.series.used[0].shape
    strong = [s for s in record.vertebrae if s.strength_n is not None]
    hips = [f for f in record.femora if f.strength_n is not None]
    return {
        "shape": shape,
        "voxels": shape[0] * shape[1] * shape[2],
        "timings_s": record.timings_s,
        "peak_mib": outcome["peak_mib"],
        "measured": f"{len(strong)} vertebrae and {len(hips)} femora with strength",
    }


if __name__ == "__main__":
    sys.exit(main())
