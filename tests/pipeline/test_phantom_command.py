"""``openbct phantom``: one phantom, a suite, or voxel models; what cannot be made is one line."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import Refusal
from pipeline.phantom_command import write_many, write_one

SCAN = {"slice_mm": 3.0, "pixel_mm": 2.0, "dose": 0.0}


def test_one_phantom_with_its_truth(tmp_path: Path) -> None:
    write_one("cube", tmp_path, seed=1, options={"edge_mm": 9.0}, scan=SCAN | {"file_format": "nifti"})
    assert json.loads((tmp_path / "truth.json").read_text())["specimens"][0]["height_mm"] == 9.0
    assert (tmp_path / "ct.nii.gz").is_file()


def test_models_instead_of_images(tmp_path: Path) -> None:
    write_one("cube", tmp_path, seed=1, options={"edge_mm": 6.0}, scan=SCAN | {"file_format": "model"})
    assert (tmp_path / "specimen-2mm.npz").is_file()
    assert not list(tmp_path.rglob("*.dcm"))


def test_a_suite_says_how_many_studies_it_has(tmp_path: Path) -> None:
    assert write_many("smoke", tmp_path, count=1, mode="fast") == 1
    assert (tmp_path / "suite.json").is_file()


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda out: write_one("unicorn", out, seed=0, options={}, scan={}), "unknown_phantom"),
        (lambda out: write_one("cube", out, seed=0, options={"edge": 1}, scan={}), "bad_phantom"),
        (lambda out: write_one("water", out, seed=0, options={}, scan={"kvp": 95.0, "mode": "projections"}), "bad_phantom"),
        (lambda out: write_one("water", out, seed=0, options={}, scan={"file_format": "model"}), "bad_phantom"),
        (lambda out: write_many("zoo", out, count=None, mode="fast"), "unknown_suite"),
        (lambda out: write_many("smoke", out, count=1, mode="slow"), "bad_phantom"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_refused_by_name(tmp_path: Path, call: object, reason: str) -> None:
    with pytest.raises(Refusal) as refusal:
        call(tmp_path)  # type: ignore[operator]
    assert refusal.value.reason == reason


def test_either_a_kind_or_a_suite() -> None:
    for arguments in (["phantom", "-o", "x"], ["phantom", "cube", "--suite", "smoke", "-o", "x"]):
        result = CliRunner().invoke(app, arguments)
        assert isinstance(result.exception, Refusal)
        assert "either" in str(result.exception)
