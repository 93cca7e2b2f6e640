"""Whole models of bones as this package writes them, solved by CalculiX and by parosol-py: linear reactions and plastic curves.

    pytest -m peer tests/fea/bone

CalculiX is `ccx` on the path or named by OPENBCT_CCX; parosol-py runs in the interpreter named by OPENBCT_PEER_PYTHON.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fea import YieldMaterial, load_model, save_model, solve, solve_curve
from fea.bone.assembly import TestModel
from fea.bone.export import write_calculix
from fea.bone.femur import build_sideways_fall
from fea.bone.femur_pose import pose_of_femur
from fea.bone.profiles import load_profile
from fea.bone.vertebra import build_vertebra, pose_of_body
from tests.fea.bone.bones import Bone, oval_body, synthetic_femur
from tests.fea.bone.test_femur import known_pose
from tests.fea.bone.test_reference_models import image

CCX = shutil.which(os.environ.get("OPENBCT_CCX", "ccx"))
PYTHON = os.environ.get("OPENBCT_PEER_PYTHON") or (sys.executable if importlib.util.find_spec("parosol_py") else None)

pytestmark = pytest.mark.peer
needs_calculix = pytest.mark.skipif(
    CCX is None, reason="CalculiX is not installed (Debian: calculix-ccx), or set OPENBCT_CCX"
)
needs_parosol = pytest.mark.skipif(PYTHON is None, reason="name a Python that has parosol-py in OPENBCT_PEER_PYTHON")

THEIR_SIDE = """
import sys, h5py, numpy as np, parosol_py
given = np.load(sys.argv[1])
conditions = parosol_py.BoundaryConditionSet(
    fixed_coordinates=given["fixed"].astype(np.uint16),
    fixed_values=given["fixed_mm"].astype(np.float32),
    loaded_coordinates=np.zeros((0, 4), np.uint16), loaded_values=np.zeros(0, np.float32))
parosol_py.solve(material=given["modulus"], spacing=(float(given["edge"]),) * 3, boundary_conditions=conditions,
                 poisson_ratio=float(given["poisson"]), tolerance=1e-7, outputs=("disp", "force"), work_dir=sys.argv[2])
with h5py.File(sys.argv[2] + "/parosol_input.h5") as file:
    np.savez(sys.argv[3], at=file["Mesh/Coordinates"][...], force=file["Solution/force"][...])
