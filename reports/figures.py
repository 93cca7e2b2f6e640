"""Pictures of CT cuts with what was found in them, drawn to scale for print.

Every picture keeps the same habits: true aspect of the pixels, one scale for all panels, a scale bar in mm, a
fixed grey scale that is written under it, thin outlines with a name beside each, colours that colour-blind readers can tell
apart and that stay legible in grey, and a cap on the number of pixels. Nothing in a picture names the patient.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import find_contours

from reports.evidence import FieldCut, HipView, Label, SliceView, VertebraCrop
from reports.figures_output import DPI, MAX_PIXELS, MM_PER_INCH, Picture, Said, as_picture
from reports.quantity import MINUS

__all__ = [
    "BLUE",
    "GREEN",
    "INK",
    "MAX_PIXELS",
    "ORANGE",
    "PAGE_WIDTH_MM",
    "PURPLE",
    "SKY",
    "VERMILION",
    "YELLOW",
    "Picture",
    "as_picture",
    "draw_fields",
    "draw_hips",
    "draw_spine",
    "draw_vertebra_strip",
    "new_figure",
]

PAGE_WIDTH_MM = 178.0

ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
"""The colours of Okabe and Ito, which readers with any of the common colour deficiencies can tell apart."""
INK = "#222222"
_OUTLINE_COLOURS = (ORANGE, SKY, YELLOW)
_REGION_COLOURS = {"femoral_neck": ORANGE, "trochanter": SKY, "intertrochanter": YELLOW, "total_hip": "#FFFFFF"}
_SMALL_PT, _TEXT_PT = 6.5, 7.5
_GAP_MM, _HEADING_MM = 3.0, 5.5
_LETTER_MM = 1.15
"""Mean width of a small letter."""
_LINE_MM = 3.0
"""Height of a further line of a heading."""
_PT_PER_INCH = 72.0
_HINTING = 1.04
"""Letters are drawn on whole pixels, somewhat wider than in the font."""
_MOST_CROPS_IN_A_ROW = 10
_LARGEST_SCALE = 0.75
"""Millimetres on paper for one of the patient: a small crop is not blown up."""


def draw_spine(sagittal: SliceView | None, coronal: SliceView | None, *, said: Said | None = None) -> Picture:
    """The spine with outlined, named bodies, seen from the side and from the front."""
    views = [view for view in (sagittal, coronal) if view is not None]
    figure, axes = _panels(views, [view.title for view in views], max_height_mm=84.0)
    names: list[str] = []
    for view, axis in zip(views, axes, strict=True):
        _draw_view(axis, view)
        names = names or [label.text for label in view.labels]
    listed = ", ".join(names)
    return as_picture(
        figure,
        "spine",
        said=said,
        caption=f"CT along the spine with the outlines of the vertebral bodies. {_window_text(views[0])}",
        alt=f"Sagittal and coronal CT cut along the spine; outlined and named bodies: {listed}.",
    )


def draw_vertebra_strip(crops: Sequence[VertebraCrop], *, said: Said | None = None) -> Picture:
    """The mid-sagittal cut of each body with the six points that its heights are measured between."""
    if not crops:
        raise ValueError("no crop to draw")
    per_row = math.ceil(len(crops) / math.ceil(len(crops) / _MOST_CROPS_IN_A_ROW))
    rows = [crops[i : i + per_row] for i in range(0, len(crops), per_row)]
    longest = max(len(row) for row in rows)
    cell_mm = PAGE_WIDTH_MM / max(longest, 5)
    height_mm = cell_mm + 7.5
    figure = new_figure(cell_mm * longest, height_mm * len(rows))
    extent_mm = max(max(c.view.image.shape[a] * c.view.pixel_mm[a] for a in (0, 1)) for c in crops)
    for r, row in enumerate(rows):
        for c, crop in enumerate(row):
            left, top = c / longest, 1 - r / len(rows)
            share = cell_mm / (height_mm * len(rows))
            axis = figure.add_axes((left + 0.004, top - share, 1 / longest - 0.008, share * 0.98))
            _draw_view(axis, crop.view, bar=(r, c) == (0, 0), sides=False, titled=False)
            _centre_on(axis, crop.view, extent_mm)
            _draw_six_points(axis, crop.view)
            words = f"{crop.name}\n{crop.remark}" if crop.remark else crop.name
            axis.text(0.5, -0.03, words, transform=axis.transAxes, ha="center", va="top", fontsize=_SMALL_PT, color=INK)
    listed = "; ".join(f"{crop.name} {crop.remark}".strip() for crop in crops)
    return as_picture(
        figure,
        "vertebrae",
        said=said,
        caption="Mid-sagittal cut of each body, front to the left, with the six points between which its heights are measured. "
        + _window_text(crops[0].view),
        alt=f"One small picture for each vertebral body, with six endplate points: {listed}.",
    )


def draw_hips(hips: Sequence[HipView], *, said: Said | None = None) -> Picture:
    """For each hip the CT with the outline of the femur and the projection with the regions of the density measurement."""
    hips = sorted(hips, key=lambda hip: hip.side != "right")  # as the patient is seen from the front
    views = [view for hip in hips for view in (hip.coronal, hip.projection) if view is not None]
    sides = [hip.side for hip in hips for view in (hip.coronal, hip.projection) if view is not None]
    headings = [f"{side.capitalize()} hip: {view.title}" for view, side in zip(views, sides, strict=True)]
    figure, axes = _panels(views, headings, max_height_mm=56.0)
    for view, axis, heading in zip(views, axes, headings, strict=True):
        _draw_view(axis, view, heading=heading)
    regions = sorted({o.name.replace("_", " ") for hip in hips if hip.projection for o in hip.projection.outlines})
    drawn = f" Regions drawn: {', '.join(regions)}." if regions else ""
    windows = " ".join(dict.fromkeys(_window_text(view) for view in views))
    shown = "CT with the outline of the femur"
    if any(hip.projection is not None for hip in hips):
        shown += ", and its projection as it is measured for areal density"
    return as_picture(
        figure,
        "hips",
        said=said,
        caption=f"{shown}. {windows}",
        alt=f"{' and '.join(dict.fromkeys(sides))} hip: {', '.join(dict.fromkeys(v.title for v in views))}.{drawn}",
    )


def draw_fields(fields: Sequence[FieldCut], *, said: Said | None = None) -> Picture:
    """Finite-element results on a cut through each model, beside the CT at the same place."""
    fields = sorted(fields, key=lambda cut: ("femur" in cut.name, cut.name != "femur_right"))
    headings = [(f"{_model_name(cut.name)}: CT", _load_heading(cut)) for cut in fields]
    figure, axes = _panel_rows([(cut.ct, cut.ct) for cut in fields], headings, heights_mm=(30.0, 46.0), bottom_mm=12.5)
    for cut, (ct_heading, load), ct_axis, map_axis in zip(fields, headings, axes[::2], axes[1::2], strict=True):
        _draw_view(ct_axis, cut.ct, heading=ct_heading)
        _draw_field(figure, map_axis, cut, load)
    quantities = ", ".join(dict.fromkeys(cut.quantity for cut in fields))
    listed = "; ".join(f"{cut.name} ({cut.load})" if cut.load else cut.name for cut in fields)
    return as_picture(
        figure,
        "mechanics",
        said=said,
        caption=f"Finite-element models: {quantities} on a cut, beside the CT at the same place. The colour scale of each "
        "model ends at its 99th percentile. " + _window_text(fields[0].ct),
        alt=f"CT cut and map of {quantities} for {listed}.",
    )


def _model_name(name: str) -> str:
    """``L1`` for ``vertebra_L1``, ``R femur`` for ``femur_right``."""
    side = {"femur_left": "L femur", "femur_right": "R femur"}
    return side.get(name, name.removeprefix("vertebra_").replace("_", " "))


def _load_heading(cut: FieldCut) -> str:
    """What is pressed, without the place: that is what the arrow shows, and the caption for those who do not see it tells."""
    return f"{_model_name(cut.name)}, load: {cut.load.partition(' of ')[0]}" if cut.load else cut.quantity


def _draw_field(figure: Figure, axis: Axes, cut: FieldCut, heading: str) -> None:
    """The map over the paled CT, with the load and a colour bar below."""
    finite = cut.values[np.isfinite(cut.values)]
    top = float(np.percentile(finite, 99)) if finite.size else 1.0
    scale = Normalize(0.0, top if top > 0 else 1.0)
    _draw_view(axis, cut.ct, heading=heading, dimmed=True, bar=False)
    axis.imshow(cut.values, cmap="viridis", norm=scale, extent=_extent_mm(cut.ct), interpolation="nearest")
    if cut.load_direction is not None:
        _draw_load(axis, cut)
    place = axis.get_position()
    bar_mm = 2.0 / (figure.get_figheight() * MM_PER_INCH)
    bar = figure.add_axes((place.x0 + 0.1 * place.width, place.y0 - 2.0 * bar_mm, 0.8 * place.width, bar_mm))
    figure.colorbar(ScalarMappable(norm=scale, cmap="viridis"), cax=bar, orientation="horizontal", extend="max")
    bar.tick_params(labelsize=_SMALL_PT, length=2, pad=1)
    bar.locator_params(nbins=3)
    letters = max(12, int(place.width * figure.get_figwidth() * MM_PER_INCH / _LETTER_MM))
    words = textwrap.fill(f"{cut.quantity} ({cut.unit})", letters)
    bar.set_xlabel(words, fontsize=_SMALL_PT, labelpad=1, color=INK, linespacing=1.0)


# Panels and their decoration


def new_figure(width_mm: float, height_mm: float) -> Figure:
    figure = Figure(figsize=(width_mm / MM_PER_INCH, height_mm / MM_PER_INCH), facecolor="white", dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def _panels(views: Sequence[SliceView], headings: Sequence[str], *, max_height_mm: float) -> tuple[Figure, list[Axes]]:
    """A figure with the views in a row, all at one scale (mm of the patient per mm of paper)."""
    if not views:
        raise ValueError("no view to draw")
    heights = [view.image.shape[0] * view.pixel_mm[0] for view in views]
    widths = [view.image.shape[1] * view.pixel_mm[1] for view in views]
    free = PAGE_WIDTH_MM - _GAP_MM * (len(views) - 1)
    scale = min(free / sum(widths), max_height_mm / max(heights), _LARGEST_SCALE)
    sizes = [(scale * w, scale * h) for w, h in zip(widths, heights, strict=True)]
    return _laid_out([sizes], [headings], bottom_mm=1.0)


def _panel_rows(
    groups: Sequence[Sequence[SliceView]],
    headings: Sequence[Sequence[str]],
    *,
    heights_mm: tuple[float, float],
    bottom_mm: float,
) -> tuple[Figure, list[Axes]]:
    """A figure with groups of views in as few rows as possible, all views of a row of one height, within limits if possible."""
    if not groups:
        raise ValueError("no view to draw")
    lowest, highest = heights_mm
    sizes: list[list[tuple[float, float]]] = []
    words: list[list[str]] = []
    for per_row in range(len(groups), 0, -1):
        rows = [groups[i : i + per_row] for i in range(0, len(groups), per_row)]
        sizes = [_equally_high([view for group in row for view in group], highest) for row in rows]
        words = [[w for group in headings[i : i + per_row] for w in group] for i in range(0, len(groups), per_row)]
        if min(row[0][1] for row in sizes) >= lowest:
            break
    return _laid_out(sizes, words, bottom_mm=bottom_mm)


def _equally_high(views: Sequence[SliceView], highest_mm: float) -> list[tuple[float, float]]:
    """Width and height in mm of views of one height that fill a row of the page, but are not higher than the limit."""
    aspects = [v.image.shape[1] * v.pixel_mm[1] / (v.image.shape[0] * v.pixel_mm[0]) for v in views]
    height = min(highest_mm, (PAGE_WIDTH_MM - _GAP_MM * (len(views) - 1)) / sum(aspects))
    return [(aspect * height, height) for aspect in aspects]


def _laid_out(
    rows: Sequence[Sequence[tuple[float, float]]], headings: Sequence[Sequence[str]], *, bottom_mm: float
) -> tuple[Figure, list[Axes]]:
    """A figure just large enough for panels of the given (width, height) in mm, with room for a heading above each row."""
    width_mm = max(sum(w for w, _ in row) + _GAP_MM * (len(row) - 1) for row in rows)
    tops_mm = [
        max(
            _HEADING_MM + _LINE_MM * _wrapped(words, width).count("\n")
            for words, (width, _) in zip(line, row, strict=True)
        )
        for line, row in zip(headings, rows, strict=True)
    ]
    height_mm = sum(max(h for _, h in row) + top + bottom_mm for row, top in zip(rows, tops_mm, strict=True))
    figure = new_figure(width_mm, height_mm)
    axes, base = [], height_mm
    for row, top in zip(rows, tops_mm, strict=True):
        base -= max(h for _, h in row) + top + bottom_mm
        left = 0.0
        for width, height in row:
            place = (left / width_mm, (base + bottom_mm) / height_mm, width / width_mm, height / height_mm)
            axes.append(figure.add_axes(place))
            left += width + _GAP_MM
    return figure, axes


def _wrapped(words: str, width_mm: float) -> str:
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
    width_pt = TextPath((0.0, 0.0), words, size=_TEXT_PT).get_extents().width
    return _HINTING * float(width_pt) * MM_PER_INCH / _PT_PER_INCH


def _extent_mm(view: SliceView) -> tuple[float, float, float, float]:
    (rows, columns), (row_mm, column_mm) = view.image.shape, view.pixel_mm
    return (-0.5 * column_mm, (columns - 0.5) * column_mm, (rows - 0.5) * row_mm, -0.5 * row_mm)


def _draw_view(
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
        extent=_extent_mm(view),
        interpolation="bilinear",
        alpha=0.35 if dimmed else None,
    )
    axis.set_axis_off()
    axis.set_xlim(*_extent_mm(view)[:2])
    axis.set_ylim(*_extent_mm(view)[2:])
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
        words = _wrapped(words, axis.bbox.width / DPI * MM_PER_INCH)
        axis.text(0.0, 1.01, words, transform=axis.transAxes, fontsize=_TEXT_PT, color=INK, va="bottom", ha="left",
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
        fontsize=_TEXT_PT,
        ha="center",
        va="center",
        path_effects=[patheffects.withStroke(linewidth=1.6, foreground="black")],
    )


def _draw_sides(axis: Axes, sides: tuple[str, str, str, str]) -> None:
    places = ((0.015, 0.5, "left", "center"), (0.985, 0.5, "right", "center"), (0.015, 0.985, "left", "top"), (0.015, 0.015, "left", "bottom"))  # fmt: skip  # noqa: E501
    for letter, (x, y, ha, va) in zip(sides, places, strict=True):
        axis.text(
            x, y, letter, transform=axis.transAxes, color="white", fontsize=_SMALL_PT, ha=ha, va=va,
            rotation=90 if len(letter) > 1 else 0,  # a word stays inside its panel and off the bone only along the edge
            path_effects=[patheffects.withStroke(linewidth=1.4, foreground="black")],
        )  # fmt: skip


def _draw_scale_bar(axis: Axes, view: SliceView) -> None:
    """A bar of 10, 20 or 50 mm in the lower right corner."""
    left, right, bottom, top = _extent_mm(view)
    width = right - left
    length = next((mm for mm in (50.0, 20.0, 10.0) if mm <= 0.45 * width), 5.0)
    x, y = right - 0.04 * width - length, bottom - 0.035 * (bottom - top)
    stroke = [patheffects.withStroke(linewidth=2.6, foreground="black")]
    axis.plot([x, x + length], [y, y], color="white", linewidth=1.4, solid_capstyle="butt", path_effects=stroke)
    axis.text(
        x + length, y - 0.012 * (bottom - top), f"{length:.0f} mm", color="white", fontsize=_SMALL_PT, ha="right",
        va="bottom", path_effects=[patheffects.withStroke(linewidth=1.4, foreground="black")],
    )  # fmt: skip


def _centre_on(axis: Axes, view: SliceView, extent_mm: float) -> None:
    """Show `extent_mm` in both directions about the middle of the view, so that all crops have one scale."""
    left, right, bottom, top = _extent_mm(view)
    x, y = (left + right) / 2, (bottom + top) / 2
    axis.set_xlim(x - extent_mm / 2, x + extent_mm / 2)
    axis.set_ylim(y + extent_mm / 2, y - extent_mm / 2)


def _draw_six_points(axis: Axes, view: SliceView) -> None:
    """The three heights as lines between upper and lower points."""
    if len(view.points) != 6:
        return
    x, y = view.points[:, 1] * view.pixel_mm[1], view.points[:, 0] * view.pixel_mm[0]
    for upper in range(3):
        axis.plot(x[[upper, upper + 3]], y[[upper, upper + 3]], color=YELLOW, linewidth=0.7)
    axis.plot(x, y, "o", markersize=2.2, markerfacecolor="white", markeredgecolor="black", markeredgewidth=0.4)


def _draw_load(axis: Axes, cut: FieldCut) -> None:
    """An arrow from outside onto the model in the direction of the load."""
    inside = np.argwhere(np.isfinite(cut.values)) * np.asarray(cut.ct.pixel_mm)
    if not len(inside) or cut.load_direction is None:
        return
    direction = np.asarray(cut.load_direction, dtype=float)
    direction = direction / np.linalg.norm(direction)
    depth = inside @ direction
    tip = inside[depth <= np.percentile(depth, 2)].mean(axis=0)
    arrow = direction * 0.16 * float(np.ptp(depth))
    left, right, bottom, top = _extent_mm(cut.ct)
    tail = np.clip(tip - arrow, (top, left), (bottom, right))  # beyond the last panel it would be cut off
    tip = tail + arrow
    axis.annotate(
        "", xy=(tip[1], tip[0]), xytext=(tail[1], tail[0]), annotation_clip=False,
        arrowprops={"arrowstyle": "-|>", "color": VERMILION, "linewidth": 1.6, "mutation_scale": 9},
    )  # fmt: skip


def _window_text(view: SliceView) -> str:
    centre, width = view.window
    if width > 20:
        return f"Grey scale {centre - width / 2:.0f} to {centre + width / 2:.0f} HU.".replace("-", MINUS)
    return f"Projection grey scale {centre - width / 2:.1f} to {centre + width / 2:.1f} g/cm²."
