"""Chooses the stack to measure in, and says of every other one why not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.errors import InputRefused
from pipeline.ingest.inventory import Inventory, Study
from pipeline.ingest.kernels import KernelClass, kernel_class
from pipeline.ingest.spectral import other_unit, pair_half, spectral_product
from pipeline.ingest.stacks import MINIMUM_SLICES, Stack, lower_first

REGIONS = ("spine", "hips")
MAXIMUM_STEP_MM = 5.0
_ROUNDING_MM = 0.05
_LONG_ENOUGH_MM = 60.0

_MODALITIES = {
    "MR": "magnetic resonance",
    "PT": "PET",
    "NM": "nuclear medicine",
    "US": "ultrasound",
    "CR": "radiograph",
    "DX": "radiograph",
    "DR": "radiograph",
    "MG": "mammogram",
    "XA": "angiogram",
    "RF": "fluoroscopy",
    "SC": "secondary capture",
    "OT": "secondary capture",
    "SEG": "segmentation",
    "RTDOSE": "radiotherapy dose",
    "RTIMAGE": "radiotherapy image",
    "REG": "registration",
    "SR": "structured report",
    "DOC": "document",
}
_PROJECTION_TOKENS = {
    "MIP",
    "MINIP",
    "MNIP",
    "VRT",
    "VOLREN",
    "VR",
    "SSD",
    "MAXIP",
    "PROJECTION IMAGE",
    "3D",
    "RENDERED",
}
_REFORMAT_TOKENS = {"MPR", "REFORMATTED", "CSA MPR", "CPR", "CURVED", "CSAMPR"}
_FOREIGN_REGIONS = re.compile(
    r"\b(head|brain|skull|sinus|orbit|temporal|dental|knee|foot|feet|ankle|hand|wrist|elbow|cranial|schaedel|kopf)\b",
    re.I,
)
_WANTED_WORDS = {
    "spine": re.compile(r"abd|thorax|chest|spine|lumbar|lws|bws|wirbel|trunk|tap\b|cap\b|body|liver|kidney", re.I),
    "hips": re.compile(r"pelv|hip\b|hips|femur|abd|tap\b|cap\b|becken|huef|body|proximal", re.I),
}


@dataclass(frozen=True)
class Verdict:
    """What was thought of one stack.

    Attributes
    ----------
    stack : Stack
    usable : bool
    code : str
        ``usable``, else the reason in snake_case: ``not_ct``, ``localizer``, ``derived_mpr``, ``projection``,
        ``spectral_image``, ``dual_energy_pair``, ``lossy_compression``, ``too_thick``, ``too_few_slices``, ``not_axial``,
        ``other_region``, ``not_hounsfield``, ``secondary_capture``, or the code of a problem of the stack.
    reason : str
        One sentence.
    score : float
        Higher is better; 0 for unusable stacks. Only the order matters.
    remarks : tuple of str
        What speaks for and against a usable stack.
    """

    stack: Stack
    usable: bool
    code: str
    reason: str
    score: float = 0.0
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """The stack chosen for one region, its score and why."""

    region: str
    stack: Stack
    score: float
    reason: str


@dataclass(frozen=True)
class Selection:
    """The stacks to use, by region, and the verdict on every stack of the study."""

    spine: Choice
    hips: Choice
    verdicts: tuple[Verdict, ...]

    def choice(self, region: str) -> Choice:
        """The choice for ``"spine"`` or ``"hips"``."""
        return {"spine": self.spine, "hips": self.hips}[region]

    def why_not(self, stack: Stack) -> str:
        """Why a stack was not chosen; empty if it was."""
        if stack.key in (self.spine.stack.key, self.hips.stack.key):
            return ""
        verdict = next(v for v in self.verdicts if v.stack.key == stack.key)
        return verdict.reason if not verdict.usable else f"usable, but ranked lower: {'; '.join(verdict.remarks)}"


def _tokens(stack: Stack) -> set[str]:
    tokens: set[str] = set()
    for part in stack.acquisition.image_type:
        tokens.update((part, *re.split(r"[\s\\/]+", part)))
    return tokens


def _hard_reason(stack: Stack) -> tuple[str, str] | None:
    """Why a stack may never be measured in, as (code, sentence); user's wishes do not change it."""
    facts = stack.acquisition
    if stack.kind == "dicom" and facts.modality != "CT":
        kind = _MODALITIES.get(facts.modality or "", facts.modality or "of unknown modality")
        return "not_ct", f"is no CT but {facts.modality or 'modality missing'} ({kind})"
    tokens = _tokens(stack)
    if "LOCALIZER" in tokens or re.search(
        r"\b(scout|topogram|localizer|surview|scanogram)\b", (facts.series_description or "").lower()
    ):
        return "localizer", "is a localizer (scout, topogram)"
    if stack.frames and stack.frames[0].identity.sop_class_uid.startswith("1.2.840.10008.5.1.4.1.1.7"):
        return "secondary_capture", "is a secondary capture (screen shot)"
    if found := tokens & _PROJECTION_TOKENS:
        return "projection", f"is a projection or rendering ({', '.join(sorted(found))})"
    if unit := other_unit(facts):
        return "not_hounsfield", f"holds values of {unit}, not HU"
    fatal = stack.fatal
    if stack.count < MINIMUM_SLICES and (
        fatal is None or fatal.code in {"single_slice", "missing_slices", "uneven_spacing"}
    ):
        return (
            "too_few_slices",
            f"has only {stack.count} slice{'s' if stack.count != 1 else ''} (at least {MINIMUM_SLICES} are needed)",
        )
    if fatal is not None:
        return fatal.code, f"cannot be used: {lower_first(fatal.text)}"
    return None


