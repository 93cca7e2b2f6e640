"""Forces of a displacement with dense element matrices: slow, simple, and nothing shared with the solver."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fea import NodalForce, Prescribed, VoxelModel

_CORNERS = [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]


def element_matrices(spacing_mm: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Stiffness of a box of lambda = 1 and of one of mu = 1, (24, 24) each, by 2 x 2 x 2 Gauss points.

    Row 3 n + c belongs to component c (z, y, x) of corner n, the last axis changing fastest.
    """
    volume, lam, mu = float(np.prod(spacing_mm)), np.zeros((24, 24)), np.zeros((24, 24))
    points = (0.5 - np.sqrt(1 / 12), 0.5 + np.sqrt(1 / 12))
    for point in [(a, b, c) for a in points for b in points for c in points]:
        slope = np.empty((8, 3))
        for n, corner in enumerate(_CORNERS):
            value = [point[a] if corner[a] else 1 - point[a] for a in range(3)]
            for a in range(3):
                others = value[(a + 1) % 3] * value[(a + 2) % 3]
                slope[n, a] = (1 if corner[a] else -1) * others / spacing_mm[a]
        # gradient[a, b] of the displacement: derivative of component a along b
        gradient = np.zeros((3, 3, 24))
        for a in range(3):
            gradient[a, :, a::3] = slope.T
        divergence = gradient[0, 0] + gradient[1, 1] + gradient[2, 2]
        strain = (gradient + gradient.transpose(1, 0, 2)) / 2
        lam += volume / 8 * np.outer(divergence, divergence)
        mu += volume / 8 * 2 * np.einsum("abm,abn->mn", strain, strain)
    return lam, mu


def plain_forces(model: VoxelModel, displacement_mm: np.ndarray) -> np.ndarray:
    """K u of an isotropic model, in the shape of `displacement_mm`: (nz+1, ny+1, nx+1, 3)."""
    nz, ny, nx = model.shape
    of_lam, of_mu = element_matrices(model.spacing_mm)
    force = np.zeros_like(displacement_mm)
    for k in range(nz):
        local = np.stack([displacement_mm[k + a, b : b + ny, c : c + nx] for a, b, c in _CORNERS], axis=2)
        local = local.reshape(ny, nx, 24)
        modulus = model.modulus_mpa[k].astype(np.float64)
        poisson = np.where(modulus > 0, np.broadcast_to(model.poisson, model.shape)[k], 0.0)
        lam = modulus * poisson / ((1 + poisson) * (1 - 2 * poisson))
        mu = modulus / (2 * (1 + poisson))
        forces = (lam[..., None] * (local @ of_lam) + mu[..., None] * (local @ of_mu)).reshape(ny, nx, 8, 3)
        for n, (a, b, c) in enumerate(_CORNERS):
            force[k + a, b : b + ny, c : c + nx] += forces[:, :, n]
    return force


def independent_check(
    model: VoxelModel, prescribed: Sequence[Prescribed], forces: Sequence[NodalForce], displacement_mm: np.ndarray
) -> tuple[float, float]:
    """Relative residual over the free components, and the z reaction on the highest prescribed node plane (N)."""
    touched = np.zeros(displacement_mm.shape[:3], bool)
    nz, ny, nx = model.shape
    for a, b, c in _CORNERS:
        touched[a : a + nz, b : b + ny, c : c + nx] |= model.solid
    free = np.repeat(touched[..., None], 3, axis=3)
    lift, load = np.zeros_like(displacement_mm), np.zeros_like(displacement_mm)
    for condition in prescribed:
        for component, values in condition.components():
            free[(*condition.nodes.T, component)] = False
            lift[(*condition.nodes.T, component)] = values
    for force in forces:
        np.add.at(load, tuple(force.nodes.T), np.column_stack([force.z, force.y, force.x]))
    lift *= touched[..., None]
    internal = plain_forces(model, displacement_mm)
    reference = np.linalg.norm((load - plain_forces(model, lift))[free])
    residual = float(np.linalg.norm((load - internal)[free]) / reference) if reference else 0.0
    held = [condition.nodes for condition in prescribed if condition.z is not None]
    if not held:
        return residual, float("nan")
    nodes = np.unique(np.concatenate(held), axis=0)
    nodes = nodes[nodes[:, 0] == nodes[:, 0].max()]
    return residual, float((internal - load)[(*nodes.T, 0)].sum())
