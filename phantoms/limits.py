"""What can be asked for: numbers within the ranges in which phantoms and scans have been made and looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

LARGEST_IMAGE_VOXELS = 500_000_000


def require_number(name: str, value: Any, low: float, high: float) -> None:
    """Refuse what is no number between `low` and `high`.

    Raises
    ------
    ValueError
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; it must be a number between {low:g} and {high:g}")


def require_numbers(values: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]]) -> None:
    """`require_number` of all `values` that have a range; None stands for what is not given.

    Raises
    ------
    ValueError
    """
    for name, (low, high) in ranges.items():
        if values.get(name) is not None:
            require_number(name, values[name], low, high)


def require_image_size(shape: tuple[int, ...]) -> None:
    """Refuse an image that would fill the memory of a workstation.

    Raises
    ------
    ValueError
    """
    if math.prod(shape) > LARGEST_IMAGE_VOXELS:
        size = " x ".join(str(count) for count in shape)
        raise ValueError(
            f"an image of {size} voxels is too large; {LARGEST_IMAGE_VOXELS // 10**6} million are possible"
        )
