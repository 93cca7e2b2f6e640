"""Takes the frames of one series apart, so that each group can become one volume.

Only positions, orientations and what the headers say about phases count: never file names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.ingest.index import Frame
from pipeline.ingest.stacks import (
    MAXIMUM_IN_PLANE_SCATTER_MM,
    MINIMUM_SLICES,
    SAME_POSITION_MM,
    geometry_of,
    is_orthonormal,
    plane_normal,
)


def split_series(frames: Sequence[Frame]) -> list[list[Frame]]:
    """The frames of one series, grouped so that each group can be one volume.

    Frames that differ in matrix, pixel size, orientation, image type, kernel, tube voltage or frame of reference come
    apart at once. What is left comes apart by acquisition, phase, contrast or time, but only where that makes the
    positions more regular: a helix whose acquisition number changes half way stays one stack.
    """
    groups: list[list[Frame]] = []
    for same in _by_hard_facts(frames):
        for oriented in _by_orientation(same):
            groups.extend(_by_phase(oriented))
    return groups


def _by_hard_facts(frames: Iterable[Frame]) -> list[list[Frame]]:
    parts: dict[tuple, list[Frame]] = defaultdict(list)
    for frame in frames:
        facts, coding, spacing = frame.acquisition, frame.coding, frame.pixel_spacing_mm
        key = (
            coding.rows,
            coding.columns,
            coding.samples,
            coding.photometric,
            coding.rescale_type,
            tuple(round(s, 4) for s in spacing) if spacing else None,
            facts.modality,
            facts.image_type,
            facts.kernel,
            facts.kvp,
            frame.frame_of_reference_uid,
            frame.identity.sop_class_uid,
        )
        parts[key].append(frame)
    return list(parts.values())


def _by_orientation(frames: Sequence[Frame]) -> list[list[Frame]]:
    parts: list[tuple[NDArray[np.float64] | None, list[Frame]]] = []
    for frame in frames:
        cosines = None if frame.orientation is None else np.array(frame.orientation)
        for reference, members in parts:
            if (cosines is None and reference is None) or (
                cosines is not None and reference is not None and np.abs(cosines - reference).max() < 2e-3
            ):
                members.append(frame)
                break
        else:
            parts.append((cosines, [frame]))
    return [members for _, members in parts]


def _irregularity(frames: Sequence[Frame]) -> float:
    """Number of repeated positions and irregular steps; groups too small to be a stack count in full."""
    if len(frames) < 3:
        return float(len(frames))
    geometry = geometry_of(frames)
    if geometry is None:
        return float(len(frames))
    scattered = len(frames) if geometry.scatter_mm > MAXIMUM_IN_PLANE_SCATTER_MM else 0
    return len(geometry.duplicates) + len(geometry.gaps) + len(geometry.uneven) + scattered


def _by_phase(frames: list[Frame]) -> list[list[Frame]]:
    before = _irregularity(frames)
    if len(frames) < 4:
        return [frames]
    if before == 0:
        return next((parts for parts in _partitions(frames) if _interleave(frames, parts)), [frames])
    best, best_cost = [frames], before
    for parts in _partitions(frames):
        cost = sum(_irregularity(part) for part in parts)
        if cost < best_cost:
            best, best_cost = parts, cost
    if len(best) == 1:
        return best
    return [final for part in best for final in _by_phase(part)]


def _interleave(frames: Sequence[Frame], parts: Sequence[Sequence[Frame]]) -> bool:
    """Whether parts of an even stack each reach over nearly all of it: phases half a step apart, not one fine stack."""
    whole = geometry_of(frames)
    geometries = [geometry_of(part) for part in parts if len(part) >= MINIMUM_SLICES]
    if whole is None or len(geometries) < len(parts):
        return False
    return all(g is not None and g.span_mm > 0.8 * whole.span_mm for g in geometries)


def _partitions(frames: Sequence[Frame]) -> Iterable[list[list[Frame]]]:
    """Ways to divide frames, the most trustworthy first."""

    def phase(i: int) -> Callable[[Frame], Any]:
        return lambda frame: frame.phase[i]

    keys: list[Callable[[Frame], Any]] = [
        *(phase(i) for i in range(len(frames[0].phase))),
        lambda frame: frame.acquisition.contrast_agent,
        lambda frame: frame.acquisition.slice_thickness_mm,
        lambda frame: (frame.acquisition.series_description, frame.acquisition.protocol_name),
    ]
    for key in keys:
        parts: dict[object, list[Frame]] = defaultdict(list)
        for frame in frames:
            parts[key(frame)].append(frame)
        if 1 < len(parts) <= len(frames) // 2:
            yield list(parts.values())
    by_number = _runs_by_instance_number(frames)
    if len(by_number) > 1:
        yield by_number


def _runs_by_instance_number(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Frames in the order of their instance numbers, cut where the position jumps back: the last resort."""
    orientation = frames[0].orientation
    unknown = any(f.instance_number is None or f.position_mm is None for f in frames)
    if unknown or orientation is None or not is_orthonormal(orientation):
        return [list(frames)]
    normal = plane_normal(orientation)
    ordered = sorted(frames, key=lambda f: f.instance_number or 0)
    offsets = np.array([f.position_mm for f in ordered], float) @ normal
    steps = np.diff(offsets)
    direction = np.sign(np.median(steps))
    cuts = [0, *(np.flatnonzero(steps * direction <= -SAME_POSITION_MM) + 1).tolist(), len(ordered)]
    return [ordered[a:b] for a, b in pairwise(cuts)]
