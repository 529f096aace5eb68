"""`ciao report`: a page that needs nothing else, a text, and their pictures."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ciao_peft.cli import main
from ciao_peft.errors import ConfigError, MissingExtraError, RecordError
from ciao_peft.study import Encoder, Plan, Record, Task, append_record, methods_named, write_plan
from ciao_peft.study.analysis.study import CIAO, Study
from ciao_peft.study.report import Cell, Table, load_study, section_markdown, write_report
from ciao_peft.study.report.contents import Listing, Picture, Section
from ciao_peft.study.report.html import as_page, size_of
from ciao_peft.study.report.markdown import as_markdown, escaped
from helpers.studies import HEAD, painted_study, record, records, searched

pytest.importorskip("matplotlib")
PAIR = ("faces", "small-face")
VOID = {"meta", "img", "br", "hr", "link", "input"}
EVIL = "<script>alert('1')</script>|*\" onload=\"x"


class Page(HTMLParser):
    """What a browser would see: refuses elements that are not closed in order, and gathers the rest."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> list[str]:
        return [data for name, data in self.texts if name == tag]


def written(path: Path, lines: list[Record]) -> Path:
    """A study's folder."""
    for line in lines:
        append_record(path / "results.jsonl", line)
    return path


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory):
    """The report of a study with everything."""
    folder = written(tmp_path_factory.mktemp("study"), painted_study(2))
    return write_report(folder)


# -- the page ----------------------------------------------------------------------------------------------------------


def test_a_page_is_well_formed_and_its_parts_are_linked(full):
    page = Page(full.page.read_text(encoding="utf-8"))
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))
    assert [attributes["href"] for attributes in page.of("a")] == [f"#{name}" for name in names]
    assert page.text("h2") == ["faces, small-face", "What is missing", "How it was made"]


def test_a_page_loads_nothing(full):
    page = Page(full.page.read_text(encoding="utf-8"))
    loads = [
        (tag, value)
        for tag, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "srcset", "href", "action", "data", "poster", "background")
    ]
    assert all(value.startswith(("#", "data:image/png;base64,")) for _, value in loads)
    assert not page.of("link") + page.of("iframe") + page.of("object")
    assert not re.search(
        r"@import|url\(|https?:|fetch\(|XMLHttpRequest", "".join(page.text("style") + page.text("script"))
    )
    assert not any(name.startswith("on") or name == "style" for _, given in page.elements for name in given)


def test_a_page_forbids_its_browser_all_but_its_own_style_script_and_pictures(full):
    page = Page(full.page.read_text(encoding="utf-8"))
    (rules,) = [a["content"] for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    digests = [
        base64.b64encode(hashlib.sha256("".join(page.text(tag)).encode()).digest()).decode()
        for tag in ("style", "script")
    ]
    expected = f"default-src 'none'; img-src data:; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'"
    assert rules == expected


def test_the_pictures_of_a_page_are_those_beside_the_text(full):
    page = Page(full.page.read_text(encoding="utf-8"))
    inside = [base64.b64decode(attributes["src"].partition(",")[2]) for attributes in page.of("img")]
    assert inside == [path.read_bytes() for path in full.figures]
    assert [path.name.rpartition("-")[2] for path in full.figures] == [
        "scores.png",
        "parameters.png",
        "curves.png",
        "confusion.png",
    ]
    for attributes, png in zip(page.of("img"), inside, strict=True):
        assert png.startswith(b"\x89PNG")
        assert len(png) > 5000
        assert size_of(png) == (int(attributes["width"]), int(attributes["height"]))
        assert attributes["alt"]


def test_a_page_is_small_enough_to_send(full):
    assert full.page.stat().st_size < 500_000


def test_every_method_is_named_on_the_page_and_in_the_text(full):
    page, text = full.page.read_text(encoding="utf-8"), full.text.read_text(encoding="utf-8")
    for line in painted_study(2):
        assert line.method in page
        assert line.method in text


def test_columns_of_numbers_carry_what_they_are_sorted_by():
    table = Table("t", ("name", "score"), ((Cell("a"), Cell("80.5 ± 0.4", 0.8051)), (Cell("b"), Cell("–"))), "a note")
    page = Page(as_page(Section("r", (table,))))
    assert [cell.get("data-value") for cell in page.of("td")] == [None, "0.8051", None, None]
    assert [cell.get("class") for cell in page.of("th")] == [None, "number"]
    assert page.text("caption") == ["t"]


@pytest.mark.parametrize("figures", [True, False])
def test_names_cannot_become_markup(tmp_path, figures):
    lines = records(
        {EVIL: [0.5, 0.6], CIAO: [0.7, 0.8]}, task=EVIL, encoder=EVIL, labels=[EVIL, "b"], confusion=[[1, 0], [0, 1]]
    )
    lines = [dataclasses.replace(line, versions={EVIL: EVIL}, config={EVIL: EVIL}) for line in lines]
    report = write_report(lines, tmp_path, title=EVIL, figures=figures)
    page = Page(report.page.read_text(encoding="utf-8"))
    assert len(page.of("script")) == 1
    assert not any("onload" in attributes for _, attributes in page.elements)
    assert page.text("h1") == [EVIL]
    assert EVIL in "".join(page.text("td"))
    text = report.text.read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)<script", text)
    for row in (line for line in text.splitlines() if line.startswith("| ")):
        assert row.endswith(" |")
    assert [path.parent.name for path in report.figures] == ["figures"] * len(report.figures)


