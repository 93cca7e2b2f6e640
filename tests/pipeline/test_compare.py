"""Outside masks beside the own chain: disagreements are told, agreement can be refined; the segmenter of the documentation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from pipeline.errors import Severity
from pipeline.segmentation import compare
from pipeline.segmentation.chain import segment
from pipeline.segmentation.compare import beside_own_chain, compare_with_own_chain, refine_with_own_chain
from pipeline.segmentation.masks import read_masks
from pipeline.segmentation.model import Segmentation
from pipeline.volume import Grid, Volume
from tests.pipeline.conftest import LumbarScan

LEVELS = ("L1", "L2", "L3", "L4", "L5")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "segmentation-own.md"


@pytest.fixture(scope="module")
def torso(lumbar_scan: LumbarScan) -> tuple[Volume, dict[str, np.ndarray]]:
    """A torso from T12 to the sacrum, and the exact masks of its lumbar bodies."""
    truth, labels = lumbar_scan.truth, lumbar_scan.labels
    return lumbar_scan.volume, {level: labels == truth.vertebra(level).label for level in LEVELS}


@pytest.fixture(scope="module", autouse=True)
def own_chain_runs_once() -> Iterator[None]:
    """Our own chain says the same of the same scan each time: its first answer serves all tests here."""
    answers: dict[tuple, Segmentation] = {}

    def remembered(volume: Volume, **options: object) -> Segmentation:
        call = (id(volume), *sorted(options.items()))
        if call not in answers:
            answers[call] = segment(volume, **options)
        return answers[call]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "segment", remembered)
        yield


def _masks(folder: Path, volume: Volume, named: dict[str, np.ndarray]) -> Segmentation:
    """Masks through the door that a user's masks take."""
    array = np.zeros(volume.shape, np.uint8)
    for number, mask in enumerate(named.values(), start=1):
        array[mask] = number
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.grid.index_to_lps[:, [2, 1, 0, 3]]
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), folder / "seg.nii.gz")
    names = {f"vertebrae_body_{level}": number for number, level in enumerate(named, start=1)}
    (folder / "seg.json").write_text(json.dumps(names))
    return read_masks(folder / "seg.nii.gz", volume)


def _in_blocks(mask: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """The mask as it would be at coarser voxels: each block is what most of it is."""
    padded = np.pad(mask, [(0, -n % k) for n, k in zip(mask.shape, size, strict=True)])
    z, y, x = (n // k for n, k in zip(padded.shape, size, strict=True))
    blocks = padded.reshape(z, size[0], y, size[1], x, size[2]).mean(axis=(1, 3, 5)) >= 0.5
    for axis, k in enumerate(size):
        blocks = blocks.repeat(k, axis)
    return blocks[: mask.shape[0], : mask.shape[1], : mask.shape[2]]


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2.0 * float((a & b).sum()) / float(a.sum() + b.sum())


def test_masks_that_are_one_level_off_are_told(tmp_path: Path, torso) -> None:
    volume, bodies = torso
    shifted = dict(zip(("T12", *LEVELS[:-1]), bodies.values(), strict=True))
    compared = compare_with_own_chain(_masks(tmp_path, volume, shifted), volume, threads=1)
    assert [v.level for v in compared.vertebrae] == ["T12", "L1", "L2", "L3", "L4"], "the names stay those of the masks"
    told = [f.text for v in compared.vertebrae for f in v.findings if f.code == "level_disagrees"]
    assert len(told) == 5
    assert "calls this body T12" in told[0]
    assert "it is L1" in told[0]


def test_right_masks_raise_nothing_and_a_shrunken_one_does(tmp_path: Path, torso) -> None:
    volume, bodies = torso
    wrong = bodies | {"L3": ndimage.binary_erosion(bodies["L3"], iterations=3)}
    compared = compare_with_own_chain(_masks(tmp_path, volume, wrong), volume, threads=1)
    told = {v.level: {f.code for f in v.findings} for v in compared.vertebrae}
    assert "outline_disagrees" in told["L3"]
    for level in ("L1", "L2", "L4", "L5"):
        assert not told[level] & {"outline_disagrees", "level_disagrees"}


def test_coarse_masks_are_refined_to_the_resolution_of_the_ct(tmp_path: Path, torso) -> None:
    """Masks in steps of 4 mm, as from a fast model: nearer to the truth after refining, and with surfaces."""
    volume, bodies = torso
    coarse = {level: _in_blocks(mask, (2, 3, 3)) for level, mask in bodies.items()}
    masks = _masks(tmp_path, volume, coarse)
    refined = refine_with_own_chain(masks, volume, threads=1)
    assert [v.name for v in refined.vertebrae] == [v.name for v in masks.vertebrae]
    taken = [v for v in refined.vertebrae if any(f.code == "refined" for f in v.findings)]
    assert len(taken) >= 4
    for vertebra in taken:
        assert vertebra.surface is not None
        truth = bodies[str(vertebra.level)]
        assert _dice(refined.mask(vertebra), truth) > max(0.93, _dice(masks.mask(vertebra), truth))


def test_a_run_pins_compares_and_refines_in_one_go(tmp_path: Path, torso) -> None:
    """Masks one level off, pinned right by the user: renamed, in agreement with our count, and refined."""
    volume, bodies = torso
    shifted = dict(zip(("T12", *LEVELS[:-1]), bodies.values(), strict=True))
    masks = _masks(tmp_path, volume, shifted)
    z_mm = {v.level: float(v.frame.centre_lps_mm[2]) for v in masks.vertebrae}
    done = beside_own_chain(masks, volume, {"L3": z_mm["L2"]}, refine=True, threads=1)
    assert [v.level for v in done.vertebrae] == list(LEVELS)
    assert [f.code for f in done.findings] == ["levels_renumbered"]
    assert done.findings[0].severity is Severity.WARNING
    codes = {f.code for v in done.vertebrae for f in v.findings}
    assert "level_disagrees" not in codes
    assert "refined" in codes
    for vertebra in done.vertebrae:
        assert _dice(done.mask(vertebra), bodies[str(vertebra.level)]) > 0.9


def test_a_mask_that_the_own_chain_does_not_confirm_is_left_alone(tmp_path: Path, torso) -> None:
    volume, bodies = torso
    wrong = bodies | {"L3": ndimage.binary_erosion(bodies["L3"], iterations=3)}
    masks = _masks(tmp_path, volume, wrong)
    refined = refine_with_own_chain(masks, volume, threads=1)
    third = next(v for v in refined.vertebrae if v.level == "L3")
    assert [f.code for f in third.findings][-1] == "not_refined"
    np.testing.assert_array_equal(refined.mask(third), masks.mask(third))
    assert third.surface is None


def test_the_segmenter_of_the_documentation_works() -> None:
    """The example is cut out of the page and run on three bright bricks."""
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert code is not None
    lines = [line for line in code.group(1).splitlines() if line.strip()]
    assert len(lines) <= 30
    scope: dict = {}
    exec(compile(code.group(1), str(PAGE), "exec"), scope)
    hu = np.full((60, 40, 40), 40, np.int16)
    for first in (4, 24, 44):
        hu[first : first + 12, 10:28, 8:32] = 250
    found = scope["segmenter"](Volume(hu, Grid(hu.shape, np.eye(4)[[2, 1, 0, 3]] * np.array([2.0, 1.5, 1.5, 1.0]))))
    assert len(found.vertebrae) == 3
    assert all(v.level is None for v in found.vertebrae)
