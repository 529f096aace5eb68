"""Which records a plan asks for, as far as a record can tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from ..config import CIAOConfig
from ..errors import ConfigError
from ..presets import PAPER, over_paper
from .plan import Encoder, Method, Plan, Task
from .records import PROTOCOL_VERSION, Record

Named = TypeVar("Named", Task, Encoder, Method)


def fits(record: Record, plan: Plan) -> bool:
    """Whether a plan, as it is now, asks for this training: its names, seed, rate, epochs, settings and protocol.

    Settings are compared as the key of a training has them: what is spelled out though it is the default is no
    difference, nor is what changes no result. The pictures, the weights of the encoder and the share of held-out people
    are told apart by the keys alone.

    Example:
        >>> from ciao_peft.study import plan_from_flags
        >>> plan = plan_from_flags(["faces=data"], ["small-face"], ["decision layer + CIAO"], seeds=3, epochs=2)
        >>> shared = dict(task="faces", dataset="imagefolder", encoder="small-face", encoder_revision="1", split="test")
        >>> shared |= dict(metric="accuracy", method="decision layer + CIAO", kind="network", scores={"accuracy": 0.8})
        >>> settings = dict(config={"tuning": "decision_layer"}, arguments={"mask_learning_rate": 0.01}, epochs=2.0)
        >>> [fits(Record(key="1", seed=seed, **shared, **settings), plan) for seed in (2, 3)]
        [True, False]
        >>> fits(Record(key="1", seed=2, **shared, **settings | {"epochs": 6.0}), plan)
        False
    """
    task, method = _named(plan.tasks, record.task), _named(plan.methods, record.method)
    if task is None or method is None or _named(plan.encoders, record.encoder) is None:
        return False
    rates = method.grid(plan.search_rates) if plan.search_rates else ()
    asked = dict(plan.arguments) | dict(method.arguments)
    epochs = asked.get("num_train_epochs", plan.epochs)
    seeds: Iterable[int] = plan.seeds
    if record.split == "validation":
        rates = rates if len(rates) > 1 else ()
        seeds = range(plan.search_seeds) if rates else ()
        epochs = epochs if plan.search_epochs is None else plan.search_epochs
    aside = method.rate if rates else None
    decisive = _decisive(asked, aside)
    return (
        decisive is not None
        and record.protocol == PROTOCOL_VERSION
        and record.seed in seeds
        and record.dataset == task.dataset
        and task.metric in (None, record.metric)
        and record.epochs == epochs
        and _rates_fit(record, method, rates)
        and _plain(record.settings) == _plain(method.settings)
        and differing(record.config, CIAOConfig) == differing(dict(task.config) | dict(method.config), CIAOConfig)
        and _decisive(record.arguments, aside) == decisive
    )


def differing(values: Mapping[str, Any], cls: type) -> dict[str, Any]:
    """What differs from the defaults of a config: a setting that a later version adds changes no key.

    Of `CIAOConfig`, what differs from the paper's preset; of `CIAOTrainingArguments`, from the paper's recipe.

    Example:
        >>> differing({"temperature": 0.2, "dropout": 0.5}, CIAOConfig)
        {'temperature': 0.2}
    """
    defaults = {part.name: _plain(part.default) for part in dataclasses.fields(cls)}
    paper = PAPER if cls is CIAOConfig else _paper_recipe()
    defaults |= {name: _plain(value) for name, value in paper.items()}
    if cls is CIAOConfig:
        values = _read_over_paper(values)
    aside = ("seed", "init_seed", "id2label")  # in the key by themselves, the names with the task
    plain = {name: _plain(value) for name, value in values.items() if name not in aside}
    return {name: value for name, value in plain.items() if value != defaults.get(name, dataclasses.MISSING)}


def spelled_out(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a method, and those that the paper's preset has for it and `CIAOConfig` would not have.

    For whoever takes the settings over the defaults of `CIAOConfig`.

    Example:
        >>> spelled_out({"temperature": 0.2})
        {'inhibition_form': 'divisive', 'excitation_rank': 0, 'contrastive_weight': 1.0, 'temperature': 0.2}
    """
    defaults = {part.name: part.default for part in dataclasses.fields(CIAOConfig)}
    return {**{name: value for name, value in PAPER.items() if value != defaults[name]}, **_read_over_paper(config)}


def training_spelled_out(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The same for the settings of a training, over the paper's recipe; the epochs are the plan's.

    Example:
        >>> training_spelled_out({"learning_rate": 0.002})["class_balanced_batches"]
        True
    """
    from ..trainer import CIAOTrainingArguments

    defaults = {part.name: part.default for part in dataclasses.fields(CIAOTrainingArguments)}
    missing = {name: value for name, value in _paper_recipe().items() if value != defaults[name]}
    missing.pop("num_train_epochs")
    return missing | dict(arguments)


def _read_over_paper(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are given, no others, as `over_paper` reads them."""
    read = over_paper(values)
    return {name: read[name] for name in values}


def _paper_recipe() -> dict[str, Any]:
    from ..trainer import RECIPES

    return RECIPES["paper"]


def _named(items: Iterable[Named], name: str) -> Named | None:
    return next((item for item in items if item.name == name), None)


def _rates_fit(record: Record, method: Method, rates: tuple[float, ...]) -> bool:
    """Whether the plan still tries what this was trained with; a rate that is not searched is one of the settings."""
    if not rates:
        return not record.fold_rates
    used = list(record.fold_rates.values())
    if record.split == "test" and len(rates) > 1 and bool(used) != ("folds" in record.samples):
        return False  # where rates are searched, every fold has its own
    return all(rate in rates for rate in used or [record.arguments.get(method.rate)])


def _decisive(arguments: Mapping[str, Any], rate: str | None) -> dict[str, Any] | None:
    """Settings of a training that decide its result, without the rate that is searched and without its epochs.

    `None` where they are none, such as those of another version.
    """
    from ..trainer import CIAOTrainingArguments

    aside = (rate, "num_train_epochs", "seed", "report_to", "eval_strategy")  # a study sets these by itself
    try:
        asked = {name: value for name, value in arguments.items() if name not in aside}
        settings = CIAOTrainingArguments.from_dict(_paper_recipe() | asked)
    except (ConfigError, TypeError):
        return None
    decisive = settings.weight_settings(may_go_on=False)
    return {name: value for name, value in decisive.items() if name != "num_train_epochs"}


def _plain(value: Any) -> Any:
    """As it comes back from JSON: tuples as lists."""
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
