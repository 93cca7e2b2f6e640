"""Solve a model file with parosol-py (`pip install parosol-py`); needs nothing of this project.

    python benchmarks/peer_parosol.py MODEL.npz 1e-6

CPU time and memory are those of the program that parosol-py starts, so reading and writing of its files count, the
interpreter does not. One process, as the solver beside it has one thread.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time

import numpy as np
import parosol_py  # type: ignore[import-not-found, unused-ignore]


def _main(path: str, rtol: float) -> None:
    data = np.load(path)
    index = data["prescribed_index"]
    conditions = parosol_py.BoundaryConditionSet(
        fixed_coordinates=np.column_stack([index[:, 2], index[:, 1], index[:, 0], 2 - index[:, 3]]).astype(np.uint16),
        fixed_values=data["prescribed_mm"].astype(np.float32),
    )
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        solution = parosol_py.solve(
            material=data["modulus_mpa"],
            spacing=tuple(data["spacing_mm"][::-1]),
            boundary_conditions=conditions,
            poisson_ratio=float(data["poisson"]),
            tolerance=rtol,
            outputs=("disp",),
            work_dir=work,
        )
    wall = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    record = {
        "program": f"parosol-py {parosol_py.__version__}",
        "wall_s": wall,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * 1024,
        "iterations": solution.summary.run.iterations,
        "relative_residual": solution.summary.run.relative_residual,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    _main(sys.argv[1], float(sys.argv[2]))
