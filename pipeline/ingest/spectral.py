"""What a series is that was made from more than one X-ray spectrum, as far as its header says: the one place for these names.

Sources of the terms: DICOM PS3.3 C.8.2.1.1.1 (Image Type, value 4), C.11.1.1.2 (Rescale Type), C.8.2.2 and PS3.17 annex JJJJ
(multi-energy CT); what makers write beyond that stands in docs/ingest.md, with where it was seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from pipeline.ingest.stacks import Stack
from pipeline.volume import Acquisition

VOLTAGES_KVP = (65.0, 155.0)
"""Tube voltages of body CT lie between these; what the header gives beyond is no tube voltage (a keV, a scale, a slip)."""

_SAME_TIME_S = 5.0
_SAME_PLACE_MM = 1.0

_MONOENERGETIC = "a virtual monoenergetic image"
_NON_CONTRAST = "a virtual non-contrast or calcium-suppressed image"
_IODINE = "an iodine map"
_MATERIAL = "a map of a material"
_ATOMIC_NUMBER = "a map of the effective atomic number"
_ELECTRON_DENSITY = "a map of electron density"
_PERFUSION = "a perfusion map"

_IMAGE_TYPES = {
    "VMI": _MONOENERGETIC,
    "MAT_SPECIFIC": _MATERIAL,
    "MAT_REMOVED": _NON_CONTRAST,
    "MAT_FRACTIONAL": _MATERIAL,
    "MAT_VALUE_BASED": _MATERIAL,
    "MAT_MODIFIED": "an image in which a material was enhanced or suppressed",
    "EFF_ATOMIC_NUM": _ATOMIC_NUMBER,
    "ELECTRON_DENSITY": _ELECTRON_DENSITY,
    "SBI": "spectral base images (a package, no picture)",
    "MONO": _MONOENERGETIC,
    "MONOENERGETIC": _MONOENERGETIC,
    "MONO_E": _MONOENERGETIC,
    "VNC": _NON_CONTRAST,
    "VNE": _NON_CONTRAST,
    "VUE": _NON_CONTRAST,
    "VIRTUALNONCONTRAST": _NON_CONTRAST,
    "IODINE": _IODINE,
    "WATER": _MATERIAL,
    "CALCIUM": _MATERIAL,
    "MD": _MATERIAL,
    "MAT": _MATERIAL,
    "MATERIAL": _MATERIAL,
    "ZEFF": _ATOMIC_NUMBER,
    "Z_EFF": _ATOMIC_NUMBER,
    "RHO": _ELECTRON_DENSITY,
    "PERFUSION": _PERFUSION,
}
"""Values of Image Type, whole or parted at blanks and underscores; the first eight are the standard's."""

_RESCALE_TYPES = {
    "HU_MOD": "an image in which a material was enhanced or suppressed",
    "MGML": "a map of a material in mg/ml",
    "Z_EFF": _ATOMIC_NUMBER,
    "ED": _ELECTRON_DENSITY,
    "EDW": _ELECTRON_DENSITY,
    "PCT": "a map in per cent",
}
_HU_RESCALE_TYPES = ("HU", "HU_MOD", "US")
_HU_UNITS = ("[hnsf'u]", "hu", "hounsfield unit")

_WORDS = (
    (
        r"\bmono ?-?\+? ?(\b|e\b|energ|chrom|plus|\d{2,3}\b)|monoenerg|(?<!\d)\d{2,3} ?kev\b|\bkev ?\d{2,3}\b"
        r"|\bvmi ?\+?\d*\b",
        _MONOENERGETIC,
    ),
    (
        r"\bvnca?\w?\b|\bvue\b|\bvne\b|virtu(al|ell)\w* ?-?(non|un|nativ)|iodine ?-?remov|ca(l|lcium)?[ -]?supp"
        r"|\bpure ?(calcium|lumen)",
        _NON_CONTRAST,
    ),
    (r"\biodine?\b(?! (based )?(contrast|agent|inject))|\biod\b", _IODINE),
    (r"\bz[ -]?eff|effective (z|atomic)|atomic number", _ATOMIC_NUMBER),
    (r"ele[ck]tron(en)?[ -]?(dens|dicht)|\brho\b|% ?edw\b", _ELECTRON_DENSITY),
    (r"\bmd\b|\bmaterial|\b(water|hap) ?\(|\buric ?acid|\bfat[ -]?fraction|\bfettfraktion", _MATERIAL),
    (r"\bspectral base|\bsbi\b", "spectral base images (a package, no picture)"),
    (r"\bgsi\b", "an image of a scan of two voltages in turn"),
    (r"\bsubtra(ction|cted|ktion)\b", "a difference of two images"),
    (r"\bperf(usion)?\b|\bcbf\b|\bcbv\b|\bmtt\b", _PERFUSION),
)
"""What products are called in descriptions, lower case, underscores as blanks."""

_MIXED = (
    r"\b[mf] ?0[.,]\d|\bmixed\b|\bcomposed\b|\bblended\b|\baverage[d ]+(of )?(dual|2|two)"
    r"|\bde mix\b|multi-?energy proportional weighting|\bdnrg det ab\b"
)
_VOLTAGE = r"(70|80|90|1[0-5]0)"
_TIN = rf"\bsn ?{_VOLTAGE} ?(kvp?)?\b|\b{_VOLTAGE} ?(kvp?)? ?sn\b|\btin ?-?filter"
_TIN_FILTER = r"(^|[^a-z])(sn|tin)([^a-z]|$)"
_HALF = rf"\bde\b.*\b(sn ?)?{_VOLTAGE} ?kvp?\b.* [ab]\b|\bdual energy.*\b(low|high) ?(kvp?|energy)\b|\bdnrg det [ab]\b"


