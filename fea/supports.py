"""Boundary conditions on the grid, and the proof that they hold every piece of the model.

Pieces are joined by faces. A piece is held if conditions, platens, and the nodes it shares with held pieces (across edges
and corners) leave it no rigid motion. Two pieces that share one corner or one edge are a hinge, about which they turn
without force: such a piece is not held by it. What carries conditions and can still move is refused by the name of the
motion; what carries none is refused or removed, as asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from fea.errors import Reason, SolveError
from fea.grid import Layout, zeros_field
from fea.mesh_layout import MeshLayout
from fea.model import NodalForce, Prescribed, VoxelModel
from fea.platens import MOTIONS, RigidPlaten, rigid_motions

AnyLayout = Layout | MeshLayout


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


def place(layout: AnyLayout, prescribed: Sequence[Prescribed], touched: np.ndarray) -> Conditions:
    """Put prescribed displacements on the grid.

    Raises
    ------
    SolveError
        ``bad_condition`` for nodes outside the box or a set that touches no material, ``conflicting_conditions`` if
        one component is given two values.
    """
    collected: dict[str, list[tuple[np.ndarray, int]]] = {}
    placed: list[tuple[np.ndarray, np.ndarray, str]] = []
    for condition in prescribed:
        nodes = _inside(condition.name, condition.nodes, layout)
        here = touched[tuple(nodes.T)]
        if not here.any():
            raise SolveError(
                Reason.BAD_CONDITION, f"no node of the set '{condition.name}' is a corner of a solid voxel."
            )
        for component, given in condition.components():
            at = layout.flat(nodes[here], component)
            placed.append((at, given[here], condition.name))
            collected.setdefault(condition.name, []).append((at, component))
    sets = {}
    for name, parts in collected.items():
        # a component that the set names twice is held once
        at, first = np.unique(np.concatenate([at for at, _ in parts]), return_index=True)
        sets[name] = at, np.concatenate([np.full(len(at), component) for at, component in parts])[first]
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


def _inside(name: str, nodes: np.ndarray, layout: AnyLayout) -> np.ndarray:
    outside = ((nodes < 0) | (nodes >= np.asarray(layout.node_shape))).any(axis=1)
    if outside.any():
        node = tuple(int(n) for n in nodes[outside][0])
        raise SolveError(Reason.BAD_CONDITION, f"'{name}': node {node} lies outside the grid {layout.node_shape}.")
    return nodes


def force_field(layout: AnyLayout, forces: Sequence[NodalForce], touched: np.ndarray) -> np.ndarray:
    """Sum of the nodal forces as an internal field, N.

    Raises
    ------
    SolveError
        ``bad_condition`` if a force that is not zero acts on a node without material or outside the grid.
    """
    field = zeros_field(layout.field_shape, np.float64)
    for force in forces:
        nodes = _inside(force.name, force.nodes, layout)
        here = touched[tuple(nodes.T)]
        vectors = np.column_stack([force.z, force.y, force.x])
        if vectors[~here].any():
            node = tuple(int(n) for n in nodes[~here & vectors.any(axis=1)][0])
            raise SolveError(Reason.BAD_CONDITION, f"'{force.name}': the force at node {node} acts on no solid voxel.")
        for component in range(3):
            np.add.at(field.reshape(-1), layout.flat(nodes[here], component), vectors[here, component])
    return field


def imbalance(conditions: Conditions, exerted: np.ndarray, forces: Sequence[NodalForce], allowed: float) -> float:
    """Sum of reactions and forces over the sum of their magnitudes.

    Rigid shifts cost no force, so the sum is that of the residual's components, at most `allowed`. If it is larger, the
    operator was not what it should be.

    Raises
    ------
    SolveError
        ``not_converged``.
    """
    total, size = np.zeros(3), 0.0
    if conditions.sets:
        at, first = np.unique(np.concatenate([at for at, _ in conditions.sets.values()]), return_index=True)
        component = np.concatenate([component for _, component in conditions.sets.values()])[first]
        total += np.bincount(component, exerted[np.searchsorted(conditions.at, at)], minlength=3)
        size += float(np.abs(exerted).sum())
    for force in forces:
        parts = np.array([np.sum(force.z), np.sum(force.y), np.sum(force.x)])
        total += parts
        size += float(np.abs(force.z).sum() + np.abs(force.y).sum() + np.abs(force.x).sum())
    left = float(np.linalg.norm(total))
    if not left <= max(allowed, 1e-6 * size):
        raise SolveError(
            Reason.NOT_CONVERGED, f"reactions and forces, {size:.3g} N in all, leave {left:.3g} N: no equilibrium."
        )
    return left / size if size else 0.0


def held_pieces(
    model: VoxelModel, prescribed: Sequence[Prescribed], floating: str, platens: Sequence[RigidPlaten] = ()
) -> np.ndarray:
    """The solid voxels that the conditions hold.

    Parameters
    ----------
    model : VoxelModel
    prescribed : sequence of Prescribed
    floating : {"refuse", "remove"}
        What to do with pieces (joined by faces) that carry no condition and are not held by their neighbours.
    platens : sequence of RigidPlaten

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
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    frame = _Frame(model)
    # the matrix R^T R of a piece's constraint rows R says which rigid motions they resist
    conditioned = np.zeros((count + 1, 6, 6))
    for condition in prescribed:
        point, piece = _touching(condition.nodes, labels, frame)
        for component, _ in condition.components():
            _collect(conditioned, piece, rigid_motions(point)[:, component])
    tied = np.zeros((len(platens), count + 1, 6, 6))
    for platen, resistance in zip(platens, tied, strict=True):
        point, piece = _touching(platen.nodes, labels, frame)
        _collect(resistance, np.repeat(piece, 3), rigid_motions(point).reshape(-1, 6))
    resisted: np.ndarray = conditioned + tied.sum(axis=0)
    own = np.asarray(resisted.any(axis=(1, 2)))
    held = np.array([number > 0 and own[number] and not _free_motions(resisted[number]) for number in range(count + 1)])
    hinged = np.zeros(count + 1, dtype=bool)
    if not held[1:].all() and held.any():
        held, hinged, resisted = _held_by_neighbours(held, resisted, labels, frame)
    for number in np.flatnonzero(own & ~held):
        free = _free_motions(resisted[number])
        raise SolveError(
            Reason.UNCONSTRAINED,
            f"a piece of {sizes[number]} voxels is free to move: {', '.join(free)}.",
            remedy="Prescribe more components.",
        )
    if not held.any():
        raise SolveError(
            Reason.UNCONSTRAINED,
            f"nothing holds the model: {', '.join(MOTIONS)} are free.",
            remedy="Prescribe displacements at nodes of solid voxels.",
        )
    if platens:
        _require_held_platens(platens, tied, conditioned, frame)
    loose = np.flatnonzero(~held[1:]) + 1
    if not len(loose):
        return model.solid
    if floating == "refuse":
        hinges = int(hinged[loose].sum())
        raise SolveError(
            Reason.FLOATING_PIECES,
            f"{len(loose)} of {count} pieces ({int(sizes[loose].sum())} voxels) are joined by no face to a held one"
            + (
                f"; {hinges} of them hang on it by a hinge, an edge or a corner about which they can turn."
                if hinges
                else "."
            ),
            remedy="Remove them, or pass floating='remove'.",
        )
    kept: np.ndarray = held[labels]
    return kept


