"""What one application of the operator costs, what a second core brings, and what a first solution costs.

    python -m benchmarks.solver_threads
    python -m benchmarks.solver_threads --processors     only this: code for older processors, run on this one

One and two threads take turns within a process and the shortest time of each counts. The lines called *ceiling* are two
independent loops, one without memory traffic and one that only copies: what two cores of this machine can bring to
anyone. Levels of 64^3 voxels stay in the last cache of most machines, those of 128^3 do not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numba import njit

import fea
from benchmarks.measuring import OtherWork, best_of, in_own_process, side_by_side, write_json
from benchmarks.solver_models import STANDARD, cube, platens

_START = """
import time
t = time.perf_counter()
import numpy as np, fea
m = fea.VoxelModel(np.full((12, 12, 12), 1000.0), (1.0, 1.0, 1.0))
s = [fea.Prescribed("bottom", fea.face_nodes(m, 0, False), z=0.0, y=0.0, x=0.0),
     fea.Prescribed("top", fea.face_nodes(m, 0, True), z=-0.1)]
fea.solve(m, s)
print(time.perf_counter() - t)
"""
# what numba is told to compile for, in place of the processor that it finds
PROCESSORS: dict[str, dict[str, str]] = {
    "as it is": {},
    "AVX2, no AVX-512": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+sse4.2,+avx,+avx2,+fma,+bmi,+bmi2,+f16c"},
    "SSE2": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""},
}
OPERATOR_SECONDS = 0.5
SOLVE_SECONDS = 1.5


@njit(nogil=True, fastmath=True)
def _arithmetic(rounds: int) -> float:
    a, b, c, d = 0.0, 1.0, 2.0, 3.0
    for _ in range(rounds):
        a, b, c, d = a * 0.9 + 1.0, b * 0.8 + 1.0, c * 0.7 + 1.0, d * 0.6 + 1.0
    return a + b + c + d


@njit(nogil=True)
def _copy(source: np.ndarray, target: np.ndarray) -> None:
    for i in range(source.size):
        target[i] = source[i]


def _both(action: Callable[[int], object]) -> None:
    other = threading.Thread(target=action, args=(1,))
    other.start()
    action(0)
    other.join()


def measure_ceiling(threads: int) -> dict[str, Any]:
    """How much faster two threads do two independent tasks than one does them one after the other."""
    fields = [(np.ones(8_000_000), np.zeros(8_000_000)) for _ in range(2)]
    result: dict[str, Any] = {"what": "ceiling"}
    tasks: dict[str, Callable[[int], object]] = {
        "arithmetic": lambda n: _arithmetic(4_000_000),
        "memory": lambda n: _copy(*fields[n]),
    }
    for name, task in tasks.items():
        task(0)
        with OtherWork() as others:
            one, two = side_by_side([partial(task, 0), partial(_both, task)], OPERATOR_SECONDS)
        result[name] = {"speed_up": 2 * one / two, "other_cores_busy": others.cores}
    return result


def measure_operator(threads: int, side: int, precision: str) -> dict[str, Any]:
    """One application of the operator on a full cube."""
    model = cube(side)
    ends = platens(model)
    levels = [fea.Solver(model, ends, threads=count).level for count in (1, threads)]
    dtype = np.dtype(precision).type
    u = levels[0].zeros(dtype)
    u[:] = np.random.default_rng(0).random(u.shape, dtype=np.float32)
    out = levels[0].zeros(dtype)
    dof = 3 * int(np.prod(model.node_shape))
    with OtherWork() as others:
        one, several = side_by_side([partial(level.apply, u, out) for level in levels], OPERATOR_SECONDS)
    return {
        "what": "operator",
        "side": side,
        "precision": precision,
        "ns_per_dof": 1e9 * one / dof,
        "ns_per_dof_threads": 1e9 * several / dof,
        "threads": threads,
        "speed_up": one / several,
        "other_cores_busy": others.cores,
    }


def measure_solve(threads: int, name: str, rtol: float) -> dict[str, Any]:
    """Set-up and solution by one and by several threads, and whether the answers are the same to the last bit."""
    model = STANDARD[name]()
    ends = platens(model)
    parts: dict[int, list[tuple[float, float]]] = {1: [], threads: []}
    answers: dict[int, np.ndarray] = {}

    def run(count: int) -> None:
        solution = fea.Solver(model, ends, threads=count).solve(rtol=rtol)
        parts[count].append((solution.setup_s, solution.solve_s))
        answers[count] = solution.displacement_mm

    run(threads)
    with OtherWork() as others:
        one, several = side_by_side([lambda: run(1), lambda: run(threads)], SOLVE_SECONDS)
    best = {count: (min(a for a, _ in runs), min(b for _, b in runs)) for count, runs in parts.items()}
    return {
        "what": "solve",
        "model": name,
        "setup_s": best[1][0],
        "solve_s": best[1][1],
        "setup_s_threads": best[threads][0],
        "solve_s_threads": best[threads][1],
        "threads": threads,
        "speed_up": one / several,
        "same_bits": bool(np.array_equal(answers[1], answers[threads])),
        "other_cores_busy": others.cores,
    }


def measure_processor(threads: int, rtol: float) -> dict[str, Any]:
    """One application of the operator in both precisions, and one solution, in the code compiled for this process."""
    model = STANDARD["B64"]()
    ends = platens(model)
    solver = fea.Solver(model, ends, threads=threads)
    solution = solver.solve(rtol=rtol)
    fields = {}
    for dtype in (np.float32, np.float64):
        u = solver.level.zeros(dtype)
        u[:] = np.random.default_rng(0).random(u.shape, dtype=np.float32)
        fields[dtype.__name__] = (u, solver.level.zeros(dtype))
    actions: list[Callable[[], object]] = [partial(solver.level.apply_free, *both) for both in fields.values()]
    dof = 3 * int(np.prod(model.node_shape))
    with OtherWork() as others:
        seconds = [best_of(action, OPERATOR_SECONDS, 20) for action in actions]
        seconds.append(best_of(partial(solver.solve, rtol=rtol), OPERATOR_SECONDS))
    return {
        "float32_ns_per_dof": 1e9 * seconds[0] / dof,
        "float64_ns_per_dof": 1e9 * seconds[1] / dof,
        "solve_s": seconds[2],
        "iterations": solution.iterations,
        "reaction_n": float(solution.reaction_n["top"][0]),
        "other_cores_busy": others.cores,
    }


def report_processors(rtol: float = 1e-6) -> list[dict[str, Any]]:
    """Measure and print how the solver fares without the newest instructions; the records."""
    print(
        f"{'compiled for':>18} {'float32':>8} {'float64':>8} {'solve B64':>9} {'it':>3} {'reaction, N':>16} "
        f"{'others, cores':>14}\n{'':>18} {'ns/DOF':>8} {'ns/DOF':>8} {'s':>9}"
    )
    records = []
    for name, choice in PROCESSORS.items():
        with tempfile.TemporaryDirectory() as cache:
            environment = {**choice, "NUMBA_CACHE_DIR": cache}
            record = in_own_process(measure_processor, threads=1, environment=environment, rtol=rtol)
        records.append({"what": "processor", "compiled_for": name, **record})
        print(
            f"{name:>18} {record['float32_ns_per_dof']:8.2f} {record['float64_ns_per_dof']:8.2f} "
            f"{record['solve_s']:9.3f} {record['iterations']:3d} {record['reaction_n']:16.9f} "
            f"{record['other_cores_busy']:14.1f}",
            flush=True,
        )
    return records


def starts() -> dict[str, Any]:
    """Seconds from the start of the interpreter's work to a first small solution, with an empty and with a full cache."""
    with tempfile.TemporaryDirectory() as cache, OtherWork() as others:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        seconds = [
            float(
                subprocess.run(
                    [sys.executable, "-c", _START], capture_output=True, text=True, check=True, env=environment
                ).stdout
            )
            for _ in range(3)
        ]
    return {
        "what": "start",
        "cold_start_s": seconds[0],
        "warm_start_s": min(seconds[1:]),
        "other_cores_busy_and_itself": others.cores,
    }


