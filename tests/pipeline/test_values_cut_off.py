"""Images whose values were cut off when they were exported: told from sound ones, and no bone that is cut off is measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.density import Calibration
from pipeline.errors import Severity
from pipeline.ingest.plausibility import ceiling_hu
from pipeline.measure import measure
from tests.fea.bone.bones import oval_body
from tests.pipeline.dicom_factory import body_hu, slice_dataset, write
from tests.pipeline.test_ingest_volume import read
from tests.pipeline.test_strength import with_vertebra


def noisy_body(seed: int = 0) -> np.ndarray:
    """Tissue and bone with the noise of a scan, (Z, Y, X); bone reaches some 700 HU."""
    plane = np.stack(np.meshgrid(-63.0 + 2.0 * np.arange(64), -47.0 + 2.0 * np.arange(48)), axis=-1)
    points = [np.concatenate([plane, np.full((48, 64, 1), 2.5 * k)], axis=-1) for k in range(16)]
    return np.rint(body_hu(np.array(points)) + np.random.default_rng(seed).normal(0, 15, (16, 48, 64)))


@pytest.mark.parametrize("limit", [200.0, 300.0, 600.0])
def test_the_end_of_a_window_is_found(limit):
    assert ceiling_hu(np.minimum(noisy_body(), limit)) == limit


def test_a_window_in_coarse_steps_is_found():
    assert ceiling_hu(np.minimum(4.0 * np.round(noisy_body() / 4.0), 500.0)) == 500.0


def test_a_sound_image_has_no_end_and_neither_has_one_drawn_without_noise():
    assert ceiling_hu(noisy_body()) is None
    drawn = np.zeros((16, 48, 64))
    drawn[4:12, 10:30, 10:30] = 800.0
    assert ceiling_hu(drawn) is None


def test_the_end_of_twelve_bits_is_no_window():
    image = noisy_body()
    image[4:8, 10:20, 10:20] = 3071.0
    assert ceiling_hu(image) is None


def test_a_windowed_series_is_read_and_said_to_be(tmp_path: Path):
    planes = enumerate(np.minimum(noisy_body(), 240.0))
    write([slice_dataset((-63.0, -47.0, 2.5 * k), hu=hu, instance=k) for k, hu in planes], tmp_path)
    volume = read(tmp_path)
    assert volume.ceiling_hu == 240.0
    (finding,) = [f for f in volume.findings if f.code == "values_cut_off"]
    assert finding.severity is Severity.WARNING and "240 HU" in finding.text


@pytest.fixture
def calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A known line, so that a scene without tissues can be measured."""
    line = Calibration(0.8, -4.0, "K2HPO4", np.zeros((2, 2)), 0.03, "file", "made for the test", 120.0, "test")
    monkeypatch.setattr("pipeline.measure.calibrate", lambda *_, **__: line)


@pytest.mark.parametrize(
    ("limit", "density", "strength"), [(240.0, False, False), (600.0, True, False), (2000.0, True, True)]
)
def test_what_needs_more_than_the_image_shows_is_absent_with_the_reason(calibrated, limit, density, strength):
    volume, segmentation, _ = with_vertebra(oval_body())
    (vertebra,) = measure(replace(volume, ceiling_hu=limit), segmentation).vertebrae
    assert (vertebra.vbmd_mg_cm3 is not None) is density
    assert (vertebra.strength_n is not None) is strength
    for key, there in (("vbmd_mg_cm3", density), ("strength_n", strength)):
        assert there or vertebra.not_measured[key].code == "values_cut_off"
