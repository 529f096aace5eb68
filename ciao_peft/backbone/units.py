"""Convolution units: a convolution with the normalisation and activation that directly follow it."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import TargetModulesError, listed

__all__ = ["FunctionStep", "UnitSpec", "activation_step", "check_targets", "is_activation", "no_convolution"]

_ACTIVATION_FUNCTIONS = {
    getattr(F, name): name
    for name in ("relu", "relu6", "silu", "gelu", "hardswish", "leaky_relu", "elu", "mish", "hardtanh", "selu", "celu")
} | {torch.relu: "relu", torch.relu_: "relu", F.relu_: "relu"}
_ACTIVATION_METHODS = {"relu": "relu", "relu_": "relu"}


class FunctionStep(nn.Module):
    """A module for an activation that the backbone calls as a function of `torch.nn.functional`.

    Args:
        function: Name of the function.
        kwargs: Its settings; `inplace` is left out.

    Shapes:
        Input and output: `(*)`, any shape.

    Example:
        >>> FunctionStep("leaky_relu", {"negative_slope": 0.5, "inplace": True})(torch.tensor([-2.0, 2.0]))
        tensor([-1.,  2.])
    """

    function: str
    kwargs: dict[str, Any]

    def __init__(self, function: str, kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.function = function
        self.kwargs = {name: value for name, value in kwargs.items() if name != "inplace"}

    def forward(self, x: Tensor) -> Tensor:
        return getattr(F, self.function)(x, **self.kwargs)


@dataclass(frozen=True)
class UnitSpec:
    """Where a convolution unit is in a backbone, and the shapes of its input and its answer.

    Args:
        conv: Path of the convolution.
        steps: For each of `conv`, `norm` and `act` that is there, the path of its module, or a step for its function.
        in_shape: `(C, H, W)` of its input.
        out_shape: `(C', H', W')` of its answer u.

    Shapes:
        Input of a unit that `build` made: `(B, C, H, W)`; output `(B, C', H', W')`.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        >>> spec = UnitSpec("0", (("conv", "0"), ("act", "1")), in_shape=(3, 16, 16), out_shape=(8, 14, 14))
        >>> spec.build(net)(torch.rand(4, *spec.in_shape)).shape
        torch.Size([4, 8, 14, 14])
    """

    conv: str
    steps: tuple[tuple[str, str | FunctionStep], ...] = field(compare=False)
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]

    @property
    def sides(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """`(H', W')` of its answer and `(H, W)` of its input."""
        return (self.out_shape[1], self.out_shape[2]), (self.in_shape[1], self.in_shape[2])

    def build(self, backbone: nn.Module, empty: bool = False) -> nn.Sequential:
        """Copies the unit out of a backbone, in eval mode.

        Args:
            backbone: The network, or a copy of it.
            empty: Leave the values out: the tensors are then on the meta device.

        Example:
            >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
            >>> spec = UnitSpec("0", (("conv", "0"), ("act", "1")), in_shape=(3, 16, 16), out_shape=(8, 14, 14))
            >>> torch.equal(spec.build(net).conv.weight, net[0].weight), spec.build(net, empty=True).conv.weight.device
            (True, device(type='meta'))
        """
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        for name, step in self.steps:
            module = backbone.get_submodule(step) if isinstance(step, str) else step
            modules[name] = copy.deepcopy(module, _without_values(module) if empty else None)
        return nn.Sequential(modules).eval()

    def geometry(self, backbone: nn.Module) -> dict[str, Any]:
        """The convolution's settings and shapes as plain data; an adapter fits where these are equal.

        Example:
            >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
            >>> spec = UnitSpec("0", (("conv", "0"), ("act", "1")), in_shape=(3, 16, 16), out_shape=(8, 14, 14))
            >>> geometry = spec.geometry(net)
            >>> geometry["kernel_size"], geometry["steps"], geometry["out_shape"]
            ([3, 3], ['conv', 'act'], [8, 14, 14])
        """
        conv = cast(nn.Conv2d, backbone.get_submodule(self.conv))
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
    """Whether a module is an activation layer of torch, or of a library that keeps them in `activations`.

    Example:
        >>> is_activation(nn.SiLU()), is_activation(nn.BatchNorm2d(8))
        (True, False)
    """
    kind = type(module)
    in_torch = kind.__module__ == "torch.nn.modules.activation" and kind is not nn.MultiheadAttention
    return in_torch or "activations" in kind.__module__


def activation_step(target: str | Callable[..., Any], kwargs: dict[str, Any]) -> FunctionStep | None:
    """The activation that a call in a graph is, or None where it is none or has settings that are no plain data.

    Args:
        target: The function, or the name of the method.
        kwargs: The settings of the call.

    Example:
        >>> activation_step(F.relu, {"inplace": True}).function, activation_step(torch.add, {}) is None
        ('relu', True)
    """
    name = _ACTIVATION_METHODS.get(target) if isinstance(target, str) else _ACTIVATION_FUNCTIONS.get(target)
    plain = all(isinstance(value, (bool, int, float, str)) for value in kwargs.values())
    return FunctionStep(name, kwargs) if name and plain else None


def no_convolution(backbone: nn.Module) -> str:
    """The message about a network that has nothing to mask."""
    return (
        f"{type(backbone).__name__} has no convolution with an output larger than 1x1 on the way to its output; CIAO "
        "masks the last convolution of a convolutional network. Is `input_size` the one it was made for?"
    )


def check_targets(backbone: nn.Module, targets: tuple[str, ...], spatial: dict[str, int]) -> None:
    """Refuses `target_modules` that cannot all carry a mask.

    Args:
        backbone: The network.
        targets: Paths given in the config.
        spatial: How often each spatial convolution on the way to the output runs in one pass, by path.

    Raises:
        TargetModulesError: a path is unknown, is no convolution, does not run, or runs twice.

    Example:
        >>> check_targets(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), ("1",), {"0": 1})
        Traceback (most recent call last):
        ...
        ciao_peft.errors.TargetModulesError: `target_modules` names '1', a ReLU; a mask sits on a Conv2d. \
Convolutions of this backbone that a mask can sit on end with: 0.
    """
    modules = dict(backbone.named_modules())
    maskable = (
        f"Convolutions of this backbone that a mask can sit on end with: {', '.join(list(spatial)[-8:]) or 'none'}."
    )
    for path in targets:
        if path not in modules:
            close = [name for name in spatial if name.endswith(path)]
            hint = f"Did you mean {listed(close[:5])}? " if close else ""
            raise TargetModulesError(f"`target_modules` names {path!r}, which matches no module. {hint}{maskable}")
        if not isinstance(modules[path], nn.Conv2d):
            kind = type(modules[path]).__name__
            raise TargetModulesError(f"`target_modules` names {path!r}, a {kind}; a mask sits on a Conv2d. {maskable}")
        if spatial.get(path, 0) != 1:
            times = "more than once" if spatial.get(path, 0) > 1 else "not at all on a map larger than 1x1"
            raise TargetModulesError(f"`target_modules` names {path!r}, which runs {times} in one pass. {maskable}")
