"""Whether bodies get the right names: people of many sizes and counts, seen in fields that show more or less of the landmarks.

    python -m benchmarks.segmentation_levels [--data DIR] [--only TEXT ...] [--json FILE]

Two tables: what was named, right and wrong, by person and by field of view; and how often what was stated with a probability
(names and alternatives) was true, each person counting as often as such people occur. Phantoms have an exact truth and a simple
anatomy; of the real scans one has its levels labelled, by a network.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.segmentation_spine import load
from phantoms import make_phantom
from phantoms.phantom import Phantom
from phantoms.torso import TorsoOptions, build_torso
from phantoms.vertebral_body import ALL_LEVELS, LABEL_OF_LEVEL
from pipeline.segmentation.spine import SpineResult, segment_spine
from pipeline.segmentation.spine.anatomy import anatomies
from pipeline.volume import Grid, Volume, canonical_order

_LEVEL_OF = {number: level for level, number in LABEL_OF_LEVEL.items()}
_REAL_LABELS = {27: "L5", 28: "L4", 29: "L3", 30: "L2", 31: "L1", 32: "T12", 33: "T11"}
_SURE = 0.8
_BINS = (0.0, 0.05, 0.2, 0.5, 0.8, 0.9, 0.95, 1.0)
_FREQUENCY = {
    "six lumbar": sum(a.frequency for a in anatomies() if a.presacral == 25),
    "four lumbar": sum(a.frequency for a in anatomies() if a.presacral == 23),
    "11 ribs": sum(a.frequency for a in anatomies() if a.presacral == 24 and a.rib_pairs == 11),
    "13 ribs": sum(a.frequency for a in anatomies() if a.presacral == 24 and a.rib_pairs == 13),
    "usual": sum(a.frequency for a in anatomies() if a.presacral == 24 and a.rib_pairs == 12),
}


class _FourLumbar(TorsoOptions):
    """A torso whose L4 stands on the sacrum."""

    @property
    def levels(self) -> tuple[str, ...]:
        return ALL_LEVELS[:16]


@dataclass(frozen=True)
class Person:
    """Options of a torso, how it is imaged, and which count of vertebrae and ribs it has."""

    title: str
    count: str = "usual"
    options: dict = field(default_factory=dict)
    imaging: dict = field(default_factory=dict)
    seed: int = 1


_MAN = {"sex": "M"}
PEOPLE = (
    Person("woman, 2 mm"),
    Person("woman, 5 mm", imaging={"slice_mm": 5.0}, seed=2),
    Person("man, 1 mm", options=_MAN, imaging={"slice_mm": 1.0}, seed=3),
    Person("small woman, 2 mm", options={"size": 0.82, "fat_mm": 8.0}, seed=4),
    Person("small woman, 5 mm", options={"size": 0.84}, imaging={"slice_mm": 5.0}, seed=5),
    Person("tall man, 3 mm", options=_MAN | {"size": 1.12, "fat_mm": 45.0}, imaging={"slice_mm": 3.0}, seed=6),
    Person("size of a child, 2 mm", options={"size": 0.62, "fat_mm": 5.0}, seed=7),
    Person("scoliosis 30 degrees, 2 mm", options={"scoliosis_deg": 30.0}, seed=8),
    Person("osteoporosis, low dose, 2 mm", options={"age_years": 82}, imaging={"dose": 0.3}, seed=9),
    Person("steep sacrum, 2 mm", options={"sacral_slope_deg": 52.0, "lordosis": 1.3}, seed=10),
    Person("flat back, 2 mm", options={"sacral_slope_deg": 24.0, "lordosis": 0.6}, seed=11),
    Person("arterial contrast, 3 mm", options={"contrast": "arterial"}, imaging={"slice_mm": 3.0}, seed=12),
    Person("six lumbar, woman, 2 mm", "six lumbar", {"lumbar_vertebrae": 6}, seed=13),
    Person("six lumbar, man, 3 mm", "six lumbar", _MAN | {"lumbar_vertebrae": 6}, {"slice_mm": 3.0}, seed=14),
    Person("four lumbar, woman, 2 mm", "four lumbar", seed=15),
    Person("four lumbar, man, 5 mm", "four lumbar", _MAN, {"slice_mm": 5.0}, seed=16),
    Person("11 ribs, woman, 2 mm", "11 ribs", {"rib_pairs": 11}, seed=17),
    Person("11 ribs, man, 3 mm", "11 ribs", _MAN | {"rib_pairs": 11}, {"slice_mm": 3.0}, seed=18),
    Person("13 ribs, woman, 2 mm", "13 ribs", {"rib_pairs": 13}, seed=19),
    Person("13 ribs, small man, 5 mm", "13 ribs", _MAN | {"rib_pairs": 13, "size": 0.92}, {"slice_mm": 5.0}, seed=20),
)


@dataclass(frozen=True)
class Scan:
    """A volume with the number of the true level in each voxel of its bodies."""

    volume: Volume
    labels: NDArray[np.uint8]
    level_of: dict[int, str]

    def part(self, first: int, stop: int, *, half_width_mm: float | None = None) -> Scan:
        """Slices `first` to `stop` and, if asked, so much on both sides of the bodies."""
        box = [slice(max(first, 0), min(stop, self.labels.shape[0])), slice(None), slice(None)]
        if half_width_mm is not None:
            middle = float(np.median(np.nonzero(self.labels[box[0]])[2]))
            half = half_width_mm / self.volume.spacing_mm[2]
            box[2] = slice(max(int(middle - half), 0), int(middle + half))
        matrix = self.volume.grid.index_to_lps.copy()
        matrix[:3, 3] += matrix[:3, :3] @ [s.start or 0 for s in box]
        hu, labels = (np.ascontiguousarray(a[tuple(box)]) for a in (self.volume.hu, self.labels))
        return Scan(Volume(hu, Grid(hu.shape, matrix)), labels, self.level_of)

    def flipped(self, axis: int) -> Scan:
        """The same header over data in reversed order, as a faulty conversion leaves it."""
        hu, labels = (np.ascontiguousarray(np.flip(a, axis)) for a in (self.volume.hu, self.labels))
        return Scan(Volume(hu, self.volume.grid), labels, self.level_of)

    def middle_of(self, number: int) -> int:
        """Middle slice of a body."""
        return int(np.median(np.nonzero(self.labels == number)[0]))


def scan_of(person: Person) -> Scan:
    """The image of a phantom and its truth."""
    options = {"top_level": "T8", "hips": False} | person.options
    if person.count == "four lumbar":
        chosen = _FourLumbar(**options)
        built = build_torso(chosen, person.seed)
        phantom = Phantom(
            "torso", person.seed, options, built.solids, built.low_mm, built.high_mm, lambda *_: {}, contrast="none"
        )
    else:
        phantom = make_phantom("torso", seed=person.seed, **options)
    image = phantom.image(120.0, **({"slice_mm": 2.0, "pixel_mm": 1.5} | person.imaging))
    matrix = np.eye(4)
    matrix[:3, 3] = image.lattice.to_lps(np.zeros(3))
    for axis in range(3):
        matrix[:3, axis] = np.asarray(image.lattice.to_lps(np.eye(3)[axis])) - matrix[:3, 3]
    hu, canonical, _ = canonical_order(image.hu, matrix)
    labels, _, _ = canonical_order(image.labels, matrix)
    labels = np.where(np.isin(labels, list(_LEVEL_OF)), labels, 0).astype(np.uint8)
    return Scan(Volume(hu, Grid(hu.shape, canonical)), labels, _LEVEL_OF)


def fields(scan: Scan, *, seed: int) -> Iterator[tuple[str, Scan]]:
    """Parts of a scan that show more or less of the landmarks, each cut at a height of chance."""
    random = np.random.default_rng(seed)
    numbers = sorted((n for n in np.unique(scan.labels) if n), key=scan.middle_of)
    middles = [scan.middle_of(n) for n in numbers]
    pitch = int(np.mean(np.diff(middles[:5])))
    end = scan.labels.shape[0]

    def near(which: int) -> int:
        return middles[which] + int(random.integers(-pitch // 2, pitch // 2 + 1))

    yield "whole", scan
    yield "whole, 60 mm to each side", scan.part(0, end, half_width_mm=60.0)
    yield "sacrum, 3 to 5 bodies", scan.part(0, near(int(random.integers(3, 5))))
    yield "ribs to third body", scan.part(near(2), end)
    yield "ribs to fourth body", scan.part(near(3), end)
    yield "lumbar only", scan.part(near(0) + pitch // 2, near(4))
    if len(middles) > 7:
        yield "chest only", scan.part(near(6), end)
    yield "left-right mirrored", scan.flipped(2)
    yield "upside down", scan.flipped(0)


def rows_of(result: SpineResult, scan: Scan) -> list[dict]:
    """One row per body that lies on a known one."""
    rows = []
    for vertebra in result.vertebrae:
        counts = np.bincount(scan.labels[result.labels == vertebra.label], minlength=64)
        truth = int(counts[1:].argmax()) + 1 if counts[1:].sum() else 0
        # A body that lies on two is refused for its outline; its name is that of the larger part.
        if not truth or counts[truth] < 0.4 * counts.sum():
            continue
        rows.append({
            "truth": scan.level_of[truth], "named": vertebra.level, "confidence": vertebra.level_confidence,
            "alternatives": vertebra.level_alternatives, "status": vertebra.status.value,
        })  # fmt: skip
    return rows


def run_phantoms(only: list[str]) -> list[dict]:
    rows: list[dict] = []
    for person in PEOPLE:
        if only and not any(text in person.title for text in only):
            continue
        scan = scan_of(person)
        for title, part in fields(scan, seed=person.seed):
            rows += _named(person.title, person.count, title, part)
    return rows


def run_real(data: Path, only: list[str]) -> list[dict]:
    """The labelled scan in the same fields, as far as it holds them, and the others, where a name can only be counted."""
    rows: list[dict] = []
    case = data / "ts_example_3mm"
    if not case.is_dir() or (only and not any(text in case.name for text in only)):
        return rows
    hu, matrix = load(case / "ct.nii.gz")
    whole, _ = load(case / "labels.nii.gz")
    body, _ = load(case / "labels_body.nii.gz")
    labels = np.where((body == 1) & np.isin(whole, list(_REAL_LABELS)), whole, 0).astype(np.uint8)
    scan = Scan(Volume(hu, Grid(hu.shape, matrix)), labels, _REAL_LABELS)
    for seed in (1, 2, 3):
        for title, part in fields(scan, seed=seed):
            if seed == 1 or title not in ("whole", "whole, 60 mm to each side", "left-right mirrored", "upside down"):
                rows += _named(case.name, "real", title, part)
    return rows


def _named(person: str, count: str, title: str, scan: Scan) -> list[dict]:
    result = segment_spine(scan.volume, threads=2)
    found = [row | {"person": person, "count": count, "field": title} for row in rows_of(result, scan)]
    said = "; ".join(f.text for f in result.findings if f.code.startswith("level"))
    tally = _tally(found)
    print(f"{person:30s}{title:27s}{tally}  {said[:90]}", flush=True)
    return found


def _tally(rows: list[dict]) -> str:
    right = sum(r["named"] == r["truth"] for r in rows)
    wrong = [r for r in rows if r["named"] is not None and r["named"] != r["truth"]]
    sure = sum((r["confidence"] or 0.0) > _SURE for r in wrong)
    unnamed = len(rows) - right - len(wrong)
    return f"{len(rows):5d} bodies{right:5d} right{unnamed:5d} unnamed{len(wrong):4d} wrong{sure:4d} sure"


def print_summary(rows: list[dict]) -> None:
    for key in ("person", "field", "count"):
        print(f"\nby {key}")
        for value in dict.fromkeys(r[key] for r in rows):
            print(f"  {value:32s}{_tally([r for r in rows if r[key] == value])}")
    # Data in reversed order are no patients: what is said of them only has to be no name.
    phantoms = [r for r in rows if r["count"] in _FREQUENCY and r["field"] != "upside down"]
    people = {(r["count"], r["person"]) for r in phantoms}
    alike = Counter(count for count, _ in people)
    weight = {count: _FREQUENCY[count] / alike[count] for count in alike}
    for title, wanted in (("names", ("name",)), ("names and alternatives", ("name", "alternative"))):
        print(
            f"\nreliability of {title}: stated probability, how many, mean stated, share that is true in a population"
        )
        for low, high in pairwise(_BINS):
            stated = [f for f in _forecasts(phantoms) if f[0] in wanted and low < f[1] <= high]
            total = sum(weight[f[3]] for f in stated)
            if stated:
                mean = sum(weight[f[3]] * f[1] for f in stated) / total
                true = sum(weight[f[3]] * f[2] for f in stated) / total
                print(f"  {low:.2f}-{high:.2f}{len(stated):7d}{mean:8.3f}{true:8.3f}")


def _forecasts(rows: list[dict]) -> Iterator[tuple[str, float, bool, str]]:
    """Kind, stated probability, whether it is true, and the count of the person."""
    for row in rows:
        if row["named"] is not None and row["confidence"] is not None:
            yield "name", row["confidence"], row["named"] == row["truth"], row["count"]
        for level, probability in row["alternatives"].items():
            yield "alternative", probability, level == row["truth"], row["count"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of real scans")
    parser.add_argument("--only", nargs="*", default=[], help="people whose title holds one of these texts")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    rows = run_phantoms(chosen.only)
    if chosen.data is not None:
        rows += run_real(chosen.data, chosen.only)
    print_summary(rows)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
