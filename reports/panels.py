"""Panels of a picture: images to scale with outlines, names and a scale bar, laid out in rows.

Every picture keeps the same habits: true aspect of the pixels, one scale for all panels, a scale bar in mm, a
fixed grey scale that is written under it, thin outlines with a name beside each, colours that colour-blind readers can tell
apart and that stay legible in grey. Nothing in a picture names the patient.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import find_contours

from reports.evidence import Label, SliceView
from reports.figures_output import DPI, MM_PER_INCH
from reports.quantity import MINUS

PAGE_WIDTH_MM = 178.0

ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
"""The colours of Okabe and Ito, which readers with any of the common colour deficiencies can tell apart."""
INK = "#222222"
SMALL_PT, TEXT_PT = 6.5, 7.5
_REGION_PT = 5.5
_WIDEST_PROJECTION = 20.0
"""A grey scale that is not wider is one of areal density in g/cm2, not of HU."""
LINE_MM = 3.0
"""Height of a further line of a heading."""
_OUTLINE_COLOURS = (ORANGE, SKY, YELLOW)
_REGION_COLOURS = {"femoral_neck": ORANGE, "trochanter": SKY, "intertrochanter": YELLOW, "total_hip": "#FFFFFF"}
_GAP_MM, _HEADING_MM = 3.0, 5.5
_PT_PER_INCH = 72.0
_LARGEST_SCALE = 0.75
"""Millimetres on paper for one of the patient: a small crop is not blown up."""


def new_figure(width_mm: float, height_mm: float) -> Figure:
    figure = Figure(figsize=(width_mm / MM_PER_INCH, height_mm / MM_PER_INCH), facecolor="white", dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def panels_in_a_row(
    views: Sequence[SliceView], headings: Sequence[str], *, max_height_mm: float
) -> tuple[Figure, list[Axes]]:
    """A figure with the views in a row, all at one scale (mm of the patient per mm of paper)."""
    if not views:
        raise ValueError("no view to draw")
    heights = [view.image.shape[0] * view.pixel_mm[0] for view in views]
    widths = [view.image.shape[1] * view.pixel_mm[1] for view in views]
    free = PAGE_WIDTH_MM - _GAP_MM * (len(views) - 1)
    scale = min(free / sum(widths), max_height_mm / max(heights), _LARGEST_SCALE)
    sizes = [(scale * w, scale * h) for w, h in zip(widths, heights, strict=True)]
    return laid_out([sizes], [headings], bottom_mm=1.0)


def equally_high(views: Sequence[SliceView], highest_mm: float) -> list[tuple[float, float]]:
    """Width and height in mm of views of one height that fill a row of the page, but are not higher than the limit."""
    aspects = [v.image.shape[1] * v.pixel_mm[1] / (v.image.shape[0] * v.pixel_mm[0]) for v in views]
    height = min(highest_mm, (PAGE_WIDTH_MM - _GAP_MM * (len(views) - 1)) / sum(aspects))
    return [(aspect * height, height) for aspect in aspects]


def laid_out(
    rows: Sequence[Sequence[tuple[float, float]]], headings: Sequence[Sequence[str]], *, bottom_mm: float
) -> tuple[Figure, list[Axes]]:
    """A figure just large enough for panels of the given (width, height) in mm, with room for a heading above each row."""
    width_mm = max(sum(w for w, _ in row) + _GAP_MM * (len(row) - 1) for row in rows)
    tops_mm = [
        max(
            _HEADING_MM + LINE_MM * wrapped(words, width).count("\n")
            for words, (width, _) in zip(line, row, strict=True)
        )
        for line, row in zip(headings, rows, strict=True)
    ]
    height_mm = sum(max(h for _, h in row) + top + bottom_mm for row, top in zip(rows, tops_mm, strict=True))
    figure = new_figure(width_mm, height_mm)
    axes, base = [], height_mm
    for row, top in zip(rows, tops_mm, strict=True):
        highest = max(h for _, h in row)
        base -= highest + top + bottom_mm
        left = 0.0
        for width, height in row:  # their upper edges in line, and so their headings
            lower = base + bottom_mm + highest - height
            place = (left / width_mm, lower / height_mm, width / width_mm, height / height_mm)
            axes.append(figure.add_axes(place))
            left += width + _GAP_MM
    return figure, axes


def wrapped(words: str, width_mm: float) -> str:
    """A heading in as many lines as its panel is too narrow for."""
    lines: list[str] = []
    for word in words.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _text_width_mm(longer) <= width_mm:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def _text_width_mm(words: str) -> float:
    width_pt = TextPath((0.0, 0.0), words, size=TEXT_PT).get_extents().width
    return float(width_pt) * MM_PER_INCH / _PT_PER_INCH


def extent_mm(view: SliceView) -> tuple[float, float, float, float]:
    (rows, columns), (row_mm, column_mm) = view.image.shape, view.pixel_mm
    return (-0.5 * column_mm, (columns - 0.5) * column_mm, (rows - 0.5) * row_mm, -0.5 * row_mm)


def draw_view(
    axis: Axes,
    view: SliceView,
    *,
    heading: str | None = None,
    bar: bool = True,
    titled: bool = True,
    dimmed: bool = False,
    sides: bool = True,
) -> None:
    """Image, outlines, names, points, sides and scale bar; `dimmed` shows the image paler, as a ground for a map."""
    centre, width = view.window
    shown = np.ma.masked_invalid(np.asarray(view.image, dtype=float))
    axis.imshow(
        shown,
        cmap="gray",
        vmin=centre - width / 2,
        vmax=centre + width / 2,
        extent=extent_mm(view),
        interpolation="bilinear",
        alpha=0.35 if dimmed else None,
    )
    axis.set_axis_off()
    axis.set_xlim(*extent_mm(view)[:2])
    axis.set_ylim(*extent_mm(view)[2:])
    if not dimmed:
        _draw_outlines(axis, view)
        for label in view.labels:
            _draw_label(axis, view, label)
        if len(view.points):
            x, y = view.points[:, 1] * view.pixel_mm[1], view.points[:, 0] * view.pixel_mm[0]
            axis.plot(x, y, "o", markersize=1.6, markerfacecolor="white", markeredgecolor="black", markeredgewidth=0.4)
        if sides:
            _draw_sides(axis, view.sides)
    if bar:
        _draw_scale_bar(axis, view)
    if titled:
        words = heading if heading is not None else view.title
        words = wrapped(words, axis.bbox.width / DPI * MM_PER_INCH)
        axis.text(0.0, 1.01, words, transform=axis.transAxes, fontsize=TEXT_PT, color=INK, va="bottom", ha="left",
                  linespacing=1.05)  # fmt: skip


def _draw_outlines(axis: Axes, view: SliceView) -> None:
    for number, outline in enumerate(view.outlines):
        colour = _REGION_COLOURS.get(outline.name, _OUTLINE_COLOURS[number % len(_OUTLINE_COLOURS)])
        for path in _paths(outline.mask, outline.path):
            axis.plot(
                path[:, 1] * view.pixel_mm[1],
                path[:, 0] * view.pixel_mm[0],
                color=colour,
                linewidth=0.8,
                linestyle=(0, (4, 2)) if outline.dashed else "-",
                path_effects=[patheffects.Stroke(linewidth=1.5, foreground="black", alpha=0.55), patheffects.Normal()],
            )


def _paths(mask: NDArray[np.bool_] | None, path: NDArray[np.float64] | None) -> list[NDArray[np.float64]]:
    if path is not None:
        return [np.asarray(path, dtype=float)]
    if mask is None:
        return []
    soft = ndimage.gaussian_filter(
        np.pad(mask.astype(float), 2), 0.7
    )  # rounds the steps of voxels, keeps the place of the edge
    return [found - 2.0 for found in find_contours(soft, 0.5)]


def _draw_label(axis: Axes, view: SliceView, label: Label) -> None:
    axis.text(
        label.column * view.pixel_mm[1],
        label.row * view.pixel_mm[0],
        label.text,
        color="white",
        fontsize=TEXT_PT if view.window[1] > _WIDEST_PROJECTION else _REGION_PT,
        ha="center",
        va="center",
        path_effects=[patheffects.withStroke(linewidth=1.6, foreground="black")],
    )


def _draw_sides(axis: Axes, sides: tuple[str, str, str, str]) -> None:
    places = ((0.015, 0.5, "left", "center"), (0.985, 0.5, "right", "center"), (0.015, 0.985, "left", "top"), (0.015, 0.015, "left", "bottom"))  # fmt: skip  # noqa: E501
    for letter, (x, y, ha, va) in zip(sides, places, strict=True):
        axis.text(
            x, y, letter, transform=axis.transAxes, color="white", fontsize=SMALL_PT, ha=ha, va=va,
            rotation=90 if len(letter) > 1 else 0,  # a word stays inside its panel and off the bone only along the edge
            path_effects=[patheffects.withStroke(linewidth=1.4, foreground="black")],
        )  # fmt: skip


def _draw_scale_bar(axis: Axes, view: SliceView) -> None:
    """A bar of 10, 20 or 50 mm in the lower right corner."""
    left, right, bottom, top = extent_mm(view)
    width = right - left
    length = next((mm for mm in (50.0, 20.0, 10.0) if mm <= 0.45 * width), 5.0)
    x, y = right - 0.04 * width - length, bottom - 0.035 * (bottom - top)
    stroke = [patheffects.withStroke(linewidth=2.6, foreground="black")]
    axis.plot([x, x + length], [y, y], color="white", linewidth=1.4, solid_capstyle="butt", path_effects=stroke)
    axis.text(
        x + length, y - 0.012 * (bottom - top), f"{length:.0f} mm", color="white", fontsize=SMALL_PT, ha="right",
        va="bottom", path_effects=[patheffects.withStroke(linewidth=1.4, foreground="black")],
    )  # fmt: skip


def window_text(view: SliceView) -> str:
    centre, width = view.window
    if width > _WIDEST_PROJECTION:
        return f"Grey scale {centre - width / 2:.0f} to {centre + width / 2:.0f} HU.".replace("-", MINUS)
    return f"Projection grey scale {centre - width / 2:.1f} to {centre + width / 2:.1f} g/cm²."