class _Frame:
    """Coordinates about the middle of the box, in units of its size: about a far origin turns would look like shifts."""

    def __init__(self, model: VoxelModel) -> None:
        edge = self.edge = np.asarray(model.spacing_mm)
        self.middle = np.asarray(model.shape) / 2
        self.scale = edge / float((edge * self.middle).max())

    def arm(self, platen: RigidPlaten) -> np.ndarray:
        """The centre of a platen's turns."""
        centre = platen.centre(tuple(self.edge))
        return np.asarray((centre / self.edge - self.middle) * self.scale)

    def __call__(self, nodes: np.ndarray) -> np.ndarray:
        return np.asarray((nodes - self.middle) * self.scale)


def _touching(nodes: np.ndarray, labels: np.ndarray, frame: _Frame) -> tuple[np.ndarray, np.ndarray]:
    """Points and pieces for each pair of a node and a piece it is a corner of."""
    points, pieces = [], []
    for corner in np.ndindex(2, 2, 2):
        voxel = nodes - corner
        ok = ((voxel >= 0) & (voxel < np.asarray(labels.shape))).all(axis=1)
        piece = labels[tuple(voxel[ok].T)]
        points.append(frame(nodes[ok][piece > 0]))
        pieces.append(piece[piece > 0])
    return np.concatenate(points), np.concatenate(pieces)


def _collect(resisted: np.ndarray, piece: np.ndarray, rows: np.ndarray) -> None:
    """resisted[piece] += row^T row for rows (n, 6)."""
    if not len(piece):
        return
    order = np.argsort(piece, kind="stable")
    numbers, start = np.unique(piece[order], return_index=True)
    for number, mine in zip(numbers, np.split(rows[order], start[1:]), strict=True):
        resisted[number] += mine.T @ mine


