"""`ciao`: parses the command line, calls the library, prints."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from .._version import __version__
from ..errors import CIAOError
from ..progress import each_told_once
from . import (
    capacity,
    cross,
    data,
    demo,
    encoders,
    evaluate,
    predict,
    report,
    reproduce,
    search,
    sharing,
    suggest,
    train,
    tune,
)
from .arguments import LateParser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line and returns the exit status: 0, or 1 after an error, whose text goes to stderr.

    Args:
        arguments: The words after `ciao`; those of the process when left out.

    Example:
        >>> main(["encoders"])
        dlib-face
        prior_knowledge
        small-face
        vggface2
        0
    """
    if not sys.stderr.isatty():  # `datasets` reads this when it is first imported
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    try:
        options = make_parser().parse_args(arguments)
        with each_told_once("ciao_peft.data"):
            options.run(options)
    except CIAOError as error:
        print(f"ciao: {error}", file=sys.stderr)
        return 1
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The parser of `ciao` with all its commands.

    Example:
        >>> options = make_parser().parse_args(["inspect", "user/ciao-jaffe", "--json"])
        >>> options.source, options.json
        ('user/ciao-jaffe', True)
    """
    parser = argparse.ArgumentParser(prog="ciao", description="Many affective worlds on one frozen face encoder.")
    parser.add_argument("--version", action="version", version=__version__)
    commands: Any = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=LateParser)
    train.add_commands(commands)
    evaluate.add_commands(commands)
    predict.add_commands(commands)
    cross.add_commands(commands)
    suggest.add_commands(commands)
    for name, run, what in (
        ("adapters", _print_adapters, "adapters that are in the package"),
        ("datasets", _print_datasets, "names that load_faces accepts"),
        ("encoders", _print_encoders, "names that load_encoder accepts"),
    ):
        commands.add_parser(name, help=what, description=f"Prints the {what}.").set_defaults(run=run)
    data.add_commands(commands)
    sharing.add_commands(commands)
    encoders.add_commands(commands)
    reproduce.add_commands(commands)
    search.add_commands(commands)
    tune.add_commands(commands)
    report.add_commands(commands)
    demo.add_commands(commands)
    capacity.add_commands(commands)
    return parser


def _print_adapters(options: argparse.Namespace) -> None:
    from ..hub import bundled_adapters

    head = ("name", "encoder", "score", "kB", "answers")
    rows = [
        (
            adapter.name,
            adapter.encoder + (", aligned" if adapter.aligned else ""),
            f"{adapter.metric} {adapter.score:.3f}",
            f"{adapter.num_bytes / 1000:.0f}",
            ", ".join(adapter.labels),
        )
        for adapter in bundled_adapters()
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_datasets(options: argparse.Namespace) -> None:
    from ..data import list_faces

    print("\n".join(list_faces()))


def _print_encoders(options: argparse.Namespace) -> None:
    from ..encoders import list_encoders

    print("\n".join(list_encoders()))
