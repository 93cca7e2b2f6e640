"""What holds a piece of the model, what does not, and that reactions balance forces."""

from __future__ import annotations

import numpy as np
import pytest

from fea import NodalForce, Prescribed, Reason, SolveError, VoxelModel, face_nodes, nodes_of, solve
from fea.stiffness import Level
from fea.supports import held_pieces
from tests.fea.plain_elements import assembled, direct_solution

CUBE = (1.0, 1.0, 1.0)


def two_blocks(second: tuple[slice, slice, slice]) -> VoxelModel:
    """A cube of 3 voxels in the corner of the box, and another one elsewhere."""
    modulus = np.zeros((6, 6, 6))
    modulus[:3, :3, :3] = 10
    modulus[second] = 10
    return VoxelModel(modulus, CUBE)


def foot(model: VoxelModel) -> list[Prescribed]:
    return [Prescribed("foot", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0)]


LOW, HIGH = slice(0, 3), slice(3, 6)


@pytest.mark.parametrize(
    ("second", "joint"),
    [((HIGH, HIGH, HIGH), "a corner"), ((HIGH, HIGH, LOW), "an edge"), ((HIGH, LOW, LOW), "a face")],
)
def test_an_edge_or_a_corner_is_a_hinge(second, joint):
    """It is refused with that word, or removed if asked, and the singular matrix of the textbook agrees."""
    model = two_blocks(second)
    stiffness = assembled(model.modulus_mpa, CUBE, 0.3)
    free = np.ones((*model.node_shape, 3), bool)
    free[0] = False
    used = free.ravel() & (stiffness.diagonal() > 0)
    lowest = np.linalg.eigvalsh(stiffness[used][:, used].toarray())[:6]
    mechanisms = int((lowest < 1e-10).sum())
    assert mechanisms == {"a corner": 3, "an edge": 1, "a face": 0}[joint]
    if joint == "a face":
        assert solve(model, foot(model)).residual == 0
        return
    with pytest.raises(SolveError, match="hinge") as caught:
        solve(model, foot(model))
    assert caught.value.reason == Reason.FLOATING_PIECES
    assert held_pieces(model, foot(model), "remove").sum() == 27


def test_loose_pieces_that_touch_nothing_are_no_hinges():
    with pytest.raises(SolveError) as caught:
        held_pieces(two_blocks((HIGH, HIGH, slice(4, 6))), foot(two_blocks((HIGH, HIGH, slice(4, 6)))), "refuse")
    assert "hinge" not in str(caught.value)


def test_pieces_that_corners_hold_are_kept():
    """A voxel above a hole shares its four lower corners with the ring around it, and no face: it stands firmly."""
    modulus = np.zeros((2, 3, 3))
    modulus[0] = 10
    modulus[0, 1, 1] = 0
    modulus[1, 1, 1] = 20
    model = VoxelModel(modulus, CUBE)
    assert held_pieces(model, foot(model), "refuse").sum() == model.solid.sum()
    force = NodalForce(np.array([[2, 1, 1]]), z=-1.0, y=0.5, x=0.2)
    result = solve(model, foot(model), [force], rtol=1e-10)
    fixed = np.zeros((*model.node_shape, 3), bool)
    fixed[0] = True
    load = np.zeros(fixed.shape)
    load[2, 1, 1] = -1.0, 0.5, 0.2
    exact = direct_solution(assembled(model.modulus_mpa, CUBE, 0.3), fixed, np.zeros(fixed.shape), load)
    np.testing.assert_allclose(result.displacement_mm, exact, atol=1e-8 * np.abs(exact).max())


def test_a_chain_of_pieces_is_held_link_by_link():
    """Each voxel stands on the edges of a ring that the one before it holds."""
    modulus = np.zeros((6, 3, 3))
    for k in range(0, 6, 2):
        modulus[k] = 10
        modulus[k, 1, 1] = 0
        modulus[k + 1, 1, 1] = 10
    model = VoxelModel(modulus, CUBE)
    assert held_pieces(model, foot(model), "refuse").sum() == model.solid.sum()


def test_a_condition_and_a_hinge_together_may_hold():
    """A block on an edge of another is free to turn about it, until one more component is prescribed."""
    model = two_blocks((HIGH, HIGH, LOW))
    top = nodes_of(model.modulus_mpa > 0)
    top = top[top[:, 0] == 6]
    turning = [*foot(model), Prescribed("top", top, x=0.0)]
    with pytest.raises(SolveError, match=r"27 voxels is free to move: .*turn about x") as caught:
        solve(model, turning)
    assert caught.value.reason == Reason.UNCONSTRAINED
    result = solve(model, [*foot(model), Prescribed("top", top, y=0.01)], rtol=1e-9)
    assert result.residual <= 1e-9


def test_reactions_balance_the_forces():
    rng = np.random.default_rng(0)
    model = VoxelModel(rng.uniform(1, 50, (9, 8, 7)), (1.0, 0.8, 1.3))
    forces = [
        NodalForce(rng.integers(0, 7, (5, 3)), *rng.standard_normal((3, 5))),
        NodalForce(np.array([[0, 1, 1]]), z=3.0),
    ]
    top = Prescribed("top", face_nodes(model, 0, True), z=-0.1)
    result = solve(model, [*foot(model), top], forces, rtol=1e-9)
    total = sum(result.reaction_n.values()) + sum(np.array([f.z.sum(), f.y.sum(), f.x.sum()]) for f in forces)
    size = np.abs(result.reaction_n["top"]).max()
    np.testing.assert_allclose(total, 0, atol=1e-6 * size)
    assert result.imbalance < 1e-7


def test_an_operator_out_of_balance_is_noticed(monkeypatch):
    """Were a kernel wrong, reactions would not balance: here a voxel layer pushes against nothing."""
    right = Level.apply

    def wrong(level: Level, u: np.ndarray, out: np.ndarray) -> None:
        right(level, u, out)
        out[-1] *= 1.01

    model = VoxelModel(np.full((5, 4, 4), 10.0), CUBE)
    top = Prescribed("top", face_nodes(model, 0, True), z=-0.1)
    monkeypatch.setattr(Level, "apply", wrong)
    with pytest.raises(SolveError, match="no equilibrium") as caught:
        solve(model, [*foot(model), top])
    assert caught.value.reason == Reason.NOT_CONVERGED
