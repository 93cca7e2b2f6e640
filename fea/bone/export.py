"""Models and results for other programs: ParaView (``.vti``) and CalculiX (``.inp``).

The exchange format of the solver itself is `fea.save_model`.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from fea.bone.evaluate import TestResult
from fea.materials import Orthotropy
from fea.model import NodalForce, Prescribed, VoxelModel
from fea.nodes import nodes_of
from fea.plasticity import YieldMaterial

# Corners (z, y, x) in the order of a C3D8 element: around the lower face, then around the upper one.
_AROUND = np.array([(0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0), (1, 0, 0), (1, 0, 1), (1, 1, 1), (1, 1, 0)])
_BLOCK = 1 << 20  # bytes compressed at a time in a .vti
_VTK_TYPES = {
    "f4": "Float32",
    "f8": "Float64",
    "u1": "UInt8",
    "i1": "Int8",
    "i2": "Int16",
    "u2": "UInt16",
    "i4": "Int32",
}


def write_vti(
    path: str | Path,
    spacing_mm: tuple[float, float, float],
    cells: Mapping[str, NDArray],
    points: Mapping[str, NDArray] | None = None,
    *,
    origin_mm: NDArray | None = None,
    axes: NDArray | None = None,
) -> None:
    """Fields on a voxel grid as VTK image data (``.vti``), which ParaView opens in place.

    Parameters
    ----------
    path : Path
    spacing_mm : tuple of float
        Voxel edges along (z, y, x).
    cells : dict of str to ndarray of shape (Z, Y, X)
        By name, one value per voxel. Booleans are written as 0 and 1.
    points : dict of str to ndarray of shape (Z+1, Y+1, X+1, 3)
        By name, vectors at the nodes with components along the *array* axes (z, y, x); written as vectors of the world.
    origin_mm : float ndarray of shape (3,), optional
        World coordinates (x, y, z) of node (0, 0, 0).
    axes : float ndarray of shape (3, 3), optional
        Rows: unit vectors in the world along the array axes z, y, x; by default the world's own.

    Raises
    ------
    ValueError
        If the shapes do not belong to one grid.
    """
    shape = next(iter(cells.values())).shape
    nodes = tuple(n + 1 for n in shape)
    points = points or {}
    if len(shape) != 3 or any(values.shape != shape for values in cells.values()):
        raise ValueError("all cell fields must have one shape (Z, Y, X)")
    if any(values.shape != (*nodes, 3) for values in points.values()):
        raise ValueError(f"point fields must have the shape {(*nodes, 3)}")
    turn = np.eye(3)[::-1] if axes is None else np.asarray(axes, float)
    corner = np.zeros(3) if origin_mm is None else np.asarray(origin_mm, float)
    extent = " ".join(f"0 {n}" for n in shape[::-1])
    direction = " ".join(f"{value:.12g}" for value in turn[::-1].T.ravel())  # columns: world directions of i, j, k
    grid = (
        f'Origin="{_numbers(corner)}" Spacing="{_numbers(np.asarray(spacing_mm)[::-1])}" Direction="{direction}" '
        f'WholeExtent="{extent}"'
    )
    with Path(path).open("w", encoding="ascii", newline="\n") as file:
        file.write('<?xml version="1.0"?>\n<VTKFile type="ImageData" version="1.0" byte_order="LittleEndian" ')
        file.write('header_type="UInt64" compressor="vtkZLibDataCompressor">\n')
        file.write(f'<ImageData {grid}>\n<Piece Extent="{extent}">\n<CellData>\n')
        for name, values in cells.items():
            _write_array(file, name, values, 1)
        file.write("</CellData>\n<PointData>\n")
        for name, vectors in points.items():
            _write_array(file, name, (vectors.reshape(-1, 3) @ turn).astype(vectors.dtype), 3)
        file.write("</PointData>\n</Piece>\n</ImageData>\n</VTKFile>\n")


def _numbers(values: NDArray) -> str:
    return " ".join(f"{value:.12g}" for value in values)


def _write_array(file: TextIO, name: str, values: NDArray, components: int) -> None:
    """One data array: header of block sizes and zlib blocks, each of both in base64."""
    plain = np.asarray(values)
    plain = plain.astype(np.uint8) if plain.dtype == np.bool_ else plain
    little = np.ascontiguousarray(plain).astype(plain.dtype.newbyteorder("<"), copy=False)
    kind = _VTK_TYPES[f"{plain.dtype.kind}{plain.dtype.itemsize}"]
    data = little.tobytes()
    blocks = [zlib.compress(data[start : start + _BLOCK], 6) for start in range(0, len(data), _BLOCK)]
    header = struct.pack(
        f"<{3 + len(blocks)}Q", len(blocks), _BLOCK, len(data) % _BLOCK, *(len(block) for block in blocks)
    )
    file.write(f'<DataArray type="{kind}" Name="{name}" NumberOfComponents="{components}" format="binary">\n')
    file.write(base64.b64encode(header).decode() + base64.b64encode(b"".join(blocks)).decode())
    file.write("\n</DataArray>\n")


def result_fields(result: TestResult) -> dict[str, NDArray]:
    """The fields of a virtual test by name, for `write_vti`: everything that has one value per voxel."""
    model = result.model
    fields: dict[str, NDArray] = {
        "density_mg_cm3": model.bone.density_mg_cm3,
        "bone_fraction": model.bone.fraction,
        "is_bone": model.is_bone,
        "modulus_mpa": model.modulus_mpa,
        "energy_density_mpa": result.energy_density_mpa,
        "effective_strain": result.effective_strain,
    }
    if model.profile.yield_stress is not None:
        fields["yield_stress_mpa"] = np.where(np.isfinite(model.yield_stress_mpa), model.yield_stress_mpa, 0)
    if result.yield_ratio is not None:
        fields["stress_over_yield_stress"] = result.yield_ratio
    if result.plastic_strain is not None:
        fields["plastic_strain"] = result.plastic_strain
    return fields


def write_result_vti(path: str | Path, result: TestResult) -> None:
    """Model and fields of a virtual test as ``.vti`` in world coordinates (LPS, mm), with displacements at the nodes."""
    grid = result.model.bone.grid
    spacing = (grid.voxel_mm, grid.voxel_mm, grid.voxel_mm)
    points = {"displacement_mm": result.displacement_mm.astype(np.float32)}
    write_vti(path, spacing, result_fields(result), points, origin_mm=grid.corner_mm, axes=grid.axes)


def write_calculix(
    path: str | Path,
    model: VoxelModel,
    prescribed: Sequence[Prescribed],
    forces: Sequence[NodalForce] = (),
    *,
    material: YieldMaterial | None = None,
    load_factors: Sequence[float] = (1.0,),
    print_fields: bool = False,
) -> None:
    """A model as an input deck of CalculiX: element C3D8, one material for each distinct set of constants.

    Node numbers count all nodes of the box, x fastest, from 1; coordinates are (x, y, z) from node (0, 0, 0). Each `Prescribed`
    becomes a node set of its name, whose total reaction is printed.

    Parameters
    ----------
    path : Path
    model : VoxelModel
    prescribed : sequence of Prescribed
    forces : sequence of NodalForce
    material : YieldMaterial, optional
        Perfectly plastic or hardening von Mises; None leaves the model elastic.
    load_factors : sequence of float
        One step each, with the displacements and forces multiplied by it.
    print_fields : bool
        Also print displacements and stresses to the ``.dat`` file.

    Raises
    ------
    ValueError
        For a yield law that CalculiX does not have: Drucker-Prager, softening.
    """
    if material is not None and (material.criterion != "von_mises" or material.softening is not None):
        raise ValueError(
            "CalculiX has no Drucker-Prager law for solids and no softening: only von Mises can be exported"
        )
    with Path(path).open("w", encoding="ascii", newline="\n") as file:
        for line in _deck(model, prescribed, forces, material, load_factors, print_fields):
            file.write(line + "\n")


def _deck(
    model: VoxelModel,
    prescribed: Sequence[Prescribed],
    forces: Sequence[NodalForce],
    material: YieldMaterial | None,
    load_factors: Sequence[float],
    print_fields: bool,
) -> Iterator[str]:
    nodes, voxels = nodes_of(model.solid), np.argwhere(model.solid)
    yield "** voxel model, lengths in mm, forces in N"
    yield "*NODE, NSET=NALL"
    places = (nodes * np.asarray(model.spacing_mm))[:, ::-1]
    for number, (x, y, z) in zip(_number_of(model, nodes), places, strict=True):
        yield f"{number}, {x:.12e}, {y:.12e}, {z:.12e}"
    yield "*ELEMENT, TYPE=C3D8, ELSET=EALL"
    corners = _number_of(model, (voxels[:, None] + _AROUND).reshape(-1, 3)).reshape(-1, 8)
    for element, around in enumerate(corners, start=1):
        yield f"{element}, " + ", ".join(map(str, around))
    yield from _materials(model, voxels, material)
    present = {tuple(node) for node in nodes.tolist()}
    held = [_with_material(condition, present) for condition in prescribed]
    for condition in held:
        yield f"*NSET, NSET={_set_name(condition.name)}"
        yield from _rows(_number_of(model, condition.nodes).tolist())
    for number, factor in enumerate(load_factors):
        yield f"*STEP, INC={1000 if material is not None else 1}, NLGEOM=NO"
        yield "*STATIC" if number == 0 and material is None else "*STATIC, DIRECT"
        yield "1., 1."
        yield "*BOUNDARY"
        for condition in held:
            which = _number_of(model, condition.nodes).tolist()
            for component, values in condition.components():
                direction = 3 - component
                for node, value in zip(which, values.tolist(), strict=True):
                    yield f"{node}, {direction}, {direction}, {factor * value:.12e}"
        if forces:
            yield "*CLOAD, OP=NEW"
        for force in forces:
            for direction, sizes in ((3, force.z), (2, force.y), (1, force.x)):
                for node, size in zip(_number_of(model, force.nodes).tolist(), np.asarray(sizes).tolist(), strict=True):
                    yield f"{node}, {direction}, {factor * size:.12e}"
        for condition in held:
            yield f"*NODE PRINT, NSET={_set_name(condition.name)}, TOTALS=ONLY"
            yield "RF"
        if print_fields:
            yield from ("*NODE PRINT, NSET=NALL", "U", "*EL PRINT, ELSET=EALL", "S")
        yield "*END STEP"


def _with_material(condition: Prescribed, present: set[tuple[int, ...]]) -> Prescribed:
    """Without the nodes that touch no solid voxel, which the solver ignores and CalculiX does not know."""
    there = np.array([tuple(node) in present for node in condition.nodes.tolist()], bool)
    values = dict(zip("zyx", (condition.z, condition.y, condition.x), strict=True))
    return Prescribed(
        condition.name,
        condition.nodes[there],
        **{a: None if v is None else np.asarray(v)[there] for a, v in values.items()},
    )


def _materials(model: VoxelModel, voxels: NDArray, material: YieldMaterial | None) -> Iterator[str]:
    """Element sets and materials, one for each distinct combination of modulus, Poisson's ratio, law and yield stress."""
    where = tuple(voxels.T)
    columns = [model.modulus_mpa[where].astype(float), np.broadcast_to(model.poisson, model.shape)[where].astype(float)]
    law, turned = model.orthotropy, np.zeros(len(voxels))
    if law is not None:
        turned = np.ones(len(voxels)) if law.isotropic is None else (~law.isotropic[where]).astype(float)
        columns[1] = np.where(turned > 0, 0.0, columns[1])
    columns.append(turned)
    hardening = 0.0
    if material is not None:
        limit = np.broadcast_to(np.asarray(material.yield_stress_mpa, float), model.shape)[where]
        columns.append(limit)
        hardening = material.hardening_ratio
    constants, member = np.unique(np.column_stack(columns), axis=0, return_inverse=True)
    order = np.argsort(member.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(member.ravel(), minlength=len(constants)))
    for number, row in enumerate(constants):
        elements = order[ends[number - 1] if number else 0 : ends[number]] + 1
        yield f"*ELSET, ELSET=E{number + 1}"
        yield from _rows(elements.tolist())
        yield f"*MATERIAL, NAME=M{number + 1}"
        if row[2] > 0 and law is not None:
            yield from _engineering_constants(law, row[0])
        else:
            yield "*ELASTIC"
            yield f"{row[0]:.12e}, {row[1]:.12e}"
        if material is not None and np.isfinite(row[3]):
            yield "*PLASTIC"
            yield f"{row[3]:.12e}, 0."
            if hardening > 0:
                yield f"{row[3] + hardening * row[0]:.12e}, 1."
        yield f"*SOLID SECTION, ELSET=E{number + 1}, MATERIAL=M{number + 1}"


