"""Voxel models made from the analytic object: closed forms for specimens, the same bone at several voxel sizes."""

import json

import numpy as np
import pytest

from fea import load_model, solve
from fea.post import element_fields
from phantoms import make_phantom, mechanics
from phantoms.fall import fall_axes, femur_modulus_mpa
from phantoms.mechanics import bending_model, compression_model, sideways_fall_model, write_models
from phantoms.solids import unit


@pytest.fixture(scope="module", autouse=True)
def truths_are_told_once():
    """Each model of a phantom begins with the truth of a whole image; one answer for each phantom is enough."""
    answers = []

    def remembered(phantom):
        for asked, truth in answers:
            if asked is phantom:
                return truth
        answers.append((phantom, known(phantom)))
        return answers[-1][1]

    known = mechanics._known
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mechanics, "_known", remembered)
        yield


def modulus_of(density_mg_cm3):
    """The law of Kopperdahl, written a second time."""
    return -34.7 + 3.23 * density_mg_cm3


def solved(model, tmp_path):
    """By the solver, from the file, as anybody would."""
    loaded, prescribed, forces = load_model(model.save(tmp_path / "model.npz"))
    return solve(loaded, prescribed, forces, rtol=1e-8, threads=1)


def force_on_top_n(model, tmp_path):
    return -float(solved(model, tmp_path).reaction_n["top"][0])


def truth_of(phantom):
    return phantom.truth(phantom.image(slice_mm=3.0, pixel_mm=1.5, dose=0.0)).specimens[0]


def test_a_cube_has_its_closed_form_stiffness_at_every_voxel_size(tmp_path):
    cube = make_phantom("cube", edge_mm=12.0, density_mg_cm3=150.0)
    expected = modulus_of(150.0) * 12.0**2 / 12.0
    for voxel_mm in (1.0, 2.0):
        model = compression_model(cube, "specimen", voxel_mm=voxel_mm)
        assert model.modulus_mpa.shape == (12 / voxel_mm,) * 3
        assert model.stiffness_n_mm == pytest.approx(expected, rel=1e-5)
        assert force_on_top_n(model, tmp_path) / model.shortening_mm == pytest.approx(expected, rel=1e-4)
    assert truth_of(cube).stiffness_n_mm(modulus_of) == pytest.approx(expected)


def test_a_cylinder_fills_its_cross_section_as_voxels_get_finer():
    cylinder = make_phantom("cylinder", diameter_mm=30.0, height_mm=24.0, density_mg_cm3=120.0)
    exact = modulus_of(120.0) * np.pi * 15.0**2 / 24.0
    error = [
        abs(compression_model(cylinder, "specimen", voxel_mm=v).stiffness_n_mm / exact - 1) for v in (2.0, 1.0, 0.5)
    ]
    assert error[0] < 0.03
    assert error[2] < 0.008


@pytest.mark.parametrize("core", [0.0, 120.0])
def test_a_tube_hollow_or_filled_has_its_closed_form(core, tmp_path):
    """A wall and what fills it strain alike, so that their stiffnesses add, exactly."""
    shaft = make_phantom("tube", diameter_mm=24.0, wall_mm=6.0, height_mm=12.0, core_mg_cm3=core)
    areas = np.pi * np.array([24.0**2 - 12.0**2, 12.0**2]) / 4
    exact = (modulus_of(1050.0) * areas[0] + (modulus_of(core) * areas[1] if core else 0.0)) / 12.0
    assert truth_of(shaft).stiffness_n_mm(modulus_of) == pytest.approx(exact)
    for voxel_mm, share in ((2.0, 0.07), (1.0, 0.02)):
        model = compression_model(shaft, "specimen", voxel_mm=voxel_mm)
        assert model.stiffness_n_mm == pytest.approx(exact, rel=share), "voxels fill the ring"
        assert force_on_top_n(model, tmp_path) / model.shortening_mm == pytest.approx(model.stiffness_n_mm, rel=1e-4)


