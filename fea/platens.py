"""Rigid platens: node sets that move as one rigid body, each of whose six motions is prescribed or loaded.

Method (docs/solver.md): conjugate gradients in the space of fields that are rigid at the nodes of each platen. With an
orthonormal basis Q of a platen's free motions, the residual there is projected, Q Q^T r, and everything else stays what it
is. The V-cycle holds the platens; what they may do is added by a small Galerkin correction,

    z = M r + Phi (Phi^T K Phi)^-1 Phi^T r,

in which Phi extends each free motion into the body.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import scipy.linalg
from numba import njit

from fea import kernels
from fea.errors import Reason, SolveError
from fea.grid import zeros_field
from fea.kernels import row
from fea.model import Prescribed, checked_nodes

if TYPE_CHECKING:
    from fea.multigrid import Multigrid
    from fea.supports import Conditions
    from fea.workers import Workers

MOTIONS = ("shift along z", "shift along y", "shift along x", "turn about z", "turn about y", "turn about x")
Three = tuple[float, float, float]
Motions = tuple[float | None, float | None, float | None]


def rigid_motions(arms_mm: np.ndarray) -> np.ndarray:
    """Displacements (z, y, x) of points by the six unit rigid motions in the order of `MOTIONS`.

    Parameters
    ----------
    arms_mm : float ndarray of shape (n, 3)
        Points (z, y, x) from the centre of the turns, which are right-handed for right-handed axes x, y, z.

    Returns
    -------
    float64 ndarray of shape (n, 3, 6)
    """
    moved = np.zeros((len(arms_mm), 3, 6))
    moved[:, [0, 1, 2], [0, 1, 2]] = 1
    z, y, x = arms_mm.T
    moved[:, 1, 3], moved[:, 2, 3] = x, -y
    moved[:, 0, 4], moved[:, 2, 4] = -x, z
    moved[:, 0, 5], moved[:, 1, 5] = y, -z
    return moved


@dataclass(frozen=True, eq=False)
class RigidPlaten:
    """A set of nodes tied together as one rigid body (small turns).

    Parameters
    ----------
    name : str
        Under which its motions and forces are reported.
    nodes : int ndarray of shape (n, 3)
        Node indices (k, j, i). Nodes that touch no solid voxel are ignored.
    shift_mm : three of float or None
        Displacement of the centre along (z, y, x); None leaves it free.
    turn_rad : three of float or None
        Turn about the axes (z, y, x) through the centre; None leaves it free.
    force_n, moment_nmm : tuple of 3 floats
        Applied where the motion is free: the force (z, y, x) at the centre and the moment about it.
    centre_mm : tuple of 3 floats, optional
        The centre (z, y, x); node (k, j, i) lies at (k, j, i) * spacing. Default: the mean of the nodes.

    Raises
    ------
    SolveError
        ``bad_condition``: numbers that are missing or not finite, or a motion both prescribed and loaded.
    """

    name: str
    nodes: np.ndarray
    shift_mm: Motions = (None, None, None)
    turn_rad: Motions = (None, None, None)
    force_n: Three = (0.0, 0.0, 0.0)
    moment_nmm: Three = (0.0, 0.0, 0.0)
    centre_mm: Three | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", np.unique(checked_nodes(self.name, self.nodes), axis=0))
        for field, optional in (("shift_mm", 1), ("turn_rad", 1), ("force_n", 0), ("moment_nmm", 0), ("centre_mm", 0)):
            given = getattr(self, field)
            if given is None and field == "centre_mm":
                continue
            three = tuple(None if value is None and optional else float(value) for value in given)
            if len(three) != 3 or not all(value is None or np.isfinite(value) for value in three):
                raise SolveError(Reason.BAD_CONDITION, f"'{self.name}': {field} must be three finite numbers.")
            object.__setattr__(self, field, three)
        for motion, free, load in zip(MOTIONS, self.free, self.loads, strict=True):
            if load and not free:
                raise SolveError(Reason.BAD_CONDITION, f"'{self.name}': the {motion} is both prescribed and loaded.")

    @property
    def free(self) -> np.ndarray:
        """Which of the six motions are free: bool (6,)."""
        return np.array([value is None for value in (*self.shift_mm, *self.turn_rad)])

    @property
    def prescribed(self) -> np.ndarray:
        """The six motions, zero where free: float64 (6,)."""
        return np.array([value or 0.0 for value in (*self.shift_mm, *self.turn_rad)])

    @property
    def loads(self) -> np.ndarray:
        """The three forces and the three moments applied: float64 (6,)."""
        return np.array([*self.force_n, *self.moment_nmm])

    def centre(self, spacing_mm: Three) -> np.ndarray:
        """Where the turns are taken about: float64 (3,)."""
        if self.centre_mm is not None:
            return np.array(self.centre_mm)
        return np.asarray(self.nodes.mean(axis=0) * spacing_mm if len(self.nodes) else np.zeros(3))

    def scaled(self, factor: float) -> RigidPlaten:
        """The same platen with its prescribed motions and loads multiplied by `factor`."""

        def times(three: Motions) -> Motions:
            z, y, x = (None if value is None else value * factor for value in three)
            return z, y, x

        force = np.multiply(self.force_n, factor).tolist()
        moment = np.multiply(self.moment_nmm, factor).tolist()
        return replace(
            self, shift_mm=times(self.shift_mm), turn_rad=times(self.turn_rad), force_n=force, moment_nmm=moment
        )

    def moved(self, motions: np.ndarray, spacing_mm: Three) -> Prescribed:
        """The displacements that the six motions give the nodes."""
        by_node = rigid_motions(self.nodes * spacing_mm - self.centre(spacing_mm)) @ motions
        return Prescribed(self.name, self.nodes, z=by_node[:, 0], y=by_node[:, 1], x=by_node[:, 2])


@dataclass(frozen=True, eq=False)
class PlatenState:
    """What a platen did.

    Attributes
    ----------
    shift_mm, turn_rad : float64 ndarray of shape (3,)
        Displacement (z, y, x) of the centre, and turns about the axes (z, y, x) through it.
    force_n, moment_nmm : float64 ndarray of shape (3,)
        What the platen exerts on the body, the moment about the centre: the reaction where the motion is prescribed, the
        load applied, up to the residual, where it is free.
    centre_mm : float64 ndarray of shape (3,)
    """

    shift_mm: np.ndarray
    turn_rad: np.ndarray
    force_n: np.ndarray
    moment_nmm: np.ndarray
    centre_mm: np.ndarray


class _FreeLevel(Protocol):
    nodes: int
    inverse: np.ndarray


Placer = Callable[[Sequence[Prescribed]], "Conditions"]


class Ties:
    """The platens of a model on its grid, whatever the fields look like: everything goes by flat indices.

    Parameters
    ----------
    platens : sequence of RigidPlaten
    others : sequence of Prescribed
        The other conditions, which must not share components with the platens.
    place : callable
        Puts prescribed displacements on the grid, as `supports.place`.
    spacing_mm : tuple of 3 floats

    Attributes
    ----------
    at : list of int64 ndarrays of shape (n,)
        For each platen the flat indices of its components.
    motions : list of float64 ndarrays of shape (n, 6)
        What the six unit motions do to them.
    basis : list of float64 ndarrays of shape (n, free)
        Orthonormal basis of what the free motions do.

    Raises
    ------
    SolveError
        ``conflicting_conditions`` for shared components.
    """

    def __init__(
        self, platens: Sequence[RigidPlaten], others: Sequence[Prescribed], place: Placer, spacing_mm: Three
    ) -> None:
        self.platens, self.spacing_mm = list(platens), spacing_mm
        self.at: list[np.ndarray] = []
        self.motions: list[np.ndarray] = []
        self.basis: list[np.ndarray] = []
        taken = place(others).at
        for platen in self.platens:
            columns = [place([platen.moved(unit, spacing_mm)]) for unit in np.eye(6)]
            at = columns[0].at
            if np.intersect1d(at, taken).size:
                raise SolveError(
                    Reason.CONFLICTING_CONDITIONS,
                    f"nodes of the platen '{platen.name}' belong to another platen or have prescribed displacements.",
                )
            taken = np.concatenate([taken, at])
            motions = np.column_stack([column.values_mm for column in columns])
            self.at.append(at)
            self.motions.append(motions)
            # independent columns: `supports.held_pieces` has refused platens with a motion that nothing resists
            self.basis.append(np.linalg.qr(motions[:, platen.free])[0])

    @property
    def count(self) -> int:
        """Free motions of all platens together."""
        return sum(basis.shape[1] for basis in self.basis)

    def project(self, forces: Sequence[np.ndarray], field: np.ndarray) -> float:
        """Write the rigid part of forces at the platens' components into a field; its dot product with itself."""
        flat, total = field.reshape(-1), 0.0
        for at, basis, force in zip(self.at, self.basis, forces, strict=True):
            part = basis.T @ force
            flat[at] = basis @ part
            total += float(part @ part)
        return total

    def finish(self, p: np.ndarray, kp: np.ndarray, level: _FreeLevel, workers: Workers, sums: np.ndarray) -> float:
        """Turn kp = K p on every component into what conjugate gradients want; returns p . kp.

        Zero at fixed and void components, projected at the platens. It serves any operator, elastic or tangent.
        """
        forces = self.gather(kp)
        workers.slabs(len(sums), level.nodes, partial(keep_free, p, kp, level.inverse, sums))
        self.project(forces, kp)
        tied = sum(float(given @ force) for given, force in zip(self.gather(p), forces, strict=True))
        return float(sums.sum()) + tied

    def gather(self, field: np.ndarray) -> list[np.ndarray]:
        """The entries of a field at the components of each platen."""
        return [field.reshape(-1)[at] for at in self.at]

    def loads(self, platens: Sequence[RigidPlaten]) -> list[np.ndarray] | None:
        """Smallest nodal forces with the resultants applied to each platen; None if nothing is applied."""
        if not any(platen.loads.any() for platen in platens):
            return None
        return [
            motions @ (np.linalg.pinv(motions.T @ motions, hermitian=True) @ platen.loads)
            for platen, motions in zip(platens, self.motions, strict=True)
        ]

    def fit(self, platens: Sequence[RigidPlaten], moved: Sequence[np.ndarray], x: np.ndarray) -> None:
        """Give the platens' components in x the displacements nearest to `moved` that the platens can do."""
        for platen, at, motions, basis, wish in zip(platens, self.at, self.motions, self.basis, moved, strict=True):
            given = motions @ platen.prescribed
            x.reshape(-1)[at] = given + basis @ (basis.T @ (wish - given))

    def states(
        self, platens: Sequence[RigidPlaten], x: np.ndarray, forces: Sequence[np.ndarray]
    ) -> dict[str, PlatenState]:
        """Motions and resultants from the displacements and from the forces exerted at the platens' components."""
        found = {}
        for platen, at, motions, force in zip(platens, self.at, self.motions, forces, strict=True):
            moved, free = platen.prescribed, platen.free
            rest = x.reshape(-1)[at] - motions @ moved
            moved[free] = np.linalg.lstsq(motions[:, free], rest, rcond=None)[0]
            total = motions.T @ force
            found[platen.name] = PlatenState(moved[:3], moved[3:], total[:3], total[3:], platen.centre(self.spacing_mm))
        return found


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def keep_free(p: np.ndarray, kp: np.ndarray, inverse: np.ndarray, sums: np.ndarray, z0: int, z1: int) -> None:
    """kp = 0 at fixed and void components;  sums[plane] = p . kp."""
    size = p.size // p.shape[0]
    flat_p, flat_k, flat_i = p.reshape(-1), kp.reshape(-1), inverse.reshape(-1)
    for k in range(z0, z1):
        total = 0.0
        ps, ks, scales = row(flat_p, k * size, size), row(flat_k, k * size, size), row(flat_i, k * size, size)
        for i in range(size):
            value = ks[i] if scales[i] > 0 else ks[i] * 0
            ks[i] = value
            total += ps[i] * value
        sums[k] = total


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def _products(fields: np.ndarray, right: np.ndarray, sums: np.ndarray, z0: int, z1: int) -> None:
    """sums[plane, n] = fields[n] . right."""
    size = right.size // right.shape[0]
    flat, given = fields.reshape(-1), right.reshape(-1)
    for n in range(fields.shape[0]):
        for k in range(z0, z1):
            total = 0.0
            fs, bs = row(flat, n * right.size + k * size, size), row(given, k * size, size)
            for i in range(size):
                total += fs[i] * bs[i]
            sums[k, n] = total


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def _add(fields: np.ndarray, weights: np.ndarray, x: np.ndarray, z0: int, z1: int) -> None:
    """x += sum of weights[n] fields[n]."""
    size = x.size // x.shape[0]
    flat, into = fields.reshape(-1), x.reshape(-1)
    for n in range(fields.shape[0]):
        weight = np.float32(weights[n])
        for k in range(z0, z1):
            fs, xs = row(flat, n * x.size + k * size, size), row(into, k * size, size)
            for i in range(size):
                xs[i] += weight * fs[i]


