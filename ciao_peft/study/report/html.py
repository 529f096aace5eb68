"""A report as one HTML page that needs nothing else: no other file, no network."""

from __future__ import annotations

import base64
import hashlib
import html
import struct

from .contents import Listing, Part, Picture, Section
from .tables import Cell, Table
from .text import printable

STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --soft: #5d6470; --back: #ffffff; --line: #d9dde3; --shade: #f3f5f8;
  --mark: #fdf1e7; --link: #0b62b0; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8eb; --soft: #a2a9b4; --back: #16181c; --line: #363b43;
  --shade: #20242a; --mark: #3a2a1c; --link: #7db8f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1.25rem 4rem; background: var(--back); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.3rem; margin: 2.75rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3, summary { font-size: 1.05rem; font-weight: 600; }
h1, h2, h3, p, li, td, th, summary { overflow-wrap: break-word; }
p, ul { max-width: 48rem; }
a { color: var(--link); }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; margin: 0 0 1.5rem; padding: 0;
  max-width: none; }
.table { overflow-x: auto; margin: 1.5rem 0 0; }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; font-size: 1rem; padding-bottom: .4rem; }
th, td { padding: .3rem .45rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
td.long { white-space: normal; min-width: 16rem; }
thead th { background: var(--shade); vertical-align: bottom; }
.number { text-align: right; }
tr.marked td { background: var(--mark); }
thead button { font: inherit; color: inherit; background: none; border: 0; padding: 0; text-align: inherit;
  cursor: pointer; }
thead button::after { content: "\\2195"; color: var(--soft); opacity: .45; padding-left: .25rem; }
[aria-sort=ascending] button::after { content: "\\2191"; opacity: 1; }
[aria-sort=descending] button::after { content: "\\2193"; opacity: 1; }
.note, figcaption { color: var(--soft); font-size: .85rem; max-width: 48rem; margin: .4rem 0 0; }
figure { margin: 1.75rem 0 0; }
img { display: block; max-width: 100%; height: auto; background: #ffffff; border: 1px solid var(--line);
  border-radius: 6px; padding: .5rem; }
details { margin-top: 1.75rem; }
summary { cursor: pointer; }
"""

# Without it the tables are in the order in which they were written.
SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const body = table.tBodies[0], cell = row => row.cells[column];
      const key = row => cell(row).dataset.value;
      const numeric = [...body.rows].some(row => key(row) !== undefined);
      const was = head.getAttribute("aria-sort");
      const up = was ? was === "descending" : !numeric;
      table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const order = (a, b) => {
        if (!numeric) return cell(a).textContent.localeCompare(cell(b).textContent, undefined, {numeric: true});
        return key(a) - key(b);
      };
      const there = [...body.rows].filter(row => !numeric || key(row) !== undefined);
      const absent = [...body.rows].filter(row => numeric && key(row) === undefined);
      there.sort((a, b) => up ? order(a, b) : order(b, a));
      body.append(...there, ...absent);
    });
  });
}
"""

_LONG = 40  # characters from which on a cell may break into lines
_SHORT = 10  # and up to which a column's name may not


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
    title = escaped(report.title)
    sections = [part for part in report.parts if isinstance(part, Section)]
    names = {id(part): f"part-{number}" for number, part in enumerate(sections, start=1)}
    links = "".join(f'<li><a href="#{names[id(part)]}">{escaped(part.title)}</a></li>' for part in sections)
    body = "\n".join(_block(part, 2, names) for part in report.parts)
    rules = f"default-src 'none'; img-src data:; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{rules}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<header><h1>{title}</h1></header>
<nav aria-label="Parts"><ul>{links}</ul></nav>
<main>
{body}
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def escaped(text: str) -> str:
    """Text for an element or an attribute in double quotes."""
    return html.escape(printable(text))


def _hash(text: str) -> str:
    """What a page says of the one style and the one script that its browser may use."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _block(part: Part, level: int, names: dict[int, str]) -> str:
    if isinstance(part, Section):
        inside = "\n".join(_block(one, level + 1, names) for one in part.parts)
        if part.folded:
            return f"<details><summary>{escaped(part.title)}</summary>\n{inside}\n</details>"
        name = f' id="{names[id(part)]}"' if id(part) in names else ""
        return f"<section{name}>\n<h{level}>{escaped(part.title)}</h{level}>\n{inside}\n</section>"
    if isinstance(part, Table):
        return _table(part)
    if isinstance(part, Picture):
        return _picture(part)
    if isinstance(part, Listing):
        return "<ul>" + "".join(f"<li>{escaped(item)}</li>" for item in part.items) + "</ul>"
    return f"<p>{escaped(part)}</p>"


def _table(table: Table) -> str:
    numeric = [any(row[column].value is not None for row in table.rows) for column in range(len(table.header))]
    head = "".join(
        f'<th scope="col"{_class("number") if right else ""}>{_column_name(name)}</th>'
        for name, right in zip(table.header, numeric, strict=True)
    )
    rows = []
    for row in table.rows:
        marked = _class("marked") if row[0].strong else ""
        cells = "".join(_cell(cell, right) for cell, right in zip(row, numeric, strict=True))
        rows.append(f"<tr{marked}>{cells}</tr>")
    note = f'<p class="note">{escaped(table.note)}</p>' if table.note else ""
    # Focusable, so that the keys scroll it where it is wider than the page.
    return (
        f'<div class="table" tabindex="0" role="group" aria-label="{escaped(table.title)}"><table>'
        f"<caption>{escaped(table.title)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(rows)
        + f"\n</tbody></table></div>\n{note}"
    )


def _column_name(name: str) -> str:
    return escaped(name).replace(" ", "&nbsp;") if len(name) <= _SHORT else escaped(name)


def _class(name: str) -> str:
    return f' class="{name}"'


def _cell(cell: Cell, right: bool) -> str:
    value = "" if cell.value is None else f' data-value="{cell.value:.10g}"'
    kind = _class("number") if right else _class("long") if len(cell.text) > _LONG else ""
    text = escaped(cell.text)
    return f"<td{kind}{value}>{f'<strong>{text}</strong>' if cell.strong else text}</td>"


def _picture(picture: Picture) -> str:
    width, height = size_of(picture.png)
    data = base64.b64encode(picture.png).decode()
    text = escaped(picture.alt)
    return (
        f'<figure><img src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{text}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height out of a PNG's first chunk."""
    return struct.unpack(">II", png[16:24])
