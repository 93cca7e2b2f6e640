"""Compression of a body: closed forms, invariance, posing from a mask, and every refusal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fea import CurveStopped, solve_curve
from fea.bone.assembly import TestRefused, bone_voxels, cap_region
from fea.bone.evaluate import (
    add_yield,
    run,
    run_linear,
    stiffness_change_by_boundary,
    stiffness_change_by_density,
)
from fea.bone.profiles import Boundary, Criterion, load_profile
from fea.bone.resample import PosedBone, grid_around
from fea.bone.vertebra import BodyPose, build_vertebra, pose_of_body
from fea.bone.voxel_fields import voxel_fields
from tests.fea.bone.bones import Bone, block, body_axes, oval_body, plain_profile


def upright(bone: Bone) -> BodyPose:
    points = np.argwhere(bone.mask) @ bone.matrix[:3, :3].T + bone.matrix[:3, 3]
    superior, posterior, left = body_axes(0, 0)
    return BodyPose(points.mean(axis=0), left, posterior, superior)


def tilted(bone: Bone, forward_deg: float, sideways_deg: float) -> BodyPose:
    superior, posterior, left = body_axes(forward_deg, sideways_deg)
    return BodyPose(upright(bone).origin_mm, left, posterior, superior)


def compress(bone: Bone, profile, pose=None, **options):
    model = build_vertebra(bone.density, bone.mask, bone.matrix, pose or upright(bone), profile, **options)
    return run_linear(model, rtol=1e-8)


# A block whose faces lie on voxel faces of the model, but whose trilinear mask spreads half a voxel: with the majority rule
# it is a cuboid of whole voxels again.
SHARP = {"boundary": Boundary.MAJORITY}


def test_a_uniform_block_has_the_stiffness_of_a_bar() -> None:
    """nu = 0 and caps of the same modulus: K = E A / H, the height with its two caps of 3 mm."""
    result = compress(block(20, 16, 24), plain_profile(modulus_mpa=500, cap_modulus_mpa=500, **SHARP))
    assert result.model.lengths_mm["model"] == 30.0
    assert result.stiffness_n_mm == pytest.approx(500 * 20 * 16 / 30, rel=1e-5)
    assert result.model.lengths_mm["body"] == pytest.approx(24.0, abs=0.05)
    assert result.model.cross_section_mm2 == pytest.approx(320.0, rel=0.01)


def test_caps_and_bone_are_springs_in_series() -> None:
    result = compress(block(20, 16, 24), plain_profile(modulus_mpa=300, cap_modulus_mpa=2500, **SHARP))
    assert result.stiffness_n_mm == pytest.approx(320 / (24 / 300 + 6 / 2500), rel=1e-5)


def test_strength_criteria_of_a_uniform_bar() -> None:
    """Every voxel has the same strain, so Pistoia's force is that at 0.7 %; the linear rule is coefficient x height x K."""
    profile = plain_profile(modulus_mpa=500, cap_modulus_mpa=500, **SHARP)
    result = compress(block(20, 16, 24), profile)
    assert result.strength_n[Criterion.PISTOIA] == pytest.approx(500 * 320 * 0.007, rel=1e-4)
    assert result.strength_n[Criterion.LINEAR_RULE] == pytest.approx(0.0068 * 30 * result.stiffness_n_mm, rel=1e-9)
    by_body = compress(block(20, 16, 24), replace(profile, linear_rule_height="body"))
    assert by_body.strength_n[Criterion.LINEAR_RULE] == pytest.approx(0.0068 * 24 * result.stiffness_n_mm, rel=3e-3)


def test_first_yield_of_a_uniform_bar_is_yield_stress_times_area() -> None:
    profile = replace(
        plain_profile(modulus_mpa=500, cap_modulus_mpa=500, **SHARP), yield_stress=load_profile("bct-like").yield_stress
    )
    result = compress(block(20, 16, 24, density=100.0), profile)
    assert result.first_yield_n == pytest.approx(1.74 * 320, rel=1e-3)


