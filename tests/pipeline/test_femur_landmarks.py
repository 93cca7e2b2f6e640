"""Landmarks of a femur from its mask, against a bone built from solids whose every axis is known."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pipeline.errors import NotMeasurable
from pipeline.segmentation.femur.landmarks import landmarks_from_mask
from pipeline.volume import Grid


@dataclass(frozen=True)
class SolidFemur:
    """Sphere, waisted neck, shaft and two trochanters; axes x lateral (away from the head), y to the back, z up.

    The head centre is the origin. `truth` and `contains` work in that frame; `pose` carries it to LPS.
    """

    head_radius_mm: float = 24.0
    neck_shaft_deg: float = 127.0
    anteversion_deg: float = 14.0
    shaft_radius_mm: float = 14.5
    side: str = "right"
    rotation: Rotation = field(default_factory=Rotation.identity)
    centre_lps_mm: tuple[float, float, float] = (-95.0, 10.0, -40.0)

    @property
    def neck_axis(self) -> np.ndarray:
        down = np.radians(180 - self.neck_shaft_deg)
        back = np.radians(self.anteversion_deg)
        return np.array([np.sin(down) * np.cos(back), np.sin(down) * np.sin(back), -np.cos(down)])

    @property
    def corner(self) -> np.ndarray:
        """Where neck and shaft axes meet."""
        return 54.0 * self.neck_axis

    @property
    def lesser_trochanter(self) -> np.ndarray:
        """Centre of the bump: behind and towards the head, 45 mm below the corner's level."""
        return self.corner + np.array([-13.0, 11.0, -34.0])

    def contains(self, p: np.ndarray) -> np.ndarray:
        along = p @ self.neck_axis
        off = np.linalg.norm(p - along[..., None] * self.neck_axis, axis=-1)
        waist = np.minimum(0.63 * self.head_radius_mm + 0.01 * (along - 27.0) ** 2, 0.85 * self.head_radius_mm)
        neck = (along > 0) & (along < 54) & (off < waist)
        head = np.linalg.norm(p, axis=-1) < self.head_radius_mm
        q = p - self.corner
        # The shaft widens upwards into the trochanteric region.
        wide = self.shaft_radius_mm + np.clip((q[..., 2] + 25.0) / 40.0, 0, 1) * 4.0
        shaft = (np.linalg.norm(q[..., :2], axis=-1) < wide) & (q[..., 2] < 12)
        greater = (((q - np.array([9.0, 6.0, 8.0])) / np.array([13.0, 15.0, 20.0])) ** 2).sum(axis=-1) < 1
        lesser = (((p - self.lesser_trochanter) / np.array([9.0, 9.0, 12.0])) ** 2).sum(axis=-1) < 1
        return head | neck | shaft | greater | lesser

    def to_lps(self, own: np.ndarray) -> np.ndarray:
        mirrored = np.asarray(own) * (np.array([1.0, 1, 1]) if self.side == "left" else np.array([-1.0, 1, 1]))
        return self.rotation.apply(mirrored.reshape(-1, 3)).reshape(mirrored.shape) + np.array(self.centre_lps_mm)

    def direction_to_lps(self, own: np.ndarray) -> np.ndarray:
        return self.to_lps(own) - self.to_lps(np.zeros(3))

    def mask(self, *, shaft_below_mm: float, spacing_mm: tuple[float, float, float] = (1.5, 1.0, 1.0)) -> tuple:
        """Mask that ends `shaft_below_mm` below the bump's lower end, on a grid with air about it."""
        bottom = self.lesser_trochanter[2] - 12.0 - shaft_below_mm
        corners = np.array(np.meshgrid([-40.0, 90.0], [-50.0, 70.0], [40.0, bottom], indexing="ij")).reshape(3, -1).T
        lps = self.to_lps(corners)
        low, high = lps.min(axis=0) - 4, lps.max(axis=0) + 4
        z, y, x = (int(np.ceil((high - low)[2 - a] / spacing_mm[a])) for a in range(3))
        matrix = np.eye(4)
        matrix[:3, :3] = np.array([[0, 0, spacing_mm[2]], [0, spacing_mm[1], 0], [spacing_mm[0], 0, 0]])
        matrix[:3, 3] = low
        grid = Grid((z, y, x), matrix)
        mirror = np.array([1.0, 1, 1]) if self.side == "left" else np.array([-1.0, 1, 1])
        inside = np.zeros(grid.shape, bool)
        for k in range(z):  # a plane at a time stays in the cache
            index = np.stack(np.meshgrid([k], np.arange(y), np.arange(x), indexing="ij"), axis=-1)[0]
            own = self.rotation.inv().apply((grid.to_lps(index) - np.array(self.centre_lps_mm)).reshape(-1, 3))
            own = own.reshape(index.shape) * mirror
            inside[k] = self.contains(own) & (own[..., 2] > bottom)
        return inside, grid


def _angle_deg(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))


