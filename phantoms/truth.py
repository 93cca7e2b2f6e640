"""What is true of a phantom: computed from its analytic description, never from an image of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phantoms.anatomy_hip import FEMUR_LABELS, FemurShape
from phantoms.anatomy_spine import SpineVertebra
from phantoms.materials import Materials
from phantoms.regions import read_regions
from phantoms.solids import Solid
from phantoms.vertebral_body import LABEL_OF_LEVEL
from phantoms.voxelise import Lattice, render

NECK_BOX_MM = 15.0
BELOW_LESSER_TROCHANTER_MM = 10.0
_PIXEL_MM = 1.0

Point = tuple[float, float, float]


@dataclass(frozen=True)
class VertebraTruth:
    """One vertebral body.

    Heights are distances between the outer faces of the endplates on the mid-sagittal plane, at three pairs of points: 2.5 mm
    inside the front rim, 2.5 mm inside the back wall, and halfway between. `points_lps_mm` holds them: upper and lower
    anterior, upper and lower middle, upper and lower posterior.

    Attributes
    ----------
    trabecular_mineral_mg_cm3 : float
        Mean density of `mineral` in the core: an elliptic cylinder of 0.6 of the half width and 0.5 of the half depth, its
        centre 0.1 of the half depth in front of the body's, over the middle half of the height.
    trabecular_density_mg_cm3 : float
        What an error-free single-energy scanner reads there after calibration against K2HPO4 in water, without contrast
        agent: the mineral and the (negative) share of fatty marrow.
    trabecular_hu : float
        The noise-free CT number there, contrast agent included.
    peeled_mineral_mg_cm3, peeled_density_mg_cm3, peeled_hu : float or None
        The same in the peeled body: 4 mm from the wall, 5 mm from the endplates, without the rearmost fifth and the entry of
        the vein (``phantoms.regions``). None if a fracture has left no such region.
    marrow_fat : float or None
        Share of fat by volume in the marrow; None where there is no marrow.
    genant_grade : int
    deformity : str
        ``"none"``, ``"wedge"``, ``"biconcave"`` or ``"crush"``.
    height_loss : float
        Fraction lost against the same body without fracture, where it is greatest.
    complete : bool
        Whether the image holds the whole body.
    """

    name: str
    level: str
    label: int
    centre_lps_mm: Point
    superior_lps: Point
    width_mm: float
    depth_mm: float
    anterior_mm: float
    middle_mm: float
    posterior_mm: float
    points_lps_mm: tuple[Point, ...]
    trabecular_mineral_mg_cm3: float
    trabecular_density_mg_cm3: float
    trabecular_hu: float
    genant_grade: int
    deformity: str
    height_loss: float
    complete: bool
    mineral: str = "k2hpo4"
    peeled_mineral_mg_cm3: float | None = None
    peeled_density_mg_cm3: float | None = None
    peeled_hu: float | None = None
    marrow_fat: float | None = None


@dataclass(frozen=True)
class RegionTruth:
    """Mineral in a region of the hip, projected along the normal of the plane of neck and shaft."""

    abmd_g_cm2: float
    mineral_g: float
    area_cm2: float


@dataclass(frozen=True)
class FemurTruth:
    """One proximal femur.

    `abmd` holds ``femoral_neck`` (band of 15 mm along the neck axis, centred where the projected neck is narrowest) and
    ``total_hip`` (everything from the medial edge of that band outwards, down to 10 mm below the lower edge of the lesser
    trochanter; the head is left out). Only mineral counts (K2HPO4 basis); the area is that of the bone's shadow.
    """

    name: str
    side: str
    label: int
    head_centre_lps_mm: Point
    head_radius_mm: float
    neck_axis_lps: Point
    neck_centre_lps_mm: Point
    neck_width_mm: float
    shaft_axis_lps: Point
    neck_shaft_angle_deg: float
    anteversion_deg: float
    lesser_trochanter_lps_mm: Point
    lesser_trochanter_lower_edge_lps_mm: Point
    shaft_below_lesser_trochanter_mm: float
    mineral_g: float
    """Mineral of the whole femur down to 10 mm below the lesser trochanter, head included."""
    marrow_fat_ends: float | None = None
    """Share of fat by volume in the marrow of head, trochanters and shaft."""
    marrow_fat_middle: float | None = None
    """Between neck and lesser trochanter, where red marrow stays longest."""
    abmd: dict[str, RegionTruth] = field(default_factory=dict)


@dataclass(frozen=True)
class RodTruth:
    """One rod of a calibration phantom: mineral and water in it, and its noise-free CT number."""

    name: str
    mineral: str
    density_mg_cm3: float
    water_mg_cm3: float
    hu: float
    radius_mm: float
    start_lps_mm: Point
    end_lps_mm: Point


@dataclass(frozen=True)
class SpecimenTruth:
    """A body of simple shape that stands on its lower face, of one material or several.

    Attributes
    ----------
    density_mg_cm3, hu : float
        Of the first material (the wall of a tube, the lowest layer).
    area_mm2 : float
        Cross-section of all materials.
    height_mm : float
    arrangement : str
        ``"side by side"`` (materials run through from end to end) or ``"layers"``.
    densities_mg_cm3 : tuple of float
    areas_mm2, heights_mm, second_moments_mm4 : tuple of float
        Of each material: cross-section, height, and second moment of its cross-section about x.
    """

    name: str
    label: int
    density_mg_cm3: float
    area_mm2: float
    height_mm: float
    arrangement: str
    densities_mg_cm3: tuple[float, ...]
    areas_mm2: tuple[float, ...]
    heights_mm: tuple[float, ...]
    second_moments_mm4: tuple[float, ...]
    hu: float = 0.0

    def at(self, materials: Materials) -> SpecimenTruth:
        """With the CT number at a beam quality."""
        return replace(self, hu=round(materials.hu("water") + materials.hu_per_mg_cm3 * self.density_mg_cm3, 4))

    def stiffness_n_mm(self, modulus_mpa: Callable[[float], float]) -> float:
        """Force per shortening between smooth platens: ``sum(E A) / H``, or ``A / sum(h / E)`` of layers.

        `modulus_mpa` gives E of a density. That of layers holds at a Poisson ratio of zero, the other at any common one.
        """
        moduli = [modulus_mpa(density) for density in self.densities_mg_cm3]
        if self.arrangement == "layers":
            return self.area_mm2 / sum(h / e for h, e in zip(self.heights_mm, moduli, strict=True))
        return sum(e * a for e, a in zip(moduli, self.areas_mm2, strict=True)) / self.height_mm

    def bending_stiffness_n_mm(self, modulus_mpa: Callable[[float], float]) -> float:
        """Moment per turn of one end about x against the other in pure bending, ``sum(E I) / H``, in N mm per rad.

        Raises
        ------
        ValueError
            Of layers, which have no such closed form.
        """
        if self.arrangement == "layers":
            raise ValueError("layers on top of each other have no closed form in bending")
        moments = zip(self.densities_mg_cm3, self.second_moments_mm4, strict=True)
        return sum(modulus_mpa(density) * moment for density, moment in moments) / self.height_mm


@dataclass(frozen=True)
class Truth:
    """Everything known about a phantom and the image made of it.

    Attributes
    ----------
    hu_per_mg_cm3, hu_at_zero : float
        True calibration line of K2HPO4 in water at this tube voltage: ``HU = hu_at_zero + hu_per_mg_cm3 * density``. In mode
        ``"projections"`` that of the middle of the body: a water cylinder that attenuates as much as the middle slice.
    labels : dict of str to int
        Structure name to number in the label map.
    mode : str
        How the image was formed: ``"fast"`` or ``"projections"``.
    """

    kind: str
    seed: int
    options: dict[str, Any]
    kvp: float
    slice_mm: float
    spacing_mm: Point
    dose: float
    hu_per_mg_cm3: float
    hu_at_zero: float
    labels: dict[str, int]
    mode: str = "fast"
    vertebrae: tuple[VertebraTruth, ...] = ()
    femora: tuple[FemurTruth, ...] = ()
    rods: tuple[RodTruth, ...] = ()
    specimens: tuple[SpecimenTruth, ...] = ()

    def vertebra(self, level: str) -> VertebraTruth:
        """The vertebra of a level.

        Raises
        ------
        KeyError
            If the phantom has no such level.
        """
        for vertebra in self.vertebrae:
            if vertebra.level == level:
                return vertebra
        raise KeyError(level)

    def femur(self, side: str) -> FemurTruth:
        """The femur of a side, ``"left"`` or ``"right"``."""
        for femur in self.femora:
            if femur.side == side:
                return femur
        raise KeyError(side)

    def save(self, path: Path | str) -> Path:
        """Write as JSON."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        return target

    @staticmethod
    def load(path: Path | str) -> Truth:
        """Read what `save` wrote."""
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
        raw["spacing_mm"] = tuple(raw["spacing_mm"])
        raw["vertebrae"] = tuple(VertebraTruth(**_with_tuples(v)) for v in raw["vertebrae"])
        raw["femora"] = tuple(
            FemurTruth(**(_with_tuples(f) | {"abmd": {k: RegionTruth(**r) for k, r in f["abmd"].items()}}))
            for f in raw["femora"]
        )
        raw["rods"] = tuple(RodTruth(**_with_tuples(r)) for r in raw["rods"])
        raw["specimens"] = tuple(SpecimenTruth(**_with_tuples(r)) for r in raw["specimens"])
        return Truth(**raw)


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    def convert(value: Any) -> Any:
        return tuple(convert(v) for v in value) if isinstance(value, list) else value

    return {key: convert(value) for key, value in values.items()}


