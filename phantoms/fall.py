"""The proximal femur of a phantom in a fall to the side, as a voxel model straight from the analytic object.

Posture as usual in such models (Courtney, Keyak, Orwoll): the neck turned inwards by 15 degrees, the shaft 10 degrees to the
ground, the knee away from it. The head is pressed down through a pad, the trochanter stands on another, the end of the shaft is
a hinge. There is no closed form; what is exact is that all voxel sizes show the same object under the same supports.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from phantoms.solids import Solid, unit
from phantoms.truth import FemurTruth
from phantoms.voxel_model import LoadedModel, Supports, nodes_of, voxels

FEMUR_VOXELS_MM = (3.0, 2.0, 1.5)

_TURN_DEG, _LEAN_DEG = 15.0, 10.0
_PAD_MPA, _PAD_BEYOND_MM = 2500.0, 3.0
_HEAD_PAD_SHARE = 0.5  # of the head's radius: how deep the upper pad reaches down
_TROCHANTER_PAD_MM = 6.0
_SHAFT_MM = 45.0  # of the shaft below the lesser trochanter that the model holds


def femur_modulus_mpa(mineral_mg_cm3: NDArray[np.float32]) -> NDArray[np.float32]:
    """Young's modulus ``10500 ash^2.29`` with ash in g/cm3 (Keller 1994), at least 1 MPa.

    Ash is 1.06 times the mineral (Keyak 1994; its constant is the marrow that a scanner takes for missing mineral, and the
    mineral is known here).
    """
    ash = 1.06e-3 * np.maximum(mineral_mg_cm3, 0.0)
    return np.asarray(np.maximum(10500.0 * ash**2.29, 1.0), np.float32)


def fall_axes(truth: FemurTruth) -> NDArray[np.float64]:
    """Rows x, y, z in LPS: z up from the ground, y along the shaft towards the knee, x across both."""
    neck, shaft = unit(truth.neck_axis_lps), unit(truth.shaft_axis_lps)
    medial = unit(-neck + shaft * (neck @ shaft))
    front = unit(np.cross(medial, shaft))
    front = front if front[1] < 0 else -front
    turn, lean = np.radians(_TURN_DEG), np.radians(_LEAN_DEG)
    up = np.cos(lean) * (np.cos(turn) * medial + np.sin(turn) * front) + np.sin(lean) * shaft
    along = unit(shaft - up * (shaft @ up))
    return np.stack([np.cross(along, up), along, up])


def fall_model(
    solid: Solid, truth: FemurTruth, *, voxel_mm: float = 2.0, displacement_mm: float = 1.0, seed: int = 0
) -> LoadedModel:
    """A femur between a pad on its head, a pad under its trochanter, and a hinge at the end of its shaft.

    Sets of nodes: ``head`` (moved down), ``trochanter`` (held along the vertical), ``shaft`` (the hinge).

    Raises
    ------
    ValueError
        If the phantom has less than 45 mm of shaft below the lesser trochanter.
    """
    if truth.shaft_below_lesser_trochanter_mm < _SHAFT_MM:
        raise ValueError(f"{truth.name} is cut {truth.shaft_below_lesser_trochanter_mm:.0f} mm below its trochanter")
    axes = fall_axes(truth)
    head, radius = np.array(truth.head_centre_lps_mm), truth.head_radius_mm
    edge, shaft = np.array(truth.lesser_trochanter_lower_edge_lps_mm), unit(truth.shaft_axis_lps)
    # All in the frame of the fall, from the head's centre: the end of the shaft closes the box along y.
    end_along = float((edge + _SHAFT_MM * shaft - head) @ axes[1])
    start_along = float((edge - head) @ axes[1]) - 130.0
    count = np.ceil(np.array([170.0, end_along - start_along, 130.0]) / voxel_mm).astype(int)
    middle = head + axes[1] * (end_along - 0.5 * count[1] * voxel_mm) + axes[2] * (radius + 4.0 - 85.0)
    density, inside = voxels([solid], axes, middle, (int(count[0]), int(count[1]), int(count[2])), voxel_mm, seed)
    modulus = np.where(inside, femur_modulus_mpa(density), 0.0).astype(np.float32)
    _require_inside(inside)
    modulus, pads = _with_pads(modulus, voxel_mm, _HEAD_PAD_SHARE * radius)
    supports = Supports()
    top, bottom = (nodes_of(pads[k], level) for k, level in ((-1, pads.shape[0]), (0, 0)))
    supports.hold("head", top, 0, -displacement_mm)
    supports.hold("trochanter", bottom, 0)
    end = np.argwhere(modulus[:, -1] > 0)
    k_middle = round(float(end[:, 0].mean()))
    row = end[end[:, 0] == k_middle][:, 1]
    across = np.arange(row.min(), row.max() + 2)
    hinge = np.stack([np.full(len(across), k_middle), np.full(len(across), modulus.shape[1]), across], axis=1)
    for component in range(3):
        supports.hold("shaft", hinge, component)
    return supports.model(modulus, voxel_mm, shortening_mm=displacement_mm)


def _require_inside(inside: NDArray[np.bool_]) -> None:
    faces = {
        "above": inside[-1],
        "below": inside[0],
        "behind the head": inside[:, 0],
        "at the sides": inside[..., [0, -1]],
    }
    for name, face in faces.items():
        if face.any():
            raise ValueError(
                f"the femur reaches out of its box {name}; its proportions are beyond what the model allows"
            )


def _with_pads(
    modulus: NDArray[np.float32], voxel_mm: float, head_pad_mm: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Pads from the bone up and down to flat ends; the field is cut to what is filled, but for the end of the shaft.

    Returns the field and where it is pad.
    """
    filled = np.argwhere(modulus > 0)
    low, high = filled.min(axis=0), filled.max(axis=0) + 1
    beyond = max(round(_PAD_BEYOND_MM / voxel_mm), 1)
    part = modulus[low[0] : high[0], low[1] :, low[2] : high[2]]
    part = np.pad(part, ((beyond, beyond), (0, 0), (0, 0)))
    bone = part > 0
    count = part.shape[0]
    any_bone = bone.any(axis=0)
    highest = np.where(any_bone, count - 1 - bone[::-1].argmax(axis=0), -1)
    lowest = np.where(any_bone, bone.argmax(axis=0), count)
    level = np.arange(count)[:, None, None]
    under_head = highest >= count - 1 - beyond - head_pad_mm / voxel_mm
    over_ground = lowest <= beyond + _TROCHANTER_PAD_MM / voxel_mm
    pads = ((level > highest) & under_head) | ((level < lowest) & over_ground)
    out = part.copy()
    out[pads] = _PAD_MPA
    return np.ascontiguousarray(out), pads
