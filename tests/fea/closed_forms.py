"""Problems of elasticity whose answer is known in closed form, solved on refined grids; the error of each.

`python -m tests.fea.closed_forms` prints the tables of docs/validation.md. Coordinates and components are in the order
z, y, x throughout; each function returns errors that a right solver makes smaller under refinement at a known rate.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from fea import Prescribed, VoxelModel, body_force, element_fields, face_nodes, nodes_of, solve

TIGHT = 1e-9
Field = Callable[[np.ndarray], np.ndarray]
"""Values at points (..., 3)."""


def points_of(model: VoxelModel) -> np.ndarray:
    """Positions of all nodes, (nz+1, ny+1, nx+1, 3)."""
    return np.stack(np.meshgrid(*map(np.arange, model.node_shape), indexing="ij"), -1) * np.asarray(model.spacing_mm)


def centres_of(model: VoxelModel) -> np.ndarray:
    """Positions of all voxel centres, (nz, ny, nx, 3)."""
    return (np.stack(np.meshgrid(*map(np.arange, model.shape), indexing="ij"), -1) + 0.5) * np.asarray(model.spacing_mm)


def surface_nodes(solid: np.ndarray) -> np.ndarray:
    """Nodes of solid voxels that are not surrounded by eight of them."""
    inner = np.zeros(tuple(n + 1 for n in solid.shape), bool)
    inner[1:-1, 1:-1, 1:-1] = True
    nz, ny, nx = solid.shape
    for a, b, c in itertools.product((0, 1), repeat=3):
        inner[1:-1, 1:-1, 1:-1] &= solid[a : a + nz - 1, b : b + ny - 1, c : c + nx - 1]
    nodes = nodes_of(solid)
    return nodes[~inner[tuple(nodes.T)]]


def relative_error(ours: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(ours - exact) / np.linalg.norm(exact))


def rates(errors: list[float], factor: float = 2.0) -> list[float]:
    """Observed orders between successive refinements by `factor`."""
    return [float(np.log(a / b) / np.log(factor)) for a, b in itertools.pairwise(errors)]


# --- a manufactured solution -------------------------------------------------------------------------------------

EDGES_MM = (2.0, 1.2, 1.6)  # of the coarse voxels
# an L with a hole through it and a tower: re-entrant edges along all three axes
COARSE_MASK = np.ones((2, 3, 3), bool)
COARSE_MASK[0, 1, 1] = COARSE_MASK[1, 0, 0] = COARSE_MASK[1, 2, 1:] = COARSE_MASK[1, 1, 1] = False


def wavy(p: np.ndarray) -> np.ndarray:
    """A smooth displacement without any symmetry, at points (..., 3)."""
    z, y, x = np.moveaxis(p, -1, 0)
    return 1e-3 * np.stack(
        [
            np.sin(0.9 * z + 0.4 * x) * np.cos(0.7 * y) + 0.05 * x**2,
            np.cos(0.8 * x - 0.5 * z) + 0.1 * y * z,
            np.sin(0.6 * y + 0.3) * np.sin(0.7 * z - 0.5 * x),
        ],
        axis=-1,
    )


def graded(p: np.ndarray) -> np.ndarray:
    """A smooth modulus in MPa."""
    z, y, x = np.moveaxis(p, -1, 0)
    return 800 * (1 + 0.4 * np.sin(0.5 * z + 0.6 * y) * np.cos(0.4 * x))


def gradient(function: Field, p: np.ndarray) -> np.ndarray:
    """Derivatives along z, y, x as the last axis: differences of fourth order, good to ten digits."""
    step = 1e-3
    parts = []
    for axis in range(3):
        shift = step * np.eye(3)[axis]
        near, far = (function(p + n * shift) - function(p - n * shift) for n in (1, 2))
        parts.append((8 * near - far) / (12 * step))
    return np.stack(parts, axis=-1)


def stress_of(displacement: Field, modulus: Field, poisson: float, p: np.ndarray) -> np.ndarray:
    """Hooke's law at points (..., 3): tensors (..., 3, 3)."""
    slope = gradient(displacement, p)
    strain = (slope + np.swapaxes(slope, -1, -2)) / 2
    trace = np.trace(strain, axis1=-2, axis2=-1)[..., None, None] * np.eye(3)
    return (modulus(p) / (1 + poisson))[..., None, None] * (strain + poisson / (1 - 2 * poisson) * trace)


