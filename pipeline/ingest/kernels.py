"""Which reconstruction kernels keep HU and which sharpen edges."""

from __future__ import annotations

import re
from enum import StrEnum


class KernelClass(StrEnum):
    """How a kernel treats edges."""

    SOFT = "soft"
    MEDIUM = "medium"
    SHARP = "sharp"
    UNKNOWN = "unknown"


_NAMED = {
    # GE
    "SOFT": KernelClass.SOFT,
    "STANDARD": KernelClass.SOFT,
    "STND": KernelClass.SOFT,
    "STD": KernelClass.SOFT,
    "STD+": KernelClass.MEDIUM,
    "CHST": KernelClass.MEDIUM,
    "CHEST": KernelClass.MEDIUM,
    "DETAIL": KernelClass.MEDIUM,
    "DETL": KernelClass.MEDIUM,
    "BONE": KernelClass.SHARP,
    "BONEPLUS": KernelClass.SHARP,
    "BONE+": KernelClass.SHARP,
    "LUNG": KernelClass.SHARP,
    "EDGE": KernelClass.SHARP,
    "EDGE+": KernelClass.SHARP,
    "ULTRA": KernelClass.SHARP,
    "HD LUNG": KernelClass.SHARP,
    "HD BONE": KernelClass.SHARP,
    # Philips
    "A": KernelClass.SOFT,
    "B": KernelClass.SOFT,
    "C": KernelClass.MEDIUM,
    "D": KernelClass.SHARP,
    "L": KernelClass.SHARP,
    "E": KernelClass.SHARP,
    "F": KernelClass.SOFT,
    "YA": KernelClass.SHARP,
    "YB": KernelClass.SHARP,
    "YC": KernelClass.SHARP,
    "YD": KernelClass.SHARP,
    # words in general use
    "SMOOTH": KernelClass.SOFT,
    "SHARP": KernelClass.SHARP,
}


def kernel_class(kernel: str | None, manufacturer: str | None = None) -> KernelClass:
    """Class of a kernel by its name.

    Parameters
    ----------
    kernel : str or None
        Convolution Kernel (0018,1210).
    manufacturer : str or None
        Decides how a bare number is read.

    Notes
    -----
    Names follow the makers' schemes: Siemens ``B30f``, ``Br36d``, ``I26f`` (the number grows with sharpness), Canon and
    Toshiba ``FC08``, GE and Philips words. The limits between the classes are conventional, not measured.
    """
    if not kernel:
        return KernelClass.UNKNOWN
    name = kernel.strip().upper()
    if name in _NAMED:
        return _NAMED[name]
    if match := re.match(r"^(?:B|BR|BF|BV|BL|QR|QC|BP|SA|HR|HC|HF|HP|J|I|U|UB|T|H|D|S|UR)(\d{2})", name):
        number = int(match.group(1))
        return KernelClass.SOFT if number <= 41 else KernelClass.MEDIUM if number <= 50 else KernelClass.SHARP
    if match := re.match(r"^FC(\d{2})", name):
        number = int(match.group(1))
        if number <= 19 or 40 <= number <= 44:
            return KernelClass.SOFT
        return KernelClass.MEDIUM if 20 <= number <= 29 else KernelClass.SHARP
    for word in ("LUNG", "BONE", "EDGE", "SHARP", "DETAIL", "STANDARD", "SOFT", "SMOOTH"):
        if word in name:
            return _NAMED[word]
    return KernelClass.UNKNOWN
