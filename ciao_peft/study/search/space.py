"""Where a search looks, and what a trial's choice makes of a method."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ...checking import is_number, make_plain
from ...config import CIAOConfig
from ...errors import ConfigError, shortened
from ...presets import over_paper
from ..matching import spelled_out, training_spelled_out
from ..plan import Method

_WHOLE = ("hidden_layers", "hidden_size")
_FROM_ZERO = ("hidden_layers", "dropout")


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """From where to where each setting is searched, both ends included; equal ends fix it.

    All but depth and dropout are searched on a logarithmic scale.

    Args:
        hidden_layers: Dense ReLU layers of the head; 0 is a linear head.
        hidden_size: Units of each of them.
        dropout: After each of them.
        learning_rate: Of the head.
        mask_learning_rate: Of the mask, for methods that have one.
        encoder_learning_rate: Of the adapter's own copy of the last convolution, for methods that train one.
        temperature, contrastive_weight: Of the contrastive loss, for methods that have one.
        batch_size: The sizes to choose from.

    Raises:
        ConfigError: a range is none.

    Example:
        >>> SearchSpace(dropout=(0.5, 0.5)).names(Method(name="plain", config={"inhibition": False}))
        ['hidden_layers', 'hidden_size', 'dropout', 'learning_rate', 'temperature', 'contrastive_weight', 'batch_size']
    """

    hidden_layers: tuple[int, int] = (0, 3)
    hidden_size: tuple[int, int] = (32, 1024)
    dropout: tuple[float, float] = (0.0, 0.7)
    learning_rate: tuple[float, float] = (1e-4, 1e-2)
    mask_learning_rate: tuple[float, float] = (1e-4, 1e-1)
    encoder_learning_rate: tuple[float, float] = (1e-4, 1e-2)
    temperature: tuple[float, float] = (0.03, 1.0)
    contrastive_weight: tuple[float, float] = (0.01, 3.0)
    batch_size: tuple[int, ...] = (32, 64, 128)

    def __post_init__(self) -> None:
        make_plain(self)
        for part in fields(self):
            given = getattr(self, part.name)
            values = tuple(given) if isinstance(given, (list, tuple)) else ()
            whole = part.name in (*_WHOLE, "batch_size")
            low = 0 if part.name in _FROM_ZERO else 1 if whole else 1e-12
            fits = len(values) > 0 and all(is_number(value, int if whole else float, low) for value in values)
            if part.name == "batch_size":
                wanted = "sizes to choose from, each of 1 or more and there once"
                fits = fits and len(set(values)) == len(values)
            else:
                wanted = f"two {'whole ' * whole}numbers of {low:g} or more, the lower one first"
                fits = fits and len(values) == 2 and values[0] <= values[1]
            if not fits:
                raise ConfigError(f"`{part.name}` of a search must be {wanted}; got {shortened(repr(given))}.")
            object.__setattr__(self, part.name, values)

    def names(self, method: Method) -> list[str]:
        """The settings that mean something to a method."""
        config = CIAOConfig.from_dict(over_paper({"problem_type": "regression", "num_labels": 1, **method.config}))
        absent = set()
        if not config.inhibition and not config.excitation_rank:
            absent.add("mask_learning_rate")
        if config.tuning == "decision_layer":
            absent.add("encoder_learning_rate")
        if config.contrastive_weight == 0:
            absent |= {"temperature", "contrastive_weight"}
        return [part.name for part in fields(self) if part.name not in absent]

    def is_logarithmic(self, name: str) -> bool:
        """On which scale a setting is searched, and drawn.

        Example:
            >>> SearchSpace().is_logarithmic("learning_rate"), SearchSpace().is_logarithmic("dropout")
            (True, False)
        """
        return name not in (*_FROM_ZERO, "batch_size")

    def distributions(self, method: Method) -> dict[str, Any]:
        """The same as Optuna's distributions, by name."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        distributions: dict[str, Any] = {}
        for name in self.names(method):
            values = getattr(self, name)
            if name == "batch_size":
                distributions[name] = CategoricalDistribution(values)
            else:
                kind = IntDistribution if name in _WHOLE else FloatDistribution
                distributions[name] = kind(*values, log=self.is_logarithmic(name))
        return distributions


def method_with(method: Method, values: Mapping[str, Any]) -> Method:
    """A method with what a trial chose, to three digits, and with all that decides its adapter and its training.

    Args:
        method: What was searched for.
        values: By the names in `SearchSpace`.

    Example:
        >>> chosen = method_with(Method(name="plain"), {"hidden_layers": 2, "hidden_size": 64, "dropout": 1 / 3})
        >>> chosen.name, chosen.config["inhibition_form"], chosen.config["hidden_sizes"], chosen.config["dropout"]
        ('plain, searched', 'divisive', [64, 64], 0.333)
    """
    values = {name: float(f"{v:.3g}") if isinstance(v, float) else v for name, v in values.items()}
    config, arguments = spelled_out(method.config), training_spelled_out(method.arguments)
    config["hidden_sizes"] = [values.pop("hidden_size")] * values.pop("hidden_layers")
    for name, value in values.items():
        if name == "batch_size":
            arguments["per_device_train_batch_size"] = value
        else:
            (arguments if name.endswith("learning_rate") else config)[name] = value
    rates = (arguments[method.rate],) if method.rate in arguments else method.rates
    name = f"{method.name}, searched"
    return dataclasses.replace(method, name=name, config=config, arguments=arguments, rates=rates)