def _soft_reason(stack: Stack) -> tuple[str, str] | None:
    """Why a stack is not used unless the user names its series."""
    facts = stack.acquisition
    if kind := spectral_product(facts):
        return "spectral_image", f"is a dual-energy or derived product ({kind}), not HU at the tube voltage"
    if half := pair_half(facts):
        return "dual_energy_pair", f"is {half}; of such pairs the mixed image is used"
    geometry, step = stack.geometry, stack.step_mm
    if geometry is not None and not geometry.is_axial:
        return "not_axial", "is a coronal, sagittal or steeply oblique reformat"
    if found := _tokens(stack) & _REFORMAT_TOKENS:
        return "derived_mpr", f"is a derived reformat ({', '.join(sorted(found))})"
    if any(p.code == "lossy_compression" for p in stack.problems):
        return "lossy_compression", "was compressed with loss, so HU are not exact"
    thickest = max(step or 0.0, facts.slice_thickness_mm or 0.0)
    if thickest > MAXIMUM_STEP_MM + _ROUNDING_MM:
        return "too_thick", f"is too thick ({thickest:.1f} mm; at most {MAXIMUM_STEP_MM:.0f} mm)"
    words = f"{facts.body_part or ''} {facts.series_description or ''} {facts.protocol_name or ''}".replace("_", " ")
    span = geometry.span_mm if geometry is not None else 0.0
    foreign = _FOREIGN_REGIONS.search(words)
    if foreign and span < 300 and not any(pattern.search(words) for pattern in _WANTED_WORDS.values()):
        return "other_region", f"shows another region ({foreign.group(0).lower()})"
    return None


