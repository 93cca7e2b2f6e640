"""The stiffness of one mesh of the hierarchy for models that are mostly void; the counterpart of `stiffness.Level`."""

from __future__ import annotations

from functools import partial

import numpy as np

from fea import mesh_kernels
from fea.element import Spacing
from fea.mesh import Mesh, Transfer, coarser_mesh
from fea.mesh_layout import field_shape
from fea.stiffness import HELD_SHARE, Elasticity, Stiffness, coarsening, dense_stiffness
from fea.workers import Workers

# Degrees of the smoother, finest mesh first; each mesh has about a fifth of the elements of the one before.
MESH_DEGREES = (2, 6, 12, 24)


class MeshLevel(Stiffness):
    """A mesh with its stiffness.

    Fields are arrays of shape (chunks, entries) that hold, flat, three components per node and zeros at the end.

    Parameters
    ----------
    mesh : Mesh
    first, second : float32 ndarray of shape (elements,)
        Coefficients; the same array twice where Poisson's ratio is uniform.
    elasticity : Elasticity
        What they are coefficients of; isotropic.
    spacing_mm : tuple of 3 floats
    workers : Workers
    """

    def __init__(
        self,
        mesh: Mesh,
        first: np.ndarray,
        second: np.ndarray,
        elasticity: Elasticity,
        spacing_mm: Spacing,
        workers: Workers,
    ) -> None:
        super().__init__(elasticity, spacing_mm, workers)
        self._source: tuple[Mesh, np.ndarray, np.ndarray] | None = (mesh, first, second)
        self._plane_start = mesh.plane_start
        self._stations, station, self._layer_start = mesh_kernels.strips(mesh.corners, mesh.layer_start)
        self._first = self._along_strips(first, station)
        self._second = self._first if second is first else self._along_strips(second, station)
        self.nodes = mesh.nodes
        self.planes = len(self._plane_start) - 1
        self.field_shape = field_shape(self.nodes)
        self._scratch = mesh_kernels.scratch_size(int(np.diff(mesh.plane_start).max()))
        self.degrees = MESH_DEGREES
        self._transfer: Transfer | None = None

    def _along_strips(self, coefficient: np.ndarray, station: np.ndarray) -> np.ndarray:
        values = np.zeros(self._stations.shape[1], np.float32)
        values[station] = coefficient
        return values

    @property
    def source(self) -> tuple[Mesh, np.ndarray, np.ndarray]:
        """The mesh and its coefficients; given up, for their memory, once the coarser mesh has been made of them."""
        if self._source is None:
            raise RuntimeError("the mesh has been given up")
        return self._source

    def diagonal(self) -> np.ndarray:
        """Diagonal of the stiffness, float64 field."""
        field = self.zeros(np.float64)
        components = field.reshape(-1)[: 3 * self.nodes].reshape(-1, 3)
        mesh, first, second = self.source
        parts = list(zip((first, second), self.elasticity.diagonals(self.spacing_mm), strict=True))
        if first is second:
            parts = [(first, parts[0][1] + parts[1][1])]
        for source, entries in parts:
            total = np.zeros(self.nodes)
            for nodes in mesh.corners:
                total += np.bincount(nodes, source, minlength=self.nodes)
            components += entries * total[:, None]
        return field

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
                mesh_kernels.apply_slab, mode, u, self._stations, self._layer_start, self._plane_start, self._first,
                self._second, numbers, self.inverse, out, smoothing, sums,
            ),
            scratch=(kind, self._scratch),
        )  # fmt: skip
        return float(sums.sum())

    def coarser(self) -> MeshLevel | None:
        """The next mesh, each piece with the sum of its elements' coefficients over the volume of a coarse voxel.

        A component is fixed where the coincident fine one is, or where fixed ones hold a share of it (`HELD_SHARE`).
        """
        fine, *coefficients = self.source
        factors = coarsening(fine.extents, self.spacing_mm)
        if factors == (1, 1, 1):
            return None
        mesh, transfer, piece = coarser_mesh(fine, factors)
        self._transfer = transfer
        count, volume = len(mesh.cells), np.prod(factors)
        first = (np.bincount(piece, coefficients[0], minlength=count) / volume).astype(np.float32)
        second = first
        if coefficients[1] is not coefficients[0]:
            second = (np.bincount(piece, coefficients[1], minlength=count) / volume).astype(np.float32)
        z, y, x = (h * f for h, f in zip(self.spacing_mm, factors, strict=True))
        coarse = MeshLevel(mesh, first, second, self.elasticity, (z, y, x), self.workers)
        fixed = self.fixed.reshape(-1)[: 3 * self.nodes].reshape(-1, 3)
        row = np.repeat(np.arange(mesh.nodes), np.diff(transfer.back_start))
        weight = 0.5**transfer.back_halvings
        whole = np.bincount(row, weight, minlength=mesh.nodes)
        at = []
        for c in range(3):
            held = fixed[transfer.back_index, c]
            part = np.bincount(row, weight * held, minlength=mesh.nodes)
            part[row[held & (weight == 1)]] = np.inf
            at.append(3 * np.flatnonzero(part > HELD_SHARE * whole) + c)
        coarse.fix(np.concatenate(at))
        self._source, self.fixed = None, np.empty(0, bool)
        return coarse

    def _interpolation(self) -> Transfer:
        if self._transfer is None:
            raise RuntimeError("the coarser mesh has not been made")
        return self._transfer

    def restrict(self, residual: np.ndarray, coarse: MeshLevel, right: np.ndarray) -> None:
        """right = masked(P^T residual)."""
        transfer = self._interpolation()
        self.workers.slabs(
            coarse.nodes,
            self.nodes,
            partial(
                mesh_kernels.restrict, transfer.back_start, transfer.back_index, transfer.back_halvings, residual,
                coarse.inverse, right,
            ),
        )  # fmt: skip

    def prolong(self, correction: np.ndarray, coarse: MeshLevel, x: np.ndarray) -> None:
        """x += masked(P correction)."""
        transfer = self._interpolation()
        self.workers.slabs(
            self.nodes,
            self.nodes,
            partial(mesh_kernels.prolong, transfer.start, transfer.index, correction, self.inverse, x),
        )

    def dense(self) -> tuple[np.ndarray, np.ndarray]:
        """Stiffness of the free components, float64, and their flat indices."""
        mesh, first, second = self.source
        where = (3 * mesh.corners.T.astype(np.int64)[:, :, None] + np.arange(3)).reshape(-1, 24)
        return dense_stiffness(self.inverse, where, first, second, self.elasticity, self.spacing_mm)
