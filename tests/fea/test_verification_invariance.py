"""What every right answer obeys, whatever the model: patch tests, symmetry, linearity, units, energy and equilibrium."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fea import NodalForce, Prescribed, Solver, VoxelModel, body_force, element_fields, face_nodes, nodes_of, solve
from tests.fea.closed_forms import points_of

CORNERS = np.array(list(itertools.product((0, 1), repeat=3)))


def random_solid(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    """A connected random set of voxels that reaches both ends of the z axis."""
    rng = np.random.default_rng(seed)
    solid = rng.random(shape) > 0.35
    solid[:, shape[1] // 2, shape[2] // 2] = True
    labels, _ = ndimage.label(solid)
    return labels == labels[0, shape[1] // 2, shape[2] // 2]


def six_supports(nodes: np.ndarray, values: np.ndarray) -> list[Prescribed]:
    """Just enough to hold a body: one node in three components, a second in two, a third in one.

    `values` (n, 3) belong to `nodes`; the nodes are chosen far apart and not in a line.
    """
    first = int(np.abs(nodes - nodes.min(axis=0)).sum(axis=1).argmin())
    distance = np.linalg.norm(nodes - nodes[first], axis=1)
    second = int(distance.argmax())
    along = (nodes[second] - nodes[first]) / distance[second]
    off = (nodes - nodes[first]) - ((nodes - nodes[first]) @ along)[:, None] * along
    third = int(np.linalg.norm(off, axis=1).argmax())
    letters = np.array(list("zyx"))
    rows = []
    for node, chosen in ((first, [0, 1, 2]), (second, np.argsort(np.abs(along))[:2]), (third, None)):
        if chosen is None:  # along the normal of the plane of the three nodes
            chosen = [int(np.abs(np.cross(along, off[third])).argmax())]
        rows.append(
            Prescribed(f"support {len(rows)}", nodes[node][None], **{letters[c]: values[node, c] for c in chosen})
        )
    return rows


def forces_of_strain(model: VoxelModel, strain: np.ndarray) -> NodalForce:
    """The nodal forces that hold every voxel at this strain tensor: sums of its constant stress times face areas.

    Written from the stress and the geometry of a box, not from a stiffness matrix.
    """
    modulus = model.modulus_mpa.astype(float)
    nu = np.where(model.solid, np.broadcast_to(model.poisson, model.shape), 0)
    trace = (nu / (1 - 2 * nu))[..., None, None] * np.trace(strain) * np.eye(3)
    stress = (modulus / (1 + nu))[..., None, None] * (strain + trace)
    spacing = np.asarray(model.spacing_mm)
    nodal = np.zeros((*model.node_shape, 3))
    nz, ny, nx = model.shape
    for corner in CORNERS:
        areas = (2 * corner - 1) * np.prod(spacing) / spacing / 4  # a quarter of each of the three faces that meet
        a, b, c = corner
        nodal[a : a + nz, b : b + ny, c : c + nx] += stress @ areas
    nodes = nodes_of(model.solid)
    return NodalForce(nodes, *nodal[tuple(nodes.T)].T)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(2, 6), st.integers(2, 6), st.integers(2, 7)),
    mixed=st.booleans(),
)
def test_patch_of_forces(seed, shape, mixed):
    """A body on six supports, loaded by the forces of a constant strain, takes that strain everywhere, exactly.

    The forces come from stresses and face areas, so this asks for the right stiffness of every voxel, not only for a
    null space; with moduli and Poisson's ratios that differ from voxel to voxel the inner nodes carry forces as well.
    """
    rng = np.random.default_rng(seed)
    solid = random_solid(seed, shape)
    modulus = np.where(solid, rng.uniform(5, 50, shape) if mixed else 20.0, 0)
    ratio = rng.choice([0.0, 0.2, 0.35], shape) if mixed else 0.3
    model = VoxelModel(modulus, tuple(rng.uniform(0.4, 2.0, 3)), ratio)
    slope = rng.standard_normal((3, 3)) * 1e-2
    exact = points_of(model) @ slope.T
    nodes = nodes_of(solid)
    supports = six_supports(nodes, exact[tuple(nodes.T)])
    strain = (slope + slope.T) / 2
    result = solve(model, supports, [forces_of_strain(model, strain)], rtol=1e-12, threads=1)
    # with several ratios Lame's numbers are rounded to float32, and a slender random body magnifies that
    tolerance = 2e-5 if mixed else 1e-8
    assert np.abs(result.displacement_mm - exact)[tuple(nodes.T)].max() < tolerance * np.abs(exact).max()
    found = element_fields(model, result.displacement_mm).strain[solid]
    wanted = [*np.diag(strain), 2 * strain[1, 2], 2 * strain[0, 2], 2 * strain[0, 1]]
    assert np.abs(found - wanted).max() < tolerance * np.abs(strain).max() * 10
    total = sum(result.reaction_n.values())
    assert np.abs(total).max() < tolerance * 50 * np.abs(strain).max() * np.prod(np.array(shape) * 2.0) ** (2 / 3)


@pytest.mark.parametrize("axis", range(3))
def test_laminates_of_unequal_materials(axis):
    """Layers of other modulus and other Poisson's ratio, normal to each axis in turn.

    Pressed across the layers with all sides held, they are in series with the moduli of uniaxial strain; sheared across,
    in series with the shear moduli; sheared along, in parallel. All exact, for the displacement is linear in each layer.
    """
    rng = np.random.default_rng(axis)
    count, spacing = 6, np.array([0.7, 1.1, 1.6])
    modulus = rng.uniform(10, 900, count).astype(np.float32).astype(float)
    ratio = rng.choice([0.1, 0.3, 0.42], count)
    shape, line = [4, 3, 5], [1, 1, 1]
    shape[axis] = line[axis] = count
    model = VoxelModel(
        np.broadcast_to(modulus.reshape(line), shape), tuple(spacing), np.broadcast_to(ratio.reshape(line), shape)
    )
    shear = modulus / (2 * (1 + ratio))
    oedometer = modulus * (1 - ratio) / ((1 + ratio) * (1 - 2 * ratio))
    other = [a for a in range(3) if a != axis]
    size = np.array(shape) * spacing
    area, height = size[other[0]] * size[other[1]], size[axis]
    nodes = nodes_of(model.solid)
    low, high = nodes[nodes[:, axis] == 0], nodes[nodes[:, axis] == count]
    letters = "zyx"

    def reaction(moved: int, across: tuple[int, int]) -> np.ndarray:
        """Move the upper plane by 0.01 in component `moved`; components `across` are zero everywhere."""
        held = {letters[c]: 0.0 for c in across}
        result = solve(
            model,
            [
                Prescribed("low", low, **{letters[moved]: 0.0}),
                Prescribed("high", high, **{letters[moved]: 0.01}),
                Prescribed("all", nodes, **held),
            ],
            rtol=1e-11,
        )
        assert result.reaction_n["low"][moved] == pytest.approx(-result.reaction_n["high"][moved], rel=1e-7)
        return result.reaction_n["high"][moved]

    strain = 0.01 / height
    assert reaction(axis, (other[0], other[1])) == pytest.approx(area * strain / (1 / oedometer).mean(), rel=1e-6)
    assert reaction(other[0], (axis, other[1])) == pytest.approx(area * strain / (1 / shear).mean(), rel=1e-6)
    # along the layers: the planes normal to other[0] are moved against one another, along other[1]
    low, high = (nodes[nodes[:, other[0]] == n] for n in (0, shape[other[0]]))
    area, height = size[axis] * size[other[1]], size[other[0]]
    expected = area * 0.01 / height * shear.mean()
    assert reaction(other[1], (axis, other[0])) == pytest.approx(expected, rel=1e-6)


def test_all_symmetries_of_the_cube():
    """48 turned and mirrored copies of a random model, conditions and load, give 48 turned and mirrored answers."""
    rng = np.random.default_rng(3)
    shape = (4, 5, 6)
    solid = random_solid(3, shape)
    modulus = np.where(solid, rng.uniform(1, 30, shape), 0).astype(np.float32)
    ratio = rng.choice([0.25, 0.4], shape)
    spacing = np.array([0.9, 1.0, 1.3])
    nodes = nodes_of(solid)
    foot, head = nodes[nodes[:, 0] == 0], nodes[nodes[:, 0] == shape[0]]
    moved, push = rng.standard_normal((len(foot), 3)) * 0.01, rng.standard_normal((len(head), 3))

    def answer(flips: tuple[bool, ...], order: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        sign = np.where(flips, -1.0, 1.0)
        flipped = [axis for axis in range(3) if flips[axis]]

        def turned(array: np.ndarray) -> np.ndarray:
            return np.flip(array, flipped).transpose(order)

        def placed(index: np.ndarray) -> np.ndarray:
            return np.where(flips, np.array(shape) - index, index)[:, order]

        result = solve(
            VoxelModel(turned(modulus), spacing[list(order)], turned(ratio)),
            [Prescribed("foot", placed(foot), *(moved * sign)[:, order].T)],
            [NodalForce(placed(head), *(push * sign)[:, order].T)],
            rtol=1e-12,
        )
        back = np.argsort(order)
        field = np.flip(result.displacement_mm.transpose(*back, 3)[..., back], flipped) * sign
        return field, result.reaction_n["foot"][back] * sign

    straight, reaction = answer((False,) * 3, (0, 1, 2))
    size = np.abs(straight).max()
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            field, force = answer(flips, order)
            # Lame's numbers are the same float32 numbers in each copy, so only the solver's tolerance is left
            np.testing.assert_allclose(field, straight, rtol=0, atol=1e-8 * size)
            np.testing.assert_allclose(force, reaction, rtol=0, atol=1e-8 * np.abs(push).sum())


def body_on_a_foot(seed: int = 5) -> tuple[VoxelModel, Solver, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (7, 6, 8)
    solid = random_solid(seed, shape)
    model = VoxelModel(np.where(solid, rng.uniform(5, 60, shape), 0), (1.1, 0.8, 1.3), rng.choice([0.2, 0.4], shape))
    foot = face_nodes(model, 0, False)
    return model, Solver(model, [Prescribed("foot", foot, 0.0, 0.0, 0.0)]), foot, nodes_of(solid)


def test_reciprocity_of_forces_body_forces_and_displacements():
    """Betti for loads of three kinds on one body: nodal forces, weight, and displacements of the support.

    Work of the loads and reactions of one case on the displacements of the other, both ways.
    """
    rng = np.random.default_rng(0)
    model, solver, foot, nodes = body_on_a_foot()
    settle = rng.standard_normal((len(foot), 3)) * 0.05
    many = nodes[rng.choice(len(nodes), 12, replace=False)]
    cases = [
        (np.zeros((len(foot), 3)), [NodalForce(many, *rng.standard_normal((3, 12)))]),
        (np.zeros((len(foot), 3)), [body_force(model, rng.standard_normal((*model.shape, 3)))]),
        (settle, []),
        (settle[::-1].copy(), [NodalForce(many[:3], z=2.0)]),
    ]
    found = []
    for values, forces in cases:
        # one set per node, to have nodal reactions
        sets = [Prescribed(f"{n}", node[None], *values[n]) for n, node in enumerate(foot)]
        result = solver.solve(sets, forces, rtol=1e-12)
        outer = np.zeros((*model.node_shape, 3))
        for force in forces:
            np.add.at(outer, tuple(force.nodes.T), np.column_stack([force.z, force.y, force.x]))
        for n, node in enumerate(foot):
            outer[tuple(node)] += result.reaction_n[f"{n}"]
        found.append((outer, result.displacement_mm))
    for (force_a, moved_a), (force_b, moved_b) in itertools.combinations(found, 2):
        one, two = float((force_a * moved_b).sum()), float((force_b * moved_a).sum())
        assert one == pytest.approx(two, rel=1e-8, abs=1e-9)


def test_superposition_and_scaling():
    rng = np.random.default_rng(1)
    _, solver, foot, nodes = body_on_a_foot(6)
    settle = rng.standard_normal((len(foot), 3)) * 0.05
    push = rng.standard_normal((3, len(nodes)))

    def case(a: float, b: float) -> tuple[np.ndarray, np.ndarray]:
        result = solver.solve(
            [Prescribed("foot", foot, *(a * settle).T)], [NodalForce(nodes, *(b * push))] if b else [], rtol=1e-12
        )
        return result.displacement_mm, result.reaction_n["foot"]

    one, two, both = case(1, 0), case(0, 1), case(-3, 0.5)
    for k in range(2):
        np.testing.assert_allclose(both[k], -3 * one[k] + 0.5 * two[k], rtol=0, atol=1e-8 * np.abs(two[k]).max())


@settings(max_examples=8, deadline=None)
@given(
    length=st.sampled_from([1e-3, 0.5, 1e3]), stiffness=st.sampled_from([1e-6, 2.0**10, 1e5]), seed=st.integers(0, 99)
)
def test_units(length, stiffness, seed):
    """Spacing and displacements times s, moduli times m: reactions times m s^2, strains as before; N/m^2 and m give N."""
    rng = np.random.default_rng(seed)
    shape = (5, 4, 6)
    solid = random_solid(seed, shape)
    # powers of two as moduli, so that m E is not rounded otherwise than E
    modulus = np.where(solid, 2.0 ** rng.integers(0, 6, shape), 0)
    nodes = nodes_of(solid)
    foot, head = nodes[nodes[:, 0] == 0], nodes[nodes[:, 0] == shape[0]]

    def case(s: float, m: float) -> tuple[np.ndarray, np.ndarray]:
        model = VoxelModel(modulus * m, tuple(s * np.array([0.9, 1.0, 1.2])))
        result = solve(
            model,
            [Prescribed("foot", foot, 0.0, 0.0, 0.0), Prescribed("head", head, z=-0.1 * s)],
            [NodalForce(head[:1], x=m * s * s)],
            rtol=1e-11,
        )
        return result.displacement_mm / s, result.reaction_n["foot"] / (m * s * s)

    plain, other = case(1, 1), case(length, stiffness)
    np.testing.assert_allclose(other[0], plain[0], rtol=0, atol=3e-7 * np.abs(plain[0]).max())
    np.testing.assert_allclose(other[1], plain[1], rtol=0, atol=3e-7 * np.abs(plain[1]).max())


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), mixed=st.booleans())
def test_energy_and_equilibrium(seed, mixed):
    """Energy of the voxels = half the work of loads and reactions; forces and moments of all of them sum to zero."""
    rng = np.random.default_rng(seed)
    shape = (6, 5, 7)
    solid = random_solid(seed, shape)
    model = VoxelModel(
        np.where(solid, 10 ** rng.uniform(0, 3, shape), 0),
        (0.8, 1.3, 1.0),
        rng.choice([0.1, 0.4], shape) if mixed else 0.3,
    )
    nodes = nodes_of(solid)
    ends = nodes[(nodes[:, 0] == 0) | (nodes[:, 0] == shape[0])]
    values = rng.standard_normal((len(ends), 3)) * 0.01
    inside = nodes[(nodes[:, 0] > 0) & (nodes[:, 0] < shape[0])]
    push = NodalForce(inside, *rng.standard_normal((3, len(inside))))
    result = solve(
        model, [Prescribed(f"{n}", node[None], *values[n]) for n, node in enumerate(ends)], [push], rtol=1e-12
    )
    outer = np.zeros((*model.node_shape, 3))
    outer[tuple(inside.T)] = np.column_stack([push.z, push.y, push.x])
    for n, node in enumerate(ends):
        outer[tuple(node)] = result.reaction_n[f"{n}"]
    # the float32 Lame numbers of a mixed model differ from those of `element_fields` by their rounding
    tolerance = 3e-7 if mixed else 1e-8
    energy = element_fields(model, result.displacement_mm).energy_density_mpa.sum() * np.prod(model.spacing_mm)
    assert energy == pytest.approx((outer * result.displacement_mm).sum() / 2, rel=tolerance)
    size = np.abs(outer).sum()
    # each voxel's own forces are in balance whatever its rounded moduli, so equilibrium holds to the solver's tolerance
    np.testing.assert_allclose(outer.sum(axis=(0, 1, 2)), 0, atol=1e-9 * size)
    moments = np.cross(points_of(model), outer).sum(axis=(0, 1, 2))
    np.testing.assert_allclose(moments, 0, atol=1e-9 * size * 10)
