"""Proximal femora of a phantom with exact truth, and every reason for which a femur is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from phantoms import Truth, make_phantom
from phantoms.voxelise import Lattice
from pipeline.errors import Finding, Severity, Status
from pipeline.segmentation.femur import FemurResult, quality, segment_femora
from pipeline.segmentation.femur.head import Field, Head
from pipeline.segmentation.femur.outline import HeadSurface, Outline, surface_field
from pipeline.segmentation.model import LABEL_OF, BodyFrame, Femur, FemurLandmarks, Vertebra
from pipeline.segmentation.spine import SpineResult
from pipeline.volume import Grid, Volume, canonical_order


@pytest.fixture(scope="module")
def hips() -> tuple[Volume, NDArray[np.uint8], Truth]:
    """Both hips of a woman from the sacrum to the shafts, 2 mm voxels."""
    phantom = make_phantom("torso", seed=3)
    lattice = Lattice.upright(np.array([-165.0, -95.0, -246.0]), np.array([165.0, 95.0, -30.0]), (2.0, 2.0, 2.0))
    image = phantom.image(120.0, slice_mm=2.0, lattice=lattice)
    volume = Volume(image.hu, Grid(image.hu.shape, np.asarray(image.lattice.index_to_lps)))
    return volume, image.labels, phantom.truth(image)


@pytest.fixture(scope="module")
def result(hips: tuple[Volume, NDArray[np.uint8], Truth]) -> FemurResult:
    return segment_femora(hips[0], threads=2)


def _side(result: FemurResult, side: str) -> Femur:
    return next(f for f in result.femora if f.side == side)


def _codes(findings: tuple[Finding, ...] | list[Finding]) -> set[str]:
    return {f.code for f in findings}


def _angle_deg(a: NDArray | None, b: tuple[float, float, float]) -> float:
    assert a is not None
    return float(np.degrees(np.arccos(np.clip(a @ np.array(b), -1, 1))))


def _within(volume: Volume, *, x: slice = slice(None), z: slice = slice(None)) -> Volume:
    """A part of a volume."""
    grid = volume.grid
    matrix = grid.index_to_lps.copy()
    matrix[:3, 3] = grid.to_lps(np.array([float(z.start or 0), 0.0, float(x.start or 0)]))
    part = np.ascontiguousarray(volume.hu[z, :, x])
    return Volume(part, Grid(part.shape, matrix))


def test_both_femora_of_a_phantom_agree_with_its_truth(
    hips: tuple[Volume, NDArray[np.uint8], Truth], result: FemurResult
) -> None:
    _, labels, truth = hips
    assert [f.side for f in result.femora] == ["left", "right"]
    for femur in result.femora:
        true = truth.femur(femur.side)
        landmarks = femur.landmarks
        assert landmarks is not None
        assert femur.status is Status.OK, femur.findings
        assert femur.fit_for_density and femur.fit_for_strength
        assert femur.label == LABEL_OF[femur.name]
        assert np.linalg.norm(landmarks.head_centre_lps_mm - np.array(true.head_centre_lps_mm)) < 1.5
        assert landmarks.head_radius_mm == pytest.approx(true.head_radius_mm, abs=1.0)
        assert _angle_deg(landmarks.neck_axis_lps, true.neck_axis_lps) < 4
        assert _angle_deg(landmarks.shaft_axis_lps, true.shaft_axis_lps) < 4
        assert landmarks.lesser_trochanter_lower_edge_lps_mm is not None
        off = landmarks.lesser_trochanter_lower_edge_lps_mm - np.array(true.lesser_trochanter_lower_edge_lps_mm)
        assert np.linalg.norm(off) < 7.0
        ours, whole = result.labels == femur.label, labels == true.label
        # Ours ends below the lesser trochanter; compare above the lowest whole slice of ours.
        lowest = int(np.flatnonzero(ours.any(axis=(1, 2))).min()) + 10
        both = 2.0 * (ours & whole)[lowest:].sum() / (ours[lowest:].sum() + whole[lowest:].sum())
        assert both > 0.95


def test_no_voxel_of_the_pelvis_belongs_to_a_femur(
    hips: tuple[Volume, NDArray[np.uint8], Truth], result: FemurResult
) -> None:
    """All of a mask lies within two voxels of the true femur."""
    _, labels, truth = hips
    for femur in result.femora:
        away = ndimage.distance_transform_edt(labels != truth.femur(femur.side).label, sampling=2.0)
        assert away[result.labels == femur.label].max() <= 4.5


def test_metal_refuses_its_side_and_keeps_the_other(
    hips: tuple[Volume, NDArray[np.uint8], Truth], result: FemurResult
) -> None:
    volume, _, _ = hips
    landmarks = _side(result, "left").landmarks
    assert landmarks is not None and landmarks.neck_centre_lps_mm is not None and landmarks.neck_axis_lps is not None
    hu = volume.hu.copy()
    for along in np.arange(-5.0, 40.0, 1.0):
        k, j, i = np.rint(volume.grid.to_index(landmarks.neck_centre_lps_mm + along * landmarks.neck_axis_lps)).astype(
            int
        )
        hu[k - 1 : k + 2, j - 1 : j + 2, i - 1 : i + 2] = 3071
    screwed = segment_femora(replace(volume, hu=hu), threads=2)
    left, right = _side(screwed, "left"), _side(screwed, "right")
    assert left.status is Status.FAILED and "metal" in _codes(left.findings)
    assert not left.fit_for_density and not left.fit_for_strength
    assert not (screwed.labels == left.label).any(), "what is refused is not in the label map"
    assert right.status is Status.OK and (screwed.labels == right.label).any()


@pytest.mark.slow
def test_a_femur_cut_by_the_side_of_the_field_is_refused(hips: tuple[Volume, NDArray[np.uint8], Truth]) -> None:
    volume, _, truth = hips
    # 50 mm lateral of the head centre the field ends: head and neck are in it, the greater trochanter is not.
    edge = int(volume.grid.to_index(np.array(truth.femur("left").head_centre_lps_mm))[2]) + 25
    cut = segment_femora(_within(volume, x=slice(edge - 70, edge)), threads=2)
    left = _side(cut, "left")
    assert left.status is Status.FAILED and "truncated_femur" in _codes(left.findings)


def test_without_the_lesser_trochanter_neither_density_nor_strength(
    hips: tuple[Volume, NDArray[np.uint8], Truth],
) -> None:
    volume, _, truth = hips
    level = volume.grid.to_index(np.array(truth.femur("right").lesser_trochanter_lps_mm))[0]
    short = segment_femora(_within(volume, z=slice(int(level) + 3, volume.shape[0])), threads=2)
    for femur in short.femora:
        assert femur.status is not Status.FAILED
        assert not femur.fit_for_density and not femur.fit_for_strength
        assert "truncated_femur" in _codes(femur.findings)
        assert (short.labels == femur.label).any(), "the bone that is in view is kept"
    assert len(short.femora) == 2


def test_no_hip_in_view_gives_no_femur_and_no_failure() -> None:
    """A thorax: soft tissue about two lungs, a spine, and shoulders that would pass for hips."""
    grid = Grid((100, 120, 180), np.array([[0, 0, 2.0, -180], [0, 2.0, 0, -120], [2.0, 0, 0, 0], [0, 0, 0, 1]]))
    z, y, x = np.meshgrid(*(np.arange(n) * 2.0 for n in grid.shape), indexing="ij")
    hu = np.full(grid.shape, -1000, dtype=np.int16)
    hu[((x - 180) / 170) ** 2 + ((y - 120) / 105) ** 2 < 1] = 40
    for centre in (100, 260):
        hu[((x - centre) / 55) ** 2 + ((y - 110) / 75) ** 2 < 1] = -830
    for centre in (40, 320):
        hu[(x - centre) ** 2 + (y - 130) ** 2 + (z - 150) ** 2 < 24**2] = 300
    none = segment_femora(Volume(hu, grid), threads=2)
    assert none.femora == ()
    assert not none.labels.any()
    assert _codes(none.findings) == {"no_femur_in_view"}
    assert none.findings[0].severity is Severity.INFO


def _spine_above(volume: Volume) -> SpineResult:
    """A canal in the midline and an L5 at the level that the phantom has it."""
    frame = BodyFrame(np.array([0.0, 10.0, 20.0]), np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), np.array([0, 0, 1.0]))
    fifth = Vertebra("vertebra_L5", "L5", LABEL_OF["vertebra_L5"], frame, None, 50.0, 35.0, 0.9)
    canal = np.stack([np.zeros(40), np.full(40, 45.0), np.linspace(-60.0, 40.0, 40)], axis=1)
    return SpineResult(np.zeros(volume.shape, dtype=np.uint8), (fifth,), None, canal)


def test_hips_that_must_be_in_view_but_are_not_found_are_failures(
    hips: tuple[Volume, NDArray[np.uint8], Truth],
) -> None:
    volume, labels, truth = hips
    hu = volume.hu.copy()
    for side in ("left", "right"):
        hu[labels == truth.femur(side).label] = 40
    lost = segment_femora(replace(volume, hu=hu), spine=_spine_above(volume), threads=2)
    assert [(f.side, f.status) for f in lost.femora] == [("left", Status.FAILED), ("right", Status.FAILED)]
    for femur in lost.femora:
        assert _codes(femur.findings) == {"head_not_found"}
        assert femur.landmarks is None and not femur.fit_for_density


@pytest.mark.slow
def test_a_joint_prosthesis_is_called_metal(hips: tuple[Volume, NDArray[np.uint8], Truth]) -> None:
    volume, labels, truth = hips
    hu = volume.hu.copy()
    femur = labels == truth.femur("left").label
    hu[femur] = 40
    place = np.argwhere(femur)
    head = np.array(truth.femur("left").head_centre_lps_mm)
    close = np.linalg.norm(volume.grid.to_lps(place.astype(float)) - head, axis=1) < 16
    hu[tuple(place[close].T)] = 3071
    replaced = segment_femora(replace(volume, hu=hu), spine=_spine_above(volume), threads=2)
    assert "metal" in _codes(_side(replaced, "left").findings)
    assert _side(replaced, "left").status is Status.FAILED
    assert _side(replaced, "right").status is Status.OK


def _vertebra_only(volume: Volume) -> Volume:
    """The sacrum's end of the phantom, without hips."""
    return _within(volume, z=slice(volume.shape[0] - 30, volume.shape[0]))


