"""Speed, memory and correctness of the linear solver on model files, beside parosol-py where that is installed.

    python -m benchmarks.solver MODEL.npz... [--rtol 1e-6] [--threads N] [--save-displacement DIR] [--json FILE]
                                             [--peer-python PATH] [--no-peer] [--repeat N] [--start]

Every model is solved in a process of its own, after a small solve that loads the compiled kernels (JIT warm). CPU time
is that of the process and all its threads; the best of `--repeat` runs is given. Peak memory is resident memory sampled
every 2 ms, less what the interpreter and the kernels held before the model was read. The residual and the reaction in
the table are recomputed with a separate, plain operator (dense element matrices by quadrature) from the displacement.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

_PEER = """
import json, resource, sys, tempfile, time
import numpy as np, parosol_py
d = np.load(sys.argv[1])
i = d["prescribed_index"]
c = np.column_stack([i[:, 2], i[:, 1], i[:, 0], 2 - i[:, 3]]).astype(np.uint16)
bc = parosol_py.BoundaryConditionSet(fixed_coordinates=c, fixed_values=d["prescribed_mm"].astype(np.float32))
t = time.perf_counter()
with tempfile.TemporaryDirectory() as work:
    s = parosol_py.solve(material=d["modulus_mpa"], spacing=tuple(d["spacing_mm"][::-1]), boundary_conditions=bc,
        poisson_ratio=float(d["poisson"]), tolerance=float(sys.argv[2]), outputs=("disp",), work_dir=work)
u = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps(dict(version=parosol_py.__version__, wall_s=time.perf_counter() - t, cpu_s=u.ru_utime + u.ru_stime,
    peak_bytes=u.ru_maxrss * 1024, iterations=s.summary.run.iterations,
    relative_residual=s.summary.run.relative_residual)))
"""

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


class _PeakMemory:
    """Largest resident memory while the block runs, less that at its start; sampled, hence portable."""

    def __enter__(self) -> _PeakMemory:
        import psutil

        self._process = psutil.Process()
        self._start = self._process.memory_info().rss
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            self.peak_bytes = max(self.peak_bytes, self._process.memory_info().rss - self._start)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def plain_forces(model: Any, displacement_mm: np.ndarray) -> np.ndarray:
    """K u with one dense matrix product per voxel layer: slow, simple, and nothing shared with the solver's kernels."""
    from fea.element import CORNERS, lame, stiffness_matrix

    nz, ny, nx = model.shape
    parts = stiffness_matrix(model.spacing_mm, 1.0, 0.0), stiffness_matrix(model.spacing_mm, 0.0, 1.0)
    force = np.zeros_like(displacement_mm)
    for k in range(nz):
        local = np.stack([displacement_mm[k + a, b : b + ny, c : c + nx] for a, b, c in CORNERS], axis=2)
        local = local.reshape(ny, nx, 24)
        modulus = model.modulus_mpa[k].astype(np.float64)
        poisson = model.poisson if np.ndim(model.poisson) == 0 else model.poisson[k]
        lam, mu = lame(np.where(modulus > 0, poisson, 0.0))
        forces = (lam * modulus)[..., None] * (local @ parts[0]) + (mu * modulus)[..., None] * (local @ parts[1])
        forces = forces.reshape(ny, nx, 8, 3)
        for n, (a, b, c) in enumerate(CORNERS):
            force[k + a, b : b + ny, c : c + nx] += forces[:, :, n]
    return force


def independent_check(model: Any, prescribed: Any, forces: Any, displacement_mm: np.ndarray) -> tuple[float, float]:
    """Relative residual over the free components, and the z reaction on the highest prescribed node plane."""
    from fea.supports import touched_nodes

    free = np.repeat(touched_nodes(model.solid)[..., None], 3, axis=3)
    lift = np.zeros_like(displacement_mm)
    load = np.zeros_like(displacement_mm)
    for condition in prescribed:
        for component, values in condition.components():
            free[(*condition.nodes.T, component)] = False
            lift[(*condition.nodes.T, component)] = values
    for force in forces:
        np.add.at(load, tuple(force.nodes.T), np.column_stack([force.z, force.y, force.x]))
    lift *= np.repeat(touched_nodes(model.solid)[..., None], 3, axis=3)
    internal = plain_forces(model, displacement_mm)
    reference = np.linalg.norm((load - plain_forces(model, lift))[free])
    residual = float(np.linalg.norm((load - internal)[free]) / reference) if reference else 0.0
    held = [condition.nodes for condition in prescribed if condition.z is not None]
    if not held:
        return residual, float("nan")
    nodes = np.unique(np.concatenate(held), axis=0)
    nodes = nodes[nodes[:, 0] == nodes[:, 0].max()]
    return residual, float((internal - load)[(*nodes.T, 0)].sum())


