"""`ciao tune`: which form of the mask, head and loss suit a world, found on held-out training people."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .arguments import LateParser
from .dataset import add_dataset_flags, dataset_label, settings_of_faces
from .engines import add_engine, engine_of
from .flags import add_flag
from .reproduce import at_least_one

if TYPE_CHECKING:
    from ..study import Task, TuneResult


def add_commands(commands: argparse._SubParsersAction[LateParser]) -> None:
    """Adds `tune`."""
    tune = commands.add_parser(
        "tune",
        help="choose form, head and loss of an adapter on held-out people",
        usage="%(prog)s [DATA] [--FLAG VALUE ...]",
        description="Tries forms of the mask, heads and losses on people held out of the training split, from one\n"
        "store of features, by successive halving: few epochs for many, all for few. The same heads without a\n"
        "mask, and with the last convolution unfrozen, are always among them. Writes OUTPUT_DIR/best.json, which\n"
        "`ciao train --method_file` starts from, and a table of all candidates. The test split is not looked at.\n"
        "Started again, it goes on where it stopped; started twice, both share the work.\n\n"
        "How long: it grows with pictures, --folds, candidates and --epochs. 8,343 faces took 11 minutes of one core\n"
        "with --epochs 3 and 2 folds, after the trunk's one pass over them; a log gets a line for each training.\n\n"
        "    ciao tune faces --label_column expression --group_by identity --output_dir runs/tune\n"
        "    ciao train --data_dir faces --label_column expression --method_file runs/tune/best.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tune.fill = _add_flags
    tune.set_defaults(run=_tune)


def _add_flags(parser: LateParser) -> None:
    from ..trainer.recipes import RECIPES

    parser.add_argument("data", nargs="?", metavar="DATA", help="a folder or table of faces, as --data_dir or --csv")
    add_dataset_flags(parser)
    add_flag(parser, "encoder", default="small-face", help="a name or folder that `load_encoder` accepts")
    add_flag(parser, "align", choices=["five-points"], help="turn and shift faces so that they lie in one way")
    what = parser.add_argument_group("what is tried, and how it is chosen")
    add_flag(
        what, "metric", help="such as accuracy, balanced_accuracy, macro_f1 or concordance (default: the problem's)"
    )
    what.add_argument("--recipe", choices=[*RECIPES], help="of the trainings (default: by the number of pictures)")
    what.add_argument("--epochs", type=float, metavar="N", help="of the last rung (default: the recipe's)")
    what.add_argument(
        "--folds", type=int, metavar="N", help="parts held out in turn (default: 3 below 2,000 pictures, or 2)"
    )
    what.add_argument(
        "--views", type=int, metavar="N", help="of each picture; 1 for no mirror images (default: the recipe's)"
    )
    what.add_argument("--depths", type=int, metavar="N", help="also heads that read so many earlier units of the trunk")
    add_flag(what, "mask_rates", action="store_true", help="also a third and three times the mask's learning rate")
    add_flag(
        what,
        "method_file",
        metavar="FILE",
        nargs="+",
        help="candidates in files, such as best.json of a search, in place of the built-in ones",
    )
    how = parser.add_argument_group("how")
    add_flag(how, "output_dir", default="runs/tune", metavar="DIR", help="default: %(default)s")
    add_flag(how, "feature_dtype", choices=["float32", "bfloat16", "float16"], help="of stored features")
    add_flag(how, "num_processes", type=at_least_one, default=1, metavar="N", help="that share the work (default: 1)")
    add_flag(how, "num_threads", type=at_least_one, metavar="N", help="of each (default: the cores shared out)")
    add_engine(how)
    how.add_argument("--bf16", action="store_true", help="mixed precision")


def _tune(options: argparse.Namespace) -> None:
    from ..study import Encoder, method_from_file, tune

    engine = engine_of(options, "A tuning")
    if engine is not None and options.num_processes > 1:
        raise ConfigError("`--engine ray` shares the work out itself; start one process, without `--num_processes`.")
    _place_data(options)
    task, encoder = (
        _task(options),
        Encoder(
            name=Path(options.encoder).name if "/" in options.encoder else options.encoder,
            source=options.encoder,
            preprocessing={"align": options.align} if options.align else {},
        ),
    )
    arguments: dict[str, Any] = {"bf16": True} if options.bf16 else {}
    if options.views is not None:
        arguments["views"] = options.views
    try:
        result = tune(
            task,
            encoder,
            options.output_dir,
            metric=options.metric,
            recipe=options.recipe,
            epochs=options.epochs,
            folds=options.folds,
            depths=options.depths,
            mask_rates=options.mask_rates,
            candidates=[method_from_file(path) for path in options.method_file] if options.method_file else None,
            arguments=arguments,
            feature_dtype=options.feature_dtype,
            num_processes=options.num_processes,
            num_threads=options.num_threads,
            engine=engine,
        )
    except KeyboardInterrupt:
        print(f"Stopped. What is done is kept in {options.output_dir}; the same command goes on.")
        raise SystemExit(130) from None
    print((result.folder / "candidates.md").read_text(encoding="utf-8"))
    print(f"Train with it: {_train_command(options, result)}")


def _place_data(options: argparse.Namespace) -> None:
    """Takes DATA for the folder or the table that it is."""
    if options.data is None:
        return
    if options.data_dir or options.csv:
        raise ConfigError(f"DATA ({options.data!r}) and `--data_dir` or `--csv` both say where the faces are.")
    if Path(options.data).expanduser().is_file():
        options.csv = [options.data]
    else:
        options.data_dir = options.data


def _task(options: argparse.Namespace) -> Task:
    from ..data import load_faces
    from ..study import Task

    name, settings = settings_of_faces(options)
    who = settings.get("group_by")
    if who == "none":
        settings.pop("group_by")
    faces = load_faces(name, options.data_dir, streaming=False, **settings)
    columns = faces["train"].column_names if "train" in faces else []
    # A folder or table of one's own keeps the column of the people as `identity`.
    known = [column for column in (who, "identity", "clip") if column in columns]
    return Task(
        name=dataset_label(options),
        dataset=name,
        data_dir=options.data_dir,
        options=settings,
        group_by=known[0] if known and who != "none" else None,
    )


def _train_command(options: argparse.Namespace, result: TuneResult) -> str:
    """The command line that trains what was chosen on the whole training split."""
    words = ["ciao", "train"]
    flags = ("dataset", "data_dir", "csv", "world", "label_column", "image_column", "split_column", "encoder", "align")
    for name in flags:
        value = getattr(options, name, None)
        if value is not None:
            words += [f"--{name}", *(value if isinstance(value, list) else [value])]
    return shlex.join([*map(str, words), "--method_file", str(result.folder / "best.json")])
