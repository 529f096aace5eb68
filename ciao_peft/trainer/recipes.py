"""Trainings by name: settings that go together, chosen once."""

from __future__ import annotations

from typing import Any, get_args

from ..checking import check_choice, check_known
from ..config import CIAOConfig, InhibitionForm
from ..errors import ConfigError

__all__ = ["RECIPES", "SMALL_WORLD", "recipe_for", "recipe_settings"]

SMALL_WORLD = 2_000
"""Samples below which a training that names no recipe is "small-data"."""

_SAME_FOR_ALL: dict[str, Any] = {
    "max_steps": -1,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-3,
    "weight_decay": 0.01,
    "optim": "adamw",
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "sgd_momentum": 0.9,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0,
    "max_grad_norm": 1.0,
    "class_balance": 0.5,
    "two_steps": False,
    "average_last": 0.0,
}

_PLAIN: dict[str, Any] = {
    **_SAME_FOR_ALL,
    "encoder_learning_rate": 3e-3,
    "warmup_ratio": 0.1,
    "class_balanced_batches": False,
}

RECIPES: dict[str, dict[str, Any]] = {
    "paper": {
        **_SAME_FOR_ALL,
        "num_train_epochs": 30,
        "per_device_train_batch_size": 64,
        "mask_learning_rate": None,
        "encoder_learning_rate": None,
        "warmup_ratio": 0.0,
        "class_balanced_batches": True,
        "views": 1,
    },
    "default": {**_PLAIN, "num_train_epochs": 12, "per_device_train_batch_size": 128, "views": 2},
    "small-data": {**_PLAIN, "num_train_epochs": 60, "per_device_train_batch_size": 32, "views": 2},
    "thorough": {
        **_PLAIN,
        "num_train_epochs": 24,
        "per_device_train_batch_size": 128,
        "views": 4,
        "average_last": 0.25,
    },
}
"""The settings of each recipe; those of a mask's form are added by `recipe_settings`."""

_MASK_RATES: dict[str, float] = {
    **dict.fromkeys(("rescaled", "divisive", "gain"), 1e-2),
    **dict.fromkeys(("additive", "subtractive"), 1e-3),
}


def recipe_for(num_samples: int) -> str:
    """The recipe of a training on as many samples.

    Example:
        >>> recipe_for(190), recipe_for(8_000)
        ('small-data', 'default')
    """
    return "small-data" if num_samples < SMALL_WORLD else "default"


def recipe_settings(name: Any, config: CIAOConfig | None = None) -> dict[str, Any]:
    """The settings of a recipe for an adapter.

    Args:
        name: Of the recipe.
        config: Of the adapter, whose form decides the rate of the mask; of the default form when left out.

    Returns:
        Settings of `CIAOTrainingArguments` by name.

    Raises:
        ConfigError: there is no such recipe.

    Example:
        >>> recipe_settings("default")["mask_learning_rate"], recipe_settings("small-data")["num_train_epochs"]
        (0.01, 60)
    """
    check_known("recipe", [name], [*RECIPES], "of CIAOTrainingArguments")
    if config is not None and not isinstance(config, CIAOConfig):
        raise ConfigError(f"`config` must be the CIAOConfig of the adapter; got {type(config).__name__}.")
    settings = dict(RECIPES[name])
    if "mask_learning_rate" not in settings:
        form = CIAOConfig.inhibition_form if config is None else config.inhibition_form
        check_choice("inhibition_form", form, get_args(InhibitionForm))
        settings["mask_learning_rate"] = _MASK_RATES[form]
    return settings
