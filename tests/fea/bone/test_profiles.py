"""Material laws against values worked out by hand, and profiles as files that users write."""

from __future__ import annotations

import numpy as np
import pytest

from fea.bone.laws import Law, PowerLaw
from fea.bone.profiles import (
    Boundary,
    Criterion,
    ProfileError,
    VirtualTest,
    builtin_profiles,
    load_profile,
    parse_profile,
)

# K2HPO4 density (mg/cm3) and modulus (MPa) worked out with a pocket calculator from the published equations.
CLOSED_FORM = {
    "kopperdahl2002": {50: 128.3, 100: 265.6, 200: 549.9, 500: 1439.2, 1200: 3608.7},
    "kopperdahl2002-linear": {50: 126.8, 100: 288.3, 200: 611.3, 500: 1580.3, 1200: 3841.3},
    "ogo-femur": {50: 44.4, 100: 125.9, 200: 442.6, 500: 2885.5, 1200: 19517.5},
    "morgan-neck": {50: 418.4, 100: 824.6, 200: 1868.6, 500: 6327.8, 1200: 21949.8},
}


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_moduli_match_the_published_equations(name: str) -> None:
    expected = CLOSED_FORM[name]
    modulus = load_profile(name).materials(np.array(list(expected), float)).modulus_mpa
    np.testing.assert_allclose(modulus, list(expected.values()), rtol=6e-4)


def test_yield_stress_of_the_kopperdahl_laws() -> None:
    density = np.array([100.0, 200.0, 500.0])
    power = load_profile("kopperdahl2002").materials(density).yield_stress_mpa
    linear = load_profile("kopperdahl2002-linear").materials(density).yield_stress_mpa
    np.testing.assert_allclose(power, [1.524, 3.993, 14.27], rtol=1e-3)
    np.testing.assert_allclose(linear, [1.74, 4.23, 11.7], rtol=1e-3)


