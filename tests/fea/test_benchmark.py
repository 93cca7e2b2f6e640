"""The benchmark's contract, and agreement with another program where it is installed."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest

from benchmarks import solver as benchmark
from fea import Prescribed, VoxelModel, face_nodes, save_model, solve


def model_file(folder, shape=(12, 14, 16)):
    modulus = np.random.default_rng(0).uniform(100, 5000, shape)
    modulus[3:6, :5, :5] = 0
    model = VoxelModel(modulus, (0.5, 0.5, 0.5))
    sets = [
        Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0),
        Prescribed("top", face_nodes(model, 0, True), z=-0.06, y=0.0, x=0.0),
    ]
    path = folder / "block.npz"
    save_model(path, model, sets)
    return path, model, sets


def test_record_holds_what_scripts_read(tmp_path, monkeypatch, capsys):
    path, model, sets = model_file(tmp_path)
    monkeypatch.setattr(
        sys,
        "argv",
        ["solver", "--here", str(path), "--repeat", "1", "--save-displacement", str(tmp_path / "out")],
    )
    benchmark.main()
    record = json.loads(capsys.readouterr().out)
    contract = "model dof iterations setup_cpu_s solve_cpu_s wall_s peak_bytes reaction_n relative_residual"
    assert set(contract.split()) <= set(record)
    assert record["model"] == "block"
    assert record["relative_residual"] <= 1e-6
    result = solve(model, sets)
    assert record["reaction_n"] == pytest.approx(result.reaction_n["top"][0], rel=1e-9)
    assert record["relative_residual"] == pytest.approx(result.residual, rel=1e-6)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "block.npy"), result.displacement_mm)


def test_plain_operator_sees_a_wrong_displacement(tmp_path):
    """The independent check is worth something: a small error at one node shows."""
    _, model, sets = model_file(tmp_path)
    displacement = solve(model, sets, rtol=1e-9).displacement_mm
    assert benchmark.independent_check(model, sets, [], displacement)[0] < 1.01e-9
    displacement[6, 7, 8, 1] += 1e-4
    assert benchmark.independent_check(model, sets, [], displacement)[0] > 1e-4


@pytest.mark.peer
@pytest.mark.skipif(importlib.util.find_spec("parosol_py") is None, reason="parosol-py is not installed")
def test_parosol_finds_the_same_displacements(tmp_path):
    """Node by node in sorted order, since its numbering is its own."""
    import parosol_py

    path, model, sets = model_file(tmp_path)
    with np.load(path) as data:
        index, values = data["prescribed_index"], data["prescribed_mm"]
    theirs = parosol_py.solve(
        material=model.modulus_mpa,
        spacing=model.spacing_mm,
        boundary_conditions=parosol_py.BoundaryConditionSet(
            fixed_coordinates=np.column_stack([index[:, 2], index[:, 1], index[:, 0], 2 - index[:, 3]]).astype(
                np.uint16
            ),
            fixed_values=values.astype(np.float32),
        ),
        poisson_ratio=0.3,
        tolerance=1e-9,
        outputs=("disp",),
        work_dir=tmp_path,
    ).fields["displacements"]
    ours = solve(model, sets, rtol=1e-9).displacement_mm
    touched = np.abs(ours).sum(axis=-1) > 0
    held = len(theirs) - touched.sum()
    for component in range(3):
        expected = np.sort(np.concatenate([ours[touched][:, component], np.zeros(held)]))
        np.testing.assert_allclose(np.sort(np.asarray(theirs)[:, 2 - component]), expected, atol=1e-6 * 0.06)
