"""Solve a model file with parosol-py's plasticity (`pip install parosol-py`); needs nothing of this project.

    python benchmarks/peer_parosol_nonlinear.py MODEL.npz YIELD_STRAIN {map,von_mises} 1e-6 1e-4

`map` is its law for a modulus per voxel: perfect plasticity that caps normal stresses, here at the same value in tension and in
compression. `von_mises` is its von Mises law, for one modulus. The last two arguments are the relative residual of its
linear systems, and its stopping rule: the change of the plastic strains from one linear solution to the next. CPU time is
that of the program that parosol-py starts, in one process.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time

import numpy as np
import parosol_py  # type: ignore[import-not-found, unused-ignore]
from parosol_py.nonlinear import (  # type: ignore[import-not-found, unused-ignore]
    DensityNonlinearMaterialMap,
    NonlinearSolverOptions,
    VonMisesMaterial,
)


def _main(path: str, yield_strain: float, law: str, rtol: float, change: float) -> None:
    data = np.load(path)
    index, modulus, poisson = data["prescribed_index"], data["modulus_mpa"], float(data["poisson"])
    conditions = parosol_py.BoundaryConditionSet(
        fixed_coordinates=np.column_stack([index[:, 2], index[:, 1], index[:, 0], 2 - index[:, 3]]).astype(np.uint16),
        fixed_values=data["prescribed_mm"].astype(np.float32),
    )
    strength = yield_strain * modulus
    if law == "map":
        solid = (modulus > 0).astype(np.uint16)
        material = DensityNonlinearMaterialMap(
            modulus, poisson, strength, strength, strength, solid, {"preset": "benchmark"}
        )
    else:
        material = VonMisesMaterial(float(modulus.max()), poisson, float(strength.max()))
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        solution = parosol_py.solve(
            material=modulus,
            spacing=tuple(data["spacing_mm"][::-1]),
            boundary_conditions=conditions,
            poisson_ratio=poisson,
            tolerance=rtol,
            outputs=("disp", "forces"),
            work_dir=work,
            nonlinear_material=material,
            nonlinear_solver=NonlinearSolverOptions(convergence_tolerance=change),
        )
    wall = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    record = {
        "program": f"parosol-py {parosol_py.__version__}",
        "law": law,
        "rule": f"change of plastic strain between linear solutions below {change:g}",
        "wall_s": wall,
        "cpu_s": used.ru_utime + used.ru_stime,
        "linear_solutions": solution.diagnostics["nonlinear"]["plastic_iterations"],
        "force_n": solution.diagnostics["mechanics"]["reaction_force"]["z"],
    }
    print(json.dumps(record))


if __name__ == "__main__":
    _main(sys.argv[1], float(sys.argv[2]), sys.argv[3], float(sys.argv[4]), float(sys.argv[5]))
