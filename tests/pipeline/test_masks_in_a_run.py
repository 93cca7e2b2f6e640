"""A whole run with masks from elsewhere: named one level off, pinned right by the user, and refined."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

import phantoms
from pipeline import cohort
from pipeline.errors import InputRefused
from pipeline.ingest import find_studies
from pipeline.settings import Settings
from reports.record import load_record


def test_refining_needs_masks_from_elsewhere() -> None:
    with pytest.raises(InputRefused) as refusal:
        Settings(refine_masks=True).check()
    assert refusal.value.reason == "nothing_to_refine"
    Settings(refine_masks=True, segmenter="totalsegmentator").check()


@pytest.mark.slow
def test_masks_are_renamed_refined_and_written_with_arches(tmp_path: Path) -> None:
    phantom = phantoms.make_phantom("torso", seed=8, top_level="L1", hips=False)
    truth = phantoms.write_study(phantom, tmp_path / "input", slice_mm=2.0, pixel_mm=1.2)
    (tmp_path / "masks").mkdir()
    shutil.copy(tmp_path / "input" / "truth_labels.nii.gz", tmp_path / "masks" / "seg.nii.gz")
    one_off = {"T12": "L1", "L1": "L2", "L2": "L3", "L3": "L4", "L4": "L5"}
    names = {f"vertebra_{wrong}_body": truth.vertebra(right).label for wrong, right in one_off.items()}
    (tmp_path / "masks" / "seg.json").write_text(json.dumps(names))
    third = float(truth.vertebra("L3").centre_lps_mm[2])

    settings = Settings(
        masks=str(tmp_path / "masks"), pinned_levels=(("L3", third),), refine_masks=True, strength=False, threads=1
    )
    (outcome,) = cohort.run(find_studies([tmp_path / "input" / "dicom"]), tmp_path / "out", settings)

    assert outcome.status == "done", outcome.text
    folder = tmp_path / "out" / outcome.study
    record = load_record(folder / "record.json")
    assert "levels_renumbered" in {f.code for f in record.quality.findings}
    assert [v.level for v in record.vertebrae] == list(one_off.values())
    codes = {v.level: {f.code for f in v.findings} for v in record.vertebrae}
    assert sum("refined" in found for found in codes.values()) >= 4
    assert not any("level_disagrees" in found for found in codes.values())
    written = json.loads((folder / "arches.json").read_text(encoding="utf-8"))
    arches = np.asarray(nibabel.load(folder / "arches.nii.gz").dataobj)
    bodies = np.asarray(nibabel.load(folder / "segmentation.nii.gz").dataobj)
    assert set(np.unique(arches)) == {0, *map(int, written)}
    assert "vertebra_L3_arch" in written.values()
    assert not ((arches > 0) & (bodies > 0)).any()
