"""The reference of the output, written from the models: ``python -m reports.reference docs/output.md``."""

from __future__ import annotations

import re
import sys
import types
from enum import StrEnum
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from reports import judgement, origin, record
from reports.cohort import data_dictionary
from reports.cohort_columns import CPT_CODES, LEVELS
from reports.quantity import Quantity
from reports.record import SCHEMA_VERSION, StudyRecord, write_atomically

_PARTS: tuple[type[BaseModel], ...] = (
    StudyRecord, origin.Software, origin.Study, origin.SeriesSection, origin.UsedSeries, origin.Acquisition,
    origin.RejectedSeries, origin.Calibration, origin.CalibrationSample, record.Vertebra, record.Heights, record.Fracture,
    record.Femur, record.HipDensity, Quantity, record.Strength, record.Score, record.VirtualTest, origin.Finding,
    judgement.Assessment, judgement.Rule, judgement.Omission, judgement.Service, judgement.Element, judgement.Coverage,
    judgement.OtherService, judgement.ReferencePopulation, judgement.ReferenceGroup,
    record.Quality, record.Figure,
)  # fmt: skip

_INTRODUCTION = f"""\
# Output reference

<!-- Written by `python -m reports.reference docs/output.md` from the models; a test compares. -->

Record format version {SCHEMA_VERSION}; JSON schema: `reports/schema/record-{SCHEMA_VERSION}.json` (shipped in the package).

## Files

Per study, in `OUT/<study>/`:

| file | what it is |
| --- | --- |
| `record.json` | the study record: the one source of every other document |
| `report.html` | the report as one self-contained file: pictures embedded, no script, no network |
| `report.pdf` | the same report, tagged (PDF/UA-1), with bookmarks and embedded fonts |
| `figures/*.png` | the pictures of the report |
| `segmentation.nii.gz`, `segmentation.json` | label map on the grid of the CT; label number to structure name |
| `arches.nii.gz`, `arches.json` | the same for the arches of the vertebrae, where they were found: `vertebra_L1_arch` |
| `dicom/` | the same results as DICOM objects; not written for NIfTI input, which has no DICOM study to add to |
| `fhir.json` | the same results as a FHIR R4B bundle |

Where spine and hips were measured on two series, the maps of the second are `segmentation_hips.nii.gz` and so on, and its DICOM
objects lie in `series2/dicom/`.

In `OUT/`:

| file | what it is |
| --- | --- |
| `cohort.csv`, `cohort.parquet` | one row per study; the same columns in both |
| `measurements.parquet` | one row per study, structure and quantity, including those that are absent |
| `cohort_dictionary.csv` | what every column of the cohort table means |
| `agreement.json` | how strengths of neighbouring levels, and of left and right hip, agree over the studies |
| `index.html` | overview page with sortable table, agreement, counts and links |

## Rules of the record

* A number is an object with value, unit, standard uncertainty (or the reason for its absence), method and reference.
* A number that is absent has a reason: an entry in `not_measured`, or a failure among the `findings` of the structure.
* A structure whose `status` is `failed` or `absent` carries no number.
* Units are UCUM codes; the mineral basis is part of the unit of a density: `mg/cm3 K2HPO4`.
* A new minor version only adds keys. Older versions are read and brought up to date (`reports/migrations.py`), newer minor
  versions of the same major version are read without their additions; the schema of every version stays in `reports/schema/`.
* No names, no birth dates, no paths: a study is known by its pseudonymous key and its DICOM UIDs.

In reports every number is rounded in one place: to the coarser of what is customary for its unit (strength 10 N, density
1 mg/cm3, areal density 0.001 g/cm2, T-score 0.1, HU 1, heights 0.1 mm) and two significant digits of its uncertainty. JSON, CSV
and Parquet hold it unrounded.

In `dicom/`: `segmentation.dcm` (binary, one coded segment per structure: bodies and femora first, then the arches, typed
"Arch of vertebra" with their vertebra as anatomic region), `measurements.dcm` (Comprehensive 3D SR,
TID 1500), `report.dcm` (Encapsulated PDF). With `--dicom-extras` also `picture-<name>.dcm` (secondary capture) and
`map-<structure>-<field>.dcm` (parametric map on the grid of the finite-element model: strain energy density in kPa,
energy-equivalent strain, stress over yield stress). All share patient and study of the source and have UIDs of their
own that repeat with the same result. Values of the source that DICOM does not allow (a study ID of 17 characters) are left
empty; name, patient ID and UIDs are copied as they are. Checked with `dciodvfy` (`pytest -m peer tests/reports`) and by
storing them in Orthanc and reading them back (`pytest -m pacs tests/reports`).

## Languages

`--language de` of `run` and `report`, or the path of a language file: a copy of `reports/language/en.toml` with the
same keys and the same gaps in braces; `[locale]` holds decimal mark and order of a date. A file that lacks a word is
refused by name. Sentences that stand in the record (findings, assessment, methods) are English there;
`reports/language/phrases.<code>.toml`, or a table `[sentences]` in a file of your own, holds templates for them. A
sentence is replaced only where a template fits the whole of it, else it stays as recorded. Payer statements are
printed in the language of their source.

## Verifying a record

    openbct verify OUT/<study>/record.json INPUT...

finds the study again in the input, analyses it with the recorded settings, and compares:

* the input: hash of the voxels, SOP instances, grid, what the headers say of scanner and patient;
* the results: every number with its uncertainty and the makeup of that, every class, every sentence (by its words, and by its
  numbers as far as they are printed), force-displacement curves along their whole length. Left out are timings, the solver's
  iterations and residual, and what coverage says beyond its status, payer, policy and date;
* the label maps beside the record, structure by structure (Dice overlap);
* versions, shown where they changed: they explain a difference and are none.

Files that the record was made with (`--masks`, `--calibration`, `--profile`, `--plan`, `--knowledge`, `--reference-cohort`)
must be given again, and their content must be the same: the record holds its hash.

Verdicts: `same`; `within_tolerance` (numbers: up to 0.02 standard uncertainties, set by `--tolerance`; 0.1 % where no
uncertainty is known, and of the peak for a curve; 0.005 for probabilities and scores; 2 % or one step of the last digit in a
sentence; a Dice overlap of 0.995); `differs`; `missing`; `new`; `not_compared` for label maps that do not lie beside the
record. `--json` prints one object. Exit status 0: reproduced; 1: other images, or a result or label map differs, is missing or
is new; 2: no comparison could be made.

A test changes each number of a whole record in turn and expects it to be found (`pytest tests/reports/test_comparison.py`); a
changed voxel of one slice, a changed number and a changed label map are found from end to end on a phantom
(`pytest -m slow tests/reports/test_verify.py`). A real lumbar CT of 3 mm with strength, computed with two threads and verified
with one, came out the same in 660 of 660 results and 14 of 14 parts of its label maps (`openbct run`, then
`openbct verify --threads 1`). A setting that was changed in the record shows in the results that it
changes. `software.code_sha256` tells apart programs of the same version.

## Record keys
"""

