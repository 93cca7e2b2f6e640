"""A report as data: sections of paragraphs, tables, lists and pictures, without any markup.

`reports.compose` writes it from a record, `reports.html` and `reports.pdf` lay it out. Since both lay out the same document,
they cannot say different things, and since all text is plain text until a layout escapes it, nothing in a record can break out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Align = Literal["left", "right"]


@dataclass(frozen=True)
class Paragraph:
    """Running text; `kind` is ``lead`` for the answer, ``note`` for small print."""

    text: str
    kind: Literal["plain", "lead", "note"] = "plain"
    block: Literal["paragraph"] = "paragraph"


@dataclass(frozen=True)
class Bullets:
    """A list of sentences; the first part of an item, if any, is its emphasised head."""

    items: tuple[tuple[str, str], ...]
    block: Literal["bullets"] = "bullets"


@dataclass(frozen=True)
class Column:
    """Head of a table column: title, unit below it, alignment, share of the width."""

    title: str
    unit: str = ""
    align: Align = "left"
    share: float = 1.0


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes
    ----------
    cells : tuple of str
        One for each column; or a first cell and one text that takes the rest of the row (`spans`).
    spans : bool
        True when the second cell spans all columns but the first.
    kind : str
        ``group`` for a heading inside the table, ``remark`` for a line that belongs to the row above.
    """

    cells: tuple[str, ...]
    spans: bool = False
    kind: Literal["plain", "group", "remark"] = "plain"


@dataclass(frozen=True)
class Table:
    """A table with a head; the first column names the row."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    block: Literal["table"] = "table"

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != (2 if row.spans else 1 if row.kind == "group" else len(self.columns)):
                raise ValueError(f"row with {len(row.cells)} cells in a table of {len(self.columns)} columns")


@dataclass(frozen=True)
class Terms:
    """A list of terms with their texts; `boxed` sets it apart from the findings, `numbered` has short terms like [12]."""

    title: str
    items: tuple[tuple[str, str], ...]
    boxed: bool = False
    numbered: bool = False
    block: Literal["terms"] = "terms"


@dataclass(frozen=True)
class DocumentPicture:
    """A numbered picture: file beside the record, printed width, caption and text for readers who do not see it."""

    number: int
    file: str
    caption: str
    alt: str
    width_mm: float


@dataclass(frozen=True)
class Pictures:
    """Pictures in order; two narrow ones in a row stand side by side."""

    items: tuple[DocumentPicture, ...]
    block: Literal["pictures"] = "pictures"


Block = Paragraph | Bullets | Table | Terms | Pictures


@dataclass(frozen=True)
class Section:
    """A titled part; `id` is its anchor."""

    id: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A whole report."""

    language: str
    title: str
    marks: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    footer: str
