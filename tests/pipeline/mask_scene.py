"""A scene of solids for the tests of outside masks: three vertebrae with arches and two femora in a block of muscle.

Which voxel belongs to which body is known without any segmentation.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipeline.errors import InputRefused
from pipeline.segmentation.masks import read_masks
from pipeline.segmentation.model import LABEL_OF, Segmentation
from pipeline.volume import Grid, Source, Volume
from tests.pipeline.test_femur_landmarks import SolidFemur

LEVELS = ("L1", "L2", "L3")
TILT_DEG = {"L1": 8.0, "L2": 0.0, "L3": -12.0}
SPACING_MM = (2.5, 2.0, 2.0)


@dataclass(frozen=True)
class SolidVertebra:
    """An elliptic body, two pedicles, laminae, transverse and spinous processes about a canal of 8 mm radius."""

    centre_lps_mm: tuple[float, float, float]
    tilt_deg: float = 0.0
    width_mm: float = 44.0
    depth_mm: float = 32.0
    height_mm: float = 26.0

    @property
    def axes(self) -> np.ndarray:
        """Rows: left, posterior, superior."""
        c, s = np.cos(np.radians(self.tilt_deg)), np.sin(np.radians(self.tilt_deg))
        return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])

    def local(self, points: np.ndarray) -> np.ndarray:
        return (points - self.centre_lps_mm) @ self.axes.T

    def body(self, points: np.ndarray) -> np.ndarray:
        u, v, w = np.moveaxis(self.local(points), -1, 0)
        return (np.hypot(u / (self.width_mm / 2), v / (self.depth_mm / 2)) < 1) & (np.abs(w) < self.height_mm / 2)

    def whole(self, points: np.ndarray) -> np.ndarray:
        u, v, w = np.moveaxis(self.local(points), -1, 0)
        canal = v - self.depth_mm / 2 - 8.5
        ring = np.hypot(u, canal)
        upper = (w > 0) & (w < 10)
        pedicles = (np.abs(np.abs(u) - 11) < 4) & (v > 8) & (canal < 4) & upper
        laminae = (ring > 8) & (ring < 13) & (canal > -2) & (np.abs(w + 3) < 10)
        transverse = (np.abs(u) > 10) & (np.abs(u) < 38) & (np.abs(canal + 3) < 3.5) & (np.abs(w - 5) < 4)
        spinous = (np.abs(u) < 3) & (canal > 9) & (canal < 30) & (np.abs(w + 6) < 7)
        return self.body(points) | pedicles | laminae | transverse | spinous


VERTEBRAE = {level: SolidVertebra((0.0, 0.0, 34.0 * (1 - i)), TILT_DEG[level]) for i, level in enumerate(LEVELS)}
FEMORA = {
    "left": SolidFemur(side="left", centre_lps_mm=(75.0, -5.0, 25.0)),
    "right": SolidFemur(side="right", centre_lps_mm=(-75.0, -5.0, 25.0)),
}


@dataclass(frozen=True)
class Scene:
    volume: Volume
    vertebrae: dict[str, np.ndarray]
    bodies: dict[str, np.ndarray]
    femora: dict[str, np.ndarray]

    @property
    def named(self) -> dict[str, np.ndarray]:
        """Masks by TotalSegmentator's class names."""
        whole = {f"vertebrae_{level}": mask for level, mask in self.vertebrae.items()}
        return whole | {f"femur_{side}": mask for side, mask in self.femora.items()}


def femur_mask(side: str, points: np.ndarray) -> np.ndarray:
    femur = FEMORA[side]
    offset = points - femur.centre_lps_mm
    if side == "left":
        offset = offset.copy()
    else:
        offset = offset * np.array([-1.0, 1.0, 1.0])  # the solid is described with x away from the midline
    return np.asarray(femur.contains(offset))


@cache
def make_scene() -> Scene:
    """The scene; made once."""
    shape = (88, 68, 144)
    matrix = np.eye(4)
    matrix[:3, :3] = [[0, 0, SPACING_MM[2]], [0, SPACING_MM[1], 0], [SPACING_MM[0], 0, 0]]
    matrix[:3, 3] = (-143.0, -60.0, -145.0)
    grid = Grid(shape, matrix)
    points = grid.to_lps(np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij"), axis=-1))
    vertebrae = {level: solid.whole(points) for level, solid in VERTEBRAE.items()}
    bodies = {level: solid.body(points) for level, solid in VERTEBRAE.items()}
    femora = {side: femur_mask(side, points) for side in FEMORA}
    hu = np.full(shape, 50, np.int16)
    for mask in (*vertebrae.values(), *femora.values()):
        hu[mask] = 300
    return Scene(Volume(hu, grid, source=Source("memory", frame_of_reference_uid="1.2.3")), vertebrae, bodies, femora)


def save(path: Path, array: np.ndarray, grid: Grid, *, order: str = "LPS") -> Path:
    """Write an array (Z, Y, X) on a grid as NIfTI, its axes in any order."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.index_to_lps[:, [2, 1, 0, 3]]
    data = array.astype(np.uint8) if array.dtype == bool else array
    image = nibabel.Nifti1Image(np.ascontiguousarray(data.T), affine)
    codes = nibabel.orientations.axcodes2ornt(order)
    turn = nibabel.orientations.ornt_transform(nibabel.orientations.io_orientation(affine), codes)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image.as_reoriented(turn), path)
    return path


def label_map(scene: Scene, numbers: dict[str, int]) -> np.ndarray:
    array = np.zeros(scene.volume.shape, np.uint8)
    for name, number in numbers.items():
        array[scene.named[name]] = number
    return array


NUMBERS = {"vertebrae_L1": 5, "vertebrae_L2": 6, "vertebrae_L3": 7}
WITH_FEMORA = NUMBERS | {"femur_left": 8, "femur_right": 9}


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def check(found: Segmentation, scene: Scene, *, least_dice: float = 0.94) -> None:
    """The bodies are the bodies of the scene, on its grid, without the arches."""
    assert [v.name for v in found.vertebrae] == [f"vertebra_{level}" for level in LEVELS]
    assert [v.level for v in found.vertebrae] == list(LEVELS)
    for vertebra in found.vertebrae:
        assert vertebra.label == LABEL_OF[vertebra.name]
        assert dice(found.mask(vertebra), scene.bodies[vertebra.level or ""]) > least_dice
        assert vertebra.findings == ()


def refused(path: Path, volume: Volume) -> InputRefused:
    with pytest.raises(InputRefused) as caught:
        read_masks(path, volume)
    return caught.value


def named_map(folder: Path, scene: Scene, grid: Grid, array: np.ndarray | None = None) -> Path:
    path = save(folder / "case.nii.gz", label_map(scene, NUMBERS) if array is None else array, grid)
    (folder / "case.json").write_text(json.dumps(WITH_FEMORA))
    return path
