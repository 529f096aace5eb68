"""The tensors of many adapters in training, stacked; their gradients, their norms and their optimisers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..arguments import CIAOTrainingArguments
from ..optimizer import make_optimizer, rate_name
from ..trainer import CIAOTrainer

__all__ = ["StackedAdapters", "settings_key"]


def settings_key(args: CIAOTrainingArguments, tuning: str, total_steps: int) -> tuple[Any, ...]:
    """Equal for two trainings whose parameters one optimiser can change.

    Args:
        args: Settings of the training.
        tuning: Of its adapter.
        total_steps: Its updates.
    """
    rates = tuple(args.learning_rates(tuning).items())
    optimizer = (args.optim, args.weight_decay, args.adam_beta1, args.adam_beta2, args.adam_epsilon, args.sgd_momentum)
    return rates, optimizer, args.lr_scheduler_type, args.warmup_ratio, args.warmup_steps, total_steps


class StackedAdapters:
    """Parameters and buffers of alike adapters, with one more dimension in front, and an optimiser for each setting.

    Args:
        trainers: Of the adapters, those with equal settings one after the other.
        settings: For each what `settings_key` says.

    Attributes:
        tensors: By name in `state_dict`; those that training changes are leaves with gradients.

    Shapes:
        tensors: `(K, *shape)`.
    """

    tensors: dict[str, Tensor]

    def __init__(self, trainers: Sequence[CIAOTrainer], settings: Sequence[Any]):
        adapters = [trainer.model.adapters[trainer.adapter_name] for trainer in trainers]
        states = [{**dict(adapter.named_parameters()), **dict(adapter.named_buffers())} for adapter in adapters]
        self.tensors = {
            name: torch.stack([state[name] for state in states]).detach().requires_grad_(name in adapters[0].trainable)
            for name in states[0]
        }
        self._parts: list[_Part] = []
        first = 0
        while first < len(trainers):
            count = sum(key == settings[first] for key in settings[first:])
            own = slice(first, first + count)
            self._parts.append(_Part(trainers[first], self.tensors, own, settings[first][-1]))
            first += count

    def keep(self, places: Sequence[int]) -> None:
        """Lets go of all adapters but some, with what the optimisers know of them.

        Args:
            places: Of those to keep, in their order.
        """
        index = torch.tensor(places, device=next(iter(self.tensors.values())).device)
        for name, tensor in self.tensors.items():
            self.tensors[name] = tensor.detach().index_select(0, index).requires_grad_(tensor.requires_grad)
        parts, first = [], 0
        for part in self._parts:
            own = [place - part.own.start for place in places if part.own.start <= place < part.own.stop]
            if own:
                part.move_to(self.tensors, slice(first, first + len(own)), own)
                parts.append(part)
                first += len(own)
        self._parts = parts

    def step(self, step: int, largest_norms: Tensor) -> Tensor:
        """One update of every adapter, with its rates; afterwards there are no gradients.

        Args:
            step: Updates made before.
            largest_norms: `(K,)`; gradients of an adapter that are longer are scaled to it.

        Returns:
            `(K,)`, how long the gradients of each were before that.
        """
        trained = [tensor for tensor in self.tensors.values() if tensor.requires_grad]
        gradients = [tensor.grad for tensor in trained if tensor.grad is not None]
        norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
        factors = (largest_norms / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))
        for part in self._parts:
            part.step(self.tensors, step)
        for tensor in trained:
            tensor.grad = None
        return norms

    def rates(self, place: int) -> dict[str, float]:
        """The learning rates of an adapter at its last update, by the names that the log gives them."""
        part = next(part for part in self._parts if part.own.start <= place < part.own.stop)
        return {rate_name(name): rate for name, rate in part.rates.items()}

    def of(self, place: int) -> dict[str, Tensor]:
        """The tensors of one adapter, by name; what is done to them is done to the stack."""
        return {name: tensor.detach()[place] for name, tensor in self.tensors.items()}


class _Part:
    """The adapters of a stack that one optimiser changes, as it would change one of them.

    Args:
        trainer: Of the first of them.
        tensors: Of the stack.
        own: Where they are in it.
        total_steps: Updates of the whole training.
    """

    def __init__(self, trainer: CIAOTrainer, tensors: dict[str, Tensor], own: slice, total_steps: int):
        adapter = trainer.model.adapters[trainer.adapter_name]
        self.own, self.rates, self._args, self._total_steps = own, dict[str, float](), trainer.args, total_steps
        with adapter.held(training=True):
            names = {parameter: name for name, parameter in adapter.named_parameters()}
            groups, tuning = adapter.parameter_groups(), adapter.config.tuning
            self._optimizer = make_optimizer(groups, trainer.args, tuning, trainer.adapter_name)
        self._names = [[names[parameter] for parameter in group["params"]] for group in self._optimizer.param_groups]
        for group, own_names in zip(self._optimizer.param_groups, self._names, strict=True):
            group["params"] = [tensors[name].detach()[own] for name in own_names]

    def step(self, tensors: dict[str, Tensor], step: int) -> None:
        factor = self._args.rate_factor(step, self._total_steps)
        for group, names in zip(self._optimizer.param_groups, self._names, strict=True):
            self.rates[group["part"]] = group["lr"] = group["peak"] * factor
            for parameter, name in zip(group["params"], names, strict=True):
                gradient = tensors[name].grad
                parameter.grad = None if gradient is None else gradient[self.own]
        self._optimizer.step()
        self._optimizer.zero_grad()

    def move_to(self, tensors: dict[str, Tensor], own: slice, kept: list[int]) -> None:
        """Goes on with some of the adapters, which are elsewhere in another stack."""
        self.own = own
        for group, names in zip(self._optimizer.param_groups, self._names, strict=True):
            before, group["params"] = group["params"], [tensors[name].detach()[own] for name in names]
            for old, new in zip(before, group["params"], strict=True):
                state = self._optimizer.state.pop(old, {})
                index = torch.tensor(kept, device=old.device)
                self._optimizer.state[new] = {
                    name: value.index_select(0, index)
                    if isinstance(value, Tensor) and value.shape == old.shape
                    else value
                    for name, value in state.items()
                }
