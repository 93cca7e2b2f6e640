"""What a segmenter is, and a way to call TotalSegmentator where somebody has installed it.

Our own chain needs no trained weights and is the default. TotalSegmentator runs only when asked for, in a process of its own,
with its usage statistics switched off and without a way to the network: nothing is ever downloaded.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Protocol

import nibabel
import numpy as np

from pipeline.errors import InputRefused
from pipeline.segmentation.masks import read_masks
from pipeline.segmentation.model import Segmentation
from pipeline.volume import Volume

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Data sets of the task "total" in version 2: the five parts at 1.5 mm, or all at 3 mm.
_FULL_MODELS, _FAST_MODELS = (291, 292, 293, 294, 295), (297,)
# A port on which nothing listens: whatever tries the network fails at once instead of leaving the machine.
_NO_NETWORK = "http://127.0.0.1:9"
_LAST_LINES = 3


class Segmenter(Protocol):
    """Makes a `Segmentation` of a volume."""

    def __call__(self, volume: Volume) -> Segmentation:
        """Segment one volume.

        Raises
        ------
        InputRefused
            If the segmenter cannot run here.
        """
        ...


def weights_folder() -> Path:
    """Where TotalSegmentator keeps its weights, by its own rules."""
    if stated := os.environ.get("TOTALSEG_WEIGHTS_PATH"):
        return Path(stated)
    home = os.environ.get("TOTALSEG_HOME_DIR")
    return (Path(home) if home else Path.home() / ".totalsegmentator") / "nnunet" / "results"


def _installed_version() -> str:
    if importlib.util.find_spec("totalsegmentator") is None:
        raise InputRefused(
            "segmenter_missing",
            "is not installed.",
            subject="TotalSegmentator",
            remedy="Install it with its weights, or use the default segmenter.",
        )
    try:
        version = importlib.metadata.version("TotalSegmentator")
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    if not version.startswith("2."):
        raise InputRefused(
            "segmenter_version",
            f"has version {version}; its label numbers are known for version 2 only.",
            subject="TotalSegmentator",
        )
    return version


def _require_weights(models: tuple[int, ...]) -> Path:
    folder = weights_folder()
    present = {entry.name.split("_")[0] for entry in folder.iterdir()} if folder.is_dir() else set()
    missing = [f"Dataset{model}" for model in models if f"Dataset{model}" not in present]
    if missing:
        raise InputRefused(
            "weights_missing",
            f"lacks the weights {', '.join(missing)}; nothing is downloaded here.",
            subject="TotalSegmentator",
            remedy="Download them beforehand with its own command totalseg_download_weights.",
        )
    return folder


def total_segmentator(volume: Volume, *, fast: bool = False, timeout_s: float = 3600.0) -> Segmentation:
    """Vertebrae, sacrum and femora by an installed TotalSegmentator.

    Parameters
    ----------
    volume : Volume
    fast : bool
        Its model at 3 mm, which rounds the femoral head.
    timeout_s : float

    Returns
    -------
    Segmentation
        Its masks through `read_masks`, with the same checks as any outside masks; `method` names the version.

    Raises
    ------
    InputRefused
        ``segmenter_missing``, ``segmenter_version``, ``weights_missing``, ``segmenter_failed``, or what `read_masks` refuses.
    """
    version = _installed_version()
    weights = _require_weights(_FAST_MODELS if fast else _FULL_MODELS)
    with tempfile.TemporaryDirectory(prefix="openbct_") as name:
        folder = Path(name)
        settings = {
            "totalseg_id": "none",
            "send_usage_stats": False,
            "statistics_disclaimer_shown": True,
            "prediction_counter": 0,
        }
        (folder / "home").mkdir()
        (folder / "home" / "config.json").write_text(json.dumps(settings), encoding="utf-8")
        image, result = folder / "ct.nii.gz", folder / "labels.nii.gz"
        affine = _LPS_TO_RAS @ volume.grid.index_to_lps[:, [2, 1, 0, 3]]
        # TotalSegmentator reads DICOM with a converter that trips over tilt and gaps; our grid is already regular.
        nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(volume.hu.transpose(2, 1, 0)), affine), image)
        command = [sys.executable, "-m", "totalsegmentator.bin.TotalSegmentator"]
        command += ["-i", str(image), "-o", str(result), "--ml", "--quiet", *(["--fast"] if fast else [])]
        environment = os.environ | {
            "TOTALSEG_HOME_DIR": str(folder / "home"),
            "TOTALSEG_WEIGHTS_PATH": str(weights),
            **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), _NO_NETWORK),
            "no_proxy": "",
        }
        try:
            done = subprocess.run(
                command,
                env=environment,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _failed(type(error).__name__) from error
        if done.returncode != 0 or not result.is_file():
            said = " | ".join(line.strip() for line in done.stderr.strip().splitlines()[-_LAST_LINES:])
            raise _failed(f"exit status {done.returncode}: {said.replace(name, '')}")
        found = read_masks(result, volume, convention="totalsegmentator_v2")
    return Segmentation(
        labels=found.labels,
        grid=found.grid,
        vertebrae=found.vertebrae,
        femora=found.femora,
        sacrum_label=found.sacrum_label,
        canal_lps_mm=found.canal_lps_mm,
        method=f"TotalSegmentator {version}{' (3 mm)' if fast else ''}",
        findings=found.findings,
    )


def _failed(detail: str) -> InputRefused:
    return InputRefused(
        "segmenter_failed", f"failed ({detail}).", subject="TotalSegmentator", remedy="Use the default segmenter."
    )