def test_a_tube_in_pure_bending_has_the_moment_of_its_section(tmp_path):
    shaft = make_phantom("tube", diameter_mm=24.0, wall_mm=6.0, height_mm=12.0)
    exact = modulus_of(1050.0) * np.pi * (24.0**4 - 12.0**4) / 64 / 12.0
    assert truth_of(shaft).bending_stiffness_n_mm(modulus_of) == pytest.approx(exact)
    model = bending_model(shaft, voxel_mm=1.0)
    assert model.bending_stiffness_n_mm == pytest.approx(exact, rel=0.02)
    solution = solved(model, tmp_path)
    work = (
        2.0
        * float(element_fields(solution.model, solution.displacement_mm).energy_density_mpa.sum())
        * model.spacing_mm**3
    )
    assert work / model.turn_rad**2 == pytest.approx(model.bending_stiffness_n_mm, rel=0.02)
    force = abs(float(solution.reaction_n["top"][0]))
    assert force * 24.0 < 0.01 * work / model.turn_rad, "bending without a force"


def test_layers_at_a_poisson_ratio_of_zero_are_springs_in_series(tmp_path):
    column = make_phantom("layers", densities_mg_cm3=(400.0, 60.0, 150.0), edge_mm=8.0, layer_mm=4.0)
    exact = 8.0**2 / sum(4.0 / modulus_of(rho) for rho in (400.0, 60.0, 150.0))
    assert truth_of(column).stiffness_n_mm(modulus_of) == pytest.approx(exact)
    for voxel_mm in (2.0, 1.0):
        model = compression_model(column, "specimen", voxel_mm=voxel_mm)
        assert model.poisson == 0.0
        assert model.stiffness_n_mm == pytest.approx(exact, rel=1e-5)
        assert force_on_top_n(model, tmp_path) / model.shortening_mm == pytest.approx(exact, rel=1e-4)
    with pytest.raises(ValueError, match="bending"):
        truth_of(column).bending_stiffness_n_mm(modulus_of)


def test_a_vertebra_is_the_same_body_at_two_voxel_sizes(tmp_path):
    spine = make_phantom("spine", seed=3, top_level="L2", texture=0.0)
    axial = []  # modulus times area, which series stiffness hangs on, as the solver finds it
    for voxel_mm in (2.0, 1.0):
        model = compression_model(spine, "vertebra_L3", voxel_mm=voxel_mm)
        height = model.modulus_mpa.shape[0] * voxel_mm
        assert height == pytest.approx(0.66 * 24.0, abs=3.0)
        axial.append(force_on_top_n(model, tmp_path) / model.shortening_mm * height)
    assert axial[0] == pytest.approx(axial[1], rel=0.10)


@pytest.fixture(scope="module")
def hip():
    return make_phantom("hip", seed=3, side="left", texture=0.0)


def test_the_fall_is_turned_and_leans_as_asked(hip):
    femur = hip.truth(hip.image(slice_mm=4.0, pixel_mm=2.5, dose=0.0)).femur("left")
    across, along, up = axes = fall_axes(femur)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    shaft, neck = unit(femur.shaft_axis_lps), unit(femur.neck_axis_lps)
    assert np.degrees(np.arcsin(shaft @ up)) == pytest.approx(10.0, abs=0.01), "knee away from the ground"
    assert shaft @ along > 0.98
    assert -neck @ up > 0.6, "the head is above the trochanter"
    seen_along_shaft = -neck + shaft * (neck @ shaft)
    seen_along_shaft /= np.linalg.norm(seen_along_shaft)
    flat = up - shaft * (shaft @ up)
    assert np.degrees(np.arccos(seen_along_shaft @ flat / np.linalg.norm(flat))) == pytest.approx(15.0, abs=0.01)
    assert abs(across @ shaft) < 1e-9