def test_hostile_text_reads_as_it_is_wherever_it_stands():
    png = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    )
    short = "<i>&'\""
    table = Table(EVIL, (EVIL, short), ((Cell(EVIL, 1.0, strong=True), Cell(EVIL)),), EVIL)
    parts = (EVIL, table, Picture("p.png", EVIL, png), Listing((EVIL,)), Section(EVIL, (EVIL,), folded=True))
    text = as_page(Section(EVIL, (*parts, Section(EVIL, parts))))
    page = Page(text)
    assert {tag for tag, _ in page.elements} & {"script", "i"} == {"script"}
    assert len(page.of("script")) == 1
    assert not any("onload" in attributes for _, attributes in page.elements)
    for tag in ("title", "h1", "h2", "a", "p", "caption", "strong", "td", "figcaption", "li", "summary"):
        assert EVIL in page.text(tag), tag
    assert page.text("th") == [EVIL, short] * 2
    assert [attributes["alt"] for attributes in page.of("img")] == [EVIL] * 2
    assert [attributes["aria-label"] for attributes in page.of("div")] == [EVIL] * 2
    body = text.partition("</style>")[2].partition("<script>")[0]
    assert not re.search(r"<i>|<script|[^=]\"x|&(?!amp;|lt;|gt;|nbsp;|#39;|#34;)", body)


@pytest.mark.parametrize("name", ["a\x00b", "a\ud800b"])
def test_what_cannot_be_shown_is_replaced_on_the_page(name):
    page = as_page(Section(name, (name, Table(name, (name,), ((Cell(name),),)))))
    assert page.count("a\ufffdb") == 7  # title, h1, p, aria-label, caption, th, td
    page.encode()


def test_the_names_of_narrow_columns_stay_on_one_line():
    page = as_page(Section("r", (Table("t", ("of mask", "of the whole network"), ((Cell("a"), Cell("b")),)),)))
    assert ">of&nbsp;mask<" in page
    assert ">of the whole network<" in page


def test_the_tables_of_the_text_have_as_many_cells_as_columns(tmp_path):
    report = write_report(records({EVIL: [0.5, 0.6], CIAO: [0.7, 0.8]}, task="a|b"), tmp_path, figures=False)
    blocks = [block for block in report.text.read_text(encoding="utf-8").split("\n\n") if block.startswith("|")]
    assert blocks
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in block.splitlines()}) == 1


# -- the text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# no heading", "\\# no heading"),
        ("- no point", "\\- no point"),
        ("1. no number", "1\\. no number"),
        ("−1.5 points", "−1.5 points"),
        ("snake_case and _it_", "snake_case and \\_it\\_"),
        ("p < 0.001", "p < 0.001"),
        ("<b>", "\\<b>"),
        ("a & b &amp; c", "a & b \\&amp; c"),
        ("[x](y) `z` \\", "\\[x\\](y) \\`z\\` \\\\"),
        ("two\nlines", "two lines"),
    ],
)
def test_markdown_reads_as_it_is(text, expected):
    assert escaped(text) == expected


def test_headings_go_down_level_by_level():
    inner = Section("b", (Listing(("x",)),), folded=True)
    assert as_markdown(Section("a", (inner,)), level=2) == "## a\n\n### b\n\n- x\n"


