"""`ciao data ...`: look at datasets."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..errors import ConfigError


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds `data` with its own commands."""
    data = commands.add_parser("data", help="look at datasets", description="Looks at datasets on this machine.")
    inspect = data.add_subparsers(title="commands", required=True, metavar="COMMAND").add_parser(
        "inspect",
        help="what is in a folder, beside what should be",
        description="Counts faces per split and label beside the released ones, and finds damage and duplicates.",
    )
    inspect.add_argument("name", metavar="NAME", help="a dataset's name; `ciao datasets` prints them")
    inspect.add_argument("data_dir", metavar="DIR", nargs="?", help="folder with its files")
    inspect.add_argument("--contact_sheet", metavar="PNG", help="write faces of the first split to this file")
    inspect.add_argument(
        "--setting",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="one of the dataset's own settings, such as label_column=expression or task=dimensional; may be repeated",
    )
    inspect.set_defaults(run=_inspect)


def _inspect(options: argparse.Namespace) -> None:
    from .. import data

    settings = dict(setting_of(text) for text in options.setting)
    print(data.inspect_faces(options.name, options.data_dir, **settings))
    if options.contact_sheet:
        faces = data.load_faces(options.name, options.data_dir, protocol=None, **settings)
        data.contact_sheet(next(iter(faces.values()))).save(options.contact_sheet)
        print(f"Faces: {options.contact_sheet}")


def setting_of(text: str) -> tuple[str, Any]:
    """Name and value of `NAME=VALUE`; numbers, true and false are read as such."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"A setting is written NAME=VALUE, such as label_column=expression; got {text!r}.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
