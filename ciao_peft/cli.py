"""`ciao`: parse, call the library, print."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from . import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line and returns the exit status.

    Args:
        arguments: Words after `ciao`; those of the process when left out.

    Example:
        >>> main(["datasets"])
        imagefolder
        painted_faces
        0
    """
    parser = argparse.ArgumentParser(prog="ciao", description="Many affective worlds on one frozen face encoder.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, run, what in (
        ("datasets", _print_datasets, "names that load_faces knows"),
        ("encoders", _print_encoders, "names that load_encoder knows"),
    ):
        commands.add_parser(name, help=what, description=f"Prints the {what}.").set_defaults(run=run)
    parser.parse_args(arguments).run()
    return 0


def _print_datasets() -> None:
    from .data import list_faces

    print("\n".join(list_faces()))


def _print_encoders() -> None:
    from .encoders import list_encoders

    print("\n".join(list_encoders()))
