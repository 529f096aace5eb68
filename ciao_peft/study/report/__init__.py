"""A study as a page, a text, tables and figures."""

from __future__ import annotations

from .cells import Cell, Table
from .contents import Listing, Picture, Section, about, contents
from .html import as_page
from .markdown import as_markdown
from .paper_tables import parameters, table_one, table_two
from .tables import headlines, ranking
from .text import finding, missing, spread
from .write import Report, load_study, section_markdown, write_report

__all__ = [
    "Cell",
    "Listing",
    "Picture",
    "Report",
    "Section",
    "Table",
    "about",
    "as_markdown",
    "as_page",
    "contents",
    "finding",
    "headlines",
    "load_study",
    "missing",
    "parameters",
    "ranking",
    "section_markdown",
    "spread",
    "table_one",
    "table_two",
    "write_report",
]