def _engineering_constants(law: Orthotropy, modulus: float) -> Iterator[str]:
    """An orthotropic law for a voxel of this modulus, by CalculiX's axes 1, 2, 3 = x, y, z."""
    compliance = np.linalg.inv(law.matrix)  # stretches zz, yy, xx, then shears yx, zx, zy
    e3, e2, e1 = (modulus / compliance[n, n] for n in range(3))
    nu12, nu13, nu23 = (-compliance[a, b] / compliance[a, a] for a, b in ((2, 1), (2, 0), (1, 0)))
    g12, g13, g23 = (modulus * law.matrix[n, n] for n in (3, 4, 5))
    yield "*ELASTIC, TYPE=ENGINEERING CONSTANTS"
    yield ", ".join(f"{value:.12e}" for value in (e1, e2, e3, nu12, nu13, nu23, g12, g13)) + ","
    yield f"{g23:.12e}"


def _number_of(model: VoxelModel, nodes: NDArray) -> NDArray[np.int64]:
    """CalculiX number of each node (k, j, i), from 1."""
    return np.asarray(np.ravel_multi_index(tuple(np.asarray(nodes).T), model.node_shape) + 1)


def _rows(numbers: list[int]) -> Iterator[str]:
    """Numbers in lines of eight, each but the last ending in a comma."""
    for start in range(0, len(numbers), 8):
        row = ", ".join(map(str, numbers[start : start + 8]))
        yield row + ("," if start + 8 < len(numbers) else "")


def _set_name(name: str) -> str:
    """A set name as CalculiX takes it: letters, digits and underscores, with a letter in front."""
    plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
    return "S_" + plain.upper()
