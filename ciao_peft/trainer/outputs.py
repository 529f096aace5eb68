"""What training and prediction return."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


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
