"""What labels of other programs mean, by name, code and number."""

from __future__ import annotations

import pytest

from pipeline.segmentation.mask_names import Kind, Part, numbers_by_name, part_of_code, part_of_name

# --------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("vertebrae_L1", Part(Kind.VERTEBRA, "L1")),
        ("vertebrae_T12", Part(Kind.VERTEBRA, "T12")),
        ("T7", Part(Kind.VERTEBRA, "T7")),
        ("L3 vertebra", Part(Kind.VERTEBRA, "L3")),
        ("vertebra_L1 (body)", Part(Kind.BODY, "L1")),
        ("vertebral body L 2", Part(Kind.BODY, "L2")),
        ("vertebrae_body", Part(Kind.BODIES)),
        ("vertebra_u3", Part(Kind.BODY, "u3")),
        ("vertebra_u3 (body)", Part(Kind.BODY, "u3")),
        ("vertebra_L1_arch", None),
        ("vertebrae_S1", Part(Kind.SACRUM)),
        ("sacrum", Part(Kind.SACRUM)),
        ("femur_left", Part(Kind.FEMUR, "left")),
        ("Right Femur", Part(Kind.FEMUR, "right")),
        ("proximal femur R", Part(Kind.FEMUR, "right")),
        ("femur", None),
        ("femoral_head_left", None),
        ("vertebrae_C3", None),
        ("intervertebral_disc_L1", None),
        ("rib_left_12", None),
        ("iliac_artery_left", None),
        ("liver", None),
        ("background", None),
        ("T13", Part(Kind.VERTEBRA, "T13")),
        ("L9", None),
    ],
)
def test_names_of_many_programs(name: str, part: Part | None) -> None:
    assert part_of_name(name) == part


def test_codes_come_before_labels() -> None:
    assert part_of_code("66794005", "SCT", "L1 vertebra", None, "segment 1") == Part(Kind.VERTEBRA, "L1")
    assert part_of_code("66794005", "SCT", "L1 vertebra", None, "vertebra_L1 (body)") == Part(Kind.BODY, "L1")
    assert part_of_code("71341001", "SCT", "Femur", "24028007", "x") == Part(Kind.FEMUR, "right")
    assert part_of_code("71341001", "SCT", "Femur", None, "femur_left") == Part(Kind.FEMUR, "left")
    assert part_of_code("71341001", "SCT", "Femur", None, "bone") is None, "a femur without a side is none"
    assert part_of_code("10200004", "SCT", "Liver", None, "liver") is None


@pytest.mark.parametrize(
    ("content", "meaning"),
    [
        ({"5": "vertebrae_L1", "6": "sacrum"}, {"vertebrae_L1": (5,), "sacrum": (6,)}),
        ({"vertebrae_L1": 5, "sacrum": "6"}, {"vertebrae_L1": (5,), "sacrum": (6,)}),
        ({"labels": {"0": "background", "5": "vertebrae_L1"}, "modality": {"0": "CT"}}, {"vertebrae_L1": (5,)}),
        ({"labels": {"background": 0, "vertebrae_L1": 1, "ignore": 2}, "numTraining": 9}, {"vertebrae_L1": (1,)}),
        (
            {"labels": {"background": 0, "vertebrae_L1": [1, 2], "vertebra_L1_body": 2}, "regions_class_order": [1, 2]},
            {"vertebrae_L1": (1, 2), "vertebra_L1_body": (2,)},
        ),
        ({"1": "femur_left", "2": "femur_left"}, {"femur_left": (1, 2)}),
        ({"version": "x"}, None),
        ({"labels": [1, 2]}, None),
        ({"labels": {"background": 0, "ignore": True}}, None),
    ],
    ids=["numbers", "names", "nnU-Net 1", "nnU-Net 2", "regions", "one name twice", "no numbers", "a list", "nothing"],
)
def test_what_a_json_file_says_of_a_label_map(content: dict, meaning: dict | None) -> None:
    assert numbers_by_name(content) == meaning
