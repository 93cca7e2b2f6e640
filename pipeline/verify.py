"""A record verified: the study is found again in the images, analysed with the recorded settings, and compared.

Compared are the input, every number and sentence of the record, and the label maps that lie beside it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from pipeline.errors import InputRefused
from pipeline.ingest import Inventory, Study
from pipeline.study import Settings, analyse_study
from reports.comparison import TOLERANCE_SD, Compared, Comparison, Verdict, compare_records
from reports.record import StudyRecord

FILE_SETTINGS = ("masks", "calibration", "phantom", "rods", "profile", "plan", "knowledge", "reference_cohort")
"""Settings that may name a file; the record holds the hash of its content, so the file must be given again."""
_HASHED = "sha256:"
_RENDERING = ("language", "dicom_extras")
"""Settings that change documents and no result."""
_LABEL_MAPS = ("segmentation*.nii.gz", "arches*.nii.gz")
LEAST_DICE = 0.995
"""Overlap of a structure that still counts as the same outline: a few voxels of its surface, as another processor may round."""


def verify_record(
    record: StudyRecord,
    inventory: Inventory,
    *,
    beside: Path | None = None,
    files: Mapping[str, Path] | None = None,
    tolerance_sd: float = TOLERANCE_SD,
    threads: int | None = None,
    keep: Path | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> Comparison:
    """Compute a record again from its images and compare.

    Parameters
    ----------
    record : StudyRecord
    inventory : Inventory
        From `pipeline.ingest.find_studies`; must hold the study of the record.
    beside : Path, optional
        Folder of the record; its label maps are compared with those computed again.
    files : mapping of str to Path, optional
        Files of the settings in `FILE_SETTINGS` that the record was made with.
    tolerance_sd : float
        Largest difference that counts as reproduced, in standard uncertainties.
    threads : int, optional
    keep : Path, optional
        An empty folder for the new record and its documents; a temporary one by default.
    on_stage : callable, optional
        Told the name of each stage as it begins.

    Raises
    ------
    InputRefused
        If the study is not in the input, or a file that the record was made with is not given or has changed.
    """
    settings = replace(settings_of(record, files or {}), threads=threads)
    study = _study_of(record, inventory)
    with tempfile.TemporaryDirectory(prefix="openbct-verify-") if keep is None else nullcontext(keep) as folder:
        again = analyse_study(study, Path(folder), settings, on_stage=on_stage)
        maps = () if beside is None else compare_label_maps(beside, Path(folder))
    return compare_records(record, again, tolerance_sd=tolerance_sd).model_copy(update={"files": maps})


def compare_label_maps(recorded: Path, recomputed: Path) -> tuple[Compared, ...]:
    """The label maps of two folders, structure by structure.

    Parameters
    ----------
    recorded, recomputed : Path
        Folders with ``segmentation*.nii.gz`` and ``arches*.nii.gz``.

    Returns
    -------
    tuple of Compared
        For each map a row on its grid, and one for each structure with the voxels of both and, as `difference`, the Dice
        overlap minus one. A map that is in one folder only is ``not_compared`` (the record may lie alone), or ``new`` and
        ``missing`` where the other maps are there.
    """
    first, second = (
        {f.name: f for pattern in _LABEL_MAPS for f in sorted(p.glob(pattern))} for p in (recorded, recomputed)
    )
    rows: list[Compared] = []
    for name in dict.fromkeys((*second, *first)):
        if name in first and name in second:
            rows += _compared_maps(name, first[name], second[name])
        elif not first:
            text = "is not beside the record"
            rows.append(Compared(name=name, verdict=Verdict.NOT_COMPARED, recorded=None, recomputed=text))
        else:
            verdict = Verdict.MISSING if name in first else Verdict.NEW
            rows.append(Compared(name=name, verdict=verdict, recorded=name in first, recomputed=name in second))
    return tuple(rows)


def _compared_maps(name: str, first: Path, second: Path) -> list[Compared]:
    try:
        (old, old_affine), (new, new_affine) = _label_map(first), _label_map(second)
    except (ImageFileError, OSError, EOFError, ValueError):
        return [Compared(name=name, verdict=Verdict.DIFFERS, recorded="cannot be read", recomputed="label map")]
    if old.shape != new.shape or not np.allclose(old_affine, new_affine, atol=1e-4):
        return [
            Compared(name=f"{name}.grid", verdict=Verdict.DIFFERS, recorded=str(old.shape), recomputed=str(new.shape))
        ]
    rows = [Compared(name=f"{name}.grid", verdict=Verdict.SAME, recorded=str(old.shape), recomputed=str(new.shape))]
    counts = (np.bincount(old.ravel()), np.bincount(new.ravel()))
    both = np.bincount(old[old == new].ravel())
    for number in sorted({int(n) for count in counts for n in np.flatnonzero(count)} - {0}):
        here, there, shared = (int(c[number]) if number < len(c) else 0 for c in (*counts, both))
        dice = 2 * shared / (here + there)
        good = Verdict.WITHIN_TOLERANCE if dice >= LEAST_DICE else Verdict.DIFFERS
        rows.append(
            Compared(
                name=f"{name}.label_{number}",
                verdict=Verdict.SAME if shared == here == there else good,
                recorded=here,
                recomputed=there,
                unit="voxels",
                difference=dice - 1,
                tolerance=1 - LEAST_DICE,
            )
        )
    return rows


def _label_map(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    image = nibabel.load(path)
    labels = np.asarray(image.dataobj)  # type: ignore[attr-defined]
    if labels.min(initial=0) < 0:
        raise ValueError("labels are not negative")
    return labels.astype(np.int64), np.asarray(image.affine, float)  # type: ignore[attr-defined]


def settings_of(record: StudyRecord, files: Mapping[str, Path]) -> Settings:
    """The settings that a record was made with.

    Coverage is asked for the recorded date of service, or for the day of the recorded report where none was given.

    Raises
    ------
    InputRefused
        If a setting is not known to this version, or the files do not match.
    """
    recorded = {key: value for key, value in record.software.settings.items() if key not in _RENDERING}
    known = {field.name for field in fields(Settings)}
    unknown = sorted(set(recorded) - known)
    if unknown:
        raise InputRefused(
            "unknown_setting",
            f"was made with settings that this version does not know: {', '.join(unknown)}.",
            subject="the record",
            remedy=f"Verify it with openbct {record.software.version}.",
        )
    hashed = {key: value for key, value in recorded.items() if str(value).startswith(_HASHED)}
    for key in FILE_SETTINGS:
        if key in hashed and key not in files:
            raise InputRefused(
                "file_needed", f"was made with a file for {_option(key)}; give it again.", subject="the record"
            )
        if key in files and key not in hashed:
            raise InputRefused("file_not_used", f"was made without a file for {_option(key)}.", subject="the record")
    given: dict[str, Any] = {key: _frozen(value) for key, value in recorded.items() if key not in hashed}
    given |= {key: str(path) for key, path in files.items()}
    given.setdefault("date_of_service", record.study.report_date)
    settings = Settings(**given)
    settings.check()
    now = settings.as_json()
    for key, value in hashed.items():
        if now.get(key) != value:
            raise InputRefused(
                "file_changed",
                "is not the one that the record was made with: its content differs.",
                subject=_option(key),
            )
    return settings


def _option(setting: str) -> str:
    return "--" + setting.replace("_", "-")


def _frozen(value: Any) -> Any:
    """Lists of JSON as the tuples that `Settings` holds."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _study_of(record: StudyRecord, inventory: Inventory) -> Study:
    uid, key = record.study.study_uid, record.study.key
    found = [s for s in inventory.studies if (s.uid == uid if uid else s.key == key)]
    if not found and not uid and len(inventory.studies) == 1:
        found = list(inventory.studies)  # a NIfTI file under another name; its content decides
    if not found:
        raise InputRefused(
            "study_not_in_input",
            f"does not hold the study of the record ({key}); studies there: "
            f"{', '.join(s.key for s in inventory.studies[:5]) or 'none'}.",
            subject="the input",
        )
    return found[0]
