"""The report as PDF: typeset by typst, tagged for screen readers (PDF/UA-1), with bookmarks and embedded fonts, offline.

The layout (``templates/report.typ``) reads the document as JSON data: no text of a record ever becomes markup.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import matplotlib
import typst
from matplotlib.ft2font import FT2Font

from reports.compose import compose
from reports.document import DocumentPicture, Pictures
from reports.html import picture_path
from reports.language import Language, load_language
from reports.record import StudyRecord

MOST_PAGES = 4
"""What a reader of a report puts up with; a longer one is set smaller if that saves a page."""
_SMALLER = (0.95, 0.9, 0.86)
_MAIN = "report.typ"
_FONTS = ("DejaVu Sans", "Libertinus Serif")
_TEXT_WIDTH_MM = 180.0
_GAP_MM = 2.0


def render_pdf(
    record: StudyRecord, folder: Path, *, language: str = "en", paper: Literal["a4", "us-letter"] = "a4"
) -> bytes:
    """The report on one study.

    Parameters
    ----------
    record : StudyRecord
    folder : Path
        Where the picture files of the record lie; a picture that is not there is named in its place.
    language : str
        Code of a file in ``reports/language``.
    paper : str
    """
    with tempfile.TemporaryDirectory(prefix="openbct-pdf-") as name:
        workplace = Path(name)
        content = _content(record, folder, workplace, language)
        content |= {"paper": paper, "fonts": list(_FONTS), "scale": 1.0}
        template = (files("reports") / "templates" / "report.typ").read_text(encoding="utf-8")
        (workplace / _MAIN).write_text(template, encoding="utf-8")
        made = _typeset(workplace, content)
        for scale in _SMALLER:
            if _pages(made) <= MOST_PAGES:
                break
            made = min(made, _typeset(workplace, content | {"scale": scale}), key=_pages)
        return made


def _typeset(workplace: Path, content: dict[str, Any]) -> bytes:
    text = json.dumps(content, ensure_ascii=False)
    try:
        return _compiled(workplace, text)
    except typst.TypstError:
        # PDF/UA refuses a letter that no font on this machine has (a Chinese series name, say): write its code instead.
        return _compiled(workplace, _with_codes(text))


def _pages(pdf: bytes) -> int:
    """Pages of a PDF file as typst writes them: each its own object outside of any stream."""
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


def _compiled(workplace: Path, content: str) -> bytes:
    (workplace / "document.json").write_text(content, encoding="utf-8")
    compiled = typst.compile(
        str(workplace / _MAIN), root=str(workplace), font_paths=[str(_font_folder())], pdf_standards="ua-1"
    )
    if not isinstance(compiled, bytes):
        raise TypeError(f"typst returned {type(compiled).__name__}")
    return compiled


def _font_folder() -> Path:
    """Where matplotlib keeps its DejaVu Sans."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def _with_codes(text: str) -> str:
    """`text` with ``[U+8170]`` in place of every letter that DejaVu Sans lacks."""
    known = FT2Font(str(_font_folder() / "DejaVuSans.ttf")).get_charmap()
    return "".join(
        letter if ord(letter) in known or letter in "\n\r\t" else f"[U+{ord(letter):04X}]" for letter in text
    )


def _content(record: StudyRecord, folder: Path, workplace: Path, language: str) -> dict[str, Any]:
    """The document as data for the layout, its pictures copied to the workplace under plain names."""
    words = load_language(language)
    document = compose(record, language=language)
    content = asdict(document)
    for section, source in zip(content["sections"], document.sections, strict=True):
        for part, block in zip(section["blocks"], source.blocks, strict=True):
            if isinstance(block, Pictures):
                items = [_picture(item, folder, workplace, words) for item in block.items]
                part["groups"] = _side_by_side(items)
                del part["items"]
    return content


def _picture(item: DocumentPicture, folder: Path, workplace: Path, words: Language) -> dict[str, Any]:
    path = picture_path(folder, item.file)
    copied = ""
    if path is not None:
        copied = f"picture-{item.number}{path.suffix.lower()}"
        shutil.copyfile(path, workplace / copied)
    return {
        "path": copied,
        "missing": words("text.figures_missing", file=item.file),
        "label": words("text.figure", number=item.number),
        "caption": item.caption,
        "alt": item.alt,
        "width_mm": item.width_mm,
    }


def _side_by_side(items: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Pictures in rows: as many beside one another as fit the width of the text."""
    groups: list[list[dict[str, Any]]] = []
    used_mm = _TEXT_WIDTH_MM
    for item in items:
        if used_mm + _GAP_MM + item["width_mm"] > _TEXT_WIDTH_MM:
            groups.append([item])
            used_mm = item["width_mm"]
        else:
            groups[-1].append(item)
            used_mm += _GAP_MM + item["width_mm"]
    return groups