def test_a_pelvis_above_the_hips_gives_no_femur(hips: tuple[Volume, NDArray[np.uint8], Truth]) -> None:
    assert segment_femora(_vertebra_only(hips[0]), threads=2).femora == ()


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("ts_example_3mm", {"left": Status.FAILED, "right": Status.WARNING}),
        ("sts044_hip_right", {"right": Status.OK}),
        ("sts031_hip_right", {"right": Status.WARNING}),
        ("sts036_hip_left_truncated", {"left": Status.FAILED}),
        ("lidc0314_chest_1mm", {}),
        ("ricord001012_chest_1p25mm", {}),
        ("ts_thorax_cta_1p5mm", {}),
        ("crlm1006_abdomen_5mm", {}),
        ("cptac00189_lungbases_5mm", {}),
    ],
)
def test_real_scans(real_data: Callable[[str], Path], case: str, expected: dict[str, Status]) -> None:
    volume = _real(real_data(case) / "ct.nii.gz")
    found = segment_femora(volume, threads=2)
    assert {f.side: f.status for f in found.femora} == expected
    if case == "ts_example_3mm":
        assert "metal" in _codes(_side(found, "left").findings)
        ours, reference = found.labels == 32, _real(real_data(case) / "labels.nii.gz").hu == 76
        assert 2.0 * (ours & reference).sum() / (ours.sum() + reference.sum()) >= 0.90
    if case == "sts044_hip_right":
        assert _side(found, "right").fit_for_strength
    if case == "sts031_hip_right":
        assert "head_truncated" in _codes(_side(found, "right").findings)
        assert _side(found, "right").fit_for_density and not _side(found, "right").fit_for_strength
    if case == "sts036_hip_left_truncated":
        assert "truncated_femur" in _codes(_side(found, "left").findings)


