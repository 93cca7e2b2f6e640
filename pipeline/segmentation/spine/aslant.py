"""The lower end of the canal in slices that are tilted with the pelvis.

The sacral canal runs back at 40 to 60 degrees. In a patient whose pelvis is tipped farther (a pillow under the back, a
contracted hip, a deep lordosis) it runs almost level: an axial slice then shows no ring of bone about it, and a search in axial
slices leaves it for the marrow of the sacrum. In slices tilted by 20 degrees the ring is there again.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.segmentation.sampling import sample_lps
from pipeline.segmentation.spine.canal import Canal, find_canal
from pipeline.volume import Grid

_TILT = np.radians(20.0)
_SIZE_MM = (220.0, 200.0, 130.0)
_ABOVE_END_MM = 30.0
_LEAST_GAIN = 4.0
"""By how much the sum of the score (one value each 2 mm) must be larger, for the tilted search to be believed."""
_LEAST_LONGER_MM = 15.0
"""And by how much its line must be longer: the priors of the search differ a little between the two."""
_MEETS_WITHIN_MM = 5.0


def lower_end_in_tilted_slices(
    canal: Canal,
    hu: NDArray[np.float32],
    grid: Grid,
    body: NDArray[np.bool_],
    *,
    turn_rad: float = 0.0,
    threads: int = 2,
) -> Canal:
    """The canal, with its lower end as tilted slices show it if that is clearly more like a canal.

    Parameters
    ----------
    canal : Canal
        From caudal to cranial.
    hu : float32 ndarray of shape (Z, Y, X)
        Relative HU on isotropic voxels of about 2 mm.
    grid : Grid
    body : bool ndarray of shape (Z, Y, X)
    turn_rad : float
        How far the patient is turned about the long axis, to the left from looking straight up.
    """
    points = canal.points_lps_mm
    away = np.linalg.norm(points - points[0], axis=1)
    centre = points[int(np.argmax(away >= _ABOVE_END_MM))]
    tilted = _tilted_grid(grid.spacing_mm[0], centre, turn_rad)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in tilted.shape), indexing="ij"), axis=-1)
    where = tilted.to_lps(index.astype(float))
    inside = sample_lps(body, grid, where, fill=0.0) > 0.5
    again = find_canal(sample_lps(hu, grid, where, fill=-1000.0), tilted, inside, threads=threads)
    if not again.trusted:
        return canal
    own = tilted.to_index(points)
    covered = ((own >= 0) & (own <= np.array(tilted.shape) - 1)).all(axis=1)
    if float(again.score.sum()) < float(canal.score[covered].sum()) + _LEAST_GAIN:
        return canal
    distance = np.linalg.norm(points[:, None] - again.points_lps_mm[None], axis=2)
    meets = np.argwhere(distance <= _MEETS_WITHIN_MM)
    if not len(meets):
        return canal
    # Where both have run together for a while, the axial search takes over.
    there, here = (int(v) for v in meets[np.argsort(meets[:, 0])[len(meets) // 2]])
    longer_mm = _length_mm(again.points_lps_mm[: here + 1]) - _length_mm(points[: there + 1])
    if longer_mm < _LEAST_LONGER_MM:
        return canal
    return replace(
        canal,
        points_lps_mm=np.concatenate([again.points_lps_mm[:here], points[there:]]),
        score=np.concatenate([again.score[:here], canal.score[there:]]),
    )


def _length_mm(points: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def _tilted_grid(edge_mm: float, centre_lps_mm: NDArray[np.float64], turn_rad: float) -> Grid:
    """A grid about a point whose slices lie lower in front than behind, for a patient turned by so much to the left."""
    left = np.array([np.cos(turn_rad), np.sin(turn_rad), 0.0])
    level_back = np.array([-np.sin(turn_rad), np.cos(turn_rad), 0.0])
    up = np.array([0.0, 0.0, 1.0])
    back = np.cos(_TILT) * level_back + np.sin(_TILT) * up
    axis = np.cos(_TILT) * up - np.sin(_TILT) * level_back
    shape = tuple(max(8, round(size / edge_mm)) for size in _SIZE_MM)
    matrix = np.eye(4)
    matrix[:3, :3] = edge_mm * np.stack([axis, back, left], axis=1)
    matrix[:3, 3] = centre_lps_mm - matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid((shape[0], shape[1], shape[2]), matrix)