def as_point(vector: NDArray | tuple[float, ...]) -> Point:
    """A plain tuple, rounded to a thousandth."""
    x, y, z = (round(float(v), 4) for v in vector)
    return x, y, z


def vertebra_truth(
    vertebra: SpineVertebra,
    solid: Solid,
    materials: Materials,
    lattice: Lattice,
    *,
    seed: int,
    marrow_fat: float | None = None,
) -> VertebraTruth:
    """Truth of one body; `lattice` is the image's, to tell whether it is complete."""
    shape, place = vertebra.shape, vertebra.place
    posterior = np.array(shape.posterior_points_mm)
    upper, lower = shape.endplate(shape.upper, posterior), shape.endplate(shape.lower, posterior)
    points = tuple(
        as_point(place.point(0.0, p, h)) for p, u, v in zip(posterior, upper, lower, strict=True) for h in (u, v)
    )
    middle = place.point(0.0, 0.0, 0.5 * (shape.upper[0] + shape.upper[2] + shape.lower[0] + shape.lower[2]))
    core, peeled = read_regions(vertebra, solid, materials, seed=seed)
    corners = np.array(
        [
            place.point(x, y, z)
            for x in (-shape.half_width, shape.half_width)
            for y in (-shape.half_depth, shape.half_depth)
            for z in (shape.upper[0], shape.lower[0])
        ]
    )
    index = lattice.to_index(corners)
    complete = bool((index > -0.5).all() and (index < np.array(lattice.shape) - 0.5).all())
    fracture = shape.fracture
    return VertebraTruth(
        name=f"vertebra_{shape.level}",
        level=shape.level,
        label=LABEL_OF_LEVEL[shape.level],
        centre_lps_mm=as_point(middle),
        superior_lps=as_point(place.axes[2]),
        width_mm=round(2 * shape.half_width, 3),
        depth_mm=round(2 * shape.half_depth - shape.hollow, 3),
        anterior_mm=round(shape.heights[0], 4),
        middle_mm=round(shape.heights[1], 4),
        posterior_mm=round(shape.heights[2], 4),
        points_lps_mm=points,
        trabecular_mineral_mg_cm3=round(core.mineral_mg_cm3, 3),
        trabecular_density_mg_cm3=round(core.density_mg_cm3, 3),
        trabecular_hu=round(core.hu, 3),
        genant_grade=fracture.genant_grade if fracture else 0,
        deformity=fracture.kind if fracture else "none",
        height_loss=fracture.height_loss if fracture else 0.0,
        complete=complete,
        peeled_mineral_mg_cm3=None if peeled is None else round(peeled.mineral_mg_cm3, 3),
        peeled_density_mg_cm3=None if peeled is None else round(peeled.density_mg_cm3, 3),
        peeled_hu=None if peeled is None else round(peeled.hu, 3),
        marrow_fat=marrow_fat,
    )


