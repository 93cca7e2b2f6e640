"""Speed of force-displacement curves, in CPU seconds and in linear solutions of the same model, beside parosol-py.

    python -m benchmarks.solver_nonlinear [MODEL...] [--threads N] [--repeat N] [--json FILE] [--peer-python PYTHON]

MODEL is a standard model (default: A10 and A05) or a file; the factor 1 of the curves is what the file prescribes, 1 % of
the height in the standard ones. Voxels yield at a strain of 0.7 %. Every model is solved in a process of its own, after
a small curve that loads the compiled kernels; CPU time is that of the process with all its threads, the shortest of
`--repeat` runs, set-up and first elastic solution included. A linear solution is `fea.solve` to 1e-6, set-up included, in the
same process.

With `--peer-python`, parosol-py goes to the end displacement in one step, on the same file with its law for a modulus per
voxel, which is not von Mises (see `benchmarks/peer_parosol_nonlinear.py`), and for the force on the same body with one
modulus and its von Mises law, which is ours but for the points at which stress is taken.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import fea
from benchmarks.measuring import OtherWork, in_own_process, write_json
from benchmarks.solver_models import STANDARD, platens
from fea.damage import Softening

YIELD_STRAIN = 0.007
_FIFTEEN = [0.2 * n for n in range(1, 16)]


def _von_mises(strength: np.ndarray) -> fea.YieldMaterial:
    return fea.YieldMaterial(strength)


def _hardening(strength: np.ndarray) -> fea.YieldMaterial:
    return fea.YieldMaterial(strength, 0.05)


def _drucker_prager(strength: np.ndarray) -> fea.YieldMaterial:
    return fea.YieldMaterial(strength, 0.0, "drucker_prager", 0.6)


def _softening(strength: np.ndarray) -> fea.YieldMaterial:
    """Every voxel softens over 0.3 mm, whatever its strength."""
    energy = np.where(strength > 0, 0.3 * strength, np.inf)
    return fea.YieldMaterial(strength, softening=Softening(energy, residual_ratio=0.1))


# name: load factors, relative out-of-balance force, law
CASES: dict[str, tuple[list[float], float, Callable[[np.ndarray], fea.YieldMaterial]]] = {
    "1 step to 1 %": ([1.0], 1e-6, _von_mises),
    "5 steps to 2 %": ([0.4, 0.6, 0.8, 1.2, 2.0], 1e-4, _von_mises),
    "15 steps to 3 %": (_FIFTEEN, 1e-4, _von_mises),
    "15 steps to 3 %, 1e-6": (_FIFTEEN, 1e-6, _von_mises),
    "15 steps, H = 0.05 E": (_FIFTEEN, 1e-4, _hardening),
    "15 steps, Drucker-Prager, r = 0.6": (_FIFTEEN, 1e-4, _drucker_prager),
    "15 steps, softening": (_FIFTEEN, 1e-4, _softening),
}


def measure(path: str, threads: int, repeat: int) -> dict[str, Any]:
    """All cases of one model in this process; `in_own_process` calls it."""
    warm = fea.VoxelModel(np.full((6, 6, 6), 1000.0), (1.0, 1.0, 1.0))
    for softening in (None, Softening(100.0)):
        law = fea.YieldMaterial(7.0, softening=softening)
        fea.solve_curve(warm, platens(warm), law, [1.0], threads=threads)
    model, prescribed, _ = fea.load_model(path)
    fea.solve(model, prescribed, threads=threads)
    strength = YIELD_STRAIN * model.modulus_mpa.astype(np.float64)
    with OtherWork() as others:
        linear, solution = _cheapest(lambda: fea.solve(model, prescribed, threads=threads), 2 * repeat)
        cases = {}
        for name, (factors, rtol, law_of) in CASES.items():
            follow = partial(fea.solve_curve, model, prescribed, law_of(strength), factors, rtol=rtol, threads=threads)
            cpu, curve = _cheapest(follow, repeat)
            work = float(curve.external_work_nmm[-1])
            used = curve.stored_energy_nmm + curve.dissipated_nmm + curve.hourglass_loss_nmm
            cases[name] = {
                "rtol": rtol,
                "cpu_s": cpu,
                "linear_solutions": cpu / linear,
                "newton_steps": int(curve.newton_steps.sum()),
                "cg_iterations": int(curve.cg_iterations.sum()),
                "cut_backs": int(curve.cut_backs.sum()),
                "largest_residual": float(curve.residual.max()),
                "load_factor": curve.load_factor.tolist(),
                "force_n": curve.reaction_n["top" if "top" in curve.reaction_n else max(curve.reaction_n)][
                    :, 0
                ].tolist(),
                "yielded_fraction": float(curve.yielded_fraction[-1]),
                "energy_gap": (work - float(used[-1])) / work,
                "hourglass_loss": float(curve.hourglass_loss_nmm[-1]) / work,
            }
    return {
        "model": Path(path).stem,
        "dof": solution.dof,
        "threads": threads,
        "linear_cpu_s": linear,
        "linear_iterations": solution.iterations,
        "other_cores_busy": others.cores,
        "cases": cases,
    }


def _cheapest(action: Callable[[], Any], repeat: int) -> tuple[float, Any]:
    """Least CPU time of `repeat` calls, and what the last returned."""
    least = float("inf")
    for _ in range(repeat):
        began = time.process_time()
        result = action()
        least = min(least, time.process_time() - began)
    return least, result


def von_mises_force(path: str, threads: int) -> dict[str, Any]:
    """Force of one step to the end displacement."""
    model, prescribed, _ = fea.load_model(path)
    law = fea.YieldMaterial(YIELD_STRAIN * model.modulus_mpa.astype(np.float64))
    curve = fea.solve_curve(model, prescribed, law, [1.0], rtol=1e-6, threads=threads)
    return {"force_n": float(curve.reaction_n["top" if "top" in curve.reaction_n else max(curve.reaction_n)][-1, 0])}


def peer(python: str, path: str, law: str, change: float) -> dict[str, Any]:
    """What `peer_parosol_nonlinear.py` says."""
    script = Path(__file__).with_name("peer_parosol_nonlinear.py")
    done = subprocess.run(
        [python, str(script), path, str(YIELD_STRAIN), law, "1e-6", str(change)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"parosol-py failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


def _compare(record: dict[str, Any], python: str, path: str, threads: int) -> None:
    """Beside parosol-py: time on the same file, force on the body with one modulus."""
    ours = record["cases"]["1 step to 1 %"]
    theirs = record["peer"] = peer(python, path, "map", 1e-4)
    theirs["ratio"] = theirs["cpu_s"] / ours["cpu_s"]
    print(
        f"  {theirs['program']}, same file, one step to 1 %: {theirs['cpu_s']:.1f} CPU s in "
        f"{theirs['linear_solutions']} linear solutions, {theirs['ratio']:.0f} times ours\n"
        f"    its rule: {theirs['rule']}; ours: out-of-balance force below {ours['rtol']:g} of the reactions\n"
        f"    its law there caps normal stresses: force {theirs['force_n']:.1f} N, "
        f"ours by von Mises {ours['force_n'][-1]:.1f} N"
    )
    model, prescribed, _ = fea.load_model(path)
    even = fea.VoxelModel(np.where(model.solid, np.float32(500.0), np.float32(0)), model.spacing_mm, model.poisson)
    with tempfile.TemporaryDirectory() as folder:
        plain = str(Path(folder) / "even.npz")
        fea.save_model(plain, even, prescribed)
        same = record["peer_von_mises"] = peer(python, plain, "von_mises", 1e-5)
        same["our_force_n"] = in_own_process(von_mises_force, threads=threads, path=plain)["force_n"]
    print(
        f"    one modulus, von Mises in both: {same['force_n']:.1f} N, ours {same['our_force_n']:.1f} N "
        f"({100 * (same['our_force_n'] / same['force_n'] - 1):+.2f} %)"
    )


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.solver_nonlinear", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="a standard model or a file; default: A10 A05")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3, help="the best of so many runs is given")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--peer-python", metavar="PYTHON", help="an interpreter that has parosol-py")
    options = parser.parse_args()
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models or ("A10", "A05"):
            path = name
            if name in STANDARD:
                path = str(Path(folder) / f"{name}.npz")
                model = STANDARD[name]()
                fea.save_model(path, model, platens(model))
            record = in_own_process(measure, threads=options.threads, path=path, repeat=options.repeat)
            records.append(record)
            print(
                f"{record['model']}: {record['dof']} DOF; linear solution {record['linear_iterations']} iterations, "
                f"{record['linear_cpu_s']:.4f} CPU s; other work on {record['other_cores_busy']:.1f} cores\n"
                f"  {'':<34} {'rtol':>6} {'Newton':>6} {'CG':>5} {'CPU s':>8} {'lin. sol.':>9} {'force N':>9} "
                f"{'energy gap':>10} {'hourglass':>9}"
            )
            for case, values in record["cases"].items():
                print(
                    f"  {case:<34} {values['rtol']:6.0e} {values['newton_steps']:6d} {values['cg_iterations']:5d} "
                    f"{values['cpu_s']:8.3f} {values['linear_solutions']:9.1f} {values['force_n'][-1]:9.1f} "
                    f"{values['energy_gap']:10.2%} {values['hourglass_loss']:9.2%}"
                )
            forces = record["cases"]["15 steps to 3 %"]["force_n"]
            print("  force at each of the 15 steps, N: " + " ".join(f"{force:.1f}" for force in forces[1:]), flush=True)
            if options.peer_python:
                _compare(record, options.peer_python, path, options.threads)
    write_json(options.json, records)


if __name__ == "__main__":
    main()
