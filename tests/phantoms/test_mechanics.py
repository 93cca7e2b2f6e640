"""Voxel models made from the analytic object: closed form for specimens, the same body at several voxel sizes."""

import json

import numpy as np
import pytest

from fea import load_model, solve
from phantoms import make_phantom
from phantoms.mechanics import compression_model, write_models


def force_on_top_n(model, tmp_path):
    """By the solver, from the file, as anybody would."""
    loaded, prescribed, forces = load_model(model.save(tmp_path / "model.npz"))
    return -float(solve(loaded, prescribed, forces, rtol=1e-8, threads=1).reaction_n["top"][0])


def test_a_cube_has_its_closed_form_stiffness_at_every_voxel_size(tmp_path):
    cube = make_phantom("cube", edge_mm=12.0, density_mg_cm3=150.0)
    expected = (-34.7 + 3.23 * 150.0) * 12.0**2 / 12.0
    for voxel_mm in (1.0, 2.0):
        model = compression_model(cube, "specimen", voxel_mm=voxel_mm)
        assert model.modulus_mpa.shape == (12 / voxel_mm,) * 3
        assert model.stiffness_n_mm == pytest.approx(expected, rel=1e-5)
        assert force_on_top_n(model, tmp_path) / model.shortening_mm == pytest.approx(expected, rel=1e-4)


def test_a_cylinder_fills_its_cross_section_as_voxels_get_finer():
    cylinder = make_phantom("cylinder", diameter_mm=30.0, height_mm=24.0, density_mg_cm3=120.0)
    exact = (-34.7 + 3.23 * 120.0) * np.pi * 15.0**2 / 24.0
    error = [
        abs(compression_model(cylinder, "specimen", voxel_mm=v).stiffness_n_mm / exact - 1) for v in (2.0, 1.0, 0.5)
    ]
    assert error[0] < 0.03
    assert error[2] < 0.008


def test_a_vertebra_is_the_same_body_at_two_voxel_sizes(tmp_path):
    spine = make_phantom("spine", seed=3, top_level="L2", texture=0.0)
    axial = []  # modulus times area, which series stiffness hangs on, as the solver finds it
    for voxel_mm in (2.0, 1.0):
        model = compression_model(spine, "vertebra_L3", voxel_mm=voxel_mm)
        height = model.modulus_mpa.shape[0] * voxel_mm
        assert height == pytest.approx(0.66 * 24.0, abs=3.0)
        axial.append(force_on_top_n(model, tmp_path) / model.shortening_mm * height)
    assert axial[0] == pytest.approx(axial[1], rel=0.10)


def test_what_a_phantom_has_not_is_no_model():
    with pytest.raises(ValueError, match="vertebra_L1"):
        compression_model(make_phantom("cube", edge_mm=8.0), "vertebra_L1")


def test_models_of_a_phantom_are_written_with_their_closed_form(tmp_path):
    written = write_models(make_phantom("cube", edge_mm=8.0), tmp_path, voxels_mm=(2.0, 1.0))
    listing = json.loads((tmp_path / "models.json").read_text())
    assert [entry["file"] for entry in listing] == [path.name for path in written]
    assert listing[0]["stiffness_n_mm"] == pytest.approx(listing[1]["stiffness_n_mm"])
    with pytest.raises(ValueError, match="nothing to press"):
        write_models(make_phantom("water", length_mm=9.0), tmp_path)
