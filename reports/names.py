"""What structures are called in print: ``L1``, ``u3``, ``Right femur``, and several of them together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reports.language import Language
from reports.record import Femur, Structure, Vertebra

_FEWEST_IN_A_RANGE = 3


def level_name(vertebra: Vertebra) -> str:
    """``L1``, or ``u1`` for a body whose level is not certain."""
    return vertebra.level or vertebra.name.removeprefix("vertebra_")


def level_range(names: Sequence[str]) -> str:
    """``T12 – L5`` for a list from cranial to caudal, or the one name."""
    return names[0] if len(names) == 1 else f"{names[0]} – {names[-1]}"


def structure_name(structure: Structure, words: Language) -> str:
    """Name of a body, or the side of a femur with a capital: ``Right femur``."""
    if isinstance(structure, Femur):
        return words(f"side.{structure.side.capitalize()}")
    return level_name(structure) if isinstance(structure, Vertebra) else structure.name


def listed(names: Iterable[str], order: Sequence[str]) -> str:
    """Names in their order, three or more neighbours as a range: ``u1 – u5, u9``.

    Parameters
    ----------
    names : iterable of str
        Some of `order`.
    order : sequence of str
        All names there are, neighbours beside each other.
    """
    places = sorted({order.index(name) for name in names})
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    parts = []
    for run in runs:
        chosen = [order[place] for place in run]
        parts += [level_range(chosen)] if len(chosen) >= _FEWEST_IN_A_RANGE else chosen
    return ", ".join(parts)
