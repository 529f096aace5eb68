"""Which links of a built site lead nowhere: to no file of it, or to no anchor of a page.

    python .ci/site_links.py site

MkDocs checks the links that are Markdown. This looks at the pages as a browser gets them: notebooks, docstrings and
navigation included. Links to other hosts are left alone.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links and anchors of one page."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.add(value)
            elif name in ("id", "name") and value:
                self.anchors.add(value)


def dead_links(site: Path) -> list[str]:
    """A line for each link that leads nowhere.

    Args:
        site: The folder of the built site.
    """
    # The page for wrong addresses is served at any depth, so that its links begin at the root.
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    dead = [] if pages else [f"{site}: no pages"]
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = there / "index.html" if there.is_dir() else there
            anchor = unquote(parts.fragment)
            if not there.is_file():
                dead.append(f"{path.relative_to(site.resolve())}: no file {link}")
            elif anchor and there in pages and anchor not in pages[there].anchors:
                dead.append(f"{path.relative_to(site.resolve())}: no anchor {link}")
    return dead


if __name__ == "__main__":
    found = dead_links(Path(sys.argv[1]))
    print("\n".join(found) or "Every link of the site leads somewhere.")
    sys.exit(bool(found))
