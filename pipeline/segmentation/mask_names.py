"""What the labels of other programs mean. By name wherever there is a name: numbers moved between versions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pipeline.segmentation.model import LABEL_OF, LEVELS
from reports.dicom.codes import vertebra_code


class Kind(StrEnum):
    """What an outside label is."""

    VERTEBRA = "vertebra"
    """A whole vertebra with its arch, or a body: the mask itself tells."""
    BODY = "body"
    """A vertebral body with a level."""
    BODIES = "bodies"
    """Vertebral bodies without levels."""
    SACRUM = "sacrum"
    FEMUR = "femur"


@dataclass(frozen=True, slots=True)
class Part:
    """The meaning of one label.

    Attributes
    ----------
    kind : Kind
    name : str
        Level (``"L1"``, ``"L6"``, ``"T13"``), name without level (``"u3"``), side (``"left"``) or empty.
    """

    kind: Kind
    name: str = ""


CONVENTIONS = ("totalsegmentator_v2", "totalsegmentator_v1", "verse", "spineps_subregion", "vertebrae_pp")
"""Numberings that a user may state for a file without names."""

_LEVEL = re.compile(r"(?:^|[^a-z0-9])([tls])[\s_-]?(\d{1,2})(?:$|[^a-z0-9])")
_FOREIGN = re.compile(
    r"disc|disk|rib|nerve|muscle|foram|process|lamina|pedicle|arch|endplate|cord|canal|ligament|implant"
)
_UNNAMED = re.compile(r"^vertebra_(u\d{1,2})(?: \(body\))?$")
_SIDE = re.compile(r"(?:^|[\s_-])(left|right|l|r|li|re|links|rechts)(?:$|[\s_-])")


def part_of_name(name: str) -> Part | None:
    """The meaning of a label by its name; None for what is of no interest here (ribs, discs, organs, cervical vertebrae).

    >>> part_of_name("vertebrae_L1")
    Part(kind=<Kind.VERTEBRA: 'vertebra'>, name='L1')
    >>> part_of_name("femur_left")
    Part(kind=<Kind.FEMUR: 'femur'>, name='left')
    """
    text = name.strip().lower()
    if match := _UNNAMED.match(text):
        return Part(Kind.BODY, match.group(1))
    if re.search(r"femur|femora\b", text) and not re.search(
        r"head|neck|shaft|cortex|medulla|condyl|distal|vessel|arter", text
    ):
        side = _SIDE.search(text.replace("(", " ").replace(")", " "))
        return (
            None
            if side is None
            else Part(Kind.FEMUR, "left" if side.group(1) in {"left", "l", "li", "links"} else "right")
        )
    if re.match(r"^(sacrum|os sacrum|vertebrae?_s1|s1)\b", text.replace("_body", "")):
        return Part(Kind.SACRUM)
    if _FOREIGN.search(text):
        return None
    is_body = re.search(r"body|bodies|corpus|corpora", text) is not None
    if match := _LEVEL.search(text):
        level = f"{match.group(1).upper()}{int(match.group(2))}"
        if f"vertebra_{level}" not in LABEL_OF:
            return Part(Kind.SACRUM) if level == "S1" else None
        return Part(Kind.BODY if is_body else Kind.VERTEBRA, level)
    if is_body and re.search(r"vertebra|corpus|corpora", text):
        return Part(Kind.BODIES)
    return None


def part_of_code(value: str, scheme: str, meaning: str, laterality: str | None, label: str) -> Part | None:
    """The meaning of a segment of a DICOM SEG by its property type code, else by its label.

    Parameters
    ----------
    value, scheme, meaning : str
        Segmented Property Type.
    laterality : str or None
        Code value of its modifier: 7771000 left, 24028007 right.
    label : str
        Segment Label.
    """
    if scheme in {"SCT", "SNM3", "SRT", "99SDM"}:
        if value in _LEVEL_OF_CODE:
            body = re.search(r"body|corpus", label.lower()) is not None
            return Part(Kind.BODY if body else Kind.VERTEBRA, _LEVEL_OF_CODE[value])
        if value == "54735007":
            return Part(Kind.SACRUM)
        if value in {"71341001", "310651003"}:
            side = {"7771000": "left", "24028007": "right"}.get(laterality or "")
            if side is not None:
                return Part(Kind.FEMUR, side)
    return part_of_name(label) or part_of_name(meaning)


_LEVEL_OF_CODE = {vertebra_code(level).value: level for level in LEVELS if level != "C7"}


def parts_of_numbers(convention: str) -> dict[int, Part]:
    """The numbering of a known program.

    Parameters
    ----------
    convention : str
        One of `CONVENTIONS`.
    """
    thoracic_and_lumbar = [*(f"T{i}" for i in range(1, 13)), *(f"L{i}" for i in range(1, 6))]
    if convention == "verse":
        # Also the instance masks of SPINEPS and TPTBox; numbers above 100 there are discs and endplates.
        numbers = {8 + i: Part(Kind.VERTEBRA, level) for i, level in enumerate(thoracic_and_lumbar)}
        return numbers | {25: Part(Kind.VERTEBRA, "L6"), 26: Part(Kind.SACRUM), 28: Part(Kind.VERTEBRA, "T13")}
    if convention == "spineps_subregion":
        return {49: Part(Kind.BODIES), 50: Part(Kind.BODIES), 26: Part(Kind.SACRUM)}
    if convention == "vertebrae_pp":
        return {8 + i: Part(Kind.VERTEBRA, level) for i, level in enumerate(thoracic_and_lumbar)}
    upwards = thoracic_and_lumbar[::-1]
    first, sacrum, femora = {
        "totalsegmentator_v2": (27, (25, 26), (75, 76)),
        "totalsegmentator_v1": (18, (92,), (88, 89)),
    }[convention]
    numbers = {first + i: Part(Kind.VERTEBRA, level) for i, level in enumerate(upwards)}
    numbers |= {number: Part(Kind.SACRUM) for number in sacrum}
    return numbers | {femora[0]: Part(Kind.FEMUR, "left"), femora[1]: Part(Kind.FEMUR, "right")}


def convention_of_file_name(name: str) -> str | None:
    """The numbering that a file name states: SPINEPS, TPTBox and VerSe mark theirs with a BIDS entity."""
    text = name.lower()
    if "seg-vert" in text:
        return "verse"
    if "seg-spine" in text or "seg-subreg" in text:
        return "spineps_subregion"
    return None


def numbers_by_name(names: Mapping[str, object]) -> dict[str, tuple[int, ...]] | None:
    """What a JSON object says of a label map, in either direction; None if it says nothing.

    Known are ``{"5": "vertebrae_L1"}``, ``{"vertebrae_L1": 5}``, both also below a key ``labels`` (``dataset.json`` of nnU-Net,
    version 1 and 2), and the regions of nnU-Net, ``{"vertebrae_L1": [1, 2], "body": 2}``: a region is all voxels that hold one
    of its numbers. Background and the label ``ignore`` mean nothing.

    Returns
    -------
    dict of str to tuple of int
        Each name with the numbers it stands for.
    """
    inner = names.get("labels", names)
    if not isinstance(inner, Mapping):
        return None
    found: dict[str, tuple[int, ...]] = {}
    for key, value in inner.items():
        if isinstance(value, str) and _is_number(key):
            name, numbers = value, [int(key)]
        elif isinstance(value, list | tuple):
            name, numbers = str(key), [int(number) for number in value if _is_number(number)]
        elif _is_number(value):
            name, numbers = str(key), [int(str(value))]
        else:
            continue
        numbers = [number for number in numbers if number > 0]
        if numbers and name.strip().lower() not in {"background", "ignore"}:
            found[name] = (*found.get(name, ()), *numbers)
    return found or None


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and re.fullmatch(r"-?\d+", str(value).strip()) is not None
