"""What contrast agent in every phase is taken for: the aorta as measured, and how often it is flagged, on phantoms.

    python -m benchmarks.contrast_phases [--bodies 4] [--json FILE]

Bodies differ in size, fat, plaques in the aorta, scoliosis, slice thickness, dose and tube voltage; each is imaged in every
phase with the same bones, so it is segmented once. ``flagged`` are scans whose densities are widened (`contrast_given` true),
``named`` lists the codes of the findings. The truth of the aorta is the CT number of its blood at the voltage of the scan.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from phantoms import make_phantom
from phantoms.materials import Materials, iodine_hu_per_mg_cm3
from phantoms.phantom import Phantom
from pipeline.density.conditions import contrast_given
from pipeline.density.tissues import survey_tissues
from pipeline.segmentation.chain import segment
from pipeline.segmentation.model import Segmentation
from pipeline.volume import Acquisition, Grid, Volume

PHASES: dict[str, dict[str, float]] = {
    "none": {},
    "none, anaemia": {"blood": 28.0},
    "none, dense blood": {"blood": 58.0},
    "none, iron in the liver": {"liver": 110.0},
    "arterial": {"blood": 290.0, "kidney": 150.0, "muscle": 58.0},
    "venous": {"blood": 150.0, "liver": 110.0, "spleen": 125.0, "kidney": 190.0, "muscle": 64.0},
    "3 minutes": {"blood": 112.0, "liver": 102.0, "spleen": 105.0, "kidney": 170.0, "muscle": 62.0},
    "5 minutes": {"blood": 88.0, "liver": 85.0, "spleen": 85.0, "kidney": 140.0, "muscle": 60.0},
    "10 minutes": {"blood": 72.0, "liver": 72.0, "spleen": 70.0, "kidney": 115.0, "muscle": 57.0},
    "30 minutes": {"blood": 55.0, "liver": 60.0, "spleen": 55.0, "kidney": 75.0, "muscle": 54.0},
}
"""CT numbers at 120 kVp of what differs from a native scan: working values of the order that abdominal CT shows."""

BODIES: tuple[tuple[dict[str, Any], dict[str, float]], ...] = (
    ({"sex": "F", "age_years": 68, "fat_mm": 25.0}, {"kvp": 120, "slice_mm": 2.5, "pixel_mm": 0.9, "dose": 1.0}),
    (
        {"sex": "M", "age_years": 55, "fat_mm": 15.0, "aortic_plaques": True},
        {"kvp": 100, "slice_mm": 2.0, "pixel_mm": 0.9, "dose": 0.6},
    ),
    (
        {"sex": "F", "age_years": 80, "fat_mm": 40.0, "aortic_plaques": True},
        {"kvp": 120, "slice_mm": 5.0, "pixel_mm": 0.95, "dose": 1.0},
    ),
    (
        {"sex": "M", "age_years": 72, "fat_mm": 20.0, "scoliosis_deg": 15.0},
        {"kvp": 140, "slice_mm": 3.0, "pixel_mm": 0.9, "dose": 0.2},
    ),
)


@dataclass(frozen=True)
class EnhancedPhantom(Phantom):
    """A phantom whose materials read given CT numbers at 120 kVp, by the iodine in them (negative: less dense blood)."""

    enhanced_hu: dict[str, float] = field(default_factory=dict)

    @property
    def iodine_mg_cm3(self) -> dict[str, float]:
        plain, gain = Materials.at(120), iodine_hu_per_mg_cm3(120.0)
        return {name: (hu - plain.hu(name)) / gain for name, hu in self.enhanced_hu.items()}


def scan(phantom: Phantom, enhanced_hu: dict[str, float], settings: dict[str, float]) -> tuple[Volume, float]:
    """The image of a body in one phase, and what its blood truly reads."""
    own = {f.name: getattr(phantom, f.name) for f in fields(Phantom)}
    enhanced = EnhancedPhantom(**own, enhanced_hu=enhanced_hu)
    image = enhanced.image(**settings)  # type: ignore[arg-type]
    shape = (image.hu.shape[0], image.hu.shape[1], image.hu.shape[2])
    volume = Volume(image.hu, Grid(shape, image.lattice.index_to_lps), Acquisition(kvp=float(settings["kvp"])))
    return volume, float(enhanced.materials(settings["kvp"]).hu("blood"))


def rows(bodies: int) -> list[dict[str, Any]]:
    """One row per phase."""
    found: dict[str, list[tuple[float, float | None, bool, tuple[str, ...]]]] = {name: [] for name in PHASES}
    for seed, (options, settings) in enumerate(BODIES[:bodies], start=1):
        phantom = make_phantom("torso", seed=seed, hips=False, **options)
        segmentation: Segmentation | None = None
        for name, enhanced_hu in PHASES.items():
            volume, truth_hu = scan(phantom, enhanced_hu, settings)
            segmentation = segmentation or segment(volume)
            survey = survey_tissues(volume, segmentation)
            flagged, findings = contrast_given(volume, survey)
            blood = survey.samples.get("blood")
            codes = tuple(finding.code for finding in findings)
            found[name].append((truth_hu, None if blood is None else blood.hu, flagged, codes))
            print(f"body {seed}, {name}: {codes}", file=sys.stderr)
    table = []
    for name, seen in found.items():
        errors = [hu - truth for truth, hu, _, _ in seen if hu is not None]
        named = Counter(code for *_, codes in seen for code in codes)
        table.append(
            {
                "phase": name,
                "blood_hu": [round(truth) for truth, *_ in seen],
                "found": len(errors),
                "bodies": len(seen),
                "largest_error_hu": round(float(np.abs(errors).max()), 1) if errors else None,
                "flagged": sum(flagged for _, _, flagged, _ in seen),
                "named": dict(sorted(named.items())),
            }
        )
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bodies", type=int, default=len(BODIES))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    table = rows(options.bodies)
    print("| phase | blood, HU | aorta found | largest error, HU | flagged | findings |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in table:
        blood = f"{min(row['blood_hu'])} to {max(row['blood_hu'])}"
        named = ", ".join(f"`{code}` {count}" for code, count in row["named"].items()) or "none"
        share = f"{row['found']} of {row['bodies']}"
        print(f"| {row['phase']} | {blood} | {share} | {row['largest_error_hu']} | {row['flagged']} | {named} |")
    if options.json is not None:
        options.json.write_text(json.dumps(table, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
