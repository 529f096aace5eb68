"""What is to be trained, as plain data: tasks x encoders x methods x seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from ..checking import check_choice, check_number, is_number, make_plain
from ..errors import ConfigError, listed, quoted, shortened

Kind = Literal["network", "ablation", "rival"]
Needs = Literal["features", "pixels"]
Split = Literal["test", "validation"]

RATE_NAMES = ("learning_rate", "mask_learning_rate", "encoder_learning_rate")
MAX_RUNS = 100_000
"""Trainings in one plan."""

_NAMES_IN_FILES = {"baseline": "rival"}


def _check_name(what: str, name: Any) -> None:
    if not isinstance(name, str) or not name.strip() or name != name.strip():
        raise ConfigError(f"The name of {what} must be text without spaces around it; got {quoted(name)}.")


def _freeze_mappings(instance: Any, *names: str) -> None:
    for name in names:
        value = getattr(instance, name)
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise ConfigError(f"`{name}` must map names to values; got {quoted(value)}.")
        object.__setattr__(instance, name, dict(value))


def _drop_nulls(instance: Any, name: str) -> None:
    """Null, in a file, is a setting that is left out."""
    given = {key: value for key, value in getattr(instance, name).items() if value is not None}
    object.__setattr__(instance, name, given)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A dataset to learn, and how it is scored.

    Args:
        name: In tables and records.
        dataset: A name that `load_faces` knows.
        data_dir: Folder with its files, for datasets that are not drawn on the spot.
        options: Further arguments of `load_faces`, such as `label_column` or `protocol`. With `fold="all"`, one run
            trains once per fold of the protocol and scores the answers of all folds together.
        metric: The score by which learning rates are chosen and methods compared, the higher the better; the one of the
            problem when left out: `"accuracy"`, `"concordance"` or `"macro_f1"`.
        group_by: Column that says who it is. Whoever is in the training split is then left out of the test split, and
            the validation split of a learning-rate search is of people held out of the training split.
        average_by: Column that says which test rows are one thing, such as the frames of a clip: their answers are
            averaged before they are scored.
        config: Settings of `CIAOConfig` that belong to the task, such as `label_range`; a method's own go before.
        train_fraction: Share of the training split that is trained on, above 0 and below 1: whole people where
            `group_by` says who it is, and others for each seed. All of it when left out.

    Example:
        >>> Task(name="moods", dataset="imagefolder", data_dir="moods", options={"label_column": "mood"}).metric
    """

    name: str
    dataset: str
    data_dir: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    metric: str | None = None
    group_by: str | None = None
    average_by: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    train_fraction: float | None = None

    def __post_init__(self) -> None:
        make_plain(self)
        _check_name("a task", self.name)
        _freeze_mappings(self, "options", "config")
        if self.train_fraction is not None:
            check_number("train_fraction", self.train_fraction, above=0)
            if self.train_fraction >= 1:
                got = quoted(self.train_fraction)
                raise ConfigError(
                    f"`train_fraction` must lie between 0 and 1; got {got}. Leave it out to train on all."
                )


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A frozen encoder.

    Args:
        name: In tables and records.
        source: A name or folder that `load_encoder` knows; the name when left out.
        preprocessing: What differs from the encoder's own `Preprocessing`, such as `{"align": "five-points"}`.

    Raises:
        ConfigError: the name is empty or has spaces around it.

    Example:
        >>> Encoder(name="mine", source="runs/mine").source, Encoder(name="small-face").source
        ('runs/mine', 'small-face')
    """

    name: str
    source: str | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        make_plain(self)
        _check_name("an encoder", self.name)
        _freeze_mappings(self, "preprocessing")
        if self.source is None:
            object.__setattr__(self, "source", self.name)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to train on a task with an encoder.

    Args:
        name: In tables and records.
        kind: `"network"` of the paper's Table I, `"ablation"` of CIAO or `"rival"`, a baseline, as records have it.
        config: What differs from `CIAOConfig.preset("paper")`: a setting that is left out is the paper's, so that a
            plan means the same when the defaults of `CIAOConfig` change.
        arguments: What differs from `CIAOTrainingArguments.recipe("paper")`; `num_train_epochs` goes before the plan's.
        rate: The learning rate that its search moves.
        rates: What the search tries for it, from low to high.
        baseline: Name of a builder in `ciao_peft.study.baselines`; `None` for adapters of this library.
        settings: Further arguments of that builder.
        needs: What it trains from: the stored `"features"` of the frozen trunk, or `"pixels"`.

    Example:
        >>> Method(name="hot", config={"temperature": 1.0}, rates=(0.001, 0.01)).kind
        'network'
    """

    name: str
    kind: Kind = "network"
    config: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    rate: str = "learning_rate"
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    baseline: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs: Needs = "features"

    def __post_init__(self) -> None:
        make_plain(self)
        _check_name("a method", self.name)
        _freeze_mappings(self, "config", "arguments", "settings")
        _drop_nulls(self, "arguments")
        for name, choices in (("kind", get_args(Kind)), ("needs", get_args(Needs)), ("rate", RATE_NAMES)):
            check_choice(name, getattr(self, name), choices)
        rates = tuple(self.rates) if isinstance(self.rates, (list, tuple)) else ()
        if not rates or not all(map(is_number, rates)) or list(rates) != sorted(set(rates)) or rates[0] <= 0:
            raise ConfigError(
                f"`rates` must be learning rates above 0, from low to high; got {shortened(repr(self.rates))}."
            )
        object.__setattr__(self, "rates", tuple(float(rate) for rate in rates))

    def grid(self, count: int) -> tuple[float, ...]:
        """`count` rates from the lowest to the highest of `rates`, evenly spaced on a logarithmic scale.

        Example:
            >>> Method(name="m", rates=(1e-3, 1e-2, 1e-1)).grid(5)
            (0.001, 0.00316, 0.01, 0.0316, 0.1)
        """
        if len(self.rates) in (1, count):  # a single one is not searched
            return self.rates
        low, high = math.log(self.rates[0]), math.log(self.rates[-1])
        steps = [0.5] if count == 1 else [index / (count - 1) for index in range(count)]
        return tuple(float(f"{math.exp(low + step * (high - low)):.3g}") for step in steps)


