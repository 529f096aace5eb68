"""How the scripts of this folder write a page: tables, wrapped text, and the parts of a page that a script owns."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Iterable

from ciao_peft.study.report import Table
from ciao_peft.study.report.contents import Section

WIDTH = 120  # of a line of text
SCREEN = 110  # of a row of a table


def wrapped(text: str, indent: str = "", first: str = "") -> str:
    """One paragraph in lines of `WIDTH`; no line starts with a sign that would make it an item of a list.

    Args:
        indent: Of every line but the first.
        first: Of the first line.
    """
    bound = " ".join(text.split()).replace(" %", "\0%")
    for sign in ("+", "-", "*", "#"):
        bound = bound.replace(f" {sign} ", f"\0{sign} ")
    lines = textwrap.fill(
        bound, WIDTH, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )
    return lines.replace("\0", " ")


def wrap_page(page: str) -> str:
    """Wraps the paragraphs and items of a page that have a line longer than `WIDTH`; tables and code stay."""
    blocks, fenced = [], False
    for block in page.rstrip().split("\n\n"):
        keep = fenced or block.startswith(("|", "    ", "#", "<!--", "```"))
        fenced ^= block.count("```") % 2 == 1
        if not keep and max(map(len, block.splitlines()), default=0) > WIDTH:
            parts = re.split(r"\n(?= *- )", block) if block.startswith("- ") else [block]
            block = "\n".join(_item(part) for part in parts)
        blocks.append(block)
    return "\n\n".join(blocks) + "\n"


def _item(text: str) -> str:
    """An item of a list, nested or not, or a plain paragraph."""
    before = " " * (len(text) - len(text.lstrip()))
    return wrapped(text, before + "  ", before) if text.lstrip().startswith("- ") else wrapped(text)


def command_block(command: str) -> str:
    """A command as a block of code, broken before its flags where it is longer than a screen."""
    lines = [""]
    for word in re.split(r" (?=--)", command):
        if lines[-1] and len(lines[-1]) + len(word) + 7 > SCREEN:
            lines.append("   ")
        lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return "    " + " \\\n    ".join(lines)


def narrow(section: Section) -> Section:
    """The section with each table that is wider than a screen taken apart, the names of its rows repeated."""
    parts: list = []
    for part in section.parts:
        if isinstance(part, Section):
            parts.append(narrow(part))
        elif isinstance(part, Table):
            parts += _split(part)
        else:
            parts.append(part)
    return dataclasses.replace(section, parts=tuple(parts))


def _split(wide: Table) -> list[Table]:
    names = _naming_columns(wide)
    groups: list[list[int]] = [list(range(names))]
    for column in range(names, len(wide.header)):
        if len(groups[-1]) > names and _width(wide, [*groups[-1], column]) > SCREEN:
            groups.append(list(range(names)))
        groups[-1].append(column)
    split = [
        Table(
            wide.title + ", continued" * (number > 0),
            tuple(wide.header[column] for column in columns),
            tuple(tuple(row[column] for column in columns) for row in wide.rows),
        )
        for number, columns in enumerate(groups)
    ]
    return [*split[:-1], dataclasses.replace(split[-1], note=wide.note)]


def _naming_columns(wide: Table) -> int:
    """How many of the first columns it takes to tell the rows apart."""
    for count in range(1, len(wide.header)):
        if len({tuple(cell.text for cell in row[:count]) for row in wide.rows}) == len(wide.rows):
            return count
    return 1


def _width(wide: Table, columns: list[int]) -> int:
    def length(texts: Iterable[str]) -> int:
        return sum(len(text) + 3 for text in texts) + 1

    rows = ([row[column].text + "****" * row[column].strong for column in columns] for row in wide.rows)
    return max(map(length, [[wide.header[column] for column in columns], *rows]))


def fill(page: str, name: str, content: str) -> str:
    """Puts content between the two marks of that name."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, rest = page.split(start)
    return before + start + "\n" + content + "\n" + end + rest.split(end)[1]


def between(page: str, begin: str, end: str, content: str) -> str:
    """Puts content between two marks, in place of what is there; at the end of a page without them."""
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{content}\n{end}{rest.partition(end)[2]}"
