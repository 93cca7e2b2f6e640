"""Labels on the planes of the source images, whatever grid they were computed on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset


@dataclass(frozen=True)
class Plane:
    """One source frame: the position of its first pixel, unit vectors along a row and down a column, and its size."""

    position_lps_mm: NDArray[np.float64]
    along_row: NDArray[np.float64]
    down_column: NDArray[np.float64]
    row_spacing_mm: float
    column_spacing_mm: float
    rows: int
    columns: int


def source_planes(headers: list[Dataset]) -> list[Plane]:
    """The planes of classic images (one per header) or of one multi-frame image (one per frame), in their order.

    Raises
    ------
    ValueError
        If a header has no position, orientation or pixel spacing.
    """
    if len(headers) == 1 and "PerFrameFunctionalGroupsSequence" in headers[0]:
        return _multiframe_planes(headers[0])
    return [
        _plane(h, h.get("ImagePositionPatient"), h.get("ImageOrientationPatient"), h.get("PixelSpacing"))
        for h in headers
    ]


def labels_on_planes(
    labels: NDArray[np.uint8], index_to_lps: NDArray[np.float64], planes: list[Plane]
) -> NDArray[np.uint8]:
    """Nearest label at each pixel of each plane.

    Parameters
    ----------
    labels : uint8 ndarray of shape (Z, Y, X)
    index_to_lps : float ndarray of shape (4, 4)
        Array index (k, j, i) of a voxel centre to LPS (x, y, z) in mm.
    planes : list of Plane
        All of one size.

    Returns
    -------
    uint8 ndarray of shape (len(planes), rows, columns)
        On a grid that coincides with the planes this is an exact reordering of `labels`.
    """
    to_index = np.linalg.inv(np.asarray(index_to_lps, float))
    out = np.zeros((len(planes), planes[0].rows, planes[0].columns), np.uint8)
    shape = np.array(labels.shape)
    for frame, plane in enumerate(planes):
        origin = to_index[:3, :3] @ plane.position_lps_mm + to_index[:3, 3]
        step_column = to_index[:3, :3] @ (plane.along_row * plane.column_spacing_mm)
        step_row = to_index[:3, :3] @ (plane.down_column * plane.row_spacing_mm)
        if (whole := _reordered(labels, origin, step_row, step_column, out.shape[1:])) is not None:
            out[frame] = whole
            continue
        # An affine function of row and column is a sum of two one-dimensional functions: round only their sum.
        index = [
            np.rint(
                origin[a] + np.add.outer(np.arange(plane.rows) * step_row[a], np.arange(plane.columns) * step_column[a])
            )
            for a in range(3)
        ]
        inside = np.ones(out.shape[1:], bool)
        for a in range(3):
            inside &= (index[a] >= 0) & (index[a] < shape[a])
        if inside.any():
            k, j, i = (axis[inside].astype(np.intp) for axis in index)
            out[frame][inside] = labels[k, j, i]
    return out


_COINCIDES = 1e-5
"""Of a voxel per pixel: over 2000 pixels the place still rounds to the same voxel."""


def _reordered(
    labels: NDArray[np.uint8],
    origin: NDArray[np.float64],
    step_row: NDArray[np.float64],
    step_column: NDArray[np.float64],
    size: tuple[int, ...],
) -> NDArray[np.uint8] | None:
    """The plane as a slice of the array, where its pixels are voxels in another order; None where they are not."""
    steps = np.stack([step_row, step_column])
    if np.abs(steps - np.rint(steps)).max() > _COINCIDES or np.abs(origin - np.rint(origin)).max() > 0.25:
        return None
    if [int(np.abs(step).sum()) for step in np.rint(steps)] != [1, 1]:
        return None
    start, (along_row, along_column) = np.rint(origin).astype(int), (int(np.abs(step).argmax()) for step in steps)
    if along_row == along_column:
        return None
    index: list[slice | int] = [int(v) for v in start]
    for axis, step, count in ((along_row, step_row, size[0]), (along_column, step_column, size[1])):
        forward = step[axis] > 0
        first = int(start[axis]) if forward else int(start[axis]) - count + 1
        if first < 0 or first + count > labels.shape[axis]:
            return None
        index[axis] = slice(first, first + count)
    across = 3 - along_row - along_column
    if not 0 <= int(start[across]) < labels.shape[across]:
        return np.zeros(size, np.uint8)
    plane: NDArray[np.uint8] = labels[tuple(index)]
    first_axis, second_axis = sorted((along_row, along_column))
    if (step_row + step_column)[first_axis] < 0:
        plane = plane[::-1]
    if (step_row + step_column)[second_axis] < 0:
        plane = plane[:, ::-1]
    return plane if along_row < along_column else plane.T


def _plane(header: Dataset, position: object, orientation: object, spacing: object) -> Plane:
    if position is None or orientation is None or spacing is None:
        raise ValueError("a source image has no position, orientation or pixel spacing")
    cosines = np.array([float(v) for v in orientation])  # type: ignore[attr-defined]
    row_spacing, column_spacing = (float(v) for v in spacing)  # type: ignore[attr-defined]
    return Plane(
        position_lps_mm=np.array([float(v) for v in position]),  # type: ignore[attr-defined]
        along_row=cosines[:3],
        down_column=cosines[3:],
        row_spacing_mm=row_spacing,
        column_spacing_mm=column_spacing,
        rows=int(header.Rows),
        columns=int(header.Columns),
    )


def _multiframe_planes(header: Dataset) -> list[Plane]:
    shared = header.SharedFunctionalGroupsSequence[0]

    def group(frame: Dataset, name: str) -> Dataset:
        holder = frame if name in frame else shared
        if name not in holder:
            raise ValueError(f"the multi-frame image has no {name}")
        return holder[name].value[0]  # type: ignore[no-any-return]

    return [
        _plane(
            header,
            group(frame, "PlanePositionSequence").ImagePositionPatient,
            group(frame, "PlaneOrientationSequence").ImageOrientationPatient,
            group(frame, "PixelMeasuresSequence").PixelSpacing,
        )
        for frame in header.PerFrameFunctionalGroupsSequence
    ]
