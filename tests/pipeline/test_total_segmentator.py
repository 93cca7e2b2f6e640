"""An installed TotalSegmentator: called offline, without statistics, and refused with a reason where it cannot run."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputRefused
from pipeline.segmentation.segmenter import total_segmentator
from tests.pipeline.mask_scene import (
    Scene,
    check,
    label_map,
    make_scene,
)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene()


FAKE = """
    import json, os, sys
    import nibabel, numpy as np
    home = json.load(open(os.path.join(os.environ["TOTALSEG_HOME_DIR"], "config.json")))
    assert home["send_usage_stats"] is False
    assert os.environ["https_proxy"].endswith(":9")
    arguments = sys.argv
    image = nibabel.load(arguments[arguments.index("-i") + 1])
    if os.environ.get("FAKE_FAILS"):
        sys.exit("out of memory")
    labels = np.load(os.environ["FAKE_LABELS"])
    out = nibabel.Nifti1Image(labels.transpose(2, 1, 0).astype(np.uint8), image.affine)
    nibabel.save(out, arguments[arguments.index("-o") + 1])
"""


@pytest.fixture
def fake_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with the name and the command line of TotalSegmentator, and empty folders for its weights."""
    package = tmp_path / "site" / "totalsegmentator" / "bin"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package / "TotalSegmentator.py").write_text(textwrap.dedent(FAKE))
    info = tmp_path / "site" / "totalsegmentator-2.9.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: TotalSegmentator\nVersion: 2.9.0\n")
    for model in (291, 292, 293, 294, 295):
        (tmp_path / "weights" / f"Dataset{model}_x").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site") + os.pathsep + os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "weights"))
    monkeypatch.delitem(sys.modules, "totalsegmentator", raising=False)
    return tmp_path


def test_an_installed_network_is_called_offline_and_its_masks_are_read(
    fake_network: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {"vertebrae_L1": 31, "vertebrae_L2": 30, "vertebrae_L3": 29}
    np.save(fake_network / "labels.npy", label_map(scene, numbers))
    monkeypatch.setenv("FAKE_LABELS", str(fake_network / "labels.npy"))
    found = total_segmentator(scene.volume)
    check(found, scene)
    assert found.method == "TotalSegmentator 2.9.0"

    monkeypatch.setenv("FAKE_FAILS", "1")
    with pytest.raises(InputRefused, match="out of memory") as failed:
        total_segmentator(scene.volume)
    assert failed.value.reason == "segmenter_failed"


def test_missing_weights_are_named_and_never_fetched(fake_network: Path, scene: Scene) -> None:
    with pytest.raises(InputRefused, match="Dataset297") as refusal:
        total_segmentator(scene.volume, fast=True)
    assert refusal.value.reason == "weights_missing"


def test_without_the_package_the_network_is_refused(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputRefused) as refusal:
        total_segmentator(scene.volume)
    assert refusal.value.reason == "segmenter_missing"
