"""A report as Markdown, with its pictures in files of their own."""

from __future__ import annotations

import re

from ...markdown import markdown_table
from .cells import Cell, Table
from .contents import Listing, Part, Picture, Section
from .text import printable

_MEANT = re.compile(r"[\\`*\[\]|]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<!\w)_|_(?!\w)|~")
_AT_THE_START = re.compile(r"^(\d*)([#>]|[-+=.)](?=\s|$|=|-))")


def escaped(text: str) -> str:
    r"""Text that reads as it is, whatever signs of Markdown or HTML it holds.

    Example:
        >>> escaped("a|b *c* <script> p < 0.001, painted_faces")
        'a\\|b \\*c\\* \\<script> p < 0.001, painted_faces'
    """
    text = _MEANT.sub(lambda sign: "\\" + sign.group(), printable(text))
    return _AT_THE_START.sub(r"\1\\\2", text)  # a heading, a quotation, a point or a numbered one


def as_markdown(section: Section, *, level: int = 1, figures: str | None = "figures") -> str:
    """A section with all that is in it.

    Args:
        section: Of a report.
        level: Of its heading, from 1.
        figures: The folder of the pictures as seen from the page; `None` leaves them out.

    Returns:
        Text that ends with a line break.

    Example:
        >>> print(as_markdown(Section("Small", ("Two words.", Listing(("one", "two"))))))
        # Small
        <BLANKLINE>
        Two words.
        <BLANKLINE>
        - one
        - two
        <BLANKLINE>
    """
    return "\n\n".join(_blocks(section, level, figures)) + "\n"


def _blocks(part: Part, level: int, figures: str | None) -> list[str]:
    if isinstance(part, Section):
        inside = [block for inner in part.parts for block in _blocks(inner, level + 1, figures)]
        return [f"{'#' * min(level, 6)} {escaped(part.title)}", *inside]
    if isinstance(part, Table):
        return [f"**{escaped(part.title)}**", _table(part), *([escaped(part.note)] if part.note else [])]
    if isinstance(part, Picture):
        return [] if figures is None else [f"![{escaped(part.alt)}]({figures}/{part.name})"]
    if isinstance(part, Listing):
        return ["\n".join(f"- {escaped(item)}" for item in part.items)]
    return [escaped(part)]


def _table(table: Table) -> str:
    align = "".join("r" if right else "l" for right in table.numeric)
    return markdown_table(
        [escaped(name) for name in table.header], [[_cell(cell) for cell in row] for row in table.rows], align
    )


def _cell(cell: Cell) -> str:
    return f"**{escaped(cell.text)}**" if cell.strong and cell.text else escaped(cell.text)
