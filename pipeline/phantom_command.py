"""The work of ``openbct phantom``: one phantom, or a suite of them, from what the command line says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import phantoms
from phantoms.mechanics import write_models
from pipeline.errors import Refusal

_OF_THE_SCAN = "maker", "compression", "gantry_tilt_deg", "spacing_mm", "sub_slice_mm", "localizer", "native_labels_mm"
"""What can be set beside anatomy: further arguments of `phantoms.write_study`."""


def write_one(kind: str, output: Path, *, seed: int, options: dict[str, Any], scan: dict[str, Any]) -> None:
    """Write a phantom and its truth; format ``model`` writes voxel models for a solver instead of images.

    Raises
    ------
    Refusal
        If there is no such kind, or it cannot be made so.
    """
    if kind not in phantoms.KINDS:
        known = f"kinds are: {', '.join(phantoms.KINDS)}; suites are: {', '.join(phantoms.SUITES)}"
        raise Refusal("unknown_phantom", f"is not known; {known}.", subject=f"phantom '{kind}'")
    scan = scan | {name: value for name, value in options.items() if name in _OF_THE_SCAN}
    options = {name: value for name, value in options.items() if name not in _OF_THE_SCAN}
    try:
        phantom = phantoms.make_phantom(kind, seed=seed, **options)
        if scan.get("file_format") == "model":
            write_models(phantom, output)
        else:
            phantoms.write_study(phantom, output, **scan)
    except (ValueError, TypeError, OSError) as error:
        raise Refusal("bad_phantom", f"cannot be made: {error}", subject=f"phantom '{kind}'") from error


def write_many(
    suite: str, output: Path, *, count: int | None, mode: str, progress: Callable[[int, int], None] | None = None
) -> int:
    """Write a suite; returns how many studies it has.

    Raises
    ------
    Refusal
        If there is no such suite, or it cannot be made so.
    """
    if suite not in phantoms.SUITES:
        raise Refusal(
            "unknown_suite", f"is not known; suites are: {', '.join(phantoms.SUITES)}.", subject=f"suite '{suite}'"
        )
    try:
        return len(phantoms.write_suite(suite, output, count=count, mode=mode, progress=progress))
    except (ValueError, OSError) as error:
        raise Refusal("bad_phantom", f"cannot be made: {error}", subject=f"suite '{suite}'") from error
