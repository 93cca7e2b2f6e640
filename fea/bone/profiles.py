"""Named, versioned sets of constants that turn a density image into a strength: law, loading and criterion together.

Published laws differ six-fold in modulus at the same density, so a strength means nothing without the name of the profile
that it was computed with. The built-in profiles are TOML files in ``fea/bone/builtin_profiles``; a user adds one by writing
another such file. Every constant carries the tag of its source: [V] read in the source, [V2] read in a secondary source,
[C] computed from such constants, [M] from memory of the named paper and not checked.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fea.bone.laws import BoneOrthotropy, DensityScale, Law, LawUncertainty, PowerLaw
from fea.errors import SolveError


class VirtualTest(StrEnum):
    """The loading cases that a profile may be meant for."""

    SPINE_COMPRESSION = "spine-compression"
    HIP_SIDEWAYS_FALL = "hip-sideways-fall"
    HIP_STANCE = "hip-stance"


class Criterion(StrEnum):
    """How a strength is read from a solution.

    ``linear-rule``: coefficient x height x stiffness. ``pistoia``: the load at which a stated fraction of the bone volume
    exceeds a stated energy-equivalent strain. ``fixed-displacement``: the linear force at the displacement of the hip tests.
    ``nonlinear-strain``: the greatest force of the elastic-plastic curve up to a stated apparent strain. ``offset-yield``:
    where that curve meets the elastic line shifted by 0.2 % apparent strain; never the strength of a profile, but reported.
    """

    LINEAR_RULE = "linear-rule"
    PISTOIA = "pistoia"
    FIXED_DISPLACEMENT = "fixed-displacement"
    NONLINEAR_STRAIN = "nonlinear-strain"
    OFFSET_YIELD = "offset-yield"


class Boundary(StrEnum):
    """What a voxel on the surface of the bone is made of.

    ``partial-volume``: its modulus times the fraction of it that is bone. ``majority``: whole bone if at least half of it
    is, else nothing.
    """

    PARTIAL_VOLUME = "partial-volume"
    MAJORITY = "majority"


class ProfileError(ValueError):
    """A profile that does not exist or a profile file that cannot be used; the message says which entry is wrong."""


@dataclass(frozen=True, slots=True)
class Cap:
    """The bone cement that spreads the load: elastic constants, and the least thickness between bone and outer face."""

    modulus_mpa: float
    poisson: float
    yield_mpa: float
    thickness_mm: float
    depth_mm: float
    """How far from the outermost point of the bone its outline is projected to make the footprint."""
    source: str


@dataclass(frozen=True, slots=True)
class Materials:
    """What the voxels are made of, with the number of voxels whose density lay outside the range of the profile.

    Attributes
    ----------
    modulus_mpa, yield_stress_mpa : float32 ndarray
        Of the shape of the density; yield stress infinite if the profile has no yield law.
    clamped_below, clamped_above : int
    """

    modulus_mpa: NDArray[np.float32]
    yield_stress_mpa: NDArray[np.float32]
    clamped_below: int
    clamped_above: int


@dataclass(frozen=True, slots=True)
class BoneProfile:
    """Material law, loading and criterion of a virtual test.

    Attributes
    ----------
    name, version
        Go with every strength.
    fingerprint : str
        First 12 hexadecimal digits of the SHA-256 of the profile file: tells edited profiles apart.
    tests : tuple of VirtualTest
        What the profile is meant for.
    mineral : str
        ``"K2HPO4"`` or ``"HA"``: the mineral basis of the density that goes in.
    density : DensityScale
    modulus, yield_stress : Law
        In compression; `yield_stress` None leaves the bone elastic.
    density_range_mg_cm3 : (float, float)
        Mineral densities outside are set to its ends.
    minimum_modulus_mpa : float
        No bone voxel is softer.
    poisson : float
    hardening_ratio : float
        Slope after yield, as part of the modulus.
    tension_ratio : float
        Yield stress in tension as part of that in compression: 1 is von Mises, less is Drucker-Prager.
    cap : Cap
    boundary : Boundary
    strength : Criterion
        The one whose force is called the strength.
    linear_rule_coefficient : float
    linear_rule_height : str
        ``"body"`` (mean distance of the end plates) or ``"model"`` (with the caps).
    pistoia_strain, pistoia_volume_fraction : float
    nonlinear_strain : float
        Apparent strain of the capless height at which the curve ends (spine); for the hip part of the extent in load direction.
    hip_displacement : float
        Displacement of the head in a hip test, as part of the length of the model in the direction of the load.
    criterion_uncertainty : float or None
        Relative standard uncertainty of the strength that comes with the criterion; None where no figure is known.
    criteria_source : str
    description : str
    orthotropy : BoneOrthotropy or None
        None for isotropic bone. Only for spine compression, whose grid lies along the body, and for linear criteria.
    law_uncertainty : LawUncertainty or None
        None where no figure is known.
    """

    name: str
    version: int
    fingerprint: str
    tests: tuple[VirtualTest, ...]
    mineral: str
    density: DensityScale
    modulus: Law
    yield_stress: Law | None
    density_range_mg_cm3: tuple[float, float]
    minimum_modulus_mpa: float
    poisson: float
    hardening_ratio: float
    tension_ratio: float
    cap: Cap
    boundary: Boundary
    strength: Criterion
    linear_rule_coefficient: float
    linear_rule_height: str
    pistoia_strain: float
    pistoia_volume_fraction: float
    nonlinear_strain: float
    hip_displacement: float
    criterion_uncertainty: float | None
    criteria_source: str
    description: str
    orthotropy: BoneOrthotropy | None = None
    law_uncertainty: LawUncertainty | None = None

    @property
    def title(self) -> str:
        """Name and version, as every strength carries them."""
        return f"{self.name} v{self.version}"

    @property
    def definition(self) -> str:
        """Which force is called the strength, in words."""
        height = "with caps" if self.linear_rule_height == "model" else "of the body"
        curve_end = f"{100 * self.nonlinear_strain:g} % apparent strain"
        if VirtualTest.SPINE_COMPRESSION not in self.tests:
            curve_end = f"a displacement of {100 * self.hip_displacement:g} % of the model's length along the load"
        return {
            Criterion.LINEAR_RULE: f"{self.linear_rule_coefficient:g} x height {height} x linear stiffness",
            Criterion.PISTOIA: f"linear force at which {100 * self.pistoia_volume_fraction:g} % of the bone exceeds "
            f"{100 * self.pistoia_strain:g} % energy-equivalent strain",
            Criterion.FIXED_DISPLACEMENT: f"linear force at a displacement of {100 * self.hip_displacement:g} % of the model's "
            "length along the load; not a failure load",
            Criterion.NONLINEAR_STRAIN: f"greatest force of the elastic-plastic curve up to {curve_end}",
            Criterion.OFFSET_YIELD: "0.2 % offset yield",
        }[self.strength]

    def with_constants(self, level: float, exponent: float) -> BoneProfile:
        """The same profile with its laws changed by so many standard uncertainties of their level and exponent."""
        known = self.law_uncertainty
        if known is None:
            return self
        factor = (1 + known.level) ** level
        turn = known.exponent * exponent

        def changed(law: Law) -> Law:
            return replace(law, factor=law.factor * factor, turn=law.turn + turn, reference_g_cm3=known.reference_g_cm3)

        limit = None if self.yield_stress is None else changed(self.yield_stress)
        return replace(self, modulus=changed(self.modulus), yield_stress=limit)

    def materials(self, mineral_mg_cm3: NDArray) -> Materials:
        """Modulus and yield stress of voxels with the given mineral density (mg/cm3, on the basis `mineral`)."""
        low, high = self.density_range_mg_cm3
        mineral = np.asarray(mineral_mg_cm3)
        law_density = self.density.g_cm3(np.clip(mineral, low, high))
        modulus = np.maximum(self.modulus(law_density), self.minimum_modulus_mpa)
        if self.yield_stress is None:
            strength = np.full(modulus.shape, np.inf)
        else:
            # The yield laws have negative intercepts; a voxel at the floor of the modulus yields at 1 % strain instead.
            strength = np.maximum(self.yield_stress(law_density), 0.01 * self.minimum_modulus_mpa)
        return Materials(
            modulus.astype(np.float32),
            strength.astype(np.float32),
            int(np.count_nonzero(mineral < low)),
            int(np.count_nonzero(mineral > high)),
        )


def builtin_profiles() -> tuple[str, ...]:
    """Names of the profiles that come with the package."""
    folder = resources.files("fea.bone") / "builtin_profiles"
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def load_profile(name_or_path: str | Path) -> BoneProfile:
    """A built-in profile by its name, or one from a TOML file.

    Raises
    ------
    ProfileError
        If there is no such profile, or the file is not TOML, lacks an entry or has a value that makes no sense.
    """
    name = str(name_or_path)
    if name in builtin_profiles():
        text = (resources.files("fea.bone") / "builtin_profiles" / f"{name}.toml").read_text(encoding="utf-8")
        return parse_profile(text, name)
    path = Path(name_or_path)
    if not path.is_file():
        raise ProfileError(
            f"there is no profile '{name}'. Built in: {', '.join(builtin_profiles())}; or give the path of a TOML file."
        )
    try:
        return parse_profile(path.read_text(encoding="utf-8"), path.name)
    except UnicodeDecodeError as error:
        raise ProfileError(f"profile {path.name} is not a text file in UTF-8.") from error


def parse_profile(text: str, origin: str) -> BoneProfile:
    """The profile written in a TOML text; `origin` names it in error messages."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"profile {origin} is not valid TOML: {error}.") from error
    _require_known_entries(table, origin)
    _require_finite(table, "", origin)
    try:
        profile = _profile(table, hashlib.sha256(text.encode()).hexdigest()[:12])
    except KeyError as error:
        raise ProfileError(f"profile {origin} lacks the entry {error}.") from error
    except (TypeError, ValueError, SolveError) as error:
        raise ProfileError(f"profile {origin}: {error}.") from error
    _require_sense(profile, origin)
    return profile