@pytest.mark.realdata
@pytest.mark.slow
def test_a_density_image_with_an_outside_mask(real_data: Callable[[str], Path]) -> None:
    """By the geometry of its files this is a right femur, whatever its folder is called."""
    folder = real_data("fe_femur_left")
    volume = _real(folder / "density_mg_cm3.nii.gz")
    found = segment_femora(volume, threads=2)
    ours, reference = found.labels == 32, _real(folder / "labels.nii.gz").hu == 2
    assert 2.0 * (ours & reference).sum() / (ours.sum() + reference.sum()) >= 0.95


def _real(path: Path) -> Volume:
    image = sitk.ReadImage(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = (np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing()))[:, ::-1]
    matrix[:3, 3] = image.GetOrigin()
    array, matrix, order = canonical_order(sitk.GetArrayFromImage(image), matrix)
    return Volume(array, Grid(array.shape, matrix), axis_order=order)


# The single checks.

_GRID = Grid((120, 100, 100), np.array([[0, 0, 1.5, -75], [0, 1.5, 0, -75], [1.5, 0, 0, -120], [0, 0, 0, 1.0]]))


def _head(**changes: object) -> Head:
    return replace(Head("left", np.zeros(3), 24.0, 0.8, 1.0), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "code", "severity"),
    [
        ({"score": 0.3}, "head_not_found", Severity.FAILURE),
        ({"agreement": 0.34, "spread_mm": 9.0}, "head_not_repeatable", Severity.WARNING),
        ({"agreement": 0.17, "spread_mm": 9.0}, "head_not_repeatable", Severity.FAILURE),
        ({"in_view": 0.8}, "truncated_femur", Severity.FAILURE),
        ({"in_view": 0.92}, "head_truncated", Severity.WARNING),
    ],
)
def test_what_a_head_must_be(changes: dict, code: str, severity: Severity) -> None:
    assert quality.head_findings(_head()) == []
    assert [(f.code, f.severity) for f in quality.head_findings(_head(**changes))] == [(code, severity)]


