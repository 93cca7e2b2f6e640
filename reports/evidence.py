"""What the pictures of a report are drawn from: plain arrays with their pixel size, and nothing of the pipeline.

Images are 2-D float arrays (rows, columns), row 0 on top as drawn, so a view with the head on top has its rows flipped
against a volume whose axis 0 runs to the head. Positions in an image are (row, column) in pixels, fractional, with (0, 0) the
centre of the first pixel. Sizes are in mm along (row, column).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


@dataclass(frozen=True)
class Outline:
    """The edge of one structure in a view.

    Attributes
    ----------
    name : str
        ``vertebra_L1``; decides the colour, so that a structure has the same one in every picture.
    mask : bool ndarray of shape (R, C) or None
        Outlined at its edge.
    path : float ndarray of shape (N, 2) or None
        Open or closed line (row, column) in pixels, instead of a mask.
    dashed : bool
        True for a region or a construction line, as opposed to an anatomical border.
    """

    name: str
    mask: NDArray[np.bool_] | None = None
    path: NDArray[np.float64] | None = None
    dashed: bool = False


@dataclass(frozen=True)
class Label:
    """A word at a place (row, column) of a view."""

    text: str
    row: float
    column: float


@dataclass(frozen=True)
class SliceView:
    """One cut or projection with what is drawn over it.

    Attributes
    ----------
    image : float ndarray of shape (R, C)
        HU of a CT cut, or g/cm2 of a projection; NaN is drawn white.
    pixel_mm : (float, float)
        Size of a pixel along (row, column); drawn with its true aspect.
    title : str
    outlines, labels
    points : float ndarray of shape (N, 2)
        Landmarks (row, column) in pixels.
    sides : (str, str, str, str)
        Letters at the left, right, top and bottom edge: ``("A", "P", "H", "F")``.
    window : (float, float)
        Centre and width of the grey scale, in units of the image.
    """

    image: NDArray
    pixel_mm: tuple[float, float]
    title: str = ""
    outlines: tuple[Outline, ...] = ()
    labels: tuple[Label, ...] = ()
    points: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 2)))
    sides: tuple[str, str, str, str] = ("", "", "", "")
    window: tuple[float, float] = (250.0, 1100.0)

    def __post_init__(self) -> None:
        if self.image.ndim != 2:
            raise ValueError(f"a view is a 2-D image, not one of shape {self.image.shape}")
        if min(self.pixel_mm) <= 0:
            raise ValueError(f"pixel size {self.pixel_mm} mm")
        for outline in self.outlines:
            if outline.mask is not None and outline.mask.shape != self.image.shape:
                raise ValueError(f"mask of {outline.name} has shape {outline.mask.shape}, image {self.image.shape}")


@dataclass(frozen=True)
class VertebraCrop:
    """The mid-sagittal cut of one body with its six points.

    Attributes
    ----------
    view : SliceView
        Its `points` are the six points: upper anterior, middle, posterior, then lower anterior, middle, posterior.
    name : str
        ``L1``, or ``u1`` when the level is not known.
    remark : str
        One short line under the name: ``grade 1 wedge, 22 %``.
    """

    view: SliceView
    name: str
    remark: str = ""


@dataclass(frozen=True)
class HipView:
    """One hip: the projection with the regions of the density measurement, and the CT it was made from.

    Attributes
    ----------
    side : str
        ``left`` or ``right``.
    projection : SliceView or None
        Areal density in g/cm2 with one outline per region.
    coronal : SliceView or None
        CT with the outline of the femur.
    """

    side: str
    projection: SliceView | None = None
    coronal: SliceView | None = None


@dataclass(frozen=True)
class FieldCut:
    """One cut of a finite-element model beside the CT at the same place.

    Attributes
    ----------
    name : str
        ``vertebra_L1`` or ``femur_left``.
    ct : SliceView
    values : float ndarray of the shape of ``ct.image``
        Field on the cut; NaN outside the model.
    quantity, unit : str
        ``strain energy density``, ``kPa``.
    load : str
        What is pressed where, in a few words.
    load_direction : (float, float) or None
        Direction (row, column) in which the load acts in this cut, drawn as an arrow.
    """

    name: str
    ct: SliceView
    values: NDArray
    quantity: str
    unit: str
    load: str = ""
    load_direction: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.values.shape != self.ct.image.shape:
            raise ValueError(f"field of shape {self.values.shape} on a cut of shape {self.ct.image.shape}")


@dataclass(frozen=True)
class Evidence:
    """All that the pipeline hands over to be drawn for one study; any part may be missing."""

    sagittal: SliceView | None = None
    coronal: SliceView | None = None
    crops: tuple[VertebraCrop, ...] = ()
    hips: tuple[HipView, ...] = ()
    fields: tuple[FieldCut, ...] = ()


def spine_views(
    hu: NDArray,
    labels: NDArray,
    names: Mapping[int, str],
    spacing_mm: Sequence[float],
    *,
    six_points: NDArray[np.float64] | None = None,
    slab_mm: float = 3.0,
    margin_mm: float = 35.0,
) -> tuple[SliceView, SliceView]:
    """A sagittal and a coronal view that follow the spine, so that a scoliotic spine stays in both.

    Each row of the sagittal view is taken at the left-right position of the bodies at that height (linear between their
    centroids), and averaged over a thin slab; likewise the coronal view in front-back direction.

    Parameters
    ----------
    hu : ndarray of shape (Z, Y, X)
        Axes to the head, to the back, to the left of the patient.
    labels : integer ndarray of shape (Z, Y, X)
    names : mapping of int to str
        Label to structure name; those that begin with ``vertebra_`` are outlined and named.
    spacing_mm : (z, y, x)
    six_points : float ndarray of shape (N, 3), optional
        Endplate points as array indices (k, j, i), drawn in the sagittal view.
    slab_mm : float
        Thickness of the slab that is averaged.
    margin_mm : float
        What is shown around the bodies.

    Raises
    ------
    ValueError
        If no label of a vertebra occurs.
    """
    boxes = ndimage.find_objects(labels)
    present = [n for n in names if names[n].startswith("vertebra_") and n <= len(boxes) and boxes[n - 1] is not None]
    if not present:
        raise ValueError("no vertebra in the label map")
    centroids = np.array([_centroid(labels, boxes[n - 1], n) for n in present])
    from_head = np.argsort(-centroids[:, 0])
    present, centroids = [present[i] for i in from_head], centroids[from_head]
    low = np.array([min(boxes[n - 1][axis].start for n in present) for axis in range(3)])
    high = np.array([max(boxes[n - 1][axis].stop for n in present) for axis in range(3)])
    pad = np.ceil(margin_mm / np.asarray(spacing_mm)).astype(int)
    low, high = np.maximum(low - pad, 0), np.minimum(high + pad, hu.shape)
    rows = np.arange(low[0], high[0])[::-1]
    views = []
    for across, along, title, sides in (
        (2, 1, "Sagittal", ("A", "P", "H", "F")),
        (1, 2, "Coronal", ("R", "L", "H", "F")),
    ):
        position = np.interp(rows, centroids[::-1, 0], centroids[::-1, across])
        columns = np.arange(low[along], high[along])
        half = max(0, round(slab_mm / spacing_mm[across] / 2))
        slab = [_follow(hu, rows, columns, position + shift, across).astype(float) for shift in range(-half, half + 1)]
        image = np.mean(slab, axis=0)
        cut = _follow(labels, rows, columns, position, across)
        outlines = tuple(Outline(names[n], mask=cut == n) for n in present if (cut == n).any())
        words = tuple(
            Label(names[n].removeprefix("vertebra_"), float(high[0] - 1 - c[0]), float(c[along] - low[along]))
            for n, c in zip(present, centroids, strict=True)
        )
        points = np.empty((0, 2))
        if across == 2 and six_points is not None and len(six_points):
            points = np.stack([high[0] - 1 - six_points[:, 0], six_points[:, along] - low[along]], axis=1)
        views.append(SliceView(image, (spacing_mm[0], spacing_mm[along]), title, outlines, words, points, sides))
    return views[0], views[1]


def femur_view(
    hu: NDArray, mask: NDArray[np.bool_], spacing_mm: Sequence[float], *, name: str, margin_mm: float = 8.0
) -> SliceView:
    """A CT cut from side to side that follows a femur from its shaft into neck and head, with its outline.

    A flat coronal cut through a femur misses the shaft or the head, because the neck points forwards and the shaft is bowed.
    This one lies at the mean front-back position of the bone, a smooth surface over the coronal plane.

    Parameters
    ----------
    hu : ndarray of shape (Z, Y, X)
    mask : bool ndarray of shape (Z, Y, X)
        The femur.
    spacing_mm : (z, y, x)
    name : str
        ``femur_left`` or ``femur_right``.
    margin_mm : float
        What is shown around the bone.

    Raises
    ------
    ValueError
        If the mask is empty.
    """
    box = ndimage.find_objects(mask.view(np.uint8))
    if not box:
        raise ValueError(f"the mask of {name} is empty")
    pad = np.ceil(margin_mm / np.asarray(spacing_mm)).astype(int)
    low = np.maximum([s.start for s in box[0]] - pad, 0)
    high = np.minimum([s.stop for s in box[0]] + pad, hu.shape)
    k, i = np.arange(low[0], high[0])[::-1, None], np.arange(low[2], high[2])[None, :]
    j = np.clip(_mean_surface(mask, k, i), box[0][1].start, box[0][1].stop - 1)
    at = np.stack(np.broadcast_arrays(k - low[0], j - low[1], i - low[2]))
    near = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    image = ndimage.map_coordinates(hu[near].astype(np.float32), at, order=1, mode="nearest")
    inside = ndimage.map_coordinates(mask[near].astype(np.float32), at, order=1, mode="nearest") > 0.5
    pixel_mm = (float(spacing_mm[0]), float(spacing_mm[2]))
    outline = Outline(name, mask=inside)
    return SliceView(image, pixel_mm, "CT", (outline,), sides=("R", "L", "H", "F"))


_MOST_FITTED = 20_000


def _mean_surface(mask: NDArray[np.bool_], k: NDArray, i: NDArray) -> NDArray[np.float64]:
    """Front-back index of the middle of a mask as a smooth function of height `k` and side `i`, by least squares."""
    inside = np.argwhere(mask)
    inside = inside[:: max(1, len(inside) // _MOST_FITTED)].astype(float)
    middle, scale = inside.mean(axis=0), np.maximum(inside.std(axis=0), 1.0)

    def terms(height: NDArray, side: NDArray) -> NDArray[np.float64]:
        u, v = (height - middle[0]) / scale[0], (side - middle[2]) / scale[2]
        u, v = np.broadcast_arrays(u, v)
        return np.stack([np.ones_like(u), u, v, u * v, u**2], axis=-1)

    fitted, *_ = np.linalg.lstsq(terms(inside[:, 0], inside[:, 2]), inside[:, 1], rcond=None)
    return np.asarray(terms(k.astype(float), i.astype(float)) @ fitted)


def _centroid(labels: NDArray, box: tuple[slice, ...], number: int) -> NDArray[np.float64]:
    inside = np.argwhere(labels[box] == number)
    return np.asarray(inside.mean(axis=0) + [s.start for s in box])


def _follow(array: NDArray, rows: NDArray, columns: NDArray, position: NDArray, across: int) -> NDArray:
    """Nearest values of `array` at each (row, column), at the `position` of the row along axis `across`."""
    nearest = np.clip(np.rint(position), 0, array.shape[across] - 1).astype(int)[:, None]
    k, u = rows[:, None], columns[None, :]
    followed: NDArray = array[k, u, nearest] if across == 2 else array[k, nearest, u]
    return followed
