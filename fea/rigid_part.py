"""The rigid motion that all supports have in common: it costs no force, and would drown the rest in norms of residuals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fea.grid import zeros_field
from fea.model import VoxelModel
from fea.platens import rigid_motions
from fea.supports import AnyLayout, Conditions


@dataclass(frozen=True, eq=False)
class RigidPart:
    """A rigid motion.

    Attributes
    ----------
    fit : float64 ndarray of shape (3, 4)
        For each component its value at node (0, 0, 0) and its slopes along the axes of the layout.
    at_supports : float64 ndarray of shape (n,)
        Its values at the prescribed components.
    """

    fit: np.ndarray
    at_supports: np.ndarray

    def field(self, layout: AnyLayout) -> np.ndarray:
        """The motion of every node, nodes without material included."""
        field = zeros_field(layout.field_shape, np.float64)
        for component in range(3):
            layout.fill_affine(field, component, self.fit[component])
        return field


def rigid_part(layout: AnyLayout, model: VoxelModel, conditions: Conditions) -> RigidPart | None:
    """The rigid motion in prescribed values, if it makes up nine tenths of them or more."""
    values = conditions.values_mm
    largest = float(np.abs(values).max(initial=0.0))
    if largest == 0:
        return None
    nodes, component = layout.locate(conditions.at)
    spacing = np.array([model.spacing_mm[axis] for axis in layout.order])
    fit = np.zeros((3, 4))
    for c in range(3):  # a shift by the value of one node leaves no rounding where all have the same
        mine = np.flatnonzero(component == c)
        fit[c, 0] = values[mine[0]] if len(mine) else 0.0
    rest = values - fit[component, 0]
    middle = nodes.mean(axis=0)
    motions = rigid_motions((nodes - middle) * spacing)[np.arange(len(nodes)), component]
    scale = np.abs(motions).max(axis=0)
    scale[scale == 0] = 1
    weights = np.linalg.pinv(motions / scale, rcond=1e-10) @ (rest / largest) * largest / scale
    turned = rest - motions @ weights
    if np.abs(turned).max() < 0.1 * np.abs(rest).max():
        corners = rigid_motions((np.vstack([np.zeros(3), np.eye(3)]) - middle) * spacing) @ weights
        fit[:, 0] += corners[0]
        fit[:, 1:] = (corners[1:] - corners[0]).T
        rest = turned
    return RigidPart(fit, values - rest) if np.abs(rest).max() < 0.1 * largest else None
