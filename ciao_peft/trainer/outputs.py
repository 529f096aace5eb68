"""What training and prediction return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from ..errors import TrainingError, shortened
from .best import Best
from .running_loss import RunningLoss


class TrainOutput(NamedTuple):
    """What `CIAOTrainer.train` returns, named as in transformers.

    Args:
        global_step: Updates made.
        training_loss: Mean loss over them.
        metrics: `train_loss`, `train_runtime` in seconds, updates and samples per second, and the best evaluation, if
            there was one, as `best_<metric>` and `best_step`.

    Example:
        >>> output = TrainOutput(global_step=40, training_loss=0.5, metrics={"train_loss": 0.5})
        >>> output.global_step
        40
    """

    global_step: int
    training_loss: float
    metrics: dict[str, Any]


def summed_up(losses: RunningLoss, best: Best, step: int, made: int, samples: float, seconds: float) -> TrainOutput:
    """What came out of a training.

    Args:
        losses: Of all updates.
        best: The best evaluation.
        step: Updates made, also before this call of `train`.
        made: Updates made in it.
        samples: That it read for them.
        seconds: That it took.

    Example:
        >>> import torch
        >>> from ciao_peft import CIAOTrainingArguments
        >>> best = Best(CIAOTrainingArguments(), "regression")
        >>> output = summed_up(RunningLoss(torch.device("cpu")), best, step=40, made=40, samples=320.0, seconds=2.0)
        >>> output.metrics["train_steps_per_second"], output.metrics["train_samples_per_second"]
        (20.0, 160.0)
    """
    metrics: dict[str, Any] = {
        "train_loss": losses.mean(),
        "train_runtime": round(seconds, 3),
        "train_steps_per_second": round(made / seconds, 3) if seconds > 0 else 0.0,
        "train_samples_per_second": round(samples / max(seconds, 1e-9), 3),
    }
    if best.step is not None:
        metrics |= {f"best_{best.metric}": best.value, "best_step": best.step}
    return TrainOutput(step, metrics["train_loss"], metrics)


class PredictionOutput(NamedTuple):
    """What `CIAOTrainer.predict` returns.

    Args:
        logits: `(N, num_labels)` in float32 on the CPU, in the order of the dataset.
        labels: `(N,)` or `(N, num_labels)`, as the losses take them; None for a dataset without labels.
        metrics: `test_loss` and all scores with `test_` before their names; empty without labels.

    Example:
        >>> import torch
        >>> output = PredictionOutput(torch.tensor([[2.0, -1.0]]), None, {})
        >>> output.logits.argmax(dim=1).tolist()
        [0]
    """

    logits: Tensor
    labels: Tensor | None
    metrics: dict[str, float]


def checked_scores(scores: Any) -> dict[str, float]:
    """What a user's `compute_metrics` returned, as Python floats by name.

    Args:
        scores: What it returned.

    Raises:
        TrainingError: that is no dict, or a score is no number.

    Example:
        >>> checked_scores({"accuracy": 1})
        {'accuracy': 1.0}
    """
    if not isinstance(scores, Mapping):
        raise TrainingError(
            f"`compute_metrics` must return a dict of scores by name; got {type(scores).__name__}. Write, for example, "
            '`return {"accuracy": accuracy}`.'
        )
    checked: dict[str, float] = {}
    for name, value in scores.items():
        try:
            checked[str(name)] = float(value)
        except (TypeError, ValueError, RuntimeError):
            raise TrainingError(
                f"`compute_metrics` must return one number for each score; {name!r} is {shortened(repr(value))}. Take "
                "its mean, or give each part a name of its own."
            ) from None
    return checked
