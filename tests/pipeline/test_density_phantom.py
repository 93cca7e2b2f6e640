"""Density of a digital torso and hip, whose mineral is known exactly, by calibration on its own tissues."""

from __future__ import annotations

import numpy as np
import pytest

from phantoms.kinds import make_phantom
from pipeline.density import calibrate
from pipeline.density.hip import measure_hip
from pipeline.density.vertebra import measure_vertebra
from pipeline.segmentation.model import BodyFrame, Femur, FemurLandmarks, Segmentation, Vertebra
from pipeline.volume import Acquisition, Grid, Volume

pytestmark = pytest.mark.slow


def scan(kind, kvp, **options):
    """An image of a phantom with its true labels and landmarks as segmentation, and the truth."""
    phantom = make_phantom(kind, **options)
    image = phantom.image(kvp, slice_mm=2.5, pixel_mm=1.2)
    truth = phantom.truth(image)
    bodies, femora = [], []
    for true in truth.vertebrae:
        superior = np.array(true.superior_lps)
        posterior = np.array([0.0, 1.0, 0.0]) - superior * superior[1]
        posterior /= np.linalg.norm(posterior)
        frame = BodyFrame(np.array(true.centre_lps_mm), np.cross(posterior, superior), posterior, superior)
        facts = (true.name, true.level, true.label, frame, None, true.width_mm, true.depth_mm, 1.0)
        bodies.append(Vertebra(*facts, complete=true.complete))
    for true in truth.femora:
        marks = FemurLandmarks(
            head_centre_lps_mm=np.array(true.head_centre_lps_mm),
            head_radius_mm=true.head_radius_mm,
            neck_centre_lps_mm=np.array(true.neck_centre_lps_mm),
            neck_axis_lps=np.array(true.neck_axis_lps),
            shaft_axis_lps=np.array(true.shaft_axis_lps),
            lesser_trochanter_lps_mm=np.array(true.lesser_trochanter_lps_mm),
            lesser_trochanter_lower_edge_lps_mm=np.array(true.lesser_trochanter_lower_edge_lps_mm),
        )
        femora.append(Femur(true.name, true.side, true.label, marks, 1.0))
    grid = Grid(image.hu.shape, image.lattice.index_to_lps)
    volume = Volume(image.hu, grid, Acquisition(kvp=kvp))
    return volume, Segmentation(image.labels, grid, tuple(bodies), tuple(femora)), truth


@pytest.mark.parametrize(
    ("kvp", "contrast", "fat_mm"), [(120, "none", 15.0), (140, "none", 45.0), (100, "venous", 30.0)]
)
def test_internal_calibration_is_within_its_stated_error(kvp, contrast, fat_mm):
    options = {"sex": "F", "age_years": 66, "hips": False, "top_level": "T12", "fat_mm": fat_mm, "contrast": contrast}
    volume, segmentation, truth = scan("torso", float(kvp), **options)
    calibration = calibrate(volume, segmentation)
    assert calibration.method == "internal_tissues"
    assert calibration.contrast_enhanced == (contrast != "none")
    # The line itself, at 100 mg/cm3: goal of 8 mg/cm3, stated error twice that.
    assert float(calibration.density_mg_cm3(100.0 * truth.hu_per_mg_cm3)) == pytest.approx(100.0, abs=8.0)
    for vertebra, true in zip(segmentation.vertebrae, truth.vertebrae, strict=True):
        if vertebra.complete:
            vbmd = measure_vertebra(volume, segmentation, vertebra, calibration, fracture_grade=0).vbmd_mg_cm3
            assert abs(vbmd.value - true.trabecular_density_mg_cm3) < 1.96 * vbmd.uncertainty


def test_a_plate_under_the_patient_gives_the_density_within_2_mg_and_2_percent():
    options = {"sex": "M", "age_years": 50, "hips": False, "top_level": "L1", "rods": "mindways"}
    volume, segmentation, truth = scan("torso", 120.0, **options)
    calibration = calibrate(volume, segmentation)
    assert calibration.method == "phantom_mindways_model3_ct"
    for density in (50.0, 100.0, 200.0):
        found = float(calibration.density_mg_cm3(density * truth.hu_per_mg_cm3))
        assert found == pytest.approx(density, abs=2.0 + 0.02 * density)


def test_hip_of_a_phantom_reads_its_mineral_within_the_stated_error():
    volume, segmentation, truth = scan("hip", 120.0, side="left", sex="F", age_years=66)
    calibration = calibrate(volume, segmentation)
    hip = measure_hip(volume, segmentation, segmentation.femora[0], calibration, sex="F", age_years=66.0)
    for region, true in truth.femora[0].abmd.items():
        quantity = hip.abmd_g_cm2[region]
        assert abs(quantity.value - true.abmd_g_cm2) < 1.96 * quantity.uncertainty
        # Marrow of this phantom is pure fat; that costs at most the marrow term.
        assert quantity.value == pytest.approx(true.abmd_g_cm2, abs=0.08)
        assert hip.area_cm2[region].value == pytest.approx(true.area_cm2, rel=0.12)
