"""Reference tissues found in the image: outside air, fat, muscle beside the skeleton, blood in the aorta.

The image is averaged to blocks of about 3 mm, which lowers the noise and makes every case cost the same. A sample is the
mode of homogeneous blocks in the right place: neighbours must belong to the same tissue, so that partial volume does not
enter, and the mode does not move when other tissue is mixed in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.density.aorta import find_aorta
from pipeline.density.body_size import water_equivalent_diameter_mm
from pipeline.errors import Finding, Severity
from pipeline.segmentation.model import Segmentation
from pipeline.volume import Volume

_BLOCK_MM = 3.0
_WINDOW_HU = {"adipose": (-160.0, -40.0), "muscle": (0.0, 110.0), "air": (-1100.0, -940.0)}
_FEWEST_BLOCKS = {"adipose": 60, "muscle": 60, "air": 60}
_METAL_HU = 2000.0


@dataclass(frozen=True)
class TissueSample:
    """What one reference tissue reads in this scan.

    Attributes
    ----------
    tissue : str
        ``"air"``, ``"adipose"``, ``"muscle"``, ``"blood"``, ``"cortical_bone"``, or the name of a phantom rod.
    hu : float
        Mode of the homogeneous samples.
    sd_hu : float
        Spread of the samples around it.
    n : int
        Number of independent samples (blocks of about 3 mm).
    where : str
        Where it was found, in words.
    points_lps_mm : float ndarray of shape (N, 3)
        Some of the places, for a picture; at most 400.
    """

    tissue: str
    hu: float
    sd_hu: float
    n: int
    where: str
    points_lps_mm: NDArray[np.float64]

    @property
    def standard_error_hu(self) -> float:
        return float(self.sd_hu / np.sqrt(max(self.n, 1)))


@dataclass(frozen=True)
class TissueSurvey:
    """All samples of one scan, and why the missing ones are missing.

    Attributes
    ----------
    samples : dict of str to TissueSample
    findings : tuple of Finding
    blood_enhanced : bool or None
        Whether the aorta holds contrast agent; None when no large vessel was found.
    metal : bool
        Whether there is metal in the field.
    water_diameter_mm : float or None
        Water-equivalent diameter of the body (`body_size`); None if the field of view cuts its outline.
    least_water_diameter_mm : float or None
        The same of the part in view, which is less than the whole.
    free_air : bool
        Whether the air was sampled well away from the body; near it scatter raises it, and in a crop it may be lung.
    """

    samples: dict[str, TissueSample]
    findings: tuple[Finding, ...]
    blood_enhanced: bool | None
    metal: bool
    water_diameter_mm: float | None = None
    least_water_diameter_mm: float | None = None
    free_air: bool = True


@dataclass(frozen=True)
class _Blocks:
    """Block means of a volume with the map from block index to LPS."""

    mean_hu: NDArray[np.float32]
    usable: NDArray[np.bool_]
    factor: tuple[int, int, int]
    volume: Volume

    def to_lps(self, index: NDArray) -> NDArray[np.float64]:
        factor = np.array(self.factor, float)
        return self.volume.grid.to_lps(index * factor + (factor - 1) / 2)


def survey_tissues(volume: Volume, segmentation: Segmentation) -> TissueSurvey:
    """Find the reference tissues of a scan.

    Parameters
    ----------
    volume : Volume
        Whole bodies and crops alike; padding is recognised.
    segmentation : Segmentation
        Tells where the skeleton is; with no structure in it, muscle and blood are not looked for.

    Returns
    -------
    TissueSurvey
    """
    blocks = _block_means(volume)
    diameter = water_equivalent_diameter_mm(blocks.mean_hu, _block_spacing(blocks))
    findings: list[Finding] = []
    metal = bool(ndimage.binary_opening(blocks.mean_hu > _METAL_HU).any() or (blocks.mean_hu > _METAL_HU).sum() > 8)
    if metal:
        findings.append(
            Finding(
                "metal_in_view",
                Severity.WARNING,
                f"Metal is in the field of view (blocks of {_BLOCK_MM:.0f} mm above {_METAL_HU:.0f} HU); streaks disturb "
                "densities near it, and reference tissue is taken at least 60 mm away from it.",
            )
        )
        near = ndimage.distance_transform_edt(blocks.mean_hu <= _METAL_HU, sampling=_block_spacing(blocks)) < 60.0
        blocks = _Blocks(blocks.mean_hu, blocks.usable & ~near, blocks.factor, volume)
    found: dict[str, TissueSample] = {}
    air, free_air = _outside_air(blocks)
    places = {
        "air": (air, "air around the body"),
        "adipose": (blocks.usable, "subcutaneous and other fat"),
        "muscle": (_beside_the_skeleton(blocks, segmentation), "muscle beside the skeleton"),
    }
    for tissue, (place, where) in places.items():
        sample = _sample(blocks, place, tissue, where)
        if sample is None:
            findings.append(
                Finding(
                    f"no_reference_{tissue}",
                    Severity.INFO,
                    f"Not enough homogeneous {tissue} in view to serve as a reference tissue.",
                )
            )
        else:
            found[tissue] = sample
    cortical = _densest_bone(volume, segmentation)
    if cortical is not None and not metal:
        found["cortical_bone"] = cortical
    vessel = find_aorta(volume, segmentation)
    enhanced: bool | None = None
    if vessel is None:
        findings.append(
            Finding(
                "no_reference_blood", Severity.INFO, "No large vessel was found beside the spine, so blood is not used."
            )
        )
    else:
        found["blood"] = TissueSample(
            "blood", vessel.hu, vessel.sd_hu, vessel.n, f"{vessel.length_mm:.0f} mm of aorta", vessel.points_lps_mm
        )
        enhanced = vessel.enhanced
    return TissueSurvey(found, tuple(findings), enhanced, metal, *diameter, free_air)


def _densest_bone(volume: Volume, segmentation: Segmentation) -> TissueSample | None:
    """Mean of about 450 mm3 of the densest bone, the 25 mm3 above it left out (after Michalski et al. 2020)."""
    hu = volume.hu[segmentation.labels > 0]
    drop, keep = (max(1, round(mm3 / volume.grid.voxel_volume_mm3)) for mm3 in (25.0, 450.0))
    if hu.size < 20 * (drop + keep):
        return None
    densest = np.sort(np.partition(hu, hu.size - drop - keep)[-(drop + keep) :])[:keep].astype(float)
    return TissueSample(
        "cortical_bone", float(densest.mean()), float(densest.std()), keep, "densest bone", np.zeros((0, 3))
    )


def _block_spacing(blocks: _Blocks) -> tuple[float, float, float]:
    z, y, x = (s * f for s, f in zip(blocks.volume.spacing_mm, blocks.factor, strict=True))
    return z, y, x


def _block_means(volume: Volume) -> _Blocks:
    """Mean of each block, and whether it is free of padding.

    Padding is what `volume.valid` says, values no scanner measures (below -1500 HU), and blocks in which every voxel has
    the same value: real air has noise.
    """
    fz, fy, fx = (max(1, round(_BLOCK_MM / s)) for s in volume.spacing_mm)
    shape = tuple(n // f for n, f in zip(volume.shape, (fz, fy, fx), strict=True))
    if min(shape) < 3:
        fz, fy, fx = (1 if n // f < 3 else f for n, f in zip(volume.shape, (fz, fy, fx), strict=True))
        shape = tuple(n // f for n, f in zip(volume.shape, (fz, fy, fx), strict=True))
    total = np.zeros(shape, np.float32)
    low = np.full(shape, np.inf, np.float32)
    high = np.full(shape, -np.inf, np.float32)
    valid = np.ones(shape, bool)
    # Two slices of a block are enough, which keeps thin slices as cheap as thick ones.
    chosen = sorted({0, fz // 2})
    for k in chosen:
        for j in range(fy):
            for i in range(fx):
                pick = tuple(
                    slice(offset, offset + n * f, f)
                    for offset, n, f in zip((k, j, i), shape, (fz, fy, fx), strict=True)
                )
                part = volume.hu[pick]
                total += part
                np.minimum(low, part, out=low)
                np.maximum(high, part, out=high)
                if volume.valid is not None:
                    valid &= volume.valid[pick]
    mean = (total / np.float32(len(chosen) * fy * fx)).astype(np.float32)
    constant = low == high if fz * fy * fx > 1 else _constant_neighbourhood(mean)
    usable = valid & (low > -1500) & ~constant
    return _Blocks(mean, usable, (fz, fy, fx), volume)


def _constant_neighbourhood(hu: NDArray[np.float32]) -> NDArray[np.bool_]:
    same = ndimage.maximum_filter(hu, 3) == ndimage.minimum_filter(hu, 3)
    return np.asarray(ndimage.binary_dilation(same, np.ones((3, 3, 3))))


def _outside_air(blocks: _Blocks) -> tuple[NDArray[np.bool_], bool]:
    """Blocks of air connected with the border of the field in their slice, so that lung and bowel gas stay out.

    With whether they lie 15 mm from anything else, where there is enough of such air.
    """
    air = blocks.mean_hu < _WINDOW_HU["air"][1]
    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[1] = True
    components, _ = ndimage.label(air, in_plane)
    edge = np.concatenate(
        [components[:, e, :].ravel() for e in (0, -1)] + [components[:, :, e].ravel() for e in (0, -1)]
    )
    keep = np.zeros(int(components.max()) + 1, bool)
    keep[edge] = True
    keep[0] = False
    outside = keep[components] & ndimage.binary_erosion(air & blocks.usable)
    # Close to the body, scatter raises air, and in a crop lung can reach the border; far from both it is plain air.
    reach = [2 * round(15.0 / s) + 1 for s in _block_spacing(blocks)[1:]]
    far = outside & (ndimage.minimum_filter(air.view(np.uint8), size=(1, *reach), mode="nearest") > 0)
    free = bool(far.sum() >= 4 * _FEWEST_BLOCKS["air"])
    return np.asarray(far if free else outside), free


def _beside_the_skeleton(blocks: _Blocks, segmentation: Segmentation) -> NDArray[np.bool_]:
    """Where spinal erector and hip muscles lie: behind the vertebral bodies, and around the femora."""
    place = np.zeros(blocks.mean_hu.shape, bool)
    spacing = np.array(_block_spacing(blocks))
    for vertebra in segmentation.vertebrae:
        centre = (segmentation.grid.to_index(vertebra.frame.centre_lps_mm) + 0.5) / np.array(blocks.factor)
        low = np.maximum(np.floor(centre - np.array([16.0, 90.0, 60.0]) / spacing).astype(int), 0)
        high = np.minimum(np.ceil(centre + np.array([16.0, 90.0, 60.0]) / spacing).astype(int), place.shape)
        if (high <= low).any():
            continue
        window = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        index = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), -1)
        u, v, w = np.moveaxis(vertebra.frame.to_frame(blocks.to_lps(index.astype(float))), -1, 0)
        behind = vertebra.depth_mm / 2
        place[window] |= (np.abs(w) < 14) & (np.abs(u) > 8) & (np.abs(u) < 45) & (v > behind + 12) & (v < behind + 60)
    if place.any() or not segmentation.femora:
        return place & blocks.usable
    size: tuple[int, ...] = blocks.mean_hu.shape
    factor = blocks.factor
    step = tuple(slice(factor[a] // 2, size[a] * factor[a], factor[a]) for a in range(3))
    for femur in segmentation.femora:
        bone = segmentation.labels[step] == femur.label
        if not bone.any():
            continue
        distance = ndimage.distance_transform_edt(~bone, sampling=spacing)
        # Not towards the midline, where bladder and bowel lie.
        x = np.arange(size[2]) - np.argwhere(bone)[:, 2].mean()
        lateral = (x if femur.side == "left" else -x) * spacing[2] > -25.0
        place |= (distance > 8) & (distance < 60) & lateral
    return place & blocks.usable


def _sample(blocks: _Blocks, place: NDArray[np.bool_], tissue: str, where: str) -> TissueSample | None:
    """Mode and spread of the homogeneous blocks of one tissue in `place`, or None if there are too few."""
    low, high = _WINDOW_HU[tissue]
    inside = (blocks.mean_hu > low) & (blocks.mean_hu < high) & blocks.usable
    pure = ndimage.binary_erosion(inside) & place
    if pure.sum() < _FEWEST_BLOCKS[tissue]:
        return None
    values = blocks.mean_hu[pure].astype(float)
    mode = half_sample_mode(values)
    spread = 1.4826 * float(np.median(np.abs(values - mode)))
    near = np.abs(values - mode) < max(2.5 * spread, 5.0)
    # The mode of skewed data is noisier than their mean; the mean of what lies around the mode has the better of both.
    centre = float(values[near].mean())
    if tissue != "air" and not low + 10 < centre < high - 10:
        return None
    index = np.argwhere(pure)[near]
    points = blocks.to_lps(index[:: max(1, len(index) // 400)].astype(float))
    return TissueSample(tissue, centre, float(values[near].std()), int(near.sum()), where, points)


def half_sample_mode(values: NDArray[np.float64]) -> float:
    """Mode of a continuous sample: halve the interval to the densest half until few values remain (Bickel 2006)."""
    ordered = np.sort(np.asarray(values, float))
    while ordered.size > 20:
        half = (ordered.size + 1) // 2
        widths = ordered[half - 1 :] - ordered[: ordered.size - half + 1]
        start = int(np.argmin(widths))
        ordered = ordered[start : start + half]
    return float(ordered.mean())
