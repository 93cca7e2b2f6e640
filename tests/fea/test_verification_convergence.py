"""Errors against closed forms fall at the rate that theory promises; the problems stand in `closed_forms`.

Trilinear voxels: second order in displacement, and in stress at the centres. A traction-free staircase costs one order;
moduli scaled by the solid share of cut voxels bring most of it back.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.fea import closed_forms as cases
from tests.fea.closed_forms import rates


@pytest.mark.parametrize("uniform", [True, False], ids=["uniform", "graded"])
def test_manufactured_solution(uniform):
    """Body force per voxel, unequal edges, re-entrant edges, exact values on the surface nodes."""
    displacement, stress, iterations = zip(*(cases.manufactured(n, uniform=uniform) for n in (2, 4, 8)), strict=True)
    assert rates(displacement) == pytest.approx([2.0, 2.0], abs=0.06)
    assert rates(stress) == pytest.approx([2.0, 2.0], abs=0.03)
    assert stress[-1] < 0.006
    assert max(iterations) <= 20


@pytest.mark.parametrize("poisson", [0.0, 0.45])
def test_manufactured_solution_at_other_ratios(poisson):
    displacement, stress = zip(*(cases.manufactured(n, poisson)[:2] for n in (4, 8)), strict=True)
    assert rates(displacement) == pytest.approx([2.0], abs=0.06)
    assert rates(stress) == pytest.approx([2.0], abs=0.03)


@pytest.mark.slow
def test_manufactured_solution_refined_further():
    displacement, stress, _ = zip(*(cases.manufactured(n) for n in (4, 8, 16, 24)), strict=True)
    assert rates(displacement[:3]) == pytest.approx([2.0, 2.0], abs=0.03)
    assert rates(stress[:3]) == pytest.approx([2.0, 2.0], abs=0.01)
    assert rates(displacement[2:], 1.5) == pytest.approx([2.0], abs=0.02)


@pytest.mark.parametrize("exact", [cases.hollow_cylinder, cases.kirsch], ids=["Lame", "Kirsch"])
def test_around_a_hole(exact):
    """Exact displacements on the staircase: second order. Free of traction: first. Cut voxels by their share: far better."""
    second = [cases.hole(n, exact, "exact")[0] for n in (8, 16, 32)]
    assert rates(second) == pytest.approx([2.0, 2.0], abs=0.06)
    free = [cases.hole(n, exact, "free")[0] for n in (8, 16, 32)]
    assert rates(free) == pytest.approx([1.1, 1.0], abs=0.25)
    shares = [cases.hole(n, exact, "shares")[0] for n in (8, 16, 32)]
    assert all(8 * cut < stair for cut, stair in zip(shares, free, strict=True))


def test_stress_concentration_beside_a_hole():
    """Three times the remote stress."""
    assert cases.stress_concentration(8) == pytest.approx(3, rel=0.01)
    assert cases.stress_concentration(32) == pytest.approx(3, rel=0.001)


def test_saint_venant_constant_is_the_known_one():
    assert cases.square_constant() == pytest.approx(0.140577, abs=5e-7)


def test_torsion_of_a_square_bar():
    """From above: twisted ends prescribe displacements, so the stiffness is an upper bound."""
    excess = [cases.square_torsion(n) for n in (4, 8, 16, 32)]
    assert min(excess) > 0
    assert rates(excess) == pytest.approx([1.95, 1.98, 1.99], abs=0.02)
    assert excess[-1] < 1e-3


def test_torsion_of_a_round_bar():
    """No closed rate on a staircase, whose area jumps about; shares of cut voxels are better by several times."""
    shares = [cases.round_torsion(n, True) for n in (8, 16, 32)]
    assert np.abs(shares) == pytest.approx([0, 0, 0], abs=0.006)
    assert np.abs(shares[1:]) == pytest.approx([0, 0], abs=0.0007)
    for n in (8, 16, 32):
        assert abs(cases.round_torsion(n, True)) < 0.25 * abs(cases.round_torsion(n, False))


def test_bending_of_a_layered_beam():
    """Bone and cement: composite stiffness from above at second order, the axial force exactly."""
    stiffness, force = zip(*(cases.layered_bending(n) for n in (4, 8, 16)), strict=True)
    assert min(stiffness) > 0
    assert rates(stiffness) == pytest.approx([2.0, 2.0], abs=0.02)
    assert stiffness[-1] < 0.003
    assert np.abs(force) == pytest.approx([0, 0, 0], abs=1e-7)


def test_cantilever_with_poisson_ratio():
    """A clamped end resists contraction, so the beam is a little stiffer than Timoshenko's; extrapolated: 0.5 to 1 %."""
    excess = [cases.cantilever(n, 0.3) for n in (2, 4, 8)]
    assert excess == pytest.approx([0.151, 0.044, 0.017], abs=0.001)
    extrapolated = excess[2] + (excess[2] - excess[1]) / 3
    assert 0.004 < extrapolated < 0.01


@pytest.mark.slow
def test_cantilever_refined_further():
    excess = [cases.cantilever(n, 0.0) for n in (4, 8, 16)]
    assert rates(excess) == pytest.approx([2.0, 2.0], abs=0.01)
    stiff = [cases.cantilever(n, 0.3) for n in (8, 16)]
    assert 0.004 < stiff[1] + (stiff[1] - stiff[0]) / 3 < 0.01
