"""`ciao reproduce`: the paper's experiments, or one's own."""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, StudyError
from ..progress import long_work
from .engines import add_engine, engine_of

if TYPE_CHECKING:
    from ..study import Plan


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `reproduce`."""
    reproduce = commands.add_parser(
        "reproduce",
        help="tasks x encoders x methods x seeds, one command",
        description="Trains every method with every encoder on every task, each with its own learning-rate search, and "
        "appends one line per training to OUTPUT_DIR/results.jsonl. Started again, it goes on where it stopped.",
    )
    what = reproduce.add_argument_group("what to train (nothing of this: the plan that OUTPUT_DIR holds)")
    what.add_argument("--plan", metavar="FILE", help="a YAML file; docs/experiments.md describes it")
    what.add_argument(
        "--tasks", nargs="+", metavar="NAME=DIR", default=[], help="faces of a preset and where they are; see --list"
    )
    what.add_argument(
        "--encoders",
        nargs="+",
        metavar="NAME[=SOURCE]",
        help="names or folders that load_encoder knows (default: small-face)",
    )
    what.add_argument(
        "--methods", nargs="+", metavar="NAME", help="methods, or groups of them, see --list (default: networks)"
    )
    what.add_argument(
        "--method_file", nargs="+", metavar="FILE", default=[], help="methods in files, such as best.json of a search"
    )
    what.add_argument("--seeds", type=int, metavar="N", help="runs of each method (default: 10)")
    what.add_argument("--epochs", type=float, metavar="N", help="passes over the training data (default: 6)")
    what.add_argument("--search_rates", type=int, metavar="N", help="learning rates each method tries (default: 4)")
    what.add_argument("--search_seeds", type=int, metavar="N", help="seeds per learning rate (default: 1)")
    what.add_argument("--search_epochs", type=float, metavar="N", help="of the search (default: as --epochs)")
    what.add_argument("--bf16", action="store_const", const=True, help="mixed precision")
    what.add_argument("--feature_dtype", choices=["float32", "bfloat16", "float16"], help="of stored features")
    part = reproduce.add_argument_group("which part of it now")
    for name in ("tasks", "encoders", "methods"):
        part.add_argument(f"--only_{name}", nargs="+", metavar="NAME", default=[])
    how = reproduce.add_argument_group("how")
    how.add_argument("--output_dir", metavar="DIR", default="runs/study", help="of the study (default: runs/study)")
    how.add_argument("--num_processes", type=at_least_one, default=1, metavar="N", help="that share the work")
    how.add_argument("--num_threads", type=at_least_one, metavar="N", help="of each (default: the cores shared out)")
    add_engine(how)
    how.add_argument("--list", action="store_true", help="print tasks, methods and groups, and train nothing")
    reproduce.set_defaults(run=_reproduce)


def _reproduce(options: argparse.Namespace) -> None:
    if options.list:
        _list()
        return
    from ..saving import local_path
    from ..study.plan import select_from_plan
    from ..study.plan_file import load_plan, save_plan
    from ..study.runner import leave_launcher, train_here, train_in_processes, train_on_ray, usable_cores

    rank, launched = leave_launcher()
    folder = local_path(options.output_dir)
    says = rank == 0
    _check_flags(options)
    engine = engine_of(options, "A study")
    if engine is not None and options.num_processes * launched > 1:
        raise ConfigError("`--engine ray` shares the work out itself; start one process, without `--num_processes`.")
    if options.plan is None and not options.tasks:
        plan = load_plan(folder)
    else:
        plan = _plan(options)
        if says:
            save_plan(plan, folder)
    plan = select_from_plan(
        plan, tasks=options.only_tasks, encoders=options.only_encoders, methods=options.only_methods
    )
    processes, threads = options.num_processes, options.num_threads
    if threads is None and processes * launched > 1:
        threads = max(1, usable_cores() // (processes * launched))
    shown: dict[str, Any] = {"bar": partial(_bar, quiet=not says), "say": _say if says else _say_nothing}
    try:
        if engine is not None:
            progress = train_on_ray(plan, folder, options.num_threads, engine, **shown)
        elif processes == 1:
            progress = train_here(plan, folder, threads, **shown)
        else:
            progress = train_in_processes(plan, folder, threads, processes, **shown)
    except KeyboardInterrupt:
        if says:
            _say(f"Stopped. What is done is kept; go on with: ciao reproduce --output_dir {folder}")
        raise SystemExit(130) from None
    if not says:
        return
    if not progress.total and progress.skipped:
        for part, why in progress.skipped.items():
            _say(f"Not done: {part}: {why}")
        raise StudyError(
            "Nothing could be trained: every task or every encoder of the plan was skipped; the reasons are above."
        )
    _say(f"{progress.done} of {progress.total} trainings are in {folder / 'results.jsonl'}, the plan beside it.")
    if progress.failed:
        for what, why in progress.failed.items():
            _say(f"Not done: {what}: {why}")
        raise StudyError(f"{len(progress.failed)} of the trainings could not be done; the reasons are above.")
    _say(f"Tables and figures: ciao report {folder}")


_OF_A_PLAN = ("seeds", "epochs", "search_rates", "search_seeds", "search_epochs", "feature_dtype")
"""Flags that a plan has by the same names."""


def _check_flags(options: argparse.Namespace) -> None:
    """Says so where flags would be left unread: what is trained is said in a file, or by flags, or was said before."""
    names = ("encoders", "methods", "method_file", *_OF_A_PLAN, "bf16")
    flags = [f"`--{name}`" for name in names if getattr(options, name) not in (None, [])]
    if options.plan is not None and (options.tasks or flags):
        raise ConfigError(
            f"With `--plan`, what is to be trained stands in the file; leave out "
            f"{', '.join((['`--tasks`'] if options.tasks else []) + flags)}."
        )
    if options.plan is None and not options.tasks and flags:
        raise ConfigError(
            f"{', '.join(flags)} without `--tasks`: a study that was begun goes on with the plan in its folder. Name "
            f"the tasks, too, for another plan, or edit '{Path(options.output_dir).expanduser() / 'plan.yaml'}'."
        )


def _plan(options: argparse.Namespace) -> Plan:
    from ..study import method_from_file, plan_from_flags, read_plan

    if options.plan is not None:
        return read_plan(options.plan)
    rest = {name: getattr(options, name) for name in _OF_A_PLAN if getattr(options, name) is not None}
    if options.bf16:
        rest["arguments"] = {"bf16": True}
    plan = plan_from_flags(options.tasks, options.encoders or ["small-face"], options.methods or ["networks"], **rest)
    from_files = tuple(method_from_file(path) for path in options.method_file)
    return dataclasses.replace(plan, methods=(*plan.methods, *from_files))


def at_least_one(text: str) -> int:
    """A whole number of 1 or more, for a flag.

    Example:
        >>> at_least_one("2")
        2
    """
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of 1 or more; got {text!r}")
    return number


def _list() -> None:
    from ..study import GROUPS, METHODS, TASKS

    for title, names in (("tasks", TASKS), ("groups of methods", GROUPS), ("methods", METHODS)):
        print(f"{title}:")
        for name in names:
            print(f"  {name}")


def _bar(total: int, quiet: bool) -> Any:
    return long_work(total, "reproduce", "training", disable_tqdm=True if quiet else None)


def _say(line: str) -> None:
    from tqdm.auto import tqdm

    tqdm.write(line)


def _say_nothing(line: str) -> None:
    pass
