"""Pictures of a virtual test: fields on the plane of the load, with the image at the same place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fea.bone.evaluate import TestResult
from fea.bone.profiles import VirtualTest
from pipeline.segmentation.sampling import sample_lps
from pipeline.strength.result import BoneImage
from pipeline.volume import Grid
from reports.evidence import FieldCut, SliceView

_LOAD = {
    VirtualTest.SPINE_COMPRESSION: "compression of the end plates",
    VirtualTest.HIP_SIDEWAYS_FALL: "fall to the side",
    VirtualTest.HIP_STANCE: "single-leg stance",
}
_SURROUND_HU = -1000.0


def cuts_of(result: TestResult, image: BoneImage, name: str) -> tuple[FieldCut, ...]:
    """Strain energy density on the middle plane of the bone; where the profile has a yield law, also nearness to yield.

    Vertebra: the mid-sagittal plane of the body, head on top, front to the left. Femur: the plane of the load and the shaft
    through the middle of the head's cap, proximal on top, lateral (in a fall the ground) to the left.
    """
    model = result.model
    grid = model.bone.grid
    loaded = next(s for s in model.supports if s.name == model.loaded)
    # Array axis 2 is the left of a vertebra and lies across load and shaft in a femur.
    plane = int(np.clip(round(float(np.median(loaded.nodes[:, 2]))), 0, grid.shape[2] - 1))
    if model.test is VirtualTest.SPINE_COMPRESSION:
        plane = int(np.median(np.nonzero(model.is_bone.any(axis=(0, 1)))[0]))
    rows, columns = np.arange(grid.shape[0])[::-1], np.arange(grid.shape[1])
    index = np.stack(np.broadcast_arrays(rows[:, None] + 0.5, columns[None, :] + 0.5, plane + 0.5), axis=-1)
    points = grid.to_world(index)
    source = Grid((image.grey.shape[0], image.grey.shape[1], image.grey.shape[2]), image.index_to_lps)
    fill = _SURROUND_HU if image.is_hu else 0.0
    grey = sample_lps(np.ascontiguousarray(image.grey), source, points, fill=fill)
    spine = model.test is VirtualTest.SPINE_COMPRESSION
    view = SliceView(
        image=grey,
        pixel_mm=(grid.voxel_mm, grid.voxel_mm),
        title=name,
        sides=("A", "P", "H", "F") if spine else ("", "", "", ""),
        window=(250.0, 1100.0) if image.is_hu else (200.0, 800.0),
    )
    bone = model.is_bone[::-1, :, plane]
    towards = (1.0, 0.0) if model.load_axis == 0 else (0.0, -1.0)

    def cut(values: NDArray, quantity: str, unit: str) -> FieldCut:
        shown = np.where(bone, values[::-1, :, plane], np.nan)
        return FieldCut(name, view, shown, quantity, unit, _LOAD[model.test], towards)

    cuts = [cut(1000 * result.energy_density_mpa, "strain energy density", "kPa")]
    if result.yield_ratio is not None and result.first_yield_n is not None:
        at_strength = result.strength_n[model.profile.strength] / result.force_n
        cuts.append(cut(at_strength * result.yield_ratio, "stress at the strength / yield stress", "1"))
    return tuple(cuts)
