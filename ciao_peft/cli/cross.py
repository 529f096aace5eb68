"""`ciao cross`: adapters trained in one world, read in others."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError, listed, quoted
from .data import pair_of
from .flags import add_flag


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `cross`."""
    cross = commands.add_parser(
        "cross",
        help="score adapters in worlds that they were not trained in",
        usage="%(prog)s ADAPTER ... --worlds WORLD ... [--FLAG VALUE ...]",
        description="Prints a table: a row for each adapter, a column for each world, the balanced accuracy in percent "
        "over the classes that both have (their number in brackets). Classes are the same where their names mean the "
        "same.",
    )
    cross.add_argument("adapters", metavar="ADAPTER", nargs="+", help="folders, user/name, or names of `ciao adapters`")
    cross.add_argument(
        "--worlds",
        metavar="WORLD",
        nargs="+",
        required=True,
        help="a world of painted faces (eight, seven, affect, signals), or NAME=DIR with a task of `ciao reproduce "
        "--list`, such as faces=../shared/faces, a dataset of `ciao datasets`, or any name for a folder of classes",
    )
    cross.add_argument("--split", default="test", help="which part of each world is read (default: test)")
    cross.add_argument(
        "--map",
        metavar="LABEL=LABEL",
        action="append",
        default=[],
        help="a label of a world and an adapter's label for it, or nothing to leave it out; may be repeated",
    )
    add_flag(cross, "num_test", type=int, metavar="N", help="painted faces of each world (default: 900)")
    add_flag(cross, "batch_size", type=int, default=128, metavar="N", help="faces read at once (default: 128)")
    cross.add_argument("--json", metavar="FILE", help="write every score to this file, with numbers of faces")
    cross.set_defaults(run=_cross)


def _cross(options: argparse.Namespace) -> None:
    from ..saving.files import refusals_told, to_json, write_file
    from ..study.cross import cross_scores, cross_table
    from .worlds import load_worlds

    names = dict(map(pair_of, options.map))
    worlds = dict(_world(word, options) for word in options.worlds)
    scores = []
    for world in load_worlds(options.adapters):
        world.model.set_adapter(world.adapter_name)
        scores += cross_scores({world.name: world.model}, worlds, names=names, batch_size=options.batch_size)
    print(cross_table(scores))
    if options.json:
        with refusals_told(ConfigError, options.json, "Name another file with --json."):
            write_file(options.json, to_json([dataclasses.asdict(score) for score in scores]))


def _world(word: str, options: argparse.Namespace) -> tuple[str, Any]:
    """The name of a world and its faces."""
    from ..data import list_faces, load_faces
    from ..data.painted_faces import WORLDS
    from ..study import TASKS

    name, equals, folder = word.partition("=")
    settings: dict[str, Any] = {}
    if not equals and name in WORLDS:
        counts = {} if options.num_test is None else {"num_test": options.num_test}
        dataset, settings = "painted_faces", {"world": name, "num_train": 8, "num_validation": 0, **counts}
    elif equals and name in TASKS:
        dataset, settings = TASKS[name].dataset, dict(TASKS[name].options)
    elif equals and name in list_faces():
        dataset = name
    elif equals and Path(folder).is_dir():
        dataset, settings = "imagefolder", {"min_images_per_class": 0}
    else:
        raise ConfigError(
            f"There is no world {quoted(word)}. Worlds: {listed(WORLDS)}; or NAME=DIR with one of "
            f"{listed({*TASKS, *list_faces()})}, or any name and a folder of class folders that is there."
        )
    if settings.get("fold") == "all":
        settings["fold"] = 0
    faces = load_faces(dataset, folder or None, **settings)
    if options.split not in faces:
        raise DataError(f"{word} has no split {quoted(options.split)}. It has: {listed(faces)}.")
    return name, faces[options.split]
