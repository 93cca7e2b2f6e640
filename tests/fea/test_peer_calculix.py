"""The same voxels in CalculiX (element C3D8: eight nodes, 2 x 2 x 2 points), digit for digit of what it prints.

CalculiX is a finite-element program that shares nothing with this one. It solves directly and prints seven digits; every
number is compared to half a unit of its last printed digit.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fea import NodalForce, Orthotropy, Prescribed, RigidPlaten, VoxelModel, element_fields, face_nodes, nodes_of, solve
from fea.element import lame, stiffness_matrix

PROGRAM = shutil.which(os.environ.get("OPENBCT_CCX", "ccx"))

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(PROGRAM is None, reason="CalculiX is not installed (Debian: calculix-ccx), or set OPENBCT_CCX"),
]

# corners (z, y, x) in the order of a C3D8 element: around the lower face, then around the upper one
AROUND = [(0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0), (1, 0, 0), (1, 0, 1), (1, 1, 1), (1, 1, 0)]


@dataclass(frozen=True)
class Constants:
    """Engineering constants of an orthotropic law for unit modulus, by CalculiX's axes 1, 2, 3 = x, y, z."""

    moduli: tuple[float, float, float]
    nu_12: float
    nu_13: float
    nu_23: float
    shears_12_13_23: tuple[float, float, float]

    def ours(self, isotropic: np.ndarray | None = None) -> Orthotropy:
        """The same law by our axes; our ratios belong to a pull along the first of z, y, x, hence nu_ji = nu_ij E_j / E_i."""
        e1, e2, e3 = self.moduli
        poisson = (self.nu_23 * e3 / e2, self.nu_13 * e3 / e1, self.nu_12 * e2 / e1)
        g12, g13, g23 = self.shears_12_13_23
        return Orthotropy.from_constants((e3, e2, e1), poisson, (g23, g13, g12), isotropic)

    def lines(self, modulus: float) -> list[str]:
        """The law as CalculiX reads it, for a voxel of this modulus."""
        e1, e2, e3 = (modulus * e for e in self.moduli)
        g12, g13, g23 = (modulus * g for g in self.shears_12_13_23)
        row = ", ".join(f"{v:.12e}" for v in (e1, e2, e3, self.nu_12, self.nu_13, self.nu_23, g12, g13))
        return ["*ELASTIC, TYPE=ENGINEERING CONSTANTS", row + ",", f"{g23:.12e}"]


@dataclass(frozen=True)
class Printed:
    """What CalculiX wrote, in our order (z, y, x): arrays over the node grid and over the voxels, NaN where nothing is."""

    displacement_mm: np.ndarray
    force_n: np.ndarray
    stress_mpa: np.ndarray
    """Mean over the eight integration points: zz, yy, xx, yx, zx, zy."""
    energy_n_mm: np.ndarray
    motions: np.ndarray
    """Shift and turns of each rigid body: (platens, 2, 3)."""


def number_of(node_shape: tuple[int, ...], nodes: np.ndarray) -> np.ndarray:
    """CalculiX number of each node (k, j, i), from 1."""
    return np.ravel_multi_index(tuple(np.asarray(nodes).T), node_shape) + 1


def references(model: VoxelModel, platens: Sequence[RigidPlaten]) -> list[tuple[int, int]]:
    """Numbers of the two nodes by which CalculiX moves and turns each rigid body."""
    first = int(np.prod(model.node_shape)) + 1
    return [(first + 2 * n, first + 2 * n + 1) for n in range(len(platens))]


