"""Left and right can only be told by what is not bone: the liver."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.ingest import find_studies, load_volume
from pipeline.segmentation.sampling import body_mask, resample_isotropic
from pipeline.segmentation.spine.canal import Canal, find_canal
from pipeline.segmentation.spine.sides import sides_findings, surplus_on_the_left_cm2
from pipeline.volume import Grid

EDGE_MM = 2.0
GRID = Grid((60, 100, 160), np.array([[0, 0, 2, -159.0], [0, 2, 0, -100.0], [2, 0, 0, 0], [0, 0, 0, 1.0]]))


def trunk(right_cm: float, left_cm: float) -> tuple[np.ndarray, Canal]:
    """Fat with a solid block on each side, 10 cm deep and so wide, in front of a canal that runs straight up."""
    hu = np.full(GRID.shape, -100.0, np.float32)
    middle, near = 80, 20  # the blocks begin 4 cm from the middle
    for width_cm, side in ((right_cm, -1), (left_cm, 1)):
        a, b = middle + side * near, middle + side * (near + round(width_cm * 10 / EDGE_MM))
        hu[:, 10:60, min(a, b) : max(a, b)] = 60.0
    index = np.stack([np.arange(60.0), np.full(60, 85.0), np.full(60, 80.0)], axis=1)
    return hu, Canal(GRID.to_lps(index), np.full(60, 0.8), True)


def test_the_surplus_is_the_difference_of_the_cross_sections() -> None:
    hu, canal = trunk(10.0, 4.0)
    surplus = surplus_on_the_left_cm2(hu, GRID, canal)
    # A rim of some 6 mm of each block is not solid all around.
    assert surplus == pytest.approx(np.full(len(surplus), -(10.0 - 4.0) * 8.8), rel=0.1)


@pytest.mark.parametrize(
    ("right_cm", "left_cm", "doubtful"),
    [(11.0, 3.0, False), (3.0, 11.0, True), (6.0, 6.0, False), (0.0, 3.0, False), (0.0, 0.0, False)],
    ids=["liver on the right", "liver on the left", "alike", "a spleen", "fat alone"],
)
def test_a_liver_on_the_left_makes_the_sides_doubtful(right_cm: float, left_cm: float, doubtful: bool) -> None:
    hu, canal = trunk(right_cm, left_cm)
    assert [f.code for f in sides_findings(hu, GRID, canal)] == (["sides_doubtful"] if doubtful else [])


def test_a_large_organ_on_each_side_at_other_heights_decides_nothing() -> None:
    hu, canal = trunk(0.0, 11.0)
    hu[30:] = trunk(11.0, 0.0)[0][30:]
    assert sides_findings(hu, GRID, canal) == []


def test_without_a_canal_nothing_is_said() -> None:
    hu, canal = trunk(0.0, 11.0)
    assert sides_findings(hu, GRID, replace(canal, points_lps_mm=np.zeros((0, 3)))) == []


@pytest.mark.realdata
@pytest.mark.parametrize("case", ["ts_example_3mm", "crlm1006_abdomen_5mm", "cptac00189_lungbases_5mm"])
def test_real_abdomens_and_their_mirror_images(real_data, case: str) -> None:
    volume = load_volume(find_studies([real_data(case) / "ct.nii.gz"]).studies[0].stacks[0])
    hu, grid = resample_isotropic(volume, 4.0, threads=1)
    for array, expected in ((hu, []), (np.ascontiguousarray(hu[:, :, ::-1]), ["sides_doubtful"])):
        canal = find_canal(array, grid, body_mask(array, grid), threads=1)
        assert canal.trusted
        assert [f.code for f in sides_findings(array, grid, canal)] == expected
