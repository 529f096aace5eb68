"""`tune`: tries the candidates that matter on held-out people, and writes the best one's settings."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...checking import check_number
from ...config import CIAOConfig
from ...engine import RayEngine, engine_from
from ...errors import ConfigError, quoted
from ...presets import over_paper
from ...progress import place_to_speak, span
from ...saving import local_path, write_file
from ...surroundings import set_num_threads
from ..matching import spelled_out
from ..plan import Encoder, Method, Plan, Task
from .choice import Tried, TuneResult, choose, table_of, verdict_of

if TYPE_CHECKING:
    from ..data import LoadedTask
    from ..records import Record
    from .halving import Halving

BEST_FILE = "best.json"
TABLE_FILE = "candidates.md"
TRIALS = "trials"
"""The folder of records, features and claims."""

LEAST_PARTS = 3
"""Into which the training split is dealt: a training sees two thirds of it, or more."""


def tune(
    task: Task,
    encoder: Encoder | str,
    output_dir: str | os.PathLike[str],
    *,
    metric: str | None = None,
    recipe: str | None = None,
    epochs: float | None = None,
    folds: int | None = None,
    depths: int | None = None,
    mask_rates: bool = False,
    candidates: Sequence[Method] | None = None,
    arguments: Mapping[str, Any] | None = None,
    feature_dtype: str | None = None,
    num_processes: int = 1,
    num_threads: int | None = None,
    engine: str | RayEngine | None = None,
    disable_tqdm: bool | None = None,
) -> TuneResult:
    """Finds out which form of the mask, head and loss suit a task, on people held out of its training split.

    The training split is dealt into three parts or more, so that nobody is in two of them where the task says who is
    on a picture, and by class otherwise. Candidates train on all parts but one and are scored on that one, part by
    part, all from one store of features; the test split is not looked at.

    By successive halving (Jamieson and Talwalkar 2016) all of them train for a sixteenth of the recipe's epochs, the
    best quarter of each kind for a quarter of them, and the best quarter of these for all. A training of each rung
    begins anew, so that its learning rate falls to 0, and the order of the candidates decides nothing. The same heads
    without a mask, and with the last convolution unfrozen, are halved among themselves and so are always in the last
    rung. Of that, the smallest adapter within one standard error of the best mean is chosen (Breiman et al. 1984).

    Every training is kept as it ends: the same call goes on where it stopped, and processes that are started twice
    share the work. The result does not depend on that.

    Args:
        task: What to learn; `group_by` says who is on a picture.
        encoder: Name or folder of a frozen encoder, or an `Encoder` with other preprocessing.
        output_dir: Folder for `best.json`, `candidates.md`, and `trials/` with records and features.
        metric: By which candidates are compared, such as `"balanced_accuracy"`; the task's when left out.
        recipe: Of the trainings, by name (`CIAOTrainingArguments.recipe`); `"small-data"` below 2,000 pictures, and
            `"default"` above, when left out.
        epochs: Of the last rung; the recipe's when left out.
        folds: Parts that are held out in turn, 2 or more; 3 below 2,000 pictures, and 2 above, when left out.
        depths: Also try the compact head with so many earlier units of the trunk beside the map.
        mask_rates: Also try a third and three times the recipe's learning rate of the mask.
        candidates: Methods in place of the built-in ones; their heads without a mask, and with the last convolution,
            are added where they are missing.
        arguments: Of `CIAOTrainingArguments`, for every candidate alike; they go before the recipe's.
        feature_dtype: In which features are stored, as for `cache_features`; the encoder's own when left out.
        num_processes: Processes that share the work on this machine.
        num_threads: Of torch, in each; the cores shared out when left out.
        engine: Who trains: this process when left out, `"ray"` or a `RayEngine` for the workers of Ray.
        disable_tqdm: Says nothing; when left out, a bar moves in a terminal, and a log gets a line for each training.

    Raises:
        ConfigError: a value out of range; a candidate with settings that there are not; a metric that does not fit the
            labels; or an engine and several processes.
        MissingExtraError: the engine is not installed.
        DataNotFoundError, DataError: the task's training split cannot be read, has too few people, the same label
            everywhere, or fewer than two classes with two pictures.
        TrainingError: no candidate has a score.

    Example:
        >>> import tempfile
        >>> painted = {"world": "affect", "num_train": 24, "num_validation": 2, "num_test": 2, "size": 32}
        >>> task = Task(name="painted", dataset="painted_faces", options=painted)
        >>> mine = Method(name="gain", config={"inhibition_form": "gain", "hidden_sizes": [4]}, rates=(0.01,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = tune(task, "small-face", folder, candidates=[mine], epochs=1, folds=2, disable_tqdm=True)
        ...     sorted(tried.name for tried in result.tried), (result.folder / "best.json").exists()
        (['gain', 'last convolution, head of gain', 'no mask, head of gain'], True)
    """
    from ...trainer import SMALL_WORLD, recipe_for
    from .candidates import make_candidates, settings_of_recipe, with_baselines
    from .folds import check_choice
    from .halving import Halving

    chosen = engine_from(engine, "A tuning")
    check_number("num_processes", num_processes, int, 1)
    if chosen is not None and num_processes > 1:
        raise ConfigError(f"`engine` shares the work out itself; leave out `num_processes={num_processes}`.")
    if folds is not None:
        check_number("folds", folds, int, 2, 100)
    if depths is not None:
        check_number("depths", depths, int, 1, 64)
    if task.train_fraction is not None:
        raise ConfigError("`train_fraction` of a task is for its table; `tune` deals the whole training split.")
    encoder = encoder if isinstance(encoder, Encoder) else Encoder(name=encoder)
    loaded = _loaded(task if metric is None else replace(task, metric=metric))
    check_choice(loaded)
    task, num_pictures = loaded.task, len(loaded.folds[0].train)
    recipe = recipe_for(num_pictures) if recipe is None else recipe
    folds = (3 if num_pictures < SMALL_WORLD else 2) if folds is None else folds
    settings = settings_of_recipe(recipe) | dict(arguments or {})
    of_recipe = settings.pop("num_train_epochs")
    if candidates is None:
        own = make_candidates(loaded.labels.problem_type, loaded.metric, recipe, depths=depths, mask_rates=mask_rates)
    else:
        own = with_baselines(candidates, recipe)
    for method in own:
        try:
            CIAOConfig.from_dict(over_paper(loaded.labels.as_config() | dict(method.config)))
        except ConfigError as error:
            raise ConfigError(f"The candidate {quoted(method.name)}: {error}") from error
    plan = Plan(
        tasks=(task,),
        encoders=(encoder,),
        methods=own,
        seeds=(),
        epochs=of_recipe if epochs is None else epochs,
        arguments=settings,
        search_rates=1,
        search_seeds=folds,
        search_fraction=1 / max(folds, LEAST_PARTS),
        feature_dtype=feature_dtype,
    )
    folder = local_path(output_dir)
    if chosen is None:
        halving = Halving(plan, folder / TRIALS, _say)
    else:
        from .on_ray import RayHalving

        halving = RayHalving(plan, folder / TRIALS, _say, engine=chosen, num_threads=num_threads)
    halving.load(loaded)
    _work(halving, plan, num_processes, num_threads, disable_tqdm)
    return _result(halving, plan, recipe, folder)


def _loaded(task: Task) -> LoadedTask:
    """The training split, with the metric and, where values lie elsewhere, the range of the labels in the task."""
    import numpy as np

    from ..data import load_training_split

    loaded = load_training_split(task)
    settings: dict[str, Any] = {}
    if loaded.labels.problem_type == "regression" and "label_range" not in task.config:
        values = np.asarray(loaded.folds[0].train["label"], dtype=np.float64)
        low, high = float(values.min()), float(values.max())
        if (low < -1 or high > 1) and low < high:
            settings = {"label_range": [low, high]}
    return replace(loaded, task=replace(task, metric=loaded.metric, config={**settings, **task.config}))


def _work(halving: Halving, plan: Plan, num_processes: int, num_threads: int | None, disable_tqdm: bool | None) -> None:
    from tqdm.auto import tqdm

    from ..runner import show, started, train_in_processes, usable_cores
    from .halving import Halving

    place = place_to_speak(disable_tqdm)

    def bar(total: int) -> Any:
        return tqdm(total=total, unit="training", desc="tune", disable=place in ("log", "nowhere"))

    if place == "log":
        _say(_beginning(halving))
        halving.told = _teller(halving)
    if num_processes > 1:
        threads = max(1, usable_cores() // num_processes) if num_threads is None else num_threads
        watching = Halving(plan, halving.folder, halving.say)
        watching.look()
        watching.told, halving.told = halving.told and _teller(watching), None
        these: dict[str, Any] = {"worklist_class": Halving, "watching": watching}
        train_in_processes(plan, halving.folder, threads, num_processes, bar=bar, say=halving.say, **these)
        halving.look()
    set_num_threads(num_threads)
    halving.disable_tqdm = disable_tqdm
    with started(bar, halving.look()) as moving:
        halving.work(lambda progress, doing: show(moving, progress, doing))


def _beginning(halving: Halving) -> str:
    progress, parts = halving.look(), halving.plan.search_seeds
    rungs = ", ".join(f"{epochs:g}" for epochs in halving.epochs)
    before = f"; {progress.done} are there from before" if progress.done else ""
    return (
        f"tune: {len(halving.plan.methods)} candidates, {parts} parts, rungs of {rungs} epochs: {progress.total} "
        f"trainings{before}. The features are stored first; then a line for each training that ends."
    )


def _teller(halving: Halving) -> Callable[[Record], None]:
    """Says in a log what came of a training."""
    began = time.monotonic()

    def tell(record: Record) -> None:
        progress, parts = halving.progress, halving.plan.search_seeds
        came = "diverged" if record.error is not None else f"{record.metric} {record.score:.3f}"
        _say(
            f"tune: {progress.done} of {progress.total} after {span(time.monotonic() - began)}: {record.method}, "
            f"epochs {record.epochs:g}, part {record.seed + 1} of {parts}: {came}"
        )

    return tell


def _result(halving: Halving, plan: Plan, recipe: str, folder: Path) -> TuneResult:
    metric = str(halving.task.metric)
    if skipped := halving.progress.skipped:
        raise ConfigError("; ".join(skipped.values()))
    tried = sorted((_tried(halving, method) for method in plan.methods), key=lambda each: (-each.epochs, -each.mean))
    chosen = choose(tried)
    (method,) = (method for method in plan.methods if method.name == chosen.name)
    settings = {**plan.arguments, "num_train_epochs": plan.epochs, **method.arguments, method.rate: method.rates[0]}
    method = replace(method, config=spelled_out({**halving.task.config, **method.config}), arguments=settings)
    last = [each for each in tried if each.epochs == chosen.epochs]
    compared = verdict_of(last, plan.methods, metric, chosen)
    best = last[0]
    why = "the best" if best is chosen else f"the smallest within one standard error of the best, {best.name}"
    verdict = f"Chosen: {chosen.name}, {_size(chosen)}, {_score(chosen, metric)}: {why}. {compared}"
    about = {
        "task": halving.task.name,
        "encoder": halving.encoder.source,
        "preprocessing": dict(halving.encoder.preprocessing),
        "recipe": recipe,
        "metric": metric,
        "score": chosen.mean,
        "standard_error": chosen.standard_error,
        "scores": list(chosen.scores),
        "held_out": f"{plan.search_seeds} of {round(1 / plan.search_fraction)} parts",
        "pictures": len(halving.load().folds[0].train),
        "candidates": len(tried),
        "verdict": compared,
    }
    values = {name: value for name, value in dataclasses.asdict(method).items() if name not in ("baseline", "settings")}
    write_file(folder / BEST_FILE, json.dumps(values | {"search": about}, indent=2) + "\n")
    write_file(folder / TABLE_FILE, f"{table_of(tried, chosen, metric)}\n\n{verdict}\n")
    return TuneResult(method, chosen, tried, metric, verdict, folder)


def _tried(halving: Halving, method: Method) -> Tried:
    """What came of a candidate on the last rung that it was on."""
    rungs = halving.rungs_of(method)
    records = {rung: halving.records(method, rung) for rung in rungs}
    last = records[rungs[-1]]
    errors = [record.error for record in last if record.error is not None]
    problem = "diverged" if errors else None
    if not last:
        described = (why for what, why in halving.progress.failed.items() if f", {method.name}" in what)
        problem = f"not trained: {next(described, 'unknown')}"
    balanced = [record.scores["balanced_accuracy"] for record in last if "balanced_accuracy" in record.scores]
    return Tried(
        name=method.name,
        epochs=halving.epochs[rungs[-1]],
        scores=() if problem else tuple(record.score for record in last),
        numbers=max((record.parameters.get("adapter_total", 0) for record in last), default=0),
        seconds=sum(record.seconds for each in records.values() for record in each),
        balanced_accuracy=sum(balanced) / len(balanced) if balanced and not problem else None,
        problem=problem,
    )


def _size(tried: Tried) -> str:
    return f"{tried.numbers:,} numbers ({tried.megabytes:.2f} MB in float16)"


def _score(tried: Tried, metric: str) -> str:
    from .choice import shown

    return f"{metric.replace('_', ' ')} {shown(tried.mean, tried.standard_error, metric)} on held-out people"


def _say(line: str) -> None:
    from tqdm.auto import tqdm

    tqdm.write(line, file=sys.stderr)