def _own_types(facts: Acquisition) -> tuple[str, ...]:
    """Image Type from its third value on; the first two (where MIXED means something else) say nothing about spectra."""
    return facts.image_type[2:]


def _said(facts: Acquisition) -> str:
    parts = (facts.series_description or "", *_own_types(facts), facts.derivation or "")
    return " ".join(parts).lower().replace("_", " ")


def spectral_product(facts: Acquisition) -> str | None:
    """What a spectral product is, in words; None if the header names none.

    Parameters
    ----------
    facts : Acquisition
        Looked at: the energy equivalent (0018,937C), Image Type, Rescale Type, derivation and the series description.
    """
    if facts.monoenergetic_kev is not None:
        return f"{_MONOENERGETIC} of {facts.monoenergetic_kev:.0f} keV"
    for value in _own_types(facts):
        pieces = [value, *re.split(r"[\s\\/]+", value)]
        for piece in [*pieces, *(part for whole in pieces for part in whole.split("_"))]:
            if piece in _IMAGE_TYPES:
                return _IMAGE_TYPES[piece]
    named = _RESCALE_TYPES.get((facts.rescale_type or "").strip().upper())
    if named is not None:
        return named
    text = _said(facts)
    return next((kind for pattern, kind in _WORDS if re.search(pattern, text)), None)


def other_unit(facts: Acquisition) -> str | None:
    """The unit of the values where the header gives one that is not HU, else None."""
    kind = (facts.rescale_type or "").strip().upper()
    if kind and kind not in _HU_RESCALE_TYPES:
        named = _RESCALE_TYPES.get(kind)
        return f"type {facts.rescale_type}" + (f" ({named})" if named else "")
    unit = (facts.real_world_unit or "").strip()
    if unit and not kind and unit.lower() not in _HU_UNITS:
        return f"unit {unit}"
    return None


def mixed_voltages(facts: Acquisition) -> bool:
    """Whether an image was mixed from the data of two tube voltages, so that none of them holds for it."""
    several = len(set(facts.source_kvps)) > 1
    unnamed = facts.multienergy and facts.kvp is None
    return several or unnamed or re.search(_MIXED, _said(facts)) is not None


def photon_counting(facts: Acquisition) -> bool:
    """Whether the detector counts photons: it weighs low energies more than detectors that sum them up."""
    return facts.detector_type == "PHOTON_COUNTING" or "naeotom" in (facts.model or "").lower()


def tin_filter(facts: Acquisition) -> bool:
    """Whether the beam passed a tin filter, by Filter Type, Filter Material or the series description."""
    return bool(re.search(_TIN_FILTER, (facts.beam_filter or "").lower()) or re.search(_TIN, _said(facts)))


def pair_half(facts: Acquisition) -> str | None:
    """Which half of a dual-energy pair an image is, in words; None if it is none."""
    if mixed_voltages(facts):
        return None
    own = f" {facts.kvp:.0f} kVp" if facts.kvp is not None else ""
    if facts.paired_kvp is not None:
        return f"the{own} half of a dual-energy pair (with {facts.paired_kvp:.0f} kVp)"
    if re.search(_HALF, _said(facts)):
        return f"the{own} half of a dual-energy pair"
    return None


def usable_voltage_kvp(facts: Acquisition) -> float | None:
    """The tube voltage, unless the header's value cannot be one."""
    low, high = VOLTAGES_KVP
    return facts.kvp if facts.kvp is not None and low <= facts.kvp <= high else None


def paired_kvp(stack: Stack, others: Iterable[Stack]) -> float | None:
    """Tube voltage of the other half of a dual-energy pair among the stacks of the same study; None if there is none.

    The halves were scanned within five seconds over the same range of the same frame of reference, at different voltages: two
    phases of one examination lie further apart in time.
    """
    voltage, time_s = usable_voltage_kvp(stack.acquisition), _acquired_s(stack)
    if voltage is None or time_s is None or stack.geometry is None or stack.extent_z_lps_mm is None:
        return None
    for other in others:
        other_voltage, other_time_s = usable_voltage_kvp(other.acquisition), _acquired_s(other)
        if other_voltage is None or other_time_s is None or other.extent_z_lps_mm is None:
            continue
        same_frame = other.frames[0].frame_of_reference_uid == stack.frames[0].frame_of_reference_uid
        same_place = np.allclose(other.extent_z_lps_mm, stack.extent_z_lps_mm, rtol=0.0, atol=_SAME_PLACE_MM)
        if (
            same_frame
            and same_place
            and abs(other_time_s - time_s) <= _SAME_TIME_S
            and abs(other_voltage - voltage) > 5.0
        ):
            return other_voltage
    return None


def _acquired_s(stack: Stack) -> float | None:
    """Seconds of the day of the middle of the acquisition; None if the slices do not say."""
    times = [_seconds_of_day(frame.phase[4]) for frame in stack.frames]
    known = [time for time in times if time is not None]
    return float(np.median(known)) if len(known) == len(times) and known else None


def _seconds_of_day(text: str | None) -> float | None:
    """Of a DICOM time (``HHMMSS.ffffff``) or date and time (``YYYYMMDDHHMMSS.ffffff``)."""
    match = re.fullmatch(r"(?:\d{8})?(\d{2})(\d{2})(\d{2}(?:\.\d+)?)(?:[+-]\d{4})?", text or "")
    return 3600.0 * int(match[1]) + 60.0 * int(match[2]) + float(match[3]) if match else None