def written(
    model: VoxelModel,
    prescribed: Sequence[Prescribed],
    forces: Sequence[NodalForce],
    law: Constants | None = None,
    platens: Sequence[RigidPlaten] = (),
) -> str:
    """The model as a CalculiX input deck; no number may be longer than 20 characters."""
    turned = np.zeros(model.shape, bool)  # which voxels are orthotropic
    if model.orthotropy is not None:
        turned = np.ones(model.shape, bool) if model.orthotropy.isotropic is None else ~model.orthotropy.isotropic
    nodes = nodes_of(model.solid)
    lines = ["*NODE, NSET=NALL"]
    for number, node in zip(number_of(model.node_shape, nodes), nodes, strict=True):
        z, y, x = node * np.asarray(model.spacing_mm)
        lines.append(f"{number}, {x:.12e}, {y:.12e}, {z:.12e}")
    voxels = np.argwhere(model.solid)
    lines.append("*ELEMENT, TYPE=C3D8, ELSET=EALL")
    for element, voxel in enumerate(voxels, start=1):
        corners = number_of(model.node_shape, voxel + np.array(AROUND))
        lines.append(f"{element}, " + ", ".join(map(str, corners)))
    ratio = np.broadcast_to(model.poisson, model.shape)
    for element, voxel in enumerate(voxels, start=1):
        where = tuple(voxel)
        modulus = float(model.modulus_mpa[where])
        lines += [f"*ELSET, ELSET=E{element}", str(element), f"*MATERIAL, NAME=M{element}"]
        if turned[where]:
            assert law is not None
            lines += law.lines(modulus)
        else:
            lines += ["*ELASTIC", f"{modulus:.12e}, {ratio[where]:.12e}"]
        lines.append(f"*SOLID SECTION, ELSET=E{element}, MATERIAL=M{element}")
    for platen, reference in zip(platens, references(model, platens), strict=True):
        z, y, x = platen.centre(model.spacing_mm)
        lines += ["*NODE, NSET=NALL", *(f"{number}, {x:.12e}, {y:.12e}, {z:.12e}" for number in reference)]
        lines.append(f"*NSET, NSET=R{reference[0]}")
        lines += [str(number) for number in number_of(model.node_shape, platen.nodes)]
        lines.append(f"*RIGID BODY, NSET=R{reference[0]}, REF NODE={reference[0]}, ROT NODE={reference[1]}")
    lines += ["*STEP", "*STATIC, SOLVER=SPOOLES", "*BOUNDARY"]
    for condition in prescribed:
        for component, values in condition.components():
            for number, value in zip(number_of(model.node_shape, condition.nodes), values, strict=True):
                lines.append(f"{number}, {3 - component}, {3 - component}, {value:.12e}")
    for platen, reference in zip(platens, references(model, platens), strict=True):
        for number, motions in zip(reference, (platen.shift_mm, platen.turn_rad), strict=True):
            for component, value in enumerate(motions):
                if value is not None:
                    lines.append(f"{number}, {3 - component}, {3 - component}, {value:.12e}")
        lines.append("*CLOAD")
        for number, loads in zip(reference, (platen.force_n, platen.moment_nmm), strict=True):
            lines += [f"{number}, {3 - component}, {value:.12e}" for component, value in enumerate(loads) if value]
    for force in forces:
        lines.append("*CLOAD")
        for component, size in enumerate((force.z, force.y, force.x)):
            for number, value in zip(number_of(model.node_shape, force.nodes), np.asarray(size), strict=True):
                lines.append(f"{number}, {3 - component}, {value:.12e}")
    lines += ["*NODE PRINT, NSET=NALL", "U, RF", "*EL PRINT, ELSET=EALL", "S, ELSE", "*END STEP"]
    return "\n".join(lines) + "\n"


