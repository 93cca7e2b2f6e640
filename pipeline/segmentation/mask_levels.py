"""Levels of outside masks: their order, transitional anatomy, and the level that the user pins to a height."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import Finding, InputRefused, Severity
from pipeline.segmentation.mask_place import Placed, centre_lps_mm
from pipeline.segmentation.model import LABEL_OF, LEVELS, Segmentation, Vertebra
from pipeline.volume import Grid

CANAL_ORDER = {f"T{i}": i for i in range(1, 14)} | {f"L{i}": 13 + i for i in range(1, 7)}
"""Levels that masks may carry, from cranial to caudal."""

_TRANSITIONAL = ("T13", "L6")
_LARGEST_STEP = 1.6
"""Of the usual distance of two bodies: beyond it one may be missing between them, and counting stops."""
_PITCH_MM = 30.0
_HALF_PITCH = 0.6


def ordered(whole: Mapping[str, Placed], stated: Mapping[str, Placed], grid: Grid, subject: str) -> list[str]:
    """Names from cranial to caudal by their places; the levels must be in that order.

    Raises
    ------
    InputRefused
        ``levels_out_of_order``.
    """
    names = list(dict.fromkeys((*whole, *stated)))
    height = {name: float(centre_lps_mm(whole.get(name) or stated[name], grid)[2]) for name in names}
    names.sort(key=lambda name: -height[name])
    levels = [CANAL_ORDER[name] for name in names if name in CANAL_ORDER]
    if levels != sorted(levels):
        raise InputRefused(
            "levels_out_of_order",
            f"from the head downwards the masks are named {', '.join(names)}.",
            subject=subject,
            remedy="The masks are upside down or the numbering is not the one that was assumed.",
        )
    return names


def renamed_below_transition(names: Sequence[str], findings: list[Finding]) -> dict[str, str]:
    """Structure names: below a thirteenth thoracic vertebra nothing can be named without a reader."""
    if "T13" not in names and "L6" not in names:
        return {name: f"vertebra_{name}" for name in names}
    which = "T13" if "T13" in names else "L6"
    text = f"The masks hold a {which}: the anatomy is transitional, so levels need a reader"
    below = names[names.index("T13") + 1 :] if "T13" in names else []
    findings.append(
        Finding(
            "transitional_anatomy",
            Severity.WARNING,
            f"{text}; the {len(below)} bodies below it are not named." if below else f"{text}.",
        )
    )
    return {name: f"vertebra_u{i + 1}" if name in below else f"vertebra_{name}" for i, name in enumerate(names)}


def tangents(placed: Sequence[Placed], grid: Grid) -> list[NDArray[np.float64]]:
    """Direction of the spine at each vertebra, to the head."""
    centres = [centre_lps_mm(p, grid) for p in placed]
    out = []
    for i in range(len(centres)):
        above, below = centres[max(i - 1, 0)], centres[min(i + 1, len(centres) - 1)]
        along = above - below
        out.append(along / np.linalg.norm(along) if np.linalg.norm(along) > 5.0 else np.array([0.0, 0.0, 1.0]))
    return out


def apply_pins(segmentation: Segmentation, pinned_levels: Mapping[str, float]) -> Segmentation:
    """The same structures under the levels that the user pinned: what the user says comes before the names of the masks.

    From the pinned body the others are counted. Between two bodies that the masks name, their own distance in levels counts;
    without names one step is one level, and counting stops where a body may be missing and at a T13 or L6.

    Parameters
    ----------
    segmentation : Segmentation
        From masks, vertebrae from cranial to caudal.
    pinned_levels : mapping of str to float
        Level name to the LPS z (mm) of a point inside that body.

    Returns
    -------
    Segmentation
        With the finding ``levels_renumbered`` (warning) where names of the masks were overruled, else ``level_anchor``.

    Raises
    ------
    InputRefused
        ``unknown_level``, ``pin_outside_bodies``, or ``contradicting_levels`` when two pins, or a pin and a T13 or L6 of the
        masks, cannot both be right.
    """
    bodies = segmentation.vertebrae
    steps = _steps(bodies)
    reached: dict[int, int] = {}
    for level, z_mm in pinned_levels.items():
        if level not in LEVELS:
            raise InputRefused(
                "unknown_level", f"is not one of {LEVELS[0]} to {LEVELS[-1]}.", subject=f"level '{level}'"
            )
        counted = _counted(_body_at(bodies, z_mm, level), LEVELS.index(level), steps)
        if any(reached.get(i, place) != place for i, place in counted.items()):
            raise _contradiction(list(pinned_levels))
        reached |= counted
    names = []
    for i, body in enumerate(bodies):
        level = LEVELS[reached[i]] if 0 <= reached.get(i, -1) < len(LEVELS) else ""
        # Where no pin reaches, the masks keep their say.
        name = f"vertebra_{level}" if i in reached else body.name
        names.append(name if name in LABEL_OF and "_u" not in name else f"vertebra_u{i + 1}")
    order = [CANAL_ORDER[level] for name in names if (level := name.removeprefix("vertebra_")) in CANAL_ORDER]
    if sorted(set(order)) != order:
        raise _contradiction(list(pinned_levels))
    return _renamed(segmentation, names, pinned_levels)


def _steps(bodies: Sequence[Vertebra]) -> list[int | None]:
    """Levels from each body to the one below it; None where that is not known."""
    centres = np.array([v.frame.centre_lps_mm for v in bodies]).reshape(-1, 3)
    distances = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    usual = float(np.median(distances)) if len(distances) > 1 else _PITCH_MM
    steps: list[int | None] = []
    for upper, lower, distance in zip(bodies[:-1], bodies[1:], distances, strict=True):
        if any(v.name.removeprefix("vertebra_") in _TRANSITIONAL for v in (upper, lower)):
            steps.append(None)
        elif upper.level in LEVELS and lower.level in LEVELS:
            steps.append(LEVELS.index(lower.level) - LEVELS.index(upper.level))
        else:
            steps.append(1 if distance < _LARGEST_STEP * usual else None)
    return steps


def _body_at(bodies: Sequence[Vertebra], z_mm: float, level: str) -> int:
    """Index of the body at a height: the nearest one, if it is not more than about half the distance of two bodies away."""
    heights = np.array([v.frame.centre_lps_mm[2] for v in bodies])
    if len(heights):
        nearest = int(np.abs(heights - z_mm).argmin())
        pitch = float(np.median(-np.diff(heights))) if len(heights) > 1 else _PITCH_MM
        if abs(float(heights[nearest]) - z_mm) <= _HALF_PITCH * min(pitch, 1.5 * _PITCH_MM):
            return nearest
    raise InputRefused(
        "pin_outside_bodies",
        f"the masks hold no vertebral body at z = {z_mm:.0f} mm.",
        subject=f"pinned level {level}",
        remedy="Give the LPS z coordinate of a point inside the body.",
    )


def _counted(start: int, place: int, steps: Sequence[int | None]) -> dict[int, int]:
    """Index of each body that can be counted from the one at `start`, with its place among the levels."""
    found = {start: place}
    for i in range(start, len(steps)):
        step = steps[i]
        if step is None:
            break
        found[i + 1] = found[i] + step
    for i in range(start - 1, -1, -1):
        step = steps[i]
        if step is None:
            break
        found[i] = found[i + 1] - step
    return found


def _contradiction(levels: Sequence[str]) -> InputRefused:
    return InputRefused(
        "contradicting_levels",
        "the pinned levels contradict each other, or the masks where counting does not reach.",
        subject=f"pinned level {', '.join(sorted(levels))}",
        remedy="Pin one level, or check the z coordinates.",
    )


def _renamed(segmentation: Segmentation, names: Sequence[str], pinned_levels: Mapping[str, float]) -> Segmentation:
    """The segmentation with its bodies under other names, in the label maps as well."""
    table = np.arange(256, dtype=np.uint8)
    renamed = []
    changed = []
    for vertebra, name in zip(segmentation.vertebrae, names, strict=True):
        level = name.removeprefix("vertebra_")
        table[vertebra.label] = LABEL_OF[name]
        if name != vertebra.name:
            changed.append(f"{vertebra.name.removeprefix('vertebra_')} to {level}")
        renamed.append(
            replace(
                vertebra, name=name, level=level if level in LEVELS else None, label=LABEL_OF[name],
                level_confidence=None, level_alternatives={},
            )
        )  # fmt: skip
    stated = ", ".join(f"{level} at z = {z_mm:.0f} mm" for level, z_mm in pinned_levels.items())
    if changed:
        text = f"The user pinned {stated}; the bodies of the masks were renamed: {', '.join(changed)}."
        finding = Finding("levels_renumbered", Severity.WARNING, text)
    else:
        finding = Finding("level_anchor", Severity.INFO, f"The levels agree with what the user pinned: {stated}.")
    return replace(
        segmentation,
        labels=table[segmentation.labels] if changed else segmentation.labels,
        arches=table[segmentation.arches] if changed and segmentation.arches is not None else segmentation.arches,
        vertebrae=tuple(renamed),
        findings=(*segmentation.findings, finding),
    )
