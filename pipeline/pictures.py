"""From measured volumes to the cuts that the report shows: plain arrays with outlines, for `reports.evidence`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import Status
from pipeline.fracture import VertebraShape
from pipeline.measure import Measured
from pipeline.segmentation.model import Segmentation, Vertebra
from pipeline.segmentation.sampling import sample_lps
from pipeline.volume import Volume
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

_CROP_PIXEL_MM = 0.5
_CROP_ABOVE_MM = 24.0
_CROP_FRONT_MM = 30.0
_CROP_BACK_MM = 26.0
_OUTSIDE_HU = -1000.0
_REGION_NAMES = {1: "femoral_neck", 2: "trochanter", 3: "intertrochanter"}
_SHORT_NAMES = {"femoral_neck": "neck", "trochanter": "troch.", "intertrochanter": "intertroch."}
_SHOWN = (Status.OK, Status.WARNING)


def evidence_of(volume: Volume, segmentation: Segmentation, measured: Measured) -> Evidence:
    """Everything worth showing of one volume; parts for which nothing was found are missing.

    Parameters
    ----------
    volume : Volume
    segmentation : Segmentation
        On the grid of `volume`.
    measured : Measured
        Of this volume.
    """
    sagittal = coronal = None
    if segmentation.vertebrae:
        names = {v.label: v.name for v in segmentation.vertebrae}
        points = [s.points_lps_mm.reshape(-1, 3) for s in measured.shapes.values() if s.points_lps_mm is not None]
        six = segmentation.grid.to_index(np.concatenate(points)) if points else None
        sagittal, coronal = spine_views(volume.hu, segmentation.labels, names, volume.spacing_mm, six_points=six)
    crops = tuple(
        _crop(volume, segmentation, vertebra, measured.shapes.get(vertebra.name))
        for vertebra in segmentation.vertebrae
        if vertebra.status in _SHOWN
    )
    return Evidence(
        sagittal=sagittal,
        coronal=coronal,
        crops=crops,
        hips=_hips(volume, segmentation, measured),
        fields=_fields(measured),
    )


def _crop(volume: Volume, segmentation: Segmentation, vertebra: Vertebra, shape: VertebraShape | None) -> VertebraCrop:
    """The mid-sagittal plane of a body in its own frame: rows from its head end down, columns from front to back."""
    frame = vertebra.frame
    posterior = np.arange(-_CROP_FRONT_MM, _CROP_BACK_MM, _CROP_PIXEL_MM)
    superior = np.arange(_CROP_ABOVE_MM, -_CROP_ABOVE_MM, -_CROP_PIXEL_MM)
    points = frame.to_lps(np.zeros(1), posterior[None, :], superior[:, None])
    image = sample_lps(volume.hu, volume.grid, points, fill=_OUTSIDE_HU)
    mask = sample_lps(segmentation.mask(vertebra), segmentation.grid, points, fill=0.0) > 0.5
    six = np.empty((0, 2))
    remark = ""
    if shape is not None and shape.points_lps_mm is not None:
        local = frame.to_frame(shape.points_lps_mm.reshape(-1, 3))
        rows = (_CROP_ABOVE_MM - local[:, 2]) / _CROP_PIXEL_MM
        six = np.stack([rows, (local[:, 1] + _CROP_FRONT_MM) / _CROP_PIXEL_MM], axis=1)
    if shape is not None and shape.genant_grade and shape.height_loss is not None:
        remark = f"grade {shape.genant_grade} {shape.deformity}, {100 * shape.height_loss.value:.0f} %"
    view = SliceView(
        image=image,
        pixel_mm=(_CROP_PIXEL_MM, _CROP_PIXEL_MM),
        outlines=(Outline(vertebra.name, mask=mask),),
        points=six,
        sides=("A", "P", "H", "F"),
    )
    return VertebraCrop(view, vertebra.level or vertebra.name.removeprefix("vertebra_"), remark)


def _hips(volume: Volume, segmentation: Segmentation, measured: Measured) -> tuple[HipView, ...]:
    views = []
    for femur in segmentation.femora:
        if femur.status not in _SHOWN:
            continue
        mask = segmentation.mask(femur)
        if not mask.any():
            continue
        density = measured.hips.get(femur.name)
        projection = None
        if density is not None:
            # Measured with medial to the left; the right hip is mirrored to be seen as in the CT beside it.
            right = femur.side == "right"
            seen = slice(None, None, -1) if right else slice(None)
            image, regions = density.image_g_cm2[:, seen], density.region_labels[:, seen]
            projection = SliceView(
                image=image,
                pixel_mm=(density.pixel_mm, density.pixel_mm),
                title="Projection",
                outlines=tuple(
                    Outline(name, mask=regions == number, dashed=True) for number, name in _REGION_NAMES.items()
                ),
                labels=tuple(_region_labels(regions)),
                window=_window(image),
                sides=("lateral", "medial", "H", "F") if right else ("medial", "lateral", "H", "F"),
            )
        coronal = femur_view(volume.hu, mask, volume.spacing_mm, name=femur.name)
        views.append(HipView(femur.side, projection, coronal))
    return tuple(views)


def _region_labels(regions: NDArray) -> Iterator[Label]:
    """The name of each region in its middle."""
    for number, name in _REGION_NAMES.items():
        if (inside := np.argwhere(regions == number)).size:
            row, column = inside.mean(axis=0)
            yield Label(_SHORT_NAMES[name], float(row), float(column))


def _window(image: NDArray) -> tuple[float, float]:
    """Grey scale of a projection, in g/cm2: from nothing to its densest percent."""
    top = float(np.nanpercentile(image, 99.5)) if image.size else 1.0
    top = max(top, 0.1)
    return top / 2, top


def _fields(measured: Measured) -> tuple[FieldCut, ...]:
    """All fields of the weakest vertebra and of each femur that was tested: the strengths that lead the report."""
    tested = {name: result.strength.value for name, result in measured.strengths.items() if result.strength is not None}
    bodies = [name for name in tested if name.startswith("vertebra")]
    weakest = min(bodies, key=lambda name: tested[name], default=None)
    names = [name for name in measured.strengths if name.startswith("femur")]
    return tuple(cut for name in ([weakest] if weakest else []) + names for cut in measured.strengths[name].cuts)
