"""`ciao report`: what a study has measured, as tables, findings and figures."""

from __future__ import annotations

import argparse

from ..errors import ConfigError


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `report`."""
    report = commands.add_parser(
        "report",
        help="tables and figures of a study",
        description="Writes report.html (one page, with all figures in it), report.md and figures/ of a study: the "
        "paper's tables beside its numbers, means, intervals, paired tests, learning curves, confusion matrices, and "
        "what is missing.",
    )
    report.add_argument("folder", metavar="FOLDER", help="of a study, as `ciao reproduce` writes it; or a .jsonl file")
    report.add_argument("--output_dir", metavar="DIR", help="default: FOLDER/report")
    report.add_argument("--title", metavar="TEXT", help="of the report")
    report.add_argument("--no_figures", action="store_true", help="tables alone; matplotlib is not needed then")
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> None:
    from ..study.report.write import write_report

    try:
        report = write_report(options.folder, options.output_dir, title=options.title, figures=not options.no_figures)
    except OSError as error:
        raise ConfigError(f"The report of {options.folder!r} cannot be written: {error}") from error
    print(f"{report.page}\n{report.text}")
    if report.figures:
        print(f"{len(report.figures)} figures in {report.figures[0].parent}")
