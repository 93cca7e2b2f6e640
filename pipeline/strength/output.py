"""What `openbct strength` leaves in its folder: the numbers, the model for other programs, and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fea import YieldMaterial, save_model
from fea.bone.evaluate import TestResult
from fea.bone.export import write_calculix, write_result_vti
from fea.bone.profiles import BoneProfile, VirtualTest
from pipeline.errors import Finding, InputRefused, NotMeasurable, Severity
from pipeline.strength.pictures import pictures_of
from pipeline.strength.result import Strength

EXPORTS = ("npz", "vti", "inp")
"""The formats a model can be written in: of this solver, of ParaView, of CalculiX."""


def require_exports(wanted: Sequence[str]) -> tuple[str, ...]:
    """The formats asked for, without repetition.

    Raises
    ------
    InputRefused
        ``unknown_export``.
    """
    for name in wanted:
        if name not in EXPORTS:
            raise InputRefused(
                "unknown_export",
                f"there is no export '{name}'.",
                subject="--export",
                remedy=f"Exports: {', '.join(EXPORTS)}.",
            )
    return tuple(dict.fromkeys(wanted))


def content_of(result: Strength) -> dict[str, Any]:
    """The content of ``strength.json``."""
    strength, stiffness = result.strength, result.stiffness
    return {
        "test": result.test,
        "profile": result.profile,
        "definition": result.definition,
        "strength_n": strength.value if strength else None,
        "stiffness_n_mm": stiffness.value if stiffness else None,
        "reaction_n": result.reaction_n,
        "criteria_n": result.criteria_n,
        "curve": [list(point) for point in result.curve],
        "uncertainty": {
            "strength_n": strength.model_dump() if strength else None,
            "stiffness_n_mm": stiffness.model_dump() if stiffness else None,
        },
        "model": result.model,
        "findings": [_as_dict(finding) for finding in result.findings],
    }


def content_of_refusal(test: VirtualTest, profile: BoneProfile, refusal: NotMeasurable) -> dict[str, Any]:
    """The same for a bone that cannot be tested: no number, and why."""
    finding = Finding(refusal.reason, Severity.FAILURE, str(refusal))
    return {
        "test": test.value,
        "profile": profile.title,
        "definition": profile.definition,
        "strength_n": None,
        "stiffness_n_mm": None,
        "reaction_n": None,
        "criteria_n": {},
        "curve": [],
        "uncertainty": {},
        "model": {},
        "findings": [_as_dict(finding)],
    }


def _as_dict(finding: Finding) -> dict[str, str]:
    return {"code": finding.code, "severity": finding.severity.value, "text": finding.text}


def write_outcome(
    folder: Path, content: dict[str, Any], result: Strength | None, *, exports: Sequence[str], pictures: bool
) -> None:
    """Write ``strength.json``, and of a test that was solved the model in the formats asked for and the pictures.

    Raises
    ------
    InputRefused
        ``output_not_writable``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "strength.json").write_text(
            json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        if result is None or result.solved is None:
            return
        for name in exports:
            _WRITERS[name](folder / f"model.{name}", result.solved)
        if pictures:
            for picture in pictures_of(result):
                (folder / f"{picture.id}.png").write_bytes(picture.png)
    except OSError as error:
        raise InputRefused(
            "output_not_writable",
            f"it cannot be written ({error.strerror or type(error).__name__}).",
            subject=folder.name,
        ) from error


def _write_npz(path: Path, result: TestResult) -> None:
    save_model(path, result.model.voxel_model(), result.model.supports)


def _write_inp(path: Path, result: TestResult) -> None:
    """With the yield law and the steps of the curve where there is a curve and CalculiX has the law, else linear."""
    model = result.model
    if result.plastic_strain is None or model.profile.tension_ratio != 1:
        write_calculix(path, model.voxel_model(), model.supports)
        return
    material = YieldMaterial(model.yield_stress_mpa, model.profile.hardening_ratio)
    factors = (result.curve[1:, 0] / model.applied_mm).tolist()
    write_calculix(path, model.voxel_model(), model.supports, material=material, load_factors=factors)


_WRITERS: dict[str, Callable[[Path, TestResult], None]] = {
    "npz": _write_npz,
    "vti": write_result_vti,
    "inp": _write_inp,
}