def report(threads: int = 2, rtol: float = 1e-6) -> list[dict[str, Any]]:
    """Measure and print all tables; the records."""
    records = [in_own_process(measure_ceiling, threads=threads)]
    print(f"\n{'ceiling of two threads':>24} {'speed-up':>9} {'others, cores':>14}")
    for name in ("arithmetic", "memory"):
        found = records[0][name]
        print(f"{name:>24} {found['speed_up']:9.2f} {found['other_cores_busy']:14.1f}", flush=True)
    print(f"\n{'operator':>9} {'':>8} {'1 thread':>9} {f'{threads} threads':>9} {'speed-up':>9} {'others, cores':>14}")
    print(f"{'':>9} {'':>8} {'ns/DOF':>9} {'ns/DOF':>9}")
    for side in (64, 128):
        for precision in ("float32", "float64"):
            record = in_own_process(measure_operator, threads=threads, side=side, precision=precision)
            records.append(record)
            print(
                f"{f'{side}^3':>9} {precision:>8} {record['ns_per_dof']:9.2f} {record['ns_per_dof_threads']:9.2f} "
                f"{record['speed_up']:9.2f} {record['other_cores_busy']:14.1f}",
                flush=True,
            )
    print(
        f"\n{'solution':>9} {'1 thread, s':>15} {f'{threads} threads, s':>15} {'speed-up':>9} {'same bits':>9} "
        f"{'others, cores':>14}\n{'':>9} {'set-up':>7} {'solve':>7} {'set-up':>7} {'solve':>7}"
    )
    for name in ("A10", "A05", "B64", "B128"):
        record = in_own_process(measure_solve, threads=threads, name=name, rtol=rtol)
        records.append(record)
        print(
            f"{name:>9} {record['setup_s']:7.3f} {record['solve_s']:7.3f} {record['setup_s_threads']:7.3f} "
            f"{record['solve_s_threads']:7.3f} {record['speed_up']:9.2f} {record['same_bits']!s:>9} "
            f"{record['other_cores_busy']:14.1f}",
            flush=True,
        )
    records.append(starts())
    print(
        f"\nfirst solution of a process: {records[-1]['cold_start_s']:.1f} s with nothing compiled, "
        f"{records[-1]['warm_start_s']:.2f} s with the kernels on disk"
    )
    return records


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.solver_threads", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rtol", type=float, default=1e-6)
    parser.add_argument("--processors", action="store_true", help="code for older processors instead of threads")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    records = report_processors(options.rtol) if options.processors else report(options.threads, options.rtol)
    write_json(options.json, records)


if __name__ == "__main__":
    main()
