"""One more class, or one more label, on the head of an adapter that is in use."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..adapters import Adapter
from ..config import CIAOConfig
from ..errors import ConfigError, quoted

__all__ = ["config_with", "grow_head", "imprint", "put_state"]

_BEHIND = 1.0  # logits by which a new class is behind the best of the old ones at first
_OFF = -4.0  # logit of a new label that may be on or off: a probability of 0.018


def config_with(config: CIAOConfig, names: Sequence[str]) -> CIAOConfig:
    """The settings of an adapter with more classes or labels.

    A new class gets the smallest share of `class_prior`, before all are scaled to sum to 1 again.

    Args:
        config: As it is.
        names: Of the new ones.

    Raises:
        ConfigError: the adapter regresses values, which are fixed; or a name is taken or empty.

    Example:
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2, class_prior=(0.75, 0.25))
        >>> [round(share, 2) for share in config_with(config, ["confused"]).class_prior]
        [0.6, 0.2, 0.2]
    """
    if config.problem_type == "regression":
        raise ConfigError("The adapter regresses values, whose number is fixed; only classes and labels can be added.")
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"A class is added by its name, a text; got {quoted(name)}.")
        if name in config.id2label.values():
            raise ConfigError(f"The adapter has {quoted(name)} already.")
    count = config.num_labels + len(names)
    prior = config.class_prior
    if prior is not None:
        shares = [*prior, *[min(prior)] * len(names)]
        prior = tuple(share / sum(shares) for share in shares)
    labels = {**config.id2label, **{config.num_labels + place: name for place, name in enumerate(names)}}
    return dataclasses.replace(config, num_labels=count, id2label=labels, class_prior=prior)


@torch.no_grad()
def grow_head(adapter: Adapter, names: Sequence[str]) -> None:
    """Gives the head of an adapter a row for each new class; every answer stays what it was.

    A row of one class of several starts as the mean of the rows, one lower: its logit is the mean of the others minus
    1, and so below the best of them for every face. A row of labels that are on or off starts at zero with a bias of
    -4. The logits of the old classes stay.

    Args:
        adapter: Of classes or labels; its config follows.
        names: Of the new classes.

    Raises:
        ConfigError: as for `config_with`.

    Example:
        >>> from ciao_peft.backbone import open_backbone
        >>> opened = open_backbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), (3, 16, 16))
        >>> adapter = Adapter(CIAOConfig(problem_type="single_label_classification", num_labels=2), opened)
        >>> seen = torch.rand(4, 8, 14, 14)
        >>> before, _ = adapter.decide(seen)
        >>> grow_head(adapter, ["confused"])
        >>> after, _ = adapter.decide(seen)
        >>> after.shape, torch.equal(after.argmax(dim=1), before.argmax(dim=1))
        (torch.Size([4, 3]), True)
    """
    config = config_with(adapter.config, names)
    head, single = adapter.head, config.problem_type == "single_label_classification"
    key = f"head.{head.num_layers - 1}"
    tensors = dict(adapter.state_dict())
    weight, bias = tensors[f"{key}.weight"], tensors[f"{key}.bias"]
    rows = weight.mean(dim=0, keepdim=True) if single else torch.zeros_like(weight[:1])
    start = bias.mean().reshape(1) - _BEHIND if single else torch.full_like(bias[:1], _OFF)
    tensors[f"{key}.weight"] = torch.cat([weight, rows.expand(len(names), -1)])
    tensors[f"{key}.bias"] = torch.cat([bias, start.expand(len(names))])
    if head.prototypes is not None:
        points = head.prototypes.detach()
        points = nn.functional.pad(points, (0, len(names))) if config.embedding_source == "logits" else points
        tensors["head.prototypes"] = nn.functional.pad(points, (0, 0, 0, len(names)))
    put_state(adapter, tensors, config)


@torch.no_grad()
def put_state(adapter: Adapter, tensors: Mapping[str, Tensor], config: CIAOConfig) -> None:
    """Makes an adapter what another state of it says; rows of its head may come or go.

    Args:
        adapter: Stays the same object, as do its parameters, but for those whose shape changes.
        tensors: One for each key of its `state_dict`; they are copied.
        config: The settings that belong to them.

    Example:
        >>> from ciao_peft.backbone import open_backbone
        >>> opened = open_backbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), (3, 16, 16))
        >>> adapter = Adapter(CIAOConfig(problem_type="single_label_classification", num_labels=2), opened)
        >>> before, config = {key: value.clone() for key, value in adapter.state_dict().items()}, adapter.config
        >>> grow_head(adapter, ["confused"])
        >>> put_state(adapter, before, config)
        >>> adapter.config.num_labels, all(torch.equal(adapter.state_dict()[key], before[key]) for key in before)
        (2, True)
    """
    for key, parameter in list(adapter.named_parameters()):
        if parameter.shape != tensors[key].shape:
            owner, _, name = key.rpartition(".")
            module = adapter.get_submodule(owner)
            setattr(
                module,
                name,
                nn.Parameter(tensors[key].detach().to(parameter.device, copy=True), parameter.requires_grad),
            )
            if isinstance(module, nn.Linear):
                module.out_features, module.in_features = module.weight.shape
    adapter.load_state_dict(dict(tensors))
    adapter.config = config


@torch.no_grad()
def imprint(adapter: Adapter, places: Sequence[int], hidden: Tensor, labels: Tensor, others: Tensor | None) -> None:
    r"""Lets the rows of new classes start from the mean of what the last layer is fed for their faces.

    $$w_c \leftarrow w_c + s \frac{\bar h_c - \bar h}{\lVert \bar h_c - \bar h \rVert} \qquad
      s = \frac{1}{C} \sum_{c'} \lVert w_{c'} - \bar w \rVert$$

    h̄ is the mean over other faces, of which all keep their answers: the bias goes down until each of them does. After
    weight imprinting (Qi et al. 2018). Does nothing without other faces: nobody could tell what it would change.

    Args:
        adapter: Whose head has the rows already.
        places: Numbers of the new classes.
        hidden: What the last layer is fed for the faces of the update, `(B, H)`.
        labels: Their labels, `(B, num_labels)`.
        others: The same of rehearsed faces, `(N, H)`.
    """
    if others is None or not len(others) or adapter.config.problem_type != "single_label_classification":
        return
    last: nn.Linear = getattr(adapter.head, str(adapter.head.num_layers - 1))
    old = last.weight[: min(places)]
    scale = (old - old.mean(dim=0)).norm(dim=1).mean()
    for place in places:
        own = hidden[labels[:, place] > 0]
        if not len(own):
            continue
        direction = own.mean(dim=0) - others.mean(dim=0)
        last.weight[place] += scale * direction / direction.norm().clamp(min=1e-12)
        logits = nn.functional.linear(others, last.weight, last.bias)
        best = logits[:, [row for row in range(logits.shape[1]) if row != place]].max(dim=1).values
        ahead = (logits[:, place] - best).max()
        last.bias[place] -= (ahead + 1e-3).clamp(min=0)