def femur_truth(
    shape: FemurShape,
    solid: Solid,
    side: str,
    lowest_mm: float,
    *,
    seed: int,
    marrow_fat: tuple[float, float] | None = None,
) -> FemurTruth:
    """Truth of one femur; `shape` is the left one, `lowest_mm` the z of the lowest slice."""
    flip = np.array([-1.0 if side == "right" else 1.0, 1.0, 1.0])
    k = shape.size
    edge_down = float((shape.lesser_trochanter_mm - shape.axes_meet_mm) @ shape.shaft_axis) + 5.0 * k
    bottom = edge_down + BELOW_LESSER_TROCHANTER_MM
    head_up = float((shape.head_centre_mm - shape.axes_meet_mm) @ shape.shaft_axis) - shape.head_radius_mm - 3.0
    head_in = float((shape.head_centre_mm - shape.axes_meet_mm) @ shape.medial) + shape.head_radius_mm + 3.0
    low, high = np.array([head_up, -40.0 * k]), np.array([bottom, head_in])
    rows, columns = (int(np.ceil(n)) for n in (high - low) / _PIXEL_MM)
    depth = int(np.ceil(80.0 * k / _PIXEL_MM))
    matrix = np.eye(4)
    # Axes: down the shaft (ending exactly at the lower limit), front to back, towards the head.
    matrix[:3, :3] = (np.stack([shape.shaft_axis, -shape.front, shape.medial], axis=1) * flip[:, None]) * _PIXEL_MM
    start = shape.at(low[1] + 0.5 * _PIXEL_MM, 40.0 * k - 0.5 * _PIXEL_MM, bottom - (rows - 0.5) * _PIXEL_MM)
    matrix[:3, 3] = start * flip
    lattice = Lattice((rows, depth, columns), matrix)
    density, labels = render([solid], lattice, Materials.mineral_only(), background=None, seed=seed)
    areal = density.sum(axis=1, dtype=float) * _PIXEL_MM * 1e-4
    shadow = np.asarray((labels > 0).any(axis=1))
    down = bottom - (rows - 0.5 - np.arange(rows)[:, None]) * _PIXEL_MM
    inwards = low[1] + (0.5 + np.arange(columns)[None, :]) * _PIXEL_MM
    neck_in, neck_down = float(shape.neck_axis @ shape.medial), float(shape.neck_axis @ shape.shaft_axis)
    along = inwards * neck_in + down * neck_down  # distance along the neck axis, 0 where it meets the shaft axis
    across = inwards * neck_down - down * neck_in
    length = float(np.linalg.norm(shape.axes_meet_mm - shape.head_centre_mm))
    stations = np.arange(-0.72 * length, -0.22 * length, 0.5)
    widths = np.array([_width(shadow, along, across, station) for station in stations])
    narrowest = float(np.mean(stations[widths <= widths.min() + 0.25]))
    pixel_cm2 = (_PIXEL_MM / 10) ** 2

    def region(where: NDArray[np.bool_]) -> RegionTruth:
        mass = float(areal[where].sum()) * pixel_cm2
        area = float((shadow & where).sum()) * pixel_cm2
        return RegionTruth(round(mass / area, 5), round(mass, 4), round(area, 4))

    neck = np.abs(along - narrowest) <= NECK_BOX_MM / 2
    total = along >= narrowest - NECK_BOX_MM / 2
    # Across the neck only the neck: the trochanter reaches into the band beside it.
    neck &= np.abs(across) <= 0.75 * float(widths.min())
    edge = shape.at(0.0, 0.0, edge_down)
    shaft_end = min(shape.shaft_length_mm, (float(edge[2]) - lowest_mm) / abs(float(shape.shaft_axis[2])) + edge_down)
    return FemurTruth(
        name=f"femur_{side}",
        side=side,
        label=FEMUR_LABELS[side],
        head_centre_lps_mm=as_point(shape.head_centre_mm * flip),
        head_radius_mm=round(shape.head_radius_mm, 4),
        neck_axis_lps=as_point(shape.neck_axis * flip),
        neck_centre_lps_mm=as_point((shape.axes_meet_mm + narrowest * shape.neck_axis) * flip),
        neck_width_mm=float(widths.min()),
        shaft_axis_lps=as_point(shape.shaft_axis * flip),
        neck_shaft_angle_deg=shape.neck_shaft_angle_deg,
        anteversion_deg=shape.anteversion_deg,
        lesser_trochanter_lps_mm=as_point(shape.lesser_trochanter_mm * flip),
        lesser_trochanter_lower_edge_lps_mm=as_point(edge * flip),
        shaft_below_lesser_trochanter_mm=round(max(shaft_end - edge_down, 0.0), 3),
        mineral_g=round(float(areal.sum()) * pixel_cm2, 4),
        marrow_fat_ends=None if marrow_fat is None else marrow_fat[0],
        marrow_fat_middle=None if marrow_fat is None else marrow_fat[1],
        abmd={"femoral_neck": region(neck), "total_hip": region(total)},
    )


def _width(shadow: NDArray, along: NDArray, across: NDArray, station: float) -> float:
    """Width of the shadow across the neck axis at a place along it, grown from the axis outwards."""
    band = (np.abs(along - station) <= 1.0) & shadow
    bins = np.arange(-45.0, 45.5, 1.0)
    count, _ = np.histogram(across[band], bins)
    filled = count > 0
    middle = len(filled) // 2
    left = middle
    while left > 0 and filled[left - 1]:
        left -= 1
    right = middle
    while right < len(filled) - 1 and filled[right + 1]:
        right += 1
    # Pixels per bin tell how full the outermost bins are.
    full = float(np.median(count[left : right + 1]))
    ends = min(count[left] / full, 1.0) + min(count[right] / full, 1.0)
    return float(right - left - 1 + ends)
