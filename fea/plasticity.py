"""Small-strain plasticity per voxel: the yield law, the stress at given displacements, and the consistent tangent.

A voxel has one stress state, on its mean strain. The twelve hourglass modes, which vanish at its centre, keep their
elastic stiffness times the ratio of the von Mises stress to what it would be if the voxel had stayed elastic, so that
they neither lock nor vanish. Yield function and flow (associated) are

    q + b p - c (sigma_y + H alpha),      b = 3 (1 - r) / (1 + r),   c = 2 r / (1 + r)

with the von Mises stress q, the mean stress p (tension positive), the uniaxial compressive yield stress sigma_y, and r the
ratio of tensile to compressive yield stress; r = 1 is von Mises, r < 1 Drucker-Prager. The return to the cone and its
apex is in closed form. Derivations and checks: docs/solver.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numba import njit

from fea.errors import Reason, SolveError
from fea.kernels import (
    AHEAD,
    SCRATCH,
    _deliver,
    _face,
    _gather,
    constants,
    hourglass,
    modes,
    prefetch,
    row,
    share,
)

LAW_ROWS = 23  # upper triangle of the 6 x 6 tangent, then lambda and mu of the hourglass modes
STATE_ROWS = 7  # plastic strain (zz, yy, xx, yx, zx, zy; engineering shears), equivalent plastic strain
_EXTRA_ROWS = 42
_ROOT_6 = 6.0**0.5
_NEVER = 1e30  # stands for an infinite yield stress
_LEAST_HOURGLASS = 0.02


@dataclass(frozen=True, eq=False)
class YieldMaterial:
    """When and how the voxels of a model yield.

    Parameters
    ----------
    yield_stress_mpa : ndarray of shape (nz, ny, nx) or float
        Uniaxial yield stress in compression; inf = stays elastic. Ignored in void voxels.
    hardening_ratio : float
        Plastic modulus H divided by Young's modulus: after yield a bar has the slope E H / (E + H).
    criterion : {"von_mises", "drucker_prager"}
    tension_ratio : float
        Tensile yield stress divided by the compressive one, in (0, 1]; only for "drucker_prager".

    Raises
    ------
    SolveError
        ``bad_material_law``.
    """

    yield_stress_mpa: np.ndarray | float
    hardening_ratio: float = 0.0
    criterion: Literal["von_mises", "drucker_prager"] = "von_mises"
    tension_ratio: float = 1.0

    def __post_init__(self) -> None:
        stress = np.asarray(self.yield_stress_mpa, dtype=np.float64)
        if np.isnan(stress).any() or (stress < 0).any():
            raise SolveError(Reason.BAD_MATERIAL_LAW, "yield stresses must be positive numbers (or infinite).")
        if not 0 <= self.hardening_ratio < np.inf:
            raise SolveError(Reason.BAD_MATERIAL_LAW, f"the hardening ratio is {self.hardening_ratio}.")
        if self.criterion not in ("von_mises", "drucker_prager"):
            raise SolveError(Reason.BAD_MATERIAL_LAW, f"there is no criterion '{self.criterion}'.")
        if not 0 < self.tension_ratio <= 1:
            raise SolveError(Reason.BAD_MATERIAL_LAW, f"the tension ratio {self.tension_ratio} is not in (0, 1].")
        if self.criterion == "von_mises" and self.tension_ratio != 1:
            raise SolveError(Reason.BAD_MATERIAL_LAW, "von Mises yield is the same in tension and compression.")

    def cone(self) -> tuple[float, float]:
        """The numbers b and c of the yield function."""
        r = self.tension_ratio
        return 3 * (1 - r) / (1 + r), 2 * r / (1 + r)

    def stress_for(self, solid: np.ndarray) -> np.ndarray:
        """Yield stress per voxel as float32, a large number where the voxel never yields.

        Raises
        ------
        SolveError
            ``bad_material_law`` if the shape is not that of the model or a solid voxel has zero yield stress.
        """
        stress = np.asarray(self.yield_stress_mpa, dtype=np.float64)
        if stress.ndim and stress.shape != solid.shape:
            raise SolveError(
                Reason.BAD_MATERIAL_LAW, f"the yield stress has shape {stress.shape}, the model {solid.shape}."
            )
        stress = np.broadcast_to(stress, solid.shape)
        if (stress[solid] <= 0).any():
            raise SolveError(Reason.BAD_MATERIAL_LAW, "a solid voxel has a yield stress of zero.")
        return np.where(solid, np.minimum(stress, _NEVER), _NEVER).astype(np.float32)


def scratch_size(field_shape: tuple[int, ...]) -> int:
    """Entries of scratch that `stress_slab` needs."""
    _, rows, components, stride = field_shape
    return (36 + _EXTRA_ROWS) * SCRATCH + (rows + 1) * components * stride


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def _tangent_elements(
    u: np.ndarray,
    lower: int,
    upper: int,
    stride: int,
    a: int,
    n: int,
    law: np.ndarray,
    element: int,
    q: np.ndarray,
    scratch_f: np.ndarray,
    scratch_h: np.ndarray,
    scratch_g: np.ndarray,
) -> None:
    """As `kernels._elements`, with a full tangent per voxel."""
    zl, zu = row(u, lower + a, n + 1), row(u, upper + a, n + 1)
    yl, yu = row(u, lower + stride + a, n + 1), row(u, upper + stride + a, n + 1)
    xl, xu = row(u, lower + 2 * stride + a, n + 1), row(u, upper + 2 * stride + a, n + 1)
    f, h, g = row(scratch_f, a, 12 * SCRATCH), row(scratch_h, a, 12 * SCRATCH), row(scratch_g, a, 12 * SCRATCH)
    d00, d01, d02 = row(law, element + a, n), row(law, element + stride + a, n), row(law, element + 2 * stride + a, n)
    d03, d04 = row(law, element + 3 * stride + a, n), row(law, element + 4 * stride + a, n)
    d05, d11 = row(law, element + 5 * stride + a, n), row(law, element + 6 * stride + a, n)
    d12, d13 = row(law, element + 7 * stride + a, n), row(law, element + 8 * stride + a, n)
    d14, d15 = row(law, element + 9 * stride + a, n), row(law, element + 10 * stride + a, n)
    d22, d23 = row(law, element + 11 * stride + a, n), row(law, element + 12 * stride + a, n)
    d24, d25 = row(law, element + 13 * stride + a, n), row(law, element + 14 * stride + a, n)
    d33, d34 = row(law, element + 15 * stride + a, n), row(law, element + 16 * stride + a, n)
    d35, d44 = row(law, element + 17 * stride + a, n), row(law, element + 18 * stride + a, n)
    d45, d55 = row(law, element + 19 * stride + a, n), row(law, element + 20 * stride + a, n)
    lam, mu = row(law, element + 21 * stride + a, n), row(law, element + 22 * stride + a, n)
    rz, ry, rx = q[2], q[3], q[4]
    edge = constants(q)
    for i in range(n):
        z_y, z_x, z_xy, z_z, z_yz, z_xz, z_xyz = modes(zl, zu, f, 0, i)
        y_y, y_x, y_xy, y_z, y_yz, y_xz, y_xyz = modes(yl, yu, f, 4 * SCRATCH, i)
        x_y, x_x, x_xy, x_z, x_yz, x_xz, x_xyz = modes(xl, xu, f, 8 * SCRATCH, i)
        e0, e1, e2 = rz * z_z, ry * y_y, rx * x_x
        e3, e4, e5 = rx * y_x + ry * x_y, rx * z_x + rz * x_z, ry * z_y + rz * y_z
        sz = d00[i] * e0 + d01[i] * e1 + d02[i] * e2 + d03[i] * e3 + d04[i] * e4 + d05[i] * e5
        sy = d01[i] * e0 + d11[i] * e1 + d12[i] * e2 + d13[i] * e3 + d14[i] * e4 + d15[i] * e5
        sx = d02[i] * e0 + d12[i] * e1 + d22[i] * e2 + d23[i] * e3 + d24[i] * e4 + d25[i] * e5
        syx = d03[i] * e0 + d13[i] * e1 + d23[i] * e2 + d33[i] * e3 + d34[i] * e4 + d35[i] * e5
        szx = d04[i] * e0 + d14[i] * e1 + d24[i] * e2 + d34[i] * e3 + d44[i] * e4 + d45[i] * e5
        szy = d05[i] * e0 + d15[i] * e1 + d25[i] * e2 + d35[i] * e3 + d45[i] * e4 + d55[i] * e5
        z_xy, z_yz, z_xz, z_xyz, y_xy, y_yz, y_xz, y_xyz, x_xy, x_yz, x_xz, x_xyz = hourglass(
            edge, lam[i], mu[i], z_xy, z_yz, z_xz, z_xyz, y_xy, y_yz, y_xz, y_xyz, x_xy, x_yz, x_xz, x_xyz
        )
        share(h, g, 0, i, ry * szy, rx * szx, z_xy, rz * sz, z_yz, z_xz, z_xyz)
        share(h, g, 4 * SCRATCH, i, ry * sy, rx * syx, y_xy, rz * szy, y_yz, y_xz, y_xyz)
        share(h, g, 8 * SCRATCH, i, ry * syx, rx * sx, x_xy, rz * szx, x_yz, x_xz, x_xyz)


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def tangent_slab(
    u: np.ndarray,
    law: np.ndarray,
    ranges: np.ndarray,
    q: np.ndarray,
    inverse: np.ndarray,
    out: np.ndarray,
    sums: np.ndarray,
    z0: int,
    z1: int,
    scratch: np.ndarray,
) -> None:
    """out = masked(K_t u) on node planes z0 .. z1-1;  sums[plane] = u . out.

    The loop is that of `kernels.apply_slab`; law has shape (nz, ny+1, 23, stride).
    """
    nz, rows_per_plane, _, stride = law.shape
    length = 3 * stride
    lanes = 64 // u.itemsize
    f = row(scratch, 0, 12 * SCRATCH)
    h = row(scratch, 12 * SCRATCH, 12 * SCRATCH)
    g = row(scratch, 24 * SCRATCH, 12 * SCRATCH)
    y = row(scratch, 36 * SCRATCH, length)
    partial = row(scratch, 36 * SCRATCH + length, rows_per_plane * length)
    partial[:] = 0
    h[:] = 0
    u, law, inverse, out = u.reshape(-1), law.reshape(-1), inverse.reshape(-1), out.reshape(-1)
    plane = rows_per_plane * length
    for k in range(max(z0 - 1, 0), z1):
        total = 0.0
        fresh = True
        for j in range(rows_per_plane):
            a = ranges[k, j, 0]
            n = ranges[k, j, 1] - a
            if n <= 0:
                fresh = True
                continue
            here = k * plane + j * length
            waiting = j * length
            if k < nz:
                if fresh:
                    _face(u, here, here + plane, stride, a, n, f)
                    fresh = False
                above = here + length if j + 1 < rows_per_plane else here
                element = (k * rows_per_plane + j) * LAW_ROWS * stride
                for i in range(0, LAW_ROWS * stride, 16):
                    prefetch(law, element + LAW_ROWS * stride + i)
                for m in range(1, 12, 2):
                    g[m * SCRATCH + a - 1] = 0
                _tangent_elements(u, above, above + plane, stride, a, n, law, element, q, f, h, g)
                _gather(g, a, n, stride, y, partial, waiting)
            else:
                y[:] = partial[waiting : waiting + length]
            if k >= z0:
                for i in range(0, length, lanes):
                    prefetch(u, here + AHEAD * length + plane + i)
                total += _deliver(True, here, a, n, stride, y, u, inverse, out)
        if k >= z0:
            sums[k] = total


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def _measure(
    u: np.ndarray,
    lower: int,
    upper: int,
    stride: int,
    a: int,
    n: int,
    q: np.ndarray,
    scratch_f: np.ndarray,
    extra: np.ndarray,
) -> None:
    """Mean strains (rows 0-5 of `extra`) and hourglass modes (rows 6-17) of one row of elements."""
    zl, zu = row(u, lower + a, n + 1), row(u, upper + a, n + 1)
    yl, yu = row(u, lower + stride + a, n + 1), row(u, upper + stride + a, n + 1)
    xl, xu = row(u, lower + 2 * stride + a, n + 1), row(u, upper + 2 * stride + a, n + 1)
    f = row(scratch_f, a, 12 * SCRATCH)
    m = row(extra, a, 18 * SCRATCH)
    rz, ry, rx = 0.25 * q[2], 0.25 * q[3], 0.25 * q[4]
    for i in range(n):
        z_y, z_x, z_xy, z_z, z_yz, z_xz, z_xyz = modes(zl, zu, f, 0, i)
        y_y, y_x, y_xy, y_z, y_yz, y_xz, y_xyz = modes(yl, yu, f, 4 * SCRATCH, i)
        x_y, x_x, x_xy, x_z, x_yz, x_xz, x_xyz = modes(xl, xu, f, 8 * SCRATCH, i)
        m[i], m[SCRATCH + i], m[2 * SCRATCH + i] = rz * z_z, ry * y_y, rx * x_x
        m[3 * SCRATCH + i] = rx * y_x + ry * x_y
        m[4 * SCRATCH + i] = rx * z_x + rz * x_z
        m[5 * SCRATCH + i] = ry * z_y + rz * y_z
        m[6 * SCRATCH + i], m[7 * SCRATCH + i], m[8 * SCRATCH + i], m[9 * SCRATCH + i] = z_xy, z_yz, z_xz, z_xyz
        m[10 * SCRATCH + i], m[11 * SCRATCH + i], m[12 * SCRATCH + i], m[13 * SCRATCH + i] = y_xy, y_yz, y_xz, y_xyz
        m[14 * SCRATCH + i], m[15 * SCRATCH + i], m[16 * SCRATCH + i], m[17 * SCRATCH + i] = x_xy, x_yz, x_xz, x_xyz


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def _yield(
    a: int,
    n: int,
    stride: int,
    first: np.ndarray,
    second: np.ndarray,
    strength: np.ndarray,
    at: int,
    unit: tuple[float, float],
    cone: tuple[float, float, float],
    volume: float,
    state: np.ndarray,
    extra: np.ndarray,
) -> tuple[float, float]:
    """The return map on one row of voxels.

    Reads the mean strains (rows 0-5 of `extra`) and the old state; leaves in `extra` the stresses (rows 18-23), the new
    state (24-30), the hourglass ratio (31), and what the consistent tangent is made of (32-41):

        D = (a1 - a2/3) 1x1 + a2 I + a3 n x n + a4 (n x 1 + 1 x n)      times volume / 16

    Returns elastic energy density and dissipation summed over the row.
    """
    m = row(extra, a, _EXTRA_ROWS * SCRATCH)
    lams, mus, strengths = row(first, at + a, n), row(second, at + a, n), row(strength, at + a, n)
    old = STATE_ROWS * at + a
    p0, p1, p2 = row(state, old, n), row(state, old + stride, n), row(state, old + 2 * stride, n)
    p3, p4, p5 = row(state, old + 3 * stride, n), row(state, old + 4 * stride, n), row(state, old + 5 * stride, n)
    p6 = row(state, old + 6 * stride, n)
    b, c, hardening = cone
    unit_lam, unit_mu = unit
    portion = volume / 16.0
    tiny = 1e-200
    stored = 0.0
    lost = 0.0
    for i in range(n):
        lam, mu = unit_lam * lams[i], unit_mu * mus[i]
        bulk = lam + mu * (2.0 / 3.0)
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
        young = mu * (3.0 * lam + 2.0 * mu) / (lam + mu + tiny)
        limit = c * (strengths[i] + hardening * young * p6[i])
        excess = max(trial + b * mean - limit, 0.0)
        resistance = 3.0 * mu + bulk * b * b + hardening * young * c * c + tiny
        flow = excess / resistance
        drop = 3.0 * mu * flow
        apex = drop > trial
        # at the apex the deviator vanishes and the mean stress is limit / b
        theta = 0.0 if apex else 1.0 - drop / (trial + tiny)
        volumetric = (b * mean - limit) / (bulk * b + tiny) if apex else b * flow
        flow = volumetric / (b + tiny) if apex else flow
        mean_new = mean - bulk * volumetric
        shear = 2.0 * mu * theta
        gone = 1.0 - theta
        m[18 * SCRATCH + i] = shear * e0 + mean_new
        m[19 * SCRATCH + i] = shear * e1 + mean_new
        m[20 * SCRATCH + i] = shear * e2 + mean_new
        m[21 * SCRATCH + i] = 0.5 * shear * e3
        m[22 * SCRATCH + i] = 0.5 * shear * e4
        m[23 * SCRATCH + i] = 0.5 * shear * e5
        m[24 * SCRATCH + i] = p0[i] + gone * e0 + volumetric / 3.0
        m[25 * SCRATCH + i] = p1[i] + gone * e1 + volumetric / 3.0
        m[26 * SCRATCH + i] = p2[i] + gone * e2 + volumetric / 3.0
        m[27 * SCRATCH + i] = p3[i] + gone * e3
        m[28 * SCRATCH + i] = p4[i] + gone * e4
        m[29 * SCRATCH + i] = p5[i] + gone * e5
        total = p6[i] + c * flow
        m[30 * SCRATCH + i] = total
        stored += mu * theta * theta * size + 0.5 * bulk * (trace - volumetric) * (trace - volumetric)
        lost += shear * gone * size + mean_new * volumetric
        # hourglass: actual against elastic von Mises stress of the same total strain
        mid = (t0 + t1 + t2) / 3.0
        whole = (t0 - mid) * (t0 - mid) + (t1 - mid) * (t1 - mid) + (t2 - mid) * (t2 - mid)
        whole += 0.5 * (t3 * t3 + t4 * t4 + t5 * t5)
        elastic = 2.0 * mu * np.sqrt(1.5 * whole)
        ratio = min(max(theta * trial / (elastic + tiny), _LEAST_HOURGLASS), 1.0)
        m[31 * SCRATCH + i] = ratio if total > 0.0 else 1.0
        # tangent
        active = 1.0 if excess > 0.0 else 0.0
        m[32 * SCRATCH + i] = portion * (1e-3 * bulk if apex else bulk * (1.0 - active * bulk * b * b / resistance))
        m[33 * SCRATCH + i] = portion * (2e-3 * mu if apex else shear)
        m[34 * SCRATCH + i] = 0.0 if apex else portion * active * (2.0 * mu * gone - 6.0 * mu * mu / resistance)
        m[35 * SCRATCH + i] = 0.0 if apex else -portion * active * _ROOT_6 * mu * bulk * b / resistance
        scale = 1.0 / np.sqrt(size + tiny)
        m[36 * SCRATCH + i], m[37 * SCRATCH + i], m[38 * SCRATCH + i] = e0 * scale, e1 * scale, e2 * scale
        m[39 * SCRATCH + i] = 0.5 * e3 * scale
        m[40 * SCRATCH + i] = 0.5 * e4 * scale
        m[41 * SCRATCH + i] = 0.5 * e5 * scale
    return stored, lost


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def _write_law(
    a: int,
    n: int,
    stride: int,
    first: np.ndarray,
    second: np.ndarray,
    at: int,
    unit: tuple[float, float],
    volume: float,
    extra: np.ndarray,
    law: np.ndarray,
    strains: int,
) -> None:
    """Put the tangent of one row of voxels into `law`, in float32."""
    m = row(extra, a, _EXTRA_ROWS * SCRATCH)
    number = 0
    element = LAW_ROWS * at + a
    for s in range(strains):  # six, but unrolled they would take seconds to compile
        for t in range(s, strains):
            out = row(law, element + number * stride, n)
            ns, nt = row(m, (36 + s) * SCRATCH, n), row(m, (36 + t) * SCRATCH, n)
            a1, a2 = row(m, 32 * SCRATCH, n), row(m, 33 * SCRATCH, n)
            a3, a4 = row(m, 34 * SCRATCH, n), row(m, 35 * SCRATCH, n)
            one_s = 1.0 if s < 3 else 0.0
            one_t = 1.0 if t < 3 else 0.0
            same = (1.0 if s < 3 else 0.5) if s == t else 0.0
            both = one_s * one_t
            for i in range(n):
                out[i] = (
                    both * a1[i]
                    + (same - both / 3.0) * a2[i]
                    + a3[i] * ns[i] * nt[i]
                    + a4[i] * (one_t * ns[i] + one_s * nt[i])
                )
            number += 1
    ratio = row(m, 31 * SCRATCH, n)
    for part in range(2):
        out = row(law, element + (21 + part) * stride, n)
        given = row(first if part == 0 else second, at + a, n)
        factor = volume / 16.0 * unit[part]
        for i in range(n):
            out[i] = factor * ratio[i] * given[i]


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def _forces(
    a: int,
    n: int,
    first: np.ndarray,
    second: np.ndarray,
    at: int,
    unit: tuple[float, float],
    volume: float,
    q: np.ndarray,
    extra: np.ndarray,
    scratch_h: np.ndarray,
    scratch_g: np.ndarray,
) -> float:
    """Nodal forces of one row of elements from the stresses and the hourglass modes in `extra`.

    Returns the energy of the hourglass modes.
    """
    m = row(extra, a, _EXTRA_ROWS * SCRATCH)
    h, g = row(scratch_h, a, 12 * SCRATCH), row(scratch_g, a, 12 * SCRATCH)
    lams, mus = row(first, at + a, n), row(second, at + a, n)
    unit_lam, unit_mu = volume / 16.0 * unit[0], volume / 16.0 * unit[1]
    rz, ry, rx = 0.25 * volume * q[2], 0.25 * volume * q[3], 0.25 * volume * q[4]
    edge = constants(q)
    energy = 0.0
    for i in range(n):
        sz, sy, sx = m[18 * SCRATCH + i], m[19 * SCRATCH + i], m[20 * SCRATCH + i]
        syx, szx, szy = m[21 * SCRATCH + i], m[22 * SCRATCH + i], m[23 * SCRATCH + i]
        ratio = m[31 * SCRATCH + i]
        z_xy, z_yz, z_xz, z_xyz = m[6 * SCRATCH + i], m[7 * SCRATCH + i], m[8 * SCRATCH + i], m[9 * SCRATCH + i]
        y_xy, y_yz, y_xz, y_xyz = m[10 * SCRATCH + i], m[11 * SCRATCH + i], m[12 * SCRATCH + i], m[13 * SCRATCH + i]
        x_xy, x_yz, x_xz, x_xyz = m[14 * SCRATCH + i], m[15 * SCRATCH + i], m[16 * SCRATCH + i], m[17 * SCRATCH + i]
        fz_xy, fz_yz, fz_xz, fz_xyz, fy_xy, fy_yz, fy_xz, fy_xyz, fx_xy, fx_yz, fx_xz, fx_xyz = hourglass(
            edge, ratio * unit_lam * lams[i], ratio * unit_mu * mus[i],
            z_xy, z_yz, z_xz, z_xyz, y_xy, y_yz, y_xz, y_xyz, x_xy, x_yz, x_xz, x_xyz,
        )  # fmt: skip
        energy += fz_xy * z_xy + fz_yz * z_yz + fz_xz * z_xz + fz_xyz * z_xyz
        energy += fy_xy * y_xy + fy_yz * y_yz + fy_xz * y_xz + fy_xyz * y_xyz
        energy += fx_xy * x_xy + fx_yz * x_yz + fx_xz * x_xz + fx_xyz * x_xyz
        share(h, g, 0, i, ry * szy, rx * szx, fz_xy, rz * sz, fz_yz, fz_xz, fz_xyz)
        share(h, g, 4 * SCRATCH, i, ry * sy, rx * syx, fy_xy, rz * szy, fy_yz, fy_xz, fy_xyz)
        share(h, g, 8 * SCRATCH, i, ry * syx, rx * sx, fx_xy, rz * szx, fx_yz, fx_xz, fx_xyz)
    return 0.5 * energy


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def stress_slab(
    u: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    strength: np.ndarray,
    unit: tuple[float, float],
    cone: tuple[float, float, float],
    volume: float,
    ranges: np.ndarray,
    q: np.ndarray,
    state: np.ndarray,
    law: np.ndarray,
    commit: bool,
    force: np.ndarray,
    energies: np.ndarray,
    z0: int,
    z1: int,
    scratch: np.ndarray,
) -> None:
    """Internal forces at displacements `u` on node planes z0 .. z1-1, the tangent, and the energies.

    Parameters
    ----------
    first, second, strength : float32 (nz, ny+1, stride)
        Lame's numbers divided by `unit`, and the yield stress.
    cone : tuple
        b, c and the hardening ratio.
    state : float64 (nz, ny+1, 7, stride)
        Replaced by the new state if `commit` (then `force` is not written), left alone otherwise.
    law : float32 (nz, ny+1, 23, stride)
        Receives the tangent.
    energies : float64 (nz+1, 2)
        Per element layer: stored energy, and what plastic flow has used up since the state.
    """
    nz, rows_per_plane, stride = first.shape
    strains = state.shape[2] - 1
    length = 3 * stride
    f = row(scratch, 0, 12 * SCRATCH)
    h = row(scratch, 12 * SCRATCH, 12 * SCRATCH)
    g = row(scratch, 24 * SCRATCH, 12 * SCRATCH)
    extra = row(scratch, 36 * SCRATCH, _EXTRA_ROWS * SCRATCH)
    y = row(scratch, (36 + _EXTRA_ROWS) * SCRATCH, length)
    partial = row(scratch, (36 + _EXTRA_ROWS) * SCRATCH + length, rows_per_plane * length)
    partial[:] = 0
    h[:] = 0
    u, first, second, strength = u.reshape(-1), first.reshape(-1), second.reshape(-1), strength.reshape(-1)
    state, law, force = state.reshape(-1), law.reshape(-1), force.reshape(-1)
    plane = rows_per_plane * length
    # a commit touches only its own layers, since the next slab may have moved the state of the layer below already
    for k in range(z0 if commit else max(z0 - 1, 0), z1):
        stored = 0.0
        lost = 0.0
        fresh = True
        for j in range(rows_per_plane):
            a = ranges[k, j, 0]
            n = ranges[k, j, 1] - a
            if n <= 0:
                fresh = True
                continue
            here = k * plane + j * length
            waiting = j * length
            if k < nz:
                if fresh:
                    _face(u, here, here + plane, stride, a, n, f)
                    fresh = False
                above = here + length if j + 1 < rows_per_plane else here
                at = (k * rows_per_plane + j) * stride
                for m in range(1, 12, 2):
                    g[m * SCRATCH + a - 1] = 0
                _measure(u, above, above + plane, stride, a, n, q, f, extra)
                kept, gone = _yield(a, n, stride, first, second, strength, at, unit, cone, volume, state, extra)
                # a layer that two slabs work through belongs to the one that owns its lower plane
                if k >= z0:
                    _write_law(a, n, stride, first, second, at, unit, volume, extra, law, strains)
                hourglass_energy = _forces(a, n, first, second, at, unit, volume, q, extra, h, g)
                stored += volume * kept + hourglass_energy
                lost += volume * gone
                if commit:
                    for m in range(STATE_ROWS):
                        into = row(state, STATE_ROWS * at + m * stride + a, n)
                        new = row(extra, (24 + m) * SCRATCH + a, n)
                        for i in range(n):
                            into[i] = new[i]
                _gather(g, a, n, stride, y, partial, waiting)
            else:
                y[:] = partial[waiting : waiting + length]
            if k >= z0 and not commit:
                _deliver(False, here, a, n, stride, y, u, first, force)
        if k >= z0:
            energies[k, 0] = stored
            energies[k, 1] = lost
