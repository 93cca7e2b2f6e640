"""The whole spine chain on a torso with exact truth, on a labelled real scan, and on volumes without a spine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from phantoms import Truth
from pipeline.errors import InputRefused, Status
from pipeline.segmentation.model import LABEL_OF
from pipeline.segmentation.sampling import body_mask, resample_isotropic
from pipeline.segmentation.spine import SpineResult, segment_spine
from pipeline.segmentation.spine.canal import find_canal
from pipeline.segmentation.spine.view import filled_slices
from pipeline.volume import Grid, Volume, canonical_order
from tests.pipeline.conftest import LumbarScan


def _nifti(path) -> tuple[np.ndarray, np.ndarray]:
    image = sitk.ReadImage(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = (np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing()))[:, ::-1]
    matrix[:3, 3] = image.GetOrigin()
    array, matrix, _ = canonical_order(sitk.GetArrayFromImage(image), matrix)
    return array, matrix


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2.0 * float((a & b).sum()) / float(a.sum() + b.sum())


@pytest.fixture(scope="module")
def torso(lumbar_scan: LumbarScan) -> tuple[Volume, np.ndarray, Truth]:
    return lumbar_scan.volume, lumbar_scan.labels, lumbar_scan.truth


@pytest.fixture(scope="module")
def found(torso) -> SpineResult:
    return segment_spine(torso[0], threads=2)


def test_every_lumbar_body_is_found_named_and_outlined(torso, found: SpineResult):
    _, labels, _ = torso
    assert [v.level for v in found.vertebrae][-5:] == ["L1", "L2", "L3", "L4", "L5"]
    for vertebra in found.vertebrae[-5:]:
        assert vertebra.status is Status.OK, vertebra.findings
        assert _dice(found.labels == vertebra.label, labels == vertebra.label) > 0.92
        assert vertebra.level_confidence is not None
        assert vertebra.level_confidence >= 0.9


def test_endplates_lie_where_they_are(torso, found: SpineResult):
    """Heights read from the surfaces half way between front and back: no more than a millimetre off."""
    _, _, truth = torso
    errors = []
    for vertebra in found.vertebrae[-5:]:
        known = truth.vertebra(vertebra.level)
        upper, lower = vertebra.frame.to_frame(np.array(known.points_lps_mm))[2:4]
        surface = vertebra.surface
        i = np.abs(surface.left_mm - upper[0]).argmin()
        j = np.abs(surface.posterior_mm - 0.5 * (upper[1] + lower[1])).argmin()
        errors.append(surface.upper_mm[i, j] - surface.lower_mm[i, j] - known.middle_mm)
    assert np.abs(errors).max() < 1.5
    assert abs(np.mean(errors)) < 0.8


def test_the_sacrum_names_the_levels_and_is_not_exported_as_a_structure(torso, found: SpineResult):
    """What the chain sees of the sacrum is its first body: an anchor, but no outline of the bone of that name."""
    assert (torso[1] == LABEL_OF["sacrum"]).any(), "the sacrum is in view"
    assert found.sacrum_label is None
    assert not (found.labels == LABEL_OF["sacrum"]).any()
    assert set(np.unique(found.labels)) == {0, *(v.label for v in found.vertebrae)}
    assert [f.code for f in found.findings] == ["level_anchor"]
    assert "the sacrum" in found.findings[0].text


def test_the_canal_runs_upwards(found: SpineResult):
    assert np.all(np.diff(found.canal_lps_mm[:, 2]) > 0)


def test_a_narrow_field_of_view_shows_the_same_canal(torso):
    """As spines are often reconstructed: the belly is cut off, and the middle of what is left lies on the canal."""
    volume, labels, truth = torso
    body = np.argwhere(labels == truth.vertebra("L3").label).mean(axis=0)
    front = int(body[1] - 45.0 / volume.spacing_mm[1])
    sides = [int(body[2] + side * 75.0 / volume.spacing_mm[2]) for side in (-1, 1)]
    crop = np.ascontiguousarray(volume.hu[:, front:, sides[0] : sides[1]])
    found = []
    for array in (volume.hu, crop):
        hu, grid = resample_isotropic(Volume(array, Grid(array.shape, volume.grid.index_to_lps)), 2.0, threads=1)
        found.append(find_canal(hu, grid, body_mask(hu, grid), threads=1))
    whole, narrow = found
    assert narrow.trusted
    assert len(narrow.score) > 0.95 * len(whole.score)
    assert np.mean(narrow.score) > 0.9 * np.mean(whole.score)


def test_a_body_cut_by_the_upper_edge_is_listed_by_its_name_and_fails(torso):
    """The scan ends a little above the middle of L1, so that there is no disc above it to be found."""
    volume, labels, truth = torso
    rows = np.argwhere(labels == truth.vertebra("L1").label)[:, 0]
    stop = int(np.percentile(rows, 75))
    crop = np.ascontiguousarray(volume.hu[:stop])
    result = segment_spine(Volume(crop, Grid(crop.shape, volume.grid.index_to_lps)), threads=2)
    assert [v.level for v in result.vertebrae] == ["L1", "L2", "L3", "L4", "L5"]
    first, *others = result.vertebrae
    assert first.name == "vertebra_L1"
    assert first.status is Status.FAILED
    assert not first.complete
    assert "cut_by_field_of_view" in {f.code for f in first.findings}
    assert _dice(result.labels == first.label, labels[:stop] == truth.vertebra("L1").label) > 0.8
    assert all(v.status is Status.OK for v in others)


@pytest.mark.parametrize("part_in_view", [0.1, 1.0], ids=["hardly any of it", "all of it and its disc"])
def test_no_cut_body_is_made_up(torso, part_in_view: float):
    """Too little of L1 to outline, or L1 whole with a disc above it that is found: no further body is listed."""
    volume, labels, truth = torso
    upper = np.argwhere(labels == truth.vertebra("L1").label)[:, 0]
    rows = upper if part_in_view < 1.0 else np.argwhere(labels == truth.vertebra("T12").label)[:, 0]
    stop = int(rows.min() + 0.1 * np.ptp(rows)) + 2
    crop = np.ascontiguousarray(volume.hu[:stop])
    result = segment_spine(Volume(crop, Grid(crop.shape, volume.grid.index_to_lps)), threads=2)
    assert [v.level for v in result.vertebrae][-4:] == ["L2", "L3", "L4", "L5"]
    assert len(result.vertebrae) == (4 if part_in_view < 1.0 else 5)


def test_a_body_with_a_filled_slice_keeps_its_name_and_says_why_it_fails(torso, found: SpineResult):
    """One slice was missing and stands in the volume as the mean of its neighbours, marked as not valid."""
    volume, labels, truth = torso
    number = truth.vertebra("L3").label
    k = int(np.median(np.argwhere(labels == number)[:, 0]))
    hu, valid = volume.hu.copy(), np.ones(volume.shape, bool)
    hu[k] = (hu[k - 1].astype(float) + hu[k + 1]) / 2
    valid[k] = False
    result = segment_spine(replace(volume, hu=hu, valid=valid), threads=2)
    assert [v.name for v in result.vertebrae] == [v.name for v in found.vertebrae]
    by_level = {v.level: v for v in result.vertebrae}
    third = by_level["L3"]
    assert third.status is Status.FAILED
    assert third.complete
    assert [f.code for f in third.findings] == ["interpolated_slice"]
    assert third.level_confidence is not None
    assert _dice(result.labels == number, labels == number) > 0.9
    assert all(by_level[level].status is Status.OK for level in ("L1", "L2", "L4", "L5"))


def test_a_slice_of_padding_inside_the_volume_is_not_taken_for_a_filled_one(torso):
    volume, labels, truth = torso
    k = int(np.median(np.argwhere(labels == truth.vertebra("L3").label)[:, 0]))
    valid = np.ones(volume.shape, bool)
    valid[[0, k, -1]] = False
    assert filled_slices(replace(volume, valid=valid)) == ((0, k),)
    hu = volume.hu.copy()
    hu[k] = -1024
    assert filled_slices(replace(volume, hu=hu, valid=valid)) == ()
    valid[k, 3] = True
    assert filled_slices(replace(volume, valid=valid)) == ()
    assert filled_slices(volume) == ()


def test_frames_are_right_handed_and_point_where_they_say(found: SpineResult):
    for vertebra in found.vertebrae:
        axes = np.stack([vertebra.frame.left, vertebra.frame.posterior, vertebra.frame.superior])
        assert np.allclose(axes @ axes.T, np.eye(3), atol=1e-9)
        assert np.isclose(np.linalg.det(axes), 1.0)
        assert vertebra.frame.left[0] > 0.9
        assert vertebra.frame.posterior[1] > 0.6
        assert vertebra.frame.superior[2] > 0.6


def test_without_the_sacrum_nothing_is_named(torso):
    """The same bodies, cut off above the sacrum and at the sides: the order is known, the levels are not."""
    volume, labels, truth = torso
    low = int(np.argwhere(labels == truth.vertebra("L4").label)[:, 0].min()) - 6
    side = int(0.5 * volume.shape[2] - 60.0 / volume.spacing_mm[2])
    part = (slice(low, None), slice(None), slice(side, volume.shape[2] - side))
    matrix = volume.grid.index_to_lps.copy()
    matrix[:3, 3] = volume.grid.to_lps(np.array([low, 0.0, side]))
    crop = np.ascontiguousarray(volume.hu[part])
    result = segment_spine(Volume(crop, Grid(crop.shape, matrix)), threads=2)
    assert len(result.vertebrae) >= 3
    assert all(v.level is None and v.name == f"vertebra_u{i + 1}" for i, v in enumerate(result.vertebrae))
    assert {f.code for f in result.findings} == {"level_unknown"}

    middle = result.vertebrae[1]
    pinned = segment_spine(
        Volume(crop, Grid(crop.shape, matrix)),
        pinned_levels={"L2": float(middle.frame.centre_lps_mm[2])},
        threads=2,
    )
    assert [v.level for v in pinned.vertebrae][:3] == ["L1", "L2", "L3"]
    assert all(v.level_confidence is None for v in pinned.vertebrae)


def test_pins_that_cannot_be_are_refused(torso, found: SpineResult):
    whole, labels, truth = torso
    top = int(np.argwhere(labels == truth.vertebra("L4").label)[:, 0].max()) + 8
    volume = Volume(whole.hu[:top], Grid(whole.hu[:top].shape, whole.grid.index_to_lps))  # two bodies are enough
    upper, lower = (float(v.frame.centre_lps_mm[2]) for v in found.vertebrae[-2:])
    with pytest.raises(InputRefused) as outside:
        segment_spine(volume, pinned_levels={"L1": 5000.0}, threads=2)
    assert outside.value.reason == "pin_outside_bodies"
    with pytest.raises(InputRefused) as both:
        segment_spine(volume, pinned_levels={"L1": upper, "L5": lower}, threads=2)
    assert both.value.reason == "contradicting_levels"
    with pytest.raises(InputRefused) as unknown:
        segment_spine(volume, pinned_levels={"L9": upper}, threads=2)
    assert unknown.value.reason == "unknown_level"


@pytest.mark.parametrize(
    "hu",
    [
        np.full((60, 80, 80), -1000, np.int16),
        np.full((60, 80, 80), 40, np.int16),
        np.random.default_rng(0).integers(-1000, 1500, (60, 80, 80)).astype(np.int16),
        np.zeros((1, 5, 5), np.int16),
    ],
    ids=["air", "water", "noise", "one slice"],
)
def test_a_volume_without_a_spine_gives_a_finding_and_no_vertebra(hu: np.ndarray):
    matrix = np.zeros((4, 4))
    matrix[[2, 1, 0], [0, 1, 2]] = 2.0
    matrix[3, 3] = 1.0
    result = segment_spine(Volume(hu, Grid(hu.shape, matrix)), threads=2)
    assert result.vertebrae == ()
    assert not result.labels.any()
    assert [f.code for f in result.findings] == ["no_spine"]


@pytest.mark.realdata
def test_lumbar_bodies_of_a_real_scan_agree_with_its_reference(real_data):
    """Agreement with the outlines of a network; levels and the HU inside must agree as well."""
    folder = real_data("ts_example_3mm")
    hu, matrix = _nifti(folder / "ct.nii.gz")
    whole, _ = _nifti(folder / "labels.nii.gz")
    body, _ = _nifti(folder / "labels_body.nii.gz")
    result = segment_spine(Volume(hu, Grid(hu.shape, matrix)), threads=2)
    by_level = {v.level: v for v in result.vertebrae}
    # The scan ends within T12: it is listed, and said to be cut.
    assert [v.level for v in result.vertebrae] == ["T12", "L1", "L2", "L3", "L4", "L5"]
    assert by_level["T12"].status is Status.FAILED
    assert "cut_by_field_of_view" in {f.code for f in by_level["T12"].findings}
    assert _dice(result.labels == by_level["T12"].label, (whole == 32) & (body == 1)) > 0.8
    dice = {}
    for level, number in {"L5": 27, "L4": 28, "L3": 29, "L2": 30, "L1": 31}.items():
        mask, reference = result.labels == by_level[level].label, (whole == number) & (body == 1)
        dice[level] = _dice(mask, reference)
        core, known = (hu[_deep(m)] for m in (mask, reference))
        assert abs(np.median(core) - np.median(known)) <= 3.0
        # The reference holds the dense roots of the pedicles at L4 and L5, which lift its mean.
        assert abs(core.mean() - known.mean()) < 5.0
    assert min(dice.values()) > 0.92
    assert np.mean(list(dice.values())) > 0.94


def _deep(mask: np.ndarray) -> np.ndarray:
    """More than 6 mm inside, at 3 mm voxels."""
    return ndimage.distance_transform_edt(mask, sampling=3.0) > 6.0


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("case", ["sts031_hip_right", "sts036_hip_left_truncated", "sts044_hip_right"])
def test_a_hip_is_not_a_spine(real_data, case: str):
    hu, matrix = _nifti(real_data(case) / "ct.nii.gz")
    result = segment_spine(Volume(hu, Grid(hu.shape, matrix)), threads=2)
    assert result.vertebrae == ()
    assert [f.code for f in result.findings] == ["no_spine"]


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize(
    "case", ["ts_thorax_cta_1p5mm", "lidc0314_chest_1mm", "ricord001012_chest_1p25mm", "crlm1006_abdomen_5mm"]
)
def test_no_level_is_named_where_neither_sacrum_nor_last_rib_is_in_view(real_data, case: str):
    hu, matrix = _nifti(real_data(case) / "ct.nii.gz")
    result = segment_spine(Volume(hu, Grid(hu.shape, matrix)), threads=2)
    assert len(result.vertebrae) >= 6
    assert all(v.level is None for v in result.vertebrae)
    assert "level_unknown" in {f.code for f in result.findings}


def test_padding_cuts_a_body_like_the_edge_of_the_volume(torso):
    """What the scanner wrote outside its circle is not tissue: a body that it covers in part must not pass."""
    volume, labels, truth = torso
    number = truth.vertebra("L2").label
    middle = int(np.argwhere(labels == number)[:, 2].mean())
    rows = np.argwhere(labels == number)[:, 0]
    valid = np.ones(volume.shape, bool)
    valid[rows.min() : rows.max() + 1, :, middle + 8 :] = False
    result = segment_spine(replace(volume, valid=valid), threads=2)
    hidden = [
        v for v in result.vertebrae if v.label == number or (labels[result.labels == v.label] == number).mean() > 0.5
    ]
    assert hidden
    assert all(v.status is Status.FAILED and not v.complete for v in hidden)
