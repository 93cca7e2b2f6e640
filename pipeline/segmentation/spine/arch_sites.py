"""Where the arch of each vertebra is looked for: behind its body, about the canal, as far as processes reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pipeline.segmentation.model import Segmentation, Vertebra
from pipeline.segmentation.sampling import IndexBox, cropped_grid, index_box
from pipeline.volume import Grid

FOREIGN = 255
"""Stands for all that is no arch of a known vertebra."""
SHEET_DEPTH_MM = 62
"""How far behind the canal a spinous process may end."""
_LARGEST_TURN_RAD = np.radians(25.0)
_RIB_BEFORE_WALL_MM = (3.0, 10.0)
"""Before the posterior wall, thoracic and lumbar: the processes of the lower lumbar spine rise from the side of the body."""


@dataclass(frozen=True)
class Site:
    """Where one arch is looked for: the frame of its body with the front-back line through the canal."""

    label: int
    centre: NDArray[np.float64]
    axes: NDArray[np.float64]
    """Rows: left, posterior, superior."""
    canal_mm: float
    """Distance of the centre of the canal behind that of the body."""
    width_mm: float
    depth_mm: float
    height_mm: float
    root_mm: float
    """How far in front of the posterior wall bone beside the body is transverse process; before that it is rib."""

    def local(self, points: NDArray) -> NDArray[np.float64]:
        return np.asarray((points - self.centre) @ self.axes.T, np.float64)


def arch_sites(segmentation: Segmentation, canal: NDArray[np.float64]) -> list[Site]:
    """A site for each body from cranial to caudal, with one more at either end that stands for whatever follows there."""
    bodies = segmentation.vertebrae
    turns, distances = np.zeros(len(bodies)), np.zeros(len(bodies))
    for i, vertebra in enumerate(bodies):
        behind, aside = _canal_behind(vertebra, canal)
        usual = 0.4 * vertebra.depth_mm < behind < vertebra.depth_mm and abs(aside) < behind
        # Where the line of the canal ends, or is not behind the body, the frame has the better say.
        distances[i] = np.hypot(behind, aside) if usual else 0.5 * vertebra.depth_mm + 8.0
        turns[i] = np.arctan2(aside, behind) if usual else 0.0
    # Neighbours turn alike; a single canal point that lies aside is an error of the line.
    padded = np.pad(turns, 1, mode="edge")
    turns = np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)
    sites = []
    for vertebra, turn, distance in zip(bodies, turns, distances, strict=True):
        frame = vertebra.frame
        behind_lps = np.cos(turn) * frame.posterior + np.sin(turn) * frame.left
        sites.append(
            Site(
                vertebra.label,
                frame.centre_lps_mm,
                np.stack([np.cross(behind_lps, frame.superior), behind_lps, frame.superior]),
                float(distance),
                vertebra.width_mm,
                vertebra.depth_mm,
                _height_mm(vertebra),
                _RIB_BEFORE_WALL_MM[vertebra.level is not None and vertebra.level[0] == "L"],
            )
        )
    return [_beyond(sites, 0), *sites, _beyond(sites, -1)]


def _canal_behind(vertebra: Vertebra, canal: NDArray[np.float64]) -> tuple[float, float]:
    """Where the canal line crosses the middle plane of a body: behind its centre, and to the left (mm)."""
    local = vertebra.frame.to_frame(canal[np.linalg.norm(canal - vertebra.frame.centre_lps_mm, axis=1) < 60.0])
    if len(local) < 2:
        return 0.0, 0.0
    order = np.argsort(local[:, 2])
    aside, behind = (float(np.interp(0.0, local[order, 2], local[order, axis])) for axis in (0, 1))
    return behind, aside


def _height_mm(vertebra: Vertebra) -> float:
    if vertebra.surface is not None and np.isfinite(vertebra.surface.upper_mm - vertebra.surface.lower_mm).any():
        return float(np.nanmedian(vertebra.surface.upper_mm - vertebra.surface.lower_mm))
    return 0.75 * vertebra.depth_mm


def _beyond(sites: Sequence[Site], end: int) -> Site:
    """What follows the first or the last site, if the spine goes on bending as it does there."""
    last = sites[end]
    if len(sites) == 1:
        step = last.axes[2] * (1.35 * last.height_mm) * (1.0 if end == 0 else -1.0)
        return replace(last, label=FOREIGN, centre=last.centre + step)
    other = sites[1 if end == 0 else -2]
    turn = Rotation.from_matrix(last.axes.T @ other.axes).as_rotvec()
    angle = float(np.linalg.norm(turn))
    turned = Rotation.from_rotvec(turn * min(1.0, _LARGEST_TURN_RAD / max(angle, 1e-6)))
    step = 0.5 * (turned.apply(last.centre - other.centre) + last.centre - other.centre)
    return replace(last, label=FOREIGN, centre=last.centre + step, axes=turned.apply(last.axes))


def local_coordinates(grid: Grid, site: Site) -> tuple[IndexBox, tuple[NDArray, NDArray, NDArray]]:
    """The part of the working grid about a site, and left, posterior and superior coordinates (mm) there."""
    reach = 1.6 * site.width_mm
    corners = [
        site.centre + np.array([u, v, w]) @ site.axes
        for u in (-reach, reach)
        for v in (-0.2 * site.depth_mm, site.canal_mm + SHEET_DEPTH_MM)
        for w in (-1.8 * site.height_mm, site.height_mm)
    ]
    box = index_box(grid, np.array(corners))
    part = cropped_grid(grid, box)
    origin = site.local(part.to_lps(np.zeros(3)))
    steps = site.axes @ part.index_to_lps[:3, :3]
    z, y, x = np.ogrid[: part.shape[0], : part.shape[1], : part.shape[2]]
    u, v, w = (
        np.asarray(origin[row] + steps[row, 0] * z + steps[row, 1] * y + steps[row, 2] * x, np.float32)
        for row in range(3)
    )
    return box, (u, v, w)
