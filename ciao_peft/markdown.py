"""A table in Markdown, as cards, reports and pages write it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["markdown_table"]

_BARE_BAR = re.compile(r"(?<!\\)((?:\\\\)*)\|")  # a bar that no backslash escapes yet


def markdown_table(head: Sequence[object], rows: Iterable[Sequence[object]], align: str = "") -> str:
    r"""Writes a table in Markdown.

    Args:
        head: Titles of the columns.
        rows: Cells of each row. A bar in a cell is escaped and a line break becomes a space; other signs of Markdown
            keep their meaning.
        align: One letter per column, `"l"` for left or `"r"` for right; columns without a letter are aligned left.

    Returns:
        The lines of the table, without a line break at the end.

    Example:
        >>> print(markdown_table(["world", "faces"], [["jaffe", 213], ["a|b", 7]], align="lr"))
        | world | faces |
        | --- | ---: |
        | jaffe | 213 |
        | a\|b | 7 |
    """
    rule = ["---:" if letter == "r" else "---" for letter in align.ljust(len(head))]
    return "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in (head, rule, *rows))


def _cell(value: object) -> str:
    return _BARE_BAR.sub(r"\1\\|", " ".join(str(value).splitlines()))
