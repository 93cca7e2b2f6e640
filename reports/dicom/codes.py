"""Coded concepts for DICOM objects: standard codes where they exist, the private scheme ``99OPENBCT`` otherwise."""

from __future__ import annotations

import re

from pydicom.sr.coding import Code

OWN_SCHEME = "99OPENBCT"

ANATOMICAL_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")
BONE = Code("3138006", "SCT", "Bone")
COMPRESSION_FRACTURE = Code("42942008", "SCT", "Compression fracture of vertebral column")
LATERALITY = Code("272741003", "SCT", "Laterality")
SIDES = {"left": Code("7771000", "SCT", "Left"), "right": Code("24028007", "SCT", "Right")}
PROXIMAL_FEMUR = Code("310651003", "SCT", "Proximal femur")
SACRUM = Code("54735007", "SCT", "Sacrum")
SPINE = Code("421060004", "SCT", "Spine")
VERTEBRA = Code("51282000", "SCT", "Vertebra")
ARCH_OF_VERTEBRA = Code("40265002", "SCT", "Arch of vertebra")
ARCH_ENDING = "_arch"
ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
COMMENT = Code("121106", "DCM", "Comment")

_VERTEBRA_CODES = {
    "C7": "87391001",
    "T1": "64864005",
    "T2": "53733008",
    "T3": "1626008",
    "T4": "73071006",
    "T5": "56401006",
    "T6": "45296009",
    "T7": "62487009",
    "T8": "11068009",
    "T9": "82687006",
    "T10": "7610001",
    "T11": "12989004",
    "T12": "23215003",
    "L1": "66794005",
    "L2": "14293000",
    "L3": "36470004",
    "L4": "11994002",
    "L5": "49668003",
}


def own(value: str, meaning: str) -> Code:
    """A concept of the private scheme; at most 16 characters of value and 64 of meaning, as DICOM allows."""
    if len(value) > 16 or len(meaning) > 64:
        raise ValueError(f"{value}: code values have at most 16 characters, meanings 64")
    return Code(value, OWN_SCHEME, meaning)


VBMD = own("VBMD", "Volumetric bone mineral density")
ABMD_CT = own("ABMD_CT", "Areal bone mineral density from CT")
BMC_CT = own("BMC_CT", "Bone mineral content from CT")
AREA_CT = own("BONE_AREA_CT", "Projected area of bone from CT")
ABMD_ON_SCALE = {
    "hologic": own("ABMD_HOLOGIC", "Areal bone mineral density from CT on the scale of Hologic"),
    "lunar": own("ABMD_LUNAR", "Areal bone mineral density from CT on the scale of Lunar"),
}
TSCORE_CT = own("TSCORE_CT", "T-score from CT")
TSCORE_MALE_CT = own("TSCORE_MALE_CT", "T-score from CT against young men, unverified reference")
ZSCORE_CT = own("ZSCORE_CT", "Z-score from CT")
HEIGHTS = {
    "anterior": own("VB_HT_ANT", "Anterior height of vertebral body"),
    "middle": own("VB_HT_MID", "Middle height of vertebral body"),
    "posterior": own("VB_HT_POST", "Posterior height of vertebral body"),
}
HEIGHT_LOSS = own("VB_HT_LOSS", "Height loss of vertebral body")
STRENGTH_FE = own("STRENGTH_FE", "Bone strength by finite elements")
STIFFNESS_FE = own("STIFFNESS_FE", "Bone stiffness by finite elements")
_TESTS = {
    "spine-compression": ("COMPR", "compression"),
    "hip-sideways-fall": ("FALL", "sideways fall"),
    "hip-stance": ("STANCE", "single-leg stance"),
}


def codes_of_test(test: str) -> tuple[Code, Code]:
    """Strength and stiffness in a virtual test besides the leading one, so that no receiver takes them for that one's."""
    short, words = _TESTS.get(test, (re.sub(r"[^A-Z0-9]+", "_", test.upper())[:10], test))
    strength = own(f"STR_{short}", f"Bone strength by finite elements, {words}"[:64])
    return strength, own(f"STIFF_{short}", f"Bone stiffness by finite elements, {words}"[:64])


_FURTHER = {
    "load": own("LOAD", "Load on the bone in a sideways fall"),
    "load_to_strength": own("LOAD_STR_RATIO", "Ratio of load to strength"),
    "lifting_load": own("LIFT_LOAD", "Load on the vertebra while lifting"),
    "lifting_load_to_strength": own("LIFT_STR_RATIO", "Ratio of load to strength while lifting"),
    "strength_percentile": own("STR_PERCENTILE", "Percentile of strength in a reference cohort"),
    "hu_elliptical_region": own("HU_ELLIPSE", "Mean CT number, elliptical region"),
    "vbmd_elliptical_region": own("VBMD_ELLIPSE", "Volumetric bone mineral density, elliptical region"),
    "wedge_angle": own("WEDGE_ANGLE", "Wedge angle of vertebral body"),
    "trochanteric_soft_tissue": own("TROCH_TISSUE", "Soft tissue over the greater trochanter"),
}


