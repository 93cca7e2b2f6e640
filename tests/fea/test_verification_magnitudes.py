"""Loads, moduli and voxels of any size and proportion, and models of any shape: a right answer or a `SolveError`."""

from __future__ import annotations

import numpy as np
import pytest

from fea import NodalForce, Prescribed, SolveError, VoxelModel, face_nodes, solve
from fea.grid import choose_layout
from fea.kernels import LONGEST_ROW
from fea.mesh_layout import MeshLayout
from fea.storage import layout_for
from tests.fea.plain_elements import assembled
from tests.fea.small_block import (
    CUBE,
    DROP,
    EXPECTED,
    MODULI,
    directly,
    platens,
    reaction,
    right_or_refused,
)


@pytest.mark.parametrize(
    "size",
    [
        1e-40,
        1e-20,
        1e20,
        1e40,
        1e150,
        1e-300,
        1e-200,
        1e-160,
        1e200,
        1e300,
    ],
)
def test_displacements_and_forces_of_any_size(size):
    model = VoxelModel(MODULI, CUBE)
    right_or_refused(lambda: reaction(model, size) / size, EXPECTED / DROP)
    bottom, top = platens(model)
    right_or_refused(
        lambda: solve(model, [bottom], [NodalForce(top.nodes, z=size)], rtol=1e-9).reaction_n["bottom"][0] / size,
        -float(len(top.nodes)),
    )


@pytest.mark.parametrize("size", [1e-20, 1e20, 1e30, 1e36, 1e-44, 1e-38, 1e-30, 3e38])
def test_moduli_of_any_size(size):
    # float32 is coarse near its end: compare with what the rounded moduli should give
    moduli = (MODULI * (size / 99)).astype(np.float32)
    right_or_refused(
        lambda: reaction(VoxelModel(moduli, CUBE)) / (size / 99), EXPECTED, rel=1e-6 if size > 1e-37 else 0.1
    )


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1e3, 1e6, 1e-300, 1e-100, 1e-30, 1e30, 1e100, 1e300])
def test_voxels_of_any_size(size):
    right_or_refused(lambda: reaction(VoxelModel(MODULI, (size,) * 3)) / size, EXPECTED)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_ordinary_sizes_are_not_refused(size):
    """Metres, millimetres, micrometres; MPa, Pa, GPa; large and small loads."""
    assert reaction(VoxelModel(MODULI, CUBE), DROP * size) == pytest.approx(EXPECTED * size, rel=1e-8)
    assert reaction(VoxelModel(MODULI * size, CUBE)) == pytest.approx(EXPECTED * size, rel=1e-6)
    assert reaction(VoxelModel(MODULI, (size,) * 3)) == pytest.approx(EXPECTED * size, rel=1e-6)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("ratio", [1e-6, 1e-3, 0.1, 10.0, 1e3, 1e6])
def test_voxels_of_any_proportion(axis, ratio):
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = ratio
    small = MODULI[:3, :4, :3]
    try:
        model = VoxelModel(small, tuple(spacing))
        found = solve(model, platens(model), rtol=1e-10).reaction_n["top"][0]
    except SolveError:
        assert not 0.1 <= ratio <= 10, "this is an ordinary voxel"
        return
    displacement = directly(model, platens(model))
    forces = (assembled(model.modulus_mpa, model.spacing_mm, 0.3) @ displacement.ravel()).reshape(displacement.shape)
    assert found == pytest.approx(forces[-1, ..., 0].sum(), rel=1e-5)


