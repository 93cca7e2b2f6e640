"""The element operator on rows of voxels, and what is done with each finished row.

Fields live in arrays of shape (nz+1, ny+1, 3, stride): node plane, node row, component (z, y, x), position in the row.
Numbers per voxel live in arrays of shape (nz, ny+1, stride), zero where void or padding. See docs/solver.md for the
derivation; the names of the modes here are the ones used there.

There is one loop over rows, `slab`, for every material. **To add a material**: gather what it needs (flat arrays,
numbers) in a NamedTuple; write a function with the signature of `elastic.isotropic_rows`, decorated with
`rows_of(MyMaterial)`, that turns one row of displacements into nodal forces by `modes` and `share`; and in the same file an
entry point like `elastic.apply_slab`, compiled with `cache=True`, that calls `slab(MyMaterial(...), ...)`. The type of the
material chooses the function when the entry point is compiled, so the call costs nothing. `slab` is not cached by itself:
its code is kept with each entry point. (The NamedTuple is made inside the entry point because numba takes 30 us to
recognise one that comes from outside.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload
from numba.np.arrayobj import make_array, populate_array

# Distance of the scratch rows, a compile-time constant so that the vectoriser needs no overlap tests between them.
# 1136 entries are 71 (float32) or 142 (float64) cache lines, which spreads the rows over the sets of the cache.
SCRATCH = 1136
Rows = Callable[..., None]
AHEAD = 2  # node rows between asking for memory and using it
LONGEST_ROW = SCRATCH - 16


def scratch_size(field_shape: tuple[int, ...], extra_rows: int = 0) -> int:
    """Entries of scratch that `slab` needs for fields of this shape and a material with rows of its own."""
    _, rows, components, stride = field_shape
    return (36 + extra_rows) * SCRATCH + (rows + 1) * components * stride


@intrinsic
def row(typing_context: Any, array: Any, offset: Any, length: Any) -> Any:
    """A view array[offset : offset + length] that is neither clipped nor counted.

    An ordinary slice costs an atomic reference count and a dozen tests, which for some forty slices per row of a
    hundred voxels is more than the arithmetic. The caller keeps the array alive and the range inside its memory.
    """
    if not isinstance(array, types.Array) or array.ndim != 1:
        return None
    view = types.Array(array.dtype, 1, "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        base = make_array(kind)(context, builder, arguments[0])
        result = make_array(view)(context, builder)
        itemsize = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
        populate_array(
            result,
            data=builder.gep(base.data, [arguments[1]]),
            shape=[arguments[2]],
            strides=[itemsize],
            itemsize=itemsize,
            meminfo=None,
        )
        return result._getvalue()

    return view(array, types.intp, types.intp), generate


@intrinsic
def prefetch(typing_context: Any, array: Any, offset: Any) -> Any:
    """Ask for the cache line of array[offset]; harmless beyond the end."""
    if not isinstance(array, types.Array) or array.ndim != 1:
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        base = make_array(signature.args[0])(context, builder, arguments[0])
        byte, integer = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, integer, integer, integer])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch")
        pointer = builder.bitcast(builder.gep(base.data, [arguments[1]]), byte)
        builder.call(function, [pointer, integer(0), integer(3), integer(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


NOTHING, RAW, MASKED_DOT, START, STEP, FINAL, LAST = -1, 0, 1, 2, 3, 4, 5


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def _face(u: np.ndarray, lower: int, upper: int, stride: int, a: int, n: int, f: np.ndarray) -> None:
    """Butterflies along x and z of the node rows that begin at `lower` and `upper` (two neighbouring planes)."""
    for c in range(3):
        lo = row(u, lower + c * stride + a, n + 1)
        up = row(u, upper + c * stride + a, n + 1)
        out = row(f, 4 * c * SCRATCH + a, 3 * SCRATCH + n)
        for i in range(n):
            sl = lo[i + 1] + lo[i]
            dl = lo[i + 1] - lo[i]
            su = up[i + 1] + up[i]
            du = up[i + 1] - up[i]
            out[i] = su + sl
            out[SCRATCH + i] = du + dl
            out[2 * SCRATCH + i] = su - sl
            out[3 * SCRATCH + i] = du - dl


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True, inline="always")
def modes(
    lower: np.ndarray, upper: np.ndarray, f: np.ndarray, o: np.ndarray, i: int
) -> tuple[float, float, float, float, float, float, float]:
    """The seven modes of one component of element i that are no translation: y, x, xy, z, yz, xz, xyz.

    `lower` and `upper` are the component's rows j+1 in the two planes; f[o:] holds the face of row j in four scratch
    rows (sum, x, z, xz) and receives that of row j+1.
    """
    s, d = lower[i + 1] + lower[i], lower[i + 1] - lower[i]
    t, e = upper[i + 1] + upper[i], upper[i + 1] - upper[i]
    n0, n1, n2, n3 = t + s, e + d, t - s, e - d
    o0, o1, o2, o3 = f[o + i], f[o + SCRATCH + i], f[o + 2 * SCRATCH + i], f[o + 3 * SCRATCH + i]
    f[o + i], f[o + SCRATCH + i], f[o + 2 * SCRATCH + i], f[o + 3 * SCRATCH + i] = n0, n1, n2, n3
    return n0 - o0, n1 + o1, n1 - o1, n2 + o2, n2 - o2, n3 + o3, n3 - o3


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True, inline="always")
def share(
    h: np.ndarray,
    g: np.ndarray,
    o: np.ndarray,
    i: int,
    t_y: float,
    t_x: float,
    t_xy: float,
    t_z: float,
    t_yz: float,
    t_xz: float,
    t_xyz: float,
) -> None:
    """Turn the modal forces of one component of element i back into nodal ones (the transpose of `modes`).

    h[o:] holds what the previous element row left for node row j and receives the share of row j+1; g[o:] receives the
    forces of row j: lower plane left and right, upper plane left and right.
    """
    n0, n1 = h[o + i] - t_y, h[o + SCRATCH + i] + t_x - t_xy
    n2, n3 = h[o + 2 * SCRATCH + i] + t_z - t_yz, h[o + 3 * SCRATCH + i] + t_xz - t_xyz
    h[o + i], h[o + SCRATCH + i], h[o + 2 * SCRATCH + i], h[o + 3 * SCRATCH + i] = (
        t_y,
        t_x + t_xy,
        t_z + t_yz,
        t_xz + t_xyz,
    )
    s, d, t, e = n0 - n2, n1 - n3, n0 + n2, n1 + n3
    g[o + i], g[o + SCRATCH + i], g[o + 2 * SCRATCH + i], g[o + 3 * SCRATCH + i] = s - d, s + d, t - e, t + e


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True, inline="always")
def constants(q: np.ndarray) -> tuple[float, ...]:
    """The edge terms of `element.modal_numbers`, read before a loop so that they stay in registers."""
    return (
        q[2], q[3], q[4], q[5], q[6], q[7], q[8], q[9], q[10], q[11], q[12], q[13], q[14], q[15], q[16], q[17], q[18],
        q[19], q[20], q[21], q[22],
    )  # fmt: skip


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True, inline="always")
def hourglass(
    edge: tuple[float, ...],
    lam: float,
    mu: float,
    z_xy: float,
    z_yz: float,
    z_xz: float,
    z_xyz: float,
    y_xy: float,
    y_yz: float,
    y_xz: float,
    y_xyz: float,
    x_xy: float,
    x_yz: float,
    x_xz: float,
    x_xyz: float,
) -> tuple[float, ...]:
    """Modal forces of the twelve modes that vanish at the centre of the voxel, in the order given."""
    rz, ry, rx, tz, ty, tx, szz, syy, sxx, pz, py, px, mzy, mzx, myx, kz, ky, kx, wz, wy, wx = edge
    mu2 = mu + mu
    # stretches that change sign along x, then y, then z
    ey, ez = ty * y_xy, tz * z_xz
    trace = lam * (ey + ez)
    y_xy = ry * (trace + mu2 * ey) + (sxx * mu) * y_xy
    z_xz = rz * (trace + mu2 * ez) + (sxx * mu) * z_xz
    ex, ez = tx * x_xy, tz * z_yz
    trace = lam * (ex + ez)
    x_xy = rx * (trace + mu2 * ex) + (syy * mu) * x_xy
    z_yz = rz * (trace + mu2 * ez) + (syy * mu) * z_yz
    ex, ey = tx * x_xz, ty * y_yz
    trace = lam * (ex + ey)
    x_xz = rx * (trace + mu2 * ex) + (szz * mu) * x_xz
    y_yz = ry * (trace + mu2 * ey) + (szz * mu) * y_yz
    # the highest mode of each component
    z_xyz *= kz * lam + wz * mu
    y_xyz *= ky * lam + wy * mu
    x_xyz *= kx * lam + wx * mu
    # shears that change sign along the third axis
    s, t, e = mu * x_yz, mu * y_xz, mu * z_xy
    x_yz = px * s + myx * t + mzx * e
    y_xz = myx * s + py * t + mzy * e
    z_xy = mzx * s + mzy * t + pz * e
    return z_xy, z_yz, z_xz, z_xyz, y_xy, y_yz, y_xz, y_xyz, x_xy, x_yz, x_xz, x_xyz


def element_rows(material: Any, *rest: Any) -> None:
    """The function that `rows_of` registered for the type of `material`; exists in compiled code only."""
    raise NotImplementedError


def rows_of(kind: type) -> Callable[[Rows], Rows]:
    """Register a function (see `elastic.isotropic_rows`) as what `slab` does with a row of elements of material `kind`."""
    options = {"fastmath": True, "error_model": "numpy", "nogil": True}

    def register(function: Rows) -> Rows:
        @overload(element_rows, jit_options=options, strict=False)  # type: ignore[untyped-decorator]
        def choose(material: Any, *rest: Any) -> Rows | None:
            return function if getattr(material, "instance_class", None) is kind else None

        return function

    return register


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def _gather(g: np.ndarray, a: int, n: int, stride: int, y: np.ndarray, partial: np.ndarray, waiting: int) -> None:
    """Forces of one node row from the elements on both sides; the upper plane's share waits in `partial`."""
    for c in range(3):
        left = row(g, 4 * c * SCRATCH + a, 2 * SCRATCH + n)
        right = row(g, (4 * c + 1) * SCRATCH + a - 1, 2 * SCRATCH + n)
        out = row(y, c * stride + a, n)
        wait = row(partial, waiting + c * stride + a, n)
        for i in range(n):
            out[i] = wait[i] + (left[i] + right[i])
            wait[i] = left[2 * SCRATCH + i] + right[2 * SCRATCH + i]


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def _deliver(
    masked: bool,
    at: int,
    a: int,
    n: int,
    stride: int,
    forces: np.ndarray,
    u: np.ndarray,
    inverse: np.ndarray,
    out: np.ndarray,
) -> float:
    """Write the finished forces of one node row, if `masked` only the free ones; returns the row's share of u . out."""
    total = 0.0
    zero = forces.dtype.type(0)
    for c in range(3):
        o = at + c * stride + a
        force, into = row(forces, c * stride + a, n), row(out, o, n)
        if masked:
            moved, scale = row(u, o, n), row(inverse, o, n)
            for i in range(n):
                value = force[i] if scale[i] > 0 else zero
                into[i] = value
                total += value * moved[i]
        else:
            for i in range(n):
                into[i] = force[i]
    return total


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def _smooth(
    mode: int,
    at: int,
    a: int,
    n: int,
    stride: int,
    forces: np.ndarray,
    u: np.ndarray,
    inverse: np.ndarray,
    c1: float,
    c2: float,
    source: np.ndarray,
    residual: np.ndarray,
    direction: np.ndarray,
    x: np.ndarray,
) -> float:
    """What a smoothing step does with the finished forces of one node row; returns its share of the dot product."""
    total = 0.0
    zero = forces.dtype.type(0)  # a plain 0 would make the whole loop float64
    for c in range(3):
        o = at + c * stride + a
        force, into = row(forces, c * stride + a, n), row(residual, o, n)
        moved, scale = row(u, o, n), row(inverse, o, n)
        given, sums = row(source, o, n), row(x, o, n)
        if mode == LAST:
            for i in range(n):
                value = sums[i] + moved[i] + (c1 * moved[i] + c2 * scale[i] * (given[i] - force[i]))
                sums[i] = value
                total += value * into[i]
            continue
        for i in range(n):
            into[i] = given[i] - force[i] if scale[i] > 0 else zero
        if mode != FINAL:
            new = row(direction, o, n)
            for i in range(n):
                new[i] = c1 * moved[i] + c2 * scale[i] * into[i]
        if mode != START:
            for i in range(n):
                sums[i] += moved[i]
    return total


