"""Virtual tests of the proximal femur: fall to the side on the greater trochanter, and single-leg stance."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fea.bone.assembly import (
    BoneVoxels,
    CappedBone,
    CapRegion,
    TestModel,
    TestRefused,
    Variants,
    bone_voxels,
    cap_region,
    with_caps,
)
from fea.bone.femur_pose import FemurPose
from fea.bone.profiles import BoneProfile, VirtualTest
from fea.bone.resample import PosedBone, grid_for_mask, resample_bone
from fea.model import Prescribed
from fea.nodes import nodes_of

# The shaft is cut across at this many head radii below the centre of the head (some 20 to 30 mm below the lesser trochanter),
# so that all femora are loaded alike; shorter ones are held where they end, but not above the lower bound, the height of the
# lesser trochanter.
_KEPT_RADII = 4.5
_LEAST_RADII = 2.8
# Where, from the centre of the head along the neck, a neck begins and ends: names for regions, nothing is computed from them.
_HEAD_RADII, _NECK_RADII = 0.8, 1.9


def build_sideways_fall(
    density_mg_cm3: NDArray,
    mask: NDArray[np.bool_],
    index_to_world: NDArray,
    pose: FemurPose,
    profile: BoneProfile,
    *,
    voxel_mm: float = 1.0,
    internal_rotation_deg: float = 15.0,
    adduction_deg: float = 10.0,
) -> TestModel:
    """A fall to the side: ground under the greater trochanter, load on the head along the vertical of the fall.

    Array axis y is the vertical, from trochanter to head. It lies across the shaft, turned from the neck towards the front by
    `internal_rotation_deg`, and leans from the plane across the shaft by `adduction_deg`, the knee away from the ground. The
    cap on the head is moved down along y, the one under the trochanter held along y, the cut end of the shaft held across y:
    the scheme of the open reference model.

    Parameters
    ----------
    density_mg_cm3 : ndarray of shape (Z, Y, X)
        On the mineral basis of the profile.
    mask : bool ndarray of shape (Z, Y, X)
        The solid proximal femur.
    index_to_world : float ndarray of shape (4, 4)
        From voxel index (k, j, i) to world coordinates.
    pose : FemurPose
    profile : BoneProfile
    voxel_mm : float
        0.5 to 2.
    internal_rotation_deg, adduction_deg : float
        15 and 10 in the tests of Courtney, Keyak and Orwoll.

    Raises
    ------
    TestRefused
        ``voxel_size``, ``mask_empty``, ``femur_cut_short``, ``density_unphysical``, ``disconnected_pieces`` or ``femur_axes``.
    """
    proximal, medial, anterior = pose.anatomical
    turn, lean = np.radians(internal_rotation_deg), np.radians(adduction_deg)
    vertical = np.cos(lean) * (np.cos(turn) * medial + np.sin(turn) * anterior) - np.sin(lean) * proximal
    along = proximal - (proximal @ vertical) * vertical
    along /= np.linalg.norm(along)
    axes = np.stack([along, vertical, np.cross(vertical, along)])
    posed = _posed_femur(density_mg_cm3, mask, index_to_world, pose, profile, axes, voxel_mm)

    def assembled(bone: PosedBone, law: BoneProfile) -> TestModel:
        return _falling(replace(posed, bone=bone), law)

    def tilted(rotation_deg: float, adduction_more_deg: float, edge_mm: float) -> TestModel:
        return build_sideways_fall(
            density_mg_cm3,
            mask,
            index_to_world,
            pose,
            profile,
            voxel_mm=edge_mm,
            internal_rotation_deg=internal_rotation_deg + rotation_deg,
            adduction_deg=adduction_deg + adduction_more_deg,
        )

    return replace(_falling(posed, profile), variants=Variants(tilted, assembled))


def _falling(femur: _PosedFemur, profile: BoneProfile) -> TestModel:
    """Material, caps, supports and load of a femur posed for the fall."""
    posed, pose = femur.bone, femur.pose
    voxel_mm = posed.grid.voxel_mm
    voxels = bone_voxels(posed, profile)
    held = femur.end_nodes(voxels)
    near_head = _distance_mm(posed, pose.head_centre_mm) < 1.4 * pose.head_radius_mm
    below_head = _along_mm(posed, pose.shaft_axis, pose.head_centre_mm)
    trochanteric = below_head < _LEAST_RADII * pose.head_radius_mm
    head = _cap(np.where(near_head, voxels.share, 0), profile, voxel_mm, axis=1, upper=True)
    trochanter = _cap(np.where(trochanteric, voxels.share, 0), profile, voxel_mm, axis=1, upper=False)
    length_mm = (head.face - trochanter.face) * voxel_mm
    applied_mm = profile.hip_displacement * length_mm
    supports = (
        Prescribed("distal", held, z=0.0, x=0.0),
        Prescribed("head", head.face_nodes(), y=-applied_mm),
        Prescribed("trochanter", trochanter.face_nodes(), y=0.0),
    )
    capped = with_caps(voxels, (head, trochanter), profile)
    return _test_model(
        VirtualTest.HIP_SIDEWAYS_FALL, femur, profile, voxels, capped, supports, 1, applied_mm, length_mm
    )


def _test_model(
    test: VirtualTest,
    femur: _PosedFemur,
    profile: BoneProfile,
    voxels: BoneVoxels,
    capped: CappedBone,
    supports: tuple[Prescribed, ...],
    load_axis: int,
    applied_mm: float,
    length_mm: float,
) -> TestModel:
    voxel_mm = femur.bone.grid.voxel_mm
    return TestModel(
        test=test,
        profile=profile,
        bone=femur.bone,
        modulus_mpa=capped.modulus_mpa,
        yield_stress_mpa=capped.yield_stress_mpa,
        is_bone=voxels.is_bone,
        poisson=capped.poisson,
        supports=supports,
        loaded="head",
        load_axis=load_axis,
        applied_mm=applied_mm,
        lengths_mm=_lengths_mm(voxels, load_axis, voxel_mm, length_mm),
        cross_section_mm2=_mean_section_mm2(voxels, load_axis, voxel_mm),
        issues=voxels.issues,
        orthotropy=capped.orthotropy,
        regions=_regions(femur, voxels.is_bone),
    )


def _regions(femur: _PosedFemur, is_bone: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    """Head, neck, trochanteric region and shaft, by distances in head radii along the neck and along the shaft."""
    pose, radius = femur.pose, femur.pose.head_radius_mm
    along_neck = _along_mm(femur.bone, np.asarray(pose.neck_axis, float), pose.head_centre_mm) / radius
    below_head = _along_mm(femur.bone, pose.shaft_axis, pose.head_centre_mm) / radius
    shaft = is_bone & (below_head > _LEAST_RADII)
    head = is_bone & ~shaft & (along_neck < _HEAD_RADII)
    neck = is_bone & ~shaft & ~head & (along_neck < _NECK_RADII)
    return {"head": head, "neck": neck, "trochanteric region": is_bone & ~shaft & ~head & ~neck, "shaft": shaft}


def build_stance(
    density_mg_cm3: NDArray,
    mask: NDArray[np.bool_],
    index_to_world: NDArray,
    pose: FemurPose,
    profile: BoneProfile,
    *,
    voxel_mm: float = 1.0,
    shaft_angle_deg: float = 20.0,
) -> TestModel:
    """Standing on one leg: the hip's force on the head, distally and laterally at an angle to the shaft, the shaft held.

    Array axis z points against the force, y across it towards the head. Parameters and errors as in `build_sideways_fall`;
    `shaft_angle_deg` lies in the plane of shaft and neck.
    """
    proximal, medial, _ = pose.anatomical
    angle = np.radians(shaft_angle_deg)
    upwards = np.cos(angle) * proximal + np.sin(angle) * medial
    across = np.cos(angle) * medial - np.sin(angle) * proximal
    axes = np.stack([upwards, across, np.cross(across, upwards)])
    posed = _posed_femur(density_mg_cm3, mask, index_to_world, pose, profile, axes, voxel_mm)

    def assembled(bone: PosedBone, law: BoneProfile) -> TestModel:
        return _standing(replace(posed, bone=bone), law)

    def tilted(medial_deg: float, forward_deg: float, edge_mm: float) -> TestModel:
        third = np.cross(across, upwards) * np.tan(np.radians(forward_deg))
        turned = replace(pose, shaft_axis=pose.shaft_axis + third)
        return build_stance(
            density_mg_cm3,
            mask,
            index_to_world,
            replace(turned, shaft_axis=turned.shaft_axis / np.linalg.norm(turned.shaft_axis)),
            profile,
            voxel_mm=edge_mm,
            shaft_angle_deg=shaft_angle_deg + medial_deg,
        )

    return replace(_standing(posed, profile), variants=Variants(tilted, assembled))


def _standing(femur: _PosedFemur, profile: BoneProfile) -> TestModel:
    """Material, cap, supports and load of a femur posed for stance."""
    posed, pose = femur.bone, femur.pose
    voxel_mm = posed.grid.voxel_mm
    voxels = bone_voxels(posed, profile)
    held = femur.end_nodes(voxels)
    near_head = _distance_mm(posed, pose.head_centre_mm) < 1.4 * pose.head_radius_mm
    head = _cap(np.where(near_head, voxels.share, 0), profile, voxel_mm, axis=0, upper=True)
    length_mm = (head.face - int(held[:, 0].min())) * voxel_mm
    applied_mm = profile.hip_displacement * length_mm
    supports = (
        Prescribed("distal", held, z=0.0, y=0.0, x=0.0),
        Prescribed("head", head.face_nodes(), z=-applied_mm),
    )
    capped = with_caps(voxels, (head,), profile)
    return _test_model(VirtualTest.HIP_STANCE, femur, profile, voxels, capped, supports, 0, applied_mm, length_mm)


@dataclass(frozen=True, eq=False)
class _PosedFemur:
    """A femur on the grid of a test, its axes, and where its shaft ends."""

    bone: PosedBone
    pose: FemurPose
    end_point_mm: NDArray[np.float64]
    end_normal: NDArray[np.float64]

    def end_nodes(self, voxels: BoneVoxels) -> NDArray[np.int64]:
        """Nodes (N, 3) of the distal end."""
        nodes = nodes_of(voxels.is_bone)
        beyond = (self.bone.grid.to_world(nodes) - self.end_point_mm) @ self.end_normal
        held = nodes[beyond > -1.25 * self.bone.grid.voxel_mm]
        if len(held) < 20:
            raise TestRefused("femur_cut_short", "the distal end of the shaft was not found.")
        return held


def _posed_femur(
    density_mg_cm3: NDArray,
    mask: NDArray[np.bool_],
    index_to_world: NDArray,
    pose: FemurPose,
    profile: BoneProfile,
    axes: NDArray,
    voxel_mm: float,
) -> _PosedFemur:
    """Bone in the grid of the test, its shaft cut."""
    if not 0.4 <= voxel_mm <= 2.0:
        raise TestRefused("voxel_size", f"a model voxel of {voxel_mm:g} mm; it must lie between 0.5 and 2 mm.")
    if not mask.any():
        raise TestRefused("mask_empty", "the mask of the femur is empty.")
    matrix = np.asarray(index_to_world, float)
    distal = np.asarray(pose.shaft_axis, float) / np.linalg.norm(pose.shaft_axis)
    kept, end_point, end_normal = _cut_shaft(mask, matrix, pose, distal)
    room_mm = (np.ceil(profile.cap.thickness_mm / voxel_mm) + 1) * voxel_mm
    grid = grid_for_mask(kept, matrix, axes, voxel_mm, room_mm)
    return _PosedFemur(resample_bone(density_mg_cm3, kept, matrix, grid), pose, end_point, end_normal)


def _cut_shaft(
    mask: NDArray[np.bool_], matrix: NDArray, pose: FemurPose, distal: NDArray
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """The mask above the distal end, and a point and the outward normal of that end.

    The shaft is cut across where its section is still whole, `_KEPT_RADII` below the head or less. A bone that ends in an
    oblique slice too soon for that is held on that slice, if it is long enough there.
    """
    radius = pose.head_radius_mm
    positions = np.argwhere(mask)
    reach = (positions @ matrix[:3, :3].T + matrix[:3, 3] - pose.head_centre_mm) @ distal
    least, most = _LEAST_RADII * radius, _KEPT_RADII * radius
    whole = min(_last_whole_section(reach, float(abs(np.linalg.det(matrix[:3, :3])))), most)
    if whole >= least:
        kept = np.zeros(mask.shape, bool)
        kept[tuple(positions[reach < whole].T)] = True
        return kept, pose.head_centre_mm + whole * distal, distal
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    cosine = distal @ (matrix[:3, :3] / spacing)
    axis = int(np.argmax(np.abs(cosine)))
    sign = 1 if cosine[axis] > 0 else -1
    in_last = positions[:, axis] == int((sign * positions[:, axis]).max() * sign)
    if reach[in_last].mean() < least:
        raise TestRefused(
            "femur_cut_short",
            f"the femur ends {reach[in_last].mean():.0f} mm below the centre of the head; the test needs {least:.0f} mm.",
        )
    normal = sign * matrix[:3, axis] / spacing[axis]
    end = positions[in_last].mean(axis=0) @ matrix[:3, :3].T + matrix[:3, 3] + 0.5 * spacing[axis] * normal
    return mask, end, normal


def _last_whole_section(reach_mm: NDArray, voxel_mm3: float) -> float:
    """The farthest distance along the shaft at which the section across it is not yet cut by the end of the mask."""
    step_mm = 2.0
    count, edges = np.histogram(reach_mm, bins=np.arange(reach_mm.min(), reach_mm.max() + step_mm, step_mm))
    area = count * voxel_mm3 / step_mm
    # Of a shaft the section hardly changes within 15 mm: where it falls below nine tenths of that, its end is reached.
    for last in range(len(area) - 1, 8, -1):
        if area[last] >= 0.9 * float(np.median(area[last - 8 : last])):
            return float(edges[last])
    return -np.inf


def _cap(share: NDArray, profile: BoneProfile, voxel_mm: float, *, axis: int, upper: bool) -> CapRegion:
    return cap_region(
        share,
        axis,
        upper,
        depth_voxels=max(round(profile.cap.depth_mm / voxel_mm), 1),
        thickness_voxels=max(int(np.ceil(profile.cap.thickness_mm / voxel_mm - 1e-9)), 1),
    )


def _distance_mm(posed: PosedBone, point_mm: NDArray) -> NDArray[np.float64]:
    """Distance of every voxel's centre from a world point."""
    node = posed.grid.to_node(point_mm)
    k, j, i = (np.arange(n) + 0.5 - c for n, c in zip(posed.grid.shape, node, strict=True))
    squared = k[:, None, None] ** 2 + j[None, :, None] ** 2 + i[None, None, :] ** 2
    return np.asarray(np.sqrt(squared) * posed.grid.voxel_mm)


def _along_mm(posed: PosedBone, direction: NDArray, point_mm: NDArray) -> NDArray[np.float64]:
    """How far every voxel's centre lies beyond a world point in a direction."""
    step = posed.grid.axes @ direction * posed.grid.voxel_mm
    node = posed.grid.to_node(point_mm)
    k, j, i = ((np.arange(n) + 0.5 - c) * s for n, c, s in zip(posed.grid.shape, node, step, strict=True))
    return np.asarray(k[:, None, None] + j[None, :, None] + i[None, None, :])


def _lengths_mm(voxels: BoneVoxels, axis: int, voxel_mm: float, model_mm: float) -> dict[str, float]:
    others = tuple(a for a in range(3) if a != axis)
    levels = np.flatnonzero(voxels.is_bone.any(axis=others))
    return {"extent": float(levels[-1] - levels[0] + 1) * voxel_mm, "model": float(model_mm)}


def _mean_section_mm2(voxels: BoneVoxels, axis: int, voxel_mm: float) -> float:
    length = _lengths_mm(voxels, axis, voxel_mm, 0.0)["extent"]
    return float(voxels.share.sum(dtype=np.float64)) * voxel_mm**3 / length
