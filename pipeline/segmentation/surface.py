"""Optimal surfaces: where a smooth height field lies best in a table of costs.

A surface is unrolled into columns (angle by height for a wall, left by posterior for an endplate, azimuth by elevation for a
sphere), each with a cost for every candidate position. Semi-global aggregation finds a position per column that is cheap and
close to its neighbours', in milliseconds and without a max-flow library.

References
----------
H. Hirschmueller, Stereo processing by semiglobal matching and mutual information, IEEE TPAMI 30 (2008) 328-341,
doi:10.1109/TPAMI.2007.1166; the own cost of a column is counted once as in A. Drory et al., Semi-global matching: a principled
derivation in terms of message passing, GCPR 2014, doi:10.1007/978-3-319-11752-2_4.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def aggregate(
    cost: NDArray[np.float32], *, p1: float, p2: float, circular: tuple[bool, bool] = (False, False)
) -> NDArray[np.float64]:
    """Position of the best smooth surface in each column, between samples.

    Costs are passed along four directions (up and down both axes of the surface). Two neighbouring columns whose positions
    differ by `d` samples pay ``min(p1 * d**2, p2)``: small slopes are cheap, a step costs `p2` at most. The positions are
    refined by the parabola through the aggregated costs about the best sample.

    Parameters
    ----------
    cost : float32 ndarray of shape (A, B, S)
        Cost of every position in every column of a surface of A by B columns; ``inf`` forbids a position, but each column
        needs at least one that is allowed.
    p1 : float
        Penalty per squared sample of difference between neighbours.
    p2 : float
        Largest penalty between two neighbours.
    circular : tuple of bool
        Whether the surface closes on itself along A and along B.

    Returns
    -------
    float ndarray of shape (A, B)
        Fractional sample index in [0, S - 1].

    Raises
    ------
    ValueError
        If `cost` is not three-dimensional, holds NaN or a column without an allowed position, or a penalty is not positive.

    Examples
    --------
    >>> positions = np.arange(21.0)
    >>> cost = np.abs(positions - 7.25)[None, None, :] * np.ones((12, 9, 1))
    >>> bool(np.allclose(aggregate(cost.astype(np.float32), p1=0.1, p2=2.0, circular=(True, False)), 7.25, atol=0.1))
    True
    """
    table = np.ascontiguousarray(cost, dtype=np.float32)
    if table.ndim != 3:
        raise ValueError(f"cost of shape {table.shape}: three axes are needed")
    if p1 <= 0 or p2 <= 0:
        raise ValueError(f"penalties p1 = {p1}, p2 = {p2} must be positive")
    if np.isnan(table).any() or not np.isfinite(table.min(axis=2)).all():
        raise ValueError("cost holds NaN, or a column in which no position is allowed")
    reach = int(np.ceil(np.sqrt(p2 / p1)))
    penalty = np.minimum(p1 * np.arange(reach + 1, dtype=np.float32) ** 2, p2).astype(np.float32)
    total = np.zeros_like(table)
    _pass_along_first_axis(table, penalty, np.float32(p2), bool(circular[0]), total)
    turned = np.zeros((table.shape[1], table.shape[0], table.shape[2]), np.float32)
    _pass_along_first_axis(
        np.ascontiguousarray(table.transpose(1, 0, 2)), penalty, np.float32(p2), bool(circular[1]), turned
    )
    total += turned.transpose(1, 0, 2)
    # Each of the four directions has counted the column's own cost: count it once.
    np.subtract(total, 3 * table, out=total, where=np.isfinite(table))
    return _between_samples(total)


@njit(cache=True, nogil=True)
def _pass_along_first_axis(table, penalty, p2, circular, total):  # type: ignore[no-untyped-def]
    """Add to `total` what arrives at each column from both directions of axis 0, its own cost included."""
    length, lines, samples = table.shape
    before = np.empty(samples, np.float32)
    here = np.empty(samples, np.float32)
    # On a closed axis one lap is run to warm up, so that the start column has heard from the end column.
    steps = 2 * length if circular else length
    for line in range(lines):
        for direction in range(2):
            for step in range(steps):
                column = step % length
                if direction == 1:
                    column = length - 1 - column
                if step == 0:
                    for s in range(samples):
                        here[s] = table[column, line, s]
                else:
                    lowest = np.float32(np.inf)
                    for s in range(samples):
                        lowest = min(lowest, before[s])
                    for s in range(samples):
                        best = lowest + p2
                        for t in range(max(0, s - len(penalty) + 1), min(samples, s + len(penalty))):
                            best = min(best, before[t] + penalty[abs(s - t)])
                        here[s] = table[column, line, s] + best - lowest
                for s in range(samples):
                    if step >= steps - length:
                        total[column, line, s] += here[s]
                    before[s] = here[s]


def _between_samples(total: NDArray[np.float32]) -> NDArray[np.float64]:
    """Vertex of the parabola through the lowest value of each column and its two neighbours."""
    best = total.argmin(axis=2)
    inner = np.clip(best, 1, max(total.shape[2] - 2, 1))
    if total.shape[2] < 3:
        return np.asarray(best, dtype=np.float64)
    rows, columns = np.indices(best.shape)
    below, at, above = (total[rows, columns, inner + shift].astype(float) for shift in (-1, 0, 1))
    usable = np.isfinite(below) & np.isfinite(above) & (best == inner)
    curvature = np.where(usable, below + above, 2.0) - 2 * np.where(usable, at, 0.0)
    slope = np.where(usable, below, 0.0) - np.where(usable, above, 0.0)
    shift = np.where(usable & (curvature > 0), 0.5 * slope / np.where(curvature > 0, curvature, 1.0), 0.0)
    return np.asarray(best + np.clip(shift, -0.5, 0.5), dtype=np.float64)
