"""Flags in one spelling, and help that shows no other."""

from __future__ import annotations

import argparse
from typing import Any


def add_flag(parser: argparse._ActionsContainer, name: str, **settings: Any) -> None:
    """Adds `--snake_case`; `--snake-case`, as some flags were once written, is still accepted and not shown.

    Args:
        parser: Gets the flag; a group of flags of a parser, too.
        name: The flag's name without dashes at its start, such as `create_pr`.
        settings: Passed to `add_argument`.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> add_flag(parser, "create_pr", action="store_true", help="open a pull request")
        >>> parser.parse_args(["--create-pr"]).create_pr, "--create-pr" in parser.format_help()
        (True, False)
    """
    parser.add_argument(f"--{name}", **settings)
    if "_" not in name:
        return
    hidden = {**settings, "help": argparse.SUPPRESS, "default": argparse.SUPPRESS}
    parser.add_argument(f"--{name.replace('_', '-')}", dest=name, **hidden)
