"""The best evaluation of a training so far, and when there have been enough without a better one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import TrainingError
from ..metrics import higher_is_better, main_metric
from .arguments import CIAOTrainingArguments
from .checkpoint_state import CheckpointState


class Best:
    """Judges evaluations by the score that counts, and keeps the adapter that had the best one.

    Args:
        args: Which score counts, what is better, and how many evaluations without a gain are enough.
        problem_type: Picks the score where `args` name none.

    Attributes:
        metric: Name of the score, without `eval_`.
        value, step: The best one, and after which update; None before the first evaluation.
        tensors: The adapter then, on the CPU, where it was kept.
        is_returned_to: Whether training ends with it.
        is_on_disk: Whether this training has saved it.
        ends_training: Whether there were enough evaluations without a gain.

    Example:
        >>> best = Best(CIAOTrainingArguments(early_stopping_patience=1), "single_label_classification")
        >>> [best.judge({"eval_accuracy": accuracy}, step) for step, accuracy in ((1, 0.5), (2, 0.7), (3, 0.6))]
        [True, True, False]
        >>> best.metric, best.value, best.step, best.ends_training
        ('accuracy', 0.7, 2, True)
    """

    def __init__(self, args: CIAOTrainingArguments, problem_type: str):
        self.metric: str = (args.metric_for_best_model or main_metric(problem_type)).removeprefix("eval_")
        greater_is_better = args.greater_is_better
        if greater_is_better is None:
            greater_is_better = higher_is_better(self.metric)
        self._sign: int = 1 if greater_is_better else -1
        self._threshold, self._patience = args.early_stopping_threshold, args.early_stopping_patience
        self.is_returned_to: bool = args.load_best_model_at_end
        self.value: float | None = None
        self.step: int | None = None
        self.tensors: dict[str, Tensor] | None = None
        self.is_on_disk: bool = False
        self.ends_training: bool = False
        self._evaluations_without_gain = 0

    @property
    def to_return_to(self) -> dict[str, Tensor] | None:
        """The adapter that training is to end with, where that is not the last one."""
        return self.tensors if self.is_returned_to else None

    def judge(self, metrics: Mapping[str, float], step: int) -> bool:
        """Whether an evaluation after an update is better than all before it.

        Raises:
            TrainingError: the score that counts is not among its scores.
        """
        key = f"eval_{self.metric}"
        if key not in metrics:
            raise TrainingError(
                f"`metric_for_best_model` is {self.metric!r}; evaluation gives {', '.join(map(repr, sorted(metrics)))}."
            )
        value = metrics[key]
        gain = math.inf if self.value is None else self._sign * (value - self.value)
        if not math.isfinite(value):  # never the best: nothing would be better than NaN
            gain = -math.inf
        if gain > 0:
            self.value, self.step = value, step
        self._evaluations_without_gain = 0 if gain > self._threshold else self._evaluations_without_gain + 1
        self.ends_training = self._patience is not None and self._evaluations_without_gain >= self._patience
        return gain > 0

    def keep(self, tensors: Mapping[str, Tensor]) -> None:
        """Copies the adapter that was just found best."""
        self.tensors = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    def state(self) -> dict[str, Any]:
        """For a checkpoint, as plain data; the tensors go beside it."""
        return {
            "best": None if self.step is None else {"metric": self.value, "step": self.step},
            "evaluations_without_gain": self._evaluations_without_gain,
            "stopped_early": self.ends_training,
        }

    def restore(self, state: CheckpointState, tensors: dict[str, Tensor] | None) -> None:
        """Puts back what `state` gave, and the tensors."""
        self.value, self.step, self.tensors = state.best_value, state.best_step, tensors
        self._evaluations_without_gain, self.ends_training = state.evaluations_without_gain, state.stopped_early
