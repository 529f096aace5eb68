"""One of several trainings in a loop: its data, its log, its best evaluation, and its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import DivergenceError
from ..best import Best
from ..course import batch_size_of, count_updates, is_due
from ..finite import LastFinite, all_finite_there
from ..history import History
from ..loader import BatchDataset
from ..outputs import summed_up
from ..running_loss import RunningLoss
from ..sampler import plan_epoch, positive_groups
from ..seeds import seed_of
from ..trainer import CIAOTrainer
from .jobs import AdapterTraining
from .losses import sample_targets
from .stacked import settings_key

__all__ = ["Member"]


class Member:
    """What a loop of many trainings keeps for one of them.

    Args:
        trainer: Of its adapter.
        source: Its training data.
        eval_source: Its evaluation data, if any.

    Attributes:
        steps_per_epoch, total_steps: Updates of an epoch and of the whole training.
        settings: Equal for two members whose parameters one optimiser can change.
        best: The best evaluation so far.
        history: The log.
        result: What came out, when it has ended.

    Shapes:
        targets: `(N,)`, what makes pairs of samples; None where it depends on the batch.
    """

    def __init__(self, trainer: CIAOTrainer, source: BatchDataset, eval_source: BatchDataset | None):
        self.trainer, self.source, self.eval_source = trainer, source, eval_source
        self.name, self.args = trainer.adapter_name, trainer.args
        self.adapter = trainer.model.adapters[self.name]
        self.labels: Tensor = source.known_labels
        self._groups = positive_groups(self.labels, self.adapter.config)
        self.steps_per_epoch, self.total_steps = count_updates(self.args, len(source))
        self.settings = settings_key(self.args, self.adapter.config.tuning, self.total_steps)
        self.targets: Tensor | None = sample_targets(self.labels, self.adapter.config)
        self.best = Best(self.args, self.adapter.config.problem_type)
        self.history = History(None)
        self.result: AdapterTraining | None = None
        self._losses = RunningLoss(torch.device("cpu"))

    def plan(self, epoch: int) -> tuple[list[np.ndarray], list[int]]:
        """The batches of an epoch, and the seed of each."""
        args = self.args
        balance = args.class_balance if args.class_balanced_batches else None
        plan = plan_epoch(self._groups, batch_size_of(args), seed=args.seed, epoch=epoch, balance=balance)
        return plan, [seed_of(args.seed, epoch, index, 0) for index in range(len(plan))]

    def is_due(self, step: int) -> bool:
        """Whether it is evaluated after an update."""
        strategy, steps = self.args.eval_strategy, self.args.eval_steps
        return self.eval_source is not None and is_due(strategy, steps, step, self.steps_per_epoch, self.total_steps)

    def logs(self, step: int) -> bool:
        """Whether its losses are logged after an update."""
        return step % self.args.logging_steps == 0 or step == self.total_steps

    def has_ended(self, step: int) -> bool:
        """Whether an update was its last one."""
        return step >= self.total_steps or self.best.ends_training

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds an entry to the log."""
        place = {"step": step, "epoch": round(step / self.steps_per_epoch, 4)}
        entry = self.history.add({**place, **values})
        if self.trainer.on_log is not None:
            self.trainer.on_log(dict(entry))

    def log_losses(
        self, step: int, window: list[float], sums: list[float], rates: dict[str, float], norm: float
    ) -> None:
        """Adds the mean losses since the last time.

        Args:
            step: Updates made.
            window, sums: As `RunningLoss` has them: since the last time, and of the whole training.
            rates: Learning rates, by the names of the log.
            norm: Of the gradients, before they were clipped.

        Raises:
            DivergenceError: the loss is NaN or infinite.
        """
        self._losses.restore(window, sums)
        entry: dict[str, Any] = dict(self._losses.take(step))
        if self.args.max_grad_norm > 0:
            entry["grad_norm"] = norm
        self.log(step, entry | rates)

    def evaluated(self, step: int, logits: Tensor, tensors: dict[str, Tensor]) -> None:
        """Notes an evaluation.

        Args:
            step: Updates made.
            logits: Of the evaluation data, on the CPU.
            tensors: Of the adapter, by name.

        Raises:
            DivergenceError: the adapter is better than before, and NaN or infinite.
        """
        assert self.eval_source is not None  # or nothing is due
        metrics = self.trainer._scores(logits, self.eval_source.known_labels, "eval_")
        self.log(step, metrics)
        if self.best.judge(metrics, step) and self.args.load_best_model_at_end:
            if not bool(all_finite_there(tensors.values())):
                raise DivergenceError(
                    f"At update {step} the adapter holds NaN or infinite values: training has diverged. Lower the "
                    "learning rates (the mask's first)."
                )
            self.best.keep(tensors)

    @torch.no_grad()
    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts values into the adapter of the model."""
        with self.adapter.held(training=False):
            own = {**dict(self.adapter.named_parameters()), **dict(self.adapter.named_buffers())}
            for name, tensor in tensors.items():
                own[name].copy_(tensor)

    def end(self, step: int, tensors: Mapping[str, Tensor], sums: list[float], seconds: float, together: int) -> None:
        """Puts the last adapter, or the best one, into the model, and sums the training up.

        Args:
            step: Updates made.
            tensors: Of the adapter, by name.
            sums: Of the losses of all updates, as `RunningLoss` has them.
            seconds: Its share of the time.
            together: Trainings in the loop.
        """
        self.write(tensors)
        if self.best.to_return_to is not None:
            self.adapter.load_state_dict(self.best.to_return_to)
        self._losses.restore([0.0] * 4, sums)
        samples = step * len(self.source) / self.steps_per_epoch
        output = summed_up(self._losses, self.best, step, step, samples, seconds)
        self.log(step, output.metrics)
        scores = self.history.scores_at(step if self.best.to_return_to is None else self.best.step)
        self.trainer.adopt(output, self.history.entries, scores)
        self.result = AdapterTraining(trainer=self.trainer, output=output, together=together)

    def diverge(self, error: DivergenceError, kept: Mapping[str, Tensor], kept_step: int, together: int) -> None:
        """Puts the best adapter, or the last finite one, into the model.

        Args:
            error: What was found.
            kept: The last finite tensors.
            kept_step: Of which update they are; below 0 where none were finite.
            together: Trainings in the loop.
        """
        self.write(kept)
        finite = LastFinite(self.adapter)
        if kept_step >= 0:
            finite.keep(kept_step)
        error = finite.put_back(error, self.best.tensors, self.best.step)
        self.trainer.adopt(None, self.history.entries, {})
        self.result = AdapterTraining(trainer=self.trainer, error=error, together=together)
