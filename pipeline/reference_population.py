"""The reference population by age that a patient may be shown against: only where a verified table was read."""

from __future__ import annotations

from pipeline.density import tables
from reports.record import ReferenceGroup, ReferencePopulation

_FIRST_AGES = range(21, 91, 10)
_FEWEST_GROUPS = 3


def reference_population(sex: str | None) -> ReferencePopulation | None:
    """Areal density of the total hip by decade of age (NHANES 2005-2008, all ethnic groups), or None.

    Parameters
    ----------
    sex : str or None
        ``"F"`` or ``"M"``. A table of fewer than three verified decades shows no course over age and is left out.
    """
    word = {"F": "women", "M": "men"}.get(sex or "")
    groups, sources = [], []
    for first in _FIRST_AGES:
        name = f"nhanes_2005_2008.{word}_total_hip.{first}"
        if word is None or not tables.has_constant(name):
            continue
        entry = tables.constant(name)
        if entry.verified:
            mean, sd = tables.numbers(name)
            groups.append(ReferenceGroup(from_age_years=first, to_age_years=first + 10, mean=mean, sd=sd))
            sources.append(entry.source)
    if len(groups) < _FEWEST_GROUPS:
        return None
    return ReferencePopulation(
        population=f"NHANES 2005-2008, {word}, all ethnic groups",
        region="total_hip",
        unit="g/cm2",
        groups=tuple(groups),
        reference="; ".join(dict.fromkeys(sources)),
    )
