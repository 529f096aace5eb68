"""Eq. 1: the inhibitory unit."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import InhibitionForm

DECAY_FLOOR = 1e-6
"""No step of any optimiser carries `a` below this, so that M stays finite where I is silent."""

DECAY_START = 3.0
"""Where `a` starts as long as nobody has looked at u."""


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class InhibitoryLayer(nn.Module):
    r"""Shunting inhibition of a frozen convolution unit (Eq. 1).

    $$M = \frac{u}{a + I}$$

    `u` is the answer of the backbone's last convolution unit; `I` that of a trainable copy fed with the same
    features, passed through a ReLU so that `I >= 0` whatever activation the backbone has; `a` a learned positive
    decay per channel. Where the copy answers strongly the mask is driven towards zero; where it is silent,
    `M = u / a`. The division runs in float32, whatever comes in (in float64 for float64).

    Args:
        conv_unit: The unit to copy: its children, in order, are the convolution and the normalisation and activation
            that directly follow it. Copied, not kept; the copy is trained in float32.
        num_channels: Channels `C'` of its output.
        decay_init: Starting value of every entry of `a`, above 1e-6, in the units of the activation.
        form: `"divisive"`; or, to compare with, `"additive"`: `M = (u + I) / a`, or `"subtractive"`: `M = (u - I) / a`.
        learn_decay: Whether `a` is learned.
        generator: Draws the weights of the copy anew, as a fresh convolution has them; they stay copied when left out.

    Shapes:
        features: `(B, C, H, W)`; excitation and output: `(B, C', H', W')`, the output in the excitation's dtype.

    Example:
        >>> conv_unit = nn.Sequential(nn.Conv2d(8, 16, kernel_size=3), nn.ReLU())
        >>> layer = InhibitoryLayer(conv_unit, num_channels=16)
        >>> features = torch.rand(4, 8, 6, 6)
        >>> layer(features, conv_unit(features)).shape
        torch.Size([4, 16, 4, 4])
    """

    def __init__(
        self,
        conv_unit: nn.Sequential,
        num_channels: int,
        decay_init: float = DECAY_START,
        *,
        form: InhibitionForm = "divisive",
        learn_decay: bool = True,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.form = form
        self.steps = tuple(name for name, _ in conv_unit.named_children())
        for name, module in conv_unit.named_children():
            self.add_module(name, copy.deepcopy(module).float())
        self.raw_decay = nn.Parameter(torch.empty(num_channels))
        self.set_decay(decay_init)
        self.requires_grad_(True)
        self.raw_decay.requires_grad_(learn_decay)
        if generator is not None:
            self._start_anew(generator)

    def raw_of(self, decay: float) -> Tensor:
        """`raw_decay` where every entry of `a` is `decay`: the inverse of softplus, so that no step can carry `a` below
        the floor."""
        above_floor = torch.full(self.raw_decay.shape, float(decay)) - DECAY_FLOOR
        return above_floor + torch.log(-torch.expm1(-above_floor))

    @torch.no_grad()
    def set_decay(self, decay: float) -> None:
        """Sets every entry of `a`, to 1e-5 or more."""
        self.raw_decay.copy_(self.raw_of(decay))

    @torch.no_grad()
    def _start_anew(self, generator: torch.Generator) -> None:
        for name in self.steps:
            for module in getattr(self, name).modules():
                weight = getattr(module, "weight", None)
                if weight is None or weight.is_meta:
                    continue
                if weight.ndim < 3:  # normalisation and PReLU, whose fresh values are no random ones
                    if hasattr(module, "reset_parameters"):  # statistics that are frozen for good have none
                        module.reset_parameters()
                    continue
                bound = 1 / math.sqrt(weight[0].numel())
                for parameter in (weight, module.bias):
                    if parameter is not None:
                        drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
                        parameter.copy_(drawn)

    @property
    def decay(self) -> Tensor:
        """`a` of Eq. 1, `(C',)`, positive."""
        return F.softplus(_at_least_float32(self.raw_decay)) + DECAY_FLOOR

    def inhibition(self, features: Tensor) -> Tensor:
        """`I` of Eq. 1, `(B, C', H', W')`, at least 0."""
        answer = features.to(self.raw_decay.dtype)
        for name in self.steps:
            answer = getattr(self, name)(answer)
        return F.relu(answer)

    def gate(self, features: Tensor) -> Tensor:
        """`(B, C', H', W')` in float32 or wider: how much of u passes, `1 / (a + I)`; `1 / a` in the other forms."""
        decay, inhibition = self.decay.view(-1, 1, 1), _at_least_float32(self.inhibition(features))
        return 1 / (decay + inhibition) if self.form == "divisive" else (1 / decay).expand_as(inhibition)

    def forward(self, features: Tensor, excitation: Tensor) -> Tensor:
        decay, inhibition = self.decay.view(-1, 1, 1), _at_least_float32(self.inhibition(features))
        if self.form == "divisive":
            mask = _at_least_float32(excitation) / (decay + inhibition)
        else:
            sign = 1 if self.form == "additive" else -1
            mask = (_at_least_float32(excitation) + sign * inhibition) / decay
        if excitation.dtype in (torch.float16, torch.bfloat16):  # u / a may be more than half precision can hold
            largest = torch.finfo(excitation.dtype).max
            mask = mask.clamp(-largest, largest)
        return mask.to(excitation.dtype)
