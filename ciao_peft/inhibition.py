"""Eq. 1: the inhibitory unit."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._shapes import Float
from .config import InhibitionForm

__all__ = ["DECAY_FLOOR", "DECAY_START", "InhibitoryLayer"]

DECAY_FLOOR = 1e-6
"""No step of any optimiser carries `a` below this, so that M stays finite where I is silent."""

DECAY_START = 3.0
"""Where `a` starts until the spread of u has been measured (`ciao_peft.calibration.decay_start`)."""


def _at_least_float32(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class InhibitoryLayer(nn.Module):
    r"""Shunting inhibition of a frozen convolution unit (Eq. 1).

    $$M = \frac{u}{a + I}$$

    - `u`, the excitation, is the output of the backbone's last convolution unit;
    - `I`, the inhibition, is the output of a trainable copy of that unit for the same features, passed through a ReLU
      so that `I >= 0` whatever activation the backbone has;
    - `a`, the decay, is a learned positive number per channel.

    Where the copy responds strongly, the mask goes towards zero; where it is silent, `M = u / a`. The division runs in
    float32, whatever the dtype of the inputs (in float64 for float64).

    Args:
        conv_unit: The unit to copy. Its children, in order, are the convolution and the normalisation and activation
            that directly follow it. The layer keeps the copy only, and trains it in float32.
        num_channels: Channels `C'` of the unit's output.
        decay_init: Starting value of every entry of `a`, above 1e-6, in the units of the activation.
        form: `"divisive"`, which is Eq. 1; or, for comparison, `"additive"`: `M = (u + I) / a`, or `"subtractive"`:
            `M = (u - I) / a`.
        learn_decay: Whether `a` is learned.
        generator: Draws new weights for the copy, distributed as those of a fresh convolution. When left out, the
            copy starts with the unit's weights.

    Attributes:
        form: As given.
        steps: Names of the copied modules, in the order in which they run.
        raw_decay: The parameter behind `a`, `(C',)`: `a = softplus(raw_decay) + DECAY_FLOOR`.

    Shapes:
        - features: `(B, C, H, W)`, floating point; what the backbone's unit receives.
        - excitation: `(B, C', H', W')`, floating point; what the backbone's unit returns for them.
        - output: `(B, C', H', W')`, in the dtype of the excitation.

    Example:
        >>> conv_unit = nn.Sequential(nn.Conv2d(8, 16, kernel_size=3), nn.ReLU())
        >>> layer = InhibitoryLayer(conv_unit, num_channels=16)
        >>> features = torch.rand(4, 8, 6, 6)
        >>> mask = layer(features, conv_unit(features))
        >>> mask.shape
        torch.Size([4, 16, 4, 4])
        >>> torch.allclose(mask, conv_unit(features) / (layer.decay.view(-1, 1, 1) + layer.inhibition(features)))
        True
    """

    form: InhibitionForm
    steps: tuple[str, ...]
    raw_decay: nn.Parameter

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
        self.raw_decay = nn.Parameter(torch.empty(num_channels, dtype=torch.float32, device="cpu"))
        self.set_decay(decay_init)
        self.requires_grad_(True)
        self.raw_decay.requires_grad_(learn_decay)
        if generator is not None:
            self._start_anew(generator)

    def raw_of(self, decay: float) -> Float[Tensor, " channels"]:
        """The value of `raw_decay` for which every entry of `a` is `decay`.

        It is the inverse of softplus, so that no step of an optimiser can carry `a` below the floor.

        Args:
            decay: 1e-5 or more, in the units of the activation.

        Returns:
            `(C',)`, float32.

        Example:
            >>> layer = InhibitoryLayer(nn.Sequential(nn.Conv2d(8, 4, 3)), num_channels=4)
            >>> torch.allclose(F.softplus(layer.raw_of(0.5)) + DECAY_FLOOR, torch.full((4,), 0.5))
            True
        """
        above_floor = torch.full(self.raw_decay.shape, float(decay), dtype=torch.float32, device="cpu") - DECAY_FLOOR
        return above_floor + torch.log(-torch.expm1(-above_floor))

    @torch.no_grad()
    def set_decay(self, decay: float) -> None:
        """Sets every entry of `a`.

        Args:
            decay: 1e-5 or more, in the units of the activation.

        Example:
            >>> layer = InhibitoryLayer(nn.Sequential(nn.Conv2d(8, 4, 3)), num_channels=4)
            >>> layer.set_decay(0.5)
            >>> [round(value, 4) for value in layer.decay.tolist()]
            [0.5, 0.5, 0.5, 0.5]
        """
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
                        drawn = torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
                        drawn.uniform_(-bound, bound, generator=generator)
                        parameter.copy_(drawn)

    @property
    def decay(self) -> Float[Tensor, " channels"]:
        """`a` of Eq. 1, `(C',)`, above `DECAY_FLOOR`, in float32 or wider."""
        return F.softplus(_at_least_float32(self.raw_decay)) + DECAY_FLOOR

    def inhibition(
        self, features: Float[Tensor, "batch in_channels in_height in_width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """`I` of Eq. 1.

        Args:
            features: `(B, C, H, W)`, what the backbone's unit receives.

        Returns:
            `(B, C', H', W')`, at least 0, in the dtype of `raw_decay`.

        Example:
            >>> layer = InhibitoryLayer(nn.Sequential(nn.Conv2d(8, 4, 3)), num_channels=4)
            >>> layer.inhibition(torch.rand(2, 8, 6, 6)).min() >= 0
            tensor(True)
        """
        response = features.to(self.raw_decay.dtype)
        for name in self.steps:
            response = getattr(self, name)(response)
        return F.relu(response)

    def gate(
        self, features: Float[Tensor, "batch in_channels in_height in_width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """How much of u passes: `1 / (a + I)`; `1 / a` in the other forms.

        Args:
            features: `(B, C, H, W)`, what the backbone's unit receives.

        Returns:
            `(B, C', H', W')`, above 0, in float32 or wider.

        Example:
            >>> layer = InhibitoryLayer(nn.Sequential(nn.Conv2d(8, 4, 3)), num_channels=4, decay_init=2.0)
            >>> layer.gate(torch.rand(2, 8, 6, 6)).max() <= 1 / 2 + 1e-6  # reached where the inhibition is silent
            tensor(True)
        """
        decay, inhibition = self.decay.view(-1, 1, 1), _at_least_float32(self.inhibition(features))
        return 1 / (decay + inhibition) if self.form == "divisive" else (1 / decay).expand_as(inhibition)

    def forward(
        self,
        features: Float[Tensor, "batch in_channels in_height in_width"],
        excitation: Float[Tensor, "batch channels height width"],
    ) -> Float[Tensor, "batch channels height width"]:
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
