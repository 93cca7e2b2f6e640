"""Pictures of one virtual test: maps beside the image, the force-displacement curve, and the bone seen from two sides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from numpy.typing import NDArray
from scipy import ndimage

from fea.bone.evaluate import TestResult
from fea.bone.profiles import VirtualTest
from pipeline.strength.result import Strength
from reports.figures import BLUE, INK, VERMILION, draw_fields, new_figure
from reports.figures_output import Picture, as_picture

_PIXEL_MM = 0.5
_STEP_MM = 0.5
_DEPTH_MM = 3.0
"""What the surface shows is the greatest value within this depth: on the surface itself voxels are partly bone."""
_PANEL_MM = 62.0
_TEXT_PT, _SMALL_PT = 7.5, 6.5


def pictures_of(result: Strength) -> tuple[Picture, ...]:
    """The pictures of a test that was solved: ``mechanics``, ``curve`` and ``surface``."""
    pictures = []
    if result.cuts:
        pictures.append(draw_fields(result.cuts))
    if len(result.curve) > 1:
        pictures.append(draw_curve(result))
    if result.solved is not None:
        pictures.append(draw_surface(result.solved))
    return tuple(pictures)


def draw_curve(result: Strength) -> Picture:
    """Force against displacement, with the force by every criterion that was evaluated; the strength is the bold one."""
    width_mm, height_mm = 110.0, 70.0
    figure = new_figure(width_mm, height_mm)
    axis = figure.add_axes((14 / width_mm, 12 / height_mm, 58 / width_mm, 52 / height_mm))
    curve = np.asarray(result.curve)
    plastic = len(curve) > 2
    levels = {name: force for name, force in result.criteria_n.items() if name != "fixed-displacement" or not plastic}
    top = 1.15 * max([*levels.values(), *(curve[:, 1] if plastic else ())])
    end = float(curve[-1, 0]) if plastic else top / float(curve[-1, 1]) * float(curve[-1, 0])
    slope = float(curve[1, 1] / curve[1, 0])
    axis.plot([0, min(end, top / slope)], [0, min(end, top / slope) * slope], "--", color="#888888", linewidth=0.8)
    if plastic:
        axis.plot(curve[:, 0], curve[:, 1], "-o", color=BLUE, linewidth=1.2, markersize=2.5)
    leading = result.strength.value if result.strength is not None else None
    shown, lowest = [], -np.inf
    for name, force in sorted(levels.items(), key=lambda item: item[1]):
        bold = leading is not None and abs(force - leading) < 1e-9 * leading
        axis.axhline(force, color=VERMILION if bold else "#888888", linewidth=1.2 if bold else 0.6, linestyle=":")
        lowest = max(force, lowest + 0.075 * top)  # names keep clear of each other
        words = f"{name}  {force:.0f} N"
        axis.annotate(
            words, (1.02, lowest / top), xycoords="axes fraction", fontsize=_SMALL_PT, va="center",
            color=VERMILION if bold else INK, annotation_clip=False,
        )  # fmt: skip
        shown.append(words)
    axis.set_xlim(0, end)
    axis.set_ylim(0, top)
    axis.set_xlabel("displacement (mm)", fontsize=_TEXT_PT, color=INK)
    axis.set_ylabel("force (N)", fontsize=_TEXT_PT, color=INK)
    axis.tick_params(labelsize=_SMALL_PT)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(f"{result.test}, {result.profile}", fontsize=_TEXT_PT, color=INK, loc="left")
    kind = "Elastic-plastic curve" if plastic else "Linear response"
    caption = (
        f"{kind} with the force by each criterion; the strength of the profile is marked in colour, dashed: elastic."
    )
    return as_picture(figure, "curve", caption=caption, alt=f"{caption} {'; '.join(shown)}.")


@dataclass(frozen=True)
class _Seen:
    """A bone from one side: pixels without bone are NaN in `value`."""

    title: str
    value: NDArray[np.float64]
    shade: NDArray[np.float64]


def draw_surface(result: TestResult) -> Picture:
    """The bone from two sides, coloured by nearness to yield at the strength, or by strain energy without a yield law."""
    model = result.model
    if result.plastic_strain is not None and result.yielded_part:
        field, words = (
            100 * result.plastic_strain.astype(np.float64),
            "equivalent plastic strain at the end of the curve (%)",
        )
    elif result.yield_ratio is not None:
        at_strength = result.strength_n[model.profile.strength] / result.force_n
        field, words = at_strength * result.yield_ratio.astype(np.float64), "stress at the strength / yield stress"
    else:
        field, words = 1000 * result.energy_density_mpa.astype(np.float64), "strain energy density (kPa)"
    views = [_seen(result, field, title, towards, up) for title, towards, up in _views(model.test)]
    finite = np.concatenate([view.value[np.isfinite(view.value)] for view in views])
    top = float(np.percentile(finite, 99)) if finite.size else 1.0
    scale = Normalize(0.0, top if top > 0 else 1.0)
    colours = ScalarMappable(scale, "viridis")
    width_mm, height_mm = 2 * _PANEL_MM + 6.0, _PANEL_MM + 18.0
    figure = new_figure(width_mm, height_mm)
    largest = max(max(view.value.shape) for view in views) * _PIXEL_MM
    for number, view in enumerate(views):
        rows, columns = view.value.shape
        wide, high = (n * _PIXEL_MM / largest * _PANEL_MM for n in (columns, rows))
        left = number * (_PANEL_MM + 6.0) + (_PANEL_MM - wide) / 2
        axis = figure.add_axes(
            (left / width_mm, (12.0 + (_PANEL_MM - high) / 2) / height_mm, wide / width_mm, high / height_mm)
        )
        picture = colours.to_rgba(np.nan_to_num(view.value))
        picture[..., :3] *= view.shade[..., None]
        picture[~np.isfinite(view.value)] = (1, 1, 1, 0)
        axis.imshow(picture, interpolation="nearest")
        axis.set_axis_off()
        axis.set_title(view.title, fontsize=_TEXT_PT, color=INK, pad=2)
    bar = figure.add_axes((0.25, 8.0 / height_mm, 0.5, 2.0 / height_mm))
    figure.colorbar(colours, cax=bar, orientation="horizontal", extend="max")
    bar.tick_params(labelsize=_SMALL_PT, length=2, pad=1)
    bar.set_xlabel(words, fontsize=_SMALL_PT, labelpad=1, color=INK)
    what = words.partition(" (")[0]
    shown = f"The bone of the model, coloured by {what}: the greatest within {_DEPTH_MM:g} mm of the surface."
    return as_picture(figure, "surface", caption=shown, alt=shown)


def _views(test: VirtualTest) -> list[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
    """Title, direction of sight and upward direction of each view, along the array axes (z, y, x)."""
    if test is VirtualTest.SPINE_COMPRESSION:  # z to the head, y to the back, x to the left
        up = np.array([1.0, 0.0, 0.0])
        return [
            ("from the front, left and above", np.array([-0.35, 0.8, -0.5]), up),
            ("from the back, right and above", np.array([-0.35, -0.8, 0.5]), up),
        ]
    if test is VirtualTest.HIP_SIDEWAYS_FALL:  # y is the vertical of the fall, z along the shaft
        up = np.array([0.0, 1.0, 0.0])
        return [
            ("one side of the neck, head up", np.array([-0.1, -0.25, 1.0]), up),
            ("the other side", np.array([-0.1, -0.25, -1.0]), up),
        ]
    up = np.array([1.0, 0.0, 0.0])
    return [
        ("one side of the neck", np.array([-0.15, -0.2, 1.0]), up),
        ("the other side", np.array([-0.15, -0.2, -1.0]), up),
    ]


def _seen(result: TestResult, field: NDArray, title: str, towards: NDArray, up: NDArray) -> _Seen:
    """Parallel projection of the surface where half a voxel is bone, by marching along the lines of sight."""
    model = result.model
    h = model.bone.grid.voxel_mm
    fraction = np.where(model.modulus_mpa > 0, model.bone.fraction, 0).astype(np.float32)
    sight = towards / np.linalg.norm(towards)
    vertical = up - (up @ sight) * sight
    vertical /= np.linalg.norm(vertical)
    # Right of the picture: (x, y, z) = sight x vertical, taken in the order (z, y, x) of the arrays.
    across = np.cross(sight[::-1], vertical[::-1])[::-1]
    corners = np.argwhere(fraction > 0.05).astype(np.float64) * h
    middle = (corners.min(axis=0) + corners.max(axis=0)) / 2
    reach = [float(np.abs((corners - middle) @ axis).max()) + 1.5 * h for axis in (vertical, across, sight)]
    rows = np.arange(reach[0], -reach[0], -_PIXEL_MM)
    columns = np.arange(-reach[1], reach[1], _PIXEL_MM)
    start = middle + rows[:, None, None] * vertical + columns[None, :, None] * across - reach[2] * sight
    start = start.reshape(-1, 3)
    found = np.full(len(start), np.nan)
    looking = np.arange(len(start))
    for distance in np.arange(0.0, 2 * reach[2], _STEP_MM):
        at = (start[looking] + distance * sight) / h
        hit = ndimage.map_coordinates(fraction, at.T, order=1) >= 0.5
        found[looking[hit]] = distance
        looking = looking[~hit]
        if not len(looking):
            break
    seen = np.flatnonzero(np.isfinite(found))
    points = (start[seen] + found[seen, None] * sight) / h
    smooth = ndimage.gaussian_filter(fraction, 0.8)
    normal = np.stack([ndimage.map_coordinates(step, points.T, order=1) for step in np.gradient(smooth)], axis=1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    light = sight - 0.5 * vertical + 0.3 * across
    light /= np.linalg.norm(light)
    value = np.zeros(len(seen))
    for depth in np.arange(0.0, _DEPTH_MM + 0.1, h / 2):
        there = np.rint(points + depth / h * sight).astype(int)
        there = np.clip(there, 0, np.array(field.shape) - 1)
        value = np.maximum(value, np.where(model.is_bone, field, 0)[tuple(there.T)])
    shape = (len(rows), len(columns))
    values, shades = np.full(shape, np.nan), np.ones(shape)
    values.reshape(-1)[seen] = value
    shades.reshape(-1)[seen] = 0.35 + 0.65 * np.clip(normal @ light, 0, 1)
    return _Seen(title, values, shades)
