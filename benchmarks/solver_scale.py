"""Time and memory against the size of the model, from 30 thousand to 20 million degrees of freedom.

    python -m benchmarks.solver_scale [--largest-dof 20e6]

Vertebra-like bodies at 2, 1, 0.5 and 0.25 mm (A), full cubes of blocks (B), a whole femur-like body at 1 and 0.5 mm (F).
Time is wall time of set-up and solution; one and two threads have a process each, memory a third. *Off* is the deviation
of the time per degree of freedom from that of its family: 0 would be exactly linear.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fea
from benchmarks.measuring import OtherWork, in_own_process, write_json
from benchmarks.solver import measure_memory, warm_up
from benchmarks.solver_models import cube, femur, platens, vertebra

MODELS: dict[str, Callable[[], fea.VoxelModel]] = {
    "A 2 mm": lambda: vertebra(2.0),
    "A 1 mm": lambda: vertebra(1.0),
    "A 0.5 mm": lambda: vertebra(0.5),
    "A 0.25 mm": lambda: vertebra(0.25),
    "B 20^3": lambda: cube(20),
    "B 32^3": lambda: cube(32),
    "B 48^3": lambda: cube(48),
    "B 64^3": lambda: cube(64),
    "B 96^3": lambda: cube(96),
    "B 128^3": lambda: cube(128),
    "B 184^3": lambda: cube(184),
    "F 1 mm": lambda: femur(1.0),
    "F 0.5 mm": lambda: femur(0.5),
}
LINEAR_WITHIN = 0.30
_ENOUGH_SECONDS = 1.5  # small models are repeated so long, large ones solved once


def measure(threads: int, name: str, rtol: float) -> dict[str, Any]:
    """Wall time of one model, the best of a few."""
    warm_up(threads)
    model = MODELS[name]()
    ends = platens(model)
    best, end = float("inf"), time.perf_counter() + _ENOUGH_SECONDS
    with OtherWork() as others:
        while True:
            began = time.perf_counter()
            solution = fea.solve(model, ends, threads=threads, rtol=rtol)
            best = min(best, time.perf_counter() - began)
            if time.perf_counter() > end:
                break
    return {
        "wall_s": best,
        "dof": solution.dof,
        "box": model.shape,
        "solid": float(model.solid.mean()),
        "iterations": solution.iterations,
        "estimated_bytes": solution.peak_bytes,
        "other_cores_busy": others.cores,
    }


def linearity(records: list[dict[str, Any]]) -> tuple[float, float]:
    """Slope of log time against log size, and the geometric mean of the time per degree of freedom; one thread."""
    size = np.log([record["dof"] for record in records])
    seconds = np.log([record["wall_s"] for record in records])
    return float(np.polyfit(size, seconds, 1)[0]), float(np.exp((seconds - size).mean()))


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.solver_scale", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("models", nargs="*", choices=[[], *MODELS], metavar="MODEL", help="default: all")
    parser.add_argument("--threads", type=int, default=2, help="compared with one")
    parser.add_argument("--largest-dof", type=float, default=21e6)
    parser.add_argument("--rtol", type=float, default=1e-6)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    print(
        f"{'model':>10} {'box':>13} {'solid':>6} {'DOF':>9} {'it':>4} {'1 thread':>9} {f'{options.threads} threads':>9} "
        f"{'speed-up':>8} {'us/DOF':>7} {'peak MB':>8} {'stated':>8} {'B/DOF':>6} {'others':>6}"
    )
    records: list[dict[str, Any]] = []
    for name in options.models or MODELS:
        shared: dict[str, Any] = {"name": name, "rtol": options.rtol}
        record: dict[str, Any] = {"model": name} | in_own_process(measure, threads=1, **shared)
        if record["dof"] > options.largest_dof:
            continue
        several = in_own_process(measure, threads=options.threads, **shared)
        record["wall_s_threads"], record["threads"] = several["wall_s"], options.threads
        with tempfile.TemporaryDirectory() as folder:  # made elsewhere, or memory it left behind would be used again
            path = str(Path(folder) / "model.npz")
            model = MODELS[name]()
            fea.save_model(path, model, platens(model))
            record |= in_own_process(measure_memory, threads=options.threads, path=path, rtol=options.rtol)
        records.append(record)
        print(
            f"{name:>10} {'x'.join(map(str, record['box'])):>13} {record['solid']:6.2f} {record['dof']:9d} "
            f"{record['iterations']:4d} {record['wall_s']:9.3f} {record['wall_s_threads']:9.3f} "
            f"{record['wall_s'] / record['wall_s_threads']:8.2f} {1e6 * record['wall_s'] / record['dof']:7.3f} "
            f"{record['peak_bytes'] / 1e6:8.1f} {record['estimated_bytes'] / 1e6:8.1f} "
            f"{record['peak_bytes'] / record['dof']:6.1f} {record['other_cores_busy']:6.1f}",
            flush=True,
        )
    for family in sorted({record["model"][0] for record in records}):
        members = [record for record in records if record["model"].startswith(family)]
        if len(members) < 2:
            continue
        slope, typical = linearity(members)
        off = {r["model"].split(maxsplit=1)[1]: r["wall_s"] / r["dof"] / typical - 1 for r in members}
        for record in members:
            record["off_linear"] = off[record["model"].split(maxsplit=1)[1]]
        verdict = "linear" if max(map(abs, off.values())) <= LINEAR_WITHIN else "NOT linear"
        print(
            f"\n{family}: time ~ DOF^{slope:.3f}, {1e6 * typical:.3f} us/DOF, {verdict} within {LINEAR_WITHIN:.0%}; off: "
            + ", ".join(f"{name} {value:+.0%}" for name, value in off.items())
        )
    write_json(options.json, records)


if __name__ == "__main__":
    main()
