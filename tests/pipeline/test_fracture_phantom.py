"""Heights and grades of a digital phantom's spine, whose fractures and six points are known exactly."""

from __future__ import annotations

import numpy as np
import pytest

from phantoms.kinds import make_phantom
from pipeline.fracture import grade_vertebrae
from pipeline.segmentation.model import BodyFrame, Segmentation, Vertebra
from pipeline.volume import Grid, Volume


@pytest.mark.slow
def test_heights_within_their_error_and_fractures_of_a_phantom_are_graded():
    fractures = {"L1": ("wedge", 0.32), "T12": ("biconcave", 0.30), "L3": ("crush", 0.45)}
    phantom = make_phantom("spine", seed=1, sex="F", age_years=75, top_level="T9", fractures=fractures)
    image = phantom.image(120, slice_mm=1.5, pixel_mm=0.8)
    truth = phantom.truth(image)
    bodies = []
    for true in truth.vertebrae:
        superior = np.array(true.superior_lps)
        posterior = np.array([0.0, 1.0, 0.0]) - superior * superior[1]
        posterior /= np.linalg.norm(posterior)
        frame = BodyFrame(np.array(true.centre_lps_mm), np.cross(posterior, superior), posterior, superior)
        bodies.append(
            Vertebra(
                true.name,
                true.level,
                true.label,
                frame,
                None,
                true.width_mm,
                true.depth_mm,
                1.0,
                complete=true.complete,
            )
        )
    grid = Grid(image.hu.shape, image.lattice.index_to_lps)
    segmentation = Segmentation(image.labels, grid, tuple(bodies))
    shapes = grade_vertebrae(Volume(image.hu, grid), segmentation, sex="F")
    errors = []
    for true in truth.vertebrae:
        shape = shapes[true.name]
        if not true.complete:
            assert shape.heights_mm is None
            continue
        for position in ("anterior", "middle", "posterior"):
            quantity = shape.heights_mm[position]
            errors.append((quantity.value - getattr(true, f"{position}_mm")) / quantity.uncertainty)
        assert (shape.genant_grade, shape.deformity) == (true.genant_grade, true.deformity), true.name
    assert len(errors) >= 27
    assert np.sqrt(np.mean(np.square(errors))) < 1.5
    assert np.mean(np.abs(errors) < 2) > 0.85
