"""How many updates a training takes, and what is due after which of them."""

from __future__ import annotations

import math

from ..errors import ConfigError
from .arguments import CIAOTrainingArguments

__all__ = ["batch_size_of", "count_updates", "is_due"]


def batch_size_of(args: CIAOTrainingArguments) -> int:
    """Samples of a micro-batch on each process.

    Args:
        args: Settings, completed.

    Raises:
        ConfigError: the settings are not completed, and leave it out.

    Example:
        >>> batch_size_of(CIAOTrainingArguments(per_device_train_batch_size=4))
        4
    """
    return int(_chosen(args, "per_device_train_batch_size"))


def _chosen(args: CIAOTrainingArguments, name: str) -> float:
    value: float | None = getattr(args, name)
    if value is None:
        raise ConfigError(f"`{name}` was left out; `arguments.completed(num_samples)` chooses it for the data.")
    return value


def count_updates(args: CIAOTrainingArguments, num_samples: int, num_processes: int = 1) -> tuple[int, int]:
    """The updates of an epoch and of the whole training.

    Args:
        args: Settings, completed.
        num_samples: Samples of the training data.
        num_processes: Processes that share a batch.

    Raises:
        ConfigError: the settings are not completed, and leave out what is needed.

    Example:
        >>> count_updates(CIAOTrainingArguments(num_train_epochs=2.5, per_device_train_batch_size=4), 10)
        (3, 8)
    """
    num_batches = math.ceil(num_samples / (batch_size_of(args) * num_processes))
    of_an_epoch = math.ceil(num_batches / args.gradient_accumulation_steps)
    if args.max_steps > 0:
        return of_an_epoch, args.max_steps
    return of_an_epoch, math.ceil(_chosen(args, "num_train_epochs") * of_an_epoch)


def is_due(strategy: str, steps: int | None, step: int, steps_per_epoch: int, total_steps: int) -> bool:
    """Whether an evaluation or a checkpoint is due after an update; one always is after the last.

    Args:
        strategy: `"no"`, `"epoch"` or `"steps"`.
        steps: Every how many updates, with `"steps"`.
        step: Updates made.
        steps_per_epoch, total_steps: Updates of an epoch and of the whole training.

    Example:
        >>> [step for step in range(1, 8) if is_due("steps", 3, step, steps_per_epoch=5, total_steps=7)]
        [3, 6, 7]
    """
    if strategy == "no":
        return False
    every = steps_per_epoch if strategy == "epoch" or steps is None else steps
    return step % every == 0 or step == total_steps