def _profile(table: Mapping[str, Any], fingerprint: str) -> BoneProfile:
    density, material, cap, criteria = table["density"], table["material"], table["cap"], table["criteria"]
    low, high = (float(end) for end in density["range_mg_cm3"])
    return BoneProfile(
        name=str(table["name"]),
        version=int(table["version"]),
        fingerprint=fingerprint,
        tests=tuple(VirtualTest(test) for test in table["tests"]),
        mineral=str(density["mineral"]),
        density=DensityScale(
            str(density["kind"]), float(density["slope"]), float(density["intercept_mg_cm3"]), str(density["source"])
        ),
        modulus=_law(table["modulus_mpa"]),
        yield_stress=_law(table["yield_stress_mpa"]) if "yield_stress_mpa" in table else None,
        density_range_mg_cm3=(low, high),
        minimum_modulus_mpa=float(material["minimum_modulus_mpa"]),
        poisson=float(material["poisson"]),
        hardening_ratio=float(material["hardening_ratio"]),
        tension_ratio=float(material.get("tension_ratio", 1.0)),
        cap=Cap(
            float(cap["modulus_mpa"]),
            float(cap["poisson"]),
            float(cap["yield_mpa"]),
            float(cap["thickness_mm"]),
            float(cap["depth_mm"]),
            str(cap["source"]),
        ),
        boundary=Boundary(material["boundary"]),
        strength=Criterion(criteria["strength"]),
        linear_rule_coefficient=float(criteria["linear_rule_coefficient"]),
        linear_rule_height=str(criteria["linear_rule_height"]),
        pistoia_strain=float(criteria["pistoia_strain"]),
        pistoia_volume_fraction=float(criteria["pistoia_volume_fraction"]),
        nonlinear_strain=float(criteria["nonlinear_strain"]),
        hip_displacement=float(criteria["hip_displacement"]),
        criterion_uncertainty=float(criteria["uncertainty"]) if "uncertainty" in criteria else None,
        criteria_source=str(criteria["source"]),
        description=str(table["description"]).strip(),
        orthotropy=_orthotropy(table["orthotropy"]) if "orthotropy" in table else None,
        law_uncertainty=_law_uncertainty(table["law_uncertainty"]) if "law_uncertainty" in table else None,
    )


