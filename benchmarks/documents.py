"""Processor time of a full set of documents for one study: pictures, HTML, PDF, FHIR, label map and DICOM objects.

    python -m benchmarks.documents [STUDY ...] [--out FOLDER]

Analyses each study (a folder or zip; without any, a torso phantom with both hips), and prints the processor seconds of all
threads that went into the stages that write, beside those of the analysis: other programs on the machine do not change them
much. The documents of one study should take less than ten seconds on two cores.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import phantoms
from pipeline.ingest import find_studies, study_key
from pipeline.settings import Settings
from pipeline.study import analyse_study

WRITING = ("record", "pictures", "label map", "documents")


def main(arguments: list[str] | None = None) -> int:
    """Run and print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=Path("out-documents"))
    options = parser.parse_args(arguments)
    inputs = options.studies or [_phantom(options.out / "input")]
    print("| study | analysis, CPU s |", " | ".join(f"{stage}, CPU s" for stage in WRITING), "| all documents, CPU s |")
    print("| --- |", " | ".join("---:" for _ in range(len(WRITING) + 2)), "|")
    for number, source in enumerate(inputs, start=1):
        study = find_studies([source]).studies[0]
        folder = options.out / study_key(study)
        folder.mkdir(parents=True, exist_ok=True)
        watch = _Watch()
        analyse_study(study, folder, Settings(), on_stage=watch.begin)
        watch.begin("end")
        spent = watch.seconds
        writing = [spent[stage] for stage in WRITING]
        row = [sum(spent.values()) - sum(writing), *writing, sum(writing)]
        print(f"| {number} |", " | ".join(f"{seconds:.1f}" for seconds in row), "|", flush=True)
    return 0


@dataclass
class _Watch:
    """Processor seconds of all threads by stage."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _current: str = "start"
    _since: float = field(default_factory=time.process_time)

    def begin(self, stage: str) -> None:
        now = time.process_time()
        self.seconds[self._current] += now - self._since
        self._current, self._since = stage, now


def _phantom(folder: Path) -> Path:
    if not (folder / "dicom").is_dir():
        phantom = phantoms.make_phantom("torso", seed=7, sex="F", age_years=72, fractures={"L1": ("wedge", 0.30)})
        phantoms.write_study(phantom, folder)
    return folder / "dicom"


if __name__ == "__main__":
    raise SystemExit(main())
