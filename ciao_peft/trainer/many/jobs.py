"""What is trained together with others, what comes out, and which trainings are alike."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...adapters import kind_of
from ...backbone import CutBackbone
from ...errors import DivergenceError
from ..arguments import CIAOTrainingArguments
from ..outputs import TrainOutput
from ..trainer import CIAOTrainer

__all__ = ["AdapterJob", "AdapterTraining", "alike", "sorted_alike"]


@dataclass(frozen=True, kw_only=True)
class AdapterJob:
    """One of the trainings of `train_adapters`.

    Args:
        adapter_name: Which adapter of the model.
        args: Its settings; those of `CIAOTrainingArguments()` when left out.
        labels: Of `train_dataset`, in place of its own: another world on the same faces. Needs stored features.
        eval_labels: The same of `eval_dataset`.
        compute_metrics, on_log: As for `CIAOTrainer`. What `on_log` raises ends all trainings that run with it.

    Shapes:
        labels, eval_labels: `(N,)` or `(N, num_labels)`, of all samples.

    Example:
        >>> job = AdapterJob(adapter_name="fer", args=CIAOTrainingArguments(seed=7))
        >>> job.args.seed, job.labels is None
        (7, True)
    """

    adapter_name: str
    args: CIAOTrainingArguments = field(default_factory=CIAOTrainingArguments)
    labels: Tensor | None = None
    eval_labels: Tensor | None = None
    compute_metrics: Callable[[Tensor, Tensor], dict[str, float]] | None = None
    on_log: Callable[[dict[str, Any]], None] | None = None


@dataclass(kw_only=True)
class AdapterTraining:
    """What came out of one job of `train_adapters`; the adapter itself is in the model.

    Args:
        trainer: Saves, scores and describes the adapter, as though it had trained it by itself.
        output: What `CIAOTrainer.train` returns; None where training diverged. Of trainings that ran together, each
            has its share of the seconds.
        error: Why there is no output. The adapter is then the best or last finite one.
        together: How many trainings ran in one loop with this one, itself included.

    Example:
        >>> from torch import nn
        >>> from ciao_peft import CIAOConfig, get_ciao_model
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        >>> model = get_ciao_model(net, CIAOConfig(problem_type="regression", num_labels=1), input_size=(3, 8, 8))
        >>> AdapterTraining(trainer=CIAOTrainer(model), output=TrainOutput(4, 0.5, {})).output.global_step
        4
    """

    trainer: CIAOTrainer
    output: TrainOutput | None = None
    error: DivergenceError | None = None
    together: int = 1

    @property
    def log_history(self) -> list[dict[str, Any]]:
        """Entries of the training's log."""
        return self.trainer.log_history


def alike(trainer: CIAOTrainer, labels: Tensor) -> Hashable | None:
    """Equal for two trainings on the same features that can run in one loop; None where one has to run by itself.

    Args:
        trainer: Of the adapter.
        labels: Of the training data.
    """
    args, model = trainer.args, trainer.model
    adapter = model.adapters[trainer.adapter_name]
    config, kind = adapter.config, kind_of(adapter)
    opened = model._frozen.opened_at(config.target_modules)
    if (
        kind is None
        or not isinstance(opened, CutBackbone)
        or not opened.keeps_rows
        or config.frames is not None
        or config.train_batch_norm
        or config.contrastive_prototypes != "none"
        or args.two_steps
        or args.average_last
        or args.gradient_accumulation_steps > 1
        or args.output_dir is not None
        or args.compile
        or trainer.accelerator.num_processes > 1
        or trainer.accelerator.scaler is not None
    ):
        return None
    losses = (
        *(config.problem_type, config.regression_loss, config.multi_label_positives, config.contrastive_weight > 0),
        *(config.contrastive_denominator, config.contrastive_reduction, config.tuning, config.dropout > 0),
    )
    batches = (args.per_device_train_batch_size, args.per_device_eval_batch_size, args.bf16, args.views, labels.ndim)
    return kind, config.target_modules, adapter.depths, losses, batches


def sorted_alike(kinds: Sequence[Hashable | None]) -> list[list[int]]:
    """Places of equal kinds together, in order of first appearance; None is like nothing.

    Example:
        >>> sorted_alike(["a", None, "b", "a", None])
        [[0, 3], [1], [2], [4]]
    """
    groups: dict[Hashable, list[int]] = {}
    for place, kind in enumerate(kinds):
        groups.setdefault(("alone", place) if kind is None else ("alike", kind), []).append(place)
    return list(groups.values())
