"""Levels of vertebral bodies: every way of counting is weighed, ribs are followed, and no name is given without a landmark."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from benchmarks.segmentation_levels import PEOPLE, fields, rows_of, scan_of
from pipeline.errors import Severity
from pipeline.segmentation.spine import segment_spine
from pipeline.segmentation.spine.anatomy import anatomies, weigh
from pipeline.segmentation.spine.landmarks import SACRAL_SIGNS, LevelSigns
from pipeline.segmentation.spine.levels import Naming, level_findings, name_from_pins, name_levels
from pipeline.segmentation.spine.ribs import Rib, follow_rib
from pipeline.volume import Grid, Volume

_USUAL = [*(f"T{i}" for i in range(7, 13)), *(f"L{i}" for i in range(1, 6))]
_WIDTH_MM = dict(zip(_USUAL, [30.0, 31.0, 33.0, 35.0, 37.0, 40.0, 42.0, 44.0, 47.0, 49.0, 51.0], strict=True))
_PROCESS_MM = {"T12": 34.0, "L1": 36.0, "L2": 41.0, "L3": 47.0, "L4": 44.0, "L5": 46.0}
_RIB_LENGTH_MM = {7: 280.0, 8: 265.0, 9: 245.0, 10: 220.0, 11: 165.0, 12: 100.0, 13: 62.0}


def _bearing(level: str, rib: int | None) -> LevelSigns:
    """Signs of a body of this shape, with this rib or none."""
    reach = _PROCESS_MM.get(level, 34.0) if rib is None else min(25.0 + 0.7 * _RIB_LENGTH_MM[rib], 108.0)
    length = 15.0 if rib is None else _RIB_LENGTH_MM[rib]
    return LevelSigns(
        (reach, reach), (False, False), _WIDTH_MM[level], 0, (Rib(length, False), Rib(length - 4.0, False))
    )


def _sacrum(signs: int = 4) -> LevelSigns:
    return LevelSigns((0.0, 0.0), (True, True), 48.0, signs)


def _people(count: str) -> tuple[list[LevelSigns], list[str]]:
    """Signs from T7 to the sacrum, and the true levels."""
    ribs = {"eleven": 11, "thirteen": 13}.get(count, 12)
    lumbar = {"four": ["L1", "L2", "L4", "L5"], "six": ["L1", "L2", "L3", "L3", "L4", "L5"]}.get(count, _USUAL[6:])
    rows = [_bearing(f"T{i}", i if i <= ribs else None) for i in range(7, 13)]
    rows += [_bearing(shape, 13 if ribs == 13 and i == 0 else None) for i, shape in enumerate(lumbar)]
    truth = [*(f"T{i}" for i in range(7, 13)), *(f"L{i + 1}" for i in range(len(lumbar)))]
    return [*rows, _sacrum()], [*truth, "S1"]


# --- how people are counted ---------------------------------------------------------------------------------------------------


def test_the_anatomies_cover_what_is_known_of_variants():
    """Frequencies add up to 1; vertebrae above the sacrum look like 24 in 374 of 418 people (Tins and Balain 2016)."""
    assert sum(a.frequency for a in anatomies()) == pytest.approx(1.0)
    assert sum(a.frequency for a in anatomies() if a.presacral == 24) == pytest.approx(374 / 418, abs=0.01)
    six = next(a for a in anatomies() if a.presacral == 25 and a.rib_pairs == 12)
    assert six.levels[-7:-4] == ("L5", "L6", "S1")
    assert six.description == "six lumbar vertebrae"
    thirteen = next(a for a in anatomies() if a.presacral == 24 and a.rib_pairs == 13)
    assert (thirteen.rib_number("L1"), thirteen.rib_number("L2"), thirteen.rib_number("S1")) == (13, None, None)


def test_the_usual_count_is_named_from_both_landmarks():
    signs, truth = _people("usual")
    naming = name_levels(signs, plausible=[True] * len(signs))
    assert list(naming.levels) == truth
    assert naming.anchor == "sacrum and last rib"
    assert min(c for c in naming.confidence if c is not None) > 0.95


@pytest.mark.parametrize("count", ["four", "six", "eleven", "thirteen"])
def test_a_variant_in_full_view_is_not_named_and_its_true_count_is_likely(count: str):
    signs, truth = _people(count)
    naming = name_levels(signs, plausible=[True] * len(signs))
    assert set(naming.levels) == {None}
    assert naming.code == "level_uncertain"
    assert all(naming.alternatives[i][level] > 0.5 for i, level in enumerate(truth[:-1]))
    text = level_findings(naming)[0].text
    assert "the mean of L1 and L2 would be that of" in text
    assert "probability" in text


@pytest.mark.parametrize(("count", "called"), [("six", "L6"), ("four", "L4")])
def test_a_variant_that_cannot_be_seen_is_told_as_an_alternative_as_likely_as_it_is(count: str, called: str):
    """With the sacrum alone in view, L5 is what is on the sacrum in nine of ten people, and so much is said."""
    signs, _ = _people(count)
    naming = name_levels(signs[-4:], plausible=[True] * 4)
    assert naming.levels == ("L3", "L4", "L5", "S1")
    assert naming.confidence[2] is not None
    assert 0.83 < naming.confidence[2] < 0.93
    assert 0.02 < naming.alternatives[2][called] < 0.10
    text = level_findings(naming)[0].text
    assert f"{count} lumbar vertebrae" in text
    assert level_findings(naming)[0].severity is Severity.WARNING or min(naming.confidence[:-1]) >= 0.9


def test_ribs_that_are_each_one_too_short_or_too_long_are_not_counted_from():
    """Without the sacrum, eleven or thirteen pairs are told by the lengths of the last ribs; their end is then no landmark."""
    for count in ("eleven", "thirteen"):
        signs, truth = _people(count)
        part = signs[:-3]
        naming = name_levels(part, plausible=[True] * len(part))
        assert set(naming.levels) == {None}
        assert naming.alternatives[0][truth[0]] > 0.1
    signs, truth = _people("usual")
    naming = name_levels(signs[:-3], plausible=[True] * (len(signs) - 3))
    assert list(naming.levels) == truth[:-3]
    assert naming.anchor == "last rib"
    short = [replace(s, reach_mm=(55.0, 62.0)) if level == "T12" else s for s, level in zip(signs, truth, strict=True)]
    naming = name_levels(short[:-3], plausible=[True] * (len(signs) - 3))
    assert set(naming.levels) == {None}, "a short rib may be that of L1"
    assert naming.alternatives[0][truth[0]] > 0.8


def test_without_the_length_of_ribs_the_reach_alone_still_counts():
    signs, truth = _people("usual")
    naming = name_levels([replace(s, ribs=(None, None)) for s in signs], plausible=[True] * len(signs))
    assert list(naming.levels) == truth


def test_nothing_is_concluded_from_beyond_a_doubtful_body():
    """Ribs above a body that may be two do not help to count what lies below it."""
    signs, _ = _people("usual")
    plausible = [True] * len(signs)
    plausible[4] = False
    naming = name_levels(signs[:-3], plausible=plausible[:-3])
    assert naming.levels[:5] == (None,) * 5
    alone = name_levels(signs[5:-3], plausible=[True] * (len(signs) - 8))
    assert naming.levels[5:] == alone.levels
    assert naming.confidence[5:] == alone.confidence
    assert naming.alternatives[5:] == alone.alternatives


def test_rows_that_contradict_each_other_name_nothing():
    """Between the last rib and the sacrum lie a doubtful body and two more lumbar ones than there can be."""
    signs, _ = _people("usual")
    too_many = [*signs[:8], signs[8], signs[8], signs[8], *signs[8:]]
    plausible = [True] * len(too_many)
    plausible[8] = False
    naming = name_levels(too_many, plausible=plausible)
    assert set(naming.levels) == {None}
    assert "do not fit" in naming.reason


def test_a_disc_that_may_only_pass_for_the_one_above_the_sacrum_names_nothing():
    """The disc below looks even more like it, or the one above nearly does. Ribs that agree settle the first."""
    signs, truth = _people("usual")
    too_high = [*signs[:-1], replace(_sacrum(SACRAL_SIGNS), may_begin_lower=True)]
    too_low = [*signs[:-2], replace(signs[-2], sacral_signs=SACRAL_SIGNS - 1), signs[-1]]
    for doubtful, said in ((too_high, "one body lower"), (too_low, "looks like S1")):
        naming = name_levels(doubtful[-4:], plausible=[True] * 4)
        assert set(naming.levels) == {None}
        assert said in naming.reason
    assert list(name_levels(too_high, plausible=[True] * len(too_high)).levels) == truth


def test_the_end_of_the_scan_below_a_disc_is_no_sign_against_the_sacrum():
    """Where nothing below the last disc is in view, the sacrum may begin there."""
    signs, _ = _people("usual")
    part = signs[6:-1]
    seen = {h.levels[-1]: 0.0 for h in weigh([*part, _sacrum(0)])}
    unseen = dict(seen)
    for hypothesis in weigh([*part, _sacrum(0)]):
        seen[hypothesis.levels[-1]] += hypothesis.probability
    for hypothesis in weigh([*part, replace(_sacrum(0), below_in_view=False)]):
        unseen[hypothesis.levels[-1]] += hypothesis.probability
    assert seen["S1"] < 0.5 * unseen["S1"]


@st.composite
def _seen(draw: st.DrawFn) -> list[LevelSigns]:
    rows = []
    for _ in range(draw(st.integers(1, 14))):
        length = draw(st.floats(0.0, 300.0))
        reach = draw(st.tuples(st.floats(0.0, 108.0), st.floats(0.0, 108.0)))
        cut = draw(st.tuples(st.booleans(), st.booleans()))
        rib = Rib(length, draw(st.booleans()))
        rows.append(LevelSigns(reach, cut, draw(st.floats(18.0, 60.0)), draw(st.integers(0, 4)), (rib, None)))
    return rows


@settings(max_examples=40, deadline=None)
@given(_seen(), st.data())
def test_whatever_is_seen_probabilities_are_probabilities(signs: list[LevelSigns], data: st.DataObject):
    plausible = data.draw(st.lists(st.booleans(), min_size=len(signs), max_size=len(signs)))
    naming = name_levels(signs, plausible=plausible)
    assert len(naming.levels) == len(naming.confidence) == len(naming.alternatives) == len(signs)
    for level, confidence, others in zip(naming.levels, naming.confidence, naming.alternatives, strict=True):
        assert (level is None) == (confidence is None)
        assert level not in others
        assert sum(others.values()) + (confidence or 0.0) <= 1.01
        assert confidence is None or 0.8 <= confidence <= 0.99
    named = [level for level in naming.levels if level is not None]
    assert not named or naming.anchor, "a name without a landmark"
    assert len(set(named)) == len(named)


@pytest.mark.parametrize(("more", "on_the_sacrum"), [(1, "L6"), (-1, "L4"), (0, "L5")])
def test_a_pin_and_the_sacrum_tell_how_many_lumbar_vertebrae_there_are(more: int, on_the_sacrum: str):
    naming: Naming = name_from_pins(7 + more, {0: "T12"}, 6 + more)
    assert naming.levels[5 + more : 7 + more] == (on_the_sacrum, "S1")
    assert (naming.code == "level_conflict") is bool(more)
    assert (on_the_sacrum in naming.reason) is bool(more)


# --- ribs ---------------------------------------------------------------------------------------------------------------------


def _bone_along(points_mm: np.ndarray, *, gap_mm: tuple[float, float] = (0.0, 0.0)) -> tuple[np.ndarray, Grid]:
    """A rod of 9 mm about a line on a 2 mm grid, left out where the line has run so far."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[0.0, 0.0, 2.0], [0.0, 2.0, 0.0], [2.0, 0.0, 0.0]])
    grid = Grid((70, 110, 90), matrix)
    run = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points_mm, axis=0), axis=1))])
    left_out = (run > gap_mm[0]) & (run < gap_mm[1])
    away = np.ones(grid.shape, bool)
    away[tuple(np.rint(grid.to_index(points_mm[~left_out])).astype(int).T)] = False
    hu = np.where(ndimage.distance_transform_edt(away, sampling=2.0) < 4.5, 500.0, -20.0).astype(np.float32)
    return hu, grid