def names_in_files(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a method by the names that files have for them.

    Example:
        >>> names_in_files({"baseline": "lora"}), names_in_code({"rival": "lora"})
        ({'rival': 'lora'}, {'baseline': 'lora'})
    """
    return {_NAMES_IN_FILES.get(name, name): value for name, value in values.items()}


def names_in_code(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `names_in_files`.

    Example:
        >>> names_in_code({"rival": "lora"})
        {'baseline': 'lora'}
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"A method must map keys to values; got {shortened(repr(values))}.")
    by_name_in_file = {in_file: name for name, in_file in _NAMES_IN_FILES.items()}
    return {by_name_in_file.get(name, name): value for name, value in values.items()}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training: of the learning-rate search (`split="validation"`, with the rate it tries) or for the table.

    Args:
        task, encoder, method: What is trained.
        seed: Of initial values, order of samples and dropout.
        split: On what it is scored: `"test"`, or `"validation"`, people held out of the training split.
        rate: The learning rate that the method's search moves; `None` leaves it at the method's own.
        fold_rates: That rate for each fold of a task that has several, in place of `rate`.

    Example:
        >>> faces = Task(name="faces", dataset="imagefolder", config={"temperature": 0.1})
        >>> method = Method(name="hot", config={"temperature": 0.5})
        >>> run = Run(task=faces, encoder=Encoder(name="small-face"), method=method, seed=0, rate=0.01)
        >>> run.arguments(), run.config()
        ({'learning_rate': 0.01}, {'temperature': 0.5})
    """

    task: Task
    encoder: Encoder
    method: Method
    seed: int
    split: Split = "test"
    rate: float | None = None
    fold_rates: Mapping[str, float] = field(default_factory=dict)

    def arguments(self, fold: str = "") -> dict[str, Any]:
        """The method's arguments, with the rate of this run (for one fold, where each has its own) among them."""
        rate = self.fold_rates.get(fold, self.rate)
        return dict(self.method.arguments) | ({} if rate is None else {self.method.rate: rate})

    def config(self) -> dict[str, Any]:
        """The task's settings of the adapter, and over them the method's."""
        return dict(self.task.config) | dict(self.method.config)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study: every task with every encoder, method and seed.

    Args:
        tasks, encoders, methods: What is combined.
        seeds: Of the trainings that are scored on the test split; a number n stands for 0 to n - 1. With none, what is
            searched is all that is trained, and the test split is not looked at.
        epochs: Passes over the training data, where a method does not say otherwise.
        arguments: What differs from `CIAOTrainingArguments.recipe("paper")` for every method alike; a method's own go
            before.
        search_rates: How many learning rates each method's search tries; 0 for no search.
        search_seeds: How many seeds each rate is tried with; each holds out other people.
        search_epochs: Passes over the training data in a search; as many as `epochs` when left out.
        search_fraction: Share of the training split that is held out for the search.
        feature_dtype: In which features are stored, as for `cache_features`; the encoder's own when left out.

    Example:
        >>> task, encoder = Task(name="faces", dataset="painted_faces"), Encoder(name="small-face")
        >>> Plan(tasks=(task,), encoders=(encoder,), methods=(Method(name="plain"),), seeds=3).seeds
        (0, 1, 2)
    """

    tasks: tuple[Task, ...]
    encoders: tuple[Encoder, ...]
    methods: tuple[Method, ...]
    seeds: tuple[int, ...] = tuple(range(10))
    epochs: float = 6.0
    arguments: Mapping[str, Any] = field(default_factory=dict)
    search_rates: int = 4
    search_seeds: int = 1
    search_epochs: float | None = None
    search_fraction: float = 0.3
    feature_dtype: str | None = None

    def __post_init__(self) -> None:
        make_plain(self)
        _freeze_mappings(self, "arguments")
        _drop_nulls(self, "arguments")
        for name in ("tasks", "encoders", "methods"):
            given = getattr(self, name)
            items = tuple(given) if isinstance(given, (list, tuple)) else ()
            object.__setattr__(self, name, items)
            if not items:
                raise ConfigError(f"A plan needs at least one of `{name}`.")
            names = [item.name for item in items]
            if twice := sorted({item for item in names if names.count(item) > 1}):
                raise ConfigError(f"Each of `{name}` needs a name of its own; {listed(twice)} is there twice.")
        given: Any = self.seeds
        seeds = range(given) if is_number(given, int, 0, MAX_RUNS) else given
        seeds = tuple(seeds) if isinstance(seeds, (range, list, tuple)) else ()
        none = given not in (0, [], ()) or self.search_rates == 0
        if (not seeds and none) or not all(is_number(seed, int, 0) for seed in seeds) or len(set(seeds)) < len(seeds):
            got = shortened(repr(self.seeds))
            raise ConfigError(f"`seeds` must be a number of runs or different whole numbers; got {got}.")
        object.__setattr__(self, "seeds", seeds)
        runs = len(self.tasks) * len(self.encoders) * len(self.methods) * len(seeds)
        if runs > MAX_RUNS:
            raise ConfigError(f"A plan may have at most {MAX_RUNS:,} trainings; this one has {runs:,}. Split it.")
        check_number("search_rates", self.search_rates, int, 0)
        check_number("search_seeds", self.search_seeds, int, 1)
        for name in ("epochs", "search_epochs", "search_fraction"):
            if name != "search_epochs" or self.search_epochs is not None:
                check_number(name, getattr(self, name), above=0)
        if self.search_fraction >= 1:
            raise ConfigError(f"`search_fraction` must lie between 0 and 1; got {quoted(self.search_fraction)}.")


def select_from_plan(plan: Plan, **only: Iterable[str]) -> Plan:
    """A plan with a part of its tasks, encoders or methods; all of them where none are named.

    Raises:
        ConfigError: one is not in the plan.

    Example:
        >>> from ciao_peft.study import plan_from_flags
        >>> plan = plan_from_flags(["fer=data/fer", "jaffe=data/jaffe"], ["small-face"], ["decision layer"])
        >>> [task.name for task in select_from_plan(plan, tasks=["jaffe"]).tasks]
        ['jaffe']
    """
    changes = {}
    for what, names in only.items():
        names, items = list(names), getattr(plan, what)
        if unknown := [name for name in names if name not in [item.name for item in items]]:
            raise ConfigError(f"The plan's {what} are {listed(item.name for item in items)}; got {listed(unknown)}.")
        if names:
            changes[what] = tuple(item for item in items if item.name in names)
    return replace(plan, **changes)