def _points(stack: Stack) -> Iterator[tuple[float, str]]:
    """Points for and against a usable stack, each with its reason."""
    facts = stack.acquisition
    tokens = _tokens(stack)
    if stack.kind == "nifti":
        yield 0.0, "volume without acquisition facts"
    elif "ORIGINAL" in tokens:
        yield 10.0, "original"
    else:
        yield -10.0, "derived image"
    step = stack.step_mm or 0.0
    thickness = max(step, facts.slice_thickness_mm or 0.0)
    if thickness <= 0.6 - _ROUNDING_MM:
        yield 12.0, f"{thickness:.2f} mm (thin and noisy)"
    elif thickness <= 1.5 + _ROUNDING_MM:
        yield 20.0, f"{thickness:.2f} mm"
    elif thickness <= 3.0 + _ROUNDING_MM:
        yield 20.0 - 5.0 * (thickness - 1.5), f"{thickness:.2f} mm"
    else:
        yield 2.0 - 2.0 * (thickness - 3.0), f"{thickness:.2f} mm (thick)"
    kind = kernel_class(facts.kernel, facts.manufacturer)
    yield (
        {KernelClass.SOFT: 20.0, KernelClass.MEDIUM: 10.0, KernelClass.SHARP: -15.0, KernelClass.UNKNOWN: 5.0}[kind],
        f"{kind.value} kernel{f' {facts.kernel}' if facts.kernel else ''}",
    )
    if facts.contrast_agent:
        yield -6.0, "contrast"
    if facts.kvp is not None:
        yield (5.0 if abs(facts.kvp - 120) < 1 else 0.0 if 95 <= facts.kvp <= 145 else -5.0), f"{facts.kvp:.0f} kVp"
    if stack.geometry is not None:
        span = stack.geometry.span_mm
        # Length counts most: a thick series of the whole trunk beats a thin one of half a vertebra.
        yield min(span, 600.0) / 600.0 * 40.0 - (30.0 if span < _LONG_ENOUGH_MM else 0.0), f"{span:.0f} mm long"
    for problem in stack.problems:
        if problem.code in {"gantry_tilt", "missing_slices", "uneven_spacing", "interpolated_slice"}:
            yield -8.0, problem.code.replace("_", " ")


def verdict_on(stack: Stack, *, insist: bool = False) -> Verdict:
    """Judge one stack.

    Parameters
    ----------
    stack : Stack
    insist : bool
        The user named the series: only what is physically impossible is refused.
    """
    reason = _hard_reason(stack) or (None if insist else _soft_reason(stack))
    if reason is not None:
        return Verdict(stack, False, *reason)
    points = list(_points(stack))
    remarks = tuple(text for _, text in points)
    return Verdict(stack, True, "usable", "; ".join(remarks), 50.0 + sum(p for p, _ in points), remarks)


def _for_region(verdict: Verdict, region: str, lowest_z: float | None) -> float:
    """Score of a usable stack for one region."""
    facts = verdict.stack.acquisition
    words = f"{facts.body_part or ''} {facts.series_description or ''} {facts.protocol_name or ''}".replace("_", " ")
    score = verdict.score + (4.0 if _WANTED_WORDS[region].search(words) else 0.0)
    extent = verdict.stack.extent_z_lps_mm
    if region == "hips" and lowest_z is not None and extent is not None:
        score -= min(max(extent[0] - lowest_z, 0.0), 300.0) / 300.0 * 30.0  # hips lie at the lower end
    return score


