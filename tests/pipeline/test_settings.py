"""Settings that concern what strengths are held against: refused at once if wrong, used in the place of headers if right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import InputRefused
from pipeline.settings import Settings
from pipeline.study import _with_body_size
from pipeline.volume import Acquisition, Grid, Volume


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"spine_load": "jumping"}, "unknown_load"),
        ({"height_cm": 1.75}, "bad_body_size"),  # metres for centimetres
        ({"height_cm": float("nan")}, "bad_body_size"),
        ({"weight_kg": 7500.0}, "bad_body_size"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_analysed(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputRefused) as caught:
        Settings(**changes).check()
    assert caught.value.reason == reason


def test_sensible_body_sizes_and_loads_pass() -> None:
    Settings(spine_load="lifting", height_cm=162.0, weight_kg=64.0).check()


def test_a_size_that_is_given_takes_the_place_of_that_in_the_header() -> None:
    facts = Acquisition(patient_height_m=1.60, patient_weight_kg=70.0, kvp=120.0)
    volume = Volume(np.zeros((2, 2, 2), np.int16), Grid((2, 2, 2), np.eye(4)[[2, 1, 0, 3]]), facts)
    sized = _with_body_size(volume, Settings(height_cm=181.0)).acquisition
    assert (sized.patient_height_m, sized.patient_weight_kg, sized.kvp) == (1.81, 70.0, 120.0)
    assert _with_body_size(volume, Settings()).acquisition == facts


def test_the_size_of_one_patient_is_not_that_of_two(tmp_path: Path) -> None:
    import nibabel

    for number in (1, 2):
        values = np.full((40, 40, 40), -1000 + number, np.int16)
        values[10:30, 10:30] = 40
        nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / f"{number}.nii.gz")
    result = CliRunner().invoke(app, ["run", str(tmp_path), "-o", str(tmp_path / "out"), "--weight-kg", "70"])
    assert isinstance(result.exception, Exception) and "2 studies" in str(result.exception)
    assert not (tmp_path / "out").exists()