def test_heads_of_different_size_are_a_warning_on_the_weaker_side() -> None:
    heads = [_head(side="left", radius_mm=27.0, score=0.6), _head(side="right", radius_mm=24.0, score=0.8)]
    assert list(quality.pair_findings(heads)) == ["left"]
    assert quality.pair_findings([heads[0], replace(heads[1], radius_mm=26.0)]) == {}


def _landmarks(neck_shaft_deg: float = 128.0, below_mm: float | None = 50.0) -> FemurLandmarks:
    angle = np.radians(180 - neck_shaft_deg)
    return FemurLandmarks(
        head_centre_lps_mm=np.zeros(3),
        head_radius_mm=24.0,
        neck_centre_lps_mm=np.array([20.0, 0, -16]),
        neck_axis_lps=np.array([np.sin(angle), 0, -np.cos(angle)]),
        shaft_axis_lps=np.array([0, 0, -1.0]),
        shaft_below_lesser_trochanter_mm=below_mm,
    )


@pytest.mark.parametrize(
    ("landmarks", "width_mm", "codes", "density", "strength"),
    [
        (_landmarks(), 32.0, set(), True, True),
        (_landmarks(160.0), 32.0, {"implausible_hip_geometry"}, True, True),
        (_landmarks(95.0), 32.0, {"implausible_hip_geometry"}, True, True),
        (_landmarks(), 47.0, {"implausible_hip_geometry"}, True, True),
        (_landmarks(below_mm=14.0), 32.0, {"shaft_too_short"}, True, False),
        (_landmarks(below_mm=4.0), 32.0, {"truncated_femur"}, False, False),
        (_landmarks(below_mm=None), 32.0, {"truncated_femur"}, False, False),
        (FemurLandmarks(np.zeros(3), 24.0), None, {"truncated_femur"}, False, False),
    ],
)
def test_what_the_geometry_must_be(
    landmarks: FemurLandmarks, width_mm: float | None, codes: set[str], density: bool, strength: bool
) -> None:
    findings, fit_for_density, fit_for_strength = quality.geometry_findings(landmarks, width_mm)
    assert _codes(findings) == codes
    assert (fit_for_density, fit_for_strength) == (density, strength)