def test_yielding_bar_follows_the_textbook_curve() -> None:
    """Elastic, perfectly plastic: K d up to sigma_y A, then flat but for the caps, which hold the plastic flow sideways."""
    profile = replace(
        plain_profile(modulus_mpa=500, cap_modulus_mpa=500, **SHARP), yield_stress=load_profile("bct-like").yield_stress
    )
    linear = compress(block(20, 16, 24, density=100.0), profile)
    result = add_yield(linear)
    limit = 1.74 * 320
    displacement, force = result.curve.T
    np.testing.assert_allclose(force, np.minimum(linear.stiffness_n_mm * displacement, limit), rtol=0.025)
    assert result.strength_n[Criterion.NONLINEAR_STRAIN] == pytest.approx(limit, rel=0.025)
    assert result.strength_n[Criterion.OFFSET_YIELD] == pytest.approx(limit, rel=0.02)
    assert result.yielded_part == pytest.approx(1.0, abs=0.02)
    assert displacement[-1] == pytest.approx(0.019 * result.model.lengths_mm["body"])


def test_a_profile_with_a_yield_criterion_is_run_to_it() -> None:
    bone = oval_body()
    model = build_vertebra(bone.density, bone.mask, bone.matrix, upright(bone), load_profile("bct-like"), voxel_mm=2.0)
    result = run(model)
    assert result.plastic_strain is not None and 0 < result.yielded_part <= 1
    # 150 mg/cm3 yields at 2.985 MPa; the caps hold its ends sideways, so it carries at least that and less than half more.
    area = float(model.is_bone.any(axis=0).sum()) * 4
    waist = 0.81 * area
    assert 0.9 * 2.985 * waist < result.strength_n[Criterion.NONLINEAR_STRAIN] < 1.5 * 2.985 * area


def test_a_profile_without_yield_law_has_no_curve() -> None:
    with pytest.raises(TestRefused) as caught:
        add_yield(compress(block(), load_profile("morgan-vertebra")))
    assert caught.value.code == "no_yield_law"


def test_stored_energy_is_half_force_times_displacement() -> None:
    result = compress(oval_body(), plain_profile(poisson=0.3, modulus_mpa=400, cap_modulus_mpa=400, **SHARP))
    model = result.model
    everywhere = model.modulus_mpa > 0
    from fea import solve

    solution = solve(model.voxel_model(), model.supports, rtol=1e-9)
    fields = voxel_fields(solution.displacement_mm, model.modulus_mpa, everywhere, 1.0, 0.3)
    energy, strain, mises = fields.energy_density_mpa, fields.effective_strain, fields.von_mises_mpa
    assert energy.sum(dtype=float) == pytest.approx(0.5 * result.force_n * model.applied_mm, rel=1e-5)
    there = model.is_bone
    np.testing.assert_allclose(energy[there], 0.5 * model.modulus_mpa[there] * strain[there] ** 2, rtol=1e-4)
    assert mises[there].min() > 0


def test_uniaxial_stress_state_gives_the_textbook_numbers() -> None:
    """Strain -1 % along z, +0.3 % across, E = 1000: 10 MPa von Mises, 0.05 MPa stored."""
    nodes = np.indices((3, 3, 3)).astype(float)
    u = np.stack([-0.01 * nodes[0], 0.003 * nodes[1], 0.003 * nodes[2]], axis=-1) * 0.5
    modulus = np.full((2, 2, 2), 1000.0, np.float32)
    fields = voxel_fields(u, modulus, modulus > 0, 0.5, 0.3)
    energy, strain, mises = fields.energy_density_mpa, fields.effective_strain, fields.von_mises_mpa
    np.testing.assert_allclose(mises, 10.0, rtol=1e-6)
    np.testing.assert_allclose(energy, 0.05, rtol=1e-6)
    np.testing.assert_allclose(strain, 0.01, rtol=1e-6)


@pytest.mark.parametrize("angles", [(0, 0), (17, 0), (-12, 9)])
def test_the_pose_of_the_scan_does_not_matter(angles: tuple[float, float]) -> None:
    """The same body lying differently in the scanner: within 0.7 % of the upright one."""
    profile = load_profile("kopperdahl2002")
    straight = compress(oval_body(), profile)
    bone = oval_body(tilt_deg=angles)
    turned = compress(bone, profile, tilted(bone, *angles))
    assert turned.stiffness_n_mm == pytest.approx(straight.stiffness_n_mm, rel=7e-3)


