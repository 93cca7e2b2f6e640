"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """`real_data("ts_example_3mm")` is the folder of one case of the development set; skips where it is absent."""

    def folder_of(case: str) -> Path:
        for base in (os.environ.get("OPENBCT_DATA"), _REPOSITORY.parent / "shared" / "data"):
            if base and (Path(base) / case).is_dir():
                return Path(base) / case
        pytest.skip(f"real CT '{case}' is not here: set OPENBCT_DATA to the folder of the development set")

    return folder_of