def test_a_femur_in_a_fall_is_in_balance_and_nearly_the_same_at_two_voxel_sizes(hip, tmp_path):
    stiffness, bone_mm3 = [], []
    for voxel_mm in (4.0, 3.0):
        model = sideways_fall_model(hip, "left", voxel_mm=voxel_mm)
        reaction = solved(model, tmp_path).reaction_n
        down, ground, hinge = (float(reaction[name][0]) for name in ("head", "trochanter", "shaft"))
        assert down < 0 < ground
        assert down + ground + hinge == pytest.approx(0.0, abs=1e-3 * abs(down))
        assert ground > 0.5 * abs(down), "most of it goes to the ground"
        stiffness.append(-down / model.shortening_mm)
        is_bone = (model.modulus_mpa > 0) & (model.modulus_mpa != 2500.0)
        bone_mm3.append(float(is_bone.sum()) * voxel_mm**3)
    assert bone_mm3[0] == pytest.approx(bone_mm3[1], rel=0.03), "the same bone"
    assert stiffness[0] < stiffness[1] < 1.4 * stiffness[0], (
        "larger voxels thin the cortex out, and a power law feels it"
    )
    assert 300 < stiffness[1] < 6000, "N/mm; cadavers and models of them show 500 to 4000"


def test_weaker_bone_is_softer_in_a_fall(hip, tmp_path):
    weak = make_phantom("hip", seed=3, side="left", texture=0.0, hip_density_scale=0.6)
    usual, soft = (
        -float(solved(sideways_fall_model(p, "left", voxel_mm=4.0), tmp_path).reaction_n["head"][0])
        for p in (hip, weak)
    )
    assert soft < 0.75 * usual


def test_the_law_of_the_femur_is_that_of_keller():
    cortical = float(femur_modulus_mpa(np.array([1050.0], np.float32))[0])
    assert cortical == pytest.approx(10500 * (1.05 * 1.06) ** 2.29, rel=1e-5)
    assert float(femur_modulus_mpa(np.zeros(1, np.float32))[0]) == 1.0


def test_what_a_phantom_has_not_is_no_model(hip):
    cube = make_phantom("cube", edge_mm=8.0)
    with pytest.raises(ValueError, match="vertebra_L1"):
        compression_model(cube, "vertebra_L1")
    with pytest.raises(ValueError, match="right femur"):
        sideways_fall_model(hip, "right")
    with pytest.raises(ValueError, match="no specimen"):
        bending_model(make_phantom("water", length_mm=9.0))
    with pytest.raises(ValueError, match="wall"):
        make_phantom("tube", diameter_mm=10.0, wall_mm=5.0)
    with pytest.raises(ValueError, match="layer"):
        make_phantom("layers", densities_mg_cm3=())
    with pytest.raises(ValueError, match="colour"):
        make_phantom("tube", colour="red")


def test_models_of_a_phantom_are_written_with_their_closed_form(tmp_path):
    written = write_models(make_phantom("cube", edge_mm=8.0), tmp_path, voxels_mm=(2.0, 1.0))
    listing = json.loads((tmp_path / "models.json").read_text())
    assert [entry["file"] for entry in listing] == [path.name for path in written]
    pressed = [entry for entry in listing if entry["load"] == "compression"]
    assert pressed[0]["stiffness_n_mm"] == pytest.approx(pressed[1]["stiffness_n_mm"])
    bent = [entry for entry in listing if entry["load"] == "bending"]
    assert bent[0]["bending_stiffness_n_mm"] == pytest.approx(modulus_of(150.0) * 8.0**4 / 12 / 8.0, rel=1e-4)
    with pytest.raises(ValueError, match="nothing to press"):
        write_models(make_phantom("water", length_mm=9.0), tmp_path)


def test_femora_are_among_the_models(hip, tmp_path):
    written = write_models(hip, tmp_path, voxels_mm=(4.0,), femur_voxels_mm=(5.0,))
    assert "femur_left-fall-5mm.npz" in {path.name for path in written}
