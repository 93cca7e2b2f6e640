"""From a posed bone to a loadable voxel model: material by voxel, one connected piece, cement caps with flat outer faces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fea.bone.profiles import BoneProfile, Boundary, VirtualTest
from fea.bone.resample import PosedBone
from fea.materials import Orthotropy
from fea.model import Prescribed, VoxelModel

_LEAST_FRACTION = 0.05  # voxels with less bone than this carry nothing worth a degree of freedom
_TOLERATED_LOOSE_PART = 0.02  # of the bone volume; more than that apart from the main piece is no longer a crumb
_UNPHYSICAL_MG_CM3 = 3000.0  # dense enamel-like mineral; no bone voxel reaches it on a correct scale
_TOLERATED_UNPHYSICAL_PART = 0.001


class TestRefused(Exception):
    """A virtual test that cannot be made or believed.

    Parameters
    ----------
    code : str
        Reason in snake_case.
    detail : str
        What is wrong, with the value that was found.
    """

    __test__ = False  # not a pytest class

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(detail)

    def __reduce__(self) -> tuple[object, ...]:
        return (TestRefused, (self.code, self.detail))


@dataclass(frozen=True, slots=True)
class Issue:
    """Something about a model that the reader of its strength must know; `serious` ones deserve a warning."""

    code: str
    serious: bool
    text: str


@dataclass(frozen=True, eq=False)
class Variants:
    """How to make the same test again with something changed.

    Attributes
    ----------
    tilted : callable
        From two small angles (degrees) and an edge of voxels (mm) to the test in a pose turned by them about two axes across
        the load.
    assembled : callable
        From another bone on the same grid and another profile to the test in the same pose.
    """

    tilted: Callable[[float, float, float], TestModel]
    assembled: Callable[[PosedBone, BoneProfile], TestModel]


@dataclass(frozen=True, eq=False)
class TestModel:
    """A bone with caps, supports and load, ready to solve.

    Attributes
    ----------
    test : VirtualTest
    profile : BoneProfile
    bone : PosedBone
    modulus_mpa, yield_stress_mpa : float32 ndarray of shape (Z, Y, X)
        0 and infinity in void.
    is_bone : bool ndarray of shape (Z, Y, X)
        Voxels that are at least half bone: those that criteria and maps look at.
    poisson : float or ndarray of shape (Z, Y, X)
    supports : tuple of Prescribed
        The one called `loaded` moves.
    loaded : str
    load_axis : int
        Array axis along which the load acts (0 = z, 1 = y, 2 = x).
    applied_mm : float
        Size of the displacement of the loaded set along that axis.
    lengths_mm : dict of str to float
        ``model`` (along the load, with caps), ``body`` (mean height without caps) or ``extent`` (of the bone along the load).
    cross_section_mm2 : float
        Mean over the length, of the bone, across the load.
    issues : tuple of Issue
    orthotropy : Orthotropy or None
        Of the bone; cement stays isotropic.
    regions : dict of str to bool ndarray of shape (Z, Y, X)
        Parts of the bone by name, for saying where it fails.
    variants : Variants or None
    """

    __test__ = False

    test: VirtualTest
    profile: BoneProfile
    bone: PosedBone
    modulus_mpa: NDArray[np.float32]
    yield_stress_mpa: NDArray[np.float32]
    is_bone: NDArray[np.bool_]
    poisson: float | NDArray[np.float64]
    supports: tuple[Prescribed, ...]
    loaded: str
    load_axis: int
    applied_mm: float
    lengths_mm: dict[str, float]
    cross_section_mm2: float
    issues: tuple[Issue, ...] = field(default=())
    orthotropy: Orthotropy | None = None
    regions: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    variants: Variants | None = None

    def voxel_model(self) -> VoxelModel:
        """What the solver takes."""
        h = self.bone.grid.voxel_mm
        return VoxelModel(self.modulus_mpa, (h, h, h), self.poisson, self.orthotropy)


@dataclass(frozen=True, eq=False)
class BoneVoxels:
    """Material of the bone on the grid of the model.

    Attributes
    ----------
    share : float32 ndarray of shape (Z, Y, X)
        The part of each voxel that is treated as bone: its fraction, or 0 and 1 with the majority rule.
    modulus_mpa, yield_stress_mpa : float32 ndarray of shape (Z, Y, X)
        Of the voxel: of its bone, times `share`. 0 outside.
    is_bone : bool ndarray of shape (Z, Y, X)
    issues : tuple of Issue
    """

    share: NDArray[np.float32]
    modulus_mpa: NDArray[np.float32]
    yield_stress_mpa: NDArray[np.float32]
    is_bone: NDArray[np.bool_]
    issues: tuple[Issue, ...]


def bone_voxels(bone: PosedBone, profile: BoneProfile) -> BoneVoxels:
    """Moduli and yield stresses of the main connected piece of a bone.

    Raises
    ------
    TestRefused
        ``density_unphysical`` or ``disconnected_pieces``.
    """
    issues: list[Issue] = []
    core = bone.fraction >= 0.5
    if not core.any():
        raise TestRefused("mask_too_small", "no voxel of the model is at least half bone.")
    _require_physical_density(bone.density_mg_cm3[core])
    least = 0.5 if profile.boundary is Boundary.MAJORITY else _LEAST_FRACTION
    kept, loose = _main_piece(bone.fraction >= least, bone.fraction)
    if loose > _TOLERATED_LOOSE_PART:
        raise TestRefused(
            "disconnected_pieces", f"{100 * loose:.1f} % of the bone volume does not hang together with the rest of it."
        )
    if loose > 1e-4:
        issues.append(
            Issue(
                "loose_pieces_removed",
                False,
                f"{100 * loose:.2f} % of the bone volume hung on nothing and was left out of the model.",
            )
        )
    share = np.where(kept, 1 if profile.boundary is Boundary.MAJORITY else bone.fraction, 0).astype(np.float32)
    materials = profile.materials(bone.density_mg_cm3[kept])
    modulus = np.zeros(share.shape, np.float32)
    strength = np.zeros(share.shape, np.float32)
    modulus[kept] = materials.modulus_mpa * share[kept]
    strength[kept] = materials.yield_stress_mpa * share[kept]
    count = int(kept.sum())
    for clamped, side, limit in (
        (materials.clamped_below, "below", profile.density_range_mg_cm3[0]),
        (materials.clamped_above, "above", profile.density_range_mg_cm3[1]),
    ):
        if clamped:
            issues.append(
                Issue(
                    f"density_clamped_{side}",
                    clamped > 0.05 * count,
                    f"{clamped} of {count} bone voxels ({100 * clamped / count:.2g} %) have a density {side} {limit:g} mg/cm3 "
                    f"{profile.mineral}, the end of the range of {profile.title}, and were set to it.",
                )
            )
    return BoneVoxels(share, modulus, strength, kept & core, tuple(issues))


def _require_physical_density(density_mg_cm3: NDArray) -> None:
    highest_part = float(np.mean(density_mg_cm3 > _UNPHYSICAL_MG_CM3))
    median = float(np.median(density_mg_cm3))
    if not np.isfinite(density_mg_cm3).all():
        raise TestRefused("density_unphysical", "the density of some voxels is not a number.")
    if median <= 0:
        raise TestRefused(
            "density_unphysical", f"the median density of the bone is {median:.0f} mg/cm3: wrong scale or wrong mask?"
        )
    if highest_part > _TOLERATED_UNPHYSICAL_PART:
        raise TestRefused(
            "density_unphysical",
            f"{100 * highest_part:.1f} % of the bone is above {_UNPHYSICAL_MG_CM3:.0f} mg/cm3: metal, or not a density?",
        )


def _main_piece(solid: NDArray[np.bool_], fraction: NDArray) -> tuple[NDArray[np.bool_], float]:
    """The greatest face-connected piece, and the part of the bone volume outside it."""
    pieces, count = ndimage.label(solid)
    if count == 1:
        return solid, 0.0
    volume = np.bincount(pieces.ravel(), weights=np.where(solid, fraction, 0).ravel())
    main = int(np.argmax(volume))
    return np.asarray(pieces == main), float(1 - volume[main] / volume.sum())


@dataclass(frozen=True, eq=False)
class CapRegion:
    """Voxels of a cement cap, and where its flat outer face lies.

    Attributes
    ----------
    voxels : bool ndarray of shape (Z, Y, X)
        Voxels filled with cement as far as they are not bone; reaches into the outermost voxels of the bone.
    axis : int
    face : int
        Node index of the outer face along `axis`.
    footprint : bool ndarray
        Columns along `axis` that the cap covers, over the other two axes in their order.
    """

    voxels: NDArray[np.bool_]
    axis: int
    face: int
    footprint: NDArray[np.bool_]

    def face_nodes(self) -> NDArray[np.int64]:
        """Nodes (N, 3) of the outer face."""
        rows, columns = self.footprint.shape
        touched = np.zeros((rows + 1, columns + 1), bool)
        for row in (0, 1):
            for column in (0, 1):
                touched[row : row + rows, column : column + columns] |= self.footprint
        nodes = np.argwhere(touched)
        return np.insert(nodes, self.axis, self.face, axis=1)


def cap_region(share: NDArray, axis: int, upper: bool, *, depth_voxels: int, thickness_voxels: int) -> CapRegion:
    """The cap on one side of a bone.

    Its footprint is the outline of the bone within `depth_voxels` of the outermost voxel, holes filled, seen along `axis`. It
    reaches from the surface of the bone to a flat face `thickness_voxels` outside the outermost voxel.

    Raises
    ------
    ValueError
        If the grid has no room for the cap.
    """
    columns = np.moveaxis(np.asarray(share), axis, 0)
    if not upper:
        columns = columns[::-1]
    core = columns >= 0.5
    levels = np.flatnonzero(core.any(axis=(1, 2)))
    top, length = int(levels[-1]), len(columns)
    face = top + 1 + thickness_voxels
    if face > length:
        raise ValueError("the grid has no room for the cap")
    footprint = ndimage.binary_fill_holes(core[max(top + 1 - depth_voxels, 0) :].any(axis=0))
    # From the last voxel that is mostly bone, whose other part is cement too; a column without bone is filled as deep as the
    # outline reaches.
    surface = np.where(core.any(axis=0), length - 1 - np.argmax(core[::-1], axis=0), top + 1 - depth_voxels)
    surface = np.maximum(surface, 0)
    level = np.arange(length)[:, None, None]
    voxels = footprint & (level >= surface) & (level < face)
    if not upper:
        voxels = voxels[::-1]
        face = length - face
    return CapRegion(np.ascontiguousarray(np.moveaxis(voxels, 0, axis)), axis, face, footprint)


@dataclass(frozen=True, eq=False)
class CappedBone:
    """Bone and caps together: modulus and yield stress of every voxel, Poisson's ratio, and the law of orthotropic bone."""

    modulus_mpa: NDArray[np.float32]
    yield_stress_mpa: NDArray[np.float32]
    poisson: float | NDArray[np.float64]
    orthotropy: Orthotropy | None


def with_caps(bone: BoneVoxels, caps: tuple[CapRegion, ...], profile: BoneProfile) -> CappedBone:
    """Bone and caps together; mixed voxels weighted by volume, and orthotropic where they are at least half bone."""
    cement = np.zeros(bone.share.shape, np.float32)
    for cap in caps:
        np.maximum(cement, np.where(cap.voxels, 1 - bone.share, 0), out=cement)
    modulus = bone.modulus_mpa + cement * np.float32(profile.cap.modulus_mpa)
    strength = bone.yield_stress_mpa.copy()
    mixed = cement > 0
    strength[mixed] += cement[mixed] * np.float32(profile.cap.yield_mpa)
    strength[modulus == 0] = np.inf
    if profile.orthotropy is not None:
        law = profile.orthotropy.law(cement > bone.share)
        return CappedBone(modulus, strength, profile.cap.poisson, law)
    poisson: float | NDArray[np.float64] = profile.poisson
    if profile.cap.poisson != profile.poisson:
        poisson = profile.poisson + (profile.cap.poisson - profile.poisson) * cement.astype(np.float64)
    return CappedBone(modulus, strength, poisson, None)