def measure(path: str, rtol: float, threads: int, repeat: int, save: str | None) -> dict[str, Any]:
    """Solve one model in this process and describe how it went."""
    import fea

    warm = fea.VoxelModel(np.full((8, 8, 8), 1.0), (1.0, 1.0, 1.0))
    ends = [
        fea.Prescribed("bottom", fea.face_nodes(warm, 0, False), z=0.0, y=0.0, x=0.0),
        fea.Prescribed("top", fea.face_nodes(warm, 0, True), z=-0.1),
    ]
    fea.solve(warm, ends, threads=threads)
    best: dict[str, Any] = {}
    with _PeakMemory() as memory:
        model, prescribed, forces = fea.load_model(path)
        for run in range(repeat):
            wall, cpu = time.perf_counter(), time.process_time()
            solver = fea.Solver(model, prescribed, threads=threads)
            setup = time.process_time() - cpu
            solution = solver.solve(forces=forces, rtol=rtol)
            total, wall = time.process_time() - cpu, time.perf_counter() - wall
            peak = memory.peak_bytes if run == 0 else best["peak_bytes"]
            if not best or total < best["setup_cpu_s"] + best["solve_cpu_s"]:
                best = {
                    "setup_cpu_s": setup,
                    "solve_cpu_s": total - setup,
                    "wall_s": wall,
                    "setup_wall_s": solution.setup_s,
                    "solve_wall_s": solution.solve_s,
                }
            best["peak_bytes"] = peak
            del solver
    residual, reaction = independent_check(solution.model, prescribed, forces, solution.displacement_mm)
    name = Path(path).stem
    if save is not None:
        Path(save).mkdir(parents=True, exist_ok=True)
        np.save(Path(save) / f"{name}.npy", solution.displacement_mm)
    return {
        "model": name,
        "dof": solution.dof,
        "iterations": solution.iterations,
        **best,
        "estimated_bytes": solution.peak_bytes,
        "bytes_per_dof": best["peak_bytes"] / solution.dof,
        "reaction_n": reaction,
        "relative_residual": residual,
        "threads": threads,
        "rtol": rtol,
    }


def _in_own_process(arguments: list[str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.solver", "--here", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"the solve failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _peer(python: str, path: str, rtol: float) -> dict[str, Any] | None:
    done = subprocess.run([python, "-c", _PEER, path, str(rtol)], capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _starts() -> dict[str, float]:
    """Seconds from the start of the interpreter's work to a first small solution, with an empty and with a full cache."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        seconds = [
            float(
                subprocess.run(
                    [sys.executable, "-c", _START], capture_output=True, text=True, check=True, env=environment
                ).stdout
            )
            for _ in range(2)
        ]
    return {"cold_start_s": seconds[0], "warm_start_s": seconds[1]}


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.solver", description=__doc__.split("\n\n")[0])
    parser.add_argument("models", nargs="*", metavar="MODEL.npz")
    parser.add_argument("--rtol", type=float, default=1e-6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3, help="the best of so many runs is given")
    parser.add_argument("--save-displacement", metavar="DIR")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has parosol-py")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--start", action="store_true", help="also time the first solve with an empty and a full cache")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        record = measure(options.models[0], options.rtol, options.threads, options.repeat, options.save_displacement)
        print(json.dumps(record))
        return
    records = []
    print(
        f"{'model':>10} {'DOF':>9} {'it':>4} {'set-up':>8} {'solve':>8} {'wall':>8} {'peak':>8} {'B/DOF':>6} "
        f"{'reaction z':>17} {'residual':>9} {'peer CPU':>9} {'ratio':>6}"
    )
    print(f"{'':>10} {'':>9} {'':>4} {'CPU s':>8} {'CPU s':>8} {'s':>8} {'MB':>8} {'':>6} {'N':>17} {'':>9} {'s':>9}")
    for path in options.models:
        arguments = [path, "--rtol", str(options.rtol), "--threads", str(options.threads)]
        arguments += ["--repeat", str(options.repeat)]
        if options.save_displacement:
            arguments += ["--save-displacement", options.save_displacement]
        record = _in_own_process(arguments)
        peer = None if options.no_peer else _peer(options.peer_python, path, options.rtol)
        cpu = record["setup_cpu_s"] + record["solve_cpu_s"]
        if peer is not None:
            record["peer"] = peer
            record["peer_ratio"] = peer["cpu_s"] / cpu
        beside = f"{peer['cpu_s']:9.2f} {record['peer_ratio']:6.1f}" if peer else f"{'-':>9} {'-':>6}"
        print(
            f"{record['model']:>10} {record['dof']:9d} {record['iterations']:4d} {record['setup_cpu_s']:8.3f} "
            f"{record['solve_cpu_s']:8.3f} {record['wall_s']:8.3f} {record['peak_bytes'] / 1e6:8.1f} "
            f"{record['bytes_per_dof']:6.1f} {record['reaction_n']:17.9f} {record['relative_residual']:9.2e} {beside}",
            flush=True,
        )
        records.append(record)
    if options.start:
        starts = _starts()
        print(f"first solve of a process: {starts['cold_start_s']:.1f} s cold, {starts['warm_start_s']:.1f} s warm")
        records.append({"model": None, **starts})
    if options.json:
        Path(options.json).write_text(json.dumps(records, indent=2))


if __name__ == "__main__":
    main()
