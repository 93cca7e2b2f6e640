"""Compression of a vertebral body between flat cement caps, along the mean normal of its end plates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from fea.bone.assembly import TestModel, TestRefused, Variants, bone_voxels, cap_region, with_caps
from fea.bone.profiles import BoneProfile, VirtualTest
from fea.bone.resample import PosedBone, grid_for_mask, resample_bone
from fea.model import Prescribed

_LEAST_HEIGHT_MM = 8.0  # below, there are too few voxels between the caps for a stress to spread
_LEAST_VOLUME_MM3 = 2000.0  # a fifth of a small adult T4
_LEAST_SOLIDITY = 0.6
_DEPTH_OF_HEIGHT = 0.25  # a cap reaches at least this part of the height down a wedged or hollow end plate
_COVERED_PART = 0.9  # of the outline of a body: what a cap must cover, however deep it has to reach


@dataclass(frozen=True)
class BodyPose:
    """A right-handed frame of a vertebral body in world coordinates (any frame in mm).

    Attributes
    ----------
    origin_mm : float ndarray of shape (3,)
    left, posterior, superior : float ndarray of shape (3,)
        Orthonormal; `superior` is the direction of the load.
    """

    origin_mm: NDArray[np.float64]
    left: NDArray[np.float64]
    posterior: NDArray[np.float64]
    superior: NDArray[np.float64]

    @property
    def axes(self) -> NDArray[np.float64]:
        """Rows: superior, posterior, left, the array axes of the model."""
        return np.stack([self.superior, self.posterior, self.left]).astype(float)

    def tilted(self, forward_deg: float, sideways_deg: float) -> BodyPose:
        """The pose turned by small angles about its left and its posterior axis."""
        a, b = np.tan(np.radians([forward_deg, sideways_deg]))
        superior = self.superior + a * -self.posterior + b * self.left
        superior = superior / np.linalg.norm(superior)
        posterior = self.posterior - (self.posterior @ superior) * superior
        posterior = posterior / np.linalg.norm(posterior)
        return BodyPose(self.origin_mm, np.cross(posterior, superior), posterior, superior)


def build_vertebra(
    density_mg_cm3: NDArray,
    body: NDArray[np.bool_],
    index_to_world: NDArray,
    pose: BodyPose,
    profile: BoneProfile,
    *,
    voxel_mm: float = 1.0,
    bone: NDArray[np.bool_] | None = None,
) -> TestModel:
    """The compression model of a vertebral body.

    The lower cap's outer face is held in all directions; the upper one's is moved down and free to slide, the scheme of the
    open reference model. The applied displacement is `linear_rule_coefficient` times the height with caps, so that its
    reaction is the reference's force.

    Parameters
    ----------
    density_mg_cm3 : ndarray of shape (Z, Y, X)
        On the mineral basis of the profile.
    body : bool ndarray of shape (Z, Y, X)
        The vertebral body, without the arch.
    index_to_world : float ndarray of shape (4, 4)
        From voxel index (k, j, i) to world coordinates.
    pose : BodyPose
    profile : BoneProfile
    voxel_mm : float
        0.5 to 2.
    bone : bool ndarray of shape (Z, Y, X), optional
        Everything that is part of the model, where it is more than the body (body and arch); the caps still sit on the body.

    Raises
    ------
    TestRefused
        ``voxel_size``, ``mask_empty``, ``mask_too_small``, ``density_unphysical`` or ``disconnected_pieces``.
    """
    if not 0.4 <= voxel_mm <= 2.0:
        raise TestRefused("voxel_size", f"a model voxel of {voxel_mm:g} mm; it must lie between 0.5 and 2 mm.")
    everything = body if bone is None else bone | body
    volume_mm3 = float(body.sum()) * abs(float(np.linalg.det(np.asarray(index_to_world, float)[:3, :3])))
    if volume_mm3 == 0:
        raise TestRefused("mask_empty", "the mask of the vertebral body is empty.")
    if volume_mm3 < _LEAST_VOLUME_MM3:
        raise TestRefused("mask_too_small", f"the vertebral body measures only {volume_mm3:.0f} mm3.")
    cap_voxels = max(int(np.ceil(profile.cap.thickness_mm / voxel_mm - 1e-9)), 1)
    grid = grid_for_mask(everything, index_to_world, pose.axes, voxel_mm, (cap_voxels + 1) * voxel_mm)
    posed = resample_bone(density_mg_cm3, everything, index_to_world, grid)
    part = np.ones((), np.float32)  # of the bone that is body
    if bone is not None:
        of_body = resample_bone(density_mg_cm3, body, index_to_world, grid).fraction
        part = np.divide(of_body, posed.fraction, out=np.zeros_like(of_body), where=posed.fraction > 0)

    def assembled(bone: PosedBone, law: BoneProfile) -> TestModel:
        return _compressed(bone, part * bone.fraction, law, cap_voxels)

    def tilted(forward_deg: float, sideways_deg: float, edge_mm: float) -> TestModel:
        return build_vertebra(
            density_mg_cm3,
            body,
            index_to_world,
            pose.tilted(forward_deg, sideways_deg),
            profile,
            voxel_mm=edge_mm,
            bone=bone,
        )

    return replace(assembled(posed, profile), variants=Variants(tilted, assembled))


def _compressed(bone: PosedBone, body_fraction: NDArray, profile: BoneProfile, cap_voxels: int) -> TestModel:
    """Material, caps, supports and load of a posed body."""
    voxel_mm = bone.grid.voxel_mm
    voxels = bone_voxels(bone, profile)
    held_body = np.where(ndimage.binary_dilation(voxels.is_bone), body_fraction, 0)
    height_mm, extent_mm = _heights_mm(held_body, voxel_mm)
    if height_mm < _LEAST_HEIGHT_MM:
        raise TestRefused("mask_too_small", f"the vertebral body is only {height_mm:.1f} mm high.")
    depth = int(np.ceil(max(profile.cap.depth_mm, _DEPTH_OF_HEIGHT * height_mm) / voxel_mm - 1e-9))
    lower, upper = (
        cap_region(
            held_body, 0, side, depth_voxels=_covering_depth(held_body, side, depth), thickness_voxels=cap_voxels
        )
        for side in (False, True)
    )
    capped = with_caps(voxels, (lower, upper), profile)
    # Not the distance of the faces, which jumps by a voxel with the place of the grid.
    height_with_caps_mm = extent_mm + 2 * profile.cap.thickness_mm
    applied_mm = profile.linear_rule_coefficient * height_with_caps_mm
    supports = (
        Prescribed("inferior", lower.face_nodes(), z=0.0, y=0.0, x=0.0),
        Prescribed("superior", upper.face_nodes(), z=-applied_mm),
    )
    return TestModel(
        test=VirtualTest.SPINE_COMPRESSION,
        profile=profile,
        bone=bone,
        modulus_mpa=capped.modulus_mpa,
        yield_stress_mpa=capped.yield_stress_mpa,
        is_bone=voxels.is_bone,
        poisson=capped.poisson,
        supports=supports,
        loaded="superior",
        load_axis=0,
        applied_mm=applied_mm,
        lengths_mm={"body": height_mm, "model": height_with_caps_mm},
        cross_section_mm2=_cross_section_mm2(held_body, bone, height_mm),
        issues=voxels.issues,
        orthotropy=capped.orthotropy,
        regions=_regions(voxels.is_bone),
    )


def _covering_depth(share: NDArray, upper: bool, least_voxels: int) -> int:
    """How far down from the outermost voxel a cap must reach to cover the end plate, at least `least_voxels`.

    Cement that is poured on a body covers it, however steep a collapsed end plate is and however far a spur, or the root of an
    arch on a crushed body, stands out. At most half of the height.
    """
    core = np.asarray(share) >= 0.5
    core = core if upper else core[::-1]
    levels = np.flatnonzero(core.any(axis=(1, 2)))
    outermost = len(core) - 1 - np.argmax(core[::-1], axis=0)
    below = levels[-1] - outermost[core.any(axis=0)]
    needed = int(np.quantile(below, _COVERED_PART, method="higher")) + 1
    return max(least_voxels, min(needed, len(levels) // 2))


def _regions(is_bone: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    """Thirds of the height, each in front and behind the middle of the depth."""
    levels = np.flatnonzero(is_bone.any(axis=(1, 2)))
    depths = np.flatnonzero(is_bone.any(axis=(0, 2)))
    k, j = np.arange(is_bone.shape[0])[:, None, None], np.arange(is_bone.shape[1])[None, :, None]
    third = np.clip(3 * (k - levels[0]) // len(levels), 0, 2)
    front = 2 * (j - depths[0]) < len(depths)
    regions = {}
    for number, height in enumerate(("lower third", "middle third", "upper third")):
        regions[f"{height}, front"] = is_bone & (third == number) & front
        regions[f"{height}, back"] = is_bone & (third == number) & ~front
    return regions


def _heights_mm(fraction: NDArray, voxel_mm: float) -> tuple[float, float]:
    """Mean distance of the end plates over the middle of the body, and distance of the outermost points of both.

    The end of the bone in a column lies between voxels: the part voxels at and beyond the last whole one count by volume.
    """
    count = len(fraction)
    solid = fraction >= 0.5
    outline = solid.any(axis=0)
    levels = np.arange(count)[:, None, None]
    last = np.where(solid, levels, 0).max(axis=0)
    first = np.where(solid, levels, count - 1).min(axis=0)
    top = last + np.where(levels >= last, fraction, 0).sum(axis=0)
    bottom = first + 1 - np.where(levels <= first, fraction, 0).sum(axis=0)
    reach = ndimage.distance_transform_edt(np.pad(outline, 1))[1:-1, 1:-1]
    middle = outline & (reach > 0.35 * reach.max())
    mean = float(np.mean((top - bottom)[middle]))
    return mean * voxel_mm, float(top[outline].max() - bottom[outline].min()) * voxel_mm


def _cross_section_mm2(fraction: NDArray, posed: PosedBone, height_mm: float) -> float:
    """Mean area of the body across the load."""
    return float(fraction.sum(dtype=np.float64)) * posed.grid.voxel_mm**3 / height_mm


def pose_of_body(body: NDArray[np.bool_], index_to_world: NDArray) -> BodyPose:
    """Pose of a vertebral body from its mask alone: superior is the mean normal of planes through its two end plates.

    The world must be DICOM LPS (x to the left, y to the back, z to the head) within 45 degrees of the patient.

    Raises
    ------
    TestRefused
        ``mask_empty``, ``mask_too_small``, ``not_a_vertebral_body``, or ``end_plates_not_found`` if
        the planes do not settle or differ by more than 60 degrees.
    """
    if not body.any():
        raise TestRefused("mask_empty", "the mask of the vertebral body is empty.")
    matrix = np.asarray(index_to_world, float)
    surface = np.argwhere(body & ~ndimage.binary_erosion(body)).astype(float)
    points = surface @ matrix[:3, :3].T + matrix[:3, 3]
    origin = np.argwhere(body).mean(axis=0) @ matrix[:3, :3].T + matrix[:3, 3]
    edge_mm = float(np.linalg.norm(matrix[:3, :3], axis=0).max())
    _require_body_shape(body, points, float(abs(np.linalg.det(matrix[:3, :3]))))
    superior = np.array([0.0, 0.0, 1.0])
    for _ in range(20):
        left, posterior = _across(superior)
        along = points - origin
        u, v, w = along @ left, along @ posterior, along @ superior
        normals = [_end_plate_normal(u, v, sign * w, sign, edge_mm) for sign in (1.0, -1.0)]
        upper, lower = (u_ * left + v_ * posterior + w_ * superior for u_, v_, w_ in normals)
        if upper @ lower < 0.5:
            raise TestRefused("end_plates_not_found", "the two end plates are not roughly parallel.")
        mean = (upper + lower) / np.linalg.norm(upper + lower)
        turned = float(np.degrees(np.arccos(np.clip(mean @ superior, -1, 1))))
        superior = mean
        if turned < 0.05:
            break
    if superior[2] < np.cos(np.radians(60.0)):
        raise TestRefused("end_plates_not_found", "the end plates face more than 60 degrees away from the head.")
    left, posterior = _across(superior)
    return BodyPose(origin, left, posterior, superior)


def _require_body_shape(body: NDArray[np.bool_], points: NDArray, voxel_mm3: float) -> None:
    """Refuse a whole vertebra: a body nearly fills its convex hull, a body with arch and processes less than half."""
    try:
        hull_mm3 = float(ConvexHull(points).volume)
    except QhullError as error:
        raise TestRefused("mask_too_small", "the mask is flat: no vertebral body.") from error
    filled = float(body.sum()) * voxel_mm3 / max(hull_mm3, 1e-9)
    if filled < _LEAST_SOLIDITY:
        raise TestRefused(
            "not_a_vertebral_body",
            f"the mask fills only {100 * filled:.0f} % of its convex hull: are arch and processes part of it?",
        )


def _across(superior: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Left and posterior perpendicular to `superior`, as near as can be to those of the world."""
    back = np.array([0.0, 1.0, 0.0])
    posterior = back - (back @ superior) * superior
    posterior /= np.linalg.norm(posterior)
    return np.cross(posterior, superior), posterior


