"""Speed of the virtual tests, convergence with voxel size, and agreement with bones that other programs solved.

    python -m benchmarks.strength [--data DIR] [--json FILE] [--threads N] [--repeat N]
                                  [--voxels] [--yield] [--pose] [--ensemble] [--study]

`--study` builds and solves eight bodies (the real one, scaled from a T10 to an L5) and two femora (left, and mirrored), once
linearly and once along their elastic-plastic curves; `--ensemble` compares the cost of an ensemble with that of one test.

Without the real bones (`--data`, or OPENBCT_DATA) a synthetic body is timed. Every row is solved after a small one that
loads the compiled kernels; wall and CPU time are those of the fastest of `--repeat` runs, from density image to strength.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import psutil
from numpy.typing import NDArray

from fea.bone.assembly import TestModel
from fea.bone.ensemble import Spread, run_ensemble
from fea.bone.evaluate import TestResult, add_yield, run, run_linear
from fea.bone.femur import build_sideways_fall, build_stance
from fea.bone.femur_pose import pose_of_femur
from fea.bone.profiles import load_profile
from fea.bone.vertebra import BodyPose, build_vertebra, pose_of_body

Image = tuple[NDArray, NDArray, NDArray]

# Of the L4: FAIM and ParOSol, at 0.2924 mm.
_PUBLISHED = {"FAIM": (23297.0, 6812.0), "ParOSol": (23359.0, 6830.0)}
_TILTS_DEG = ((2, 0), (-2, 0), (4, 0), (-4, 0), (8, 0), (-8, 0), (0, 2), (0, -2), (0, 4), (0, -4), (0, 8), (0, -8))
_VOXELS_MM = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)


def main() -> None:
    arguments = _arguments()
    folder = _data_folder(arguments.data)
    _timed(lambda: _spine(_synthetic_body(), 2.0, "kopperdahl2002"), arguments.threads, 1, arguments.with_yield)
    rows: list[dict[str, Any]] = []

    def measure(name: str, build: Callable[[], TestModel], with_yield: bool = False, points: int = 1) -> None:
        row = {"test": name} | _timed(build, arguments.threads, arguments.repeat, with_yield, points)
        rows.append(row)
        print(_line(row), flush=True)

    print(_line(None))
    if folder is None:
        body = _synthetic_body()
        measure("synthetic body, 1 mm", lambda: _spine(body, 1.0, "kopperdahl2002"))
    else:
        body = _read(folder / "fe_vertebra_L4", 20)
        femur = _read(folder / "fe_femur_left", 2)
        measure("L4 compression, 1 mm", lambda: _spine(body, 1.0, "kopperdahl2002"))
        measure("femur fall, 1 mm", lambda: _hip(femur, 1.0, "morgan-neck"))
        measure("femur fall, ogo-femur", lambda: _hip(femur, 1.0, "ogo-femur"))
        measure("femur stance, 1 mm", lambda: _hip(femur, 1.0, "morgan-neck", stance=True))
        if arguments.voxels:
            for edge in _VOXELS_MM:
                measure(f"L4 compression, {edge:g} mm", partial(_spine, body, edge, "kopperdahl2002"))
            for edge in _VOXELS_MM[1:]:
                measure(f"femur fall, {edge:g} mm", partial(_hip, femur, edge, "morgan-neck"))
    if arguments.with_yield:
        for profile in ("kopperdahl2002", "bct-like"):
            measure(f"yield, {profile}", partial(_spine, body, 1.0, profile), True)
        if folder is not None and arguments.voxels:
            for edge in _VOXELS_MM:
                measure(f"yield, L4, {edge:g} mm", partial(_spine, body, edge, "kopperdahl2002"), True)
            for edge in _VOXELS_MM[2:]:
                measure(f"yield, L4, {edge:g} mm, 8 pts", partial(_spine, body, edge, "kopperdahl2002"), True, 8)
            for edge in _VOXELS_MM[1:]:
                measure(f"yield, femur, {edge:g} mm", partial(_hip, femur, edge, "femur-plastic"), True)
            for edge in _VOXELS_MM[2:]:
                measure(f"yield, femur, {edge:g} mm, 8 pts", partial(_hip, femur, edge, "femur-plastic"), True, 8)
    if arguments.pose:
        for forward, sideways in _TILTS_DEG:
            measure(f"L4 tilted {forward:+g}, {sideways:+g}", partial(_tilted, body, (forward, sideways)), True)
        measure("L4, axes of the image", partial(_tilted, body, None), True)
    if arguments.ensemble:
        for row in _ensembles(body, femur if folder is not None else None, arguments.threads):
            rows.append(row)
            parts = ", ".join(f"{name} {100 * part:.1f} %" for name, part in row["parts"].items())
            print(
                f"{row['test']}: wall {row['wall_ratio']:.1f}, CPU {row['cpu_ratio']:.1f} single tests; {parts}",
                flush=True,
            )
    if arguments.study:
        for with_yield in (False, True):
            row = _study(body, femur if folder is not None else None, arguments.threads, with_yield)
            rows.append(row)
            print(
                f"{row['test']}: {row['wall_s']:.1f} s wall, {row['cpu_s']:.1f} s CPU, "
                f"peak {row['peak_mib']:.0f} MiB of the process, same bits with 1 and 2 threads: {row['same_bits']}",
                flush=True,
            )
    if folder is not None:
        for program, (stiffness, force) in _PUBLISHED.items():
            ours = rows[0]
            print(
                f"L4 against {program}: stiffness {100 * (ours['stiffness_n_mm'] / stiffness - 1):+.2f} %, "
                f"force {100 * (ours['reaction_n'] / force - 1):+.2f} %"
            )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.strength", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the real bones")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--voxels", action="store_true", help="also convergence with voxel size")
    parser.add_argument("--pose", action="store_true", help="also a body loaded aslant by some degrees")
    parser.add_argument("--ensemble", action="store_true", help="also the cost and the parts of ensembles")
    parser.add_argument("--study", action="store_true", help="also a whole study: eight bodies and two femora")
    parser.add_argument("--yield", dest="with_yield", action="store_true", help="also elastic-plastic curves")
    return parser.parse_args()


def _data_folder(given: Path | None) -> Path | None:
    for folder in (given, os.environ.get("OPENBCT_DATA"), Path(__file__).parents[2] / "shared" / "data"):
        if folder and (Path(folder) / "fe_vertebra_L4").is_dir():
            return Path(folder)
    return None


def _read(folder: Path, label: int) -> Image:
    """Density, mask and index-to-LPS matrix, arrays in order (z, y, x)."""
    density = nibabel.load(folder / "density_mg_cm3.nii.gz")
    labels = nibabel.load(folder / "labels.nii.gz")
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ density.affine
    matrix[:3, :3] = matrix[:3, :3][:, ::-1]
    arrays = (np.ascontiguousarray(np.asarray(image.dataobj).T) for image in (density, labels))
    values, numbers = arrays
    return values, numbers == label, matrix


def _synthetic_body() -> Image:
    z, y, x = np.indices((40, 46, 58), dtype=float)
    mask = (np.hypot((x - 28.5) / 22, (y - 22.5) / 16) <= 1) & (np.abs(z - 19.5) < 13)
    matrix = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    return np.where(mask, 120 + 40 * np.sin(x) * np.cos(y + z), -50.0).astype(np.float32), mask, matrix


def _spine(image: Image, voxel_mm: float, profile: str) -> TestModel:
    density, mask, matrix = image
    pose = pose_of_body(mask, matrix)
    return build_vertebra(density, mask, matrix, pose, load_profile(profile), voxel_mm=voxel_mm)


def _tilted(image: Image, angles_deg: tuple[float, float] | None) -> TestModel:
    """The body in its pose turned forwards and sideways, or (None) in the axes of the image, as the reference model has it."""
    density, mask, matrix = image
    pose = pose_of_body(mask, matrix)
    if angles_deg is None:
        superior, posterior = np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0])
        pose = BodyPose(pose.origin_mm, np.cross(posterior, superior), posterior, superior)
    else:
        pose = pose.tilted(*angles_deg)
    return build_vertebra(density, mask, matrix, pose, load_profile("kopperdahl2002"), voxel_mm=1.0)


def _hip(image: Image, voxel_mm: float, profile: str, *, stance: bool = False) -> TestModel:
    density, mask, matrix = image
    build = build_stance if stance else build_sideways_fall
    return build(density, mask, matrix, pose_of_femur(mask, matrix), load_profile(profile), voxel_mm=voxel_mm)


_SCALES = (0.84, 0.87, 0.9, 0.93, 0.96, 0.98, 1.0, 1.03)  # of the lengths of an L4: T10 to L5
_PROFILES = {"body": "kopperdahl2002", "femur": "morgan-neck"}


def _study(body: Image, femur: Image | None, threads: int | None, with_yield: bool) -> dict[str, Any]:
    """Eight bodies and two femora, one after the other, each as in a study: built, solved and evaluated."""
    builds: list[Callable[[], TestModel]] = []
    for scale in _SCALES:
        density, mask, matrix = body
        scaled = (density, mask, np.diag([scale, scale, scale, 1.0]) @ matrix)
        builds.append(partial(_spine, scaled, 1.0, _PROFILES["body"]))
    if femur is not None:
        density, mask, matrix = femur
        right = (density[:, :, ::-1].copy(), mask[:, :, ::-1].copy(), _mirrored(matrix, mask.shape))
        builds += [partial(_hip, side, 1.0, _PROFILES["femur"]) for side in (femur, right)]

    def force(build: Callable[[], TestModel], count: int | None) -> NDArray[np.float64]:
        result = run_linear(build(), threads=count)
        return add_yield(result, threads=count).curve if with_yield else result.curve

    wall, cpu = time.perf_counter(), time.process_time()
    curves = [force(build, threads) for build in builds]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    same = all(np.array_equal(force(builds[0], count), curves[0]) for count in (1, 2))
    bones = f"{len(_SCALES)} bodies and {len(builds) - len(_SCALES)} femora"
    return {
        "test": f"study of {bones}, 1 mm, {'elastic-plastic' if with_yield else 'linear'}",
        "wall_s": wall,
        "cpu_s": cpu,
        "peak_mib": _peak_mib(),
        "same_bits": same,
        "forces_n": [float(curve[-1, 1]) for curve in curves],
    }


def _mirrored(matrix: NDArray, shape: tuple[int, ...]) -> NDArray:
    """Index to LPS of an array reversed along its last axis, so that the bone becomes that of the other side."""
    moved: NDArray[np.float64] = np.diag([-1.0, 1.0, 1.0, 1.0]) @ matrix
    moved[:3, 3] += (shape[2] - 1) * moved[:3, 2]
    moved[:3, 2] *= -1
    return moved


def _peak_mib() -> float:
    """Largest memory of this process so far."""
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):  # Windows
        return float(memory.peak_wset) / 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / (2**20 if sys.platform == "darwin" else 2**10)


def _ensembles(body: Image, femur: Image | None, threads: int | None) -> list[dict[str, Any]]:
    """What an ensemble costs in single tests, for densities known to 8 % and 10 mg/cm3."""
    spread = Spread(2.0, 0.2, {"calibration": lambda density: np.hypot(0.08 * np.abs(density), 10.0)})
    builds: list[tuple[str, Callable[[], TestModel]]] = [
        ("ensemble, body, linear", lambda: _spine(body, 1.0, "kopperdahl2002")),
        ("ensemble, body, bct-like", lambda: _spine(body, 1.0, "bct-like")),
    ]
    if femur is not None:
        builds.append(("ensemble, femur fall", lambda: _hip(femur, 1.0, "morgan-neck")))
        builds.append(("ensemble, femur stance", lambda: _hip(femur, 1.0, "morgan-neck", stance=True)))
    rows = []
    for name, build in builds:
        run_ensemble(run(build(), threads=threads), spread, threads=threads)  # loads what is compiled
        wall, cpu = time.perf_counter(), time.process_time()
        result = run(build(), threads=threads)
        single, single_cpu = time.perf_counter() - wall, time.process_time() - cpu
        wall, cpu = time.perf_counter(), time.process_time()
        ensemble = run_ensemble(result, spread, threads=threads)
        rows.append(
            {
                "test": name,
                "single_s": single,
                "wall_ratio": (time.perf_counter() - wall) / single,
                "cpu_ratio": (time.process_time() - cpu) / single_cpu,
                "parts": ensemble.strength_parts,
            }
        )
    return rows


def _timed(
    build: Callable[[], TestModel], threads: int | None, repeat: int, with_yield: bool, points: int = 1
) -> dict[str, Any]:
    best: dict[str, Any] = {}
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        model = build()
        built = time.perf_counter() - wall
        result: TestResult = run_linear(model, threads=threads)
        if with_yield:
            result = add_yield(result, threads=threads, stress_points=points)
        row = {
            "profile": model.profile.title,
            "dof": result.dof,
            "iterations": result.iterations,
            "build_s": built,
            "wall_s": time.perf_counter() - wall,
            "cpu_s": time.process_time() - cpu,
            "stiffness_n_mm": result.stiffness_n_mm,
            "reaction_n": result.force_n,
            "criteria_n": {criterion.value: force for criterion, force in result.strength_n.items()},
            "mass_error": model.bone.mass_g / model.bone.source_mass_g - 1,
        }
        if not best or row["wall_s"] < best["wall_s"]:
            best = row
    return best


def _line(row: dict[str, Any] | None) -> str:
    if row is None:
        names = ("dof", 9), ("its", 5), ("build s", 8), ("wall s", 7), ("CPU s", 7), ("N/mm", 8), ("N", 8)
        return f"{'test':26s} " + " ".join(f"{name:>{width}s}" for name, width in names) + "  criteria (N)"
    criteria = ", ".join(f"{name} {force:.0f}" for name, force in row["criteria_n"].items())
    times = f"{row['build_s']:8.2f} {row['wall_s']:7.2f} {row['cpu_s']:7.2f}"
    forces = f"{row['stiffness_n_mm']:8.0f} {row['reaction_n']:8.0f}"
    return f"{row['test']:24s} {row['dof']:9d} {row['iterations']:5d} {times} {forces}  {criteria}"


if __name__ == "__main__":
    main()
