"""Parameter groups with their own rates, and the loss that all processes take together."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from ..config import CIAOConfig
from ..errors import TrainingError
from ..losses import contrastive_loss, task_loss
from ..model import CIAOModel
from .accelerator import gather_rows
from .arguments import CIAOTrainingArguments
from .loader import Batch


class Reader(nn.Module):
    """A model as `DistributedDataParallel` and mixed precision wrap it: what they change is this, not the user's model.

    Args:
        model: Reads with its active adapter.

    Returns:
        Of `forward`: logits and embeddings, as tensors.
    """

    def __init__(self, model: CIAOModel):
        super().__init__()
        self.model = model

    def forward(self, **inputs: Any) -> tuple[Tensor, Tensor]:
        output = self.model(**inputs)
        return output.logits, output.embeddings


def losses(logits: Tensor, embeddings: Tensor, labels: Tensor, config: CIAOConfig) -> tuple[Tensor, Tensor, Tensor]:
    """`L_all`, `L_dm` and `L_CIAO` of Eq. 5: what `CIAOModel.forward` gives for labels.

    Example:
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2, contrastive_weight=0.5)
        >>> total, task, contrastive = losses(torch.rand(4, 2), torch.rand(4, 8), torch.tensor([0, 0, 1, 1]), config)
        >>> bool(total == task + 0.5 * contrastive)
        True
    """
    task = task_loss(logits, labels, config)
    if config.contrastive_weight == 0:
        return task, task, torch.zeros_like(task)
    contrastive = contrastive_loss(embeddings, labels, config)
    return task + config.contrastive_weight * contrastive, task, contrastive


def batch_losses(
    reader: nn.Module, batch: Batch, config: CIAOConfig, autocast: AbstractContextManager[None]
) -> tuple[Tensor, Tensor, Tensor]:
    """The losses of a micro-batch over the samples of all processes, the same on each of them.

    Args:
        reader: A `Reader`, possibly wrapped.
        batch: What this process has of it.
        config: Of the adapter.
        autocast: Mixed precision for the model; the losses take full precision.
    """
    with autocast:
        logits, embeddings = reader(**batch.inputs)
    width = logits.shape[1]
    both = gather_rows(torch.cat([logits.float(), embeddings.float()], dim=1), batch.counts)
    return losses(both[:, :width], both[:, width:], gather_rows(batch.labels, batch.counts), config)


def make_optimizer(model: CIAOModel, adapter_name: str, args: CIAOTrainingArguments) -> torch.optim.Optimizer:
    """An optimiser over what an adapter trains: a group for each part, with and without weight decay.

    Each group has its highest rate as `peak`. Biases, gains and the decay `a`, all of one dimension, are not decayed.

    Raises:
        TrainingError: the adapter trains nothing.
    """
    config = model.peft_config[adapter_name]
    rates = args.learning_rates(config.tuning)
    groups = []
    for part, parameters in model.adapter_parameters(adapter_name).items():
        for decayed in (True, False):
            own = [p for p in parameters if p.requires_grad and (p.ndim > 1) == decayed]
            if own:
                decay = args.weight_decay if decayed else 0.0
                groups.append({"params": own, "part": part, "peak": rates[part], "weight_decay": decay})
    if not groups:
        raise TrainingError(f"The adapter {adapter_name!r} has no trainable parameters: nothing could be learned.")
    for group in groups:
        group["lr"] = group["peak"]
    if args.optim == "sgd":
        momentum = args.sgd_momentum
        return torch.optim.SGD(groups, lr=args.learning_rate, momentum=momentum, nesterov=momentum > 0, fused=True)
    betas = (args.adam_beta1, args.adam_beta2)
    return torch.optim.AdamW(groups, lr=args.learning_rate, betas=betas, eps=args.adam_epsilon, fused=True)
