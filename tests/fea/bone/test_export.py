"""What other programs are given: read back by a parser of the format, and solved by CalculiX and parosol-py where they are."""

from __future__ import annotations

import base64
import re
import struct
import xml.etree.ElementTree as ElementTree
import zlib
from pathlib import Path

import numpy as np
import pytest

from fea import Prescribed, VoxelModel, YieldMaterial, face_nodes
from fea.bone.evaluate import add_yield, run_linear
from fea.bone.export import result_fields, write_calculix, write_result_vti, write_vti
from fea.bone.profiles import load_profile
from fea.bone.vertebra import build_vertebra
from tests.fea.bone.bones import oval_body
from tests.fea.bone.test_vertebra import upright


def arrays_of(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Attributes of the grid and all data arrays of a .vti, by the published layout of VTK's XML files."""
    root = ElementTree.parse(path).getroot()
    assert root.attrib["compressor"] == "vtkZLibDataCompressor" and root.attrib["header_type"] == "UInt64"
    found = {}
    for element in root.iter("DataArray"):
        text = (element.text or "").strip()
        count = struct.unpack("<Q", base64.b64decode(text[:12])[:8])[0]
        length = 8 * (3 + count)
        characters = 4 * -(-length // 3)
        sizes = struct.unpack(f"<{3 + count}Q", base64.b64decode(text[:characters])[:length])[3:]
        body, at, raw = base64.b64decode(text[characters:]), 0, b""
        for size in sizes:
            raw += zlib.decompress(body[at : at + size])
            at += size
        kind = {"Float32": "<f4", "Float64": "<f8", "UInt8": "u1", "Int16": "<i2"}[element.attrib["type"]]
        found[element.attrib["Name"]] = np.frombuffer(raw, kind)
    return root[0].attrib, found


def test_fields_come_back_from_image_data(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(60, 70, 80)).astype(np.float32)  # more than one block
    moved = rng.normal(size=(61, 71, 81, 3))
    turn = np.array([[0.0, 0.6, 0.8], [0.0, 0.8, -0.6], [-1.0, 0.0, 0.0]])  # world directions of z, y, x
    path = tmp_path / "a.vti"
    corner = np.array([1.0, -2, 3])
    write_vti(path, (0.5, 1.0, 2.0), {"v": values, "b": values > 0}, {"u": moved}, origin_mm=corner, axes=turn)
    grid, found = arrays_of(path)
    assert grid["WholeExtent"] == "0 80 0 70 0 60" and grid["Spacing"] == "2 1 0.5" and grid["Origin"] == "1 -2 3"
    np.testing.assert_array_equal(found["v"].reshape(60, 70, 80), values)
    np.testing.assert_array_equal(found["b"].reshape(60, 70, 80), values > 0)
    np.testing.assert_allclose(found["u"].reshape(61, 71, 81, 3), moved @ turn)
    # VTK: world = origin + Direction @ (spacing * (i, j, k)); a step along k is a step along the array axis z
    matrix = np.array(grid["Direction"].split(), float).reshape(3, 3)
    np.testing.assert_allclose(matrix @ [0, 0, 1], turn[0])
    np.testing.assert_allclose(matrix @ [1, 0, 0], turn[2])


def test_fields_of_several_grids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one shape"):
        write_vti(tmp_path / "a.vti", (1, 1, 1), {"a": np.zeros((2, 2, 2)), "b": np.zeros((2, 2, 3))})
    with pytest.raises(ValueError, match="point fields"):
        write_vti(tmp_path / "a.vti", (1, 1, 1), {"a": np.zeros((2, 2, 2))}, {"u": np.zeros((2, 2, 2, 3))})


def test_a_solved_test_is_written_with_all_its_fields(tmp_path: Path) -> None:
    bone = oval_body()
    model = build_vertebra(
        bone.density, bone.mask, bone.matrix, upright(bone), load_profile("kopperdahl2002"), voxel_mm=2.0
    )
    result = add_yield(run_linear(model))
    write_result_vti(tmp_path / "r.vti", result)
    grid, found = arrays_of(tmp_path / "r.vti")
    assert set(found) == {*result_fields(result), "displacement_mm"}
    assert {"plastic_strain", "stress_over_yield_stress", "energy_density_mpa", "density_mg_cm3"} <= set(found)
    # the outer face of the moved cap goes down by the applied displacement, in the world
    lowest = found["displacement_mm"].reshape(-1, 3)[:, 2].min()
    assert lowest == pytest.approx(-model.applied_mm, rel=1e-3)
    assert [float(v) for v in grid["Origin"].split()] == pytest.approx(list(model.bone.grid.corner_mm))


def test_materials_of_the_deck_are_those_of_the_voxels(tmp_path: Path) -> None:
    modulus = np.array([[[100.0, 200.0], [0.0, 100.0]]], np.float32)
    model = VoxelModel(modulus, (1.0, 1.0, 1.0), 0.3)
    supports = [Prescribed("low side", face_nodes(model, 0, False), z=0.0)]
    write_calculix(tmp_path / "m.inp", model, supports, material=YieldMaterial(0.01 * modulus + 1e-9))
    deck = (tmp_path / "m.inp").read_text()
    assert deck.count("*ELEMENT") == 1 and deck.count("*MATERIAL") == 2 and deck.count("*PLASTIC") == 2
    members = re.findall(r"\*ELSET, ELSET=E\d+\n([^*]*)\*MATERIAL.*\n\*ELASTIC\n(\S+),", deck)
    by_modulus = {float(e): sorted(int(n) for n in which.replace(",", " ").split()) for which, e in members}
    assert by_modulus == {100.0: [1, 3], 200.0: [2]}  # elements count solid voxels, x fastest
    assert "NSET=S_LOW_SIDE" in deck


def test_a_yield_law_that_calculix_lacks_is_refused(tmp_path: Path) -> None:
    model = VoxelModel(np.ones((1, 1, 1)), (1.0, 1.0, 1.0))
    weak = YieldMaterial(1.0, 0.0, "drucker_prager", 0.8)
    with pytest.raises(ValueError, match="Drucker-Prager"):
        write_calculix(tmp_path / "m.inp", model, [], material=weak)
