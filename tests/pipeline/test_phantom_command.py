"""``openbct phantom``: one phantom, a suite, or voxel models; what cannot be made is one line."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from phantoms.suites import SUITES, Case
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


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> str:
    """A suite of two small cylinders of water; what stands in the real ones is the matter of the tests of phantoms."""
    options = {"diameter_mm": 60.0, "length_mm": 30.0}
    drops = [Case(name, "water", 7, options, SCAN | {"localizer": False}) for name in ("drop-1", "drop-2")]
    monkeypatch.setitem(SUITES, "drops", lambda _count=None: iter(drops))
    return "drops"


def test_a_suite_says_how_many_studies_it_has(tmp_path: Path, suite: str) -> None:
    assert write_many(suite, tmp_path, count=1, mode="fast") == 1
    assert (tmp_path / "suite.json").is_file()


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda out: write_one("unicorn", out, seed=0, options={}, scan={}), "unknown_phantom"),
        (lambda out: write_one("cube", out, seed=0, options={"edge": 1}, scan={}), "bad_phantom"),
        (lambda out: write_one("water", out, seed=0, options={}, scan={"kvp": 95.0, "mode": "projections"}), "bad_phantom"),
        (lambda out: write_one("water", out, seed=0, options={}, scan={"file_format": "model"}), "bad_phantom"),
        (lambda out: write_one("water", out, seed=0, options={"maker": "NOBODY"}, scan={}), "bad_phantom"),
        (lambda out: write_many("zoo", out, count=None, mode="fast"), "unknown_suite"),
        (lambda out: write_many("smoke", out, count=1, mode="slow"), "bad_phantom"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_refused_by_name(tmp_path: Path, call: object, reason: str) -> None:
    with pytest.raises(Refusal) as refusal:
        call(tmp_path)  # type: ignore[operator]
    assert refusal.value.reason == reason


def test_a_suite_is_known_by_its_name_alone(tmp_path: Path, suite: str) -> None:
    result = CliRunner().invoke(app, ["phantom", suite, "--count", "1", "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "suite.json").is_file()


def test_either_a_kind_or_a_suite() -> None:
    for arguments in (["phantom", "-o", "x"], ["phantom", "cube", "--suite", "smoke", "-o", "x"]):
        result = CliRunner().invoke(app, arguments)
        assert isinstance(result.exception, Refusal)
        assert "either" in str(result.exception)


@pytest.mark.parametrize(
    ("kind", "options", "scan", "named"),
    [
        ("water", {}, {"slice_mm": 0.0}, "slice_mm is 0.0; it must be a number between"),
        ("water", {}, {"pixel_mm": -2.0}, "pixel_mm"),
        ("water", {}, {"dose": float("nan")}, "dose"),
        ("water", {"diameter_mm": 0}, {}, "diameter_mm"),
        ("water", {"length_mm": 2000.0, "diameter_mm": 600.0}, {"slice_mm": 0.2, "pixel_mm": 0.2}, "too large"),
        ("water", {"gantry_tilt_deg": 95}, {}, "gantry_tilt_deg"),
        ("water", {"native_labels_mm": 1.0}, {}, "no labelled structures"),
        ("cube", {"edge_mm": -3}, {}, "edge_mm"),
        ("cube", {"native_labels_mm": 0.001}, {}, "million voxels"),
        (
            "cube",
            {"edge_mm": 8.0, "compression": "jpeg2000", "localizer": False},
            {},
            "JPEG 2000 needs slices of at least 32",
        ),
        ("cube", {"compression": "rle"}, {"file_format": "nifti"}, "compression is for file_format dicom"),
        ("spine", {"fat_mm": -50}, {}, "fat_mm"),
        ("spine", {"age_years": "old"}, {}, "age_years is 'old'"),
        ("spine", {"hips": "maybe"}, {}, "true or false"),
        ("spine", {"fractures": {"L1": ["wedge"]}}, {}, "must be a pair"),
        ("spine", {"lesions": {"L2": 1e9}}, {}, "lesion of L2"),
        ("hip", {"neck_shaft_angle_deg": 20}, {}, "neck_shaft_angle_deg"),
    ],
)
def test_nonsense_is_named_in_one_line_before_anything_is_made(
    tmp_path: Path, kind: str, options: dict[str, object], scan: dict[str, object], named: str
) -> None:
    with pytest.raises(Refusal, match=named) as refusal:
        write_one(kind, tmp_path, seed=0, options=options, scan=scan)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.rglob("*.dcm"))


def test_makers_and_labels_of_the_object_itself_are_set_like_anatomy(tmp_path: Path) -> None:
    options: dict[str, object] = {"edge_mm": 8.0, "maker": "SIEMENS", "localizer": False, "native_labels_mm": 0.5}
    write_one("cube", tmp_path, seed=1, options=options, scan=SCAN)
    assert {pydicom.dcmread(path).Manufacturer for path in tmp_path.rglob("*.dcm")} == {"SIEMENS"}
    native = nibabel.load(tmp_path / "truth_labels_native.nii.gz")
    volume_mm3 = np.count_nonzero(np.asarray(native.dataobj)) * float(np.prod(native.header.get_zooms()))
    assert volume_mm3 == pytest.approx(8.0**3, rel=0.07)