@pytest.mark.parametrize("far_mm", [1.0, 1e2, 1e4, 1e8])
def test_a_small_load_on_a_large_rigid_motion(far_mm):
    """A body that is carried far away and then loaded a little is as stiff as before; or the tolerance is refused."""
    model = VoxelModel(np.random.default_rng(1).uniform(50, 100, (8, 8, 8)), CUBE)
    bottom, top = (face_nodes(model, 0, upper) for upper in (False, True))

    def pushed() -> float:
        clamped = Prescribed("bottom", bottom, far_mm, 0.0, 0.0)
        return float(solve(model, [clamped], [NodalForce(top, z=-0.01)]).reaction_n["bottom"][0])

    right_or_refused(pushed, 0.01 * len(top), rel=1e-3)

    def pressed(shift: float) -> float:
        ends = [Prescribed("b", bottom, shift, 0.0, 0.0), Prescribed("t", top, shift - 0.0078125, 0.0, 0.0)]
        return float(solve(model, ends).reaction_n["t"][0])

    right_or_refused(lambda: pressed(far_mm), pressed(0.0), rel=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_the_reaction_of_a_slender_bar(seed):
    """Layers along a bar a thousand voxels long, at the default tolerance; supports on both sides agree."""
    layers = np.random.default_rng(seed).uniform(1, 3, 1000).astype(np.float32)
    model = VoxelModel(np.broadcast_to(layers, (3, 4, 1000)), (1.0, 0.8, 1.2), 0.0)
    result = solve(model, platens(model, 10.0, axis=2))
    expected = -10.0 / (1000 * 1.2) * (3 * 4 * 0.8) / np.mean(1 / layers.astype(float))
    assert result.reaction_n["top"][2] == pytest.approx(expected, rel=1e-5)
    assert result.reaction_n["bottom"][2] == pytest.approx(-expected, rel=1e-4)


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), (1, 1, 9), (1, 9, 1), (9, 1, 1), (1, 8, 9), (8, 1, 9), (8, 9, 1), (1, 60, 1), (2, 2, 90), (1, 40, 40)],
)
@pytest.mark.parametrize("axis", range(3))
def test_models_one_voxel_thick(shape, axis):
    rng = np.random.default_rng(sum(shape))
    model = VoxelModel(rng.uniform(1, 9, shape), (1.0, 0.7, 1.3))
    sets = platens(model, axis=axis)
    expected = directly(model, sets)
    found = solve(model, sets, rtol=1e-12).displacement_mm
    assert np.abs(found - expected).max() < 1e-7 * np.abs(expected).max()


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("length", [1001, 1137])
@pytest.mark.parametrize("section", [(1, 1), pytest.param((3, 4), marks=pytest.mark.slow)])
def test_rows_longer_than_the_scratch(axis, length, section):
    """The kernels work on rows of at most `LONGEST_ROW`; longer models turn their rows another way."""
    shape = list(section)
    shape.insert(axis, length)
    layers = np.random.default_rng(length).uniform(1, 3, length).astype(np.float32)
    line = [1, 1, 1]
    line[axis] = length
    spacing = (1.0, 0.8, 1.2)
    model = VoxelModel(np.broadcast_to(layers.reshape(line), shape), spacing, 0.0)
    result = solve(model, platens(model, 1.0, axis), rtol=1e-10)
    area = np.prod(section) * np.prod(spacing) / spacing[axis]
    expected = -area / (spacing[axis] * (1 / layers.astype(float)).sum())
    assert result.reaction_n["top"][axis] == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_a_box_longer_than_the_scratch_on_all_axes():
    """No row would fit: refused, not written beyond the scratch."""
    solid = np.broadcast_to(np.ones((1, 1, 1), bool), (LONGEST_ROW + 80,) * 3)
    try:
        layout = choose_layout(solid)
    except SolveError:
        return
    assert layout.internal_shape[2] <= LONGEST_ROW


@pytest.mark.parametrize("shape", [(1, 1200, 1100), (1200, 1, 1150), (1150, 1200, 1)])
def test_wide_flat_models_are_not_kept_in_rows_of_one_voxel(shape):
    """One layer, its edges longer than some rows may be: rows across the layer would be nine tenths padding."""
    layout = layout_for(VoxelModel(np.ones(shape, np.float32), CUBE), "auto")
    assert isinstance(layout, MeshLayout) or layout.work < 1.5 * np.prod(shape)