def _arc(length_mm: float) -> np.ndarray:
    """A rib that sets off to the left, turns forward and sinks."""
    t = np.arange(0.0, length_mm, 1.0)
    angle = t / 90.0
    line = np.stack([30.0 + 80.0 * np.sin(angle), 90.0 + 80.0 * np.cos(angle), 110.0 - 0.4 * t], axis=1)
    return np.asarray(line)


_OUTWARD = np.array([0.95, 0.2, -0.2]) / np.linalg.norm([0.95, 0.2, -0.2])


@pytest.mark.parametrize("length_mm", [40.0, 100.0, 160.0])
def test_a_rib_is_followed_to_its_tip(length_mm: float):
    line = _arc(length_mm)
    hu, grid = _bone_along(line)
    known = float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum()) - 8.0
    rib = follow_rib(hu, grid, [(line[8], 10.0)], _OUTWARD, bone_hu=160.0)
    assert not rib.cut_off
    assert rib.length_mm == pytest.approx(10.0 + known, rel=0.08, abs=8.0)


def test_a_rib_that_leaves_the_scan_is_told_as_cut():
    line = _arc(60.0)
    hu, grid = _bone_along(line)
    rib = follow_rib(hu[:, :, :38], Grid((70, 110, 38), grid.index_to_lps), [(line[8], 10.0)], _OUTWARD, bone_hu=160.0)
    assert rib.cut_off


