"""How a model is kept for its solution, rows of voxels or a mesh, and what memory that takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import psutil

from fea.errors import Reason, SolveError
from fea.grid import choose_layout, cropped_box, padded
from fea.kernels import LONGEST_ROW
from fea.mesh import mesh_of
from fea.mesh_layout import MeshLayout, mesh_layout
from fea.mesh_level import MeshLevel
from fea.model import VoxelModel
from fea.stiffness import THIN_BELOW, Level, coarse_fill, stiffness_arrays
from fea.supports import AnyLayout
from fea.workers import Workers

Storage = Literal["auto", "rows", "mesh"]
_MESH_COST = 2.0  # one element of a mesh takes the time of so many voxels in rows
_MESH_SHARE = 0.4  # solid share of the box below which rows, which keep whole boxes, would take twice the memory
_MESH_FROM = 20_000  # voxels; smaller models are not worth loading a second set of kernels
_LAYOUTS: dict[str, Callable[[np.ndarray], AnyLayout]] = {"rows": choose_layout, "mesh": mesh_layout}


def layout_for(model: VoxelModel, storage: Storage) -> AnyLayout:
    """Rows for bulky bodies, a mesh for thin structures and boxes that are mostly void, unless one of them is asked for.

    An element of a mesh costs as much as two voxels of a row, and takes as much memory as some two voxels of the box. For
    thin structures its coarse corrections are better by more than that (docs/solver.md, section 3). Orthotropic voxels are
    always kept in rows.

    Raises
    ------
    SolveError
        ``bad_condition`` if there is no such storage, ``bad_material_law`` for orthotropic voxels in a mesh.
    """
    if storage == "mesh" and model.orthotropy is not None:
        raise SolveError(Reason.BAD_MATERIAL_LAW, "orthotropic voxels are kept in rows, not in a mesh.")
    if storage in _LAYOUTS:
        return _LAYOUTS[storage](model.solid)
    if storage != "auto":
        raise SolveError(Reason.BAD_CONDITION, f"storage = {storage!r}; it must be 'auto', 'rows' or 'mesh'.")
    _, shape = cropped_box(model.solid)
    if min(shape) >= LONGEST_ROW and model.orthotropy is None:
        return mesh_layout(model.solid)
    rows = choose_layout(model.solid)
    if model.orthotropy is not None or model.solid.size < _MESH_FROM:
        return rows
    elements = np.count_nonzero(model.solid)
    empty = _MESH_COST * elements < rows.work or elements < _MESH_SHARE * np.prod(rows.shape)
    return mesh_layout(model.solid) if empty or coarse_fill(model.solid) < THIN_BELOW else rows


def first_level(model: VoxelModel, layout: AnyLayout, workers: Workers) -> Level | MeshLevel:
    """The finest level of a model."""
    first, second, elasticity = stiffness_arrays(model, layout)
    z, y, x = (model.spacing_mm[axis] for axis in layout.order)
    if isinstance(layout, MeshLayout):
        return MeshLevel(mesh_of(layout.solid), first, second, elasticity, (z, y, x), workers)
    return Level(first, second, elasticity, (z, y, x), workers)


def estimated_bytes(layout: AnyLayout, mixed: bool, free_motions: int = 0) -> int:
    """Memory of the arrays of a solve, known before any is allocated.

    Four float64 and four float32 fields and the coefficients on the finest grid, six float32 ones and coefficients on the
    coarser ones (a seventh in all; of a mesh two fifths, with the lists of nodes), a float32 field for each free motion of a
    platen, the result in the user's axes, and the model.
    """
    # the result, and the model itself: moduli, flags, numbers of pieces
    result = int(np.prod(layout.node_shape)) * (3 * 8 + 8) + int(np.prod(layout.field_shape)) * 4 * free_motions
    if isinstance(layout, MeshLayout):
        nodes, elements = layout.nodes, int(np.count_nonzero(layout.solid))
        # nodes and coefficients of the stations of an element; interpolation per node, and its place
        lists = elements * (20 + (10 if mixed else 5)) + nodes * (36 + 8)
        return int(nodes * 3 * 8 * 4 + nodes * 3 * 4 * (4 + 6 * 0.4) + lists * 1.4 + result)
    nz, ny, nx = layout.internal_shape
    voxels = (nz + 1) * (ny + 1) * padded(nx + 1)
    coefficients = voxels * 4 * (2 if mixed else 1) * 8 / 7
    return int(voxels * 3 * 8 * 4 + voxels * 3 * 4 * (4 + 6 / 7) + coefficients + voxels * 4 + result)


def require_memory(needed: int) -> None:
    """Refuse a model that will not fit.

    Raises
    ------
    SolveError
        ``not_enough_memory``, with both figures.
    """
    available = psutil.virtual_memory().available
    if needed > 0.9 * available:
        raise SolveError(
            Reason.NOT_ENOUGH_MEMORY,
            f"the solution needs {needed / 2**30:.2f} GiB and {available / 2**30:.2f} GiB are available.",
            remedy="Coarsen or crop the model.",
        )
