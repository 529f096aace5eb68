"""The search for a decision layer's settings, per task: tree-parzen trials on people held out of the training split."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ...checking import check_number
from ...engine import RayEngine, engine_from
from ...errors import ConfigError, DivergenceError, MissingExtraError, TrainingError
from ...markdown import markdown_table
from ...progress import long_work
from ...saving import local_path, write_file
from ...trainer import trains_at_once
from ..plan import Encoder, Method, Task
from ..presets import METHODS
from .objective import GivenUp, Objective
from .on_ray import work_on_ray
from .results import SearchResult, SearchTrial
from .space import SearchSpace, method_with

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

    from .trials import SharedStudy

BEST_FILE = "best.json"
TABLE_FILE = "trials.md"


def search_settings(
    task: Task,
    encoder: Encoder | str,
    output_dir: str | os.PathLike[str],
    *,
    method: Method = METHODS["decision layer + CIAO"],
    trials: int = 40,
    epochs: float = 4.0,
    space: SearchSpace | None = None,
    seed: int = 0,
    fraction: float = 0.3,
    splits: int = 1,
    pruner: str = "none",
    arguments: Mapping[str, Any] | None = None,
    disable_tqdm: bool | None = None,
    engine: str | RayEngine | None = None,
) -> SearchResult:
    """Searches a method's settings for one task, with a tree-parzen estimator (Optuna's TPE).

    Every trial trains on a part of the training split and is scored on the rest of it: people who are in one part are
    not in the other. The test split is never looked at. Trials are kept in `search.db` (SQLite): the same call goes on
    where it was stopped, a trial whose process was killed is begun anew, and several processes may work on one folder
    (on a disk of this machine). The same seed gives one process the same trials, however often it was stopped; with
    several processes they depend on who is done first.

    Args:
        task: What is learned.
        encoder: On which encoder.
        output_dir: Folder for the trials, the result, and the stored features.
        method: What is searched for; its own settings hold where `space` says nothing else.
        trials: How many, over all processes and calls; the first ten are drawn at random.
        epochs: Passes over the training part, in each trial.
        space: Where to look.
        seed: Of the choice of trials, of who is held out, and of every training.
        fraction: Share of the training split that is held out.
        splits: How often something else is held out; a trial's score is the mean over them.
        pruner: Gives up trials on the way that are behind the others: `"none"`, `"median"` or `"hyperband"`.
        arguments: Of `CIAOTrainingArguments`, for every trial alike.
        disable_tqdm: No progress bar; when left out, none unless a terminal is there to show it.
        engine: Who trains: this process when left out, `"ray"` or a `RayEngine` for the workers of Ray, several trials
            at once. The trials stay in this folder, which workers need not see. A trial's score is that of one
            process, and so are the first ten trials; later ones depend on who is done first.

    Raises:
        MissingExtraError: Optuna is not installed, or the engine.
        ConfigError: the folder holds a search with other settings; a value out of range; or an engine with a pruner.
        LaunchError: Ray cannot be reached, or was lost.
        DataError: the task's data cannot be read.
        TrainingError: no trial has a score.
    """
    if importlib.util.find_spec("optuna") is None:
        raise MissingExtraError("optuna", "A search of settings", "search")
    for name, value, low in (("trials", trials, 1), ("splits", splits, 1), ("seed", seed, 0)):
        check_number(name, value, int, low)
    from .trials import SharedStudy

    chosen = engine_from(engine, "A search")
    if chosen is not None and pruner != "none":
        raise ConfigError(f"Ray's workers end no trial on the way; with `engine`, leave out `pruner={pruner!r}`.")
    folder, space = local_path(output_dir), SearchSpace() if space is None else space
    encoder = encoder if isinstance(encoder, Encoder) else Encoder(name=encoder)
    rest = {"epochs": epochs, "fraction": fraction, "splits": splits, "seed": seed, "arguments": arguments or {}}
    objective = Objective(task, encoder, method, folder / "features", **rest)
    settings = objective.settings() | {"space": dataclasses.asdict(space), "pruner": pruner}
    study = SharedStudy(folder, settings, seed, pruner)
    with study.counted_as_alive():
        if chosen is None:
            _work(study, space, objective, trials, disable_tqdm)
        else:
            work_on_ray(study, space, objective, trials, disable_tqdm, chosen)
    return _write_result(study, space, objective)


def _work(study: SharedStudy, space: SearchSpace, objective: Objective, total: int, disable_tqdm: bool | None) -> None:
    """Trial after trial, until as many are done or at work in other processes."""
    distributions = space.distributions(objective.method)
    with long_work(total, "search", "trial", disable_tqdm, initial=len(study.done())) as bar:
        while trials := study.ask_several(distributions, total, trains_at_once()):
            methods = [method_with(objective.method, trial.params) for trial in trials]
            reports = [_report_of(trial) for trial in trials]
            try:
                scores = _scores_of(objective, methods, reports)
            except BaseException:
                for trial in trials:
                    study.forget(trial)
                raise
            for trial, score in zip(trials, scores, strict=True):
                study.tell(trial, score)
            bar.n = len(study.done())
            bar.refresh()


def _report_of(trial: Trial) -> Callable[[int, float], None]:
    """Notes a trial's scores on the way, and gives it up where the pruner says so."""

    def report(step: int, score: float) -> None:
        trial.report(score, step)
        if trial.should_prune():
            raise GivenUp

    return report


