"""Charts of numbers that stand in the record: density by level, calibration line, force-displacement curves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from reports.figures import BLUE, INK, ORANGE, PURPLE, SKY, VERMILION, new_figure
from reports.figures_output import Picture, Said, as_picture, lay_out
from reports.names import level_name
from reports.quantity import format_number, format_quantity, printed_unit, resolution
from reports.record import Calibration, Strength, StudyRecord, Vertebra

CHART_WIDTH_MM = 58.0
_CHART_HEIGHT_MM = 48.0
_WIDEST_CHART_MM = 88.0
_MM_PER_LEVEL = 5.0
_AXIS_SHARE, _BAND_NAME_MM = 0.765, 15.0
_MANY_CURVES = 12
_TEXT_PT, _SMALL_PT = 6.8, 6.0
_HALF_95 = 1.96
_SHOWN_BEYOND = 1.25
"""A curve is shown to this multiple of the displacement at its strength; a linear test is computed far beyond."""

VBMD_BANDS = (("osteoporosis\nrange", 80.0), ("low", 120.0), ("normal", float("inf")))
"""Name and upper edge (mg/cm3) of the classes of spinal trabecular density (ACR, ISCD)."""
_BAND_SHADES = ("#c6d3e0", "#e1e9f0", "#f7f9fb")


def draw_density_profile(
    vertebrae: Sequence[Vertebra],
    *,
    mean_of: Sequence[str] = (),
    outliers: Sequence[str] = (),
    said: Said | None = None,
) -> Picture | None:
    """Trabecular density by level with 95 % intervals over the class bands; None without any density.

    Parameters
    ----------
    vertebrae : sequence of Vertebra
    mean_of, outliers : sequence of str
        Levels that make up the mean of the spine, drawn filled where it is known, and levels that stand out from the profile
        of the others, which are marked.
    """
    measured = [(i, v.vbmd_mg_cm3) for i, v in enumerate(vertebrae) if v.vbmd_mg_cm3 is not None]
    if not measured:
        return None
    names = [level_name(v) for v in vertebrae]
    width_mm = min(max(CHART_WIDTH_MM, 28.0 + _MM_PER_LEVEL * len(names)), _WIDEST_CHART_MM)
    figure, axis = _chart(width_mm)
    tops = [q.value + _HALF_95 * (q.uncertainty or 0.0) for _, q in measured]
    bottoms = [q.value - _HALF_95 * (q.uncertainty or 0.0) for _, q in measured]
    low, high = min(0.0, *bottoms), max(180.0, max(tops) * 1.08)
    # Room for the names of the bands to the right of the last level.
    right = len(names) - 0.5 + max(1.6, len(names) * _BAND_NAME_MM / (_AXIS_SHARE * width_mm - _BAND_NAME_MM))
    edge = low
    for (word, upper), shade in zip(VBMD_BANDS, _BAND_SHADES, strict=True):
        axis.axhspan(edge, min(upper, high), color=shade, linewidth=0, zorder=0)
        middle = (edge + min(upper, high)) / 2
        axis.text(right - 0.05, middle, word, fontsize=_SMALL_PT, color=INK, va="center", ha="right", style="italic")
        edge = upper
    for i, quantity in measured:
        error = _HALF_95 * quantity.uncertainty if quantity.uncertainty is not None else None
        apart, entered = names[i] in outliers, not mean_of or names[i] in mean_of
        colour = VERMILION if apart else BLUE
        axis.errorbar(
            i, quantity.value, yerr=error, fmt="D" if apart else "o", color=colour, markersize=3.5, linewidth=0.9, capsize=2,
            markerfacecolor=colour if entered else "white",
        )  # fmt: skip
        if apart:
            axis.text(
                i + 0.18, quantity.value, "!", fontsize=_TEXT_PT + 1.5, fontweight="bold", va="center", color=colour
            )
    for i, vertebra in enumerate(vertebrae):
        if vertebra.vbmd_mg_cm3 is None:
            axis.text(
                i, low + 0.03 * (high - low), "not measured", rotation=90, fontsize=_SMALL_PT, ha="center", color=INK
            )
    axis.set_xticks(range(len(names)), names, fontsize=_SMALL_PT)
    axis.set_xlim(-0.6, right)
    axis.set_ylim(low, high)
    unit = printed_unit(measured[0][1].unit)
    axis.set_ylabel(f"vBMD ({unit})", fontsize=_TEXT_PT, color=INK)
    listed = "; ".join(f"{names[i]} {format_quantity(q)}" for i, q in measured)
    caption = (
        "Trabecular density by level with 95 % intervals. Bands: 80 and 120 mg/cm³ (ACR, ISCD), meant for the "
        "mean of L1 and L2."
    )
    if mean_of:
        caption += f" Filled: the mean is of {' and '.join(mean_of)}."
    if outliers:
        caption += f" Diamond with !: apart from the trend of the other levels ({', '.join(outliers)})."
    _fit(figure, axis)
    return as_picture(
        figure, "density", said=said, caption=caption, alt=f"Chart of trabecular density by level: {listed}."
    )  # fmt: skip


def draw_calibration(calibration: Calibration, *, said: Said | None = None) -> Picture:
    """The line from HU to density with its 95 % band and the materials that it rests on."""
    figure, axis = _chart()
    slope, intercept = calibration.slope_mg_cm3_per_hu, calibration.intercept_mg_cm3
    readings = [sample.hu for sample in calibration.samples] or [0.0]
    hu = np.linspace(min(-120.0, *readings) - 20, max(300.0, *readings) + 20, 60)
    density = slope * hu + intercept
    if calibration.covariance is not None:
        (ss, si), (_, ii) = calibration.covariance
        spread = _HALF_95 * np.sqrt(np.maximum(ss * hu**2 + 2 * si * hu + ii, 0.0))
        axis.fill_between(hu, density - spread, density + spread, color=SKY, alpha=0.35, linewidth=0)
    axis.plot(hu, density, color=BLUE, linewidth=1.1)
    for other in calibration.other_series:
        line = other.slope_mg_cm3_per_hu * hu + other.intercept_mg_cm3
        axis.plot(hu, line, color=VERMILION, linewidth=0.9, linestyle="--")
    low, high = float(density.min()), float(density.max())
    middle = (hu[0] + hu[-1]) / 2
    # A label stands on the side of its point towards the middle, where there is room: below the line on the left half,
    # above it on the right half; crowded labels are moved apart away from the line.
    for side in (-1.0, 1.0):
        samples = [s for s in calibration.samples if (s.hu > middle) == (side > 0)]
        offsets = _spread([side * s.density_mg_cm3 for s in samples], [s.hu for s in samples],
                          gap=0.075 * (high - low), near=0.3 * float(hu[-1] - hu[0]))  # fmt: skip
        for sample, offset in zip(samples, offsets, strict=True):
            axis.errorbar(
                sample.hu, sample.density_mg_cm3, xerr=sample.hu_sd, fmt="s", color=ORANGE, markeredgecolor=INK,
                markersize=3.5, markeredgewidth=0.5, linewidth=0.9, capsize=2, ecolor=INK,
            )  # fmt: skip
            x, y = sample.hu - side * 0.05 * float(hu[-1] - hu[0]), side * offset + side * 0.03 * (high - low)
            words, align = sample.name.replace("_", " "), "right" if side > 0 else "left"
            axis.text(x, y, words, fontsize=_SMALL_PT, ha=align, va="center", color=INK)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.set_xlabel("CT number (HU)", fontsize=_TEXT_PT, color=INK)
    axis.set_ylabel(f"density (mg/cm³ {printed_unit(calibration.mineral)})", fontsize=_TEXT_PT, color=INK)
    axis.margins(x=0)
    listed = "; ".join(f"{s.name} {s.hu:.0f} HU at {s.density_mg_cm3:.0f} mg/cm³" for s in calibration.samples)
    _fit(figure, axis)
    return as_picture(
        figure,
        "calibration",
        said=said,
        caption=f"Calibration: {calibration.method.replace('_', ' ')}. Line with 95 % band"
        + (" and the materials it rests on." if calibration.samples else "; no material measured in this study."),
        alt=f"Chart of density against CT number, slope {slope:.3f} mg/cm³ per HU, intercept {intercept:.1f} mg/cm³"
        + (f"; {listed}." if listed else "."),
    )


def draw_force_displacement(strengths: Sequence[tuple[str, Strength]], *, said: Said | None = None) -> Picture | None:
    """Force against displacement of the virtual tests that hold a curve; None if none does.

    Parameters
    ----------
    strengths : sequence of (str, Strength)
        Name as printed (``L1``, ``right femur``) and the result.
    """
    curves = [(name, strength) for name, strength in strengths if strength.curve]
    if not curves:
        return None
    figure, axis = _chart()
    colours, lines = (BLUE, VERMILION, PURPLE, INK, ORANGE, SKY), ("-", "--", "-.", ":")
    ordered = sorted(curves, key=lambda pair: -pair[1].value)
    reached: list[float] = []
    for number, (name, strength) in enumerate(ordered):
        colour, line = colours[number % 6], lines[(number + number // 6) % 4]  # no pair twice in a spine
        curve = np.asarray(strength.curve)
        reached.append(_first_reach(curve, strength.value))
        words = f"{name}  {format_number(strength.value, resolution(strength))} N"
        shown = curve[curve[:, 0] <= _SHOWN_BEYOND * reached[-1]]
        shown = np.vstack([shown, _point_at(curve, _SHOWN_BEYOND * reached[-1])])
        axis.plot(shown[:, 0], shown[:, 1], color=colour, linestyle=line, linewidth=1.1, label=words)
        axis.plot(reached[-1], strength.value, "o", color=colour, markersize=3.2)
    letters_pt = _SMALL_PT if len(curves) <= _MANY_CURVES else 5.4
    legend = axis.legend(
        loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=letters_pt, frameon=False, handlelength=2.2, handletextpad=0.5,
        labelspacing=0.25, borderaxespad=0.4, borderpad=0.0, labelcolor=INK,
    )  # fmt: skip
    axis.set_xlabel("displacement (mm)", fontsize=_TEXT_PT, color=INK)
    axis.set_ylabel("force (N)", fontsize=_TEXT_PT, color=INK)
    axis.set_xlim(0, 1.3 * max(reached))
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.set_ylim(0, 1.25 * max(strength.value for _, strength in curves))
    listed = "; ".join(f"{name} {format_quantity(strength)}" for name, strength in curves)
    _fit(figure, axis)
    _make_room(figure, axis, legend)
    return as_picture(
        figure,
        "curves",
        said=said,
        caption="Force against displacement in the virtual tests; the dot marks the strength.",
        alt=f"Chart of force against displacement; strength: {listed}.",
    )


def draw_reference_population(record: StudyRecord, *, said: Said | None = None) -> Picture | None:
    """Hip density of the patient against the reference population by age; None without a table, an age or a density.

    Bands are one and two standard deviations about the mean of each age group.
    """
    population, age = record.assessment.reference_population, record.study.patient_age_years
    if population is None or age is None:
        return None
    measured = [
        (femur.side, number)
        for femur in record.femora
        if femur.abmd_g_cm2 is not None and (number := getattr(femur.abmd_g_cm2, population.region)) is not None
    ]
    if not measured:
        return None
    figure, axis = _chart()
    for group in population.groups:
        ends = [group.from_age_years, group.to_age_years]
        for sds, shade in ((2.0, _BAND_SHADES[1]), (1.0, _BAND_SHADES[0])):
            low, high = group.mean - sds * group.sd, group.mean + sds * group.sd
            axis.fill_between(ends, [low, low], [high, high], color=shade, linewidth=0)
        axis.plot(ends, [group.mean, group.mean], color=INK, linewidth=0.9)
    asides = (-0.7, 0.7) if len(measured) > 1 else (0.0,)  # two hips of one age stand beside each other
    for (side, number), colour, marker, aside in zip(measured, (BLUE, VERMILION), "os", asides, strict=False):
        error = _HALF_95 * number.uncertainty if number.uncertainty is not None else None
        axis.errorbar(
            age + aside, number.value, yerr=error, fmt=marker, color=colour, markersize=3.5, linewidth=0.9, capsize=2,
            label=side,
        )  # fmt: skip
    axis.legend(fontsize=_SMALL_PT, frameon=False, loc="upper right", labelcolor=INK, handletextpad=0.3)
    axis.set_xlim(min(age - 3, population.groups[0].from_age_years), max(age + 3, population.groups[-1].to_age_years))
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.set_xlabel("age (years)", fontsize=_TEXT_PT, color=INK)
    axis.set_ylabel(f"aBMD ({printed_unit(population.unit)})", fontsize=_TEXT_PT, color=INK)
    listed = "; ".join(f"{side} {format_quantity(number)}" for side, number in measured)
    _fit(figure, axis)
    return as_picture(
        figure,
        "population",
        said=said,
        caption=f"Areal density of the {population.region.replace('_', ' ')} against {population.population}: mean and bands "
        "of one and two SD by age. It is measured by DXA there, by CT here.",
        alt=f"Chart of areal density by age; patient of {age:.0f} years: {listed}.",
    )


def _point_at(curve: NDArray[np.float64], displacement_mm: float) -> NDArray[np.float64]:
    """The point of a curve at a displacement, or its last point if it ends before."""
    x = min(displacement_mm, float(curve[-1, 0]))
    return np.array([[x, np.interp(x, curve[:, 0], curve[:, 1])]])


def _first_reach(curve: NDArray[np.float64], force_n: float) -> float:
    """Displacement at which a curve first reaches a force, linear between its points; of its highest point if it never does."""
    above = np.flatnonzero(curve[:, 1] >= force_n)
    if not len(above):
        return float(curve[int(np.argmax(curve[:, 1])), 0])
    after = int(above[0])
    if after == 0:
        return float(curve[0, 0])
    (x0, y0), (x1, y1) = curve[after - 1], curve[after]
    return float(x0 + (x1 - x0) * (force_n - y0) / (y1 - y0))


def _spread(heights: Sequence[float], columns: Sequence[float], gap: float, near: float) -> list[float]:
    """`heights` moved apart by `gap` where their columns are less than `near` apart, so that no label covers another."""
    places = list(heights)
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    for later, i in enumerate(order):
        for j in order[:later]:
            if abs(columns[i] - columns[j]) < near:
                places[i] = max(places[i], places[j] + gap)
    return places


def _chart(width_mm: float = CHART_WIDTH_MM) -> tuple[Figure, Axes]:
    figure = new_figure(width_mm, _CHART_HEIGHT_MM)
    axis = figure.add_axes((0.2, 0.18, _AXIS_SHARE, 0.79))
    axis.tick_params(labelsize=_TEXT_PT - 0.8, length=2.5, width=0.6, color=INK, labelcolor=INK)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_linewidth(0.6)
        axis.spines[side].set_color(INK)
    return figure, axis


def _make_room(figure: Figure, axis: Axes, legend: Legend) -> None:
    """Narrow the axes so that a legend beside them stays inside the figure: over the curves it would hide some of them."""
    lay_out(figure)
    place = axis.get_position()
    beside = legend.get_window_extent().x1 / figure.bbox.width
    axis.set_position((place.x0, place.y0, place.width - max(0.0, beside - 0.995), place.height))


def _fit(figure: Figure, axis: Axes) -> None:
    """Move the left edge of the axes so that tick labels of any length and the axis label stay inside."""
    lay_out(figure)
    box = axis.get_tightbbox(bbox_extra_artists=[])
    if box is not None:
        place = axis.get_position()
        shift = 0.01 - box.x0 / figure.bbox.width
        axis.set_position((place.x0 + shift, place.y0, place.width - shift, place.height))