def test_a_start_in_the_gap_of_a_joint_is_made_up_for_by_another():
    line = _arc(120.0)
    hu, grid = _bone_along(line, gap_mm=(14.0, 40.0))
    short = follow_rib(hu, grid, [(line[6], 10.0)], _OUTWARD, bone_hu=160.0)
    both = follow_rib(hu, grid, [(line[6], 10.0), (line[46], 50.0)], _OUTWARD, bone_hu=160.0)
    assert short.length_mm < 40.0
    assert both.length_mm > 100.0


# --- images -------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("title", ["small woman, 2 mm", "six lumbar, woman, 2 mm", "11 ribs, woman, 2 mm"])
def test_no_phantom_gets_a_wrong_name_where_the_landmarks_are_in_view(title: str):
    person = next(p for p in PEOPLE if p.title == title)
    parts = dict(fields(scan_of(person), seed=person.seed))
    for field in ("whole", "left-right mirrored", "upside down", "chest only"):
        part = parts[field]
        rows = rows_of(segment_spine(part.volume, threads=2), part)
        assert all(row["named"] in (None, row["truth"]) for row in rows)
        if field == "whole" and person.count == "usual":
            assert sum(row["named"] is not None for row in rows) >= 9
        elif field == "whole":
            assert all(row["named"] is not None or row["alternatives"][row["truth"]] > 0.3 for row in rows)


@pytest.mark.slow
@pytest.mark.realdata
def test_the_true_level_of_an_unnamed_chest_is_among_its_alternatives(real_data):
    """The reference labels T12 in a scan whose field is too small to see where the ribs end."""
    from benchmarks.segmentation_spine import load

    folder = real_data("ts_thorax_cta_1p5mm")
    hu, matrix = load(folder / "ct.nii.gz")
    twelfth, _ = load(folder / "labels.nii.gz")
    result = segment_spine(Volume(hu, Grid(hu.shape, matrix)), threads=2)
    on_it = np.bincount(result.labels[twelfth == 1], minlength=64)
    on_it[0] = 0
    found = next(v for v in result.vertebrae if v.label == int(on_it.argmax()))
    assert found.level is None
    assert found.level_alternatives["T12"] > 0.15