def _ball_outline(extra: NDArray[np.bool_] | None = None, *, dip_hu: float = 120.0) -> tuple[Outline, Field]:
    """A head on a shaft with a 3 mm cortex, and whatever else the mask holds."""
    z, y, x = np.meshgrid(*(np.arange(n, dtype=float) for n in _GRID.shape), indexing="ij")
    points = _GRID.to_lps(np.stack([z, y, x], axis=-1))
    head = np.linalg.norm(points, axis=-1) < 24
    shaft = (np.hypot(points[..., 0] - 10, points[..., 1]) < 18) & (points[..., 2] < 0)
    mask = head | shaft if extra is None else head | shaft | extra
    hu = np.where(mask, 600.0, 40.0).astype(np.float32)
    surface = HeadSurface(np.zeros(3), np.full((49, 96), 24.0), dip_hu)
    outline = Outline(
        mask, _GRID, np.array([0.8, 0, -0.6]), surface, 0.0, 150.0, np.where(mask, 1, -1).astype(np.float32)
    )
    return outline, Field(hu, _GRID, 1.0)


def test_a_mask_that_leaks_into_the_pelvis_is_refused() -> None:
    outline, field = _ball_outline()
    assert quality.mask_findings(outline, field, _head()) == []
    leak = np.zeros(_GRID.shape, dtype=bool)
    leak[70:100, 40:60, 10:36] = True
    outline, field = _ball_outline(leak)
    assert "leak_into_pelvis" in _codes(quality.mask_findings(outline, field, _head()))


def test_an_open_cortex_is_told() -> None:
    outline, field = _ball_outline()
    holed = field.hu.copy()
    holed[:, :, 50:] = np.where(outline.mask[:, :, 50:], 40.0, holed[:, :, 50:])
    findings = quality.mask_findings(outline, replace(field, hu=holed), _head())
    assert [(f.code, f.severity) for f in findings] == [("mask_not_closed", Severity.FAILURE)]


def test_a_joint_that_cannot_be_seen_is_a_warning() -> None:
    thin = Volume(np.zeros((4, 4, 4), dtype=np.int16), Grid((4, 4, 4), _GRID.index_to_lps))
    thick = Volume(thin.hu, Grid((4, 4, 4), _GRID.index_to_lps @ np.diag([3.0, 1, 1, 1])))
    outline, field = _ball_outline()
    assert quality.joint_findings(outline, field, thin) == []
    assert _codes(quality.joint_findings(outline, field, thick)) == {"joint_not_visible"}
    outline, field = _ball_outline(dip_hu=20.0)
    assert _codes(quality.joint_findings(outline, field, thin)) == {"joint_not_visible"}