def manufactured(cells: int, poisson: float = 0.3, uniform: bool = False) -> tuple[float, float, int]:
    """Relative errors of displacement and stress at voxel centres, and iterations; `cells` voxels per coarse edge."""
    solid = np.kron(COARSE_MASK, np.ones((cells,) * 3)).astype(bool)
    spacing = tuple(edge / cells for edge in EDGES_MM)
    blank = VoxelModel(solid.astype(float), spacing, poisson)
    law: Field = (lambda p: np.full(p.shape[:-1], 800.0)) if uniform else graded
    centres = centres_of(blank)
    model = VoxelModel(np.where(solid, law(centres), 0), spacing, poisson)

    def stress(p: np.ndarray) -> np.ndarray:
        return stress_of(wavy, law, poisson, p)

    force = -np.trace(gradient(stress, centres), axis1=-2, axis2=-1)
    exact = wavy(points_of(model))
    surface = surface_nodes(solid)
    held = Prescribed("surface", surface, *exact[tuple(surface.T)].T)
    result = solve(model, [held], [body_force(model, force)], rtol=TIGHT)
    corners = [
        result.displacement_mm[a : a + model.shape[0], b : b + model.shape[1], c : c + model.shape[2]]
        for a, b, c in itertools.product((0, 1), repeat=3)
    ]
    middle = np.mean(corners, axis=0)[solid]
    theirs = stress(centres)[solid][:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    ours = element_fields(model, result.displacement_mm).stress_mpa[solid]
    return (
        relative_error(middle, wavy(centres[solid])),
        relative_error(ours, theirs),
        result.iterations,
    )


# --- plane strain around a hole of radius 1 in a quarter of a square of half-width 3 --------------------------------

POISSON = 0.3


def covered(n: int, h: float, inside: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Share of each pixel of an n x n grid that lies `inside`, by 16 x 16 points."""
    fine = (np.arange(16 * n) + 0.5) * h / 16
    return inside(fine[:, None], fine[None, :]).reshape(n, 16, n, 16).mean(axis=(1, 3))


def hollow_cylinder(p: np.ndarray) -> np.ndarray:
    """Lame: u_r = r + B / r with a bore free of traction, B = 1 / (1 - 2 nu); no displacement along the axis."""
    y, x = p[..., 1], p[..., 2]
    square = np.maximum(y**2 + x**2, 0.5)
    return np.stack([0 * y, *(np.stack([y, x]) * (1 + 1 / ((1 - 2 * POISSON) * square)))], axis=-1)


def kirsch(p: np.ndarray) -> np.ndarray:
    """A plate under remote tension along x: times 8 mu / S; the stress beside the hole is three times S."""
    y, x = p[..., 1], p[..., 2]
    r, t = np.maximum(np.hypot(y, x), 0.7), np.arctan2(y, x)
    k = 3 - 4 * POISSON
    along = r * (k + 1) * np.cos(t) + 2 / r * ((1 + k) * np.cos(t) + np.cos(3 * t)) - 2 / r**3 * np.cos(3 * t)
    across = r * (k - 3) * np.sin(t) + 2 / r * ((1 - k) * np.sin(t) + np.sin(3 * t)) - 2 / r**3 * np.sin(3 * t)
    return np.stack([0 * y, across, along], axis=-1)


def hole(cells: int, exact: Field, surface: str) -> tuple[float, VoxelModel, np.ndarray]:
    """Error of the displacement at r > 1.3, the model and its displacement; `cells` voxels per radius.

    Exact displacements on the outer faces, symmetry on the others; at the hole, by `surface`: "exact" displacements on
    the nodes of the staircase, "free" staircase, or "shares": free, with the moduli of cut voxels by their solid share.
    """
    h = 1 / cells
    n = 3 * cells
    share = covered(n, h, lambda y, x: y**2 + x**2 > 1)
    share = share if surface == "shares" else (share > 0.5).astype(float)
    solid = share > 0.02
    model = VoxelModel(np.where(solid, share, 0)[None], (h, h, h), POISSON)
    points = points_of(model)
    answer = exact(points)
    distance = np.hypot(points[..., 1], points[..., 2])
    nodes = nodes_of(model.solid)
    given = (nodes[:, 1:] == n).any(axis=1)
    if surface == "exact":
        whole = np.pad(solid, 1, mode="edge")  # beyond the planes of symmetry the body goes on
        inner = whole[:-1, :-1] & whole[1:, :-1] & whole[:-1, 1:] & whole[1:, 1:]
        given |= ~inner[tuple(nodes[:, 1:].T)]
    exactly, others = nodes[given], nodes[~given]
    conditions = [
        Prescribed("plane strain", nodes, z=0.0),
        Prescribed("exact", exactly, y=answer[(*exactly.T, 1)], x=answer[(*exactly.T, 2)]),
        Prescribed("symmetry", others[others[:, 1] == 0], y=0.0),
        Prescribed("symmetry", others[others[:, 2] == 0], x=0.0),
    ]
    result = solve(model, conditions, rtol=TIGHT)
    away = (distance > 1.3)[tuple(nodes.T)]
    there = tuple(nodes[away].T)
    return relative_error(result.displacement_mm[there], answer[there]), model, result.displacement_mm


def stress_concentration(cells: int) -> float:
    """Stress along x beside the hole (exactly 3 times the remote one), by Kirsch's radial form through the centres.

    A staircase has no stress at its edge that means anything; the form 1 + c2 / r^2 + c4 / r^4 is fitted to the voxels
    of the first column at 1.2 < r < 2.5.
    """
    _, model, displacement = hole(cells, kirsch, "shares")
    stress = element_fields(model, displacement).stress_mpa[0, :, 0, 2] * (1 + POISSON) / 4  # 8 mu / S = 1
    r = centres_of(model)[0, :, 0, 1]
    use = (r > 1.2) & (r < 2.5)
    basis = np.stack([r**-2.0, r**-4.0], axis=1)[use]
    fit, *_ = np.linalg.lstsq(basis, stress[use] - 1, rcond=None)
    return float(1 + fit.sum())


# --- torsion ----------------------------------------------------------------------------------------------------------


def square_constant(terms: int = 60) -> float:
    """Saint-Venant's J / a^4 of a square of side a: 1/3 (1 - 192 / pi^5 sum tanh(n pi / 2) / n^5), n odd."""
    odd = np.arange(1, 2 * terms, 2)
    return float((1 - 192 / np.pi**5 * (np.tanh(odd * np.pi / 2) / odd**5).sum()) / 3)


def torsion_constant(share: np.ndarray, h: float) -> float:
    """J of a bar with this cross-section (ny, nx), from the energy of a slice twisted by its end planes.

    The end planes turn about the z axis and are free to warp, which is Saint-Venant's solution at any length.
    """
    shear = 1.0
    thickness = h
    model = VoxelModel(
        np.broadcast_to(2 * (1 + POISSON) * shear * share, (2, *share.shape)), (thickness, h, h), POISSON
    )
    middle = np.array([share.shape[0], share.shape[1]]) * h / 2
    nodes = nodes_of(model.solid)
    arm = nodes[:, 1:] * h - middle
    turn = 1e-3 * nodes[:, 0] * thickness
    ends = nodes[:, 0] != 1
    lowest = nodes[np.abs(arm).sum(axis=1).argmin()][None]
    conditions = [
        Prescribed("ends", nodes[ends], y=(turn * arm[:, 1])[ends], x=(-turn * arm[:, 0])[ends]),
        Prescribed("no shift", lowest, z=0.0),
    ]
    result = solve(model, conditions, rtol=TIGHT)
    energy = element_fields(model, result.displacement_mm).energy_density_mpa.sum() * thickness * h * h
    return float(2 * energy / (shear * 1e-6 * 2 * thickness))


def square_torsion(cells: int) -> float:
    """Relative excess of J of a square bar, `cells` voxels along its side."""
    return torsion_constant(np.ones((cells, cells)), 1 / cells) / square_constant() - 1


def round_torsion(cells: int, shares: bool) -> float:
    """Relative error of J of a round bar of radius 1, `cells` voxels per radius."""
    h = 1 / cells
    n = 2 * cells + 2
    middle = n * h / 2
    share = covered(n, h, lambda y, x: (y - middle) ** 2 + (x - middle) ** 2 < 1)
    share = np.where(share > 0.02, share, 0) if shares else (share > 0.5).astype(float)
    return torsion_constant(share, h) / (np.pi / 2) - 1


# --- beams ----------------------------------------------------------------------------------------------------------

BONE_MPA, CEMENT_MPA = 12000.0, 2500.0


def layered_bending(cells: int) -> tuple[float, float]:
    """Relative errors of bending stiffness and of axial force of a beam of bone below and cement above.

    Section 1 x 1, the lower 3/4 bone; length 2. Ends stay plane and turn about the mid-height, free to contract. With
    the same Poisson's ratio in both layers the beam solution is exact: stress E (y - c) curvature. `cells` voxels
    along each side of the section, a multiple of four.
    """
    h = 1 / cells
    layer = np.where((np.arange(cells) + 0.5) * h < 0.75, BONE_MPA, CEMENT_MPA)
    model = VoxelModel(np.broadcast_to(layer[None, :, None], (cells, cells, 2 * cells)), (h, h, h), POISSON)
    curvature = 1e-3
    low, high = face_nodes(model, 2, False), face_nodes(model, 2, True)
    corner = low[(low[:, 1] == 0) & (low[:, 0] == 0)]
    beside = low[(low[:, 1] == 0) & (low[:, 0] == cells)]
    result = solve(
        model,
        [
            Prescribed("low", low, x=0.0),
            Prescribed("high", high, x=curvature * 2 * (high[:, 1] * h - 0.5)),
            Prescribed("corner", corner, z=0.0, y=0.0),
            Prescribed("no turn", beside, y=0.0),
        ],
        rtol=TIGHT,
    )
    ends = [(0.0, 0.75, BONE_MPA), (0.75, 1.0, CEMENT_MPA)]
    force = curvature * sum(e * ((b - 0.5) ** 2 - (a - 0.5) ** 2) / 2 for a, b, e in ends)
    stiffness = sum(e * ((b - 0.5) ** 3 - (a - 0.5) ** 3) / 3 for a, b, e in ends)
    energy = element_fields(model, result.displacement_mm).energy_density_mpa.sum() * h**3
    return 2 * energy / (stiffness * curvature**2 * 2) - 1, result.reaction_n["high"][2] / force - 1


def cantilever(cells: int, poisson: float) -> float:
    """Excess of the tip force over Timoshenko's: square section 1 with `cells` voxels, length 10, clamped."""
    h = 1 / cells
    modulus = 1000.0
    model = VoxelModel(np.full((cells, cells, 10 * cells), modulus), (h, h, h), poisson)
    wall = Prescribed("wall", face_nodes(model, 2, False), z=0.0, y=0.0, x=0.0)
    result = solve(model, [wall, Prescribed("tip", face_nodes(model, 2, True), z=-0.1)], rtol=TIGHT)
    correction = 10 * (1 + poisson) / (12 + 11 * poisson)
    compliance = 10.0**3 / (3 * modulus / 12) + 10.0 / (correction * modulus / (2 * (1 + poisson)))
    return float(-result.reaction_n["tip"][0] * compliance / 0.1 - 1)


def _table(title: str, header: list[str], rows: list[list[object]]) -> None:
    print(f"\n{title}\n\n| " + " | ".join(header) + " |\n|" + " --- |" * len(header))
    for row in rows:
        print("| " + " | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row) + " |")


def main() -> None:
    """Print every table of the section on the solver in docs/validation.md."""
    cells = [2, 4, 8, 16]
    for uniform in (True, False):
        found = [manufactured(n, uniform=uniform) for n in cells]
        columns = [[f[k] for f in found] for k in (0, 1)]
        orders = [["", *(f"{rate:.2f}" for rate in rates(column))] for column in columns]
        _table(
            f"Manufactured solution, {'uniform' if uniform else 'graded'} modulus",
            ["voxels per coarse edge", "displacement", "rate", "stress", "rate", "iterations"],
            [[n, columns[0][k], orders[0][k], columns[1][k], orders[1][k], found[k][2]] for k, n in enumerate(cells)],
        )
    cells = [8, 16, 32, 64]
    for name, exact in (("Hollow cylinder", hollow_cylinder), ("Hole in a plate", kirsch)):
        errors = {s: [hole(n, exact, s)[0] for n in cells] for s in ("exact", "free", "shares")}
        _table(
            f"{name}, displacement at r > 1.3", ["voxels per radius", *errors],
            [[n, *(errors[s][k] for s in errors)] for k, n in enumerate(cells)],
        )  # fmt: skip
    _table(
        "Stress concentration (3)",
        ["voxels per radius", "found"],
        [[n, f"{stress_concentration(n):.4f}"] for n in cells],
    )
    _table("Torsion of a square bar", ["voxels", "excess of J"], [[n, square_torsion(n)] for n in (2, 4, 8, 16, 32)])
    _table(
        "Torsion of a round bar", ["voxels per radius", "staircase", "shares"],
        [[n, round_torsion(n, False), round_torsion(n, True)] for n in (4, 8, 16, 32)],
    )  # fmt: skip
    _table("Layered beam", ["voxels", "EI", "axial force"], [[n, *layered_bending(n)] for n in (4, 8, 16, 32)])
    _table(
        "Cantilever", ["voxels", "nu 0", "nu 0.3"], [[n, cantilever(n, 0.0), cantilever(n, 0.3)] for n in (2, 4, 8, 16)]
    )


if __name__ == "__main__":
    main()
