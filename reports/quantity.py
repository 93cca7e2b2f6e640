"""The number fit for a report: value, unit, standard uncertainty, method and reference."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, model_validator


class Quantity(BaseModel):
    """A measured number with what is needed to judge it.

    Attributes
    ----------
    value : float
        Finite; a quantity that cannot be computed is absent (None in its place) and a finding says why.
    unit : str
        As in UCUM where it has one; the mineral basis is part of the unit: ``"mg/cm3 K2HPO4"``.
    uncertainty : float or None
        One standard deviation in `unit`; None only with `uncertainty_reason`.
    method : str
        How it was obtained, in a few words.
    reference : str or None
        Which equation, table or paper.
    uncertainty_reason : str or None
        Why the uncertainty is not known.
    components : dict of str to float
        The makeup of the uncertainty: standard deviation in `unit` by source, combined in quadrature.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    unit: str
    uncertainty: float | None = None
    method: str
    reference: str | None = None
    uncertainty_reason: str | None = None
    components: dict[str, float] = {}

    @model_validator(mode="after")
    def _is_fit_for_a_report(self) -> Quantity:
        if not math.isfinite(self.value):
            raise ValueError(f"{self.method}: value is {self.value}; return a finding instead of a number")
        if self.uncertainty is None and not self.uncertainty_reason:
            raise ValueError(f"{self.method}: no uncertainty and no reason for its absence")
        if self.uncertainty is not None and not (math.isfinite(self.uncertainty) and self.uncertainty >= 0):
            raise ValueError(f"{self.method}: uncertainty is {self.uncertainty}")
        return self
