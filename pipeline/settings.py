"""Everything that a user may set for an analysis."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.density import CHOICES
from pipeline.density.calibration_file import read as read_calibration
from pipeline.density.dxa_scale import SCALES
from pipeline.density.given_phantom import GivenPhantom, phantom_by
from pipeline.errors import InputRefused
from pipeline.segmentation.mask_names import CONVENTIONS
from pipeline.segmentation.model import LEVELS
from pipeline.strength import check_profiles
from pipeline.strength.reference import ReferenceCohort, read_reference_cohort, reference_name
from reports.coverage import (
    NO_KNOWLEDGE,
    Knowledge,
    KnowledgeError,
    LineOfBusiness,
    PlanDocument,
    load_knowledge,
    load_plan,
)
from reports.language import load_language

SEGMENTERS = ("own", "totalsegmentator")
SPINE_LOADS = ("lifting",)
# Beyond these nobody has measured a hip or a spine, and a slip of the keyboard is likelier.
_HEIGHTS_CM, _WEIGHTS_KG = (120.0, 230.0), (25.0, 300.0)


@dataclass(frozen=True)
class Settings:
    """Everything that a user may set for an analysis; it stands in the record and decides whether a result is still valid."""

    masks: str | None = None
    masks_convention: str | None = None
    refine_masks: bool = False
    calibration: str | None = None
    phantom: str | None = None
    rods: str | None = None
    dxa_scale: str | None = None
    segmenter: str = "own"
    pinned_levels: tuple[tuple[str, float], ...] = ()
    series_uid: str | None = None
    profile: str | None = None
    strength: bool = True
    spine_load: str | None = None
    height_cm: float | None = None
    weight_kg: float | None = None
    reference_cohort: str | None = None
    payer: str = "cigna"
    plan: str | None = None
    knowledge: str | None = None
    coding: bool = True
    date_of_service: str | None = None
    line_of_business: str | None = None
    language: str = "en"
    dicom_extras: bool = False
    threads: int | None = None

    def check(self) -> None:
        """Refuse at once what cannot work for any study, before a finished result could be touched.

        Raises
        ------
        InputRefused
        """
        if self.segmenter not in SEGMENTERS:
            known = ", ".join(SEGMENTERS)
            subject = f"segmenter '{self.segmenter}'"
            raise InputRefused("unknown_segmenter", f"is not known; known are {known}.", subject=subject)
        if self.masks_convention is not None and self.masks_convention not in CONVENTIONS:
            known = ", ".join(CONVENTIONS)
            subject = f"--masks-convention {self.masks_convention}"
            raise InputRefused("unknown_convention", f"is not known; known are {known}.", subject=subject)
        if self.refine_masks and self.masks is None and self.segmenter == "own":
            raise InputRefused("nothing_to_refine", "needs masks from elsewhere (--masks).", subject="--refine-masks")
        for level, _ in self.pinned_levels:
            if level not in LEVELS:
                raise InputRefused(
                    "unknown_level", f"is not one of {LEVELS[0]} to {LEVELS[-1]}.", subject=f"level '{level}'"
                )
        for path, option in ((self.masks, "--masks"), (self.plan, "--plan"), (self.knowledge, "--knowledge")):
            if path is not None and not Path(path).exists():
                raise InputRefused("no_such_input", "does not exist.", subject=f"{option} '{Path(path).name}'")
        if self.calibration is not None and self.calibration not in CHOICES:
            read_calibration(Path(self.calibration))
        self.given_phantom()
        if self.dxa_scale is not None and self.dxa_scale not in SCALES:
            known = ", ".join(SCALES)
            raise InputRefused(
                "unknown_scale", f"is not known; known are {known}.", subject=f"--dxa-scale {self.dxa_scale}"
            )
        if self.profile is not None:
            check_profiles(self.profile)
        self._check_context()
        if self.line_of_business is not None and self.line_of_business not in list(LineOfBusiness):
            known = ", ".join(LineOfBusiness)
            subject = f"--line-of-business {self.line_of_business}"
            raise InputRefused("unknown_line", f"is not known; known are {known}.", subject=subject)
        try:
            load_language(self.language)
        except ValueError as error:
            raise InputRefused("unknown_language", f"{error}.", subject="--language") from error
        self.plan_document()
        self.coverage_knowledge()

    def _check_context(self) -> None:
        """What strengths are held against: loads, the size of the body, a reference cohort."""
        if self.spine_load is not None and self.spine_load not in SPINE_LOADS:
            known = ", ".join(SPINE_LOADS)
            raise InputRefused(
                "unknown_load", f"is not known; known are {known}.", subject=f"--spine-load {self.spine_load}"
            )
        for option, value, unit, (least, greatest) in (
            ("--height-cm", self.height_cm, "cm", _HEIGHTS_CM),
            ("--weight-kg", self.weight_kg, "kg", _WEIGHTS_KG),
        ):
            if value is not None and not least <= value <= greatest:
                text = f"is not between {least:g} and {greatest:g} {unit}."
                raise InputRefused("bad_body_size", text, subject=f"{option} {value:g}")
        if self.reference_cohort is not None:
            read_reference_cohort(Path(self.reference_cohort))

    def given_phantom(self) -> GivenPhantom | None:
        """What the user says of the calibration phantom in the scans.

        Raises
        ------
        InputRefused
            ``unknown_phantom``, ``certificate_unreadable``, ``no_such_input``, or ``phantom_unnamed`` for rods of no phantom.
        """
        if self.rods is not None and self.phantom is None:
            detail = "was given without saying of which phantom."
            raise InputRefused("phantom_unnamed", detail, subject="--rods", remedy="Name it with --phantom.")
        if self.rods is not None and not Path(self.rods).is_file():
            raise InputRefused("no_such_input", "does not exist.", subject=f"--rods '{Path(self.rods).name}'")
        if self.phantom is None:
            return None
        return GivenPhantom(phantom_by(self.phantom), None if self.rods is None else Path(self.rods))

    def reference(self) -> ReferenceCohort | None:
        """The reference cohort that strengths are to be placed in, read.

        Raises
        ------
        InputRefused
            If the table cannot be used.
        """
        return read_reference_cohort(Path(self.reference_cohort)) if self.reference_cohort is not None else None

    def plan_document(self) -> PlanDocument | None:
        """The user's plan document, read.

        Raises
        ------
        InputRefused
            If the file is not valid.
        """
        if self.plan is None:
            return None
        try:
            return load_plan(Path(self.plan))
        except KnowledgeError as error:
            raise InputRefused("plan_invalid", str(error), subject="--plan") from error

    def coverage_knowledge(self) -> Knowledge:
        """What is on file on codes and payers, with the user's own files; nothing at all without coding.

        Raises
        ------
        InputRefused
            If a file of the user is not valid.
        """
        if not self.coding:
            return NO_KNOWLEDGE
        try:
            return load_knowledge(Path(self.knowledge) if self.knowledge is not None else None)
        except KnowledgeError as error:
            raise InputRefused("knowledge_invalid", str(error), subject="--knowledge") from error

    def as_json(self) -> dict[str, Any]:
        """The settings that decide a result: all but the number of threads; a file stands as the hash of its content.

        The name of a file may be that of a patient, and its content may change under the same name.
        """
        content = asdict(self)
        content.pop("threads")
        for key in ("masks", "plan", "knowledge", "calibration", "phantom", "rods", "profile", "language"):
            path = content[key]
            if path is not None and Path(path).exists():
                content[key] = f"sha256:{_fingerprint(Path(path))}"
        if self.reference_cohort is not None:
            content["reference_cohort"] = reference_name(Path(self.reference_cohort))
        return {key: value for key, value in content.items() if value not in (None, ())}


def _fingerprint(path: Path) -> str:
    """Hash of a file, or of all files below a folder with their names."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    for file in files:
        digest.update(str(file.relative_to(path)).encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
