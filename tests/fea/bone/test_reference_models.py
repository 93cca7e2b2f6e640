"""Real bones that were solved by other programs: from their moduli, and from density and mask with our own model building.

The L4 is 6812 N (23297 N/mm) by FAIM and 6830 N (23359 N/mm) by ParOSol at a displacement of 0.2924 mm.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fea import Prescribed, VoxelModel, nodes_of, solve
from fea.bone.evaluate import run_linear
from fea.bone.femur import build_sideways_fall
from fea.bone.femur_pose import pose_of_femur
from fea.bone.profiles import load_profile
from fea.bone.vertebra import build_vertebra, pose_of_body

pytestmark = pytest.mark.realdata

FAIM_N, FAIM_N_MM, PAROSOL_N, PAROSOL_N_MM = 6812.0, 23297.0, 6830.0, 23359.0
CEMENT_MPA = 2500.0


def image(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Array (z, y, x) and index-to-LPS matrix of a NIfTI file."""
    loaded = nibabel.load(path)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ loaded.affine
    affine[:3, :3] = affine[:3, :3][:, ::-1]
    return np.ascontiguousarray(np.asarray(loaded.dataobj).transpose(2, 1, 0)), affine


def cement_of(modulus: np.ndarray) -> np.ndarray:
    return np.abs(modulus - CEMENT_MPA) < 1e-3


def moduli_by_step(modulus: np.ndarray) -> np.ndarray:
    """The different moduli of the bone in rising order, without the void substitute."""
    values = np.unique(modulus[(modulus > 1e-3) & ~cement_of(modulus)])
    return values.astype(float)


@pytest.mark.slow
def test_the_given_vertebra_has_the_published_force(real_data: Callable[[str], Path]) -> None:
    modulus, _ = image(real_data("fe_vertebra_L4") / "modulus_mpa.nii.gz")
    cap = cement_of(modulus)
    faces = {}
    for name, layer, plane in (("inferior", 5, 5), ("superior", 47, 48)):
        only = np.zeros_like(cap)
        only[layer] = cap[layer]
        nodes = nodes_of(only)
        faces[name] = nodes[nodes[:, 0] == plane]
    assert [len(nodes) for nodes in faces.values()] == [1711, 1711]
    supports = [
        Prescribed("inferior", faces["inferior"], z=0.0, y=0.0, x=0.0),
        Prescribed("superior", faces["superior"], z=-0.2924),
    ]
    # 100 voxels of 1e-4 MPa stand for void: they carry nothing but spoil the condition of the system.
    given = VoxelModel(np.where(modulus > 1e-3, modulus, 0), (1.0, 1.0, 1.0))
    solution = solve(given, supports, rtol=1e-6, floating="remove")
    assert -solution.reaction_n["superior"][0] == pytest.approx(PAROSOL_N, rel=1e-3)


def test_the_given_vertebra_was_solved_with_the_power_law(real_data: Callable[[str], Path]) -> None:
    """Its moduli stand at equal steps of density under 2980 rho^1.05, and not under 3230 rho - 34.7."""
    moduli = moduli_by_step(image(real_data("fe_vertebra_L4") / "modulus_mpa.nii.gz")[0])[:100]
    power = np.diff((moduli / 2980) ** (1 / 1.05))
    linear = np.diff((moduli + 34.7) / 3230)
    assert np.ptp(power) < 1e-4 * power.mean()
    assert np.ptp(linear) > 0.1 * linear.mean()


def test_the_given_femur_was_solved_with_the_ash_power_law(real_data: Callable[[str], Path]) -> None:
    moduli = moduli_by_step(image(real_data("fe_femur_left") / "modulus_mpa.nii.gz")[0])[:100]
    ash = np.diff((moduli / 10500) ** (1 / 2.29))
    assert np.ptp(ash) < 1e-4 * ash.mean()


