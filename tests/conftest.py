"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_LONGEST_WAIT_S = 300.0
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


@pytest.fixture(scope="session")
def once(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Callable[[], Any]], Any]:
    """`once("torso", make)` is what `make()` returns, made by the process of this run that asks first, read by the others."""
    folder = tmp_path_factory.getbasetemp()
    if not hasattr(request.config, "workerinput"):
        return lambda _, make: make()
    folder = folder.parent  # of all processes of this run, and of no other run

    def made_or_read(name: str, make: Callable[[], Any]) -> Any:
        file, lock = folder / f"{name}.pickle", folder / f"{name}.lock"
        give_up = time.monotonic() + _LONGEST_WAIT_S
        while not file.exists() and time.monotonic() < give_up:
            try:
                os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
            except OSError:
                time.sleep(0.05)  # another process is at it
                continue
            try:
                if not file.exists():
                    unfinished = folder / f"{name}.unfinished"
                    unfinished.write_bytes(pickle.dumps(make()))
                    unfinished.replace(file)
            finally:
                lock.unlink()
        return pickle.loads(file.read_bytes()) if file.exists() else make()

    return made_or_read
