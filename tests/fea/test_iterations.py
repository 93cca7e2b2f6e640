"""How many iterations what makes a model hard may cost: a worse preconditioner gives the same answers, only later.

Limits are some 25 % above what was counted when they were set; `benchmarks.solver_convergence` has the larger series.
"""

from __future__ import annotations

from functools import partial

import pytest

from benchmarks.solver_models import bending, cube, femur, foam, platens, sheets, tube, vertebra
from fea import VoxelModel, solve


def stretched(proportion):
    return VoxelModel(cube(28, contrast=100.0).modulus_mpa, (0.1 * proportion, 0.1, 0.1))


def with_poisson(ratio):
    return VoxelModel(cube(28).modulus_mpa, (0.1, 0.1, 0.1), ratio)


CASES = {
    "uniform": (partial(cube, 28, contrast=1.0), platens, 5),
    "blocks, contrast 1e2": (partial(cube, 28, contrast=1e2), platens, 8),
    "blocks, contrast 1e4": (partial(cube, 28, contrast=1e4), platens, 15),
    "blocks, contrast 1e6": (partial(cube, 28, contrast=1e6), platens, 29),
    "voxels, contrast 1e2": (partial(cube, 28, contrast=1e2, block=1), platens, 14),
    "voxels, contrast 1e6": (partial(cube, 28, contrast=1e6, block=1), platens, 62),
    "foam, 80 % solid": (partial(foam, 36, solid=0.8), platens, 19),
    "foam, 50 % solid": (partial(foam, 36, solid=0.5), platens, 23),
    "foam, 30 % solid": (partial(foam, 36, solid=0.3), platens, 60),
    "sheets, 20 % solid": (partial(sheets, 36, sigma=3.0), platens, 40),
    "voxels 1.4 long": (partial(stretched, 1.4), platens, 10),
    "voxels 5 long": (partial(stretched, 5.0), platens, 10),
    "tube, wall 1.5": (partial(tube, 24, 60, 1.5), bending, 16),
    "tube, wall 4": (partial(tube, 24, 60, 4.0), bending, 10),
    "Poisson's ratio 0.45": (partial(with_poisson, 0.45), platens, 15),
    "Poisson's ratio 0.49": (partial(with_poisson, 0.49), platens, 29),
    "vertebra": (partial(vertebra, 1.0), platens, 14),
    "femur": (partial(femur, 4.0), platens, 120),
}


@pytest.mark.parametrize("name", CASES)
def test_iterations_stay_below(name):
    model, load, most = CASES[name]
    solid = model()
    result = solve(solid, load(solid), threads=1, floating="remove")
    assert result.residual <= 1e-6
    assert result.iterations <= most


def test_refinement_does_not_add_iterations():
    """Twice, then four times the resolution: what a preconditioner of one level cannot do."""
    counts = []
    for side in (14, 28, 56):
        model = cube(side)
        counts.append(solve(model, platens(model), threads=1).iterations)
    assert max(counts) - min(counts) <= 2
