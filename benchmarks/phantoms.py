"""How long phantoms take, and how much memory, against what they promise.

    python -m benchmarks.phantoms [--json FILE]

Each figure in a process of its own with two threads: the suite `smoke` written to disk (promised: below 10 s); a torso from T4
to the thighs on voxels of 1 mm with its DICOM files and its truth (below 60 s and 4 GiB); one slice of 2 mm of a torso as
physics. Kernels are compiled before; what a first call on a machine adds for that is the figure `compilation`. What other
programs took of the machine meanwhile is told, since wall time hangs on it and processor time hardly.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measuring import OtherWork, PeakMemory, in_own_process, write_json
from phantoms import make_phantom, write_study, write_suite
from phantoms.voxelise import Lattice

PROMISED_S = {"smoke": 10.0, "torso": 60.0}
PROMISED_GIB = 4.0


def _timed(work: Callable[[], object]) -> dict[str, Any]:
    """Wall and processor time of a call, and the peak of this process."""
    process = psutil.Process()
    resident, before, began = process.memory_info().rss, process.cpu_times(), time.perf_counter()
    with PeakMemory() as memory, OtherWork() as others:
        work()
    wall, after = time.perf_counter() - began, process.cpu_times()
    return {
        "wall_s": wall,
        "processor_s": after.user + after.system - before.user - before.system,
        "peak_gib": (resident + memory.bytes) / 2**30,
        "other_cores": others.cores,
    }


def _warm() -> None:
    """Everything compiled or loaded from the cache."""
    with tempfile.TemporaryDirectory() as folder:
        write_study(make_phantom("spine", top_level="L4", hips=False), folder, slice_mm=6.0, pixel_mm=4.0)


def compilation(*, threads: int) -> dict[str, Any]:
    """The first small phantom of a process with an empty cache."""
    del threads
    return _timed(_warm)


def smoke(*, threads: int) -> dict[str, Any]:
    """The suite `smoke`, written."""
    del threads
    _warm()
    with tempfile.TemporaryDirectory() as folder:
        return _timed(lambda: write_suite("smoke", folder))


def torso(*, threads: int) -> dict[str, Any]:
    """T4 to the thighs on voxels of 1 mm: image, 630 DICOM files, labels, truth."""
    del threads
    _warm()
    with tempfile.TemporaryDirectory() as folder:
        phantom = make_phantom("torso", seed=1, top_level="T4")
        return _timed(lambda: write_study(phantom, Path(folder), slice_mm=1.0, pixel_mm=1.0, localizer=False))


def scanned_slice(*, threads: int) -> dict[str, Any]:
    """One slice of 2 mm through L2, simulated as physics."""
    phantom = make_phantom("torso", seed=1, hips=False)
    low, high = phantom.low_mm.copy(), phantom.high_mm.copy()
    low[2], high[2] = 124.0, 126.0
    lattice = Lattice.upright(low, high, (2.0, 0.8, 0.8))
    small = Lattice.upright(low, low + 12.0, (12.0, 4.0, 4.0))
    phantom.image(slice_mm=12.0, lattice=small, mode="projections", sub_slice_mm=12.0, threads=threads)
    return _timed(lambda: phantom.image(slice_mm=2.0, lattice=lattice, mode="projections", threads=threads))


def measured(threads: int) -> dict[str, dict[str, Any]]:
    """All figures."""
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        found["compilation"] = in_own_process(compilation, threads=threads, environment={"NUMBA_CACHE_DIR": cache})
    for function in (smoke, torso, scanned_slice):
        found[function.__name__] = in_own_process(function, threads=threads)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 if a promise is broken although nothing else ran."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    found = measured(options.threads)
    print("| what | wall, s | processor, s | peak, GiB | other programs, cores | promised |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, row in found.items():
        promise = f"{PROMISED_S[name]:.0f} s" if name in PROMISED_S else ""
        promise += f", {PROMISED_GIB:.0f} GiB" if name == "torso" else ""
        numbers = f"{row['wall_s']:.1f} | {row['processor_s']:.1f} | {row['peak_gib']:.2f} | {row['other_cores']:.1f}"
        print(f"| {name} | {numbers} | {promise} |")
    if options.json is not None:
        write_json(str(options.json), found)
    late = [name for name, limit in PROMISED_S.items() if found[name]["wall_s"] > limit]
    large = found["torso"]["peak_gib"] > PROMISED_GIB
    return int(large or any(found[name]["other_cores"] < 0.1 for name in late))


if __name__ == "__main__":
    raise SystemExit(main())
