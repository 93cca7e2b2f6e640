"""The solver beside other programs, and what it costs: time, memory, accuracy, threads, first use.

    python -m benchmarks.solver                          every table, six standard models
    python -m benchmarks.solver A10 B64 file.npz         these models only
    python -m benchmarks.solver --peer-python PYTHON     also parosol-py, with an interpreter that has it
    python -m benchmarks.solver --gamg-python PYTHON     also PETSc CG+GAMG, with an interpreter that has petsc4py

Every figure comes from a process of its own, after a small solution that loads the compiled kernels. CPU time is that of
the process with all its threads, set-up included; the best of `--repeat` runs. Memory is the peak of another run, above
what interpreter and kernels held before the model was read. Residual and reaction are recomputed from the displacement
with dense element matrices (`benchmarks.plain_check`); the reaction's error is against a solution to 1e-11.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import fea
from benchmarks import solver_threads
from benchmarks.measuring import OtherWork, PeakMemory, in_own_process, write_json
from benchmarks.plain_check import independent_check
from benchmarks.solver_models import STANDARD, platens

# z reactions on the top plane (N) of solutions to 1e-11 with other programs on the same files (assembled matrix and
# direct or multigrid solver; C128 has eight digits), made when the models were drawn up
REFERENCE_REACTION_N = {
    "A10": -4389.7094033725,
    "A05": -4280.4882938,
    "B64": -751.83609867,
    "C64": -49.34387926,
    "C128": -160.88287,
}
PEERS = {"parosol": "peer_parosol.py", "gamg": "peer_gamg.py"}
GAMG_BELOW_DOF = 1_000_000  # the assembled matrix takes some 3 kB per node, and as much again to make


def warm_up(threads: int) -> None:
    """Small solutions, so that compiled kernels are loaded."""
    model = fea.VoxelModel(np.full((8, 8, 8), 1.0), (1.0, 1.0, 1.0))
    fea.Solver(model, platens(model), threads=threads, storage="rows").solve()
    fea.Solver(model, platens(model), threads=threads, storage="mesh").solve()


def measure_time(path: str, rtol: float, threads: int, repeat: int, save: str | None = None) -> dict[str, Any]:
    """Solve one model a few times, describe the best run, and check its displacement."""
    warm_up(threads)
    model, prescribed, forces = fea.load_model(path)
    best: dict[str, Any] = {}
    with OtherWork() as others:
        for _ in range(repeat):
            wall, cpu = time.perf_counter(), time.process_time()
            solver = fea.Solver(model, prescribed, threads=threads)
            setup = time.process_time() - cpu
            solution = solver.solve(forces=forces, rtol=rtol)
            total, wall = time.process_time() - cpu, time.perf_counter() - wall
            if not best or total < best["setup_cpu_s"] + best["solve_cpu_s"]:
                best = {
                    "setup_cpu_s": setup,
                    "solve_cpu_s": total - setup,
                    "wall_s": wall,
                    "setup_wall_s": solution.setup_s,
                    "solve_wall_s": solution.solve_s,
                }
            del solver
    residual, reaction = independent_check(solution.model, prescribed, forces, solution.displacement_mm)
    name = Path(path).stem
    if save is not None:
        Path(save).mkdir(parents=True, exist_ok=True)
        np.save(Path(save) / f"{name}.npy", solution.displacement_mm)
    return {
        "model": name,
        "box_dof": 3 * int(np.prod(model.node_shape)),
        "dof": solution.dof,
        "iterations": solution.iterations,
        **best,
        "estimated_bytes": solution.peak_bytes,
        "reaction_n": reaction,
        "relative_residual": residual,
        "threads": threads,
        "rtol": rtol,
        "other_cores_busy": others.cores,
    }


def measure_memory(path: str, rtol: float, threads: int) -> dict[str, Any]:
    """Peak memory of reading and solving one model, above what was in use before."""
    warm_up(threads)
    with PeakMemory() as memory:
        model, prescribed, forces = fea.load_model(path)
        fea.solve(model, prescribed, forces, threads=threads, rtol=rtol)
    return {"peak_bytes": memory.bytes}


def measure(path: str, rtol: float, threads: int, repeat: int, save: str | None = None) -> dict[str, Any]:
    """Time, accuracy and memory of one model; time and memory from a process each."""
    record = in_own_process(measure_time, threads=threads, path=path, rtol=rtol, repeat=repeat, save=save)
    record |= in_own_process(measure_memory, threads=threads, path=path, rtol=rtol)
    record["bytes_per_dof"] = record["peak_bytes"] / record["dof"]
    record["bytes_per_box_dof"] = record["peak_bytes"] / record["box_dof"]
    reference = REFERENCE_REACTION_N.get(record["model"])
    if reference is not None:
        record["reaction_error"] = record["reaction_n"] / reference - 1
    return record


def peer(program: str, python: str, path: str, rtol: float) -> dict[str, Any] | None:
    """What another program needs for the same file; None if it is not installed there or fails."""
    script = Path(__file__).with_name(PEERS[program])
    with OtherWork() as others:
        done = subprocess.run([python, str(script), path, str(rtol)], capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result | {"other_cores_busy_and_itself": others.cores}


def _costs(records: list[dict[str, Any]], peers: list[str]) -> None:
    """Print the table of costs."""
    heads = "".join(f" {name + ' CPU':>11} {'ratio':>6}" for name in peers)
    print(
        f"\n{'model':>8} {'DOF':>9} {'it':>4} {'set-up':>8} {'solve':>8} {'CPU':>8} {'wall':>8} {'peak':>8} {'stated':>8} "
        f"{'B/DOF':>6} {'B/box':>6} {'others':>6}{heads}"
    )
    print(f"{'':>8} {'':>9} {'':>4} {'CPU s':>8} {'CPU s':>8} {'s':>8} {'s':>8} {'MB':>8} {'MB':>8} {'':>6} {'DOF':>6} "
          f"{'cores':>6}" + f" {'s':>11} {'':>6}" * len(peers))  # fmt: skip
    for record in records:
        cpu = record["setup_cpu_s"] + record["solve_cpu_s"]
        beside = ""
        for name in peers:
            other = record.get(name)
            beside += f" {other['cpu_s']:11.2f} {other['cpu_s'] / cpu:6.1f}" if other else f" {'-':>11} {'-':>6}"
        print(
            f"{record['model']:>8} {record['dof']:9d} {record['iterations']:4d} {record['setup_cpu_s']:8.3f} "
            f"{record['solve_cpu_s']:8.3f} {cpu:8.3f} {record['wall_s']:8.3f} {record['peak_bytes'] / 1e6:8.1f} "
            f"{record['estimated_bytes'] / 1e6:8.1f} {record['bytes_per_dof']:6.1f} {record['bytes_per_box_dof']:6.1f} "
            f"{record['other_cores_busy']:6.1f}{beside}"
        )


def _accuracy(records: list[dict[str, Any]]) -> None:
    """Print the table of accuracy."""
    print(f"\n{'model':>8} {'reaction z, N':>18} {'error':>9} {'residual':>9}")
    for record in records:
        error = f"{record['reaction_error']:9.1e}" if "reaction_error" in record else f"{'-':>9}"
        print(f"{record['model']:>8} {record['reaction_n']:18.9f} {error} {record['relative_residual']:9.2e}")


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.solver", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="a standard model or a file; default: all standard ones"
    )
    parser.add_argument("--rtol", type=float, default=1e-6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3, help="the best of so many runs is given")
    parser.add_argument("--save-displacement", metavar="DIR")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--peer-python", metavar="PYTHON", help="an interpreter that has parosol-py")
    parser.add_argument("--gamg-python", metavar="PYTHON", help="an interpreter that has petsc4py")
    parser.add_argument(
        "--gamg-below", type=int, default=GAMG_BELOW_DOF, metavar="DOF", help="larger models without GAMG"
    )
    parser.add_argument("--models-only", action="store_true", help="neither operator, threads nor first use")
    options = parser.parse_args()
    peers = {"parosol": options.peer_python, "gamg": options.gamg_python}
    peers = {name: python for name, python in peers.items() if python}
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models or STANDARD:
            path = name
            if name in STANDARD:
                path = str(Path(folder) / f"{name}.npz")
                model = STANDARD[name]()
                fea.save_model(path, model, platens(model))
            record = measure(path, options.rtol, options.threads, options.repeat, options.save_displacement)
            for program, python in peers.items():
                if program != "gamg" or record["dof"] < options.gamg_below:
                    record[program] = peer(program, python, path, options.rtol)
            records.append(record)
            print(f"{record['model']}: {record['wall_s']:.3f} s", file=sys.stderr, flush=True)
    _costs(records, list(peers))
    _accuracy(records)
    if not options.models_only:
        records += solver_threads.report()
    write_json(options.json, records)


if __name__ == "__main__":
    main()
