"""The simulated scanner: noise, its texture, resolution, slice thickness."""

import numpy as np
import pytest

from phantoms import make_phantom
from phantoms.image import KERNELS, form_image, noise_hu

SPACING = (2.0, 0.8, 0.8)


def flat_field(sigma=20.0, kernel="standard", seed=0, slices=24):
    return form_image(
        np.zeros((slices, 160, 160), np.float32), SPACING, kernel=kernel, sigma_hu=sigma, seed=seed
    ).astype(float)


def test_noise_has_the_stated_standard_deviation_and_no_mean():
    noise = flat_field(20.0)
    assert noise.std() == pytest.approx(20.0, rel=0.03)
    assert abs(noise.mean()) < 0.3


def test_noise_power_peaks_at_middle_frequencies_as_in_filtered_backprojection():
    noise = flat_field(20.0, slices=60)
    power = (np.abs(np.fft.fft2(noise)) ** 2).mean(axis=0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(160, 0.8), np.fft.fftfreq(160, 0.8)))
    edges = np.arange(0.0, 0.62, 0.04)
    profile = np.array([power[(frequency >= a) & (frequency < a + 0.04)].mean() for a in edges])
    peak = edges[int(np.argmax(profile))] + 0.02
    assert 0.1 < peak < 0.45  # per mm; clinical body kernels peak at 0.2-0.4 per mm
    assert profile[0] < 0.5 * profile.max()
    assert profile[-1] < 0.5 * profile.max()


def test_noise_differs_from_slice_to_slice():
    noise = flat_field(20.0)
    assert abs(np.corrcoef(noise[3].ravel(), noise[4].ravel())[0, 1]) < 0.03


def test_noise_falls_with_dose_and_thickness_and_rises_with_sharpness():
    base = noise_hu(1.0, 120, 2.0, "standard")
    assert noise_hu(4.0, 120, 2.0, "standard") == pytest.approx(base / 2)
    assert noise_hu(1.0, 120, 0.5, "standard") == pytest.approx(base * 2)
    assert noise_hu(1.0, 80, 2.0, "standard") > 1.5 * base
    assert noise_hu(1.0, 120, 2.0, "sharp") > 1.5 * base > noise_hu(1.0, 120, 2.0, "soft")
    assert noise_hu(0.0, 120, 2.0, "standard") == 0.0


@pytest.mark.parametrize("kernel", list(KERNELS))
def test_a_point_is_blurred_to_the_width_of_the_kernel(kernel):
    point = np.zeros((1, 65, 65), np.float32)
    point[0, 32, 32] = 3000.0 / (0.25**2) * 0.5
    image = form_image(point, (1.0, 0.25, 0.25), kernel=kernel, sigma_hu=0.0, seed=0)[0].astype(float)
    x = (np.arange(65) - 32) * 0.25
    variance = (image.sum(axis=0) * x**2).sum() / image.sum() + 0.25**2 / 12  # and the pixel that the point fills
    fwhm = 2.3548 * np.sqrt(variance)
    assert fwhm == pytest.approx(KERNELS[kernel][0], rel=0.03)


def test_blur_keeps_the_mean():
    box = np.zeros((2, 80, 80), np.float32)
    box[:, 30:50, 30:50] = 500.0
    image = form_image(box.copy(), SPACING, kernel="soft", sigma_hu=0.0, seed=0)
    assert image.sum() == pytest.approx(box.sum(), rel=0.002)


def test_stored_values_stay_in_twelve_bits():
    extreme = np.full((1, 40, 40), 9000.0, np.float32)
    extreme[:, :20] = -1000.0
    image = form_image(extreme, SPACING, kernel="sharp", sigma_hu=30.0, seed=1)
    assert image.min() == -1024
    assert image.max() == 3071


def test_a_thick_overlapping_slice_is_the_mean_over_its_thickness():
    cylinder = make_phantom("cylinder", height_mm=20.0)
    image = cylinder.image(slice_mm=4.0, spacing_mm=1.0, pixel_mm=1.0, dose=0)
    z = image.lattice.to_lps(np.argwhere(np.ones((image.hu.shape[0], 1, 1))))[:, 2]
    middle = image.hu[:, image.hu.shape[1] // 2, image.hu.shape[2] // 2].astype(float)
    full = middle.max()
    # Share of each slice (4 mm thick, its middle half a thin slice off the lattice) that the 20 mm specimen fills.
    for shift in (-0.5, 0.5):
        low, high = z + shift - 2, z + shift + 2
        share = np.clip(np.minimum(high, 10) - np.maximum(low, -10), 0, None) / 4
        if np.allclose(middle / full, share, atol=0.03):
            return
    raise AssertionError(f"profile {np.round(middle / full, 2)}")


def test_thickness_must_be_a_multiple_of_spacing():
    with pytest.raises(ValueError, match="multiple"):
        make_phantom("cube").image(slice_mm=2.0, spacing_mm=1.5)
    with pytest.raises(ValueError, match="kernel"):
        make_phantom("cube").image(kernel="nothing")


@pytest.mark.parametrize(("kvp", "ratio"), [(80, 41 / 25), (100, 31 / 25), (120, 1.0), (140, 21 / 25)])
def test_contrast_agent_enhances_vessels_more_at_low_voltage(kvp, ratio):
    """Ratios of the CT numbers that iodine series show per mg/ml: about 41, 31, 25 and 21 HU."""
    plain, enhanced = make_phantom("spine"), make_phantom("spine", contrast="venous")
    gain = enhanced.materials(kvp).hu("blood") - plain.materials(kvp).hu("blood")
    assert gain == pytest.approx((150 - plain.materials(120).hu("blood")) * ratio, rel=0.06)
    assert enhanced.materials(kvp).hu("fat") == plain.materials(kvp).hu("fat")
