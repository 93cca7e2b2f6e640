"""Truth of a crooked, broken spine and of a femoral neck, measured on fine noise-free voxels with nothing but numpy.

Only what stands in the truth file is used: points, axes and the definitions in the documentation.
"""

import numpy as np
import pytest

from phantoms import make_phantom
from phantoms.materials import Materials
from phantoms.voxelise import Lattice, render

FRACTURES = {"L1": ("wedge", 0.32), "L2": ("biconcave", 0.28), "L3": ("crush", 0.3)}


@pytest.fixture(scope="module")
def crooked():
    """A scoliotic spine with three fractures: the phantom, and its truth on a coarse image."""
    phantom = make_phantom(
        "spine", seed=6, scoliosis_deg=35.0, fractures=FRACTURES, top_level="L1", bottom_level="L3", marrow_fat=0.5
    )
    return phantom, phantom.truth(phantom.image(slice_mm=6.0, pixel_mm=3.0, dose=0))


def fine(phantom, body, step_mm):
    """HU and labels of one vertebral body alone in water, on an upright lattice that knows nothing of its lean."""
    solid = next(s for s in phantom.solids if s.name == body.name)
    centre = np.array(body.centre_lps_mm)
    reach = np.array([18.0, 22.0, 20.0])
    lattice = Lattice.upright(centre - reach, centre + reach, (step_mm,) * 3)
    hu, labels = render([solid], lattice, phantom.materials(120.0), background="water", seed=phantom.seed)
    return hu, labels, lattice


@pytest.mark.parametrize("level", ["L1", "L2", "L3"])
def test_heights_of_leaning_broken_bodies_are_found_along_lines_through_their_voxels(crooked, level):
    phantom, truth = crooked
    body = next(v for v in truth.vertebrae if v.level == level)
    assert abs(np.degrees(np.arcsin(body.superior_lps[0]))) > 2 or level == "L3", "the curve leans it sideways"
    _, labels, lattice = fine(phantom, body, 0.35)
    points = np.array(body.points_lps_mm).reshape(3, 2, 3)
    for (upper, lower), true_mm in zip(points, (body.anterior_mm, body.middle_mm, body.posterior_mm), strict=True):
        length = np.linalg.norm(upper - lower)
        steps = np.arange(-3.0, length + 3.0, 0.02)
        beside = np.array([(x, y, 0.0) for x in (-0.5, -0.2, 0.1, 0.4) for y in (-0.4, -0.1, 0.2, 0.5)])
        lines = lower + beside[:, None] + steps[:, None] * (upper - lower) / length
        index = np.rint(lattice.to_index(lines)).astype(int)
        inside = labels[index[..., 0], index[..., 1], index[..., 2]] > 0
        assert inside.sum(axis=1).mean() * 0.02 == pytest.approx(true_mm, abs=0.25)


@pytest.mark.parametrize("level", ["L1", "L3"])
def test_trabecular_density_of_a_leaning_body_is_that_of_its_voxels(crooked, level):
    """The elliptic cylinder of the documentation, set up from the stated points and axes."""
    phantom, truth = crooked
    body = next(v for v in truth.vertebrae if v.level == level)
    hu, _, lattice = fine(phantom, body, 0.7)
    front, middle, back = np.array(body.points_lps_mm).reshape(3, 2, 3).mean(axis=1)
    up = np.array(body.superior_lps)
    backward = back - front
    backward = backward - up * (backward @ up)
    backward /= np.linalg.norm(backward)
    left = np.cross(backward, up)
    points = lattice.to_lps(np.moveaxis(np.indices(lattice.shape), 0, -1)) - np.array(body.centre_lps_mm)
    u, v, w = (points @ axis for axis in (left, backward, up))
    a, b = body.width_mm / 2, body.depth_mm / 2
    inside = (u / (0.6 * a)) ** 2 + ((v + 0.1 * b) / (0.5 * b)) ** 2 <= 1.0
    inside &= np.abs(w) <= 0.25 * body.middle_mm
    assert inside.sum() > 1500
    assert np.linalg.norm(middle - np.array(body.centre_lps_mm)) < 3.0
    assert float(hu[inside].mean()) == pytest.approx(body.trabecular_hu, abs=2.0)
    stated = body.trabecular_density_mg_cm3 * truth.hu_per_mg_cm3 + truth.hu_at_zero
    assert stated == pytest.approx(body.trabecular_hu, abs=0.01)


def test_areal_density_of_the_neck_is_mineral_over_shadow():
    phantom = make_phantom("hip", seed=3, side="left", anteversion_deg=25.0)
    truth = phantom.truth(phantom.image(slice_mm=6.0, pixel_mm=3.0, dose=0)).femora[0]
    solid = next(s for s in phantom.solids if s.name == "femur_left")
    centre, neck = np.array(truth.neck_centre_lps_mm), np.array(truth.neck_axis_lps)
    across = np.array(truth.shaft_axis_lps) - neck * (neck @ np.array(truth.shaft_axis_lps))
    across /= np.linalg.norm(across)
    lattice = Lattice.upright(centre - 40.0, centre + 40.0, (0.7, 0.7, 0.7))
    mineral, labels = render([solid], lattice, Materials.mineral_only(), background=None, seed=phantom.seed)
    points = lattice.to_lps(np.argwhere(mineral > 0)) - centre
    grams, half_full = mineral[mineral > 0] * 1e-6 * 0.7**3, labels[mineral > 0] > 0
    x, y = points @ neck, points @ across
    band = (np.abs(x) <= 7.5) & (np.abs(y) <= 0.75 * truth.neck_width_mm)
    # Voxels tile the shadow far more densely than bins of 1 mm, so that a bin is bare only where there is no bone.
    shadow, _, _ = np.histogram2d(
        x[band & half_full], y[band & half_full], bins=(np.arange(-7.5, 8.0), np.arange(-40.0, 40.5))
    )
    area_cm2 = np.minimum(shadow / np.median(shadow[shadow > 0]) * 4.0, 1.0).sum() / 100.0
    known = truth.abmd["femoral_neck"]
    assert grams[band].sum() == pytest.approx(known.mineral_g, rel=0.02)
    assert area_cm2 == pytest.approx(known.area_cm2, rel=0.04)
    assert grams[band].sum() / area_cm2 == pytest.approx(known.abmd_g_cm2, rel=0.05)
