"""`ciao search`: the settings of a decision layer, found on held-out training people."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from ..checking import checked_keys
from ..door import read_yaml
from ..errors import ConfigError
from .data import setting_of
from .engines import add_engine, engine_of


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `search`."""
    search = commands.add_parser(
        "search",
        help="find the settings of a decision layer for one task",
        description="Tries settings with a tree-parzen estimator on people held out of the training split, and writes "
        "the best ones to OUTPUT_DIR/best.json. Started again, it goes on where it stopped; started twice, both share "
        "the trials.",
    )
    search.add_argument("--task", required=True, metavar="NAME=DIR", help="faces of a preset, and where they are")
    search.add_argument(
        "--setting",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="one of the dataset's own, such as label_column=mood or fold=0; may be repeated",
    )
    search.add_argument(
        "--group_by",
        metavar="COLUMN",
        help="who it is, if the preset's column is another; 'none' to hold out row by row",
    )
    search.add_argument("--encoder", default="small-face", help="name or folder (default: %(default)s)")
    search.add_argument("--method", default="decision layer + CIAO", help="what is searched for (default: %(default)s)")
    search.add_argument("--output_dir", default="runs/search", metavar="DIR", help="default: %(default)s")
    search.add_argument("--trials", type=int, default=40, metavar="N", help="over all processes (default: %(default)s)")
    search.add_argument("--epochs", type=float, default=4, metavar="N", help="of each trial (default: %(default)s)")
    search.add_argument("--space", metavar="FILE", help="YAML file of ranges, such as `dropout: [0, 0.5]`")
    search.add_argument("--fraction", type=float, default=0.3, help="of the rows, held out (default: %(default)s)")
    search.add_argument("--splits", type=int, default=1, metavar="N", help="parts held out in turn (default: 1)")
    search.add_argument(
        "--pruner", choices=["none", "median", "hyperband"], default="none", help="default: %(default)s"
    )
    search.add_argument("--seed", type=int, default=0)
    search.add_argument("--bf16", action="store_true", help="mixed precision")
    add_engine(search)
    search.set_defaults(run=_search)


def _search(options: argparse.Namespace) -> None:
    from ..study.presets import methods_named, task_from
    from ..study.search import SearchSpace, search_settings

    name, equals, data_dir = options.task.partition("=")
    task = task_from(name, data_dir if equals else None)
    task = dataclasses.replace(task, options={**task.options, **dict(map(setting_of, options.setting))})
    if options.group_by is not None:
        task = dataclasses.replace(task, group_by=None if options.group_by == "none" else options.group_by)
    methods = methods_named([options.method])
    if len(methods) != 1:
        raise ConfigError(f"`--method` takes one method; {options.method!r} is {len(methods)} of them.")
    try:
        result = search_settings(
            task,
            options.encoder,
            options.output_dir,
            method=methods[0],
            trials=options.trials,
            epochs=options.epochs,
            space=SearchSpace(**_space(options.space)) if options.space else None,
            seed=options.seed,
            fraction=options.fraction,
            splits=options.splits,
            pruner=options.pruner,
            arguments={"bf16": True} if options.bf16 else None,
            engine=engine_of(options, "A search"),
        )
    except KeyboardInterrupt:
        print(f"Stopped. The trials that are done are kept in {options.output_dir}; the same command goes on.")
        raise SystemExit(130) from None
    print((result.folder / "trials.md").read_text(encoding="utf-8"))
    if result.importances:
        print("What mattered: " + ", ".join(f"{name} {share:.0%}" for name, share in result.importances.items()))
    best = result.best
    print(
        f"Best: trial {best.index}, {result.metric} {best.score:.4f} on held-out people; {result.folder / 'best.json'}"
    )


def _space(path: str) -> dict[str, Any]:
    from ..study.search import SearchSpace

    values = read_yaml(path, error=ConfigError)
    return checked_keys("a search space", values, [part.name for part in dataclasses.fields(SearchSpace)])
