"""A femur laid on a DXA table: posed by its own axes, projected front to back with the soft tissue around it taken off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.density import tables
from pipeline.density.body import mask_window
from pipeline.density.calibration_value import Calibration
from pipeline.errors import NotMeasurable
from pipeline.segmentation.model import Femur, Segmentation
from pipeline.volume import Grid, Volume

PIXEL_MM = 0.8
_STEP_MM = 0.8
_RIM_MM = 2.1
_SHELL_MM = (2.5, 6.0)
_OTHER_BONE_HU = 150.0
_GAS_HU = -250.0
_MARGIN_MM = 12.0


@dataclass(frozen=True)
class Pose:
    """Image axes in LPS coordinates: `distal` runs down the rows, `lateral` along the columns, `depth` through the image.

    `origin_lps_mm` lies at row 0, column 0 and depth 0.
    """

    origin_lps_mm: NDArray[np.float64]
    distal: NDArray[np.float64]
    lateral: NDArray[np.float64]
    depth: NDArray[np.float64]

    def project(self, point_lps_mm: NDArray) -> NDArray[np.float64]:
        """(lateral, distal) in mm from the corner of the image, shape (..., 2), of LPS points (..., 3)."""
        offset = np.asarray(point_lps_mm, float) - self.origin_lps_mm
        return np.stack([offset @ self.lateral, offset @ self.distal], axis=-1)

    def direction(self, vector_lps: NDArray) -> NDArray[np.float64]:
        """(lateral, distal) components of an LPS vector."""
        return np.array([vector_lps @ self.lateral, vector_lps @ self.distal])


@dataclass(frozen=True)
class BonePaths:
    """The bone of a crop split into what each path through it collects.

    Attributes
    ----------
    grid : Grid
        Of the crop.
    excess_hu : float32 ndarray of shape (Z, Y, X)
        HU of bone voxels, and of the rim just outside the bone its HU above the soft tissue there; elsewhere 0.
    bone : float32 ndarray of shape (Z, Y, X)
        1 where a voxel counts as bone, else 0.
    background_hu : float
        Median of the soft tissue around the bone.
    noise_hu : float
        Standard deviation of that soft tissue at the scale of voxels.
    points_lps_mm : float ndarray of shape (N, 3)
        Voxel centres of the bone.
    """

    grid: Grid
    excess_hu: NDArray[np.float32]
    bone: NDArray[np.float32]
    background_hu: float
    noise_hu: float
    points_lps_mm: NDArray[np.float64]


@dataclass(frozen=True)
class Projection:
    """Integrals along the depth of the image, each in (unit of the crop) times mm, shape (H, W)."""

    pose: Pose
    excess_hu_mm: NDArray[np.float64]
    thickness_mm: NDArray[np.float64]

    def areal_g_cm2(self, calibration: Calibration, *, marrow_mg_cm3: float | None = None) -> NDArray[np.float64]:
        """Areal mineral density of each pixel: mg/cm3 times mm is 1e-4 g/cm2.

        Bone is a mixture of bone tissue and marrow: where a share b of the volume is bone tissue, it reads
        ``b tissue + (1 - b) marrow`` on the scale of the calibration, and counts ``b tissue``. The denser the bone, the less
        marrow there is to be taken off.

        Parameters
        ----------
        calibration : Calibration
        marrow_mg_cm3 : float, optional
            What marrow reads, by default the published value for the proximal femur. 0 leaves it out.
        """
        marrow = tables.number("hip.marrow_mg_cm3") if marrow_mg_cm3 is None else marrow_mg_cm3
        tissue = tables.number("hip.bone_tissue_mg_cm3")
        offset = calibration.intercept_mg_cm3 - marrow
        above_marrow = calibration.slope_mg_cm3_per_hu * self.excess_hu_mm + offset * self.thickness_mm
        return np.asarray(1e-4 * tissue / (tissue - marrow) * above_marrow)


def bone_paths(volume: Volume, segmentation: Segmentation, femur: Femur, calibration: Calibration) -> BonePaths:
    """Prepare a femur for projection.

    Inside the mask each voxel counts with its own density; where the locally averaged density is below that of marrow it
    counts as none. In a rim of 2.1 mm outside the mask, what exceeds the soft tissue next to it counts as well: that is the
    bone which blur and partial volume moved out, or which a mask drawn a pixel too small left out. Soft tissue therefore
    adds nothing, and blurring the image changes no total.
    """
    margin = int(np.ceil(_MARGIN_MM / min(volume.spacing_mm)))
    window = mask_window(segmentation, femur.label, femur.name, margin=margin)
    labels = segmentation.labels[window]
    hu = np.asarray(volume.hu[window], np.float32)
    mask = labels == femur.label
    spacing = volume.spacing_mm
    outside_mm = ndimage.distance_transform_edt(~mask, sampling=spacing)
    # Thick slices: the next voxel counts as rim even when its centre is farther than that.
    rim = ((outside_mm <= _RIM_MM) | ndimage.binary_dilation(mask)) & ~mask & (labels == 0)
    soft = (hu < _OTHER_BONE_HU) & (hu > _GAS_HU) & (labels == 0)
    if volume.valid is not None:
        soft &= volume.valid[window]
    shell = (
        soft & (outside_mm > max(_SHELL_MM[0], 0.8 * max(spacing))) & (outside_mm < _SHELL_MM[1] + 0.5 * max(spacing))
    )
    if shell.sum() < 100:
        raise NotMeasurable(
            "no_soft_tissue", "there is no soft tissue around the bone to compare with.", subject=femur.name
        )
    background = float(np.median(hu[shell]))
    near = _local_mean(hu, shell, tuple(4.0 / s for s in spacing), background)
    average = ndimage.gaussian_filter(hu, tuple(1.2 / s for s in spacing))
    marrow = tables.number("hip.marrow_mg_cm3")
    mineral = mask & (average * calibration.slope_mg_cm3_per_hu + calibration.intercept_mg_cm3 > marrow)
    excess = np.where(mineral, hu, 0.0)
    excess[rim] = (hu - near)[rim]
    corner = np.array([s.start for s in window], float)
    matrix = volume.grid.index_to_lps.copy()
    matrix[:3, 3] = volume.grid.to_lps(corner)
    grid = Grid(mask.shape, matrix)
    return BonePaths(
        grid=grid,
        excess_hu=np.ascontiguousarray(excess, np.float32),
        bone=mineral.astype(np.float32),
        background_hu=background,
        noise_hu=float(1.4826 * np.median(np.abs((hu - near)[shell]))),
        points_lps_mm=grid.to_lps(np.argwhere(mask).astype(float)),
    )


def _local_mean(
    hu: NDArray[np.float32], where: NDArray[np.bool_], sigma: tuple[float, ...], fallback: float
) -> NDArray[np.float32]:
    """Mean of the chosen voxels around each voxel, by normalised Gaussian averaging."""
    weight = ndimage.gaussian_filter(where.astype(np.float32), sigma)
    total = ndimage.gaussian_filter(np.where(where, hu, 0).astype(np.float32), sigma)
    return np.where(weight > 0.01, total / np.maximum(weight, 1e-6), fallback).astype(np.float32)


def pose_of(femur: Femur, paths: BonePaths, *, rotation_deg: float = 0.0, flexion_deg: float = 0.0) -> Pose:
    """Shaft vertical, neck axis in the image plane; then turned about the shaft (rotation) and about the lateral axis
    (flexion).

    Raises
    ------
    NotMeasurable
        ``axes_unknown`` if the landmarks lack the neck or the shaft axis.
    """
    marks = femur.landmarks
    if marks is None or marks.neck_axis_lps is None or marks.shaft_axis_lps is None or marks.neck_centre_lps_mm is None:
        raise NotMeasurable("axes_unknown", "neck and shaft axis were not both found.", subject=femur.name)
    distal = marks.shaft_axis_lps / np.linalg.norm(marks.shaft_axis_lps)
    lateral = marks.neck_axis_lps - distal * float(marks.neck_axis_lps @ distal)
    if np.linalg.norm(lateral) < 0.3 * np.linalg.norm(marks.neck_axis_lps):
        raise NotMeasurable("axes_unknown", "neck and shaft axis are nearly parallel.", subject=femur.name)
    lateral = lateral / np.linalg.norm(lateral)
    lateral = _turned(lateral, distal, rotation_deg)
    distal = _turned(distal, lateral, flexion_deg)
    depth = np.cross(distal, lateral)
    offset = paths.points_lps_mm - marks.neck_centre_lps_mm
    start = [float((offset @ axis).min()) - _MARGIN_MM / 2 for axis in (distal, lateral, depth)]
    origin = marks.neck_centre_lps_mm + start[0] * distal + start[1] * lateral + start[2] * depth
    return Pose(origin, distal, lateral, depth)


def _turned(vector: NDArray[np.float64], axis: NDArray[np.float64], angle_deg: float) -> NDArray[np.float64]:
    """A vector perpendicular to `axis`, turned about it."""
    angle = np.radians(angle_deg)
    return np.asarray(np.cos(angle) * vector + np.sin(angle) * np.cross(axis, vector))


def project(paths: BonePaths, pose: Pose) -> Projection:
    """Integrate a posed femur along the depth of the image."""
    offset = paths.points_lps_mm - pose.origin_lps_mm
    height, width, depth = (
        int(np.ceil((float((offset @ axis).max()) + _MARGIN_MM / 2) / step)) + 1
        for axis, step in ((pose.distal, PIXEL_MM), (pose.lateral, PIXEL_MM), (pose.depth, _STEP_MM))
    )
    to_index = np.linalg.inv(paths.grid.index_to_lps[:3, :3])
    steps = np.stack(
        [to_index @ (pose.distal * PIXEL_MM), to_index @ (pose.lateral * PIXEL_MM), to_index @ (pose.depth * _STEP_MM)]
    )
    # A cell of eight voxels without bone or rim adds nothing: most cells are passed over at the cost of one look.
    filled = (paths.excess_hu != 0) | (paths.bone != 0)
    cells = ndimage.maximum_filter(filled.view(np.uint8), size=2, origin=-1)
    excess, thickness = _integrate(
        cells, paths.excess_hu, paths.bone, paths.grid.to_index(pose.origin_lps_mm), steps, height, width, depth
    )
    return Projection(pose, excess * _STEP_MM, thickness * _STEP_MM)


@njit(cache=True, nogil=True)
def _integrate(cells, first, second, start, steps, height, width, depth):  # type: ignore[no-untyped-def]
    """Sum of trilinear samples of two arrays along the third step, for each pixel."""
    nz, ny, nx = first.shape
    out_first = np.zeros((height, width))
    out_second = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            total_first = 0.0
            total_second = 0.0
            for step in range(depth):
                z = start[0] + row * steps[0, 0] + column * steps[1, 0] + step * steps[2, 0]
                y = start[1] + row * steps[0, 1] + column * steps[1, 1] + step * steps[2, 1]
                x = start[2] + row * steps[0, 2] + column * steps[1, 2] + step * steps[2, 2]
                k = int(np.floor(z))
                j = int(np.floor(y))
                i = int(np.floor(x))
                if k < 0 or j < 0 or i < 0 or k >= nz - 1 or j >= ny - 1 or i >= nx - 1:
                    continue
                if cells[k, j, i] == 0:
                    continue
                for dk in range(2):
                    weight_z = z - k if dk else 1.0 - (z - k)
                    for dj in range(2):
                        weight_y = weight_z * (y - j if dj else 1.0 - (y - j))
                        for di in range(2):
                            weight = weight_y * (x - i if di else 1.0 - (x - i))
                            total_first += weight * first[k + dk, j + dj, i + di]
                            total_second += weight * second[k + dk, j + dj, i + di]
            out_first[row, column] = total_first
            out_second[row, column] = total_second
    return out_first, out_second