_COHORT = """\
## Cohort table

UTF-8, dot decimals, ISO dates, empty = missing. In the names, `{level}` stands for `t1` ... `t12`, `l1` ... `l5`, `{side}` for
`left` and `right`, `{cpt}` for the service code, `{region}` for `spine` and `hips`. Each quantity has a second column with its
standard uncertainty, `..._sd`, left out here. A `..._status` column says why a cell is empty: `measured`, `not_found` (no such
structure in the images), or the code of a finding. Text that a spreadsheet would run as a formula is preceded by an apostrophe.
"""


def output_reference() -> str:
    """The text of ``docs/output.md``."""
    parts = [_INTRODUCTION]
    for model in _PARTS:
        parts.append(f"### {_title(model)}\n\n{_summary(model)}\n\n| key | type | meaning |\n| --- | --- | --- |")
        parts.append("\n".join(_rows(model)) + "\n")
    parts += [
        _COHORT,
        "| column | type | unit | meaning | allowed values | section |\n| --- | --- | --- | --- | --- | --- |",
    ]
    parts.append("\n".join(_cohort_rows()))
    return "\n".join(parts) + "\n"


def _title(model: type[BaseModel]) -> str:
    return "Study record (top level)" if model is StudyRecord else model.__name__


def _summary(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").strip().split("\n\n")[0].split())


def _rows(model: type[BaseModel]) -> list[str]:
    documented = _documented_attributes(model)
    rows = []
    for name, field in model.model_fields.items():
        meaning = field.description or documented.get(name, "")
        rows.append(f"| `{name}` | {_type_text(field.annotation)} | {_cell(meaning)} |")
    return rows


def _documented_attributes(model: type[BaseModel]) -> dict[str, str]:
    """Meanings from the Attributes section of a docstring and those of its bases."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        section = (base.__doc__ or "").partition("Attributes\n")[2]
        for name, text in re.findall(r"^ *(\w+) : [^\n]*\n((?: {8,}[^\n]+\n?)+)", section, flags=re.MULTILINE):
            found[name] = " ".join(text.split())
    return found


def _type_text(annotation: Any) -> str:
    """A type as a reader of JSON sees it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if a is type(None) else _type_text(a) for a in arguments)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        inner = [a for a in arguments if a is not Ellipsis]
        if Ellipsis in arguments:
            return f"list of {_type_text(inner[0])}"
        return f"list of {len(inner)} ({_type_text(inner[0])})"
    if origin is dict:
        return f"object: {_type_text(arguments[0])} to {_type_text(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return ", ".join(f"`{value.value}`" for value in annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    names = {str: "text", float: "number", int: "integer", bool: "true or false", Any: "any"}
    return names.get(annotation, str(annotation))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _cohort_rows() -> list[str]:
    rows: dict[str, str] = {}
    for entry in data_dictionary():
        if entry["name"].endswith("_sd"):
            continue
        texts = {key: _generalised(value) for key, value in entry.items()}
        allowed = texts["allowed"].replace(" | ", ", ")
        rows.setdefault(
            texts["name"],
            f"| `{texts['name']}` | {texts['type']} | {texts['unit']} | {_cell(texts['meaning'])} | {allowed} | "
            f"{texts['section']} |",
        )
    return list(rows.values())


def _generalised(text: str) -> str:
    """One line for columns that differ only in level, side, service or region."""
    levels = "|".join(sorted(LEVELS, key=len, reverse=True))
    text = re.sub(rf"\b({levels})\b", "{level}", text)
    text = re.sub(rf"^({levels.lower()})_", "{level}_", text)
    text = re.sub(r"^femur_(left|right)_", "femur_{side}_", text)
    text = re.sub(r"the (left|right) femur", "the {side} femur", text)
    codes = "|".join(CPT_CODES)
    text = re.sub(rf"cpt_({codes.lower()})_", "cpt_{cpt}_", text)
    text = re.sub(rf"\b({codes})\b", "{cpt}", text)
    text = re.sub(r"^(spine|hips)_(series_uid|manufacturer|model|kvp|kernel|slice|contrast)", r"{region}_\2", text)
    return re.sub(r"used for the (spine|hips)", "used for the {region}", text)


if __name__ == "__main__":
    write_atomically(sys.argv[1], output_reference())
