"""What computed a record, in enough detail to compute it again: versions, settings, and a hash over the program itself."""

from __future__ import annotations

import hashlib
import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import fea
import reports
from pipeline import __version__
from reports.record import Software

_DEPENDENCIES = ("numpy", "scipy", "numba", "SimpleITK", "pydicom", "highdicom", "scikit-image")
_DECIDES = (".py", ".json", ".toml", ".npz")
"""Kinds of files of the packages that decide a result: code and tables."""


def software_of(settings: dict[str, Any]) -> Software:
    """The program as it stands here, with the settings of a run."""
    found = {}
    for name in _DEPENDENCIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return Software(
        version=__version__,
        python=platform.python_version(),
        platform=f"{sys.platform} {platform.machine()}",
        dependencies=found,
        code_sha256=code_fingerprint(),
        settings=settings,
    )


@cache
def code_fingerprint() -> str:
    """SHA-256 over code and tables of the packages that decide a result, whatever version they state.

    Line ends do not count, so that the same source has the same hash on every system.
    """
    digest = hashlib.sha256()
    for package in (Path(__file__).parent, Path(str(fea.__file__)).parent, Path(str(reports.__file__)).parent):
        files = (f for f in package.rglob("*") if f.suffix in _DECIDES and f.is_file())
        for file in sorted(files, key=lambda f: f.relative_to(package).as_posix()):
            digest.update(f"{package.name}/{file.relative_to(package).as_posix()}".encode())
            digest.update(file.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


_TABLES = {"density": "density/tables.json", "vertebral shape": "fracture/norms.json"}


@cache
def table_versions() -> dict[str, str]:
    """Each table of published constants with the beginning of the hash of its content."""
    folder = Path(__file__).parent
    return {
        name: hashlib.sha256((folder / file).read_bytes().replace(b"\r\n", b"\n")).hexdigest()[:12]
        for name, file in _TABLES.items()
    }
