"""Voxels of analytic solids against closed forms: volume, shells thinner than a voxel, any orientation of the grid."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phantoms.materials import Materials
from phantoms.solids import DensityFeature, Solid, cup, ellipsoid, half_space, plate, round_cone, tube
from phantoms.voxelise import Lattice, render, texture_table

MINERAL = Materials.mineral_only()


def mineral_g(solid, lattice):
    density, _ = render([solid], lattice, MINERAL, background=None, threads=1)
    return float(density.sum(dtype=float)) * float(np.prod(lattice.spacing_mm)) * 1e-6


def bone(*parts, **more):
    return Solid("bone", parts, "water", cortex_mg_cm3=1000.0, label=7, **more)


@settings(max_examples=12, deadline=None)
@given(
    radius=st.floats(6, 14),
    spacing=st.tuples(st.floats(0.6, 2.5), st.floats(0.5, 1.0), st.floats(0.5, 1.0)),
    shift=st.tuples(*[st.floats(-0.5, 0.5)] * 3),
)
def test_mass_of_a_ball_does_not_depend_on_the_grid(radius, spacing, shift):
    ball = bone(ellipsoid(shift, radius, core_mg_cm3=100.0))
    box = Lattice.upright([-18] * 3, [18] * 3, spacing)
    assert mineral_g(ball, box) == pytest.approx(4 / 3 * np.pi * radius**3 * 100e-6, rel=0.006)


@pytest.mark.parametrize("thickness", [0.3, 0.6, 1.5])
def test_a_shell_thinner_than_a_voxel_keeps_its_mass(thickness):
    shell = bone(ellipsoid((0.1, -0.2, 0.05), 15.0, cortex_mm=thickness))
    expected = 4 / 3 * np.pi * (15.0**3 - (15.0 - thickness) ** 3) * 1000e-6
    assert mineral_g(shell, Lattice.upright([-18] * 3, [18] * 3, (1.25, 0.8, 0.8))) == pytest.approx(expected, rel=0.03)


def test_an_oblique_and_sheared_grid_sees_the_same_mass():
    ball = bone(ellipsoid((3.0, -2.0, 1.0), 10.0, core_mg_cm3=200.0, cortex_mm=0.5))
    angle = np.radians(20)
    matrix = np.eye(4)
    # Slices along z of the patient, columns turned about x: a gantry tilt, axes not orthogonal.
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 2] = (
        (0, 0, 1.25),
        (0, 0.8 * np.cos(angle), 0.8 * np.sin(angle)),
        (0.8, 0, 0),
    )
    matrix[:3, 3] = -matrix[:3, :3] @ np.array([16, 20, 20])
    sheared = Lattice((33, 41, 41), matrix)
    volume = abs(np.linalg.det(matrix[:3, :3]))
    density, _ = render([ball], sheared, MINERAL, background=None)
    upright = mineral_g(ball, Lattice.upright([-15] * 3, [16] * 3, (0.8, 0.8, 0.8)))
    assert float(density.sum(dtype=float)) * volume * 1e-6 == pytest.approx(upright, rel=0.006)


def test_volumes_of_every_shape_agree_with_closed_forms():
    cases = [
        (round_cone((0, 0, -8), (0, 0, 8), 5.0, core_mg_cm3=100), np.pi * 25 * 16 + 4 / 3 * np.pi * 125),
        (ellipsoid((0, 0, 0), (4, 7, 11), core_mg_cm3=100), 4 / 3 * np.pi * 4 * 7 * 11),
        (plate((0, 0, 0), np.eye(3), 12, 9, thickness_mm=5, exponent=2, rounding_mm=0, core_mg_cm3=100), np.pi * 540),
        (cup((0, 0, 0), (0, 0, 1), 8.0, 10.0, 30.0, core_mg_cm3=100), 4 / 3 * np.pi * (1000 - 512)),
    ]  # fmt: skip
    box = Lattice.upright([-20] * 3, [20] * 3, (0.8, 0.8, 0.8))
    for shape, volume in cases:
        assert mineral_g(bone(shape), box) == pytest.approx(volume * 100e-6, rel=0.01)


def test_subtraction_and_intersection_take_away_what_they_should():
    block = round_cone((0, 0, -20), (0, 0, 20), 10.0, core_mg_cm3=100)
    hole = round_cone((0, 0, -40), (0, 0, 40), 4.0).subtracted()
    ends = [half_space((0, 0, 6), (0, 0, 1)).intersected(), half_space((0, 0, -6), (0, 0, -1)).intersected()]
    box = Lattice.upright([-12] * 3, [12] * 3, (0.8, 0.8, 0.8))
    assert mineral_g(bone(block, hole, *ends), box) == pytest.approx(np.pi * (100 - 16) * 12 * 100e-6, rel=0.01)


def test_a_tube_follows_its_knots():
    funnel = Solid("soft", (tube([-20, 20], [0, 4], 0.0, [6, 10], [6, 10], exponent=2.0),), "muscle")
    box = Lattice.upright([-20, -20, -18], [20, 20, 18], (1.0, 0.5, 0.5))
    image, _ = render([funnel], box, Materials.at(120))
    filled = (image + 1000) / (Materials.at(120).hu("muscle") + 1000)
    area = filled.sum(axis=(1, 2)) * 0.25
    radius = np.interp(np.arange(-17.5, 18, 1.0), [-20, 20], [6, 10])
    np.testing.assert_allclose(area, np.pi * radius**2, rtol=0.02)


def test_mirroring_moves_left_to_right():
    part = round_cone((10, 0, 0), (20, 5, 3), 4.0, 2.0, flatness=0.6, core_mg_cm3=100)
    box = Lattice.upright([-30, -12, -12], [30, 12, 12], (1.0, 1.0, 1.0))
    left, _ = render([bone(part)], box, MINERAL, background=None)
    right, _ = render([bone(part.mirrored())], box, MINERAL, background=None)
    np.testing.assert_allclose(right, left[:, :, ::-1], atol=1e-3)


def test_labels_mark_voxels_that_are_more_than_half_full():
    ball = bone(ellipsoid((0, 0, 0), 9.0, core_mg_cm3=100.0))
    density, labels = render([ball], Lattice.upright([-12] * 3, [12] * 3, (1, 1, 1)), MINERAL, background=None)
    assert ((labels == 7) == (density >= 50.0 - 1e-3)).all()


def test_thread_count_and_order_of_slabs_do_not_change_the_image():
    parts = [bone(ellipsoid((0, 0, z), 8.0, core_mg_cm3=100.0, cortex_mm=0.5), texture=0.2) for z in (-9, 0, 9)]
    box = Lattice.upright([-10, -10, -20], [10, 10, 20], (1, 0.9, 0.9))
    one, _ = render(parts, box, MINERAL, background=None, threads=1, seed=4)
    two, _ = render(parts, box, MINERAL, background=None, threads=2, seed=4)
    np.testing.assert_array_equal(one, two)


def test_texture_has_the_stated_spread_and_no_mean():
    table = texture_table(5)
    assert abs(float(table.mean())) < 1e-5
    assert float(table.std()) == pytest.approx(1.0, abs=1e-4)
    even = bone(round_cone((0, 0, -30), (0, 0, 30), 20.0, core_mg_cm3=150.0))
    rough = bone(round_cone((0, 0, -30), (0, 0, 30), 20.0, core_mg_cm3=150.0), texture=0.2, texture_mm=2.2)
    box = Lattice.upright([-12, -12, -20], [12, 12, 20], (1, 1, 1))
    smooth, _ = render([even], box, MINERAL, background=None)
    field, _ = render([rough], box, MINERAL, background=None)
    assert float(smooth.std()) < 1e-3
    assert float(field.std()) / 150.0 == pytest.approx(0.2, rel=0.1)
    assert float(field.mean()) == pytest.approx(150.0, rel=0.02)


def test_a_density_feature_adds_a_gaussian_strand():
    strand = DensityFeature(np.array([0.0, 0, -50]), np.array([0.0, 0, 50]), 4.0, 100.0)
    shape = bone(round_cone((0, 0, -30), (0, 0, 30), 20.0, core_mg_cm3=50.0), features=(strand,))
    box = Lattice.upright([-0.5, -0.5, -5], [0.5, 12.5, 5], (1, 1, 1))
    density, _ = render([shape], box, MINERAL, background=None)
    y = np.arange(13.0)
    np.testing.assert_allclose(density[5, :, 0], 50 + np.where(y < 12, 100 * np.exp(-((y / 4) ** 2)), 0), atol=0.5)


def test_a_part_is_painted_beside_a_deeper_one_that_is_cut_away_there():
    """The deepest of the joined parts may be none of the whole: what decides is how deep the whole is."""
    trunk, leg = ellipsoid((0, 0, 0), (60.0, 60, 90)), ellipsoid((28, 0, -60), (24.0, 30, 40))
    cut = half_space((0, 0, -30), (0, 0, -1)).intersected()
    lattice = Lattice.upright([-70, -70, -105], [70, 70, -40], (2.0, 2.0, 2.0))
    image, _ = render([Solid("body", (trunk, cut, leg), "water")], lattice, Materials.at(120))
    points = lattice.to_lps(np.moveaxis(np.indices(lattice.shape), 0, -1)) - (28, 0, -60)
    reach = np.sqrt(((points / (24.0, 30, 40)) ** 2).sum(axis=-1))
    assert (image[reach < 0.9] == 0.0).all(), "the leg is whole"
    assert (image[reach > 1.1] == -1000.0).all(), "and nothing else is there"
