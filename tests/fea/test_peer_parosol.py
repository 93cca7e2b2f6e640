"""The same voxels in parosol-py, node by node: displacements, nodal forces, reactions and energies.

ParOSol is the published open solver for voxel models of bone. It runs with an interpreter of its own, named by the variable
OPENBCT_PEER_PYTHON, or with this one if parosol-py is installed here. Both iterate in float64 to a tolerance far below the
seven digits asked for; ParOSol keeps moduli and prescribed values in float32, so they are chosen to be such numbers.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fea import NodalForce, Prescribed, VoxelModel, element_fields, face_nodes, nodes_of, solve

PYTHON = os.environ.get("OPENBCT_PEER_PYTHON") or (sys.executable if importlib.util.find_spec("parosol_py") else None)

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(PYTHON is None, reason="no parosol-py: name a Python that has it in OPENBCT_PEER_PYTHON"),
]

THEIR_SIDE = """
import sys, h5py, numpy as np, parosol_py
given = np.load(sys.argv[1])
conditions = parosol_py.BoundaryConditionSet(
    fixed_coordinates=given["fixed"].astype(np.uint16), fixed_values=given["fixed_mm"].astype(np.float32),
    loaded_coordinates=given["loaded"].astype(np.uint16), loaded_values=given["loaded_n"].astype(np.float32))
parosol_py.solve(material=given["modulus"], spacing=(float(given["edge"]),) * 3, boundary_conditions=conditions,
                 poisson_ratio=float(given["poisson"]), tolerance=1e-13, outputs=("disp", "force"), work_dir=sys.argv[2])
with h5py.File(sys.argv[2] + "/parosol_input.h5") as file:
    np.savez(sys.argv[3], at=file["Mesh/Coordinates"][...], disp=file["Solution/disp"][...], force=file["Solution/force"][...])
"""


def parosol(
    folder: Path, model: VoxelModel, prescribed: list[Prescribed], forces: list[NodalForce]
) -> tuple[np.ndarray, np.ndarray]:
    """Displacements and nodal forces in our order, (nz+1, ny+1, nx+1, 3), NaN at nodes without material."""
    fixed, fixed_mm, loaded, loaded_n = [], [], [], []
    for condition in prescribed:
        for component, values in condition.components():
            fixed += [(i, j, k, 2 - component) for k, j, i in condition.nodes]
            fixed_mm += list(values)
    for force in forces:
        for component, sizes in enumerate((force.z, force.y, force.x)):
            loaded += [(i, j, k, 2 - component) for k, j, i in force.nodes]
            loaded_n += list(np.asarray(sizes))
    edge = model.spacing_mm[0]
    assert set(model.spacing_mm) == {edge}, "ParOSol knows cubes only"
    np.savez(
        folder / "given.npz", modulus=model.modulus_mpa, edge=edge, poisson=model.poisson,
        fixed=np.array(fixed), fixed_mm=fixed_mm, loaded=np.array(loaded).reshape(-1, 4), loaded_n=loaded_n,
    )  # fmt: skip
    run = subprocess.run(
        [str(PYTHON), "-c", THEIR_SIDE, str(folder / "given.npz"), str(folder / "work"), str(folder / "out.npz")],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    found = np.load(folder / "out.npz")
    index = np.rint(found["at"][:, ::-1] / edge).astype(int)
    fields = []
    for name in ("disp", "force"):
        field = np.full((*model.node_shape, 3), np.nan)
        field[tuple(index.T)] = found[name][:, ::-1]
        fields.append(field)
    return fields[0], fields[1]


@pytest.mark.parametrize(
    ("shape", "poisson", "contrast"), [((12, 14, 16), 0.3, 1e2), ((9, 20, 7), 0.2, 1e3), ((16, 8, 11), 0.4, 1e1)]
)
def test_every_node_agrees(tmp_path, shape, poisson, contrast):
    rng = np.random.default_rng(shape[0])
    modulus = (100 * contrast ** rng.random(shape)).astype(np.float32)
    modulus[3:6, :5, :5] = 0
    model = VoxelModel(modulus, (0.5, 0.5, 0.5), poisson)
    bottom, top = face_nodes(model, 0, False), face_nodes(model, 0, True)
    values = np.float32(rng.standard_normal((len(bottom), 3)) * 1e-3).astype(float)
    push = NodalForce(top[::3], *np.float32(rng.standard_normal((3, len(top[::3])))).astype(float))
    prescribed = [
        Prescribed("bottom", bottom, *values.T),
        Prescribed("top", np.delete(top, slice(None, None, 3), axis=0), z=-0.0625, y=0.0, x=0.015625),
    ]
    displacement, force = parosol(tmp_path, model, prescribed, [push])
    result = solve(model, prescribed, [push], rtol=1e-12)
    there = tuple(nodes_of(model.solid).T)
    ours = result.displacement_mm[there]
    assert np.abs(ours - displacement[there]).max() < 1e-7 * np.abs(ours).max()
    # their forces are those of the displacements at every node: what is applied, and what holds
    size = np.abs(force[there]).max()
    for condition in prescribed:
        total = force[tuple(condition.nodes.T)].sum(axis=0)
        assert np.abs(result.reaction_n[condition.name] - total).max() < 1e-7 * np.abs(total).max()
    applied = force[tuple(push.nodes.T)]
    assert np.abs(applied - np.column_stack([push.z, push.y, push.x])).max() < 1e-7 * size
    work = (force[there] * displacement[there]).sum() / 2
    energy = element_fields(model, result.displacement_mm).energy_density_mpa.sum() * np.prod(model.spacing_mm)
    assert energy == pytest.approx(work, rel=1e-7)