def test_mirror_image_has_the_same_stiffness() -> None:
    bone = oval_body()
    rising = bone.with_density(100 + 3.0 * np.arange(bone.mask.shape[2])[None, None, :])
    mirrored = Bone(rising.density[:, :, ::-1].copy(), rising.mask[:, :, ::-1].copy(), rising.matrix)
    profile = load_profile("kopperdahl2002")
    first, second = compress(rising, profile), compress(mirrored, profile)
    assert second.stiffness_n_mm == pytest.approx(first.stiffness_n_mm, rel=1e-4)


def test_one_percent_more_density_is_the_exponent_of_the_law_in_strength() -> None:
    profile = load_profile("kopperdahl2002")
    stiff_caps = replace(profile, cap=replace(profile.cap, modulus_mpa=1e6))
    low = compress(oval_body(density=150.0), stiff_caps)
    high = compress(oval_body(density=151.5), stiff_caps)
    gain = np.log(high.stiffness_n_mm / low.stiffness_n_mm) / np.log(1.01)
    assert gain == pytest.approx(1.05, rel=0.02)


@pytest.mark.parametrize("voxel_mm", [0.75, 1.5])
def test_the_size_of_the_voxels_matters_little(voxel_mm: float) -> None:
    bone = oval_body(spacing_mm=(1.2, 0.8, 0.8))
    profile = load_profile("kopperdahl2002")
    fine, other = compress(bone, profile), compress(bone, profile, voxel_mm=voxel_mm)
    per_height = [r.stiffness_n_mm * r.model.lengths_mm["model"] for r in (fine, other)]
    assert per_height[1] == pytest.approx(per_height[0], rel=0.03)


def test_first_order_change_by_density_agrees_with_a_second_solution() -> None:
    profile = load_profile("kopperdahl2002")
    bone = oval_body()
    result = compress(bone, profile)
    shift = 0.04 * result.model.bone.density_mg_cm3.astype(float)
    again = compress(bone.with_density(150.0 * 1.04), profile)
    actual = again.stiffness_n_mm / result.stiffness_n_mm - 1
    assert stiffness_change_by_density(result, shift) == pytest.approx(actual, rel=0.1)


def test_first_order_change_by_boundary_agrees_with_a_grown_body() -> None:
    profile = load_profile("kopperdahl2002")
    result = compress(oval_body(spacing_mm=(0.5, 0.5, 0.5)), profile)
    wider = compress(oval_body(spacing_mm=(0.5, 0.5, 0.5), size_mm=(45.0, 33.0, 26.0)), profile)
    actual = wider.stiffness_n_mm / result.stiffness_n_mm - 1
    assert stiffness_change_by_boundary(result, 0.5) == pytest.approx(actual, rel=0.35)


@pytest.mark.parametrize("angles", [(0, 0), (14, -8), (-20, 15)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 0.7, 0.7)])
def test_the_load_axis_is_found_from_the_mask(angles, spacing) -> None:
    bone = oval_body(tilt_deg=angles, spacing_mm=spacing)
    pose = pose_of_body(bone.mask, bone.matrix)
    off_deg = np.degrees(np.arccos(np.clip(pose.superior @ body_axes(*angles)[0], -1, 1)))
    assert off_deg < 1.5
    np.testing.assert_allclose(pose.axes @ pose.axes.T, np.eye(3), atol=1e-9)
    assert pose.left[0] > 0.9 and pose.posterior[1] > 0.9


