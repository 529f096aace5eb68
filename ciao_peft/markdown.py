"""A table in Markdown, as cards, reports and pages write it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_BARE_BAR = re.compile(r"(?<!\\)((?:\\\\)*)\|")  # a bar that no backslash escapes yet


def markdown_table(head: Sequence[object], rows: Iterable[Sequence[object]], align: str = "") -> str:
    r"""A table in Markdown, without a last line break.

    Args:
        head: What stands above each column.
        rows: Cells; a bar in one is escaped and a line break becomes a space. Other signs of Markdown keep their
            meaning.
        align: One letter a column, `"l"` for left or `"r"` for right; left where it is shorter than `head`.

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