def _scores_of(
    objective: Objective, methods: list[Method], reports: list[Callable[[int, float], None]]
) -> list[float | None]:
    """Their scores; None for those that were given up or diverged."""
    if len(methods) > 1:
        return [*objective.scores_at_once(methods, reports)]
    try:
        return [objective.score(methods[0], reports[0])]
    except (GivenUp, DivergenceError):
        return [None]


def _write_result(study: SharedStudy, space: SearchSpace, objective: Objective) -> SearchResult:
    from .figures import draw_search

    trials = [SearchTrial(t.user_attrs["index"], t.params, t.value, _seconds_of(t)) for t in study.done()]
    scored = [trial for trial in trials if trial.score is not None]
    if not scored:
        raise TrainingError(
            f"None of {len(trials)} trials has a score: all diverged. Give a space with lower learning rates."
        )
    best = max(scored, key=lambda trial: (trial.score, -trial.index))
    method = method_with(objective.method, best.values)
    result = SearchResult(method, best, trials, study.importances(), objective.metric, study.folder)
    about = objective.settings() | {
        "metric": objective.metric,
        "score": best.score,
        "trial": best.index,
        "trials": len(trials),
    }
    values = {name: value for name, value in dataclasses.asdict(method).items() if name not in ("baseline", "settings")}
    names = space.names(objective.method)
    with study.locked():
        write_file(study.folder / BEST_FILE, json.dumps(values | {"search": about}, indent=2) + "\n")
        write_file(study.folder / TABLE_FILE, table_of(trials, names, objective.metric))
        draw_search(study.study, names, objective.metric, study.folder)
    return result


def _seconds_of(trial: FrozenTrial) -> float:
    if trial.datetime_start is None or trial.datetime_complete is None:
        return 0.0
    return (trial.datetime_complete - trial.datetime_start).total_seconds()


def table_of(trials: list[SearchTrial], names: list[str], metric: str) -> str:
    """The trials as a Markdown table, the best first.

    Example:
        >>> trials = [SearchTrial(0, {"dropout": 0.5}, None, 1.0), SearchTrial(1, {"dropout": 0.25}, 0.5, 2.0)]
        >>> print(table_of(trials, ["dropout"], "accuracy"))
        | trial | accuracy | dropout | seconds |
        | ---: | ---: | ---: | ---: |
        | 1 | 0.5000 | 0.25 | 2.0 |
        | 0 | given up | 0.5 | 1.0 |
        <BLANKLINE>
    """
    head = ["trial", metric.replace("_", " "), *(name.replace("_", " ") for name in names), "seconds"]
    rows = []
    for trial in sorted(trials, key=lambda t: (t.score is None, -(t.score or 0), t.index)):
        score = "given up" if trial.score is None else f"{trial.score:.4f}"
        rows.append([trial.index, score, *(f"{trial.values[n]:.3g}" for n in names), f"{trial.seconds:.1f}"])
    return markdown_table(head, rows, "r" * len(head)) + "\n"