def _orthotropy(table: Mapping[str, Any]) -> BoneOrthotropy:
    def three(key: str) -> tuple[float, float, float]:
        values = tuple(float(value) for value in table[key])
        if len(values) != 3:
            raise ValueError(f"orthotropy.{key} must be three numbers: for superior, posterior, left or their pairs")
        return values[0], values[1], values[2]

    found = BoneOrthotropy(three("modulus_ratio"), three("poisson"), three("shear_ratio"), str(table["source"]))
    found.law()  # contradicting constants are refused here, with the solver's reason
    return found


def _law_uncertainty(table: Mapping[str, Any]) -> LawUncertainty:
    found = LawUncertainty(
        float(table["level"]), float(table["exponent"]), float(table["reference_g_cm3"]), str(table["source"])
    )
    if not (0 <= found.level < 1 and 0 <= found.exponent < 2 and found.reference_g_cm3 > 0):
        raise ValueError("law_uncertainty: level must lie in [0, 1), exponent in [0, 2), reference_g_cm3 above 0")
    return found


_ENTRIES = {
    "": "name version tests description density modulus_mpa yield_stress_mpa material cap criteria orthotropy law_uncertainty",
    "density": "mineral kind slope intercept_mg_cm3 range_mg_cm3 source",
    "modulus_mpa": "pieces source",
    "yield_stress_mpa": "pieces source",
    "material": "poisson minimum_modulus_mpa hardening_ratio tension_ratio boundary",
    "cap": "modulus_mpa poisson yield_mpa thickness_mm depth_mm source",
    "criteria": "strength linear_rule_coefficient linear_rule_height pistoia_strain pistoia_volume_fraction nonlinear_strain "
    "hip_displacement source uncertainty",
    "orthotropy": "modulus_ratio poisson shear_ratio source",
    "law_uncertainty": "level exponent reference_g_cm3 source",
}


