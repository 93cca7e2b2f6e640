"""The stiffness of one mesh of the hierarchy for models that are mostly void; the counterpart of `stiffness.Level`."""

from __future__ import annotations

from functools import partial

import numpy as np

from fea import kernels, mesh_kernels
from fea.element import CORNERS, modal_numbers, stiffness_matrix
from fea.grid import zeros_field
from fea.mesh import Mesh, Transfer, coarser_mesh
from fea.workers import Workers

_CHUNK = 3 * 1024  # entries; vector passes work through fields chunk by chunk, whatever the planes are


class MeshLevel:
    """A mesh with its stiffness.

    Fields are arrays of shape (chunks, entries) that hold, flat, three components per node and zeros at the end.

    Parameters
    ----------
    mesh : Mesh
    first, second : float32 ndarray of shape (elements,)
        Coefficients; the same array twice where Poisson's ratio is uniform.
    factors : tuple of 2 floats
        What they are to be multiplied by to give Lame's numbers.
    spacing_mm : tuple of 3 floats
    workers : Workers
    """

    def __init__(
        self,
        mesh: Mesh,
        first: np.ndarray,
        second: np.ndarray,
        factors: tuple[float, float],
        spacing_mm: tuple[float, float, float],
        workers: Workers,
    ) -> None:
        self.mesh, self.first, self.second, self.factors = mesh, first, second, factors
        self._stations, station, self._layer_start = mesh_kernels.strips(mesh.corners, mesh.layer_start)
        self._first = self._along_strips(first, station)
        self._second = self._first if second is first else self._along_strips(second, station)
        self.spacing_mm, self.workers = spacing_mm, workers
        self.numbers = modal_numbers(spacing_mm, *factors)
        self.numbers32 = self.numbers.astype(np.float32)
        self.nodes = mesh.nodes
        self.planes = len(mesh.plane_start) - 1
        self.field_shape = (-(-3 * self.nodes // _CHUNK), _CHUNK)
        self._scratch = mesh_kernels.scratch_size(int(np.diff(mesh.plane_start).max()))
        self.inverse = np.empty(0, np.float32)
        self.fixed = np.empty(0, bool)

    def _along_strips(self, coefficient: np.ndarray, station: np.ndarray) -> np.ndarray:
        values = np.zeros(self._stations.shape[1], np.float32)
        values[station] = coefficient
        return values

    def zeros(self, dtype: type = np.float32) -> np.ndarray:
        """A field of zeros on this mesh."""
        return zeros_field(self.field_shape, dtype)

    def diagonal(self) -> np.ndarray:
        """Diagonal of the stiffness, float64 field."""
        parts = []
        for source in (self.first,) if self.first is self.second else (self.first, self.second):
            total = np.zeros(self.nodes)
            for nodes in self.mesh.corners:
                total += np.bincount(nodes, source, minlength=self.nodes)
            parts.append(total)
        lam, mu = self.factors[0] * parts[0], self.factors[1] * parts[-1]
        s = 1 / np.asarray(self.spacing_mm) ** 2
        volume = float(np.prod(self.spacing_mm))
        field = self.zeros(np.float64)
        components = field.reshape(-1)[: 3 * self.nodes].reshape(-1, 3)
        for c in range(3):
            components[:, c] = volume / 9 * (lam * s[c] + mu * (s.sum() + s[c]))
        return field

    def fix(self, at: np.ndarray) -> None:
        """Set `inverse` from the diagonal and the flat indices of the fixed components."""
        diagonal = self.diagonal()
        usable = diagonal > 1e-9 * diagonal.max()
        self.fixed = np.zeros(self.field_shape, dtype=bool)
        self.fixed.reshape(-1)[at] = True
        usable &= ~self.fixed
        self.inverse = self.zeros()
        np.divide(1.0, diagonal, out=self.inverse, where=usable, casting="unsafe")

    def _run(
        self,
        mode: int,
        u: np.ndarray,
        out: np.ndarray,
        smoothing: tuple[np.float32, np.float32, np.ndarray, np.ndarray, np.ndarray] | None = None,
    ) -> float:
        kind = u.dtype.type
        sums = np.zeros(self.planes)
        numbers = self.numbers32 if kind is np.float32 else self.numbers
        self.workers.slabs(
            self.planes,
            self.nodes,
            partial(
                mesh_kernels.apply_slab, mode, u, self._stations, self._layer_start, self.mesh.plane_start, self._first,
                self._second, numbers, self.inverse, out, smoothing, sums,
            ),
            scratch=(kind, self._scratch),
        )  # fmt: skip
        return float(sums.sum())

    def apply(self, u: np.ndarray, out: np.ndarray) -> None:
        """out = K u on every component."""
        self._run(kernels.RAW, u, out)

    def apply_free(self, u: np.ndarray, out: np.ndarray) -> float:
        """out = K u on the free components, 0 elsewhere; returns u . out."""
        return self._run(kernels.MASKED_DOT, u, out)

    def smooth(
        self,
        mode: int,
        u: np.ndarray,
        c1: float,
        c2: float,
        source: np.ndarray,
        residual: np.ndarray,
        direction: np.ndarray,
        x: np.ndarray,
    ) -> float:
        """One smoothing step, one of the modes of `kernels.apply_slab`."""
        return self._run(mode, u, residual, (np.float32(c1), np.float32(c2), source, direction, x))

    def coarser(self, factors: tuple[int, int, int]) -> tuple[MeshLevel, Transfer]:
        """The next mesh, each piece with the sum of its elements' coefficients over the volume of a coarse voxel.

        A component is fixed where the coincident fine one is, or where, by weight, half of those are that interpolate from it.
        """
        mesh, transfer, piece = coarser_mesh(self.mesh, factors)
        count, volume = len(mesh.cells), np.prod(factors)
        first = (np.bincount(piece, self.first, minlength=count) / volume).astype(np.float32)
        second = first
        if self.second is not self.first:
            second = (np.bincount(piece, self.second, minlength=count) / volume).astype(np.float32)
        spacing = tuple(h * f for h, f in zip(self.spacing_mm, factors, strict=True))
        coarse = MeshLevel(mesh, first, second, self.factors, (spacing[0], spacing[1], spacing[2]), self.workers)
        fixed = self.fixed.reshape(-1)[: 3 * self.nodes].reshape(-1, 3)
        row = np.repeat(np.arange(mesh.nodes), np.diff(transfer.back_start))
        weight = 0.5**transfer.back_halvings
        whole = np.bincount(row, weight, minlength=mesh.nodes)
        at = []
        for c in range(3):
            held = fixed[transfer.back_index, c]
            part = np.bincount(row, weight * held, minlength=mesh.nodes)
            part[row[held & (weight == 1)]] = np.inf
            at.append(3 * np.flatnonzero(part >= 0.5 * whole) + c)
        coarse.fix(np.concatenate(at))
        return coarse, transfer

    def restrict(self, transfer: Transfer, residual: np.ndarray, coarse: MeshLevel, right: np.ndarray) -> None:
        """right = masked(P^T residual)."""
        self.workers.slabs(
            coarse.nodes,
            self.nodes,
            partial(
                mesh_kernels.restrict, transfer.back_start, transfer.back_index, transfer.back_halvings, residual,
                coarse.inverse, right,
            ),
        )  # fmt: skip

    def prolong(self, transfer: Transfer, correction: np.ndarray, x: np.ndarray) -> None:
        """x += masked(P correction)."""
        self.workers.slabs(
            self.nodes,
            self.nodes,
            partial(mesh_kernels.prolong, transfer.start, transfer.index, correction, self.inverse, x),
        )

    def dense(self) -> tuple[np.ndarray, np.ndarray]:
        """Stiffness of the free components, float64, and their flat indices."""
        parts = [stiffness_matrix(self.spacing_mm, 1.0, 0.0), stiffness_matrix(self.spacing_mm, 0.0, 1.0)]
        where = (3 * self.mesh.corners.T.astype(np.int64)[:, :, None] + np.arange(3)).reshape(-1, 3 * len(CORNERS))
        free = np.flatnonzero(self.inverse.reshape(-1) > 0)
        number = np.full(self.inverse.size, -1)
        number[free] = np.arange(len(free))
        local = number[where]
        lam = self.factors[0] * self.first.astype(np.float64)
        mu = self.factors[1] * self.second.astype(np.float64)
        entry = lam[:, None, None] * parts[0] + mu[:, None, None] * parts[1]
        both = (local[:, :, None] >= 0) & (local[:, None, :] >= 0)
        place = (local[:, :, None] * len(free) + local[:, None, :])[both]
        matrix: np.ndarray = np.bincount(place, entry[both], minlength=len(free) ** 2).reshape(len(free), len(free))
        return matrix, free
