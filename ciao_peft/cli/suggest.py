"""`ciao suggest`: which faces to label next."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DataError, quoted
from .arguments import LateParser
from .flags import add_flag

if TYPE_CHECKING:
    from ..model import CIAOModel


def add_commands(commands: argparse._SubParsersAction[LateParser]) -> None:
    """Adds `suggest`."""
    suggest = commands.add_parser(
        "suggest",
        help="say which faces to label next",
        usage="%(prog)s DATA [--adapter ADAPTER] [--num N] [--FLAG VALUE ...]",
        description="Chooses the faces of a folder whose labels would teach an adapter most, and writes a table with "
        "an empty column for the labels, and a sheet of the faces.\n\n"
        "    ciao suggest faces --num 40 --output_dir runs/ask\n"
        "    ciao train --csv runs/ask/to_label.csv --data_dir faces --test_fraction 0.2 --min_images_per_class 0\n"
        "    ciao suggest faces --adapter runs/train/adapter --labelled runs/ask/to_label.csv --output_dir runs/ask",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    suggest.fill = _add_flags
    suggest.set_defaults(run=_suggest)


def _add_flags(parser: LateParser) -> None:
    from ..suggestions import STRATEGIES
    from ..suggestions.suggesting import DEFAULT, NEAR

    parser.add_argument("data", metavar="DATA", help="a folder of faces, with the folders in it")
    parser.add_argument("--adapter", metavar="ADAPTER", help="a folder, user/name, or a name of `ciao adapters`")
    parser.add_argument("--num", type=int, default=20, metavar="N", help="faces to suggest (default: 20)")
    parser.add_argument(
        "--strategy",
        choices=STRATEGIES,
        metavar="|".join(STRATEGIES),
        default=DEFAULT,
        help="how to choose (default: %(default)s)",
    )
    parser.add_argument(
        "--labelled", metavar="TABLE", help="a table of faces of DATA that have labels; its rows follow in the new one"
    )
    add_flag(parser, "label_column", metavar="NAME", help="its column of labels, or several joined with commas")
    add_flag(parser, "image_column", metavar="NAME", help="its column of files, relative to DATA")
    parser.add_argument(
        "--near",
        type=float,
        default=NEAR,
        metavar="X",
        help="how alike two faces are of which one is passed over, 0 to 1 (default: %(default)s)",
    )
    parser.add_argument("--encoder", default="small-face", help="without an adapter: what sees (default: %(default)s)")
    parser.add_argument("--align", choices=["five-points"], help="without an adapter: turn and shift faces")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (default: 0)")
    add_flag(parser, "batch_size", type=int, default=64, metavar="N", help="faces read at once (default: 64)")
    add_flag(parser, "output_dir", default="runs/suggest", metavar="DIR", help="where (default: %(default)s)")


def _suggest(options: argparse.Namespace) -> None:
    from ..saving import local_path
    from ..suggestions import labelled_rows, save_suggestions, suggest
    from ..suggestions.reading import pictures_below
    from ..suggestions.unlabelled import still_to_label, told

    data, output = Path(os.path.normpath(Path(options.data).expanduser())), local_path(options.output_dir)
    if output.resolve().is_relative_to(data.resolve()):
        raise ConfigError(f"`--output_dir` {quoted(str(output))} lies among the faces; name a folder outside of them.")
    every = pictures_below(data)
    model, name = _model(options)
    columns = _label_columns(options, model, name)
    paths, passed_over = still_to_label(data, every, columns if options.label_column else None)
    earlier = None
    if options.labelled:
        earlier = labelled_rows(options.labelled, columns, image_column=options.image_column)
        if earlier.left_out:
            print(f"ciao: left out of {options.labelled}: {earlier.left_out}", file=sys.stderr)
    rows = () if earlier is None else earlier.rows
    known = [os.path.normpath(data / row["file_name"]) for row in rows]
    if away := [row["file_name"] for row, path in zip(rows, known, strict=True) if not _lies_in(path, data)]:
        raise DataError(
            f"{quoted(options.labelled)} names {len(away)} files outside of {quoted(str(data))}, {quoted(away[0])} "
            "first; labelled faces are those of the folder."
        )
    if missing := [row["file_name"] for row, path in zip(rows, known, strict=True) if not os.path.isfile(path)]:
        raise DataError(
            f"{quoted(options.labelled)} names {len(missing)} files that are not in {quoted(str(data))}, "
            f"{quoted(missing[0])} first."
        )
    left = sorted({os.path.normpath(path) for path in paths} - set(known))
    tests = set() if earlier is None else {os.path.normpath(data / name) for name in earlier.of_tests}
    if count := len(tests & {*left}):
        passed_over[f"are of a test in {options.labelled}"] = count
        left = [path for path in left if path not in tests]
    if not left and passed_over:
        raise DataError(
            f"None of {len(every)} faces of {quoted(str(data))} is to be labelled: {told(passed_over)}. Where another "
            "column holds the labels, name it: `--label_column`."
        )
    if not left:
        raise DataError(f"All {len(paths)} faces of {quoted(str(data))} have labels in {quoted(options.labelled)}.")
    settings: dict[str, Any] = {"strategy": options.strategy, "near": options.near, "seed": options.seed}
    found = suggest(model, left, options.num, labelled=known, batch_size=options.batch_size, **settings)

    def inside(path: str | None) -> str:
        return Path(str(path)).relative_to(data).as_posix()

    found = dataclasses.replace(
        found,
        chosen=tuple(dataclasses.replace(one, file_name=inside(one.file_name)) for one in found),
        unreadable=tuple((inside(path), why) for path, why in found.unreadable),
        passed_over=tuple(passed_over.items()),
    )
    pictures = data if find_spec("matplotlib") else None
    table = save_suggestions(found, output, pictures=pictures, label_columns=columns, labelled=rows)
    print(found)
    print(f"Table: {table}")
    if pictures is not None:
        print(f"Faces: {table.with_suffix('.png')}")
    label = "" if columns == ["label"] else f" --label_column {','.join(columns)}"
    print(
        f"Fill in {', '.join(columns)}, then: ciao train --csv {table} --data_dir {data}{label} --test_fraction 0.2 "
        "--min_images_per_class 0"
    )


def _lies_in(path: str, folder: Path) -> bool:
    """Whether a path, its dots already gone, stays in a folder; a link in it may lead where it likes."""
    return os.path.abspath(path).startswith(os.path.join(os.path.abspath(folder), ""))


def _model(options: argparse.Namespace) -> tuple[CIAOModel, str | None]:
    """What sees, and the adapter that answers."""
    from ..encoders import load_encoder
    from ..model import CIAOModel
    from .worlds import load_worlds

    if options.adapter:
        if options.align or options.encoder != "small-face":
            raise ConfigError("An adapter knows its encoder and how faces are fed; leave out --encoder and --align.")
        world = load_worlds([options.adapter])[0]
        return world.model, world.adapter_name
    encoder: Any = load_encoder(options.encoder)
    preprocessing = encoder.preprocessing
    if options.align:
        preprocessing = preprocessing.replace(align=options.align)
    return CIAOModel(encoder, preprocessing=preprocessing).eval(), None


def _label_columns(options: argparse.Namespace, model: CIAOModel, name: str | None) -> list[str]:
    from ..prediction import label_names

    if options.label_column:
        columns = [part.strip() for part in options.label_column.split(",")]
        if not all(columns) or len(set(columns)) < len(columns):
            raise ConfigError(
                f"`--label_column` names columns, joined with commas; got {quoted(options.label_column)}."
            )
        return columns
    config = None if name is None else model.peft_config[name]
    if config is None or config.problem_type == "single_label_classification":
        return ["label"]
    return label_names(config)