"""


def vertebra(voxel_mm: float, real_data: Callable[[str], Path] | None) -> TestModel:
    bone = oval_body()
    if real_data is not None:
        folder = real_data("fe_vertebra_L4")
        density, matrix = image(folder / "density_mg_cm3.nii.gz")
        bone = Bone(density, image(folder / "labels.nii.gz")[0] == 20, matrix)
    pose = pose_of_body(bone.mask, bone.matrix)
    return build_vertebra(bone.density, bone.mask, bone.matrix, pose, load_profile("kopperdahl2002"), voxel_mm=voxel_mm)


def femur(voxel_mm: float, real_data: Callable[[str], Path] | None) -> TestModel:
    bone, pose = synthetic_femur(), known_pose()
    if real_data is not None:
        folder = real_data("fe_femur_left")
        density, matrix = image(folder / "density_mg_cm3.nii.gz")
        bone = Bone(density, image(folder / "labels.nii.gz")[0] == 2, matrix)
        pose = pose_of_femur(bone.mask, bone.matrix)
    return build_sideways_fall(
        bone.density, bone.mask, bone.matrix, pose, load_profile("morgan-neck"), voxel_mm=voxel_mm
    )


def calculix(folder: Path, model: TestModel, material: YieldMaterial | None, factors: list[float]) -> np.ndarray:
    """Total force of each step along the load on the loaded set."""
    write_calculix(folder / "model.inp", model.voxel_model(), model.supports, material=material, load_factors=factors)
    done = subprocess.run([str(CCX), "model"], cwd=folder, capture_output=True, text=True, check=False)
    text = (folder / "model.dat").read_text() if (folder / "model.dat").exists() else ""
    pattern = rf"set S_{model.loaded.upper()} .*?\n\s*\n\s*(\S+)\s+(\S+)\s+(\S+)"
    found = np.array(re.findall(pattern, text), dtype=float)
    assert len(found) == len(factors), done.stdout[-2000:]
    return found[:, 2 - model.load_axis]


def force_of(model: TestModel, rtol: float) -> float:
    return float(solve(model.voxel_model(), model.supports, rtol=rtol).reaction_n[model.loaded][model.load_axis])


@needs_calculix
@pytest.mark.parametrize("build", [vertebra, femur])
def test_linear_reaction_of_simple_bones_in_calculix(tmp_path, build) -> None:
    model = build(2.0, None)
    theirs = calculix(tmp_path, model, None, [1.0])[0]
    assert force_of(model, 1e-9) == pytest.approx(theirs, rel=1e-6)


@needs_calculix
@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize(("build", "voxel_mm"), [(vertebra, 1.5), (femur, 2.0)])
def test_linear_reaction_of_real_bones_in_calculix(tmp_path, real_data, build, voxel_mm) -> None:
    model = build(voxel_mm, real_data)
    theirs = calculix(tmp_path, model, None, [1.0])[0]
    assert force_of(model, 1e-9) == pytest.approx(theirs, rel=1e-6)


@needs_calculix
@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize(
    ("points", "within"),
    [
        (8, 1e-4),
        pytest.param(
            1, 0.01, marks=pytest.mark.xfail(reason="1.007 % apart at 1.9 % strain: one point cannot do better")
        ),
    ],
)
def test_plastic_curve_of_a_real_vertebra_in_calculix(tmp_path, real_data, points, within) -> None:
    """With eight points of stress in a voxel, as CalculiX has, the same curve; with one, 1 % apart at 1.9 % strain."""
    model = vertebra(2.0, real_data)
    material = YieldMaterial(model.yield_stress_mpa)
    factors = list(np.array((0.12, 0.28, 0.52, 1.0)) * 0.019 * model.lengths_mm["body"] / model.applied_mm)
    theirs = calculix(tmp_path, model, material, factors)
    curve = solve_curve(model.voxel_model(), model.supports, material, factors, rtol=1e-5, stress_points=points)
    ours = curve.reaction_n[model.loaded][1:, model.load_axis]
    print("ours over CalculiX:", np.round(ours / theirs, 6))
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    np.testing.assert_allclose(ours, theirs, rtol=within)


@needs_parosol
@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("build", [vertebra, femur])
def test_linear_reaction_of_real_bones_in_parosol(tmp_path, real_data, build) -> None:
    """At 1 mm, from our exchange file."""
    written = build(1.0, real_data)
    save_model(tmp_path / "model.npz", written.voxel_model(), written.supports)
    model, supports, _ = load_model(tmp_path / "model.npz")
    fixed, values = [], []
    for support in supports:
        for component, given in support.components():
            index = support.nodes[:, ::-1]
            fixed.append(np.column_stack([index, np.full(len(index), 2 - component)]))
            values.append(given)
    np.savez(
        tmp_path / "given.npz", modulus=model.modulus_mpa, edge=model.spacing_mm[0], poisson=model.poisson,
        fixed=np.concatenate(fixed), fixed_mm=np.concatenate(values),
    )  # fmt: skip
    run = subprocess.run(
        [str(PYTHON), "-c", THEIR_SIDE, str(tmp_path / "given.npz"), str(tmp_path / "work"), str(tmp_path / "out.npz")],
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    found = np.load(tmp_path / "out.npz")
    node = {tuple(at): n for n, at in enumerate(np.rint(found["at"][:, ::-1] / model.spacing_mm[0]).astype(int))}
    loaded = next(support for support in supports if support.name == written.loaded)
    numbers = [node[tuple(at)] for at in loaded.nodes.tolist() if tuple(at) in node]
    theirs = float(found["force"][numbers][:, 2 - written.load_axis].sum())
    print("parosol-py:", theirs)
    assert force_of(written, 1e-8) == pytest.approx(theirs, rel=1e-4)