class PlatenCorrection:
    """The Galerkin correction on the free motions of the platens.

    Parameters
    ----------
    ties : Ties
    cycle : Multigrid
        With the platens' components fixed.
    start : callable
        Gives a first extension (float64 field) of a displacement of the platens' components, given per platen.

    Attributes
    ----------
    fields : float32 ndarray of shape (free motions, *field_shape)
        The extensions Phi: rigid at the platens, zero at what is fixed, nearly in equilibrium inside.
    """

    def __init__(self, ties: Ties, cycle: Multigrid, start: Callable[[list[np.ndarray]], np.ndarray]) -> None:
        grid = cycle.grids[0]
        level = grid.level
        self.workers, self.nodes = cycle.workers, level.nodes
        self.fields = zeros_field((ties.count, *level.field_shape), np.float32)
        self._sums = np.zeros((level.field_shape[0], ties.count))
        nothing, number = level.zeros(), 0
        for which, basis in enumerate(ties.basis):
            for column in basis.T:
                field = self.fields[number]
                field[:] = start([column if n == which else np.zeros(len(at)) for n, at in enumerate(ties.at)])
                # its residual, and what the cycle wants to begin with; then one cycle brings it near equilibrium
                level.smooth(kernels.START, field, 0.0, cycle.first_factor(), nothing, grid.right, grid.x, nothing)
                cycle.cycle()
                field += grid.x
                number += 1
        gram, double, image = [], level.zeros(np.float64), level.zeros(np.float64)
        for field in self.fields:
            double[:] = field
            level.apply(double, image)
            gram.append(self._resultants(image))  # forces at fixed components meet zeros of the fields
        matrix = np.array(gram)
        self._factor = scipy.linalg.cho_factor((matrix + matrix.T) / 2)

    def _resultants(self, right: np.ndarray) -> np.ndarray:
        """Phi^T right."""
        self.workers.slabs(len(self._sums), self.nodes, partial(_products, self.fields, right, self._sums))
        return np.asarray(self._sums.sum(axis=0))

    def add(self, right: np.ndarray, x: np.ndarray) -> float:
        """x += Phi (Phi^T K Phi)^-1 Phi^T right; what that adds to x . right."""
        resultants = self._resultants(right)
        weights = scipy.linalg.cho_solve(self._factor, resultants)
        self.workers.slabs(len(self._sums), self.nodes, partial(_add, self.fields, weights, x))
        return float(weights @ resultants)
