"""Arches: the right bone to the right vertebra, beside the body and never in it, and left out where that is in doubt.

The phantom knows which voxels are arch, since its vertebrae are painted one by one; the real scan has whole vertebrae by one
network and bodies by another, and what is in the first and not in the second is arch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from phantoms.voxelise import render
from pipeline.errors import Finding, Severity
from pipeline.ingest import find_studies, load_volume
from pipeline.segmentation.chain import segment
from pipeline.segmentation.mask_files import read_mask_files
from pipeline.segmentation.mask_names import Kind
from pipeline.segmentation.model import Segmentation
from pipeline.segmentation.spine.arches import find_arches
from pipeline.volume import Grid, Volume, canonical_order
from tests.pipeline.conftest import LumbarScan

LEVELS = ("L1", "L2", "L3", "L4", "L5")


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2.0 * float((a & b).sum()) / max(float(a.sum() + b.sum()), 1.0)


@pytest.fixture(scope="module")
def torso(lumbar_scan: LumbarScan) -> tuple[Volume, Segmentation, dict[str, np.ndarray]]:
    """A torso from T12 to the sacrum, what the chain makes of it, and the exact arches of its lumbar vertebrae."""
    phantom, lattice, volume = lumbar_scan.phantom, lumbar_scan.lattice, lumbar_scan.volume
    bones = [s for s in phantom.solids if s.name.startswith(("vertebra_", "rib_", "sacrum"))]
    whole = [replace(s, label_primitive=None) if s.name.startswith("vertebra_") else s for s in bones]
    labels = render(whole, lattice, phantom.materials(120.0))[1]
    vertebrae, _, _ = canonical_order(labels, np.asarray(lattice.index_to_lps))
    arches = {}
    for level in LEVELS:
        number = lumbar_scan.truth.vertebra(level).label
        arches[level] = (vertebrae == number) & (lumbar_scan.labels != number)
    return volume, segment(volume, hips=False, threads=1), arches


def test_each_arch_of_a_phantom_lies_on_its_own_bone(torso) -> None:
    _, found, truth = torso
    assert found.arches is not None
    for vertebra in (v for v in found.vertebrae if v.level in truth):
        arch = found.arches == vertebra.label
        assert dice(arch, truth[str(vertebra.level)]) > 0.78
        others = np.logical_or.reduce([mask for level, mask in truth.items() if level != vertebra.level])
        assert (arch & others).sum() < 0.04 * arch.sum(), "facet joints part neighbours"


def test_an_arch_never_enters_a_body(torso) -> None:
    _, found, _ = torso
    assert found.arches is not None
    assert not ((found.arches > 0) & (found.labels > 0)).any()


def test_the_map_of_arches_has_the_numbers_of_the_bodies_and_names_of_its_own(torso) -> None:
    _, found, _ = torso
    arches = found.arch_map()
    assert arches is not None
    assert arches.names().items() <= {number: f"{name}_arch" for number, name in found.names().items()}.items()
    assert set(np.unique(arches.labels)) == {0, *arches.names()}
    assert {"vertebra_L2_arch", "vertebra_L3_arch", "vertebra_L4_arch"} <= set(arches.names().values())
    assert replace(found, arches=None).arch_map() is None


def test_a_refused_body_has_no_arch_and_its_neighbours_do_not_take_it(torso) -> None:
    volume, found, truth = torso
    refused = Finding("outline_uncertain", Severity.FAILURE, "The outline is uncertain.")
    bodies = tuple(v.with_findings(refused) if v.level == "L3" else v for v in found.vertebrae)
    arches, findings = find_arches(volume, replace(found, vertebrae=bodies))
    assert arches is not None
    for vertebra in bodies:
        arch = arches == vertebra.label
        if vertebra.level == "L3":
            assert not arch.any()
        elif vertebra.level in ("L2", "L4"):
            assert (arch & truth["L3"]).sum() < 0.04 * arch.sum()
    (finding,) = [f for f in findings if f.code == "arches_left_out"]
    assert "L3 (its body is refused)" in finding.text
    assert finding.severity is Severity.INFO


def test_bone_on_one_side_only_is_no_arch(torso) -> None:
    """Half of an arch painted over with muscle, as after a resection."""
    volume, found, truth = torso
    third = next(v for v in found.vertebrae if v.level == "L3")
    index = np.argwhere(truth["L3"])
    left = third.frame.to_frame(volume.grid.to_lps(index.astype(float)))[:, 0] > 1.0
    hu = volume.hu.copy()
    hu[tuple(index[left].T)] = 50
    arches, findings = find_arches(replace(volume, hu=hu), found)
    assert arches is not None
    assert not (arches == third.label).any()
    assert any("L3 (left and right differ)" in f.text for f in findings)


def test_an_arch_that_is_far_smaller_than_its_neighbours_is_left_out(torso) -> None:
    """Only the spinous process is left, as bright as ever: a decompression, or bone that went to a neighbour."""
    volume, found, truth = torso
    third = next(v for v in found.vertebrae if v.level == "L3")
    index = np.argwhere(truth["L3"])
    aside = np.abs(third.frame.to_frame(volume.grid.to_lps(index.astype(float)))[:, 0]) > 7.0
    hu = volume.hu.copy()
    hu[tuple(index[aside].T)] = 50
    arches, findings = find_arches(replace(volume, hu=hu), found)
    assert arches is not None
    assert not (arches == third.label).any()
    assert any("L3 (much more or less bone than its neighbours)" in f.text for f in findings)


def test_the_field_of_view_cuts_arches_but_not_bodies(torso) -> None:
    """A field that ends in the spinous processes, as in a chest CT with a small field."""
    volume, found, _ = torso
    assert found.arches is not None
    third = next(v for v in found.vertebrae if v.level == "L3")
    last = int(np.argwhere(found.arches == third.label)[:, 1].max()) - 8
    grid = Grid((volume.shape[0], last, volume.shape[2]), volume.grid.index_to_lps)
    small = Volume(volume.hu[:, :last].copy(), grid)
    arches, findings = find_arches(small, replace(found, grid=grid, labels=found.labels[:, :last], arches=None))
    assert arches is not None
    assert (arches == third.label).any()
    assert any(f.code == "arches_cut" and "L3" in f.text and f.severity is Severity.INFO for f in findings)


def test_without_a_canal_or_bodies_there_are_no_arches(torso) -> None:
    volume, found, _ = torso
    assert find_arches(volume, replace(found, canal_lps_mm=None)) == (None, ())
    assert find_arches(volume, replace(found, vertebrae=())) == (None, ())


@pytest.mark.realdata
def test_real_arches_are_those_that_two_networks_leave_between_them(real_data: Callable[[str], Path]) -> None:
    """At 3 mm, where facet joints cannot be seen and the networks themselves are rough."""
    folder = real_data("ts_example_3mm")
    volume = load_volume(find_studies([folder / "ct.nii.gz"]).studies[0].stacks[0])
    found = segment(volume, hips=False, threads=1)
    assert found.arches is not None
    whole = np.zeros(volume.shape, np.uint8)
    reference = {
        p.part.name: p for p in read_mask_files(folder / "labels.nii.gz").pieces if p.part.kind is Kind.VERTEBRA
    }
    (bodies,) = read_mask_files(folder / "labels_body.nii.gz").pieces
    for number, piece in enumerate((*reference.values(), bodies), start=1):
        corner = np.rint(volume.grid.to_index(piece.grid.to_lps(np.zeros(3)))).astype(int)
        box = tuple(slice(s, s + n) for s, n in zip(corner, piece.mask.shape, strict=True))
        whole[box][piece.mask] = number if piece is not bodies else 0
    for level, least in {"L1": 0.75, "L2": 0.75, "L3": 0.75, "L4": 0.7, "L5": 0.55}.items():
        label = next(v.label for v in found.vertebrae if v.level == level)
        theirs = whole == list(reference).index(level) + 1
        assert dice(found.arches == label, theirs) > least