def _require_known_entries(table: Mapping[str, Any], origin: str) -> None:
    """Refuse entries that nothing reads: a misspelt optional one would silently change nothing."""
    for section, entries in _ENTRIES.items():
        part = table if not section else table.get(section, {})
        if not isinstance(part, Mapping):
            raise ProfileError(f"profile {origin}: '{section}' must be a table, [{section}].")
        for key in part:
            if key not in entries.split():
                where = f"[{section}]" if section else "the top of the file"
                raise ProfileError(
                    f"profile {origin}: unknown entry '{key}' in {where}; known: {', '.join(entries.split())}."
                )


def _require_finite(value: Any, where: str, origin: str) -> None:
    """Refuse inf and nan, which TOML knows and every comparison lets pass."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            _require_finite(part, f"{where}.{key}".lstrip("."), origin)
    elif isinstance(value, list):
        for part in value:
            _require_finite(part, where, origin)
    elif isinstance(value, float) and not np.isfinite(value):
        raise ProfileError(f"profile {origin}: {where} is {value}.")


def _law(table: Mapping[str, Any]) -> Law:
    pieces = tuple(
        PowerLaw(
            float(piece.get("from_g_cm3", 0.0)),
            float(piece.get("offset", 0.0)),
            float(piece["coefficient"]),
            float(piece["exponent"]),
        )
        for piece in table["pieces"]
    )
    starts = [piece.from_g_cm3 for piece in pieces]
    if not pieces or starts[0] != 0.0 or starts != sorted(set(starts)):
        raise ValueError("the pieces of a law must start at 0 and rise")
    return Law(pieces, str(table["source"]))


def _rises(law: Law) -> bool:
    return all(piece.coefficient > 0 and piece.exponent > 0 for piece in law.pieces)


def _require_sense(profile: BoneProfile, origin: str) -> None:
    low, high = profile.density_range_mg_cm3
    wrong = {
        "name is empty": not profile.name,
        "tests is empty": not profile.tests,
        "density.mineral must be 'K2HPO4' or 'HA'": profile.mineral not in ("K2HPO4", "HA"),
        "density.range_mg_cm3 must rise": not low < high,
        "density.slope must be positive": profile.density.slope <= 0,
        "material.minimum_modulus_mpa must be positive": profile.minimum_modulus_mpa <= 0,
        "material.poisson must lie in [0, 0.5)": not 0 <= profile.poisson < 0.5,
        "material.hardening_ratio must lie in [0, 1)": not 0 <= profile.hardening_ratio < 1,
        "material.tension_ratio must lie in (0, 1]": not 0 < profile.tension_ratio <= 1,
        "cap.poisson must lie in [0, 0.5)": not 0 <= profile.cap.poisson < 0.5,
        "cap.modulus_mpa and cap.thickness_mm must be positive": min(profile.cap.modulus_mpa, profile.cap.thickness_mm)
        <= 0,
        "criteria.linear_rule_height must be 'body' or 'model'": profile.linear_rule_height not in ("body", "model"),
        "criteria.pistoia_volume_fraction must lie in (0, 1)": not 0 < profile.pistoia_volume_fraction < 1,
        "criteria: strains and coefficients must be positive": min(
            profile.linear_rule_coefficient, profile.pistoia_strain, profile.nonlinear_strain, profile.hip_displacement
        )
        <= 0,
        "criteria: a strain above 0.2 is no small strain (0.019 is 1.9 %)": max(
            profile.pistoia_strain, profile.nonlinear_strain, profile.hip_displacement
        )
        > 0.2,
        "modulus_mpa: coefficients and exponents must be positive": not _rises(profile.modulus),
        "yield_stress_mpa: coefficients and exponents must be positive": profile.yield_stress is not None
        and not _rises(profile.yield_stress),
        "criteria.strength cannot be 'offset-yield'": profile.strength is Criterion.OFFSET_YIELD,
        "criteria.strength 'nonlinear-strain' needs a yield_stress_mpa law": profile.strength
        is Criterion.NONLINEAR_STRAIN
        and profile.yield_stress is None,
        "orthotropy is for spine-compression alone: no other test lies along the axes of the bone": profile.orthotropy
        is not None
        and profile.tests != (VirtualTest.SPINE_COMPRESSION,),
        "orthotropy excludes criteria.strength 'nonlinear-strain': yield is for isotropic bone": profile.orthotropy
        is not None
        and profile.strength is Criterion.NONLINEAR_STRAIN,
    }
    for complaint, holds in wrong.items():
        if holds:
            raise ProfileError(f"profile {origin}: {complaint}.")
