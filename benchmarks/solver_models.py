"""Models for the benchmarks of the solver: made from seeds, the same on every machine.

A is a vertebra-like body (an elliptic cylinder of cancellous modulus in a stiff shell), B a full cube of blocks of
log-uniform modulus, C thin porous sheets. Ends are rough platens that compress by 1 % of the height.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from fea import Prescribed, VoxelModel, face_nodes

STRAIN = 0.01


def smooth_noise(shape: tuple[int, int, int], sigma: float, seed: int) -> np.ndarray:
    """Periodic Gaussian noise with a correlation of `sigma` voxels, mean 0, standard deviation 1."""
    spectrum = np.fft.rfftn(np.random.default_rng(seed).standard_normal(shape))
    for axis, count in enumerate(shape):
        frequency = np.fft.rfftfreq(count) if axis == 2 else np.fft.fftfreq(count)
        along = [1, 1, 1]
        along[axis] = len(frequency)
        spectrum *= np.exp(-2.0 * (np.pi * frequency * sigma) ** 2).reshape(along)
    noise = np.fft.irfftn(spectrum, s=shape, axes=range(3))
    return np.asarray((noise - noise.mean()) / noise.std())


def vertebra(spacing_mm: float) -> VoxelModel:
    """A: 44 x 32 x 28 mm; the core is one random field on 0.5 mm, averaged or repeated for other voxels."""
    fine = (88, 64, 56)  # x, y, z: the field's order
    core = np.clip(np.exp(np.log(160.0) + 0.55 * smooth_noise(fine, 3.0, 11)), 50.0, 500.0)
    ratio = spacing_mm / 0.5
    if ratio > 1:
        step = round(ratio)
        nx, ny, nz = (n // step for n in fine)
        core = core.reshape(nx, step, ny, step, nz, step).mean(axis=(1, 3, 5))
    elif ratio < 1:
        for axis in range(3):
            core = np.repeat(core, round(1 / ratio), axis=axis)
    nx, ny, nz = core.shape
    x = ((np.arange(nx) + 0.5) * spacing_mm - 22.0)[:, None]
    y = ((np.arange(ny) + 0.5) * spacing_mm - 16.0)[None, :]
    outside = (x / 22.0) ** 2 + (y / 16.0) ** 2 <= 1.0
    inside = (x / 21.0) ** 2 + (y / 15.0) ** 2 <= 1.0
    modulus = core * outside[:, :, None]
    modulus[outside & ~inside] = 2000.0
    plate = max(1, round(1.0 / spacing_mm))
    modulus[outside, :plate] = 2000.0
    modulus[outside, -plate:] = 2000.0
    return VoxelModel(np.ascontiguousarray(modulus.astype(np.float32).transpose(2, 1, 0)), (spacing_mm,) * 3)


def cube(side: int, *, contrast: float = 200.0, block: int = 4, spacing_mm: float = 0.1) -> VoxelModel:
    """B: a full cube, modulus log-uniform from 20 000 MPa / contrast to 20 000 MPa in blocks."""
    coarse = -(-side // block)
    draws = np.random.default_rng(22).uniform(np.log(20000.0 / contrast), np.log(20000.0), (coarse,) * 3)
    modulus = np.exp(draws)
    for axis in range(3):
        modulus = np.repeat(modulus, block, axis=axis)
    modulus = modulus[:side, :side, :side].astype(np.float32)
    return VoxelModel(np.ascontiguousarray(modulus.transpose(2, 1, 0)), (spacing_mm,) * 3)


def largest_piece(solid: np.ndarray) -> np.ndarray:
    """The largest piece that hangs together by faces."""
    pieces, _ = ndimage.label(solid)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.asarray(pieces == sizes.argmax())


def sheets(side: int, *, solid: float = 0.2, sigma: float = 5.0) -> VoxelModel:
    """C: the neighbourhood of the zero surface of smooth noise, about `solid` of the cube."""
    noise = np.abs(smooth_noise((side,) * 3, sigma, 33))
    kept = largest_piece(noise <= np.quantile(noise, solid))
    return VoxelModel(np.where(kept, 10000.0, 0.0).astype(np.float32).transpose(2, 1, 0).copy(), (0.05,) * 3)


def foam(side: int, *, solid: float, sigma: float = 2.0) -> VoxelModel:
    """One phase of smooth noise: struts at a low solid fraction, pores at a high one."""
    noise = smooth_noise((side,) * 3, sigma, 7)
    kept = largest_piece(noise >= np.quantile(noise, 1 - solid))
    return VoxelModel(np.where(kept, 10000.0, 0.0).astype(np.float32), (0.05,) * 3)


def tube(diameter: int, length: int, wall: float) -> VoxelModel:
    """A round tube along z, in voxels of 1 mm."""
    across = np.arange(diameter) + 0.5 - diameter / 2
    radius = np.hypot(across[:, None], across)
    ring = (radius <= diameter / 2) & (radius > diameter / 2 - wall)
    return VoxelModel(np.repeat(np.where(ring, 10000.0, 0.0)[None], length, axis=0).astype(np.float32), (1.0,) * 3)


def femur(spacing_mm: float, *, length_mm: float = 430.0) -> VoxelModel:
    """A femur-like body: bowed shaft with a marrow cavity, condyles below, neck, head and trochanter above.

    Distances to a few line segments with a radius at each end; cortical at the surface, cancellous inside, marrow in
    the shaft. No anatomy is claimed for it; it has a femur's size, slenderness and share of solid voxels.
    """
    top = length_mm
    segments = [  # z, y, x and radius at both ends, mm
        ((15.0, 0.0, -22.0, 20.0), (30.0, 0.0, 0.0, 20.0)),
        ((15.0, 0.0, 22.0, 20.0), (30.0, 0.0, 0.0, 20.0)),
        ((15.0, 0.0, 0.0, 24.0), (90.0, 2.0, 0.0, 15.5)),
        ((90.0, 2.0, 0.0, 15.5), (0.5 * top, 9.0, 0.0, 13.5)),
        ((0.5 * top, 9.0, 0.0, 13.5), (top - 80.0, 2.0, 0.0, 15.5)),
        ((top - 80.0, 2.0, 0.0, 15.5), (top - 35.0, 0.0, 4.0, 19.0)),
        ((top - 35.0, 0.0, 4.0, 19.0), (top - 20.0, 0.0, -4.0, 15.0)),
        ((top - 45.0, 0.0, 0.0, 16.0), (top - 23.0, 0.0, 40.0, 16.0)),
        ((top - 23.0, 0.0, 40.0, 23.0), (top - 23.0, 0.0, 40.5, 23.0)),
    ]
    origin = np.array([-6.0, -26.0, -46.0])
    size = np.array([length_mm + 8.0, 52.0, 112.0])
    shape = np.ceil(size / spacing_mm).astype(int)
    nz, ny, nx = (int(n) for n in shape)
    modulus = np.zeros((nz, ny, nx), np.float32)
    y = (origin[1] + (np.arange(ny) + 0.5) * spacing_mm)[:, None]
    x = origin[2] + (np.arange(nx) + 0.5) * spacing_mm
    texture = np.exp(0.4 * smooth_noise((32, 32, 32), 2.0, 5)).astype(np.float32)
    for k in range(nz):
        z = origin[0] + (k + 0.5) * spacing_mm
        depth = np.full((ny, nx), -np.inf)
        for a, b in segments:
            along = [q - p for p, q in zip(a, b, strict=True)]
            square = along[0] ** 2 + along[1] ** 2 + along[2] ** 2
            t = ((z - a[0]) * along[0] + (y - a[1]) * along[1] + (x - a[2]) * along[2]) / square
            t = np.clip(t, 0, 1)
            distance = np.sqrt(
                (z - a[0] - t * along[0]) ** 2 + (y - a[1] - t * along[1]) ** 2 + (x - a[2] - t * along[2]) ** 2
            )
            depth = np.maximum(depth, a[3] + t * along[3] - distance)
        shaft = min(max((min(z - 70.0, top - 75.0 - z)) / 40.0, 0.0), 1.0)  # 1 in the middle, 0 at the ends
        cortex = 1.5 + 4.5 * shaft
        grain = texture[k // 3 % 32][np.arange(ny)[:, None] // 3 % 32, np.arange(nx) // 3 % 32]
        plane = np.where(depth > 0, np.where(depth < cortex, 15000.0, 600.0 * grain), 0.0)
        if shaft == 1.0:
            plane[depth > cortex] = 0.0
        modulus[k] = plane
    return VoxelModel(modulus, (spacing_mm,) * 3)


def platens(model: VoxelModel, strain: float = STRAIN) -> list[Prescribed]:
    """Both ends held; the top one is pressed down by a share of the height."""
    occupied = np.flatnonzero(model.solid.any(axis=(1, 2)))
    height = (int(occupied[-1]) + 1 - int(occupied[0])) * model.spacing_mm[0]
    moved = float(np.float32(-strain * height))  # rounded as in the files that other programs read
    return [
        Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0),
        Prescribed("top", face_nodes(model, 0, True), z=moved, y=0.0, x=0.0),
    ]


def bending(model: VoxelModel) -> list[Prescribed]:
    """The bottom held, the top moved sideways by a hundredth of the height."""
    height = model.shape[0] * model.spacing_mm[0]
    return [
        Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0),
        Prescribed("top", face_nodes(model, 0, True), z=0.0, y=0.0, x=0.01 * height),
    ]


STANDARD: dict[str, Callable[[], VoxelModel]] = {
    "A10": lambda: vertebra(1.0),
    "A05": lambda: vertebra(0.5),
    "B64": lambda: cube(64),
    "B128": lambda: cube(128),
    "C64": lambda: sheets(64),
    "C128": lambda: sheets(128),
}