@pytest.mark.parametrize("with_arch", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_from_density_to_the_published_force(real_data: Callable[[str], Path], with_arch: bool) -> None:
    """Posed, meshed and capped by us: stiffness and force within 2 % of both programs, with and without the arch."""
    folder = real_data("fe_vertebra_L4")
    density, matrix = image(folder / "density_mg_cm3.nii.gz")
    labels, _ = image(folder / "labels.nii.gz")
    body = labels == 20
    bone = labels > 0 if with_arch else None
    pose = pose_of_body(body, matrix)
    model = build_vertebra(density, body, matrix, pose, load_profile("kopperdahl2002"), bone=bone)
    result = run_linear(model, rtol=1e-5)
    for stiffness, force in ((FAIM_N_MM, FAIM_N), (PAROSOL_N_MM, PAROSOL_N)):
        assert result.stiffness_n_mm == pytest.approx(stiffness, rel=0.02)
        assert result.force_n == pytest.approx(force, rel=0.02)
    assert model.bone.mass_g == pytest.approx(model.bone.source_mass_g, rel=1e-3)


@pytest.mark.slow
def test_from_density_to_the_force_of_the_given_femur(real_data: Callable[[str], Path]) -> None:
    """Our mesh and caps against the given moduli under the same scheme.

    Registration of the two images puts the reference's vertical 0.3 degrees from the neck and 18.4 from across the shaft axis
    that we find in the short piece of shaft: in that posture the forces agree; in ours the pose is the difference left.
    """
    folder = real_data("fe_femur_left")
    modulus, _ = image(folder / "modulus_mpa.nii.gz")
    given = _given_fall(modulus)
    density, matrix = image(folder / "density_mg_cm3.nii.gz")
    mask = image(folder / "labels.nii.gz")[0] == 2
    pose, profile = pose_of_femur(mask, matrix), load_profile("ogo-femur")
    ours = run_linear(build_sideways_fall(density, mask, matrix, pose, profile), rtol=1e-5)
    assert ours.stiffness_n_mm == pytest.approx(given, rel=0.06)
    model = build_sideways_fall(density, mask, matrix, pose, profile, internal_rotation_deg=-0.3, adduction_deg=18.4)
    assert model.lengths_mm["model"] == 88.0
    assert run_linear(model, rtol=1e-5).force_n == pytest.approx(given * 3.52, rel=0.02)


def _given_fall(modulus: np.ndarray) -> float:
    """Stiffness (N/mm) of the given femur: cap of the head moved, cap of the trochanter and the oblique cut end held."""
    cap, solid = cement_of(modulus), modulus > 0
    sides = {}
    for name, layer, plane in (("trochanter", 0, 0), ("head", 87, 88)):
        only = np.zeros_like(cap)
        only[:, layer] = cap[:, layer]
        nodes = nodes_of(only)
        sides[name] = nodes[nodes[:, 1] == plane]
    lowest = np.where(solid.any(axis=0), np.argmax(solid, axis=0), 10**6)
    y, x = np.nonzero(lowest <= 16)
    inner = (y > 12) & (y < 66)
    y, x = y[inner], x[inner]
    design, height = np.column_stack([y, x, np.ones(len(y))]), lowest[y, x]
    keep = np.ones(len(y), bool)
    plane_of_end = np.zeros(3)
    for _ in range(10):
        plane_of_end = np.linalg.lstsq(design[keep], height[keep], rcond=None)[0]
        keep = np.abs(height - design @ plane_of_end) < 1.5
    nodes = nodes_of(solid)
    end = nodes[:, 1] * plane_of_end[0] + nodes[:, 2] * plane_of_end[1] + plane_of_end[2]
    supports = [
        Prescribed("distal", nodes[np.abs(nodes[:, 0] - end) < 1.2], z=0.0, x=0.0),
        Prescribed("trochanter", sides["trochanter"], y=0.0),
        Prescribed("head", sides["head"], y=-3.52),
    ]
    solution = solve(VoxelModel(modulus, (1.0, 1.0, 1.0)), supports, rtol=1e-5, floating="remove")
    return float(-solution.reaction_n["head"][1] / 3.52)
