"""The benchmark's contract, and agreement with another program where it is installed."""

from __future__ import annotations

import importlib.util
import json
import mmap
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import measuring
from benchmarks import solver as benchmark
from benchmarks.plain_check import element_matrices, independent_check
from benchmarks.solver_models import STANDARD, femur, platens
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


def test_record_holds_what_scripts_read(tmp_path, monkeypatch):
    path, model, sets = model_file(tmp_path)
    monkeypatch.setattr(
        sys,
        "argv",
        ["solver", str(path), "--repeat", "1", "--models-only", "--json", str(tmp_path / "out.json"),
         "--save-displacement", str(tmp_path / "out")],
    )  # fmt: skip
    benchmark.main()
    written = json.loads((tmp_path / "out.json").read_text())
    assert {"processor", "cores", "python", "numba"} <= set(written["machine"])
    (record,) = written["records"]
    contract = """model dof iterations setup_cpu_s solve_cpu_s wall_s peak_bytes estimated_bytes bytes_per_dof reaction_n
        relative_residual other_cores_busy"""
    assert set(contract.split()) <= set(record)
    assert record["model"] == "block"
    assert record["relative_residual"] <= 1e-6
    result = solve(model, sets)
    assert record["reaction_n"] == pytest.approx(result.reaction_n["top"][0], rel=1e-9)
    assert record["relative_residual"] == pytest.approx(result.residual, rel=1e-6)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "block.npy"), result.displacement_mm)


def test_memory_is_counted_from_where_the_block_begins():
    with measuring.PeakMemory() as memory:
        block = mmap.mmap(-1, 40_000_000)  # not from the heap, which may hold as much that was freed before
        for page in range(0, 40_000_000, 4096):
            block[page] = 1
        block.close()
    assert 38e6 < memory.bytes < 60e6
    with measuring.PeakMemory() as memory:
        pass
    if sys.platform == "linux":  # elsewhere the system knows the whole process only
        assert memory.bytes < 5e6


def test_one_thread_takes_no_more_processor_time_than_time(tmp_path):
    """Whatever watches a run would show here, as would threads of a library underneath."""
    path, _, _ = model_file(tmp_path, (40, 40, 40))
    record = measuring.in_own_process(benchmark.measure_time, threads=1, path=str(path), rtol=1e-6, repeat=3)
    assert record["setup_cpu_s"] + record["solve_cpu_s"] < 1.05 * record["wall_s"]


def test_others_are_seen_at_work():
    begin = "import time; end = time.time() + {}\nwhile time.time() < end: pass"
    with measuring.OtherWork() as others:
        subprocess.Popen([sys.executable, "-c", begin.format(0.7)]).wait()
    assert others.cores > 0.3


def test_standard_models_are_those_of_the_reference_reactions():
    """The coarsest of them, to a tight tolerance: a model drawn differently would be off by a per cent."""
    model = STANDARD["A10"]()
    result = solve(model, platens(model), rtol=1e-9)
    assert result.reaction_n["top"][0] == pytest.approx(benchmark.REFERENCE_REACTION_N["A10"], rel=1e-9)


def test_plain_element_agrees_with_a_bar_in_closed_form():
    """Uniaxial stress E eps along each axis: the plain element has no error of its own to hide one of the solver."""
    spacing = (0.7, 1.0, 1.4)
    lam, mu = element_matrices(spacing)
    poisson = 0.3
    matrix = poisson / ((1 + poisson) * (1 - 2 * poisson)) * lam + mu / (2 * (1 + poisson))
    corners = np.array([(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]) * spacing
    for axis in range(3):
        strain = np.full(3, -poisson)
        strain[axis] = 1.0
        force = (matrix @ (corners * strain).ravel()).reshape(8, 3)
        area = np.prod(spacing) / spacing[axis]
        assert force[corners[:, axis] > 0, axis].sum() == pytest.approx(area)
        assert force[corners[:, axis] == 0, axis].sum() == pytest.approx(-area)
        assert np.abs(np.delete(force, axis, axis=1)).max() < 1e-12


def test_plain_operator_sees_a_wrong_displacement(tmp_path):
    """The independent check is worth something: a small error at one node shows."""
    _, model, sets = model_file(tmp_path)
    displacement = solve(model, sets, rtol=1e-9).displacement_mm
    assert independent_check(model, sets, [], displacement)[0] < 1.01e-9
    displacement[6, 7, 8, 1] += 1e-4
    assert independent_check(model, sets, [], displacement)[0] > 1e-4


def test_femur_like_body_has_the_size_of_a_femur():
    model = femur(2.0)
    assert 400 < model.shape[0] * 2.0 < 460
    volume_cm3 = model.solid.sum() * 8e-3
    assert 350 < volume_cm3 < 700
    solve(model, platens(model))  # one piece, held at both ends


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
