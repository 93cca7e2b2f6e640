"""A drawn figure as a file: rasterised, and in the language of the report."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import ScalarFormatter

MM_PER_INCH = 25.4
DPI = 200
MAX_PIXELS = 2_400_000
"""A taller picture is drawn with fewer dots per inch."""

_SMOOTH_TEXT = {"text.hinting": "none"}
"""Letters as wide as in the font: drawn on whole pixels they are a tenth wider, and unevenly spaced."""

Said = Callable[[str], str]
"""From what is written in a picture to the language of the report."""


@dataclass(frozen=True)
class Picture:
    """A finished picture.

    Attributes
    ----------
    id : str
        ``spine``; also the stem of its file name.
    png : bytes
    caption : str
        What it shows, as printed under it.
    alt : str
        The same for readers who do not see it, with the numbers that it carries.
    width_mm : float
        At which it is printed.
    """

    id: str
    png: bytes
    caption: str
    alt: str
    width_mm: float

    @property
    def height_mm(self) -> float:
        """Printed height."""
        width, height = struct.unpack(">II", self.png[16:24])  # the header of every PNG file
        return float(self.width_mm * height / width)


def as_picture(figure: Figure, name: str, *, caption: str, alt: str, said: Said | None = None) -> Picture:
    """The figure as PNG, with at most `MAX_PIXELS`.

    Parameters
    ----------
    figure, name, caption, alt
    said : callable, optional
        From what is written in the picture to another language. Caption and alternative text go into the record, which is kept
        in English; the report translates them.
    """
    if said is not None:
        _translate(figure, said)
    width_in, height_in = figure.get_size_inches()
    dpi = min(DPI, (MAX_PIXELS / (width_in * height_in)) ** 0.5)
    stream = io.BytesIO()
    with matplotlib.rc_context(_SMOOTH_TEXT):
        figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return Picture(name, stream.getvalue(), caption, alt, float(width_in * MM_PER_INCH))


def lay_out(figure: Figure) -> None:
    """Bring all parts of a figure to the place where they will be drawn, so that they can be measured."""
    with matplotlib.rc_context(_SMOOTH_TEXT):
        figure.draw_without_rendering()


class _SaidFormatter(ScalarFormatter):
    """Numbers at the ticks with the decimal mark of the language."""

    def __init__(self, said: Said) -> None:
        super().__init__()
        self._said = said

    def __call__(self, x: float, pos: int | None = None) -> str:
        return self._said(super().__call__(x, pos))


def _translate(figure: Figure, said: Said) -> None:
    """Every word in a drawn figure, line by line as many lines as before; numbers at ticks as the language writes them."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if type(axis.get_major_formatter()) is ScalarFormatter:
                axis.set_major_formatter(_SaidFormatter(said))
    for text in figure.findobj(Text):
        written = text.get_text()
        if written:
            lines = written.count("\n") + 1
            joined = " ".join(written.split("\n"))
            translated = said(joined) if said(joined) != joined else said(written)
            if translated not in (joined, written):
                text.set_text(translated if "\n" in translated else "\n".join(_in_lines(translated, lines)))


def _in_lines(words: str, count: int) -> list[str]:
    """`words` in at most `count` lines of about the same length."""
    aim = len(words) / count
    lines = [""]
    for word in words.split():
        if lines[-1] and len(lines) < count and len(lines[-1]) + len(word) / 2 > aim:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
