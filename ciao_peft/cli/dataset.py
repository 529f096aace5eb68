"""The flags that choose a dataset, shared by the commands that read labelled faces."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DataNotFoundError, quoted
from .data import pair_of, setting_of
from .flags import add_flag

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

__all__ = ["add_dataset_flags", "dataset_label", "faces_from", "settings_of_faces", "unlabelled_from"]

_SETTINGS: dict[str, tuple[type, str]] = {
    "world": (str, "which labels painted faces get: eight, seven, affect or signals (default: eight)"),
    "task": (str, "what is labelled: categorical, dimensional or both (affectnet), labels or valence (emoreact)"),
    "mode": (str, "what the votes of ferplus become: majority, probability, crossentropy or multi_target"),
    "protocol": (str, "how the faces are split, such as k-fold; docs/datasets.md lists the protocols of each dataset"),
    "fold": (str, "which fold of the protocol is tested on, by number or name (default: 0)"),
    "image_column": (str, "the table's column with the names of the picture files, relative to the folder"),
    "label_column": (str, "the table's column with the label, or several joined with commas (default: label)"),
    "split_column": (str, "the table's column with the splits, such as train and test, or with whole numbers of folds"),
    "test_fraction": (float, "hold out this share of the faces as the test split, such as 0.2"),
    "group_by": (str, "the table's column with the people, so that nobody is in both parts"),
    "num_train": (int, "how many painted faces to learn from (default: 3000)"),
    "num_test": (int, "how many painted faces to be tested on (default: 900)"),
    "min_images_per_class": (
        int,
        "classes with fewer training images are left out and named; 0 keeps all (default: 20)",
    ),
    "frames_per_clip": (int, "frames taken of each video, spread evenly over it (default: 10)"),
}


def add_dataset_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `faces_from` reads.

    Args:
        parser: The parser of a command.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> add_dataset_flags(parser)
        >>> parser.parse_args(["--world", "affect"]).world
        'affect'
    """
    faces = parser.add_argument_group("faces")
    faces.add_argument(
        "--dataset",
        metavar="NAME",
        help="one of `ciao datasets` (default: table with --csv; imagefolder or videofolder, by what lies in it, with "
        "--data_dir; else painted_faces)",
    )
    add_flag(faces, "data_dir", metavar="DIR", help="the folder of the dataset, such as one with train/ and test/")
    faces.add_argument(
        "--csv",
        metavar="FILE",
        nargs="+",
        help="a table of pictures (.csv, .tsv, .jsonl, .parquet), or one for each split as train=FILE test=FILE",
    )
    for name, (kind, text) in _SETTINGS.items():
        add_flag(faces, name, type=kind, help=text)
    add_flag(
        faces,
        "label_map",
        metavar="LABEL=LABEL",
        action="append",
        help="a class of the table or folder and what it is called, or nothing to leave it out; may be repeated",
    )
    faces.add_argument(
        "--setting",
        metavar="NAME=VALUE",
        action="append",
        help="any other setting of the dataset, such as contempt=false; may be repeated",
    )


def faces_from(options: argparse.Namespace, *, small_classes: bool = False) -> DatasetDict:
    """Loads the faces that the flags of `add_dataset_flags` name.

    Args:
        options: What was parsed.
        small_classes: Whether a folder's or table's classes of few faces stay where no flag says so.

    Raises:
        ConfigError: a setting is given twice.
        DataError: as for `load_faces`.
    """
    from ..data import load_faces

    name, settings = settings_of_faces(options)
    if small_classes and name in _OWN:
        settings.setdefault("min_images_per_class", 0)
    return load_faces(name, options.data_dir, streaming=False, **settings)


def settings_of_faces(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The name of the dataset that the flags of `add_dataset_flags` choose, and its settings for `load_faces`.

    Args:
        options: What was parsed.

    Raises:
        ConfigError: a setting is given twice.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> add_dataset_flags(parser)
        >>> settings_of_faces(parser.parse_args(["--world", "affect", "--setting", "size=32"]))
        ('painted_faces', {'world': 'affect', 'size': 32})
    """
    # A setting that was not given stays away: the defaults are the library's.
    settings: dict[str, Any] = {
        name: getattr(options, name) for name in _SETTINGS if getattr(options, name) is not None
    }
    if options.csv:
        settings["csv"] = _tables(options.csv)
    if options.label_map:
        settings["label_map"] = dict(pair_of(text, "--label_map") for text in options.label_map)
    for name, value in map(setting_of, options.setting or []):
        if name in settings or name in ("name", "data_dir", "streaming"):
            raise ConfigError(f"`--setting {name}=...` is said by a flag of its own: --{name}.")
        settings[name] = value
    return _name(options), settings


def unlabelled_from(folder: str) -> Dataset:
    """The pictures that lie in a folder, without labels.

    Args:
        folder: Holds the pictures themselves, not folders of them.

    Raises:
        DataNotFoundError: there is no such folder, or no picture in it.
    """
    from datasets import Dataset, Image

    from ..prediction import pictures_in

    if not Path(folder).is_dir():
        raise DataNotFoundError(f"--unlabelled {quoted(folder)} is no folder. Give one that holds pictures.")
    files = {"image": [str(path) for path in pictures_in(folder)]}
    return Dataset.from_dict(files).cast_column("image", Image(mode="RGB"))


def dataset_label(options: argparse.Namespace) -> str:
    """What a model card calls the faces: the name of a folder of one's own, or the dataset's name.

    Args:
        options: What was parsed.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> add_dataset_flags(parser)
        >>> dataset_label(parser.parse_args(["--world", "affect"]))
        'painted_faces affect'
        >>> dataset_label(parser.parse_args(["--data_dir", "data/moods"]))
        'moods'
    """
    name = _name(options)
    own = Path(options.data_dir).resolve().name if name in _OWN and options.data_dir else name
    if name == "table" and not options.data_dir and options.csv:
        own = Path(options.csv[0].rpartition("=")[2]).stem
    return " ".join(filter(None, [own, options.world]))


_OWN = ("imagefolder", "videofolder", "table")  # whose cards name the folder


def _name(options: argparse.Namespace) -> Any:
    if options.dataset or options.csv:
        return options.dataset or "table"
    return _kind_of_folder(options.data_dir) if options.data_dir else "painted_faces"


def _kind_of_folder(folder: str) -> str:
    """Whether a folder holds pictures or videos, by the first of them that is found."""
    from ..data.builder import IMAGE_SUFFIXES, VIDEO_SUFFIXES

    for _, folders, files in os.walk(os.path.expanduser(folder)):
        folders.sort()
        found = [name.lower() for name in files if not name.startswith(".")]
        if any(name.endswith(IMAGE_SUFFIXES) for name in found):
            break
        if any(name.endswith(VIDEO_SUFFIXES) for name in found):
            return "videofolder"
    return "imagefolder"


def _tables(words: list[str]) -> str | dict[str, str]:
    """One table, or one for each split."""
    pairs = [word.partition("=") for word in words]
    if len(words) == 1 and not (pairs[0][1] and pairs[0][0] in ("train", "validation", "test")):
        return words[0]
    if not all(split and equals and path for split, equals, path in pairs):
        raise ConfigError(f"Several tables are given as train=FILE test=FILE; got {' '.join(words)!r}.")
    if len(tables := {split: path for split, _, path in pairs}) < len(words):
        raise ConfigError(f"`--csv` names two tables for one split: {' '.join(words)!r}.")
    return tables
