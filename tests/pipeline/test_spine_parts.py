"""The parts of the spine chain against closed forms, and every check of its quality gate made to fire."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from pipeline.errors import InputRefused, Severity
from pipeline.segmentation.model import BodyFrame, Vertebra
from pipeline.segmentation.spine.body import ANGLES, HEIGHTS, BodyModel, rasterise
from pipeline.segmentation.spine.canal import relative_hu
from pipeline.segmentation.spine.cortex import SHELL_MM, blur_sd_mm, outer_face_mm
from pipeline.segmentation.spine.discs import Disc
from pipeline.segmentation.spine.landmarks import LevelSigns
from pipeline.segmentation.spine.levels import Naming, level_above, level_findings, name_from_pins, name_levels
from pipeline.segmentation.spine.quality import Repeat, judge_bodies, small_skeleton_findings
from pipeline.volume import Grid, Volume

# --- where the cortex is -----------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    face=st.floats(-1.8, 0.6),
    cortex_hu=st.floats(450.0, 1500.0),
    inside=st.floats(-20.0, 300.0),
    outside=st.floats(-50.0, 90.0),
    blur=st.floats(0.6, 1.8),
)
def test_the_outer_face_of_a_blurred_shell_is_found(face, cortex_hu, inside, outside, blur):
    """A shell, a step and a Gaussian have a closed form; the steepest edge of it lies up to a millimetre farther out."""
    x = np.arange(-4.0, 3.01, 0.5)
    profile = (
        outside
        + (inside - outside) * ndtr((face - x) / blur)
        + (cortex_hu - inside) * (ndtr((face - x) / blur) - ndtr((face - SHELL_MM - x) / blur))
    )
    assert outer_face_mm(x, profile, blur) == pytest.approx(face, abs=0.12)


def test_blur_grows_with_the_voxels():
    assert blur_sd_mm(1.0, 1.0) < blur_sd_mm(2.0, 1.0) < blur_sd_mm(5.0, 1.0)


def test_relative_hu_stretches_bone_only():
    hu = np.array([-1000.0, -100.0, 40.0, 240.0], np.float32)
    assert relative_hu(hu, 0.5).tolist() == [-1000.0, -100.0, 40.0, 440.0]
    assert relative_hu(hu, 1.0).tolist() == hu.tolist()


# --- a body of which everything is known -------------------------------------------------------------------------------------


def _body(z_mm: float = 0.0, *, radius: float = 20.0, height: float = 26.0, **changes) -> BodyModel:
    lattice = np.arange(-30.0, 30.1, 1.5)
    flat = np.zeros((len(lattice), len(lattice)))
    frame = BodyFrame(np.array([0.0, 0.0, z_mm]), np.eye(3)[0], np.eye(3)[1], np.eye(3)[2])
    model = BodyModel(
        frame, np.full((ANGLES, HEIGHTS), radius), lattice, lattice, flat - height / 2, flat + height / 2,
        wall_edge_hu=170.0, lower_edge_hu=120.0, upper_edge_hu=120.0, far_from_template=0.0, unseen=0.0,
    )  # fmt: skip
    return replace(model, **changes)


def _disc(z_mm: float, *, response: float = 120.0, merged: bool = False) -> Disc:
    return Disc(0.0, np.array([0.0, 0.0, z_mm]), np.eye(3)[2], 4.0, merged, response, (0.0, 0.0), 42.0)


def _volume(slice_mm: float = 1.5, hu: float = 150.0) -> Volume:
    shape = (int(260 / slice_mm), 60, 60)
    matrix = np.array(
        [[0, 0, 1.5, -44.25], [0, 1.5, 0, -44.25], [slice_mm, 0, 0, -0.5 * slice_mm * shape[0]], [0, 0, 0, 1.0]]
    )
    return Volume(np.full(shape, hu, np.int16), Grid(shape, matrix))


@settings(max_examples=15, deadline=None)
@given(radius=st.floats(12.0, 24.0), height=st.floats(12.0, 30.0), tilt=st.floats(0.15, 0.4))
def test_a_cylinder_is_rasterised_with_its_volume(radius: float, height: float, tilt: float):
    superior = np.array([0.0, np.sin(tilt), np.cos(tilt)])
    posterior = np.array([0.0, np.cos(tilt), -np.sin(tilt)])
    model = _body(radius=radius, height=height)
    model = replace(model, frame=BodyFrame(np.array([0.3, -0.2, 0.1]), np.eye(3)[0], posterior, superior))
    edge = 0.8
    matrix = np.array([[0, 0, edge, -30.1], [0, edge, 0, -30.3], [edge, 0, 0, -30.7], [0, 0, 0, 1.0]])
    _, mask = rasterise(model, Grid((77, 77, 77), matrix), margin_mm=0.0)
    assert mask.sum() * edge**3 == pytest.approx(np.pi * radius**2 * height, rel=0.03)
    assert model.volume_mm3 == pytest.approx(np.pi * radius**2 * height, rel=0.03)
    assert model.width_mm == pytest.approx(2 * radius, rel=0.01)
    assert model.height_mm == pytest.approx(height, rel=0.01)


# --- the quality gate --------------------------------------------------------------------------------------------------------


def _codes(volume: Volume, bodies: list[BodyModel], discs: list[Disc], dice: list[float] | None = None):
    masks = [rasterise(b, volume.grid) for b in bodies]
    repeats = [Repeat(d) for d in dice or [0.98] * len(bodies)]
    judged = judge_bodies(volume, tuple(bodies), tuple(discs), masks, repeats)
    return [{f.code: f.severity for f in findings} for findings, _ in judged], [score for _, score in judged]


def _column(count: int = 5, pitch: float = 32.0) -> tuple[list[BodyModel], list[Disc]]:
    top = 0.5 * (count - 1) * pitch
    return (
        [_body(top - i * pitch) for i in range(count)],
        [_disc(top + 0.5 * pitch - i * pitch) for i in range(count + 1)],
    )


def test_a_column_of_good_bodies_passes_with_a_high_score():
    codes, scores = _codes(_volume(), *_column())
    assert codes == [{}] * 5
    assert min(scores) > 0.8


@pytest.mark.parametrize(
    ("change", "code", "severity"),
    [
        ({"unseen": 0.1}, "cut_by_field_of_view", Severity.FAILURE),
        ({"wall_edge_hu": 60.0}, "outline_uncertain", Severity.FAILURE),
        ({"upper_edge_hu": 20.0}, "outline_uncertain", Severity.FAILURE),
        ({"far_from_template": 0.2}, "outline_uncertain", Severity.WARNING),
    ],
)
def test_a_doubtful_surface_is_reported(change: dict, code: str, severity: Severity):
    bodies, discs = _column()
    bodies[2] = replace(bodies[2], **change)
    codes, scores = _codes(_volume(), bodies, discs)
    assert codes[2] == {code: severity}
    assert codes[1] == {}
    assert scores[2] < scores[1]


def test_a_disc_that_is_not_visible_warns_its_neighbours_and_two_of_them_fail_the_body_between():
    bodies, discs = _column()
    discs[2] = replace(discs[2], response_hu=10.0)
    codes, _ = _codes(_volume(), bodies, discs)
    assert codes[1] == codes[2] == {"disc_not_visible": Severity.WARNING}
    discs[3] = replace(discs[3], merged=True)
    codes, _ = _codes(_volume(), bodies, discs)
    assert codes[2]["disc_not_visible"] is Severity.FAILURE


def test_a_missed_disc_merges_two_bodies_and_fails():
    bodies, discs = _column(6)
    merged = _body(0.5 * (bodies[2].frame.centre_lps_mm[2] + bodies[3].frame.centre_lps_mm[2]), height=58.0)
    codes, _ = _codes(_volume(), [*bodies[:2], merged, *bodies[4:]], [*discs[:3], *discs[4:]])
    assert codes[2]["implausible_height"] is Severity.FAILURE
    assert all("implausible_height" not in codes[i] for i in (0, 1, 3, 4))


def test_a_disc_in_the_wrong_place_fails_the_bodies_on_both_sides():
    bodies, discs = _column()
    discs[2] = replace(discs[2], centre_lps_mm=discs[2].centre_lps_mm + np.array([0.0, 0.0, 12.0]))
    codes, _ = _codes(_volume(), bodies, discs)
    assert codes[1].get("implausible_height") is codes[2].get("implausible_height") is Severity.FAILURE


def test_a_last_body_that_is_cut_does_not_fail_its_neighbour():
    """Its lower disc lies beyond the scan, so that something else was taken for it."""
    bodies, discs = _column()
    discs[-1] = replace(discs[-1], centre_lps_mm=discs[-1].centre_lps_mm + np.array([0.0, 0.0, 4.0]))
    discs[-2] = replace(discs[-2], centre_lps_mm=discs[-2].centre_lps_mm - np.array([0.0, 0.0, 8.0]))
    whole, _ = _codes(_volume(), bodies, discs)
    assert whole[-2].get("implausible_height") is Severity.FAILURE
    cut, _ = _codes(_volume(), [*bodies[:-1], replace(bodies[-1], unseen=0.2)], discs)
    assert "implausible_height" not in cut[-2]
    assert cut[-1]["cut_by_field_of_view"] is Severity.FAILURE


def test_a_collapsed_body_is_kept_with_a_warning():
    bodies, discs = _column()
    bodies[2] = _body(bodies[2].frame.centre_lps_mm[2], height=11.0)
    codes, _ = _codes(_volume(), bodies, discs)
    assert codes[2]["collapsed_body"] is Severity.WARNING
    assert Severity.FAILURE not in codes[2].values()


def test_metal_in_a_body_fails_it_and_metal_beside_it_warns():
    bodies, discs = _column()
    volume = _volume()
    inside = volume.grid.to_index(np.array([0.0, 0.0, 0.0])).astype(int)
    hu = volume.hu.copy()
    hu[inside[0] - 2 : inside[0] + 3, inside[1] - 2 : inside[1] + 3, inside[2] - 2 : inside[2] + 3] = 3000
    assert _codes(replace(volume, hu=hu), bodies, discs)[0][2]["metal_or_cement"] is Severity.FAILURE
    beside = volume.grid.to_index(np.array([25.5, 0.0, 0.0])).astype(int)
    hu = volume.hu.copy()
    hu[beside[0] - 2 : beside[0] + 3, beside[1] - 2 : beside[1] + 3, beside[2] - 1 : beside[2] + 2] = 3000
    assert _codes(replace(volume, hu=hu), bodies, discs)[0][2] == {"metal_nearby": Severity.WARNING}


def test_cement_in_the_core_fails_the_body():
    bodies, discs = _column()
    volume = _volume()
    hu = volume.hu.copy()
    k, j, i = volume.grid.to_index(np.array([0.0, 0.0, 0.0])).astype(int)
    hu[k - 5 : k + 6, j - 5 : j + 6, i - 5 : i + 6] = 1400
    assert _codes(replace(volume, hu=hu), bodies, discs)[0][2] == {"metal_or_cement": Severity.FAILURE}


@pytest.mark.parametrize(("dice", "severity"), [(0.92, Severity.WARNING), (0.7, Severity.FAILURE)])
def test_an_outline_that_does_not_come_again_is_reported(dice: float, severity: Severity):
    codes, scores = _codes(_volume(), *_column(), [0.98, 0.98, dice, 0.98, 0.98])
    assert codes[2] == {"outline_unstable": severity}
    assert scores[2] < 0.8 * scores[1]


def test_thick_slices_warn_about_heights():
    codes, _ = _codes(_volume(slice_mm=5.0), *_column())
    assert all(c == {"thick_slices": Severity.WARNING} for c in codes)


# --- levels ------------------------------------------------------------------------------------------------------------------

_LEVELS = [*(f"T{i}" for i in range(8, 13)), *(f"L{i}" for i in range(1, 6))]
_WIDTHS = dict(zip(_LEVELS, [31.0, 33.0, 35.0, 37.0, 40.0, 42.0, 44.0, 47.0, 49.0, 51.0], strict=True))
_REACH = dict(zip(_LEVELS, [100.0, 100.0, 100.0, 90.0, 72.0, 38.0, 41.0, 46.0, 44.0, 46.0], strict=True))


def _signs(levels: list[str], *, sacrum: bool, cut: bool = False) -> list[LevelSigns]:
    rows = [LevelSigns((_REACH[lv], _REACH[lv]), (cut, cut), _WIDTHS[lv], 0) for lv in levels]
    return [*rows, LevelSigns((0.0, 0.0), (True, True), 48.0, 4 if sacrum else 0)]


def test_sacrum_and_last_rib_that_agree_name_every_body():
    naming = name_levels(_signs(_LEVELS, sacrum=True), plausible=[True] * 11)
    assert naming.levels == (*_LEVELS, "S1")
    assert naming.anchor == "sacrum and last rib"
    assert min(c for c in naming.confidence if c is not None) > 0.95


def test_what_hangs_on_a_level_is_told():
    """One landmark leaves room for a transitional vertebra: how much, and what would change, stands in the finding."""
    sure = Naming(("L5",), (0.99,), ({},), "sacrum and last rib")
    likely = Naming(("L5",), (0.94,), ({"L4": 0.03, "S1": 0.03},), "sacrum")
    doubtful = Naming((None,), (None,), ({"L5": 0.6, "L4": 0.4},), "sacrum", "six bodies", "level_uncertain")
    texts = [level_findings(naming)[0].text for naming in (sure, likely, doubtful)]
    assert "off by one" not in texts[0]
    assert "probability of 0.06" in texts[1]
    assert all("mean of L1 and L2" in text for text in texts[1:])


@pytest.mark.parametrize(("width_mm", "told"), [(27.0, True), (36.0, False)])
def test_the_spine_of_a_child_is_told(width_mm: float, told: bool):
    frame = BodyFrame(np.zeros(3), np.eye(3)[0], np.eye(3)[1], np.eye(3)[2])
    bodies = [Vertebra(f"vertebra_L{i}", f"L{i}", 19 + i, frame, None, width_mm, 24.0, 1.0) for i in (1, 2, 3)]
    assert bool(small_skeleton_findings(bodies)) is told
    assert not small_skeleton_findings([replace(b, level=None) for b in bodies]), "thoracic bodies may be as small"


def test_the_sacrum_alone_names_with_room_for_a_transitional_vertebra():
    naming = name_levels(_signs(_LEVELS[-4:], sacrum=True), plausible=[True] * 5)
    assert naming.levels == ("L2", "L3", "L4", "L5", "S1")
    assert all(c is not None and 0.9 <= c <= 0.96 for c in naming.confidence[:-1])
    assert naming.confidence[-1] is not None
    assert naming.confidence[-1] > 0.96, "the sacrum itself is no matter of counting"
    assert {"L1", "L3"} <= set(naming.alternatives[0])


@pytest.mark.parametrize("extra", [["L5"], []], ids=["six lumbar", "four lumbar"])
def test_a_count_that_is_not_five_names_nothing(extra: list[str]):
    levels = [*_LEVELS, *extra] if extra else [lv for lv in _LEVELS if lv != "L3"]
    naming = name_levels(_signs(levels, sacrum=True), plausible=[True] * (len(levels) + 1))
    assert set(naming.levels) == {None}
    assert naming.code == "level_uncertain"
    assert "transitional" in naming.reason
    assert naming.sacrum_from == len(levels)
    assert all(naming.alternatives)


def test_without_an_anchor_nothing_is_named_however_likely():
    naming = name_levels(_signs(_LEVELS[-5:], sacrum=False), plausible=[True] * 6)
    assert set(naming.levels) == {None}
    assert naming.code == "level_unknown"
    ribs_cut = name_levels(_signs(_LEVELS, sacrum=False, cut=True), plausible=[True] * 11)
    assert set(ribs_cut.levels) == {None}
    assert "field of view" in ribs_cut.reason


def test_no_level_is_counted_across_a_doubtful_body():
    plausible = [True] * 11
    plausible[6] = False
    naming = name_levels(_signs(_LEVELS, sacrum=True), plausible=plausible)
    assert naming.levels[7:] == ("L3", "L4", "L5", "S1")
    assert naming.levels[6] is None


def test_a_cut_body_is_named_by_its_neighbour_but_not_counted_across():
    plausible, cut = [True] * 11, [False] * 11
    plausible[1], cut[1] = False, True
    naming = name_levels(_signs(_LEVELS, sacrum=True), plausible=plausible, cut=cut)
    assert naming.levels == (None, *_LEVELS[1:], "S1")


def test_one_more_body_above_is_named_only_if_the_one_below_it_is():
    named = level_above(name_levels(_signs(_LEVELS[-4:], sacrum=True), plausible=[True] * 5))
    assert named.levels == ("L1", "L2", "L3", "L4", "L5", "S1")
    assert named.confidence[0] == named.confidence[1]
    assert {"T12", "L2"} <= set(named.alternatives[0])
    assert named.sacrum_from == 5
    unnamed = level_above(name_levels(_signs(_LEVELS[-5:], sacrum=False), plausible=[True] * 6))
    assert set(unnamed.levels) == {None}


def test_a_pin_is_counted_from_in_both_directions_and_conflicts_are_told():
    naming = name_from_pins(5, {2: "T12"}, None)
    assert naming.levels == ("T10", "T11", "T12", "L1", "L2")
    assert not naming.code
    wrong = name_from_pins(3, {1: "L4"}, 2)
    assert wrong.code == "level_conflict"
    with pytest.raises(InputRefused):
        name_from_pins(3, {0: "L1", 1: "L3"}, None)
