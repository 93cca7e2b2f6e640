"""Bones of known shape and density for the tests: a block or an oval body, and a femur of spheres and cylinders."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fea.bone.laws import Law, PowerLaw
from fea.bone.profiles import BoneProfile, Cap, load_profile


@dataclass(frozen=True)
class Bone:
    """Density (mg/cm3), mask and index-to-LPS matrix, arrays in order (z, y, x) along LPS."""

    density: np.ndarray
    mask: np.ndarray
    matrix: np.ndarray

    def with_density(self, value: float | np.ndarray) -> Bone:
        return replace(self, density=np.where(self.mask, value, -200.0).astype(np.float32))


def lps_matrix(spacing_mm, origin=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Index (k, j, i) to LPS (x, y, z) for an array along z, y, x."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.diag(spacing_mm)[::-1].T[:, [0, 1, 2]]
    matrix[:3, :3] = 0
    matrix[2, 0], matrix[1, 1], matrix[0, 2] = spacing_mm
    matrix[:3, 3] = origin
    return matrix


def coordinates(shape, matrix):
    """LPS x, y, z of all voxel centres."""
    index = np.indices(shape).reshape(3, -1).T
    points = index @ matrix[:3, :3].T + matrix[:3, 3]
    return (points[:, axis].reshape(shape) for axis in range(3))


def oval_body(*, tilt_deg=(0.0, 0.0), spacing_mm=(1.0, 1.0, 1.0), density=150.0, size_mm=(44.0, 32.0, 26.0)) -> Bone:
    """An elliptic cylinder, width x depth x height, whose axis is tilted forwards and sideways; waisted like a vertebra."""
    reach = 0.5 * np.array([size_mm[2] + 22, size_mm[1] + 22, size_mm[0] + 16])
    shape = tuple(int(n) for n in np.ceil(2 * reach / spacing_mm))
    matrix = lps_matrix(spacing_mm, -0.5 * (np.array(shape) - 1)[::-1] * np.array(spacing_mm)[::-1])
    x, y, z = coordinates(shape, matrix)
    superior, posterior, left = body_axes(*tilt_deg)
    u, v, w = (axis[0] * x + axis[1] * y + axis[2] * z for axis in (left, posterior, superior))
    waist = 1 - 0.10 * (1 - (2 * w / size_mm[2]) ** 2)
    mask = (np.hypot(2 * u / size_mm[0], 2 * v / size_mm[1]) <= waist) & (np.abs(w) <= size_mm[2] / 2)
    return Bone(np.where(mask, density, -80.0).astype(np.float32), mask, matrix)


def body_axes(forward_deg: float, sideways_deg: float):
    """Superior, posterior and left of a body tilted so."""
    a, b = np.radians(forward_deg), np.radians(sideways_deg)
    superior = np.array([np.sin(b), -np.sin(a) * np.cos(b), np.cos(a) * np.cos(b)])
    back = np.array([0.0, 1.0, 0.0])
    posterior = back - back @ superior * superior
    posterior /= np.linalg.norm(posterior)
    return superior, posterior, np.cross(posterior, superior)


def block(width_mm=20, depth_mm=16, height_mm=24, density=150.0) -> Bone:
    """A cuboid on whole voxels of 1 mm."""
    mask = np.zeros((height_mm + 8, depth_mm + 8, width_mm + 8), bool)
    mask[4:-4, 4:-4, 4:-4] = True
    return Bone(np.where(mask, density, -80.0).astype(np.float32), mask, lps_matrix((1.0, 1.0, 1.0)))


HEAD_MM, HEAD_RADIUS_MM = (
    np.array([-42.0, -12.0, 30.0]),
    24.0,
)  # of the left femur below; the shaft runs along z at x = y = 0


def synthetic_femur(
    *, side="left", spacing_mm=(2.0, 1.6, 1.6), shaft_mm=90.0, lesser_trochanter=True, density=None
) -> Bone:
    """A left femur (mirrored for the right): head, neck, trochanters and a straight shaft down to `-shaft_mm`."""
    shape = tuple(int(n) for n in np.ceil(np.array([70 + shaft_mm, 100, 140]) / spacing_mm))
    matrix = lps_matrix(spacing_mm, (-90.0, -50.0, -shaft_mm))
    x, y, z = coordinates(shape, matrix)
    head = np.sqrt(sum((c - p) ** 2 for c, p in zip((x, y, z), HEAD_MM, strict=True))) <= HEAD_RADIUS_MM

    def rod(start, end, first_mm, last_mm):
        start, end = np.asarray(start, float), np.asarray(end, float)
        axis = end - start
        t = sum((c - s) * a for c, s, a in zip((x, y, z), start, axis, strict=True)) / (axis @ axis)
        gap = np.sqrt(sum((c - s - t * a) ** 2 for c, s, a in zip((x, y, z), start, axis, strict=True)))
        return (t >= 0) & (t <= 1) & (gap <= first_mm + (last_mm - first_mm) * t)

    neck = rod(HEAD_MM, (0, 0, -2), 16, 20)
    shaft = rod((0, 0, 5), (0, 0, -shaft_mm - 5), 19, 15)
    greater = ((x - 8) / 19) ** 2 + ((y - 6) / 18) ** 2 + ((z - 8) / 26) ** 2 <= 1
    mask = head | neck | shaft | greater
    if lesser_trochanter:
        mask |= (x + 12) ** 2 + (y - 12) ** 2 + ((z + 35) / 1.3) ** 2 <= 9**2
    inside = 250.0 if density is None else density
    values = np.where(mask, inside, -80.0).astype(np.float32)
    if side == "right":
        matrix[0, 3] = -(matrix[0, 3] + (shape[2] - 1) * spacing_mm[2])
        values, mask = values[:, :, ::-1].copy(), mask[:, :, ::-1].copy()
    return Bone(values, mask, matrix)


def plain_profile(
    name="kopperdahl2002", *, modulus_mpa=500.0, cap_modulus_mpa=500.0, poisson=0.0, **changes
) -> BoneProfile:
    """A profile whose bone has one modulus whatever its density, for models with an answer in closed form."""
    base = load_profile(name)
    law = Law((PowerLaw(0.0, modulus_mpa, 0.0, 1.0),), "test")
    cap = Cap(cap_modulus_mpa, poisson, 70.0, 3.0, 6.0, "test")
    return replace(base, modulus=law, yield_stress=None, cap=cap, poisson=poisson, **changes)
