"""The chart of density by level: which levels make up the mean, and which stand out."""

from __future__ import annotations

import pytest
from matplotlib.axes import Axes

import reports.figures_charts
from reports.figures import BLUE, VERMILION
from reports.figures_charts import draw_density_profile
from reports.language import load_language
from reports.language.phrases import phrases_in
from tests.reports.example_records import example_record


def drawn(monkeypatch: pytest.MonkeyPatch, **marks: object) -> tuple[Axes, str]:
    """Axes and caption of the chart of the example record."""
    figures = []
    lay_out = reports.figures_charts._fit

    def keep(figure: object, axis: Axes) -> None:
        figures.append(axis)
        lay_out(figure, axis)  # type: ignore[arg-type]

    monkeypatch.setattr(reports.figures_charts, "_fit", keep)
    picture = draw_density_profile(example_record().vertebrae, **marks)  # type: ignore[arg-type]
    assert picture is not None
    return figures[0], picture.caption


def markers(axis: Axes) -> dict[str, tuple[str, str, str]]:
    """Marker, edge and face of the point above each level that has one."""
    names = {
        round(tick): label.get_text() for tick, label in zip(axis.get_xticks(), axis.get_xticklabels(), strict=True)
    }
    lines = [bar.lines[0] for bar in axis.containers]
    return {
        names[round(float(line.get_xdata()[0]))]: (line.get_marker(), line.get_color(), line.get_markerfacecolor())
        for line in lines
    }


def test_levels_of_the_mean_are_filled_and_an_outlier_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = [v.level for v in example_record().vertebrae if v.vbmd_mg_cm3 is not None]
    assert len(measured) >= 2
    first, last = measured[0], measured[-1]
    axis, caption = drawn(monkeypatch, mean_of=(first,), outliers=(last,))
    points = markers(axis)
    assert points[first] == ("o", BLUE, BLUE)
    assert points[last] == ("D", VERMILION, "white")
    assert "!" in [text.get_text() for text in axis.texts]
    assert f"the mean is of {first}" in caption and f"trend of the other levels ({last})" in caption
    german = phrases_in(load_language("de"))
    assert german is not None and "neben dem Verlauf" in german.said(caption) and "Gefüllt" in german.said(caption)


def test_without_marks_all_points_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    axis, caption = drawn(monkeypatch)
    assert set(markers(axis).values()) == {("o", BLUE, BLUE)}
    assert "Diamond" not in caption and "Filled" not in caption