def test_a_cap_fills_a_hollow_end_plate_and_ends_flat() -> None:
    share = np.zeros((20, 12, 12))
    share[4:12, 2:10, 2:10] = 1
    share[10:12, 5:7, 5:7] = 0
    cap = cap_region(share, 0, True, depth_voxels=4, thickness_voxels=3)
    assert cap.face == 15 and cap.footprint.sum() == 64
    assert cap.voxels[12:15, 2:10, 2:10].all() and cap.voxels[10:12, 5:7, 5:7].all() and not cap.voxels[15:].any()
    assert not cap.voxels[:11, 2:5].any()  # of the bone only the outermost voxels, which may be part cement
    below = cap_region(share, 0, False, depth_voxels=4, thickness_voxels=3)
    assert below.face == 1 and below.voxels[1:5, 2:10, 2:10].all() and not below.voxels[0].any()
    nodes = cap.face_nodes()
    assert (nodes[:, 0] == 15).all() and len(nodes) == 81


def wedged_block(slope: float) -> Bone:
    """A block of 24 x 30 mm, 24 mm high behind, whose two end plates fall towards the front."""
    bone = block(24, 30, 24)
    k, j, _ = np.indices(bone.mask.shape)
    front_mm = np.clip(33.5 - j, 0, None)
    mask = bone.mask & (np.abs(k - 15.5) < 12 - slope * front_mm)
    return Bone(np.where(mask, 150.0, -80.0).astype(np.float32), mask, bone.matrix)


@pytest.mark.parametrize("slope", [0.0, 0.15, 0.3])
def test_caps_cover_the_end_plates_of_a_collapsed_body(slope: float) -> None:
    """Where cement has the modulus of the bone and covers all of it, a wedge is a bar again, however steep: K = E A / H."""
    result = compress(wedged_block(slope), plain_profile(modulus_mpa=500, cap_modulus_mpa=500, **SHARP))
    assert result.stiffness_n_mm == pytest.approx(500 * 24 * 30 / 30, rel=0.08)


def test_a_spur_does_not_keep_the_load_from_the_end_plate() -> None:
    """A spike 7 mm high on the rim: the cement between it and the plate carries what the plate carries."""
    spiked = block(24, 30, 24)
    mask = np.pad(spiked.mask, ((0, 8), (0, 0), (0, 0)))
    mask[28:35, 30:33, 10:13] = True
    bone = Bone(np.where(mask, 150.0, -80.0).astype(np.float32), mask, spiked.matrix)
    result = compress(bone, plain_profile(modulus_mpa=500, cap_modulus_mpa=500, **SHARP))
    assert result.stiffness_n_mm == pytest.approx(500 * 24 * 30 / 37, rel=0.06)


def test_a_cap_without_room_is_an_error() -> None:
    with pytest.raises(ValueError, match="room"):
        cap_region(np.ones((4, 3, 3)), 0, True, depth_voxels=2, thickness_voxels=2)


# Every guard, made to fire.


def refusal(bone: Bone, profile=None, **options) -> str:
    with pytest.raises(TestRefused) as caught:
        compress(bone, profile or load_profile("kopperdahl2002"), **options)
    return caught.value.code


def test_refuses_an_empty_mask() -> None:
    bone = block()
    with pytest.raises(TestRefused) as caught:
        build_vertebra(
            bone.density, np.zeros_like(bone.mask), bone.matrix, upright(bone), load_profile("kopperdahl2002")
        )
    assert caught.value.code == "mask_empty"
    with pytest.raises(TestRefused) as caught:
        pose_of_body(np.zeros_like(bone.mask), bone.matrix)
    assert caught.value.code == "mask_empty"


def test_refuses_a_crumb_and_a_flat_slab() -> None:
    assert refusal(block(8, 8, 10)) == "mask_too_small"
    assert refusal(block(40, 30, 6)) == "mask_too_small"


def test_refuses_densities_that_no_bone_has() -> None:
    assert refusal(block(density=-300.0)) == "density_unphysical"
    assert refusal(block(density=3500.0)) == "density_unphysical"
    assert refusal(block(density=float("nan"))) == "density_unphysical"


def test_refuses_a_bone_in_two_pieces() -> None:
    bone = block(20, 16, 40)
    bone.mask[20:23] = False
    assert refusal(bone) == "disconnected_pieces"


def test_small_loose_pieces_are_left_out_and_said_to_be() -> None:
    bone = block(20, 16, 24)
    bone.mask[10:13, 0:1, 10:13] = True
    bone.density[10:13, 0:1, 10:13] = 150.0
    result = compress(bone, load_profile("kopperdahl2002"))
    assert "loose_pieces_removed" in {issue.code for issue in result.model.issues}