@njit(fastmath=True, error_model="numpy", nogil=True)
def slab(
    material: tuple[Any, ...],
    mode: int,
    u: np.ndarray,
    ranges: np.ndarray,
    q: np.ndarray,
    inverse: np.ndarray,
    out: np.ndarray,
    smoothing: tuple[float, float, np.ndarray, np.ndarray, np.ndarray] | None,
    sums: np.ndarray,
    z0: int,
    z1: int,
    scratch: np.ndarray,
) -> None:
    """Apply the operator of a material to `u` and finish node planes z0 .. z1-1 according to `mode`.

    `material` is a NamedTuple for which `rows_of` registered what happens with one row of elements.

    Element layers z0-1 .. z1-1 are worked through, so a layer at the border of two slabs is done twice; in return no
    two slabs write the same plane, and the order of additions at a node does not depend on the slabs.

    With y = K u, and masked() setting fixed and void components (inverse diagonal 0) to zero, `smoothing` = None:

    NOTHING     `out` is not touched: only what the material's function writes is wanted
    RAW         out = y
    MASKED_DOT  out = masked(y);           sums[plane] = u . out

    and with `smoothing` = (c1, c2, source, direction, x):

    START       out = masked(source - y);  direction = c1 u + c2 inverse out
    STEP        the same, and x += u
    FINAL       out = masked(source - y);  x += u
    LAST        x += u + (c1 u + c2 inverse (source - y));  sums[plane] = x . out, `out` being only read
    """
    planes, rows_per_plane, _, stride = u.shape
    nz = planes - 1
    length = 3 * stride
    lanes = 64 // u.itemsize
    f = row(scratch, 0, 12 * SCRATCH)
    h = row(scratch, 12 * SCRATCH, 12 * SCRATCH)
    g = row(scratch, 24 * SCRATCH, 12 * SCRATCH)
    y = row(scratch, 36 * SCRATCH, length)
    partial = row(scratch, 36 * SCRATCH + length, rows_per_plane * length)
    used = 36 * SCRATCH + (rows_per_plane + 1) * length
    extra = row(scratch, used, scratch.size - used)
    partial[:] = 0
    for m in range(12):
        h[m * SCRATCH : m * SCRATCH + stride] = 0
    u = u.reshape(-1)
    inverse = inverse.reshape(-1)
    out = out.reshape(-1)
    if smoothing is not None:
        c1, c2, source, direction, x = smoothing
        source, direction, x = source.reshape(-1), direction.reshape(-1), x.reshape(-1)
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
                at = (k * rows_per_plane + j) * stride
                for m in range(1, 12, 2):
                    g[m * SCRATCH + a - 1] = 0
                element_rows(material, q, u, above, above + plane, stride, a, n, k, at, k >= z0, f, h, g, extra)
                _gather(g, a, n, stride, y, partial, waiting)
            else:
                y[:] = partial[waiting : waiting + length]
            if k < z0 or mode == NOTHING:
                continue
            # ask for the memory that later rows will want: too many streams for the hardware to foresee all
            there = here + AHEAD * length
            for i in range(0, length, lanes):
                prefetch(u, there + plane + i)
                prefetch(out, there + i)
            if mode != RAW:
                for i in range(0, length, 16):
                    prefetch(inverse, there + i)
            if smoothing is not None:
                for i in range(0, length, lanes):
                    prefetch(source, there + i)
                    prefetch(direction if mode <= STEP else x, there + i)
                if mode == STEP:
                    for i in range(0, length, lanes):
                        prefetch(x, there + i)
                total += _smooth(mode, here, a, n, stride, y, u, inverse, c1, c2, source, out, direction, x)
            else:
                total += _deliver(mode == MASKED_DOT, here, a, n, stride, y, u, inverse, out)
        if k >= z0:
            sums[k] = total
