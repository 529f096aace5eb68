"""Parameter groups with their own rates, and the loss that all processes take together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from ..config import CIAOConfig
from ..errors import TrainingError
from ..losses import Losses, total_loss
from ..model import CIAOModel
from .accelerator import gather_rows
from .arguments import CIAOTrainingArguments
from .loader import Batch


def batch_losses(
    reader: nn.Module,
    batch: Batch,
    config: CIAOConfig,
    autocast: AbstractContextManager[None],
    loss: Callable[..., Losses] = total_loss,
) -> Losses:
    """The losses of a micro-batch over the samples of all processes, the same on each of them.

    Args:
        reader: The reader of a `Job`, possibly wrapped.
        batch: What this process has of it, with labels.
        config: Of the adapter; decides both losses and their weights.
        autocast: Mixed precision for the model; the losses take full precision.
        loss: `total_loss`, or what `torch.compile` made of it.

    Returns:
        The total of Eq. 5, the task loss and the contrastive loss: scalars in float32.

    Raises:
        TrainingError: the batch has no labels.

    Example:
        >>> from contextlib import nullcontext
        >>> config = CIAOConfig(problem_type="regression", num_labels=1, contrastive_weight=0)
        >>> class Reader(nn.Module):
        ...     def forward(self, pixel_values):
        ...         return torch.zeros(len(pixel_values), 1), torch.ones(len(pixel_values), 4)
        >>> batch = Batch({"pixel_values": torch.zeros(2, 3, 8, 8)}, torch.tensor([[1.0], [3.0]]), [2])
        >>> batch_losses(Reader(), batch, config, nullcontext()).task_loss  # the mean of 1 and 9
        tensor(5.)
    """
    if batch.labels is None:
        raise TrainingError("A batch without labels has no loss.")
    with autocast:
        logits, embeddings, *prototypes = reader(**batch.inputs)
    if len(batch.counts) <= 1:
        return loss(logits.float(), embeddings.float(), batch.labels, config, *prototypes)
    width = logits.shape[1]
    both = gather_rows(torch.cat([logits.float(), embeddings.float()], dim=1), batch.counts)
    return loss(both[:, :width], both[:, width:], gather_rows(batch.labels, batch.counts), config, *prototypes)


def rates_on(optimizer: torch.optim.Optimizer, device: torch.device) -> Tensor:
    """Puts the rates of an optimiser on a device, where a CUDA graph reads them.

    Args:
        optimizer: As `make_optimizer` makes it.
        device: Of its parameters.

    Returns:
        `()`, the share of the peak rates that counts at an update; who sets it copies it into each group's `lr`.

    Example:
        >>> groups = {"head": [*nn.Linear(4, 2).parameters()]}
        >>> optimizer = make_optimizer(groups, CIAOTrainingArguments(), "decision_layer", "faces")
        >>> rates_on(optimizer, torch.device("cpu")), optimizer.param_groups[0]["lr"]
        (tensor(1.), tensor(0.0010))
    """
    for group in optimizer.param_groups:
        group["lr"] = torch.full((), group["peak"], dtype=torch.float32, device=device)
        if "capturable" in group:
            group["capturable"] = True
    # The first updates are made without a graph on purpose; torch would warn of them.
    optimizer._warned_capturable_if_run_uncaptured = True  # pyright: ignore[reportAttributeAccessIssue]
    return torch.ones((), dtype=torch.float32, device=device)


def rate_name(part: str) -> str:
    """What the log calls the learning rate of a part.

    Args:
        part: `mask`, `encoder` or `head`.

    Example:
        >>> rate_name("head"), rate_name("mask")
        ('learning_rate', 'mask_learning_rate')
    """
    return "learning_rate" if part == "head" else f"{part}_learning_rate"


def make_optimizer(
    parameter_groups: Mapping[str, list[nn.Parameter]], args: CIAOTrainingArguments, tuning: str, name: str
) -> torch.optim.Optimizer:
    """An optimiser with a group for each part, with and without weight decay.

    Each group has its part as `part` and its highest rate as `peak`. Biases, gains and the decay `a`, all of one
    dimension, have no weight decay.

    Args:
        parameter_groups: What is trained, by part: `mask`, `encoder` and `head`.
        args: Rates by part, and everything else.
        tuning: Of the adapter; where the rate of the encoder is left out, it depends on this.
        name: Of the adapter, for the message.

    Raises:
        TrainingError: nothing is trained.

    Example:
        >>> groups = {"head": [*nn.Linear(4, 2).parameters()]}
        >>> optimizer = make_optimizer(groups, CIAOTrainingArguments(), "decision_layer", "faces")
        >>> [(group["part"], group["peak"], group["weight_decay"]) for group in optimizer.param_groups]
        [('head', 0.001, 0.01), ('head', 0.001, 0.0)]
    """
    rates = args.learning_rates(tuning)
    groups = []
    for part, parameters in parameter_groups.items():
        for decayed in (True, False):
            own = [p for p in parameters if p.requires_grad and (p.ndim > 1) == decayed]
            if own:
                decay = args.weight_decay if decayed else 0.0
                groups.append({"params": own, "part": part, "peak": rates[part], "weight_decay": decay})
    if not groups:
        raise TrainingError(f"The adapter {name!r} has no trainable parameters: nothing could be learned.")
    for group in groups:
        group["lr"] = group["peak"]
    if args.optim == "sgd":
        momentum = args.sgd_momentum
        return torch.optim.SGD(groups, lr=args.learning_rate, momentum=momentum, nesterov=momentum > 0, fused=True)
    betas = (args.adam_beta1, args.adam_beta2)
    return torch.optim.AdamW(groups, lr=args.learning_rate, betas=betas, eps=args.adam_epsilon, fused=True)


def adapter_optimizer(model: CIAOModel, adapter_name: str | None = None, **settings: Any) -> torch.optim.Optimizer:
    """The optimiser of `CIAOTrainer` for any other loop: mask, own encoder and head each with its own rate.

    Args:
        model: Holds the adapter.
        adapter_name: Which adapter; the active one when left out.
        **settings: Those of `CIAOTrainingArguments` that are about the optimiser: `learning_rate`,
            `mask_learning_rate`, `encoder_learning_rate`, `weight_decay`, `optim`, `adam_beta1` and the like. When left
            out, the mask's rate is ten times that of the head.

    Returns:
        An optimiser whose `param_groups` have `lr`; schedulers scale all of them alike.

    Raises:
        ConfigError: a setting is of the wrong type or out of range.
        TypeError: an unknown setting.
        AdapterNotFoundError, NoActiveAdapterError: there is no such adapter.
        TrainingError: the adapter has nothing that is trained.

    Example:
        >>> from ciao_peft import get_ciao_model, load_encoder
        >>> model = get_ciao_model(load_encoder("small-face"), CIAOConfig(problem_type="regression", num_labels=2))
        >>> optimizer = adapter_optimizer(model, learning_rate=1e-3)
        >>> {group["part"]: group["lr"] for group in optimizer.param_groups}
        {'mask': 0.01, 'head': 0.001}
    """
    name = model.resolve_adapter(adapter_name)
    args = CIAOTrainingArguments(**settings)
    return make_optimizer(model.adapter_parameters(name), args, model.peft_config[name].tuning, name)
