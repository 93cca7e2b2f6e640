"""How the solver's benchmarks measure: a process for every figure, time and memory apart, and what else was running.

Memory and time are never taken in the same run, since whatever watches one costs some of the other. Libraries under
numpy get as many threads as the solver. Each record says how many cores other programs used meanwhile, because on a
shared machine that is the first thing to ask about a time.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil


def in_own_process(
    function: Callable[..., dict[str, Any]],
    *,
    threads: int = 1,
    environment: dict[str, str] | None = None,
    **given: Any,
) -> dict[str, Any]:
    """Call `function(threads=..., **given)` in a fresh interpreter; arguments and result travel as JSON."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    module = function.__module__ if function.__module__ != "__main__" else _name_of_main()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.measuring",
            module,
            function.__name__,
            json.dumps({"threads": threads, **given}),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **limits, **(environment or {})},
    )
    if done.returncode:
        raise SystemExit(f"{function.__name__} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _name_of_main() -> str:
    specification = sys.modules["__main__"].__spec__
    if specification is None:
        raise SystemExit("start this benchmark with python -m")
    return specification.name


class OtherWork:
    """Cores that other processes kept busy, on average, while the block ran."""

    def __enter__(self) -> OtherWork:
        self._began = time.perf_counter()
        self._busy, self._own = self._all(), self._mine()
        self.cores = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        seconds = time.perf_counter() - self._began
        if seconds > 0:
            self.cores = max(0.0, (self._all() - self._busy - self._mine() + self._own) / seconds)

    @staticmethod
    def _all() -> float:
        times = psutil.cpu_times()
        return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))

    @staticmethod
    def _mine() -> float:
        times = os.times()
        return times.user + times.system


class PeakMemory:
    """Largest resident memory while the block runs, less that at its start, as the operating system counted it.

    On Linux the count starts anew with the block. Elsewhere it is that of the whole process: use a fresh one.
    """

    def __enter__(self) -> PeakMemory:
        self._start = psutil.Process().memory_info().rss
        if sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5")
        self.bytes = 0
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = self._largest() - self._start

    @staticmethod
    def _largest() -> int:
        if sys.platform == "linux":
            status = Path("/proc/self/status").read_text()
            return int(status.split("VmHWM:")[1].split()[0]) * 1024
        if sys.platform == "win32":
            return int(psutil.Process().memory_info().peak_wset)
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def best_of(action: Callable[[], object], seconds: float, least: int = 3) -> float:
    """Shortest wall time of an action that is repeated for so many seconds, at least `least` times."""
    shortest, count, end = float("inf"), 0, time.perf_counter() + seconds
    while count < least or time.perf_counter() < end:
        began = time.perf_counter()
        action()
        shortest = min(shortest, time.perf_counter() - began)
        count += 1
    return shortest


def side_by_side(actions: list[Callable[[], object]], seconds: float, least: int = 3) -> list[float]:
    """`best_of` for several actions in turns, so that a change of the machine's load meets all of them."""
    shortest, count = [float("inf")] * len(actions), 0
    end = time.perf_counter() + seconds * len(actions)
    while count < least or time.perf_counter() < end:
        for n, action in enumerate(actions):
            began = time.perf_counter()
            action()
            shortest[n] = min(shortest[n], time.perf_counter() - began)
        count += 1
    return shortest


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    import llvmlite  # type: ignore[import-untyped]
    import numba
    import numpy

    name = platform.processor()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":")[1].strip() if lines else name
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def write_json(path: str | None, records: object) -> None:
    """The records of a benchmark with a description of the machine, if a file was asked for."""
    if path is not None:
        Path(path).write_text(json.dumps({"machine": machine(), "records": records}, indent=2) + "\n")


def _main() -> None:
    parser = argparse.ArgumentParser(description="Call a function; for in_own_process.")
    parser.add_argument("module")
    parser.add_argument("function")
    parser.add_argument("arguments", type=json.loads)
    options = parser.parse_args()
    function = getattr(importlib.import_module(options.module), options.function)
    print(json.dumps(function(**options.arguments)))


if __name__ == "__main__":
    _main()