def further_code(key: str) -> Code:
    """Concept of an additional measure by its name in the record; one without an entry of its own is called by its name."""
    if key in _FURTHER:
        return _FURTHER[key]
    return own(re.sub(r"[^A-Z0-9]+", "_", key.upper())[:16], key.replace("_", " ")[:64])


STANDARD_UNCERTAINTY = own("STD_UNC", "Standard uncertainty")
GENANT = own("GENANT", "Genant grade")
GENANT_GRADES = {grade: own(f"GENANT_{grade}", f"Genant grade {grade}") for grade in range(4)}
DEFORMITY = own("DEFORMITY", "Deformity of vertebral body")
DEFORMITIES = {
    "none": own("DEF_NONE", "No deformity"),
    "wedge": own("DEF_WEDGE", "Wedge deformity"),
    "biconcave": own("DEF_BICONCAVE", "Biconcave deformity"),
    "crush": own("DEF_CRUSH", "Crush deformity"),
}
QUALITY = own("QUALITY", "Quality of the measurement")
QUALITY_VALUES = {
    "ok": own("QUALITY_OK", "Passed quality control"),
    "warning": own("QUALITY_WARN", "Passed quality control with warnings"),
    "failed": own("QUALITY_FAILED", "Failed quality control"),
    "absent": own("QUALITY_ABSENT", "Not in view"),
}
DENSITY_REGIONS = {
    "total_hip": own("REG_TOTAL_HIP", "Total hip region"),
    "femoral_neck": own("REG_FEM_NECK", "Femoral neck region"),
    "trochanter": own("REG_TROCH", "Trochanteric region"),
    "intertrochanter": own("REG_INTERTROCH", "Intertrochanteric region"),
}


def vertebra_code(level: str | None) -> Code:
    """The vertebra of a level; the unspecific concept for a body without a named level or a transitional one."""
    if level in _VERTEBRA_CODES:
        return Code(_VERTEBRA_CODES[level], "SCT", f"{level} vertebra")
    if level is not None:
        return own(f"VERT_{level}", f"{level} vertebra (transitional)")
    return VERTEBRA


def structure_code(name: str) -> tuple[Code, Code | None]:
    """Property type and laterality of a structure name of the contract, such as ``vertebra_L1`` or ``femur_left``."""
    if name.endswith(ARCH_ENDING):
        return ARCH_OF_VERTEBRA, None
    if name.startswith("femur_"):
        return PROXIMAL_FEMUR, SIDES[name.removeprefix("femur_")]
    if name == "sacrum":
        return SACRUM, None
    level = name.removeprefix("vertebra_")
    return vertebra_code(None if level.startswith("u") else level), None


def region_code(name: str) -> Code | None:
    """The vertebra that an arch belongs to (``vertebra_L1_arch``); None for structures whose type says where they are."""
    return structure_code(name.removesuffix(ARCH_ENDING))[0] if name.endswith(ARCH_ENDING) else None


def unit_code(unit: str) -> Code:
    """UCUM code of a unit of the record; the mineral basis of a density goes into the text, not into the unit."""
    if unit in ("HU", "[hnsf'U]"):
        return Code("[hnsf'U]", "UCUM", "Hounsfield unit")
    plain = {
        "mg/cm3": "mg/cm3",
        "g/cm2": "g/cm2",
        "N/mm": "N/mm",
        "N": "N",
        "mm": "mm",
        "%": "%",
        "g": "g",
        "cm2": "cm2",
        "deg": "deg",
        "MPa": "MPa",
        "kg": "kg",
        "mm2": "mm2",
        "mm3": "mm3",
        "cm3": "cm3",
    }
    first = unit.split(" ", 1)[0] if unit else ""
    if first in plain:
        return Code(plain[first], "UCUM", unit if len(unit) <= 64 else first)
    if unit in ("{T-score}", "{Z-score}"):
        return Code(unit, "UCUM", unit.strip("{}"))
    if unit in ("1", ""):
        return Code("1", "UCUM", "no units")
    if re.fullmatch(r"\{[!-z|~]{1,14}\}", unit):
        return Code(unit, "UCUM", unit.strip("{}"))
    raise ValueError(f"no UCUM code for the unit {unit!r}")
