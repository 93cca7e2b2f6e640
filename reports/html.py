"""The report as one HTML file: pictures embedded, no script, no network, prints on A4 and Letter."""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from reports.compose import compose
from reports.language import load_language
from reports.record import StudyRecord

_IMAGE_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}


def render_html(record: StudyRecord, folder: Path, *, language: str = "en") -> str:
    """The report on one study.

    Parameters
    ----------
    record : StudyRecord
    folder : Path
        Where the picture files of the record lie; a picture that is not there is named in its place.
    language : str
        Code of a file in ``reports/language``.
    """
    document = compose(record, language=language)
    words = load_language(language)
    figure_word, missing = words.words["text.figure"], words.words["text.figures_missing"]
    return environment().get_template("report.html.jinja").render(
        document=document,
        picture=lambda file: _data_uri(folder, file),
        figure_word=lambda number: figure_word.format(number=number),
        missing=lambda file: missing.format(file=file),
    )  # fmt: skip


@cache
def environment() -> Environment:
    """The templates, with every value escaped."""
    return Environment(
        loader=PackageLoader("reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def picture_path(folder: Path, file: str) -> Path | None:
    """The picture `file` of a record if it is a picture inside `folder`; a record cannot make us read anything else."""
    path = (folder / file).resolve()
    inside = path.is_relative_to(folder.resolve())
    return path if inside and path.suffix.lower() in _IMAGE_TYPES and path.is_file() else None


def _data_uri(folder: Path, file: str) -> str | None:
    path = picture_path(folder, file)
    if path is None:
        return None
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:{_IMAGE_TYPES[path.suffix.lower()]};base64,{content}"
