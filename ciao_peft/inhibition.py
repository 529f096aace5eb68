"""Eq. 1: the inhibitory unit, and the forms around it."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._shapes import Float
from .config import InhibitionForm
from .errors import InputError

__all__ = ["DECAY_FLOOR", "DECAY_START", "InhibitoryLayer", "LowRankConvolution", "within"]

DECAY_FLOOR = 1e-6
"""No step of any optimiser carries `a` below this, so that M stays finite where I is silent."""

DECAY_START = 3.0
"""Where `a` starts until the spread of u has been measured (`ciao_peft.calibration.decay_start`)."""


Sides = tuple[tuple[int, int], tuple[int, int]]
"""`(H', W')` of a unit's answer and `(H, W)` of its input."""

STARTED_FORMS: tuple[InhibitionForm, ...] = ("rescaled", "gain")
"""Forms that hold the value at which `a` started, as a buffer."""


def _at_least_float32(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def within(mask: Float[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """A mask in the dtype of u, kept to what half precision can hold.

    Example:
        >>> within(torch.tensor([1.5, -1e9]), torch.float16).tolist()
        [1.5, -65504.0]
    """
    if dtype in (torch.float16, torch.bfloat16):
        largest = torch.finfo(dtype).max
        mask = mask.clamp(-largest, largest)
    return mask.to(dtype)


def _needed(excitation: Tensor | None) -> Tensor:
    if excitation is None:
        raise InputError("This form of the mask needs u as well: give `excitation`.")
    return excitation


class LowRankConvolution(nn.Module):
    """A convolution of low rank, as LoRA has it for convolutions: zero at the start.

    It goes through `rank` channels by a convolution of the geometry of another one, and from there to the channels of
    that one by a 1x1 convolution that starts at zero.

    Args:
        conv: The convolution whose geometry it takes; its values are not used.
        rank: Channels in between, 1 or more.
        seed: Of the values of the first convolution; the global random state is not touched.
        num_channels: Channels C' of its answer; those of `conv` when left out.
        sides: `(H', W')` of the answer and `(H, W)` of the input, where the unit around `conv` may have sides of its
            own, such as one that pads by itself: the padding is then what gives that answer, as even as can be.

    Shapes:
        - input: `(B, C, H, W)`, floating point; what `conv` receives.
        - output: `(B, C', H', W')`, the shape of what `conv` returns, or as `num_channels` and `sides` say, in the
          dtype of its own values (float32).

    Example:
        >>> low_rank = LowRankConvolution(nn.Conv2d(8, 16, kernel_size=3), rank=2)
        >>> sum(parameter.numel() for parameter in low_rank.parameters())  # 8 * 3 * 3 * 2 + 2 * 16
        176
        >>> low_rank(torch.rand(4, 8, 6, 6)).abs().max()
        tensor(0., grad_fn=<MaxBackward1>)
    """

    down: nn.Conv2d
    up: nn.Conv2d
    _pads: Sequence[int] = ()

    def __init__(
        self,
        conv: nn.Conv2d,
        rank: int,
        seed: int = 0,
        *,
        num_channels: int | None = None,
        sides: Sides | None = None,
    ) -> None:
        super().__init__()
        geometry: dict[str, Any] = {
            name: getattr(conv, name) for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        }
        self._pads = () if sides is None else _pads_for(conv, sides)
        if self._pads:
            geometry |= {"padding": 0, "padding_mode": "zeros"}
        on_meta: dict[str, Any] = {"bias": False, "device": "meta", "dtype": torch.float32}
        self.down = nn.Conv2d(conv.in_channels, rank, **geometry, **on_meta)
        self.up = nn.Conv2d(rank, num_channels or conv.out_channels, kernel_size=1, **on_meta)
        if not conv.weight.is_meta:
            self.to_empty(device="cpu")
            self._start(torch.Generator().manual_seed(seed % 2**63))

    @torch.no_grad()
    def _start(self, generator: torch.Generator) -> None:
        bound = 1 / math.sqrt(self.down.weight[0].numel())
        self.down.weight.uniform_(-bound, bound, generator=generator)
        self.up.weight.zero_()

    def forward(
        self, features: Float[Tensor, "batch in_channels in_height in_width"]
    ) -> Float[Tensor, "batch channels height width"]:
        features = features.to(self.down.weight.dtype)
        return self.up(self.down(F.pad(features, self._pads) if self._pads else features))


def _pads_for(conv: nn.Conv2d, sides: Sides) -> Sequence[int]:
    """What `F.pad` adds for an answer of those sides; nothing where the convolution's own padding gives it."""
    own: list[int] = []
    needed: list[int] = []
    for axis, (answer, given) in enumerate(zip(*sides, strict=True)):
        reach, stride = conv.dilation[axis] * (conv.kernel_size[axis] - 1), conv.stride[axis]
        padding = {"same": reach, "valid": 0}[conv.padding] if isinstance(conv.padding, str) else 2 * conv.padding[axis]
        own.append((given + padding - reach - 1) // stride + 1)
        total = (answer - 1) * stride + reach + 1 - given
        needed = [total // 2, total - total // 2, *needed]  # `F.pad` begins with the last axis
    return () if tuple(own) == tuple(sides[0]) else needed


class InhibitoryLayer(nn.Module):
    r"""Shunting inhibition of a frozen convolution unit (Eq. 1).

    $$M = \frac{u + E}{a + I}$$

    - `u`, the excitation, is the output of the backbone's last convolution unit;
    - `I`, the inhibition, is the output of a trainable copy of that unit for the same features, passed through a ReLU
      so that `I >= 0` whatever activation the backbone has;
    - `a`, the decay, is a learned positive number per channel;
    - `E` is what a caller adds to u (`LowRankConvolution` of the features), nothing in Eq. 1.

    With `rank`, I is no copy: `I = relu(u + J)`, where J is a `LowRankConvolution` of the features. At the start it is
    then what a copy answers for a unit that ends with a ReLU.

    Where the copy responds strongly, the mask goes towards zero; where it is silent, `M = u / a`. The division runs in
    float32, whatever the dtype of the inputs (in float64 for float64).

    Args:
        conv_unit: The unit to copy. Its children, in order, are the convolution and the normalisation and activation
            that directly follow it. The layer keeps the copy only, and trains it in float32.
        num_channels: Channels `C'` of the unit's output.
        decay_init: Starting value of every entry of `a`, above 1e-6, in the units of the activation.
        form: `"divisive"`, which is Eq. 1; `"rescaled"`: `M = max(1, a0) (u + E) / (a + I)`, where a0 is the value at
            which `a` started, so that a loud u does not become a faint M; `"gain"`: `M = (u + E) (a0 + relu(u)) / (a +
            I)`, so that at the start M is u; or, for comparison, `"additive"`: `M = (u + E + I) / a`, or
            `"subtractive"`: `M = (u + E - I) / a`.
        rank: Of the change that I is learned by; None for a full copy of the unit.
        seed: Of the random values of that change.
        learn_decay: Whether `a` is learned.
        takes_unit: Whether `conv_unit` is made for this layer alone, which then keeps its modules and copies none.
        sides: `(H', W')` of u and `(H, W)` of the features, for a change of `rank` that has to fit a unit which pads by
            itself.
        generator: Draws new weights for the copy, distributed as those of a fresh convolution. When left out, the
            copy starts with the unit's weights.

    Attributes:
        form: As given.
        steps: Names of the copied modules, in the order in which they run; empty with `rank`.
        low_rank: J, or None.
        raw_decay: The parameter behind `a`, `(C',)`: `a = softplus(raw_decay) + DECAY_FLOOR`.
        start_decay: a0 of `form="gain"`, max(1, a0) of `form="rescaled"`, `()`; None in the other forms.

    Shapes:
        - features: `(B, C, H, W)`, floating point; what the backbone's unit receives.
        - excitation: `(B, C', H', W')`, floating point; u, what the backbone's unit returns for them.
        - added: `(B, C', H', W')`, E; or None.
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
    low_rank: LowRankConvolution | None
    raw_decay: nn.Parameter
    start_decay: Tensor | None

    def __init__(
        self,
        conv_unit: nn.Sequential,
        num_channels: int,
        decay_init: float = DECAY_START,
        *,
        form: InhibitionForm = "divisive",
        rank: int | None = None,
        seed: int = 0,
        learn_decay: bool = True,
        generator: torch.Generator | None = None,
        takes_unit: bool = False,
        sides: Sides | None = None,
    ):
        super().__init__()
        self.form = form
        conv = cast(nn.Conv2d, conv_unit[0])
        shape: dict[str, Any] = {"num_channels": num_channels, "sides": sides}
        self.low_rank = None if rank is None else LowRankConvolution(conv, rank, seed, **shape)
        self.steps = () if rank is not None else tuple(name for name, _ in conv_unit.named_children())
        for name in self.steps:
            module = conv_unit.get_submodule(name)
            self.add_module(name, (module if takes_unit else copy.deepcopy(module)).float())
        start = torch.empty((), dtype=torch.float32, device="cpu") if form in STARTED_FORMS else None
        self.register_buffer("start_decay", start)
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
        if self.start_decay is not None:
            self.start_decay.fill_(max(1.0, decay) if self.form == "rescaled" else decay)

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
        self,
        features: Float[Tensor, "batch in_channels in_height in_width"],
        excitation: Float[Tensor, "batch channels height width"] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """`I` of Eq. 1.

        Args:
            features: `(B, C, H, W)`, what the backbone's unit receives.
            excitation: `(B, C', H', W')`, u; needed with `rank` alone.

        Returns:
            `(B, C', H', W')`, at least 0, in the dtype of `raw_decay`.

        Example:
            >>> unit = nn.Sequential(nn.Conv2d(8, 4, 3), nn.ReLU())
            >>> features = torch.rand(2, 8, 6, 6)
            >>> u = unit(features)
            >>> [torch.equal(InhibitoryLayer(unit, 4, rank=r).inhibition(features, u), u) for r in (None, 2)]
            [True, True]
        """
        response = features.to(self.raw_decay.dtype)
        if self.low_rank is not None:
            return F.relu(_needed(excitation).to(self.raw_decay.dtype) + self.low_rank(response))
        for name in self.steps:
            response = getattr(self, name)(response)
        return F.relu(response)

    def gate(
        self,
        features: Float[Tensor, "batch in_channels in_height in_width"],
        excitation: Float[Tensor, "batch channels height width"] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """How much of u + E passes: `1 / (a + I)` for Eq. 1; what the other forms multiply u + E with, or `1 / a`.

        It says nothing of E itself, which may be of any sign and size.

        Args:
            features: `(B, C, H, W)`, what the backbone's unit receives.
            excitation: `(B, C', H', W')`, u; needed with `rank` and `form="gain"` alone.

        Returns:
            `(B, C', H', W')`, above 0, in float32 or wider.

        Example:
            >>> unit = nn.Sequential(nn.Conv2d(8, 4, 3))
            >>> layer, features = InhibitoryLayer(unit, num_channels=4, decay_init=2.0), torch.rand(2, 8, 6, 6)
            >>> layer.gate(features, unit(features)).max() <= 1 / 2 + 1e-6  # reached where the inhibition is silent
            tensor(True)
        """
        decay, inhibition = self.decay.view(-1, 1, 1), _at_least_float32(self.inhibition(features, excitation))
        if self.form in ("additive", "subtractive"):
            return (1 / decay).expand_as(inhibition)
        passing = self._passing(excitation)
        return (1.0 if passing is None else passing) / (decay + inhibition)

    def _passing(self, excitation: Tensor | None) -> Tensor | None:
        """The numerator of what u is multiplied with: None for 1, as in Eq. 1."""
        if self.form == "gain":
            return cast(Tensor, self.start_decay) + F.relu(_at_least_float32(_needed(excitation)))
        return self.start_decay

    def forward(
        self,
        features: Float[Tensor, "batch in_channels in_height in_width"],
        excitation: Float[Tensor, "batch channels height width"],
        added: Float[Tensor, "batch channels height width"] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        decay, u = self.decay.view(-1, 1, 1), _at_least_float32(excitation)
        inhibition = _at_least_float32(self.inhibition(features, excitation))
        mask = u if added is None else u + _at_least_float32(added)
        if self.form == "additive":
            mask = (mask + inhibition) / decay
        elif self.form == "subtractive":
            mask = (mask - inhibition) / decay
        else:
            passing = self._passing(u)
            mask = mask / (decay + inhibition) if passing is None else mask * (passing / (decay + inhibition))
        return within(mask, excitation.dtype)