def select(study: Study, *, series_uid: str | None = None) -> Selection:
    """Choose one stack for the spine and one for the hips (usually the same).

    Parameters
    ----------
    study : Study
    series_uid : str, optional
        Series that the user wants; then only stacks of it are considered and only impossible ones refused.

    Returns
    -------
    Selection

    Raises
    ------
    InputRefused
        If nothing is usable. The reason code is that of all stacks if they agree (``not_ct``, ``localizer``, ...), else
        ``no_usable_series``; ``no_such_series`` for an unknown `series_uid`.
    """
    stacks = [s for series in study.series if series_uid in (None, series.uid) for s in series.stacks]
    if not stacks:
        raise InputRefused(
            "no_such_series",
            f"there is no series {series_uid} in it.",
            subject=study.key,
            remedy="`openbct inspect` lists the series.",
        )
    verdicts = tuple(verdict_on(stack, insist=series_uid is not None) for stack in stacks)
    usable = [v for v in verdicts if v.usable]
    if not usable:
        raise _nothing_usable(study, verdicts)
    # Heights can be compared only within one frame of reference: take that of the best stack.
    best = max(usable, key=lambda v: v.score)
    frame_of_reference = best.stack.frames[0].frame_of_reference_uid if best.stack.frames else None
    comparable = [
        v
        for v in usable
        if v.stack.extent_z_lps_mm is not None
        and (v.stack.frames[0].frame_of_reference_uid if v.stack.frames else None) == frame_of_reference
    ]
    lowest = min((v.stack.extent_z_lps_mm[0] for v in comparable if v.stack.extent_z_lps_mm), default=None)

    def choose(region: str) -> Choice:
        scores = [_for_region(v, region, lowest if v in comparable else None) for v in usable]
        index = max(range(len(usable)), key=lambda i: (scores[i], -i))
        return Choice(region, usable[index].stack, round(scores[index], 1), usable[index].reason)

    return Selection(choose("spine"), choose("hips"), verdicts)


def _nothing_usable(study: Study, verdicts: tuple[Verdict, ...]) -> InputRefused:
    codes = Counter(v.code for v in verdicts)
    code = next(iter(codes)) if len(codes) == 1 else "no_usable_series"
    if set(codes) <= {"localizer", "too_few_slices"} and "localizer" in codes:
        code = "localizer"
    reasons = list(
        dict.fromkeys(
            f"{v.stack.name if v.stack.kind == 'dicom' else 'the volume'} {v.reason.rstrip('.')}" for v in verdicts
        )
    )
    more = f"; and {len(reasons) - 4} more" if len(reasons) > 4 else ""
    return InputRefused(
        code,
        f"no series can be used: {'; '.join(reasons[:4])}{more}.",
        subject=study.key,
        remedy="Send an original axial CT series, or name one with --series.",
    )


def describe(inventory: Inventory) -> list[dict[str, Any]]:
    """One row per stack for the table of ``openbct inspect``; no row holds anything about the patient.

    Returns
    -------
    list of dict
        Keys ``study``, ``date``, ``series_number``, ``series_uid``, ``description``, ``stack``, ``modality``, ``size``,
        ``spacing_mm``, ``length_mm``, ``kernel``, ``kvp``, ``contrast``, ``verdict`` (``spine, hips``, ``spare`` or
        ``refused``), ``code``, ``reason``, ``problems``.
    """
    rows: list[dict[str, Any]] = []
    for study in inventory.studies:
        try:
            selection: Selection | None = select(study)
        except InputRefused:
            selection = None
        for series in study.series:
            rows.extend(_row(study, series.number, series.uid, stack, selection) for stack in series.stacks)
    return rows


def _row(study: Study, number: int | None, uid: str, stack: Stack, selection: Selection | None) -> dict[str, Any]:
    verdict = verdict_on(stack)
    used = [r for r in REGIONS if selection is not None and selection.choice(r).stack.key == stack.key]
    reason = verdict.reason
    if selection is not None and not used and verdict.usable:
        reason = selection.why_not(stack)
    facts = stack.acquisition
    spacing = stack.pixel_spacing_mm
    return {
        "study": study.key,
        "date": study.date,
        "series_number": number,
        "series_uid": uid,
        "description": facts.series_description or "",
        "stack": stack.key,
        "modality": facts.modality or ("NIfTI" if stack.kind == "nifti" else ""),
        "size": (stack.count, stack.rows, stack.columns),
        "spacing_mm": (stack.step_mm, *(spacing or (None, None))),
        "length_mm": stack.geometry.span_mm if stack.geometry is not None else None,
        "kernel": facts.kernel,
        "kvp": facts.kvp,
        "contrast": facts.contrast_agent,
        "verdict": ", ".join(used) or ("spare" if verdict.usable else "refused"),
        "code": verdict.code,
        "reason": reason,
        "problems": tuple(p.text for p in stack.problems),
    }