@pytest.mark.parametrize("name", builtin_profiles())
def test_every_builtin_profile_is_whole_and_its_laws_rise_with_density(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name and profile.title == f"{name} v{profile.version}"
    density = np.linspace(20, 1500, 300)
    materials = profile.materials(density)
    assert (np.diff(materials.modulus_mpa) >= 0).all() and materials.modulus_mpa.min() >= profile.minimum_modulus_mpa
    assert (np.diff(materials.yield_stress_mpa[np.isfinite(materials.yield_stress_mpa)]) >= 0).all()
    tags = (profile.modulus.source, profile.density.source, profile.cap.source, profile.criteria_source)
    assert all("[" in source or source == "identity" or "reference model" in source for source in tags)
    assert profile.definition


def test_densities_outside_the_range_are_set_to_its_ends_and_counted() -> None:
    profile = load_profile("kopperdahl2002")
    materials = profile.materials(np.array([-50.0, 0.0, 100.0, 2000.0, 2500.0]))
    assert (materials.clamped_below, materials.clamped_above) == (1, 1)
    assert materials.modulus_mpa[0] == np.float32(profile.minimum_modulus_mpa)
    assert materials.modulus_mpa[3] == materials.modulus_mpa[4]


def test_a_law_in_two_pieces_switches_at_its_density() -> None:
    """The two-phase femur law: 5307 ash + 469 below 0.6 g/cm3, 10200 ash^2.01 above."""
    law = Law((PowerLaw(0.0, 469.0, 5307.0, 1.0), PowerLaw(0.6, 0.0, 10200.0, 2.01)), "test")
    np.testing.assert_allclose(law(np.array([0.3, 0.59, 1.0])), [469 + 5307 * 0.3, 469 + 5307 * 0.59, 10200.0])
    assert law.sensitivity(1.0) == pytest.approx(2.01, abs=1e-4)


ORTHOTROPY = """[orthotropy]
modulus_ratio = [1.0, 0.4, 0.4]
poisson = [0.3, 0.3, 0.4]
shear_ratio = [0.2, 0.2, 0.15]
source = "me"
"""


def test_a_profile_may_be_orthotropic_for_the_spine_and_linear_criteria_only() -> None:
    profile = parse_profile(_file(("[cap]", ORTHOTROPY + "[cap]")), "mine.toml")
    assert profile.orthotropy is not None
    law = np.linalg.inv(profile.orthotropy.law().matrix)
    np.testing.assert_allclose(1 / np.diag(law), [1.0, 0.4, 0.4, 0.15, 0.2, 0.2])  # shears yx, zx, zy
    with pytest.raises(ProfileError, match="spine-compression alone"):
        parse_profile(_file(("[cap]", ORTHOTROPY + "[cap]"), ("spine-compression", "hip-stance")), "mine.toml")
    plastic = ('strength = "pistoia"', 'strength = "nonlinear-strain"')
    limit = "[yield_stress_mpa]\npieces = [{ coefficient = 10.0, exponent = 1.0 }]\nsource = 'me'\n[cap]"
    with pytest.raises(ProfileError, match="isotropic bone"):
        parse_profile(_file(("[cap]", ORTHOTROPY + limit), plastic), "mine.toml")


def test_changed_constants_of_a_law() -> None:
    profile = load_profile("kopperdahl2002")
    known = profile.law_uncertainty
    assert known is not None
    density = np.array([75.0, 150.0, 300.0])
    before, after = profile.materials(density), profile.with_constants(1, -1).materials(density)
    expected = (1 + known.level) * (density / 150.0) ** -known.exponent
    np.testing.assert_allclose(after.modulus_mpa / before.modulus_mpa, expected, rtol=1e-5)
    np.testing.assert_allclose(after.yield_stress_mpa / before.yield_stress_mpa, expected, rtol=1e-5)
    assert load_profile("keyak-femur").with_constants(1, 1) == load_profile("keyak-femur")  # no figure is known


def _file(*changes: tuple[str, str]) -> str:
    text = """
name = "mine"
version = 3
tests = ["spine-compression"]
description = "A test."
[density]
mineral = "HA"
kind = "HA"
slope = 1.0
intercept_mg_cm3 = 0.0
range_mg_cm3 = [0.0, 1500.0]
source = "me"
[modulus_mpa]
pieces = [{ coefficient = 1000.0, exponent = 1.0 }]
source = "me"
[material]
poisson = 0.3
minimum_modulus_mpa = 0.1
hardening_ratio = 0.0
boundary = "majority"
[cap]
modulus_mpa = 2500.0
poisson = 0.3
yield_mpa = 70.0
thickness_mm = 3.0
depth_mm = 6.0
source = "me"
[criteria]
strength = "pistoia"
linear_rule_coefficient = 0.0068
linear_rule_height = "body"
pistoia_strain = 0.007
pistoia_volume_fraction = 0.02
nonlinear_strain = 0.019
hip_displacement = 0.04
source = "me"
"""
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


def test_a_user_adds_a_profile_as_a_file(tmp_path) -> None:
    path = tmp_path / "mein Profil ä.toml"
    path.write_text(_file(), encoding="utf-8")
    profile = load_profile(path)
    assert profile.title == "mine v3" and profile.mineral == "HA" and profile.boundary is Boundary.MAJORITY
    assert profile.strength is Criterion.PISTOIA and profile.tests == (VirtualTest.SPINE_COMPRESSION,)
    assert np.isinf(profile.materials(np.array([300.0])).yield_stress_mpa).all()


def test_an_edited_profile_has_another_fingerprint() -> None:
    edited = _file(("coefficient = 1000.0", "coefficient = 1001.0"))
    assert parse_profile(_file(), "a").fingerprint != parse_profile(edited, "a").fingerprint


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('mineral = "HA"', 'mineral = "CaCO3"', "mineral"),
        ("poisson = 0.3\nminimum", "poisson = 0.5\nminimum", "poisson"),
        ("range_mg_cm3 = [0.0, 1500.0]", "range_mg_cm3 = [10.0, 5.0]", "range"),
        ("coefficient = 1000.0, ", "", "coefficient"),
        ("pieces = [{ coefficient", "pieces = [{ from_g_cm3 = 0.2, coefficient", "pieces"),
        ('boundary = "majority"', 'boundary = "some"', "some"),
        ('strength = "pistoia"', 'strength = "nonlinear-strain"', "yield_stress_mpa"),
        ("hip_displacement = 0.04", "hip_displacement = -0.04", "positive"),
        ("nonlinear_strain = 0.019", "nonlinear_strain = 1.9", "no small strain"),
        ("coefficient = 1000.0", "coefficient = -1000.0", "modulus_mpa"),
        ("coefficient = 1000.0", "coefficient = nan", "modulus_mpa.pieces.coefficient"),
        ("thickness_mm = 3.0", "thickness_mm = inf", "cap.thickness_mm"),
        ("version = 3", "version = = 3", "TOML"),
        ('linear_rule_height = "body"', 'linear_rule_height = "arm"', "linear_rule_height"),
        ("hardening_ratio = 0.0", "hardening_ratio = 0.0\ntension_ration = 0.8", "tension_ration"),
        ("[criteria]", "[criterion]\n[criteria]", "criterion"),
        ("[cap]", ORTHOTROPY.replace("0.3, 0.3, 0.4", "0.3, 0.3") + "[cap]", "three numbers"),
        ("[cap]", ORTHOTROPY.replace("0.3, 0.3, 0.4", "0.9, 0.9, 0.99") + "[cap]", "contradict"),
        ("[cap]", "[law_uncertainty]\nlevel = 1.5\nexponent = 0\nreference_g_cm3 = 1\nsource = 'x'\n[cap]", "level"),
    ],
)
def test_a_wrong_profile_file_is_refused_with_the_entry_named(old: str, new: str, named: str) -> None:
    with pytest.raises(ProfileError, match=named):
        parse_profile(_file((old, new)), "mine.toml")


def test_an_unknown_profile_is_refused_with_the_known_ones_listed() -> None:
    with pytest.raises(ProfileError, match="kopperdahl2002"):
        load_profile("kopperdal")
