"""The vertebral body: published dimensions by level, compression deformities, and the solid that meets them exactly.

Body heights, endplate widths and depths are the cadaver means of Panjabi et al. (Spine 1991;16:888 and 1992;17:299), enlarged
to what CT of the living shows; the normal wedge of T9-L5 follows the table of Eur Spine J 2010;19:768.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phantoms.kernels import BODY
from phantoms.solids import Primitive, Vector, primitive

LEVELS = (*(f"T{i}" for i in range(1, 13)), *(f"L{i}" for i in range(1, 6)))
ALL_LEVELS = (*LEVELS, "L6")
"""With the sixth lumbar vertebra that some people have; it is as large as their fifth."""
LABEL_OF_LEVEL = {**{f"T{i}": 7 + i for i in range(1, 13)}, **{f"L{i}": 19 + i for i in range(1, 7)}}

_POINT_INSET_MM = 2.5
"""How far inside the rim the anterior and posterior height points lie (osteophytes are left out that way)."""

# By level T1..L5, in mm.
_HEIGHT = (14.1, 15.6, 15.7, 16.2, 16.2, 17.4, 18.2, 18.7, 19.3, 20.2, 21.3, 22.7, 23.8, 24.3, 23.8, 24.1, 22.9)
_WIDTH = (24.5, 24.9, 24.6, 24.5, 24.9, 26.2, 27.8, 29.5, 30.6, 31.9, 34.9, 39.0, 41.2, 42.6, 44.1, 46.6, 47.3)
_DEPTH = (18.5, 19.6, 22.7, 23.3, 24.3, 26.0, 27.4, 27.9, 29.3, 30.5, 31.9, 32.8, 34.1, 34.6, 35.2, 35.5, 34.7)
_ANTERIOR_TO_POSTERIOR = {
    "F": (0.96, 0.96, 0.95, 0.95, 0.94, 0.93, 0.93, 0.93, 0.93, 0.94, 0.89, 0.92, 0.94, 0.99, 1.02, 1.07, 1.18),
    "M": (0.95, 0.95, 0.94, 0.93, 0.92, 0.91, 0.91, 0.91, 0.90, 0.91, 0.87, 0.89, 0.91, 0.94, 0.97, 1.02, 1.11),
}
_SCALE = {"F": {"height": 1.06, "endplate": 0.97}, "M": {"height": 1.13, "endplate": 1.07}}


def table_index(level: str) -> int:
    """Where a level stands in tables from T1 to L5."""
    return min(ALL_LEVELS.index(level), len(LEVELS) - 1)


@dataclass(frozen=True)
class Placement:
    """Where a vertebra stands: `axes` rows are left, posterior, superior as unit vectors in LPS."""

    origin_mm: Vector
    axes: NDArray[np.float64]

    def point(self, left: float, posterior: float, superior: float) -> Vector:
        """LPS of a point in the vertebra's own frame."""
        return np.asarray(self.origin_mm + np.array([left, posterior, superior]) @ self.axes)

    def turned(self, angle_rad: float, about: int) -> Placement:
        """Rotated about its own axis (0 left, 1 posterior, 2 superior) by the right-hand rule."""
        i, j = ((1, 2), (2, 0), (0, 1))[about]
        c, s = np.cos(angle_rad), np.sin(angle_rad)
        axes = self.axes.copy()
        axes[i], axes[j] = c * self.axes[i] + s * self.axes[j], c * self.axes[j] - s * self.axes[i]
        return Placement(self.origin_mm, axes)

    def moved(self, superior_mm: float) -> Placement:
        """Shifted along its own superior axis."""
        return Placement(self.origin_mm + superior_mm * self.axes[2], self.axes)


@dataclass(frozen=True)
class Fracture:
    """A compression deformity.

    Attributes
    ----------
    kind : str
        ``"wedge"``, ``"biconcave"`` or ``"crush"``.
    height_loss : float
        Fraction of the normal height lost where the deformity is greatest; sets the Genant grade (20, 25, 40 %).
    """

    kind: str
    height_loss: float

    def __post_init__(self) -> None:
        if self.kind not in ("wedge", "biconcave", "crush"):
            raise ValueError(f"fracture kind is {self.kind!r}; it must be wedge, biconcave or crush")
        if not 0.0 < self.height_loss < 0.75:
            raise ValueError(f"height loss is {self.height_loss}; it must lie between 0 and 0.75")

    @property
    def genant_grade(self) -> int:
        """Grade by loss of height: below 20 % 0, to 25 % 1, to 40 % 2, above 3 (Genant 1993)."""
        return int(np.searchsorted((0.20, 0.25, 0.40 + 1e-9), self.height_loss, side="right"))

    def remaining(self) -> tuple[float, float, float]:
        """What is left of the anterior, middle and posterior height."""
        f = self.height_loss
        return {
            "wedge": (1 - f, 1 - 0.7 * f, 1.0),
            "biconcave": (1 - 0.1 * f, 1 - f, 1.0),
            "crush": (1 - f, 1 - f, 1 - f),
        }[self.kind]