def test_the_text_shows_the_pictures_that_were_written(full):
    links = re.findall(r"\]\(([^)]+)\)", full.text.read_text(encoding="utf-8"))
    assert [full.text.parent / link for link in links] == list(full.figures)


# -- sections for other pages ------------------------------------------------------------------------------------------


def test_a_section_stands_alone_with_its_pictures_beside_the_page(tmp_path):
    study = Study(painted_study(2, ablations=False))
    text = section_markdown(
        study, *PAIR, level=3, figures_dir=tmp_path / "docs" / "results", page_dir=tmp_path / "docs"
    )
    assert text.startswith("### faces, small-face\n\nWith the encoder frozen")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links[0] == "results/faces-small-face-scores.png"
    assert all((tmp_path / "docs" / link).is_file() for link in links)
    assert "**Networks and baselines**" in text
    assert "#### Paired tests" in text
    assert "**Learning-rate searches**" in text


def test_a_section_without_pictures_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = section_markdown(Study(records({CIAO: [0.8, 0.9], HEAD: [0.7, 0.75]})), *PAIR)
    assert "![" not in text
    assert list(tmp_path.iterdir()) == []


def test_a_section_of_an_unknown_pair_lists_those_there_are():
    with pytest.raises(RecordError, match=r"no result of 'fer' with 'small-face'\. It has: faces with small-face"):
        section_markdown(Study(records({HEAD: [0.5]})), "fer", "small-face")


# -- studies with gaps -------------------------------------------------------------------------------------------------

LABELS = ["arousal", "valence"]
GAPS = {
    "one training": [record(HEAD, 0, 0.5)],
    "one seed": records({HEAD: [0.5], CIAO: [0.6], "LoRA r=4": [0.7]}),
    "some networks": records({"full + CIAO": [0.5, 0.6], "last convolution": [0.5, 0.5]}),
    "only baselines": records({"mine": [0.5, 0.6], "yours": [0.4, 0.5]}),
    "only ablations": records({"CIAO, additive": [0.5, 0.6]}),
    "concordance": records(
        {HEAD: [0.3, 0.4], CIAO: [0.5, 0.6]}, metric="concordance", labels=LABELS,
        scores={"concordance_arousal": 0.4, "concordance_valence": 0.5, "rmse": 0.3},
    ),
    "macro F1": records({HEAD: [0.3, 0.4], CIAO: [0.5, 0.6]}, metric="macro_f1", scores={"f1_a": 0.2}),
    "a search of which all diverged": [*searched(CIAO, {0.01: None, 0.03: None}), record(HEAD, 0, 0.5)],
    "a search that is not done": [*searched(CIAO, {0.01: 0.5}), record(HEAD, 0, 0.5)],
    "two metrics": [record(HEAD, 0, 0.5), record(CIAO, 0, 0.5, metric="macro_f1")],
    "perfect scores": records({HEAD: [1.0, 1.0], CIAO: [1.0, 1.0]}),
    "two tasks that share letters": [record(HEAD, 0, 0.5, task="a/b"), record(HEAD, 0, 0.5, task="a b")],
}  # fmt: skip


@pytest.mark.parametrize("lines", GAPS.values(), ids=GAPS)
def test_a_study_with_gaps_has_a_report(tmp_path, lines):
    report = write_report(lines, tmp_path)
    text = report.page.read_text(encoding="utf-8")
    Page(text)
    assert not re.search(r"\b(None|inf|nan)\b", re.sub(r'src="[^"]*"', "", text))
    assert len(report.figures) == len(set(report.figures))


def test_what_is_missing_is_said(tmp_path):
    plan = Plan(
        tasks=(Task(name="faces", dataset="imagefolder"), Task(name="fer", dataset="fer2013")),
        encoders=(Encoder(name="small-face"),),
        methods=methods_named([HEAD, CIAO]),
        seeds=2,
        epochs=3,
    )
    folder = written(tmp_path, [record(HEAD, 0, 0.5)])
    write_plan(plan, folder / "plan.yaml")
    text = write_report(folder, figures=False).text.read_text(encoding="utf-8")
    assert "- fer: nothing was trained on it." in text
    assert "- faces, small-face: decision layer has 1 of 2 seeds (1 missing)." in text
    assert "- faces, small-face: no training of decision layer + CIAO." in text