@given(
    side=st.sampled_from(["left", "right"]),
    flexion_deg=st.floats(-15, 40),
    rotation_deg=st.floats(-30, 30),
    adduction_deg=st.floats(-15, 15),
    neck_shaft_deg=st.floats(120, 138),
    anteversion_deg=st.floats(0, 28),
    head_radius_mm=st.floats(21.5, 27.0),
)
@settings(deadline=None, max_examples=5, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_every_landmark_of_a_whole_femur_in_any_pose(
    side: str,
    flexion_deg: float,
    rotation_deg: float,
    adduction_deg: float,
    neck_shaft_deg: float,
    anteversion_deg: float,
    head_radius_mm: float,
) -> None:
    femur = SolidFemur(
        head_radius_mm=head_radius_mm,
        neck_shaft_deg=neck_shaft_deg,
        anteversion_deg=anteversion_deg,
        side=side,
        rotation=Rotation.from_euler("zyx", [rotation_deg, adduction_deg, flexion_deg], degrees=True),
    )
    mask, grid = femur.mask(shaft_below_mm=55.0)
    found = landmarks_from_mask(mask, grid, side)
    assert found.head_centre_lps_mm == pytest.approx(np.array(femur.centre_lps_mm), abs=0.6)
    assert found.head_radius_mm == pytest.approx(head_radius_mm, abs=0.4)
    assert found.neck_axis_lps is not None and found.neck_centre_lps_mm is not None
    assert _angle_deg(found.neck_axis_lps, femur.direction_to_lps(femur.neck_axis)) < 4.0
    # The waist is where the parabola has its vertex, 27 mm from the head centre.
    assert np.linalg.norm(found.neck_centre_lps_mm - femur.to_lps(27.0 * femur.neck_axis)) < 3.5
    assert found.shaft_axis_lps is not None and found.shaft_point_lps_mm is not None
    assert _angle_deg(found.shaft_axis_lps, femur.direction_to_lps(np.array([0, 0, -1.0]))) < 1.5
    to_shaft = found.shaft_point_lps_mm - femur.to_lps(femur.corner)
    assert np.linalg.norm(np.cross(to_shaft, femur.direction_to_lps(np.array([0, 0, -1.0])))) < 1.5
    assert found.lesser_trochanter_lps_mm is not None and found.lesser_trochanter_lower_edge_lps_mm is not None
    tip_truth = femur.to_lps(femur.lesser_trochanter + 9.0 * np.array([-13.0, 11.0, 0]) / np.hypot(13, 11))
    assert np.linalg.norm(found.lesser_trochanter_lps_mm - tip_truth) < 6.0
    down = femur.direction_to_lps(np.array([0, 0, -1.0]))
    lower_edge_below_bump_centre = (
        found.lesser_trochanter_lower_edge_lps_mm - femur.to_lps(femur.lesser_trochanter)
    ) @ down
    assert 5.0 < lower_edge_below_bump_centre < 15.0
    assert found.shaft_below_lesser_trochanter_mm == pytest.approx(55.0 + 12.0 - lower_edge_below_bump_centre, abs=4.0)
    assert found.greater_trochanter_lps_mm is not None
    lateral = femur.direction_to_lps(np.array([1.0, 0, 0]))
    assert (found.greater_trochanter_lps_mm - femur.to_lps(femur.corner)) @ lateral == pytest.approx(22.0, abs=3.0)


def test_what_the_field_of_view_does_not_show_is_none() -> None:
    femur = SolidFemur()
    mask, grid = femur.mask(shaft_below_mm=30.0)
    head_only = mask.copy()
    neck_level = grid.to_index(femur.to_lps(20.0 * femur.neck_axis))[0]
    head_only = head_only[int(neck_level) :]
    matrix = grid.index_to_lps.copy()
    matrix[:3, 3] = grid.to_lps(np.array([int(neck_level), 0.0, 0.0]))
    found = landmarks_from_mask(head_only, Grid(head_only.shape, matrix), "right")
    assert found.head_radius_mm == pytest.approx(24.0, abs=0.5)
    assert found.neck_centre_lps_mm is None and found.shaft_axis_lps is None
    assert found.lesser_trochanter_lps_mm is None and found.shaft_below_lesser_trochanter_mm is None


def test_the_lower_edge_of_the_lesser_trochanter_is_not_guessed_when_the_mask_ends_in_it() -> None:
    femur = SolidFemur()
    mask, grid = femur.mask(shaft_below_mm=-9.0)
    found = landmarks_from_mask(mask, grid, "right")
    assert found.lesser_trochanter_lower_edge_lps_mm is None
    assert found.shaft_below_lesser_trochanter_mm is None


@pytest.mark.parametrize("shaft_below_mm", [20.0, 40.0, 120.0])
def test_the_length_of_shaft_below_the_lesser_trochanter(shaft_below_mm: float) -> None:
    mask, grid = SolidFemur().mask(shaft_below_mm=shaft_below_mm)
    found = landmarks_from_mask(mask, grid, "right")
    assert found.shaft_below_lesser_trochanter_mm == pytest.approx(shaft_below_mm, abs=3.0)


def test_a_mask_without_a_round_head_is_refused() -> None:
    matrix = np.eye(4)[[2, 1, 0, 3]]
    box = np.zeros((60, 60, 60), dtype=bool)
    box[10:50, 5:55, 25:33] = True
    with pytest.raises(NotMeasurable, match="round enough") as refused:
        landmarks_from_mask(box, Grid(box.shape, matrix), "left")
    assert refused.value.reason == "head_not_found"
    with pytest.raises(NotMeasurable):
        landmarks_from_mask(np.zeros_like(box), Grid(box.shape, matrix), "left")
    with pytest.raises(ValueError, match="side"):
        landmarks_from_mask(box, Grid(box.shape, matrix), "L")
