"""Levels that the user pins to a height, applied to masks from elsewhere: what the user says comes first."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import InputRefused, Severity
from pipeline.segmentation.mask_levels import apply_pins
from pipeline.segmentation.model import LABEL_OF, LEVELS, BodyFrame, Segmentation, Vertebra
from pipeline.volume import Grid

PITCH_MM = 34.0


def spine(*names: str, gap_after: str | None = None) -> Segmentation:
    """Bodies of one voxel of 34 mm each, from cranial to caudal; one voxel stays empty after `gap_after`."""
    rows: list[str | None] = []
    for name in names:
        rows += [name, None] if name == gap_after else [name]
    grid = Grid((len(rows), 1, 1), np.diag([PITCH_MM] * 3 + [1.0])[[2, 1, 0, 3]])
    labels = np.zeros(grid.shape, np.uint8)
    vertebrae = []
    for k, name in zip(range(len(rows) - 1, -1, -1), rows, strict=True):
        if name is None:
            continue
        labels[k] = LABEL_OF[f"vertebra_{name}"]
        axes = np.eye(3)
        frame = BodyFrame(np.array([0.0, 0.0, k * PITCH_MM]), axes[0], axes[1], axes[2])
        level = name if name in LEVELS else None
        vertebrae.append(Vertebra(f"vertebra_{name}", level, int(labels[k, 0, 0]), frame, None, 40.0, 30.0, 1.0))
    return Segmentation(labels, grid, tuple(vertebrae), arches=labels.copy())


def height(segmentation: Segmentation, name: str) -> float:
    return next(float(v.frame.centre_lps_mm[2]) for v in segmentation.vertebrae if v.name == f"vertebra_{name}")


def names(segmentation: Segmentation) -> list[str]:
    return [v.name.removeprefix("vertebra_") for v in segmentation.vertebrae]


def test_a_pin_that_agrees_changes_nothing() -> None:
    before = spine("T12", "L1", "L2")
    after = apply_pins(before, {"L1": height(before, "L1") + 10.0})
    assert names(after) == ["T12", "L1", "L2"]
    np.testing.assert_array_equal(after.labels, before.labels)
    assert [(f.code, f.severity) for f in after.findings] == [("level_anchor", Severity.INFO)]


def test_a_pin_renames_every_body_and_says_so() -> None:
    before = spine("T12", "L1", "L2")
    after = apply_pins(before, {"L1": height(before, "T12")})
    assert names(after) == ["L1", "L2", "L3"]
    assert [v.level for v in after.vertebrae] == ["L1", "L2", "L3"]
    expected = [LABEL_OF[f"vertebra_{level}"] for level in ("L3", "L2", "L1")]
    assert after.labels.ravel().tolist() == expected, "array axis 0 runs to the head"
    assert after.arches is not None
    assert after.arches.ravel().tolist() == expected
    (finding,) = after.findings
    assert (finding.code, finding.severity) == ("levels_renumbered", Severity.WARNING)
    assert "T12 to L1" in finding.text


def test_bodies_without_names_are_counted_but_not_across_a_gap() -> None:
    before = spine("u1", "u2", "u3", "u4", "u5", gap_after="u3")
    after = apply_pins(before, {"L1": height(before, "u2")})
    assert names(after) == ["T12", "L1", "L2", "u4", "u5"]
    assert [v.level for v in after.vertebrae] == ["T12", "L1", "L2", None, None]


def test_a_gap_in_the_names_of_the_masks_is_kept() -> None:
    before = spine("T11", "L1", "L2", gap_after="T11")
    assert names(apply_pins(before, {"L1": height(before, "L2")})) == ["T10", "T12", "L1"]


def test_counting_does_not_cross_a_thirteenth_thoracic_vertebra() -> None:
    before = spine("T11", "T12", "T13", "u4", "u5")
    after = apply_pins(before, {"L1": height(before, "u4")})
    assert names(after) == ["T11", "T12", "T13", "L1", "L2"]


def test_what_is_counted_beyond_the_last_level_has_no_name() -> None:
    before = spine("L3", "L4", "L5")
    assert names(apply_pins(before, {"L4": height(before, "L3")})) == ["L4", "L5", "u3"]


@pytest.mark.parametrize(
    ("pins", "reason"),
    [
        ({"L1": 500.0}, "pin_outside_bodies"),
        ({"L1": 2 * PITCH_MM, "L3": PITCH_MM}, "contradicting_levels"),
        ({"X9": 0.0}, "unknown_level"),
    ],
)
def test_pins_that_cannot_be_right_are_refused(pins: dict[str, float], reason: str) -> None:
    with pytest.raises(InputRefused) as refusal:
        apply_pins(spine("T12", "L1", "L2"), pins)
    assert refusal.value.reason == reason


def test_a_pin_against_a_thirteenth_thoracic_vertebra_is_refused() -> None:
    before = spine("T11", "T12", "T13", "u4")
    with pytest.raises(InputRefused) as refusal:
        apply_pins(before, {"L1": height(before, "T12")})
    assert refusal.value.reason == "contradicting_levels"
