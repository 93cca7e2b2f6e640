"""Where the solver's preconditioner is good and where it is not: iterations and time against what makes a model hard.

    python -m benchmarks.solver_convergence

Contrast of moduli, porosity, proportions of the voxels, thickness of walls, Poisson's ratio. Rough platens, relative
residual 1e-6, one thread; iterations do not depend on the machine, times do.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import fea
from benchmarks.measuring import OtherWork, in_own_process, write_json
from benchmarks.solver import warm_up
from benchmarks.solver_models import bending, cube, foam, platens, sheets, tube
from fea.mesh_layout import MeshLayout
from fea.storage import Storage


class Case(NamedTuple):
    """One model of a series."""

    series: str
    value: str
    model: Callable[[], fea.VoxelModel]
    load: Callable[[fea.VoxelModel], list[fea.Prescribed]] = platens


def _stretched(proportion: float) -> fea.VoxelModel:
    """Blocks of moderate contrast in voxels that are longer along z."""
    model = cube(48, contrast=100.0)
    return fea.VoxelModel(model.modulus_mpa, (0.1 * proportion, 0.1, 0.1))


def _hollow(wall: int) -> fea.VoxelModel:
    """A hollow box, 48 voxels wide and high, with walls of so many voxels."""
    modulus = np.full((48, 48, 48), 10000.0, np.float32)
    modulus[:, wall:-wall, wall:-wall] = 0
    return fea.VoxelModel(modulus, (1.0, 1.0, 1.0))


def _with_poisson(poisson: float) -> fea.VoxelModel:
    return fea.VoxelModel(cube(48).modulus_mpa, (0.1, 0.1, 0.1), poisson)


def cases() -> Iterator[Case]:
    """All models, easy ones first in each series."""
    for power in range(7):
        yield Case("contrast, blocks of 4", f"1e{power}", partial(cube, 48, contrast=10.0**power))
    for power in range(7):
        yield Case("contrast, single voxels", f"1e{power}", partial(cube, 48, contrast=10.0**power, block=1))
    for percent in (80, 70, 60, 50, 40, 30, 25, 20):
        yield Case("foam, 64^3, solid", f"{percent} %", partial(foam, 64, solid=percent / 100))
    for percent in (60, 40, 20):
        yield Case("sheets, 64^3, solid", f"{percent} %", partial(sheets, 64, solid=percent / 100))
    for proportion in (1.0, 1.4, 1.6, 2.0, 3.0, 4.0, 5.0):
        yield Case("voxel proportions", f"{proportion:g}", partial(_stretched, proportion))
    for wall in (8.0, 4.0, 3.0, 2.0, 1.5):
        yield Case("tube in bending, wall", f"{wall:g}", partial(tube, 48, 120, wall), bending)
    for thickness in (8, 4, 2, 1):
        yield Case("hollow box, wall", f"{thickness}", partial(_hollow, thickness))
    for poisson in (0.0, 0.2, 0.3, 0.4, 0.45, 0.48, 0.49):
        yield Case("Poisson's ratio", f"{poisson:g}", partial(_with_poisson, poisson))


def measure(threads: int, series: str, rtol: float, storage: Storage = "auto") -> dict[str, Any]:
    """Solve the models of one series, one run each."""
    warm_up(threads)
    records: list[dict[str, Any]] = []
    for case in cases():
        if case.series != series:
            continue
        model = case.model()
        ends = case.load(model)
        record: dict[str, Any] = {"series": series, "value": case.value, "storage": storage}
        try:
            with OtherWork() as others:
                solver = fea.Solver(model, ends, threads=threads, floating="remove", storage=storage)
                solution = solver.solve(rtol=rtol)
        except fea.SolveError as error:
            records.append(record | {"refused": error.reason.value})
            continue
        seconds = solution.setup_s + solution.solve_s
        record |= {
            "dof": solution.dof,
            "kept_as": "mesh" if isinstance(solver.layout, MeshLayout) else "rows",
            "iterations": solution.iterations,
            "residual": solution.residual,
            "wall_s": seconds,
            "us_per_dof": 1e6 * seconds / solution.dof,
            "other_cores_busy": others.cores,
        }
        records.append(record)
    return {"records": records}


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.solver_convergence", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rtol", type=float, default=1e-6)
    parser.add_argument("--storage", choices=["auto", "rows", "mesh"], default="auto", help="how models are kept")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    records: list[dict[str, Any]] = []
    for series in dict.fromkeys(case.series for case in cases()):
        given = {"series": series, "rtol": options.rtol, "storage": options.storage}
        found = in_own_process(measure, threads=options.threads, **given)["records"]
        records += found
        print(f"\n{series:<24}" + "".join(f"{record['value']:>9}" for record in found))
        lines: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
            ("kept as", lambda r: r["kept_as"]),
            ("DOF / 1000", lambda r: f"{r['dof'] / 1000:.0f}"),
            ("iterations", lambda r: str(r["iterations"])),
            ("us per DOF", lambda r: f"{r['us_per_dof']:.2f}"),
        ]
        for title, text in lines:
            print(f"{title:<24}" + "".join(f"{text(r) if 'dof' in r else r['refused']:>9}" for r in found), flush=True)
    write_json(options.json, records)


if __name__ == "__main__":
    main()
