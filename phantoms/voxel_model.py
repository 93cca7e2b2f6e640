"""A voxel model with its supports, in the exchange format of the solver, and how an analytic solid becomes one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phantoms.materials import Materials
from phantoms.solids import Solid
from phantoms.voxelise import Lattice, render

POISSON = 0.3


@dataclass(frozen=True)
class LoadedModel:
    """Moduli of voxels, and which nodes are held or moved.

    Attributes
    ----------
    modulus_mpa : float32 ndarray of shape (nz, ny, nx)
        0 where there is nothing; z is the direction of the load, upwards.
    spacing_mm : float
    prescribed_index : int32 ndarray of shape (n, 4)
        Node k, j, i and component (0 = z, 1 = y, 2 = x).
    prescribed_mm : float ndarray of shape (n,)
    prescribed_set : int32 ndarray of shape (n,)
        Which of `set_names` each belongs to: reactions are summed over a set.
    set_names : tuple of str
    shortening_mm : float
        How far the upper end comes down; 0 in bending.
    poisson : float
    stiffness_n_mm : float or None
        Force per shortening in closed form, where there is one.
    turn_rad : float
        By how much the upper end turns about x; 0 without bending.
    bending_stiffness_n_mm : float or None
        Moment per turn (N mm per rad) in closed form.
    """

    modulus_mpa: NDArray[np.float32]
    spacing_mm: float
    prescribed_index: NDArray[np.int32]
    prescribed_mm: NDArray[np.float64]
    prescribed_set: NDArray[np.int32]
    set_names: tuple[str, ...]
    shortening_mm: float = 0.0
    poisson: float = POISSON
    stiffness_n_mm: float | None = None
    turn_rad: float = 0.0
    bending_stiffness_n_mm: float | None = None

    def save(self, path: Path | str) -> Path:
        """Write in the exchange format."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            target,
            modulus_mpa=self.modulus_mpa,
            spacing_mm=np.full(3, self.spacing_mm),
            poisson=np.array(self.poisson),
            prescribed_index=self.prescribed_index,
            prescribed_mm=self.prescribed_mm,
            prescribed_set=self.prescribed_set,
            prescribed_names=np.array(self.set_names),
        )
        return target


class Supports:
    """Collects prescribed displacements by named set."""

    def __init__(self) -> None:
        self._index: list[NDArray[np.int64]] = []
        self._value: list[NDArray[np.float64]] = []
        self._member: list[NDArray[np.int32]] = []
        self._names: list[str] = []

    def hold(self, name: str, nodes: NDArray[np.int64], component: int, value_mm: NDArray | float = 0.0) -> None:
        """Prescribe one component (0 = z, 1 = y, 2 = x) of nodes of shape (n, 3)."""
        if name not in self._names:
            self._names.append(name)
        count = len(nodes)
        self._index.append(np.column_stack([nodes, np.full(count, component)]))
        self._value.append(np.broadcast_to(np.asarray(value_mm, float), count))
        self._member.append(np.full(count, self._names.index(name), np.int32))

    def model(self, modulus_mpa: NDArray[np.float32], spacing_mm: float, **known: float | None) -> LoadedModel:
        """The model with what has been collected; `known` are further fields of `LoadedModel`."""
        return LoadedModel(
            modulus_mpa,
            spacing_mm,
            np.concatenate(self._index).astype(np.int32),
            np.concatenate(self._value),
            np.concatenate(self._member),
            tuple(self._names),
            **{name: value for name, value in known.items() if value is not None},
        )


def voxels(
    solids: Sequence[Solid],
    axes: NDArray[np.float64],
    middle: NDArray[np.float64],
    shape: tuple[int, int, int],
    voxel_mm: float,
    seed: int,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Mineral density and membership on cubic voxels round a point; rows of `axes` are the model's x, y, z in LPS."""
    matrix = np.eye(4)
    matrix[:3, :3] = axes[::-1].T * voxel_mm
    matrix[:3, 3] = middle - matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
    density, labels = render(solids, Lattice(shape, matrix), Materials.mineral_only(), background=None, seed=seed)
    return density, labels == solids[0].label


def cropped(modulus: NDArray[np.float32]) -> NDArray[np.float32]:
    """The part of a field that is filled."""
    filled = np.argwhere(modulus > 0)
    low, high = filled.min(axis=0), filled.max(axis=0) + 1
    return np.ascontiguousarray(modulus[low[0] : high[0], low[1] : high[1], low[2] : high[2]])


def nodes_of(plane: NDArray[np.bool_], level: int) -> NDArray[np.int64]:
    """Nodes (k, j, i) of the filled voxels of one plane, at node level `level`."""
    touched = np.zeros((plane.shape[0] + 1, plane.shape[1] + 1), bool)
    for dj in (0, 1):
        for di in (0, 1):
            touched[dj : dj + plane.shape[0], di : di + plane.shape[1]] |= plane
    j, i = np.nonzero(touched)
    return np.stack([np.full(len(j), level), j, i], axis=1)


def between_platens(
    modulus: NDArray[np.float32],
    voxel_mm: float,
    *,
    strain: float = 0.0,
    turn_rad: float = 0.0,
    poisson: float = POISSON,
    stiffness_n_mm: float | None = None,
    bending_stiffness_n_mm: float | None = None,
) -> LoadedModel:
    """Between two smooth platens, the upper of which comes down by a strain, or turns about x.

    The lower plane keeps its height; one node and a direction of a second hold the rest.
    """
    part = cropped(modulus)
    height = part.shape[0] * voxel_mm
    bottom, top = nodes_of(part[0] > 0, 0), nodes_of(part[-1] > 0, part.shape[0])
    centre = bottom[:, 1:].mean(axis=0)
    pinned = bottom[np.hypot(*(bottom[:, 1:] - centre).T).argmin()]
    row = bottom[bottom[:, 1] == pinned[1]]
    guided = row[np.abs(row[:, 2] - pinned[2]).argmax()]
    supports = Supports()
    supports.hold("bottom", bottom, 0)
    supports.hold("top", top, 0, -strain * height + turn_rad * (top[:, 1] - centre[0]) * voxel_mm)
    supports.hold("guide", pinned[None], 1)
    supports.hold("guide", pinned[None], 2)
    supports.hold("guide", guided[None], 1)
    return supports.model(
        part,
        voxel_mm,
        shortening_mm=strain * height,
        poisson=poisson,
        stiffness_n_mm=stiffness_n_mm,
        turn_rad=turn_rad,
        bending_stiffness_n_mm=bending_stiffness_n_mm,
    )
