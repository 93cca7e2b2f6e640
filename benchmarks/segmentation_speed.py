"""Time and memory of the segmentation alone: spine, both hips and arches, for fields of view from a thin chest to a whole body.

    python -m benchmarks.segmentation_speed [--fields study ...] [--threads 2] [--keep FOLDER] [--json FILE]

Each field is a phantom in memory (kept in FOLDER for the next time), segmented in a fresh process: once so that all compiled
code is loaded, once for the figures, once more part by part. The whole body is the torso with its first and last slice
repeated: what has to be searched is as large as the real thing. Other programs take their share of a busy machine; the column
``others`` says how many cores they kept busy. ``alone`` is the wall time to expect without them: what the main thread
computed, and the rest divided by the number of threads.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.measuring import OtherWork, PeakMemory, in_own_process, write_json
from phantoms import make_phantom
from pipeline.segmentation.chain import segment
from pipeline.segmentation.femur import segment_femora
from pipeline.segmentation.model import Segmentation
from pipeline.segmentation.spine import segment_spine
from pipeline.segmentation.spine.arches import find_arches
from pipeline.volume import Grid, Volume, canonical_order

_TORSO: dict[str, Any] = {"seed": 1, "top_level": "T4"}
_FIELDS: dict[str, tuple[dict[str, Any], tuple[float, float], tuple[int, int, int]]] = {
    "study": (_TORSO, (1.3, 0.8), (500, 512, 512)),
    "routine 2.5 mm": (_TORSO, (2.5, 0.8), (260, 512, 512)),
    "whole body 1 mm": (_TORSO, (1.0, 0.9), (1200, 512, 512)),
    "thin chest 0.6 mm": ({"seed": 2, "top_level": "T3", "hips": False}, (0.6, 0.75), (600, 512, 512)),
    "thick abdomen 5 mm": ({"seed": 3, "top_level": "T10", "hips": False}, (5.0, 0.8), (90, 512, 512)),
}
"""By name: options of the phantom, (slice, pixel) in mm, and the shape that it is cut or continued to."""
_AIR_HU = -1000

T = TypeVar("T")


def main(arguments: list[str] | None = None) -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", nargs="+", choices=tuple(_FIELDS), default=list(_FIELDS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=Path("out-segmentation-speed"))
    parser.add_argument("--json")
    options = parser.parse_args(arguments)
    options.keep.mkdir(parents=True, exist_ok=True)
    print("| field | voxels | volume, MiB | wall, s | processor, s | alone, s | others | peak beside it, MiB | found |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    rows = []
    for field in options.fields:
        path = str(options.keep / f"{field.replace(' ', '-')}.npz")
        if not Path(path).is_file():
            in_own_process(write_field, threads=options.threads, field=field, path=path)
        row = {"field": field, **in_own_process(measure_field, threads=options.threads, path=path)}
        rows.append(row)
        shape = " x ".join(str(n) for n in row["shape"])
        print(
            f"| {field} | {shape} | {row['volume_mib']:.0f} | {row['wall_s']:.1f} | {row['processor_s']:.1f} | "
            f"{row['alone_s']:.1f} | "
            f"{row['others_cores']:.1f} | {row['peak_mib']:.0f} | {row['found']} |",
            flush=True,
        )
    print("\n| field | part | wall, s | processor, s | not shared, s |\n| --- | --- | --- | --- | --- |")
    for row in rows:
        for part, seconds in row["parts"].items():
            print(f"| {row['field']} | {part} | {' | '.join(f'{s:.1f}' for s in seconds)} |")
    write_json(options.json, rows)
    return 0


def write_field(*, field: str, path: str, threads: int) -> dict[str, Any]:
    """Make one field and keep it as voxels and matrix."""
    del threads
    given, (slice_mm, pixel_mm), shape = _FIELDS[field]
    image = make_phantom("torso", **given).image(120.0, slice_mm=slice_mm, pixel_mm=pixel_mm)
    hu, matrix, _ = canonical_order(image.hu, np.asarray(image.lattice.index_to_lps))
    for axis, wanted in enumerate(shape):
        before = (wanted - hu.shape[axis]) // 2
        after = wanted - hu.shape[axis] - before
        if before < 0 or after < 0:
            hu = hu.take(np.arange(-min(before, 0), hu.shape[axis] + min(after, 0)), axis=axis)
        beyond = [(0, 0)] * 3
        beyond[axis] = (max(before, 0), max(after, 0))
        # Along the body it goes on as it ends; beside it there is air.
        hu = np.pad(hu, beyond, mode="edge") if axis == 0 else np.pad(hu, beyond, constant_values=_AIR_HU)
        matrix[:3, 3] -= matrix[:3, axis] * before
    np.savez(path, hu=np.ascontiguousarray(hu), matrix=matrix)
    return {}


def measure_field(*, path: str, threads: int) -> dict[str, Any]:
    """Segment one kept field, warm."""
    with np.load(path) as kept:
        hu = kept["hu"]
        volume = Volume(hu, Grid((hu.shape[0], hu.shape[1], hu.shape[2]), kept["matrix"]))
    segment(volume, threads=threads)
    with OtherWork() as others, PeakMemory() as memory:
        found, (wall, processor, unshared) = _timed(lambda: segment(volume, threads=threads))
    bodies = sum(v.complete for v in found.vertebrae)
    arches = 0 if found.arches is None else len(np.unique(found.arches)) - 1
    return {
        "shape": list(volume.shape),
        "volume_mib": hu.nbytes / 2**20,
        "wall_s": wall,
        "processor_s": processor,
        "alone_s": unshared + (processor - unshared) / threads,
        "others_cores": others.cores,
        "peak_mib": memory.bytes / 2**20,
        "found": f"{bodies} whole bodies, {arches} arches, {len(found.femora)} femora",
        "parts": _parts(volume, threads),
        "threads": threads,
    }


def _parts(volume: Volume, threads: int) -> dict[str, list[float]]:
    """Wall, processor and unshared seconds of each part of the chain."""
    spine, of_spine = _timed(lambda: segment_spine(volume, threads=threads))
    _, of_hips = _timed(lambda: segment_femora(volume, spine=spine, threads=threads))
    bodies = Segmentation(spine.labels, volume.grid, spine.vertebrae, canal_lps_mm=spine.canal_lps_mm)
    _, of_arches = _timed(lambda: find_arches(volume, bodies, threads=threads))
    return {"spine": of_spine, "hips": of_hips, "arches": of_arches}


def _timed(action: Callable[[], T]) -> tuple[T, list[float]]:
    """Result; wall seconds, processor seconds, and those of them that no other thread could share."""
    clocks = (time.perf_counter, time.process_time, time.thread_time)
    began = [clock() for clock in clocks]
    result = action()
    return result, [clock() - at for clock, at in zip(clocks, began, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
