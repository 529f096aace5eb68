"""What `tune` tries: forms of the mask, heads and losses, and the same heads without a mask."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

from ...config import CIAOConfig
from ...errors import ConfigError, quoted
from ...trainer import CIAOTrainingArguments, recipe_settings
from ..plan import Method

Part: TypeAlias = Mapping[str, dict[str, Any]]
Trains: TypeAlias = Literal["mask", "last convolution", "head"]

MASKS: Part = {
    "rescaled": {"inhibition_form": "rescaled"},
    "rescaled, excitation 32": {"inhibition_form": "rescaled", "excitation_rank": 32},
    "subtractive": {"inhibition_form": "subtractive"},
    # E and I of the shunting equation, both; in the gain form, which starts from the network as it is.
    "shunting, rank 16": {"inhibition_form": "gain", "inhibition_rank": 16, "excitation_rank": 16},
}
WITHOUT_MASK: Part = {
    "no mask": {"inhibition": False, "contrastive_weight": 0.0},
    "last convolution": {"inhibition": False, "contrastive_weight": 0.0, "tuning": "last_conv"},
}
HEADS: Part = {
    "flat": {"hidden_sizes": [256]},
    "compact": {"spatial_maps": 8, "hidden_sizes": []},
}
_COMPACT_HEAD_RATE = 3e-3  # few numbers to read; each has to weigh more
_NO_CONTRAST: dict[str, Any] = {"contrastive_weight": 0.0}
_LESS_CONTRAST: dict[str, Any] = {"contrastive_weight": 0.1}

_LOSSES: dict[str, Part] = {
    "single_label_classification": {
        "contrastive": _LESS_CONTRAST,
        "contrastive, weight 1": {},
        "class average": {"contrastive_denominator": "class_average"},
    },
    "regression": {"contrastive": _LESS_CONTRAST, "no contrastive": _NO_CONTRAST},
    "multi_label_classification": {
        "contrastive": _LESS_CONTRAST,
        "same set": {**_LESS_CONTRAST, "multi_label_positives": "same_set"},
        "no contrastive": _NO_CONTRAST,
    },
}
_ADJUSTMENTS: Part = {f"adjusted {by:g}": {"logit_adjustment": by} for by in (0.25, 0.5)}


def make_candidates(
    problem_type: str, metric: str, recipe: str, *, depths: int | None = None, mask_rates: bool = False
) -> tuple[Method, ...]:
    """The candidates for a problem: every form with every head and loss, and every head without a mask.

    Losses that learn rare classes at the cost of common ones are tried where the metric counts classes alike.

    Args:
        problem_type: As in `CIAOConfig`.
        metric: By which they will be compared.
        recipe: Whose rates they have.
        depths: Also try the compact head with as many earlier units of the trunk beside the map.
        mask_rates: Also try a third and three times the recipe's rate of the mask.

    Raises:
        ConfigError: there is no such recipe.

    Example:
        >>> tried = make_candidates("single_label_classification", "accuracy", "default")
        >>> len(tried), tried[0].name, tried[0].config
        (28, 'no mask, flat', {'inhibition': False, 'contrastive_weight': 0.0, 'hidden_sizes': [256]})
        >>> len(make_candidates("single_label_classification", "balanced_accuracy", "default"))
        52
    """
    heads = dict(HEADS)
    if depths is not None:
        heads[f"compact, depths {depths}"] = {**HEADS["compact"], "depths": depths}
    losses, bare = dict(_LOSSES[problem_type]), {"": {}}
    if problem_type == "single_label_classification" and metric != "accuracy":
        losses |= {f"class average, {name}": {**losses["class average"], **own} for name, own in _ADJUSTMENTS.items()}
        bare |= _ADJUSTMENTS
    if problem_type == "regression":
        ccc = {"regression_loss": "ccc"}
        losses |= {f"{name}, ccc": {**own, **ccc} for name, own in losses.items()}
        bare |= {"ccc": ccc}
    factors = (1.0, 1 / 3, 3.0) if mask_rates else (1.0,)
    bare_ones = itertools.product(*map(_items, (WITHOUT_MASK, heads, bare)))
    candidates = [_candidate(*parts, recipe=recipe) for parts in bare_ones]
    for parts in itertools.product(*map(_items, (MASKS, heads, losses))):
        candidates += [_candidate(*parts, recipe=recipe, factor=factor) for factor in factors]
    return tuple(candidates)


def _items(part: Part) -> list[tuple[str, dict[str, Any]]]:
    return [*part.items()]


def _candidate(*parts: tuple[str, dict[str, Any]], recipe: str, factor: float = 1.0) -> Method:
    config: dict[str, Any] = {}
    for _, own in parts:
        config |= own
    name = ", ".join(name for name, _ in parts if name) + (f", mask rate x {factor:.2g}" if factor != 1 else "")
    arguments: dict[str, Any] = {"learning_rate": _COMPACT_HEAD_RATE} if config.get("spatial_maps") else {}
    full = CIAOTrainingArguments.recipe(recipe, _as_config(config), **arguments)
    trains = what_trains(config)
    rate = {"mask": "mask_learning_rate", "last convolution": "encoder_learning_rate", "head": "learning_rate"}[trains]
    part = {"mask": "mask", "last convolution": "encoder", "head": "head"}[trains]
    value = float(f"{full.learning_rates(config.get('tuning', 'decision_layer'))[part] * factor:.3g}")
    kind = "network" if trains == "mask" else "rival"
    return Method(name=name, kind=kind, config=config, arguments=arguments, rate=rate, rates=(value,))


def _as_config(config: Mapping[str, Any]) -> CIAOConfig:
    """An adapter with these settings, whatever its labels."""
    about = {name: value for name, value in config.items() if name not in ("logit_adjustment", "multi_label_positives")}
    kind = "single_label_classification" if "contrastive_denominator" in config else "regression"
    return CIAOConfig.from_dict({"problem_type": kind, "num_labels": 2, **about})


def what_trains(config: Mapping[str, Any]) -> Trains:
    """What a method trains besides its head: a mask, an own copy of the last convolution, or nothing.

    Example:
        >>> [what_trains(config) for config in ({}, {"inhibition": False}, {"excitation_rank": 4, "inhibition": False})]
        ['mask', 'head', 'mask']
    """
    if config.get("inhibition", True) or config.get("excitation_rank", 0):
        return "mask"
    return "head" if config.get("tuning", "decision_layer") == "decision_layer" else "last convolution"


def head_of(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """Equal for methods whose heads have one shape.

    Example:
        >>> head_of({"hidden_sizes": (256,)}) == head_of({"inhibition": False}) != head_of({"hidden_sizes": ()})
        True
    """
    names = ("pooling", "spatial_maps", "hidden_sizes", "depths", "depth_grid", "frames", "recurrent_size")
    defaults = {part.name: part.default for part in dataclasses.fields(CIAOConfig)}
    values = [config.get(name, defaults[name]) for name in names]
    return tuple(tuple(value) if isinstance(value, (list, tuple)) else value for value in values)


def with_baselines(methods: Iterable[Method], recipe: str) -> tuple[Method, ...]:
    """Candidates of one's own, and, for each of their heads, that head without a mask and the last convolution.

    Args:
        methods: Of this library's adapters, trained from stored features.
        recipe: Whose rates the added ones have.

    Raises:
        ConfigError: a method trains something else.

    Example:
        >>> mine = Method(name="mine", config={"hidden_sizes": [64]}, rates=(0.01,))
        >>> [method.name for method in with_baselines([mine], "default")]
        ['mine', 'no mask, head of mine', 'last convolution, head of mine']
    """
    methods = tuple(methods)
    for given in methods:
        if not isinstance(given, Method):
            raise ConfigError(f"`candidates` must hold `Method(name=..., config=...)`; got {quoted(given)}.")
    there = {(what_trains(method.config), head_of(method.config)) for method in methods}
    added: list[Method] = []
    for method in methods:
        if method.baseline is not None or method.needs != "features" or len(method.rates) != 1:
            raise ConfigError(
                f"The candidate {quoted(method.name)} must be an adapter of this library on stored features, with one "
                "rate: without `baseline`, with `needs='features'` and one of `rates`."
            )
        names = (
            "pooling",
            "spatial_maps",
            "hidden_sizes",
            "depths",
            "depth_grid",
            "logit_adjustment",
            "regression_loss",
        )
        head = {name: method.config[name] for name in names if name in method.config}
        for name, config in WITHOUT_MASK.items():
            twin = what_trains(config), head_of(head)
            if twin not in there:
                there.add(twin)
                added.append(_candidate((f"{name}, head of {method.name}", {**config, **head}), recipe=recipe))
    return (*methods, *added)


def settings_of_recipe(recipe: str) -> dict[str, Any]:
    """What every candidate has of a recipe; the rate of the mask is its own.

    Example:
        >>> "mask_learning_rate" in settings_of_recipe("default"), settings_of_recipe("default")["views"]
        (False, 2)
    """
    return {name: value for name, value in recipe_settings(recipe).items() if name != "mask_learning_rate"}
