"""Every hot loop is compiled to packed instructions.

A lost vectorisation costs a factor of two to eight and changes no result, so the machine code is looked at. Kernels are
compiled afresh, since code from the cache keeps no listing. The element loops have a test of their own in
`test_operator`.
"""

from __future__ import annotations

import platform
import re

import pytest
from numba import njit, types

from fea import eight_points, elastic, kernels, mesh_kernels, tangent, transfer, vectors, yielding

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="looks for x86 instructions"
)

PACKED = re.compile(r"\bv?(?:add|sub|mul|div|max|min|fn?m(?:add|sub)\d*)(p[sd])\b")
N, FLAG = types.int64, types.boolean


def rows(kind):
    return types.Array(kind, 1, "C")


def fields(kind):
    return types.Array(kind, 4, "C")


F32, F64 = types.float32, types.float64
R32, R64, V32, V64 = rows(F32), rows(F64), fields(F32), fields(F64)
THREE = types.UniTuple(N, 3)
RANGES = types.Array(N, 3, "C")
SLAB = (N, N)

YIELDING = types.NamedTuple([*[R32] * 4, R64, R32, R64, *[F64] * 9, FLAG], yielding.Yielding)
ORTHOTROPIC = types.NamedTuple([R32, R32], elastic.Orthotropic)
TANGENT = types.NamedTuple([R32, R32, R32], tangent.Tangent)

# kernel, argument types, and the packed operations that its loops need at the very least, once for every loop
HOT = [
    (kernels._face, (R32, N, N, N, N, N, R32), 8),
    (kernels._face, (R64, N, N, N, N, N, R64), 8),
    (kernels._gather, (R32, N, N, N, R32, R32, N), 3),
    (kernels._gather, (R64, N, N, N, R64, R64, N), 3),
    (kernels._deliver, (FLAG, N, N, N, N, R32, R32, R32, R32), 1),
    (kernels._deliver, (FLAG, N, N, N, N, R64, R64, R32, R64), 1),
    (kernels._smooth, (N, N, N, N, N, R32, R32, R32, F32, F32, R32, R32, R32, R32), 9),
    (vectors.advance, (F64, V64, V64, V64, V64, R64, *SLAB), 3),
    (vectors.begin_cycle, (V64, F64, F32, V32, V32, V32, *SLAB), 2),
    (vectors.turn, (V32, F64, V64, *SLAB), 1),
    (vectors.remainder, (V64, FLAG, V32, V64, R64, *SLAB), 2),
    (vectors.inner, (V64, V64, R64, *SLAB), 1),
    (vectors.inner, (V32, V32, R64, *SLAB), 1),
    (vectors.scatter, (V32, V32, R64, *SLAB), 2),
    (vectors.orthogonalise, (V32, F32, V32, F32, V32, V32, R64, *SLAB), 3),
    (transfer.restrict, (*SLAB, V32, THREE, V32, RANGES, V32), 2),
    (transfer.prolong, (*SLAB, V32, THREE, V32, RANGES, V32), 4),
    (yielding._measure, (R64, N, N, N, N, N, R64, R64, R64), 40),
    (yielding.return_rows, (YIELDING, N, N, N, N, N, R64), 60),
    (yielding.stiffen_rows, (YIELDING, N, N, R64), 3),
    (yielding._forces, (YIELDING, N, N, N, N, R64, R64, R64, R64), 100),
    (mesh_kernels._strain, (R32, R32, R32, R32, N, N, R32), 100),
    (mesh_kernels._strain, (R64, R64, R32, R32, N, N, R64), 100),
    (elastic.orthotropic_rows, (ORTHOTROPIC, R32, R32, *[N] * 7, FLAG, *[R32] * 4), 100),
    (tangent.tangent_rows, (TANGENT, R32, R32, *[N] * 7, FLAG, *[R32] * 4), 100),
    (eight_points.measure, (R64, N, N, N, N, N, F64, F64, F64, R64, R64), 40),
    (eight_points.measure, (R32, N, N, N, N, N, F32, F32, F32, R32, R32), 40),
    (eight_points.strain_point, (R64, N, N, *[F64] * 6, R64), 20),
    (eight_points.collect_point, (R64, N, N, *[F64] * 6, R64), 25),
    (eight_points.tangent_point, (R32, *[N] * 4, *[F32] * 6, R32), 100),
    (eight_points.share_rows, (R64, N, N, *[F64] * 4, R64, R64), 60),
    (eight_points.share_rows, (R32, N, N, *[F32] * 4, R32, R32), 60),
]


def listing(function, signature):
    compiled = njit(fastmath=True, error_model="numpy", nogil=True)(function)
    compiled.compile(signature)
    return compiled.inspect_asm(compiled.signatures[0])


@pytest.mark.parametrize(
    ("kernel", "signature", "least"),
    HOT,
    ids=[f"{kernel.__name__}-{'32' if R32 in s or V32 in s else '64'}" for kernel, s, _ in HOT],
)
def test_hot_loops_are_packed(kernel, signature, least):
    found = PACKED.findall(listing(getattr(kernel, "py_func", kernel), signature))
    assert len(found) >= least, f"only {len(found)} packed operations"


def test_the_count_sees_a_loop_that_is_not_packed():
    """The same sum with a position that may be negative, which numba cannot vectorise: the guard would fire."""

    def packed(x, y):
        for i in range(x.size):
            y[i] = x[i] * x[i] + y[i]

    def chained(x, y):
        for i in range(1, x.size):
            y[i] = x[i] * y[i - 1] + y[i]

    signature = (R32, R32)
    assert len(PACKED.findall(listing(packed, signature))) >= 1
    assert len(PACKED.findall(listing(chained, signature))) == 0
