"""Ready-made suites of phantoms: deterministic lists of studies, each with its truth.

>>> from phantoms.suites import write_suite
>>> write_suite("smoke", "out")  # doctest: +SKIP
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from phantoms.hostile import FAULTS
from phantoms.kinds import make_phantom
from phantoms.study import write_study

MANIFEST = "suite.json"
COHORT_SIZE = 200


@dataclass(frozen=True)
class Case:
    """One study of a suite.

    Attributes
    ----------
    name : str
        Folder that it is written to.
    kind, seed, options
        As for ``make_phantom``.
    scan : dict
        Further arguments of ``write_study``: tube voltage, slices, dose, header.
    factors : dict
        What the case was chosen for, to group results by.
    """

    name: str
    kind: str
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    scan: dict[str, Any] = field(default_factory=dict)
    factors: dict[str, Any] = field(default_factory=dict)


def smoke(_count: int | None = None) -> Iterator[Case]:
    """A few seconds: a lumbar spine with a fracture, one hip, rods, a water cylinder."""
    coarse = {"slice_mm": 3.0, "pixel_mm": 1.4, "localizer": False}
    yield Case("spine", "spine", 1, {"top_level": "L1", "fractures": {"L2": ["wedge", 0.3]}}, coarse, {"slice_mm": 3.0})
    yield Case("hip", "hip", 2, {"side": "left"}, coarse, {"slice_mm": 3.0})
    yield Case("rods", "rods", 3, {"length_mm": 30.0}, coarse)
    yield Case("water", "water", 4, {"length_mm": 30.0}, coarse)


def calibration(_count: int | None = None) -> Iterator[Case]:
    """Rod plates, spine phantom and water at every tube voltage, and a patient on rods at two sizes."""
    for kvp in (80, 100, 120, 140):
        scan = {"kvp": float(kvp), "slice_mm": 2.0, "pixel_mm": 0.8, "localizer": False}
        for plate in ("mindways", "ha"):
            yield Case(f"rods-{plate}-{kvp}", "rods", kvp, {"plate": plate}, scan, {"kvp": kvp, "plate": plate})
        yield Case(f"esp-{kvp}", "esp", kvp, {}, scan, {"kvp": kvp})
        yield Case(f"water-{kvp}", "water", kvp, {}, scan, {"kvp": kvp})
        for fat_mm in (15.0, 45.0):
            options = {"rods": "mindways", "fat_mm": fat_mm, "top_level": "T11", "hips": False}
            name = f"patient-{kvp}-fat-{fat_mm:.0f}"
            factors = {"kvp": kvp, "fat_mm": fat_mm}
            yield Case(name, "torso", kvp + 1, options, scan | {"slice_mm": 2.5, "pixel_mm": 0.9}, factors)


def spine_fracture(_count: int | None = None) -> Iterator[Case]:
    """Each kind of deformity at losses from none to severe, at three slice thicknesses, in women and men."""
    losses = (0.0, 0.17, 0.22, 0.27, 0.33, 0.45)
    for number, (kind, loss, slice_mm) in enumerate(product(("wedge", "biconcave", "crush"), losses, (1.0, 2.5, 5.0))):
        levels = (("T8", "L1"), ("T11", "L3"), ("T12", "L2"))[number % 3]
        sex = "FM"[number % 2]
        fractures = {level: [kind, loss] for level in levels} if loss else {}
        options = {"sex": sex, "age_years": 60 + (number * 7) % 28, "top_level": "T6", "fractures": fractures}
        yield Case(
            f"{kind}-{loss * 100:.0f}-slice-{slice_mm:g}",
            "spine",
            100 + number,
            options,
            {"slice_mm": slice_mm, "pixel_mm": 0.9, "localizer": False},
            {"deformity": kind, "loss": loss, "slice_mm": slice_mm, "sex": sex},
        )


def hip_abmd(_count: int | None = None) -> Iterator[Case]:
    """Hips from sound to osteoporotic, at several neck angles, slice thicknesses, voltages, doses and sizes."""
    base = {"slice_mm": 1.5, "kvp": 120.0, "dose": 1.0, "fat_mm": 20.0, "anteversion_deg": 12.0}
    changes: list[dict[str, float]] = [
        {}, {"slice_mm": 1.0}, {"slice_mm": 3.0}, {"kvp": 80.0}, {"kvp": 100.0}, {"kvp": 140.0}, {"dose": 0.25},
        {"fat_mm": 50.0}, {"anteversion_deg": 0.0}, {"anteversion_deg": 28.0},
    ]  # fmt: skip
    for number, (scale, change) in enumerate(product((1.0, 0.8, 0.6), changes)):
        chosen = base | change
        sex = "FM"[number % 2]
        options = {
            "sex": sex,
            "age_years": {1.0: 52, 0.8: 67, 0.6: 82}[scale],
            "hip_density_scale": scale,
            "fat_mm": chosen["fat_mm"],
            "anteversion_deg": chosen["anteversion_deg"],
        }
        scan = {"slice_mm": chosen["slice_mm"], "kvp": chosen["kvp"], "dose": chosen["dose"], "pixel_mm": 0.9}
        what = "-".join(f"{key.removesuffix('_mm').removesuffix('_deg')}-{value:g}" for key, value in change.items())
        factors = chosen | {"density_scale": scale, "sex": sex}
        yield Case(
            f"scale-{scale:g}-{what or 'usual'}", "hip", 200 + number, options, scan | {"localizer": False}, factors
        )


def cohort(count: int | None = None) -> Iterator[Case]:
    """Many small studies of a known population: three of four show the lumbar spine only, the others the hips only."""
    for number, case in enumerate(cohort_torso(count)):
        if number % 4 != 3:
            yield replace(case, kind="spine", options=case.options | {"top_level": "T12", "hips": False})
        else:
            without = {"fractures", "top_level"}
            options = {name: value for name, value in case.options.items() if name not in without}
            yield replace(case, kind="hip", options=options)


def cohort_torso(count: int | None = None) -> Iterator[Case]:
    """The same people from T11 to the thighs; the draws of one do not depend on how many there are.

    Sex even; age normal, 68 +- 9 years within 50-90; lumbar density normal about that of the age, 25 mg/cm3 apart; fat
    log-normal about 20 mm; one in four with a fracture; tube voltage, maker, dose and slices as in mixed departments.
    """
    for number in range(COHORT_SIZE if count is None else count):
        rng = np.random.default_rng([20240115, number])
        sex = "FM"[int(rng.random() < 0.5)]
        age = int(np.clip(round(rng.normal(68, 9)), 50, 90))
        expected = (226.0 - 2.04 * (age - 25)) / 1.37
        density = float(np.clip(round(rng.normal(expected, 25.0), 1), 25.0, 200.0))
        fat_mm = float(np.clip(round(20.0 * np.exp(0.35 * rng.standard_normal()), 1), 6.0, 55.0))
        kvp = float(rng.choice([100.0, 120.0, 120.0, 120.0, 140.0]))
        slice_mm = float(rng.choice([1.25, 2.0, 2.5, 3.0]))
        dose = float(np.round(rng.uniform(0.4, 1.5), 2))
        maker = str(rng.choice(["GE", "SIEMENS", "PHILIPS", "CANON"]))
        contrast = str(rng.choice(["none", "none", "venous"]))
        fractures = {}
        if rng.random() < 0.25:
            level = str(rng.choice(["T12", "L1", "L1", "L2"]))
            kind = str(rng.choice(["wedge", "biconcave", "crush"]))
            fractures[level] = [kind, float(np.round(rng.uniform(0.2, 0.5), 3))]
        options = {
            "sex": sex,
            "age_years": age,
            "spine_density_mg_cm3": density,
            "hip_density_scale": float(
                np.clip(round(0.92 + 0.004 * (density - expected) - 0.005 * (age - 68), 3), 0.5, 1.3)
            ),
            "fat_mm": fat_mm,
            "top_level": "T11",
            "contrast": contrast,
            "fractures": fractures,
            "size": float(np.clip(np.round(rng.normal(1.0, 0.04), 3), 0.9, 1.1)),
        }
        scan = {"kvp": kvp, "slice_mm": slice_mm, "pixel_mm": 1.2, "dose": dose, "maker": maker, "localizer": False}
        scan |= {"patient_id": f"COHORT-{number:04d}"}
        factors = {"kvp": kvp, "slice_mm": slice_mm, "dose": dose, "maker": maker, "fat_mm": fat_mm, "sex": sex}
        yield Case(f"patient-{number:04d}", "torso", 1000 + number, options, scan, factors | {"contrast": contrast})


def scanned(_count: int | None = None) -> Iterator[Case]:
    """One spine at all tube voltages in a lean and a wide body, then on a plate; small enough for mode ``"projections"``."""
    bodies = [(120.0, 20.0), (100.0, 20.0), (120.0, 45.0), (140.0, 20.0), (80.0, 20.0), (100.0, 45.0)]
    on_rods = [(120.0, 20.0), (120.0, 45.0), (80.0, 20.0)]
    for number, (kvp, fat_mm) in enumerate(bodies + on_rods):
        rods = "mindways" if number >= len(bodies) else None
        options = {"top_level": "L1", "bottom_level": "L3", "fat_mm": fat_mm, "marrow_spread": 0.0}
        options |= {"rods": rods} if rods else {}
        scan = {"kvp": kvp, "slice_mm": 2.1, "pixel_mm": 0.9, "sub_slice_mm": 2.1, "localizer": False}
        name = f"kvp-{kvp:.0f}-fat-{fat_mm:.0f}" + ("-rods" if rods else "")
        yield Case(name, "spine", 31, options, scan, {"kvp": kvp, "fat_mm": fat_mm, "rods": rods is not None})


def hostile(_count: int | None = None) -> Iterator[Case]:
    """One study per fault of `phantoms.hostile`, and faults of anatomy and protocol."""
    small = {"slice_mm": 2.5, "pixel_mm": 1.6, "localizer": False}
    body = {"top_level": "L1", "hips": False}
    for fault in FAULTS:
        yield Case(
            fault.name, "spine", 7, body, small, {"fault": fault.name, "expect": fault.expect, "text": fault.text}
        )
    further: tuple[tuple[str, str, str, dict[str, Any], dict[str, Any]], ...] = (
        ("enhanced", "usable", "one multi-frame file", {}, {"file_format": "enhanced"}),
        ("nifti", "usable", "NIfTI without any header", {}, {"file_format": "nifti"}),
        ("thick_slices", "stated", "slices of 5 mm", {}, {"slice_mm": 5.0}),
        ("contrast_agent", "stated", "arterial contrast agent", {"contrast": "arterial"}, {}),
        ("bone_cement", "stated", "cement in L2", {"cement": ["L2"]}, {}),
        ("screws", "stated", "screws in L2 and L3", {"screws": ["L2", "L3"]}, {}),
        ("very_noisy", "stated", "a hundredth of the usual dose", {}, {"dose": 0.01}),
        ("slices_of_8_mm", "refused", "slices of 8 mm", {}, {"slice_mm": 8.0}),
        ("tilted_gantry", "usable", "gantry tilted by 12 degrees", {}, {"gantry_tilt_deg": 12.0}),
        ("fatty_marrow", "usable", "marrow of 85 % fat", {"marrow_fat": 0.85}, {}),
        ("sclerotic_lesion", "stated", "a dense lesion in L3", {"lesions": {"L3": 500.0}}, {}),
        ("child", "stated", "nine years old", {"age_years": 9}, {}),
    )
    for name, expect, text, options, scan in further:
        yield Case(name, "spine", 7, body | options, small | scan, {"fault": name, "expect": expect, "text": text})


SUITES: dict[str, Callable[[int | None], Iterator[Case]]] = {
    "smoke": smoke,
    "calibration": calibration,
    "spine-fracture": spine_fracture,
    "hip-abmd": hip_abmd,
    "cohort": cohort,
    "cohort-torso": cohort_torso,
    "scanned": scanned,
    "hostile": hostile,
}
"""By name: a function that lists the cases; only cohorts heed the count."""


def cases(suite: str, *, count: int | None = None) -> list[Case]:
    """The cases of a suite.

    Parameters
    ----------
    suite : str
        One of `SUITES`.
    count : int, optional
        How many; evenly picked, except for cohorts, which have any number, and `scanned`, of which the first are taken.

    Raises
    ------
    ValueError
        If no such suite exists or the count is not positive.
    """
    if suite not in SUITES:
        raise ValueError(f"no suite is called {suite!r}; there are {', '.join(SUITES)}")
    if count is not None and count < 1:
        raise ValueError(f"count is {count}; it must be at least 1")
    every = list(SUITES[suite](count))
    if count is None or count >= len(every):
        return every
    if suite == "scanned":
        return every[:count]
    return [every[round(n)] for n in np.linspace(0, len(every) - 1, count)]


def write_case(case: Case, folder: Path | str, *, mode: str = "fast") -> Path:
    """Write one case (a study with its truth) below a folder; returns where."""
    target = Path(folder) / case.name
    phantom = make_phantom(case.kind, seed=case.seed, **case.options)
    write_study(phantom, target, mode=mode, **case.scan)
    for fault in FAULTS:
        if case.factors.get("fault") == fault.name:
            fault.apply(target / "dicom" / "series2")
    return target


def write_suite(
    suite: str,
    folder: Path | str,
    *,
    count: int | None = None,
    mode: str = "fast",
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write a suite: a folder per study and ``suite.json``, which lists the cases.

    Parameters
    ----------
    suite : str
        One of `SUITES`.
    folder : path
    count : int, optional
        How many cases; all if not given.
    mode : str
        As for ``Phantom.image``.
    progress : callable, optional
        Called with how many are done, and of how many.

    Returns
    -------
    list of Path
        The folders of the studies.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    chosen = cases(suite, count=count)
    written = []
    for number, case in enumerate(chosen):
        written.append(write_case(case, target, mode=mode))
        if progress:
            progress(number + 1, len(chosen))
    listing = {"suite": suite, "mode": mode, "cases": [asdict(case) for case in chosen]}
    (target / MANIFEST).write_text(json.dumps(listing, indent=1), encoding="utf-8")
    return written


def read_manifest(folder: Path | str) -> tuple[str, list[Case]]:
    """Name and cases of a suite on disk."""
    listing = json.loads((Path(folder) / MANIFEST).read_text(encoding="utf-8"))
    return listing["suite"], [Case(**case) for case in listing["cases"]]
