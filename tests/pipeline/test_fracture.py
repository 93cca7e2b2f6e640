"""Heights and grades of bodies whose heights are known exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import Severity
from pipeline.fracture import grade_vertebrae, norms
from pipeline.fracture.heights import measure_heights
from pipeline.measure import measure
from pipeline.segmentation.model import BodySurface, Segmentation, Vertebra
from tests.pipeline.analytic_bones import frame_at, grid_of, rotation, spine

NORMAL = {"T12": (24.0, 25.0, 26.0), "L1": (25.0, 25.8, 26.5), "L2": (26.5, 26.5, 27.0), "L3": (27.5, 27.0, 27.0)}


def shapes(heights, sex="F", **options):
    volume, segmentation = spine(heights, **options)
    return grade_vertebrae(volume, segmentation, sex=sex)


def with_surfaces(segmentation, heights, width_mm=44.0, depth_mm=34.0, noise_mm=0.0):
    """The same spine with endplates given as exact height fields instead of masks."""
    left, posterior = np.arange(-23.5, 24.0), np.arange(-18.5, 19.0)
    generator = np.random.default_rng(5)
    bodies = []
    for vertebra in segmentation.vertebrae:
        anterior, middle, back = heights[vertebra.level]
        place = posterior / (depth_mm / 2)
        height = middle + (back - anterior) / 2 * place + ((anterior + back) / 2 - middle) * place**2
        inside = (np.abs(left)[:, None] <= width_mm / 2) & (np.abs(posterior)[None] <= depth_mm / 2)
        upper = np.where(inside, height / 2, np.nan) + noise_mm * generator.standard_normal(inside.shape)
        lower = np.where(inside, -height / 2, np.nan) + noise_mm * generator.standard_normal(inside.shape)
        bodies.append(replace(vertebra, surface=BodySurface(left, posterior, upper, lower)))
    return replace(segmentation, vertebrae=tuple(bodies))


def expected_height(heights, position_mm, depth_mm=34.0):
    """The parabola through the three heights, at a place along the depth."""
    anterior, middle, posterior = heights
    place = position_mm / (depth_mm / 2)
    return middle + (posterior - anterior) / 2 * place + ((anterior + posterior) / 2 - middle) * place**2


def test_heights_of_exact_surfaces_are_exact():
    volume, segmentation = spine(NORMAL)
    result = grade_vertebrae(volume, with_surfaces(segmentation, NORMAL))
    inset = 34.0 / 2 - 2.5
    for level, heights in NORMAL.items():
        found = result[f"vertebra_{level}"].heights_mm
        for name, place in (("anterior", -inset), ("middle", 0.0), ("posterior", inset)):
            assert found[name].value == pytest.approx(expected_height(heights, place), abs=0.15)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.5, 0.8, 0.8)])
@pytest.mark.parametrize("turned", [(0, 0.0), (0, 14.0), (1, -10.0)])
def test_heights_from_masks_are_within_the_rounding_of_two_faces(spacing_mm, turned):
    result = shapes(NORMAL, spacing_mm=spacing_mm, turned=turned)
    inset = 34.0 / 2 - 2.5
    for level, heights in NORMAL.items():
        found = result[f"vertebra_{level}"].heights_mm
        for name, place in (("anterior", -inset), ("middle", 0.0), ("posterior", inset)):
            assert found[name].value == pytest.approx(expected_height(heights, place), abs=1.0 * spacing_mm[0])


def test_a_frame_that_is_tilted_by_mistake_is_set_right_for_masks():
    volume, segmentation = spine(NORMAL)
    turn = rotation(0, 12.0)
    wrong = tuple(
        replace(v, frame=replace(v.frame, posterior=turn @ v.frame.posterior, superior=turn @ v.frame.superior))
        for v in segmentation.vertebrae
    )
    result = grade_vertebrae(volume, replace(segmentation, vertebrae=wrong))
    assert all(shape.genant_grade == 0 for shape in result.values())
    assert result["vertebra_L1"].heights_mm["middle"].value == pytest.approx(25.8, abs=0.6)


def test_normal_spine_has_no_deformity():
    result = shapes(NORMAL)
    assert [s.genant_grade for s in result.values()] == [0, 0, 0, 0]
    assert [s.deformity for s in result.values()] == ["none"] * 4
    assert not any(s.flagged for s in result.values())


# Wedge loss is 1 - (Ha/Hp) / norm, with the norm of women at L1 = 0.94; heights at the points are chosen to give the loss.
@pytest.mark.parametrize(
    ("loss", "grade", "flagged"), [(0.10, 0, False), (0.225, 1, False), (0.32, 2, True), (0.48, 3, True)]
)
def test_wedge_of_known_loss_gets_its_genant_grade(loss, grade, flagged):
    posterior = 26.5
    anterior = posterior * 0.94 * (1 - loss)
    inset = 14.5 / 17.0
    # Heights at the edges of the block so that the points 2.5 mm inside read the wanted values.
    slope = (posterior - anterior) / (2 * inset)
    centre = (posterior + anterior) / 2
    heights = NORMAL | {"L1": (centre - slope, centre, centre + slope)}
    volume, segmentation = spine(heights)
    shape = grade_vertebrae(volume, with_surfaces(segmentation, heights), sex="F")["vertebra_L1"]
    assert shape.losses["wedge"] == pytest.approx(loss, abs=0.01)
    assert (shape.genant_grade, shape.flagged) == (grade, flagged)
    assert shape.deformity == ("wedge" if grade else "none")
    assert (
        max(shape.grade_probabilities, key=shape.grade_probabilities.get) == (grade if grade != 1 else 0) or grade == 1
    )
    assert sum(shape.grade_probabilities.values()) == pytest.approx(1.0)


def leaning_body(lean_deg: float, anterior_mm: float, posterior_mm: float, depth_mm: float = 34.0) -> BodySurface:
    """Endplates between upright walls, as a frame sees them that leans forward or back by so much."""
    turn = np.radians(lean_deg)
    left, posterior = np.arange(-20.0, 20.5), np.arange(-30.0, 30.1, 0.25)
    fields = []
    for side in (1.0, -1.0):
        place = np.linspace(-depth_mm / 2, depth_mm / 2, 400)
        height = side / 2 * (anterior_mm + (posterior_mm - anterior_mm) * (place / depth_mm + 0.5))
        across, up = np.cos(turn) * place + np.sin(turn) * height, -np.sin(turn) * place + np.cos(turn) * height
        field = np.interp(posterior, across, up, left=np.nan, right=np.nan)
        fields.append(np.repeat(field[None], left.size, axis=0))
    return BodySurface(left, posterior, *fields)


@pytest.mark.parametrize("lean_deg", [-6.0, -3.0, 4.0, 6.0])
@pytest.mark.parametrize("anterior_mm", [26.0, 19.0])
def test_heights_do_not_depend_on_a_frame_that_leans_against_the_walls(lean_deg, anterior_mm):
    _, segmentation = spine(NORMAL)
    body = segmentation.vertebrae[1]
    upright, leaning = (
        measure_heights(segmentation, replace(body, surface=leaning_body(lean, anterior_mm, 26.0))).middle.heights_mm
        for lean in (0.0, lean_deg)
    )
    # An upright frame that looked straight down from one face to the other would be off by 0.7 mm behind a wedge at 6 degrees.
    np.testing.assert_allclose(leaning, upright, atol=0.25)


def test_what_blur_takes_from_the_rim_takes_nothing_from_the_heights():
    volume, segmentation = spine(NORMAL)
    sharp = with_surfaces(segmentation, NORMAL)
    rounded = []
    for vertebra in sharp.vertebrae:
        surface = vertebra.surface
        to_rim = 17.0 - np.abs(surface.posterior_mm)
        lost = np.where(to_rim < 1.5, 0.4 * (1.5 - to_rim), 0.0)[None]
        rounded.append(
            replace(
                vertebra,
                surface=replace(surface, upper_mm=surface.upper_mm - lost, lower_mm=surface.lower_mm + lost),
            )
        )
    blurred = grade_vertebrae(volume, replace(sharp, vertebrae=tuple(rounded)))
    for name, shape in grade_vertebrae(volume, sharp).items():
        for part in ("anterior", "posterior"):
            assert blurred[name].heights_mm[part].value == pytest.approx(shape.heights_mm[part].value, abs=0.05)


@pytest.mark.parametrize("loss", [0.0, 0.22, 0.32])
def test_the_concavity_of_neighbours_is_expected_of_a_body_wedged_as_its_level_is(loss):
    # All with a middle of 0.93 of the mean of front and back; L5 is higher in front, so its middle is 1.01 of the back.
    ends = {"L2": (26.5, 27.0), "L3": (27.4, 27.0), "L4": (28.4, 26.6), "L5": (29.9, 25.4)}
    heights = {level: (a, 0.93 * (a + p) / 2, p) for level, (a, p) in ends.items()}
    heights["L5"] = (29.9, 0.93 * (29.9 + 25.4) / 2 * (1 - loss), 25.4)
    volume, segmentation = spine(heights)
    shape = grade_vertebrae(volume, with_surfaces(segmentation, heights), sex="F")["vertebra_L5"]
    # At the points, 2.5 mm inside the rim; the norm of women at L5 is 1.18 in front for 1 behind.
    points = {level: [expected_height(h, place) for place in (-14.5, 0.0, 14.5)] for level, h in heights.items()}
    concavity = np.median([m / ((a + p) / 2) for level, (a, m, p) in points.items() if level != "L5"])
    _, middle, back = points["L5"]
    assert shape.losses["biconcave"] == pytest.approx(1 - middle / back / (concavity * (1 + 1.18) / 2), abs=0.01)
    assert shape.genant_grade == {0.0: 0, 0.22: 0, 0.32: 2}[loss]


def test_biconcave_body_is_named():
    heights = NORMAL | {"L2": (26.5, 17.0, 27.0)}
    shape = shapes(heights)["vertebra_L2"]
    assert (shape.deformity, shape.flagged) == ("biconcave", True)


def test_crushed_body_is_seen_against_its_neighbours():
    heights = {"T11": (24.0, 24.5, 25.0)} | NORMAL | {"L1": (15.5, 16.0, 16.5)}
    shape = shapes(heights)["vertebra_L1"]
    assert (shape.deformity, shape.flagged) == ("crush", True)
    # Expected from the neighbours' trend: about 26.5 mm.
    assert shape.losses["crush"] == pytest.approx(1 - 16.5 / 26.5, abs=0.05)


def test_a_fractured_neighbour_does_not_lower_the_expectation():
    heights = {"T11": (24.0, 24.5, 25.0)} | NORMAL | {"L1": (12.0, 12.5, 13.0)}
    result = shapes(heights)
    assert result["vertebra_L2"].genant_grade == 0
    assert result["vertebra_T12"].genant_grade == 0


def test_normal_lordotic_l5_is_no_deformity():
    heights = NORMAL | {"L4": (28.0, 26.8, 26.5), "L5": (29.6, 27.2, 25.5)}
    assert shapes(heights)["vertebra_L5"].genant_grade == 0


def test_unknown_levels_are_compared_with_neighbours_only():
    volume, segmentation = spine(NORMAL, levels_known=False)
    result = grade_vertebrae(volume, segmentation)
    assert all("level_unknown_norm" in {f.code for f in s.findings} for s in result.values())
    assert all(s.genant_grade == 0 for s in result.values())


def test_a_local_depression_is_not_flagged_as_fracture():
    volume, segmentation = spine(NORMAL)
    segmentation = with_surfaces(segmentation, NORMAL)
    body = segmentation.vertebrae[2]
    upper = body.surface.upper_mm.copy()
    near_midline = np.abs(body.surface.left_mm) <= 4
    upper[near_midline] -= 9.0 * np.exp(-((body.surface.posterior_mm / 5.0) ** 2))
    dented = replace(body, surface=replace(body.surface, upper_mm=upper))
    bodies = (*segmentation.vertebrae[:2], dented, *segmentation.vertebrae[3:])
    shape = grade_vertebrae(volume, replace(segmentation, vertebrae=bodies))[body.name]
    assert shape.losses["biconcave"] > 0.25 and not shape.flagged and shape.genant_grade == 1
    assert "deformity_not_corroborated" in {f.code for f in shape.findings}


def test_a_cut_body_gets_no_heights_but_a_reason():
    volume, segmentation = spine(NORMAL)
    bodies = (replace(segmentation.vertebrae[0], complete=False), *segmentation.vertebrae[1:])
    shape = grade_vertebrae(volume, replace(segmentation, vertebrae=bodies))["vertebra_T12"]
    assert shape.heights_mm is None and shape.genant_grade is None
    assert [f.code for f in shape.findings] == ["cut_by_field_of_view"]


def test_an_empty_mask_gets_no_heights_but_a_reason():
    volume, segmentation = spine(NORMAL)
    labels = np.where(segmentation.labels == segmentation.vertebrae[0].label, 0, segmentation.labels).astype(np.uint8)
    shape = grade_vertebrae(volume, replace(segmentation, labels=labels))["vertebra_T12"]
    assert [f.code for f in shape.findings] == ["empty_mask"]


def test_an_endplate_in_the_outermost_slice_counts_as_cut():
    volume, segmentation = spine({"L1": NORMAL["L1"]})
    body = replace(with_surfaces(segmentation, NORMAL).vertebrae[0])
    lifted = replace(body, frame=replace(body.frame, centre_lps_mm=np.array([0.0, 0.0, 16.0])))
    shape = grade_vertebrae(volume, replace(segmentation, vertebrae=(lifted,)))["vertebra_L1"]
    assert [f.code for f in shape.findings] == ["cut_by_field_of_view"]


def test_very_thick_slices_are_refused_and_thick_ones_marked():
    thin_body = {"T5": (13.0, 13.0, 14.0), "T6": (13.0, 13.0, 14.0)}
    assert "too_thin_for_morphometry" in {
        f.code for f in shapes(thin_body, spacing_mm=(5.0, 1.0, 1.0))["vertebra_T5"].findings
    }
    thick = shapes(NORMAL, spacing_mm=(5.0, 1.0, 1.0))["vertebra_L1"]
    assert "thick_slices_heights" in {f.code for f in thick.findings}
    assert thick.heights_mm["middle"].uncertainty > shapes(NORMAL)["vertebra_L1"].heights_mm["middle"].uncertainty * 3


def exact_surfaces(loss_heights, spacing_mm):
    volume, segmentation = spine(loss_heights, spacing_mm=spacing_mm)
    return volume, with_surfaces(segmentation, loss_heights)


def test_in_slices_too_thick_for_a_grade_heights_stay_and_no_grade_is_given():
    heights = NORMAL | {"L1": (15.0, 20.0, 26.5)}
    graded = grade_vertebrae(*exact_surfaces(heights, (3.0, 1.0, 1.0)))["vertebra_L1"]
    assert graded.genant_grade >= 2 and graded.deformity == "wedge"
    for spacing_mm in (4.0, 5.0):
        for name, shape in grade_vertebrae(*exact_surfaces(heights, (spacing_mm, 1.0, 1.0))).items():
            assert shape.heights_mm is not None and shape.height_loss is not None
            assert (shape.genant_grade, shape.deformity, shape.grade_probabilities) == (None, None, {})
            (reason,) = (f for f in shape.findings if f.severity is Severity.FAILURE)
            assert reason.code == "thick_slices_no_grade"
            assert f"{spacing_mm:.1f} mm high along its axis; a grade needs 3 mm or less" in reason.text
            assert not {"vertebral_deformity", "possible_deformity"} & {f.code for f in shape.findings}
            assert shape.flagged == (name == "vertebra_L1")


@pytest.mark.parametrize(("slice_mm", "least_mm"), [(3.0, 0.84), (5.0, 1.8)])
def test_slices_thicker_than_a_disc_is_high_widen_what_is_stated_of_heights(slice_mm, least_mm):
    volume, segmentation = spine(NORMAL, spacing_mm=(slice_mm, 1.0, 1.0))
    shape = grade_vertebrae(volume, with_surfaces(segmentation, NORMAL))["vertebra_L1"]
    for height in shape.heights_mm.values():
        assert least_mm <= height.uncertainty < 1.35 * least_mm


def test_a_tilted_body_in_slices_of_three_millimetres_still_gets_a_grade():
    assert all(s.genant_grade == 0 for s in shapes(NORMAL, spacing_mm=(3.0, 0.8, 0.8), turned=(0, 14.0)).values())


@pytest.mark.parametrize("strength", [False, True])
def test_a_record_without_grade_says_why_and_a_suspected_fracture_gets_no_density(strength):
    heights = NORMAL | {"L1": (15.0, 20.0, 26.5)}
    volume, segmentation = exact_surfaces(heights, (5.0, 1.0, 1.0))
    collapsed = tuple(v for v in segmentation.vertebrae if v.level == "L1" or not strength)
    shape = grade_vertebrae(volume, segmentation)["vertebra_L1"]
    assert shape.flagged
    result = measure(volume, replace(segmentation, vertebrae=collapsed), calibration_choice="kvp", strength=strength)
    parts = {part.name: part for part in result.vertebrae}
    for part in parts.values():
        assert part.heights_mm is not None and "heights_mm" not in part.not_measured
        assert part.fracture is None and part.not_measured["fracture"].code == "thick_slices_no_grade"
        assert part.status == "warning"
    suspected = parts["vertebra_L1"].not_measured
    if strength:
        assert {suspected[key].code for key in ("vbmd_mg_cm3", "strength_n")} == {"suspected_fracture"}
    else:
        assert suspected["vbmd_mg_cm3"].code == "suspected_fracture"
        assert parts["vertebra_L2"].vbmd_mg_cm3 is not None


@settings(max_examples=25, deadline=None)
@given(
    anterior=st.floats(14.0, 30.0),
    middle=st.floats(14.0, 30.0),
    posterior=st.floats(20.0, 30.0),
    noise_mm=st.floats(0.0, 0.3),
)
def test_grade_follows_from_the_largest_loss_and_probabilities_are_probabilities(anterior, middle, posterior, noise_mm):
    heights = NORMAL | {"L1": (anterior, middle, posterior)}
    volume, segmentation = EXAMPLE
    result = grade_vertebrae(volume, with_surfaces(segmentation, heights, noise_mm=noise_mm))
    for shape in result.values():
        if shape.height_loss is None:
            continue
        assert shape.height_loss.value == pytest.approx(max(shape.losses.values()))
        assert sum(shape.grade_probabilities.values()) == pytest.approx(1.0)
        assert shape.flagged == (shape.genant_grade >= 2)
        if shape.genant_grade == 0:
            assert shape.height_loss.value < norms.grade_limits().possible_from


EXAMPLE = spine(NORMAL)


def test_stated_uncertainty_of_heights_covers_the_truth():
    """Rounding of masks: over many sub-voxel positions, height errors in units of the stated uncertainty have SD below 1.3."""
    errors = []
    for tilt in np.linspace(0, 12, 4):
        volume, segmentation = spine(NORMAL, spacing_mm=(2.0, 1.0, 1.0), turned=(0, float(tilt)))
        for name, shape in grade_vertebrae(volume, segmentation).items():
            true = NORMAL[name.removeprefix("vertebra_")]
            for position, place in (("anterior", -14.5), ("middle", 0.0), ("posterior", 14.5)):
                quantity = shape.heights_mm[position]
                errors.append((quantity.value - expected_height(true, place)) / quantity.uncertainty)
    assert 0.1 < np.sqrt(np.mean(np.square(errors))) < 1.3


@pytest.mark.parametrize("tilt_deg", [0.0, 14.0])
@pytest.mark.parametrize("shape", ["box", "cylinder"])
def test_heights_of_masks_of_voxel_centres_are_unbiased_and_within_their_uncertainty(shape, tilt_deg):
    """A solid of known height in ten positions spread evenly over one slice of an anisotropic grid."""
    height_mm, spacing_mm, slices = 25.3, (2.5, 1.0, 1.0), 10
    errors, stated = [], []
    for step in range(slices):
        grid = grid_of((45.0, 56.0, 60.0), spacing_mm)
        centre = np.array([0.31, -0.17, ((step + 0.5) / slices - 0.5) * spacing_mm[0]])
        frame = frame_at(centre, rotation(0, tilt_deg))
        index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1).astype(float)
        u, v, w = np.moveaxis(frame.to_frame(grid.to_lps(index)), -1, 0)
        round_ = (u / 22) ** 2 + (v / 17) ** 2 <= 1 if shape == "cylinder" else (np.abs(u) <= 22) & (np.abs(v) <= 17)
        labels = np.where(round_ & (np.abs(w) <= height_mm / 2), 20, 0).astype(np.uint8)
        body = Vertebra("vertebra_L1", "L1", 20, frame, None, 44.0, 34.0, 1.0)
        slab = measure_heights(Segmentation(labels, grid, (body,)), body).middle
        errors.append(slab.heights_mm - height_mm)
        stated.append(slab.uncertainty_mm)
    assert np.abs(np.mean(errors, axis=0)).max() < 0.15 * spacing_mm[0]
    assert np.sqrt(np.mean(np.square(errors))) < np.mean(stated)
    # Half a voxel along the axis for each endplate.
    along_axis = spacing_mm[0] * np.cos(np.radians(tilt_deg)) + spacing_mm[1] * np.sin(np.radians(tilt_deg))
    assert np.min(stated) > 0.95 * np.sqrt(2) * 0.5 * along_axis


@pytest.mark.parametrize("spacing_mm", [(1.5, 0.8, 0.8), (3.0, 0.8, 0.8)])
def test_stated_uncertainty_of_heights_covers_a_mask_drawn_a_fifth_of_a_voxel_too_large(spacing_mm):
    margin_mm = 0.2 * spacing_mm[0]
    larger = {level: tuple(h + 2 * margin_mm for h in heights) for level, heights in NORMAL.items()}
    volume, segmentation = spine(larger, spacing_mm=spacing_mm, turned=(0, 8.0))
    ratios = []
    for name, shape in grade_vertebrae(volume, segmentation).items():
        true = NORMAL[name.removeprefix("vertebra_")]
        for position, place in (("anterior", -14.5), ("middle", 0.0), ("posterior", 14.5)):
            quantity = shape.heights_mm[position]
            ratios.append((quantity.value - expected_height(true, place)) / quantity.uncertainty)
    assert np.sqrt(np.mean(np.square(ratios))) < 1.0


def test_norms_are_the_published_ones():
    assert norms.anterior_to_posterior("L1", "F").value == 0.94
    assert norms.anterior_to_posterior("L1", "M").value == 0.91
    assert norms.anterior_to_posterior("L1", None).value == pytest.approx(0.925)
    assert norms.anterior_to_posterior("T5", "F") is None
    assert not norms.middle_to_posterior("T5").verified


def test_voxels_of_three_millimetres_in_all_directions_are_fine_enough_in_any_direction():
    shape = shapes(NORMAL, spacing_mm=(3.0, 3.0, 3.0), turned=(0, 20.0))["vertebra_L1"]
    assert "thick_slices_no_grade" not in {finding.code for finding in shape.findings}
