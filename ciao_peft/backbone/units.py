"""Convolution units: a convolution with the normalisation and activation that directly follow it."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import TargetModulesError, listed

_ACTIVATION_FUNCTIONS = {
    getattr(F, name): name
    for name in ("relu", "relu6", "silu", "gelu", "hardswish", "leaky_relu", "elu", "mish", "hardtanh", "selu", "celu")
} | {torch.relu: "relu", torch.relu_: "relu", F.relu_: "relu"}
_ACTIVATION_METHODS = {"relu": "relu", "relu_": "relu"}


class FunctionStep(nn.Module):
    """An activation that the backbone calls as a function of `torch.nn.functional`, as a module."""

    def __init__(self, function: str, kwargs: dict[str, Any]):
        super().__init__()
        self.function = function
        self.kwargs = {name: value for name, value in kwargs.items() if name != "inplace"}

    def forward(self, x: Tensor) -> Tensor:
        return getattr(F, self.function)(x, **self.kwargs)


@dataclass(frozen=True)
class UnitSpec:
    """Where a convolution unit is in a backbone, and what comes in and out of it on one example.

    Args:
        conv: Path of the convolution.
        steps: Names (`conv`, `norm`, `act`) with the path of the module, or the function, that each is.
        in_shape: `(C, H, W)` of its input.
        out_shape: `(C', H', W')` of its answer u.
    """

    conv: str
    steps: tuple[tuple[str, str | FunctionStep], ...] = field(compare=False)
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]

    def build(self, backbone: nn.Module, empty: bool = False) -> nn.Sequential:
        """A copy of the unit with the backbone's values, or without any (`empty`, on the meta device), in eval mode."""
        modules = OrderedDict()
        for name, step in self.steps:
            module = backbone.get_submodule(step) if isinstance(step, str) else step
            modules[name] = copy.deepcopy(module, _without_values(module) if empty else None)
        return nn.Sequential(modules).eval()

    def geometry(self, backbone: nn.Module) -> dict[str, Any]:
        """What the convolution is, as plain data: an adapter fits where this is equal."""
        conv = backbone.get_submodule(self.conv)
        return {
            "in_channels": conv.in_channels,
            "out_channels": conv.out_channels,
            "kernel_size": list(conv.kernel_size),
            "stride": list(conv.stride),
            "padding": conv.padding if isinstance(conv.padding, str) else list(conv.padding),
            "dilation": list(conv.dilation),
            "groups": conv.groups,
            "bias": conv.bias is not None,
            "steps": [name for name, _ in self.steps],
            "in_shape": list(self.in_shape),
            "out_shape": list(self.out_shape),
        }


def _without_values(module: nn.Module) -> dict[int, Any]:
    """What `deepcopy` is to put in the place of whatever a state dict holds."""
    memo: dict[int, Any] = {}
    for tensor in module.state_dict(keep_vars=True).values():
        empty = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad) if is_parameter else empty
    return memo


def is_activation(module: nn.Module) -> bool:
    """Whether it is an activation layer, of torch or of a library that keeps its own in a module of that name."""
    kind = type(module)
    in_torch = kind.__module__ == "torch.nn.modules.activation" and kind is not nn.MultiheadAttention
    return in_torch or "activations" in kind.__module__


def activation_step(target: str | Callable, kwargs: dict[str, Any]) -> FunctionStep | None:
    """The activation that a graph's function or method call is, if it is one with plain settings."""
    name = _ACTIVATION_METHODS.get(target) if isinstance(target, str) else _ACTIVATION_FUNCTIONS.get(target)
    plain = all(isinstance(value, (bool, int, float, str)) for value in kwargs.values())
    return FunctionStep(name, kwargs) if name and plain else None


def no_convolution(backbone: nn.Module) -> str:
    """What to say of a network that has nothing to mask."""
    return (
        f"{type(backbone).__name__} has no convolution with an output larger than 1x1 on the way to its output; CIAO "
        "masks the last convolution of a convolutional network. Is `input_size` the one it was made for?"
    )


def check_targets(backbone: nn.Module, targets: tuple[str, ...], spatial: dict[str, int]) -> None:
    """Refuses `target_modules` that cannot all carry a mask.

    Args:
        targets: Paths given in the config.
        spatial: How often each spatial convolution on the way to the output runs in one pass, by path.

    Raises:
        TargetModulesError: a path is unknown, is no convolution, does not run, or runs twice.
    """
    modules = dict(backbone.named_modules())
    there = f"Convolutions of this backbone that a mask can sit on end with: {', '.join(list(spatial)[-8:]) or 'none'}."
    for path in targets:
        if path not in modules:
            close = [name for name in spatial if name.endswith(path)]
            hint = f"Did you mean {listed(close[:5])}? " if close else ""
            raise TargetModulesError(f"`target_modules` names {path!r}, which matches no module. {hint}{there}")
        if not isinstance(modules[path], nn.Conv2d):
            kind = type(modules[path]).__name__
            raise TargetModulesError(f"`target_modules` names {path!r}, a {kind}; a mask sits on a Conv2d. {there}")
        if spatial.get(path, 0) != 1:
            times = "more than once" if spatial.get(path, 0) > 1 else "not at all on a map larger than 1x1"
            raise TargetModulesError(f"`target_modules` names {path!r}, which runs {times} in one pass. {there}")
