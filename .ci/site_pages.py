"""What the site has beside the pages of docs/: its navigation, the API from docstrings, and pages from other folders.

MkDocs calls these functions while it builds (`hooks` in mkdocs.yml). The pages stay as they are: their relative links
work where they lie, and the few that lead out of docs/ are led to a page of the site.
"""

from __future__ import annotations

import re
import sys
from html import unescape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
CARDS = {"dlib-face": "cards/dlib-face.md", "small-face": "cards/small-face.md"}
ELSEWHERE = {  # a file of the repository: its page here
    "CHANGELOG.md": "changelog.md",
    "tests/README.md": "tests.md",
    **{f"ciao_peft/encoders/weights/{name.replace('-', '_')}.md": page for name, page in CARDS.items()},
}


def api_pages() -> dict[str, str]:
    """A page for each room: its public names, with their docstrings."""
    sys.path.insert(0, str(DOCS))
    from make_reference import rooms

    return {f"api/{room}.md": api_page(room, names) for room, names in (rooms() | {"ciao_peft.errors": []}).items()}


def api_page(room: str, names: list[str]) -> str:
    """What mkdocstrings makes a page of; all of a module where no names are given."""
    options = ["show_root_heading: false", *(["members:"] if names else []), *(f"- {name}" for name in names)]
    return "\n".join([f"# {room}", "", f"::: {room}", "    options:", *(f"      {line}" for line in options), ""])


def navigation() -> list[Any]:
    """What docs/README.md lists, under its headings; the results have their pages below them, the reference the API."""
    found: list[Any] = [{"Home": "README.md"}]
    for line in (DOCS / "README.md").read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"\*\*(.+)\*\*", line):
            found.append({heading[1]: []})
        for title, link in re.findall(r"^- \[(.+?)\]\((.+?)\)", line):
            page = ELSEWHERE.get(link.removeprefix("../"), link)
            below = sorted(path.relative_to(DOCS).as_posix() for path in (DOCS / Path(page).stem).glob("*.md"))
            entry = {title: [page, *below] if below else page}
            next(iter(found[-1].values())).append(entry)
    api = {"API": [{Path(page).stem: page} for page in api_pages()]}
    cards = {"Model cards": [{name: page} for name, page in CARDS.items()]}
    next(one for one in found if "Reference" in one)["Reference"][1:1] = [api, cards]
    found[-1]["Taking part"].append({"The tests": ELSEWHERE["tests/README.md"]})
    return found


def on_config(config: Any) -> Any:
    config["nav"] = navigation()
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    pages = api_pages()
    for source, page in ELSEWHERE.items():
        pages[page] = led_here((ROOT / source).read_text(encoding="utf-8"), Path(source).parent, Path())
    for page, content in pages.items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    place = Path(page.file.src_uri).parent
    if page.file.generated_by is None:
        markdown = led_here(markdown, Path("docs") / place, place)
    return re.sub(r"^```python(?=\n>>>)", "```pycon", markdown, flags=re.MULTILINE)


def on_page_content(html: str, page: Any, files: Any, **_: Any) -> str:
    """Formulas become MathML, which browsers draw by themselves.

    Notebooks come as HTML, in which MkDocs leads no link from a source to its page.
    """
    html = re.sub(
        r'<(?:div|span) class="arithmatex">\\([\[(])(.+?)\\[\])]</(?:div|span)>', drawn, html, flags=re.DOTALL
    )
    if not page.file.src_uri.startswith("notebooks/"):
        return html

    def lead(match: re.Match[str]) -> str:
        there = files.get_file_from_path((DOCS / "notebooks" / match[1]).resolve().relative_to(DOCS).as_posix())
        return f'href="{there.url_relative_to(page.file)}"'

    led = re.sub(r'href="([\w./]+\.(?:md|py))"', lead, html)
    return (
        f'<p><a href="{Path(page.file.src_uri).stem}.ipynb" download>This page as a notebook for Jupyter</a></p>{led}'
    )


def drawn(formula: re.Match[str]) -> str:
    """A formula in LaTeX as MathML; one on lines of its own scrolls where it is wider than a phone."""
    from latex2mathml.converter import convert

    if formula[1] == "[":
        return f'<div class="formula">{convert(unescape(formula[2]), display="block")}</div>'
    return convert(unescape(formula[2]), display="inline")


def on_post_build(config: Any) -> None:
    """Puts each notebook next to its page, as a file for Jupyter."""
    import jupytext

    for source in (DOCS / "notebooks").glob("*.py"):
        jupytext.write(
            jupytext.read(source), Path(config["site_dir"]) / "notebooks" / source.stem / f"{source.stem}.ipynb"
        )


def led_here(markdown: str, folder: Path, place: Path) -> str:
    """The page with its links to files of the repository led to pages of the site.

    Args:
        markdown: The page.
        folder: Where it lies in the repository.
        place: Where it lies in the site.
    """

    def lead(match: re.Match[str]) -> str:
        link, _, anchor = match[1].partition("#")
        if not link or re.match(r"[a-z]+:", link):
            return match[0]
        there = (ROOT / folder / link).resolve().relative_to(ROOT).as_posix()
        here = ELSEWHERE.get(there, there.removeprefix("docs/"))
        return f"]({'../' * len(place.parts)}{here}{'#' * bool(anchor)}{anchor})"

    return re.sub(r"\]\(([^)\s]+)\)", lead, markdown)
