"""Stress, state and tangent of voxels that yield: what `kernels.slab` does with a row of them in a pass over all points.

A voxel has one stress state, on its mean strain. The twelve hourglass modes, which vanish at its centre, keep their
elastic stiffness times the ratio of the von Mises stress to what it would be if the voxel had stayed elastic, so that
they neither lock nor vanish. The return to the cone and its apex is in closed form (law: `fea.plasticity`), softening
(`fea.damage`) follows it. Derivations: docs/solver.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from fea.damage import damage
from fea.kernels import NOTHING, RAW, SCRATCH, constants, hourglass, modes, row, rows_of, share, slab
from fea.tangent import LAW_ROWS

# Rows of the state that is kept: plastic strain (zz, yy, xx, yx, zx, zy; engineering shears), equivalent plastic strain,
# damage, and for the balance of energy the ratio of the hourglass modes and their energy at full stiffness.
STATE_ROWS = 10
KEPT_ALPHA, KEPT_DAMAGE, KEPT_RATIO, KEPT_ENERGY = 6, 7, 8, 9
ENERGIES = 3  # stored, dissipated, and lost by the softening of hourglass modes

# Rows of scratch: mean strains, hourglass modes, stresses, the new state, ...
_MODES, _STRESS, _STATE, _ALPHA, _DAMAGE, _RATIO, _HOURGLASS = 6, 18, 24, 30, 31, 32, 33
# ... energy density, work of plastic flow, the tangent as in `fea.tangent` (its last row is the ratio again), ...
_STORED, _LOST, _PRESSURE, _SHEAR, _ALONG, _ACROSS, _NORMAL = 34, 35, 36, 37, 38, 39, 40
# ... and what softening wants to know: growth of alpha, von Mises and mean stress, moduli.
_GROWTH, _MISES, _MEAN, _BULK, _MU, _YOUNG = 46, 47, 48, 49, 50, 51
EXTRA_ROWS = 52
# what `fea.eight_points` wants of them
FIRST_STRESS_ROW, FIRST_STATE_ROW, FIRST_LAW_ROW = _STRESS, _STATE, _PRESSURE
STORED_ROW, LOST_ROW = _STORED, _LOST

_ROOT_6 = 6.0**0.5
_LEAST_HOURGLASS = 0.02
_APEX = 1e-3  # of the elastic stiffness, in place of the zero tangent at the apex of the cone
_TINY = 1e-200


class Yielding(NamedTuple):
    """Flat arrays of a model that yields, and the numbers of its law.

    first, second : the elastic coefficients divided by `lam_unit` and `mu_unit`
    strength, rate : yield stress, and l / w_f of the softening (one entry without softening)
    state, law : (nz, ny+1, STATE_ROWS, stride) read, and written by a commit; (nz, ny+1, LAW_ROWS, stride) written
    energies : (nz, ENERGIES), added to
    b, c, hardening : the cone, and H / E
    residual, follow : of `soften_rows`; `residual` < 0: no softening
    kept : of `stiffen_rows`, a part of the elastic stiffness
    """

    first: np.ndarray
    second: np.ndarray
    strength: np.ndarray
    rate: np.ndarray
    state: np.ndarray
    law: np.ndarray
    energies: np.ndarray
    lam_unit: float
    mu_unit: float
    volume: float
    b: float
    c: float
    hardening: float
    residual: float
    kept: float
    follow: float
    commit: bool


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def _measure(
    u: np.ndarray, lower: int, upper: int, stride: int, a: int, n: int, q: np.ndarray, f: np.ndarray, extra: np.ndarray
) -> None:
    """Mean strains and hourglass modes of one row of voxels."""
    zl, zu = row(u, lower + a, n + 1), row(u, upper + a, n + 1)
    yl, yu = row(u, lower + stride + a, n + 1), row(u, upper + stride + a, n + 1)
    xl, xu = row(u, lower + 2 * stride + a, n + 1), row(u, upper + 2 * stride + a, n + 1)
    f = row(f, a, 12 * SCRATCH)
    m = row(extra, a, 18 * SCRATCH)
    w = row(extra, _MODES * SCRATCH + a, 12 * SCRATCH)
    rz, ry, rx = 0.25 * q[2], 0.25 * q[3], 0.25 * q[4]
    for i in range(n):
        z_y, z_x, z_xy, z_z, z_yz, z_xz, z_xyz = modes(zl, zu, f, 0, i)
        y_y, y_x, y_xy, y_z, y_yz, y_xz, y_xyz = modes(yl, yu, f, 4 * SCRATCH, i)
        x_y, x_x, x_xy, x_z, x_yz, x_xz, x_xyz = modes(xl, xu, f, 8 * SCRATCH, i)
        m[i], m[SCRATCH + i], m[2 * SCRATCH + i] = rz * z_z, ry * y_y, rx * x_x
        m[3 * SCRATCH + i] = rx * y_x + ry * x_y
        m[4 * SCRATCH + i] = rx * z_x + rz * x_z
        m[5 * SCRATCH + i] = ry * z_y + rz * y_z
        w[i], w[SCRATCH + i], w[2 * SCRATCH + i], w[3 * SCRATCH + i] = z_xy, z_yz, z_xz, z_xyz
        w[4 * SCRATCH + i], w[5 * SCRATCH + i], w[6 * SCRATCH + i], w[7 * SCRATCH + i] = y_xy, y_yz, y_xz, y_xyz
        w[8 * SCRATCH + i], w[9 * SCRATCH + i], w[10 * SCRATCH + i], w[11 * SCRATCH + i] = x_xy, x_yz, x_xz, x_xyz


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def return_rows(material: Yielding, a: int, n: int, stride: int, at: int, old: int, extra: np.ndarray) -> None:
    """The return map on one row of voxels: effective stress, state, energies and tangent, all into `extra`.

    Strains are read from the first rows of `extra`, the state before from `old` on in `material.state`.
    """
    m = row(extra, a, EXTRA_ROWS * SCRATCH)
    lams, mus = row(material.first, at + a, n), row(material.second, at + a, n)
    strengths = row(material.strength, at + a, n)
    p0, p1 = row(material.state, old, n), row(material.state, old + stride, n)
    p2, p3 = row(material.state, old + 2 * stride, n), row(material.state, old + 3 * stride, n)
    p4, p5 = row(material.state, old + 4 * stride, n), row(material.state, old + 5 * stride, n)
    p6 = row(material.state, old + KEPT_ALPHA * stride, n)
    b, c, hardening = material.b, material.c, material.hardening
    portion = material.volume / 16.0
    for i in range(n):
        lam, mu = material.lam_unit * lams[i], material.mu_unit * mus[i]
        bulk = lam + mu * (2.0 / 3.0)
        young = mu * (3.0 * lam + 2.0 * mu) / (lam + mu + _TINY)
        t0, t1, t2 = m[i], m[SCRATCH + i], m[2 * SCRATCH + i]
        t3, t4, t5 = m[3 * SCRATCH + i], m[4 * SCRATCH + i], m[5 * SCRATCH + i]
        # trial state: elastic strain, split into mean and deviator
        e0, e1, e2 = t0 - p0[i], t1 - p1[i], t2 - p2[i]
        e3, e4, e5 = t3 - p3[i], t4 - p4[i], t5 - p5[i]
        trace = e0 + e1 + e2
        e0, e1, e2 = e0 - trace / 3.0, e1 - trace / 3.0, e2 - trace / 3.0
        size = e0 * e0 + e1 * e1 + e2 * e2 + 0.5 * (e3 * e3 + e4 * e4 + e5 * e5)
        trial = 2.0 * mu * np.sqrt(1.5 * size)
        mean = bulk * trace
        limit = c * (strengths[i] + hardening * young * p6[i])
        excess = max(trial + b * mean - limit, 0.0)
        harder = hardening * young * c * c
        resistance = 3.0 * mu + bulk * b * b + harder + _TINY
        flow = excess / resistance
        drop = 3.0 * mu * flow
        # at the apex the deviator vanishes and b times the mean stress is the limit
        apex = drop > trial
        flow = (b * mean - limit) / (bulk * b * b + harder + _TINY) if apex else flow
        theta = 0.0 if apex else 1.0 - drop / (trial + _TINY)
        volumetric = b * flow
        mean -= bulk * volumetric
        shear = 2.0 * mu * theta
        gone = 1.0 - theta
        m[_STRESS * SCRATCH + i] = shear * e0 + mean
        m[(_STRESS + 1) * SCRATCH + i] = shear * e1 + mean
        m[(_STRESS + 2) * SCRATCH + i] = shear * e2 + mean
        m[(_STRESS + 3) * SCRATCH + i] = 0.5 * shear * e3
        m[(_STRESS + 4) * SCRATCH + i] = 0.5 * shear * e4
        m[(_STRESS + 5) * SCRATCH + i] = 0.5 * shear * e5
        m[_STATE * SCRATCH + i] = p0[i] + gone * e0 + volumetric / 3.0
        m[(_STATE + 1) * SCRATCH + i] = p1[i] + gone * e1 + volumetric / 3.0
        m[(_STATE + 2) * SCRATCH + i] = p2[i] + gone * e2 + volumetric / 3.0
        m[(_STATE + 3) * SCRATCH + i] = p3[i] + gone * e3
        m[(_STATE + 4) * SCRATCH + i] = p4[i] + gone * e4
        m[(_STATE + 5) * SCRATCH + i] = p5[i] + gone * e5
        alpha = p6[i] + c * flow
        m[_ALPHA * SCRATCH + i] = alpha
        m[_DAMAGE * SCRATCH + i] = 0.0
        m[_STORED * SCRATCH + i] = mu * theta * theta * size + 0.5 * bulk * (trace - volumetric) * (trace - volumetric)
        m[_LOST * SCRATCH + i] = shear * gone * size + mean * volumetric
        # hourglass: actual against elastic von Mises stress of the same total strain
        mid = (t0 + t1 + t2) / 3.0
        whole = (t0 - mid) * (t0 - mid) + (t1 - mid) * (t1 - mid) + (t2 - mid) * (t2 - mid)
        whole += 0.5 * (t3 * t3 + t4 * t4 + t5 * t5)
        ratio = theta * trial / (2.0 * mu * np.sqrt(1.5 * whole) + _TINY)
        m[_RATIO * SCRATCH + i] = min(ratio, 1.0) if alpha > 0.0 else 1.0
        # tangent
        active = 1.0 if excess > 0.0 else 0.0
        flows = 0.0 if apex else active / resistance
        stiff = _APEX * bulk if apex else bulk * (1.0 - bulk * b * b * flows)
        half_shear = _APEX * mu if apex else mu * theta
        m[_PRESSURE * SCRATCH + i] = portion * (stiff - 2.0 / 3.0 * half_shear)
        m[_SHEAR * SCRATCH + i] = portion * half_shear
        m[_ALONG * SCRATCH + i] = 0.0 if apex else portion * (active * 2.0 * mu * gone - 6.0 * mu * mu * flows)
        m[_ACROSS * SCRATCH + i] = -portion * _ROOT_6 * mu * bulk * b * flows
        scale = 1.0 / np.sqrt(size + _TINY)
        m[_NORMAL * SCRATCH + i] = e0 * scale
        m[(_NORMAL + 1) * SCRATCH + i] = e1 * scale
        m[(_NORMAL + 2) * SCRATCH + i] = e2 * scale
        m[(_NORMAL + 3) * SCRATCH + i] = 0.5 * e3 * scale
        m[(_NORMAL + 4) * SCRATCH + i] = 0.5 * e4 * scale
        m[(_NORMAL + 5) * SCRATCH + i] = 0.5 * e5 * scale
        m[_GROWTH * SCRATCH + i] = c * flows
        m[_MISES * SCRATCH + i], m[_MEAN * SCRATCH + i] = theta * trial, mean
        m[_BULK * SCRATCH + i], m[_MU * SCRATCH + i], m[_YOUNG * SCRATCH + i] = bulk, mu, young


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def soften_rows(material: Yielding, a: int, n: int, stride: int, at: int, old: int, extra: np.ndarray) -> None:
    """Turn the effective stresses, energies and tangent of one row into nominal ones.

    The derivative of the damage goes into the tangent symmetrised (`follow` = 1), or not at all (0), which leaves a positive
    definite tangent that is stiffer than the true one.
    """
    m = row(extra, a, EXTRA_ROWS * SCRATCH)
    rates, strengths = row(material.rate, at + a, n), row(material.strength, at + a, n)
    before = row(material.state, old + KEPT_DAMAGE * stride, n)
    follow = material.follow * material.volume / 16.0
    for i in range(n):
        rate, alpha = float(rates[i]), m[_ALPHA * SCRATCH + i]
        if rate == 0.0 or alpha == 0.0:
            continue
        new, slope = damage(rate * alpha, rate * strengths[i] / m[_YOUNG * SCRATCH + i], material.residual)
        new = max(new, before[i])
        left = 1.0 - new
        mises, mean = m[_MISES * SCRATCH + i], m[_MEAN * SCRATCH + i]
        mu, dilated = m[_MU * SCRATCH + i], m[_BULK * SCRATCH + i] * material.b
        # d(alpha)/d(strain) = growth (sqrt(6) mu n + K b 1); effective stress = sqrt(2/3) q n + p 1
        drop = follow * slope * rate * m[_GROWTH * SCRATCH + i]
        m[_PRESSURE * SCRATCH + i] = left * m[_PRESSURE * SCRATCH + i] - drop * dilated * mean
        m[_SHEAR * SCRATCH + i] *= left
        m[_ALONG * SCRATCH + i] = left * m[_ALONG * SCRATCH + i] - drop * 2.0 * mu * mises
        both = np.sqrt(2.0 / 3.0) * mises * dilated + _ROOT_6 * mu * mean
        m[_ACROSS * SCRATCH + i] = left * m[_ACROSS * SCRATCH + i] - 0.5 * drop * both
        for s in range(_STRESS, _STRESS + 6):
            m[s * SCRATCH + i] *= left
        energy = m[_STORED * SCRATCH + i]
        m[_STORED * SCRATCH + i] = left * energy
        m[_LOST * SCRATCH + i] = (1.0 - 0.5 * (new + before[i])) * m[_LOST * SCRATCH + i] + energy * (new - before[i])
        m[_RATIO * SCRATCH + i] *= left
        m[_DAMAGE * SCRATCH + i] = new


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def stiffen_rows(material: Yielding, a: int, n: int, extra: np.ndarray) -> None:
    """Leave the tangent of voxels that flow a little stiffness against shear.

    Perfectly plastic ones have none, and where they hang on nothing else a correction could carry them anywhere. The state
    found is the same.
    """
    growth, mu = row(extra, _GROWTH * SCRATCH + a, n), row(extra, _MU * SCRATCH + a, n)
    pressure, shear = row(extra, _PRESSURE * SCRATCH + a, n), row(extra, _SHEAR * SCRATCH + a, n)
    kept = material.kept * material.volume / 16.0
    for i in range(n):
        more = kept * mu[i] if growth[i] > 0.0 else 0.0
        shear[i] += more
        pressure[i] -= 2.0 / 3.0 * more


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def _forces(
    material: Yielding,
    a: int,
    n: int,
    stride: int,
    at: int,
    q: np.ndarray,
    extra: np.ndarray,
    h: np.ndarray,
    g: np.ndarray,
) -> tuple[float, float]:
    """Nodal forces of one row of elements from its stresses and hourglass modes.

    Returns the energy of the hourglass modes, and what they lost by softening since the state: half the change of
    their stiffness times the mean of the energies before and after.
    """
    m = row(extra, a, EXTRA_ROWS * SCRATCH)
    w = row(extra, _MODES * SCRATCH + a, 12 * SCRATCH)
    h, g = row(h, a, 12 * SCRATCH), row(g, a, 12 * SCRATCH)
    lams, mus = row(material.first, at + a, n), row(material.second, at + a, n)
    old = STATE_ROWS * at + a
    before, energy_before = (
        row(material.state, old + KEPT_RATIO * stride, n),
        row(material.state, old + KEPT_ENERGY * stride, n),
    )
    portion = material.volume / 16.0
    rz, ry, rx = 0.25 * material.volume * q[2], 0.25 * material.volume * q[3], 0.25 * material.volume * q[4]
    edge = constants(q)
    stored, lost = 0.0, 0.0
    for i in range(n):
        sz, sy, sx = m[_STRESS * SCRATCH + i], m[(_STRESS + 1) * SCRATCH + i], m[(_STRESS + 2) * SCRATCH + i]
        syx, szx = m[(_STRESS + 3) * SCRATCH + i], m[(_STRESS + 4) * SCRATCH + i]
        szy = m[(_STRESS + 5) * SCRATCH + i]
        ratio = max(m[_RATIO * SCRATCH + i], _LEAST_HOURGLASS)
        z_xy, z_yz, z_xz, z_xyz = w[i], w[SCRATCH + i], w[2 * SCRATCH + i], w[3 * SCRATCH + i]
        y_xy, y_yz, y_xz, y_xyz = w[4 * SCRATCH + i], w[5 * SCRATCH + i], w[6 * SCRATCH + i], w[7 * SCRATCH + i]
        x_xy, x_yz, x_xz, x_xyz = w[8 * SCRATCH + i], w[9 * SCRATCH + i], w[10 * SCRATCH + i], w[11 * SCRATCH + i]
        fz_xy, fz_yz, fz_xz, fz_xyz, fy_xy, fy_yz, fy_xz, fy_xyz, fx_xy, fx_yz, fx_xz, fx_xyz = hourglass(
            edge, portion * material.lam_unit * lams[i], portion * material.mu_unit * mus[i],
            z_xy, z_yz, z_xz, z_xyz, y_xy, y_yz, y_xz, y_xyz, x_xy, x_yz, x_xz, x_xyz,
        )  # fmt: skip
        energy = fz_xy * z_xy + fz_yz * z_yz + fz_xz * z_xz + fz_xyz * z_xyz
        energy += fy_xy * y_xy + fy_yz * y_yz + fy_xz * y_xz + fy_xyz * y_xyz
        energy += fx_xy * x_xy + fx_yz * x_yz + fx_xz * x_xz + fx_xyz * x_xyz
        energy *= 0.5
        stored += ratio * energy
        lost += 0.5 * (before[i] - ratio) * (energy_before[i] + energy)
        m[_RATIO * SCRATCH + i], m[_HOURGLASS * SCRATCH + i] = ratio, energy
        m[(_NORMAL + 6) * SCRATCH + i] = ratio
        share(h, g, 0, i, ry * szy, rx * szx, ratio * fz_xy, rz * sz, ratio * fz_yz, ratio * fz_xz, ratio * fz_xyz)
        share(
            h,
            g,
            4 * SCRATCH,
            i,
            ry * sy,
            rx * syx,
            ratio * fy_xy,
            rz * szy,
            ratio * fy_yz,
            ratio * fy_xz,
            ratio * fy_xyz,
        )
        share(
            h,
            g,
            8 * SCRATCH,
            i,
            ry * syx,
            rx * sx,
            ratio * fx_xy,
            rz * szx,
            ratio * fx_yz,
            ratio * fx_xz,
            ratio * fx_xyz,
        )
    return stored, lost


@rows_of(Yielding)
def yielding_rows(
    material: Yielding,
    q: np.ndarray,
    u: np.ndarray,
    lower: int,
    upper: int,
    stride: int,
    a: int,
    n: int,
    layer: int,
    at: int,
    own: bool,
    f: np.ndarray,
    h: np.ndarray,
    g: np.ndarray,
    extra: np.ndarray,
) -> None:
    """One row of elements; parameters as in `elastic.isotropic_rows`."""
    _measure(u, lower, upper, stride, a, n, q, f, extra)
    old = STATE_ROWS * at + a
    return_rows(material, a, n, stride, at, old, extra)
    if material.residual >= 0:
        soften_rows(material, a, n, stride, at, old, extra)
    stiffen_rows(material, a, n, extra)
    stored, lost = _forces(material, a, n, stride, at, q, extra, h, g)
    if not own:
        return
    kept, gone = 0.0, 0.0
    energies, works = row(extra, _STORED * SCRATCH + a, n), row(extra, _LOST * SCRATCH + a, n)
    for i in range(n):
        kept += energies[i]
        gone += works[i]
    material.energies[ENERGIES * layer] += material.volume * kept + stored
    material.energies[ENERGIES * layer + 1] += material.volume * gone
    material.energies[ENERGIES * layer + 2] += lost
    if material.commit:
        for s in range(STATE_ROWS):
            state = row(material.state, (STATE_ROWS * at) + s * stride + a, n)
            new = row(extra, (_STATE + s) * SCRATCH + a, n)
            for i in range(n):
                state[i] = new[i]
    else:
        for s in range(LAW_ROWS):
            law = row(material.law, (LAW_ROWS * at) + s * stride + a, n)
            new = row(extra, (_PRESSURE + s) * SCRATCH + a, n)
            for i in range(n):
                law[i] = new[i]


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def stress_slab(
    u: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    strength: np.ndarray,
    rate: np.ndarray,
    state: np.ndarray,
    law: np.ndarray,
    numbers: tuple[float, float, float, float, float, float, float, float],
    follow: float,
    commit: bool,
    ranges: np.ndarray,
    q: np.ndarray,
    inverse: np.ndarray,
    force: np.ndarray,
    energies: np.ndarray,
    sums: np.ndarray,
    z0: int,
    z1: int,
    scratch: np.ndarray,
) -> None:
    """Internal forces at displacements `u` on node planes z0 .. z1-1, the tangent, and the energies.

    Parameters
    ----------
    first, second, strength, rate, state, law
        See `Yielding`; four, four, and the last two with their rows before the stride.
    numbers : tuple
        lam_unit, mu_unit, volume, b, c, hardening, residual, kept.
    commit : bool
        Replace the state by the one at `u`, and write neither forces nor tangent.
    energies : float64 (nz+1, ENERGIES)
        Zero; per element layer the stored energy, and the dissipation and the loss of the hourglass modes since the state.
    """
    lam_unit, mu_unit, volume, b, c, hardening, residual, kept = numbers
    material = Yielding(
        first.reshape(-1), second.reshape(-1), strength.reshape(-1), rate.reshape(-1), state.reshape(-1),
        law.reshape(-1), energies.reshape(-1), lam_unit, mu_unit, volume, b, c, hardening, residual, kept, follow, commit,
    )  # fmt: skip
    mode = NOTHING if commit else RAW
    slab(material, mode, u, ranges, q, inverse, force, None, sums, z0, z1, scratch)
