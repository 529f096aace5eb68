"""The pages for people: what they point at is there, what scripts write is up to date. Their examples are doctests."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from helpers.places import REPOSITORY

PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("tests/*.md")])
INDEX = REPOSITORY / "docs" / "README.md"
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())


@pytest.fixture
def script(monkeypatch):
    """Imports a script of docs/."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "docs"))
    return importlib.import_module


def without_code(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def links_of(page: Path) -> list[tuple[Path, str]]:
    """The files of this repository that a page links to, each with the anchor in it or an empty text."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    local = [target.partition("#") for target in targets if not re.match(r"[a-z]+:", target)]
    return [((page.parent / path).resolve() if path else page, anchor) for path, _, anchor in local]


def anchors_of(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", without_code(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_every_relative_link_leads_somewhere(page):
    assert [path for path, _ in links_of(page) if not path.exists()] == []


@every_page
def test_every_link_into_a_page_meets_a_heading(page):
    assert [(path.name, anchor) for path, anchor in links_of(page) if anchor and anchor not in anchors_of(path)] == []


@every_page
def test_every_file_named_in_the_text_exists(page):
    paths = re.findall(r"`((?:ciao_peft|docs|examples|tests|benchmarks)/[\w./-]+)`", without_code(page))
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []


@every_page
def test_every_make_target_named_exists(page):
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)) <= targets


@every_page
def test_every_page_is_run_with_the_tests(page):
    places = re.search(
        r"^testpaths = \[(.*)\]$", (REPOSITORY / "pyproject.toml").read_text("utf-8"), flags=re.MULTILINE
    )
    collected = {path for place in re.findall(r'"(.+?)"', places.group(1)) for path in REPOSITORY.glob(place)}
    assert page in collected or ">>>" not in page.read_text(encoding="utf-8")


@every_page
def test_every_python_example_is_python(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        if ">>>" not in block:
            compile(block, page.name, "exec")


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    example = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[1]  # tests/hub/test_bundled.py runs the first
    few = ('world="eight")', f'world="eight", num_train=64, num_validation=8, num_test=8, cache_dir="{tmp_path}")')
    short = ("num_train_epochs=10", 'num_train_epochs=1, report_to="none"')
    for there, instead in (few, short):
        assert there in example
        example = example.replace(there, instead)
    exec(compile(example, "README.md", "exec"), {})
    evaluated, answers = capsys.readouterr().out.strip().splitlines()[-2:]
    assert "eval_accuracy" in evaluated
    assert answers.startswith("{'eight': {")


def test_the_index_leads_to_every_page():
    seen, todo = set(), [INDEX]
    while todo:
        page = todo.pop()
        if page not in seen and page.suffix == ".md":
            seen.add(page)
            todo += [path for path, _ in links_of(page)]
    assert set(REPOSITORY.glob("docs/**/*.md")) <= seen


@pytest.mark.parametrize("page", [page for page in PAGES if "results" in page.as_posix()], ids=lambda page: page.name)
def test_results_fit_on_a_screen(page):
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if not line.startswith("    ")]
    assert max(map(len, lines)) <= 120
    assert max((len(line) for line in lines if line.startswith("|")), default=0) <= 110


def test_the_reference_is_up_to_date(script):
    written = (REPOSITORY / "docs" / "reference.md").read_text(encoding="utf-8")
    assert script("make_reference").page() == written, "`python docs/make_reference.py` writes it"


def test_a_paragraph_is_wrapped_and_no_line_of_it_becomes_an_item(script):
    pages = script("pages")
    for start in range(30):  # wherever a line happens to end
        lines = pages.wrap_page("x" * start + " decision layer + CIAO" * 40).splitlines()
        assert len(lines) > 5
        assert max(map(len, lines)) <= pages.WIDTH
        assert not [line for line in lines if line.startswith("+")]


def test_a_list_in_a_list_stays_one(script):
    long = " ".join(["word"] * 40)
    lines = script("pages").wrap_page(f"- outer {long}:\n  - inner {long}\n  - last\n- outer again").splitlines()
    assert [line for line in lines if "- " in line[:4]] == [lines[0], lines[2], "  - last", "- outer again"]
    assert lines[0].startswith("- outer") and lines[1].startswith("  word")
    assert lines[2].startswith("  - inner") and lines[3].startswith("    word")


def test_code_and_tables_are_not_wrapped(script):
    long = " ".join(["word"] * 40)
    page = f"| {long} |\n\n```\n{long}\n\n{long}\n```\n\n    {long}\n"
    assert script("pages").wrap_page(page) == page


def test_a_wide_table_is_taken_apart_and_names_its_rows_again(script):
    from ciao_peft.study.report import Cell, Table
    from ciao_peft.study.report.contents import Section

    header = ("task", "encoder", *(f"score {n}" for n in range(20)))
    rows = tuple((Cell("faces"), Cell(name), *(Cell(f"{n}.0", n) for n in range(20))) for name in ("one", "two"))
    parts = script("pages").narrow(Section("all", (Table("wide", header, rows, "a note"),))).parts
    assert len(parts) > 1
    assert all(part.header[:2] == ("task", "encoder") for part in parts)
    assert [name for part in parts for name in part.header[2:]] == list(header[2:])
    assert [part.note for part in parts] == [""] * (len(parts) - 1) + ["a note"]


def test_a_long_command_is_broken_before_its_flags(script):
    pages = script("pages")
    words = " ".join(["python examples/train.py", *(f"--flag_{n} a b" for n in range(12))])
    block = pages.command_block(words)
    lines = block.splitlines()
    assert all(len(line) <= 110 for line in lines)
    assert all(line.startswith("        --flag_") for line in lines[1:])
    assert block.replace(" \\\n       ", "") == f"    {words}"


def test_the_cards_in_the_package_are_up_to_date_and_say_licence_and_base(script):
    for path, card in script("make_cards").cards().items():
        assert path.read_text(encoding="utf-8") == card, f"`python docs/make_cards.py` writes {path}"
        head = card.split("---")[1]
        assert re.search(r"^license: \S+$", head, flags=re.MULTILINE)
        is_adapter = "- adapter" in head  # an encoder has no base
        assert bool(re.search(r"^base_model: (dlib|small)-face$", head, flags=re.MULTILINE)) == is_adapter
        assert re.findall(r"\d\.\d{7,}", card) == []