@pytest.mark.parametrize("by", ["side of the volume", "padding", "valid field"])
def test_a_mask_that_ends_where_the_data_ends_is_cut(by: str) -> None:
    hu = np.full((20, 40, 40), 40, dtype=np.int16)
    mask = np.zeros(hu.shape, dtype=bool)
    mask[:, 15:25, 15:25] = True
    matrix = np.eye(4)[[2, 1, 0, 3]]
    box = (slice(0, 20), slice(0, 40), slice(0, 40))
    volume = Volume(hu, Grid(hu.shape, matrix))
    assert quality.side_cut_share(mask, box, volume) == 0.0
    if by == "side of the volume":
        box = (slice(0, 20), slice(0, 40), slice(0, 25))
        mask = np.ascontiguousarray(mask[:, :, :25])
        volume = Volume(np.ascontiguousarray(hu[:, :, :25]), Grid((20, 40, 25), matrix))
    elif by == "padding":
        hu[:, :, 25:] = -1000
    else:
        valid = np.ones(hu.shape, dtype=bool)
        valid[:, :, 25:] = False
        volume = replace(volume, valid=valid)
    share = quality.side_cut_share(mask, box, volume)
    assert share == 1.0
    assert _codes(quality.side_cut_findings(share)) == {"truncated_femur"}


@pytest.mark.parametrize("cortex_hu", [300.0, 700.0, 1400.0])
def test_the_surface_lies_at_half_the_height_of_the_cortex_however_dense(cortex_hu: float) -> None:
    """A ball of 20 mm with a 3 mm cortex, blurred as a scanner does: a fixed threshold would grow with density."""
    grid = Grid((60, 60, 60), np.array([[0, 0, 1.0, 0], [0, 1.0, 0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1.0]]))
    index = np.stack(np.meshgrid(*(np.arange(60.0) for _ in range(3)), indexing="ij"), axis=-1)
    radius = np.linalg.norm(index - 29.5, axis=-1)
    sharp = np.where(radius < 20, np.where(radius < 17, 150.0, cortex_hu), 40.0)
    hu = ndimage.gaussian_filter(sharp, 0.9).astype(np.float32)
    level = surface_field(ndimage.binary_fill_holes(hu > 150), hu, grid, 150.0)
    equivalent_mm = (3 * float((level > 0).sum()) / (4 * np.pi)) ** (1 / 3)
    assert equivalent_mm == pytest.approx(20.0, abs=0.3)


@pytest.mark.parametrize(("dice", "severity"), [(0.96, None), (0.88, Severity.WARNING), (0.80, Severity.FAILURE)])
def test_an_outline_that_does_not_come_out_again_is_told(dice: float, severity: Severity | None) -> None:
    found = quality.repeat_findings(dice)
    assert [f.severity for f in found] == ([] if severity is None else [severity])
    assert all(f.code == "outline_unstable" for f in found)


@pytest.mark.realdata
def test_a_femur_that_lost_its_cortex_is_refused(real_data: Callable[[str], Path]) -> None:
    """60 HU taken from the inside of the bone: the outline breaks up at 3 mm voxels, and the repeat shows it."""
    image = sitk.ReadImage(str(real_data("ts_example_3mm") / "ct.nii.gz"))
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(real_data("ts_example_3mm") / "labels.nii.gz")))
    matrix = np.eye(4)
    matrix[:3, :3] = (np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing()))[:, ::-1]
    matrix[:3, 3] = image.GetOrigin()
    hu = sitk.GetArrayFromImage(image).astype(np.float32)
    for femur in (75, 76):
        deep = ndimage.distance_transform_edt(labels == femur, sampling=image.GetSpacing()[::-1]) > 2.5
        hu = np.where(deep, np.maximum(hu - 60.0, -80.0), hu)
    array, canonical, _ = canonical_order(hu, matrix)
    found = segment_femora(Volume(array, Grid(array.shape, canonical)), threads=1)
    right = next(f for f in found.femora if f.side == "right")
    assert right.status is Status.FAILED
    assert "outline_unstable" in {f.code for f in right.findings}
