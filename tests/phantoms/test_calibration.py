"""Rod plates and test objects: the numbers a user would fit must be the ones that went in."""

import numpy as np
import pytest

from phantoms import make_phantom

WATER_PER_MG = 0.2174


def rod_means(phantom, image, truth):
    """Mean HU in the inner half of each rod of an image."""
    k, j, i = np.indices(image.hu.shape, sparse=True)
    means = []
    for rod in truth.rods:
        centre = image.lattice.to_index(np.array(rod.start_lps_mm))
        inside = (j - centre[1]) ** 2 + (i - centre[2]) ** 2 <= (0.5 * rod.radius_mm / image.spacing[1]) ** 2
        means.append(image.hu[np.broadcast_to(inside & (k >= 0), image.hu.shape)].mean())
    return np.array(means)


@pytest.mark.parametrize("kvp", [80, 100, 120, 140])
def test_the_mindways_equations_recover_the_true_calibration_line(kvp):
    """Regress HU minus water on density; slope - 0.2174 and intercept + 999.6 are the line of K2HPO4 in water."""
    phantom = make_phantom("rods")
    image = phantom.image(kvp, slice_mm=5.0, pixel_mm=1.0, dose=0)
    truth = phantom.truth(image)
    density = np.array([rod.density_mg_cm3 for rod in truth.rods])
    water = np.array([rod.water_mg_cm3 for rod in truth.rods])
    slope, intercept = np.polyfit(density, rod_means(phantom, image, truth) - water, 1)
    assert slope - WATER_PER_MG == pytest.approx(truth.hu_per_mg_cm3, rel=0.01)
    assert intercept + 999.6 == pytest.approx(truth.hu_at_zero, abs=3.0)


def test_rods_read_their_true_hu_from_right_to_left():
    phantom = make_phantom("rods", plate="ha")
    image = phantom.image(slice_mm=5.0, pixel_mm=0.8, dose=0)
    truth = phantom.truth(image)
    np.testing.assert_allclose(rod_means(phantom, image, truth), [rod.hu for rod in truth.rods], atol=1.0)
    assert [rod.density_mg_cm3 for rod in truth.rods] == [0, 100, 200, 400, 800]
    assert np.all(np.diff([rod.start_lps_mm[0] for rod in truth.rods]) > 0)


def test_a_plate_fits_between_patient_and_table():
    phantom = make_phantom("torso", rods="mindways", top_level="L2", hips=False)
    image = phantom.image(slice_mm=8.0, pixel_mm=1.5, dose=0)
    truth = phantom.truth(image)
    np.testing.assert_allclose(rod_means(phantom, image, truth), [rod.hu for rod in truth.rods], atol=6.0)


def test_spine_phantom_has_its_three_densities():
    phantom = make_phantom("esp")
    image = phantom.image(slice_mm=2.0, pixel_mm=1.0, dose=0)
    truth = phantom.truth(image)
    assert [v.trabecular_mineral_mg_cm3 for v in truth.vertebrae] == [50, 100, 200]
    assert {v.mineral for v in truth.vertebrae} == {"hydroxyapatite"}
    for vertebra in truth.vertebrae:
        k, j, i = np.round(image.lattice.to_index(np.array(vertebra.centre_lps_mm))).astype(int)
        assert image.hu[k - 1 : k + 2, j - 3 : j + 4, i - 3 : i + 4].mean() == pytest.approx(
            vertebra.trabecular_hu, abs=1.0
        )
        volume = (image.labels == vertebra.label).sum() * np.prod(image.spacing)
        assert volume == pytest.approx(np.pi * 18 * 14 * 25, rel=0.05)


def test_water_is_zero_all_over():
    image = make_phantom("water", diameter_mm=160.0).image(slice_mm=5.0, pixel_mm=1.0, dose=0)
    middle = image.hu.shape[1] // 2
    assert abs(image.hu[:, middle - 60 : middle + 60, middle].astype(float)).max() <= 1


@pytest.mark.parametrize(
    ("kind", "options", "area", "height"),
    [
        ("cube", {"edge_mm": 16.0, "density_mg_cm3": 180.0}, 256.0, 16.0),
        ("cylinder", {"diameter_mm": 24.0, "height_mm": 20.0, "density_mg_cm3": 90.0}, np.pi * 144.0, 20.0),
    ],
)
def test_specimens_have_their_volume_density_and_closed_form_stiffness(kind, options, area, height):
    phantom = make_phantom(kind, **options)
    image = phantom.image(slice_mm=1.0, pixel_mm=1.0, dose=0, kernel="sharp")
    truth = phantom.truth(image).specimens[0]
    assert truth.stiffness_n_mm(lambda _density: 500.0) == pytest.approx(500.0 * area / height)
    assert (image.labels == truth.label).sum() == pytest.approx(area * height, rel=0.02)
    core = image.hu[image.hu.shape[0] // 2, image.hu.shape[1] // 2, image.hu.shape[2] // 2]
    assert core == pytest.approx(truth.hu, abs=1.0)
    mass = image.hu.astype(float).sum() / phantom.truth(image).hu_per_mg_cm3
    assert mass == pytest.approx(options["density_mg_cm3"] * area * height, rel=0.01)
