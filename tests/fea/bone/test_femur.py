"""Femur tests: axes found on a femur of known shape, posture, balance of forces, and every refusal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fea.bone.assembly import TestRefused
from fea.bone.evaluate import run_linear
from fea.bone.femur import build_sideways_fall, build_stance
from fea.bone.femur_pose import FemurPose, pose_of_femur
from fea.bone.profiles import Criterion, load_profile
from tests.fea.bone.bones import HEAD_MM, HEAD_RADIUS_MM, Bone, synthetic_femur

NECK = np.array([0.0, 0.0, -2.0]) - HEAD_MM


def known_pose(side: str = "left") -> FemurPose:
    """The axes that the synthetic femur was made with."""
    mirror = np.array([1.0 if side == "left" else -1.0, 1.0, 1.0])
    return FemurPose(
        HEAD_MM * mirror,
        HEAD_RADIUS_MM,
        NECK * mirror / np.linalg.norm(NECK),
        np.array([0.0, 0, -1]),
        np.zeros(3),
        side,
    )


def angle_deg(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))


def fall(bone: Bone, pose: FemurPose, profile: str = "morgan-neck", **options):
    """A fall on coarse voxels, which is enough for comparisons."""
    law = load_profile(profile)
    model = build_sideways_fall(bone.density, bone.mask, bone.matrix, pose, law, voxel_mm=2.0, **options)
    return run_linear(model, rtol=1e-7)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.2, 0.9, 0.9)])
def test_axes_are_found_from_the_mask(side: str, spacing: tuple[float, float, float]) -> None:
    bone = synthetic_femur(side=side, spacing_mm=spacing)
    found = pose_of_femur(bone.mask, bone.matrix)
    assert found.side == side
    mirror = np.array([1.0 if side == "left" else -1.0, 1, 1])
    assert np.abs(found.head_centre_mm - mirror * HEAD_MM).max() < 1.5
    assert found.head_radius_mm == pytest.approx(HEAD_RADIUS_MM, abs=1.0)
    assert angle_deg(found.shaft_axis, np.array([0.0, 0, -1])) < 3.5
    assert angle_deg(found.neck_axis, mirror * NECK) < 6.0


def test_posture_of_the_fall() -> None:
    """The vertical of the fall lies 15 degrees from the neck towards the front and 10 degrees from across the shaft."""
    model = fall(synthetic_femur(), known_pose()).model
    vertical = model.bone.grid.axes[1]
    proximal, medial, anterior = known_pose().anatomical
    np.testing.assert_allclose(proximal, [0, 0, 1], atol=1e-9)
    assert medial[0] < -0.9 and anterior[1] < -0.9  # head of a left femur to the right of the patient, front is -y
    assert 90 - angle_deg(vertical, proximal) == pytest.approx(-10.0, abs=1e-6)
    across = vertical - vertical @ proximal * proximal
    assert np.degrees(np.arctan2(across @ anterior, across @ medial)) == pytest.approx(15.0, abs=1e-6)


def test_forces_balance_and_the_shaft_feels_no_load_along_the_fall() -> None:
    result = fall(synthetic_femur(), known_pose())
    model = result.model
    head, ground = result.reactions_n["head"], result.reactions_n["trochanter"]
    assert head[1] < 0 < ground[1]
    assert ground[1] == pytest.approx(-head[1], rel=1e-3)
    assert result.reactions_n["distal"][1] == 0
    assert result.strength_n[Criterion.FIXED_DISPLACEMENT] == result.force_n
    assert 0.04 * model.lengths_mm["model"] == pytest.approx(model.applied_mm)


def test_left_and_right_are_mirror_images() -> None:
    stiffness = [fall(synthetic_femur(side=side), known_pose(side)).stiffness_n_mm for side in ("left", "right")]
    assert stiffness[1] == pytest.approx(stiffness[0], rel=0.01)


def test_wrong_side_turns_the_neck_the_other_way() -> None:
    right = replace(known_pose(), side="right").anatomical[2]
    np.testing.assert_allclose(right, -known_pose().anatomical[2])


def test_stance_loads_the_shaft_along_its_length() -> None:
    bone, law = synthetic_femur(), load_profile("morgan-neck")
    stance = run_linear(build_stance(bone.density, bone.mask, bone.matrix, known_pose(), law, voxel_mm=2.0), rtol=1e-7)
    upwards = stance.model.bone.grid.axes[0]
    assert angle_deg(upwards, np.array([0.0, 0, 1])) == pytest.approx(20.0, abs=1e-6)
    assert stance.reactions_n["distal"][0] == pytest.approx(stance.force_n, rel=2e-3)


def test_a_long_shaft_is_cut_so_that_all_femora_are_alike() -> None:
    """40 mm more of shaft in view change nothing: both are cut 4.5 head radii below the centre of the head."""
    long = synthetic_femur(shaft_mm=135.0, spacing_mm=(2.0, 2.0, 2.0))
    matrix = long.matrix.copy()
    matrix[2, 3] += 40.0
    short = Bone(long.density[20:].copy(), long.mask[20:].copy(), matrix)
    stiffness = [fall(bone, known_pose()).stiffness_n_mm for bone in (long, short)]
    assert stiffness[1] == pytest.approx(stiffness[0], rel=1e-5)


def test_rotation_and_adduction_can_be_chosen() -> None:
    bone = synthetic_femur()
    model = fall(bone, known_pose(), internal_rotation_deg=0.0, adduction_deg=0.0).model
    np.testing.assert_allclose(model.bone.grid.axes[1], known_pose().anatomical[1], atol=1e-9)


def refusal(bone: Bone, pose: FemurPose | None = None, **options) -> str:
    with pytest.raises(TestRefused) as caught:
        frame = pose or pose_of_femur(bone.mask, bone.matrix)
        build_sideways_fall(bone.density, bone.mask, bone.matrix, frame, load_profile("morgan-neck"), **options)
    return caught.value.code


def test_refuses_a_femur_that_ends_above_the_lesser_trochanter() -> None:
    bone = synthetic_femur(shaft_mm=25.0)
    assert refusal(bone, known_pose()) == "femur_cut_short"
    assert refusal(bone) == "shaft_too_short"


def test_refuses_what_is_no_femur() -> None:
    bone = synthetic_femur()
    empty = replace(bone, mask=np.zeros_like(bone.mask))
    assert refusal(empty) == "mask_empty"
    assert refusal(empty, known_pose()) == "mask_empty"
    small = bone.mask.copy()
    small[: small.shape[0] - 30] = False
    assert refusal(replace(bone, mask=small)) == "mask_too_small"
    assert refusal(bone, replace(known_pose(), neck_axis=np.array([0.0, 0.1, -1.0]))) == "femur_axes"
    assert refusal(bone, known_pose(), voxel_mm=4.0) == "voxel_size"


def test_refuses_a_rod_as_a_femur() -> None:
    bone = synthetic_femur()
    z, y, x = np.indices(bone.mask.shape)
    rod = np.hypot(y * 1.0 - 50, x * 1.0 - 70) < 8
    assert refusal(replace(bone, mask=rod & (z < 100))) == "femoral_head_not_found"
