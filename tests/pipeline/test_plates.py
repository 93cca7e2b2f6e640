"""Calibration plates of every product, as they lie in real scans; what cannot be told is refused, never guessed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.density.rods import find_plate, line_from_plate
from pipeline.ingest import find_studies, load_volume
from pipeline.volume import Grid
from tests.pipeline.plate_scenes import GAIN, pasted, plate_scene, rod_hu

PRODUCTS = (
    "mindways_model3_ct", "mindways_model3_qa", "qrm_bdc3", "qrm_bdc6", "image_analysis_qct3d_plus", "bmas200", "siemens_osteo",
)  # fmt: skip


def codes(plate):
    return [finding.code for finding in plate.findings]


def assert_true_line(plate, product):
    """The plate is that product, and its line the true one to 2 mg/cm3 + 1 %."""
    assert plate is not None and plate.name == product
    line = line_from_plate(plate, kvp=120.0)
    for density in (0.0, 100.0, 200.0):
        found = line.slope_mg_cm3_per_hu * GAIN * density + line.intercept_mg_cm3
        assert found == pytest.approx(density, abs=2.0 + 0.01 * density)


@pytest.mark.parametrize("product", PRODUCTS)
def test_each_product_is_found_by_its_rods(product):
    assert_true_line(find_plate(*plate_scene(rod_hu(product))), product)


@pytest.mark.parametrize(
    "lies",
    [{"pitch_deg": 8.0}, {"pitch_deg": -6.0, "yaw_deg": 6.0}, {"roll_deg": 8.0}, {"cushion_mm": 45.0}],
    ids=["aslant", "aslant and turned", "tipped", "on a cushion"],
)
@pytest.mark.parametrize("product", ["mindways_model3_ct", "bmas200"])
def test_rods_are_followed_where_a_plate_does_not_lie_straight(product, lies):
    # Thin rods: over 40 mm they would wander by more than their radius.
    assert_true_line(find_plate(*plate_scene(rod_hu(product), radius_mm=6.0, step_mm=22.0, **lies)), product)


@pytest.mark.parametrize(
    "image",
    [
        {"slice_mm": 1.0, "noise_hu": 30.0, "length_mm": 25.0},
        {"slice_mm": 5.0},
        {"noise_hu": 45.0, "fine_noise": True},
        {"noise_hu": 40.0},
    ],
    ids=["1 mm", "5 mm", "sharp kernel", "low dose"],
)
@pytest.mark.parametrize("product", ["qrm_bdc6", "image_analysis_qct3d_plus"])
def test_slices_kernels_and_noise_do_not_matter(product, image):
    assert_true_line(find_plate(*plate_scene(rod_hu(product), **image)), product)


@pytest.mark.parametrize("product", ["mindways_model3_ct", "qrm_bdc6", "siemens_osteo"])
def test_a_plate_the_other_way_round_and_one_that_ends_inside_the_scan(product):
    assert_true_line(find_plate(*plate_scene(rod_hu(product)[::-1], ends_at_mm=0.0)), product)


@pytest.mark.parametrize(("product", "left"), [("mindways_model3_ct", 4), ("qrm_bdc6", 4), ("bmas200", 4)])
def test_rods_outside_the_field_of_view_are_done_without_and_that_is_said(product, left):
    count = len(rod_hu(product))
    # The field ends between two rods.
    edge = round(200 + (left - count / 2) * 28.0)
    plate = find_plate(*plate_scene(rod_hu(product), columns=slice(0, edge)))
    assert_true_line(plate, product)
    assert len(plate.rods) == left and "phantom_partly_seen" in codes(plate)


@pytest.mark.parametrize("product", ["qrm_bdc6", "bmas200"])
def test_a_rod_that_reads_like_its_plate_is_done_without(product):
    plate = find_plate(*plate_scene(rod_hu(product), plastic_hu=0.0))
    assert_true_line(plate, product)
    assert len(plate.rods) == len(rod_hu(product)) - 1


def test_rods_that_are_neither_outside_nor_hidden_must_be_there():
    # Four rods of five, on a plate that goes on: it is another phantom.
    plate = find_plate(*plate_scene(rod_hu("bmas200")[1:], plastic_hu=-110.0))
    assert plate is not None and plate.definition is None and codes(plate) == ["phantom_unidentified"]


def test_every_second_rod_of_a_plate_is_no_plate_of_its_own():
    # 100, 400 and 800 of six are what the plate of three rods has; between them lie the others.
    six = rod_hu("qrm_bdc6")
    six[[0, 2, 4]] += 25.0
    plate = find_plate(*plate_scene(six))
    assert plate is None or plate.name != "qrm_bdc3"


def test_rods_of_an_unverified_product_are_not_used():
    # At a low gain they could be those of its successor: not used either way.
    plate = find_plate(*plate_scene(rod_hu("image_analysis_older")))
    assert plate is not None and not plate.rods and codes(plate)[0] in ("phantom_unidentified", "phantom_ambiguous")


def test_rods_that_suit_two_products_are_called_ambiguous():
    # At a high gain 0, 75 and 150 mg/cm3 also lie on a possible line of 8, 97 and 190 mg/cm3.
    plate = find_plate(*plate_scene(rod_hu("image_analysis_older", gain=1.5)))
    assert plate is not None and not plate.rods and codes(plate) == ["phantom_ambiguous"]


def test_the_user_who_names_the_phantom_settles_it():
    from pipeline.density.rods import known_phantoms

    named = known_phantoms()["image_analysis_qct3d_plus"]
    scene = plate_scene(rod_hu("image_analysis_qct3d_plus", gain=1.3))
    assert find_plate(*scene, (named,)).name == "image_analysis_qct3d_plus"


@pytest.mark.parametrize("product", ["mindways_model3_ct", "qrm_bdc3"])
@pytest.mark.parametrize("way", ["prone", "beside"])
def test_a_plate_in_front_of_the_patient_or_beside_him_is_found(product, way):
    volume, nothing = plate_scene(rod_hu(product))
    hu = volume.hu[:, ::-1] if way == "prone" else volume.hu.transpose(0, 2, 1)
    turned = replace(volume, hu=np.ascontiguousarray(hu), grid=Grid(hu.shape, volume.grid.index_to_lps))
    assert_true_line(find_plate(turned, nothing), product)


@pytest.mark.parametrize(
    "plate",
    [
        {"steps": (1.0, 1.4, 0.8, 1.2)},
        {"arc_mm": 12.0},
        {"radius_mm": 5.0, "step_mm": 20.0},
        {"radius_mm": 12.5, "step_mm": 36.0},
        {"bubbles": 2, "slice_mm": 1.5},
    ],
    ids=["at unequal distances", "on an arc", "thin", "thick", "with bubbles"],
)
def test_rods_of_any_size_at_any_distances(plate):
    assert_true_line(find_plate(*plate_scene(rod_hu("bmas200"), **plate)), "bmas200")


def test_voxels_of_three_millimetres_are_enough():
    scene = plate_scene(rod_hu("mindways_model3_ct"), pixel_mm=3.0, slice_mm=3.0, radius_mm=7.0)
    assert_true_line(find_plate(*scene), "mindways_model3_ct")


def test_a_shifted_scanner_is_believed_of_five_rods_and_said():
    volume, nothing = plate_scene(rod_hu("mindways_model3_ct") + 25.0)
    plate = find_plate(volume, nothing)
    assert codes(plate) == ["phantom_zero_shifted"]
    line = line_from_plate(plate, kvp=120.0)
    assert line.slope_mg_cm3_per_hu * (GAIN * 100.0 + 25.0) + line.intercept_mg_cm3 == pytest.approx(100.0, abs=2.0)
    # Of a part of the plate it is not: three rods lie on many lines.
    assert not getattr(find_plate(*plate_scene(rod_hu("qrm_bdc6")[2:] + 30.0)), "rods", ())


def test_rods_in_another_order_are_told_by_what_they_read():
    plate = find_plate(*plate_scene(rod_hu("qrm_bdc6")[[3, 0, 5, 1, 4, 2]]))
    assert_true_line(plate, "qrm_bdc6")
    assert codes(plate) == ["phantom_other_order"]
    assert [rod.hu for rod in plate.rods] == sorted(rod.hu for rod in plate.rods)


def test_two_rods_of_a_plate_of_three_are_no_plate_of_two():
    # The middle rod of 97 mg/cm3 reads like the plastic: 8 and 190 could be 0 and 200.
    plate = find_plate(*plate_scene(rod_hu("image_analysis_qct3d_plus"), plastic_hu=133.0))
    assert plate is None or not plate.rods
    # The field of view ends beside the second of 0, 200 and something that is not seen.
    plate = find_plate(*plate_scene(np.array([2.0, 276.0, 900.0]), columns=slice(0, 214)))
    assert plate is None or not plate.rods


def test_streaks_through_rods_widen_the_line():
    calm, streaked = (
        line_from_plate(find_plate(*plate_scene(rod_hu("bmas200"), streak_hu=height)), kvp=120.0).covariance
        for height in (0.0, 15.0)
    )
    assert streaked[1][1] > 4.0 * calm[1][1]


@pytest.mark.realdata
def test_plates_pasted_into_a_real_scan_in_front_of_the_patient(real_data):
    study = find_studies([real_data("ts_dicom_slab_j2k") / "ct.nii.gz"]).studies[0]
    volume = load_volume(study.stacks[0])
    assert find_plate(volume, None) is None
    for product in ("mindways_model3_ct", "qrm_bdc3"):
        assert_true_line(find_plate(pasted(volume, rod_hu(product), row=70, column=256), None), product)


def test_of_two_plates_the_one_with_more_rods_is_used_and_the_other_said():
    plate = find_plate(*plate_scene(rod_hu("qrm_bdc3"), rod_hu("mindways_model3_ct")))
    assert_true_line(plate, "mindways_model3_ct")
    assert codes(plate) == ["phantom_second"]


def test_two_plates_that_disagree_are_a_warning():
    plate = find_plate(*plate_scene(rod_hu("qrm_bdc3"), rod_hu("bmas200", gain=1.2)))
    assert plate.name == "bmas200"
    assert [(f.code, f.severity.value) for f in plate.findings] == [("phantom_second", "warning")]


def test_without_a_plate_there_is_none():
    assert find_plate(*plate_scene()) is None


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_other_things_never_give_a_line(seed):
    generator = np.random.default_rng(seed)
    plate = find_plate(*plate_scene(generator.uniform(-60.0, 700.0, generator.integers(3, 7))))
    assert plate is None or not plate.rods
