"""Fields per voxel against what a known displacement must give."""

from __future__ import annotations

import numpy as np
import pytest

from fea import Prescribed, VoxelModel, face_nodes, nodes_of, solve
from fea.post import element_fields, von_mises


def test_affine_displacement_gives_its_strain_and_stress():
    rng = np.random.default_rng(0)
    modulus = np.where(rng.random((3, 4, 5)) < 0.7, 100.0, 0)
    modulus[0, 0, 0] = 100
    model = VoxelModel(modulus, (1.5, 0.8, 1.0), np.where(rng.random((3, 4, 5)) < 0.5, 0.2, 0.4))
    gradient = rng.standard_normal((3, 3)) * 1e-2  # rows: displacement component, columns: axis; order z, y, x
    points = np.stack(np.meshgrid(*map(np.arange, model.node_shape), indexing="ij"), -1) * np.array(model.spacing_mm)
    fields = element_fields(model, points @ gradient.T)
    g = gradient + gradient.T
    expected = np.array([*np.diag(gradient), g[1, 2], g[0, 2], g[0, 1]])
    np.testing.assert_allclose(fields.strain[model.solid], np.tile(expected, (model.solid.sum(), 1)), atol=1e-15)
    assert not fields.strain[~model.solid].any()
    for where in np.argwhere(model.solid)[:5]:
        nu = np.asarray(model.poisson)[tuple(where)]
        symmetric = (gradient + gradient.T) / 2
        stress = 100 / (1 + nu) * (symmetric + nu / (1 - 2 * nu) * np.trace(symmetric) * np.eye(3))
        ours = fields.stress_mpa[tuple(where)]
        np.testing.assert_allclose(ours, [*np.diag(stress), stress[1, 2], stress[0, 2], stress[0, 1]], rtol=1e-12)
        assert fields.energy_density_mpa[tuple(where)] == pytest.approx((stress * symmetric).sum() / 2)
        deviator = stress - np.trace(stress) / 3 * np.eye(3)
        assert fields.von_mises_mpa[tuple(where)] == pytest.approx(np.sqrt(1.5 * (deviator**2).sum()))


def test_energy_of_the_voxels_is_the_work_of_the_load():
    model = VoxelModel(np.random.default_rng(1).uniform(1, 50, (5, 6, 7)), (1.0, 0.9, 1.2))
    result = solve(
        model,
        [
            Prescribed("bottom", face_nodes(model, 0, False), z=0.0, y=0.0, x=0.0),
            Prescribed("top", face_nodes(model, 0, True), z=-0.2),
        ],
        rtol=1e-10,
    )
    energy = element_fields(model, result.displacement_mm).energy_density_mpa.sum() * np.prod(model.spacing_mm)
    assert energy == pytest.approx(-0.2 * result.reaction_n["top"][0] / 2, rel=1e-8)


def test_von_mises_of_simple_states():
    uniaxial, shear, pressure = np.eye(6)[0], np.eye(6)[3], np.array([1.0, 1, 1, 0, 0, 0])
    assert von_mises(np.stack([uniaxial, shear, pressure])) == pytest.approx([1, np.sqrt(3), 0])


def test_nodes_of_a_mask_are_its_corners():
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = True
    assert nodes_of(mask).tolist() == [[a, b, c] for a in (1, 2) for b in (1, 2) for c in (1, 2)]
    model = VoxelModel(mask.astype(float), (1.0, 1.0, 1.0))
    assert face_nodes(model, 1, True).tolist() == [[a, 2, c] for a in (1, 2) for c in (1, 2)]
