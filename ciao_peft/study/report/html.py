"""A report as one HTML page that needs nothing else, no other file and no network: `templates/`, filled in by Jinja."""

from __future__ import annotations

import base64
import hashlib
import struct
from functools import cache
from typing import TYPE_CHECKING, Any

from .cells import Table
from .contents import Listing, Picture, Section
from .text import printable

if TYPE_CHECKING:
    from jinja2 import Environment


def as_page(report: Section) -> str:
    """The whole page.

    Nothing is loaded: style and script are in it, pictures are data, and the page itself forbids the browser all else.
    Whatever names came out of the records is shown as text.

    Args:
        report: What `contents` gives.

    Example:
        >>> page = as_page(Section("Small & safe", ("<b>not bold</b>",)))
        >>> "<h1>Small &amp; safe</h1>" in page, "<p>&lt;b&gt;not bold&lt;/b&gt;</p>" in page
        (True, True)
    """
    return _environment().get_template("report.html.jinja").render(report=report)


@cache
def _environment() -> Environment:
    """The templates: every expression of theirs is escaped, and shown without what cannot be printed."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    def finalize(value: Any) -> Any:
        return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value

    environment = Environment(
        loader=PackageLoader(__name__.rpartition(".")[0]),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    kinds = {"section": Section, "table": Table, "picture": Picture, "listing": Listing}
    environment.tests |= {name: lambda part, kind=kind: isinstance(part, kind) for name, kind in kinds.items()}
    environment.filters |= {
        "base64": lambda png: base64.b64encode(png).decode(),
        "printable": printable,
        "sha256": lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode(),
        "size": size_of,
    }
    return environment


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height out of a PNG's first chunk.

    Example:
        >>> from ciao_peft.drawing import as_png, blank_figure
        >>> size_of(as_png(blank_figure(2, 1), 100))
        (200, 100)
    """
    return struct.unpack(">II", png[16:24])
