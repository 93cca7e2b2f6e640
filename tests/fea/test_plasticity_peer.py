"""Elastoplastic force-displacement curves beside CalculiX (`ccx`), whose element C3D8 has eight points of stress.

With eight points ours is the same element and agrees to the digits that CalculiX prints. With one it agrees where stress
is uniform; where it is not, they differ by what one point cannot see (docs/solver.md, 5.5).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from fea import Prescribed, VoxelModel, YieldMaterial, face_nodes, nodes_of, solve_curve

CCX = shutil.which("ccx")
pytestmark = [pytest.mark.peer, pytest.mark.skipif(CCX is None, reason="ccx is not installed")]

# corners of a C3D8 as offsets (z, y, x)
CORNERS = [(0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0), (1, 0, 0), (1, 0, 1), (1, 1, 1), (1, 1, 0)]


def calculix_forces(
    folder: Path, model: VoxelModel, supports: list[Prescribed], strength: np.ndarray, hardening: float, steps: int
) -> np.ndarray:
    """Reactions (steps, 3) in the order z, y, x on the nodes of the last support, in equal steps to factor 1."""
    number = {tuple(node): n for n, node in enumerate(nodes_of(model.solid).tolist(), start=1)}
    dz, dy, dx = model.spacing_mm
    lines = ["*NODE, NSET=ALL"]
    lines += [f"{n}, {x * dx!r}, {y * dy!r}, {z * dz!r}" for (z, y, x), n in number.items()]
    materials, sections = [], []
    for e, (k, j, i) in enumerate(np.argwhere(model.solid).tolist(), start=1):
        corners = ", ".join(str(number[k + a, j + b, i + c]) for a, b, c in CORNERS)
        lines += [f"*ELEMENT, TYPE=C3D8, ELSET=E{e}", f"{e}, {corners}"]
        modulus, limit = float(model.modulus_mpa[k, j, i]), float(strength[k, j, i])
        materials += [f"*MATERIAL, NAME=M{e}", "*ELASTIC", f"{modulus!r}, {float(model.poisson)!r}"]
        materials += ["*PLASTIC", f"{limit!r}, 0.", f"{limit + hardening * modulus!r}, 1."]
        sections += [f"*SOLID SECTION, ELSET=E{e}, MATERIAL=M{e}"]
    last = ", ".join(str(number[tuple(node)]) for node in supports[-1].nodes.tolist())
    lines += ["*NSET, NSET=LAST", *last.replace(", ", ",\n").split("\n"), *materials, *sections]
    lines += ["*STEP, INC=1000", "*STATIC, DIRECT", f"{1 / steps!r}, 1."]
    lines += ["*CONTROLS, PARAMETERS=FIELD", "1.e-8, 1.e-8", "*BOUNDARY"]
    for support in supports:
        for component, values in support.components():
            for node, value in zip(support.nodes.tolist(), np.broadcast_to(values, len(support.nodes)), strict=True):
                lines.append(f"{number[tuple(node)]}, {3 - component}, {3 - component}, {float(value)!r}")
    lines += ["*NODE PRINT, NSET=LAST, TOTALS=ONLY", "RF", "*END STEP", ""]
    (folder / "model.inp").write_text("\n".join(lines))
    assert CCX is not None
    done = subprocess.run([CCX, "model"], cwd=folder, capture_output=True, text=True, check=False)
    found = re.findall(r"total force.*?\n\s*\n\s*(\S+)\s+(\S+)\s+(\S+)", (folder / "model.dat").read_text())
    assert len(found) == steps, done.stdout[-2000:]
    return np.array(found, dtype=float)[:, ::-1]


def ours(
    model: VoxelModel, supports: list[Prescribed], strength: np.ndarray, hardening: float, steps: int, points: int = 1
) -> np.ndarray:
    law = YieldMaterial(strength, hardening)
    curve = solve_curve(model, supports, law, np.arange(1, steps + 1) / steps, rtol=1e-8, stress_points=points)
    return curve.reaction_n[supports[-1].name][1:]


def test_uniform_stress_agrees(tmp_path):
    """A bar in uniaxial stress, three axes with different edges, far into the plastic range."""
    model = VoxelModel(np.full((2, 2, 2), 1000.0), (1.0, 0.8, 1.3), 0.3)
    supports = [
        Prescribed("y", face_nodes(model, 1, False), y=0.0),
        Prescribed("x", face_nodes(model, 2, False), x=0.0),
        Prescribed("bottom", face_nodes(model, 0, False), z=0.0),
        Prescribed("top", face_nodes(model, 0, True), z=-0.04),
    ]
    strength = np.full(model.shape, 7.0)
    theirs = calculix_forces(tmp_path, model, supports, strength, 0.05, 8)
    np.testing.assert_allclose(ours(model, supports, strength, 0.05, 8)[:, 0], theirs[:, 0], rtol=2e-6)


def random_block(shape: tuple[int, int, int]) -> tuple[VoxelModel, list[Prescribed], np.ndarray]:
    rng = np.random.default_rng(5)
    modulus = rng.uniform(300, 1000, shape).astype(np.float32)
    modulus[1, 1, 1] = 0
    model = VoxelModel(modulus, (1.0, 1.0, 1.0), 0.3)
    supports = [
        Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0),
        Prescribed("top", face_nodes(model, 0, True), z=-0.02 * shape[0], y=0.0, x=0.0),
    ]
    return model, supports, 0.007 * modulus.astype(float)


@pytest.mark.parametrize("points", [1, 8])
def test_a_random_block(tmp_path, points):
    """Rough platens, void inside, moduli from 300 to 1000 MPa: 5 x 4 x 4 voxels, as rough a stress field as there is.

    One point agrees until the first of theirs yields, and nearly after.
    """
    model, supports, strength = random_block((5, 4, 4))
    theirs = calculix_forces(tmp_path, model, supports, strength, 0.02, 20)
    found = ours(model, supports, strength, 0.02, 20, points)
    np.testing.assert_allclose(found[:3, 0], theirs[:3, 0], rtol=1e-5)  # before the first voxel yields
    ratio = found[:, 0] / theirs[:, 0]
    print("ours over CalculiX:", np.round(ratio, 7))
    assert np.abs(ratio - 1).max() < (0.035 if points == 1 else 1e-6)


@pytest.mark.parametrize("points", [1, 8])
def test_bending(tmp_path, points):
    """A slab one voxel thick bent in its plane: what one point per voxel cannot see, and eight do."""
    model = VoxelModel(np.full((12, 1, 4), 1000.0), (1.0, 1.0, 1.0), 0.3)
    supports = [
        Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0),
        Prescribed("top", face_nodes(model, 0, True), x=1.2),
    ]
    strength = np.full(model.shape, 7.0)
    theirs = calculix_forces(tmp_path, model, supports, strength, 0.02, 20)
    found = ours(model, supports, strength, 0.02, 20, points)
    ratio = found[:, 2] / theirs[:, 2]
    print("ours over CalculiX:", np.round(ratio, 7))
    np.testing.assert_allclose(ratio[0], 1, rtol=1e-5)
    assert np.abs(ratio - 1).max() < (0.06 if points == 1 else 1e-6)


def test_foam_with_eight_points(tmp_path):
    """Smooth noise cut at half its volume, perfectly plastic almost everywhere at 2 % strain, unequal edges."""
    rng = np.random.default_rng(3)
    noise = ndimage.gaussian_filter(rng.normal(size=(10, 8, 8)), 1.2, mode="wrap")
    pieces, _ = ndimage.label(noise > np.median(noise))
    solid = pieces == np.bincount(pieces[pieces > 0]).argmax()
    modulus = np.where(solid, rng.uniform(100, 1000, solid.shape), 0).astype(np.float32)
    model = VoxelModel(modulus, (1.0, 0.9, 1.2), 0.3)
    supports = [
        Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0),
        Prescribed("top", face_nodes(model, 0, True), z=-0.2, y=0.0, x=0.0),
    ]
    strength = 0.005 * modulus.astype(float)
    theirs = calculix_forces(tmp_path, model, supports, strength, 0.01, 10)
    found = ours(model, supports, strength, 0.01, 10, 8)
    print("ours over CalculiX:", np.round(found[:, 0] / theirs[:, 0], 7))
    np.testing.assert_allclose(found[:, 0], theirs[:, 0], rtol=1e-5)