def test_refuses_a_voxel_size_out_of_range() -> None:
    assert refusal(block(), voxel_mm=3.0) == "voxel_size"


def test_refuses_a_whole_vertebra_as_a_body() -> None:
    bone = oval_body()
    size = bone.mask.shape
    mask = np.zeros((size[0], size[1] + 50, size[2]), bool)
    mask[:, : size[1]] = bone.mask
    middle = size[0] // 2
    mask[middle - 4 : middle + 4, size[1] - 12 : size[1] + 40, size[2] // 2 - 3 : size[2] // 2 + 3] = True
    with pytest.raises(TestRefused) as caught:
        pose_of_body(mask, bone.matrix)
    assert caught.value.code == "not_a_vertebral_body"


def test_clamped_densities_are_counted_in_the_issues() -> None:
    grid = grid_around(np.array([[0.0, 0, 0], [6, 6, 6]]), np.eye(3)[::-1], 1.0, 0.0)
    density = np.full(grid.shape, 100.0, np.float32)
    density[0] = -20.0
    bone = PosedBone(grid, density, np.ones(grid.shape, np.float32), 0.0, 216.0)
    issue = bone_voxels(bone, load_profile("kopperdahl2002")).issues[0]
    assert issue.code == "density_clamped_below" and issue.serious and "36 of 216" in issue.text


def test_orthotropic_bone_between_cement() -> None:
    """A block softer across is as stiff as isotropic bone of the same axial modulus, less what the caps hold."""
    isotropic = compress(block(), load_profile("kopperdahl2002-linear"))
    orthotropic = compress(block(), load_profile("kopperdahl2002-orthotropic"))
    assert orthotropic.model.orthotropy is not None
    cement = orthotropic.model.orthotropy.isotropic
    assert (
        cement is not None
        and not cement[orthotropic.model.is_bone].any()
        and cement[orthotropic.model.modulus_mpa > 2400].all()
    )
    assert 0.9 < orthotropic.stiffness_n_mm / isotropic.stiffness_n_mm < 1.0
    model = orthotropic.model
    stored = orthotropic.energy_density_mpa.sum(dtype=float)
    assert 0.7 * orthotropic.strain_energy_mj < stored < orthotropic.strain_energy_mj  # the rest is in the cement
    with pytest.raises(TestRefused) as caught:
        add_yield(orthotropic)
    assert caught.value.code == "no_yield_law" and model.profile.yield_stress is not None


def test_asymmetric_yield_counts_in_first_yield() -> None:
    """A bar in compression yields at the compressive stress whatever its tensile one; von Mises alone would not know."""
    base = replace(load_profile("bct-like"), tension_ratio=1.0)
    symmetric, weak = (compress(block(), replace(base, tension_ratio=ratio)) for ratio in (1.0, 0.6))
    assert symmetric.first_yield_n is not None and weak.first_yield_n is not None
    middle = (slice(11, 17),) * 3
    assert weak.yield_ratio is not None and symmetric.yield_ratio is not None
    np.testing.assert_allclose(weak.yield_ratio[middle], symmetric.yield_ratio[middle], rtol=0.1)


def test_a_curve_that_ends_early_gives_what_it_reached_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    result = compress(block(), load_profile("kopperdahl2002"))
    whole = add_yield(result)

    def stops(model, supports, material, factors, **options):
        curve = solve_curve(model, supports, material, factors[:4], **options)
        raise CurveStopped("no equilibrium was found beyond there.", "", replace(curve, complete=False))

    monkeypatch.setattr("fea.bone.evaluate.solve_curve", stops)
    part = add_yield(result)
    np.testing.assert_array_equal(part.curve, whole.curve[:5])
    assert [issue.code for issue in part.issues] == ["curve_stopped"]
    assert Criterion.NONLINEAR_STRAIN not in part.strength_n and Criterion.LINEAR_RULE in part.strength_n
    with pytest.raises(TestRefused) as caught:
        add_yield(compress(block(), load_profile("bct-like")))
    assert caught.value.code == "not_converged"
