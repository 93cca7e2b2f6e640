"""Reasons for no strength that need a strange bone, or a solver that fails: each fires, and none leaves a number."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fea.bone import evaluate, femur_pose
from fea.errors import Reason, SolveError
from pipeline.errors import Finding, InputRefused, NotMeasurable, Severity
from pipeline.measure import _Sheet
from pipeline.strength import strength_from_image, vertebra_strength
from pipeline.strength.command import run_strength_command
from tests.fea.bone.bones import Bone, lps_matrix, oval_body, synthetic_femur
from tests.pipeline.test_strength import calibration, save, with_vertebra


def refusal(bone: Bone, test: str = "spine-compression", **options: Any) -> NotMeasurable:
    with pytest.raises(NotMeasurable) as caught:
        strength_from_image(bone.density, bone.mask, bone.matrix, test=test, mineral="K2HPO4", voxel_mm=2.0, **options)
    return caught.value


def test_a_wedge_has_no_two_end_plates() -> None:
    """Its upper face rises by 68 degrees over the lower one."""
    z, y, x = np.indices((80, 50, 60), dtype=float)
    mask = (np.abs(y - 25) < 15) & (x > 15) & (x < 40) & (z > 10) & (z < 16 + 2.5 * (x - 15))
    wedge = Bone(np.where(mask, 150.0, -80.0).astype(np.float32), mask, lps_matrix((1.0, 1.0, 1.0)))
    assert refusal(wedge).reason == "end_plates_not_found"


def test_a_head_that_was_fitted_beside_the_bone_has_no_neck(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = femur_pose._head_sphere

    def beside(*arguments: Any) -> tuple[np.ndarray, float]:
        centre, radius = fitted(*arguments)
        return centre + np.array([0.0, -300.0, 0.0]), radius

    monkeypatch.setattr(femur_pose, "_head_sphere", beside)
    assert refusal(synthetic_femur(), "hip-stance").reason == "femoral_neck_not_found"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (SolveError(Reason.NOT_CONVERGED, "the residual stayed at 0.1 after 500 iterations."), "not_converged"),
        (None, "no_load_carried"),
    ],
)
def test_a_solution_that_fails_gives_no_number_but_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: SolveError | None, reason: str
) -> None:
    """Either the solver says so, or what it found transfers no force."""
    solve = evaluate.Solver.solve

    def failing(self: Any, *arguments: Any, **options: Any) -> Any:
        if fault is not None:
            raise fault
        solution = solve(self, *arguments, **options)
        return replace(solution, reaction_n={name: np.zeros(3) for name in solution.reaction_n})

    monkeypatch.setattr(evaluate.Solver, "solve", failing)
    bone = oval_body()
    image = save(tmp_path / "density.nii", bone.density, bone.matrix)
    mask = save(tmp_path / "mask.nii", bone.mask.astype(np.uint8), bone.matrix)
    out = tmp_path / "out"
    run_strength_command(image, mask, out, test="spine-compression", is_density=True, voxel_mm=2.0)
    content = json.loads((out / "strength.json").read_text(encoding="utf-8"))
    assert content["strength_n"] is None and content["stiffness_n_mm"] is None and content["curve"] == []
    assert [(f["code"], f["severity"]) for f in content["findings"]] == [(reason, "failure")]
    assert [file.name for file in out.iterdir()] == ["strength.json"]


def test_an_image_without_air_or_fat_is_no_ct(tmp_path: Path) -> None:
    bone = oval_body()
    positive = np.where(bone.mask, 150.0, 20.0).astype(np.float32)
    with pytest.raises(InputRefused) as caught:
        strength_from_image(positive, bone.mask, bone.matrix, test="spine-compression")
    assert caught.value.reason == "not_hounsfield"


def test_bone_denser_than_the_law_is_clamped_and_counted() -> None:
    dense = oval_body(density=2500.0)
    options: dict[str, Any] = {"test": "spine-compression", "mineral": "K2HPO4", "voxel_mm": 2.0}
    result = strength_from_image(dense.density, dense.mask, dense.matrix, **options)
    told = next(finding for finding in result.findings if finding.code == "density_clamped_above")
    assert "voxels" in told.text
    at_the_end = strength_from_image(2 * dense.density - 2500, dense.mask, dense.matrix, **options)
    assert at_the_end.strength == result.strength


def test_a_fractured_body_is_no_specimen() -> None:
    volume, segmentation, vertebra = with_vertebra(oval_body())
    sheet = _Sheet(volume, segmentation, calibration(), None, True, None, None)
    shape: Any = SimpleNamespace(flagged=True, genant_grade=2, height_loss=None)
    sheet.measure_strength(vertebra, shape)
    assert sheet.reasons["vertebra_L1", "strength_n"].code == "fractured" and not sheet.strengths


@pytest.mark.parametrize("code", ["disc_not_visible", "collapsed_body"])
def test_a_body_with_a_guessed_or_collapsed_end_plate_is_no_specimen(code: str) -> None:
    finding = Finding(code, Severity.WARNING, "The end plate was not seen.")
    volume, segmentation, vertebra = with_vertebra(oval_body(), findings=(finding,))
    sheet = _Sheet(volume, segmentation, calibration(), None, True, None, None)
    sheet.measure_strength(vertebra, None)
    assert sheet.reasons["vertebra_L1", "strength_n"].code == code and not sheet.strengths


def test_a_scan_whose_mask_falls_apart_gives_no_strength() -> None:
    volume, segmentation, vertebra = with_vertebra(oval_body())
    labels = segmentation.labels.copy()
    labels[labels.shape[0] // 2] = 0
    with pytest.raises(NotMeasurable) as caught:
        vertebra_strength(volume, replace(segmentation, labels=labels), vertebra, calibration())
    assert caught.value.reason == "disconnected_pieces"
