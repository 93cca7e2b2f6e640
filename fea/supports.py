"""Boundary conditions on the grid, and the proof that they hold every piece of the model.

Pieces are found by face connectivity. A piece held by fewer than six independent constraints would move freely; it is
refused by name of the motion, or removed if it carries no condition at all and the caller asked for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from fea.errors import Reason, SolveError
from fea.grid import Layout, zeros_field
from fea.model import NodalForce, Prescribed, VoxelModel

_MOTIONS = ("shift along z", "shift along y", "shift along x", "turn about z", "turn about y", "turn about x")


@dataclass(frozen=True, eq=False)
class Conditions:
    """Prescribed displacements by flat index into an internal field.

    Attributes
    ----------
    at : int64 ndarray of shape (n,)
        The prescribed components, ascending, each once.
    values_mm : float64 ndarray of shape (n,)
    sets : dict of str to tuple
        For each name the flat indices of its components, and the user's component (0 = z) of each.
    """

    at: np.ndarray
    values_mm: np.ndarray
    sets: dict[str, tuple[np.ndarray, np.ndarray]]


def touched_nodes(solid: np.ndarray) -> np.ndarray:
    """Which nodes are corners of a solid voxel: bool (nz+1, ny+1, nx+1)."""
    touched = np.zeros(tuple(n + 1 for n in solid.shape), dtype=bool)
    nz, ny, nx = solid.shape
    for dk in (0, 1):
        for dj in (0, 1):
            for di in (0, 1):
                touched[dk : dk + nz, dj : dj + ny, di : di + nx] |= solid
    return touched


def place(layout: Layout, prescribed: Sequence[Prescribed], touched: np.ndarray, stride: int) -> Conditions:
    """Put prescribed displacements on the grid.

    Raises
    ------
    SolveError
        ``bad_condition`` for nodes outside the box or a set that touches no material, ``conflicting_conditions`` if
        one component is given two values.
    """
    ny = layout.internal_shape[1]
    internal_component = {component: internal for internal, component in enumerate(layout.order)}
    sets: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    placed: list[tuple[np.ndarray, np.ndarray, str]] = []
    for condition in prescribed:
        nodes = _inside(condition.name, condition.nodes, layout)
        here = touched[tuple(nodes.T)]
        if not here.any():
            raise SolveError(
                Reason.BAD_CONDITION, f"no node of the set '{condition.name}' is a corner of a solid voxel."
            )
        moved, _ = layout.nodes_in(nodes[here])
        k, j, i = moved.T
        collected = [sets[condition.name]] if condition.name in sets else []
        for component, given in condition.components():
            at = ((k * (ny + 1) + j) * 3 + internal_component[component]) * stride + i
            wanted = given[here]
            placed.append((at, wanted, condition.name))
            at = np.unique(at)
            collected.append((at, np.full(len(at), component)))
        if collected:
            sets[condition.name] = (
                np.concatenate([at for at, _ in collected]),
                np.concatenate([part for _, part in collected]),
            )
    if not placed:
        return Conditions(np.empty(0, np.int64), np.empty(0), sets)
    at, first = np.unique(np.concatenate([at for at, _, _ in placed]), return_index=True)
    values = np.concatenate([wanted for _, wanted, _ in placed])[first]
    for where, wanted, name in placed:
        if (values[np.searchsorted(at, where)] != wanted).any():
            raise SolveError(
                Reason.CONFLICTING_CONDITIONS,
                f"the set '{name}' gives a component of a node a second, different value.",
            )
    return Conditions(at, values, sets)


def _inside(name: str, nodes: np.ndarray, layout: Layout) -> np.ndarray:
    outside = ((nodes < 0) | (nodes >= np.asarray(layout.node_shape))).any(axis=1)
    if outside.any():
        node = tuple(int(n) for n in nodes[outside][0])
        raise SolveError(Reason.BAD_CONDITION, f"'{name}': node {node} lies outside the grid {layout.node_shape}.")
    return nodes


def force_field(layout: Layout, forces: Sequence[NodalForce], touched: np.ndarray, stride: int) -> np.ndarray:
    """Sum of the nodal forces as an internal field, N.

    Raises
    ------
    SolveError
        ``bad_condition`` if a force that is not zero acts on a node without material or outside the grid.
    """
    nz, ny, _ = layout.internal_shape
    field = zeros_field((nz + 1, ny + 1, 3, stride), np.float64)
    for force in forces:
        nodes = _inside(force.name, force.nodes, layout)
        here = touched[tuple(nodes.T)]
        vectors = np.column_stack([force.z, force.y, force.x])
        if vectors[~here].any():
            node = tuple(int(n) for n in nodes[~here & vectors.any(axis=1)][0])
            raise SolveError(Reason.BAD_CONDITION, f"'{force.name}': the force at node {node} acts on no solid voxel.")
        moved, _ = layout.nodes_in(nodes[here])
        for internal, component in enumerate(layout.order):
            np.add.at(field[:, :, internal], (moved[:, 0], moved[:, 1], moved[:, 2]), vectors[here, component])
    return field


def held_pieces(model: VoxelModel, prescribed: Sequence[Prescribed], floating: str) -> np.ndarray:
    """The solid voxels that the conditions hold.

    Parameters
    ----------
    floating : {"refuse", "remove"}
        What to do with pieces (face-connected) on which nothing is prescribed.

    Returns
    -------
    bool ndarray of shape (nz, ny, nx)

    Raises
    ------
    SolveError
        ``floating_pieces``, or ``unconstrained_rigid_body`` with the motions that are free.
    """
    if floating not in ("refuse", "remove"):
        raise SolveError(Reason.BAD_CONDITION, f"floating = {floating!r}; it must be 'refuse' or 'remove'.")
    labels, count = ndimage.label(model.solid)
    rows, pieces = [], []
    edge, middle = np.asarray(model.spacing_mm), np.asarray(model.shape) / 2
    for condition in prescribed:
        given = [component for component, _ in condition.components()]
        if not given:
            continue
        inside = ((condition.nodes >= 0) & (condition.nodes < np.asarray(model.node_shape))).all(axis=1)
        nodes = condition.nodes[inside]
        for corner in np.ndindex(2, 2, 2):
            voxel = nodes - corner
            ok = ((voxel >= 0) & (voxel < np.asarray(model.shape))).all(axis=1)
            piece = labels[tuple(voxel[ok].T)]
            # turns are taken about the middle of the box: about a far origin they would look like shifts
            point = (nodes[ok][piece > 0] - middle) * edge
            for component in given:
                rows.append(_rigid_rows(point, component))
                pieces.append(piece[piece > 0])
    row = np.concatenate(rows) if rows else np.empty((0, 6))
    piece = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)
    held = np.zeros(count + 1, dtype=bool)
    order = np.argsort(piece, kind="stable")
    bounds = np.searchsorted(piece[order], np.arange(1, count + 2))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    for number in range(1, count + 1):
        mine = row[order[bounds[number - 1] : bounds[number]]]
        if len(mine) == 0:
            continue
        free = _free_motions(mine)
        if free:
            raise SolveError(
                Reason.UNCONSTRAINED,
                f"a piece of {sizes[number]} voxels is free to move: {', '.join(free)}.",
                remedy="Prescribe more components.",
            )
        held[number] = True
    if not held.any():
        raise SolveError(
            Reason.UNCONSTRAINED,
            f"nothing holds the model: {', '.join(_MOTIONS)} are free.",
            remedy="Prescribe displacements at nodes of solid voxels.",
        )
    if held[1:].all():
        return model.solid
    loose = int((~held[1:]).sum())
    if floating == "refuse":
        raise SolveError(
            Reason.FLOATING_PIECES,
            f"{loose} of {count} pieces ({int(sizes[1:][~held[1:]].sum())} voxels) are joined by no face to a held one.",
            remedy="Remove them, or pass floating='remove'.",
        )
    kept: np.ndarray = held[labels]
    return kept


def _rigid_rows(point: np.ndarray, component: int) -> np.ndarray:
    """How the six rigid motions move component `component` at points (n, 3): shifts, then turns."""
    rows = np.zeros((len(point), 6))
    rows[:, component] = 1
    first, second = [(1, 2), (2, 0), (0, 1)][component]
    # the turn about axis `first` moves `component` by +- the coordinate along the other axis
    rows[:, 3 + first] = point[:, second]
    rows[:, 3 + second] = -point[:, first]
    return rows


def _free_motions(rows: np.ndarray) -> list[str]:
    """Names of the rigid motions that the constraint rows leave free."""
    used = np.unique(rows, axis=0) if len(rows) < 2000 else rows
    size = max(float(np.abs(used[:, 3:]).max()), 1e-300)
    scaled = used.copy()
    scaled[:, 3:] /= size
    _, singular, vectors = np.linalg.svd(scaled.T @ scaled)
    null = vectors[singular < 1e-10 * singular[0]]
    if len(null) == 0:
        return []
    weight = (null**2).sum(axis=0)
    named = [name for name, w in zip(_MOTIONS, weight, strict=True) if w > 0.1]
    return named or [f"{len(null)} motions"]
