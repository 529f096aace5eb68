"""What the site adds to the pages: navigation, changelog, API, links. `make docs-site` builds it as a whole."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.places import REPOSITORY


@pytest.fixture
def site(monkeypatch):
    """Imports a file of .ci/."""
    monkeypatch.syspath_prepend(str(REPOSITORY / ".ci"))
    monkeypatch.syspath_prepend(str(REPOSITORY / "docs"))
    return importlib.import_module


def pages_in(entry) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [page for part in parts for page in pages_in(part)]


def test_the_navigation_leads_to_every_page_of_docs_once(site):
    pages = pages_in(site("site_pages").navigation())
    there = {path.relative_to(REPOSITORY / "docs").as_posix() for path in REPOSITORY.glob("docs/**/*.md")}
    there |= {f"notebooks/{path.name}" for path in REPOSITORY.glob("docs/notebooks/*.py")}
    assert there <= set(pages)
    assert len(pages) == len(set(pages))
    assert {"changelog.md", "tests.md", "api/ciao_peft.trainer.md"} <= set(pages) - there


def test_the_api_has_every_public_name_of_a_room(site):
    pages = site("site_pages").api_pages()
    for room in ("ciao_peft", "ciao_peft.encoders"):
        names = importlib.import_module(room).__all__
        there = {line.strip().removeprefix("- ") for line in pages[f"api/{room}.md"].splitlines()}
        assert set(names) - set(importlib.import_module("ciao_peft").__all__ if room != "ciao_peft" else ()) <= there


@pytest.mark.parametrize(
    ("page", "link", "leads_to"),
    [
        ("docs/README.md", "../CHANGELOG.md", "changelog.md"),
        ("docs/contributing.md", "../tests/README.md#helpers", "tests.md#helpers"),
        ("docs/publishing.md", "../ciao_peft/encoders/weights/dlib_face.md", "cards/dlib-face.md"),
        ("docs/howto/small.md", "../method.md#losses", "../method.md#losses"),
        ("docs/method.md", "#losses", "#losses"),
        ("docs/method.md", "pk.png", "pk.png"),
        ("CHANGELOG.md", "docs/architecture.md", "architecture.md"),
    ],
)
def test_links_that_work_in_the_repository_work_in_the_site(site, page, link, leads_to):
    folder = Path(page).parent
    place = folder.relative_to("docs") if page.startswith("docs/") else Path()
    assert site("site_pages").led_here(f"see [it]({link}).", folder, place) == f"see [it]({leads_to})."


def test_an_address_elsewhere_is_left_alone(site):
    assert site("site_pages").led_here("[x](mailto:a@b.c)", Path("docs"), Path()) == "[x](mailto:a@b.c)"


def test_examples_with_a_prompt_are_shown_as_a_session(site):
    page = SimpleNamespace(file=SimpleNamespace(src_uri="method.md", generated_by=None))
    shown = site("site_pages").on_page_markdown("```python\n>>> 1\n1\n```\n\n```python\nx = 1\n```\n", page)
    assert shown == "```pycon\n>>> 1\n1\n```\n\n```python\nx = 1\n```\n"


def test_a_formula_on_its_own_lines_scrolls_where_it_is_wide(site):
    pytest.importorskip("latex2mathml", reason="comes with the extra docs")
    page = SimpleNamespace(file=SimpleNamespace(src_uri="method.md"))
    shown = site("site_pages").on_page_content(
        r'<div class="arithmatex">\[a &lt; b\]</div> and <span class="arithmatex">\(c\)</span>', page, files=None
    )
    assert shown.startswith('<div class="formula"><math') and shown.count('class="formula"') == 1
    assert "arithmatex" not in shown and ".formula" in (REPOSITORY / "docs" / "site.css").read_text(encoding="utf-8")


def test_dead_links_are_found(site, tmp_path):
    dead_links = site("site_links").dead_links
    (tmp_path / "a").mkdir()
    (tmp_path / "index.html").write_text('<a href="a/">x</a><a href="a/#there">x</a><a href="https://x/">x</a>')
    (tmp_path / "a" / "index.html").write_text('<h1 id="there">x</h1><a href="..">x</a><img src="../no.png">')
    assert dead_links(tmp_path) == ["a/index.html: no file ../no.png"]
    (tmp_path / "a" / "index.html").write_text('<h1 id="else">x</h1>')
    assert dead_links(tmp_path) == ["index.html: no anchor a/#there"]


def test_a_site_without_pages_is_no_site(site, tmp_path):
    assert site("site_links").dead_links(tmp_path) == [f"{tmp_path}: no pages"]