def test_records_of_which_none_fits_the_plan_are_an_error(tmp_path):
    folder = written(tmp_path, [record(HEAD, 0, 0.5, epochs=9.0)])
    tasks, encoders = (Task(name="faces", dataset="imagefolder"),), (Encoder(name="small-face"),)
    write_plan(Plan(tasks=tasks, encoders=encoders, methods=methods_named([HEAD]), epochs=3), folder / "plan.yaml")
    with pytest.raises(RecordError, match="none of its 1 records fits the plan"):
        write_report(folder, figures=False)


# -- writing -----------------------------------------------------------------------------------------------------------


def test_the_same_records_give_the_same_report(tmp_path):
    lines = records({HEAD: [0.3, 0.4], CIAO: [0.5, 0.6]})
    one, other = (write_report(lines, tmp_path / name) for name in "ab")
    for first, second in zip((one.page, one.text, *one.figures), (other.page, other.text, *other.figures), strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_a_report_that_cannot_be_finished_leaves_the_earlier_one(tmp_path, monkeypatch):
    report = write_report(records({HEAD: [0.5]}), tmp_path, figures=False)
    before = report.page.read_bytes()

    write = Path.write_bytes

    def full_disk(self, content):
        write(self, content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_report(records({HEAD: [0.9]}), tmp_path, figures=False)
    monkeypatch.undo()
    assert report.page.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["report.html", "report.md"]


def test_whoever_reads_an_earlier_report_keeps_all_of_it(tmp_path):
    report = write_report(records({HEAD: [0.5]}), tmp_path, figures=False)
    before = report.page.read_bytes()
    with report.page.open("rb") as reader:
        write_report(records({HEAD: [0.9]}), tmp_path, figures=False)
        assert reader.read() == before != report.page.read_bytes()


def test_records_without_a_folder_need_one():
    with pytest.raises(RecordError, match="`output_dir`"):
        write_report(records({HEAD: [0.5]}))


@pytest.mark.parametrize(
    ("lines", "said"), [([], "no line of a results.jsonl"), (searched(HEAD, {0.01: 0.5, 0.1: 0.6}), "none is scored")]
)
def test_a_study_without_results_is_an_error(tmp_path, lines, said):
    folder = written(tmp_path, lines)
    with pytest.raises(RecordError, match=said):
        write_report(folder)
    assert not (folder / "report").exists()


def test_a_damaged_plan_is_an_error(tmp_path):
    folder = written(tmp_path, [record(HEAD, 0, 0.5)])
    (folder / "plan.yaml").write_text("tasks: {fer: {dataset: fer2013, colour: red}}\n")
    with pytest.raises(ConfigError, match="'colour'"):
        write_report(folder, figures=False)


def test_a_file_of_records_is_reported_beside_it(tmp_path):
    folder = written(tmp_path, [record(HEAD, 0, 0.5)])
    os.rename(folder / "results.jsonl", folder / "mine.jsonl")
    assert write_report(folder / "mine.jsonl", figures=False).page == folder / "report" / "report.html"
    assert load_study(folder / "mine.jsonl").pairs == [PAIR]


def test_without_matplotlib_tables_can_still_be_had(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    lines = records({HEAD: [0.5, 0.6]})
    with pytest.raises(MissingExtraError, match=r"ciao_peft\[study\]"):
        write_report(lines, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert write_report(lines, tmp_path / "b", figures=False).figures == ()


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_says_where_everything_is(tmp_path, capsys):
    folder = written(tmp_path / "study", records({HEAD: [0.5, 0.6], CIAO: [0.6, 0.7]}))
    assert main(["report", str(folder), "--output_dir", str(tmp_path / "out"), "--title", "Mine"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [str(tmp_path / "out" / "report.html"), str(tmp_path / "out" / "report.md")]
    assert lines[2] == f"2 figures in {tmp_path / 'out' / 'figures'}"
    assert Page(Path(lines[0]).read_text(encoding="utf-8")).text("h1") == ["Mine"]


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    assert main(["report", str(tmp_path / "nowhere")]) == 1
    assert "ciao reproduce --output_dir" in capsys.readouterr().err
    folder = written(tmp_path / "study", [record(HEAD, 0, 0.5)])
    (folder / "report").write_text("a file where the folder would be")
    assert main(["report", str(folder), "--no_figures"]) == 1
    assert "cannot be written" in capsys.readouterr().err
    with (folder / "results.jsonl").open("a") as file:
        file.write(json.dumps({"format_version": 99}) + "\n")
    assert main(["report", str(folder), "--no_figures"]) == 1
    assert "line 2" in capsys.readouterr().err
