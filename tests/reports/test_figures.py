"""Pictures: true to scale, capped in size, and honest about what they show."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from numpy.typing import NDArray

import reports.figures
import reports.figures_charts
from pipeline.reference_population import reference_population
from reports.evidence import (
    Evidence,
    FieldCut,
    HipView,
    Label,
    Outline,
    SliceView,
    VertebraCrop,
    femur_view,
    spine_views,
)
from reports.figures import MAX_PIXELS, Picture, as_picture, draw_fields, draw_hips, draw_spine, draw_vertebra_strip
from reports.figures_charts import (
    _first_reach,
    _spread,
    draw_calibration,
    draw_density_profile,
    draw_force_displacement,
    draw_reference_population,
)
from reports.language.phrases import phrases_of
from reports.pictures import draw_pictures
from reports.record import StudyRecord
from tests.reports.example_records import example_record


def pixels(png: bytes) -> NDArray:
    return np.asarray(imread(io.BytesIO(png)))


def scoliotic_spine() -> tuple[NDArray, NDArray, dict[int, str]]:
    """Three bright cubes that wander to the left and to the back on their way up, on a 2 x 1 x 1 mm grid."""
    hu = np.full((60, 80, 80), 40.0)
    labels = np.zeros(hu.shape, np.uint8)
    names = {22: "vertebra_L3", 21: "vertebra_L2", 20: "vertebra_L1", 26: "sacrum"}
    for step, label in enumerate((22, 21, 20)):
        k, j, i = 12 + 16 * step, 30 + 8 * step, 25 + 14 * step
        box = (slice(k, k + 10), slice(j, j + 20), slice(i, i + 20))
        hu[box], labels[box] = 300.0, label
    labels[2:6, 30:40, 30:40] = 26
    return hu, labels, names


def test_views_follow_a_crooked_spine() -> None:
    hu, labels, names = scoliotic_spine()
    sagittal, coronal = spine_views(hu, labels, names, (2.0, 1.0, 1.0), margin_mm=10.0)
    for view in (sagittal, coronal):
        assert [label.text for label in view.labels] == ["L1", "L2", "L3"]  # head on top, no sacrum
        assert sorted(outline.name for outline in view.outlines) == ["vertebra_L1", "vertebra_L2", "vertebra_L3"]
        assert view.pixel_mm == (2.0, 1.0)
        for outline in view.outlines:
            assert outline.mask is not None
            assert outline.mask.sum() == 10 * 20  # the whole middle of each body, wherever it stands
            assert view.image[outline.mask].min() > 250
        for label in view.labels:
            mask = next(o.mask for o in view.outlines if o.name.endswith(label.text))
            assert mask is not None
            assert mask[round(label.row), round(label.column)]


def test_six_points_land_on_their_body() -> None:
    hu, labels, names = scoliotic_spine()
    corner = np.array([[12.0, 30.0, 35.0]])  # lower front of L3
    sagittal, _ = spine_views(hu, labels, names, (2.0, 1.0, 1.0), six_points=corner, margin_mm=10.0)
    mask = next(o.mask for o in sagittal.outlines if o.name == "vertebra_L3")
    assert mask is not None
    rows, columns = np.nonzero(mask)
    assert sagittal.points.tolist() == [[rows.max(), columns.min()]]


def test_spine_without_vertebrae_is_refused() -> None:
    with pytest.raises(ValueError, match="no vertebra"):
        spine_views(np.zeros((4, 4, 4)), np.zeros((4, 4, 4), int), {26: "sacrum"}, (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="empty"):
        femur_view(np.zeros((4, 4, 4)), np.zeros((4, 4, 4), bool), (1.0, 1.0, 1.0), name="femur_left")


def test_coarse_slices_are_drawn_with_their_true_aspect() -> None:
    image = np.full((10, 60), -2000.0)  # 50 mm high, 60 mm wide
    image[:, 30:] = 2000.0
    shown = pixels(draw_spine(SliceView(image, (5.0, 1.0)), None).png)[..., :3].mean(axis=2)
    black = np.argwhere(shown < 0.02)
    white_right = np.argwhere(shown[black[:, 0].min() : black[:, 0].max(), :] > 0.98)
    height = np.ptp(black[:, 0]) + 1
    width = white_right[:, 1].max() - black[:, 1].min() + 1
    assert width / height == pytest.approx(60 / 50, rel=0.03)


def test_scale_bar_has_its_length_in_mm() -> None:
    picture = draw_spine(SliceView(np.full((100, 100), -2000.0), (1.0, 1.0)), None)
    shown = pixels(picture.png)[..., :3].mean(axis=2)
    black_row = np.flatnonzero((shown < 0.02).sum(axis=1) > 0.5 * shown.shape[1])
    lower = shown[black_row[0] : black_row[-1]]
    bar = max((row > 0.9).sum() for row in lower[-lower.shape[0] // 10 :])
    assert bar / lower.shape[1] == pytest.approx(0.20, abs=0.02)  # 20 mm of a view of 100 mm


def test_a_tall_picture_is_capped() -> None:
    crop = VertebraCrop(SliceView(np.zeros((20, 20)), (1.0, 1.0)), "L1")
    shown = pixels(draw_vertebra_strip([crop] * 120).png)
    assert shown.shape[0] * shown.shape[1] <= 1.01 * MAX_PIXELS


def test_every_picture_says_in_words_what_it_shows() -> None:
    mask = np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    view = SliceView(
        np.zeros((20, 20)), (1.0, 1.0), "CT", (Outline("vertebra_L1", mask=mask),), (Label("L1", 10.0, 10.0),)
    )  # fmt: skip
    region = Outline("femoral_neck", path=np.array([[2.0, 2.0], [8.0, 2.0], [8.0, 8.0]]), dashed=True)
    projection = SliceView(np.full((20, 20), 0.8), (1.0, 1.0), "projection", (region,), window=(0.9, 1.8))
    field = FieldCut(
        "femur_left", view, np.where(mask, 3.0, np.nan), "strain energy density", "kPa", "sideways fall", (0, 1)
    )
    crop = VertebraCrop(
        SliceView(np.zeros((20, 20)), (1.0, 1.0), points=np.array([[5, x] for x in (5, 9, 14)] * 2)), "L1"
    )
    evidence = Evidence(view, view, (crop,), (HipView("left", projection, view),), (field,))
    pictures = draw_pictures(example_record(), evidence)
    assert [p.id for p in pictures] == ["spine", "density", "vertebrae", "hips", "mechanics", "calibration", "curves"]
    words = {p.id: p.alt for p in pictures}
    assert "L1" in words["spine"]
    assert "femoral neck" in words["hips"]
    assert "sideways fall" in words["mechanics"]
    assert "L2 115 ± 6" in words["density"]
    assert "3180 ± 410 N" in words["curves"]
    assert "HU" in {p.id: p.caption for p in pictures}["spine"]
    assert all(p.png.startswith(b"\x89PNG") and 20 < p.width_mm <= 180 for p in pictures)
    assert b"P0007" not in b"".join(p.png for p in pictures)


def test_right_is_left_of_left_as_the_patient_is_seen() -> None:
    view = SliceView(np.zeros((60, 40)), (1.0, 1.0), "CT")
    assert draw_hips([HipView("left", coronal=view), HipView("right", coronal=view)]).alt.startswith("right and left")
    cuts = [FieldCut(f"femur_{side}", view, np.ones((60, 40)), "stress", "MPa", "fall") for side in ("left", "right")]
    assert draw_fields(cuts).alt.endswith("femur_right (fall); femur_left (fall).")


def drawn(monkeypatch: pytest.MonkeyPatch, module: object, draw: Callable[[], object]) -> Figure:
    """The figure that `draw` hands over to be saved."""
    kept: list[Figure] = []

    def keep(figure: Figure, name: str, **about: Any) -> Picture:
        kept.append(figure)
        return as_picture(figure, name, **about)

    monkeypatch.setattr(module, "as_picture", keep)
    draw()
    return kept[0]


def test_headings_stay_within_their_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    body, hip = (SliceView(np.zeros(shape), (1.0, 1.0)) for shape in ((48, 55), (140, 85)))
    load = "compression of the end plates"
    cuts = [FieldCut("vertebra_L1", body, np.ones((48, 55)), "strain energy density", "kPa", load)]
    cuts += [
        FieldCut(f"femur_{side}", hip, np.ones((140, 85)), "strain energy density", "kPa", "fall to the side")
        for side in ("left", "right")
    ]
    figure = drawn(monkeypatch, reports.figures, partial(draw_fields, cuts))
    figure.draw_without_rendering()
    headings = [(text, axis) for axis in figure.axes for text in axis.texts if "mm" not in text.get_text()]
    words = [text.get_text().replace("\n", " ") for text, _ in headings if text.get_text()]
    assert words[:4] == ["L1: CT", "L1, load: compression", "R femur: CT", "R femur, load: fall to the side"]
    for text, axis in headings:
        if text.get_text():
            box = text.get_window_extent()
            assert box.x1 <= axis.bbox.x1 + 1
            assert box.y1 <= figure.bbox.y1


def test_the_legend_hides_no_curve_and_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    strength = next(f.strength_n for f in example_record().femora if f.strength_n is not None)
    for count in (2, 15):
        tests = [("Right femur" if i == 0 else f"T{i}", strength) for i in range(count)]
        figure = drawn(monkeypatch, reports.figures_charts, partial(draw_force_displacement, tests))
        figure.draw_without_rendering()
        axis = figure.axes[0]
        legend = axis.get_legend()
        assert legend is not None
        box = legend.get_window_extent()
        assert box.x0 >= axis.bbox.x1
        assert box.x1 <= figure.bbox.x1
        assert box.y0 >= 0
        assert axis.bbox.width > 0.3 * figure.bbox.width


def test_nothing_to_show_is_no_picture() -> None:
    empty = example_record(vertebrae=(), femora=(), calibration=None)
    assert draw_pictures(empty, Evidence()) == ()
    assert draw_density_profile(()) is None
    assert draw_force_displacement([]) is None


def test_a_picture_is_the_same_every_time() -> None:
    calibration = example_record().calibration
    assert calibration is not None
    assert draw_calibration(calibration).png == draw_calibration(calibration).png


@pytest.mark.parametrize("image", [np.zeros(3), np.zeros((2, 2, 2))])
def test_a_view_is_two_dimensional(image: NDArray) -> None:
    with pytest.raises(ValueError, match="2-D"):
        SliceView(image, (1.0, 1.0))


def test_masks_and_fields_must_fit_their_image() -> None:
    with pytest.raises(ValueError, match="mask of femur_left"):
        SliceView(np.zeros((4, 4)), (1.0, 1.0), outlines=(Outline("femur_left", mask=np.zeros((3, 4), bool)),))
    with pytest.raises(ValueError, match="field of shape"):
        FieldCut("x", SliceView(np.zeros((4, 4)), (1.0, 1.0)), np.zeros((3, 3)), "strain", "1")
    with pytest.raises(ValueError, match="pixel size"):
        SliceView(np.zeros((4, 4)), (0.0, 1.0))
    with pytest.raises(ValueError, match="draw"):
        draw_hips([HipView("left")])


def test_drawing_needs_something_to_draw() -> None:
    for draw in (draw_fields, draw_vertebra_strip, draw_hips):
        with pytest.raises(ValueError, match="draw"):
            draw([])
    with pytest.raises(ValueError, match="draw"):
        draw_spine(None, None)


def test_strength_is_marked_on_its_curve_between_the_computed_points() -> None:
    linear = np.array([[0.0, 0.0], [4.0, 24000.0]])
    assert _first_reach(linear, 3000.0) == pytest.approx(0.5)
    softening = np.array([[0.0, 0.0], [1.0, 2000.0], [2.0, 3000.0], [3.0, 2500.0]])
    assert _first_reach(softening, 2500.0) == pytest.approx(1.5)
    assert _first_reach(softening, 3000.4) == pytest.approx(2.0)


def test_labels_of_near_points_are_moved_apart() -> None:
    places = _spread([10.0, 11.0, 50.0], [0.0, 1.0, 2.0], gap=5.0, near=10.0)
    assert places == [10.0, 15.0, 50.0]
    assert _spread([10.0, 11.0], [0.0, 100.0], gap=5.0, near=10.0) == [10.0, 11.0]


def against(sex: str, age: float | None) -> StudyRecord:
    record = example_record()
    assessment = record.assessment.model_copy(update={"reference_population": reference_population(sex)})
    study = record.study.model_copy(update={"patient_age_years": age})
    return record.model_copy(update={"assessment": assessment, "study": study})


def test_a_patient_is_shown_against_a_population_only_where_a_table_was_read() -> None:
    men = reference_population("M")
    assert men is not None
    # NHANES 2005-2008, total hip, men of 51 to 60 years, as quoted in PMC12995607, Table 3.
    assert next((g.mean, g.sd) for g in men.groups if g.from_age_years == 51) == (1.015, 0.142)
    assert reference_population("F") is None and reference_population(None) is None
    assert draw_reference_population(against("F", 66.0)) is None
    assert draw_reference_population(against("M", None)) is None
    picture = draw_reference_population(against("M", 66.0))
    assert picture is not None and "men" in picture.caption and "66 years" in picture.alt


def test_pictures_speak_the_language_of_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    phrases = phrases_of("de", ",")
    assert phrases is not None
    draw = partial(draw_reference_population, against("M", 66.0), said=phrases.said)
    figure = drawn(monkeypatch, reports.figures_charts, draw)
    figure.draw_without_rendering()
    written = [text.get_text() for text in figure.findobj(Text) if text.get_text()]
    assert "Alter (Jahre)" in written and "rechts" in written
    assert not any(re.fullmatch(r"\d+\.\d+", text) for text in written)
    assert any(re.fullmatch(r"\d+,\d+", text) for text in written)
