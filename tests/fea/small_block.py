"""One small block whose reaction is known from a direct solution, for tests that do strange things to it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fea import Prescribed, SolveError, VoxelModel, face_nodes, solve
from tests.fea.plain_elements import assembled, direct_solution

CUBE = (1.0, 1.0, 1.0)
SHAPE = (5, 6, 7)
MODULI = np.random.default_rng(0).integers(1, 100, SHAPE).astype(float)
DROP = 0.1


def platens(model: VoxelModel, drop: float = DROP, axis: int = 0) -> list[Prescribed]:
    return [
        Prescribed("bottom", face_nodes(model, axis, False), z=0.0, y=0.0, x=0.0),
        Prescribed("top", face_nodes(model, axis, True), **{"zyx"[axis]: -drop}),
    ]


def reaction(model: VoxelModel, drop: float = DROP, **options: object) -> float:
    return float(solve(model, platens(model, drop), rtol=1e-9, **options).reaction_n["top"][0])  # type: ignore[arg-type]


def directly(model: VoxelModel, prescribed: list[Prescribed]) -> np.ndarray:
    """Displacement by an assembled matrix and a direct solver."""
    fixed = np.zeros((*model.node_shape, 3), bool)
    values = np.zeros(fixed.shape)
    for condition in prescribed:
        for component, given in condition.components():
            fixed[(*condition.nodes.T, component)] = True
            values[(*condition.nodes.T, component)] = given
    stiffness = assembled(model.modulus_mpa, model.spacing_mm, model.poisson)
    return direct_solution(stiffness, fixed, values, np.zeros(fixed.shape))


EXPECTED = -42.02494596  # by `directly`, see the first test


def right_or_refused(call: Callable[[], float], expected: float, rel: float = 1e-6) -> None:
    try:
        found = call()
    except SolveError:
        return
    assert found == pytest.approx(expected, rel=rel)
