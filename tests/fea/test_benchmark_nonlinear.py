"""What scripts read from the benchmark of force-displacement curves, and that it says what the solver says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import solver_nonlinear as benchmark
from benchmarks.measuring import write_json
from benchmarks.solver_models import platens
from fea import VoxelModel, YieldMaterial, save_model, solve_curve


def test_record_of_a_small_model(tmp_path):
    modulus = np.random.default_rng(0).uniform(100, 2000, (10, 9, 8))
    modulus[3:6, :4, :4] = 0
    model = VoxelModel(modulus, (1.0, 1.0, 1.0))
    path = tmp_path / "block.npz"
    save_model(path, model, platens(model))
    record = benchmark.measure(str(path), threads=1, repeat=1)
    write_json(str(tmp_path / "out.json"), [record])
    (record,) = json.loads((tmp_path / "out.json").read_text())["records"]
    assert set(record["cases"]) == set(benchmark.CASES)
    for name, case in record["cases"].items():
        assert case["largest_residual"] <= case["rtol"], name
        assert case["cpu_s"] > 0
        assert len(case["force_n"]) == len(case["load_factor"])
        assert np.isfinite(case["force_n"]).all()
    one = record["cases"]["1 step to 1 %"]
    strength = benchmark.YIELD_STRAIN * model.modulus_mpa.astype(np.float64)
    curve = solve_curve(model, platens(model), YieldMaterial(strength), [1.0], rtol=1e-8)
    assert one["force_n"][-1] == pytest.approx(curve.reaction_n["top"][-1, 0], rel=1e-5)
    plateau, softer = (record["cases"][name]["force_n"][-1] for name in ("15 steps to 3 %", "15 steps, softening"))
    assert abs(softer) < abs(plateau)
