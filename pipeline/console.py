"""What all commands of ``openbct`` share: the two consoles, exit status, progress, and how inputs are read.

Results go to standard output, talk and progress to standard error. Exit status: 0 all studies done, 1 some study failed or was
refused (the others are complete), 2 the call itself was wrong, 130 interrupted.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pipeline.errors import Refusal

if TYPE_CHECKING:
    from pipeline.ingest import Inventory

ALL_DONE, SOME_REFUSED, WRONG_CALL, INTERRUPTED = 0, 1, 2, 130

out_console = Console()
talk = Console(stderr=True)

Inputs = Annotated[
    list[Path],
    typer.Argument(
        help="Folders, zips, DICOMDIRs, single DICOM files or NIfTI volumes, in any mix.", show_default=False
    ),
]


def index_inputs(inputs: list[Path], *, quiet: bool) -> Inventory:
    """What studies the inputs hold; a missing path is a wrong call."""
    from pipeline.ingest import find_studies

    missing = [path for path in inputs if not path.exists()]
    if missing:
        raise Refusal("no_such_input", "does not exist.", subject=f"input '{missing[0]}'")
    with progress_bar(quiet) as bar:
        task = bar.add_task("reading headers", total=None)
        return find_studies(inputs, progress=lambda done, total: bar.update(task, completed=done, total=total))


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress]:
    """A bar on standard error, only where a person looks."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=talk, transient=True, disable=quiet or not talk.is_terminal) as bar:
        yield bar


def iso_date(text: str) -> dt.date:
    """A date of the command line."""
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise Refusal("bad_date", "is not a date of the form YYYY-MM-DD.", subject=f"date '{text}'") from None


def escaped(text: Any) -> str:
    """Text in which square brackets are no markup."""
    return escape(str(text))
