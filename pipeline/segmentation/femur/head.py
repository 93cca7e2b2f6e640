"""Finding the femoral heads: spheres of bone with a joint on the upper-medial side and a neck on the lateral side.

A coarse search over the whole field scores every bony place by rays in all directions; the best places are refined to the
sphere that most rays vote for; left and right are then chosen together.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.segmentation.femur.geometry import directions, least_squares_sphere
from pipeline.segmentation.sampling import bone_hu_scale, cropped_grid, index_box, interpolate, resample_array
from pipeline.volume import Grid

SIDES = ("left", "right")
RADIUS_RANGE_MM = (18.5, 30.0)
OUTSIDE_HU = -4000.0
"""Stands for "no data" when sampling; no tissue and no padding comes near it."""

_EDGE_RADII_MM = np.arange(8.0, 40.0, 0.5)
_INLIER_MM = 1.8


@dataclass(frozen=True)
class Field:
    """The image in which heads are sought: HU on an isotropic grid, with how bright bone is in this study.

    Attributes
    ----------
    hu : float32 ndarray of shape (Z, Y, X)
    grid : Grid
    bone_scale : float
        See `pipeline.segmentation.sampling.bone_hu_scale`.
    """

    hu: NDArray[np.float32]
    grid: Grid
    bone_scale: float

    def smoothed(self, sigma_mm: float) -> Field:
        """The field after a Gaussian; itself for 0."""
        if sigma_mm <= 0:
            return self
        return Field(ndimage.gaussian_filter(self.hu, sigma_mm / self.grid.spacing_mm[0]), self.grid, self.bone_scale)

    def around(self, centre_lps_mm: NDArray[np.float64], reach_mm: float) -> Field:
        """The part within about `reach_mm` of a point."""
        box = index_box(self.grid, np.asarray(centre_lps_mm)[None, :], margin_mm=reach_mm)
        return Field(np.ascontiguousarray(self.hu[box]), cropped_grid(self.grid, box), self.bone_scale)

    def scaled_to(self, centre_lps_mm: NDArray[np.float64]) -> Field:
        """The field with a bone scale of its own for one hip: from the bone within 45 mm, without the shafts.

        Times 0.8, because the rim of a head is thinner than the bones that set the scale.
        """
        return replace(self, bone_scale=0.8 * bone_hu_scale(self.around(centre_lps_mm, 45.0).hu))

    def steps(self, direction_lps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Index steps (N, 3) per mm along LPS directions (N, 3)."""
        return np.ascontiguousarray(self.grid.to_index(direction_lps) - self.grid.to_index(np.zeros(3)))

    def along_rays(
        self, start_lps_mm: NDArray[np.float64], direction_lps: NDArray[np.float64], radii_mm: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """HU (N, R) at the given distances from one point; `OUTSIDE_HU` where there is no data."""
        points = start_lps_mm + direction_lps[:, None, :] * radii_mm[None, :, None]
        return interpolate(self.hu, self.grid.to_index(points), fill=OUTSIDE_HU)


@dataclass(frozen=True)
class Head:
    """A sphere that may be a femoral head.

    Attributes
    ----------
    side : str
    centre_lps_mm : float ndarray of shape (3,)
    radius_mm : float
    score : float
        0..1, from four shares: of rays that meet a sign of the surface on the sphere (weight 0.35), of rays towards the
        roof of the socket that meet the surface with the socket behind it (0.35, full at one half), of rays into the neck
        along which bone goes on (0.1), and of rays downwards and inwards that end in soft tissue (0.2); times the share of
        the sphere in the field of view, how far the inside resembles trabecular bone, and how usual the radius is.
    in_view : float
        Share of the sphere for which there is data.
    agreement : float
        Share of repetitions, from other starts and on smoother images, that find the same sphere: centre within 3 mm,
        radius within 2 mm.
    spread_mm : float
        Distance to the farthest centre a repetition found.
    guided : bool
        True if the sphere was sought where the mirror image of the other side puts it.
    neck_lps : float ndarray of shape (3,) or None
        Where the neck is expected; None: as in a patient who lies straight.
    """

    side: str
    centre_lps_mm: NDArray[np.float64]
    radius_mm: float
    score: float
    in_view: float
    agreement: float = 1.0
    spread_mm: float = 0.0
    guided: bool = False
    neck_lps: NDArray[np.float64] | None = None


def lateral_lps(side: str) -> NDArray[np.float64]:
    """Unit vector from the midline to that side of the patient."""
    return np.array([1.0 if side == "left" else -1.0, 0.0, 0.0])


def usual_neck_direction(side: str) -> NDArray[np.float64]:
    """Where the neck of a patient lying straight leaves the head: outwards, downwards and slightly back."""
    direction = 0.78 * lateral_lps(side) + np.array([0.0, 0.15, -0.6])
    return np.asarray(direction / np.linalg.norm(direction))


def joint_direction(side: str) -> NDArray[np.float64]:
    """Where the roof of the socket lies, seen from the head: upwards and inwards."""
    direction = np.array([0.0, 0.0, 0.75]) - 0.65 * lateral_lps(side)
    return np.asarray(direction / np.linalg.norm(direction))


def candidates(
    field: Field, allowed: NDArray[np.bool_], *, keep: int = 10, threads: int = 1
) -> list[tuple[str, NDArray[np.float64], float]]:
    """Side, centre (LPS, mm) and score of the places that look most like a femoral head, best first.

    Parameters
    ----------
    field : Field
        On a grid of about 2 mm.
    allowed : bool ndarray of shape (Z, Y, X)
        Where a head centre may lie.
    keep : int
        At most so many per side, at least 10 mm apart.
    """
    coarse, lattice = resample_array(field.hu, field.grid, 4.0)
    mean = ndimage.uniform_filter(coarse, size=3, mode="nearest")
    here = interpolate(allowed, field.grid.to_index(lattice.to_lps(_indices(coarse.shape))), fill=0.0) > 0.5
    bony = np.argwhere((mean > 50 + 45 * field.bone_scale) & (mean < 50 + 750 * field.bone_scale) & here)
    if len(bony) == 0:
        return []
    points = lattice.to_lps(bony.astype(float))
    rays = directions(120)
    scale = 0.8 * field.bone_scale  # as in `Field.scaled_to`
    found: list[tuple[str, NDArray[np.float64], float]] = []
    index = np.ascontiguousarray(field.grid.to_index(points))
    parts = np.array_split(np.arange(len(index)), max(1, min(8, len(index) // 200)))

    def scores(side: str) -> NDArray[np.float64]:
        to_joint, to_neck = rays @ joint_direction(side), rays @ usual_neck_direction(side)
        work = [
            pool.submit(_score_places, field.hu, index[part], field.steps(rays), to_joint, to_neck, scale)
            for part in parts
        ]
        return np.concatenate([done.result() for done in work])

    with ThreadPoolExecutor(max(1, threads)) as pool:
        by_side = {side: scores(side) for side in SIDES}
    for side, score in by_side.items():
        chosen: list[NDArray[np.float64]] = []
        for n in np.argsort(-score):
            if score[n] <= 0 or len(chosen) == keep:
                break
            if all(float(np.linalg.norm(points[n] - other)) > 10.0 for other in chosen):
                chosen.append(points[n])
                found.append((side, points[n], float(score[n])))
    return sorted(found, key=lambda place: -place[2])


def _indices(shape: tuple[int, ...]) -> NDArray[np.float64]:
    return np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij"), axis=-1)


@njit(cache=True, nogil=True)
def _score_places(
    hu: NDArray, index: NDArray, steps: NDArray, to_joint: NDArray, to_neck: NDArray, scale: float
) -> NDArray:
    """For each place the best score over radii of 20 to 30 mm.

    Per ray: on the joint side a dip just outside the sphere, better still with bone (the socket) behind it; elsewhere a
    drop to soft tissue; towards the neck bone that goes on.
    """
    first_mm, samples = 4, 40
    out = np.zeros(len(index))
    profile = np.empty((len(steps), samples), dtype=np.float32)
    for n in range(len(index)):
        inner = 0.0
        for ray in range(len(steps)):
            for s in range(samples):
                r = first_mm + s
                k = round(index[n, 0] + r * steps[ray, 0])
                j = round(index[n, 1] + r * steps[ray, 1])
                i = round(index[n, 2] + r * steps[ray, 2])
                if 0 <= k < hu.shape[0] and 0 <= j < hu.shape[1] and 0 <= i < hu.shape[2]:
                    profile[ray, s] = hu[k, j, i]
                else:
                    profile[ray, s] = -4000.0
                if s < 12:
                    inner += profile[ray, s]
        inner /= 12 * len(steps)
        if inner < 50 + 30 * scale or inner > 50 + 700 * scale:
            continue
        for radius in range(20, 31):
            total, weight = 0.0, 0.0
            at = radius - first_mm
            for ray in range(len(steps)):
                weight += 1.0
                if profile[ray, at + 4] < -3000:
                    continue
                rim = max(max(profile[ray, at - 3], profile[ray, at - 2]), max(profile[ray, at - 1], profile[ray, at]))
                if to_neck[ray] > 0.75:
                    if profile[ray, at + 5] > 50 + 60 * scale:
                        total += 0.7
                    continue
                if rim < 50 + 40 * scale:
                    continue
                dip = profile[ray, at + 1]
                for s in range(at + 1, at + 5):
                    dip = min(dip, profile[ray, s])
                if to_joint[ray] > 0.3:
                    gain = min(max((rim - dip) / (200 * scale), 0.0), 1.0)
                    beyond = 0.0
                    for s in range(at + 2, min(at + 10, samples)):
                        beyond = max(beyond, profile[ray, s])
                    total += 0.7 * gain
                    if beyond > 220 * scale:
                        total += 0.4
                else:
                    total += min(max((rim - profile[ray, at + 4]) / (150 * scale), 0.0), 1.0)
            out[n] = max(out[n], total / weight)
    return out


def fit_sphere(
    field: Field,
    side: str,
    start_lps_mm: NDArray[np.float64],
    *,
    radius_range_mm: tuple[float, float] = RADIUS_RANGE_MM,
) -> Head | None:
    """The sphere about a starting point that most rays agree on, or None if none is found within 14 mm.

    Rays from the start note every sign of the surface. Every sphere on a lattice of centres and radii counts the rays
    that have a sign on it; the best is refined on a finer lattice and by reweighted least squares, each time with the
    rays cast again from its own centre.
    """
    field = field.scaled_to(np.asarray(start_lps_mm, float))
    rays = directions(400)
    neck = (rays @ usual_neck_direction(side)) > 0.7
    centre, radius = np.asarray(start_lps_mm, float), float("nan")
    for reach_mm, step_mm in ((12.0, 2.0), (4.0, 1.0), (0.0, 1.0)):
        profile = field.along_rays(centre, rays, _EDGE_RADII_MM)
        points_mm, owner, strength = _edges(profile, rays @ joint_direction(side), field.bone_scale)
        use = ~neck[owner]
        if use.sum() < 60:
            return None
        points_mm, owner, strength = points_mm[use], owner[use], strength[use]
        cloud = rays[owner] * points_mm[:, None]
        if reach_mm > 0:
            votes = _votes(cloud, owner, strength, reach_mm, step_mm, *radius_range_mm)
            best = np.unravel_index(int(votes.argmax()), votes.shape)
            centre = centre + (np.array(best[:3]) * step_mm - reach_mm)
            radius = radius_range_mm[0] + 0.5 * float(best[3])
            continue
        cloud += centre
        for _ in range(8):
            off = np.linalg.norm(cloud - centre, axis=1) - radius
            weights = np.clip(1 - (off / (1.7 * _INLIER_MM)) ** 2, 0, None) ** 2 * strength
            if (weights > 0).sum() < 50:
                return None
            centre, radius = least_squares_sphere(cloud, weights)
    if not (
        max(radius_range_mm[0] - 0.5, RADIUS_RANGE_MM[0]) <= radius <= min(radius_range_mm[1] + 0.5, RADIUS_RANGE_MM[1])
    ):
        return None
    if float(np.linalg.norm(centre - start_lps_mm)) > 20.0:
        return None
    return _scored(field, side, centre, radius)


def settled_sphere(
    field: Field,
    side: str,
    start_lps_mm: NDArray[np.float64],
    *,
    smoothing_mm: float = 0.0,
    radius_range_mm: tuple[float, float] = RADIUS_RANGE_MM,
) -> Head | None:
    """`fit_sphere` again from the centre found, until it no longer moves: a start off the centre sees the far side aslant."""
    field = field.smoothed(smoothing_mm)
    head = fit_sphere(field, side, start_lps_mm, radius_range_mm=radius_range_mm)
    for _ in range(3):
        if head is None:
            return None
        again = fit_sphere(field, side, head.centre_lps_mm, radius_range_mm=radius_range_mm)
        if again is None or again.score <= head.score:
            return head
        moved = float(np.linalg.norm(again.centre_lps_mm - head.centre_lps_mm))
        head = again
        if moved < 0.5:
            break
    return head


def _edges(
    profile: NDArray[np.float32], to_joint: NDArray[np.float64], scale: float
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Where the surface of the head may lie on each ray: radius (mm), ray and strength (0..1), ordered by ray.

    Three signs count. An outward drop over 3 mm, which towards the joint must have the socket behind it or it is the far
    side of the pelvis. A dark line between two bright ones: the joint space, whose middle lies some 2 mm outside the head.
    And, weakly, a rise to dense bone: the socket, where slices are too thick to show the space before it.

    Parameters
    ----------
    profile : float32 ndarray of shape (N, R)
        HU along rays, at `_EDGE_RADII_MM`.
    to_joint : float ndarray of shape (N,)
        Cosine between ray and the direction of the joint.
    scale : float
        Bone scale.
    """
    half = 3  # of samples 0.5 mm apart
    known = profile > -3000
    later = _highest(profile, 3, 16)
    earlier = _highest(profile, -10, -1)
    drop, rise, dip = np.zeros_like(profile), np.zeros_like(profile), np.zeros_like(profile)
    change = profile[:, 2 * half :] - profile[:, : -2 * half]
    change = np.where(known[:, 2 * half :] & known[:, half:-half], change, 0.0)
    drop[:, half:-half] = -change
    rise[:, half:-half] = change
    socket = later > 200 * scale
    drop = np.where(socket | (to_joint[:, None] < 0.5), drop, 0.0)
    dense = _highest(profile, half, half + 4) > 280 * scale
    rise = np.where(dense & (to_joint[:, None] > -0.2) & (profile > 60 * scale), rise, 0.0)
    lowest = profile <= -_highest(-profile, -4, 4)
    depth = np.minimum(earlier - profile, later - profile)
    dip = np.where(lowest & socket & known & (earlier > 120 * scale), depth, 0.0)
    rises, drops, dips = _peaks(rise, 100 * scale), _peaks(drop, 60 * scale), _peaks(dip, 35 * scale)
    # A drop 3.5 to 10 mm behind a rise to dense bone is the far side of the socket's wall, not the head.
    behind = _highest(rises.astype(np.float32), -20, -7) > 0
    nearer = _highest((drops | dips).astype(np.float32), -10, 0) > 0
    signs = [
        (drops, np.clip(drop / (200 * scale), 0.3, 1.0) * np.where(behind, 0.35, 1.0), 0.0),
        (dips, np.clip(dip / (150 * scale), 0.3, 1.0), -1.8),
        (rises & ~nearer, np.full_like(rise, 0.35), -1.2),
    ]
    owner = np.concatenate([np.nonzero(where)[0] for where, _, _ in signs])
    radius = np.concatenate([_EDGE_RADII_MM[np.nonzero(where)[1]] + shift for where, _, shift in signs])
    strength = np.concatenate([value[where] for where, value, _ in signs])
    order = np.argsort(owner, kind="stable")
    return radius[order], owner[order].astype(np.int64), strength[order].astype(float)


def _highest(profile: NDArray[np.float32], first: int, last: int) -> NDArray[np.float32]:
    """Maximum over samples `first` to `last` relative to each sample of a row; windows stop at the ends."""
    count, size = profile.shape[1], last - first + 1
    best = ndimage.maximum_filter1d(profile, size, axis=1, mode="nearest")
    return np.asarray(best[:, np.clip(np.arange(count) + first + size // 2, 0, count - 1)], dtype=np.float32)


def _peaks(value: NDArray[np.float32], least: float) -> NDArray[np.bool_]:
    """Local maxima along each row that exceed `least`."""
    out = np.zeros(value.shape, dtype=bool)
    out[:, 1:-1] = (value[:, 1:-1] > least) & (value[:, 1:-1] >= value[:, :-2]) & (value[:, 1:-1] > value[:, 2:])
    return out


@njit(cache=True, nogil=True)
def _votes(
    cloud: NDArray,
    owner: NDArray,
    strength: NDArray,
    reach_mm: float,
    step_mm: float,
    smallest_mm: float,
    largest_mm: float,
) -> NDArray:
    """Votes (C, C, C, R) for spheres with centres up to `reach_mm` from the origin and radii 0.5 mm apart.

    A ray gives each sphere the strength of its strongest sign within 1.5 mm, falling off linearly; more signs on the same
    ray do not count twice.
    """
    side = int(2 * reach_mm / step_mm + 1.5)
    radii = int((largest_mm - smallest_mm) / 0.5 + 1.5)
    votes = np.zeros((side, side, side, radii), dtype=np.float32)
    of_ray = np.zeros(radii, dtype=np.float32)
    for a in range(side):
        for b in range(side):
            for c in range(side):
                x, y, z = a * step_mm - reach_mm, b * step_mm - reach_mm, c * step_mm - reach_mm
                if x * x + y * y + z * z > (reach_mm + 0.1) ** 2:
                    continue
                total = votes[a, b, c]
                n = 0
                while n < len(cloud):
                    ray = owner[n]
                    low, high = radii, -1
                    while n < len(cloud) and owner[n] == ray:
                        dx, dy, dz = cloud[n, 0] - x, cloud[n, 1] - y, cloud[n, 2] - z
                        place = (np.sqrt(dx * dx + dy * dy + dz * dz) - smallest_mm) / 0.5
                        for r in range(max(0, int(place) - 2), min(radii, int(place) + 4)):
                            weight = strength[n] * np.float32(max(0.0, 1 - abs(r - place) / 3.0))
                            of_ray[r] = max(of_ray[r], weight)
                            low, high = min(low, r), max(high, r)
                        n += 1
                    for r in range(low, high + 1):
                        total[r] += of_ray[r]
                        of_ray[r] = 0
    return votes


def _scored(field: Field, side: str, centre: NDArray[np.float64], radius: float) -> Head:
    rays = directions(400)
    profile = field.along_rays(centre, rays, _EDGE_RADII_MM)
    at = int(np.searchsorted(_EDGE_RADII_MM, radius))
    seen = (profile[:, max(at - 6, 0) : at + 4] > -800).all(axis=1)
    points_mm, owner, strength = _edges(profile, rays @ joint_direction(side), field.bone_scale)
    hit = np.zeros(len(rays))
    np.maximum.at(hit, owner, np.sqrt(strength) * np.clip(1.5 - np.abs(points_mm - radius) / _INLIER_MM, 0, 1))
    neck = (rays @ usual_neck_direction(side)) > 0.7
    roof = (rays @ joint_direction(side)) > 0.6
    socket = profile[:, at + 4 : at + 20].max(axis=1) > 200 * field.bone_scale
    goes_on = profile[:, at + 8 : at + 12].min(axis=1) > 50 + 30 * field.bone_scale

    # A head ends freely below and inwards; a trochanter, or a vertebra, stands on more bone there.
    below = (rays[:, 2] < -0.3) & ((rays @ usual_neck_direction(side)) < 0.5)
    free = np.asarray((profile[:, at + 6 : at + 16] < 60 + 90 * field.bone_scale).all(axis=1))

    def share(which: NDArray[np.bool_], value: NDArray) -> float:
        return float(value[which & seen].mean()) if (which & seen).any() else 0.0

    surface = 0.35 * share(~neck & ~roof, hit) + 0.35 * min(1.0, 2 * share(roof, hit * socket))
    surface += 0.1 * share(neck, goes_on) + 0.2 * share(below, free)
    inner = profile[:, 0.8 * radius > _EDGE_RADII_MM]
    inner = inner[inner > -800]
    bone = float(np.mean(inner)) if inner.size else -1000.0
    like_bone = float(np.clip((bone - 40) / (60 * field.bone_scale), 0, 1))
    if bone > 50 + 750 * field.bone_scale:
        like_bone = 0.0
    in_view = float(seen.mean())
    # Heads of adults measure 24 mm, sd 2 (both sexes together): between two spheres that fit equally, the usual one.
    usual = float(np.exp(-0.5 * (max(abs(radius - 24.0) - 2.0, 0.0) / 4.0) ** 2))
    return Head(side, centre, radius, surface * in_view * like_bone * usual, in_view)


def fit_repeatedly(field: Field, head: Head) -> Head:
    """The head with a record of what repeated fits find: from starts 4 mm off in four directions, and on smoother images."""
    starts = 2.5 * np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    near = field.around(head.centre_lps_mm, 75.0)
    # A head that was found by the size of the other one is sought by it again.
    usual = (head.radius_mm - 2.0, head.radius_mm + 2.0) if head.guided else RADIUS_RANGE_MM
    again = [settled_sphere(near, head.side, head.centre_lps_mm + offset, radius_range_mm=usual) for offset in starts]
    again += [
        settled_sphere(near, head.side, head.centre_lps_mm, smoothing_mm=sigma, radius_range_mm=usual)
        for sigma in (1.0, 1.8)
    ]
    best = max([head, *(fit for fit in again[: len(starts)] if fit is not None)], key=lambda fit: fit.score)
    apart = [20.0 if f is None else float(np.linalg.norm(f.centre_lps_mm - best.centre_lps_mm)) for f in again]
    same = [
        f is not None and distance < 3.0 and abs(f.radius_mm - best.radius_mm) < 2.0
        for f, distance in zip(again, apart, strict=True)
    ]
    return replace(
        best, agreement=float(np.mean(same)), spread_mm=max(apart), guided=head.guided, neck_lps=head.neck_lps
    )