def calculix(
    folder: Path,
    model: VoxelModel,
    prescribed: Sequence[Prescribed],
    forces: Sequence[NodalForce] = (),
    law: Constants | None = None,
    platens: Sequence[RigidPlaten] = (),
) -> Printed:
    """Run CalculiX on the model and read the numbers it prints."""
    (folder / "voxels.inp").write_text(written(model, prescribed, forces, law, platens))
    run = subprocess.run(
        [str(PROGRAM), "voxels"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stdout[-2000:]
    blocks: dict[str, list[list[float]]] = {}
    rows: list[list[float]] = []
    for line in (folder / "voxels.dat").read_text().splitlines():
        words = line.split()
        if words and words[0][0].isalpha():
            rows = blocks[words[0]] = []
        elif words:
            rows.append([float(word) for word in words])
    nodal = {}
    for name in ("displacements", "forces"):
        table = np.array(blocks[name])
        field = np.full((np.prod(model.node_shape) + 2 * len(platens), 3), np.nan)
        field[table[:, 0].astype(int) - 1] = table[:, :0:-1]
        motions = field[np.prod(model.node_shape) :].reshape(-1, 2, 3)
        nodal[name] = field[: np.prod(model.node_shape)].reshape(*model.node_shape, 3), motions
    stress, energy = np.full((*model.shape, 6), np.nan), np.full(model.shape, np.nan)
    points = np.array(blocks["stresses"])  # element, point, xx, yy, zz, xy, xz, yz
    assert np.array_equal(points[:, 1], np.tile(np.arange(1, 9), len(points) // 8))
    stress[model.solid] = points[:, 2:].reshape(-1, 8, 6).mean(axis=1)[:, [2, 1, 0, 3, 4, 5]]
    energy[model.solid] = np.array(blocks["internal"])[:, 1]
    displacement, motions = nodal["displacements"]
    return Printed(displacement, nodal["forces"][0], stress, energy, motions)


def assert_printed(ours: np.ndarray, printed: np.ndarray, spare: float) -> None:
    """Ours is `printed` within half of its seventh digit and `spare` times the largest magnitude."""
    size = np.abs(printed)
    digit = 10.0 ** (np.floor(np.log10(np.maximum(size, 1e-300))) - 6)
    excess = np.abs(ours - printed) - 0.5001 * digit
    assert excess.max() <= spare * size.max(), f"off by {excess.max() / size.max():.2g} of the largest magnitude"


def porous(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Random solid voxels that hang together by faces: a quarter is void, three full planes join the rest."""
    rng = np.random.default_rng(seed)
    solid = rng.random(shape) > 0.25
    solid[shape[0] // 2] = solid[:, shape[1] // 2] = solid[:, :, shape[2] // 2] = True
    kept = np.zeros_like(solid)
    kept[shape[0] // 2, shape[1] // 2, shape[2] // 2] = True
    while True:
        grown = kept.copy()
        for axis, step in itertools.product(range(3), (1, -1)):
            moved = np.roll(kept, step, axis)
            edge = [slice(None)] * 3
            edge[axis] = slice(0, 1) if step > 0 else slice(-1, None)
            moved[tuple(edge)] = False
            grown |= moved & solid
        if np.array_equal(grown, kept):
            return kept
        kept = grown


def random_model(seed: int, shape: tuple[int, int, int], poisson: float | Sequence[float]) -> VoxelModel:
    """Moduli over three decades, unequal voxel edges."""
    rng = np.random.default_rng(seed + 100)
    modulus = np.where(porous(seed, shape), 10.0 ** rng.uniform(1, 4, shape), 0).astype(np.float32)
    ratio = (
        poisson if np.ndim(poisson) == 0 else np.asarray(poisson)[rng.integers(len(np.atleast_1d(poisson)), size=shape)]
    )
    return VoxelModel(modulus, tuple(rng.uniform(0.4, 1.6, 3)), ratio)


def test_one_element_is_the_same_element(tmp_path):
    """Random displacements of all eight corners: the nodal forces are our matrix times them."""
    model = VoxelModel(np.full((1, 1, 1), 1000.0), (1.3, 0.7, 1.0), 0.3)
    nodes = nodes_of(model.solid)
    moved = np.random.default_rng(0).standard_normal((8, 3)) * 1e-3
    theirs = calculix(tmp_path, model, [Prescribed("corners", nodes, *moved.T)])
    lam, mu = lame(0.3)
    forces = 1000 * stiffness_matrix(model.spacing_mm, float(lam), float(mu)) @ moved.ravel()
    assert_printed(forces.reshape(8, 3), theirs.force_n.reshape(8, 3), spare=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_displacements_reactions_stresses_and_energies(tmp_path, seed):
    """Voids, moduli over three decades, unequal edges; prescribed displacements and nodal forces at once.

    Every support node is a set of its own, so reactions are compared node by node.
    """
    model = random_model(seed, [(6, 7, 8), (9, 4, 5), (3, 3, 16), (5, 11, 4)][seed], [0.3, 0.0, 0.45, 0.2][seed])
    rng = np.random.default_rng(seed)
    bottom, top = face_nodes(model, 0, False), face_nodes(model, 0, True)
    supports = [
        Prescribed(f"bottom {n}", node[None], *rng.standard_normal((3, 1)) * 1e-3) for n, node in enumerate(bottom)
    ] + [Prescribed(f"top {n}", node[None], z=-0.02) for n, node in enumerate(top)]
    push = NodalForce(top, x=rng.standard_normal(len(top)), y=rng.standard_normal(len(top)))
    theirs = calculix(tmp_path, model, supports, [push])
    ours = solve(model, supports, [push], rtol=1e-12)
    there = tuple(nodes_of(model.solid).T)
    assert_printed(ours.displacement_mm[there], theirs.displacement_mm[there], spare=2e-9)
    for name, end in (("bottom", bottom), ("top", top)):
        # what CalculiX prints at a node holds the load on it too
        reactions = np.array([ours.reaction_n[f"{name} {n}"] for n in range(len(end))])
        applied = np.zeros_like(reactions)
        if name == "top":
            applied[:, 1], applied[:, 2] = push.y, push.x
        assert_printed(reactions + applied, theirs.force_n[tuple(end.T)], spare=2e-9)
    fields = element_fields(model, ours.displacement_mm)
    largest = np.abs(theirs.stress_mpa[model.solid]).max()
    difference = np.abs(fields.stress_mpa - theirs.stress_mpa)[model.solid]
    assert difference.max() < 5e-7 * largest
    energy = fields.energy_density_mpa * np.prod(model.spacing_mm)
    assert_printed(energy[model.solid], theirs.energy_n_mm[model.solid], spare=1e-8)


def test_two_ratios_of_poisson(tmp_path):
    """With a ratio per voxel Lame's numbers are rounded to float32, which is what `spare` leaves room for."""
    model = random_model(7, (6, 6, 7), (0.3, 0.4))
    supports = [
        Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0),
        Prescribed("top", face_nodes(model, 0, True), z=-0.02, x=0.01),
    ]
    theirs, ours = calculix(tmp_path, model, supports), solve(model, supports, rtol=1e-12)
    there = tuple(nodes_of(model.solid).T)
    assert_printed(ours.displacement_mm[there], theirs.displacement_mm[there], spare=1.5e-7)
    total = theirs.force_n[tuple(supports[1].nodes.T)].sum(axis=0)
    np.testing.assert_allclose(ours.reaction_n["top"][[0, 2]], total[[0, 2]], rtol=0, atol=3e-7 * np.abs(total).max())


@pytest.mark.parametrize("cement", [False, True])
def test_orthotropic_voxels(tmp_path, cement):
    """Nine unequal constants, none of which can stand for another; alone, and with isotropic voxels among them."""
    law = Constants((1.0, 0.6, 1.7), 0.31, 0.12, 0.22, (0.35, 0.5, 0.27))
    plain = random_model(11, (5, 6, 7), 0.35)
    mask = np.random.default_rng(4).random(plain.shape) < 0.4 if cement else None
    model = VoxelModel(plain.modulus_mpa, plain.spacing_mm, 0.35, law.ours(mask))
    top = face_nodes(model, 0, True)
    supports = [
        Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0),
        Prescribed("top", top, z=-0.02, x=0.01),
    ]
    push = NodalForce(top, y=np.linspace(-1, 2, len(top)))
    theirs, ours = calculix(tmp_path, model, supports, [push], law), solve(model, supports, [push], rtol=1e-12)
    there = tuple(nodes_of(model.solid).T)
    assert_printed(ours.displacement_mm[there], theirs.displacement_mm[there], spare=2e-9)
    total = theirs.force_n[tuple(top.T)].sum(axis=0)
    np.testing.assert_allclose(ours.reaction_n["top"][[0, 2]], total[[0, 2]], rtol=0, atol=2e-7 * np.abs(total).max())
    fields = element_fields(model, ours.displacement_mm)
    difference = np.abs(fields.stress_mpa - theirs.stress_mpa)[model.solid]
    assert difference.max() < 5e-7 * np.abs(theirs.stress_mpa[model.solid]).max()
    energy = fields.energy_density_mpa * np.prod(model.spacing_mm)
    assert_printed(energy[model.solid], theirs.energy_n_mm[model.solid], spare=1e-8)


@pytest.mark.parametrize(
    ("shift", "turn", "force", "moment"),
    [
        ((-0.02, None, None), (0.0, None, None), (0.0, 3.0, -1.0), (0.0, 0.0, 0.0)),
        ((None, None, None), (None, None, None), (-40.0, 2.0, 5.0), (3.0, -20.0, 30.0)),
        ((-0.02, 0.01, 0.0), (0.004, -0.003, 0.002), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ((None, 0.0, 0.0), (None, 0.003, None), (-50.0, 0.0, 0.0), (8.0, 0.0, -5.0)),
    ],
    ids=["pressed, free to tilt", "loaded on all six", "moved on all six", "mixed"],
)
def test_rigid_platens(tmp_path, shift, turn, force, moment):
    """CalculiX ties the nodes by equations to a reference node; centre off the middle, so that all motions are coupled."""
    model = random_model(21, (6, 7, 5), 0.3)
    top = RigidPlaten("top", face_nodes(model, 0, True), shift, turn, force, moment, centre_mm=(7.0, 1.5, 2.25))
    bottom = Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0)
    theirs = calculix(tmp_path, model, [bottom], platens=[top])
    ours = solve(model, [bottom], platens=[top], rtol=1e-12)
    there = tuple(nodes_of(model.solid).T)
    assert_printed(ours.displacement_mm[there], theirs.displacement_mm[there], spare=5e-9)
    state = ours.platens["top"]
    assert_printed(state.shift_mm, theirs.motions[0, 0], spare=5e-9)
    assert_printed(state.turn_rad, theirs.motions[0, 1], spare=5e-9)
    exerted = theirs.force_n[tuple(top.nodes.T)]
    arms = (top.nodes * model.spacing_mm - np.array(top.centre_mm))[:, ::-1]
    moments = np.cross(arms, exerted[:, ::-1]).sum(axis=0)[::-1]
    size = np.abs(exerted).sum()
    assert np.abs(state.force_n - exerted.sum(axis=0)).max() < 2e-7 * size
    assert np.abs(state.moment_nmm - moments).max() < 2e-7 * size * np.abs(arms).max()


@pytest.mark.slow
def test_a_vertebra_sized_model(tmp_path):
    """Some ten thousand voxels: the whole multigrid hierarchy is at work, and the digits stay."""
    model = random_model(5, (24, 22, 26), 0.3)
    supports = [
        Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0),
        Prescribed("top", face_nodes(model, 0, True), z=-0.2, y=0.0, x=0.0),
    ]
    theirs, ours = calculix(tmp_path, model, supports), solve(model, supports, rtol=1e-11)
    there = tuple(nodes_of(model.solid).T)
    assert_printed(ours.displacement_mm[there], theirs.displacement_mm[there], spare=2e-9)
    total = theirs.force_n[tuple(supports[1].nodes.T)].sum(axis=0)
    np.testing.assert_allclose(ours.reaction_n["top"], total, rtol=0, atol=1e-7 * np.abs(total).max())