def _end_plate_normal(u: NDArray, v: NDArray, w: NDArray, sign: float, edge_mm: float) -> tuple[float, float, float]:
    """Normal (along left, posterior, superior; towards the head) of the plane through the outermost points per column.

    `w` is the height already turned so that the end plate is up; the rim of the body and deep outliers are left out.
    """
    cell_mm = max(2.0, edge_mm)
    column = np.stack([np.round(u / cell_mm), np.round(v / cell_mm)], axis=1).astype(int)
    _, which = np.unique(column, axis=0, return_inverse=True)
    which = which.ravel()
    order = np.lexsort((w, which))
    last = order[np.flatnonzero(np.diff(np.append(which[order], -1)))]
    radius = np.hypot(u[last] / max(np.abs(u).max(), 1e-9), v[last] / max(np.abs(v).max(), 1e-9))
    keep = (radius < 0.8) & (w[last] > 0)
    if keep.sum() < 6:
        raise TestRefused("end_plates_not_found", "too few voxels to find the end plates.")
    design = np.column_stack([u[last], v[last], np.ones(len(last))])
    for _ in range(8):
        plane, *_ = np.linalg.lstsq(design[keep], w[last][keep], rcond=None)
        off = w[last] - design @ plane
        spread = 1.4826 * float(np.median(np.abs(off[keep]))) + 0.1 * edge_mm
        again = (radius < 0.8) & (np.abs(off) < 2.5 * spread) & (w[last] > 0)
        if again.sum() < 6 or np.array_equal(again, keep):
            break
        keep = again
    normal = np.array([-sign * plane[0], -sign * plane[1], 1.0])
    normal /= np.linalg.norm(normal)
    return float(normal[0]), float(normal[1]), float(normal[2])
