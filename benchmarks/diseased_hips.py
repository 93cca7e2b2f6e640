"""Hips that no public case shows: arthritic, dysplastic, flexed and turned ones, as phantoms with an exact truth.

The anatomy of `phantoms` is a list of solids; here the solids of one hip are moved, reshaped and added to before the image is
formed, so that partial volume, blur and noise are those of any phantom and the true mask is known to the voxel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from phantoms import Phantom, make_phantom
from phantoms.anatomy_hip import FEMUR_LABELS
from phantoms.solids import (
    AXES,
    ORIGIN,
    SHAPE,
    DensityFeature,
    Primitive,
    Solid,
    ellipsoid,
    half_space,
    round_cone,
    unit,
)
from phantoms.voxelise import Lattice
from pipeline.segmentation.model import FemurLandmarks
from pipeline.volume import Grid, Volume


@dataclass(frozen=True)
class Disease:
    """What is done to one hip; lengths in mm, angles in degrees, all given as for a left hip.

    Attributes
    ----------
    flexion_deg, rotation_deg, adduction_deg : float
        Turn of the femur about the centre of its head: knee forwards, foot inwards, knee inwards.
    up_mm, inwards_mm : float
        How far the head has wandered: 4 up closes the joint at the roof, 4 inwards at its floor. More of both, with
        `socket_follows`, is a protrusion.
    socket_follows : bool
        The socket moves with the head.
    flattened_mm : float
        Height taken off the top of the head.
    short_axis_mm : float
        How much shorter the head is from front to back than it is high.
    spur_mm : float
        Radius of osteophytes round the border of head and neck, and of fewer at the rim of the socket; 0 for none.
    sclerosis_mg_cm3 : float
        Density added to roof and top of the head.
    cysts : bool
        Three holes of 5 mm in the top of the head and in the roof.
    uncovered_mm : float
        How far the outer part of the roof is missing.
    """

    flexion_deg: float = 0.0
    rotation_deg: float = 0.0
    adduction_deg: float = 0.0
    up_mm: float = 0.0
    inwards_mm: float = 0.0
    socket_follows: bool = False
    flattened_mm: float = 0.0
    short_axis_mm: float = 0.0
    spur_mm: float = 0.0
    sclerosis_mg_cm3: float = 0.0
    cysts: bool = False
    uncovered_mm: float = 0.0


DISEASES: dict[str, Disease] = {
    "flexed 30": Disease(flexion_deg=30),
    "flexed 45": Disease(flexion_deg=45),
    "extended 10": Disease(flexion_deg=-10),
    "turned inwards 40": Disease(rotation_deg=40),
    "turned outwards 40": Disease(rotation_deg=-40),
    "adducted 20": Disease(adduction_deg=20),
    "abducted 20": Disease(adduction_deg=-20),
    "abducted 15, flexed 30, turned outwards 30": Disease(flexion_deg=30, rotation_deg=-30, adduction_deg=-15),
    "joint 2 mm at the roof": Disease(up_mm=2),
    "joint closed at the roof": Disease(up_mm=4),
    "joint closed, bone in bone by 1 mm": Disease(up_mm=4.6, inwards_mm=1.5),
    "joint closed inwards": Disease(inwards_mm=4),
    "joint closed, sclerosis": Disease(up_mm=4, sclerosis_mg_cm3=350),
    "joint closed, sclerosis, cysts": Disease(up_mm=4, sclerosis_mg_cm3=350, cysts=True),
    "spurs of 4 mm": Disease(spur_mm=4),
    "spurs of 6 mm, joint 2 mm": Disease(spur_mm=6, up_mm=2),
    "head flat by 2 mm": Disease(flattened_mm=2),
    "head flat by 4 mm": Disease(flattened_mm=4),
    "head 3 mm shorter front to back": Disease(short_axis_mm=3),
    "arthritis, moderate": Disease(up_mm=3, spur_mm=3, sclerosis_mg_cm3=200, flattened_mm=1.5, rotation_deg=-15),
    "arthritis, severe": Disease(
        up_mm=4.3, spur_mm=6, sclerosis_mg_cm3=350, flattened_mm=3.5, cysts=True, rotation_deg=-25, flexion_deg=20
    ),
    "protrusion": Disease(inwards_mm=8, up_mm=3, socket_follows=True),
    "protrusion, joint closed": Disease(inwards_mm=11, up_mm=3, socket_follows=True, sclerosis_mg_cm3=200),
    "dysplasia": Disease(uncovered_mm=12, up_mm=1),
    "dysplasia, head wandered": Disease(uncovered_mm=14, up_mm=5, inwards_mm=-8, short_axis_mm=2),
}
"""By name; what the benchmark and the tests go through."""


def _turn(change: Disease, side: str) -> Rotation:
    """About LPS axes: first the rotation about the shaft, then adduction, then flexion."""
    mirror = 1.0 if side == "left" else -1.0
    return Rotation.from_euler(
        "zyx", [-mirror * change.rotation_deg, mirror * change.adduction_deg, -change.flexion_deg], degrees=True
    )


def _shift(change: Disease, side: str) -> NDArray[np.float64]:
    mirror = 1.0 if side == "left" else -1.0
    return np.array([-mirror * change.inwards_mm, 0.0, change.up_mm])


def _moved(shape: Primitive, turn: Rotation, about: NDArray[np.float64], shift: NDArray[np.float64]) -> Primitive:
    row = shape.row.copy()
    row[ORIGIN : ORIGIN + 3] = turn.apply(row[ORIGIN : ORIGIN + 3] - about) + about + shift
    row[AXES : AXES + 9] = turn.apply(row[AXES : AXES + 9].reshape(3, 3)).ravel()
    corners = np.array([[(shape.low_mm, shape.high_mm)[c >> a & 1][a] for a in range(3)] for c in range(8)])
    corners = turn.apply(corners - about) + about + shift
    return replace(shape, row=row, low_mm=corners.min(axis=0), high_mm=corners.max(axis=0))


def _diseased_femur(solid: Solid, change: Disease, side: str, truth: FemurLandmarks) -> Solid:
    """The femur with its head reshaped, spurs, dense and empty places, and moved."""
    centre, radius = truth.head_centre_lps_mm, truth.head_radius_mm
    up, neck = np.array([0.0, 0.0, 1.0]), truth.neck_axis_lps
    assert neck is not None
    head, *rest = solid.primitives
    if change.short_axis_mm:
        semi = np.array([radius, radius - change.short_axis_mm / 2, radius])
        grown = ellipsoid(centre, semi)
        row = head.row.copy()  # cortex and core stay
        row[SHAPE:] = grown.row[SHAPE:]
        head = replace(head, row=row)
    front = [head]
    if change.flattened_mm:
        front.append(half_space(centre + (radius - change.flattened_mm) * up, up).intersected(3.0))
    spurs = []
    if change.spur_mm:
        u = unit(np.cross(neck, up))
        v = np.cross(neck, u)
        for angle in np.radians(np.arange(0, 360, 40)):
            outwards = np.cos(angle) * u + np.sin(angle) * v
            place = centre + radius * unit(0.42 * neck + 0.9 * outwards)
            size = change.spur_mm * (0.75 + 0.25 * np.cos(3 * angle))
            spurs.append(ellipsoid(place, size, cortex_mm=0.7, core_mg_cm3=150.0, blend_mm=3.0))
    features = list(solid.features)
    top = centre + (radius - change.flattened_mm - 3.0) * up
    across = np.array([8.0, 0.0, 0.0])
    if change.sclerosis_mg_cm3:
        features.append(DensityFeature(top - across, top + across, 6.0, change.sclerosis_mg_cm3))
    if change.cysts:
        features += [DensityFeature(top + p, top + p, 4.0, -600.0) for p in ([5, -3, -2], [-6, 4, -3])]
    shapes = (*front, *rest, *spurs)
    turn, shift = _turn(change, side), _shift(change, side)
    return replace(
        solid,
        primitives=tuple(_moved(p, turn, centre, shift) for p in shapes),
        features=tuple(
            replace(
                f, start=turn.apply(f.start - centre) + centre + shift, end=turn.apply(f.end - centre) + centre + shift
            )
            for f in features
        ),
        texture_axis=tuple(float(v) for v in turn.apply(np.array(solid.texture_axis))),  # type: ignore[arg-type]
    )


def _diseased_pelvis(solid: Solid, change: Disease, side: str, truth: FemurLandmarks) -> Solid:
    centre, radius = truth.head_centre_lps_mm, truth.head_radius_mm
    mirror = 1.0 if side == "left" else -1.0
    lateral, up = np.array([mirror, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
    primitives, features = list(solid.primitives), list(solid.features)
    if change.socket_follows:
        # The bowl deepens: its wall, and what is hollowed out of the pelvis, move inwards, less than the head does.
        shift = _shift(change, side) * max(0.0, 1 - 4.0 / max(abs(change.inwards_mm), 4.0))
        moved = {0, len(primitives) - 1, len(primitives) - 2, len(primitives) - 3, len(primitives) - 4}
        here = [k for k in moved if np.linalg.norm(primitives[k].row[ORIGIN : ORIGIN + 3] - centre) < 16.0]
        for k in here:
            primitives[k] = _moved(primitives[k], Rotation.identity(), centre, shift)
    if change.uncovered_mm:
        edge = centre + (radius + 8.0 - change.uncovered_mm) * lateral
        primitives.append(ellipsoid(edge + 30.0 * lateral + 30.0 * up, (30.0, 60.0, 28.0)).subtracted(2.0))
    if change.spur_mm:
        for back in (-14.0, 0.0, 12.0):
            place = centre + (radius * 0.75) * lateral + (radius + 7.0) * 0.85 * up + np.array([0.0, back, 0.0])
            primitives.append(ellipsoid(place, 0.8 * change.spur_mm, cortex_mm=0.8, core_mg_cm3=180.0, blend_mm=3.0))
    roof = centre + (radius + 8.0) * up
    across = np.array([8.0, 0.0, 0.0])
    if change.sclerosis_mg_cm3:
        features.append(DensityFeature(roof - across, roof + across, 6.0, change.sclerosis_mg_cm3))
    if change.cysts:
        hole = roof + np.array([0.0, 4.0, 3.0])
        features.append(DensityFeature(hole, hole, 4.0, -600.0))
    return replace(solid, primitives=tuple(primitives), features=tuple(features))


@dataclass(frozen=True)
class DiseasedHips:
    """An image of both hips, and what its femora are.

    Attributes
    ----------
    volume : Volume
    masks : dict of str to bool ndarray of shape (Z, Y, X)
        By side.
    landmarks : dict of str to FemurLandmarks
    """

    volume: Volume
    masks: dict[str, NDArray[np.bool_]]
    landmarks: dict[str, FemurLandmarks]


def diseased_hips(
    left: Disease | None = None,
    right: Disease | None = None,
    *,
    slice_mm: float = 2.0,
    pixel_mm: float = 0.9,
    dose: float = 1.0,
    seed: int = 5,
    **options: object,
) -> DiseasedHips:
    """Image both hips from 75 mm above the heads to below the lesser trochanters, with one or both diseased.

    Parameters
    ----------
    left, right : Disease, optional
        None leaves that hip as it is.
    slice_mm, pixel_mm, dose
        As in `phantoms.Phantom.image`.
    **options
        Of the torso phantom.
    """
    phantom: Phantom = make_phantom("torso", seed=seed, **options)  # type: ignore[arg-type]
    healthy = phantom.truth(phantom.image(120.0, slice_mm=8.0, pixel_mm=8.0, dose=0.0))
    changes = {"left": left or Disease(), "right": right or Disease()}
    solids = list(phantom.solids)
    flesh: list[Solid] = []
    landmarks = {}
    low, high = phantom.low_mm.copy(), phantom.high_mm.copy()
    for true in healthy.femora:
        side, change = true.side, changes[true.side]
        still = FemurLandmarks(
            head_centre_lps_mm=np.array(true.head_centre_lps_mm),
            head_radius_mm=true.head_radius_mm,
            neck_axis_lps=np.array(true.neck_axis_lps),
            shaft_axis_lps=np.array(true.shaft_axis_lps),
            lesser_trochanter_lower_edge_lps_mm=np.array(true.lesser_trochanter_lower_edge_lps_mm),
        )
        turn, shift, centre = _turn(change, side), _shift(change, side), still.head_centre_lps_mm
        assert still.neck_axis_lps is not None and still.shaft_axis_lps is not None
        edge = still.lesser_trochanter_lower_edge_lps_mm
        assert edge is not None
        now = replace(
            still,
            head_centre_lps_mm=centre + shift,
            neck_axis_lps=turn.apply(still.neck_axis_lps),
            shaft_axis_lps=turn.apply(still.shaft_axis_lps),
            lesser_trochanter_lower_edge_lps_mm=turn.apply(edge - centre) + centre + shift,
        )
        landmarks[side] = now
        for k, solid in enumerate(solids):
            if solid.name == f"femur_{side}":
                solids[k] = _diseased_femur(solid, change, side, still)
            elif solid.name == f"hemipelvis_{side}":
                solids[k] = _diseased_pelvis(solid, change, side, still)
        if change.flexion_deg or change.adduction_deg:
            knee = now.lesser_trochanter_lower_edge_lps_mm + 75.0 * now.shaft_axis_lps  # type: ignore[operator]
            start = now.head_centre_lps_mm + 45.0 * now.shaft_axis_lps  # type: ignore[operator]
            flesh.append(Solid("thigh_fat", (round_cone(start, knee, 82.0),), "fat"))
            flesh.append(Solid("thigh", (round_cone(start, knee, 66.0),), "muscle", texture=9.0, texture_mm=4.0))
            low, high = np.minimum(low, knee - 40.0), np.maximum(high, knee + 40.0)
    first = next(k for k, solid in enumerate(solids) if solid.name.startswith("joint_"))
    edges = [m.lesser_trochanter_lower_edge_lps_mm for m in landmarks.values()]
    low[2] = min(float(e[2]) for e in edges if e is not None) - 55.0
    high[2] = max(float(m.head_centre_lps_mm[2]) for m in landmarks.values()) + 75.0
    changed = replace(phantom, solids=(*solids[:first], *flesh, *solids[first:]), low_mm=low, high_mm=high)
    lattice = Lattice.upright(low, high, (slice_mm, pixel_mm, pixel_mm))
    image = changed.image(120.0, slice_mm=slice_mm, dose=dose, lattice=lattice)
    volume = Volume(image.hu, Grid(image.hu.shape, np.asarray(lattice.index_to_lps)))
    return DiseasedHips(volume, {side: image.labels == label for side, label in FEMUR_LABELS.items()}, landmarks)
