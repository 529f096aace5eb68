"""`ciao report`: a study's tables, tests, findings and figures, as Markdown and as one HTML page."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ...errors import RecordError
from ...saving import local_path, write_file
from ..analysis.study import Study
from ..plan import Plan
from ..plan_file import PLAN_FILE, read_plan
from ..records import RESULTS_FILE, Record, read_records
from .contents import about, contents, picture_stems
from .figures import check_plots
from .html import as_page
from .markdown import as_markdown

PAGE_FILE = "report.html"
TEXT_FILE = "report.md"
FIGURES_FOLDER = "figures"


class Report(NamedTuple):
    """Where a report was written.

    Args:
        page: The HTML page, with the pictures in it.
        text: The Markdown.
        figures: The pictures that the Markdown shows.
    """

    page: Path
    text: Path
    figures: tuple[Path, ...]


def load_study(source: str | os.PathLike[str] | Iterable[Record], *, plan: Plan | None = None) -> Study:
    """The study in a folder, in a file of records, or in records at hand.

    Args:
        source: A folder of `ciao reproduce`, a `results.jsonl`, or records.
        plan: What was to be trained; when left out, the `plan.yaml` next to the records, if there is one.

    Raises:
        RecordError: there are no records, or none of a test split yet, or one cannot be read.
        ConfigError: the plan cannot be read.

    Example:
        >>> from ciao_peft.study.example import example_records
        >>> load_study(example_records()).pairs
        [('faces', 'small-face')]
    """
    if isinstance(source, (str, os.PathLike)):
        path = local_path(source)
        records = read_records(path)
        plan_file = (path if path.is_dir() else path.parent) / PLAN_FILE
        if plan is None and plan_file.is_file():
            plan = read_plan(plan_file)
        where = repr(str(path))
    else:
        records, where = list(source), "the records given"
    if not records:
        raise RecordError(
            f"There is nothing to report in {where}: no line of a {RESULTS_FILE}. `ciao reproduce --output_dir FOLDER` "
            "trains and writes one."
        )
    study = Study(records, plan)
    if not study.records:
        raise RecordError(
            f"There is nothing to report in {where}: none of its {len(records)} records fits the plan, which asks for "
            "other tasks, encoders, methods, epochs, settings or seeds. Give the plan that they were made for, or go "
            "on with `ciao reproduce`."
        )
    if not study.pairs:
        raise RecordError(
            f"There is nothing to report in {where} yet: its {len(study.records)} trainings are all of learning-rate "
            "searches, none is scored on a test split. `ciao reproduce` goes on where it stopped."
        )
    return study


def write_report(
    source: str | os.PathLike[str] | Iterable[Record],
    output_dir: str | os.PathLike[str] | None = None,
    *,
    plan: Plan | None = None,
    title: str | None = None,
    figures: bool = True,
) -> Report:
    """Writes `report.html`, `report.md` and `figures/`, over those of an earlier report.

    Each file is written aside and moved into place; the same records give the same bytes.

    Args:
        source: A folder of `ciao reproduce`, a `results.jsonl`, or records.
        output_dir: Where to; `report/` in the study's folder when left out.
        plan: What was to be trained; when left out, the `plan.yaml` next to the records, if there is one.
        title: Of the report.
        figures: `False` leaves the pictures out, and matplotlib is not needed.

    Raises:
        RecordError: there are no records, or none of a test split yet, or one cannot be read; or records are given
            without an `output_dir`.
        ConfigError: the plan cannot be read.
        MissingExtraError: matplotlib is missing.

    Example:
        >>> import tempfile
        >>> from ciao_peft.study import Record
        >>> shared = dict(task="faces", dataset="imagefolder", encoder="small-face", encoder_revision="1", split="test")
        >>> shared |= dict(metric="accuracy", method="decision layer", kind="network")
        >>> records = [Record(key=str(n), seed=n, scores={"accuracy": 0.7 + n / 100}, **shared) for n in range(3)]
        >>> report = write_report(records, tempfile.mkdtemp(), figures=False)
        >>> report.page.name, report.text.name, report.figures
        ('report.html', 'report.md', ())
    """
    if figures:
        check_plots()
    from_path = isinstance(source, (str, os.PathLike))
    if output_dir is None:
        if not from_path:
            raise RecordError("`output_dir` says where the report of records at hand goes; got None.")
        folder = local_path(source)
        output_dir = (folder if folder.is_dir() else folder.parent) / "report"
    study = load_study(source, plan=plan)
    made = contents(study, title or "CIAO: report of a study", figures=figures)
    folder = local_path(output_dir)
    pictures = list(made.pictures())
    written = tuple(write_file(folder / FIGURES_FOLDER / picture.name, picture.png) for picture in pictures)
    text = write_file(folder / TEXT_FILE, as_markdown(made, figures=FIGURES_FOLDER))
    page = write_file(folder / PAGE_FILE, as_page(made))
    return Report(page, text, written)


def section_markdown(
    study: Study,
    task: str,
    encoder: str,
    *,
    level: int = 2,
    figures_dir: str | os.PathLike[str] | None = None,
    page_dir: str | os.PathLike[str] | None = None,
) -> str:
    """One task with one encoder as Markdown, for a page of one's own: finding, rankings, tests, searches, pictures.

    Args:
        study: With a result of this pair, see `load_study`.
        task, encoder: Which.
        level: Of the section's heading.
        figures_dir: Where its pictures are written; none are drawn when left out.
        page_dir: The folder of the page, from which it links to the pictures; `figures_dir` when left out.

    Raises:
        RecordError: the study has no result of this pair.
        MissingExtraError: pictures are asked for, and matplotlib is missing.

    Example:
        >>> from ciao_peft.study.example import ENCODER, TASK, example_study
        >>> study = example_study()
        >>> print(section_markdown(study, TASK, ENCODER).splitlines()[0])
        ## faces, small-face
    """
    if (task, encoder) not in study.pairs:
        pairs = "; ".join(f"{name} with {other}" for name, other in study.pairs)
        raise RecordError(f"The study has no result of {task!r} with {encoder!r}. It has: {pairs}.")
    if figures_dir is None:
        return as_markdown(about(study, task, encoder), level=level, figures=None)
    check_plots()
    section = about(study, task, encoder, stem=picture_stems(study)[task, encoder])
    for picture in section.pictures():
        write_file(Path(figures_dir) / picture.name, picture.png)
    seen_from_page = Path(os.path.relpath(figures_dir, page_dir or figures_dir)).as_posix()
    return as_markdown(section, level=level, figures=seen_from_page)
