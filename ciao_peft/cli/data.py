"""`ciao data ...` looks at datasets, `ciao align` writes aligned copies."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..door import parse_json
from ..errors import ConfigError, FileReadError

if TYPE_CHECKING:
    from datasets import Dataset


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `data` with its own commands, and `align`."""
    data = commands.add_parser("data", help="look at datasets", description="Looks at datasets on this machine.")
    inspect = data.add_subparsers(title="commands", required=True, metavar="COMMAND").add_parser(
        "inspect",
        help="compare the faces in a folder with the released dataset",
        description="Counts the faces of each split and label, compares the counts with the released ones, and finds "
        "damaged and duplicate files.",
    )
    inspect.add_argument("name", metavar="NAME", help="the dataset's name; `ciao datasets` prints all names")
    inspect.add_argument("data_dir", metavar="DIR", nargs="?", help="the folder with its files")
    inspect.add_argument("--contact_sheet", metavar="PNG", help="write faces of the first split to this file")
    inspect.add_argument(
        "--setting",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="one of the dataset's own settings, such as label_column=expression or task=dimensional; may be repeated",
    )
    inspect.set_defaults(run=_inspect)
    align = commands.add_parser(
        "align",
        help="write aligned copies of a folder of faces",
        description="Writes a copy of each picture with its face turned, scaled and shifted as dlib does; names, "
        "folders and other files stay. Models with Preprocessing(align=...) take such copies as they are.",
    )
    align.add_argument("source", metavar="FOLDER", help="holds the pictures: JPEG, PNG or WebP")
    align.add_argument("target", metavar="COPY", help="the folder to write, which must not exist yet")
    align.add_argument("--size", type=int, default=150, metavar="N", help="side of a copy in pixels (default: 150)")
    align.add_argument(
        "--padding",
        type=float,
        default=0.25,
        metavar="X",
        help="around the box of the mean face, in sides of the box (default: 0.25)",
    )
    align.add_argument(
        "--missing",
        default="whole",
        choices=["whole", "skip", "error"],
        help="what happens to a picture without landmarks (default: whole, it is copied as it is)",
    )
    align.add_argument(
        "--detector",
        metavar="NAME",
        help="find the face first: haar, or a YuNet .onnx file (default: the face fills the picture)",
    )
    align.set_defaults(run=_align)


def _align(options: argparse.Namespace) -> None:
    from ..preprocessing import Alignment

    settings: dict[str, Any] = {"size": options.size, "padding": options.padding}
    if options.detector:
        from ..data import FaceLocalizer, located_landmarks

        settings["landmarks"] = located_landmarks(FaceLocalizer(options.detector), Path(options.detector).name)
    from ..data import align_folder

    alignment = Alignment(**settings)
    done = align_folder(options.source, options.target, alignment, missing=options.missing)
    print(f"copies        {done.pictures:,} of {options.size} x {options.size} pixels")
    what = {"whole": "used whole", "skip": "left out", "error": "refused"}[options.missing]
    few = f": {', '.join(done.missing[:3])}{' ...' if len(done.missing) > 3 else ''}" if done.missing else ""
    print(f"no landmarks  {len(done.missing):,}, {what}{few}")
    print(f"other files   {done.others:,}")
    print(f"align         {alignment.mark}")


def _inspect(options: argparse.Namespace) -> None:
    from .. import data

    settings = dict(setting_of(text) for text in options.setting)
    if taken := sorted({"name", "data_dir"} & set(settings)):
        raise ConfigError(f"{taken[0]!r} is no setting but an argument: ciao data inspect NAME DIR.")
    if options.contact_sheet:
        _check_picture(Path(options.contact_sheet))
    print(data.inspect_faces(options.name, options.data_dir, **settings))
    if options.contact_sheet:
        builder = data.dataset_builder(options.name)(data_dir=options.data_dir, **settings)
        builder.tells_left_out = False  # the page has said it
        builder.download_and_prepare()
        sheet = data.contact_sheet(cast("Dataset", next(iter(builder.as_dataset().values()))))
        try:
            sheet.save(options.contact_sheet)
        except OSError as error:
            raise ConfigError(f"The contact sheet cannot be written to {options.contact_sheet!r}: {error}.") from error
        print(f"Faces: {options.contact_sheet}")


def _check_picture(path: Path) -> None:
    """Checks that a picture can be written there, before hours of looking at faces."""
    from PIL import Image

    Image.init()
    known = [suffix for suffix, kind in Image.EXTENSION.items() if kind in Image.SAVE]
    if path.suffix.lower() not in known:
        raise ConfigError(f"The contact sheet is a picture, such as faces.png; got {str(path)!r}.")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        what = "is a folder" if path.is_dir() else f"lies in {str(path.parent)!r}, which is no folder to write to"
        raise ConfigError(f"The contact sheet cannot be written: {str(path)!r} {what}.")


def setting_of(text: str) -> tuple[str, Any]:
    """Name and value of `NAME=VALUE`; numbers, true and false are read as such.

    Args:
        text: A word of the command line.

    Raises:
        ConfigError: it has no name or no `=`.

    Example:
        >>> setting_of("fold=0"), setting_of("label_column=mood")
        (('fold', 0), ('label_column', 'mood'))
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"A setting is written NAME=VALUE, such as label_column=expression; got {text!r}.")
    try:
        return name, parse_json(value)
    except FileReadError:
        return name, value


def pair_of(text: str, flag: str = "--map") -> tuple[str, str | None]:
    """The two labels of `--map LABEL=LABEL`; `None` for a second one that is not there.

    Args:
        text: A word of the command line.
        flag: What it was given to.

    Raises:
        ConfigError: it is no pair.

    Example:
        >>> pair_of("joyful=happiness"), pair_of("bored=")
        (('joyful', 'happiness'), ('bored', None))
    """
    label, equals, other = text.partition("=")
    if not label or not equals:
        raise ConfigError(f"`{flag}` takes LABEL=LABEL, such as joyful=happiness; got {text!r}.")
    return label, other or None