def _held_by_neighbours(
    held: np.ndarray, resisted: np.ndarray, labels: np.ndarray, frame: _Frame
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Let held pieces hold others across shared edges and corners, as often as that goes on.

    Returns which are held then, which of the others share a node with a held one, and what all resist now.
    """
    loose = np.argwhere((labels > 0) & ~held[labels])
    mine = labels[tuple(loose.T)]
    around = np.pad(labels, 1)
    meetings = []
    for corner in np.ndindex(2, 2, 2):
        node = loose + corner
        for side in np.ndindex(2, 2, 2):
            other = around[tuple((node + side).T)]
            meets = (other > 0) & (other != mine)
            meetings.append(np.column_stack([mine[meets], other[meets], node[meets]]))
    contact = np.unique(np.concatenate(meetings), axis=0)
    held, resisted = held.copy(), resisted.copy()
    hinged = np.zeros_like(held)
    new = held
    while True:
        # nodes shared with a piece that was found to be held in the last round
        useful = contact[new[contact[:, 1]] & ~held[contact[:, 0]]]
        if not len(useful):
            return held, hinged & ~held, resisted
        _collect(resisted, np.repeat(useful[:, 0], 3), rigid_motions(frame(useful[:, 2:])).reshape(-1, 6))
        hinged[useful[:, 0]] = True
        new = np.zeros_like(held)
        for number in np.unique(useful[:, 0]):
            new[number] = not _free_motions(resisted[number])
        held |= new


def _require_held_platens(
    platens: Sequence[RigidPlaten], tied: np.ndarray, conditioned: np.ndarray, frame: _Frame
) -> None:
    """Refuse platens whose free motions nothing resists, or only other platens that may move along.

    For the pieces as rigid bodies tied to the platens, the energy left when each piece has taken the motion that costs
    least is a quadratic form in the motions of the platens; its null space is what nothing resists.
    """
    size = 6 * len(platens)
    form = np.zeros((len(platens), 6, len(platens), 6))
    for number in np.flatnonzero(tied.any(axis=(0, 2, 3))):
        mine = tied[:, number]
        inverse = np.linalg.pinv(conditioned[number] + mine.sum(axis=0), rcond=1e-10, hermitian=True)
        for one in range(len(platens)):
            form[one, :, one] += mine[one]
            form[one] -= np.einsum("ij,jk,pkl->ipl", mine[one], inverse, mine)
    # the motions of a platen, taken about its own centre, as motions about the middle of the box
    free = []
    for which, platen in enumerate(platens):
        arm = frame.arm(platen)
        for motion in np.flatnonzero(platen.free).tolist():
            vector = np.zeros((len(platens), 6))
            vector[which] = _about_the_middle(motion, arm)
            free.append((vector.ravel(), platen, motion))
    if not free:
        return
    basis = np.array([vector for vector, _, _ in free]).T
    whole = form.reshape(size, size)
    values, vectors = np.linalg.eigh(basis.T @ whole @ basis)
    scale = max(float(np.trace(whole)), 1e-300)
    null = vectors[:, values < 1e-10 * scale]
    if null.shape[1]:
        weight = (null**2).sum(axis=1)
        named = [(platen.name, MOTIONS[motion]) for (_, platen, motion), w in zip(free, weight, strict=True) if w > 0.1]
        raise SolveError(
            Reason.UNCONSTRAINED,
            "platens are free to move, and nothing resists: "
            + ", ".join(f"'{name}' {motion}" for name, motion in named)
            + ".",
            remedy="Prescribe these motions, or hold the body elsewhere.",
        )


def _about_the_middle(motion: int, arm: np.ndarray) -> np.ndarray:
    """A unit motion of a body about its own centre at `arm`, as the six motions about the middle of the box."""
    vector = np.zeros(6)
    vector[motion] = 1
    if motion >= 3:
        vector[:3] = rigid_motions(-arm[None])[0, :, motion]
    return vector


def _free_motions(resisted: np.ndarray) -> list[str]:
    """Names of the rigid motions that the matrix R^T R of a piece's constraint rows does not resist."""
    singular, vectors = np.linalg.eigh(resisted)
    null = vectors.T[singular < 1e-10 * max(singular[-1], 1e-300)]
    if len(null) == 0:
        return []
    weight = (null**2).sum(axis=0)
    named = [name for name, w in zip(MOTIONS, weight, strict=True) if w > 0.1]
    return named or [f"{len(null)} motions"]
