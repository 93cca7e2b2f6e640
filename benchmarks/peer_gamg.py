"""Solve a model file with PETSc: assembled matrix, conjugate gradients, smoothed aggregation (GAMG).

    python3 benchmarks/peer_gamg.py MODEL.npz 1e-6

Block size 3, rigid-body modes as near null space, GAMG's other settings as they come. The matrix is assembled with
numpy before the clock starts, and only the preconditioner's set-up and the solution count: what is compared is the
method, not an assembly in Python. Needs petsc4py (Debian: python3-petsc4py) and nothing of this project.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

try:
    import petsc4py  # type: ignore[import-not-found, unused-ignore]
except ImportError:  # where Debian puts the bindings for real numbers
    sys.path.extend(map(str, Path("/usr/lib/petscdir").glob("petsc*/*-real/lib/python3/dist-packages")))
    import petsc4py  # type: ignore[import-not-found, unused-ignore]

petsc4py.init([])
from petsc4py import PETSc  # type: ignore[import-not-found, unused-ignore]  # noqa: E402

_CORNERS = [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]


def _element(poisson: float, spacing: np.ndarray) -> np.ndarray:
    """Stiffness (8, 8, 3, 3) of a voxel of modulus 1 between corners and components."""
    lam = poisson / ((1 + poisson) * (1 - 2 * poisson))
    mu = 1 / (2 * (1 + poisson))
    result = np.zeros((8, 8, 3, 3))
    gauss = (0.5 - np.sqrt(1 / 12), 0.5 + np.sqrt(1 / 12))
    for point in [(a, b, c) for a in gauss for b in gauss for c in gauss]:
        slope = np.empty((8, 3))
        for n, corner in enumerate(_CORNERS):
            value = [point[a] if corner[a] else 1 - point[a] for a in range(3)]
            sign = [1 if corner[a] else -1 for a in range(3)]
            slope[n] = [
                sign[0] * value[1] * value[2], sign[1] * value[0] * value[2], sign[2] * value[0] * value[1]
            ]  # fmt: skip
        slope /= spacing
        share = np.prod(spacing) / 8
        result += share * lam * np.einsum("ma,nb->mnab", slope, slope)
        result += share * mu * np.einsum("mb,na->mnab", slope, slope)
        result += share * mu * np.einsum("mk,nk->mn", slope, slope)[:, :, None, None] * np.eye(3)
    return result


def _block_rows(modulus: np.ndarray, poisson: float, spacing: np.ndarray) -> tuple[np.ndarray, ...]:
    """Block compressed rows of the stiffness over the nodes of solid voxels, and the node numbers (-1 elsewhere)."""
    nz, ny, nx = modulus.shape
    element = _element(poisson, spacing)
    touched = np.zeros((nz + 1, ny + 1, nx + 1), bool)
    for a, b, c in _CORNERS:
        touched[a : a + nz, b : b + ny, c : c + nx] |= modulus > 0
    number = np.full(touched.shape, -1, np.int64)
    number[touched] = np.arange(int(touched.sum()))
    places = np.argwhere(touched)
    around = np.pad(modulus.astype(np.float64), 1)
    padded_number = np.pad(number, 1, constant_values=-1)
    columns, blocks = [], []
    for offset in [(a, b, c) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)]:
        block = np.zeros((len(places), 3, 3))
        joined = np.zeros(len(places), bool)
        for m, corner in enumerate(_CORNERS):
            other = tuple(corner[a] + offset[a] for a in range(3))
            if other not in _CORNERS:
                continue
            voxel = around[tuple((places - corner + 1).T)]
            joined |= voxel > 0
            block += voxel[:, None, None] * element[m, _CORNERS.index(other)]
        column = padded_number[tuple((places + offset + 1).T)]
        columns.append(np.where(joined, column, -1))
        blocks.append(block)
    column = np.stack(columns, axis=1)
    kept = column >= 0
    pointer = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    values = np.stack(blocks, axis=1)[kept]
    return pointer.astype(np.int32), column[kept].astype(np.int32), values, number, places


def _main(path: str, rtol: float) -> None:
    data = np.load(path)
    spacing = np.asarray(data["spacing_mm"], float)
    began = time.process_time()
    pointer, column, values, number, places = _block_rows(data["modulus_mpa"], float(data["poisson"]), spacing)
    count = 3 * len(places)
    matrix = PETSc.Mat().createBAIJ((count, count), 3, csr=(pointer, column, values))
    del column, values
    matrix = matrix.convert("aij")
    matrix.setBlockSize(3)
    coordinates = PETSc.Vec().createWithArray((places * spacing).ravel(), bsize=3)
    index = data["prescribed_index"]
    fixed = (3 * number[tuple(index[:, :3].T)] + index[:, 3]).astype(np.int32)
    inside = fixed >= 0
    fixed, given = fixed[inside], data["prescribed_mm"][inside]
    x, b = matrix.createVecs()
    x.setValues(fixed, given)
    x.assemble()
    matrix.zeroRowsColumns(fixed, 1.0, x, b)
    free = np.ones(count, bool)
    free[fixed] = False
    reference = float(np.linalg.norm(b.getArray()[free]))
    matrix.setNearNullSpace(PETSc.NullSpace().createRigidBody(coordinates))
    matrix.setOption(PETSc.Mat.Option.SPD, True)
    solver = PETSc.KSP().create()
    solver.setOperators(matrix)
    solver.setType("cg")
    solver.getPC().setType("gamg")
    solver.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
    solver.setInitialGuessNonzero(True)
    solver.setTolerances(rtol=1e-50, atol=rtol * reference, max_it=2000)
    assembled, wall = time.process_time(), time.perf_counter()
    solver.setUp()
    ready = time.process_time()
    solver.solve(b, x)
    ended, wall = time.process_time(), time.perf_counter() - wall
    residual = b.duplicate()
    matrix.mult(x, residual)
    residual.axpy(-1, b)
    record = {
        "program": "PETSc " + ".".join(map(str, PETSc.Sys.getVersion())) + " CG+GAMG",
        "wall_s": wall,
        "cpu_s": ended - assembled,
        "setup_cpu_s": ready - assembled,
        "assembly_cpu_s": assembled - began,
        "iterations": solver.getIterationNumber(),
        "converged_reason": int(solver.getConvergedReason()),
        "relative_residual": residual.norm() / reference,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    _main(sys.argv[1], float(sys.argv[2]))
