"""The synthetic patches a network is trained on: named as the phantom names them, spoilt, and the same for the same seed."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phantoms import make_phantom
from training.patches import CHANNELS, Target, make_patch, network_input, targets_of
from training.subjects import Subject, Tissue, load_subjects, make_subject, random_options, save_subject, tissue_of

COARSE_MM = 6.0


@pytest.fixture(scope="module")
def subject() -> Subject:
    """A trunk at 6 mm: too coarse to train on, quick to make."""
    return make_subject(3, voxel_mm=COARSE_MM, threads=1, fractures={}, lumbar_vertebrae=5, top_level="T10")


def test_every_solid_of_a_phantom_has_a_tissue() -> None:
    phantom = make_phantom("torso", seed=1, top_level="T1", screws=("L4",), cement=("L1",))
    assert {tissue_of(s.name) for s in phantom.solids} == set(Tissue) - {Tissue.AIR, Tissue.OUTSIDE, Tissue.BODY}


def test_a_solid_nobody_thought_of_is_an_error() -> None:
    with pytest.raises(KeyError, match="antenna"):
        tissue_of("antenna")


def test_bodies_and_femora_are_those_of_the_phantom(subject: Subject) -> None:
    """The labels that the phantom itself paints, on the same lattice, are an independent reference."""
    options = random_options(np.random.default_rng(3)) | {"fractures": {}, "lumbar_vertebrae": 5, "top_level": "T10"}
    phantom = make_phantom("torso", seed=3, **options)
    image = phantom.image(slice_mm=COARSE_MM, pixel_mm=COARSE_MM, dose=0.0)
    for tissue, first, last in ((Tissue.BODY, 8, 25), (Tissue.FEMUR_LEFT, 31, 31), (Tissue.FEMUR_RIGHT, 32, 32)):
        expected = (image.labels >= first) & (image.labels <= last)
        found = subject.tissue == tissue
        assert expected.sum() > 50
        assert (expected != found).sum() <= 0.02 * expected.sum()


def test_bone_holds_mineral_and_soft_tissue_does_not(subject: Subject) -> None:
    mean = {
        t: subject.mineral_mg_cm3[subject.tissue == t].mean() for t in (Tissue.LIVER, Tissue.BODY, Tissue.FEMUR_LEFT)
    }
    assert mean[Tissue.LIVER] < 5  # not none: ribs run along it, and share voxels with it
    assert min(mean[Tissue.BODY], mean[Tissue.FEMUR_LEFT]) > 100


@given(seed=st.integers(0, 10_000))
@settings(max_examples=12, deadline=None)
def test_any_patch_is_a_plausible_ct(subject: Subject, seed: int) -> None:
    patch = make_patch(subject, np.random.default_rng(seed), edge=16, voxel_mm=9.0)
    assert patch.hu.shape == patch.target.shape == (16, 16, 16)
    assert patch.hu.dtype == np.float32
    assert np.isfinite(patch.hu).all()
    assert patch.hu.min() >= -1024
    assert patch.hu.max() <= 3071
    assert patch.target.max() <= max(Target)
    seen = network_input(patch.hu)
    assert seen.shape == (CHANNELS, 16, 16, 16)
    assert np.abs(seen).max() <= 3.0


def test_the_same_seed_gives_the_same_patch(subject: Subject) -> None:
    first, again = (make_patch(subject, np.random.default_rng(5), edge=16, voxel_mm=9.0) for _ in range(2))
    other = make_patch(subject, np.random.default_rng(6), edge=16, voxel_mm=9.0)
    assert np.array_equal(first.hu, again.hu)
    assert np.array_equal(first.target, again.target)
    assert not np.array_equal(first.hu, other.hu)


def test_bone_is_brighter_than_what_lies_round_it(subject: Subject) -> None:
    """Over many patches: any single one may be noisy, or hold contrast agent."""
    rng = np.random.default_rng(1)
    brighter = []
    for _ in range(30):
        patch = make_patch(subject, rng, edge=24, voxel_mm=6.0)
        bone, soft = patch.target >= Target.BODY, patch.target == Target.NOTHING
        if bone.sum() > 30:
            brighter.append(np.median(patch.hu[bone]) > np.median(patch.hu[soft]))
    assert len(brighter) > 15
    assert np.mean(brighter) > 0.9


def test_left_and_right_change_places_in_a_mirrored_patient() -> None:
    tissue = np.array([Tissue.FEMUR_LEFT, Tissue.FEMUR_RIGHT, Tissue.BODY, Tissue.MUSCLE, Tissue.OUTSIDE], np.uint8)
    assert targets_of(tissue).tolist() == [Target.FEMUR_LEFT, Target.FEMUR_RIGHT, Target.BODY, 0, 0]
    assert targets_of(tissue, mirrored=True).tolist() == [Target.FEMUR_RIGHT, Target.FEMUR_LEFT, Target.BODY, 0, 0]


def test_the_left_femur_lies_on_the_left(subject: Subject) -> None:
    """Axis 2 runs to the patient's left; a network that learns sides from mirrored labels would learn nothing."""
    centre = [np.argwhere(subject.tissue == t)[:, 2].mean() for t in (Tissue.FEMUR_RIGHT, Tissue.FEMUR_LEFT)]
    assert centre[0] + 100 / COARSE_MM < centre[1]


def test_subjects_come_back_from_their_files(subject: Subject, tmp_path) -> None:
    save_subject(subject, tmp_path, "one")
    (back,) = load_subjects(tmp_path)
    assert np.array_equal(back.tissue, subject.tissue)
    assert np.array_equal(back.mineral_mg_cm3, subject.mineral_mg_cm3)
    assert back.places.keys() == subject.places.keys()
    for kind, where in back.places.items():
        assert (subject.tissue[tuple(where.T)] == kind).all()


def test_making_data_needs_no_torch() -> None:
    assert "training.train" not in sys.modules
    assert "torch" not in sys.modules
