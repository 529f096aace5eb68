"""Fills this package's own templates; every value is escaped on its way into the page."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["escape_markdown", "render"]


def render(template: str, **values: Any) -> str:
    """Fills a template of this package.

    Args:
        template: Its file name.
        **values: Its values; every one is needed.

    Returns:
        Markdown.

    Raises:
        jinja2.UndefinedError: a value is missing.

    Example:
        >>> render("collection.md.jinja", title="worlds", card_file="README.md", subfolders=["fer"]).splitlines()[-1]
        "- [`fer`](fer/README.md): `subfolder='fer'`"
    """
    return _environment().get_template(template).render(values).strip()


def escape_markdown(value: Any) -> str:
    """Turns a value into one line that can start neither a table cell nor HTML nor a mark around one of our parts.

    Example:
        >>> escape_markdown("a | b <!-- c")
        'a \\\\| b &lt;!-- c'
    """
    return " ".join(str(value).split()).replace("<", "&lt;").replace("|", "\\|")


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # Templates come from this folder alone, and `finalize` sees whatever they print.
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        finalize=escape_markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
