"""Areal density of the hip on the scale of a maker of DXA devices, by the published equations of standardised BMD.

Makers read the same hip differently: each is tied to standardised BMD by a line for each region. The reference of the T-score
(NHANES III) was measured on Hologic devices, and areal density by CT is set beside it as it is; a Lunar reads about 6 % higher.
"""

from __future__ import annotations

import numpy as np

from pipeline.density import tables
from reports.quantity import Quantity

SCALES = ("hologic", "lunar")
REFERENCE_SCALE = "hologic"


def standardised(value_g_cm2: float, region: str, scale: str) -> float:
    """Standardised BMD in g/cm2 of what a device of a maker reads.

    Raises
    ------
    KeyError
        If there is no equation for the region (there is for the total hip and the femoral neck) or the scale.
    """
    slope, intercept = tables.numbers(f"sbmd.{region}.{scale}")
    return slope * value_g_cm2 + intercept


def on_scale(abmd: Quantity, region: str, scale: str) -> Quantity:
    """What a device of another maker would read where one of the reference scale reads `abmd`.

    Parameters
    ----------
    abmd : Quantity
        Areal density in g/cm2, taken to stand on the scale of the reference.
    region : str
        ``"total_hip"`` or ``"femoral_neck"``.
    scale : str
        One of `SCALES`.

    Returns
    -------
    Quantity
        With the error of the equations in a single patient among its components; unchanged on the reference scale.

    Raises
    ------
    KeyError
        If there is no equation for the region or the scale.
    """
    entry = tables.constant(f"sbmd.{region}.{scale}")
    if scale == REFERENCE_SCALE:
        return abmd
    slope, intercept = tables.numbers(entry.name)
    value = (standardised(abmd.value, region, REFERENCE_SCALE) - intercept) / slope
    ratio = tables.numbers(f"sbmd.{region}.{REFERENCE_SCALE}")[0] / slope
    parts = {name: ratio * part for name, part in abmd.components.items()}
    if not parts and abmd.uncertainty is not None:
        parts["areal_density"] = ratio * abmd.uncertainty
    parts["conversion"] = tables.number("sbmd.relative_sd") * value
    return Quantity(
        value=value,
        unit="g/cm2",
        uncertainty=float(np.linalg.norm(list(parts.values()))),
        method=f"converted to the scale of {scale.capitalize()} devices by standardised BMD",
        reference=entry.source,
        components=parts,
    )
