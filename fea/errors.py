"""The one way in which the solver says no: an exception with a reason code."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a model was refused or a solution not found; stable codes that callers may count or branch on."""

    BAD_SHAPE = "bad_shape"
    BAD_MODULUS = "bad_modulus"
    BAD_POISSON = "bad_poisson"
    BAD_SPACING = "bad_spacing"
    BAD_CONDITION = "bad_condition"
    CONFLICTING_CONDITIONS = "conflicting_conditions"
    NO_MATERIAL = "no_material"
    UNCONSTRAINED = "unconstrained_rigid_body"
    FLOATING_PIECES = "floating_pieces"
    NOT_ENOUGH_MEMORY = "not_enough_memory"
    STAGNATED = "stagnated"
    INDEFINITE = "indefinite_operator"
    NOT_CONVERGED = "not_converged"
    BAD_MATERIAL_LAW = "bad_material_law"
    STEP_TOO_SMALL = "step_too_small"


class SolveError(Exception):
    """A model that cannot be solved, or a solution that cannot be trusted.

    Parameters
    ----------
    reason : Reason
        Machine-readable code.
    detail : str
        What is wrong, with the value that was found.
    remedy : str, optional
        What the caller can do about it.
    """

    def __init__(self, reason: Reason, detail: str, *, remedy: str | None = None) -> None:
        self.reason = reason
        self.detail = detail
        self.remedy = remedy
        super().__init__(detail + (f" {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.reason, self.detail, self.remedy))


def _rebuild(reason: Reason, detail: str, remedy: str | None) -> SolveError:
    return SolveError(reason, detail, remedy=remedy)