@dataclass(frozen=True)
class BodyShape:
    """Dimensions of a body in mm: outer half width and depth at the rim, heights at the three points of the midline."""

    level: str
    half_width: float
    half_depth: float
    hollow: float
    normal_heights: tuple[float, float, float]
    """Anterior, middle, posterior, as they would be without a fracture."""
    heights: tuple[float, float, float]
    upper: tuple[float, float, float]
    """Upper endplate: height of the rim plane over the origin, slope along posterior, depth of the concavity (negative)."""
    lower: tuple[float, float, float]
    fracture: Fracture | None = None

    @property
    def posterior_points_mm(self) -> tuple[float, float, float]:
        """Where along the posterior axis the anterior, middle and posterior heights are taken."""
        front = -self.half_depth + _POINT_INSET_MM
        back = self.half_depth - self.hollow - _POINT_INSET_MM
        return front, (front + back) / 2, back

    def endplate(self, side: tuple[float, float, float], posterior_mm: NDArray | float) -> NDArray[np.float64]:
        """Height of an endplate above the origin on the mid-sagittal line."""
        q = (np.asarray(posterior_mm, float) - _CONCAVITY_CENTRE * self.half_depth) / (
            _CONCAVITY_REACH * self.half_depth
        )
        return np.asarray(side[0] + side[1] * posterior_mm + side[2] * np.maximum(1 - q * q, 0.0) ** 2)


_CONCAVITY_CENTRE = 0.10
_CONCAVITY_REACH = 0.88


def body_shape(level: str, sex: str, *, size: float = 1.0, fracture: Fracture | None = None) -> BodyShape:
    """The body of a level, for ``sex`` ``"F"`` or ``"M"``, all lengths times `size`.

    The endplates are solved so that the three heights on the midline are met exactly.
    """
    i = table_index(level)
    scale = _SCALE[sex]
    posterior = _HEIGHT[i] * scale["height"] * size
    anterior = posterior * _ANTERIOR_TO_POSTERIOR[sex][i]
    middle = 0.5 * (anterior + posterior) * (0.945 if level[0] == "T" else 0.925)
    normal = (anterior, middle, posterior)
    left = fracture.remaining() if fracture else (1.0, 1.0, 1.0)
    heights = (normal[0] * left[0], normal[1] * left[1], normal[2] * left[2])
    half_width = 0.5 * _WIDTH[i] * scale["endplate"] * size
    half_depth = 0.5 * _DEPTH[i] * scale["endplate"] * size
    hollow = (2.2 if level[0] == "T" else 1.6) * size
    flat = BodyShape(level, half_width, half_depth, hollow, normal, heights, (0, 0, 0), (0, 0, 0), fracture)
    points = np.array(flat.posterior_points_mm)
    dip = flat.endplate((0.0, 0.0, 1.0), points)
    system = np.stack([np.ones(3), points, dip], axis=1)
    usual = np.linalg.solve(system, normal)
    change = np.linalg.solve(system, np.array(heights) - normal)
    # A healthy body is a little more hollow below than above; a fracture sinks the upper endplate first.
    upper = usual * (0.5, 0.5, 0.42) + change * 0.72
    lower = -(usual * (0.5, 0.5, 0.58) + change * 0.28)
    return BodyShape(
        level,
        half_width,
        half_depth,
        hollow,
        normal,
        heights,
        (float(upper[0]), float(upper[1]), float(upper[2])),
        (float(lower[0]), float(lower[1]), float(lower[2])),
        fracture,
    )


def body_primitive(
    shape: BodyShape,
    place: Placement,
    *,
    side_cortex_mm: float,
    endplate_mm: float,
    core_mg_cm3: float,
    blend_mm: float = 2.0,
) -> Primitive:
    """The vertebral body as a primitive."""
    half_height = 0.5 * min(shape.heights)
    numbers = [
        shape.half_width,
        shape.half_depth,
        2.35,
        0.11,
        shape.hollow,
        half_height,
        2.0,
        *shape.upper,
        0.0,
        _CONCAVITY_CENTRE,
        _CONCAVITY_REACH,
        *shape.lower,
        0.0,
        _CONCAVITY_CENTRE,
        _CONCAVITY_REACH,
    ]
    tallest = max(abs(v[0]) + abs(v[1]) * shape.half_depth for v in (shape.upper, shape.lower))
    half = (shape.half_width, shape.half_depth, tallest)
    return primitive(
        BODY,
        place.origin_mm,
        place.axes,
        numbers,
        half,
        cortex_mm=(side_cortex_mm, endplate_mm),
        core_mg_cm3=(core_mg_cm3, core_mg_cm3),
        blend_mm=blend_mm,
    )
