"""Pictures of CT cuts with what was found in them, drawn to scale for print."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reports.evidence import FieldCut, HipView, SliceView, VertebraCrop
from reports.figures_output import MAX_PIXELS, MM_PER_INCH, Picture, Said, as_picture
from reports.panels import (
    BLUE,
    GREEN,
    INK,
    LINE_MM,
    ORANGE,
    PAGE_WIDTH_MM,
    PURPLE,
    SKY,
    SMALL_PT,
    VERMILION,
    YELLOW,
    draw_view,
    equally_high,
    extent_mm,
    laid_out,
    new_figure,
    panels_in_a_row,
    window_text,
    wrapped,
)  # fmt: skip

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

_LETTER_MM = 1.05
"""Mean width of a small letter."""
_MOST_CROPS_IN_A_ROW = 9
_WIDEST_CROP_MM, _CROP_GAP_MM = 36.0, 1.5
_LOWEST_FIELD_MM, _HIGHEST_FIELD_MM = 26.0, 34.0
_BAR_MM = 8.0
"""Room for a colour bar with its numbers."""
_LOADED_PERCENT = 12.0
"""So much of a model, from its loaded end, tells where the middle of that end is."""
_SHORTEST_ARROW_MM, _ARROW_SHARE = 9.0, 0.2
"""Length of the arrow of a load, in mm of the patient, and its share of the model in the direction of the load."""


def draw_spine(sagittal: SliceView | None, coronal: SliceView | None, *, said: Said | None = None) -> Picture:
    """The spine with outlined, named bodies, seen from the side and from the front."""
    views = [view for view in (sagittal, coronal) if view is not None]
    figure, axes = panels_in_a_row(views, [view.title for view in views], max_height_mm=78.0)
    names: list[str] = []
    for view, axis in zip(views, axes, strict=True):
        draw_view(axis, view)
        names = names or [label.text for label in view.labels]
    listed = ", ".join(names)
    return as_picture(
        figure,
        "spine",
        said=said,
        caption=f"CT along the spine with the outlines of the vertebral bodies. {window_text(views[0])}",
        alt=f"Sagittal and coronal CT cut along the spine; outlined and named bodies: {listed}.",
    )


def draw_vertebra_strip(crops: Sequence[VertebraCrop], *, said: Said | None = None) -> Picture:
    """The mid-sagittal cut of each body with the six points that its heights are measured between."""
    if not crops:
        raise ValueError("no crop to draw")
    per_row = math.ceil(len(crops) / math.ceil(len(crops) / _MOST_CROPS_IN_A_ROW))
    rows = [crops[i : i + per_row] for i in range(0, len(crops), per_row)]
    longest = max(len(row) for row in rows)
    shown_mm = tuple(max(c.view.image.shape[a] * c.view.pixel_mm[a] for c in crops) for a in (0, 1))
    width_mm = min(PAGE_WIDTH_MM / longest, _WIDEST_CROP_MM)
    image_mm = (width_mm - _CROP_GAP_MM) * shown_mm[0] / shown_mm[1]
    lines = [1 + max(wrapped(crop.remark, width_mm).count("\n") + bool(crop.remark) for crop in row) for row in rows]
    heights_mm = [image_mm + _CROP_GAP_MM + LINE_MM * count for count in lines]
    total_mm = sum(heights_mm)
    figure = new_figure(width_mm * longest, total_mm)
    top = total_mm
    for r, row in enumerate(rows):
        for c, crop in enumerate(row):
            place = (
                c / longest,
                (top - image_mm) / total_mm,
                1 / longest * (1 - _CROP_GAP_MM / width_mm),
                image_mm / total_mm,
            )
            axis = figure.add_axes(place)
            draw_view(axis, crop.view, bar=(r, c) == (0, 0), sides=False, titled=False)
            _centre_on(axis, crop.view, shown_mm)
            _draw_six_points(axis, crop.view)
            words = "\n".join(part for part in (crop.name, wrapped(crop.remark, width_mm)) if part)
            axis.annotate(words, (0.5, 0.0), (0, -1.5), "axes fraction", "offset points", ha="center", va="top",
                          fontsize=SMALL_PT, color=INK, annotation_clip=False, linespacing=1.05)  # fmt: skip
        top -= heights_mm[r]
    listed = "; ".join(f"{crop.name} {crop.remark}".strip() for crop in crops)
    return as_picture(
        figure,
        "vertebrae",
        said=said,
        caption="Mid-sagittal cut of each body, front to the left, with the six points between which its heights are measured. "
        + window_text(crops[0].view),
        alt=f"One small picture for each vertebral body, with six endplate points: {listed}.",
    )


def draw_hips(hips: Sequence[HipView], *, said: Said | None = None) -> Picture:
    """For each hip the CT with the outline of the femur and the projection with the regions of the density measurement."""
    hips = sorted(hips, key=lambda hip: hip.side != "right")  # as the patient is seen from the front
    views = [view for hip in hips for view in (hip.coronal, hip.projection) if view is not None]
    sides = [hip.side for hip in hips for view in (hip.coronal, hip.projection) if view is not None]
    headings = [f"{side.capitalize()} hip: {view.title}" for view, side in zip(views, sides, strict=True)]
    figure, axes = panels_in_a_row(views, headings, max_height_mm=41.0)
    for view, axis, heading in zip(views, axes, headings, strict=True):
        draw_view(axis, view, heading=heading)
    regions = sorted({o.name.replace("_", " ") for hip in hips if hip.projection for o in hip.projection.outlines})
    drawn = f" Regions drawn: {', '.join(regions)}." if regions else ""
    windows = " ".join(dict.fromkeys(window_text(view) for view in views))
    shown = "CT with the outline of the femur"
    if any(hip.projection is not None for hip in hips):
        shown += ", and its projection as it is measured for areal density. Total hip: the regions drawn, together"
    return as_picture(
        figure,
        "hips",
        said=said,
        caption=f"{shown}. {windows}",
        alt=f"{' and '.join(dict.fromkeys(sides))} hip: {', '.join(dict.fromkeys(v.title for v in views))}.{drawn}",
    )


@dataclass(frozen=True)
class _Panel:
    """The CT of a cut, or a map on it."""

    cut: FieldCut
    is_map: bool
    heading: str


def draw_fields(fields: Sequence[FieldCut], *, name: str = "mechanics", said: Said | None = None) -> Picture:
    """Finite-element results on a cut through each model, beside the CT at the same place.

    Vertebrae stand in the first row, femora in the second, all fields of one model beside each other.

    Parameters
    ----------
    fields : sequence of FieldCut
    name : str
        Identifier of the picture.
    said : callable, optional
        Into another language.
    """
    if not fields:
        raise ValueError("no field to draw")
    fields = sorted(map(_with_room, fields), key=lambda cut: ("femur" in cut.name, cut.name != "femur_right"))
    models = [_panels_of(list(cuts)) for _, cuts in itertools.groupby(fields, key=lambda cut: cut.name)]
    kinds = [[m for m in models if ("femur" in m[0].cut.name) is femora] for femora in (False, True)]
    rows = [row for kind in kinds if kind for row in _rows_of(kind)]
    sizes = [equally_high([panel.cut.ct for panel in row], _HIGHEST_FIELD_MM) for row in rows]
    below = [
        _below(p.cut, width)
        for row, size in zip(rows, sizes, strict=True)
        for p, (width, _) in zip(row, size, strict=True)
    ]
    bottom_mm = _BAR_MM + LINE_MM * max(words.count("\n") + 1 for words in below)
    figure, axes = laid_out(sizes, [[panel.heading for panel in row] for row in rows], bottom_mm=bottom_mm)
    for axis, panel in zip(axes, (panel for row in rows for panel in row), strict=True):
        if panel.is_map:
            _draw_field(figure, axis, panel.cut, panel.heading)
        else:
            draw_view(axis, _on_black(panel.cut.ct), heading=panel.heading)
    quantities = ", ".join(dict.fromkeys(cut.quantity for cut in fields))
    listed = "; ".join(dict.fromkeys(f"{cut.name} ({cut.load})" if cut.load else cut.name for cut in fields))
    return as_picture(
        figure,
        name,
        said=said,
        caption=f"Finite-element models: {quantities} on a cut, beside the CT at the same place; arrows: load and support. "
        "The colour scale of each map ends at its 99th percentile. " + window_text(fields[0].ct),
        alt=f"CT cut and map of {quantities} for {listed}.",
    )


def _panels_of(cuts: list[FieldCut]) -> list[_Panel]:
    """The CT and the maps of one model; the load stands over the first map, what is shown under each."""
    maps = [_Panel(cut, True, _load_heading(cut) if i == 0 else "") for i, cut in enumerate(cuts)]
    return [_Panel(cuts[0], False, f"{_model_name(cuts[0].name)}: CT"), *maps]


def _rows_of(models: list[list[_Panel]]) -> list[list[_Panel]]:
    """Models in one row, or each in a row of its own where they would be drawn too small."""
    together = [panel for model in models for panel in model]
    small = equally_high([panel.cut.ct for panel in together], _HIGHEST_FIELD_MM)[0][1] < _LOWEST_FIELD_MM
    return models if small else [together]


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
    top = top if top > 0 else 1.0
    # Energy goes with the square of the strain: by its root the bone away from the peak can be told apart too.
    scale = PowerNorm(0.5, 0.0, top) if "energy" in cut.quantity else Normalize(0.0, top)
    draw_view(axis, cut.ct, heading=heading, dimmed=True, bar=False)
    axis.imshow(cut.values, cmap="viridis", norm=scale, extent=extent_mm(cut.ct), interpolation="nearest")
    if cut.load_direction is not None:
        _draw_load(axis, cut)
    place = axis.get_position()
    bar_mm = 2.0 / (figure.get_figheight() * MM_PER_INCH)
    bar = figure.add_axes((place.x0 + 0.1 * place.width, place.y0 - 2.0 * bar_mm, 0.8 * place.width, bar_mm))
    figure.colorbar(ScalarMappable(norm=scale, cmap="viridis"), cax=bar, orientation="horizontal", extend="max")
    bar.tick_params(labelsize=SMALL_PT, length=2, pad=1)
    bar.set_xticks(_ticks(scale))
    words = _below(cut, place.width * figure.get_figwidth() * MM_PER_INCH)
    bar.set_xlabel(words, fontsize=SMALL_PT, labelpad=1, color=INK, linespacing=1.0)


def _centre_on(axis: Axes, view: SliceView, shown_mm: tuple[float, ...]) -> None:
    """Show `shown_mm` (down, across) about the middle of the view, so that all crops have one scale."""
    left, right, bottom, top = extent_mm(view)
    x, y = (left + right) / 2, (bottom + top) / 2
    axis.set_xlim(x - shown_mm[1] / 2, x + shown_mm[1] / 2)
    axis.set_ylim(y + shown_mm[0] / 2, y - shown_mm[0] / 2)


def _draw_six_points(axis: Axes, view: SliceView) -> None:
    """The three heights as lines between upper and lower points."""
    if len(view.points) != 6:
        return
    x, y = view.points[:, 1] * view.pixel_mm[1], view.points[:, 0] * view.pixel_mm[0]
    for upper in range(3):
        axis.plot(x[[upper, upper + 3]], y[[upper, upper + 3]], color=YELLOW, linewidth=0.7)
    axis.plot(x, y, "o", markersize=2.2, markerfacecolor="white", markeredgecolor="black", markeredgewidth=0.4)


def _below(cut: FieldCut, width_mm: float) -> str:
    """What stands under a colour bar, in lines that a panel of this width has room for."""
    words = f"{cut.quantity} ({cut.unit})" if cut.unit != "1" else cut.quantity
    return textwrap.fill(words, max(12, int(width_mm / _LETTER_MM)))


def _ticks(scale: Normalize) -> list[float]:
    """Nothing, a fair part and nearly the top of a colour scale, as round numbers that do not run into each other."""
    top = float(scale.vmax or 1.0)
    step = 10.0 ** math.floor(math.log10(top))
    most = max(factor * step for factor in (1, 2, 4, 6, 8) if factor * step <= top)
    return [0.0, most / 4 if isinstance(scale, PowerNorm) else most / 2, most]


def _arrow_mm(extent_mm: float) -> float:
    return max(_SHORTEST_ARROW_MM, _ARROW_SHARE * extent_mm)


def _with_room(cut: FieldCut) -> FieldCut:
    """The cut with white beside the bone where arrows of load and support need it."""
    inside = np.argwhere(np.isfinite(cut.values))
    if cut.load_direction is None or not len(inside):
        return cut
    axis = int(np.argmax(np.abs(cut.load_direction)))
    size, pixel_mm = cut.values.shape[axis], cut.ct.pixel_mm[axis]
    free = (int(inside[:, axis].min()), int(size - 1 - inside[:, axis].max()))
    needed = math.ceil(_arrow_mm(float(np.ptp(inside[:, axis])) * pixel_mm) / pixel_mm)
    width = [(0, 0), (0, 0)]
    width[axis] = (max(0, needed - free[0]), max(0, needed - free[1]))
    image, values = (np.pad(a.astype(float), width, constant_values=np.nan) for a in (cut.ct.image, cut.values))
    return replace(cut, ct=_shifted(cut.ct, image, width), values=values)


def _shifted(view: SliceView, image: NDArray, width: list[tuple[int, int]]) -> SliceView:
    """The view with its wider image, and all that is drawn over it at its place."""
    down, across = width[0][0], width[1][0]
    outlines = tuple(
        replace(
            o,
            mask=None if o.mask is None else np.pad(o.mask, width),
            path=None if o.path is None else o.path + np.array([down, across]),
        )
        for o in view.outlines
    )
    labels = tuple(replace(label, row=label.row + down, column=label.column + across) for label in view.labels)
    points = view.points + np.array([down, across])
    return replace(view, image=image, outlines=outlines, labels=labels, points=points)


def _on_black(view: SliceView) -> SliceView:
    """The view with the darkest grey where there is no image, on which letters and scale bar are seen."""
    return replace(view, image=np.where(np.isnan(view.image), view.window[0] - view.window[1] / 2, view.image))


def _draw_load(axis: Axes, cut: FieldCut) -> None:
    """An arrow onto the model in the direction of the load, and one against it where the model is held."""
    inside = np.argwhere(np.isfinite(cut.values)) * np.asarray(cut.ct.pixel_mm)
    if not len(inside) or cut.load_direction is None:
        return
    towards = np.asarray(cut.load_direction, dtype=float)
    towards = towards / np.linalg.norm(towards)
    left, right, bottom, top = extent_mm(cut.ct)
    length_mm = _arrow_mm(float(np.ptp(inside @ towards)))
    for direction in (towards, -towards):
        depth = inside @ direction
        middle = inside[depth <= np.percentile(depth, _LOADED_PERCENT)].mean(axis=0)
        across = np.array([-direction[1], direction[0]])
        on_line = np.abs((inside - middle) @ across) < 2.0
        surface = depth[on_line].min() if on_line.any() else depth.min()
        tip = middle + (surface - middle @ direction) * direction
        tail = np.clip(tip - length_mm * direction, (top, left), (bottom, right))  # it stays inside its panel
        tip = tail + length_mm * direction
        axis.annotate(
            "", xy=(tip[1], tip[0]), xytext=(tail[1], tail[0]), annotation_clip=False,
            arrowprops={"arrowstyle": "-|>", "color": VERMILION, "linewidth": 1.6, "mutation_scale": 8, "shrinkA": 0,
                        "shrinkB": 0, "path_effects": [patheffects.withStroke(linewidth=2.8, foreground="white")]},
        )  # fmt: skip
